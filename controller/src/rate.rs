//! How often may one node have something written to disk? So many times at once, and then one after another, evenly: the
//! generic cell rate algorithm (ITU-T I.371), which keeps one moment for each node and kind. Pure: time is passed in.

use model::ids::NodeId;
use model::limits::{
    ADMIN_CHANGES_PER_MINUTE, ADMIN_READS_PER_MINUTE, BREAK_GLASS_PER_MINUTE, FACTOR_CALLS_PER_MINUTE,
    GATEWAY_STARTS_PER_MINUTE, KEY_CHANGES_PER_MINUTE, RATES_MAX, SIGN_INS_PER_MINUTE, SUFFIX_NAMES_PER_MINUTE,
    WORKLOAD_SIGNINGS_PER_MINUTE,
};
use model::time::Instant;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    /// A new name below a suffix.
    Name,
    /// A next control key.
    Key,
    /// A code, or a change, of second factors.
    Factor,
    /// A step of a sign-in at an identity provider.
    SignIn,
    /// A certificate or token of a program.
    Identity,
    /// A change by an administrator at a device.
    AdminChange,
    /// A question of one.
    AdminRead,
    /// A try of a key of the last resort.
    BreakGlass,
    /// A gateway's hello that changes what is known of it.
    Start,
}

impl Act {
    /// How often within [`WINDOW`].
    const fn most(self) -> u32 {
        match self {
            Self::Name => SUFFIX_NAMES_PER_MINUTE,
            Self::Key => KEY_CHANGES_PER_MINUTE,
            Self::Factor => FACTOR_CALLS_PER_MINUTE,
            Self::SignIn => SIGN_INS_PER_MINUTE,
            Self::Identity => WORKLOAD_SIGNINGS_PER_MINUTE,
            Self::AdminChange => ADMIN_CHANGES_PER_MINUTE,
            Self::AdminRead => ADMIN_READS_PER_MINUTE,
            Self::BreakGlass => BREAK_GLASS_PER_MINUTE,
            Self::Start => GATEWAY_STARTS_PER_MINUTE,
        }
    }
}

/// In which time as many as are allowed may come at once.
const WINDOW: Duration = Duration::from_secs(60);

/// What nodes did lately.
#[derive(Debug, Default)]
pub struct Rates {
    /// When all that a node did would have been done, had it done it evenly.
    due: BTreeMap<(Act, NodeId), Instant>,
}

/// Shared by all who change something for a node.
pub type SharedRates = Arc<Mutex<Rates>>;

impl Rates {
    /// Takes one turn; the error says how long to wait for the next.
    pub fn take(&mut self, now: Instant, act: Act, node: NodeId) -> Result<(), Duration> {
        let due = self.due.get(&(act, node)).copied().unwrap_or(now).max(now).plus(WINDOW / act.most());
        let early = due.since(now).saturating_sub(WINDOW);
        if !early.is_zero() {
            return Err(early);
        }
        if self.due.len() >= RATES_MAX && !self.due.contains_key(&(act, node)) {
            self.make_room(now);
        }
        self.due.insert((act, node), due);
        Ok(())
    }

    /// Lets everybody begin anew.
    #[cfg(test)]
    pub fn forget_all(&mut self) {
        self.due.clear();
    }

    fn make_room(&mut self, now: Instant) {
        self.due.retain(|_, due| *due > now);
        while self.due.len() >= RATES_MAX {
            let Some(first) = self.due.iter().min_by_key(|(_, due)| **due).map(|(key, _)| *key) else { return };
            self.due.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::ids::DeviceId;

    fn node(number: u64) -> NodeId {
        let mut id = [0; 10];
        id[..8].copy_from_slice(&number.to_be_bytes());
        NodeId::Device(DeviceId::from_bytes(id))
    }
    fn at(ms: u64) -> Instant {
        Instant(1_000_000_000_000 + ms * 1_000_000)
    }

    #[test]
    fn a_burst_passes_and_then_one_after_another_and_nobody_waits_for_others() {
        let mut rates = Rates::default();
        let taken = (0..1_000).filter(|_| rates.take(at(0), Act::Name, node(1)).is_ok()).count();
        assert_eq!(taken, SUFFIX_NAMES_PER_MINUTE as usize);
        assert_eq!(rates.take(at(0), Act::Name, node(1)), Err(Duration::from_secs(2)));
        assert_eq!(rates.take(at(1_500), Act::Name, node(1)), Err(Duration::from_millis(500)));
        assert_eq!(rates.take(at(0), Act::Name, node(2)), Ok(()));
        // Who asks without end gets one every two seconds, no more.
        let later = (0..60_000).step_by(10).filter(|ms| rates.take(at(*ms), Act::Name, node(1)).is_ok()).count();
        assert_eq!(later, 29);
        assert_eq!(rates.take(at(600_000), Act::Name, node(1)), Ok(()));
    }

    #[test]
    fn what_is_counted_is_bounded_and_the_newest_stays() {
        let mut rates = Rates::default();
        for n in 0..RATES_MAX as u64 + 100 {
            for _ in 0..2 {
                rates.take(at(n / 100), Act::Name, node(n)).unwrap();
            }
        }
        assert_eq!(rates.due.len(), RATES_MAX);
        assert!(!rates.due.contains_key(&(Act::Name, node(0))));
        assert!(rates.due.contains_key(&(Act::Name, node(RATES_MAX as u64 + 99))));
        rates.take(at(600_000), Act::Name, node(0)).unwrap();
        assert_eq!(rates.due.len(), 1, "what is over is forgotten first");
    }
}
