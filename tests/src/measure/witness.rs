//! Who sends the flows of a measurement, and who sees when their last packet comes?
//!
//! `talk` runs on a laptop, `watch` where the service is. Both write a line for each event, with its time.

use super::now_micros;
use crate::service::{HTTP_PORT, UDP_PORT};
use anyhow::{Context as _, anyhow};
use clap::Subcommand;
use host::namespace::{PacketSocket, wait_readable};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

/// Between two datagrams of `talk`: how fine the figure is.
const BEAT: Duration = Duration::from_millis(2);
/// `talk` tells of so many datagrams at once.
const TOLD: u64 = 50;
/// No answer is waited for longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Any frame with the kernel's note in front.
const FRAME_BYTES_MAX: usize = 65_536 + 64;
/// struct virtio_net_hdr and an Ethernet header.
const FRONT: usize = 10 + 14;
/// IANA's protocol numbers.
const TCP: u8 = 6;
const UDP: u8 = 17;
/// RFC 9293, section 3.1.
const TCP_RESET: u8 = 4;

/// How a witness is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Downloads from a host, and sends it datagrams, until killed
    Talk { host: String },
    /// Tells of each packet that comes to the services over a link
    Watch { link: String },
    /// Tells the microseconds from connect() to the first byte of HTTP
    FirstByte { host: String },
}

/// Runs one witness.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.what {
        What::Talk { host } => talk(host),
        What::Watch { link } => watch(link),
        What::FirstByte { host } => first_byte(host),
    }
}

fn resolve(host: &str, port: u16) -> anyhow::Result<SocketAddr> {
    let found = (host, port).to_socket_addrs().with_context(|| format!("no address for {host}"))?.next();
    found.ok_or_else(|| anyhow!("no address for {host}"))
}

fn ask(address: SocketAddr, host: &str, path: &str) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    Ok(stream)
}

fn first_byte(host: &str) -> anyhow::Result<()> {
    let address = resolve(host, HTTP_PORT)?;
    let started = Instant::now();
    ask(address, host, "/")?.read_exact(&mut [0]).context("no answer")?;
    Ok(writeln!(io::stdout(), "{}", started.elapsed().as_micros())?)
}

fn talk(host: &str) -> anyhow::Result<()> {
    let mut download = ask(resolve(host, HTTP_PORT)?, host, "/download?rate=200000")?;
    download.read_exact(&mut [0]).context("no download")?;
    let address = resolve(host, UDP_PORT)?;
    let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(address)?;
    let echo = socket.try_clone()?;
    thread::spawn(move || drain(&mut download));
    thread::spawn(move || hear(&echo));
    for number in 1_u64.. {
        // A refusal is what a revoke looks like from here; the tries go on, for the other witness.
        let _refused = socket.send(now_micros()?.to_string().as_bytes());
        if number % TOLD == 0 {
            writeln!(io::stdout(), "tried {number}")?;
        }
        thread::sleep(BEAT);
    }
    Ok(())
}

fn drain(download: &mut TcpStream) {
    let mut part = [0; 16_384];
    let ending = loop {
        match download.read(&mut part) {
            Ok(0) => break "end".to_owned(),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => break error.to_string(),
        }
    };
    let _nobody_listens = writeln!(io::stdout(), "download: {ending}");
}

fn hear(echo: &UdpSocket) {
    let mut part = [0; 64];
    loop {
        if echo.recv(&mut part).is_ok() {
            let Ok(now) = now_micros() else { return };
            if writeln!(io::stdout(), "heard {now}").is_err() {
                return;
            }
        }
    }
}

fn watch(link: &str) -> anyhow::Result<()> {
    let socket = PacketSocket::open(link).with_context(|| format!("link {link}"))?;
    writeln!(io::stdout(), "watching")?;
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    loop {
        wait_readable([&socket, &socket], None)?;
        let length = match socket.receive(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        };
        let arrived = now_micros()?;
        if let Some((kind, text)) = buffer.get(..length).and_then(|frame| flow_of(frame.get(FRONT..)?)) {
            writeln!(io::stdout(), "{kind} {arrived} {text}")?;
        }
    }
}

/// Of which measured flow an IP packet is, if of any, and what a datagram says (when it was sent). A reset of TCP is no packet of a flow: it is its end, and the
/// gateway's own.
fn flow_of(packet: &[u8]) -> Option<(&'static str, &str)> {
    let (protocol, rest) = match packet.first()? >> 4 {
        4 => (*packet.get(9)?, packet.get(usize::from(packet.first()? & 15) * 4..)?),
        6 => (*packet.get(6)?, packet.get(40..)?),
        _ => return None,
    };
    let port = u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]);
    match protocol {
        TCP if port == HTTP_PORT && rest.get(13)? & TCP_RESET == 0 => Some(("tcp", "")),
        UDP if port == UDP_PORT => Some(("udp", std::str::from_utf8(rest.get(8..)?).ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_measured_flows_count() {
        let v4 = |protocol: u8, port: u16, flags: u8| {
            let mut packet = vec![0; 40];
            (packet[0], packet[9], packet[33]) = (0x45, protocol, flags);
            packet[22..24].copy_from_slice(&port.to_be_bytes());
            packet
        };
        assert_eq!(flow_of(&v4(TCP, HTTP_PORT, 16)), Some(("tcp", "")));
        let mut datagram = v4(UDP, UDP_PORT, 0);
        datagram.splice(28.., *b"77");
        assert_eq!(flow_of(&datagram), Some(("udp", "77")));
        assert_eq!(flow_of(&v4(TCP, HTTP_PORT, 16 | TCP_RESET)), None);
        assert_eq!(flow_of(&v4(TCP, 7, 16)), None);
        assert_eq!(flow_of(&v4(1, HTTP_PORT, 16)), None);
        let mut v6 = vec![0; 60];
        (v6[0], v6[6], v6[43]) = (0x60, TCP, 80);
        assert_eq!(flow_of(&v6), Some(("tcp", "")));
        assert_eq!(flow_of(&v6[..42]), None);
        assert_eq!(flow_of(&[]), None);
    }
}
