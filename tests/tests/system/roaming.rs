//! Does live TCP go on while the laptop's network has now one family, now the other?

use crate::support::{SOON, world};
use crate::talk::{json, until};
use std::sync::mpsc::{TryRecvError, channel};
use std::thread;
use std::time::Duration;
use umbra_tests::exchange::Outcome;
use umbra_tests::lab::topology::OUTSIDE_LINK;
use umbra_tests::lab::{Name, World};
use umbra_tests::perimeter::{Perimeter, Plan, done};
use umbra_tests::service::{EXCHANGE_PORT, Services, start_exchange};

/// Each way; some seconds for a debug build.
const BYTES: &str = "150000000";
/// Much longer than it takes.
const LIMIT: Duration = Duration::from_secs(300);
/// So much comes between two moves.
const BETWEEN: u64 = 5_000_000;
/// Nobody would wait for longer.
const GAP_MAX: Duration = Duration::from_secs(5);

/// Gives the laptop an address outside, or takes it away.
fn address(world: &World, word: &str, v4: bool) {
    let found = Name::Laptop.outside().into_iter().find(|own| own.is_ipv4() == v4).unwrap();
    let prefix = format!("{found}/{}", if v4 { 24 } else { 64 });
    let nodad: &[&str] = if !v4 && word == "add" { &["nodad"] } else { &[] };
    done(world, Name::Laptop, &[&["ip", "address", word, &prefix, "dev", OUTSIDE_LINK], nodad].concat()).unwrap();
}

/// Where the laptop's tunnel to the gateway leads now, and where that to the controller.
fn endpoints(world: &World) -> [String; 2] {
    let status = json(world, Name::Laptop, &["umbra", "status", "--json"]);
    [&status["pairings"][0], &status["controller"]].map(|end| end["endpoint"].as_str().unwrap_or_default().to_owned())
}

/// What the laptop got through its tunnel so far.
fn received(world: &World) -> u64 {
    let status = json(world, Name::Laptop, &["umbra", "status", "--json"]);
    status["pairings"][0]["bytes_received"].as_u64().unwrap_or(0)
}

#[test]
fn a_stream_goes_on_from_one_family_to_the_other_and_back() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    let _exchange = start_exchange(&world).unwrap();
    let resource_options = vec![format!("--tcp={EXCHANGE_PORT}")];
    let plan = Plan { laptops: vec![Name::Laptop], resource_options, ..Plan::default() };
    let _perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    let mut moves = 0;
    let finished = thread::scope(|scope| {
        let (sender, ended) = channel::<()>();
        let running = scope.spawn(|| {
            let to = format!("web.corp.example:{EXCHANGE_PORT}");
            let words = ["umbra-lab", "probe", "--patience=20000", "exchange", &to, BYTES];
            let finished = world.host(Name::Laptop).run(&words, LIMIT);
            drop(sender);
            finished
        });
        until("the tunnel", SOON, || !endpoints(&world)[0].is_empty());
        for v4 in [true, false].into_iter().cycle() {
            address(&world, "del", !v4);
            let there = |end: &str| end.starts_with('[') != v4;
            let took = until("the tunnel on the other family", SOON, || there(&endpoints(&world)[0]));
            let control = until("the controller on the other family", SOON, || there(&endpoints(&world)[1]));
            address(&world, "add", !v4);
            let (mut over, before) = (false, received(&world));
            until("the stream goes on", SOON, || {
                over = ended.try_recv() == Err(TryRecvError::Disconnected);
                over || received(&world) > before + BETWEEN
            });
            if over {
                break;
            }
            moves += 1;
            println!(
                "moved to {} in {took:?}, the controller's tunnel {control:?} later",
                if v4 { "IPv4" } else { "IPv6" }
            );
        }
        running.join().unwrap()
    });
    let finished = finished.unwrap();
    assert!(finished.success(), "after {moves} moves: {finished:?}");
    let outcome: Outcome = serde_json::from_str(&finished.stdout).unwrap();
    println!("{moves} moves in {} ms, longest gap {:?}", outcome.took_ms, outcome.gap());
    assert!(moves >= 2, "it went to one and back while bytes flowed: {moves} moves");
    assert!(outcome.is_same() && outcome.gap() < GAP_MAX, "{outcome:?}");
}
