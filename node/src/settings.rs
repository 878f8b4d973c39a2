//! What can be changed while a program runs? The file that a service manager gives it as its environment is read again: what
//! is logged changes at once, what takes a restart is named, and a file with a mistake changes nothing.

use crate::cli::set_log;
use model::limits::SETTINGS_BYTES_MAX;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// What is logged.
pub const LOG: &str = "UMBRA_LOG";

/// Why a file of settings was not taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SettingsError {
    /// Not a line of the form.
    #[error("{path}, line {line}: expected NAME=VALUE with a name of A-Z, 0-9 and _; nothing was changed")]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
    },
    /// A filter that is none.
    #[error("{path}: {LOG}: {why}; nothing was changed")]
    Log {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It cannot be read.
    #[error("{path} cannot be read ({why}); nothing was changed")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The answer.
        why: String,
    },
}

/// Where the settings of a program are: `controller`, `gateway`, `client`.
pub fn file_of(program: &str) -> PathBuf {
    PathBuf::from(format!("/etc/umbra/{program}.env"))
}

/// Reads the file again, puts in force what can be, and tells what was done.
pub fn reload(path: &Path) -> Result<String, SettingsError> {
    let settings = read(path)?;
    let log = settings.get(LOG).map(String::as_str);
    set_log(log).map_err(|why| SettingsError::Log { path: path.to_owned(), why })?;
    let differs = |(name, value): &(&String, &String)| {
        name.starts_with("UMBRA_") && name.as_str() != LOG && std::env::var(name).ok().as_ref() != Some(value)
    };
    let waiting: Vec<&str> = settings.iter().filter(differs).map(|(name, _)| name.as_str()).collect();
    let mut done = format!("{} was read again; log: {}", path.display(), log.unwrap_or("as by default"));
    if !waiting.is_empty() {
        done.push_str(&format!("; these take a restart: {}", waiting.join(", ")));
    }
    Ok(done)
}

fn read(path: &Path) -> Result<BTreeMap<String, String>, SettingsError> {
    let unreadable = |why: String| SettingsError::Unreadable { path: path.to_owned(), why };
    let file = std::fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut text = String::new();
    let bound = u64::try_from(SETTINGS_BYTES_MAX).unwrap_or(u64::MAX);
    file.take(bound.saturating_add(1)).read_to_string(&mut text).map_err(|error| unreadable(error.to_string()))?;
    if text.len() > SETTINGS_BYTES_MAX {
        return Err(unreadable(format!("it has more than {SETTINGS_BYTES_MAX} bytes")));
    }
    parse(&text).map_err(|line| SettingsError::Line { path: path.to_owned(), line })
}

/// The form of systemd.exec(5), `EnvironmentFile=`, without continued lines; the error is the number of a line.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>, usize> {
    let mut settings = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let (name, value) = line.split_once('=').ok_or(number)?;
        let letters = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        if name.is_empty() || !name.chars().all(letters) {
            return Err(number);
        }
        let value = value.trim();
        let quoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
        settings.insert(name.to_owned(), quoted.unwrap_or(value).to_owned());
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_names_and_values() {
        let text =
            "# what is logged\nUMBRA_LOG=\"debug,h2=warn\"\n\n; a port\nUMBRA_PORT= 4443 \nOTHER='a b'\nEMPTY=\n";
        let settings = parse(text).unwrap();
        let pairs: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let expected = [("EMPTY", ""), ("OTHER", "a b"), ("UMBRA_LOG", "debug,h2=warn"), ("UMBRA_PORT", "4443")];
        assert_eq!(pairs, expected);
        assert_eq!(parse("A=1\nno line\n"), Err(2));
        assert_eq!((parse("=1"), parse("lower=1"), parse("A B=1")), (Err(1), Err(1), Err(1)));
    }

    #[test]
    fn a_file_that_is_missing_or_too_large_says_so() {
        let path = std::env::temp_dir().join(format!("umbra-settings-{}", std::process::id()));
        assert!(matches!(reload(&path), Err(SettingsError::Unreadable { .. })));
        std::fs::write(&path, "#".repeat(SETTINGS_BYTES_MAX + 1)).unwrap();
        let error = reload(&path).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(error.to_string().contains("more than 65536 bytes; nothing") || error.to_string().contains("65536"));
    }
}
