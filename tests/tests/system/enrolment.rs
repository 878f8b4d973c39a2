//! Who gets in with a join file, how often, and what do the others learn?

use crate::support::{SOON, world};
use std::fs;
use std::thread;
use std::time::Duration;
use umbra_tests::lab::{Finished, Name, World};
use umbra_tests::perimeter::{self, DOMAIN, PASSWORD, Perimeter, Plan, admin, admin_json, write_file};

/// Longer than a node tries before it says that nobody answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// A join file's text, made on the controller.
fn join_file(world: &World, options: &[&str]) -> String {
    let all = [&["join-key", "create", "--out", "/etc/umbra/new-join"], options].concat();
    admin(world, &all).unwrap();
    let path = world.host(Name::Controller).outside_path("/etc/umbra/new-join").unwrap();
    let text = fs::read_to_string(&path).unwrap();
    fs::remove_file(path).unwrap();
    text
}

fn secret_of(join: &str) -> String {
    let join: serde_json::Value = serde_json::from_str(join).unwrap();
    join["secret"].as_str().unwrap().to_owned()
}

/// Tries to join as gateway number `number` of a host, beside whatever else runs there, until it ends or is `limit`.
fn try_to_join(world: &World, host: Name, number: u32, join: &str, limit: Duration) -> Result<Finished, String> {
    let name = format!("{host}-{number}");
    let file = write_file(world, host, &format!("join-{number}"), join.as_bytes()).unwrap();
    let (state, socket) = (format!("/var/lib/umbra/try-{number}"), format!("/run/umbra-try-{number}.sock"));
    let (device, port) = (format!("umbra-t{number}"), (5000 + number).to_string());
    let words = [
        "umbra-gateway",
        "up",
        "--join",
        &file,
        "--yes",
        "--name",
        &name,
        "--state",
        &state,
        "--socket",
        &socket,
        "--device",
        &device,
        "--port",
        &port,
    ];
    world.host(host).run(&words, limit).map_err(|error| error.to_string())
}

/// What a refused machine may have left behind.
fn leftovers(world: &World, host: Name, number: u32) -> Vec<String> {
    let state = world.host(host).outside_path(&format!("/var/lib/umbra/try-{number}")).unwrap();
    let mut left: Vec<String> =
        fs::read_dir(state).into_iter().flatten().flatten().map(|e| e.path().display().to_string()).collect();
    let links = world.host(host).run(&["cat", "/proc/net/dev"], SOON).unwrap().stdout;
    left.extend(links.lines().filter(|line| line.contains(&format!("umbra-t{number}:"))).map(str::to_owned));
    left
}

fn refused(world: &World, host: Name, number: u32, join: &str, why: &[&str]) {
    let done = try_to_join(world, host, number, join, PATIENCE).unwrap();
    assert_eq!(done.status.code(), Some(1), "{}{}", done.stdout, done.stderr);
    assert!(why.iter().any(|why| done.stderr.contains(why)), "expected {why:?} in {:?}", done.stderr);
    assert!(!done.stderr.contains(&secret_of(join)), "the error shows the secret");
    assert_eq!(leftovers(world, host, number), Vec::<String>::new());
}

fn organisation(world: &World) -> umbra_tests::lab::Daemon {
    let controller = perimeter::start_controller(world, &Plan::default()).unwrap();
    admin(world, &["site", "add", "hq", "--prefix", "10.20.0.0/24"]).unwrap();
    controller
}

#[test]
fn of_many_at_once_one_gets_in() {
    let world = world();
    let mut controller = organisation(&world);
    let join = join_file(&world, &["--gateway", "--site", "hq"]);
    let hosts = [Name::Gateway, Name::Gateway2, Name::Laptop, Name::Laptop2, Name::Stranger];
    let start = |host: Name| {
        let file = write_file(&world, host, "join", join.as_bytes()).unwrap();
        let mut command = world.host(host).command("umbra-gateway");
        command.args(["up", "--join", &file, "--yes", "--name", host.as_str()]);
        world.host(host).start(&format!("try-{host}"), command).unwrap()
    };
    let tries: Vec<_> = hosts.into_iter().map(start).collect();
    // In the middle of it the controller is killed once.
    controller.wait_for_line("a machine knocked", SOON).unwrap();
    controller.restart().unwrap();
    controller.wait_for_line("the controller runs", SOON).unwrap();
    let (mut inside, mut outside) = (0, 0);
    for one in &tries {
        if one.wait_for_line("joined as", PATIENCE).is_ok() {
            inside += 1;
            continue;
        }
        let status = one.wait_for_end(SOON).unwrap().unwrap();
        assert_eq!(status.code(), Some(1));
        let said = one.lines().join("\n");
        assert!(said.contains("join file"), "{said}");
        assert!(!said.contains(&secret_of(&join)), "the error shows the secret");
        outside += 1;
    }
    assert_eq!((inside, outside), (1, hosts.len() - 1));
    let gateways = admin_json(&world, &["gateway", "list"]).unwrap();
    assert_eq!(gateways["gateways"].as_array().unwrap().len(), 1, "{gateways}");
}

#[test]
fn a_join_file_that_holds_no_longer_opens_nothing() {
    let world = world();
    let _controller = organisation(&world);
    let short = join_file(&world, &["--gateway", "--site", "hq", "--life", "1s"]);
    let revoked = join_file(&world, &["--gateway", "--site", "hq"]);
    let device = join_file(&world, &["--device"]);
    let keys = admin_json(&world, &["join-key", "list"]).unwrap();
    let keys = keys["join_keys"].as_array().unwrap();
    let longest = keys.iter().filter(|key| key["kind"] == "gateway").max_by_key(|key| key["expires_ms"].as_u64());
    admin(&world, &["join-key", "revoke", longest.unwrap()["id"].as_str().unwrap()]).unwrap();
    let cut = &short[..short.len() / 2];
    let ran = try_to_join(&world, Name::Gateway, 9, cut, PATIENCE).unwrap();
    assert_eq!(ran.status.code(), Some(1));
    assert!(ran.stderr.contains("ask your administrator for a new one"), "{}", ran.stderr);
    refused(&world, Name::Gateway, 1, &device, &["is for a device, not for a gateway"]);
    let expired: serde_json::Value = serde_json::from_str(&short).unwrap();
    let end = expired["expires"].as_u64().unwrap();
    while std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() <= u128::from(end) {
        thread::yield_now();
    }
    refused(&world, Name::Gateway, 2, &short, &["the join file has expired"]);
    // Somebody changes the end in the file: the controller's own counts.
    let changed = short.replace(&end.to_string(), &(end + 3_600_000).to_string());
    thread::scope(|scope| {
        let world = &world;
        scope.spawn(|| refused(world, Name::Gateway2, 3, &changed, &["revoked or has expired", "not valid any more"]));
        scope.spawn(|| refused(world, Name::Stranger, 4, &revoked, &["used, revoked or has expired"]));
    });
    let gateways = admin_json(&world, &["gateway", "list"]).unwrap();
    assert_eq!(gateways["gateways"].as_array().unwrap().len(), 0, "{gateways}");
}

#[test]
fn another_controller_at_the_same_address_is_refused() {
    let world = world();
    let controller = organisation(&world);
    let join = join_file(&world, &["--gateway", "--site", "hq"]);
    controller.kill9().unwrap();
    // The false one: the same names, the same address, the same pool; only the keys are its own.
    let pool: serde_json::Value = serde_json::from_str(&join).unwrap();
    let pool = format!("{},{}", pool["pool"]["v4"].as_str().unwrap(), pool["pool"]["v6"].as_str().unwrap());
    let state = ["umbra-controller", "--state", "/var/lib/umbra/false"];
    let init = ["init", "--trust-domain", DOMAIN, "--endpoint", "controller:443", "--pool", &pool];
    perimeter::done(&world, Name::Controller, &[&state[..], &init].concat()).unwrap();
    let mut command = world.host(Name::Controller).command("umbra-controller");
    command.args(["--state", "/var/lib/umbra/false", "serve"]);
    let other = world.host(Name::Controller).start("false-controller", command).unwrap();
    other.wait_for_line("the controller runs", SOON).unwrap();
    refused(&world, Name::Gateway, 1, &join, &["did not answer"]);
    assert!(!other.lines().iter().any(|line| line.contains("knocked")));
    // With the false controller's WireGuard key in the file (a relay of the first contact), its certificate is refused.
    admin(&world, &["site", "add", "hq", "--prefix", "10.20.0.0/24"]).unwrap();
    let theirs: serde_json::Value = serde_json::from_str(&join_file(&world, &["--gateway", "--site", "hq"])).unwrap();
    let mut mixed: serde_json::Value = serde_json::from_str(&join).unwrap();
    mixed["controller_key"] = theirs["controller_key"].clone();
    mixed["secret"] = theirs["secret"].clone();
    refused(&world, Name::Gateway, 2, &mixed.to_string(), &["certificate"]);
    other.wait_for_line("knocked", SOON).unwrap();
}

#[test]
fn secrets_are_in_no_log_and_no_audit_record() {
    let world = world();
    let plan = Plan { laptops: Vec::new(), ..Plan::default() };
    let mut perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    let join = join_file(&world, &["--device"]);
    // Everything is said that a program can say, and it is started again with its state.
    let mut verbose = world.host(Name::Gateway).command("umbra-gateway");
    verbose.args(["up", "--dark"]).env("UMBRA_LOG", "trace");
    let first = perimeter.gateways.remove(&Name::Gateway).unwrap();
    first.kill9().unwrap();
    let again = world.host(Name::Gateway).start("gateway-again", verbose).unwrap();
    again.wait_for_line("confirmed=true", SOON).unwrap();
    perimeter.controller.kill9().unwrap();
    let mut verbose = world.host(Name::Controller).command("umbra-controller");
    verbose.args(["serve", "--dark"]).env("UMBRA_LOG", "trace");
    let controller = world.host(Name::Controller).start("controller-again", verbose).unwrap();
    let mark = again.mark();
    controller.wait_for_line("the controller runs", SOON).unwrap();
    again.wait_for_line_after(mark, "connected to the controller", SOON).unwrap();
    admin(&world, &["user", "passwd", "guest", "--password-file", "/etc/umbra/password"]).unwrap();
    let used = fs::read_to_string(world.host(Name::Gateway).outside_path("/etc/umbra/join").unwrap()).unwrap();
    let mut canaries = vec![secret_of(&join), secret_of(&used), PASSWORD.to_owned()];
    canaries.push("PRIVATE KEY".to_owned());
    let mut said: Vec<String> = vec![admin(&world, &["audit", "list", "--limit", "1000", "--json"]).unwrap().stdout];
    for log in fs::read_dir(world.folder().join("logs")).unwrap().flatten() {
        said.push(fs::read_to_string(log.path()).unwrap());
    }
    assert!(said.len() > 4 && said.iter().any(|text| text.contains("a machine knocked")), "the logs are elsewhere");
    for canary in &canaries {
        let raw = canary.trim_end_matches('=');
        assert!(!said.iter().any(|text| text.contains(raw)), "a secret is written down");
    }
}
