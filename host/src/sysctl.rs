//! How are the kernel's switches read and set? Files below /proc/sys/net, of the calling thread's network namespace.

use std::io;
use std::path::PathBuf;

/// Why a switch was not set.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// A container with a read-only /proc/sys.
    #[error(
        "{key} is {found} and has to be {wanted}, but {path} cannot be written ({source}): set it outside with \
         `sysctl -w {key}={wanted}`, or start the container with --sysctl {key}={wanted}"
    )]
    ReadOnly {
        /// The switch, with dots.
        key: String,
        /// Its file.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What it should be.
        wanted: String,
        /// The answer.
        source: io::Error,
    },
    /// It is not there, or cannot be read.
    #[error("{key} cannot be read ({source}): is /proc mounted, and the kernel built with it?")]
    Unreadable {
        /// The switch, with dots.
        key: String,
        /// The answer.
        source: io::Error,
    },
}

/// The value of a switch, named by its parts below /proc/sys: an interface's name may itself have dots.
pub(crate) fn read(parts: &[&str]) -> Result<String, SysctlError> {
    let read = std::fs::read_to_string(path(parts)).map(|text| text.trim().to_owned());
    read.map_err(|source| SysctlError::Unreadable { key: parts.join("."), source })
}

/// Sets a switch that is not as wanted yet, and answers what it was: a read-only /proc is no fault when all is well.
pub(crate) fn set(parts: &[&str], wanted: &str) -> Result<String, SysctlError> {
    let found = read(parts)?;
    if found != wanted {
        let path = path(parts);
        std::fs::write(&path, wanted).map_err(|source| SysctlError::ReadOnly {
            key: parts.join("."),
            path,
            found: found.clone(),
            wanted: wanted.to_owned(),
            source,
        })?;
    }
    Ok(found)
}

/// Whether there is such a switch.
pub(crate) fn exists(parts: &[&str]) -> bool {
    path(parts).exists()
}

fn path(parts: &[&str]) -> PathBuf {
    let mut path = PathBuf::from("/proc/sys");
    path.extend(parts);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_set_says_how_to_set_it() {
        // Read-only for everybody: the kernel gives it mode 0444.
        let error = set(&["kernel", "osrelease"], "another").expect_err("read-only");
        let text = error.to_string();
        assert!(text.contains("sysctl -w kernel.osrelease=another"), "{text}");
        let error = read(&["net", "no-such-switch"]).expect_err("missing");
        assert!(matches!(error, SysctlError::Unreadable { .. }));
    }

    #[test]
    fn a_value_that_is_there_already_needs_no_writing() {
        let parts = ["kernel", "osrelease"];
        let value = read(&parts).expect("read");
        assert_eq!(set(&parts, &value).expect("nothing to do"), value);
    }
}
