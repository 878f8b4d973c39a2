//! How does a message become a train?
#![allow(unsafe_code)]

use super::{Udp, refusal};
use crate::cmsg::Reader;
use model::limits::DATAGRAM_MAX;
use model::packet::Train;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

impl Udp {
    /// Takes messages until one is whole.
    pub(super) fn receive(&self, train: &mut Train, flags: libc::c_int) -> io::Result<()> {
        loop {
            match self.receive_once(train, flags, DATAGRAM_MAX) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if refusal::is_pending(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes one message of at most `bytes_max`; false, and counted, where a part of its bytes, or of what is said about
    /// them, was lost.
    pub(super) fn receive_once(&self, train: &mut Train, flags: libc::c_int, bytes_max: usize) -> io::Result<bool> {
        train.bytes.clear();
        train.bytes.reserve(bytes_max);
        let room = train.bytes.spare_capacity_mut();
        let mut part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len().min(bytes_max) };
        // SAFETY: zeros are a valid sockaddr_storage.
        let mut from: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let mut control = Reader::new();
        // SAFETY: zeros are a valid msghdr.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        control.attach(&mut message);
        // SAFETY: every pointer in `message` names a live buffer with the length given beside it.
        let len = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, flags) };
        let Ok(len) = usize::try_from(len) else {
            return Err(io::Error::last_os_error());
        };
        if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
            self.truncated.fetch_add(1, Ordering::Relaxed);
            return Ok(false);
        }
        // SAFETY: the kernel wrote `len` bytes, at most the room that was reserved (no MSG_TRUNC flag is given).
        unsafe { train.bytes.set_len(len) };
        train.addr = remote(&from)?;
        let about = control.about(&message);
        train.local = about.local;
        train.ecn = about.ecn;
        // A single datagram says its own size, or nothing.
        train.stride = about.segment.filter(|stride| *stride < len).unwrap_or(0);
        Ok(true)
    }
}

/// The sender, IPv4 written plainly.
pub(super) fn remote(from: &libc::sockaddr_storage) -> io::Result<SocketAddr> {
    let address = match i32::from(from.ss_family) {
        libc::AF_INET => {
            // SAFETY: a sockaddr_storage is large and aligned enough for this, and its family says that it holds one.
            let v4 = unsafe { &*(&raw const *from).cast::<libc::sockaddr_in>() };
            SocketAddr::from((Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*(&raw const *from).cast::<libc::sockaddr_in6>() };
            let port = u16::from_be(v6.sin6_port);
            match IpAddr::from(v6.sin6_addr.s6_addr).to_canonical() {
                IpAddr::V4(v4) => SocketAddr::from((v4, port)),
                // The scope is kept: a link-local answer needs it.
                IpAddr::V6(v6_address) => std::net::SocketAddrV6::new(v6_address, port, 0, v6.sin6_scope_id).into(),
            }
        }
        family => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("address family {family}"))),
    };
    Ok(address)
}
