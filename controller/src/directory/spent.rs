//! Which tokens have let a machine in? Each does so once.

use super::encode;
use crate::store::Record;
use model::ids::JoinKeyId;
use model::key::PublicKey;
use model::time::WallMs;
use serde::{Deserialize, Serialize};

/// A token that was used, under its number or hash (`crate::federation::number`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpentToken {
    /// By which rule.
    pub trust: JoinKeyId,
    /// By which machine: it alone may repeat its request, and gets the same answer.
    #[serde(with = "encode::key")]
    pub key: PublicKey,
    /// When the token ends by itself.
    pub expires: WallMs,
}

impl Record for SpentToken {
    const KIND: &'static str = "spent-token";
    type Id = str;
}
