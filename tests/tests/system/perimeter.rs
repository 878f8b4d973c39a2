//! Does the whole path work: an organisation, two laptops, a gateway, and services behind it?

use crate::support::{SOON, options, probe, within, world};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use umbra_tests::lab::{Finished, Impairment, Name, Options, World};
use umbra_tests::perimeter::{Perimeter, Plan, admin, admin_json, log_in, umbra};
use umbra_tests::service::Services;

fn start(world: &World, plan: &Plan) -> (Services, Perimeter) {
    let services = Services::start(world).unwrap();
    let perimeter = Perimeter::start(world, plan).unwrap_or_else(|error| panic!("{error}"));
    (services, perimeter)
}

fn page(world: &World, from: Name, name: &str) -> Finished {
    probe(world, from, &["http", &format!("http://{name}.corp.example/")])
}

/// What a denied user's own programs say of the vault, and how soon.
fn fails_at_once(world: &World, when: &str) {
    let limit = within(world, Duration::from_secs(1));
    let curl =
        ["curl", "-sS", "--max-time", "10", "-o", "/dev/null", "-w", "%{time_total}", "http://vault.corp.example/"];
    let finished = world.host(Name::Laptop).run(&curl, SOON).unwrap();
    let took: f64 = finished.stdout.trim().parse().unwrap_or(f64::MAX);
    println!("{when}: curl failed after {took} s: {}", finished.stderr.trim());
    assert!(!finished.success() && took < limit.as_secs_f64(), "{when}: {finished:?}");
    // A whole conversation: of a connection alone a program that does not wait may be told that it is there, once, before
    // it is told that it is not (Linux answers SO_ERROR with 0 when the error comes while connect() returns).
    let started = Instant::now();
    let finished = probe(world, Name::Laptop, &["--patience=10000", "echo", "vault.corp.example:7", "a line"]);
    let took = started.elapsed();
    println!("{when}: a conversation failed after {took:?}: {}", finished.stderr.trim());
    assert!(!finished.success() && took < limit, "{when}, {took:?}: {finished:?}");
}

#[test]
fn a_gateway_joins_and_is_confirmed() {
    let world = world();
    let plan = Plan { laptops: Vec::new(), ..Plan::default() };
    let (_services, perimeter) = start(&world, &plan);
    let gateways = admin_json(&world, &["gateway", "list"]).unwrap();
    assert!(gateways.to_string().contains("confirmed"), "{gateways}");
    assert!(perimeter.gateways.contains_key(&Name::Gateway));
}

#[test]
fn who_may_gets_in_and_who_may_not_does_not() {
    let world = world();
    let (_services, _perimeter) = start(&world, &Plan::default());
    for name in ["web", "wiki"] {
        let page = page(&world, Name::Laptop, name);
        assert!(page.success() && page.stdout.contains(name), "{page:?}");
    }
    // Visible, and denied with the reason that `why` repeats.
    let denied = page(&world, Name::Laptop, "vault");
    assert!(!denied.success(), "{denied:?}");
    for round in 0..3 {
        // A fresh log-in forgets the deny: the first connection waits for the decision, the next ones for nothing.
        log_in(&world, Name::Laptop).unwrap();
        for attempt in 0..3 {
            fails_at_once(&world, &format!("round {round}, attempt {attempt}"));
        }
    }
    let why = world.host(Name::Laptop).run(&["umbra", "why", "vault"], SOON).unwrap();
    assert_eq!(why.status.code(), Some(3), "denied by policy: {why:?}");
    assert!(why.stdout.contains("the vault is closed"), "{why:?}");
    // The guest sees the web and nothing else: no name, no row in the catalogue.
    assert!(page(&world, Name::Laptop2, "web").success());
    let listed = umbra(&world, Name::Laptop2, &["ls"]).unwrap();
    assert!(listed.stdout.contains("web") && !listed.stdout.contains("wiki"), "{listed:?}");
    let hidden = page(&world, Name::Laptop2, "wiki");
    assert!(!hidden.success(), "{hidden:?}");
}

#[test]
fn up_answers_when_the_controller_does() {
    let slow = Impairment { delay: Duration::from_millis(150), ..Impairment::default() };
    let far = Options { impaired: BTreeMap::from([(Name::Laptop, slow)]), ..options() };
    let world = World::start(&far).unwrap_or_else(|error| panic!("{error}"));
    let (_services, mut perimeter) = start(&world, &Plan { laptops: vec![Name::Laptop], ..Plan::default() });
    umbra(&world, Name::Laptop, &["down"]).unwrap();
    umbra(&world, Name::Laptop, &["up"]).unwrap();
    let status = umbra(&world, Name::Laptop, &["status", "--json"]).unwrap();
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    assert!(status["controller"]["last_word_ms_ago"].is_u64(), "{status}");
    log_in(&world, Name::Laptop).unwrap();

    // Without a controller it says so, and goes on trying.
    umbra(&world, Name::Laptop, &["down"]).unwrap();
    perimeter.controller.kill9().unwrap();
    let refused = world.host(Name::Laptop).run(&["umbra", "up"], SOON).unwrap();
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    assert!(refused.stderr.contains("goes on trying") && refused.stderr.contains("no answer"), "{refused:?}");
    let mark = perimeter.clients[&Name::Laptop].mark();
    perimeter.controller.restart().unwrap();
    perimeter.clients[&Name::Laptop].wait_for_line_after(mark, "connected to the controller", SOON).unwrap();
    log_in(&world, Name::Laptop).unwrap();
}

#[test]
fn every_protocol_and_both_families_pass() {
    let world = world();
    let (_services, _perimeter) = start(&world, &Plan { laptops: vec![Name::Laptop], ..Plan::default() });
    for words in [
        &["echo", "web.corp.example:7", "a line"][..],
        &["udp", "web.corp.example:9000", "a datagram"],
        &["ping", "web.corp.example"],
    ] {
        let answer = probe(&world, Name::Laptop, words);
        assert!(answer.success(), "{words:?}: {answer:?}");
    }
}

#[test]
fn a_revoked_session_ends_access_at_once() {
    let world = world();
    let (_services, _perimeter) = start(&world, &Plan { laptops: vec![Name::Laptop], ..Plan::default() });
    assert!(page(&world, Name::Laptop, "web").success());
    let sessions = admin_json(&world, &["session", "list"]).unwrap();
    let session = sessions["sessions"][0]["id"].as_str().unwrap().to_owned();
    let revoked = admin(&world, &["session", "revoke", &session]).unwrap();
    assert!(revoked.stdout.contains("gateway"), "says who confirmed: {revoked:?}");
    assert!(!page(&world, Name::Laptop, "web").success());
    let verified = admin(&world, &["audit", "verify"]).unwrap();
    assert!(verified.success(), "{verified:?}");
}

#[test]
fn a_killed_controller_comes_back_and_nobody_logs_in_again() {
    let world = world();
    let (_services, mut perimeter) = start(&world, &Plan { laptops: vec![Name::Laptop], ..Plan::default() });
    assert!(page(&world, Name::Laptop, "web").success());
    perimeter.controller.kill9().unwrap();
    // Grants live to their lease without a controller.
    assert!(page(&world, Name::Laptop, "web").success());
    let gateway = &perimeter.gateways[&Name::Gateway];
    let (at_gateway, at_client) = (gateway.mark(), perimeter.clients[&Name::Laptop].mark());
    perimeter.controller.restart().unwrap();
    perimeter.controller.wait_for_line("the controller runs", SOON).unwrap();
    gateway.wait_for_line_after(at_gateway, "connected to the controller", SOON).unwrap();
    perimeter.clients[&Name::Laptop].wait_for_line_after(at_client, "connected to the controller", SOON).unwrap();
    // Which addresses a name has, the gateway tells the new controller a moment later.
    let started = Instant::now();
    let mut other = page(&world, Name::Laptop, "wiki");
    while !other.success() && started.elapsed() < SOON {
        other = page(&world, Name::Laptop, "wiki");
    }
    assert!(other.success(), "a new resource, without a new log-in: {other:?}");
}

#[test]
fn a_gateway_is_reached_where_its_administrator_says() {
    let world = world();
    let plan = Plan {
        laptops: vec![Name::Laptop],
        gateway_options: vec!["--endpoint".to_owned(), "gateway:443".to_owned()],
        ..Plan::default()
    };
    let (_services, perimeter) = start(&world, &plan);
    // What the controller sees of the gateway is an address that this laptop cannot use; the name has another one.
    let seen = Name::Gateway.outside()[1];
    let rules = format!(
        "add table inet lab; add chain inet lab out {{ type filter hook output priority 0; }}; add rule inet lab out ip6 daddr {seen} counter drop"
    );
    assert!(world.host(Name::Laptop).run(&["nft", &rules], SOON).unwrap().success());
    let page = probe(&world, Name::Laptop, &["--patience=15000", "http", "http://web.corp.example/"]);
    assert!(page.success(), "{page:?}\n{}", perimeter.clients[&Name::Laptop].lines().join("\n"));
    let rules = world.host(Name::Laptop).run(&["nft", "list", "table", "inet", "lab"], SOON).unwrap().stdout;
    assert!(rules.contains("drop") && !rules.contains("packets 0"), "the seen address was never tried: {rules}");
}
