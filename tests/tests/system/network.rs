//! Is the lab's own network what its drawing says?

use crate::support::{SOON, options, probe, world};
use host::namespace::{ProcessHandle, Signal, network_of};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use umbra_tests::lab::{Impairment, Name, Options, World};
use umbra_tests::service::Services;

/// Starts a TCP echo on `host` and says who of `from` gets an answer.
fn reach(world: &World, host: Name, address: &str, from: &[Name]) -> Vec<Name> {
    let mut command = world.host(host).command("umbra-lab");
    command.args(["__service", "echo", "--listen", address]);
    let echo = world.host(host).start("reach", command).unwrap();
    echo.wait_for_line("listening", SOON).unwrap();
    let answers = |name: &&Name| {
        let asked = probe(world, **name, &["--patience=3000", "echo", address, "hello"]);
        println!("{name}: {:?} {}", asked.took, asked.stderr);
        asked.stdout == "hello\n"
    };
    from.iter().filter(answers).copied().collect()
}

#[test]
fn hosts_reach_each_other_on_their_networks_and_not_across() {
    let world = world();
    let everyone = Name::ALL;
    let outside = [Name::Controller, Name::Gateway, Name::Gateway2, Name::Laptop, Name::Laptop2, Name::Stranger];
    let inside = [Name::Gateway, Name::Gateway2, Name::Service, Name::Neighbour];
    assert_eq!(reach(&world, Name::Controller, "203.0.113.10:70", &everyone), outside);
    assert_eq!(reach(&world, Name::Laptop, "[2001:db8:0:1::101]:70", &everyone), outside);
    assert_eq!(reach(&world, Name::Service, "10.20.0.11:70", &everyone), inside);
    assert_eq!(reach(&world, Name::Neighbour, "[fd20::66]:70", &everyone), inside);
}

#[test]
fn services_answer_on_both_families() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    let ask = |words: &[&str]| probe(&world, Name::Neighbour, words).stdout;
    assert_eq!(ask(&["http", "http://10.20.0.10/"]), "This is web.\n");
    assert_eq!(ask(&["http", "http://[fd20::11]/"]), "This is wiki.\n");
    assert_eq!(ask(&["http", "http://vault.corp.example/"]), "This is vault.\n");
    assert_eq!(ask(&["http", "http://web.corp.example/bytes/100000"]).len(), 100_000);
    assert_eq!(ask(&["echo", "[fd20::10]:7", "one", "two"]), "one\ntwo\n");
    assert_eq!(ask(&["udp", "10.20.0.12:9000", "hello"]), "hello\n");
    assert!(ask(&["ping", "10.20.0.10"]).starts_with("10.20.0.10 answered"));
    assert!(ask(&["ping", "fd20::10"]).starts_with("fd20::10 answered"));
    assert!(!probe(&world, Name::Neighbour, &["--patience=100", "ping", "10.20.0.99"]).success());
    assert!(ask(&["stream", "[fd20::12]:9000", "1000", "50"]).starts_with("50 of 50"));
    let counted = ask(&["http", "http://10.20.0.10/download?rate=10000000", "--count=1000000", "--most=3000000"]);
    assert!(counted.lines().last().unwrap().starts_with("3000000 bytes in "), "{counted}");
}

#[test]
fn a_name_can_turn() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    umbra_tests::service::write_zone(&world, "web.corp.example 1 169.254.169.254\n").unwrap();
    assert_eq!(probe(&world, Name::Gateway, &["name", "web.corp.example"]).stdout, "169.254.169.254\n");
    assert!(!probe(&world, Name::Gateway, &["name", "wiki.corp.example"]).success());
}

#[test]
fn each_host_has_its_own_files_and_name() {
    let world = world();
    let laptop = world.host(Name::Laptop);
    let script = "echo nameserver 192.0.2.1 > /etc/resolv.conf.new && mv /etc/resolv.conf.new /etc/resolv.conf && \
                  echo here > /var/lib/umbra/mark && touch /run/mark && cat /etc/resolv.conf && uname -n";
    let ran = laptop.run(&["sh", "-c", script], SOON).unwrap();
    assert_eq!(ran.stdout, "nameserver 192.0.2.1\nlaptop\n", "{}", ran.stderr);
    let other = world.host(Name::Laptop2).run(&["cat", "/etc/resolv.conf"], SOON).unwrap();
    assert_eq!(other.stdout, "nameserver 203.0.113.53\n");
    let mark = laptop.outside_path("/var/lib/umbra/mark").unwrap();
    assert_eq!(fs::read_to_string(mark).unwrap(), "here\n");
    assert!(!fs::exists("/run/mark").unwrap());
    assert!(world.host(Name::Laptop2).run(&["ls", "/run/mark"], SOON).unwrap().stdout.is_empty());
}

fn impaired(delay_ms: u64, loss: f64, reorder: f64) -> Options {
    let impairment = Impairment { delay: Duration::from_millis(delay_ms), loss, reorder };
    Options { impaired: BTreeMap::from([(Name::Laptop, impairment)]), ..options() }
}

fn udp_echo(world: &World) -> umbra_tests::lab::Daemon {
    let mut command = world.host(Name::Controller).command("umbra-lab");
    command.args(["__service", "udp", "--listen", "203.0.113.10:9000"]);
    let daemon = world.host(Name::Controller).start("udp", command).unwrap();
    daemon.wait_for_line("listening", SOON).unwrap();
    daemon
}

#[test]
fn a_bad_link_delays_and_drops_as_asked() {
    let world = World::start(&impaired(60, 0.2, 0.0)).unwrap();
    let _echo = udp_echo(&world);
    let asked = probe(&world, Name::Laptop, &["--patience=1000", "stream", "203.0.113.10:9000", "2000", "1000"]);
    let came: u64 = asked.stdout.split(' ').next().unwrap().parse().unwrap();
    // The request itself is lost one time in five.
    assert!(came == 0 || (650..950).contains(&came), "{}", asked.stdout);
    let clean = probe(&world, Name::Laptop2, &["stream", "203.0.113.10:9000", "2000", "1000"]);
    assert!(clean.stdout.starts_with("1000 of 1000"), "{}", clean.stdout);
}

#[test]
fn a_slow_link_delays_each_way_and_reorders() {
    let world = World::start(&impaired(60, 0.0, 0.2)).unwrap();
    let _echo = udp_echo(&world);
    let started = Instant::now();
    assert_eq!(probe(&world, Name::Laptop, &["udp", "203.0.113.10:9000", "hello"]).stdout, "hello\n");
    assert!(started.elapsed() >= Duration::from_millis(120), "{:?}", started.elapsed());
    let numbers = probe(&world, Name::Laptop, &["stream", "203.0.113.10:9000", "1000", "300", "--verbose"]).stdout;
    let numbers: Vec<u64> = numbers.lines().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(numbers.len(), 300);
    assert!(!numbers.is_sorted());
}

#[test]
fn a_pulled_cable_carries_nothing() {
    let mut world = world();
    let address = "203.0.113.10:70";
    assert_eq!(reach(&world, Name::Controller, address, &[Name::Laptop]), [Name::Laptop]);
    world.plug(Name::Laptop, false).unwrap();
    assert_eq!(reach(&world, Name::Controller, address, &[Name::Laptop, Name::Laptop2]), [Name::Laptop2]);
    world.plug(Name::Laptop, true).unwrap();
    assert_eq!(reach(&world, Name::Controller, address, &[Name::Laptop]), [Name::Laptop]);
}

#[test]
fn a_daemon_is_killed_started_again_and_gone_with_its_world() {
    let world = world();
    let mut command = world.host(Name::Service).command("sh");
    command.args(["-c", "echo started; exec cat /proc/self/fd/0 /dev/zero > /dev/null"]);
    let mut daemon = world.host(Name::Service).start("sleeper", command).unwrap();
    daemon.wait_for_line("started", SOON).unwrap();
    let first = daemon.pid();
    daemon.restart().unwrap();
    daemon.wait_for_line("started", SOON).unwrap();
    assert_ne!(daemon.pid(), first);
    drop(world);
    assert!(daemon.wait_for_end(SOON).unwrap().is_some());
}

#[test]
fn a_killed_lab_leaves_nothing() {
    let folder = std::env::temp_dir().join(format!("umbra-lab-test-{}", std::process::id()));
    let lab = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_umbra-lab"));
        command.args(words).env("UMBRA_LAB_DIR", &folder).stdin(Stdio::null());
        command
    };
    let said = lab(&["up"]).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let record: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("lab.json")).unwrap()).unwrap();
    let number = |value: &serde_json::Value| u32::try_from(value.as_u64().unwrap()).unwrap();
    let laptop = number(&record["hosts"]["laptop"]["pid"]);
    let network = network_of(laptop).unwrap();
    // Something that a user left behind in a host, in a session of its own.
    let mut stray = lab(&["exec", "laptop", "--", "setsid", "sh", "-c", "echo on; exec cat /dev/zero > /dev/null"]);
    let mut stray = stray.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(stray.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "on\n");
    let fabric = ProcessHandle::open(number(&record["fabric"])).unwrap();
    ProcessHandle::open(number(&record["keeper"])).unwrap().signal(Signal::Kill).unwrap();
    assert!(fabric.wait(SOON).unwrap());
    stray.wait().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    assert_eq!(pids.filter(|pid| network_of(*pid).is_ok_and(|found| found == network)).count(), 0);
    assert!(!folder.exists());
}

#[test]
fn up_exec_hosts_down() {
    let folder = std::env::temp_dir().join(format!("umbra-lab-test-up-{}", std::process::id()));
    let lab = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_umbra-lab"));
        command.args(words).env("UMBRA_LAB_DIR", &folder).stdin(Stdio::null()).output().unwrap()
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let early = lab(&["exec", "laptop", "--", "true"]);
    assert!(!early.status.success() && text(&early.stderr).contains("umbra-lab up"), "{}", text(&early.stderr));
    assert!(lab(&["up"]).status.success());
    let again = lab(&["up"]);
    assert!(text(&again.stderr).contains("umbra-lab down"), "{}", text(&again.stderr));
    assert_eq!(lab(&["exec", "laptop", "--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    let got = lab(&["exec", "gateway", "--", "umbra-lab", "probe", "http", "http://web.corp.example/"]);
    assert_eq!(text(&got.stdout), "This is web.\n", "{}", text(&got.stderr));
    let hosts: serde_json::Value = serde_json::from_slice(&lab(&["hosts", "--json"]).stdout).unwrap();
    assert_eq!(hosts.as_array().unwrap().len(), 8);
    assert_eq!(hosts[0]["name"], "controller");
    assert_eq!(hosts[0]["outside"][0], "203.0.113.10");
    // Controller, gateway, gateway2, laptop, laptop2 are in the overlay; service, stranger, neighbour are not.
    for (at, inside) in [true, true, true, false, true, true, false, false].into_iter().enumerate() {
        assert_ne!(hosts[at]["overlay"].as_array().unwrap().is_empty(), inside, "{hosts}");
    }
    for (laptop, sees_wiki) in [("laptop", true), ("laptop2", false)] {
        let listed = lab(&["exec", laptop, "--", "umbra", "ls"]);
        assert!(listed.status.success(), "{}", text(&listed.stderr));
        assert!(text(&listed.stdout).contains("web.corp.example"), "{}", text(&listed.stdout));
        assert_eq!(text(&listed.stdout).contains("wiki"), sees_wiki, "{}", text(&listed.stdout));
        let page = lab(&["exec", laptop, "--", "umbra-lab", "probe", "http", "http://web.corp.example/"]);
        assert_eq!(text(&page.stdout), "This is web.\n", "{}", text(&page.stderr));
    }
    assert!(lab(&["down"]).status.success());
    assert!(!folder.exists());
    assert!(!lab(&["down"]).status.success());
}
