//! From nothing to a running node: join with a join file, or resume with the identity on disk.

use crate::channel::Target;
use crate::enrol::{EnrolError, Enrolled, Provisional, fresh_key};
use crate::identity::{Identity, IdentityError};
use crate::keep::Keeping;
use crate::link::Link;
use crate::overlay::{Overlay, OverlayError};
use crate::runtime::{Inbox, Runtime};
use crate::successor::Trust;
use crate::tls::node_config;
use host::clock::SystemClock;
use host::offload::Steps;
use host::udp::{Udp, UdpError};
use model::key::PrivateKey;
use model::net::Prefix;
use model::pool::{CONTROL_PORT, Pool};
use model::secret::Secret;
use model::time::Clock as _;
use proto::join::JoinFile;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tunnel::{Config, Engine, Role};

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Keys on disk.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The TUN device.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// The outside socket.
    #[error(transparent)]
    Udp(#[from] UdpError),
    /// Joining.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// Entropy.
    #[error(transparent)]
    Entropy(#[from] host::entropy::EntropyError),
    /// Privileges or /dev/net/tun.
    #[error(transparent)]
    Check(#[from] host::checks::CheckError),
    /// The pool meets a local network.
    #[error(
        "the organisation's addresses {pool} overlap {local}, a network that this machine is attached to or routes to; leave that network, or ask your administrator for another pool"
    )]
    Collision {
        /// Ours.
        pool: String,
        /// Theirs.
        local: String,
    },
    /// Threads.
    #[error("the packet threads cannot be started: {0}")]
    Threads(std::io::Error),
}

/// What a program says about itself.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Client or gateway.
    pub role: Role,
    /// The TUN device's name.
    pub device: String,
    /// The outside UDP port; 0 lets the kernel choose.
    pub port: u16,
    /// Where the identity is kept.
    pub state: PathBuf,
    /// How often the control link is probed.
    pub probe_every: Duration,
    /// How long a control key is used.
    pub key_life: Duration,
    /// Which fast ways of the kernel may be used.
    pub steps: Steps,
}

/// A node whose packet path runs.
pub struct Node {
    /// Who it is.
    pub identity: Identity,
    /// Its packet path.
    pub runtime: Arc<Runtime>,
    /// What comes out of it.
    pub inbox: Inbox,
    /// Its device.
    pub overlay: Overlay,
    /// Its control link; the program runs it.
    pub link: Arc<Link>,
    /// What its keys are renewed with; the program runs it.
    pub keeping: Keeping,
}

struct Packets {
    runtime: Arc<Runtime>,
    inbox: Inbox,
    overlay: Overlay,
}

/// Joins: leaves the identity in the state folder and answers the running node and what enrolment said.
pub async fn join(setup: &Setup, file: &JoinFile, name: &str) -> Result<(Node, Enrolled), BootError> {
    join_with(setup, file, name, None).await
}

/// The same with a token of this machine's own platform.
pub async fn join_with(
    setup: &Setup,
    file: &JoinFile,
    name: &str,
    identity: Option<&Secret<String>>,
) -> Result<(Node, Enrolled), BootError> {
    let key = Arc::new(fresh_key()?);
    let packets = open_packets(setup, file.pool, Arc::clone(&key)).await?;
    let public = tunnel::keys::public_key(&key);
    let source = tunnel::address::address_of_key(&file.pool, &public);
    let controller = Prefix::host(IpAddr::V6(file.pool.controller()));
    packets.overlay.add_address(IpAddr::V6(source)).await?;
    packets.overlay.add_route(controller, Some(IpAddr::V6(source))).await?;
    let provisional = Provisional { runtime: &packets.runtime, join: file, key, source, name, identity };
    let enrolled = provisional.enrol().await?;
    enrolled.identity.save(&setup.state)?;
    packets.overlay.delete_route(controller).await?;
    packets.overlay.delete_address(IpAddr::V6(source)).await?;
    let node = finish(enrolled.identity.clone(), packets, setup).await?;
    Ok((node, enrolled))
}

/// Resumes with the identity on disk.
pub async fn resume(setup: &Setup) -> Result<Node, BootError> {
    let identity = Identity::load(&setup.state)?;
    let packets = open_packets(setup, identity.pool, Arc::clone(&identity.control_key)).await?;
    crate::keep::meet_controller(&packets.runtime, &identity).await;
    finish(identity, packets, setup).await
}

async fn open_packets(setup: &Setup, pool: Pool, key: Arc<PrivateKey>) -> Result<Packets, BootError> {
    host::checks::tun_device()?;
    host::checks::net_admin()?;
    let mut udp = Udp::bind_with(setup.port, setup.steps)?;
    udp.split();
    let (tun, overlay) = Overlay::open(&setup.device, setup.steps).await?;
    if let Some(local) = overlay.collisions(&[pool.v4(), pool.v6()]).await?.first() {
        let pool = format!("{} and {}", pool.v4(), pool.v6());
        return Err(BootError::Collision { pool, local: local.to_string() });
    }
    let pairing_key = Arc::new(fresh_key()?);
    let engine = Engine::new(Config { role: setup.role, pool, key, pairing_key, seed: host::entropy::random()? });
    let clock = Arc::new(SystemClock::new());
    let (runtime, inbox) = Runtime::start(engine, tun, udp, clock).map_err(BootError::Threads)?;
    Ok(Packets { runtime, inbox, overlay })
}

async fn finish(identity: Identity, packets: Packets, setup: &Setup) -> Result<Node, BootError> {
    let Packets { runtime, inbox, overlay } = packets;
    let own = IpAddr::V6(identity.v6);
    overlay.add_address(own).await?;
    overlay.add_route(Prefix::host(IpAddr::V6(identity.pool.controller())), Some(own)).await?;
    let svid = Arc::new(identity.svid_slot()?);
    let trusted = identity.trusted(runtime.clock.wall());
    let target = Target {
        device: overlay.name().to_owned(),
        source: identity.v6,
        address: SocketAddr::new(IpAddr::V6(identity.pool.controller()), CONTROL_PORT),
        domain: identity.trust_domain.clone(),
        tls: node_config(&trusted, Arc::clone(&svid)).map_err(IdentityError::from)?,
    };
    let link = Link::new(
        Arc::clone(&runtime),
        target,
        Arc::new(Trust::new(trusted)),
        identity.endpoints.clone(),
        setup.probe_every,
        host::entropy::random()?,
    );
    link.keeps(identity.keeps());
    let keeping = Keeping {
        folder: setup.state.clone(),
        runtime: Arc::clone(&runtime),
        link: Arc::clone(&link),
        overlay: overlay.again()?,
        svid,
        key_life: setup.key_life,
    };
    Ok(Node { identity, runtime, inbox, overlay, link, keeping })
}
