//! Is the gateway at the other end of a tunnel? A new tunnel must shake hands within 3 s. One that carries traffic and hears
//! nothing is suspected after half a second, and asked: a handshake, sent five times. Anything authentic is an answer.
//!
//! Suspicion is cheap on purpose. WireGuard answers one-way traffic only after 10 s (paper, section 6.5), and a service may
//! think for long: so silence says little, and a handshake that nobody answers says all. All times grow with the
//! round trip, so that a slow path is not taken for a dead one.

use model::ids::GatewayId;
use model::limits::SILENCE_MAX;
use model::time::Instant;
use std::time::Duration;

/// Traffic without an answer is suspicious after three round trips, within these bounds.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));
/// After a question that was answered: the traffic goes one way, and Rekey-Timeout (WireGuard paper, section 6.1) between two
/// handshakes is enough.
const PATIENCE_AFTER_PROBE: Duration = Duration::from_secs(5);
/// The pace of a question, not faster than a round trip: a response must meet the initiation that it answers, and
/// boringtun remembers two.
const PACE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));
/// How often a question is sent before its end is waited for.
const QUESTIONS: u32 = 5;
/// The least time that an answer to the last question gets.
const ANSWER_MIN: Duration = Duration::from_millis(150);

/// What the engine says of a tunnel.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// When the last handshake completed.
    pub handshake: Option<Instant>,
    /// When the last authenticated packet came.
    pub received: Option<Instant>,
    /// When the first packet was sent after that.
    pub unanswered: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A handshake must complete; the last one began at `sent`.
    Proving { since: Instant, sent: Instant },
    /// It did.
    Alive,
    /// It did not.
    GivenUp { since: Instant },
}

/// One tunnel to a gateway.
#[derive(Debug)]
pub struct Tunnel {
    /// Which gateway.
    pub gateway: GatewayId,
    made: Instant,
    state: State,
    /// It was alive once: it is asked, and counts as alive until there is no answer.
    proven: bool,
    rtt: Option<Duration>,
    unanswered: Option<Instant>,
    /// Its last question was answered by a handshake and by nothing else since.
    one_way: bool,
}

impl Tunnel {
    /// A tunnel that is to shake hands now.
    pub const fn new(now: Instant, gateway: GatewayId) -> Self {
        let state = State::Proving { since: now, sent: now };
        Self { gateway, made: now, state, proven: false, rtt: None, unanswered: None, one_way: false }
    }

    /// A handshake completed, and no question failed since.
    pub fn is_alive(&self) -> bool {
        self.state == State::Alive || (self.proven && matches!(self.state, State::Proving { .. }))
    }

    /// The far end may be gone: it is being asked, or gave no answer.
    pub const fn is_doubtful(&self) -> bool {
        matches!(self.state, State::GivenUp { .. }) || (self.proven && matches!(self.state, State::Proving { .. }))
    }

    /// It gave no answer, and is not counted on any more.
    pub const fn is_given_up(&self) -> bool {
        matches!(self.state, State::GivenUp { .. })
    }

    /// When it was made.
    pub const fn made(&self) -> Instant {
        self.made
    }

    /// Are its keys as old as they may be?
    pub fn is_worn(&self, now: Instant, life: Duration) -> bool {
        now.since(self.made) >= life
    }

    /// A handshake is overdue.
    pub fn is_late(&self, now: Instant) -> bool {
        matches!(self.state, State::Proving { since, .. } if now.since(since) >= self.limit())
    }

    /// When [`Self::observe`] or [`Self::is_late`] has something to say next, if the engine has nothing new.
    pub fn deadline(&self) -> Instant {
        match self.state {
            State::Proving { since, sent } => {
                let end = since.plus(self.limit());
                if self.proven { end.min(sent.plus(self.pace())) } else { end }
            }
            State::Alive => self.unanswered.map_or(Instant::NEVER, |since| since.plus(self.patience())),
            State::GivenUp { .. } => Instant::NEVER,
        }
    }

    /// It is not counted on any more.
    pub fn give_up(&mut self, now: Instant) {
        if !self.is_given_up() {
            self.state = State::GivenUp { since: now };
        }
    }

    /// Takes in what the engine says; true: force a handshake.
    pub fn observe(&mut self, now: Instant, seen: Seen) -> bool {
        self.unanswered = seen.unanswered;
        match self.state {
            // One that was given up may come late, and is welcome.
            State::Proving { since, .. } | State::GivenUp { since } if self.answers(since, seen) => {
                self.measure(seen);
                (self.state, self.one_way, self.proven) = (State::Alive, self.proven, true);
                self.hear(seen);
                false
            }
            State::Proving { since, sent } if self.proven => {
                let again = now.since(sent) >= self.pace() && now.since(since) < self.pace() * QUESTIONS;
                if again {
                    self.state = State::Proving { since, sent: now };
                }
                again
            }
            State::Proving { .. } | State::GivenUp { .. } => false,
            State::Alive => {
                self.hear(seen);
                let silent = seen.unanswered.is_some_and(|since| now.since(since) >= self.patience());
                if silent {
                    self.state = State::Proving { since: now, sent: now };
                }
                silent
            }
        }
    }

    /// Did anything authentic come since? A new tunnel has to shake hands first.
    fn answers(&self, since: Instant, seen: Seen) -> bool {
        let after = |at: Option<Instant>| at.is_some_and(|at| at >= since);
        after(seen.handshake) || (self.proven && after(seen.received))
    }

    /// What came after the handshake is an answer to traffic.
    fn hear(&mut self, seen: Seen) {
        if seen.received > seen.handshake {
            self.one_way = false;
        }
    }

    /// The round trip, from handshakes that were sent once; a repeated one does not say which it answers (RFC 6298,
    /// section 3). The first counts all the same: too much is better than nothing.
    fn measure(&mut self, seen: Seen) {
        let State::Proving { since, sent } = self.state else { return };
        if let Some(at) = seen.handshake.filter(|at| *at >= since)
            && (since == sent || self.rtt.is_none())
        {
            let took = at.since(since);
            self.rtt = Some(self.rtt.map_or(took, |rtt| (rtt + took) / 2));
        }
    }

    fn round_trip(&self) -> Duration {
        self.rtt.unwrap_or_default()
    }

    fn patience(&self) -> Duration {
        if self.one_way { PATIENCE_AFTER_PROBE } else { (self.round_trip() * 3).clamp(PATIENCE.0, PATIENCE.1) }
    }

    fn pace(&self) -> Duration {
        self.round_trip().clamp(PACE.0, PACE.1)
    }

    fn limit(&self) -> Duration {
        if self.proven {
            self.pace() * (QUESTIONS - 1) + ANSWER_MIN.max(self.round_trip() * 3 / 2)
        } else {
            SILENCE_MAX
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::gateway;

    /// A repeatable source of losses and of pauses.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, below: u64) -> u64 {
            // Numerical Recipes' generator; its upper bits are good enough here.
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % below
        }
    }

    /// A gateway behind a path, as the engine would tell of it.
    struct Path {
        rtt: u64,
        loss: u64,
        dice: Dice,
        /// When answers come, and whether each is a handshake's.
        answers: Vec<(u64, bool)>,
        seen: Seen,
    }

    const fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    impl Path {
        fn new(rtt: u64, loss: u64, seed: u64) -> Self {
            Self { rtt, loss, dice: Dice(seed), answers: Vec::new(), seen: Seen::default() }
        }

        /// Both ways can lose.
        fn send(&mut self, ms: u64, handshake: bool, after: u64) {
            if self.dice.roll(100) >= self.loss && self.dice.roll(100) >= self.loss {
                self.answers.push((ms + self.rtt + after, handshake));
            }
        }

        fn data(&mut self, ms: u64, after: Option<u64>) {
            self.seen.unanswered.get_or_insert(at(ms));
            if let Some(after) = after {
                self.send(ms, false, after);
            }
        }

        fn step(&mut self, ms: u64) -> Seen {
            for (_, handshake) in self.answers.extract_if(.., |(due, _)| *due <= ms) {
                self.seen.received = Some(at(ms));
                self.seen.unanswered = None;
                if handshake {
                    self.seen.handshake = Some(at(ms));
                }
            }
            self.seen
        }
    }

    /// Minutes of traffic, each packet `every` ms and answered after `think` ms (none: never); how many questions were
    /// asked, and whether the gateway was given up.
    fn live(path: &mut Path, minutes: u64, every: u64, think: Option<u64>) -> (u32, bool) {
        let mut tunnel = Tunnel::new(at(0), gateway(1));
        path.answers.push((path.rtt, true));
        let mut questions = 0;
        for ms in (0..minutes * 60_000).step_by(5) {
            if ms > path.rtt && ms % every == 0 {
                path.data(ms, think);
            }
            if tunnel.observe(at(ms), path.step(ms)) {
                questions += 1;
                path.send(ms, true, 0);
            }
            if tunnel.is_late(at(ms)) {
                return (questions, true);
            }
        }
        (questions, false)
    }

    #[test]
    fn a_live_gateway_behind_a_slow_and_lossy_path_is_not_left() {
        for seed in 0..40 {
            let mut path = Path::new(200, 5, seed);
            let (questions, left) = live(&mut path, 30, 100, Some(0));
            assert!(!left, "seed {seed}: left after {questions} questions");
            // Even where every single packet is far from the next and its loss is a silence of its own.
            let mut path = Path::new(200, 5, seed);
            let (questions, left) = live(&mut path, 30, 1_500, Some(0));
            assert!(questions > 0 && !left, "seed {seed}: {questions} questions");
        }
    }

    #[test]
    fn a_slow_service_and_a_far_gateway_are_no_dead_gateway() {
        for rtt in [1, 20, 200, 600, 1_000] {
            let mut path = Path::new(rtt, 0, 1);
            let (questions, left) = live(&mut path, 10, 10_000, Some(8_000));
            assert!(questions > 0 && !left, "rtt {rtt}: {questions} questions");
        }
    }

    #[test]
    fn one_way_traffic_costs_a_handshake_each_5_s() {
        let mut path = Path::new(20, 0, 1);
        let (questions, left) = live(&mut path, 10, 20, None);
        assert!((100..=121).contains(&questions) && !left, "{questions}");
    }

    /// From the death of the gateway until it is given up, with traffic all the time.
    fn left_after(rtt: u64, every: u64) -> u64 {
        let mut tunnel = Tunnel::new(at(0), gateway(1));
        let mut path = Path::new(rtt, 0, 1);
        path.answers.push((rtt, true));
        const DEATH: u64 = 20_000;
        for ms in (0..60_000).step_by(5) {
            if ms > rtt && ms % every == 0 {
                path.data(ms, (ms < DEATH).then_some(0));
            }
            tunnel.observe(at(ms), path.step(ms));
            if tunnel.is_late(at(ms)) {
                return ms - DEATH;
            }
        }
        panic!("never left")
    }

    #[test]
    fn a_dead_gateway_is_left_within_1600_ms() {
        for (rtt, most) in [(1, 1_600), (20, 1_600), (50, 1_600), (200, 2_200)] {
            let took = left_after(rtt, 50);
            assert!((500..=most).contains(&took), "rtt {rtt}: {took} ms");
        }
    }

    #[test]
    fn a_question_is_sent_five_times() {
        let mut tunnel = Tunnel::new(at(0), gateway(1));
        let mut seen = Seen { handshake: Some(at(10)), received: Some(at(11)), unanswered: None };
        assert!(!tunnel.observe(at(20), seen));
        seen.unanswered = Some(at(1_000));
        let sent: Vec<u64> = (1_000..9_000).filter(|ms| tunnel.observe(at(*ms), seen)).collect();
        assert_eq!(sent, [1_500, 1_700, 1_900, 2_100, 2_300]);
        assert!(tunnel.is_alive() && tunnel.is_doubtful());
        assert!(!tunnel.is_late(at(2_449)) && tunnel.is_late(at(2_450)));
    }

    #[test]
    fn what_comes_late_is_welcome() {
        let mut tunnel = Tunnel::new(at(0), gateway(1));
        tunnel.observe(at(20), Seen { handshake: Some(at(10)), received: Some(at(10)), unanswered: None });
        tunnel.give_up(at(5_000));
        tunnel.observe(at(5_100), Seen { handshake: Some(at(10)), received: Some(at(4_999)), unanswered: None });
        assert!(!tunnel.is_alive() && tunnel.is_doubtful());
        tunnel.observe(at(5_200), Seen { handshake: Some(at(10)), received: Some(at(5_150)), unanswered: None });
        assert!(tunnel.is_alive() && !tunnel.is_doubtful());
    }
}
