//! The commands of `umbra-gateway`.

use crate::gate::Status;
use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use host::nft::AllowIn;
use model::net::Prefix;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit code: no connection to the daemon.
const NOT_CONNECTED: u8 = 4;

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
    Up(Up),
    /// Shows what the running gateway knows of itself.
    Status(StatusArgs),
}

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
    #[arg(long, env = "UMBRA_GATEWAY_NAME", default_value_t = default_name())]
    pub name: String,
    /// Where keys and state are kept.
    #[arg(long, env = "UMBRA_GATEWAY_STATE", default_value = "/var/lib/umbra/gateway")]
    pub state: PathBuf,
    /// The local socket for `status`.
    #[arg(long, env = "UMBRA_GATEWAY_SOCKET", default_value = "/run/umbra/gateway.sock")]
    pub socket: PathBuf,
    /// The one UDP port.
    #[arg(long, env = "UMBRA_GATEWAY_PORT", default_value_t = 443)]
    pub port: u16,
    /// The TUN device's name.
    #[arg(long, default_value = "umbra-gw")]
    pub device: String,
    /// From which addresses grants speak to services, IPv4.
    #[arg(long, default_value = "198.18.0.0/15", value_name = "PREFIX")]
    pub nat_v4: Prefix,
    /// Answers nothing at all outside, not even on closed ports.
    #[arg(long)]
    pub dark: bool,
    /// With --dark: a port that stays open, as tcp:22 or udp:6000-6010. May be repeated.
    #[arg(long, value_name = "PROTOCOL:PORTS", value_parser = allow_in)]
    pub allow_in: Vec<AllowIn>,
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

fn default_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|n| n.trim().to_owned())
        .ok()
        .filter(|n| !n.is_empty())
        .unwrap_or_else(|| "gateway".to_owned())
}

fn allow_in(text: &str) -> Result<AllowIn, String> {
    let (protocol, ports) = text.split_once(':').ok_or("expected PROTOCOL:PORTS, for example tcp:22")?;
    let protocol = protocol.parse().map_err(|e: model::net::NetError| e.to_string())?;
    if protocol == model::net::Protocol::Icmp {
        return Err("only tcp and udp have ports".to_owned());
    }
    Ok(AllowIn { protocol, ports: ports.parse().map_err(|e: model::net::NetError| e.to_string())? })
}

/// One line for a person.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Asks a person; without a terminal the answer is no.
pub fn ask(question: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        anyhow::bail!("{question} There is no terminal to ask on: pass --yes after comparing the fingerprint");
    }
    let mut out = std::io::stderr().lock();
    write!(out, "{question} [y/N] ")?;
    out.flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// The program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_env("UMBRA_LOG").unwrap_or_else(|_| "info".into()))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .init();
    let result = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the runtime cannot be started")
        .and_then(|runtime| runtime.block_on(run(cli.command)));
    match result {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "umbra-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up(options) => crate::service::run(&options).await.map(|()| ExitCode::SUCCESS),
        Command::Status(args) => status(&args).await,
    }
}

async fn status(args: &StatusArgs) -> Result<ExitCode> {
    use tokio::io::AsyncReadExt as _;
    let Ok(mut stream) = tokio::net::UnixStream::connect(&args.socket).await else {
        let _ = writeln!(
            std::io::stderr().lock(),
            "umbra-gateway: no gateway answers at {}; start it with `umbra-gateway up`",
            args.socket.display()
        );
        return Ok(ExitCode::from(NOT_CONNECTED));
    };
    let mut document = Vec::new();
    stream.read_to_end(&mut document).await?;
    if args.json {
        say(String::from_utf8_lossy(&document).trim());
        return Ok(ExitCode::SUCCESS);
    }
    let s: Status = serde_json::from_slice(&document)
        .context("the gateway did not answer; this command is for root and members of group umbra")?;
    say(&format!("gateway     {}", s.gateway));
    say(&format!("controller  {}", if s.connected { "connected" } else { "not connected" }));
    if let Some(trouble) = s.trouble.filter(|_| !s.connected) {
        say(&format!("            {trouble}"));
    }
    say(&format!("confirmed   {}", if s.confirmed { "yes" } else { "no: umbra-controller gateway confirm" }));
    say(&format!("grants      {} (state {})", s.grants, s.revision));
    for (reason, count) in s.drops {
        say(&format!("dropped     {count} {reason}"));
    }
    Ok(if s.connected { ExitCode::SUCCESS } else { ExitCode::from(NOT_CONNECTED) })
}
