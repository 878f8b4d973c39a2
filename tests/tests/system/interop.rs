//! Does bulk TCP pass both ways between our packet path and wireguard-go, whichever end is ours, with offloads and without?

use crate::support::world;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use umbra_tests::bench::peers::{Peer, on_path};
use umbra_tests::exchange::Outcome;
use umbra_tests::interop::{End, Tunnel};
use umbra_tests::lab::Name;
use umbra_tests::service::{EXCHANGE_PORT, start_exchange};

/// Each way.
const BYTES: &str = "24000000";
/// What is left out at our end.
const STEPS: [&str; 3] = ["", "no-vnet,no-gso,no-gro", "no-tso,no-uso,no-gro"];
/// Much longer than it takes.
const LIMIT: Duration = Duration::from_secs(240);

#[test]
fn bulk_tcp_passes_between_our_packet_path_and_wireguard_go_whichever_end_is_ours() {
    let Some(path) = on_path("wireguard-go") else {
        return println!("skipped: there is no wireguard-go; on Debian `apt-get install wireguard-go` installs it");
    };
    let other = Peer { name: "wireguard-go".to_owned(), path };
    for (end, outside_v4) in [(End::Client, true), (End::Gateway, false)] {
        for left_out in STEPS {
            let world = world();
            let _exchange = start_exchange(&world).unwrap();
            let tunnel = Tunnel::start(&world, end, &other, left_out, outside_v4).unwrap_or_else(|e| panic!("{e:#}"));
            for to in ["10.20.0.10", "fd20::10"] {
                let to = SocketAddr::new(to.parse::<IpAddr>().unwrap(), EXCHANGE_PORT).to_string();
                let words = ["umbra-lab", "probe", "--patience=20000", "exchange", &to, BYTES];
                let done = world.host(Name::Laptop).run(&words, LIMIT).unwrap();
                assert!(done.success(), "{end:?} {left_out:?}: {done:?}, {:?}", tunnel.ours.lines());
                let outcome: Outcome = serde_json::from_str(&done.stdout).unwrap();
                assert!(outcome.is_same(), "{end:?} {left_out:?}: {outcome:?}");
                println!("{end:?} ours, without {left_out:?}, {to}: {} ms", outcome.took_ms);
            }
        }
    }
}
