//! How do typed records go in and out? As JSON under `KIND/id`, with every read remembered.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Commit, CommitError, Expect, Key, ReadError, Store};

/// A type that lives in the store.
pub trait Record: Serialize + DeserializeOwned {
    /// The set: the part of the key before the `/`.
    const KIND: &'static str;
    /// What identifies one.
    type Id: Display + ?Sized;
}

/// A record, where it lies, and the commit that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<R> {
    /// Its key.
    pub key: Key,
    /// Number of the commit that wrote it last.
    pub revision: u64,
    /// The record.
    pub record: R,
}

/// Reads a record as it lies under its key.
pub fn decode<R: Record>(key: &Key, bytes: &[u8]) -> Result<R, ReadError> {
    serde_json::from_slice(bytes).map_err(|e| ReadError::Decode { key: key.clone(), cause: e.to_string() })
}

impl Commit {
    /// Adds a typed record.
    pub fn put_record<R: Record>(self, id: &R::Id, record: &R) -> Result<Self, CommitError> {
        let key = Key::of(R::KIND, id).map_err(|e| CommitError::Invalid(e.to_string()))?;
        let bytes = serde_json::to_vec(record).map_err(|e| CommitError::Invalid(format!("`{key}`: {e}")))?;
        Ok(self.put(key, bytes))
    }
    /// Removes a typed record.
    pub fn delete_record<R: Record>(self, id: &R::Id) -> Result<Self, CommitError> {
        Key::of(R::KIND, id).map(|key| self.delete(key)).map_err(|e| CommitError::Invalid(e.to_string()))
    }
}

/// Reads that a decision stands on. Whatever is read here, present or absent, is expected by [`Reading::commit`]: when
/// any of it changed in between, the commit is refused and the decision is taken again.
pub struct Reading<'a> {
    store: &'a dyn Store,
    seen: BTreeMap<Key, u64>,
}

impl<'a> Reading<'a> {
    /// Nothing was read yet.
    pub const fn new(store: &'a dyn Store) -> Self {
        Self { store, seen: BTreeMap::new() }
    }

    /// One record.
    pub async fn get<R: Record>(&mut self, id: &R::Id) -> Result<Option<Versioned<R>>, ReadError> {
        let key = Key::of(R::KIND, id)?;
        let item = self.store.get(&key).await?;
        // The first revision stays: if it changed between two reads, the commit has to be refused.
        self.seen.entry(key.clone()).or_insert_with(|| item.as_ref().map_or(0, |item| item.revision));
        item.map(|item| {
            let record = decode(&key, &item.value)?;
            Ok(Versioned { key, revision: item.revision, record })
        })
        .transpose()
    }

    /// All records of a kind. Stands on the set: a record that is added, changed or removed is a conflict.
    pub async fn list<R: Record>(&mut self) -> Result<Vec<Versioned<R>>, ReadError> {
        let scan = self.store.scan(R::KIND).await?;
        self.seen.entry(scan.head).or_insert(scan.head_revision);
        let versioned = |(key, item): (Key, super::Item)| {
            let record = decode(&key, &item.value)?;
            Ok(Versioned { key, revision: item.revision, record })
        };
        scan.items.into_iter().map(versioned).collect()
    }

    /// A commit that expects everything that was read.
    pub fn commit(self) -> Commit {
        let expect = self.seen.into_iter().map(|(key, revision)| (key, Expect::Revision(revision))).collect();
        Commit { expect, ..Commit::default() }
    }
}
