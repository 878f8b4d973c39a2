//! What is the durable state, what changed, and who watches?
//!
//! All records but the audit trail are held in memory as of the newest durable commit: a reader never waits for the
//! disk and never sees what a power cut could take back. A watcher is a cursor into the list of recent changes, so
//! nothing queues for it and it can hold nobody up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::Thread;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use model::revision::Revision;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Item, Key};
use crate::audit::Chain;

/// The store's record about itself, written with every commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    /// Which life of the store.
    pub incarnation: u64,
    /// Number of the newest commit.
    pub number: u64,
    /// Live keys, head keys included.
    pub items: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Sum of [`fingerprint`] over all live keys: tells when the disk lost or revived a record.
    pub digest: u64,
    /// Oldest change that is kept.
    pub log_first: u64,
    /// End of the audit chain.
    pub audit: Chain,
}

impl Meta {
    /// Of an empty store.
    pub(super) fn new(incarnation: u64) -> Self {
        Self { incarnation, number: 0, items: 0, bytes: 0, digest: 0, log_first: 1, audit: Chain::default() }
    }
    pub(super) const fn revision(&self) -> Revision {
        Revision { incarnation: self.incarnation, number: self.number }
    }
}

/// A number that stands for a key at a revision; sums of it compare whole sets whatever their order.
pub(super) fn fingerprint(key: &Key, revision: u64) -> u64 {
    checksum(&format!("{key}\n{revision}"))
}

/// The first 8 bytes of SHA-256.
pub(super) fn checksum(text: &str) -> u64 {
    let hash = digest(&SHA256, text.as_bytes());
    hash.as_ref().first_chunk::<8>().map_or(0, |first| u64::from_be_bytes(*first))
}

/// One commit as a watcher sees it. Head keys are left out: they follow from the members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The commit.
    pub revision: Revision,
    /// New values. After a restart, values that a later change replaced are left out of earlier ones.
    pub puts: Vec<(Key, Bytes)>,
    /// Keys that went.
    pub deletes: Vec<Key>,
}

/// A change in the list, and what it takes.
#[derive(Debug, Clone)]
pub(super) struct Logged {
    pub change: Arc<Change>,
    /// Pieces on the disk.
    pub pieces: u32,
}

impl Logged {
    /// Bytes that it holds in memory, about.
    pub(super) fn bytes(&self) -> usize {
        let puts = self.change.puts.iter().map(|(key, value)| key.as_str().len() + value.len() + 64);
        let deletes = self.change.deletes.iter().map(|key| key.as_str().len() + 64);
        puts.chain(deletes).sum::<usize>() + 64
    }
}

/// The newest durable state.
#[derive(Debug)]
pub(super) struct State {
    pub meta: Meta,
    pub items: BTreeMap<Key, Item>,
    pub log: VecDeque<Logged>,
    pub log_bytes: usize,
    pub closed: bool,
}

/// What a group of commits does to the state once it is durable.
#[derive(Debug)]
pub(super) struct Effect {
    pub meta: Meta,
    pub items: BTreeMap<Key, Option<Item>>,
    pub log: Vec<Logged>,
    /// How many of the oldest changes go.
    pub trimmed: usize,
}

impl State {
    pub(super) fn new(meta: Meta) -> Self {
        Self { meta, items: BTreeMap::new(), log: VecDeque::new(), log_bytes: 0, closed: false }
    }

    fn absorb(&mut self, effect: Effect) {
        for (key, item) in effect.items {
            match item {
                Some(item) => drop(self.items.insert(key, item)),
                None => drop(self.items.remove(&key)),
            }
        }
        self.log_bytes += effect.log.iter().map(Logged::bytes).sum::<usize>();
        self.log.extend(effect.log);
        let gone: usize = self.log.drain(..effect.trimmed.min(self.log.len())).map(|logged| logged.bytes()).sum();
        self.log_bytes = self.log_bytes.saturating_sub(gone);
        self.meta = effect.meta;
    }

    fn change(&self, number: u64) -> Option<Arc<Change>> {
        let place = usize::try_from(number.checked_sub(self.meta.log_first)?).ok()?;
        self.log.get(place).map(|logged| Arc::clone(&logged.change))
    }
}

/// The state as readers, watchers and the writer share it.
#[derive(Debug)]
pub(super) struct Shared {
    state: RwLock<State>,
    newest: watch::Sender<u64>,
    /// Who takes old audit records out, and how many the store holds when it is called.
    archivist: OnceLock<(Thread, u64)>,
}

impl Shared {
    pub(super) fn new(state: State) -> Arc<Self> {
        let newest = watch::Sender::new(state.meta.number);
        Arc::new(Self { state: RwLock::new(state), newest, archivist: OnceLock::new() })
    }
    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
    /// Shows durable commits to readers and watchers.
    pub(super) fn publish(&self, effect: Effect) {
        let (number, audit) = (effect.meta.number, effect.meta.audit);
        self.write().absorb(effect);
        self.newest.send_replace(number);
        if let Some((thread, records)) = self.archivist.get()
            && audit.held() >= *records
        {
            thread.unpark();
        }
    }
    /// Wakes this thread with each change while the store holds so many audit records or more.
    pub(super) fn call_when_records_wait(&self, thread: Thread, records: u64) {
        // Once for each store.
        let _ = self.archivist.set((thread, records));
    }
    /// Shows what the disk holds after a failure: the newest state or one that follows it.
    pub(super) fn replace(&self, state: State) {
        let number = state.meta.number;
        *self.write() = state;
        self.newest.send_replace(number);
    }
    /// Tells the watchers that nothing more will come.
    pub(super) fn close(&self) {
        self.write().closed = true;
        self.newest.send_modify(|_| ());
    }
    pub(super) fn watch(self: &Arc<Self>, from: Revision) -> Watcher {
        Watcher { shared: Arc::clone(self), newest: self.newest.subscribe(), at: from }
    }
}

/// Why a watcher has no next change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// Changes in between are no longer kept, or the revision is of another life of the store: scan again, and watch
    /// from the revision of the scan.
    #[error("changes after {0} are no longer kept: everything has to be read again")]
    Lagged(Revision),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// Reads all changes in order, from a revision on.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    newest: watch::Receiver<u64>,
    at: Revision,
}

impl Watcher {
    /// The next change, as soon as there is one. May be dropped and called again without losing a change.
    pub async fn next(&mut self) -> Result<Arc<Change>, WatchError> {
        loop {
            self.newest.borrow_and_update();
            if let Some(next) = self.poll()? {
                return Ok(next);
            }
            self.newest.changed().await.map_err(|_| WatchError::Closed)?;
        }
    }

    /// The next change if there is one already.
    pub fn poll(&mut self) -> Result<Option<Arc<Change>>, WatchError> {
        let state = self.shared.read();
        let now = state.meta.revision();
        if self.at == now {
            return if state.closed { Err(WatchError::Closed) } else { Ok(None) };
        }
        let next = self.at.number.saturating_add(1);
        let same_life = self.at.incarnation == now.incarnation && self.at < now;
        let change = state.change(next).filter(|_| same_life).ok_or(WatchError::Lagged(self.at))?;
        self.at.number = next;
        Ok(Some(change))
    }

    /// The revision up to which changes were read.
    pub const fn revision(&self) -> Revision {
        self.at
    }
}
