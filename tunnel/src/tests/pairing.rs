//! Pairings: a gateway takes them from its view, a client one by one; both need the same pre-shared key.

use super::*;
use grant::{PairingView, Scope, VerifiedGrant, View};
use model::grant::{Grant, Pairing};
use model::ids::*;
use model::key::Psk;
use model::net::{PortRange, Protocol, Rule, Target};
use model::pool::NatPool;
use std::collections::BTreeMap;

const GATEWAY: u8 = 3;
const CLIENT: u8 = 4;
const DATA_KEY: u8 = 20;

fn pairing_id(n: u8) -> PairingId {
    PairingId::from_bytes([n; 10])
}

fn scope() -> Arc<Scope> {
    Arc::new(Scope {
        pool: pool(),
        nat: NatPool { v4: "198.18.0.0/15".parse().unwrap(), v6: "fd99::/48".parse().unwrap() },
        site: vec!["10.1.0.0/16".parse().unwrap()],
        own: vec![],
    })
}

fn a_grant(n: u8, pairing: u8) -> Arc<VerifiedGrant> {
    let target = "10.1.0.1".parse().unwrap();
    let grant = Grant {
        id: GrantId::from_bytes([n; 10]),
        pairing: pairing_id(pairing),
        device: DeviceId::from_bytes([5; 10]),
        resource: ResourceId::from_bytes([6; 10]),
        rules: vec![Rule {
            client: target,
            target: Target::Prefix(target),
            protocol: Protocol::Udp,
            ports: PortRange::ALL,
        }],
        nat_v4: "198.18.0.1".parse().unwrap(),
        nat_v6: "fd99::1".parse().unwrap(),
        ends_in: Duration::from_secs(60),
        lease: Duration::from_secs(60),
        on_gateway: false,
    };
    Arc::new(VerifiedGrant::verify(grant, &scope()).unwrap())
}

/// A view with these pairings (number, data key, PSK), each with the grants of these numbers.
fn view(pairings: &[(u8, u8, u8)], grants: &[u8]) -> Arc<View> {
    let of = |(n, data_key, psk): &(u8, u8, u8)| {
        let pairing = Pairing {
            id: pairing_id(*n),
            device: DeviceId::from_bytes([5; 10]),
            client_key: public(*data_key),
            psk: Psk::new([*psk; 32]),
            device_v4: pool().device_v4(1).unwrap(),
            device_v6: pool().node(1),
        };
        let grants = grants.iter().map(|g| a_grant(*g, *n)).collect();
        (pairing_id(*n), PairingView { pairing: Arc::new(pairing), grants })
    };
    Arc::new(View { scope: scope(), pairings: pairings.iter().map(of).collect::<BTreeMap<_, _>>() })
}

fn client_side(n: u8, data_key: u8, psk: u8) -> Peer {
    Peer {
        id: PeerId::Pairing(pairing_id(n)),
        kind: PeerKind::Pairing(Psk::new([psk; 32])),
        local: key(data_key),
        remote: public(GATEWAY),
        addresses: vec![],
        endpoints: vec![addr(GATEWAY)],
        keepalive: None,
    }
}

/// A gateway (0) and a client (1).
fn net() -> Net {
    let mut net = Net::new();
    net.host(Role::Gateway, GATEWAY);
    net.host(Role::Client, CLIENT);
    net
}

fn shaken(net: &Net, host: usize, n: u8) -> usize {
    let id = PeerId::Pairing(pairing_id(n));
    net.hosts[host].events.iter().filter(|e| matches!(e, Event::Handshake { peer, .. } if *peer == id)).count()
}

fn shake(net: &mut Net, n: u8) {
    net.apply(1, Change::ForceHandshake(PeerId::Pairing(pairing_id(n))));
    net.run();
}

#[test]
fn a_pairing_shakes_hands_under_its_psk() {
    let mut net = net();
    net.apply(0, Change::Grants(view(&[(1, DATA_KEY, 9)], &[1])));
    net.apply(1, Change::AddPeer(client_side(1, DATA_KEY, 9)));
    shake(&mut net, 1);
    assert_eq!((shaken(&net, 0, 1), shaken(&net, 1, 1)), (1, 1));
}

#[test]
fn a_first_candidate_that_is_dead_delays_nothing() {
    let mut net = net();
    net.apply(0, Change::Grants(view(&[(1, DATA_KEY, 9)], &[1])));
    let endpoints = vec![addr(90), addr(91), addr(GATEWAY)];
    net.apply(1, Change::AddPeer(Peer { endpoints, ..client_side(1, DATA_KEY, 9) }));
    shake(&mut net, 1);
    assert_eq!((shaken(&net, 0, 1), shaken(&net, 1, 1)), (1, 1));
    assert_eq!(net.status(1, &PeerId::Pairing(pairing_id(1))).endpoint, Some(addr(GATEWAY)), "the one that answered");
    // What is not asked for goes where the far end is: whoever was reached once is not sought elsewhere.
    let before = net.log.len();
    net.advance(std::time::Duration::from_secs(300));
    net.run();
    assert!(net.log[before..].iter().all(|(_, to, _)| *to != addr(90) && *to != addr(91)));
}

#[test]
fn a_lost_first_hello_goes_to_all_candidates_again() {
    let mut net = net();
    net.apply(0, Change::Grants(view(&[(1, DATA_KEY, 9)], &[1])));
    let endpoints = vec![addr(90), addr(GATEWAY)];
    net.apply(1, Change::AddPeer(Peer { endpoints, ..client_side(1, DATA_KEY, 9) }));
    net.apply(1, Change::ForceHandshake(PeerId::Pairing(pairing_id(1))));
    net.wire.clear();
    net.advance(model::limits::HANDSHAKE_RETRY);
    net.run();
    assert_eq!(shaken(&net, 1, 1), 1);
}

#[test]
fn a_wrong_psk_never_does() {
    let mut net = net();
    net.apply(0, Change::Grants(view(&[(1, DATA_KEY, 9)], &[1])));
    net.apply(1, Change::AddPeer(client_side(1, DATA_KEY, 8)));
    shake(&mut net, 1);
    assert_eq!((shaken(&net, 0, 1), shaken(&net, 1, 1)), (0, 0));
    assert_eq!(net.counter(1, "udp_forged"), 1);
}

#[test]
fn two_pairings_of_a_client_are_told_apart_by_their_data_keys() {
    let mut net = net();
    net.apply(0, Change::Grants(view(&[(1, DATA_KEY, 9), (2, DATA_KEY + 1, 10)], &[1])));
    net.apply(1, Change::AddPeer(client_side(1, DATA_KEY, 9)));
    net.apply(1, Change::AddPeer(client_side(2, DATA_KEY + 1, 10)));
    shake(&mut net, 1);
    shake(&mut net, 2);
    assert_eq!((shaken(&net, 0, 1), shaken(&net, 0, 2)), (1, 1));
    // The gateway begins: the client finds the pairing by trying its keys.
    net.apply(0, Change::ForceHandshake(PeerId::Pairing(pairing_id(2))));
    net.run();
    assert_eq!((shaken(&net, 1, 1), shaken(&net, 1, 2)), (1, 2));
}

#[test]
fn a_pairing_that_leaves_the_view_is_a_stranger() {
    let mut net = net();
    net.apply(0, Change::Grants(view(&[(1, DATA_KEY, 9)], &[1])));
    net.apply(1, Change::AddPeer(client_side(1, DATA_KEY, 9)));
    shake(&mut net, 1);
    net.apply(0, Change::Grants(view(&[], &[])));
    assert!(net.hosts[0].engine.peer(&PeerId::Pairing(pairing_id(1))).is_none());
    let before = net.log.len();
    shake(&mut net, 1);
    assert!(net.log[before..].iter().all(|(from, _, _)| *from == addr(CLIENT)));
    assert_eq!(shaken(&net, 0, 1), 1);
}

#[test]
fn a_new_view_keeps_the_tunnels_that_stay() {
    let mut net = net();
    net.apply(0, Change::Grants(view(&[(1, DATA_KEY, 9)], &[1])));
    net.apply(1, Change::AddPeer(client_side(1, DATA_KEY, 9)));
    net.apply(1, Change::ForceHandshake(PeerId::Pairing(pairing_id(1))));
    let recorded = net.wire[0].bytes.clone();
    net.run();
    let before = net.status(0, &PeerId::Pairing(pairing_id(1)));
    net.apply(0, Change::Grants(view(&[(1, DATA_KEY, 9), (2, DATA_KEY + 1, 9)], &[1, 2])));
    assert_eq!(net.status(0, &PeerId::Pairing(pairing_id(1))), before);
    assert!(!net.deliver(0, addr(66), &recorded), "its memory of handshakes stays too");
    assert_eq!(net.counter(0, "udp_replay"), 1);
}

#[test]
fn the_same_pairing_under_another_key_or_psk_is_another_tunnel() {
    for other in [(1, DATA_KEY + 1, 9), (1, DATA_KEY, 8)] {
        let mut net = net();
        net.apply(0, Change::Grants(view(&[(1, DATA_KEY, 9)], &[1])));
        net.apply(1, Change::AddPeer(client_side(1, DATA_KEY, 9)));
        shake(&mut net, 1);
        net.apply(0, Change::Grants(view(&[other], &[1])));
        shake(&mut net, 1);
        assert_eq!(shaken(&net, 0, 1), 1);
        net.apply(1, Change::AddPeer(client_side(1, other.1, other.2)));
        shake(&mut net, 1);
        assert_eq!(shaken(&net, 0, 1), 2);
    }
}

#[test]
fn at_most_so_many_data_keys_live_on_a_client() {
    let mut net = net();
    for n in 0..=model::limits::DATA_KEYS_MAX as u8 {
        net.apply(1, Change::AddPeer(client_side(n, 100 + n, 9)));
    }
    assert_eq!(net.counter(1, "peers"), model::limits::DATA_KEYS_MAX as u64);
    assert_eq!(net.counter(1, "peer_data_keys_full"), 1);
    // One goes, and there is room again.
    net.apply(1, Change::RemovePeer(PeerId::Pairing(pairing_id(0))));
    net.apply(1, Change::AddPeer(client_side(99, 99, 9)));
    assert_eq!(net.counter(1, "peers"), model::limits::DATA_KEYS_MAX as u64);
}
