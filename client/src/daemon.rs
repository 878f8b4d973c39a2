//! `umbra daemon`: idle until this machine is told to be up; joins or resumes, sets firewall, routes and names, and puts
//! everything back.
//!
//! The packet threads live as long as the process, so that nothing waits for them in the packet path. To be idle again, the
//! daemon undoes what it did and executes itself anew: the device goes with the old image, and the process id stays.

use crate::agent::{Agent, Order, Parts, Reply};
use crate::cli::DaemonArgs;
use crate::dns::{self, Asker, Takeover};
use crate::guardian::{self, Guardian};
use crate::held::Held;
use crate::local::{self, Desk};
use crate::names::{Names, Zone};
use crate::workload_api;
use anyhow::{Context as _, Result, bail};
use host::netlink::{Holder, add_blackholes, remove_blackholes};
use host::privilege::Left;
use host::{keyfile, nft, ssh};
use model::ids::NodeId;
use model::limits::STREAM_QUEUE_MAX;
use model::secret::Secret;
use model::time::Clock as _;
use node::boot::{self, BootError, Node, Setup};
use node::dark::Wish;
use node::identity::{Identity, IdentityError};
use node::seen::Seen;
use node::{Link, Manager, Runtime};
use proto::join::{JoinFile, JoinKind};
use proto::local as wire;
use std::fmt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

/// Whose firewall tables these are.
pub const PROGRAM: &str = "client";
/// There while this machine is told to be down.
const DOWN_FILE: &str = "down";
/// Tells the next image of this process why it is idle.
const TROUBLE: &str = "UMBRA_CLIENT_TROUBLE";
/// Tells the next image where SSH is served: it may not look into other processes any more.
const SSH_PORTS: &str = "UMBRA_CLIENT_SSH_PORTS";
/// Ports up to here take a privilege, and a client opens its own again each time that it comes up.
const LOW_PORT_MAX: u16 = 1023;
/// How often a start that failed is tried again: another network may be there.
const RETRY: Duration = Duration::from_secs(30);
/// How long answers that are under way may take before the process starts anew.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the daemon is at.
#[derive(Clone)]
pub enum Front {
    /// Nothing: not joined, told to be down, or in trouble.
    Idle {
        /// The organisation that this machine has joined.
        organisation: Option<String>,
        /// Why it is not up although it should be.
        trouble: Option<String>,
    },
    /// On the way up.
    Joining,
    /// Up; orders go there.
    Up(mpsc::Sender<Order>),
}

impl fmt::Display for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle { trouble: Some(why), .. } => write!(f, "this machine is not connected: {why}"),
            Self::Idle { organisation: Some(_), .. } => f.write_str("this machine is down: `umbra up`"),
            Self::Idle { .. } => f.write_str(
                "this machine has not joined an organisation: `umbra up --join FILE`, with a file from your administrator",
            ),
            Self::Joining => f.write_str("this machine is just coming up: try again in a moment"),
            Self::Up(_) => f.write_str("this machine is up"),
        }
    }
}

impl Front {
    /// What `status` says of it.
    pub fn status(&self) -> wire::StatusReply {
        let (state, organisation, trouble) = match self {
            Self::Idle { organisation, trouble } => ("idle", organisation.clone(), trouble.clone()),
            Self::Joining => ("joining", None, None),
            Self::Up(_) => ("up", None, None),
        };
        wire::StatusReply {
            state: state.to_owned(),
            trouble: trouble.unwrap_or_default(),
            organisation: organisation.unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..wire::StatusReply::default()
        }
    }
}

/// What changes what the daemon is at.
pub enum Command {
    /// Come up.
    Up(wire::UpRequest, Reply<wire::UpReply>),
    /// Go down.
    Down(Reply<wire::DownReply>),
}

/// How the daemon ends.
enum End {
    /// It was told to stop.
    Exit,
    /// It is to be idle, with this trouble.
    Anew(Option<String>),
}

/// What this machine joins with.
struct Joining {
    file: JoinFile,
    name: String,
    identity: Option<Secret<String>>,
}

impl Joining {
    fn of(file: JoinFile, request: wire::UpRequest) -> Self {
        let identity = (!request.identity_token.is_empty()).then(|| Secret::new(request.identity_token));
        Self { file, name: request.name, identity }
    }
}

struct Daemon<'a> {
    options: &'a DaemonArgs,
    front: watch::Sender<Front>,
    commands: mpsc::Receiver<Command>,
    terminate: Signal,
    interrupt: Signal,
    manager: Manager,
    /// The packet path that has to get on, while there is one.
    living: watch::Sender<Option<Arc<Runtime>>>,
}

/// What runs while this machine is up.
struct Running {
    orders: mpsc::Sender<Order>,
    agent: tokio::task::JoinHandle<()>,
    answer: wire::UpReply,
    guardian: Option<Guardian>,
    runtime: Arc<Runtime>,
    link: Arc<Link>,
    identities: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Names are as they were: nobody is to stand in for us.
    async fn stand_down(&mut self) {
        if let Some(guardian) = self.guardian.take() {
            guardian.stand_down().await;
        }
    }

    /// Answers `up` when the controller does, for what a person does next needs it.
    fn answer(&self, reply: Reply<wire::UpReply>, answer: wire::UpReply) {
        let orders = self.orders.clone();
        tokio::spawn(async move {
            let (arrived, answered) = oneshot::channel();
            let _ = orders.send(Order::Arrive(arrived)).await;
            let arrived = answered.await.unwrap_or_else(|_| Err("it was told to go down".to_owned()));
            let _ = reply.send(arrived.map(|()| answer).map_err(|why| {
                Status::unavailable(format!(
                    "this machine is up and goes on trying, but {why}; `umbra status` tells when it is connected"
                ))
            }));
        });
    }
}

/// Runs until it is told to stop.
pub async fn run(options: &DaemonArgs) -> Result<()> {
    // First: who is told to stop from here on puts everything back.
    let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let manager = Manager::start(PROGRAM)?;
    keyfile::create_folder(&options.state)?;
    let listener = node::local::bind(&options.socket)?;
    confine(options)?;
    tracing::info!(socket = %options.socket.display(), "the daemon runs");
    let (front, front_seen) = watch::channel(Front::Idle { organisation: None, trouble: None });
    let (commands, commands_in) = mpsc::channel(STREAM_QUEUE_MAX);
    let (stop, stopped) = oneshot::channel::<()>();
    let desk = Desk { commands, front: front_seen };
    let serving = tokio::spawn(local::serve(listener, desk, async {
        let _ = stopped.await;
    }));
    let living = watch::Sender::new(None);
    let mut daemon = Daemon { options, front, commands: commands_in, terminate, interrupt, manager, living };
    daemon.ready();
    let end = daemon.run().await;
    let Daemon { mut terminate, mut interrupt, commands, front, .. } = daemon;
    drop((commands, front));
    let _ = stop.send(());
    // Answers that are under way reach their commands; then the socket's file goes.
    let abort = serving.abort_handle();
    if tokio::time::timeout(FAREWELL, serving).await.is_err() {
        abort.abort();
        tokio::task::yield_now().await;
    }
    // Who told this image to stop meanwhile must not meet the next one.
    tokio::task::yield_now().await;
    let stop = tokio::select! {
        biased;
        _ = terminate.recv() => true,
        _ = interrupt.recv() => true,
        () = std::future::ready(()) => false,
    };
    match end? {
        End::Exit => Ok(()),
        End::Anew(_) if stop => Ok(()),
        End::Anew(trouble) => bail!("this program could not execute itself anew: {}", execute(trouble)),
    }
}

/// From the beginning, before it is up: it comes up, and goes down, with what is left. What it executes is itself.
fn confine(options: &DaemonArgs) -> Result<()> {
    let before = std::env::var(SSH_PORTS).unwrap_or_default();
    ssh::remember(before.split(',').filter_map(|port| port.parse().ok()).chain(ssh::server_ports()));
    let low_ports = (1..=LOW_PORT_MAX).contains(&options.port);
    Ok(node::confine(Left { execute: true, low_ports, ..Left::default() })?)
}

/// Notes in the state folder that this machine is to be down.
pub fn set_down(state: &Path) -> Result<()> {
    Ok(keyfile::replace(&state.join(DOWN_FILE), b"`umbra up` removes this file\n")?)
}

/// Replaces this process's image by a fresh one; comes back only with an error.
fn execute(trouble: Option<String>) -> std::io::Error {
    let mut arguments = std::env::args_os();
    let mut command = std::process::Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let ports: Vec<String> = ssh::remembered().iter().map(ToString::to_string).collect();
    command.args(arguments).env_remove(TROUBLE).env(SSH_PORTS, ports.join(","));
    if let Some(trouble) = trouble {
        command.env(TROUBLE, trouble.replace('\0', " "));
    }
    command.exec()
}

impl Daemon<'_> {
    /// It takes orders, whether it is up or not.
    fn ready(&mut self) {
        let living = self.living.subscribe();
        let alive = move || std::future::ready(living.borrow().as_ref().is_none_or(|runtime| runtime.is_alive()));
        self.manager.ready("down", alive);
    }

    async fn run(&mut self) -> Result<End> {
        let mut trouble = std::env::var(TROUBLE).ok().filter(|t| !t.is_empty());
        self.tidy(trouble.is_none()).await;
        loop {
            let organisation = self.organisation()?;
            let wanted = organisation.is_some() && !self.down_file().exists();
            self.front.send_replace(Front::Idle { organisation: organisation.clone(), trouble: trouble.clone() });
            if wanted && trouble.is_none() {
                return self.up(None, None).await;
            }
            let retry = tokio::time::sleep(if wanted { RETRY } else { Duration::MAX });
            tokio::select! {
                _ = self.terminate.recv() => return Ok(End::Exit),
                _ = self.interrupt.recv() => return Ok(End::Exit),
                () = retry => trouble = None,
                command = self.commands.recv() => match command {
                    None => return Ok(End::Exit),
                    Some(Command::Down(reply)) => {
                        self.set_down(true)?;
                        let _ = reply.send(Ok(wire::DownReply { was_up: false }));
                        trouble = None;
                    }
                    Some(Command::Up(request, reply)) => match self.read(&request, organisation.as_deref()) {
                        Ok(file) => return self.up(file.map(|f| Joining::of(f, request)), Some(reply)).await,
                        Err(status) => drop(reply.send(Err(status))),
                    },
                },
            }
        }
    }

    /// Undoes what a killed program of ours left. Its blackhole routes and resolv.conf stay if this machine comes up again
    /// at once: nothing may leave in the clear in between.
    async fn tidy(&self, untroubled: bool) {
        guardian::dismiss(&self.options.state, &self.options.device).await;
        if let Err(error) = nft::remove(PROGRAM).await {
            tracing::debug!(%error, "no firewall tables could be removed");
        }
        if untroubled && !self.down_file().exists() && Identity::load(&self.options.state).is_ok() {
            return;
        }
        if let Err(error) = nft::remove_held(PROGRAM).await {
            tracing::debug!(%error, "no firewall table could be removed");
        }
        if let Err(error) = remove_blackholes(Holder::Client).await {
            tracing::debug!(%error, "no blackhole routes could be removed");
        }
        dns::restore(&self.options.resolv_conf, &self.options.state);
    }

    fn organisation(&self) -> Result<Option<String>> {
        match Identity::load(&self.options.state) {
            Ok(identity) => Ok(Some(identity.trust_domain)),
            Err(IdentityError::NotJoined) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn down_file(&self) -> PathBuf {
        self.options.state.join(DOWN_FILE)
    }

    fn set_down(&self, down: bool) -> Result<()> {
        let file = self.down_file();
        if down {
            return set_down(&self.options.state);
        }
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", file.display()))
            }
            _ => Ok(()),
        }
    }

    /// The join file of a request, checked before anything is touched.
    fn read(&self, request: &wire::UpRequest, organisation: Option<&str>) -> Result<Option<JoinFile>, Status> {
        let wall = host::clock::SystemClock::new().wall();
        if request.join_file.is_empty() {
            return match organisation {
                Some(_) => Ok(None),
                None => Err(Status::failed_precondition(IdentityError::NotJoined.to_string())),
            };
        }
        let file = JoinFile::parse(&request.join_file, JoinKind::Device, wall)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        crate::cli::token_fits(file.needs_token, !request.identity_token.is_empty())
            .map_err(Status::invalid_argument)?;
        match organisation {
            None => Ok(Some(file)),
            Some(name) => Err(Status::failed_precondition(format!(
                "this machine has joined {name} already: `umbra up` connects it; to join another organisation, `umbra down` and move {} away",
                self.options.state.display()
            ))),
        }
    }

    /// Comes up, stays up, and goes down again.
    async fn up(&mut self, join: Option<Joining>, mut reply: Option<Reply<wire::UpReply>>) -> Result<End> {
        self.front.send_replace(Front::Joining);
        let started = tokio::select! {
            started = start(self.options, join) => Some(started),
            _ = self.terminate.recv() => None,
            _ = self.interrupt.recv() => None,
        };
        let running = match started {
            Some(Ok(running)) => running,
            None => {
                self.undo().await;
                if let Some(reply) = reply.take() {
                    let _ = reply.send(Err(Status::aborted("the daemon was told to stop")));
                }
                return Ok(End::Exit);
            }
            Some(Err(error)) => {
                let why = format!("{error:#}");
                tracing::error!(%why, "this machine did not come up");
                self.undo().await;
                let joined = self.organisation()?.is_some();
                if let Some(reply) = reply.take() {
                    let _ = reply.send(Err(Status::aborted(why.clone())));
                }
                return Ok(End::Anew(Some(why).filter(|_| joined)));
            }
        };
        self.set_down(false)?;
        self.living.send_replace(Some(Arc::clone(&running.runtime)));
        self.manager.follow(&running.link);
        self.front.send_replace(Front::Up(running.orders.clone()));
        if let Some(reply) = reply {
            running.answer(reply, running.answer.clone());
        }
        self.stay(running).await
    }

    async fn stay(&mut self, mut running: Running) -> Result<End> {
        loop {
            let (end, reply) = tokio::select! {
                _ = self.terminate.recv() => (End::Exit, None),
                _ = self.interrupt.recv() => (End::Exit, None),
                _ = &mut running.agent => {
                    running.stand_down().await;
                    self.undo().await;
                    return Ok(End::Anew(Some("a defect ended the client; it starts again".to_owned())));
                }
                command = self.commands.recv() => match command {
                    None => (End::Exit, None),
                    Some(Command::Down(reply)) => (End::Anew(None), Some(reply)),
                    Some(Command::Up(request, reply)) => {
                        match self.again(&request, &running.answer) {
                            Ok(answer) => running.answer(reply, answer),
                            Err(status) => drop(reply.send(Err(status))),
                        }
                        continue;
                    }
                },
            };
            tracing::info!("going down");
            if matches!(end, End::Exit) {
                self.manager.farewell()();
            }
            self.front.send_replace(Front::Joining);
            // The socket's file goes with it.
            running.identities.abort();
            let _ = running.orders.send(Order::Stop).await;
            let _ = (&mut running.agent).await;
            running.stand_down().await;
            self.undo().await;
            if let Some(reply) = reply {
                self.set_down(true)?;
                let _ = reply.send(Ok(wire::DownReply { was_up: true }));
            }
            return Ok(end);
        }
    }

    /// `up` while it is up.
    fn again(&self, request: &wire::UpRequest, answer: &wire::UpReply) -> Result<wire::UpReply, Status> {
        self.read(request, Some(&answer.organisation))?;
        Ok(wire::UpReply { joined: false, fingerprint: String::new(), account: String::new(), ..answer.clone() })
    }

    async fn undo(&self) {
        dns::restore(&self.options.resolv_conf, &self.options.state);
        let removed = [nft::remove(PROGRAM).await, nft::remove_held(PROGRAM).await, nft::remove_dark(PROGRAM).await];
        for result in removed {
            if let Err(error) = result {
                tracing::warn!(%error, "the firewall tables could not be removed");
            }
        }
        if let Err(error) = remove_blackholes(Holder::Client).await {
            tracing::warn!(%error, "the blackhole routes could not be removed");
        }
    }
}

async fn start(options: &DaemonArgs, join: Option<Joining>) -> Result<Running> {
    let setup = Setup {
        role: tunnel::Role::Client,
        device: options.device.clone(),
        steps: options.offload,
        port: options.port,
        state: options.state.clone(),
        probe_every: options.probe_every,
        key_life: options.key_life,
    };
    let (node, enrolled) = match join {
        Some(Joining { file, name, identity }) => {
            let (node, enrolled) = boot::join_with(&setup, &file, &name, identity.as_ref()).await?;
            (node, Some(enrolled))
        }
        None => (resume(&setup).await?, None),
    };
    let NodeId::Device(_) = node.identity.node else {
        bail!("the identity in {} is no device's", options.state.display())
    };
    let answer = wire::UpReply {
        organisation: node.identity.trust_domain.clone(),
        device: node.identity.node.to_string(),
        joined: enrolled.is_some(),
        pending: enrolled.as_ref().is_some_and(|e| e.pending),
        account: enrolled.as_ref().and_then(|e| e.account.clone()).unwrap_or_default(),
        fingerprint: enrolled.map(|e| e.identity.fingerprint).unwrap_or_default(),
    };
    guard(options, &node).await?;
    serve(options, node, answer).await
}

async fn resume(setup: &Setup) -> Result<Node, BootError> {
    boot::resume(setup).await
}

/// The firewall, before the first address is set.
async fn guard(options: &DaemonArgs, node: &Node) -> Result<()> {
    let tun = node.overlay.name().to_owned();
    let pool = node.identity.pool;
    // Beside those that a killed client left: the agent knows which of them still are to be.
    add_blackholes(Holder::Client, &[pool.v4(), pool.v6()]).await?;
    // Tracked: another firewall on this machine lets answers of gateways in by their connection.
    let (overlay, untracked_port) = (vec![pool.v4(), pool.v6()], None);
    nft::Guard { program: PROGRAM.into(), tun: tun.clone(), overlay, untracked_port }.apply().await?;
    nft::Client { program: PROGRAM.into(), tun: tun.clone() }.apply().await?;
    if options.dark {
        let (udp_port, allow_in) = (node.runtime.udp.local_port(), options.allow_in.clone());
        let cut_ssh = options.cut_ssh;
        node::dark::enter(Wish { program: PROGRAM, tun, udp_port, allow_in, cut_ssh }).await?;
    } else {
        nft::remove_dark(PROGRAM).await?;
    }
    Ok(())
}

async fn serve(options: &DaemonArgs, node: Node, answer: wire::UpReply) -> Result<Running> {
    let seen = Seen::load(&options.state)?;
    let Node { identity, runtime, inbox, overlay, link, keeping } = node;
    let (orders, orders_in) = mpsc::channel(STREAM_QUEUE_MAX);
    let held = Held::load(&options.state);
    let zone = Zone::held(identity.pool, &held).without(&identity.endpoints);
    let names = Arc::new(Names::new(zone, Asker(orders.clone())));
    let takeover = (!options.no_dns).then(|| Takeover::new(&options.resolv_conf, &options.state, &identity.pool));
    // Before resolv.conf is ours.
    let guardian = (!options.no_dns).then(|| Guardian::start(options));
    tokio::spawn(Arc::clone(&link).run());
    tokio::spawn(node::keep::keep(identity.clone(), keeping));
    let state = options.state.clone();
    let (workload, is_workload) = watch::channel(false);
    let parts = Parts {
        runtime: Arc::clone(&runtime),
        link: Arc::clone(&link),
        overlay,
        identity,
        seen,
        held,
        state,
        names: Arc::clone(&names),
        takeover,
        key_life: options.key_life,
        workload,
    };
    let agent = Agent::new(parts).await?;
    let writing = Arc::clone(&runtime);
    let resolving = names.run(inbox.local, move |frame| writing.write_local(&frame));
    tokio::spawn(async move {
        if let Err(error) = resolving.await {
            tracing::error!(%error, "the resolver ended");
        }
    });
    let agent = tokio::spawn(agent.run(inbox.events, orders_in));
    let identities = tokio::spawn(workload_api::run(workload_api::Parts {
        path: options.workload_socket.clone(),
        link: Arc::clone(&link),
        workload: is_workload,
        clock: Arc::new(host::clock::SystemClock::new()),
    }));
    Ok(Running { orders, agent, answer, guardian, runtime, link, identities })
}
