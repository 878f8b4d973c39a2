//! How do tests get a network of their own? A thread that leaves for a fresh network namespace; needs CAP_SYS_ADMIN.
#![allow(unsafe_code)]

/// Whether this process may make namespaces and change networks; says "skipped" when not.
pub fn privileged() -> bool {
    // SAFETY: geteuid has no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    let able = root && crate::checks::net_admin().is_ok();
    if !able {
        println!("skipped: needs root");
    }
    able
}

/// Moves the calling thread, and nothing else, into a fresh network namespace with loopback down.
pub fn enter_fresh_namespace() {
    // SAFETY: unshare takes flags by value and changes only the calling thread's view.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(done, 0, "unshare: {}", std::io::Error::last_os_error());
}

/// A folder of mode 0700 that goes with the value.
pub struct Folder(std::path::PathBuf);

impl Folder {
    /// Makes one under the system's temporary folder.
    pub fn new() -> Self {
        let name = format!("umbra-test-{:032x}", u128::from_le_bytes(crate::entropy::random().expect("random")));
        let path = std::env::temp_dir().join(name);
        crate::keyfile::create_folder(&path).expect("a temporary folder");
        Self(path)
    }
    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
