//! What is kept of the key that lies in an envelope, for the day when no owner can act any more?

use super::encode;
use super::name::Name;
use crate::store::Record;
use model::time::WallMs;
use serde::{Deserialize, Serialize};

/// The key of the last resort, see `crate::break_glass`. There is one: its id is [`BreakGlass::ID`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakGlass {
    /// SHA-256 of the key, which has 256 random bits.
    #[serde(with = "encode::array")]
    pub hash: [u8; 32],
    /// When it was made.
    pub created: WallMs,
    /// The newest use of a key that nobody has acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<BreakGlassUse>,
}

/// One use of such a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakGlassUse {
    /// When.
    pub at: WallMs,
    /// Who became owner by it.
    pub user: Name,
    /// How many uses nobody has acknowledged, this one included.
    pub times: u32,
}

impl BreakGlass {
    /// The one id.
    pub const ID: &'static str = "key";
}

impl Record for BreakGlass {
    const KIND: &'static str = "break-glass";
    type Id = str;
}
