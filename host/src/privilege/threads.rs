//! How does every thread of this process give up the same? Capabilities belong to threads: each is sent a signal, and gives
//! them up in the handler, as libpsx and glibc's setuid do. Whether it did is read from /proc, not believed.
#![allow(unsafe_code)]

use super::PrivilegeError;
use super::status::{Cap, ThreadStatus, of_own_threads};
use std::io;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long all threads may take.
const ALL_MAX: Duration = Duration::from_secs(30);
/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(1);
/// How long a thread has to follow a signal before it is sent another.
const AGAIN: Duration = Duration::from_millis(100);
/// `_LINUX_CAPABILITY_VERSION_3` (linux/capability.h): two words of each set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// Numbers in a set.
const CAPS: u8 = 64;

/// What the handler leaves.
static KEPT: AtomicU64 = AtomicU64::new(0);
/// The last refusal that a handler met.
static REFUSED: AtomicI32 = AtomicI32::new(0);
/// One at a time: the handler has one set of orders.
static BUSY: Mutex<()> = Mutex::new(());

/// Leaves every thread of this process `kept` of what it has, and the one supplementary group.
pub(super) fn keep_only(kept: u64, group: Option<u32>) -> Result<(), PrivilegeError> {
    let _alone = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
    let before = of_own_threads().map_err(PrivilegeError::Unreadable)?;
    if before.iter().all(|(_, status)| status.is_within(kept)) {
        return Ok(());
    }
    leave_groups(group);
    // No core files, and no looks into our memory by other programs of the same user.
    prctl(libc::PR_SET_DUMPABLE, 0, 0);
    KEPT.store(kept, Ordering::SeqCst);
    REFUSED.store(0, Ordering::SeqCst);
    // Here first: threads that start from now on have no more.
    give_up();
    let number = libc::SIGRTMIN() + 7;
    // For good: a signal that comes late must find it, and whoever sends one only has the same done again.
    install(number)?;
    reach_all(number, kept)
}

/// A process without privileges cannot leave groups, and has none that root has.
fn leave_groups(group: Option<u32>) {
    let groups: Vec<libc::gid_t> = group.into_iter().collect();
    // SAFETY: the pointer and the length are those of `groups`.
    let done = unsafe { libc::setgroups(groups.len(), groups.as_ptr()) };
    if done != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "the supplementary groups stay");
    }
}

fn reach_all(number: i32, kept: u64) -> Result<(), PrivilegeError> {
    let deadline = Instant::now() + ALL_MAX;
    let mut sent: Vec<(i32, Instant)> = Vec::new();
    loop {
        let mut waiting = of_own_threads().map_err(PrivilegeError::Unreadable)?;
        waiting.retain(|(_, status)| !status.is_within(kept));
        let Some((_, status)) = waiting.first() else { return Ok(()) };
        if Instant::now() > deadline {
            return Err(PrivilegeError::Thread(told(status)));
        }
        for (thread, _) in &waiting {
            let known = sent.iter().position(|(number, _)| number == thread);
            let due = known.and_then(|at| sent.get(at)).is_none_or(|(_, at)| at.elapsed() > AGAIN);
            if due {
                signal(*thread, number);
                sent.retain(|(number, _)| number != thread);
                sent.push((*thread, Instant::now()));
            }
        }
        std::thread::sleep(LOOK);
    }
}

fn told(status: &ThreadStatus) -> String {
    let refused = REFUSED.load(Ordering::SeqCst);
    let why = if refused == 0 { "no answer".to_owned() } else { io::Error::from_raw_os_error(refused).to_string() };
    format!("`{}`, permitted {:x}: {why}", status.name, status.permitted)
}

fn signal(thread: i32, number: i32) {
    // SAFETY: numbers only; a thread that is gone answers ESRCH.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, number) };
}

fn install(number: i32) -> Result<(), PrivilegeError> {
    // SAFETY: zeros are a valid sigaction: no handler, no flags, an empty mask.
    let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
    new.sa_sigaction = on_signal as extern "C" fn(i32) as usize;
    // What is interrupted goes on by itself.
    new.sa_flags = libc::SA_RESTART;
    // SAFETY: the structure outlives the call; the handler only makes system calls and touches atomics.
    let done = unsafe { libc::sigaction(number, &raw const new, std::ptr::null_mut()) };
    if done == 0 { Ok(()) } else { Err(PrivilegeError::Thread(io::Error::last_os_error().to_string())) }
}

extern "C" fn on_signal(_: i32) {
    // SAFETY: errno is this thread's own; who was interrupted must find it as it was.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    give_up();
    // SAFETY: as above.
    unsafe { *errno = before };
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// One word of each of a thread's sets.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Sets {
    /// What it may do.
    pub effective: u32,
    /// What it may take up.
    pub permitted: u32,
    /// What it hands on.
    pub inheritable: u32,
}

/// The calling thread's sets, low words first. In a signal handler, too: one system call.
pub fn own_capabilities() -> io::Result<[Sets; 2]> {
    let mut header = Header { version: CAPABILITY_VERSION, pid: 0 };
    let mut sets = [Sets::default(); 2];
    // SAFETY: capget (version 3) reads one header and writes two sets; both outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    if done == 0 { Ok(sets) } else { Err(io::Error::last_os_error()) }
}

/// After a change of user, by the only thread: uses `caps` again, and lets what it executes have them.
pub(super) fn take_up(caps: u64) -> io::Result<()> {
    let mut header = Header { version: CAPABILITY_VERSION, pid: 0 };
    let words = [caps as u32, (caps >> 32) as u32];
    let sets = words.map(|word| Sets { effective: word, permitted: word, inheritable: word });
    // SAFETY: capset (version 3) reads one header and two sets; both outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The calling thread's part. In a signal handler: system calls and atomics only.
fn give_up() {
    let kept = KEPT.load(Ordering::SeqCst);
    // First, for it takes a capability. Without that, nothing outside of the bounding set can be got by what follows either.
    for cap in (0..CAPS).filter(|cap| kept & Cap(*cap).bit() == 0) {
        // Those that the kernel does not have answer EINVAL.
        prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(cap), 0);
    }
    let mut sets = own_capabilities().unwrap_or_else(|_| {
        noted(-1);
        Default::default()
    });
    for (set, kept) in sets.iter_mut().zip([kept as u32, (kept >> 32) as u32]) {
        set.permitted &= kept;
        set.effective = set.permitted;
        // With the ambient set: what is executed keeps it whoever it runs as.
        set.inheritable = set.permitted;
    }
    let mut header = Header { version: CAPABILITY_VERSION, pid: 0 };
    // SAFETY: capset (version 3) reads one header and two sets; both outlive the call.
    noted(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) });
    // The kernel took out of the ambient set what is permitted no more; the rest goes in.
    for cap in (0..CAPS).filter(|cap| kept & Cap(*cap).bit() != 0) {
        // What is not permitted answers EPERM, which is right.
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong, libc::c_ulong::from(cap));
    }
    noted(prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0));
}

/// prctl(2) as the kernel takes it: words, the unused ones zero.
fn prctl(option: i32, first: libc::c_ulong, second: libc::c_ulong) -> libc::c_long {
    let zero: libc::c_ulong = 0;
    // SAFETY: every option used here takes numbers only.
    unsafe { libc::syscall(libc::SYS_prctl, option, first, second, zero, zero) }
}

fn noted(done: libc::c_long) {
    if done != 0 {
        // SAFETY: errno is this thread's own.
        REFUSED.store(unsafe { *libc::__errno_location() }, Ordering::SeqCst);
    }
}
