//! The network in which one program is measured once.
//!
//! ```text
//!   laptop ---- outside network ---- gateway ---- inside network ---- service
//!     |                                 |                                |
//!   one end of the program     the other end, forwarding,       iperf3, HTTP, ping
//!                              masquerading
//! ```
//!
//! It is made anew for each program in each round, so that nothing of the one is left for the other. Umbra runs as a whole
//! organisation; the laptop holds 20 grants there, and 5,000 other tunnels live at the gateway ([`neighbours`](super::neighbours)).

use super::peers::Peer;
use super::uapi::{Far, Keys, configure};
use crate::lab::topology::INSIDE_LINK;
use crate::lab::{Daemon, Host, Name, Options, World};
use crate::perimeter::{PASSWORD, Perimeter, Plan, USERS, admin_json, carry_join_file_as, done, umbra, write_file};
use crate::service::{Services, ZONE};
use crate::wire::calls::call;
use anyhow::{Context as _, ensure};
use model::limits::DATA_KEYS_MAX;
use prost::Message as _;
use proto::admin as wire;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// The port of iperf3 on host `service`, over TCP and UDP.
pub const PORT: u16 = 5201;
/// The MTU of every tunnel, bytes.
pub const MTU: u16 = 1420;
/// What a program's TUN device is called.
const DEVICE: &str = "bench0";
/// The UDP port of the end on the gateway.
const LISTEN: u16 = 51_820;
/// The addresses inside the tunnels of other programs: laptop, gateway.
const INNER: [&str; 2] = ["10.99.0.2", "10.99.0.1"];
/// The network of the services.
const INSIDE: &str = "10.20.0.0/24";
/// Grants of the laptop that is measured.
const GRANTS: usize = 20;
/// Devices of others, and the tunnels of each: a device may hold no more.
const OTHERS: (usize, usize) = (79, DATA_KEYS_MAX);
/// How long it takes others to join, ask and open their tunnels.
const OTHERS_MAX: Duration = Duration::from_secs(600);
/// How long a program may take until it can be configured.
const READY_MAX: Duration = Duration::from_secs(20);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub enum Program<'a> {
    /// Our own client and gateway, in a company of many.
    Umbra,
    /// The same alone: one grant, one tunnel.
    UmbraAlone,
    /// Our engine without filter, flows and rewriting, see [`bare`](super::bare).
    Bare,
    /// Another program at both ends.
    Peer(&'a Peer),
    /// Nothing: the gateway forwards and masquerades.
    NoTunnel,
}

/// A network with a program that works. All of it ends with this.
pub struct Stage {
    /// What the laptop calls the service.
    pub target: String,
    /// The program's processes: on the laptop, on the gateway.
    pub daemons: Vec<u32>,
    _programs: Vec<Daemon>,
    _perimeter: Option<Perimeter>,
    _services: Services,
    /// Last: the programs end before their world.
    pub world: World,
}

impl Stage {
    /// Makes the network and starts the program in it. Nothing has gone through the tunnel yet.
    ///
    /// `packaged` is a folder with Umbra's programs as they are packaged; without it this program is all of them.
    pub fn set(program: Program<'_>, packaged: Option<&Path>) -> anyhow::Result<Self> {
        let world = World::start(&Options { packaged: packaged.map(Path::to_owned), ..Options::default() })?;
        let services = Services::start(&world)?;
        let address = v4(&Name::Service.inside())?;
        let mut stage = Self {
            target: address.to_string(),
            daemons: Vec::new(),
            _programs: Vec::new(),
            _perimeter: None,
            _services: services,
            world,
        };
        match program {
            Program::Umbra => {
                stage.start_umbra()?;
                stage.start_others()?;
            }
            Program::UmbraAlone => stage.start_umbra()?,
            Program::Bare => stage.start_bare()?,
            Program::Peer(peer) => stage.start_peer(peer)?,
            Program::NoTunnel => stage.start_nothing()?,
        }
        Ok(stage)
    }

    /// A whole organisation, with filter, flows and rewriting as always.
    fn start_umbra(&mut self) -> anyhow::Result<()> {
        let resource_options = ["--tcp", "--udp"].map(|option| format!("{option}={PORT}")).to_vec();
        let plan = Plan { laptops: vec![Name::Laptop], resource_options, ..Plan::default() };
        let perimeter = Perimeter::start(&self.world, &plan)?;
        let client = perimeter.clients.get(&Name::Laptop).context("there is no client")?;
        let gateway = perimeter.gateways.get(&Name::Gateway).context("there is no gateway")?;
        self.daemons = vec![client.pid(), gateway.pid()];
        self.target = format!("web.{ZONE}");
        self._perimeter = Some(perimeter);
        Ok(())
    }

    /// More resources, grants of them for the laptop, and everybody else.
    fn start_others(&mut self) -> anyhow::Result<()> {
        let (devices, each) = OTHERS;
        let (name, host) = (|number| format!("many-{number}"), Name::Laptop2);
        let add = (0..each).map(|n| wire::AddResourceRequest {
            name: name(n),
            site: "hq".to_owned(),
            hosts: vec![format!("{}.{ZONE}", name(n))],
            tcp: vec!["443".to_owned()],
            ..Default::default()
        });
        let path = "/umbra.admin.v1.Admin/AddResource".to_owned();
        let calls: Vec<_> = add.map(|request| (path.clone(), vec![request.encode_to_vec()])).collect();
        let socket = format!("--socket={}", controller::config::SOCKET);
        let answers = call(&self.world, Name::Controller, &[&socket], &calls)?;
        ensure!(answers.iter().all(|answer| answer.code == 0), "a resource was refused");
        for number in 1..GRANTS {
            umbra(&self.world, Name::Laptop, &["connect", &name(number)])?;
        }
        let listed = admin_json(&self.world, &["resource", "list"])?;
        let listed = listed.get("resources").and_then(|rows| rows.as_array()).context("no resources")?;
        let many = |row: &&serde_json::Value| row["name"].as_str().is_some_and(|name| name.starts_with("many-"));
        let ids: Vec<&str> = listed.iter().filter(many).filter_map(|row| row["id"].as_str()).collect();
        let resources = write_file(&self.world, host, "resources", ids.join("\n").as_bytes())?;
        let password = write_file(&self.world, host, "password", PASSWORD.as_bytes())?;
        let [(_, user, _), _] = USERS;
        let mut command = self.world.host(host).command("umbra-lab");
        command.args(["__others", "--user", user, "--password-file", &password, "--resources", &resources]);
        for number in 0..devices {
            command.arg(carry_join_file_as(&self.world, host, &format!("join-{number}"), &["--device"])?);
        }
        let others = self.world.host(host).start("others", command)?;
        others.wait_for_line(&format!("{} tunnels are open", devices * each), OTHERS_MAX)?;
        self._programs.push(others);
        Ok(())
    }

    /// The bare engine at both ends.
    fn start_bare(&mut self) -> anyhow::Result<()> {
        let (near, far) = (Keys::generate()?, Keys::generate()?);
        let endpoint = SocketAddr::new(v4(&Name::Gateway.outside())?, LISTEN).to_string();
        let listen = LISTEN.to_string();
        let ends = [
            (Name::Laptop, &near, &far, ["--endpoint", &endpoint]),
            (Name::Gateway, &far, &near, ["--listen", &listen]),
        ];
        for (host, own, other, options) in ends {
            let mut command = self.world.host(host).command("umbra-lab");
            command.args(["__bare", DEVICE, "--key", &own.private_hex(), "--far", &other.public_hex()]).args(options);
            let daemon = self.world.host(host).start(&format!("bare-{host}"), command)?;
            daemon.wait_for_line("the bare engine runs", READY_MAX)?;
            self.daemons.push(daemon.pid());
            self._programs.push(daemon);
        }
        self.furnish_devices()
    }

    fn start_peer(&mut self, peer: &Peer) -> anyhow::Result<()> {
        let (near, far) = (Keys::generate()?, Keys::generate()?);
        let ends = [Name::Laptop, Name::Gateway];
        for host in ends {
            let host = self.world.host(host);
            let mut command = host.command(&peer.path);
            command.args(peer.options()).arg(DEVICE);
            self._programs.push(host.start(&format!("{}-{}", peer.name, host.name()), command)?);
        }
        self.daemons = self._programs.iter().map(Daemon::pid).collect();
        let sockets =
            self._programs.iter().map(|program| await_socket(program, DEVICE)).collect::<anyhow::Result<Vec<_>>>()?;
        let endpoint = Some(SocketAddr::new(v4(&Name::Gateway.outside())?, LISTEN));
        let [laptop_inner, _] = INNER;
        let told = [
            (&near, None, Far { key: far.public, psk: None, endpoint, allowed: &["0.0.0.0/0"] }),
            (
                &far,
                Some(LISTEN),
                Far { key: near.public, psk: None, endpoint: None, allowed: &[&format!("{laptop_inner}/32")] },
            ),
        ];
        for (socket, (host, (keys, listen, far))) in sockets.iter().zip(ends.into_iter().zip(told)) {
            configure(socket, keys, listen, &far).with_context(|| format!("{} on {host}", peer.name))?;
        }
        self.furnish_devices()
    }

    /// Addresses and routes for the devices of programs that leave them to others.
    fn furnish_devices(&self) -> anyhow::Result<()> {
        for (host, inner) in [Name::Laptop, Name::Gateway].into_iter().zip(INNER) {
            let device = format!(
                "ip address add {inner}/24 dev {DEVICE} && ip link set {DEVICE} mtu {MTU} && ip link set {DEVICE} up"
            );
            done(&self.world, host, &["sh", "-c", &device])?;
        }
        done(&self.world, Name::Laptop, &["ip", "route", "add", INSIDE, "dev", DEVICE])?;
        forward(&self.world)
    }

    fn start_nothing(&mut self) -> anyhow::Result<()> {
        let gateway = v4(&Name::Gateway.outside())?.to_string();
        done(&self.world, Name::Laptop, &["ip", "route", "add", INSIDE, "via", &gateway])?;
        forward(&self.world)
    }

    /// A host.
    pub fn host(&self, name: Name) -> &Host {
        self.world.host(name)
    }
}

/// The gateway forwards what is for the services, under its own addresses.
pub(crate) fn forward(world: &World) -> anyhow::Result<()> {
    let table = format!(
        "echo 1 > /proc/sys/net/ipv4/ip_forward && echo 1 > /proc/sys/net/ipv6/conf/all/forwarding && \
         nft 'add table inet bench; add chain inet bench out {{ type nat hook postrouting priority srcnat; }}; \
         add rule inet bench out oifname \"{INSIDE_LINK}\" masquerade'"
    );
    done(world, Name::Gateway, &["sh", "-c", &table])?;
    Ok(())
}

fn v4(addresses: &[IpAddr]) -> anyhow::Result<IpAddr> {
    addresses.iter().copied().find(IpAddr::is_ipv4).context("the host has no IPv4 address")
}

/// The UAPI socket of a program, as it is seen from here, once it is there.
pub(crate) fn await_socket(program: &Daemon, device: &str) -> anyhow::Result<PathBuf> {
    // /var/run is a link to /run, and would lead to our own from here.
    let socket = PathBuf::from(format!("/proc/{}/root/run/wireguard/{device}.sock", program.pid()));
    let started = Instant::now();
    while !socket.exists() {
        let last = || program.lines().last().cloned().unwrap_or_default();
        ensure!(program.is_running(), "the program ended before it made its UAPI socket: {}", last());
        ensure!(started.elapsed() < READY_MAX, "no UAPI socket within {READY_MAX:?}: {}", last());
        thread::sleep(PAUSE);
    }
    Ok(socket)
}
