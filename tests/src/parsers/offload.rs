//! What a kernel, and a train of datagrams, say of packets: virtio headers, super-packets that are cut, packets that are joined.
//! Held against packets that are made one by one, with sums as RFC 1071 writes them down.

use super::{Parser, Seeds, parser, seed};
use crate::attacker::packet;
use host::tun::header::{self, HEADER_BYTES};
use model::limits::{DATAGRAM_MAX, SUPER_SEGMENTS_MAX};
use model::packet::{Frame, Gso, GsoKind, Local, Offloads, Spare, Train};
use std::net::{IpAddr, SocketAddr};
use tunnel::checksum::put_word;
use tunnel::coalesce::Coalescer;
use tunnel::ecn;
use tunnel::headers::{Packet, Transport};
use tunnel::segment::{Cut, each_packet, leave_checksum, prepare};

pub const PARSERS: &[Parser] = &[
    parser(
        "offload",
        "a virtio header and the packet that it speaks of, as a device or a hostile program gives them",
        offload,
        offload_seeds,
        3,
    ),
    parser("train", "packets of one train: joined, and cut again", train, train_seeds, 6),
];

/// The sum of a part of a packet, byte by byte.
pub fn plain_sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            let [high, low] = [0, 1].map(|at| u32::from(pair.get(at).copied().unwrap_or(0)));
            sum += high << 8 | low;
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// What the checksum of a transport has to be: over pseudo header and body, whose field is zero.
fn plain_check(from: IpAddr, to: IpAddr, protocol: u8, body: &[u8]) -> u16 {
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    !plain_sum(&[&octets(from), &octets(to), &len, &[0, 0, 0, protocol], body])
}

/// Puts the checksums of a packet right, as far as its headers can be followed: they would keep out most that is changed.
pub fn righted(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let byte = |bytes: &[u8], at: usize| bytes.get(at).copied().unwrap_or(0);
    let (from, to, mut protocol, mut at) = match byte(&bytes, 0) >> 4 {
        4 => {
            let header = usize::from(byte(&bytes, 0) & 15) * 4;
            put_word(&mut bytes, 10, 0);
            let check = !plain_sum(&[bytes.get(..header).unwrap_or_default()]);
            put_word(&mut bytes, 10, check);
            (address(&bytes, 12, 4), address(&bytes, 16, 4), byte(&bytes, 9), header)
        }
        6 => (address(&bytes, 8, 16), address(&bytes, 24, 16), byte(&bytes, 6), 40),
        _ => return bytes,
    };
    while byte(&bytes, 0) >> 4 == 6 && matches!(protocol, 0 | 43 | 60) && at < bytes.len() {
        protocol = byte(&bytes, at);
        at += (usize::from(byte(&bytes, at + 1)) + 1) * 8;
    }
    let field = match protocol {
        6 => 16,
        17 => 6,
        1 | 58 => 2,
        _ => return bytes,
    };
    let (Some(from), Some(to)) = (from, to) else { return bytes };
    put_word(&mut bytes, at + field, 0);
    let body = bytes.get(at..).unwrap_or_default();
    let check = if protocol == 1 { !plain_sum(&[body]) } else { plain_check(from, to, protocol, body) };
    put_word(&mut bytes, at + field, if check == 0 && protocol == 17 { 0xffff } else { check });
    bytes
}

fn address(bytes: &[u8], at: usize, len: usize) -> Option<IpAddr> {
    let octets = bytes.get(at..at + len)?;
    match len {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
    }
}

/// What a super-packet stands for, made one by one.
fn plain_cut(bytes: &[u8], packet: &Packet, size: usize) -> Vec<Vec<u8>> {
    let tcp = matches!(packet.transport, Transport::Tcp(_));
    let data = bytes.get(packet.offset + 12).copied().unwrap_or(0);
    let head = packet.offset + if tcp { usize::from(data >> 4) * 4 } else { 8 };
    let payload = bytes.get(head..packet.len).unwrap_or_default();
    let count = payload.chunks(size).count();
    let word = |at: usize| bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_be_bytes);
    let one = |(number, chunk): (usize, &[u8])| {
        let mut made = [bytes.get(..head).unwrap_or_default(), chunk].concat();
        let short = |value: usize| u16::try_from(value).unwrap_or(u16::MAX);
        if packet.source.is_ipv6() {
            put_word(&mut made, 4, short(head + chunk.len() - 40));
        } else {
            put_word(&mut made, 2, short(head + chunk.len()));
            put_word(&mut made, 4, word(4).wrapping_add(short(number)));
        }
        if let Transport::Tcp(tcp) = packet.transport {
            let seq = tcp.seq.wrapping_add(u32::try_from(number * size).unwrap_or(0)).to_be_bytes();
            made.splice(packet.offset + 4..packet.offset + 8, seq);
            let keep = if number + 1 < count { 0xf6 } else { 0xff } & if number > 0 { 0x7f } else { 0xff };
            made.iter_mut().skip(packet.offset + 13).take(1).for_each(|flags| *flags &= keep);
        } else {
            put_word(&mut made, packet.offset + 4, short(8 + chunk.len()));
        }
        righted(&made)
    };
    payload.chunks(size).enumerate().map(one).collect()
}

/// The packets of a frame; they are those of the plain model.
pub fn packets_of(frame: &Frame) -> Option<Vec<Vec<u8>>> {
    if frame.gso.kind == GsoKind::None {
        return Some(vec![frame.bytes.clone()]);
    }
    let packet = Packet::parse(&frame.bytes).ok()?;
    let cut = Cut::check(&frame.bytes, &packet, &frame.gso).ok()?;
    let mut all = Vec::new();
    let done = each_packet(frame, &packet, |bytes| {
        assert!(bytes.len() <= cut.largest(), "a segment of {} bytes beyond {}", bytes.len(), cut.largest());
        all.push(bytes.to_vec());
        Ok::<_, tunnel::counters::Drop>(())
    });
    assert!(done.is_ok() && all.len() == cut.count() && all.len() <= SUPER_SEGMENTS_MAX);
    assert_eq!(all, plain_cut(&frame.bytes, &packet, frame.gso.size.into()), "segments of {frame:?}");
    all.iter().for_each(|one| assert!(Packet::parse(one).is_ok_and(|p| p.len == one.len()), "{one:?}"));
    Some(all)
}

fn offload(input: &[u8]) -> bool {
    let Some((head, packet)) = input.split_first_chunk::<HEADER_BYTES>() else { return false };
    let Ok(gso) = header::decode(*head) else { return false };
    let known = header::decode(header::encode(&gso)).ok();
    assert_eq!(known, Some(gso), "a header does not say again what it said");
    let taken = [packet.to_vec(), righted(packet)].map(|bytes| {
        marked(&bytes);
        let mut frame = Frame { gso, bytes: bytes.clone() };
        if prepare(&mut frame).is_err() {
            return false;
        }
        assert!(frame.gso.checksum.is_none(), "a sum is still open: {frame:?}");
        if gso == Gso::NONE {
            assert_eq!(frame.bytes, bytes, "a plain packet is not looked at");
            return Packet::parse(&bytes).is_ok();
        }
        let first = Packet::parse(&bytes).ok();
        let again = Packet::parse(&frame.bytes).ok();
        assert!(again.is_some() && again == first, "another packet: {frame:?}");
        assert!(frame.bytes.len() <= bytes.len(), "it grew");
        let Some(packets) = packets_of(&frame) else { return false };
        if gso.checksum.is_some() && gso.kind == GsoKind::None {
            assert_eq!(frame.bytes, righted(&frame.bytes), "a completed sum is wrong");
        }
        let back = joined(Offloads { vnet: true, tso: true, uso: true }, &packets);
        assert_eq!(cut_again(&back), named(&packets), "joined and cut again");
        true
    });
    taken.contains(&true)
}

/// The bits of congestion, with every mark that the way may have put on.
fn marked(bytes: &[u8]) {
    for outer in 0..4 {
        let mut other = bytes.to_vec();
        let before = ecn::of(&other);
        let kept = ecn::arrive(&mut other, outer);
        assert!(kept.is_ok() || (before == 0 && outer == 3), "{before} in {outer}");
        assert_eq!(other.len(), bytes.len());
        // It changes that alone, and a packet that was one stays one.
        let shape = |bytes: &[u8]| Packet::parse(bytes).ok().map(|p| (p.source, p.destination, p.len, p.offset));
        assert!(shape(bytes) == shape(&other) || shape(bytes).is_none(), "{bytes:?} marked {outer}");
    }
}

/// What a coalescer makes of packets.
fn joined(offloads: Offloads, packets: &[Vec<u8>]) -> Vec<Frame> {
    let (mut coalescer, mut frames, mut spare) = (Coalescer::new(offloads), Vec::new(), Spare::default());
    packets.iter().for_each(|packet| coalescer.push(packet, &mut frames, &mut spare));
    coalescer.close(&mut frames);
    frames
}

/// Packets of frames as the kernel cuts them, each [`named`].
fn cut_again(frames: &[Frame]) -> Vec<Vec<u8>> {
    let pieces = |frame: &Frame| {
        assert!(frame.bytes.len() <= DATAGRAM_MAX || frame.gso == Gso::NONE);
        let mut frame = frame.clone();
        if frame.gso != Gso::NONE
            && let Ok(packet) = Packet::parse(&frame.bytes)
        {
            assert_eq!(packet.len, frame.bytes.len(), "a joined packet says how long it is");
            leave_checksum(&mut frame, &packet);
        }
        let packets = packets_of(&frame);
        assert!(packets.is_some(), "what was joined cannot be cut: {frame:?}");
        packets.unwrap_or_default()
    };
    named(&frames.iter().flat_map(pieces).collect::<Vec<_>>())
}

/// Without what follows a packet in its buffer if it may be joined, and without an identification that means nothing: that of
/// a packet of IPv4 that may not be fragmented (RFC 6864 section 4.1).
fn named(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let one = |packet: &Vec<u8>| {
        let mut packet = packet.clone();
        let Ok(parsed) = Packet::parse(&packet) else { return packet };
        packet.truncate(parsed.len);
        if parsed.source.is_ipv4() && packet.get(6).is_some_and(|flags| flags & 0x40 != 0) {
            put_word(&mut packet, 4, 0);
            put_word(&mut packet, 10, 0);
            let check = !plain_sum(&[packet.get(..parsed.offset.min(60)).unwrap_or_default()]);
            put_word(&mut packet, 10, check);
        }
        packet
    };
    packets.iter().map(one).collect()
}

fn train(input: &[u8]) -> bool {
    let Some((head, rest)) = input.split_first_chunk::<2>() else { return false };
    strides(usize::from(u16::from_be_bytes(*head)), rest);
    let packets = flow(rest);
    let mut taken = false;
    for offloads in [(true, true), (true, false), (false, false)].map(|(tso, uso)| Offloads { vnet: true, tso, uso }) {
        let frames = joined(offloads, &packets);
        taken |= frames.iter().any(|frame| frame.gso != Gso::NONE);
        for frame in &frames {
            assert!(offloads.tso || frame.gso == Gso::NONE, "joined for a device that takes none");
            assert!(offloads.uso || frame.gso.kind != GsoKind::Udp, "joined for a device that takes none");
        }
        assert_eq!(cut_again(&frames), named(&packets), "{packets:?}");
    }
    taken
}

/// A message with any stride is all of its bytes, in equal parts but for the last.
fn strides(stride: usize, bytes: &[u8]) {
    let addr = SocketAddr::from(([192, 0, 2, 1], 443));
    let train = Train { stride, ..Train::datagram(addr, Local::default(), bytes.to_vec()) };
    let all: Vec<&[u8]> = train.datagrams().collect();
    assert_eq!(all.concat(), bytes);
    let size = if stride == 0 { bytes.len() } else { stride };
    let fits =
        |(n, one): (usize, &&[u8])| !one.is_empty() && (one.len() == size || (n + 1 == all.len() && one.len() < size));
    assert!(all.iter().enumerate().all(fits), "stride {stride} of {} bytes", bytes.len());
}

/// Packets out of an input: one whole (its length in front, or all that is left), or the next of the last one's flow with some
/// bytes changed. Half of them with right sums.
fn flow(mut rest: &[u8]) -> Vec<Vec<u8>> {
    let mut packets: Vec<Vec<u8>> = Vec::new();
    while let Some((kind, after)) = rest.split_first()
        && packets.len() <= 2 * SUPER_SEGMENTS_MAX
    {
        let (packet, after) = match packets.last() {
            Some(last) if kind & 0x0f != 0 => following(last, usize::from(kind & 0x0f) - 1, after),
            _ => {
                let Some((len, after)) = after.split_first_chunk::<2>() else { break };
                let at = usize::from(u16::from_be_bytes(*len)).min(after.len());
                let (packet, after) = after.split_at_checked(at).unwrap_or((after, &[]));
                (packet.to_vec(), after)
            }
        };
        packets.push(if kind & 0x80 == 0 { righted(&packet) } else { packet });
        rest = after;
    }
    packets
}

/// The packet that continues one, with so many bytes changed: where, and to what.
fn following<'i>(last: &[u8], changes: usize, mut rest: &'i [u8]) -> (Vec<u8>, &'i [u8]) {
    let mut next = last.to_vec();
    if let Ok(packet) = Packet::parse(last) {
        if let Transport::Tcp(tcp) = packet.transport {
            next.splice(packet.offset + 4..packet.offset + 8, tcp.seq.wrapping_add(tcp.length).to_be_bytes());
        }
        if packet.source.is_ipv4() {
            let id = last.get(4..6).and_then(|b| b.try_into().ok()).map_or(0, u16::from_be_bytes);
            put_word(&mut next, 4, id.wrapping_add(1));
        }
    }
    for _ in 0..changes {
        let Some(([at, to], after)) = rest.split_first_chunk::<2>() else { break };
        next.iter_mut().skip((*at).into()).take(1).for_each(|byte| *byte = *to);
        rest = after;
    }
    (next, rest)
}

/// A TCP segment in the middle of a stream, or a datagram, of either family.
pub fn data(v6: bool, tcp: bool, payload: &[u8]) -> Vec<u8> {
    let host = |last: u16| {
        if v6 {
            IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last])
        } else {
            IpAddr::from([10, 77, 1, last.to_be_bytes()[1]])
        }
    };
    let (from, to) = (SocketAddr::new(host(1), 4_000), SocketAddr::new(host(2), 443));
    if !tcp {
        return packet::udp(from, to, payload);
    }
    let mut bytes = packet::syn(from, to, payload);
    let at = if v6 { 53 } else { 33 };
    bytes.iter_mut().skip(at).take(1).for_each(|flags| *flags = 0x10);
    righted(&bytes)
}

const FAMILIES: [(&str, bool, bool); 4] =
    [("tcp4", false, true), ("udp4", false, false), ("tcp6", true, true), ("udp6", true, false)];

fn offload_seeds() -> Seeds {
    let mut seeds = Vec::new();
    for (name, v6, tcp) in FAMILIES {
        let kind = match (tcp, v6) {
            (true, false) => GsoKind::TcpV4,
            (true, true) => GsoKind::TcpV6,
            _ => GsoKind::Udp,
        };
        let payload: Vec<u8> = (0..700_u16).flat_map(u16::to_be_bytes).collect();
        for size in [0, 1, 22, 500, 1_399, 1_400, u16::MAX] {
            let mut frame =
                Frame { gso: Gso { kind, header_len: 40, size, checksum: None }, bytes: data(v6, tcp, &payload) };
            if let Ok(packet) = Packet::parse(&frame.bytes) {
                leave_checksum(&mut frame, &packet);
            }
            seeds.push(seed(&format!("{name}-of-{size}"), [&header::encode(&frame.gso)[..], &frame.bytes].concat()));
            if size == 1 {
                let open = Gso { kind: GsoKind::None, size: 0, ..frame.gso };
                seeds.push(seed(&format!("{name}-unfinished"), [&header::encode(&open)[..], &frame.bytes].concat()));
            }
        }
        seeds.push(seed(&format!("{name}-plain"), [&[0; HEADER_BYTES][..], &data(v6, tcp, b"odd")].concat()));
    }
    Ok(seeds)
}

fn train_seeds() -> Seeds {
    let mut seeds = Vec::new();
    for (name, v6, tcp) in FAMILIES {
        let first = data(v6, tcp, &[7; 60]);
        let len = u16::try_from(first.len()).unwrap_or(0).to_be_bytes();
        let head = [&[0, 100, 0], &len[..], &first].concat();
        seeds.push(seed(&format!("{name}-five"), [&head[..], &[1, 1, 1, 1]].concat()));
        // The last of them is shorter, and something else follows.
        let flags = if v6 { 53 } else { 33 };
        seeds.push(seed(&format!("{name}-pushed"), [&head[..], &[1, 2, flags, 0x18, 1, 1]].concat()));
        let short = data(v6, tcp, &[7; 11]);
        let other = [&[0, 0, u8::try_from(short.len()).unwrap_or(0)], &short[..]].concat();
        seeds.push(seed(&format!("{name}-two"), [&head[..], &[1], &other, &[1]].concat()));
        seeds.push(seed(&format!("{name}-damaged"), [&head[..], &[0x82, 70, 9, 1, 1]].concat()));
    }
    seeds.push(seed("many", [&[0, 1, 0, 0, 62][..], &data(true, false, &[1; 14]), &[1; 130]].concat()));
    Ok(seeds)
}
