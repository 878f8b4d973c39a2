//! Where does the controller keep its state, and how does a change become durable?
//!
//! A [`Store`] holds small records under short keys. A [`Commit`] says what it stood on (`expect`), what changes, and
//! what the audit trail shall say, and happens whole or not at all: optimistic on purpose, so that it fits the embedded
//! store today and etcd tomorrow. Nothing is answered, shown to a reader or told to a watcher before it is durable.
//!
//! | file | question |
//! |---|---|
//! | `key` | what is a key? |
//! | `plan` | may these commits happen, and what do they write? (pure) |
//! | `layout` | how do records lie on the disk? (pure) |
//! | `state` | what is the durable state, what changed, who watches? |
//! | `writer` | in which order do commits become durable, and what when the disk is full or fails? |
//! | `sled` | the embedded database: `sled/disk` how is it opened, written and synced, `sled/read` what does it hold? `sled/archive` how do old audit records leave it, `sled/trail` where are they then? |
//! | `record` | how do typed records go in and out? |

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use model::revision::Revision;

pub use key::{Key, KeyError};
pub use layout::Assembler;
pub use options::Options;
pub use record::{Reading, Record, Versioned, decode};
pub use sled::{OpenError, SledStore};
pub use state::{Change, WatchError, Watcher};

use crate::audit;

mod key;
mod layout;
mod options;
mod plan;
mod record;
mod sled;
mod state;
mod writer;

/// A future of the store; boxed, so that `dyn Store` works.
pub type Fut<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a commit expects of a key. `Revision(0)` means the same as `Absent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The key was last changed by the commit of this number.
    Revision(u64),
    /// There is no such key.
    Absent,
}

/// One change of the store, whole or not at all.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// What the change stands on; head keys (`policy`) are allowed here.
    pub expect: Vec<(Key, Expect)>,
    /// New values. A key must not appear twice, nor in `deletes`.
    pub puts: Vec<(Key, Bytes)>,
    /// Keys to remove; removing what is not there is no error.
    pub deletes: Vec<Key>,
    /// What the audit trail shall say, in the same transaction.
    pub audit: Vec<audit::Entry>,
}

impl Commit {
    /// Adds an expectation: `revision` as read, 0 for absent.
    pub fn expect(mut self, key: Key, revision: u64) -> Self {
        self.expect.push((key, Expect::Revision(revision)));
        self
    }
    /// Adds a value.
    pub fn put(mut self, key: Key, value: impl Into<Bytes>) -> Self {
        self.puts.push((key, value.into()));
        self
    }
    /// Adds a removal.
    pub fn delete(mut self, key: Key) -> Self {
        self.deletes.push(key);
        self
    }
    /// Adds an audit entry.
    pub fn audit(mut self, entry: audit::Entry) -> Self {
        self.audit.push(entry);
        self
    }
}

/// A value and the number of the commit that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Number of the commit that wrote it last.
    pub revision: u64,
    /// The value.
    pub value: Bytes,
}

/// All records under a prefix, at one point in time.
#[derive(Debug, Clone)]
pub struct Scan {
    /// The point in time: a watch from here misses nothing.
    pub revision: Revision,
    /// The head key of the set, to be expected by a commit that stands on this scan.
    pub head: Key,
    /// Revision of that head key; 0 when the set never had a member.
    pub head_revision: u64,
    /// The records, ordered by key.
    pub items: Vec<(Key, Item)>,
}

/// Everything that a store holds at one revision; of the audit trail, where it ends.
#[derive(Debug, Clone)]
pub struct Export {
    /// The revision.
    pub revision: Revision,
    /// All records, ordered by key, without head keys.
    pub items: Vec<(Key, Item)>,
    /// Its end at that revision.
    pub audit: audit::Chain,
}

/// How a store begins that goes on where another one ended.
#[derive(Debug, Clone, Copy)]
pub struct Beginning {
    /// Which life of the organisation it is.
    pub incarnation: u64,
    /// The audit trail that it goes on with.
    pub audit: audit::Chain,
}

/// A record of the audit trail as it is stored: its number, then hash and line.
pub type StoredAudit = (u64, Vec<u8>);

/// Why a commit did not happen (or, for [`CommitError::Io`], may not have).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Something it stood on has changed: read again and decide again.
    #[error("`{key}` changed in the meantime: read it again and decide again")]
    Conflict {
        /// The first key whose revision is another.
        key: Key,
    },
    /// The commit itself is malformed: a fault of the caller.
    #[error("the commit is malformed: {0}")]
    Invalid(String),
    /// A bound of `model::limits` is reached; nothing was changed.
    #[error("the store is full: {what} would pass its bound of {max}; remove what is no longer needed")]
    Full {
        /// What is counted.
        what: &'static str,
        /// The bound.
        max: u64,
    },
    /// The disk is nearly full; nothing was changed.
    #[error(
        "the disk of the store is full: {free_kib} KiB are free, {kept_kib} KiB are kept for what takes access away. \
         Nothing was changed: free space on it and try again"
    )]
    NoRoom {
        /// What everybody may still write, in KiB.
        free_kib: u64,
        /// What such a change has to leave, in KiB.
        kept_kib: u64,
    },
    /// Writing or syncing failed; whether this commit is there when the disk can be read again is unknown.
    #[error(
        "the store could not make the change durable ({0}); look whether it is there when the store takes changes again. \
         Free disk space or repair the disk: the store then goes on by itself"
    )]
    Io(String),
    /// An earlier commit failed in the disk, and what the disk holds is not known yet; nothing was changed.
    #[error(
        "the store is halted since an earlier failure ({0}), nothing was changed: free disk space or repair the disk, \
         and try again; the store goes on by itself when its files can be read and written"
    )]
    Halted(String),
    /// Somebody witnessed a longer trail than this store has.
    #[error("this controller refuses every change: {0}")]
    Refused(String),
    /// The store is being closed; nothing was changed.
    #[error("the store is closed")]
    Closed,
}

/// Why something could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The store answered with an error or holds what it should not.
    #[error("the store could not be read ({0}): restore the last backup if this stays after a restart")]
    Damaged(String),
    /// A record does not decode.
    #[error("the record `{key}` does not decode ({cause}): it was written by another version or damaged")]
    Decode {
        /// Which record.
        key: Key,
        /// What the decoder said.
        cause: String,
    },
    /// A name that cannot be a key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Durable, transactional state. All reads show durable state only.
pub trait Store: Send + Sync {
    /// Makes a change durable and answers its revision. When the caller goes away, the change happens all the same.
    fn commit(&self, commit: Commit) -> Fut<'_, Result<Revision, CommitError>>;
    /// One record, or the revision of a head key (its value is empty).
    fn get<'a>(&'a self, key: &'a Key) -> Fut<'a, Result<Option<Item>, ReadError>>;
    /// All records whose key begins with `prefix`, of one set: `policy` means `policy/`.
    fn scan<'a>(&'a self, prefix: &'a str) -> Fut<'a, Result<Scan, ReadError>>;
    /// Revision of the head key of `set`: the last change of any member; 0 when there never was one.
    fn head<'a>(&'a self, set: &'a str) -> Fut<'a, Result<u64, ReadError>>;
    /// The newest durable revision.
    fn revision(&self) -> Revision;
    /// All changes after `from`, in order. A watcher that is too slow gets [`WatchError::Lagged`] and must scan again.
    fn watch(&self, from: Revision) -> Watcher;
    /// Audit records that match, newest first.
    fn audit(&self, query: audit::Query) -> Fut<'_, Result<Vec<audit::Record>, ReadError>>;
    /// Everything but the audit trail, at one revision.
    fn export(&self) -> Fut<'_, Export>;
    /// Audit records as they are stored, from `from` on, at most `max`; one that is gone is left out.
    fn audit_stored(&self, from: u64, max: u64) -> Fut<'_, Result<Vec<StoredAudit>, ReadError>>;
    /// The newest durable revision, and where the audit trail ends there.
    fn audit_head(&self) -> (Revision, audit::Chain);
    /// Takes no commit any more, now and after a restart, for this reason: it is not the newest state of the organisation.
    fn refuse<'a>(&'a self, why: &'a str) -> Fut<'a, Result<(), String>>;
    /// Why it takes no commit.
    fn refused(&self) -> Option<String>;
    /// Walks the whole audit chain.
    fn verify_audit(&self) -> Fut<'_, Result<audit::Verified, audit::VerifyError>>;
}
