//! Does every tunnel get its turn in time, and none without a reason? Over a wire that notes what is due, and how late it is done.

use super::control::{request, to_node};
use super::*;
use crate::double::{VirtualDoors, public_of};
use crate::peer::{MARKS, TICK_ACTIVE, TICK_IDLE};
use crate::wire::{COOKIE_LEN, Door, INITIATION_LEN, Opened, RESPONSE_LEN, Verdict, Wire, WireError};
use model::ids::{DeviceId, NodeId};
use model::limits::PEER_SWEEP_MAX;
use model::pool::CONTROL_PORT;
use parking_lot::Mutex;
use proptest::prelude::*;

/// What WireGuard waits for after data (paper, sections 6.2 and 6.5): to say that it came, and to doubt that it arrived.
const KEEPALIVE: Duration = Duration::from_secs(10);
const DOUBT: Duration = Duration::from_secs(15);

/// Turns and ticks of one tunnel keep apart by up to that.
const HASTE: Duration = Duration::from_millis(260);

/// What a tunnel has to do, and until when.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Task {
    index: u32,
    at: Instant,
    /// By so much it may be late.
    slack: Duration,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Data,
    Session,
    Newest,
}

#[derive(Default)]
struct Noted {
    open: Vec<Task>,
    late: Vec<(Task, Duration)>,
    ticks: u64,
}

/// Doors to wires without cryptography that note their timers.
#[derive(Clone, Default)]
struct Noting(Arc<Mutex<Noted>>);

struct NotingDoor(PublicKey, Noting);

struct NotingWire {
    index: u32,
    session: Option<Instant>,
    noted: Noting,
}

impl Doors for Noting {
    fn door(&self, key: &PrivateKey) -> Arc<dyn Door> {
        Arc::new(NotingDoor(public_of(key), self.clone()))
    }
}

impl Door for NotingDoor {
    fn public(&self) -> PublicKey {
        self.0
    }
    fn judge(&self, _from: SocketAddr, _datagram: &[u8]) -> Verdict {
        Verdict::Admitted
    }
    fn sender(&self, initiation: &[u8]) -> Option<PublicKey> {
        initiation.get(8..40)?.try_into().ok().map(PublicKey)
    }
    fn open(&self, _remote: &PublicKey, _kind: &PeerKind, index: u32) -> Result<Box<dyn Wire>, WireError> {
        Ok(Box::new(NotingWire { index, session: None, noted: self.1.clone() }))
    }
    fn second(&self) {}
}

impl NotingWire {
    fn note(&self, at: Instant, slack: Duration, kind: Kind) {
        self.noted.0.lock().open.push(Task { index: self.index, at, slack, kind });
    }
    fn forget_newest(&self) {
        let index = self.index;
        self.noted.0.lock().open.retain(|task| task.index != index || task.kind != Kind::Newest);
    }
    fn begin(&mut self, now: Instant) {
        self.session = Some(now);
        self.forget_newest();
        for mark in MARKS {
            let kind = if mark.as_secs() == 180 { Kind::Session } else { Kind::Newest };
            self.note(now.plus(mark), TICK_IDLE, kind);
        }
    }
    fn message(&self, kind: u8, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        bytes[0] = kind;
        bytes[4..8].copy_from_slice(&(self.index << 8).to_le_bytes());
        bytes
    }
}

impl Wire for NotingWire {
    fn tick(&mut self, now: Instant) -> Option<Vec<u8>> {
        let mut noted = self.noted.0.lock();
        noted.ticks += 1;
        let (done, open) = noted.open.iter().partition(|task| task.index == self.index && task.at <= now);
        noted.open = open;
        let done: Vec<Task> = done;
        noted.late.extend(done.into_iter().map(|task| (task, now.since(task.at))));
        if self.session.is_some_and(|since| now.since(since) >= MARKS[2]) {
            self.session = None;
        }
        None
    }
    fn has_session(&self) -> bool {
        self.session.is_some()
    }
    fn encapsulate(&mut self, now: Instant, packet: &[u8], to: &mut Vec<u8>) -> Result<(), WireError> {
        if self.session.is_none() {
            return Err(WireError::Session);
        }
        if !packet.is_empty() {
            self.note(now.plus(DOUBT), TICK_ACTIVE, Kind::Data);
        }
        to.extend(self.message(4, 32));
        Ok(())
    }
    fn decapsulate(&mut self, now: Instant, datagram: &[u8], to: &mut Vec<u8>) -> Result<Opened, WireError> {
        match (datagram[0], datagram.len()) {
            (1, _) => {
                self.begin(now);
                Ok(Opened::Answer(self.message(2, RESPONSE_LEN), self.index << 8))
            }
            (2, _) => {
                self.begin(now);
                Ok(Opened::Established(self.message(4, 32), self.index << 8))
            }
            (3, COOKIE_LEN) => Ok(Opened::Cookie),
            (_, 32) => Ok(Opened::Keepalive),
            _ => {
                self.note(now.plus(KEEPALIVE), TICK_ACTIVE, Kind::Data);
                to.resize(1, 0);
                Ok(Opened::Packet(1))
            }
        }
    }
    fn initiate(&mut self, _now: Instant) -> Option<Vec<u8>> {
        self.forget_newest();
        Some(self.message(1, INITIATION_LEN))
    }
}

fn node(n: usize) -> Peer {
    let bytes: [u8; 10] = [&[(n >> 8) as u8, n as u8][..], &[3; 8]].concat().try_into().unwrap();
    let id = NodeId::Device(DeviceId::from_bytes(bytes));
    let remote = PublicKey([&bytes[..], &[9; 22]].concat().try_into().unwrap());
    let address = crate::address_of_node(&pool(), &id);
    let endpoints = vec![addr(2)];
    Peer { id: PeerId::Node(id), remote, addresses: vec![address.into()], endpoints, ..to_node() }
}

/// A controller with so many nodes.
fn controller(doors: Arc<dyn Doors>, nodes: usize, keepalive: impl Fn(usize) -> Option<Duration>) -> Net {
    let mut net = Net::new();
    net.host_with(Role::Controller, 1, doors, Bounds::default());
    for n in 0..nodes {
        net.apply(0, Change::AddPeer(Peer { keepalive: keepalive(n), ..node(n) }));
    }
    net
}

/// Lets time go by, the engine's ticks in their time and not once besides.
fn wait(net: &mut Net, by: Duration) {
    let end = net.now.plus(by);
    loop {
        let mut out = Out::default();
        let due = net.hosts[0].engine.tick(net.now, &mut out);
        net.take(0, out);
        net.wire.clear();
        if net.now >= end {
            return;
        }
        net.now = due.min(end);
    }
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Send,
    Data,
    Keepalive,
    Initiation,
    Response,
    Forced,
}

fn acts() -> impl Strategy<Value = Vec<(u64, usize, Act)>> {
    let act = prop_oneof![
        3 => Just(Act::Send), 3 => Just(Act::Data), 2 => Just(Act::Keepalive), 1 => Just(Act::Initiation),
        2 => Just(Act::Response), 1 => Just(Act::Forced)
    ];
    // Bursts, pauses, and long silence.
    let gap = prop_oneof![0..300u64, 1_000..20_000u64, 60_000..700_000u64];
    prop::collection::vec((gap, 0..3usize, act), 1..40)
}

/// The index that the engine gave to a node: its first initiation tells.
fn index(net: &mut Net, n: usize) -> [u8; 4] {
    net.log.clear();
    net.apply(0, Change::ForceHandshake(node(n).id));
    net.log[0].2[4..8].try_into().unwrap()
}

fn message(kind: u8, len: usize, at: usize, index: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[0] = kind;
    bytes[at..at + 4].copy_from_slice(&index);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_due_is_done_soon_after(acts in acts()) {
        let doors = Noting::default();
        let keepalive = |n| [None, Some(Duration::from_secs(25)), None][n];
        let mut net = controller(Arc::new(doors.clone()), 3, keepalive);
        let indices: Vec<[u8; 4]> = (0..3).map(|n| index(&mut net, n)).collect();
        for (gap, n, act) in acts {
            wait(&mut net, Duration::from_millis(gap));
            let peer = node(n);
            let from = addr(2);
            match act {
                Act::Send => {
                    let IpAddr::V6(to) = peer.addresses[0] else { unreachable!() };
                    net.tun(0, &tcp6(pool().controller(), CONTROL_PORT, to, 9_999, ACK, b"data"));
                }
                Act::Data => drop(net.deliver(0, from, &message(4, 64, 4, indices[n]))),
                Act::Keepalive => drop(net.deliver(0, from, &message(4, 32, 4, indices[n]))),
                Act::Response => drop(net.deliver(0, from, &message(2, RESPONSE_LEN, 8, indices[n]))),
                Act::Initiation => {
                    let mut bytes = message(1, INITIATION_LEN, 4, [7; 4]);
                    bytes[8..40].copy_from_slice(&peer.remote.0);
                    net.deliver(0, from, &bytes);
                }
                Act::Forced => net.apply(0, Change::ForceHandshake(peer.id)),
            }
            let sent = net.log.drain(..).count();
            prop_assert!(!matches!(act, Act::Forced | Act::Initiation) || sent > 0, "{act:?} does nothing");
        }
        wait(&mut net, Duration::from_secs(800));
        let noted = doors.0.lock();
        for (task, late) in &noted.late {
            prop_assert!(*late <= task.slack + HASTE, "{task:?}: {late:?} late");
        }
        prop_assert_eq!(&noted.open, &[]);
    }
}

#[test]
fn who_is_idle_costs_nothing() {
    let mut net = controller(Arc::new(VirtualDoors), 3 * PEER_SWEEP_MAX, |_| None);
    let timers = net.hosts[0].engine.timers();
    wait(&mut net, Duration::from_secs(1));
    assert_eq!(timers.turns(), 3 * PEER_SWEEP_MAX as u64, "each one once, because it is new");
    wait(&mut net, Duration::from_secs(3_600));
    assert_eq!((timers.turns(), timers.len()), (3 * PEER_SWEEP_MAX as u64, 0));
}

#[test]
fn a_tunnel_that_falls_silent_is_left_alone_when_its_session_has_ended() {
    let doors = Noting::default();
    let mut net = controller(Arc::new(doors.clone()), 1, |_| None);
    let index = index(&mut net, 0);
    assert!(net.deliver(0, addr(2), &message(2, RESPONSE_LEN, 8, index)));
    net.deliver(0, addr(2), &message(4, 64, 4, index));
    let timers = net.hosts[0].engine.timers();
    wait(&mut net, Duration::from_secs(30));
    let active = timers.turns();
    assert!((30..=80).contains(&active), "{active} turns while data may be asked for");
    wait(&mut net, Duration::from_secs(600));
    let settled = timers.turns() - active;
    assert!((4..=50).contains(&settled), "{settled} turns until all is over");
    wait(&mut net, Duration::from_secs(36_000));
    assert_eq!((timers.turns(), timers.len()), (active + settled, 0));
    assert_eq!(doors.0.lock().open, []);
    // Used again, it has its turns again.
    net.apply(0, Change::ForceHandshake(node(0).id));
    assert_eq!(timers.len(), 1);
}

#[test]
fn a_tunnel_stands_in_the_queue_once_and_not_longer_than_its_peer() {
    let mut net = controller(Arc::new(VirtualDoors), 5, |_| Some(Duration::from_secs(25)));
    let timers = net.hosts[0].engine.timers();
    for _ in 0..20 {
        for n in 0..5 {
            let IpAddr::V6(to) = node(n).addresses[0] else { unreachable!() };
            net.tun(0, &tcp6(pool().controller(), CONTROL_PORT, to, 9_999, ACK, b"data"));
        }
        wait(&mut net, Duration::from_millis(700));
        assert_eq!(timers.len(), 5);
    }
    for n in 0..5 {
        net.apply(0, Change::RemovePeer(node(n).id));
        assert_eq!(timers.len(), 4 - n);
    }
    net.tun(0, &request(CONTROL_PORT));
    assert_eq!(timers.next(), Instant::NEVER);
}
