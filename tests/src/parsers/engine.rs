//! The whole engine, in each of its three roles: whatever a kernel, a stranger or the far end of a tunnel gives it, in any order.
//!
//! What holds: what it writes to a device or to a tunnel can be read and goes where this role may send, nothing leaves that is
//! more than what came, and each packet that does not go on is counted once.

use super::offload::{data, packets_of, righted};
use super::{Parser, Seeds, parser, seed};
use crate::attacker::packet;
use grant::{PairingView, Scope, VerifiedGrant, View};
use host::tun::header::{self, HEADER_BYTES};
use model::grant::{Grant, Pairing};
use model::ids::{DeviceId, GrantId, NodeId, PairingId, ResourceId};
use model::key::{PrivateKey, Psk};
use model::net::{PortRange, Prefix, Protocol, Rule, Target};
use model::packet::{Frame, Gso, GsoKind, Local, Offloads, Train};
use model::pool::{CONTROL_PORT, NatPool, Pool};
use model::time::Instant;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tunnel::api::{Peer, RouteEntry, RouteState, Routes};
use tunnel::double::{VirtualDoors, public_of};
use tunnel::headers::Packet;
use tunnel::peers::Bounds;
use tunnel::segment::prepare;
use tunnel::wire::{Doors as _, Message, Opened, Wire};
use tunnel::{Change, Config, Engine, Out, PeerId, PeerKind, Role, address_of_node};

pub const PARSERS: &[Parser] = &[parser(
    "engine",
    "frames of a TUN device, trains of strangers and of far ends, in any order: the engine of each role",
    engine,
    engine_seeds,
    30,
)];

/// Steps of one input at most.
const STEPS_MAX: usize = 64;
/// Until then the clock goes on: a session lives longer, so that nothing waits for one.
const NOW_MAX: Instant = Instant(100_000_000_000);
/// Our port, and that of a service.
const LAPTOP_PORT: u16 = 40_000;
const SERVICE_PORT: u16 = 443;

fn key(number: u8) -> Arc<PrivateKey> {
    Arc::new(PrivateKey::new([number; 32]))
}
const OURS: u8 = 1;
const PAIRING_KEY: u8 = 2;
const CONTROL_FAR: u8 = 8;
const PAIRING_FAR: u8 = 9;

/// All addresses that anything here has.
struct Plan {
    pool: Pool,
    node: IpAddr,
    device: [IpAddr; 2],
    /// Granted, and one that is not decided yet.
    names: [IpAddr; 2],
    asked: IpAddr,
    target: [IpAddr; 2],
    nat: [IpAddr; 2],
}

impl Plan {
    fn new() -> Option<Self> {
        let pool = Pool::new("10.77.0.0/16".parse().ok()?, "fd12:3456:789a::/48".parse().ok()?).ok()?;
        Some(Self {
            node: address_of_node(&pool, &device_node()).into(),
            device: [pool.device_v4(1)?.into(), pool.node(1).into()],
            names: [pool.virtual_v4(7)?.into(), pool.virtual_v6(7)?.into()],
            asked: pool.virtual_v4(8)?.into(),
            target: [Ipv4Addr::new(10, 1, 0, 1).into(), "fd20::1".parse().ok()?],
            nat: [Ipv4Addr::new(198, 18, 0, 1).into(), "fd99::1".parse().ok()?],
            pool,
        })
    }

    fn view(&self) -> Option<View> {
        let nat = NatPool { v4: "198.18.0.0/15".parse().ok()?, v6: "fd99::/48".parse().ok()? };
        let site = vec!["10.1.0.0/16".parse().ok()?, "fd20::/64".parse().ok()?];
        let scope = Arc::new(Scope { pool: self.pool, nat, site, own: vec![] });
        let families = self.names.into_iter().zip(self.target);
        let rules = families.flat_map(|(name, target)| {
            [Protocol::Tcp, Protocol::Udp, Protocol::Icmp].map(|protocol| Rule {
                client: Prefix::host(name),
                target: Target::Prefix(Prefix::host(target)),
                protocol,
                ports: PortRange::ALL,
            })
        });
        let mut rules: Vec<Rule> = rules.collect();
        rules.push(Rule {
            client: Prefix::host(self.asked),
            target: Target::Name("wiki.example".parse().ok()?),
            protocol: Protocol::Udp,
            ports: PortRange::ALL,
        });
        let (IpAddr::V4(nat_v4), IpAddr::V6(nat_v6)) = (self.nat[0], self.nat[1]) else { return None };
        let (IpAddr::V4(device_v4), IpAddr::V6(device_v6)) = (self.device[0], self.device[1]) else { return None };
        let grant = Grant {
            id: GrantId::from_bytes([9; 10]),
            pairing: pairing_id(),
            device: DeviceId::from_bytes([5; 10]),
            resource: ResourceId::from_bytes([6; 10]),
            rules,
            nat_v4,
            nat_v6,
            ends_in: Duration::from_secs(3_600),
            lease: Duration::from_secs(3_600),
            on_gateway: false,
        };
        let pairing = Pairing {
            id: pairing_id(),
            device: DeviceId::from_bytes([5; 10]),
            client_key: public_of(&key(PAIRING_FAR)),
            psk: Psk::new([8; 32]),
            device_v4,
            device_v6,
        };
        let grants = vec![Arc::new(VerifiedGrant::verify(grant, &scope).ok()?)];
        let mut view = View::empty(scope);
        view.pairings.insert(pairing.id, PairingView { pairing: Arc::new(pairing), grants });
        Some(view)
    }

    fn routes(&self) -> Routes {
        let entry = |state| RouteEntry {
            resource: ResourceId::from_bytes([6; 10]),
            ports: [Protocol::Tcp, Protocol::Udp, Protocol::Icmp].map(|protocol| (protocol, PortRange::ALL)).to_vec(),
            state,
        };
        let (pairing, grant) = (pairing_id(), GrantId::from_bytes([9; 10]));
        let granted = RouteState::Granted { pairing, grant, until: Instant::NEVER };
        let mut entries: BTreeMap<_, _> =
            self.names.iter().map(|name| (Prefix::host(*name), vec![entry(granted)])).collect();
        entries.insert(Prefix::host(self.asked), vec![entry(RouteState::Ask)]);
        Routes { own: self.device.to_vec(), entries, ..Routes::default() }
    }

    /// May this role write such a packet to its device?
    fn may_write(&self, role: Role, source: IpAddr, destination: IpAddr) -> bool {
        // A node does not know all its addresses before it has enrolled: whichever node's, the kernel takes its own.
        let nodes = [self.pool.node_net(), self.pool.provisional_net()];
        let control = nodes.iter().any(|net| net.contains(destination)) && source == IpAddr::V6(self.pool.controller());
        match role {
            Role::Controller => destination == IpAddr::V6(self.pool.controller()) && source == self.node,
            Role::Gateway => control || (self.nat.contains(&source) && self.target.contains(&destination)),
            Role::Client => control || self.device.contains(&destination),
        }
    }

    /// And into this tunnel?
    fn may_send(&self, role: Role, control: bool, source: IpAddr, destination: IpAddr) -> bool {
        let controller = IpAddr::V6(self.pool.controller());
        match (role, control) {
            (Role::Controller, _) => source == controller && destination == self.node,
            (_, true) => destination == controller,
            (Role::Gateway, false) => self.device.contains(&destination) && !self.target.contains(&source),
            (Role::Client, false) => self.device.contains(&source) && self.names.contains(&destination),
        }
    }
}

const fn device_node() -> NodeId {
    NodeId::Device(DeviceId::from_bytes([5; 10]))
}
const fn pairing_id() -> PairingId {
    PairingId::from_bytes([1; 10])
}

/// The far end of one tunnel, with a session.
struct Far {
    wire: Box<dyn Wire>,
    from: SocketAddr,
    control: bool,
}

struct World {
    plan: Plan,
    role: Role,
    engine: Engine,
    now: Instant,
    fars: Vec<Far>,
    last: Option<Train>,
    out: Out,
    /// Pieces of packets that the engine may still have.
    kept: u64,
}

impl World {
    fn new(role: Role) -> Option<Self> {
        let plan = Plan::new()?;
        let config = Config { role, pool: plan.pool, key: key(OURS), pairing_key: key(PAIRING_KEY), seed: [7; 32] };
        let engine = Engine::with(config, Arc::new(VirtualDoors), Bounds::default());
        let out = Out::with(Offloads { vnet: true, tso: true, uso: true });
        let mut world =
            Self { plan, role, engine, now: Instant(10_000_000_000), fars: Vec::new(), last: None, out, kept: 0 };
        let (id, address) = match role {
            Role::Controller => (device_node(), world.plan.node),
            Role::Gateway | Role::Client => (NodeId::Controller, world.plan.pool.controller().into()),
        };
        world.change(Change::AddPeer(Peer {
            id: PeerId::Node(id),
            kind: PeerKind::Control,
            local: key(OURS),
            remote: public_of(&key(CONTROL_FAR)),
            addresses: vec![address],
            endpoints: vec![],
            keepalive: None,
        }));
        world.shake(CONTROL_FAR, OURS, &PeerKind::Control)?;
        let psk = || PeerKind::Pairing(Psk::new([8; 32]));
        match role {
            Role::Controller => {}
            Role::Gateway => world.change(Change::Grants(Arc::new(world.plan.view()?))),
            Role::Client => {
                world.change(Change::AddPeer(Peer {
                    id: PeerId::Pairing(pairing_id()),
                    kind: psk(),
                    local: key(PAIRING_KEY),
                    remote: public_of(&key(PAIRING_FAR)),
                    addresses: vec![],
                    endpoints: vec![],
                    keepalive: None,
                }));
                world.change(Change::Routes(Arc::new(world.plan.routes())));
            }
        }
        if role != Role::Controller {
            world.shake(PAIRING_FAR, PAIRING_KEY, &psk())?;
        }
        Some(world)
    }

    fn change(&mut self, change: Change) {
        self.engine.apply(self.now, change, &mut self.out);
        self.out.clear();
    }

    /// A session, begun by the far end.
    fn shake(&mut self, far: u8, ours: u8, kind: &PeerKind) -> Option<()> {
        let door = VirtualDoors.door(&key(far));
        let mut wire = door.open(&public_of(&key(ours)), kind, u32::from(far)).ok()?;
        let from = SocketAddr::from(([192, 0, 2, far], 443));
        let initiation = wire.initiate(self.now)?;
        self.engine.from_udp(self.now, &mut Train::datagram(from, Local::default(), initiation), &mut self.out);
        let answer = self.out.udp.pop()?.bytes;
        let Ok(Opened::Established(first, _)) = wire.decapsulate(self.now, &answer, &mut Vec::new()) else {
            return None;
        };
        self.engine.from_udp(self.now, &mut Train::datagram(from, Local::default(), first), &mut self.out);
        self.out.clear();
        self.fars.push(Far { wire, from, control: matches!(kind, PeerKind::Control) });
        Some(())
    }

    /// How often anything was dropped, but for errors that were not sent about it.
    fn lost(&self) -> u64 {
        self.engine.drops().into_iter().filter(|(name, _)| *name != "drop_icmp_rate").map(|(_, count)| count).sum()
    }

    /// A frame off the device.
    fn tun(&mut self, gso: Gso, bytes: &[u8]) -> bool {
        let mut ready = Frame { gso, bytes: bytes.to_vec() };
        let count = prepare(&mut ready).ok().and_then(|()| packets_of(&ready)).map_or(1, |all| all.len() as u64);
        let before = self.lost();
        self.engine.from_tun(self.now, &mut Frame { gso, bytes: bytes.to_vec() }, &mut self.out);
        let lost = self.lost() - before;
        let sent = self.check_sent() + self.out.local.len() as u64;
        self.check_written();
        if is_fragment(bytes) {
            self.kept += 1;
            assert!(lost <= self.kept, "{lost} were counted, and {} may have been kept", self.kept);
        } else if !self.waits(bytes) {
            assert!(lost <= 1, "one frame was dropped for {lost} reasons");
            let large = gso.kind == GsoKind::None && bytes.len() > model::limits::TUN_MTU;
            assert!(
                lost == 1 || sent == count || (large && sent > 0),
                "{sent} of {count} packets left, {lost} were counted"
            );
            assert!(lost == 0 || sent == 0, "it left, and was counted");
        }
        let any = sent > 0;
        self.out.clear();
        any
    }

    /// Packets that the far end seals, in trains as a socket gives them out; `odd` bytes are cut off the last.
    fn sealed(&mut self, far: usize, ecn: u8, odd: usize, packets: &[Vec<u8>]) -> bool {
        let now = self.now;
        let Some(Far { wire, from, .. }) = self.fars.get_mut(far) else { return false };
        let mut trains: Vec<(Train, Vec<&[u8]>)> = Vec::new();
        for packet in packets {
            let mut datagram = Vec::new();
            if wire.encapsulate(now, packet, &mut datagram).is_err() {
                return false;
            }
            match trains.last_mut() {
                Some((train, inside)) if train.takes(datagram.len()) => {
                    train.bytes.extend(datagram);
                    inside.push(packet);
                }
                _ => {
                    let stride = datagram.len();
                    let train = Train { ecn, stride, ..Train::datagram(*from, Local::default(), datagram) };
                    trains.push((train, vec![packet]));
                }
            }
        }
        let mut any = false;
        let last = trains.len();
        for (number, (mut train, mut inside)) in trains.into_iter().enumerate() {
            if odd > 0 && number + 1 == last {
                train.bytes.truncate(train.bytes.len().saturating_sub(odd).max(1));
                // What was cut is no datagram of the tunnel any more: whatever it was, it is counted as one.
                let whole = train.bytes.len() / train.stride.max(1);
                inside.truncate(whole);
            }
            any |= self.receive(train, &inside);
        }
        any
    }

    /// A train whose datagrams hold these packets, and perhaps one that holds none.
    fn receive(&mut self, mut train: Train, inside: &[&[u8]]) -> bool {
        let count = inside.iter().filter(|packet| !packet.is_empty()).count() as u64;
        let (datagrams, before) = (train.datagrams().count() as u64, self.lost());
        let odd = datagrams - (inside.len() as u64).min(datagrams);
        self.last = Some(train.clone());
        self.engine.from_udp(self.now, &mut train, &mut self.out);
        let lost = self.lost() - before;
        let written = self.check_written();
        self.check_sent();
        let pieces = inside.iter().filter(|packet| is_fragment(packet)).count() as u64;
        self.kept += pieces;
        assert!(lost <= datagrams + self.kept, "{lost} of {datagrams} datagrams were counted");
        if pieces == 0 && !inside.iter().any(|packet| self.waits(packet)) {
            assert!(written + lost <= count + odd, "{written} written and {lost} counted, of {count} and {odd}");
            assert!(
                lost > odd || written == count,
                "{written} of {count} packets were written, {lost} counted, {odd} odd"
            );
            assert!(count == 0 || written + lost > 0, "nothing came of it, and nothing says why");
        }
        self.out.clear();
        written > 0
    }

    /// Bytes that nobody sealed.
    fn stranger(&mut self, train: Train) {
        let (datagrams, before) = (train.datagrams().filter(|one| !one.is_empty()).count() as u64, self.lost());
        self.engine.from_udp(self.now, &mut train.clone(), &mut self.out);
        let lost = self.lost() - before;
        assert!(lost <= datagrams, "{lost} of {datagrams} datagrams were counted");
        assert!(lost == datagrams || !self.out.is_empty() || self.role == Role::Controller, "silent, and not counted");
        assert_eq!(self.check_written(), 0, "a stranger's packet");
        self.out.clear();
    }

    /// Does this packet wait for a name or a decision?
    fn waits(&self, bytes: &[u8]) -> bool {
        Packet::parse(bytes).is_ok_and(|packet| packet.destination == self.plan.asked)
    }

    /// All that was written to the device can be read, says how long it is, and may go there. Answers how many packets.
    fn check_written(&self) -> u64 {
        let mut count = 0;
        for frame in &self.out.tun {
            let length =
                |at: usize| frame.bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_be_bytes);
            let (source, destination) = match frame.bytes.first().map(|first| first >> 4) {
                Some(4) => {
                    assert_eq!(length(2).map(usize::from), Some(frame.bytes.len()), "{frame:?}");
                    (four(&frame.bytes, 12), four(&frame.bytes, 16))
                }
                _ => {
                    assert_eq!(length(4).map(|len| usize::from(len) + 40), Some(frame.bytes.len()), "{frame:?}");
                    (sixteen(&frame.bytes, 8), sixteen(&frame.bytes, 24))
                }
            };
            assert!(
                self.plan.may_write(self.role, source, destination),
                "{:?} wrote {source} to {destination}",
                self.role
            );
            assert_eq!(frame.gso.kind == GsoKind::None, frame.gso.checksum.is_none(), "{frame:?}");
            let packets = packets_of(frame);
            assert!(packets.is_some(), "a super-packet that cannot be cut: {frame:?}");
            assert!(is_fragment(&frame.bytes) || Packet::parse(&frame.bytes).is_ok(), "unreadable: {frame:?}");
            count += packets.map_or(0, |packets| packets.len() as u64);
        }
        count
    }

    /// All that was sent can be opened by the far end that it goes to, and may go there. Answers how many packets.
    fn check_sent(&mut self) -> u64 {
        let (mut count, mut opened) = (0, Vec::new());
        for train in &self.out.udp {
            let Some(far) = self.fars.iter_mut().find(|far| far.from == train.addr) else { continue };
            for datagram in train.datagrams() {
                if !matches!(Message::read(datagram), Some(Message::Data(..))) {
                    continue;
                }
                let Ok(Opened::Packet(len)) = far.wire.decapsulate(self.now, datagram, &mut opened) else { continue };
                let packet = opened.get(..len).unwrap_or_default();
                let (source, destination) = match packet.first().map(|first| first >> 4) {
                    Some(4) => (four(packet, 12), four(packet, 16)),
                    _ => (sixteen(packet, 8), sixteen(packet, 24)),
                };
                let may = self.plan.may_send(self.role, far.control, source, destination);
                assert!(may, "{:?} sent {source} to {destination}", self.role);
                assert!(is_fragment(packet) || Packet::parse(packet).is_ok(), "unreadable: {packet:?}");
                count += 1;
            }
        }
        count
    }
}

fn four(bytes: &[u8], at: usize) -> IpAddr {
    let octets = bytes.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok());
    octets.map_or(IpAddr::from([0; 4]), IpAddr::from)
}
fn sixteen(bytes: &[u8], at: usize) -> IpAddr {
    let octets = bytes.get(at..at + 16).and_then(|b| <[u8; 16]>::try_from(b).ok());
    octets.map_or(IpAddr::from([0; 16]), IpAddr::from)
}

/// May it be a part of a packet? Whatever it says otherwise.
fn is_fragment(bytes: &[u8]) -> bool {
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
    match byte(0) >> 4 {
        4 => (byte(6) & 0x3f) | byte(7) != 0,
        6 => {
            let (mut next, mut at) = (byte(6), 40);
            while matches!(next, 0 | 43 | 60) && at < bytes.len() {
                next = byte(at);
                at += (usize::from(byte(at + 1)) + 1) * 8;
            }
            next == 44
        }
        _ => false,
    }
}

/// The first byte says which role, then come steps: what, how many bytes, and those.
fn engine(input: &[u8]) -> bool {
    let Some((role, mut rest)) = input.split_first() else { return false };
    let role = match role % 3 {
        0 => Role::Controller,
        1 => Role::Gateway,
        _ => Role::Client,
    };
    if rest.is_empty() {
        return false;
    }
    let world = World::new(role);
    assert!(world.is_some(), "the world cannot be made");
    let Some(mut world) = world else { return false };
    let mut any = false;
    for _ in 0..STEPS_MAX {
        let Some(([kind, high, low], after)) = rest.split_first_chunk::<3>() else { break };
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (bytes, after) = after.split_at_checked(len).unwrap_or((after, &[]));
        any |= step(&mut world, *kind, bytes);
        rest = after;
    }
    // Whatever waits, its time is over.
    for _ in 0..4 {
        world.now = world.now.plus(Duration::from_secs(16));
        world.engine.tick(world.now, &mut world.out);
        world.check_sent();
        world.out.clear();
    }
    any
}

fn step(world: &mut World, kind: u8, bytes: &[u8]) -> bool {
    let right = |bytes: &[u8]| if kind & 0x80 == 0 { righted(bytes) } else { bytes.to_vec() };
    let far = usize::from(kind & 0x40 == 0);
    match kind & 7 {
        0 | 5 => {
            let Some((head, packet)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return false };
            header::decode(*head).is_ok_and(|gso| world.tun(gso, &right(packet)))
        }
        1 | 6 => {
            let Some(([about, odd], rest)) = bytes.split_first_chunk::<2>() else { return false };
            let packets: Vec<_> = split(rest).iter().map(|packet| right(packet)).collect();
            world.sealed(far, about & 3, usize::from(*odd), &packets)
        }
        2 => {
            let Some(([high, low, about], rest)) = bytes.split_first_chunk::<3>() else { return false };
            let (from, stride) =
                (SocketAddr::from(([192, 0, 2, 66], 443)), usize::from(u16::from_be_bytes([*high, *low])));
            world.stranger(Train { stride, ecn: about & 3, ..Train::datagram(from, Local::default(), rest.to_vec()) });
            false
        }
        3 => {
            let tenths = u64::from(bytes.first().copied().unwrap_or(1));
            world.now = world.now.plus(Duration::from_millis(tenths * 100)).min(NOW_MAX);
            world.engine.tick(world.now, &mut world.out);
            world.check_sent();
            world.check_written();
            world.out.clear();
            false
        }
        // What came once comes again: from elsewhere, or with a byte changed.
        4 => {
            let Some(mut train) = world.last.clone() else { return false };
            if let Some(([at, to], _)) = bytes.split_first_chunk::<2>() {
                train.bytes.iter_mut().skip((*at).into()).take(1).for_each(|byte| *byte = *to);
            }
            train.addr.set_port(444);
            world.stranger(train);
            false
        }
        // One packet of a flow many times over, as a stream is.
        _ => {
            let Some(([count, ecn], packet)) = bytes.split_first_chunk::<2>() else { return false };
            let packets = vec![right(packet); usize::from(*count % 70)];
            world.sealed(far, ecn & 3, 0, &packets)
        }
    }
}

/// Packets, each with its length in front.
fn split(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while let Some((len, after)) = rest.split_first_chunk::<2>()
        && all.len() < 128
    {
        let len = usize::from(u16::from_be_bytes(*len)).min(after.len());
        let (packet, after) = after.split_at_checked(len).unwrap_or((after, &[]));
        all.push(packet);
        rest = after;
    }
    all
}

fn engine_seeds() -> Seeds {
    let plan = Plan::new().ok_or_else(|| anyhow::anyhow!("the addresses are not valid"))?;
    let step = |kind: u8, bytes: &[u8]| {
        let len = u16::try_from(bytes.len()).unwrap_or(0).to_be_bytes();
        [&[kind], &len[..], bytes].concat()
    };
    let tun = |gso: Gso, packet: &[u8]| step(0, &[&header::encode(&gso)[..], packet].concat());
    let sealed = |far: u8, packets: &[Vec<u8>]| {
        let with_length =
            |packet: &Vec<u8>| [&u16::try_from(packet.len()).unwrap_or(0).to_be_bytes()[..], packet].concat();
        step(1 | far, &[&[2, 0][..], &packets.iter().flat_map(with_length).collect::<Vec<_>>()].concat())
    };
    let (controller, node) = (IpAddr::V6(plan.pool.controller()), plan.node);
    let control = |from: IpAddr, to: IpAddr, ports: (u16, u16)| {
        packet::syn(SocketAddr::new(from, ports.0), SocketAddr::new(to, ports.1), b"call")
    };
    let answered = |mut bytes: Vec<u8>| {
        let at = if bytes.first().is_some_and(|first| first >> 4 == 6) { 53 } else { 33 };
        bytes.iter_mut().skip(at).take(1).for_each(|flags| *flags = 0x10);
        righted(&bytes)
    };
    let mut seeds = vec![
        seed(
            "controller-called",
            [vec![0], sealed(0x40, &[control(node, controller, (LAPTOP_PORT, CONTROL_PORT))])].concat(),
        ),
        seed(
            "controller-answers",
            [vec![0], tun(Gso::NONE, &answered(control(controller, node, (CONTROL_PORT, LAPTOP_PORT))))].concat(),
        ),
        seed(
            "stranger",
            [vec![1], step(2, &[0, 0, 3, 4, 0, 0, 0, 9, 9, 9, 9]), step(2, &[0, 40, 0]), step(3, &[5])].concat(),
        ),
    ];
    for (role, name) in [(1, "gateway"), (2, "client")] {
        let calls = tun(Gso::NONE, &control(node, controller, (LAPTOP_PORT, CONTROL_PORT)));
        let answer = sealed(0x40, &[answered(control(controller, node, (CONTROL_PORT, LAPTOP_PORT)))]);
        seeds.push(seed(&format!("{name}-control"), [vec![role], calls, answer].concat()));
    }
    for (family, at) in [("v4", 0), ("v6", 1)] {
        let pick = |of: &[IpAddr; 2]| of.get(at).copied().unwrap_or(controller);
        let (device, name) =
            (SocketAddr::new(pick(&plan.device), LAPTOP_PORT), SocketAddr::new(pick(&plan.names), SERVICE_PORT));
        let (nat, target) =
            (SocketAddr::new(pick(&plan.nat), LAPTOP_PORT), SocketAddr::new(pick(&plan.target), SERVICE_PORT));
        for (protocol, make) in
            [("tcp", packet::syn as fn(SocketAddr, SocketAddr, &[u8]) -> Vec<u8>), ("udp", packet::udp)]
        {
            let kind = match (protocol, at) {
                ("tcp", 0) => GsoKind::TcpV4,
                ("tcp", _) => GsoKind::TcpV6,
                _ => GsoKind::Udp,
            };
            let gso = Gso { kind, header_len: 0, size: 100, checksum: Some((20, 16)) };
            let back = |bytes: Vec<u8>| if protocol == "tcp" { answered(bytes) } else { bytes };
            // To the service, its answer as a super-packet, and the error of a router.
            let asks = sealed(0, &vec![make(device, name, &[1; 50]); 3]);
            let answers = tun(gso, &back(make(target, nat, &[2; 350])));
            seeds.push(seed(&format!("gateway-{family}-{protocol}"), [vec![1], asks, answers].concat()));
            let asks = tun(gso, &back(make(device, name, &[1; 350])));
            let answers = sealed(0, &vec![back(make(name, device, &[2; 50])); 3]);
            seeds.push(seed(&format!("client-{family}-{protocol}"), [vec![2], asks, answers].concat()));
        }
        let ping = packet::echo(device.ip(), name.ip(), b"who?");
        seeds.push(seed(&format!("gateway-{family}-echo"), [vec![1], sealed(0, std::slice::from_ref(&ping))].concat()));
        seeds.push(seed(&format!("client-{family}-echo"), [vec![2], tun(Gso::NONE, &ping)].concat()));
        // A datagram in two parts, and one that no grant speaks of.
        let mut pieces = Vec::new();
        let mut large = packet::udp(device, name, &[3; 2_000]);
        if at == 0 {
            large.iter_mut().skip(6).take(1).for_each(|flags| *flags = 0);
        }
        tunnel::fragments::cut::cut(&righted(&large), 1_280, 7, |piece| pieces.push(piece.to_vec()))
            .map_err(|reason| anyhow::anyhow!("cannot cut: {reason:?}"))?;
        let raw = |kind: u8, piece: &[u8]| step(kind | 0x80, &[&[0; HEADER_BYTES][..], piece].concat());
        let parts: Vec<u8> = pieces.iter().flat_map(|piece| raw(0, piece)).collect();
        seeds.push(seed(&format!("client-{family}-fragments"), [vec![2], parts].concat()));
        let inside = pieces
            .iter()
            .flat_map(|piece| [&u16::try_from(piece.len()).unwrap_or(0).to_be_bytes()[..], piece].concat());
        let inside = step(0x81, &[0, 0].into_iter().chain(inside).collect::<Vec<_>>());
        seeds.push(seed(&format!("gateway-{family}-fragments"), [vec![1], inside].concat()));
        seeds.push(seed(
            &format!("gateway-{family}-foreign"),
            [vec![1], sealed(0, &[data(at == 1, true, b"no")])].concat(),
        ));
    }
    let asked = packet::udp(SocketAddr::new(plan.device[0], LAPTOP_PORT), SocketAddr::new(plan.asked, 53), b"name?");
    seeds.push(seed("gateway-name", [vec![1], sealed(0, &[asked.clone(), asked.clone()]), step(3, &[120])].concat()));
    seeds.push(seed("client-asks", [vec![2], tun(Gso::NONE, &asked), step(3, &[120])].concat()));
    let resolver = SocketAddr::new(plan.pool.resolver_v4().into(), 53);
    let query = packet::udp(SocketAddr::new(plan.device[0], LAPTOP_PORT), resolver, b"query");
    seeds.push(seed("client-resolver", [vec![2], tun(Gso::NONE, &query)].concat()));
    Ok(seeds)
}
