//! How many tokens may the programs of one user have signed? The controller counts a machine as one: without this a program
//! that asks in a loop would leave nothing to the others, not even their certificates. Pure: time is passed in.

use model::limits::{WORKLOAD_TOKENS_PER_MINUTE, WORKLOAD_TOKENS_PER_UID_PER_MINUTE};
use model::time::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// Tokens of the minute that runs.
#[derive(Debug, Default)]
pub struct Turns {
    began: Option<Instant>,
    all: u32,
    of: BTreeMap<u32, u32>,
}

impl Turns {
    /// Takes so many turns at once for this user, or none.
    pub fn take(&mut self, now: Instant, uid: u32, count: usize) -> bool {
        if self.began.is_none_or(|began| now.since(began) >= MINUTE) {
            *self = Self { began: Some(now), ..Self::default() };
        }
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let own = self.of.get(&uid).copied().unwrap_or_default().saturating_add(count);
        let all = self.all.saturating_add(count);
        if own > WORKLOAD_TOKENS_PER_UID_PER_MINUTE || all > WORKLOAD_TOKENS_PER_MINUTE {
            return false;
        }
        self.all = all;
        self.of.insert(uid, own);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::limits::{REGISTRATIONS_PER_ACCOUNT_MAX, WORKLOAD_SIGNINGS_PER_MINUTE};

    const fn at(seconds: u64) -> Instant {
        Instant(1_000_000_000_000 + seconds * 1_000_000_000)
    }

    #[test]
    fn one_user_has_so_many_tokens_a_minute_and_takes_no_others_turns() {
        let mut turns = Turns::default();
        let taken = (0..1_000).filter(|_| turns.take(at(0), 1, 1)).count();
        assert_eq!(taken, WORKLOAD_TOKENS_PER_UID_PER_MINUTE as usize);
        assert!(turns.take(at(59), 2, 30) && !turns.take(at(59), 2, 11), "all or none");
        assert!(turns.take(at(59), 2, 10) && !turns.take(at(59), 3, 1), "all users together have so many");
        assert_eq!(turns.all, WORKLOAD_TOKENS_PER_MINUTE);
        assert!(turns.take(at(60), 3, 1) && turns.take(at(60), 1, 1));
        assert_eq!(turns.of.len(), 2, "who asked a minute ago is forgotten");
    }

    #[test]
    fn tokens_leave_turns_for_a_certificate_of_each_registration_and_one_call_for_all_of_a_user_fits() {
        let left = WORKLOAD_SIGNINGS_PER_MINUTE - WORKLOAD_TOKENS_PER_MINUTE;
        assert!(left as usize >= REGISTRATIONS_PER_ACCOUNT_MAX);
        assert!(Turns::default().take(at(0), 1, REGISTRATIONS_PER_ACCOUNT_MAX));
    }
}
