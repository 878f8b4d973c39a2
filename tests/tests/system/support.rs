//! What every whole-system test needs.

use std::path::PathBuf;
use std::time::{Duration, Instant};
use umbra_tests::lab::{Finished, Name, Options, World};

/// Long enough for anything that happens at once, on a machine that is busy with other tests.
pub const SOON: Duration = Duration::from_secs(20);

/// Options of a world built by the `umbra-lab` that belongs to these tests.
pub fn options() -> Options {
    Options { program: Some(PathBuf::from(env!("CARGO_BIN_EXE_umbra-lab"))), ..Options::default() }
}

/// A world without faults.
pub fn world() -> World {
    World::start(&options()).unwrap_or_else(|error| panic!("{error}"))
}

/// A limit for what is promised within `limit`: with what twenty starts of a program take just now on top, because a
/// machine that is busy with something else is slow in everything.
pub fn within(world: &World, limit: Duration) -> Duration {
    let started = Instant::now();
    world.host(Name::Controller).run(&["umbra-controller", "status"], SOON).unwrap();
    limit + 20 * started.elapsed()
}

/// Runs `umbra-lab probe WORDS` on a host.
pub fn probe(world: &World, from: Name, words: &[&str]) -> Finished {
    let words = [&["umbra-lab", "probe"], words].concat();
    world.host(from).run(&words, SOON).unwrap_or_else(|error| panic!("{error}"))
}
