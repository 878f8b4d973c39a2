//! Whole engines in virtual time, over a network that loses datagrams, and a far end that starts anew.

use super::control::{device, request, to_controller, to_node};
use super::*;
use crate::double::{VirtualDoors, public_of};
use model::ids::NodeId;
use model::limits::{HANDSHAKE_RETRY, SILENCE_MAX};
use model::pool::CONTROL_PORT;

fn controller(net: &mut Net) {
    net.host_with(Role::Controller, 1, Arc::new(VirtualDoors), Bounds::default());
    let host = net.hosts.len() - 1;
    net.apply(host, Change::AddPeer(Peer { remote: public_of(&key(2)), ..to_node() }));
}

/// A controller (0) and a node (1) with a keepalive of five seconds.
fn pair() -> Net {
    let mut net = Net::new();
    controller(&mut net);
    net.host_with(Role::Client, 2, Arc::new(VirtualDoors), Bounds::default());
    let keepalive = Some(Duration::from_secs(5));
    net.apply(1, Change::AddPeer(Peer { remote: public_of(&key(1)), keepalive, ..to_controller() }));
    net
}

/// Lets time go by in steps; each datagram is lost with this chance in percent, by a fixed sequence.
fn live(net: &mut Net, by: Duration, lost: u64, seed: &mut u64) {
    let end = net.now.plus(by);
    while net.now < end {
        net.advance(Duration::from_millis(100));
        net.wire.retain(|_| {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (*seed >> 33) % 100 >= lost
        });
        net.run();
    }
}

#[test]
fn an_hour_with_a_third_of_all_datagrams_lost() {
    for run in 1..=5 {
        let (mut net, mut seed) = (pair(), run);
        let mut arrived = 0;
        for minute in 0..60 {
            for _ in 0..10 {
                net.tun(1, &request(CONTROL_PORT));
                live(&mut net, Duration::from_secs(6), 33, &mut seed);
            }
            let now = net.taken(0).len();
            assert!(now > 0, "run {run}, minute {minute}: not one of ten arrived");
            arrived += now;
        }
        assert!(arrived > 300, "{arrived} of 600");
        let status = net.status(0, &PeerId::Node(device()));
        assert!(net.now.since(status.last_handshake.unwrap()) < Duration::from_secs(200), "sessions change");
        net.log.clear();
    }
}

#[test]
fn a_controller_that_starts_anew_has_its_node_back_within_four_seconds() {
    let (mut net, mut seed) = (pair(), 1);
    net.tun(1, &request(CONTROL_PORT));
    live(&mut net, Duration::from_secs(20), 0, &mut seed);
    net.taken(0);
    let node = net.hosts.remove(1);
    net.hosts.clear();
    controller(&mut net);
    net.hosts.push(node);
    // The node's link notices the silence and forces a handshake.
    live(&mut net, SILENCE_MAX, 0, &mut seed);
    assert_eq!(net.taken(0), Vec::<Vec<u8>>::new());
    net.apply(1, Change::ForceHandshake(PeerId::Node(NodeId::Controller)));
    live(&mut net, HANDSHAKE_RETRY, 0, &mut seed);
    net.tun(1, &request(CONTROL_PORT));
    net.run();
    assert_eq!(net.taken(0), [request(CONTROL_PORT)]);
}

#[test]
fn a_keepalive_brings_the_tunnel_up_and_holds_it() {
    let (mut net, mut seed) = (pair(), 1);
    live(&mut net, Duration::from_secs(6), 0, &mut seed);
    assert!(net.status(0, &PeerId::Node(device())).last_handshake.is_some());
    live(&mut net, Duration::from_secs(1_000), 0, &mut seed);
    let status = net.status(0, &PeerId::Node(device()));
    assert!(net.now.since(status.last_received.unwrap()) <= Duration::from_secs(6));
    // The tunnel asks for nothing else: about one datagram in five seconds, and a handshake now and then.
    assert!(net.log.len() < 300, "{}", net.log.len());
}
