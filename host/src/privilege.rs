//! What may a program of ours still do once it runs? CAP_NET_ADMIN at most, nothing new by executing a program, and only the
//! system calls of the list in `calls`: on every thread.
//!
//! | file | question |
//! |---|---|
//! | `status` | what may a thread do, as the kernel tells? |
//! | `threads` | how does every thread of this process give up the same? |
//! | `calls` | which system calls are left? |
//! | `user` | how does a program become somebody else before it starts? |
//!
//! [`confine`] is called once, when everything that takes more is open. It is not undone, and is inherited by what is executed.

mod calls;
mod status;
mod threads;
mod user;

pub use status::{Cap, ThreadStatus, of_all_threads};
pub(crate) use threads::own_capabilities;
pub use user::become_user;

use std::io;
use std::path::PathBuf;

/// Why a program could not give up what it does not need. It must not go on then.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// /proc does not tell.
    #[error("what this process may do cannot be read ({0}): is /proc mounted?")]
    Unreadable(#[source] io::Error),
    /// A thread kept what it had.
    #[error("a thread of this process did not give up its privileges ({0}); this is a defect, please report it")]
    Thread(String),
    /// The kernel refused the filter.
    #[error("the system calls could not be restricted ({0}): the kernel needs CONFIG_SECCOMP_FILTER")]
    Filter(String),
    /// No such account.
    #[error(
        "there is no user `{0}` on this machine: `useradd --system {0}`, or install the file of packaging/sysusers.d"
    )]
    NoUser(String),
    /// Only root can become somebody else.
    #[error("this process may not become user `{user}` ({source}): start it as root, or as that user without --user")]
    Become {
        /// The name.
        user: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A folder that the user could not write.
    #[error("{path} belongs to user id {owner}, not to `{user}`: `chown -R {user}: {path}`")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it must be.
        user: String,
    },
    /// A folder that could not be made.
    #[error("cannot make {path} for user `{user}`: {source}")]
    MakeFolder {
        /// The folder.
        path: PathBuf,
        /// Whose it should be.
        user: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// What is left to a program, besides CAP_NET_ADMIN.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    /// CAP_NET_BIND_SERVICE: it will open a port below 1024 again.
    pub low_ports: bool,
    /// It may execute programs; they have no more than it has itself.
    pub execute: bool,
    /// Its only supplementary group: that of its local socket.
    pub group: Option<u32>,
}

impl Left {
    fn caps(self) -> u64 {
        let low = if self.low_ports { Cap::NET_BIND_SERVICE.bit() } else { 0 };
        Cap::NET_ADMIN.bit() | low
    }
}

/// Gives up, on every thread of this process and for good, whatever `left` does not name. A program that was executed by one
/// that had done so already has nothing to give up, and goes on.
pub fn confine(left: Left) -> Result<(), PrivilegeError> {
    threads::keep_only(left.caps(), left.group)?;
    if !calls::are_restricted() {
        calls::restrict(left.execute)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
