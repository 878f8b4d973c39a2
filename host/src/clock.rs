//! What time does the machine say? CLOCK_BOOTTIME, which counts suspend, and CLOCK_REALTIME, combined by `LeaseClock`.
#![allow(unsafe_code)]

use model::time::{Clock, Instant, LeaseClock, WallMs};
use std::sync::{Mutex, PoisonError};

/// The system's clocks. One for a program, shared by reference: instants of two of them cannot be compared.
#[derive(Debug)]
pub struct SystemClock(Mutex<LeaseClock>);

impl SystemClock {
    /// Starts counting now.
    pub fn new() -> Self {
        Self(Mutex::new(LeaseClock::new(boot_ns(), wall_ns())))
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        let mut clock = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        clock.advance(boot_ns(), wall_ns())
    }
    fn wall(&self) -> WallMs {
        WallMs(wall_ns() / 1_000_000)
    }
}

/// Nanoseconds since the machine booted, suspend included.
fn boot_ns() -> u64 {
    u64::try_from(read(libc::CLOCK_BOOTTIME)).unwrap_or(0)
}

/// Nanoseconds since the Unix epoch, by the wall clock.
fn wall_ns() -> i64 {
    read(libc::CLOCK_REALTIME)
}

fn read(id: libc::clockid_t) -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which outlives the call. Both clocks exist since Linux 2.6.39, so the
    // call cannot fail; if it did, zero would only make the other clock decide.
    unsafe { libc::clock_gettime(id, &raw mut time) };
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn it_runs_at_least_as_fast_as_the_standard_clock() {
        let clock = SystemClock::new();
        let (start, reference) = (clock.now(), std::time::Instant::now());
        while reference.elapsed() < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        assert!(clock.now().since(start) >= Duration::from_millis(5));
    }

    #[test]
    fn threads_see_one_time_that_never_goes_back() {
        let clock = SystemClock::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut last = clock.now();
                    for _ in 0..10_000 {
                        let now = clock.now();
                        assert!(now >= last);
                        last = now;
                    }
                });
            }
        });
    }

    #[test]
    fn the_wall_clock_is_the_systems() {
        let system = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let ours = SystemClock::new().wall().0;
        assert!(ours.abs_diff(i64::try_from(system.as_millis()).expect("fits")) < 60_000);
    }
}
