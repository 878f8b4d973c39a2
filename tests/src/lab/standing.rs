//! How does a world stay up between commands, and how does a command find it?
//!
//! `up` leaves a keeper process behind, which owns the world and an organisation at work in it. Its folder holds `lab.json`, by which the other commands
//! find the hosts; numbers of processes are checked, so that a stale file never leads into a stranger's process.

use super::Host;
use super::error::LabError;
use super::impairment::{Impairment, parse_delay, parse_share};
use super::topology::Name;
use super::world::{Options, World};
use crate::perimeter::{Perimeter, Plan};
use crate::service::Services;
use host::namespace::{self, Namespaces, ProcessHandle, Signal};
use nlink::{Connection, Route};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// The file by which commands find the world.
const RECORD: &str = "lab.json";
/// How long `down` waits for the world's end.
const DOWN_LIMIT: Duration = Duration::from_secs(20);
/// TUN devices of Umbra are named so.
pub const TUN_PREFIX: &str = "umbra";

/// What `up` says when it is.
const UP: &str = "\
The lab is up: an organisation with two gateways, `engineer` on laptop and `guest` on laptop2. Try:
  umbra-lab exec laptop -- umbra ls
  umbra-lab exec laptop -- umbra-lab probe http http://web.corp.example/
  umbra-lab exec laptop -- umbra why vault
  umbra-lab exec controller -- umbra-controller session list
  umbra-lab hosts
  umbra-lab exec laptop -- bash
";

/// Options of `up`, and of everything else that starts a world from the command line.
#[derive(Debug, Clone, clap::Args)]
pub struct Up {
    /// Delay on the outside link of --on, each way: 20ms
    #[arg(long, value_parser = parse_delay, default_value = "0ms")]
    pub delay: Duration,
    /// Loss on the outside link of --on, each way: 1%
    #[arg(long, value_parser = parse_share, default_value = "0%")]
    pub loss: f64,
    /// Frames that are overtaken on the outside link of --on, each way: 1%
    #[arg(long, value_parser = parse_share, default_value = "0%")]
    pub reorder: f64,
    /// Whose outside link behaves so
    #[arg(long, default_value = "laptop")]
    pub on: Name,
}

impl Up {
    /// The world's options that these say.
    pub fn options(&self) -> Options {
        let impairment = Impairment { delay: self.delay, loss: self.loss, reorder: self.reorder };
        Options { impaired: BTreeMap::from([(self.on, impairment)]), ..Options::default() }
    }

    fn words(&self) -> [String; 4] {
        let (delay, loss) = (self.delay.as_micros(), self.loss * 100.0);
        [
            format!("--delay={delay}us"),
            format!("--loss={loss}%"),
            format!("--reorder={}%", self.reorder * 100.0),
            format!("--on={}", self.on),
        ]
    }
}

/// How the keeper is called.
#[derive(Debug, clap::Args)]
pub struct Keep {
    #[arg(long)]
    folder: PathBuf,
    #[command(flatten)]
    up: Up,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Record {
    keeper: u32,
    fabric: u32,
    hosts: BTreeMap<Name, Place>,
}

/// A holder's process and the number of its network namespace, by which a later process is told from it.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Place {
    pid: u32,
    network: u64,
}

/// One host, as `hosts --json` shows it.
#[derive(Debug, serde::Serialize)]
struct Shown {
    name: Name,
    outside: Vec<IpAddr>,
    overlay: Vec<IpAddr>,
}

/// Where this user's standing lab lies.
fn place() -> PathBuf {
    std::env::var_os("UMBRA_LAB_DIR")
        .map_or_else(|| std::env::temp_dir().join(format!("umbra-lab-{}", namespace::effective_uid())), PathBuf::from)
}

/// Checks that the folder is this user's own and nobody else's business.
fn check_ownership(folder: &Path) -> Result<(), LabError> {
    let refuse = |why: String| Err(LabError::StateFolder(folder.to_owned(), why));
    let found = fs::symlink_metadata(folder).map_err(LabError::while_doing(folder.display().to_string()))?;
    if !found.is_dir() {
        return refuse("it is no folder".to_owned());
    }
    if found.uid() != namespace::effective_uid() {
        return refuse(format!("it belongs to user {}; choose another with UMBRA_LAB_DIR", found.uid()));
    }
    if found.mode() & 0o022 != 0 {
        return refuse("others may write to it; `chmod 700` it, or choose another with UMBRA_LAB_DIR".to_owned());
    }
    Ok(())
}

/// The standing lab, if there is one and it lives.
fn find(folder: &Path) -> Result<Option<Record>, LabError> {
    if !folder.exists() {
        return Ok(None);
    }
    check_ownership(folder)?;
    let Ok(text) = fs::read(folder.join(RECORD)) else { return Ok(None) };
    let Ok(record) = serde_json::from_slice::<Record>(&text) else { return Ok(None) };
    let lives = |place: &Place| namespace::network_of(place.pid).is_ok_and(|network| network == place.network);
    Ok(record.hosts.values().all(lives).then_some(record))
}

fn found() -> Result<Record, LabError> {
    let folder = place();
    find(&folder)?.ok_or(LabError::NotUp(folder))
}

/// Brings a world up and leaves it standing.
pub fn up(options: &Up) -> anyhow::Result<()> {
    let folder = place();
    if find(&folder)?.is_some() {
        return Err(LabError::AlreadyUp(folder).into());
    }
    if folder.exists() {
        // Ours (find checked), and what it led to is dead: the rest of a lab that was killed.
        clear(&folder)?;
    } else {
        DirBuilder::new().mode(0o700).create(&folder)?;
        check_ownership(&folder)?;
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("__keep").arg("--folder").arg(&folder).args(options.words());
    // The keeper outlives us: whoever reads our standard error must see its end with ours.
    let log = fs::File::create(folder.join("keeper.log"))?;
    let mut keeper = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?;
    let output = keeper.stdout.take().ok_or_else(|| anyhow::anyhow!("the keeper has no output"))?;
    let mut complaint = String::new();
    for line in BufReader::new(output).lines() {
        let line = line?;
        if line == "up" {
            return Ok(write!(io::stdout(), "{UP}")?);
        }
        complaint.push_str(&line);
        complaint.push('\n');
    }
    keeper.wait()?;
    let log = fs::read_to_string(folder.join("keeper.log")).unwrap_or_default();
    clear(&folder)?;
    fs::remove_dir(&folder)?;
    anyhow::bail!("{complaint}{log}")
}

/// Empties the folder of a dead lab.
fn clear(folder: &Path) -> io::Result<()> {
    for part in ["bin", "logs", "hosts"] {
        match fs::remove_dir_all(folder.join(part)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    for file in [RECORD, "keeper.log"] {
        match fs::remove_file(folder.join(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The keeper: owns the world until it is killed. Says `up`, or why not, on its standard output.
pub fn keep(arguments: &Keep) -> anyhow::Result<()> {
    let Err(error) = keep_world(arguments);
    writeln!(io::stdout(), "{error:#}")?;
    Ok(())
}

fn keep_world(arguments: &Keep) -> anyhow::Result<Infallible> {
    namespace::start_session()?;
    let options = Options { folder: Some(arguments.folder.clone()), ..arguments.up.options() };
    let world = World::start(&options)?;
    let _services = Services::start(&world)?;
    let plan = Plan { gateways: vec![Name::Gateway, Name::Gateway2], ..Plan::default() };
    let _perimeter = Perimeter::start(&world, &plan)?;
    let place = |host: &Host| (host.name(), Place { pid: host.holder_pid(), network: host.network() });
    let hosts = world.hosts().iter().map(place).collect();
    let record = Record { keeper: std::process::id(), fabric: world.fabric_pid(), hosts };
    let (draft, file) = (arguments.folder.join("lab.json.new"), arguments.folder.join(RECORD));
    fs::write(&draft, serde_json::to_vec(&record)?)?;
    fs::rename(draft, file)?;
    writeln!(io::stdout(), "up")?;
    loop {
        thread::park();
    }
}

/// Becomes `words` inside a host; returns only when that fails.
pub fn exec(name: Name, words: &[OsString]) -> LabError {
    let command = found().and_then(|record| {
        let host = open(&record, name)?;
        let mut words = words.iter();
        let mut command = host.command(words.next().cloned().unwrap_or_default());
        command.args(words);
        Ok(command)
    });
    match command {
        Ok(mut command) => {
            let error = command.exec();
            LabError::System(format!("{} on {name}", command.get_program().display()), error)
        }
        Err(error) => error,
    }
}

fn open(record: &Record, name: Name) -> Result<Host, LabError> {
    let gone = || LabError::NotUp(place());
    let place_of = record.hosts.get(&name).ok_or_else(gone)?;
    let namespaces = Namespaces::of(place_of.pid).map_err(LabError::while_doing(format!("enter host {name}")))?;
    if namespaces.network() != place_of.network {
        return Err(gone());
    }
    Ok(Host::new(name, place_of.pid, namespaces, place()))
}

/// Ends the standing world.
pub fn down() -> Result<(), LabError> {
    let record = found()?;
    // Living hosts prove that the fabric lives, and its number with it.
    let fabric = ProcessHandle::open(record.fabric).map_err(LabError::while_doing("pidfd_open"))?;
    let keeper = ProcessHandle::open(record.keeper);
    if let Ok(keeper) = &keeper {
        let _gone_already = keeper.signal(Signal::Terminate);
    }
    if fabric.wait(DOWN_LIMIT).map_err(LabError::while_doing("poll"))? {
        return Ok(());
    }
    Err(LabError::TooLate { what: "the lab's end".to_owned(), limit: DOWN_LIMIT, tail: String::new() })
}

/// Lists the hosts of the standing world.
pub fn hosts(json: bool) -> anyhow::Result<()> {
    let record = found()?;
    let mut shown = Vec::new();
    for name in Name::ALL {
        let overlay = overlay_addresses(&open(&record, name)?)?;
        shown.push(Shown { name, outside: name.outside(), overlay });
    }
    let mut out = io::stdout().lock();
    if json {
        return Ok(writeln!(out, "{}", serde_json::to_string(&shown)?)?);
    }
    let list = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    for host in shown {
        writeln!(out, "{:<11} outside {:<45} overlay {}", host.name, list(&host.outside), list(&host.overlay))?;
    }
    Ok(())
}

/// The addresses on Umbra's TUN device in a host.
pub fn overlay_addresses(host: &Host) -> Result<Vec<IpAddr>, LabError> {
    let listed = host.run(&["umbra-lab", "__addresses"], Duration::from_secs(10))?;
    let all: Vec<(String, IpAddr)> = serde_json::from_str(&listed.stdout)
        .map_err(|error| LabError::Fabric(format!("addresses of {}: {error}: {}", host.name(), listed.stderr)))?;
    Ok(all.into_iter().filter(|(link, _)| link.starts_with(TUN_PREFIX)).map(|(_, address)| address).collect())
}

/// Prints every address of this network namespace with its link, as JSON.
pub fn print_addresses() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listed = runtime.block_on(async {
        let kernel = Connection::<Route>::new()?;
        let names = kernel.get_interface_names().await?;
        let name = |index: u32| names.get(&index).cloned().unwrap_or_default();
        let addresses = kernel.get_addresses().await?;
        let pair = |message: &nlink::netlink::messages::AddressMessage| {
            let address = message.primary_address().copied()?;
            let local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
            (!local).then(|| (name(message.ifindex()), address))
        };
        Ok::<_, nlink::Error>(addresses.iter().filter_map(pair).collect::<Vec<(String, IpAddr)>>())
    })?;
    Ok(writeln!(io::stdout(), "{}", serde_json::to_string(&listed)?)?)
}
