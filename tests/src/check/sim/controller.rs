//! The controller's side: the real directory, judge, policy, review and ledger, driven by one synchronous hand.
//!
//! What the program does with tokio, gRPC and sled is done here in the same order and without waiting; see `sim` for what
//! that leaves untested.

use super::parts::{Clocks, Dice, MS, SECOND};
use super::reference::{Given, Kind, Reference, Time, Wrong};
use controller::arrange::connect::{Reply, Wish};
use controller::arrange::review::{Finding, find, still_permitted};
use controller::directory::{Directory, NodeState};
use controller::judge::{self, Reach, Verdict};
use controller::store::{Change, Key, Record};
use grant::ledger::{Granted, LedgerError, Permit, Terms};
use grant::record::{Cause, GrantRecord, Live, PairingRecord, Tombstone};
use grant::restore::{Lost, Records};
use grant::revoke::{Selector, revoke};
use grant::sync::Update;
use grant::{Ledger, Moment};
use model::grant::{CatalogueEntry, Ending, PairingOffer};
use model::ids::{DeviceId, GatewayId, GrantId, PairingId, ResourceId, SessionId};
use model::key::{Psk, PublicKey};
use model::limits::{CHANGE_TRIES_MAX, DENY_HOLD, REVIEW_EVERY};
use model::net::{Prefix, Rule};
use model::pool::NatPool;
use model::revision::{Digest, Revision};
use model::time::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

const ACK_MIN: Duration = Duration::from_millis(300);
const LAST_ACK_MAX: Duration = Duration::from_secs(3);
const GATEWAY_WAIT_MAX: Duration = Duration::from_secs(3);

/// What is judged while something happens.
pub struct Scene<'a> {
    /// True time.
    pub now: Time,
    /// What may be.
    pub reference: &'a mut Reference,
    /// What was broken.
    pub wrong: &'a mut Vec<Wrong>,
    /// Chance.
    pub dice: &'a mut Dice,
}

impl Scene<'_> {
    /// Notes a broken promise.
    pub fn hold(&mut self, result: Result<(), Wrong>) {
        if let Err(wrong) = result {
            self.wrong.push(wrong);
        }
    }
}

/// What a gateway says.
#[derive(Debug, Clone)]
pub enum Up {
    /// First of all.
    Hello { seen: Revision, nat: NatPool, boot: u64, pairing_key: PublicKey },
    /// "My table is this; may it live on?"
    Renew { seq: u64, revision: Revision, digest: Digest },
    /// All up to here acts.
    Ack { revision: Revision, refused: Vec<GrantId> },
}

/// What a gateway hears.
#[derive(Debug, Clone)]
pub enum Down {
    /// A table or a change of it, and with a snapshot where the site is.
    Update { as_of: u64, update: Update, site: Option<Vec<Prefix>> },
    /// These lives are extended.
    Renewed { seq: u64, lives: Vec<(GrantId, Duration)> },
    /// The stream ends.
    Closed,
}

/// What a client hears on its stream.
#[derive(Debug, Clone)]
pub enum News {
    /// All there is to see.
    Snapshot {
        revision: Revision,
        session: Option<(SessionId, Duration)>,
        entries: Vec<CatalogueEntry>,
        grants: BTreeSet<GrantId>,
    },
    /// What changed of it.
    Delta {
        from: Revision,
        to: Revision,
        session: Option<(SessionId, Duration)>,
        upserts: Vec<CatalogueEntry>,
        removals: Vec<ResourceId>,
    },
    /// A grant ended.
    Ended { grant: GrantId, ending: Ending },
    /// A grant lives on.
    Renewed { grant: GrantId, ends_in: Duration },
    /// The stream ends.
    Closed,
}

/// What leaves the controller.
#[derive(Debug)]
pub enum Mail {
    /// To a gateway, on a stream.
    Gateway(GatewayId, u64, Down),
    /// To a device, on a stream.
    Device(DeviceId, u64, News),
    /// The answer to a call of a device.
    Answer(DeviceId, u64, Reply),
}

#[derive(Debug)]
struct Line {
    stream: u64,
    as_of: Option<(u64, Instant)>,
    sent: Option<Revision>,
}

#[derive(Debug)]
struct DeviceLine {
    stream: u64,
    told: (Revision, Option<SessionId>, BTreeMap<ResourceId, CatalogueEntry>),
}

#[derive(Debug)]
struct Pending {
    call: u64,
    wish: Wish,
    tries: usize,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// No gateway is ready.
    Gateway { until: Instant },
    /// One was told.
    Ack { gateway: GatewayId, revision: Revision, granted: Box<Granted>, until: Instant, rest: VecDeque<GatewayId> },
}

/// What is on the disk, besides the facts.
#[derive(Debug, Default)]
struct Disk {
    grants: BTreeMap<GrantId, GrantRecord>,
    pairings: BTreeMap<PairingId, (PairingRecord, Psk)>,
    tombstones: BTreeMap<GrantId, Tombstone>,
    gateways: BTreeMap<GatewayId, NatPool>,
    boots: BTreeMap<GatewayId, u64>,
}

/// The controller.
pub struct Controller {
    /// Its clocks.
    pub clocks: Clocks,
    /// All facts.
    pub directory: Directory,
    /// Every grant.
    pub ledger: Ledger,
    /// What it sends.
    pub mail: Vec<Mail>,
    /// Where gateways are, as they say.
    pub endpoints: BTreeMap<GatewayId, Vec<SocketAddr>>,
    number: u64,
    disk: Disk,
    lines: BTreeMap<GatewayId, Line>,
    /// With which key each gateway answers pairings since its last start.
    pairing_keys: BTreeMap<GatewayId, PublicKey>,
    devices: BTreeMap<DeviceId, DeviceLine>,
    pending: Vec<Pending>,
    reach: Reach,
    reviewed: Instant,
    looked: i64,
    /// When it wants to be called next.
    pub wake: Time,
}

impl Controller {
    /// An organisation without facts.
    pub fn new(now: Time, reach: Reach) -> Self {
        let clocks = Clocks::start(now, None);
        Self {
            looked: clocks.wall(now).0,
            clocks,
            directory: Directory::default(),
            ledger: Ledger::new(Revision { incarnation: 1, number: 0 }),
            mail: Vec::new(),
            endpoints: BTreeMap::new(),
            number: 0,
            disk: Disk::default(),
            lines: BTreeMap::new(),
            pairing_keys: BTreeMap::new(),
            devices: BTreeMap::new(),
            pending: Vec::new(),
            reach,
            reviewed: Instant(0),
            wake: now,
        }
    }

    /// Elapsed time and wall clock.
    pub fn moment(&mut self, now: Time) -> Moment {
        Moment { now: self.clocks.now(now), wall: self.clocks.wall(now) }
    }

    // -- the store ---------------------------------------------------------------------------------------------------

    fn revision(&self) -> Revision {
        Revision { incarnation: 1, number: self.number }
    }

    /// A transaction; answers its state.
    fn commit(&mut self, puts: Vec<(Key, Vec<u8>)>, deletes: Vec<Key>) -> Revision {
        self.number = self.number.max(self.ledger.head().number) + 1;
        let puts = puts.into_iter().map(|(key, value)| (key, value.into())).collect();
        let revision = self.revision();
        self.directory.apply(&Change { revision, puts, deletes });
        revision
    }

    /// Writes a fact.
    pub fn put<R: Record>(&mut self, id: &R::Id, record: &R) {
        if let (Ok(key), Ok(value)) = (Key::of(R::KIND, id), serde_json::to_vec(record)) {
            self.commit(vec![(key, value)], Vec::new());
        }
    }

    /// Removes a fact.
    pub fn remove<R: Record>(&mut self, id: &R::Id) {
        if let Ok(key) = Key::of(R::KIND, id) {
            self.commit(Vec::new(), vec![key]);
        }
    }

    /// A policy comes into force.
    pub fn apply_policy(&mut self, set: Arc<policy::PolicySet>) {
        self.commit(Vec::new(), Vec::new());
        self.directory.compiled = Some(set);
    }

    // -- facts changed -----------------------------------------------------------------------------------------------

    /// Facts changed: every grant is decided again, revoked nodes lose their streams, and everybody is told.
    pub fn changed(&mut self, scene: &mut Scene<'_>, gateways: bool) {
        self.review(scene);
        let revoked = |line: &DeviceId, directory: &Directory| {
            directory.devices.find(line).is_none_or(|d| d.record.state == NodeState::Revoked)
        };
        let gone: Vec<DeviceId> = self.devices.keys().filter(|d| revoked(d, &self.directory)).copied().collect();
        for device in gone {
            if let Some(line) = self.devices.remove(&device) {
                self.mail.push(Mail::Device(device, line.stream, News::Closed));
            }
        }
        if gateways {
            let all: Vec<GatewayId> = self.lines.keys().copied().collect();
            for id in all {
                let out = self.directory.gateways.find(&id).is_none_or(|g| g.record.state == NodeState::Revoked);
                match self.lines.get_mut(&id) {
                    Some(line) if out => {
                        self.mail.push(Mail::Gateway(id, line.stream, Down::Closed));
                        self.lines.remove(&id);
                    }
                    Some(line) => {
                        line.sent = None;
                        self.push(scene, id);
                    }
                    None => {}
                }
            }
        }
        self.look(scene.now);
    }

    /// Decides every live grant again.
    pub fn review(&mut self, scene: &mut Scene<'_>) {
        let at = self.moment(scene.now);
        self.reviewed = at.now;
        let lives: Vec<Live> = self.ledger.all().cloned().collect();
        let mut ends: BTreeMap<Cause, Vec<Selector>> = BTreeMap::new();
        let mut amends: Vec<(GrantId, Terms)> = Vec::new();
        for live in &lives {
            match find(&self.directory, live, at) {
                Finding::Fine => {}
                Finding::End(cause) => ends.entry(cause).or_default().push(Selector::Grant(live.grant.id)),
                Finding::Amend(terms) => amends.push((live.grant.id, *terms)),
            }
        }
        for (cause, grants) in ends {
            self.end(scene, &Selector::Any(grants), cause);
        }
        for (grant, terms) in amends {
            self.amend(scene, grant, terms);
        }
        let live: BTreeSet<GrantId> = self.ledger.all().map(|l| l.grant.id).collect();
        let result = scene.reference.review(&live, at.wall.0);
        scene.hold(result);
    }

    fn amend(&mut self, scene: &mut Scene<'_>, grant: GrantId, terms: Terms) {
        let at = self.moment(scene.now);
        let Ok(record) = self.ledger.amend(at, grant, terms) else { return };
        let gateway = record.gateway;
        self.disk.grants.insert(grant, record);
        let revision = self.commit(Vec::new(), Vec::new());
        if self.ledger.commit(grant, revision).is_ok() {
            let result = scene.reference.amend(grant, scene.now, at.wall.0, revision);
            scene.hold(result);
            self.push(scene, gateway);
        }
    }

    /// Ends what a selector means: ledger, store, gateways, clients.
    pub fn end(&mut self, scene: &mut Scene<'_>, which: &Selector, cause: Cause) {
        if self.ledger.select(which).is_empty() {
            return;
        }
        let at = self.moment(scene.now);
        let head = self.ledger.head().max(self.revision());
        let next = Revision { incarnation: head.incarnation, number: head.number + 1 };
        let out = revoke(&mut self.ledger, at, which, cause, next);
        for live in &out.ended {
            self.disk.grants.remove(&live.grant.id);
            let result = scene.reference.end(live.grant.id, out.revision, scene.now);
            scene.hold(result);
        }
        for tombstone in out.tombstones {
            self.disk.tombstones.insert(tombstone.grant, tombstone);
        }
        for pairing in &out.pairings {
            self.disk.pairings.remove(pairing);
        }
        self.commit(Vec::new(), Vec::new());
        for gateway in &out.gateways {
            self.push(scene, *gateway);
        }
        for (device, grants) in &out.clients {
            for (grant, _) in grants {
                self.tell(*device, News::Ended { grant: *grant, ending: cause.into() });
            }
        }
    }

    fn push(&mut self, scene: &mut Scene<'_>, gateway: GatewayId) {
        let now = self.clocks.now(scene.now);
        let Some(line) = self.lines.get_mut(&gateway) else { return };
        let Some((seq, as_of)) = line.as_of else { return };
        let Some(update) = self.ledger.update(gateway, line.sent, now, as_of) else { return };
        let (to, grants, site) = match &update {
            Update::Snapshot(s) => (s.revision, &s.grants, true),
            Update::Delta(d) => (d.to, &d.grants, false),
        };
        grants.iter().for_each(|g| scene.reference.send(g.id));
        line.sent = Some(to);
        let site = site.then(|| site_of(&self.directory, gateway));
        self.mail.push(Mail::Gateway(gateway, line.stream, Down::Update { as_of: seq, update, site }));
    }

    fn tell(&mut self, device: DeviceId, news: News) {
        if let Some(line) = self.devices.get(&device) {
            self.mail.push(Mail::Device(device, line.stream, news));
        }
    }

    // -- gateways ----------------------------------------------------------------------------------------------------

    /// A word of a gateway.
    pub fn hear(&mut self, scene: &mut Scene<'_>, gateway: GatewayId, stream: u64, up: Up) {
        match up {
            Up::Hello { seen, nat, boot, pairing_key } => {
                if !self.greet(scene, gateway, seen, nat, boot) {
                    return self.mail.push(Mail::Gateway(gateway, stream, Down::Closed));
                }
                self.pairing_keys.insert(gateway, pairing_key);
                self.lines.insert(gateway, Line { stream, as_of: None, sent: None });
            }
            _ if self.lines.get(&gateway).is_none_or(|l| l.stream != stream) => {}
            Up::Renew { seq, revision, digest } => self.renew(scene, gateway, seq, revision, digest),
            Up::Ack { revision, refused } => self.acknowledge(scene, gateway, revision, refused),
        }
    }

    fn greet(&mut self, scene: &mut Scene<'_>, id: GatewayId, seen: Revision, nat: NatPool, boot: u64) -> bool {
        if self.directory.gateways.find(&id).is_none_or(|g| g.record.state == NodeState::Revoked) {
            return false;
        }
        if self.ledger.is_behind(seen) && self.revision() < seen {
            scene.wrong.push(Wrong { kind: Kind::Lost, what: format!("{id} knows a later state than its controller") });
            return false;
        }
        let at = self.moment(scene.now);
        let strays = self.ledger.set_gateway(id, nat);
        self.disk.gateways.insert(id, nat);
        if self.disk.boots.insert(id, boot) != Some(boot) {
            let restarted = self.ledger.restart_gateway(at, id);
            for record in restarted.waiting {
                self.disk.grants.insert(record.id, record);
            }
            for pairing in &restarted.pairings {
                self.disk.pairings.remove(pairing);
            }
            for (device, grants) in restarted.clients {
                for (grant, _) in grants {
                    self.tell(device, News::Ended { grant, ending: Ending::Restarted });
                }
            }
            self.commit(Vec::new(), Vec::new());
        }
        if !strays.is_empty() {
            let which = Selector::Any(strays.into_iter().map(Selector::Grant).collect());
            self.end(scene, &which, Cause::Gateway);
        }
        true
    }

    fn renew(&mut self, scene: &mut Scene<'_>, id: GatewayId, seq: u64, revision: Revision, digest: Digest) {
        let at = self.moment(scene.now);
        let first = self.lines.get_mut(&id).is_some_and(|line| line.as_of.replace((seq, at.now)).is_none());
        let directory = &self.directory;
        let mut permitted = |live: &Live| still_permitted(directory, live, at);
        match self.ledger.renew(at, id, revision, digest, &mut permitted) {
            None => {
                if let Some(line) = self.lines.get_mut(&id) {
                    line.sent = None;
                }
                self.push(scene, id);
            }
            Some(renewal) => {
                for record in renewal.records {
                    let result = scene.reference.renew(record.id, scene.now, at.wall.0);
                    scene.hold(result);
                    self.disk.grants.insert(record.id, record);
                }
                self.commit(Vec::new(), Vec::new());
                let lives = renewal.lives;
                if let Some(line) = self.lines.get_mut(&id) {
                    line.sent = Some(line.sent.unwrap_or(revision).max(revision));
                    let stream = line.stream;
                    self.mail.push(Mail::Gateway(id, stream, Down::Renewed { seq, lives: lives.clone() }));
                }
                self.push(scene, id);
                for (grant, ends_in) in lives {
                    if let Some(device) = self.ledger.live(grant).map(|l| l.grant.device) {
                        self.tell(device, News::Renewed { grant, ends_in });
                    }
                }
            }
        }
        if first {
            self.look_for_gateways(scene);
        }
    }

    fn acknowledge(&mut self, scene: &mut Scene<'_>, id: GatewayId, revision: Revision, refused: Vec<GrantId>) {
        self.ledger.ack(id, revision);
        let own: Vec<Selector> = refused
            .into_iter()
            .filter(|g| self.ledger.live(*g).is_some_and(|l| l.gateway == id))
            .map(Selector::Grant)
            .collect();
        for selector in &own {
            if let Selector::Grant(grant) = selector {
                let result = scene.reference.refuse(*grant, id);
                scene.hold(result);
            }
        }
        if !own.is_empty() {
            self.end(scene, &Selector::Any(own), Cause::Refused);
        }
        let open: Vec<_> = scene.reference.unconfirmed().collect();
        for (grant, gateway, ended) in open {
            if self.ledger.is_confirmed(gateway, ended) && self.ledger.tombstone(grant).is_some() {
                let result = scene.reference.believe(grant);
                scene.hold(result);
            }
        }
        self.settle(scene);
    }

    /// A gateway's stream ends on this side.
    pub fn hang_up(&mut self, gateway: GatewayId) {
        if let Some(line) = self.lines.remove(&gateway) {
            self.mail.push(Mail::Gateway(gateway, line.stream, Down::Closed));
        }
    }

    // -- clients -----------------------------------------------------------------------------------------------------

    fn admits(&self, device: DeviceId) -> bool {
        self.directory.devices.find(&device).is_some_and(|d| d.record.state != NodeState::Revoked)
    }

    /// A device opens its stream.
    pub fn watch(&mut self, now: Time, device: DeviceId, stream: u64, seen: Revision) {
        if seen > self.revision() || !self.admits(device) {
            return self.mail.push(Mail::Device(device, stream, News::Closed));
        }
        let wall = self.clocks.wall(now);
        let (session, entries) = self.sight(now, device);
        let told = entries.iter().map(|e| (e.id, e.clone())).collect();
        let grants = self.ledger.all().filter(|l| l.grant.device == device && !l.waiting).map(|l| l.grant.id);
        let revision = self.directory.revision;
        let news = News::Snapshot { revision, session, entries, grants: grants.collect() };
        let session = judge::session_of(&self.directory, device, wall).map(|s| s.record.id);
        self.devices.insert(device, DeviceLine { stream, told: (revision, session, told) });
        self.tell(device, news);
    }

    /// Is this a device's stream?
    pub fn knows(&self, device: DeviceId, stream: u64) -> bool {
        self.devices.get(&device).is_some_and(|l| l.stream == stream)
    }

    /// What a device sees.
    fn sight(&self, now: Time, device: DeviceId) -> (Option<(SessionId, Duration)>, Vec<CatalogueEntry>) {
        let wall = self.clocks.wall(now);
        let Ok(asker) = judge::asker(&self.directory, device, wall) else { return (None, Vec::new()) };
        let entries = judge::catalogue(&self.directory, &asker, &self.reach, wall);
        (Some((asker.session(), asker.ends().since(wall))), entries)
    }

    /// Tells every device what changed of what it sees.
    fn look(&mut self, now: Time) {
        let all: Vec<DeviceId> = self.devices.keys().copied().collect();
        for device in all {
            let (session, entries) = self.sight(now, device);
            let to = self.directory.revision;
            let entries: BTreeMap<ResourceId, CatalogueEntry> = entries.into_iter().map(|e| (e.id, e)).collect();
            let Some(line) = self.devices.get_mut(&device) else { continue };
            let (from, known, told) = &line.told;
            if *known == session.map(|s| s.0) && *told == entries {
                continue;
            }
            let from = *from;
            let upserts = entries.values().filter(|e| told.get(&e.id) != Some(e)).cloned().collect();
            let removals = told.keys().filter(|id| !entries.contains_key(id)).copied().collect();
            line.told = (to, session.map(|s| s.0), entries);
            self.tell(device, News::Delta { from, to, session, upserts, removals });
        }
    }

    /// A device gives a grant back.
    pub fn give_back(&mut self, scene: &mut Scene<'_>, device: DeviceId, grant: GrantId) {
        if self.admits(device) && self.ledger.live(grant).is_some_and(|l| l.grant.device == device) {
            self.end(scene, &Selector::Grant(grant), Cause::Returned);
        }
    }

    /// A device asks for access.
    pub fn ask(&mut self, scene: &mut Scene<'_>, call: u64, wish: Wish) {
        if self.admits(wish.device) {
            let until = Instant(0);
            self.decide(scene, Pending { call, wish, tries: 0, stage: Stage::Gateway { until } });
        }
    }

    fn answer(&mut self, pending: &Pending, reply: Reply) {
        self.mail.push(Mail::Answer(pending.wish.device, pending.call, reply));
    }

    fn decide(&mut self, scene: &mut Scene<'_>, mut pending: Pending) {
        pending.tries += 1;
        if pending.tries > CHANGE_TRIES_MAX {
            return self.answer(&pending, passing("too much is being changed"));
        }
        let at = self.moment(scene.now);
        let directory = self.directory.clone();
        let deny = |reasons| Reply::Deny { reasons, retry_after: DENY_HOLD, passing: false, step_up: Vec::new() };
        let ground = match judge::judge(&directory, pending.wish.device, pending.wish.resource, at.wall) {
            Ok(Verdict::Permit(ground)) => ground,
            Ok(Verdict::Deny { reasons, .. }) => return self.answer(&pending, deny(reasons)),
            Ok(Verdict::Unknown) => return self.answer(&pending, deny(vec!["there is no such resource".to_owned()])),
            Err(standing) => return self.answer(&pending, deny(vec![standing.to_string()])),
        };
        let candidates = self.candidates(&directory, &pending.wish, ground.site.record.id);
        if candidates.is_empty() {
            let until = match &pending.stage {
                Stage::Gateway { until } if until.0 > 0 => *until,
                _ => at.now.plus(GATEWAY_WAIT_MAX),
            };
            if until <= at.now {
                return self.answer(&pending, passing("no gateway of its site is reachable"));
            }
            pending.stage = Stage::Gateway { until };
            return self.pending.push(pending);
        }
        self.arrange(scene, pending, candidates);
    }

    /// Healthy gateways of the site: first where the device has a tunnel already.
    fn candidates(&self, directory: &Directory, wish: &Wish, site: model::ids::SiteId) -> VecDeque<GatewayId> {
        let tunnels = wish.held.iter().filter_map(|p| self.ledger.pairing(*p)).map(|(gateway, _)| gateway);
        let held: Vec<GatewayId> = match wish.moves.and_then(|id| self.ledger.live(id)) {
            Some(live) => vec![live.gateway],
            None => tunnels.collect(),
        };
        let ready = |id: &GatewayId| self.lines.get(id).is_some_and(|l| l.as_of.is_some());
        let all = judge::gateways_of(directory, site).map(|g| g.record.id);
        let mut list: Vec<_> =
            all.filter(|id| !wish.avoid.contains(id) && ready(id)).map(|id| (!held.contains(&id), id)).collect();
        list.sort();
        list.into_iter().map(|(_, id)| id).collect()
    }

    fn arrange(&mut self, scene: &mut Scene<'_>, mut pending: Pending, mut rest: VecDeque<GatewayId>) {
        let at = self.moment(scene.now);
        let directory = self.directory.clone();
        while let Some(gateway) = rest.pop_front() {
            let judged = judge::judge(&directory, pending.wish.device, pending.wish.resource, at.wall);
            let Ok(Verdict::Permit(ground)) = judged else { return self.decide(scene, pending) };
            let Some(pool) = directory.org.as_ref().map(|o| o.record.pool) else { return };
            let rules = match ground.rules(&directory, &pool) {
                Ok(rules) => rules,
                Err(why) => return self.answer(&pending, passing(&why)),
            };
            let wish = &pending.wish;
            let permit = Permit {
                device: wish.device,
                session: ground.asker.session(),
                user: ground.asker.id(),
                resource: wish.resource,
                gateway,
                rules,
                lease: ground.resource.record.lease(),
                on_gateway: ground.resource.record.on_gateway,
                until: at.to_instant(ground.asker.ends()),
                data_key: wish.data_key,
                device_v4: pool.device_v4(ground.asker.device().record.v4).unwrap_or(std::net::Ipv4Addr::UNSPECIFIED),
                device_v6: ground.asker.device().record.address,
                held: wish.held.clone(),
                moves: wish.moves,
                fresh_grant: GrantId::from_bytes(scene.dice.id()),
                fresh_pairing: PairingId::from_bytes(scene.dice.id()),
                fresh_psk: Psk::new(scene.dice.key()),
            };
            let granted = match self.ledger.grant(at, permit) {
                Ok(granted) => granted,
                Err(LedgerError::Busy) => return self.decide(scene, pending),
                Err(LedgerError::Gateway(_) | LedgerError::Full(_)) => continue,
                Err(other) => return self.answer(&pending, passing(&other.to_string())),
            };
            let revision = self.write(scene, &granted, at);
            self.push(scene, gateway);
            let patience = if rest.is_empty() { LAST_ACK_MAX } else { ACK_MIN };
            let (granted, until) = (Box::new(granted), at.now.plus(patience));
            pending.stage = Stage::Ack { gateway, revision, granted, until, rest };
            return self.pending.push(pending);
        }
        self.answer(&pending, passing("no gateway of its site is reachable"));
    }

    fn write(&mut self, scene: &mut Scene<'_>, granted: &Granted, at: Moment) -> Revision {
        self.disk.grants.insert(granted.grant, granted.record.clone());
        if let (Some(record), Some(psk)) = (&granted.pairing_record, &granted.new_pairing) {
            self.disk.pairings.insert(record.id, (record.clone(), psk.clone()));
        }
        if let Some(left) = &granted.leaves {
            self.disk.pairings.remove(left);
        }
        let revision = self.commit(Vec::new(), Vec::new());
        if self.ledger.commit(granted.grant, revision).is_ok()
            && let Some(live) = self.ledger.live(granted.grant)
        {
            let given = Given {
                device: live.grant.device,
                session: live.session,
                resource: live.grant.resource,
                gateway: live.gateway,
                nat: [IpAddr::V4(live.grant.nat_v4), IpAddr::V6(live.grant.nat_v6)],
            };
            let result = scene.reference.give(granted.grant, given, scene.now, at.wall.0, revision);
            scene.hold(result);
        }
        revision
    }

    /// Who waits for an acknowledgement looks again.
    fn settle(&mut self, scene: &mut Scene<'_>) {
        let at = self.moment(scene.now);
        for pending in std::mem::take(&mut self.pending) {
            let Stage::Ack { gateway, revision, granted, until, rest } = &pending.stage else {
                self.pending.push(pending);
                continue;
            };
            if self.ledger.is_confirmed(*gateway, *revision) {
                if self.ledger.live(granted.grant).is_none() {
                    if self.ledger.tombstone(granted.grant).map(|t| t.cause) == Some(Cause::Refused) {
                        let reasons = vec!["the gateway refuses it".to_owned()];
                        self.answer(
                            &pending,
                            Reply::Deny { reasons, retry_after: DENY_HOLD, passing: false, step_up: Vec::new() },
                        );
                    } else {
                        self.decide(scene, pending);
                    }
                    continue;
                }
                let replaced = granted.replaces.iter().copied().map(Selector::Grant).collect();
                let (gateway, granted) = (*gateway, granted.clone());
                self.end(scene, &Selector::Any(replaced), Cause::Replaced);
                let reply = self.permitted(gateway, *granted, at.now);
                self.answer(&pending, reply);
            } else if *until <= at.now {
                let (grant, rest) = (granted.grant, rest.clone());
                self.end(scene, &Selector::Grant(grant), Cause::Unreached);
                self.arrange(scene, pending, rest);
            } else {
                self.pending.push(pending);
            }
        }
    }

    fn look_for_gateways(&mut self, scene: &mut Scene<'_>) {
        let (waiting, others) =
            std::mem::take(&mut self.pending).into_iter().partition(|p| matches!(p.stage, Stage::Gateway { .. }));
        self.pending = others;
        for pending in waiting {
            let pending: Pending = pending;
            self.decide(scene, Pending { tries: pending.tries - 1, ..pending });
        }
    }

    fn permitted(&self, gateway: GatewayId, granted: Granted, now: Instant) -> Reply {
        let offer = granted.new_pairing.and_then(|psk| {
            Some(PairingOffer {
                id: granted.pairing,
                gateway,
                gateway_key: *self.pairing_keys.get(&gateway)?,
                endpoints: self.endpoints.get(&gateway).cloned().unwrap_or_default(),
                psk,
            })
        });
        let rules: Vec<Rule> = self.ledger.live(granted.grant).map(|l| l.grant.rules.clone()).unwrap_or_default();
        let ends_in = granted.ends.since(now);
        Reply::Permit { grant: granted.grant, pairing: granted.pairing, offer, rules, ends_in }
    }

    // -- time --------------------------------------------------------------------------------------------------------

    /// Ends by time, the regular review, and patience that is over.
    pub fn tick(&mut self, scene: &mut Scene<'_>) {
        let at = self.moment(scene.now);
        let over: Vec<Selector> = self.ledger.expired(at.now).into_iter().map(Selector::Grant).collect();
        if !over.is_empty() {
            self.end(scene, &Selector::Any(over), Cause::Expired);
        }
        for grant in self.ledger.bury(at.now) {
            self.disk.tombstones.remove(&grant);
        }
        let wall = at.wall.0;
        let looked = std::mem::replace(&mut self.looked, wall);
        let ends = |s: &controller::directory::Session| s.ends.0 > looked.min(wall) && s.ends.0 <= looked.max(wall);
        let sessions = self.directory.sessions.values().any(|s| ends(&s.record));
        if sessions || at.now.since(self.reviewed) >= REVIEW_EVERY {
            self.review(scene);
        }
        if sessions {
            self.look(scene.now);
        }
        self.settle(scene);
        self.look_for_gateways(scene);
        let soon = self.pending.iter().any(|p| matches!(p.stage, Stage::Ack { .. }));
        self.wake = scene.now + if soon { 100 * MS } else { SECOND };
    }

    /// The program starts anew: the book comes back from its records.
    pub fn restart(&mut self, scene: &mut Scene<'_>) {
        self.clocks = Clocks::start(scene.now, Some(&self.clocks));
        let at = self.moment(scene.now);
        let records = Records {
            gateways: self.disk.gateways.iter().map(|(id, nat)| (*id, *nat)).collect(),
            pairings: self.disk.pairings.values().cloned().collect(),
            grants: self.disk.grants.values().cloned().collect(),
            tombstones: self.disk.tombstones.values().cloned().collect(),
        };
        let (ledger, lost) = Ledger::restore(at, self.revision(), records);
        self.ledger = ledger;
        for why in lost {
            match why {
                Lost::Tombstone(grant) => drop(self.disk.tombstones.remove(&grant)),
                Lost::Tunnel(pairing) => drop(self.disk.pairings.remove(&pairing)),
                other => scene.wrong.push(Wrong { kind: Kind::Lost, what: format!("after the restart: {other}") }),
            }
        }
        self.lines.clear();
        self.pairing_keys.clear();
        self.devices.clear();
        self.pending.clear();
        scene.reference.restore(scene.now);
        self.review(scene);
        self.wake = scene.now;
    }

    /// Which grants live, and through which gateway?
    pub fn lives(&self) -> impl Iterator<Item = &Live> {
        self.ledger.all()
    }
}

fn site_of(directory: &Directory, gateway: GatewayId) -> Vec<Prefix> {
    let site = directory.gateways.find(&gateway).and_then(|g| directory.sites.find(&g.record.site));
    site.map(|s| s.record.prefixes.clone()).unwrap_or_default()
}

fn passing(why: &str) -> Reply {
    Reply::Deny {
        reasons: vec![why.to_owned()],
        retry_after: Duration::from_secs(1),
        passing: true,
        step_up: Vec::new(),
    }
}
