//! Who sees when the last packet of each flow comes to the services?
//!
//! `watch` runs where the services are, and tells ten times a second what came over the link: one line of JSON, a
//! [`Window`]. Times are the kernel's stamps of the frames, so a witness that has to wait for a processor errs in nothing.

use super::{micros_of, now_micros, talk};
use crate::service::{HTTP_PORT, UDP_PORT};
use anyhow::Context as _;
use clap::Subcommand;
use host::namespace::{PacketSocket, wait_readable};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::time::Duration;

/// How often the witness tells.
const TOLD_EVERY_MICROS: i64 = 100_000;
/// Frames may wait for the witness: some seconds of them.
const ROOM_BYTES: u32 = 32 << 20;
/// Any frame with the kernel's note in front.
const FRAME_BYTES_MAX: usize = 65_536 + 64;
/// struct virtio_net_hdr and an Ethernet header.
const FRONT: usize = 10 + 14;
/// VIRTIO_NET_HDR_GSO_UDP_L4: several datagrams of one flow in one frame.
const UDP_SEGMENTS: u8 = 5;
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
    /// Downloads from a host, and sends it datagrams, finely, until killed
    Talk { host: String, who: String },
    /// The same as a user at work would, again and again
    Load { host: String, who: String },
    /// Tells of the packets that come to the services over a link
    Watch { link: String },
    /// Tells the microseconds from connect() to the first byte of HTTP
    FirstByte { host: String },
}

/// Runs one witness.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.what {
        What::Talk { host, who } => talk::probe(host, who),
        What::Load { host, who } => talk::load(host, who),
        What::Watch { link } => watch(link),
        What::FirstByte { host } => talk::first_byte(host),
    }
}

/// What came in a tenth of a second, by flow: `tcp WHO` and `udp WHO`.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Window {
    /// When it was told, by the machine's clock in microseconds: all that came before is in this or an earlier one.
    pub until: i64,
    /// The flows of which something came.
    pub flows: BTreeMap<String, Seen>,
}

/// What came of one flow. Times are microseconds of the machine's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Seen {
    /// When the last packet came.
    pub last: i64,
    /// The longest time between two packets of which the second came in this window.
    pub gap: i64,
    /// When the newest datagram was sent; 0 of TCP.
    pub sent: i64,
    /// The number of the newest datagram; 0 of TCP.
    pub number: u64,
    /// How many datagrams are missing.
    pub lost: u64,
}

fn watch(link: &str) -> anyhow::Result<()> {
    let socket = PacketSocket::open(link).with_context(|| format!("link {link}"))?;
    socket.make_room(ROOM_BYTES)?;
    let _no_stamp_yet = socket.arrived();
    writeln!(io::stdout(), "watching")?;
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    let (mut book, mut told) = (Book::default(), now_micros()?);
    loop {
        let left = (told + TOLD_EVERY_MICROS - now_micros()?).clamp(0, TOLD_EVERY_MICROS);
        if left == 0 {
            // Whatever came before this moment waits in the socket, if it was not read: first the clock, then the rest.
            let until = now_micros()?;
            while take(&socket, &mut buffer, &mut book)? {}
            let flows = std::mem::take(&mut book.window);
            writeln!(io::stdout(), "{}", serde_json::to_string(&Window { until, flows })?)?;
            told = until;
        }
        wait_readable([&socket, &socket], Some(Duration::from_micros(left.unsigned_abs())))?;
        take(&socket, &mut buffer, &mut book)?;
    }
}

/// Reads one frame, if one waits.
fn take(socket: &PacketSocket, buffer: &mut [u8], book: &mut Book) -> anyhow::Result<bool> {
    let length = match socket.receive(buffer) {
        Ok(length) => length,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let came = match socket.arrived() {
        Ok(stamp) => micros_of(stamp)?,
        // A frame from before the stamps were switched on.
        Err(_) => now_micros()?,
    };
    for packet in buffer.get(..length).map(packets_of).unwrap_or_default() {
        book.enter(came, &packet);
    }
    Ok(true)
}

/// What a frame carries, with the kernel's note in front. What waited for a processor comes as one frame of many datagrams, all of one
/// size but the last.
fn packets_of(frame: &[u8]) -> Vec<Packet<'_>> {
    let Some(packet) = frame.get(FRONT..) else { return Vec::new() };
    let segments = frame.get(1) == Some(&UDP_SEGMENTS);
    let size = frame.get(4..6).and_then(|size| size.try_into().ok()).map_or(0, u16::from_ne_bytes);
    match udp_content(packet) {
        Some(content) if segments && size > 0 => content.chunks(usize::from(size)).filter_map(datagram).collect(),
        _ => packet_of(packet).into_iter().collect(),
    }
}

/// The content of a datagram to the measured service.
fn udp_content(packet: &[u8]) -> Option<&[u8]> {
    let (protocol, rest) = transport_of(packet)?;
    let port = u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]);
    (protocol == UDP && port == UDP_PORT).then(|| rest.get(8..)).flatten()
}

fn datagram(content: &[u8]) -> Option<Packet<'_>> {
    let mut words = std::str::from_utf8(content).ok()?.split(' ');
    let (who, number, sent) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(Packet::Udp { who, number, sent })
}

/// The protocol of an IP packet, and what stands behind the header.
fn transport_of(packet: &[u8]) -> Option<(u8, &[u8])> {
    match packet.first()? >> 4 {
        4 => Some((*packet.get(9)?, packet.get(usize::from(packet.first()? & 15) * 4..)?)),
        6 => Some((*packet.get(6)?, packet.get(40..)?)),
        _ => None,
    }
}

/// A packet of a measured flow.
#[derive(Debug, PartialEq, Eq)]
enum Packet<'a> {
    /// From this port. The first one with a request says whose it is.
    Tcp {
        port: u16,
        who: Option<&'a str>,
    },
    Udp {
        who: &'a str,
        number: u64,
        sent: i64,
    },
}

/// Of which measured flow an IP packet is, if of any. A reset of TCP is no packet of a flow: it is its end, and the
/// gateway's own.
fn packet_of(packet: &[u8]) -> Option<Packet<'_>> {
    let (protocol, rest) = transport_of(packet)?;
    let port = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
    match protocol {
        TCP if port(2)? == HTTP_PORT && rest.get(13)? & TCP_RESET == 0 => {
            let content = rest.get(usize::from(rest.get(12)? >> 4) * 4..).unwrap_or_default();
            Some(Packet::Tcp { port: port(0)?, who: std::str::from_utf8(content).ok().and_then(asker) })
        }
        UDP => udp_content(packet).and_then(datagram),
        _ => None,
    }
}

fn asker(request: &str) -> Option<&str> {
    request.strip_prefix("GET ")?.lines().find_map(|line| line.strip_prefix(talk::WHO))
}

/// What the witness remembers.
#[derive(Debug, Default)]
struct Book {
    window: BTreeMap<String, Seen>,
    /// The newest of each flow, also from earlier windows.
    newest: BTreeMap<String, Seen>,
    /// Whose flow comes from a port; a port that is used again changes hands with the new request.
    ports: BTreeMap<u16, String>,
}

impl Book {
    fn enter(&mut self, came: i64, packet: &Packet<'_>) {
        let (flow, sent, number) = match packet {
            Packet::Udp { who, number, sent } => (format!("udp {who}"), *sent, *number),
            Packet::Tcp { port, who } => {
                if let Some(who) = who {
                    self.ports.insert(*port, format!("tcp {who}"));
                }
                let Some(flow) = self.ports.get(port) else { return };
                (flow.clone(), 0, 0)
            }
        };
        let before = self.newest.get(&flow).copied();
        let gap = before.map_or(0, |before| came - before.last);
        let skipped = before.map_or(0, |before| number.saturating_sub(before.number + 1));
        let seen = self.window.entry(flow.clone()).or_default();
        seen.last = came;
        seen.gap = seen.gap.max(gap);
        seen.lost += skipped;
        (seen.sent, seen.number) = (seen.sent.max(sent), seen.number.max(number));
        self.newest.insert(flow, *seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8, port: u16, flags: u8, content: &[u8]) -> Vec<u8> {
        let front = if protocol == TCP { 40 } else { 28 };
        let mut packet = vec![0; 40];
        (packet[0], packet[9], packet[32], packet[33]) = (0x45, protocol, 5 << 4, flags);
        packet[20..24].copy_from_slice(&[&4000_u16.to_be_bytes()[..], &port.to_be_bytes()].concat());
        packet.splice(front.., content.iter().copied());
        packet
    }

    #[test]
    fn only_the_measured_flows_count() {
        assert_eq!(packet_of(&v4(TCP, HTTP_PORT, 16, b"")), Some(Packet::Tcp { port: 4000, who: None }));
        let request = format!("GET / HTTP/1.1\r\n{}laptop\r\n\r\n", talk::WHO);
        let asked = v4(TCP, HTTP_PORT, 24, request.as_bytes());
        assert_eq!(packet_of(&asked), Some(Packet::Tcp { port: 4000, who: Some("laptop") }));
        let datagram = v4(UDP, UDP_PORT, 0, b"laptop 7 99");
        assert_eq!(packet_of(&datagram), Some(Packet::Udp { who: "laptop", number: 7, sent: 99 }));
        assert_eq!(packet_of(&v4(TCP, HTTP_PORT, 16 | TCP_RESET, b"")), None);
        assert_eq!(packet_of(&v4(TCP, 7, 16, b"")), None);
        assert_eq!(packet_of(&v4(1, HTTP_PORT, 16, b"")), None);
        let mut v6 = vec![0; 60];
        (v6[0], v6[6], v6[43]) = (0x60, TCP, 80);
        assert_eq!(packet_of(&v6), Some(Packet::Tcp { port: 0, who: None }));
        assert_eq!(packet_of(&v6[..42]), None);
        assert_eq!(packet_of(&[]), None);
    }

    #[test]
    fn a_frame_of_many_datagrams_is_many() {
        let mut frame = vec![0; FRONT];
        frame[1] = UDP_SEGMENTS;
        frame[4..6].copy_from_slice(&11_u16.to_ne_bytes());
        frame.extend(v4(UDP, UDP_PORT, 0, b"laptop 7 99laptop 8 99laptop 9 1"));
        let numbers = |frame: &[u8]| -> Vec<u64> {
            let number = |packet: &Packet<'_>| if let Packet::Udp { number, .. } = packet { *number } else { 0 };
            packets_of(frame).iter().map(number).collect()
        };
        assert_eq!(numbers(&frame), [7, 8, 9]);
        frame[1] = 0;
        assert!(numbers(&frame).is_empty(), "one datagram that says nothing we know");
        assert!(numbers(&frame[..FRONT - 1]).is_empty());
    }

    #[test]
    fn gaps_reach_over_windows_and_missing_datagrams_are_counted() {
        let mut book = Book::default();
        let udp = |number| Packet::Udp { who: "a", number, sent: 5 };
        book.enter(10, &udp(1));
        book.enter(30, &udp(2));
        assert_eq!(book.window["udp a"], Seen { last: 30, gap: 20, sent: 5, number: 2, lost: 0 });
        book.window.clear();
        book.enter(95, &udp(5));
        assert_eq!(book.window["udp a"], Seen { last: 95, gap: 65, sent: 5, number: 5, lost: 2 });
        book.enter(100, &Packet::Tcp { port: 1, who: None });
        assert_eq!(book.window.len(), 1, "nobody asked from that port");
        book.enter(100, &Packet::Tcp { port: 1, who: Some("a") });
        book.enter(120, &Packet::Tcp { port: 1, who: None });
        assert_eq!((book.window["tcp a"].last, book.window["tcp a"].gap), (120, 20));
    }
}
