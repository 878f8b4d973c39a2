//! Does the store keep its word when its disk refuses a write, or its files are damaged?
//!
//! The test program starts itself again as a writer that prints each commit once it is acknowledged, or as a reader.
//! Kills and power cuts are in `umbra-lab check power`.

// Helpers of a test may fail it; clippy allows that only inside of test functions.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use model::time::WallMs;
use umbra_controller::audit::{Entry, Outcome};
use umbra_controller::store::{Commit, CommitError, Key, OpenError, Options, SledStore, Store};

const WORKERS: usize = 8;

struct Folder(PathBuf);
impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("umbra-crash-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}
impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn random(below: u64) -> u64 {
    RandomState::new().build_hasher().finish() % below
}
fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}
fn open(path: &Path) -> Result<SledStore, OpenError> {
    match SledStore::open(path, Options::default()) {
        Err(OpenError::Missing(_)) => SledStore::create(path, Options::default()),
        other => other,
    }
}
fn say(line: &str) {
    // One write, so that a kill cannot leave half a line; past the capture of the test harness.
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}

/// This program again, in a role.
fn role(name: &str, path: &Path, prefix: &[&str]) -> Command {
    let exe = std::env::current_exe().unwrap();
    let mut command = match prefix {
        [] => Command::new(exe),
        [shell, rest @ ..] => {
            let mut command = Command::new(shell);
            command.args(rest).arg(exe);
            command
        }
    };
    command.args(["--exact", name, "--nocapture"]).env("UMBRA_STORE", path);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// One commit of a worker: its counter goes up, a grant comes or goes, and the trail says so.
fn step(worker: usize, n: u64) -> Commit {
    let grant = key(&format!("grant/{worker}-{}", n / 2));
    let value = if n.is_multiple_of(17) { "v".repeat(20_000) } else { "v".to_owned() };
    let commit = Commit::default().put(key(&format!("worker/{worker}")), format!("{n} {value}")).audit(Entry::new(
        WallMs(1),
        format!("worker:{worker}"),
        "step",
        n.to_string(),
        Outcome::Done,
    ));
    if n.is_multiple_of(2) { commit.put(grant, "live") } else { commit.delete(grant) }
}

async fn counter(store: &dyn Store, worker: usize) -> Option<u64> {
    let item = store.get(&key(&format!("worker/{worker}"))).await.unwrap()?;
    let text = String::from_utf8(item.value.to_vec()).unwrap();
    text.split(' ').next().unwrap().parse().ok()
}

/// Nothing acknowledged is lost, nothing is half done, the trail is whole.
async fn check(path: &Path, acked: &BTreeMap<usize, (u64, u64)>) {
    let store = open(path).unwrap();
    for (worker, (n, revision)) in acked {
        let found = counter(&store, *worker).await.unwrap_or_else(|| panic!("worker {worker} is lost at {n}"));
        assert!(found >= *n, "worker {worker}: {n} was acknowledged, {found} is there");
        assert!(store.revision().number >= *revision);
    }
    let mut live = Vec::new();
    for worker in 0..WORKERS {
        let counter = counter(&store, worker).await;
        live.extend(counter.filter(|n| n.is_multiple_of(2)).map(|n| key(&format!("grant/{worker}-{}", n / 2))));
    }
    let grants: Vec<Key> = store.scan("grant").await.unwrap().items.into_iter().map(|(key, _)| key).collect();
    live.sort();
    assert_eq!(grants, live, "a grant that was ended is not alive again, and one that was made is there");
    let verified = store.verify_audit().await.unwrap();
    assert_eq!(verified.last, store.revision().number, "one record for each commit, and none without");
    assert_eq!(fs::read_dir(path.join("sled/blobs")).unwrap().count(), 0);
}

/// A role, not a test: writes into a disk that refuses, tells it, and goes on once it is told that there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn role_patient_writer() {
    // Likewise.
    let Some(path) = std::env::var_os("UMBRA_STORE") else { return };
    let options = Options { room_min: 0, room_last: 0, retry_every: Duration::ZERO, ..Options::default() };
    let path = Path::new(&path);
    let store = SledStore::open(path, options).unwrap();
    let mut told = false;
    loop {
        // What was being written when a write failed may be there: the next step follows on what is.
        let n = counter(&store, 0).await.map_or(0, |n| n + 1);
        // Large ones fill several segments of the database, whose writes fail one by one.
        let large = vec![b'l'; if n % 4 == 3 { 1_500_000 } else { 1 }];
        match store.commit(step(0, n).put(key("policy/large"), large)).await {
            Ok(revision) => {
                say(&format!("ack 0 {n} {}", revision.number));
                if told {
                    return;
                }
            }
            Err(CommitError::Io(cause)) => {
                assert!(!told, "there is room, and all the same: {cause}");
                say(&format!("\nio {cause}"));
                let halted = store.commit(step(0, n)).await;
                assert!(matches!(halted, Err(CommitError::Halted(_) | CommitError::Io(_))), "{halted:?}");
                say("wait");
                std::io::stdin().read_line(&mut String::new()).unwrap();
                told = true;
            }
            Err(CommitError::Halted(cause)) => panic!("there is room, and the store stays halted: {cause}"),
            Err(other) => panic!("{other}"),
        }
    }
}

/// Files of few records, so that a kill often falls between two steps of what takes them out of the store.
fn small_files() -> Options {
    Options { segment_records: 5, segments_max: 12, ..Options::default() }
}

/// A role, not a test: commits and says so, until it is killed.
#[tokio::test]
async fn role_trail_writer() {
    let Some(path) = std::env::var_os("UMBRA_STORE") else { return };
    let store = SledStore::open(Path::new(&path), small_files()).unwrap();
    let mut n = counter(&store, 0).await.map_or(0, |n| n + 1);
    loop {
        let revision = store.commit(step(0, n)).await.unwrap();
        say(&format!("ack 0 {n} {}", revision.number));
        n += 1;
    }
}

#[tokio::test]
async fn a_kill_between_any_two_steps_loses_no_record_of_the_trail() {
    let folder = Folder::new("trail");
    let path = folder.0.join("store");
    drop(SledStore::create(&path, small_files()).unwrap());
    let (mut acked, mut most) = (0, 0);
    for round in 0..12 {
        let mut child = role("role_trail_writer", &path, &[]).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        // The moment is drawn: after so many commits, and somewhere within the next one or the step beside it.
        let mut left = 5 + random(60);
        for line in said {
            if let ["ack", _, n, _] = line.split_whitespace().collect::<Vec<_>>()[..] {
                acked = n.parse::<u64>().unwrap();
                left -= 1;
                if left == 0 {
                    (0..random(200_000)).for_each(|_| std::hint::spin_loop());
                    child.kill().unwrap();
                    break;
                }
            }
        }
        child.wait().unwrap();
        // While it is looked at, no file comes or goes.
        let still = Options { segment_records: 1_000_000, ..Options::default() };
        let store = SledStore::open(&path, still).unwrap();
        assert!(counter(&store, 0).await.unwrap() >= acked, "round {round}");
        // Every record is there, from the first that no record says is gone.
        let verified = store.verify_audit().await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        let stored = store.audit_stored(1, u64::MAX).await.unwrap();
        assert_eq!(stored.len() as u64, verified.last + 1 - verified.first, "round {round}");
        assert!(verified.last > acked, "round {round}: a record for each commit");
        let files = fs::read_dir(path.join("audit")).map_or(0, Iterator::count);
        most = most.max(files);
        drop(store);
    }
    assert!(most > 6, "records left the store in {most} files only: the test shows nothing");
}

/// Runs a role under a bound on the size of files, which stands for a full disk: without its signal, a write fails.
fn bounded(name: &str, path: &Path, blocks: u64) -> Command {
    let limited = format!(r#"trap "" XFSZ; ulimit -S -f {blocks}; exec "$@""#);
    role(name, path, &["sh", "-c", &limited, "sh"])
}

#[tokio::test]
async fn a_write_that_fails_halts_the_store_until_there_is_room_and_loses_nothing() {
    let folder = Folder::new("full");
    let path = folder.0.join("store");
    drop(open(&path).unwrap());
    let mut acked = BTreeMap::new();
    for round in 0..10 {
        // `ulimit` of POSIX counts 512 bytes; sled fills the segment that it ends in when it opens.
        let blocks = fs::metadata(path.join("sled/db")).unwrap().len() / 512 + 1_100 + random(4_000);
        let mut child = bounded("role_patient_writer", &path, blocks).stdin(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut refused = false;
        for line in said.by_ref() {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["ack", worker, n, revision] => {
                    acked.insert(worker.parse().unwrap(), (n.parse().unwrap(), revision.parse().unwrap()));
                }
                ["io", ..] => refused = true,
                ["wait"] => {
                    let pid = child.id().to_string();
                    let raised = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status();
                    assert!(raised.unwrap().success());
                    child.stdin.take().unwrap().write_all(b"\n").unwrap();
                }
                _ => {}
            }
        }
        let ended = child.wait_with_output().unwrap();
        assert!(ended.status.success() && refused, "round {round}: {}", String::from_utf8_lossy(&ended.stderr));
        check(&path, &acked).await;
    }
    // Neither does a start without room lose anything; it says what to do.
    let output = bounded("role_reader", &path, 1).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{said}");
    assert!(
        output.status.success() && (said.contains("see that the disk has space") || said.contains("whole")),
        "{said}"
    );
    check(&path, &acked).await;
}

/// A role, not a test: opens each store of a list, reads everything, and says what it found.
#[tokio::test]
async fn role_reader() {
    // Likewise.
    let Some(paths) = std::env::var_os("UMBRA_STORE") else { return };
    for path in std::env::split_paths(&paths) {
        say(&format!("\n{}", read(&path).await));
    }
}

async fn read(path: &Path) -> String {
    let store = match SledStore::open(path, Options::default()) {
        Err(refused) => return format!("refused {refused}"),
        Ok(store) => store,
    };
    let verified = match store.verify_audit().await {
        Err(broken) => return format!("broken {broken}"),
        Ok(verified) => verified,
    };
    let mut sum = RandomlessSum::default();
    for set in ["worker", "grant"] {
        for (key, item) in store.scan(set).await.unwrap().items {
            sum.add(key.as_str().as_bytes());
            sum.add(&item.value);
        }
    }
    format!("whole {} {} {}", store.revision(), verified.head, sum.0)
}

/// FNV-1a: the same in every process.
#[derive(Default)]
struct RandomlessSum(u64);
impl RandomlessSum {
    fn add(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.0 = (self.0 ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    }
}

/// What a reader in a process of its own says of each store.
fn read_in_a_process(paths: &[PathBuf]) -> Vec<String> {
    let list = std::env::join_paths(paths).unwrap();
    let output = role("role_reader", Path::new(&list), &[]).env("RUST_BACKTRACE", "0").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{} {said}\n{errors}", output.status);
    let told = |line: &&str| ["refused ", "broken ", "whole "].iter().any(|word| line.starts_with(word));
    let told: Vec<_> = said.lines().filter(told).map(str::to_owned).collect();
    assert_eq!(told.len(), paths.len(), "{said}\n{errors}");
    told
}

/// Every file of a store, by its path below the store's folder.
fn files(store: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("head")];
    for entry in fs::read_dir(store.join("sled")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            found.push(Path::new("sled").join(entry.file_name()));
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("sled/blobs")).unwrap();
    for file in files(from) {
        fs::copy(from.join(&file), to.join(&file)).unwrap();
    }
}

/// One damage at a random place of the bytes that are used.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Bit,
    Byte,
    /// A disk's block that reads as zeros.
    Block,
    Cut,
    Empty,
    Gone,
}

impl Damage {
    const ALL: [Self; 6] = [Self::Bit, Self::Byte, Self::Block, Self::Cut, Self::Empty, Self::Gone];

    /// Does it; answers whether it changed anything.
    fn apply(self, file: &Path) -> bool {
        let before = fs::read(file).unwrap();
        let used = before.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        let place = random(used as u64) as usize;
        let mut bytes = before.clone();
        match self {
            Self::Bit => bytes[place] ^= 1 << random(8),
            Self::Byte => bytes[place] = random(256) as u8,
            Self::Block => {
                let end = bytes.len().min(place / 4_096 * 4_096 + 4_096);
                bytes[place / 4_096 * 4_096..end].fill(0);
            }
            Self::Cut => bytes.truncate(place),
            Self::Empty => bytes.clear(),
            Self::Gone => {
                fs::remove_file(file).unwrap();
                return true;
            }
        }
        fs::write(file, &bytes).unwrap();
        bytes != before
    }
}

/// `UMBRA_DAMAGES` says how many of each kind each file suffers (2 by default; most of them strike the database itself).
#[tokio::test]
async fn damage_to_any_file_is_refused_with_a_way_out_and_never_an_older_state_or_a_panic() {
    let folder = Folder::new("flip");
    let path = folder.0.join("store");
    // Twice, so that there is a snapshot of the database, and changes after it.
    for half in 0..2 {
        let store = open(&path).unwrap();
        for n in half * 150..(half + 1) * 150 {
            store.commit(step((n % 3) as usize, n / 3)).await.unwrap();
        }
    }
    let sound = folder.0.join("sound");
    copy(&path, &sound);
    let whole = read_in_a_process(&[sound]).remove(0);
    assert!(whole.starts_with("whole 1.300 "), "{whole}");
    let names: Vec<_> = files(&path).iter().map(|file| file.to_str().unwrap().to_owned()).collect();
    assert!(["head", "sled/conf", "sled/db"].iter().all(|name| names.iter().any(|n| n == name)), "{names:?}");
    assert!(names.iter().any(|name| name.starts_with("sled/snap.")), "{names:?}");
    let each: usize = std::env::var("UMBRA_DAMAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    let mut kinds: Vec<_> = names.iter().flat_map(|n| Damage::ALL.map(|d| (n.as_str(), d, each))).collect();
    kinds.extend([Damage::Bit, Damage::Byte, Damage::Block, Damage::Cut].map(|d| ("sled/db", d, each * 4)));
    let (mut tried, mut refused) = (0, 0);
    for (name, damage, count) in kinds {
        let copies: Vec<_> = (0..count).map(|n| folder.0.join(format!("damaged-{n}"))).collect();
        for damaged in &copies {
            let _ = fs::remove_dir_all(damaged);
            copy(&path, damaged);
            while !damage.apply(&damaged.join(name)) {}
        }
        for found in read_in_a_process(&copies) {
            println!("{name} {damage:?}: {found}");
            assert!(found == whole || !found.starts_with("whole"), "{name} {damage:?} went unnoticed: {found}");
            if found.starts_with("refused ") {
                assert!(found.contains("restore"), "{found}");
            }
            tried += 1;
            refused += usize::from(found != whole);
        }
    }
    println!("{tried} damages, {refused} refused, the others harmed nothing");
    assert!(refused > tried / 4, "{refused} of {tried}");
}
