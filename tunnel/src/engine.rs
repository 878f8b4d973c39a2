//! The engine: one entry for each thing that can happen to a tunnel program.
//!
//! All calls take `&self`. The state (peers, view, routes) is read-locked while a train is worked on and write-locked only
//! to be swapped, so [`Engine::apply`] returns when nobody uses the state from before it. No two tunnels are locked at
//! once, and none while flows are looked up.

mod change;

use crate::api::{Config, Event, FlowEnd, FlowSummary, Out, PeerId, PeerKind, PeerStatus, Role, Routes, Scratch};
use crate::coalesce::Coalescer;
use crate::control;
use crate::counters::{Counters, Drop};
use crate::ecn;
use crate::filter::Filter;
use crate::fragments::{Fragments, Origin, cut};
use crate::headers::Packet;
use crate::knock;
use crate::limiter::{PerSecond, Sources};
use crate::peer::{Peer, Sent};
use crate::peers::{Bounds, Peers};
use crate::routes::{ClientPath, RouteTable, Verdict as RouteVerdict};
use crate::segment::{self, Cut, each_packet};
use crate::silence::{Silence, Silences};
use crate::site::{Replies, Site};
use crate::wire::{Boring, Door, Doors, Message, Verdict};
use grant::View;
use model::key::{PrivateKey, PublicKey};
use model::limits::{KNOCKS_PER_SECOND, PEER_SWEEP_MAX, TUN_MTU};
use model::packet::{Frame, GsoKind, Local, Train};
use model::time::Instant;
use parking_lot::{Mutex, RwLock};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// The engine wants to be called at least this often: load is counted by the second.
const TICK_MAX: Duration = Duration::from_secs(1);

/// And not more often than this, whatever is due.
const TICK_MIN: Duration = Duration::from_millis(10);

/// Counts the changes that [`Engine::apply`] made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// What a change replaces.
struct State {
    generation: u64,
    peers: Peers,
    view: Option<Arc<View>>,
    routes: Arc<RouteTable>,
}

/// All tunnels and flows of one program.
pub struct Engine {
    config: Config,
    doors: Arc<dyn Doors>,
    /// Those whose doors the state has, in the same order.
    control_keys: Mutex<Vec<Arc<PrivateKey>>>,
    state: RwLock<State>,
    /// Held through a change, so that two of them do not mix.
    changing: Mutex<()>,
    /// When seconds were counted last.
    second: Mutex<Instant>,
    knocks: PerSecond,
    /// Who was asked for cookies, and who shook hands.
    asked: Sources,
    sources: Sources,
    fragments: Fragments,
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
        let control_keys = Mutex::new(vec![config.key.clone()]);
        let drops = Arc::new(Counters::default());
        let (asked, sources) = (Sources::new(config.seed), Sources::new(config.seed));
        let site = Site::new(drops.clone(), config.seed);
        let client = ClientPath::new(drops.clone(), &config.seed);
        let state = State {
            generation: 0,
            peers: Peers::new(bounds, control, config.seed),
            view: None,
            routes: Arc::new(RouteTable::new(Routes::default(), &config.seed)),
        };
        Self {
            config,
            doors,
            control_keys,
            state: RwLock::new(state),
            changing: Mutex::new(()),
            second: Mutex::new(Instant(0)),
            knocks: PerSecond::new(KNOCKS_PER_SECOND),
            asked,
            sources,
            fragments: Fragments::new(drops.clone()),
            site,
            client,
            drops,
            silences: Silences::default(),
        }
    }

    /// The public half of our key that the tunnel with this overlay address uses.
    pub fn local_key(&self, address: IpAddr) -> Option<PublicKey> {
        self.state.read().peers.by_address(address).map(|peer| peer.door.public())
    }

    /// The public half of the key of its pairings.
    pub fn pairing_public(&self) -> PublicKey {
        self.doors.door(&self.config.pairing_key).public()
    }

    // -- from the network --------------------------------------------------------------------------------------------

    /// Datagrams that came to the UDP socket.
    pub fn from_udp(&self, now: Instant, train: &mut Train, out: &mut Out) {
        let state = self.state.read();
        let (from, ecn) = ((train.addr, train.local), train.ecn);
        let mut replies = Replies::new();
        let mut proven = Vec::new();
        let mut datagrams = train.datagrams().peekable();
        while let Some(first) = datagrams.next() {
            match self.open(&state, now, from, first, out) {
                Ok(Some(peer)) => {
                    // Data of one tunnel, back to back, is opened under one lock.
                    let run = std::iter::once(first)
                        .chain(std::iter::from_fn(|| datagrams.next_if(|next| same_tunnel(first, next))));
                    if self.receive(&peer, now, (from, ecn), run, out) && state.peers.is_successor(&peer) {
                        proven.push(Arc::clone(&peer));
                    }
                    let mut frames = std::mem::take(&mut out.scratch.frames);
                    for frame in frames.drain(..) {
                        self.inbound(&state, now, &peer, frame, out, &mut replies);
                    }
                    out.scratch.frames = frames;
                }
                Ok(None) => {}
                Err(reason) => self.silences.count(reason),
            }
        }
        self.send_replies(&state, now, &mut replies, out);
        drop(state);
        self.take_over(now, &proven, out);
        self.count_expired(out);
    }

    /// Successors whose keys were proven are the tunnels from now on.
    fn take_over(&self, now: Instant, proven: &[Arc<Peer>], out: &mut Out) {
        if proven.is_empty() {
            return;
        }
        let _one = self.changing.lock();
        let mut state = self.state.write();
        for peer in proven {
            if state.peers.take_over(now, peer) {
                out.events.push(Event::Succeeded { peer: peer.id, remote: peer.remote });
            }
        }
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
            return self.stranger(state, now, from, datagram, out).map(|()| None);
        };
        let by_index = |index| state.peers.by_receiver(index).cloned().ok_or(Silence::UnknownIndex);
        let peer = match message {
            Message::Initiation => self.initiator(state, now, from, datagram, out)?,
            Message::Response(index) => {
                let peer = by_index(index)?;
                self.judge(peer.door.as_ref(), now, from, datagram, out)?;
                peer
            }
            Message::Cookie(index) | Message::Data(index, _) => by_index(index)?,
        };
        Ok(Some(peer))
    }

    /// Opens datagrams of one tunnel into `out.scratch.frames`; whether a handshake completed with them.
    fn receive<'a>(
        &self,
        peer: &Peer,
        now: Instant,
        (from, ecn): (Source, u8),
        datagrams: impl Iterator<Item = &'a [u8]>,
        out: &mut Out,
    ) -> bool {
        let mut shaken = false;
        let mut tunnel = match peer.lock(now) {
            Ok(tunnel) => tunnel,
            Err(error) => {
                self.silences.count(error.into());
                return false;
            }
        };
        let Scratch { mut opened, mut frames, segment } = std::mem::take(&mut out.scratch);
        let mut coalescer = Coalescer::new(out.offloads);
        for datagram in datagrams {
            match tunnel.receive(now, from, datagram, &mut opened, out) {
                Ok(received) => {
                    if let Some(packet) = received.packet.and_then(|len| opened.get_mut(..len)) {
                        match ecn::arrive(packet, ecn) {
                            Ok(()) => coalescer.push(packet, &mut frames, &mut out.spare),
                            Err(reason) => self.drops.count(reason),
                        }
                    }
                    if let Some((endpoint, theirs)) = received.handshake {
                        shaken = true;
                        out.events.push(Event::Handshake { peer: peer.id, endpoint, theirs });
                    }
                }
                Err(error) => self.silences.count(error.into()),
            }
        }
        drop(tunnel);
        coalescer.close(&mut frames);
        out.scratch = Scratch { opened, frames, segment };
        shaken
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
            match self.judge(door.as_ref(), now, from, datagram, out) {
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

    /// What the door says, as the engine takes it: a cookie goes out, and that is all. Nobody gets them without measure: whose
    /// address is forged is not to be flooded by us.
    fn judge(
        &self,
        door: &dyn Door,
        now: Instant,
        from: Source,
        datagram: &[u8],
        out: &mut Out,
    ) -> Result<(), Silence> {
        match door.judge(from.0, datagram) {
            Verdict::Admitted => Ok(()),
            Verdict::NotOurs => Err(Silence::Mac1),
            Verdict::Crowded => Err(Silence::CookieRate),
            Verdict::Cookie(_) if !self.asked.admit(now, from.0.ip()) => Err(Silence::SourceRate),
            Verdict::Cookie(reply) => {
                out.send(from.0, from.1, reply);
                Err(Silence::CookieAsked)
            }
        }
    }

    fn stranger(
        &self,
        state: &State,
        now: Instant,
        from: Source,
        datagram: &[u8],
        out: &mut Out,
    ) -> Result<(), Silence> {
        if !knock::is_knock(datagram) {
            return Err(Silence::NotWireguard);
        }
        if self.config.role != Role::Controller {
            return Err(Silence::KnockUnwanted);
        }
        let mut keys = state.peers.controls().iter().map(|door| door.public());
        let local = keys.find(|key| knock::mac1_holds(key, datagram)).ok_or(Silence::Mac1)?;
        if !self.knocks.admit(now) {
            return Err(Silence::KnockRate);
        }
        out.events.push(Event::Knock { bytes: datagram.to_vec(), from: from.0, local });
        Ok(())
    }

    fn inbound(
        &self,
        state: &State,
        now: Instant,
        peer: &Peer,
        mut frame: Frame,
        out: &mut Out,
        replies: &mut Replies,
    ) {
        match (self.config.role, peer.id) {
            (Role::Gateway, PeerId::Pairing(pairing)) => match &state.view {
                Some(view) => {
                    let owned = |source, _| Filter::sender(view, pairing, source).map(|_| Origin::Pairing(pairing));
                    let judge = |packet: &Packet| Filter::check(view, pairing, packet).map(|_| ());
                    if self.fragments.complete(now, &mut frame, owned, judge) {
                        self.site.from_client(now, view, pairing, frame, out, replies);
                    }
                }
                None => self.drops.count(Drop::UnknownPairing),
            },
            (Role::Client, PeerId::Pairing(pairing)) => {
                let may = |source, destination| {
                    state.routes.may_answer(now, source, destination).map(|()| Origin::Pairing(pairing))
                };
                let judge = |packet: &Packet| self.client.expects(now, &state.routes, pairing, packet);
                if self.fragments.complete(now, &mut frame, may, judge)
                    && self.client.from_gateway(now, &state.routes, pairing, &mut frame)
                {
                    out.write(frame);
                }
            }
            (Role::Controller, PeerId::Pairing(_)) => self.drops.count(Drop::UnknownPairing),
            (_, PeerId::Node(_) | PeerId::Provisional(_)) => match self.control_inbound(now, peer, &frame.bytes) {
                Ok(len) => {
                    frame.bytes.truncate(len);
                    out.write(frame);
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

    /// A packet, or super-packet, that the kernel routed into the TUN device.
    pub fn from_tun(&self, now: Instant, frame: &mut Frame, out: &mut Out) {
        if let Err(reason) = segment::prepare(frame) {
            return self.drops.count(reason);
        }
        let state = self.state.read();
        let pool = &self.config.pool;
        let Some(destination) = destination(&frame.bytes) else { return self.drops.count(Drop::NotIp) };
        let controller = IpAddr::V6(pool.controller());
        let mut replies = Replies::new();
        match self.config.role {
            Role::Controller => self.to_control(&state, now, destination, frame, out),
            Role::Gateway | Role::Client if destination == controller => {
                self.to_control(&state, now, destination, frame, out);
            }
            Role::Gateway => match &state.view {
                Some(view) if view.scope.nat.contains(destination) => {
                    // The kernel lets only answers to what we forwarded come here (`host::nft::Gateway`).
                    let judge = |packet: &Packet| self.site.expects(packet);
                    if self.fragments.complete(now, frame, |source, _| Ok(Origin::Tun(source)), judge)
                        && let Some(pairing) = self.site.from_service(now, frame)
                    {
                        self.send(&state, now, &PeerId::Pairing(pairing), frame, out);
                    }
                }
                _ => self.drops.count(Drop::NoRoute),
            },
            Role::Client if destination == pool.resolver_v4() || destination == pool.resolver_v6() => {
                let packets = Packet::parse(&frame.bytes).and_then(|packet| {
                    each_packet(frame, &packet, |bytes| {
                        out.local.push(Frame::packet(bytes.to_vec()));
                        Ok(())
                    })
                });
                packets.unwrap_or_else(|reason| self.drops.count(reason));
            }
            Role::Client => {
                let own = |source| {
                    if state.routes.own.contains(&source) { Ok(Origin::Tun(source)) } else { Err(Drop::SourceNotOwn) }
                };
                // Whole, it is answered where it may not go, so that its sender knows.
                if self.fragments.complete(now, frame, |source, _| own(source), |_| Ok(()))
                    && let RouteVerdict::Send(pairing) = self.client.from_tun(now, &state.routes, frame, out)
                {
                    self.send(&state, now, &PeerId::Pairing(pairing), frame, out);
                }
            }
        }
        self.send_replies(&state, now, &mut replies, out);
    }

    fn to_control(&self, state: &State, now: Instant, destination: IpAddr, frame: &Frame, out: &mut Out) {
        let Some(peer) = state.peers.by_address(destination) else { return self.drops.count(Drop::NoRoute) };
        let admitted = Packet::parse(&frame.bytes).and_then(|parsed| {
            let (id, owned) = side(now, peer, parsed.destination);
            control::admits_outbound(self.config.role, &self.config.pool, &id, &owned, &parsed)
        });
        match admitted {
            Ok(()) => self.seal(now, peer, frame, out),
            Err(reason) => self.drops.count(reason),
        }
    }

    fn send(&self, state: &State, now: Instant, id: &PeerId, frame: &Frame, out: &mut Out) {
        match state.peers.by_id(id) {
            Some(peer) => self.seal(now, peer, frame, out),
            None => self.silences.count(Silence::NoTunnel),
        }
    }

    /// Sends all that a frame stands for under one lock.
    fn seal(&self, now: Instant, peer: &Peer, frame: &Frame, out: &mut Out) {
        let mut tunnel = match peer.lock(now) {
            Ok(tunnel) => tunnel,
            Err(error) => return self.silences.count(error.into()),
        };
        if matches!(peer.kind, PeerKind::Pairing(_)) && cut::is_too_large(frame, TUN_MTU) {
            // In fragments inside the tunnel: those are sealed and counted, and each datagram passes where any other does. One
            // large datagram would leave in fragments outside, which anybody can spoil and many a NAT drops.
            let id = tunnel.identify();
            let done = cut::cut(&frame.bytes, TUN_MTU, id, |piece| self.sent(tunnel.send(now, piece, out)));
            return done.unwrap_or_else(|reason| self.drops.count(reason));
        }
        if frame.gso.kind == GsoKind::None {
            return self.sent(tunnel.send(now, &frame.bytes, out));
        }
        let cut = Packet::parse(&frame.bytes).and_then(|packet| Cut::check(&frame.bytes, &packet, &frame.gso));
        let cut = match cut {
            Ok(cut) => cut,
            Err(reason) => return self.drops.count(reason),
        };
        let mut segment = std::mem::take(&mut out.scratch.segment);
        for number in 0..cut.count() {
            cut.segment(&frame.bytes, number, &mut segment);
            self.sent(tunnel.send(now, &segment, out));
        }
        out.scratch.segment = segment;
    }

    fn sent(&self, sent: Sent) {
        match sent {
            Sent::Sealed | Sent::Waiting => {}
            Sent::Full => self.drops.count(Drop::WaitingFull),
            Sent::Refused => self.silences.count(Silence::Unsealable),
        }
    }

    fn send_replies(&self, state: &State, now: Instant, replies: &mut Replies, out: &mut Out) {
        for (pairing, packet) in replies.drain(..) {
            self.send(state, now, &PeerId::Pairing(pairing), &Frame::packet(packet), out);
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
        let mut due = now.plus(TICK_MAX).min(self.turns(now, out));
        due = due.min(self.fragments.expire(now));
        let state = self.state.read();
        let mut replies = Replies::new();
        due = due.min(match self.config.role {
            Role::Controller => Instant::NEVER,
            Role::Gateway => self.site.expire(now, out, &mut replies),
            Role::Client => self.client.expire(now, out),
        });
        self.send_replies(&state, now, &mut replies, out);
        self.count_expired(out);
        due.max(now.plus(TICK_MIN))
    }

    /// Packets whose tunnel had no session in time.
    fn count_expired(&self, out: &mut Out) {
        (0..std::mem::take(&mut out.expired)).for_each(|_| self.drops.count(Drop::WaitingExpired));
    }

    /// Runs the timers of the tunnels whose turn has come; answers when the next turn is.
    fn turns(&self, now: Instant, out: &mut Out) -> Instant {
        loop {
            // In parts, so that a change never waits for all.
            let state = self.state.read();
            let timers = state.peers.timers();
            let entries = timers.due(now, PEER_SWEEP_MAX);
            if entries.is_empty() {
                return timers.next();
            }
            for entry in entries {
                let peer = state.peers.by_turn(entry.1);
                timers.begin(entry, peer.map(|peer| peer.place()));
                if let Some(peer) = peer {
                    peer.tick(now, out);
                }
            }
        }
    }

    /// The queue of the tunnels' turns.
    #[cfg(test)]
    pub(crate) fn timers(&self) -> Arc<crate::timers::Timers> {
        self.state.read().peers.timers().clone()
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

    /// Our key and the far end's of the tunnel in use.
    pub fn keys(&self, id: &PeerId) -> Option<(PublicKey, PublicKey)> {
        self.state.read().peers.by_id(id).map(|peer| (peer.door.public(), peer.remote))
    }

    /// Gateway: what is known of the flows that live, for a program that stops without ending them.
    pub fn stopped_flows(&self) -> Vec<FlowSummary> {
        self.site.summaries(FlowEnd::Stopped)
    }

    /// What was dropped, by reason, in a stable order: datagrams, then packets.
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        self.silences.all().into_iter().chain(self.drops.all()).collect()
    }

    /// Every counter with its name, in a stable order.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let flows = self.site.flows() + self.client.flows();
        let gauges = [("peers", self.state.read().peers.len() as u64), ("flows", flows as u64)];
        self.drops().into_iter().chain(gauges).collect()
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

/// The destination address, from where each version keeps it; nothing else of the packet is believed.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => packet.get(16..20).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(IpAddr::from),
        6 => packet.get(24..40).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(IpAddr::from),
        _ => None,
    }
}
