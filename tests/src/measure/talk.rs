//! Who sends the flows of a measurement? `talk` downloads and sends datagrams; it runs on a laptop until it is killed.
//!
//! A *probe* sends so often that the figure is fine, and ends with its download. A *load* is what a user at work is: it
//! begins again when it was cut off.

use super::now_micros;
use crate::service::{HTTP_PORT, UDP_PORT};
use anyhow::{Context as _, anyhow};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

/// Between two datagrams of a probe: how fine the figure is.
const PROBE_BEAT: Duration = Duration::from_millis(2);
/// Bytes a second of a probe's download.
const PROBE_RATE: u64 = 200_000;
/// Between two datagrams of a load.
pub const LOAD_BEAT: Duration = Duration::from_millis(20);
/// Bytes a second of a load's download: 1 Mbit/s.
pub const LOAD_RATE: u64 = 125_000;
/// A load that was cut off tries again so often.
const AGAIN: Duration = Duration::from_millis(200);
/// A probe tells of so many datagrams at once.
const TOLD: u64 = 50;
/// No answer is waited for longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The header of a download's request in which it says whose it is.
pub(super) const WHO: &str = "User-Agent: ";

fn resolve(host: &str, port: u16) -> anyhow::Result<SocketAddr> {
    let found = (host, port).to_socket_addrs().with_context(|| format!("no address for {host}"))?.next();
    found.ok_or_else(|| anyhow!("no address for {host}"))
}

fn ask(address: SocketAddr, who: &str, host: &str, path: &str) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    // In one piece, so that the witness sees it in one packet.
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{WHO}{who}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    Ok(stream)
}

/// Tells the microseconds from connect() to the first byte of HTTP.
pub(super) fn first_byte(host: &str) -> anyhow::Result<()> {
    let address = resolve(host, HTTP_PORT)?;
    let started = Instant::now();
    ask(address, "first-byte", host, "/")?.read_exact(&mut [0]).context("no answer")?;
    Ok(writeln!(io::stdout(), "{}", started.elapsed().as_micros())?)
}

fn udp_to(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(address)?;
    Ok(socket)
}

/// One datagram: whose, which, sent when.
fn datagram(who: &str, number: u64) -> anyhow::Result<String> {
    Ok(format!("{who} {number} {}", now_micros()?))
}

/// Talks finely, and tells of each echo.
pub(super) fn probe(host: &str, who: &str) -> anyhow::Result<()> {
    let mut download = ask(resolve(host, HTTP_PORT)?, who, host, &format!("/download?rate={PROBE_RATE}"))?;
    download.read_exact(&mut [0]).context("no download")?;
    let socket = udp_to(resolve(host, UDP_PORT)?)?;
    let echo = socket.try_clone()?;
    thread::spawn(move || {
        let ending = drain(&mut download);
        let _nobody_listens = writeln!(io::stdout(), "download: {ending}");
    });
    thread::spawn(move || hear(&echo));
    for number in 1_u64.. {
        // A refusal is what a revoke looks like from here; the tries go on, for the other witness.
        let _refused = socket.send(datagram(who, number)?.as_bytes());
        if number % TOLD == 0 {
            writeln!(io::stdout(), "tried {number}")?;
        }
        thread::sleep(PROBE_BEAT);
    }
    Ok(())
}

/// Talks as a user at work does, for ever.
pub(super) fn load(host: &str, who: &str) -> anyhow::Result<()> {
    let (web, udp) = (resolve(host, HTTP_PORT)?, resolve(host, UDP_PORT)?);
    let (host, name) = (host.to_owned(), who.to_owned());
    thread::spawn(move || {
        loop {
            if let Ok(mut download) = ask(web, &name, &host, &format!("/download?rate={LOAD_RATE}")) {
                let ending = drain(&mut download);
                let _nobody_listens = writeln!(io::stdout(), "download: {ending}");
            }
            thread::sleep(AGAIN);
        }
    });
    let socket = udp_to(udp)?;
    socket.set_nonblocking(true)?;
    let mut due = Instant::now();
    for number in 1_u64.. {
        let _refused = socket.send(datagram(who, number)?.as_bytes());
        while socket.recv(&mut [0; 64]).is_ok() {}
        due += LOAD_BEAT;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// Reads a download to its end; says how that came.
fn drain(download: &mut TcpStream) -> String {
    let mut part = [0; 16_384];
    loop {
        match download.read(&mut part) {
            Ok(0) => return "end".to_owned(),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return error.to_string(),
        }
    }
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
