//! Does a store hold what was acknowledged, and nothing that was ended?
//!
//! In a process of its own: as after a real crash, nothing of the one before is in the way.

use anyhow::{Context as _, anyhow, bail};
use controller::store::{Key, OpenError, Options, SledStore, Store};
use serde::{Deserialize, Serialize};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::load::{Acknowledged, WORKERS, grant, key};
use crate::lab::run_to_its_end;

/// A process that was killed may hold the store's lock so much longer.
const LOCKED_MAX: Duration = Duration::from_secs(5);

/// How the examiner is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The store's folder
    folder: PathBuf,
    /// What was acknowledged, as JSON
    acknowledged: String,
}

/// An examiner that takes longer is stuck.
const EXAMINED_MAX: Duration = Duration::from_secs(300);

/// What a store holds that it should not, or lacks.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Acknowledged changes that are gone; a store that does not open.
    pub lost: u64,
    /// Grants that were ended and live.
    pub alive: u64,
    /// How long it took to open.
    pub open_ms: u64,
}

/// Examines in a process of its own.
pub fn examine(program: &Path, folder: &Path, acknowledged: &Acknowledged) -> anyhow::Result<Findings> {
    let mut command = Command::new(program);
    command.arg("__examine").arg(folder).arg(serde_json::to_string(acknowledged)?);
    let finished = run_to_its_end(&mut command, "the examiner", EXAMINED_MAX)?;
    let said = finished.stdout;
    if !finished.status.success() {
        bail!("the store was not examined: {} {said}{}", finished.status, finished.stderr);
    }
    let (findings, lines) = said.trim_end().rsplit_once('\n').map_or((said.trim_end(), ""), |(l, f)| (f, l));
    if !lines.is_empty() {
        writeln!(io::stdout(), "{lines}")?;
    }
    serde_json::from_str(findings).context("what the examiner said")
}

/// The newest step of a worker that the store holds.
pub async fn counter(store: &SledStore, worker: usize) -> anyhow::Result<Option<u64>> {
    let Some(item) = store.get(&key("worker", worker)?).await? else { return Ok(None) };
    let text = std::str::from_utf8(&item.value)?;
    let (number, value) = text.split_once(' ').ok_or_else(|| anyhow!("worker {worker} holds something else"))?;
    if value.bytes().any(|byte| byte != b'v') {
        bail!("worker {worker} holds something else");
    }
    Ok(Some(number.parse()?))
}

/// The examiner: prints what is wrong, one a line, and at last its findings.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let acknowledged: Acknowledged = serde_json::from_str(&arguments.acknowledged)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
    let (began, mut findings, mut wrong) = (Instant::now(), Findings::default(), Vec::new());
    match open(&arguments.folder) {
        // Nothing was acknowledged by a writer that was killed before it had made its store.
        Err(OpenError::Missing(_)) if acknowledged.is_empty() => {}
        Err(refused) => wrong.push(refused.to_string()),
        Ok(store) => {
            findings.open_ms = u64::try_from(began.elapsed().as_millis())?;
            wrong = runtime.block_on(lost(&store, &acknowledged))?;
            for ended in runtime.block_on(alive(&store))? {
                findings.alive += 1;
                writeln!(io::stdout(), "  ALIVE: {ended} was ended")?;
            }
        }
    }
    findings.lost = wrong.len() as u64;
    for what in wrong {
        writeln!(io::stdout(), "  LOST: {what}")?;
    }
    writeln!(io::stdout(), "{}", serde_json::to_string(&findings)?)?;
    Ok(())
}

fn open(folder: &Path) -> Result<SledStore, OpenError> {
    let began = Instant::now();
    loop {
        match SledStore::open(folder, Options::default()) {
            Err(OpenError::Locked(_)) if began.elapsed() < LOCKED_MAX => std::thread::yield_now(),
            other => return other,
        }
    }
}

/// The grants that must be alive by the counters of their workers.
async fn expected(store: &SledStore) -> anyhow::Result<Vec<Key>> {
    let mut expected = Vec::new();
    for worker in 0..WORKERS {
        if let Some(n) = counter(store, worker).await?.filter(|n| n.is_multiple_of(2)) {
            expected.push(grant(worker, n)?);
        }
    }
    Ok(expected)
}

async fn live(store: &SledStore) -> anyhow::Result<Vec<Key>> {
    Ok(store.scan("grant").await?.items.into_iter().map(|(key, _)| key).collect())
}

async fn alive(store: &SledStore) -> anyhow::Result<Vec<Key>> {
    let expected = expected(store).await?;
    Ok(live(store).await?.into_iter().filter(|key| !expected.contains(key)).collect())
}

async fn lost(store: &SledStore, acknowledged: &Acknowledged) -> anyhow::Result<Vec<String>> {
    let (mut lost, live) = (Vec::new(), live(store).await?);
    for (worker, (n, revision)) in acknowledged {
        let found = counter(store, *worker).await?;
        if found.is_none_or(|found| found < *n) || store.revision().number < *revision {
            lost.push(format!("step {n} of worker {worker} at {revision} was acknowledged, {found:?} is there"));
        }
    }
    for missing in expected(store).await?.iter().filter(|key| !live.contains(key)) {
        lost.push(format!("{missing} was made and is not there"));
    }
    match store.verify_audit().await {
        Ok(trail) if trail.last == store.revision().number => {}
        Ok(trail) => lost.push(format!("the trail has {} records for {}", trail.last, store.revision())),
        Err(broken) => lost.push(broken.to_string()),
    }
    Ok(lost)
}
