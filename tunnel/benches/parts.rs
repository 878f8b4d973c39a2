//! What does each part of the packet path cost, alone, and what do many peers cost?
//!
//! `cargo bench -p umbra-tunnel`. Each line is the best of several rounds: what the machine does beside us is not ours. Memory of a
//! peer is measured by `tunnel/tests/memory.rs`.

use grant::{PairingView, Scope, VerifiedGrant, View};
use model::grant::{Grant, Pairing};
use model::ids::{DeviceId, GrantId, NodeId, PairingId, ResourceId};
use model::key::{PrivateKey, Psk, PublicKey};
use model::net::{PortRange, Prefix, Protocol, Rule, Target};
use model::packet::{Gso, GsoKind, Local, Offloads, Spare, Train};
use model::pool::{NatPool, Pool};
use model::time::Instant as Now;
use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use umbra_tunnel::coalesce::Coalescer;
use umbra_tunnel::filter::Filter;
use umbra_tunnel::flow::{Caps, ClientKey, Load, Opening, Table};
use umbra_tunnel::headers::Packet;
use umbra_tunnel::peers::{Bounds, Peers};
use umbra_tunnel::routes::RouteTable;
use umbra_tunnel::segment::Cut;
use umbra_tunnel::wire::{Boring, Doors as _};
use umbra_tunnel::{Change, Config, Engine, Out, Peer, PeerId, PeerKind, Role, RouteEntry, RouteState, Routes};
use umbra_tunnel::{address_of_node, checksum};

type Failure = Box<dyn Error>;

const ROUNDS: u32 = 20;
const START: Now = Now(1_000_000_000);
const MANY: [u32; 3] = [1, 100, 5_000];

/// Tells the time of one of `count` that `work` does each time.
fn tell(what: &str, count: u32, mut work: impl FnMut()) -> Result<(), Failure> {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed());
    }
    let each = best.as_secs_f64() * 1e9 / f64::from(count);
    Ok(writeln!(std::io::stdout().lock(), "{what:<58} {each:>12.1} ns {:>14.0} /s", 1e9 / each)?)
}

/// 1,000 times; nothing is left out because nobody looks at it.
fn each<T>(mut work: impl FnMut(u32) -> T) {
    for n in 0..1_000 {
        let _ = black_box(work(n));
    }
}

fn private(n: u32) -> PrivateKey {
    let mut key = [9; 32];
    key.iter_mut().zip(n.to_be_bytes()).for_each(|(to, byte)| *to = byte);
    PrivateKey::new(key)
}

fn pool() -> Result<Pool, Failure> {
    Ok(Pool::new("10.77.0.0/16".parse()?, "fd12:3456:789a::/48".parse()?)?)
}

/// A controller's engine with so many nodes.
fn controller(nodes: u32) -> Result<Engine, Failure> {
    let key = Arc::new(private(0));
    let config = Config { role: Role::Controller, pool: pool()?, key: key.clone(), pairing_key: key, seed: [1; 32] };
    let engine = Engine::new(config);
    for n in 1..=nodes {
        engine.apply(START, Change::AddPeer(node(n)?), &mut Out::default());
    }
    Ok(engine)
}

/// A node whose key nobody has used: no curve is needed to make it.
fn node(n: u32) -> Result<Peer, Failure> {
    let [a, b, c, d] = n.to_be_bytes();
    let id = NodeId::Device(DeviceId::from_bytes([a, b, c, d, 0, 0, 0, 0, 0, 1]));
    Ok(Peer {
        id: PeerId::Node(id),
        kind: PeerKind::Control,
        local: Arc::new(private(0)),
        remote: PublicKey(*private(n).expose()),
        addresses: vec![address_of_node(&pool()?, &id).into()],
        endpoints: Vec::new(),
        keepalive: None,
    })
}

/// A UDP packet; its checksum is that of a super-packet, left open.
fn packet(payload: usize) -> Vec<u8> {
    let word = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
    let mut bytes = vec![0x45, 0];
    bytes.extend(word(28 + payload));
    bytes.extend([0, 1, 0x40, 0, 64, 17, 0, 0, 10, 77, 0, 1, 10, 1, 0, 1]);
    let check = !checksum::sum(&bytes, 0);
    checksum::put_word(&mut bytes, 10, check);
    bytes.extend([0x20, 0, 0x30, 0]);
    bytes.extend(word(8 + payload));
    bytes.extend([0, 0]);
    bytes.resize(28 + payload, 7);
    bytes
}

fn packets() -> Result<(), Failure> {
    let (small, large) = (packet(1_392), packet(60_000));
    tell("checksum of 1,420 bytes", 1_000, || each(|_| checksum::sum(black_box(&small), 0)))?;
    tell("parse a packet", 1_000, || each(|_| Packet::parse(black_box(&small))))?;
    let gso = Gso { kind: GsoKind::Udp, header_len: 28, size: 1_392, checksum: Some((20, 6)) };
    let parsed = Packet::parse(&large).map_err(|reason| format!("{reason:?}"))?;
    let cut = Cut::check(&large, &parsed, &gso).map_err(|reason| format!("{reason:?}"))?;
    let (count, mut piece) = (cut.count(), Vec::new());
    tell("cut a packet out of a super-packet", u32::try_from(count)?, || {
        (0..count).for_each(|number| cut.segment(&large, number, &mut piece));
    })?;
    let pieces = (0..count).map(|number| {
        cut.segment(&large, number, &mut piece);
        piece.clone()
    });
    let (pieces, mut frames): (Vec<_>, _) = (pieces.collect(), Vec::new());
    let mut spare = Spare::default();
    tell("join a packet to a super-packet", u32::try_from(count)?, || {
        let mut coalescer = Coalescer::new(Offloads { vnet: true, tso: true, uso: true });
        pieces.iter().for_each(|piece| coalescer.push(piece, &mut frames, &mut spare));
        coalescer.close(&mut frames);
        frames.drain(..).for_each(|frame| spare.give(frame.bytes));
    })
}

/// So many pairings of 20 grants each.
fn filter() -> Result<(), Failure> {
    for count in MANY {
        let scope = Arc::new(Scope {
            pool: pool()?,
            nat: NatPool { v4: "198.18.0.0/15".parse()?, v6: "fd99::/48".parse()? },
            site: vec!["10.1.0.0/16".parse()?],
            own: vec![],
        });
        let mut view = View::empty(scope.clone());
        let pairing = |n: u32| {
            let [a, b, c, d] = n.to_be_bytes();
            PairingId::from_bytes([a, b, c, d, 0, 0, 0, 0, 0, 1])
        };
        for n in 0..count {
            let grants = (0..20).map(|at| grant(&scope, pairing(n), n * 20 + at)).collect::<Result<_, _>>()?;
            let known = Pairing {
                id: pairing(n),
                device: DeviceId::from_bytes([1; 10]),
                client_key: PublicKey(*private(n).expose()),
                psk: Psk::new([8; 32]),
                device_v4: Ipv4Addr::new(10, 77, 0, 1),
                device_v6: pool()?.node(1),
            };
            view.pairings.insert(pairing(n), PairingView { pairing: Arc::new(known), grants });
        }
        let bytes = packet(1_392);
        let parsed = Packet::parse(&bytes).map_err(|reason| format!("{reason:?}"))?;
        tell(&format!("filter: 20 grants, {count} pairings"), 1_000, || {
            each(|n| Filter::check(&view, pairing(n * 7 % count), &parsed).is_ok());
        })?;
    }
    Ok(())
}

/// The last of 20 speaks of the packet.
fn grant(scope: &Arc<Scope>, pairing: PairingId, n: u32) -> Result<Arc<VerifiedGrant>, Failure> {
    let to = Prefix::host(Ipv4Addr::new(10, 1, 0, u8::try_from(20 - n % 20)?).into());
    let (nat_v4, nat_v6) = scope.nat.pair(n + 1).ok_or("the pool is too small")?;
    let life = Duration::from_secs(60);
    let rule = Rule { client: to, target: Target::Prefix(to), protocol: Protocol::Udp, ports: PortRange::ALL };
    let [a, b, c, d] = n.to_be_bytes();
    let grant = Grant {
        id: GrantId::from_bytes([a, b, c, d, 0, 0, 0, 0, 0, 1]),
        pairing,
        device: DeviceId::from_bytes([1; 10]),
        resource: ResourceId::from_bytes([1; 10]),
        rules: vec![rule],
        nat_v4,
        nat_v6,
        ends_in: life,
        lease: life,
        on_gateway: false,
    };
    Ok(Arc::new(VerifiedGrant::verify(grant, scope)?))
}

fn flows() -> Result<(), Failure> {
    for count in MANY {
        let mut table = Table::new(Caps::default(), &[1; 32]);
        let key = |n: u32| ClientKey {
            device: DeviceId::from_bytes([u8::try_from(n % 250).unwrap_or(0); 10]),
            protocol: Protocol::Udp,
            client: IpAddr::from([10, 77, 0, 1]),
            client_port: u16::try_from(n % 60_000).unwrap_or(0) + 1_024,
            target: IpAddr::from([10, 1, 0, 1]),
            port: 443,
        };
        for n in 0..count {
            let client = key(n);
            let (grant, pairing) = (GrantId::from_bytes([1; 10]), PairingId::from_bytes([1; 10]));
            let nat = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1));
            let grant = if n % 2 == 0 { grant } else { GrantId::from_bytes([2; 10]) };
            table
                .open(START, &Opening { client, real: client.target, nat, grant, pairing })
                .map_err(|r| format!("{r:?}"))?;
        }
        let load = Load { packets: 1, bytes: 1_420 };
        tell(&format!("find and touch a flow among {count}"), 1_000, || {
            for n in 0..1_000 {
                if let Some(id) = table.by_client(&key(n * 7 % count)) {
                    table.touch(START, id, true, load, None);
                }
            }
        })?;
    }
    Ok(())
}

fn prefixes() -> Result<(), Failure> {
    let own = IpAddr::from([10, 77, 0, 1]);
    for count in MANY {
        let at = |n: u32| IpAddr::V4(Ipv4Addr::from(0x0a4d_4000 + n));
        let state = RouteState::Granted {
            pairing: PairingId::from_bytes([1; 10]),
            grant: GrantId::from_bytes([1; 10]),
            until: Now::NEVER,
        };
        let ports = vec![(Protocol::Tcp, PortRange::ALL)];
        let entry = RouteEntry { resource: ResourceId::from_bytes([1; 10]), ports, state };
        let entries: BTreeMap<_, _> = (0..count).map(|n| (Prefix::host(at(n)), vec![entry.clone()])).collect();
        let routes = RouteTable::new(Routes { own: vec![own], entries, ..Routes::default() }, &[1; 32]);
        tell(&format!("find a prefix among {count}"), 1_000, || {
            each(|n| routes.may_answer(START, at(n * 7 % count), own));
        })?;
    }
    Ok(())
}

fn peers() -> Result<(), Failure> {
    let door = Boring::default().door(&private(0));
    for count in MANY {
        let mut peers = Peers::new(Bounds::default(), door.clone(), [1; 32]);
        let mut indices = Vec::new();
        for n in 1..=count {
            let peer = peers.admit(START, door.clone(), &node(n)?).map_err(|reason| format!("{reason:?}"))?;
            indices.push(peer.index << 8);
        }
        tell(&format!("find a peer by its index among {count}"), 1_000, || {
            for index in indices.iter().cycle().step_by(7).take(1_000) {
                let _ = black_box(peers.by_receiver(*index));
            }
        })?;
    }
    for count in [5_000, 10_000] {
        let (engine, mut now, mut out) = (controller(count)?, START, Out::default());
        engine.tick(now, &mut out);
        tell(&format!("a tick with {count} idle peers"), 100, || {
            for _ in 0..100 {
                now = now.plus(Duration::from_millis(250));
                engine.tick(now, &mut out);
            }
        })?;
    }
    Ok(())
}

fn strangers() -> Result<(), Failure> {
    let engine = controller(5_000)?;
    let far = Boring::default().door(&private(0)).public();
    let mut wire = Boring::default().door(&private(77)).open(&far, &PeerKind::Control, 1)?;
    let initiation = wire.initiate(START).ok_or("no initiation")?;
    let mut garbage = initiation.clone();
    garbage.iter_mut().skip(8).for_each(|byte| *byte ^= 0x55);
    let from = |n: u32| SocketAddr::from((Ipv4Addr::from(0xac10_0000 + n), 1_024));
    for (what, bytes) in
        [("an initiation whose MAC1 does not hold", garbage), ("one that holds, under load", initiation)]
    {
        let (mut out, mut n) = (Out::default(), 0);
        let mut train = Train::datagram(from(0), Local::default(), bytes.clone());
        tell(what, 3_000, || {
            for _ in 0..3_000 {
                n += 1;
                train.addr = from(n % 60_000);
                engine.from_udp(START, &mut train, &mut out);
                out.clear();
            }
        })?;
    }
    handshakes()
}

/// The answering side: whose it is, and a session.
fn handshakes() -> Result<(), Failure> {
    let (near, far) =
        (Boring { handshakes_per_second: u64::MAX }.door(&private(0)), Boring::default().door(&private(77)));
    let mut begins = far.open(&near.public(), &PeerKind::Control, 1)?;
    let mut answers = near.open(&far.public(), &PeerKind::Control, 2)?;
    let mut opened = Vec::new();
    let mut all = Vec::new();
    for _ in 0..ROUNDS * 2 {
        all.push(begins.initiate(START).ok_or("no initiation")?);
    }
    let mut all = all.into_iter();
    tell("a handshake, on the side that answers", 2, || {
        for initiation in all.by_ref().take(2) {
            let _ = black_box(near.sender(&initiation));
            let _ = black_box(answers.decapsulate(START, &initiation, &mut opened));
        }
    })
}

fn main() -> Result<(), Failure> {
    packets()?;
    filter()?;
    flows()?;
    prefixes()?;
    peers()?;
    strangers()
}
