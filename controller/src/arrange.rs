//! Has a change reached those who enforce it? The seam between administrators' calls, which only commit facts, and the
//! part of the controller that re-decides grants and tells gateways when facts change.

pub mod connect;
pub mod end;
pub mod gateways;
pub mod heads;
pub mod lines;
mod over;
pub mod restore;
pub mod review;
pub mod state;

#[cfg(test)]
mod tests;

pub use state::Arrangements;

use model::ids::{GatewayId, ResourceId, SessionId};
use model::revision::Revision;
use model::time::WallMs;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// What is known about one gateway that held grants which a change ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    /// Which gateway.
    pub gateway: GatewayId,
    /// It acknowledged: published, reset, connection tracking deleted. The gateway says so.
    pub confirmed: bool,
    /// When it did not: how long the longest of the ended grants' leases still runs.
    pub ends_in: Duration,
}

/// A live grant, as administrators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// To what it leads.
    pub resource: ResourceId,
    /// Through which gateway.
    pub gateway: GatewayId,
    /// When it ends unless renewed.
    pub ends: WallMs,
}

/// What comes later.
pub type Fut<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Arranges on gateways what facts demand.
pub trait Arranger: Send + Sync {
    /// Waits until every gateway concerned has acknowledged all changes up to `revision`, at most
    /// [`REVOKE_WAIT_MAX`](model::limits::REVOKE_WAIT_MAX), and tells what is known then.
    fn settled(&self, revision: Revision) -> Fut<'_, Vec<Confirmation>>;

    /// Writes down what waits to be written: the controller stops.
    fn ending(&self) -> Fut<'_, ()> {
        Box::pin(async {})
    }

    /// The live grants of a log-in.
    fn grants_of(&self, session: SessionId) -> Fut<'_, Vec<Held>>;
}

/// Knows no gateway.
#[derive(Debug, Clone, Copy)]
pub struct NoGateways;

impl Arranger for NoGateways {
    fn settled(&self, _: Revision) -> Fut<'_, Vec<Confirmation>> {
        Box::pin(async { Vec::new() })
    }
    fn grants_of(&self, _: SessionId) -> Fut<'_, Vec<Held>> {
        Box::pin(async { Vec::new() })
    }
}
