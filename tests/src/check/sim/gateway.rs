//! One gateway: the real engine in its role, and the real `gateway::follow`, with hands that the simulation looks at.

use super::controller::{Down, Scene, Up};
use super::parts::{Clocks, MS, SECOND, at_once};
use super::reference::{Reference, Time, Wrong};
use gateway::follow::{Follower, Hands};
use grant::View;
use grant::verified::Scope;
use model::ids::{GatewayId, GrantId, PairingId, SiteId};
use model::key::PrivateKey;
use model::packet::{Frame, Local, Train};
use model::pool::{NatPool, Pool};
use model::revision::{Digest, Revision};
use model::time::Instant;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tunnel::double::{VirtualDoors, public_of};
use tunnel::peers::Bounds;
use tunnel::{Change, Config, Engine, Event, Out, Role};

/// After so long a silence the stream is taken for broken.
const SILENCE: Time = 8 * SECOND;

/// What stays when the program starts anew.
#[derive(Clone)]
pub struct Place {
    /// Its id.
    pub id: GatewayId,
    /// Where it stands.
    pub site: SiteId,
    /// Its address outside.
    pub addr: SocketAddr,
    /// Its key.
    pub key: Arc<PrivateKey>,
    /// Its own addresses.
    pub own: Vec<IpAddr>,
    /// Its addresses towards services.
    pub nat: NatPool,
    /// The organisation's addresses.
    pub pool: Pool,
}

/// A gateway.
pub struct Gateway {
    /// What stays.
    pub place: Place,
    /// Its clocks.
    pub clocks: Clocks,
    /// Its key in pairings, new at each start.
    pub pairing_key: Arc<PrivateKey>,
    /// Its packet path.
    pub engine: Engine,
    /// What follows the controller.
    pub follower: Follower,
    /// Sources of connections that its kernel knows.
    pub tracked: BTreeSet<IpAddr>,
    /// Its kernel deletes nothing.
    pub kernel_fails: bool,
    /// Its disk takes nothing.
    pub disk_fails: bool,
    /// Until when it sleeps.
    pub asleep: Time,
    /// What it wants to say, on which stream.
    pub mail: Vec<(u64, Up)>,
    /// What its engine put out.
    pub out: Out,
    /// When it wants to be called next.
    pub wake: Time,
    /// Which start this is.
    pub boot: u64,
    /// It lies.
    pub hostile: bool,
    /// What it admits.
    pub view: Option<Arc<View>>,
    /// When its engine wants to be called next.
    tick: Time,
    floor: Revision,
    stream: Option<u64>,
    heard: Time,
    open_again: Time,
    admitted: BTreeSet<GrantId>,
}

struct Doer<'a> {
    id: GatewayId,
    hostile: bool,
    now: Instant,
    at: Time,
    engine: &'a Engine,
    out: &'a mut Out,
    tracked: &'a mut BTreeSet<IpAddr>,
    admitted: &'a mut BTreeSet<GrantId>,
    view: &'a mut Option<Arc<View>>,
    floor: &'a mut Revision,
    mail: &'a mut Vec<(u64, Up)>,
    stream: Option<u64>,
    fails: (bool, bool),
    reference: &'a mut Reference,
    wrong: &'a mut Vec<Wrong>,
}

impl Doer<'_> {
    fn hold(&mut self, result: Result<(), Wrong>) {
        if let (Err(wrong), false) = (result, self.hostile) {
            self.wrong.push(wrong);
        }
    }
}

impl Hands for Doer<'_> {
    fn publish(&mut self, view: Arc<View>) -> Vec<IpAddr> {
        let tunnels: BTreeSet<PairingId> = view.pairings.keys().copied().collect();
        let grants: Vec<GrantId> = view.pairings.values().flat_map(|p| &p.grants).map(|g| g.grant().id).collect();
        let result = self.reference.publish(self.id, tunnels, &grants);
        self.hold(result);
        *self.admitted = grants.into_iter().collect();
        *self.view = Some(view.clone());
        let mut out = Out::default();
        self.engine.apply(self.now, Change::Grants(view), &mut out);
        let mut closed = Vec::new();
        for event in out.events.drain(..) {
            match event {
                Event::GrantClosed { nat, .. } => closed.extend(nat),
                other => self.out.events.push(other),
            }
        }
        self.out.udp.append(&mut out.udp);
        self.out.tun.append(&mut out.tun);
        closed
    }

    async fn forget(&mut self, addresses: BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        if self.fails.0 {
            return addresses;
        }
        self.tracked.retain(|a| !addresses.contains(a));
        BTreeSet::new()
    }

    fn keep(&mut self, revision: Revision) -> Option<bool> {
        if self.fails.1 {
            return None;
        }
        if revision < *self.floor {
            return Some(false);
        }
        *self.floor = revision;
        Some(true)
    }

    fn renew(&mut self, seq: u64, revision: Revision, digest: Digest) {
        if let Some(stream) = self.stream {
            self.mail.push((stream, Up::Renew { seq, revision, digest }));
        }
    }

    fn acknowledge(&mut self, revision: Revision, refused: &[GrantId]) -> bool {
        let Some(stream) = self.stream else { return false };
        let result = self.reference.acknowledge(self.id, revision, self.at, self.admitted, self.tracked);
        self.hold(result);
        self.mail.push((stream, Up::Ack { revision, refused: refused.to_vec() }));
        true
    }
}

fn engine(place: &Place, pairing_key: Arc<PrivateKey>, seed: [u8; 32]) -> Engine {
    let config = Config { role: Role::Gateway, pool: place.pool, key: place.key.clone(), pairing_key, seed };
    Engine::with(config, Arc::new(VirtualDoors), Bounds::default())
}

impl Gateway {
    /// A gateway that starts for the first time.
    pub fn new(place: Place, scene: &mut Scene<'_>) -> Self {
        let scope = Scope { pool: place.pool, nat: place.nat, site: Vec::new(), own: place.own.clone() };
        let floor = Revision::default();
        let pairing_key = Arc::new(PrivateKey::new(scene.dice.key()));
        Self {
            clocks: Clocks::start(scene.now, None),
            engine: engine(&place, pairing_key.clone(), scene.dice.key()),
            pairing_key,
            follower: Follower::new(scope, floor, Duration::from_secs(5)),
            place,
            tracked: BTreeSet::new(),
            kernel_fails: false,
            disk_fails: false,
            asleep: 0,
            mail: Vec::new(),
            out: Out::default(),
            wake: scene.now,
            tick: scene.now,
            boot: scene.dice.roll(),
            hostile: false,
            view: None,
            floor,
            stream: None,
            heard: scene.now,
            open_again: scene.now,
            admitted: BTreeSet::new(),
        }
    }

    /// The program dies and starts anew. Its kernel forgets its connections; what is on disk stays.
    pub fn restart(&mut self, scene: &mut Scene<'_>) {
        scene.reference.start(self.place.id);
        scene.reference.disturb(self.place.id, scene.now);
        let (hostile, clocks) = (self.hostile, Clocks::start(scene.now, Some(&self.clocks)));
        let floor = self.floor;
        *self = Self { clocks, hostile, floor, ..Self::new(self.place.clone(), scene) };
        let scope = Scope { pool: self.place.pool, nat: self.place.nat, site: Vec::new(), own: self.place.own.clone() };
        self.follower = Follower::new(scope, floor, Duration::from_secs(5));
    }

    fn act<T>(
        &mut self,
        scene: &mut Scene<'_>,
        work: impl AsyncFnOnce(&mut Follower, Instant, &mut Doer<'_>) -> T,
    ) -> Option<T> {
        let now = self.clocks.now(scene.now);
        let mut doer = Doer {
            id: self.place.id,
            hostile: self.hostile,
            now,
            at: scene.now,
            engine: &self.engine,
            out: &mut self.out,
            tracked: &mut self.tracked,
            admitted: &mut self.admitted,
            view: &mut self.view,
            floor: &mut self.floor,
            mail: &mut self.mail,
            stream: self.stream,
            fails: (self.kernel_fails, self.disk_fails),
            reference: &mut *scene.reference,
            wrong: &mut *scene.wrong,
        };
        at_once(work(&mut self.follower, now, &mut doer))
    }

    /// Is it connected, as far as it knows?
    pub const fn stream(&self) -> Option<u64> {
        self.stream
    }

    /// What it admits.
    pub const fn admitted(&self) -> &BTreeSet<GrantId> {
        &self.admitted
    }

    /// A message of the controller.
    pub fn hear(&mut self, scene: &mut Scene<'_>, stream: u64, down: Down) {
        if self.stream != Some(stream) {
            return;
        }
        self.heard = scene.now;
        match down {
            Down::Closed => {
                self.stream = None;
                self.open_again = scene.now + 2 * SECOND;
            }
            Down::Update { as_of, update, site } => {
                if self.follower.base(as_of).is_none() {
                    return self.time(scene);
                }
                if let Some(site) = site {
                    let scope = Scope { site, ..self.follower.table().scope().clone() };
                    self.act(scene, async |follower, now, hands| follower.set_scope(now, scope, hands).await);
                }
                self.act(scene, async |follower, now, hands| {
                    follower.on_update(now, as_of, update, hands).await;
                });
            }
            Down::Renewed { seq, lives } => {
                self.act(scene, async |follower, now, hands| follower.on_renewed(now, seq, &lives, hands).await);
            }
        }
        self.time(scene);
    }

    /// Its loop comes round: what is due is done, and the stream is looked after.
    pub fn time(&mut self, scene: &mut Scene<'_>) {
        if self.stream.is_some() && scene.now.saturating_sub(self.heard) > SILENCE {
            self.stream = None;
            self.open_again = scene.now;
        }
        if self.stream.is_none() && scene.now >= self.open_again {
            self.open(scene);
        }
        let connected = self.stream.is_some();
        self.act(scene, async |follower, now, hands| follower.on_time(now, connected, hands).await);
        let now = self.clocks.now(scene.now);
        if scene.now >= self.tick {
            let due = self.engine.tick(now, &mut self.out);
            // An engine in which nothing moves is called less often than a program would: that only saves time.
            self.tick = scene.now + due.since(now).as_nanos().try_into().unwrap_or(SECOND).max(500 * MS);
        }
        let due = self.follower.deadline(self.stream.is_some());
        let due = scene.now.saturating_add(due.since(now).as_nanos().try_into().unwrap_or(Time::MAX));
        let link = if self.stream.is_some() { self.heard + SILENCE + 1 } else { self.open_again };
        self.wake = due.min(link).min(self.tick).max(scene.now + MS);
    }

    fn open(&mut self, scene: &mut Scene<'_>) {
        let stream = scene.dice.roll();
        self.stream = Some(stream);
        self.heard = scene.now;
        let seen = self.follower.table().seen().max(self.floor);
        let pairing_key = public_of(&self.pairing_key);
        self.mail.push((stream, Up::Hello { seen, nat: self.place.nat, boot: self.boot, pairing_key }));
        self.act(scene, async |follower, now, hands| follower.on_opened(now, hands));
    }

    /// The stream breaks on this side.
    pub fn hang_up(&mut self, now: Time) {
        self.stream = None;
        self.open_again = now + 300 * MS;
        self.wake = self.wake.min(self.open_again);
    }

    /// A datagram comes to its socket.
    pub fn datagram(&mut self, now: Time, from: SocketAddr, bytes: Vec<u8>) {
        let now = self.clocks.now(now);
        self.engine.from_udp(now, &mut Train::datagram(from, Local::default(), bytes), &mut self.out);
    }

    /// Its kernel routes a packet into the TUN.
    pub fn tun(&mut self, now: Time, bytes: Vec<u8>) {
        let now = self.clocks.now(now);
        self.engine.from_tun(now, &mut Frame::packet(bytes), &mut self.out);
    }

    /// A change for its engine.
    pub fn apply(&mut self, now: Time, change: Change) {
        let now = self.clocks.now(now);
        self.engine.apply(now, change, &mut self.out);
    }
}
