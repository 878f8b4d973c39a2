//! How do secrets rest on a disk? In files of mode 0600, that appear whole or not at all, and that are read only when
//! nobody else could have read or planted them.

use crate::entropy::{self, EntropyError};
use model::secret::Secret;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why a key file was not written or not read.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// `create` never overwrites.
    #[error("{0} exists already: nothing was changed; remove it first if it is really to be replaced")]
    Exists(PathBuf),
    /// A link could lead to somebody else's file.
    #[error("{0} is a symbolic link: put the file itself there")]
    Link(PathBuf),
    /// A device, a pipe, a folder.
    #[error("{0} is not a regular file")]
    NotAFile(PathBuf),
    /// The folder is no folder.
    #[error("{0} is not a folder (symbolic links are refused)")]
    NotAFolder(PathBuf),
    /// Neither ours nor root's.
    #[error("{path} belongs to user id {owner}: it must belong to this program's user or to root (`chown`)")]
    Owner {
        /// The file or folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Others can read it.
    #[error("{path} has mode {mode:04o}, so others may have read it: replace the secret, then `chmod 0600 {path}`")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Others can put files there.
    #[error("{path} has mode {mode:04o}, so others can put files there: `chmod 0700 {path}`")]
    FolderMode {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// More than the caller's bound.
    #[error("{path} has more than {max} bytes: it is not what is expected there")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound, bytes.
        max: usize,
    },
    /// No name for the temporary file.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The operating system's refusal.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
}

impl KeyFileError {
    /// Whether the file simply is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Writes a file that must not exist yet: mode 0600 whatever the umask, durable when this returns.
pub fn create(path: &Path, secret: &[u8]) -> Result<(), KeyFileError> {
    Temporary::write(path, secret)?.link(path)
}

/// Writes a file in place of what is there: a reader, or a power cut, sees the old one or the new one, whole.
pub fn replace(path: &Path, secret: &[u8]) -> Result<(), KeyFileError> {
    let temporary = Temporary::write(path, secret)?;
    std::fs::rename(&temporary.path, path).map_err(failed("replace", path))?;
    // The name is gone: nothing is left to clean up.
    std::mem::forget(temporary);
    sync_folder(path)
}

/// Reads a file of at most `max` bytes. It must be a regular file of ours or of root, closed to group and others.
pub fn read(path: &Path, max: usize) -> Result<Secret<Vec<u8>>, KeyFileError> {
    read_closed_to(0o077, path, max)
}

/// Reads a credential that a service manager laid into a folder for this program alone (systemd.exec(5)). As `read`, but its
/// group may have the right to read it: so shows an access list that names our user.
pub fn read_credential(path: &Path, max: usize) -> Result<Secret<Vec<u8>>, KeyFileError> {
    read_closed_to(0o037, path, max)
}

fn read_closed_to(closed: u32, path: &Path, max: usize) -> Result<Secret<Vec<u8>>, KeyFileError> {
    // O_NONBLOCK: opening a pipe that somebody planted must not hang.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file =
        OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|source| match source.raw_os_error() {
            Some(libc::ELOOP) => KeyFileError::Link(path.to_owned()),
            _ => failed("open", path)(source),
        })?;
    // Of the open file, not of the name: what is checked is what is read.
    let about = file.metadata().map_err(failed("examine", path))?;
    if !about.is_file() {
        return Err(KeyFileError::NotAFile(path.to_owned()));
    }
    check_owner(path, about.uid())?;
    let mode = about.mode() & 0o7777;
    if mode & closed != 0 {
        return Err(KeyFileError::Mode { path: path.to_owned(), mode });
    }
    // Room for everything at once: a buffer that grows would leave copies of the secret behind.
    let mut secret = Vec::with_capacity(max.saturating_add(1));
    let bound = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let read = file.take(bound).read_to_end(&mut secret).map_err(failed("read", path));
    let secret = Secret::new(secret);
    read?;
    if secret.expose().len() > max {
        return Err(KeyFileError::TooLarge { path: path.to_owned(), max });
    }
    Ok(secret)
}

/// Makes a folder of mode 0700, with its parents; one that is there must be ours or root's, and closed to writers.
pub fn create_folder(path: &Path) -> Result<(), KeyFileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make the folder", path))?;
    let about = std::fs::symlink_metadata(path).map_err(failed("examine", path))?;
    if !about.is_dir() {
        return Err(KeyFileError::NotAFolder(path.to_owned()));
    }
    check_owner(path, about.uid())?;
    let mode = about.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(KeyFileError::FolderMode { path: path.to_owned(), mode });
    }
    Ok(())
}

/// From here on nothing that this process makes is open to others, whatever makes it: libraries choose no modes. What is to be
/// open is opened after it was made.
#[allow(unsafe_code)]
pub fn close_umask() {
    // SAFETY: takes a number, and cannot fail.
    unsafe { libc::umask(0o077) };
}

/// Our own effective user id.
#[allow(unsafe_code)]
pub fn own_uid() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

fn check_owner(path: &Path, owner: u32) -> Result<(), KeyFileError> {
    if owner == own_uid() || owner == 0 { Ok(()) } else { Err(KeyFileError::Owner { path: path.to_owned(), owner }) }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyFileError {
    move |source| KeyFileError::Io { action, path: path.to_owned(), source }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A new name is durable once its folder is.
fn sync_folder(path: &Path) -> Result<(), KeyFileError> {
    let folder = folder_of(path);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync the folder", folder))
}

/// A file that is written piece by piece and must not exist yet: mode 0600, and there only once it is whole.
pub struct Fresh {
    goal: PathBuf,
    temporary: Temporary,
    file: File,
}

impl Fresh {
    /// Begins one. What is in the way is told now, and not after the work.
    pub fn create(goal: &Path) -> Result<Self, KeyFileError> {
        if std::fs::symlink_metadata(goal).is_ok() {
            return Err(KeyFileError::Exists(goal.to_owned()));
        }
        let (temporary, file) = Temporary::create(goal)?;
        Ok(Self { goal: goal.to_owned(), temporary, file })
    }

    /// Adds to it.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), KeyFileError> {
        self.file.write_all(bytes).map_err(failed("write", &self.goal))
    }

    /// Puts it in place, durable when this returns. Without this call it goes.
    pub fn keep(self) -> Result<(), KeyFileError> {
        self.file.sync_all().map_err(failed("sync", &self.goal))?;
        self.temporary.link(&self.goal)
    }
}

/// A written, synced file beside its goal; removed on drop.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn write(goal: &Path, secret: &[u8]) -> Result<Self, KeyFileError> {
        let (temporary, mut file) = Self::create(goal)?;
        let written = file.write_all(secret).and_then(|()| file.sync_all());
        written.map_err(failed("write", &temporary.path))?;
        Ok(temporary)
    }

    /// A hard link fails where a rename would replace, and never follows a link at `path`.
    fn link(self, path: &Path) -> Result<(), KeyFileError> {
        std::fs::hard_link(&self.path, path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.to_owned()),
            _ => failed("create", path)(source),
        })?;
        drop(self);
        sync_folder(path)
    }

    fn create(goal: &Path) -> Result<(Self, File), KeyFileError> {
        let name = goal.file_name().ok_or_else(|| KeyFileError::NotAFile(goal.to_owned()))?;
        let suffix = u64::from_le_bytes(entropy::random()?);
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{suffix:016x}.tmp"));
        let path = folder_of(goal).join(hidden);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        // Whoever reads this knows the goal, and nothing of what lies beside it for a moment.
        let file = options.open(&path).map_err(failed("create", goal))?;
        let temporary = Self { path };
        // A umask can only have taken bits away; give the owner's back.
        file.set_permissions(Permissions::from_mode(0o600)).map_err(failed("write", &temporary.path))?;
        Ok((temporary, file))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a temporary key file could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Folder;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("metadata").mode() & 0o7777
    }

    fn names(folder: &Folder) -> Vec<String> {
        let entries = std::fs::read_dir(folder.path()).expect("folder");
        entries.map(|entry| entry.expect("entry").file_name().into_string().expect("name")).collect()
    }

    #[test]
    fn created_once_closed_to_others_and_read_back() {
        let folder = Folder::new();
        let path = folder.path().join("key");
        create(&path, b"first").expect("create");
        assert_eq!(mode(&path), 0o600);
        assert!(matches!(create(&path, b"second"), Err(KeyFileError::Exists(_))));
        assert_eq!(read(&path, 5).expect("read").expose(), b"first");
        assert!(matches!(read(&path, 4), Err(KeyFileError::TooLarge { .. })));
        assert_eq!(names(&folder), ["key"], "no temporary file stays, after success or failure");
    }

    #[test]
    fn replaced_whole() {
        let folder = Folder::new();
        let path = folder.path().join("key");
        replace(&path, b"first, and longer").expect("replace nothing");
        replace(&path, b"second").expect("replace");
        assert_eq!(read(&path, 100).expect("read").expose(), b"second");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(names(&folder), ["key"]);
    }

    #[test]
    fn a_failed_replace_leaves_nothing_behind() {
        let folder = Folder::new();
        let path = folder.path().join("a-folder");
        std::fs::create_dir(&path).expect("folder");
        assert!(replace(&path, b"secret").is_err());
        assert_eq!(names(&folder), ["a-folder"]);
    }

    #[test]
    fn links_are_neither_followed_nor_read() {
        let folder = Folder::new();
        let (path, victim) = (folder.path().join("key"), folder.path().join("victim"));
        std::fs::write(&victim, b"untouched").expect("victim");
        std::os::unix::fs::symlink(&victim, &path).expect("link");
        assert!(matches!(read(&path, 100), Err(KeyFileError::Link(_))));
        assert!(matches!(create(&path, b"x"), Err(KeyFileError::Exists(_))));
        replace(&path, b"new").expect("the link itself is replaced");
        assert_eq!(std::fs::read(&victim).expect("victim"), b"untouched");
        assert_eq!(read(&path, 100).expect("read").expose(), b"new");
    }

    #[test]
    fn what_others_may_have_read_or_planted_is_refused() {
        let folder = Folder::new();
        let path = folder.path().join("key");
        create(&path, b"secret").expect("create");
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("chmod");
        let error = read(&path, 100).expect_err("readable by the group");
        assert!(matches!(error, KeyFileError::Mode { mode: 0o640, .. }));
        assert!(error.to_string().contains("0640"), "{error}");
        assert_eq!(read_credential(&path, 100).expect("as a manager lays it there").expose(), b"secret");
        std::fs::set_permissions(&path, Permissions::from_mode(0o604)).expect("chmod");
        assert!(matches!(read_credential(&path, 100), Err(KeyFileError::Mode { mode: 0o604, .. })));

        assert!(matches!(read(folder.path(), 100), Err(KeyFileError::NotAFile(_))));
        assert!(read(&folder.path().join("none"), 100).expect_err("missing").is_missing());
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
        assert!(matches!(read(&pipe, 100), Err(KeyFileError::NotAFile(_))), "and it does not hang");
    }

    #[test]
    fn a_strangers_file_is_refused() {
        if own_uid() != 0 {
            println!("skipped: needs root");
            return;
        }
        let folder = Folder::new();
        let path = folder.path().join("key");
        create(&path, b"secret").expect("create");
        if std::os::unix::fs::chown(&path, Some(4242), None).is_err() {
            println!("skipped: needs several user ids");
            return;
        }
        assert!(matches!(read(&path, 100), Err(KeyFileError::Owner { owner: 4242, .. })));
    }

    #[test]
    fn folders_are_closed_and_open_ones_are_refused() {
        let folder = Folder::new();
        let path = folder.path().join("a/b");
        create_folder(&path).expect("make");
        assert_eq!(mode(&path), 0o700);
        create_folder(&path).expect("again");
        std::fs::set_permissions(&path, Permissions::from_mode(0o777)).expect("chmod");
        assert!(matches!(create_folder(&path), Err(KeyFileError::FolderMode { .. })));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).expect("link");
        assert!(matches!(create_folder(&link), Err(KeyFileError::NotAFolder(_))));
    }
}
