//! What is this packet? The one parser for IPv4 and IPv6; whatever it does not understand fully, it refuses.
//!
//! Sources: RFC 791, RFC 8200 (extension headers, section 4), RFC 9293, RFC 768, RFC 792, RFC 4443.

use crate::checksum;
use crate::counters::Drop;
use model::limits::{EXTENSION_HEADERS_MAX, IP_OPTIONS_MAX};
use model::net::Protocol;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP protocol number of ICMP for IPv4.
pub const ICMP4: u8 = 1;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of ICMP for IPv6.
pub const ICMP6: u8 = 58;
/// TCP flag FIN.
pub const FIN: u8 = 0x01;
/// TCP flag SYN.
pub const SYN: u8 = 0x02;
/// TCP flag RST.
pub const RST: u8 = 0x04;
/// TCP flag PSH.
pub const PSH: u8 = 0x08;
/// TCP flag ACK.
pub const ACK: u8 = 0x10;

/// Bytes of an IPv4 header without options.
pub const V4_HEADER: usize = 20;
/// Bytes of an IPv6 header without extension headers; its length field leaves them out.
pub const V6_HEADER: usize = 40;
/// Bytes of a UDP header.
pub const UDP_HEADER: usize = 8;

/// A whole IP packet whose lengths hold. Offsets are into the buffer that was parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hops: u8,
    /// Bytes in front of the transport header.
    pub offset: usize,
    /// Bytes of the whole packet; what the buffer holds beyond is padding.
    pub len: usize,
    /// What it carries.
    pub transport: Transport,
}

/// The transport header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp(Tcp),
    /// UDP.
    Udp {
        /// Source port, not 0.
        source_port: u16,
        /// Destination port, not 0.
        destination_port: u16,
    },
    /// An ICMP query that rules can speak of.
    Echo {
        /// Request, or reply.
        request: bool,
        /// The identifier, which stands for the client's port.
        id: u16,
    },
    /// An ICMP error about an earlier packet.
    Error(Error),
}

/// What a TCP header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp {
    /// Source port, not 0.
    pub source_port: u16,
    /// Destination port, not 0.
    pub destination_port: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; counts only with [`ACK`].
    pub ack: u32,
    /// Flags.
    pub flags: u8,
    /// Sequence numbers that the segment takes: payload, SYN and FIN.
    pub length: u32,
}

impl Tcp {
    /// Does it open a connection (SYN without ACK)?
    pub const fn opens(&self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }
    /// Is the flag set?
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// An ICMP error: destination unreachable, packet too big, time exceeded or parameter problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error {
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// The four bytes after the checksum.
    pub rest: [u8; 4],
    /// The embedded packet.
    pub quote: Quote,
}

/// The packet that an ICMP error is about: headers whole, the rest possibly cut. Offsets are into the error's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Where it starts.
    pub start: usize,
    /// Where its transport header starts; at least 8 bytes follow.
    pub offset: usize,
    /// Where it ends.
    pub end: usize,
    /// Its source address.
    pub source: IpAddr,
    /// Its destination address.
    pub destination: IpAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its source port, or echo identifier.
    pub source_port: u16,
    /// Its destination port; 0 for ICMP.
    pub destination_port: u16,
    /// For ICMP: is it an echo request?
    pub request: bool,
}

impl Packet {
    /// Parses one packet from the front of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Drop> {
        let ip = match bytes.first().map(|b| b >> 4) {
            Some(4) => parse_v4(bytes, true)?,
            Some(6) => parse_v6(bytes, true)?,
            _ => return Err(Drop::NotIp),
        };
        let body = bytes.get(ip.offset..ip.len).ok_or(Drop::Truncated)?;
        let transport = match (ip.protocol, ip.source) {
            (TCP, _) => parse_tcp(body)?,
            (UDP, source) => parse_udp(body, source.is_ipv6())?,
            (ICMP4, IpAddr::V4(_)) | (ICMP6, IpAddr::V6(_)) => parse_icmp(bytes, &ip)?,
            _ => return Err(Drop::Protocol),
        };
        Ok(Self {
            source: ip.source,
            destination: ip.destination,
            hops: ip.hops,
            offset: ip.offset,
            len: ip.len,
            transport,
        })
    }

    /// The protocol that rules name.
    pub const fn protocol(&self) -> Protocol {
        match self.transport {
            Transport::Tcp(_) => Protocol::Tcp,
            Transport::Udp { .. } => Protocol::Udp,
            Transport::Echo { .. } | Transport::Error(_) => Protocol::Icmp,
        }
    }
    /// Source port, or echo identifier of a request; 0 when there is none.
    pub const fn source_port(&self) -> u16 {
        match self.transport {
            Transport::Tcp(t) => t.source_port,
            Transport::Udp { source_port, .. } => source_port,
            Transport::Echo { request: true, id } => id,
            _ => 0,
        }
    }
    /// Destination port, or echo identifier of a reply; 0 when there is none.
    pub const fn destination_port(&self) -> u16 {
        match self.transport {
            Transport::Tcp(t) => t.destination_port,
            Transport::Udp { destination_port, .. } => destination_port,
            Transport::Echo { request: false, id } => id,
            _ => 0,
        }
    }
}

/// What the IP layer says.
struct Ip {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    hops: u8,
    offset: usize,
    len: usize,
}

fn byte(bytes: &[u8], at: usize) -> Result<u8, Drop> {
    bytes.get(at).copied().ok_or(Drop::Truncated)
}

fn word(bytes: &[u8], at: usize) -> Result<u16, Drop> {
    checksum::word(bytes, at).ok_or(Drop::Truncated)
}

fn long(bytes: &[u8], at: usize) -> Result<u32, Drop> {
    Ok((u32::from(word(bytes, at)?) << 16) | u32::from(word(bytes, at + 2)?))
}

fn address4(bytes: &[u8], at: usize) -> Result<IpAddr, Drop> {
    Ok(IpAddr::V4(Ipv4Addr::from(long(bytes, at)?)))
}

fn address6(bytes: &[u8], at: usize) -> Result<IpAddr, Drop> {
    let octets: [u8; 16] = bytes.get(at..at + 16).and_then(|s| s.try_into().ok()).ok_or(Drop::Truncated)?;
    Ok(IpAddr::V6(Ipv6Addr::from(octets)))
}

/// `whole`: the packet itself, whose lengths and checksum must hold; else a quote, which may be cut at its end and whose
/// checksum routers on the way may have left stale.
fn parse_v4(bytes: &[u8], whole: bool) -> Result<Ip, Drop> {
    let header = usize::from(byte(bytes, 0)? & 0x0f) * 4;
    if header < 20 {
        return Err(Drop::BadLength);
    }
    let head = bytes.get(..header).ok_or(Drop::Truncated)?;
    let total = usize::from(word(head, 2)?);
    if total < header {
        return Err(Drop::BadLength);
    }
    if whole && total > bytes.len() {
        return Err(Drop::Truncated);
    }
    if whole && checksum::sum(head, 0) != 0xffff {
        return Err(Drop::BadChecksum);
    }
    // More-fragments or an offset. The reserved bit is set by nobody.
    if word(head, 6)? & 0xbfff != 0 {
        return Err(Drop::Fragment);
    }
    check_options4(head.get(20..).unwrap_or_default())?;
    Ok(Ip {
        source: address4(head, 12)?,
        destination: address4(head, 16)?,
        protocol: byte(head, 9)?,
        hops: byte(head, 8)?,
        offset: header,
        len: total.min(bytes.len()),
    })
}

/// Only padding passes: a recorded route or time stamp would carry the service's real addresses to the client.
fn check_options4(options: &[u8]) -> Result<(), Drop> {
    for option in options {
        match *option {
            0 => return Ok(()),
            1 => {}
            131 | 137 => return Err(Drop::SourceRoute),
            _ => return Err(Drop::IpOption),
        }
    }
    Ok(())
}

fn parse_v6(bytes: &[u8], whole: bool) -> Result<Ip, Drop> {
    let payload = usize::from(word(bytes, 4)?);
    let len = 40 + payload;
    if whole && len > bytes.len() {
        return Err(Drop::Truncated);
    }
    let len = len.min(bytes.len());
    let bytes = bytes.get(..len).ok_or(Drop::Truncated)?;
    let (source, destination) = (address6(bytes, 8)?, address6(bytes, 24)?);
    let (mut next, mut offset) = (byte(bytes, 6)?, 40);
    for position in 0..=EXTENSION_HEADERS_MAX {
        match next {
            TCP | UDP | ICMP6 => {
                return Ok(Ip { source, destination, protocol: next, hops: byte(bytes, 7)?, offset, len });
            }
            // Hop-by-hop options stand first or nowhere (RFC 8200 section 4.1).
            0 if position == 0 => check_options6(bytes, offset)?,
            60 => check_options6(bytes, offset)?,
            43 if byte(bytes, offset + 2)? == 0 || byte(bytes, offset + 3)? != 0 => return Err(Drop::RoutingHeader),
            43 => {}
            44 => return Err(Drop::Fragment),
            0 => return Err(Drop::ExtensionHeader),
            _ => return Err(Drop::Protocol),
        }
        next = byte(bytes, offset)?;
        offset = extension_end(bytes, offset)?;
    }
    Err(Drop::ExtensionHeader)
}

/// Where an extension header ends: its length counts units of 8 bytes beyond the first (RFC 8200 section 4.3), so the sum
/// is taken in `usize`, where it cannot wrap.
fn extension_end(bytes: &[u8], offset: usize) -> Result<usize, Drop> {
    let end = offset + (usize::from(byte(bytes, offset + 1)?) + 1) * 8;
    if end > bytes.len() { Err(Drop::Truncated) } else { Ok(end) }
}

/// Only padding passes: a home address option (RFC 6275 section 6.3) would give the packet another source.
fn check_options6(bytes: &[u8], offset: usize) -> Result<(), Drop> {
    let mut options = bytes.get(offset + 2..extension_end(bytes, offset)?).ok_or(Drop::Truncated)?;
    for _ in 0..IP_OPTIONS_MAX {
        options = match options {
            [] => return Ok(()),
            [0, rest @ ..] => rest,
            [1, length, rest @ ..] => rest.get(usize::from(*length)..).ok_or(Drop::BadLength)?,
            _ => return Err(Drop::IpOption),
        };
    }
    Err(Drop::IpOption)
}

fn parse_tcp(body: &[u8]) -> Result<Transport, Drop> {
    let header = usize::from(byte(body, 12)? >> 4) * 4;
    if header < 20 {
        return Err(Drop::BadLength);
    }
    let payload = body.len().checked_sub(header).ok_or(Drop::Truncated)?;
    let flags = byte(body, 13)?;
    let (source_port, destination_port) = ports(body)?;
    // SYN never comes with FIN or RST, and every segment carries SYN, RST or ACK (RFC 9293 section 3.10.7).
    if (flags & SYN != 0 && flags & (FIN | RST) != 0) || flags & (SYN | RST | ACK) == 0 {
        return Err(Drop::TcpFlags);
    }
    let ends = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let length = u32::try_from(payload).unwrap_or(u32::MAX).saturating_add(ends);
    let (seq, ack) = (long(body, 4)?, long(body, 8)?);
    Ok(Transport::Tcp(Tcp { source_port, destination_port, seq, ack, flags, length }))
}

fn parse_udp(body: &[u8], v6: bool) -> Result<Transport, Drop> {
    if body.len() < 8 {
        return Err(Drop::Truncated);
    }
    if usize::from(word(body, 4)?) != body.len() {
        return Err(Drop::BadLength);
    }
    let (source_port, destination_port) = ports(body)?;
    if v6 && word(body, 6)? == 0 {
        return Err(Drop::UdpNoChecksum);
    }
    Ok(Transport::Udp { source_port, destination_port })
}

fn ports(body: &[u8]) -> Result<(u16, u16), Drop> {
    let (source, destination) = (word(body, 0)?, word(body, 2)?);
    if source == 0 || destination == 0 { Err(Drop::PortZero) } else { Ok((source, destination)) }
}

/// Is it an error that is translated? Redirect and source quench are not (RFC 1812 section 5.2.7.2, RFC 6633).
const fn is_error(v6: bool, kind: u8) -> bool {
    if v6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 11 | 12) }
}

/// Echo types: request and reply.
const fn echo_kind(v6: bool, kind: u8) -> Option<bool> {
    match (v6, kind) {
        (false, 8) | (true, 128) => Some(true),
        (false, 0) | (true, 129) => Some(false),
        _ => None,
    }
}

fn parse_icmp(bytes: &[u8], ip: &Ip) -> Result<Transport, Drop> {
    let v6 = ip.source.is_ipv6();
    let body = bytes.get(ip.offset..ip.len).ok_or(Drop::Truncated)?;
    if body.len() < 8 {
        return Err(Drop::Truncated);
    }
    let (kind, code) = (byte(body, 0)?, byte(body, 1)?);
    if let Some(request) = echo_kind(v6, kind) {
        if code != 0 {
            return Err(Drop::IcmpKind);
        }
        return Ok(Transport::Echo { request, id: word(body, 4)? });
    }
    if !is_error(v6, kind) {
        return Err(Drop::IcmpKind);
    }
    // An error is built anew when it is translated, so what came must have been whole.
    let pseudo = if v6 { checksum::pseudo(ip.source, ip.destination, ICMP6, body.len()) } else { 0 };
    if checksum::sum(body, pseudo) != 0xffff {
        return Err(Drop::BadChecksum);
    }
    let rest: [u8; 4] = body.get(4..8).and_then(|r| r.try_into().ok()).ok_or(Drop::Truncated)?;
    let end = quote_end(v6, rest, ip.offset + 8, ip.len);
    let quote = parse_quote(bytes.get(..end).ok_or(Drop::Truncated)?, ip.offset + 8, v6)?;
    Ok(Transport::Error(Error { kind, code, rest, quote }))
}

/// Where the quoted packet ends; RFC 4884 section 3 lets extensions follow it, which name interfaces and are cut off.
fn quote_end(v6: bool, rest: [u8; 4], start: usize, end: usize) -> usize {
    let [first, second, ..] = rest;
    let quoted = if v6 { usize::from(first) * 8 } else { usize::from(second) * 4 };
    if quoted == 0 { end } else { end.min(start + quoted) }
}

fn parse_quote(bytes: &[u8], start: usize, v6: bool) -> Result<Quote, Drop> {
    let inner = bytes.get(start..).ok_or(Drop::Truncated)?;
    let ip = match (v6, inner.first().map(|b| b >> 4)) {
        (false, Some(4)) => parse_v4(inner, false)?,
        (true, Some(6)) => parse_v6(inner, false)?,
        _ => return Err(Drop::IcmpKind),
    };
    let body = inner.get(ip.offset..ip.len).filter(|b| b.len() >= 8).ok_or(Drop::Truncated)?;
    let (protocol, source_port, destination_port, request) = match (ip.protocol, v6) {
        (TCP, _) => (Protocol::Tcp, word(body, 0)?, word(body, 2)?, false),
        (UDP, _) => (Protocol::Udp, word(body, 0)?, word(body, 2)?, false),
        (ICMP4, false) | (ICMP6, true) => {
            // Never an error about an error (RFC 1122 section 3.2.2).
            let request = echo_kind(v6, byte(body, 0)?).ok_or(Drop::IcmpKind)?;
            (Protocol::Icmp, word(body, 4)?, 0, request)
        }
        _ => return Err(Drop::Protocol),
    };
    Ok(Quote {
        start,
        offset: start + ip.offset,
        end: start + ip.len,
        source: ip.source,
        destination: ip.destination,
        protocol,
        source_port,
        destination_port,
        request,
    })
}

#[cfg(test)]
mod tests;
