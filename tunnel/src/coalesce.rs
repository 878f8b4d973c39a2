//! Which packets, one after the other, can be handed to the kernel as one? What a network card does early (GRO), done here,
//! for what came out of one train of datagrams.
//!
//! Neighbours of one TCP or UDP flow are joined when cutting the result gives exactly these packets back: same header but
//! for length, identification and checksum, the next sequence number, nothing larger than the first. Each one's checksum
//! is looked at first, because the joined packet's is made anew: a damaged packet goes on alone, damaged as it is.

use crate::checksum::{Delta, put_word, word};
use crate::headers::{ACK, PSH, Packet, Transport, UDP_HEADER, V4_HEADER, V6_HEADER};
use crate::segment;
use model::limits::{DATAGRAM_MAX, SUPER_SEGMENTS_MAX};
use model::packet::{Frame, Gso, GsoKind, Offloads, Spare};

/// Joins packets into frames, in their order.
#[derive(Debug)]
pub struct Coalescer {
    offloads: Offloads,
    /// How the last frame goes on; none: it does not.
    open: Option<Open>,
}

/// The last frame, as far as it may grow.
#[derive(Debug, Clone, Copy)]
struct Open {
    /// Where the payload begins.
    payload: usize,
    /// Payload of each segment.
    size: usize,
    /// How many segments.
    count: usize,
    /// TCP: the sequence number that follows.
    next: u32,
    kind: GsoKind,
    transport: usize,
}

impl Coalescer {
    /// What the device takes whole is joined, nothing else.
    pub const fn new(offloads: Offloads) -> Self {
        Self { offloads, open: None }
    }

    /// One more packet (and what may follow it in the buffer, which is cut off): it continues the last of `frames`, or is one
    /// of its own.
    pub fn push(&mut self, bytes: &[u8], frames: &mut Vec<Frame>, spare: &mut Spare) {
        let found = self.candidate(bytes);
        if let (Some(open), Some(next)) = (&mut self.open, &found)
            && let Some(frame) = frames.last_mut()
            && open.takes(&frame.bytes, bytes, next)
        {
            let last = next.payload.len() < open.size || next.pushes;
            frame.bytes.extend_from_slice(next.payload);
            open.count += 1;
            open.next = open.next.wrapping_add(u32::try_from(next.payload.len()).unwrap_or(0));
            if next.pushes
                && let Some(flags) = frame.bytes.get_mut(open.transport + 13)
            {
                *flags |= PSH;
            }
            if last {
                self.close(frames);
            }
            return;
        }
        self.close(frames);
        let mut frame = Frame::packet(spare.buffer());
        frame.bytes.extend_from_slice(bytes);
        // Nothing follows what was pushed: its sender has nothing more to say just now.
        self.open = found.filter(|found| !found.pushes).map(|found| Open {
            payload: found.at,
            size: found.payload.len(),
            count: 1,
            next: found.seq.wrapping_add(u32::try_from(found.payload.len()).unwrap_or(0)),
            kind: found.kind,
            transport: found.transport,
        });
        if let Some(open) = self.open {
            frame.bytes.truncate(open.payload + open.size);
        }
        frames.push(frame);
    }

    /// No packet follows the last one.
    pub fn close(&mut self, frames: &mut [Frame]) {
        if let (Some(open), Some(frame)) = (self.open.take(), frames.last_mut())
            && open.count > 1
        {
            open.seal(frame);
        }
    }

    /// A packet that may be joined to others, or others to it.
    fn candidate<'b>(&self, bytes: &'b [u8]) -> Option<Candidate<'b>> {
        if !self.offloads.tso {
            return None;
        }
        let packet = Packet::parse(bytes).ok()?;
        let plain = if packet.source.is_ipv6() { V6_HEADER } else { V4_HEADER };
        if packet.offset != plain {
            return None;
        }
        let (kind, header, pushes, seq) = match packet.transport {
            Transport::Tcp(tcp) if tcp.flags & !PSH == ACK => {
                let kind = if packet.source.is_ipv6() { GsoKind::TcpV6 } else { GsoKind::TcpV4 };
                (kind, usize::from(bytes.get(plain + 12)? >> 4) * 4, tcp.has(PSH), tcp.seq)
            }
            Transport::Udp { .. } if self.offloads.uso && word(bytes, plain + 6) != Some(0) => {
                (GsoKind::Udp, UDP_HEADER, false, 0)
            }
            _ => return None,
        };
        let payload = bytes.get(plain + header..packet.len).filter(|payload| !payload.is_empty())?;
        let holds = segment::checksum_holds(bytes, &packet);
        holds.then_some(Candidate { kind, transport: plain, at: plain + header, payload, pushes, seq })
    }
}

/// See [`Coalescer::candidate`].
struct Candidate<'b> {
    kind: GsoKind,
    transport: usize,
    at: usize,
    payload: &'b [u8],
    pushes: bool,
    seq: u32,
}

impl Open {
    /// Does this packet continue the frame?
    fn takes(&self, frame: &[u8], bytes: &[u8], next: &Candidate<'_>) -> bool {
        next.kind == self.kind
            && next.at == self.payload
            && next.payload.len() <= self.size
            && self.count < SUPER_SEGMENTS_MAX
            && frame.len() + next.payload.len() <= DATAGRAM_MAX
            && (next.kind == GsoKind::Udp || next.seq == self.next)
            && self.same_ip(frame, bytes)
            && self.same_transport(frame, bytes)
    }

    fn same_ip(&self, frame: &[u8], bytes: &[u8]) -> bool {
        let same =
            |from: usize, to: usize| matches!((frame.get(from..to), bytes.get(from..to)), (Some(a), Some(b)) if a == b);
        if self.transport == V6_HEADER {
            return same(0, 4) && same(6, V6_HEADER);
        }
        // Whoever cuts the joined packet counts the identification on; where nothing may be fragmented it says nothing.
        let counts_on =
            word(bytes, 4) == word(frame, 4).map(|id| id.wrapping_add(u16::try_from(self.count).unwrap_or(0)));
        let whole = word(bytes, 6).is_some_and(|flags| flags & 0x4000 != 0);
        same(0, 2) && same(6, 10) && same(12, V4_HEADER) && (counts_on || whole)
    }

    fn same_transport(&self, frame: &[u8], bytes: &[u8]) -> bool {
        let same = |from: usize, to: usize| {
            let range = self.transport + from..self.transport + to;
            matches!((frame.get(range.clone()), bytes.get(range)), (Some(a), Some(b)) if a == b)
        };
        if self.kind == GsoKind::Udp {
            return same(0, 4);
        }
        // Ports, acknowledgement, header length, window, urgent pointer, options; flags are ACK and PSH in both.
        same(0, 4) && same(8, 13) && same(14, 16) && same(18, self.payload - self.transport)
    }

    /// The headers speak of the whole now. Its checksum waits until its ends are the last ones.
    fn seal(&self, frame: &mut Frame) {
        let bytes = &mut frame.bytes;
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        if self.transport == V6_HEADER {
            put_word(bytes, 4, len.saturating_sub(40));
        } else if let Some(old) = word(bytes, 2) {
            put_word(bytes, 2, len);
            Delta::default().word(old, len).fix(bytes, 10);
        }
        let body = len.saturating_sub(u16::try_from(self.transport).unwrap_or(0));
        if self.kind == GsoKind::Udp {
            put_word(bytes, self.transport + 4, body);
        }
        let header_len = u16::try_from(self.payload).unwrap_or(0);
        frame.gso =
            Gso { kind: self.kind, header_len, size: u16::try_from(self.size).unwrap_or(u16::MAX), checksum: None };
    }
}

#[cfg(test)]
mod tests;
