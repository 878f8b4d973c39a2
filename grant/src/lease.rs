//! When does a permission end, and when is it time to renew it? Arithmetic only.
//!
//! The controller counts a life from the moment at which it decided; a gateway counts it from the moment at which it
//! *sent* the request that the answer names. Sending comes before receiving, so a gateway's end never lies later than the
//! controller's, however long a message was under way.

use model::limits::PROBE_EVERY;
use model::time::{Instant, WallMs};
use std::time::Duration;

/// One reading of both clocks, by which ends are written to the store (wall) and read back (elapsed).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Elapsed time.
    pub now: Instant,
    /// The wall clock at the same moment.
    pub wall: WallMs,
}

impl Moment {
    /// The wall clock's reading at `at`, milliseconds, rounded down: a record never says more than was granted.
    pub fn to_wall(self, at: Instant) -> WallMs {
        if at >= self.now {
            return self.wall.plus(at.since(self.now));
        }
        let ago = i64::try_from(self.now.since(at).as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX);
        WallMs(self.wall.0.saturating_sub(ago))
    }

    /// The elapsed time at which the wall clock reads `wall`; the program's start when that was before it.
    pub fn to_instant(self, wall: WallMs) -> Instant {
        if wall >= self.wall {
            return self.now.plus(wall.since(self.wall));
        }
        let ago = u64::try_from(self.wall.since(wall).as_nanos()).unwrap_or(u64::MAX);
        Instant(self.now.0.saturating_sub(ago))
    }
}

/// The controller's end of a grant that is given or renewed `now`: the lease, but never beyond what it stands on.
pub fn end(now: Instant, lease: Duration, until: Instant) -> Instant {
    now.plus(lease).min(until)
}

/// A gateway's end: `ends_in` from `base` (the sending of its own request), and never beyond the lease from there.
pub fn end_on_gateway(base: Instant, ends_in: Duration, lease: Duration) -> Instant {
    base.plus(ends_in.min(lease))
}

/// When to renew a life from `base` to `end`: at two thirds of it.
pub fn due(base: Instant, end: Instant) -> Instant {
    let life = end.since(base);
    base.plus(life / 3 * 2)
}

/// Is at most half of a lease left, and the age of the request from which the gateway counts? The controller extends only
/// then: earlier than a gateway's two thirds, so that each request that is due finds its grants ready, and a request in
/// between costs no writes.
pub fn is_renewable(now: Instant, ends: Instant, lease: Duration) -> bool {
    ends.since(now) <= (lease / 2).saturating_add(PROBE_EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn s(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    #[test]
    fn an_end_is_the_nearer_of_lease_and_ground() {
        assert_eq!(end(s(10), Duration::from_secs(60), s(30)), s(30));
        assert_eq!(end(s(10), Duration::from_secs(5), s(30)), s(15));
        assert_eq!(end(s(10), Duration::MAX, Instant::NEVER), Instant::NEVER);
        assert_eq!(end_on_gateway(s(10), Duration::from_secs(99), Duration::from_secs(5)), s(15));
    }

    #[test]
    fn renewal_is_asked_for_at_two_thirds_and_given_from_half_on() {
        assert_eq!(due(s(10), s(40)), s(30));
        let lease = Duration::from_secs(30);
        assert!(!is_renewable(s(19), s(40), lease) && is_renewable(s(20), s(40), lease));
        assert_eq!(due(s(40), s(10)), s(40), "a life that is over is due at once");
    }

    proptest! {
        #[test]
        fn a_gateways_end_is_never_later(decided in 0u64..1 << 50, way in 0u64..1 << 40, lease in 1u64..86_400, until in 0u64..1 << 50) {
            // One true time line: sent, received (and decided) `way` later.
            let (sent, received) = (Instant(decided), Instant(decided + way));
            let lease = Duration::from_secs(lease);
            let theirs = end(received, lease, Instant(until));
            let ours = end_on_gateway(sent, theirs.since(received), lease);
            prop_assert!(ours <= theirs.max(sent));
            prop_assert!(due(sent, ours) <= ours && due(sent, ours) >= sent);
        }

        #[test]
        fn what_a_gateway_finds_due_is_renewable(age in 0u64..=5_000, lease in 1u64..86_400) {
            // It counts from its latest request, which may be as old as the pause between two.
            let (sent, decided) = (s(100), s(100).plus(Duration::from_millis(age)));
            let lease = Duration::from_secs(lease);
            let theirs = end(decided, lease, Instant::NEVER);
            let asks = due(sent, end_on_gateway(sent, lease, lease)).max(decided);
            prop_assert!(is_renewable(asks, theirs, lease));
        }

        #[test]
        fn records_never_lengthen_a_life(now in 0u64..1 << 50, wall in 0i64..1 << 45, at in 0u64..1 << 50) {
            let moment = Moment { now: Instant(now), wall: WallMs(wall) };
            let back = moment.to_instant(moment.to_wall(Instant(at)));
            prop_assert!(back.0 <= at && at - back.0 <= 1_000_000);
        }

        #[test]
        fn any_clock_is_survived(now: u64, wall: i64, at: u64, other: i64) {
            let moment = Moment { now: Instant(now), wall: WallMs(wall) };
            let _ = moment.to_wall(Instant(at));
            let _ = moment.to_instant(WallMs(other));
        }
    }
}
