//! Who was turned away at the controller's ports, and why? Each reason is counted, beside those of the packet path; some are told in
//! the log, too, where a flood of them takes no more lines than [`lines`] allows.

mod lines;

use lines::{Lines, Who};
use model::limits::REFUSED_LINES_EVERY;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tunnel::knock::KnockError;

/// A reason, in the order of the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A knock with no live secret, forged, of a wrong time, or a repeat.
    Knock,
    /// A knock whose join key, or node, has as many provisional peers as it may.
    KnockCrowded,
    /// A knock when all provisional places are taken.
    KnockFull,
    /// An address with too many TLS handshakes under way.
    Handshakes,
    /// A TLS handshake that failed, or took too long.
    Tls,
    /// A certificate and a tunnel of two nodes.
    TwoNodes,
    /// A node's oldest connection, which ended for one too many.
    Connections,
    /// Too many connections to the enrolment port.
    Enrolments,
    /// Too many of the machines of one join key.
    EnrolmentsOfKey,
    /// A connection that ended because its far end kept breaking the rules or bounds of HTTP/2.
    Http2,
    /// A call that its caller may not make, or that there is not.
    Call,
    /// A message of a gateway that makes no sense.
    Nonsense,
    /// A flow of a grant that is not that gateway's own.
    ForeignFlow,
    /// A gateway's witness of the audit trail that is not believed.
    Witness,
    /// A node that wants something written to disk more often than it may.
    Often,
}

/// All of them, with their counters' names.
const ALL: [(Reason, &str); 15] = [
    (Reason::Knock, "knock_refused"),
    (Reason::KnockCrowded, "knock_crowded"),
    (Reason::KnockFull, "knock_full"),
    (Reason::Handshakes, "rpc_handshakes_full"),
    (Reason::Tls, "rpc_handshake_failed"),
    (Reason::TwoNodes, "rpc_two_nodes"),
    (Reason::Connections, "rpc_connections_full"),
    (Reason::Enrolments, "rpc_enrolments_full"),
    (Reason::EnrolmentsOfKey, "rpc_enrolments_crowded"),
    (Reason::Http2, "rpc_http2_broken"),
    (Reason::Call, "rpc_call_refused"),
    (Reason::Nonsense, "gateway_nonsense"),
    (Reason::ForeignFlow, "gateway_foreign_flow"),
    (Reason::Witness, "gateway_witness_refused"),
    (Reason::Often, "node_too_often"),
];

impl Reason {
    fn name(self) -> &'static str {
        ALL.get(self as usize).map_or("", |(_, name)| name)
    }
}

/// How often each reason occurred since the start, and what of it the log has still to be told.
#[derive(Debug, Default)]
pub struct Refused {
    counts: [AtomicU64; ALL.len()],
    lines: Mutex<Lines>,
}

impl Refused {
    /// Once more.
    pub fn count(&self, reason: Reason) {
        if let Some(counter) = self.counts.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Once more, and whether whoever counts writes a line about it. What gets none is told with its number, once in
    /// [`REFUSED_LINES_EVERY`]. Within tokio's runtime only.
    pub fn is_told(self: &Arc<Self>, reason: Reason, who: &impl fmt::Display) -> bool {
        self.count(reason);
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let added = lines.add((reason, who.to_string()));
        if added.opens {
            tokio::spawn(Arc::clone(self).tell_the_rest());
        }
        added.told
    }

    /// Until nothing is left to tell.
    async fn tell_the_rest(self: Arc<Self>) {
        loop {
            tokio::time::sleep(REFUSED_LINES_EVERY).await;
            let Some(rest) = self.lines.lock().unwrap_or_else(PoisonError::into_inner).end() else { return };
            for (who, count) in rest {
                let (reason, who) = match &who {
                    Who::One((reason, who)) => (reason.name(), who.as_str()),
                    Who::Others => ("any", "others"),
                };
                tracing::warn!(reason, who, count, "more was refused");
            }
        }
    }

    /// Every reason's name and count, in a stable order.
    pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        ALL.iter().zip(&self.counts).map(|((_, name), count)| (*name, count.load(Ordering::Relaxed)))
    }
}

impl From<&KnockError> for Reason {
    fn from(why: &KnockError) -> Self {
        if matches!(why, KnockError::Crowded) { Self::KnockCrowded } else { Self::Knock }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn each_reason_has_its_own_counter() {
        for (at, (reason, name)) in ALL.into_iter().enumerate() {
            assert_eq!((reason as usize, reason.name()), (at, name));
            let refused = Refused::default();
            refused.count(reason);
            let counted: Vec<_> = refused.counters().filter(|(_, count)| *count > 0).collect();
            assert_eq!(counted, [(name, 1)]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_goes_on_is_told_of_once_and_again_after_a_pause() {
        let refused = Arc::new(Refused::default());
        // Ten seconds of a hundred calls each.
        let mut told = 0;
        for _ in 0..1_000 {
            told += u32::from(refused.is_told(Reason::Call, &"device:1"));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(told, 1, "the rest is told with its number");
        assert_eq!(refused.counters().find(|(name, _)| *name == "rpc_call_refused"), Some(("rpc_call_refused", 1_000)));
        tokio::time::sleep(3 * REFUSED_LINES_EVERY).await;
        assert!(refused.is_told(Reason::Call, &"device:1"), "after a pause it is news again");
        assert!(refused.is_told(Reason::Nonsense, &"device:1"), "each reason by itself");
    }
}
