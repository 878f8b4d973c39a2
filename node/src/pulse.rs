//! Does a thread, or a task, still get on? It says when it begins with something and when it waits again; who began long ago
//! and has not come back is stuck.

use model::limits::STUCK_AFTER;
use model::time::Instant;
use std::sync::atomic::{AtomicU64, Ordering};

/// The pulse of one thread or task.
#[derive(Debug, Default)]
pub struct Pulse {
    /// When it began with what it does, nanoseconds and one; 0 while it waits.
    since: AtomicU64,
}

impl Pulse {
    /// It is at work from now on. For a task that is never away for long, each of its turns.
    pub fn begin(&self, now: Instant) {
        self.since.store(now.0.saturating_add(1), Ordering::Relaxed);
    }

    /// It waits for something to do.
    pub fn rest(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// Whether it has been at one thing for longer than [`STUCK_AFTER`], or came to its end in the middle.
    pub fn is_stuck(&self, now: Instant) -> bool {
        let since = self.since.load(Ordering::Relaxed);
        since > 0 && now.since(Instant(since.saturating_sub(1))) > STUCK_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn who_began_long_ago_is_stuck_and_who_waits_is_not() {
        let (pulse, start) = (Pulse::default(), Instant(0));
        let late = start.plus(STUCK_AFTER + Duration::from_millis(1));
        assert!(!pulse.is_stuck(late), "it has not begun with anything");
        pulse.begin(start);
        assert!(!pulse.is_stuck(start.plus(STUCK_AFTER)) && pulse.is_stuck(late));
        pulse.begin(late);
        assert!(!pulse.is_stuck(late));
        pulse.rest();
        assert!(!pulse.is_stuck(Instant::NEVER));
    }
}
