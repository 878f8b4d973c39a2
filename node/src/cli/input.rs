//! Where do passwords, tokens and answers come from? From files, the terminal and standard input, never from the command line.

use super::Failure;
use model::limits::{IDENTITY_TOKEN_MAX, PASSWORD_MAX};
use model::secret::Secret;
use model::text::shown;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write as _};
use std::path::Path;

fn prompt(text: &str) {
    let mut out = io::stderr().lock();
    // A terminal that cannot be written to shows no question; the answer is still read.
    let _ = write!(out, "{}", shown(text)).and_then(|()| out.flush());
}

/// A secret from a file; `-` or nothing is the terminal or standard input. One line end at its end is not part of it.
pub fn secret(what: &str, file: Option<&Path>) -> Result<Secret<String>, Failure> {
    if let Some(path) = file.filter(|path| *path != Path::new("-")) {
        let file = File::open(path).map_err(|e| Failure::failed(format!("cannot read {}: {e}", path.display())))?;
        return one_line(what, file);
    }
    if !io::stdin().is_terminal() {
        return one_line(what, io::stdin().lock());
    }
    prompt(&format!("{what}: "));
    let mut line = String::with_capacity(PASSWORD_MAX + 3);
    let read = host::terminal::read_unseen(&mut line);
    let line = Secret::new(line);
    read.map_err(|e| Failure::failed(format!("the {what} cannot be read: {e}")))?;
    one_line(what, line.expose().as_bytes())
}

/// A token of this machine's own platform, from a file; `-` is standard input.
pub fn token(path: &Path) -> Result<Secret<String>, Failure> {
    if path == Path::new("-") {
        return bounded("token", IDENTITY_TOKEN_MAX, io::stdin().lock());
    }
    let file = File::open(path).map_err(|e| Failure::failed(format!("cannot read {}: {e}", path.display())))?;
    bounded("token", IDENTITY_TOKEN_MAX, file)
}

/// A secret that is one line of UTF-8, at most [`PASSWORD_MAX`] bytes.
pub fn one_line(what: &str, from: impl Read) -> Result<Secret<String>, Failure> {
    bounded(what, PASSWORD_MAX, from)
}

fn bounded(what: &str, bytes_max: usize, from: impl Read) -> Result<Secret<String>, Failure> {
    let bound = bytes_max + 3;
    let mut bytes = Vec::with_capacity(bound);
    let read = from.take(u64::try_from(bound).unwrap_or(u64::MAX)).read_to_end(&mut bytes);
    let bytes = Secret::new(bytes);
    read.map_err(|e| Failure::failed(format!("the {what} cannot be read: {e}")))?;
    let text =
        std::str::from_utf8(bytes.expose()).map_err(|_| Failure::failed(format!("the {what} is not UTF-8 text")))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(Failure::failed(format!("the {what} is empty: give it with a file or on standard input")));
    }
    if text.len() > bytes_max || text.contains(['\n', '\r', '\0']) {
        return Err(Failure::failed(format!("the {what} must be one line of at most {bytes_max} bytes")));
    }
    Ok(Secret::new(text.to_owned()))
}

/// An answer that may be seen; `otherwise` says what to do where there is no terminal to ask on.
pub fn line(question: &str, otherwise: &str) -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::failed(otherwise));
    }
    prompt(&format!("{question}: "));
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(Failure::failed)?;
    Ok(line.trim().to_owned())
}

/// Asks a person whether a fingerprint is the right one; without a terminal there is no yes.
pub fn agree(question: &str) -> Result<bool, Failure> {
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
    fn a_secret_is_one_line() {
        let read = |bytes: &[u8]| one_line("password", bytes).map(|s| s.expose().clone());
        assert_eq!(read(b"secret\n").unwrap(), "secret");
        assert_eq!(read(b"secret\r\n").unwrap(), "secret");
        assert_eq!(read(b" s p ").unwrap(), " s p ");
        for bad in [&b""[..], b"\n", b"a\nb\n", b"a\0b", b"\xff\xfe", &[b'x'; PASSWORD_MAX + 1]] {
            let error = read(bad).unwrap_err();
            assert!(error.text.contains("password"), "{error:?}");
        }
    }

    #[test]
    fn a_token_may_be_longer_than_a_password_and_has_its_own_bound() {
        let read = |bytes: usize| bounded("token", IDENTITY_TOKEN_MAX, vec![b'x'; bytes].as_slice());
        assert_eq!(read(IDENTITY_TOKEN_MAX).unwrap().expose().len(), IDENTITY_TOKEN_MAX);
        assert!(read(IDENTITY_TOKEN_MAX + 1).unwrap_err().text.contains("one line of at most"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = secret("token", Some(Path::new("/nonexistent/token"))).unwrap_err();
        assert!(error.text.contains("/nonexistent/token"), "{error:?}");
    }
}
