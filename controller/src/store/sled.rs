//! How is the embedded database opened, written and synced? sled 0.34.7, with care for what it does not do:
//!
//! - its `flush` never calls fsync: the `db` file is synced after each flush, the folders once at open;
//! - it panics on damaged files: everything that reads them runs under `catch_unwind`;
//! - it may fall back to an older state when the end of its log is damaged: a small unsynced file `head` beside it
//!   notes the newest durable revision, and an older database is refused;
//! - it puts large items into blob files that it never syncs: `layout` keeps items small, and should there ever be
//!   such files, they are synced, too.

use std::any::Any;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use model::limits::COMMIT_QUEUE_MAX;
use model::revision::Revision;
use tokio::sync::{mpsc, oneshot};

use super::layout::{self, AUDIT, Assembler, DATA, LOG, META, Write, number_name};
use super::plan::decode_names;
use super::state::{Meta, Shared, State, Watcher, checksum, fingerprint};
use super::writer::{Disk, Request, Writer};
use super::{Commit, CommitError, Fut, Item, Key, Options, ReadError, Scan, Store};
use crate::audit;

/// Bytes of the note about the newest revision: two numbers of 20 digits, a checksum of 16, separators.
const NOTE_LEN: usize = 20 + 1 + 20 + 1 + 16 + 1;
/// Bytes of pages that sled itself keeps; our own state has the records already.
const CACHE_BYTES: u64 = 32 << 20;
/// How long a store that is dropped waits for sled to let go of its file, and how often it looks.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
const CLOSE_POLL: Duration = Duration::from_millis(1);

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
    #[error("the store in {path} could not be opened: {cause}")]
    Io {
        /// The store's folder.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It does not hold what was written.
    #[error(
        "the store in {path} is damaged ({cause}). Nothing was changed. Keep a copy of the folder, move it away and \
         restore the last backup with `umbra-controller restore`; if the disk is failing, replace it first"
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
    /// Nothing only while the store is dropped.
    db: Option<sled::Db>,
    file: PathBuf,
}

impl SledStore {
    /// Makes a new, empty store in the folder `path`, which is created with mode 0700.
    pub fn create(path: &Path, options: Options) -> Result<Self, OpenError> {
        if path.join("sled").exists() {
            return Err(OpenError::Exists(path.to_owned()));
        }
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|cause| OpenError::Io { path: path.to_owned(), cause })?;
        Self::start(path, options, true)
    }

    /// Opens the store in the folder `path`. Answers only when what was read is whole.
    pub fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        if !path.join("sled").exists() {
            return Err(OpenError::Missing(path.to_owned()));
        }
        Self::start(path, options, false)
    }

    fn start(path: &Path, options: Options, create: bool) -> Result<Self, OpenError> {
        let (db, disk) = open_files(path)?;
        let damaged = |cause| OpenError::Damaged { path: path.to_owned(), cause };
        let mut disk = disk.map_err(|cause| OpenError::Io { path: path.to_owned(), cause })?;
        if create {
            let mut writes = Vec::new();
            let meta = serde_json::to_vec(&Meta::new(1)).map_err(|e| damaged(e.to_string()))?;
            layout::put(&mut writes, META, "meta", &meta, 0);
            disk.apply(writes).and_then(|()| disk.sync()).map_err(damaged)?;
        }
        let state = load(&db, &disk.head).map_err(damaged)?;
        disk.note(state.meta.revision());
        let shared = Shared::new(state);
        let (requests, waiting) = mpsc::channel(COMMIT_QUEUE_MAX);
        let writer = Writer { disk, shared: Arc::clone(&shared), options, requests: waiting, halted: None };
        let writer = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run())
            .map_err(|cause| OpenError::Io { path: path.to_owned(), cause })?;
        let file = path.join("sled/db");
        Ok(Self { shared, requests: Some(requests), writer: Some(writer), db: Some(db), file })
    }

    fn db(&self) -> Result<sled::Db, String> {
        self.db.clone().ok_or_else(|| "the store is closed".to_owned())
    }
}

/// Waits for the commits that were accepted, and lets go of the files: afterwards the store can be opened again.
impl Drop for SledStore {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
        self.db = None;
        wait_until_free(&self.file);
    }
}

/// sled's own threads hold its locked file a little longer than its handles: they let go of what they wrote only after
/// they have said that it is written. Whoever opened the store in that moment would be told that it is in use.
fn wait_until_free(file: &Path) {
    let Ok(file) = File::open(file) else { return };
    let until = Instant::now() + CLOSE_WAIT;
    while matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) && Instant::now() < until {
        std::thread::sleep(CLOSE_POLL);
    }
}

impl Store for SledStore {
    fn commit(&self, commit: Commit) -> Fut<'_, Result<model::revision::Revision, CommitError>> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let requests = self.requests.as_ref().ok_or(CommitError::Closed)?;
            requests.send(Request { commit, answer }).await.map_err(|_| CommitError::Closed)?;
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
            let (db, chain) = (self.db().map_err(ReadError::Damaged)?, self.shared.read().meta.audit);
            let read = tokio::task::spawn_blocking(move || guarded(|| list_audit(&db, chain, &query)));
            read.await.map_err(|e| e.to_string()).and_then(|list| list).map_err(ReadError::Damaged)
        })
    }

    fn verify_audit(&self) -> Fut<'_, Result<audit::Verified, audit::VerifyError>> {
        Box::pin(async move {
            let (db, shared) = (self.db().map_err(audit::VerifyError::Read)?, Arc::clone(&self.shared));
            let walk = tokio::task::spawn_blocking(move || guarded(|| Ok(verify_audit(&db, &shared))));
            walk.await.map_err(|e| e.to_string()).and_then(|v| v).map_err(audit::VerifyError::Read)?
        })
    }
}

/// sled's file, its folder of blobs, and the note about the newest revision.
struct SledDisk {
    db: sled::Db,
    file: File,
    blobs: PathBuf,
    head: File,
}

impl Disk for SledDisk {
    fn apply(&mut self, writes: Vec<Write>) -> Result<(), String> {
        let mut batch = sled::Batch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.db.apply_batch(batch).map_err(|e| e.to_string())
    }

    fn sync(&mut self) -> Result<(), String> {
        self.db.flush().map_err(|e| e.to_string())?;
        self.file.sync_all().map_err(|e| e.to_string())?;
        sync_blobs(&self.blobs).map_err(|e| e.to_string())
    }

    fn note(&mut self, revision: Revision) {
        // Not synced, and its failure harms nobody: it is written after the database was synced, so it can only be old.
        if let Err(error) = self.head.write_all_at(note_text(revision).as_bytes(), 0) {
            tracing::warn!(%error, "the newest revision could not be noted beside the store");
        }
    }
}

fn sync_blobs(folder: &Path) -> io::Result<()> {
    let mut any = false;
    for entry in fs::read_dir(folder)? {
        File::open(entry?.path())?.sync_all()?;
        any = true;
    }
    if any { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Fixed width, so that it is overwritten in place.
fn note_text(revision: Revision) -> String {
    let (life, number) = (revision.incarnation, revision.number);
    let text = format!("{life:020} {number:020}");
    format!("{text} {:016x}\n", checksum(&text))
}

/// What the note says; nothing when it is absent or was torn by a power cut.
fn read_note(head: &File) -> Option<Revision> {
    let mut text = [0; NOTE_LEN];
    head.read_exact_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(&text).ok()?;
    let mut words = text.split_ascii_whitespace();
    let revision = Revision { incarnation: words.next()?.parse().ok()?, number: words.next()?.parse().ok()? };
    (note_text(revision) == text).then_some(revision)
}

/// Opens sled and makes the folders durable. The outer error is sled's, the inner one the file system's.
fn open_files(path: &Path) -> Result<(sled::Db, io::Result<SledDisk>), OpenError> {
    let folder = path.join("sled");
    let config = sled::Config::new().path(&folder).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    let opened = guarded(|| match config.open() {
        Err(sled::Error::Io(cause)) => Ok(Err(cause)),
        other => other.map(Ok).map_err(|e| e.to_string()),
    });
    let db = match opened {
        Ok(Ok(db)) => db,
        Ok(Err(cause)) if cause.to_string().contains("could not acquire lock") => {
            return Err(OpenError::Locked(path.to_owned()));
        }
        Ok(Err(cause)) => return Err(OpenError::Io { path: path.to_owned(), cause }),
        Err(cause) => return Err(OpenError::Damaged { path: path.to_owned(), cause }),
    };
    let disk = (|| {
        let blobs = folder.join("blobs");
        File::open(folder.join("conf"))?.sync_all()?;
        let file = File::open(folder.join("db"))?;
        let mut head = OpenOptions::new();
        let head = head.read(true).write(true).create(true).truncate(false).mode(0o600).open(path.join("head"))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for folder in [&blobs, &folder, path, parent] {
            File::open(folder)?.sync_all()?;
        }
        Ok(SledDisk { db: db.clone(), file, blobs, head })
    })();
    Ok((db, disk))
}

/// Reads everything but the audit trail, and checks it against the store's record about itself.
fn load(db: &sled::Db, head: &File) -> Result<State, String> {
    guarded(|| {
        let meta = read_space(db, META)?.into_iter().next().ok_or("the record about the store itself is missing")?;
        let meta: Meta = serde_json::from_slice(&meta.1).map_err(|e| e.to_string())?;
        if let Some(noted) = read_note(head).filter(|noted| *noted > meta.revision()) {
            return Err(format!("it ends at revision {}, but {noted} was made durable", meta.revision()));
        }
        let mut state = State::new(meta);
        load_items(db, &mut state)?;
        load_log(db, &mut state)?;
        let last = read_audit(db, state.meta.audit.seq)?;
        let mut tail = audit::Verifier::new(audit::Chain { first: state.meta.audit.seq, ..state.meta.audit });
        if let Some(last) = last {
            tail.push(state.meta.audit.seq, &last).map_err(|e| e.to_string())?;
        }
        tail.finish().map_err(|e| e.to_string())?;
        Ok(state)
    })
}

fn load_items(db: &sled::Db, state: &mut State) -> Result<(), String> {
    let (mut bytes, mut digest) = (0, 0_u64);
    for (name, payload) in read_space(db, DATA)? {
        let key = Key::new(&name).map_err(|e| e.to_string())?;
        let (revision, value) = payload.split_first_chunk::<8>().ok_or_else(|| format!("`{key}` is cut"))?;
        let revision = u64::from_be_bytes(*revision);
        bytes += value.len() as u64;
        digest = digest.wrapping_add(fingerprint(&key, revision));
        state.items.insert(key, Item { revision, value: value.to_vec().into() });
    }
    let found = (state.items.len() as u64, bytes, digest);
    let want = (state.meta.items, state.meta.bytes, state.meta.digest);
    if found != want {
        return Err(format!(
            "it holds {} keys of {} bytes where {} of {} were written",
            found.0, found.1, want.0, want.1
        ));
    }
    Ok(())
}

fn load_log(db: &sled::Db, state: &mut State) -> Result<(), String> {
    for (name, payload) in read_space(db, LOG)? {
        let number = u64::from_str_radix(&name, 16).map_err(|e| e.to_string())?;
        let text = std::str::from_utf8(&payload).map_err(|e| e.to_string())?;
        if number != state.meta.log_first.saturating_add(state.log.len() as u64) {
            return Err(format!("change {number} is not where it should be in the list of changes"));
        }
        let revision = Revision { number, ..state.meta.revision() };
        let logged = decode_names(revision, text, &state.items).map_err(|e| e.to_string())?;
        state.log_bytes += logged.bytes();
        state.log.push_back(logged);
    }
    if state.meta.log_first.saturating_add(state.log.len() as u64) != state.meta.number.saturating_add(1) {
        return Err("the list of changes is cut".to_owned());
    }
    Ok(())
}

/// All records of a space, ordered by name.
fn read_space(db: &sled::Db, space: u8) -> Result<Vec<(String, Vec<u8>)>, String> {
    let (mut assembler, mut all) = (Assembler::default(), Vec::new());
    for entry in db.scan_prefix([space]) {
        let (key, value) = entry.map_err(|e| e.to_string())?;
        all.extend(assembler.push(&key, &value)?);
    }
    assembler.finish().map(|()| all)
}

/// One stored audit record; each is a single piece.
fn read_audit(db: &sled::Db, seq: u64) -> Result<Option<Vec<u8>>, String> {
    let key = layout::disk_key(AUDIT, &number_name(seq), 0);
    let Some(piece) = db.get(&key).map_err(|e| e.to_string())? else { return Ok(None) };
    Ok(Assembler::default().push(&key, &piece)?.map(|(_, stored)| stored))
}

/// Newest first, only what is durable. A record that went or does not decode is passed over: `verify` names it.
fn list_audit(db: &sled::Db, chain: audit::Chain, query: &audit::Query) -> Result<Vec<audit::Record>, String> {
    let newest = query.before.map_or(chain.seq, |before| before.saturating_sub(1).min(chain.seq));
    let mut records = Vec::new();
    for seq in (chain.first.max(1)..=newest).rev() {
        let stored = read_audit(db, seq)?;
        let Some(record) = stored.and_then(|stored| audit::decode(&stored).ok()) else { continue };
        if query.matches(&record) {
            records.push(record);
        }
        if records.len() >= query.limit() {
            break;
        }
    }
    Ok(records)
}

fn verify_audit(db: &sled::Db, shared: &Shared) -> Result<audit::Verified, audit::VerifyError> {
    let chain = shared.read().meta.audit;
    let mut verifier = audit::Verifier::new(chain);
    for seq in chain.first.max(1)..=chain.seq {
        if let Some(stored) = read_audit(db, seq).map_err(audit::VerifyError::Read)? {
            verifier.push(seq, &stored)?;
        } else if shared.read().meta.audit.first > seq {
            // Dropped for its age while we walked: begin again after it.
            verifier = audit::Verifier::new(audit::Chain { first: seq.saturating_add(1), ..chain });
        }
    }
    verifier.finish()
}

/// Runs something that reads the database, whose code panics on what it does not expect.
fn guarded<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| Err(panic_text(&*panic)))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    let text = text.unwrap_or("the database failed inside").lines().next().unwrap_or_default();
    text.chars().take(200).filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests;
