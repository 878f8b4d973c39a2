//! Who owns the hosts and the links between them, and who cleans up?
//!
//! `umbra-lab __fabric` is one process per world. It answers with one line of JSON ([`Answer`]), then obeys lines on
//! its standard input (`link HOST up|down`) until that ends: then it kills whatever is left in the hosts and goes.

use super::error::{LabError, explain_refusal};
use super::forwarder::forward;
use super::impairment::Impairment;
use super::topology::{INSIDE_LINK, Name, OUTSIDE_LINK};
use super::world::all_hosts;
use host::namespace::{self, ProcessHandle, Signal};
use nlink::netlink::link::{BridgeLink, VethLink};
use nlink::netlink::messages::LinkCond;
use nlink::{Connection, Ipv4Address, Ipv6Address, Route};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// A virtual link is up in no time; a busy machine may take a moment to notice.
const LINK_LIMIT: Duration = Duration::from_secs(5);

/// How `__fabric` is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The world's state folder.
    #[arg(long)]
    pub folder: PathBuf,
    /// HOST=DELAY,LOSS,REORDER for each outside link that is to behave badly.
    #[arg(long = "impair")]
    pub impaired: Vec<String>,
    /// How many further laptops there are.
    #[arg(long, default_value_t = 0)]
    pub further: usize,
    /// Says that the user namespace is made already.
    #[arg(long)]
    pub inside: bool,
}

/// The first line that a fabric says.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The network stands; the processes that hold its hosts.
    Ready(BTreeMap<Name, u32>),
    /// The system does not let us: one line for the user.
    Forbidden(String),
    /// Something else went wrong.
    Failed(String),
}

type Failure = Box<dyn std::error::Error>;

/// Runs a fabric to its end.
pub fn run(arguments: &Arguments) -> io::Result<()> {
    if let Err(refusal) = become_root(arguments) {
        return say(&Answer::Forbidden(refusal));
    }
    let mut fabric = match Fabric::build(arguments) {
        Ok(fabric) => fabric,
        Err(error) => return say(&Answer::Failed(error.to_string())),
    };
    say(&Answer::Ready(fabric.pids()))?;
    for line in io::stdin().lock().lines() {
        let reply = fabric.obey(&line?).map_or_else(|error| error.to_string(), |()| "ok".to_owned());
        writeln!(io::stdout(), "{reply}")?;
    }
    fabric.end();
    fs::remove_dir_all(&arguments.folder)
}

fn say(answer: &Answer) -> io::Result<()> {
    writeln!(io::stdout(), "{}", serde_json::to_string(answer)?)
}

/// Gets the right to make networks, by a user namespace and a fresh start of this program where the user is not root.
fn become_root(arguments: &Arguments) -> Result<(), String> {
    if !arguments.inside {
        // A terminal's interrupt is for the lab; the fabric must live on to clean up.
        namespace::start_session().map_err(|error| format!("setsid: {error}"))?;
    }
    if namespace::effective_uid() != 0 {
        let program = std::env::current_exe().map_err(|error| format!("/proc/self/exe: {error}"))?;
        namespace::become_root_of_new_user_namespace().map_err(|error| explain_refusal("user namespace", &error))?;
        let mut again = Command::new(program);
        again.arg("__fabric").arg("--inside").arg("--folder").arg(&arguments.folder);
        again.arg(format!("--further={}", arguments.further));
        again.args(arguments.impaired.iter().flat_map(|text| ["--impair", text]));
        return Err(format!("cannot start again in the user namespace: {}", again.exec()));
    }
    namespace::unshare_network().map_err(|error| explain_refusal("network namespace", &error))
}

struct Fabric {
    holders: BTreeMap<Name, Child>,
    networks: BTreeSet<u64>,
    runtime: tokio::runtime::Runtime,
}

impl Fabric {
    fn build(arguments: &Arguments) -> Result<Self, Failure> {
        // Bridges of the fabric are wires, not hosts: no addresses, no chatter.
        for which in ["all", "default"] {
            let _kernel_without_ipv6 = fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1");
        }
        let impaired = parse_impaired(&arguments.impaired)?;
        let holders = start_holders(&arguments.folder.join("hosts"), arguments.further)?;
        let networks = holders.values().map(|holder| namespace::network_of(holder.id())).collect::<Result<_, _>>()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let fabric = Self { holders, networks, runtime };
        fabric.runtime.block_on(fabric.connect(&impaired))?;
        for (name, impairment) in impaired {
            let (host_side, bridge_side) = (near(OUTSIDE_LINK, name), far(name));
            let seed = name.place() as u64 + 1;
            thread::Builder::new().name(format!("link-{name}")).spawn(move || {
                // Ends when the links go, which is when the fabric goes.
                let _ended = forward(&host_side, &bridge_side, impairment, seed);
            })?;
        }
        Ok(fabric)
    }

    fn pids(&self) -> BTreeMap<Name, u32> {
        self.holders.iter().map(|(name, holder)| (*name, holder.id())).collect()
    }

    async fn connect(&self, impaired: &BTreeMap<Name, Impairment>) -> Result<(), Failure> {
        let fabric = Connection::<Route>::new()?;
        for network in [OUTSIDE_LINK, INSIDE_LINK] {
            fabric.add_link(BridgeLink::new(network).forward_delay_ms(0).stp(false)).await?;
            fabric.set_link_up(network).await?;
        }
        for (name, holder) in &self.holders {
            let host = inside(holder)?;
            host.set_link_up("lo").await?;
            for (network, addresses) in name.links() {
                let near = near(network, *name);
                fabric.add_link(VethLink::new(near.as_str(), network).peer_netns_pid(holder.id())).await?;
                if network == OUTSIDE_LINK && impaired.contains_key(name) {
                    let (far, plug) = (far(*name), format!("p-{name}"));
                    fabric.add_link(VethLink::new(far.as_str(), plug.as_str())).await?;
                    fabric.set_link_master(plug.as_str(), network).await?;
                    fabric.set_link_up(plug.as_str()).await?;
                    fabric.set_link_up(far.as_str()).await?;
                } else {
                    fabric.set_link_master(near.as_str(), network).await?;
                }
                fabric.set_link_up(near.as_str()).await?;
                for address in addresses {
                    match address {
                        IpAddr::V4(v4) => host.add_address(Ipv4Address::new(network, v4, 24)).await?,
                        IpAddr::V6(v6) => host.add_address(Ipv6Address::new(network, v6, 64).nodad()).await?,
                    }
                }
                host.set_link_up(network).await?;
            }
        }
        for (name, holder) in &self.holders {
            let host = inside(holder)?;
            for (network, _) in name.links() {
                await_running(&host, network).await?;
            }
        }
        Ok(())
    }

    /// `link HOST up` and `link HOST down` plug and pull the outside cable of a host.
    fn obey(&mut self, order: &str) -> Result<(), Failure> {
        let words: Vec<&str> = order.split_whitespace().collect();
        let ["link", host, state @ ("up" | "down")] = words.as_slice() else {
            return Err(format!("unknown order {order:?}").into());
        };
        let (name, up): (Name, bool) = (host.parse()?, *state == "up");
        let holder = self.holders.get(&name).ok_or("no such host")?;
        self.runtime.block_on(async {
            let fabric = Connection::<Route>::new()?;
            fabric.set_link_state(near(OUTSIDE_LINK, name).as_str(), up).await?;
            if up {
                let host = inside(holder)?;
                await_running(&host, OUTSIDE_LINK).await?;
                // A question asked without a cable would soon fail, and fail what is sent by then, too.
                let _answered_meanwhile = host.flush_neighbors(OUTSIDE_LINK).await;
            }
            Ok(())
        })
    }

    /// Kills every process in the hosts, then their holders.
    fn end(&mut self) {
        // A process that forks while it is searched for is found in the next round.
        for _ in 0..100 {
            let left = self.inhabitants();
            for process in &left {
                let _gone_already = process.signal(Signal::Kill);
            }
            for process in &left {
                let _gone = process.wait(Duration::from_secs(1));
            }
            if left.is_empty() {
                break;
            }
        }
        for holder in self.holders.values_mut() {
            let _gone_already = holder.kill();
            let _reaped = holder.wait();
        }
    }

    fn inhabitants(&self) -> Vec<ProcessHandle> {
        let holders: BTreeSet<u32> = self.holders.values().map(Child::id).collect();
        let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let ours = pids.filter(|pid| !holders.contains(pid)).filter_map(|pid| {
            let process = ProcessHandle::open(pid).ok()?;
            // After the handle is held, so that the number cannot change hands in between.
            let network = namespace::network_of(pid).ok()?;
            self.networks.contains(&network).then_some(process)
        });
        ours.collect()
    }
}

/// The kernel, as a host sees it.
fn inside(holder: &Child) -> Result<Connection<Route>, nlink::Error> {
    Connection::<Route>::new_in(Path::new(&format!("/proc/{}/ns/net", holder.id())))
}

/// Until the kernel has noticed the carrier it refuses to send.
async fn await_running(host: &Connection<Route>, link: &str) -> Result<(), nlink::Error> {
    host.wait_link(link, LinkCond::OperUp, LINK_LIMIT).await.map(drop)
}

/// The fabric's end of a host's link.
fn near(network: &str, name: Name) -> String {
    let letter = if network == OUTSIDE_LINK { "o" } else { "i" };
    format!("{letter}-{name}")
}

/// The forwarder's other end, towards the bridge.
fn far(name: Name) -> String {
    format!("f-{name}")
}

fn parse_impaired(texts: &[String]) -> Result<BTreeMap<Name, Impairment>, String> {
    let parse = |text: &String| {
        let (name, impairment) = text.split_once('=').ok_or_else(|| format!("{text:?} is not HOST=IMPAIRMENT"))?;
        Ok((name.parse()?, impairment.parse()?))
    };
    texts.iter().map(parse).collect()
}

fn start_holders(folder: &Path, further: usize) -> Result<BTreeMap<Name, Child>, Failure> {
    let program = std::env::current_exe()?;
    let mut holders = BTreeMap::new();
    for name in all_hosts(further) {
        let folder = folder.join(name.as_str());
        fs::create_dir_all(&folder)?;
        let mut command = Command::new(&program);
        command.arg("__host").arg(name.as_str()).arg(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        holders.insert(name, namespace::die_with_parent(&mut command).spawn()?);
    }
    for (name, holder) in &mut holders {
        let mut line = String::new();
        if let Some(output) = holder.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        if line.trim() != "ready" {
            return Err(LabError::Fabric(format!("host {name} did not start: {}", line.trim())).into());
        }
    }
    Ok(holders)
}
