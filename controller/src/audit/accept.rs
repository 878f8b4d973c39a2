//! How does an organisation go on whose trail is shorter than what was witnessed, when nothing newer is left? As after a
//! restore of a backup: as a new life, in which nobody has access before an administrator has confirmed it, and the trail
//! says so.

use crate::arrange::heads::Lost;
use crate::backup::Restored;
use crate::backup::content::{Fate, fate, humbled};
use crate::config::StatePaths;
use crate::directory::{PastPolicy, PolicyRevision};
use crate::organisation::LoadError;
use crate::store::{Commit, CommitError, Key, KeyError, OpenError, Options, Record as _, SledStore, Store};
use model::limits::{COMMIT_BYTES_MAX, COMMIT_KEYS_MAX, REASON_MAX};
use model::revision::Revision;
use model::time::WallMs;

use super::verify::ACCEPTED;
use super::{Entry, Outcome, Query};

/// Why nothing was accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// Nobody says that something is missing.
    #[error("this controller refuses nothing: there is no loss to accept")]
    Nothing,
    /// No reason.
    #[error("say why, in 1 to {REASON_MAX} bytes: the reason stands in the audit trail for good")]
    Reason,
    /// There is no organisation.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The store does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It does not take it.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] crate::store::ReadError),
    /// A record does not decode.
    #[error("the record `{0}` does not decode ({1}): restore the last backup instead")]
    Record(Key, String),
    /// A name that cannot be a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The note about the refusal stays.
    #[error("the loss is accepted, but the store is still marked ({0}): do it again")]
    Mark(std::io::Error),
}

/// What was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Why the controller refused to serve.
    pub refused: String,
    /// The newest record that is left of the former life.
    pub kept: u64,
    /// The new life.
    pub revision: Revision,
}

/// Begins a new life with what is there. The controller must not run.
pub async fn accept(paths: &StatePaths, reason: &str, wall: WallMs, options: Options) -> Result<Accepted, AcceptError> {
    if reason.trim().is_empty() || reason.len() > REASON_MAX {
        return Err(AcceptError::Reason);
    }
    if !paths.org().exists() {
        return Err(LoadError::Missing(paths.root().to_owned()).into());
    }
    let refused = SledStore::refusal(&paths.store()).ok_or(AcceptError::Nothing)?;
    let by_clock = u64::try_from(wall.0.div_euclid(1_000)).unwrap_or(0);
    let store = SledStore::open_again(&paths.store(), options, by_clock)?;
    let (revision, chain) = store.audit_head();
    let newest = store.audit(Query { limit: 1, ..Query::default() }).await?;
    let policy = humble(&store).await?;
    let restored = Restored {
        at: wall,
        created: newest.first().map_or(wall, |record| record.at),
        revision,
        audit_seq: chain.seq,
        policy,
    };
    let entry = Entry::new(wall, "local:accept-loss", ACCEPTED, "org/self", Outcome::Done)
        .with("reason", reason)
        .with("refused", refused.as_str())
        .with("backup_audit_seq", chain.seq)
        .with("incarnation", revision.incarnation);
    let commit = Commit::default().put_record(Restored::ID, &restored)?.audit(entry);
    let revision = store.commit(commit).await?;
    // Last: whatever is killed before is done again.
    store.forget_refusal().map_err(AcceptError::Mark)?;
    Ok(Accepted { refused, kept: chain.seq, revision })
}

/// Takes from everybody what an administrator has to give again; the policy that was in force, if it permitted anything.
async fn humble(store: &SledStore) -> Result<Option<u64>, AcceptError> {
    let (mut commit, mut bytes, mut policy) = (Commit::default(), 0_usize, None);
    for (key, item) in store.export().await.items {
        match fate(key.set()) {
            Some(Fate::Ended) if key.set() != Lost::KIND => commit = commit.delete(key),
            Some(Fate::Confirmed) => {
                let odd = |why: String| AcceptError::Record(key.clone(), why);
                let value = serde_json::from_slice(&item.value).map_err(|e| odd(e.to_string()))?;
                let new = humbled(key.set(), value).map_err(odd)?;
                if key.set() == PolicyRevision::KIND {
                    let odd = |e: serde_json::Error| AcceptError::Record(key.clone(), e.to_string());
                    let before: PolicyRevision = serde_json::from_slice(&item.value).map_err(odd)?;
                    let empty: PolicyRevision = serde_json::from_slice(&new).map_err(odd)?;
                    policy = Some(before.number).filter(|_| !before.files.is_empty());
                    commit = commit.put(Key::of(PastPolicy::KIND, empty.number)?, new.clone());
                }
                bytes = bytes.saturating_add(new.len());
                commit = commit.put(key, new);
            }
            _ => {}
        }
        if commit.puts.len().max(commit.deletes.len()) >= COMMIT_KEYS_MAX / 2 || bytes > COMMIT_BYTES_MAX / 4 {
            store.commit(std::mem::take(&mut commit)).await?;
            bytes = 0;
        }
    }
    store.commit(commit).await?;
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Folder;

    #[tokio::test]
    async fn a_reason_has_so_many_bytes_and_no_more() {
        let folder = Folder::new();
        let paths = StatePaths::new(folder.path().join("state"));
        let told = async |reason: &str| accept(&paths, reason, WallMs(1), Options::default()).await.unwrap_err();
        for bad in [String::new(), " ".to_owned(), "x".repeat(REASON_MAX + 1)] {
            assert!(matches!(told(&bad).await, AcceptError::Reason), "{} bytes", bad.len());
        }
        let fits = told(&"x".repeat(REASON_MAX)).await;
        assert!(matches!(fits, AcceptError::Load(LoadError::Missing(_))), "the reason is none to refuse it: {fits}");
    }
}
