//! Packets made by hand for tests, and checksums summed naively, apart from the code under test.

use crate::headers::{ICMP4, ICMP6, TCP, UDP};
use std::net::IpAddr;

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn naive(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) * 256 + u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    sum as u16
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn transport_sum(from: IpAddr, to: IpAddr, protocol: u8, body: &[u8]) -> u16 {
    if protocol == ICMP4 {
        return naive(&[body]);
    }
    let pseudo = [0, protocol, (body.len() >> 8) as u8, body.len() as u8];
    naive(&[&octets(from), &octets(to), &pseudo, body])
}

const fn checksum_at(protocol: u8) -> usize {
    match protocol {
        TCP => 16,
        UDP => 6,
        _ => 2,
    }
}

/// An IP packet around `body`, whose transport checksum is filled in.
pub fn packet(from: IpAddr, to: IpAddr, protocol: u8, mut body: Vec<u8>) -> Vec<u8> {
    let at = checksum_at(protocol);
    if body.len() >= at + 2 {
        body[at..at + 2].fill(0);
        let mut check = !transport_sum(from, to, protocol, &body);
        if protocol == UDP && check == 0 {
            check = 0xffff;
        }
        body[at..at + 2].copy_from_slice(&check.to_be_bytes());
    }
    raw(from, to, protocol, &body)
}

/// An IP packet around `body` as it is.
pub fn raw(from: IpAddr, to: IpAddr, protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = if from.is_ipv4() {
        let total = ((20 + body.len()) as u16).to_be_bytes();
        vec![0x45, 0, total[0], total[1], 0, 7, 0x40, 0, 64, protocol, 0, 0]
    } else {
        let len = (body.len() as u16).to_be_bytes();
        vec![0x60, 0, 0, 0, len[0], len[1], protocol, 64]
    };
    bytes.extend(octets(from));
    bytes.extend(octets(to));
    if from.is_ipv4() {
        seal_v4(&mut bytes);
    }
    bytes.extend_from_slice(body);
    bytes
}

/// Fills the IPv4 header checksum in.
pub fn seal_v4(bytes: &mut [u8]) {
    let header = usize::from(bytes[0] & 15) * 4;
    bytes[10..12].fill(0);
    let check = !naive(&[&bytes[..header]]);
    bytes[10..12].copy_from_slice(&check.to_be_bytes());
}

pub fn tcp(from: (IpAddr, u16), to: (IpAddr, u16), flags: u8, numbers: (u32, u32), payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(from.1.to_be_bytes());
    body.extend(to.1.to_be_bytes());
    body.extend(numbers.0.to_be_bytes());
    body.extend(numbers.1.to_be_bytes());
    body.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    body.extend(payload);
    packet(from.0, to.0, TCP, body)
}

pub fn udp(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(from.1.to_be_bytes());
    body.extend(to.1.to_be_bytes());
    body.extend(((8 + payload.len()) as u16).to_be_bytes());
    body.extend([0, 0]);
    body.extend(payload);
    packet(from.0, to.0, UDP, body)
}

pub const fn icmp_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { ICMP4 } else { ICMP6 }
}

pub fn echo(from: IpAddr, to: IpAddr, request: bool, id: u16, payload: &[u8]) -> Vec<u8> {
    let kind = match (from.is_ipv4(), request) {
        (true, true) => 8,
        (true, false) => 0,
        (false, true) => 128,
        (false, false) => 129,
    };
    let mut body = vec![kind, 0, 0, 0];
    body.extend(id.to_be_bytes());
    body.extend([0, 1]);
    body.extend(payload);
    packet(from, to, icmp_of(from), body)
}

/// An ICMP error quoting `quote`.
pub fn error(from: IpAddr, to: IpAddr, (kind, code): (u8, u8), rest: [u8; 4], quote: &[u8]) -> Vec<u8> {
    let mut body = vec![kind, code, 0, 0];
    body.extend(rest);
    body.extend(quote);
    packet(from, to, icmp_of(from), body)
}

/// "Port unreachable" of either family.
pub fn port_unreachable(from: IpAddr, to: IpAddr, quote: &[u8]) -> Vec<u8> {
    error(from, to, if from.is_ipv4() { (3, 3) } else { (1, 4) }, [0; 4], quote)
}

/// Puts an extension header (its type, its bytes after "next header") in front of an IPv6 packet's payload.
pub fn extend(bytes: &[u8], kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut out = bytes[..40].to_vec();
    out.push(bytes[6]);
    out[6] = kind;
    out.extend(rest);
    out.extend(&bytes[40..]);
    let len = ((out.len() - 40) as u16).to_be_bytes();
    out[4..6].copy_from_slice(&len);
    out
}

/// Puts options (a multiple of four bytes) into an IPv4 packet.
pub fn with_options(bytes: &[u8], options: &[u8]) -> Vec<u8> {
    let mut out = bytes[..20].to_vec();
    out[0] += (options.len() / 4) as u8;
    out.extend(options);
    out.extend(&bytes[20..]);
    let len = (out.len() as u16).to_be_bytes();
    out[2..4].copy_from_slice(&len);
    seal_v4(&mut out);
    out
}

/// Asserts that every checksum of a packet without options or extension headers is right, and its quote's header too.
#[track_caller]
pub fn assert_sums(bytes: &[u8]) {
    let v4 = bytes[0] >> 4 == 4;
    let (head, protocol) = if v4 { (20, bytes[9]) } else { (40, bytes[6]) };
    if v4 {
        assert_eq!(naive(&[&bytes[..20]]), 0xffff, "header checksum of {bytes:02x?}");
    }
    let (from, to) = addresses(bytes);
    let body = &bytes[head..];
    let none = v4 && protocol == UDP && body[6..8] == [0, 0];
    assert!(none || transport_sum(from, to, protocol, body) == 0xffff, "transport checksum of {bytes:02x?}");
}

/// Source and destination.
pub fn addresses(bytes: &[u8]) -> (IpAddr, IpAddr) {
    let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap());
    let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap());
    if bytes[0] >> 4 == 4 { (v4(12), v4(16)) } else { (v6(8), v6(24)) }
}
