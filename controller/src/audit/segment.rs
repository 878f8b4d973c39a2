//! How do old audit records lie outside of the store? In files of JSON lines, each line a record exactly as it is chained:
//! `000000000001-000000010000.jsonl` holds records 1 to 10,000. A file is whole and durable before it has its name, and is
//! never written again.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use host::keyfile::{self, KeyFileError};
use model::limits::STORE_VALUE_MAX;

use super::{Hash, hash};

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its first record.
    pub first: u64,
    /// Its last one.
    pub last: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// The folder of a store's files.
#[derive(Debug, Clone)]
pub struct Segments {
    folder: PathBuf,
}

impl Segments {
    /// In this folder, which is made when something is first written.
    pub const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// All of them, the oldest first. What has another name is none of ours.
    pub fn list(&self) -> io::Result<Vec<Segment>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let range = entry.file_name().to_str().and_then(range);
            found.extend(range.map(|(first, last)| Segment { first, last, path: entry.path() }));
        }
        found.sort_by_key(|segment| (segment.first, segment.last));
        Ok(found)
    }

    /// The one with this record, or the first one after it.
    pub fn from(&self, seq: u64) -> io::Result<Option<Segment>> {
        Ok(self.list()?.into_iter().find(|segment| segment.last >= seq))
    }

    /// Writes the next one. Durable when this returns, and nothing has its name before.
    pub fn write(&self, first: u64, last: u64, lines: &[u8]) -> Result<Segment, KeyFileError> {
        keyfile::create_folder(&self.folder)?;
        let path = self.folder.join(format!("{first:012}-{last:012}.jsonl"));
        keyfile::create(&path, lines)?;
        Ok(Segment { first, last, path })
    }

    /// Removes one for good.
    pub fn remove(&self, segment: &Segment) -> io::Result<()> {
        fs::remove_file(&segment.path)?;
        File::open(&self.folder)?.sync_all()
    }
}

/// The first and the last record of a file with this name; none where the name is not one of ours.
pub fn range(name: &str) -> Option<(u64, u64)> {
    let (first, last) = name.strip_suffix(".jsonl")?.split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (1 <= first && first <= last).then_some((first, last))
}

impl Segment {
    /// Its lines.
    pub fn lines(&self) -> io::Result<Lines<BufReader<File>>> {
        Lines::open(&self.path)
    }

    /// The hash of its last line.
    pub fn head(&self) -> io::Result<Option<Hash>> {
        let mut last = None;
        for line in self.lines()? {
            last = Some(hash(&line?));
        }
        Ok(last)
    }
}

/// The lines of a file, each of a bounded length, without their ends. Empty ones are left out.
#[derive(Debug)]
pub struct Lines<R> {
    from: R,
}

impl Lines<BufReader<File>> {
    /// Of the file at this path.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { from: BufReader::new(File::open(path)?) })
    }
}

impl<R: BufRead> Lines<R> {
    /// Of what is read from here.
    pub const fn of(from: R) -> Self {
        Self { from }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut line = Vec::new();
            let bound = u64::try_from(STORE_VALUE_MAX).unwrap_or(u64::MAX);
            match io::Read::take(&mut self.from, bound).read_until(b'\n', &mut line) {
                Err(error) => return Some(Err(error)),
                Ok(0) => return None,
                Ok(_) => {}
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            // A longer line comes in parts, which are no records.
            if !line.is_empty() {
                return Some(Ok(line));
            }
        }
    }
}
