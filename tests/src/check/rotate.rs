//! Do connections live on while every key below them is replaced again and again: control keys, certificates, and the tunnels' own?

use super::Tally;
use crate::demo::download::Download;
use crate::lab::impairment::parse_delay;
use crate::lab::{Name, Options, World};
use crate::perimeter::{Perimeter, Plan, admin_json};
use crate::service::{Services, ZONE};
use anyhow::Context as _;
use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::thread;
use std::time::{Duration, Instant};

/// How `check rotate` is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How long each key is used
    #[arg(long, default_value = "5s", value_parser = parse_delay)]
    every: Duration,
    /// How long the connections are to live
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// How many there are
    #[arg(long, default_value_t = 8)]
    flows: usize,
    /// How long nothing may come
    #[arg(long, default_value = "3s", value_parser = parse_delay)]
    stall: Duration,
}

/// Bytes a second of each connection.
const RATE: u64 = 500_000;
/// How long anything may take besides.
const SOON: Duration = Duration::from_secs(20);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// One connection.
struct Flow {
    download: Download,
    last: Instant,
    gap: Duration,
    runs: bool,
}

impl Flow {
    fn look(&mut self) {
        let (times, runs) = self.download.arrived();
        for at in times {
            self.gap = self.gap.max(at.saturating_duration_since(self.last));
            self.last = at;
        }
        self.gap = self.gap.max(self.last.elapsed());
        self.runs &= runs;
    }
}

/// How many control keys there were, of this kind of node.
fn control_keys(world: &World, kind: &str) -> anyhow::Result<u64> {
    let trail = admin_json(world, &["audit", "list", "--limit", "1000", "--action", "node.new-key"])?;
    let records = trail.get("records").and_then(|records| records.as_array()).context("no audit records")?;
    Ok(u64::try_from(records.iter().filter(|one| one.to_string().contains(kind)).count())?)
}

/// The tunnels to gateways that the laptop has now.
fn tunnels(world: &World) -> anyhow::Result<Vec<String>> {
    let said = world.host(Name::Laptop).run(&["umbra", "status", "--json"], SOON)?;
    let status: serde_json::Value = serde_json::from_str(&said.stdout).with_context(|| said.stderr.clone())?;
    let pairings = status.get("pairings").and_then(|pairings| pairings.as_array()).context("no pairings")?;
    Ok(pairings.iter().filter_map(|one| Some(one.get("id")?.as_str()?.to_owned())).collect())
}

/// Lets connections live on keys that do not.
pub fn check(arguments: &Arguments) -> anyhow::Result<Tally> {
    let mut tally = Tally::new("rotate", &["broken", "stalls", "without new keys"]);
    let world = World::start(&Options::default())?;
    let _services = Services::start(&world)?;
    let text = |time: Duration| format!("{}s", time.as_secs());
    let nodes: Vec<String> = ["--key-life", &text(arguments.every), "--probe-every", "1s"].map(str::to_owned).into();
    // A certificate is renewed after half of its life.
    let serve_options = vec!["--svid-life".to_owned(), text(arguments.every * 2)];
    let plan = Plan {
        laptops: vec![Name::Laptop],
        gateway_options: nodes.clone(),
        client_options: nodes,
        serve_options,
        ..Plan::default()
    };
    let _perimeter = Perimeter::start(&world, &plan)?;
    let url = format!("http://web.{ZONE}/download?rate={RATE}");
    let mut flows = Vec::new();
    for _ in 0..arguments.flows {
        let download = Download::start(world.host(Name::Laptop), &url)?;
        download.wait_for_bytes(1, SOON).map_err(anyhow::Error::msg)?;
        flows.push(Flow { download, last: Instant::now(), gap: Duration::ZERO, runs: true });
    }
    let before = [control_keys(&world, "de-")?, control_keys(&world, "gw-")?];
    let (started, mut seen) = (Instant::now(), BTreeSet::new());
    while started.elapsed() < Duration::from_secs(arguments.seconds) {
        seen.extend(tunnels(&world)?);
        flows.iter_mut().for_each(Flow::look);
        thread::sleep(PAUSE);
    }
    let keys = [control_keys(&world, "de-")? - before[0], control_keys(&world, "gw-")? - before[1]];
    let tunnels = u64::try_from(seen.len())?.saturating_sub(1);
    // Half of what there is time for, on a machine that is busy with itself.
    let least = arguments.seconds * 1_000 / u64::try_from(arguments.every.as_millis())?.max(1) / 2;
    let gap = flows.iter().map(|flow| flow.gap).max().unwrap_or_default();
    writeln!(
        io::stdout(),
        "{} connections for {} s: {} and {} new control keys of laptop and gateway, {tunnels} new tunnels; longest gap {} ms",
        flows.len(),
        arguments.seconds,
        keys[0],
        keys[1],
        gap.as_millis()
    )?;
    tally.tried("connections", u64::try_from(flows.len())?);
    tally.tried("new keys", keys[0] + keys[1] + tunnels);
    for flow in &flows {
        tally.wrong("broken", u64::from(!flow.runs));
        tally.wrong("stalls", u64::from(flow.gap > arguments.stall));
    }
    let few = [keys[0], keys[1], tunnels].into_iter().filter(|count| *count < least).count();
    tally.wrong("without new keys", u64::try_from(few)?);
    Ok(tally)
}
