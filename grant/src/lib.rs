//! The life of a permission: made by the ledger (controller), held by the table (gateway), ended by a lease or a revoke.
//!
//! Pure: time comes in as [`model::time::Instant`], random ids as arguments; nothing here waits or reads a clock.

pub mod verified;
pub mod view;

pub use verified::{GrantError, Scope, VerifiedGrant};
pub use view::{PairingView, View};
