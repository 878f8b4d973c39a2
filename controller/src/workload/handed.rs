//! Which machine got which identity, for the audit trail? Each certificate and each token would be too many records: the first
//! of a machine and registration is one, and the first after a day. The log has them all. Pure: time is passed in.

use model::ids::{DeviceId, RegistrationId};
use model::limits::{WORKLOAD_TOLD_EVERY, WORKLOAD_TOLD_MAX};
use model::time::Instant;
use std::collections::BTreeMap;

/// What was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A certificate.
    Certificate,
    /// A token.
    Token,
}

impl Kind {
    /// The action in the trail.
    pub const fn action(self) -> &'static str {
        match self {
            Self::Certificate => "identity.certificate",
            Self::Token => "identity.token",
        }
    }
}

type Key = (DeviceId, RegistrationId, Kind);

/// What the trail says already.
#[derive(Debug, Default)]
pub struct Handed(BTreeMap<Key, Instant>);

impl Handed {
    /// Is this one for the trail? If so, it counts as said.
    pub fn is_new(&mut self, now: Instant, key: Key) -> bool {
        if self.0.get(&key).is_some_and(|said| now.since(*said) < WORKLOAD_TOLD_EVERY) {
            return false;
        }
        if self.0.len() >= WORKLOAD_TOLD_MAX && !self.0.contains_key(&key) {
            self.make_room(now);
        }
        self.0.insert(key, now);
        true
    }

    /// It could not be said.
    pub fn forget(&mut self, key: &Key) {
        self.0.remove(key);
    }

    fn make_room(&mut self, now: Instant) {
        self.0.retain(|_, said| now.since(*said) < WORKLOAD_TOLD_EVERY);
        while self.0.len() >= WORKLOAD_TOLD_MAX {
            let Some(oldest) = self.0.iter().min_by_key(|(_, said)| **said).map(|(key, _)| *key) else { return };
            self.0.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize, kind: Kind) -> Key {
        let mut id = [0; 10];
        id[..8].copy_from_slice(&u64::try_from(number).unwrap().to_be_bytes());
        (DeviceId::from_bytes(id), RegistrationId::from_bytes([1; 10]), kind)
    }

    #[test]
    fn the_first_of_a_day_is_said_for_each_machine_and_kind() {
        let (mut handed, begin) = (Handed::default(), Instant(1_000_000_000_000));
        assert!(handed.is_new(begin, key(1, Kind::Token)) && !handed.is_new(begin, key(1, Kind::Token)));
        assert!(handed.is_new(begin, key(1, Kind::Certificate)) && handed.is_new(begin, key(2, Kind::Token)));
        let day = begin.plus(WORKLOAD_TOLD_EVERY);
        assert!(!handed.is_new(Instant(day.0 - 1), key(1, Kind::Token)));
        assert!(handed.is_new(day, key(1, Kind::Token)) && !handed.is_new(day, key(1, Kind::Token)));
        handed.forget(&key(2, Kind::Token));
        assert!(handed.is_new(begin, key(2, Kind::Token)), "what could not be said is said the next time");
    }

    #[test]
    fn so_many_are_remembered_and_the_oldest_is_said_again() {
        let mut handed = Handed::default();
        let at = |n: usize| Instant(1_000_000_000_000 + u64::try_from(n).unwrap());
        for n in 0..=WORKLOAD_TOLD_MAX {
            assert!(handed.is_new(at(n), key(n, Kind::Token)));
        }
        assert_eq!(handed.0.len(), WORKLOAD_TOLD_MAX);
        assert!(!handed.is_new(at(WORKLOAD_TOLD_MAX), key(1, Kind::Token)), "the others are remembered");
        assert!(handed.is_new(at(WORKLOAD_TOLD_MAX), key(0, Kind::Token)));
    }
}
