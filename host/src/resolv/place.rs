//! How is a file swapped that may be a link, a bind mount, or not there? And how is it described, so that it can come
//! back the same?

use super::{MARKER, ResolvError};
use crate::entropy;
use model::limits::RESOLV_CONF_BYTES_MAX;
use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown, symlink};
use std::path::{Path, PathBuf};

/// Mode of ours: every program of the machine resolves names.
const MODE: u32 = 0o644;

/// Mode and owners of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    mode: u32,
    uid: u32,
    gid: u32,
}

/// What was at the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Original {
    /// Nothing.
    Absent,
    /// A symbolic link, and its target as it stands there.
    Link(OsString),
    /// A file.
    File(Rights, Vec<u8>),
}

impl Original {
    /// What is there now.
    pub fn of(path: &Path) -> Result<Self, ResolvError> {
        let about = match std::fs::symlink_metadata(path) {
            Ok(about) => about,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::Absent),
            Err(error) => return Err(failed("examine", path)(error)),
        };
        if about.is_symlink() {
            let target = std::fs::read_link(path).map_err(failed("read the link", path))?;
            return Ok(Self::Link(target.into_os_string()));
        }
        let rights = Rights { mode: about.mode() & 0o7777, uid: about.uid(), gid: about.gid() };
        Ok(Self::File(rights, read(path)?.unwrap_or_default()))
    }

    /// Whether a symbolic link is at the path.
    pub fn is_link(path: &Path) -> bool {
        std::fs::symlink_metadata(path).is_ok_and(|about| about.is_symlink())
    }

    /// Whether it is a file of ours.
    pub fn is_marked(&self) -> bool {
        matches!(self, Self::File(_, content) if content.starts_with(MARKER.as_bytes()))
    }

    /// Its content; a link's is what it leads to now.
    pub fn content(&self, path: &Path) -> Result<Vec<u8>, ResolvError> {
        match self {
            Self::Absent => Ok(Vec::new()),
            Self::File(_, content) => Ok(content.clone()),
            // A relative target counts from the link's folder; join leaves an absolute one alone.
            Self::Link(target) => {
                let target = folder(path).join(target);
                let servers = uplinks(&target).map(|file| read(&file)).transpose()?.flatten();
                servers.map_or_else(|| Ok(read(&target)?.unwrap_or_default()), Ok)
            }
        }
    }

    /// One header line, then the content.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Absent => b"absent\n".to_vec(),
            Self::Link(target) => [b"link\n", target.as_bytes()].concat(),
            Self::File(Rights { mode, uid, gid }, content) => {
                [format!("file {mode:o} {uid} {gid}\n").as_bytes(), content].concat()
            }
        }
    }

    /// Reads what `to_bytes` wrote.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (header, rest) = bytes.split_at_checked(end)?;
        let rest = rest.get(1..)?.to_vec();
        let mut words = std::str::from_utf8(header).ok()?.split(' ');
        match words.next()? {
            "absent" => Some(Self::Absent),
            "link" if !rest.is_empty() => Some(Self::Link(OsString::from_vec(rest))),
            "file" => {
                let mode = u32::from_str_radix(words.next()?, 8).ok().filter(|mode| *mode <= 0o7777)?;
                let (uid, gid) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
                Some(Self::File(Rights { mode, uid, gid }, rest))
            }
            _ => None,
        }
    }

    /// Makes the path as it was.
    pub fn put_back(&self, path: &Path) -> Result<(), ResolvError> {
        match self {
            Self::Absent => std::fs::remove_file(path).map_err(failed("remove", path)),
            Self::File(rights, content) => put(path, content, Some(*rights)),
            Self::Link(target) => {
                let beside = beside(path)?;
                let swap = symlink(target, &beside).and_then(|()| std::fs::rename(&beside, path));
                swap.map_err(|error| {
                    let _ = std::fs::remove_file(&beside);
                    failed("put the link back at", path)(error)
                })
            }
        }
    }
}

/// Where systemd-resolved keeps the servers behind its own one: it takes ours for one of its servers while resolv.conf is ours,
/// and would ask us what we ask it.
fn uplinks(target: &Path) -> Option<PathBuf> {
    target.ends_with("systemd/resolve/stub-resolv.conf").then(|| target.with_file_name("resolv.conf"))
}

/// The content of a file; `None` when there is none.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, ResolvError> {
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let bound = u64::try_from(RESOLV_CONF_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut content = Vec::new();
    file.take(bound).read_to_end(&mut content).map_err(failed("read", path))?;
    if content.len() > RESOLV_CONF_BYTES_MAX { Err(ResolvError::TooLarge(path.to_owned())) } else { Ok(Some(content)) }
}

/// Puts the content there: by a rename, so that a reader sees all or nothing; in place where the folder does not allow that
/// (a bind mount, a read-only /etc).
pub fn put(path: &Path, content: &[u8], rights: Option<Rights>) -> Result<(), ResolvError> {
    let swapped = beside(path).map(|beside| {
        let done = write_new(&beside, content, rights).and_then(|()| std::fs::rename(&beside, path));
        if done.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        done
    })?;
    match swapped {
        Ok(()) => Ok(()),
        Err(error) if !Original::is_link(path) && needs_in_place(&error) => write_in_place(path, content),
        Err(error) => Err(failed("replace", path)(error)),
    }
}

fn write_new(path: &Path, content: &[u8], rights: Option<Rights>) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(path)?;
    file.write_all(content)?;
    let mode = rights.map_or(MODE, |rights| rights.mode);
    if let Some(Rights { uid, gid, .. }) = rights {
        fchown(&file, Some(uid), Some(gid))?;
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

/// Over the old content, and then cut: a reader in between sees a mixture, never nothing.
fn write_in_place(path: &Path, content: &[u8]) -> Result<(), ResolvError> {
    let write = |mut file: File| {
        file.write_all(content)?;
        file.set_len(u64::try_from(content.len()).unwrap_or(u64::MAX))?;
        file.sync_all()
    };
    let opened = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path);
    opened.and_then(write).map_err(failed("write", path))
}

fn needs_in_place(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EROFS | libc::EACCES | libc::EPERM | libc::EXDEV))
}

/// A new name in the same folder.
fn beside(path: &Path) -> Result<PathBuf, ResolvError> {
    let suffix = entropy::random().map_err(io::Error::other).map_err(failed("name a file beside", path))?;
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".umbra-{:016x}", u64::from_le_bytes(suffix)));
    Ok(folder(path).join(name))
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ResolvError {
    move |source| ResolvError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_the_stub_of_resolved_are_its_servers() {
        let folder = crate::test_support::Folder::new();
        let resolve = folder.path().join("run/systemd/resolve");
        std::fs::create_dir_all(&resolve).expect("folder");
        let link = Original::Link("run/systemd/resolve/stub-resolv.conf".into());
        let content = || link.content(&folder.path().join("resolv.conf")).expect("content");
        std::fs::write(resolve.join("stub-resolv.conf"), "nameserver 127.0.0.53\n").expect("write");
        assert_eq!(content(), b"nameserver 127.0.0.53\n", "nothing better is there");
        std::fs::write(resolve.join("resolv.conf"), "nameserver 192.0.2.1\n").expect("write");
        assert_eq!(content(), b"nameserver 192.0.2.1\n");
    }

    #[test]
    fn every_original_is_read_as_it_was_written() {
        let rights = Rights { mode: 0o640, uid: 0, gid: 7 };
        let originals = [
            Original::Absent,
            Original::Link("../run/systemd/resolve/stub-resolv.conf".into()),
            Original::File(rights, b"nameserver 192.0.2.1\n".to_vec()),
            Original::File(rights, Vec::new()),
        ];
        for original in originals {
            assert_eq!(Original::from_bytes(&original.to_bytes()), Some(original));
        }
        for damaged in ["", "file\n", "file 999 0 0\n", "link\n", "other\n", "absent"] {
            assert_eq!(Original::from_bytes(damaged.as_bytes()), None, "{damaged:?}");
        }
    }
}
