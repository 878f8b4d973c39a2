//! Super-packets on their whole way: cut where they are sealed, one train on the wire, joined where they are opened.

use super::path::{
    CLIENT, GATEWAY, LAPTOP_PORT, SERVICE_PORT, device, granted, nat, routes, target, tunnel, view, virtual_address,
};
use super::*;
use crate::craft::{assert_sums, tcp, udp};
use crate::headers::{ACK, Packet, SYN};
use crate::segment::tests::{cut, super_packet};
use model::limits::{SEGMENTS_MAX, WAITING_PACKETS_MAX};
use model::packet::{GsoKind, Offloads};
use std::net::Ipv4Addr;

const ALL: Offloads = Offloads { vnet: true, tso: true, uso: true };
const SIZE: u16 = 1_380;

fn ends(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> ((IpAddr, u16), (IpAddr, u16)) {
    ((from.0.into(), from.1), (to.0.into(), to.1))
}

/// A super-packet of a laptop's TCP connection to the service.
fn stream(seq: u32, payload: &[u8]) -> Frame {
    let (from, to) = ends((device(), LAPTOP_PORT), (virtual_address(), SERVICE_PORT));
    super_packet(tcp(from, to, ACK, (seq, 1), payload), SIZE)
}

/// Its answer, as the gateway's kernel gives it.
fn answer(seq: u32, payload: &[u8]) -> Frame {
    let (from, to) = ends((target(), SERVICE_PORT), (nat(), LAPTOP_PORT));
    super_packet(tcp(from, to, ACK, (seq, 1), payload), SIZE)
}

/// What a frame of a host's TUN becomes, and what the other end writes for it; the trains in between are whole.
fn cross(net: &mut Net, from: usize, mut frame: Frame) -> (Vec<Train>, Vec<Frame>) {
    let (mut sent, mut got) = (Out::with(ALL), Out::with(ALL));
    net.hosts[from].engine.from_tun(net.now, &mut frame, &mut sent);
    let (source, to) = (net.hosts[from].addr, 1 - from);
    for train in &sent.udp {
        net.hosts[to].engine.from_udp(net.now, &mut Train { addr: source, ..train.clone() }, &mut got);
    }
    assert!(sent.tun.is_empty() && got.udp.is_empty());
    (std::mem::take(&mut sent.udp), std::mem::take(&mut got.tun))
}

/// With a tunnel, a connection through it, and its first packets gone both ways.
fn connected() -> Net {
    let mut net = granted();
    let (from, to) = ends((device(), LAPTOP_PORT), (virtual_address(), SERVICE_PORT));
    net.tun(1, &tcp(from, to, SYN, (0, 0), b""));
    net.run();
    let (from, to) = ends((target(), SERVICE_PORT), (nat(), LAPTOP_PORT));
    net.tun(0, &tcp(from, to, SYN | ACK, (0, 1), b""));
    net.run();
    assert_eq!((net.taken(0).len(), net.taken(1).len()), (1, 1));
    net
}

#[test]
fn a_super_packet_is_one_train_and_one_super_packet_again_both_ways() {
    let mut net = connected();
    let payload: Vec<u8> = (0..60_001u32).map(|n| (n * 31) as u8).collect();
    let count = payload.len().div_ceil(SIZE.into());
    for (host, frame, (from, to)) in [
        (1, stream(1, &payload), ends((nat(), LAPTOP_PORT), (target(), SERVICE_PORT))),
        (0, answer(1, &payload), ends((virtual_address(), SERVICE_PORT), (device(), LAPTOP_PORT))),
    ] {
        let (trains, frames) = cross(&mut net, host, frame);
        assert!(trains.len() == 1 && count <= SEGMENTS_MAX && trains[0].datagrams().count() == count);
        assert_eq!(frames.len(), 1);
        assert_eq!((frames[0].gso.kind, frames[0].gso.size), (GsoKind::TcpV4, SIZE));
        let segments = cut(&frames[0]).unwrap();
        let carried: Vec<u8> = segments.iter().flat_map(|s| s[40..].to_vec()).collect();
        assert!(carried == payload && segments.len() == count);
        for segment in &segments {
            assert_sums(segment);
            let packet = Packet::parse(segment).unwrap();
            let got = ((packet.source, packet.source_port()), (packet.destination, packet.destination_port()));
            assert_eq!(got, (from, to));
            assert_eq!(packet.hops, if host == 1 { 63 } else { 64 }, "towards the service the gateway is a router");
        }
    }
    // Flow records count packets as they were on the wire.
    let flow = net.hosts[0].engine.stopped_flows().pop().unwrap();
    let bytes = (payload.len() + 40 * count + 40) as u64;
    assert_eq!((flow.up, flow.down), ((count as u64 + 1, bytes), (count as u64 + 1, bytes)));
}

#[test]
fn equal_packets_of_one_batch_leave_as_one_train_and_a_longer_one_begins_another() {
    let net = connected();
    let mut out = Out::with(ALL);
    let (from, to) = ends((device(), LAPTOP_PORT), (virtual_address(), SERVICE_PORT));
    for len in [[64; SEGMENTS_MAX].as_slice(), &[64, 64, 10, 10, 65]].concat() {
        net.hosts[1].engine.from_tun(net.now, &mut Frame::packet(udp(from, to, &vec![7; len])), &mut out);
    }
    let shape: Vec<_> = out.udp.iter().map(|t| (t.stride - 60, t.datagrams().count())).collect();
    assert_eq!(shape, [(64, SEGMENTS_MAX), (64, 3), (10, 1), (65, 1)]);
}

#[test]
fn a_burst_that_opens_a_flow_waits_packet_by_packet() {
    let mut net = Net::new();
    net.host(Role::Gateway, GATEWAY);
    net.host(Role::Client, CLIENT);
    let asking = routes(&net, false);
    net.apply(1, asking);
    let (from, to) = ends((device(), LAPTOP_PORT), (virtual_address(), SERVICE_PORT));
    let mut burst = super_packet(udp(from, to, &[5; 100 * WAITING_PACKETS_MAX + 100]), 100);
    let mut out = Out::with(ALL);
    net.hosts[1].engine.from_tun(net.now, &mut burst, &mut out);
    assert_eq!(out.events, [Event::Want(super::path::resource())]);
    assert_eq!(net.counter(1, "drop_waiting_full"), 1, "one more than may wait");
    net.apply(0, Change::Grants(view(true)));
    net.apply(1, tunnel());
    let routes = routes(&net, true);
    net.apply(1, routes);
    net.run();
    let arrived = net.taken(0);
    assert!(arrived.len() == WAITING_PACKETS_MAX && arrived.iter().all(|p| p.len() == 128));
}

#[test]
fn what_a_device_says_wrongly_is_dropped_and_counted() {
    let mut net = connected();
    let good = stream(1, &[1; 5_000]);
    let mut send = |change: &dyn Fn(&mut Frame)| {
        let mut frame = good.clone();
        change(&mut frame);
        cross(&mut net, 1, frame).0.len()
    };
    assert_eq!(send(&|_| ()), 1);
    assert_eq!(send(&|f| f.gso.size = 0), 0);
    assert_eq!(send(&|f| f.gso.size = 1), 0);
    assert_eq!(send(&|f| f.gso.kind = GsoKind::Udp), 0);
    assert_eq!(send(&|f| f.bytes.truncate(1_000)), 0, "shorter than it says");
    assert_eq!(send(&|f| f.bytes.push(0)), 0, "longer");
    assert_eq!(send(&|f| f.gso.header_len = u16::MAX), 1, "only a hint");
    assert_eq!((net.counter(1, "drop_offload"), net.counter(1, "drop_truncated")), (4, 1));
}

#[test]
fn congestion_on_the_outer_path_reaches_the_inner_packets() {
    let net = connected();
    let mark = |ecn: u8| {
        let mut frame = stream(1, &[1; 3_000]);
        frame.bytes[1] = ecn;
        crate::craft::seal_v4(&mut frame.bytes);
        frame
    };
    let engine = |net: &Net, host: usize, frame: Frame, outer: Option<u8>| {
        let (mut sent, mut got) = (Out::with(ALL), Out::with(ALL));
        net.hosts[host].engine.from_tun(net.now, &mut frame.clone(), &mut sent);
        let train = sent.udp.pop().unwrap();
        let mut arriving = Train { addr: net.hosts[host].addr, ecn: outer.unwrap_or(train.ecn), ..train.clone() };
        net.hosts[1 - host].engine.from_udp(net.now, &mut arriving, &mut got);
        (train.ecn, got.tun.first().map(|f| f.bytes[1]))
    };
    assert_eq!(engine(&net, 1, mark(0b10), None), (0b10, Some(0b10)));
    assert_eq!(engine(&net, 1, mark(0b10), Some(0b11)), (0b10, Some(0b11)), "marked on its way");
    assert_eq!(engine(&net, 1, mark(0), Some(0b11)), (0, None), "its sender understands losses alone");
    assert_eq!(net.counter(0, "drop_ecn"), 3);
    // The service class stays inside (RFC 2983, the pipe model): nobody on the way sees it, nobody on the way changes it.
    let expedited = 46 << 2;
    assert_eq!(engine(&net, 1, mark(expedited | 0b10), None), (0b10, Some(expedited | 0b10)));
    assert_eq!(engine(&net, 1, mark(expedited | 0b10), Some(0b11)), (0b10, Some(expedited | 0b11)));
}
