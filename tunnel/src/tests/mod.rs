//! Engines that talk over a virtual network, with real cryptography.

mod change;
mod control;
mod fragments;
mod hostile;
mod pairing;
mod path;
mod simulation;
mod succession;
mod timing;
mod trains;
mod turns;

use crate::api::*;
use crate::engine::Engine;
use crate::peers::Bounds;
use crate::wire::{Boring, Doors};
use boringtun::x25519;
use model::key::{PrivateKey, PublicKey};
use model::packet::{Frame, Local, Train};
use model::pool::Pool;
use model::time::Instant;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub fn pool() -> Pool {
    Pool::new("10.77.0.0/16".parse().unwrap(), "fd12:3456:789a::/48".parse().unwrap()).unwrap()
}

pub fn key(n: u8) -> Arc<PrivateKey> {
    Arc::new(PrivateKey::new([n; 32]))
}

pub fn public(n: u8) -> PublicKey {
    PublicKey(x25519::PublicKey::from(&x25519::StaticSecret::from([n; 32])).to_bytes())
}

pub fn addr(n: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::from([192, 0, 2, n]), 443)
}

/// One program: its engine, its address, and what came out of it.
pub struct Host {
    pub engine: Engine,
    pub addr: SocketAddr,
    pub tun: Vec<Vec<u8>>,
    pub local: Vec<Vec<u8>>,
    pub events: Vec<Event>,
}

/// Hosts and the datagrams between them: delivered at once, in order, unless a test takes them out.
pub struct Net {
    pub now: Instant,
    pub hosts: Vec<Host>,
    pub wire: VecDeque<Train>,
    /// Every datagram that was ever sent: from whom, to whom, what.
    pub log: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
}

impl Net {
    pub fn new() -> Self {
        Self { now: Instant(10_000_000_000), hosts: Vec::new(), wire: VecDeque::new(), log: Vec::new() }
    }

    /// Adds a host with control key and address `n`.
    pub fn host(&mut self, role: Role, n: u8) -> usize {
        self.host_with(role, n, Arc::new(Boring::default()), Bounds::default())
    }

    pub fn host_with(&mut self, role: Role, n: u8, doors: Arc<dyn Doors>, bounds: Bounds) -> usize {
        let config = Config { role, pool: pool(), key: key(n), pairing_key: key(n), seed: [n; 32] };
        let engine = Engine::with(config, doors, bounds);
        self.hosts.push(Host { engine, addr: addr(n), tun: Vec::new(), local: Vec::new(), events: Vec::new() });
        self.hosts.len() - 1
    }

    fn take(&mut self, host: usize, mut out: Out) {
        let from = self.hosts[host].addr;
        for train in out.udp.drain(..) {
            // On the wire, a train carries its source in `local`.
            let local = Local { address: Some(from.ip()), interface: u32::from(from.port()) };
            for datagram in train.datagrams() {
                self.log.push((from, train.addr, datagram.to_vec()));
                self.wire.push_back(Train { ecn: train.ecn, ..Train::datagram(train.addr, local, datagram.to_vec()) });
            }
        }
        let host = &mut self.hosts[host];
        host.tun.extend(out.tun.drain(..).map(|f| f.bytes));
        host.local.extend(out.local.drain(..).map(|f| f.bytes));
        host.events.append(&mut out.events);
    }

    pub fn apply(&mut self, host: usize, change: Change) {
        let mut out = Out::default();
        self.hosts[host].engine.apply(self.now, change, &mut out);
        self.take(host, out);
    }

    pub fn tun(&mut self, host: usize, packet: &[u8]) {
        let mut out = Out::default();
        self.hosts[host].engine.from_tun(self.now, &mut Frame::packet(packet.to_vec()), &mut out);
        self.take(host, out);
    }

    /// A datagram reaches a host; answers whether anything at all came of it.
    pub fn deliver(&mut self, host: usize, from: SocketAddr, bytes: &[u8]) -> bool {
        let mut out = Out::default();
        let mut train = Train::datagram(from, Local::default(), bytes.to_vec());
        self.hosts[host].engine.from_udp(self.now, &mut train, &mut out);
        let any = !out.is_empty();
        self.take(host, out);
        any
    }

    pub fn tick(&mut self) {
        for host in 0..self.hosts.len() {
            let mut out = Out::default();
            self.hosts[host].engine.tick(self.now, &mut out);
            self.take(host, out);
        }
    }

    pub fn advance(&mut self, by: Duration) {
        self.now = self.now.plus(by);
        self.tick();
    }

    /// Delivers what is on the wire, and what comes of it, until nothing is.
    pub fn run(&mut self) {
        for _ in 0..10_000 {
            let Some(train) = self.wire.pop_front() else { return };
            let from = SocketAddr::new(train.local.address.unwrap(), train.local.interface as u16);
            if let Some(to) = self.hosts.iter().position(|h| h.addr == train.addr) {
                self.deliver(to, from, &train.bytes);
            }
        }
        panic!("the network does not come to rest");
    }

    pub fn counter(&self, host: usize, name: &str) -> u64 {
        let counters = self.hosts[host].engine.counters();
        counters.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("no counter {name}")).1
    }

    pub fn taken(&mut self, host: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.hosts[host].tun)
    }

    pub fn status(&self, host: usize, id: &PeerId) -> PeerStatus {
        self.hosts[host].engine.peer(id).unwrap()
    }
}

fn sum(bytes: &[u8], start: u32) -> u32 {
    bytes.chunks(2).fold(start, |s, c| s + (u32::from(c[0]) << 8 | c.get(1).map_or(0, |b| u32::from(*b))))
}
fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A TCP segment over IPv6 with a right checksum.
pub fn tcp6(source: Ipv6Addr, sport: u16, destination: Ipv6Addr, dport: u16, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(sport.to_be_bytes());
    tcp.extend(dport.to_be_bytes());
    tcp.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    tcp.extend(data);
    let mut pseudo = Vec::new();
    pseudo.extend(source.octets());
    pseudo.extend(destination.octets());
    pseudo.extend((tcp.len() as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, 6]);
    let check = fold(sum(&tcp, sum(&pseudo, 0)));
    tcp[16..18].copy_from_slice(&check.to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((tcp.len() as u16).to_be_bytes());
    packet.extend([6, 64]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(tcp);
    packet
}

pub const SYN: u8 = 2;
pub const ACK: u8 = 16;
