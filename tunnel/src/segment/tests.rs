//! Cutting against a plain model: packets made one by one. And lying headers.

use super::*;
use crate::craft::{assert_sums, echo, extend, ip, packet, seal_v4, tcp, udp, with_options};
use crate::headers::{ACK, SYN};
use proptest::prelude::*;

/// TCP flags URG and ECE.
const URG: u8 = 0x20;
const ECE: u8 = 0x40;
/// IPv4: it may not be fragmented.
const DF: u16 = 0x4000;

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

/// All that the headers of one flow's packets say. Packets are made from it one by one, with sums made naively: the plain model
/// of what is cut and joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    pub v6: bool,
    pub is_tcp: bool,
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    pub urgent: u16,
    /// TCP: bytes of its options, a multiple of four.
    pub options: Vec<u8>,
    /// IPv4: words of padding options. IPv6: headers with padding in front of the transport.
    pub padding: usize,
    /// Traffic class, or type of service.
    pub class: u8,
    pub hops: u8,
    pub id: u16,
    pub whole: bool,
    /// UDP over IPv4: without a checksum.
    pub unsummed: bool,
}

impl Shape {
    /// The packet with this payload.
    pub fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let (from, to) = if self.v6 { (ip("fd00::1"), ip("fd00::2")) } else { (ip("10.0.0.1"), ip("10.0.0.2")) };
        let mut bytes = if self.is_tcp {
            let mut body = [4_000u16.to_be_bytes(), 443u16.to_be_bytes()].concat();
            body.extend([self.seq, self.ack].into_iter().flat_map(u32::to_be_bytes));
            body.extend([((5 + self.options.len() / 4) << 4) as u8, self.flags]);
            body.extend([self.window, 0, self.urgent].into_iter().flat_map(u16::to_be_bytes));
            body.extend(&self.options);
            body.extend(payload);
            packet(from, to, TCP, body)
        } else {
            udp((from, 4_000), (to, 443), payload)
        };
        if self.v6 {
            (0..self.padding).for_each(|_| bytes = extend(&bytes, 60, &[0, 1, 4, 0, 0, 0, 0]));
            let first = 0x6000 | u16::from(self.class) << 4;
            bytes[..2].copy_from_slice(&first.to_be_bytes());
            bytes[7] = self.hops;
        } else {
            if !self.is_tcp && self.unsummed {
                bytes[26..28].fill(0);
            }
            bytes = with_options(&bytes, &vec![1; self.padding * 4]);
            bytes[1] = self.class;
            bytes[6..8].copy_from_slice(&(if self.whole { DF } else { 0 }).to_be_bytes());
            bytes[8] = self.hops;
            bytes = identified(bytes, self.id);
        }
        bytes
    }

    /// What follows `sent` bytes of payload, `number` packets later.
    pub fn after(&self, number: usize, sent: usize) -> Self {
        let (id, seq) = (self.id.wrapping_add(number as u16), self.seq.wrapping_add(sent as u32));
        Self { id, seq, ..self.clone() }
    }

    /// Any that a parser takes. `plain`: without options of IP, as packets are that can be joined.
    pub fn any(plain: bool) -> impl Strategy<Value = Self> {
        let edge = |edge: u32| prop_oneof![any::<u32>(), Just(edge)];
        let padding = if plain { 0usize..1 } else { 0usize..4 };
        let options = prop_oneof![Just(0usize), Just(3), Just(10)]
            .prop_flat_map(|words| proptest::collection::vec(any::<u8>(), words * 4));
        let flags = prop_oneof![Just(0), Just(PSH), Just(FIN), Just(CWR | ECE), Just(URG), any::<u8>()];
        let flags = flags.prop_map(|flags| ACK | flags & !(SYN | 4));
        let transport =
            (any::<bool>(), any::<bool>(), flags, edge(0xffff_ff00), any::<u32>(), any::<u16>(), any::<u16>(), options);
        let network = (padding, any::<u8>(), any::<u8>(), edge(0xfffe), any::<bool>(), any::<bool>());
        (transport, network).prop_map(|(transport, network)| {
            let (v6, is_tcp, flags, seq, ack, window, urgent, options) = transport;
            let (padding, class, hops, id, whole, unsummed) = network;
            let id = id as u16;
            Self { v6, is_tcp, flags, seq, ack, window, urgent, options, padding, class, hops, id, whole, unsummed }
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_header_is_in_each_segment_as_its_sender_would_have_written_it(
        shape in Shape::any(false), payload in proptest::collection::vec(any::<u8>(), 1..5_000),
        size in prop_oneof![Just(1usize), Just(1_380), 36usize..1_500],
    ) {
        // Whoever has segments made has them summed.
        let shape = Shape { unsummed: false, ..shape };
        let payload = &payload[..payload.len().min(size * SUPER_SEGMENTS_MAX)];
        let last = payload.len().div_ceil(size) - 1;
        let plain: Vec<_> = payload.chunks(size).enumerate().map(|(n, part)| {
            let mut own = shape.after(n, n * size);
            if n < last { own.flags &= !(PSH | FIN); }
            if n > 0 { own.flags &= !CWR; }
            own.packet(part)
        }).collect();
        prop_assert_eq!(cut(&super_packet(shape.packet(payload), size as u16)).unwrap(), plain);
    }

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
