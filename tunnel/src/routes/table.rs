//! Which routes lead to an address? Found in the same time among any number of them: one look for each length that is in use.

use crate::api::{RouteEntry, Routes};
use crate::lookup::Lookup;
use model::ids::PairingId;
use model::net::Prefix;
use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

/// Routes, made ready for looking.
#[derive(Debug)]
pub struct RouteTable {
    /// As in [`Routes`].
    pub own: Vec<IpAddr>,
    /// As in [`Routes`].
    pub doubtful: BTreeSet<PairingId>,
    /// In the order of their prefixes.
    entries: Vec<Vec<RouteEntry>>,
    /// The place of a prefix among them.
    by_prefix: Lookup<Key, usize>,
    /// Lengths in use, the longest first: of IPv4 and of IPv6.
    lengths: [Vec<u8>; 2],
}

/// A prefix, hashed for each packet: IPv4 as one number.
#[derive(Debug, PartialEq, Eq)]
struct Key(Prefix);

impl Hash for Key {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let length = u64::from(self.0.bits());
        match self.0.address() {
            IpAddr::V4(address) => hasher.write_u64(u64::from(u32::from(address)) << 8 | length),
            IpAddr::V6(address) => {
                hasher.write(&address.octets());
                hasher.write(&length.to_ne_bytes());
            }
        }
    }
}

impl RouteTable {
    /// Of these; `seed` is random.
    pub fn new(routes: Routes, seed: &[u8; 32]) -> Self {
        let mut by_prefix = Lookup::new(seed);
        let mut lengths = [BTreeSet::new(), BTreeSet::new()];
        for (place, prefix) in routes.entries.keys().enumerate() {
            by_prefix.put(Key(*prefix), place);
            let [v4, v6] = &mut lengths;
            if prefix.address().is_ipv4() { v4 } else { v6 }.insert(prefix.bits());
        }
        Self {
            own: routes.own,
            doubtful: routes.doubtful,
            entries: routes.entries.into_values().collect(),
            by_prefix,
            lengths: lengths.map(|lengths| lengths.into_iter().rev().collect()),
        }
    }

    /// The routes of each prefix that contains this address, the longest prefix first.
    pub fn towards(&self, to: IpAddr) -> impl Iterator<Item = &[RouteEntry]> {
        let [v4, v6] = &self.lengths;
        let places = if to.is_ipv4() { v4 } else { v6 }
            .iter()
            .filter_map(move |bits| self.by_prefix.find(&Key(Prefix::containing(to, *bits))));
        places.filter_map(|place| self.entries.get(*place)).map(Vec::as_slice)
    }

    /// All, in the order of their prefixes.
    pub fn all(&self) -> impl Iterator<Item = &RouteEntry> {
        self.entries.iter().flatten()
    }
}
