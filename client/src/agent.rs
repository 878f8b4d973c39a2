//! The client's heart: one task that holds session, catalogue, grants and tunnels, follows the controller, and lets the
//! machine's routes, names and packets be exactly what they say.
//!
//! | file | question |
//! |---|---|
//! | `connects` | how is access asked for, and how does a tunnel come up? |
//! | `orders` | what do people ask for? |
//! | `report` | what is true right now, for people? |

mod connects;
mod orders;
mod report;

pub use orders::{FactorOrder, Order, Reply, SignInOrder};

use crate::catalogue::{Catalogue, Delta, Session};
use crate::connect::{Book, Loss, Seen as Glance, Word};
use crate::daemon::PROGRAM;
use crate::dns::{self, Resolver, Takeover};
use crate::held::Held;
use crate::names::Zone;
use crate::network::{self, Surroundings};
use crate::plan::{self, Place, Plan};
use crate::rpc::{self, Update};
use connects::Answered;
use host::netlink::Holder;
use host::nft;
use model::grant::{CatalogueEntry, Ending};
use model::ids::{GrantId, NodeId, PairingId, ResourceId};
use model::limits::{AGENT_RESULTS_MAX, DEPARTED_MAX, GUARDED_PREFIXES_MAX};
use model::net::{HostName, Prefix};
use model::revision::Revision;
use model::time::Instant;
use node::overlay::Overlay;
use node::seen::Seen;
use node::{Identity, Link, Runtime};
use orders::{LoginWaiter, Waiter};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tunnel::{Change, Event, PeerId};

/// No wait is longer: the timer's clock stops in suspend, the lease clock does not, and a tunnel under traffic is suspected
/// after twice this time.
const WAIT_MAX: Duration = Duration::from_millis(250);
/// The pause before a stream that ended is opened again.
const REOPEN: Duration = Duration::from_millis(300);
/// A grant that is younger may not be in a snapshot yet that is on its way.
const SNAPSHOT_LAG: Duration = Duration::from_secs(2);
/// How often resolv.conf is looked at.
const DNS_CHECK: Duration = Duration::from_secs(2);

/// What the agent is made of.
pub struct Parts {
    /// The packet path.
    pub runtime: Arc<Runtime>,
    /// The control link.
    pub link: Arc<Link>,
    /// The TUN device.
    pub overlay: Overlay,
    /// Who this machine is.
    pub identity: Identity,
    /// The highest state that it ever saw.
    pub seen: Seen,
    /// What was this organisation's when the controller last spoke.
    pub held: Held,
    /// Where that is kept.
    pub state: PathBuf,
    /// The resolver.
    pub names: Arc<Resolver>,
    /// resolv.conf, if it is managed.
    pub takeover: Option<Takeover>,
    /// How long a tunnel's keys are used.
    pub key_life: Duration,
    /// Where it is told whether this machine is a workload.
    pub workload: watch::Sender<bool>,
}

/// What comes back from the task's own calls.
enum Inner {
    Opened {
        generation: u64,
        asked: Instant,
        stream: Result<rpc::Stream, tonic::Status>,
    },
    Answered(Answered),
    LoggedIn {
        user: String,
        reply: Reply<proto::local::LoginReply>,
        result: Result<(String, Duration), tonic::Status>,
    },
    /// A second factor was given: old denials say nothing any more.
    Proven,
    Named {
        name: HostName,
        reply: orders::NameReply,
        result: orders::Named,
    },
    Controllers(Vec<SocketAddr>),
}

/// Where they come back: whoever finds no room waits with its result.
fn results() -> (mpsc::Sender<Inner>, mpsc::Receiver<Inner>) {
    mpsc::channel(AGENT_RESULTS_MAX)
}

/// The task.
pub struct Agent {
    workload: watch::Sender<bool>,
    runtime: Arc<Runtime>,
    link: Arc<Link>,
    overlay: Overlay,
    identity: Identity,
    seen: Seen,
    held: Held,
    state: PathBuf,
    /// Has the controller told what there is? Until then what is held stays held.
    told: bool,
    /// Does the resolver know it?
    shown: bool,
    /// Real prefixes that lead nowhere when the device goes.
    beneath: Option<Vec<Prefix>>,
    /// What the kernel keeps from every other way.
    on_tunnel: Option<nft::Held>,
    names: Arc<Resolver>,
    takeover: Option<Takeover>,
    dns_checked: Instant,
    catalogue: Catalogue,
    book: Book,
    place: Place,
    controllers: Vec<IpAddr>,
    gateways: BTreeMap<PairingId, Vec<SocketAddr>>,
    host_routes: BTreeMap<Prefix, IpAddr>,
    named: Vec<CatalogueEntry>,
    /// As the controller says; the plan accepts those that it may.
    private_zones: Vec<HostName>,
    private: Vec<HostName>,
    findings: Vec<String>,
    departed: Departed,
    stream: Option<rpc::Stream>,
    /// The stream's first snapshot speaks of this moment.
    asked: Option<Instant>,
    generation: u64,
    opening: bool,
    reopen: Instant,
    dirty: bool,
    waiters: Vec<Waiter>,
    logins: Vec<LoginWaiter>,
    arrivals: Vec<(Instant, oneshot::Sender<Result<(), String>>)>,
    inner: mpsc::Sender<Inner>,
    inner_in: Option<mpsc::Receiver<Inner>>,
}

impl Agent {
    /// An agent that holds nothing yet. Sets the machine's own overlay addresses and the routes to its resolver.
    pub async fn new(parts: Parts) -> Result<Self, node::overlay::OverlayError> {
        let Parts { runtime, link, overlay, identity, seen, held, state, names, takeover, key_life, workload } = parts;
        let pool = identity.pool;
        let own: Vec<IpAddr> = identity.v4.map(IpAddr::V4).into_iter().chain([IpAddr::V6(identity.v6)]).collect();
        dns::lead_in(&overlay, &identity).await?;
        let place = Place {
            pool,
            own,
            prefixes: identity.prefixes.clone(),
            zones: identity.zones.clone(),
            local: Vec::new(),
            outside: Vec::new(),
        };
        let (inner, inner_in) = results();
        Ok(Self {
            runtime,
            link,
            overlay,
            identity,
            seen,
            held,
            state,
            told: false,
            shown: false,
            beneath: None,
            on_tunnel: None,
            names,
            takeover,
            workload,
            dns_checked: Instant(0),
            catalogue: Catalogue::default(),
            book: Book::new(key_life),
            place,
            controllers: Vec::new(),
            gateways: BTreeMap::new(),
            host_routes: BTreeMap::new(),
            named: Vec::new(),
            private_zones: Vec::new(),
            private: Vec::new(),
            findings: Vec::new(),
            departed: BTreeMap::new(),
            stream: None,
            asked: None,
            generation: 0,
            opening: false,
            reopen: Instant(0),
            dirty: true,
            waiters: Vec::new(),
            logins: Vec::new(),
            arrivals: Vec::new(),
            inner,
            inner_in: Some(inner_in),
        })
    }

    /// Runs until it is told to stop; undoes what it did to the machine's names.
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>, mut orders: mpsc::Receiver<Order>) {
        let Some(mut inner) = self.inner_in.take() else { return };
        let mut links = self.link.watch();
        let mut changes = network::follow(self.overlay.link());
        // The servers first: where the controller is may be asked of them.
        self.check_dns(true);
        self.look_around().await;
        loop {
            self.runtime.beat();
            let wait = self.wait();
            let runtime = Arc::clone(&self.runtime);
            tokio::select! {
                update = next(&mut self.stream, || runtime.now()) => self.on_update(update),
                Some(event) = events.recv() => self.on_event(&event),
                Some(done) = inner.recv() => self.on_inner(done).await,
                order = orders.recv() => match order {
                    Some(Order::Stop) | None => break,
                    Some(order) => self.on_order(order),
                },
                Some(()) = changes.recv() => self.on_network_change().await,
                _ = links.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
            self.follow_link();
            self.on_time();
            self.settle().await;
        }
        if let Some(takeover) = &mut self.takeover {
            takeover.give_back();
        }
    }

    fn wait(&self) -> Duration {
        self.book.next_deadline().since(self.runtime.now()).clamp(Duration::from_millis(1), WAIT_MAX)
    }

    // -- the controller's stream -------------------------------------------------------------------------------------

    fn follow_link(&mut self) {
        let state = self.link.state();
        if self.stream.is_some() && (state.generation != self.generation || state.channel.is_none()) {
            self.stream = None;
        }
        let now = self.runtime.now();
        let Some(channel) = state.channel.filter(|_| self.stream.is_none() && !self.opening && self.reopen <= now)
        else {
            return;
        };
        self.opening = true;
        let (inner, seen, generation) = (self.inner.clone(), self.seen.floor(), state.generation);
        tokio::spawn(async move {
            let stream = rpc::watch(channel, seen).await;
            let _ = inner.send(Inner::Opened { generation, asked: now, stream }).await;
        });
    }

    fn end_stream(&mut self, why: &str) {
        tracing::warn!(%why, "the controller's stream ended");
        self.stream = None;
        self.reopen = self.runtime.now().plus(REOPEN);
        self.link.nudge();
    }

    fn on_update(&mut self, update: Result<Update, String>) {
        self.link.heard();
        let now = self.runtime.now();
        match update {
            Ok(Update::Snapshot { revision, session, entries, grants, pending, private_zones }) => {
                self.private_zones = private_zones;
                self.on_snapshot(now, revision, session, entries, &grants, pending);
            }
            Ok(Update::Delta(delta)) => self.on_delta(delta),
            Ok(Update::Ended { grant, resource, ending }) => self.on_ended(now, grant, resource, ending),
            Ok(Update::Renewed { grant, until }) => self.book.renewed(grant, until),
            Err(why) => self.end_stream(&why),
        }
    }

    /// The highest state is kept; a lower one is refused.
    fn accept(&mut self, revision: Revision) -> bool {
        match self.seen.accept(revision) {
            Ok(true) => true,
            Ok(false) => {
                self.end_stream(&format!("it showed state {revision}, older than {}", self.seen.floor()));
                self.reopen = self.runtime.now().plus(REOPEN * 10);
                false
            }
            Err(error) => {
                tracing::error!(%error, "the state's number could not be kept");
                true
            }
        }
    }

    fn on_snapshot(
        &mut self,
        now: Instant,
        revision: Revision,
        session: Option<Session>,
        entries: Vec<CatalogueEntry>,
        grants: &BTreeSet<GrantId>,
        pending: bool,
    ) {
        if !self.accept(revision) {
            return;
        }
        let changed = entries.iter().filter(|e| self.catalogue.entry(&e.id) != Some(e)).map(|e| e.id).collect();
        let before = self.before();
        if let Err(misfit) = self.catalogue.snapshot(revision, session, pending, entries) {
            return self.end_stream(&misfit.to_string());
        }
        self.told = true;
        let asked = self.asked.take().unwrap_or(Instant(now.0.saturating_sub(nanos(SNAPSHOT_LAG))));
        self.book.only(now, asked, grants);
        self.after(now, before, &changed);
    }

    fn on_delta(&mut self, delta: Delta) {
        if !self.accept(delta.to) {
            return;
        }
        let changed = delta.upserts.iter().map(|e| e.id).collect();
        let before = self.before();
        if let Err(misfit) = self.catalogue.delta(delta) {
            return self.end_stream(&misfit.to_string());
        }
        self.after(self.runtime.now(), before, &changed);
    }

    fn before(&self) -> (Option<model::ids::SessionId>, BTreeMap<ResourceId, String>) {
        let names = self.catalogue.entries().map(|e| (e.id, e.name.clone())).collect();
        (self.catalogue.session().map(|s| s.id), names)
    }

    /// Follows from a changed catalogue.
    fn after(
        &mut self,
        now: Instant,
        (session, names): (Option<model::ids::SessionId>, BTreeMap<ResourceId, String>),
        changed: &BTreeSet<ResourceId>,
    ) {
        let all: BTreeSet<ResourceId> = self.catalogue.entries().map(|e| e.id).collect();
        for (resource, word) in self.book.visible(&all, changed) {
            let word = match word {
                Word::Permitted => Word::Ended("it is not visible to you any more".to_owned()),
                other => other,
            };
            if let Some(name) = names.get(&resource) {
                depart(&mut self.departed, name.clone(), (resource, now, word));
            }
        }
        self.departed.retain(|_, (resource, _, _)| !all.contains(resource));
        let workload = self.catalogue.session().is_some_and(|s| s.workload);
        self.workload.send_if_modified(|was| std::mem::replace(was, workload) != workload);
        if self.catalogue.session().map(|s| s.id) != session {
            self.book.forget_denials();
        }
        self.dirty = true;
    }

    fn on_ended(&mut self, now: Instant, grant: GrantId, resource: ResourceId, ending: Ending) {
        let reason = connects::reason(ending);
        tracing::info!(%grant, %resource, reason, "a grant ended");
        self.book.ended(now, grant, reason, Loss::of(ending));
        for (_, at, word) in self.departed.values_mut().filter(|(of, _, _)| *of == resource) {
            (*at, *word) = (now, Word::Ended(reason.to_owned()));
        }
    }

    // -- events ------------------------------------------------------------------------------------------------------

    fn on_event(&mut self, event: &Event) {
        match event {
            Event::Want(resource) if self.catalogue.entry(resource).is_some() => {
                self.book.want(self.runtime.now(), *resource);
            }
            Event::Handshake { peer: PeerId::Node(NodeId::Controller), theirs, .. } => self.link.shaken(*theirs),
            _ => {}
        }
    }

    async fn on_inner(&mut self, done: Inner) {
        match done {
            Inner::Opened { generation, asked, stream } => {
                self.opening = false;
                match stream {
                    Ok(stream) if generation == self.link.state().generation => {
                        (self.stream, self.asked, self.generation) = (Some(stream), Some(asked), generation);
                    }
                    Ok(_) => {}
                    Err(status) => self.end_stream(status.message()),
                }
            }
            Inner::Answered(answered) => self.on_answer(answered),
            Inner::Proven => self.book.forget_denials(),
            Inner::LoggedIn { user, reply, result } => self.on_logged_in(user, reply, result),
            Inner::Named { name, reply, result } => self.on_named(name, reply, result).await,
            Inner::Controllers(found) => {
                self.controllers = found.iter().map(SocketAddr::ip).collect();
                if !found.is_empty() {
                    let controller = PeerId::Node(NodeId::Controller);
                    self.runtime.apply(Change::Endpoints(controller, found));
                    self.runtime.apply(Change::ForceHandshake(controller));
                    self.link.nudge();
                }
                self.dirty = true;
            }
        }
    }

    /// Another network: every tunnel says hello from there, and the controller's names may lead elsewhere.
    async fn on_network_change(&mut self) {
        tracing::info!("the network changed");
        for (pairing, _) in self.book.tunnels() {
            self.runtime.apply(Change::ForceHandshake(PeerId::Pairing(*pairing)));
        }
        self.runtime.apply(Change::ForceHandshake(PeerId::Node(NodeId::Controller)));
        self.link.nudge();
        self.look_around().await;
        self.check_dns(true);
    }

    /// Reads the machine's own networks, and asks where the controller is.
    async fn look_around(&mut self) {
        match Surroundings::read(self.overlay.netlink(), self.overlay.link()).await {
            Ok(around) => self.place.local = around.local_nets(),
            Err(error) => tracing::warn!(%error, "this machine's networks could not be read; the last known ones stay"),
        }
        self.dirty = true;
        let (inner, names) = (self.inner.clone(), self.identity.endpoints.clone());
        tokio::spawn(async move {
            let found = node::link::resolve_endpoints(&names).await;
            let _ = inner.send(Inner::Controllers(found)).await;
        });
    }

    fn check_dns(&mut self, now_please: bool) {
        let now = self.runtime.now();
        if !now_please && now.since(self.dns_checked) < DNS_CHECK {
            return;
        }
        self.dns_checked = now;
        if let Some(servers) = self.takeover.as_mut().and_then(Takeover::keep) {
            self.names.set_servers(servers);
        }
    }

    fn on_time(&mut self) {
        let now = self.runtime.now();
        let tunnels: Vec<PairingId> = self.book.tunnels().map(|(id, _)| *id).collect();
        for pairing in tunnels {
            let peer = PeerId::Pairing(pairing);
            let Some(status) = self.runtime.engine.peer(&peer) else { continue };
            let glance = Glance {
                handshake: status.last_handshake,
                received: status.last_received,
                unanswered: status.unanswered_since,
            };
            if self.book.observe(now, pairing, glance) {
                self.runtime.apply(Change::ForceHandshake(peer));
            }
        }
        self.book.handle_timeout(now);
        self.check_dns(false);
    }

    // -- consequences ------------------------------------------------------------------------------------------------

    /// Sends what is to be asked, puts in force what changed, and answers who waited for it.
    async fn settle(&mut self) {
        while let Some(request) = self.book.request(self.runtime.now()) {
            self.ask_controller(request);
        }
        if self.book.take_changed() || self.dirty {
            self.dirty = false;
            self.publish().await;
        }
        // After the routes: a flow has moved to its new tunnel before the old one goes.
        for pairing in self.book.unused() {
            self.gateways.remove(&pairing);
            self.runtime.apply(Change::RemovePeer(PeerId::Pairing(pairing)));
        }
        // And what was left goes after that: its end is no news for anybody here.
        while let Some(channel) = self.link.channel().ok()
            && let Some(grant) = self.book.next_left()
        {
            tokio::spawn(rpc::disconnect(channel, grant));
        }
        self.answer_waiters();
    }

    async fn publish(&mut self) {
        let current = self.runtime.engine.peer(&PeerId::Node(NodeId::Controller)).and_then(|s| s.endpoint);
        let gateways = self.gateways.values().flatten().map(SocketAddr::ip);
        let outside = current.map(|e| e.ip()).into_iter().chain(self.controllers.iter().copied()).chain(gateways);
        self.place.outside = outside.collect();
        let plan = plan::plan(&self.place, &self.catalogue, &self.book, self.runtime.now());
        let private = self.place.private(&self.private_zones);
        self.hold(&plan, &private).await;
        self.findings = plan.findings;
        self.runtime.apply(Change::Routes(Arc::new(plan.routes)));
        self.set_host_routes(plan.host).await;
        // Names last: what resolves has a route.
        if self.told && (!self.shown || plan.names != self.named || private != self.private) {
            self.shown = true;
            let zone = Zone::new(self.identity.pool, &private, &plan.names);
            self.names.update(zone.without(&self.identity.endpoints));
            (self.named, self.private) = (plan.names, private);
        }
    }

    /// What must not leave in the clear when this program is killed stands on disk and beneath the device's routes before
    /// anything of it resolves or is routed. Until the controller has spoken, that is what it said last.
    async fn hold(&mut self, plan: &Plan, private: &[HostName]) {
        if self.told {
            let held = Held::of(plan, private, &self.identity.pool);
            if held != self.held {
                if let Err(error) = held.store(&self.state) {
                    tracing::warn!(%error, "names would leave this machine in the clear if this program were killed");
                }
                self.held = held;
            }
        }
        if let Some(takeover) = &mut self.takeover {
            takeover.route(self.overlay.link(), &self.held);
        }
        let held = self.held.prefixes.iter().filter(|prefix| self.place.trusts_prefix(prefix).is_ok());
        let beneath: Vec<Prefix> = held.copied().collect();
        self.keep_on_tunnel(&beneath).await;
        if self.beneath.as_ref() == Some(&beneath) {
            return;
        }
        let pool = [self.identity.pool.v4(), self.identity.pool.v6()];
        let all: Vec<Prefix> = pool.into_iter().chain(beneath.iter().copied()).collect();
        match self.overlay.netlink().hold_blackholes(Holder::Client, &all).await {
            Ok(()) => self.beneath = Some(beneath),
            Err(error) => tracing::warn!(%error, "packets would leave in the clear if this program were killed"),
        }
    }

    /// Whatever other routes say: real addresses of resources leave through the tunnel. Those of the pool do so anyway.
    async fn keep_on_tunnel(&mut self, prefixes: &[Prefix]) {
        let prefixes: Vec<Prefix> = prefixes.iter().take(GUARDED_PREFIXES_MAX).copied().collect();
        let inside = |net: &Prefix| prefixes.iter().any(|prefix| prefix.covers(net));
        let local = self.place.attached().filter(inside).take(GUARDED_PREFIXES_MAX).collect();
        let held = nft::Held { program: PROGRAM.into(), tun: self.overlay.name().to_owned(), prefixes, local };
        if self.on_tunnel.as_ref() == Some(&held) {
            return;
        }
        match held.apply().await {
            Ok(()) => self.on_tunnel = Some(held),
            Err(error) => {
                tracing::warn!(%error, "a route of the network could lead packets for resources past the tunnel");
            }
        }
    }

    async fn set_host_routes(&mut self, wanted: BTreeMap<Prefix, IpAddr>) {
        let gone: Vec<Prefix> = self.host_routes.keys().filter(|p| !wanted.contains_key(p)).copied().collect();
        for prefix in gone {
            if let Err(error) = self.overlay.delete_route(prefix).await {
                tracing::warn!(%prefix, %error, "a route could not be removed");
            }
            self.host_routes.remove(&prefix);
        }
        for (prefix, source) in wanted {
            if self.host_routes.get(&prefix) == Some(&source) {
                continue;
            }
            match self.overlay.add_route(prefix, Some(source)).await {
                Ok(()) => {
                    self.host_routes.insert(prefix, source);
                }
                Err(error) => self.findings.push(format!("{prefix} has no route: {error}")),
            }
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The next message of a stream that may not be there.
async fn next(stream: &mut Option<rpc::Stream>, now: impl Fn() -> Instant) -> Result<Update, String> {
    match stream {
        Some(stream) => rpc::next(stream, now).await,
        None => std::future::pending().await,
    }
}

/// Resources that left the catalogue, by name: since when, and why nothing of them is reached.
type Departed = BTreeMap<String, (ResourceId, Instant, Word)>;

/// Remembers one more; the oldest makes room.
fn depart(departed: &mut Departed, name: String, what: (ResourceId, Instant, Word)) {
    if departed.len() >= DEPARTED_MAX && !departed.contains_key(&name) {
        let oldest = departed.iter().min_by_key(|(_, (_, at, _))| *at).map(|(name, _)| name.clone());
        oldest.and_then(|name| departed.remove(&name));
    }
    departed.insert(name, what);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::resource;

    #[tokio::test]
    async fn so_many_results_lie_ready_and_one_more_waits_and_is_not_lost() {
        let (inner, mut inner_in) = results();
        let all = AGENT_RESULTS_MAX + 3;
        for _ in 0..all {
            let inner = inner.clone();
            tokio::spawn(async move { inner.send(Inner::Controllers(Vec::new())).await });
        }
        while inner.capacity() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(inner_in.len(), AGENT_RESULTS_MAX);
        drop(inner);
        let mut heard = 0;
        while inner_in.recv().await.is_some() {
            heard += 1;
        }
        assert_eq!(heard, all);
    }

    #[test]
    fn so_many_departed_resources_are_remembered_and_the_oldest_goes() {
        let mut departed = Departed::new();
        let what = |n: u64| (resource(n as u32), Instant(n), Word::Ended("revoked".to_owned()));
        for n in 0..DEPARTED_MAX as u64 {
            depart(&mut departed, format!("r{n}"), what(n + 1));
        }
        depart(&mut departed, "r7".to_owned(), what(9_000));
        assert!(
            departed.len() == DEPARTED_MAX && departed.contains_key("r0"),
            "one that is there takes no other's place"
        );
        depart(&mut departed, "last".to_owned(), what(9_001));
        assert!(departed.len() == DEPARTED_MAX && !departed.contains_key("r0") && departed.contains_key("last"));
    }
}
