//! What became of the flows that ended here? Their records wait until the controller has them on its disk: they are told
//! again after every break of the stream. What finds no room is counted, and never waits for.

use model::limits::{FLOW_RECORDS_MAX, FLOW_REPORT_MAX};
use model::time::Instant;
use std::collections::VecDeque;
use std::time::Duration;
use tunnel::api::FlowSummary;

/// Reports that are not full go no more often: each is a wait for the controller's disk.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// A report of which nothing is heard for so long is told again: the controller's disk may have been full.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Records that the controller does not have yet, oldest first.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: VecDeque<FlowSummary>,
    /// How many records came before the first that waits.
    gone: u64,
    lost: u64,
    /// The number of the last record that is on its way, and when it is told again.
    sent: Option<(u64, Instant)>,
    /// Before this, only a full report goes.
    due: Instant,
}

/// Records that follow one another.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    /// The number of the first.
    pub first: u64,
    /// Records that found no room since the start.
    pub lost: u64,
    /// They.
    pub flows: Vec<FlowSummary>,
}

impl Outbox {
    /// One more; when there is no room, the oldest goes.
    pub fn push(&mut self, flow: FlowSummary) {
        if self.waiting.len() >= FLOW_RECORDS_MAX && self.waiting.pop_front().is_some() {
            self.gone = self.gone.saturating_add(1);
            self.lost = self.lost.saturating_add(1);
        }
        self.waiting.push_back(flow);
    }

    /// What is to be sent now: nothing while the controller has not said that it keeps what was sent before.
    pub fn next(&mut self, now: Instant) -> Option<Batch> {
        let early = now < self.due && self.waiting.len() < FLOW_REPORT_MAX;
        if self.waiting.is_empty() || self.sent.is_some_and(|(_, again)| now < again) || early {
            return None;
        }
        self.due = now.plus(REPORT_EVERY);
        let flows: Vec<_> = self.waiting.iter().take(FLOW_REPORT_MAX).cloned().collect();
        self.sent = Some((self.gone.saturating_add(flows.len() as u64), now.plus(AGAIN_AFTER)));
        Some(Batch { first: self.gone.saturating_add(1), lost: self.lost, flows })
    }

    /// The controller keeps all up to this number. A word about what was never sent is none.
    pub fn kept(&mut self, up_to: u64) {
        let Some((sent, _)) = self.sent.filter(|(sent, _)| *sent == up_to) else { return };
        while self.gone < sent && self.waiting.pop_front().is_some() {
            self.gone = self.gone.saturating_add(1);
        }
        self.sent = None;
    }

    /// Nothing is waited for any more: the program ends.
    pub const fn hurry(&mut self) {
        self.due = Instant(0);
    }

    /// The stream ended: what was on its way is sent again.
    pub const fn again(&mut self) {
        self.sent = None;
    }

    /// Whether the controller has them all.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::ids::GrantId;
    use model::net::Protocol;
    use model::time::Instant;
    use std::time::Duration;
    use tunnel::api::FlowEnd;

    fn flow(port: u64) -> FlowSummary {
        FlowSummary {
            grant: GrantId::from_bytes([1; 10]),
            protocol: Protocol::Tcp,
            target: [10, 20, 0, 10].into(),
            port: u16::try_from(port % 60_000).unwrap(),
            up: (1, 60),
            down: (1, 60),
            lasted: Duration::from_secs(1),
            last: Instant(port),
            end: FlowEnd::Closed,
        }
    }

    /// What a controller that forgets nothing has.
    fn take(batch: &Batch, has: &mut std::collections::BTreeMap<u64, u64>) {
        for (number, flow) in (batch.first..).zip(&batch.flows) {
            let before = has.insert(number, flow.last.0);
            assert!(before.is_none_or(|before| before == flow.last.0), "number {number} is two flows");
        }
    }

    #[test]
    fn every_record_arrives_whatever_the_stream_does() {
        let (mut outbox, mut has) = (Outbox::default(), std::collections::BTreeMap::new());
        let mut made = 0;
        // A fixed sequence of all mishaps: told and kept, told and the stream breaks before or after it was kept.
        for round in 0..4_000_u64 {
            for _ in 0..round % 7 {
                made += 1;
                outbox.push(flow(made));
            }
            let now = Instant(0).plus(REPORT_EVERY * u32::try_from(round).unwrap());
            let Some(batch) = outbox.next(now) else { continue };
            assert_eq!(outbox.next(now.plus(REPORT_EVERY * 2)), None, "one report at a time");
            let up_to = batch.first + batch.flows.len() as u64 - 1;
            match round * 31 % 5 {
                0 => outbox.again(),
                1 => {
                    take(&batch, &mut has);
                    outbox.again();
                    outbox.kept(up_to);
                }
                _ => {
                    take(&batch, &mut has);
                    outbox.kept(up_to + 1);
                    outbox.kept(up_to);
                    outbox.kept(up_to);
                }
            }
        }
        outbox.hurry();
        while let Some(batch) = outbox.next(Instant(0)) {
            take(&batch, &mut has);
            outbox.kept(batch.first + batch.flows.len() as u64 - 1);
            outbox.hurry();
        }
        assert!(outbox.is_empty() && outbox.lost == 0);
        assert_eq!(has.into_values().collect::<Vec<_>>(), (1..=made).collect::<Vec<_>>());
    }

    #[test]
    fn few_records_wait_a_moment_for_more() {
        let mut outbox = Outbox::default();
        outbox.push(flow(1));
        let first = outbox.next(Instant(0)).unwrap();
        outbox.kept(first.first);
        outbox.push(flow(2));
        assert_eq!(outbox.next(Instant(0).plus(REPORT_EVERY / 2)), None);
        assert!(outbox.next(Instant(0).plus(REPORT_EVERY)).is_some());
        let later = Instant(0).plus(REPORT_EVERY).plus(AGAIN_AFTER);
        assert!(outbox.next(later).is_some(), "a controller that says nothing is told again");
        outbox.again();
        (0..FLOW_REPORT_MAX as u64).for_each(|n| outbox.push(flow(n)));
        assert!(outbox.next(Instant(0)).is_some(), "a full report waits for nothing");
    }

    #[test]
    fn without_room_the_oldest_go_and_are_counted() {
        let mut outbox = Outbox::default();
        let first = {
            outbox.push(flow(1));
            outbox.next(Instant(0)).unwrap()
        };
        for number in 2..=FLOW_RECORDS_MAX as u64 + 10 {
            outbox.push(flow(number));
        }
        assert_eq!((first.first, outbox.lost), (1, 10));
        // Word of a report whose records have gone meanwhile takes nothing else away.
        outbox.kept(1);
        let next = outbox.next(Instant(0)).unwrap();
        assert_eq!((next.first, next.lost, next.flows[0].last.0), (11, 10, 11));
        assert_eq!(next.flows.len(), FLOW_REPORT_MAX);
    }
}
