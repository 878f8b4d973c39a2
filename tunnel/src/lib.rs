//! Bytes in, bytes out. What happens to a packet between the TUN device and the UDP socket?
//!
//! Pure but for boringtun's own clock and entropy, which hide behind the trait `wire::Wire`.

pub mod address;
pub mod api;
pub mod checksum;
pub mod coalesce;
pub mod control;
pub mod counters;
pub mod double;
pub mod ecn;
pub mod engine;
pub mod filter;
pub mod flow;
pub mod fragments;
pub mod headers;
pub mod icmp;
pub mod keys;
pub mod knock;
pub mod limiter;
pub mod lookup;
pub mod names;
pub mod peer;
pub mod peers;
pub mod reset;
pub mod rewrite;
pub mod routes;
pub mod segment;
pub mod silence;
pub mod site;
pub mod timers;
pub mod wire;

#[cfg(test)]
mod craft;

#[cfg(test)]
mod tests;

pub use address::{address_of_key, address_of_node};
pub use api::{Change, Config, Event, Out, Peer, PeerId, PeerKind, PeerStatus, Role, RouteEntry, RouteState, Routes};
pub use engine::{Engine, Generation};
