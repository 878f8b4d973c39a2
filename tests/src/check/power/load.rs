//! What is written while a store is killed?
//!
//! Some workers commit at once. Each commit moves its worker's counter, makes or ends a grant, and adds one record to the
//! trail, so that from a worker's counter follows what of it must be alive. One worker's values are large, others' now and
//! then: a database that writes in segments fills several of them with one commit, and uses them again.

use anyhow::{Context as _, bail};
use controller::audit::{Entry, Outcome};
use controller::store::{Commit, Key, OpenError, Options, SledStore, Store};
use host::namespace::{ProcessHandle, Signal};
use model::time::WallMs;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::examine::counter;
use super::random;

/// Who commits at once.
pub const WORKERS: usize = 8;
/// Bytes of a large value: some segments of the database.
const LARGE: usize = 1_500_000;
/// Each so many commits a value of so many bytes.
const SIZES: [(u64, usize); 2] = [(17, 20_000), (61, LARGE)];
/// The worker whose values are all of the largest size.
const HEAVY: usize = 0;
/// A kill comes within so many microseconds: while the store opens, and after what was waited for.
const OPENING: u64 = 60_000;
const WORKING: u64 = 15_000;
/// A writer that lives longer is stuck.
const LIFE_MAX: Duration = Duration::from_secs(300);

/// How the writer is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The store's folder; it is made where it is missing
    folder: PathBuf,
    /// Write so many small records first, before the first line is printed
    #[arg(long, default_value_t = 0)]
    records: u64,
}

/// What a writer was told to be durable: each worker's newest step and the revision of its commit.
pub type Acknowledged = BTreeMap<usize, (u64, u64)>;

/// A record's key.
pub fn key(set: &str, name: impl std::fmt::Display) -> anyhow::Result<Key> {
    Ok(Key::of(set, name)?)
}

/// The grant that a worker makes in step `n` and ends in the next one; steps that make one are even.
pub fn grant(worker: usize, n: u64) -> anyhow::Result<Key> {
    key("grant", format!("{worker}-{}", n / 2))
}

/// One commit of a worker.
fn step(worker: usize, n: u64) -> anyhow::Result<Commit> {
    let due = SIZES.iter().rev().find(|(every, _)| n % every == every / 2).map_or(1, |(_, size)| *size);
    let size = if worker == HEAVY { LARGE } else { due };
    let value = format!("{n} {}", "v".repeat(size));
    let entry = Entry::new(WallMs(1), format!("worker:{worker}"), "step", n.to_string(), Outcome::Done);
    let commit = Commit::default().put(key("worker", worker)?, value).audit(entry);
    let grant = grant(worker, n)?;
    Ok(if n.is_multiple_of(2) { commit.put(grant, "live") } else { commit.delete(grant) })
}

/// Writes until it is killed, and prints each commit when it is acknowledged, one a line.
pub fn write(arguments: &Arguments) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?.block_on(async {
        let store = Arc::new(match SledStore::open(&arguments.folder, Options::default()) {
            Err(OpenError::Missing(folder)) => SledStore::create(&folder, Options::default())?,
            other => other?,
        });
        fill(&store, arguments.records).await?;
        say(&format!("open {}", std::process::id()))?;
        let mut workers = tokio::task::JoinSet::new();
        for worker in 0..WORKERS {
            let store = Arc::clone(&store);
            workers.spawn(async move {
                let mut n = counter(&store, worker).await?.map_or(0, |n| n + 1);
                loop {
                    let revision = store.commit(step(worker, n)?).await?;
                    say(&format!("ack {worker} {n} {}", revision.number))?;
                    n += 1;
                }
            });
        }
        while let Some(ended) = workers.join_next().await {
            let ended: anyhow::Result<()> = ended?;
            ended?;
        }
        Ok(())
    })
}

/// Small records, as many to a commit as one takes.
async fn fill(store: &SledStore, records: u64) -> anyhow::Result<()> {
    let numbers: Vec<u64> = (0..records).collect();
    for chunk in numbers.chunks(model::limits::COMMIT_KEYS_MAX) {
        let entry = Entry::new(WallMs(1), "writer", "fill", "records", Outcome::Done);
        let mut commit = Commit::default().audit(entry);
        for number in chunk {
            commit = commit.put(key("record", number)?, vec![b'r'; 300]);
        }
        store.commit(commit).await?;
    }
    Ok(())
}

/// In one write, so that a kill cannot leave half a line.
fn say(line: &str) -> io::Result<()> {
    io::stdout().write_all(format!("{line}\n").as_bytes())
}

/// A writer in a process of its own.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// `umbra-lab`.
    pub program: &'a Path,
    /// A program, and its words, that runs it; none for itself.
    pub through: &'a [&'a str],
    /// Written first.
    pub records: u64,
}

impl Writer<'_> {
    /// Starts it and kills it after so many acknowledged commits; 0 means while the store opens. Answers what it had been
    /// told by then.
    pub fn kill_after(&self, acks: u64, folder: &Path) -> anyhow::Result<Acknowledged> {
        let program = self.program.to_str().context("a path that is no text")?;
        let words: Vec<&str> = self.through.iter().copied().chain([program, "__writer"]).collect();
        let (first, rest) = words.split_first().context("no program")?;
        let mut command = Command::new(first);
        command.args(rest).arg(folder).arg(format!("--records={}", self.records));
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().with_context(|| (*first).to_owned())?;
        // Who is killed instead of it would leave it running.
        let acks = if self.through.is_empty() { acks } else { acks.max(1) };
        kill_after(child, acks)
    }
}

/// Not a wait for anything: the moment of the kill is what is drawn.
fn pause(micros_max: u64) -> anyhow::Result<()> {
    std::thread::park_timeout(Duration::from_micros(random(micros_max)?));
    Ok(())
}

/// Kills a writer that is stuck; ends when what it answers is dropped.
fn guard(child: &Child) -> anyhow::Result<mpsc::Sender<()>> {
    let process = ProcessHandle::open(child.id())?;
    let (sender, ended) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if ended.recv_timeout(LIFE_MAX) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _gone_already = process.signal(Signal::Kill);
        }
    });
    Ok(sender)
}

fn kill_after(mut child: Child, acks: u64) -> anyhow::Result<Acknowledged> {
    let mut acknowledged = Acknowledged::new();
    let output = child.stdout.take().context("the writer has no output")?;
    let (mut pid, mut read, mut killed) = (child.id(), 0, acks == 0);
    let _guard = guard(&child)?;
    if killed {
        pause(OPENING)?;
        child.kill()?;
    }
    for line in BufReader::new(output).lines() {
        match line?.split(' ').collect::<Vec<_>>()[..] {
            ["open", itself] => pid = itself.parse()?,
            ["ack", worker, n, revision] => {
                acknowledged.insert(worker.parse()?, (n.parse()?, revision.parse()?));
                read += 1;
            }
            _ => {}
        }
        if read >= acks && !killed {
            // Right after an answer nothing is being written yet.
            pause(WORKING)?;
            ProcessHandle::open(pid)?.signal(Signal::Kill)?;
            killed = true;
        }
    }
    child.wait()?;
    if !killed {
        bail!("the writer ended by itself");
    }
    Ok(acknowledged)
}
