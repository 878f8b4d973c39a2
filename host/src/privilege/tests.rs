//! Each test gives up its privileges in a process of its own: this one is started again with the test's name.
#![allow(unsafe_code)]

use super::*;
use crate::test_support::privileged;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::Duration;

const INSIDE: &str = "UMBRA_TEST_CONFINED";

/// Runs `work` in a process of its own, as the only test of it.
fn alone(test: &str, work: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        work();
        return;
    }
    let name = format!("privilege::tests::{test}");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", &name, "--nocapture"]).env(INSIDE, "1").stdin(Stdio::null());
    let output = command.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{}: {text}", output.status);
}

fn errno(answer: libc::c_long) -> i32 {
    if answer == -1 { io::Error::last_os_error().raw_os_error().expect("errno") } else { 0 }
}

#[test]
fn every_thread_gives_up_the_same_and_new_ones_have_no_more() {
    if !privileged() {
        return;
    }
    alone("every_thread_gives_up_the_same_and_new_ones_have_no_more", || {
        let filters = || {
            let status = std::fs::read_to_string("/proc/self/status").expect("status");
            let line = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:")).expect("a count");
            line.trim().parse::<u32>().expect("a number")
        };
        let before = filters();
        let (ready, go) = (Barrier::new(9), Barrier::new(9));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                // Some are at work, some in a system call that waits.
                scope.spawn(|| {
                    ready.wait();
                    (0..200).for_each(|_| std::thread::sleep(Duration::from_millis(1)));
                    go.wait();
                });
                scope.spawn(|| {
                    ready.wait();
                    go.wait();
                });
            }
            ready.wait();
            confine(Left { group: Some(4242), ..Left::default() }).expect("confined");
            let late = std::thread::Builder::new().name("late".to_owned());
            late.spawn_scoped(scope, || {
                let own = of_all_threads(std::process::id()).expect("status");
                assert!(own.len() >= 10 && own.iter().any(|(_, status)| status.name == "late"), "{own:?}");
                for (_, status) in own {
                    let net_admin = Cap::NET_ADMIN.bit();
                    assert_eq!((status.permitted, status.effective), (net_admin, net_admin), "{status:?}");
                    assert_eq!(status.bounding, net_admin, "{status:?}");
                    assert!(status.is_within(net_admin) && status.filtered, "{status:?}");
                    assert_eq!(status.groups, [4242], "{status:?}");
                }
            })
            .expect("a thread starts as before");
            go.wait();
        });
        // Again: nothing to do, and no second filter.
        confine(Left::default()).expect("confined already");
        assert_eq!(filters(), before + 1);
    });
}

#[test]
fn what_is_not_on_the_list_is_not_there() {
    alone("what_is_not_on_the_list_is_not_there", || {
        assert!(!calls::are_restricted());
        confine(Left::default()).expect("confined");
        assert!(calls::are_restricted());
        let zero: libc::c_long = 0;
        for call in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_bpf,
            libc::SYS_kexec_load,
            libc::SYS_keyctl,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_io_uring_setup,
            libc::SYS_clone3,
            libc::SYS_setuid,
            libc::SYS_kill,
        ] {
            // SAFETY: were one let through, it would refuse null pointers and zeros.
            assert_eq!(errno(unsafe { libc::syscall(call, zero, zero, zero, zero, zero) }), libc::ENOSYS, "{call}");
        }
        let socket = |family: i32| {
            // SAFETY: numbers only.
            let answer = errno(libc::c_long::from(unsafe { libc::socket(family, libc::SOCK_DGRAM, 0) }));
            answer != libc::ENOSYS
        };
        assert!(!socket(libc::AF_PACKET) && !socket(libc::AF_VSOCK) && !socket(libc::AF_ALG));
        assert!(socket(libc::AF_INET) && socket(libc::AF_INET6) && socket(libc::AF_UNIX));
        let (read, write, exec) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
        let map = |protection: i32| {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // SAFETY: a fresh mapping that nobody uses.
            let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
            (page != libc::MAP_FAILED).then_some(page)
        };
        assert!(map(write | exec).is_none() && map(read | exec).is_some());
        let page = map(read | write).expect("memory");
        // SAFETY: the page above.
        assert_ne!(unsafe { libc::mprotect(page, 4096, read | exec) }, 0);
        let namespace = libc::c_long::from(libc::CLONE_NEWUSER);
        // SAFETY: it is refused.
        let answer = unsafe { libc::syscall(libc::SYS_clone, namespace, zero, zero, zero, zero) };
        assert_eq!(errno(answer), libc::ENOSYS);
        assert!(Command::new("true").status().is_err(), "nothing is executed");
    });
}

#[test]
fn who_may_execute_hands_on_no_more_than_it_has() {
    if !privileged() {
        return;
    }
    alone("who_may_execute_hands_on_no_more_than_it_has", || {
        confine(Left { execute: true, low_ports: true, ..Left::default() }).expect("confined");
        let output = Command::new("cat").arg("/proc/self/status").output().expect("cat runs");
        let status = ThreadStatus::parse(&String::from_utf8_lossy(&output.stdout)).expect("a status");
        let caps = Cap::NET_ADMIN.bit() | Cap::NET_BIND_SERVICE.bit();
        assert_eq!((status.permitted, status.bounding), (caps, caps), "{status:?}");
        assert!(status.is_within(caps) && status.filtered, "{status:?}");
    });
}

#[test]
fn a_user_has_what_a_start_takes_and_keeps_what_is_left() {
    if !privileged() {
        return;
    }
    alone("a_user_has_what_a_start_takes_and_keeps_what_is_left", || {
        let nobody = crate::accounts::user("nobody").expect("an account that every system has");
        let folder = crate::test_support::Folder::new();
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        let (state, foreign) = (folder.path().join("lib/state"), folder.path().join("foreign"));
        std::fs::create_dir(&foreign).expect("folder");
        // The test harness has threads of its own, which stay as they are: this one stands for the whole program.
        let refused = become_user("nobody", &[(&foreign, 0o700)]);
        assert!(matches!(refused, Err(PrivilegeError::Folder { owner: 0, .. })), "{refused:?}");
        assert!(matches!(become_user("no-such-user-here", &[]), Err(PrivilegeError::NoUser(_))));
        let shared = folder.path().join("shared");
        std::fs::create_dir(&shared).expect("folder");
        std::os::unix::fs::chown(&shared, Some(0), Some(nobody.gid)).expect("chown");
        std::fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o775)).expect("chmod");
        let refused = become_user("nobody", &[(&shared, 0o755)]);
        assert!(
            matches!(refused, Err(PrivilegeError::Folder { .. })),
            "others of the group would remove ours: {refused:?}"
        );
        std::fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o1775)).expect("chmod");
        become_user("nobody", &[(&state, 0o700), (&shared, 0o755)]).expect("somebody else");
        let about = std::fs::metadata(&state).expect("made");
        use std::os::unix::fs::MetadataExt;
        assert_eq!((about.uid(), about.mode() & 0o7777), (nobody.uid, 0o700));
        std::fs::write(state.join("file"), b"").expect("it is the user's");
        assert!(std::fs::write(foreign.join("file"), b"").is_err());
        // A port below 1024 is opened by the start, and not after it.
        let low = || std::net::UdpSocket::bind("127.0.0.1:1").is_ok();
        assert!(low() && crate::checks::net_admin().is_ok());
        confine(Left::default()).expect("confined");
        assert!(!low() && crate::checks::net_admin().is_ok());
        for (_, status) in of_all_threads(std::process::id()).expect("status") {
            assert_eq!(status.uids, [nobody.uid; 4], "{status:?}");
            assert!(status.is_within(Cap::NET_ADMIN.bit()), "{status:?}");
        }
    });
}
