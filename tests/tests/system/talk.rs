//! Programs that are used while something happens: connections that stay open, and what the hosts say of themselves.

use crate::silence::attack;
use crate::support::SOON;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};
use umbra_tests::lab::{Name, World};

/// The pace of a connection that is kept busy.
const PACE: Duration = Duration::from_millis(50);

/// A program that is spoken to line by line.
pub struct Talk {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Talk {
    /// Starts `umbra-lab WORDS` on a host.
    pub fn start(world: &World, from: Name, words: &[&str]) -> Self {
        Self::with(world, from, "umbra-lab", words)
    }

    /// Starts another program.
    pub fn with(world: &World, from: Name, program: &str, words: &[&str]) -> Self {
        let mut command = world.host(from).command(program);
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take(), child.stdout.take().unwrap());
        let (sender, answers) = channel();
        thread::spawn(move || BufReader::new(output).lines().map_while(Result::ok).try_for_each(|l| sender.send(l)));
        Self { child, input, answers }
    }

    /// A TCP connection to an echo service, `HOST:PORT`, that stays open.
    pub fn open(world: &World, from: Name, to: &str) -> Self {
        let mut talk = Self::start(world, from, &["probe", "--patience=8000", "echo", to]);
        assert!(talk.answers(), "no connection to {to}: {}", talk.last_words());
        talk
    }

    /// Says a line.
    pub fn say(&mut self, line: &str) {
        let said = self.input.as_mut().map(|input| writeln!(input, "{line}"));
        assert!(matches!(said, Some(Ok(()))), "{said:?}: {}", self.last_words());
    }

    /// Says no more.
    pub fn close(&mut self) {
        self.input = None;
    }

    /// The next line that it says.
    pub fn hear(&self, limit: Duration) -> Option<String> {
        self.answers.recv_timeout(limit).ok()
    }

    /// Sends a line; whether it came back.
    pub fn answers(&mut self) -> bool {
        self.input.as_mut().is_some_and(|input| writeln!(input, "a line").is_ok()) && self.hear(SOON).is_some()
    }

    /// Keeps it busy; true: it still answers after that time.
    pub fn lives_for(&mut self, time: Duration) -> bool {
        let started = Instant::now();
        while started.elapsed() < time {
            // The pause ends early where the connection does.
            if self.answers.recv_timeout(PACE) != Err(RecvTimeoutError::Timeout) || !self.answers() {
                return false;
            }
        }
        true
    }

    /// What it complained before it ended; it is ended if it has not.
    pub fn last_words(&mut self) -> String {
        let _gone_already = self.child.kill();
        let mut said = String::new();
        let _nothing_more = self.child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut said));
        said
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// Asks until it is so; says how long that took.
pub fn until(what: &str, limit: Duration, mut so: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < limit, "{what}: not within {limit:?}");
    }
    started.elapsed()
}

/// What a program answers with `--json`.
pub fn json(world: &World, host: Name, words: &[&str]) -> Value {
    let finished = world.host(host).run(words, SOON).unwrap();
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{words:?}: {error}: {finished:?}"))
}

/// What the gateway has dropped so far, by reason.
pub fn drops(world: &World) -> BTreeMap<String, u64> {
    let status = json(world, Name::Gateway, &["umbra-gateway", "status", "--json"]);
    serde_json::from_value(status["drops"].clone()).unwrap()
}

/// How often the gateway has dropped for a reason.
pub fn dropped(world: &World, reason: &str) -> u64 {
    drops(world).get(reason).copied().unwrap_or(0)
}

/// The sources of the connection tracking entries that grants have on the gateway, with their protocols.
pub fn tracked(world: &World) -> Vec<(String, String)> {
    let listed = attack(world, Name::Gateway, &["tracked"]);
    let entries = listed.lines().map(|line| line.split_once(' ').unwrap());
    let entries = entries.map(|(kind, ends)| (ends.split_once(' ').unwrap().0.to_owned(), kind.to_owned()));
    // Its own traffic, that of the name server for example, comes from other addresses.
    let own = ["10.20.", "203.0.113.", "fd20:", "2001:db8:", "127.", "::1", "fe80:", "10.77."];
    let pool = json(world, Name::Controller, &["umbra-controller", "status", "--json"]);
    let pool = pool["pool_v6"].as_str().unwrap().trim_end_matches("::/48").to_owned();
    entries.filter(|(source, _)| !own.iter().any(|own| source.starts_with(own)) && !source.starts_with(&pool)).collect()
}
