//! The commands of `umbra-gateway`.

use crate::gate::Status;
use crate::leftovers;
use clap::{Args, Parser, Subcommand};
use host::nft::AllowIn;
use host::offload::Steps;
use model::net::Prefix;
use node::cli::{ADMIN_GROUP, Exit, Failure, Output, interval, start_log};
use node::local::Program;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

/// The running gateway, for the errors of those who cannot reach it.
const DAEMON: Program = Program { name: "gateway", start: "umbra-gateway up" };

/// Umbra's gateway: stands beside protected services and lets in exactly what was granted.
#[derive(Debug, Parser)]
#[command(name = "umbra-gateway", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Joins an organisation if need be, and serves until it is stopped.
    Up(Box<Up>),
    /// Shows what the running gateway knows of itself.
    Status(StatusArgs),
    /// Prints up to where the controller's audit trail went, as far as this gateway was told, as JSON for
    /// `umbra-controller audit verify --offline ... --witness FILE`.
    Witness(StatusArgs),
    /// Undoes what a gateway that was killed left on this host, where none is to be started again.
    Down(DownArgs),
}

const STATE: &str = "/var/lib/umbra/gateway";
const DEVICE: &str = "umbra-gw";

/// Options of `up`.
#[derive(Debug, Args)]
pub struct Up {
    /// A join file from your administrator, for the first start.
    #[arg(long, value_name = "FILE")]
    pub join: Option<PathBuf>,
    /// Joins the organisation of the join file without asking.
    #[arg(long)]
    pub yes: bool,
    /// What administrators will see this gateway as.
    #[arg(long, env = "UMBRA_GATEWAY_NAME", default_value_t = node::cli::host_name("gateway"))]
    pub name: String,
    /// Becomes this user of the machine, who owns state and socket; a service manager does that by itself.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Where keys and state are kept.
    #[arg(long, env = "UMBRA_GATEWAY_STATE", default_value = STATE)]
    pub state: PathBuf,
    /// The local socket for `status`.
    #[arg(long, env = "UMBRA_GATEWAY_SOCKET", default_value = "/run/umbra/gateway.sock")]
    pub socket: PathBuf,
    /// The one UDP port.
    #[arg(long, env = "UMBRA_GATEWAY_PORT", default_value_t = 443)]
    pub port: u16,
    /// Where clients reach this gateway, HOST:PORT, when it is not where the controller sees it (both in one network, a
    /// forwarded port). May be repeated. Without it, these are the public addresses, of either family, from which it would
    /// speak to its controller.
    #[arg(long = "endpoint", env = "UMBRA_GATEWAY_ENDPOINTS", value_name = "HOST:PORT", value_delimiter = ',', value_parser = endpoint)]
    pub endpoints: Vec<String>,
    /// How often the connection to the controller is probed and grants are renewed at least, from 1s to 60s.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = interval)]
    pub probe_every: Duration,
    /// How long a control key is used before the next one, from 1s to 24h.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = node::cli::key_life)]
    pub key_life: Duration,
    /// The TUN device's name.
    #[arg(long, default_value = DEVICE)]
    pub device: String,
    /// Leaves fast ways of the kernel out, for a driver that does not keep its promises: any of no-vnet, no-tso, no-uso, one-queue
    /// (TUN), no-gso, no-gro, small-buffers (UDP), with commas between them.
    #[arg(long, env = "UMBRA_GATEWAY_OFFLOAD", value_name = "STEPS", default_value = "")]
    pub offload: Steps,
    /// From which addresses grants speak to services, IPv4.
    #[arg(long, default_value = "198.18.0.0/15", value_name = "PREFIX")]
    pub nat_v4: Prefix,
    /// Lets what grants may send through Docker's and ufw's firewall: adds their documented exceptions (chains DOCKER-USER,
    /// ufw-user-forward), and removes them on exit. It lets nobody else through.
    #[arg(long)]
    pub pass_firewalls: bool,
    /// Answers nothing at all outside, not even on closed ports.
    #[arg(long)]
    pub dark: bool,
    /// With --dark: a port that stays open, as tcp:22 or udp:6000-6010. May be repeated.
    #[arg(long, value_name = "PROTOCOL:PORTS")]
    pub allow_in: Vec<AllowIn>,
    /// With --dark: shut SSH out even though somebody uses it now. Without it, a --dark that would do so is taken back after 60 s.
    #[arg(long)]
    pub cut_ssh: bool,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// The running gateway's local socket.
    #[arg(long, env = "UMBRA_GATEWAY_SOCKET", default_value = "/run/umbra/gateway.sock")]
    socket: PathBuf,
    /// For programs.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct DownArgs {
    /// Without a gateway that runs: a signal stops one, and then it undoes all by itself.
    #[arg(long, required = true)]
    force: bool,
    /// Where the gateway keeps keys and state.
    #[arg(long, env = "UMBRA_GATEWAY_STATE", default_value = STATE, value_name = "FOLDER")]
    state: PathBuf,
    /// The gateway's TUN device.
    #[arg(long, default_value = DEVICE)]
    device: String,
    #[command(flatten)]
    status: StatusArgs,
}

fn endpoint(text: &str) -> Result<String, String> {
    if proto::join::endpoint_is_sound(text) {
        return Ok(text.to_owned());
    }
    Err("expected HOST:PORT, for example gw.corp.example:443 or [2001:db8::1]:443".to_owned())
}

/// The program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version with 0, errors of usage with 2.
        Err(error) => return Output::usage(&error.render().to_string(), error.exit_code()),
    };
    host::keyfile::close_umask();
    let json = match &cli.command {
        Command::Up(_) => false,
        Command::Status(status) | Command::Witness(status) | Command::Down(DownArgs { status, .. }) => status.json,
    };
    let mut output = Output::new("umbra-gateway", json);
    // Before there is a second thread.
    if let Command::Up(up) = &cli.command
        && let Up { user: Some(user), state, socket, .. } = up.as_ref()
        && let Err(failure) = node::become_user(user, state, socket)
    {
        return output.fail(&failure);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output.fail(&Failure::failed(format!("no threads to run in: {error}"))),
    };
    match runtime.block_on(run(cli.command, &mut output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.fail(&failure),
    }
}

async fn run(command: Command, output: &mut Output) -> Result<(), Failure> {
    match command {
        Command::Up(options) => {
            start_log();
            crate::service::run(&options, output).await.map_err(|error| Failure::failed(format!("{error:#}")))
        }
        Command::Status(args) => status(&args, output).await,
        Command::Witness(args) => witness(&args, output).await,
        Command::Down(args) => force_down(&args, output).await,
    }
}

/// What a running gateway says of itself.
pub async fn ask(socket: &Path) -> Result<Status, Failure> {
    let refused = |error| node::local::refused(socket, DAEMON, &error);
    let mut stream = UnixStream::connect(socket).await.map_err(refused)?;
    let mut document = Vec::new();
    stream.read_to_end(&mut document).await.map_err(Failure::failed)?;
    serde_json::from_slice(&document).map_err(|_| {
        Failure::new(Exit::Denied, format!("the gateway did not answer: be root or in group `{ADMIN_GROUP}`"))
    })
}

/// Undoes what a dead gateway left. One that lives does that itself, and better: it also ends what it holds.
async fn force_down(args: &DownArgs, output: &mut Output) -> Result<(), Failure> {
    leftovers::refuse_if_alive(&args.status.socket).await?;
    leftovers::refuse_if_begun(&args.device).await?;
    host::checks::net_admin().map_err(Failure::failed)?;
    let report = leftovers::clear(&args.state, true).await;
    report.tell("`umbra-gateway up` serves again", output)
}

async fn witness(args: &StatusArgs, output: &mut Output) -> Result<(), Failure> {
    let kept = ask(&args.socket).await?.witness;
    let kept =
        kept.ok_or_else(|| Failure::failed("the controller has not told this gateway of its audit trail yet"))?;
    output.line(serde_json::to_string(&kept).map_err(Failure::failed)?)
}

async fn status(args: &StatusArgs, output: &mut Output) -> Result<(), Failure> {
    let s = ask(&args.socket).await?;
    if !output.json(&s)? {
        show(&s, output)?;
    }
    if s.connected {
        return Ok(());
    }
    let trouble = s.trouble.unwrap_or_else(|| "the first connection is being made".to_owned());
    Err(Failure::new(Exit::NotConnected, format!("not connected to the controller: {trouble}")))
}

fn show(s: &Status, output: &mut Output) -> Result<(), Failure> {
    output.field("gateway", format!("{}, fingerprint {}", s.gateway, s.fingerprint))?;
    output.field("organisation", format!("{}, fingerprint {}", s.organisation, s.organisation_fingerprint))?;
    output.field("controller", if s.connected { "connected" } else { "not connected" })?;
    output.field("confirmed", if s.confirmed { "yes" } else { "no: umbra-controller gateway confirm" })?;
    output.field("grants", format!("{} (state {})", s.grants, s.revision))?;
    if let Some(witness) = &s.witness {
        output.field("witness", format!("of the audit trail up to record {}", witness.head.head.seq))?;
    }
    for line in &s.firewalls {
        output.field("attention", line)?;
    }
    if !s.without.is_empty() {
        output.field("packets", format!("slower than they could be: {}", s.without))?;
    }
    for (reason, count) in &s.drops {
        output.field("dropped", format!("{count} {reason}"))?;
    }
    Ok(())
}
