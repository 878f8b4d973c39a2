//! Does Umbra hold on the day when things go wrong? Each check makes one kind of such a day, many times, and counts.
//!
//! A check prints what it tries, and at last one line like `check power: 200 kills, 40 power cuts, 0 lost, 0 alive`. Its
//! exit code says whether everything that may not happen was counted zero times, and something was tried at all.

pub mod flood;
pub mod hostile;
pub mod kill;
pub mod limits;
pub mod parsers;
pub mod power;
pub mod rotate;
pub mod sim;
pub mod stream;

use clap::Subcommand;
use std::fmt;
use std::io::{self, Write};
use std::process::{Child, ExitCode};

/// Which check?
#[derive(Debug, Subcommand)]
pub enum Arguments {
    /// Kill the store's process and cut the power of its disk, at random moments under load
    Power(power::Arguments),
    /// Kill clients and gateways at random moments: what leaks, and what stays?
    Kill(kill::Arguments),
    /// Play a whole organisation in virtual time, seed after seed, against a plain model of what may pass
    Sim(sim::Arguments),
    /// Put a laptop on a network that lies about routes, and make noise at every port: what leaks, what answers, who falls over?
    Hostile(hostile::Arguments),
    /// Throw changed inputs at every parser: is there one with which it panics, hangs or breaks its word?
    Parsers(parsers::Arguments),
    /// Flood a gateway with handshakes: does a download keep its speed, the gateway its memory, and does a newcomer get in?
    Flood(flood::Arguments),
    /// Ask for one more of everything than there may be: who is refused, and who loses anything?
    Limits(limits::Arguments),
    /// Turn the nodes' control keys and certificates over again and again, under downloads: does one of them break?
    Rotate(rotate::Arguments),
    /// Send a stream both ways over a path that loses and swaps packets, while all tunnels shake hands: is it the same at both ends?
    Stream(stream::Arguments),
}

/// Runs the check and prints its last line.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let tally = match arguments {
        Arguments::Power(arguments) => power::check(arguments)?,
        Arguments::Kill(arguments) => kill::check(arguments)?,
        Arguments::Sim(arguments) => sim::check(arguments)?,
        Arguments::Hostile(arguments) => hostile::check(arguments)?,
        Arguments::Parsers(arguments) => parsers::check(arguments)?,
        Arguments::Flood(arguments) => flood::check(arguments)?,
        Arguments::Limits(arguments) => limits::check(arguments)?,
        Arguments::Rotate(arguments) => rotate::check(arguments)?,
        Arguments::Stream(arguments) => stream::check(arguments)?,
    };
    writeln!(io::stdout(), "{tally}")?;
    Ok(if tally.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A process of a check that ends with its value.
pub struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// What a check has tried, and how often happened what may not happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    name: &'static str,
    tried: Vec<(&'static str, u64)>,
    wrong: Vec<(&'static str, u64)>,
}

impl Tally {
    /// Nothing tried yet; `wrong` names what may not happen.
    pub fn new(name: &'static str, wrong: &[&'static str]) -> Self {
        Self { name, tried: Vec::new(), wrong: wrong.iter().map(|what| (*what, 0)).collect() }
    }
    /// Something was tried so many times.
    pub fn tried(&mut self, what: &'static str, count: u64) {
        add(&mut self.tried, what, count);
    }
    /// Something happened so many times that may not happen.
    pub fn wrong(&mut self, what: &'static str, count: u64) {
        add(&mut self.wrong, what, count);
    }
    /// Was anything tried, and did nothing go wrong?
    pub fn holds(&self) -> bool {
        self.tried.iter().any(|(_, count)| *count > 0) && self.wrong.iter().all(|(_, count)| *count == 0)
    }
}

fn add(to: &mut Vec<(&'static str, u64)>, what: &'static str, count: u64) {
    match to.iter_mut().find(|(name, _)| *name == what) {
        Some((_, sum)) => *sum += count,
        None => to.push((what, count)),
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.tried.iter().chain(&self.wrong).map(|(what, n)| format!("{n} {what}")).collect();
        write!(f, "check {}: {}", self.name, parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_holds_when_something_was_tried_and_nothing_went_wrong() {
        let mut tally = Tally::new("power", &["lost", "alive"]);
        assert!(!tally.holds(), "nothing was tried");
        tally.tried("kills", 150);
        tally.tried("kills", 50);
        assert_eq!(tally.to_string(), "check power: 200 kills, 0 lost, 0 alive");
        assert!(tally.holds());
        tally.wrong("alive", 1);
        assert_eq!(tally.to_string(), "check power: 200 kills, 0 lost, 1 alive");
        assert!(!tally.holds());
    }
}
