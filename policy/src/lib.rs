//! THE decision core. May this subject reach this resource now, and why?
//!
//! Policies are written in Cedar and compiled once ([`compile`]); [`decide`] then answers from the compiled
//! [`PolicySet`] and the [`Facts`] of the moment, and from nothing else: no clock, no entropy, no disk.
//!
//! Default deny. A forbid wins over every permit. **A forbid that errs denies, a permit that errs permits nothing.**
//! A fact that is not known is left out of the request, so that a policy which reads it errs.

pub mod access;
mod annotate;
pub mod compile;
pub mod decide;
pub mod diff;
pub mod explain;
pub mod facts;
mod index;
pub mod lint;
mod read;
mod scan;
pub mod schema;
mod scope;
pub mod survey;
#[cfg(test)]
mod tests;
mod text;
pub mod visible;

pub use access::{Access, Need, access};
pub use compile::{Effect, PolicySet, Problem, Rule, compile, compile_while};
pub use decide::{Decision, Reason, decide};
pub use diff::{Diff, diff};
pub use explain::explain;
pub use facts::{Fact, Facts, MFA_METHODS};
pub use lint::{Names, Warning, open_to_all, unknown_names};
pub use survey::{Population, Shift, Shifts, Survey, compare};
pub use visible::{sees, visible};
