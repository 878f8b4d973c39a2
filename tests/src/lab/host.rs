//! How is something run inside one host of the lab?

use super::daemon::Daemon;
use super::error::LabError;
use super::topology::Name;
use host::namespace::{Namespaces, ProcessHandle, Signal};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// What all programs of the lab leave out, as their option `--offload` names it, where nothing else is said to them.
pub const OFFLOAD: &str = "UMBRA_LAB_OFFLOAD";
/// The variables that tell them.
const OFFLOAD_OF: [&str; 3] = ["UMBRA_OFFLOAD", "UMBRA_GATEWAY_OFFLOAD", "UMBRA_CONTROLLER_OFFLOAD"];

/// One host: a cheap handle, good for as long as its world lives.
#[derive(Debug, Clone)]
pub struct Host {
    name: Name,
    holder: u32,
    namespaces: Namespaces,
    folder: PathBuf,
}

/// What a command did.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote.
    pub stdout: String,
    /// What it complained.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Finished {
    /// Whether it ended with 0.
    pub fn success(&self) -> bool {
        self.status.success()
    }
}

impl Host {
    pub(super) fn new(name: Name, holder: u32, namespaces: Namespaces, folder: PathBuf) -> Self {
        Self { name, holder, namespaces, folder }
    }

    /// The process that holds this host open.
    pub(super) fn holder_pid(&self) -> u32 {
        self.holder
    }

    /// The kernel's number of the host's network namespace.
    pub fn network(&self) -> u64 {
        self.namespaces.network()
    }

    /// Which host this is.
    pub fn name(&self) -> Name {
        self.name
    }

    /// A command that will run inside this host, with the programs of the lab (`umbra`, `umbra-controller`,
    /// `umbra-gateway`, `umbra-lab`) first on its PATH. Nothing runs yet; add what you like and spawn it, or hand it to
    /// [`Host::run`] or [`Host::start`].
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("PATH", self.path());
        if let Some(steps) = std::env::var_os(OFFLOAD) {
            command.envs(OFFLOAD_OF.map(|name| (name, steps.clone())));
        }
        self.namespaces.enter(&mut command);
        command
    }

    fn path(&self) -> OsString {
        let mut path = OsString::from(self.folder.join("bin"));
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        path.push(":/usr/local/sbin:/usr/sbin:/sbin");
        path
    }

    /// Runs `words` (program and arguments) to its end, at most `limit`; then it is killed and `TooLate` returned.
    pub fn run(&self, words: &[&str], limit: Duration) -> Result<Finished, LabError> {
        let (program, arguments) = words.split_first().unwrap_or((&"true", &[]));
        let mut command = self.command(program);
        command.args(arguments);
        self.run_command(&mut command, limit)
    }

    /// As `run`, for a command made by [`Host::command`]. Its input is empty unless set.
    pub fn run_command(&self, command: &mut Command, limit: Duration) -> Result<Finished, LabError> {
        run_to_its_end(command, &format!("{:?} on {}", command.get_program(), self.name), limit)
    }

    /// Starts a program that stays; its lines go to `logs/LABEL.log` of the world. It ends with the [`Daemon`] or the
    /// world, whichever ends first.
    pub fn start(&self, label: &str, command: Command) -> Result<Daemon, LabError> {
        let log = self.folder.join("logs").join(format!("{label}.log"));
        Daemon::start(format!("{label} on {}", self.name), command, log)
    }

    /// Where a file of this host under `/etc/umbra` or `/var/lib/umbra` lies for the lab itself; None for other paths.
    pub fn outside_path(&self, path: &str) -> Option<PathBuf> {
        let part = |prefix: &str, own: &str| {
            let rest = Path::new(path).strip_prefix(prefix).ok()?;
            Some(self.folder.join("hosts").join(self.name.as_str()).join(own).join(rest))
        };
        part("/etc/umbra", "etc").or_else(|| part("/var/lib/umbra", "lib"))
    }
}

/// Runs a command with no input; what takes longer than `limit` is killed, and `TooLate` returned with what it had said.
pub fn run_to_its_end(command: &mut Command, what: &str, limit: Duration) -> Result<Finished, LabError> {
    let doing = |error| LabError::while_doing(what.to_owned())(error);
    let started = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(doing)?;
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let ended = end_within(&child, limit)?;
    let status = child.wait().map_err(doing)?;
    let took = started.elapsed();
    let (stdout, stderr) = (received(&stdout), received(&stderr));
    if !ended {
        return Err(LabError::TooLate { what: format!("the end of {what}"), limit, tail: stdout + &stderr });
    }
    Ok(Finished { status, stdout, stderr, took })
}

/// Waits for the end of a process for so long; then it is killed. Says whether it ended by itself.
pub fn end_within(child: &Child, limit: Duration) -> Result<bool, LabError> {
    let process = ProcessHandle::open(child.id()).map_err(LabError::while_doing("pidfd_open"))?;
    let ended = process.wait(limit).map_err(LabError::while_doing("poll"))?;
    if !ended {
        let _gone_already = process.signal(Signal::Kill);
    }
    Ok(ended)
}

/// Reads a pipe to its end on a thread of its own.
fn collect(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = pipe.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut bytes));
        let _nobody_waits = sender.send(read.map(|_| bytes));
    });
    receiver
}

/// What a pipe held. A grandchild may keep the pipe open after the command's end: its words are not waited for.
fn received(pipe: &mpsc::Receiver<io::Result<Vec<u8>>>) -> String {
    let bytes = pipe.recv_timeout(Duration::from_secs(2)).ok().and_then(Result::ok).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
