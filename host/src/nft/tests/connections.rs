//! What is in the kernel's table of connections, and for how long? Our own port's packets are not; flows out of the TUN are,
//! as long as we keep them.

use super::*;
use model::limits::{ICMP_IDLE, TCP_IDLE, UDP_IDLE};
use nlink::netlink::netfilter::ConntrackEntry;
use nlink::netlink::{Connection, Netfilter};
use std::time::Duration;

/// More than a table that is told to be small would hold; each from a port of its own.
const FLOOD: u16 = 4_000;

fn connections(host: &Host) -> Vec<ConntrackEntry> {
    host.block_on(|| async {
        let conntrack = Connection::<Netfilter>::new().expect("open");
        let mut entries = conntrack.get_conntrack().await.expect("IPv4");
        entries.extend(conntrack.get_conntrack_v6().await.expect("IPv6"));
        entries
    })
}

/// Empties the table.
fn forget_connections(host: &Host) {
    host.block_on(|| async {
        let conntrack = Connection::<Netfilter>::new().expect("open");
        conntrack.flush_conntrack_all().await.expect("flush");
    });
}

/// Connections that have our port at either end.
fn of_our_port(host: &Host) -> usize {
    let ours = |entry: &&ConntrackEntry| [entry.orig.src_port, entry.orig.dst_port].contains(&Some(PORT));
    connections(host).iter().filter(ours).count()
}

/// How long the kernel keeps the one connection that this address of a grant opened, seconds.
#[track_caller]
fn kept(host: &Host, grant: &str) -> u32 {
    let grant: IpAddr = grant.parse().expect("address");
    let entries = connections(host);
    let mut ours = entries.iter().filter(|entry| entry.orig.src_ip == Some(grant));
    let entry = ours.next().unwrap_or_else(|| panic!("no connection of {grant}: {entries:?}"));
    assert!(ours.next().is_none(), "{entries:?}");
    entry.timeout.expect("a timeout")
}

#[track_caller]
fn is_nearly(seconds: u32, idle: Duration) {
    let idle = u32::try_from(idle.as_secs()).expect("short");
    assert!((idle - 30..=idle).contains(&seconds), "{seconds} s, not {idle} s");
}

/// The machine's own sockets on our port.
fn our_sockets(host: &Host) -> [UdpSocket; 2] {
    host.run(|| ["10.1.0.1", "fd01::1"].map(|own| UdpSocket::bind(to(own, PORT)).expect("bind")))
}

#[test]
fn our_port_makes_no_connections_and_works_in_the_dark() {
    if !privileged() {
        return;
    }
    let (node, other) = neighbours();
    let ours = our_sockets(&node);
    let far = other.run(|| ["10.1.0.2", "fd01::2"].map(|own| UdpSocket::bind(to(own, 9_000)).expect("bind")));
    let dark = Dark {
        program: "test".to_owned(),
        tun: TUN.to_owned(),
        udp_port: PORT,
        allow_in: Vec::new(),
        sessions: Vec::new(),
        trial: None,
    };
    node.block_on(|| async move { dark.apply().await.expect("dark") });
    let ends = [
        ("10.1.0.2", to("10.1.0.1", PORT), to("10.1.0.2", 9_000)),
        ("fd01::2", to("fd01::1", PORT), to("fd01::2", 9_000)),
    ];
    let talk = || {
        for (number, (from, own, theirs)) in ends.into_iter().enumerate() {
            send(&other, from, own, "who is there?");
            assert_eq!(receive(&ours[number]), "who is there?");
            // What we begin is answered.
            ours[number].send_to(b"question", theirs).expect("send");
            assert_eq!(receive(&far[number]), "question");
            far[number].send_to(b"answer", own).expect("send");
            assert_eq!(receive(&ours[number]), "answer");
        }
    };
    talk();
    assert_eq!(of_our_port(&node), 4, "Linux alone tracks them");
    forget_connections(&node);
    node.block_on(|| async { guard().apply().await.expect("guard") });
    talk();
    assert_eq!(of_our_port(&node), 0);

    // A router's word about our datagrams is heard in the dark, although no connection says what it is about.
    let path = || {
        let shown = std::process::Command::new("ip").args(["-6", "route", "get", "fd01::2"]).output().expect("ip runs");
        String::from_utf8_lossy(&shown.stdout).into_owned()
    };
    assert!(!node.run(path).contains("mtu 1300"));
    other.run(|| {
        let raw = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::RAW, Some(socket2::Protocol::ICMPV6));
        let datagram = udp_packet(to("fd01::1", PORT), to("fd01::2", 9_000), b"question");
        let message = [&[2, 0, 0, 0][..], &1_300_u32.to_be_bytes(), &datagram.bytes].concat();
        raw.expect("raw socket").send_to(&message, &to("fd01::1", 0).into()).expect("send");
    });
    send(&other, "fd01::2", to("fd01::1", PORT), "marker");
    assert_eq!(receive(&ours[1]), "marker");
    assert!(node.run(path).contains("mtu 1300"), "{}", node.run(path));
}

#[test]
fn a_flood_of_our_port_leaves_room_for_what_is_forwarded() {
    if !privileged() {
        return;
    }
    let site = Site::new();
    site.protect();
    let ours = our_sockets(&site.gateway);
    let drain = || {
        // Whatever fitted into the socket's buffer; the marker comes when there is room.
        let mut bytes = [0; 64];
        ours[0].set_nonblocking(true).expect("nonblocking");
        while ours[0].recv(&mut bytes).is_ok() {}
        ours[0].set_nonblocking(false).expect("blocking");
    };
    let flood = || {
        site.stranger.run(|| {
            for port in 0..FLOOD {
                let socket = UdpSocket::bind(to("10.1.0.2", 20_000 + port)).expect("bind");
                socket.send_to(b"initiation", to("10.1.0.1", PORT)).expect("send");
            }
        });
        drain();
        send(&site.stranger, "10.1.0.2", to("10.1.0.1", PORT), "marker");
        assert_eq!(receive(&ours[0]), "marker");
    };
    // The kernel lets nobody but the first network namespace say how many there may be: what there is is counted.
    flood();
    assert!(of_our_port(&site.gateway) >= usize::from(FLOOD), "Linux alone keeps one for each");
    forget_connections(&site.gateway);
    site.gateway.block_on(|| async { guard().apply().await.expect("guard") });
    flood();
    assert_eq!(of_our_port(&site.gateway), 0);
    let packet = udp_packet(to("198.18.0.5", 5_000), to("10.2.0.2", 7_000), b"granted");
    site.tun.write(&packet).expect("write");
    assert_eq!(receive(&site.inbox), "granted");
    is_nearly(kept(&site.gateway, "198.18.0.5"), UDP_IDLE);
}

#[test]
fn flows_out_of_the_tun_may_have_our_port_at_either_end() {
    if !privileged() {
        return;
    }
    let site = Site::new();
    site.protect();
    let ours = our_sockets(&site.gateway);
    site.gateway.block_on(|| async { guard().apply().await.expect("guard") });
    let service = site.service.run(|| UdpSocket::bind(("::", PORT)).expect("bind"));
    for (grant, target) in [("198.18.0.5", "10.2.0.2"), ("fd00:198::5", "fd02::2")] {
        site.tun.write(&udp_packet(to(grant, PORT), to(target, PORT), b"question")).expect("write");
        let mut bytes = [0; 16];
        let (len, from) = service.recv_from(&mut bytes).expect("receive");
        assert_eq!(&bytes[..len], b"question");
        assert_ne!(from.port(), PORT, "an answer there would be taken for our own");
        service.send_to(b"answer", from).expect("send");
        assert_eq!(read_udp(&site.tun, PORT), (grant.parse().expect("address"), "answer".to_owned()));
    }
    drop(ours);
}

#[test]
fn the_kernel_keeps_a_quiet_flow_as_long_as_we_do() {
    if !privileged() {
        return;
    }
    let site = Site::new();
    site.protect();
    let listener = site.service.run(|| TcpListener::bind("[::]:80").expect("listen"));
    let mut open = Vec::new();
    for [tcp, udp, echo, target] in [
        ["198.18.0.6", "198.18.0.7", "198.18.0.8", "10.2.0.2"],
        ["fd00:198::6", "fd00:198::7", "fd00:198::8", "fd02::2"],
    ] {
        open_tcp(&site.tun, tcp, target);
        open.push(listener.accept().expect("accept"));
        is_nearly(kept(&site.gateway, tcp), TCP_IDLE);

        site.tun.write(&udp_packet(to(udp, 5_000), to(target, 7_000), b"question")).expect("write");
        let mut bytes = [0; 16];
        let (_, from) = site.inbox.recv_from(&mut bytes).expect("receive");
        is_nearly(kept(&site.gateway, udp), UDP_IDLE);
        site.inbox.send_to(b"answer", from).expect("send");
        assert_eq!(read_udp(&site.tun, 5_000).1, "answer");
        is_nearly(kept(&site.gateway, udp), UDP_IDLE);

        let (protocol, kind) = if echo.contains(':') { (58, 128) } else { (1, 8) };
        let request = vec![kind, 0, 0, 0, 0, 7, 0, 1];
        let [from, destination] = [echo, target].map(|text| text.parse().expect("address"));
        site.tun.write(&ip_packet(protocol, 2, from, destination, request)).expect("write");
        read_protocol(&site.tun, protocol);
        is_nearly(kept(&site.gateway, echo), ICMP_IDLE);
    }
}

/// Opens a TCP connection from port 5000 to port 80, by hand.
fn open_tcp(tun: &Tun, from: &str, target: &str) {
    let [from, target]: [IpAddr; 2] = [from, target].map(|text| text.parse().expect("address"));
    let segment = |sequence: u32, acknowledged: u32, flags: u8| {
        let mut segment = [5_000_u16.to_be_bytes(), 80_u16.to_be_bytes()].concat();
        segment.extend([sequence.to_be_bytes(), acknowledged.to_be_bytes()].concat());
        segment.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
        ip_packet(6, 16, from, target, segment)
    };
    tun.write(&segment(1_000, 0, 0x02)).expect("SYN");
    let answer = read_protocol(tun, 6);
    assert_eq!(answer[13], 0x12, "SYN and ACK");
    let theirs = u32::from_be_bytes(answer[4..8].try_into().expect("four"));
    tun.write(&segment(1_001, theirs.wrapping_add(1), 0x10)).expect("ACK");
}

/// Reads until a packet of this protocol comes; answers what follows its IP header.
fn read_protocol(tun: &Tun, wanted: u8) -> Vec<u8> {
    let mut frame = Frame::default();
    loop {
        tun.read(&mut frame).expect("read");
        let bytes = &frame.bytes;
        let (protocol, head) = if bytes[0] >> 4 == 4 { (bytes[9], 20) } else { (bytes[6], 40) };
        if protocol == wanted {
            return bytes[head..].to_vec();
        }
    }
}
