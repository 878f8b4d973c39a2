//! How much memory does a peer take, and is all of it given back when the peer goes?

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use boringtun::x25519;
use model::ids::{DeviceId, NodeId};
use model::key::{PrivateKey, PublicKey};
use model::packet::{Local, Train};
use model::pool::Pool;
use model::time::Instant;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use umbra_tunnel::{Change, Config, Engine, Out, Peer, PeerId, PeerKind, Role, address_of_node};

#[global_allocator]
static MEMORY: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes of a peer that nobody has spoken with yet.
const ADMITTED_MAX: usize = 1_536;
/// Bytes of a peer with a session: most of it is boringtun's tunnel, which keeps room for eight sessions.
const LIVE_MAX: usize = 24 << 10;
/// What may stay of so many: room in the tables.
const LEFT_MAX: usize = 64 << 10;

const START: Instant = Instant(1_000_000_000);

fn private(n: u16) -> PrivateKey {
    let [a, b] = n.to_be_bytes();
    let mut key = [9; 32];
    (key[0], key[1]) = (a, b);
    PrivateKey::new(key)
}

fn public(n: u16) -> PublicKey {
    PublicKey(x25519::PublicKey::from(&x25519::StaticSecret::from(*private(n).expose())).to_bytes())
}

fn pool() -> Pool {
    Pool::new("10.77.0.0/16".parse().unwrap(), "fd12:3456:789a::/48".parse().unwrap()).unwrap()
}

fn engine(role: Role, n: u16) -> Engine {
    let key = Arc::new(private(n));
    Engine::new(Config { role, pool: pool(), key: key.clone(), pairing_key: key, seed: [1; 32] })
}

/// The node with this number, as its controller knows it.
fn node(n: u16) -> (PeerId, IpAddr) {
    let [a, b] = n.to_be_bytes();
    let id = NodeId::Device(DeviceId::from_bytes([a, b, 3, 3, 3, 3, 3, 3, 3, 3]));
    (PeerId::Node(id), address_of_node(&pool(), &id).into())
}

fn peer(id: PeerId, local: &Arc<PrivateKey>, remote: PublicKey, address: IpAddr) -> Peer {
    let local = local.clone();
    Peer { id, kind: PeerKind::Control, local, remote, addresses: vec![address], endpoints: vec![], keepalive: None }
}

fn live(region: &Region<'_, System>) -> usize {
    let change = region.change();
    change.bytes_allocated.saturating_sub(change.bytes_deallocated)
}

/// A handshake of a node with the controller; what belongs to the node is gone afterwards.
fn shake(controller: &Engine, n: u16) {
    let client = engine(Role::Client, n);
    let id = PeerId::Node(NodeId::Controller);
    let at = SocketAddr::from(([192, 0, 2, 1], 443));
    let endpoints = vec![at];
    let known = peer(id, &Arc::new(private(n)), public(60_000), pool().controller().into());
    let mut out = Out::default();
    client.apply(START, Change::AddPeer(Peer { endpoints, ..known }), &mut out);
    client.apply(START, Change::ForceHandshake(id), &mut out);
    let mut under_way = std::mem::take(&mut out.udp);
    for to in [controller, &client, controller] {
        for train in std::mem::take(&mut under_way) {
            to.from_udp(START, &mut Train::datagram(at, Local::default(), train.bytes), &mut out);
        }
        under_way = std::mem::take(&mut out.udp);
    }
}

#[test]
fn a_peer_takes_little_and_gives_all_of_it_back() {
    const IDLE: u16 = 5_000;
    const LIVE: u16 = 100;
    let controller = engine(Role::Controller, 60_000);
    let key = Arc::new(private(60_000));
    let mut out = Out::default();
    let keys: Vec<PublicKey> =
        (0..IDLE).map(|n| if n < LIVE { public(n) } else { PublicKey(*private(n).expose()) }).collect();
    let region = Region::new(MEMORY);
    for n in 0..IDLE {
        let (id, address) = node(n);
        let remote = *keys.get(usize::from(n)).unwrap();
        controller.apply(START, Change::AddPeer(peer(id, &key, remote, address)), &mut out);
    }
    controller.tick(START, &mut out);
    let idle = live(&region) / usize::from(IDLE);
    let before = live(&region);
    (0..LIVE).for_each(|n| shake(&controller, n));
    let with_session = idle + live(&region).saturating_sub(before) / usize::from(LIVE);
    let shaken = (0..LIVE).filter(|n| controller.peer(&node(*n).0).unwrap().last_handshake.is_some()).count();
    assert_eq!(shaken, usize::from(LIVE));
    println!("{idle} bytes for a peer, {with_session} bytes for one with a session");
    assert!(idle <= ADMITTED_MAX, "{idle} bytes for a peer");
    assert!(with_session <= LIVE_MAX, "{with_session} bytes for a peer with a session");
    for n in 0..IDLE {
        controller.apply(START, Change::RemovePeer(node(n).0), &mut out);
    }
    controller.tick(START.plus(Duration::from_secs(1)), &mut out);
    let left = live(&region);
    assert!(left <= LEFT_MAX, "{left} bytes are left of {IDLE} peers");
}
