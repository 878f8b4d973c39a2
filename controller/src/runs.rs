//! Is a node's identity used by two programs at once? Each run of a node's program has a random number, in its memory alone, which
//! comes with each sign of life. A restart has another one, and the one before is never heard again. Whoever copied the folder of
//! a node's state has a number, too: then a run that was followed by another speaks again. Pure: time is passed in.

use model::ids::NodeId;
use model::limits::{COPY_STRIKES, RUN_ID_LEN, RUNS_MAX, RUNS_PER_NODE_MAX};
use model::time::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

/// The number of one run.
pub type RunId = [u8; RUN_ID_LEN];

/// What is known of one node.
#[derive(Debug)]
struct Known {
    current: RunId,
    /// Those before, the newest last.
    past: VecDeque<RunId>,
    /// How often one of them spoke again.
    strikes: u32,
    heard: Instant,
}

/// Which runs spoke.
#[derive(Debug, Default)]
pub struct Runs(BTreeMap<NodeId, Known>);

/// Shared by all who hear nodes.
pub type SharedRuns = Arc<Mutex<Runs>>;

impl Runs {
    /// A run of a node has spoken: do two of them live? One late word of a run that ended is none.
    pub fn hear(&mut self, now: Instant, node: NodeId, run: RunId) -> bool {
        if self.0.len() >= RUNS_MAX && !self.0.contains_key(&node) {
            let longest_silent = self.0.iter().min_by_key(|(_, known)| known.heard).map(|(node, _)| *node);
            longest_silent.and_then(|node| self.0.remove(&node));
        }
        let first = || Known { current: run, past: VecDeque::new(), strikes: 0, heard: now };
        let known = self.0.entry(node).or_insert_with(first);
        known.heard = now;
        if known.current == run {
            return false;
        }
        if known.past.contains(&run) {
            known.strikes = known.strikes.saturating_add(1);
            return known.strikes >= COPY_STRIKES;
        }
        if known.past.len() >= RUNS_PER_NODE_MAX {
            known.past.pop_front();
        }
        known.past.push_back(std::mem::replace(&mut known.current, run));
        false
    }

    /// When the node was last heard, if it was.
    pub fn heard(&self, node: NodeId) -> Option<Instant> {
        self.0.get(&node).map(|known| known.heard)
    }

    /// The node is cut off: nothing more is to be known of it.
    pub fn forget(&mut self, node: NodeId) {
        self.0.remove(&node);
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
    fn run(number: u8) -> RunId {
        [number; RUN_ID_LEN]
    }
    fn at(second: u64) -> Instant {
        Instant(second * 1_000_000_000)
    }

    #[test]
    fn restarts_are_none_and_two_that_speak_in_turns_are_found() {
        let mut runs = Runs::default();
        for number in 0..100 {
            for _ in 0..3 {
                assert!(!runs.hear(at(number), node(1), run(number as u8)), "a restart");
            }
        }
        // A late word of the run before, while the new one speaks on.
        assert!(!runs.hear(at(100), node(1), run(98)));
        for second in 100..200 {
            assert!(!runs.hear(at(second), node(1), run(99)));
        }
        let mut runs = Runs::default();
        let found = (0..).find(|turn| runs.hear(at(*turn), node(1), run((turn % 2) as u8))).unwrap();
        assert_eq!(found, 4, "original, copy, original, copy, original");
        runs.forget(node(1));
        assert!(!runs.hear(at(9), node(1), run(0)));
        // Others have nothing to do with it.
        let mut runs = Runs::default();
        for turn in 0..100 {
            assert!(!runs.hear(at(turn), node(turn), run((turn % 2) as u8)));
        }
    }

    #[test]
    fn what_is_known_is_bounded_and_the_longest_silent_goes() {
        let mut runs = Runs::default();
        for number in 0..RUNS_MAX as u64 + 10 {
            runs.hear(at(number), node(number), run(1));
        }
        assert_eq!(runs.0.len(), RUNS_MAX);
        assert!(!runs.0.contains_key(&node(9)) && runs.0.contains_key(&node(10)));
        for number in 0..=u8::MAX {
            runs.hear(at(1_000_000), node(10), run(number));
        }
        assert_eq!(runs.0[&node(10)].past.len(), RUNS_PER_NODE_MAX);
        assert_eq!(COPY_STRIKES, 2, "one late word is none");
    }
}
