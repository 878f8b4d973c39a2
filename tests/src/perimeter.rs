//! A whole organisation in a lab: controller, gateways, users, resources, policy, and laptops that are logged in.
//!
//! | who | is in | may reach |
//! |---|---|---|
//! | `engineer`, on `laptop` | `engineers` | `web`, `wiki`; sees `vault`, which nobody may reach |
//! | `guest`, on `laptop2` | `guests` | `web` |
//! | `laptop3` and on, each on the host of its name, where the plan has such | a group of its name | `web` |

use crate::lab::{Daemon, Finished, LabError, Name, World};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The trust domain.
pub const DOMAIN: &str = "corp.example";
/// The IPv4 pool: a random one would some day be that of the services, which the controller cannot see.
pub const POOL: &str = "10.77.0.0/16";
/// The password of every user of the lab.
pub const PASSWORD: &str = "correct horse battery staple";
/// The user of each laptop, and the group that it is in.
pub const USERS: [(Name, &str, &str); 2] =
    [(Name::Laptop, "engineer", "engineers"), (Name::Laptop2, "guest", "guests")];
/// Who may reach what.
pub const POLICY: &str = r#"
@id("engineers")
permit (principal in Group::"engineers", action == Action::"connect", resource);

@id("guests-see-the-web")
permit (principal in Group::"guests", action == Action::"connect", resource == Resource::"web");

@id("vault-is-closed")
@reason("the vault is closed for everybody")
forbid (principal, action == Action::"connect", resource == Resource::"vault");
"#;
/// [`POLICY`], and a permit for each further laptop of a list.
pub fn policy_of(laptops: &[Name]) -> String {
    let permit = |name: &Name| {
        format!(
            "\n@id(\"{name}-sees-the-web\")\npermit (principal in Group::\"{name}\", action == Action::\"connect\", \
             resource == Resource::\"web\");\n"
        )
    };
    let further = laptops.iter().filter(|name| matches!(name, Name::Further(_)));
    std::iter::once(POLICY.to_owned()).chain(further.map(permit)).collect()
}

/// The user of a laptop, and the group that it is in.
pub fn user_of(laptop: Name) -> (&'static str, &'static str) {
    let named = USERS.iter().find(|(host, _, _)| *host == laptop).map(|(_, user, group)| (*user, *group));
    named.unwrap_or((laptop.as_str(), laptop.as_str()))
}

/// How long any one step may take.
const STEP: Duration = Duration::from_secs(20);

/// What is to be there.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The gateways, in the order in which they join.
    pub gateways: Vec<Name>,
    /// The laptops that join and log in.
    pub laptops: Vec<Name>,
    /// Options for every `resource add`, for example a lease.
    pub resource_options: Vec<String>,
    /// All programs answer nothing at all outside.
    pub dark: bool,
    /// Further options of `umbra-controller init`.
    pub init_options: Vec<String>,
    /// Further options of `umbra-controller serve`.
    pub serve_options: Vec<String>,
    /// Further options of `umbra-gateway up`.
    pub gateway_options: Vec<String>,
    /// Further options of `umbra daemon`.
    pub client_options: Vec<String>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            gateways: vec![Name::Gateway],
            laptops: vec![Name::Laptop, Name::Laptop2],
            resource_options: Vec::new(),
            dark: true,
            init_options: Vec::new(),
            serve_options: Vec::new(),
            gateway_options: Vec::new(),
            client_options: Vec::new(),
        }
    }
}

/// A step that did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The lab.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// A program.
    #[error("`{what}` on {host} ended with {status}:\n{output}")]
    Failed {
        /// The command.
        what: String,
        /// Where.
        host: Name,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        output: String,
    },
    /// A file of the lab.
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
    /// An answer that makes no sense.
    #[error("{0}")]
    Answer(String),
}

/// The running organisation. Its programs end with it.
pub struct Perimeter {
    /// `umbra-controller serve`.
    pub controller: Daemon,
    /// `umbra-gateway up`, by host.
    pub gateways: BTreeMap<Name, Daemon>,
    /// `umbra daemon`, by host.
    pub clients: BTreeMap<Name, Daemon>,
}

/// Runs a command on a host; an exit code other than 0 is an error that shows everything.
pub fn done(world: &World, host: Name, words: &[&str]) -> Result<Finished, StepError> {
    let finished = world.host(host).run(words, STEP)?;
    if finished.success() {
        return Ok(finished);
    }
    Err(StepError::Failed {
        what: words.join(" "),
        host,
        status: finished.status,
        output: format!("{}{}", finished.stdout, finished.stderr),
    })
}

/// Runs an administrator's command on the controller's host.
pub fn admin(world: &World, words: &[&str]) -> Result<Finished, StepError> {
    let all: Vec<&str> = std::iter::once("umbra-controller").chain(words.iter().copied()).collect();
    done(world, Name::Controller, &all)
}

/// The same with `--json`.
pub fn admin_json(world: &World, words: &[&str]) -> Result<serde_json::Value, StepError> {
    let all: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
    let finished = admin(world, &all)?;
    serde_json::from_str(&finished.stdout)
        .map_err(|e| StepError::Answer(format!("{}: {e}: {}", words.join(" "), finished.stdout)))
}

/// Runs a command of the client on a laptop.
pub fn umbra(world: &World, host: Name, words: &[&str]) -> Result<Finished, StepError> {
    let all: Vec<&str> = std::iter::once("umbra").chain(words.iter().copied()).collect();
    done(world, host, &all)
}

/// Writes a file below a host's `/etc/umbra`, readable by its owner alone.
pub fn write_file(world: &World, host: Name, name: &str, content: &[u8]) -> Result<String, StepError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = format!("/etc/umbra/{name}");
    let outside = world.host(host).outside_path(&path).unwrap_or_else(|| PathBuf::from(&path));
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&outside)
        .and_then(|mut file| std::io::Write::write_all(&mut file, content));
    written.map_err(|e| StepError::File(outside, e))?;
    Ok(path)
}

/// Reads a file of a host.
pub fn read_file(world: &World, host: Name, path: &str) -> Result<Vec<u8>, StepError> {
    let outside = world.host(host).outside_path(path).unwrap_or_else(|| Path::new(path).to_owned());
    fs::read(&outside).map_err(|e| StepError::File(outside, e))
}

impl Perimeter {
    /// Makes the organisation and brings everybody in.
    pub fn start(world: &World, plan: &Plan) -> Result<Self, StepError> {
        let controller = start_controller(world, plan)?;
        let mut perimeter = Self { controller, gateways: BTreeMap::new(), clients: BTreeMap::new() };
        declare(world, plan)?;
        for gateway in &plan.gateways {
            let daemon = start_gateway(world, *gateway, plan)?;
            confirm_gateway(world, *gateway)?;
            daemon.wait_for_line("confirmed=true", STEP)?;
            perimeter.gateways.insert(*gateway, daemon);
        }
        for laptop in &plan.laptops {
            let daemon = start_client_with(world, *laptop, &plan.client_options)?;
            join_laptop(world, *laptop)?;
            // Joined is not connected: on a slow link a log-in would come too early.
            daemon.wait_for_line("connected to the controller", STEP)?;
            log_in(world, *laptop)?;
            perimeter.clients.insert(*laptop, daemon);
        }
        Ok(perimeter)
    }
}

/// `init` and `serve`.
pub fn start_controller(world: &World, plan: &Plan) -> Result<Daemon, StepError> {
    let endpoint = "controller:443";
    let words = ["init", "--trust-domain", DOMAIN, "--endpoint", endpoint, "--pool", POOL];
    let options: Vec<&str> = plan.init_options.iter().map(String::as_str).collect();
    admin(world, &[&words[..], &options].concat())?;
    serve(world, plan)
}

/// `serve` alone.
pub fn serve(world: &World, plan: &Plan) -> Result<Daemon, StepError> {
    let mut command = world.host(Name::Controller).command("umbra-controller");
    command.arg("serve");
    if plan.dark {
        command.arg("--dark");
    }
    command.args(&plan.serve_options);
    let daemon = world.host(Name::Controller).start("controller", command)?;
    daemon.wait_for_line("the controller runs", STEP)?;
    Ok(daemon)
}

/// Site, users, resources, policy.
pub fn declare(world: &World, plan: &Plan) -> Result<(), StepError> {
    admin(world, &["site", "add", "hq", "--prefix", "10.20.0.0/24", "--prefix", "fd20::/64"])?;
    let password = write_file(world, Name::Controller, "password", PASSWORD.as_bytes())?;
    let further = plan.laptops.iter().copied().filter(|name| matches!(name, Name::Further(_)));
    for (user, group) in USERS.into_iter().map(|(_, user, group)| (user, group)).chain(further.map(user_of)) {
        admin(world, &["group", "add", group])?;
        admin(world, &["user", "add", user, "--group", group, "--password-file", &password])?;
    }
    let options: Vec<&str> = plan.resource_options.iter().map(String::as_str).collect();
    for name in crate::service::HTTP_NAMES {
        let host = format!("{name}.{DOMAIN}");
        let words =
            ["resource", "add", name, "--site", "hq", "--host", &host, "--tcp", "7,80", "--udp", "9000", "--icmp"];
        admin(world, &[&words[..], &options].concat())?;
    }
    let policy = write_file(world, Name::Controller, "policy.cedar", policy_of(&plan.laptops).as_bytes())?;
    admin(world, &["policy", "apply", &policy])?;
    Ok(())
}

/// Makes a join key on the controller and carries its file to the host.
pub fn carry_join_file(world: &World, host: Name, options: &[&str]) -> Result<String, StepError> {
    carry_join_file_as(world, host, "join", options)
}

/// The same under another name.
pub fn carry_join_file_as(world: &World, host: Name, name: &str, options: &[&str]) -> Result<String, StepError> {
    let out = format!("/etc/umbra/{name}-{host}");
    admin(world, &[&["join-key", "create", "--out", &out], options].concat())?;
    let file = read_file(world, Name::Controller, &out)?;
    write_file(world, host, name, &file)
}

/// A gateway that joins and waits for confirmation.
pub fn start_gateway(world: &World, host: Name, plan: &Plan) -> Result<Daemon, StepError> {
    let join = carry_join_file(world, host, &["--gateway", "--site", "hq"])?;
    let mut command = world.host(host).command("umbra-gateway");
    command.args(["up", "--join", &join, "--yes", "--name", host.as_str()]).args(&plan.gateway_options);
    if plan.dark {
        command.arg("--dark");
    }
    let daemon = world.host(host).start(host.as_str(), command)?;
    daemon.wait_for_line("joined as", STEP)?;
    Ok(daemon)
}

/// The administrator confirms a gateway by the fingerprint that the controller shows.
pub fn confirm_gateway(world: &World, host: Name) -> Result<(), StepError> {
    admin(world, &["gateway", "confirm", host.as_str()])?;
    Ok(())
}

/// The client's daemon, not joined yet.
pub fn start_client(world: &World, host: Name) -> Result<Daemon, StepError> {
    start_client_with(world, host, &[])
}

/// The same with further options.
pub fn start_client_with(world: &World, host: Name, options: &[String]) -> Result<Daemon, StepError> {
    let mut command = world.host(host).command("umbra");
    command.arg("daemon").args(options);
    let daemon = world.host(host).start(&format!("client-{host}"), command)?;
    daemon.wait_for_line("the daemon runs", STEP)?;
    Ok(daemon)
}

/// `umbra up --join`.
pub fn join_laptop(world: &World, host: Name) -> Result<(), StepError> {
    let join = carry_join_file(world, host, &["--device"])?;
    umbra(world, host, &["up", "--join", &join, "--yes"])?;
    Ok(())
}

/// `umbra login` as the laptop's user.
pub fn log_in(world: &World, host: Name) -> Result<(), StepError> {
    let (user, _) = user_of(host);
    let password = write_file(world, host, "password", PASSWORD.as_bytes())?;
    umbra(world, host, &["login", "--user", user, "--password-file", &password])?;
    Ok(())
}
