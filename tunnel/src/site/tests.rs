use super::*;
use crate::craft::{addresses, assert_sums, echo, error, ip, port_unreachable, tcp, udp};
use crate::headers::{ACK, FIN, SYN};
use grant::{PairingView, Scope};
use model::grant::{Grant, Pairing};
use model::ids::ResourceId;
use model::key::{Psk, PublicKey};
use model::limits::{
    ICMP_ERRORS_PER_SECOND, UDP_IDLE, WAITING_MAX, WAITING_PACKETS_MAX, WAITING_QUEUES_MAX,
    WAITING_QUEUES_PER_DEVICE_MAX,
};
use model::net::PortRange;
use model::pool::{NatPool, Pool};
use proptest::prelude::*;

const NOW: Instant = Instant(5_000_000_000);
const DB: &str = "10.5.0.9";
const DB6: &str = "fd50::9";
/// Virtual addresses.
const V1: &str = "10.77.64.1";
const V2: &str = "10.77.64.2";
const V6: &str = "fd12:3456:789a:4::1";

fn pool() -> Pool {
    Pool::new("10.77.0.0/16".parse().unwrap(), "fd12:3456:789a::/48".parse().unwrap()).unwrap()
}
fn scope() -> Scope {
    Scope {
        pool: pool(),
        nat: NatPool { v4: "198.18.0.0/15".parse().unwrap(), v6: "fd99::/48".parse().unwrap() },
        // Everything, so that only the other checks refuse.
        site: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
        own: vec![ip("10.5.0.1"), ip("fd50::1")],
    }
}
fn pid(n: u8) -> PairingId {
    PairingId::from_bytes([n; 10])
}
fn gid(n: u8) -> GrantId {
    GrantId::from_bytes([n; 10])
}
fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

/// A rule: client side, target (prefix or name), protocol, ports.
fn rule(client: &str, target: &str, protocol: Protocol, ports: &str) -> Rule {
    let target = target.parse().map(Target::Prefix).unwrap_or_else(|_| Target::Name(name(target)));
    let ports = if ports == "*" { PortRange::ALL } else { ports.parse().unwrap() };
    Rule { client: client.parse().unwrap(), target, protocol, ports }
}

fn all_of(client: &str, target: &str) -> Vec<Rule> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Icmp].map(|p| rule(client, target, p, "*")).to_vec()
}

fn granted_with(
    id: u8,
    pairing: u8,
    device: u8,
    rules: Vec<Rule>,
    change: impl FnOnce(&mut Grant),
) -> Arc<VerifiedGrant> {
    let mut grant = Grant {
        id: gid(id),
        pairing: pid(pairing),
        device: DeviceId::from_bytes([device; 10]),
        resource: ResourceId::from_bytes([id; 10]),
        rules,
        nat_v4: Ipv4Addr::new(198, 18, 0, id),
        nat_v6: Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, id.into()),
        ends_in: Duration::from_secs(60),
        lease: Duration::from_secs(60),
        on_gateway: false,
    };
    change(&mut grant);
    Arc::new(VerifiedGrant::verify(grant, &scope()).unwrap())
}

fn granted(id: u8, pairing: u8, device: u8, rules: Vec<Rule>) -> Arc<VerifiedGrant> {
    granted_with(id, pairing, device, rules, |_| {})
}

/// The device's addresses: 10.77.1.N and ...:1::N.
fn device4(n: u8) -> IpAddr {
    IpAddr::from([10, 77, 1, n])
}
fn device6(n: u8) -> IpAddr {
    ip(&format!("fd12:3456:789a:1::{n:x}"))
}

/// Pairings (number, device) with their grants.
fn view(pairings: &[(u8, u8, &[Arc<VerifiedGrant>])]) -> View {
    let mut view = View::empty(Arc::new(scope()));
    for (id, device, grants) in pairings {
        let (IpAddr::V4(device_v4), IpAddr::V6(device_v6)) = (device4(*device), device6(*device)) else { panic!() };
        let pairing = Pairing {
            id: pid(*id),
            device: DeviceId::from_bytes([*device; 10]),
            client_key: PublicKey([*id; 32]),
            psk: Psk::new([*id; 32]),
            device_v4,
            device_v6,
        };
        let pairing = PairingView { pairing: Arc::new(pairing), grants: grants.to_vec() };
        view.pairings.insert(pid(*id), pairing);
    }
    view
}

/// One client with one grant to one database over both families.
fn simple() -> View {
    let mut rules = all_of(V1, DB);
    rules.extend(all_of(V6, DB6));
    view(&[(1, 1, &[granted(1, 1, 1, rules)])])
}

/// A gateway in a test.
struct Gate {
    site: Site,
    counters: Arc<Counters>,
    view: View,
    out: Out,
    replies: Replies,
    now: Instant,
}

impl Gate {
    fn new(view: View) -> Self {
        Self::with_caps(view, Caps::default())
    }
    fn with_caps(view: View, caps: Caps) -> Self {
        let counters = Arc::new(Counters::default());
        let site = Site::with_caps(counters.clone(), [7; 32], caps);
        Self { site, counters, view, out: Out::default(), replies: Vec::new(), now: NOW }
    }
    /// What reaches the service's side.
    fn up(&mut self, pairing: u8, packet: &[u8]) -> Vec<Vec<u8>> {
        let frame = Frame::packet(packet.to_vec());
        self.site.from_client(self.now, &self.view, pid(pairing), frame, &mut self.out, &mut self.replies);
        self.tun()
    }
    fn up_one(&mut self, pairing: u8, packet: &[u8]) -> Vec<u8> {
        let mut sent = self.up(pairing, packet);
        assert_eq!(sent.len(), 1, "{:?}", self.counted());
        sent.remove(0)
    }
    fn tun(&mut self) -> Vec<Vec<u8>> {
        self.out.tun.drain(..).map(|f| f.bytes).inspect(|b| assert_sums(b)).collect()
    }
    /// What the client gets for a packet of a service.
    fn down(&mut self, packet: &[u8]) -> Option<(PairingId, Vec<u8>)> {
        let mut frame = Frame::packet(packet.to_vec());
        let pairing = self.site.from_service(self.now, &mut frame)?;
        assert_sums(&frame.bytes);
        Some((pairing, frame.bytes))
    }
    fn replied(&mut self) -> Replies {
        self.replies.iter().for_each(|(_, b)| assert_sums(b));
        std::mem::take(&mut self.replies)
    }
    fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.out.events)
    }
    fn swap(&mut self, new: View) {
        let old = std::mem::replace(&mut self.view, new);
        self.site.swap(self.now, &old, &self.view, &mut self.out, &mut self.replies);
    }
    fn resolved(&mut self, text: &str, addresses: &[&str], ttl: u64) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|a| ip(a)).collect();
        let v4 = addresses.first().is_none_or(IpAddr::is_ipv4);
        let ttl = Duration::from_secs(ttl);
        self.site.resolved(self.now, &self.view, &name(text), v4, addresses, ttl, &mut self.out, &mut self.replies);
    }
    fn expire(&mut self) -> Instant {
        self.site.expire(self.now, &mut self.out, &mut self.replies)
    }
    /// Every counter that is not zero.
    fn counted(&self) -> Vec<(&'static str, u64)> {
        self.counters.all().into_iter().filter(|(_, n)| *n > 0).collect()
    }
    #[track_caller]
    fn drops(&mut self, pairing: u8, packet: &[u8], reason: Drop) {
        let before = self.counters.of(reason);
        assert!(self.up(pairing, packet).is_empty());
        assert_eq!(self.counters.of(reason), before + 1, "{reason:?}: {:?}", self.counted());
    }
}

fn syn(port: u16, to: &str, to_port: u16) -> Vec<u8> {
    tcp((device_for(to), port), (ip(to), to_port), SYN, (100, 0), b"")
}
fn device_for(to: &str) -> IpAddr {
    if to.contains(':') { device6(1) } else { device4(1) }
}

// -- the way there and back ------------------------------------------------------------------------------------------

#[test]
fn a_connection_goes_there_and_back() {
    for (to, real, nat) in [(V1, DB, "198.18.0.1"), (V6, DB6, "fd99::1")] {
        let mut gate = Gate::new(simple());
        let sent = gate.up_one(1, &syn(5000, to, 80));
        let mut expected = tcp((ip(nat), 5000), (ip(real), 80), SYN, (100, 0), b"");
        let hops = if to == V1 { 8 } else { 7 };
        expected[hops] = 63;
        if to == V1 {
            crate::craft::seal_v4(&mut expected);
        }
        assert_eq!(sent, expected);
        let back = tcp((ip(real), 80), (ip(nat), 5000), SYN | ACK, (900, 101), b"");
        let (pairing, got) = gate.down(&back).unwrap();
        assert_eq!((pairing, got), (pid(1), tcp((ip(to), 80), (device_for(to), 5000), SYN | ACK, (900, 101), b"")));
        // Only that service, only from that port, only to that address.
        for stray in [
            tcp((ip(real), 81), (ip(nat), 5000), ACK, (1, 1), b""),
            tcp((ip(real), 80), (ip(nat), 5001), ACK, (1, 1), b""),
            udp((ip(real), 80), (ip(nat), 5000), b""),
        ] {
            assert_eq!(gate.down(&stray), None);
        }
        assert_eq!(gate.counters.of(Drop::NoFlow), 3);
    }
}

#[test]
fn echo_goes_there_and_back_and_no_other_way() {
    for (to, real, nat) in [(V1, DB, "198.18.0.1"), (V6, DB6, "fd99::1")] {
        let mut gate = Gate::new(simple());
        gate.up_one(1, &echo(device_for(to), ip(to), true, 0, b"hi"));
        let (_, got) = gate.down(&echo(ip(real), ip(nat), false, 0, b"hi")).unwrap();
        assert_eq!(got, echo(ip(to), device_for(to), false, 0, b"hi"));
        assert_eq!(gate.down(&echo(ip(real), ip(nat), true, 0, b"hi")), None);
        gate.drops(1, &echo(device_for(to), ip(to), false, 0, b"hi"), Drop::IcmpKind);
    }
}

#[test]
fn nothing_of_the_service_side_passes_without_a_flow() {
    let mut gate = Gate::new(simple());
    assert_eq!(gate.down(&tcp((ip(DB), 80), (ip("198.18.0.1"), 5000), SYN, (1, 0), b"")), None);
    assert_eq!(gate.down(&udp((ip(DB), 80), (device4(1), 5000), b"")), None);
    assert_eq!(gate.counters.of(Drop::NoFlow), 2);
    assert_eq!(gate.site.flows(), 0);
}

#[test]
fn the_bits_behind_a_prefix_are_carried_over() {
    let rules = vec![
        rule("192.168.4.0/24", "192.168.4.0/24", Protocol::Udp, "53"),
        rule("fd60::/64", "fd60::/64", Protocol::Udp, "53"),
    ];
    let mut gate = Gate::new(view(&[(1, 1, &[granted(1, 1, 1, rules)])]));
    for to in ["192.168.4.0", "192.168.4.77", "192.168.4.255", "fd60::", "fd60::1:2:3:4"] {
        assert_eq!(addresses(&gate.up_one(1, &udp((device_for(to), 9), (ip(to), 53), b""))).1, ip(to));
    }
    gate.drops(1, &udp((device4(1), 9), (ip("192.168.5.1"), 53), b""), Drop::NoGrant);
    assert_eq!(carry(ip("10.77.64.200"), &"10.5.0.64/26".parse().unwrap()), ip("10.5.0.72"));
    assert_eq!(carry(ip("1.2.3.4"), &"0.0.0.0/0".parse().unwrap()), ip("1.2.3.4"));
}

proptest! {
    /// Whatever is sent: the service sees the grant's address, the answer has the original ends swapped, checksums hold.
    #[test]
    fn round_trips_give_the_original_ends_back(
        flows in proptest::collection::vec((1u16.., 1u16.., 0u8..4, any::<bool>(), any::<bool>()), 1..20),
        payload in proptest::collection::vec(any::<u8>(), 0..30),
    ) {
        let rules = |a: &str, b: &str| { let mut r = all_of(a, DB); r.extend(all_of(b, DB)); r };
        // Two grants to one real address; one of them by two virtual addresses.
        let mut gate = Gate::new(view(&[(1, 1, &[granted(1, 1, 1, rules(V1, V2)), granted(2, 1, 1, all_of("10.77.64.3", DB))])]));
        for (sport, dport, which, is_tcp, is_echo) in flows {
            let to = [V1, V2, "10.77.64.3", V1][usize::from(which)];
            let (a, b) = ((device4(1), sport), (ip(to), dport));
            let packet = match (is_echo, is_tcp) {
                (true, _) => echo(a.0, b.0, true, sport, &payload),
                (_, true) => tcp(a, b, ACK, (1, 2), &payload),
                _ => udp(a, b, &payload),
            };
            let sent = gate.up_one(1, &packet);
            let p = Packet::parse(&sent).unwrap();
            prop_assert_eq!((p.source, p.destination), (ip(if which == 2 { "198.18.0.2" } else { "198.18.0.1" }), ip(DB)));
            let (a, b) = ((p.destination, p.destination_port()), (p.source, p.source_port()));
            let answer = match (is_echo, is_tcp) {
                (true, _) => echo(a.0, b.0, false, b.1, &payload),
                (_, true) => tcp(a, b, ACK, (3, 4), &payload),
                _ => udp(a, b, &payload),
            };
            let (_, got) = gate.down(&answer).unwrap();
            let q = Packet::parse(&got).unwrap();
            prop_assert_eq!((q.source, q.destination, q.destination_port()), (ip(to), device4(1), sport));
            if !is_echo {
                prop_assert_eq!(q.source_port(), dport);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_never_pass(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), first in 0usize..3) {
        let mut gate = Gate::new(simple());
        gate.up(1, &syn(5000, V1, 80));
        if let Some(b) = bytes.first_mut() { *b = [0x45, 0x60, *b][first]; }
        prop_assert!(gate.up(1, &bytes).is_empty());
        prop_assert!(gate.down(&bytes).is_none());
        prop_assert_eq!(gate.site.flows(), 1);
        prop_assert_eq!(gate.counted().iter().map(|(_, n)| n).sum::<u64>(), 2);
    }
}

// -- who may send what -----------------------------------------------------------------------------------------------

/// All ordered pairs, with CIDR grants nested in each other, each sending with the other's addresses.
#[test]
fn nobody_speaks_with_anothers_address() {
    let nets = ["0.0.0.0/1", "10.0.0.0/9", "10.5.0.0/16", "10.5.0.0/24", "10.5.0.9"];
    let grants: Vec<_> = (1..=5u8)
        .map(|n| {
            let prefix = nets[usize::from(n) - 1];
            let mut rules = all_of(prefix, prefix);
            rules.extend(all_of(V1, DB));
            granted(n, n, n, rules)
        })
        .collect();
    let pairings: Vec<_> = (1..=5u8).map(|n| (n, n, std::slice::from_ref(&grants[usize::from(n) - 1]))).collect();
    let mut gate = Gate::new(view(&pairings));
    // Each has a live flow, which must not help the others.
    for n in 1..=5 {
        gate.up_one(n, &udp((device4(n), 9), (ip(DB), 80), b""));
    }
    let mut tried = 0;
    for sender in 1..=5u8 {
        for victim in (1..=5u8).filter(|v| *v != sender) {
            for to in [DB, V1, "10.5.0.77"] {
                for source in [device4(victim), ip(DB), ip("198.18.0.1"), ip("127.0.0.1"), ip(V1)] {
                    let packets = [
                        udp((source, 9), (ip(to), 80), b""),
                        tcp((source, 9), (ip(to), 80), SYN, (0, 0), b""),
                        echo(source, ip(to), true, 9, b""),
                        port_unreachable(source, ip(to), &udp((ip(to), 80), (source, 9), b"")),
                    ];
                    for packet in packets {
                        gate.drops(sender, &packet, Drop::SourceNotOwned);
                        tried += 1;
                    }
                }
            }
            gate.drops(sender, &udp((device6(victim), 9), (ip(V6), 80), b""), Drop::SourceNotOwned);
        }
    }
    assert_eq!((tried, gate.site.flows()), (5 * 4 * 3 * 5 * 4, 5));
    gate.drops(9, &udp((device4(1), 9), (ip(DB), 80), b""), Drop::UnknownPairing);
}

#[test]
fn an_old_and_a_new_pairing_own_the_same_address_and_answers_follow_the_client() {
    let grants = [granted(1, 1, 1, all_of(V1, DB)), granted(2, 2, 1, all_of(V1, DB))];
    let both = view(&[(1, 1, &grants[..1]), (2, 1, &grants[1..])]);
    let mut gate = Gate::new(both);
    let packet = udp((device4(1), 9), (ip(V1), 80), b"");
    let answer = udp((ip(DB), 80), (ip("198.18.0.1"), 9), b"");
    gate.up_one(1, &packet);
    assert_eq!(gate.down(&answer).unwrap().0, pid(1));
    // Same flow, same grant, same address towards the service; only the tunnel is another.
    assert_eq!(addresses(&gate.up_one(2, &packet)).0, ip("198.18.0.1"));
    assert_eq!((gate.down(&answer).unwrap().0, gate.site.flows()), (pid(2), 1));
    // The grant moves to the new pairing: the flow lives on, and so does its address.
    let moved = granted(1, 2, 1, all_of(V1, DB));
    gate.swap(view(&[(2, 1, &[moved])]));
    assert_eq!(gate.down(&answer).unwrap().0, pid(2));
    let closed = Event::GrantClosed { grant: gid(2), nat: [ip("198.18.0.2"), ip("fd99::2")] };
    assert_eq!(gate.events(), [closed]);
}

#[test]
fn a_grant_that_moves_takes_its_quiet_flows_along() {
    let mut gate = Gate::new(view(&[(1, 1, &[granted(1, 1, 1, all_of(V1, DB))])]));
    gate.up_one(1, &syn(5000, V1, 80));
    gate.swap(view(&[(2, 1, &[granted(1, 2, 1, all_of(V1, DB))])]));
    let back = tcp((ip(DB), 80), (ip("198.18.0.1"), 5000), SYN | ACK, (900, 101), b"");
    assert_eq!(gate.down(&back).unwrap().0, pid(2));
    assert_eq!(gate.events(), []);
}

// -- ports -----------------------------------------------------------------------------------------------------------

#[test]
fn two_grants_to_one_address_and_port_do_not_share_a_flow() {
    let grants = [granted(1, 1, 1, all_of(V1, DB)), granted(2, 1, 1, all_of(V2, DB))];
    let mut gate = Gate::new(view(&[(1, 1, &grants)]));
    let first = gate.up_one(1, &syn(5000, V1, 80));
    let second = gate.up_one(1, &syn(5000, V2, 80));
    assert_ne!(addresses(&first).0, addresses(&second).0);
    let back = |nat: &str| tcp((ip(DB), 80), (ip(nat), 5000), SYN | ACK, (1, 101), b"");
    assert_eq!(addresses(&gate.down(&back("198.18.0.1")).unwrap().1).0, ip(V1));
    assert_eq!(addresses(&gate.down(&back("198.18.0.2")).unwrap().1).0, ip(V2));
    // Revoking one leaves the other.
    gate.swap(view(&[(1, 1, &grants[1..])]));
    gate.replied();
    gate.tun();
    assert_eq!(gate.down(&back("198.18.0.1")), None);
    assert_eq!(addresses(&gate.down(&back("198.18.0.2")).unwrap().1).0, ip(V2));
    assert_eq!(addresses(&gate.up_one(1, &syn(5000, V2, 80))).0, ip("198.18.0.2"));
}

#[test]
fn two_virtual_addresses_of_one_grant_get_two_ports() {
    let mut rules = all_of(V1, DB);
    rules.extend(all_of(V2, DB));
    let mut gate = Gate::new(view(&[(1, 1, &[granted(1, 1, 1, rules)])]));
    gate.up_one(1, &syn(5000, V1, 80));
    let second = Packet::parse(&gate.up_one(1, &syn(5000, V2, 80))).unwrap();
    assert_ne!(second.source_port(), 5000);
    let (_, got) = gate.down(&tcp((ip(DB), 80), (second.source, second.source_port()), ACK, (1, 1), b"")).unwrap();
    let got = Packet::parse(&got).unwrap();
    assert_eq!((got.source, got.destination_port()), (ip(V2), 5000));
}

#[test]
fn a_port_used_again_after_the_end_is_a_new_flow() {
    let mut gate = Gate::new(simple());
    gate.up_one(1, &syn(5000, V1, 80));
    let nat = (ip("198.18.0.1"), 5000);
    gate.down(&tcp((ip(DB), 80), nat, SYN | ACK, (900, 101), b"")).unwrap();
    gate.up_one(1, &tcp((device4(1), 5000), (ip(V1), 80), FIN | ACK, (101, 901), b""));
    gate.down(&tcp((ip(DB), 80), nat, FIN | ACK, (901, 102), b"")).unwrap();
    gate.up_one(1, &tcp((device4(1), 5000), (ip(V1), 80), ACK, (102, 902), b""));
    assert_eq!(gate.events(), []);
    gate.up_one(1, &syn(5000, V1, 80));
    let events = gate.events();
    let [Event::FlowEnded(summary)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((summary.end, summary.up.0, summary.down.0, summary.port), (FlowEnd::Closed, 3, 2, 80));
    assert_eq!((summary.target, summary.grant, gate.site.flows()), (ip(DB), gid(1), 1));
}

#[test]
fn a_connection_goes_on_after_the_gateway_forgot_it() {
    let mut gate = Gate::new(simple());
    let middle = tcp((device4(1), 5000), (ip(V1), 80), ACK, (555, 777), b"data");
    assert_eq!(addresses(&gate.up_one(1, &middle)).0, ip("198.18.0.1"));
    // But what ends a connection opens none.
    gate.drops(1, &tcp((device4(1), 5001), (ip(V1), 80), RST, (5, 0), b""), Drop::NoFlow);
    assert!(gate.replied().is_empty());
}

// -- hops and errors -------------------------------------------------------------------------------------------------

#[test]
fn a_packet_without_hops_is_answered_by_the_virtual_address() {
    for (to, at, codes) in [(V1, 8, [11, 0]), (V6, 7, [3, 0])] {
        let mut gate = Gate::new(simple());
        let mut packet = syn(5000, to, 80);
        packet[at] = 1;
        if to == V1 {
            crate::craft::seal_v4(&mut packet);
        }
        gate.drops(1, &packet, Drop::HopsExhausted);
        let (pairing, answer) = gate.replied().pop().unwrap();
        assert_eq!((pairing, addresses(&answer)), (pid(1), (ip(to), device_for(to))));
        let head = if to == V1 { 20 } else { 40 };
        assert_eq!(answer[head..head + 2], codes);
        assert_eq!(gate.site.flows(), 0);
    }
}

#[test]
fn our_own_errors_have_a_rate() {
    let mut gate = Gate::new(simple());
    let mut packet = syn(5000, V6, 80);
    packet[7] = 1;
    for _ in 0..ICMP_ERRORS_PER_SECOND + 5 {
        gate.up(1, &packet);
    }
    assert_eq!((gate.replied().len() as u64, gate.counters.of(Drop::IcmpRate)), (ICMP_ERRORS_PER_SECOND, 5));
}

#[test]
fn errors_of_the_service_side_show_only_virtual_addresses() {
    for (to, real, nat, router, big) in
        [(V1, DB, "198.18.0.1", "10.5.0.254", (3, 4)), (V6, DB6, "fd99::1", "fd50::fe", (2, 0))]
    {
        let mut gate = Gate::new(simple());
        let original = udp((device_for(to), 5000), (ip(to), 80), &[9; 60]);
        let sent = gate.up_one(1, &original);
        let echoed = gate.up_one(1, &echo(device_for(to), ip(to), true, 42, b"x"));
        let rest = [0, 0, 5, 0];
        for (kind, quote) in [(big, &sent), (big, &echoed)] {
            for cut in [quote.len(), if to == V1 { 28 } else { 48 }] {
                let message = error(ip(router), ip(nat), kind, rest, &quote[..cut]);
                let (pairing, got) = gate.down(&message).unwrap();
                assert_eq!((pairing, addresses(&got)), (pid(1), (ip(to), device_for(to))));
                let head = if to == V1 { 20 } else { 40 };
                assert_eq!(got[head + 4..head + 8], rest, "the MTU");
                let inner = &got[head + 8..];
                assert_eq!(addresses(inner), (device_for(to), ip(to)));
                for secret in [real, nat, router] {
                    let bytes = crate::craft::raw(ip(secret), ip(secret), 59, b"");
                    let needle = if to == V1 { &bytes[12..16] } else { &bytes[8..24] };
                    assert!(!got.windows(needle.len()).any(|w| w == needle), "{secret} shows");
                }
                // The quote is the client's own packet but for the hop that it took.
                let mut whole = inner.to_vec();
                if cut == quote.len() {
                    assert_sums(&whole);
                    whole[if to == V1 { 8 } else { 7 }] = 64;
                    if to == V1 {
                        crate::craft::seal_v4(&mut whole);
                    }
                    assert!(whole == original || whole == echo(device_for(to), ip(to), true, 42, b"x"));
                }
            }
        }
    }
}

#[test]
fn errors_about_no_live_flow_in_that_direction_do_not_pass() {
    let mut gate = Gate::new(simple());
    let sent = gate.up_one(1, &udp((device4(1), 5000), (ip(V1), 80), b"x"));
    let nat = ip("198.18.0.1");
    let wrong = [
        // Another port, another protocol, the wrong direction, another outer destination, an echo reply.
        udp((nat, 5001), (ip(DB), 80), b"x"),
        udp((nat, 5000), (ip(DB), 81), b"x"),
        tcp((nat, 5000), (ip(DB), 80), SYN, (0, 0), b""),
        udp((ip(DB), 80), (nat, 5000), b"x"),
        echo(nat, ip(DB), false, 5000, b""),
    ];
    for quote in &wrong {
        assert_eq!(gate.down(&port_unreachable(ip(DB), nat, quote)), None);
    }
    assert_eq!(gate.down(&port_unreachable(ip(DB), ip("198.18.0.2"), &sent)), None);
    assert_eq!(gate.counters.of(Drop::IcmpNoFlow), 6);
    assert!(gate.down(&port_unreachable(ip(DB), nat, &sent)).is_some());
}

#[test]
fn an_echo_reply_in_an_error_is_not_the_request() {
    let mut gate = Gate::new(simple());
    gate.up_one(1, &echo(device4(1), ip(V1), true, 42, b""));
    let nat = ip("198.18.0.1");
    assert_eq!(gate.down(&port_unreachable(ip(DB), nat, &echo(nat, ip(DB), false, 42, b""))), None);
    assert!(gate.down(&port_unreachable(ip(DB), nat, &echo(nat, ip(DB), true, 42, b""))).is_some());
}

#[test]
fn errors_of_a_client_pass_for_its_live_flow_only() {
    for (to, real, nat) in [(V1, DB, "198.18.0.1"), (V6, DB6, "fd99::1")] {
        let grants = [granted(1, 1, 1, {
            let mut r = all_of(V1, DB);
            r.extend(all_of(V6, DB6));
            r
        })];
        let other = [granted(2, 2, 2, {
            let mut r = all_of(V1, DB);
            r.extend(all_of(V6, DB6));
            r
        })];
        let mut gate = Gate::new(view(&[(1, 1, &grants), (2, 2, &other)]));
        let own = device_for(to);
        gate.up_one(1, &udp((own, 5000), (ip(to), 80), b"x"));
        let from_service = udp((ip(real), 80), (ip(nat), 5000), b"answer");
        let (_, got) = gate.down(&from_service).unwrap();
        let sent = gate.up_one(1, &port_unreachable(own, ip(to), &got));
        assert_eq!(addresses(&sent), (ip(nat), ip(real)));
        assert_eq!(&sent[if to == V1 { 28 } else { 48 }..], from_service.as_slice());
        let wrong = [
            port_unreachable(own, ip(to), &udp((ip(to), 81), (own, 5000), b"")),
            port_unreachable(own, ip(to), &udp((ip(to), 80), (own, 5001), b"")),
            port_unreachable(own, ip(to), &udp((own, 5000), (ip(to), 80), b"")),
            port_unreachable(own, ip(real), &got),
        ];
        for packet in wrong {
            gate.drops(1, &packet, Drop::IcmpNoFlow);
        }
        // The other client knows of the flow but cannot speak about it.
        let stranger = if to == V1 { device4(2) } else { device6(2) };
        gate.drops(2, &port_unreachable(stranger, ip(to), &got), Drop::IcmpNoFlow);
        gate.drops(2, &port_unreachable(own, ip(to), &got), Drop::SourceNotOwned);
    }
}

// -- final destinations ----------------------------------------------------------------------------------------------

fn by_name() -> View {
    view(&[(
        1,
        1,
        &[granted(1, 1, 1, {
            let mut r = all_of(V1, "db.example");
            r.extend(all_of(V6, "db.example"));
            r
        })],
    )])
}

#[test]
fn the_first_packet_waits_for_the_name_and_the_flow_keeps_its_address() {
    let mut gate = Gate::new(by_name());
    assert!(gate.up(1, &syn(5000, V1, 80)).is_empty());
    assert!(gate.up(1, &syn(5001, V1, 80)).is_empty());
    assert_eq!(gate.events(), [Event::Resolve { name: name("db.example"), v4: true }]);
    gate.resolved("db.example", &[DB], 30);
    let sent = gate.tun();
    assert_eq!(sent.iter().map(|b| addresses(b).1).collect::<Vec<_>>(), [ip(DB), ip(DB)]);
    // Within its time the answer serves new flows; then it is asked for again.
    assert_eq!(addresses(&gate.up_one(1, &syn(5002, V1, 80))).1, ip(DB));
    gate.now = NOW.plus(Duration::from_secs(31));
    assert!(gate.up(1, &syn(5003, V1, 80)).is_empty());
    assert_eq!(gate.events(), [Event::Resolve { name: name("db.example"), v4: true }]);
    gate.resolved("db.example", &["10.5.0.10"], 0);
    assert_eq!(addresses(&gate.tun()[0]).1, ip("10.5.0.10"));
    // The old flow goes where it went.
    assert_eq!(addresses(&gate.up_one(1, &syn(5000, V1, 80))).1, ip(DB));
}

#[test]
fn a_name_that_turns_to_a_forbidden_address_opens_nothing() {
    let forbidden = [
        "169.254.169.254",
        "10.5.0.1", // the gateway's own
        "127.0.0.1",
        "0.0.0.0",
        "10.77.1.2", // overlay
        "198.18.0.9",
        "224.0.0.1",
        "255.255.255.255",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::",
        "::1",
        "fe80::1",
        "fd50::1",
        "fd12:3456:789a:1::2",
        "fd99::5",
    ];
    for bad in forbidden {
        let mut gate = Gate::new(by_name());
        let (to, good) = if bad.contains(':') { (V6, DB6) } else { (V1, DB) };
        gate.up(1, &syn(5000, to, 80));
        gate.resolved("db.example", &[good], 1);
        assert_eq!(gate.tun().len(), 1);
        gate.events();
        gate.now = NOW.plus(Duration::from_secs(2));
        gate.up(1, &syn(5001, to, 80));
        gate.resolved("db.example", &[bad], 10);
        assert!(gate.tun().is_empty(), "{bad}");
        assert_eq!(gate.counters.of(Drop::TargetRefused), 1);
        let refused = Event::TargetRefused { grant: gid(1), target: ip(bad) };
        assert!(gate.events().contains(&refused), "{bad}");
        // The client hears at once; the administrator hears once.
        assert_eq!(gate.replied().len(), 1);
        gate.drops(1, &syn(5002, to, 80), Drop::TargetRefused);
        assert_eq!(gate.events(), []);
        // The live flow keeps its address.
        assert_eq!(addresses(&gate.up_one(1, &syn(5000, to, 80))).1, ip(good));
    }
}

#[test]
fn a_refused_address_does_not_hide_a_good_one() {
    let mut gate = Gate::new(by_name());
    gate.up(1, &syn(5000, V1, 80));
    gate.resolved("db.example", &["127.0.0.1", DB], 1);
    assert_eq!(addresses(&gate.tun()[0]).1, ip(DB));
    assert_eq!(gate.events().len(), 2);
}

#[test]
fn refused_cidr_addresses_and_on_gateway() {
    let everything = all_of("0.0.0.0/0", "0.0.0.0/0");
    let mut gate = Gate::new(view(&[(1, 1, &[granted(1, 1, 1, everything.clone())])]));
    for bad in ["169.254.169.254", "127.0.0.1", "10.5.0.1", "10.77.1.2", "10.77.64.9", "198.18.0.1"] {
        gate.drops(1, &udp((device4(1), 1), (ip(bad), 80), b""), Drop::TargetRefused);
    }
    gate.swap(view(&[(1, 1, &[granted_with(1, 1, 1, everything, |g| g.on_gateway = true)])]));
    assert_eq!(gate.up(1, &udp((device4(1), 1), (ip("10.5.0.1"), 80), b"")).len(), 1);
    gate.drops(1, &udp((device4(1), 1), (ip("127.0.0.1"), 80), b""), Drop::TargetRefused);
}

#[test]
fn the_memory_of_refusals_is_bounded() {
    let mut gate = Gate::new(view(&[(1, 1, &[granted(1, 1, 1, all_of("0.0.0.0/0", "0.0.0.0/0"))])]));
    for n in 0..REFUSED_MEMORY_MAX as u32 + 10 {
        gate.up(1, &udp((device4(1), 1), (IpAddr::from((0x7f00_0001 + n).to_be_bytes()), 80), b""));
    }
    assert_eq!(gate.events().len(), REFUSED_MEMORY_MAX);
    assert_eq!(gate.counters.of(Drop::TargetRefused) as usize, REFUSED_MEMORY_MAX + 10);
    // One that is known is told again, and one more finds room, when that was long enough ago.
    let last = IpAddr::from((0x7f00_0001 + REFUSED_MEMORY_MAX as u32 + 5).to_be_bytes());
    for (ms_early, told) in [(1, 0), (0, 2)] {
        gate.now = NOW.plus(REFUSED_REPORT_EVERY - Duration::from_millis(ms_early));
        gate.up(1, &udp((device4(1), 1), ("127.0.0.1".parse().unwrap(), 80), b""));
        gate.up(1, &udp((device4(1), 1), (last, 80), b""));
        assert_eq!(gate.events().len(), told);
    }
}

#[test]
fn a_name_that_leads_nowhere_is_answered() {
    for (to, head, codes) in [(V1, 20, [3, 1]), (V6, 40, [1, 0])] {
        let mut gate = Gate::new(by_name());
        gate.up(1, &syn(5000, to, 80));
        let none: Vec<IpAddr> = Vec::new();
        let (n, ttl) = (name("db.example"), Duration::from_secs(5));
        gate.site.resolved(gate.now, &gate.view, &n, to == V1, none, ttl, &mut gate.out, &mut gate.replies);
        let (pairing, answer) = gate.replied().pop().unwrap();
        assert_eq!((pairing, addresses(&answer)), (pid(1), (ip(to), device_for(to))));
        assert_eq!(answer[head..head + 2], codes);
        assert_eq!(gate.counters.of(Drop::NameUnresolved), 1);
        // A connection in its middle that cannot go on ends.
        gate.up(1, &tcp((device_for(to), 5001), (ip(to), 80), ACK, (5, 9), b"x"));
        let rst = Packet::parse(&gate.replied().pop().unwrap().1).unwrap();
        assert!(matches!(rst.transport, Transport::Tcp(t) if t.flags == RST && t.seq == 9));
    }
}

#[test]
fn a_packet_that_waited_is_judged_again() {
    let mut gate = Gate::new(by_name());
    gate.up(1, &syn(5000, V1, 80));
    gate.swap(View::empty(Arc::new(scope())));
    gate.resolved("db.example", &[DB], 30);
    assert!(gate.tun().is_empty());
    assert_eq!((gate.counters.of(Drop::UnknownPairing), gate.site.flows()), (1, 0));
}

#[test]
fn waiting_is_bounded_in_packets_names_devices_and_time() {
    let names = |device: u8| {
        let rules = (0..250u16).map(|n| {
            rule(&format!("10.77.{}.{}", 64 + n / 200, n % 200), &format!("n{n}.example"), Protocol::Tcp, "*")
        });
        granted(device, device, device, rules.collect())
    };
    let grants: Vec<_> = (1..=9).map(names).collect();
    let pairings: Vec<_> = (1..=9u8).map(|n| (n, n, std::slice::from_ref(&grants[usize::from(n) - 1]))).collect();
    let mut gate = Gate::new(view(&pairings));
    let to = |n: u16| IpAddr::from([10, 77, 64 + (n / 200) as u8, (n % 200) as u8]);
    let opening = |d: u8, n: u16, port: u16| tcp((device4(d), port), (to(n), 80), SYN, (0, 0), b"");
    for port in 1..=WAITING_PACKETS_MAX as u16 {
        gate.up(1, &opening(1, 0, port));
    }
    gate.drops(1, &opening(1, 0, 99), Drop::WaitingFull);
    for n in 1..WAITING_QUEUES_PER_DEVICE_MAX as u16 {
        gate.up(1, &opening(1, n, 1));
    }
    gate.drops(1, &opening(1, 200, 1), Drop::WaitingQueues);
    // Eight devices fill the gateway; the ninth is refused though it has nothing waiting.
    for d in 2..=8 {
        for n in 0..WAITING_QUEUES_PER_DEVICE_MAX as u16 {
            gate.up(d, &opening(d, n, 1));
        }
    }
    assert_eq!(8 * WAITING_QUEUES_PER_DEVICE_MAX, WAITING_QUEUES_MAX);
    gate.drops(9, &opening(9, 0, 1), Drop::WaitingQueues);
    let waiting = WAITING_QUEUES_MAX + WAITING_PACKETS_MAX - 1;
    // Names are asked once, whoever waits.
    assert_eq!(gate.events().len(), WAITING_QUEUES_PER_DEVICE_MAX);
    gate.replied();
    assert_eq!(gate.expire(), NOW.plus(WAITING_MAX));
    gate.now = NOW.plus(WAITING_MAX);
    assert_eq!(gate.expire(), Instant::NEVER);
    assert_eq!(gate.replied().len(), waiting);
    assert_eq!(gate.counters.of(Drop::WaitingExpired) as usize, waiting);
    // And there is room again.
    gate.up(9, &opening(9, 0, 1));
    assert_eq!(gate.events().len(), 1);
}

// -- ends ------------------------------------------------------------------------------------------------------------

/// A download in full swing.
fn downloading(gate: &mut Gate) {
    gate.up_one(1, &syn(5000, V1, 80));
    let nat = (ip("198.18.0.1"), 5000);
    gate.down(&tcp((ip(DB), 80), nat, SYN | ACK, (900, 101), b"")).unwrap();
    gate.up_one(1, &tcp((device4(1), 5000), (ip(V1), 80), ACK, (101, 901), b"GET"));
    gate.down(&tcp((ip(DB), 80), nat, ACK, (901, 104), &[0; 1000])).unwrap();
}

#[test]
fn a_revoke_resets_both_sides_and_is_reported() {
    let mut gate = Gate::new(simple());
    downloading(&mut gate);
    gate.up_one(1, &udp((device4(1), 7), (ip(V1), 53), b"x"));
    gate.swap(View::empty(Arc::new(scope())));
    let to_client: Vec<_> = gate.replied().iter().map(|(p, b)| (*p, Packet::parse(b).unwrap())).collect();
    let numbers = |p: &Packet| match p.transport {
        Transport::Tcp(t) if t.has(RST) => (t.seq, t.ack),
        other => panic!("{other:?}"),
    };
    assert!(to_client.iter().all(|(p, b)| *p == pid(1) && (b.source, b.destination) == (ip(V1), device4(1))));
    assert_eq!(to_client.iter().map(|(_, b)| numbers(b)).collect::<Vec<_>>(), [(1901, 104), (901, 104)]);
    let to_service: Vec<_> = gate.tun().iter().map(|b| Packet::parse(b).unwrap()).collect();
    assert!(to_service.iter().all(|b| (b.source, b.destination) == (ip("198.18.0.1"), ip(DB))));
    assert_eq!(to_service.iter().map(numbers).collect::<Vec<_>>(), [(104, 1901)]);
    let events = gate.events();
    let ended =
        events.iter().filter(|e| matches!(e, Event::FlowEnded(s) if s.end == FlowEnd::Grant && s.grant == gid(1)));
    assert_eq!(ended.count(), 2);
    let closed = Event::GrantClosed { grant: gid(1), nat: [ip("198.18.0.1"), ip("fd99::1")] };
    assert_eq!(events.iter().filter(|e| **e == closed).count(), 1);
    // Not one packet more, either way.
    assert_eq!(gate.down(&tcp((ip(DB), 80), (ip("198.18.0.1"), 5000), ACK, (1901, 104), b"x")), None);
    gate.drops(1, &tcp((device4(1), 5000), (ip(V1), 80), ACK, (104, 1901), b""), Drop::UnknownPairing);
    assert_eq!(gate.site.flows(), 0);
}

#[test]
fn a_grant_without_flows_is_reported_too_and_an_unchanged_one_is_not() {
    let grants = [granted(1, 1, 1, all_of(V1, DB)), granted(2, 1, 1, all_of(V2, DB))];
    let mut gate = Gate::new(view(&[(1, 1, &grants)]));
    gate.up_one(1, &syn(5000, V1, 80));
    gate.swap(view(&[(1, 1, &grants[..1])]));
    assert_eq!(gate.events(), [Event::GrantClosed { grant: gid(2), nat: [ip("198.18.0.2"), ip("fd99::2")] }]);
    // Renewed: the same permission in a new allocation.
    gate.swap(view(&[(1, 1, &[granted_with(1, 1, 1, all_of(V1, DB), |g| g.ends_in *= 2)])]));
    assert_eq!((gate.events(), gate.replied(), gate.site.flows()), (vec![], vec![], 1));
}

#[test]
fn flows_end_that_a_changed_grant_does_not_admit_any_more() {
    let other_nat = |g: &mut Grant| (g.nat_v4, g.nat_v6) = scope().nat.pair(7).unwrap();
    let keeps = |new: Arc<VerifiedGrant>, change: fn(&mut Scope)| {
        let mut gate = Gate::new(simple());
        downloading(&mut gate);
        let mut new = view(&[(1, 1, &[new])]);
        let mut scope = scope();
        change(&mut scope);
        new.scope = Arc::new(scope);
        gate.swap(new);
        assert_eq!(gate.replied().is_empty(), gate.site.flows() == 1);
        assert!(!gate.events().iter().any(|e| matches!(e, Event::GrantClosed { .. })));
        gate.site.flows() == 1
    };
    assert!(keeps(granted(1, 1, 1, vec![rule(V1, DB, Protocol::Tcp, "80")]), |_| {}));
    assert!(!keeps(granted(1, 1, 1, vec![rule(V1, DB, Protocol::Tcp, "81")]), |_| {}));
    assert!(!keeps(granted(1, 1, 1, vec![rule(V1, DB, Protocol::Udp, "80")]), |_| {}));
    assert!(!keeps(granted(1, 1, 1, all_of(V2, DB)), |_| {}));
    // The same rule leads elsewhere, the address towards the service is another, the gateway got that address itself.
    assert!(!keeps(granted(1, 1, 1, all_of(V1, "10.5.0.10")), |_| {}));
    assert!(!keeps(granted_with(1, 1, 1, all_of(V1, DB), other_nat), |_| {}));
    assert!(!keeps(granted(1, 1, 1, all_of(V1, DB)), |s| s.own.push(ip(DB))));
    assert!(keeps(granted(1, 1, 1, all_of(V1, DB)), |s| s.own.push(ip("10.5.0.2"))));
}

#[test]
fn an_idle_flow_ends_and_is_summed_up() {
    let mut gate = Gate::new(simple());
    let packet = udp((device4(1), 7), (ip(V1), 53), b"12345");
    gate.up_one(1, &packet);
    assert_eq!(gate.expire(), NOW.plus(UDP_IDLE));
    gate.now = NOW.plus(UDP_IDLE);
    assert_eq!(gate.expire(), Instant::NEVER);
    let events = gate.events();
    let [Event::FlowEnded(summary)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((summary.end, summary.up, summary.port), (FlowEnd::Idle, (1, packet.len() as u64), 53));
    assert_eq!(gate.down(&udp((ip(DB), 53), (ip("198.18.0.1"), 7), b"")), None);
}

#[test]
fn full_tables_are_told_apart() {
    let grants = [granted(1, 1, 1, all_of(V1, DB))];
    let other = [granted(2, 2, 2, all_of(V2, DB))];
    let both = || view(&[(1, 1, &grants), (2, 2, &other)]);
    let mut gate = Gate::with_caps(both(), Caps { total: 2, ..Caps::default() });
    gate.up_one(1, &syn(1, V1, 80));
    gate.up_one(1, &syn(2, V1, 80));
    gate.drops(2, &udp((device4(2), 1), (ip(V2), 80), b""), Drop::FlowsFull);
    gate.up_one(1, &syn(3, V1, 80));
    let events = gate.events();
    assert!(matches!(events.as_slice(), [Event::FlowEnded(s)] if s.end == FlowEnd::Evicted), "{events:?}");
    let mut gate = Gate::with_caps(both(), Caps { target: 1, ..Caps::default() });
    gate.up_one(1, &syn(1, V1, 80));
    gate.drops(2, &udp((device4(2), 1), (ip(V2), 80), b""), Drop::TargetFull);
    assert_eq!(gate.replied().len(), 1);
}
