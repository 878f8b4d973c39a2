//! From nothing to a running node: join with a join file, or resume with the identity on disk.

use crate::channel::Target;
use crate::enrol::{EnrolError, Enrolled, Provisional, fresh_key};
use crate::identity::{Identity, IdentityError};
use crate::link::{Link, resolve_endpoints};
use crate::overlay::{Overlay, OverlayError};
use crate::runtime::{Inbox, Runtime};
use crate::svid::SvidKey;
use crate::tls::{SvidSlot, node_config};
use host::clock::SystemClock;
use host::udp::{Udp, UdpError};
use model::ids::NodeId;
use model::key::PrivateKey;
use model::net::Prefix;
use model::pool::{CONTROL_PORT, Pool};
use model::secret::Secret;
use model::time::Clock as _;
use proto::join::JoinFile;
use rustls::pki_types::CertificateDer;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tunnel::{Change, Config, Engine, Peer, PeerId, PeerKind, Role};

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

/// Longest pause between two looks at the clock for a certificate's sake.
const SVID_LOOK_EVERY: Duration = Duration::from_secs(5);
/// Pause after a renewal that failed, and shortest one between two renewals.
const SVID_RETRY: Duration = Duration::from_secs(2);
const SVID_RENEW_MIN: Duration = Duration::from_millis(500);

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
    /// Its certificate, replaced as it ages.
    pub svid: Arc<SvidSlot>,
}

struct Packets {
    runtime: Arc<Runtime>,
    inbox: Inbox,
    overlay: Overlay,
}

/// Joins: leaves the identity in the state folder and answers the running node and what enrolment said.
pub async fn join(setup: &Setup, file: &JoinFile, name: &str) -> Result<(Node, Enrolled), BootError> {
    let key = Arc::new(fresh_key()?);
    let packets = open_packets(setup, file.pool, Arc::clone(&key)).await?;
    let public = tunnel::keys::public_key(&key);
    let source = tunnel::address::address_of_key(&file.pool, &public);
    let controller = Prefix::host(IpAddr::V6(file.pool.controller()));
    packets.overlay.add_address(IpAddr::V6(source)).await?;
    packets.overlay.add_route(controller, Some(IpAddr::V6(source))).await?;
    let provisional = Provisional { runtime: &packets.runtime, join: file, key, source, name };
    let enrolled = provisional.enrol().await?;
    enrolled.identity.save(&setup.state)?;
    packets.overlay.delete_route(controller).await?;
    packets.overlay.delete_address(IpAddr::V6(source)).await?;
    let node = finish(enrolled.identity.clone(), packets, setup.probe_every).await?;
    Ok((node, enrolled))
}

/// Resumes with the identity on disk.
pub async fn resume(setup: &Setup) -> Result<Node, BootError> {
    let identity = Identity::load(&setup.state)?;
    let packets = open_packets(setup, identity.pool, Arc::clone(&identity.control_key)).await?;
    packets.runtime.apply(Change::AddPeer(Peer {
        id: PeerId::Node(NodeId::Controller),
        kind: PeerKind::Control,
        local: Arc::clone(&identity.control_key),
        remote: identity.controller_key,
        addresses: vec![IpAddr::V6(identity.pool.controller())],
        endpoints: resolve_endpoints(&identity.endpoints).await,
        keepalive: Some(Duration::from_secs(25)),
    }));
    finish(identity, packets, setup.probe_every).await
}

async fn open_packets(setup: &Setup, pool: Pool, key: Arc<PrivateKey>) -> Result<Packets, BootError> {
    host::checks::tun_device()?;
    host::checks::net_admin()?;
    let udp = Udp::bind(setup.port)?;
    let (tun, overlay) = Overlay::open(&setup.device).await?;
    if let Some(local) = overlay.collisions(&[pool.v4(), pool.v6()]).await?.first() {
        let pool = format!("{} and {}", pool.v4(), pool.v6());
        return Err(BootError::Collision { pool, local: local.to_string() });
    }
    let engine = Engine::new(Config { role: setup.role, pool, key, seed: host::entropy::random()? });
    let clock = Arc::new(SystemClock::new());
    let (runtime, inbox) = Runtime::start(engine, tun, udp, clock).map_err(BootError::Threads)?;
    Ok(Packets { runtime, inbox, overlay })
}

async fn finish(identity: Identity, packets: Packets, probe_every: Duration) -> Result<Node, BootError> {
    let Packets { runtime, inbox, overlay } = packets;
    let own = IpAddr::V6(identity.v6);
    overlay.add_address(own).await?;
    overlay.add_route(Prefix::host(IpAddr::V6(identity.pool.controller())), Some(own)).await?;
    let svid = Arc::new(identity.svid_slot()?);
    let target = Target {
        device: overlay.name().to_owned(),
        source: identity.v6,
        address: SocketAddr::new(IpAddr::V6(identity.pool.controller()), CONTROL_PORT),
        domain: identity.trust_domain.clone(),
        tls: node_config(&identity.ca_der(), Arc::clone(&svid)).map_err(IdentityError::from)?,
    };
    let link = Link::new(Arc::clone(&runtime), target, identity.endpoints.clone(), probe_every);
    Ok(Node { identity, runtime, inbox, overlay, link, svid })
}

/// Keeps the certificate fresh: a new key and SVID at half of the old one's life. Runs for as long as the program.
pub async fn keep_svid(mut identity: Identity, folder: PathBuf, link: Arc<Link>, slot: Arc<SvidSlot>) {
    let mut due = renewal_due(&identity);
    loop {
        // In small steps: a timer stops while the machine sleeps, a certificate does not.
        let wait = u64::try_from(due.saturating_sub(SystemClock::new().wall().0)).unwrap_or(0);
        if wait > 0 {
            tokio::time::sleep(Duration::from_millis(wait).min(SVID_LOOK_EVERY)).await;
            continue;
        }
        due = match renew_svid(&mut identity, &folder, &link, &slot).await {
            Ok(()) => renewal_due(&identity),
            Err(why) => {
                tracing::warn!(%why, "the certificate could not be renewed yet");
                SystemClock::new().wall().plus(SVID_RETRY).0
            }
        };
    }
}

/// When half of what is left is over, milliseconds since 1970: a fresh certificate is renewed at half of its life.
fn renewal_due(identity: &Identity) -> i64 {
    let leaf = identity.svid_chain.first().map(|l| CertificateDer::from(l.clone()));
    let end = leaf.and_then(|leaf| crate::svid::end_of(&leaf)).and_then(|s| i64::try_from(s).ok()).unwrap_or(0);
    let now = SystemClock::new().wall();
    let left = end.saturating_mul(1_000).saturating_sub(now.0).max(0);
    now.0.saturating_add((left / 2).max(SVID_RENEW_MIN.as_millis() as i64))
}

async fn renew_svid(identity: &mut Identity, folder: &Path, link: &Link, slot: &SvidSlot) -> Result<(), String> {
    let key = SvidKey::generate().map_err(|e| e.to_string())?;
    let csr = key.csr().map_err(|e| e.to_string())?;
    let chain = crate::rpc::renew_svid(link.channel_within(SVID_LOOK_EVERY).await?, csr).await?;
    let leaf = chain.first().ok_or("the answer holds no certificate")?;
    let facts = crate::svid::read_leaf(&identity.trust_domain, &CertificateDer::from(leaf.clone()))
        .map_err(|e| e.to_string())?;
    if facts.node != identity.node {
        return Err("the answer is for somebody else".to_owned());
    }
    slot.replace(chain.iter().map(|c| CertificateDer::from(c.clone())).collect(), &key).map_err(|e| e.to_string())?;
    identity.svid_key = Secret::new(key.pkcs8());
    identity.svid_chain = chain;
    identity.save(folder).map_err(|e| e.to_string())
}
