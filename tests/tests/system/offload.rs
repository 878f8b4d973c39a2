//! Does everything work without the kernel's fast ways, too? Step by step, each left out at one end or at both.
//!
//! This is the short form. With `UMBRA_LAB_OFFLOAD=no-gso,no-gro` in the environment, every whole-system test runs with these steps
//! left out in all three programs.

use crate::support::{SOON, probe, world};
use crate::talk::{Talk, json, until};
use std::process::Command;
use umbra_tests::lab::host::OFFLOAD;
use umbra_tests::lab::{Name, World, run_to_its_end};
use umbra_tests::perimeter::{Perimeter, Plan};
use umbra_tests::service::Services;

/// What is left out at the laptop and at the gateway.
const STEPS: [(&str, &str); 4] = [
    ("", "no-uso,no-gro"),
    ("no-tso,no-uso", "one-queue"),
    ("no-gso", "no-gso"),
    ("no-vnet,no-gso,no-gro,small-buffers", "no-vnet"),
];
/// Lines of so many bytes go through each connection.
const LINE: usize = 60_000;
const LINES: usize = 20;

/// The words of what was left out, as the kernel may lack more.
fn lacks(world: &World, host: Name, program: &str, left_out: &str) {
    let without = json(world, host, &[program, "status", "--json"])["without"].as_str().unwrap().to_owned();
    for word in left_out.split(',') {
        assert!(without.contains(word), "{program} says that it lacks {without:?}, and was told {left_out:?}");
    }
}

fn options(left_out: &str) -> Vec<String> {
    vec!["--offload".to_owned(), left_out.to_owned()]
}

#[test]
fn one_variable_leaves_steps_out_in_every_program() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_umbra-lab"));
    command.args(["measure", "first-byte", "--count=1"]).env(OFFLOAD, "no-everything");
    let refused = run_to_its_end(&mut command, "a lab that leaves too much out", SOON).unwrap();
    let said = refused.stdout + &refused.stderr;
    assert!(!refused.status.success() && said.contains("'no-everything' is no step"), "{said}");
}

#[test]
fn every_step_down_carries_the_same_traffic() {
    for (laptop, gateway) in STEPS {
        let world = world();
        let _services = Services::start(&world).unwrap();
        let (client_options, gateway_options) = (options(laptop), options(gateway));
        let plan = Plan { laptops: vec![Name::Laptop], client_options, gateway_options, ..Plan::default() };
        let _perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
        lacks(&world, Name::Laptop, "umbra", laptop);
        lacks(&world, Name::Gateway, "umbra-gateway", gateway);
        let mut found = Vec::new();
        until("addresses of both families", SOON, || {
            let names = probe(&world, Name::Laptop, &["name", "web.corp.example"]).stdout;
            found = names.lines().map(str::to_owned).collect();
            found.len() == 2
        });
        for address in &found {
            let host = if address.contains(':') { format!("[{address}]") } else { address.clone() };
            let mut talk = Talk::open(&world, Name::Laptop, &format!("{host}:7"));
            for number in 0..LINES {
                // What comes back out of order, twice or damaged is not this line.
                let line: String =
                    (0..LINE).map(|at| char::from(b'a' + ((at * 7 + at / 1_000 + number) % 26) as u8)).collect();
                talk.say(&line);
                assert!(
                    talk.hear(SOON).is_some_and(|back| back == line),
                    "{laptop:?} {gateway:?}: {}",
                    talk.last_words()
                );
            }
            let datagram = probe(&world, Name::Laptop, &["udp", &format!("{host}:9000"), "a datagram"]);
            assert!(datagram.success(), "{laptop:?} {gateway:?}: {datagram:?}");
        }
    }
}
