//! Does a backup bring the organisation back on an empty machine, and nothing that was taken away?

use crate::support::{SOON, options, probe};
use crate::talk::until;
use umbra_tests::lab::{Daemon, Finished, Name, Options, World};
use umbra_tests::perimeter::{self, PASSWORD, Perimeter, Plan, admin, admin_json, log_in, user_of, write_file};
use umbra_tests::service::Services;

const STATE: &str = "/var/lib/umbra/controller";
const OLD: &str = "/var/lib/umbra/controller.old";

const PASSPHRASE: &[u8] = b"a passphrase of the safe";
const CREATE: [&str; 6] =
    ["backup", "create", "--out", "/etc/umbra/backup", "--passphrase-file", "/etc/umbra/passphrase"];

pub fn back_up(world: &World) {
    write_file(world, Name::Controller, "passphrase", PASSPHRASE).unwrap();
    admin(world, &CREATE).unwrap();
}

fn page(world: &World, from: Name, patience: &str) -> Finished {
    probe(world, from, &[patience, "http", "http://web.corp.example/"])
}

/// What the controller calls the device of a laptop.
fn device_of(world: &World, laptop: Name) -> String {
    let (user, _) = user_of(laptop);
    let devices = admin_json(world, &["device", "list"]).unwrap();
    let mut all = devices["devices"].as_array().unwrap().iter();
    all.find(|one| one["user"] == user).unwrap()["name"].as_str().unwrap().to_owned()
}

fn try_to_log_in(world: &World, laptop: Name) -> Finished {
    let password = write_file(world, laptop, "password", PASSWORD.as_bytes()).unwrap();
    let words = ["umbra", "login", "--user", user_of(laptop).0, "--password-file", &password];
    world.host(laptop).run(&words, SOON).unwrap()
}

fn on_controller(world: &World, words: &[&str]) {
    let finished = world.host(Name::Controller).run(words, SOON).unwrap();
    assert!(finished.success(), "{finished:?}");
}

/// The machine is lost, and the steps of docs/operations.md are followed on an empty one.
pub fn lose_and_restore(world: &World, plan: &Plan, perimeter: &mut Perimeter) -> Daemon {
    perimeter.controller.kill9().unwrap();
    on_controller(world, &["mv", STATE, OLD]);
    write_file(world, Name::Controller, "passphrase", PASSPHRASE).unwrap();
    let wrong = write_file(world, Name::Controller, "wrong", b"another passphrase").unwrap();
    let refused = world.host(Name::Controller);
    let words = ["umbra-controller", "restore", "/etc/umbra/backup", "--passphrase-file", &wrong];
    let refused = refused.run(&words, SOON).unwrap();
    assert!(!refused.success() && refused.stderr.contains("does not open with this passphrase"), "{refused:?}");
    let restored =
        admin(world, &["restore", "/etc/umbra/backup", "--passphrase-file", "/etc/umbra/passphrase"]).unwrap();
    assert!(restored.stdout.contains("restored list"), "{restored:?}");
    perimeter::serve(world, plan).unwrap()
}

#[test]
fn after_a_restore_the_confirmed_come_back_and_the_revoked_stay_out() {
    let [lost_before, lost_after] = Name::further(2)[..] else { panic!("two further laptops") };
    let world = World::start(&Options { further: 2, ..options() }).unwrap_or_else(|error| panic!("{error}"));
    let _services = Services::start(&world).unwrap();
    let laptops = vec![Name::Laptop, Name::Laptop2, lost_before, lost_after];
    let plan = Plan { laptops: laptops.clone(), ..Plan::default() };
    let mut perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    for laptop in &laptops {
        let page = page(&world, *laptop, "--patience=15000");
        assert!(page.success(), "{laptop}: {page:?}");
    }
    let device = device_of(&world, Name::Laptop);

    admin(&world, &["device", "revoke", &device_of(&world, lost_before)]).unwrap();
    back_up(&world);
    let again = world.host(Name::Controller).run(&[&["umbra-controller"], &CREATE[..]].concat(), SOON).unwrap();
    assert!(again.stderr.contains("exists already"), "a backup replaces nothing: {again:?}");
    // What the backup does not know.
    admin(&world, &["device", "revoke", &device_of(&world, lost_after)]).unwrap();
    admin(&world, &["user", "disable", "guest"]).unwrap();

    let (at_gateway, at_client) = (perimeter.gateways[&Name::Gateway].mark(), perimeter.clients[&Name::Laptop].mark());
    perimeter.controller = lose_and_restore(&world, &plan, &mut perimeter);
    // Everybody finds the new machine; nobody has anything there.
    perimeter.gateways[&Name::Gateway].wait_for_line_after(at_gateway, "confirmed=false", SOON).unwrap();
    perimeter.clients[&Name::Laptop].wait_for_line_after(at_client, "connected to the controller", SOON).unwrap();
    for laptop in &laptops {
        assert!(!page(&world, *laptop, "--patience=1000").success(), "{laptop}");
        let refused = try_to_log_in(&world, *laptop);
        assert!(!refused.success(), "{laptop}: {refused:?}");
    }
    let list = admin_json(&world, &["restored", "list"]).unwrap();
    let waiting: Vec<String> = list["waiting"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| format!("{}/{}", one["kind"].as_str().unwrap(), one["name"].as_str().unwrap()))
        .collect();
    for name in ["gateway/gateway", "user/engineer", "user/guest", &format!("device/{device}")] {
        assert!(waiting.iter().any(|one| one == name), "{name}: {waiting:?}");
    }
    assert_eq!(waiting.iter().filter(|one| one.starts_with("device/")).count(), 3, "the revoked one: {waiting:?}");

    // The administrator knows of the laptop that was revoked and of the guest who left, and confirms the others.
    let items = ["gateway/gateway".to_owned(), "user/engineer".to_owned(), format!("device/{device}")];
    let items: Vec<&str> = items.iter().map(String::as_str).collect();
    admin(&world, &[&["restored", "confirm"], &items[..]].concat()).unwrap();
    admin(&world, &["restored", "confirm", &format!("user/{}", user_of(lost_after).0)]).unwrap();
    let policy = list["policy_revision"].as_u64().unwrap().to_string();
    log_in(&world, Name::Laptop).unwrap();
    assert!(!page(&world, Name::Laptop, "--patience=1000").success(), "no policy is in force yet");
    admin(&world, &["policy", "rollback", &policy]).unwrap();
    until("the page", SOON, || page(&world, Name::Laptop, "--patience=1000").success());

    for laptop in [Name::Laptop2, lost_before, lost_after] {
        assert!(!try_to_log_in(&world, laptop).success(), "{laptop}");
        assert!(!page(&world, laptop, "--patience=1000").success(), "{laptop}");
    }
    assert!(admin(&world, &["audit", "verify"]).unwrap().success());
    let trail = admin(&world, &["audit", "list"]).unwrap().stdout;
    assert!(trail.contains("org.backup") && trail.contains("org.restore"), "{trail}");

    the_lost_machine_is_found(&world, &plan, &mut perimeter);
}

/// The old machine is switched on again: for the gateway it is an old copy.
fn the_lost_machine_is_found(world: &World, plan: &Plan, perimeter: &mut Perimeter) {
    perimeter.controller.kill9().unwrap();
    on_controller(world, &["mv", STATE, "/var/lib/umbra/controller.new"]);
    on_controller(world, &["mv", OLD, STATE]);
    let mark = perimeter.gateways[&Name::Gateway].mark();
    perimeter.controller = perimeter::serve(world, plan).unwrap();
    perimeter.gateways[&Name::Gateway].wait_for_line_after(mark, "older than what the gateway has seen", SOON).unwrap();
    assert!(!page(world, Name::Laptop2, "--patience=1000").success());
}
