//! What does somebody at the controller's machine type? `umbra-controller NOUN VERB`.
//!
//! | file | question |
//! |---|---|
//! | `args` | which commands and options are there? |
//! | `admin` | which call does each make, and how is its answer shown? |
//! | `audit` | how is the trail shown, taken out, and verified? |
//! | `backup` | how do backups go out, and come back? |
//! | `input` | where do policy files come from? |
//! | `start` | what do `init` and `serve` do before the rest takes over? |
//!
//! Passwords, tables, JSON and errors are `node::cli`'s.

mod admin;
mod args;
mod audit;
mod backup;
mod input;
mod start;

#[cfg(test)]
mod tests;

pub use args::ServeArgs;

use args::{AdminCommand, Args, AuditCommand, BackupCommand, Command};
use clap::Parser as _;
use node::cli::{Failure, Output};
use std::ffi::OsString;
use std::process::ExitCode;

/// The program, with its arguments.
pub(crate) fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            // Help and version go to standard output with 0, everything else to standard error with 2.
            return Output::usage(&error.render().to_string(), error.exit_code());
        }
    };
    host::keyfile::close_umask();
    host::memory::give_back_large_blocks();
    let mut output = Output::new("umbra-controller", args.json);
    if let Err(failure) = start::become_user(&args) {
        return output.fail(&failure);
    }
    // A command makes one call: threads would take longer to start than it lasts.
    let mut builder = match args.command {
        Command::Serve(_) => tokio::runtime::Builder::new_multi_thread(),
        Command::Init(_) | Command::Restore(_) | Command::Admin(_) => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output.fail(&Failure::failed(format!("no threads to run in: {error}"))),
    };
    match runtime.block_on(run(args, &mut output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.fail(&failure),
    }
}

/// Runs a command from a laptop.
async fn run_remotely(args: Args, output: &mut Output) -> Result<(), Failure> {
    let Command::Admin(command) = args.command else {
        return Err(Failure::usage("this command is for the controller's own machine: leave --remote out"));
    };
    if let Some(why) = admin::local_only(&command) {
        return Err(Failure::usage(format!("{why}: run it there, without --remote")));
    }
    let mut client = admin::connect_remote(&args.client_socket).await?;
    admin::run(&mut client, command, output).await
}

async fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    if args.remote && !is_on_files(&args.command) {
        return run_remotely(args, output).await;
    }
    match args.command {
        Command::Init(init) => start::init(&args.state, init, output).await,
        Command::Restore(restore) => backup::restore(&args.state, restore, output).await,
        Command::Admin(AdminCommand::Backup(BackupCommand::Keygen { out })) => backup::keygen(&out, output),
        Command::Admin(AdminCommand::Audit(AuditCommand::Verify(args))) if !args.offline.is_empty() => {
            audit::verify_offline(&args, output)
        }
        Command::Admin(AdminCommand::Audit(AuditCommand::AcceptLoss { reason })) => {
            audit::accept_loss(&args.state, &reason, output).await
        }
        Command::Serve(serve) => start::serve(&args.state, &args.socket, serve).await,
        Command::Admin(command) => {
            let mut client = admin::connect(&args.socket).await?;
            admin::run(&mut client, command, output).await
        }
    }
}

/// Does it need no controller at all?
fn is_on_files(command: &Command) -> bool {
    match command {
        Command::Admin(AdminCommand::Audit(AuditCommand::Verify(verify))) => !verify.offline.is_empty(),
        Command::Admin(AdminCommand::Backup(BackupCommand::Keygen { .. })) => true,
        _ => false,
    }
}
