//! Who answers names when the client is killed? A small process beside the daemon that waits for its end, and then stands in
//! as the machine's resolver: what is the organisation's is not answered and does not leave, other names go on.
//!
//! The daemon holds the guardian's standard input. A word there is a farewell: nothing is to be done. Its end without one is
//! a death. The next daemon, or `umbra down --force`, dismisses the guardian by a connection to its socket. Whoever kills
//! the guardian as well has no names: resolv.conf leads to the resolver's address, which a blackhole route covers.

mod stand_in;

use crate::cli::{DaemonArgs, GuardianArgs};
use anyhow::Result;
use host::keyfile;
use host::local::LocalListener;
use host::netlink::Netlink;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::sync::oneshot;

/// How long a guardian may take to be gone.
const GONE_MAX: Duration = Duration::from_secs(5);
/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// The pause before one that ended too early is replaced.
const AGAIN: Duration = Duration::from_secs(5);

/// Where the guardian is dismissed.
fn socket(state: &Path) -> PathBuf {
    state.join("guardian.sock")
}

/// The daemon's hold on its guardian; dropped, it is a farewell, too.
pub struct Guardian {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    input: Option<ChildStdin>,
    farewell: bool,
    gone: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps one running until the farewell.
    fn keep(&self, options: &DaemonArgs) {
        loop {
            let mut state = self.lock();
            if state.farewell {
                break;
            }
            let spawned = command(options).spawn();
            let why = match spawned {
                Ok(mut child) => {
                    state.input = child.stdin.take();
                    drop(state);
                    child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
                }
                Err(error) => {
                    drop(state);
                    error.to_string()
                }
            };
            let mut state = self.lock();
            state.input = None;
            if state.farewell {
                break;
            }
            tracing::warn!(%why, "the guardian ended: names would not resolve if this program were killed now");
            let waited = self.changed.wait_timeout_while(state, AGAIN, |state| !state.farewell);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
        self.lock().gone = true;
        self.changed.notify_all();
    }

    fn say_farewell(&self) {
        let mut state = self.lock();
        state.farewell = true;
        if let Some(mut input) = state.input.take() {
            // One that is gone needs none.
            let _ = input.write_all(b".");
        }
        drop(state);
        self.changed.notify_all();
    }
}

fn command(options: &DaemonArgs) -> Command {
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = std::env::args_os().next() {
        command.arg0(name);
    }
    command.arg("guardian").arg("--state").arg(&options.state);
    command.arg("--resolv-conf").arg(&options.resolv_conf).arg("--device").arg(&options.device);
    // The service manager hears the daemon, nobody else.
    command.env_remove(host::notify::SOCKET).env_remove(host::notify::WATCHDOG);
    // In a group of its own: what a terminal or a script sends to the daemon's group is not meant for it.
    command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
    command
}

impl Guardian {
    /// Starts one, and another where it ends before its time.
    pub fn start(options: &DaemonArgs) -> Self {
        let shared = Arc::new(Shared::default());
        let (keeping, options) = (Arc::clone(&shared), options.clone());
        let spawned = std::thread::Builder::new().name("guardian".to_owned()).spawn(move || keeping.keep(&options));
        if let Err(error) = spawned {
            tracing::warn!(%error, "there is no guardian: names would not resolve if this program were killed");
            shared.lock().gone = true;
        }
        Self { shared }
    }

    /// Says farewell, and waits until it is gone.
    pub async fn stand_down(self) {
        self.shared.say_farewell();
        let deadline = tokio::time::Instant::now() + GONE_MAX;
        while !self.shared.lock().gone && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.shared.say_farewell();
    }
}

/// Ends the guardian that a killed daemon left; tells whether there was one. Its device is gone when this returns.
pub async fn dismiss(state: &Path, device: &str) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket(state)).await else { return false };
    let gone = async {
        // It says nothing; the connection ends with it.
        let _ = stream.read(&mut [0; 1]).await;
        while let Ok(netlink) = Netlink::open()
            && netlink.index(device).await.is_ok()
        {
            tokio::time::sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(GONE_MAX, gone).await.is_err() {
        tracing::warn!("the guardian of a killed client does not go; end it: it is the process `umbra guardian`");
    }
    true
}

/// The guardian: waits for a farewell, a dismissal or a death.
pub async fn run(options: &GuardianArgs) -> Result<()> {
    keyfile::create_folder(&options.state)?;
    let listener = LocalListener::bind(&socket(&options.state), 0o600, None)?;
    let dismissed = tokio::select! {
        farewell = daemon_ends() => match farewell {
            true => return Ok(()),
            false => None,
        },
        stream = dismissal(&listener) => Some(stream),
    };
    if dismissed.is_some() {
        return Ok(());
    }
    tracing::warn!("the client is dead: names of the organisation do not leave this machine, others resolve as before");
    tokio::select! {
        ended = stand_in::run(options) => ended,
        // Held until the device goes with this process.
        stream = dismissal(&listener) => { drop(stream); Ok(()) }
    }
}

/// Waits for the end of the daemon's hold; true: it said farewell.
async fn daemon_ends() -> bool {
    let (sender, ended) = oneshot::channel();
    // A thread of its own: nothing waits for it when this program ends.
    std::thread::spawn(move || {
        let read = std::io::stdin().lock().read(&mut [0; 1]);
        let _ = sender.send(matches!(read, Ok(1)));
    });
    ended.await.unwrap_or(false)
}

/// Waits for root, or for whoever runs us, to connect.
async fn dismissal(listener: &LocalListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) if peer.uid == 0 || peer.uid == keyfile::own_uid() => return stream,
            Ok(_) => {}
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}
