//! Control tunnels whose keys change: nothing is lost meanwhile, and the old keys end.

use super::control::{device, pair, request, to_controller, to_node};
use super::*;
use crate::address::address_of_node;
use model::ids::NodeId;
use model::limits::{SUCCEEDED_KEEP, SUCCESSORS_MAX};
use model::pool::CONTROL_PORT;

const CONTROLLER: u8 = 1;
const NODE: u8 = 2;
/// The node's next key.
const NEXT: u8 = 9;

const AT_NODE: PeerId = PeerId::Node(NodeId::Controller);

fn at_controller() -> PeerId {
    PeerId::Node(device())
}

fn answer() -> Vec<u8> {
    tcp6(pool().controller(), CONTROL_PORT, address_of_node(&pool(), &device()), 40_000, ACK, b"hello")
}

/// A packet each way.
fn talk(net: &mut Net, when: &str) {
    net.tun(1, &request(CONTROL_PORT));
    net.run();
    assert_eq!(net.taken(0), [request(CONTROL_PORT)], "{when}");
    net.tun(0, &answer());
    net.run();
    assert_eq!(net.taken(1), [answer()], "{when}");
}

fn controller_hears_of_it(net: &mut Net) {
    net.apply(0, Change::Succeed { id: at_controller(), local: key(CONTROLLER), remote: public(NEXT) });
}

fn node_changes(net: &mut Net) {
    net.apply(1, Change::Succeed { id: AT_NODE, local: key(NEXT), remote: public(CONTROLLER) });
}

fn succeeded(net: &mut Net, host: usize) -> usize {
    let count = net.hosts[host].events.iter().filter(|e| matches!(e, Event::Succeeded { .. })).count();
    net.hosts[host].events.clear();
    count
}

/// An initiation of the node under one of its keys, as its engine would send it.
fn initiation(under: u8) -> Vec<u8> {
    let mut net = Net::new();
    net.host(Role::Client, NODE);
    net.apply(0, Change::AddPeer(Peer { local: key(under), ..to_controller() }));
    net.apply(0, Change::ForceHandshake(AT_NODE));
    net.wire.pop_front().unwrap().bytes
}

#[test]
fn a_node_changes_its_key_and_no_packet_is_lost() {
    let mut net = pair();
    talk(&mut net, "before");
    controller_hears_of_it(&mut net);
    talk(&mut net, "the controller knows of it");
    node_changes(&mut net);
    // The handshake is under way: what is sent meanwhile goes through the old tunnel.
    let handshake = std::mem::take(&mut net.wire);
    talk(&mut net, "the node begins");
    net.wire = handshake;
    net.run();
    assert_eq!(net.hosts[1].engine.keys(&AT_NODE), Some((public(NEXT), public(CONTROLLER))));
    // The controller answers through the old one until data has come through the new one.
    net.tun(0, &answer());
    net.run();
    assert_eq!(net.taken(1), [answer()]);
    talk(&mut net, "after");
    assert_eq!(net.hosts[0].engine.keys(&at_controller()), Some((public(CONTROLLER), public(NEXT))));
    assert_eq!((succeeded(&mut net, 0), succeeded(&mut net, 1)), (1, 1));
    net.advance(SUCCEEDED_KEEP * 2);
    talk(&mut net, "when the old tunnel is gone");
    assert_eq!(net.counter(0, "peers"), 1);
}

#[test]
fn data_of_the_old_tunnel_is_taken_for_a_moment_and_its_handshakes_are_not() {
    let mut net = pair();
    talk(&mut net, "before");
    net.tun(1, &request(CONTROL_PORT));
    let late = net.wire.pop_front().unwrap();
    net.tun(1, &request(CONTROL_PORT));
    let later = net.wire.pop_front().unwrap();
    controller_hears_of_it(&mut net);
    node_changes(&mut net);
    net.run();
    talk(&mut net, "after");
    assert!(net.deliver(0, addr(NODE), &late.bytes));
    assert_eq!(net.taken(0), [request(CONTROL_PORT)], "what was under way arrives");
    assert!(!net.deliver(0, addr(NODE), &initiation(NODE)), "the old key is nobody's");
    net.advance(SUCCEEDED_KEEP);
    assert!(!net.deliver(0, addr(NODE), &later.bytes), "its time is over");
    talk(&mut net, "at the end");
}

#[test]
fn a_successor_that_does_not_prove_itself_changes_nothing() {
    let mut net = pair();
    talk(&mut net, "before");
    // The controller has not heard of the key: the node's handshakes meet silence.
    node_changes(&mut net);
    net.run();
    for _ in 0..40 {
        net.advance(Duration::from_secs(5));
        net.run();
        talk(&mut net, "while it tries");
    }
    assert_eq!(succeeded(&mut net, 1), 0);
    // Now it has.
    controller_hears_of_it(&mut net);
    node_changes(&mut net);
    net.apply(1, Change::Succeed { id: AT_NODE, local: key(NEXT + 1), remote: public(CONTROLLER) });
    net.apply(1, Change::Succeed { id: AT_NODE, local: key(NEXT), remote: public(CONTROLLER) });
    net.run();
    talk(&mut net, "after");
    assert_eq!(succeeded(&mut net, 1), 1);
}

#[test]
fn whoever_restarts_in_the_middle_comes_back_under_the_key_that_the_other_knows() {
    let both = |key_in_use: u8| {
        let mut net = Net::new();
        net.host(Role::Controller, CONTROLLER);
        net.host(Role::Client, NODE);
        net.apply(0, Change::AddPeer(Peer { remote: public(key_in_use), ..to_node() }));
        // The node's disk has both keys, whatever came of them.
        net.apply(1, Change::AddPeer(to_controller()));
        node_changes(&mut net);
        net
    };
    // The controller took over, and has forgotten the old key.
    let mut net = both(NEXT);
    net.run();
    talk(&mut net, "it knows the new key alone");
    // The controller never heard of it.
    let mut net = both(NODE);
    net.run();
    talk(&mut net, "it knows the old key alone");
    // The controller restarts before it has written down that the new one took over.
    let mut net = both(NODE);
    controller_hears_of_it(&mut net);
    net.run();
    talk(&mut net, "it knows both");
    assert_eq!(succeeded(&mut net, 0), 1);
}

#[test]
fn a_peer_that_is_removed_ends_with_all_its_tunnels() {
    for step in 0..3 {
        let mut net = pair();
        talk(&mut net, "before");
        net.tun(1, &request(CONTROL_PORT));
        let old = net.wire.pop_front().unwrap().bytes;
        if step > 0 {
            controller_hears_of_it(&mut net);
        }
        if step > 1 {
            node_changes(&mut net);
            net.run();
            talk(&mut net, "after");
        }
        net.apply(0, Change::RemovePeer(at_controller()));
        for datagram in [old, initiation(NODE), initiation(NEXT)] {
            assert!(!net.deliver(0, addr(NODE), &datagram), "{step}");
        }
        net.tun(1, &request(CONTROL_PORT));
        net.run();
        assert_eq!((net.taken(0), net.counter(0, "peers")), (Vec::<Vec<u8>>::new(), 0), "{step}");
    }
}

#[test]
fn a_key_that_is_somebody_elses_is_refused() {
    let mut net = pair();
    let other = NodeId::Device(model::ids::DeviceId::from_bytes([6; 10]));
    net.apply(
        0,
        Change::AddPeer(Peer {
            id: PeerId::Node(other),
            remote: public(NEXT),
            addresses: vec![address_of_node(&pool(), &other).into()],
            ..to_node()
        }),
    );
    controller_hears_of_it(&mut net);
    assert_eq!(net.counter(0, "peer_key_taken"), 1);
    net.apply(0, Change::Succeed { id: at_controller(), local: key(CONTROLLER), remote: PublicKey([0; 32]) });
    assert_eq!(net.counter(0, "peer_low_order"), 1);
    net.apply(0, Change::Succeed { id: AT_NODE, local: key(CONTROLLER), remote: public(NEXT) });
    assert_eq!(net.counter(0, "peer_unknown"), 1);
}

/// The controller's next key.
const NEXT_CONTROLLER: u8 = 8;

fn both_ends(keys: &[(u8, u8)]) -> Vec<(std::sync::Arc<model::key::PrivateKey>, PublicKey)> {
    keys.iter().map(|(ours, theirs)| (key(*ours), public(*theirs))).collect()
}

fn knock_under(controller: u8) -> Vec<u8> {
    let secret = model::secret::Secret::new([4; 32]);
    crate::knock::build(&secret, &public(controller), model::time::WallMs(1), &public(50), [controller; 24]).to_vec()
}

#[test]
fn the_controller_changes_its_key_and_no_packet_is_lost() {
    let mut net = pair();
    talk(&mut net, "before");
    net.apply(0, Change::ControlKeys(vec![key(CONTROLLER), key(NEXT_CONTROLLER)]));
    let follows = || Change::Successors { id: at_controller(), keys: both_ends(&[(NEXT_CONTROLLER, NODE)]) };
    net.apply(0, follows());
    talk(&mut net, "the controller hears under both");
    net.apply(1, Change::Succeed { id: AT_NODE, local: key(NODE), remote: public(NEXT_CONTROLLER) });
    let handshake = std::mem::take(&mut net.wire);
    talk(&mut net, "the node begins");
    net.wire = handshake;
    net.run();
    talk(&mut net, "after");
    assert_eq!(net.hosts[1].engine.keys(&AT_NODE), Some((public(NODE), public(NEXT_CONTROLLER))));
    let local = net.hosts[0].engine.local_key(address_of_node(&pool(), &device()).into());
    assert_eq!(local, Some(public(NEXT_CONTROLLER)), "for this node");
    // The old key ends; whoever still uses it meets silence.
    net.apply(0, Change::ControlKeys(vec![key(NEXT_CONTROLLER)]));
    net.apply(0, follows());
    net.advance(SUCCEEDED_KEEP * 2);
    assert!(!net.deliver(0, addr(NODE), &initiation(NODE)), "the old key is gone");
    talk(&mut net, "when the old key is gone");
}

#[test]
fn both_ends_change_their_keys_at_once_and_whichever_pair_is_used_first_is_the_one() {
    for used in [(CONTROLLER, NEXT), (NEXT_CONTROLLER, NODE), (NEXT_CONTROLLER, NEXT)] {
        let mut net = pair();
        talk(&mut net, "before");
        net.apply(0, Change::ControlKeys(vec![key(CONTROLLER), key(NEXT_CONTROLLER)]));
        let all = [(CONTROLLER, NEXT), (NEXT_CONTROLLER, NODE), (NEXT_CONTROLLER, NEXT)];
        let follow = || Change::Successors { id: at_controller(), keys: both_ends(&all) };
        net.apply(0, follow());
        net.apply(0, follow());
        net.apply(1, Change::Succeed { id: AT_NODE, local: key(used.1), remote: public(used.0) });
        net.run();
        talk(&mut net, "after");
        assert_eq!(net.hosts[0].engine.keys(&at_controller()), Some((public(used.0), public(used.1))));
        assert_eq!((succeeded(&mut net, 0), net.counter(0, "peers")), (1, 1));
        // None of the others is left.
        net.advance(SUCCEEDED_KEEP * 2);
        for other in [NODE, NEXT] {
            assert!(!net.deliver(0, addr(NODE), &initiation(other)) || used == (CONTROLLER, other), "{other}");
        }
    }
}

#[test]
fn a_node_that_tries_all_at_once_settles_on_one() {
    let mut net = pair();
    net.apply(0, Change::ControlKeys(vec![key(CONTROLLER), key(NEXT_CONTROLLER)]));
    net.apply(0, Change::Successors { id: at_controller(), keys: both_ends(&[(NEXT_CONTROLLER, NODE)]) });
    let all = [(NEXT, CONTROLLER), (NODE, NEXT_CONTROLLER), (NEXT, NEXT_CONTROLLER)];
    net.apply(1, Change::Successors { id: AT_NODE, keys: both_ends(&all) });
    net.run();
    talk(&mut net, "after");
    assert_eq!(net.hosts[1].engine.keys(&AT_NODE), Some((public(NODE), public(NEXT_CONTROLLER))));
    assert_eq!(succeeded(&mut net, 1), 1);
    assert_eq!(all.len(), SUCCESSORS_MAX);
    let too_many = [&all[..], &[(7, CONTROLLER)]].concat();
    net.apply(1, Change::Successors { id: AT_NODE, keys: both_ends(&too_many) });
    assert_eq!(net.counter(1, "peer_unknown"), 1, "there is a bound");
}

#[test]
fn strangers_knock_under_each_key_of_the_controller_and_under_no_former_one() {
    let mut net = pair();
    let heard = |net: &mut Net, under: u8| {
        net.hosts[0].events.clear();
        net.deliver(0, addr(77), &knock_under(under));
        net.hosts[0].events.iter().any(|e| matches!(e, Event::Knock { local, .. } if *local == public(under)))
    };
    assert!(heard(&mut net, CONTROLLER) && !heard(&mut net, NEXT_CONTROLLER));
    net.apply(0, Change::ControlKeys(vec![key(CONTROLLER), key(NEXT_CONTROLLER)]));
    assert!(heard(&mut net, CONTROLLER) && heard(&mut net, NEXT_CONTROLLER));
    net.apply(0, Change::ControlKeys(vec![key(NEXT_CONTROLLER)]));
    assert!(!heard(&mut net, CONTROLLER) && heard(&mut net, NEXT_CONTROLLER));
    // Its tunnels are there as long as they are not told to go: this is about strangers.
    talk(&mut net, "at the end");
}
