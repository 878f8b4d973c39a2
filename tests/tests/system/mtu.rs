//! Does a path that is narrower somewhere swallow anything? A router between gateway and service, and one between laptop and
//! gateway, each with a narrow way on, in both families and both directions.

use crate::support::{SOON, world};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use umbra_tests::exchange::Outcome;
use umbra_tests::lab::topology::{INSIDE_LINK, OUTSIDE_LINK};
use umbra_tests::lab::{Name, World};
use umbra_tests::perimeter::{Perimeter, Plan, admin, done};
use umbra_tests::service::{EXCHANGE_PORT, Services, start_exchange};

/// What the narrow way takes: IPv6 needs 1280; a tunnel's datagrams of 1420 bytes of payload have 1480 or 1500.
const MTUS: [u32; 2] = [1280, 1400];
/// Each way.
const BYTES: &str = "6000000";
/// Much longer than it takes.
const LIMIT: Duration = Duration::from_secs(120);

/// Makes `router` the way between two hosts of a network, and its ways on this narrow.
fn detour(world: &World, link: &str, router: Name, ends: [Name; 2], mtu: u32) {
    let of = |host: Name, v4: bool| {
        let all = if link == INSIDE_LINK { host.inside() } else { host.outside() };
        all.into_iter().find(|address| address.is_ipv4() == v4).unwrap()
    };
    // Whoever is told of a shorter way, or has not heard yet how narrow this one is, would not test it.
    let quiet = "for f in /proc/sys/net/ipv[46]/conf/*/accept_redirects /proc/sys/net/ipv4/conf/*/send_redirects; \
                 do echo 0 > $f; done; ip route flush cache; ip -6 route flush cache";
    for host in [router, ends[0], ends[1]] {
        done(world, host, &["sh", "-c", quiet]).unwrap();
    }
    let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";
    done(world, router, &["sh", "-c", forward]).unwrap();
    let mtu = mtu.to_string();
    for (near, far) in [(ends[0], ends[1]), (ends[1], ends[0])] {
        for v4 in [true, false] {
            let (to, via) = (of(far, v4).to_string(), of(router, v4).to_string());
            done(world, near, &["ip", "route", "replace", &to, "via", &via, "dev", link]).unwrap();
            done(world, router, &["ip", "route", "replace", &to, "dev", link, "mtu", "lock", &mtu]).unwrap();
        }
    }
}

/// A gigantic download and upload at once, by a service's real address.
fn exchange(world: &World, to: &str) -> Outcome {
    let to = SocketAddr::new(to.parse::<IpAddr>().unwrap(), EXCHANGE_PORT).to_string();
    let words = ["umbra-lab", "probe", "--patience=20000", "exchange", &to, BYTES];
    let finished = world.host(Name::Laptop).run(&words, LIMIT).unwrap();
    assert!(finished.success(), "{to}: {finished:?}");
    serde_json::from_str(&finished.stdout).unwrap()
}

/// An organisation whose laptop reaches a resource of prefixes.
fn organisation(world: &World) -> Perimeter {
    let plan = Plan { laptops: vec![Name::Laptop], ..Plan::default() };
    let perimeter = Perimeter::start(world, &plan).unwrap_or_else(|error| panic!("{error}"));
    let net = ["resource", "add", "net", "--site", "hq", "--cidr", "10.20.0.8/29", "--cidr", "fd20::10/124"];
    let port = EXCHANGE_PORT.to_string();
    admin(world, &[&net[..], &["--tcp", &port, "--icmp"]].concat()).unwrap();
    for address in ["10.20.0.10", "fd20::10"] {
        crate::talk::until("the route", SOON, || {
            crate::support::probe(world, Name::Laptop, &["ping", address]).success()
        });
    }
    perimeter
}

fn nothing_is_swallowed(link: &str, router: Name, ends: [Name; 2]) {
    for mtu in MTUS {
        let world = world();
        let _services = Services::start(&world).unwrap();
        let _exchange = start_exchange(&world).unwrap();
        let _perimeter = organisation(&world);
        detour(&world, link, router, ends, mtu);
        let both = || {
            for to in ["10.20.0.10", "fd20::10"] {
                let outcome = exchange(&world, to);
                println!("{link} {mtu}, {to}: {} ms, longest gap {:?}", outcome.took_ms, outcome.gap());
                assert!(outcome.is_same(), "{outcome:?}");
            }
        };
        both();
        if link == OUTSIDE_LINK {
            // That went over IPv6; now over IPv4, where the router itself cuts what is too big.
            let before = passed(&world, router)[0];
            assert!(before[1] > 100, "{before:?}");
            done(&world, Name::Laptop, &["ip", "-6", "address", "flush", "dev", link, "scope", "global"]).unwrap();
            both();
            let after = passed(&world, router)[0];
            assert!(after[0] > before[0] + 100, "from {before:?} to {after:?}");
        }
        let [forwarded, too_big] = passed(&world, router);
        println!("forwarded {forwarded:?}, refused as too big {too_big:?} (IPv4, IPv6)");
        assert!(forwarded.into_iter().sum::<u64>() > 100, "the detour was not taken: {forwarded:?}");
        if link == INSIDE_LINK {
            assert!(too_big.into_iter().all(|count| count > 0), "nobody had to be told: {too_big:?}");
        }
    }
}

/// What the router's kernel passed on, super-packets counted once, and what it refused as too big: of IPv4 and IPv6.
fn passed(world: &World, router: Name) -> [[u64; 2]; 2] {
    let said = done(world, router, &["cat", "/proc/net/snmp", "/proc/net/snmp6"]).unwrap().stdout;
    let mut v4 = said.lines().filter_map(|line| line.strip_prefix("Ip: ")).map(|line| line.split(' '));
    let v4: Vec<_> = v4.next().unwrap().zip(v4.next().unwrap()).collect();
    let v6: Vec<_> = said.lines().filter_map(|line| line.split_once(char::is_whitespace)).collect();
    let count =
        |all: &[(&str, &str)], name: &str| all.iter().find(|(n, _)| *n == name).unwrap().1.trim().parse().unwrap();
    [["ForwDatagrams", "Ip6OutForwDatagrams"], ["FragFails", "Ip6FragFails"]]
        .map(|[of_v4, of_v6]| [count(&v4, of_v4), count(&v6, of_v6)])
}

#[test]
fn a_narrow_way_to_the_service_swallows_nothing() {
    nothing_is_swallowed(INSIDE_LINK, Name::Neighbour, [Name::Gateway, Name::Service]);
}

#[test]
fn a_narrow_way_to_the_gateway_swallows_nothing() {
    nothing_is_swallowed(OUTSIDE_LINK, Name::Stranger, [Name::Laptop, Name::Gateway]);
}
