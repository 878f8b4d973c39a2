//! What can go wrong in the lab, and what is to be done about it?

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A failure of the lab itself, not of what runs in it.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The machine does not let this user build networks.
    #[error("{0}")]
    Forbidden(String),
    /// The machinery failed.
    #[error("{0}: {1}")]
    System(String, #[source] io::Error),
    /// The fabric said why it could not start.
    #[error("the lab's network could not be made: {0}")]
    Fabric(String),
    /// The folder cannot be used.
    #[error("{0} cannot hold the lab's state: {1}")]
    StateFolder(PathBuf, String),
    /// Something did not happen in time.
    #[error("{what} did not happen within {limit:?}; the last lines were:\n{tail}")]
    TooLate {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
        /// What was said until then.
        tail: String,
    },
    /// A program ended before it did what was waited for.
    #[error("{program} ended ({ending}) before {what}; its last lines were:\n{tail}")]
    Ended {
        /// Which program.
        program: String,
        /// How it ended.
        ending: String,
        /// What was waited for.
        what: String,
        /// What it said until then.
        tail: String,
    },
    /// No standing lab.
    #[error("no lab is up in {0}: run `umbra-lab up` first")]
    NotUp(PathBuf),
    /// A standing lab is in the way.
    #[error("a lab is up already in {0}: use it, or run `umbra-lab down` first")]
    AlreadyUp(PathBuf),
}

impl LabError {
    /// For `map_err`: says what was being done when the system refused.
    pub fn while_doing(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |error| Self::System(what, error)
    }
}

/// What to tell somebody whom the system did not let make namespaces.
pub fn explain_refusal(step: &str, error: &io::Error) -> String {
    let setting = |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default().trim().to_owned();
    let remedy = if setting("kernel/apparmor_restrict_unprivileged_userns") == "1" {
        "AppArmor restricts unprivileged user namespaces here: run it with sudo, or allow them with \
         `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
    } else if setting("user/max_user_namespaces") == "0" {
        "user namespaces are switched off here: run it with sudo, or allow them with \
         `sudo sysctl user.max_user_namespaces=10000`"
    } else if setting("kernel/unprivileged_userns_clone") == "0" {
        "unprivileged user namespaces are switched off here: run it with sudo, or allow them with \
         `sudo sysctl kernel.unprivileged_userns_clone=1`"
    } else {
        "run it with sudo; inside a container, start the container with --privileged"
    };
    format!("the lab needs network namespaces, and this system refused them ({step}: {error}): {remedy}")
}

/// Checks that TUN devices can be made; the error is one line that says what to do.
pub fn check_tun() -> Result<(), LabError> {
    let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") else { return Ok(()) };
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "load it with `sudo modprobe tun`; inside a container, pass `--device /dev/net/tun`",
        io::ErrorKind::PermissionDenied => "run it with sudo, or allow it with `sudo chmod 0666 /dev/net/tun`",
        _ => "the kernel needs TUN support (CONFIG_TUN); inside a container, pass `--device /dev/net/tun`",
    };
    Err(LabError::Forbidden(format!("the lab needs /dev/net/tun, and it cannot be opened ({error}): {remedy}")))
}
