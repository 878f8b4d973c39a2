//! Why was somebody turned away at the controller's ports? Each reason is counted, beside those of the packet path.

use std::sync::atomic::{AtomicU64, Ordering};
use tunnel::knock::KnockError;

/// A reason, in the order of the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
}

/// All of them, with their counters' names.
const ALL: [(Reason, &str); 9] = [
    (Reason::Knock, "knock_refused"),
    (Reason::KnockCrowded, "knock_crowded"),
    (Reason::KnockFull, "knock_full"),
    (Reason::Handshakes, "rpc_handshakes_full"),
    (Reason::Tls, "rpc_handshake_failed"),
    (Reason::TwoNodes, "rpc_two_nodes"),
    (Reason::Connections, "rpc_connections_full"),
    (Reason::Enrolments, "rpc_enrolments_full"),
    (Reason::EnrolmentsOfKey, "rpc_enrolments_crowded"),
];

/// How often each reason occurred since the start.
#[derive(Debug, Default)]
pub struct Refused([AtomicU64; ALL.len()]);

impl Refused {
    /// Once more.
    pub fn count(&self, reason: Reason) {
        if let Some(counter) = self.0.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Every reason's name and count, in a stable order.
    pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        ALL.iter().zip(&self.0).map(|((_, name), count)| (*name, count.load(Ordering::Relaxed)))
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

    #[test]
    fn each_reason_has_its_own_counter() {
        for (at, (reason, name)) in ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
            let refused = Refused::default();
            refused.count(reason);
            let counted: Vec<_> = refused.counters().filter(|(_, count)| *count > 0).collect();
            assert_eq!(counted, [(name, 1)]);
        }
    }
}
