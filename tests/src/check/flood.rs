//! Do those who are there keep what they have when somebody floods a gateway with handshakes?
//!
//! A laptop downloads through the gateway; for a while a stranger beside it sends initiations from forged addresses: first such
//! whose MAC1 does not hold (he does not know the gateway's key), then such whose MAC1 does. How fast the download is with and
//! without the flood, how the gateway's own memory grows, and how long another laptop takes to come in meanwhile, is told.
//!
//! The sender shares the machine's processors with all the others, which a real one would not. So there is a flood of the same
//! rate into the void, too, sent to a machine that drops it at once: what the download keeps is told beside that, and beside no flood
//! at all; the former is what is asked for.

use super::Tally;
use crate::bench::figures::median;
use crate::lab::topology::OUTSIDE_LINK;
use crate::lab::{Name, Options, World};
use crate::perimeter::{Perimeter, Plan, done, umbra};
use crate::service::{HTTP_PORT, Services, ZONE};
use anyhow::{Context as _, ensure};
use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How `check flood` is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Initiations a second
    #[arg(long, default_value_t = 100_000)]
    rate: u64,
    /// How long each download, and so each flood, lasts
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How often each flood comes
    #[arg(long, default_value_t = 3)]
    rounds: u64,
    /// Percent of its speed that the download has to keep, in the median of the rounds; 0 asks for no speed
    #[arg(long, default_value_t = 80)]
    least: u32,
}

/// What the gateway's own memory may grow by, KiB.
const GROWTH_MAX: u64 = 1 << 10;
/// How long a newcomer may take.
const NEWCOMER_MAX: Duration = Duration::from_secs(3);
/// How long anything may take besides.
const SOON: Duration = Duration::from_secs(30);
/// The pause between two looks at the memory.
const PAUSE: Duration = Duration::from_millis(50);
/// Seconds by which a flood is longer than the download, which takes a moment to begin and to end.
const LONGER: u64 = 2;
/// Whose address no host has.
const NOBODY: [u8; 4] = [203, 0, 113, 250];
/// Where the forged addresses lie: answers to them go back to the stranger.
const FORGED: &str = "172.16.0.0/16";

/// Who floods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Does not know the key.
    Stranger,
    /// Knows it.
    Knows,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Stranger => "MAC1 does not hold",
            Self::Knows => "MAC1 holds",
        }
    }

    /// The counters of the gateway that tell of this flood.
    const fn reasons(self) -> &'static [&'static str] {
        match self {
            Self::Stranger => &["udp_mac1"],
            Self::Knows => &["udp_cookie_asked", "udp_cookie_rate", "udp_source_rate", "udp_unknown_sender"],
        }
    }
}

struct Scene {
    world: World,
    gateway: u32,
    key: String,
}

/// What one flood did.
struct Outcome {
    quiet: f64,
    beside: f64,
    flooded: f64,
    growth: u64,
    newcomer: Option<Duration>,
    sent: u64,
    cost: f64,
    counted: u64,
}

/// Floods, round after round.
pub fn check(arguments: &Arguments) -> anyhow::Result<Tally> {
    let mut tally = Tally::new("flood", &["slow", "grown", "late", "uncounted"]);
    let world = World::start(&Options::default())?;
    let _services = Services::start(&world)?;
    let perimeter = Perimeter::start(&world, &Plan::default())?;
    let gateway = perimeter.gateways.get(&Name::Gateway).context("there is no gateway")?.pid();
    let stranger = Name::Stranger.outside().first().context("the stranger has no address")?.to_string();
    let back = ["umbra-lab", "__attack", "route", FORGED, "--link", OUTSIDE_LINK, "--via", &stranger];
    done(&world, Name::Gateway, &back)?;
    let key = done(&world, Name::Gateway, &["umbra-lab", "__attack", "key", "/var/lib/umbra/gateway"])?.stdout;
    let scene = Scene { world, gateway, key: key.trim().to_owned() };
    // Once for nothing: what the path needs, it has from then on.
    scene.download(arguments.seconds.min(2))?;
    for kind in [Kind::Stranger, Kind::Knows] {
        let (mut kept, mut of_quiet) = (Vec::new(), Vec::new());
        for _ in 0..arguments.rounds {
            let outcome = scene.flood(kind, arguments)?;
            kept.push(100.0 * outcome.flooded / outcome.beside);
            of_quiet.push(100.0 * outcome.flooded / outcome.quiet);
            tally.tried("initiations", outcome.sent);
            tell(kind, &outcome, arguments)?;
            tally.wrong("grown", u64::from(outcome.growth > GROWTH_MAX));
            let in_time = outcome.newcomer.is_some_and(|took| arguments.least == 0 || took <= NEWCOMER_MAX);
            tally.wrong("late", u64::from(!in_time));
            // Some of a flood may be lost on its way; a gateway that counts next to nothing was not flooded.
            tally.wrong("uncounted", u64::from(outcome.counted < outcome.sent / 10));
        }
        let (kept, of_quiet) = (median(kept).context("no round")?, median(of_quiet).context("no round")?);
        writeln!(
            io::stdout(),
            "{}: the download keeps {kept:.0} % of its speed beside such a sender, {of_quiet:.0} % of that without one (medians)",
            kind.name()
        )?;
        tally.wrong("slow", u64::from(kept < f64::from(arguments.least)));
    }
    Ok(tally)
}

fn tell(kind: Kind, outcome: &Outcome, arguments: &Arguments) -> io::Result<()> {
    let Outcome { quiet, beside, flooded, growth, newcomer, sent, cost, counted } = outcome;
    let newcomer = newcomer.map_or("never".to_owned(), |took| format!("after {:.1} s", took.as_secs_f64()));
    writeln!(
        io::stdout(),
        "{}: {:.2} Gbit/s, beside a sender {:.2}, flooded {:.2}; {} KiB more, a newcomer is in {newcomer}; {} initiations/s sent ({:.0} % of a processor), \
         {} % of them counted",
        kind.name(),
        quiet * 8.0 / 1e9,
        beside * 8.0 / 1e9,
        flooded * 8.0 / 1e9,
        growth,
        sent / (arguments.seconds + LONGER),
        100.0 * cost / (arguments.seconds + LONGER) as f64,
        100 * counted / sent.max(&1),
    )
}

impl Scene {
    /// Bytes a second.
    fn download(&self, seconds: u64) -> anyhow::Result<f64> {
        let (from, seconds_text) = (format!("web.{ZONE}:{HTTP_PORT}"), seconds.to_string());
        let words = ["umbra-lab", "__attack", "download", &from, &seconds_text];
        let finished = self.world.host(Name::Laptop).run(&words, SOON + Duration::from_secs(2 * seconds))?;
        ensure!(finished.success(), "the download failed: {finished:?}");
        Ok(finished.stdout.trim().parse()?)
    }

    /// Memory of the gateway that no file stands behind, KiB.
    fn memory(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.gateway)).context("the gateway has ended")?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
        Ok(line.split_whitespace().next().context("no number")?.parse()?)
    }

    /// How often the gateway has counted these.
    fn counted(&self, kind: Kind) -> anyhow::Result<u64> {
        let status = done(&self.world, Name::Gateway, &["umbra-gateway", "status", "--json"])?;
        let status: serde_json::Value = serde_json::from_str(&status.stdout)?;
        let drops = status.get("drops").context("no drops")?;
        let of = |reason: &&str| drops.get(reason).and_then(serde_json::Value::as_u64).unwrap_or_default();
        Ok(kind.reasons().iter().map(of).sum())
    }

    fn flood(&self, kind: Kind, arguments: &Arguments) -> anyhow::Result<Outcome> {
        // The newcomer has no tunnel to the gateway yet.
        umbra(&self.world, Name::Laptop2, &["down"])?;
        umbra(&self.world, Name::Laptop2, &["up"])?;
        let quiet = self.download(arguments.seconds)?;
        let pour = |at: Name, to: SocketAddr| self.pour(kind, at, to, arguments);
        let beside = thread::scope(|scope| {
            let pouring = scope.spawn(|| pour(Name::Gateway2, SocketAddr::from((NOBODY, 443))));
            let beside = self.download(arguments.seconds);
            pouring.join().map_err(|_| anyhow::anyhow!("a thread broke"))??;
            beside
        })?;
        let (memory, counted) = (self.memory()?, self.counted(kind)?);
        let to = *Name::Gateway.outside().first().context("the gateway has no address")?;
        let over = AtomicBool::new(false);
        let ((flooded, poured), newcomer, highest) = thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut highest = memory;
                while !over.load(Ordering::Relaxed) {
                    highest = highest.max(self.memory().unwrap_or_default());
                    thread::sleep(PAUSE);
                }
                highest
            });
            let pouring = scope.spawn(|| pour(Name::Gateway, SocketAddr::new(to, 443)));
            let newcomer = scope.spawn(|| self.come_in());
            let flooded = self.download(arguments.seconds);
            let poured = pouring.join();
            let newcomer = newcomer.join();
            over.store(true, Ordering::Relaxed);
            ((flooded, poured), newcomer, watch.join())
        });
        let broke = |_| anyhow::anyhow!("a thread broke");
        let (sent, cost) = poured.map_err(broke)??;
        let (newcomer, highest) = (newcomer.map_err(broke)?, highest.map_err(broke)?);
        let after = self.download(arguments.seconds)?;
        let counted = self.counted(kind)?.saturating_sub(counted);
        let growth = highest.saturating_sub(memory);
        // Before and after: the machine may be busy with other things, too.
        let quiet = f64::midpoint(quiet, after);
        Ok(Outcome { quiet, beside, flooded: flooded?, growth, newcomer, sent, cost, counted })
    }

    /// Sends into the link of a host; how many that were, and the processor time that it took.
    fn pour(&self, kind: Kind, at: Name, to: SocketAddr, arguments: &Arguments) -> anyhow::Result<(u64, f64)> {
        let seconds = arguments.seconds + LONGER;
        let mac = done(&self.world, at, &["umbra-lab", "__attack", "mac", OUTSIDE_LINK])?.stdout;
        let (to, rate, lasts) = (to.to_string(), arguments.rate.to_string(), seconds.to_string());
        let words =
            ["umbra-lab", "__attack", "pour", OUTSIDE_LINK, mac.trim(), &to, "--rate", &rate, "--lasts", &lasts];
        let key = ["--key", &self.key];
        let words = [&words[..], if kind == Kind::Knows { &key } else { &[] }].concat();
        let finished = self.world.host(Name::Stranger).run(&words, SOON + Duration::from_secs(seconds))?;
        ensure!(finished.success(), "the flood failed: {finished:?}");
        let mut numbers = finished.stdout.split_whitespace();
        let (sent, cost) = (numbers.next().context("no count")?, numbers.next().context("no time")?);
        Ok((sent.parse()?, cost.parse()?))
    }

    /// How long the other laptop takes to its first answer.
    fn come_in(&self) -> Option<Duration> {
        // The flood is at its height by then.
        thread::sleep(Duration::from_secs(1));
        let started = Instant::now();
        let page = format!("http://web.{ZONE}/");
        let words = ["umbra-lab", "probe", "--patience=1000", "http", &page];
        while started.elapsed() < SOON {
            let finished = self.world.host(Name::Laptop2).run(&words, SOON).ok()?;
            if finished.success() && !finished.stdout.is_empty() {
                return Some(started.elapsed());
            }
        }
        None
    }
}
