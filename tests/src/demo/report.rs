//! How is a demonstration told: headings, commands with their output, checks, and the last line?

use crate::lab::{Daemon, Finished, Name};
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Instant;

/// Lines of each program's log that a failed check shows.
const LOG_LINES: usize = 6;
const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "1;31";
const GREEN: &str = "32";

/// What was told so far.
#[derive(Debug)]
pub struct Report {
    shown: bool,
    colour: bool,
    started: Instant,
    headings: usize,
    passed: usize,
    failed: usize,
}

impl Report {
    /// Nothing yet. Colour only on a terminal, and not where NO_COLOR is set.
    pub fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let colour = wanted && io::stdout().is_terminal();
        Self { shown: true, colour, started: Instant::now(), headings: 0, passed: 0, failed: 0 }
    }

    fn painted(&self, paint: &str, text: impl Display) -> String {
        if self.colour { format!("\x1b[{paint}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// Where standard output is closed, nobody is left to be told; the exit code still says how it ended.
    fn line(&self, text: &str) {
        if self.shown {
            let _nobody_reads = writeln!(io::stdout(), "{text}");
        }
    }

    /// A step begins.
    pub fn heading(&mut self, text: &str) {
        self.headings += 1;
        self.line("");
        self.line(&self.painted(BOLD, format!("{}. {text}", self.headings)));
    }

    /// A word between the checks.
    pub fn note(&self, text: &str) {
        self.line(&self.painted(DIM, format!("       {text}")));
    }

    /// A command and what it said.
    pub fn command(&self, host: Name, words: &[&str], finished: &Finished) {
        self.line(&self.painted(DIM, format!("       {host}$ {}", words.join(" "))));
        for line in finished.stdout.lines().chain(finished.stderr.lines()) {
            self.line(&self.painted(DIM, format!("       | {line}")));
        }
    }

    /// One check: `Ok` with what was seen, or what went wrong. Tells whether it passed.
    pub fn check(&mut self, what: &str, outcome: &Result<String, String>) -> bool {
        let (word, seen) = match outcome {
            Ok(seen) => (self.painted(GREEN, "ok"), seen),
            Err(fault) => (self.painted(RED, "FAILED"), fault),
        };
        let gap = if outcome.is_ok() { "     " } else { " " };
        let seen = seen.trim_end().replace('\n', "\n       ");
        self.line(&if seen.is_empty() { format!("{word}{gap}{what}") } else { format!("{word}{gap}{what}: {seen}") });
        *if outcome.is_ok() { &mut self.passed } else { &mut self.failed } += 1;
        outcome.is_ok()
    }

    /// The last lines of a program's log.
    pub fn log(&self, host: Name, daemon: &Daemon) {
        let lines = daemon.lines();
        let state = if daemon.is_running() { "" } else { " (it has ended)" };
        self.line(&self.painted(DIM, format!("       last words on {host}{state}:")));
        for line in lines.iter().skip(lines.len().saturating_sub(LOG_LINES)) {
            self.line(&self.painted(DIM, format!("       | {line}")));
        }
    }

    /// The last line, and the exit code that says the same.
    pub fn end(&self) -> ExitCode {
        let (passed, failed) = (self.passed, self.failed);
        self.line("");
        self.line(&self.painted(DIM, format!("{:.1} s in all", self.started.elapsed().as_secs_f32())));
        if failed == 0 && passed > 0 {
            self.line(&self.painted(GREEN, format!("demo: {passed} checks passed")));
            return ExitCode::SUCCESS;
        }
        self.line(&self.painted(RED, format!("demo: {failed} of {} checks failed", passed + failed)));
        ExitCode::FAILURE
    }
}

impl Default for Report {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_spoils_it_and_nothing_is_no_success() {
        let mut report = Report { shown: false, ..Report::new() };
        let code = |report: &Report| format!("{:?}", report.end());
        assert_eq!(code(&report), format!("{:?}", ExitCode::FAILURE));
        assert!(report.check("it holds", &Ok(String::new())));
        assert_eq!(code(&report), format!("{:?}", ExitCode::SUCCESS));
        assert!(!report.check("it holds", &Err("it does not".to_owned())));
        assert_eq!(code(&report), format!("{:?}", ExitCode::FAILURE));
    }
}
