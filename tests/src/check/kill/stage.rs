//! The world in which programs are killed: an organisation with one gateway and one laptop, ways out into the open on both, and
//! what their hosts were like before.

use super::super::Helper;
use super::nag::question;
use crate::attacker::hex_text;
use crate::lab::topology::{INSIDE_LINK, OUTSIDE_LINK, OUTSIDE_NAME_SERVER};
use crate::lab::{Daemon, LabError, Name, Options, World};
use crate::leaks::{Protected, Watch};
use crate::perimeter::{self, DOMAIN, Perimeter, Plan, admin, admin_json, done, umbra};
use crate::service::{DNS_PORT, PUBLIC_NAME, Services, UDP_PORT};
use anyhow::{Context as _, ensure};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take that happens at once.
pub const SOON: Duration = Duration::from_secs(30);
/// What the stranger's datagrams carry.
const CANARY: &str = "umbra-canary-through-the-gateway";
/// A name in the private zone that nobody declared.
const SECRET: &str = "secret.corp.example";

/// All of it.
pub struct Stage {
    /// The client of the laptop.
    pub client: Daemon,
    /// The gateway.
    pub gateway: Daemon,
    /// The controller.
    pub controller: Daemon,
    _services: Services,
    pool_v6: model::net::Prefix,
    virtual_addresses: Vec<IpAddr>,
    before: Vec<(Name, Vec<String>)>,
    /// Last: the programs end before their world.
    pub world: World,
}

impl Stage {
    /// Makes it, everybody connected.
    pub fn set() -> anyhow::Result<Self> {
        let world = World::start(&Options::default())?;
        for host in [Name::Laptop, Name::Gateway] {
            give_a_way_out(&world, host)?;
        }
        let before = [Name::Laptop, Name::Gateway].map(|host| state_of(&world, host).map(|state| (host, state)));
        let before = before.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let services = Services::start(&world)?;
        let private = ["--private-zone", DOMAIN].map(str::to_owned).to_vec();
        let plan = Plan { laptops: Vec::new(), dark: false, init_options: private, ..Plan::default() };
        let Perimeter { controller, mut gateways, .. } = Perimeter::start(&world, &plan)?;
        let gateway = gateways.remove(&Name::Gateway).context("there is no gateway")?;
        let net = ["resource", "add", "net", "--site", "hq", "--cidr", "10.20.0.8/29", "--cidr", "fd20::10/124"];
        admin(&world, &[&net[..], &["--tcp", "7", "--udp", "9000"]].concat())?;
        let client = perimeter::start_client(&world, Name::Laptop)?;
        perimeter::join_laptop(&world, Name::Laptop)?;
        perimeter::log_in(&world, Name::Laptop)?;
        let status = admin_json(&world, &["status"])?;
        let pool_v6 = status.get("pool_v6").and_then(|pool| pool.as_str()?.parse().ok()).context("no IPv6 pool")?;
        let mut stage = Self {
            client,
            gateway,
            controller,
            _services: services,
            pool_v6,
            virtual_addresses: Vec::new(),
            before,
            world,
        };
        stage.is_reached()?;
        let named = stage.probe(&["name", "web.corp.example"])?;
        stage.virtual_addresses = named.lines().filter_map(|line| line.parse().ok()).collect();
        ensure!(stage.virtual_addresses.len() == 2, "web has the addresses {named:?}");
        let stranger =
            ["umbra-lab", "__attack", "route", "10.20.0.0/24", "--link", OUTSIDE_LINK, "--via", "203.0.113.20"];
        done(&stage.world, Name::Stranger, &stranger)?;
        Ok(stage)
    }

    /// The names' overlay addresses.
    pub fn virtual_addresses(&self) -> &[IpAddr] {
        &self.virtual_addresses
    }

    /// The organisation's IPv6 addresses.
    pub const fn pool_v6(&self) -> model::net::Prefix {
        self.pool_v6
    }

    /// What a program on the laptop hears; nothing where it fails.
    pub fn probe(&self, words: &[&str]) -> anyhow::Result<String> {
        let all = [&["umbra-lab", "probe", "--patience=1000"], words].concat();
        Ok(self.world.host(Name::Laptop).run(&all, SOON)?.stdout)
    }

    /// Up, connected to the controller, and logged in.
    pub fn client_is_up(&mut self) -> anyhow::Result<()> {
        if !self.client.is_running() {
            self.client.restart()?;
            self.client_has_started()?;
        }
        umbra(&self.world, Name::Laptop, &["up"])?;
        let status = umbra(&self.world, Name::Laptop, &["status", "--json"])?;
        if !status.stdout.contains("\"user\"") {
            perimeter::log_in(&self.world, Name::Laptop)?;
        }
        Ok(())
    }

    /// It answers commands again.
    pub fn client_has_started(&self) -> Result<(), LabError> {
        self.client.wait_for_line("the daemon runs", SOON).map(drop)
    }

    /// Up and confirmed.
    pub fn gateway_is_up(&mut self) -> Result<(), LabError> {
        if !self.gateway.is_running() {
            self.gateway.restart()?;
        }
        self.gateway_has_started()
    }

    /// The controller knows it again.
    pub fn gateway_has_started(&self) -> Result<(), LabError> {
        self.gateway.wait_for_line("confirmed=true", SOON).map(drop)
    }

    /// A service is reached by its name, and one by its real address.
    pub fn is_reached(&self) -> anyhow::Result<()> {
        let real = format!("10.20.0.10:{UDP_PORT}");
        for words in [&["http", "http://web.corp.example/"][..], &["udp", &real, "a datagram"]] {
            until(&words.join(" "), || Ok(!self.probe(words)?.is_empty()))?;
        }
        Ok(())
    }

    /// Names of others resolve, the client being dead.
    pub fn other_names_resolve(&self) -> anyhow::Result<()> {
        let (name, address) = PUBLIC_NAME;
        until("other names", || Ok(self.probe(&["name", name])?.contains(address)))
    }

    /// Ends the laptop's session: the administrator's command, which runs.
    pub fn revoke(&self) -> anyhow::Result<Child> {
        let sessions = admin_json(&self.world, &["session", "list"])?;
        let rows = sessions.get("sessions").and_then(|rows| rows.as_array()).context("no list of sessions")?;
        let live = rows.iter().find(|row| row.get("user").is_some_and(|user| user == "engineer"));
        let id = live.and_then(|row| row.get("id")?.as_str()).context("nobody is logged in")?;
        in_background(&self.world, Name::Controller, &["umbra-controller", "session", "revoke", id])
    }

    /// `umbra down --force`.
    pub fn force_down(&self) -> anyhow::Result<()> {
        Ok(umbra(&self.world, Name::Laptop, &["down", "--force"]).map(drop)?)
    }

    fn watch(
        &self,
        host: Name,
        link: &str,
        prefixes: &[&str],
        zones: &[&str],
        text: Option<&str>,
    ) -> anyhow::Result<Watch> {
        let prefixes = prefixes.iter().filter_map(|text| text.parse().ok());
        let own = (host != Name::Service).then_some(self.pool_v6);
        let protected = Protected {
            prefixes: prefixes.chain(own).collect(),
            zones: zones.iter().map(|zone| (*zone).to_owned()).collect(),
            text: text.map(str::to_owned),
            marker: PUBLIC_NAME.0.to_owned(),
        };
        Ok(Watch::start(&self.world, host, link, protected)?)
    }

    /// What leaves the laptop: it arrives at the stranger, who is its router and its name server.
    ///
    /// Real addresses are the organisation's as long as somebody is `logged_in`.
    pub fn watch_laptop(&self, logged_in: bool) -> anyhow::Result<Watch> {
        let prefixes = [perimeter::POOL, "10.20.0.8/29", "fd20::10/124"];
        let prefixes = if logged_in { &prefixes[..] } else { &prefixes[..1] };
        self.watch(Name::Stranger, OUTSIDE_LINK, prefixes, &[DOMAIN, "umbra.internal"], None)
    }

    /// What leaves the gateway towards the open, likewise.
    pub fn watch_gateway(&self) -> anyhow::Result<Watch> {
        self.watch(Name::Stranger, OUTSIDE_LINK, &["198.18.0.0/15", perimeter::POOL], &[], None)
    }

    /// What reaches a service of what a stranger sends.
    pub fn watch_service(&self) -> anyhow::Result<Watch> {
        self.watch(Name::Service, INSIDE_LINK, &[], &[], Some(CANARY))
    }

    /// All that was sent before is seen by the watch when this returns.
    pub fn catch_up(&self, host: Name, watch: &Watch) -> anyhow::Result<()> {
        let since = watch.markers();
        let to = if host == Name::Service { IpAddr::from([10, 20, 0, 66]) } else { OUTSIDE_NAME_SERVER };
        let (to, marker) = (SocketAddr::new(to, DNS_PORT).to_string(), hex_text(&question(7, PUBLIC_NAME.0)));
        done(&self.world, host, &["umbra-lab", "__attack", "send", &to, &marker])?;
        Ok(watch.wait_for_marker(since, SOON)?)
    }

    /// Programs on the laptop that want virtual and real addresses, and private names.
    pub fn nag_laptop(&self) -> anyhow::Result<Helper> {
        let real = ["10.20.0.10", "10.20.0.14", "fd20::10"].map(|text| text.parse().ok());
        let all = self.virtual_addresses.iter().copied().chain(real.into_iter().flatten());
        let to = all.map(|address| format!("--to={}", SocketAddr::new(address, UDP_PORT)));
        let names = [SECRET, "web.corp.example", "x.umbra.internal"].map(|name| format!("--name={name}"));
        self.nag(Name::Laptop, "a program's datagram", to.chain(names).collect())
    }

    /// Somebody who has the gateway for a router.
    pub fn nag_stranger(&self) -> anyhow::Result<Helper> {
        self.nag(Name::Stranger, CANARY, vec![format!("--to=10.20.0.10:{UDP_PORT}")])
    }

    fn nag(&self, host: Name, text: &str, words: Vec<String>) -> anyhow::Result<Helper> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let all = [&["umbra-lab", "__nag", "--text", text][..], &words].concat();
        in_background(&self.world, host, &all).map(Helper)
    }

    /// A service that goes on sending to the laptop when the gateway is dead.
    pub fn stream(&self) -> anyhow::Result<Helper> {
        let to = format!("web.corp.example:{UDP_PORT}");
        let words = ["umbra-lab", "probe", "--patience=500", "stream", &to, "100", "300"];
        in_background(&self.world, Name::Laptop, &words).map(Helper)
    }

    /// How much of a host is not as it was; what it is, is printed.
    pub fn left_behind(&self, host: Name) -> anyhow::Result<u64> {
        let before = self.before.iter().find(|(name, _)| *name == host).map(|(_, state)| state).context("no state")?;
        let after = state_of(&self.world, host)?;
        let mut different = 0;
        for (before, after) in before.iter().zip(&after).filter(|(before, after)| before != after) {
            different += 1;
            writeln!(io::stdout(), "left behind on {host}:\n{after}instead of:\n{before}")?;
        }
        Ok(different)
    }
}

/// A default route towards the stranger, as every real machine has one.
fn give_a_way_out(world: &World, host: Name) -> anyhow::Result<()> {
    let stranger = Name::Stranger.outside();
    for (prefix, via) in ["0.0.0.0/0", "::/0"].into_iter().zip(stranger) {
        let words = ["umbra-lab", "__attack", "route", prefix, "--link", OUTSIDE_LINK, "--via", &via.to_string()];
        done(world, host, &words)?;
    }
    Ok(())
}

/// What a program of ours might leave behind in its host.
fn state_of(world: &World, host: Name) -> anyhow::Result<Vec<String>> {
    let commands = [
        &["cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"][..],
        &["cat", "/etc/resolv.conf"],
        &["nft", "list", "ruleset"],
        &["ip", "-brief", "address"],
        &["ip", "-4", "route", "show", "table", "all"],
        &["ip", "-6", "route", "show", "table", "all"],
        &["ip", "-4", "rule"],
        &["ip", "-6", "rule"],
    ];
    commands.iter().map(|words| Ok(done(world, host, words)?.stdout)).collect()
}

/// Starts a command on a host whose words nobody reads.
pub fn in_background(world: &World, host: Name, words: &[&str]) -> anyhow::Result<Child> {
    let (program, arguments) = words.split_first().context("no words")?;
    let mut command = world.host(host).command(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().with_context(|| words.join(" "))
}

fn until(what: &str, mut so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let started = Instant::now();
    while !so()? {
        ensure!(started.elapsed() < SOON, "{what}: not within {SOON:?}");
    }
    Ok(())
}
