//! What may a person do to the organisation itself? Roles of administrators; a user may have several.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A role of an administrator. What each may call stands in `crate::authz::TABLE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdminRole {
    /// All that can be done from afar, roles and keys included.
    Owner,
    /// What an operator may, and who there is: users, groups, providers, service accounts, policy.
    SecurityAdmin,
    /// What there is: sites, gateways, resources, devices, join keys, sessions.
    Operator,
    /// Reads all, changes nothing.
    Auditor,
    /// Reads what approvals are about.
    Approver,
}

impl AdminRole {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Owner, Self::SecurityAdmin, Self::Operator, Self::Auditor, Self::Approver];

    /// As it is typed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::SecurityAdmin => "security-admin",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::Approver => "approver",
        }
    }
}

impl fmt::Display for AdminRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// There is no such role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no such role: the roles are owner, security-admin, operator, auditor and approver")]
pub struct NoSuchRole;

impl FromStr for AdminRole {
    type Err = NoSuchRole;
    fn from_str(text: &str) -> Result<Self, NoSuchRole> {
        Self::ALL.into_iter().find(|role| role.name() == text).ok_or(NoSuchRole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_read_and_kept_as_it_is_typed() {
        for role in AdminRole::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
            assert_eq!(serde_json::to_string(&role).unwrap(), format!("\"{role}\""));
            assert!(NoSuchRole.to_string().contains(role.name()));
        }
        for bad in ["", "Owner", "owner ", "root"] {
            assert_eq!(bad.parse::<AdminRole>(), Err(NoSuchRole));
        }
    }
}
