//! How fast is the data plane, beside other programs that do the same?
//!
//! `umbra-lab bench dataplane` runs Umbra's client and gateway, boringtun-cli, wireguard-go and whatever else speaks WireGuard's
//! UAPI, each in a network like the others' ([`stage`]), and in each round puts them one after the other, in turning order, under the
//! same load ([`load`]); it tells medians, ratios within each round, and whether every "at least" is reached ([`gate`]).

pub mod answers;
pub mod bare;
pub mod figures;
pub mod gate;
pub mod load;
pub mod neighbours;
pub mod peers;
pub mod plot;
pub mod report;
pub mod stage;
pub mod uapi;

use anyhow::{Context as _, bail, ensure};
use clap::Subcommand;
use figures::Figures;
use gate::{BARE, UMBRA, UMBRA_ALONE};
use peers::{NO_TUNNEL, Peer};
use report::Results;
use stage::{Program, Stage};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The programs that carry the load and furnish the hosts, and where Debian has them.
const NEEDED: [(&str, &str); 4] =
    [("iperf3", "iperf3"), ("ip", "iproute2"), ("nft", "nftables"), ("ping", "iputils-ping")];

/// Umbra as it is, and what it is compared with of itself.
const OURS: [(&str, Program<'static>); 3] =
    [(UMBRA, Program::Umbra), (UMBRA_ALONE, Program::UmbraAlone), (BARE, Program::Bare)];

/// Which bench?
#[derive(Debug, Subcommand)]
pub enum Arguments {
    /// Throughput, CPU, latency and memory of client and gateway, beside boringtun-cli and wireguard-go
    Dataplane(Dataplane),
}

/// How `bench dataplane` is called.
#[derive(Debug, clap::Args)]
pub struct Dataplane {
    /// How often every program is measured; the order turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// How long each run takes
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=600))]
    seconds: u16,
    /// A further program that is called with an interface's name and has WireGuard's UAPI, as NAME=PATH
    #[arg(long = "peer", value_name = "NAME=PATH")]
    peers: Vec<Peer>,
    /// Measure this program alone, to look into it; more than once for several. All the others count as missed
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// TCP alone, to look into it: speed, CPU and the ping beside it. All other figures count as missed
    #[arg(long)]
    tcp: bool,
    /// Write everything to this file, too, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the medians into this file, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Fail when a figure falls short of what it has to be
    #[arg(long)]
    gate: bool,
    /// Refuse rather than build boringtun-cli where there is none
    #[arg(long)]
    no_build: bool,
    /// Measure programs that were built without optimisation, to try the bench itself
    #[arg(long)]
    debug: bool,
}

/// Runs the bench.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match arguments {
        Arguments::Dataplane(arguments) => dataplane(arguments),
    }
}

fn dataplane(arguments: &Dataplane) -> anyhow::Result<ExitCode> {
    ensure!(
        arguments.debug || !cfg!(debug_assertions),
        "this is a debug build, whose figures say nothing: `cargo build --profile dist --bin umbra-lab`, then \
         `target/dist/umbra-lab bench dataplane` (or --debug, to try the bench itself)"
    );
    for (program, package) in NEEDED {
        ensure!(peers::on_path(program).is_some(), "{program} is missing: on Debian, `apt-get install {package}`");
    }
    let program = std::env::current_exe().context("which program is this?")?;
    let others = peers::find(&arguments.peers, &program, !arguments.no_build)?;
    let mut results = Results {
        build: peers::profile_of(&program, cfg!(debug_assertions)),
        seconds: arguments.seconds.into(),
        steps: load::STEPS.into_iter().filter(|step| !arguments.tcp || step.is_tcp).collect(),
        programs: programs_of(&others),
        ..Results::default()
    };
    let packaged = packaged_beside(&program);
    let what = packaged
        .map_or_else(|| program.display().to_string(), |folder| format!("the programs in {}", folder.display()));
    writeln!(io::stderr(), "measuring umbra as built with profile `{}`: {what}", results.build)?;
    for name in &arguments.only {
        let known = || results.names().join(", ");
        ensure!(results.programs.iter().any(|(known, _)| known == name), "--only {name}: take one of {}", known());
    }
    results.programs.retain(|(name, _)| arguments.only.is_empty() || arguments.only.contains(name));
    for number in 0..arguments.rounds.into() {
        let round = measure_round(number, &others, packaged, &mut results)?;
        results.rounds.0.push(round);
    }
    results.verdicts = gate::judge(&results.rounds, &results.programs);
    tell(arguments, &results)?;
    if results.rounds.0.iter().all(|round| round.get(UMBRA).is_none_or(|figures| figures.0.is_empty())) {
        bail!("nothing of Umbra could be measured");
    }
    let missed = results.verdicts.iter().filter(|verdict| !verdict.holds).count();
    if arguments.gate && missed > 0 {
        writeln!(io::stderr(), "umbra-lab: the gate is closed: {missed} of {} figures missed", results.verdicts.len())?;
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// The folder of this program, where Umbra's programs lie beside it as they are packaged.
fn packaged_beside(program: &Path) -> Option<&Path> {
    let folder = program.parent()?;
    ["umbra", "umbra-gateway", "umbra-controller"].iter().all(|name| folder.join(name).is_file()).then_some(folder)
}

/// All that is measured, with versions.
fn programs_of(others: &[Peer]) -> Vec<(String, String)> {
    let ours = OURS.map(|(name, _)| (name.to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
    let others = others.iter().map(|peer| (peer.name.clone(), peer.version()));
    ours.into_iter().chain(others).chain([(NO_TUNNEL.to_owned(), String::new())]).collect()
}

/// Every program once. One that fails is told of, and the others go on.
fn measure_round(
    number: usize,
    others: &[Peer],
    packaged: Option<&Path>,
    results: &mut Results,
) -> anyhow::Result<BTreeMap<String, Figures>> {
    let peers = others.iter().map(|peer| (peer.name.as_str(), Program::Peer(peer)));
    let mut order: Vec<_> = OURS.into_iter().chain(peers).chain([(NO_TUNNEL, Program::NoTunnel)]).collect();
    order.retain(|(name, _)| results.programs.iter().any(|(wanted, _)| wanted == name));
    let turn = number % order.len().max(1);
    order.rotate_left(turn);
    let mut round = BTreeMap::new();
    // All are there at once, and each kind of figure is taken of one after the other: the machine is as fast for the one as for the
    // next, which it is not a minute later.
    let mut stages = Vec::new();
    for (name, program) in order {
        writeln!(io::stderr(), "round {}: {name} starts", number + 1)?;
        match Stage::set(program, packaged) {
            Ok(stage) => stages.push((name, stage)),
            Err(error) => results.fault(number, name, &format!("{error:#}"))?,
        }
        round.insert(name.to_owned(), Figures::default());
    }
    let mut loads: Vec<_> =
        stages.iter().map(|(name, stage)| (*name, load::Load::new(stage, results.seconds))).collect();
    for step in results.steps.clone() {
        writeln!(io::stderr(), "round {}: {}", number + 1, step.what)?;
        loads.iter_mut().for_each(|(_, load)| load.take(&step));
        let turn = loads.len().min(1);
        loads.rotate_left(turn);
    }
    for (name, load) in loads {
        for fault in load.faults {
            results.fault(number, name, &fault)?;
        }
        round.insert(name.to_owned(), load.figures);
    }
    Ok(round)
}

/// Tells the results everywhere where they are wanted.
fn tell(arguments: &Dataplane, results: &Results) -> anyhow::Result<()> {
    results.write(&mut io::stdout())?;
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&results.json())?;
        fs::write(file, text + "\n").with_context(|| format!("write {}", file.display()))?;
    }
    if let Some(file) = &arguments.plot {
        let title = format!("Medians: {}", results.setting());
        let picture = plot::draw(&results.rounds, &results.names(), &title);
        fs::write(file, picture).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}
