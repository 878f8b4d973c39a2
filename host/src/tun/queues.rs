//! Whose packets are next? A device with several queues has a flow's packets in one of them; each queue has its turn, so that a
//! download does not make a question wait that was asked behind it.
//!
//! The kernel puts a flow into a queue by a hash of its own, and from the first packet that we write of it into the queue that
//! we wrote it to. So both directions of a flow use the queue that [`queue_of`] names, and nothing is overtaken within a flow.
//!
//! Source: drivers/net/tun.c (tun_automq_select_queue, tun_flow_update), epoll(7). The turns: deficit round robin without the
//! deficit (Shreedhar and Varghese, 1996), for a super-packet is a quantum.
#![allow(unsafe_code)]

use model::limits::{TUN_QUEUES, TUN_TURN_BYTES, TUN_TURN_FRAMES};
use parking_lot::Mutex;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// The queues of one device, at least one.
pub struct Queues {
    fds: Vec<OwnedFd>,
    /// Where there are several.
    poll: Option<OwnedFd>,
    turn: Mutex<Turn>,
}

/// Whose turn it is: those who have little to send go before those who had a turn already (RFC 8290, section 4.2).
#[derive(Debug, Default)]
struct Turn {
    /// Queues that had a turn, and were not found empty since when it was their turn again: a bit each.
    served: u64,
    /// The queue that was the last to begin a turn.
    last: usize,
    /// What it took of it, until it ended.
    taken: Option<(usize, usize)>,
}

const _: () = assert!(TUN_QUEUES <= 64);

impl Turn {
    /// The queue whose turn goes on, if one does.
    fn current(&self) -> Option<usize> {
        let (frames, bytes) = self.taken?;
        (frames < TUN_TURN_FRAMES && bytes < TUN_TURN_BYTES).then_some(self.last)
    }

    /// Begins the next turn, of one of the queues that have something; None where none has.
    fn next(&mut self, ready: u64) -> Option<usize> {
        self.taken = None;
        let new = ready & !self.served;
        let from = bit(self.last) + 1;
        // Behind the last one and round, so that none waits for ever.
        let ahead = if new == 0 { ready } else { new }.rotate_right(from).trailing_zeros();
        if ready == 0 {
            self.served = 0;
            return None;
        }
        if new == 0 {
            // It was the turn of those, too, and they had nothing: when they have, they are new.
            self.served &= !(1_u64.checked_shl(ahead).unwrap_or(0).wrapping_sub(1)).rotate_left(from);
        }
        let queue = (ahead + from) % u64::BITS;
        self.served |= 1_u64.checked_shl(queue).unwrap_or(0);
        self.last = usize::try_from(queue).ok()?;
        self.taken = Some((0, 0));
        Some(self.last)
    }

    const fn took(&mut self, len: usize) {
        if let Some((frames, bytes)) = &mut self.taken {
            *frames = frames.saturating_add(1);
            *bytes = bytes.saturating_add(len);
        }
    }

    const fn ends(&mut self) {
        self.taken = None;
    }
}

impl Queues {
    /// Of these descriptors, none of which blocks.
    pub fn new(fds: Vec<OwnedFd>) -> io::Result<Self> {
        let poll = if fds.len() > 1 { Some(poll_of(&fds)?) } else { None };
        Ok(Self { fds, poll, turn: Mutex::default() })
    }

    /// How many there are.
    pub const fn count(&self) -> usize {
        self.fds.len()
    }

    /// Calls `read` on the queue whose turn it is, and on the next one where there is nothing, until there was something: it
    /// answers the bytes that were read, or none where it would have to wait.
    pub fn read(&self, mut read: impl FnMut(RawFd) -> io::Result<Option<usize>>) -> io::Result<Option<usize>> {
        let Some(poll) = &self.poll else { return read(self.first()) };
        let mut turn = self.turn.lock();
        loop {
            let queue = match turn.current() {
                Some(queue) => queue,
                None => match turn.next(ready(poll, 0)?) {
                    Some(queue) => queue,
                    None => return Ok(None),
                },
            };
            let Some(fd) = self.fds.get(queue) else { return Ok(None) };
            match read(fd.as_raw_fd()) {
                Ok(Some(len)) => {
                    turn.took(len);
                    return Ok(Some(len));
                }
                Ok(None) => turn.ends(),
                Err(error) => {
                    turn.ends();
                    return Err(error);
                }
            }
        }
    }

    /// Where a packet of this flow is written.
    pub fn writer(&self, packet: &[u8]) -> RawFd {
        let queue = if self.poll.is_some() { queue_of(packet, self.fds.len()) } else { 0 };
        self.fds.get(queue).map_or_else(|| self.first(), AsRawFd::as_raw_fd)
    }

    /// What tells that there is something to read.
    pub fn readiness(&self) -> RawFd {
        self.poll.as_ref().map_or_else(|| self.first(), AsRawFd::as_raw_fd)
    }

    fn first(&self) -> RawFd {
        self.fds.first().map_or(-1, AsRawFd::as_raw_fd)
    }
}

fn poll_of(fds: &[OwnedFd]) -> io::Result<OwnedFd> {
    // SAFETY: no argument is a pointer.
    let poll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if poll < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above made this descriptor, which nothing else owns.
    let poll = unsafe { OwnedFd::from_raw_fd(poll) };
    for (number, fd) in (0..).zip(fds) {
        let mut event = libc::epoll_event { events: libc::EPOLLIN.cast_unsigned(), u64: number };
        // SAFETY: two open descriptors, and an event that outlives the call.
        if unsafe { libc::epoll_ctl(poll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(poll)
}

/// The queues that have something, a bit each, after at most so many milliseconds.
fn ready(poll: &OwnedFd, timeout: libc::c_int) -> io::Result<u64> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; TUN_QUEUES];
    let room = libc::c_int::try_from(events.len()).unwrap_or(1);
    // SAFETY: `events` has room for as many entries as it says.
    let count = unsafe { libc::epoll_wait(poll.as_raw_fd(), events.as_mut_ptr(), room, timeout) };
    let Ok(count) = usize::try_from(count) else {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok(0) } else { Err(error) };
    };
    Ok(events
        .iter()
        .take(count)
        .fold(0, |bits, event| bits | 1_u64.checked_shl(u32::try_from(event.u64).unwrap_or(u32::MAX)).unwrap_or(0)))
}

fn bit(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The queue of a packet's flow, the same for both directions: by addresses and protocol, and by the ports of TCP and UDP where
/// the packet is whole. What is no packet goes with the others that are none.
fn queue_of(packet: &[u8], queues: usize) -> usize {
    let word = |at: usize| packet.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
    let byte = |at: usize| packet.get(at).copied().unwrap_or(0);
    let (protocol, transport, addresses) = match byte(0) >> 4 {
        4 => {
            let whole = byte(6) & 0x3f == 0 && byte(7) == 0;
            let len = usize::from(byte(0) & 0x0f) * 4;
            (byte(9), whole.then_some(len), word(12) ^ word(16))
        }
        6 => (byte(6), Some(40), (8..40).step_by(4).fold(0, |all, at| all ^ word(at))),
        _ => (0, None, 0),
    };
    let ports = match (protocol, transport) {
        (6 | 17, Some(at)) => {
            let port = |at: usize| u32::from(byte(at)) << 8 | u32::from(byte(at + 1));
            port(at) ^ port(at + 2) ^ (port(at).wrapping_add(port(at + 2)) << 16)
        }
        _ => 0,
    };
    // Fibonacci hashing (Knuth, volume 3, section 6.4): neighbouring ports and addresses fall far apart.
    let mixed = u64::from(addresses ^ ports ^ u32::from(protocol)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    usize::try_from(mixed).unwrap_or(0).checked_rem(queues).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(version: u8, protocol: u8, from: (u8, u16), to: (u8, u16)) -> Vec<u8> {
        let mut bytes = vec![0; if version == 4 { 20 } else { 40 }];
        bytes[0] = version << 4 | if version == 4 { 5 } else { 0 };
        let (at, last_from, last_to) = if version == 4 { (9, 15, 19) } else { (6, 23, 39) };
        bytes[at] = protocol;
        bytes[last_from] = from.0;
        bytes[last_to] = to.0;
        bytes.extend(from.1.to_be_bytes());
        bytes.extend(to.1.to_be_bytes());
        bytes.extend([0; 16]);
        bytes
    }

    #[test]
    fn both_directions_of_a_flow_have_one_queue_and_flows_spread() {
        for version in [4, 6] {
            for protocol in [6, 17] {
                let mut used = std::collections::BTreeSet::new();
                for port in 40_000..40_200 {
                    let (ours, theirs) = ((1, port), (2, 443));
                    let queue = queue_of(&packet(version, protocol, ours, theirs), TUN_QUEUES);
                    assert_eq!(queue, queue_of(&packet(version, protocol, theirs, ours), TUN_QUEUES));
                    assert!(queue < TUN_QUEUES);
                    used.insert(queue);
                }
                assert!(used.len() > TUN_QUEUES * 3 / 4, "{} queues for 200 flows", used.len());
            }
            let echo = |id| queue_of(&packet(version, 1, (1, id), (2, 0)), TUN_QUEUES);
            assert_eq!(echo(7), echo(8), "an echo has no ports");
        }
    }

    #[test]
    fn the_fragments_of_a_datagram_have_one_queue() {
        let mut first = packet(4, 17, (1, 5_000), (2, 53));
        first[6] = 0x20;
        let mut next = packet(4, 17, (1, 9_999), (2, 1));
        next[7] = 1;
        assert_eq!(queue_of(&first, TUN_QUEUES), queue_of(&next, TUN_QUEUES));
    }

    #[test]
    fn what_is_cut_short_has_a_queue() {
        let whole = packet(6, 6, (1, 1), (2, 2));
        for len in 0..whole.len() {
            assert!(queue_of(&whole[..len], TUN_QUEUES) < TUN_QUEUES);
            assert_eq!(queue_of(&whole[..len], 0), 0);
        }
    }

    /// The turn that begins now, and all of it taken.
    fn whole(turn: &mut Turn, ready: u64) -> Option<usize> {
        let queue = turn.next(ready);
        turn.took(TUN_TURN_BYTES);
        assert_eq!(turn.current(), None);
        queue
    }

    #[test]
    fn a_turn_is_so_much_and_no_more() {
        let mut turn = Turn::default();
        assert_eq!(turn.current(), None);
        assert_eq!(turn.next(1 << 4), Some(4));
        for _ in 0..TUN_TURN_FRAMES {
            assert_eq!(turn.current(), Some(4));
            turn.took(100);
        }
        assert_eq!(turn.current(), None);
        assert_eq!(turn.next(1 << 63), Some(63));
        turn.ends();
        assert_eq!(turn.current(), None, "a queue that is empty has no turn");
        assert_eq!(turn.next(0), None);
    }

    #[test]
    fn those_who_always_have_something_take_turns() {
        let mut turn = Turn::default();
        let all = 1 << 2 | 1 << 31 | 1 << 63 | 1;
        let order: Vec<_> = (0..8).filter_map(|_| whole(&mut turn, all)).collect();
        assert_eq!(order, [2, 31, 63, 0, 2, 31, 63, 0]);
    }

    #[test]
    fn who_comes_anew_goes_first_and_once() {
        let mut turn = Turn::default();
        let busy = 1 << 1 | 1 << 5 | 1 << 9;
        for _ in 0..3 {
            whole(&mut turn, busy);
        }
        assert_eq!(whole(&mut turn, busy), Some(1));
        assert_eq!(whole(&mut turn, busy | 1 << 20), Some(20));
        // Who is never empty, or is again and again for a moment, is not new before all others had their turn.
        let order: Vec<_> = (0..4).filter_map(|_| whole(&mut turn, busy | 1 << 20)).collect();
        assert_eq!(order, [1, 5, 9, 20]);
        let order: Vec<_> = (0..3).filter_map(|_| whole(&mut turn, busy)).collect();
        assert_eq!(order, [1, 5, 9]);
        assert_eq!(whole(&mut turn, busy), Some(1), "20 had nothing when it was its turn");
        assert_eq!(whole(&mut turn, busy | 1 << 20), Some(20));
    }

    #[test]
    fn where_nobody_waits_everybody_is_new() {
        let mut turn = Turn::default();
        assert_eq!(whole(&mut turn, 0b110), Some(1));
        assert_eq!(whole(&mut turn, 0b110), Some(2));
        assert_eq!(turn.next(0), None);
        assert_eq!(whole(&mut turn, 0b110), Some(1));
        assert_eq!(whole(&mut turn, 0b110), Some(2));
    }
}
