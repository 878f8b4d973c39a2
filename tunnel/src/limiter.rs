//! How many of a thing may happen in a second? Knocks; handshakes are counted by each door.

use model::time::Instant;
use parking_lot::Mutex;
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
}
