//! Control keys that turn over: nothing breaks meanwhile, and a controller that missed it finds its nodes again.

use crate::restore::{back_up, lose_and_restore};
use crate::support::{SOON, probe, world};
use crate::talk::{Talk, until};
use std::time::Duration;
use umbra_tests::lab::{Name, World};
use umbra_tests::perimeter::{Perimeter, Plan, admin, admin_json, log_in};
use umbra_tests::service::Services;

/// A node knocks with its recovery secret when nobody has answered for a while.
const PATIENCE: Duration = Duration::from_secs(60);

fn plan() -> Plan {
    let often = vec!["--key-life".to_owned(), "1s".to_owned()];
    Plan { laptops: vec![Name::Laptop], gateway_options: often.clone(), client_options: often, ..Plan::default() }
}

/// How often a node of this kind (the beginning of its id) has come to a new key.
fn new_keys(world: &World, action: &str, kind: &str) -> usize {
    let trail = admin_json(world, &["audit", "list", "--limit", "1000", "--action", action]).unwrap();
    let records = trail["records"].as_array().unwrap();
    records.iter().filter(|one| one.to_string().contains(kind)).count()
}

/// Waits for this many more.
fn turn_over(world: &World, more: usize) {
    for kind in ["de-", "gw-"] {
        let before = new_keys(world, "node.new-key", kind);
        until("new control keys", SOON, || new_keys(world, "node.new-key", kind) >= before + more);
    }
}

#[test]
fn control_keys_turn_over_under_streams_and_connections() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    let mut perimeter = Perimeter::start(&world, &plan()).unwrap_or_else(|error| panic!("{error}"));
    let mut talk = Talk::open(&world, Name::Laptop, "web.corp.example:7");
    let marks = (perimeter.gateways[&Name::Gateway].mark(), perimeter.clients[&Name::Laptop].mark());
    turn_over(&world, 3);
    assert!(talk.answers(), "{}", talk.last_words());
    let said =
        |daemon: &umbra_tests::lab::Daemon, mark: usize| daemon.lines().into_iter().skip(mark).collect::<Vec<_>>();
    for lines in [said(&perimeter.gateways[&Name::Gateway], marks.0), said(&perimeter.clients[&Name::Laptop], marks.1)]
    {
        let broken = lines.iter().find(|line| line.contains("connection to the controller ended"));
        assert_eq!(broken, None, "the stream goes on: {lines:?}");
    }
    // Killed in the middle of it, whenever that is: one of the two keys is the one that the controller knows.
    for _ in 0..3 {
        perimeter.gateways.get_mut(&Name::Gateway).unwrap().restart().unwrap();
        perimeter.clients.get_mut(&Name::Laptop).unwrap().restart().unwrap();
        until("the page", PATIENCE, || {
            probe(&world, Name::Laptop, &["--patience=1000", "http", "http://web.corp.example/"]).success()
        });
    }
    perimeter.controller.restart().unwrap();
    perimeter.controller.wait_for_line("the controller runs", SOON).unwrap();
    turn_over(&world, 2);
    assert_eq!(new_keys(&world, "node.recover", "-"), 0, "nobody had to be let in again");
    // And what is ended is ended, whatever the keys.
    let session = admin_json(&world, &["session", "list"]).unwrap()["sessions"][0]["id"].as_str().unwrap().to_owned();
    let revoked = admin(&world, &["session", "revoke", &session]).unwrap();
    assert!(revoked.stdout.contains("confirms"), "{revoked:?}");
}

#[test]
fn a_controller_that_missed_new_keys_finds_its_nodes_by_their_recovery_secrets() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    let mut perimeter = Perimeter::start(&world, &plan()).unwrap_or_else(|error| panic!("{error}"));
    back_up(&world);
    // Two more: neither the key nor the next one of the backup is anybody's.
    turn_over(&world, 2);
    perimeter.controller = lose_and_restore(&world, &plan(), &mut perimeter);
    for kind in ["de-", "gw-"] {
        until("a node that comes back", PATIENCE, || new_keys(&world, "node.recover", kind) > 0);
    }
    admin(&world, &["restored", "confirm", "--all"]).unwrap();
    let policy = admin_json(&world, &["restored", "list"]).unwrap()["policy_revision"].as_u64().unwrap().to_string();
    admin(&world, &["policy", "rollback", &policy]).unwrap();
    until("a log-in", PATIENCE, || log_in(&world, Name::Laptop).is_ok());
    until("the page", PATIENCE, || {
        probe(&world, Name::Laptop, &["--patience=1000", "http", "http://web.corp.example/"]).success()
    });
    turn_over(&world, 1);
}
