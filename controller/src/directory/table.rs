//! How are facts of one kind held? By id, with an index by name, shared between snapshots until they change.

use super::name::Name;
use super::{
    Account, Counter, Device, FactorSecret, Factors, Gateway, GatewaySeen, Group, Idp, IdpSecret, IdpSession, JoinKey,
    Recovery, Registration, Resource, Session, Site, SpentToken, SuffixName, Trust, TrustSecret, User, Vanished,
};
use crate::store::{Item, Key, ReadError, Record, Versioned};
use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

/// A record with its key and the revision that wrote it.
pub type Fact<R> = Arc<Versioned<R>>;

/// A record that may have a unique name.
pub trait Named {
    /// The name, where there is one.
    fn name(&self) -> Option<&Name> {
        None
    }
}

macro_rules! named {
    ($($kind:ty),*) => { $(impl Named for $kind { fn name(&self) -> Option<&Name> { Some(&self.name) } })* };
}
named!(User, Account, Group, Site, Gateway, Device, Resource, Idp, Trust);
impl Named for GatewaySeen {}
impl Named for SuffixName {}
impl Named for Session {}
impl Named for JoinKey {}
impl Named for Recovery {}
impl Named for Counter {}
impl Named for Factors {}
impl Named for FactorSecret {}
impl Named for IdpSecret {}
impl Named for IdpSession {}
impl Named for Vanished {}
impl Named for TrustSecret {}
impl Named for SpentToken {}
impl Named for Registration {}

/// Decodes a record.
pub(super) fn decode<R: Record>(key: &Key, item: &Item) -> Result<Fact<R>, ReadError> {
    let record = serde_json::from_slice(&item.value)
        .map_err(|e| ReadError::Decode { key: key.clone(), cause: e.to_string() })?;
    Ok(Arc::new(Versioned { key: key.clone(), revision: item.revision, record }))
}

/// Facts of one kind.
#[derive(Debug)]
pub struct Table<I, R> {
    facts: Arc<BTreeMap<I, Fact<R>>>,
    names: Arc<BTreeMap<Name, I>>,
}

impl<I, R> Clone for Table<I, R> {
    fn clone(&self) -> Self {
        Self { facts: Arc::clone(&self.facts), names: Arc::clone(&self.names) }
    }
}
impl<I, R> Default for Table<I, R> {
    fn default() -> Self {
        Self { facts: Arc::default(), names: Arc::default() }
    }
}

impl<I: Ord + Clone + FromStr, R: Record + Named> Table<I, R> {
    /// The fact with this id.
    pub fn find(&self, id: &I) -> Option<&Fact<R>> {
        self.facts.get(id)
    }
    /// The fact with this name.
    pub fn named(&self, name: &str) -> Option<&Fact<R>> {
        self.names.get(name).and_then(|id| self.facts.get(id))
    }
    /// The fact with this name or id in text form: what an administrator types.
    pub fn typed(&self, text: &str) -> Option<&Fact<R>> {
        self.named(text).or_else(|| text.parse().ok().and_then(|id| self.facts.get(&id)))
    }
    /// All facts, ordered by id.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &Fact<R>> {
        self.facts.values()
    }
    /// The facts with these ids, ordered by id.
    pub fn range(&self, ids: std::ops::Range<I>) -> impl Iterator<Item = &Fact<R>> {
        self.facts.range(ids).map(|(_, fact)| fact)
    }
    /// All facts that have a name, ordered by name.
    pub fn by_name(&self) -> impl Iterator<Item = &Fact<R>> {
        self.names.values().filter_map(|id| self.facts.get(id))
    }
    /// How many.
    pub fn len(&self) -> usize {
        self.facts.len()
    }
    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    pub(super) fn put(&mut self, key: &Key, item: &Item) -> Result<(), ReadError> {
        let id = id_of::<I>(key)?;
        if self.facts.get(&id).is_some_and(|held| held.revision >= item.revision) {
            return Ok(());
        }
        let fact = decode::<R>(key, item)?;
        self.unname(&id);
        if let Some(name) = fact.record.name() {
            Arc::make_mut(&mut self.names).insert(name.clone(), id.clone());
        }
        Arc::make_mut(&mut self.facts).insert(id, fact);
        Ok(())
    }

    pub(super) fn delete(&mut self, key: &Key, revision: u64) {
        let Ok(id) = id_of::<I>(key) else { return };
        if self.facts.get(&id).is_some_and(|held| held.revision <= revision) {
            self.unname(&id);
            Arc::make_mut(&mut self.facts).remove(&id);
        }
    }

    /// Drops the name under which `id` is held, unless it is another's by now.
    fn unname(&mut self, id: &I) {
        let name = self.facts.get(id).and_then(|held| held.record.name().cloned());
        if let Some(name) = name.filter(|name| self.names.get(name) == Some(id)) {
            Arc::make_mut(&mut self.names).remove(&name);
        }
    }
}

fn id_of<I: FromStr>(key: &Key) -> Result<I, ReadError> {
    let text = key.as_str().split_once('/').map_or("", |(_, id)| id);
    text.parse()
        .map_err(|_| ReadError::Decode { key: key.clone(), cause: "its key holds no id of its kind".to_owned() })
}
