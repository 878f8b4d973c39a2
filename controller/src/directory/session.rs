//! Who is logged in, on which device, until when?

use super::factor::Proof;
use crate::store::Record;
use model::ids::{DeviceId, SessionId, UserId};
use model::limits::CLOCK_BACK_MAX;
use model::time::WallMs;
use serde::{Deserialize, Serialize};

/// When somebody proved who they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proved {
    /// As the log-in began, with a password.
    #[default]
    AtLogin,
    /// Then, at their identity provider.
    At(WallMs),
    /// The provider does not tell.
    Untold,
}

impl Proved {
    /// Is it what most log-ins have?
    pub fn is_at_login(&self) -> bool {
        *self == Self::AtLogin
    }
}

/// A log-in of a user on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Who.
    pub user: UserId,
    /// Where.
    pub device: DeviceId,
    /// When it began.
    pub created: WallMs,
    /// When they proved who they are.
    #[serde(default, skip_serializing_if = "Proved::is_at_login")]
    pub proved: Proved,
    /// When it ends by itself.
    pub ends: WallMs,
    /// It was ended before.
    pub ended: bool,
    /// The newest second factor that was given in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<Proof>,
}

impl Session {
    /// When they proved who they are, if that is known: the age of the log-in counts from here.
    pub const fn proved_at(&self) -> Option<WallMs> {
        match self.proved {
            Proved::AtLogin => Some(self.created),
            Proved::At(at) => Some(at),
            Proved::Untold => None,
        }
    }

    /// Does it live at `now`? Not before it began, but for a correction of the clock.
    pub fn is_live(&self, now: WallMs) -> bool {
        !self.ended && now < self.ends && self.created.since(now) <= CLOCK_BACK_MAX
    }
}

impl Record for Session {
    const KIND: &'static str = "session";
    type Id = SessionId;
}
