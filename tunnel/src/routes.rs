//! The client's path: may this packet go out, through which pairing, and may that packet come in?

use crate::api::{Out, Routes};
use crate::counters::Counters;
use crate::site::Replies;
use model::ids::PairingId;
use model::time::Instant;
use std::sync::Arc;

/// What the engine does with a packet from the TUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Encrypt the packet for this pairing.
    Send(PairingId),
    /// Nothing: it waits, was answered (in `out.tun`), or was dropped and counted.
    Consumed,
}

/// The client's flows and waiting packets.
#[derive(Debug)]
pub struct ClientPath {
    counters: Arc<Counters>,
}

impl ClientPath {
    /// No flows yet.
    pub fn new(counters: Arc<Counters>) -> Self {
        Self { counters }
    }
    /// A packet that the kernel routed into the TUN (not for the resolver, not for the controller: the engine takes those
    /// first). On [`Verdict::Consumed`] the packet may have been taken.
    pub fn from_tun(&self, now: Instant, routes: &Routes, packet: &mut Vec<u8>, out: &mut Out) -> Verdict {
        let _ = (now, routes, packet, out, &self.counters);
        Verdict::Consumed
    }
    /// A packet that came out of a pairing's tunnel: true when it may be written to the TUN (cut to its own length).
    pub fn from_gateway(&self, now: Instant, routes: &Routes, pairing: PairingId, packet: &mut Vec<u8>) -> bool {
        let _ = (now, routes, pairing, packet);
        false
    }
    /// New routes are in force: packets that waited leave (`replies`: through which pairing) or are answered in
    /// `out.tun`; local sockets of flows without a grant get RST.
    pub fn swap(&self, now: Instant, new: &Routes, out: &mut Out, replies: &mut Replies) {
        let _ = (now, new, out, replies);
    }
    /// Ends idle flows, answers packets that waited too long. Returns when it wants to be called next.
    pub fn expire(&self, now: Instant, out: &mut Out) -> Instant {
        let _ = (now, out);
        Instant::NEVER
    }
    /// How many flows live.
    pub fn flows(&self) -> usize {
        0
    }
}
