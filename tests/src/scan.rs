//! Who answers a stranger? Many questions at once, over TCP and UDP, and every sign of life counts as an answer: a
//! connection, a reset, a datagram, an ICMP error.

use anyhow::{Context, bail};
use nlink::netlink::route::{Ipv4Route, Ipv6Route};
use nlink::{Connection, Route};
use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Where services usually listen, and ports on which most machines listen at nothing, so that a reset would show them.
const TCP_PORTS: [u16; 20] =
    [1, 7, 22, 25, 53, 80, 111, 179, 443, 853, 1194, 3306, 5432, 6443, 8080, 8443, 9000, 9090, 51_820, 65_535];
const UDP_PORTS: [u16; 8] = [53, 123, 443, 500, 4500, 9000, 51_820, 65_535];
/// What a WireGuard initiation looks like: its type and its size (WireGuard paper, section 5.4.2). The rest is noise.
const LOOK_ALIKE: [u8; 148] = {
    let mut bytes = [0xa5; 148];
    [bytes[0], bytes[1], bytes[2], bytes[3]] = [1, 0, 0, 0];
    bytes
};
/// Sockets at once, below the usual limit of 1024 open files.
const QUESTIONS_MAX: usize = 900;

/// One address to ask, and through which router when the machine has no way of its own.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    address: IpAddr,
    router: Option<IpAddr>,
}

impl std::str::FromStr for Target {
    type Err = String;

    /// `ADDRESS` or `ADDRESS@ROUTER`
    fn from_str(text: &str) -> Result<Self, String> {
        let (address, router) = text.split_once('@').map_or((text, None), |(address, router)| (address, Some(router)));
        let parse = |text: &str| text.parse::<IpAddr>().map_err(|error| format!("{text}: {error}"));
        Ok(Self { address: parse(address)?, router: router.map(parse).transpose()? })
    }
}

/// Asks every target on every port, and waits `patience` for each answer. Prints the answers, then
/// `N questions, M answers`.
pub fn run(targets: &[Target], patience: Duration) -> anyhow::Result<()> {
    let each = TCP_PORTS.len() + 2 * UDP_PORTS.len();
    if targets.len() * each > QUESTIONS_MAX {
        bail!("at most {} addresses at once", QUESTIONS_MAX / each);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (asked, answers) = runtime.block_on(async {
        for target in targets {
            lead(*target).await.with_context(|| format!("route to {}", target.address))?;
        }
        anyhow::Ok(ask(targets, patience).await)
    })?;
    let mut out = io::stdout().lock();
    answers.iter().try_for_each(|answer| writeln!(out, "{answer}"))?;
    Ok(writeln!(out, "{asked} questions, {} answers", answers.len())?)
}

/// Sets the route to a target, if it asks for one.
async fn lead(target: Target) -> nlink::Result<()> {
    let kernel = Connection::<Route>::new()?;
    match (target.address, target.router) {
        (IpAddr::V4(address), Some(IpAddr::V4(router))) => {
            kernel.add_route(Ipv4Route::from_addr(address, 32).gateway(router)).await
        }
        (IpAddr::V6(address), Some(IpAddr::V6(router))) => {
            kernel.add_route(Ipv6Route::from_addr(address, 128).gateway(router)).await
        }
        _ => Ok(()),
    }
}

async fn ask(targets: &[Target], patience: Duration) -> (usize, Vec<String>) {
    let mut questions = JoinSet::new();
    for target in targets {
        for port in TCP_PORTS {
            questions.spawn(knock_tcp(SocketAddr::new(target.address, port), patience));
        }
        for port in UDP_PORTS {
            questions.spawn(knock_udp(SocketAddr::new(target.address, port), &LOOK_ALIKE, patience));
            questions.spawn(knock_udp(SocketAddr::new(target.address, port), b"hello\n", patience));
        }
    }
    let (asked, mut answers) = (questions.len(), Vec::new());
    while let Some(ended) = questions.join_next().await {
        match ended {
            Ok(answer) => answers.extend(answer),
            Err(broken) => answers.push(broken.to_string()),
        }
    }
    answers.sort_unstable();
    (asked, answers)
}

async fn knock_tcp(to: SocketAddr, patience: Duration) -> Option<String> {
    match timeout(patience, TcpStream::connect(to)).await {
        Err(_silence) => None,
        Ok(Ok(_)) => Some(format!("tcp {to}: accepts")),
        Ok(Err(error)) => Some(format!("tcp {to}: {error}")),
    }
}

async fn knock_udp(to: SocketAddr, words: &[u8], patience: Duration) -> Option<String> {
    let any = if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let conversation = async {
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(to).await?;
        socket.send(words).await?;
        socket.recv(&mut [0; 2048]).await
    };
    match timeout(patience, conversation).await {
        Err(_silence) => None,
        Ok(Ok(length)) => Some(format!("udp {to}: {length} bytes")),
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Some(format!("udp {to}: port unreachable")),
        Ok(Err(error)) => Some(format!("udp {to}: {error}")),
    }
}
