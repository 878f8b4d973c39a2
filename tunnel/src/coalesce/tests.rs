//! Joined packets, cut again, are the packets; and what is not joined.

use super::*;
use crate::craft::{assert_sums, seal_v4};
use crate::headers::{FIN, SYN};
use crate::segment::leave_checksum;
use crate::segment::tests::{Shape, cut, identified, made};
use proptest::prelude::*;

const ALL: Offloads = Offloads { vnet: true, tso: true, uso: true };

fn joined(offloads: Offloads, packets: &[Vec<u8>]) -> Vec<Frame> {
    let (mut coalescer, mut frames, mut spare) = (Coalescer::new(offloads), Vec::new(), Spare::default());
    packets.iter().for_each(|packet| coalescer.push(packet, &mut frames, &mut spare));
    coalescer.close(&mut frames);
    frames
}

/// What the kernel makes of frames.
fn cut_again(frames: Vec<Frame>) -> Vec<Vec<u8>> {
    let pieces = |mut frame: Frame| {
        if frame.gso.kind == GsoKind::None {
            return vec![frame.bytes];
        }
        let packet = Packet::parse(&frame.bytes).unwrap();
        leave_checksum(&mut frame, &packet);
        cut(&frame).unwrap()
    };
    frames.into_iter().flat_map(pieces).collect()
}

/// Without its identification, if it may not be fragmented: there it means nothing (RFC 6864 section 4.1).
fn unnamed(mut bytes: Vec<u8>) -> Vec<u8> {
    let names_nothing = bytes.first().is_some_and(|b| b >> 4 == 4) && bytes.get(6).is_some_and(|b| b & 0x40 != 0);
    if names_nothing && Packet::parse(&bytes).is_ok() {
        bytes = identified(bytes, 0);
    }
    bytes
}

/// A stream of one flow, in order.
fn stream(v6: bool, is_tcp: bool, sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut seq = 0xffff_ff00u32;
    let packet = |(n, size): (usize, &usize)| {
        let payload: Vec<u8> = (0..*size).map(|i| (i * 7 + n) as u8).collect();
        let made = identified(made(v6, is_tcp, seq, ACK, &payload), n as u16);
        seq = seq.wrapping_add(*size as u32);
        made
    };
    sizes.iter().enumerate().map(packet).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_kernel_cuts_exactly_what_came(
        sizes in proptest::collection::vec(prop_oneof![Just(1_380usize), Just(500), 1usize..1_400], 1..80), v6: bool, is_tcp: bool,
        swaps in proptest::collection::vec((0usize..80, 0usize..80), 0..4),
        damage in proptest::collection::vec((0usize..80, 0usize..60, any::<u8>()), 0..4),
    ) {
        let mut packets = stream(v6, is_tcp, &sizes);
        for (a, b) in swaps {
            let (a, b) = (a % packets.len(), b % packets.len());
            packets.swap(a, b);
        }
        for (n, at, to) in damage {
            let n = n % packets.len();
            if let Some(byte) = packets[n].get_mut(at) { *byte = to; }
        }
        let again = cut_again(joined(ALL, &packets));
        prop_assert!(again.len() == packets.len());
        prop_assert!(again.into_iter().map(unnamed).eq(packets.into_iter().map(unnamed)));
    }
}

/// One thing that may be different in a packet of a flow.
fn change(shape: &mut Shape, what: usize, to: u8) {
    match what {
        0 => shape.flags ^= to & !6,
        1 => shape.seq = shape.seq.wrapping_add(to.into()),
        2 => shape.ack ^= u32::from(to),
        3 => shape.window ^= u16::from(to),
        4 => shape.urgent ^= u16::from(to),
        5 => shape.options.iter_mut().take(1).for_each(|byte| *byte ^= to),
        6 => shape.options.truncate(4 * usize::from(to % 4)),
        7 => shape.class ^= to,
        8 => shape.hops ^= to,
        9 => shape.id = shape.id.wrapping_add(to.into()),
        10 => shape.whole ^= to & 1 != 0,
        11 => shape.unsummed ^= to & 1 != 0,
        12 => shape.padding = usize::from(to % 3),
        13 => shape.is_tcp ^= to & 1 != 0,
        14 => shape.v6 ^= to & 1 != 0,
        _ => shape.flags |= PSH,
    }
}

/// A flow whose packets differ here and there, each with right sums.
fn flow() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let size = prop_oneof![4 => Just(700usize), 1 => 0usize..1_400, 1 => Just(1)];
    let changes = proptest::collection::vec((0usize..40, 0usize..16, any::<u8>()), 0..4);
    (Shape::any(true), proptest::collection::vec(size, 1..40), changes, any::<bool>()).prop_map(
        |(shape, sizes, changes, like_tcp)| {
            // Nothing is joined but data; its flags come by the changes.
            let first = Shape { flags: ACK, unsummed: false, ..shape };
            let mut sent = 0;
            let one = |(n, size): (usize, &usize)| {
                let mut own = first.after(n, sent);
                changes.iter().filter(|c| c.0 == n).for_each(|c| change(&mut own, c.1, c.2));
                // A change of the sequence number may stay.
                sent += if like_tcp { *size } else { *size + own.seq.wrapping_sub(first.seq) as usize % 7 };
                own.packet(&vec![n as u8; *size])
            };
            sizes.iter().enumerate().map(one).collect()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_a_flow_says_cutting_gives_it_back(packets in flow()) {
        let again = cut_again(joined(ALL, &packets));
        prop_assert_eq!(again.len(), packets.len());
        prop_assert!(again.into_iter().map(unnamed).eq(packets.into_iter().map(unnamed)));
    }

    #[test]
    fn what_was_cut_is_joined_to_what_it_was(
        shape in Shape::any(true), payload in proptest::collection::vec(any::<u8>(), 2..9_000), size in 150usize..1_400, pushes: bool,
    ) {
        prop_assume!(payload.len() > size);
        let shape = Shape { flags: if pushes && shape.is_tcp { ACK | PSH } else { ACK }, unsummed: false, ..shape };
        let mut whole = Frame::packet(shape.packet(&payload));
        let kind = match (shape.is_tcp, shape.v6) {
            (true, false) => GsoKind::TcpV4,
            (true, true) => GsoKind::TcpV6,
            _ => GsoKind::Udp,
        };
        whole.gso = Gso { kind, size: size as u16, ..Gso::NONE };
        let packets = cut(&whole).unwrap();
        packets.iter().for_each(|packet| assert_sums(packet));
        let mut frames = joined(ALL, &packets);
        prop_assert_eq!(frames.len(), 1);
        // But for the transport's checksum, which whoever cuts it makes anew.
        for frame in frames.iter_mut().chain([&mut whole]) {
            let packet = Packet::parse(&frame.bytes).unwrap();
            frame.gso.header_len = 0;
            leave_checksum(frame, &packet);
        }
        prop_assert_eq!(&frames[0], &whole);
    }
}

#[test]
fn an_identification_counts_on_beyond_its_last() {
    for whole in [false, true] {
        let shape = Shape { whole, id: 0xffff, ..plain_shape() };
        let packets =
            [shape.packet(&[1; 100]), shape.after(1, 100).packet(&[2; 99]), shape.after(2, 199).packet(&[3; 9])];
        let frames = joined(ALL, &packets);
        // The second is shorter, so that it is the last one.
        assert_eq!((frames.len(), cut_again(frames)), (2, packets.to_vec()));
    }
}

/// TCP over IPv4, nothing special.
fn plain_shape() -> Shape {
    Shape {
        v6: false,
        is_tcp: true,
        flags: ACK,
        seq: 7,
        ack: 9,
        window: 500,
        urgent: 0,
        options: Vec::new(),
        padding: 0,
        class: 0,
        hops: 64,
        id: 1,
        whole: true,
        unsummed: false,
    }
}

#[test]
fn what_says_more_than_data_goes_alone() {
    // URG, ECE and CWR, each in front and behind: a joined packet could not say of which part they speak.
    for (flag, urgent) in [(0x20, 3), (0x40, 0), (0x80, 0), (FIN, 0)] {
        for special in 0..3 {
            let made = |n: usize| {
                let own = plain_shape().after(n, n * 100);
                let flags = if n == special { ACK | flag } else { ACK };
                Shape { flags, urgent, ..own }.packet(&[1; 100])
            };
            let packets: Vec<_> = (0..3).map(made).collect();
            let frames = joined(ALL, &packets);
            assert_eq!(frames.len(), if special == 1 { 3 } else { 2 }, "flag {flag:#x} in packet {special}");
            assert_eq!(cut_again(frames), packets);
        }
    }
}

#[test]
fn a_train_of_one_flow_becomes_one_packet() {
    for (v6, is_tcp) in [(false, true), (false, false), (true, true), (true, false)] {
        let packets = stream(v6, is_tcp, &[[1_380; 43].as_slice(), &[77]].concat());
        let frames = joined(ALL, &packets);
        assert_eq!(frames.len(), 1, "{v6} {is_tcp}");
        assert_eq!(usize::from(frames[0].gso.size), 1_380);
        frames.iter().for_each(|f| assert!(Packet::parse(&f.bytes).is_ok_and(|p| p.len == f.bytes.len())));
        assert_eq!(cut_again(frames), packets);
        // Nothing larger than a packet can be, and nothing after a short one.
        let frames = joined(ALL, &stream(v6, is_tcp, &[1_380; 100]));
        assert!(frames.len() == 3 && frames.iter().all(|f| f.bytes.len() <= DATAGRAM_MAX), "{}", frames.len());
        assert_eq!(joined(ALL, &stream(v6, is_tcp, &[100, 100, 50, 100, 100])).len(), 2);
        assert_eq!(joined(ALL, &stream(v6, is_tcp, &[50, 100])).len(), 2);
    }
    let most = stream(true, true, &vec![20; SUPER_SEGMENTS_MAX + 1]);
    assert_eq!(joined(ALL, &most).len(), 2);
}

#[test]
fn what_a_cut_would_not_give_back_stays_apart() {
    let two = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut packets = stream(false, true, &[100, 100]);
        change(&mut packets);
        let frames = joined(ALL, &packets);
        assert_eq!(cut_again(frames.clone()), packets);
        frames.len()
    };
    assert_eq!(two(&|_| ()), 1);
    assert_eq!(two(&|p| p.swap(0, 1)), 2, "not the next sequence number");
    assert_eq!(two(&|p| p[1] = identified(made(false, true, 0xffff_ff00 + 100, FIN | ACK, &[1; 100]), 1)), 2, "FIN");
    assert_eq!(two(&|p| p[0] = made(false, true, 0xffff_ff00, SYN | ACK, &[1; 100])), 2, "SYN");
    assert_eq!(two(&|p| p[0] = identified(made(false, true, 0xffff_ff00, PSH | ACK, &[1; 100]), 0)), 2, "PSH in front");
    assert_eq!(
        two(&|p| p[1] = identified(made(false, true, 0xffff_ff00 + 100, PSH | ACK, &[1; 100]), 1)),
        1,
        "PSH behind"
    );
    let other = |at: usize| {
        move |p: &mut Vec<Vec<u8>>| {
            p[1][at] ^= 1;
            seal_v4(&mut p[1]);
        }
    };
    for at in [1, 8, 15, 19, 20, 23, 31, 34, 39] {
        assert_eq!(two(&other(at)), 2, "byte {at} differs, and the checksum does not hold or the header is another");
    }
    // A damaged payload goes on alone, damaged.
    assert_eq!(two(&|p| *p[1].last_mut().unwrap() ^= 1), 2);
    // Without what says that it may not be fragmented, the identification has to count on.
    let fragmentable = |id: u16| {
        move |p: &mut Vec<Vec<u8>>| {
            for packet in p.iter_mut() {
                packet[6] = 0;
                seal_v4(packet);
            }
            p[1] = identified(p[1].clone(), id);
        }
    };
    assert_eq!((two(&fragmentable(1)), two(&fragmentable(5))), (1, 2));
    // A datagram without a checksum has to stay without one.
    let mut packets = stream(false, false, &[100, 100]);
    packets.iter_mut().for_each(|p| p[26..28].fill(0));
    assert_eq!(joined(ALL, &packets).len(), 2);
    // And what follows the packet in its buffer is not passed on with it.
    let mut packets = stream(false, true, &[100, 100]);
    packets.iter_mut().for_each(|p| p.extend([0; 5]));
    let frames = joined(ALL, &packets);
    assert!(frames.len() == 1 && frames[0].bytes.len() == 240);
    cut_again(frames).iter().for_each(|packet| assert_sums(packet));
}

#[test]
fn a_device_gets_what_it_takes() {
    let none = Offloads::default();
    let tcp_only = Offloads { uso: false, ..ALL };
    for (offloads, is_tcp, frames) in [(none, true, 4), (none, false, 4), (tcp_only, true, 1), (tcp_only, false, 4)] {
        assert_eq!(joined(offloads, &stream(true, is_tcp, &[100; 4])).len(), frames, "{offloads:?}");
    }
}
