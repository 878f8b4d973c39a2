//! Which commands and options are there?

use clap::{Args as Options, Parser, Subcommand};
use host::nft::AllowIn;
use host::offload::Steps;
use std::path::PathBuf;
use std::time::Duration;

/// Umbra's client: opens tunnels to what you may reach, and to nothing else.
#[derive(Debug, Parser)]
#[command(
    name = "umbra",
    version,
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 denied by policy, 4 not connected."
)]
pub(super) struct Args {
    /// The daemon's local socket.
    #[arg(long, global = true, env = "UMBRA_SOCKET", default_value = "/run/umbra/client.sock", value_name = "PATH")]
    pub socket: PathBuf,
    /// Write the answer as JSON, for programs.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the client; a service manager does this.
    Daemon(DaemonArgs),
    /// Join an organisation, or connect this machine again.
    Up(UpArgs),
    /// Log in.
    Login(LoginArgs),
    /// Your second factors.
    #[command(subcommand)]
    Mfa(Mfa),
    /// List what you may ask for, and what is connected.
    Ls,
    /// Reach a resource now, and wait until it is reachable; asks for a second factor where that is what it takes.
    Connect(ConnectArgs),
    /// Show what is connected, since when, and until when.
    Status,
    /// Say why a resource is or is not reachable.
    Why(ResourceArgs),
    /// End your session and all access.
    Logout,
    /// Disconnect this machine, and put its routes and names back as they were.
    Down(DownArgs),
    /// Show the version.
    Version,
    /// The daemon's own: stands by for its death.
    #[command(hide = true)]
    Guardian(GuardianArgs),
}

/// Options of `guardian`, as the daemon has them.
#[derive(Debug, Options)]
pub struct GuardianArgs {
    #[arg(long, value_name = "FOLDER")]
    pub state: PathBuf,
    #[arg(long, value_name = "PATH")]
    pub resolv_conf: PathBuf,
    #[arg(long)]
    pub device: String,
}

/// Options of `down`.
#[derive(Debug, Options)]
pub(super) struct DownArgs {
    /// Without a daemon: undo what one that was killed left behind (routes, firewall tables, resolv.conf).
    #[arg(long)]
    pub force: bool,
    /// With --force: where the daemon keeps keys and state.
    #[arg(long, env = "UMBRA_STATE", default_value = STATE, value_name = "FOLDER", requires = "force")]
    pub state: PathBuf,
    /// With --force: the daemon's TUN device.
    #[arg(long, default_value = DEVICE, requires = "force")]
    pub device: String,
    /// With --force: the file that names this machine's DNS servers.
    #[arg(long, default_value = RESOLV_CONF, value_name = "PATH", requires = "force")]
    pub resolv_conf: PathBuf,
}

const STATE: &str = "/var/lib/umbra/client";
const DEVICE: &str = "umbra0";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Options of `daemon`.
#[derive(Debug, Clone, Options)]
pub struct DaemonArgs {
    /// Become this user of the machine, who owns state and socket; a service manager does that by itself. Only root may write
    /// resolv.conf.
    #[arg(long, value_name = "NAME", requires = "no_dns")]
    pub user: Option<String>,
    /// Where keys and state are kept.
    #[arg(long, env = "UMBRA_STATE", default_value = STATE, value_name = "FOLDER")]
    pub state: PathBuf,
    /// The local socket for all other commands.
    #[arg(from_global)]
    pub socket: PathBuf,
    /// Where programs ask for their identities (SPIFFE Workload API) while this machine is a workload.
    #[arg(long, env = "UMBRA_WORKLOAD_SOCKET", default_value = "/run/umbra/workload.sock", value_name = "PATH")]
    pub workload_socket: PathBuf,
    /// The TUN device's name.
    #[arg(long, default_value = DEVICE)]
    pub device: String,
    /// Leaves fast ways of the kernel out, for a driver that does not keep its promises: any of no-vnet, no-tso, no-uso, one-queue
    /// (TUN), no-gso, no-gro, small-buffers (UDP), with commas between them.
    #[arg(long, env = "UMBRA_OFFLOAD", value_name = "STEPS", default_value = "")]
    pub offload: Steps,
    /// How often the connection to the controller is probed, from 1s to 60s.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = node::cli::interval)]
    pub probe_every: Duration,
    /// How long a key is used before the next one, the control key and each tunnel's, from 1s to 24h.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = node::cli::key_life)]
    pub key_life: Duration,
    /// The one UDP port; 0 lets the system choose.
    #[arg(long, env = "UMBRA_PORT", default_value_t = 0)]
    pub port: u16,
    /// Leave resolv.conf alone: names of the organisation resolve only where you ask its resolver.
    #[arg(long)]
    pub no_dns: bool,
    /// The file that names this machine's DNS servers.
    #[arg(long, default_value = RESOLV_CONF, value_name = "PATH")]
    pub resolv_conf: PathBuf,
    /// Answer nothing at all outside while up, not even on closed ports.
    #[arg(long)]
    pub dark: bool,
    /// With --dark: a port that stays open, as tcp:22 or udp:6000-6010. May be repeated.
    #[arg(long, value_name = "PROTOCOL:PORTS")]
    pub allow_in: Vec<AllowIn>,
    /// With --dark: shut SSH out even though somebody uses it now. Without it, a --dark that would do so is taken back after 60 s.
    #[arg(long)]
    pub cut_ssh: bool,
}

#[derive(Debug, Options)]
pub(super) struct UpArgs {
    /// A join file from your administrator, for the first time.
    #[arg(long, value_name = "FILE")]
    pub join: Option<PathBuf>,
    /// A file with a token of this machine's own platform, for the join file of a federation rule (`-`: standard input).
    #[arg(long, value_name = "FILE", requires = "join")]
    pub token_file: Option<PathBuf>,
    /// Join the organisation of the join file without asking.
    #[arg(long, requires = "join")]
    pub yes: bool,
    /// What administrators will see this machine as.
    #[arg(long, env = "UMBRA_NAME", default_value_t = node::cli::host_name("device"))]
    pub name: String,
}

#[derive(Debug, Options)]
pub(super) struct LoginArgs {
    /// Who you are; asked for if it is not given.
    #[arg(long, short, env = "UMBRA_USER")]
    pub user: Option<String>,
    /// Only go on with the log-in that you have: what is open stays open.
    #[arg(long)]
    pub extend: bool,
    /// A file with the password; else the environment's UMBRA_PASSWORD, the terminal, or standard input.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Sign in at this identity provider; without a user name, and with only one provider, that is the default.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["user", "password_file"])]
    pub provider: Option<String>,
    /// Show a code to type in on another machine: for machines without a browser.
    #[arg(long, conflicts_with_all = ["user", "password_file"])]
    pub device_code: bool,
    /// Only print the address that the browser is to open.
    #[arg(long, conflicts_with_all = ["user", "password_file"])]
    pub no_browser: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Mfa {
    /// List your second factors.
    Ls,
    /// Add an authenticator app: shows what it needs, and asks for the code that it shows then. With --passkey: add a passkey.
    Add(AddArgs),
    /// Give a second factor now.
    Verify(GiveArgs),
    /// Remove one.
    Rm(FactorArgs),
    /// Make new recovery codes; the old ones end.
    RecoveryCodes,
}

#[derive(Debug, Options)]
pub(super) struct AddArgs {
    /// What you call it; else `app`, or `passkey`.
    pub name: Option<String>,
    /// A passkey (security key, phone, password manager), by way of your browser, instead of an app.
    #[arg(long)]
    pub passkey: bool,
    /// Only print the address of the page, which you open in a browser on this machine.
    #[arg(long, requires = "passkey")]
    pub no_browser: bool,
}

/// How a second factor is given.
#[derive(Debug, Default, Options)]
pub(super) struct GiveArgs {
    /// A file with a code (`-` is standard input). Without it: a passkey in your browser where you have one and there is a desktop, or
    /// where nothing else would do; else a code, asked for on the terminal.
    #[arg(long, value_name = "FILE")]
    pub code_file: Option<PathBuf>,
    /// Show a passkey in your browser.
    #[arg(long, conflicts_with = "code_file")]
    pub passkey: bool,
    /// Only print the address of the page for it, which you open in a browser on this machine.
    #[arg(long, conflicts_with = "code_file")]
    pub no_browser: bool,
}

#[derive(Debug, Options)]
pub(super) struct FactorArgs {
    /// Its name or its id.
    pub factor: String,
}

#[derive(Debug, Options)]
pub(super) struct ConnectArgs {
    /// Its name, its id, or one of its host names.
    pub resource: String,
    /// How a second factor is given, where it takes one.
    #[command(flatten)]
    pub factor: GiveArgs,
}

#[derive(Debug, Options)]
pub(super) struct ResourceArgs {
    /// Its name, its id, or one of its host names.
    pub resource: String,
}
