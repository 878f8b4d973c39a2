//! What is left on a disk when its power is cut?
//!
//! Two loop devices lie on one another: the file system's writes stop in the page cache of the lower one, which is the
//! disk's volatile cache, until a flush of the file system takes them down to the image. So the image holds what was
//! flushed and nothing else, the lower device holds what was written, and any mixture of their blocks is a disk as a cut
//! may leave it. What a program wrote without a sync is still in the file system's own cache, and in none of them: its
//! journal commits by itself only after minutes.

use anyhow::{Context as _, bail};
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::random;
use crate::lab::run_to_its_end;

/// Bytes of the disk.
const SIZE: u64 = 160 << 20;
/// Bytes that a disk writes whole.
const BLOCK: usize = 4_096;
/// A step with a device that takes longer is stuck.
const STEP_MAX: Duration = Duration::from_secs(120);
/// Later than any cut, so that the file system commits only when it is told to.
const MOUNT: &str = "commit=3600,noatime";

/// What of the writes that were not flushed is on the disk after the cut?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    /// None.
    Flushed,
    /// All.
    Written,
    /// Any: each block for itself.
    Mixed,
}

impl Remains {
    /// Each kind.
    pub const ALL: [Self; 3] = [Self::Flushed, Self::Written, Self::Mixed];

    /// One word for it.
    const fn name(self) -> &'static str {
        match self {
            Self::Flushed => "flushed",
            Self::Written => "written",
            Self::Mixed => "mixed",
        }
    }
}

impl fmt::Display for Remains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flushed => "nothing is there",
            Self::Written => "all is there",
            Self::Mixed => "some blocks are there",
        })
    }
}

/// A disk with a file system on it.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    lower: Option<PathBuf>,
}

/// What this machine lacks for such disks.
pub fn missing() -> Option<String> {
    if super::effective_uid() != 0 {
        return Some("they need root: a file system on a loop device".to_owned());
    }
    let lacks = |program: &&str| run(program, &["--version"]).is_err() && run(program, &["-V"]).is_err();
    if let Some(program) = ["losetup", "mount", "umount", "mkfs.ext4"].iter().find(|program| lacks(program)) {
        return Some(format!("they need the program {program}"));
    }
    run("losetup", &["--find"]).err().map(|error| format!("no loop device: {error:#}"))
}

fn run(program: &str, words: &[&str]) -> anyhow::Result<String> {
    let finished = run_to_its_end(Command::new(program).args(words), program, STEP_MAX)?;
    if !finished.success() {
        bail!("{program} {}: {}", words.join(" "), finished.stderr.trim());
    }
    Ok(finished.stdout.trim().to_owned())
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is no text")
}

impl Disk {
    /// A new disk, whose image and mount point lie in `folder`.
    pub fn make(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder.join("mounted"))?;
        let disk = Self { folder: folder.to_owned(), lower: None };
        File::create(disk.image())?.set_len(SIZE)?;
        run("mkfs.ext4", &["-q", "-F", text(&disk.image())?])?;
        Ok(disk)
    }

    fn image(&self) -> PathBuf {
        self.folder.join("image")
    }
    fn mounted(&self) -> PathBuf {
        self.folder.join("mounted")
    }
    fn remains(&self, remains: Remains) -> PathBuf {
        self.folder.join(remains.name())
    }

    /// Mounts it with its volatile cache; answers the folder.
    pub fn mount(&mut self) -> anyhow::Result<PathBuf> {
        let lower = run("losetup", &["--find", "--show", text(&self.image())?])?;
        let upper = run("losetup", &["--find", "--show", &lower]);
        let mounted = upper.and_then(|upper| {
            let done = run("mount", &["-o", MOUNT, &upper, text(&self.mounted())?]);
            // From here on each of them goes when its last user does.
            run("losetup", &["--detach", &upper]).and(done)
        });
        run("losetup", &["--detach", &lower])?;
        mounted?;
        self.lower = Some(lower.into());
        Ok(self.mounted())
    }

    /// Takes what a power cut at this moment leaves, of each kind, and unmounts. Answers how many blocks were written and
    /// not flushed.
    pub fn cut(&mut self) -> anyhow::Result<u64> {
        let lower = self.lower.take().context("the disk is not mounted")?;
        // First what was flushed: what is flushed a moment later is in the other one, too.
        copy(&self.image(), &self.remains(Remains::Flushed))?;
        copy(&lower, &self.remains(Remains::Written))?;
        let [flushed, written, mixed] = Remains::ALL.map(|remains| self.remains(remains));
        let unflushed = mix(&flushed, &written, &mixed)?;
        self.unmount()?;
        Ok(unflushed)
    }

    /// Mounts what is left after a cut; the file system's journal is replayed.
    pub fn mount_remains(&self, remains: Remains) -> anyhow::Result<PathBuf> {
        run("mount", &["-o", "loop", text(&self.remains(remains))?, text(&self.mounted())?])?;
        Ok(self.mounted())
    }

    /// Unmounts whatever is mounted.
    pub fn unmount(&self) -> anyhow::Result<()> {
        run("umount", &[text(&self.mounted())?]).map(drop)
    }

    /// What is left of this kind is the disk from now on.
    pub fn go_on_with(&self, remains: Remains) -> anyhow::Result<()> {
        Ok(fs::rename(self.remains(remains), self.image())?)
    }
}

/// Copies a disk; blocks of zeros take no room.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let from = File::open(from).with_context(|| from.display().to_string())?;
    write_blocks(to, [from], || 0).map(drop)
}

/// Each block from one or the other, by lot; answers in how many they differ.
fn mix(one: &Path, other: &Path, to: &Path) -> anyhow::Result<u64> {
    let mut lots = random(u64::MAX)? | 1;
    let draw = move || {
        // xorshift64: enough to choose blocks by.
        lots ^= lots << 13;
        lots ^= lots >> 7;
        lots ^= lots << 17;
        usize::from(lots >> 40 & 1 == 1)
    };
    write_blocks(to, [File::open(one)?, File::open(other)?], draw)
}

fn write_blocks<const N: usize>(
    to: &Path,
    mut from: [File; N],
    mut which: impl FnMut() -> usize,
) -> anyhow::Result<u64> {
    let mut different = 0;
    let mut to = File::create(to)?;
    to.set_len(SIZE)?;
    let mut blocks: [Vec<u8>; N] = std::array::from_fn(|_| vec![0; BLOCK * 256]);
    for chunk in 0..SIZE / (BLOCK as u64 * 256) {
        for (file, block) in from.iter_mut().zip(&mut blocks) {
            file.read_exact(block)?;
        }
        for place in 0..256 {
            let at = chunk * 256 + place as u64;
            let range = place * BLOCK..(place + 1) * BLOCK;
            let mut all = blocks.iter().map(|block| block.get(range.clone()));
            let first = all.next();
            different += u64::from(all.any(|block| Some(block) != first));
            let block = blocks.get(which()).and_then(|chosen| chosen.get(range)).context("a block that is cut")?;
            if block.iter().any(|byte| *byte != 0) {
                to.seek(SeekFrom::Start(at * BLOCK as u64))?;
                to.write_all(block)?;
            }
        }
    }
    Ok(different)
}
