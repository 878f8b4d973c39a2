//! Where do passwords, tokens and policy files come from? From files and standard input, never from the command line.

use super::Failure;
use model::limits::{PASSWORD_MAX, POLICY_BYTES_MAX, POLICY_FILES_MAX};
use model::secret::Secret;
use proto::admin::PolicyFile;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write as _};
use std::path::{Path, PathBuf};

/// A secret from a file; `-` or nothing is standard input. One line end at its end is not part of it.
pub(super) fn secret(what: &str, file: Option<&Path>) -> Result<Secret<String>, Failure> {
    match file.filter(|path| *path != Path::new("-")) {
        Some(path) => {
            let file = File::open(path).map_err(|e| Failure::failed(format!("cannot read {}: {e}", path.display())))?;
            one_line(what, file)
        }
        None => {
            if io::stdin().is_terminal() {
                let _ = write!(io::stderr(), "{what}: ");
                let mut line = String::new();
                let read = host::terminal::read_unseen(&mut line);
                let line = Secret::new(line);
                read.map_err(|e| Failure::failed(format!("cannot read standard input: {e}")))?;
                return one_line(what, line.expose().as_bytes());
            }
            one_line(what, io::stdin().lock())
        }
    }
}

fn one_line(what: &str, from: impl Read) -> Result<Secret<String>, Failure> {
    let bound = PASSWORD_MAX + 3;
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
    if text.len() > PASSWORD_MAX || text.contains(['\n', '\r', '\0']) {
        return Err(Failure::failed(format!("the {what} must be one line of at most {PASSWORD_MAX} bytes")));
    }
    Ok(Secret::new(text.to_owned()))
}

/// Policy files; of a folder, its `*.cedar` files in order of their names.
pub(super) fn policy_files(paths: &[PathBuf]) -> Result<Vec<PolicyFile>, Failure> {
    let unreadable = |path: &Path, e: io::Error| Failure::failed(format!("cannot read {}: {e}", path.display()));
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut inside = Vec::new();
        for entry in std::fs::read_dir(path).map_err(|e| unreadable(path, e))? {
            let entry = entry.map_err(|e| unreadable(path, e))?.path();
            if entry.extension().is_some_and(|extension| extension == "cedar") {
                inside.push(entry);
            }
        }
        if inside.is_empty() {
            return Err(Failure::failed(format!("{} holds no *.cedar file", path.display())));
        }
        inside.sort();
        files.extend(inside);
    }
    if files.len() > POLICY_FILES_MAX {
        return Err(Failure::failed(format!(
            "{} files are named, at most {POLICY_FILES_MAX} are possible",
            files.len()
        )));
    }
    files.iter().map(|path| policy_file(path).map_err(|e| unreadable(path, e))).collect()
}

fn policy_file(path: &Path) -> io::Result<PolicyFile> {
    let mut bytes = Vec::new();
    let bound = u64::try_from(POLICY_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(bound).read_to_end(&mut bytes)?;
    if bytes.len() > POLICY_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {POLICY_BYTES_MAX} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8 text"))?;
    Ok(PolicyFile { name: path.display().to_string(), text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Folder;

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
    fn folders_mean_their_cedar_files() {
        let folder = Folder::new();
        for name in ["b.cedar", "a.cedar", "notes.txt"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let files = policy_files(&[folder.path().to_owned()]).unwrap();
        assert_eq!(files.iter().map(|f| f.text.as_str()).collect::<Vec<_>>(), ["a.cedar", "b.cedar"]);
        assert!(policy_files(&[folder.path().join("none.cedar")]).unwrap_err().text.contains("none.cedar"));
    }
}
