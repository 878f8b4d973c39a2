//! The resolver as the laptop sees it: IP packets in, IP packets out.

mod asking;
mod bounds;
mod forwarding;
mod streams;

use super::stack::{PORT, Packets};
use super::*;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::RecordType;
use model::grant::{CatalogueAddress, CatalogueEntry};
use model::pool::Pool;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::tcp;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint, IpProtocol, IpRepr, UdpPacket, UdpRepr};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::AtomicUsize;
use tokio::time::timeout;

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(20);
const LAPTOP_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 9);
const LAPTOP_V6: Ipv6Addr = Ipv6Addr::new(0xfd12, 0x3456, 0x789a, 1, 0, 0, 0, 9);

fn pool() -> Pool {
    Pool::new("10.77.0.0/16".parse().unwrap(), "fd12:3456:789a::/48".parse().unwrap()).unwrap()
}

fn v4() -> IpAddr {
    IpAddr::V4(pool().resolver_v4())
}

fn v6() -> IpAddr {
    IpAddr::V6(pool().resolver_v6())
}

fn address(name: &str, v4: &str) -> CatalogueAddress {
    CatalogueAddress { name: Some(name.parse().unwrap()), v4: Some(v4.parse().unwrap()), v6: None }
}

/// `many.corp.example` has more addresses than a datagram holds.
fn zone() -> Zone {
    let mut addresses = vec![address("db.corp.example", "10.77.64.1")];
    addresses.extend((0..200).map(|n| address("many.corp.example", &format!("10.77.66.{n}"))));
    let entry = CatalogueEntry {
        id: ResourceId::from_bytes([1; 10]),
        name: "db".to_owned(),
        addresses,
        suffixes: vec!["svc.example".parse().unwrap()],
        ports: Vec::new(),
    };
    Zone::new(pool(), &["private.example".parse().unwrap()], &[entry])
}

/// Stands for the controller: gives `*.svc.example` addresses, except to `refused`, `foreign` and `slow`.
#[derive(Default)]
struct Controller {
    asked: AtomicUsize,
}

impl Assign for Arc<Controller> {
    async fn assign(&self, name: HostName) -> Option<CatalogueAddress> {
        let number = self.asked.fetch_add(1, Ordering::SeqCst);
        // Both of a pair of queries are there before the first is answered.
        tokio::task::yield_now().await;
        match name.as_str().split('.').next().unwrap_or_default() {
            "refused" => None,
            "foreign" => Some(address(name.as_str(), "192.0.2.1")),
            "other" => Some(address("else.svc.example", "10.77.70.1")),
            first if first.starts_with("slow") => std::future::pending().await,
            _ => Some(address(name.as_str(), &format!("10.77.{}.{}", 70 + number / 256, number % 256))),
        }
    }
}

struct Laptop {
    names: Arc<Names<Arc<Controller>>>,
    controller: Arc<Controller>,
    frames: mpsc::Sender<Frame>,
    packets: mpsc::UnboundedReceiver<Frame>,
    port: u16,
}

impl Laptop {
    fn new() -> Self {
        let controller = Arc::new(Controller::default());
        let names = Arc::new(Names::new(zone(), Arc::clone(&controller)));
        let (frames, frames_in) = mpsc::channel(1_024);
        let (out, packets) = mpsc::unbounded_channel();
        let running = Arc::clone(&names);
        tokio::spawn(async move { running.run(frames_in, move |frame| drop(out.send(frame))).await });
        Self { names, controller, frames, packets, port: 40_000 }
    }

    async fn send(&self, packet: Vec<u8>) {
        self.frames.send(Frame::packet(packet)).await.expect("the resolver runs");
    }

    async fn receive(&mut self) -> Vec<u8> {
        let frame = timeout(PATIENCE, self.packets.recv()).await.expect("a packet in time");
        frame.expect("the resolver runs").bytes
    }

    /// Sends a query from a port of its own, and answers the port.
    async fn send_query(&mut self, to: IpAddr, query: &[u8]) -> u16 {
        self.port += 1;
        self.send(udp_packet(self.port, to, query)).await;
        self.port
    }

    async fn ask_raw(&mut self, to: IpAddr, query: &[u8]) -> Vec<u8> {
        let port = self.send_query(to, query).await;
        let (from, to_port, answer) = udp_payload(&self.receive().await);
        assert_eq!((from, to_port), (to, port), "the answer comes from where the query went");
        answer
    }

    async fn ask(&mut self, name: &str, kind: RecordType) -> Message {
        Message::from_vec(&self.ask_raw(v4(), &query(name, kind)).await).expect("an answer that can be read")
    }
}

fn name(text: &str) -> Name {
    Name::from_labels(text.split('.').map(str::as_bytes)).unwrap()
}

fn question_message(text: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), kind));
    message
}

fn query(text: &str, kind: RecordType) -> Vec<u8> {
    question_message(text, kind).to_vec().unwrap()
}

fn told(answer: &Message) -> Vec<String> {
    answer.answers.iter().map(|record| record.data.to_string()).collect()
}

fn laptop_address(peer: IpAddr) -> IpAddr {
    if peer.is_ipv4() { LAPTOP_V4.into() } else { LAPTOP_V6.into() }
}

fn udp_packet(port: u16, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let (from, to) = (IpAddress::from(laptop_address(to)), IpAddress::from(to));
    let udp = UdpRepr { src_port: port, dst_port: PORT };
    let ip = IpRepr::new(from, to, IpProtocol::Udp, udp.header_len() + payload.len(), 64);
    let mut bytes = vec![0; ip.buffer_len()];
    let checksums = ChecksumCapabilities::default();
    ip.emit(&mut bytes, &checksums);
    let mut packet = UdpPacket::new_unchecked(&mut bytes[ip.header_len()..]);
    udp.emit(&mut packet, &from, &to, payload.len(), |room| room.copy_from_slice(payload), &checksums);
    bytes
}

/// Sender, destination port and payload of a UDP packet to the laptop, checksums checked.
fn udp_payload(bytes: &[u8]) -> (IpAddr, u16, Vec<u8>) {
    let (from, to, protocol, payload) = ip_payload(bytes);
    assert_eq!((to, protocol), (laptop_address(from), 17));
    let packet = UdpPacket::new_checked(payload).expect("UDP");
    let udp = UdpRepr::parse(&packet, &from.into(), &to.into(), &ChecksumCapabilities::default()).expect("checksum");
    assert_eq!(udp.src_port, PORT);
    (from, udp.dst_port, packet.payload().to_vec())
}

fn ip_payload(bytes: &[u8]) -> (IpAddr, IpAddr, u8, &[u8]) {
    if bytes[0] >> 4 == 4 {
        let octets = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap());
        (octets(12), octets(16), bytes[9], &bytes[20..])
    } else {
        let octets = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap());
        (octets(8), octets(24), bytes[6], &bytes[40..])
    }
}

/// The laptop's TCP: another stack, at the other end.
struct Tcp {
    interface: Interface,
    packets: Packets,
    sockets: SocketSet<'static>,
    port: u16,
}

impl Tcp {
    fn new() -> Self {
        let mut packets = Packets::default();
        let mut interface =
            Interface::new(Config::new(HardwareAddress::Ip), &mut packets, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(LAPTOP_V4.into(), 16)).unwrap();
            addresses.push(IpCidr::new(LAPTOP_V6.into(), 48)).unwrap();
        });
        Self { interface, packets, sockets: SocketSet::new(Vec::new()), port: 50_000 }
    }

    fn connect(&mut self, to: IpAddr) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 70_000]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        self.port += 1;
        let local = IpEndpoint::new(laptop_address(to).into(), self.port);
        socket.connect(self.interface.context(), IpEndpoint::new(to.into(), PORT), local).unwrap();
        self.sockets.add(socket)
    }

    fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    fn poll(&mut self, now: Duration) {
        let now = smoltcp::time::Instant::from_micros(now.as_micros() as i64);
        self.interface.poll(now, &mut self.packets, &mut self.sockets);
    }

    /// Sends messages, each with its length.
    fn write(&mut self, handle: SocketHandle, messages: &[&[u8]]) {
        for message in messages {
            let len = u16::try_from(message.len()).unwrap().to_be_bytes();
            let whole = [&len, *message].concat();
            assert_eq!(self.socket(handle).send_slice(&whole).unwrap(), whole.len());
        }
    }

    /// The messages that have come whole.
    fn read(&mut self, handle: SocketHandle) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        let socket = self.socket(handle);
        while socket.can_recv() {
            let message = socket.recv(|bytes| {
                let len =
                    bytes.get(..2).map_or(usize::MAX, |len| 2 + usize::from(u16::from_be_bytes([len[0], len[1]])));
                bytes.get(2..len).map_or((0, None), |message| (len, Some(message.to_vec())))
            });
            match message.unwrap() {
                Some(message) => messages.push(message),
                None => break,
            }
        }
        messages
    }

    /// Lets packets pass to the resolver and back until `done`.
    async fn run_until(&mut self, laptop: &mut Laptop, mut done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        loop {
            self.poll(start.elapsed());
            for packet in self.packets.outward.drain(..) {
                laptop.send(packet).await;
            }
            if done(self) {
                return;
            }
            let packet = laptop.receive().await;
            self.packets.inward.push_back(packet);
        }
    }
}
