//! How is the embedded database opened, written and synced? sled 0.34.7, with care for what it does not do:
//!
//! - its `flush` never calls fsync: the `db` file is synced after each flush, the folders once at open;
//! - it panics on damaged files: everything that reads them runs under `catch_unwind`;
//! - it may fall back to an older state when the end of its log is damaged: a small unsynced file `head` beside it
//!   notes the newest durable revision, and an older database is refused;
//! - it puts large items into blob files that it never syncs: `layout` keeps items small, and should there ever be
//!   such files, they are synced, too;
//! - after a write that failed it answers everything with that error, and may forget to wake who waits for that write: it
//!   is woken, closed and opened anew.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use model::limits::COMMIT_AUDIT_MAX;
use model::revision::Revision;

use super::super::StoredAudit;
use super::super::layout::{self, AUDIT, META, Write, number_name};
use super::super::state::{Meta, State, checksum};
use super::super::writer::Disk;
use super::OpenError;
use super::read::{guarded, load};

/// Bytes of the note about the newest revision: two numbers of 20 digits, a checksum of 16, separators.
pub(super) const NOTE_LEN: usize = 20 + 1 + 20 + 1 + 16 + 1;
/// Bytes of pages that sled itself keeps; our own state has the records already.
const CACHE_BYTES: u64 = 32 << 20;
/// How long it may take until sled lets go of its file, and how often that is looked for.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
const CLOSE_POLL: Duration = Duration::from_millis(1);
/// A write that takes so long is looked after; then after twice the time, and so on.
const WAKE_FIRST: Duration = Duration::from_secs(2);

/// The database as its readers and its writer share it; nothing while it is closed.
#[derive(Clone, Default)]
pub(super) struct Handle(Arc<RwLock<Option<sled::Db>>>);

impl Handle {
    /// The database, for one use: as long as that is kept the files stay open.
    pub(super) fn db(&self) -> Result<sled::Db, String> {
        let db = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        db.ok_or_else(|| "the store is closed".to_owned())
    }
    fn set(&self, db: Option<sled::Db>) {
        let before = std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), db);
        // sled panics when it cannot sync once more.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(before)));
    }
    /// Lets go of the database and waits until its files are free.
    pub(super) fn close(&self, path: &Path) {
        self.set(None);
        wait_until_free(&path.join("sled/db"));
    }
}

/// sled's file, its folder of blobs, and the note about the newest revision.
pub(super) struct SledDisk {
    path: PathBuf,
    handle: Handle,
    file: File,
    head: File,
}

impl SledDisk {
    /// Opens the files of the store in `path`, or makes them.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let (db, files) = open_files(path)?;
        let (file, head) = files.map_err(|cause| OpenError::Io { path: path.to_owned(), cause })?;
        let handle = Handle::default();
        handle.set(Some(db));
        Ok(Self { path: path.to_owned(), handle, file, head })
    }

    /// What readers share with this.
    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Makes the record about the store itself.
    pub(super) fn begin(&mut self, meta: &Meta) -> Result<(), String> {
        let mut writes = Vec::new();
        let meta = serde_json::to_vec(meta).map_err(|e| e.to_string())?;
        layout::put(&mut writes, META, "meta", &meta, 0);
        self.apply(writes).and_then(|()| self.sync())
    }

    /// Writes audit records of an earlier life of the store, before there is anything else in it.
    pub(super) fn put_audit(
        &mut self,
        mut records: impl Iterator<Item = Result<StoredAudit, String>>,
    ) -> Result<(), String> {
        loop {
            let mut writes = Vec::new();
            for record in records.by_ref().take(COMMIT_AUDIT_MAX) {
                let (seq, stored) = record?;
                layout::put(&mut writes, AUDIT, &number_name(seq), &stored, 0);
            }
            if writes.is_empty() {
                return Ok(());
            }
            self.apply(writes)?;
        }
    }

    /// Everything that it holds but the audit trail, checked.
    pub(super) fn load(&self) -> Result<State, String> {
        let db = self.handle.db()?;
        load(&db, read_note(&self.head))
    }
}

impl Disk for SledDisk {
    fn room(&self) -> Result<u64, String> {
        host::disk::room(&self.path).map_err(|e| e.to_string())
    }

    fn apply(&mut self, writes: Vec<Write>) -> Result<(), String> {
        let mut batch = sled::Batch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        let db = self.handle.db()?;
        kept_awake(&db, || db.apply_batch(batch)).map_err(|e| e.to_string())
    }

    fn sync(&mut self) -> Result<(), String> {
        let db = self.handle.db()?;
        kept_awake(&db, || db.flush()).map_err(|e| e.to_string())?;
        // The length, and where the data lies, belong to it; only the times of the file do not.
        self.file.sync_data().map_err(|e| e.to_string())?;
        sync_blobs(&self.path.join("sled/blobs")).map_err(|e| e.to_string())
    }

    fn note(&mut self, revision: Revision) {
        // Not synced, and its failure harms nobody: it is written after the database was synced, so it can only be old.
        if let Err(error) = self.head.write_all_at(note_text(revision).as_bytes(), 0) {
            tracing::warn!(%error, "the newest revision could not be noted beside the store");
        }
    }

    fn reopen(&mut self) -> Result<State, String> {
        self.handle.close(&self.path);
        // What is dirty goes to the disk now or not at all; then only what the disk took is read.
        let file = OpenOptions::new().read(true).write(true).open(self.path.join("sled/db"));
        let settled = file.and_then(|file| file.sync_all().and_then(|()| host::disk::forget_cached(&file)));
        settled.map_err(|e| e.to_string())?;
        let (db, files) = open_files(&self.path).map_err(|e| e.to_string())?;
        (self.file, self.head) = files.map_err(|e| e.to_string())?;
        self.handle.set(Some(db));
        self.load()
    }
}

/// Does something that may wait for a write of sled's own threads. Where such a write fails, sled does not always tell who
/// waits for it; whoever flushes then finds the failure and wakes all.
fn kept_awake<T>(db: &sled::Db, work: impl FnOnce() -> T) -> T {
    let (working, done) = mpsc::channel::<()>();
    thread::scope(move |scope| {
        scope.spawn(move || {
            let mut wait = WAKE_FIRST;
            while done.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                // It waits itself as long as nothing has failed: so each time another one.
                scope.spawn(|| drop(db.flush()));
                wait *= 2;
            }
        });
        let _working = working;
        work()
    })
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
pub(super) fn note_text(revision: Revision) -> String {
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

/// Opens sled and makes the folders durable; its file, and the note. The outer error is sled's, the inner one the file
/// system's.
fn open_files(path: &Path) -> Result<(sled::Db, io::Result<(File, File)>), OpenError> {
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
    let files = (|| {
        let blobs = folder.join("blobs");
        File::open(folder.join("conf"))?.sync_all()?;
        let file = File::open(folder.join("db"))?;
        let mut head = OpenOptions::new();
        let head = head.read(true).write(true).create(true).truncate(false).mode(0o600).open(path.join("head"))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for folder in [&blobs, &folder, path, parent] {
            File::open(folder)?.sync_all()?;
        }
        Ok((file, head))
    })();
    Ok((db, files))
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
