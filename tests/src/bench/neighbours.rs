//! The other people at a gateway: thousands of live tunnels that are no part of what is measured.
//!
//! They are real: some devices join and log in, each asks the controller for many resources with a data key of its own for each,
//! and every tunnel that the controller offers is opened at the gateway and kept alive, all of them from one socket.

use crate::attacker::join_file;
use anyhow::{Context as _, bail, ensure};
use host::clock::SystemClock;
use host::offload::Steps;
use host::udp::Udp;
use model::ids::PairingId;
use model::key::{PrivateKey, Psk, PublicKey};
use model::limits::{KEY_LIFE, PROBE_EVERY};
use model::net::Prefix;
use model::packet::{Local, Train};
use model::time::Clock as _;
use node::boot::{self, Setup};
use proto::convert::array;
use proto::v1;
use proto::v1::connect_reply::Result as Outcome;
use proto::v1::devices_client::DevicesClient;
use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tunnel::peers::Bounds;
use tunnel::wire::Boring;
use tunnel::{Change, Config, Engine, Event, Out, Peer, PeerId, PeerKind, Role};

/// Questions of one device that are under way.
const AT_ONCE: usize = 16;
/// A tunnel is alive while something comes through it.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Until then all tunnels are open.
const OPEN_MAX: Duration = Duration::from_secs(120);
/// How long the controller may take until a device is connected to it.
const LINK_MAX: Duration = Duration::from_secs(20);
/// The longest wait for a datagram.
const WAIT: Duration = Duration::from_millis(100);
/// Tunnels that are opened in one go: a gateway shakes hands with so many at once without asking for cookies.
const BURST: usize = 50;

/// How the neighbours are called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A join file for each device
    joins: Vec<PathBuf>,
    /// As whom they log in
    #[arg(long)]
    user: String,
    #[arg(long)]
    password_file: PathBuf,
    /// The ids of what each of them asks for, one a line
    #[arg(long)]
    resources: PathBuf,
    /// Where the devices keep their state
    #[arg(long, default_value = "/var/lib/umbra")]
    state: PathBuf,
}

/// The far end of a tunnel, and our key of it.
struct Offer {
    pairing: PairingId,
    key: Arc<PrivateKey>,
    gateway: PublicKey,
    endpoint: SocketAddr,
    psk: Psk,
}

/// Opens the tunnels, says `N tunnels are open`, and keeps them until the process ends.
pub fn keep(arguments: &Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let password = std::fs::read_to_string(&arguments.password_file)?;
    let resources = std::fs::read_to_string(&arguments.resources)?;
    let resources: Vec<String> = resources.lines().map(str::to_owned).collect();
    let mut crowd = Crowd::new()?;
    for (number, join) in arguments.joins.iter().enumerate() {
        let device = format!("other{number}");
        let asked = ask(&arguments.state, &device, join, (&arguments.user, password.trim_end()), &resources);
        for some in runtime.block_on(asked)?.chunks(BURST) {
            crowd.open(some)?;
        }
    }
    writeln!(io::stdout(), "{} tunnels are open", crowd.open.len())?;
    loop {
        crowd.turn()?;
    }
}

/// One device joins, logs in, asks for everything, and is not connected any more.
async fn ask(
    folder: &Path,
    device: &str,
    join: &Path,
    (user, password): (&str, &str),
    resources: &[String],
) -> anyhow::Result<Vec<Offer>> {
    let setup = Setup {
        role: Role::Client,
        device: device.to_owned(),
        port: 0,
        state: folder.join(device),
        probe_every: PROBE_EVERY,
        key_life: KEY_LIFE,
        steps: Steps::ONE_BY_ONE,
    };
    std::fs::DirBuilder::new().mode(0o700).recursive(true).create(&setup.state)?;
    let file = join_file(join)?;
    let (node, enrolled) = boot::join(&setup, &file, device).await?;
    ensure!(!enrolled.pending, "{device} waits for confirmation");
    let running = tokio::spawn(Arc::clone(&node.link).run());
    let mut link = node.link.watch();
    // What is seen of the link holds it fast until it is let go.
    let channel = {
        let seen = tokio::time::timeout(LINK_MAX, link.wait_for(|state| state.channel.is_some())).await??;
        seen.channel.clone().context("no channel")?
    };
    let login = v1::LoginRequest { user: user.to_owned(), password: password.to_owned() };
    DevicesClient::new(channel.clone()).login(login).await?;
    let mut offers = Vec::new();
    for some in resources.chunks(AT_ONCE) {
        let mut asked: JoinSet<_> = some.iter().map(|resource| connect(channel.clone(), resource.clone())).collect();
        while let Some(offer) = asked.join_next().await {
            offers.push(offer??);
        }
    }
    running.abort();
    // The next device has the same way to the controller.
    node.overlay.delete_route(Prefix::host(IpAddr::V6(node.identity.pool.controller()))).await?;
    node.overlay.delete_address(IpAddr::V6(node.identity.v6)).await?;
    Ok(offers)
}

/// One resource, through a tunnel of its own.
async fn connect(channel: Channel, resource: String) -> anyhow::Result<Offer> {
    let key = Arc::new(node::enrol::fresh_key()?);
    let question = v1::ConnectRequest {
        resource,
        data_key: tunnel::keys::public_key(&key).0.to_vec(),
        pairings: Vec::new(),
        avoid_gateways: Vec::new(),
        moves: String::new(),
    };
    let reply = DevicesClient::new(channel).connect(question).await?.into_inner();
    let permit = match reply.result.context("an empty answer")? {
        Outcome::Permit(permit) => permit,
        Outcome::Deny(deny) => bail!("denied: {}", deny.reasons.join("; ")),
    };
    let offer = permit.offer.context("no tunnel was offered")?;
    Ok(Offer {
        pairing: permit.pairing.parse()?,
        key,
        gateway: PublicKey(array("gateway_key", &offer.gateway_key)?),
        endpoint: offer.endpoints.into_iter().next().context("no endpoint")?.try_into()?,
        psk: Psk::new(array("psk", &offer.psk)?),
    })
}

/// All tunnels.
struct Crowd {
    engine: Engine,
    udp: Udp,
    clock: SystemClock,
    train: Train,
    out: Out,
    open: BTreeSet<PeerId>,
}

impl Crowd {
    fn new() -> anyhow::Result<Self> {
        let config = Config {
            role: Role::Client,
            pool: model::pool::Pool::new("10.78.0.0/16".parse()?, "fd12:3456:789a::/48".parse()?)?,
            key: Arc::new(node::enrol::fresh_key()?),
            pairing_key: Arc::new(node::enrol::fresh_key()?),
            seed: host::entropy::random()?,
        };
        // They are many clients, each of which has few keys.
        let bounds = Bounds { data_keys: usize::MAX, ..Bounds::default() };
        let udp = Udp::bind_with(0, Steps::ALL)?;
        udp.set_recv_timeout(Some(WAIT))?;
        Ok(Self {
            engine: Engine::with(config, Arc::new(Boring::default()), bounds),
            udp,
            clock: SystemClock::new(),
            train: Train::datagram(([0, 0, 0, 0], 0).into(), Local::default(), Vec::new()),
            out: Out::default(),
            open: BTreeSet::new(),
        })
    }

    /// These too, before this returns.
    fn open(&mut self, offers: &[Offer]) -> anyhow::Result<()> {
        for offer in offers {
            let id = PeerId::Pairing(offer.pairing);
            let peer = Peer {
                id,
                kind: PeerKind::Pairing(offer.psk.clone()),
                local: Arc::clone(&offer.key),
                remote: offer.gateway,
                addresses: Vec::new(),
                endpoints: vec![offer.endpoint],
                keepalive: Some(KEEPALIVE),
            };
            for change in [Change::AddPeer(peer), Change::ForceHandshake(id)] {
                self.engine.apply(self.clock.now(), change, &mut self.out);
            }
        }
        let wanted = self.open.len() + offers.len();
        let until = self.clock.now().plus(OPEN_MAX);
        while self.open.len() < wanted {
            self.turn()?;
            ensure!(self.clock.now() < until, "{} of {wanted} tunnels are open", self.open.len());
        }
        Ok(())
    }

    /// Sends what is to be sent, takes what comes.
    fn turn(&mut self) -> anyhow::Result<()> {
        self.engine.tick(self.clock.now(), &mut self.out);
        self.flush();
        match self.udp.recv(&mut self.train) {
            Ok(()) => self.engine.from_udp(self.clock.now(), &mut self.train, &mut self.out),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        self.flush();
        Ok(())
    }

    fn flush(&mut self) {
        self.udp.send(&self.out.udp);
        let opened = self.out.events.iter().filter_map(|event| match event {
            Event::Handshake { peer, .. } => Some(*peer),
            _ => None,
        });
        self.open.extend(opened);
        self.out.clear();
    }
}
