//! Packets that the kernel answers before or behind every input chain.

use super::*;
use crate::namespace::PacketSocket;

/// The kernel's note in front of a frame (struct virtio_net_hdr).
const NOTE: [u8; 10] = [0; 10];

/// The hardware address of eth0.
fn mac(host: &Host) -> Vec<u8> {
    host.run(|| {
        let shown = std::process::Command::new("ip").args(["-o", "link", "show", "eth0"]).output().expect("ip runs");
        let text = String::from_utf8(shown.stdout).expect("text");
        let address =
            text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).expect("an address").to_owned();
        address.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect()
    })
}

/// ICMP and ICMPv6 messages that a host received, neighbour discovery aside.
fn icmp_heard(host: &Host) -> u64 {
    host.run(|| {
        let v4 = std::fs::read_to_string("/proc/thread-self/net/snmp").expect("snmp");
        let mut lines = v4.lines().filter(|line| line.starts_with("Icmp:"));
        let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
        let place = names.split_whitespace().position(|name| name == "InMsgs").expect("InMsgs");
        let v4: u64 = values.split_whitespace().nth(place).expect("value").parse().expect("number");
        let v6 = std::fs::read_to_string("/proc/thread-self/net/snmp6").expect("snmp6");
        let kinds = ["InDestUnreachs", "InPktTooBigs", "InTimeExcds", "InParmProblems", "InEchoReplies"];
        let is_counted = |line: &&str| kinds.iter().any(|kind| line.starts_with(&format!("Icmp6{kind}")));
        let counted = v6.lines().filter(is_counted);
        v4 + counted.map(|line| line.split_whitespace().nth(1).map_or(0, |n| n.parse().unwrap_or(0))).sum::<u64>()
    })
}

/// An IPv4 packet whose option is not whole: record route that points before its first place (RFC 791, section 3.1).
fn bad_option() -> Vec<u8> {
    let whole = udp_packet(to("10.1.0.2", 5000), to("10.1.0.1", 9), b"odd").bytes;
    let (head, rest) = whole.split_at(20);
    let mut head = [head, &[7, 4, 2, 0]].concat();
    head[0] = 0x46;
    let len = u16::try_from(head.len() + rest.len()).expect("short");
    head[2..4].copy_from_slice(&len.to_be_bytes());
    head[10..12].fill(0);
    let sum = checksum(&head);
    head[10..12].copy_from_slice(&sum.to_be_bytes());
    [&head[..], rest].concat()
}

/// An IPv6 packet with a header of options, one of which nobody knows and everybody shall complain of (RFC 8200, section 4.2).
fn bad_header(kind: u8, option: u8) -> Vec<u8> {
    let whole = udp_packet(to("fd01::2", 5000), to("fd01::1", 7443), b"odd").bytes;
    let (head, rest) = whole.split_at(40);
    let mut head = head.to_vec();
    head[6] = kind;
    let len = u16::try_from(rest.len() + 8).expect("short");
    head[4..6].copy_from_slice(&len.to_be_bytes());
    [&head[..], &[17, 0, option, 4, 0, 0, 0, 0], rest].concat()
}

/// As a stranger of the link sends them.
fn send_odd(stranger: &Host, node: Vec<u8>, own: Vec<u8>) {
    stranger.run(move || {
        let link = PacketSocket::open("eth0").expect("packet socket");
        for packet in [bad_option(), bad_header(0, 0x9e), bad_header(60, 0x9e)] {
            let kind = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
            link.send(&[&NOTE[..], &node, &own, &kind, &packet].concat()).expect("send");
        }
        // As from a DHCP server, where nobody asked one.
        for (from, target) in [("10.1.0.2:67", "10.1.0.1:68"), ("[fd01::2]:547", "[fd01::1]:546")] {
            UdpSocket::bind(from).expect("bind").send_to(b"odd", target).expect("send");
        }
    });
}

#[test]
fn a_dark_machine_says_nothing_of_packets_that_no_input_chain_sees() {
    if !privileged() {
        return;
    }
    let (node, stranger) = neighbours();
    let (target, own) = (mac(&node), mac(&stranger));
    let ours = node.run(|| UdpSocket::bind("[::]:7443").expect("bind"));
    let connections = || {
        node.block_on(|| async {
            let kernel = nlink::netlink::Connection::<nlink::netlink::Netfilter>::new().expect("open");
            kernel.get_conntrack().await.expect("list").len()
        })
    };
    let caught_up = |count: u64| {
        // Two of the forms are for our port, and arrive where the kernel did not refuse them.
        send(&stranger, "10.1.0.2", to("10.1.0.1", 7443), "marker");
        while receive(&ours) != "marker" {}
        let before = icmp_heard(&stranger);
        assert!(before >= count, "heard {before}");
        before
    };
    send_odd(&stranger, target.clone(), own.clone());
    let heard = caught_up(5);
    node.block_on(|| async {
        let dark = Dark {
            program: "test".to_owned(),
            tun: TUN.to_owned(),
            udp_port: 7443,
            allow_in: Vec::new(),
            sessions: Vec::new(),
            trial: None,
        };
        dark.apply().await.expect("apply");
    });
    let before = connections();
    for _ in 0..3 {
        send_odd(&stranger, target.clone(), own.clone());
    }
    assert_eq!(caught_up(0), heard, "a stranger heard something");
    // Our port's datagram is the last one; what looks like DHCP made no entry.
    assert!(connections() <= before + 1, "{} after {before}", connections());
}
