//! Datagrams larger than the tunnel: laptop, client, gateway, service and back, judged like all others.

use super::path::{GATEWAY, LAPTOP_PORT, SERVICE_PORT, grant_id, granted, pairing, resource, routes, tunnel};
use super::*;
use crate::counters::Counters;
use crate::craft::{addresses, assert_sums, echo, ip, udp};
use crate::fragments::cut::{cut, renumber_v4};
use crate::fragments::{Fragments, Origin};
use crate::headers::Packet;
use model::limits::{FRAGMENT_LIFE, TUN_MTU, V6_MTU_MIN, WAITING_BYTES_MAX, WIREGUARD_OVERHEAD};
use model::net::{PortRange, Prefix, Protocol};
use std::collections::BTreeMap;

/// The laptop, the service as the laptop knows it, the service, and the grant's address.
fn ends(v6: bool) -> [IpAddr; 4] {
    if v6 {
        [pool().node(1).into(), pool().virtual_v6(7).unwrap().into(), ip("fd20::1"), ip("fd99::1")]
    } else {
        let [device, name] = [pool().device_v4(1), pool().virtual_v4(7)].map(|address| address.unwrap().into());
        [device, name, ip("10.1.0.1"), ip("198.18.0.1")]
    }
}

/// A packet as a kernel hands it to a TUN of the usual size: IPv4 may be cut, and is.
fn pieces(mut packet: Vec<u8>) -> Vec<Vec<u8>> {
    if packet[0] >> 4 == 4 {
        packet[6] = 0;
        renumber_v4(&mut packet, 77);
    }
    let mut pieces = Vec::new();
    cut(&packet, TUN_MTU, 77, |piece| pieces.push(piece.to_vec())).unwrap();
    pieces
}

/// What the kernel makes of packets out of a TUN: whole ones.
fn joined(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let kernel = Fragments::new(Arc::new(Counters::default()));
    let whole = |packet: &Vec<u8>| {
        let mut frame = Frame::packet(packet.clone());
        let all = kernel.complete(Instant(1), &mut frame, |source, _| Ok(Origin::Tun(source)), |_| Ok(()));
        all.then_some(frame.bytes)
    };
    packets.iter().filter_map(whole).collect()
}

fn payload(packet: &[u8]) -> &[u8] {
    &packet[Packet::parse(packet).unwrap().offset + 8..]
}

#[test]
fn a_large_datagram_crosses_both_ways() {
    for v6 in [false, true] {
        let [device, name, target, nat] = ends(v6);
        let data: Vec<u8> = (0..4_000u32).map(|n| (n % 251) as u8).collect();
        let mut net = granted();
        net.log.clear();
        for piece in pieces(udp((device, LAPTOP_PORT), (name, SERVICE_PORT), &data)).iter().rev() {
            net.tun(1, piece);
        }
        net.run();
        let taken = net.taken(0);
        // With IPv6 no router may cut it, so that it comes in pieces that pass everywhere.
        assert_eq!(taken.iter().map(Vec::len).max(), Some(if v6 { V6_MTU_MIN } else { 4_028 }));
        assert!(v6 || taken[0][6] & 0x40 == 0, "the next router may cut it");
        let [arrived] = &joined(&taken)[..] else { panic!("{} packets", taken.len()) };
        assert_sums(arrived);
        assert_eq!((addresses(arrived), payload(arrived)), ((nat, target), &data[..]));
        let port = Packet::parse(arrived).unwrap().source_port();

        for piece in pieces(udp((target, SERVICE_PORT), (nat, port), &data)) {
            net.tun(0, &piece);
        }
        net.run();
        let [answer] = &net.taken(1)[..] else { panic!("one whole packet") };
        assert_sums(answer);
        assert_eq!((addresses(answer), payload(answer)), ((name, device), &data[..]));
        let longest = net.log.iter().map(|(_, _, datagram)| datagram.len()).max().unwrap();
        assert!(longest <= TUN_MTU.next_multiple_of(16) + WIREGUARD_OVERHEAD, "{longest}: nothing is cut outside");
        assert!(net.log.len() >= 8, "each way three pieces and a handshake");
    }
}

#[test]
fn two_large_datagrams_at_once_do_not_mix() {
    for v6 in [false, true] {
        let [device, name, ..] = ends(v6);
        let mut net = granted();
        net.tun(1, &udp((device, LAPTOP_PORT), (name, SERVICE_PORT), b"first"));
        net.run();
        net.taken(0);
        // The laptop's kernel numbers them alike, from two sockets of two flows; on the way they have their own numbers.
        let both =
            [1u8, 2].map(|n| pieces(udp((device, LAPTOP_PORT + u16::from(n)), (name, SERVICE_PORT), &[n; 3_000])));
        for piece in both.iter().flatten() {
            net.tun(1, piece);
        }
        // All lasts of both come before all firsts.
        let mut trains: Vec<_> = net.wire.drain(..).collect();
        trains.reverse();
        net.wire.extend(trains);
        net.run();
        let arrived = joined(&net.taken(0));
        let mut data: Vec<&[u8]> = arrived.iter().map(|packet| payload(packet)).collect();
        data.sort_unstable();
        assert_eq!(data, [&[1; 3_000][..], &[2; 3_000]]);
    }
}

#[test]
fn what_is_not_whole_goes_nowhere_and_ends_in_time() {
    let mut net = granted();
    for v6 in [false, true] {
        let [device, name, target, nat] = ends(v6);
        for piece in &pieces(udp((device, LAPTOP_PORT), (name, SERVICE_PORT), &[1; 4_000]))[1..] {
            net.tun(1, piece);
        }
        for piece in &pieces(udp((target, SERVICE_PORT), (nat, 1), &[1; 4_000]))[1..] {
            net.tun(0, piece);
        }
    }
    net.run();
    assert!(net.taken(0).is_empty() && net.taken(1).is_empty());
    net.advance(FRAGMENT_LIFE);
    assert_eq!([0, 1].map(|host| net.counter(host, "drop_fragment_expired")), [4, 4]);
}

/// A client (1) that has no filter of its own: everything is routed, everything is its own.
fn unfiltered(net: &mut Net, own: IpAddr, to: IpAddr) {
    let state = RouteState::Granted { pairing: pairing(), grant: grant_id(), until: Instant::NEVER };
    let ports = [Protocol::Udp, Protocol::Tcp, Protocol::Icmp].map(|protocol| (protocol, PortRange::ALL)).to_vec();
    let entries = BTreeMap::from([(Prefix::host(to), vec![RouteEntry { resource: resource(), ports, state }])]);
    net.apply(1, Change::Routes(Arc::new(Routes { own: vec![own], entries, ..Routes::default() })));
}

#[test]
fn a_whole_one_is_judged_like_any_other() {
    for v6 in [false, true] {
        let [device, name, ..] = ends(v6);
        let neighbour = if v6 { pool().node(2).into() } else { pool().device_v4(2).unwrap().into() };
        // A client that honestly speaks of itself only.
        let mut net = granted();
        let foreign = pieces(udp((neighbour, LAPTOP_PORT), (name, SERVICE_PORT), &[1; 4_000]));
        foreign.iter().for_each(|piece| net.tun(1, piece));
        net.run();
        assert_eq!((net.counter(1, "drop_source_not_own"), net.counter(0, "drop_source_not_owned")), (3, 0));
        // One that does not: its pieces are not even kept.
        unfiltered(&mut net, neighbour, name);
        foreign.iter().for_each(|piece| net.tun(1, piece));
        net.run();
        assert_eq!(net.counter(0, "drop_source_not_owned"), 3);
        // What no grant speaks of has no first piece that may pass: nothing of it is kept, in any order.
        unfiltered(&mut net, device, name);
        let unwanted = pieces(echo(device, name, true, 7, &[1; 4_000]));
        unwanted.iter().for_each(|piece| net.tun(1, piece));
        net.run();
        assert_eq!(net.counter(0, "drop_no_grant"), 3);
        for order in [[2, 0, 1], [2, 1, 0]] {
            order.iter().for_each(|at| net.tun(1, &pieces(echo(device, name, true, 8, &[1; 4_000]))[*at]));
            net.run();
        }
        assert_eq!((net.counter(0, "drop_no_grant"), net.counter(0, "drop_fragment_expired")), (9, 0));
        assert!(net.taken(0).is_empty());
    }
}

#[test]
fn a_gateway_cannot_fill_a_clients_table_with_what_nobody_asked_for() {
    let mut net = granted();
    let [device, _, target, nat] = ends(false);
    net.tun(1, &udp((device, LAPTOP_PORT), (ends(false)[1], SERVICE_PORT), b"ask"));
    net.run();
    let port = Packet::parse(&net.taken(0)[0]).unwrap().source_port();
    // The grant is gone at the client, not yet at the gateway.
    let asking = routes(&net, false);
    net.apply(1, asking);
    pieces(udp((target, SERVICE_PORT), (nat, port), &[1; 4_000])).iter().for_each(|piece| net.tun(0, piece));
    net.run();
    assert!(net.taken(1).is_empty());
    assert_eq!((net.counter(1, "drop_unasked"), net.counter(1, "drop_fragment_expired")), (3, 0));
    net.advance(FRAGMENT_LIFE);
    assert_eq!(net.counter(1, "drop_fragment_expired"), 0, "they were not kept");
}

#[test]
fn control_tunnels_and_the_resolver_take_none() {
    let mut net = super::control::pair();
    let node: IpAddr = crate::address::address_of_node(&pool(), &super::control::device()).into();
    let large = udp((node, 40_000), (pool().controller().into(), model::pool::CONTROL_PORT), &[1; 4_000]);
    pieces(large).iter().for_each(|piece| net.tun(1, piece));
    assert_eq!(net.counter(1, "drop_fragment"), 3);
    for resolver in [IpAddr::V4(pool().resolver_v4()), pool().resolver_v6().into()] {
        let mut net = granted();
        pieces(udp((ends(resolver.is_ipv6())[0], 40_000), (resolver, 53), &[1; 4_000]))
            .iter()
            .for_each(|piece| net.tun(1, piece));
        assert_eq!((net.counter(1, "drop_fragment"), net.hosts[1].local.len()), (3, 0));
    }
}

#[test]
fn as_many_bytes_wait_for_a_decision_as_the_limit_says() {
    let [device, name, ..] = ends(false);
    let large = |n: u8| pieces(udp((device, LAPTOP_PORT), (name, SERVICE_PORT), &[n; 4_000]));
    let mut net = Net::new();
    net.host(Role::Gateway, GATEWAY);
    net.host(Role::Client, super::path::CLIENT);
    let asking = routes(&net, false);
    net.apply(1, asking);
    let fit = WAITING_BYTES_MAX / 4_028;
    for n in 0..=fit as u8 {
        large(n).iter().for_each(|piece| net.tun(1, piece));
    }
    assert_eq!(net.counter(1, "drop_waiting_full"), 1);
    net.apply(0, Change::Grants(super::path::view(true)));
    net.apply(1, tunnel());
    // There is no session yet: as many pieces wait for it as packets may.
    let granting = routes(&net, true);
    net.apply(1, granting);
    net.run();
    assert_eq!(joined(&net.taken(0)).len(), fit);
}
