//! What are programs that need access? Service accounts: what a machine without a person is.

use super::name::Name;
use crate::store::Record;
use model::ids::{AccountId, DeviceId, SessionId};
use model::time::WallMs;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A service account. Machines that join as it need no log-in; policies call it `Workload::"name"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// Its name, unique among users and service accounts.
    pub name: Name,
    /// What it is for, as its administrator says.
    pub description: String,
    /// Groups that it is in, the same as those of users.
    pub groups: BTreeSet<Name>,
    /// Nothing that joined as a disabled one reaches anything, and nothing joins.
    pub disabled: bool,
    /// Disabled by a restore alone: an administrator may confirm it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restored: bool,
    /// When it was made.
    pub created: WallMs,
}

impl Account {
    /// What a workload has in place of a log-in: one for each device, as long as device and account take part.
    pub const fn standing(device: DeviceId) -> SessionId {
        SessionId::from_bytes(*device.as_bytes())
    }
    /// When that ends by itself: never.
    pub const STANDING_ENDS: WallMs = WallMs(i64::MAX);
}

impl Record for Account {
    const KIND: &'static str = "account";
    type Id = AccountId;
}
