//! How many of a thing may happen in a second? Knocks, and under load the handshakes of one source.
//!
//! The load itself, and cookies, are counted by each door.

use model::limits::{HANDSHAKE_SOURCES, HANDSHAKES_PER_SECOND, HANDSHAKES_PER_SOURCE};
use model::time::Instant;
use parking_lot::Mutex;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::Duration;

/// A count that starts anew each second. Not exact at the seams, which is good enough against floods.
pub struct PerSecond {
    limit: u64,
    state: Mutex<(Instant, u64)>,
}

impl PerSecond {
    /// At most `limit` in a second.
    pub const fn new(limit: u64) -> Self {
        Self { limit, state: Mutex::new((Instant(0), 0)) }
    }

    /// One more: is it within the limit?
    pub fn admit(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        if now.since(state.0) >= Duration::from_secs(1) {
            *state = (now, 0);
        }
        state.1 = state.1.saturating_add(1);
        state.1 <= self.limit
    }
}

/// Handshakes by source address. A cookie proves an address and a port, so whoever has one real address could otherwise ask for as
/// many Diffie-Hellmans as fit through his line.
pub struct Sources {
    seed: [u8; 32],
    state: Mutex<Counted>,
}

struct Counted {
    since: Instant,
    all: u64,
    slots: Vec<u16>,
}

impl Sources {
    /// `seed` is random: nobody chooses with whom he shares a slot.
    pub fn new(seed: [u8; 32]) -> Self {
        Self { seed, state: Mutex::new(Counted { since: Instant(0), all: 0, slots: vec![0; HANDSHAKE_SOURCES] }) }
    }

    /// One more handshake, its cookie checked if one was asked for: is it within its source's share?
    pub fn admit(&self, now: Instant, source: IpAddr) -> bool {
        let slot = self.slot(source);
        let mut state = self.state.lock();
        if now.since(state.since) >= Duration::from_secs(1) {
            state.since = now;
            state.all = 0;
            state.slots.fill(0);
        }
        state.all = state.all.saturating_add(1);
        let load = state.all > HANDSHAKES_PER_SECOND;
        state.slots.get_mut(slot).is_some_and(|count| {
            *count = count.saturating_add(1);
            !load || *count <= HANDSHAKES_PER_SOURCE
        })
    }

    fn slot(&self, source: IpAddr) -> usize {
        let mut hasher = DefaultHasher::new();
        self.seed.hash(&mut hasher);
        match source {
            IpAddr::V4(a) => a.hash(&mut hasher),
            // Whoever has one address of a /64 has all of them.
            IpAddr::V6(a) => a.octets().get(..8).hash(&mut hasher),
        }
        usize::try_from(hasher.finish() % HANDSHAKE_SOURCES as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_admits_its_limit_and_the_next_one_again() {
        let limiter = PerSecond::new(3);
        let at = |ms: u64| Instant(ms * 1_000_000);
        let admitted = (0..10).filter(|i| limiter.admit(at(5_000 + i))).count();
        assert_eq!(admitted, 3);
        assert!(!limiter.admit(at(5_999)));
        assert!(limiter.admit(at(6_000)));
    }

    #[test]
    fn under_load_a_source_has_its_share_and_others_theirs() {
        let sources = Sources::new([7; 32]);
        let now = Instant(5_000_000_000);
        let (flood, laptop) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([198, 51, 100, 1]));
        let admitted = (0..HANDSHAKES_PER_SECOND * 3).filter(|_| sources.admit(now, flood)).count() as u64;
        assert_eq!(admitted, HANDSHAKES_PER_SECOND, "without load nobody is counted");
        assert!(sources.admit(now, laptop));
        assert!(sources.admit(now.plus(Duration::from_secs(1)), flood));
    }

    #[test]
    fn under_load_a_source_gets_exactly_its_share_and_the_next_second_all_again() {
        let sources = Sources::new([7; 32]);
        let now = Instant(5_000_000_000);
        // As many sources as it takes, none of them past its own share.
        let crowd = |n: u64| IpAddr::from([203, 0, (n >> 8) as u8, n as u8]);
        assert!((0..HANDSHAKES_PER_SECOND).all(|n| sources.admit(now, crowd(n))));
        let honest = (0..u32::MAX).map(|n| IpAddr::V4(n.into())).find(|source| {
            let slot = sources.slot(*source);
            (0..HANDSHAKES_PER_SECOND).all(|n| sources.slot(crowd(n)) != slot)
        });
        let honest = honest.unwrap();
        let admitted = (0..4 * HANDSHAKES_PER_SOURCE).filter(|_| sources.admit(now, honest)).count();
        assert_eq!(admitted, usize::from(HANDSHAKES_PER_SOURCE));
        assert!(sources.admit(now.plus(Duration::from_secs(1)), honest), "a second later");
    }

    #[test]
    fn more_sources_than_slots_share_them() {
        let sources = Sources::new([7; 32]);
        let now = Instant(5_000_000_000);
        for n in 0..2 * HANDSHAKE_SOURCES as u32 {
            assert!(sources.admit(now, IpAddr::V4(n.into())), "each has spoken once or some times");
        }
        let counted = sources.state.lock();
        assert_eq!(counted.slots.len(), HANDSHAKE_SOURCES);
        assert!(counted.slots.iter().any(|count| *count > 1));
    }

    #[test]
    fn an_ipv6_source_is_its_64() {
        let sources = Sources::new([7; 32]);
        let at = |last: u16, net: u16| IpAddr::from([0x2001, 0xdb8, 0, net, 0, 0, 0, last]);
        assert_eq!(sources.slot(at(1, 1)), sources.slot(at(2, 1)));
        assert!((2..20).any(|net| sources.slot(at(1, net)) != sources.slot(at(1, 1))));
    }
}
