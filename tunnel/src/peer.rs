//! What is one tunnel besides its cryptography? Where the far end is, what waits for a session, when to try again.
//!
//! A [`Tunnel`] lives behind one lock and outlasts changes of who its peer is (a provisional peer that becomes a node):
//! the [`Peer`] around it is replaced, the tunnel is not, so that its memory of handshake time stamps stays.

use crate::api::{Out, PeerId, PeerKind, PeerStatus};
use crate::ecn;
use crate::timers::{Place, Timers};
use crate::wire::{Door, Message, Opened, Wire, WireError};
use model::key::PublicKey;
use model::limits::{
    ENDPOINTS_MAX, HANDSHAKE_ATTEMPT_MAX, HANDSHAKE_RETRY, HANDSHAKE_RETRY_EARLY, SILENCE_MAX,
    UNCONFIRMED_SESSIONS_MAX, WAITING_MAX, WAITING_PACKETS_MAX, WIREGUARD_OVERHEAD,
};
use model::packet::Local;
use model::time::Instant;
use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// A tunnel is ticked before use, but not more often than this.
const TICK_MIN: Duration = Duration::from_millis(250);
/// How often a tunnel is ticked that carried data within [`ACTIVE`]: WireGuard's own timers are seconds.
pub(crate) const TICK_ACTIVE: Duration = Duration::from_millis(500);
/// See [`TICK_ACTIVE`]; longer than WireGuard's Keepalive-Timeout and Rekey-Timeout together.
const ACTIVE: Duration = Duration::from_secs(20);
/// What WireGuard does so long after a handshake, whether or not there is traffic: a new one for what was sent, a new one for
/// what was received, the end of the session, the end of all secrets (WireGuard paper, section 6.1; 165 s is Reject-After-Time
/// less Keepalive-Timeout and Rekey-Timeout).
pub(crate) const MARKS: [Duration; 4] =
    [Duration::from_secs(120), Duration::from_secs(165), SESSION_END, Duration::from_secs(540)];
const SESSION_END: Duration = Duration::from_secs(180);
/// So long after a mark it is asked again: the tunnel's own clock may be behind ours.
const MARK_SLACK: Duration = Duration::from_secs(10);
/// How often it is asked meanwhile.
pub(crate) const TICK_IDLE: Duration = Duration::from_secs(5);
/// No tunnel has two turns closer together than this.
const TURN_MIN: Duration = Duration::from_millis(10);

/// Who is at the other end, and what it owns. Immutable but for the tunnel inside.
pub struct Peer {
    /// Who.
    pub id: PeerId,
    /// Which kind of tunnel.
    pub kind: PeerKind,
    /// The far end's static key.
    pub remote: PublicKey,
    /// Our key's door.
    pub door: Arc<dyn Door>,
    /// The source addresses that it owns.
    pub addresses: Vec<IpAddr>,
    /// Until then it may also enrol, from this address.
    pub provisional: Option<(IpAddr, Instant)>,
    /// Our 24-bit index.
    pub index: u32,
    tunnel: Arc<Guarded>,
}

struct Guarded {
    tunnel: Mutex<Tunnel>,
    place: Place,
    timers: Arc<Timers>,
}

impl Peer {
    /// A peer whose tunnel state is not built yet.
    pub fn new(
        id: PeerId,
        kind: PeerKind,
        door: Arc<dyn Door>,
        remote: PublicKey,
        index: u32,
        timers: Arc<Timers>,
    ) -> Self {
        let tunnel = Mutex::new(Tunnel::new(kind.clone()));
        let tunnel = Arc::new(Guarded { tunnel, place: Place::default(), timers });
        Self { id, kind, remote, door, addresses: Vec::new(), provisional: None, index, tunnel }
    }

    /// The same tunnel under another description.
    pub fn described(
        &self,
        id: PeerId,
        kind: PeerKind,
        addresses: Vec<IpAddr>,
        provisional: Option<(IpAddr, Instant)>,
    ) -> Self {
        self.tunnel.tunnel.lock().kind = kind.clone();
        Self {
            id,
            kind,
            remote: self.remote,
            door: self.door.clone(),
            addresses,
            provisional,
            index: self.index,
            tunnel: self.tunnel.clone(),
        }
    }

    /// Begins where another peer's tunnel to the same far end is.
    pub fn follow(&self, other: &Self) {
        let other = other.tunnel.tunnel.lock();
        // Ours is not known to anybody yet: the two locks cannot meet in the other order.
        self.tunnel.tunnel.lock().follow(&other);
    }

    /// The tunnel, locked; its state is built at the first use. Its timers are looked at soon after.
    pub fn lock(&self, now: Instant) -> Result<Locked<'_>, WireError> {
        let mut tunnel = self.tunnel.tunnel.lock();
        if tunnel.wire.is_none() {
            tunnel.wire = Some(self.door.open(&self.remote, &self.kind, self.index)?);
        }
        self.turn_at(now.plus(TICK_ACTIVE));
        Ok(Locked { tunnel })
    }

    /// For people.
    pub fn status(&self) -> PeerStatus {
        self.tunnel.tunnel.lock().status()
    }

    /// The tunnel, locked, without building its state: for settings.
    pub fn settings(&self) -> MutexGuard<'_, Tunnel> {
        let tunnel = self.tunnel.tunnel.lock();
        self.turn_at(Instant(0));
        tunnel
    }

    /// The timers shall look at it then, if not before.
    pub fn turn_at(&self, at: Instant) {
        self.tunnel.timers.put(&self.tunnel.place, self.index, at);
    }

    /// The timers shall not look at it any more.
    pub fn no_turn(&self) {
        self.tunnel.timers.remove(&self.tunnel.place, self.index);
    }

    /// Where it stands in the queue of its timers.
    pub fn place(&self) -> &Place {
        &self.tunnel.place
    }

    /// Runs what is due, and has the timers come again when more is; answers when that is.
    pub fn tick(&self, now: Instant, out: &mut Out) -> Instant {
        let mut tunnel = self.tunnel.tunnel.lock();
        if tunnel.wire.is_none() && tunnel.keepalive.is_some() {
            // Kept alive, it comes up by itself; all others wait for their first use.
            tunnel.wire = self.door.open(&self.remote, &self.kind, self.index).ok();
        }
        let due = tunnel.tick(now, out);
        self.turn_at(due);
        due
    }
}

/// A tunnel whose state is built, held for one train.
pub struct Locked<'a> {
    tunnel: MutexGuard<'a, Tunnel>,
}

impl std::ops::Deref for Locked<'_> {
    type Target = Tunnel;
    fn deref(&self) -> &Tunnel {
        &self.tunnel
    }
}
impl std::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Tunnel {
        &mut self.tunnel
    }
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It left.
    Sealed,
    /// It waits for a session.
    Waiting,
    /// Too many wait already, it was dropped.
    Full,
    /// It cannot be sealed, it was dropped.
    Refused,
}

/// What an authentic datagram brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// An IP packet of so many bytes, at the front of the buffer.
    pub packet: Option<usize>,
    /// A handshake completed, from this endpoint; true when the far end began it.
    pub handshake: Option<(SocketAddr, bool)>,
}

/// Where the far end is, and how to reach it from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Endpoint {
    addr: SocketAddr,
    local: Local,
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    began: Instant,
    sent: Instant,
    endpoint_since: Instant,
    /// When the last one was answered with a cookie.
    asked: Option<Instant>,
}

impl Attempt {
    /// When it is sent again. Early only once: the wire knows the answers to its last two, and where the way is long, the answer to the
    /// first must not come after the third.
    fn again(&self) -> Instant {
        let first = self.sent == self.began;
        let again = self.sent.plus(if first { HANDSHAKE_RETRY_EARLY } else { HANDSHAKE_RETRY });
        self.asked.map_or(again, |asked| again.min(asked.plus(HANDSHAKE_RETRY_EARLY)))
    }
}

struct Waiting {
    since: Instant,
    packet: Vec<u8>,
}

/// One tunnel's state.
pub struct Tunnel {
    wire: Option<Box<dyn Wire>>,
    kind: PeerKind,
    waiting: VecDeque<Waiting>,
    endpoint: Option<Endpoint>,
    candidates: Vec<SocketAddr>,
    attempt: Option<Attempt>,
    /// Control code asked for a handshake: this machine or the far end may have moved, and any candidate may be the one.
    anywhere: bool,
    /// The sessions that we answered and the far end has not used yet, newest last; it remembers two itself.
    unconfirmed: VecDeque<u32>,
    /// The newest confirmed session and the counter that a fresh packet must reach.
    newest: Option<(u32, u64)>,
    keepalive: Option<Duration>,
    ticked: Option<Instant>,
    last_sent: Instant,
    /// When data last passed, either way.
    used: Option<Instant>,
    /// When a handshake message of either side last changed the wire's state.
    shaken: Option<Instant>,
    /// Until then a session may end that another one came after.
    older: Instant,
    status: PeerStatus,
    /// How many packets were cut for it.
    cuts: u32,
}

impl Tunnel {
    fn new(kind: PeerKind) -> Self {
        Self {
            wire: None,
            kind,
            waiting: VecDeque::new(),
            endpoint: None,
            candidates: Vec::new(),
            attempt: None,
            anywhere: false,
            unconfirmed: VecDeque::new(),
            newest: None,
            keepalive: None,
            ticked: None,
            last_sent: Instant(0),
            used: None,
            shaken: None,
            older: Instant(0),
            status: PeerStatus::default(),
            cuts: 0,
        }
    }

    /// The identification of a datagram that leaves in fragments. It counts: no order repeats later, and nobody outside can guess
    /// at it to any use, because fragments are sealed. A count for each tunnel tells its far end nothing about others.
    pub const fn identify(&mut self) -> u32 {
        self.cuts = self.cuts.wrapping_add(1);
        self.cuts
    }

    /// Takes over what control code says; the endpoint in use stays.
    pub fn configure(&mut self, endpoints: &[SocketAddr], keepalive: Option<Duration>) {
        self.keepalive = keepalive;
        self.set_candidates(endpoints);
    }

    /// Begins where another tunnel to the same far end is: its endpoint, its candidates, its keepalive.
    pub fn follow(&mut self, other: &Self) {
        self.endpoint = other.endpoint;
        self.candidates.clone_from(&other.candidates);
        self.keepalive = other.keepalive;
    }

    /// New candidates, best first, at most [`ENDPOINTS_MAX`]. The endpoint in use stays: the far end may have moved.
    pub fn set_candidates(&mut self, endpoints: &[SocketAddr]) {
        self.candidates = endpoints.iter().copied().take(ENDPOINTS_MAX).collect();
        if self.endpoint.is_none() {
            self.next_candidate();
        }
    }

    /// Uses the candidate after the one in use, the first after the last.
    pub fn next_candidate(&mut self) {
        let at = self.endpoint.and_then(|e| self.candidates.iter().position(|c| *c == e.addr));
        let next = at.map_or(0, |at| (at + 1) % self.candidates.len().max(1));
        if let Some(addr) = self.candidates.get(next) {
            self.endpoint = Some(Endpoint { addr: *addr, local: Local::default() });
        }
    }

    /// For people.
    pub fn status(&self) -> PeerStatus {
        PeerStatus { endpoint: self.endpoint.map(|e| e.addr), ..self.status }
    }

    /// Does a packet leave at once?
    pub fn has_session(&self) -> bool {
        self.wire.as_ref().is_some_and(|w| w.has_session())
    }

    /// Drops what waits, because a grant of this pairing ended or nobody answered; answers how many packets that were.
    pub fn drop_waiting(&mut self) -> usize {
        let dropped = self.waiting.len();
        self.waiting.clear();
        dropped
    }

    /// Sends a packet, or lets it wait for a session.
    pub fn send(&mut self, now: Instant, packet: &[u8], out: &mut Out) -> Sent {
        self.wire_timers(now, out);
        if self.has_session() && self.endpoint.is_some() {
            return if self.seal(now, packet, out) { Sent::Sealed } else { Sent::Refused };
        }
        if self.waiting.len() >= WAITING_PACKETS_MAX {
            self.begin(now, out);
            return Sent::Full;
        }
        self.waiting.push_back(Waiting { since: now, packet: packet.to_vec() });
        self.begin(now, out);
        Sent::Waiting
    }

    /// Takes a datagram that [`Message::read`] accepted and, for handshakes, the door admitted. A packet is written to `opened`,
    /// see [`Wire::decapsulate`].
    pub fn receive(
        &mut self,
        now: Instant,
        from: (SocketAddr, Local),
        datagram: &[u8],
        opened: &mut Vec<u8>,
        out: &mut Out,
    ) -> Result<Received, WireError> {
        self.wire_timers(now, out);
        let from = Endpoint { addr: from.0, local: from.1 };
        let wire = self.wire.as_mut().ok_or(WireError::Session)?;
        let packet = match wire.decapsulate(now, datagram, opened)? {
            Opened::Cookie => {
                // Not at once: no answer of ours follows a datagram as its echo.
                self.attempt = self.attempt.map(|attempt| Attempt { asked: attempt.asked.or(Some(now)), ..attempt });
                return Ok(Received::default());
            }
            Opened::Answer(bytes, index) => {
                // The session counts, and the endpoint moves, only when data comes under it: an initiation may be old.
                while self.unconfirmed.len() >= UNCONFIRMED_SESSIONS_MAX {
                    self.unconfirmed.pop_front();
                }
                self.unconfirmed.push_back(index);
                self.shakes(now);
                out.send(from.addr, from.local, bytes);
                return Ok(Received::default());
            }
            Opened::Established(bytes, index) => {
                self.shakes(now);
                self.established(now, index, 0, from);
                self.transmit(now, bytes, out);
                self.flush(now, out);
                return Ok(Received { packet: None, handshake: Some((from.addr, false)) });
            }
            Opened::Keepalive => None,
            Opened::Packet(len) => {
                self.used = Some(now);
                Some(len)
            }
        };
        self.status.last_received = Some(now);
        self.status.unanswered_since = None;
        self.status.received = self.status.received.saturating_add(packet.unwrap_or(0) as u64);
        let mut handshake = None;
        if let Some(Message::Data(index, counter)) = Message::read(datagram) {
            if self.unconfirmed.contains(&index) {
                self.established(now, index, counter + 1, from);
                self.flush(now, out);
                handshake = Some((from.addr, true));
            } else if let Some((newest, next)) = self.newest
                && newest == index
                && counter >= next
            {
                self.newest = Some((index, counter + 1));
                self.endpoint = Some(from);
            }
        }
        Ok(Received { packet, handshake })
    }

    fn established(&mut self, now: Instant, index: u32, next: u64, from: Endpoint) {
        self.attempt = None;
        self.anywhere = false;
        self.unconfirmed.clear();
        self.newest = Some((index, next));
        self.endpoint = Some(from);
        self.status.last_handshake = Some(now);
        self.status.last_received = Some(now);
        self.status.unanswered_since = None;
    }

    /// Begins a handshake unless one is under way.
    pub fn begin(&mut self, now: Instant, out: &mut Out) {
        if self.attempt.is_none() {
            self.initiate(now, out);
        }
    }

    /// Begins a handshake now, also when one is under way: it gets its whole time again. Whoever asks for it doubts the endpoint
    /// in use (another network, a silence), so all candidates hear it.
    pub fn force(&mut self, now: Instant, out: &mut Out) {
        // The wire dates what it does by its last tick, which may be long ago.
        self.wire_timers(now, out);
        self.attempt = None;
        self.anywhere = true;
        self.initiate(now, out);
    }

    fn initiate(&mut self, now: Instant, out: &mut Out) {
        if self.endpoint.is_none() {
            return;
        }
        if let Some(bytes) = self.wire.as_mut().and_then(|w| w.initiate(now)) {
            self.spread(&bytes, out);
            self.transmit(now, bytes, out);
        }
    }

    /// A pairing that never shook hands, and any tunnel whose endpoint is in doubt, says the same hello to all its candidates:
    /// nobody knows which of them can be reached from here, and the one that answers is used. One by one would take longer than
    /// a person waits, and an initiation for each would spoil the answer to the one before. The far end takes the first to come.
    fn spread(&self, bytes: &[u8], out: &mut Out) {
        let unknown = self.status.last_handshake.is_none() && matches!(self.kind, PeerKind::Pairing(_));
        if !unknown && !self.anywhere {
            return;
        }
        for addr in self.candidates.iter().filter(|c| self.endpoint.is_some_and(|e| e.addr != **c)) {
            out.send(*addr, Local::default(), bytes.to_vec());
        }
    }

    /// Sends to the endpoint in use; an initiation begins or goes on with an attempt, whoever asked for it.
    fn transmit(&mut self, now: Instant, bytes: Vec<u8>, out: &mut Out) {
        let Some(endpoint) = self.endpoint else { return };
        if Message::read(&bytes) == Some(Message::Initiation) {
            let first = Attempt { began: now, sent: now, endpoint_since: now, asked: None };
            let attempt = self.attempt.get_or_insert(first);
            (attempt.sent, attempt.asked) = (now, None);
            self.shakes(now);
        }
        self.last_sent = now;
        out.send(endpoint.addr, endpoint.local, bytes);
    }

    fn seal(&mut self, now: Instant, packet: &[u8], out: &mut Out) -> bool {
        let (Some(wire), Some(endpoint)) = (self.wire.as_mut(), self.endpoint) else { return false };
        let way = (endpoint.addr, endpoint.local, ecn::of(packet));
        let sealed = out.append(way, packet.len() + WIREGUARD_OVERHEAD, |to| wire.encapsulate(now, packet, to));
        if sealed.is_err() {
            return false;
        }
        self.status.sent = self.status.sent.saturating_add(packet.len() as u64);
        if !packet.is_empty() {
            self.used = Some(now);
            self.status.unanswered_since.get_or_insert(now);
        }
        self.last_sent = now;
        true
    }

    fn flush(&mut self, now: Instant, out: &mut Out) {
        self.drop_old(now, out);
        while self.has_session()
            && let Some(waiting) = self.waiting.pop_front()
        {
            self.seal(now, &waiting.packet, out);
        }
    }

    fn drop_old(&mut self, now: Instant, out: &mut Out) {
        let before = self.waiting.len();
        self.waiting.retain(|w| now.since(w.since) < WAITING_MAX);
        out.expired += before - self.waiting.len();
    }

    fn wire_timers(&mut self, now: Instant, out: &mut Out) {
        if self.ticked.is_some_and(|t| now.since(t) < TICK_MIN) {
            return;
        }
        self.ticked = Some(now);
        if let Some(bytes) = self.wire.as_mut().and_then(|w| w.tick(now)) {
            self.transmit(now, bytes, out);
        }
    }

    fn tick(&mut self, now: Instant, out: &mut Out) -> Instant {
        if self.wire.is_none() {
            return Instant::NEVER;
        }
        self.wire_timers(now, out);
        self.drop_old(now, out);
        self.retry(now, out);
        self.keep_alive(now, out);
        self.due(now)
    }

    fn retry(&mut self, now: Instant, out: &mut Out) {
        let Some(attempt) = self.attempt else { return };
        if now.since(attempt.began) >= HANDSHAKE_ATTEMPT_MAX {
            self.attempt = None;
            out.expired += self.drop_waiting();
        } else if now >= attempt.again() {
            // The control link has its own judge of silence; a pairing tries its candidates by itself.
            let silent = now.since(attempt.endpoint_since) >= SILENCE_MAX && !self.has_session();
            if silent && matches!(self.kind, PeerKind::Pairing(_)) && self.candidates.len() > 1 {
                self.next_candidate();
                self.attempt = Some(Attempt { endpoint_since: now, ..attempt });
            }
            self.initiate(now, out);
        }
    }

    fn keep_alive(&mut self, now: Instant, out: &mut Out) {
        let Some(every) = self.keepalive else { return };
        if now.since(self.last_sent) < every {
            return;
        }
        if self.has_session() {
            self.seal(now, &[], out);
        } else {
            self.begin(now, out);
        }
    }

    fn due(&self, now: Instant) -> Instant {
        let within = |at: Option<Instant>| at.is_some_and(|at| now.since(at) < ACTIVE);
        // Whom nobody answers, a keepalive makes shake hands anew.
        let unanswered = self.status.unanswered_since.map(|_| self.last_sent);
        let active = self.attempt.is_some() || !self.waiting.is_empty() || within(self.used) || within(unanswered);
        let mut due = if active { now.plus(TICK_ACTIVE) } else { Instant::NEVER };
        if let Some(attempt) = self.attempt {
            due = due.min(attempt.again());
        }
        if let Some(every) = self.keepalive {
            due = due.min(self.last_sent.plus(every));
        }
        if now < self.older {
            due = due.min(now.plus(TICK_IDLE));
        }
        if let Some(since) = self.shaken {
            due = due.min(self.settles(now, since));
        }
        due.max(now.plus(TURN_MIN))
    }

    fn shakes(&mut self, now: Instant) {
        if let Some(before) = self.shaken.replace(now) {
            self.older = self.older.max(before.plus(SESSION_END + MARK_SLACK));
        }
    }

    /// When WireGuard has the next thing to do for a handshake of that time, if nothing more happens; never, once all is done.
    fn settles(&self, now: Instant, since: Instant) -> Instant {
        let age = now.since(since);
        match MARKS.into_iter().find(|mark| age < *mark + MARK_SLACK) {
            Some(mark) if age < mark => since.plus(mark),
            None if !self.has_session() => Instant::NEVER,
            Some(_) | None => now.plus(TICK_IDLE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::VirtualDoors;
    use crate::wire::Doors as _;
    use model::key::PrivateKey;

    fn tunnel(own: u8, other: u8) -> Tunnel {
        let door = VirtualDoors.door(&PrivateKey::new([own; 32]));
        let mut tunnel = Tunnel::new(PeerKind::Control);
        tunnel.wire = door.open(&PublicKey([other; 32]), &PeerKind::Control, own.into()).ok();
        tunnel
    }

    #[test]
    fn a_handshake_is_tried_for_so_long_and_what_waits_for_it_no_longer() {
        let (mut tunnel, mut out) = (tunnel(1, 2), Out::default());
        tunnel.set_candidates(&[SocketAddr::from(([192, 0, 2, 1], 443))]);
        let began = Instant(1_000_000_000);
        tunnel.begin(began, &mut out);
        assert_eq!(out.udp.len(), 1);
        let given_up = began.plus(HANDSHAKE_ATTEMPT_MAX);
        let mut now = began;
        while now.plus(HANDSHAKE_RETRY) < given_up {
            now = now.plus(HANDSHAKE_RETRY);
            tunnel.tick(now, &mut out);
        }
        assert_eq!(
            out.udp.len() as u64,
            HANDSHAKE_ATTEMPT_MAX.as_secs() / HANDSHAKE_RETRY.as_secs(),
            "once in that time"
        );
        tunnel.waiting.push_back(Waiting { since: given_up, packet: vec![0; 20] });
        out.clear();
        tunnel.tick(given_up, &mut out);
        assert!(out.udp.is_empty() && tunnel.attempt.is_none() && tunnel.waiting.is_empty());
        tunnel.begin(given_up, &mut out);
        assert_eq!(out.udp.len(), 1, "whoever sends something begins anew");
    }

    #[test]
    fn a_handshake_that_is_asked_for_is_heard_by_all_candidates_and_the_one_that_answers_is_used() {
        let (mut near, mut far, mut out, mut opened) = (tunnel(1, 2), tunnel(2, 1), Out::default(), Vec::new());
        let candidates: [SocketAddr; 3] =
            [([192, 0, 2, 1], 443), ([192, 0, 2, 2], 443), ([192, 0, 2, 3], 443)].map(SocketAddr::from);
        near.set_candidates(&candidates);
        let heard = |out: &Out| out.udp.iter().map(|train| train.addr).collect::<std::collections::BTreeSet<_>>();
        for (n, used) in (1u64..).zip([candidates[2], candidates[1]]) {
            let now = Instant(n * 1_000_000_000);
            out.clear();
            near.force(now, &mut out);
            assert_eq!(heard(&out), candidates.into());
            let hello = out.udp[0].bytes.clone();
            assert!(out.udp.iter().all(|train| train.bytes == hello), "one initiation: a second would end the first");
            // It is repeated to all of them, until one answers.
            out.clear();
            near.tick(now.plus(HANDSHAKE_RETRY), &mut out);
            assert_eq!(heard(&out), candidates.into());
            let mut answer = Out::default();
            let own = (SocketAddr::from(([192, 0, 2, 9], 443)), Local::default());
            far.receive(now, own, &out.udp[0].bytes, &mut opened, &mut answer).unwrap();
            near.receive(now, (used, Local::default()), &answer.udp[0].bytes, &mut opened, &mut out).unwrap();
            assert_eq!(near.status().endpoint, Some(used));
        }
        // WireGuard's own rekey goes where the far end is.
        out.clear();
        near.begin(Instant(9_000_000_000), &mut out);
        assert_eq!(heard(&out), [candidates[1]].into());
    }

    #[test]
    fn of_the_sessions_that_nobody_used_only_the_newest_are_remembered() {
        let (mut far, mut near) = (tunnel(1, 2), tunnel(2, 1));
        let mut opened = Vec::new();
        let from = (SocketAddr::from(([192, 0, 2, 1], 443)), Local::default());
        let mut answers = Out::default();
        for n in 1..=UNCONFIRMED_SESSIONS_MAX as u64 + 1 {
            let initiation = far.wire.as_mut().unwrap().initiate(Instant(n)).unwrap();
            near.receive(Instant(n), from, &initiation, &mut opened, &mut answers).unwrap();
            assert_eq!(near.unconfirmed.len(), (n as usize).min(UNCONFIRMED_SESSIONS_MAX));
        }
        assert_eq!(answers.udp.len(), UNCONFIRMED_SESSIONS_MAX + 1, "each one was answered");
        // The newest is confirmed by what comes under it, and then nothing waits any more.
        let (mut out, newest) = (Out::default(), answers.udp.pop().unwrap().bytes);
        far.receive(Instant(9), from, &newest, &mut opened, &mut out).unwrap();
        let mut data = Vec::new();
        far.wire.as_mut().unwrap().encapsulate(Instant(9), b"packet", &mut data).unwrap();
        let received = near.receive(Instant(9), from, &data, &mut opened, &mut out).unwrap();
        assert_eq!(received.handshake, Some((from.0, true)));
        assert!(near.unconfirmed.len() < UNCONFIRMED_SESSIONS_MAX);
    }
}
