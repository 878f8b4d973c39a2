//! How does a process get, enter and furnish namespaces of its own?
//!
//! Only the lab (`tests/`) uses this: it is what gives each host of a test network its own links, mounts and name.
//! See namespaces(7), user_namespaces(7), mount_namespaces(7).
#![allow(unsafe_code)]

mod packet;

pub use packet::{PacketSocket, open_echo_socket, wait_readable};

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// The kinds of namespace that a host of the lab owns, besides the user namespace that all hosts share.
const HOST_KINDS: [(&str, libc::c_int); 3] =
    [("net", libc::CLONE_NEWNET), ("mnt", libc::CLONE_NEWNS), ("uts", libc::CLONE_NEWUTS)];

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// The effective user id of this process, as its own user namespace counts.
pub fn effective_uid() -> u32 {
    // SAFETY: takes nothing, touches no memory, cannot fail.
    unsafe { libc::geteuid() }
}

fn effective_gid() -> u32 {
    // SAFETY: takes nothing, touches no memory, cannot fail.
    unsafe { libc::getegid() }
}

/// Makes the caller root of a new user namespace in which only its own user exists.
///
/// Errors: the system's refusal (EPERM, ENOSPC), or EINVAL in a process with several threads. Call it before any
/// thread starts, and execute a program afterwards: until then `/proc/self` belongs to the machine's root.
pub fn become_root_of_new_user_namespace() -> io::Result<()> {
    let (uid, gid) = (effective_uid(), effective_gid());
    // SAFETY: a flag word, no memory.
    check(unsafe { libc::unshare(libc::CLONE_NEWUSER) })?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Gives this process a new network namespace.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: a flag word, no memory.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })
}

/// Gives this process network, mount and UTS namespaces of its own. Nothing mounted afterwards is seen outside.
pub fn unshare_host() -> io::Result<()> {
    let flags = HOST_KINDS.iter().fold(0, |all, (_, flag)| all | flag);
    // SAFETY: a flag word, no memory.
    check(unsafe { libc::unshare(flags) })?;
    mount(None, Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE)
}

/// Becomes another user for good, with these groups besides the first. Call it before any thread starts.
pub fn become_account(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and length are those of `groups`.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
    // SAFETY: numbers only.
    check(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: numbers only.
    check(unsafe { libc::setresuid(uid, uid, uid) })
}

/// Starts a session, so that a terminal's interrupt for the parent does not reach this process.
pub fn start_session() -> io::Result<()> {
    // SAFETY: takes nothing, touches no memory.
    if unsafe { libc::setsid() } == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets the host name of the calling process's UTS namespace.
pub fn name_host(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length describe `name`, which outlives the call.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) })
}

fn mount(source: Option<&Path>, target: &Path, kind: Option<&str>, flags: libc::c_ulong) -> io::Result<()> {
    let source = source.map(c_path).transpose()?;
    let target = c_path(target)?;
    let kind = kind.map(CString::new).transpose()?;
    let pointer = |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
    // SAFETY: every pointer is null where mount(2) allows it, or a NUL-terminated string that outlives the call.
    check(unsafe { libc::mount(pointer(&source), target.as_ptr(), pointer(&kind), flags, std::ptr::null()) })
}

/// Shows `source` at `target`, both of which exist.
pub fn mount_bind(source: &Path, target: &Path) -> io::Result<()> {
    mount(Some(source), target, None, libc::MS_BIND | libc::MS_REC)
}

/// Covers the folder `target` with an empty memory file system.
pub fn mount_tmpfs(target: &Path) -> io::Result<()> {
    mount(Some(Path::new("tmpfs")), target, Some("tmpfs"), libc::MS_NOSUID | libc::MS_NODEV)
}

/// Covers `/sys` with the view of this network namespace. A container that hides parts of `/sys` forbids it (EPERM).
pub fn mount_sysfs() -> io::Result<()> {
    mount(Some(Path::new("sysfs")), Path::new("/sys"), Some("sysfs"), libc::MS_NOSUID | libc::MS_NODEV)
}

/// The namespaces of one host, held open: they stay what they are even when the process they were read from is gone.
#[derive(Debug, Clone)]
pub struct Namespaces {
    /// In the order of entering: the user namespace first, where it is not the caller's own.
    doors: Arc<Vec<OwnedFd>>,
    net: u64,
}

impl Namespaces {
    /// Opens the namespaces of process `pid`.
    pub fn of(pid: u32) -> io::Result<Self> {
        let folder = format!("/proc/{pid}/ns");
        let mut doors = Vec::with_capacity(4);
        let user = fs::metadata(format!("{folder}/user"))?;
        if user.ino() != fs::metadata("/proc/self/ns/user")?.ino() {
            doors.push(OwnedFd::from(File::open(format!("{folder}/user"))?));
        }
        for (kind, _) in HOST_KINDS {
            doors.push(OwnedFd::from(File::open(format!("{folder}/{kind}"))?));
        }
        Ok(Self { doors: Arc::new(doors), net: network_of(pid)? })
    }

    /// The kernel's number of the network namespace: equal numbers mean the same namespace.
    pub fn network(&self) -> u64 {
        self.net
    }

    /// Lets `command` run inside these namespaces, in the caller's folder; its program is looked up there.
    pub fn enter<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let doors = self.doors.clone();
        let folder = std::env::current_dir().ok().and_then(|folder| c_path(&folder).ok());
        let enter = move || {
            for door in doors.iter() {
                enter_door(door.as_raw_fd())?;
            }
            if let Some(folder) = &folder {
                // Entering a mount namespace moves to its root; a folder that is hidden here leaves us there.
                // SAFETY: a NUL-terminated string that outlives the call.
                let _moved = unsafe { libc::chdir(folder.as_ptr()) };
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes system calls and allocates nothing.
        unsafe { command.pre_exec(enter) }
    }
}

fn enter_door(door: RawFd) -> io::Result<()> {
    // SAFETY: an open descriptor (the caller holds it) and a flag word; 0 admits any kind of namespace.
    check(unsafe { libc::setns(door, 0) })
}

/// The kernel's number of the network namespace of process `pid`.
pub fn network_of(pid: u32) -> io::Result<u64> {
    Ok(fs::metadata(format!("/proc/{pid}/ns/net"))?.ino())
}

/// Lets the kernel kill `command` when the thread that starts it ends.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    // SAFETY: the closure makes one system call with integers and allocates nothing.
    unsafe { command.pre_exec(|| check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))) }
}

/// A signal that the lab sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: please end.
    Terminate,
    /// SIGKILL: gone at once.
    Kill,
    /// SIGHUP: read the settings again.
    Hangup,
    /// SIGSTOP: stand still.
    Stop,
    /// SIGCONT: go on.
    Continue,
}

impl Signal {
    fn number(self) -> libc::c_int {
        match self {
            Self::Terminate => libc::SIGTERM,
            Self::Kill => libc::SIGKILL,
            Self::Hangup => libc::SIGHUP,
            Self::Stop => libc::SIGSTOP,
            Self::Continue => libc::SIGCONT,
        }
    }
}

/// One process, held by descriptor: never mistaken for a later process with the same number. See pidfd_open(2).
#[derive(Debug)]
pub struct ProcessHandle(OwnedFd);

impl ProcessHandle {
    /// Holds process `pid`. Errors: ESRCH when there is none.
    pub fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: integers only.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(pid), 0) };
        let fd = RawFd::try_from(fd).map_err(|_| io::Error::other("pidfd_open gave a strange descriptor"))?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends `signal`. Errors: ESRCH when the process has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let (fd, number) = (libc::c_long::from(self.0.as_raw_fd()), libc::c_long::from(signal.number()));
        let info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: integers and a null pointer, which pidfd_send_signal(2) allows.
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, number, info, 0) };
        if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits until the process has ended, at most `timeout`; says whether it has.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let mut entry = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let limit = libc::c_int::try_from(timeout.as_millis()).unwrap_or(libc::c_int::MAX);
        // SAFETY: one entry, which outlives the call.
        let ready = unsafe { libc::poll(&raw mut entry, 1, limit) };
        if ready < 0 { Err(io::Error::last_os_error()) } else { Ok(ready > 0) }
    }
}
