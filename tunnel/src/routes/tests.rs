use super::*;
use crate::api::Routes;
use crate::craft::{addresses, assert_sums, echo, ip, port_unreachable, tcp, udp};
use crate::headers::{ACK, SYN};
use model::limits::{DENY_HOLD, FLOWS_PER_GRANT_MAX, UDP_IDLE};
use model::net::{PortRange, Prefix};
use proptest::prelude::*;
use std::time::Duration;

const NOW: Instant = Instant(5_000_000_000);
const OWN: &str = "10.77.1.1";
const OWN6: &str = "fd12:3456:789a:1::1";
const V: &str = "10.77.64.1";
const V6: &str = "fd12:3456:789a:4::1";

fn pid(n: u8) -> PairingId {
    PairingId::from_bytes([n; 10])
}
fn rid(n: u8) -> ResourceId {
    ResourceId::from_bytes([n; 10])
}
fn open(pairing: u8) -> RouteState {
    let until = NOW.plus(Duration::from_secs(3600));
    RouteState::Granted { pairing: pid(pairing), grant: GrantId::from_bytes([pairing; 10]), until }
}
fn denied() -> RouteState {
    RouteState::Denied(NOW.plus(DENY_HOLD))
}
fn entry(resource: u8, ports: &str, state: RouteState) -> RouteEntry {
    let range = if ports == "*" { PortRange::ALL } else { ports.parse().unwrap() };
    let ports = [Protocol::Tcp, Protocol::Udp, Protocol::Icmp].map(|p| (p, range)).to_vec();
    RouteEntry { resource: rid(resource), ports, state }
}
fn routes(entries: &[(&str, RouteEntry)]) -> Routes {
    let mut routes = Routes { own: vec![ip(OWN), ip(OWN6)], ..Routes::default() };
    for (prefix, entry) in entries {
        routes.entries.entry(prefix.parse().unwrap()).or_default().push(entry.clone());
    }
    routes
}
fn one(state: RouteState) -> Routes {
    routes(&[(V, entry(1, "*", state)), (V6, entry(1, "*", state))])
}

const SEED: [u8; 32] = [3; 32];

struct Laptop {
    path: ClientPath,
    counters: Arc<Counters>,
    routes: RouteTable,
    out: Out,
    now: Instant,
}

impl Laptop {
    fn new(routes: Routes) -> Self {
        let counters = Arc::new(Counters::default());
        Self {
            path: ClientPath::new(counters.clone(), &SEED),
            counters,
            routes: RouteTable::new(routes, &SEED),
            out: Out::default(),
            now: NOW,
        }
    }
    fn send(&mut self, packet: &[u8]) -> Verdict {
        let mut padded = Frame::packet([packet, &[0; 3]].concat());
        let verdict = self.path.from_tun(self.now, &self.routes, &mut padded, &mut self.out);
        assert!(verdict == Verdict::Consumed || padded.bytes == packet, "the packet goes out as it came");
        verdict
    }
    fn receive(&mut self, pairing: u8, packet: &[u8]) -> bool {
        let mut padded = Frame::packet([packet, &[0; 3]].concat());
        let passes = self.path.from_gateway(self.now, &self.routes, pid(pairing), &mut padded);
        assert!(!passes || padded.bytes == packet);
        passes
    }
    fn swap(&mut self, new: Routes) -> Replies {
        let mut replies = Replies::new();
        self.routes = RouteTable::new(new, &SEED);
        self.path.swap(self.now, &self.routes, &mut self.out, &mut replies);
        replies
    }
    fn tun(&mut self) -> Vec<Vec<u8>> {
        self.out.tun.drain(..).map(|f| f.bytes).inspect(|b| assert_sums(b)).collect()
    }
    fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.out.events)
    }
    #[track_caller]
    fn drops(&mut self, packet: &[u8], reason: Drop) {
        let before = self.counters.of(reason);
        assert_eq!(self.send(packet), Verdict::Consumed);
        assert_eq!(self.counters.of(reason), before + 1);
    }
    #[track_caller]
    fn prohibits(&mut self, packet: &[u8], reason: Drop) {
        self.drops(packet, reason);
        let answers = self.tun();
        let (source, destination) = addresses(packet);
        assert_eq!(addresses(&answers[0]), (destination, source));
        let (head, codes) = if source.is_ipv4() { (20, [3, 13]) } else { (40, [1, 1]) };
        assert_eq!(answers[0][head..head + 2], codes);
    }
}

fn syn(port: u16, to: &str, to_port: u16) -> Vec<u8> {
    tcp((own(to), port), (ip(to), to_port), SYN, (100, 0), b"")
}
fn own(to: &str) -> IpAddr {
    if to.contains(':') { ip(OWN6) } else { ip(OWN) }
}

#[test]
fn a_granted_packet_goes_out_and_only_its_answers_come_in() {
    for to in [V, V6] {
        let mut laptop = Laptop::new(one(open(1)));
        assert_eq!(laptop.send(&syn(5000, to, 80)), Verdict::Send(pid(1)));
        let back = tcp((ip(to), 80), (own(to), 5000), SYN | ACK, (7, 101), b"");
        assert!(laptop.receive(1, &back));
        assert_eq!(laptop.send(&echo(own(to), ip(to), true, 0, b"")), Verdict::Send(pid(1)));
        assert!(laptop.receive(1, &echo(ip(to), own(to), false, 0, b"")));
        let unasked = [
            tcp((ip(to), 80), (own(to), 5000), SYN, (7, 0), b""),
            tcp((ip(to), 81), (own(to), 5000), ACK, (7, 1), b""),
            tcp((ip(to), 80), (own(to), 22), ACK, (7, 1), b""),
            udp((ip(to), 80), (own(to), 5000), b""),
            echo(ip(to), own(to), true, 0, b""),
            echo(ip(to), own(to), false, 1, b""),
        ];
        for packet in &unasked {
            assert!(!laptop.receive(1, packet));
        }
        assert_eq!(laptop.counters.of(Drop::Unasked), unasked.len() as u64);
        // Another gateway knows the flow but has no part in it.
        assert!(!laptop.receive(2, &back));
        assert_eq!(laptop.tun(), Vec::<Vec<u8>>::new());
    }
}

proptest! {
    /// A gateway that sends whatever it likes reaches no local socket.
    #[test]
    fn a_hostile_gateway_opens_nothing(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..100),
        from in 0usize..4, port: u16, to_port: u16, kind in 0usize..5, second in 1u8..4,
    ) {
        let mut laptop = Laptop::new(routes(&[("10.0.0.0/8", entry(1, "*", open(1)))]));
        laptop.send(&udp((ip(OWN), 5000), (ip("10.9.9.9"), 53), b""));
        let from = [V, "10.9.9.9", OWN, "127.0.0.1"][from];
        let (a, b) = ((ip(from), port.max(1)), (ip(OWN), to_port.max(1)));
        let packet = match kind {
            0 => tcp(a, b, [SYN, ACK, SYN | ACK, RST][usize::from(second)], (1, 2), b""),
            1 => udp(a, b, b""),
            2 => echo(a.0, b.0, true, port, b""),
            3 => port_unreachable(a.0, b.0, &udp(b, a, b"")),
            _ => {
                if let Some(first) = bytes.first_mut() { *first = 0x45; }
                bytes
            }
        };
        let flow = from == "10.9.9.9" && a.1 == 53 && b.1 == 5000 && matches!(kind, 1 | 3);
        prop_assert_eq!(laptop.receive(second, &packet), flow && second == 1);
        prop_assert_eq!(laptop.path.flows(), 1);
    }
}

#[test]
fn errors_come_in_for_flows_of_ours_only() {
    for to in [V, V6] {
        let mut laptop = Laptop::new(one(open(1)));
        let sent = udp((own(to), 5000), (ip(to), 53), b"hi");
        laptop.send(&sent);
        assert!(laptop.receive(1, &port_unreachable(ip(to), own(to), &sent)));
        let other = if to == V { ip("10.77.64.9") } else { ip("fd12:3456:789a:4::9") };
        let wrong = [
            port_unreachable(other, own(to), &sent),
            port_unreachable(ip(to), other, &sent),
            port_unreachable(ip(to), own(to), &udp((ip(to), 53), (own(to), 5000), b"")),
        ];
        for packet in &wrong {
            assert!(!laptop.receive(1, packet));
        }
        assert_eq!(laptop.counters.of(Drop::IcmpNoFlow), 3);
        assert!(!laptop.receive(1, &port_unreachable(ip(to), own(to), &udp((own(to), 5001), (ip(to), 53), b""))));
        // And out: about an answer that came through that flow's tunnel.
        let about = port_unreachable(own(to), ip(to), &udp((ip(to), 53), (own(to), 5000), b"x"));
        assert_eq!(laptop.send(&about), Verdict::Send(pid(1)));
        laptop.drops(&port_unreachable(own(to), ip(to), &sent), Drop::IcmpNoFlow);
    }
}

#[test]
fn what_may_not_go_is_answered_at_once() {
    for to in [V, V6] {
        let mut laptop = Laptop::new(routes(&[(V, entry(1, "80", denied())), (V6, entry(1, "80", denied()))]));
        laptop.prohibits(&syn(5000, to, 80), Drop::Denied);
        laptop.prohibits(&udp((own(to), 5000), (ip(to), 80), b""), Drop::Denied);
        laptop.prohibits(&syn(5000, to, 81), Drop::NotSpoken);
        let elsewhere = if to == V { "10.77.64.2" } else { "fd12:3456:789a:4::2" };
        laptop.prohibits(&syn(5000, elsewhere, 80), Drop::NoRoute);
        assert_eq!(laptop.events(), []);
        // A connection in its middle ends, which an ICMP error alone does not bring about.
        laptop.drops(&tcp((own(to), 5000), (ip(to), 80), ACK, (5, 9), b""), Drop::Denied);
        let answers = laptop.tun();
        assert_eq!(answers.len(), 2);
        assert!(
            matches!(Packet::parse(&answers[1]).unwrap().transport, Transport::Tcp(t) if t.flags == RST && t.seq == 9)
        );
    }
}

#[test]
fn packets_of_others_do_not_enter() {
    let mut laptop = Laptop::new(one(open(1)));
    for source in ["172.17.0.2", "10.77.1.2", V, "127.0.0.1"] {
        laptop.drops(&udp((ip(source), 5), (ip(V), 80), b""), Drop::SourceNotOwn);
    }
    laptop.drops(&udp((ip("fd00::1"), 5), (ip(V6), 80), b""), Drop::SourceNotOwn);
    laptop.drops(&echo(ip(OWN), ip(V), false, 1, b""), Drop::IcmpKind);
    assert_eq!((laptop.path.flows(), laptop.tun().len()), (0, 0));
}

#[test]
fn the_first_packet_asks_once_waits_and_leaves_with_the_grant() {
    let mut laptop = Laptop::new(one(RouteState::Ask));
    let packets = [syn(5000, V, 80), syn(5001, V, 80), udp((ip(OWN6), 7), (ip(V6), 80), b"x")];
    for packet in &packets {
        assert_eq!(laptop.send(packet), Verdict::Consumed);
    }
    assert_eq!(laptop.events(), [Event::Want(rid(1))]);
    let sent = laptop.swap(one(open(3)));
    assert_eq!(sent, packets.map(|p| (pid(3), p)));
    assert_eq!(laptop.path.flows(), 3);
    assert!(laptop.receive(3, &tcp((ip(V), 80), (ip(OWN), 5000), SYN | ACK, (1, 101), b"")));
    // The end of something unknown asks for nothing.
    let mut laptop = Laptop::new(one(RouteState::Ask));
    laptop.drops(&tcp((ip(OWN), 5), (ip(V), 80), RST, (1, 0), b""), Drop::NoFlow);
    assert_eq!((laptop.events(), laptop.tun().len()), (vec![], 0));
}

#[test]
fn a_denied_resource_answers_who_waited_and_is_not_asked_for_again() {
    let mut laptop = Laptop::new(one(RouteState::Ask));
    laptop.send(&syn(5000, V, 80));
    laptop.events();
    assert_eq!(laptop.swap(one(denied())), []);
    // ICMP, and the RST that no race with the sender's own `connect` swallows.
    let answers = laptop.tun();
    assert_eq!(answers.len(), 2);
    assert!(matches!(Packet::parse(&answers[1]).unwrap().transport, Transport::Tcp(t) if t.has(RST) && t.ack == 101));
    for n in 0..1000 {
        laptop.now = NOW.plus(Duration::from_millis(n * 29));
        laptop.send(&syn(5001, V, 80));
    }
    assert_eq!(laptop.events(), []);
    // When the time is over, one question.
    laptop.now = NOW.plus(DENY_HOLD);
    laptop.tun();
    for _ in 0..5 {
        laptop.send(&syn(5002, V, 80));
    }
    assert_eq!((laptop.events(), laptop.tun().len()), (vec![Event::Want(rid(1))], 0));
    // A resource that is gone answers too.
    assert_eq!(laptop.swap(routes(&[])), []);
    assert_eq!(laptop.tun().len(), 10);
}

#[test]
fn a_question_is_repeated_each_second_as_long_as_packets_come() {
    let mut laptop = Laptop::new(one(RouteState::Ask));
    let mut asked = 0;
    for tenth in 0..30 {
        laptop.now = NOW.plus(Duration::from_millis(tenth * 100));
        laptop.send(&syn(5000, V, 80));
        laptop.path.expire(laptop.now, &mut laptop.out);
        asked += laptop.events().iter().filter(|e| **e == Event::Want(rid(1))).count();
    }
    assert_eq!(asked, 3);
}

#[test]
fn waiting_is_bounded_in_packets_resources_and_time() {
    let entries: Vec<_> = (0..=WAITING_QUEUES_MAX as u32)
        .map(|n| {
            let mut e = entry(0, "*", RouteState::Ask);
            let mut id = [0; 10];
            id[..4].copy_from_slice(&n.to_be_bytes());
            e.resource = ResourceId::from_bytes(id);
            (IpAddr::from((0x0a4d_4000 + n).to_be_bytes()).to_string(), e)
        })
        .collect();
    let entries: Vec<_> = entries.iter().map(|(p, e)| (p.as_str(), e.clone())).collect();
    let mut laptop = Laptop::new(routes(&entries));
    for n in 0..WAITING_PACKETS_MAX as u16 {
        laptop.send(&syn(1 + n, "10.77.64.0", 80));
    }
    laptop.drops(&syn(99, "10.77.64.0", 80), Drop::WaitingFull);
    for (prefix, _) in &entries[1..WAITING_QUEUES_MAX] {
        laptop.send(&syn(1, prefix, 80));
    }
    assert_eq!(laptop.tun().len(), 0);
    laptop.prohibits(&syn(1, entries[WAITING_QUEUES_MAX].0, 80), Drop::WaitingQueues);
    assert_eq!(laptop.events().len(), WAITING_QUEUES_MAX);
    assert_eq!(laptop.path.expire(NOW, &mut laptop.out), NOW.plus(WAITING_MAX));
    laptop.now = NOW.plus(WAITING_MAX);
    assert_eq!(laptop.path.expire(laptop.now, &mut laptop.out), Instant::NEVER);
    let waited = WAITING_QUEUES_MAX - 1 + WAITING_PACKETS_MAX;
    assert_eq!(laptop.counters.of(Drop::WaitingExpired) as usize, waited);
    let answers = laptop.tun();
    // Each was a SYN: ICMP and RST.
    assert_eq!((answers.len(), &answers[0][20..22]), (2 * waited, &[3, 1][..]));
}

#[test]
fn a_revoke_ends_local_connections_at_once() {
    for gone in [one(RouteState::Ask), one(denied()), routes(&[])] {
        let mut laptop = Laptop::new(one(open(1)));
        laptop.send(&syn(5000, V, 80));
        laptop.receive(1, &tcp((ip(V), 80), (ip(OWN), 5000), SYN | ACK, (900, 101), b""));
        laptop.send(&tcp((ip(OWN), 5000), (ip(V), 80), ACK, (101, 901), b"GET"));
        laptop.receive(1, &tcp((ip(V), 80), (ip(OWN), 5000), ACK, (901, 104), &[0; 50]));
        laptop.send(&udp((ip(OWN), 7), (ip(V), 53), b""));
        laptop.swap(gone);
        let resets: Vec<_> = laptop.tun().iter().map(|b| Packet::parse(b).unwrap()).collect();
        let numbers: Vec<_> = resets
            .iter()
            .map(|p| match p.transport {
                Transport::Tcp(t) if t.has(RST) => (p.source, p.destination, t.seq),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(numbers, [(ip(V), ip(OWN), 951), (ip(V), ip(OWN), 901)]);
        assert_eq!(laptop.events().len(), 2);
        assert!(!laptop.receive(1, &tcp((ip(V), 80), (ip(OWN), 5000), ACK, (951, 104), b"x")));
        assert_eq!(laptop.path.flows(), 0);
    }
}

#[test]
fn a_grant_that_is_over_by_time_carries_nothing() {
    let mut laptop = Laptop::new(one(open(1)));
    laptop.send(&udp((ip(OWN), 7), (ip(V), 53), b""));
    let answer = udp((ip(V), 53), (ip(OWN), 7), b"");
    assert!(laptop.receive(1, &answer));
    laptop.now = NOW.plus(Duration::from_secs(3600));
    assert!(!laptop.receive(1, &answer));
    assert_eq!(laptop.send(&udp((ip(OWN), 7), (ip(V), 53), b"")), Verdict::Consumed);
    assert_eq!(laptop.events(), [Event::Want(rid(1))]);
}

#[test]
fn a_flow_moves_to_the_new_pairing_without_a_break() {
    let mut laptop = Laptop::new(one(open(1)));
    let (out, back) = (udp((ip(OWN), 7), (ip(V), 53), b""), udp((ip(V), 53), (ip(OWN), 7), b""));
    laptop.send(&out);
    laptop.swap(one(open(2)));
    // Answers on their way through the old one arrive; after our next packet only the new one counts.
    assert!(laptop.receive(1, &back));
    assert_eq!(laptop.send(&out), Verdict::Send(pid(2)));
    assert!(laptop.receive(2, &back));
    assert!(!laptop.receive(1, &back));
    assert_eq!(laptop.events(), []);
}

#[test]
fn what_opens_a_flow_through_a_tunnel_in_doubt_is_sent_again_through_the_next() {
    let doubt = || Routes { doubtful: BTreeSet::from([pid(1)]), ..one(open(1)) };
    let opening = [syn(5000, V, 80), udp((ip(OWN6), 7), (ip(V6), 53), b"x")];
    let middle = tcp((ip(OWN), 5000), (ip(V), 80), ACK, (101, 2), b"x");
    let sent = |laptop: &mut Laptop| {
        for packet in opening.iter().chain([&middle]) {
            assert_eq!(laptop.send(packet), Verdict::Send(pid(1)));
        }
    };
    // Another tunnel takes over: what can open a flow there goes again.
    let mut laptop = Laptop::new(doubt());
    sent(&mut laptop);
    assert_eq!(laptop.swap(doubt()), []);
    assert_eq!(laptop.swap(one(open(2))), opening.clone().map(|p| (pid(2), p)));
    assert_eq!(laptop.swap(one(open(3))), []);
    // The far end answered after all: nothing goes twice, then or later.
    let mut laptop = Laptop::new(doubt());
    sent(&mut laptop);
    assert_eq!(laptop.swap(one(open(1))), []);
    assert_eq!(laptop.swap(one(open(2))), []);
    // What is old, or denied by now, does not go either.
    let mut laptop = Laptop::new(doubt());
    sent(&mut laptop);
    laptop.now = NOW.plus(WAITING_MAX);
    laptop.path.expire(laptop.now, &mut laptop.out);
    assert_eq!(laptop.swap(one(open(2))), []);
    let mut laptop = Laptop::new(doubt());
    sent(&mut laptop);
    assert_eq!(laptop.swap(one(denied())), []);
    assert_eq!(laptop.swap(one(open(2))), []);
    // And it is bounded.
    let mut laptop = Laptop::new(doubt());
    for port in 0..2 * WAITING_PACKETS_MAX as u16 {
        laptop.send(&syn(1 + port, V, 80));
    }
    assert_eq!(laptop.swap(one(open(2))).len(), WAITING_PACKETS_MAX);
}

#[test]
fn a_datagram_of_a_flow_that_lives_does_not_go_twice() {
    let doubt = || Routes { doubtful: BTreeSet::from([pid(1)]), ..one(open(1)) };
    let order = udp((ip(OWN), 7), (ip(V), 53), b"order");
    let ping = |data: &[u8]| echo(ip(OWN), ip(V), true, 0, data);
    // The flow was there before the doubt.
    let mut laptop = Laptop::new(one(open(1)));
    laptop.send(&udp((ip(OWN), 7), (ip(V), 53), b"hello"));
    laptop.send(&ping(b"1"));
    laptop.swap(doubt());
    laptop.send(&order);
    laptop.send(&ping(b"2"));
    assert_eq!(laptop.swap(one(open(2))), []);
    // Of what was opened in doubt, only the first goes again.
    let mut laptop = Laptop::new(doubt());
    laptop.send(&ping(b"1"));
    laptop.send(&ping(b"2"));
    assert_eq!(laptop.swap(one(open(2))), [(pid(2), ping(b"1"))]);
    // It was answered before the tunnel was left.
    let mut laptop = Laptop::new(doubt());
    laptop.send(&order);
    laptop.send(&syn(5000, V, 80));
    assert!(laptop.receive(1, &udp((ip(V), 53), (ip(OWN), 7), b"done")));
    assert_eq!(laptop.swap(one(open(2))), [(pid(2), syn(5000, V, 80))]);
}

#[test]
fn what_moves_from_doubt_to_doubt_overwrites_nothing() {
    let doubt = |first, second| Routes {
        doubtful: BTreeSet::from([pid(1), pid(2)]),
        ..routes(&[(V, entry(1, "*", open(first))), (V6, entry(2, "*", open(second)))])
    };
    let mut laptop = Laptop::new(doubt(1, 2));
    laptop.send(&syn(5000, V, 80));
    laptop.send(&syn(5001, V6, 80));
    assert_eq!(laptop.swap(doubt(2, 2)), [(pid(2), syn(5000, V, 80))]);
    let again = laptop.swap(doubt(3, 3));
    assert_eq!(again, [(pid(3), syn(5001, V6, 80)), (pid(3), syn(5000, V, 80))]);
}

#[test]
fn flows_are_bounded_and_end_by_idleness() {
    let mut laptop = Laptop::new(one(open(1)));
    for n in 0..=FLOWS_PER_GRANT_MAX as u16 {
        laptop.send(&udp((ip(OWN), 1 + n), (ip(V), 53), b""));
    }
    assert_eq!(laptop.path.flows(), FLOWS_PER_GRANT_MAX);
    assert!(matches!(laptop.events().as_slice(), [Event::FlowEnded(s)] if s.end == FlowEnd::Evicted));
    laptop.now = NOW.plus(UDP_IDLE);
    while laptop.path.expire(laptop.now, &mut laptop.out) <= laptop.now {}
    assert_eq!(laptop.path.flows(), 0);
}

#[test]
fn the_longest_prefix_that_speaks_decides_and_a_grant_goes_first() {
    let mut laptop = Laptop::new(routes(&[
        ("10.0.0.0/8", entry(1, "*", open(1))),
        ("10.5.0.0/16", entry(2, "22", denied())),
        ("10.5.0.0/16", entry(3, "22-23", RouteState::Ask)),
        ("10.5.0.9", entry(4, "22", open(4))),
        ("10.5.0.9", entry(5, "22", denied())),
    ]));
    assert_eq!(laptop.send(&syn(1, "10.5.0.9", 22)), Verdict::Send(pid(4)));
    assert_eq!(laptop.send(&syn(1, "10.5.0.9", 80)), Verdict::Send(pid(1)));
    assert_eq!(laptop.send(&syn(1, "10.5.0.8", 22)), Verdict::Consumed);
    assert_eq!(laptop.events(), [Event::Want(rid(3))]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The search equals trying every prefix.
    #[test]
    fn longest_prefix_equals_a_scan(
        v6: bool,
        prefixes in proptest::collection::vec((any::<u128>(), 0u8..=128, any::<bool>()), 0..30),
        near in any::<(prop::sample::Index, u128, u32)>(),
    ) {
        let address = |bits: u128, v6: bool| if v6 { IpAddr::from(bits.to_be_bytes()) } else { IpAddr::from((bits as u32).to_be_bytes()) };
        // Few bits vary, so that prefixes nest.
        let squeeze = |bits: u128| bits & 0x8000_0003_0000_0001_0000_0000_c000_0301;
        let mut routes = Routes::default();
        for (number, (bits, len, other)) in (0..).zip(&prefixes) {
            let prefix = Prefix::containing(address(squeeze(*bits), v6 ^ (*other && *len < 20)), *len);
            routes.entries.insert(prefix, vec![entry(number, "*", RouteState::Ask)]);
        }
        let (_, noise, _) = near;
        let to = address(squeeze(noise), v6);
        let mut scan: Vec<_> = routes.entries.iter().filter(|(p, _)| p.contains(to)).collect();
        scan.sort_by_key(|(p, _)| std::cmp::Reverse(p.bits()));
        let scan: Vec<ResourceId> = scan.into_iter().flat_map(|(_, entries)| entries).map(|e| e.resource).collect();
        let table = RouteTable::new(routes, &SEED);
        let found: Vec<ResourceId> = table.towards(to).flatten().map(|e| e.resource).collect();
        prop_assert_eq!(found, scan);
    }
}
