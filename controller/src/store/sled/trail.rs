//! Where is a record of the audit trail? The newest are in the database, older ones in files beside it; while it is walked,
//! records go from the one to the others.

use std::sync::Arc;

use model::limits::COMMIT_AUDIT_MAX;

use super::super::StoredAudit;
use super::super::state::Shared;
use super::read::read_audit;
use crate::audit::segment::Segments;
use crate::audit::{self, Chain, Query, Record, Verified, Verifier, VerifyError};

/// The whole trail, to be read.
pub(super) struct Trail {
    pub db: sled::Db,
    pub shared: Arc<Shared>,
    pub segments: Segments,
}

/// A record as it was found.
enum Found {
    /// In the database: hash and line.
    Stored(u64, Vec<u8>),
    /// In a file: the line.
    Line(Vec<u8>),
}

impl Trail {
    fn chain(&self) -> Chain {
        self.shared.read().meta.audit
    }

    /// The oldest record, wherever it is.
    fn oldest(&self) -> Result<u64, String> {
        let files = self.segments.list().map_err(|e| e.to_string())?;
        let in_store = self.chain().first.max(1);
        Ok(files.first().map_or(in_store, |oldest| oldest.first.min(in_store)))
    }

    /// Hands out the records `from..=to` in order, as far as they are there, until `each` says that it has enough.
    fn walk<E: From<String>>(
        &self,
        from: u64,
        to: u64,
        mut each: impl FnMut(Found) -> Result<bool, E>,
    ) -> Result<(), E> {
        let mut next = from;
        while next <= to {
            let in_store = next >= self.chain().first;
            if in_store && let Some(stored) = read_audit(&self.db, next)? {
                if !each(Found::Stored(next, stored))? {
                    return Ok(());
                }
                next = next.saturating_add(1);
                continue;
            }
            // Also one that is about to leave the store: it is in a file before it goes.
            let file = self.segments.from(next).map_err(|e| e.to_string())?;
            let Some(segment) = file.filter(|file| !in_store || file.first <= next) else {
                // It is nowhere; whoever counts notices.
                next = if in_store { next.saturating_add(1) } else { self.chain().first };
                continue;
            };
            let skipped = usize::try_from(next.saturating_sub(segment.first)).unwrap_or(usize::MAX);
            let unread = |e| format!("{}: {e}", segment.path.display());
            for line in segment.lines().map_err(unread)?.skip(skipped) {
                if !each(Found::Line(line.map_err(unread)?))? {
                    return Ok(());
                }
            }
            next = segment.last.saturating_add(1);
        }
        Ok(())
    }

    /// Newest first, only what is durable. A record that went or does not decode is passed over: `verify` names it.
    pub(super) fn list(&self, query: &Query) -> Result<Vec<Record>, String> {
        let chain = self.chain();
        let oldest = self.oldest()?;
        let mut end = query.before.map_or(chain.seq, |before| before.saturating_sub(1).min(chain.seq));
        let mut records = Vec::new();
        // Backwards in steps, each of which is walked forwards.
        while end >= oldest && end > 0 {
            let from = end.saturating_sub(COMMIT_AUDIT_MAX as u64 - 1).max(oldest);
            let mut step = Vec::new();
            self.walk(from, end, |found| {
                let line = match &found {
                    Found::Stored(_, stored) => audit::line_of(stored).unwrap_or_default(),
                    Found::Line(line) => line,
                };
                let record = serde_json::from_slice::<Record>(line).ok();
                let more = record.as_ref().is_none_or(|record| record.seq < end);
                step.extend(record.filter(|r| (from..=end).contains(&r.seq) && query.matches(r)));
                Ok::<_, String>(more)
            })?;
            step.reverse();
            records.extend(step);
            if records.len() >= query.limit() || from == oldest {
                break;
            }
            end = from.saturating_sub(1);
        }
        records.truncate(query.limit());
        Ok(records)
    }

    /// As they are stored, from `from` on, at most `max`, only what is durable.
    pub(super) fn stored(&self, from: u64, max: u64) -> Result<Vec<StoredAudit>, String> {
        let from = from.max(self.oldest()?);
        let to = self.chain().seq.min(from.saturating_add(max).saturating_sub(1));
        let mut records = Vec::new();
        self.walk(from, to, |found| {
            let (seq, stored) = match found {
                Found::Stored(seq, stored) => (seq, stored),
                Found::Line(line) => {
                    // What does not decode is left out: `verify` names it.
                    let Ok(record) = serde_json::from_slice::<Record>(&line) else { return Ok(true) };
                    (record.seq, [&audit::hash(&line).0[..], &line].concat())
                }
            };
            if (from..=to).contains(&seq) {
                records.push((seq, stored));
            }
            Ok::<_, String>(seq < to)
        })?;
        Ok(records)
    }

    /// Walks the whole chain.
    pub(super) fn verify(&self) -> Result<Verified, VerifyError> {
        let (oldest, chain) = (self.oldest().map_err(VerifyError::Read)?, self.chain());
        let mut verifier = Verifier::new(oldest);
        let walked = self.walk(oldest, chain.seq, |found| {
            let pushed = match found {
                Found::Stored(seq, stored) => verifier.push(seq, &stored),
                Found::Line(line) => verifier.push_line(&line),
            };
            pushed.map_err(Broken::Chain)?;
            Ok(verifier.next() <= chain.seq)
        });
        match walked {
            Ok(()) => verifier.finish(chain),
            Err(Broken::Chain(error)) => Err(error),
            Err(Broken::Read(cause)) => Err(VerifyError::Read(cause)),
        }
    }
}

enum Broken {
    Chain(VerifyError),
    Read(String),
}

impl From<String> for Broken {
    fn from(cause: String) -> Self {
        Self::Read(cause)
    }
}
