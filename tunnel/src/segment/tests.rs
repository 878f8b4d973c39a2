//! Cutting against a plain model: packets made one by one. And lying headers.

use super::*;
use crate::craft::{assert_sums, echo, ip, seal_v4, tcp, udp};
use crate::headers::{ACK, SYN};
use proptest::prelude::*;

/// A super-packet, as a device gives it: the checksum holds the sum of the pseudo header.
pub fn super_packet(bytes: Vec<u8>, size: u16) -> Frame {
    let packet = Packet::parse(&bytes).unwrap();
    let kind = match (packet.transport, packet.source.is_ipv6()) {
        (Transport::Tcp(_), false) => GsoKind::TcpV4,
        (Transport::Tcp(_), true) => GsoKind::TcpV6,
        _ => GsoKind::Udp,
    };
    let mut frame = Frame { gso: Gso { kind, header_len: 0, size, checksum: None }, bytes };
    leave_checksum(&mut frame, &packet);
    frame
}

/// Every segment.
pub fn cut(frame: &Frame) -> Result<Vec<Vec<u8>>, Drop> {
    let packet = Packet::parse(&frame.bytes)?;
    let cut = Cut::check(&frame.bytes, &packet, &frame.gso)?;
    let segment = |n| {
        let mut bytes = vec![0xee; 9];
        cut.segment(&frame.bytes, n, &mut bytes);
        assert!(bytes.len() <= cut.largest());
        bytes
    };
    Ok((0..cut.count()).map(segment).collect())
}

/// With another identification, where the family has one.
pub fn identified(mut bytes: Vec<u8>, id: u16) -> Vec<u8> {
    if bytes[0] >> 4 == 4 {
        bytes[4..6].copy_from_slice(&id.to_be_bytes());
        seal_v4(&mut bytes);
    }
    bytes
}

/// One packet of the flow: TCP with its sequence number and flags, or UDP.
pub fn made(v6: bool, is_tcp: bool, seq: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let (from, to) = if v6 { (ip("fd00::1"), ip("fd00::2")) } else { (ip("10.0.0.1"), ip("10.0.0.2")) };
    if is_tcp { tcp((from, 4000), (to, 443), flags, (seq, 99), payload) } else { udp((from, 4000), (to, 443), payload) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_cut_super_packet_is_what_would_have_been_sent_without(
        payload in proptest::collection::vec(any::<u8>(), 1..6_000), size in 36usize..2_000, v6: bool, is_tcp: bool,
        seq: u32, ends in 0u8..8, id: u16,
    ) {
        let flags = ACK | if ends & 1 != 0 { PSH } else { 0 } | if ends & 2 != 0 { FIN } else { 0 } | if ends & 4 != 0 { CWR } else { 0 };
        let whole = identified(made(v6, is_tcp, seq, flags, &payload), id);
        let last = payload.len().div_ceil(size) - 1;
        let plain: Vec<_> = payload.chunks(size).enumerate().map(|(n, part)| {
            let mut own = flags;
            if n < last { own &= !(PSH | FIN); }
            if n > 0 { own &= !CWR; }
            identified(made(v6, is_tcp, seq.wrapping_add((n * size) as u32), own, part), id.wrapping_add(n as u16))
        }).collect();
        plain.iter().for_each(|packet| assert_sums(packet));
        prop_assert_eq!(cut(&super_packet(whole, size as u16)).unwrap(), plain);
    }

    #[test]
    fn whatever_a_device_says_nothing_is_read_beyond_the_packet(
        payload in proptest::collection::vec(any::<u8>(), 0..400), size: u16, header_len: u16, start: u16, offset: u16,
        kind in 0usize..4, v6: bool, is_tcp: bool, cut_at in 0usize..500, damage in proptest::collection::vec((0usize..80, any::<u8>()), 0..4),
    ) {
        let kind = [GsoKind::None, GsoKind::TcpV4, GsoKind::TcpV6, GsoKind::Udp][kind];
        let mut bytes = made(v6, is_tcp, 1, ACK, &payload);
        bytes.truncate(cut_at);
        for (at, to) in damage {
            if let Some(byte) = bytes.get_mut(at) { *byte = to; }
        }
        let mut frame = Frame { gso: Gso { kind, header_len, size, checksum: Some((start, offset)) }, bytes };
        if let Ok(segments) = cut(&frame) {
            prop_assert!(segments.len() <= SUPER_SEGMENTS_MAX);
            // Each is a whole packet by itself; options of the header may make it one that is not passed on.
            segments.iter().for_each(|segment| assert!(Packet::parse(segment).is_ok_and(|p| p.len == segment.len())));
        }
        if let Ok(packet) = Packet::parse(&frame.bytes) {
            let _either_way = complete_checksum(&mut frame, &packet);
        }
    }
}

#[test]
fn what_does_not_fit_the_packet_is_dropped() {
    let whole = made(false, true, 7, ACK, &[1; 3_000]);
    let good = super_packet(whole.clone(), 1_000);
    assert_eq!(cut(&good).unwrap().len(), 3);
    let with = |gso: Gso, bytes: &[u8]| cut(&Frame { gso, bytes: bytes.to_vec() }).map(|all| all.len());
    assert_eq!(with(Gso { size: 0, ..good.gso }, &good.bytes), Err(Drop::Offload));
    assert_eq!(with(Gso { size: 1, ..good.gso }, &good.bytes), Err(Drop::Offload), "3,000 segments");
    assert_eq!(with(Gso { size: u16::MAX, ..good.gso }, &good.bytes), Ok(1));
    for kind in [GsoKind::None, GsoKind::TcpV6, GsoKind::Udp] {
        assert_eq!(with(Gso { kind, ..good.gso }, &good.bytes), Err(Drop::Offload), "{kind:?}");
    }
    // Something behind the packet, nothing in it, and no flow at all.
    let longer = [good.bytes.clone(), vec![0; 3]].concat();
    assert_eq!(with(good.gso, &longer), Err(Drop::Offload));
    assert_eq!(with(good.gso, &made(false, true, 7, ACK, &[])), Err(Drop::Offload));
    let ping = echo(ip("10.0.0.1"), ip("10.0.0.2"), true, 7, &[0; 3_000]);
    assert_eq!(with(good.gso, &ping), Err(Drop::Offload));
    // The most segments that there may be, and one more.
    let most = made(true, true, 7, ACK, &vec![1; 20 * SUPER_SEGMENTS_MAX]);
    let gso = Gso { kind: GsoKind::TcpV6, size: 20, ..good.gso };
    assert_eq!(with(gso, &most), Ok(SUPER_SEGMENTS_MAX));
    let more = made(true, true, 7, ACK, &vec![1; 20 * SUPER_SEGMENTS_MAX + 1]);
    assert_eq!(with(gso, &more), Err(Drop::Offload));
}

#[test]
fn a_checksum_is_completed_where_the_packet_has_it_and_nowhere_else() {
    for (v6, is_tcp) in [(false, true), (false, false), (true, true), (true, false)] {
        let whole = made(v6, is_tcp, 7, SYN, b"odd");
        let packet = Packet::parse(&whole).unwrap();
        let mut frame = Frame::packet(whole.clone());
        leave_checksum(&mut frame, &packet);
        assert_ne!(frame.bytes, whole);
        let (start, offset) = frame.gso.checksum.unwrap();
        for wrong in [(start + 1, offset), (start, offset + 2), (u16::MAX, u16::MAX), (0, 0)] {
            let mut frame = frame.clone();
            frame.gso.checksum = Some(wrong);
            assert_eq!(complete_checksum(&mut frame, &packet), Err(Drop::Offload));
        }
        complete_checksum(&mut frame, &packet).unwrap();
        assert_eq!((frame.bytes, frame.gso), (whole.clone(), Gso::NONE));
        assert!(checksum_holds(&whole, &packet));
        let mut damaged = whole;
        *damaged.last_mut().unwrap() ^= 1;
        assert!(!checksum_holds(&damaged, &packet));
    }
}
