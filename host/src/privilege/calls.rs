//! Which system calls are left? A list of what the three programs, tokio, sled and the C library use while they run; all others
//! answer ENOSYS, which a library takes as an old kernel, and does without (docs/adr/0010).
#![allow(unsafe_code)]

use super::PrivilegeError;
use libc::{AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, PROT_EXEC, PROT_WRITE};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::io;

/// Allowed with any arguments, on every architecture.
const PLAIN: &[libc::c_long] = &[
    // Files and folders
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_truncate,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_sync_file_range,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fcntl,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    // Sockets that are open, or of the families below
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    // Waiting
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_futex,
    libc::SYS_restart_syscall,
    // Time, chance, and what the machine is
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrusage,
    libc::SYS_times,
    libc::SYS_getrlimit,
    libc::SYS_prlimit64,
    // Memory
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_msync,
    libc::SYS_membarrier,
    // Threads, signals, and who we are
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_set_tid_address,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_getpriority,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_getcpu,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getgroups,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_capget,
    libc::SYS_prctl,
];

/// What only some architectures still have; their C library uses it.
#[cfg(target_arch = "x86_64")]
const OLD: &[libc::c_long] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_getdents,
    libc::SYS_readlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_rename,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_time,
    libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[libc::c_long] = &[];

/// What starting another program takes, besides `clone`: the client's guardian, and the client's own fresh image.
const EXECUTE: &[libc::c_long] = &[libc::SYS_execve, libc::SYS_wait4, libc::SYS_waitid, libc::SYS_setpgid];

/// Sockets: local, IP, and the kernel's own; no raw packets, nothing that is rarely used and rarely looked at.
const FAMILIES: [i32; 4] = [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK];

/// All flags by which `clone` makes namespaces. `clone3` is not on the list, for it cannot be looked into: libraries then
/// use `clone`.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// Types into somebody's terminal; pastes into a console.
const TERMINAL: [u64; 2] = [0x5412, 0x541C];

/// What a query for the personality answers that nothing but our filter refuses in this way.
const ASKED: libc::c_ulong = 0xffff_ffff;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Whether our filter is in force: it answers a question that every kernel, and every other filter, answers differently.
pub(super) fn are_restricted() -> bool {
    // SAFETY: numbers only; 0xffffffff asks and changes nothing (personality(2)).
    let answer = unsafe { libc::syscall(libc::SYS_personality, ASKED) };
    answer == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS)
}

/// Restricts every thread, for good.
pub(super) fn restrict(execute: bool) -> Result<(), PrivilegeError> {
    let filter = |error: seccompiler::BackendError| PrivilegeError::Filter(error.to_string());
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(filter)?;
    let refuse = SeccompAction::Errno(libc::ENOSYS as u32);
    let made = SeccompFilter::new(rules(execute).map_err(filter)?, refuse, SeccompAction::Allow, arch);
    let program: BpfProgram = made.map_err(filter)?.try_into().map_err(filter)?;
    seccompiler::apply_filter_all_threads(&program).map_err(|error| PrivilegeError::Filter(error.to_string()))
}

fn rules(execute: bool) -> Result<Rules, seccompiler::BackendError> {
    let more = if execute { EXECUTE } else { &[] };
    let mut rules: Rules = [PLAIN, OLD, more].concat().into_iter().map(|call| (call, Vec::new())).collect();
    let argument = |number: u8, op: Op, value: u64| SeccompCondition::new(number, Len::Dword, op, value);
    let without = |number: u8, bits: i32| argument(number, Op::MaskedEq(bits as u32 as u64), 0);
    let any = |conditions: Vec<SeccompCondition>| {
        conditions.into_iter().map(|c| SeccompRule::new(vec![c])).collect::<Result<Vec<_>, _>>()
    };
    let families: Result<Vec<_>, _> =
        FAMILIES.iter().map(|family| argument(0, Op::Eq, u64::from(family.unsigned_abs()))).collect();
    rules.insert(libc::SYS_socket, any(families?)?);
    // Its own share of the processor, and no other process's.
    rules.insert(libc::SYS_sched_setattr, any(vec![argument(0, Op::Eq, 0)?])?);
    rules.insert(libc::SYS_socketpair, any(vec![argument(0, Op::Eq, u64::from(AF_UNIX.unsigned_abs()))?])?);
    rules.insert(libc::SYS_clone, any(vec![without(0, NAMESPACES)?])?);
    // No memory that is both written and executed, and none that is written first and executed later.
    rules.insert(libc::SYS_mmap, any(vec![without(2, PROT_EXEC)?, without(2, PROT_WRITE)?])?);
    rules.insert(libc::SYS_mprotect, any(vec![without(2, PROT_EXEC)?])?);
    let typing: Result<Vec<_>, _> = TERMINAL.iter().map(|request| argument(1, Op::Ne, *request)).collect();
    rules.insert(libc::SYS_ioctl, vec![SeccompRule::new(typing?)?]);
    Ok(rules)
}
