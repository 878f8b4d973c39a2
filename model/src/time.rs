//! What is "now"? One reading of both clocks, and an elapsed time that no clock trick can shorten.
//!
//! A lease must end although a laptop slept (the monotonic clock may stop) and although somebody set the wall clock
//! back. So elapsed time is the larger of what the boot clock (CLOCK_BOOTTIME) and the wall clock advanced.

use std::time::Duration;

/// Nanoseconds since the program's own start, counting suspend; never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// A time that is never reached.
    pub const NEVER: Self = Self(u64::MAX);

    /// This time and `by`, saturating.
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Milliseconds since the Unix epoch, by the wall clock. Only for people, certificates and records; never for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct WallMs(pub i64);

impl WallMs {
    /// This time and `by`, saturating.
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }
    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Where time comes from. `host::clock` reads the system's; tests hold a virtual one.
pub trait Clock: Send + Sync {
    /// Elapsed time, see [`LeaseClock`].
    fn now(&self) -> Instant;
    /// The wall clock.
    fn wall(&self) -> WallMs;
}

/// Combines both clocks into one elapsed time that runs at least as fast as either of them.
#[derive(Debug, Clone)]
pub struct LeaseClock {
    boot_start: u64,
    wall_start: i64,
    lead: u64,
    last: u64,
}

impl LeaseClock {
    /// Starts at the given readings: boot clock in nanoseconds, wall clock in nanoseconds since the epoch.
    pub const fn new(boot_ns: u64, wall_ns: i64) -> Self {
        Self { boot_start: boot_ns, wall_start: wall_ns, lead: 0, last: 0 }
    }

    /// The elapsed time at these readings. A wall clock that was set forward stays counted: what it ended stays ended.
    pub fn advance(&mut self, boot_ns: u64, wall_ns: i64) -> Instant {
        let boot = boot_ns.saturating_sub(self.boot_start);
        let wall = u64::try_from(wall_ns.saturating_sub(self.wall_start)).unwrap_or(0);
        // The largest lead ever seen, not the sum of steps: jitter between two readings must not add up.
        self.lead = self.lead.max(wall.saturating_sub(boot));
        self.last = self.last.max(boot.saturating_add(self.lead));
        Instant(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn suspend_of_the_boot_clock_is_counted_by_the_wall_clock() {
        let mut clock = LeaseClock::new(1_000, 5_000);
        assert_eq!(clock.advance(1_010, 5_010), Instant(10));
        assert_eq!(clock.advance(1_020, 8_000), Instant(3_000));
        // Set back: time goes on from where it was.
        assert_eq!(clock.advance(1_030, -9_000_000), Instant(3_010));
    }

    proptest! {
        #[test]
        fn never_goes_back_and_never_lags(readings in proptest::collection::vec((0u64..1 << 40, -(1i64 << 40)..1 << 40), 1..40)) {
            let mut clock = LeaseClock::new(0, 0);
            let (mut boot, mut last) = (0, Instant(0));
            for (step, wall) in readings {
                boot += step;
                let now = clock.advance(boot, wall);
                prop_assert!(now >= last);
                prop_assert!(now.0 >= boot && i128::from(now.0) >= i128::from(wall));
                last = now;
            }
        }
    }
}
