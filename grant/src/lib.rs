//! The life of a permission: made by the ledger (controller), held by the table (gateway), ended by a lease or a revoke.
//!
//! Pure: time comes in as [`model::time::Instant`], random ids as arguments; nothing here waits or reads a clock.

mod book;
pub mod fanout;
mod index;
pub mod lease;
pub mod ledger;
pub mod record;
pub mod restore;
pub mod revoke;
pub mod sync;
pub mod table;
pub mod verified;
pub mod view;

pub use fanout::{Renewal, Restarted, Standing};
pub use lease::Moment;
pub use ledger::{Granted, Ledger, LedgerError, Permit, Terms};
pub use record::{Cause, GrantRecord, Live, PairingRecord, Tombstone};
pub use restore::{Lost, Records};
pub use revoke::{Revocation, Selector, revoke};
pub use sync::{Delta, Snapshot, Update};
pub use table::{Applied, Ended, Table};
pub use verified::{GrantError, Scope, VerifiedGrant};
pub use view::{PairingView, View};

#[cfg(test)]
mod ledger_tests;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod testkit;
