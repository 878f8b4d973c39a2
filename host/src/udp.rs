//! How do datagrams get between the network and us? One dual-stack UDP socket that knows, for each train, the local
//! address it came to, and that answers from there.

mod batch;
mod narrow;
mod open;
mod receive;
mod refusal;
mod send;
mod split;
#[cfg(test)]
mod tests;

pub use batch::Batch;

use crate::offload::Steps;
use model::packet::{Train, UdpOffloads};
use narrow::NarrowPaths;
use socket2::Socket;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

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

/// Room of a socket for what waits in it, bytes of payload and the kernel's book-keeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Buffers {
    /// For datagrams that came and were not read yet.
    pub receive: usize,
    /// For datagrams that have not left yet.
    pub send: usize,
}

/// The one outside socket of a node. Shared by reference between threads.
pub struct Udp {
    socket: Socket,
    port: u16,
    /// Whether the socket is IPv6 and sees IPv4 as mapped addresses.
    dual: bool,
    gso: AtomicBool,
    /// Whether the kernel took a message of several datagrams at least once.
    gso_proven: AtomicBool,
    gro: bool,
    buffers: Buffers,
    narrow: NarrowPaths,
    dropped: AtomicU64,
    truncated: AtomicU64,
    steps: Steps,
    beside: Option<Box<Udp>>,
}

impl Udp {
    /// Binds the port (0: the kernel's choice) on every address, IPv6 and IPv4; IPv4 alone where there is no IPv6. One
    /// datagram a message.
    pub fn bind(port: u16) -> Result<Self, UdpError> {
        Self::bind_with(port, Steps::ONE_BY_ONE)
    }

    /// As `bind`, with those of the wanted offloads that the kernel has.
    pub fn bind_with(port: u16, steps: Steps) -> Result<Self, UdpError> {
        let refuse = |source: io::Error| match source.raw_os_error() {
            Some(libc::EADDRINUSE) => UdpError::PortInUse(port),
            Some(libc::EACCES) => UdpError::Privileged(port),
            _ => UdpError::Open { port, source },
        };
        let (socket, dual) = open::open(port).map_err(refuse)?;
        Self::furnish(socket, dual, steps).map_err(refuse)
    }

    fn furnish(socket: Socket, dual: bool, steps: Steps) -> io::Result<Self> {
        if steps.large_buffers {
            open::enlarge_buffers(&socket);
        }
        let offloads = open::offload(&socket, steps);
        let port = socket.local_addr()?.as_socket().map_or(0, |address| address.port());
        Ok(Self {
            port,
            dual,
            gso: offloads.gso.into(),
            gso_proven: false.into(),
            gro: offloads.gro,
            buffers: open::buffers(&socket),
            narrow: NarrowPaths::default(),
            dropped: AtomicU64::new(0),
            truncated: AtomicU64::new(0),
            steps,
            beside: None,
            socket,
        })
    }

    /// From now on only WireGuard's data comes in here; everything else comes in at [`Udp::beside`], which somebody else reads, so
    /// that a flood of it takes no room and no time of the data's. A kernel that cannot do that leaves it as it was.
    pub fn split(&mut self) {
        let second = split::beside(&self.socket, self.port, self.dual);
        // One datagram a message there: `Udp::recv_batch` takes many small ones.
        let steps = Steps { gro: false, ..self.steps };
        match second.and_then(|socket| Self::furnish(socket, self.dual, steps)) {
            Ok(second) => self.beside = Some(Box::new(second)),
            Err(error) => {
                tracing::info!(%error, "handshakes and data share one socket: a flood of those is felt by these")
            }
        }
    }

    /// Where everything but data comes in, after [`Udp::split`]. For receiving only: answers leave from the first socket.
    pub fn beside(&self) -> Option<&Self> {
        self.beside.as_deref()
    }

    /// The port that is bound.
    pub const fn local_port(&self) -> u16 {
        self.port
    }

    /// How trains are carried now. Sending them whole ends for good when the kernel refuses it.
    pub fn offloads(&self) -> UdpOffloads {
        UdpOffloads { gso: self.gso.load(Ordering::Relaxed), gro: self.gro }
    }

    /// The room that the kernel granted; less than [`BUFFER_BYTES`] loses datagrams in bursts.
    pub const fn buffers(&self) -> Buffers {
        self.buffers
    }

    /// Datagrams that could not be sent since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Messages that were dropped since the start because the kernel could not tell them whole.
    pub fn truncated(&self) -> u64 {
        self.truncated.load(Ordering::Relaxed)
    }

    /// How long `recv` waits before it answers `WouldBlock`; `None`, the default, is for ever.
    pub fn set_recv_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(timeout)
    }

    /// Waits for one train. Its buffer is reused. An ICMP error that is pending on the socket is no reason to stop:
    /// anybody can send one.
    pub fn recv(&self, train: &mut Train) -> io::Result<()> {
        self.receive(train, 0)
    }

    /// Takes one train if one is there, and says whether. Else as [`Udp::recv`].
    pub fn try_recv(&self, train: &mut Train) -> io::Result<bool> {
        match self.receive(train, libc::MSG_DONTWAIT) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends each datagram of each train, from the train's local address, in order. What the kernel refuses is counted
    /// and does not keep the others.
    pub fn send(&self, trains: &[Train]) -> Sent {
        self.send_pieces(trains.iter().flat_map(|train| self.pieces(train)))
    }
}
