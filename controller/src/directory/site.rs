//! Where are protected services?

use super::name::Name;
use crate::store::Record;
use model::ids::SiteId;
use model::net::Prefix;
use model::time::WallMs;
use serde::{Deserialize, Serialize};

/// Gateways that reach the same resources, and the prefixes in which those may lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Its id.
    pub id: SiteId,
    /// Its name, unique.
    pub name: Name,
    /// The final destination of every packet lies in one of these.
    pub prefixes: Vec<Prefix>,
    /// When it was made.
    pub created: WallMs,
}

impl Record for Site {
    const KIND: &'static str = "site";
    type Id = SiteId;
}
