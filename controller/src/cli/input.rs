//! Where do policy files, and other files of text, come from?

use model::limits::{POLICY_BYTES_MAX, POLICY_FILES_MAX};
use node::cli::Failure;
use proto::admin::PolicyFile;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

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
    Ok(PolicyFile { name: path.display().to_string(), text: text(path, POLICY_BYTES_MAX)? })
}

fn text(path: &Path, bytes_max: usize) -> io::Result<String> {
    let mut bytes = Vec::new();
    let bound = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(bound).read_to_end(&mut bytes)?;
    if bytes.len() > bytes_max {
        return Err(io::Error::other(format!("it has more than {bytes_max} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8 text"))
}

/// A file of text; an empty one is none.
pub(super) fn text_file(path: &Path, bytes_max: usize) -> Result<String, Failure> {
    match text(path, bytes_max) {
        Ok(text) if text.is_empty() => Err(Failure::failed(format!("{} is empty", path.display()))),
        Ok(text) => Ok(text),
        Err(error) => Err(Failure::failed(format!("cannot read {}: {error}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Folder;

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
