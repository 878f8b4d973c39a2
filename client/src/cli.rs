//! What does a person type? `umbra VERB`.
//!
//! | file | question |
//! |---|---|
//! | `args` | which commands and options are there? |
//! | `run` | which call does each make? |
//! | `show` | how is its answer shown? |
//! | `input` | where do passwords and answers come from? |
//! | `output` | how are tables, JSON and errors written? |

mod args;
mod input;
mod output;
mod run;
mod show;

#[cfg(test)]
mod tests;

pub use args::DaemonArgs;

use args::{Args, Command};
use clap::Parser as _;
use output::Output;
use std::io::IsTerminal as _;
use std::process::ExitCode;

/// How a command ended. The numbers are documented and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// It failed.
    Failed = 1,
    /// Denied: by policy, or to this caller.
    Denied = 3,
    /// The daemon, the controller or a gateway does not answer.
    NotConnected = 4,
}

/// A failure, told in the user's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    exit: Exit,
    text: String,
}

impl Failure {
    fn new(exit: Exit, text: impl ToString) -> Self {
        Self { exit, text: text.to_string() }
    }
    fn failed(text: impl ToString) -> Self {
        Self::new(Exit::Failed, text)
    }
}

/// The program.
pub fn main() -> ExitCode {
    // Prints help and version with 0, errors of usage with 2.
    let args = Args::parse();
    let mut output = Output::new(args.json);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return output.fail(&Failure::failed(format!("no threads to run in: {error}"))),
    };
    if let Command::Daemon(daemon) = &args.command {
        log();
        return match runtime.block_on(crate::daemon::run(daemon)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => output.fail(&Failure::failed(format!("{error:#}"))),
        };
    }
    match runtime.block_on(run::run(args, &mut output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.fail(&failure),
    }
}

fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("UMBRA_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .init();
}
