//! Which programs on a workload's machines are somebody? Those that an administrator registered.

use crate::store::Record;
use model::ids::{AccountId, RegistrationId};
use model::spiffe::SpiffePath;
use model::time::WallMs;
use serde::{Deserialize, Serialize};

/// Programs of this user (and group) on machines that joined as this account get this SPIFFE id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Its id.
    pub id: RegistrationId,
    /// Whose machines.
    pub account: AccountId,
    /// What follows the account in the SPIFFE id; unique within the account.
    pub path: SpiffePath,
    /// The user that a program runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The group that it runs as. At least one of the two is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// When it was made.
    pub created: WallMs,
}

impl Record for Registration {
    const KIND: &'static str = "registration";
    type Id = RegistrationId;
}
