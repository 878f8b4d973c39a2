//! How do trains become messages? As few as the kernel takes: whole where it can cut them, several with one call.
#![allow(unsafe_code)]

use super::refusal::{self, Whole};
use super::{Sent, Udp};
use crate::cmsg::Writer;
use model::limits::{SEGMENTED_BYTES_MAX, SEGMENTS_MAX, SEND_AGAIN_MAX, SEND_MESSAGES_MAX};
use model::packet::{Local, Train};
use socket2::SockAddr;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

/// What goes as one message: one datagram, or some neighbours of one train.
#[derive(Clone, Copy)]
pub(super) struct Piece<'t> {
    train: &'t Train,
    local: Local,
    bytes: &'t [u8],
    /// Bytes of each datagram but the last; 0 means that `bytes` is one datagram.
    segment: u16,
}

impl<'t> Piece<'t> {
    fn datagrams(&self) -> usize {
        if self.segment == 0 { 1 } else { self.bytes.len().div_ceil(self.segment.into()) }
    }

    /// Its datagrams, each on its own.
    fn singles(self) -> impl Iterator<Item = Piece<'t>> {
        let stride = if self.segment == 0 { self.bytes.len().max(1) } else { self.segment.into() };
        self.bytes.chunks(stride).map(move |bytes| Piece { bytes, segment: 0, ..self })
    }
}

/// Some pieces, in order.
struct Batch<'t> {
    pieces: [Option<Piece<'t>>; SEND_MESSAGES_MAX],
    len: usize,
}

/// What one message points at.
struct Slot {
    to: SockAddr,
    part: libc::iovec,
    control: Writer,
}

impl Udp {
    /// The messages of one train.
    pub(super) fn pieces<'t>(&self, train: &'t Train) -> impl Iterator<Item = Piece<'t>> {
        let len = train.bytes.len();
        let stride = if train.stride == 0 { len.max(1) } else { train.stride };
        let whole = stride < len && self.gso.load(Ordering::Relaxed) && !self.narrow.refuses(train.addr.ip(), stride);
        let together = if whole { (SEGMENTED_BYTES_MAX / stride).clamp(1, SEGMENTS_MAX) } else { 1 };
        train.bytes.chunks(stride.saturating_mul(together)).map(move |bytes| {
            let segment = if bytes.len() > stride { u16::try_from(stride).unwrap_or(0) } else { 0 };
            Piece { train, local: train.local, bytes, segment }
        })
    }

    /// Sends all of them, in order.
    pub(super) fn send_pieces<'t>(&self, pieces: impl Iterator<Item = Piece<'t>>) -> Sent {
        let mut sent = Sent::default();
        let mut batch = Batch { pieces: [const { None }; SEND_MESSAGES_MAX], len: 0 };
        for piece in pieces {
            if batch.len == SEND_MESSAGES_MAX {
                sent.add(self.send_batch(&mut batch));
            }
            if let Some(slot) = batch.pieces.get_mut(batch.len) {
                *slot = Some(piece);
                batch.len = batch.len.saturating_add(1);
            }
        }
        sent.add(self.send_batch(&mut batch));
        sent
    }

    /// Sends what is in the batch, and empties it.
    fn send_batch(&self, batch: &mut Batch<'_>) -> Sent {
        let mut sent = Sent::default();
        let mut rest = batch.pieces.get(..batch.len).unwrap_or_default();
        while let Some((Some(first), others)) = rest.split_first() {
            match self.transmit(rest) {
                Ok(count) => {
                    let (gone, left) = rest.split_at_checked(count.max(1)).unwrap_or((rest, &[]));
                    gone.iter()
                        .flatten()
                        .for_each(|piece| sent.datagrams = sent.datagrams.saturating_add(piece.datagrams()));
                    rest = left;
                }
                Err(error) => {
                    sent.add(self.send_otherwise(*first, error));
                    rest = others;
                }
            }
        }
        batch.len = 0;
        sent
    }

    /// A message was refused: without its local address, then in single datagrams, then not at all.
    fn send_otherwise(&self, piece: Piece<'_>, mut error: io::Error) -> Sent {
        let free = Piece { local: Local::default(), ..piece };
        // The address or interface went away (a laptop that moved): let the kernel choose again.
        if piece.local != free.local && refusal::is_stale_local(&error) {
            match self.transmit(&[Some(free)]) {
                Ok(_) => return Sent { datagrams: piece.datagrams(), dropped: 0 },
                Err(again) => error = again,
            }
        }
        let proven = self.gso_proven.load(Ordering::Relaxed);
        if piece.segment != 0
            && let Some(why) = refusal::of_segments(&error, piece.segment.into(), proven)
        {
            let sent = self.send_pieces(piece.singles());
            // Only where the datagrams went alone was it their being together that was refused.
            if sent.dropped == 0 {
                self.note(why, &piece, &error);
            }
            return sent;
        }
        let lost = piece.datagrams();
        self.dropped.fetch_add(u64::try_from(lost).unwrap_or(u64::MAX), Ordering::Relaxed);
        tracing::trace!(to = %piece.train.addr, %error, "a datagram was not sent");
        Sent { datagrams: 0, dropped: lost }
    }

    fn note(&self, why: Whole, piece: &Piece<'_>, error: &io::Error) {
        match why {
            Whole::TooNarrow => self.narrow.note(piece.train.addr.ip(), piece.segment.into()),
            Whole::Impossible => {
                if self.gso.swap(false, Ordering::Relaxed) {
                    tracing::info!(%error, "UDP segments are refused on this machine: each datagram is sent by itself");
                }
            }
        }
    }

    /// Hands messages to the kernel and says how many it took, at least one; an error is about the first.
    fn transmit(&self, pieces: &[Option<Piece<'_>>]) -> io::Result<usize> {
        let mut slots = [const { None::<Slot> }; SEND_MESSAGES_MAX];
        // SAFETY: zeros are a valid mmsghdr.
        let mut messages: [libc::mmsghdr; SEND_MESSAGES_MAX] = unsafe { std::mem::zeroed() };
        let mut count = 0_usize;
        for ((piece, slot), message) in pieces.iter().flatten().zip(&mut slots).zip(&mut messages) {
            match self.slot(piece) {
                Ok(made) => attach(slot.insert(made), &mut message.msg_hdr),
                Err(error) if count == 0 => return Err(error),
                // It is the first one of the next call.
                Err(_) => break,
            }
            count = count.saturating_add(1);
        }
        let taken = self.call(messages.get_mut(..count).unwrap_or_default())?;
        if pieces.iter().take(taken).flatten().any(|piece| piece.segment != 0) {
            self.gso_proven.store(true, Ordering::Relaxed);
        }
        Ok(taken)
    }

    fn slot(&self, piece: &Piece<'_>) -> io::Result<Slot> {
        let remote = piece.train.addr.ip();
        let mut control = Writer::new();
        control.local(remote, piece.local);
        control.ecn(remote, piece.train.ecn);
        if piece.segment != 0 {
            control.segment(piece.segment);
        }
        let part = libc::iovec { iov_base: piece.bytes.as_ptr().cast_mut().cast(), iov_len: piece.bytes.len() };
        Ok(Slot { to: self.destination(piece.train.addr)?, part, control })
    }

    fn call(&self, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
        let count = libc::c_uint::try_from(messages.len()).unwrap_or_default();
        past_others(|| {
            let socket = self.socket.as_raw_fd();
            // SAFETY: `count` messages, whose pointers name live buffers with the lengths given beside them; the call
            // writes nothing but `msg_len`.
            let taken = unsafe { libc::sendmmsg(socket, messages.as_mut_ptr(), count, libc::MSG_NOSIGNAL) };
            usize::try_from(taken).map_err(|_| io::Error::last_os_error())
        })
    }

    /// The address as this socket's family writes it.
    fn destination(&self, address: SocketAddr) -> io::Result<socket2::SockAddr> {
        match (address, self.dual) {
            (SocketAddr::V4(v4), true) => Ok(SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())).into()),
            (SocketAddr::V6(_), false) => Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
            (same, _) => Ok(same.into()),
        }
    }
}

impl Sent {
    fn add(&mut self, more: Self) {
        self.datagrams = self.datagrams.saturating_add(more.datagrams);
        self.dropped = self.dropped.saturating_add(more.dropped);
    }
}

/// Makes the call again while it ends by a signal, or tells, and so clears, the error of an earlier datagram.
fn past_others(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    let mut last = call();
    for _ in 1..SEND_AGAIN_MAX {
        match &last {
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionRefused) => {
                last = call();
            }
            _ => break,
        }
    }
    last
}

/// Points the message at the slot, which must not be moved until it was sent.
fn attach(slot: &mut Slot, message: &mut libc::msghdr) {
    message.msg_name = slot.to.as_ptr().cast_mut().cast();
    message.msg_namelen = slot.to.len();
    message.msg_iov = &raw mut slot.part;
    message.msg_iovlen = 1;
    slot.control.attach(message);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_errors_are_passed_a_bounded_number_of_times() {
        let mut calls = 0;
        let mut answer = |good_at: usize, code: i32| {
            calls = 0;
            let done = past_others(|| {
                calls += 1;
                if calls == good_at { Ok(7) } else { Err(io::Error::from_raw_os_error(code)) }
            });
            (done.ok(), calls)
        };
        assert_eq!(answer(1, libc::EINTR), (Some(7), 1));
        assert_eq!(answer(SEND_AGAIN_MAX, libc::ECONNREFUSED), (Some(7), SEND_AGAIN_MAX));
        assert_eq!(answer(SEND_AGAIN_MAX + 1, libc::ECONNREFUSED), (None, SEND_AGAIN_MAX));
        assert_eq!(answer(2, libc::ENETUNREACH), (None, 1));
    }
}
