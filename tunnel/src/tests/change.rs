//! When does a change return? Only when no thread uses the state from before it.

use super::control::to_node;
use super::*;
use crate::double::public_of;
use crate::wire::*;
use model::key::PrivateKey;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Doors whose tunnels stop in the middle of a datagram until they are told to go on.
struct Stopping {
    reached: Sender<()>,
    go_on: Arc<parking_lot::Mutex<Receiver<()>>>,
}
struct StoppingDoor(PublicKey, Sender<()>, Arc<parking_lot::Mutex<Receiver<()>>>);
struct StoppingWire(Sender<()>, Arc<parking_lot::Mutex<Receiver<()>>>);

impl Doors for Stopping {
    fn door(&self, key: &PrivateKey) -> Arc<dyn Door> {
        let reached = self.reached.clone();
        Arc::new(StoppingDoor(PublicKey(*key.expose()), reached, self.go_on.clone()))
    }
}
impl Door for StoppingDoor {
    fn public(&self) -> PublicKey {
        self.0
    }
    fn judge(&self, _from: SocketAddr, _datagram: &[u8]) -> Verdict {
        Verdict::Admitted
    }
    fn sender(&self, _initiation: &[u8]) -> Option<PublicKey> {
        Some(public_of(&key(2)))
    }
    fn open(&self, _remote: &PublicKey, _kind: &PeerKind, _index: u32) -> Result<Box<dyn Wire>, WireError> {
        Ok(Box::new(StoppingWire(self.1.clone(), self.2.clone())))
    }
    fn second(&self) {}
}
impl Wire for StoppingWire {
    fn tick(&mut self, _now: Instant) -> Option<Vec<u8>> {
        None
    }
    fn has_session(&self) -> bool {
        true
    }
    fn encapsulate(&mut self, _now: Instant, _packet: &[u8], _to: &mut Vec<u8>) -> Result<(), WireError> {
        Err(WireError::Session)
    }
    fn decapsulate(&mut self, _now: Instant, _datagram: &[u8], to: &mut Vec<u8>) -> Result<Opened, WireError> {
        self.0.send(()).unwrap();
        self.1.lock().recv().unwrap();
        *to = vec![0x60];
        Ok(Opened::Packet(1))
    }
    fn initiate(&mut self, _now: Instant) -> Option<Vec<u8>> {
        None
    }
}

#[test]
fn a_change_waits_for_the_thread_that_uses_the_old_state() {
    let (reached, is_reached) = channel();
    let (go_on, may_go_on) = channel();
    let doors = Stopping { reached, go_on: Arc::new(parking_lot::Mutex::new(may_go_on)) };
    let config = Config { role: Role::Controller, pool: pool(), key: key(1), pairing_key: key(1), seed: [1; 32] };
    let engine = Engine::with(config, Arc::new(doors), Bounds::default());
    let peer = Peer { remote: public_of(&key(2)), ..to_node() };
    engine.apply(Instant(1), Change::AddPeer(peer.clone()), &mut Out::default());
    let mut initiation = vec![0; INITIATION_LEN];
    initiation[0] = 1;
    std::thread::scope(|scope| {
        let engine = &engine;
        scope.spawn(move || {
            let mut train = Train::datagram(addr(2), Local::default(), initiation);
            engine.from_udp(Instant(1), &mut train, &mut Out::default());
        });
        is_reached.recv().unwrap();
        let (done, is_done) = channel();
        scope.spawn(move || {
            engine.apply(Instant(1), Change::RemovePeer(peer.id), &mut Out::default());
            done.send(()).unwrap();
        });
        assert!(is_done.recv_timeout(Duration::from_millis(200)).is_err(), "the old state is in use");
        go_on.send(()).unwrap();
        is_done.recv().unwrap();
    });
    assert_eq!(engine.counters().iter().find(|(n, _)| *n == "peers").unwrap().1, 0);
}
