//! Which services does the lab protect, so that nobody needs to install any?
//!
//! They run in host `service`, on each of its addresses, in both families: HTTP (`web`, `wiki`, `vault`), an echo of
//! lines over TCP, an echo and a stream source over UDP; and a name server for the inside network, whose zone is a file
//! that a test may change at any time. Host `stranger` has the name server of the outside network, which knows nothing of
//! the organisation.

mod dns;
mod echo;
mod http;
mod udp;

use crate::exchange;
use crate::lab::topology::OUTSIDE_NAME_SERVER;
use crate::lab::{Daemon, LabError, Name, World};
use clap::ValueEnum;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// TCP port of the HTTP services.
pub const HTTP_PORT: u16 = 80;
/// TCP port of the echo of lines.
pub const ECHO_PORT: u16 = 7;
/// UDP port of the echo and stream source.
pub const UDP_PORT: u16 = 9000;
/// TCP port of the exchange of bytes, see [`crate::exchange`]; it runs where it is asked for with [`start_exchange`].
pub const EXCHANGE_PORT: u16 = 5100;
/// Bytes that do not come for so long never come.
pub const EXCHANGE_PATIENCE: Duration = Duration::from_secs(60);
/// UDP port of the name server.
pub const DNS_PORT: u16 = 53;
/// The zone that the inside name server knows.
pub const ZONE: &str = "corp.example";
/// Where its zone file lies, as host `service` sees it; one `NAME SECONDS ADDRESS` a line, read at each question.
pub const ZONE_FILE: &str = "/etc/umbra/zone";
/// The HTTP services in the order of the host's addresses; `NAME.corp.example` is their name.
pub const HTTP_NAMES: [&str; 3] = ["web", "wiki", "vault"];

/// A name that the outside name server knows, and its address.
pub const PUBLIC_NAME: (&str, &str) = ("www.example.org", "192.0.2.80");

/// What kind of service?
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// `GET /`, `/bytes/N`, `/download?rate=BYTES_PER_SECOND`
    Http,
    /// Sends each line back
    Echo,
    /// Sends each datagram back; `stream PER_SECOND COUNT` starts a stream of numbered ones
    Udp,
    /// Answers A and AAAA from a file
    Dns,
    /// As many bytes both ways as the visitor says, and their hashes
    Exchange,
}

/// How a service is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    kind: Kind,
    /// Address and port, once for each
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    /// What it calls itself
    #[arg(long, default_value = "service")]
    name: String,
    /// The name server's zone
    #[arg(long, default_value = ZONE_FILE)]
    zone: PathBuf,
}

/// Runs one service until it is killed. Says `listening` once it does.
pub fn run(arguments: &Arguments) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for address in arguments.listen.iter().copied() {
            let name = arguments.name.clone();
            match arguments.kind {
                Kind::Http => drop(tasks.spawn(http::serve(tokio::net::TcpListener::bind(address).await?, name))),
                Kind::Echo => drop(tasks.spawn(echo::serve(tokio::net::TcpListener::bind(address).await?))),
                Kind::Udp => drop(tasks.spawn(udp::serve(tokio::net::UdpSocket::bind(address).await?))),
                Kind::Exchange => {
                    let listener = std::net::TcpListener::bind(address)?;
                    tasks.spawn_blocking(move || exchange::serve(&listener, EXCHANGE_PATIENCE));
                }
                Kind::Dns => {
                    let zone = arguments.zone.clone();
                    drop(tasks.spawn(dns::serve(tokio::net::UdpSocket::bind(address).await?, zone)));
                }
            }
        }
        writeln!(io::stdout(), "listening")?;
        match tasks.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(broken)) => Err(io::Error::other(broken)),
            None => Ok(()),
        }
    })
}

/// All services of a world; they end when this is dropped.
#[derive(Debug)]
pub struct Services {
    /// `web`, `wiki`, `vault` on the first, second and third address.
    pub http: Vec<Daemon>,
    /// TCP echo, on every address.
    pub echo: Daemon,
    /// UDP echo and stream source, on every address.
    pub udp: Daemon,
    /// The inside name server, on the first address.
    pub dns: Daemon,
    /// The outside name server.
    pub public_dns: Daemon,
}

impl Services {
    /// Starts them all and waits until they listen.
    pub fn start(world: &World) -> Result<Self, LabError> {
        let addresses = Name::Service.inside();
        let pairs: Vec<&[IpAddr]> = addresses.chunks(2).collect();
        write_zone(world, &default_zone(&pairs))?;
        let mut http = Vec::new();
        for (name, pair) in HTTP_NAMES.iter().zip(&pairs) {
            http.push(start(world, "http", name, pair, HTTP_PORT)?);
        }
        let echo = start(world, "echo", "echo", &addresses, ECHO_PORT)?;
        let udp = start(world, "udp", "udp", &addresses, UDP_PORT)?;
        let dns = start(world, "dns", "dns", pairs.first().copied().unwrap_or_default(), DNS_PORT)?;
        let public_dns = start_public_names(world)?;
        let services = Self { http, echo, udp, dns, public_dns };
        let single = [&services.echo, &services.udp, &services.dns, &services.public_dns];
        for daemon in services.http.iter().chain(single) {
            daemon.wait_for_line("listening", Duration::from_secs(20))?;
        }
        Ok(services)
    }
}

fn start(world: &World, kind: &str, name: &str, addresses: &[IpAddr], port: u16) -> Result<Daemon, LabError> {
    let service = world.host(Name::Service);
    let mut command = service.command("umbra-lab");
    command.args(["__service", kind, "--name", name]);
    command.args(addresses.iter().map(|address| format!("--listen={}", SocketAddr::new(*address, port))));
    service.start(&format!("service-{name}"), command)
}

/// Starts the exchange of bytes on every address of host `service`.
pub fn start_exchange(world: &World) -> Result<Daemon, LabError> {
    let daemon = start(world, "exchange", "exchange", &Name::Service.inside(), EXCHANGE_PORT)?;
    daemon.wait_for_line("listening", Duration::from_secs(20))?;
    Ok(daemon)
}

fn start_public_names(world: &World) -> Result<Daemon, LabError> {
    let (name, address) = PUBLIC_NAME;
    write_zone_of(world, Name::Stranger, &format!("{name} 60 {address}\n"))?;
    let stranger = world.host(Name::Stranger);
    let mut command = stranger.command("umbra-lab");
    command.args(["__service", "dns", "--listen", &SocketAddr::new(OUTSIDE_NAME_SERVER, DNS_PORT).to_string()]);
    stranger.start("service-public-dns", command)
}

fn default_zone(pairs: &[&[IpAddr]]) -> String {
    let named = HTTP_NAMES.iter().zip(pairs);
    named.flat_map(|(name, pair)| pair.iter().map(move |address| format!("{name}.{ZONE} 2 {address}\n"))).collect()
}

/// Replaces the zone of the inside name server; the next answer shows it.
pub fn write_zone(world: &World, text: &str) -> Result<(), LabError> {
    write_zone_of(world, Name::Service, text)
}

fn write_zone_of(world: &World, host: Name, text: &str) -> Result<(), LabError> {
    let file = world.host(host).outside_path(ZONE_FILE).unwrap_or_default();
    let draft = file.with_extension("new");
    let written = fs::write(&draft, text).and_then(|()| fs::rename(&draft, &file));
    written.map_err(LabError::while_doing(format!("write {}", file.display())))
}
