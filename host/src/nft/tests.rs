//! Do the tables drop what they should, and nothing else? Machines of their own, joined by cables, with real sockets.
//!
//! That something does not arrive is shown by a second datagram behind it, which does: cables keep the order.

#[path = "tests/connections.rs"]
mod connections;
#[path = "tests/foreign.rs"]
mod foreign;
#[path = "tests/odd.rs"]
mod odd;
#[path = "tests/trial.rs"]
mod trial;

use super::*;
use crate::forwarding::Forwarding;
use crate::netlink::{Netlink, Route};
use crate::test_support::{Host, ip, privileged};
use crate::tun::Tun;
use model::net::{PortRange, Protocol};
use model::packet::Frame;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;

const TUN: &str = "umbra-t0";
/// Our own UDP port.
const PORT: u16 = 7443;

fn to(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("address"), port)
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("prefix")
}

/// Binds, sends one datagram, and forgets the socket.
fn send(host: &Host, from: &'static str, destination: SocketAddr, text: &'static str) {
    host.run(move || UdpSocket::bind(to(from, 0)).expect("bind").send_to(text.as_bytes(), destination).expect("send"));
}

#[track_caller]
fn receive(socket: &UdpSocket) -> String {
    let mut bytes = [0; 64];
    // Only a failure waits that long.
    socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("timeout");
    let (len, _) = loop {
        match socket.recv_from(&mut bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            done => break done.expect("receive"),
        }
    };
    String::from_utf8_lossy(&bytes[..len]).into_owned()
}

/// A TUN that is up, with these addresses and routes.
fn tun(host: &Host, addresses: &'static [&'static str], routes: &'static [&'static str]) -> Arc<Tun> {
    host.block_on(move || async move {
        let tun = Tun::open(TUN, 1420).expect("tun");
        crate::netlink::prepare_ipv6(TUN).expect("switches");
        let netlink = Netlink::open().expect("open");
        let mut watch = crate::netlink::Watch::open().await.expect("watch");
        netlink.set_up(tun.index()).await.expect("up");
        for address in addresses {
            let text = address;
            let address: IpAddr = address.parse().expect("address");
            let len = if address.is_ipv4() { 32 } else { 128 };
            netlink.add_address(tun.index(), address, len).await.expect("address");
            // The kernel makes an IPv6 address reachable some time after it was added.
            let reachable = || {
                let shown = std::process::Command::new("ip").args(["route", "get", text]).output().expect("ip runs");
                String::from_utf8_lossy(&shown.stdout).starts_with("local")
            };
            while !reachable() {
                watch.next().await.expect("a change");
            }
        }
        for route in routes {
            let destination = prefix(route);
            netlink
                .add_route(Route { destination, link: tun.index(), source: None, metric: None })
                .await
                .expect("route");
        }
        Arc::new(tun)
    })
}

/// A UDP packet with its IP header.
fn udp_packet(from: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Frame {
    let len = u16::try_from(payload.len() + 8).expect("short");
    let mut udp = [from.port().to_be_bytes(), destination.port().to_be_bytes(), len.to_be_bytes(), [0; 2]].concat();
    udp.extend_from_slice(payload);
    ip_packet(17, 6, from.ip(), destination.ip(), udp)
}

/// A packet of this protocol, whose checksum over pseudo-header and content goes to `sum_at`.
fn ip_packet(protocol: u8, sum_at: usize, from: IpAddr, destination: IpAddr, mut content: Vec<u8>) -> Frame {
    let len = u16::try_from(content.len()).expect("short");
    let ends = match (from, destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
        (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
        _ => panic!("mixed families"),
    };
    // ICMP alone has no pseudo-header (RFC 792); protocol and length are summed in any order.
    let pseudo = if protocol == 1 { Vec::new() } else { [&ends[..], &len.to_be_bytes(), &[0, protocol]].concat() };
    let sum = checksum(&[&pseudo[..], &content].concat());
    content[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
    if from.is_ipv6() {
        let head = [&[0x60, 0, 0, 0][..], &len.to_be_bytes(), &[protocol, 64]].concat();
        return Frame::packet([head, ends, content].concat());
    }
    let mut head = [&[0x45, 0][..], &(len + 20).to_be_bytes(), &[0, 0, 0, 0, 64, protocol, 0, 0]].concat();
    head.extend(ends);
    let sum = checksum(&head);
    head[10..12].copy_from_slice(&sum.to_be_bytes());
    Frame::packet([head, content].concat())
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// Reads until a UDP packet to this port comes; answers its destination and payload.
fn read_udp(tun: &Tun, port: u16) -> (IpAddr, String) {
    let mut frame = Frame::default();
    loop {
        tun.read(&mut frame).expect("read");
        let bytes = &frame.bytes;
        let (protocol, head) = if bytes[0] >> 4 == 4 { (bytes[9], 20) } else { (bytes[6], 40) };
        if protocol == 17 && bytes[head + 2..head + 4] == port.to_be_bytes() {
            let target: IpAddr = if head == 20 {
                <[u8; 4]>::try_from(&bytes[16..20]).expect("four").into()
            } else {
                <[u8; 16]>::try_from(&bytes[24..40]).expect("sixteen").into()
            };
            return (target, String::from_utf8_lossy(&bytes[head + 8..]).into_owned());
        }
    }
}

/// Two machines on one link: `node` at 10.1.0.1, the other at 10.1.0.2, and the same in fd01::/64.
fn neighbours() -> (Host, Host) {
    let (node, other) = (Host::new(), Host::new());
    node.cable("eth0", "10.1.0.1/24 fd01::1/64", &other, ("eth0", "10.1.0.2/24 fd01::2/64"));
    (node, other)
}

fn guard() -> Guard {
    Guard {
        program: "test".to_owned(),
        tun: TUN.to_owned(),
        overlay: vec![prefix("100.70.0.0/16"), prefix("fd00:7::/48")],
        untracked_port: Some(PORT),
    }
}

#[test]
fn a_guard_drops_overlay_addresses_everywhere_but_on_the_tun() {
    if !privileged() {
        return;
    }
    let (node, neighbour) = neighbours();
    let _tun = tun(&node, &["100.70.0.1", "fd00:7::1"], &[]);
    neighbour.run(|| {
        ip("route add 100.70.0.0/16 via 10.1.0.1");
        ip("route add fd00:7::/48 via fd01::1");
        ip("addr add 100.70.0.9/32 dev lo");
    });
    node.run(|| ip("route add default via 10.1.0.2"));
    let inbox = node.run(|| UdpSocket::bind("[::]:7000").expect("bind"));
    let overlay = [("10.1.0.2", to("100.70.0.1", 7000)), ("fd01::2", to("fd00:7::1", 7000))];

    // Linux alone lets it in: what the guard is for.
    for (from, destination) in overlay {
        send(&neighbour, from, destination, "before");
        assert_eq!(receive(&inbox), "before");
    }
    node.block_on(|| async {
        guard().apply().await.expect("apply");
        guard().apply().await.expect("apply again");
    });
    for (from, destination) in overlay {
        send(&neighbour, from, destination, "to an overlay address");
    }
    send(&neighbour, "100.70.0.9", to("10.1.0.1", 7000), "from an overlay address");
    send(&neighbour, "10.1.0.2", to("10.1.0.1", 7000), "marker");
    assert_eq!(receive(&inbox), "marker");
    // Nothing leaves either, and the program learns it at once.
    let refused = node.run(|| UdpSocket::bind("0.0.0.0:0").expect("bind").send_to(b"out", "100.70.0.9:7000"));
    assert_eq!(refused.expect_err("dropped").kind(), std::io::ErrorKind::PermissionDenied);
    // The machine reaches itself.
    send(&node, "100.70.0.1", to("100.70.0.1", 7000), "from itself");
    assert_eq!(receive(&inbox), "from itself");

    node.block_on(|| async {
        remove("test").await.expect("remove");
        remove("test").await.expect("nothing there");
    });
    send(&neighbour, "10.1.0.2", to("100.70.0.1", 7000), "after");
    assert_eq!(receive(&inbox), "after");
}

#[test]
fn a_guard_answers_no_arp() {
    if !privileged() {
        return;
    }
    let (node, neighbour) = neighbours();
    let _tun = tun(&node, &["100.70.0.1", "100.70.0.2"], &[]);
    neighbour.run(|| {
        ip("route add 100.70.0.0/16 dev eth0");
        for (switch, value) in [("retrans_time_ms", "20"), ("mcast_solicit", "1"), ("ucast_solicit", "1")] {
            crate::sysctl::set(&["net", "ipv4", "neigh", "eth0", switch], value).expect("switch");
        }
    });
    let inbox = node.run(|| UdpSocket::bind("0.0.0.0:7000").expect("bind"));
    send(&neighbour, "10.1.0.2", to("100.70.0.1", 7000), "before");
    assert_eq!(receive(&inbox), "before", "Linux answers ARP for any address");
    node.block_on(|| async { guard().apply().await.expect("apply") });
    // A connection that is not even begun: TCP learns at once that nobody has the address.
    let error = neighbour.run(|| TcpStream::connect("100.70.0.2:7000").expect_err("nobody answers ARP"));
    assert_eq!(error.kind(), std::io::ErrorKind::HostUnreachable);
}

#[test]
fn a_dark_machine_is_silent_and_still_works() {
    if !privileged() {
        return;
    }
    let (node, stranger) = neighbours();
    let ours = node.run(|| Arc::new(crate::udp::Udp::bind(7443).expect("bind")));
    let allowed = node.run(|| TcpListener::bind("[::]:2222").expect("listen"));
    // Whether a closed TCP or UDP port, tried before a question to our port was answered, has answered.
    let answers = |from: &'static str, target: &'static str| {
        let echo = Arc::clone(&ours);
        let echo = std::thread::spawn(move || {
            let mut train =
                model::packet::Train::datagram(to("0.0.0.0", 0), model::packet::Local::default(), Vec::new());
            echo.recv(&mut train).expect("receive");
            echo.send(&[train]);
        });
        let answered = stranger.run(move || {
            let closed_udp = UdpSocket::bind(to(from, 0)).expect("bind");
            closed_udp.connect(to(target, 9)).expect("connect");
            closed_udp.send(b"anybody there?").expect("send");
            let domain = socket2::Domain::for_address(to(target, 9));
            let closed_tcp = socket2::Socket::new(domain, socket2::Type::STREAM.nonblocking(), None).expect("socket");
            let _ = closed_tcp.connect(&to(target, 9).into());
            let open = UdpSocket::bind(to(from, 0)).expect("bind");
            open.send_to(b"question", to(target, 7443)).expect("send");
            assert_eq!(receive(&open), "question");
            [closed_udp.take_error().expect("error"), closed_tcp.take_error().expect("error")].map(|e| e.is_some())
        });
        echo.join().expect("echo");
        answered
    };
    let ends = [("10.1.0.2", "10.1.0.1"), ("fd01::2", "fd01::1")];
    for (from, target) in ends {
        assert_eq!(answers(from, target), [true, true], "{target}: closed ports answer on their own");
    }
    node.block_on(|| async {
        let ports = PortRange::new(2222, 2230).expect("ports");
        let allow_in = vec![AllowIn { protocol: Protocol::Tcp, ports }];
        let dark = Dark {
            program: "test".to_owned(),
            tun: TUN.to_owned(),
            udp_port: 7443,
            allow_in,
            sessions: Vec::new(),
            trial: None,
        };
        dark.apply().await.expect("apply");
    });
    for host in [&node, &stranger] {
        // Forget who is where: neighbour discovery has to work in the dark.
        host.run(|| ip("neigh flush dev eth0"));
    }
    for (from, target) in ends {
        assert_eq!(answers(from, target), [false, false], "{target}");
    }
    // The exception is open, what the machine asks for comes back, and it reaches itself.
    stranger.run(|| TcpStream::connect("10.1.0.1:2222").expect("allowed in"));
    allowed.accept().expect("accept");
    let far = stranger.run(|| TcpListener::bind("[::]:80").expect("listen"));
    node.run(|| TcpStream::connect("[fd01::2]:80").expect("outgoing"));
    far.accept().expect("accept");
    node.run(|| TcpStream::connect("127.0.0.1:2222").expect("loopback"));

    // It stays when the program's other tables go.
    node.block_on(|| async { remove("test").await.expect("remove") });
    assert_eq!(answers("10.1.0.2", "10.1.0.1"), [false, false]);
    node.block_on(|| async { remove_dark("test").await.expect("remove") });
    assert_eq!(answers("10.1.0.2", "10.1.0.1"), [true, true]);
}

#[test]
fn a_dark_machine_has_so_many_exceptions() {
    if !privileged() {
        return;
    }
    let node = Host::new();
    let apply = |count: usize| {
        node.block_on(move || async move {
            let port = |n: usize| PortRange::new(1_000 + n as u16, 1_000 + n as u16).expect("port");
            let allow_in = (0..count).map(|n| AllowIn { protocol: Protocol::Tcp, ports: port(n) }).collect();
            let (program, tun) = ("test".to_owned(), "lo".to_owned());
            Dark { program, tun, udp_port: 7443, allow_in, sessions: Vec::new(), trial: None }.apply().await
        })
    };
    apply(ALLOW_IN_MAX).expect("as many as the limit says");
    assert!(matches!(apply(ALLOW_IN_MAX + 1), Err(NftError::Exceptions)));
    apply(1).expect("again");
}

/// A gateway between a stranger's link (10.1.0.0/24) and a service's (10.2.0.0/24), forwarding, with a TUN for its pools.
struct Site {
    stranger: Host,
    gateway: Host,
    service: Host,
    tun: Arc<Tun>,
    /// The service's socket, port 7000.
    inbox: UdpSocket,
}

impl Site {
    fn new() -> Self {
        let (gateway, stranger) = neighbours();
        let service = Host::new();
        gateway.cable("eth1", "10.2.0.1/24 fd02::1/64", &service, ("eth0", "10.2.0.2/24 fd02::2/64"));
        stranger.run(|| {
            ip("route add default via 10.1.0.1");
            ip("route add default via fd01::1");
            ip("addr add 198.18.0.5/32 dev lo");
        });
        service.run(|| {
            ip("route add default via 10.2.0.1");
            ip("route add default via fd02::1");
        });
        let tun = tun(&gateway, &[], &["198.18.0.0/15", "fd00:198::/48"]);
        gateway.run(|| Forwarding::enable().expect("forwarding"));
        let inbox = service.run(|| UdpSocket::bind("[::]:7000").expect("bind"));
        Self { stranger, gateway, service, tun, inbox }
    }

    fn protect(&self) {
        self.gateway.block_on(|| async {
            let nat_pools = vec![prefix("198.18.0.0/15"), prefix("fd00:198::/48")];
            let table = Gateway { program: "test".to_owned(), tun: TUN.to_owned(), nat_pools, udp_port: PORT };
            table.apply().await.expect("apply");
        });
    }

    /// ICMP and ICMPv6 messages that the gateway sent, neighbour discovery aside.
    fn icmp_sent(&self) -> u64 {
        self.gateway.run(|| {
            let v4 = std::fs::read_to_string("/proc/thread-self/net/snmp").expect("snmp");
            let mut lines = v4.lines().filter(|line| line.starts_with("Icmp:"));
            let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
            let place = names.split_whitespace().position(|name| name == "OutMsgs").expect("OutMsgs");
            let v4: u64 = values.split_whitespace().nth(place).expect("value").parse().expect("number");
            let v6 = std::fs::read_to_string("/proc/thread-self/net/snmp6").expect("snmp6");
            let errors = ["Icmp6OutDestUnreachs", "Icmp6OutTimeExcds", "Icmp6OutRedirects", "Icmp6OutEchoReplies"];
            let counted = v6.lines().filter(|line| errors.iter().any(|name| line.starts_with(name)));
            v4 + counted.map(|line| line.split_whitespace().nth(1).map_or(0, |n| n.parse().unwrap_or(0))).sum::<u64>()
        })
    }

    /// What a stranger may try to get through or noticed by the gateway.
    fn harass(&self) {
        let text = "from a stranger";
        send(&self.stranger, "10.1.0.2", to("10.2.0.2", 7000), text);
        send(&self.stranger, "fd01::2", to("fd02::2", 7000), text);
        send(&self.stranger, "10.1.0.2", to("203.0.113.1", 7000), text);
        send(&self.stranger, "fd01::2", to("2001:db8::1", 7000), text);
        self.stranger.run(move || {
            let socket = UdpSocket::bind("10.1.0.2:0").expect("bind");
            socket.set_ttl(1).expect("ttl");
            socket.send_to(text.as_bytes(), "10.2.0.2:7000").expect("send");
        });
        // Back out of the interface that it came in by.
        send(&self.service, "10.2.0.2", to("10.2.3.4", 7000), text);
    }
}

#[test]
fn a_gateway_is_a_router_for_nobody() {
    if !privileged() {
        return;
    }
    let site = Site::new();
    site.gateway.run(|| ip("route add 10.2.3.0/24 via 10.2.0.2"));
    site.harass();
    assert_eq!(receive(&site.inbox), "from a stranger", "Linux alone forwards");
    assert_eq!(receive(&site.inbox), "from a stranger");
    let before = site.icmp_sent();
    assert!(before >= 3, "and answers with ICMP: {before}");

    site.protect();
    site.harass();
    // A grant's address, forged; and a reply that nobody asked for.
    send(&site.stranger, "198.18.0.5", to("10.2.0.2", 7000), "forged");
    send(&site.service, "10.2.0.2", to("198.18.0.6", 7001), "unasked");
    // Out of the TUN, but from an address of no grant.
    site.tun.write(&udp_packet(to("10.1.0.77", 5000), to("10.2.0.2", 7000), b"no grant's")).expect("write");
    site.tun.write(&udp_packet(to("198.18.0.5", 5000), to("10.2.0.2", 7000), b"granted")).expect("write");
    assert_eq!(receive(&site.inbox), "granted");
    assert_eq!(site.icmp_sent(), before, "not one ICMP message");
}

#[test]
fn what_the_tun_opened_is_answered_in_both_families() {
    if !privileged() {
        return;
    }
    let site = Site::new();
    site.protect();
    for (grant, target, own) in [("198.18.0.5", "10.2.0.2", "10.2.0.1"), ("fd00:198::5", "fd02::2", "fd02::1")] {
        site.tun.write(&udp_packet(to(grant, 5000), to(target, 7000), b"question")).expect("write");
        let mut bytes = [0; 16];
        let (len, from) = site.inbox.recv_from(&mut bytes).expect("receive");
        assert_eq!(&bytes[..len], b"question");
        assert_eq!(from.ip().to_canonical(), own.parse::<IpAddr>().expect("address"), "masqueraded");
        site.inbox.send_to(b"answer", from).expect("send");
        assert_eq!(read_udp(&site.tun, 5000), (grant.parse().expect("address"), "answer".to_owned()));
    }
}

#[test]
fn what_comes_in_by_another_link_is_no_answer() {
    if !privileged() {
        return;
    }
    let site = Site::new();
    // Not by luck: a check of source addresses would hide it for IPv4, and there is none for IPv6.
    site.gateway.run(|| {
        for link in ["all", "eth0", "eth1"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), "0").expect("rp_filter");
        }
    });
    site.stranger.run(|| {
        ip("addr add 10.2.0.2/32 dev lo");
        ip("addr add fd02::2/128 dev lo");
    });
    site.protect();
    for (grant, target) in [("198.18.0.5", "10.2.0.2"), ("fd00:198::5", "fd02::2")] {
        site.tun.write(&udp_packet(to(grant, 5000), to(target, 7000), b"question")).expect("write");
        let mut bytes = [0; 16];
        let (_, from) = site.inbox.recv_from(&mut bytes).expect("receive");
        // As the service, with the right ports, but from the other side.
        let own = SocketAddr::new(from.ip().to_canonical(), from.port());
        site.stranger.run(move || {
            let socket = UdpSocket::bind(to(target, 7000)).expect("bind");
            socket.send_to(b"forged", own).expect("send");
        });
        // The cable keeps the order: when this was answered, the forged one was looked at.
        send(&site.stranger, if target.contains(':') { "fd01::2" } else { "10.1.0.2" }, own, "marker");
        site.inbox.send_to(b"answer", from).expect("send");
        assert_eq!(read_udp(&site.tun, 5000), (grant.parse().expect("address"), "answer".to_owned()));
    }
    // What is everybody's on the service's link is nobody's grant.
    let own = site.gateway.run(|| UdpSocket::bind("[::]:7001").expect("bind"));
    for target in ["10.2.0.255", "fd02::", "224.0.0.1"] {
        let grant = if target.contains(':') { "fd00:198::5" } else { "198.18.0.5" };
        site.tun.write(&udp_packet(to(grant, 5001), to(target, 7001), b"to everybody")).expect("write");
    }
    site.gateway
        .run(|| UdpSocket::bind("127.0.0.1:0").expect("bind").send_to(b"marker", "127.0.0.1:7001").expect("send"));
    assert_eq!(receive(&own), "marker");
}

#[test]
fn a_client_forwards_nothing_into_its_tunnel() {
    if !privileged() {
        return;
    }
    let (client, container) = neighbours();
    let tun = tun(&client, &["100.70.0.1"], &["100.70.9.0/24"]);
    container.run(|| ip("route add default via 10.1.0.1"));
    client.run(|| Forwarding::enable().expect("forwarding"));
    send(&container, "10.1.0.2", to("100.70.9.1", 7001), "before");
    assert_eq!(read_udp(&tun, 7001).1, "before", "Linux alone forwards");

    client.block_on(|| async {
        Client { program: "test".to_owned(), tun: TUN.to_owned() }.apply().await.expect("apply");
    });
    let inbox = container.run(|| UdpSocket::bind("10.1.0.2:7000").expect("bind"));
    send(&container, "10.1.0.2", to("100.70.9.1", 7001), "into the tunnel");
    send(&client, "100.70.0.1", to("100.70.9.1", 7001), "the client's own");
    assert_eq!(read_udp(&tun, 7001).1, "the client's own");
    tun.write(&udp_packet(to("100.70.9.1", 5000), to("10.1.0.2", 7000), b"out of the tunnel")).expect("write");
    send(&client, "10.1.0.1", to("10.1.0.2", 7000), "marker");
    assert_eq!(receive(&inbox), "marker");
}

#[test]
fn tables_read_as_meant_and_a_refused_batch_changes_nothing() {
    if !privileged() {
        return;
    }
    if std::process::Command::new("nft").arg("--version").output().is_err() {
        println!("skipped: needs the nft program");
        return;
    }
    let listing = || {
        let output = std::process::Command::new("nft").args(["-s", "list", "ruleset"]).output().expect("nft runs");
        String::from_utf8(output.stdout).expect("text")
    };
    let host = Host::new();
    host.block_on(move || async move {
        let nat_pools = vec![prefix("198.18.0.0/15")];
        let gateway = Gateway { program: "test".to_owned(), tun: TUN.to_owned(), nat_pools, udp_port: PORT };
        guard().apply().await.expect("guard");
        gateway.apply().await.expect("gateway");
        let rules = listing();
        for expected in [
            "table inet umbra-test {",
            "table arp umbra-test {",
            "table inet umbra-test-forward {",
            "ip daddr 100.70.0.0/16 iifname != \"umbra-t0\" iifname != \"lo\" counter drop",
            "ip6 saddr fd00:7::/48 oifname != \"umbra-t0\" oifname != \"lo\" counter drop",
            "ip saddr 198.18.0.0/15 oifname != \"umbra-t0\" masquerade",
            "ct state invalid counter drop",
            "udp dport 7443 iifname != \"umbra-t0\" fib daddr type != unicast notrack",
            "udp sport 7443 notrack",
            "oifname != \"umbra-t0\" udp sport 7443 masquerade to :32768-65535",
            "established : 7440",
            "unreplied : 300, replied : 300",
            "ct state new meta l4proto tcp iifname \"umbra-t0\" ct timeout set \"tcp\"",
        ] {
            assert!(rules.contains(expected), "{expected}\n{rules}");
        }
        let mut wrong = gateway.clone();
        wrong.tun = "umbra*".to_owned();
        assert!(matches!(wrong.apply().await, Err(NftError::Interface(_))));
        // The kernel itself refuses half-way through: the chain is there already.
        let name = "umbra-test-forward";
        let chain = || {
            use nlink::netlink::nftables::{BaseChain, FilterHook, Priority};
            BaseChain::filter(FilterHook::Input, Priority::Filter)
        };
        let batch = Batch::open(name).expect("open").replace(name, Family::Inet);
        let batch = batch.chain(name, Family::Inet, "a", chain()).chain(name, Family::Inet, "a", chain());
        assert!(batch.commit().await.is_err());
        assert_eq!(listing(), rules);
        remove("test").await.expect("remove");
        assert_eq!(listing(), "");
    });
}
