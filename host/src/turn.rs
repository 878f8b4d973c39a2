//! How soon does a thread get a processor when there are too few, and how much of it?
//!
//! Nothing here takes a privilege: a thread asks for shorter turns, so that it waits less for each, and for a smaller share.
//!
//! Source: sched_setattr(2), sched(7), Documentation/scheduler/sched-eevdf.rst: the nice value is a thread's own, and from Linux 6.12
//! on so is its slice, between 0.1 and 100 ms. Older kernels take no notice of the slice.
#![allow(unsafe_code)]

use std::io;
use std::time::Duration;

/// The turns of a thread that sends into the tunnel. What has arrived goes on before more is sent: what waits then, waits in front of
/// the sender's TUN, where flows take turns, and not in a socket, where a question stands behind a whole download.
pub const SENDING: Turn = Turn { slice: Duration::ZERO, nicer: 7 };
/// The turns of a thread that receives out of it: the shortest that there are. Were the sender's as short, the two would change places
/// more often, and carry a tenth less.
pub const RECEIVING: Turn = Turn { slice: Duration::from_micros(100), nicer: 0 };

/// The turns of a thread that hears what anybody may say: who is known to nobody yet comes behind the data of those who are.
pub const HANDSHAKING: Turn = Turn { slice: Duration::from_micros(100), nicer: 12 };

/// How a thread is served.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// Each turn's length; 0 is the kernel's own, about 3 ms.
    slice: Duration,
    /// How much nicer the thread is than it was: each step takes a tenth of the processor's time from it when others want it
    /// (kernel/sched/core.c, sched_prio_to_weight).
    nicer: i32,
}

impl Turn {
    /// Gives the calling thread such turns.
    pub fn take(self) -> io::Result<()> {
        take(self.slice, self.nicer)
    }
}

fn take(slice: Duration, nicer: i32) -> io::Result<()> {
    // SAFETY: two integers; 0 is the calling thread, which is there, so that -1 is a nice value and no error.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let wanted = libc::sched_attr {
        size: u32::try_from(size_of::<libc::sched_attr>()).unwrap_or_default(),
        sched_policy: libc::SCHED_OTHER.unsigned_abs(),
        sched_flags: 0,
        sched_nice: nice.saturating_add(nicer).min(19),
        sched_priority: 0,
        sched_runtime: u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX),
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the structure says its own size and outlives the call; 0 is the calling thread.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slice in nanoseconds and nice value of the calling thread.
    fn own() -> (u64, i32) {
        // SAFETY: a structure of integers.
        let mut found: libc::sched_attr = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::sched_attr>();
        // SAFETY: the structure has room for `size` bytes.
        assert_eq!(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut found, size, 0) }, 0);
        (found.sched_runtime, found.sched_nice)
    }

    #[test]
    fn a_thread_without_privileges_gets_short_turns_and_a_smaller_share_of_its_own() {
        let before = own();
        std::thread::spawn(move || {
            if crate::test_support::privileged() {
                // SAFETY: three integers. The bare system call, other than the library's function, changes this thread alone.
                assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) }, 0);
            }
            RECEIVING.take().expect("a shorter turn is always allowed");
            let (slice, nice) = own();
            assert_eq!(nice, before.1);
            assert!(
                slice == 100_000 || slice == before.0,
                "{slice} ns: neither what was asked for nor an old kernel's"
            );
            SENDING.take().expect("less is always allowed");
            assert_eq!(own(), (before.0, before.1 + SENDING.nicer), "the kernel's own turns again");
            Turn { slice: Duration::ZERO, nicer: 100 }.take().expect("the least there is");
            assert_eq!(own().1, 19);
        })
        .join()
        .expect("thread");
        assert_eq!(own(), before);
    }
}
