//! Who asks for more than there is? Knocks with one join file, local connections that say nothing, flows without end.

use anyhow::{Context as _, ensure};
use host::clock::SystemClock;
use host::entropy;
use model::time::Clock as _;
use proto::join::JoinFile;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// The pause between two knocks: as many in a second as are handed on, and no more.
const KNOCK_PAUSE: Duration = Duration::from_millis(10);
/// How long the answer to a datagram may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The first port of the flows.
const FIRST_PORT: u16 = 10_000;
/// Flows that are opened together.
const AT_ONCE: usize = 16;

/// Good knocks with the secret of a join file, each for a key of its own.
pub fn knock(to: SocketAddr, file: &JoinFile, count: u32) -> anyhow::Result<()> {
    let clock = SystemClock::new();
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    for _ in 0..count {
        let key = tunnel::keys::public_key(&node::enrol::fresh_key()?);
        let knock = tunnel::knock::build(&file.secret, &file.controller_key, clock.wall(), &key, entropy::random()?);
        socket.send_to(&knock, to)?;
        thread::sleep(KNOCK_PAUSE);
    }
    Ok(writeln!(io::stdout(), "{count}")?)
}

/// Connections to a local socket that say nothing, until the standard input ends.
pub fn hold(path: &Path, count: usize) -> anyhow::Result<()> {
    let held: Vec<_> = (0..count).map(|_| UnixStream::connect(path)).collect::<io::Result<_>>()?;
    writeln!(io::stdout(), "held")?;
    let _until_it_ends = io::stdin().read(&mut [0])?;
    drop(held);
    Ok(())
}

/// So many flows, each from a port of its own and answered once; prints how many were.
pub fn flows(to: &str, count: u32) -> anyhow::Result<()> {
    let to = to.to_socket_addrs()?.next().context("no address")?;
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // One after the other: a port that comes twice is no new flow.
    let mut ports = FIRST_PORT..u16::MAX;
    let mut open = || {
        let taken = || io::Error::from(io::ErrorKind::AddrInUse);
        let socket = ports.find_map(|port| UdpSocket::bind((any, port)).ok()).ok_or_else(taken)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok::<_, io::Error>(socket)
    };
    let mut answered = 0;
    while answered < count {
        // Few at once, so that no queue on the way is flooded: flows are to be many, not packets.
        let some: Vec<UdpSocket> = (0..AT_ONCE).map(|_| open()).collect::<io::Result<_>>()?;
        for socket in &some {
            socket.send(b"one more flow")?;
        }
        let mut heard = 0;
        for socket in &some {
            heard += u32::from(socket.recv(&mut [0; 64]).is_ok());
        }
        ensure!(heard > 0, "no new flow is answered any more, after {answered}");
        answered += heard;
    }
    Ok(writeln!(io::stdout(), "{answered}")?)
}
