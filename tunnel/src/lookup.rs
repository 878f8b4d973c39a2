//! How is a thing found in the same time, however many there are? By a hash under a secret seed.
//!
//! Only single things are found, put and taken out: the accidental order of a hash map can reach nothing.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};

/// Things by a key that a stranger may choose.
pub struct Lookup<K, V>(HashMap<K, V, Seeded>);

/// A hash function that has read the seed already: nobody outside can choose keys that fall together.
#[derive(Clone)]
struct Seeded(DefaultHasher);

impl BuildHasher for Seeded {
    type Hasher = DefaultHasher;
    fn build_hasher(&self) -> DefaultHasher {
        self.0.clone()
    }
}

impl<K: Eq + Hash, V> Lookup<K, V> {
    /// Nothing in it; `seed` is random.
    pub fn new(seed: &[u8; 32]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(seed);
        Self(HashMap::with_hasher(Seeded(hasher)))
    }
    /// One thing.
    pub fn find(&self, key: &K) -> Option<&V> {
        self.0.get(key)
    }
    /// One thing, to be changed.
    pub fn find_mut(&mut self, key: &K) -> Option<&mut V> {
        self.0.get_mut(key)
    }
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// None is there?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Is it there?
    pub fn has(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }
    /// Puts it in, in the place of another one.
    pub fn put(&mut self, key: K, value: V) {
        self.0.insert(key, value);
    }
    /// Takes it out. Room that a crowd needed is given back when most of it has gone.
    pub fn take(&mut self, key: &K) -> Option<V> {
        let taken = self.0.remove(key);
        if self.0.capacity() > 4 * self.0.len().max(ROOM_MIN) {
            self.0.shrink_to(2 * self.0.len());
        }
        taken
    }
}

impl<K, V> fmt::Debug for Lookup<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup").field("len", &self.0.len()).finish_non_exhaustive()
    }
}

/// Room for so many is never given back.
const ROOM_MIN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_found_and_what_is_taken_is_not() {
        let mut lookup = Lookup::new(&[7; 32]);
        for n in 0..5_000u32 {
            lookup.put(n, n + 1);
        }
        assert!((0..5_000).all(|n| lookup.find(&n) == Some(&(n + 1))));
        lookup.put(3, 9);
        if let Some(value) = lookup.find_mut(&4) {
            *value = 8;
        }
        assert_eq!((lookup.find(&4), lookup.len(), lookup.is_empty()), (Some(&8), 5_000, false));
        assert_eq!((lookup.take(&3), lookup.take(&3), lookup.has(&3)), (Some(9), None, false));
        let full = lookup.0.capacity();
        assert!((0..4_990).all(|n| n == 3 || lookup.take(&n).is_some()));
        assert!((4_990..5_000).all(|n| lookup.has(&n)));
        assert!(lookup.0.capacity() * 10 < full, "{} of {full}", lookup.0.capacity());
    }
}
