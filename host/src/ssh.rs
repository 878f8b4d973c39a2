//! Who administers this machine over SSH right now? Read before anything is shut that they might need.

use model::limits::{PROCESSES_LOOKED_AT_MAX, SSH_SESSIONS_MAX};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

/// Programs that serve SSH, by the beginning of their names.
const SERVERS: [&str; 2] = ["sshd", "dropbear"];
/// Their usual port (RFC 4253, section 4.1): counts whoever has it, for not everybody may look into other processes.
const PORT: u16 = 22;
/// States of a socket (net/tcp_states.h).
const ESTABLISHED: u8 = 1;
const LISTENING: u8 = 10;

/// A connection of somebody who came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Session {
    /// From where.
    pub peer: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
}

/// Ports on which SSH was found to be served, by a process that might look.
static REMEMBERED: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Keeps ports for [`sessions`], which may not see by itself any more who has which: at most [`SSH_SESSIONS_MAX`].
pub fn remember(ports: impl IntoIterator<Item = u16>) {
    let mut remembered = REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner);
    for port in ports {
        if remembered.len() < SSH_SESSIONS_MAX {
            remembered.insert(port);
        }
    }
}

/// What was kept.
pub fn remembered() -> BTreeSet<u16> {
    REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Ports on which SSH is served now, as far as this process may look.
pub fn server_ports() -> BTreeSet<u16> {
    server_ports_of(&SERVERS)
}

fn server_ports_of(servers: &[&str]) -> BTreeSet<u16> {
    let held = held_by(servers);
    let served = sockets().into_iter().filter(|s| s.state == LISTENING && held.contains(&s.inode));
    served.map(|s| s.session.local.port()).collect()
}

fn sockets() -> Vec<Socket> {
    let tables =
        ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(Socket::parse).collect()
}

/// Live sessions, at most [`SSH_SESSIONS_MAX`]. What cannot be read is none.
pub fn sessions() -> Vec<Session> {
    sessions_of(&SERVERS)
}

fn sessions_of(servers: &[&str]) -> Vec<Session> {
    let sockets = sockets();
    let open: BTreeSet<u16> = sockets.iter().filter(|s| s.state == LISTENING).map(|s| s.session.local.port()).collect();
    let came_in = |s: &&Socket| s.state == ESTABLISHED && open.contains(&s.session.local.port());
    let candidates: BTreeMap<u64, Session> = sockets.iter().filter(came_in).map(|s| (s.inode, s.session)).collect();
    if candidates.is_empty() {
        return Vec::new();
    }
    let (held, remembered) = (held_by(servers), remembered());
    let port_is = |port: u16| port == PORT || remembered.contains(&port);
    let ours = candidates.iter().filter(|(inode, s)| port_is(s.local.port()) || held.contains(inode));
    ours.map(|(_, session)| *session).take(SSH_SESSIONS_MAX).collect()
}

/// A TCP socket of this machine.
#[derive(Debug, PartialEq, Eq)]
pub struct Socket {
    session: Session,
    state: u8,
    inode: u64,
}

impl Socket {
    /// A line of /proc/net/tcp or tcp6 (proc_net_tcp in the kernel's documentation).
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace().skip(1);
        let (local, peer) = (end(words.next()?)?, end(words.next()?)?);
        let state = u8::from_str_radix(words.next()?, 16).ok()?;
        Some(Self { session: Session { peer, local }, state, inode: words.nth(5)?.parse().ok()? })
    }
}

/// `0100007F:0016`: words of the address in the machine's own byte order.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let address: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => Ipv6Addr::from(<[u8; 16]>::try_from([word(0)?, word(8)?, word(16)?, word(24)?].concat()).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(address.to_canonical(), port))
}

/// The first of them, at most [`PROCESSES_LOOKED_AT_MAX`].
fn looked_at<T>(processes: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    processes.take(PROCESSES_LOOKED_AT_MAX)
}

/// The sockets that processes of these names hold.
fn held_by(servers: &[&str]) -> BTreeSet<u64> {
    let mut held = BTreeSet::new();
    let Ok(processes) = fs::read_dir("/proc") else { return held };
    for process in looked_at(processes.flatten()) {
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        if !servers.iter().any(|server| name.starts_with(server)) {
            continue;
        }
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        let leads_to = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        held.extend(
            leads_to
                .filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').parse::<u64>().ok()),
        );
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_line_of_the_kernel_is_read() {
        let line =
            "   1: 0100007F:0016 0200007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 4711 1 0";
        let socket = Socket::parse(line).expect("a line");
        let session =
            Session { peer: "127.0.0.2:54321".parse().expect("peer"), local: "127.0.0.1:22".parse().expect("local") };
        assert_eq!(socket, Socket { session, state: ESTABLISHED, inode: 4711 });
        for damaged in ["", "1:", "1: 0100007F 0200007F:D431 01", "1: 0100:0016 0200007F:D431 01 0 0 0 0 0 1"] {
            assert_eq!(Socket::parse(damaged), None, "{damaged}");
        }
    }

    #[test]
    fn so_many_sessions_are_left_open() {
        if !crate::test_support::privileged() {
            return;
        }
        // On a machine of its own, where nobody else has sessions.
        let machine = crate::test_support::Host::new();
        let counted = |count: usize| {
            machine.run(move || {
                let own = fs::read_to_string("/proc/self/comm").expect("comm");
                let server = TcpListener::bind("127.0.0.1:0").expect("listen");
                let ends: Vec<_> = (0..count)
                    .map(|_| {
                        (TcpStream::connect(server.local_addr().expect("address")), server.accept().expect("accept"))
                    })
                    .collect();
                let found = sessions_of(&[own.trim()]).len();
                drop(ends);
                found
            })
        };
        assert_eq!(counted(SSH_SESSIONS_MAX + 1), SSH_SESSIONS_MAX);
        assert_eq!(counted(3), 3, "when those are gone");
    }

    #[test]
    fn so_many_processes_are_looked_at() {
        let of = |count: usize| looked_at(0..count).count();
        assert_eq!(of(PROCESSES_LOOKED_AT_MAX), PROCESSES_LOOKED_AT_MAX);
        assert_eq!(of(PROCESSES_LOOKED_AT_MAX + 1), PROCESSES_LOOKED_AT_MAX);
    }

    #[test]
    fn who_came_in_to_a_server_is_seen_and_who_went_out_is_not() {
        let own = fs::read_to_string("/proc/self/comm").expect("comm");
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let server = TcpListener::bind(address).expect("listen");
            let out = TcpStream::connect(server.local_addr().expect("address")).expect("connect");
            let (_within, peer) = server.accept().expect("accept");
            let expected = Session { peer, local: server.local_addr().expect("address") };
            let found = sessions_of(&[own.trim()]);
            assert!(found.contains(&expected), "{expected:?} in {found:?}");
            let outward = Session { peer: expected.local, local: out.local_addr().expect("address") };
            assert!(!found.contains(&outward), "{found:?}");
            assert!(!sessions_of(&["no-such-server"]).contains(&expected));
            // Who may not look any more has the port in mind.
            let ports = server_ports_of(&[own.trim()]);
            assert!(ports.contains(&expected.local.port()), "{ports:?}");
            assert!(!ports.contains(&out.local_addr().expect("address").port()), "{ports:?}");
            remember([expected.local.port()]);
            assert!(sessions_of(&["no-such-server"]).contains(&expected));
        }
    }
}
