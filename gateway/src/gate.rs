//! The gateway's heart: one task that follows the controller and lets the engine admit exactly what the table says. What it
//! does with each word, and in which order, is decided in `follow`; here are its hands.

use crate::flows::Outbox;
use crate::follow::{Follower, Hands, RENEW_MIN};
use crate::resolve::Resolver;
use crate::rpc::{Down, Hello, Standing, Stream};
use crate::witness;
use grant::sync::Update;
use grant::verified::Scope;
use grant::view::View;
use host::conntrack::{Conntrack, ConntrackError};
use model::ids::{GrantId, NodeId};
use model::limits::{PROBE_EVERY, RESOLVING_MAX};
use model::net::HostName;
use model::pool::NatPool;
use model::revision::{Digest, Revision};
use model::time::Instant;
use node::overlay::Overlay;
use node::seen::Seen;
use node::witness::Witness;
use node::{Identity, Link, Runtime};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tunnel::{Change, Event, PeerId};

/// How long an ending program waits for the controller to take what it knows of its flows.
const HAND_OVER_MAX: Duration = Duration::from_secs(1);
/// How often own addresses are read again and counters are reported.
const HOUSEKEEPING: Duration = Duration::from_secs(10);

/// What `umbra-gateway status` shows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Status {
    /// Who.
    pub gateway: String,
    /// What the administrator compares before confirming it.
    pub fingerprint: String,
    /// The organisation.
    pub organisation: String,
    /// What was compared before joining it.
    pub organisation_fingerprint: String,
    /// The stream to the controller is open.
    pub connected: bool,
    /// An administrator has confirmed this gateway.
    pub confirmed: bool,
    /// The state that the table shows.
    pub revision: String,
    /// Grants held.
    pub grants: usize,
    /// Why there is no connection.
    pub trouble: Option<String>,
    /// Packets dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Fast ways of the kernel that the packet path lacks, as `--offload` names them; empty: none.
    #[serde(default)]
    pub without: String,
    /// What other firewalls of this host do to packets of grants.
    #[serde(default)]
    pub firewalls: Vec<String>,
    /// Up to where the audit trail went, as far as this gateway was told.
    #[serde(default)]
    pub witness: Option<Witness>,
}

/// Where the gate stands.
pub struct Place {
    /// The packet path.
    pub runtime: Arc<Runtime>,
    /// The control link.
    pub link: Arc<Link>,
    /// The TUN device's place in the host's network.
    pub overlay: Overlay,
    /// Who it is, for `status`.
    pub identity: Identity,
    /// Where clients reach it, beside the address that the controller sees.
    pub endpoints: watch::Receiver<Vec<SocketAddr>>,
    /// How often it asks for renewal, at least.
    pub renew_every: Duration,
}

/// What the task holds.
pub struct Gate {
    runtime: Arc<Runtime>,
    link: Arc<Link>,
    overlay: Overlay,
    conntrack: Conntrack,
    follower: Follower,
    seen: Seen,
    hello: Hello,
    endpoints: watch::Receiver<Vec<SocketAddr>>,
    stream: Option<Stream>,
    opening: Option<oneshot::Receiver<Result<Stream, String>>>,
    open_again: Instant,
    standing: Standing,
    resolving: Resolving,
    /// Names to be told of that wait for their turn; at most those of the site.
    unreported: BTreeSet<(HostName, bool)>,
    resolver: Resolver,
    flows: Outbox,
    witness: witness::Watch,
    identity: Identity,
    status: watch::Sender<Status>,
}

/// An answer of the resolver, on its way back to the task.
struct Resolved {
    name: HostName,
    v4: bool,
    answer: Result<crate::resolve::Answer, String>,
}

impl Gate {
    /// A gate that admits nothing yet.
    pub fn new(
        place: Place,
        (seen, witness): (Seen, witness::Keeper),
        scope: Scope,
        boot: u64,
    ) -> Result<Self, ConntrackError> {
        let nat: NatPool = scope.nat;
        let Place { runtime, link, overlay, identity, endpoints, renew_every } = place;
        let pairing_key = runtime.engine.pairing_public();
        let (status, _) = watch::channel(Status {
            gateway: identity.node.to_string(),
            fingerprint: identity.fingerprint.clone(),
            organisation: identity.trust_domain.clone(),
            organisation_fingerprint: identity.organisation_fingerprint(),
            ..Status::default()
        });
        Ok(Self {
            runtime,
            link,
            overlay,
            conntrack: Conntrack::open()?,
            follower: Follower::new(scope, seen.floor(), renew_every),
            hello: Hello { seen: seen.floor(), nat, endpoints: Vec::new(), boot, pairing_key, witness: None },
            endpoints,
            seen,
            stream: None,
            opening: None,
            open_again: Instant(0),
            standing: Standing { site: Vec::new(), confirmed: false, names: Vec::new() },
            resolving: Resolving::default(),
            unreported: BTreeSet::new(),
            resolver: Resolver::default(),
            flows: Outbox::default(),
            witness: witness::Watch::start(witness),
            identity,
            status,
        })
    }

    /// Follows the status.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Runs until it is told to stop, or for as long as the program.
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>, mut stop: oneshot::Receiver<()>) {
        let (resolved, mut resolved_in) = mpsc::channel(RESOLVING_MAX);
        let mut links = self.link.watch();
        let mut generation = 0;
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        loop {
            self.runtime.beat();
            let wait = self.wait();
            tokio::select! {
                message = next(&mut self.stream) => self.on_message(message, &resolved).await,
                () = tokio::time::sleep(wait) => {}
                Some(event) = events.recv() => self.on_event(event, &resolved).await,
                Some(answer) = resolved_in.recv() => {
                    self.on_resolved(answer).await;
                    self.report_more(&resolved);
                }
                opened = opened(&mut self.opening) => self.on_opened(opened, &resolved),
                Ok(()) = &mut stop => return self.hand_over().await,
                _ = links.changed() => {}
                // A stream says once where the gateway is; one that is being opened says what was known before.
                Ok(()) = self.endpoints.changed() => (self.stream, self.opening) = (None, None),
                _ = housekeeping.tick() => self.housekeep().await,
            }
            let state = self.link.state();
            if state.generation != generation || state.channel.is_none() {
                (self.stream, self.opening) = (None, None);
            }
            if let Some(channel) = state.channel
                && self.stream.is_none()
                && self.opening.is_none()
                && self.runtime.now() >= self.open_again
            {
                generation = state.generation;
                self.open(channel);
            }
            self.on_time().await;
            self.show(state.trouble);
        }
    }

    /// Begins to open a stream. Beside the task: grants end in time, whatever the controller does.
    fn open(&mut self, channel: tonic::transport::Channel) {
        self.hello.seen = self.follower.table().seen().max(self.seen.floor());
        self.hello.endpoints = self.endpoints.borrow_and_update().clone();
        self.hello.witness = self.witness.kept();
        let (hello, (answer, opening)) = (self.hello.clone(), oneshot::channel());
        tokio::spawn(async move {
            let opened = match tokio::time::timeout(PROBE_EVERY, Stream::open(channel, &hello)).await {
                Ok(opened) => opened.map_err(|status| status.message().to_owned()),
                Err(_) => Err("it did not answer in time".to_owned()),
            };
            // Nobody waits for it any more: the stream ends.
            let _ = answer.send(opened);
        });
        self.opening = Some(opening);
    }

    fn on_opened(&mut self, opened: Result<Stream, String>, resolved: &mpsc::Sender<Resolved>) {
        self.opening = None;
        match opened {
            Ok(stream) => {
                self.stream = Some(stream);
                let now = self.runtime.now();
                let (follower, mut hands) = self.parts();
                follower.on_opened(now, &mut hands);
                // A controller that began anew knows of no name where it leads, and sends no snapshot for an equal table.
                self.report_names(resolved);
            }
            Err(why) => {
                tracing::warn!(%why, "the controller did not open the stream");
                self.open_again = self.runtime.now().plus(RENEW_MIN);
            }
        }
    }

    fn wait(&self) -> Duration {
        self.follower.wait(self.runtime.now(), self.stream.is_some())
    }

    async fn on_time(&mut self) {
        let (now, connected) = (self.runtime.now(), self.stream.is_some());
        let (follower, mut hands) = self.parts();
        follower.on_time(now, connected, &mut hands).await;
        self.report_flows();
    }

    /// What decides, and what does it.
    fn parts(&mut self) -> (&mut Follower, Doer<'_>) {
        let doer = Doer {
            runtime: &self.runtime,
            conntrack: &mut self.conntrack,
            seen: &mut self.seen,
            stream: self.stream.as_ref(),
            flows: &mut self.flows,
        };
        (&mut self.follower, doer)
    }

    async fn on_message(&mut self, message: Result<Down, String>, resolved: &mpsc::Sender<Resolved>) {
        match message {
            Ok(Down::Update { as_of, update, standing }) => {
                self.link.heard();
                if self.follower.base(as_of).is_none() {
                    return;
                }
                if let Some(standing) = standing {
                    self.take_standing(standing, resolved).await;
                }
                self.update(as_of, update).await;
            }
            Ok(Down::Renewed { seq, lives }) => {
                self.link.heard();
                let now = self.runtime.now();
                let (follower, mut hands) = self.parts();
                follower.on_renewed(now, seq, &lives, &mut hands).await;
            }
            Ok(Down::FlowsKept { up_to }) => self.flows.kept(up_to),
            Ok(Down::AuditHead(head)) => self.witness.tell(head),
            Err(why) => {
                tracing::warn!(%why, "the controller's stream ended");
                self.stream = None;
                self.link.nudge();
            }
        }
    }

    async fn update(&mut self, as_of: u64, update: Update) {
        let now = self.runtime.now();
        let (follower, mut hands) = self.parts();
        for (grant, why) in follower.on_update(now, as_of, update, &mut hands).await.refused {
            tracing::warn!(%grant, %why, "a grant of the controller was refused by this gateway's own checks");
        }
    }

    async fn take_standing(&mut self, standing: Standing, resolved: &mpsc::Sender<Resolved>) {
        if standing.confirmed != self.standing.confirmed {
            tracing::info!(confirmed = standing.confirmed, "this gateway's standing");
        }
        self.standing = standing;
        self.refresh_scope().await;
        self.report_names(resolved);
    }

    /// Looks every name of the site up, and tells the controller which families it leads to.
    fn report_names(&mut self, resolved: &mpsc::Sender<Resolved>) {
        let both = |name: &HostName| [(name.clone(), true), (name.clone(), false)];
        self.unreported = self.standing.names.iter().flat_map(both).collect();
        self.report_more(resolved);
    }

    fn report_more(&mut self, resolved: &mpsc::Sender<Resolved>) {
        while self.resolving.has_room()
            && let Some((name, v4)) = self.unreported.pop_first()
        {
            self.resolve(name, v4, resolved);
        }
    }

    /// Own addresses change while the program runs; a packet must never end at one by mistake.
    async fn refresh_scope(&mut self) {
        let own = match self.overlay.netlink().addresses().await {
            Ok(list) => list.into_iter().map(|a| a.address).collect(),
            Err(error) => {
                tracing::warn!(%error, "this host's own addresses could not be read; the last known ones stay");
                return;
            }
        };
        let scope = Scope { site: self.standing.site.clone(), own, ..self.follower.table().scope().clone() };
        let now = self.runtime.now();
        let (follower, mut hands) = self.parts();
        follower.set_scope(now, scope, &mut hands).await;
    }

    async fn on_event(&mut self, event: Event, resolved: &mpsc::Sender<Resolved>) {
        match event {
            Event::Resolve { name, v4 } => self.resolve(name, v4, resolved),
            Event::Handshake { peer: PeerId::Node(NodeId::Controller), theirs, .. } => self.link.shaken(theirs),
            Event::FlowEnded(summary) => self.flows.push(summary),
            Event::TargetRefused { grant, target } => {
                tracing::warn!(%grant, %target, "a target lies where no packet may go; dropped");
            }
            Event::GrantClosed { .. }
            | Event::Handshake { .. }
            | Event::Succeeded { .. }
            | Event::Knock { .. }
            | Event::Want(_) => {}
        }
    }

    fn resolve(&mut self, name: HostName, v4: bool, resolved: &mpsc::Sender<Resolved>) {
        if !self.resolving.begin(&name, v4) {
            return;
        }
        let (resolver, resolved) = (self.resolver.clone(), resolved.clone());
        tokio::spawn(async move {
            let answer = resolver.resolve(&name, v4).await.map_err(|e| e.to_string());
            let _ = resolved.send(Resolved { name, v4, answer }).await;
        });
    }

    async fn on_resolved(&mut self, resolved: Resolved) {
        let Resolved { name, v4, answer } = resolved;
        self.resolving.end(&name, v4);
        let (addresses, ttl, error) = match answer {
            Ok(answer) => (answer.addresses, answer.ttl, String::new()),
            Err(error) => {
                tracing::warn!(%name, %error, "a target's name could not be resolved");
                (Vec::new(), Duration::from_secs(1), error)
            }
        };
        if self.standing.names.contains(&name)
            && let Some(stream) = &self.stream
        {
            let reachable = addresses.iter().any(|a| self.follower.table().scope().admits(*a, true));
            stream.report_name(&name, v4 && reachable, !v4 && reachable, error);
        }
        let (_, events) = self.runtime.apply(Change::Resolved { name, v4, addresses, ttl });
        for event in events {
            if let Event::TargetRefused { grant, target } = event {
                tracing::warn!(%grant, %target, "a target lies where no packet may go; dropped");
            }
        }
    }

    async fn housekeep(&mut self) {
        self.refresh_scope().await;
        let drops = self.runtime.engine.counters();
        if let Some(stream) = &self.stream {
            stream.report(&drops);
        }
    }

    /// Tells the controller of flows that ended. What cannot be sent is sent again later.
    fn report_flows(&mut self) {
        let Some(stream) = &self.stream else { return self.flows.again() };
        let now = self.runtime.now();
        if let Some(batch) = self.flows.next(now)
            && !stream.report_flows(now, &batch)
        {
            self.flows.again();
        }
    }

    /// The program ends: what is known of the flows goes to the controller first, if it takes it soon.
    async fn hand_over(mut self) {
        self.runtime.engine.stopped_flows().into_iter().for_each(|flow| self.flows.push(flow));
        let handing = async {
            self.flows.hurry();
            self.report_flows();
            while !self.flows.is_empty() && self.stream.is_some() {
                match next(&mut self.stream).await {
                    Ok(Down::FlowsKept { up_to }) => self.flows.kept(up_to),
                    Ok(_) => {}
                    Err(_) => return,
                }
                self.flows.hurry();
                self.report_flows();
            }
        };
        let _ = tokio::time::timeout(HAND_OVER_MAX, handing).await;
    }

    fn show(&self, trouble: Option<String>) {
        let (connected, confirmed) = (self.stream.is_some(), self.standing.confirmed);
        let (revision, grants) = (self.follower.table().revision().to_string(), self.follower.table().len());
        let head = self.witness.kept();
        let organisation = self.link.trust.all().first().map(|now| now.fingerprint(&self.identity.trust_domain));
        self.status.send_modify(|s| {
            s.organisation_fingerprint = organisation.unwrap_or_default();
            if s.witness.as_ref().map(|shown| &shown.head) != head.as_ref() {
                s.witness = head.map(|head| witness::give_out(&self.identity, &self.link.trust, head));
            }
            s.connected = connected;
            s.confirmed = confirmed;
            s.revision = revision;
            s.grants = grants;
            s.trouble = trouble;
        });
    }
}

/// The gate's hands, for as long as one word of the controller takes.
struct Doer<'a> {
    runtime: &'a Runtime,
    conntrack: &'a mut Conntrack,
    seen: &'a mut Seen,
    stream: Option<&'a Stream>,
    flows: &'a mut Outbox,
}

impl Hands for Doer<'_> {
    fn publish(&mut self, view: Arc<View>) -> Vec<IpAddr> {
        let (_, events) = self.runtime.apply(Change::Grants(view));
        let mut closed = Vec::new();
        for event in events {
            match event {
                Event::GrantClosed { nat, .. } => closed.extend(nat),
                Event::FlowEnded(summary) => self.flows.push(summary),
                _ => {}
            }
        }
        closed
    }

    async fn forget(&mut self, addresses: BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        match self.conntrack.delete_by_sources(&addresses).await {
            Ok(_) => BTreeSet::new(),
            Err((left, error)) => {
                tracing::error!(%error, "connection tracking entries could not be deleted; the end of the grant is not confirmed");
                left
            }
        }
    }

    fn keep(&mut self, revision: Revision) -> Option<bool> {
        match self.seen.accept(revision) {
            Ok(true) => Some(true),
            Ok(false) => {
                tracing::error!(%revision, "an older state was refused");
                Some(false)
            }
            Err(error) => {
                tracing::error!(%error, "the revision could not be kept; it is not acknowledged");
                None
            }
        }
    }

    fn renew(&mut self, seq: u64, revision: Revision, digest: Digest) {
        if let Some(stream) = self.stream {
            stream.renew(seq, revision, digest);
        }
    }

    fn acknowledge(&mut self, revision: Revision, refused: &[GrantId]) -> bool {
        self.stream.is_some_and(|stream| stream.ack(revision, refused))
    }
}

/// The stream that is being opened, if one is.
async fn opened(opening: &mut Option<oneshot::Receiver<Result<Stream, String>>>) -> Result<Stream, String> {
    match opening {
        Some(opening) => opening.await.unwrap_or_else(|_| Err("it was given up".to_owned())),
        None => std::future::pending().await,
    }
}

/// The next message of a stream that may not be there.
async fn next(stream: &mut Option<Stream>) -> Result<Down, String> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

/// Names that are being resolved, each for one family.
#[derive(Default)]
struct Resolving(BTreeSet<(HostName, bool)>);

impl Resolving {
    fn has_room(&self) -> bool {
        self.0.len() < RESOLVING_MAX
    }
    /// False where it is under way already, or too many are.
    fn begin(&mut self, name: &HostName, v4: bool) -> bool {
        self.has_room() && self.0.insert((name.clone(), v4))
    }
    fn end(&mut self, name: &HostName, v4: bool) {
        self.0.remove(&(name.clone(), v4));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_names_are_resolved_at_once_and_the_next_when_one_is() {
        let name = |n: usize| format!("h{n}.corp.example").parse::<HostName>().unwrap();
        let mut resolving = Resolving::default();
        assert!(resolving.begin(&name(0), true) && !resolving.begin(&name(0), true), "once");
        assert!((1..RESOLVING_MAX).all(|n| resolving.begin(&name(n), true)));
        assert!(!resolving.has_room() && !resolving.begin(&name(0), false));
        resolving.end(&name(7), true);
        assert!(resolving.begin(&name(0), false));
    }
}
