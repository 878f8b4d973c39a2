//! How is a TCP connection ended from between? With RST segments (RFC 9293 section 3.10.7.1).

use crate::checksum;
use crate::headers::{ACK, Packet, RST, TCP, Tcp, Transport};
use crate::icmp::ip_header;
use crate::rewrite::Ends;

/// An RST between these ends; with an acknowledgement it also ends a connection that waits for SYN-ACK.
pub fn build(ends: &Ends, seq: u32, ack: Option<u32>) -> Vec<u8> {
    let (source, destination) = (ends.source, ends.destination);
    let mut bytes = ip_header((source, destination), TCP, 20);
    let start = bytes.len();
    bytes.extend_from_slice(&ends.source_port.to_be_bytes());
    bytes.extend_from_slice(&ends.destination_port.to_be_bytes());
    bytes.extend_from_slice(&seq.to_be_bytes());
    bytes.extend_from_slice(&ack.unwrap_or(0).to_be_bytes());
    let flags = if ack.is_some() { RST | ACK } else { RST };
    // Data offset 5, flags, window 0, checksum, urgent pointer.
    bytes.extend_from_slice(&[0x50, flags, 0, 0, 0, 0, 0, 0]);
    let pseudo = checksum::pseudo(source, destination, TCP, 20);
    let check = !checksum::sum(bytes.get(start..).unwrap_or_default(), pseudo);
    checksum::put_word(&mut bytes, start + 16, check);
    bytes
}

/// The RST that answers a segment to a connection that does not exist; none answers an RST.
pub fn answer(packet: &Packet) -> Option<Vec<u8>> {
    let Transport::Tcp(tcp) = packet.transport else { return None };
    let Tcp { seq, ack, length, .. } = tcp;
    if tcp.has(RST) {
        return None;
    }
    let back = Ends {
        source: packet.destination,
        source_port: tcp.destination_port,
        destination: packet.source,
        destination_port: tcp.source_port,
    };
    Some(if tcp.has(ACK) { build(&back, ack, None) } else { build(&back, 0, Some(seq.wrapping_add(length))) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::craft::{assert_sums, ip, tcp};
    use crate::headers::{FIN, SYN};

    fn answered(flags: u8, payload: &[u8]) -> Option<Tcp> {
        for (from, to) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let bytes = tcp((ip(from), 5), (ip(to), 6), flags, (100, 200), payload);
            let rst = answer(&Packet::parse(&bytes).unwrap());
            if let Some(rst) = &rst {
                assert_sums(rst);
            }
            let parsed = rst.map(|rst| Packet::parse(&rst).unwrap());
            assert!(parsed.is_none_or(|p| (p.source, p.destination) == (ip(to), ip(from))));
            if from.contains(':') {
                return parsed.map(|p| match p.transport {
                    Transport::Tcp(tcp) => tcp,
                    other => panic!("{other:?}"),
                });
            }
        }
        None
    }

    /// RFC 9293 section 3.10.7.1, case by case.
    #[test]
    fn a_segment_to_nowhere_is_answered_by_the_book() {
        let rst = answered(SYN, b"").unwrap();
        assert_eq!((rst.flags, rst.seq, rst.ack), (RST | ACK, 0, 101));
        let rst = answered(ACK, b"abc").unwrap();
        assert_eq!((rst.flags, rst.seq), (RST, 200));
        assert_eq!((rst.source_port, rst.destination_port), (6, 5));
        assert_eq!(answered(FIN | ACK, b"").unwrap().seq, 200);
        assert_eq!(answered(RST, b""), None);
        assert_eq!(answered(RST | ACK, b""), None);
    }
}
