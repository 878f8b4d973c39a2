//! Where does the password come from? From a file, the environment, the terminal or standard input, never from the command
//! line.

use model::secret::Secret;
use node::cli::{Failure, input};
use std::path::Path;

/// The environment's variable for a password.
const VARIABLE: &str = "UMBRA_PASSWORD";

/// The password: of the file (`-` is standard input), of the environment, of the terminal, or of standard input.
pub(super) fn password(file: Option<&Path>) -> Result<Secret<String>, Failure> {
    match std::env::var(VARIABLE) {
        Ok(value) if file.is_none() => input::one_line("password", Secret::new(value).expose().as_bytes()),
        _ => input::secret("password", file),
    }
}

/// A code: of the file (`-` is standard input), of the terminal, or of standard input.
pub(super) fn code(file: Option<&Path>) -> Result<Secret<String>, Failure> {
    input::secret("code", file)
}

/// The user name, asked for on the terminal when it is not given.
pub(super) fn user(given: Option<String>) -> Result<String, Failure> {
    given.map_or_else(|| input::line("user", "whose log-in? pass --user NAME"), Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read() {
        let folder = crate::testkit::Folder::new();
        let path = folder.path().join("password");
        std::fs::write(&path, "correct horse\n").unwrap();
        assert_eq!(password(Some(&path)).unwrap().expose(), "correct horse");
    }
}
