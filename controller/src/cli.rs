//! What does somebody at the controller's machine type? `umbra-controller NOUN VERB`.
//!
//! | file | question |
//! |---|---|
//! | `args` | which commands and options are there? |
//! | `admin` | which call does each make, and how is its answer shown? |
//! | `connect` | how does a command reach the controller? |
//! | `input` | where do passwords and files come from? |
//! | `output` | how are tables, JSON and errors written? |
//! | `start` | what do `init` and `serve` do before the rest takes over? |

mod admin;
mod args;
mod connect;
mod input;
mod output;
mod start;

#[cfg(test)]
mod tests;

pub use args::ServeArgs;

use args::{Args, Command};
use clap::Parser as _;
use output::Output;
use std::ffi::OsString;
use std::process::ExitCode;

/// How a command failed. The numbers are documented and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It failed.
    Failed = 1,
    /// It was not understood.
    Usage = 2,
    /// The caller may not.
    Denied = 3,
    /// The controller does not answer.
    NotConnected = 4,
}

/// A failure, told in the user's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub exit: Exit,
    pub text: String,
}

impl Failure {
    fn new(exit: Exit, text: impl ToString) -> Self {
        Self { exit, text: text.to_string() }
    }
    fn failed(text: impl ToString) -> Self {
        Self::new(Exit::Failed, text)
    }
    fn usage(text: impl ToString) -> Self {
        Self::new(Exit::Usage, text)
    }
}

/// The program, with its arguments.
pub(crate) fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            // Help and version go to standard output with 0, everything else to standard error with 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let mut output = Output::new(args.json);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output.fail(&Failure::failed(format!("no threads to run in: {error}"))),
    };
    match runtime.block_on(run(args, &mut output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.fail(&failure),
    }
}

async fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    match args.command {
        Command::Init(init) => start::init(&args.state, init, output).await,
        Command::Serve(serve) => start::serve(&args.state, &args.socket, serve).await,
        Command::Admin(command) => {
            let mut client = connect::connect(&args.socket).await?;
            admin::run(&mut client, command, output).await
        }
    }
}
