//! A program that never rests: it sends datagrams to addresses that may be protected or not, and asks whatever name servers
//! resolv.conf names, as programs on a real machine do. It waits for no answer.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

/// The pause between two rounds.
const PAUSE: Duration = Duration::from_millis(10);
/// Names are asked for in each so many rounds.
const ASKING: u64 = 5;

/// How the program is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// What each datagram carries
    #[arg(long)]
    text: String,
    /// Where datagrams go
    #[arg(long)]
    to: Vec<SocketAddr>,
    /// Names that are asked for
    #[arg(long)]
    name: Vec<String>,
}

/// Runs until it is killed.
pub fn run(arguments: &Arguments) -> io::Result<()> {
    let v4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let v6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
    for socket in [&v4, &v6] {
        socket.set_nonblocking(true)?;
    }
    // No route, no buffer, nobody there: all the same to it.
    let send = |bytes: &[u8], to: SocketAddr| _ = if to.is_ipv4() { &v4 } else { &v6 }.send_to(bytes, to);
    for round in 0_u64.. {
        for to in &arguments.to {
            send(arguments.text.as_bytes(), *to);
        }
        if round.is_multiple_of(ASKING) {
            for server in servers() {
                let id = u16::try_from(round % 65_536).unwrap_or_default();
                arguments.name.iter().for_each(|name| send(&question(id, name), SocketAddr::new(server, 53)));
            }
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn servers() -> Vec<IpAddr> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix("nameserver ")?.trim().parse().ok()).collect()
}

/// A question for a name's IPv4 address (RFC 1035, section 4.1).
pub fn question(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = [id, 0x0100, 1, 0, 0, 0].map(u16::to_be_bytes).concat();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap_or_default());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes
}
