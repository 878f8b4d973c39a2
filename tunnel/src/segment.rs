//! Which packets does a super-packet stand for? What a kernel or network card does late (TSO, USO), done here, into the
//! buffers that are sealed.
//!
//! A virtio header says how to cut, and is believed in nothing but the size of the segments: kind, header lengths and
//! checksum are those of the packet itself, or it is dropped. Sources: RFC 9293 (TCP), RFC 768 (UDP), RFC 6864 section 4
//! (the identification counts on), virtio 1.2 section 5.1.6.

use crate::checksum::{self, put_word, word};
use crate::counters::Drop;
use crate::headers::{FIN, PSH, Packet, TCP, Transport, UDP, UDP_HEADER, V6_HEADER};
use model::limits::SUPER_SEGMENTS_MAX;
use model::packet::{Frame, Gso, GsoKind};
use std::net::IpAddr;

/// TCP flag CWR.
const CWR: u8 = 0x80;
/// Where a TCP header has its checksum.
const TCP_SUM: usize = 16;
/// Where a UDP header has its checksum.
const UDP_SUM: usize = 6;

/// How a super-packet is cut. All of it was checked against the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    tcp: bool,
    source: IpAddr,
    destination: IpAddr,
    /// Where the transport header begins.
    transport: usize,
    /// Where the payload begins.
    payload: usize,
    /// Where the packet ends.
    len: usize,
    /// Payload of each segment but the last.
    size: usize,
}

impl Cut {
    /// Checks a super-packet: `packet` was parsed from it, `gso` came with it.
    pub fn check(bytes: &[u8], packet: &Packet, gso: &Gso) -> Result<Self, Drop> {
        let tcp = match (gso.kind, packet.transport, packet.source.is_ipv6()) {
            (GsoKind::TcpV4, Transport::Tcp(_), false) | (GsoKind::TcpV6, Transport::Tcp(_), true) => true,
            (GsoKind::Udp, Transport::Udp { .. }, _) => false,
            _ => return Err(Drop::Offload),
        };
        let header = if tcp { tcp_header(bytes, packet.offset).ok_or(Drop::Offload)? } else { UDP_HEADER };
        let (payload, size) = (packet.offset + header, usize::from(gso.size));
        let carried = packet.len.checked_sub(payload).ok_or(Drop::Offload)?;
        let cut = Self {
            tcp,
            source: packet.source,
            destination: packet.destination,
            transport: packet.offset,
            payload,
            len: packet.len,
            size,
        };
        let whole = bytes.len() == packet.len && size > 0 && carried > 0;
        if whole && cut.count() <= SUPER_SEGMENTS_MAX { Ok(cut) } else { Err(Drop::Offload) }
    }

    /// How many packets it stands for.
    pub const fn count(&self) -> usize {
        (self.len - self.payload).div_ceil(self.size)
    }

    /// Bytes of the largest segment.
    pub fn largest(&self) -> usize {
        (self.payload + self.size).min(self.len)
    }

    /// Writes segment `number` of the super-packet `bytes` into `to`, whole and with right checksums; what `to` held is gone.
    pub fn segment(&self, bytes: &[u8], number: usize, to: &mut Vec<u8>) {
        let start = self.payload + number * self.size;
        let end = (start + self.size).min(self.len);
        let last = end == self.len;
        to.clear();
        to.extend_from_slice(bytes.get(..self.payload).unwrap_or_default());
        to.extend_from_slice(bytes.get(start..end).unwrap_or_default());
        let len = to.len();
        if self.source.is_ipv6() {
            put_word(to, 4, saturated(len.saturating_sub(V6_HEADER)));
        } else {
            put_word(to, 2, saturated(len));
            let id = word(to, 4).unwrap_or(0).wrapping_add(saturated(number));
            put_word(to, 4, id);
            put_word(to, 10, 0);
            let sum = !checksum::sum(to.get(..self.transport).unwrap_or_default(), 0);
            put_word(to, 10, sum);
        }
        if self.tcp {
            self.number(to, number, last);
        } else {
            put_word(to, self.transport + 4, saturated(len.saturating_sub(self.transport)));
        }
        complete(to, self.transport, self.tcp, self.source, self.destination);
    }

    /// Sequence number and flags: CWR speaks of the first segment, FIN and PSH of the last (RFC 3168 section 6.1.2).
    fn number(&self, to: &mut [u8], number: usize, last: bool) {
        let at = self.transport + 4;
        let seq = to.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()).map_or(0, u32::from_be_bytes);
        let seq = seq.wrapping_add(u32::try_from(number * self.size).unwrap_or(0));
        if let Some(field) = to.get_mut(at..at + 4) {
            field.copy_from_slice(&seq.to_be_bytes());
        }
        if let Some(flags) = to.get_mut(self.transport + 13) {
            if !last {
                *flags &= !(FIN | PSH);
            }
            if number > 0 {
                *flags &= !CWR;
            }
        }
    }
}

/// Completes the checksum that a kernel left to be computed, of a packet that is not cut. The place that it names must be
/// where the packet's own transport keeps its checksum.
pub fn complete_checksum(frame: &mut Frame, packet: &Packet) -> Result<(), Drop> {
    let Some((start, offset)) = frame.gso.checksum else { return Ok(()) };
    let (tcp, place) = match packet.transport {
        Transport::Tcp(_) => (true, TCP_SUM),
        Transport::Udp { .. } => (false, UDP_SUM),
        Transport::Echo { .. } | Transport::Error(_) => return Err(Drop::Offload),
    };
    if usize::from(start) != packet.offset || usize::from(offset) != place {
        return Err(Drop::Offload);
    }
    frame.bytes.truncate(packet.len);
    complete(&mut frame.bytes, packet.offset, tcp, packet.source, packet.destination);
    frame.gso.checksum = None;
    Ok(())
}

/// Every packet that a frame stands for, until `take` wants no more.
pub fn each_packet<E>(frame: &Frame, packet: &Packet, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E>
where
    E: From<Drop>,
{
    if frame.gso.kind == GsoKind::None {
        return take(&frame.bytes);
    }
    let cut = Cut::check(&frame.bytes, packet, &frame.gso)?;
    let mut segment = Vec::new();
    (0..cut.count()).try_for_each(|number| {
        cut.segment(&frame.bytes, number, &mut segment);
        take(&segment)
    })
}

/// Makes a frame off a device one that the rest of the engine works on: a whole packet, or a super-packet that is cut as it
/// says, and no checksum that is open but that of what will be cut.
pub fn prepare(frame: &mut Frame) -> Result<(), Drop> {
    if frame.gso == Gso::NONE {
        return Ok(());
    }
    let packet = Packet::parse(&frame.bytes)?;
    if frame.gso.kind == GsoKind::None {
        complete_checksum(frame, &packet)?;
        frame.gso = Gso::NONE;
    } else {
        let cut = Cut::check(&frame.bytes, &packet, &frame.gso)?;
        frame.gso.header_len = saturated(cut.payload);
        frame.gso.checksum = None;
    }
    Ok(())
}

/// Leaves the checksum of a super-packet to be computed by whoever cuts it: the field holds the sum of the pseudo header,
/// the header says where (virtio 1.2 section 5.1.6.2).
pub fn leave_checksum(frame: &mut Frame, packet: &Packet) {
    let (protocol, place) = match packet.transport {
        Transport::Tcp(_) => (TCP, TCP_SUM),
        _ => (UDP, UDP_SUM),
    };
    let len = packet.len.saturating_sub(packet.offset);
    let pseudo = checksum::sum(&[], checksum::pseudo(packet.source, packet.destination, protocol, len));
    put_word(&mut frame.bytes, packet.offset + place, pseudo);
    frame.gso.checksum = Some((saturated(packet.offset), saturated(place)));
}

/// Does the checksum of a TCP or UDP packet hold? Zero of UDP over IPv4 says that there is none.
pub fn checksum_holds(bytes: &[u8], packet: &Packet) -> bool {
    let Some(body) = bytes.get(packet.offset..packet.len) else { return false };
    let protocol = match packet.transport {
        Transport::Tcp(_) => TCP,
        Transport::Udp { .. } if packet.source.is_ipv4() && word(body, UDP_SUM) == Some(0) => return true,
        _ => UDP,
    };
    checksum::sum(body, checksum::pseudo(packet.source, packet.destination, protocol, body.len())) == 0xffff
}

fn complete(bytes: &mut [u8], transport: usize, tcp: bool, source: IpAddr, destination: IpAddr) {
    let (protocol, place) = if tcp { (TCP, TCP_SUM) } else { (UDP, UDP_SUM) };
    put_word(bytes, transport + place, 0);
    let body = bytes.get(transport..).unwrap_or_default();
    let sum = !checksum::sum(body, checksum::pseudo(source, destination, protocol, body.len()));
    // Zero would say that a datagram has no checksum (RFC 768).
    put_word(bytes, transport + place, if sum == 0 && !tcp { 0xffff } else { sum });
}

/// Bytes of the TCP header at an offset, its options included.
fn tcp_header(bytes: &[u8], at: usize) -> Option<usize> {
    let len = usize::from(bytes.get(at + 12)? >> 4) * 4;
    (len >= 20).then_some(len)
}

fn saturated(value: usize) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
