//! How are many clients kept at work during a measurement, and how is what the witness tells waited for?

use super::witness::Window;
use crate::lab::topology::INSIDE_LINK;
use crate::lab::{Daemon, LabError, Name, World};
use anyhow::{Context as _, ensure};
use std::time::{Duration, Instant};

/// How long any one step may take.
const STEP: Duration = Duration::from_secs(20);
/// What everybody talks with.
const HOST: &str = "web.corp.example";

/// Clients at work, and the witness at the services. All ends with it.
pub struct Crowd {
    pub watch: Watch,
    laptops: Vec<Name>,
    _loads: Vec<Daemon>,
}

/// The flows of a laptop, as the witness calls them.
pub fn flows_of(laptop: Name) -> [String; 4] {
    [load_flow("tcp", laptop), load_flow("udp", laptop), format!("tcp probe-{laptop}"), format!("udp probe-{laptop}")]
}

fn load_flow(kind: &str, laptop: Name) -> String {
    format!("{kind} {laptop}")
}

fn witness(world: &World, host: Name, words: &[&str]) -> Result<Daemon, LabError> {
    let mut command = world.host(host).command("umbra-lab");
    command.arg("__witness").args(words);
    world.host(host).start(words.first().copied().unwrap_or_default(), command)
}

impl Crowd {
    pub fn start(world: &World, laptops: &[Name]) -> anyhow::Result<Self> {
        let watch = Watch(witness(world, Name::Service, &["watch", INSIDE_LINK])?);
        watch.0.wait_for_line("watching", STEP)?;
        let load = |laptop: &Name| witness(world, *laptop, &["load", HOST, laptop.as_str()]);
        let loads = laptops.iter().map(load).collect::<Result<_, _>>()?;
        Ok(Self { watch, laptops: laptops.to_vec(), _loads: loads })
    }

    /// The flows of everybody's work, one client excepted.
    pub fn flows_without(&self, laptop: Name) -> Vec<String> {
        let others = self.laptops.iter().filter(|other| **other != laptop);
        others.flat_map(|other| ["tcp", "udp"].map(|kind| load_flow(kind, *other))).collect()
    }

    /// Lets a laptop talk finely; answers when that and everybody's work flows, and from which of the witness's lines on.
    pub fn start_probe(&self, world: &World, laptop: Name) -> anyhow::Result<(Daemon, usize)> {
        let probe = witness(world, laptop, &["talk", HOST, &format!("probe-{laptop}")])?;
        probe.wait_for_line("heard", STEP)?;
        probe.wait_for_line("tried", STEP)?;
        let mut wanted = self.flows_without(laptop);
        wanted.extend(flows_of(laptop));
        let (mut mark, until) = (self.watch.0.mark(), Instant::now() + STEP);
        loop {
            let window = self.watch.next(&mut mark).context("not everybody's flows are there")?;
            let missing: Vec<_> = wanted.iter().filter(|flow| !window.flows.contains_key(*flow)).collect();
            if missing.is_empty() {
                return Ok((probe, mark));
            }
            ensure!(Instant::now() < until, "these flows are not there: {missing:?}");
        }
    }
}

/// The witness at the services.
pub struct Watch(Daemon);

impl Watch {
    fn next(&self, mark: &mut usize) -> anyhow::Result<Window> {
        let line = self.0.wait_for_line_after(*mark, "until", STEP)?;
        *mark += 1;
        Ok(serde_json::from_str(&line)?)
    }

    /// What it tells from line `mark` on, until it has told all that came before `moment`.
    pub fn until(&self, mut mark: usize, moment: i64) -> anyhow::Result<Vec<Window>> {
        let mut windows: Vec<Window> = Vec::new();
        while windows.last().is_none_or(|last| last.until < moment) {
            windows.push(self.next(&mut mark)?);
        }
        Ok(windows)
    }
}
