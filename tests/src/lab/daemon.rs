//! How does the lab keep a program running, wait for what it says, kill it and start it again?

use super::error::LabError;
use host::namespace::{ProcessHandle, Signal};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, PipeReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Lines kept in memory since the last start; later ones are in the log file only, and can not be waited for.
const LINES_MAX: usize = 100_000;
/// Lines that an error message repeats.
const TAIL_LINES: usize = 20;

/// A program that stays. Dropping it kills the program.
#[derive(Debug)]
pub struct Daemon {
    what: String,
    command: Command,
    log: PathBuf,
    life: Arc<Life>,
    process: ProcessHandle,
    pid: u32,
}

/// What is known about one run of the program.
#[derive(Debug, Default)]
struct Life {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    ended: Option<Option<ExitStatus>>,
}

impl Life {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

impl Daemon {
    pub(super) fn start(what: String, mut command: Command, log: PathBuf) -> Result<Self, LabError> {
        let (life, process, pid) = launch(&what, &mut command, &log)?;
        Ok(Self { what, command, log, life, process, pid })
    }

    /// The process id, as the machine counts.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How many lines it has said since its last start: a place to wait from, see [`Daemon::wait_for_line_after`].
    pub fn mark(&self) -> usize {
        self.life.lock().lines.len()
    }

    /// All it has said since its last start, on both its outputs.
    pub fn lines(&self) -> Vec<String> {
        self.life.lock().lines.clone()
    }

    /// Waits until it says (or has said since its last start) a line that contains `part`; gives that line.
    pub fn wait_for_line(&self, part: &str, limit: Duration) -> Result<String, LabError> {
        self.wait_for_line_after(0, part, limit)
    }

    /// As `wait_for_line`, for lines said after `mark`.
    pub fn wait_for_line_after(&self, mark: usize, part: &str, limit: Duration) -> Result<String, LabError> {
        let found = |state: &State| state.lines.iter().skip(mark).find(|line| line.contains(part)).cloned();
        let what = format!("{} said {part:?}", self.what);
        self.wait(limit, what, |state| found(state).map(Ok).or_else(|| state.ended.map(Err)))?.map_err(|status| {
            LabError::Ended {
                program: self.what.clone(),
                ending: describe(status),
                what: format!("it said {part:?}"),
                tail: self.tail(),
            }
        })
    }

    /// Waits until it ends by itself.
    pub fn wait_for_end(&self, limit: Duration) -> Result<Option<ExitStatus>, LabError> {
        self.wait(limit, format!("the end of {}", self.what), |state| state.ended)
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        self.life.lock().ended.is_none()
    }

    fn wait<T>(&self, limit: Duration, what: String, done: impl Fn(&State) -> Option<T>) -> Result<T, LabError> {
        let deadline = Instant::now() + limit;
        let mut state = self.life.lock();
        loop {
            if let Some(result) = done(&state) {
                return Ok(result);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(state);
                return Err(LabError::TooLate { what, limit, tail: self.tail() });
            }
            let waited = self.life.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn tail(&self) -> String {
        let state = self.life.lock();
        let first = state.lines.len().saturating_sub(TAIL_LINES);
        state.lines.iter().skip(first).map(|line| format!("    {line}\n")).collect()
    }

    /// Sends a signal; nothing happens when it has ended already.
    pub fn signal(&self, signal: Signal) {
        let _gone_already = self.process.signal(signal);
    }

    /// Kills it at once (SIGKILL) and waits until it is gone.
    pub fn kill9(&self) -> Result<(), LabError> {
        self.signal(Signal::Kill);
        self.wait_for_end(Duration::from_secs(10)).map(|_| ())
    }

    /// Asks it to end (SIGTERM) and waits for that.
    pub fn stop(&self, limit: Duration) -> Result<Option<ExitStatus>, LabError> {
        self.signal(Signal::Terminate);
        self.wait_for_end(limit)
    }

    /// Starts it again with the same command, after killing it if it still runs.
    pub fn restart(&mut self) -> Result<(), LabError> {
        self.kill9()?;
        (self.life, self.process, self.pid) = launch(&self.what, &mut self.command, &self.log)?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.signal(Signal::Kill);
    }
}

fn launch(what: &str, command: &mut Command, log: &PathBuf) -> Result<(Arc<Life>, ProcessHandle, u32), LabError> {
    let failed = || LabError::while_doing(format!("{what} could not be started"));
    let file = OpenOptions::new().create(true).append(true).open(log).map_err(failed())?;
    let (reader, writer) = io::pipe().map_err(failed())?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().map_err(failed())?).stderr(writer);
    let spawned = command.spawn();
    // The command would keep the pipe's end open, and the reader would never see the program's end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let child = spawned.map_err(failed())?;
    let pid = child.id();
    let process = ProcessHandle::open(pid).map_err(failed())?;
    let life = Arc::new(Life::default());
    let (for_lines, for_end) = (life.clone(), life.clone());
    let reading = thread::spawn(move || read_lines(reader, file, &for_lines));
    thread::spawn(move || await_end(child, reading, &for_end));
    Ok((life, process, pid))
}

fn read_lines(reader: PipeReader, mut file: File, life: &Life) {
    for line in BufReader::new(reader).split(b'\n') {
        let Ok(line) = line else { return };
        let line = String::from_utf8_lossy(&line).into_owned();
        let _disk_full = writeln!(file, "{line}");
        life.change(|state| {
            if state.lines.len() < LINES_MAX {
                state.lines.push(line);
            }
        });
    }
}

fn await_end(mut child: Child, reading: thread::JoinHandle<()>, life: &Life) {
    let status = child.wait().ok();
    // Its last words come first, unless a grandchild keeps the pipe open.
    let patience = Instant::now() + Duration::from_millis(200);
    while !reading.is_finished() && Instant::now() < patience {
        thread::yield_now();
    }
    life.change(|state| state.ended = Some(status));
}

fn describe(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "unknown how".to_owned(), |status| status.to_string())
}
