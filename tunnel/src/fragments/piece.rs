//! Is this packet a fragment, and what does it say of its datagram? RFC 791 section 3.1, RFC 8200 section 4.5.
//!
//! Nothing is believed that the packet's own length does not hold; what is no fragment, or not even IP, is left to
//! [`Packet::parse`](crate::headers::Packet::parse).

use crate::checksum::{self, put_word, word};
use crate::counters::Drop;
use crate::headers::{ICMP4, ICMP6, Packet, TCP, UDP, V6_HEADER};
use model::limits::{DATAGRAM_MAX, EXTENSION_HEADERS_MAX};
use std::net::IpAddr;

/// Bytes of an IPv6 fragment header, and its number.
pub const FRAGMENT_HEADER: usize = 8;
/// See [`FRAGMENT_HEADER`].
pub const FRAGMENT: u8 = 44;
/// More fragments follow, in IPv4's flags and in IPv6's.
pub const MORE_V4: u16 = 0x2000;
/// See [`MORE_V4`].
pub const MORE_V6: u16 = 1;
/// IPv4: it may not be fragmented.
pub const DF: u16 = 0x4000;

/// One fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'b> {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IPv4: the protocol. IPv6: 0, because only the first fragment's counts (RFC 8200 section 4.5).
    pub protocol: u8,
    /// Identification.
    pub id: u32,
    /// What stands in front of the datagram's payload, without IPv6's fragment header.
    pub head: &'b [u8],
    /// IPv6: where in `head` the next header is said, and which it is without the fragment header.
    pub next: Option<(usize, u8)>,
    /// Where its part begins.
    pub offset: usize,
    /// Does more follow?
    pub more: bool,
    /// Its part.
    pub body: &'b [u8],
}

impl<'b> Piece<'b> {
    /// Reads a packet; none: it is no fragment.
    pub fn read(bytes: &'b [u8]) -> Result<Option<Self>, Drop> {
        let found = match bytes.first().map(|b| b >> 4) {
            Some(4) => Self::read_v4(bytes)?,
            Some(6) => Self::read_v6(bytes)?,
            _ => None,
        };
        found.map(Self::checked).transpose()
    }

    /// Where its part ends.
    pub const fn end(&self) -> usize {
        self.offset + self.body.len()
    }

    fn read_v4(bytes: &'b [u8]) -> Result<Option<Self>, Drop> {
        let flags = word(bytes, 6).ok_or(Drop::Truncated)?;
        // The reserved bit is set by nobody: the parser refuses it.
        if flags & (MORE_V4 | 0x1fff) == 0 || flags & 0x8000 != 0 {
            return Ok(None);
        }
        let header = usize::from(bytes.first().map_or(0, |b| b & 15)) * 4;
        let total = usize::from(word(bytes, 2).ok_or(Drop::Truncated)?);
        if header < 20 || total < header {
            return Err(Drop::BadLength);
        }
        let head = bytes.get(..header).ok_or(Drop::Truncated)?;
        let body = bytes.get(header..total).ok_or(Drop::Truncated)?;
        if checksum::sum(head, 0) != 0xffff {
            return Err(Drop::BadChecksum);
        }
        Ok(Some(Self {
            source: v4(head, 12)?,
            destination: v4(head, 16)?,
            protocol: head.get(9).copied().ok_or(Drop::Truncated)?,
            id: word(head, 4).ok_or(Drop::Truncated)?.into(),
            head,
            next: None,
            offset: usize::from(flags & 0x1fff) * 8,
            more: flags & MORE_V4 != 0,
            body,
        }))
    }

    fn read_v6(bytes: &'b [u8]) -> Result<Option<Self>, Drop> {
        let Some((field, at)) = fragment_header(bytes) else { return Ok(None) };
        let len = V6_HEADER + usize::from(word(bytes, 4).ok_or(Drop::Truncated)?);
        let packet = bytes.get(..len).ok_or(Drop::Truncated)?;
        let header = packet.get(at..at + FRAGMENT_HEADER).ok_or(Drop::Truncated)?;
        let place = word(header, 2).ok_or(Drop::Truncated)?;
        let half = |at: usize| word(header, at).map(u32::from).ok_or(Drop::Truncated);
        Ok(Some(Self {
            source: v6(packet, 8)?,
            destination: v6(packet, 24)?,
            protocol: 0,
            id: (half(4)? << 16) | half(6)?,
            head: packet.get(..at).ok_or(Drop::Truncated)?,
            next: Some((field, header.first().copied().ok_or(Drop::Truncated)?)),
            offset: usize::from(place & 0xfff8),
            more: place & MORE_V6 != 0,
            body: packet.get(at + FRAGMENT_HEADER..).ok_or(Drop::Truncated)?,
        }))
    }

    /// All but the last are multiples of 8 bytes, none is empty, none ends beyond the largest packet ("ping of death"), and the
    /// first has the whole transport header (RFC 1858 section 3, RFC 3128, RFC 7112).
    fn checked(self) -> Result<Self, Drop> {
        let odd = self.more && !self.body.len().is_multiple_of(8);
        if odd || self.body.is_empty() || self.head.len() + self.end() > DATAGRAM_MAX {
            return Err(Drop::FragmentBad);
        }
        if self.next.is_none() {
            least_header(self.protocol)?;
        }
        if self.offset == 0 {
            self.transport()?;
        }
        Ok(self)
    }

    /// The first fragment as a packet of its own, as far as its headers: what its whole datagram will be judged by. None: that
    /// cannot be told before all of it is there.
    pub fn opening(&self) -> Result<Option<Packet>, Drop> {
        let (protocol, at) = self.transport()?;
        // The largest header that is read: TCP's with all its options.
        let shown = (at + 60).min(self.body.len());
        let mut bytes = [self.head, self.body.get(..shown).unwrap_or_default()].concat();
        super::finish(&mut bytes, self.head.len(), self.next);
        let at = self.head.len() + at;
        let len = u16::try_from(bytes.len() - at).unwrap_or(u16::MAX);
        match protocol {
            // It speaks of the whole datagram.
            UDP => put_word(&mut bytes, at + 4, len),
            // An echo has a type, any other is an error: its sum is over all of it.
            ICMP4 | ICMP6 if !matches!(bytes.get(at), Some(0 | 8 | 128 | 129)) => return Ok(None),
            _ => {}
        }
        Packet::parse(&bytes).map(Some).map_err(|reason| match reason {
            Drop::Truncated => Drop::FragmentTiny,
            other => other,
        })
    }

    /// Which transport header the first fragment's part has, and where; the least one must be whole.
    fn transport(&self) -> Result<(u8, usize), Drop> {
        let (mut next, mut at) = (self.next.map_or(self.protocol, |(_, next)| next), 0);
        for _ in 0..=EXTENSION_HEADERS_MAX {
            if self.next.is_none() || !matches!(next, 43 | 60) {
                let whole = self.body.len() >= at + least_header(next)?;
                return if whole { Ok((next, at)) } else { Err(Drop::FragmentTiny) };
            }
            let Some((following, end)) = extension(self.body, at) else { return Err(Drop::FragmentTiny) };
            (next, at) = (following, end);
        }
        Err(Drop::ExtensionHeader)
    }
}

/// Bytes of the least header of a protocol that rules can name.
const fn least_header(protocol: u8) -> Result<usize, Drop> {
    match protocol {
        TCP => Ok(20),
        UDP | ICMP4 | ICMP6 => Ok(8),
        // A fragment of a fragment.
        FRAGMENT => Err(Drop::Fragment),
        _ => Err(Drop::Protocol),
    }
}

/// The header that follows an extension header, and where that ends; its length counts 8 bytes beyond the first 8.
fn extension(bytes: &[u8], at: usize) -> Option<(u8, usize)> {
    let end = at + (usize::from(*bytes.get(at + 1)?) + 1) * 8;
    Some((*bytes.get(at)?, end))
}

/// IPv6: where the fragment header is announced, and where it is. Behind a header that the parser refuses, nothing is sought.
fn fragment_header(bytes: &[u8]) -> Option<(usize, usize)> {
    find_header(bytes, |next, _| next == FRAGMENT)
}

/// IPv6: where the header is announced that begins at `offset`.
pub fn field_of(bytes: &[u8], offset: usize) -> Option<usize> {
    find_header(bytes, |_, at| at == offset).map(|(field, _)| field)
}

fn find_header(bytes: &[u8], sought: impl Fn(u8, usize) -> bool) -> Option<(usize, usize)> {
    let (mut field, mut at) = (6, V6_HEADER);
    for _ in 0..=EXTENSION_HEADERS_MAX {
        let next = *bytes.get(field)?;
        if sought(next, at) {
            return Some((field, at));
        }
        if !matches!(next, 0 | 43 | 60) {
            return None;
        }
        (field, at) = (at, extension(bytes, at)?.1);
    }
    None
}

fn v4(bytes: &[u8], at: usize) -> Result<IpAddr, Drop> {
    let octets = bytes.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok());
    octets.map(IpAddr::from).ok_or(Drop::Truncated)
}

fn v6(bytes: &[u8], at: usize) -> Result<IpAddr, Drop> {
    let octets = bytes.get(at..at + 16).and_then(|b| <[u8; 16]>::try_from(b).ok());
    octets.map(IpAddr::from).ok_or(Drop::Truncated)
}
