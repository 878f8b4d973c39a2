//! Which destinations take no segmented messages of a size? Remembered for a while, so that not every train is tried twice.

use model::limits::{NARROW_PATH_LIFE, NARROW_PATHS_MAX};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// One destination.
#[derive(Debug, Clone, Copy)]
struct Path {
    to: IpAddr,
    /// The smallest segment that was refused, bytes.
    refused: usize,
    until: Instant,
}

/// What a socket remembers.
#[derive(Debug)]
pub struct NarrowPaths {
    /// Whether there is anything to look up: mostly not, and then nobody takes the lock.
    any: AtomicBool,
    paths: Mutex<[Option<Path>; NARROW_PATHS_MAX]>,
}

impl Default for NarrowPaths {
    fn default() -> Self {
        Self { any: AtomicBool::new(false), paths: Mutex::new([None; NARROW_PATHS_MAX]) }
    }
}

impl NarrowPaths {
    /// Whether segments of this size were refused on the way there, not long ago.
    pub fn refuses(&self, to: IpAddr, segment: usize) -> bool {
        self.any.load(Ordering::Relaxed) && self.refuses_at(Instant::now(), to, segment)
    }

    /// Remembers that they were.
    pub fn note(&self, to: IpAddr, segment: usize) {
        self.note_at(Instant::now(), to, segment);
    }

    fn refuses_at(&self, now: Instant, to: IpAddr, segment: usize) -> bool {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        for slot in paths.iter_mut() {
            if slot.is_some_and(|path| path.until <= now) {
                *slot = None;
            }
        }
        self.any.store(paths.iter().any(Option::is_some), Ordering::Relaxed);
        paths.iter().flatten().any(|path| path.to == to && segment >= path.refused)
    }

    fn note_at(&self, now: Instant, to: IpAddr, segment: usize) {
        let Some(until) = now.checked_add(NARROW_PATH_LIFE) else {
            return;
        };
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = paths.iter_mut().flatten().find(|path| path.to == to) {
            // It ends when it would have: a path that got wide is seen even under steady traffic.
            path.refused = path.refused.min(segment);
        } else if let Some(slot) = paths.iter_mut().min_by_key(|slot| slot.map(|path| path.until)) {
            // A free slot comes first, then the one that ends first.
            *slot = Some(Path { to, refused: segment, until });
        }
        self.any.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn to(number: u8) -> IpAddr {
        [192, 0, 2, number].into()
    }

    #[test]
    fn a_narrow_path_is_known_until_its_time_is_over() {
        let (paths, now) = (NarrowPaths::default(), Instant::now());
        assert!(!paths.refuses(to(1), 1_452));
        paths.note_at(now, to(1), 1_452);
        paths.note_at(now, to(1), 1_300);
        assert!(paths.refuses_at(now, to(1), 1_452));
        assert!(paths.refuses_at(now, to(1), 1_300));
        assert!(!paths.refuses_at(now, to(1), 1_299), "a smaller one may pass");
        assert!(!paths.refuses_at(now, to(2), 1_452));
        assert!(!paths.refuses_at(now + NARROW_PATH_LIFE, to(1), 1_452));
        assert!(!paths.any.load(Ordering::Relaxed), "nothing is left to look up");
    }

    #[test]
    fn a_full_memory_forgets_the_oldest() {
        let (paths, now) = (NarrowPaths::default(), Instant::now());
        let later = |number: u8| now + Duration::from_millis(number.into());
        let last = u8::try_from(NARROW_PATHS_MAX).expect("small");
        for number in 0..=last {
            paths.note_at(later(number), to(number), 1_452);
        }
        assert!(!paths.refuses_at(later(last), to(0), 1_452));
        for number in 1..=last {
            assert!(paths.refuses_at(later(last), to(number), 1_452), "{number}");
        }
    }
}
