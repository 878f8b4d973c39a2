//! Does the packet path ask for memory? Once it has what it needs, never: not for a packet, not for a train.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use boringtun::x25519;
use grant::{PairingView, Scope, VerifiedGrant, View};
use model::grant::{Grant, Pairing};
use model::ids::{DeviceId, GrantId, PairingId, ResourceId};
use model::key::{PrivateKey, Psk, PublicKey};
use model::net::{PortRange, Prefix, Protocol, Rule, Target};
use model::packet::{Frame, Gso, GsoKind, Offloads, Train};
use model::pool::{NatPool, Pool};
use model::time::Instant;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use umbra_tunnel::{Change, Config, Engine, Out, Peer, PeerId, PeerKind, Role, RouteEntry, RouteState, Routes};

#[global_allocator]
static MEMORY: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const NOW: Instant = Instant(1_000_000_000);
const ALL: Offloads = Offloads { vnet: true, tso: true, uso: true };
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const NAT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

fn key(n: u8) -> Arc<PrivateKey> {
    Arc::new(PrivateKey::new([n; 32]))
}

fn public(n: u8) -> PublicKey {
    PublicKey(x25519::PublicKey::from(&x25519::StaticSecret::from([n; 32])).to_bytes())
}

fn pool() -> Pool {
    Pool::new("10.77.0.0/16".parse().unwrap(), "fd12:3456:789a::/48".parse().unwrap()).unwrap()
}

fn ids() -> (PairingId, GrantId, DeviceId, ResourceId) {
    let bytes = [1; 10];
    (
        PairingId::from_bytes(bytes),
        GrantId::from_bytes(bytes),
        DeviceId::from_bytes(bytes),
        ResourceId::from_bytes(bytes),
    )
}

fn at(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 443))
}

/// A gateway with one grant: the laptop's address, the service's virtual address.
fn view() -> (Arc<View>, Ipv4Addr, Ipv4Addr) {
    let (pairing, grant, device, resource) = ids();
    let (own, virtual_address) = (pool().device_v4(1).unwrap(), pool().virtual_v4(7).unwrap());
    let scope = Arc::new(Scope {
        pool: pool(),
        nat: NatPool { v4: "198.18.0.0/15".parse().unwrap(), v6: "fd99::/48".parse().unwrap() },
        site: vec!["10.1.0.0/16".parse().unwrap()],
        own: vec![],
    });
    let rule = Rule {
        client: Prefix::host(virtual_address.into()),
        target: Target::Prefix(Prefix::host(SERVICE.into())),
        protocol: Protocol::Udp,
        ports: PortRange::ALL,
    };
    let life = Duration::from_secs(60);
    let grant = Grant {
        id: grant,
        pairing,
        device,
        resource,
        rules: vec![rule],
        nat_v4: NAT,
        nat_v6: "fd99::1".parse().unwrap(),
        ends_in: life,
        lease: life,
        on_gateway: false,
    };
    let known = Pairing {
        id: pairing,
        device,
        client_key: public(20),
        psk: Psk::new([8; 32]),
        device_v4: own,
        device_v6: pool().node(1),
    };
    let grants = vec![Arc::new(VerifiedGrant::verify(grant, &scope).unwrap())];
    let mut view = View::empty(scope);
    view.pairings.insert(pairing, PairingView { pairing: Arc::new(known), grants });
    (Arc::new(view), own, virtual_address)
}

fn engine(role: Role, n: u8) -> Engine {
    Engine::new(Config { role, pool: pool(), key: key(n), pairing_key: key(n), seed: [n; 32] })
}

/// Two engines with a tunnel between them, and the addresses of a flow that may be.
fn ends() -> (Engine, Engine, Ipv4Addr, Ipv4Addr) {
    let (view, own, virtual_address) = view();
    let (pairing, grant, _, resource) = ids();
    let (gateway, client) = (engine(Role::Gateway, 3), engine(Role::Client, 4));
    let mut out = Out::default();
    gateway.apply(NOW, Change::Grants(view), &mut out);
    let peer = Peer {
        id: PeerId::Pairing(pairing),
        kind: PeerKind::Pairing(Psk::new([8; 32])),
        local: key(20),
        remote: public(3),
        addresses: vec![],
        endpoints: vec![at(3)],
        keepalive: None,
    };
    client.apply(NOW, Change::AddPeer(peer), &mut out);
    let state = RouteState::Granted { pairing, grant, until: Instant::NEVER };
    let entry = RouteEntry { resource, ports: vec![(Protocol::Udp, PortRange::ALL)], state };
    let entries = BTreeMap::from([(Prefix::host(virtual_address.into()), vec![entry])]);
    let routes = Routes { own: vec![IpAddr::V4(own)], entries, ..Routes::default() };
    client.apply(NOW, Change::Routes(Arc::new(routes)), &mut out);
    (gateway, client, own, virtual_address)
}

/// A datagram, or a super-packet of datagrams of `size`, as a device gives it: its checksum is still open.
fn udp(from: Ipv4Addr, to: Ipv4Addr, payload: usize, size: u16) -> Frame {
    let word = |n: usize| (n as u16).to_be_bytes();
    let mut bytes = vec![0x45, 0];
    bytes.extend(word(28 + payload));
    bytes.extend([0, 1, 0x40, 0, 64, 17, 0, 0]);
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    bytes[10..12].copy_from_slice(&(!(((folded & 0xffff) + (folded >> 16)) as u16)).to_be_bytes());
    bytes.extend([0x20, 0, 0x30, 0]);
    bytes.extend(word(8 + payload));
    bytes.extend([0x12, 0x34]);
    bytes.resize(28 + payload, 7);
    let kind = if usize::from(size) < payload { GsoKind::Udp } else { GsoKind::None };
    Frame { gso: Gso { kind, header_len: 28, size, checksum: Some((20, 6)) }, bytes }
}

/// Both ends of the path, with the memory of their threads.
struct Path {
    gateway: Engine,
    client: Engine,
    to_gateway: (Frame, Out, Out),
    to_client: (Frame, Out, Out),
    train: Train,
}

impl Path {
    /// A frame of the laptop reaches the service's side, one of the service the laptop; how many datagrams went, and frames came.
    fn round(&mut self, up: &Frame, down: &Frame) -> (usize, usize) {
        let (mut datagrams, mut frames) = (0, 0);
        for (from, to, number, (frame, sent, got), made) in [
            (&self.client, &self.gateway, 4, &mut self.to_gateway, up),
            (&self.gateway, &self.client, 3, &mut self.to_client, down),
        ] {
            frame.gso = made.gso;
            frame.bytes.clear();
            frame.bytes.extend_from_slice(&made.bytes);
            from.from_tun(NOW, frame, sent);
            for train in &sent.udp {
                self.train.bytes.clear();
                self.train.bytes.extend_from_slice(&train.bytes);
                (self.train.addr, self.train.stride) = (at(number), train.stride);
                datagrams += train.datagrams().count();
                to.from_udp(NOW, &mut self.train, got);
            }
            frames += got.tun.len();
            sent.clear();
            got.clear();
        }
        (datagrams, frames)
    }
}

#[test]
fn a_warm_path_asks_for_no_memory() {
    let (gateway, client, own, virtual_address) = ends();
    // The tunnel, first: an initiation, its answer, and what waited.
    let (mut out, mut frame) = (Out::default(), udp(own, virtual_address, 8, 8));
    client.from_tun(NOW, &mut frame, &mut out);
    let mut under_way = out.udp;
    for (to, number) in [(&gateway, 4), (&client, 3), (&gateway, 4)] {
        let mut answer = Out::default();
        for train in under_way {
            to.from_udp(NOW, &mut Train { addr: at(number), ..train }, &mut answer);
        }
        under_way = answer.udp;
    }
    let thread = || (Frame::default(), Out::with(ALL), Out::with(ALL));
    let train = Train::datagram(at(1), model::packet::Local::default(), Vec::new());
    let mut path = Path { gateway, client, to_gateway: thread(), to_client: thread(), train };
    for (payload, size) in [(60_000, 1_392), (1_392, 1_392), (64, 64)] {
        let up = udp(own, virtual_address, payload, size);
        let mut down = udp(SERVICE, NAT, payload, size);
        down.bytes[20..24].copy_from_slice(&[0x30, 0, 0x20, 0]);
        let expected = (2 * payload.div_ceil(size.into()), 2);
        for _ in 0..3 {
            assert_eq!(path.round(&up, &down), expected, "{payload} bytes");
        }
        let region = Region::new(MEMORY);
        for _ in 0..100 {
            path.round(&up, &down);
        }
        let change = region.change();
        assert_eq!((change.allocations, change.reallocations), (0, 0), "{payload} bytes in {size}");
    }
}
