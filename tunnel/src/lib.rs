//! Bytes in, bytes out. What happens to a packet between the TUN device and the UDP socket?
//!
//! Pure but for boringtun's own clock and entropy, which hide behind the trait `wire::Wire`.

pub mod api;
pub mod checksum;
pub mod control;
pub mod counters;
pub mod engine;
pub mod headers;
pub mod routes;
pub mod site;

pub use api::{Change, Config, Event, Out, Peer, PeerId, PeerKind, PeerStatus, Role, RouteEntry, RouteState, Routes};
pub use engine::{Engine, Generation};
