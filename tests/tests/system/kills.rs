//! What holds while programs die and come back: what was taken away stays away, what is open goes on, what is dark is dark.

use crate::silence::touch;
use crate::support::{SOON, probe, world};
use crate::talk::{Talk, json, until};
use umbra_tests::lab::{Daemon, Finished, Name, World};
use umbra_tests::perimeter::{self, Perimeter, Plan, admin, admin_json};
use umbra_tests::service::{self, Services};

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
    silent();
    assert!(gateway.is_running() && !gateway.lines().iter().any(|line| line.contains("joined as")));
    controller.restart().unwrap();
    gateway.wait_for_line("joined as", SOON * 2).unwrap();
    silent();
    perimeter::confirm_gateway(&world, Name::Gateway).unwrap();
    gateway.wait_for_line("confirmed=true", SOON).unwrap();
    assert!(!reach(Name::Stranger).success());
}
