//! Where are the records of flows kept? In files of JSON lines, a folder for each gateway, so that none can push out
//! another's: they are many, and nothing is decided by them. A file that is full is followed by the next one, and the
//! oldest goes.
//!
//! What a record says of packets and bytes is its gateway's word. Whose flow it was is the controller's.

use model::ids::{DeviceId, GatewayId, GrantId, ResourceId, SessionId};
use model::limits::{FLOW_FILE_BYTES_MAX, FLOW_FILES_MAX, FLOW_LIST_MAX};
use model::net::Protocol;
use model::time::WallMs;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Bytes of a line; a longer one is none of ours.
const LINE_MAX: usize = 4_096;

/// Why a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlowEnd {
    /// Both sides closed it, or one reset it.
    Closed,
    /// Nothing came for its idle time.
    Idle,
    /// Its grant ended.
    Grant,
    /// Room was needed.
    Evicted,
    /// The gateway stopped.
    Stopped,
    /// For a reason of a later release.
    Other,
}

impl fmt::Display for FlowEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Idle => "idle",
            Self::Grant => "grant",
            Self::Evicted => "evicted",
            Self::Stopped => "stopped",
            Self::Other => "other",
        })
    }
}

/// What a gateway says of a flow that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Its number: they follow one another from the gateway's start on.
    pub number: u64,
    /// Its grant.
    pub grant: GrantId,
    /// Its protocol.
    pub protocol: Protocol,
    /// The real destination.
    pub target: IpAddr,
    /// The destination port; 0 for ICMP.
    pub port: u16,
    /// When the first packet came.
    pub started: WallMs,
    /// When the last packet came.
    pub ended: WallMs,
    /// From the client.
    pub packets_up: u64,
    /// From the client, bytes of IP.
    pub bytes_up: u64,
    /// To the client.
    pub packets_down: u64,
    /// To the client, bytes of IP.
    pub bytes_down: u64,
    /// Why it ended.
    pub end: FlowEnd,
}

/// A flow that ended, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// Through which gateway.
    pub gateway: GatewayId,
    /// Of which start of it.
    pub boot: u64,
    /// Whose.
    pub device: DeviceId,
    /// Under which log-in.
    pub session: SessionId,
    /// To which resource.
    pub resource: ResourceId,
    /// What the gateway says of it.
    #[serde(flatten)]
    pub told: Told,
}

/// The records of all gateways.
#[derive(Debug)]
pub struct FlowLog {
    folder: PathBuf,
    file_bytes: u64,
    files: usize,
    writing: Mutex<()>,
}

impl FlowLog {
    /// In this folder, which is made when something is first written.
    pub fn new(folder: PathBuf) -> Self {
        Self::bounded(folder, FLOW_FILE_BYTES_MAX, FLOW_FILES_MAX)
    }

    fn bounded(folder: PathBuf, file_bytes: u64, files: usize) -> Self {
        Self { folder, file_bytes, files, writing: Mutex::default() }
    }

    /// Keeps records of one gateway, in order; durable when this returns. It waits for the disk.
    pub fn append(&self, gateway: GatewayId, records: &[FlowRecord]) -> io::Result<()> {
        let mut lines = Vec::new();
        for record in records {
            serde_json::to_writer(&mut lines, record)?;
            lines.push(b'\n');
        }
        // An older stream of the same gateway may still be finishing: files are appended to by one at a time.
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = self.folder.join(gateway.to_string());
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let numbers = numbers(&folder)?;
        let (mut file, new) = self.open_last(&folder, numbers.last().copied(), lines.len() as u64)?;
        file.write_all(&lines)?;
        file.sync_data()?;
        if new {
            File::open(&folder)?.sync_all()?;
            let kept = self.files.saturating_sub(1);
            for number in numbers.iter().rev().skip(kept) {
                fs::remove_file(path(&folder, *number))?;
            }
        }
        Ok(())
    }

    /// The newest file, if `more` bytes still fit into it, else the next one; whether it is new.
    fn open_last(&self, folder: &Path, last: Option<u64>, more: u64) -> io::Result<(File, bool)> {
        let mut options = OpenOptions::new();
        options.append(true).mode(0o600);
        if let Some(last) = last {
            let mut file = options.open(path(folder, last))?;
            let length = file.metadata()?.len();
            if length.saturating_add(more) < self.file_bytes {
                // A line that a power cut tore must not swallow the next one; an empty line is none.
                if length > 0 {
                    file.write_all(b"\n")?;
                }
                return Ok((file, false));
            }
        }
        let next = last.map_or(1, |last| last.saturating_add(1));
        Ok((options.create_new(true).open(path(folder, next))?, true))
    }

    /// The newest records that `wanted` admits, newest first, at most `limit` and [`FLOW_LIST_MAX`]; `word` stands in each
    /// of their lines. Records that were told twice come once. It waits for the disk.
    pub fn newest(
        &self,
        word: &str,
        limit: usize,
        wanted: impl Fn(&FlowRecord) -> bool,
    ) -> io::Result<Vec<FlowRecord>> {
        let mut found: Vec<FlowRecord> = Vec::new();
        let gateways = match fs::read_dir(&self.folder) {
            Ok(gateways) => gateways,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(error),
        };
        for gateway in gateways {
            let folder = gateway?.path();
            let mut seen = BTreeSet::new();
            for number in numbers(&folder)?.into_iter().rev() {
                let file = match File::open(path(&folder, number)) {
                    // It went meanwhile, for its age.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    opened => opened?,
                };
                let lines = read(file, word, &wanted)?;
                found.extend(lines.into_iter().filter(|r| seen.insert((r.boot, r.told.number))));
                if seen.len() >= limit {
                    break;
                }
            }
        }
        found.sort_by_key(|record| std::cmp::Reverse(record.told.ended));
        found.truncate(limit.min(FLOW_LIST_MAX));
        Ok(found)
    }
}

/// The numbers of a gateway's files, in order.
fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number: Option<u64> = name.to_str().and_then(|name| name.strip_suffix(".jsonl")?.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:020}.jsonl"))
}

fn read(file: File, word: &str, wanted: &impl Fn(&FlowRecord) -> bool) -> io::Result<Vec<FlowRecord>> {
    let mut found = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        let Some(text) = std::str::from_utf8(&line).ok().filter(|text| text.len() <= LINE_MAX) else { continue };
        if !text.contains(word) {
            continue;
        }
        // A torn line was never confirmed to its gateway, which has told it again.
        found.extend(serde_json::from_str::<FlowRecord>(text).ok().filter(wanted));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Folder;

    fn record(gateway: u8, session: u8, number: u64) -> FlowRecord {
        FlowRecord {
            gateway: GatewayId::from_bytes([gateway; 10]),
            boot: u64::MAX,
            device: DeviceId::from_bytes([2; 10]),
            session: SessionId::from_bytes([session; 10]),
            resource: ResourceId::from_bytes([4; 10]),
            told: Told {
                number,
                grant: GrantId::from_bytes([5; 10]),
                protocol: Protocol::Tcp,
                target: "fd20::10".parse().unwrap(),
                port: 443,
                started: WallMs(1),
                ended: WallMs(i64::try_from(number).unwrap()),
                packets_up: 1,
                bytes_up: u64::MAX,
                packets_down: 2,
                bytes_down: 3,
                end: FlowEnd::Closed,
            },
        }
    }

    fn of(session: u8, log: &FlowLog, limit: usize) -> Vec<u64> {
        let id = SessionId::from_bytes([session; 10]);
        let found = log.newest(&id.to_string(), limit, |r| r.session == id).unwrap();
        found.iter().map(|r| r.told.number).collect()
    }

    #[test]
    fn records_come_back_newest_first_and_once() {
        let folder = Folder::new();
        let log = FlowLog::new(folder.path().join("flows"));
        assert_eq!(of(1, &log, 10), [0; 0]);
        let records: Vec<_> = (1..=6).map(|n| record(1, u8::try_from(n % 2).unwrap(), n)).collect();
        log.append(records[0].gateway, &records[..4]).unwrap();
        // The confirmation did not arrive: told again, with more.
        log.append(records[0].gateway, &records[2..]).unwrap();
        log.append(record(9, 1, 4).gateway, &[record(9, 1, 4)]).unwrap();
        assert_eq!(of(1, &log, 10), [5, 4, 3, 1]);
        assert_eq!(of(0, &log, 2), [6, 4]);
        assert_eq!(log.newest("", 1, |_| true).unwrap(), [record(1, 0, 6)]);
        let again = FlowLog::new(folder.path().join("flows"));
        assert_eq!(of(0, &again, 10), [6, 4, 2]);
    }

    #[test]
    fn a_torn_line_takes_no_other_with_it() {
        let folder = Folder::new();
        let log = FlowLog::new(folder.path().to_owned());
        let gateway = record(1, 1, 1).gateway;
        log.append(gateway, &[record(1, 1, 1), record(1, 1, 2)]).unwrap();
        let file = path(&folder.path().join(gateway.to_string()), 1);
        let text = fs::read(&file).unwrap();
        fs::write(&file, &text[..text.len() - 20]).unwrap();
        log.append(gateway, &[record(1, 1, 2), record(1, 1, 3)]).unwrap();
        assert_eq!(of(1, &log, 10), [3, 2, 1]);
    }

    #[test]
    fn full_files_follow_one_another_and_the_oldest_goes() {
        let folder = Folder::new();
        let (file_bytes, files) = (256 << 10, 4);
        let log = FlowLog::bounded(folder.path().to_owned(), file_bytes, files);
        let gateway = record(1, 1, 1).gateway;
        let other = record(2, 1, 1);
        log.append(other.gateway, std::slice::from_ref(&other)).unwrap();
        let line = serde_json::to_vec(&record(1, 1, 10_000)).unwrap().len() as u64;
        let per_file = file_bytes / line;
        let mut number = 0;
        for _ in 0..(files as u64 + 2) * per_file.div_ceil(512) {
            let records: Vec<_> = (number + 1..=number + 512).map(|n| record(1, 1, n)).collect();
            number += 512;
            log.append(gateway, &records).unwrap();
        }
        let folder = folder.path().join(gateway.to_string());
        let there = numbers(&folder).unwrap();
        assert_eq!(there.len(), files);
        assert!(there[0] > 1, "the oldest is still there");
        assert!(there.iter().all(|n| fs::metadata(path(&folder, *n)).unwrap().len() <= file_bytes));
        let newest = log.newest("", usize::MAX, |r| r.gateway == gateway).unwrap();
        assert_eq!((newest.len(), newest[0].told.number), (FLOW_LIST_MAX, number));
        assert_eq!(log.newest("", 10, |r| r.gateway == other.gateway).unwrap(), [other], "another gateway's records");
        let log = FlowLog::new(folder);
        assert_eq!((log.file_bytes, log.files), (FLOW_FILE_BYTES_MAX, FLOW_FILES_MAX));
    }
}
