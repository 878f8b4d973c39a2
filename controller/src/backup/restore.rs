//! How does an organisation begin again on an empty machine? From a backup, as a new incarnation, in which nobody has access
//! before an administrator has confirmed it.

use super::Restored;
use super::container::{ContainerError, Opening, Unlock};
use super::content::{ContentError, Fate, Header, Line, Lines, fate, humbled};
use crate::audit::{self, Entry, Outcome};
use crate::config::StatePaths;
use crate::directory::{Directory, Org, PastPolicy, PolicyRevision, SealedSecret, StartError, reader};
use crate::init::{InitError, Scaffold, check_endpoints};
use crate::seal::{SealError, Sealer};
use crate::store::{
    Beginning, Commit, CommitError, Key, KeyError, OpenError, Options, Record as _, SledStore, Store, StoredAudit,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use host::entropy;
use host::keyfile;
use model::limits::{COMMIT_BYTES_MAX, COMMIT_KEYS_MAX, SEAL_KEY_LEN};
use model::revision::Revision;
use model::secret::Secret;
use model::time::WallMs;
use std::io::BufRead;

/// What the administrator wants.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Where nodes reach the controller now; empty: where they did.
    pub endpoints: Vec<String>,
    /// Which life of the organisation this is; none: by the clock, above the backup's.
    pub incarnation: Option<u64>,
    /// Now.
    pub wall: WallMs,
}

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// The organisation.
    pub org: Org,
    /// Where it comes from.
    pub restored: Restored,
    /// Its first state.
    pub revision: Revision,
    /// How many accounts, devices and gateways wait for a confirmation.
    pub waiting: [usize; 3],
}

/// Why nothing was restored. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// What lies in it.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// Its audit trail does not hold.
    #[error("the backup's audit trail is broken: {0}; take another copy of it, or an older backup")]
    Audit(String),
    /// As with `init`: the folder, the key file, the endpoints.
    #[error(transparent)]
    Init(#[from] InitError),
    /// The store.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// A commit.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Sealing.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// What was restored is no whole organisation.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The incarnation must grow.
    #[error(
        "the backup is of incarnation {0}: a restored organisation needs a higher one, or nodes refuse it as an old copy"
    )]
    Incarnation(u64),
}

impl From<keyfile::KeyFileError> for RestoreError {
    fn from(error: keyfile::KeyFileError) -> Self {
        Self::Init(error.into())
    }
}
impl From<entropy::EntropyError> for RestoreError {
    fn from(error: entropy::EntropyError) -> Self {
        Self::Init(error.into())
    }
}

/// The first moment after every state that a node can have seen: seconds since 1970, so that of two restores of one backup
/// the later one is the newer.
fn incarnation(header: &Header, wish: &Wish) -> Result<u64, RestoreError> {
    let before = header.revision.incarnation;
    let by_clock = u64::try_from(wish.wall.0.div_euclid(1_000)).unwrap_or(0).max(before.saturating_add(1));
    let wanted = wish.incarnation.unwrap_or(by_clock);
    if wanted > before { Ok(wanted) } else { Err(RestoreError::Incarnation(before)) }
}

/// Restores into the state folder, which must hold no organisation.
pub async fn restore(
    paths: &StatePaths,
    backup: impl BufRead,
    unlock: &Unlock,
    wish: &Wish,
    options: Options,
) -> Result<Made, RestoreError> {
    if paths.org().exists() {
        return Err(InitError::Exists(paths.org()).into());
    }
    if !wish.endpoints.is_empty() {
        check_endpoints(&wish.endpoints)?;
    }
    // Everything that can be wrong with the file comes before anything is made.
    let mut lines = Lines::new(Opening::begin(backup, unlock)?);
    let header = lines.header()?;
    let incarnation = incarnation(&header, wish)?;

    keyfile::create_folder(paths.root())?;
    let scaffold = Scaffold::new(paths.root())?;
    let seal_key = Secret::new(entropy::random::<SEAL_KEY_LEN>()?);
    keyfile::create(&StatePaths::seal_key_in(scaffold.path()), seal_key.expose())?;
    let sealer = Sealer::new(&seal_key)?;

    let mut trail = Trail::read(&mut lines, &header)?;
    let beginning = Beginning { incarnation, audit: trail.chain };
    let store = SledStore::create_after(
        &StatePaths::store_in(scaffold.path()),
        options,
        beginning,
        std::mem::take(&mut trail.records).into_iter().map(Ok),
    )?;
    let mut writing = Writing { store: &store, sealer: &sealer, commit: Commit::default(), bytes: 0, policy: None };
    let mut next = trail.next;
    loop {
        match next {
            Line::Record(key, value) => writing.record(&key, value).await?,
            Line::Secret(key, plain) => writing.secret(&key, Secret::new(plain)).await?,
            Line::Audit(..) => {
                return Err(ContentError::Line(lines.number, "an audit record in the middle".to_owned()).into());
            }
            Line::End(count) if count == lines.number.saturating_sub(1) => break,
            Line::End(_) => return Err(ContentError::Cut.into()),
        }
        next = lines.next_line()?;
    }
    lines.finish()?;
    let policy = writing.policy.take();
    writing.flush().await?;
    let restored = Restored {
        at: wish.wall,
        created: header.created,
        revision: header.revision,
        audit_seq: header.audit_seq,
        policy,
    };
    let made = finish(&store, restored, trail.chain.first, wish).await?;
    // Let go of the files before they move.
    drop(store);
    scaffold.put_in_place(&paths.org())?;
    Ok(made)
}

/// Sees that a whole organisation is there, and writes down where it comes from.
async fn finish(store: &dyn Store, restored: Restored, audit_first: u64, wish: &Wish) -> Result<Made, RestoreError> {
    let (directory, _) = reader::read(store).await.map_err(StartError::from)?;
    let mut org = directory.org.as_ref().ok_or(StartError::NoOrganisation)?.record.clone();
    if !wish.endpoints.is_empty() {
        org.endpoints.clone_from(&wish.endpoints);
    }
    let waiting = waiting(&directory);
    let entry = Entry::new(wish.wall, "local:restore", "org.restore", "org/self", Outcome::Done)
        .with("backup_made_ms", restored.created.0)
        .with("backup_revision", restored.revision.to_string())
        .with("backup_audit_seq", restored.audit_seq)
        .with("audit_first", audit_first)
        .with("incarnation", directory.revision.incarnation);
    let commit = Commit::default().put_record(Org::ID, &org)?.put_record(Restored::ID, &restored)?.audit(entry);
    let revision = store.commit(commit).await?;
    Ok(Made { org, restored, revision, waiting })
}

fn waiting(directory: &Directory) -> [usize; 3] {
    [
        directory.users.values().filter(|u| u.record.restored).count(),
        directory.devices.values().filter(|d| d.record.restored).count(),
        directory.gateways.values().filter(|g| g.record.restored).count(),
    ]
}

/// The audit records at the beginning of a backup, proven to be a chain that ends as the header says.
struct Trail {
    chain: audit::Chain,
    records: Vec<StoredAudit>,
    /// The first line after them.
    next: Line,
}

impl Trail {
    fn read<R: BufRead>(lines: &mut Lines<R>, header: &Header) -> Result<Self, RestoreError> {
        let mut records = Vec::new();
        let next = loop {
            match lines.next_line()? {
                Line::Audit(seq, stored) => {
                    let stored = STANDARD.decode(stored).map_err(|e| RestoreError::Audit(e.to_string()))?;
                    records.push((seq, stored));
                }
                other => break other,
            }
        };
        let first = records.first().map_or(header.audit_seq.saturating_add(1), |(seq, _)| *seq);
        let chain = audit::Chain { first, seq: header.audit_seq, hash: header.audit_hash };
        let mut verifier = audit::Verifier::new(first);
        let pushed = records.iter().try_for_each(|(seq, stored)| verifier.push(*seq, stored).map(drop));
        pushed.and_then(|()| verifier.finish_tail(chain)).map_err(|e| RestoreError::Audit(e.to_string()))?;
        Ok(Self { chain, records, next })
    }
}

/// Puts records into the new store, many in one commit.
struct Writing<'a> {
    store: &'a dyn Store,
    sealer: &'a Sealer,
    commit: Commit,
    bytes: usize,
    /// The revision of the policy that was in force, if it permitted anything.
    policy: Option<u64>,
}

impl Writing<'_> {
    async fn record(&mut self, key: &str, value: serde_json::Value) -> Result<(), RestoreError> {
        let odd = |why: &str| ContentError::Line(0, format!("`{}`: {why}", key.escape_default()));
        let key = Key::new(key)?;
        match fate(key.set()) {
            Some(Fate::Kept | Fate::Confirmed) => {}
            Some(Fate::Sealed | Fate::Ended) => return Err(odd("it is not for a backup").into()),
            None => return Err(odd("records of its kind are not known").into()),
        }
        let permits = value.get("files").and_then(serde_json::Value::as_array).is_some_and(|files| !files.is_empty());
        let bytes = humbled(key.set(), value).map_err(|e| odd(&e))?;
        if key.set() == PolicyRevision::KIND
            && let Ok(empty) = serde_json::from_slice::<PolicyRevision>(&bytes)
        {
            self.policy = empty.number.checked_sub(1).filter(|_| permits);
            // The history has it, too: numbers go on from there.
            let past = Key::of(PastPolicy::KIND, empty.number)?;
            self.put(past, bytes.clone()).await?;
        }
        self.put(key, bytes).await
    }

    async fn secret(&mut self, key: &str, plain: Secret<String>) -> Result<(), RestoreError> {
        let key = Key::new(key)?;
        if fate(key.set()) != Some(Fate::Sealed) {
            return Err(ContentError::Line(0, format!("`{key}` is no secret of this release")).into());
        }
        let plain = STANDARD.decode(plain.expose()).map(Secret::new);
        let plain = plain.map_err(|_| ContentError::Line(0, format!("`{key}` is no base 64")))?;
        let record = SealedSecret { sealed: self.sealer.seal(key.as_str(), plain.expose())? };
        let bytes = serde_json::to_vec(&record).map_err(|e| CommitError::Invalid(e.to_string()))?;
        self.put(key, bytes).await
    }

    async fn put(&mut self, key: Key, bytes: Vec<u8>) -> Result<(), RestoreError> {
        let size = key.as_str().len().saturating_add(bytes.len());
        if self.commit.puts.len() >= COMMIT_KEYS_MAX / 2 || self.bytes.saturating_add(size) > COMMIT_BYTES_MAX / 2 {
            self.flush().await?;
        }
        self.bytes = self.bytes.saturating_add(size);
        self.commit.puts.push((key, bytes.into()));
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), RestoreError> {
        self.bytes = 0;
        let commit = std::mem::take(&mut self.commit);
        if !commit.puts.is_empty() {
            self.store.commit(commit).await?;
        }
        Ok(())
    }
}
