//! How do old audit records leave the store? A thread of its own writes them into a file, makes that durable, and only then
//! asks the writer to let go of them: a crash in between leaves them in both places, never in neither. What the disk
//! refuses it tries again later; the writer never waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use host::clock::SystemClock;
use model::limits::COMMIT_AUDIT_MAX;
use model::time::Clock as _;
use std::path::PathBuf;
use tokio::sync::{mpsc, oneshot};

use super::super::state::Shared;
use super::super::writer::Request;
use super::super::{Commit, Options};
use super::disk::Handle;
use super::read::{guarded, read_audit};
use crate::audit::segment::{Segment, Segments};
use crate::audit::{self, Chain, Entry, Outcome};

/// What the disk refused is tried again after this.
const RETRY: Duration = Duration::from_secs(5);

/// The thread's state.
pub(super) struct Archivist {
    pub handle: Handle,
    pub shared: Arc<Shared>,
    pub segments: Segments,
    pub path: PathBuf,
    pub options: Options,
    pub requests: mpsc::Sender<Request>,
    pub stop: Arc<AtomicBool>,
}

impl Archivist {
    /// Runs until it is told to stop.
    pub(super) fn run(self) {
        self.shared.call_when_records_wait(thread::current(), self.options.segment_records.saturating_mul(2));
        let mut told = String::new();
        while !self.stop.load(Ordering::Relaxed) {
            match guarded(|| self.step()) {
                Ok(true) => continue,
                Ok(false) => told.clear(),
                Err(cause) => {
                    if cause != told {
                        tracing::error!(%cause, "audit records cannot leave the store; they stay in it until they can");
                    }
                    told = cause;
                }
            }
            thread::park_timeout(RETRY);
        }
    }

    /// One step; answers whether there may be another one.
    pub(super) fn step(&self) -> Result<bool, String> {
        let chain = self.shared.read().meta.audit;
        let files = self.segments.list().map_err(|e| e.to_string())?;
        if let Some(newest) = files.last().filter(|newest| newest.last >= chain.first && chain.first > 0) {
            return self.let_go(newest, chain).map(|()| true);
        }
        if let Some(oldest) = files.first().filter(|_| files.len() > self.options.segments_max.max(1)) {
            return self.drop_file(oldest).map(|()| true);
        }
        if chain.held() < self.options.segment_records.saturating_mul(2).max(2) {
            return Ok(false);
        }
        self.write(chain).map(|()| true)
    }

    /// Writes the oldest records of the store into the next file.
    fn write(&self, chain: Chain) -> Result<(), String> {
        let room = host::disk::room(&self.path).map_err(|e| e.to_string())?;
        let needed = self.options.room_min.saturating_add(self.options.segment_bytes as u64);
        if room < needed {
            return Err(format!("{} MiB of the disk are free, {} are needed", room >> 20, needed >> 20));
        }
        let db = self.handle.db()?;
        let (mut lines, mut last) = (Vec::new(), chain.first);
        let end = chain.first.saturating_add(self.options.segment_records.max(1));
        for seq in chain.first..end.min(chain.seq) {
            // As it is, also when it is damaged: `verify` names it in the file as it would in the store.
            let stored = read_audit(&db, seq)?.unwrap_or_default();
            let line = audit::line_of(&stored).unwrap_or_default();
            if seq > chain.first && lines.len().saturating_add(line.len()) >= self.options.segment_bytes {
                break;
            }
            lines.extend_from_slice(line);
            lines.push(b'\n');
            last = seq;
        }
        let written = self.segments.write(chain.first, last, &lines).map_err(|e| e.to_string())?;
        tracing::info!(file = %written.path.display(), "audit records left the store");
        Ok(())
    }

    /// Lets the store forget what lies in a file, some of it at a time, so that nobody waits long.
    fn let_go(&self, file: &Segment, chain: Chain) -> Result<(), String> {
        let in_store = read_audit(&self.handle.db()?, file.last)?;
        let in_store = in_store.as_deref().and_then(|stored| stored.split_first_chunk::<32>()).map(|(hash, _)| *hash);
        let in_file = file.head().map_err(|e| format!("{}: {e}", file.path.display()))?;
        if in_store.is_some() && in_store != in_file.map(|hash| hash.0) {
            return Err(format!(
                "{} and the store differ in record {}: nothing is removed from either",
                file.path.display(),
                file.last
            ));
        }
        let to = file.last.min(chain.first.saturating_add(COMMIT_AUDIT_MAX as u64 - 1));
        self.ask(Commit::default(), Some(to))
    }

    /// Removes the oldest file, once a record says so.
    fn drop_file(&self, file: &Segment) -> Result<(), String> {
        let head = file.head().map_err(|e| format!("{}: {e}", file.path.display()))?.unwrap_or_default();
        let object = format!("audit/{}-{}", file.first, file.last);
        let entry = Entry::new(SystemClock::new().wall(), "controller", audit::DROPPED, object, Outcome::Done)
            .with("first", file.first)
            .with("last", file.last)
            .with("hash", head.to_string());
        self.ask(Commit::default().audit(entry), None)?;
        tracing::warn!(file = %file.path.display(), "the oldest audit records are removed: there are more than are kept");
        self.segments.remove(file).map_err(|e| format!("{}: {e}", file.path.display()))
    }

    fn ask(&self, commit: Commit, archived: Option<u64>) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        let asked = self.requests.blocking_send(Request { commit, archived, answer });
        asked.map_err(|_| "the store is closed".to_owned())?;
        let answered = answered.blocking_recv().map_err(|_| "the store is closed".to_owned())?;
        answered.map(drop).map_err(|e| e.to_string())
    }
}
