//! How do many small messages come in with one call? recvmmsg(2): the first is waited for, the others are those that lie there.
#![allow(unsafe_code)]

use super::Udp;
use super::receive::remote;
use super::refusal;
use crate::cmsg::Reader;
use model::packet::{Local, Train};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

/// Messages of one call.
const MESSAGES: usize = 64;

/// Room for messages of one size at most, one datagram each.
pub struct Batch {
    trains: [Train; MESSAGES],
    controls: [Reader; MESSAGES],
    /// Bytes of the largest message that has room.
    bytes_max: usize,
    /// Those of `trains` that hold what came last.
    filled: Vec<usize>,
}

impl Batch {
    /// For messages of so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        let empty = |_| Train::datagram(([0, 0, 0, 0], 0).into(), Local::default(), Vec::with_capacity(bytes_max));
        Self {
            trains: std::array::from_fn(empty),
            controls: std::array::from_fn(|_| Reader::new()),
            bytes_max,
            filled: Vec::with_capacity(MESSAGES),
        }
    }

    /// What came, in its order.
    pub fn each(&mut self, mut take: impl FnMut(&mut Train)) {
        for at in self.filled.drain(..) {
            if let Some(train) = self.trains.get_mut(at) {
                take(train);
            }
        }
    }
}

impl Udp {
    /// Waits for a message and takes those that lie behind it, too, as far as there is room. One that is larger than its room is
    /// dropped and counted; where all are, nothing came.
    pub fn recv_batch(&self, batch: &mut Batch) -> io::Result<()> {
        batch.filled.clear();
        // SAFETY: zeros are valid for all three: addresses, parts without room, messages without parts.
        let (mut from, mut parts, mut messages): (
            [libc::sockaddr_storage; MESSAGES],
            [libc::iovec; MESSAGES],
            [libc::mmsghdr; MESSAGES],
        ) = unsafe { std::mem::zeroed() };
        let rooms = batch.trains.iter_mut().zip(&mut batch.controls);
        for ((message, (from, part)), (train, control)) in
            messages.iter_mut().zip(from.iter_mut().zip(&mut parts)).zip(rooms)
        {
            train.bytes.clear();
            train.bytes.reserve(batch.bytes_max);
            let room = train.bytes.spare_capacity_mut();
            *part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len().min(batch.bytes_max) };
            let header = &mut message.msg_hdr;
            header.msg_name = std::ptr::from_mut(from).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = part;
            header.msg_iovlen = 1;
            control.attach(header);
        }
        let count = libc::c_uint::try_from(MESSAGES).unwrap_or(1);
        let came = loop {
            // SAFETY: every message names live buffers, each with the length given beside it, none of them twice.
            let came = unsafe {
                libc::recvmmsg(
                    self.socket.as_raw_fd(),
                    messages.as_mut_ptr(),
                    count,
                    libc::MSG_WAITFORONE,
                    std::ptr::null_mut(),
                )
            };
            match usize::try_from(came) {
                Ok(came) => break came,
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if !refusal::is_pending(&error) {
                        return Err(error);
                    }
                }
            }
        };
        let all = batch.trains.iter_mut().zip(&batch.controls).zip(messages.iter().zip(&from));
        for (at, ((train, control), (message, from))) in all.enumerate().take(came) {
            if message.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
                self.truncated.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let Ok(len) = usize::try_from(message.msg_len) else { continue };
            // SAFETY: the kernel wrote `len` bytes, at most the room that was reserved (no MSG_TRUNC flag is given).
            unsafe { train.bytes.set_len(len) };
            let Ok(addr) = remote(from) else { continue };
            let about = control.about(&message.msg_hdr);
            (train.addr, train.local, train.ecn) = (addr, about.local, about.ecn);
            // Without GRO, a message is a datagram.
            train.stride = about.segment.filter(|stride| *stride < len).unwrap_or(0);
            batch.filled.push(at);
        }
        Ok(())
    }
}
