//! Bytes in, bytes out. What happens to a packet between the TUN device and the UDP socket?
//!
//! Pure but for boringtun's own clock and entropy, which hide behind the trait `wire::Wire`.

pub mod api;
pub mod engine;

pub use api::{Change, Config, Event, Out, Peer, PeerId, PeerKind, PeerStatus, Role, RouteEntry, RouteState, Routes};
pub use engine::{Engine, Generation};
