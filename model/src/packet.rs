//! What moves through the packet path? `Frame`: one read or write of a TUN device. `Train`: one UDP send or receive.

use crate::limits::{SEGMENTED_BYTES_MAX, SEGMENTS_MAX, SPARE_BUFFERS_MAX};
use std::net::SocketAddr;

/// Which segmentation a frame asks for (virtio_net_hdr's gso_type).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GsoKind {
    /// One packet, checksums complete.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP segments of equal size.
    Udp,
}

/// Generic segmentation offload of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gso {
    /// The kind of segments.
    pub kind: GsoKind,
    /// Bytes of headers in front of the payload. From a device it is a hint, and for a forwarded packet often more than
    /// that: the headers themselves tell.
    pub header_len: u16,
    /// Payload bytes of each segment but the last.
    pub size: u16,
    /// Where the checksum is still to be completed: (start, offset), in bytes.
    pub checksum: Option<(u16, u16)>,
}

impl Gso {
    /// A plain packet.
    pub const NONE: Self = Self { kind: GsoKind::None, header_len: 0, size: 0, checksum: None };
}

/// What a TUN device carries besides plain packets with complete checksums. A frame that needs more is refused by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    /// Packets whose checksum is still to be completed (`Gso::checksum`), in both directions.
    pub vnet: bool,
    /// Super-packets of TCP, over IPv4 and IPv6, in both directions.
    pub tso: bool,
    /// Super-packets of UDP, over IPv4 and IPv6, in both directions.
    pub uso: bool,
}

/// How a UDP socket carries trains. Without either, a train still crosses: one datagram at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UdpOffloads {
    /// A train leaves as one message (UDP_SEGMENT).
    pub gso: bool,
    /// Neighbouring datagrams of one sender arrive as one train (UDP_GRO). A stranger chooses how many and how long: on
    /// one machine 128 of a single byte were seen, and nothing promises that there are no more.
    pub gro: bool,
}

/// One read from or write to a TUN device: an IP packet, or a super-packet that `gso` describes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// How to segment it.
    pub gso: Gso,
    /// The packet, from the first byte of its IP header.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// A plain packet.
    pub const fn packet(bytes: Vec<u8>) -> Self {
        Self { gso: Gso::NONE, bytes }
    }
}

/// The local side of a datagram: the address it came to and the interface index, so that an answer leaves the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Local {
    /// The local IP address.
    pub address: Option<std::net::IpAddr>,
    /// The interface index; 0 lets the kernel choose.
    pub interface: u32,
}

/// One UDP send or receive: datagrams of equal size (the last may be shorter) to or from one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Train {
    /// The remote end.
    pub addr: SocketAddr,
    /// The local end.
    pub local: Local,
    /// The two ECN bits.
    pub ecn: u8,
    /// Bytes of each datagram but the last; 0 means that `bytes` is one datagram.
    pub stride: usize,
    /// The datagrams, back to back.
    pub bytes: Vec<u8>,
}

impl Train {
    /// One datagram.
    pub const fn datagram(addr: SocketAddr, local: Local, bytes: Vec<u8>) -> Self {
        Self { addr, local, ecn: 0, stride: 0, bytes }
    }

    /// Is there room for one more datagram of this many bytes? All are as long as the first; a shorter one is the last.
    pub const fn takes(&self, len: usize) -> bool {
        let (stride, used) = (self.stride, self.bytes.len());
        stride > 0
            && len <= stride
            && used % stride == 0
            && used / stride < SEGMENTS_MAX
            && used + len <= SEGMENTED_BYTES_MAX
    }

    /// The datagrams one by one.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        let stride = if self.stride == 0 { self.bytes.len().max(1) } else { self.stride };
        self.bytes.chunks(stride)
    }
}

/// Buffers that are empty and keep their memory, for what is filled and emptied with every packet.
#[derive(Debug, Default)]
pub struct Spare(Vec<Vec<u8>>);

impl Spare {
    /// An empty buffer, with the room that it had before if there is one.
    pub fn buffer(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }
    /// Takes a buffer back; of too many, it is given up.
    pub fn give(&mut self, mut bytes: Vec<u8>) {
        if self.0.len() < SPARE_BUFFERS_MAX {
            bytes.clear();
            self.0.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_buffers_are_kept_with_their_room() {
        let mut spare = Spare::default();
        (0..=SPARE_BUFFERS_MAX).for_each(|n| spare.give(vec![1; n + 1]));
        let kept: Vec<_> = (0..=SPARE_BUFFERS_MAX).map(|_| spare.buffer()).collect();
        assert!(kept.iter().all(Vec::is_empty));
        assert_eq!(kept.iter().filter(|buffer| buffer.capacity() > 0).count(), SPARE_BUFFERS_MAX);
    }

    #[test]
    fn a_train_takes_equal_datagrams_and_one_shorter_at_its_end() {
        let train = |stride: usize, used: usize| {
            let train = Train::datagram(([192, 0, 2, 1], 443).into(), Local::default(), vec![0; used]);
            Train { stride, ..train }
        };
        assert!(train(100, 200).takes(100) && train(100, 200).takes(40));
        assert!(!train(100, 200).takes(101), "longer than the others");
        assert!(!train(100, 140).takes(40), "behind a shorter one");
        assert!(!train(0, 100).takes(100), "one datagram of any size");
        assert!(train(10, 10 * (SEGMENTS_MAX - 1)).takes(10) && !train(10, 10 * SEGMENTS_MAX).takes(10));
        assert!(train(32_500, 32_500).takes(32_500));
        assert!(!train(SEGMENTED_BYTES_MAX, SEGMENTED_BYTES_MAX).takes(1));
        let all: Vec<usize> = train(100, 250).datagrams().map(<[u8]>::len).collect();
        assert_eq!(all, [100, 100, 50]);
    }
}
