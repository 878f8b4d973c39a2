//! Which tunnels have something due? A queue of due times, so that time passing costs nothing for those that are idle.
//!
//! A tunnel stands in it at most once, under its index: as many entries as there are peers, and nothing for one that waits
//! for nothing. A due time only ever moves forward here, except when it is taken out: who is asked too early says so and is
//! asked again.

use model::time::Instant;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where one tunnel stands in the queue.
#[derive(Debug)]
pub struct Place(AtomicU64);

impl Default for Place {
    fn default() -> Self {
        Self(AtomicU64::new(Instant::NEVER.0))
    }
}

impl Place {
    fn at(&self) -> Instant {
        Instant(self.0.load(Ordering::Relaxed))
    }
    /// Comes its turn no later than that?
    pub fn is_by(&self, at: Instant) -> bool {
        self.at() <= at
    }
}

/// The queue of one engine.
#[derive(Debug, Default)]
pub struct Timers {
    queue: Mutex<BTreeSet<(Instant, u32)>>,
    taken: AtomicU64,
}

impl Timers {
    /// The tunnel with this index has its turn then, or before where it stands earlier already.
    pub fn put(&self, place: &Place, index: u32, at: Instant) {
        if place.is_by(at) {
            return;
        }
        let mut queue = self.queue.lock();
        // Another thread may have been here since; the place is changed under this lock only.
        let old = place.at();
        if at < old {
            queue.remove(&(old, index));
            queue.insert((at, index));
            place.0.store(at.0, Ordering::Relaxed);
        }
    }

    /// It has no turn any more.
    pub fn remove(&self, place: &Place, index: u32) {
        let mut queue = self.queue.lock();
        queue.remove(&(place.at(), index));
        place.0.store(Instant::NEVER.0, Ordering::Relaxed);
    }

    /// At most `most` of those whose turn has come, the longest due first. Each is to be given to [`Timers::begin`].
    pub fn due(&self, now: Instant, most: usize) -> Vec<(Instant, u32)> {
        let queue = self.queue.lock();
        queue.range(..=(now, u32::MAX)).take(most).copied().collect()
    }

    /// The tunnel of an entry has its turn now; without one, the entry is of a tunnel that is gone.
    pub fn begin(&self, entry: (Instant, u32), place: Option<&Place>) {
        let mut queue = self.queue.lock();
        if queue.remove(&entry) {
            self.taken.fetch_add(1, Ordering::Relaxed);
            if let Some(place) = place.filter(|place| place.at() == entry.0) {
                place.0.store(Instant::NEVER.0, Ordering::Relaxed);
            }
        }
    }

    /// When the next turn comes.
    pub fn next(&self) -> Instant {
        self.queue.lock().first().map_or(Instant::NEVER, |entry| entry.0)
    }

    /// How many tunnels stand here.
    pub fn len(&self) -> usize {
        self.queue.lock().len()
    }

    /// None?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many turns there were.
    pub fn turns(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_stands_there_once_at_its_earliest_time() {
        let (timers, place) = (Timers::default(), Place::default());
        timers.put(&place, 7, Instant(500));
        timers.put(&place, 7, Instant(900));
        timers.put(&place, 7, Instant(300));
        timers.put(&place, 7, Instant(400));
        assert_eq!((timers.len(), timers.next()), (1, Instant(300)));
        assert!(place.is_by(Instant(300)) && !place.is_by(Instant(299)));
        assert_eq!(timers.due(Instant(299), 9), []);
        assert_eq!(timers.due(Instant(300), 9), [(Instant(300), 7)]);
        timers.begin((Instant(300), 7), Some(&place));
        assert_eq!((timers.len(), timers.next(), timers.turns()), (0, Instant::NEVER, 1));
        timers.put(&place, 7, Instant(900));
        assert_eq!(timers.next(), Instant(900), "after its turn it may stand later");
        timers.remove(&place, 7);
        assert!(timers.is_empty() && !place.is_by(Instant(1_000)));
    }

    #[test]
    fn the_longest_due_come_first_and_no_more_than_asked_for() {
        let (timers, places) = (Timers::default(), [(); 5].map(|()| Place::default()));
        for (index, place) in places.iter().enumerate() {
            timers.put(place, index as u32, Instant(100 - index as u64));
        }
        assert_eq!(timers.due(Instant(99), 2), [(Instant(96), 4), (Instant(97), 3)]);
        // One that is gone leaves no entry behind.
        timers.begin((Instant(96), 4), None);
        assert_eq!(timers.len(), 4);
    }
}
