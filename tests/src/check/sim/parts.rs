//! What is everything in the simulation made of? Random numbers, clocks, packets and letters.

use super::reference::{Seen, Time};
use crate::attacker::packet;
use model::ids::ID_LEN;
use model::net::Protocol;
use model::time::{Instant, LeaseClock, WallMs};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// One second.
pub const SECOND: Time = 1_000_000_000;
/// One millisecond.
pub const MS: Time = 1_000_000;
/// The wall clock's reading when a simulation starts, milliseconds.
const WALL_START: i64 = 1_700_000_000_000;

/// Random numbers that come again with their seed (Steele, Lea and Flood 2014, SplitMix64).
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    /// The next 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
    /// Below a limit.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit.max(1)
    }
    /// An index below a length.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }
    /// So many times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
    /// One of several.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let at = self.index(all.len());
        all.get(at)
    }
    /// The bits of a fresh id.
    pub fn id(&mut self) -> [u8; ID_LEN] {
        let mut id = [0; ID_LEN];
        let bits = u128::from(self.roll()) << 64 | u128::from(self.roll());
        id.iter_mut().zip(bits.to_le_bytes()).for_each(|(to, from)| *to = from);
        id
    }
    /// A fresh key.
    pub fn key(&mut self) -> [u8; 32] {
        let mut key = [0; 32];
        for part in key.chunks_mut(8) {
            part.copy_from_slice(&self.roll().to_le_bytes());
        }
        key
    }
}

/// The clocks of one machine, as its program reads them.
#[derive(Debug, Clone)]
pub struct Clocks {
    lease: LeaseClock,
    /// How long the boot clock stood still.
    stopped: Time,
    /// By how much somebody set the wall clock, nanoseconds.
    set: i64,
}

impl Clocks {
    /// The clocks of a program that starts now, on the machine of another one.
    pub fn start(now: Time, machine: Option<&Self>) -> Self {
        let mut clocks = Self {
            lease: LeaseClock::new(0, 0),
            stopped: machine.map_or(0, |m| m.stopped),
            set: machine.map_or(0, |m| m.set),
        };
        let (boot, wall) = clocks.readings(now);
        clocks.lease = LeaseClock::new(boot, wall);
        clocks
    }

    fn readings(&self, now: Time) -> (u64, i64) {
        let wall = WALL_START.saturating_mul(1_000_000).saturating_add(i64::try_from(now).unwrap_or(i64::MAX));
        (now.saturating_sub(self.stopped), wall.saturating_add(self.set))
    }

    /// Elapsed time, as the program knows it.
    pub fn now(&mut self, now: Time) -> Instant {
        let (boot, wall) = self.readings(now);
        self.lease.advance(boot, wall)
    }

    /// The wall clock.
    pub fn wall(&self, now: Time) -> WallMs {
        WallMs(self.readings(now).1.div_euclid(1_000_000))
    }

    /// Somebody sets the wall clock.
    pub fn set_wall(&mut self, by: i64) {
        self.set = self.set.saturating_add(by);
    }

    /// The boot clock stands still for so long.
    pub fn stop_boot(&mut self, by: Time) {
        self.stopped = self.stopped.saturating_add(by);
    }
}

/// The value of a future that has nothing to wait for.
pub fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

const SYN: u8 = 2;
const SYN_ACK: u8 = 0x12;
const RST: u8 = 4;
const SIGN: &[u8; 5] = b"UMBRA";

/// What a marked packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It asks a service.
    Request,
    /// It answers.
    Answer,
    /// A hostile gateway made it.
    Evil,
}

/// A packet that carries a mark.
pub fn marked(from: SocketAddr, to: SocketAddr, protocol: Protocol, role: Role, mark: u64) -> Vec<u8> {
    let kind = match role {
        Role::Request => 0,
        Role::Answer => 1,
        Role::Evil => 2,
    };
    let payload = [&SIGN[..], &[kind], &mark.to_le_bytes()].concat();
    match protocol {
        Protocol::Tcp => {
            let flags = if role == Role::Request { SYN } else { SYN_ACK };
            let ports = [from.port(), to.port()].map(u16::to_be_bytes).concat();
            let number = u32::try_from(mark & 0xffff_ffff).unwrap_or(0).to_be_bytes();
            let rest = [0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0];
            packet::whole(from.ip(), to.ip(), 6, [&ports[..], &number, &rest, &payload].concat(), 16)
        }
        Protocol::Udp | Protocol::Icmp => packet::udp(from, to, &payload),
    }
}

/// What a machine sees of a packet.
#[derive(Debug, Clone, Copy)]
pub struct Looked {
    /// Ends, protocol and mark.
    pub seen: Seen,
    /// Of a marked packet.
    pub role: Option<Role>,
}

/// Reads a packet as it came out somewhere; none: it is no packet of the simulation, nor a reset or an ICMP error.
pub fn look(bytes: &[u8]) -> Option<Looked> {
    let (head, protocol, from, to) = match bytes.first()? >> 4 {
        4 => {
            let four = |at: usize| bytes.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(IpAddr::from);
            (usize::from(bytes.first()? & 15) * 4, *bytes.get(9)?, four(12)?, four(16)?)
        }
        6 => {
            let sixteen =
                |at: usize| bytes.get(at..at + 16).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(IpAddr::from);
            (40, *bytes.get(6)?, sixteen(8)?, sixteen(24)?)
        }
        _ => return None,
    };
    let body = bytes.get(head..)?;
    let port = |at: usize| body.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_be_bytes);
    let (protocol, payload, bare) = match protocol {
        6 => (Protocol::Tcp, body.get(20..)?, *body.get(13)? & RST != 0),
        17 => (Protocol::Udp, body.get(8..)?, false),
        1 | 58 => {
            let seen = Seen { from: (from, 0).into(), to: (to, 0).into(), protocol: Protocol::Icmp, mark: None };
            return Some(Looked { seen, role: None });
        }
        _ => return None,
    };
    let (from, to) = (SocketAddr::new(from, port(0)?), SocketAddr::new(to, port(2)?));
    if bare {
        return Some(Looked { seen: Seen { from, to, protocol, mark: None }, role: None });
    }
    let rest = payload.strip_prefix(SIGN)?;
    let role = match rest.first()? {
        0 => Role::Request,
        1 => Role::Answer,
        _ => Role::Evil,
    };
    let mark = rest.get(1..9).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes)?;
    Some(Looked { seen: Seen { from, to, protocol, mark: Some(mark) }, role: Some(role) })
}
