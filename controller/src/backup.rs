//! How does an organisation outlive its machine? As one encrypted file, from which a controller on an empty machine is made.
//!
//! | file | question |
//! |---|---|
//! | `container` | who can open the file? |
//! | `content` | what lies in it, and what of that lives on? |
//! | `make` | how is it made while the controller runs? |
//! | `restore` | how does an organisation begin again from it? |

pub mod container;
pub mod content;
pub mod make;
pub mod restore;

#[cfg(test)]
mod tests;

use crate::store::Record;
use model::revision::Revision;
use model::time::WallMs;
use serde::{Deserialize, Serialize};

/// The restore from which this life of the organisation comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// When it was done.
    pub at: WallMs,
    /// When the backup was made: what changed later is lost.
    pub created: WallMs,
    /// The state that the backup held.
    pub revision: Revision,
    /// Its newest audit record.
    pub audit_seq: u64,
    /// The revision of the policy that was in force then, until one is in force again.
    pub policy: Option<u64>,
}

impl Restored {
    /// The one id.
    pub const ID: &'static str = "self";
}

impl Record for Restored {
    const KIND: &'static str = "restored";
    type Id = str;
}
