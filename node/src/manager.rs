//! How does a program get on with a service manager? It says when it is ready, that it is alive for as long as its heart
//! beats, reads its settings again on SIGHUP, and says that it stops.

use crate::link::Link;
use crate::settings;
use host::notify::{self, Word};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

/// How long a program may take to say whether it is alive.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The manager of one program.
pub struct Manager {
    manager: Arc<notify::Manager>,
    settings: PathBuf,
    hangup: Option<Signal>,
}

impl Manager {
    /// From here on a SIGHUP ends nothing: it waits until there is something to reload.
    pub fn start(program: &str) -> std::io::Result<Self> {
        let manager = Arc::new(notify::Manager::of_environment());
        Ok(Self { manager, settings: settings::file_of(program), hangup: Some(signal(SignalKind::hangup())?) })
    }

    /// Says that the program serves, then that it is alive for as long as `alive` says so, and reloads when told to.
    pub fn ready<Alive, Answer>(&mut self, status: &str, alive: Alive)
    where
        Alive: Fn() -> Answer + Send + Sync + 'static,
        Answer: Future<Output = bool> + Send + 'static,
    {
        self.status(status);
        self.manager.say(&Word::Ready);
        if let Some(every) = self.manager.alive_every() {
            tokio::spawn(beat(Arc::clone(&self.manager), every, alive));
        }
        if let Some(hangup) = self.hangup.take() {
            tokio::spawn(reload(Arc::clone(&self.manager), self.settings.clone(), hangup));
        }
    }

    /// Says one line for people.
    pub fn status(&self, text: &str) {
        self.manager.say(&Word::Status(text.to_owned()));
    }

    /// Keeps saying whether the controller is there, until the task is dropped with the program.
    pub fn follow(&self, link: &Link) {
        let (manager, mut states) = (Arc::clone(&self.manager), link.watch());
        tokio::spawn(async move {
            let mut said = String::new();
            loop {
                let text = told(states.borrow_and_update().channel.is_some());
                if said != text {
                    manager.say(&Word::Status(text.to_owned()));
                    text.clone_into(&mut said);
                }
                if states.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// Says, when it is called, that the end has begun.
    pub fn farewell(&self) -> impl FnOnce() + Send + 'static {
        let manager = Arc::clone(&self.manager);
        move || manager.say(&Word::Stopping)
    }
}

const fn told(connected: bool) -> &'static str {
    if connected { "connected to the controller" } else { "not connected to the controller" }
}

async fn beat<Alive, Answer>(manager: Arc<notify::Manager>, every: Duration, alive: Alive)
where
    Alive: Fn() -> Answer + Send + Sync + 'static,
    Answer: Future<Output = bool> + Send + 'static,
{
    let mut turns = tokio::time::interval(every);
    loop {
        turns.tick().await;
        match timeout(ANSWER_MAX.min(every), alive()).await {
            Ok(true) => manager.say(&Word::Alive),
            _ => tracing::error!(
                "a part of this program does not get on; the service manager is not told that it is alive"
            ),
        }
    }
}

async fn reload(manager: Arc<notify::Manager>, path: PathBuf, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        manager.say(&Word::Reloading);
        match settings::reload(&path) {
            Ok(done) => tracing::info!("{done}"),
            Err(error) => tracing::error!(%error, "the settings stay as they were"),
        }
        manager.say(&Word::Ready);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::sync::atomic::{AtomicBool, Ordering};

    fn listener(name: &str) -> (UnixDatagram, String) {
        let name = format!("umbra-{name}-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        (socket, format!("@{name}"))
    }

    fn heard(socket: &UnixDatagram) -> Vec<String> {
        let mut bytes = [0; 256];
        let next = || socket.recv(&mut bytes).ok().map(|len| String::from_utf8_lossy(&bytes[..len]).into_owned());
        std::iter::from_fn(next).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_alive_for_as_long_as_its_heart_beats() {
        let (socket, address) = listener("alive");
        let manager = Arc::new(notify::Manager::new(&address, Some("60000000")));
        let well = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&well);
        let every = manager.alive_every().unwrap();
        tokio::spawn(beat(manager, every, move || {
            let well = asked.load(Ordering::SeqCst);
            async move {
                if !well {
                    // A part that does not answer at all.
                    std::future::pending::<()>().await;
                }
                true
            }
        }));
        tokio::time::sleep(Duration::from_secs(95)).await;
        assert_eq!(heard(&socket), ["WATCHDOG=1"; 4], "at 0, 30, 60 and 90 s");
        well.store(false, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(heard(&socket), [""; 0], "stuck");
        well.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!heard(&socket).is_empty(), "it got on again");
    }
}
