//! First contact, the node's side: a knock, a handshake as a provisional peer, one Enroll call.

use crate::channel::{ChannelError, Target, channel_over};
use crate::identity::Identity;
use crate::link::resolve_endpoints;
use crate::rpc::{self, Admission, Application, NotAdmitted};
use crate::runtime::Runtime;
use crate::successor::Authority;
use crate::svid::{SvidError, SvidKey, read_leaf};
use crate::tls::{EXPORTER_LABEL, TlsError, enrolling_config};
use model::ids::NodeId;
use model::key::{PrivateKey, PublicKey};
use model::packet::{Local, Train};
use model::pool::ENROL_PORT;
use model::secret::Secret;
use model::time::Clock;
use proto::join::{JoinFile, JoinKind, node_fingerprint};
use rustls::pki_types::CertificateDer;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tunnel::{Change, Peer, PeerId, PeerKind};

/// How long joining may take before it says what may be wrong.
pub const ENROL_MAX: Duration = Duration::from_secs(ENROL_SECS);
const ENROL_SECS: u64 = 30;
/// A knock that was lost is sent again.
const KNOCK_EVERY: Duration = Duration::from_secs(2);

/// Why joining failed.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// None of the join file's names resolves.
    #[error("none of the controller's names resolves ({0}); check this machine's network and DNS")]
    NoEndpoint(String),
    /// Silence, the only answer that an outsider ever gets.
    #[error(
        "the controller did not answer within {ENROL_SECS} s. It never answers strangers, so one of these holds: the join file was used, revoked or has expired, or is from before the controller's key changed (ask for a new one); UDP to {port} is blocked; the controller is down (tried {tried})"
    )]
    Silence {
        /// Every endpoint that was tried.
        tried: String,
        /// The port that may be blocked.
        port: String,
    },
    /// The far end is not the controller that the join file pins.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The controller refused.
    #[error("the controller refused to enrol this machine: {0}")]
    Refused(String),
    /// Its answer makes no sense.
    #[error("the controller's answer is not valid: {0}")]
    Answer(String),
    /// Keys.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The machine gives no random bits.
    #[error(transparent)]
    Entropy(#[from] host::entropy::EntropyError),
}

/// What a node gets from enrolment.
pub struct Enrolled {
    /// Its identity, to be saved.
    pub identity: Identity,
    /// An administrator must confirm it first.
    pub pending: bool,
    /// The service account as which it joined: nobody logs in on it.
    pub account: Option<String>,
}

/// A fresh WireGuard key.
pub fn fresh_key() -> Result<PrivateKey, host::entropy::EntropyError> {
    host::entropy::random::<32>().map(Secret::new)
}

/// Knocks at every endpoint, to have `key` admitted.
pub(crate) fn knock(
    runtime: &Runtime,
    secret: &Secret<[u8; 32]>,
    controller: &PublicKey,
    key: &PublicKey,
    endpoints: &[SocketAddr],
) -> Result<(), host::entropy::EntropyError> {
    for endpoint in endpoints {
        let wall = runtime.clock.wall();
        let bytes = tunnel::knock::build(secret, controller, wall, key, host::entropy::random()?);
        runtime.send_raw(Train::datagram(*endpoint, Local::default(), bytes.to_vec()));
    }
    Ok(())
}

/// What only the two ends of this connection know (RFC 8446 section 7.5).
pub(crate) fn exporter(stream: &TlsStream<TcpStream>) -> Result<[u8; 32], TlsError> {
    let exporter = stream.get_ref().1.export_keying_material([0u8; 32], EXPORTER_LABEL, None);
    exporter.map_err(|e| TlsError::Setup(e.to_string()))
}

/// Where this machine stands while it enrols.
pub struct Provisional<'a> {
    /// The packet path; its engine holds `key` as its control key.
    pub runtime: &'a Arc<Runtime>,
    /// The join file.
    pub join: &'a JoinFile,
    /// Our fresh control key.
    pub key: Arc<PrivateKey>,
    /// Our provisional overlay address, already on the TUN device.
    pub source: Ipv6Addr,
    /// What this machine calls itself.
    pub name: &'a str,
    /// A token of its own platform, where the join file needs one.
    pub identity: Option<&'a Secret<String>>,
}

impl Provisional<'_> {
    /// Knocks, shakes hands and enrols; gives up after [`ENROL_MAX`].
    pub async fn enrol(&self) -> Result<Enrolled, EnrolError> {
        let names = self.join.endpoints.clone();
        let mut endpoints = resolve_endpoints(&names).await;
        if endpoints.is_empty() {
            return Err(EnrolError::NoEndpoint(names.join(", ")));
        }
        let (_, _) = self.runtime.apply(Change::AddPeer(self.controller_peer(endpoints.clone())));
        let authority = Authority { key: self.join.controller_key, ca: self.join.ca.clone() };
        let target = Target {
            device: self.runtime.tun.name().to_owned(),
            source: self.source,
            address: SocketAddr::new(IpAddr::V6(self.join.pool.controller()), ENROL_PORT),
            domain: self.join.trust_domain.clone(),
            tls: enrolling_config(&[authority])?,
        };
        let svid_key = SvidKey::generate()?;
        let attempt = async {
            loop {
                self.knock(&endpoints)?;
                // One that fails is tried again with a fresh knock: the datagram may have been lost.
                match tokio::time::timeout(KNOCK_EVERY, target.connect()).await {
                    Ok(Ok(stream)) => break Ok::<_, EnrolError>(stream),
                    Ok(Err(error @ ChannelError::Identity(_))) => return Err(error.into()),
                    Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(200)).await,
                    Err(_) => {}
                }
                // The names may have led astray: they are asked for anew.
                let found = resolve_endpoints(&names).await;
                if !found.is_empty() && found != endpoints {
                    endpoints = found;
                    self.runtime.apply(Change::Endpoints(PeerId::Node(NodeId::Controller), endpoints.clone()));
                }
                self.runtime.apply(Change::NextEndpoint(PeerId::Node(NodeId::Controller)));
            }
        };
        let stream = match tokio::time::timeout(ENROL_MAX, attempt).await {
            Ok(found) => found?,
            Err(_) => return Err(self.silence(&endpoints)),
        };
        let exporter = exporter(&stream)?;
        let recovery = Secret::new(host::entropy::random::<32>()?);
        let application = Application {
            token: tunnel::knock::enrol_token(&self.join.secret).expose().to_vec(),
            kind: self.join.kind,
            name: self.name.to_owned(),
            csr: svid_key.csr()?,
            proof: svid_key.sign(&exporter)?,
            recovery: recovery.expose().to_vec(),
            identity_token: self.identity.map(|token| token.expose().clone()).unwrap_or_default(),
        };
        let channel = channel_over(stream).await?;
        match tokio::time::timeout(ENROL_MAX, rpc::enroll(channel, application)).await {
            Ok(Ok(admission)) => self.accept(admission, &svid_key, recovery),
            Ok(Err(NotAdmitted::Refused(why))) => Err(EnrolError::Refused(why)),
            Ok(Err(NotAdmitted::Answer(why))) => Err(EnrolError::Answer(why)),
            Err(_) => Err(self.silence(&endpoints)),
        }
    }

    fn silence(&self, endpoints: &[SocketAddr]) -> EnrolError {
        let tried: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
        let port = endpoints.first().map_or_else(|| "its port".to_owned(), |e| format!("port {}", e.port()));
        EnrolError::Silence { tried: tried.join(", "), port }
    }

    fn controller_peer(&self, endpoints: Vec<SocketAddr>) -> Peer {
        Peer {
            id: PeerId::Node(NodeId::Controller),
            kind: PeerKind::Control,
            local: Arc::clone(&self.key),
            remote: self.join.controller_key,
            addresses: vec![IpAddr::V6(self.join.pool.controller())],
            endpoints,
            keepalive: Some(Duration::from_secs(25)),
        }
    }

    fn knock(&self, endpoints: &[SocketAddr]) -> Result<(), EnrolError> {
        let public = tunnel::keys::public_key(&self.key);
        knock(self.runtime, &self.join.secret, &self.join.controller_key, &public, endpoints)?;
        Ok(())
    }

    fn accept(&self, reply: Admission, svid_key: &SvidKey, recovery: Secret<[u8; 32]>) -> Result<Enrolled, EnrolError> {
        let answer = |e: &dyn std::fmt::Display| EnrolError::Answer(e.to_string());
        let leaf = reply.chain.first().ok_or_else(|| answer(&"it has no certificate"))?;
        let facts = read_leaf(&self.join.trust_domain, &CertificateDer::from(leaf.clone()))?;
        let kind_holds = match facts.node {
            NodeId::Device(_) => self.join.kind == JoinKind::Device,
            NodeId::Gateway(_) => self.join.kind == JoinKind::Gateway,
            NodeId::Controller => false,
        };
        if !kind_holds || facts.node.to_string() != reply.node {
            return Err(answer(&"the certificate is for somebody else"));
        }
        let Admission { v6, v4, .. } = reply;
        if v6 != tunnel::address::address_of_node(&self.join.pool, &facts.node) {
            return Err(answer(&"the overlay address is not this node's"));
        }
        if v4.is_some_and(|v4| !self.join.pool.is_device_v4(v4)) {
            return Err(answer(&"the IPv4 address is not of the pool"));
        }
        // Of our own keys: a controller that enrolled others in our name would be seen here.
        let fingerprint = node_fingerprint(&tunnel::keys::public_key(&self.key), &svid_key.public_key_info());
        if reply.fingerprint != fingerprint {
            return Err(answer(&"it names the fingerprint of other keys"));
        }
        Ok(Enrolled {
            identity: Identity {
                trust_domain: self.join.trust_domain.clone(),
                node: facts.node,
                controller_key: self.join.controller_key,
                endpoints: self.join.endpoints.clone(),
                ca: self.join.ca.clone(),
                next: None,
                former: None,
                pool: self.join.pool,
                control_key: Arc::clone(&self.key),
                control_key_since: self.runtime.clock.wall(),
                next_control_key: None,
                recovery: Arc::new(recovery),
                svid_key: Secret::new(svid_key.pkcs8()),
                svid_chain: reply.chain,
                v6,
                v4,
                zones: self.join.zones.clone(),
                prefixes: self.join.prefixes.clone(),
                fingerprint,
            },
            pending: reply.pending,
            account: reply.account,
        })
    }
}
