//! How does a packet get other ends, with every checksum right? Incrementally (RFC 1624), so that a packet that was
//! damaged on its way stays recognisably damaged.

use crate::checksum::{Delta, put_word, word};
use crate::headers::{Packet, Quote, Transport};
use model::net::Protocol;
use std::net::IpAddr;

/// Both ends of a packet. For an echo, the identifier stands for the client's port, the other port is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Source address.
    pub source: IpAddr,
    /// Source port, or identifier of a request.
    pub source_port: u16,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port, or identifier of a reply.
    pub destination_port: u16,
}

/// What is patched: where, and which checksum covers it.
struct Site {
    offset: usize,
    protocol: Protocol,
    request: bool,
    v6: bool,
}

/// Gives a parsed packet new ends of the same family, and cuts the buffer to the packet's length.
pub fn rewrite(bytes: &mut Vec<u8>, packet: &Packet, to: &Ends) {
    bytes.truncate(packet.len);
    let from = Ends {
        source: packet.source,
        source_port: packet.source_port(),
        destination: packet.destination,
        destination_port: packet.destination_port(),
    };
    let request = matches!(packet.transport, Transport::Echo { request: true, .. });
    let v6 = packet.source.is_ipv6();
    patch(bytes, &Site { offset: packet.offset, protocol: packet.protocol(), request, v6 }, &from, to);
}

/// A copy of the packet that an ICMP error quotes, with new ends of the same family.
pub fn rewrite_quote(bytes: &[u8], quote: &Quote, to: &Ends) -> Vec<u8> {
    let mut copy = bytes.get(quote.start..quote.end).unwrap_or_default().to_vec();
    let (source_port, destination_port) = match (quote.protocol, quote.request) {
        (Protocol::Icmp, false) => (0, quote.source_port),
        _ => (quote.source_port, quote.destination_port),
    };
    let from = Ends { source: quote.source, source_port, destination: quote.destination, destination_port };
    let offset = quote.offset - quote.start;
    let v6 = quote.source.is_ipv6();
    patch(&mut copy, &Site { offset, protocol: quote.protocol, request: quote.request, v6 }, &from, to);
    copy
}

/// One hop less. The caller has answered a packet that had none left.
pub fn decrement_hops(bytes: &mut [u8], packet: &Packet) {
    let hops = packet.hops.saturating_sub(1);
    if packet.source.is_ipv6() {
        if let Some(field) = bytes.get_mut(7) {
            *field = hops;
        }
    } else if let Some(old) = word(bytes, 8) {
        let new = (old & 0x00ff) | (u16::from(hops) << 8);
        put_word(bytes, 8, new);
        Delta::default().word(old, new).fix(bytes, 10);
    }
}

fn patch(bytes: &mut [u8], site: &Site, from: &Ends, to: &Ends) {
    if to.source.is_ipv6() != site.v6 || to.destination.is_ipv6() != site.v6 {
        return;
    }
    let addresses = Delta::default().address(from.source, to.source).address(from.destination, to.destination);
    put_addresses(bytes, to);
    if !site.v6 {
        addresses.fix(bytes, 10);
    }
    let Site { offset, .. } = *site;
    match site.protocol {
        Protocol::Tcp => {
            let delta = put_ports(bytes, offset, addresses, from, to);
            delta.fix(bytes, offset + 16);
        }
        Protocol::Udp => {
            let delta = put_ports(bytes, offset, addresses, from, to);
            // Zero says that there is no checksum (RFC 768), and stays.
            if word(bytes, offset + 6).is_some_and(|c| c != 0) {
                delta.fix(bytes, offset + 6);
                if word(bytes, offset + 6) == Some(0) {
                    put_word(bytes, offset + 6, 0xffff);
                }
            }
        }
        Protocol::Icmp => {
            let (old, new) = if site.request {
                (from.source_port, to.source_port)
            } else {
                (from.destination_port, to.destination_port)
            };
            put_word(bytes, offset + 4, new);
            // Only ICMPv6 has a pseudo header (RFC 4443 section 2.3).
            let delta = if site.v6 { addresses } else { Delta::default() };
            delta.word(old, new).fix(bytes, offset + 2);
        }
    }
}

fn put_ports(bytes: &mut [u8], offset: usize, delta: Delta, from: &Ends, to: &Ends) -> Delta {
    put_word(bytes, offset, to.source_port);
    put_word(bytes, offset + 2, to.destination_port);
    delta.word(from.source_port, to.source_port).word(from.destination_port, to.destination_port)
}

fn put_addresses(bytes: &mut [u8], to: &Ends) {
    match (to.source, to.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            put(bytes, 12, &source.octets());
            put(bytes, 16, &destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            put(bytes, 8, &source.octets());
            put(bytes, 24, &destination.octets());
        }
        _ => {}
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(field) = bytes.get_mut(at..at + value.len()) {
        field.copy_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::craft::{assert_sums, echo, tcp, udp};
    use crate::headers::{ACK, SYN};
    use proptest::prelude::*;

    fn ends(v6: bool) -> impl Strategy<Value = Ends> {
        let address = move || {
            any::<u128>().prop_map(move |a| {
                if v6 { IpAddr::from(a.to_be_bytes()) } else { IpAddr::from((a as u32).to_be_bytes()) }
            })
        };
        (address(), 1u16.., address(), 1u16..).prop_map(|(source, source_port, destination, destination_port)| Ends {
            source,
            source_port,
            destination,
            destination_port,
        })
    }

    /// TCP, UDP, UDP without checksum, echo request, echo reply.
    fn made(kind: usize, e: &Ends, payload: &[u8]) -> Vec<u8> {
        let (from, to) = ((e.source, e.source_port), (e.destination, e.destination_port));
        match kind {
            0 => tcp(from, to, SYN | ACK, (1, 2), payload),
            1 => udp(from, to, payload),
            2 if e.source.is_ipv4() => {
                let mut bytes = udp(from, to, payload);
                bytes[26..28].fill(0);
                bytes
            }
            3 => echo(e.source, e.destination, false, e.destination_port, payload),
            _ => echo(e.source, e.destination, true, e.source_port, payload),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn new_ends_equal_a_packet_made_with_them(
            (from, to) in any::<bool>().prop_flat_map(|v6| (ends(v6), ends(v6))),
            kind in 0usize..5,
            payload in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let original = made(kind, &from, &payload);
            let mut bytes = original.clone();
            bytes.extend([0; 9]);
            let packet = Packet::parse(&bytes).unwrap();
            rewrite(&mut bytes, &packet, &to);
            assert_sums(&bytes);
            prop_assert_eq!(&bytes, &made(kind, &to, &payload));
            let packet = Packet::parse(&bytes).unwrap();
            rewrite(&mut bytes, &packet, &from);
            prop_assert_eq!(bytes, original);
        }

        #[test]
        fn hops_go_down_with_a_right_checksum(from in any::<bool>().prop_flat_map(ends), hops in 1u8..) {
            let mut bytes = made(0, &from, b"x");
            let at = if from.source.is_ipv4() { 8 } else { 7 };
            bytes[at] = hops;
            if from.source.is_ipv4() {
                crate::craft::seal_v4(&mut bytes);
            }
            let packet = Packet::parse(&bytes).unwrap();
            decrement_hops(&mut bytes, &packet);
            prop_assert_eq!(bytes[at], hops - 1);
            assert_sums(&bytes);
        }

        #[test]
        fn damage_stays_visible((from, to) in any::<bool>().prop_flat_map(|v6| (ends(v6), ends(v6)))) {
            let mut bytes = made(0, &from, b"hello");
            *bytes.last_mut().unwrap() ^= 0x40;
            let packet = Packet::parse(&bytes).unwrap();
            rewrite(&mut bytes, &packet, &to);
            prop_assert_ne!(bytes, made(0, &to, b"hello"));
        }
    }
}
