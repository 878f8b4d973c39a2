//! The control link: how does a node stay in touch with its controller, and how soon does it notice that it is not?
//!
//! A probe each 5 s; 3 s of silence force a WireGuard handshake, then the next candidate endpoint (re-resolved each
//! time). A handshake that the controller begins (it restarted) is followed by a probe at once, and while there is no
//! connection, each handshake by an attempt to connect: `pace` says when what is tried.

mod pace;

use crate::channel::{Target, channel_over};
use crate::rpc;
use crate::runtime::Runtime;
use crate::successor::{Announcement, Trust};
use model::ids::NodeId;
use model::limits::{ENDPOINTS_MAX, RUN_ID_LEN, SILENCE_MAX};
use model::time::Instant;
use pace::Far;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tonic::transport::Channel;
use tunnel::{Change, PeerId};

/// What is true of the link right now.
#[derive(Clone, Default)]
pub struct LinkState {
    /// The gRPC channel, while there is one.
    pub channel: Option<Channel>,
    /// Counts connections; a stream belongs to one.
    pub generation: u64,
    /// The controller's last word.
    pub last_word: Option<Instant>,
    /// When it last answered a probe or sent something: a connection alone may be one that it is about to refuse.
    pub answered: Option<Instant>,
    /// Why there is none.
    pub trouble: Option<String>,
}

/// What the controller says about what follows its key and CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Succession {
    /// The announcement; absent where the node has said that it knows it. Nobody has checked it yet.
    pub announcement: Option<Announcement>,
    /// The controller uses them by now.
    pub switched: bool,
}

/// The control link of one node.
pub struct Link {
    /// By which authorities the controller is known here.
    pub trust: Arc<Trust>,
    runtime: Arc<Runtime>,
    target: RwLock<Target>,
    endpoints: Vec<String>,
    probe_every: Duration,
    state: watch::Sender<LinkState>,
    nudge: Notify,
    /// The controller's last word about what follows its key and CA.
    succession: watch::Sender<Option<Succession>>,
    /// The number of this run of the program.
    run: [u8; RUN_ID_LEN],
    /// Which announcement the node keeps.
    keeps: RwLock<Option<[u8; 32]>>,
    /// What else a person should know while there is no connection.
    advice: RwLock<Option<String>>,
    /// Handshakes with the controller, and how many there were at the last failure.
    handshakes: AtomicU64,
    tried: AtomicU64,
}

impl Link {
    /// A link to `target`, through the tunnel whose far end is at one of `endpoints` (`HOST:PORT`).
    /// It is probed each `probe_every`; `run` is random, and another one each time that the program starts.
    pub fn new(
        runtime: Arc<Runtime>,
        target: Target,
        trust: Arc<Trust>,
        endpoints: Vec<String>,
        probe_every: Duration,
        run: [u8; RUN_ID_LEN],
    ) -> Arc<Self> {
        let (state, _) = watch::channel(LinkState::default());
        Arc::new(Self {
            trust,
            runtime,
            target: RwLock::new(target),
            endpoints,
            probe_every,
            run,
            state,
            nudge: Notify::new(),
            succession: watch::channel(None).0,
            keeps: RwLock::new(None),
            advice: RwLock::new(None),
            handshakes: AtomicU64::new(0),
            tried: AtomicU64::new(0),
        })
    }

    /// Follows the state.
    pub fn watch(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    /// The state now.
    pub fn state(&self) -> LinkState {
        self.state.borrow().clone()
    }

    /// The channel, or the reason for there being none, for people.
    pub fn channel(&self) -> Result<Channel, String> {
        let state = self.state.borrow();
        state.channel.clone().ok_or_else(|| {
            let why = state.trouble.clone().unwrap_or_else(|| "the first connection is being made".to_owned());
            format!("the controller is not reachable: {why}")
        })
    }

    /// As `channel`, but waits for one, at most `limit`: right after the start, or after a break, there will be one soon.
    pub async fn channel_within(&self, limit: Duration) -> Result<Channel, String> {
        let mut state = self.watch();
        // Too late or ended: the reason is the state's.
        let _ = tokio::time::timeout(limit, state.wait_for(|s| s.channel.is_some())).await.is_ok();
        self.channel()
    }

    /// Follows what the controller says about what follows its key and CA.
    pub fn succession(&self) -> watch::Receiver<Option<Succession>> {
        self.succession.subscribe()
    }

    /// From now on the controller is told that the node keeps this announcement.
    pub fn keeps(&self, digest: Option<[u8; 32]>) {
        *self.keeps.write().unwrap_or_else(PoisonError::into_inner) = digest;
    }

    /// From the next connection on the controller has to prove itself to this.
    pub fn secure(&self, tls: Arc<rustls::ClientConfig>) {
        self.target.write().unwrap_or_else(PoisonError::into_inner).tls = tls;
    }

    /// What else a person should know for as long as there is no connection.
    pub fn advise(&self, advice: String) {
        *self.advice.write().unwrap_or_else(PoisonError::into_inner) = Some(advice);
    }

    /// Something changed (a handshake from the controller, a new network): probe now.
    pub fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// A stream from the controller carried something.
    pub fn heard(&self) {
        let now = self.runtime.now();
        self.state.send_modify(|s| (s.last_word, s.answered) = (Some(now), Some(now)));
    }

    /// A handshake with the controller completed. When it began it, it restarted or we roamed: see whether the connection
    /// inside still lives. When there is none, this is the moment to make it, whoever began.
    pub fn shaken(&self, theirs: bool) {
        self.handshakes.fetch_add(1, Ordering::Relaxed);
        if theirs || self.state.borrow().channel.is_none() {
            self.nudge();
        }
    }

    /// Keeps the link for as long as the program runs.
    pub async fn run(self: Arc<Self>) {
        pace::keep(&*self, &self.nudge).await;
    }

    async fn refresh_endpoints(&self) {
        let found = resolve_endpoints(&self.endpoints).await;
        if !found.is_empty() {
            self.runtime.apply(Change::Endpoints(PeerId::Node(NodeId::Controller), found));
        }
    }
}

impl Far for Link {
    type Channel = Channel;

    fn probe_every(&self) -> Duration {
        self.probe_every
    }

    fn connect(&self) -> impl Future<Output = Result<Channel, String>> + Send + 'static {
        let target = self.target.read().unwrap_or_else(PoisonError::into_inner).clone();
        async move {
            let stream = target.connect().await.map_err(|e| e.to_string())?;
            channel_over(stream).await.map_err(|e| e.to_string())
        }
    }

    async fn probe(&self, channel: &Channel) -> Result<(), String> {
        let keeps = *self.keeps.read().unwrap_or_else(PoisonError::into_inner);
        let said = rpc::probe(channel.clone(), keeps, self.run).await?;
        self.heard();
        self.succession.send_if_modified(|known| {
            let differs = *known != said;
            *known = said;
            differs
        });
        Ok(())
    }

    fn up(&self, channel: &Channel) {
        let now = self.runtime.now();
        *self.advice.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.state.send_modify(|s| {
            s.channel = Some(channel.clone());
            s.generation += 1;
            s.last_word = Some(now);
            s.trouble = None;
        });
        tracing::info!("connected to the controller");
    }

    fn down(&self, why: String) {
        tracing::warn!(%why, "the connection to the controller ended");
        self.state.send_modify(|s| {
            s.channel = None;
            s.trouble = Some(why);
        });
        self.runtime.apply(Change::ForceHandshake(PeerId::Node(NodeId::Controller)));
    }

    async fn failed(&self, why: String) {
        tracing::warn!(%why, "the controller cannot be reached");
        let advice = self.advice.read().unwrap_or_else(PoisonError::into_inner).clone();
        let trouble = advice.map_or_else(|| why.clone(), |advice| format!("{why}; {advice}"));
        self.state.send_modify(|s| s.trouble = Some(trouble));
        // A handshake since the last failure: the endpoint in use is the right one.
        let handshakes = self.handshakes.load(Ordering::Relaxed);
        if self.tried.swap(handshakes, Ordering::Relaxed) != handshakes {
            return;
        }
        self.refresh_endpoints().await;
        self.runtime.apply(Change::NextEndpoint(PeerId::Node(NodeId::Controller)));
    }
}

/// Every address that the names lead to now, in order, without repeats.
pub async fn resolve_endpoints(names: &[String]) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for name in names {
        match tokio::time::timeout(SILENCE_MAX, tokio::net::lookup_host(name.as_str())).await {
            Ok(Ok(addresses)) => {
                for address in addresses {
                    if !found.contains(&address) && found.len() < ENDPOINTS_MAX {
                        found.push(address);
                    }
                }
            }
            Ok(Err(error)) => tracing::warn!(%name, %error, "a controller's name does not resolve"),
            Err(_) => tracing::warn!(%name, "a controller's name did not resolve in time"),
        }
    }
    found
}
