//! How does the lab take frames off one link and put them on another?
//!
//! Packet sockets (packet(7)) with PACKET_VNET_HDR: a frame carries the kernel's note about unfinished checksums and
//! segments (struct virtio_net_hdr) in front, so that what one virtual link promised the other one still finishes.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, SystemTime};

/// From linux/if_packet.h; libc lacks it.
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// From asm-generic/sockios.h (SIOCGSTAMP_OLD), with `struct timeval` as its answer.
const SIOCGSTAMP: libc::Ioctl = 0x8906;

/// Every frame that arrives at one link, and the way to send frames through that link.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens the link `name` of the calling thread's network namespace. Needs CAP_NET_RAW there.
    pub fn open(name: &str) -> io::Result<Self> {
        let name = CString::new(name)?;
        // SAFETY: a NUL-terminated string that outlives the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // Protocol 0 receives nothing until the bind below names the link.
        // SAFETY: integers only.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nothing else owns it.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        socket.set(libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        socket.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        // SAFETY: an all-zero sockaddr_ll is a valid value of this plain C structure.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = index as libc::c_int;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: pointer and length describe `address`, which outlives the call.
        let bound = unsafe { libc::bind(socket.0.as_raw_fd(), (&raw const address).cast(), length) };
        if bound != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(socket)
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: pointer and length describe `value`, which outlives the call.
        let set = unsafe { libc::setsockopt(self.0.as_raw_fd(), level, option, (&raw const value).cast(), length) };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Lets this many bytes of frames wait to be read, where the user may ask for so many.
    pub fn make_room(&self, bytes: u32) -> io::Result<()> {
        let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        self.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
            .or_else(|_| self.set(libc::SOL_SOCKET, libc::SO_RCVBUF, bytes))
    }

    /// When the kernel took in the frame that `receive` gave last. The first call switches the stamps on, so call it
    /// once before the first frame that counts; ENOENT while there is no stamp.
    pub fn arrived(&self) -> io::Result<SystemTime> {
        let mut stamp = libc::timeval { tv_sec: 0, tv_usec: 0 };
        // SAFETY: the request writes one `timeval` (see its constant), and `stamp` outlives the call.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), SIOCGSTAMP, &raw mut stamp) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        let seconds = u64::try_from(stamp.tv_sec).unwrap_or_default();
        let micros = u64::try_from(stamp.tv_usec).unwrap_or_default();
        Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros))
    }

    /// Reads one frame with its header into `buffer` (64 KiB and 64 bytes hold any); WouldBlock when there is none.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: pointer and length describe `buffer`.
        let count = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    /// Sends a frame as `receive` gave it.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length describe `frame`.
        let count = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if count < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sends up to 64 frames with one call; answers how many went, which may be fewer.
    pub fn send_all(&self, frames: &[&[u8]]) -> io::Result<usize> {
        const AT_ONCE: usize = 64;
        let mut parts = [const { libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 } }; AT_ONCE];
        // SAFETY: zeros are valid mmsghdrs.
        let mut messages: [libc::mmsghdr; AT_ONCE] = unsafe { std::mem::zeroed() };
        for ((frame, part), message) in frames.iter().zip(&mut parts).zip(&mut messages) {
            part.iov_base = frame.as_ptr().cast_mut().cast();
            part.iov_len = frame.len();
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
        }
        let count = frames.len().min(AT_ONCE) as libc::c_uint;
        // SAFETY: each of the first `count` messages names one part, which names a frame; all of them outlive the call, which
        // reads them only.
        let sent = unsafe { libc::sendmmsg(self.0.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// A socket whose datagrams are ICMP or ICMPv6 messages: it sends echo requests and receives their replies (the kernel
/// sets identifier and checksum). Errors: EACCES outside `net.ipv4.ping_group_range`.
pub fn open_echo_socket(ipv6: bool) -> io::Result<UdpSocket> {
    let (family, protocol) =
        if ipv6 { (libc::AF_INET6, libc::IPPROTO_ICMPV6) } else { (libc::AF_INET, libc::IPPROTO_ICMP) };
    // SAFETY: integers only.
    let fd = unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nothing else owns it.
    Ok(UdpSocket::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Waits until one of the two sockets has a frame or `timeout` has passed (none: for ever).
pub fn wait_readable(sockets: [&PacketSocket; 2], timeout: Option<Duration>) -> io::Result<()> {
    let mut entries = sockets.map(|socket| libc::pollfd { fd: socket.0.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let limit = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().min(3600) as libc::time_t,
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), |limit| &raw const *limit);
    // SAFETY: `entries` and `limit` outlive the call, the count is the array's length, no signal mask is given.
    let ready = unsafe { libc::ppoll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, limit, std::ptr::null()) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
    }
    Ok(())
}
