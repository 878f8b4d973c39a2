//! Which commands and options are there?

mod account;
mod federation;
pub(super) use account::{AccountCommand, AccountGroupCommand, AccountIdentityCommand};
pub(super) use federation::{FederationArgs, FederationCommand};

use crate::config;
use crate::directory::AdminRole;
use clap::{Args as ClapArgs, Parser, Subcommand};
use host::nft::AllowIn;
use host::offload::Steps;
use model::limits::{CA_LIFE, DEVICES_PER_USER, INTERVAL_MIN, SESSION_LIFE_MAX, SVID_LIFE};
use model::net::{HostName, Prefix};
use node::cli::{duration, duration_within, interval};
use std::path::PathBuf;
use std::time::Duration;

/// The controller of Umbra: authenticates, decides, arranges.
#[derive(Debug, Parser)]
#[command(name = "umbra-controller", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(super) struct Args {
    /// Folder of the controller's state (for `init` and `serve`).
    #[arg(long, global = true, env = "UMBRA_CONTROLLER_STATE", value_name = "DIR", default_value = config::STATE)]
    pub state: PathBuf,
    /// Socket of the running controller.
    #[arg(long, global = true, env = "UMBRA_CONTROLLER_SOCKET", value_name = "PATH", default_value = config::SOCKET)]
    pub socket: PathBuf,
    /// From a laptop: through its running client, as the person who is logged in there and has a role (`admin grant`). What
    /// changes something needs a second factor of the last 10 minutes (`umbra mfa verify`).
    #[arg(long, global = true)]
    pub remote: bool,
    /// With --remote: the client's local socket.
    #[arg(long, global = true, env = "UMBRA_SOCKET", value_name = "PATH", default_value = "/run/umbra/client.sock")]
    pub client_socket: PathBuf,
    /// Write JSON for programs instead of text for people.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage, 3 denied, 4 the controller does not answer.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an organisation.
    Init(InitArgs),
    /// Run the controller.
    Serve(ServeArgs),
    /// Make an organisation again from a backup, on an empty machine.
    Restore(RestoreArgs),
    #[command(flatten)]
    Admin(AdminCommand),
}

#[derive(Debug, ClapArgs)]
pub(super) struct InitArgs {
    /// The organisation's SPIFFE trust domain, for example corp.example; resources may have names in it.
    #[arg(long, value_name = "DOMAIN")]
    pub trust_domain: HostName,
    /// Overlay addresses: an IPv4 /16, or that and an IPv6 ULA /48 with a comma. Default: random ones that are free.
    #[arg(long, value_name = "V4[,V6]")]
    pub pool: Option<String>,
    /// Where nodes reach the controller, UDP; best first.
    #[arg(long = "endpoint", value_name = "HOST:PORT", required = true)]
    pub endpoints: Vec<String>,
    /// A further zone in which resources may have names.
    #[arg(long = "zone", value_name = "ZONE")]
    pub zones: Vec<HostName>,
    /// A zone that is the organisation's alone: what is not declared there does not exist.
    #[arg(long = "private-zone", value_name = "ZONE")]
    pub private_zones: Vec<HostName>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct RestoreArgs {
    /// The backup.
    pub backup: PathBuf,
    /// File with the passphrase (`-`: standard input, the default).
    #[arg(long, value_name = "FILE", conflicts_with = "identity_file")]
    pub passphrase_file: Option<PathBuf>,
    /// File with the identity, as `backup keygen` wrote it, for a backup that was made for its recipient.
    #[arg(long, value_name = "FILE")]
    pub identity_file: Option<PathBuf>,
    /// Where nodes reach the controller from now on; by default where they did.
    #[arg(long = "endpoint", value_name = "HOST:PORT")]
    pub endpoints: Vec<String>,
    /// Which life of the organisation this is; by default seconds since 1970, so that it is above every one before.
    #[arg(long, value_name = "N")]
    pub incarnation: Option<u64>,
}

/// How the controller shall run.
#[derive(Debug, Clone, ClapArgs)]
pub struct ServeArgs {
    /// Become this user of the machine, who owns state and socket; a service manager does that by itself.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// The one UDP port; by default that of the first endpoint.
    #[arg(long, env = "UMBRA_CONTROLLER_PORT")]
    pub port: Option<u16>,
    /// The TUN device's name.
    #[arg(long, default_value = "umbra-ctl")]
    pub device: String,
    /// Leaves fast ways of the kernel out, for a driver that does not keep its promises: any of no-vnet, no-tso, no-uso, one-queue
    /// (TUN), no-gso, no-gro, small-buffers (UDP), with commas between them.
    #[arg(long, env = "UMBRA_CONTROLLER_OFFLOAD", value_name = "STEPS", default_value = "")]
    pub offload: Steps,
    /// Answer nothing that is not Umbra's: drop what comes to other ports, too.
    #[arg(long, env = "UMBRA_CONTROLLER_DARK")]
    pub dark: bool,
    /// With --dark: a port that stays open, as tcp:22 or udp:6000-6010. May be repeated.
    #[arg(long, value_name = "PROTOCOL:PORTS")]
    pub allow_in: Vec<AllowIn>,
    /// With --dark: shut SSH out even though somebody uses it now. Without it, a --dark that would do so is taken back after 60 s.
    #[arg(long)]
    pub cut_ssh: bool,
    /// How long a log-in lasts, from 1s to 90d.
    #[arg(long, env = "UMBRA_CONTROLLER_SESSION_LIFE", value_name = "DURATION", default_value = "12h", value_parser = session_life)]
    pub session_life: Duration,
    /// How many devices one person may log in on, from 1 to 1000: for one more, an administrator has to revoke one.
    #[arg(long, env = "UMBRA_CONTROLLER_DEVICES_PER_USER", value_name = "NUMBER", default_value_t = DEVICES_PER_USER,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub devices_per_user: u32,
    /// How long a node's certificate lasts, from 1s to 1h; it is renewed at half of that.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = svid_life)]
    pub svid_life: Duration,
    /// How long the controller uses one key and CA, to 10y; the next ones are announced so early that these end at that age.
    #[arg(long, env = "UMBRA_CONTROLLER_KEY_LIFE", value_name = "DURATION", default_value = "365d", value_parser = authority_life)]
    pub controller_key_life: Duration,
    /// How long the controller's old and new key and CA are both good; it is shorter than the life, and at least twice that of
    /// certificates.
    #[arg(long, env = "UMBRA_CONTROLLER_KEY_OVERLAP", value_name = "DURATION", default_value = "90d", value_parser = authority_life)]
    pub controller_key_overlap: Duration,
    /// How often every live grant is decided again without a reason, from 1s to 60s.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = interval)]
    pub review_every: Duration,
    /// Only administrators' calls: no network.
    #[arg(long, hide = true)]
    pub local_only: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum AdminCommand {
    /// Show how the organisation is.
    Status,
    /// Become the first owner, with the one-time token of `init`.
    ClaimOwner {
        /// Name of the new user.
        name: String,
        /// File with the token (`-`: standard input).
        #[arg(long, value_name = "FILE")]
        token_file: PathBuf,
        /// File with the password.
        #[arg(long, value_name = "FILE")]
        password_file: PathBuf,
    },
    /// Who may administer: roles of users.
    #[command(subcommand)]
    Admin(RoleCommand),
    /// Make a user an owner with the key that `init` made for an envelope, when no owner can act any more. The key is good
    /// once; the next one is shown.
    BreakGlass {
        /// File with the key (`-`: standard input).
        #[arg(long, value_name = "FILE")]
        key_file: PathBuf,
        /// Whose account is enabled and becomes an owner.
        #[arg(long, value_name = "USER")]
        user: String,
    },
    /// Local accounts.
    #[command(subcommand)]
    User(UserCommand),
    /// Identity providers (OpenID Connect) at which people sign in.
    #[command(subcommand)]
    Idp(IdpCommand),
    /// Service accounts: what machines without a person are.
    #[command(subcommand)]
    Account(AccountCommand),
    /// Whose tokens let workloads in, in place of join keys: build systems, orchestrators, clouds.
    #[command(subcommand)]
    Federation(FederationCommand),
    /// Groups of users.
    #[command(subcommand)]
    Group(GroupCommand),
    /// Places where services are.
    #[command(subcommand)]
    Site(SiteCommand),
    /// Enforcement points.
    #[command(subcommand)]
    Gateway(GatewayCommand),
    /// Protected things.
    #[command(subcommand)]
    Resource(ResourceCommand),
    /// Who may reach what (Cedar files).
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Secrets with which nodes enrol.
    #[command(subcommand)]
    JoinKey(JoinKeyCommand),
    /// Enrolled machines.
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Log-ins.
    #[command(subcommand)]
    Session(SessionCommand),
    /// The audit trail.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// The controller's key and certificate authority.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Everything that makes the organisation, as one encrypted file.
    #[command(subcommand)]
    Backup(BackupCommand),
    /// What waits for you after a restore.
    #[command(subcommand)]
    Restored(RestoredCommand),
}

#[derive(Debug, Subcommand)]
pub(super) enum RoleCommand {
    /// Give a user a role: owner, security-admin, operator, auditor or approver.
    Grant { user: String, role: AdminRole },
    /// Take a role away: the next call is refused.
    Revoke { user: String, role: AdminRole },
    /// List who has which.
    List,
    /// Somebody has looked at the use of the break-glass key: end the alarm in `status`.
    Acknowledge,
}

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Show which are in use and since when, what follows them, and who does not know that yet.
    List,
    /// Make the next key and CA and announce them to every node. In the middle of the overlap they become the ones in use; at
    /// its end the old ones are destroyed.
    Succeed {
        /// How long both are good; as `serve` was started with, where it is left out.
        #[arg(long, value_name = "DURATION", value_parser = authority_life)]
        overlap: Option<Duration>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum BackupCommand {
    /// Make a backup while the controller runs. Without --recipient, a passphrase is asked for.
    Create {
        /// File to write, mode 0600; it must not exist yet.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// File with the passphrase (`-`: standard input).
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
        /// Who can open it, as `backup keygen` shows it; may be repeated.
        #[arg(long = "recipient", value_name = "RECIPIENT")]
        recipients: Vec<String>,
    },
    /// Make an identity, to be kept away from this machine, and show its recipient.
    Keygen {
        /// File to write, mode 0600.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum RestoredCommand {
    /// List what waits, and from which moment on changes are lost.
    List,
    /// Let something take part again that has not been revoked or disabled after the backup was made.
    Confirm {
        /// user/NAME, account/NAME, device/NAME or gateway/NAME.
        #[arg(required_unless_present = "all")]
        items: Vec<String>,
        /// Everything that waits: only where you know that nothing was taken away after the backup.
        #[arg(long, conflicts_with = "items")]
        all: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum UserCommand {
    /// Make an account. The password comes from --password-file or standard input.
    Add {
        name: String,
        /// A group to be in.
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
        /// File with the password (`-`: standard input, the default).
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// List accounts.
    List,
    /// Set a password and end the user's sessions.
    Passwd {
        user: String,
        /// File with the password (`-`: standard input, the default).
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// End the user's sessions and refuse new ones.
    Disable { user: String },
    /// Let the user log in again.
    Enable { user: String },
    /// Delete an account, end its sessions and revoke its devices.
    Delete { user: String },
    /// Somebody leaves: end sessions, revoke devices, remove second factors and groups in one change, and say what was ended.
    Offboard { user: String },
    /// List a user's second factors.
    Factors { user: String },
    /// Remove all second factors of a user who lost them, and end the user's sessions.
    ResetFactors { user: String },
}

#[derive(Debug, Subcommand)]
pub(super) enum IdpCommand {
    /// Let people sign in at a provider. Register a public or confidential client there first, with the redirect URI
    /// http://127.0.0.1/callback (any port), the grants authorization_code and refresh_token, and the scope offline_access.
    Add(Box<IdpArgs>),
    /// List providers.
    List,
    /// Remove one: who signed in there is logged out at once.
    Remove { idp: String },
    /// Ask now whether providers stand by those who are logged in, and end what they do not stand by.
    Sync {
        /// This one only.
        idp: Option<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub(super) struct IdpArgs {
    /// What people call it; the last part of its users' names.
    pub name: String,
    /// Its issuer URL, to the letter.
    #[arg(long, value_name = "URL")]
    pub issuer: String,
    /// What it calls this client.
    #[arg(long, value_name = "ID")]
    pub client_id: String,
    /// File with the client's secret (`-`: standard input); a public client has none.
    #[arg(long, value_name = "FILE")]
    pub client_secret_file: Option<PathBuf>,
    /// A scope to ask for besides `openid`.
    #[arg(long = "scope", value_name = "SCOPE", default_values = ["profile", "email", "offline_access"])]
    pub scopes: Vec<String>,
    /// A further parameter of the question in the browser, for example access_type=offline.
    #[arg(long = "parameter", value_name = "NAME=VALUE")]
    pub parameters: Vec<String>,
    /// The claim with a person's groups; dots lead into objects.
    #[arg(long, value_name = "CLAIM", default_value = "groups")]
    pub groups_claim: String,
    /// The claim with the e-mail address, which is shown and nothing else.
    #[arg(long, value_name = "CLAIM", default_value = "email")]
    pub email_claim: String,
    /// The claim of which a user's name is made.
    #[arg(long, value_name = "CLAIM", default_value = "preferred_username")]
    pub name_claim: String,
    /// A group there whose members may sign in.
    #[arg(long = "sign-in-group", value_name = "GROUP", required_unless_present = "anyone")]
    pub sign_in_groups: Vec<String>,
    /// Everybody may sign in whom the provider knows. At a public provider that is the whole world.
    #[arg(long, conflicts_with = "sign_in_groups")]
    pub anyone: bool,
    /// Members of a group there are in this group here.
    #[arg(long = "group", value_name = "THERE=HERE")]
    pub groups: Vec<String>,
    /// Members of any group there are in the group here that has the same name, where there is one.
    #[arg(long)]
    pub groups_as_named: bool,
    /// A word in `amr` or `acr` by which the provider says that it took a second factor.
    #[arg(long = "mfa-word", value_name = "WORD", default_values = ["mfa"])]
    pub factor_words: Vec<String>,
    /// File with the only CA certificates (PEM) that are trusted for it.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Ask it also at addresses in this prefix, which are otherwise never asked (loopback, link-local).
    #[arg(long = "allow-address", value_name = "PREFIX")]
    pub allow: Vec<Prefix>,
    /// Where the browser comes back to: 127.0.0.1 or localhost.
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    pub redirect_host: String,
    /// At this port, for a provider that compares it.
    #[arg(long, value_name = "PORT")]
    pub redirect_port: Option<u16>,
    /// Let people sign in with a code that they type in elsewhere. Others can trick them into typing in theirs.
    #[arg(long)]
    pub device_code: bool,
    /// Let people sign in for whom the provider gives no refresh token: whether it stands by them is not asked again.
    #[arg(long)]
    pub without_recheck: bool,
    /// How often it is asked whether it still stands by a person.
    #[arg(long, value_name = "DURATION", default_value = "5min", value_parser = duration)]
    pub check_every: Duration,
    /// How long a sign-in lives on while the provider cannot be asked.
    #[arg(long, value_name = "DURATION", default_value = "8h", value_parser = duration)]
    pub grace: Duration,
}

#[derive(Debug, Subcommand)]
pub(super) enum GroupCommand {
    /// Make a group.
    Add { name: String },
    /// List groups and their members.
    List,
    /// Delete a group; its members stay.
    Delete { group: String },
    /// Put a user into a group.
    AddMember { group: String, user: String },
    /// Take a user out of a group.
    RemoveMember { group: String, user: String },
}

#[derive(Debug, Subcommand)]
pub(super) enum SiteCommand {
    /// Make a site.
    Add {
        name: String,
        /// A prefix in which its services lie, for example 10.20.0.0/24.
        #[arg(long = "prefix", value_name = "PREFIX", required = true)]
        prefixes: Vec<Prefix>,
    },
    /// List sites.
    List,
    /// Delete a site that has no resources and no gateways.
    Delete { site: String },
}

#[derive(Debug, Subcommand)]
pub(super) enum GatewayCommand {
    /// List gateways.
    List,
    /// Confirm a new gateway, after comparing its fingerprint.
    Confirm {
        gateway: String,
        /// What the gateway's own `status` shows; a mismatch is refused.
        #[arg(long, value_name = "FINGERPRINT")]
        fingerprint: Option<String>,
    },
    /// Revoke a gateway for ever.
    Revoke { gateway: String },
}

#[derive(Debug, Subcommand)]
pub(super) enum ResourceCommand {
    /// Declare a resource.
    Add(ResourceArgs),
    /// List resources.
    List,
    /// Show one resource.
    Show { resource: String },
    /// Delete a resource; what stood on it ends.
    Delete { resource: String },
}

#[derive(Debug, ClapArgs)]
pub(super) struct ResourceArgs {
    pub name: String,
    /// The site whose gateways reach it.
    #[arg(long)]
    pub site: String,
    /// Host name, or `*.SUFFIX` for every name below.
    #[arg(long = "host", value_name = "NAME")]
    pub hosts: Vec<String>,
    /// Address, seen by clients as it is.
    #[arg(long = "address", value_name = "ADDRESS")]
    pub addresses: Vec<std::net::IpAddr>,
    /// Prefix, seen by clients as it is.
    #[arg(long = "cidr", value_name = "PREFIX")]
    pub cidrs: Vec<Prefix>,
    /// TCP ports, for example 443 or 8000-8099; may be repeated, or a list with commas.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    pub tcp: Vec<String>,
    /// UDP ports, likewise.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    pub udp: Vec<String>,
    /// ICMP echo.
    #[arg(long)]
    pub icmp: bool,
    /// How long a gateway may go on without the controller, from 1s to 24h; 1h by default.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub lease: Option<Duration>,
    /// It is on the gateway itself.
    #[arg(long)]
    pub on_gateway: bool,
    /// A tag that policies may name.
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Say what is wrong with policy files.
    Check {
        /// Files, or folders whose *.cedar files are meant.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Put policy files in force: all of them, in place of all before.
    Apply {
        /// Files, or folders whose *.cedar files are meant.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Show the policy in force, or an older revision.
    Show {
        /// Its number, as `history` lists it.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        revision: Option<u64>,
    },
    /// List the revisions that are kept: who applied which, when, and what it changed.
    History,
    /// Put an older revision in force again, as a new one.
    Rollback {
        /// Its number, as `history` lists it.
        #[arg(value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
        revision: u64,
    },
    /// Say who can reach what: always, if something holds, or never.
    Access {
        /// Only this user.
        #[arg(long)]
        user: Option<String>,
        /// Only this service account.
        #[arg(long, conflicts_with = "user")]
        account: Option<String>,
        /// Only this resource.
        #[arg(long)]
        resource: Option<String>,
        /// Those who never can, too, where neither is named.
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum JoinKeyCommand {
    /// Make a join key and write its join file.
    Create(JoinKeyArgs),
    /// List join keys.
    List,
    /// Take a join key back.
    Revoke { join_key: String },
}

#[derive(Debug, ClapArgs)]
pub(super) struct JoinKeyArgs {
    /// For a client's device.
    #[arg(long, conflicts_with = "gateway", required_unless_present = "gateway")]
    pub device: bool,
    /// For a gateway.
    #[arg(long, requires = "site")]
    pub gateway: bool,
    /// The site at which the gateway stands.
    #[arg(long, requires = "gateway")]
    pub site: Option<String>,
    /// The service account as which a device joins: it needs no log-in.
    #[arg(long, conflicts_with = "gateway")]
    pub account: Option<String>,
    /// What joins with it is removed 10 minutes after it is gone.
    #[arg(long, conflicts_with = "gateway")]
    pub ephemeral: bool,
    /// How many devices may use it; devices from keys of many uses wait for confirmation.
    #[arg(long, default_value_t = 1)]
    pub uses: u32,
    /// How long it may be used.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub life: Duration,
    /// File to write, mode 0600; standard output by default.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum DeviceCommand {
    /// List devices.
    List,
    /// Confirm a pending device, after comparing its fingerprint.
    Confirm {
        device: String,
        /// What `umbra status` shows on the device; a mismatch is refused.
        #[arg(long, value_name = "FINGERPRINT")]
        fingerprint: Option<String>,
    },
    /// Revoke a device for ever.
    Revoke { device: String },
}

#[derive(Debug, Subcommand)]
pub(super) enum SessionCommand {
    /// List log-ins.
    List {
        /// Ended ones, too.
        #[arg(long)]
        all: bool,
    },
    /// What a log-in may reach now, and which flows it had, as its gateways say.
    Show {
        session: String,
        /// How many flows, newest first.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// End a log-in, and say which gateways have confirmed it.
    Revoke { session: String },
}

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// List records, the newest last.
    List {
        /// How many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Not older than this, for example 1h.
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        since: Option<Duration>,
        /// The actor contains this.
        #[arg(long, default_value = "")]
        actor: String,
        /// The action begins with this.
        #[arg(long, default_value = "")]
        action: String,
        /// The object contains this.
        #[arg(long, default_value = "")]
        object: String,
    },
    /// Walk the whole chain and say whether it is whole.
    Verify(VerifyArgs),
    /// Write the whole trail into a file of JSON lines, for `verify --offline` and for your archive.
    Export {
        /// The file; it must not be there yet.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Go on with a trail that is shorter than what a gateway witnessed, when nothing newer is left. The controller must be
    /// stopped. As after a restore, nobody has access before you have confirmed it (`restored list`).
    AcceptLoss {
        /// Why; it stands in the audit trail for good.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

#[derive(Debug, ClapArgs)]
pub(super) struct VerifyArgs {
    /// Verify these files instead (an export, or the files of the controller's folder `org/store/audit`): no controller and
    /// no store is needed.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub offline: Vec<PathBuf>,
    /// With --offline: what a gateway witnessed (`umbra-gateway witness`); the trail must go at least as far. May be repeated.
    #[arg(long, value_name = "FILE", requires = "offline")]
    pub witness: Vec<PathBuf>,
    /// With --offline: the organisation's fingerprint, as you know it from elsewhere; signatures of another one are refused.
    #[arg(long, value_name = "FINGERPRINT", requires = "offline")]
    pub fingerprint: Option<String>,
}

fn session_life(text: &str) -> Result<Duration, String> {
    duration_within(text, INTERVAL_MIN, SESSION_LIFE_MAX)
}

fn authority_life(text: &str) -> Result<Duration, String> {
    duration_within(text, INTERVAL_MIN, CA_LIFE)
}

fn svid_life(text: &str) -> Result<Duration, String> {
    duration_within(text, INTERVAL_MIN, SVID_LIFE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_that_can_be_configured_have_a_least_and_a_most() {
        type Read = fn(&str) -> Result<Duration, String>;
        let lives: [(Read, Duration); 3] =
            [(session_life, SESSION_LIFE_MAX), (authority_life, CA_LIFE), (svid_life, SVID_LIFE)];
        for (read, most) in lives {
            for (ms, may) in [
                (INTERVAL_MIN.as_millis() - 1, false),
                (INTERVAL_MIN.as_millis(), true),
                (most.as_millis(), true),
                (most.as_millis() + 1, false),
            ] {
                assert_eq!(read(&format!("{ms}ms")).is_ok(), may, "{ms} of {most:?}");
            }
        }
    }
}
