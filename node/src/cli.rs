//! What do the commands of all three programs share?
//!
//! | file | question |
//! |---|---|
//! | `input` | where do passwords and answers come from? |
//! | `output` | how are tables, JSON and errors written? |

pub mod input;
pub mod output;

pub use output::Output;

use std::io::IsTerminal as _;

/// Members of this group of the machine may give its programs orders, as root may.
pub const ADMIN_GROUP: &str = "umbra";

/// How a command failed. The numbers are documented and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It failed.
    Failed = 1,
    /// It was not understood.
    Usage = 2,
    /// Denied: by policy, or to this caller.
    Denied = 3,
    /// A program that it needs does not answer.
    NotConnected = 4,
}

/// A failure, told in the user's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What a script sees.
    pub exit: Exit,
    /// What a person sees: what happened, and what to do.
    pub text: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(exit: Exit, text: impl ToString) -> Self {
        Self { exit, text: text.to_string() }
    }
    /// It failed.
    pub fn failed(text: impl ToString) -> Self {
        Self::new(Exit::Failed, text)
    }
    /// It was not understood.
    pub fn usage(text: impl ToString) -> Self {
        Self::new(Exit::Usage, text)
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        use tonic::Code;
        let exit = match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => Exit::Denied,
            Code::Unavailable | Code::DeadlineExceeded => Exit::NotConnected,
            _ => Exit::Failed,
        };
        // A program's own answer has no source; a broken connection has.
        let broken = std::error::Error::source(&status).is_some();
        let text = match status.code() {
            Code::Cancelled | Code::DeadlineExceeded => "it was not answered in time: `status` says more".to_owned(),
            Code::Unavailable | Code::Unknown if broken => {
                format!("the program stopped answering ({}): look at its log", status.message())
            }
            _ => status.message().to_owned(),
        };
        Self::new(exit, text)
    }
}

/// Sends the log to standard error; `UMBRA_LOG` chooses what is told, `NO_COLOR` is honoured.
pub fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("UMBRA_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,sled=warn,h2=warn,hyper=warn"));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    // A second start in one process (tests) keeps the first log.
    let _ = log.try_init();
}

/// What this machine calls itself, else `otherwise`.
pub fn host_name(otherwise: &str) -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| otherwise.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_tell_a_refusal_from_silence() {
        let exit = |status: tonic::Status| Failure::from(status).exit;
        assert_eq!(exit(tonic::Status::permission_denied("x")), Exit::Denied);
        assert_eq!(exit(tonic::Status::unauthenticated("x")), Exit::Denied);
        assert_eq!(exit(tonic::Status::unavailable("x")), Exit::NotConnected);
        assert_eq!(exit(tonic::Status::deadline_exceeded("x")), Exit::NotConnected);
        assert_eq!(exit(tonic::Status::internal("x")), Exit::Failed);
        assert_eq!(Failure::from(tonic::Status::unavailable("the client starts")).text, "the client starts");
    }
}
