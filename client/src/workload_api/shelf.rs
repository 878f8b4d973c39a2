//! Which certificates does this machine hold for its programs, and which are to be made? Pure: time is passed in.

use crate::rpc::{Identities, Named};
use model::ids::RegistrationId;
use model::limits::WORKLOAD_ASK_EVERY;
use model::secret::Secret;
use model::time::Instant;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The pause after a certificate that was not to be had.
const RETRY: Duration = Duration::from_secs(5);

/// A program's certificate and key, in memory alone.
#[derive(Debug, Clone)]
pub struct Svid {
    /// DER, leaf first.
    pub chain: Vec<u8>,
    /// PKCS #8, DER.
    pub key: Arc<Secret<Vec<u8>>>,
    /// From then on there should be another.
    pub renew: Instant,
    /// Its end.
    pub ends: Instant,
}

/// What programs can be given now.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// Names and bundles.
    pub told: Identities,
    /// Certificates that live.
    pub svids: BTreeMap<RegistrationId, Svid>,
}

/// What is held.
#[derive(Debug, Default)]
pub struct Shelf {
    shown: Shown,
    tried: BTreeMap<RegistrationId, Instant>,
}

impl Shelf {
    /// The controller said so; answers for which a certificate is to be made.
    pub fn told(&mut self, now: Instant, told: Identities) -> Vec<Named> {
        let before = std::mem::replace(&mut self.shown.told, told);
        let named = &self.shown.told.named;
        // A certificate says its name: another name needs another certificate.
        let same = |id: &RegistrationId| {
            let of = |all: &[Named]| all.iter().find(|one| one.registration == *id).map(|one| one.spiffe.clone());
            of(named).is_some_and(|name| of(&before.named) == Some(name))
        };
        let kept = self.shown.told.bundle == before.bundle;
        self.shown.svids.retain(|id, svid| kept && same(id) && svid.ends > now);
        self.tried.retain(|id, until| *until > now && named.iter().any(|one| one.registration == *id));
        let due = |one: &&Named| {
            let held = self.shown.svids.get(&one.registration);
            held.is_none_or(|svid| svid.renew <= now) && !self.tried.contains_key(&one.registration)
        };
        named.iter().filter(due).cloned().collect()
    }

    /// A certificate came that was asked for at `asked`: half of its life later there should be another.
    pub fn made(&mut self, asked: Instant, id: RegistrationId, chain: Vec<u8>, key: Secret<Vec<u8>>, life: Duration) {
        let svid = Svid { chain, key: Arc::new(key), renew: asked.plus(life / 2), ends: asked.plus(life) };
        self.shown.svids.insert(id, svid);
    }

    /// None came.
    pub fn failed(&mut self, now: Instant, id: RegistrationId) {
        self.tried.insert(id, now.plus(RETRY));
    }

    /// The controller does not answer: what has ended is given to nobody.
    pub fn expire(&mut self, now: Instant) {
        self.shown.svids.retain(|_, svid| svid.ends > now);
    }

    /// The CAs that sign, DER, one behind the other.
    pub fn bundle(&self) -> &[u8] {
        &self.shown.told.bundle
    }

    /// What programs can be given.
    pub fn shown(&self) -> Shown {
        self.shown.clone()
    }

    /// How long until something is to be done.
    pub fn wait(&self, now: Instant) -> Duration {
        let dues = self.shown.svids.values().map(|svid| svid.renew).chain(self.tried.values().copied());
        let next = dues.map(|due| due.since(now)).min().unwrap_or(WORKLOAD_ASK_EVERY);
        next.clamp(Duration::from_millis(200), WORKLOAD_ASK_EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(n: u8, name: &str) -> Named {
        Named {
            registration: RegistrationId::from_bytes([n; 10]),
            spiffe: format!("spiffe://corp.example/workload/deploy/{name}").parse().unwrap(),
            uid: Some(1),
            gid: None,
        }
    }
    fn told(named: &[Named]) -> Identities {
        Identities { trust_domain: "corp.example".into(), named: named.to_vec(), ..Identities::default() }
    }
    const fn at(seconds: u64) -> Instant {
        Instant(1_000_000_000_000 + seconds * 1_000_000_000)
    }
    fn make(shelf: &mut Shelf, n: u8, asked: u64) {
        let id = RegistrationId::from_bytes([n; 10]);
        shelf.made(at(asked), id, vec![n], Secret::new(vec![n]), Duration::from_secs(100));
    }

    #[test]
    fn a_certificate_is_made_once_and_again_at_half_of_its_life() {
        let mut shelf = Shelf::default();
        let web = [named(1, "web")];
        assert_eq!(shelf.told(at(0), told(&web)), web);
        make(&mut shelf, 1, 0);
        assert!(shelf.told(at(49), told(&web)).is_empty());
        assert_eq!(shelf.wait(at(49)), Duration::from_secs(1));
        assert_eq!(shelf.told(at(50), told(&web)), web);
        assert_eq!(shelf.shown().svids.len(), 1, "the old one serves until there is another");
        make(&mut shelf, 1, 50);
        assert!(shelf.told(at(99), told(&web)).is_empty());
        assert_eq!(shelf.wait(at(51)), WORKLOAD_ASK_EVERY, "registrations are asked for all the same");
    }

    #[test]
    fn what_is_not_registered_any_more_or_ended_is_given_to_nobody() {
        let mut shelf = Shelf::default();
        let both = [named(1, "web"), named(2, "mail")];
        assert_eq!(shelf.told(at(0), told(&both)).len(), 2);
        make(&mut shelf, 1, 0);
        make(&mut shelf, 2, 0);
        assert!(shelf.told(at(1), told(&both[..1])).is_empty());
        assert_eq!(shelf.shown().svids.len(), 1);
        shelf.expire(at(99));
        assert_eq!(shelf.shown().svids.len(), 1);
        shelf.expire(at(100));
        assert!(shelf.shown().svids.is_empty());
        make(&mut shelf, 1, 100);
        let renamed = [named(1, "shop")];
        assert_eq!(shelf.told(at(101), told(&renamed)), renamed, "another name, another certificate");
        assert!(shelf.shown().svids.is_empty());
    }

    #[test]
    fn another_bundle_means_another_certificate() {
        let mut shelf = Shelf::default();
        let web = [named(1, "web")];
        shelf.told(at(0), told(&web));
        make(&mut shelf, 1, 0);
        let next = Identities { bundle: vec![9], ..told(&web) };
        assert_eq!(shelf.told(at(1), next).len(), 1);
        assert!(shelf.shown().svids.is_empty());
    }

    #[test]
    fn what_was_not_to_be_had_is_asked_for_after_a_pause() {
        let mut shelf = Shelf::default();
        let web = [named(1, "web")];
        assert_eq!(shelf.told(at(0), told(&web)).len(), 1);
        shelf.failed(at(0), web[0].registration);
        assert!(shelf.told(at(4), told(&web)).is_empty());
        assert_eq!(shelf.wait(at(4)), Duration::from_secs(1));
        assert_eq!(shelf.told(at(5), told(&web)).len(), 1);
    }
}
