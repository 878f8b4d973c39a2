//! Which ICMP error answers a packet, and how is one built? RFC 792, RFC 1812 section 4.3, RFC 4443.

use crate::checksum;
use crate::headers::{Error, ICMP4, ICMP6, Packet, Transport};
use model::limits::ICMP_ERRORS_PER_SECOND;
use model::time::Instant;
use std::net::IpAddr;
use std::time::Duration;

/// Bytes of an ICMPv4 error at most (RFC 1812 section 4.3.2.3).
const ERROR4_MAX: usize = 576;
/// Bytes of an ICMPv6 error at most: the least MTU (RFC 4443 section 2.4 c).
const ERROR6_MAX: usize = 1280;

/// Why a packet is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Policy forbids it: 3/13 (RFC 1812 section 5.2.7.1), 1/1.
    Prohibited,
    /// The host cannot be reached, or its name leads nowhere: 3/1; 1/3 (address unreachable).
    HostUnreachable,
    /// No route, or a name without an address of this family: 3/0; 1/0.
    NoRoute,
    /// TTL or hop limit ran out: 11/0; 3/0.
    TimeExceeded,
}

impl Reason {
    const fn codes(self, v6: bool) -> (u8, u8) {
        match (self, v6) {
            (Self::Prohibited, false) => (3, 13),
            (Self::Prohibited, true) => (1, 1),
            (Self::HostUnreachable, false) => (3, 1),
            (Self::HostUnreachable, true) => (1, 3),
            (Self::NoRoute, false) => (3, 0),
            (Self::NoRoute, true) => (1, 0),
            (Self::TimeExceeded, false) => (11, 0),
            (Self::TimeExceeded, true) => (3, 0),
        }
    }
}

/// The error about `packet` (whose bytes are given), sent in the name of its destination, or `None` where none may be
/// sent: about errors, and from or to addresses that are no single host (RFC 1122 section 3.2.2, RFC 4443 section 2.4 e).
pub fn about(bytes: &[u8], packet: &Packet, reason: Reason) -> Option<Vec<u8>> {
    if matches!(packet.transport, Transport::Error(_)) || !is_host(packet.source) || !is_host(packet.destination) {
        return None;
    }
    let (kind, code) = reason.codes(packet.source.is_ipv6());
    let quote = bytes.get(..packet.len)?;
    Some(build((packet.destination, packet.source), (kind, code), [0; 4], quote))
}

fn is_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(a) if a.is_broadcast());
    !address.is_unspecified() && !address.is_multicast() && !broadcast
}

/// The four bytes after the checksum that a translated error keeps: MTU and pointer, never the length of extensions.
pub const fn kept(v6: bool, error: &Error) -> [u8; 4] {
    let [a, b, c, d] = error.rest;
    match (v6, error.kind, error.code) {
        (false, 3, 4) => [0, 0, c, d],
        (false, 12, 0) => [a, 0, 0, 0],
        (true, 2 | 4, _) => [a, b, c, d],
        _ => [0; 4],
    }
}

/// An ICMP error from and to `ends`, of one family, with type and code, quoting as much as fits.
pub fn build(ends: (IpAddr, IpAddr), (kind, code): (u8, u8), rest: [u8; 4], quote: &[u8]) -> Vec<u8> {
    let (head, room, protocol) = match ends {
        (IpAddr::V6(_), _) => (40, ERROR6_MAX, ICMP6),
        (IpAddr::V4(_), _) => (20, ERROR4_MAX, ICMP4),
    };
    let quote = quote.get(..room - head - 8).unwrap_or(quote);
    let mut bytes = ip_header(ends, protocol, 8 + quote.len());
    bytes.extend_from_slice(&[kind, code, 0, 0]);
    bytes.extend_from_slice(&rest);
    bytes.extend_from_slice(quote);
    let pseudo = if protocol == ICMP6 { checksum::pseudo(ends.0, ends.1, ICMP6, 8 + quote.len()) } else { 0 };
    let check = !checksum::sum(bytes.get(head..).unwrap_or_default(), pseudo);
    checksum::put_word(&mut bytes, head + 2, check);
    bytes
}

/// The IP header of a packet that we originate, for `len` bytes behind it.
pub fn ip_header((source, destination): (IpAddr, IpAddr), protocol: u8, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(40 + len);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            // Version and length; DF, so that identification 0 is right (RFC 6864 section 4.1); TTL 64.
            bytes.extend_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
            bytes.extend_from_slice(&source.octets());
            bytes.extend_from_slice(&destination.octets());
            checksum::put_word(&mut bytes, 2, u16::try_from(20 + len).unwrap_or(u16::MAX));
            let check = !checksum::sum(&bytes, 0);
            checksum::put_word(&mut bytes, 10, check);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes.extend_from_slice(&[0x60, 0, 0, 0, 0, 0, protocol, 64]);
            bytes.extend_from_slice(&source.octets());
            bytes.extend_from_slice(&destination.octets());
            checksum::put_word(&mut bytes, 4, u16::try_from(len).unwrap_or(u16::MAX));
        }
        // Families never mix: every caller takes both ends from one packet or flow.
        _ => {}
    }
    bytes
}

/// At most [`ICMP_ERRORS_PER_SECOND`] in any second that begins with the first of them.
#[derive(Debug, Default)]
pub struct Limiter {
    began: Option<Instant>,
    used: u64,
}

impl Limiter {
    /// May one more be sent now?
    pub fn take(&mut self, now: Instant) -> bool {
        if self.began.is_none_or(|began| now.since(began) >= Duration::from_secs(1)) {
            (self.began, self.used) = (Some(now), 0);
        }
        self.used = self.used.saturating_add(1);
        self.used <= ICMP_ERRORS_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::craft::{addresses, assert_sums, echo, ip, port_unreachable, udp};

    fn answer(bytes: &[u8]) -> Option<Vec<u8>> {
        about(bytes, &Packet::parse(bytes).unwrap(), Reason::Prohibited)
    }

    #[test]
    fn errors_quote_what_fits_and_come_from_the_destination() {
        for (from, to, most, codes) in [("10.0.0.1", "10.0.0.2", 576, [3, 13]), ("fd00::1", "fd00::2", 1280, [1, 1])] {
            for size in [0, 100, 1300] {
                let bytes = udp((ip(from), 5), (ip(to), 6), &vec![7; size]);
                let error = answer(&bytes).unwrap();
                assert_sums(&error);
                assert_eq!(addresses(&error), (ip(to), ip(from)));
                let head = if from.contains(':') { 40 } else { 20 };
                assert_eq!(error.len(), (head + 8 + bytes.len()).min(most));
                assert_eq!(error[head..head + 2], codes);
                let Transport::Error(e) = Packet::parse(&error).unwrap().transport else { panic!() };
                assert_eq!((e.quote.source_port, e.quote.destination_port), (5, 6));
            }
        }
    }

    #[test]
    fn no_error_about_errors_or_addresses_of_many() {
        let inner = udp((ip("10.0.0.2"), 5), (ip("10.0.0.1"), 6), b"");
        assert_eq!(answer(&port_unreachable(ip("10.0.0.1"), ip("10.0.0.2"), &inner)), None);
        for (from, to) in [
            ("10.0.0.1", "224.0.0.251"),
            ("10.0.0.1", "255.255.255.255"),
            ("224.0.0.1", "10.0.0.1"),
            ("0.0.0.0", "10.0.0.1"),
            ("fd00::1", "ff02::fb"),
            ("::", "fd00::1"),
        ] {
            assert_eq!(answer(&udp((ip(from), 5), (ip(to), 6), b"")), None, "{from} {to}");
        }
        assert!(answer(&echo(ip("10.0.0.1"), ip("10.0.0.2"), true, 1, b"")).is_some());
    }

    #[test]
    fn the_rate_is_bounded_and_comes_back() {
        let mut limiter = Limiter::default();
        let start = Instant(5);
        let sent = (0..2 * ICMP_ERRORS_PER_SECOND).filter(|_| limiter.take(start)).count();
        assert_eq!(sent as u64, ICMP_ERRORS_PER_SECOND);
        assert!(!limiter.take(start.plus(Duration::from_millis(999))));
        assert!(limiter.take(start.plus(Duration::from_secs(1))));
    }
}
