//! Why did a datagram get no answer, or a peer no admission? One reason, one counter, one stable name.

use crate::wire::WireError;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident = $name:literal),* $(,)?) => {
        /// Every reason for which a datagram ends at the socket, or a change is not made.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Silence { $($(#[$doc])* $reason),* }

        impl Silence {
            /// All, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$reason),*];
            /// The counter's name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$reason => $name),* }
            }
        }
    };
}

reasons! {
    /// Neither a message of WireGuard nor a knock, by type and size.
    NotWireguard = "udp_not_wireguard",
    /// MAC1 holds under none of our keys.
    Mac1 = "udp_mac1",
    /// Under load: a cookie reply was sent instead.
    CookieAsked = "udp_cookie_asked",
    /// Under load: no cookie was left for it in this second.
    CookieRate = "udp_cookie_rate",
    /// Under load: too many handshakes of one address in this second.
    SourceRate = "udp_source_rate",
    /// An initiation of somebody who is not a peer.
    UnknownSender = "udp_unknown_sender",
    /// An index that is not ours.
    UnknownIndex = "udp_unknown_index",
    /// No such session.
    NoSession = "udp_no_session",
    /// It does not open.
    Forged = "udp_forged",
    /// Counter or time stamp seen before.
    Replay = "udp_replay",
    /// Authentic, but no IP packet inside.
    Inner = "udp_no_ip_inside",
    /// Malformed.
    Malformed = "udp_malformed",
    /// Too many knocks in this second.
    KnockRate = "udp_knock_rate",
    /// A knock where none is taken.
    KnockUnwanted = "udp_knock_unwanted",
    /// A packet that could not be sealed.
    Unsealable = "tun_unsealable",
    /// A packet for a tunnel that is gone.
    NoTunnel = "tun_no_tunnel",
    /// Too many peers.
    PeersFull = "peer_table_full",
    /// Too many provisional peers.
    ProvisionalFull = "peer_provisional_full",
    /// Too many keys of ours.
    DataKeysFull = "peer_data_keys_full",
    /// The same pair of keys belongs to another peer.
    PeerKeyTaken = "peer_key_taken",
    /// The overlay address belongs to another peer.
    PeerAddressTaken = "peer_address_taken",
    /// The far end's key lies in a small subgroup.
    PeerLowOrder = "peer_low_order",
    /// A change names a peer that is not there.
    PeerUnknown = "peer_unknown",
}

impl From<WireError> for Silence {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Session => Self::NoSession,
            WireError::Forged => Self::Forged,
            WireError::Replay => Self::Replay,
            WireError::Inner => Self::Inner,
            WireError::Malformed => Self::Malformed,
            WireError::LowOrder => Self::PeerLowOrder,
        }
    }
}

/// One counter for each reason.
#[derive(Debug)]
pub struct Silences {
    counts: Vec<AtomicU64>,
}

impl Default for Silences {
    fn default() -> Self {
        Self { counts: Silence::ALL.iter().map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Silences {
    /// One more.
    pub fn count(&self, reason: Silence) {
        if let Some(counter) = self.counts.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
    /// How often so far.
    pub fn of(&self, reason: Silence) -> u64 {
        self.counts.get(reason as usize).map_or(0, |c| c.load(Ordering::Relaxed))
    }
    /// Every counter with its name, in a stable order.
    pub fn all(&self) -> Vec<(&'static str, u64)> {
        Silence::ALL.iter().map(|r| (r.name(), self.of(*r))).collect()
    }
}
