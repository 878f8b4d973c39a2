//! How is this socket called? Programs on gRPC's C library (those in Python and C++) write its path into `:authority`, each
//! `/` as `%2F`. Nobody reads that name here, but the HTTP library ends a stream over its `%` (RFC 3986, section 3.2.2 lets a
//! name have it). So each becomes a `_` on its way in.
//!
//! A letter takes the place of a letter, so that no length changes: frames (RFC 9113, section 4) and fields (RFC 7541,
//! section 6) are walked as their bytes come, and nothing is kept of them. That library writes plain letters; what is
//! Huffman-coded, padded or cut into several frames passes as it is.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const HEAD: u8 = 9;
const HEADERS: u8 = 1;
/// END_HEADERS, PADDED and PRIORITY.
const SHAPE: u8 = 0x04 | 0x08 | 0x20;
const WHOLE_AND_PLAIN: u8 = 0x04;
const NAME: &[u8] = b":authority";

/// Where in a block of fields?
#[derive(Debug, Clone, Copy)]
enum Field {
    /// At the first byte of one.
    First,
    /// In a number that goes on; a value follows it, or the next field.
    Index { value: bool },
    /// At the first byte of a text's length.
    Length { value: bool, ours: bool },
    /// In a length that goes on.
    More { value: bool, ours: bool, huffman: bool, sum: usize, shift: u32 },
    /// In a text.
    Text { value: bool, ours: bool, huffman: bool, left: usize, at: usize },
}

/// Where in the stream?
#[derive(Debug, Clone, Copy)]
enum Place {
    /// In what no field is in: so many bytes.
    Passing(usize),
    /// In the head of a frame.
    Head { at: u8, length: usize, kind: u8, flags: u8 },
    /// In a block of fields, with so many bytes to come.
    Block(usize, Field),
}

const HEAD_BEGINS: Place = Place::Head { at: 0, length: 0, kind: 0, flags: 0 };

fn begin_text(value: bool, ours: bool, huffman: bool, left: usize) -> Field {
    match (left, value) {
        (0, true) => Field::First,
        (0, false) => Field::Length { value: true, ours: false },
        _ => Field::Text { value, ours, huffman, left, at: 0 },
    }
}

impl Field {
    /// Takes a byte; answers what comes next, and whether this one is of the name.
    fn step(self, byte: u8) -> (Self, bool) {
        let goes_on = byte & 0x80 != 0;
        let next = match self {
            Self::First => {
                let (mask, literal) = match byte {
                    0x80.. => (0x7f, false),
                    0x40.. => (0x3f, true),
                    0x20.. => (0x1f, false),
                    _ => (0x0f, true),
                };
                match (literal, byte & mask) {
                    (_, number) if number == mask => Self::Index { value: literal },
                    (false, _) => Self::First,
                    (true, 0) => Self::Length { value: false, ours: true },
                    // The first entry of the static table is `:authority`.
                    (true, number) => Self::Length { value: true, ours: number == 1 },
                }
            }
            Self::Index { value } => match (goes_on, value) {
                (true, _) => self,
                (false, true) => Self::Length { value: true, ours: false },
                (false, false) => Self::First,
            },
            Self::Length { value, ours } => match byte & 0x7f {
                0x7f => Self::More { value, ours, huffman: goes_on, sum: 0x7f, shift: 0 },
                length => begin_text(value, ours, goes_on, usize::from(length)),
            },
            Self::More { value, ours, huffman, sum, shift } => {
                let part = usize::from(byte & 0x7f).checked_shl(shift).unwrap_or(usize::MAX);
                let (sum, shift) = (sum.saturating_add(part), shift.saturating_add(7));
                if goes_on {
                    Self::More { value, ours, huffman, sum, shift }
                } else {
                    begin_text(value, ours, huffman, sum)
                }
            }
            Self::Text { value: true, ours, huffman, left, at } => {
                let next = match left {
                    0 | 1 => Self::First,
                    _ => Self::Text { value: true, ours, huffman, left: left.saturating_sub(1), at },
                };
                return (next, ours && !huffman);
            }
            Self::Text { value: false, ours, huffman, left, at } => {
                let ours = ours && !huffman && NAME.get(at) == Some(&byte);
                let at = at.saturating_add(1);
                match left {
                    0 | 1 => Self::Length { value: true, ours: ours && at == NAME.len() },
                    _ => Self::Text { value: false, ours, huffman, left: left.saturating_sub(1), at },
                }
            }
        };
        (next, false)
    }
}

impl Place {
    /// Takes a byte, and changes it where it is to be changed.
    fn step(self, byte: &mut u8) -> Self {
        match self {
            Self::Passing(left) => match left.saturating_sub(1) {
                0 => HEAD_BEGINS,
                left => Self::Passing(left),
            },
            Self::Head { at, length, kind, flags } => {
                let (length, kind, flags) = match at {
                    0..=2 => ((length << 8) | usize::from(*byte), kind, flags),
                    3 => (length, *byte, flags),
                    4 => (length, kind, *byte),
                    _ => (length, kind, flags),
                };
                match at.saturating_add(1) {
                    at if at < HEAD => Self::Head { at, length, kind, flags },
                    _ if length == 0 => HEAD_BEGINS,
                    _ if kind == HEADERS && flags & SHAPE == WHOLE_AND_PLAIN => Self::Block(length, Field::First),
                    _ => Self::Passing(length),
                }
            }
            Self::Block(left, field) => {
                let (field, ours) = field.step(*byte);
                if ours && *byte == b'%' {
                    *byte = b'_';
                }
                match left.saturating_sub(1) {
                    0 => HEAD_BEGINS,
                    left => Self::Block(left, field),
                }
            }
        }
    }
}

/// A connection whose other end may call this socket by its path.
pub struct Called<S> {
    stream: S,
    place: Place,
}

impl<S> Called<S> {
    /// Of a connection that has just begun.
    pub const fn new(stream: S) -> Self {
        Self { stream, place: Place::Passing(PREFACE) }
    }
}

impl<S: Connected> Connected for Called<S> {
    type ConnectInfo = S::ConnectInfo;
    fn connect_info(&self) -> S::ConnectInfo {
        self.stream.connect_info()
    }
}
impl<S: AsyncRead + Unpin> AsyncRead for Called<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let done = Pin::new(&mut this.stream).poll_read(cx, buf);
        for byte in buf.filled_mut().iter_mut().skip(before) {
            this.place = this.place.step(byte);
        }
        done
    }
}
impl<S: AsyncWrite + Unpin> AsyncWrite for Called<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    fn text(text: &[u8]) -> Vec<u8> {
        let length = u8::try_from(text.len()).unwrap();
        if length < 127 {
            return [&[length], text].concat();
        }
        [&[127, length - 127], text].concat()
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// A stream with this authority, as gRPC's C library writes one.
    fn stream(authority: &[u8], path: &[u8], huffman_name: u8) -> Vec<u8> {
        let mut by_name = [&[0x40][..], &text(b":path"), &text(path), &[0x40], &text(NAME), &text(authority)].concat();
        by_name.extend(
            [&[0x83, 0x86, 0x3f, 0xe1, 0x1f, 0xff, 0x0a][..], &[0x40], &text(b":authorit%"), &text(b"%2F")].concat(),
        );
        let by_number =
            [&[0x41][..], &text(authority), &[0x0f, 0x20], &text(b"%2F"), &[0x7f, 0x00], &text(b"%2F")].concat();
        let never = [&[0x11][..], &text(authority), &[0x00, huffman_name | 10], NAME, &text(b"%2F")].concat();
        [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, b""),
            frame(HEADERS, 4, &by_name),
            frame(0, 1, &[&[0x41][..], &text(b"data%2F")].concat()),
            frame(HEADERS, 5, &by_number),
            frame(HEADERS, 4 | 8, &[&[0, 0x41][..], &text(b"pad%2F")].concat()),
            frame(HEADERS, 0, &[&[0x41][..], &text(b"cut%2F")].concat()),
            frame(HEADERS, 4, &never),
        ]
        .concat()
    }

    async fn read(sent: &[u8], chunk: usize) -> Vec<u8> {
        let mut called = Called::new(sent);
        let (mut got, mut some) = (Vec::new(), vec![0; chunk]);
        loop {
            let length = called.read(&mut some).await.unwrap();
            if length == 0 {
                return got;
            }
            got.extend_from_slice(&some[..length]);
        }
    }

    #[tokio::test]
    async fn a_path_in_the_authority_becomes_a_name_and_nothing_else_is_changed() {
        let long = "a%2F".repeat(50);
        for (path, name) in [
            (&b"run%2Fumbra%2Fw.sock"[..], &b"run_2Fumbra_2Fw.sock"[..]),
            (long.as_bytes(), long.replace('%', "_").as_bytes()),
        ] {
            // In a name that is Huffman-coded the letters mean others.
            let sent = stream(path, b"/a%2Fb", 0x80);
            for chunk in [1, 2, 3, 7, 1_000] {
                assert_eq!(read(&sent, chunk).await, stream(name, b"/a%2Fb", 0x80), "{chunk} at once");
            }
        }
    }

    #[tokio::test]
    async fn whatever_else_comes_is_as_long_as_it_was() {
        let mut random = 7_u32;
        for _ in 0..2_000 {
            let mut sent = stream(b"run%2Fw", b"/%", 0);
            for _ in 0..4 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = usize::try_from(random >> 8).unwrap() % sent.len();
                sent[at] = random.to_le_bytes()[3];
            }
            let got = read(&sent, 64).await;
            assert_eq!(got.len(), sent.len());
            assert!(got.iter().zip(&sent).all(|(got, sent)| got == sent || (*sent, *got) == (b'%', b'_')));
        }
    }
}
