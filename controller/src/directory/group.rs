//! Which groups are there? Who is in one is told by the users and service accounts.

use super::name::Name;
use crate::store::Record;
use model::time::WallMs;
use serde::{Deserialize, Serialize};

/// A group of users and service accounts; its members are told by these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its name, which is also its id.
    pub name: Name,
    /// When it was made.
    pub created: WallMs,
}

impl Group {
    /// The group of those who own the organisation, made by `init`.
    pub const OWNERS: &'static str = "owners";
}

impl Record for Group {
    const KIND: &'static str = "group";
    type Id = Name;
}
