//! How do floods of handshakes keep out of the way of data? By a second socket of the same port, with a buffer of its own.
//!
//! The kernel looks at the first byte of each datagram (SO_ATTACH_REUSEPORT_CBPF): data messages of WireGuard (type 4) go to the
//! first socket, everything else to the second. However much of that comes, it fills only its own buffer, and keeps only the
//! thread busy that reads there.
#![allow(unsafe_code)]

use super::open;
use socket2::Socket;
use std::io;
use std::os::fd::AsRawFd;

/// The type of WireGuard's data messages, their first byte (WireGuard paper, section 5.4.6).
const DATA: u32 = 4;

/// A statement of a classic BPF program: `code` with two jumps and a number.
const fn statement(code: u32, jump_true: u8, jump_false: u8, number: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: jump_true, jf: jump_false, k: number }
}

/// Opens the second socket beside one that is bound. On an error, the first one gets everything as before.
pub fn beside(first: &Socket, port: u16, dual: bool) -> io::Result<Socket> {
    // The first was bound without this, so that a port in use was noticed.
    open::set(first, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    let second = open::open_beside(port, dual)?;
    direct(first)?;
    Ok(second)
}

/// Has the kernel choose between the two: by the place in which they were bound.
fn direct(socket: &Socket) -> io::Result<()> {
    let mut program = [
        statement(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, DATA),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, 1),
    ];
    let program = libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_mut_ptr() };
    let len = size_of::<libc::sock_fprog>() as libc::socklen_t;
    let option = libc::SO_ATTACH_REUSEPORT_CBPF;
    // SAFETY: `program` names its statements, and both outlive the call, which copies them.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const program).cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
