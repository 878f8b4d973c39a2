//! Does our packet path get on with other WireGuard programs, at either end?
//!
//! One end is `umbra-lab __end`: the runtime and the engine of our programs, with everything on that a pairing has (pre-shared key,
//! owner check, grant, flows, rewriting), but a controller; its one pairing and grant are the ones below. The other end is told
//! the same over its UAPI.
//!
//! ```text
//!   laptop [client's end] ---- outside ---- [gateway's end] gateway ---- inside ---- service
//! ```

use crate::bench::peers::Peer as Other;
use crate::bench::stage::{await_socket, forward};
use crate::bench::uapi::{Far, Keys, configure};
use crate::lab::{Daemon, Name, World};
use crate::perimeter::{POOL, done};
use anyhow::Context as _;
use clap::ValueEnum;
use grant::{PairingView, Scope, VerifiedGrant, View};
use host::clock::SystemClock;
use host::entropy::random;
use host::offload::Steps;
use host::udp::Udp;
use model::grant::{Grant, Pairing};
use model::ids::{DeviceId, GrantId, PairingId, ResourceId};
use model::key::{PrivateKey, Psk};
use model::net::{PortRange, Prefix, Protocol, Rule, Target};
use model::pool::{NatPool, Pool};
use model::time::Clock as _;
use node::overlay::Overlay;
use node::runtime::Runtime;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tunnel::keys::public_key;
use tunnel::{Change, Config, Engine, Peer, PeerId, PeerKind, Role, RouteEntry, RouteState, Routes};

/// The networks of the services.
const SITE: [&str; 2] = ["10.20.0.0/24", "fd20::/64"];
/// The device of either program.
const DEVICE: &str = "end0";
const PORT: u16 = 51_820;
const MTU: u16 = 1420;
/// Longer than any test.
const LIFE: Duration = Duration::from_secs(3600);
/// How long a program may take until it is there.
const READY_MAX: Duration = Duration::from_secs(20);

/// Which end of the tunnel?
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum End {
    /// The laptop's.
    Client,
    /// The gateway's.
    Gateway,
}

impl End {
    const fn host(self) -> Name {
        match self {
            Self::Client => Name::Laptop,
            Self::Gateway => Name::Gateway,
        }
    }

    /// A lab's secret, the same in each.
    const fn key(self) -> PrivateKey {
        PrivateKey::new(match self {
            Self::Client => [0x11; 32],
            Self::Gateway => [0x22; 32],
        })
    }

    const fn other(self) -> Self {
        match self {
            Self::Client => Self::Gateway,
            Self::Gateway => Self::Client,
        }
    }
}

/// How `__end` is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    end: End,
    /// Where the other end is
    #[arg(long)]
    endpoint: SocketAddr,
    /// What is left out
    #[arg(long, default_value = "")]
    offload: Steps,
}

/// What both ends know.
struct Facts {
    pool: Pool,
    nat: NatPool,
    device: [IpAddr; 2],
    site: Vec<Prefix>,
    pairing: PairingId,
    grant: GrantId,
    psk: Psk,
}

impl Facts {
    fn gather() -> anyhow::Result<Self> {
        let pool = Pool::new(POOL.parse()?, "fd77:7777:7777::/48".parse()?)?;
        let nat = NatPool { v4: "198.18.0.0/15".parse()?, v6: "fd99::/48".parse()? };
        let device = [IpAddr::V4(pool.device_v4(1).context("no device")?), IpAddr::V6(pool.node(1))];
        let site = SITE.iter().map(|prefix| prefix.parse()).collect::<Result<_, _>>()?;
        let (pairing, grant) = (PairingId::from_bytes([1; 10]), GrantId::from_bytes([1; 10]));
        Ok(Self { pool, nat, device, site, pairing, grant, psk: Psk::new([0x33; 32]) })
    }

    /// What the gateway admits: all TCP and UDP to the services.
    fn view(&self) -> anyhow::Result<View> {
        let scope = Arc::new(Scope { pool: self.pool, nat: self.nat, site: self.site.clone(), own: Vec::new() });
        let [IpAddr::V4(device_v4), IpAddr::V6(device_v6)] = self.device else { anyhow::bail!("odd addresses") };
        let device = DeviceId::from_bytes([1; 10]);
        let client_key = public_key(&End::Client.key());
        let pairing = Pairing { id: self.pairing, device, client_key, psk: self.psk.clone(), device_v4, device_v6 };
        let rule = |(prefix, protocol): (Prefix, Protocol)| Rule {
            client: prefix,
            target: Target::Prefix(prefix),
            protocol,
            ports: PortRange::ALL,
        };
        let both = self.site.iter().flat_map(|prefix| [(*prefix, Protocol::Tcp), (*prefix, Protocol::Udp)]);
        let (nat_v4, nat_v6) = self.nat.pair(1).context("no NAT address")?;
        let grant = Grant {
            id: self.grant,
            pairing: self.pairing,
            device,
            resource: ResourceId::from_bytes([1; 10]),
            rules: both.map(rule).collect(),
            nat_v4,
            nat_v6,
            ends_in: LIFE,
            lease: LIFE,
            on_gateway: false,
        };
        let grants = vec![Arc::new(VerifiedGrant::verify(grant, &scope)?)];
        let pairings = BTreeMap::from([(self.pairing, PairingView { pairing: Arc::new(pairing), grants })]);
        Ok(View { scope, pairings })
    }

    fn routes(&self, now: model::time::Instant) -> Routes {
        let state = RouteState::Granted { pairing: self.pairing, grant: self.grant, until: now.plus(LIFE) };
        let ports = vec![(Protocol::Tcp, PortRange::ALL), (Protocol::Udp, PortRange::ALL)];
        let entry = RouteEntry { resource: ResourceId::from_bytes([1; 10]), ports, state };
        let entries = self.site.iter().map(|prefix| (*prefix, vec![entry.clone()])).collect();
        Routes { own: self.device.to_vec(), entries, ..Routes::default() }
    }
}

/// Runs one end until it is killed. Says `ready` once it is.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let facts = Facts::gather()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (tun, overlay) = runtime.block_on(Overlay::open(DEVICE, arguments.offload))?;
    let (role, into_tun) = match arguments.end {
        End::Client => (Role::Client, facts.site.clone()),
        End::Gateway => (Role::Gateway, vec![facts.nat.v4, facts.nat.v6]),
    };
    runtime.block_on(async {
        if arguments.end == End::Client {
            for address in facts.device {
                overlay.add_address(address).await?;
            }
        }
        for prefix in into_tun {
            let source = facts.device.into_iter().find(|own| own.is_ipv4() == prefix.address().is_ipv4());
            overlay.add_route(prefix, source.filter(|_| arguments.end == End::Client)).await?;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let key = Arc::new(arguments.end.key());
    let config = Config {
        role,
        pool: facts.pool,
        key: Arc::new(PrivateKey::new(random()?)),
        pairing_key: key.clone(),
        seed: random()?,
    };
    let udp = Udp::bind_with(PORT, arguments.offload)?;
    let (packets, _inbox) = Runtime::start(Engine::new(config), tun, udp, Arc::new(SystemClock::new()))?;
    match arguments.end {
        End::Gateway => drop(packets.apply(Change::Grants(Arc::new(facts.view()?)))),
        End::Client => {
            packets.apply(Change::AddPeer(Peer {
                id: PeerId::Pairing(facts.pairing),
                kind: PeerKind::Pairing(facts.psk.clone()),
                local: key,
                remote: public_key(&End::Gateway.key()),
                addresses: Vec::new(),
                endpoints: vec![arguments.endpoint],
                keepalive: None,
            }));
            packets.apply(Change::Routes(Arc::new(facts.routes(packets.clock.now()))));
        }
    }
    writeln!(io::stdout(), "ready")?;
    loop {
        std::thread::park();
    }
}

/// A tunnel between our end and that of another program. It ends with this.
#[derive(Debug)]
pub struct Tunnel {
    /// Ours.
    pub ours: Daemon,
    /// The other one's.
    pub other: Daemon,
}

impl Tunnel {
    /// Makes it: ours is `end`, with these steps left out; outside it speaks IPv4 or IPv6.
    pub fn start(world: &World, end: End, other: &Other, left_out: &str, v4: bool) -> anyhow::Result<Self> {
        let at = |end: End| {
            let found = end.host().outside().into_iter().find(|address| address.is_ipv4() == v4);
            found.map(|address| SocketAddr::new(address, PORT)).context("no address outside")
        };
        forward(world)?;
        let mut command = world.host(end.host()).command("umbra-lab");
        let word = end.to_possible_value().context("no word")?;
        command.args(["__end", word.get_name(), "--endpoint", &at(end.other())?.to_string(), "--offload", left_out]);
        let ours = world.host(end.host()).start("our-end", command)?;
        let far = world.host(end.other().host());
        let mut command = far.command(&other.path);
        command.args(other.options()).arg(DEVICE);
        let other = far.start("other-end", command)?;
        ours.wait_for_line("ready", READY_MAX)?;
        let socket = await_socket(&other, DEVICE)?;
        let facts = Facts::gather()?;
        let own: Vec<String> = facts.device.iter().map(|own| format!("{own}/{}", Prefix::host(*own).bits())).collect();
        let allowed: Vec<&str> = match end {
            // Ours is the client: its own addresses are behind it.
            End::Client => own.iter().map(String::as_str).collect(),
            End::Gateway => SITE.to_vec(),
        };
        let told = Far {
            key: public_key(&end.key()),
            psk: Some(&facts.psk),
            endpoint: (end == End::Gateway).then(|| at(end)).transpose()?,
            allowed: &allowed,
        };
        configure(&socket, &Keys::of(end.other().key()), Some(PORT), &told)?;
        let mut device = format!("ip link set {DEVICE} mtu {MTU} && ip link set {DEVICE} up");
        let (mine, behind): (&[String], Vec<&str>) = match end {
            End::Client => (&[], own.iter().map(String::as_str).collect()),
            End::Gateway => (&own, SITE.to_vec()),
        };
        for address in mine {
            device += &format!(" && ip address add {address} dev {DEVICE} nodad");
        }
        for prefix in behind {
            device += &format!(" && ip route add {prefix} dev {DEVICE}");
        }
        done(world, end.other().host(), &["sh", "-c", &device])?;
        Ok(Self { ours, other })
    }
}
