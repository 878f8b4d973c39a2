//! Keys that turn over, the nodes' and the controller's: nothing breaks meanwhile, and whoever missed it finds the others again.

use crate::restore::{back_up, lose_and_restore};
use crate::support::{SOON, probe, world};
use crate::talk::{Talk, json, until};
use serde_json::Value;
use std::time::Duration;
use umbra_tests::lab::{Daemon, Name, World};
use umbra_tests::perimeter::{Perimeter, Plan, admin, admin_json, carry_join_file, log_in};
use umbra_tests::service::Services;

/// A node knocks with its recovery secret when nobody has answered for a while.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the controller's old key and its next one are both good: in each half of it a node restarts, on a slow machine too.
const OVERLAP: &str = "30s";
/// How long one step of such a succession may take.
const STEP: Duration = Duration::from_secs(60);

fn plan() -> Plan {
    let often = ["--key-life", "1s", "--probe-every", "1s"].map(str::to_owned).to_vec();
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
    let plan = Plan { serve_options: vec!["--svid-life".to_owned(), "5s".to_owned()], ..plan() };
    let mut perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    // Made in the middle of a succession, and used when nodes have moved on to the next key.
    admin(&world, &["keys", "succeed", "--overlap", "20s"]).unwrap();
    know(&world, 2);
    back_up(&world);
    for daemon in awake(&perimeter) {
        daemon.wait_for_line(MOVED, STEP).unwrap();
    }
    let used = keys(&world)["used"].clone();
    // Two more: neither the key nor the next one of the backup is anybody's.
    turn_over(&world, 2);
    perimeter.controller = lose_and_restore(&world, &plan, &mut perimeter);
    until("the switch, made up for", SOON, || keys(&world)["used"] == used);
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

fn keys(world: &World) -> Value {
    admin_json(world, &["keys", "list"]).unwrap()
}

fn reach(world: &World, state: &str) -> Value {
    let mut last = Value::Null;
    until(state, STEP, || {
        last = keys(world);
        last["state"] == state
    });
    last
}

fn know(world: &World, how_many: usize) {
    until("nodes that know what follows", SOON, || keys(world)["nodes_that_know"] == how_many);
}

/// The connection to the controller went on, and so did the one through the gateway.
fn unbroken(perimeter: &Perimeter, marks: &[usize], talk: &mut Talk) {
    let said = || awake(perimeter).map(Daemon::lines).concat().join("\n");
    assert!(talk.answers(), "{}\n{}", talk.last_words(), said());
    for (daemon, mark) in awake(perimeter).into_iter().zip(marks) {
        let said = daemon.lines();
        let broken = said.iter().skip(*mark).find(|line| line.contains("connection to the controller ended"));
        assert_eq!(broken, None, "the stream goes on: {said:?}");
    }
}

fn awake(perimeter: &Perimeter) -> [&Daemon; 2] {
    [&perimeter.gateways[&Name::Gateway], &perimeter.clients[&Name::Laptop]]
}

fn marks(perimeter: &Perimeter) -> Vec<usize> {
    awake(perimeter).map(Daemon::mark).to_vec()
}

fn serve_again(perimeter: &mut Perimeter) {
    perimeter.controller.restart().unwrap();
    perimeter.controller.wait_for_line("the controller runs", SOON).unwrap();
}

const MOVED: &str = "goes on with the controller's next key";

#[test]
fn the_controllers_key_and_ca_turn_over_under_streams_and_connections() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    let often = vec!["--probe-every".to_owned(), "1s".to_owned()];
    let plan = Plan {
        serve_options: vec!["--svid-life".to_owned(), "4s".to_owned()],
        gateway_options: often.clone(),
        client_options: often,
        ..Plan::default()
    };
    let mut perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    let first = keys(&world)["used"].clone();
    // One sleeps through the announcement and the switch.
    perimeter.clients[&Name::Laptop2].kill9().unwrap();
    admin(&world, &["keys", "succeed", "--overlap", OVERLAP]).unwrap();
    know(&world, 2);
    let announced = keys(&world);
    assert_eq!((&announced["used"], &announced["unaware"]), (&first, &serde_json::json!(["device/laptop2"])));
    let next = announced["other"].clone();

    // Killed between announcement and switch: nothing is lost, and the switch itself breaks nothing.
    serve_again(&mut perimeter);
    assert_eq!((&keys(&world)["used"], &keys(&world)["other"]), (&first, &next));
    know(&world, 2);
    let mut talk = Talk::open(&world, Name::Laptop, "web.corp.example:7");
    let before = marks(&perimeter);
    let switched = reach(&world, "switched");
    assert_eq!((&switched["used"], &switched["other"]), (&next, &first));
    for (daemon, mark) in awake(&perimeter).into_iter().zip(&before) {
        daemon.wait_for_line_after(*mark, MOVED, SOON).unwrap();
    }
    unbroken(&perimeter, &before, &mut talk);

    // Who slept knows the old key alone: it is told, and goes on.
    perimeter.clients.get_mut(&Name::Laptop2).unwrap().restart().unwrap();
    perimeter.clients[&Name::Laptop2].wait_for_line(MOVED, SOON).unwrap();

    // Killed between switch and retirement.
    serve_again(&mut perimeter);
    assert_eq!((&keys(&world)["used"], &keys(&world)["other"]), (&next, &first));
    know(&world, 3);
    let mut talk = Talk::open(&world, Name::Laptop, "web.corp.example:7");
    let before = marks(&perimeter);
    let alone = reach(&world, "in use");
    assert_eq!((&alone["used"], &alone["other"]), (&next, &Value::Null));
    unbroken(&perimeter, &before, &mut talk);
    let page = |from| probe(&world, from, &["--patience=1000", "http", "http://web.corp.example/"]).success();
    for (host, daemon) in perimeter.clients.iter_mut().chain(perimeter.gateways.iter_mut()) {
        daemon.restart().unwrap_or_else(|error| panic!("{host}: {error}"));
    }
    for laptop in [Name::Laptop, Name::Laptop2] {
        until("the page, under the new key alone", PATIENCE, || page(laptop));
    }
    // Whoever knows the first fingerprint alone can tell that it is still the same organisation.
    admin(&world, &["audit", "export", "--out", "/etc/umbra/trail"]).unwrap();
    let known = first["fingerprint"].as_str().unwrap();
    let verify = ["audit", "verify", "--offline", "/etc/umbra/trail", "--fingerprint", known];
    let said = admin(&world, &verify).unwrap().stdout;
    assert!(said.contains(&format!("{known} named {}", next["fingerprint"].as_str().unwrap())), "{said}");
}

#[test]
fn who_slept_through_all_of_it_comes_back_if_it_had_heard_of_the_next_key_and_else_is_told_to_join_again() {
    let world = world();
    let plan = Plan {
        gateways: Vec::new(),
        serve_options: vec!["--svid-life".to_owned(), "2s".to_owned()],
        client_options: vec!["--probe-every".to_owned(), "1s".to_owned()],
        ..Plan::default()
    };
    let mut perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    let (heard, deaf) = (Name::Laptop, Name::Laptop2);
    perimeter.clients[&deaf].kill9().unwrap();
    // Good for an hour, it says.
    let join = carry_join_file(&world, Name::Gateway, &["--gateway", "--site", "hq"]).unwrap();
    admin(&world, &["keys", "succeed", "--overlap", "10s"]).unwrap();
    know(&world, 1);
    perimeter.clients[&heard].kill9().unwrap();
    reach(&world, "in use");
    // Silence is silence: under the key that is gone not even a handshake is answered, whoever else is heard afterwards.
    let controller = || json(&world, deaf, &["umbra", "status", "--json"])["controller"].clone();
    let troubled = |part: &str| controller()["trouble"].as_str().is_some_and(|trouble| trouble.contains(part));
    perimeter.clients.get_mut(&deaf).unwrap().restart().unwrap();
    perimeter.clients[&deaf].wait_for_line("the daemon runs", SOON).unwrap();
    until("a first attempt", SOON, || troubled("") && !troubled("the first connection is being made"));
    let silence = controller();
    assert!(silence["trouble"].is_string() && silence["last_handshake_ms_ago"].is_null(), "{silence}");
    perimeter.clients.get_mut(&heard).unwrap().restart().unwrap();
    let mut late = world.host(Name::Gateway).command("umbra-gateway");
    late.args(["up", "--join", &join, "--yes"]);
    let late = world.host(Name::Gateway).start("late", late).unwrap();
    // Its certificate is of the CA that is gone: it is let in by its recovery secret, under the next key.
    perimeter.clients[&heard].wait_for_line("the controller knows this node again", PATIENCE).unwrap();
    perimeter.clients[&heard].wait_for_line("connected to the controller", SOON).unwrap();
    until("what a person should do", PATIENCE, || troubled("new join file"));
    // Whoever joins with a file of the key before hears nothing, as any stranger, and says what that may be.
    let told = late.wait_for_line("is from before the controller's key changed (ask for a new one)", PATIENCE).unwrap();
    assert!(told.contains("did not answer within 30 s"), "{told}");
    assert_eq!(late.wait_for_end(SOON).unwrap().and_then(|status| status.code()), Some(1));
}
