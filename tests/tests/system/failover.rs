//! What stays, what comes back and what ends: gateways that die, leases that run out, rights that are taken away.

use crate::support::{SOON, probe, within, world};
use crate::talk::{Talk, json, until};
use serde_json::Value;
use std::time::{Duration, Instant};
use umbra_tests::lab::{Finished, Name, World};
use umbra_tests::perimeter::{PASSWORD, POLICY, Perimeter, Plan, admin, admin_json, log_in, umbra, write_file};
use umbra_tests::service::Services;

/// The echo service.
const ECHO: &str = "web.corp.example:7";

fn one_laptop() -> Plan {
    Plan { laptops: vec![Name::Laptop], ..Plan::default() }
}

fn start(world: &World, plan: &Plan) -> (Services, Perimeter) {
    let services = Services::start(world).unwrap();
    let perimeter = Perimeter::start(world, plan).unwrap_or_else(|error| panic!("{error}"));
    (services, perimeter)
}

fn page(world: &World, host: &str) -> Finished {
    probe(world, Name::Laptop, &["--patience=1000", "http", &format!("http://{host}/")])
}

fn reached(world: &World) -> Duration {
    until("the page of web", SOON, || page(world, "web.corp.example").success())
}

fn said(world: &World, host: Name, words: &[&str]) -> String {
    let finished = world.host(host).run(words, SOON).unwrap();
    assert!(finished.success(), "{words:?}: {finished:?}");
    finished.stdout
}

/// What a program of ours might leave behind in its host.
pub fn state_of(world: &World, host: Name) -> Vec<String> {
    [
        &["cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"][..],
        &["cat", "/etc/resolv.conf"],
        &["nft", "list", "tables"],
        &["ip", "-brief", "link"],
        &["ip", "-4", "route", "show", "table", "all"],
        &["ip", "-6", "route", "show", "table", "all"],
        &["ip", "rule"],
    ]
    .map(|words| said(world, host, words))
    .to_vec()
}

/// The gateway through which the laptop has its tunnel.
fn gateway_in_use(world: &World) -> Name {
    let status = json(world, Name::Laptop, &["umbra", "status", "--json"]);
    let id = status["pairings"][0]["gateway"].as_str().unwrap_or_else(|| panic!("no tunnel: {status}")).to_owned();
    let list = admin_json(world, &["gateway", "list"]).unwrap();
    let rows = list["gateways"].as_array().unwrap();
    let row = rows.iter().find(|row| row["id"] == id.as_str()).unwrap_or_else(|| panic!("{id} in {list}"));
    row["name"].as_str().unwrap().parse().unwrap()
}

#[test]
fn the_other_gateway_takes_over_when_one_is_killed() {
    let world = world();
    let plan = Plan { gateways: vec![Name::Gateway, Name::Gateway2], ..one_laptop() };
    let (_services, perimeter) = start(&world, &plan);
    reached(&world);
    let first = gateway_in_use(&world);
    perimeter.gateways[&first].kill9().unwrap();
    // What a person does at that moment waits, and does not fail.
    let limit = within(&world, Duration::from_secs(3));
    let started = Instant::now();
    let page = probe(&world, Name::Laptop, &["--patience=10000", "http", "http://web.corp.example/"]);
    let took = started.elapsed();
    println!("fail-over from {first} took {took:?}");
    assert!(page.success(), "{page:?}");
    // Promised are 2 s; a third SYN of a connection that nobody moved would come after 3 s.
    assert!(took < limit, "{took:?}");
    let mut talk = Talk::open(&world, Name::Laptop, ECHO);
    assert!(talk.lives_for(Duration::from_secs(1)));
    let second = gateway_in_use(&world);
    assert_ne!(first, second);
}

#[test]
fn a_stopped_gateway_leaves_its_host_as_it_was_and_comes_back() {
    let world = world();
    let before = state_of(&world, Name::Gateway);
    let (_services, mut perimeter) = start(&world, &Plan { dark: false, ..one_laptop() });
    reached(&world);
    let during = state_of(&world, Name::Gateway);
    assert!(during[0].starts_with('1') && during[2].contains("umbra-gateway"), "{during:?}");
    assert!(during[4].contains("blackhole 198.18.") && during[5].contains("blackhole"), "{during:?}");
    let gateway = perimeter.gateways.get_mut(&Name::Gateway).unwrap();
    let ended = gateway.stop(SOON).unwrap();
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    assert_eq!(state_of(&world, Name::Gateway), before);
    assert!(!page(&world, "web.corp.example").success());
    gateway.restart().unwrap();
    gateway.wait_for_line("connected to the controller", SOON).unwrap();
    println!("back after {:?}", reached(&world));
}

#[test]
fn a_killed_client_comes_back_and_a_stopped_one_leaves_nothing() {
    let world = world();
    let before = state_of(&world, Name::Laptop);
    let (_services, mut perimeter) = start(&world, &one_laptop());
    reached(&world);
    let client = perimeter.clients.get_mut(&Name::Laptop).unwrap();
    client.kill9().unwrap();
    let dead = state_of(&world, Name::Laptop);
    for (routes, family) in dead[4..6].iter().zip(["IPv4", "IPv6"]) {
        assert!(routes.contains("blackhole"), "{family}: virtual addresses follow the default route: {routes}");
    }
    client.restart().unwrap();
    client.wait_for_line("the daemon runs", SOON).unwrap();
    println!("back after {:?}", reached(&world));
    let status = json(&world, Name::Laptop, &["umbra", "status", "--json"]);
    assert_eq!(status["dns"]["managed"], true, "{status}");
    assert_ne!(state_of(&world, Name::Laptop)[1], before[1]);

    umbra(&world, Name::Laptop, &["down"]).unwrap();
    assert_eq!(state_of(&world, Name::Laptop), before, "after `down`");
    umbra(&world, Name::Laptop, &["up"]).unwrap();
    reached(&world);
    let client = &perimeter.clients[&Name::Laptop];
    let ended = client.stop(SOON).unwrap();
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    assert_eq!(state_of(&world, Name::Laptop), before, "after the end");
}

fn leased(lease: &str) -> Plan {
    Plan { resource_options: vec!["--lease".to_owned(), lease.to_owned()], ..one_laptop() }
}

#[test]
fn a_lease_is_renewed_as_long_as_the_controller_lives() {
    let world = world();
    let (_services, _perimeter) = start(&world, &leased("4s"));
    reached(&world);
    let mut talk = Talk::open(&world, Name::Laptop, ECHO);
    assert!(talk.lives_for(Duration::from_secs(12)), "a connection lives through renewals");
}

#[test]
fn a_lease_ends_with_the_controller() {
    let world = world();
    let (_services, perimeter) = start(&world, &leased("2s"));
    reached(&world);
    let mut talk = Talk::open(&world, Name::Laptop, ECHO);
    perimeter.controller.kill9().unwrap();
    // Nobody sends anything, and the grant ends all the same.
    let took = until("the end of the grant", within(&world, Duration::from_secs(4)), || {
        let status = world.host(Name::Gateway).run(&["umbra-gateway", "status", "--json"], SOON).unwrap();
        serde_json::from_str::<Value>(&status.stdout).unwrap()["grants"] == 0
    });
    println!("the grant ended {took:?} after the controller");
    assert!(!talk.answers(), "a running connection");
    assert!(!page(&world, "web.corp.example").success(), "a new connection");
}

/// The addresses of `web`, IPv4 and IPv6, once it has both.
fn addresses(world: &World) -> [String; 2] {
    let mut found = None;
    until("an IPv6 address", SOON, || {
        let names = probe(world, Name::Laptop, &["name", "web.corp.example"]).stdout;
        let (v6, v4): (Vec<_>, Vec<_>) = names.lines().map(str::to_owned).partition(|line| line.contains(':'));
        found = v4.into_iter().next().zip(v6.into_iter().next()).map(<[String; 2]>::from);
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn connections_of_both_families_live_through_a_killed_controller() {
    let world = world();
    let (_services, mut perimeter) = start(&world, &one_laptop());
    let [v4, v6] = addresses(&world);
    let mut talks = [format!("{v4}:7"), format!("[{v6}]:7")].map(|to| Talk::open(&world, Name::Laptop, &to));
    for _ in 0..3 {
        let (gateway, client) = (&perimeter.gateways[&Name::Gateway], &perimeter.clients[&Name::Laptop]);
        let marks = (gateway.mark(), client.mark());
        perimeter.controller.kill9().unwrap();
        perimeter.controller.restart().unwrap();
        // In either order: a laptop that is back first must not be told less than before.
        client.wait_for_line_after(marks.1, "connected to the controller", SOON).unwrap();
        gateway.wait_for_line_after(marks.0, "connected to the controller", SOON).unwrap();
        for talk in &mut talks {
            assert!(talk.answers(), "{}", talk.last_words());
        }
    }
}

#[test]
fn ipv6_works_inside_like_ipv4() {
    let world = world();
    let (_services, _perimeter) = start(&world, &one_laptop());
    let [_, address] = addresses(&world);
    let page = page(&world, &format!("[{address}]"));
    assert!(page.success() && page.stdout.contains("web"), "{page:?}");
    let (echo, udp) = (format!("[{address}]:7"), format!("[{address}]:9000"));
    for words in [&["ping", &address][..], &["echo", &echo, "a line"], &["udp", &udp, "a datagram"]] {
        let answer = probe(&world, Name::Laptop, words);
        assert!(answer.success(), "{words:?}: {answer:?}");
    }
}

/// Access is there; `take` takes it away, at once and from what runs, too.
fn is_cut(world: &World, take: impl FnOnce()) {
    reached(world);
    let mut talk = Talk::open(world, Name::Laptop, ECHO);
    take();
    let refused = page(world, "web.corp.example");
    assert!(!refused.success(), "a new connection: {refused:?}");
    assert!(!talk.answers(), "a running connection");
}

fn is_back(world: &World) {
    // A person asks, so that the deny does not hold; the news of the change may still be on its way.
    until("access", SOON, || world.host(Name::Laptop).run(&["umbra", "connect", "web"], SOON).unwrap().success());
    reached(world);
}

#[test]
fn a_disabled_user_has_no_access_until_enabled_and_logged_in() {
    let world = world();
    let (_services, _perimeter) = start(&world, &one_laptop());
    is_cut(&world, || drop(admin(&world, &["user", "disable", "engineer"]).unwrap()));
    let password = write_file(&world, Name::Laptop, "password", PASSWORD.as_bytes()).unwrap();
    let words = ["umbra", "login", "--user", "engineer", "--password-file", &password];
    let refused = world.host(Name::Laptop).run(&words, SOON).unwrap();
    assert!(!refused.success(), "{refused:?}");
    admin(&world, &["user", "enable", "engineer"]).unwrap();
    assert!(!page(&world, "web.corp.example").success(), "enabled is not logged in");
    log_in(&world, Name::Laptop).unwrap();
    is_back(&world);
}

#[test]
fn who_leaves_the_group_loses_access_at_once() {
    let world = world();
    let (_services, _perimeter) = start(&world, &one_laptop());
    is_cut(&world, || drop(admin(&world, &["group", "remove-member", "engineers", "engineer"]).unwrap()));
    admin(&world, &["group", "add-member", "engineers", "engineer"]).unwrap();
    is_back(&world);
}

#[test]
fn a_policy_without_the_permit_ends_access_at_once() {
    let world = world();
    let (_services, _perimeter) = start(&world, &one_laptop());
    let narrow = POLICY.replace("Group::\"engineers\"", "Group::\"guests\"");
    let narrow = write_file(&world, Name::Controller, "narrow.cedar", narrow.as_bytes()).unwrap();
    is_cut(&world, || drop(admin(&world, &["policy", "apply", &narrow]).unwrap()));
    let wide = write_file(&world, Name::Controller, "policy.cedar", POLICY.as_bytes()).unwrap();
    admin(&world, &["policy", "apply", &wide]).unwrap();
    is_back(&world);
}

#[test]
fn a_deny_names_the_condition_and_what_to_do_and_why_repeats_it() {
    let world = world();
    let (_services, _perimeter) = start(&world, &one_laptop());
    reached(&world);
    let strict = r#"@id("fresh") @condition("a log-in of this very second")
        permit(principal in Group::"engineers", action == Action::"connect", resource == Resource::"web")
        when { context.login_age_s < 1 };"#;
    let strict = write_file(&world, Name::Controller, "strict.cedar", strict.as_bytes()).unwrap();
    let applied = admin(&world, &["policy", "apply", &strict]).unwrap();
    assert!(applied.stdout.contains("now if: `fresh`: `a log-in of this very second`"), "{applied:?}");
    let told = "policy `fresh` would permit it, but `a log-in of this very second` does not hold: log in again with `umbra login`";
    let asked = |word: &str| world.host(Name::Laptop).run(&["umbra", word, "web"], SOON).unwrap();
    // The grant is decided again by time, and its end is on its way; `why` asks what ended it.
    until("the end of the access", SOON, || asked("why").stdout.contains(told));
    assert_eq!(asked("why").status.code(), Some(3));
    let connect = asked("connect");
    assert!(connect.status.code() == Some(3) && connect.stderr.contains(told), "{connect:?}");
    assert!(said(&world, Name::Laptop, &["umbra", "ls"]).contains("a log-in of this very second"));
    let access = admin(&world, &["policy", "access", "--user", "engineer", "--resource", "web"]).unwrap();
    assert!(access.stdout.contains("if") && access.stdout.contains("a log-in of this very second"), "{access:?}");
    admin(&world, &["policy", "rollback", "1"]).unwrap();
    is_back(&world);
}

#[test]
fn a_revoked_device_has_no_access() {
    let world = world();
    let (_services, _perimeter) = start(&world, &one_laptop());
    let devices = admin_json(&world, &["device", "list"]).unwrap();
    let device = devices["devices"][0]["id"].as_str().unwrap().to_owned();
    is_cut(&world, || drop(admin(&world, &["device", "revoke", &device]).unwrap()));
    assert!(log_in(&world, Name::Laptop).is_err(), "a revoked device cannot log in");
}

#[test]
fn logout_ends_access_and_login_brings_it_back() {
    let world = world();
    let (_services, _perimeter) = start(&world, &one_laptop());
    is_cut(&world, || drop(umbra(&world, Name::Laptop, &["logout"]).unwrap()));
    let listed = json(&world, Name::Laptop, &["umbra", "ls", "--json"]);
    assert!(!listed.to_string().contains("web.corp.example"), "{listed}");
    log_in(&world, Name::Laptop).unwrap();
    is_back(&world);
}
