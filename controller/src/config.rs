//! Where does the controller keep things?

use std::path::{Path, PathBuf};

/// Where state lies when nothing else is said.
pub const STATE: &str = "/var/lib/umbra/controller";
/// Where administrators' commands go when nothing else is said.
pub const SOCKET: &str = "/run/umbra/controller.sock";

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
    /// The key under which secrets in the store are sealed.
    pub fn seal_key(&self) -> PathBuf {
        Self::seal_key_in(&self.org())
    }
    /// The owner token, where `init` could not show it on a terminal.
    pub fn owner_token(&self) -> PathBuf {
        self.root.join("owner-token")
    }
    pub(crate) fn store_in(org: &Path) -> PathBuf {
        org.join("store")
    }
    pub(crate) fn seal_key_in(org: &Path) -> PathBuf {
        org.join("seal.key")
    }
}
