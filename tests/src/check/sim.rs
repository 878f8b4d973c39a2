//! Is what is forwarded exactly what may be, whatever happens in whichever order? A whole organisation in one process and in
//! virtual time, under a seed, against a plain reference model.
//!
//! | file | question |
//! |---|---|
//! | `reference` | what may pass? (knows nothing of the code below) |
//! | `stage` | who is there? |
//! | `script` | what happens? |
//! | `world` | when does it happen, and what does the network do with it? |
//! | `controller`, `gateway`, `client` | the three programs, around their real parts |
//! | `evil` | what a hostile gateway does besides |
//! | `parts` | random numbers, clocks, packets |
//! | `seeds.txt` | seeds that found something; they are played first (a seed means the same only as long as the script does, so what each found has a test of its own) |
//!
//! Real are `policy`, `grant`, `tunnel::Engine` with all that it is made of but WireGuard itself ([`tunnel::double`]), the
//! directory, judge and review of `controller`, `gateway::follow`, and `client`'s book, catalogue and plan. Played by a
//! synchronous hand, and so left to other tests, are the tasks around them: the store (one writer, nothing lost; see
//! `check power`), transactions that conflict, gRPC and TLS, the control tunnels, enrolment, and the kernel but for its
//! list of tracked sources.
//!
//! That it can fail was tried by breaking the code; docs/immunity.md lists how.

mod client;
mod controller;
mod evil;
mod gateway;
pub(crate) mod parts;
mod reference;
mod script;
mod stage;
mod world;

use super::Tally;
use reference::{Kind, Wrong};
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Seeds that found something once: one a line, then what.
const KEPT: &str = include_str!("sim/seeds.txt");

/// Each so many-th seed is played to its end: everything is healed and quiet, and what is permitted must pass. That takes as
/// long as all of the rest.
const SETTLES: u64 = 3;

/// How `check sim` is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// So many seeds, from 1 on, after those that found something once
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// Only this seed, with a trace of its end
    #[arg(long)]
    seed: Option<u64>,
    /// What may happen in each
    #[arg(long, default_value_t = 150)]
    steps: u64,
    /// Go on after a seed that fails
    #[arg(long)]
    all: bool,
}

/// What came of one seed.
struct Played {
    wrong: Vec<Wrong>,
    trace: Vec<String>,
    panicked: bool,
    packets: u64,
    ends: u64,
}

fn play(seed: u64, steps: u64, traced: bool) -> Played {
    let mut trace = Vec::new();
    let played = catch_unwind(AssertUnwindSafe(|| {
        let Some((mut world, mut facts)) = stage::set(seed, traced) else {
            let what = "the stage could not be set".to_owned();
            return (vec![Wrong { kind: Kind::Lost, what }], 0, 0);
        };
        script::play(&mut world, &mut facts, steps, seed.is_multiple_of(SETTLES));
        trace.extend(world.trace().cloned());
        let (packets, ends) = world.reference.tally();
        (world.wrong, packets, ends)
    }));
    match played {
        Ok((wrong, packets, ends)) => Played { wrong, trace, panicked: false, packets, ends },
        Err(_) => Played { wrong: Vec::new(), trace, panicked: true, packets: 0, ends: 0 },
    }
}

fn kept() -> impl Iterator<Item = u64> {
    KEPT.lines().filter_map(|line| line.split_whitespace().next()).filter_map(|seed| seed.parse().ok())
}

/// Plays all seeds.
pub fn check(arguments: &Arguments) -> anyhow::Result<Tally> {
    let mut tally = Tally::new("sim", &["lost", "alive", "leaked", "panics"]);
    let seeds: Vec<u64> = match arguments.seed {
        Some(seed) => vec![seed],
        None => kept().chain(1..=arguments.seeds).collect(),
    };
    for (seed, played) in play_all(&seeds, arguments) {
        tally.tried("seeds", 1);
        tally.tried("packets", played.packets);
        tally.tried("grants ended", played.ends);
        tally.wrong("panics", u64::from(played.panicked));
        for wrong in &played.wrong {
            let kind = match wrong.kind {
                Kind::Lost => "lost",
                Kind::Alive => "alive",
                Kind::Leaked => "leaked",
            };
            tally.wrong(kind, 1);
        }
        if played.panicked || !played.wrong.is_empty() {
            report(seed, arguments.steps, played)?;
        }
    }
    Ok(tally)
}

/// Plays the seeds, on as many threads as there are cores; answers in their order, and only up to the first that fails, unless
/// all are wanted.
fn play_all(seeds: &[u64], arguments: &Arguments) -> Vec<(u64, Played)> {
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(seed) = seeds.get(at).filter(|_| arguments.all || at < failed.load(Ordering::Relaxed)) else {
                return done;
            };
            let played = play(*seed, arguments.steps, arguments.seed.is_some());
            if played.panicked || !played.wrong.is_empty() {
                failed.fetch_min(at, Ordering::Relaxed);
            }
            done.push((at, *seed, played));
        }
    };
    let mut all: Vec<(usize, u64, Played)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).flatten().collect()
    });
    all.sort_by_key(|(at, _, _)| *at);
    let last = if arguments.all { usize::MAX } else { failed.load(Ordering::Relaxed) };
    all.into_iter().filter(|(at, _, _)| *at <= last).map(|(_, seed, played)| (seed, played)).collect()
}

fn report(seed: u64, steps: u64, played: Played) -> anyhow::Result<()> {
    let again = if played.trace.is_empty() { play(seed, steps, true) } else { played };
    let mut out = io::stdout().lock();
    for line in &again.trace {
        writeln!(out, "{line}")?;
    }
    for wrong in &again.wrong {
        writeln!(out, "seed {seed}: {:?}: {}", wrong.kind, wrong.what)?;
    }
    if again.panicked {
        writeln!(out, "seed {seed}: it panicked")?;
    }
    writeln!(out, "again: umbra-lab check sim --seed {seed} --steps {steps}")?;
    Ok(())
}
