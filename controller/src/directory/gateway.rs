//! Which gateways stand beside the services, and what did they last say of themselves?

use super::device::NodeState;
use super::encode;
use super::name::Name;
use crate::store::Record;
use model::ids::{GatewayId, JoinKeyId, SiteId};
use model::key::PublicKey;
use model::pool::NatPool;
use model::time::WallMs;
use serde::{Deserialize, Serialize};
use std::net::{Ipv6Addr, SocketAddr};

/// An enforcement point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// Its id.
    pub id: GatewayId,
    /// Its name, unique among gateways.
    pub name: Name,
    /// Where it stands, by its join key.
    pub site: SiteId,
    /// Its WireGuard key.
    #[serde(with = "encode::key")]
    pub key: PublicKey,
    /// The one that follows it, until its first use.
    #[serde(with = "encode::next_key", default, skip_serializing_if = "Option::is_none")]
    pub next_key: Option<PublicKey>,
    /// Its overlay address.
    pub address: Ipv6Addr,
    /// SHA-256 of its certificate's public key (SubjectPublicKeyInfo, DER).
    #[serde(with = "encode::array")]
    pub svid_key: [u8; 32],
    /// What the administrator compares (`proto::join::node_fingerprint`).
    pub fingerprint: String,
    /// Takes part?
    pub state: NodeState,
    /// Pending by a restore alone: it was confirmed when the backup was made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restored: bool,
    /// Revoked because two programs used its keys at once: when that was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied: Option<WallMs>,
    /// With which key it joined.
    pub join_key: JoinKeyId,
    /// When it enrolled.
    pub created: WallMs,
}

impl Record for Gateway {
    const KIND: &'static str = "gateway";
    type Id = GatewayId;
}

/// What a gateway last said of itself. Apart from [`Gateway`], so that no decision stands on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewaySeen {
    /// Which.
    pub id: GatewayId,
    /// From which addresses it speaks to its services.
    pub nat: NatPool,
    /// Where it may be reached, best first.
    pub endpoints: Vec<SocketAddr>,
    /// Its release.
    pub version: String,
}

impl Record for GatewaySeen {
    const KIND: &'static str = "gateway-seen";
    type Id = GatewayId;
}
