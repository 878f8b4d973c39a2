//! Control tunnels: two engines shake hands, and only the control ports pass.

use super::*;
use crate::address::{address_of_key, address_of_node};
use model::ids::{DeviceId, NodeId};
use model::pool::{CONTROL_PORT, ENROL_PORT};

const CONTROLLER: u8 = 1;
const NODE: u8 = 2;

pub fn device() -> NodeId {
    NodeId::Device(DeviceId::from_bytes([5; 10]))
}

/// What the controller is to a node.
pub fn to_controller() -> Peer {
    Peer {
        id: PeerId::Node(NodeId::Controller),
        kind: PeerKind::Control,
        local: key(NODE),
        remote: public(CONTROLLER),
        addresses: vec![pool().controller().into()],
        endpoints: vec![addr(CONTROLLER)],
        keepalive: None,
    }
}

/// What the node is to the controller.
pub fn to_node() -> Peer {
    Peer {
        id: PeerId::Node(device()),
        kind: PeerKind::Control,
        local: key(CONTROLLER),
        remote: public(NODE),
        addresses: vec![address_of_node(&pool(), &device()).into()],
        endpoints: vec![],
        keepalive: None,
    }
}

fn to_provisional() -> Peer {
    Peer { id: PeerId::Provisional(public(NODE)), kind: PeerKind::Provisional, addresses: vec![], ..to_node() }
}

/// A controller (0) and a node (1) that know each other.
pub fn pair() -> Net {
    let mut net = Net::new();
    net.host(Role::Controller, CONTROLLER);
    net.host(Role::Client, NODE);
    net.apply(0, Change::AddPeer(to_node()));
    net.apply(1, Change::AddPeer(to_controller()));
    net
}

pub fn request(port: u16) -> Vec<u8> {
    tcp6(address_of_node(&pool(), &device()), 40_000, pool().controller(), port, SYN, b"")
}

fn answer(port: u16, flags: u8) -> Vec<u8> {
    tcp6(pool().controller(), port, address_of_node(&pool(), &device()), 40_000, flags, b"hello")
}

#[test]
fn two_engines_shake_hands_and_carry_packets_both_ways() {
    let mut net = pair();
    net.tun(1, &request(CONTROL_PORT));
    net.run();
    assert_eq!(net.taken(0), [request(CONTROL_PORT)]);
    net.tun(0, &answer(CONTROL_PORT, ACK));
    net.run();
    assert_eq!(net.taken(1), [answer(CONTROL_PORT, ACK)]);
    let theirs = |peer, endpoint, theirs| Event::Handshake { peer, endpoint, theirs };
    assert_eq!(net.hosts[0].events, [theirs(PeerId::Node(device()), addr(NODE), true)]);
    assert_eq!(net.hosts[1].events, [theirs(PeerId::Node(NodeId::Controller), addr(CONTROLLER), false)]);
    let status = net.status(0, &PeerId::Node(device()));
    assert_eq!(status.endpoint, Some(addr(NODE)));
    assert_eq!(status.last_handshake, Some(net.now));
    assert_eq!(status.received, request(CONTROL_PORT).len() as u64);
    assert_eq!(status.sent, answer(CONTROL_PORT, ACK).len() as u64);
}

#[test]
fn a_control_tunnel_carries_its_ports_and_nothing_else() {
    let mut net = pair();
    for port in [22, 443, ENROL_PORT, CONTROL_PORT - 1, CONTROL_PORT + 2] {
        net.tun(1, &request(port));
        net.run();
        assert_eq!(net.taken(0), Vec::<Vec<u8>>::new(), "{port}");
    }
    // Nothing opens a connection towards a node.
    net.tun(1, &request(CONTROL_PORT));
    net.run();
    assert_eq!(net.taken(0).len(), 1);
    for (port, flags) in [(CONTROL_PORT, SYN), (22, ACK), (22, SYN)] {
        net.tun(0, &answer(port, flags));
        net.run();
        assert_eq!(net.taken(1), Vec::<Vec<u8>>::new(), "{port}");
    }
}

#[test]
fn a_source_that_the_key_does_not_own_is_dropped() {
    let mut net = pair();
    let other = NodeId::Device(DeviceId::from_bytes([6; 10]));
    let spoofed = tcp6(address_of_node(&pool(), &other), 40_000, pool().controller(), CONTROL_PORT, SYN, b"");
    net.tun(1, &spoofed);
    net.run();
    assert_eq!(net.taken(0), Vec::<Vec<u8>>::new());
    assert_eq!(net.counter(0, "drop_source_not_owned"), 1);
}

fn enrolling() -> Net {
    let mut net = Net::new();
    net.host(Role::Controller, CONTROLLER);
    net.host(Role::Client, NODE);
    net.apply(0, Change::AddPeer(to_provisional()));
    net.apply(1, Change::AddPeer(to_controller()));
    net
}

fn enrol_request(port: u16) -> Vec<u8> {
    tcp6(address_of_key(&pool(), &public(NODE)), 40_000, pool().controller(), port, SYN, b"")
}

#[test]
fn a_provisional_peer_reaches_the_enrolment_port_only() {
    let mut net = enrolling();
    for port in [ENROL_PORT, CONTROL_PORT, 22] {
        net.tun(1, &enrol_request(port));
        net.run();
    }
    assert_eq!(net.taken(0), [enrol_request(ENROL_PORT)]);
}

#[test]
fn a_provisional_peer_is_gone_after_its_life() {
    let mut net = enrolling();
    net.tun(1, &enrol_request(ENROL_PORT));
    net.run();
    net.advance(model::limits::PROVISIONAL_LIFE - Duration::from_secs(2));
    assert!(net.hosts[0].engine.peer(&PeerId::Provisional(public(NODE))).is_some());
    net.advance(Duration::from_secs(2));
    assert!(net.hosts[0].engine.peer(&PeerId::Provisional(public(NODE))).is_none());
    net.taken(0);
    net.tun(1, &enrol_request(ENROL_PORT));
    net.run();
    assert_eq!(net.taken(0), Vec::<Vec<u8>>::new());
}

#[test]
fn promotion_keeps_the_tunnel_and_lets_enrolment_finish() {
    let mut net = enrolling();
    net.tun(1, &enrol_request(ENROL_PORT));
    net.run();
    net.taken(0);
    let handshakes = net.log.iter().filter(|(_, _, b)| b[0] == 1).count();
    let address = address_of_node(&pool(), &device());
    net.apply(0, Change::Promote { key: public(NODE), node: device(), address });
    // The answer to Enroll is still on its way, under the old address.
    let enrolled = tcp6(pool().controller(), ENROL_PORT, address_of_key(&pool(), &public(NODE)), 40_000, ACK, b"ok");
    net.tun(0, &enrolled);
    net.tun(1, &request(CONTROL_PORT));
    net.run();
    assert_eq!(net.taken(1), std::slice::from_ref(&enrolled));
    assert_eq!(net.taken(0), [request(CONTROL_PORT)]);
    assert_eq!(net.log.iter().filter(|(_, _, b)| b[0] == 1).count(), handshakes, "no new handshake");
    assert!(net.hosts[0].engine.peer(&PeerId::Provisional(public(NODE))).is_none());
    // Its minute over, it is a node and nothing else.
    net.advance(model::limits::PROVISIONAL_LIFE);
    net.run();
    net.tun(0, &enrolled);
    net.tun(1, &enrol_request(ENROL_PORT));
    net.tun(1, &request(CONTROL_PORT));
    net.run();
    assert_eq!(net.taken(1), Vec::<Vec<u8>>::new());
    assert_eq!(net.taken(0), [request(CONTROL_PORT)]);
}

#[test]
fn a_node_that_knocks_again_stays_the_node_and_may_enrol() {
    let mut net = pair();
    net.tun(1, &request(CONTROL_PORT));
    net.run();
    net.apply(0, Change::AddPeer(to_provisional()));
    net.taken(0);
    net.tun(1, &enrol_request(ENROL_PORT));
    net.tun(1, &request(CONTROL_PORT));
    net.run();
    assert_eq!(net.taken(0), [enrol_request(ENROL_PORT), request(CONTROL_PORT)]);
    assert!(net.hosts[0].engine.peer(&PeerId::Node(device())).is_some());
}

#[test]
fn the_same_peer_again_keeps_its_tunnel() {
    let mut net = pair();
    net.tun(1, &request(CONTROL_PORT));
    net.run();
    let before = net.log.len();
    net.apply(0, Change::AddPeer(to_node()));
    net.apply(1, Change::AddPeer(Peer { endpoints: vec![addr(9), addr(CONTROLLER)], ..to_controller() }));
    net.tun(1, &request(CONTROL_PORT));
    net.run();
    assert_eq!(net.taken(0).len(), 2);
    assert_eq!(net.log.len(), before + 1, "one data packet, no handshake, to the endpoint in use");
}

#[test]
fn other_candidates_are_tried_when_told() {
    let mut net = Net::new();
    net.host(Role::Controller, CONTROLLER);
    net.host(Role::Client, NODE);
    net.apply(0, Change::AddPeer(to_node()));
    net.apply(1, Change::AddPeer(Peer { endpoints: vec![addr(9), addr(CONTROLLER)], ..to_controller() }));
    let controller = PeerId::Node(NodeId::Controller);
    // Whoever asks for a handshake doubts the endpoint in use: all of them hear it, and the one that answers is used.
    net.apply(1, Change::ForceHandshake(controller));
    net.run();
    assert_eq!(net.status(1, &controller).endpoint, Some(addr(CONTROLLER)));
    assert_eq!(net.hosts[1].events.len(), 1);
    net.apply(1, Change::Endpoints(controller, vec![addr(8)]));
    assert_eq!(net.status(1, &controller).endpoint, Some(addr(CONTROLLER)));
    net.apply(1, Change::NextEndpoint(controller));
    assert_eq!(net.status(1, &controller).endpoint, Some(addr(8)));
}

#[test]
fn a_removed_peer_is_a_stranger() {
    let mut net = pair();
    net.tun(1, &request(CONTROL_PORT));
    net.run();
    net.taken(0);
    net.apply(0, Change::RemovePeer(PeerId::Node(device())));
    let before = net.log.len();
    net.tun(1, &request(CONTROL_PORT));
    net.apply(1, Change::ForceHandshake(PeerId::Node(NodeId::Controller)));
    net.run();
    assert_eq!(net.taken(0), Vec::<Vec<u8>>::new());
    assert!(net.log[before..].iter().all(|(from, _, _)| *from == addr(NODE)), "the controller said nothing");
    assert_eq!((net.counter(0, "udp_unknown_index"), net.counter(0, "udp_unknown_sender")), (1, 1));
}

#[test]
fn a_train_of_many_datagrams_is_taken_whole_and_in_order() {
    let mut net = pair();
    net.tun(1, &request(CONTROL_PORT));
    net.run();
    net.taken(0);
    let segment =
        |n: u8| tcp6(address_of_node(&pool(), &device()), 40_000, pool().controller(), CONTROL_PORT, ACK, &[n; 8]);
    for n in 0..20 {
        net.tun(1, &segment(n));
    }
    let sent: Vec<Vec<u8>> = net.wire.drain(..).map(|t| t.bytes).collect();
    let mut bytes = sent.concat();
    // A stranger's datagram of the same size, and a shorter one at the end.
    bytes.splice(0..0, vec![4; sent[0].len()]);
    bytes.extend([4, 0, 0, 0]);
    let mut train = Train { stride: sent[0].len(), ..Train::datagram(addr(NODE), Local::default(), bytes) };
    let mut out = Out::default();
    net.hosts[0].engine.from_udp(net.now, &mut train, &mut out);
    assert_eq!(out.tun.into_iter().map(|f| f.bytes).collect::<Vec<_>>(), (0..20).map(segment).collect::<Vec<_>>());
    assert_eq!(net.counter(0, "udp_not_wireguard"), 2);
}
