//! How do datagrams get between the network and us? One dual-stack UDP socket that knows, for each datagram, the local
//! address it came to, and that answers from there.
#![allow(unsafe_code)]

use crate::cmsg::{Reader, Writer};
use model::limits::DATAGRAM_MAX;
use model::packet::{Local, Train};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// Socket buffers, bytes, each way: what a 10 Gbit/s burst of 5 ms needs. wireguard-go asks for the same.
pub const BUFFER_BYTES: usize = 7 << 20;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum UdpError {
    /// Somebody else has the port.
    #[error(
        "port {0}/udp is in use: `ss -lunp 'sport = :{0}'` shows by which program; stop it, or choose another port"
    )]
    PortInUse(u16),
    /// A port below 1024.
    #[error("port {0}/udp needs CAP_NET_BIND_SERVICE: run as root, or choose a port above 1023")]
    Privileged(u16),
    /// Anything else.
    #[error("cannot open the UDP port {port}: {source}")]
    Open {
        /// The port that was asked for.
        port: u16,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// What became of the datagrams of one `send`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// Datagrams that the kernel took.
    pub datagrams: usize,
    /// Datagrams that it refused (no route, full buffers); they are lost like any datagram on its way.
    pub dropped: usize,
}

/// The one outside socket of a node. Shared by reference between threads.
pub struct Udp {
    socket: Socket,
    port: u16,
    /// Whether the socket is IPv6 and sees IPv4 as mapped addresses.
    dual: bool,
    dropped: AtomicU64,
}

impl Udp {
    /// Binds the port (0: the kernel's choice) on every address, IPv6 and IPv4; IPv4 alone where there is no IPv6.
    pub fn bind(port: u16) -> Result<Self, UdpError> {
        let refuse = |source: io::Error| match source.raw_os_error() {
            Some(libc::EADDRINUSE) => UdpError::PortInUse(port),
            Some(libc::EACCES) => UdpError::Privileged(port),
            _ => UdpError::Open { port, source },
        };
        let (socket, dual) = match open_dual(port) {
            Ok(socket) => (socket, true),
            Err(error) if no_ipv6(&error) => (open_v4(port).map_err(refuse)?, false),
            Err(error) => return Err(refuse(error)),
        };
        enlarge_buffers(&socket);
        let bound = socket.local_addr().map_err(refuse)?.as_socket().map_or(port, |address| address.port());
        Ok(Self { socket, port: bound, dual, dropped: AtomicU64::new(0) })
    }

    /// The port that is bound.
    pub const fn local_port(&self) -> u16 {
        self.port
    }

    /// Datagrams that could not be sent since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// How long `recv` waits before it answers `WouldBlock`; `None`, the default, is for ever.
    pub fn set_recv_timeout(&self, timeout: Option<std::time::Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(timeout)
    }

    /// Waits for one datagram. The train's buffer is reused. An ICMP error that is pending on the socket is no reason
    /// to stop: anybody can send one.
    pub fn recv(&self, train: &mut Train) -> io::Result<()> {
        loop {
            match self.recv_once(train) {
                Err(error) if pending(&error) => {}
                done => return done,
            }
        }
    }

    fn recv_once(&self, train: &mut Train) -> io::Result<()> {
        train.bytes.clear();
        train.bytes.reserve(DATAGRAM_MAX);
        let room = train.bytes.spare_capacity_mut();
        let mut part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
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
        let len = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, 0) };
        let Ok(len) = usize::try_from(len) else {
            return Err(io::Error::last_os_error());
        };
        // SAFETY: the kernel wrote `len` bytes, at most the room that was reserved (no MSG_TRUNC flag is given).
        unsafe { train.bytes.set_len(len) };
        train.addr = remote(&from)?;
        train.stride = 0;
        let about = control.about(&message);
        train.local = about.local;
        train.ecn = about.ecn;
        Ok(())
    }

    /// Sends each datagram of each train, from the train's local address. What the kernel refuses is counted and
    /// does not keep the others.
    pub fn send(&self, trains: &[Train]) -> Sent {
        let mut sent = Sent::default();
        for train in trains {
            for datagram in train.datagrams() {
                match self.send_datagram(train, datagram) {
                    Ok(()) => sent.datagrams = sent.datagrams.saturating_add(1),
                    Err(error) => {
                        sent.dropped = sent.dropped.saturating_add(1);
                        self.dropped.fetch_add(1, Ordering::Relaxed);
                        tracing::trace!(to = %train.addr, %error, "a datagram was not sent");
                    }
                }
            }
        }
        sent
    }

    fn send_datagram(&self, train: &Train, datagram: &[u8]) -> io::Result<()> {
        match self.send_from(train, train.local, datagram) {
            // The address or interface went away (a laptop that moved): let the kernel choose again.
            Err(error) if train.local != Local::default() && local_is_stale(&error) => {
                self.send_from(train, Local::default(), datagram)
            }
            done => done,
        }
    }

    fn send_from(&self, train: &Train, local: Local, datagram: &[u8]) -> io::Result<()> {
        let to = self.destination(train.addr)?;
        let mut part = libc::iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() };
        // SAFETY: zeros are a valid msghdr.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = to.as_ptr().cast_mut().cast();
        message.msg_namelen = to.len();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        let mut control = Writer::new();
        control.local(train.addr.ip(), local);
        control.ecn(train.addr.ip(), train.ecn);
        control.attach(&mut message);
        loop {
            // SAFETY: every pointer in `message` names a live buffer with the length given beside it; sendmsg only reads.
            let len = unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
            if len >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            // A pending error of an earlier datagram is reported, and cleared, by the next call on the socket.
            if error.kind() != io::ErrorKind::Interrupted && error.kind() != io::ErrorKind::ConnectionRefused {
                return Err(error);
            }
        }
    }

    /// The address as this socket's family writes it.
    fn destination(&self, address: SocketAddr) -> io::Result<socket2::SockAddr> {
        match (address, self.dual) {
            (SocketAddr::V4(v4), true) => Ok(SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())).into()),
            (SocketAddr::V6(_), false) => Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
            (same, _) => Ok(same.into()),
        }
    }
}

fn open_dual(port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    socket.set_only_v6(false)?;
    set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
    set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
    set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)?;
    prepare_v4(&socket)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    Ok(socket)
}

fn open_v4(port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
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
fn enlarge_buffers(socket: &Socket) {
    let bytes = i32::try_from(BUFFER_BYTES).unwrap_or(i32::MAX);
    for (forced, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        if set(socket, libc::SOL_SOCKET, forced, bytes).is_err()
            && let Err(error) = set(socket, libc::SOL_SOCKET, plain, bytes)
        {
            tracing::debug!(%error, "the socket keeps its small buffers");
        }
    }
}

fn set(socket: &Socket, level: i32, option: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes from `value`, which outlives the call.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Errors that tell of an earlier datagram, or of nothing.
fn pending(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EINTR
                | libc::ECONNREFUSED
                | libc::ECONNRESET
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::ENETDOWN
                | libc::EHOSTDOWN
                | libc::ENOPROTOOPT
                | libc::EPROTO
                | libc::EMSGSIZE
                | libc::EACCES
                | libc::EPERM
        )
    )
}

fn local_is_stale(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EINVAL
                | libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::EADDRNOTAVAIL
                | libc::ENODEV
                | libc::ENXIO
                | libc::ENETDOWN
        )
    )
}

/// The sender, IPv4 written plainly.
fn remote(from: &libc::sockaddr_storage) -> io::Result<SocketAddr> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{enter_fresh_namespace, privileged};
    use std::net::UdpSocket;

    fn empty() -> Train {
        Train::datagram(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), Local::default(), Vec::new())
    }

    fn to(address: &str, port: u16) -> SocketAddr {
        SocketAddr::from((address.parse::<IpAddr>().expect("address"), port))
    }

    #[test]
    fn an_answer_leaves_from_the_address_that_was_asked() {
        let ours = Udp::bind(0).expect("bind");
        for (client, asked) in [("127.0.0.1", "127.0.0.77"), ("::1", "::1")] {
            let Ok(peer) = UdpSocket::bind(to(client, 0)) else {
                println!("skipped: {client} is not on this machine");
                continue;
            };
            peer.send_to(b"question", to(asked, ours.local_port())).expect("send");
            let mut train = empty();
            ours.recv(&mut train).expect("recv");
            assert_eq!(train.bytes, b"question");
            assert_eq!(train.addr, peer.local_addr().expect("address"), "plain IPv4, not mapped");
            assert_eq!(train.local.address, Some(asked.parse().expect("address")));
            assert!(train.local.interface > 0);

            train.bytes = b"answer".to_vec();
            assert_eq!(ours.send(&[train]), Sent { datagrams: 1, dropped: 0 });
            let mut bytes = [0; 16];
            let (len, from) = peer.recv_from(&mut bytes).expect("answer");
            assert_eq!((&bytes[..len], from), (&b"answer"[..], to(asked, ours.local_port())));
        }
    }

    #[test]
    fn ecn_and_trains_cross() {
        let (one, two) = (Udp::bind(0).expect("bind"), Udp::bind(0).expect("bind"));
        for address in ["127.0.0.1", "::1"] {
            let mut train = Train::datagram(to(address, two.local_port()), Local::default(), b"aabbc".to_vec());
            train.stride = 2;
            train.ecn = 0b10;
            if one.send(std::slice::from_ref(&train)).datagrams == 0 {
                println!("skipped: {address} is not on this machine");
                continue;
            }
            for expected in [&b"aa"[..], b"bb", b"c"] {
                let mut got = empty();
                two.recv(&mut got).expect("recv");
                assert_eq!((got.bytes.as_slice(), got.ecn), (expected, 0b10));
            }
        }
    }

    #[test]
    fn one_train_that_cannot_go_does_not_keep_the_others() {
        let (one, two) = (Udp::bind(0).expect("bind"), Udp::bind(0).expect("bind"));
        let good = Train::datagram(to("127.0.0.1", two.local_port()), Local::default(), b"good".to_vec());
        let mut large = good.clone();
        large.bytes = vec![0; DATAGRAM_MAX];
        let mut port_zero = good.clone();
        port_zero.addr.set_port(0);
        assert_eq!(one.send(&[large, port_zero, good]), Sent { datagrams: 1, dropped: 2 });
        assert_eq!(one.dropped(), 2);
        let mut got = empty();
        two.recv(&mut got).expect("recv");
        assert_eq!(got.bytes, b"good");
    }

    #[test]
    fn a_local_address_that_went_away_is_replaced() {
        let (one, two) = (Udp::bind(0).expect("bind"), Udp::bind(0).expect("bind"));
        let stale = Local { address: Some("203.0.113.9".parse().expect("address")), interface: 4_000_000 };
        let train = Train::datagram(to("127.0.0.1", two.local_port()), stale, b"still".to_vec());
        assert_eq!(one.send(&[train]).datagrams, 1);
        let mut got = empty();
        two.recv(&mut got).expect("recv");
        assert_eq!(got.bytes, b"still");
    }

    #[test]
    fn a_closed_port_elsewhere_does_not_end_recv() {
        let (ours, peer) = (Udp::bind(0).expect("bind"), UdpSocket::bind("127.0.0.1:0").expect("bind"));
        let closed = UdpSocket::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
        // The kernel answers these with ICMP port unreachable, towards our socket.
        for _ in 0..3 {
            ours.send(&[Train::datagram(closed, Local::default(), b"x".to_vec())]);
        }
        peer.send_to(b"alive", to("127.0.0.1", ours.local_port())).expect("send");
        let mut train = empty();
        ours.recv(&mut train).expect("recv");
        assert_eq!(train.bytes, b"alive");
    }

    #[test]
    fn a_port_in_use_is_named_with_what_to_do() {
        let first = Udp::bind(0).expect("bind");
        let error = Udp::bind(first.local_port()).err().expect("in use");
        assert!(matches!(error, UdpError::PortInUse(port) if port == first.local_port()));
        assert!(error.to_string().contains("ss -lunp"));
    }

    #[test]
    fn without_ipv6_it_speaks_ipv4() {
        let socket = open_v4(0).expect("bind");
        let port = socket.local_addr().expect("address").as_socket().expect("inet").port();
        let ours = Udp { socket, port, dual: false, dropped: AtomicU64::new(0) };
        let peer = UdpSocket::bind("127.0.0.1:0").expect("bind");
        peer.send_to(b"question", to("127.0.0.5", port)).expect("send");
        let mut train = empty();
        ours.recv(&mut train).expect("recv");
        assert_eq!(train.local.address, Some("127.0.0.5".parse().expect("address")));
        assert_eq!(ours.send(&[train]).datagrams, 1);
        let (_, from) = peer.recv_from(&mut [0; 16]).expect("answer");
        assert_eq!(from, to("127.0.0.5", port));
    }

    #[test]
    fn buffers_are_large_where_that_is_allowed() {
        if !privileged() {
            return;
        }
        std::thread::spawn(|| {
            enter_fresh_namespace();
            let ours = Udp::bind(443).expect("bind");
            if set(&ours.socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 1 << 20).is_err() {
                println!("skipped: needs real root, not a user namespace's");
                return;
            }
            enlarge_buffers(&ours.socket);
            // The kernel reports twice what was set, for its own book-keeping (socket(7)).
            assert_eq!(ours.socket.recv_buffer_size().expect("size"), 2 * BUFFER_BYTES);
        })
        .join()
        .expect("test thread");
    }
}
