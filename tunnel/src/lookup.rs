//! How is a thing found in the same time, however many there are? By a hash under a secret seed.
//!
//! Only single things are found, put and taken out: the accidental order of a hash map can reach nothing.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};

/// Things by a key that a stranger may choose.
pub struct Lookup<K, V>(HashMap<K, V, Seeded>);

/// A hash function that has read the seed already: nobody outside can choose keys that fall together.
///
/// Bytes go through SipHash. A key that is one number is multiplied by a secret odd one and folded, which is enough and costs a tenth:
/// such are flow numbers, indices and IPv4 prefixes, which nobody outside puts in.
///
/// Source: Dietzfelbinger et al., A reliable randomized algorithm for the closest-pair problem (1997), section 2.
#[derive(Clone)]
struct Seeded {
    bytes: DefaultHasher,
    factor: u64,
    /// Something of the key was read.
    started: bool,
    /// All of it, if that is one number.
    number: Option<u64>,
}

impl Seeded {
    fn new(seed: &[u8; 32]) -> Self {
        let mut bytes = DefaultHasher::new();
        bytes.write(seed);
        let factor = bytes.finish() | 1;
        Self { bytes, factor, started: false, number: None }
    }
    /// It is more than one number.
    fn more(&mut self, bytes: &[u8]) {
        if let Some(number) = self.number.take() {
            self.bytes.write(&number.to_ne_bytes());
        }
        self.bytes.write(bytes);
    }
}

impl BuildHasher for Seeded {
    type Hasher = Self;
    fn build_hasher(&self) -> Self {
        self.clone()
    }
}

impl Hasher for Seeded {
    fn write(&mut self, bytes: &[u8]) {
        self.started = true;
        self.more(bytes);
    }
    fn write_u64(&mut self, number: u64) {
        if self.started {
            self.more(&number.to_ne_bytes());
        } else {
            (self.started, self.number) = (true, Some(number));
        }
    }
    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }
    fn finish(&self) -> u64 {
        let Some(number) = self.number else { return self.bytes.finish() };
        let product = u128::from(number.wrapping_add(self.factor >> 32)) * u128::from(self.factor);
        (product >> 64) as u64 ^ product as u64
    }
}

impl<K: Eq + Hash, V> Lookup<K, V> {
    /// Nothing in it; `seed` is random.
    pub fn new(seed: &[u8; 32]) -> Self {
        Self(HashMap::with_hasher(Seeded::new(seed)))
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
    fn every_part_of_a_key_counts_and_so_does_the_seed() {
        let hash = |seed: u8, key: &dyn Fn(&mut Seeded)| {
            let mut hasher = Seeded::new(&[seed; 32]).build_hasher();
            key(&mut hasher);
            hasher.finish()
        };
        let keys: [&dyn Fn(&mut Seeded); 9] = [
            &|_| {},
            &|h| 1_u64.hash(h),
            &|h| 2_u64.hash(h),
            &|h| (1_u64, 1_u64).hash(h),
            &|h| (1_u64, 2_u64).hash(h),
            &|h| (2_u32, 1_u8).hash(h),
            &|h| (2_u32, 2_u8).hash(h),
            &|h| (1_u8, 1_u64).hash(h),
            &|h| (1_u8, 2_u64).hash(h),
        ];
        let hashes = |seed| keys.map(|key| hash(seed, key));
        let all: std::collections::BTreeSet<u64> = hashes(1).into_iter().chain(hashes(2)).collect();
        assert_eq!(all.len(), 2 * keys.len());
        assert_eq!(hashes(1), hashes(1));
        // Numbers in a row fall apart in the bits that a table looks at.
        let low: std::collections::BTreeSet<u64> = (0..1_000_u64).map(|n| hash(3, &|h| n.hash(h)) & 0xffff).collect();
        assert!(low.len() > 900, "{}", low.len());
    }

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
