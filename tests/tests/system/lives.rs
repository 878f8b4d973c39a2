//! What ends or turns over by itself: log-ins and certificates.

use crate::support::{SOON, probe, world};
use crate::talk::{Talk, until};
use std::collections::BTreeSet;
use umbra_tests::lab::{Name, World};
use umbra_tests::perimeter::{Perimeter, Plan};
use umbra_tests::service::Services;

/// The keys and certificates of a node now, as one word.
fn identity(world: &World, host: Name, path: &str) -> String {
    let finished = world.host(host).run(&["sha256sum", path], SOON).unwrap();
    assert!(finished.success(), "{finished:?}");
    finished.stdout
}

fn start(options: &[&str]) -> (World, Services, Perimeter) {
    let world = world();
    let services = Services::start(&world).unwrap();
    let serve_options = options.iter().map(|&option| option.to_owned()).collect();
    let plan = Plan { laptops: vec![Name::Laptop], serve_options, ..Plan::default() };
    let perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    (world, services, perimeter)
}

#[test]
fn certificates_turn_over_under_a_connection() {
    let (world, _services, _perimeter) = start(&["--svid-life", "2s"]);
    let mut talk = Talk::open(&world, Name::Laptop, "web.corp.example:7");
    // Each node renews at half of what is left, so within a second; the connection goes on meanwhile.
    for (host, path) in
        [(Name::Laptop, "/var/lib/umbra/client/identity.json"), (Name::Gateway, "/var/lib/umbra/gateway/identity.json")]
    {
        let mut seen = BTreeSet::new();
        until("three certificates", SOON, || {
            seen.insert(identity(&world, host, path));
            seen.len() >= 3
        });
    }
    assert!(talk.answers(), "a connection lives through new certificates: {}", talk.last_words());
}

#[test]
fn a_node_that_was_gone_longer_than_its_certificate_comes_back() {
    let (world, _services, mut perimeter) = start(&["--svid-life", "2s"]);
    let reached = || probe(&world, Name::Laptop, &["--patience=1000", "http", "http://web.corp.example/"]).success();
    until("the page", SOON, reached);
    perimeter.clients[&Name::Laptop].kill9().unwrap();
    perimeter.gateways[&Name::Gateway].kill9().unwrap();
    // Both are away while their certificates end.
    let away = world.host(Name::Controller).run(&["sleep", "4"], SOON).unwrap();
    assert!(away.success(), "{away:?}");
    perimeter.gateways.get_mut(&Name::Gateway).unwrap().restart().unwrap();
    perimeter.clients.get_mut(&Name::Laptop).unwrap().restart().unwrap();
    println!("back after {:?}", until("the page again", SOON, reached));
}

#[test]
fn a_session_ends_by_itself() {
    let (world, _services, _perimeter) = start(&["--session-life", "15s", "--review-every", "1s"]);
    let mut talk = Talk::open(&world, Name::Laptop, "web.corp.example:7");
    until("the end of the connection", SOON, || !talk.answers());
    let page = probe(&world, Name::Laptop, &["--patience=1000", "http", "http://web.corp.example/"]);
    assert!(!page.success(), "{page:?}");
    let said = |words: &[&str]| world.host(Name::Laptop).run(words, SOON).unwrap().stdout;
    until("a person being told what to do", SOON, || said(&["umbra", "status"]).contains("umbra login"));
    until("the catalogue going with the session", SOON, || !said(&["umbra", "ls"]).contains("web"));
}
