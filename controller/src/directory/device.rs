//! Which machines are enrolled, and how far are they trusted?

use super::encode;
use super::name::Name;
use crate::store::Record;
use model::ids::{AccountId, DeviceId, JoinKeyId, UserId};
use model::key::PublicKey;
use model::time::WallMs;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv6Addr;

/// How far an administrator trusts a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Enrolled, waits for an administrator; takes part in nothing.
    Pending,
    /// Takes part.
    Confirmed,
    /// Never again. The record stays, so that its key and certificate stay refused.
    Revoked,
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Confirmed => "confirmed",
            Self::Revoked => "revoked",
        })
    }
}

/// An enrolled machine of a user, or of a service account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// Its name, unique among devices; what policies call it.
    pub name: Name,
    /// Who logged in on it first: nobody else can.
    pub user: Option<UserId>,
    /// The service account as which it joined: nobody logs in on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// It is removed when it is gone for [`model::limits::EPHEMERAL_GONE`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
    /// Its WireGuard control key.
    #[serde(with = "encode::key")]
    pub key: PublicKey,
    /// The one that follows it, until its first use.
    #[serde(with = "encode::next_key", default, skip_serializing_if = "Option::is_none")]
    pub next_key: Option<PublicKey>,
    /// Its overlay address.
    pub address: Ipv6Addr,
    /// Number of its IPv4 address (`Pool::device_v4`).
    pub v4: u32,
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

impl Record for Device {
    const KIND: &'static str = "device";
    type Id = DeviceId;
}
