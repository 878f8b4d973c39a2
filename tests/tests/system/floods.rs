//! Can a machine that has joined keep others from the controller, or fill its memory?

use crate::support::{SOON, world};
use crate::talk::until;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;
use umbra_tests::lab::{Daemon, Name, World};
use umbra_tests::perimeter::{Perimeter, Plan, log_in, umbra};
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
