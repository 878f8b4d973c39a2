//! Which thread gets the processor first when there is not enough of it?
//!
//! Source: setpriority(2), sched(7): on Linux the nice value belongs to a thread.
#![allow(unsafe_code)]

use std::io;

/// The nice value of the threads that receive data: nine times the weight of the others (sched_prio_to_weight of the kernel).
pub const RECEIVER: i32 = -10;

/// Lets threads of this process take nice values down to this one from now on, also once the process has given up what that
/// takes. EPERM: neither was allowed to it from outside nor does it have CAP_SYS_RESOURCE.
pub fn allow(value: i32) -> io::Result<()> {
    let wanted = libc::rlim_t::try_from(20_i32.saturating_sub(value)).unwrap_or(0);
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes one structure, which outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NICE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur >= wanted {
        return Ok(());
    }
    limit = libc::rlimit { rlim_cur: wanted, rlim_max: limit.rlim_max.max(wanted) };
    // SAFETY: setrlimit reads one structure, which outlives the call.
    match unsafe { libc::setrlimit(libc::RLIMIT_NICE, &raw const limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives the calling thread this nice value, -20 (first) to 19 (last). EACCES or EPERM: less than the present one needs
/// CAP_SYS_NICE or RLIMIT_NICE.
pub fn set_nice(value: i32) -> io::Result<()> {
    // SAFETY: three integers; 0 is the calling thread.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nice value of a thread, the 19th word of its status line (proc_pid_stat(5)).
    fn nice_of(task: &str) -> String {
        let line = std::fs::read_to_string(format!("/proc/{task}/stat")).expect("status");
        let after_name = line.rsplit(") ").next().expect("fields");
        after_name.split(' ').nth(16).expect("nice value").to_owned()
    }

    #[test]
    fn what_was_allowed_once_is_allowed_to_who_has_given_up_the_rest() {
        if !crate::test_support::privileged() {
            return;
        }
        allow(-10).expect("root may");
        allow(-5).expect("less is there");
        std::thread::spawn(|| {
            // SAFETY: three integers. The bare system call, other than the library's function, changes this thread alone.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) }, 0);
            set_nice(-10).expect("allowed");
            assert_eq!(nice_of("thread-self"), "-10");
            let refused = set_nice(-11).expect_err("not allowed");
            assert!(matches!(refused.raw_os_error(), Some(libc::EACCES | libc::EPERM)), "{refused}");
        })
        .join()
        .expect("thread");
    }

    #[test]
    fn a_value_is_the_threads_own() {
        let process = nice_of("self");
        std::thread::spawn(|| {
            set_nice(7).expect("later is always allowed");
            assert_eq!(nice_of("thread-self"), "7");
        })
        .join()
        .expect("thread");
        assert_eq!(nice_of("self"), process);
    }
}
