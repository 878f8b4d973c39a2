//! What is left to each of the three programs once it runs, and who it is?

use crate::cli::{ADMIN_GROUP, Failure};
use host::accounts;
use host::privilege::{self, Left, PrivilegeError};
use std::path::Path;

/// Modes of the folders of state and of sockets: others pass through to a socket, whose own mode decides.
const STATE_MODE: u32 = 0o700;
const SOCKET_MODE: u32 = 0o755;

/// Gives up what `left` does not name; see [`host::privilege::confine`]. The group of the local socket stays, so that it can be
/// given to it again.
pub fn confine(left: Left) -> Result<(), PrivilegeError> {
    privilege::confine(Left { group: accounts::group_id(ADMIN_GROUP), ..left })
}

/// Becomes a user who owns the state folder and that of the socket. Before there is a second thread.
pub fn become_user(name: &str, state: &Path, socket: &Path) -> Result<(), Failure> {
    let folder = socket.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    privilege::become_user(name, &[(state, STATE_MODE), (folder, SOCKET_MODE)]).map_err(Failure::failed)
}
