//! How does a program become somebody else before it starts? As systemd does for `User=` with `AmbientCapabilities=`: the
//! capabilities that a start takes stay, everything else of root goes. Before there is a second thread.
#![allow(unsafe_code)]

use super::PrivilegeError;
use super::status::Cap;
use crate::accounts::{self, Account};
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// What a start takes, and [`super::confine`] takes away: the device, the port, and the means to give up what is left.
const START: [Cap; 3] = [Cap::NET_ADMIN, Cap::NET_BIND_SERVICE, Cap::SETPCAP];

/// Becomes this user, who owns each folder: one that is not there is made, with this mode; one that is somebody else's is
/// refused. Does nothing in a process that is confined already. Called by the only thread of a process.
pub fn become_user(name: &str, folders: &[(&Path, u32)]) -> Result<(), PrivilegeError> {
    if super::calls::are_restricted() {
        // A fresh image of a process that is somebody else already.
        return Ok(());
    }
    let account = accounts::user(name).ok_or_else(|| PrivilegeError::NoUser(name.to_owned()))?;
    let refused = |source| PrivilegeError::Become { user: name.to_owned(), source };
    for (folder, mode) in folders {
        prepare(folder, *mode, name, &account)?;
    }
    if crate::keyfile::own_uid() == account.uid {
        return Ok(());
    }
    check(keep_capabilities()).map_err(refused)?;
    let groups = accounts::groups_of(account.uid);
    // SAFETY: pointer and length are those of `groups`.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) }).map_err(refused)?;
    // SAFETY: numbers only.
    check(unsafe { libc::setresgid(account.gid, account.gid, account.gid) }).map_err(refused)?;
    // SAFETY: numbers only.
    check(unsafe { libc::setresuid(account.uid, account.uid, account.uid) }).map_err(refused)?;
    let start = START.iter().fold(0, |all, cap| all | cap.bit());
    super::threads::take_up(start).map_err(refused)
}

fn keep_capabilities() -> i32 {
    let (one, zero): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: numbers only.
    unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, one, zero, zero, zero) }
}

fn prepare(folder: &Path, mode: u32, user: &str, account: &Account) -> Result<(), PrivilegeError> {
    let failed = |source| PrivilegeError::MakeFolder { path: folder.to_owned(), user: user.to_owned(), source };
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent.filter(|parent| !parent.exists()) {
        // It stays root's: others pass through.
        DirBuilder::new().recursive(true).create(parent).map_err(failed)?;
        set_mode(parent, 0o755).map_err(failed)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        // Just made by us in a folder of root's: nobody can have put a link in its place.
        Ok(()) => {
            let given = std::os::unix::fs::lchown(folder, Some(account.uid), Some(account.gid));
            given.and_then(|()| set_mode(folder, mode)).map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let about = std::fs::symlink_metadata(folder).map_err(failed)?;
            // Root's, where members of the group make files and remove only their own: what tmpfiles.d makes of /run/umbra.
            let shared = about.uid() == 0 && about.gid() == account.gid && about.mode() & 0o1020 == 0o1020;
            let (path, user, owner) = (folder.to_owned(), user.to_owned(), about.uid());
            if owner == account.uid || shared { Ok(()) } else { Err(PrivilegeError::Folder { path, owner, user }) }
        }
        Err(error) => Err(failed(error)),
    }
}

fn set_mode(folder: &Path, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(folder, Permissions::from_mode(mode))
}

fn check(done: i32) -> io::Result<()> {
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
