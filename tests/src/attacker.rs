//! What does somebody hostile on a network of the lab do, and what comes back to them?

mod calls;
mod crowd;
mod fill;
mod flood;
mod http2;
mod insider;
mod noise;
pub mod packet;
mod storm;
mod tunnel;

use anyhow::Context;
use clap::Subcommand;
use host::namespace::{PacketSocket, wait_readable};
use model::time::Clock as _;
use nlink::netlink::Netfilter;
use nlink::{Connection, Ipv4Route, Ipv6Route, Route};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Connections that are tried at once.
const AT_ONCE: usize = 400;
/// The kernel's note in front of a captured frame (struct virtio_net_hdr).
const NOTE_LEN: usize = 10;

/// How an attack is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print every frame that arrives at a link, in hexadecimal, one a line; `capturing` comes first
    Capture { link: String },
    /// Print the hardware address of a link, in hexadecimal
    Mac { link: String },
    /// Send a network's packets to a router of our choice, or into a link as if the network were there
    Route {
        /// ADDRESS/LENGTH
        prefix: model::net::Prefix,
        #[arg(long)]
        link: String,
        #[arg(long)]
        via: Option<IpAddr>,
    },
    /// Try TCP ports FIRST to LAST and print those that say anything
    Connect {
        address: IpAddr,
        first: u16,
        last: u16,
        /// Milliseconds to wait for each
        #[arg(long, default_value_t = 300)]
        patience: u64,
    },
    /// Take over a stopped client and send packets to a gateway inside a tunnel of its own: hexadecimal, one a line
    Insider {
        /// The client's state
        #[arg(long, default_value = "/var/lib/umbra/client")]
        state: PathBuf,
        /// The id of what it asks for
        resource: String,
    },
    /// Print what the kernel's connection tracking holds, `PROTOCOL SOURCE DESTINATION` as the first packet had them
    Tracked,
    /// Send knocks and initiations of strangers who know the key; print how many datagrams came back, and their bytes
    Noise {
        to: SocketAddr,
        /// The far end's WireGuard key, base 64
        key: String,
        #[arg(long, default_value_t = 1_000)]
        knocks: u32,
        #[arg(long, default_value_t = 1_000)]
        initiations: u32,
    },
    /// Flood with initiations from forged addresses; print how many were sent, and the processor time in seconds
    Pour {
        link: String,
        /// The hardware address of the far end, in hexadecimal
        mac: String,
        to: SocketAddr,
        /// The far end's WireGuard key, base 64; without it MAC1 does not hold
        #[arg(long)]
        key: Option<String>,
        /// A second
        #[arg(long, default_value_t = 100_000)]
        rate: u64,
        /// Seconds
        #[arg(long, default_value_t = 10)]
        lasts: u64,
    },
    /// Download from an HTTP service of the lab; print bytes a second
    Download { from: String, seconds: u64 },
    /// Print the public key of a node whose state this is
    Key { state: PathBuf },
    /// As an enrolled node whose client runs here: ask too much of the controller's port; print what was done
    Storm {
        /// The client's state
        #[arg(long, default_value = "/var/lib/umbra/client")]
        state: PathBuf,
        /// How
        #[arg(value_enum)]
        how: storm::How,
        /// Seconds
        #[arg(long, default_value_t = 5)]
        lasts: u64,
    },
    /// With a join file, as many machines that knock and never enrol: ask too much of the enrolment port; print what was done
    Crowd {
        join: PathBuf,
        /// How
        #[arg(value_enum)]
        how: crowd::How,
        #[arg(long, default_value_t = 40)]
        peers: u32,
        /// Seconds
        #[arg(long, default_value_t = 5)]
        lasts: u64,
    },
    /// Make the calls of a file, `PATH HEX[,HEX...]` a line; print `CODE MESSAGE ANSWER` for each, the last two in hexadecimal
    Calls {
        /// Of the node as whom to call, while its program runs here
        #[arg(long, default_value = "/var/lib/umbra/client")]
        state: PathBuf,
        /// That program's TUN device
        #[arg(long, default_value = "umbra0")]
        device: String,
        /// Show the certificate of this state instead
        #[arg(long)]
        identity: Option<PathBuf>,
        /// Knock with this join file, and call the enrolment port
        #[arg(long)]
        join: Option<PathBuf>,
        /// Call a local socket instead
        #[arg(long)]
        socket: Option<PathBuf>,
        from: PathBuf,
    },
    /// Knock with the secret of a join file, each time for a key of its own
    Knock {
        to: SocketAddr,
        join: PathBuf,
        #[arg(long, default_value_t = 1)]
        count: u32,
    },
    /// Hold connections to a local socket until the standard input ends; print `held` when they are made
    Hold { path: PathBuf, count: usize },
    /// Send datagrams from ever new ports until so many are answered
    Flows { to: String, count: u32 },
    /// Claim to be a router, with these networks on the link (RFC 4861)
    Advertise {
        link: String,
        /// ADDRESS/LENGTH
        prefixes: Vec<model::net::Prefix>,
    },
    /// Send datagrams, given in hexadecimal
    Send {
        to: SocketAddr,
        datagrams: Vec<String>,
        /// From an address of this host
        #[arg(long)]
        from: Option<IpAddr>,
    },
}

/// Runs one attack.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let What::Capture { link } = &arguments.what {
        return Ok(capture(link)?);
    }
    if let What::Storm { state, how, lasts } = &arguments.what {
        return storm::rage(state, *how, Duration::from_secs(*lasts));
    }
    match &arguments.what {
        What::Crowd { join, how, peers, lasts } => {
            return crowd::gather(&join_file(join)?, *how, *peers, Duration::from_secs(*lasts));
        }
        What::Pour { link, mac, to, key, rate, lasts } => {
            let target = flood::Target { link, mac, to: *to, key: key.as_deref() };
            return flood::pour(&target, *rate, Duration::from_secs(*lasts));
        }
        What::Download { from, seconds } => return flood::download(from, Duration::from_secs(*seconds)),
        What::Key { state } => return flood::show_key(state),
        What::Insider { state, resource } => return insider::hold(state, resource),
        What::Knock { to, join, count } => return fill::knock(*to, &join_file(join)?, *count),
        What::Hold { path, count } => return fill::hold(path, *count),
        What::Flows { to, count } => return fill::flows(to, *count),
        _ => {}
    }
    if let What::Calls { state, device, identity, join, socket, from } = &arguments.what {
        let door = match (socket, join) {
            (Some(path), _) => calls::Door::Socket(path.clone()),
            (None, Some(join)) => calls::Door::Enrolment(Box::new(join_file(join)?)),
            (None, None) => calls::Door::control(state, device, identity.as_deref())?,
        };
        return calls::make(&door, from);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match &arguments.what {
        What::Capture { .. } | What::Insider { .. } | What::Storm { .. } => Ok(()),
        What::Calls { .. } | What::Crowd { .. } | What::Key { .. } => Ok(()),
        What::Pour { .. } | What::Download { .. } => Ok(()),
        What::Knock { .. } | What::Hold { .. } | What::Flows { .. } => Ok(()),
        What::Mac { link } => runtime.block_on(print_mac(link)),
        What::Route { prefix, link, via } => runtime.block_on(set_route(*prefix, link, *via)),
        What::Connect { address, first, last, patience } => {
            runtime.block_on(connect(*address, *first, *last, Duration::from_millis(*patience)))
        }
        What::Tracked => runtime.block_on(print_tracked()),
        What::Noise { to, key, knocks, initiations } => noise::make(*to, key, *knocks, *initiations),
        What::Advertise { link, prefixes } => Ok(noise::advertise(link, prefixes)?),
        What::Send { to, datagrams, from } => send(*to, datagrams, *from),
    }
}

/// A device's join file.
pub fn join_file(path: &std::path::Path) -> anyhow::Result<proto::join::JoinFile> {
    let (text, now) = (std::fs::read_to_string(path)?, host::clock::SystemClock::new().wall());
    Ok(proto::join::JoinFile::parse(&text, proto::join::JoinKind::Device, now)?)
}

/// Bytes as [`hex_bytes`] reads them.
pub fn hex_text(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _never_fails = write!(text, "{byte:02x}");
        text
    })
}

/// None where the text is no hexadecimal.
pub fn hex_bytes(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    };
    text.as_bytes().chunks(2).map(pair).collect()
}

fn capture(link: &str) -> io::Result<()> {
    let socket = PacketSocket::open(link)?;
    writeln!(io::stdout(), "capturing")?;
    let mut buffer = vec![0; 65_536 + 64];
    loop {
        match socket.receive(&mut buffer) {
            Ok(length) => {
                let frame = buffer.get(NOTE_LEN..length).unwrap_or_default();
                writeln!(io::stdout(), "{}", hex_text(frame))?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_readable([&socket, &socket], None)?,
            Err(error) => return Err(error),
        }
    }
}

async fn print_mac(link: &str) -> anyhow::Result<()> {
    let found = Connection::<Route>::new()?.get_link_by_name(link).await?.context("no such link")?;
    let address = found.address().context("it has no hardware address")?;
    Ok(writeln!(io::stdout(), "{}", hex_text(address))?)
}

async fn set_route(prefix: model::net::Prefix, link: &str, via: Option<IpAddr>) -> anyhow::Result<()> {
    let kernel = Connection::<Route>::new()?;
    let index = kernel.get_link_by_name(link).await?.context("no such link")?.ifindex();
    match (prefix.address(), via) {
        (IpAddr::V4(v4), Some(IpAddr::V4(via))) => {
            kernel.replace_route(Ipv4Route::from_addr(v4, prefix.bits()).dev_index(index).gateway(via)).await?;
        }
        (IpAddr::V6(v6), Some(IpAddr::V6(via))) => {
            kernel.replace_route(Ipv6Route::from_addr(v6, prefix.bits()).dev_index(index).gateway(via)).await?;
        }
        (IpAddr::V4(v4), None) => {
            kernel.replace_route(Ipv4Route::from_addr(v4, prefix.bits()).dev_index(index)).await?;
        }
        (IpAddr::V6(v6), None) => {
            kernel.replace_route(Ipv6Route::from_addr(v6, prefix.bits()).dev_index(index)).await?;
        }
        _ => anyhow::bail!("{prefix} and its router are of two families"),
    }
    Ok(())
}

async fn connect(address: IpAddr, first: u16, last: u16, patience: Duration) -> anyhow::Result<()> {
    let ports: Vec<u16> = (first..=last).collect();
    for some in ports.chunks(AT_ONCE) {
        let mut tries = JoinSet::new();
        for port in some.iter().copied() {
            tries.spawn(async move {
                let tried = tokio::time::timeout(patience, TcpStream::connect((address, port))).await;
                tried.ok().map(|tried| (port, tried.map(drop)))
            });
        }
        while let Some(ended) = tries.join_next().await {
            match ended? {
                None => {}
                Some((port, Ok(()))) => writeln!(io::stdout(), "{port} open")?,
                Some((port, Err(error))) => writeln!(io::stdout(), "{port} {error}")?,
            }
        }
    }
    Ok(())
}

async fn print_tracked() -> anyhow::Result<()> {
    let kernel = Connection::<Netfilter>::new()?;
    for entry in [kernel.get_conntrack().await?, kernel.get_conntrack_v6().await?].concat() {
        let (Some(source), Some(destination)) = (entry.orig.src_ip, entry.orig.dst_ip) else { continue };
        writeln!(io::stdout(), "{:?} {source} {destination}", entry.proto)?;
    }
    Ok(())
}

fn send(to: SocketAddr, datagrams: &[String], from: Option<IpAddr>) -> anyhow::Result<()> {
    let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((from.unwrap_or(any), 0))?;
    for text in datagrams {
        let bytes = hex_bytes(text).context("no hexadecimal")?;
        match socket.send_to(&bytes, to) {
            // Nobody answers ARP or ND: what a stranger runs into.
            Err(error) if error.kind() == io::ErrorKind::HostUnreachable => {}
            sent => drop(sent?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_as_they_were() {
        assert_eq!(hex_bytes(&hex_text(&[0, 0x7f, 0xff])), Some(vec![0, 0x7f, 0xff]));
        assert_eq!(hex_bytes("0"), None);
        assert_eq!(hex_bytes("zz"), None);
    }
}
