//! One client: the real engine in its role, the real book of grants, catalogue and plan of routes.

use super::controller::{News, Scene};
use super::parts::{Clocks, MS, SECOND};
use super::reference::Time;
use client::catalogue::{Catalogue, Delta, Session};
use client::connect::{Book, Denial, Loss, Permit, Request, Seen as Glance};
use client::plan::{Place as Planned, plan};
use controller::arrange::connect::{Reply, Wish};
use model::grant::PairingOffer;
use model::ids::{DeviceId, GrantId, PairingId, ResourceId};
use model::key::PrivateKey;
use model::net::Prefix;
use model::packet::{Frame, Local, Train};
use model::pool::Pool;
use model::revision::Revision;
use model::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tunnel::double::{VirtualDoors, public_of};
use tunnel::peers::Bounds;
use tunnel::{Change, Config, Engine, Event, Out, Peer, PeerId, PeerKind, Role, RouteEntry, RouteState, Routes};

const KEEPALIVE: Duration = Duration::from_secs(25);
/// A run is short: tunnels are replaced by their age in it, too.
const KEYS_LIVE: Duration = Duration::from_secs(20);
/// After so long a silence the stream is taken for broken, and a call for failed.
const SILENCE: Time = 8 * SECOND;
const CALL_MAX: Time = 5 * SECOND;
const REOPEN: Time = 700 * MS;
/// A client under traffic looks at its tunnels so often.
const LOOK: Time = 250 * MS;
/// And one that waits for nothing. A program looks more often; that only costs time here.
const IDLE: Time = 3 * SECOND;

/// What a client says to the controller.
#[derive(Debug, Clone)]
pub enum Ask {
    /// It opens its stream.
    Watch { stream: u64, seen: Revision },
    /// "Are you there?"
    Probe { stream: u64 },
    /// Access, please.
    Connect { call: u64, wish: Wish },
    /// It gives a grant back.
    Disconnect(GrantId),
}

/// What stays when the program starts anew.
#[derive(Clone)]
pub struct Place {
    /// Its id.
    pub id: DeviceId,
    /// Its address outside.
    pub addr: SocketAddr,
    /// Its key.
    pub key: Arc<PrivateKey>,
    /// Its overlay addresses.
    pub own: Vec<IpAddr>,
    /// The organisation's addresses.
    pub pool: Pool,
    /// Where resources may lie.
    pub prefixes: Vec<Prefix>,
    /// Everything that the pool has: for one that takes what it may not.
    pub everything: Vec<IpAddr>,
}

struct Call {
    resource: ResourceId,
    sent: Instant,
    at: Time,
    key: Arc<PrivateKey>,
}

/// A client.
pub struct Client {
    /// What stays.
    pub place: Place,
    /// Its clocks.
    pub clocks: Clocks,
    /// Its packet path.
    pub engine: Engine,
    /// What it holds.
    pub book: Book,
    /// What it sees.
    pub catalogue: Catalogue,
    /// It takes what it may not: its routes lead everything through whatever tunnel it has, from any source.
    pub rogue: bool,
    /// Its next request names no tunnel.
    pub rotates: bool,
    /// What it wants to say.
    pub mail: Vec<Ask>,
    /// What its engine put out.
    pub out: Out,
    /// When it wants to be called next.
    pub wake: Time,
    /// Until when it sleeps.
    pub asleep: Time,
    planned: Planned,
    floor: Revision,
    stream: Option<u64>,
    asked: Option<Instant>,
    heard: Time,
    probed: Time,
    open_again: Time,
    calls: BTreeMap<u64, Call>,
    active: Time,
    tick: Time,
    dirty: bool,
}

impl Client {
    /// A client whose program starts.
    pub fn new(place: Place, scene: &mut Scene<'_>) -> Self {
        let (key, pairing_key) = (place.key.clone(), place.key.clone());
        let config = Config { role: Role::Client, pool: place.pool, key, pairing_key, seed: scene.dice.key() };
        let planned = Planned {
            pool: place.pool,
            own: place.own.clone(),
            prefixes: place.prefixes.clone(),
            zones: "corp.example".parse().into_iter().collect(),
            local: Vec::new(),
            outside: Vec::new(),
        };
        Self {
            clocks: Clocks::start(scene.now, None),
            engine: Engine::with(config, Arc::new(VirtualDoors), Bounds::default()),
            book: Book::new(KEYS_LIVE),
            catalogue: Catalogue::default(),
            rogue: false,
            rotates: false,
            mail: Vec::new(),
            out: Out::default(),
            wake: scene.now,
            asleep: 0,
            planned,
            floor: Revision::default(),
            stream: None,
            asked: None,
            heard: scene.now,
            probed: scene.now,
            open_again: scene.now,
            calls: BTreeMap::new(),
            active: 0,
            tick: scene.now,
            dirty: true,
            place,
        }
    }

    /// The program dies and starts anew; what is on disk stays.
    pub fn restart(&mut self, scene: &mut Scene<'_>) {
        let (clocks, floor, rogue) = (Clocks::start(scene.now, Some(&self.clocks)), self.floor, self.rogue);
        *self = Self { clocks, floor, rogue, ..Self::new(self.place.clone(), scene) };
    }

    fn apply(&mut self, now: Instant, change: Change) {
        self.engine.apply(now, change, &mut self.out);
    }

    // -- the controller ----------------------------------------------------------------------------------------------

    /// The stream breaks.
    pub fn hang_up(&mut self, now: Time) {
        self.stream = None;
        self.open_again = now + REOPEN;
        self.wake = self.wake.min(self.open_again);
    }

    /// News on the stream.
    pub fn hear(&mut self, scene: &mut Scene<'_>, stream: u64, news: News) {
        if self.stream != Some(stream) {
            return;
        }
        self.heard = scene.now;
        let now = self.clocks.now(scene.now);
        let session = |s: Option<(model::ids::SessionId, Duration)>| {
            s.map(|(id, ends_in)| Session {
                id,
                user: "u".to_owned(),
                ends: now.plus(ends_in),
                factor: None,
                workload: false,
            })
        };
        match news {
            News::Closed => self.hang_up(scene.now),
            News::Snapshot { revision, session: who, entries, grants } => {
                if revision < self.floor {
                    return self.hang_up(scene.now);
                }
                self.floor = revision;
                let changed = entries.iter().filter(|e| self.catalogue.entry(&e.id) != Some(e)).map(|e| e.id).collect();
                let before = self.catalogue.session().map(|s| s.id);
                if self.catalogue.snapshot(revision, session(who), false, entries).is_err() {
                    return self.hang_up(scene.now);
                }
                let asked = self.asked.take().unwrap_or(Instant(now.0.saturating_sub(2 * SECOND)));
                self.book.only(now, asked, &grants);
                self.after(before, &changed);
            }
            News::Delta { from, to, session: who, upserts, removals } => {
                if to < self.floor {
                    return self.hang_up(scene.now);
                }
                self.floor = to;
                let changed = upserts.iter().map(|e| e.id).collect();
                let before = self.catalogue.session().map(|s| s.id);
                if self.catalogue.delta(Delta { from, to, session: session(who), upserts, removals }).is_err() {
                    return self.hang_up(scene.now);
                }
                self.after(before, &changed);
            }
            News::Ended { grant, ending } => self.book.ended(now, grant, "it ended", Loss::of(ending)),
            News::Renewed { grant, ends_in } => self.book.renewed(grant, now.plus(ends_in)),
        }
        self.time(scene);
    }

    fn after(&mut self, session: Option<model::ids::SessionId>, changed: &BTreeSet<ResourceId>) {
        let all: BTreeSet<ResourceId> = self.catalogue.entries().map(|e| e.id).collect();
        self.book.visible(&all, changed);
        if self.catalogue.session().map(|s| s.id) != session {
            self.book.forget_denials();
        }
        self.dirty = true;
    }

    /// An answer to a call.
    pub fn answer(&mut self, scene: &mut Scene<'_>, call: u64, reply: Reply) {
        let Some(Call { resource, sent, key, .. }) = self.calls.remove(&call) else {
            // Nobody waits for it any more.
            return;
        };
        let now = self.clocks.now(scene.now);
        match reply {
            Reply::Deny { reasons, retry_after, passing, .. } => {
                self.book.denied(now, resource, Denial { reasons, retry_after, passing, step_up: Vec::new() });
            }
            Reply::Permit { grant, pairing, offer, rules, ends_in } => {
                let gateway = offer.as_ref().map(|o| o.gateway);
                if let Some(offer) = offer {
                    self.admit(now, offer, key);
                }
                let prefixes: Vec<Prefix> = rules.iter().map(|r| r.client).collect();
                let permit = Permit { grant, pairing, gateway, prefixes, until: sent.plus(ends_in) };
                if !self.book.permitted(now, resource, permit) {
                    if gateway.is_some() {
                        self.apply(now, Change::RemovePeer(PeerId::Pairing(pairing)));
                    }
                    self.mail.push(Ask::Disconnect(grant));
                }
            }
        }
        self.active = scene.now;
        self.time(scene);
    }

    fn admit(&mut self, now: Instant, offer: PairingOffer, key: Arc<PrivateKey>) {
        let id = PeerId::Pairing(offer.id);
        let peer = Peer {
            id,
            kind: PeerKind::Pairing(offer.psk),
            local: key,
            remote: offer.gateway_key,
            addresses: Vec::new(),
            endpoints: offer.endpoints,
            keepalive: Some(KEEPALIVE),
        };
        self.apply(now, Change::AddPeer(peer));
        self.apply(now, Change::ForceHandshake(id));
    }

    // -- packets -----------------------------------------------------------------------------------------------------

    /// A program on this machine sends a packet.
    pub fn send(&mut self, scene: &mut Scene<'_>, bytes: Vec<u8>) {
        let now = self.clocks.now(scene.now);
        self.active = scene.now;
        self.engine.from_tun(now, &mut Frame::packet(bytes), &mut self.out);
        self.wake = self.wake.min(scene.now + LOOK);
        self.wants(now);
        self.time(scene);
    }

    /// A datagram comes to its socket.
    pub fn datagram(&mut self, scene: &mut Scene<'_>, from: SocketAddr, bytes: Vec<u8>) {
        let now = self.clocks.now(scene.now);
        self.engine.from_udp(now, &mut Train::datagram(from, Local::default(), bytes), &mut self.out);
    }

    fn wants(&mut self, now: Instant) {
        for event in self.out.events.drain(..) {
            if let Event::Want(resource) = event
                && self.catalogue.entry(&resource).is_some()
            {
                self.book.want(now, resource);
            }
        }
    }

    // -- time --------------------------------------------------------------------------------------------------------

    /// Its loop comes round.
    pub fn time(&mut self, scene: &mut Scene<'_>) {
        let now = self.clocks.now(scene.now);
        self.follow(scene, now);
        let tunnels: Vec<PairingId> = self.book.tunnels().map(|(id, _)| *id).collect();
        for pairing in tunnels {
            let peer = PeerId::Pairing(pairing);
            let Some(status) = self.engine.peer(&peer) else { continue };
            let glance = Glance {
                handshake: status.last_handshake,
                received: status.last_received,
                unanswered: status.unanswered_since,
            };
            if self.book.observe(now, pairing, glance) {
                self.apply(now, Change::ForceHandshake(peer));
            }
        }
        self.book.handle_timeout(now);
        if scene.now >= self.tick {
            let due = self.engine.tick(now, &mut self.out);
            self.tick = scene.now + due.since(now).as_nanos().try_into().unwrap_or(SECOND).max(LOOK);
        }
        self.wants(now);
        self.settle(scene, now);
        let busy = scene.now.saturating_sub(self.active) < 4 * SECOND;
        let look = scene.now + if busy { LOOK } else { IDLE };
        let due: Time = self.book.next_deadline().since(now).as_nanos().try_into().unwrap_or(Time::MAX);
        self.wake = look.min(scene.now.saturating_add(due)).min(self.tick.max(scene.now + LOOK)).max(scene.now + MS);
    }

    fn follow(&mut self, scene: &mut Scene<'_>, now: Instant) {
        if let Some(stream) = self.stream {
            if scene.now.saturating_sub(self.heard) > SILENCE {
                self.hang_up(scene.now);
            } else if scene.now.saturating_sub(self.probed.max(self.heard)) > 5 * SECOND {
                self.probed = scene.now;
                self.mail.push(Ask::Probe { stream });
            }
        }
        if self.stream.is_none() && scene.now >= self.open_again {
            let stream = scene.dice.roll();
            (self.stream, self.asked, self.heard, self.probed) = (Some(stream), Some(now), scene.now, scene.now);
            self.mail.push(Ask::Watch { stream, seen: self.floor });
        }
        let late: Vec<u64> =
            self.calls.iter().filter(|(_, c)| scene.now.saturating_sub(c.at) > CALL_MAX).map(|(id, _)| *id).collect();
        for call in late.iter().filter_map(|id| self.calls.remove(id)) {
            self.book.failed(now, call.resource, "the controller did not answer".to_owned());
        }
    }

    /// "Yes": something of the controller came.
    pub fn heard(&mut self, now: Time, stream: u64) {
        if self.stream == Some(stream) {
            self.heard = now;
        }
    }

    fn settle(&mut self, scene: &mut Scene<'_>, now: Instant) {
        while let Some(Request { resource, held, avoid, moves }) = self.book.request(now) {
            let key = Arc::new(PrivateKey::new(scene.dice.key()));
            let call = scene.dice.roll();
            let held = if std::mem::take(&mut self.rotates) { Vec::new() } else { held };
            let wish = Wish { device: self.place.id, resource, data_key: public_of(&key), held, avoid, moves };
            self.calls.insert(call, Call { resource, sent: now, at: scene.now, key });
            self.mail.push(Ask::Connect { call, wish });
        }
        if self.book.take_changed() || self.dirty {
            self.dirty = false;
            let mut routes = plan(&self.planned, &self.catalogue, &self.book, now).routes;
            if self.rogue {
                self.take_all(now, &mut routes);
            }
            self.apply(now, Change::Routes(Arc::new(routes)));
        }
        for pairing in self.book.unused() {
            self.apply(now, Change::RemovePeer(PeerId::Pairing(pairing)));
        }
        while let Some(grant) = self.book.next_left() {
            self.mail.push(Ask::Disconnect(grant));
        }
    }

    /// A rogue's routes: every address is its own, and everything leads through the first tunnel that it has.
    fn take_all(&self, now: Instant, routes: &mut Routes) {
        let Some((_, held)) = self.book.grants().next() else { return };
        routes.own = self.place.everything.clone();
        let (pairing, grant) = (held.pairing, held.id);
        let until = now.plus(Duration::from_secs(1_000_000));
        let ports = [model::net::Protocol::Tcp, model::net::Protocol::Udp].map(|p| (p, model::net::PortRange::ALL));
        for prefix in ["0.0.0.0/0", "::/0"].iter().filter_map(|p| p.parse().ok()) {
            let state = RouteState::Granted { pairing, grant, until };
            let entry = RouteEntry { resource: ResourceId::from_bytes([9; 10]), ports: ports.to_vec(), state };
            routes.entries.insert(prefix, vec![entry]);
        }
    }
}
