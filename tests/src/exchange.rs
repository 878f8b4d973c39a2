//! Do bytes come out as they went in, both ways at once over one connection?
//!
//! Each end sends as many bytes as were agreed and hashes them, and hashes what comes (SHA-256). At the end the service says what
//! it sent and what it got, and the one who asked compares. Both note the longest time in which nothing came.
//!
//! ```text
//!   asks: count (8 bytes, big endian)     both: count bytes     service: sent (32), got (32), longest gap in us (8)
//! ```

use anyhow::Context as _;
use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// What is written and read at once.
const PIECE: usize = 1 << 18;
/// So many bytes carry one number: where they belong.
const STAMPED: usize = 1 << 10;
/// What each end sends is its own.
const ASKS: u64 = 1;
const SERVES: u64 = 2;

/// A SHA-256 value in hexadecimal digits.
type Hash = String;

/// What one exchange came to, as the one who asked saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Each way.
    pub bytes: u64,
    /// Of what was sent: here and as the service got it.
    pub up: [Hash; 2],
    /// Of what came: as the service sent it, and here.
    pub down: [Hash; 2],
    /// The longest time in which nothing came: here, at the service.
    pub gap_ms: [u64; 2],
    /// From the first byte to the last.
    pub took_ms: u64,
}

impl Outcome {
    /// Did everything come as it went?
    pub fn is_same(&self) -> bool {
        let [up_here, up_there] = &self.up;
        let [down_there, down_here] = &self.down;
        up_here == up_there && down_here == down_there && up_here != down_here
    }

    /// The longest time in which nothing came, at either end.
    pub fn gap(&self) -> Duration {
        Duration::from_millis(self.gap_ms.iter().copied().max().unwrap_or(0))
    }
}

/// One end's side of it.
struct Side {
    sent: [u8; SHA256_OUTPUT_LEN],
    got: [u8; SHA256_OUTPUT_LEN],
    gap: Duration,
}

/// Bytes that look random and say where they belong.
struct Source {
    piece: Vec<u8>,
    at: u64,
}

impl Source {
    fn new(mut seed: u64) -> Self {
        let mut piece = Vec::with_capacity(PIECE);
        while piece.len() < PIECE {
            // SplitMix64.
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            piece.extend_from_slice(&((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)).to_le_bytes());
        }
        Self { piece, at: 0 }
    }

    /// The next ones.
    fn next(&mut self) -> &[u8] {
        for (chunk, at) in self.piece.chunks_exact_mut(STAMPED).zip((self.at..).step_by(STAMPED)) {
            if let Some(stamp) = chunk.first_chunk_mut() {
                *stamp = at.to_be_bytes();
            }
        }
        self.at += PIECE as u64;
        &self.piece
    }
}

/// Serves until the listener fails; each visitor on a thread of its own.
pub fn serve(listener: &TcpListener, patience: Duration) -> io::Result<()> {
    loop {
        let (visitor, _) = listener.accept()?;
        // A visitor who leaves is no failure of the service.
        thread::spawn(move || answer(visitor, patience));
    }
}

fn answer(mut visitor: TcpStream, patience: Duration) -> io::Result<()> {
    prepare(&visitor, patience)?;
    let mut count = [0; 8];
    visitor.read_exact(&mut count)?;
    let side = exchange(&visitor, u64::from_be_bytes(count), SERVES)?;
    let gap = u64::try_from(side.gap.as_micros()).unwrap_or(u64::MAX);
    visitor.write_all(&[&side.sent[..], &side.got, &gap.to_be_bytes()].concat())?;
    visitor.shutdown(Shutdown::Write)
}

/// Exchanges so many bytes each way with a service.
pub fn ask(to: SocketAddr, bytes: u64, patience: Duration) -> anyhow::Result<Outcome> {
    let mut stream = TcpStream::connect_timeout(&to, patience).with_context(|| format!("connect to {to}"))?;
    prepare(&stream, patience)?;
    stream.write_all(&bytes.to_be_bytes())?;
    let started = Instant::now();
    let side = exchange(&stream, bytes, ASKS).context("in the middle of it")?;
    let took = started.elapsed();
    let mut report = [0; 2 * SHA256_OUTPUT_LEN + 8];
    stream.read_exact(&mut report).context("the service's report")?;
    let (hashes, gap) = report.split_at(2 * SHA256_OUTPUT_LEN);
    let (sent, got) = hashes.split_at(SHA256_OUTPUT_LEN);
    let there = gap.try_into().map_or(u64::MAX, u64::from_be_bytes);
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Ok(Outcome {
        bytes,
        up: [hex(&side.sent), hex(got)],
        down: [hex(sent), hex(&side.got)],
        gap_ms: [ms(side.gap), there / 1_000],
        took_ms: ms(took),
    })
}

fn hex(bytes: &[u8]) -> Hash {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn prepare(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.set_nodelay(true)
}

fn exchange(stream: &TcpStream, bytes: u64, which: u64) -> io::Result<Side> {
    thread::scope(|scope| {
        let sending = scope.spawn(move || send(stream, bytes, which));
        let (got, gap) = receive(stream, bytes)?;
        let sent = sending.join().map_err(|_| io::Error::other("the sender panicked"))??;
        Ok(Side { sent, got, gap })
    })
}

fn send(mut stream: &TcpStream, bytes: u64, which: u64) -> io::Result<[u8; SHA256_OUTPUT_LEN]> {
    let (mut source, mut hash, mut left) = (Source::new(which), Context::new(&SHA256), bytes);
    while left > 0 {
        let piece = source.next();
        let piece = piece.get(..usize::try_from(left).unwrap_or(PIECE).min(PIECE)).unwrap_or_default();
        hash.update(piece);
        stream.write_all(piece)?;
        left -= piece.len() as u64;
    }
    Ok(finish(hash))
}

fn receive(stream: &TcpStream, bytes: u64) -> io::Result<([u8; SHA256_OUTPUT_LEN], Duration)> {
    let (mut piece, mut hash, mut left) = (vec![0; PIECE], Context::new(&SHA256), bytes);
    let (mut last, mut gap) = (Instant::now(), Duration::ZERO);
    let mut stream = stream;
    while left > 0 {
        let room = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let count = stream.read(piece.get_mut(..room).unwrap_or_default())?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{left} of {bytes} bytes never came")));
        }
        gap = gap.max(last.elapsed());
        last = Instant::now();
        hash.update(piece.get(..count).unwrap_or_default());
        left -= count as u64;
    }
    Ok((finish(hash), gap))
}

fn finish(hash: Context) -> [u8; SHA256_OUTPUT_LEN] {
    hash.finish().as_ref().try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn both_ends_agree_on_what_went_both_ways() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let to = listener.local_addr().unwrap();
        thread::spawn(move || serve(&listener, PATIENCE));
        for bytes in [0, 100, PIECE as u64 * 3 + 17] {
            let outcome = ask(to, bytes, PATIENCE).unwrap();
            assert_eq!(outcome.bytes, bytes);
            // Nothing at all is the same both ways.
            assert_eq!(outcome.is_same(), bytes > 0, "{outcome:?}");
            assert_eq!((&outcome.up[0], &outcome.down[0]), (&outcome.up[1], &outcome.down[1]));
        }
    }

    #[test]
    fn no_two_pieces_are_alike_and_a_changed_byte_is_seen() {
        let (mut source, mut other) = (Source::new(ASKS), Source::new(SERVES));
        let first = source.next().to_vec();
        assert_ne!(first, source.next());
        assert_ne!(first, other.next());
        let hash = |bytes: &[u8]| {
            let mut hash = Context::new(&SHA256);
            hash.update(bytes);
            finish(hash)
        };
        let mut changed = first.clone();
        changed[PIECE - 1] ^= 1;
        assert_ne!(hash(&first), hash(&changed));
    }
}
