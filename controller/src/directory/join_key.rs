//! With which secrets may nodes enrol?

use super::encode;
use crate::store::Record;
use model::ids::{AccountId, JoinKeyId, SiteId};
use model::key::PublicKey;
use model::limits::CLOCK_BACK_MAX;
use model::time::WallMs;
use proto::join::JoinKind;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A secret with which nodes enrol; the secret itself is only in the join file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinKey {
    /// Its id.
    pub id: JoinKeyId,
    /// Which kind of node may join.
    pub kind: JoinKind,
    /// At which site a gateway will stand.
    pub site: Option<SiteId>,
    /// As which service account a device joins; none: as a person's, who logs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// What joins with it is removed when it is gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
    /// How often it could be used.
    pub uses: u32,
    /// How often it still can.
    pub uses_left: u32,
    /// When it was made.
    pub created: WallMs,
    /// When it ends.
    pub expires: WallMs,
    /// An administrator took it back.
    pub revoked: bool,
    /// K_knock, sealed for [`JoinKey::place`].
    #[serde(with = "encode::bytes")]
    pub knock: Vec<u8>,
    /// SHA-256 of T_enrol.
    #[serde(with = "encode::array")]
    pub enrol_hash: [u8; 32],
    /// Who used it: a node that asks again with its WireGuard key gets the same answer and spends nothing.
    pub redeemed: Vec<Redeemed>,
}

/// One use of a join key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redeemed {
    /// The node's WireGuard key.
    #[serde(with = "encode::key")]
    pub key: PublicKey,
    /// The node's id, in text form.
    pub node: String,
}

/// What a join key is good for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinKeyState {
    /// A node may enrol with it.
    Usable,
    /// All uses are spent. Its nodes may still repeat their request.
    Used,
    /// Its time is over.
    Expired,
    /// An administrator took it back.
    Revoked,
}

impl fmt::Display for JoinKeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Usable => "usable",
            Self::Used => "used",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        })
    }
}

impl JoinKey {
    /// What it is good for at `now`.
    pub fn state(&self, now: WallMs) -> JoinKeyState {
        if self.revoked {
            JoinKeyState::Revoked
        } else if self.expires <= now || self.created.since(now) > CLOCK_BACK_MAX {
            JoinKeyState::Expired
        } else if self.uses_left == 0 {
            JoinKeyState::Used
        } else {
            JoinKeyState::Usable
        }
    }
    /// The place to which its K_knock is sealed: its key in the store.
    pub fn place(id: JoinKeyId) -> String {
        format!("{}/{id}", Self::KIND)
    }
}

impl Record for JoinKey {
    const KIND: &'static str = "join-key";
    type Id = JoinKeyId;
}
