//! Is anything lost, or does anything revoked live again, when the store's process is killed or its disk loses power?
//!
//! The store is the controller's own, in a small program that writes to it without a pause and is killed after a random
//! number of acknowledged commits. Power cuts need root: they happen to a disk of its own, see [`disk`].

mod disk;
pub mod examine;
pub mod load;

use super::Tally;
use anyhow::Context as _;
use disk::{Disk, Remains};
use examine::{Findings, examine};
use host::entropy;
use host::namespace::{effective_uid, unshare_host};
use load::{Acknowledged, Writer};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Acknowledged commits before a kill, at most.
const ACKS_MAX: u64 = 300;
/// Cuts that one disk lives through: what a fast writer adds in each, the store gives back only slowly.
const DISK_CUTS: u64 = 4;
/// Of so many rounds one is killed while the store opens.
const EARLY: u64 = 8;
/// What a recovery may take.
const RECOVERY_MAX: Duration = Duration::from_secs(2);
/// Runs a program whose calls of fsync and fdatasync are not as they should be; how, is added.
const STRACE: &str = "strace -f -qq --seccomp-bpf -o /dev/null -e trace=fsync,fdatasync -e inject=fsync,fdatasync:";

/// What becomes of the writer's sync calls?
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Sync {
    /// What the system makes of them
    Real,
    /// Each begins 30 ms late, so that most cuts come between a write and its sync; needs strace
    Late,
    /// Each succeeds and does nothing: then this check has to find losses; needs strace
    None,
}

impl Sync {
    /// The program that runs the writer, with its words.
    fn through(self) -> Vec<String> {
        let how = match self {
            Self::Real => return Vec::new(),
            Self::Late => "delay_enter=30000",
            Self::None => "retval=0",
        };
        format!("{STRACE}{how}").split_whitespace().map(str::to_owned).collect()
    }
}

/// How `check power` is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Kill the writing process so often
    #[arg(long, default_value_t = 200)]
    kills: u64,
    /// Cut the power so often; needs root
    #[arg(long, default_value_t = 40)]
    cuts: u64,
    /// Records in the store whose recovery is timed after a kill; 0 leaves it out
    #[arg(long, default_value_t = 100_000)]
    records: u64,
    /// What becomes of the writer's sync calls
    #[arg(long, value_enum, default_value_t = Sync::Real)]
    sync: Sync,
}

/// Runs all parts.
pub fn check(arguments: &Arguments) -> anyhow::Result<Tally> {
    let folder = Folder::new()?;
    let mut tally = Tally::new("power", &["lost", "alive"]);
    let program = std::env::current_exe()?;
    let through = arguments.sync.through();
    let through: Vec<&str> = through.iter().map(String::as_str).collect();
    let writer = Writer { program: &program, through: &through, records: 0 };
    // Mounts in a namespace of its own go with this process, however it ends.
    let missing = disk::missing().or_else(|| unshare_host().err().map(|error| format!("no mount namespace: {error}")));
    match missing {
        Some(missing) if arguments.cuts > 0 => writeln!(io::stdout(), "power cuts: skipped, {missing}")?,
        None if arguments.cuts > 0 => cut_often(arguments.cuts, &writer, &folder.0, &mut tally)?,
        _ => {}
    }
    if arguments.kills > 0 {
        kill_often(arguments.kills, &writer, &folder.0.join("killed"), &mut tally)?;
    }
    if arguments.records > 0 {
        let writer = Writer { records: arguments.records, ..writer };
        time_recovery(&writer, &folder.0.join("large"), &mut tally)?;
    }
    Ok(tally)
}

fn kill_often(kills: u64, writer: &Writer<'_>, store: &Path, tally: &mut Tally) -> anyhow::Result<()> {
    let mut acknowledged = Acknowledged::new();
    for round in 0..kills {
        acknowledged.extend(writer.kill_after(moment(round)?, store)?);
        count(examine(writer.program, store, &acknowledged)?, tally);
        tally.tried("kills", 1);
    }
    writeln!(io::stdout(), "kills: {kills}, under {} acknowledged commits", commits(&acknowledged))?;
    Ok(())
}

/// Each cut leaves a disk of each kind behind; the work goes on with one of them.
fn cut_often(cuts: u64, writer: &Writer<'_>, folder: &Path, tally: &mut Tally) -> anyhow::Result<()> {
    let folder = folder.join("disk");
    let (mut disk, mut acknowledged) = fresh_disk(writer, &folder)?;
    let (mut disks, mut inside, mut earlier) = ([0_u64; Remains::ALL.len()], 0, 0);
    for round in 0..cuts {
        let store = disk.mount()?.join("store");
        acknowledged.extend(writer.kill_after(moment(round)?, &store)?);
        inside += u64::from(disk.cut()? > 0);
        let mut good = Vec::new();
        for (remains, bad) in Remains::ALL.into_iter().zip(&mut disks) {
            let store = disk.mount_remains(remains)?.join("store");
            let findings = examine(writer.program, &store, &acknowledged)?;
            if findings.lost + findings.alive > 0 {
                *bad += 1;
            } else {
                good.push(remains);
            }
            count(findings, tally);
            disk.unmount()?;
        }
        tally.tried("power cuts", 1);
        match good.get(usize::try_from(random(good.len() as u64)?)?) {
            Some(remains) if (round + 1) % DISK_CUTS != 0 => disk.go_on_with(*remains)?,
            _ => {
                earlier += commits(&acknowledged);
                (disk, acknowledged) = fresh_disk(writer, &folder)?;
            }
        }
    }
    let commits = earlier + commits(&acknowledged);
    writeln!(
        io::stdout(),
        "power cuts: {cuts}, {inside} of them before a flush, under {commits} acknowledged commits"
    )?;
    for (remains, bad) in Remains::ALL.into_iter().zip(disks) {
        writeln!(
            io::stdout(),
            "  of what was not flushed, {remains}: {bad} of {cuts} disks are not as they should be"
        )?;
    }
    Ok(())
}

/// A disk with a store on it: what is cut is its life, not its making.
fn fresh_disk(writer: &Writer<'_>, folder: &Path) -> anyhow::Result<(Disk, Acknowledged)> {
    let mut disk = Disk::make(folder)?;
    let plain = Writer { through: &[], ..*writer };
    let acknowledged = plain.kill_after(ACKS_MAX, &disk.mount()?.join("store"))?;
    disk.unmount()?;
    Ok((disk, acknowledged))
}

/// How long a store of so many records takes to open after a kill.
fn time_recovery(writer: &Writer<'_>, store: &Path, tally: &mut Tally) -> anyhow::Result<()> {
    let acknowledged = writer.kill_after(ACKS_MAX, store)?;
    let findings = examine(writer.program, store, &acknowledged)?;
    count(findings, tally);
    writeln!(io::stdout(), "recovery: {} records after a kill, {} ms", writer.records, findings.open_ms)?;
    tally.tried("recoveries", 1);
    tally.wrong("slow", u64::from(Duration::from_millis(findings.open_ms) > RECOVERY_MAX));
    Ok(())
}

fn commits(acknowledged: &Acknowledged) -> u64 {
    acknowledged.values().map(|(_, revision)| *revision).max().unwrap_or_default()
}

fn count(findings: Findings, tally: &mut Tally) {
    tally.wrong("lost", findings.lost);
    tally.wrong("alive", findings.alive);
}

/// After how many commits the writer of this round is killed.
fn moment(round: u64) -> anyhow::Result<u64> {
    if round % EARLY == EARLY - 1 { Ok(0) } else { random(ACKS_MAX).map(|n| n + 1) }
}

fn random(below: u64) -> anyhow::Result<u64> {
    Ok(u64::from_ne_bytes(entropy::random()?) % below.max(1))
}

/// A folder that goes with the check.
struct Folder(PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("umbra-check-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
