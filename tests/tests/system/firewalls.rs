//! What a gateway's firewall and others do to each other: another's, as Docker writes one, neither widens access nor breaks it
//! silently; our own shuts no administrator out.

use crate::support::{SOON, probe, world};
use crate::talk::{Talk, json, until};
use std::process::Stdio;
use umbra_tests::lab::{Daemon, Name, World};
use umbra_tests::perimeter::{Perimeter, Plan};
use umbra_tests::service::Services;

/// Publishes the first service to everybody, and drops what is forwarded and is not a container's.
const DOCKER: &str = r#"
table ip nat {
    chain DOCKER { iifname "docker0" return; tcp dport 8080 dnat to 10.20.0.10:80; }
    chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; fib daddr type local jump DOCKER; }
    chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept; oifname "inside" masquerade; }
}
table ip filter {
    chain DOCKER-USER { return; }
    chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER;
        ip daddr 10.20.0.10 tcp dport 80 accept; oifname "outside" ct state established,related accept; }
}
table ip6 filter {
    chain DOCKER-USER { return; }
    chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER; }
}
"#;

fn nft(world: &World, input: &str) {
    use std::io::Write as _;
    let mut command = world.host(Name::Gateway).command("nft");
    let mut nft = command.args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "{input}");
}

fn echoes(world: &World) -> bool {
    probe(world, Name::Laptop, &["--patience=1000", "echo", "web.corp.example:7", "a line"]).success()
}

fn attention(world: &World) -> String {
    json(world, Name::Gateway, &["umbra-gateway", "status", "--json"])["firewalls"].to_string()
}

fn published(world: &World) -> bool {
    probe(world, Name::Stranger, &["--patience=500", "http", "http://203.0.113.20:8080/"]).success()
}

#[test]
fn another_firewall_widens_nothing_and_what_it_drops_is_said() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    // First on its own: with forwarding on, it lets a stranger in.
    nft(&world, DOCKER);
    let forwarding = ["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"];
    assert!(world.host(Name::Gateway).run(&forwarding, SOON).unwrap().success());
    until("the published port", SOON, || published(&world));

    let plan = Plan { laptops: vec![Name::Laptop], dark: false, ..Plan::default() };
    let mut perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    assert!(!published(&world), "through the gateway");
    until("what is dropped is said", SOON, || {
        assert!(!echoes(&world), "through the other firewall");
        attention(&world).contains("chain FORWARD of table ip filter, which drops by default")
    });
    let log = perimeter.gateways[&Name::Gateway].lines().join("\n");
    assert!(log.contains("another firewall of this host dropped"), "{log}");
    // Its own rules let the administrator make the exception by hand, too; here, it goes.
    nft(&world, "delete table ip filter\ndelete table ip6 filter\n");
    until("the service", SOON, || echoes(&world));
    assert!(!published(&world), "without the other's filter");

    // It comes back, behind us, while the gateway is to make the exceptions itself.
    perimeter.gateways.remove(&Name::Gateway).unwrap().stop(SOON).unwrap();
    let mut command = world.host(Name::Gateway).command("umbra-gateway");
    command.args(["up", "--name", "gateway", "--pass-firewalls"]);
    let gateway = world.host(Name::Gateway).start("gateway", command).unwrap();
    gateway.wait_for_line("confirmed=true", SOON).unwrap();
    nft(&world, DOCKER);
    until("the service past the other firewall", SOON, || echoes(&world));
    assert!(!published(&world), "with the exception");
    gateway.stop(SOON).unwrap();
    let rules = world.host(Name::Gateway).run(&["nft", "list", "ruleset"], SOON).unwrap().stdout;
    assert!(rules.contains("DOCKER-USER") && !rules.contains("umbra"), "{rules}");
}

/// Starts a gateway that has joined already.
fn again(world: &World, options: &[&str]) -> Daemon {
    let mut command = world.host(Name::Gateway).command("umbra-gateway");
    command.args(["up", "--name", "gateway", "--dark"]).args(options);
    let gateway = world.host(Name::Gateway).start("gateway", command).unwrap();
    gateway.wait_for_line("confirmed=true", SOON).unwrap();
    gateway
}

#[test]
fn dark_cuts_no_ssh_session_and_is_on_trial_where_ssh_would_be_shut() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    // By its name it is a server of SSH; it echoes lines.
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_umbra-lab"), world.folder().join("bin/sshd")).unwrap();
    let mut command = world.host(Name::Gateway).command("sshd");
    command.args(["__service", "echo", "--listen=203.0.113.20:2222"]);
    let server = world.host(Name::Gateway).start("sshd", command).unwrap();
    server.wait_for_line("listening", SOON).unwrap();
    let mut session = Talk::open(&world, Name::Stranger, "203.0.113.20:2222");
    let comes_in = || probe(&world, Name::Stranger, &["--patience=500", "echo", "203.0.113.20:2222", "x"]).success();

    let plan = Plan { laptops: vec![Name::Laptop], ..Plan::default() };
    let mut perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    let gateway = perimeter.gateways.remove(&Name::Gateway).unwrap();
    let log = |gateway: &Daemon| gateway.lines().join("\n");
    assert!(log(&gateway).contains("SSH is in use (port 2222)"), "{}", log(&gateway));
    assert!(session.answers(), "the session in use: {}", session.last_words());
    assert!(!comes_in(), "dark on trial");
    until("the service", SOON, || echoes(&world));
    let table =
        || world.host(Name::Gateway).run(&["nft", "list", "table", "inet", "umbra-gateway-dark"], SOON).unwrap();
    // The kernel itself ends it, whatever becomes of the gateway.
    assert!(table().stdout.contains("timeout 1m") && table().stdout.contains("policy accept"), "{:?}", table());
    gateway.kill9().unwrap();
    assert!(session.answers() && table().stdout.contains("policy accept"), "killed on trial");

    let gateway = again(&world, &["--allow-in", "tcp:2222"]);
    assert!(table().stdout.contains("policy drop") && !log(&gateway).contains("SSH is in use"), "{}", log(&gateway));
    assert!(session.answers() && comes_in(), "allowed in");
    gateway.stop(SOON).unwrap();
    let gateway = again(&world, &["--cut-ssh"]);
    assert!(table().stdout.contains("policy drop") && !log(&gateway).contains("SSH is in use"), "{}", log(&gateway));
    assert!(session.answers() && !comes_in(), "shut on request");
}
