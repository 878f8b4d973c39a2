//! How does a service manager hear how this program is? One datagram a message to the socket that it names in the
//! environment (sd_notify(3)); without such a socket nothing is said.
#![allow(unsafe_code)]

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Where the manager listens.
pub const SOCKET: &str = "NOTIFY_SOCKET";
/// How long it waits for a sign of life, microseconds.
pub const WATCHDOG: &str = "WATCHDOG_USEC";
/// Of which process.
const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// The start is over, or a reload is.
    Ready,
    /// Settings are being read again; [`Word::Ready`] ends it.
    Reloading,
    /// The end has begun.
    Stopping,
    /// A sign of life.
    Alive,
    /// For people, one line.
    Status(String),
}

impl Word {
    fn message(&self) -> String {
        match self {
            Self::Ready => "READY=1".to_owned(),
            // So that the manager knows that it is an answer to its own request, and not to an older one.
            Self::Reloading => format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_us()),
            Self::Stopping => "STOPPING=1".to_owned(),
            Self::Alive => "WATCHDOG=1".to_owned(),
            Self::Status(text) => format!("STATUS={}", text.replace(['\n', '\0'], " ")),
        }
    }
}

/// The manager, if there is one.
#[derive(Debug, Default)]
pub struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    every: Option<Duration>,
}

impl Manager {
    /// As the environment names it.
    pub fn of_environment() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let meant = variable(WATCHDOG_PID).is_none_or(|pid| pid.parse() == Ok(std::process::id()));
        let watchdog = variable(WATCHDOG).filter(|_| meant);
        Self::new(&variable(SOCKET).unwrap_or_default(), watchdog.as_deref())
    }

    /// Who listens at this address (empty: nobody), and waits so many microseconds for a sign of life. An address that makes no
    /// sense is nobody's: a program runs without a manager, too.
    pub fn new(address: &str, watchdog_us: Option<&str>) -> Self {
        if address.is_empty() {
            return Self::default();
        }
        match open(address.as_bytes()) {
            Ok(socket) => Self { socket: Some(socket), every: watchdog_us.and_then(half) },
            Err(error) => {
                tracing::warn!(%error, address, "the service manager named in {SOCKET} cannot be told anything");
                Self::default()
            }
        }
    }

    /// How often a sign of life is due: half of what the manager waits. `None`: it does not wait for any.
    pub const fn alive_every(&self) -> Option<Duration> {
        self.every
    }

    /// Says it. What the manager does not take is lost: nothing waits for it.
    pub fn say(&self, word: &Word) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(word.message().as_bytes(), address) {
            tracing::debug!(%error, ?word, "the service manager was not told");
        }
    }
}

/// A path, or with `@` in front a name of Linux's abstract kind.
fn open(name: &[u8]) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.split_first() {
        Some((b'@', rest)) => SocketAddr::from_abstract_name(rest)?,
        Some((b'/', _)) => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor an abstract name")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

fn half(us: &str) -> Option<Duration> {
    let us = us.parse().ok().filter(|us| *us > 1)?;
    Some(Duration::from_micros(us) / 2)
}

fn monotonic_us() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_nsec / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Folder;

    fn hear(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let len = socket.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    }

    #[test]
    fn each_word_is_one_datagram_to_a_path_or_an_abstract_name() {
        let folder = Folder::new();
        let path = folder.path().join("notify");
        let hidden = format!("umbra-notify-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&hidden).expect("name");
        let named = [path.to_str().expect("text").to_owned(), format!("@{hidden}")];
        let listeners =
            [UnixDatagram::bind(&path).expect("bind"), UnixDatagram::bind_addr(&abstract_address).expect("bind")];
        for (name, listener) in named.iter().zip(&listeners) {
            let manager = Manager::new(name, None);
            manager.say(&Word::Ready);
            assert_eq!(hear(listener), "READY=1");
            manager.say(&Word::Alive);
            assert_eq!(hear(listener), "WATCHDOG=1");
            manager.say(&Word::Stopping);
            assert_eq!(hear(listener), "STOPPING=1");
            manager.say(&Word::Status("one\nREADY=0".to_owned()));
            assert_eq!(hear(listener), "STATUS=one READY=0", "a text is no message of its own");
            let before = monotonic_us();
            manager.say(&Word::Reloading);
            let said = hear(listener);
            let since = said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("the form").parse::<i64>();
            assert!((before..=monotonic_us()).contains(&since.expect("a number")), "{said}");
        }
        assert!(open(b"vsock:1:2").is_err() && open(b"").is_err());
        // Nobody listens, and nobody waits.
        drop(listeners);
        Manager::new(&named[0], None).say(&Word::Ready);
        Manager::default().say(&Word::Ready);
    }

    #[test]
    fn a_sign_of_life_is_due_at_half_of_what_the_manager_waits() {
        let every = |address: &str, us: Option<&str>| Manager::new(address, us).alive_every();
        assert_eq!(every("@nobody", Some("60000000")), Some(Duration::from_secs(30)));
        assert_eq!(
            (every("@nobody", None), every("@nobody", Some("0")), every("@nobody", Some("x"))),
            (None, None, None)
        );
        assert_eq!(every("", Some("60000000")), None, "nobody waits");
    }
}
