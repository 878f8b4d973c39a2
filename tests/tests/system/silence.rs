//! Does anything come back to somebody who never joined?

use crate::support::{SOON, world};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use umbra_tests::attacker::{hex_bytes, hex_text};
use umbra_tests::lab::topology::{INSIDE_LINK, OUTSIDE_LINK};
use umbra_tests::lab::{Daemon, Name, World};
use umbra_tests::perimeter::{Perimeter, Plan, admin_json};
use umbra_tests::service::Services;

/// What an attacker's datagrams carry, so that they are known again wherever they come out.
const CANARY: &[u8] = b"umbra-canary-from-a-stranger";
/// The length of a knock.
const KNOCK_LEN: usize = 108;

pub fn attack(world: &World, from: Name, words: &[&str]) -> String {
    let words = [&["umbra-lab", "__attack"], words].concat();
    let done = world.host(from).run(&words, SOON).unwrap_or_else(|error| panic!("{error}"));
    assert!(done.success(), "{words:?} on {from}: {}", done.stderr);
    done.stdout
}

/// Listens on a link of a host.
pub struct Capture {
    pub daemon: Daemon,
    host: Name,
}

impl Capture {
    pub fn start(world: &World, host: Name, link: &str) -> Self {
        let mut command = world.host(host).command("umbra-lab");
        command.args(["__attack", "capture", link]);
        let daemon = world.host(host).start(&format!("capture-{host}"), command).unwrap();
        daemon.wait_for_line("capturing", SOON).unwrap();
        Self { daemon, host }
    }

    pub fn frames(&self) -> Vec<Frame> {
        self.daemon.lines().iter().filter_map(|line| Frame::parse(&hex_bytes(line)?)).collect()
    }

    /// Frames which those hardware addresses sent to us, and which are no business of their own link.
    fn heard(&self, macs: &BTreeSet<Vec<u8>>) -> Vec<Frame> {
        self.frames().into_iter().filter(|frame| macs.contains(&frame.from) && !frame.is_link_business()).collect()
    }

    /// Everything that came before now has been seen: a friend is asked, and its refusal has arrived. It shows as well
    /// that the capture sees what it should.
    pub fn catch_up(&self, world: &World, friend: IpAddr) {
        let nonce = format!("caught-up-{}", self.daemon.mark());
        let to = SocketAddr::new(friend, 9).to_string();
        attack(world, self.host, &["send", &to, &hex_text(nonce.as_bytes())]);
        let seen = self.daemon.wait_for_line(&hex_text(nonce.as_bytes()), SOON);
        seen.unwrap_or_else(|error| panic!("the capture is blind: {error}"));
    }
}

/// An Ethernet frame, as far as it matters here.
#[derive(Debug, Clone)]
pub struct Frame {
    from: Vec<u8>,
    kind: u16,
    body: Vec<u8>,
}

impl Frame {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let from = bytes.get(6..12)?.to_vec();
        let kind = u16::from_be_bytes(bytes.get(12..14)?.try_into().ok()?);
        Some(Self { from, kind, body: bytes.get(14..)?.to_vec() })
    }

    /// ARP and ND in the name of an address of the link, and the kernel's own multicast housekeeping.
    pub fn is_link_business(&self) -> bool {
        let of_the_link =
            |address: IpAddr| Name::ALL.iter().any(|name| name.links().iter().any(|l| l.1.contains(&address)));
        match self.kind {
            0x0806 => {
                let sender = <[u8; 4]>::try_from(self.body.get(14..18).unwrap_or_default());
                sender.is_ok_and(|sender| of_the_link(IpAddr::from(sender)))
            }
            0x86dd => {
                let Some(source) = self.source() else { return false };
                let local = matches!(source, IpAddr::V6(v6) if v6.is_unicast_link_local() || v6.is_unspecified());
                // Of an advertisement the address that it is about counts.
                let target = |at: usize| <[u8; 16]>::try_from(self.body.get(at..at + 16).unwrap_or_default()).ok();
                let target_fits = target(48)
                    .map(Ipv6Addr::from)
                    .is_some_and(|target| target.is_unicast_link_local() || of_the_link(IpAddr::V6(target)));
                let (next, icmp) = (self.body.get(6).copied(), self.body.get(40).copied());
                match (next, icmp) {
                    (Some(58), Some(133)) => local || of_the_link(source),
                    (Some(58), Some(135 | 136)) => (local || of_the_link(source)) && target_fits,
                    // Multicast listener reports, behind a router alert.
                    (Some(0), _) => self.body.get(48) == Some(&143) && local,
                    _ => false,
                }
            }
            _ => false,
        }
    }

    pub fn source(&self) -> Option<IpAddr> {
        match self.kind {
            0x0800 => Some(<[u8; 4]>::try_from(self.body.get(12..16)?).ok()?.into()),
            0x86dd => Some(<[u8; 16]>::try_from(self.body.get(8..24)?).ok()?.into()),
            _ => None,
        }
    }

    /// To which port a UDP datagram goes, and what it carries.
    pub fn udp(&self) -> Option<(u16, &[u8])> {
        let udp = match self.kind {
            0x0800 if self.body.get(9) == Some(&17) => self.body.get(20..)?,
            0x86dd if self.body.get(6) == Some(&17) => self.body.get(40..)?,
            _ => return None,
        };
        let word = |at: usize| Some(u16::from_be_bytes(udp.get(at..at + 2)?.try_into().ok()?));
        Some((word(2)?, udp.get(8..usize::from(word(4)?))?))
    }

    /// What a UDP datagram to `port` carries.
    fn datagram(&self, port: u16) -> Option<Vec<u8>> {
        self.udp().filter(|(to, _)| *to == port).map(|(_, bytes)| bytes.to_vec())
    }

    pub fn carries(&self, bytes: &[u8]) -> bool {
        self.body.windows(bytes.len()).any(|window| window == bytes)
    }
}

/// The hardware addresses of the controller and the gateway.
fn our_macs(world: &World) -> BTreeSet<Vec<u8>> {
    let links = [(Name::Controller, OUTSIDE_LINK), (Name::Gateway, OUTSIDE_LINK), (Name::Gateway, INSIDE_LINK)];
    let mac = |(host, link): (Name, &str)| hex_bytes(attack(world, host, &["mac", link]).trim()).unwrap();
    links.into_iter().map(mac).collect()
}

/// Bytes that look random and are the same in each run.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Messages of WireGuard and knocks in everything but the keys, and datagrams of every other shape.
fn look_alikes() -> Vec<Vec<u8>> {
    let shapes = [(1_u32, 148), (2, 92), (3, 64), (4, 32), (4, 128), (4, 1400), (5, KNOCK_LEN), (0, 148), (6, 108)];
    let typed = shapes.iter().flat_map(|(kind, length)| {
        (0..8).map(move |seed| [&kind.to_le_bytes()[..], &noise(seed, length - 4)].concat())
    });
    let odd = [0, 1, 3, 4, 31, 33, 107, 109, 147, 149, 1450].map(|length| noise(99, length));
    typed.chain(odd).chain([CANARY.to_vec()]).collect()
}

/// Real datagrams that were seen on the wire: as they were, and with one bit turned in each of a few places.
fn replays(seen: &Capture, port: u16) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = seen.frames().iter().filter_map(|frame| frame.datagram(port)).collect();
    assert!(all.iter().any(|datagram| matches!(datagram.first(), Some(1 | 2))), "no handshake was seen");
    all.truncate(40);
    let turned = |datagram: &Vec<u8>| {
        let places = [0, 5, datagram.len() / 2, datagram.len().saturating_sub(20)];
        places.map(|place| {
            let mut copy = datagram.clone();
            if let Some(byte) = copy.get_mut(place) {
                *byte ^= 1;
            }
            copy
        })
    };
    let changed: Vec<Vec<u8>> = all.iter().flat_map(turned).collect();
    all.into_iter().chain(changed).collect()
}

fn throw(world: &World, from: Name, at: IpAddr, port: u16, datagrams: &[Vec<u8>]) {
    let to = SocketAddr::new(at, port).to_string();
    for some in datagrams.chunks(60) {
        let texts: Vec<String> = some.iter().map(|datagram| hex_text(datagram)).collect();
        let words: Vec<&str> = ["send", &to].into_iter().chain(texts.iter().map(String::as_str)).collect();
        attack(world, from, &words);
    }
}

/// Connections, pings and datagrams to an address; none may be answered, not even by a refusal.
pub fn touch(world: &World, from: Name, address: IpAddr, ports: &[(u16, u16)]) {
    let text = address.to_string();
    for (first, last) in ports {
        let said = attack(world, from, &["connect", &text, &first.to_string(), &last.to_string()]);
        let said: Vec<&str> = said.lines().filter(|line| !line.contains("o route to host")).collect();
        assert!(said.is_empty(), "{address} answered {from}: {said:?}");
    }
    let ping = ["umbra-lab", "probe", "--patience=200", "ping", &text];
    assert!(!world.host(from).run(&ping, SOON).unwrap().success(), "{address} answers pings of {from}");
    for port in [9, 53, 443, 7443, 7444, 9000] {
        throw(world, from, address, port, &[CANARY.to_vec(), noise(1, 148)]);
    }
}

fn scan(world: &World, from: Name, address: IpAddr) {
    let text = address.to_string();
    let common = ["nmap", "-Pn", "-n", "-T5", "--max-retries", "0", "--min-rate", "20000"];
    for kind in [&["-sS", "-p-"][..], &["-sU", "--top-ports", "100"]] {
        let family: &[&str] = if address.is_ipv6() { &["-6"] } else { &[] };
        let words = [&common[..], family, kind, &[&text]].concat();
        match world.host(from).run(&words, Duration::from_secs(60)) {
            Ok(done) => assert!(!done.stdout.contains("/tcp open "), "{}", done.stdout),
            Err(error) => println!("without nmap: {error}"),
        }
    }
}

struct Pools {
    v4: String,
    v6: String,
    overlay: Vec<IpAddr>,
}

fn pools(world: &World) -> Pools {
    let status = admin_json(world, &["status"]).unwrap();
    let (v4, v6) = (status["pool_v4"].as_str().unwrap().to_owned(), status["pool_v6"].as_str().unwrap().to_owned());
    let controller: Ipv6Addr = format!("{}1", v6.trim_end_matches("/48")).parse().unwrap();
    let gateways = admin_json(world, &["gateway", "list"]).unwrap();
    let gateway: IpAddr = gateways["gateways"][0]["address"].as_str().unwrap().parse().unwrap();
    let first: IpAddr = format!("{}1", v4.trim_end_matches("0/16")).parse().unwrap();
    Pools { v4, v6, overlay: vec![controller.into(), gateway, first] }
}

/// Overlay addresses, first as if they were on the attacker's link, then through each of our machines.
fn attack_overlay(world: &World, from: Name, link: &str, pools: &Pools, routers: &[IpAddr]) {
    for pool in [&pools.v4, &pools.v6] {
        attack(world, from, &["route", pool, "--link", link]);
    }
    for address in &pools.overlay {
        touch(world, from, *address, &[(7443, 7444)]);
    }
    for router in routers {
        for address in pools.overlay.iter().filter(|address| address.is_ipv4() == router.is_ipv4()) {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            let route = format!("{address}/{bits}");
            attack(world, from, &["route", &route, "--link", link, "--via", &router.to_string()]);
            touch(world, from, *address, &[(443, 443), (7443, 7444)]);
        }
    }
}

#[test]
fn a_stranger_hears_nothing() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    let towards = [Name::Controller, Name::Gateway].map(|host| (host, Capture::start(&world, host, OUTSIDE_LINK)));
    let plan = Plan { laptops: Vec::new(), ..Plan::default() };
    let _perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    let (macs, pools) = (our_macs(&world), pools(&world));
    let capture = Capture::start(&world, Name::Stranger, OUTSIDE_LINK);
    let at_service = Capture::start(&world, Name::Service, INSIDE_LINK);
    let laptop = Name::Laptop.outside()[0];
    for (host, seen) in &towards {
        let recorded = replays(seen, 443);
        for address in host.outside() {
            touch(&world, Name::Stranger, address, &[(1, 1024), (7440, 7450)]);
            throw(&world, Name::Stranger, address, 443, &look_alikes());
            throw(&world, Name::Stranger, address, 443, &recorded);
        }
        scan(&world, Name::Stranger, host.outside()[0]);
    }
    let routers = [Name::Controller.outside(), Name::Gateway.outside()].concat();
    attack_overlay(&world, Name::Stranger, OUTSIDE_LINK, &pools, &routers);
    // The gateway is no router for strangers.
    let gateway = Name::Gateway.outside();
    for (prefix, via) in [("10.20.0.0/24", gateway[0]), ("fd20::/64", gateway[1]), ("198.18.0.0/15", gateway[0])] {
        let via = via.to_string();
        attack(&world, Name::Stranger, &["route", prefix, "--link", OUTSIDE_LINK, "--via", &via]);
    }
    for target in ["10.20.0.10", "fd20::10", "10.20.0.2", "fd20::2", "10.20.0.66", "198.18.0.1"] {
        touch(&world, Name::Stranger, target.parse().unwrap(), &[(7, 7), (80, 80)]);
    }
    capture.catch_up(&world, laptop);
    let heard = capture.heard(&macs);
    assert!(heard.is_empty(), "a stranger heard {} frames, first {:?}", heard.len(), heard.first());
    at_service.catch_up(&world, Name::Neighbour.inside()[0]);
    let strangers = Name::Stranger.outside();
    let through = |frame: &Frame| frame.carries(CANARY) || frame.source().is_some_and(|from| strangers.contains(&from));
    assert_eq!(at_service.frames().iter().filter(|frame| through(frame)).count(), 0);
    assert_eq!(at_service.heard(&macs).len(), 0);
}

#[test]
fn a_neighbour_hears_nothing() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    let plan = Plan { laptops: Vec::new(), ..Plan::default() };
    let _perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    let (macs, pools) = (our_macs(&world), pools(&world));
    let capture = Capture::start(&world, Name::Neighbour, INSIDE_LINK);
    let outside = Capture::start(&world, Name::Stranger, OUTSIDE_LINK);
    let gateway = Name::Gateway.inside();
    for address in gateway.iter().copied() {
        touch(&world, Name::Neighbour, address, &[(1, 1024)]);
        throw(&world, Name::Neighbour, address, 443, &look_alikes());
    }
    scan(&world, Name::Neighbour, gateway[0]);
    attack_overlay(&world, Name::Neighbour, INSIDE_LINK, &pools, &gateway);
    // From the inside, too, it is no router; nor may anybody there speak as a grant does.
    let routes = [("198.18.0.0/15", gateway[0]), ("203.0.113.0/24", gateway[0]), ("2001:db8:0:1::/64", gateway[1])];
    for (prefix, via) in routes {
        attack(&world, Name::Neighbour, &["route", prefix, "--link", INSIDE_LINK, "--via", &via.to_string()]);
    }
    for target in ["198.18.0.1", "198.19.255.1", "203.0.113.66", "2001:db8:0:1::66", "203.0.113.20", "203.0.113.10"] {
        touch(&world, Name::Neighbour, target.parse().unwrap(), &[(7, 7), (443, 443)]);
    }
    capture.catch_up(&world, Name::Service.inside()[0]);
    let heard = capture.heard(&macs);
    assert!(heard.is_empty(), "a neighbour heard {} frames, first {:?}", heard.len(), heard.first());
    outside.catch_up(&world, Name::Laptop.outside()[0]);
    let neighbours = Name::Neighbour.inside();
    let through =
        |frame: &Frame| frame.carries(CANARY) || frame.source().is_some_and(|from| neighbours.contains(&from));
    assert_eq!(outside.frames().iter().filter(|frame| through(frame)).count(), 0);
    assert_eq!(outside.heard(&macs).len(), 0);
}

/// Local addresses and ports of one table of `/proc/net` in a state (listening: 0A for TCP, 07 for UDP).
fn sockets(world: &World, host: Name, table: &str, state: &str) -> Vec<(String, u16)> {
    let read = world.host(host).run(&["cat", &format!("/proc/net/{table}")], SOON).unwrap();
    let mut found = Vec::new();
    for line in read.stdout.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (address, port) = words[1].split_once(':').unwrap();
        if words[3] == state {
            found.push((address.to_owned(), u16::from_str_radix(port, 16).unwrap()));
        }
    }
    found
}

/// An IPv6 address as the kernel's tables write it: four words, each in the machine's own order.
fn kernel_form(address: Ipv6Addr) -> String {
    let octets = address.octets();
    octets.chunks(4).map(|word| format!("{:08X}", u32::from_ne_bytes(word.try_into().unwrap()))).collect()
}

#[test]
fn one_udp_port_and_nothing_else_is_open_outside() {
    let world = world();
    let plan = Plan { laptops: Vec::new(), ..Plan::default() };
    let _perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    let pools = pools(&world);
    for host in [Name::Controller, Name::Gateway] {
        let udp = [sockets(&world, host, "udp", "07"), sockets(&world, host, "udp6", "07")].concat();
        // Data has a socket of it, everything else the other.
        let ports: Vec<u16> = udp.iter().map(|socket| socket.1).collect();
        assert_eq!(ports, [443, 443], "{host}: {udp:?}");
        assert!(sockets(&world, host, "tcp", "0A").is_empty(), "{host} listens on IPv4");
    }
    let IpAddr::V6(controller) = pools.overlay[0] else { panic!("the controller has an IPv6 overlay address") };
    let mut listeners = sockets(&world, Name::Controller, "tcp6", "0A");
    listeners.sort();
    assert_eq!(listeners, [(kernel_form(controller), 7443), (kernel_form(controller), 7444)]);
    assert!(sockets(&world, Name::Gateway, "tcp6", "0A").is_empty(), "the gateway listens");
}
