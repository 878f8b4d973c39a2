//! Which ephemeral nodes are silent, and since when? Written down, so that a controller that starts anew does not begin to count.

use crate::store::Record;
use model::ids::DeviceId;
use model::time::WallMs;
use serde::{Deserialize, Serialize};

/// An ephemeral device that was not heard for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vanished {
    /// Which.
    pub device: DeviceId,
    /// When it was last heard, or was to be.
    pub since: WallMs,
}

impl Record for Vanished {
    const KIND: &'static str = "vanished";
    type Id = DeviceId;
}
