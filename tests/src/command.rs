//! What can one ask of `umbra-lab` on the command line?

use crate::check::{self, kill, power};
use crate::lab::topology::Name;
use crate::lab::{fabric, holder, standing};
use crate::{attacker, bench, demo, interop, measure, person, probe, program, provider, service};
use clap::{Parser, Subcommand};
use host::namespace;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

#[derive(Debug, Parser)]
#[command(
    name = "umbra-lab",
    about = "Whole networks of Umbra's programs on this machine: to look at, to try, to test",
    after_help = "Hosts: controller, gateway, gateway2, service, laptop, laptop2, stranger, neighbour.\n\
                  State: $UMBRA_LAB_DIR, or umbra-lab-UID in the system's folder for temporary files.",
    version
)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show a whole organisation on a network of its own, step by step, and check each step
    Demo,
    /// Bring up a network that stays until `down`
    Up(standing::Up),
    /// Run a command on a host of the network that is up
    Exec {
        /// Which host
        host: Name,
        /// The command and its arguments, after `--`
        #[arg(last = true, required = true)]
        words: Vec<OsString>,
    },
    /// Take the network down, with everything that runs in it
    Down,
    /// List the hosts of the network that is up, with their addresses
    Hosts {
        /// For programs: one JSON array
        #[arg(long)]
        json: bool,
    },
    /// A client for the lab's services, where the machine has none
    Probe(probe::Arguments),
    /// A program that asks the client who it is (SPIFFE Workload API)
    Program(program::Arguments),
    /// Take a figure of the whole system, in a network of its own
    Measure(measure::Arguments),
    /// Measure how fast Umbra is beside other programs
    #[command(subcommand)]
    Bench(bench::Arguments),
    /// Make bad days happen, many times, and count what may not come of them
    #[command(subcommand)]
    Check(check::Arguments),
    #[command(name = "__bare", hide = true)]
    Bare(bench::bare::Arguments),
    #[command(name = "__others", hide = true)]
    Others(bench::neighbours::Arguments),
    #[command(name = "__writer", hide = true)]
    Writer(power::load::Arguments),
    #[command(name = "__nag", hide = true)]
    Nag(kill::nag::Arguments),
    #[command(name = "__examine", hide = true)]
    Examine(power::examine::Arguments),
    #[command(name = "__fabric", hide = true)]
    Fabric(fabric::Arguments),
    #[command(name = "__host", hide = true)]
    Host { name: Name, folder: PathBuf },
    #[command(name = "__keep", hide = true)]
    Keep(standing::Keep),
    #[command(name = "__service", hide = true)]
    Service(service::Arguments),
    #[command(name = "__provider", hide = true)]
    Provider(provider::Arguments),
    #[command(name = "__person", hide = true)]
    Person(person::Arguments),
    #[command(name = "__attack", hide = true)]
    Attack(attacker::Arguments),
    #[command(name = "__witness", hide = true)]
    Witness(measure::witness::Arguments),
    #[command(name = "__end", hide = true)]
    End(interop::Arguments),
    #[command(name = "__as", hide = true)]
    As {
        uid: u32,
        gid: u32,
        #[arg(long = "group")]
        groups: Vec<u32>,
        #[arg(last = true, required = true)]
        words: Vec<OsString>,
    },
    #[command(name = "__addresses", hide = true)]
    Addresses,
}

/// The program. Nothing here may start a thread before `__fabric` and `exec` have changed their namespaces.
pub fn main() -> ExitCode {
    match run(Arguments::parse().what) {
        Ok(code) => code,
        Err(error) => {
            // Where standard error is gone, too, nothing is left to be told.
            let _ = writeln!(io::stderr(), "umbra-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: What) -> anyhow::Result<ExitCode> {
    match what {
        What::Demo => return demo::run(),
        What::Up(options) => standing::up(&options)?,
        What::Exec { host, words } => return Err(standing::exec(host, &words).into()),
        What::Down => standing::down()?,
        What::Hosts { json } => standing::hosts(json)?,
        What::Probe(arguments) => return probe::run(&arguments),
        What::Program(arguments) => return program::run(&arguments),
        What::Fabric(arguments) => fabric::run(&arguments)?,
        What::Host { name, folder } => {
            if let Err(error) = holder::hold(name, &folder) {
                // The fabric reads the first line and repeats it.
                writeln!(io::stdout(), "{error}")?;
                return Ok(ExitCode::FAILURE);
            }
        }
        What::Keep(options) => standing::keep(&options)?,
        What::Service(arguments) => service::run(&arguments)?,
        What::Provider(arguments) => provider::run(&arguments)?,
        What::Person(arguments) => person::run(&arguments)?,
        What::Attack(arguments) => attacker::run(&arguments)?,
        What::Bench(arguments) => return bench::run(&arguments),
        What::Check(arguments) => return check::run(&arguments),
        What::Bare(arguments) => bench::bare::run(&arguments)?,
        What::Others(arguments) => bench::neighbours::keep(&arguments)?,
        What::Writer(arguments) => power::load::write(&arguments)?,
        What::Nag(arguments) => kill::nag::run(&arguments)?,
        What::Examine(arguments) => power::examine::run(&arguments)?,
        What::Measure(arguments) => measure::run(&arguments)?,
        What::Witness(arguments) => measure::witness::run(&arguments)?,
        What::End(arguments) => interop::run(&arguments)?,
        What::As { uid, gid, groups, words } => return Err(execute_as(uid, gid, &groups, &words).into()),
        What::Addresses => standing::print_addresses()?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Becomes one of our programs as another user of this machine, who might not find it by its path; comes back only with an error.
fn execute_as(uid: u32, gid: u32, groups: &[u32], words: &[OsString]) -> io::Error {
    if let Err(error) = namespace::become_account(uid, gid, groups) {
        return error;
    }
    let Some((program, arguments)) = words.split_first() else { return io::Error::other("no program") };
    Command::new("/proc/self/exe").arg0(program).args(arguments).exec()
}
