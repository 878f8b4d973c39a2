//! Somebody copies the state of a laptop to another machine: both are cut off, and an administrator is told.

use crate::support::{SOON, probe, within, world};
use crate::talk::{Talk, json, until};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use umbra_tests::lab::{Name, World};
use umbra_tests::perimeter::{Perimeter, Plan, admin, admin_json, log_in, start_client};
use umbra_tests::service::Services;

/// How long a copy may be of use.
const FOUND: Duration = Duration::from_secs(30);

/// Copies everything that the client keeps, with owners and modes.
fn copy_state(world: &World, from: Name, to: Name) {
    let folder = |host| world.host(host).outside_path("/var/lib/umbra").unwrap();
    let (from, to) = (folder(from).join("client"), folder(to).join("client"));
    let copied = Command::new("cp").arg("-a").arg(&from).arg(&to).status().unwrap();
    assert!(copied.success() && Path::new(&to).exists(), "{from:?} {to:?}");
}

#[test]
fn of_two_machines_with_one_identity_neither_has_access() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    let plan = Plan { laptops: vec![Name::Laptop], ..Plan::default() };
    let _perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    let mut open = Talk::open(&world, Name::Laptop, "web.corp.example:7");
    copy_state(&world, Name::Laptop, Name::Laptop2);
    let before = admin_json(&world, &["device", "list"]).unwrap();
    assert_eq!(before["devices"][0]["state"], "confirmed");

    let _copy = start_client(&world, Name::Laptop2).unwrap();
    // Whatever it answers: it resumes with what it found.
    let _resumed = world.host(Name::Laptop2).run(&["umbra", "up"], SOON);
    let found = until("the copy to be found", within(&world, FOUND), || {
        admin_json(&world, &["device", "list"]).unwrap()["devices"][0]["state"] == "revoked"
    });
    println!("the copy was found after {found:?}");
    until("the end of the connection", within(&world, SOON), || !open.answers());
    for laptop in [Name::Laptop, Name::Laptop2] {
        assert!(log_in(&world, laptop).is_err(), "{laptop} can log in");
        let status = json(&world, laptop, &["umbra", "status", "--json"]);
        assert_eq!(status["controller"]["connected"], false, "{status}");
        assert!(!probe(&world, laptop, &["--patience=1000", "http", "http://web.corp.example/"]).success(), "{laptop}");
    }
    let shown = admin(&world, &["status"]).unwrap();
    assert!(shown.stdout.contains("ALARM") && shown.stdout.contains("both are cut off"), "{shown:?}");
    let trail = admin(&world, &["audit", "list", "--action", "node.copied"]).unwrap();
    assert!(trail.stdout.contains("laptop"), "{trail:?}");
}

#[test]
fn a_laptop_that_restarts_again_and_again_is_no_copy() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    let plan = Plan { laptops: vec![Name::Laptop], ..Plan::default() };
    let mut perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    for round in 0..4 {
        let before = perimeter.clients.remove(&Name::Laptop).unwrap();
        if round % 2 == 0 {
            before.stop(SOON).unwrap();
        } else {
            before.kill9().unwrap();
        }
        let daemon = start_client(&world, Name::Laptop).unwrap();
        daemon.wait_for_line("connected to the controller", SOON).unwrap();
        perimeter.clients.insert(Name::Laptop, daemon);
    }
    assert_eq!(admin_json(&world, &["device", "list"]).unwrap()["devices"][0]["state"], "confirmed");
    let mut open = Talk::open(&world, Name::Laptop, "web.corp.example:7");
    assert!(open.answers());
}
