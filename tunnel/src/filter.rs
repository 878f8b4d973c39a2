//! May this packet of a client go on? THE place where a gateway filters: first the sender, then the grant.
//!
//! Flow state is never looked at before the sender is verified, and nothing passes that no live grant speaks of.

use crate::counters::Drop;
use crate::headers::{Error, Packet, Transport};
use grant::{PairingView, VerifiedGrant, View};
use model::ids::PairingId;
use model::net::Rule;
use std::sync::Arc;

/// What the filter lets pass, and by which permission.
#[derive(Debug)]
pub enum Pass<'v> {
    /// A packet of, or for, a flow of this grant.
    Flow {
        /// Whose it is.
        pairing: &'v PairingView,
        /// By which grant.
        grant: &'v Arc<VerifiedGrant>,
        /// By which of its rules.
        rule: &'v Rule,
    },
    /// An ICMP error of a verified sender; it passes only if its quote is a live flow of this pairing.
    Error {
        /// Whose it is.
        pairing: &'v PairingView,
        /// What it says.
        error: Error,
    },
}

/// See [`Filter::check`].
pub struct Filter;

impl Filter {
    /// Judges a packet that came out of the tunnel of `pairing`. Everything that is not admitted leaves by one of the
    /// counted reasons: unknown pairing, foreign source, a kind of ICMP that opens no flow, no grant.
    pub fn check<'v>(view: &'v View, pairing: PairingId, packet: &Packet) -> Result<Pass<'v>, Drop> {
        let pairing = view.pairings.get(&pairing).ok_or(Drop::UnknownPairing)?;
        if !pairing.owns(packet.source) {
            return Err(Drop::SourceNotOwned);
        }
        match packet.transport {
            Transport::Error(error) => return Ok(Pass::Error { pairing, error }),
            Transport::Echo { request: false, .. } => return Err(Drop::IcmpKind),
            Transport::Echo { request: true, .. } | Transport::Tcp(_) | Transport::Udp { .. } => {}
        }
        pairing
            .find(packet.destination, packet.protocol(), packet.destination_port())
            .map(|(grant, rule)| Pass::Flow { pairing, grant, rule })
            .ok_or(Drop::NoGrant)
    }
}
