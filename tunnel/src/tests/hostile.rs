//! Strangers, attackers on the path, and peers that misbehave: silence, and the live sessions stay.

use super::control::{device, pair, request, to_controller, to_node};
use super::*;
use crate::knock;
use crate::wire::{Doors, Message};
use model::ids::NodeId;
use model::limits::{
    DATA_KEYS_MAX, DATAGRAM_MAX, HANDSHAKES_PER_SECOND, HANDSHAKES_PER_SOURCE, KNOCKS_PER_SECOND, PEER_SWEEP_MAX,
    PEERS_MAX, PROVISIONAL_MAX,
};
use model::pool::CONTROL_PORT;
use model::secret::Secret;
use model::time::WallMs;
use proptest::prelude::*;

const STRANGER: u8 = 66;

/// A fresh initiation by the holder of private key `n` to the host with key `to`.
fn initiation(n: u8, to: u8) -> Vec<u8> {
    let door = Boring::default().door(&key(n));
    door.open(&public(to), &PeerKind::Control, 77).unwrap().initiate(Instant(0)).unwrap()
}

/// A pair with a live session; the datagrams that made it are in the log.
fn live() -> Net {
    let mut net = pair();
    net.tun(1, &request(CONTROL_PORT));
    net.run();
    assert_eq!(net.taken(0).len(), 1);
    net
}

fn still_alive(net: &mut Net) {
    let before = net.log.len();
    net.tun(1, &request(CONTROL_PORT));
    net.run();
    assert_eq!(net.taken(0), [request(CONTROL_PORT)]);
    assert_eq!(net.log.len(), before + 1, "one data packet, no new handshake");
}

#[test]
fn replays_of_all_that_was_ever_sent_get_no_answer() {
    let mut net = live();
    let endpoint = net.status(0, &PeerId::Node(device())).endpoint;
    for (_, to, bytes) in net.log.clone() {
        let host = if to == addr(1) { 0 } else { 1 };
        assert!(!net.deliver(host, addr(STRANGER), &bytes), "type {}", bytes[0]);
    }
    assert!(net.counter(0, "udp_replay") >= 2);
    assert_eq!(net.status(0, &PeerId::Node(device())).endpoint, endpoint);
    still_alive(&mut net);
}

#[test]
fn an_old_initiation_is_not_answered_after_the_peer_was_added_again() {
    let mut net = live();
    let old = net.log[0].2.clone();
    assert_eq!(old[0], 1);
    net.apply(0, Change::AddPeer(to_node()));
    assert!(!net.deliver(0, addr(2), &old));
    still_alive(&mut net);
}

#[test]
fn strangers_hear_nothing() {
    let mut net = live();
    assert!(!net.deliver(0, addr(STRANGER), &initiation(STRANGER, 1)), "he knows our key");
    assert!(!net.deliver(0, addr(STRANGER), &initiation(STRANGER, 9)), "he does not");
    assert!(!net.deliver(1, addr(STRANGER), &initiation(STRANGER, 2)), "nor does a client answer");
    assert_eq!((net.counter(0, "udp_unknown_sender"), net.counter(0, "udp_mac1")), (1, 1));
    still_alive(&mut net);
}

#[test]
fn a_flood_is_asked_for_cookies_and_the_living_go_on() {
    let mut net = Net::new();
    net.host_with(Role::Controller, 1, Arc::new(Boring { handshakes_per_second: 3 }), Bounds::default());
    net.host(Role::Client, 2);
    net.apply(0, Change::AddPeer(to_node()));
    net.apply(1, Change::AddPeer(to_controller()));
    net.tun(1, &request(CONTROL_PORT));
    net.run();
    net.taken(0);
    let flood = initiation(STRANGER, 1);
    for _ in 0..20 {
        net.deliver(0, addr(STRANGER), &flood);
    }
    let cookies = net.log.iter().filter(|(_, to, b)| *to == addr(STRANGER) && b[0] == 3 && b.len() == 64).count();
    assert!((17..=18).contains(&cookies), "{cookies}");
    assert_eq!(net.counter(0, "udp_cookie_asked"), cookies as u64);
    still_alive(&mut net);
    // The peer proves its address with the cookie, and shakes hands under load.
    net.hosts[1].events.clear();
    net.apply(1, Change::ForceHandshake(PeerId::Node(NodeId::Controller)));
    net.run();
    assert!(net.hosts[1].events.is_empty(), "first a cookie");
    net.advance(model::limits::HANDSHAKE_RETRY_EARLY);
    net.run();
    assert_eq!(net.hosts[1].events.len(), 1);
    // A stranger's cookie is not sent to a type 2 of somebody else's index, and garbage does not count as load.
    assert!(!net.deliver(0, addr(STRANGER), &initiation(STRANGER, 9)));
}

#[test]
fn whose_address_is_forged_is_not_flooded_with_cookies() {
    let mut net = Net::new();
    net.host_with(Role::Controller, 1, Arc::new(Boring { handshakes_per_second: 0 }), Bounds::default());
    let flood = initiation(STRANGER, 1);
    for _ in 0..2 * HANDSHAKES_PER_SECOND {
        net.deliver(0, addr(STRANGER), &flood);
    }
    let cookies = |net: &Net, to: u8| net.log.iter().filter(|(_, at, b)| *at == addr(to) && b[0] == 3).count() as u64;
    assert_eq!(cookies(&net, STRANGER), HANDSHAKES_PER_SECOND);
    assert_eq!(net.counter(0, "udp_source_rate"), HANDSHAKES_PER_SECOND);
    for _ in 0..u64::from(HANDSHAKES_PER_SOURCE) * 2 {
        net.deliver(0, addr(40), &flood);
    }
    assert_eq!(cookies(&net, 40), u64::from(HANDSHAKES_PER_SOURCE), "others have their share");
    net.advance(Duration::from_secs(1));
    net.deliver(0, addr(STRANGER), &flood);
    assert_eq!(cookies(&net, STRANGER), HANDSHAKES_PER_SECOND + 1);
}

#[test]
fn handshakes_are_counted_once_and_not_by_each_tunnel() {
    let mut net = Net::new();
    net.host_with(Role::Controller, 1, Arc::new(Boring { handshakes_per_second: 40 }), Bounds::default());
    net.host(Role::Client, 2);
    net.apply(0, Change::AddPeer(to_node()));
    net.apply(1, Change::AddPeer(to_controller()));
    for _ in 0..40 {
        net.apply(1, Change::ForceHandshake(PeerId::Node(NodeId::Controller)));
        net.run();
    }
    assert_eq!((net.hosts[1].events.len(), net.counter(0, "udp_cookie_asked")), (40, 0));
}

#[test]
fn datagrams_of_every_size_are_silent() {
    let mut net = live();
    let index = net.log.iter().find(|(from, _, b)| *from == addr(2) && b[0] == 4).unwrap().2[4..8].to_vec();
    let mut bytes = vec![0xa5; DATAGRAM_MAX];
    bytes[1..4].fill(0);
    bytes[4..8].copy_from_slice(&index);
    bytes[8..12].copy_from_slice(&index);
    for len in 0..=DATAGRAM_MAX {
        bytes[0] = (len % 6) as u8;
        for host in [0, 1] {
            assert!(!net.deliver(host, addr(STRANGER), &bytes[..len]), "{len}");
        }
    }
    for kind in 0..6 {
        bytes[0] = kind;
        for len in 0..300 {
            assert!(!net.deliver(0, addr(STRANGER), &bytes[..len]), "{kind} {len}");
        }
        assert!(!net.deliver(0, addr(STRANGER), &bytes));
    }
    still_alive(&mut net);
}

#[test]
fn counters_near_their_end_are_refused_before_they_are_opened() {
    let mut net = live();
    let mut data = net.log.iter().rev().find(|(from, _, b)| *from == addr(2) && b[0] == 4).unwrap().2.clone();
    for counter in [u64::MAX, u64::MAX - 1, u64::MAX - 1_024, u64::MAX - (1 << 13)] {
        data[8..16].copy_from_slice(&counter.to_le_bytes());
        assert!(!net.deliver(0, addr(2), &data));
    }
    assert_eq!(net.counter(0, "udp_replay"), 4);
    data[8..16].copy_from_slice(&(1u64 << 62).to_le_bytes());
    assert!(!net.deliver(0, addr(2), &data));
    assert_eq!(net.counter(0, "udp_forged"), 1);
    still_alive(&mut net);
}

#[test]
fn a_frame_that_no_datagram_can_hold_is_dropped() {
    let mut net = live();
    let mut large = request(CONTROL_PORT);
    large.resize(DATAGRAM_MAX - 10, 0);
    let payload = (large.len() - 40) as u16;
    large[4..6].copy_from_slice(&payload.to_be_bytes());
    net.tun(1, &large);
    for len in 0..80 {
        net.tun(1, &vec![0x60; len]);
        net.tun(0, &vec![0x45; len]);
    }
    net.run();
    assert_eq!(net.taken(0), Vec::<Vec<u8>>::new());
    still_alive(&mut net);
}

#[test]
fn the_endpoint_follows_the_peer_and_not_its_replayers() {
    let mut net = live();
    let node = PeerId::Node(device());
    net.tun(1, &request(CONTROL_PORT));
    let moved = net.wire.pop_front().unwrap().bytes;
    assert!(net.deliver(0, addr(30), &moved));
    assert_eq!(net.status(0, &node).endpoint, Some(addr(30)));
    assert!(!net.deliver(0, addr(STRANGER), &moved));
    assert_eq!(net.status(0, &node).endpoint, Some(addr(30)));
    // A fresh initiation sent on from elsewhere is answered there, but moves nothing.
    net.apply(1, Change::ForceHandshake(PeerId::Node(NodeId::Controller)));
    let fresh = net.wire.pop_front().unwrap().bytes;
    assert!(net.deliver(0, addr(STRANGER), &fresh));
    assert_eq!(net.status(0, &node).endpoint, Some(addr(30)));
}

#[test]
fn the_bounds_of_an_engine_are_those_of_the_limits() {
    let bounds = Bounds::default();
    assert_eq!((bounds.peers, bounds.provisional), (PEERS_MAX, PROVISIONAL_MAX));
    assert_eq!(bounds.data_keys, DATA_KEYS_MAX);
}

#[test]
fn as_many_strangers_may_enrol_at_once_as_the_limit_says() {
    let mut net = Net::new();
    net.host(Role::Controller, 1);
    let key = |n: usize| PublicKey([&[7, (n >> 8) as u8, n as u8][..], &[1; 29]].concat().try_into().unwrap());
    let provisional =
        |n: usize| Peer { id: PeerId::Provisional(key(n)), kind: PeerKind::Provisional, remote: key(n), ..to_node() };
    for n in 0..PROVISIONAL_MAX {
        net.apply(0, Change::AddPeer(provisional(n)));
    }
    assert_eq!((net.counter(0, "peers"), net.counter(0, "peer_provisional_full")), (PROVISIONAL_MAX as u64, 0));
    net.apply(0, Change::AddPeer(provisional(PROVISIONAL_MAX)));
    assert_eq!((net.counter(0, "peers"), net.counter(0, "peer_provisional_full")), (PROVISIONAL_MAX as u64, 1));
    // A node that is known is in nobody's way.
    net.apply(0, Change::AddPeer(to_node()));
    assert_eq!(net.counter(0, "peers"), PROVISIONAL_MAX as u64 + 1);
    net.advance(model::limits::PROVISIONAL_LIFE);
    net.apply(0, Change::AddPeer(provisional(PROVISIONAL_MAX)));
    assert_eq!((net.counter(0, "peers"), net.counter(0, "peer_provisional_full")), (2, 1));
}

#[test]
fn a_sweep_of_peers_comes_to_all_of_them() {
    let mut net = Net::new();
    net.host(Role::Controller, 1);
    let count = 2 * PEER_SWEEP_MAX + 3;
    for n in 0..count {
        let bytes: [u8; 10] = [&[(n >> 8) as u8, n as u8][..], &[3; 8]].concat().try_into().unwrap();
        let id = NodeId::Device(model::ids::DeviceId::from_bytes(bytes));
        let key: [u8; 32] = [&bytes[..], &[9; 22]].concat().try_into().unwrap();
        let address = crate::address_of_node(&pool(), &id);
        let endpoints = vec![addr(2)];
        let peer = Peer {
            id: PeerId::Node(id),
            remote: PublicKey(key),
            addresses: vec![address.into()],
            endpoints,
            keepalive: Some(Duration::from_secs(1)),
            ..to_node()
        };
        net.apply(0, Change::AddPeer(peer));
    }
    net.log.clear();
    net.advance(Duration::from_secs(2));
    assert_eq!(net.log.len(), count, "each one shakes hands, and none of them twice");
}

#[test]
fn tables_of_peers_are_bounded() {
    let mut net = Net::new();
    let bounds = Bounds { peers: 5, provisional: 3, ..Bounds::default() };
    net.host_with(Role::Controller, 1, Arc::new(Boring::default()), bounds);
    let provisional = |n: u8| Peer {
        id: PeerId::Provisional(public(n)),
        kind: PeerKind::Provisional,
        remote: public(n),
        ..to_node()
    };
    for n in 10..20 {
        net.apply(0, Change::AddPeer(provisional(n)));
    }
    assert_eq!((net.counter(0, "peers"), net.counter(0, "peer_provisional_full")), (3, 7));
    let node = |n: u8| {
        let id = NodeId::Device(model::ids::DeviceId::from_bytes([n; 10]));
        let address = crate::address_of_node(&pool(), &id);
        Peer { id: PeerId::Node(id), remote: public(n), addresses: vec![address.into()], ..to_node() }
    };
    for n in 30..40 {
        net.apply(0, Change::AddPeer(node(n)));
    }
    assert_eq!((net.counter(0, "peers"), net.counter(0, "peer_table_full")), (5, 8));
    // Room comes back with time, and with removal.
    net.advance(model::limits::PROVISIONAL_LIFE);
    net.apply(0, Change::RemovePeer(node(30).id));
    assert_eq!(net.counter(0, "peers"), 1);
    net.apply(0, Change::AddPeer(provisional(50)));
    assert_eq!(net.counter(0, "peers"), 2);
}

#[test]
fn keys_and_addresses_belong_to_one_peer() {
    let mut net = pair();
    let other = NodeId::Device(model::ids::DeviceId::from_bytes([8; 10]));
    net.apply(0, Change::AddPeer(Peer { id: PeerId::Node(other), ..to_node() }));
    assert_eq!(net.counter(0, "peer_key_taken"), 1);
    net.apply(0, Change::AddPeer(Peer { id: PeerId::Node(other), remote: public(9), ..to_node() }));
    assert_eq!(net.counter(0, "peer_address_taken"), 1);
    let low = Peer { id: PeerId::Node(other), remote: PublicKey([0; 32]), addresses: vec![], ..to_node() };
    net.apply(0, Change::AddPeer(low));
    assert_eq!(net.counter(0, "peer_low_order"), 1);
    assert_eq!(net.counter(0, "peers"), 1);
    still_alive_from_cold(&mut net);
}

fn still_alive_from_cold(net: &mut Net) {
    net.tun(1, &request(CONTROL_PORT));
    net.run();
    assert_eq!(net.taken(0), [request(CONTROL_PORT)]);
}

#[test]
fn a_node_with_a_new_key_takes_its_own_place() {
    let mut net = pair();
    still_alive_from_cold(&mut net);
    net.apply(0, Change::AddPeer(Peer { remote: public(9), ..to_node() }));
    assert_eq!(net.counter(0, "peers"), 1);
    net.tun(1, &request(CONTROL_PORT));
    net.run();
    assert_eq!(net.taken(0), Vec::<Vec<u8>>::new(), "the old key is nobody's");
}

#[test]
fn indices_are_not_to_be_guessed() {
    let mut net = pair();
    net.apply(1, Change::ForceHandshake(PeerId::Node(NodeId::Controller)));
    let mut other = Net::new();
    other.host(Role::Client, 9);
    other.apply(0, Change::AddPeer(Peer { local: key(9), ..to_controller() }));
    other.apply(0, Change::ForceHandshake(PeerId::Node(NodeId::Controller)));
    assert_ne!(net.wire[0].bytes[4..8], other.wire[0].bytes[4..8], "they depend on the seed");
}

#[test]
fn knocks_reach_the_controller_at_a_bounded_rate_and_nobody_else() {
    let mut net = pair();
    let secret = Secret::new([3; 32]);
    let knock = |to: u8, n: u64| {
        let mut nonce = [0; 24];
        nonce[..8].copy_from_slice(&n.to_le_bytes());
        knock::build(&secret, &public(to), WallMs(0), &public(50), nonce)
    };
    // First a flood of such that were not made for this controller: they use nothing up.
    for n in 0..KNOCKS_PER_SECOND * 2 {
        assert!(!net.deliver(0, addr(STRANGER), &knock(9, n)));
    }
    for n in 0..KNOCKS_PER_SECOND * 2 {
        net.deliver(0, addr(STRANGER), &knock(1, n));
    }
    let events = &net.hosts[0].events;
    assert_eq!(events.len() as u64, KNOCKS_PER_SECOND);
    assert!(
        matches!(&events[0], Event::Knock { bytes, from, .. } if *from == addr(STRANGER) && bytes[..] == knock(1, 0))
    );
    assert_eq!(net.counter(0, "udp_knock_rate"), KNOCKS_PER_SECOND);
    assert!(!net.deliver(1, addr(STRANGER), &knock(2, 0)));
    assert!(net.log.is_empty(), "a knock is never answered");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn a_changed_bit_in_any_message_is_silent(message in 0usize..4, at: prop::sample::Index, bit in 0u8..8) {
        let mut net = pair();
        net.tun(1, &request(CONTROL_PORT));
        // Up to the message in question all is delivered; it arrives with one bit changed.
        for _ in 0..message {
            let Some(train) = net.wire.pop_front() else { break };
            let from = train.local.address.unwrap();
            let to = net.hosts.iter().position(|h| h.addr == train.addr).unwrap();
            net.deliver(to, SocketAddr::new(from, 443), &train.bytes);
        }
        let mut train = net.wire.pop_front().unwrap();
        let at = at.index(train.bytes.len());
        let mac2 = matches!(Message::read(&train.bytes), Some(Message::Initiation | Message::Response(_)))
            && at >= train.bytes.len() - 16;
        prop_assume!(!mac2, "MAC2 counts under load only");
        train.bytes[at] ^= 1 << bit;
        let to = net.hosts.iter().position(|h| h.addr == train.addr).unwrap();
        prop_assert!(!net.deliver(to, addr(STRANGER), &train.bytes));
    }

    #[test]
    fn any_datagram_is_silent(bytes in proptest::collection::vec(any::<u8>(), 0..400), kind in 0u8..6) {
        let mut net = pair();
        prop_assert!(!net.deliver(0, addr(STRANGER), &bytes));
        let mut typed = bytes;
        typed.splice(0..4.min(typed.len()), [kind, 0, 0, 0]);
        prop_assert!(!net.deliver(0, addr(STRANGER), &typed));
    }
}
