//! What does the packet path see of the grants? An immutable view, swapped whole.

use crate::verified::{Scope, VerifiedGrant};
use model::grant::Pairing;
use model::ids::{GrantId, PairingId};
use model::net::{Protocol, Rule};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// One pairing and the grants that live in it.
#[derive(Debug, Clone)]
pub struct PairingView {
    /// The tunnel.
    pub pairing: Arc<Pairing>,
    /// Its grants, ordered by id; never empty in a published view.
    pub grants: Vec<Arc<VerifiedGrant>>,
}

impl PairingView {
    /// The pairing owns exactly its device's two addresses.
    pub fn owns(&self, source: IpAddr) -> bool {
        match source {
            IpAddr::V4(a) => a == self.pairing.device_v4,
            IpAddr::V6(a) => a == self.pairing.device_v6,
        }
    }

    /// The grant and rule that admit such a packet, the longest client prefix first.
    pub fn find(&self, destination: IpAddr, protocol: Protocol, port: u16) -> Option<(&Arc<VerifiedGrant>, &Rule)> {
        self.grants
            .iter()
            .flat_map(|grant| grant.grant().rules.iter().map(move |rule| (grant, rule)))
            .filter(|(_, rule)| rule.matches(destination, protocol, port))
            .max_by_key(|(_, rule)| rule.client.bits())
    }
}

/// All that a gateway admits at one moment.
#[derive(Debug, Clone)]
pub struct View {
    /// What the gateway is; final destinations are checked against it per packet's flow.
    pub scope: Arc<Scope>,
    /// The pairings with at least one live grant.
    pub pairings: BTreeMap<PairingId, PairingView>,
}

impl View {
    /// Admits nothing.
    pub fn empty(scope: Arc<Scope>) -> Self {
        Self { scope, pairings: BTreeMap::new() }
    }
    /// Is the grant alive?
    pub fn holds(&self, pairing: PairingId, grant: GrantId) -> bool {
        self.pairings.get(&pairing).is_some_and(|p| p.grants.iter().any(|g| g.grant().id == grant))
    }
}
