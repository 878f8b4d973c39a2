//! Is a trail whole? Record by record: each follows the one before, and where it begins later than at 1, one of its own
//! records says what became of those before.

use super::{Chain, Hash, Record, hash};

/// The action of a record that says that a file with the oldest records was removed.
pub const DROPPED: &str = "audit.drop";
/// The action of the record with which a restored organisation begins.
pub const RESTORED: &str = "org.restore";

/// The action of the record with which an organisation goes on whose trail lost its end.
pub const ACCEPTED: &str = "audit.accept-loss";

/// Where a new life of the organisation begins: its incarnation, and the newest record of the life before that it has.
pub(super) fn new_life(record: &Record) -> Option<(u64, u64)> {
    let number = |name: &str| record.detail.get(name).and_then(serde_json::Value::as_u64);
    let begins = [RESTORED, ACCEPTED].contains(&record.action.as_str());
    Some((number("incarnation")?, number("backup_audit_seq")?)).filter(|_| begins)
}

/// What a whole walk over the chain found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Oldest record that is kept.
    pub first: u64,
    /// Newest record; equal to `first - 1` when there is none.
    pub last: u64,
    /// Hash of the newest record, to be compared with what witnesses keep.
    pub head: Hash,
}

/// Where the chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// This record is missing, altered, or does not follow the one before.
    #[error("the audit chain is broken at record {seq}: {what}. Records before it are as they were written")]
    Broken {
        /// First record that does not hold.
        seq: u64,
        /// How.
        what: String,
    },
    /// The oldest records are missing.
    #[error(
        "the audit trail begins at record {first}, and none of its records says that those before it were removed: \
         the files with records 1 to {before} are missing", before = first - 1
    )]
    Beginning {
        /// Where it begins.
        first: u64,
    },
    /// The store could not be read.
    #[error("the audit trail could not be read: {0}")]
    Read(String),
}

impl VerifyError {
    pub(super) fn broken(seq: u64, what: impl Into<String>) -> Self {
        Self::Broken { seq, what: what.into() }
    }
}

/// Walks a chain record by record, in order.
#[derive(Debug)]
pub struct Verifier {
    first: u64,
    next: u64,
    prev: Option<Hash>,
    /// Records up to here are gone, and a record says so.
    gone: u64,
}

impl Verifier {
    /// For a chain that begins with this record.
    pub fn new(first: u64) -> Self {
        let first = first.max(1);
        Self { first, next: first, prev: (first == 1).then(Hash::default), gone: 0 }
    }

    /// Takes the next record of the store, found under `seq`: its hash and its line.
    pub fn push(&mut self, seq: u64, stored: &[u8]) -> Result<Record, VerifyError> {
        if seq != self.next {
            return Err(VerifyError::broken(self.next.min(seq), "it is missing, or a record was put in before it"));
        }
        let Some((own, line)) = stored.split_first_chunk::<32>() else {
            return Err(VerifyError::broken(seq, "it is cut"));
        };
        if hash(line).0 != *own {
            return Err(VerifyError::broken(seq, "its text does not fit its hash"));
        }
        let record = self.read(line)?;
        if record.seq != seq {
            return Err(VerifyError::broken(seq, "it carries another number"));
        }
        if self.prev.is_some_and(|prev| prev != record.prev) {
            return Err(VerifyError::broken(seq, "it does not follow the record before it"));
        }
        Ok(self.take(record, line))
    }

    /// Takes the next line of a file: there a record's hash stands only in the record after it.
    pub fn push_line(&mut self, line: &[u8]) -> Result<Record, VerifyError> {
        let record = self.read(line)?;
        if record.seq > self.next {
            let last = record.seq.saturating_sub(1);
            return Err(VerifyError::broken(self.next, format!("records {} to {last} are missing", self.next)));
        }
        if record.seq < self.next {
            let what = format!("record {} stands in its place: records are out of order, or there twice", record.seq);
            return Err(VerifyError::broken(self.next, what));
        }
        if self.prev.is_some_and(|prev| prev != record.prev) {
            let (seq, what) = if record.seq == self.first {
                (record.seq, "it does not begin a trail".to_owned())
            } else {
                let before = record.seq.saturating_sub(1);
                (before, format!("it is not the one that record {} was chained to: it was altered", record.seq))
            };
            return Err(VerifyError::broken(seq, what));
        }
        Ok(self.take(record, line))
    }

    fn read(&self, line: &[u8]) -> Result<Record, VerifyError> {
        let read = serde_json::from_slice::<Record>(line);
        read.map_err(|e| VerifyError::broken(self.next, format!("it does not decode: {e}")))
    }

    fn take(&mut self, record: Record, line: &[u8]) -> Record {
        self.prev = Some(hash(line));
        self.next = record.seq.saturating_add(1);
        let number = |name: &str| record.detail.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
        self.gone = self.gone.max(match record.action.as_str() {
            DROPPED => number("last"),
            RESTORED => number("audit_first").saturating_sub(1),
            _ => 0,
        });
        record
    }

    /// The record that comes next.
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Ends the walk wherever it is.
    pub fn end(&self) -> Result<Verified, VerifyError> {
        if self.gone.saturating_add(1) < self.first && self.next > self.first {
            return Err(VerifyError::Beginning { first: self.first });
        }
        Ok(Verified { first: self.first, last: self.next.saturating_sub(1), head: self.prev.unwrap_or_default() })
    }

    /// Ends the walk: the last record must be the one that the store wrote last.
    pub fn finish(&self, chain: Chain) -> Result<Verified, VerifyError> {
        self.finish_tail(chain)?;
        self.end()
    }

    /// The same for a walk over the newest records only.
    pub fn finish_tail(&self, chain: Chain) -> Result<(), VerifyError> {
        let last = self.next.saturating_sub(1);
        if last < chain.seq {
            return Err(VerifyError::broken(self.next, "the end of the chain is missing"));
        }
        if last > chain.seq || self.prev.unwrap_or_default() != chain.hash {
            return Err(VerifyError::broken(last, "it is not the record that was written last"));
        }
        Ok(())
    }
}
