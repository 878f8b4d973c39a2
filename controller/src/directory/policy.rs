//! Which policy files are in force?

use crate::store::Record;
use model::time::WallMs;
use serde::{Deserialize, Serialize};

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyFile {
    /// As the administrator called it.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// One revision of the policy: all files or none. The one in force has the id [`PolicyRevision::CURRENT`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRevision {
    /// Counts from 1.
    pub number: u64,
    /// Its files.
    pub files: Vec<PolicyFile>,
    /// When it was applied.
    pub applied: WallMs,
    /// By whom.
    pub applied_by: String,
}

impl PolicyRevision {
    /// The id of the revision in force.
    pub const CURRENT: &'static str = "current";
}

impl Record for PolicyRevision {
    const KIND: &'static str = "policy";
    type Id = str;
}

/// A revision that was in force once, by its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PastPolicy(pub PolicyRevision);

impl Record for PastPolicy {
    const KIND: &'static str = "policy-history";
    type Id = u64;
}
