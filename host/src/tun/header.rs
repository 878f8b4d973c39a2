//! What does the kernel say of a packet beside it? `struct virtio_net_hdr`: an unfinished checksum, segments to be made.
//!
//! Source: linux/virtio_net.h; a TUN device writes its numbers in the machine's own byte order. Nothing here is held
//! against the packet: who uses the offsets does that.

use model::packet::{Gso, GsoKind};
use std::io;

/// Bytes of the header.
pub const HEADER_BYTES: usize = 10;

/// The checksum is the pseudo-header's until it is completed.
const NEEDS_CSUM: u8 = 1;
const KIND_NONE: u8 = 0;
const KIND_TCP_V4: u8 = 1;
const KIND_TCP_V6: u8 = 4;
const KIND_UDP: u8 = 5;
/// Set beside the kind where the first segment has CWR; it says nothing that the packet does not.
const KIND_ECN: u8 = 0x80;

/// The header as a frame's note. InvalidData: segments of a kind that was not asked for.
pub fn decode(header: [u8; HEADER_BYTES]) -> io::Result<Gso> {
    let [flags, kind, len_a, len_b, size_a, size_b, start_a, start_b, offset_a, offset_b] = header;
    let word = |a, b| u16::from_ne_bytes([a, b]);
    let kind = match kind & !KIND_ECN {
        KIND_NONE => GsoKind::None,
        KIND_TCP_V4 => GsoKind::TcpV4,
        KIND_TCP_V6 => GsoKind::TcpV6,
        KIND_UDP => GsoKind::Udp,
        other => {
            let what = format!("the TUN device gave segments of the unknown kind {other}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
    };
    let checksum = (flags & NEEDS_CSUM != 0).then(|| (word(start_a, start_b), word(offset_a, offset_b)));
    Ok(Gso { kind, header_len: word(len_a, len_b), size: word(size_a, size_b), checksum })
}

/// A frame's note as the header.
pub fn encode(gso: &Gso) -> [u8; HEADER_BYTES] {
    let kind = match gso.kind {
        GsoKind::None => KIND_NONE,
        GsoKind::TcpV4 => KIND_TCP_V4,
        GsoKind::TcpV6 => KIND_TCP_V6,
        GsoKind::Udp => KIND_UDP,
    };
    let flags = if gso.checksum.is_some() { NEEDS_CSUM } else { 0 };
    let (start, offset) = gso.checksum.unwrap_or_default();
    let [len_a, len_b] = gso.header_len.to_ne_bytes();
    let [size_a, size_b] = gso.size.to_ne_bytes();
    let [start_a, start_b] = start.to_ne_bytes();
    let [offset_a, offset_b] = offset.to_ne_bytes();
    [flags, kind, len_a, len_b, size_a, size_b, start_a, start_b, offset_a, offset_b]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_reads_as_it_was_written() {
        for kind in [GsoKind::None, GsoKind::TcpV4, GsoKind::TcpV6, GsoKind::Udp] {
            for checksum in [None, Some((20, 16)), Some((0, 0)), Some((u16::MAX, u16::MAX))] {
                let gso = Gso { kind, header_len: 0x1234, size: 0xfedc, checksum };
                assert_eq!(decode(encode(&gso)).expect("known"), gso);
            }
        }
        assert_eq!(encode(&Gso::NONE), [0; HEADER_BYTES]);
    }

    #[test]
    fn every_kind_and_flag_is_known_or_refused() {
        for kind in 0..=u8::MAX {
            for flags in 0..=u8::MAX {
                let decoded = decode([flags, kind, 1, 0, 2, 0, 3, 0, 4, 0]);
                match kind & 0x7f {
                    0 | 1 | 4 | 5 => {
                        let gso = decoded.expect("known");
                        assert_eq!(gso.checksum.is_some(), flags & 1 == 1);
                    }
                    _ => assert_eq!(decoded.expect_err("unknown").kind(), io::ErrorKind::InvalidData),
                }
            }
        }
    }
}
