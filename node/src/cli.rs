//! What do the commands of all three programs share?
//!
//! | file | question |
//! |---|---|
//! | `input` | where do passwords and answers come from? |
//! | `log` | what does a running program say, and is each event one line? |
//! | `output` | how are tables, JSON and errors written? |

pub mod input;
mod log;
pub mod output;

pub use log::{set_log, start_log};
pub use output::Output;

use model::limits::{INTERVAL_MAX, INTERVAL_MIN, KEY_LIFE};
use std::time::Duration;

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

/// What this machine calls itself, else `otherwise`.
pub fn host_name(otherwise: &str) -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| otherwise.to_owned())
}

/// A duration as people write it: `500ms`, `90s`, `15m`, `1h`, `7d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{}` is not a duration (expected forms: 500ms, 90s, 15m, 1h, 7d)", text.escape_default());
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(ms).map(Duration::from_millis).ok_or_else(wrong)
}

/// A duration within bounds, for options.
pub fn duration_within(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let wanted = duration(text)?;
    if wanted < least || wanted > most {
        let s = |d: Duration| output::span(u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        return Err(format!("it must be from {} to {}", s(least), s(most)));
    }
    Ok(wanted)
}

/// An interval that can be configured, from [`INTERVAL_MIN`] to [`INTERVAL_MAX`].
pub fn interval(text: &str) -> Result<Duration, String> {
    duration_within(text, INTERVAL_MIN, INTERVAL_MAX)
}

/// The life of a control key, from [`INTERVAL_MIN`] to [`KEY_LIFE`].
pub fn key_life(text: &str) -> Result<Duration, String> {
    duration_within(text, INTERVAL_MIN, KEY_LIFE)
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

    #[test]
    fn durations_are_read_as_people_write_them_and_kept_within_bounds() {
        let ms = |text| duration(text).map(|d| d.as_millis());
        assert_eq!(
            (ms("500ms"), ms("90s"), ms("15m"), ms("1h"), ms("7d")),
            (Ok(500), Ok(90_000), Ok(900_000), Ok(3_600_000), Ok(604_800_000))
        );
        for bad in ["", "1", "h", "1y", "-1s", "99999999999999999999s", "1 h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(interval("1s").is_ok() && interval("60s").is_ok());
        assert!(interval("999ms").is_err() && interval("2m").is_err());
        let most = INTERVAL_MAX.as_millis();
        assert!(interval(&format!("{most}ms")).is_ok() && interval(&format!("{}ms", most + 1)).is_err());
    }
}
