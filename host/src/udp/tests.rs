//! Do datagrams and trains cross, whole and in order, at every step down?

use super::*;
use crate::test_support::{Host, allocations, enter_fresh_namespace, ip, privileged, soon};
use model::limits::{DATAGRAM_MAX, HANDSHAKE_BYTES_MAX, SEGMENTED_BYTES_MAX, SEGMENTS_MAX, SEND_MESSAGES_MAX};
use model::packet::Local;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

fn empty() -> Train {
    Train::datagram(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), Local::default(), Vec::new())
}

fn to(address: &str, port: u16) -> SocketAddr {
    SocketAddr::from((address.parse::<IpAddr>().expect("address"), port))
}

#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    let ours = Udp::bind(0).expect("bind");
    for (client, asked) in [("127.0.0.1", "127.0.0.77"), ("::1", "::1")] {
        let Ok(peer) = UdpSocket::bind(to(client, 0)) else {
            println!("skipped: {client} is not on this machine");
            continue;
        };
        peer.send_to(b"question", to(asked, ours.local_port())).expect("send");
        let mut train = empty();
        ours.recv(&mut train).expect("recv");
        assert_eq!(train.bytes, b"question");
        assert_eq!(train.addr, peer.local_addr().expect("address"), "plain IPv4, not mapped");
        assert_eq!(train.local.address, Some(asked.parse().expect("address")));
        assert!(train.local.interface > 0);

        train.bytes = b"answer".to_vec();
        assert_eq!(ours.send(&[train]), Sent { datagrams: 1, dropped: 0 });
        let mut bytes = [0; 16];
        let (len, from) = peer.recv_from(&mut bytes).expect("answer");
        assert_eq!((&bytes[..len], from), (&b"answer"[..], to(asked, ours.local_port())));
    }
}

#[test]
fn ecn_and_trains_cross() {
    let (one, two) = (Udp::bind(0).expect("bind"), Udp::bind(0).expect("bind"));
    for address in ["127.0.0.1", "::1"] {
        let mut train = Train::datagram(to(address, two.local_port()), Local::default(), b"aabbc".to_vec());
        train.stride = 2;
        train.ecn = 0b10;
        if one.send(std::slice::from_ref(&train)).datagrams == 0 {
            println!("skipped: {address} is not on this machine");
            continue;
        }
        for expected in [&b"aa"[..], b"bb", b"c"] {
            let mut got = empty();
            two.recv(&mut got).expect("recv");
            assert_eq!((got.bytes.as_slice(), got.ecn), (expected, 0b10));
        }
    }
}

#[test]
fn one_train_that_cannot_go_does_not_keep_the_others() {
    let (one, two) = (Udp::bind(0).expect("bind"), Udp::bind(0).expect("bind"));
    let good = Train::datagram(to("127.0.0.1", two.local_port()), Local::default(), b"good".to_vec());
    let mut large = good.clone();
    large.bytes = vec![0; DATAGRAM_MAX];
    let mut port_zero = good.clone();
    port_zero.addr.set_port(0);
    assert_eq!(one.send(&[large, port_zero, good]), Sent { datagrams: 1, dropped: 2 });
    assert_eq!(one.dropped(), 2);
    let mut got = empty();
    two.recv(&mut got).expect("recv");
    assert_eq!(got.bytes, b"good");
}

#[test]
fn a_local_address_that_went_away_is_replaced() {
    let (one, two) = (Udp::bind(0).expect("bind"), Udp::bind(0).expect("bind"));
    let stale = Local { address: Some("203.0.113.9".parse().expect("address")), interface: 4_000_000 };
    let train = Train::datagram(to("127.0.0.1", two.local_port()), stale, b"still".to_vec());
    assert_eq!(one.send(&[train]).datagrams, 1);
    let mut got = empty();
    two.recv(&mut got).expect("recv");
    assert_eq!(got.bytes, b"still");
}

#[test]
fn a_closed_port_elsewhere_does_not_end_recv() {
    let (ours, peer) = (Udp::bind(0).expect("bind"), UdpSocket::bind("127.0.0.1:0").expect("bind"));
    let closed = UdpSocket::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    // The kernel answers these with ICMP port unreachable, towards our socket.
    for _ in 0..3 {
        ours.send(&[Train::datagram(closed, Local::default(), b"x".to_vec())]);
    }
    peer.send_to(b"alive", to("127.0.0.1", ours.local_port())).expect("send");
    let mut train = empty();
    ours.recv(&mut train).expect("recv");
    assert_eq!(train.bytes, b"alive");
}

#[test]
fn a_port_in_use_is_named_with_what_to_do() {
    let first = Udp::bind(0).expect("bind");
    let error = Udp::bind(first.local_port()).err().expect("in use");
    assert!(matches!(error, UdpError::PortInUse(port) if port == first.local_port()));
    assert!(error.to_string().contains("ss -lunp"));
}

#[test]
fn without_ipv6_it_speaks_ipv4() {
    let ours = Udp::furnish(open::open_v4(0).expect("bind"), false, Steps::ALL).expect("socket");
    let port = ours.local_port();
    let peer = UdpSocket::bind("127.0.0.1:0").expect("bind");
    peer.send_to(b"question", to("127.0.0.5", port)).expect("send");
    let mut train = empty();
    ours.recv(&mut train).expect("recv");
    assert_eq!(train.local.address, Some("127.0.0.5".parse().expect("address")));
    assert_eq!(ours.send(&[train]).datagrams, 1);
    let (_, from) = peer.recv_from(&mut [0; 16]).expect("answer");
    assert_eq!(from, to("127.0.0.5", port));
}

#[test]
fn buffers_are_large_where_that_is_allowed() {
    if !privileged() {
        return;
    }
    std::thread::spawn(|| {
        enter_fresh_namespace();
        let ours = Udp::bind(443).expect("bind");
        if open::set(&ours.socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 1 << 20).is_err() {
            println!("skipped: needs real root, not a user namespace's");
            return;
        }
        assert_eq!(ours.buffers(), Buffers { receive: BUFFER_BYTES, send: BUFFER_BYTES });
        let small = Udp::bind_with(0, Steps { large_buffers: false, ..Steps::ALL }).expect("bind");
        assert!(small.buffers().receive > 0 && small.buffers().receive < BUFFER_BYTES, "{:?}", small.buffers());
    })
    .join()
    .expect("test thread");
}

/// Numbered datagrams of this size, the last one shorter.
fn numbered(addr: SocketAddr, count: usize, size: usize) -> Train {
    let mut train = Train::datagram(addr, Local::default(), Vec::new());
    for number in 0..count {
        let len = if number + 1 == count { size - 1 } else { size };
        train.bytes.extend((0..len).map(|at| u8::try_from((number * 7 + at) % 251).expect("small")));
    }
    train.stride = size;
    train
}

/// Receives until all datagrams of the trains are there, in order; tells stride and bytes of each message.
fn arrives(at: &Udp, expected: &[Train]) -> Vec<(usize, usize)> {
    at.set_recv_timeout(Some(Duration::from_secs(20))).expect("timeout");
    let wanted: Vec<_> = expected.iter().flat_map(|train| train.datagrams().map(|bytes| (bytes, train.ecn))).collect();
    let (mut got, mut messages, mut number) = (empty(), Vec::new(), 0);
    while number < wanted.len() {
        at.recv(&mut got).expect("all datagrams come");
        for datagram in got.datagrams() {
            let (bytes, ecn) = wanted.get(number).expect("no more than were sent");
            assert!(datagram == *bytes, "datagram {number} of {} bytes is another", datagram.len());
            assert_eq!(got.ecn, *ecn);
            number += 1;
        }
        messages.push((got.stride, got.bytes.len()));
    }
    messages
}

/// Two machines, with a cable of this MTU between them.
fn pair(mtu: u16, left: Steps, right: Steps) -> ((Host, Arc<Udp>), (Host, Arc<Udp>)) {
    let hosts = (Host::new(), Host::new());
    hosts.0.cable("west", "192.0.2.1/24 2001:db8::1/64", &hosts.1, ("east", "192.0.2.2/24 2001:db8::2/64"));
    hosts.0.run(move || ip(&format!("link set west mtu {mtu}")));
    hosts.1.run(move || ip(&format!("link set east mtu {mtu}")));
    let bind = |host: &Host, steps| host.run(move || Arc::new(Udp::bind_with(7443, steps).expect("bind")));
    let udp = (bind(&hosts.0, left), bind(&hosts.1, right));
    ((hosts.0, udp.0), (hosts.1, udp.1))
}

const RIGHT: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

#[test]
fn a_train_crosses_a_cable_whole_and_at_every_step_down() {
    if !privileged() {
        return;
    }
    for (sends, receives) in ["", "no-gso"].into_iter().flat_map(|sends| [(sends, ""), (sends, "no-gro")]) {
        let steps = |text: &str| text.parse::<Steps>().expect("words");
        let ((_left, west), (_right, east)) = pair(1500, steps(sends), steps(receives));
        assert_eq!(west.offloads(), UdpOffloads { gso: sends.is_empty(), gro: true });
        assert_eq!(east.offloads(), UdpOffloads { gso: true, gro: receives.is_empty() });
        for address in RIGHT {
            let mut train = numbered(to(address, 7443), 44, 1_452);
            train.ecn = 0b01;
            assert_eq!(west.send(std::slice::from_ref(&train)), Sent { datagrams: 44, dropped: 0 });
            let messages = arrives(&east, std::slice::from_ref(&train));
            if (sends, receives) == ("", "") {
                assert_eq!(messages, [(1_452, train.bytes.len())], "{address}");
            } else if receives == "no-gro" {
                assert!(messages.iter().all(|(stride, _)| *stride == 0), "{messages:?}");
            }
        }
    }
}

#[test]
fn a_long_train_is_cut_where_the_kernel_wants_it() {
    let bind = || Udp::bind_with(0, Steps::ALL).expect("bind");
    let (one, two) = (bind(), bind());
    let address = to("127.0.0.1", two.local_port());
    // Of small datagrams too many, of large ones too many bytes, and one that fills a message alone.
    for (count, size) in [(SEGMENTS_MAX * 2 + 3, 100), (60, 1_400), (3, SEGMENTED_BYTES_MAX)] {
        let train = numbered(address, count, size);
        assert_eq!(one.send(std::slice::from_ref(&train)), Sent { datagrams: count, dropped: 0 });
        let messages = arrives(&two, std::slice::from_ref(&train));
        let expected = if count == 3 { 0 } else { size };
        assert!(messages.iter().any(|(stride, _)| *stride == expected), "{messages:?}");
        for (stride, bytes) in messages {
            assert!(stride == 0 || bytes.div_ceil(stride) <= SEGMENTS_MAX, "{bytes} bytes in {stride}");
            assert!(bytes <= SEGMENTED_BYTES_MAX, "{bytes}");
        }
        assert!(one.offloads().gso);
    }
}

#[test]
fn more_messages_than_one_call_takes_go_in_order_around_a_bad_one() {
    let bind = || Udp::bind_with(0, Steps::ALL).expect("bind");
    let (one, two) = (bind(), bind());
    let address = to("127.0.0.1", two.local_port());
    let count = SEND_MESSAGES_MAX * 2 + 5;
    let mut trains: Vec<_> = (0..count).map(|number| numbered(address, 1 + number % 3, 20 + number)).collect();
    let good = trains.clone();
    for at in [0, SEND_MESSAGES_MAX - 1, SEND_MESSAGES_MAX + 3, count] {
        let mut bad = numbered(address, 2, 30);
        bad.addr.set_port(0);
        trains.insert(at, bad);
    }
    let datagrams = good.iter().map(|train| train.datagrams().count()).sum();
    assert_eq!(one.send(&trains), Sent { datagrams, dropped: 4 * 2 });
    assert_eq!(one.dropped(), 8);
    arrives(&two, &good);
    assert!(one.offloads().gso, "port 0 is nobody's, and says nothing about segments");
}

#[test]
fn a_narrow_path_takes_datagrams_one_by_one_and_smaller_ones_together() {
    if !privileged() {
        return;
    }
    let ((_left, west), (_right, east)) = pair(1280, Steps::ALL, Steps::ALL);
    for address in RIGHT {
        let address = to(address, 7443);
        for _ in 0..2 {
            let train = numbered(address, 20, 1_400);
            assert_eq!(west.send(std::slice::from_ref(&train)), Sent { datagrams: 20, dropped: 0 });
            arrives(&east, std::slice::from_ref(&train));
            assert!(west.narrow.refuses(address.ip(), 1_400));
        }
        let train = numbered(address, 20, 1_200);
        assert_eq!(west.send(std::slice::from_ref(&train)).datagrams, 20);
        assert_eq!(arrives(&east, std::slice::from_ref(&train)), [(1_200, train.bytes.len())]);
    }
    assert!(west.offloads().gso);
}

#[test]
fn a_machine_that_cannot_cut_messages_sends_single_datagrams_from_then_on() {
    let bind = || Udp::bind_with(0, Steps::ALL).expect("bind");
    let (one, two) = (bind(), bind());
    // The kernel cuts nothing that has no checksum.
    open::set(&one.socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).expect("option");
    let trains =
        [numbered(to("127.0.0.1", two.local_port()), 10, 700), numbered(to("127.0.0.1", two.local_port()), 2, 9)];
    assert_eq!(one.send(&trains), Sent { datagrams: 12, dropped: 0 });
    assert!(!one.offloads().gso);
    arrives(&two, &trains);
    assert_eq!(one.send(&trains), Sent { datagrams: 12, dropped: 0 });
    arrives(&two, &trains);
}

#[test]
fn a_train_from_an_address_that_went_away_is_still_one_message() {
    let bind = || Udp::bind_with(0, Steps::ALL).expect("bind");
    let (one, two) = (bind(), bind());
    let mut train = numbered(to("127.0.0.1", two.local_port()), 10, 700);
    train.local = Local { address: Some("203.0.113.9".parse().expect("address")), interface: 4_000_000 };
    assert_eq!(one.send(std::slice::from_ref(&train)), Sent { datagrams: 10, dropped: 0 });
    assert_eq!(arrives(&two, std::slice::from_ref(&train)), [(700, train.bytes.len())]);
    assert!(one.offloads().gso);
}

#[test]
fn what_is_there_is_taken_and_what_is_not_is_not_waited_for() {
    let bind = || Udp::bind_with(0, Steps::ALL).expect("bind");
    let (one, two) = (bind(), bind());
    let mut got = empty();
    assert!(!two.try_recv(&mut got).expect("nothing"));
    let train = numbered(to("127.0.0.1", two.local_port()), 5, 100);
    one.send(&[train.clone(), train.clone()]);
    for _ in 0..2 {
        soon("a train is there", || two.try_recv(&mut got).expect("no error"));
        assert_eq!((got.stride, &got.bytes), (100, &train.bytes));
    }
    assert!(!two.try_recv(&mut got).expect("nothing"));
    two.set_recv_timeout(Some(Duration::from_millis(1))).expect("timeout");
    assert_eq!(two.recv(&mut got).expect_err("nothing comes").kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_message_that_does_not_fit_is_dropped_and_counted() {
    let (one, two) = (Udp::bind(0).expect("bind"), Udp::bind(0).expect("bind"));
    let address = to("127.0.0.1", two.local_port());
    for size in [101, 100] {
        one.send(&[Train::datagram(address, Local::default(), vec![7; size])]);
    }
    let mut got = empty();
    assert!(!two.receive_once(&mut got, 0, 100).expect("came"));
    assert_eq!((got.bytes.len(), two.truncated()), (0, 1));
    assert!(two.receive_once(&mut got, 0, 100).expect("came"));
    assert_eq!((got.bytes.len(), two.truncated()), (100, 1));
}

#[test]
fn warm_buffers_ask_for_no_memory() {
    let bind = || Udp::bind_with(0, Steps::ALL).expect("bind");
    let (one, two) = (bind(), bind());
    let train = numbered(to("127.0.0.1", two.local_port()), 40, 1_000);
    let trains = [train.clone(), train];
    let mut got = empty();
    let mut round = || {
        one.send(&trains);
        while two.try_recv(&mut got).expect("recv") {}
    };
    round();
    let before = allocations();
    (0..20).for_each(|_| round());
    assert_eq!(allocations(), before);
}

#[test]
fn a_flood_of_handshakes_takes_no_room_of_the_datas() {
    let mut udp = Udp::bind_with(0, Steps::ALL).expect("bind");
    udp.split();
    let beside = udp.beside().expect("a second socket");
    for socket in [&udp, beside] {
        socket.set_recv_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    }
    for to in ["127.0.0.1", "::1"] {
        let sender = UdpSocket::bind((to, 0)).expect("bind");
        sender.connect((to, udp.local_port())).expect("connect");
        // Far more than any buffer holds.
        for _ in 0..20_000 {
            sender.send(&[1; 148]).expect("send");
        }
        sender.send(&[4; 32]).expect("send");
        sender.send(&[2; 92]).expect("send");
        sender.send(&[4; 33]).expect("send");
        let mut train = Train::datagram(([0, 0, 0, 0], 0).into(), Local::default(), Vec::new());
        let mut data = Vec::new();
        while data.len() < 65 {
            udp.recv(&mut train).expect("data, in its time");
            data.extend_from_slice(&train.bytes);
        }
        assert_eq!(data, [4; 65], "{to}");
        assert!(!udp.try_recv(&mut train).expect("nothing more"));
        beside.recv(&mut train).expect("what is no data");
        assert!(train.bytes.starts_with(&[1; 148]));
        while beside.try_recv(&mut train).expect("or nothing") {
            assert_ne!(train.bytes.first(), Some(&4));
        }
    }
    assert!(matches!(Udp::bind(udp.local_port()), Err(UdpError::PortInUse(_))), "the port is still ours alone");
}

#[test]
fn many_small_messages_come_with_one_call_and_larger_ones_are_counted() {
    let here = Udp::bind(0).unwrap();
    here.set_recv_timeout(Some(Duration::from_secs(5))).unwrap();
    let there = Udp::bind(0).unwrap();
    let to = SocketAddr::from(([127, 0, 0, 1], here.local_port()));
    let datagram = |bytes: Vec<u8>| Train::datagram(to, Local::default(), bytes);
    let mut sent: Vec<Train> = (0..100_u8).map(|n| datagram(vec![n; usize::from(n) + 1])).collect();
    sent.insert(50, datagram(vec![0; HANDSHAKE_BYTES_MAX + 1]));
    sent.insert(51, datagram(vec![200; HANDSHAKE_BYTES_MAX]));
    assert_eq!(there.send(&sent).dropped, 0);
    let (mut batch, mut came, mut calls) = (super::Batch::new(HANDSHAKE_BYTES_MAX), Vec::new(), 0);
    while came.len() < 101 {
        here.recv_batch(&mut batch).unwrap();
        calls += 1;
        batch.each(|train| {
            assert_eq!((train.addr.port(), train.stride), (there.local_port(), 0));
            assert_eq!(train.local.address, Some(to.ip()));
            came.push(train.bytes.clone());
        });
    }
    let fitting: Vec<Vec<u8>> =
        sent.iter().map(|t| t.bytes.clone()).filter(|b| b.len() <= HANDSHAKE_BYTES_MAX).collect();
    assert_eq!(came, fitting, "in their order");
    assert_eq!(here.truncated(), 1);
    assert!(calls <= 10, "{calls} calls for 102 messages");
    batch.each(|_| panic!("taken twice"));
}
