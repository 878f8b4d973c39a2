//! How many commits a second become durable, by one writer and by 64 at once?
//!
//! Each commit expects one revision, puts one record of 300 bytes and adds one audit record, as a grant does. The store
//! lies in `UMBRA_BENCH_DIR`, or else in the target folder: a file system in memory would measure nothing.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::time::WallMs;
use umbra_controller::audit::{Entry, Outcome};
use umbra_controller::store::{Commit, Key, Options, SledStore, Store};

const TIME: Duration = Duration::from_secs(5);

async fn write(store: Arc<SledStore>, writer: usize, until: Instant) -> anyhow::Result<Vec<Duration>> {
    let key = Key::of("grant", writer)?;
    let (mut revision, mut took) = (0, Vec::new());
    while Instant::now() < until {
        let began = Instant::now();
        let entry = Entry::new(WallMs(0), "user:us-0123456789abcdef", "connect", key.as_str(), Outcome::Permit);
        let commit = Commit::default().expect(key.clone(), revision).put(key.clone(), vec![7; 300]).audit(entry);
        revision = store.commit(commit).await?.number;
        took.push(began.elapsed());
    }
    Ok(took)
}

async fn measure(folder: &std::path::Path, writers: usize) -> anyhow::Result<String> {
    let _ = std::fs::remove_dir_all(folder);
    let store = Arc::new(SledStore::create(folder, Options::default())?);
    let (began, mut took) = (Instant::now(), Vec::new());
    let tasks: Vec<_> = (0..writers).map(|n| tokio::spawn(write(Arc::clone(&store), n, began + TIME))).collect();
    for task in tasks {
        took.extend(task.await??);
    }
    let rate = took.len() as f64 / began.elapsed().as_secs_f64();
    took.sort();
    let at = |part: f64| took.get((took.len() as f64 * part) as usize).copied().unwrap_or_default().as_secs_f64() * 1e3;
    store.verify_audit().await?;
    std::fs::remove_dir_all(folder)?;
    Ok(format!("{writers:>3} writers: {rate:>7.0} commits/s, p50 {:.2} ms, p99 {:.2} ms", at(0.5), at(0.99)))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder =
        std::env::var_os("UMBRA_BENCH_DIR").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    for writers in [1, 8, 64] {
        let line = measure(&folder.join(format!("bench-{}", std::process::id())), writers).await?;
        writeln!(std::io::stdout(), "{line}")?;
    }
    Ok(())
}
