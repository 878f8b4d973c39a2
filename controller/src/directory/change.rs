//! How do facts change? Read, decide, commit what was decided together with its audit record on the condition that
//! nothing that was read has changed; else read and decide again, a bounded number of times.

use super::{Counted, Counter, Directory, Reader, Unique};
use crate::audit;
use crate::store::{Commit, CommitError, Expect, Key, Record, Store, Versioned};
use model::limits::{CHANGE_TRIES_MAX, COMMIT_KEYS_MAX};
use model::revision::Revision;
use std::collections::BTreeMap;
use std::fmt::Display;

/// Why a change was not made, for the person who asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A value cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// There is no such thing.
    #[error("there is no {kind} `{name}`: `umbra-controller {kind} list` shows what there is")]
    Missing {
        /// Of which kind (the command's noun).
        kind: &'static str,
        /// What was asked for.
        name: String,
    },
    /// The name is taken.
    #[error("{what} is taken already: choose another")]
    Taken {
        /// What.
        what: String,
    },
    /// Something else stands on it.
    #[error("{0}")]
    InUse(String),
    /// Its caller did the same too often within the last minute.
    #[error("that is done too often from here: wait {0} s")]
    Often(u64),
    /// The caller may not.
    #[error("{0}")]
    Denied(String),
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] CommitError),
    /// Each try met another change.
    #[error("others kept changing the same things ({0} tries): try again")]
    Busy(usize),
    /// Something in the program or the machine failed.
    #[error("{0}")]
    Failed(String),
}

impl Refusal {
    /// Too often; so long to wait.
    pub fn often(wait: std::time::Duration) -> Self {
        Self::Often(wait.as_millis().div_ceil(1_000).try_into().unwrap_or(u64::MAX))
    }
    /// There is no such thing; what was asked for is shown escaped.
    pub fn missing(kind: &'static str, name: &str) -> Self {
        Self::Missing { kind, name: name.chars().take(80).flat_map(char::escape_default).collect() }
    }
}

/// A change in the making: what it stands on, what it writes.
#[derive(Debug, Default)]
pub struct Draft {
    expect: BTreeMap<Key, Expect>,
    puts: BTreeMap<Key, Vec<u8>>,
    deletes: Vec<Key>,
}

fn invalid(error: impl Display) -> Refusal {
    Refusal::Failed(format!("a record could not be written ({error}); please report it"))
}

impl Draft {
    /// Stands on this fact as it was read.
    pub fn stands_on<R>(&mut self, fact: &Versioned<R>) {
        self.expect.entry(fact.key.clone()).or_insert(Expect::Revision(fact.revision));
    }
    /// Stands on a whole set: a member that is added, changed or removed is a conflict.
    pub fn stands_on_all(&mut self, directory: &Directory, set: &str) -> Result<(), Refusal> {
        let key = Key::new(set).map_err(invalid)?;
        self.expect.entry(key).or_insert(Expect::Revision(directory.head(set)));
        Ok(())
    }
    /// Writes a new record; conflicts if there is one.
    pub fn create<R: Record>(&mut self, id: &R::Id, record: &R) -> Result<(), Refusal> {
        let key = Key::of(R::KIND, id).map_err(invalid)?;
        self.expect.insert(key.clone(), Expect::Absent);
        self.puts.insert(key, serde_json::to_vec(record).map_err(invalid)?);
        Ok(())
    }
    /// Writes a fact's next version, on the condition that it is as it was read.
    pub fn update<R: Record>(&mut self, fact: &Versioned<R>, record: &R) -> Result<(), Refusal> {
        self.stands_on(fact);
        self.puts.insert(fact.key.clone(), serde_json::to_vec(record).map_err(invalid)?);
        Ok(())
    }
    /// Writes a record whatever was there.
    pub fn put<R: Record>(&mut self, id: &R::Id, record: &R) -> Result<(), Refusal> {
        let key = Key::of(R::KIND, id).map_err(invalid)?;
        self.puts.insert(key, serde_json::to_vec(record).map_err(invalid)?);
        Ok(())
    }
    /// Removes a fact, on the condition that it is as it was read.
    pub fn remove<R>(&mut self, fact: &Versioned<R>) {
        self.stands_on(fact);
        self.deletes.push(fact.key.clone());
    }
    /// Removes a record whatever it holds.
    pub fn remove_key<R: Record>(&mut self, id: &R::Id) -> Result<(), Refusal> {
        self.deletes.push(Key::of(R::KIND, id).map_err(invalid)?);
        Ok(())
    }

    /// Claims a unique thing for the owner (a key of the store). `what` is said when it is taken.
    pub fn claim(
        &mut self,
        directory: &Directory,
        unique: Unique,
        id: impl Display,
        owner: impl Display,
        what: impl FnOnce() -> String,
    ) -> Result<(), Refusal> {
        let key = Key::of(unique.set(), id).map_err(invalid)?;
        if directory.is_taken(&key) || self.puts.contains_key(&key) {
            return Err(Refusal::Taken { what: what() });
        }
        self.expect.insert(key.clone(), Expect::Absent);
        let owner = super::index::Owner { key: owner.to_string() };
        self.puts.insert(key, serde_json::to_vec(&owner).map_err(invalid)?);
        Ok(())
    }
    /// Gives a unique thing back.
    pub fn release(&mut self, unique: Unique, id: impl Display) -> Result<(), Refusal> {
        self.deletes.push(Key::of(unique.set(), id).map_err(invalid)?);
        Ok(())
    }
    /// Claims the next free number for the owner.
    pub fn number(&mut self, directory: &Directory, counted: Counted, owner: impl Display) -> Result<u32, Refusal> {
        let counter = Key::of(Counter::KIND, counted.id()).map_err(invalid)?;
        let held = directory.counters.find(&counted.id().to_owned());
        let drafted = self.puts.get(&counter).and_then(|bytes| serde_json::from_slice::<Counter>(bytes).ok());
        let from = drafted.or_else(|| held.map(|fact| fact.record)).unwrap_or_default().next;
        let count = counted.count();
        for step in 0..count {
            let number = from.wrapping_add(step) % count;
            let key = Key::of(counted.unique().set(), number).map_err(invalid)?;
            if directory.is_taken(&key) || self.puts.contains_key(&key) {
                continue;
            }
            self.claim(directory, counted.unique(), number, &owner, String::new)?;
            self.expect.entry(counter.clone()).or_insert(Expect::Revision(held.map_or(0, |fact| fact.revision)));
            let next = Counter { next: (number + 1) % count };
            self.puts.insert(counter, serde_json::to_vec(&next).map_err(invalid)?);
            return Ok(number);
        }
        Err(Refusal::InUse(format!("all {count} addresses of the pool are taken: delete what is no longer needed")))
    }

    /// Does it change more than one transaction may? A member of a list that does not fit should be refused before.
    pub fn is_full(&self) -> bool {
        self.puts.len().max(self.expect.len()).max(self.deletes.len()) > COMMIT_KEYS_MAX
    }

    /// The commit, with what the audit trail shall say.
    pub fn into_commit(self, entry: audit::Entry) -> Commit {
        Commit {
            expect: self.expect.into_iter().collect(),
            puts: self.puts.into_iter().map(|(key, value)| (key, value.into())).collect(),
            deletes: self.deletes,
            audit: vec![entry],
        }
    }
}

/// Makes a change: THE one way in which facts change. `decide` is called with the newest directory, again after each
/// conflict; it must decide from that alone. When this returns, the change is durable and `reader` shows it.
pub async fn change<T>(
    store: &dyn Store,
    reader: &Reader,
    mut decide: impl FnMut(&Directory, &mut Draft) -> Result<(T, audit::Entry), Refusal> + Send,
) -> Result<(Revision, T), Refusal> {
    for _ in 0..CHANGE_TRIES_MAX {
        let mut draft = Draft::default();
        let directory = reader.at_least(store.revision()).await;
        let (value, entry) = decide(&directory, &mut draft)?;
        match store.commit(draft.into_commit(entry)).await {
            Ok(revision) => {
                reader.at_least(revision).await;
                return Ok((revision, value));
            }
            Err(CommitError::Conflict { key }) => tracing::debug!(%key, "a change is decided again"),
            Err(error) => return Err(error.into()),
        }
    }
    Err(Refusal::Busy(CHANGE_TRIES_MAX))
}
