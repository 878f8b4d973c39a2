//! Both families inside, by name and by prefix, and what a client is told when something does not get through.

use crate::silence::{Capture, attack};
use crate::support::{SOON, probe, world};
use crate::talk::{json, until};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use umbra_tests::attacker::{hex_bytes, hex_text};
use umbra_tests::lab::topology::INSIDE_LINK;
use umbra_tests::lab::{Name, World};
use umbra_tests::perimeter::{Perimeter, Plan, admin, done};
use umbra_tests::service::{self, Services};

/// The client's device.
const TUN: &str = "umbra0";
/// The gateway's way to the services, made narrow; IPv6 needs 1280.
const NARROW: u32 = 1300;

/// An ICMP error as the laptop's kernel got it.
#[derive(Debug)]
struct Told {
    kind: (u8, u8),
    mtu: u32,
    /// Its own source and destination, and those of the packet that it is about.
    ends: [IpAddr; 4],
}

fn told(packet: &[u8]) -> Option<Told> {
    let v4 = |at: usize| Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?)));
    let v6 = |at: usize| Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?)));
    let word = |at: usize| Some(u32::from_be_bytes(packet.get(at..at + 4)?.try_into().ok()?));
    match packet.first()? >> 4 {
        4 if packet.get(9) == Some(&1) && packet.get(20) != Some(&0) => Some(Told {
            kind: (packet[20], packet[21]),
            mtu: word(24)? & 0xffff,
            ends: [v4(12)?, v4(16)?, v4(40)?, v4(44)?],
        }),
        6 if packet.get(6) == Some(&58) && packet.get(40)? < &128 => {
            Some(Told { kind: (packet[40], packet[41]), mtu: word(44)?, ends: [v6(8)?, v6(24)?, v6(56)?, v6(72)?] })
        }
        _ => None,
    }
}

/// Waits for an error of this kind; it names nothing but the laptop and the virtual address.
fn expect(world: &World, seen: &Capture, kind: (u8, u8), virtual_address: IpAddr, provoke: impl Fn()) -> Told {
    let status = json(world, Name::Laptop, &["umbra", "status", "--json"]);
    let own: Vec<IpAddr> =
        status["addresses"].as_array().unwrap().iter().map(|a| a.as_str().unwrap().parse().unwrap()).collect();
    let own = own.into_iter().find(|own| own.is_ipv4() == virtual_address.is_ipv4()).unwrap();
    let mark = seen.daemon.mark();
    let mut found = None;
    until("an ICMP error", SOON, || {
        provoke();
        let lines = seen.daemon.lines();
        found = lines.iter().skip(mark).filter_map(|line| told(&hex_bytes(line)?)).find(|told| told.kind == kind);
        found.is_some()
    });
    let found = found.unwrap();
    assert_eq!(found.ends, [virtual_address, own, own, virtual_address], "{found:?}");
    found
}

fn addresses(world: &World, name: &str) -> [IpAddr; 2] {
    let mut found: Vec<IpAddr> = Vec::new();
    until("both addresses", SOON, || {
        let said = probe(world, Name::Laptop, &["name", &format!("{name}.corp.example")]).stdout;
        found = said.lines().filter_map(|line| line.parse().ok()).collect();
        found.sort();
        found.len() == 2
    });
    [found[0], found[1]]
}

#[test]
fn prefixes_of_both_families_pass_and_errors_show_virtual_addresses_only() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    let plan = Plan { laptops: vec![Name::Laptop], ..Plan::default() };
    let _perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    let options = ["--tcp", "7,81", "--udp", "9000-9001", "--icmp"];
    let net = ["resource", "add", "net", "--site", "hq", "--cidr", "10.20.0.8/29", "--cidr", "fd20::10/124"];
    admin(&world, &[&net[..], &options].concat()).unwrap();
    // By prefix, that is by their real addresses.
    for address in ["10.20.0.11", "fd20::11"] {
        let at = |port: u16| SocketAddr::new(address.parse().unwrap(), port).to_string();
        until("the route", SOON, || probe(&world, Name::Laptop, &["ping", address]).success());
        for words in [&["echo", &at(service::ECHO_PORT), "a line"][..], &["udp", &at(service::UDP_PORT), "a datagram"]]
        {
            let answer = probe(&world, Name::Laptop, words);
            assert!(answer.success(), "{words:?}: {answer:?}");
        }
    }
    // A host whose ports 81 and 9001 are closed.
    let spare = ["resource", "add", "spare", "--site", "hq", "--host", "spare.corp.example"];
    let zone = ["web 10.20.0.10", "web fd20::10", "spare 10.20.0.12", "spare fd20::12"]
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, address)| format!("{name}.corp.example 1 {address}\n"));
    service::write_zone(&world, &zone.concat()).unwrap();
    admin(&world, &[&spare[..], &options].concat()).unwrap();
    let seen = Capture::start(&world, Name::Laptop, TUN);
    for address in addresses(&world, "spare") {
        let at = |port: u16| SocketAddr::new(address, port).to_string();
        let unreachable = if address.is_ipv4() { (3, 3) } else { (1, 4) };
        expect(&world, &seen, unreachable, address, || {
            let refused = probe(&world, Name::Laptop, &["udp", &at(9001), "anybody?"]);
            assert!(!refused.success() && refused.stderr.contains("refused"), "{refused:?}");
        });
        let refused = probe(&world, Name::Laptop, &["echo", &at(81), "anybody?"]);
        assert!(!refused.success() && refused.stderr.contains("refused"), "{refused:?}");
    }
    let mtu = NARROW.to_string();
    done(&world, Name::Gateway, &["ip", "link", "set", "dev", INSIDE_LINK, "mtu", &mtu]).unwrap();
    for address in addresses(&world, "web") {
        let too_big = if address.is_ipv4() { (3, 4) } else { (2, 0) };
        let large = hex_text(&[b'x'; NARROW as usize + 40]);
        let to = SocketAddr::new(address, service::UDP_PORT).to_string();
        let error =
            expect(&world, &seen, too_big, address, || drop(attack(&world, Name::Laptop, &["send", &to, &large])));
        assert_eq!(error.mtu, NARROW);
    }
}

#[test]
fn datagrams_larger_than_the_tunnel_cross_both_ways() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    let plan = Plan { laptops: vec![Name::Laptop], ..Plan::default() };
    let _perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    let net = ["resource", "add", "net", "--site", "hq", "--cidr", "10.20.0.8/29", "--cidr", "fd20::10/124"];
    admin(&world, &[&net[..], &["--udp", "9000", "--icmp"]].concat()).unwrap();
    let text = "a datagram, ".repeat(334);
    let text = text.split_at(4_000).0;
    for address in ["10.20.0.11", "fd20::11"] {
        until("the route", SOON, || probe(&world, Name::Laptop, &["ping", address]).success());
        // More than once, where it must: with IPv6 the first large answer tells the service how narrow its way back is.
        let to = SocketAddr::new(address.parse().unwrap(), service::UDP_PORT).to_string();
        until("a datagram of 4,000 bytes and its answer", SOON, || {
            probe(&world, Name::Laptop, &["udp", &to, text]).stdout.trim_end() == text.trim_end()
        });
        until("a large echo", SOON, || probe(&world, Name::Laptop, &["ping", address, "--size", "3000"]).success());
    }
}
