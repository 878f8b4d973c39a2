//! How does a datagram that was put together leave again, where it is larger than the way takes? In fragments of our own.

use super::piece::{DF, FRAGMENT, FRAGMENT_HEADER, MORE_V4, MORE_V6, field_of};
use crate::checksum::{self, put_word, word};
use crate::counters::Drop;
use crate::headers::{Packet, V6_HEADER};
use model::packet::{Frame, GsoKind};

/// The least that a fragment may carry: the first one of each has its transport header whole, and a chain of headers that
/// leaves less is no honest one.
const LEAST: usize = 64;

/// Is this one packet that must be cut to leave in pieces of `size` bytes? Where its sender forbids it, it is not cut.
pub fn is_too_large(frame: &Frame, size: usize) -> bool {
    let bytes = &frame.bytes;
    let v4 = bytes.first().is_some_and(|b| b >> 4 == 4);
    let forbidden = v4 && word(bytes, 6).is_none_or(|flags| flags & DF != 0);
    frame.gso.kind == GsoKind::None && bytes.len() > size && !forbidden
}

/// Gives out the fragments of a whole packet in their order, each of `size` bytes at most, all with identification `id` (IPv4
/// takes its lower half).
pub fn cut(bytes: &[u8], size: usize, id: u32, mut each: impl FnMut(&[u8])) -> Result<(), Drop> {
    let packet = Packet::parse(bytes)?;
    let v6 = packet.source.is_ipv6();
    let head = bytes.get(..packet.offset).ok_or(Drop::Truncated)?;
    let body = bytes.get(packet.offset..packet.len).ok_or(Drop::Truncated)?;
    let added = if v6 { FRAGMENT_HEADER } else { 0 };
    let room = size.saturating_sub(head.len() + added) & !7;
    if room < LEAST {
        return Err(Drop::ExtensionHeader);
    }
    // Every extension header is said again in each fragment: those that may stand here bind no one but hosts.
    let field = if v6 { field_of(bytes, packet.offset).ok_or(Drop::ExtensionHeader)? } else { 0 };
    let next = head.get(field).copied().unwrap_or_default();
    let mut piece = Vec::with_capacity(size);
    let count = body.len().div_ceil(room);
    for (number, part) in body.chunks(room).enumerate() {
        let (offset, more) = (u16::try_from(number * room).unwrap_or(u16::MAX), number + 1 < count);
        piece.clear();
        piece.extend_from_slice(head);
        if v6 {
            if let Some(field) = piece.get_mut(field) {
                *field = FRAGMENT;
            }
            let place = (offset & 0xfff8) | if more { MORE_V6 } else { 0 };
            piece.extend_from_slice(&[next, 0]);
            piece.extend_from_slice(&place.to_be_bytes());
            piece.extend_from_slice(&id.to_be_bytes());
        }
        piece.extend_from_slice(part);
        let len = piece.len();
        if v6 {
            put_word(&mut piece, 4, u16::try_from(len - V6_HEADER).unwrap_or(u16::MAX));
        } else {
            put_word(&mut piece, 2, u16::try_from(len).unwrap_or(u16::MAX));
            put_word(&mut piece, 4, (id & 0xffff) as u16);
            put_word(&mut piece, 6, (offset / 8) | if more { MORE_V4 } else { 0 });
            seal_v4(&mut piece, packet.offset);
        }
        each(&piece);
    }
    Ok(())
}

/// Gives an IPv4 packet another identification.
pub fn renumber_v4(bytes: &mut [u8], id: u16) {
    let header = usize::from(bytes.first().map_or(0, |b| b & 15)) * 4;
    put_word(bytes, 4, id);
    seal_v4(bytes, header);
}

/// Computes the checksum of an IPv4 header.
pub fn seal_v4(bytes: &mut [u8], header: usize) {
    put_word(bytes, 10, 0);
    let sum = !checksum::sum(bytes.get(..header).unwrap_or_default(), 0);
    put_word(bytes, 10, sum);
}
