//! Which grants belong to this device, session, user, resource, gateway, pairing? One ordered index for each.

use model::ids::GrantId;
use std::collections::{BTreeMap, BTreeSet};

/// Grants by one of their properties.
#[derive(Debug, Clone)]
pub(crate) struct Index<K>(BTreeMap<K, BTreeSet<GrantId>>);

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Index<K> {
    pub(crate) fn insert(&mut self, key: K, grant: GrantId) {
        self.0.entry(key).or_default().insert(grant);
    }

    pub(crate) fn remove(&mut self, key: &K, grant: GrantId) {
        if let Some(set) = self.0.get_mut(key) {
            set.remove(&grant);
            if set.is_empty() {
                self.0.remove(key);
            }
        }
    }

    pub(crate) fn of<'a>(&'a self, key: &K) -> impl Iterator<Item = GrantId> + use<'a, K> {
        self.0.get(key).into_iter().flatten().copied()
    }

    pub(crate) fn count(&self, key: &K) -> usize {
        self.0.get(key).map_or(0, BTreeSet::len)
    }
}
