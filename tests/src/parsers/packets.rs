//! What strangers, far ends of tunnels and local programs send: datagrams, IP packets, DNS, D-Bus.

use super::{Parser, Seeds, parser, seed};
use crate::attacker::packet;
use client::names::{reply, wire as dns};
use host::resolved::wire as bus;
use model::ids::JoinKeyId;
use model::key::{PrivateKey, PublicKey};
use model::limits::DNS_UDP_MAX;
use model::secret::Secret;
use model::time::{Instant, WallMs};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tunnel::api::PeerKind;
use tunnel::checksum::{put_word, sum};
use tunnel::headers::{Packet, Transport};
use tunnel::icmp::{self, Reason};
use tunnel::knock::{self, KNOCK_LEN, KnockError, Knocker, Knocks};
use tunnel::rewrite::{Ends, decrement_hops, rewrite, rewrite_quote};
use tunnel::wire::{Boring, Door, Doors as _, Message};

pub const PARSERS: &[Parser] = &[
    parser(
        "wireguard",
        "a stranger's datagram at our port, up to the cryptography and through it",
        wireguard,
        wireguard_seeds,
        30,
    ),
    parser("knock", "a stranger's knock", open_knock, knock_seeds, 4),
    parser(
        "packet",
        "an IP packet of a tunnel or of this machine, with what is made of it: resets, errors, other ends",
        read_packet,
        packet_seeds,
        1,
    ),
    parser("dns-query", "a local program's question to the client's resolver", query, query_seeds, 2),
    parser("dns-answer", "a name server's answer that is passed on", answer, answer_seeds, 1),
    parser("dbus", "a message of systemd-resolved, or of whoever answers in its place", dbus, dbus_seeds, 1),
];

const OURS: [u8; 32] = [7; 32];
const THEIRS: [u8; 32] = [9; 32];
/// When everything here happens.
const NOW: WallMs = WallMs(1_700_000_000_000);

fn door(secret: [u8; 32]) -> Arc<dyn Door> {
    Boring::default().door(&PrivateKey::new(secret))
}

fn wireguard(bytes: &[u8]) -> bool {
    let Some(message) = Message::read(bytes) else { return false };
    let door = door(OURS);
    if matches!(message, Message::Initiation | Message::Response(_)) {
        let _ = door.judge(SocketAddr::from((Ipv4Addr::LOCALHOST, 443)), bytes);
        let _ = door.sender(bytes);
    }
    let far = Boring::default().door(&PrivateKey::new(THEIRS)).public();
    let Ok(mut tunnel) = door.open(&far, &PeerKind::Control, 1) else { return false };
    let opened = tunnel.decapsulate(Instant(0), bytes, &mut Vec::new()).is_ok();
    assert!(!opened || message == Message::Initiation, "nothing was ever sent that {message:?} could answer");
    opened
}

fn wireguard_seeds() -> Seeds {
    let (ours, theirs) = (door(OURS), door(THEIRS));
    let mut near = ours.open(&theirs.public(), &PeerKind::Control, 1)?;
    let mut far = theirs.open(&ours.public(), &PeerKind::Control, 2)?;
    let mut seeds = Vec::new();
    let initiation = far.initiate(Instant(0)).unwrap_or_default();
    if let Ok(tunnel::wire::Opened::Answer(response, _)) = near.decapsulate(Instant(0), &initiation, &mut Vec::new()) {
        seeds.push(seed("response", response.clone()));
        let _ = far.decapsulate(Instant(0), &response, &mut Vec::new());
        let mut data = Vec::new();
        far.encapsulate(Instant(0), &[0x45; 40], &mut data)?;
        seeds.push(seed("data", data));
    }
    seeds.push(seed("initiation", initiation));
    let cookie = [[3, 0, 0, 0].as_slice(), &[1; 60]].concat();
    seeds.extend([seed("cookie", cookie), seed("short", [4, 0, 0, 0])]);
    Ok(seeds)
}

fn secret() -> Secret<[u8; 32]> {
    Secret::new([5; 32])
}

/// Made once: the tags of all hours take longer than the rest.
fn knocks() -> &'static Mutex<Knocks> {
    static KNOCKS: OnceLock<Mutex<Knocks>> = OnceLock::new();
    KNOCKS.get_or_init(|| {
        let mut knocks = Knocks::new(NOW);
        knocks.add(Knocker::JoinKey(JoinKeyId::from_bytes([1; 10])), knock::knock_key(&secret()));
        Mutex::new(knocks)
    })
}

fn open_knock(bytes: &[u8]) -> bool {
    let mut knocks = knocks().lock().unwrap_or_else(PoisonError::into_inner);
    let holds = knock::mac1_holds(&PublicKey([3; 32]), bytes);
    let opened = knocks.open(Instant(0), NOW, bytes);
    assert!(!holds || bytes.len() == KNOCK_LEN);
    assert!(opened.is_err() || knocks.open(Instant(0), NOW, bytes).is_err(), "the same knock was followed twice");
    matches!(opened, Ok(_) | Err(KnockError::Seen))
}

fn knock_seeds() -> Seeds {
    let made =
        |wall: i64| knock::build(&secret(), &PublicKey([3; 32]), WallMs(wall), &PublicKey([4; 32]), [6; 24]).to_vec();
    Ok(vec![
        seed("now", made(NOW.0)),
        seed("long-ago", made(0)),
        seed("before-everything", made(i64::MIN)),
        seed("after-everything", made(i64::MAX)),
    ])
}

/// Also with the checksum of an IPv4 header put right: it would keep out most that is changed.
fn read_packet(bytes: &[u8]) -> bool {
    let mut righted = bytes.to_vec();
    let header = usize::from(bytes.first().map_or(0, |first| first & 0x0f)) * 4;
    if bytes.first().is_some_and(|first| first >> 4 == 4)
        && let Some(head) = righted.get_mut(..header.max(20))
    {
        put_word(head, 10, 0);
        let check = !sum(head, 0);
        put_word(head, 10, check);
    }
    follow(bytes) | follow(&righted)
}

fn follow(bytes: &[u8]) -> bool {
    let Ok(packet) = Packet::parse(bytes) else { return false };
    assert!(packet.offset <= packet.len && packet.len <= bytes.len(), "{packet:?} of {} bytes", bytes.len());
    let v6 = packet.source.is_ipv6();
    for reason in [Reason::Prohibited, Reason::HostUnreachable, Reason::NoRoute, Reason::TimeExceeded] {
        if let Some(error) = icmp::about(bytes, &packet, reason) {
            assert!(Packet::parse(&error).is_ok(), "our own error {error:?} cannot be read");
        }
    }
    if let Some(reset) = tunnel::reset::answer(&packet) {
        assert!(Packet::parse(&reset).is_ok(), "our own reset {reset:?} cannot be read");
    }
    let host = |last: u8| {
        if v6 {
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)).into()
        } else {
            Ipv4Addr::new(10, 77, 0, last).into()
        }
    };
    let to = Ends { source: host(1), source_port: 1_025, destination: host(2), destination_port: 443 };
    if let Transport::Error(error) = &packet.transport {
        let quote = rewrite_quote(bytes, &error.quote, &to);
        assert!(quote.len() <= packet.len, "a quote of {} bytes in a packet of {}", quote.len(), packet.len);
    }
    let mut other = bytes.to_vec();
    decrement_hops(&mut other, &packet);
    rewrite(&mut other, &packet, &to);
    assert_eq!(other.len(), packet.len, "a packet changes its ends, not its length");
    if !matches!(packet.transport, Transport::Error(_)) {
        let again = Packet::parse(&other).map(|p| (p.source, p.destination, p.len));
        assert_eq!(again, Ok((to.source, to.destination, packet.len)), "a packet with other ends can be read");
    }
    true
}

fn packet_seeds() -> Seeds {
    let v4 = |last: u8| IpAddr::from([10, 77, 0, last]);
    let v6 = |last: u16| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]);
    let mut seeds = Vec::new();
    for (family, from, to) in [("v4", v4(1), v4(2)), ("v6", v6(1), v6(2))] {
        let ends = |port: u16| (SocketAddr::new(from, 4_000), SocketAddr::new(to, port));
        let made = [
            ("tcp", packet::syn(ends(443).0, ends(443).1, b"hello")),
            ("udp", packet::udp(ends(53).0, ends(53).1, b"question")),
            ("echo", packet::echo(from, to, b"who?")),
        ];
        for (name, bytes) in made {
            if let Ok(packet) = Packet::parse(&bytes)
                && let Some(error) = icmp::about(&bytes, &packet, Reason::Prohibited)
            {
                seeds.push(seed(&format!("{family}-error-about-{name}"), error));
            }
            seeds.push(seed(&format!("{family}-{name}"), bytes));
        }
    }
    // Destination options in front of UDP.
    if let Some((_, whole)) = seeds.iter().find(|(name, _)| name == "v6-udp")
        && let Some((head, body)) = whole.split_at_checked(40)
    {
        let mut longer = head.to_vec();
        longer.extend([17, 0, 1, 4, 0, 0, 0, 0]);
        longer.extend(body);
        let len = u16::try_from(body.len() + 8).unwrap_or(0).to_be_bytes();
        longer.iter_mut().skip(4).zip(len).for_each(|(to, from)| *to = from);
        longer.iter_mut().skip(6).take(1).for_each(|next| *next = 60);
        seeds.push(seed("v6-udp-behind-options", longer));
    }
    Ok(seeds)
}

fn query(bytes: &[u8]) -> bool {
    let mut taken = false;
    for transport in [dns::Transport::Udp, dns::Transport::Tcp] {
        match reply::read(bytes, transport) {
            reply::Reading::Silence => {}
            reply::Reading::Answer(answer) => {
                assert_eq!(answer.get(..2), bytes.get(..2), "an answer has its query's id")
            }
            reply::Reading::Request(request) => {
                taken = true;
                let apex = request.name().clone();
                for answer in [request.missing(apex.clone()), request.records(apex, Vec::new())] {
                    assert!(answer.len() <= request.limit() && answer.get(..2) == bytes.get(..2), "{answer:?}");
                    let header = dns::header(&answer);
                    assert!(header.is_some_and(|header| header.response), "our own answer cannot be read: {answer:?}");
                }
            }
        }
    }
    taken
}

/// A name in wire form, and what follows it in a question.
fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').chain([""]) {
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend(label.bytes());
    }
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

fn dns_message(flags: u16, counts: [u16; 4], parts: &[&[u8]]) -> Vec<u8> {
    let head = [0x1234, flags].into_iter().chain(counts).flat_map(u16::to_be_bytes);
    head.chain(parts.concat()).collect()
}

const EDNS: &[u8] = &[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 4, 0, 10, 0, 0];

fn query_seeds() -> Seeds {
    let ask = |name: &str, kind| dns_message(0x0100, [1, 0, 0, 0], &[&question(name, kind)]);
    Ok(vec![
        seed("a", ask("wiki.corp.example", 1)),
        seed("aaaa", ask("WIKI.corp.example", 28)),
        seed("any", ask("corp.example", 255)),
        seed("transfer", ask("corp.example", 252)),
        seed("edns", dns_message(0x0100, [1, 0, 0, 1], &[&question("wiki.corp.example", 1), EDNS])),
        seed("update", dns_message(0x2800, [1, 0, 0, 0], &[&question("corp.example", 6)])),
        seed("two", dns_message(0x0100, [2, 0, 0, 0], &[&question("a.example", 1), &question("b.example", 1)])),
    ])
}

fn answer(bytes: &[u8]) -> bool {
    let Some(question) = dns::question(bytes) else { return false };
    let limit = dns::udp_limit(bytes, &question, DNS_UDP_MAX);
    assert!((512..=DNS_UDP_MAX).contains(&limit), "{limit}");
    let addresses = dns::addresses(bytes, &question);
    // The smallest record with an address has 15 bytes.
    assert!(addresses.as_ref().is_none_or(|found| found.len() * 15 <= bytes.len()), "{addresses:?}");
    if let Some(cut) = dns::cut(bytes, &question) {
        assert!(dns::header(&cut).is_some_and(|header| header.truncated), "a cut answer says so");
        assert_eq!(dns::question(&cut), Some(question), "a cut answer keeps its question");
    }
    let mut other = bytes.to_vec();
    dns::set_id(&mut other, 0x4321);
    assert_eq!(dns::header(&other).map(|header| header.id), Some(0x4321));
    addresses.is_some()
}

fn answer_seeds() -> Seeds {
    let record = |kind: u8, data: &[u8]| {
        let len = u8::try_from(data.len()).unwrap_or(0);
        [&[0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, len], data].concat()
    };
    let asked = question("www.example.org", 1);
    let two = [record(1, &[192, 0, 2, 1]), record(28, &[0x20; 16])].concat();
    Ok(vec![
        seed("addresses", dns_message(0x8180, [1, 2, 0, 0], &[&asked, &two])),
        seed("edns", dns_message(0x8180, [1, 1, 0, 1], &[&asked, &record(1, &[192, 0, 2, 1]), EDNS])),
        seed("alias", dns_message(0x8180, [1, 1, 0, 0], &[&asked, &record(5, &[3, b'w', b'w', b'w', 0xc0, 16])])),
        seed("none", dns_message(0x8183, [1, 0, 0, 0], &[&asked])),
        seed("more-than-there-is", dns_message(0x8180, [1, u16::MAX, u16::MAX, u16::MAX], &[&asked, &two])),
    ])
}

fn dbus(bytes: &[u8]) -> bool {
    let Ok(message) = bus::read(&mut &*bytes) else { return false };
    message.answer_to(1).is_some()
}

fn dbus_seeds() -> Seeds {
    let call = bus::Call {
        to: "org.freedesktop.resolve1",
        path: "/org/freedesktop/resolve1",
        interface: "org.freedesktop.resolve1.Manager",
        member: "SetLinkDomains",
        signature: "ia(sb)",
    };
    let domains = bus::Body::default().text("corp.example").boolean(true);
    let call = call.message(1, &bus::Body::default().int(7).array(domains));
    // An answer to serial 1: REPLY_SERIAL as a number, and an error's name as a string.
    let answer = |kind: u8, fields: &[u8]| {
        let len = u8::try_from(fields.len()).unwrap_or(0);
        let mut bytes = vec![b'l', kind, 1, 1, 0, 0, 0, 0, 9, 0, 0, 0, len, 0, 0, 0];
        bytes.extend(fields);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    };
    let reply_to = [5, 1, b'u', 0, 1, 0, 0, 0];
    let name = [&[4, 1, b's', 0, 5, 0, 0, 0], b"a.b.c\0".as_slice()].concat();
    Ok(vec![
        seed("call", call),
        seed("return", answer(2, &reply_to)),
        seed("error", answer(3, &[reply_to.as_slice(), &name].concat())),
    ])
}
