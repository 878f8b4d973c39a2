//! What holds while programs die and come back: what was taken away stays away, what is open goes on, what is dark is dark.

use crate::failover::state_of;
use crate::silence::{attack, touch};
use crate::support::{SOON, probe, world};
use crate::talk::{Talk, json, until};
use std::net::IpAddr;
use umbra_tests::lab::topology::OUTSIDE_LINK;
use umbra_tests::lab::{Daemon, Finished, Name, World};
use umbra_tests::leaks::{Protected, Watch};
use umbra_tests::perimeter::{self, Perimeter, Plan, admin, admin_json, umbra};
use umbra_tests::service::{self, PUBLIC_NAME, Services};

fn start(world: &World, plan: &Plan) -> (Services, Perimeter) {
    let services = Services::start(world).unwrap();
    let perimeter = Perimeter::start(world, plan).unwrap_or_else(|error| panic!("{error}"));
    (services, perimeter)
}

fn page(world: &World, from: Name, name: &str) -> Finished {
    probe(world, from, &["--patience=1000", "http", &format!("http://{name}.corp.example/")])
}

/// Killed without a warning, and started again.
fn kill(daemon: &mut Daemon, back: &str) {
    daemon.restart().unwrap();
    daemon.wait_for_line(back, SOON).unwrap();
}

#[test]
fn of_two_users_each_has_its_own_and_a_revoked_session_stays_revoked_whatever_is_killed() {
    let world = world();
    let (_services, mut perimeter) = start(&world, &Plan::default());
    // At once, on one gateway.
    let mut engineer = ["web", "wiki"]
        .map(|name| Talk::open(&world, Name::Laptop, &format!("{name}.corp.example:{}", service::ECHO_PORT)));
    let mut guest = Talk::open(&world, Name::Laptop2, "web.corp.example:7");
    let wiki = probe(&world, Name::Laptop, &["name", "wiki.corp.example"]).stdout;
    for address in wiki.lines() {
        let to = if address.contains(':') { format!("[{address}]:7") } else { format!("{address}:7") };
        let tried = probe(&world, Name::Laptop2, &["--patience=500", "echo", &to, "a line"]);
        assert!(!tried.success(), "the guest reaches {address}: {tried:?}");
    }
    assert!(!page(&world, Name::Laptop2, "wiki").success());
    assert!(engineer.iter_mut().all(Talk::answers) && guest.answers());

    let sessions = admin_json(&world, &["session", "list"]).unwrap();
    let rows = sessions["sessions"].as_array().unwrap();
    let row = rows.iter().find(|row| row["user"] == "engineer").unwrap();
    admin(&world, &["session", "revoke", row["id"].as_str().unwrap()]).unwrap();
    assert!(!engineer.iter_mut().any(Talk::answers) && guest.answers());
    let check = |killed: &str| {
        until("the guest's page", SOON, || page(&world, Name::Laptop2, "web").success());
        // A person asks, too.
        let asked = world.host(Name::Laptop).run(&["umbra", "connect", "web"], SOON).unwrap();
        assert!(!asked.success(), "after {killed} was killed: {asked:?}");
        assert!(!page(&world, Name::Laptop, "web").success(), "after {killed} was killed");
    };
    let marks = perimeter.clients.values().map(Daemon::mark).collect::<Vec<_>>();
    kill(&mut perimeter.controller, "the controller runs");
    for (client, mark) in perimeter.clients.values().zip(marks) {
        client.wait_for_line_after(mark, "connected to the controller", SOON).unwrap();
    }
    check("the controller");
    kill(perimeter.gateways.get_mut(&Name::Gateway).unwrap(), "confirmed=true");
    check("the gateway");
    kill(perimeter.clients.get_mut(&Name::Laptop).unwrap(), "connected to the controller");
    check("the client");
    let status = json(&world, Name::Laptop, &["umbra", "status", "--json"]);
    assert!(status["session"].is_null() && status["grants"].as_array().unwrap().is_empty(), "{status}");
}

#[test]
fn an_open_connection_outlives_gateway_and_controller_and_is_reset_with_its_client() {
    let world = world();
    let (_services, mut perimeter) = start(&world, &Plan { laptops: vec![Name::Laptop], ..Plan::default() });
    let mut talk = Talk::open(&world, Name::Laptop, "web.corp.example:7");
    // It is idle meanwhile: nothing but its next line tells the client that something happened.
    kill(perimeter.gateways.get_mut(&Name::Gateway).unwrap(), "confirmed=true");
    assert!(talk.answers(), "after the gateway was killed: {}", talk.last_words());
    kill(&mut perimeter.controller, "the controller runs");
    assert!(talk.answers(), "after the controller was killed: {}", talk.last_words());
    // It learns anew where names lead, from gateways whose grants are as they were.
    let names = || probe(&world, Name::Laptop, &["name", "web.corp.example"]).stdout;
    // A client that begins anew holds no tunnel: its grants are new, and what the old ones carried is told so at once.
    kill(perimeter.clients.get_mut(&Name::Laptop).unwrap(), "connected to the controller");
    assert!(!talk.answers());
    let said = talk.last_words();
    assert!(said.contains("reset"), "{said}");
    until("both families", SOON, || names().lines().count() == 2);
    assert!(Talk::open(&world, Name::Laptop, "web.corp.example:7").answers());
}

#[test]
fn a_gateway_is_dark_while_it_joins_and_waits() {
    let world = world();
    let plan = Plan { laptops: Vec::new(), ..Plan::default() };
    let mut controller = perimeter::start_controller(&world, &plan).unwrap();
    perimeter::declare(&world, &plan).unwrap();
    let join = perimeter::carry_join_file(&world, Name::Gateway, &["--gateway", "--site", "hq"]).unwrap();
    // Something of the host that would answer, if it were not for the gateway.
    let mut open = world.host(Name::Gateway).command("umbra-lab");
    open.args(["__service", "echo", "--listen=0.0.0.0:7", "--listen=[::]:8"]);
    let open = world.host(Name::Gateway).start("open", open).unwrap();
    open.wait_for_line("listening", SOON).unwrap();
    let reach = |from: Name| probe(&world, from, &["--patience=500", "echo", "203.0.113.20:7", "a line"]);
    assert!(reach(Name::Stranger).success());
    controller.kill9().unwrap();
    let mut command = world.host(Name::Gateway).command("umbra-gateway");
    command.args(["up", "--join", &join, "--yes", "--name", "gateway", "--dark"]);
    let gateway = world.host(Name::Gateway).start("gateway", command).unwrap();
    // It knocks, and nobody is there.
    let tables = || world.host(Name::Gateway).run(&["nft", "list", "tables"], SOON).unwrap().stdout;
    until("the tables", SOON, || tables().contains("dark"));
    let silent = || {
        for address in Name::Gateway.outside() {
            touch(&world, Name::Stranger, address, &[(1, 100), (440, 450)]);
        }
        for address in Name::Gateway.inside() {
            touch(&world, Name::Neighbour, address, &[(1, 100), (440, 450)]);
        }
    };
    // What it set up is not taken from it, although it has no socket yet.
    let refused = world.host(Name::Gateway).run(&["umbra-gateway", "down", "--force"], SOON).unwrap();
    assert!(!refused.success() && refused.stderr.contains("holds the device umbra-gw"), "{refused:?}");
    silent();
    assert!(gateway.is_running() && !gateway.lines().iter().any(|line| line.contains("joined as")));
    controller.restart().unwrap();
    gateway.wait_for_line("joined as", SOON * 2).unwrap();
    silent();
    perimeter::confirm_gateway(&world, Name::Gateway).unwrap();
    gateway.wait_for_line("confirmed=true", SOON).unwrap();
    assert!(!reach(Name::Stranger).success());
}

#[test]
fn what_a_dead_gateway_left_force_undoes_and_nothing_of_one_that_lives() {
    let world = world();
    let host = world.host(Name::Gateway);
    // As Docker has it.
    let docker = ["add table ip filter", "add chain ip filter DOCKER-USER"];
    for line in docker {
        let words: Vec<&str> = std::iter::once("nft").chain(line.split(' ')).collect();
        assert!(host.run(&words, SOON).unwrap().success());
    }
    let state = || {
        let rules = host.run(&["nft", "--stateless", "list", "ruleset"], SOON).unwrap().stdout;
        state_of(&world, Name::Gateway).into_iter().chain([rules]).collect::<Vec<_>>()
    };
    let force = || host.run(&["umbra-gateway", "down", "--force"], SOON).unwrap();
    let before = state();
    let plan = Plan { laptops: Vec::new(), gateway_options: vec!["--pass-firewalls".to_owned()], ..Plan::default() };
    let mut perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    until("the exception", SOON, || state().last().is_some_and(|rules| rules.contains("umbra-gw")));

    let during = state();
    let refused = force();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.stderr.contains("runs and answers"), "{refused:?}");
    let second = host.run(&["umbra-gateway", "up", "--port", "444"], SOON).unwrap();
    assert!(!second.success() && second.stderr.contains("runs and answers"), "{second:?}");
    assert_eq!(
        host.run(&["umbra-gateway", "down"], SOON).unwrap().status.code(),
        Some(2),
        "a signal stops one that runs"
    );
    assert_eq!(state(), during);

    let gateway = perimeter.gateways.get_mut(&Name::Gateway).unwrap();
    gateway.kill9().unwrap();
    let done = force();
    assert!(done.success(), "{done:?}");
    for part in
        ["ip_forward", "DOCKER-USER", "inet umbra-gateway-forward", "umbra-gateway-dark", "10.77.0.0/16", "198.18."]
    {
        assert!(done.stdout.contains(part), "{part}: {done:?}");
    }
    assert_eq!(state(), before, "after `down --force`");
    let again = force();
    assert!(again.success() && again.stdout.contains("nothing was left behind"), "{again:?}");
    gateway.restart().unwrap();
    gateway.wait_for_line("confirmed=true", SOON).unwrap();
}

/// A laptop with a default route, as every real one has: whatever no other route wants leaves by it.
fn with_a_way_out(world: &World) {
    let stranger = Name::Stranger.outside();
    for (prefix, via) in [("0.0.0.0/0", stranger[0]), ("::/0", stranger[1])] {
        attack(world, Name::Laptop, &["route", prefix, "--link", OUTSIDE_LINK, "--via", &via.to_string()]);
    }
}

fn watch(world: &World) -> Watch {
    let status = json(world, Name::Controller, &["umbra-controller", "status", "--json"]);
    let pool_v6 = status["pool_v6"].as_str().unwrap().parse().unwrap();
    // Who is the laptop's router and name server gets all of it.
    Watch::start(world, Name::Stranger, OUTSIDE_LINK, Protected::of_lab(pool_v6, PUBLIC_NAME.0)).unwrap()
}

fn asked(world: &World, name: &str) -> Finished {
    probe(world, Name::Laptop, &["--patience=300", "name", name])
}

#[test]
fn a_dead_client_leaks_nothing_other_names_go_on_and_force_undoes_it_all() {
    let world = world();
    with_a_way_out(&world);
    let before = state_of(&world, Name::Laptop);
    let options = ["--private-zone", perimeter::DOMAIN].map(str::to_owned).to_vec();
    let services = Services::start(&world).unwrap();
    let plan = Plan { laptops: Vec::new(), init_options: options, ..Plan::default() };
    let mut perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    let net = ["resource", "add", "net", "--site", "hq", "--cidr", "10.20.0.8/29", "--cidr", "fd20::10/124"];
    admin(&world, &[&net[..], &["--tcp", "7", "--udp", "9000"]].concat()).unwrap();
    let mut client = perimeter::start_client(&world, Name::Laptop).unwrap();
    perimeter::join_laptop(&world, Name::Laptop).unwrap();
    perimeter::log_in(&world, Name::Laptop).unwrap();
    until("the page", SOON, || page(&world, Name::Laptop, "web").success());
    let echo = |to: &str| probe(&world, Name::Laptop, &["--patience=300", "udp", to, "a datagram"]);
    until("the real address", SOON, || echo("10.20.0.10:9000").success());
    let virtual_addresses: Vec<IpAddr> =
        asked(&world, "web.corp.example").stdout.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(virtual_addresses.len(), 2);
    let refused = world.host(Name::Laptop).run(&["umbra", "down", "--force"], SOON).unwrap();
    assert!(!refused.success() && refused.stderr.contains("runs and answers"), "{refused:?}");

    let watch = watch(&world);
    let everything = |when: &str| {
        for name in ["web.corp.example", "secret.corp.example", "x.umbra.internal"] {
            assert!(!asked(&world, name).success(), "{name} {when}");
        }
        let real = ["10.20.0.10", "10.20.0.14", "fd20::10"].map(|address| address.parse::<IpAddr>().unwrap());
        for address in virtual_addresses.iter().chain(&real) {
            let to = std::net::SocketAddr::new(*address, service::UDP_PORT).to_string();
            assert!(!echo(&to).success(), "{to} {when}");
        }
    };
    let others = |when: &str| until(when, SOON, || asked(&world, PUBLIC_NAME.0).stdout.contains(PUBLIC_NAME.1));
    client.kill9().unwrap();
    everything("at once");
    others("other names while the client is dead");
    everything("with the guardian");
    let marks = watch.markers();
    others("other names");
    watch.wait_for_marker(marks, SOON).unwrap();
    assert_eq!(watch.leaks(), Vec::<String>::new());
    // It starts without a controller that could say what there is.
    perimeter.controller.kill9().unwrap();
    client.restart().unwrap();
    client.wait_for_line("the daemon runs", SOON).unwrap();
    others("other names while the controller is gone");
    everything("without the controller");
    client.kill9().unwrap();
    others("other names after the second kill");
    everything("after the second kill");
    assert_eq!(watch.leaks(), Vec::<String>::new());

    let done = umbra(&world, Name::Laptop, &["down", "--force"]).unwrap();
    for part in ["guardian", "resolv.conf", "10.77.0.0/16", "10.20.0.8/29", "inet umbra-client"] {
        assert!(done.stdout.contains(part), "{part}: {done:?}");
    }
    assert_eq!(state_of(&world, Name::Laptop), before, "after `down --force`");
    let again = umbra(&world, Name::Laptop, &["down", "--force"]).unwrap();
    assert!(again.stdout.contains("nothing was left behind"), "{again:?}");
    // And the watch sees what there is to see.
    assert!(!asked(&world, "secret.corp.example").success() && !echo("10.20.0.10:9000").success());
    let seen = |part: &str| watch.leaks().iter().any(|leak| leak.contains(part));
    until("what leaves now", SOON, || seen("the name of something") && seen("10.20.0.10"));

    perimeter.controller.restart().unwrap();
    client.restart().unwrap();
    client.wait_for_line("the daemon runs", SOON).unwrap();
    assert_eq!(state_of(&world, Name::Laptop), before, "it stays down");
    umbra(&world, Name::Laptop, &["up"]).unwrap();
    until("the page again", SOON, || page(&world, Name::Laptop, "web").success());
    umbra(&world, Name::Laptop, &["down"]).unwrap();
    assert_eq!(state_of(&world, Name::Laptop), before, "after `down`");
    drop(services);
}
