//! When did the last byte of a download arrive?

use crate::lab::{Host, LabError};
use host::namespace::{ProcessHandle, Signal};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// A download that runs, watched from outside of its host. Dropping it kills it.
#[derive(Debug)]
pub struct Download {
    child: Child,
    /// How many bytes had come, and when.
    arrivals: Receiver<(u64, Instant)>,
}

impl Download {
    /// Starts it.
    pub fn start(host: &Host, url: &str) -> Result<Self, LabError> {
        let mut command = host.command("umbra-lab");
        command.args(["probe", "--patience=10000", "http", url, "--count=1"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(LabError::while_doing("start the download"))?;
        let (sender, arrivals) = mpsc::channel();
        if let Some(output) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let now = Instant::now();
                    let Ok(bytes) = line.parse() else { continue };
                    if sender.send((bytes, now)).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self { child, arrivals })
    }

    /// Waits until so many bytes have come.
    pub fn wait_for_bytes(&self, wanted: u64, limit: Duration) -> Result<u64, String> {
        let deadline = Instant::now() + limit;
        let mut came = 0;
        while came < wanted {
            let left = deadline.saturating_duration_since(Instant::now());
            (came, _) = self.arrivals.recv_timeout(left).map_err(|_| format!("it stopped after {came} bytes"))?;
        }
        Ok(came)
    }

    /// The arrivals so far that were not asked for yet, and whether it still runs.
    pub fn arrived(&self) -> (Vec<Instant>, bool) {
        let mut times = Vec::new();
        loop {
            match self.arrivals.try_recv() {
                Ok((_, at)) => times.push(at),
                Err(error) => return (times, error == mpsc::TryRecvError::Empty),
            }
        }
    }

    /// Waits until it ends; gives how many bytes came in all, and when the last of them did.
    pub fn wait_for_end(&self, limit: Duration) -> Result<(u64, Instant), String> {
        let deadline = Instant::now() + limit;
        let mut last = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.arrivals.recv_timeout(left) {
                Ok(arrival) => last = Some(arrival),
                Err(RecvTimeoutError::Disconnected) => return last.ok_or_else(|| "no byte came".to_owned()),
                Err(RecvTimeoutError::Timeout) => return Err(format!("it still runs after {limit:?}")),
            }
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if let Ok(process) = ProcessHandle::open(self.child.id()) {
            let _gone_already = process.signal(Signal::Kill);
        }
        let _status = self.child.wait();
    }
}
