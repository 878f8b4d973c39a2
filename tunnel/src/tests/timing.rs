//! What happens when? In virtual time, over the double: minutes of protocol in milliseconds.

use super::*;
use crate::double::{VirtualDoors, public_of};
use crate::peer::{Locked, Peer as Inside, Sent};
use crate::wire::Doors;
use model::ids::PairingId;
use model::key::Psk;
use model::limits::*;

const MS: Duration = Duration::from_millis(1);

/// The datagrams, one by one.
fn apart(out: &mut Out) -> Vec<Vec<u8>> {
    let trains = out.udp.drain(..);
    trains.flat_map(|train| train.datagrams().map(<[u8]>::to_vec).collect::<Vec<_>>()).collect()
}

/// Two ends of a pairing, and the datagrams that each has sent.
struct Ends {
    now: Instant,
    a: Inside,
    b: Inside,
    sent_a: Out,
    sent_b: Out,
    opened: Vec<u8>,
    got_a: Vec<Vec<u8>>,
    got_b: Vec<Vec<u8>>,
}

fn end(own: u8, other: u8, psk: u8) -> Inside {
    let kind = PeerKind::Pairing(Psk::new([psk; 32]));
    let door = VirtualDoors.door(&key(own));
    let id = PeerId::Pairing(PairingId::from_bytes([7; 10]));
    Inside::new(id, kind, door, public_of(&key(other)), u32::from(own) * 1_000, Arc::default())
}

fn ends(psk_a: u8, psk_b: u8, candidates: &[SocketAddr], keepalive: Option<Duration>) -> Ends {
    let (a, b) = (end(2, 3, psk_a), end(3, 2, psk_b));
    a.settings().configure(candidates, keepalive);
    let now = Instant(1_000_000_000);
    Ends { now, a, b, sent_a: Out::default(), sent_b: Out::default(), opened: Vec::new(), got_a: vec![], got_b: vec![] }
}

impl Ends {
    fn lock_a(&self) -> Locked<'_> {
        self.a.lock(self.now).unwrap()
    }
    fn send_a(&mut self, packet: &[u8]) -> Sent {
        self.a.lock(self.now).unwrap().send(self.now, packet, &mut self.sent_a)
    }
    fn send_b(&mut self, packet: &[u8]) -> Sent {
        self.b.lock(self.now).unwrap().send(self.now, packet, &mut self.sent_b)
    }
    /// Delivers until quiet.
    fn exchange(&mut self) {
        let Self { now, a, b, sent_a, sent_b, opened, got_a, got_b } = self;
        while !sent_a.is_empty() || !sent_b.is_empty() {
            for datagram in apart(sent_a) {
                let from = (addr(2), Local::default());
                if let Ok(got) = b.lock(*now).unwrap().receive(*now, from, &datagram, opened, sent_b) {
                    got_b.extend(got.packet.map(|len| opened[..len].to_vec()));
                }
            }
            for datagram in apart(sent_b) {
                let from = (addr(3), Local::default());
                if let Ok(got) = a.lock(*now).unwrap().receive(*now, from, &datagram, opened, sent_a) {
                    got_a.extend(got.packet.map(|len| opened[..len].to_vec()));
                }
            }
        }
    }
    /// Lets time go by, one end's ticks in their time; answers when each datagram of `a` left, in ms, and drops them.
    fn idle_a(&mut self, by: Duration) -> Vec<(u64, SocketAddr)> {
        let (start, end) = (self.now, self.now.plus(by));
        let mut left = Vec::new();
        while self.now < end {
            let due = self.a.tick(self.now, &mut self.sent_a);
            left.extend(self.sent_a.udp.drain(..).map(|t| (self.now.since(start).as_millis() as u64, t.addr)));
            self.now = due.min(end);
        }
        left
    }
    /// Lets time go by for both, everything is delivered.
    fn live(&mut self, by: Duration) {
        let end = self.now.plus(by);
        while self.now < end {
            self.a.tick(self.now, &mut self.sent_a);
            self.b.tick(self.now, &mut self.sent_b);
            self.exchange();
            self.now = self.now.plus(Duration::from_millis(100));
        }
    }
}

fn packet(n: u8) -> Vec<u8> {
    vec![0x45, n, 1, 2]
}

/// When an initiation is sent again in so many seconds, milliseconds.
fn again(seconds: u64) -> Vec<u64> {
    (0..seconds).map(|s| s * 1_000 + 250).collect()
}

#[test]
fn packets_wait_for_the_session_and_leave_in_order() {
    let mut ends = ends(9, 9, &[addr(3)], None);
    for n in 0..WAITING_PACKETS_MAX as u8 {
        assert_eq!(ends.send_a(&packet(n)), Sent::Waiting);
    }
    assert_eq!(ends.send_a(&packet(99)), Sent::Full);
    assert_eq!(ends.sent_a.udp.len(), 1, "one initiation, and not a packet before the session");
    ends.exchange();
    assert_eq!(ends.got_b, (0..WAITING_PACKETS_MAX as u8).map(packet).collect::<Vec<_>>());
    assert_eq!(ends.send_a(&packet(5)), Sent::Sealed);
    assert_eq!(ends.send_b(&packet(6)), Sent::Sealed);
    ends.exchange();
    assert_eq!(ends.got_a, [packet(6)]);
}

#[test]
fn a_revoke_empties_the_queue() {
    let mut ends = ends(9, 9, &[addr(3)], None);
    ends.send_a(&packet(1));
    ends.send_a(&packet(2));
    assert_eq!(ends.lock_a().drop_waiting(), 2);
    ends.send_a(&packet(3));
    ends.exchange();
    assert_eq!(ends.got_b, [packet(3)]);
}

#[test]
fn an_initiation_is_sent_again_soon_then_each_second_and_given_up_after_ninety() {
    let mut ends = ends(9, 9, &[addr(3)], None);
    ends.send_a(&packet(1));
    ends.sent_a.clear();
    let left = ends.idle_a(Duration::from_secs(200));
    let times: Vec<u64> = left.iter().map(|(ms, _)| *ms).collect();
    assert_eq!(times, again(90));
    // Asked again, it begins again.
    ends.send_a(&packet(2));
    assert_eq!(ends.sent_a.udp.len(), 1);
}

#[test]
fn a_cookie_is_used_soon_but_not_as_its_echo() {
    let mut ends = ends(9, 9, &[addr(3)], None);
    ends.send_a(&packet(1));
    ends.sent_a.clear();
    ends.idle_a(Duration::from_millis(3_400));
    // Three seconds into the attempt, and 150 ms after the last initiation.
    let cookie: Vec<u8> = [3].into_iter().chain([0; 63]).collect();
    let Ends { now, a, opened, sent_a, .. } = &mut ends;
    let from = (addr(3), Local::default());
    a.lock(*now).unwrap().receive(*now, from, &cookie, opened, sent_a).unwrap();
    assert!(ends.sent_a.is_empty());
    let left: Vec<u64> = ends.idle_a(Duration::from_secs(3)).iter().map(|(ms, _)| *ms).collect();
    assert_eq!(left, [250, 1_250, 2_250]);
}

#[test]
fn a_packet_does_not_wait_longer_than_its_time() {
    let mut ends = ends(9, 9, &[addr(3)], None);
    ends.send_a(&packet(1));
    ends.sent_a.clear();
    ends.idle_a(WAITING_MAX);
    ends.send_a(&packet(2));
    ends.now = ends.now.plus(HANDSHAKE_RETRY);
    ends.a.tick(ends.now, &mut ends.sent_a);
    ends.exchange();
    assert_eq!(ends.got_b, [packet(2)]);
}

#[test]
fn a_pairing_that_never_shook_hands_tries_all_its_candidates_each_time() {
    let mut ends = ends(9, 9, &[addr(7), addr(8), addr(3)], None);
    ends.send_a(&packet(1));
    ends.sent_a.clear();
    let mut left = ends.idle_a(Duration::from_secs(10));
    left.sort();
    let all: Vec<_> = again(10).into_iter().flat_map(|ms| [3, 7, 8].map(|n| (ms, addr(n)))).collect();
    assert_eq!(left, all);
}

#[test]
fn an_unanswered_pairing_tries_its_candidates_in_turn() {
    let mut ends = ends(9, 9, &[addr(3), addr(7), addr(8)], None);
    ends.send_a(&packet(1));
    ends.exchange();
    assert!(ends.lock_a().has_session());
    // Long silence: the session is over, and a try to renew it was in vain.
    ends.idle_a(Duration::from_secs(600));
    assert!(!ends.lock_a().has_session());
    ends.send_a(&packet(2));
    ends.sent_a.clear();
    let left = ends.idle_a(Duration::from_secs(10));
    let tried: Vec<SocketAddr> = left.iter().map(|(_, to)| *to).collect();
    assert_eq!(tried, [7, 7, 7, 8, 8, 8, 3, 3, 3, 7].map(addr), "three seconds each");
}

#[test]
fn at_most_so_many_candidates_are_kept() {
    let many: Vec<SocketAddr> = (0..ENDPOINTS_MAX as u8 * 2).map(addr).collect();
    let ends = ends(9, 9, &many, None);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..many.len() {
        seen.insert(ends.lock_a().status().endpoint);
        ends.lock_a().next_candidate();
    }
    assert_eq!(seen.len(), ENDPOINTS_MAX);
}

#[test]
fn a_wrong_pre_shared_key_never_makes_a_session() {
    let mut ends = ends(9, 8, &[addr(3)], None);
    ends.send_a(&packet(1));
    ends.live(Duration::from_secs(30));
    assert!(!ends.lock_a().has_session() && ends.got_b.is_empty());
}

#[test]
fn keepalives_come_in_silence_and_only_then() {
    let every = Duration::from_secs(5);
    let mut ends = ends(9, 9, &[addr(3)], Some(every));
    ends.send_a(&packet(1));
    ends.exchange();
    let left = ends.idle_a(Duration::from_secs(21));
    assert_eq!(left.iter().map(|(ms, _)| *ms).collect::<Vec<_>>(), [5_000, 10_000, 15_000, 20_000]);
    ends.send_a(&packet(2));
    ends.sent_a.clear();
    assert_eq!(ends.idle_a(every - MS), []);
}

#[test]
fn a_tunnel_in_use_changes_its_session_without_a_gap() {
    let mut ends = ends(9, 9, &[addr(3)], None);
    ends.send_a(&packet(0));
    ends.exchange();
    ends.got_b.clear();
    let first = ends.lock_a().status().last_handshake;
    for n in 0..250u32 {
        assert_eq!(ends.send_a(&packet(n as u8)), Sent::Sealed, "second {n}");
        ends.live(Duration::from_secs(1));
    }
    assert_eq!(ends.got_b.len(), 250);
    assert!(ends.lock_a().status().last_handshake > first);
}

#[test]
fn an_idle_session_ends_and_the_next_packet_begins_another() {
    let mut ends = ends(9, 9, &[addr(3)], None);
    ends.send_a(&packet(0));
    ends.exchange();
    ends.now = ends.now.plus(Duration::from_secs(3_600));
    assert_eq!(ends.send_a(&packet(1)), Sent::Waiting, "no packet leaves under an hour-old key");
    ends.exchange();
    assert_eq!(ends.got_b, [packet(0), packet(1)]);
}

#[test]
fn only_fresh_authentic_packets_move_the_endpoint() {
    let mut ends = ends(9, 9, &[addr(3)], None);
    ends.send_a(&packet(0));
    ends.exchange();
    let at = |ends: &Ends| ends.b.status().endpoint.unwrap();
    assert_eq!(at(&ends), addr(2));
    for n in 1..=3 {
        ends.send_a(&packet(n));
    }
    let sent = apart(&mut ends.sent_a);
    let receive = |ends: &mut Ends, from: u8, bytes: &[u8]| {
        ends.b
            .lock(ends.now)
            .unwrap()
            .receive(ends.now, (addr(from), Local::default()), bytes, &mut Vec::new(), &mut Out::default())
            .is_ok()
    };
    // The client moved: its newest packet comes from elsewhere.
    assert!(receive(&mut ends, 40, &sent[1]));
    assert_eq!(at(&ends), addr(40));
    // A copy, from an attacker's address; then an older packet that was held back.
    assert!(!receive(&mut ends, 50, &sent[1]));
    assert!(receive(&mut ends, 51, &sent[0]), "late packets are taken");
    assert_eq!(at(&ends), addr(40));
    // An initiation alone moves nothing, whatever its address; the session that it leads to does.
    ends.a.lock(ends.now).unwrap().force(ends.now, &mut ends.sent_a);
    let initiation = ends.sent_a.udp.pop().unwrap().bytes;
    assert!(receive(&mut ends, 60, &initiation));
    assert_eq!(at(&ends), addr(40));
    assert!(receive(&mut ends, 2, &sent[2]));
    assert_eq!(at(&ends), addr(2));
}

#[test]
fn the_session_goes_on_while_a_handshake_is_answered_and_not_finished() {
    let mut ends = ends(9, 9, &[addr(3)], None);
    ends.send_a(&packet(0));
    ends.exchange();
    for n in 0..20 {
        ends.now = ends.now.plus(HANDSHAKE_RETRY);
        ends.a.lock(ends.now).unwrap().force(ends.now, &mut ends.sent_a);
        let initiation = ends.sent_a.udp.pop().unwrap().bytes;
        let from = (addr(2), Local::default());
        ends.b
            .lock(ends.now)
            .unwrap()
            .receive(ends.now, from, &initiation, &mut Vec::new(), &mut Out::default())
            .unwrap();
        assert_eq!(ends.send_b(&packet(n)), Sent::Sealed);
        ends.sent_a.clear();
        ends.exchange();
    }
    assert_eq!(ends.got_a.len(), 20);
}
