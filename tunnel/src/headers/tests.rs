use super::*;
use crate::craft::{self, addresses, echo, error, extend, ip, packet, raw, seal_v4, tcp, udp, with_options};
use proptest::prelude::*;

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";
const A6: &str = "fd00::1";
const B6: &str = "fd00::2";

fn syn(from: &str, to: &str) -> Vec<u8> {
    tcp((ip(from), 1000), (ip(to), 80), SYN, (7, 0), b"")
}
fn refused(bytes: &[u8]) -> Drop {
    Packet::parse(bytes).unwrap_err()
}
fn changed(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    bytes[at] = value;
    if bytes[0] >> 4 == 4 {
        seal_v4(&mut bytes);
    }
    bytes
}

#[test]
fn good_packets_are_understood() {
    for (from, to) in [(A, B), (A6, B6)] {
        let p = Packet::parse(&tcp((ip(from), 1000), (ip(to), 80), SYN, (7, 9), b"ab")).unwrap();
        assert_eq!((p.source, p.source_port(), p.destination, p.destination_port()), (ip(from), 1000, ip(to), 80));
        let Transport::Tcp(t) = p.transport else { panic!() };
        assert_eq!((t.seq, t.ack, t.length, t.opens()), (7, 9, 3, true));
        let p = Packet::parse(&udp((ip(from), 53), (ip(to), 54), b"x")).unwrap();
        assert_eq!(p.transport, Transport::Udp { source_port: 53, destination_port: 54 });
        let p = Packet::parse(&echo(ip(from), ip(to), true, 77, b"x")).unwrap();
        assert_eq!((p.protocol(), p.source_port(), p.destination_port()), (Protocol::Icmp, 77, 0));
        let p = Packet::parse(&echo(ip(from), ip(to), false, 77, b"x")).unwrap();
        assert_eq!((p.source_port(), p.destination_port()), (0, 77));
        let p =
            Packet::parse(&craft::port_unreachable(ip(from), ip(to), &udp((ip(to), 5), (ip(from), 6), b"zz"))).unwrap();
        let Transport::Error(Error { quote, .. }) = p.transport else { panic!() };
        assert_eq!((quote.source, quote.source_port, quote.destination_port), (ip(to), 5, 6));
    }
}

#[test]
fn padding_behind_a_packet_is_no_part_of_it() {
    for (from, to) in [(A, B), (A6, B6)] {
        let mut bytes = syn(from, to);
        let len = bytes.len();
        bytes.extend([0; 12]);
        assert_eq!(Packet::parse(&bytes).unwrap().len, len);
    }
}

#[test]
fn each_defect_has_its_reason() {
    assert_eq!(refused(&[]), Drop::NotIp);
    assert_eq!(refused(&changed(syn(A6, B6), 0, 0x50)), Drop::NotIp);
    for (from, to) in [(A, B), (A6, B6)] {
        let whole = [
            syn(from, to),
            udp((ip(from), 1), (ip(to), 2), b"abc"),
            echo(ip(from), ip(to), true, 1, b""),
            craft::port_unreachable(ip(from), ip(to), &udp((ip(to), 5), (ip(from), 6), b"zz")),
        ];
        for bytes in whole {
            for len in 1..bytes.len() {
                assert_eq!(refused(&bytes[..len]), Drop::Truncated, "{len} of {bytes:02x?}");
            }
        }
        for flags in [SYN | FIN, SYN | RST, 0, FIN] {
            assert_eq!(refused(&tcp((ip(from), 1), (ip(to), 2), flags, (0, 0), b"")), Drop::TcpFlags);
        }
        assert_eq!(refused(&tcp((ip(from), 0), (ip(to), 2), SYN, (0, 0), b"")), Drop::PortZero);
        assert_eq!(refused(&udp((ip(from), 1), (ip(to), 0), b"")), Drop::PortZero);
        assert_eq!(refused(&packet(ip(from), ip(to), 47, vec![0; 20])), Drop::Protocol);
        let offset = syn(from, to).len() - 8;
        assert_eq!(refused(&changed(syn(from, to), offset, 0x40)), Drop::BadLength);
        assert_eq!(refused(&changed(syn(from, to), offset, 0x60)), Drop::Truncated);
        let mut short = udp((ip(from), 1), (ip(to), 2), b"abc");
        let at = short.len() - 6;
        short[at] -= 1;
        assert_eq!(refused(&short), Drop::BadLength);
        // Timestamp request, redirect, neighbour solicitation; an echo with a code; an error about an error.
        for kind in [13, 5, 135, 137] {
            assert_eq!(refused(&packet(ip(from), ip(to), craft::icmp_of(ip(from)), vec![kind; 40])), Drop::IcmpKind);
        }
        let about = craft::port_unreachable(ip(to), ip(from), &udp((ip(from), 5), (ip(to), 6), b"zz"));
        assert_eq!(refused(&craft::port_unreachable(ip(from), ip(to), &about)), Drop::IcmpKind);
        let mut damaged = craft::port_unreachable(ip(from), ip(to), &udp((ip(to), 5), (ip(from), 6), b"zz"));
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(refused(&damaged), Drop::BadChecksum);
    }
    let mut no_sum = udp((ip(A6), 1), (ip(B6), 2), b"abc");
    no_sum[46..48].fill(0);
    assert_eq!(refused(&no_sum), Drop::UdpNoChecksum);
    // An ICMPv6 message in IPv4 and the other way round.
    assert_eq!(refused(&packet(ip(A), ip(B), ICMP6, vec![128; 16])), Drop::Protocol);
    assert_eq!(refused(&packet(ip(A6), ip(B6), ICMP4, vec![8; 16])), Drop::Protocol);
}

#[test]
fn ipv4_headers_are_held_to_the_letter() {
    let good = syn(A, B);
    assert_eq!(refused(&changed(good.clone(), 0, 0x44)), Drop::BadLength);
    assert_eq!(refused(&changed(good.clone(), 3, 19)), Drop::BadLength);
    let mut damaged = good.clone();
    damaged[10] ^= 1;
    assert_eq!(refused(&damaged), Drop::BadChecksum);
    // More fragments, an offset, the reserved bit.
    for (at, value) in [(6, 0x20), (7, 1), (6, 0x80)] {
        assert_eq!(refused(&changed(good.clone(), at, value)), Drop::Fragment);
    }
    assert!(Packet::parse(&changed(good.clone(), 6, 0x40)).is_ok());
    for route in [131, 137] {
        assert_eq!(refused(&with_options(&good, &[1, route, 3, 4])), Drop::SourceRoute);
    }
    for option in [7, 68, 148, 130, 0x82] {
        assert_eq!(refused(&with_options(&good, &[option, 4, 0, 0])), Drop::IpOption);
    }
    assert!(Packet::parse(&with_options(&good, &[1, 1, 0, 131])).is_ok());
}

#[test]
fn ipv6_extension_headers_are_walked_to_the_end() {
    let good = syn(A6, B6);
    let pad = [0, 1, 4, 0, 0, 0, 0];
    assert_eq!(Packet::parse(&extend(&good, 60, &pad)).unwrap().offset, 48);
    assert!(Packet::parse(&extend(&extend(&good, 60, &pad), 0, &pad)).is_ok());
    assert_eq!(refused(&extend(&extend(&good, 0, &pad), 60, &pad)), Drop::ExtensionHeader);
    assert_eq!(refused(&extend(&good, 44, &[0, 0, 0, 0, 0, 0, 9])), Drop::Fragment);
    assert_eq!(refused(&extend(&good, 44, &[0, 0, 1, 0, 0, 0, 9])), Drop::Fragment);
    assert_eq!(refused(&extend(&good, 43, &[0, 0, 0, 0, 0, 0, 0])), Drop::RoutingHeader);
    assert_eq!(refused(&extend(&good, 43, &[0, 2, 1, 0, 0, 0, 0])), Drop::RoutingHeader);
    assert!(Packet::parse(&extend(&good, 43, &[0, 2, 0, 0, 0, 0, 0])).is_ok());
    // AH, ESP, mobility, no next header, unknown.
    for kind in [51, 50, 135, 59, 253] {
        assert_eq!(refused(&extend(&good, kind, &pad)), Drop::Protocol);
    }
    // Home address, router alert, an option that leaves its header.
    assert_eq!(refused(&extend(&good, 60, &[0, 0xc9, 4, 0, 0, 0, 0])), Drop::IpOption);
    assert_eq!(refused(&extend(&good, 0, &[0, 5, 2, 0, 0, 1, 0])), Drop::IpOption);
    assert_eq!(refused(&extend(&good, 60, &[0, 1, 9, 0, 0, 0, 0])), Drop::BadLength);
}

#[test]
fn chains_end_at_the_bound() {
    let mut bytes = syn(A6, B6);
    for _ in 0..EXTENSION_HEADERS_MAX {
        bytes = extend(&bytes, 60, &[0, 1, 4, 0, 0, 0, 0]);
        assert!(Packet::parse(&bytes).is_ok());
    }
    assert_eq!(refused(&extend(&bytes, 60, &[0, 1, 4, 0, 0, 0, 0])), Drop::ExtensionHeader);
    // The longest options header there is, full of single-byte padding, stays within its own bound.
    let mut longest = vec![255];
    longest.resize(2047, 0);
    assert!(Packet::parse(&extend(&syn(A6, B6), 60, &longest)).is_ok());
}

#[test]
fn options_are_looked_at_up_to_the_bound() {
    // No real header is as long as that: one that claims its 2,048 bytes, followed by its padding.
    let padding = |count: usize| {
        let mut bytes = vec![0; 2 + count];
        bytes[1] = 255;
        bytes
    };
    assert_eq!(IP_OPTIONS_MAX, 256 * 8, "as many as the longest header holds");
    assert_eq!(check_options6(&padding(IP_OPTIONS_MAX - 2), 0), Ok(()));
    let mut pairs = padding(IP_OPTIONS_MAX - 2);
    pairs[2] = 5;
    assert_eq!(check_options6(&pairs, 0), Err(Drop::IpOption));
}

/// Every length a header can claim, at every depth: only the true one leads to the transport header.
#[test]
fn no_claimed_length_wraps() {
    for depth in 0..4 {
        for claimed in 0..=255u8 {
            let mut bytes = extend(&syn(A6, B6), 60, &[claimed, 1, 4, 0, 0, 0, 0]);
            for _ in 0..depth {
                bytes = extend(&bytes, 60, &[0, 1, 4, 0, 0, 0, 0]);
            }
            let parsed = Packet::parse(&bytes);
            assert_eq!(parsed.is_ok(), claimed == 0, "depth {depth}, claimed {claimed}: {parsed:?}");
        }
    }
}

#[test]
fn extensions_of_an_error_are_cut_off() {
    let mut quote = udp((ip(B), 5), (ip(A), 6), &[0; 100]);
    let len = quote.len();
    assert_eq!(len, 128);
    quote.extend([0x20, 0, 0, 0, 0, 12, 2, 9, 1, 2, 3, 4]);
    let bytes = error(ip(A), ip(B), (11, 0), [0, 32, 0, 0], &quote);
    let Transport::Error(e) = Packet::parse(&bytes).unwrap().transport else { panic!() };
    assert_eq!(e.quote.end - e.quote.start, len);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// A quote is part of a packet that went through us, so only its ends may be missing.
    #[test]
    fn arbitrary_bytes_never_panic_and_offsets_stay_inside(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), v6: bool, seal: bool) {
        if let Some(first) = bytes.first_mut() {
            *first = if v6 { 0x60 } else { 0x45 };
        }
        if seal && !v6 && bytes.len() >= 20 {
            seal_v4(&mut bytes);
        }
        if let Ok(p) = Packet::parse(&bytes) {
            prop_assert!(p.offset < p.len && p.len <= bytes.len());
            prop_assert_eq!(addresses(&bytes), (p.source, p.destination));
        }
    }

    #[test]
    fn one_changed_byte_never_panics(at in 0usize..120, value: u8, which in 0usize..8) {
        let (from, to) = if which % 2 == 0 { (ip(A), ip(B)) } else { (ip(A6), ip(B6)) };
        let quote = udp((to, 5), (from, 6), b"zz");
        let mut bytes = match which / 2 {
            0 => tcp((from, 1), (to, 2), ACK, (1, 2), b"hello"),
            1 => udp((from, 1), (to, 2), b"hello"),
            2 => echo(from, to, true, 3, b"hello"),
            _ => craft::port_unreachable(from, to, &quote),
        };
        let len = bytes.len();
        bytes[at % len] = value;
        if let Ok(p) = Packet::parse(&bytes) {
            prop_assert!(p.offset < p.len && p.len <= bytes.len());
            if let Transport::Error(e) = p.transport {
                prop_assert!(e.quote.start >= p.offset + 8 && e.quote.offset + 8 <= e.quote.end && e.quote.end <= p.len);
            }
        }
    }

    #[test]
    fn a_header_checksum_protects_each_bit(bit in 0usize..160) {
        let mut bytes = raw(ip(A), ip(B), UDP, &udp((ip(A), 1), (ip(B), 2), b"")[20..]);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Packet::parse(&bytes).is_err());
    }
}
