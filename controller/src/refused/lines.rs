//! How many lines of the log may those take who are turned away? The first of each is told at once; what follows is one line with a
//! count for each of them when the time is over, and whoever finds no room shares one with all others. Pure: whoever calls keeps the time.

use super::Reason;
use model::limits::REFUSED_TOLD_MAX;
use std::collections::BTreeMap;
use std::mem;

/// Whom a line is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// One, for one reason.
    One((Reason, String)),
    /// All who found no room, whatever the reasons.
    Others,
}

/// What was not told yet, while the time runs.
#[derive(Debug, Default)]
pub struct Lines {
    runs: bool,
    untold: BTreeMap<(Reason, String), u64>,
    others: u64,
}

/// What to do about one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added {
    /// Write a line.
    pub told: bool,
    /// The time begins to run: call [`Lines::end`] when it is over.
    pub opens: bool,
}

impl Lines {
    /// One more of somebody.
    pub fn add(&mut self, who: (Reason, String)) -> Added {
        let opens = !mem::replace(&mut self.runs, true);
        let room = self.untold.len() < REFUSED_TOLD_MAX;
        let told = match self.untold.get_mut(&who) {
            Some(untold) => {
                *untold += 1;
                false
            }
            None if room => {
                self.untold.insert(who, 0);
                true
            }
            None => {
                self.others += 1;
                false
            }
        };
        Added { told, opens }
    }

    /// The time is over: the lines that are due. It runs again for those of whom there was something to tell; none where there was
    /// nothing, and then whoever comes next is news.
    pub fn end(&mut self) -> Option<Vec<(Who, u64)>> {
        self.untold.retain(|_, count| *count > 0);
        let others = mem::take(&mut self.others);
        self.runs = !self.untold.is_empty() || others > 0;
        let each = self.untold.iter_mut().map(|(who, count)| (Who::One(who.clone()), mem::take(count)));
        let lines = each.chain((others > 0).then_some((Who::Others, others))).collect();
        self.runs.then_some(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(number: usize) -> (Reason, String) {
        (Reason::Call, format!("caller {number:04}"))
    }

    #[test]
    fn one_is_told_at_once_and_then_counted() {
        let mut lines = Lines::default();
        assert_eq!(lines.add(caller(1)), Added { told: true, opens: true });
        for _ in 0..500 {
            assert_eq!(lines.add(caller(1)), Added { told: false, opens: false });
        }
        assert_eq!(lines.add(caller(2)), Added { told: true, opens: false });
        assert_eq!(lines.end(), Some(vec![(Who::One(caller(1)), 500)]));
        // Who goes on is no news; who came once and comes again is.
        assert_eq!(lines.add(caller(1)), Added { told: false, opens: false });
        assert_eq!(lines.add(caller(2)), Added { told: true, opens: false });
        assert_eq!(lines.end(), Some(vec![(Who::One(caller(1)), 1)]));
        assert_eq!(lines.end(), None);
        assert_eq!(lines.add(caller(1)), Added { told: true, opens: true });
    }

    #[test]
    fn so_many_are_told_apart_and_the_next_when_one_is_quiet() {
        let mut lines = Lines::default();
        let mut written = 0;
        for _ in 0..3 {
            written += (0..10_000).filter(|n| lines.add(caller(*n)).told).count();
        }
        assert_eq!(written, REFUSED_TOLD_MAX);
        assert_eq!(lines.untold.len(), REFUSED_TOLD_MAX);
        let told = lines.end().unwrap();
        assert_eq!(told.len(), REFUSED_TOLD_MAX + 1);
        let others = 3 * (10_000 - REFUSED_TOLD_MAX as u64);
        assert_eq!(told.last(), Some(&(Who::Others, others)), "nothing is lost");
        // All but one of them go on: there is room for one more.
        assert!((1..REFUSED_TOLD_MAX).all(|n| !lines.add(caller(n)).told));
        lines.end();
        assert!(lines.add(caller(9_999)).told);
        assert!(!lines.add(caller(9_998)).told);
    }
}
