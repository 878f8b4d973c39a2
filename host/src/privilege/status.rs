//! What may a thread do, as the kernel tells? /proc/PID/task/TID/status (proc_pid_status(5)).

use std::io;
use std::path::Path;

/// A capability, by its number (linux/capability.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap(pub u8);

impl Cap {
    /// Set process capabilities; here: give up what the bounding set holds.
    pub const SETPCAP: Self = Self(8);
    /// Ports below 1024.
    pub const NET_BIND_SERVICE: Self = Self(10);
    /// Devices, addresses, routes, firewall tables, connection tracking, and the switches below /proc/sys/net.
    pub const NET_ADMIN: Self = Self(12);

    /// Its bit in a set.
    pub const fn bit(self) -> u64 {
        1 << self.0
    }
}

/// What one thread may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ThreadStatus {
    /// Its name.
    pub name: String,
    /// Real, effective, saved and file system user id.
    pub uids: Vec<u32>,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// What an executed program may keep.
    pub inheritable: u64,
    /// What it may use.
    pub permitted: u64,
    /// What it uses.
    pub effective: u64,
    /// What it can ever have.
    pub bounding: u64,
    /// What an executed program has.
    pub ambient: u64,
    /// Whether executing a program can never add anything.
    pub no_new_privileges: bool,
    /// Whether a filter looks at its system calls.
    pub filtered: bool,
}

impl ThreadStatus {
    /// Reads a `status` file.
    pub fn parse(text: &str) -> Option<Self> {
        let line = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':')).map(str::trim);
        let set = |key: &str| u64::from_str_radix(line(key)?, 16).ok();
        let numbers = |key: &str| line(key).map(|l| l.split_whitespace().filter_map(|n| n.parse().ok()).collect());
        Some(Self {
            name: line("Name")?.to_owned(),
            uids: numbers("Uid")?,
            groups: numbers("Groups")?,
            inheritable: set("CapInh")?,
            permitted: set("CapPrm")?,
            effective: set("CapEff")?,
            bounding: set("CapBnd")?,
            ambient: set("CapAmb")?,
            no_new_privileges: line("NoNewPrivs")? == "1",
            filtered: line("Seccomp")? == "2",
        })
    }

    /// Whether it has, and can get, nothing but `caps`; the bounding set alone gives nothing to whom executing adds nothing.
    pub fn is_within(&self, caps: u64) -> bool {
        (self.inheritable | self.permitted | self.effective | self.ambient) & !caps == 0 && self.no_new_privileges
    }
}

/// Every thread of a process, by number. Those that end meanwhile are left out.
pub fn of_all_threads(pid: u32) -> io::Result<Vec<(i32, ThreadStatus)>> {
    of_tasks(&Path::new("/proc").join(pid.to_string()).join("task"))
}

pub(super) fn of_own_threads() -> io::Result<Vec<(i32, ThreadStatus)>> {
    of_tasks(Path::new("/proc/self/task"))
}

fn of_tasks(tasks: &Path) -> io::Result<Vec<(i32, ThreadStatus)>> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(tasks)? {
        let task = task?;
        let Some(number) = task.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(text) = std::fs::read_to_string(task.path().join("status")) else { continue };
        let status = ThreadStatus::parse(&text).ok_or_else(|| io::Error::other("an unknown form of status"))?;
        found.push((number, status));
    }
    Ok(found)
}
