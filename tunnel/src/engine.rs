//! The engine: one entry for each thing that can happen to a tunnel program.

use crate::api::{Change, Config, Out, PeerId, PeerStatus};
use model::packet::{Frame, Train};
use model::time::Instant;

/// Counts the changes that [`Engine::apply`] made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// All tunnels and flows of one program.
pub struct Engine {
    _config: Config,
}

impl Engine {
    /// An engine without peers.
    pub fn new(config: Config) -> Self {
        Self { _config: config }
    }
    /// A packet that the kernel routed into the TUN device.
    pub fn from_tun(&self, _now: Instant, _frame: &mut Frame, _out: &mut Out) {}
    /// Datagrams that came to the UDP socket.
    pub fn from_udp(&self, _now: Instant, _train: &mut Train, _out: &mut Out) {}
    /// Applies a change; returns when no thread uses the state from before it any more.
    pub fn apply(&self, _now: Instant, _change: Change, _out: &mut Out) -> Generation {
        Generation(0)
    }
    /// Timers; returns when it wants to be called next.
    pub fn tick(&self, now: Instant, _out: &mut Out) -> Instant {
        now.plus(std::time::Duration::from_millis(100))
    }
    /// The state of one tunnel.
    pub fn peer(&self, _id: &PeerId) -> Option<PeerStatus> {
        None
    }
    /// Every counter with its name, in a stable order.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}
