//! Is the gateway at the other end of a tunnel? A new tunnel must shake hands within 3 s; one that carries traffic and
//! hears nothing is probed with a handshake, and has 3 s again.

use model::ids::GatewayId;
use model::limits::SILENCE_MAX;
use model::time::Instant;
use std::time::Duration;

/// Traffic without an answer for this long is suspicious.
const PATIENCE: Duration = Duration::from_secs(2);
/// After a probe that was answered: one-way traffic is answered by WireGuard itself each 10 s (paper, section 6.5).
const PATIENCE_AFTER_PROBE: Duration = Duration::from_secs(15);

/// What the engine says of a tunnel.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// When the last handshake completed.
    pub handshake: Option<Instant>,
    /// When the last authenticated packet came.
    pub received: Option<Instant>,
    /// Bytes of IP sent.
    pub sent: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A handshake must complete.
    Proving { since: Instant },
    /// It did.
    Alive,
    /// It did not, up to `since`. `told`: what follows from that was done.
    GivenUp { since: Instant, told: bool },
}

/// One tunnel to a gateway.
#[derive(Debug)]
pub struct Tunnel {
    /// Which gateway.
    pub gateway: GatewayId,
    state: State,
    /// It was alive when it was probed: it counts as alive until the probe fails.
    probed: bool,
    sent: u64,
    unanswered: Option<Instant>,
    patience: Duration,
}

impl Tunnel {
    /// A tunnel that is to shake hands now.
    pub const fn new(now: Instant, gateway: GatewayId) -> Self {
        Self {
            gateway,
            state: State::Proving { since: now },
            probed: false,
            sent: 0,
            unanswered: None,
            patience: PATIENCE,
        }
    }

    /// A handshake completed, and no silence since.
    pub fn is_alive(&self) -> bool {
        self.state == State::Alive || (self.probed && matches!(self.state, State::Proving { .. }))
    }

    /// A handshake is overdue.
    pub fn is_late(&self, now: Instant) -> bool {
        matches!(self.state, State::Proving { since } if now.since(since) >= SILENCE_MAX)
    }

    /// When [`Self::is_late`] will be.
    pub const fn deadline(&self) -> Instant {
        match self.state {
            State::Proving { since } => {
                Instant(since.0.saturating_add(SILENCE_MAX.as_secs().saturating_mul(1_000_000_000)))
            }
            State::Alive | State::GivenUp { .. } => Instant::NEVER,
        }
    }

    /// It is not counted on any more.
    pub fn give_up(&mut self, now: Instant) {
        if !matches!(self.state, State::GivenUp { .. }) {
            self.state = State::GivenUp { since: now, told: false };
        }
    }

    /// Was it given up since the last call?
    pub fn take_given_up(&mut self) -> bool {
        match &mut self.state {
            State::GivenUp { told, .. } => !std::mem::replace(told, true),
            State::Proving { .. } | State::Alive => false,
        }
    }

    /// Takes in what the engine says; true: force a handshake.
    pub fn observe(&mut self, now: Instant, seen: Seen) -> bool {
        match self.state {
            // One that was given up may come late, and is welcome.
            State::Proving { since } | State::GivenUp { since, .. } if seen.handshake.is_some_and(|at| at >= since) => {
                self.state = State::Alive;
                self.patience = if self.probed { PATIENCE_AFTER_PROBE } else { PATIENCE };
                self.probed = false;
                self.unanswered = None;
                self.sent = seen.sent;
                return false;
            }
            State::Alive => {}
            State::Proving { .. } | State::GivenUp { .. } => return false,
        }
        if seen.sent > self.sent {
            self.sent = seen.sent;
            self.unanswered = self.unanswered.or(Some(now));
        }
        if let (Some(since), Some(received)) = (self.unanswered, seen.received)
            && received >= since
        {
            self.unanswered = None;
            self.patience = PATIENCE;
        }
        let silent = self.unanswered.is_some_and(|since| now.since(since) >= self.patience);
        if silent {
            self.unanswered = None;
            self.probed = true;
            self.state = State::Proving { since: now };
        }
        silent
    }
}
