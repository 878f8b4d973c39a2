//! The controller's side of the network: its one UDP port, the peers it admits, knocks, and the two gRPC listeners
//! inside the overlay.

use crate::administrator::People;
use crate::arrange::Arrangements;
use crate::authority::Pair;
use crate::directory::encode;
use crate::directory::{Account, Device, Directory, Gateway, JoinKey, JoinKeyState, NodeState, Recovery, Trust};
use crate::federation::Federation;
use crate::fetch::SystemResolver;
use crate::guise::Guises;
use crate::organisation::Organisation;
use crate::refused::{Reason, Refused};
use crate::rpc::accept::{self, Connections};
use crate::rpc::admin::AdminRpc;
use crate::rpc::devices::DevicesRpc;
use crate::rpc::enroll::EnrolmentRpc;
use crate::rpc::gateways::GatewaysRpc;
use crate::rpc::nodes::NodesRpc;
use crate::store::{Commit, Record};
use crate::turnover;
use host::nft;
use host::offload::Steps;
use model::ids::NodeId;
use model::key::{PrivateKey, PublicKey};
use model::limits::{LAST_WORDS, PROVISIONAL_LIFE, PROVISIONAL_MAX, RPC_MESSAGE_MAX};
use model::pool::{CONTROL_PORT, ENROL_PORT, Pool};
use model::secret::Secret;
use model::time::{Instant, WallMs};
use node::dark::Wish;
use node::overlay::{Overlay, OverlayError};
use node::runtime::{Inbox, Runtime};
use proto::admin::admin_server::AdminServer;
use proto::v1::devices_server::DevicesServer;
use proto::v1::enrolment_server::EnrolmentServer;
use proto::v1::gateways_server::GatewaysServer;
use proto::v1::nodes_server::NodesServer;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Notify;
use tonic::service::Routes;
use tunnel::knock::{Knocker, Knocks};
use tunnel::{Change, Config, Engine, Event, Peer, PeerId, PeerKind, Role};

/// Whose firewall tables these are.
pub const PROGRAM: &str = "controller";
/// How often join keys are looked at whose time is over: no change of the store tells of that.
const KEYS_EVERY: Duration = Duration::from_secs(1);
/// How long the kernel may take to make a fresh address usable.
const BIND_MAX: Duration = Duration::from_secs(3);
const BACKLOG: u32 = 1_024;

/// What the controller does outside.
#[derive(Debug, Clone)]
pub struct FrontOptions {
    /// The TUN device's name.
    pub device: String,
    /// The UDP port.
    pub port: u16,
    /// Which fast ways of the kernel may be used.
    pub steps: Steps,
    /// Answer nothing at all outside.
    pub dark: bool,
    /// With `dark`: what stays open.
    pub allow_in: Vec<nft::AllowIn>,
    /// With `dark`: also where it shuts SSH out while somebody uses it.
    pub cut_ssh: bool,
}

/// Why the network side does not start.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// Privileges or /dev/net/tun.
    #[error(transparent)]
    Check(#[from] host::checks::CheckError),
    /// The UDP port.
    #[error(transparent)]
    Udp(#[from] host::udp::UdpError),
    /// The TUN device.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// The firewall.
    #[error(transparent)]
    Nft(#[from] nft::NftError),
    /// The pool meets a local network.
    #[error(
        "the organisation's addresses overlap {0}, a network that this machine is attached to or routes to; leave that network, or make the organisation anew with another --pool"
    )]
    Collision(model::net::Prefix),
    /// The listeners inside the overlay.
    #[error("the overlay address {0} cannot be listened on: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// TLS.
    #[error("{0}")]
    Tls(String),
    /// Threads.
    #[error("the packet threads cannot be started: {0}")]
    Threads(std::io::Error),
    /// Entropy.
    #[error(transparent)]
    Entropy(#[from] host::entropy::EntropyError),
}

/// Where a node was last heard from, so that a restarted controller can call it back at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastEndpoint {
    /// The outside address.
    pub endpoint: SocketAddr,
    /// Our key that it used.
    #[serde(default, with = "encode::next_key", skip_serializing_if = "Option::is_none")]
    pub key: Option<PublicKey>,
}
impl Record for LastEndpoint {
    const KIND: &'static str = "endpoint";
    type Id = str;
}

/// Machines that knocked, by the overlay address that their key hashes to.
pub struct Newcomers {
    runtime: Arc<Runtime>,
    knocks: Mutex<Knocks>,
    refused: Arc<Refused>,
    known: Mutex<BTreeMap<Ipv6Addr, (PublicKey, Knocker, Instant)>>,
    /// A tunnel was replaced by one under other keys: what follows it now has to be told anew.
    replaced: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Newcomers {
    /// Whose key the address hashes to, and with whose secret it knocked; none after [`PROVISIONAL_LIFE`].
    pub fn find(&self, address: Ipv6Addr) -> Option<(PublicKey, Knocker)> {
        let now = self.runtime.now();
        let known = lock(&self.known);
        known.get(&address).filter(|(_, _, until)| *until > now).map(|(key, knocker, _)| (*key, *knocker))
    }

    /// It has enrolled: the same tunnel is a node's control tunnel now. Its next handshake may be minutes away, so where it
    /// is is kept here: a controller that restarts before must be able to call it back, too.
    pub async fn promote(&self, organisation: &Organisation, key: &PublicKey, node: NodeId, address: Ipv6Addr) {
        self.runtime.apply(Change::Promote { key: *key, node, address });
        lock(&self.knocks).gone(key);
        if let Some(endpoint) = self.runtime.engine.peer(&PeerId::Node(node)).and_then(|status| status.endpoint) {
            keep_endpoint(organisation, node, LastEndpoint { endpoint, key: self.key_of(node) }).await;
        }
        self.replaced.notify_one();
    }

    /// Our key that a node's tunnel uses.
    fn key_of(&self, node: NodeId) -> Option<PublicKey> {
        self.runtime.engine.keys(&PeerId::Node(node)).map(|(local, _)| local)
    }

    /// A stranger knocked, under this key of ours.
    fn admit(&self, organisation: &Organisation, pool: &Pool, bytes: &[u8], from: SocketAddr, local: &PublicKey) {
        let held = organisation.keyring.held();
        let Some(pair) = held.by_age().into_iter().find(|pair| pair.public.key == *local) else { return };
        let (now, wall) = (self.runtime.now(), organisation.wall());
        let (knocker, key) = match lock(&self.knocks).open(now, wall, bytes) {
            Ok(opened) => opened,
            Err(why) => {
                tracing::debug!(%from, %why, "a knock was not followed");
                self.refused.count(Reason::from(&why));
                return;
            }
        };
        let address = tunnel::address::address_of_key(pool, &key);
        {
            let mut known = lock(&self.known);
            known.retain(|_, (_, _, until)| *until > now);
            if known.len() >= PROVISIONAL_MAX {
                self.refused.count(Reason::KnockFull);
                return;
            }
            known.insert(address, (key, knocker, now.plus(PROVISIONAL_LIFE)));
        }
        tracing::info!(%from, %knocker, key = key.short(), "a machine knocked");
        self.runtime.apply(Change::AddPeer(Peer {
            id: PeerId::Provisional(key),
            kind: PeerKind::Provisional,
            local: Arc::clone(&pair.key),
            remote: key,
            addresses: vec![IpAddr::V6(address)],
            endpoints: Vec::new(),
            keepalive: None,
        }));
    }
}

/// Everything outside, running.
pub struct Front {
    organisation: Organisation,
    runtime: Arc<Runtime>,
    newcomers: Arc<Newcomers>,
    overlay: Overlay,
    pool: Pool,
    domain: String,
}

impl Front {
    /// Opens the device, the socket and the firewall; admits every enrolled node.
    pub async fn open(organisation: Organisation, options: &FrontOptions) -> Result<(Self, Inbox), FrontError> {
        host::checks::tun_device()?;
        host::checks::net_admin()?;
        let org = organisation.org().map_err(|e| FrontError::Tls(e.to_string()))?;
        let pool = org.pool;
        let mut udp = host::udp::Udp::bind_with(options.port, options.steps)?;
        udp.split();
        let overlay_nets = vec![pool.v4(), pool.v6()];
        // Before there is an address: what must not be seen outside is guarded first.
        let (tun, overlay, untracked_port) = (options.device.clone(), overlay_nets.clone(), Some(udp.local_port()));
        nft::Guard { program: PROGRAM.into(), tun, overlay, untracked_port }.apply().await?;
        let (tun, overlay) = Overlay::open(&options.device, options.steps).await?;
        if let Some(local) = overlay.collisions(&overlay_nets).await?.first() {
            return Err(FrontError::Collision(*local));
        }
        if options.dark {
            let (tun, udp_port) = (options.device.clone(), udp.local_port());
            let (allow_in, cut_ssh) = (options.allow_in.clone(), options.cut_ssh);
            node::dark::enter(Wish { program: PROGRAM, tun, udp_port, allow_in, cut_ssh }).await?;
        } else {
            nft::remove_dark(PROGRAM).await?;
        }
        overlay.add_address(IpAddr::V6(pool.controller())).await?;
        for net in [pool.node_net(), pool.provisional_net()] {
            overlay.add_route(net, Some(IpAddr::V6(pool.controller()))).await?;
        }
        let held = organisation.keyring.held();
        let key = Arc::clone(&held.used.key);
        // A controller has no pairings.
        let pairing_key = Arc::clone(&key);
        let config = Config { role: Role::Controller, pool, key, pairing_key, seed: host::entropy::random()? };
        // One clock for all: grants and packets speak of the same moments.
        let clock = Arc::new(host::clock::SystemClock::new());
        let (runtime, inbox) = Runtime::start(Engine::new(config), tun, udp, clock).map_err(FrontError::Threads)?;
        let knocks = Mutex::new(Knocks::new(organisation.wall()));
        let (known, replaced) = (Mutex::default(), Notify::new());
        let newcomers = Arc::new(Newcomers {
            runtime: Arc::clone(&runtime),
            knocks,
            refused: Arc::clone(&organisation.refused),
            known,
            replaced,
        });
        let domain = org.trust_domain.to_string();
        Ok((Self { organisation, runtime, newcomers, overlay, pool, domain }, inbox))
    }

    /// The packet path.
    pub const fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    /// Serves until the program ends. Follows the directory: nodes and join keys come and go.
    pub async fn serve(
        self,
        inbox: Inbox,
        arrangements: Arc<Arrangements>,
        connections: Arc<Connections>,
        admin: AdminRpc,
    ) -> Result<(), FrontError> {
        let Self { organisation, runtime, newcomers, overlay, pool, domain } = self;
        let guises = Guises::new(&organisation, Arc::clone(&runtime.engine));
        let guises = Arc::new(guises.map_err(|e| FrontError::Tls(e.to_string()))?);
        let control = listen(&overlay, pool.controller(), CONTROL_PORT).await?;
        let enrol = listen(&overlay, pool.controller(), ENROL_PORT).await?;

        let devices = DevicesServer::new(DevicesRpc::new(organisation.clone(), Arc::clone(&arrangements)))
            .max_decoding_message_size(64 << 10)
            .max_encoding_message_size(RPC_MESSAGE_MAX);
        let denies = Arc::clone(&arrangements);
        let gateways = GatewaysServer::new(GatewaysRpc::new(arrangements, Arc::clone(&runtime), &organisation))
            .max_decoding_message_size(RPC_MESSAGE_MAX)
            .max_encoding_message_size(usize::MAX >> 1);
        let nodes = NodesServer::new(NodesRpc::new(organisation.clone())).max_decoding_message_size(64 << 10);
        let federation = Federation::new(Arc::new(SystemResolver));
        let enrolment = EnrolmentRpc::new(organisation.clone(), Arc::clone(&newcomers), denies, federation);
        let enrolment = EnrolmentServer::new(enrolment).max_decoding_message_size(model::limits::ENROL_BYTES_MAX);
        // For persons with a role; whoever has none gets no message of theirs read.
        let admin = AdminServer::new(admin)
            .max_decoding_message_size(RPC_MESSAGE_MAX)
            .max_encoding_message_size(RPC_MESSAGE_MAX);
        let routes = Routes::new(devices).add_service(gateways).add_service(nodes).add_service(admin).prepare();
        let served = (routes, People::new(organisation.clone()));
        let refused = Arc::clone(&connections.refused);
        tokio::spawn(accept::serve_control(control, Arc::clone(&guises), domain, pool, connections, served));
        let enrolment = Routes::new(enrolment).prepare();
        tokio::spawn(accept::serve_enrolment(enrol, Arc::clone(&guises), Arc::clone(&newcomers), refused, enrolment));
        tokio::spawn(guises.keep_forever(organisation.clone()));
        tokio::spawn(follow_events(organisation.clone(), Arc::clone(&newcomers), pool, inbox));
        follow_directory(organisation, newcomers, overlay).await;
        Ok(())
    }
}

/// A listener that only packets out of the TUN can reach: bound to the device, not just to the address.
async fn listen(overlay: &Overlay, address: Ipv6Addr, port: u16) -> Result<TcpListener, FrontError> {
    let address = SocketAddr::new(IpAddr::V6(address), port);
    let failed = |e| FrontError::Listen(address, e);
    let deadline = tokio::time::Instant::now() + BIND_MAX;
    loop {
        let socket = TcpSocket::new_v6().map_err(failed)?;
        socket.set_reuseaddr(true).map_err(failed)?;
        socket.bind_device(Some(overlay.name().as_bytes())).map_err(failed)?;
        match socket.bind(address) {
            Ok(()) => return socket.listen(BACKLOG).map_err(failed),
            // The kernel makes a fresh address usable a moment after it took it.
            Err(e) if e.kind() == std::io::ErrorKind::AddrNotAvailable && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(e) => return Err(failed(e)),
        }
    }
}

async fn follow_events(organisation: Organisation, newcomers: Arc<Newcomers>, pool: Pool, mut inbox: Inbox) {
    let mut heard: BTreeMap<NodeId, LastEndpoint> = BTreeMap::new();
    while let Some(event) = inbox.events.recv().await {
        match event {
            Event::Knock { bytes, from, local } => newcomers.admit(&organisation, &pool, &bytes, from, &local),
            Event::Handshake { peer: PeerId::Node(node), endpoint, .. } => {
                let last = LastEndpoint { endpoint, key: newcomers.key_of(node) };
                if heard.insert(node, last.clone()).as_ref() != Some(&last) {
                    keep_endpoint(&organisation, node, last).await;
                }
            }
            Event::Succeeded { peer: PeerId::Node(node), remote } => {
                newcomers.replaced.notify_one();
                let status = newcomers.runtime.engine.peer(&PeerId::Node(node));
                if let Some(endpoint) = status.and_then(|status| status.endpoint) {
                    let last = LastEndpoint { endpoint, key: newcomers.key_of(node) };
                    heard.insert(node, last.clone());
                    keep_endpoint(&organisation, node, last).await;
                }
                if let Err(error) = turnover::used(&organisation, node, remote).await {
                    tracing::warn!(%error, %node, "that a node uses its next key could not be written down; it will be at its next start");
                }
            }
            _ => {}
        }
    }
}

async fn keep_endpoint(organisation: &Organisation, node: NodeId, last: LastEndpoint) {
    let commit = Commit::default().put_record(node.to_string().as_str(), &last);
    let kept = match commit {
        Ok(commit) => organisation.store.commit(commit).await.map(|_| ()),
        Err(error) => Err(error),
    };
    if let Err(error) = kept {
        tracing::warn!(%error, %node, "where a node is could not be kept");
    }
}

async fn last_endpoint(organisation: &Organisation, node: NodeId) -> Option<LastEndpoint> {
    let key = crate::store::Key::of(LastEndpoint::KIND, node).ok()?;
    let item = organisation.store.get(&key).await.ok()??;
    serde_json::from_slice::<LastEndpoint>(&item.value).ok()
}

/// A node that may have a tunnel.
struct Admitted {
    key: PublicKey,
    next_key: Option<PublicKey>,
    address: Ipv6Addr,
}

fn admitted(directory: &Directory) -> BTreeMap<NodeId, Admitted> {
    let devices = directory.devices.values().map(|d| &d.record).filter(|d| d.state != NodeState::Revoked);
    let devices =
        devices.map(|d| (NodeId::Device(d.id), Admitted { key: d.key, next_key: d.next_key, address: d.address }));
    let gateways = directory.gateways.values().map(|g| &g.record).filter(|g| g.state != NodeState::Revoked);
    let gateways =
        gateways.map(|g| (NodeId::Gateway(g.id), Admitted { key: g.key, next_key: g.next_key, address: g.address }));
    devices.chain(gateways).collect()
}

/// Keeps the engine's peers and the knocks equal to the directory. It holds the overlay: the device lives as long.
async fn follow_directory(organisation: Organisation, newcomers: Arc<Newcomers>, overlay: Overlay) {
    let mut reader = organisation.directory.clone();
    // Who has a tunnel, and whether others may follow it.
    let mut peers: BTreeMap<NodeId, bool> = BTreeMap::new();
    let mut keys: BTreeSet<Knocker> = BTreeSet::new();
    let mut directory = organisation.now();
    let mut heads = None;
    let mut authorities = organisation.keyring.watch();
    let mut anew = true;
    loop {
        if std::mem::take(&mut anew) {
            let keys = organisation.keyring.held().by_age().iter().map(|pair| Arc::clone(&pair.key)).collect();
            newcomers.runtime.apply(Change::ControlKeys(keys));
            heads = None;
        }
        let kinds = [Device::KIND, Gateway::KIND, JoinKey::KIND, Recovery::KIND, Trust::KIND, Account::KIND];
        let now = kinds.map(|s| directory.head(s));
        if heads != Some(now) {
            heads = Some(now);
            follow_nodes(&organisation, &newcomers.runtime, &directory, &mut peers).await;
            follow_keys(&organisation, &newcomers, &directory, &mut keys);
        }
        let next = tokio::select! {
            next = reader.next() => Some(next),
            _ = authorities.changed() => {
                anew = true;
                continue;
            }
            () = newcomers.replaced.notified() => {
                heads = None;
                continue;
            }
            () = tokio::time::sleep(KEYS_EVERY) => None,
        };
        match next {
            Some(Some(fresh)) => directory = fresh,
            Some(None) => break,
            None => {
                let wall = organisation.wall();
                let lives = |knocker: &Knocker| match knocker {
                    Knocker::JoinKey(id) => {
                        directory.join_keys.find(id).is_some_and(|k| opens(&k.record, wall))
                            || directory.trusts.find(id).is_some_and(|t| lets_in(&directory, &t.record))
                    }
                    Knocker::Node(_) => true,
                };
                forget_keys(&newcomers, &mut keys, lives);
            }
        }
    }
    tracing::error!(device = overlay.name(), "the store was closed; no further change is followed");
}

async fn follow_nodes(
    organisation: &Organisation,
    runtime: &Arc<Runtime>,
    directory: &Directory,
    peers: &mut BTreeMap<NodeId, bool>,
) {
    let wanted = admitted(directory);
    let gone: Vec<NodeId> = peers.keys().filter(|node| !wanted.contains_key(node)).copied().collect();
    if !gone.is_empty() {
        peers.retain(|node, _| wanted.contains_key(node));
        let runtime = Arc::clone(runtime);
        tokio::spawn(async move {
            tokio::time::sleep(LAST_WORDS).await;
            for node in gone {
                runtime.apply(Change::RemovePeer(PeerId::Node(node)));
            }
        });
    }
    let held = organisation.keyring.held();
    let pairs = held.by_age();
    let (Some(oldest), Some(newest)) = (pairs.first(), pairs.last()) else { return };
    for (node, admitted) in wanted {
        let id = PeerId::Node(node);
        let used = runtime.engine.keys(&id).map(|(local, _)| local);
        let known = |key: Option<PublicKey>| pairs.iter().find(|pair| Some(pair.public.key) == key);
        let mut pair = known(used);
        if pair.is_none() {
            // After a restart, or the key that it used is gone by now. Who was not heard since it knew of another uses the oldest.
            let last = last_endpoint(organisation, node).await;
            let local =
                known(last.as_ref().and_then(|last| last.key)).unwrap_or(if used.is_some() { newest } else { oldest });
            meet(runtime, id, local, &admitted, last.map(|last| last.endpoint));
            pair = Some(local);
        }
        if let Some(pair) = pair {
            let keys = following(runtime, id, [pair, newest], &admitted);
            let followed = peers.insert(node, !keys.is_empty());
            // The same again changes nothing.
            if followed == Some(true) || !keys.is_empty() {
                runtime.apply(Change::Successors { id, keys });
            }
        }
    }
}

/// A node that is to have a tunnel, under this key of ours.
fn meet(runtime: &Runtime, id: PeerId, pair: &Pair, admitted: &Admitted, endpoint: Option<SocketAddr>) {
    runtime.apply(Change::AddPeer(Peer {
        id,
        kind: PeerKind::Control,
        local: Arc::clone(&pair.key),
        remote: admitted.key,
        addresses: vec![IpAddr::V6(admitted.address)],
        endpoints: endpoint.into_iter().collect(),
        keepalive: None,
    }));
    if endpoint.is_some() {
        // After a restart: call it back, so that it notices at once.
        runtime.apply(Change::ForceHandshake(id));
    }
}

/// The pairs of keys to which a node may change from the ones that its tunnel uses: to a later one of ours, to its own next one.
fn following(
    runtime: &Runtime,
    id: PeerId,
    ours: [&Pair; 2],
    admitted: &Admitted,
) -> Vec<(Arc<PrivateKey>, PublicKey)> {
    let in_use = runtime.engine.keys(&id);
    // One that was used already is not followed by the one before it.
    let begun = in_use.is_some_and(|(_, remote)| Some(remote) == admitted.next_key);
    let theirs: Vec<PublicKey> = (!begun).then_some(admitted.key).into_iter().chain(admitted.next_key).collect();
    let mut keys: Vec<(Arc<PrivateKey>, PublicKey)> = Vec::new();
    let mut seen: BTreeSet<(PublicKey, PublicKey)> = in_use.into_iter().collect();
    for pair in ours {
        for remote in &theirs {
            if seen.insert((pair.public.key, *remote)) {
                keys.push((Arc::clone(&pair.key), *remote));
            }
        }
    }
    keys
}

/// A used key still opens a repeated request of its own nodes.
fn opens(key: &JoinKey, wall: WallMs) -> bool {
    matches!(key.state(wall), JoinKeyState::Usable | JoinKeyState::Used)
}

/// A rule that lets nobody in is not there for strangers either.
fn lets_in(directory: &Directory, trust: &Trust) -> bool {
    !trust.restored && directory.accounts.find(&trust.account).is_some_and(|account| !account.record.disabled)
}

/// The secrets whose knocks are heard.
fn usable_keys(organisation: &Organisation, directory: &Directory) -> BTreeSet<Knocker> {
    let wall = organisation.wall();
    let join_keys = directory.join_keys.values().map(|k| &k.record).filter(|k| opens(k, wall));
    let join_keys = join_keys.map(|k| Knocker::JoinKey(k.id));
    let trusts = directory.trusts.values().map(|t| &t.record).filter(|t| lets_in(directory, t));
    let join_keys = join_keys.chain(trusts.map(|t| Knocker::JoinKey(t.id)));
    let known = |node: &NodeId| directory.recoveries.find(&node.to_string()).is_some();
    let nodes = admitted(directory).into_keys().filter(known).map(Knocker::Node);
    join_keys.chain(nodes).collect()
}

/// K_knock of one of them.
fn knock_key(organisation: &Organisation, directory: &Directory, knocker: Knocker) -> Option<Secret<[u8; 32]>> {
    match knocker {
        Knocker::JoinKey(id) if directory.trusts.find(&id).is_some() => {
            let secret = directory.trust_secrets.find(&id)?.record.open(&organisation.sealer, id).ok()?;
            Some(tunnel::knock::knock_key(&secret))
        }
        Knocker::JoinKey(id) => {
            let sealed = &directory.join_keys.find(&id)?.record.knock;
            let key = organisation.sealer.open(&JoinKey::place(id), sealed).ok()?;
            <[u8; 32]>::try_from(key.expose().as_slice()).ok().map(Secret::new)
        }
        Knocker::Node(node) => {
            let held = directory.recoveries.find(&node.to_string())?;
            held.record.open(&organisation.sealer, node).ok().map(|opened| opened.knock)
        }
    }
}

fn forget_keys(newcomers: &Newcomers, keys: &mut BTreeSet<Knocker>, lives: impl Fn(&Knocker) -> bool) {
    let mut knocks = lock(&newcomers.knocks);
    keys.retain(|knocker| {
        let lives = lives(knocker);
        if !lives {
            knocks.remove(knocker);
        }
        lives
    });
}

fn follow_keys(
    organisation: &Organisation,
    newcomers: &Newcomers,
    directory: &Directory,
    keys: &mut BTreeSet<Knocker>,
) {
    let wanted = usable_keys(organisation, directory);
    forget_keys(newcomers, keys, |knocker| wanted.contains(knocker));
    for id in wanted {
        if keys.contains(&id) {
            continue;
        }
        let Some(key) = knock_key(organisation, directory, id) else {
            tracing::error!(%id, "a secret for knocks cannot be read; revoke what it belongs to");
            continue;
        };
        if lock(&newcomers.knocks).add(id, key) {
            keys.insert(id);
        } else {
            tracing::warn!(%id, "too many secrets are alive: knocks with this one are not heard; revoke join keys");
        }
    }
}

#[cfg(test)]
mod tests;
