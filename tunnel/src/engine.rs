//! The engine: one entry for each thing that can happen to a tunnel program.
//!
//! All calls take `&self`. The state (peers, view, routes) is read-locked while a train is worked on and write-locked only
//! to be swapped, so [`Engine::apply`] returns when nobody uses the state from before it. No two tunnels are locked at
//! once, and none while flows are looked up.

use crate::address::address_of_key;
use crate::api::{Change, Config, Event, Out, PeerId, PeerKind, PeerStatus, Role, RouteState, Routes};
use crate::control;
use crate::counters::{Counters, Drop};
use crate::headers::Packet;
use crate::knock;
use crate::limiter::{PerSecond, Sources};
use crate::peer::{Peer, Sent};
use crate::peers::{Bounds, Peers};
use crate::routes::{ClientPath, Verdict as RouteVerdict};
use crate::silence::{Silence, Silences};
use crate::site::{Replies, Site};
use crate::wire::{Boring, Door, Doors, Message, Verdict};
use grant::View;
use model::ids::{GrantId, PairingId};
use model::key::PublicKey;
use model::limits::KNOCKS_PER_SECOND;
use model::packet::{Frame, GsoKind, Local, Train};
use model::time::Instant;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// The engine wants to be called at least this often: load is counted by the second.
const TICK_MAX: Duration = Duration::from_secs(1);

/// And not more often than this, whatever is due.
const TICK_MIN: Duration = Duration::from_millis(10);
/// Peers that are ticked under one lock of the state.
const SWEEP_MAX: usize = 1_024;

/// Counts the changes that [`Engine::apply`] made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// What a change replaces.
struct State {
    generation: u64,
    peers: Peers,
    view: Option<Arc<View>>,
    routes: Arc<Routes>,
}

/// All tunnels and flows of one program.
pub struct Engine {
    config: Config,
    doors: Arc<dyn Doors>,
    control: Arc<dyn Door>,
    state: RwLock<State>,
    /// Held through a change, so that two of them do not mix.
    changing: Mutex<()>,
    /// When seconds were counted last.
    second: Mutex<Instant>,
    knocks: PerSecond,
    sources: Sources,
    site: Site,
    client: ClientPath,
    drops: Arc<Counters>,
    silences: Silences,
}

/// An endpoint and the local side that it was seen at.
type Source = (SocketAddr, Local);

impl Engine {
    /// An engine without peers.
    pub fn new(config: Config) -> Self {
        Self::with(config, Arc::new(Boring::default()), Bounds::default())
    }

    /// The same with other cryptography and bounds, for simulations.
    pub fn with(config: Config, doors: Arc<dyn Doors>, bounds: Bounds) -> Self {
        let control = doors.door(&config.key);
        let drops = Arc::new(Counters::default());
        let sources = Sources::new(config.seed);
        let state = State {
            generation: 0,
            peers: Peers::new(bounds, control.clone(), config.seed),
            view: None,
            routes: Arc::new(Routes::default()),
        };
        Self {
            config,
            doors,
            control,
            state: RwLock::new(state),
            changing: Mutex::new(()),
            second: Mutex::new(Instant(0)),
            knocks: PerSecond::new(KNOCKS_PER_SECOND),
            sources,
            site: Site::new(drops.clone()),
            client: ClientPath::new(drops.clone()),
            drops,
            silences: Silences::default(),
        }
    }

    /// The public half of the control key.
    pub fn public(&self) -> PublicKey {
        self.control.public()
    }

    // -- from the network --------------------------------------------------------------------------------------------

    /// Datagrams that came to the UDP socket.
    pub fn from_udp(&self, now: Instant, train: &mut Train, out: &mut Out) {
        let state = self.state.read();
        let from = (train.addr, train.local);
        let mut replies = Replies::new();
        let mut packets = Vec::new();
        let mut datagrams = train.datagrams().peekable();
        while let Some(first) = datagrams.next() {
            match self.open(&state, now, from, first, out) {
                Ok(Some(peer)) => {
                    // Data of one tunnel, back to back, is opened under one lock.
                    let run = std::iter::once(first)
                        .chain(std::iter::from_fn(|| datagrams.next_if(|next| same_tunnel(first, next))));
                    self.receive(&peer, now, from, run, &mut packets, out);
                    for packet in packets.drain(..) {
                        self.inbound(&state, now, &peer, packet, out, &mut replies);
                    }
                }
                Ok(None) => {}
                Err(reason) => self.silences.count(reason),
            }
        }
        self.send_replies(&state, now, &mut replies, out);
    }

    /// Whose datagram is it? Handshakes are judged here; nothing is opened yet.
    fn open(
        &self,
        state: &State,
        now: Instant,
        from: Source,
        datagram: &[u8],
        out: &mut Out,
    ) -> Result<Option<Arc<Peer>>, Silence> {
        let Some(message) = Message::read(datagram) else {
            return self.stranger(now, from, datagram, out).map(|()| None);
        };
        let by_index = |index| state.peers.by_receiver(index).cloned().ok_or(Silence::UnknownIndex);
        let peer = match message {
            Message::Initiation => self.initiator(state, now, from, datagram, out)?,
            Message::Response(index) => {
                let peer = by_index(index)?;
                judge(peer.door.as_ref(), from, datagram, out)?;
                peer
            }
            Message::Cookie(index) | Message::Data(index, _) => by_index(index)?,
        };
        Ok(Some(peer))
    }

    fn receive<'a>(
        &self,
        peer: &Peer,
        now: Instant,
        from: Source,
        datagrams: impl Iterator<Item = &'a [u8]>,
        packets: &mut Vec<Vec<u8>>,
        out: &mut Out,
    ) {
        let mut tunnel = match peer.lock() {
            Ok(tunnel) => tunnel,
            Err(error) => return self.silences.count(error.into()),
        };
        for datagram in datagrams {
            match tunnel.receive(now, from, datagram, &mut out.udp) {
                Ok(received) => {
                    packets.extend(received.packet);
                    if let Some((endpoint, theirs)) = received.handshake {
                        out.events.push(Event::Handshake { peer: peer.id, endpoint, theirs });
                    }
                }
                Err(error) => self.silences.count(error.into()),
            }
        }
    }

    /// Whose initiation is it? MAC1 under each key of ours, then the load, then one Diffie-Hellman.
    fn initiator(
        &self,
        state: &State,
        now: Instant,
        from: Source,
        datagram: &[u8],
        out: &mut Out,
    ) -> Result<Arc<Peer>, Silence> {
        for door in state.peers.doors() {
            match judge(door.as_ref(), from, datagram, out) {
                Err(Silence::Mac1) => {}
                Err(reason) => return Err(reason),
                Ok(()) => {
                    if !self.sources.admit(now, from.0.ip()) {
                        return Err(Silence::SourceRate);
                    }
                    let sender = door.sender(datagram).ok_or(Silence::Forged)?;
                    return state.peers.by_keys(door.public(), sender).cloned().ok_or(Silence::UnknownSender);
                }
            }
        }
        Err(Silence::Mac1)
    }

    fn stranger(&self, now: Instant, from: Source, datagram: &[u8], out: &mut Out) -> Result<(), Silence> {
        if !knock::is_knock(datagram) {
            return Err(Silence::NotWireguard);
        }
        if self.config.role != Role::Controller {
            return Err(Silence::KnockUnwanted);
        }
        if !knock::mac1_holds(&self.control.public(), datagram) {
            return Err(Silence::Mac1);
        }
        if !self.knocks.admit(now) {
            return Err(Silence::KnockRate);
        }
        out.events.push(Event::Knock { bytes: datagram.to_vec(), from: from.0 });
        Ok(())
    }

    fn inbound(
        &self,
        state: &State,
        now: Instant,
        peer: &Peer,
        mut packet: Vec<u8>,
        out: &mut Out,
        replies: &mut Replies,
    ) {
        match (self.config.role, peer.id) {
            (Role::Gateway, PeerId::Pairing(pairing)) => match &state.view {
                Some(view) => self.site.from_client(now, view, pairing, &mut packet, out, replies),
                None => self.drops.count(Drop::UnknownPairing),
            },
            (Role::Client, PeerId::Pairing(pairing)) => {
                if self.client.from_gateway(now, &state.routes, pairing, &mut packet) {
                    out.tun.push(Frame::packet(packet));
                }
            }
            (Role::Controller, PeerId::Pairing(_)) => self.drops.count(Drop::UnknownPairing),
            (_, PeerId::Node(_) | PeerId::Provisional(_)) => match self.control_inbound(now, peer, &packet) {
                Ok(len) => {
                    packet.truncate(len);
                    out.tun.push(Frame::packet(packet));
                }
                Err(reason) => self.drops.count(reason),
            },
        }
    }

    fn control_inbound(&self, now: Instant, peer: &Peer, packet: &[u8]) -> Result<usize, Drop> {
        let parsed = Packet::parse(packet)?;
        let (id, owned) = side(now, peer, parsed.source);
        control::admits_inbound(self.config.role, &self.config.pool, &id, &owned, &parsed)?;
        Ok(parsed.len)
    }

    // -- from the TUN ------------------------------------------------------------------------------------------------

    /// A packet that the kernel routed into the TUN device.
    pub fn from_tun(&self, now: Instant, frame: &mut Frame, out: &mut Out) {
        if frame.gso.kind != GsoKind::None {
            return self.silences.count(Silence::Segmented);
        }
        let state = self.state.read();
        let pool = &self.config.pool;
        let Some(destination) = destination(&frame.bytes) else { return self.drops.count(Drop::NotIp) };
        let controller = IpAddr::V6(pool.controller());
        let mut replies = Replies::new();
        match self.config.role {
            Role::Controller => self.to_control(&state, now, destination, &frame.bytes, out),
            Role::Gateway | Role::Client if destination == controller => {
                self.to_control(&state, now, destination, &frame.bytes, out);
            }
            Role::Gateway => match &state.view {
                Some(view) if view.scope.nat.contains(destination) => {
                    self.site.from_service(now, &mut frame.bytes, &mut replies);
                }
                _ => self.drops.count(Drop::NoRoute),
            },
            Role::Client if destination == pool.resolver_v4() || destination == pool.resolver_v6() => {
                out.local.push(Frame::packet(std::mem::take(&mut frame.bytes)));
            }
            Role::Client => {
                let verdict = self.client.from_tun(now, &state.routes, &mut frame.bytes, out);
                if let RouteVerdict::Send(pairing) = verdict {
                    self.send(&state, now, &PeerId::Pairing(pairing), &frame.bytes, out);
                }
            }
        }
        self.send_replies(&state, now, &mut replies, out);
    }

    fn to_control(&self, state: &State, now: Instant, destination: IpAddr, packet: &[u8], out: &mut Out) {
        let Some(peer) = state.peers.by_address(destination) else { return self.drops.count(Drop::NoRoute) };
        let admitted = Packet::parse(packet).and_then(|parsed| {
            let (id, owned) = side(now, peer, parsed.destination);
            control::admits_outbound(self.config.role, &self.config.pool, &id, &owned, &parsed)
        });
        match admitted {
            Ok(()) => self.seal(now, peer, packet, out),
            Err(reason) => self.drops.count(reason),
        }
    }

    fn send(&self, state: &State, now: Instant, id: &PeerId, packet: &[u8], out: &mut Out) {
        match state.peers.by_id(id) {
            Some(peer) => self.seal(now, peer, packet, out),
            None => self.silences.count(Silence::NoTunnel),
        }
    }

    fn seal(&self, now: Instant, peer: &Peer, packet: &[u8], out: &mut Out) {
        match peer.lock().map(|mut tunnel| tunnel.send(now, packet, &mut out.udp)) {
            Ok(Sent::Sealed | Sent::Waiting) => {}
            Ok(Sent::Full) => self.drops.count(Drop::WaitingFull),
            Ok(Sent::Refused) => self.silences.count(Silence::Unsealable),
            Err(error) => self.silences.count(error.into()),
        }
    }

    fn send_replies(&self, state: &State, now: Instant, replies: &mut Replies, out: &mut Out) {
        for (pairing, packet) in replies.drain(..) {
            self.send(state, now, &PeerId::Pairing(pairing), &packet, out);
        }
    }

    // -- changes -----------------------------------------------------------------------------------------------------

    /// Applies a change; returns when no thread uses the state from before it any more. What cannot be done is counted.
    pub fn apply(&self, now: Instant, change: Change, out: &mut Out) -> Generation {
        let _one = self.changing.lock();
        let done = match change {
            Change::AddPeer(peer) => self.add(now, &peer),
            Change::RemovePeer(id) => self.state.write().peers.remove(&id).map(|_| ()).ok_or(Silence::PeerUnknown),
            Change::Promote { key, node, address } => {
                let mut state = self.state.write();
                state.peers.promote(&key, PeerId::Node(node), IpAddr::V6(address)).map(|_| ())
            }
            Change::Endpoints(id, endpoints) => self.with_peer(&id, |peer| {
                peer.settings().set_candidates(&endpoints);
                Ok(())
            }),
            Change::ForceHandshake(id) => self.with_peer(&id, |peer| {
                peer.lock()?.force(now, &mut out.udp);
                Ok(())
            }),
            Change::NextEndpoint(id) => self.with_peer(&id, |peer| {
                let mut tunnel = peer.lock()?;
                tunnel.next_candidate();
                tunnel.force(now, &mut out.udp);
                Ok(())
            }),
            Change::Grants(view) => {
                self.grants(now, view, out);
                Ok(())
            }
            Change::Resolved { name, v4, addresses, ttl } => {
                let state = self.state.read();
                let mut replies = Replies::new();
                if let Some(view) = &state.view {
                    self.site.resolved(now, view, &name, v4, addresses, ttl, out, &mut replies);
                }
                self.send_replies(&state, now, &mut replies, out);
                Ok(())
            }
            Change::Routes(routes) => {
                self.routes(now, routes, out);
                Ok(())
            }
        };
        if let Err(reason) = done {
            self.silences.count(reason);
        }
        let mut state = self.state.write();
        state.generation += 1;
        Generation(state.generation)
    }

    fn with_peer(&self, id: &PeerId, what: impl FnOnce(&Peer) -> Result<(), Silence>) -> Result<(), Silence> {
        let peer = self.state.read().peers.by_id(id).cloned();
        peer.ok_or(Silence::PeerUnknown).and_then(|peer| what(&peer))
    }

    fn door(&self, key: &Arc<model::key::PrivateKey>) -> Arc<dyn Door> {
        if *key == self.config.key { self.control.clone() } else { self.doors.door(key) }
    }

    fn add(&self, now: Instant, peer: &crate::api::Peer) -> Result<(), Silence> {
        let door = self.door(&peer.local);
        let mut peer = std::borrow::Cow::Borrowed(peer);
        if matches!(peer.kind, PeerKind::Provisional) {
            // The address is the key's, whatever the caller says.
            let address = address_of_key(&self.config.pool, &peer.remote);
            peer.to_mut().addresses = vec![IpAddr::V6(address)];
        }
        self.state.write().peers.admit(now, door, &peer).map(|_| ())
    }

    /// New tunnels first, then the view, then RST through the old tunnels, and only then do these go.
    fn grants(&self, now: Instant, new: Arc<View>, out: &mut Out) {
        for (id, pairing) in &new.pairings {
            let known = self.state.read().peers.by_id(&PeerId::Pairing(*id)).is_some_and(|p| {
                p.remote == pairing.pairing.client_key
                    && matches!(&p.kind, PeerKind::Pairing(psk) if *psk == pairing.pairing.psk)
            });
            if !known && let Err(reason) = self.add(now, &self.pairing_peer(&pairing.pairing)) {
                self.silences.count(reason);
            }
        }
        let old = self.state.write().view.replace(new.clone());
        let old = old.unwrap_or_else(|| Arc::new(View::empty(new.scope.clone())));
        let state = self.state.read();
        for (id, pairing) in &old.pairings {
            if pairing.grants.iter().any(|g| !new.holds(*id, g.grant().id)) {
                self.drop_waiting(&state, id);
            }
        }
        let mut replies = Replies::new();
        self.site.swap(now, &old, &new, out, &mut replies);
        self.send_replies(&state, now, &mut replies, out);
        drop(state);
        let mut state = self.state.write();
        let gone: Vec<PeerId> = state
            .peers
            .all()
            .map(|p| p.id)
            .filter(|id| matches!(id, PeerId::Pairing(pairing) if !new.pairings.contains_key(pairing)))
            .collect();
        for id in gone {
            state.peers.remove(&id);
        }
    }

    fn pairing_peer(&self, pairing: &model::grant::Pairing) -> crate::api::Peer {
        crate::api::Peer {
            id: PeerId::Pairing(pairing.id),
            kind: PeerKind::Pairing(pairing.psk.clone()),
            local: self.config.key.clone(),
            remote: pairing.client_key,
            addresses: vec![IpAddr::V4(pairing.device_v4), IpAddr::V6(pairing.device_v6)],
            endpoints: Vec::new(),
            keepalive: None,
        }
    }

    fn routes(&self, now: Instant, new: Arc<Routes>, out: &mut Out) {
        let old = std::mem::replace(&mut self.state.write().routes, new.clone());
        let state = self.state.read();
        let kept = granted(&new);
        let ended: BTreeSet<PairingId> =
            granted(&old).into_iter().filter(|g| !kept.contains(g)).map(|(pairing, _)| pairing).collect();
        for pairing in &ended {
            self.drop_waiting(&state, pairing);
        }
        let mut replies = Replies::new();
        self.client.swap(now, &new, out, &mut replies);
        self.send_replies(&state, now, &mut replies, out);
    }

    /// A grant of the pairing ended: what waits for its session may have been that grant's.
    fn drop_waiting(&self, state: &State, pairing: &PairingId) {
        if let Some(peer) = state.peers.by_id(&PeerId::Pairing(*pairing)) {
            for _ in 0..peer.settings().drop_waiting() {
                self.drops.count(Drop::NoGrant);
            }
        }
    }

    // -- time and status ---------------------------------------------------------------------------------------------

    /// Timers; returns when it wants to be called next.
    pub fn tick(&self, now: Instant, out: &mut Out) -> Instant {
        let over = self.each_second(now);
        if over {
            let _one = self.changing.lock();
            self.state.write().peers.expire(now);
        }
        let mut due = now.plus(TICK_MAX);
        let mut last = None;
        loop {
            // In parts, so that a change never waits for a sweep of all.
            let state = self.state.read();
            let before = last;
            for peer in state.peers.after(last).take(SWEEP_MAX) {
                due = due.min(peer.tick(now, &mut out.udp));
                last = Some(peer.id);
            }
            if last == before {
                break;
            }
        }
        let state = self.state.read();
        let mut replies = Replies::new();
        due = due.min(match self.config.role {
            Role::Controller => Instant::NEVER,
            Role::Gateway => self.site.expire(now, out, &mut replies),
            Role::Client => self.client.expire(now, out),
        });
        self.send_replies(&state, now, &mut replies, out);
        due.max(now.plus(TICK_MIN))
    }

    /// Starts a new second of load; answers whether a provisional peer's time is over.
    fn each_second(&self, now: Instant) -> bool {
        let mut second = self.second.lock();
        if now.since(*second) < TICK_MAX && second.0 != 0 {
            return false;
        }
        *second = now;
        let state = self.state.read();
        state.peers.doors().for_each(|door| door.second());
        state.peers.has_expired(now)
    }

    /// The state of one tunnel.
    pub fn peer(&self, id: &PeerId) -> Option<PeerStatus> {
        self.state.read().peers.by_id(id).map(|peer| peer.status())
    }

    /// Every counter with its name, in a stable order.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let flows = self.site.flows() + self.client.flows();
        let gauges = [("peers", self.state.read().peers.len() as u64), ("flows", flows as u64)];
        self.silences.all().into_iter().chain(self.drops.all()).chain(gauges).collect()
    }
}

/// What the door says, as the engine takes it: a cookie goes out, and that is all.
fn judge(door: &dyn Door, from: Source, datagram: &[u8], out: &mut Out) -> Result<(), Silence> {
    match door.judge(from.0.ip(), datagram) {
        Verdict::Admitted => Ok(()),
        Verdict::NotOurs => Err(Silence::Mac1),
        Verdict::Cookie(reply) => {
            out.send(from.0, from.1, reply);
            Err(Silence::CookieAsked)
        }
    }
}

/// As whom does a peer speak under this address of its? A node in its enrolment minute has two.
fn side(now: Instant, peer: &Peer, address: IpAddr) -> (PeerId, Vec<IpAddr>) {
    match peer.provisional {
        Some((own, until)) if own == address && until > now => (PeerId::Provisional(peer.remote), vec![own]),
        _ => (peer.id, peer.addresses.clone()),
    }
}

/// Do two datagrams bring data for one tunnel of ours?
fn same_tunnel(first: &[u8], next: &[u8]) -> bool {
    match (Message::read(first), Message::read(next)) {
        (Some(Message::Data(a, _)), Some(Message::Data(b, _))) => a == b,
        _ => false,
    }
}

fn granted(routes: &Routes) -> BTreeSet<(PairingId, GrantId)> {
    let entries = routes.entries.values().flatten();
    entries
        .filter_map(|entry| match entry.state {
            RouteState::Granted { pairing, grant, .. } => Some((pairing, grant)),
            RouteState::Ask | RouteState::Denied(_) => None,
        })
        .collect()
}

/// The destination address, from where each version keeps it; nothing else of the packet is believed.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => packet.get(16..20).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(IpAddr::from),
        6 => packet.get(24..40).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(IpAddr::from),
        _ => None,
    }
}
