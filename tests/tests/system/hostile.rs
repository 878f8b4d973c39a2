//! Does a machine that has joined reach more than it was granted, and does anything stay when a grant is over?

use crate::silence::{Capture, attack};
use crate::support::{SOON, probe, world};
use crate::talk::{Talk, dropped, drops, json, tracked, until};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use umbra_tests::attacker::{hex_bytes, hex_text, packet};
use umbra_tests::lab::topology::{INSIDE_LINK, OUTSIDE_LINK};
use umbra_tests::lab::{Name, World};
use umbra_tests::perimeter::{Perimeter, Plan, admin, admin_json, carry_join_file, done, start_client, umbra};
use umbra_tests::service::{self, Services};

/// What forbidden packets carry, so that they are known again wherever they come out.
const CANARY: &[u8] = b"umbra-canary-from-an-insider";
/// The client's device.
const TUN: &str = "umbra0";
const GOOD: &[u8] = b"what-the-insider-may-say";

fn start(world: &World, plan: &Plan) -> (Services, Perimeter) {
    let services = Services::start(world).unwrap();
    let perimeter = Perimeter::start(world, plan).unwrap_or_else(|error| panic!("{error}"));
    (services, perimeter)
}

/// The addresses of a name as a host sees them: IPv4, IPv6.
fn addresses(world: &World, from: Name, name: &str) -> [IpAddr; 2] {
    let mut found = Vec::new();
    until("both addresses", SOON, || {
        let said = probe(world, from, &["name", &format!("{name}.corp.example")]).stdout;
        found = said.lines().filter_map(|line| line.parse().ok()).collect();
        found.sort();
        found.len() == 2
    });
    [found[0], found[1]]
}

fn overlay_addresses(world: &World, host: Name) -> [IpAddr; 2] {
    let status = json(world, host, &["umbra", "status", "--json"]);
    let own = status["addresses"].as_array().unwrap().iter();
    let mut own: Vec<IpAddr> = own.map(|address| address.as_str().unwrap().parse().unwrap()).collect();
    own.sort();
    [own[0], own[1]]
}

fn resource_id(world: &World, name: &str) -> String {
    let list = admin_json(world, &["resource", "list"]).unwrap();
    let row = list["resources"].as_array().unwrap().iter().find(|row| row["name"] == name).cloned();
    row.unwrap_or_else(|| panic!("{name} in {list}"))["id"].as_str().unwrap().to_owned()
}

/// A datagram, a connection and a ping with a source that may be anybody's.
fn all_kinds(from: IpAddr, to: IpAddr) -> Vec<Vec<u8>> {
    vec![
        packet::udp(SocketAddr::new(from, 4_000), SocketAddr::new(to, service::UDP_PORT), CANARY),
        packet::syn(SocketAddr::new(from, 4_000), SocketAddr::new(to, service::ECHO_PORT), CANARY),
        packet::echo(from, to, CANARY),
    ]
}

#[test]
fn an_insider_reaches_no_more_than_its_own_grant_and_speaks_for_nobody() {
    let world = world();
    let (_services, perimeter) = start(&world, &Plan::default());
    let mut first = Talk::open(&world, Name::Laptop, "wiki.corp.example:7");
    assert!(probe(&world, Name::Laptop, &["udp", "web.corp.example:9000", "hello"]).success());
    assert!(probe(&world, Name::Laptop2, &["udp", "web.corp.example:9000", "hello"]).success());
    let (web, wiki) = (addresses(&world, Name::Laptop, "web"), addresses(&world, Name::Laptop, "wiki"));
    let (theirs, own) = (overlay_addresses(&world, Name::Laptop), overlay_addresses(&world, Name::Laptop2));
    let at_service = Capture::start(&world, Name::Service, INSIDE_LINK);

    // With the real client: its own filter stops it. Through the route of another grant, and with another's address.
    let before = json(&world, Name::Laptop2, &["umbra", "status", "--json"]);
    for (there, another) in wiki.iter().zip(theirs) {
        let bits = if there.is_ipv4() { 32 } else { 128 };
        attack(&world, Name::Laptop2, &["route", &format!("{there}/{bits}"), "--link", TUN]);
        let to = SocketAddr::new(*there, service::UDP_PORT).to_string();
        attack(&world, Name::Laptop2, &["send", &to, &hex_text(CANARY)]);
        done(&world, Name::Laptop2, &["ip", "address", "add", &format!("{another}/{bits}"), "dev", TUN]).unwrap();
        let to = SocketAddr::new(web[usize::from(another.is_ipv6())], service::UDP_PORT).to_string();
        attack(&world, Name::Laptop2, &["send", &to, &hex_text(CANARY), "--from", &another.to_string()]);
    }
    let after = json(&world, Name::Laptop2, &["umbra", "status", "--json"]);
    for reason in ["drop_no_route", "drop_source_not_own"] {
        let count = |status: &serde_json::Value| {
            let rows = status["drops"].as_array().unwrap();
            rows.iter().find(|row| row["reason"] == reason).map_or(0, |row| row["count"].as_u64().unwrap())
        };
        assert!(count(&after) >= count(&before) + 2, "{reason}: {before} {after}");
    }

    // With a client of its own making: only the gateway is left to stop it.
    perimeter.clients[&Name::Laptop2].stop(SOON).unwrap();
    let mut insider = Talk::start(&world, Name::Laptop2, &["__attack", "insider", &resource_id(&world, "web")]);
    if insider.hear(SOON).is_none_or(|line| line != "the tunnel is open") {
        panic!("{}", insider.last_words());
    }
    let say = |insider: &mut Talk, number: usize| {
        let port = u16::try_from(5_000 + number).unwrap();
        let (from, to) = (SocketAddr::new(own[0], port), SocketAddr::new(web[0], service::UDP_PORT));
        insider.say(&hex_text(&packet::udp(from, to, GOOD)));
        let answer = insider.hear(SOON).unwrap_or_else(|| panic!("{}", insider.last_words()));
        assert!(answer.ends_with(&hex_text(GOOD)), "{answer}");
    };
    say(&mut insider, 1);
    let before = drops(&world);
    let spoofed: Vec<Vec<u8>> = theirs
        .iter()
        .zip(web.iter().zip(wiki))
        .flat_map(|(from, to)| [all_kinds(*from, *to.0), all_kinds(*from, to.1)].concat())
        .collect();
    let gateway =
        admin_json(&world, &["gateway", "list"]).unwrap()["gateways"][0]["address"].as_str().unwrap().to_owned();
    let elsewhere =
        ["10.20.0.10", "10.20.0.11", "10.20.0.2", "203.0.113.10", "127.0.0.1", "169.254.169.254", "198.18.0.1"]
            .into_iter()
            .chain(["fd20::11", "fd20::2", "::1", "fe80::1", "2001:db8:0:1::10", "::ffff:10.20.0.11", &gateway])
            .map(|text| text.parse().unwrap())
            .chain(theirs)
            .chain(wiki);
    let elsewhere: Vec<Vec<u8>> =
        elsewhere.flat_map(|to: IpAddr| all_kinds(own[usize::from(to.is_ipv6())], to)).collect();
    for bytes in spoofed.iter().chain(&elsewhere) {
        insider.say(&hex_text(bytes));
    }
    // In a tunnel everything stays in order: what was sent before this has been judged.
    say(&mut insider, 2);
    let after = drops(&world);
    let more = |reason: &str| after.get(reason).copied().unwrap_or(0) - before.get(reason).copied().unwrap_or(0);
    assert_eq!(more("drop_source_not_owned"), spoofed.len() as u64, "{before:?} {after:?}");
    assert_eq!(more("drop_no_grant"), elsewhere.len() as u64, "{before:?} {after:?}");
    assert_eq!(insider.hear(Duration::from_millis(100)), None, "an answer to a forbidden packet");

    at_service.catch_up(&world, Name::Neighbour.inside()[0]);
    let seen = at_service.frames();
    assert_eq!(seen.iter().filter(|frame| frame.carries(GOOD)).count(), 2, "the capture is blind");
    assert_eq!(seen.iter().filter(|frame| frame.carries(CANARY)).count(), 0);
    assert!(first.answers(), "the first laptop's connection");

    // When its grant is over, its tunnel is no tunnel any more.
    let sessions = admin_json(&world, &["session", "list"]).unwrap();
    let guest = sessions["sessions"].as_array().unwrap().iter().find(|row| row["user"] == "guest").cloned().unwrap();
    admin(&world, &["session", "revoke", guest["id"].as_str().unwrap()]).unwrap();
    let dark = dropped(&world, "udp_unknown_index");
    let (from, to) = (SocketAddr::new(own[0], 5_009), SocketAddr::new(web[0], service::UDP_PORT));
    insider.say(&hex_text(&packet::udp(from, to, CANARY)));
    until("the gateway to know the tunnel no more", SOON, || dropped(&world, "udp_unknown_index") > dark);
    at_service.catch_up(&world, Name::Neighbour.inside()[0]);
    assert_eq!(at_service.frames().iter().filter(|frame| frame.carries(CANARY)).count(), 0);
    assert!(first.answers(), "the first laptop's connection");
}

/// Connections of the echo service that are established, of both families.
fn established(world: &World) -> usize {
    let port = format!(":{:04X}", service::ECHO_PORT);
    let count = |table: &str| {
        let read = world.host(Name::Service).run(&["cat", &format!("/proc/net/{table}")], SOON).unwrap().stdout;
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        read.lines().map(words).filter(|words| words[1].ends_with(&port) && words[3] == "01").count()
    };
    count("tcp") + count("tcp6")
}

#[test]
fn a_revoke_leaves_nothing_of_the_grant_in_the_kernel_and_resets_both_sides() {
    let world = world();
    let (_services, _perimeter) = start(&world, &Plan::default());
    let web = addresses(&world, Name::Laptop, "web");
    let mut talks = Vec::new();
    for address in web {
        let at = |port: u16| SocketAddr::new(address, port).to_string();
        talks.push(Talk::open(&world, Name::Laptop, &at(service::ECHO_PORT)));
        assert!(probe(&world, Name::Laptop, &["udp", &at(service::UDP_PORT), "a datagram"]).success());
        assert!(probe(&world, Name::Laptop, &["ping", &address.to_string()]).success());
    }
    let sources = |entries: &[(String, String)]| entries.iter().map(|(s, _)| s.clone()).collect::<BTreeSet<String>>();
    let first = tracked(&world);
    let grants = sources(&first);
    assert_eq!(grants.len(), 2, "one address of each family: {first:?}");
    for source in &grants {
        let kinds: BTreeSet<&str> = first.iter().filter(|(s, _)| s == source).map(|(_, kind)| kind.as_str()).collect();
        assert_eq!(kinds.len(), 3, "TCP, UDP, ICMP of {source}: {first:?}");
    }
    let mut other = Talk::open(&world, Name::Laptop2, "web.corp.example:7");
    assert_eq!(established(&world), 3);
    let sessions = admin_json(&world, &["session", "list"]).unwrap();
    let engineer = sessions["sessions"].as_array().unwrap().iter().find(|row| row["user"] == "engineer").cloned();
    admin(&world, &["session", "revoke", engineer.unwrap()["id"].as_str().unwrap()]).unwrap();
    // The command has answered: it is over now.
    let left = tracked(&world);
    assert!(sources(&left).is_disjoint(&grants), "{left:?} of {grants:?}");
    assert!(!left.is_empty(), "the other laptop's entry");
    until("the service to lose both connections", SOON, || established(&world) == 1);
    for talk in &mut talks {
        assert!(!talk.answers());
        let said = talk.last_words();
        assert!(said.contains("reset"), "no RST came to the laptop: {said:?}");
    }
    assert!(other.answers(), "the other laptop's connection");
}

#[test]
fn a_name_that_turns_leads_nowhere_and_a_flow_keeps_its_address() {
    let world = world();
    let (_services, perimeter) = start(&world, &Plan { laptops: vec![Name::Laptop], ..Plan::default() });
    let zone = |addresses: &[&str]| {
        let text: String = addresses.iter().map(|address| format!("web.corp.example 1 {address}\n")).collect();
        service::write_zone(&world, &text).unwrap();
    };
    let web = addresses(&world, Name::Laptop, "web");
    let mut talks =
        web.map(|address| Talk::open(&world, Name::Laptop, &SocketAddr::new(address, service::ECHO_PORT).to_string()));
    // Somebody would answer on the gateway, and outside the site.
    let listen = |host: Name, addresses: &[&str]| {
        let mut command = world.host(host).command("umbra-lab");
        command.args(["__service", "udp"]);
        command.args(addresses.iter().map(|address| format!("--listen={address}:9000")));
        let daemon = world.host(host).start(&format!("wrong-{host}"), command).unwrap();
        daemon.wait_for_line("listening", SOON).unwrap();
        daemon
    };
    let _wrong = [
        listen(Name::Gateway, &["127.0.0.1", "10.20.0.2", "[::1]", "[fd20::2]", "203.0.113.20"]),
        listen(Name::Stranger, &["203.0.113.66", "[2001:db8:0:1::66]"]),
    ];
    let captures = [(Name::Gateway, "lo"), (Name::Stranger, OUTSIDE_LINK), (Name::Service, INSIDE_LINK)]
        .map(|(host, link)| Capture::start(&world, host, link));
    let ask = |address: IpAddr, text: &str| {
        let to = SocketAddr::new(address, service::UDP_PORT).to_string();
        probe(&world, Name::Laptop, &["--patience=300", "udp", &to, text]).success()
    };
    let canary = std::str::from_utf8(CANARY).unwrap();
    let bad = [
        &["169.254.169.254", "::ffff:169.254.169.254"][..],
        &["127.0.0.1", "::1"],
        &["10.20.0.2", "fd20::2"],
        &["203.0.113.66", "2001:db8:0:1::66"],
        &["10.77.0.1", "64:ff9b::a14:a"],
    ];
    for addresses in bad {
        zone(addresses);
        // The old answer may be used for its second.
        until("the new answer to be in use", SOON, || !web.iter().any(|address| ask(*address, "still there?")));
        let before = dropped(&world, "drop_target_refused");
        assert!(!web.iter().any(|address| ask(*address, canary)), "{addresses:?} answered");
        assert!(dropped(&world, "drop_target_refused") >= before + 2, "{addresses:?}: {:?}", drops(&world));
        for address in addresses {
            let told = perimeter.gateways[&Name::Gateway].lines();
            let told = told.iter().any(|line| line.contains("no packet may go") && line.contains(address));
            assert!(told, "{address} is not told");
        }
    }
    assert!(talks.iter_mut().all(Talk::answers), "a flow keeps its address");
    zone(&["10.20.0.10", "fd20::10"]);
    until("the name to lead back", SOON, || web.iter().all(|address| ask(*address, "back?")));
    captures[2].catch_up(&world, Name::Neighbour.inside()[0]);
    for capture in &captures {
        let lines = capture.daemon.lines();
        let seen = lines.iter().filter_map(|line| hex_bytes(line));
        let leaked = seen.filter(|frame| frame.windows(CANARY.len()).any(|window| window == CANARY)).count();
        assert_eq!(leaked, 0);
    }
    let heard = captures[2].frames().iter().filter(|frame| frame.carries(b"back?")).count();
    assert!(heard > 0, "the capture is blind");
}

/// What the name `controller` leads to on a host, as its network says.
fn turn_controller(world: &World, host: Name, to: Name) {
    let lines: String = to.outside().iter().take(2).map(|address| format!("{address} controller\n")).collect();
    let text = format!("127.0.0.1 localhost\n{lines}");
    done(world, host, &["sh", "-c", "printf %s \"$1\" > /etc/hosts", "sh", &text]).unwrap();
}

#[test]
fn a_false_name_for_the_controller_gets_knocks_and_handshakes_and_the_truth_brings_clients_back() {
    let world = world();
    let (_services, perimeter) = start(&world, &Plan { laptops: vec![Name::Laptop], ..Plan::default() });
    let join = carry_join_file(&world, Name::Laptop2, &["--device"]).unwrap();
    let joining = start_client(&world, Name::Laptop2).unwrap();
    let liar = Capture::start(&world, Name::Stranger, OUTSIDE_LINK);
    for host in [Name::Laptop, Name::Laptop2] {
        turn_controller(&world, host, Name::Stranger);
    }

    // One that has joined comes into that network, and one that wants to join.
    umbra(&world, Name::Laptop, &["down"]).unwrap();
    let mut command = world.host(Name::Laptop2).command("umbra");
    command.args(["up", "--join", &join, "--yes"]);
    let up = world.host(Name::Laptop2).start("up", command).unwrap();
    let told = world.host(Name::Laptop).run(&["umbra", "up"], SOON).unwrap();
    assert!(!told.success() && told.stderr.contains("controller"), "{told:?}");
    let status = json(&world, Name::Laptop, &["umbra", "status", "--json"]);
    assert_eq!(status["controller"]["connected"], false, "{status}");

    let ours: Vec<IpAddr> = [Name::Laptop, Name::Laptop2].iter().flat_map(|host| host.outside()).collect();
    let frames = liar.frames();
    let from_us =
        frames.iter().filter(|frame| !frame.is_link_business() && frame.source().is_some_and(|a| ours.contains(&a)));
    let (mut knocks, mut initiations) = (0, 0);
    for frame in from_us {
        match frame.udp() {
            Some((443, bytes)) if tunnel::knock::is_knock(bytes) => knocks += 1,
            Some((443, bytes)) if bytes.len() == 148 && bytes.starts_with(&[1, 0, 0, 0]) => initiations += 1,
            // The name server that they know is on that host, too.
            Some((53, _)) => {}
            other => panic!("a false controller got {other:?} of {frame:?}"),
        }
    }
    assert!(knocks > 0 && initiations > 0, "{knocks} knocks, {initiations} initiations");

    let client = &perimeter.clients[&Name::Laptop];
    let mark = client.mark();
    for host in [Name::Laptop, Name::Laptop2] {
        turn_controller(&world, host, Name::Controller);
    }
    client.wait_for_line_after(mark, "connected to the controller", SOON).unwrap();
    until("the page", SOON, || probe(&world, Name::Laptop, &["http", "http://web.corp.example/"]).success());
    let ended = up.wait_for_end(SOON * 2).unwrap().unwrap();
    assert!(ended.success(), "{:?} {:?}", up.lines(), joining.lines().last());
}
