//! Which answer is waited for? Ceremonies that have begun: in memory, one a device, for a few minutes, for one answer.

use crate::directory::{Name, sha256};
use model::ids::{DeviceId, ResourceId, SessionId, UserId};
use model::key::PublicKey;
use model::limits::{PASSKEY_CEREMONIES_MAX, PASSKEY_LIFE};
use model::secret::Secret;
use model::time::Instant;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a ceremony is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// A new passkey of this name.
    Add(Name),
    /// A second factor, for this resource where one asks for it.
    Verify(Option<ResourceId>),
}

/// Who takes part in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Party {
    /// The device that asks.
    pub device: DeviceId,
    /// The log-in there.
    pub session: SessionId,
    /// Whose that is.
    pub user: UserId,
}

/// One that has begun.
#[derive(Debug)]
pub struct Ceremony {
    /// What for.
    pub purpose: Purpose,
    /// At which port of its own loopback the device shows the page.
    pub port: u16,
    /// The device's key when it began.
    pub key: PublicKey,
    /// What makes its challenge unlike any other.
    pub random: Secret<[u8; 32]>,
}

impl Ceremony {
    /// What the authenticator has to sign: random, and good for nobody but this party and this purpose.
    pub fn challenge(&self, party: Party) -> [u8; 32] {
        let (kind, about) = match &self.purpose {
            Purpose::Add(name) => (1, name.to_string()),
            Purpose::Verify(resource) => (2, resource.map(|id| id.to_string()).unwrap_or_default()),
        };
        // Each part but the last has one length.
        let parts: [&[u8]; 9] = [
            b"umbra passkey 1\0",
            self.random.expose(),
            &[kind],
            &self.port.to_be_bytes(),
            party.device.as_bytes(),
            &self.key.0,
            party.session.as_bytes(),
            party.user.as_bytes(),
            about.as_bytes(),
        ];
        sha256(&parts.concat())
    }
}

/// All that have begun.
#[derive(Debug, Default)]
pub struct Ceremonies(BTreeMap<DeviceId, (Party, Instant, Ceremony)>);

/// Shared by all calls.
#[derive(Debug, Clone, Default)]
pub struct SharedCeremonies(Arc<Mutex<Ceremonies>>);

impl SharedCeremonies {
    /// For a moment.
    pub fn lock(&self) -> MutexGuard<'_, Ceremonies> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ceremonies {
    /// One begins; another of the same device ends. Where there are too many, the oldest goes.
    pub fn open(&mut self, now: Instant, party: Party, ceremony: Ceremony) {
        if self.0.len() >= PASSKEY_CEREMONIES_MAX && !self.0.contains_key(&party.device) {
            self.0.retain(|_, (_, begun, _)| now.since(*begun) < PASSKEY_LIFE);
            while self.0.len() >= PASSKEY_CEREMONIES_MAX {
                let oldest = self.0.iter().min_by_key(|(_, (_, begun, _))| *begun).map(|(device, _)| *device);
                let Some(oldest) = oldest else { break };
                self.0.remove(&oldest);
            }
        }
        self.0.insert(party.device, (party, now, ceremony));
    }

    /// The one that waits for this party's answer. It waits no longer, whatever comes of the answer.
    pub fn take(&mut self, now: Instant, party: Party) -> Option<Ceremony> {
        let (begun_by, begun, ceremony) = self.0.remove(&party.device)?;
        (begun_by == party && now.since(begun) < PASSKEY_LIFE).then_some(ceremony)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn party(number: u64) -> Party {
        let mut id = [0; 10];
        id[..8].copy_from_slice(&number.to_be_bytes());
        Party {
            device: DeviceId::from_bytes(id),
            session: SessionId::from_bytes(id),
            user: UserId::from_bytes([1; 10]),
        }
    }
    fn ceremony(purpose: Purpose) -> Ceremony {
        Ceremony { purpose, port: 40_000, key: PublicKey([2; 32]), random: Secret::new([3; 32]) }
    }
    fn at(s: u64) -> Instant {
        Instant(s * 1_000_000_000)
    }

    #[test]
    fn each_is_answered_once_by_who_began_it_and_not_for_ever() {
        let mut open = Ceremonies::default();
        open.open(at(0), party(1), ceremony(Purpose::Verify(None)));
        assert!(open.take(at(1), party(2)).is_none());
        assert!(open.take(at(1), party(1)).is_some());
        assert!(open.take(at(1), party(1)).is_none(), "once");
        open.open(at(0), party(1), ceremony(Purpose::Verify(None)));
        assert!(open.take(at(PASSKEY_LIFE.as_secs()), party(1)).is_none(), "it is over");
        // A log-in that followed does not answer for the one before.
        for other in
            [Party { session: party(2).session, ..party(1) }, Party { user: UserId::from_bytes([2; 10]), ..party(1) }]
        {
            open.open(at(0), party(1), ceremony(Purpose::Verify(None)));
            assert!(open.take(at(0), other).is_none());
        }
        // The newest of a device is the one.
        open.open(at(0), party(1), ceremony(Purpose::Verify(None)));
        open.open(at(0), party(1), ceremony(Purpose::Add("key".parse().unwrap())));
        assert!(matches!(open.take(at(0), party(1)).unwrap().purpose, Purpose::Add(_)));
    }

    #[test]
    fn so_many_wait_and_the_oldest_goes() {
        let mut open = Ceremonies::default();
        let most = PASSKEY_CEREMONIES_MAX as u64;
        for n in 0..=most {
            open.open(at(n / 100), party(n), ceremony(Purpose::Verify(None)));
            assert!(open.0.len() <= PASSKEY_CEREMONIES_MAX);
        }
        let now = at(most / 100);
        assert!(
            open.take(now, party(0)).is_none()
                && open.take(now, party(1)).is_some()
                && open.take(now, party(most)).is_some()
        );
        // What is over is forgotten first.
        let later = Instant(now.0).plus(PASSKEY_LIFE + Duration::from_secs(1));
        (0..4).for_each(|n| open.open(later, party(most + 1 + n), ceremony(Purpose::Verify(None))));
        assert_eq!(open.0.len(), 4);
    }

    #[test]
    fn a_challenge_is_of_one_party_and_one_purpose() {
        let purposes = [
            Purpose::Verify(None),
            Purpose::Verify(Some(ResourceId::from_bytes([1; 10]))),
            Purpose::Verify(Some(ResourceId::from_bytes([2; 10]))),
            Purpose::Add("key".parse().unwrap()),
            Purpose::Add("other".parse().unwrap()),
        ];
        let mut challenges: Vec<[u8; 32]> = Vec::new();
        for purpose in purposes {
            let base = || ceremony(purpose.clone());
            let others = [
                Ceremony { port: 40_001, ..base() },
                Ceremony { key: PublicKey([4; 32]), ..base() },
                Ceremony { random: Secret::new([5; 32]), ..base() },
            ];
            challenges.extend(others.iter().map(|ceremony| ceremony.challenge(party(1))));
            let parties = [
                party(1),
                Party { device: party(2).device, ..party(1) },
                Party { session: party(2).session, ..party(1) },
                Party { user: UserId::from_bytes([2; 10]), ..party(1) },
            ];
            challenges.extend(parties.map(|party| base().challenge(party)));
        }
        let all = challenges.len();
        challenges.sort_unstable();
        challenges.dedup();
        assert_eq!(challenges.len(), all);
    }
}
