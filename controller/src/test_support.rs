//! What do several tests need? A folder of their own that goes with them.

use std::path::{Path, PathBuf};

/// A folder that is removed when it is dropped.
pub struct Folder(PathBuf);

impl Folder {
    /// A new, empty one.
    pub fn new() -> Self {
        let random: [u8; 8] = host::entropy::random().unwrap();
        let path = std::env::temp_dir().join(format!("umbra-controller-{:016x}", u64::from_le_bytes(random)));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
