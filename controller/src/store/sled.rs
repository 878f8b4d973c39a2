//! The store of one controller on one machine: an embedded database behind [`Store`].
//!
//! `sled/disk` how is it opened, written and synced; `sled/read` what does it hold; `sled/archive` how do old audit records
//! leave it, `sled/trail` where are they then. All records but the audit trail are
//! kept in memory, too, and readers see only what is durable.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;

use host::keyfile;
use model::limits::COMMIT_QUEUE_MAX;
use model::revision::Revision;
use tokio::sync::{mpsc, oneshot};

use self::archive::Archivist;
use self::disk::{Handle, SledDisk};
use self::read::guarded;
use self::trail::Trail;
use super::state::{Meta, Shared, Watcher};
use super::writer::{Disk, Request, Writer};
use super::{Beginning, Commit, CommitError, Export, Fut, Item, Key, Options, ReadError, Scan, Store, StoredAudit};
use crate::audit;
use crate::audit::segment::Segments;

mod archive;
mod disk;
mod read;
mod trail;

/// The file that says why a store takes no commit.
const REFUSED: &str = "refused";
const REFUSAL_BYTES_MAX: usize = 4_096;

/// Why a store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing there.
    #[error("there is no store in {0}: make one with `umbra-controller init`, or name the folder where it lies")]
    Missing(PathBuf),
    /// `create` found a store.
    #[error("there is a store in {0} already: nothing was changed")]
    Exists(PathBuf),
    /// Another process has it.
    #[error("the store in {0} is in use by another process: is a controller running? Stop it first")]
    Locked(PathBuf),
    /// The file system refused.
    #[error(
        "the store in {path} could not be opened ({cause}), and nothing of it was taken into use: see that the disk has \
         space, can be written, and belongs to the controller's user, then start again"
    )]
    Io {
        /// The store's folder.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It does not hold what was written.
    #[error(
        "the store in {path} is damaged ({cause}) and is not used. Keep a copy of the folder, move it away and restore \
         the last backup with `umbra-controller restore`; if the disk is failing, replace it first"
    )]
    Damaged {
        /// The store's folder.
        path: PathBuf,
        /// What was found.
        cause: String,
    },
}

/// The store of one controller on one machine.
pub struct SledStore {
    shared: Arc<Shared>,
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
    archivist: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    handle: Handle,
    segments: Segments,
    path: PathBuf,
    /// Why it takes no commit.
    refused: RwLock<Option<String>>,
}

impl SledStore {
    /// Makes a new, empty store in the folder `path`, which is created with mode 0700.
    pub fn create(path: &Path, options: Options) -> Result<Self, OpenError> {
        if path.join("sled").exists() {
            return Err(OpenError::Exists(path.to_owned()));
        }
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|cause| OpenError::Io { path: path.to_owned(), cause })?;
        Self::start(path, options, |disk| disk.begin(&Meta::new(1)))
    }

    /// The same for one that goes on where another ended, with these audit records: the newest of that trail, in order.
    pub fn create_after(
        path: &Path,
        options: Options,
        beginning: Beginning,
        audit: impl Iterator<Item = Result<StoredAudit, String>>,
    ) -> Result<Self, OpenError> {
        if path.join("sled").exists() {
            return Err(OpenError::Exists(path.to_owned()));
        }
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|cause| OpenError::Io { path: path.to_owned(), cause })?;
        let meta = Meta { audit: beginning.audit, ..Meta::new(beginning.incarnation) };
        Self::start(path, options, |disk| {
            disk.put_audit(audit)?;
            disk.begin(&meta)
        })
    }

    /// Opens the store in the folder `path`. Answers only when what was read is whole.
    pub fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        if !path.join("sled").exists() {
            return Err(OpenError::Missing(path.to_owned()));
        }
        Self::start(path, options, |_| Ok(()))
    }

    fn start(
        path: &Path,
        options: Options,
        begin: impl FnOnce(&mut SledDisk) -> Result<(), String>,
    ) -> Result<Self, OpenError> {
        let damaged = |cause| OpenError::Damaged { path: path.to_owned(), cause };
        let mut disk = SledDisk::open(path)?;
        begin(&mut disk).map_err(damaged)?;
        let state = disk.load().map_err(damaged)?;
        disk.note(state.meta.revision());
        let segments = Segments::new(path.join("audit"));
        let io = |cause| OpenError::Io { path: path.to_owned(), cause };
        let (last, newest) = (state.meta.audit.seq, segments.list().map_err(io)?.last().map_or(0, |file| file.last));
        if newest > last {
            return Err(damaged(format!(
                "its audit trail ends at record {last}, the files beside it at {newest}: this is an older copy"
            )));
        }
        let (shared, handle) = (Shared::new(state), disk.handle());
        let (requests, waiting) = mpsc::channel(COMMIT_QUEUE_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let archivist = Archivist {
            handle: handle.clone(),
            shared: Arc::clone(&shared),
            segments: segments.clone(),
            path: path.to_owned(),
            options: options.clone(),
            requests: requests.clone(),
            stop: Arc::clone(&stop),
        };
        let writer = Writer { disk, shared: Arc::clone(&shared), options, requests: waiting, halted: None };
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let writer = thread("store").spawn(move || writer.run()).map_err(io)?;
        let archivist = thread("audit").spawn(move || archivist.run()).map_err(io)?;
        Ok(Self {
            shared,
            requests: Some(requests),
            writer: Some(writer),
            archivist: Some(archivist),
            stop,
            handle,
            segments,
            path: path.to_owned(),
            refused: RwLock::new(read_refusal(path)),
        })
    }

    /// Opens a store that takes no commit, as the next life of the organisation, in which it does. Until
    /// [`Self::forget_refusal`] it is refused again when it is opened.
    pub fn open_again(path: &Path, options: Options, incarnation: u64) -> Result<Self, OpenError> {
        if !path.join("sled").exists() {
            return Err(OpenError::Missing(path.to_owned()));
        }
        let store = Self::start(path, options, |disk| {
            let meta = disk.load()?.meta;
            disk.begin(&Meta { incarnation: incarnation.max(meta.incarnation.saturating_add(1)), ..meta })
        })?;
        *store.refused.write().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(store)
    }

    /// Why the store in this folder takes no commit.
    pub fn refusal(path: &Path) -> Option<String> {
        read_refusal(path)
    }

    /// From now on it is taken again when it is opened.
    pub fn forget_refusal(&self) -> io::Result<()> {
        std::fs::remove_file(self.path.join(REFUSED))?;
        std::fs::File::open(&self.path)?.sync_all()
    }

    fn trail(&self) -> Result<Trail, String> {
        Ok(Trail { db: self.handle.db()?, shared: Arc::clone(&self.shared), segments: self.segments.clone() })
    }
}

/// One that is there and cannot be read is a refusal, too.
fn read_refusal(path: &Path) -> Option<String> {
    match keyfile::read(&path.join(REFUSED), REFUSAL_BYTES_MAX) {
        Ok(why) => Some(String::from_utf8_lossy(why.expose()).into_owned()),
        Err(error) if error.is_missing() => None,
        Err(error) => Some(error.to_string()),
    }
}

/// Waits for the commits that were accepted, and lets go of the files: afterwards the store can be opened again.
impl Drop for SledStore {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(archivist) = self.archivist.take() {
            archivist.thread().unpark();
            let _ = archivist.join();
        }
        self.requests = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
        self.handle.close(&self.path);
    }
}

impl Store for SledStore {
    fn commit(&self, commit: Commit) -> Fut<'_, Result<model::revision::Revision, CommitError>> {
        Box::pin(async move {
            if let Some(why) = self.refused() {
                return Err(CommitError::Refused(why));
            }
            let (answer, answered) = oneshot::channel();
            let requests = self.requests.as_ref().ok_or(CommitError::Closed)?;
            requests.send(Request { commit, archived: None, answer }).await.map_err(|_| CommitError::Closed)?;
            answered.await.map_err(|_| CommitError::Closed)?
        })
    }

    fn get<'a>(&'a self, key: &'a Key) -> Fut<'a, Result<Option<Item>, ReadError>> {
        Box::pin(async move { Ok(self.shared.read().items.get(key).cloned()) })
    }

    fn scan<'a>(&'a self, prefix: &'a str) -> Fut<'a, Result<Scan, ReadError>> {
        Box::pin(async move {
            let prefix = if prefix.contains('/') { prefix.to_owned() } else { format!("{prefix}/") };
            let head = Key::new(prefix.split('/').next().unwrap_or_default())?;
            let state = self.shared.read();
            let from =
                state.items.range::<str, _>((std::ops::Bound::Included(prefix.as_str()), std::ops::Bound::Unbounded));
            let items = from.take_while(|(key, _)| key.as_str().starts_with(&prefix));
            let items = items.map(|(key, item)| (key.clone(), item.clone())).collect();
            let head_revision = state.items.get(&head).map_or(0, |item| item.revision);
            Ok(Scan { revision: state.meta.revision(), head, head_revision, items })
        })
    }

    fn head<'a>(&'a self, set: &'a str) -> Fut<'a, Result<u64, ReadError>> {
        Box::pin(async move {
            let head = Key::new(set)?.head();
            Ok(self.shared.read().items.get(&head).map_or(0, |item| item.revision))
        })
    }

    fn revision(&self) -> Revision {
        self.shared.read().meta.revision()
    }

    fn watch(&self, from: Revision) -> Watcher {
        self.shared.watch(from)
    }

    fn audit(&self, query: audit::Query) -> Fut<'_, Result<Vec<audit::Record>, ReadError>> {
        Box::pin(async move {
            let trail = self.trail().map_err(ReadError::Damaged)?;
            let read = tokio::task::spawn_blocking(move || guarded(|| trail.list(&query)));
            read.await.map_err(|e| e.to_string()).and_then(|list| list).map_err(ReadError::Damaged)
        })
    }

    fn export(&self) -> Fut<'_, Export> {
        Box::pin(async move {
            let state = self.shared.read();
            let items = state.items.iter().filter(|(key, _)| !key.is_head());
            let items = items.map(|(key, item)| (key.clone(), item.clone())).collect();
            Export { revision: state.meta.revision(), items, audit: state.meta.audit }
        })
    }

    fn audit_stored(&self, from: u64, max: u64) -> Fut<'_, Result<Vec<StoredAudit>, ReadError>> {
        Box::pin(async move {
            let trail = self.trail().map_err(ReadError::Damaged)?;
            let read = tokio::task::spawn_blocking(move || guarded(|| trail.stored(from, max)));
            read.await.map_err(|e| e.to_string()).and_then(|list| list).map_err(ReadError::Damaged)
        })
    }

    fn audit_head(&self) -> (Revision, audit::Chain) {
        let state = self.shared.read();
        (state.meta.revision(), state.meta.audit)
    }

    fn refuse<'a>(&'a self, why: &'a str) -> Fut<'a, Result<(), String>> {
        Box::pin(async move {
            // First in memory: it counts even where the disk does not take it.
            self.refused.write().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| why.to_owned());
            keyfile::replace(&self.path.join(REFUSED), why.as_bytes()).map_err(|e| e.to_string())
        })
    }

    fn refused(&self) -> Option<String> {
        self.refused.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn verify_audit(&self) -> Fut<'_, Result<audit::Verified, audit::VerifyError>> {
        Box::pin(async move {
            let trail = self.trail().map_err(audit::VerifyError::Read)?;
            let walk = tokio::task::spawn_blocking(move || guarded(|| Ok(trail.verify())));
            walk.await.map_err(|e| e.to_string()).and_then(|v| v).map_err(audit::VerifyError::Read)?
        })
    }
}

#[cfg(test)]
mod tests;
