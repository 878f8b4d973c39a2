//! The running gateway: joins or resumes, sets the host's firewall and forwarding, and puts everything back on exit.

use crate::cli::Up;
use crate::firewalls;
use crate::gate::{Gate, Place, Status};
use crate::leftovers;
use crate::reach::Reach;
use crate::witness::Keeper;
use anyhow::{Context as _, Result, anyhow, bail};
use grant::verified::Scope;
use host::forwarding::Forwarding;
use host::netlink::{Holder, hold_blackholes};
use host::nft;
use host::privilege::Left;
use host::{entropy, keyfile};
use model::ids::NodeId;
use model::net::Prefix;
use model::pool::{NatPool, Pool};
use model::time::Clock as _;
use node::boot::{self, Node, Setup};
use node::cli::input::agree;
use node::cli::{ADMIN_GROUP, Output};
use node::dark::Wish;
use node::seen::Seen;
use node::{Identity, Manager, Runtime};
use proto::join::{JoinFile, JoinKind};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio_stream::StreamExt as _;
use tonic::transport::server::Connected as _;

/// Whose firewall tables these are.
pub const PROGRAM: &str = "gateway";
/// How long a command may take to read its answer.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Runs until it is told to stop.
pub async fn run(options: &Up, output: &mut Output) -> Result<()> {
    // First: who is told to stop from here on puts everything back.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut manager = Manager::start(PROGRAM)?;
    // A start that fails undoes what it finds; that of one that runs is not to be touched.
    leftovers::refuse_if_alive(&options.socket).await.map_err(|failure| anyhow!(failure.text))?;
    keyfile::create_folder(&options.state)?;
    let setup = Setup {
        role: tunnel::Role::Gateway,
        device: options.device.clone(),
        steps: options.offload,
        port: options.port,
        state: options.state.clone(),
        probe_every: options.probe_every,
        key_life: options.key_life,
    };
    let prepared = tokio::select! {
        prepared = prepare(options, &setup, output) => Some(prepared),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    let (node, nat) = match prepared {
        Some(Ok(prepared)) => prepared,
        None => {
            forget_shield(options).await;
            return Ok(());
        }
        Some(Err(error)) => {
            forget_shield(options).await;
            return Err(error);
        }
    };
    // Joined, and all that takes more is open; what is left puts the host back, too.
    let result = match node::confine(Left::default()) {
        Ok(()) => serve(options, node, nat, &mut manager, [&mut terminate, &mut interrupt]).await,
        Err(error) => Err(error.into()),
    };
    for what in leftovers::clear(&options.state, false).await.failed {
        tracing::error!(what, "not all could be put back");
    }
    result
}

async fn prepare(options: &Up, setup: &Setup, output: &mut Output) -> Result<(Node, NatPool)> {
    let node = start(options, setup, output).await?;
    let NodeId::Gateway(id) = node.identity.node else {
        bail!("the identity in {} is no gateway's", options.state.display())
    };
    let nat = nat_pool(options.nat_v4, id.as_bytes())?;
    if let Some(local) = node.overlay.collisions(&[nat.v4, nat.v6]).await?.first() {
        bail!("the NAT pool {} overlaps {local}, a network of this host; choose another with --nat-v4", nat.v4);
    }
    take_host(options, &node, nat).await?;
    Ok((node, nat))
}

/// A start that failed leaves nothing behind, also nothing of a predecessor that was killed; only a gateway that has joined stays
/// dark.
async fn forget_shield(options: &Up) {
    let dark = Identity::load(&options.state).is_err();
    for what in leftovers::clear(&options.state, dark).await.failed {
        tracing::debug!(what, "not all could be put back");
    }
}

async fn start(options: &Up, setup: &Setup, output: &mut Output) -> Result<Node> {
    if let Some(path) = &options.join {
        if Identity::load(&options.state).is_ok() {
            tracing::info!("this gateway has joined already; the join file is not used");
        } else {
            let text = keyfile::read(path, model::limits::JOIN_BYTES_MAX)
                .with_context(|| format!("the join file {}", path.display()))?;
            let wall = host::clock::SystemClock::new().wall();
            let text = std::str::from_utf8(text.expose()).context("the join file is no text")?;
            let file = JoinFile::parse(text, JoinKind::Gateway, wall)?;
            confirm(options, &file)?;
            shield(options, file.pool, None).await?;
            let (node, enrolled) = boot::join(setup, &file, &options.name).await?;
            let Identity { node: name, fingerprint, .. } = &node.identity;
            tracing::info!(%fingerprint, pending = enrolled.pending, "joined");
            say(output, &format!("joined as {name}; fingerprint {fingerprint}"))?;
            if enrolled.pending {
                say(output, "waiting for an administrator: umbra-controller gateway confirm")?;
            }
            return Ok(node);
        }
    }
    let identity = Identity::load(&options.state)?;
    let nat = match identity.node {
        NodeId::Gateway(id) => Some(nat_pool(options.nat_v4, id.as_bytes())?),
        _ => None,
    };
    shield(options, identity.pool, nat).await?;
    Ok(boot::resume(setup).await?)
}

/// Before there is a device, an address or a socket: what must not be seen outside is guarded first, and a dark gateway
/// is dark while it joins, too. The NAT pools follow from the gateway's id, which is not known before it has joined.
async fn shield(options: &Up, pool: Pool, nat: Option<NatPool>) -> Result<()> {
    stand_beneath(pool, nat).await?;
    guard(options, pool, &options.device, options.port).await
}

/// The tables that guard the host itself. A `udp_port` of 0 is one that the kernel has not chosen yet.
async fn guard(options: &Up, pool: Pool, tun: &str, udp_port: u16) -> Result<()> {
    let tun = tun.to_owned();
    let overlay = vec![pool.v4(), pool.v6()];
    let untracked_port = Some(udp_port).filter(|port| *port != 0);
    nft::Guard { program: PROGRAM.into(), tun: tun.clone(), overlay, untracked_port }.apply().await?;
    if options.dark {
        let (allow_in, cut_ssh) = (options.allow_in.clone(), options.cut_ssh);
        node::dark::enter(Wish { program: PROGRAM, tun, udp_port, allow_in, cut_ssh }).await?;
    }
    Ok(())
}

/// Replies to grants' addresses and what is for the overlay go nowhere while there is no TUN.
async fn stand_beneath(pool: Pool, nat: Option<NatPool>) -> Result<()> {
    let nat = nat.iter().flat_map(|nat| [nat.v4, nat.v6]);
    let held: Vec<Prefix> = [pool.v4(), pool.v6()].into_iter().chain(nat).collect();
    Ok(hold_blackholes(Holder::Gateway, &held).await?)
}

/// One line for a person; a gateway whose output nobody takes does not start.
fn say(output: &mut Output, text: &str) -> Result<()> {
    output.line(text).map_err(|failure| anyhow!(failure.text))
}

fn confirm(options: &Up, file: &JoinFile) -> Result<()> {
    let question = format!("join {} (fingerprint {})?", file.trust_domain, file.fingerprint());
    if options.yes || agree(&question).map_err(|failure| anyhow!(failure.text))? {
        Ok(())
    } else {
        bail!("not joined: you did not confirm the organisation")
    }
}

/// IPv4 as configured; IPv6 a ULA /48 from the gateway's random id, so that it is the same at every start.
fn nat_pool(v4: Prefix, id: &[u8; model::ids::ID_LEN]) -> Result<NatPool> {
    let mut bytes = [0u8; 16];
    let fd = std::iter::once(&0xfd).chain(id.iter().take(5));
    bytes.iter_mut().zip(fd).for_each(|(to, from)| *to = *from);
    let v6 = Prefix::new(IpAddr::V6(Ipv6Addr::from(bytes)), 48)?;
    if v4.bits() < 12 || v4.bits() > 24 || !v4.address().is_ipv4() {
        bail!("--nat-v4 must be an IPv4 prefix of /12 to /24, not {v4}");
    }
    Ok(NatPool { v4, v6 })
}

async fn take_host(options: &Up, node: &Node, nat: NatPool) -> Result<()> {
    let tun = node.overlay.name().to_owned();
    let pool = node.identity.pool;
    stand_beneath(pool, Some(nat)).await?;
    let udp_port = node.runtime.udp.local_port();
    guard(options, pool, &tun, udp_port).await?;
    nft::Gateway { program: PROGRAM.into(), tun, nat_pools: vec![nat.v4, nat.v6], udp_port }.apply().await?;
    if !options.dark {
        nft::remove_dark(PROGRAM).await?;
    }
    let file = leftovers::forwarding_file(&options.state);
    // After a kill forwarding is still on: what was there first is in the file, and was before anything was changed.
    if leftovers::forwarding_before(&file).is_none() {
        keyfile::replace(&file, Forwarding::now()?.to_line().as_bytes())?;
    }
    Forwarding::enable()?;
    node.overlay.add_route(nat.v4, None).await?;
    node.overlay.add_route(nat.v6, None).await?;
    Ok(())
}

async fn serve(options: &Up, node: Node, nat: NatPool, manager: &mut Manager, stop: [&mut Signal; 2]) -> Result<()> {
    let seen = Seen::load(&options.state)?;
    let witness = Keeper::load(&options.state, Arc::clone(&node.link.trust))?;
    let scope = Scope { pool: node.identity.pool, nat, site: Vec::new(), own: Vec::new() };
    let boot = u64::from_be_bytes(entropy::random()?);
    let Node { identity, runtime, inbox, overlay, link, keeping } = node;
    let (counting, living) = (Arc::clone(&runtime), Arc::clone(&runtime));
    let reach = Reach { named: options.endpoints.clone(), controllers: identity.endpoints.clone(), port: options.port };
    let place = Place {
        runtime,
        link: Arc::clone(&link),
        overlay,
        identity: identity.clone(),
        endpoints: reach.follow().await,
        renew_every: options.probe_every,
    };
    let watched = firewalls::Options { program: PROGRAM, tun: options.device.clone(), except: options.pass_firewalls };
    let firewalls = firewalls::watch(watched);
    let gate = Gate::new(place, (seen, witness), scope, boot)?;
    let status = gate.status();
    tokio::spawn(Arc::clone(&link).run());
    tokio::spawn(node::keep::keep(identity, keeping));
    let (end, ended) = oneshot::channel();
    let gate = tokio::spawn(gate.run(inbox.events, ended));
    tokio::spawn(answer_status(options.socket.clone(), status, firewalls, counting));
    manager.ready("starting", move || std::future::ready(living.is_alive()));
    manager.follow(&link);
    let [terminate, interrupt] = stop;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    manager.farewell()();
    if end.send(()).is_ok() {
        // A task that failed has said so.
        let _ = gate.await;
    }
    Ok(())
}

/// The local socket: one JSON document for each connection of root or group `umbra`.
async fn answer_status(
    path: std::path::PathBuf,
    status: watch::Receiver<Status>,
    firewalls: watch::Receiver<Vec<String>>,
    counting: Arc<Runtime>,
) {
    let listener = match node::local::bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, "`umbra-gateway status` will not work");
            return;
        }
    };
    let (accepting, mut incoming) =
        node::local::accept(listener, |peer| host::local::may_administer(peer, ADMIN_GROUP));
    let answering = async {
        while let Some(connection) = incoming.next().await {
            let Ok(mut connection) = connection else { continue };
            if !connection.connect_info() {
                continue;
            }
            let counted = counting.engine.drops().into_iter().filter(|(_, count)| *count > 0);
            let drops = counted.map(|(reason, count)| (reason.to_owned(), count)).collect();
            let firewalls = firewalls.borrow().clone();
            let without = counting.without();
            let status = Status { drops, firewalls, without, ..status.borrow().clone() };
            let document = serde_json::to_vec(&status).unwrap_or_default();
            // Who does not read its answer has lost it.
            let _ = tokio::time::timeout(ANSWER_MAX, connection.write_all(&document)).await;
        }
    };
    tokio::join!(accepting, answering);
}
