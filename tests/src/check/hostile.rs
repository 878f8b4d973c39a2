//! Does anything leak when the network hands out routes of its own, and does anybody fall over when strangers make noise?
//!
//! The laptop's router is the attacker. As DHCP (option 121, a router, /1 routes; CVE-2024-3661) or router advertisements would, it
//! leads parts of everything, of the overlay and of the resources' real addresses to itself, with routes that are more specific
//! than the client's or come before them. Programs on the laptop go on asking for protected addresses meanwhile. Then it sends well-formed
//! knocks and initiations to every port of ours.

use super::Tally;
use super::kill::stage::{SOON, Stage};
use crate::lab::topology::OUTSIDE_LINK;
use crate::lab::{Daemon, Name};
use crate::perimeter::{self, admin_json, done};
use anyhow::{Context as _, ensure};
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};

/// How `check hostile` is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How often each trick is played
    #[arg(long, default_value_t = 3)]
    rounds: u64,
    /// Knocks and initiations, each, to each of controller, gateway and laptop
    #[arg(long, default_value_t = 10_000)]
    noise: u32,
}

/// A lie of the network.
#[derive(Default)]
struct Trick {
    name: &'static str,
    routes: Vec<String>,
    advertised: Vec<String>,
    /// The attacker answers for the real addresses on the link itself, so that routes need no router.
    on_link: bool,
    /// Addresses that the laptop is given.
    leased: Vec<String>,
}

impl Trick {
    fn routes(name: &'static str, routes: impl IntoIterator<Item = String>) -> Self {
        Self { name, routes: routes.into_iter().collect(), ..Self::default() }
    }
}

fn tricks(stage: &Stage) -> Vec<Trick> {
    let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let host = |address: &IpAddr| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
    let virtual_hosts: Vec<String> = stage.virtual_addresses().iter().map(host).collect();
    let real = list(&["10.20.0.10/32", "10.20.0.14/32", "fd20::10/128"]);
    let pool_v6 = stage.pool_v6().to_string();
    vec![
        Trick::routes("everything, in two halves", list(&["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"])),
        Trick::routes("the pool, in two halves", list(&["10.77.0.0/17", "10.77.128.0/17"])),
        Trick::routes("each virtual address", virtual_hosts.clone()),
        Trick::routes("each real address", real.clone()),
        Trick::routes("the real prefixes themselves", list(&["10.20.0.8/29", "fd20::10/124"])),
        Trick::routes("all of that", [virtual_hosts, real, list(&["10.77.0.0/17", "::/1"])].concat()),
        Trick {
            on_link: true,
            ..Trick::routes("the real prefixes, on the link", list(&["10.20.0.8/29", "10.20.0.10/32", "fd20::10/124"]))
        },
        // TunnelCrack's LocalNet (CVE-2023-36672): what is called local is not meant to be tunnelled.
        Trick {
            name: "a lease in a network around the real addresses",
            on_link: true,
            leased: list(&["10.20.0.1/28", "fd20::1/120"]),
            ..Trick::default()
        },
        Trick { name: "a router advertisement", advertised: vec!["fd20::/64".to_owned(), pool_v6], ..Trick::default() },
    ]
}

/// Plays all tricks, then makes noise.
pub fn check(arguments: &Arguments) -> anyhow::Result<Tally> {
    let mut tally = Tally::new("hostile", &["leaked", "lost", "answered", "panics"]);
    let mut stage = Stage::set()?;
    stage.client_is_up()?;
    for trick in (0..arguments.rounds).flat_map(|_| tricks(&stage)).collect::<Vec<_>>() {
        play(&stage, &trick, &mut tally).with_context(|| trick.name)?;
        tally.tried("tricks", 1);
    }
    make_noise(&stage, arguments.noise, &mut tally)?;
    for (name, daemon) in stage.programs() {
        let panics = daemon.lines().iter().filter(|line| line.contains("panicked")).count();
        writeln!(io::stdout(), "{name}: {panics} panics")?;
        tally.wrong("panics", u64::try_from(panics).unwrap_or(u64::MAX));
    }
    Ok(tally)
}

fn route(stage: &Stage, verb: &str, prefix: &str, on_link: bool) -> anyhow::Result<()> {
    let [v4, v6, ..] = Name::Stranger.outside()[..] else { anyhow::bail!("the stranger has no two addresses") };
    let four = !prefix.contains(':');
    let (family, via) = if four { ("-4", v4.to_string()) } else { ("-6", v6.to_string()) };
    let via: &[&str] = if on_link { &[] } else { &["via", &via] };
    // Before every other route of the same prefix.
    let metric: &[&str] = if four { &[] } else { &["metric", "1"] };
    let words = [&["ip", family, "route", verb, prefix][..], via, &["dev", OUTSIDE_LINK], metric].concat();
    done(&stage.world, Name::Laptop, &words)?;
    Ok(())
}

fn address(stage: &Stage, host: Name, verb: &str, prefix: &str) -> anyhow::Result<()> {
    let at_once: &[&str] = if prefix.contains(':') && verb == "add" { &["nodad"] } else { &[] };
    let words = [&["ip", "address", verb, prefix, "dev", OUTSIDE_LINK][..], at_once].concat();
    done(&stage.world, host, &words)?;
    Ok(())
}

/// What the attacker answers for when it is on the link.
const CLAIMED: [&str; 3] = ["10.20.0.10/32", "10.20.0.14/32", "fd20::10/128"];

/// Begins a trick, or takes it back; when this returns, the client has seen that.
fn turn(stage: &Stage, trick: &Trick, begins: bool) -> anyhow::Result<()> {
    let verb = if begins { "add" } else { "del" };
    let mark = stage.client.mark();
    for prefix in CLAIMED.iter().filter(|_| trick.on_link) {
        address(stage, Name::Stranger, verb, prefix)?;
    }
    for prefix in &trick.leased {
        address(stage, Name::Laptop, verb, prefix)?;
    }
    for prefix in &trick.routes {
        let verb = if begins && !prefix.contains(':') { "prepend" } else { verb };
        route(stage, verb, prefix, trick.on_link)?;
    }
    if !trick.routes.is_empty() || !trick.leased.is_empty() {
        stage.client.wait_for_line_after(mark, "the network changed", SOON)?;
    }
    Ok(())
}

fn play(stage: &Stage, trick: &Trick, tally: &mut Tally) -> anyhow::Result<()> {
    stage.is_reached()?;
    let watch = stage.watch_laptop(true)?;
    let nag = stage.nag_laptop()?;
    turn(stage, trick, true)?;
    if !trick.advertised.is_empty() {
        let advertised: Vec<&str> = trick.advertised.iter().map(String::as_str).collect();
        let words = [&["umbra-lab", "__attack", "advertise", OUTSIDE_LINK][..], &advertised].concat();
        done(&stage.world, Name::Stranger, &words)?;
    }
    // Everything that the laptop's programs ask for goes wherever it goes now, some of it for a whole second.
    for words in [&["http", "http://web.corp.example/"][..], &["udp", "10.20.0.10:9000", "a datagram"]] {
        let _may_fail = stage.probe(words)?;
    }
    stage.catch_up(Name::Laptop, &watch)?;
    drop(nag);
    let leaks = watch.leaks();
    for leak in &leaks {
        writeln!(io::stdout(), "{}: leaked {leak}", trick.name)?;
    }
    tally.wrong("leaked", u64::try_from(leaks.len()).unwrap_or(u64::MAX));
    turn(stage, trick, false)?;
    // On an honest network it is all there again.
    if stage.is_reached().is_err() {
        writeln!(io::stdout(), "{}: nothing is reached any more afterwards", trick.name)?;
        tally.wrong("lost", 1);
    }
    Ok(())
}

/// Well-formed datagrams of strangers: at most a cookie for some of them, and work goes on.
fn make_noise(stage: &Stage, count: u32, tally: &mut Tally) -> anyhow::Result<()> {
    let status = admin_json(&stage.world, &["status"])?;
    let key = status.get("controller_key").and_then(|key| key.as_str()).context("no key")?;
    let count_text = count.to_string();
    let amounts = ["--knocks", &count_text, "--initiations", &count_text];
    for host in [Name::Controller, Name::Gateway, Name::Laptop] {
        let address = host.outside().first().copied().context("no address")?;
        let to = SocketAddr::new(address, 443).to_string();
        let words = [&["umbra-lab", "__attack", "noise", &to, key][..], &amounts].concat();
        let said = stage.world.host(Name::Stranger).run(&words, SOON * 4)?;
        ensure!(said.success(), "noise at {host}: {said:?}");
        tally.tried("strangers' datagrams", u64::from(count) * 2);
        let mut numbers = said.stdout.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
        let (answers, bytes) = (numbers.next().context("no count")?, numbers.next().context("no bytes")?);
        writeln!(io::stdout(), "{host}: {answers} answers of {bytes} bytes")?;
        // Who knows the controller's key can make it ask for a cookie under load (SECURITY.md): 64 bytes, for an initiation alone.
        let cookies = if host == Name::Controller && bytes == answers * 64 { answers.min(u64::from(count)) } else { 0 };
        tally.wrong("answered", answers.saturating_sub(cookies));
        if stage.is_reached().is_err() || perimeter::log_in(&stage.world, Name::Laptop).is_err() {
            writeln!(io::stdout(), "{host}: nothing is reached any more afterwards")?;
            tally.wrong("lost", 1);
        }
    }
    Ok(())
}

/// Its programs.
impl Stage {
    fn programs(&self) -> [(&'static str, &Daemon); 3] {
        [("client", &self.client), ("gateway", &self.gateway), ("controller", &self.controller)]
    }
}
