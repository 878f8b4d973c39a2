//! Does a stream come out as it went in, both ways at once, while tunnels shake hands anew and the path loses and swaps packets?
//!
//! Each family outside with each family inside. In each of these, most bytes go with all that the kernel can do, where a train of
//! datagrams is lost or late as a whole; then some with one datagram at a time, where each has a fate of its own. Meanwhile the
//! laptop finds itself on another network again and again, so that every tunnel shakes hands.

use super::Tally;
use crate::exchange::Outcome;
use crate::lab::impairment::{Impairment, parse_delay, parse_share};
use crate::lab::topology::OUTSIDE_LINK;
use crate::lab::{LabError, Name, Options, World};
use crate::perimeter::{Perimeter, Plan, StepError, done, umbra};
use crate::service::{EXCHANGE_PORT, Services, ZONE, start_exchange};
use anyhow::{Context as _, ensure};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Of sixteen parts of the bytes, so many go one datagram at a time.
const ONE_BY_ONE: u64 = 1;
/// The pause between two other networks, while bytes flow.
const REKEY_EVERY: Duration = Duration::from_secs(1);
/// How long anything but the bytes may take.
const STEP: Duration = Duration::from_secs(20);
/// Slower than this is broken: bytes a second.
const PACE_MIN: u64 = 200_000;
/// An answer to a handshake: 92 bytes, and UDP's own 8.
const RESPONSE: &str = "100";

/// How `check stream` is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How much goes through in all, both ways together: bytes, or such as 500M and 20G
    #[arg(long, default_value = "2G", value_parser = parse_bytes)]
    bytes: u64,
    /// The part of all packets outside that is lost
    #[arg(long, default_value = "1%", value_parser = parse_share)]
    loss: f64,
    /// The part of all packets outside that is overtaken
    #[arg(long, default_value = "1%", value_parser = parse_share)]
    reorder: f64,
    /// How long nothing may come
    #[arg(long, default_value = "1s", value_parser = parse_delay)]
    stall: Duration,
}

/// Reads `1500`, `500M` or `20G`.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let units = [("G", 1_000_000_000), ("M", 1_000_000), ("", 1)];
    let read = |(unit, size): (&str, u64)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(size);
    units.into_iter().find_map(read).ok_or_else(|| format!("{text:?} is no amount: write for example 500M or 20G"))
}

/// Sends all bytes.
pub fn check(arguments: &Arguments) -> anyhow::Result<Tally> {
    let mut tally = Tally::new("stream", &["differing", "broken", "stalls", "without a rekey"]);
    let bad = Impairment { delay: Duration::ZERO, loss: arguments.loss, reorder: arguments.reorder };
    let impaired = BTreeMap::from([(Name::Laptop, bad)]);
    let mut world = World::start(&Options { impaired, ..Options::default() })?;
    let _services = Services::start(&world)?;
    let _exchange = start_exchange(&world)?;
    let resource_options = vec![format!("--tcp={EXCHANGE_PORT}")];
    let plan = Plan { laptops: vec![Name::Laptop], resource_options, ..Plan::default() };
    let _perimeter = Perimeter::start(&world, &plan)?;
    count_handshakes(&world)?;
    let virtual_addresses = addresses(&world)?;
    // A quarter for each pair of families, half of it each way.
    let each_way = arguments.bytes / 8;
    for outside in ["IPv4", "IPv6"] {
        live_on(&mut world, outside)?;
        for inside in &virtual_addresses {
            let slow = each_way * ONE_BY_ONE / 16;
            for (how, bytes) in [("in trains", each_way - slow), ("one by one", slow)] {
                // The kernel cuts a message into datagrams before this link.
                let segments = if how == "in trains" { "65535" } else { "1" };
                for host in [Name::Laptop, Name::Gateway] {
                    done(&world, host, &["ip", "link", "set", "dev", OUTSIDE_LINK, "gso_max_segs", segments])?;
                }
                let leg = Leg { world: &world, to: *inside, bytes };
                let label = format!("{outside} outside, {} inside, {how}", family(*inside));
                leg.run(&label, arguments.stall, &mut tally)?;
            }
        }
    }
    Ok(tally)
}

const fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Both virtual addresses of the service.
fn addresses(world: &World) -> anyhow::Result<Vec<IpAddr>> {
    let started = Instant::now();
    loop {
        let named = world.host(Name::Laptop).run(&["umbra-lab", "probe", "name", &format!("web.{ZONE}")], STEP)?;
        let found: Vec<IpAddr> = named.stdout.lines().filter_map(|line| line.parse().ok()).collect();
        if found.len() == 2 {
            return Ok(found);
        }
        ensure!(started.elapsed() < STEP, "no addresses of both families: {named:?}");
    }
}

/// Takes the other family away from the laptop's outside link, and waits until traffic passes.
fn live_on(world: &mut World, outside: &str) -> anyhow::Result<()> {
    let own = Name::Laptop.outside();
    for address in own {
        let (prefix, wanted) = if address.is_ipv4() { (24, "IPv4") } else { (64, "IPv6") };
        let word = if wanted == outside { "replace" } else { "del" };
        let mut words = vec!["ip".to_owned(), "address".to_owned(), word.to_owned(), format!("{address}/{prefix}")];
        words.extend(["dev", OUTSIDE_LINK].map(str::to_owned));
        if word == "replace" && address.is_ipv6() {
            words.push("nodad".to_owned());
        }
        done(world, Name::Laptop, &words.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    let started = Instant::now();
    loop {
        let asked =
            world.host(Name::Laptop).run(&["umbra-lab", "probe", "echo", &format!("web.{ZONE}:7"), "hello"], STEP)?;
        if asked.success() {
            return Ok(());
        }
        ensure!(started.elapsed() < STEP, "nothing passes with {outside} outside: {asked:?}");
    }
}

/// Lets the laptop's kernel count the answers to handshakes that come.
fn count_handshakes(world: &World) -> Result<(), StepError> {
    let table = format!(
        "add table inet stream; add chain inet stream in {{ type filter hook input priority -200; }}; \
         add rule inet stream in udp length {RESPONSE} counter"
    );
    done(world, Name::Laptop, &["nft", &table]).map(drop)
}

fn handshakes(world: &World) -> anyhow::Result<u64> {
    let listed = done(world, Name::Laptop, &["nft", "list", "table", "inet", "stream"])?.stdout;
    let counted = listed.split_once("packets ").and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
    counted.with_context(|| format!("no count of handshakes: {listed}"))
}

/// One exchange.
struct Leg<'a> {
    world: &'a World,
    to: IpAddr,
    bytes: u64,
}

impl Leg<'_> {
    fn run(&self, label: &str, stall: Duration, tally: &mut Tally) -> anyhow::Result<()> {
        let before = handshakes(self.world)?;
        let outcome = self.exchange()?;
        let rekeys = handshakes(self.world)? - before;
        tally.tried("MB", 2 * self.bytes / 1_000_000);
        tally.tried("rekeys", rekeys);
        let mut out = io::stdout().lock();
        match outcome {
            Err(why) => {
                tally.wrong("broken", 1);
                writeln!(out, "{label}: broken: {why}")?;
            }
            Ok(outcome) => {
                // What is over at once has no time for one.
                let late = Duration::from_millis(outcome.took_ms) > 5 * REKEY_EVERY;
                tally.wrong("without a rekey", u64::from(rekeys == 0 && late));
                tally.wrong("differing", u64::from(!outcome.is_same()));
                tally.wrong("stalls", u64::from(outcome.gap() > stall));
                writeln!(
                    out,
                    "{label}: {} MB each way in {} ms, {rekeys} handshakes, longest gap {} ms, {}",
                    outcome.bytes / 1_000_000,
                    outcome.took_ms,
                    outcome.gap().as_millis(),
                    if outcome.is_same() { "the same at both ends" } else { "NOT the same at both ends" }
                )?;
            }
        }
        Ok(())
    }

    /// The exchange, on a laptop that changes its network all the while.
    fn exchange(&self) -> anyhow::Result<Result<Outcome, String>> {
        let (to, bytes) = (SocketAddr::new(self.to, EXCHANGE_PORT).to_string(), self.bytes.to_string());
        let words = ["umbra-lab", "probe", "--patience=30000", "exchange", &to, &bytes];
        let limit = STEP + Duration::from_secs(self.bytes / PACE_MIN);
        let finished = thread::scope(|scope| {
            let (sender, ended) = channel::<()>();
            let running = scope.spawn(move || {
                let finished = self.world.host(Name::Laptop).run(&words, limit);
                drop(sender);
                finished
            });
            let mut there = false;
            loop {
                // The end of the exchange ends the pause.
                self.move_house(there)?;
                there = !there;
                if ended.recv_timeout(REKEY_EVERY) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            self.move_house(true)?;
            Ok::<_, anyhow::Error>(
                running.join().unwrap_or_else(|_| Err(LabError::Fabric("the exchange panicked".to_owned()))),
            )
        })?;
        let finished = finished?;
        if !finished.success() {
            return Ok(Err(format!("{}; {}", finished.stderr.trim(), self.state())));
        }
        Ok(Ok(serde_json::from_str(&finished.stdout).with_context(|| finished.stdout.clone())?))
    }

    /// An address comes to the laptop, or goes: to its client that is another network, and all tunnels shake hands.
    fn move_house(&self, back: bool) -> Result<(), StepError> {
        let word = if back { "del" } else { "replace" };
        match done(self.world, Name::Laptop, &["ip", "address", word, "198.51.100.7/32", "dev", "lo"]) {
            // It is away already.
            Err(StepError::Failed { .. }) if back => Ok(()),
            moved => moved.map(drop),
        }
    }

    fn state(&self) -> String {
        umbra(self.world, Name::Laptop, &["status"]).map_or_else(|error| error.to_string(), |said| said.stdout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read() {
        assert_eq!(parse_bytes("20G"), Ok(20_000_000_000));
        assert_eq!(parse_bytes("500M"), Ok(500_000_000));
        assert_eq!(parse_bytes("17"), Ok(17));
        for text in ["", "G", "-1", "2T", "99999999999999999999G"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
