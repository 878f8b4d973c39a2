//! What a hostile gateway can do besides its work: it knows keys and pre-shared keys of its tunnels, and speaks into them.

use super::parts::{Dice, Role, marked};
use grant::View;
use model::ids::{GrantId, ResourceId};
use model::key::PrivateKey;
use model::net::{PortRange, Protocol};
use model::packet::{Frame, Local, Train};
use model::pool::Pool;
use model::time::Instant;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tunnel::double::VirtualDoors;
use tunnel::peers::Bounds;
use tunnel::{Change, Config, Engine, Out, Peer, PeerId, PeerKind, RouteEntry, RouteState, Routes};

/// A second engine under the gateway's key: it sends whatever it likes.
pub struct Evil {
    /// Which gateway.
    pub gateway: usize,
    /// What it sends.
    pub out: Out,
    engine: Engine,
}

impl Evil {
    /// The dark side of a gateway.
    pub fn new(gateway: usize, key: Arc<PrivateKey>, pool: Pool, seed: [u8; 32]) -> Self {
        let pairing_key = key.clone();
        let config = Config { role: tunnel::Role::Client, pool, key, pairing_key, seed };
        let engine = Engine::with(config, Arc::new(VirtualDoors), Bounds::default());
        Self { gateway, out: Out::default(), engine }
    }

    /// A datagram comes to the gateway's socket.
    pub fn datagram(&mut self, now: Instant, from: SocketAddr, bytes: Vec<u8>) {
        self.engine.from_udp(now, &mut Train::datagram(from, Local::default(), bytes), &mut self.out);
    }

    /// Speaks to the device of one of the gateway's tunnels, in the name of `from`; `key` is the gateway's in pairings.
    #[allow(clippy::too_many_arguments)] // what it knows, and what it says
    pub fn speak(
        &mut self,
        now: Instant,
        key: &Arc<PrivateKey>,
        view: &View,
        dice: &mut Dice,
        at: &[SocketAddr],
        from: SocketAddr,
    ) {
        let tunnels: Vec<_> = view.pairings.values().collect();
        let Some(tunnel) = dice.pick(&tunnels) else { return };
        let pairing = &tunnel.pairing;
        let id = PeerId::Pairing(pairing.id);
        if self.engine.peer(&id).is_none() {
            let peer = Peer {
                id,
                kind: PeerKind::Pairing(pairing.psk.clone()),
                local: key.clone(),
                remote: pairing.client_key,
                addresses: Vec::new(),
                endpoints: at.to_vec(),
                keepalive: None,
            };
            self.engine.apply(now, Change::AddPeer(peer), &mut self.out);
            self.engine.apply(now, Change::ForceHandshake(id), &mut self.out);
        } else if dice.chance(30) {
            // Where the device is, it does not know for sure: it tries one after the other.
            self.engine.apply(now, Change::NextEndpoint(id), &mut self.out);
        }
        let to = match from {
            SocketAddr::V4(_) => IpAddr::V4(pairing.device_v4),
            SocketAddr::V6(_) => IpAddr::V6(pairing.device_v6),
        };
        let state = RouteState::Granted {
            pairing: pairing.id,
            grant: GrantId::from_bytes([7; 10]),
            until: now.plus(Duration::from_secs(1_000_000)),
        };
        let ports = vec![(Protocol::Tcp, PortRange::ALL), (Protocol::Udp, PortRange::ALL)];
        let entry = RouteEntry { resource: ResourceId::from_bytes([7; 10]), ports, state };
        let everywhere = ["0.0.0.0/0", "::/0"].iter().filter_map(|p| p.parse().ok());
        let routes = Routes {
            own: vec![from.ip()],
            entries: everywhere.map(|p| (p, vec![entry.clone()])).collect(),
            ..Routes::default()
        };
        self.engine.apply(now, Change::Routes(Arc::new(routes)), &mut self.out);
        let protocol = if dice.chance(50) { Protocol::Udp } else { Protocol::Tcp };
        // A port that a program of the device may have open, or used a moment ago.
        let port = 40_000 + u16::try_from(dice.below(12)).unwrap_or(0);
        let role = if dice.chance(50) { Role::Evil } else { Role::Request };
        let bytes = if role == Role::Evil || protocol == Protocol::Udp {
            marked(from, SocketAddr::new(to, port), protocol, Role::Evil, dice.roll())
        } else {
            crate::attacker::packet::syn(from, SocketAddr::new(to, port), b"UMBRA\x02\0\0\0\0\0\0\0\0")
        };
        self.engine.from_tun(now, &mut Frame::packet(bytes), &mut self.out);
        self.engine.tick(now, &mut self.out);
    }
}
