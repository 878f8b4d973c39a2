//! Administrators with roles at their own laptops, and the key in the envelope.

use crate::factors::add;
use crate::support::{SOON, world};
use crate::talk::json;
use umbra_tests::lab::{Finished, Name, World};
use umbra_tests::perimeter::{Perimeter, Plan, admin, admin_json, log_in, read_file, umbra, write_file};
use umbra_tests::service::Services;

/// `umbra-controller --remote` at the laptop.
fn remote(world: &World, words: &[&str]) -> Finished {
    let words = [&["umbra-controller", "--remote"], words].concat();
    world.host(Name::Laptop).run(&words, SOON).unwrap()
}

fn refused(done: &Finished, why: &str) {
    assert!(!done.success() && done.stderr.contains(why), "{why}: {done:?}");
}

#[test]
fn roles_reach_as_far_as_they_say_from_a_laptop() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    let plan = Plan { laptops: vec![Name::Laptop], ..Plan::default() };
    let _perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    let nothing = "no such call for this caller";
    let site = ["site", "add", "branch", "--prefix", "10.30.0.0/24"];
    refused(&remote(&world, &["site", "list"]), nothing);

    admin(&world, &["admin", "grant", "engineer", "auditor"]).unwrap();
    let listed = remote(&world, &["site", "list"]);
    assert!(listed.success() && listed.stdout.contains("hq"), "{listed:?}");
    assert!(remote(&world, &["audit", "list"]).success());
    refused(&remote(&world, &site), nothing);
    refused(&remote(&world, &["admin", "grant", "engineer", "owner"]), nothing);

    admin(&world, &["admin", "revoke", "engineer", "auditor"]).unwrap();
    admin(&world, &["admin", "grant", "engineer", "operator"]).unwrap();
    refused(&remote(&world, &site), "umbra mfa add");
    let (app, _) = add(&world);
    let made = remote(&world, &site);
    assert!(made.success(), "{made:?}");
    let device = json(&world, Name::Controller, &["umbra-controller", "device", "list", "--json"]);
    let device = device["devices"][0]["id"].as_str().unwrap().to_owned();
    let trail = admin_json(&world, &["audit", "list", "--action", "site.add", "--actor", "remote:engineer"]).unwrap();
    assert!(trail.to_string().contains("branch") && trail.to_string().contains(&device), "{trail}");
    // A factor belongs to its log-in.
    umbra(&world, Name::Laptop, &["logout"]).unwrap();
    log_in(&world, Name::Laptop).unwrap();
    let gone = ["site", "delete", "branch"];
    refused(&remote(&world, &gone), "umbra mfa verify");
    let code = write_file(&world, Name::Laptop, "code", app.code(0).as_bytes()).unwrap();
    umbra(&world, Name::Laptop, &["mfa", "verify", "--code-file", &code]).unwrap();
    assert!(remote(&world, &gone).success());
    // Nobody gives what is not theirs; and what stays at the controller's machine says so.
    refused(&remote(&world, &["admin", "grant", "engineer", "owner"]), nothing);
    admin(&world, &["admin", "revoke", "engineer", "operator"]).unwrap();
    refused(&remote(&world, &["site", "list"]), nothing);
}

#[test]
fn the_key_in_the_envelope_brings_an_owner_back_once() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    let plan = Plan { laptops: vec![Name::Laptop], ..Plan::default() };
    let perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    admin(&world, &["user", "disable", "engineer"]).unwrap();
    let key = read_file(&world, Name::Controller, "/var/lib/umbra/controller/break-glass").unwrap();
    let wrong = write_file(&world, Name::Controller, "wrong", "0".repeat(64).as_bytes()).unwrap();
    let file = write_file(&world, Name::Controller, "key", &key).unwrap();
    let use_it = |file: &str| admin(&world, &["break-glass", "--key-file", file, "--user", "engineer"]);
    assert!(use_it(&wrong).is_err());
    perimeter.controller.wait_for_line("a wrong break-glass key", SOON).unwrap();
    let told = use_it(&file).unwrap();
    perimeter.controller.wait_for_line("the break-glass key was used", SOON).unwrap();
    assert!(told.stdout.contains("next key"), "{told:?}");
    assert!(use_it(&file).is_err(), "a key was good twice");
    let trail = admin_json(&world, &["audit", "list", "--action", "break-glass"]).unwrap().to_string();
    assert!(trail.contains("deny") && trail.contains("engineer"), "{trail}");
    let status = admin(&world, &["status"]).unwrap();
    assert!(status.stdout.contains("break-glass key was used"), "{status:?}");

    log_in(&world, Name::Laptop).unwrap();
    assert!(remote(&world, &["admin", "list"]).stdout.contains("owner"));
    refused(&remote(&world, &["break-glass", "--key-file", "/etc/umbra/key", "--user", "engineer"]), "own machine");
    add(&world);
    assert!(remote(&world, &["admin", "acknowledge"]).success());
    let status = remote(&world, &["status"]);
    assert!(status.success() && !status.stdout.contains("break-glass key was used"), "{status:?}");
    refused(&remote(&world, &["admin", "revoke", "engineer", "owner"]), "the last owner");
}
