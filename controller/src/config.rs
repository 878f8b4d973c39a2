//! Where does the controller keep things, and how long do they last?

use model::limits::{AUTHORITY_LIFE, AUTHORITY_OVERLAP, DEVICES_PER_USER, REVIEW_EVERY, SESSION_LIFE, SVID_LIFE};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where state lies when nothing else is said.
pub const STATE: &str = "/var/lib/umbra/controller";
/// Where administrators' commands go when nothing else is said.
pub const SOCKET: &str = "/run/umbra/controller.sock";

/// How long things last, how often they are looked at, and how many there may be: options of `serve`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A log-in.
    pub session: Duration,
    /// A certificate.
    pub svid: Duration,
    /// Every live grant is decided again after this, without a reason.
    pub review: Duration,
    /// The controller's key and CA.
    pub authority: Duration,
    /// How long these and the next ones are both good.
    pub overlap: Duration,
    /// Devices that one person may log in on.
    pub devices: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            session: SESSION_LIFE,
            svid: SVID_LIFE,
            review: REVIEW_EVERY,
            authority: AUTHORITY_LIFE,
            overlap: AUTHORITY_OVERLAP,
            devices: DEVICES_PER_USER,
        }
    }
}

/// The state folder of one controller. What belongs together is below `org`, which `init` makes in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatePaths {
    root: PathBuf,
}

impl StatePaths {
    /// In this folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// Everything of the organisation.
    pub fn org(&self) -> PathBuf {
        self.root.join("org")
    }
    /// The store.
    pub fn store(&self) -> PathBuf {
        Self::store_in(&self.org())
    }
    /// Records of flows.
    pub fn flows(&self) -> PathBuf {
        self.org().join("flows")
    }
    /// The key under which secrets in the store are sealed.
    pub fn seal_key(&self) -> PathBuf {
        Self::seal_key_in(&self.org())
    }
    /// The owner token, where `init` could not show it on a terminal.
    pub fn owner_token(&self) -> PathBuf {
        self.root.join("owner-token")
    }
    /// The break-glass key, where `init` could not show it on a terminal.
    pub fn break_glass(&self) -> PathBuf {
        self.root.join("break-glass")
    }
    pub(crate) fn store_in(org: &Path) -> PathBuf {
        org.join("store")
    }
    pub(crate) fn seal_key_in(org: &Path) -> PathBuf {
        org.join("seal.key")
    }
}
