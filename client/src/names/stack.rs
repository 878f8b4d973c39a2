//! How do IP packets become queries, and answers packets? A small TCP/IP stack of our own that holds the resolver's two
//! addresses: no socket of the host listens, so nothing outside the TUN device can reach it.
//!
//! No clock and no task: packets, time and answers are put in, queries and packets are taken out.

use super::stream::Stream;
use super::wire::Transport;
use model::limits::{DATAGRAM_MAX, DNS_PACKETS_MAX, DNS_TCP_MAX, DNS_UDP_MAX, TUN_MTU};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// The port of DNS (RFC 1035, section 4.2).
pub const PORT: u16 = 53;

/// Who waits for an answer.
#[derive(Debug, Clone, Copy)]
pub enum Asker {
    /// The sender of a datagram.
    Udp(udp::UdpMetadata),
    /// A connection: its place, and which of the connections that had this place.
    Tcp {
        /// The place.
        place: usize,
        /// The connection's number.
        life: u64,
    },
}

impl Asker {
    /// How it asked.
    pub const fn transport(&self) -> Transport {
        match self {
            Self::Udp(_) => Transport::Udp,
            Self::Tcp { .. } => Transport::Tcp,
        }
    }
}

/// The packets on both sides of the stack.
#[derive(Default)]
pub(super) struct Packets {
    pub(super) inward: VecDeque<Vec<u8>>,
    pub(super) outward: VecDeque<Vec<u8>>,
}

pub(super) struct Received(Vec<u8>);
pub(super) struct Room<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}
impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}
impl Device for Packets {
    type RxToken<'a> = Received;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Room<'_>)> {
        if self.outward.len() >= DNS_PACKETS_MAX {
            return None;
        }
        Some((Received(self.inward.pop_front()?), Room(&mut self.outward)))
    }
    fn transmit(&mut self, _: Instant) -> Option<Room<'_>> {
        (self.outward.len() < DNS_PACKETS_MAX).then_some(Room(&mut self.outward))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = TUN_MTU;
        capabilities
    }
}

/// The resolver's end of the TUN device.
pub struct Stack {
    interface: Interface,
    packets: Packets,
    sockets: SocketSet<'static>,
    udp: SocketHandle,
    streams: Vec<Stream>,
}

fn instant(since_start: Duration) -> Instant {
    Instant::from_micros(i64::try_from(since_start.as_micros()).unwrap_or(i64::MAX))
}

fn udp_socket() -> udp::Socket<'static> {
    let buffer = || {
        let slots = vec![udp::PacketMetadata::EMPTY; DNS_PACKETS_MAX];
        udp::PacketBuffer::new(slots, vec![0; DNS_PACKETS_MAX * DNS_UDP_MAX])
    };
    let mut socket = udp::Socket::new(buffer(), buffer());
    // Port 53 is a port, and the socket is new: neither refusal can occur.
    let _ = socket.bind(PORT);
    socket
}

impl Stack {
    /// With the resolver's addresses. `seed` is random: TCP's sequence numbers come from it.
    pub fn new(v4: Ipv4Addr, v6: Ipv6Addr, seed: u64) -> Self {
        let mut packets = Packets::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut packets, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            for (ip, len) in [(IpAddr::V4(v4), 32), (IpAddr::V6(v6), 128)] {
                // There is room for two.
                let _ = addresses.push(IpCidr::new(ip.into(), len));
            }
        });
        let mut sockets = SocketSet::new(Vec::new());
        let udp = sockets.add(udp_socket());
        let streams = (0..DNS_TCP_MAX).map(|_| Stream::new(&mut sockets)).collect();
        Self { interface, packets, sockets, udp, streams }
    }

    /// Puts a packet in; false when it is none, a fragment, or there is no room.
    pub fn receive(&mut self, packet: Vec<u8>) -> bool {
        let fits = self.packets.inward.len() < DNS_PACKETS_MAX && packet.len() <= DATAGRAM_MAX;
        let whole = match packet.first().map(|byte| byte >> 4) {
            // More fragments, or an offset (RFC 791): the stack would take the piece for the whole.
            Some(4) => packet
                .get(6..8)
                .is_some_and(|word| word.first().is_some_and(|b| b & 0x3f == 0) && word.last() == Some(&0)),
            Some(6) => true,
            _ => false,
        };
        if fits && whole {
            self.packets.inward.push_back(packet);
        }
        fits && whole
    }

    /// Lets time pass and does what there is to do. `now` counts from the stack's start.
    pub fn poll(&mut self, now: Duration) {
        self.interface.poll(instant(now), &mut self.packets, &mut self.sockets);
        for stream in &mut self.streams {
            stream.advance(self.sockets.get_mut::<tcp::Socket<'_>>(stream.handle()), now);
        }
        // Each call sends one packet of each socket.
        for _ in 0..DNS_PACKETS_MAX {
            let sent = self.interface.poll_egress(instant(now), &mut self.packets, &mut self.sockets);
            if sent == PollResult::None {
                break;
            }
        }
    }

    /// When to poll again, if no packet and no answer comes before.
    pub fn wait(&mut self, now: Duration) -> Option<Duration> {
        let stack = self.interface.poll_delay(instant(now), &self.sockets);
        let stack = stack.map(|delay| Duration::from_micros(delay.total_micros()));
        self.streams.iter().filter_map(|stream| stream.wait(now)).chain(stack).min()
    }

    /// Takes a query out.
    pub fn query(&mut self) -> Option<(Asker, Vec<u8>)> {
        if let Ok((bytes, from)) = self.sockets.get_mut::<udp::Socket<'_>>(self.udp).recv() {
            return Some((Asker::Udp(from), bytes.to_vec()));
        }
        self.streams.iter_mut().enumerate().find_map(|(place, stream)| {
            let (life, query) = stream.query()?;
            Some((Asker::Tcp { place, life }, query))
        })
    }

    /// Puts an answer in; `None` ends the waiting without one. Whoever went meanwhile gets nothing.
    pub fn answer(&mut self, asker: Asker, message: Option<&[u8]>, now: Duration) {
        match asker {
            Asker::Udp(to) => {
                let Some(message) = message else { return };
                let back = udp::UdpMetadata { meta: smoltcp::phy::PacketMeta::default(), ..to };
                // No room, or an address that cannot be answered: the asker asks again.
                let _ = self.sockets.get_mut::<udp::Socket<'_>>(self.udp).send_slice(message, back);
            }
            Asker::Tcp { place, life } => {
                if let Some(stream) = self.streams.get_mut(place) {
                    stream.answer(life, message, now);
                }
            }
        }
    }

    /// Takes a packet out.
    pub fn transmit(&mut self) -> Option<Vec<u8>> {
        self.packets.outward.pop_front()
    }
}
