//! How does somebody in the lab use a service, where the machine has no curl, netcat or dig?
//!
//! Each probe prints what it got and ends with 0, or says why it got nothing and ends with 1. Names are looked up
//! as every program does it, by the C library and resolv.conf.

use crate::{exchange, scan};
use anyhow::{Context, anyhow, bail};
use clap::Subcommand;
use host::namespace::open_echo_socket;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// RFC 792
const ICMP_ECHO_REQUEST: u8 = 8;
/// RFC 4443
const ICMPV6_ECHO_REQUEST: u8 = 128;

/// How a probe is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
    /// How long to wait for anything, in milliseconds
    #[arg(long, default_value_t = 3000, global = true)]
    patience: u64,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Look a name up and print its addresses
    Name { name: String },
    /// GET http://HOST[:PORT]/PATH and print the body
    Http {
        url: String,
        /// Print only the count of bytes each time it grows by so many, then how it ended
        #[arg(long)]
        count: Option<u64>,
        /// Stop after so many bytes
        #[arg(long, default_value_t = u64::MAX)]
        most: u64,
    },
    /// Send lines over TCP one by one and print what comes back; without lines, those of standard input
    Echo { to: String, lines: Vec<String> },
    /// Send so many bytes and get as many at the same time; print the hashes of both ends as JSON
    Exchange { to: String, bytes: u64 },
    /// Send one datagram and print what comes back
    Udp { to: String, text: String },
    /// Ask addresses on many TCP and UDP ports at once, and print whatever answers: ADDRESS, or ADDRESS@ROUTER
    Scan {
        #[arg(required = true)]
        targets: Vec<scan::Target>,
    },
    /// Send one ICMP echo request and wait for its reply
    Ping {
        to: String,
        /// Bytes of data
        #[arg(long, default_value_t = 15)]
        size: usize,
    },
    /// Ask for numbered datagrams and print how many came, and the milliseconds from the first to the last
    Stream {
        to: String,
        rate: u64,
        count: u64,
        /// Print each number as it comes
        #[arg(long)]
        verbose: bool,
    },
}

/// Runs one probe.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let patience = Duration::from_millis(arguments.patience.max(1));
    match &arguments.what {
        What::Name { name } => look_up(name)?,
        What::Http { url, count, most } => fetch(url, *count, *most, patience)?,
        What::Echo { to, lines } => converse(to, lines, patience)?,
        What::Exchange { to, bytes } => {
            let outcome = exchange::ask(resolve(to)?, *bytes, patience)?;
            writeln!(io::stdout(), "{}", serde_json::to_string(&outcome)?)?;
        }
        What::Udp { to, text } => send(to, text, patience)?,
        What::Scan { targets } => scan::run(targets, patience)?,
        What::Ping { to, size } => ping(to, *size, patience)?,
        What::Stream { to, rate, count, verbose } => stream(to, *rate, *count, *verbose, patience)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn resolve(to: &str) -> anyhow::Result<SocketAddr> {
    let mut found = to.to_socket_addrs().with_context(|| format!("no address for {to}"))?;
    found.next().ok_or_else(|| anyhow!("no address for {to}"))
}

fn look_up(name: &str) -> anyhow::Result<()> {
    let found = (name, 0).to_socket_addrs().with_context(|| format!("no address for {name}"))?;
    let mut addresses: Vec<String> = found.map(|address| address.ip().to_string()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(writeln!(io::stdout(), "{}", addresses.join("\n"))?)
}

fn connect(to: &str, patience: Duration) -> anyhow::Result<TcpStream> {
    let address = resolve(to)?;
    let stream = TcpStream::connect_timeout(&address, patience).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn fetch(url: &str, count: Option<u64>, most: u64, patience: Duration) -> anyhow::Result<()> {
    let rest = url.strip_prefix("http://").ok_or_else(|| anyhow!("{url}: only http:// is known"))?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let to = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    let mut stream = connect(&to, patience)?;
    let path = if path.is_empty() { "/" } else { path };
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")?;
    let mut answer = BufReader::new(stream);
    let mut status = String::new();
    answer.read_line(&mut status).context("no answer")?;
    if !status.contains(" 200 ") {
        bail!("{url}: {}", status.trim_end());
    }
    let mut line = String::new();
    while answer.read_line(&mut line)? > 2 {
        line.clear();
    }
    let Some(step) = count else {
        io::copy(&mut answer.take(most), &mut io::stdout())?;
        return Ok(());
    };
    count_body(answer.take(most), step)
}

fn count_body(mut body: impl Read, step: u64) -> anyhow::Result<()> {
    let (started, mut total, mut said) = (Instant::now(), 0_u64, 0_u64);
    let mut part = vec![0; 65_536];
    let ending = loop {
        match body.read(&mut part) {
            Ok(0) => break Ok(()),
            Ok(more) => total += more as u64,
            Err(error) => break Err(error),
        }
        if total - said >= step {
            said = total;
            writeln!(io::stdout(), "{total}")?;
        }
    };
    let ms = started.elapsed().as_millis();
    ending.with_context(|| format!("broke after {total} bytes and {ms} ms"))?;
    Ok(writeln!(io::stdout(), "{total} bytes in {ms} ms")?)
}

fn converse(to: &str, lines: &[String], patience: Duration) -> anyhow::Result<()> {
    let mut stream = connect(to, patience)?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let mut ask = |line: &str| {
        writeln!(stream, "{line}")?;
        let mut answer = String::new();
        if answers.read_line(&mut answer)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        write!(io::stdout(), "{answer}")
    };
    if lines.is_empty() {
        return io::stdin().lock().lines().try_for_each(|line| Ok(ask(&line?)?));
    }
    lines.iter().try_for_each(|line| Ok(ask(line)?))
}

fn socket_to(to: &str, patience: Duration) -> anyhow::Result<UdpSocket> {
    let address = resolve(to)?;
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address).with_context(|| format!("send to {address}"))?;
    socket.set_read_timeout(Some(patience))?;
    Ok(socket)
}

fn receive(socket: &UdpSocket) -> anyhow::Result<String> {
    let mut buffer = vec![0; 65_536];
    let length = match socket.recv(&mut buffer) {
        Ok(length) => length,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => bail!("no answer"),
        Err(error) => return Err(error.into()),
    };
    Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned())
}

fn send(to: &str, text: &str, patience: Duration) -> anyhow::Result<()> {
    let socket = socket_to(to, patience)?;
    socket.send(text.as_bytes())?;
    Ok(writeln!(io::stdout(), "{}", receive(&socket)?)?)
}

fn ping(to: &str, size: usize, patience: Duration) -> anyhow::Result<()> {
    let address = resolve(&format!("{to}:0")).or_else(|_| resolve(&format!("[{to}]:0")))?;
    let socket = open_echo_socket(address.is_ipv6())?;
    socket.connect(address).with_context(|| format!("send to {}", address.ip()))?;
    socket.set_read_timeout(Some(patience))?;
    let kind = if address.is_ipv6() { ICMPV6_ECHO_REQUEST } else { ICMP_ECHO_REQUEST };
    let started = Instant::now();
    // Type, code, checksum, identifier (both the kernel's to set), number, and some data.
    let data: Vec<u8> = b"umbra-lab probe".iter().copied().cycle().take(size).collect();
    socket.send(&[&[kind, 0, 0, 0, 0, 0, 0, 1][..], &data].concat())?;
    let answer = receive(&socket)?;
    if !answer.as_bytes().ends_with(&data) {
        bail!("another answer, of {} bytes", answer.len());
    }
    Ok(writeln!(io::stdout(), "{} answered in {} us", address.ip(), started.elapsed().as_micros())?)
}

fn stream(to: &str, rate: u64, count: u64, verbose: bool, patience: Duration) -> anyhow::Result<()> {
    let socket = socket_to(to, patience)?;
    socket.send(format!("stream {rate} {count}").as_bytes())?;
    let (mut first, mut last, mut came) = (None, None, 0_u64);
    while came < count {
        let Ok(number) = receive(&socket) else { break };
        let now = Instant::now();
        first.get_or_insert(now);
        last = Some(now);
        came += 1;
        if verbose {
            writeln!(io::stdout(), "{number}")?;
        }
    }
    let between = first.zip(last).map(|(first, last)| last.duration_since(first)).unwrap_or_default();
    writeln!(io::stdout(), "{came} of {count} datagrams in {} ms", between.as_millis())?;
    if came == 0 {
        bail!("no answer");
    }
    Ok(())
}
