//! Who is at the local socket? A Unix listener whose connections come with the peer's user, groups and process, as the
//! kernel vouches for them.

use crate::accounts;
use crate::keyfile::own_uid;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// Mode of a socket's folder, whatever the umask.
const FOLDER_MODE: u32 = 0o755;

/// Why there is no local socket.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// A live program answers there.
    #[error("another program answers at {0}: it is running already; stop it first")]
    Running(PathBuf),
    /// Not a left-over of ours.
    #[error("{0} is there and is no socket of this program's user: look at it, and remove it if nobody needs it")]
    Occupied(PathBuf),
    /// Anything else.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The socket or its folder.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
}

/// The other end of a local connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// Group id of the process.
    pub gid: u32,
    /// Process id, where the kernel could tell.
    pub pid: Option<i32>,
    /// Every group of the user by the account database, and `gid`.
    pub groups: Vec<u32>,
}

/// Whether this peer may administer: root, or a member of the group. A group that does not exist has no members.
pub fn may_administer(peer: &Peer, group_name: &str) -> bool {
    peer.uid == 0 || accounts::group_id(group_name).is_some_and(|group| peer.groups.contains(&group))
}

/// A listening Unix socket. Its file goes when this is dropped.
pub struct LocalListener {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

impl LocalListener {
    /// Listens at `path` with this mode (of 0o777) and, if given, this group. A socket that a killed program of ours
    /// left there is replaced; one that answers, or that is somebody else's, is not. Needs a tokio runtime.
    pub fn bind(path: &Path, mode: u32, group: Option<u32>) -> Result<Self, LocalError> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // /run is empty after each start of the machine. Others may pass through; the socket's own mode decides.
        match std::fs::create_dir(folder) {
            Ok(()) => std::fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE))
                .map_err(failed("set the mode of", folder))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("make the folder", folder)(error)),
        }
        // Two programs that start at once must not remove each other's socket as stale.
        let lock = File::open(folder).map_err(failed("open the folder", folder))?;
        lock.lock().map_err(failed("lock the folder", folder))?;
        remove_stale(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).map_err(failed("make", path))?;
        let address = SockAddr::unix(path).map_err(failed("name the socket", path))?;
        socket.bind(&address).map_err(failed("bind", path))?;
        let opened = open_to(path, mode, group).and_then(|inode| {
            // Nobody can connect before this: the mode above was never wider than wanted.
            socket.listen(BACKLOG).map_err(failed("listen at", path))?;
            let listener = std::os::unix::net::UnixListener::from(OwnedFd::from(socket));
            let listener = UnixListener::from_std(listener).map_err(failed("watch", path))?;
            Ok(Self { listener, path: path.to_owned(), inode })
        });
        if opened.is_err() {
            let _ = std::fs::remove_file(path);
        }
        opened
    }

    /// Waits for a connection. An error concerns one connection, or the number of open files: log it, and go on after
    /// a pause. A connection that is being looked up is closed when this future is dropped.
    pub async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.listener.accept().await?;
        let peer = peer_of(&stream).await?;
        Ok((stream, peer))
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LocalListener {
    fn drop(&mut self) {
        // Only our own: a successor may listen at the same path by now.
        if std::fs::symlink_metadata(&self.path).is_ok_and(|about| (about.dev(), about.ino()) == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The peer of a connected stream.
pub async fn peer_of(stream: &UnixStream) -> io::Result<Peer> {
    let credentials = stream.peer_cred()?;
    let (uid, gid, pid) = (credentials.uid(), credentials.gid(), credentials.pid());
    // The account database may ask a directory server.
    let mut groups = tokio::task::spawn_blocking(move || accounts::groups_of(uid)).await.map_err(io::Error::other)?;
    if !groups.contains(&gid) {
        groups.push(gid);
    }
    Ok(Peer { uid, gid, pid, groups })
}

fn remove_stale(path: &Path) -> Result<(), LocalError> {
    let about = match std::fs::symlink_metadata(path) {
        Ok(about) => about,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("examine", path)(error)),
    };
    if !about.file_type().is_socket() || about.uid() != own_uid() {
        return Err(LocalError::Occupied(path.to_owned()));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed("remove the left-over", path))
        }
        // EAGAIN is a full backlog: somebody is there, and busy.
        Ok(_) => Err(LocalError::Running(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(LocalError::Running(path.to_owned())),
        Err(error) => Err(failed("probe", path)(error)),
    }
}

/// Gives the socket its group and mode; answers which file it is.
fn open_to(path: &Path, mode: u32, group: Option<u32>) -> Result<(u64, u64), LocalError> {
    if group.is_some() {
        std::os::unix::fs::chown(path, None, group).map_err(failed("give to the group", path))?;
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode & 0o777)).map_err(failed("set the mode of", path))?;
    let about = std::fs::symlink_metadata(path).map_err(failed("examine", path))?;
    Ok((about.dev(), about.ino()))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LocalError {
    move |source| LocalError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Folder;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_connection_comes_with_who_it_is() {
        let folder = Folder::new();
        let path = folder.path().join("api.sock");
        let listener = LocalListener::bind(&path, 0o660, None).expect("bind");
        let mode = std::fs::metadata(&path).expect("metadata").mode();
        assert_eq!(mode & 0o777, 0o660);
        let (client, accepted) = tokio::join!(UnixStream::connect(&path), listener.accept());
        let (mut stream, peer) = accepted.expect("accept");
        assert_eq!(peer.uid, own_uid());
        assert_eq!(peer.pid, i32::try_from(std::process::id()).ok());
        assert!(peer.groups.contains(&peer.gid));
        client.expect("connect").write_all(b"hi").await.expect("write");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("read");
        assert_eq!(text, "hi");
        drop(listener);
        assert!(!path.exists(), "the file goes with the listener");
    }

    #[tokio::test]
    async fn a_left_over_is_replaced_and_a_live_one_is_not() {
        let folder = Folder::new();
        let path = folder.path().join("api.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a program that is killed leaves its socket"));
        assert!(path.exists());
        let first = LocalListener::bind(&path, 0o600, None).expect("replaces it");
        assert!(matches!(LocalListener::bind(&path, 0o600, None), Err(LocalError::Running(_))));
        assert!(path.exists(), "the live one stays");
        std::fs::remove_file(&path).expect("somebody removes it");
        let second = LocalListener::bind(&path, 0o600, None).expect("a successor");
        drop(first);
        assert!(path.exists(), "the successor's socket is not the first one's to remove");
        drop(second);
    }

    #[tokio::test]
    async fn what_is_no_socket_of_ours_stays() {
        let folder = Folder::new();
        let path = folder.path().join("api.sock");
        std::fs::write(&path, b"precious").expect("write");
        assert!(matches!(LocalListener::bind(&path, 0o600, None), Err(LocalError::Occupied(_))));
        assert_eq!(std::fs::read(&path).expect("read"), b"precious");
        let missing = folder.path().join("none/deeper/api.sock");
        assert!(matches!(LocalListener::bind(&missing, 0o600, None), Err(LocalError::Io { .. })));
        // A folder such as /run/umbra is gone after each start of the machine: it is made.
        let fresh = folder.path().join("run/api.sock");
        assert!(LocalListener::bind(&fresh, 0o600, None).is_ok());
        let mode = std::fs::metadata(folder.path().join("run")).expect("metadata").mode();
        assert_eq!(mode & 0o7777, FOLDER_MODE);
    }

    #[test]
    fn root_and_members_administer_and_nobody_else() {
        let peer = |uid, groups: &[u32]| Peer { uid, gid: 1234, pid: None, groups: groups.to_vec() };
        assert!(may_administer(&peer(0, &[]), "no-such-group-here"));
        assert!(may_administer(&peer(1000, &[7, 0]), "root"));
        assert!(!may_administer(&peer(1000, &[7, 1000]), "root"));
        assert!(!may_administer(&peer(1000, &[0]), "no-such-group-here"));
    }
}
