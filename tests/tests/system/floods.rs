//! Can a machine that has joined, or one that could join and does not, keep others from the controller, or fill its memory?

use crate::support::{SOON, world};
use crate::talk::until;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;
use umbra_tests::lab::{Daemon, Name, World};
use umbra_tests::perimeter::{self, Perimeter, Plan, carry_join_file, join_laptop, log_in, start_client, umbra};
use umbra_tests::service::Services;

/// What the controller's memory may grow by, KiB (promise: 32 MiB).
const GROWTH_MAX: u64 = 32 << 10;

/// The most resident memory that it ever had, KiB.
fn memory(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Storms on the laptop, while somebody logs in on the other one again and again.
fn storm(world: &World, controller: &Daemon, how: &str) {
    // A log-in takes memory on purpose, on whichever thread it is done: with honest ones behind it.
    (0..8).for_each(|_| log_in(world, Name::Laptop2).unwrap());
    let before = memory(controller);
    let mut command = world.host(Name::Laptop).command("umbra-lab");
    command.args(["__attack", "storm", how, "--lasts=6"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut raging = command.spawn().unwrap();
    let mut log_ins = 0;
    while raging.try_wait().unwrap().is_none() {
        // On a connection that is there, and on a new one.
        if log_ins == 2 {
            umbra(world, Name::Laptop2, &["down"]).unwrap();
            umbra(world, Name::Laptop2, &["up"]).unwrap_or_else(|error| panic!("{how}: {error}"));
        }
        log_in(world, Name::Laptop2).unwrap_or_else(|error| panic!("{how}: {error}"));
        log_ins += 1;
    }
    let said = raging.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success(), "{how}: {said:?}");
    let done: u64 = text.trim().parse().unwrap();
    let grown = memory(controller) - before;
    println!("{how}: {done} times; {log_ins} log-ins meanwhile; {grown} KiB more");
    assert!(done >= 5 && log_ins > 2, "{how}: {done} times, {log_ins} log-ins");
    assert!(grown <= GROWTH_MAX, "{how}: the controller grew by {grown} KiB");
}

#[test]
fn a_laptop_that_asks_too_much_keeps_nobody_from_the_controller() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    let perimeter = Perimeter::start(&world, &Plan::default()).unwrap_or_else(|error| panic!("{error}"));
    // Far fewer files than the laptop has connections.
    let pid = format!("--pid={}", perimeter.controller.pid());
    let limited = Command::new("prlimit").args([&pid, "--nofile=200"]).status().unwrap();
    assert!(limited.success(), "{limited}");
    for how in ["silence", "drip", "reset", "body"] {
        storm(&world, &perimeter.controller, how);
    }
    // And the machine itself is back when it has calmed down.
    until("its own log-in", SOON + Duration::from_secs(10), || log_in(&world, Name::Laptop).is_ok());
}

/// Some of everything that the crowd tries: less would be no crowd.
const CROWD_DOES: u64 = 25;

/// A crowd gathers on the stranger's host; a machine joins before it has dispersed.
fn crowd(world: &World, controller: &Daemon, how: &str, newcomer: Name) {
    let before = memory(controller);
    let join = carry_join_file(world, Name::Stranger, &["--device", "--uses=100"]).unwrap();
    fs::remove_file(world.host(Name::Controller).outside_path("/etc/umbra/join-stranger").unwrap()).unwrap();
    let mut command = world.host(Name::Stranger).command("umbra-lab");
    command.args(["__attack", "crowd", &join, how, "--lasts=120"]);
    let raging = world.host(Name::Stranger).start(&format!("crowd-{how}"), command).unwrap();
    raging.wait_for_line("the crowd is there", SOON * 2).unwrap();
    let done = || raging.lines().last().and_then(|line| line.parse::<u64>().ok()).unwrap_or_default();
    // It says each second how far it is.
    for _ in 0..60 {
        if done() >= CROWD_DOES {
            break;
        }
        raging.wait_for_line_after(raging.mark(), "", SOON).unwrap();
    }
    assert!(done() >= CROWD_DOES, "{how}: {} times", done());
    let _daemon = start_client(world, newcomer).unwrap();
    join_laptop(world, newcomer).unwrap_or_else(|error| panic!("{how}: {error}"));
    assert!(raging.is_running(), "{how}: the crowd was gone before {newcomer} had joined: {:?}", raging.lines());
    let grown = memory(controller) - before;
    println!("{how}: {} times; {grown} KiB more", done());
    assert!(grown <= GROWTH_MAX, "{how}: the controller grew by {grown} KiB");
    raging.kill9().unwrap();
}

#[test]
fn a_crowd_that_knocks_and_never_enrols_keeps_nobody_out() {
    let world = world();
    let controller = perimeter::start_controller(&world, &Plan::default()).unwrap();
    let newcomers = [Name::Laptop, Name::Laptop2, Name::Gateway, Name::Gateway2];
    for (how, newcomer) in ["drip", "idle", "body", "calls"].into_iter().zip(newcomers) {
        crowd(&world, &controller, how, newcomer);
    }
    let said = controller.lines().iter().filter(|line| line.contains("ERROR")).count();
    assert_eq!(said, 0, "{:?}", controller.lines().last());
}
