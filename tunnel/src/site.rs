//! The gateway's path: what happens to a packet between a pairing and the service's network?
//!
//! Engine: call these without holding a peer's lock, send [`Replies`] afterwards. [`Site::swap`] is called when no thread
//! uses the old view any more, so that no packet judged by it opens a flow afterwards.

use crate::api::Out;
use crate::counters::Counters;
use grant::View;
use model::ids::PairingId;
use model::net::HostName;
use model::time::Instant;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Packets for clients: through which pairing, and the IP packet. The caller encrypts and empties it.
pub type Replies = Vec<(PairingId, Vec<u8>)>;

/// The gateway's flows, resolved names and waiting packets.
#[derive(Debug)]
pub struct Site {
    counters: Arc<Counters>,
}

impl Site {
    /// No flows yet.
    pub fn new(counters: Arc<Counters>) -> Self {
        Self { counters }
    }
    /// A packet that came out of a pairing's tunnel. Filtered, rewritten and put into `out.tun`, or dropped and counted;
    /// `packet` is taken. ICMP answers to the client go to `replies`.
    pub fn from_client(
        &self,
        now: Instant,
        view: &View,
        pairing: PairingId,
        packet: &mut Vec<u8>,
        out: &mut Out,
        replies: &mut Replies,
    ) {
        let _ = (now, view, pairing, packet, out, replies, &self.counters);
    }
    /// A packet that the kernel routed into the TUN, destined for the NAT pool. The rewritten packet goes to `replies`.
    pub fn from_service(&self, now: Instant, packet: &mut Vec<u8>, replies: &mut Replies) {
        let _ = (now, packet, replies);
    }
    /// Ends what the new view does not admit any more: RST to both sides, `FlowEnded`, one `GrantClosed` per grant.
    pub fn swap(&self, now: Instant, old: &View, new: &View, out: &mut Out, replies: &mut Replies) {
        let _ = (now, old, new, out, replies);
    }
    /// The answer to `Event::Resolve`: packets that waited go on.
    #[allow(clippy::too_many_arguments)]
    pub fn resolved(
        &self,
        now: Instant,
        view: &View,
        name: &HostName,
        v4: bool,
        addresses: Vec<IpAddr>,
        ttl: Duration,
        out: &mut Out,
        replies: &mut Replies,
    ) {
        let _ = (now, view, name, v4, addresses, ttl, out, replies);
    }
    /// Ends idle flows and answers packets that waited too long. Returns when it wants to be called next.
    pub fn expire(&self, now: Instant, out: &mut Out, replies: &mut Replies) -> Instant {
        let _ = (now, out, replies);
        Instant::NEVER
    }
    /// How many flows live.
    pub fn flows(&self) -> usize {
        0
    }
}
