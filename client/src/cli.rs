//! What does a person type? `umbra VERB`.
//!
//! | file | question |
//! |---|---|
//! | `args` | which commands and options are there? |
//! | `run` | which call does each make? |
//! | `show` | how is its answer shown? |
//! | `login` | how does a person log in? |
//! | `callback` | how does a browser bring back what an identity provider said? |
//! | `mfa` | how does a person add a second factor, and give one? |
//! | `passkey` | how does a browser make or show a passkey? |
//! | `input` | where do passwords and codes come from? |
//!
//! Tables, JSON, errors and questions are `node::cli`'s.

mod args;
mod browser;
mod callback;
mod input;
mod login;
mod mfa;
mod passkey;
mod run;
mod show;

#[cfg(test)]
mod tests;

pub use args::{DaemonArgs, GuardianArgs};
pub(crate) use run::token_fits;

use args::{Args, Command};
use clap::Parser as _;
use node::cli::{Failure, Output, start_log};
use std::process::ExitCode;

/// The program.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        // Help and version with 0, errors of usage with 2.
        Err(error) => return Output::usage(&error.render().to_string(), error.exit_code()),
    };
    host::keyfile::close_umask();
    let mut output = Output::new("umbra", args.json);
    // Before there is a second thread.
    if let Command::Daemon(DaemonArgs { user: Some(user), state, .. }) = &args.command
        && let Err(failure) = node::become_user(user, state, &args.socket)
    {
        return output.fail(&failure);
    }
    // A command makes one call: threads would take longer to start than it lasts.
    let mut builder = match args.command {
        Command::Daemon(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder.worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return output.fail(&Failure::failed(format!("no threads to run in: {error}"))),
    };
    if let Command::Daemon(daemon) = &args.command {
        start_log();
        return match runtime.block_on(crate::daemon::run(daemon)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => output.fail(&Failure::failed(format!("{error:#}"))),
        };
    }
    if let Command::Guardian(guardian) = &args.command {
        start_log();
        return match runtime.block_on(crate::guardian::run(guardian)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => output.fail(&Failure::failed(format!("the guardian: {error:#}"))),
        };
    }
    match runtime.block_on(run::run(args, &mut output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.fail(&failure),
    }
}
