//! Who has an account?

use super::idp::Identity;
use super::name::Name;
use super::role::AdminRole;
use crate::store::Record;
use model::ids::UserId;
use model::time::WallMs;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// An argon2id hash in PHC form. It has no `Debug` of its contents: a hash in a log can be guessed at.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordHash(pub String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hash]")
    }
}

/// An account: a local one, or that of somebody whom an identity provider knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// Its name, unique; what policies call it.
    pub name: Name,
    /// Its password; who proves at a provider who they are has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<PasswordHash>,
    /// Who this is at an identity provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Groups that it is in.
    pub groups: BTreeSet<Name>,
    /// What it may do to the organisation itself. A disabled user has no session, and so nothing of that.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub roles: BTreeSet<AdminRole>,
    /// A disabled user has no session and cannot get one.
    pub disabled: bool,
    /// Disabled by a restore alone: an administrator may confirm it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restored: bool,
    /// When it was made.
    pub created: WallMs,
}

impl User {
    /// All groups: those that an administrator named, and those by the provider's word.
    pub fn all_groups(&self) -> impl Iterator<Item = &Name> {
        let theirs = self.identity.iter().flat_map(|identity| &identity.groups);
        self.groups.iter().chain(theirs.filter(|group| !self.groups.contains(*group)))
    }
}

impl Record for User {
    const KIND: &'static str = "user";
    type Id = UserId;
}
