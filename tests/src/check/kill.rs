//! Does anything leak while a client or a gateway is dead, and does anything stay when it was started again?
//!
//! Programs are killed (SIGKILL) at random moments of each phase of their lives, under traffic. From the moment at which a client
//! is up until somebody tells it to stop, nothing for overlay addresses, private names or (unless the session is being revoked) real
//! addresses of resources may leave the laptop in the clear, whoever is dead or starting; and a gateway's host never passes on what is no reply to a grant.

pub mod nag;
pub mod stage;

use super::Tally;
use crate::lab::{Daemon, LabError, Name};
use crate::leaks::Watch;
use anyhow::Context as _;
use host::entropy;
use host::namespace::Signal;
use stage::{SOON, Stage, in_background};
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

/// How `check kill` is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// In so many rounds a client is killed
    #[arg(long, default_value_t = 100)]
    clients: u64,
    /// In so many rounds a gateway is killed
    #[arg(long, default_value_t = 100)]
    gateways: u64,
    /// The moments of an earlier run
    #[arg(long)]
    seed: Option<u64>,
}

/// In which part of its life a program is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It starts, where another one died before.
    Start,
    /// It has just reached the controller.
    Joined,
    /// Traffic passes.
    Connected,
    /// A session is being revoked.
    Revoking,
    /// It was told to stop.
    Stopping,
}

impl Phase {
    const ALL: [Self; 5] = [Self::Connected, Self::Start, Self::Stopping, Self::Revoking, Self::Joined];

    fn of_round(round: u64) -> Self {
        let place = usize::try_from(round).unwrap_or_default() % Self::ALL.len();
        Self::ALL.get(place).copied().unwrap_or(Self::Start)
    }

    /// How long the phase lasts, roughly: the moment lies within.
    const fn lasts(self) -> Duration {
        Duration::from_millis(match self {
            Self::Start => 900,
            Self::Joined | Self::Connected => 500,
            Self::Revoking => 150,
            Self::Stopping => 250,
        })
    }
}

/// Random numbers that come again with their seed (Steele, Lea and Flood 2014, SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit.max(1)
    }

    /// Lets a random part of the phase pass: at a moment, not at an event, on purpose.
    fn wait_within(&mut self, phase: Phase) {
        let most = u64::try_from(phase.lasts().as_micros()).unwrap_or_default();
        thread::sleep(Duration::from_micros(self.below(most)));
    }
}

/// Runs all rounds.
pub fn check(arguments: &Arguments) -> anyhow::Result<Tally> {
    let seed = arguments.seed.map_or_else(|| entropy::random().map(u64::from_ne_bytes), Ok)?;
    writeln!(io::stdout(), "seed {seed}")?;
    let mut dice = Dice(seed);
    let mut tally = Tally::new("kill", &["leaked", "left behind"]);
    let mut stage = Stage::set()?;
    for round in 0..arguments.clients {
        let phase = Phase::of_round(round);
        let trouble = kill_client(&mut stage, &mut dice, phase, round, &mut tally);
        trouble.with_context(|| format!("client, round {round}, {phase:?}"))?;
    }
    stage.client_is_up()?;
    for round in 0..arguments.gateways {
        let phase = Phase::of_round(round);
        let trouble = kill_gateway(&mut stage, &mut dice, phase, &mut tally);
        trouble.with_context(|| format!("gateway, round {round}, {phase:?}"))?;
    }
    Ok(tally)
}

fn kill_client(stage: &mut Stage, dice: &mut Dice, phase: Phase, round: u64, tally: &mut Tally) -> anyhow::Result<()> {
    stage.client_is_up()?;
    if matches!(phase, Phase::Connected | Phase::Revoking) {
        stage.is_reached()?;
    }
    let watch = stage.watch_laptop(phase != Phase::Revoking)?;
    let _nag = stage.nag_laptop()?;
    if phase == Phase::Start {
        kill(&stage.client, tally)?;
        stage.client.restart()?;
    }
    if phase == Phase::Stopping {
        // Whoever stops a client opens everything: that is looked at before.
        settle(stage, Name::Laptop, watch, phase, tally)?;
        let down = (dice.below(2) == 0).then(|| in_background(&stage.world, Name::Laptop, &["umbra", "down"]));
        if down.is_none() {
            stage.client.signal(Signal::Terminate);
        }
        dice.wait_within(phase);
        kill(&stage.client, tally)?;
        down.transpose()?.map(|mut down| down.wait()).transpose()?;
    } else {
        let revoke = (phase == Phase::Revoking).then(|| stage.revoke()).transpose()?;
        dice.wait_within(phase);
        kill(&stage.client, tally)?;
        revoke.map(|mut revoke| revoke.wait()).transpose()?;
        if phase != Phase::Start {
            stage.other_names_resolve()?;
        }
        settle(stage, Name::Laptop, watch, phase, tally)?;
    }
    if round.is_multiple_of(2) {
        stage.force_down()?;
    } else {
        stage.client.restart()?;
        stage.client_has_started()?;
        stop(&stage.client)?;
    }
    tally.wrong("left behind", stage.left_behind(Name::Laptop)?);
    Ok(())
}

fn kill_gateway(stage: &mut Stage, dice: &mut Dice, phase: Phase, tally: &mut Tally) -> anyhow::Result<()> {
    stage.gateway_is_up()?;
    if matches!(phase, Phase::Connected | Phase::Revoking) {
        stage.client_is_up()?;
        stage.is_reached()?;
    }
    let watches = [(Name::Gateway, stage.watch_gateway()?), (Name::Service, stage.watch_service()?)];
    let _nag = (stage.nag_stranger()?, stage.stream()?);
    if phase == Phase::Start {
        kill(&stage.gateway, tally)?;
        stage.gateway.restart()?;
    }
    let revoke = (phase == Phase::Revoking).then(|| stage.revoke()).transpose()?;
    if phase == Phase::Stopping {
        stage.gateway.signal(Signal::Terminate);
    }
    dice.wait_within(phase);
    kill(&stage.gateway, tally)?;
    revoke.map(|mut revoke| revoke.wait()).transpose()?;
    for (host, watch) in watches {
        settle(stage, host, watch, phase, tally)?;
    }
    stage.gateway.restart()?;
    stage.gateway_has_started()?;
    stop(&stage.gateway)?;
    tally.wrong("left behind", stage.left_behind(Name::Gateway)?);
    Ok(())
}

fn kill(daemon: &Daemon, tally: &mut Tally) -> Result<(), LabError> {
    daemon.kill9()?;
    tally.tried("kills", 1);
    Ok(())
}

fn stop(daemon: &Daemon) -> anyhow::Result<()> {
    let ended = daemon.stop(SOON)?;
    anyhow::ensure!(ended.is_some_and(|status| status.success()), "an orderly stop ended with {ended:?}");
    Ok(())
}

/// Counts what was seen that should not have been, when all that was sent until now is seen.
fn settle(stage: &Stage, host: Name, watch: Watch, phase: Phase, tally: &mut Tally) -> anyhow::Result<()> {
    stage.catch_up(host, &watch)?;
    let leaks = watch.leaks();
    for leak in &leaks {
        writeln!(io::stdout(), "leaked on {host}, {phase:?}: {leak}")?;
    }
    tally.wrong("leaked", u64::try_from(leaks.len()).unwrap_or(u64::MAX));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_come_again_with_their_seed() {
        let throw = |seed| {
            let mut dice = Dice(seed);
            [0; 8].map(|_| dice.below(1_000))
        };
        assert_eq!(throw(7), throw(7));
        assert_ne!(throw(7), throw(8));
        assert!(throw(7).iter().all(|moment| *moment < 1_000));
        let phases: Vec<_> = (0..5).map(Phase::of_round).collect();
        assert_eq!(phases, Phase::ALL);
    }
}
