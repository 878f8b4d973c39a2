//! When is the controller tried, and when is a connection to it given up?
//!
//! A TCP attempt that began while the controller was away sends its next SYN seconds later (RFC 6298, section 2: 1 s,
//! doubled each time), and into a session that the controller has forgotten. So nothing here waits for one: each nudge (a
//! handshake completed, so the far end is there now) begins another attempt beside it, and the first that connects wins.

use model::limits::{LINK_ATTEMPTS_MAX, SILENCE_MAX};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How long a nudged probe may take: the tunnel is known to be fresh.
const NUDGED_PROBE_MAX: Duration = Duration::from_millis(800);
/// First and longest pause between two attempts to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Failures in a row through a living tunnel (a port that is not open yet) after which no handshake shortens the pause.
const REFUSED_MAX: u32 = 8;

/// The far end and what is to be done about it.
pub(super) trait Far {
    /// A connection.
    type Channel: Send + 'static;
    /// How often a connection is probed.
    fn probe_every(&self) -> Duration;
    /// One attempt to connect; it may take for ever.
    fn connect(&self) -> impl Future<Output = Result<Self::Channel, String>> + Send + 'static;
    /// A question to the controller; it may take for ever.
    fn probe(&self, channel: &Self::Channel) -> impl Future<Output = Result<(), String>> + Send;
    /// There is a connection.
    fn up(&self, channel: &Self::Channel);
    /// It is over: a handshake is to be forced.
    fn down(&self, why: String);
    /// There was none.
    fn failed(&self, why: String) -> impl Future<Output = ()> + Send;
}

/// Keeps a connection for ever.
pub(super) async fn keep<F: Far>(far: &F, nudge: &Notify) {
    let mut pause = RETRY.0;
    // Failures in a row although the tunnel was there: our handshakes nudge us, so these alone would make a loop.
    let mut refused = 0_u32;
    loop {
        let (reached, nudged) = reach(far, nudge).await;
        let there = match reached {
            Ok(channel) => {
                far.up(&channel);
                let (why, answered) = hold(far, nudge, &channel).await;
                drop(channel);
                far.down(why);
                if answered {
                    (pause, refused) = (RETRY.0, 0);
                    continue;
                }
                true
            }
            Err(why) => {
                far.failed(why).await;
                nudged
            }
        };
        refused = if there { refused.saturating_add(1) } else { 0 };
        if refused > REFUSED_MAX {
            sleep(jittered(RETRY.1)).await;
            continue;
        }
        // The tunnel is there and the port is not yet: soon.
        pause = if there { RETRY.0 } else { pause };
        // A nudge ends the pause: the controller came back by itself.
        let came = timeout(jittered(pause), nudge.notified()).await.is_ok();
        pause = if came { RETRY.0 } else { (pause * 2).min(RETRY.1) };
    }
}

/// Tries to connect for [`SILENCE_MAX`] from the last nudge on. Was there one?
async fn reach<F: Far>(far: &F, nudge: &Notify) -> (Result<F::Channel, String>, bool) {
    let mut attempts = JoinSet::new();
    attempts.spawn(far.connect());
    let mut nudged = false;
    let mut deadline = Instant::now() + SILENCE_MAX;
    loop {
        tokio::select! {
            // An answer, whatever it is, says more than an attempt that still waits for one.
            Some(done) = attempts.join_next() => {
                return (done.unwrap_or_else(|error| Err(error.to_string())), nudged);
            }
            () = nudge.notified(), if attempts.len() < LINK_ATTEMPTS_MAX => {
                nudged = true;
                deadline = Instant::now() + SILENCE_MAX;
                attempts.spawn(far.connect());
            }
            () = sleep_until(deadline) => {
                return (Err(format!("no answer within {} s", SILENCE_MAX.as_secs())), nudged);
            }
        }
    }
}

/// Probes at once, and until an answer fails to come; why it did, and whether any came.
async fn hold<F: Far>(far: &F, nudge: &Notify, channel: &F::Channel) -> (String, bool) {
    let (mut answered, mut pause) = (false, Duration::ZERO);
    loop {
        let pause = std::mem::replace(&mut pause, far.probe_every());
        let mut limit = tokio::select! {
            () = sleep(pause) => SILENCE_MAX,
            () = nudge.notified() => NUDGED_PROBE_MAX,
        };
        let mut end = Instant::now() + limit;
        let probe = far.probe(channel);
        tokio::pin!(probe);
        let answer = loop {
            tokio::select! {
                answer = &mut probe => break answer,
                // A probe that is under way has no longer than one that begins now.
                () = nudge.notified() => (limit, end) = (NUDGED_PROBE_MAX, end.min(Instant::now() + NUDGED_PROBE_MAX)),
                () = sleep_until(end) => break Err(format!("silent for {} ms", limit.as_millis())),
            }
        };
        if let Err(why) = answer {
            return (why, answered);
        }
        answered = true;
    }
}

/// Between half and the whole of `pause`, so that many nodes do not return in step.
fn jittered(pause: Duration) -> Duration {
    let [random] = host::entropy::random::<1>().unwrap_or([128]);
    pause / 2 + pause * u32::from(random) / 512
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    /// When a TCP SYN leaves, counted from the first (RFC 6298).
    const SYNS: [u64; 3] = [0, 1_000, 3_000];
    /// How often the engine repeats a handshake.
    const RETRIES: Duration = model::limits::HANDSHAKE_RETRY;

    /// A controller that goes away and comes back, behind a tunnel whose sessions it forgets.
    #[derive(Clone)]
    struct World(Arc<Mutex<State>>);

    struct State {
        /// Away from here on, back from there on, its port open from then on.
        away: Instant,
        back: Instant,
        open: Instant,
        /// When the controller's and our session was made.
        session: Instant,
        /// When the engine sends its next handshake.
        handshake: Option<Instant>,
        ups: Vec<Instant>,
    }

    impl State {
        fn listens(&self, at: Instant) -> bool {
            at < self.away || (at >= self.open && self.session >= self.back)
        }
    }

    impl World {
        fn new(away: Duration, back: Duration, open: Duration) -> Self {
            let now = Instant::now();
            let (away, back, open) = (now + away, now + back, now + open);
            Self(Arc::new(Mutex::new(State { away, back, open, session: now, handshake: None, ups: Vec::new() })))
        }

        fn force(&self) {
            self.0.lock().unwrap().handshake = Some(Instant::now());
        }

        /// The engine's timer: a handshake that meets the controller makes a session, and that is an event.
        async fn shake_hands(self, nudge: Arc<Notify>, called: Duration) {
            let call = self.0.lock().unwrap().back + called;
            loop {
                sleep(Duration::from_millis(10)).await;
                let now = Instant::now();
                let mut state = self.0.lock().unwrap();
                let calls = now >= call && state.session < state.back;
                let ours = state.handshake.is_some_and(|at| at <= now);
                if ours {
                    state.handshake = Some(now + RETRIES);
                }
                if calls || (ours && now >= state.back) {
                    (state.session, state.handshake) = (now, None);
                    nudge.notify_one();
                }
            }
        }

        async fn back_after(away: u64, gone: u64, open: u64, called: Duration) -> Duration {
            let ms = Duration::from_millis;
            let world = Self::new(ms(away), ms(away + gone), ms(away + gone + open));
            let nudge = Arc::new(Notify::new());
            let engine = tokio::spawn(world.clone().shake_hands(nudge.clone(), called));
            let node = {
                let world = world.clone();
                tokio::spawn(async move { keep(&world, &nudge).await })
            };
            let ready = world.0.lock().unwrap().open;
            loop {
                sleep(ms(10)).await;
                let back = world.0.lock().unwrap().ups.iter().find(|at| **at >= ready).copied();
                if let Some(at) = back {
                    engine.abort();
                    node.abort();
                    return at - ready;
                }
                assert!(Instant::now() < ready + Duration::from_secs(60), "never back");
            }
        }
    }

    impl Far for World {
        type Channel = Instant;
        fn probe_every(&self) -> Duration {
            model::limits::PROBE_EVERY
        }

        fn connect(&self) -> impl Future<Output = Result<Instant, String>> + Send + 'static {
            let world = self.clone();
            async move {
                let began = Instant::now();
                for syn in SYNS {
                    sleep_until(began + Duration::from_millis(syn)).await;
                    let state = world.0.lock().unwrap();
                    let now = Instant::now();
                    if state.listens(now) {
                        return Ok(now);
                    }
                    if now >= state.back && state.session >= state.back {
                        return Err("connection refused".to_owned());
                    }
                }
                std::future::pending().await
            }
        }

        async fn probe(&self, made: &Instant) -> Result<(), String> {
            loop {
                {
                    let state = self.0.lock().unwrap();
                    let now = Instant::now();
                    if now < state.away || *made >= state.open {
                        return Ok(());
                    }
                    if state.session >= state.back {
                        return Err("connection reset".to_owned());
                    }
                }
                // The kernel's retransmissions, at their slowest.
                sleep(Duration::from_millis(1_600)).await;
            }
        }

        fn up(&self, made: &Instant) {
            self.0.lock().unwrap().ups.push(*made);
        }

        fn down(&self, _: String) {
            self.force();
        }

        async fn failed(&self, _: String) {
            self.force();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_called_back_is_there_at_once_whatever_it_was_doing() {
        let mut worst = Duration::ZERO;
        for gone in (50..14_000).step_by(310) {
            for open in [0, 350] {
                let took = World::back_after(7_000 + gone % 5_000, gone, open, Duration::from_millis(20)).await;
                worst = worst.max(took);
            }
        }
        assert!(worst <= Duration::from_millis(1_000), "{worst:?}");
    }

    /// A controller that never answers; counts the attempts that are under way.
    struct Silent(Arc<Mutex<usize>>);

    struct Attempt(Arc<Mutex<usize>>);
    impl Drop for Attempt {
        fn drop(&mut self) {
            *self.0.lock().unwrap() -= 1;
        }
    }

    impl Far for Silent {
        type Channel = ();
        fn probe_every(&self) -> Duration {
            Duration::from_secs(1)
        }
        fn connect(&self) -> impl Future<Output = Result<(), String>> + Send + 'static {
            *self.0.lock().unwrap() += 1;
            let attempt = Attempt(Arc::clone(&self.0));
            async move {
                let _attempt = attempt;
                std::future::pending().await
            }
        }
        async fn probe(&self, (): &()) -> Result<(), String> {
            Ok(())
        }
        fn up(&self, (): &()) {}
        fn down(&self, _: String) {}
        async fn failed(&self, _: String) {}
    }

    #[tokio::test(start_paused = true)]
    async fn however_often_it_is_nudged_so_many_attempts_are_under_way() {
        let (nudge, under_way) = (Arc::new(Notify::new()), Arc::new(Mutex::new(0)));
        let far = Silent(Arc::clone(&under_way));
        let mut most = 0;
        let nudging = async {
            for _ in 0..10 * LINK_ATTEMPTS_MAX {
                nudge.notify_one();
                sleep(Duration::from_millis(10)).await;
                most = most.max(*under_way.lock().unwrap());
            }
        };
        let (reached, ()) = tokio::join!(reach(&far, &nudge), nudging);
        assert!(reached.0.unwrap_err().contains("no answer"), "the attempts end all the same");
        assert_eq!(most, LINK_ATTEMPTS_MAX);
        // What is dropped ends when it has its turn.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*under_way.lock().unwrap(), 0, "and none goes on");
    }

    /// A controller whose tunnel answers at once and whose port, or TLS, refuses for ever.
    struct Refusing {
        nudge: Arc<Notify>,
        attempts: Arc<Mutex<u32>>,
        connects: bool,
    }

    impl Far for Refusing {
        type Channel = ();
        fn probe_every(&self) -> Duration {
            Duration::from_secs(1)
        }
        fn connect(&self) -> impl Future<Output = Result<(), String>> + Send + 'static {
            *self.attempts.lock().unwrap() += 1;
            let (nudge, connects) = (Arc::clone(&self.nudge), self.connects);
            async move {
                nudge.notify_one();
                sleep(Duration::from_millis(20)).await;
                if connects { Ok(()) } else { Err("the certificate is not valid yet".to_owned()) }
            }
        }
        async fn probe(&self, (): &()) -> Result<(), String> {
            Err("denied".to_owned())
        }
        fn up(&self, (): &()) {}
        fn down(&self, _: String) {
            self.nudge.notify_one();
        }
        async fn failed(&self, _: String) {
            self.nudge.notify_one();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_through_a_living_tunnel_makes_no_storm() {
        let minute = Duration::from_secs(60);
        // What no luck with the pauses goes beyond: each of them is at least half of the longest one.
        let rounds = REFUSED_MAX + 1 + u32::try_from(minute.as_millis() / (RETRY.1 / 2).as_millis()).unwrap();
        let most = rounds * u32::try_from(LINK_ATTEMPTS_MAX).unwrap();
        for connects in [false, true] {
            let (nudge, attempts) = (Arc::new(Notify::new()), Arc::new(Mutex::new(0)));
            let far = Refusing { nudge: Arc::clone(&nudge), attempts: Arc::clone(&attempts), connects };
            assert!(timeout(minute, keep(&far, &nudge)).await.is_err(), "it is kept for ever");
            let made = *attempts.lock().unwrap();
            assert!((30..=most).contains(&made), "{made} attempts in a minute, {most} are possible");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_not_called_and_knows_of_the_break_is_back_within_3_s() {
        let mut worst = Duration::ZERO;
        for gone in (9_000..20_000).step_by(310) {
            let took = World::back_after(7_000, gone, 100, Duration::from_secs(600)).await;
            worst = worst.max(took);
        }
        assert!(worst <= Duration::from_secs(3), "{worst:?}");
        assert!(worst >= Duration::from_millis(100), "nothing was tested: {worst:?}");
    }

    /// A controller that many nodes want back at once: it is away, then it takes so many connections in a second, and what is
    /// too much gets no answer at all.
    #[derive(Default)]
    struct Crowded {
        /// Attempts in each second.
        tries: Mutex<BTreeMap<u64, u32>>,
        taken: Mutex<BTreeMap<u64, u32>>,
        ups: Mutex<Vec<u64>>,
    }

    const NODES: usize = 10_000;
    const AWAY_S: u64 = 60;
    const TAKES: u32 = 1_000;

    struct OfMany {
        controller: Arc<Crowded>,
        start: Instant,
    }

    fn count(of: &Mutex<BTreeMap<u64, u32>>, second: u64) -> u32 {
        let mut of = of.lock().unwrap();
        let count = of.entry(second).or_default();
        *count += 1;
        *count
    }

    impl Far for OfMany {
        type Channel = ();
        fn probe_every(&self) -> Duration {
            model::limits::PROBE_EVERY
        }
        fn connect(&self) -> impl Future<Output = Result<(), String>> + Send + 'static {
            let (controller, second) = (Arc::clone(&self.controller), self.start.elapsed().as_secs());
            async move {
                count(&controller.tries, second);
                if second < AWAY_S || count(&controller.taken, second) > TAKES {
                    std::future::pending::<()>().await;
                }
                Ok(())
            }
        }
        async fn probe(&self, (): &()) -> Result<(), String> {
            Ok(())
        }
        fn up(&self, (): &()) {
            self.controller.ups.lock().unwrap().push(self.start.elapsed().as_secs());
        }
        fn down(&self, why: String) {
            panic!("a connection that answers was given up: {why}");
        }
        async fn failed(&self, _: String) {}
    }

    #[tokio::test(start_paused = true)]
    async fn ten_thousand_nodes_do_not_come_in_step_and_are_all_back_soon() {
        let (controller, start) = (Arc::new(Crowded::default()), Instant::now());
        let mut nodes = JoinSet::new();
        for _ in 0..NODES {
            // All of them lost it in the same moment.
            let far = OfMany { controller: Arc::clone(&controller), start };
            nodes.spawn(async move { keep(&far, &Notify::new()).await });
        }
        let all_back = async {
            while controller.ups.lock().unwrap().len() < NODES {
                sleep(Duration::from_secs(1)).await;
            }
        };
        timeout(Duration::from_secs(AWAY_S + 60), all_back).await.unwrap();
        let ups = controller.ups.lock().unwrap().clone();
        let last = ups.iter().max().copied().unwrap_or_default();
        // Ten seconds is what its own limit makes of it.
        assert!(ups.len() == NODES && last <= AWAY_S + 30, "the last one came {} s after it", last - AWAY_S);
        let tries = controller.tries.lock().unwrap().clone();
        let most = tries.range(AWAY_S - 20..AWAY_S).map(|(_, count)| *count).max().unwrap_or_default();
        assert!(most < 6_500, "{most} of {NODES} tried within one second, a minute after they lost it");
        assert!(tries[&0] >= 10_000, "the test does not begin in step");
    }
}
