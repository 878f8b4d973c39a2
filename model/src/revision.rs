//! Which state is newer? (incarnation, revision), which no node ever lets go back.

/// A point in the life of an organisation's state. `incarnation` grows when a backup is restored, `revision` with each
/// change. Ordered lexicographically; every node refuses a lower one than it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct Revision {
    /// Which life of the store.
    pub incarnation: u64,
    /// Which change in it.
    pub number: u64,
}

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.incarnation, self.number)
    }
}

/// A digest over a whole table of grants (BLAKE2s, 32 bytes), by which two sides show that they hold the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Digest(pub [u8; 32]);
