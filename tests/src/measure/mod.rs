//! What does the whole system take for a revoke, and for the first byte of a resource?
//!
//! Each figure comes from real programs in a network of its own. Times are those of the machine's clock, and of
//! packets at the services the kernel's stamps; the programs, the services and the witnesses share the machine's processors.

mod crowd;
mod first_byte;
mod revoke;
mod talk;
pub mod witness;

pub use first_byte::FirstByte;
pub use revoke::{Cause, Revoke, Round};

use crate::lab::impairment::parse_delay;
use crate::lab::{Impairment, Name, Options};
use anyhow::Context as _;
use clap::Subcommand;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

/// How `measure` is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// From a revoke to the last packet of a live flow
    Revoke {
        /// How often
        #[arg(long, default_value_t = 10)]
        count: usize,
        /// How many clients are at work; another one's access ends each time
        #[arg(long, default_value_t = 1)]
        clients: usize,
        /// What ends the access
        #[arg(long, value_enum, default_value_t = Cause::Session)]
        cause: Cause,
    },
    /// From the first packet to the first byte of the answer, where no grant was
    FirstByte {
        /// How often
        #[arg(long, default_value_t = 50)]
        count: usize,
        /// The laptop's link to everybody is so slow each way: 10ms makes a round trip of 20 ms
        #[arg(long, default_value = "10ms", value_parser = parse_delay)]
        delay: Duration,
    },
}

/// Takes the figure and prints it: for people, then one line of JSON.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut out = io::stdout();
    match &arguments.what {
        What::Revoke { count, clients, cause } => {
            let rounds = revoke::measure(&Options::default(), *cause, *clients, *count)?;
            rounds.write(&mut out)?;
        }
        What::FirstByte { count, delay } => {
            let impairment = Impairment { delay: *delay, ..Impairment::default() };
            let options = Options { impaired: [(Name::Laptop, impairment)].into(), ..Options::default() };
            first_byte::measure(&options, *count)?.write(*delay, &mut out)?;
        }
    }
    Ok(())
}

/// Runs `count` revokes by `cause` in a new world with so many clients at work.
pub fn measure_revoke(options: &Options, cause: Cause, clients: usize, count: usize) -> anyhow::Result<Revoke> {
    revoke::measure(options, cause, clients, count)
}

/// Takes `count` first bytes in a new world.
pub fn measure_first_byte(options: &Options, count: usize) -> anyhow::Result<FirstByte> {
    first_byte::measure(options, count)
}

/// Microseconds of the machine's clock, the same in each process.
fn now_micros() -> anyhow::Result<i64> {
    micros_of(SystemTime::now())
}

fn micros_of(time: SystemTime) -> anyhow::Result<i64> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).context("the clock stands before 1970")?;
    Ok(i64::try_from(since.as_micros())?)
}

/// Of some figures the middle one, the one that 99 of 100 do not exceed, and the largest.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Spread {
    /// Median, in milliseconds.
    pub p50: f64,
    /// In milliseconds.
    pub p99: f64,
    /// In milliseconds.
    pub max: f64,
}

impl Spread {
    /// Of microseconds, by nearest rank; None of none.
    pub fn of(mut micros: Vec<i64>) -> Option<Self> {
        micros.sort_unstable();
        let rank = |percent: usize| micros.get((micros.len() * percent).div_ceil(100).checked_sub(1)?).copied();
        let ms = |micros: i64| micros as f64 / 1000.0;
        Some(Self { p50: ms(rank(50)?), p99: ms(rank(99)?), max: ms(rank(100)?) })
    }
}

fn write_spread(what: &str, spread: Option<Spread>, out: &mut impl Write) -> io::Result<()> {
    match spread {
        Some(Spread { p50, p99, max }) => {
            writeln!(out, "{what:<48} p50 {p50:8.1} ms   p99 {p99:8.1} ms   max {max:8.1} ms")
        }
        None => writeln!(out, "{what:<48} nothing measured"),
    }
}

/// A figure of a debug build is another figure.
const fn build() -> &'static str {
    if cfg!(debug_assertions) { "debug" } else { "release" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_nearest_ranks() {
        let spread = Spread::of((1..=100).map(|n| n * 1000).rev().collect());
        assert_eq!(spread, Some(Spread { p50: 50.0, p99: 99.0, max: 100.0 }));
        assert_eq!(Spread::of(vec![-1500]), Some(Spread { p50: -1.5, p99: -1.5, max: -1.5 }));
        assert_eq!(Spread::of(Vec::new()), None);
    }
}
