//! How do refused requests reach the audit trail without letting anybody buy disk writes with them?
//!
//! The first refusal of its kind (actor, action, object, reason) is written at once; equal ones within [`DENY_WINDOW`]
//! are counted and become one record when the window ends. Past the bounds, kinds are no longer told apart but still
//! counted. So writes are bounded by the size of the table for each window, whatever is sent.

use std::collections::BTreeMap;
use std::time::Duration;

use model::limits::{DENY_KEYS_MAX, DENY_KEYS_PER_ACTOR_MAX, DENY_WINDOW};
use model::time::{Instant, WallMs};

use super::{Entry, Outcome};

/// One kind of refusal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Denied {
    /// Who asked.
    pub actor: String,
    /// What was asked.
    pub action: String,
    /// For what.
    pub object: String,
    /// Why not.
    pub reason: String,
}

#[derive(Debug)]
struct Count {
    ends: Instant,
    more: u64,
}

/// Counts equal refusals. Pure: time is passed in.
#[derive(Debug, Default)]
pub struct DenyAggregator {
    kinds: BTreeMap<Denied, Count>,
    actors: BTreeMap<String, usize>,
}

const OTHERS: &str = "*";

impl DenyAggregator {
    /// Takes a refusal. An entry comes back when it has to be written at once.
    pub fn record(&mut self, now: Instant, at: WallMs, denied: Denied) -> Option<Entry> {
        let kind = self.kind(denied);
        if let Some(count) = self.kinds.get_mut(&kind) {
            count.more = count.more.saturating_add(1);
            return None;
        }
        let ends = now.plus(DENY_WINDOW);
        *self.actors.entry(kind.actor.clone()).or_default() += 1;
        self.kinds.insert(kind.clone(), Count { ends, more: 0 });
        Some(entry(at, &kind))
    }

    /// The kind under which a refusal is counted: its own while there is room, else one for the rest.
    fn kind(&self, denied: Denied) -> Denied {
        if self.kinds.contains_key(&denied) {
            return denied;
        }
        let rest = |actor: String| Denied {
            actor,
            action: OTHERS.to_owned(),
            object: OTHERS.to_owned(),
            reason: "more refusals than are told apart".to_owned(),
        };
        if self.actors.get(&denied.actor).is_some_and(|kinds| *kinds >= DENY_KEYS_PER_ACTOR_MAX) {
            return rest(denied.actor);
        }
        if self.kinds.len() >= DENY_KEYS_MAX {
            return rest(OTHERS.to_owned());
        }
        denied
    }

    /// The entries of the windows that have ended: those in which more refusals came.
    pub fn due(&mut self, now: Instant, at: WallMs) -> Vec<Entry> {
        let ended: Vec<_> = self.kinds.extract_if(.., |_, count| count.ends <= now).collect();
        ended.into_iter().filter_map(|(kind, count)| self.end(at, &kind, count.more)).collect()
    }

    /// All counts so far, for a shutdown.
    pub fn flush(&mut self, at: WallMs) -> Vec<Entry> {
        let all = std::mem::take(&mut self.kinds);
        all.into_iter().filter_map(|(kind, count)| self.end(at, &kind, count.more)).collect()
    }

    /// When [`Self::due`] has something to do next; [`Instant::NEVER`] when nothing is counted.
    pub fn next_due(&self) -> Instant {
        self.kinds.values().map(|count| count.ends).min().unwrap_or(Instant::NEVER)
    }

    fn end(&mut self, at: WallMs, kind: &Denied, more: u64) -> Option<Entry> {
        if let Some(kinds) = self.actors.get_mut(&kind.actor) {
            *kinds = kinds.saturating_sub(1);
            if *kinds == 0 {
                self.actors.remove(&kind.actor);
            }
        }
        let within = Duration::as_secs(&DENY_WINDOW);
        (more > 0).then(|| entry(at, kind).with("repeated", more).with("within_s", within))
    }
}

fn entry(at: WallMs, kind: &Denied) -> Entry {
    Entry::new(at, &*kind.actor, &*kind.action, &*kind.object, Outcome::Deny).with("reason", &*kind.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(actor: usize, object: usize) -> Denied {
        Denied {
            actor: format!("user:{actor}"),
            action: "connect".into(),
            object: format!("re-{object}"),
            reason: "no policy permits it".into(),
        }
    }
    fn second(s: u64) -> Instant {
        Instant(s * 1_000_000_000)
    }
    const AT: WallMs = WallMs(1_000);

    #[test]
    fn the_first_is_told_at_once_and_the_rest_as_a_count() {
        let mut deny = DenyAggregator::default();
        assert!(deny.record(second(0), AT, denied(1, 1)).is_some());
        for s in 1..50 {
            assert_eq!(deny.record(second(s), AT, denied(1, 1)), None);
        }
        assert_eq!(deny.due(second(59), AT), []);
        assert_eq!(deny.next_due(), second(60));
        let told = deny.due(second(60), AT);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].detail["repeated"], 49);
        assert_eq!(told[0].object, "re-1");
        assert_eq!(deny.next_due(), Instant::NEVER);
        assert!(deny.record(second(61), AT, denied(1, 1)).is_some());
        assert_eq!(deny.due(second(500), AT), [], "a single refusal is told once");
    }

    #[test]
    fn one_actor_cannot_buy_more_writes_than_its_bound() {
        let mut deny = DenyAggregator::default();
        let at_once = (0..100_000).filter(|i| deny.record(second(0), AT, denied(1, *i)).is_some()).count();
        assert_eq!(at_once, DENY_KEYS_PER_ACTOR_MAX + 1);
        assert!(deny.record(second(1), AT, denied(2, 1)).is_some(), "another actor is still told apart");
        let told = deny.due(second(60), AT);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].detail["repeated"], 100_000 - DENY_KEYS_PER_ACTOR_MAX as u64 - 1);
    }

    #[test]
    fn all_actors_together_are_bounded_and_every_refusal_is_counted() {
        let mut deny = DenyAggregator::default();
        let mut told: Vec<_> = (0..50_000).filter_map(|i| deny.record(second(0), AT, denied(i, 0))).collect();
        assert_eq!(told.len(), DENY_KEYS_MAX + 1);
        assert!(deny.kinds.len() <= DENY_KEYS_MAX + 1 && deny.actors.len() <= DENY_KEYS_MAX + 1);
        told.extend(deny.flush(AT));
        let all: u64 = told.iter().map(|e| e.detail.get("repeated").and_then(|n| n.as_u64()).unwrap_or(1)).sum();
        assert_eq!(all, 50_000);
        assert!(deny.kinds.is_empty() && deny.actors.is_empty());
    }
}
