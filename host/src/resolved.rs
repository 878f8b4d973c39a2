//! How does systemd-resolved hear of names that our resolver answers? Five calls of org.freedesktop.resolve1 over the system's
//! D-Bus (D-Bus Specification 0.41; org.freedesktop.resolve1(5)), written by hand: a library for them would bring more code
//! than the client has.
//!
//! What is set belongs to the link, and goes with it. Nothing is started: where resolved does not run, that is the answer.

pub mod wire;

use crate::keyfile::own_uid;
use model::limits::RESOLVED_DOMAINS_MAX;
use model::net::HostName;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use wire::{Answer, Body, Call};

/// The system's bus.
pub const BUS: &str = "/run/dbus/system_bus_socket";
/// How long one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Messages of others that may come before an answer.
const OTHERS_MAX: usize = 32;
/// Bytes of a line of the greeting.
const LINE_MAX: u64 = 4_096;

const RESOLVED: &str = "org.freedesktop.resolve1";
const PATH: &str = "/org/freedesktop/resolve1";
const MANAGER: &str = "org.freedesktop.resolve1.Manager";

/// Why resolved does not know our names.
#[derive(Debug, thiserror::Error)]
pub enum ResolvedError {
    /// The bus.
    #[error("the system's D-Bus at {path} failed: {source}")]
    Bus {
        /// Where.
        path: PathBuf,
        /// How.
        source: io::Error,
    },
    /// resolved's own answer.
    #[error("systemd-resolved refused {call}: {answer}; `resolvectl status` shows what it knows")]
    Refused {
        /// What was called.
        call: &'static str,
        /// The name of its error.
        answer: String,
    },
}

/// What a link is to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkNames {
    /// The link's index.
    pub link: u32,
    /// Who answers, beyond that link.
    pub servers: Vec<IpAddr>,
    /// Which names, and all below them; at most [`RESOLVED_DOMAINS_MAX`] are told, the first ones.
    pub zones: Vec<HostName>,
}

/// Tells resolved; false where it does not run.
pub fn tell(bus: &Path, names: &LinkNames) -> Result<bool, ResolvedError> {
    let failed = |source| ResolvedError::Bus { path: bus.to_owned(), source };
    let mut connection = match Connection::open(bus) {
        Ok(connection) => connection,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(false);
        }
        Err(error) => return Err(failed(error)),
    };
    for (call, signature, body) in calls(names) {
        match connection.call(&Call { to: RESOLVED, path: PATH, interface: MANAGER, member: call, signature }, &body) {
            Ok(Answer::Return) => {}
            Ok(Answer::Error(name)) if is_absent(&name) => return Ok(false),
            Ok(Answer::Error(answer)) => return Err(ResolvedError::Refused { call, answer }),
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(true)
}

/// Nobody has the name, and nobody was started for it.
fn is_absent(error: &str) -> bool {
    let error = error.strip_prefix("org.freedesktop.DBus.Error.");
    matches!(error, Some("ServiceUnknown" | "NameHasNoOwner" | "Spawn.ServiceNotFound"))
}

/// The servers last: until they are there, the link answers nothing. Ours neither signs nor speaks TLS, on a link that is a
/// tunnel.
fn calls(names: &LinkNames) -> [(&'static str, &'static str, Body); 5] {
    let link = || Body::default().int(names.link);
    let mut domains = Body::default();
    for zone in names.zones.iter().take(RESOLVED_DOMAINS_MAX) {
        // For routing only: none is a suffix that is tried behind short names.
        domains = domains.structure().text(zone.as_str()).boolean(true);
    }
    let mut servers = Body::default();
    for server in &names.servers {
        servers = match server {
            IpAddr::V4(v4) => servers.structure().int(libc::AF_INET.unsigned_abs()).bytes(&v4.octets()),
            IpAddr::V6(v6) => servers.structure().int(libc::AF_INET6.unsigned_abs()).bytes(&v6.octets()),
        };
    }
    [
        ("SetLinkDomains", "ia(sb)", link().array(domains)),
        ("SetLinkDefaultRoute", "ib", link().boolean(false)),
        ("SetLinkDNSSEC", "is", link().text("no")),
        ("SetLinkDNSOverTLS", "is", link().text("no")),
        ("SetLinkDNS", "ia(iay)", link().array(servers)),
    ]
}

struct Connection {
    stream: BufReader<UnixStream>,
    serial: u32,
}

impl Connection {
    /// Connects, says who we are (the kernel vouches for it), and asks for a name, as every client must.
    fn open(bus: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(bus)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        let mut connection = Self { stream: BufReader::new(stream), serial: 0 };
        let uid: String = own_uid().to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
        connection.write(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        let mut line = Vec::new();
        io::Read::take(&mut connection.stream, LINE_MAX).read_until(b'\n', &mut line)?;
        if !line.starts_with(b"OK ") {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the bus does not take us for who we are"));
        }
        connection.write(b"BEGIN\r\n")?;
        let bus = "org.freedesktop.DBus";
        let hello = Call { to: bus, path: "/org/freedesktop/DBus", interface: bus, member: "Hello", signature: "" };
        match connection.call(&hello, &Body::default())? {
            Answer::Return => Ok(connection),
            Answer::Error(name) => Err(io::Error::other(name)),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    fn call(&mut self, call: &Call<'_>, body: &Body) -> io::Result<Answer> {
        self.serial = self.serial.saturating_add(1);
        let message = call.message(self.serial, body);
        self.write(&message)?;
        for _ in 0..OTHERS_MAX {
            let message = wire::read(&mut self.stream)?;
            if let Some(answer) = message.answer_to(self.serial) {
                return Ok(answer);
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "no answer among its messages"))
    }
}

#[cfg(test)]
mod tests;
