//! Who is logged in, on which device, until when?

use super::factor::Proof;
use crate::store::Record;
use model::ids::{DeviceId, SessionId, UserId};
use model::limits::CLOCK_BACK_MAX;
use model::time::WallMs;
use serde::{Deserialize, Serialize};

/// A log-in of a user on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Who.
    pub user: UserId,
    /// Where.
    pub device: DeviceId,
    /// When the password was given: the age of the log-in counts from here.
    pub created: WallMs,
    /// When it ends by itself.
    pub ends: WallMs,
    /// It was ended before.
    pub ended: bool,
    /// The newest second factor that was given in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<Proof>,
}

impl Session {
    /// Does it live at `now`? Not before it began, but for a correction of the clock.
    pub fn is_live(&self, now: WallMs) -> bool {
        !self.ended && now < self.ends && self.created.since(now) <= CLOCK_BACK_MAX
    }
}

impl Record for Session {
    const KIND: &'static str = "session";
    type Id = SessionId;
}
