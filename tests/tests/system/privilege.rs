//! What may the three programs still do once they run, and does everything work with that?

use crate::failover::state_of;
use crate::support::{SOON, probe, world};
use crate::talk::{Talk, until};
use host::privilege::{Cap, ThreadStatus, of_all_threads};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use umbra_tests::lab::{Daemon, Name, World};
use umbra_tests::perimeter::{self, Perimeter, Plan, admin, admin_json, umbra};
use umbra_tests::service::{ECHO_PORT, Services};

/// A user that every machine has, and who is nobody.
const USER: &str = "nobody";

/// Whether these programs are the machine's own root: in a user namespace everybody is root of nothing, and what follows would
/// be true of anything.
pub fn is_real_root(daemon: &Daemon) -> bool {
    let map = fs::read_to_string(format!("/proc/{}/uid_map", daemon.pid())).unwrap();
    let real = map.split_whitespace().eq(["0", "0", "4294967295"]);
    if !real {
        println!("skipped: needs root");
    }
    real
}

/// Every thread of it.
fn threads_of(pid: u32) -> Vec<ThreadStatus> {
    let threads: Vec<_> = of_all_threads(pid).unwrap().into_iter().map(|(_, status)| status).collect();
    assert!(!threads.is_empty());
    threads
}

/// CAP_NET_ADMIN and nothing else, now and ever, with the system calls filtered: P19 of docs/promises.md.
fn is_least(what: &str, pid: u32) {
    let net_admin = Cap::NET_ADMIN.bit();
    for status in threads_of(pid) {
        let sets = [status.inheritable, status.permitted, status.effective, status.bounding, status.ambient];
        assert!(sets.iter().all(|set| set & !net_admin == 0), "{what}: {status:?}");
        assert_eq!((status.permitted, status.effective), (net_admin, net_admin), "{what}: {status:?}");
        assert!(status.no_new_privileges && status.filtered, "{what}: {status:?}");
    }
}

fn uids_of(pid: u32) -> Vec<u32> {
    let mut uids: Vec<u32> = threads_of(pid).into_iter().flat_map(|status| status.uids).collect();
    uids.sort_unstable();
    uids.dedup();
    uids
}

/// The client's guardian: the only child that it has.
fn guardian_of(client: &Daemon) -> u32 {
    let tasks = fs::read_dir(format!("/proc/{}/task", client.pid())).unwrap();
    let children = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("children")).ok());
    children.collect::<String>().split_whitespace().next().expect("a guardian").parse().unwrap()
}

fn reaches(world: &World) -> bool {
    probe(world, Name::Laptop, &["--patience=2000", "http", "http://web.corp.example/"]).success()
}

/// A session's end, another network, down and up again.
fn everything_works(world: &mut World, perimeter: &Perimeter) {
    let client = &perimeter.clients[&Name::Laptop];
    let mut talk = Talk::open(world, Name::Laptop, &format!("web.corp.example:{ECHO_PORT}"));
    world.plug(Name::Laptop, false).unwrap();
    world.plug(Name::Laptop, true).unwrap();
    assert!(talk.answers(), "after the cable was pulled: {}", talk.last_words());
    let sessions = admin_json(world, &["session", "list"]).unwrap();
    admin(world, &["session", "revoke", sessions["sessions"][0]["id"].as_str().unwrap()]).unwrap();
    assert!(!talk.answers() && !reaches(world), "after the revoke");
    // Idle is a fresh image of the same process, which begins with what is left.
    umbra(world, Name::Laptop, &["down"]).unwrap();
    is_least("the idle client", client.pid());
    umbra(world, Name::Laptop, &["up"]).unwrap();
    perimeter::log_in(world, Name::Laptop).unwrap();
    until("the page again", SOON, || reaches(world));
    is_least("the client that came up again", client.pid());
}

#[test]
fn running_programs_may_change_networks_and_nothing_else() {
    let mut world = world();
    let _services = Services::start(&world).unwrap();
    let hosts = [Name::Controller, Name::Gateway, Name::Laptop];
    let before = hosts.map(|host| state_of(&world, host));
    let plan = Plan { laptops: vec![Name::Laptop], dark: false, ..Plan::default() };
    let perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    if !is_real_root(&perimeter.controller) {
        return;
    }
    assert!(reaches(&world));
    let (gateway, client) = (&perimeter.gateways[&Name::Gateway], &perimeter.clients[&Name::Laptop]);
    let programs = [("the controller", &perimeter.controller), ("the gateway", gateway), ("the client", client)];
    for (what, program) in programs {
        is_least(what, program.pid());
    }
    is_least("the guardian", guardian_of(client));
    everything_works(&mut world, &perimeter);

    for (_, program) in programs {
        assert!(program.stop(SOON).unwrap().is_some_and(|status| status.success()), "{:?}", program.lines());
    }
    for (host, before) in hosts.into_iter().zip(before) {
        assert_eq!(state_of(&world, host), before, "{host} is not as it was");
    }
}

/// As it is on Debian. Some machines keep it for root; what a program says there, `host::checks` tells.
fn let_everybody_open_tun(world: &World, host: Name) {
    if fs::metadata("/dev/net/tun").unwrap().permissions().mode() & 0o666 == 0o666 {
        return;
    }
    for words in ["mknod -m 0666 /var/lib/umbra/tun c 10 200", "mount --bind /var/lib/umbra/tun /dev/net/tun"] {
        let words: Vec<&str> = words.split(' ').collect();
        let done = world.host(host).run(&words, SOON).unwrap();
        assert!(done.success(), "{words:?}: {done:?}");
    }
}

#[test]
fn programs_that_are_told_to_be_somebody_else_are_not_root() {
    let world = world();
    for host in [Name::Controller, Name::Gateway, Name::Laptop] {
        let_everybody_open_tun(&world, host);
    }
    let _services = Services::start(&world).unwrap();
    let user = || ["--user", USER].map(str::to_owned).to_vec();
    let plan = Plan {
        laptops: vec![Name::Laptop],
        dark: false,
        serve_options: user(),
        gateway_options: user(),
        ..Plan::default()
    };
    let run = |host: Name, words: &[&str]| world.host(host).run(words, SOON).unwrap();
    let given = |host: Name, path: &str| {
        assert!(run(host, &["chown", "-R", &format!("{USER}:"), path]).success());
    };
    // Made by root, as by the documented steps.
    let words =
        ["init", "--trust-domain", perimeter::DOMAIN, "--endpoint", "controller:443", "--pool", perimeter::POOL];
    admin(&world, &words).unwrap();
    let refused = run(Name::Controller, &["umbra-controller", "serve", "--user", USER]);
    assert!(!refused.success() && refused.stderr.contains("chown -R nobody: /var/lib/umbra/controller"), "{refused:?}");
    given(Name::Controller, "/var/lib/umbra/controller");
    let controller = perimeter::serve(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    if !is_real_root(&controller) {
        return;
    }
    perimeter::declare(&world, &plan).unwrap();
    let join = perimeter::carry_join_file(&world, Name::Gateway, &["--gateway", "--site", "hq"]).unwrap();
    given(Name::Gateway, &join);
    let mut command = world.host(Name::Gateway).command("umbra-gateway");
    command.args(["up", "--join", &join, "--yes", "--name", "gateway", "--user", USER]);
    let gateway = world.host(Name::Gateway).start("gateway", command).unwrap();
    gateway.wait_for_line("joined as", SOON).unwrap();
    perimeter::confirm_gateway(&world, Name::Gateway).unwrap();
    gateway.wait_for_line("confirmed=true", SOON).unwrap();
    let mut command = world.host(Name::Laptop).command("umbra");
    command.args(["daemon", "--no-dns", "--user", USER]);
    let client = world.host(Name::Laptop).start("client", command).unwrap();
    client.wait_for_line("the daemon runs", SOON).unwrap();
    perimeter::join_laptop(&world, Name::Laptop).unwrap();
    client.wait_for_line("connected to the controller", SOON).unwrap();
    perimeter::log_in(&world, Name::Laptop).unwrap();

    let expected = host::accounts::user(USER).unwrap().uid;
    for (what, program) in [("the controller", &controller), ("the gateway", &gateway), ("the client", &client)] {
        is_least(what, program.pid());
        assert_eq!(uids_of(program.pid()), [expected], "{what}");
    }
    umbra(&world, Name::Laptop, &["connect", "web"]).unwrap();
    umbra(&world, Name::Laptop, &["down"]).unwrap();
    umbra(&world, Name::Laptop, &["up"]).unwrap_or_else(|error| panic!("{error}: {:?}", client.lines()));
    assert_eq!(uids_of(client.pid()), [expected], "the client that came up again");
    // A client whose unit leaves root this one capability: names, routes, down and up all the same.
    let mut command = world.host(Name::Laptop2).command("setpriv");
    command.args(["--bounding-set=-all,+net_admin", "--inh-caps=-all", "umbra", "daemon"]);
    let bare = world.host(Name::Laptop2).start("bare", command).unwrap();
    bare.wait_for_line("the daemon runs", SOON).unwrap();
    perimeter::join_laptop(&world, Name::Laptop2).unwrap();
    perimeter::log_in(&world, Name::Laptop2).unwrap();
    let page = || probe(&world, Name::Laptop2, &["--patience=2000", "http", "http://web.corp.example/"]).success();
    until("the page", SOON, page);
    umbra(&world, Name::Laptop2, &["down"]).unwrap();
    umbra(&world, Name::Laptop2, &["up"]).unwrap();
    is_least("the client of the unit", bare.pid());
    for program in [&bare, &client, &gateway, &controller] {
        assert!(program.stop(SOON).unwrap().is_some_and(|status| status.success()), "{:?}", program.lines());
    }
    let forwarding = world.host(Name::Gateway).run(&["cat", "/proc/sys/net/ipv4/ip_forward"], SOON).unwrap();
    assert_eq!(forwarding.stdout, "0\n", "put back");
}
