//! The whole way of a packet: laptop, client, gateway, service and back, with real cryptography, until it is revoked.

use super::*;
use grant::{PairingView, Scope, VerifiedGrant, View};
use model::grant::{Grant, Pairing};
use model::ids::*;
use model::key::Psk;
use model::limits::{WAITING_MAX, WAITING_PACKETS_MAX};
use model::net::{PortRange, Prefix, Protocol, Rule, Target};
use model::pool::NatPool;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

pub const GATEWAY: u8 = 3;
pub const CLIENT: u8 = 4;
const DATA_KEY: u8 = 20;
pub const LAPTOP_PORT: u16 = 40_000;
pub const SERVICE_PORT: u16 = 5_300;

pub fn pairing() -> PairingId {
    PairingId::from_bytes([1; 10])
}
pub fn resource() -> ResourceId {
    ResourceId::from_bytes([6; 10])
}
pub fn grant_id() -> GrantId {
    GrantId::from_bytes([9; 10])
}
pub fn device() -> Ipv4Addr {
    pool().device_v4(1).unwrap()
}
pub fn virtual_address() -> Ipv4Addr {
    pool().virtual_v4(7).unwrap()
}
pub fn target() -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 0, 1)
}
pub fn nat() -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 0, 1)
}

fn host(address: Ipv4Addr) -> Prefix {
    Prefix::host(address.into())
}
fn virtual_host6() -> Prefix {
    Prefix::host(pool().virtual_v6(7).unwrap().into())
}

pub fn view(granted: bool) -> Arc<View> {
    let scope = Arc::new(Scope {
        pool: pool(),
        nat: NatPool { v4: "198.18.0.0/15".parse().unwrap(), v6: "fd99::/48".parse().unwrap() },
        site: vec!["10.1.0.0/16".parse().unwrap(), "fd20::/64".parse().unwrap()],
        own: vec![],
    });
    let mut view = View::empty(scope.clone());
    if granted {
        let rule = |protocol| Rule {
            client: host(virtual_address()),
            target: Target::Prefix(host(target())),
            protocol,
            ports: PortRange::ALL,
        };
        let rule6 =
            Rule { client: virtual_host6(), target: Target::Prefix("fd20::1".parse().unwrap()), ..rule(Protocol::Udp) };
        let grant = Grant {
            id: grant_id(),
            pairing: pairing(),
            device: DeviceId::from_bytes([5; 10]),
            resource: resource(),
            rules: vec![rule(Protocol::Udp), rule(Protocol::Tcp), rule6],
            nat_v4: nat(),
            nat_v6: "fd99::1".parse().unwrap(),
            ends_in: Duration::from_secs(60),
            lease: Duration::from_secs(60),
            on_gateway: false,
        };
        let pairing = Pairing {
            id: pairing(),
            device: DeviceId::from_bytes([5; 10]),
            client_key: public(DATA_KEY),
            psk: Psk::new([8; 32]),
            device_v4: device(),
            device_v6: pool().node(1),
        };
        let grants = vec![Arc::new(VerifiedGrant::verify(grant, &scope).unwrap())];
        view.pairings.insert(pairing.id, PairingView { pairing: Arc::new(pairing), grants });
    }
    Arc::new(view)
}

pub fn routes(net: &Net, granted: bool) -> Change {
    let until = net.now.plus(Duration::from_secs(60));
    let state =
        if granted { RouteState::Granted { pairing: pairing(), grant: grant_id(), until } } else { RouteState::Ask };
    let entry = RouteEntry {
        resource: resource(),
        ports: vec![(Protocol::Udp, PortRange::ALL), (Protocol::Tcp, PortRange::ALL)],
        state,
    };
    let entries = BTreeMap::from([(host(virtual_address()), vec![entry.clone()]), (virtual_host6(), vec![entry])]);
    let own = vec![device().into(), pool().node(1).into()];
    Change::Routes(Arc::new(Routes { own, entries, ..Routes::default() }))
}

pub fn tunnel() -> Change {
    Change::AddPeer(Peer {
        id: PeerId::Pairing(pairing()),
        kind: PeerKind::Pairing(Psk::new([8; 32])),
        local: key(DATA_KEY),
        remote: public(GATEWAY),
        addresses: vec![],
        endpoints: vec![addr(GATEWAY)],
        keepalive: None,
    })
}

fn udp4(source: Ipv4Addr, sport: u16, destination: Ipv4Addr, dport: u16, data: &[u8]) -> Vec<u8> {
    let len = (20 + 8 + data.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let check = fold(sum(&packet, 0));
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    let mut udp = Vec::new();
    udp.extend(sport.to_be_bytes());
    udp.extend(dport.to_be_bytes());
    udp.extend((8 + data.len() as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(data);
    let mut pseudo = Vec::new();
    pseudo.extend(source.octets());
    pseudo.extend(destination.octets());
    pseudo.extend([0, 17]);
    pseudo.extend((udp.len() as u16).to_be_bytes());
    let check = fold(sum(&udp, sum(&pseudo, 0)));
    udp[6..8].copy_from_slice(&check.to_be_bytes());
    packet.extend(udp);
    packet
}

fn ask(n: u8) -> Vec<u8> {
    udp4(device(), LAPTOP_PORT, virtual_address(), SERVICE_PORT, &[n; 4])
}

/// Source, destination and last byte of what a host wrote to its TUN.
fn seen(packets: &[Vec<u8>]) -> Vec<(Ipv4Addr, Ipv4Addr, u8)> {
    let at = |p: &[u8], i: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&p[i..i + 4]).unwrap());
    packets.iter().map(|p| (at(p, 12), at(p, 16), *p.last().unwrap())).collect()
}

/// A gateway (0) with the grant and a client (1) whose tunnel and routes are in force.
pub fn granted() -> Net {
    let mut net = Net::new();
    net.host(Role::Gateway, GATEWAY);
    net.host(Role::Client, CLIENT);
    net.apply(0, Change::Grants(view(true)));
    net.apply(1, tunnel());
    let routes = routes(&net, true);
    net.apply(1, routes);
    net
}

#[test]
fn the_first_packets_ask_wait_and_arrive_in_order() {
    let mut net = Net::new();
    net.host(Role::Gateway, GATEWAY);
    net.host(Role::Client, CLIENT);
    let asking = routes(&net, false);
    net.apply(1, asking);
    for n in 0..5 {
        net.tun(1, &ask(n));
    }
    assert_eq!(net.hosts[1].events, [Event::Want(resource())]);
    assert!(net.wire.is_empty(), "nothing leaves without a grant");
    net.apply(0, Change::Grants(view(true)));
    net.apply(1, tunnel());
    let routes = routes(&net, true);
    net.apply(1, routes);
    net.run();
    let expected: Vec<_> = (0..5).map(|n| (nat(), target(), n)).collect();
    assert_eq!(seen(&net.taken(0)), expected);
}

#[test]
fn answers_come_back_under_the_virtual_address() {
    let mut net = granted();
    net.tun(1, &ask(1));
    net.run();
    let arrived = net.taken(0).pop().unwrap();
    let port = u16::from_be_bytes([arrived[20], arrived[21]]);
    net.tun(0, &udp4(target(), SERVICE_PORT, nat(), port, b"\x2a"));
    net.run();
    assert_eq!(seen(&net.taken(1)), [(virtual_address(), device(), 42)]);
    // What nobody asked for does not.
    net.tun(0, &udp4(target(), SERVICE_PORT + 1, nat(), port, b"\x2a"));
    net.tun(0, &udp4(Ipv4Addr::new(10, 1, 0, 2), SERVICE_PORT, nat(), port, b"\x2a"));
    net.run();
    assert!(net.taken(1).is_empty());
}

#[test]
fn a_revoke_ends_it_at_once_both_ways() {
    let mut net = granted();
    net.tun(1, &ask(1));
    net.run();
    let arrived = net.taken(0).pop().unwrap();
    let port = u16::from_be_bytes([arrived[20], arrived[21]]);
    net.hosts[0].events.clear();
    net.apply(0, Change::Grants(view(false)));
    assert!(
        net.hosts[0].events.iter().any(|e| matches!(e, Event::GrantClosed { grant, .. } if *grant == grant_id())),
        "{:?}",
        net.hosts[0].events
    );
    net.tun(1, &ask(2));
    net.tun(0, &udp4(target(), SERVICE_PORT, nat(), port, b"\x2a"));
    net.run();
    assert!(net.taken(0).is_empty() && net.taken(1).is_empty());
    assert!(net.hosts[0].engine.peer(&PeerId::Pairing(pairing())).is_none());
}

#[test]
fn what_waits_for_a_session_goes_with_the_grant() {
    let mut net = granted();
    for n in 0..WAITING_PACKETS_MAX as u8 + 3 {
        net.tun(1, &ask(n));
    }
    let dropped = net.counter(1, "drop_waiting_full");
    assert_eq!(dropped, 3);
    let asking = routes(&net, false);
    net.apply(1, asking);
    net.run();
    assert!(net.taken(0).is_empty(), "the handshake completes, the packets are gone");
}

#[test]
fn another_source_inside_the_tunnel_is_dropped_at_the_gateway() {
    let mut net = granted();
    // The client's own filter is in the way of an honest client; a hostile one has none.
    let neighbour = pool().device_v4(2).unwrap();
    let entry = RouteEntry {
        resource: resource(),
        ports: vec![(Protocol::Udp, PortRange::ALL)],
        state: RouteState::Granted { pairing: pairing(), grant: grant_id(), until: Instant::NEVER },
    };
    let entries = BTreeMap::from([(host(virtual_address()), vec![entry])]);
    net.apply(1, Change::Routes(Arc::new(Routes { own: vec![neighbour.into()], entries, ..Routes::default() })));
    net.tun(1, &udp4(neighbour, LAPTOP_PORT, virtual_address(), SERVICE_PORT, b"x"));
    net.run();
    assert!(net.taken(0).is_empty());
    assert_eq!(net.counter(0, "drop_source_not_owned"), 1);
}

#[test]
fn the_resolver_is_asked_inside_the_engine() {
    let mut net = granted();
    let query = udp4(device(), LAPTOP_PORT, pool().resolver_v4(), 53, b"?");
    net.tun(1, &query);
    assert_eq!(net.hosts[1].local, [query]);
    assert!(net.wire.is_empty());
}

#[test]
fn what_waits_for_a_tunnel_that_nobody_answers_is_counted_when_its_time_is_over() {
    let mut net = granted();
    let packet = udp4(device(), LAPTOP_PORT, virtual_address(), SERVICE_PORT, b"to nobody");
    (0..5).for_each(|_| net.tun(1, &packet));
    assert_eq!(net.counter(1, "drop_waiting_expired"), 0);
    for _ in 0..=WAITING_MAX.as_secs() {
        net.wire.clear();
        net.advance(Duration::from_secs(1));
    }
    assert_eq!(net.counter(1, "drop_waiting_expired"), 5);
}
