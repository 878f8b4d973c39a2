//! How is the socket made, and what of what we want does this kernel have?
#![allow(unsafe_code)]

use super::{BUFFER_BYTES, Buffers};
use crate::offload::Steps;
use model::packet::UdpOffloads;
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

/// Opens and binds the socket; says whether it is dual.
pub fn open(port: u16) -> io::Result<(Socket, bool)> {
    match open_dual(port) {
        Ok(socket) => Ok((socket, true)),
        Err(error) if no_ipv6(&error) => Ok((open_v4(port)?, false)),
        Err(error) => Err(error),
    }
}

/// Opens one more of the kind that is bound to the port already.
pub fn open_beside(port: u16, dual: bool) -> io::Result<Socket> {
    if dual { dual_socket(port, true) } else { v4_socket(port, true) }
}

fn open_dual(port: u16) -> io::Result<Socket> {
    dual_socket(port, false)
}

fn dual_socket(port: u16, beside: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, beside.into())?;
    socket.set_only_v6(false)?;
    set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
    set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
    set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)?;
    prepare_v4(&socket)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    Ok(socket)
}

pub fn open_v4(port: u16) -> io::Result<Socket> {
    v4_socket(port, false)
}

fn v4_socket(port: u16, beside: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, beside.into())?;
    prepare_v4(&socket)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    Ok(socket)
}

fn prepare_v4(socket: &Socket) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
    set(socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
    // As WireGuard does: the outer packet may be fragmented, or a narrow path would swallow everything.
    set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT))
}

/// The forced sizes need CAP_NET_ADMIN; the plain ones are cut to the system's limit. Either is only speed.
pub fn enlarge_buffers(socket: &Socket) {
    let bytes = i32::try_from(BUFFER_BYTES).unwrap_or(i32::MAX);
    for (forced, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        if set(socket, libc::SOL_SOCKET, forced, bytes).is_err()
            && let Err(error) = set(socket, libc::SOL_SOCKET, plain, bytes)
        {
            tracing::debug!(%error, "the socket keeps its small buffers");
        }
    }
}

/// What the socket has. The kernel reports twice what was asked for, for its own book-keeping (socket(7)).
pub fn buffers(socket: &Socket) -> Buffers {
    let half = |size: io::Result<usize>| size.map_or(0, |size| size / 2);
    Buffers { receive: half(socket.recv_buffer_size()), send: half(socket.send_buffer_size()) }
}

/// Switches on what is wanted and there; says once what is not.
pub fn offload(socket: &Socket, steps: Steps) -> UdpOffloads {
    // 0 is what the option is at first. A kernel that does not know it would ignore the control message, and send a
    // whole train as one huge datagram.
    let gso = steps.gso && set(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
    let gro = steps.gro && set(socket, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
    let offloads = UdpOffloads { gso, gro };
    if (steps.gso, steps.gro) != (gso, gro) {
        tracing::info!(?offloads, "this kernel lacks segments for UDP sockets: the tunnel is slower");
    }
    offloads
}

pub(super) fn set(socket: &Socket, level: i32, option: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes from `value`, which outlives the call.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
