//! Where do passwords and answers come from? From files, the environment, the terminal and standard input, never from the
//! command line.

use super::Failure;
use model::limits::PASSWORD_MAX;
use model::secret::Secret;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write as _};
use std::path::Path;

/// The environment's variable for a password.
const VARIABLE: &str = "UMBRA_PASSWORD";

fn prompt(text: &str) {
    let mut out = io::stderr().lock();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}

/// The password: of the file (`-` is standard input), of the environment, of the terminal, or of standard input.
pub(super) fn password(file: Option<&Path>) -> Result<Secret<String>, Failure> {
    if let Some(path) = file.filter(|p| *p != Path::new("-")) {
        let file = File::open(path).map_err(|e| Failure::failed(format!("cannot read {}: {e}", path.display())))?;
        return one_line(file);
    }
    if file.is_none()
        && let Ok(value) = std::env::var(VARIABLE)
    {
        return one_line(Secret::new(value).expose().as_bytes());
    }
    if io::stdin().is_terminal() {
        prompt("password: ");
        let mut line = String::with_capacity(PASSWORD_MAX + 3);
        let read = host::terminal::read_unseen(&mut line);
        let line = Secret::new(line);
        read.map_err(|e| Failure::failed(format!("the password cannot be read: {e}")))?;
        return one_line(line.expose().as_bytes());
    }
    one_line(io::stdin().lock())
}

/// One line; its end is not part of it.
fn one_line(from: impl Read) -> Result<Secret<String>, Failure> {
    let bound = PASSWORD_MAX + 3;
    let mut bytes = Vec::with_capacity(bound);
    let read = from.take(bound as u64).read_to_end(&mut bytes);
    let bytes = Secret::new(bytes);
    read.map_err(|e| Failure::failed(format!("the password cannot be read: {e}")))?;
    let text = std::str::from_utf8(bytes.expose()).map_err(|_| Failure::failed("the password is not UTF-8 text"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(Failure::failed(format!(
            "there is no password: give it with --password-file, in {VARIABLE}, or on standard input"
        )));
    }
    if text.len() > PASSWORD_MAX || text.contains(['\n', '\r', '\0']) {
        return Err(Failure::failed(format!("the password must be one line of at most {PASSWORD_MAX} bytes")));
    }
    Ok(Secret::new(text.to_owned()))
}

/// The user name, asked for on the terminal when it is not given.
pub(super) fn user(given: Option<String>) -> Result<String, Failure> {
    if let Some(user) = given {
        return Ok(user);
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::failed("whose log-in? pass --user NAME"));
    }
    prompt("user: ");
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(Failure::failed)?;
    Ok(line.trim().to_owned())
}

/// Asks a person; without a terminal the answer is no.
pub(super) fn agree(question: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::failed(
            "there is no terminal to ask on: compare the fingerprint with your administrator, then pass --yes",
        ));
    }
    prompt(&format!("{question} [y/N] "));
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(Failure::failed)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_one_line() {
        let read = |bytes: &[u8]| one_line(bytes).map(|s| s.expose().clone());
        assert_eq!(read(b"secret\n").unwrap(), "secret");
        assert_eq!(read(b" s p \r\n").unwrap(), " s p ");
        for bad in [&b""[..], b"\n", b"a\nb\n", b"a\0b", b"\xff\xfe", &[b'x'; PASSWORD_MAX + 1]] {
            assert!(read(bad).is_err());
        }
    }

    #[test]
    fn a_file_is_read_and_a_missing_one_named() {
        let folder = crate::testkit::Folder::new();
        let path = folder.path().join("password");
        std::fs::write(&path, "correct horse\n").unwrap();
        assert_eq!(password(Some(&path)).unwrap().expose(), "correct horse");
        assert!(password(Some(&folder.path().join("none"))).unwrap_err().text.contains("none"));
    }
}
