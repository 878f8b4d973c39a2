//! Does a TUN device carry what it says, in both directions, at every step down?

use super::*;
use crate::test_support::{Host, allocations, enter_fresh_namespace, ip, privileged, soon};
use crate::udp::Udp;
use model::limits::TUN_QUEUE;
use model::packet::{Local, Train};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

#[test]
fn bad_names_are_refused_before_the_driver_cuts_them() {
    for name in ["", "a-name-of-16-xxx", "a b", "a/b", "..", "tun%d", "all"] {
        assert!(matches!(Tun::open(name, 1420), Err(TunError::Name(_))), "{name}");
    }
    assert!(device::label("a-name-of-15-xx").is_ok());
}

#[test]
fn packets_cross_in_both_directions_from_several_threads() {
    if !privileged() {
        return;
    }
    for steps in [Steps::ALL, Steps::ONE_BY_ONE] {
        std::thread::spawn(move || cross_from_several_threads(steps)).join().expect("test thread");
    }
}

fn cross_from_several_threads(steps: Steps) {
    enter_fresh_namespace();
    let tun = Arc::new(Tun::open_with("umbra-test0", 1380, steps).expect("open"));
    assert_eq!(tun.name(), "umbra-test0");
    assert!(tun.index() > 0);
    ip("addr add 192.0.2.1/24 dev umbra-test0");
    ip("link set umbra-test0 up");

    // Two readers; each datagram reaches exactly one of them.
    let (found, all) = std::sync::mpsc::channel();
    let readers = [(); 2].map(|()| {
        let (tun, found) = (Arc::clone(&tun), found.clone());
        std::thread::spawn(move || {
            let mut frame = Frame::default();
            while tun.read(&mut frame).is_ok() {
                // IPv4 and UDP; the kernel's own IPv6 multicasts pass by.
                if frame.bytes.first() == Some(&0x45) && frame.bytes.get(9) == Some(&17) {
                    let _ = found.send(frame.clone());
                }
            }
        })
    });
    let next = || all.recv_timeout(LONG).expect("a packet");
    let socket = std::net::UdpSocket::bind("192.0.2.1:7000").expect("bind");
    socket.set_read_timeout(Some(LONG)).expect("timeout");
    for number in 0..20u8 {
        socket.send_to(&[number; 5], "192.0.2.9:7001").expect("send");
    }
    let mut numbers: Vec<u8> = (0..20).map(|_| *next().bytes.last().expect("byte")).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());

    // And back: the same packet with its ends swapped reaches the socket.
    socket.send_to(b"hello", "192.0.2.9:7001").expect("send");
    let mut frame = next();
    let source: Vec<u8> = frame.bytes.drain(12..16).collect();
    frame.bytes.splice(16..16, source);
    let port: Vec<u8> = frame.bytes.drain(20..22).collect();
    frame.bytes.splice(22..22, port);
    tun.write(&frame).expect("write");
    let mut bytes = [0; 16];
    let (len, from) = socket.recv_from(&mut bytes).expect("receive");
    assert_eq!((&bytes[..len], from.to_string().as_str()), (&b"hello"[..], "192.0.2.9:7001"));

    // Both wait for a packet; that the device goes ends them.
    ip("link del umbra-test0");
    for reader in readers {
        soon("a reader ended", || reader.is_finished());
        reader.join().expect("reader");
    }
}

#[test]
fn a_taken_name_and_a_bad_mtu_are_told() {
    if !privileged() {
        return;
    }
    std::thread::spawn(|| {
        enter_fresh_namespace();
        let _first = Tun::open("umbra-test1", 1420).expect("open");
        let second = Tun::open("umbra-test1", 1420).err().expect("taken");
        assert!(matches!(second, TunError::NameTaken(_)), "{second}");
        assert!(matches!(Tun::open("lo", 1420), Err(TunError::NameTaken(_))));
        assert!(matches!(Tun::open("umbra-test2", 20), Err(TunError::Mtu { .. })));
    })
    .join()
    .expect("test thread");
}

const MTU: u16 = 1_420;
const LONG: Duration = Duration::from_secs(20);

/// Notes of the frames that crossed, with their sizes.
type Seen = Arc<Mutex<Vec<(Gso, usize)>>>;

/// Two machines; what one's kernel routes into its device comes out of the other's.
struct Pair {
    left: Host,
    right: Host,
    tuns: [Arc<Tun>; 2],
    seen: Seen,
    pumps: Vec<JoinHandle<()>>,
}

const LEFT: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

impl Pair {
    fn new(steps: Steps) -> Self {
        let (left, right) = (Host::new(), Host::new());
        let open = |host: &Host, addresses: [&'static str; 2]| {
            host.run(move || {
                let tun = Arc::new(Tun::open_with("umbra-pair", MTU, steps).expect("open"));
                ip(&format!("addr add {}/24 dev umbra-pair", addresses[0]));
                ip(&format!("addr add {}/64 dev umbra-pair nodad", addresses[1]));
                ip("link set umbra-pair up");
                tun
            })
        };
        let tuns = [open(&left, LEFT), open(&right, ["192.0.2.2", "2001:db8::2"])];
        let seen = Seen::default();
        let pumps = [(&tuns[0], &tuns[1]), (&tuns[1], &tuns[0])].map(|(from, to)| {
            let (from, to, seen) = (Arc::clone(from), Arc::clone(to), Arc::clone(&seen));
            std::thread::spawn(move || {
                let mut frame = Frame::default();
                while from.read(&mut frame).is_ok() {
                    seen.lock().expect("seen").push((frame.gso, frame.bytes.len()));
                    // A machine may say something before the other is up.
                    let _ = to.write(&frame);
                }
            })
        });
        Self { left, right, tuns, seen, pumps: pumps.into() }
    }

    /// Whether super-packets of a kind crossed, and packets with unfinished checksums.
    fn crossed(&self, kinds: &[GsoKind]) -> (bool, bool) {
        let seen = self.seen.lock().expect("seen");
        let large = seen.iter().any(|(gso, len)| kinds.contains(&gso.kind) && *len > usize::from(MTU));
        (large, seen.iter().any(|(gso, _)| gso.checksum.is_some()))
    }

    /// The kernel deletes the devices; that ends whoever waits for them.
    fn end(self) {
        for host in [&self.left, &self.right] {
            host.run(|| ip("link del umbra-pair"));
        }
        for pump in self.pumps {
            soon("a reader ended", || pump.is_finished());
            pump.join().expect("pump");
        }
    }
}

/// Every step down, and what a device has there.
const STEPS: [(&str, Offloads); 5] = [
    ("", Offloads { vnet: true, tso: true, uso: true }),
    ("no-uso", Offloads { vnet: true, tso: true, uso: false }),
    ("no-tso", Offloads { vnet: true, tso: false, uso: true }),
    ("no-uso,no-tso", Offloads { vnet: true, tso: false, uso: false }),
    ("no-vnet", Offloads { vnet: false, tso: false, uso: false }),
];

#[test]
fn tcp_and_udp_cross_whole_at_every_step_down() {
    if !privileged() {
        return;
    }
    for (words, offloads) in STEPS {
        let pair = Pair::new(words.parse().expect("words"));
        if pair.tuns[0].offloads() != offloads {
            println!("skipped: this kernel has only {:?}", pair.tuns[0].offloads());
            continue;
        }
        for address in LEFT {
            stream(&pair, address);
        }
        let (large, unfinished) = pair.crossed(&[GsoKind::TcpV4, GsoKind::TcpV6]);
        assert_eq!((large, unfinished), (offloads.tso, offloads.vnet), "{words}");
        for address in LEFT {
            datagrams(&pair, address);
        }
        assert_eq!(pair.crossed(&[GsoKind::Udp]), (offloads.uso, offloads.vnet), "{words}");
        pair.end();
    }
}

/// Sends some megabytes from right to left.
fn stream(pair: &Pair, address: &str) {
    let address = address.parse::<std::net::IpAddr>().expect("address");
    let listener = pair.left.run(move || TcpListener::bind((address, 0)).expect("bind"));
    let address = listener.local_addr().expect("address");
    let mut sender = pair.right.run(move || TcpStream::connect_timeout(&address, LONG).expect("connect"));
    let (mut receiver, _) = listener.accept().expect("accept");
    let bytes: Vec<u8> = (0..4_000_000_u32).map(|at| u8::try_from(at % 251).expect("small")).collect();
    let copy = bytes.clone();
    sender.set_write_timeout(Some(LONG)).expect("timeout");
    receiver.set_read_timeout(Some(LONG)).expect("timeout");
    let sending = std::thread::spawn(move || sender.write_all(&copy).expect("all is sent"));
    let mut got = Vec::new();
    receiver.read_to_end(&mut got).expect("all comes");
    sending.join().expect("sender");
    assert!(got == bytes, "the stream came through changed");
}

/// Sends a train from right to left.
fn datagrams(pair: &Pair, address: &str) {
    // Ports of the kernel's choice: one that was just closed may live on in a program that another test is starting.
    let [receiver, sender] =
        [&pair.left, &pair.right].map(|host| host.run(|| Udp::bind_with(0, Steps::ALL).expect("bind")));
    let address: SocketAddr = (address.parse::<std::net::IpAddr>().expect("address"), receiver.local_port()).into();
    let mut train = Train::datagram(address, Local::default(), Vec::new());
    train.stride = 1_000;
    train.bytes = (0..30_300_u32).map(|at| u8::try_from(at % 251).expect("small")).collect();
    assert_eq!(sender.send(std::slice::from_ref(&train)).dropped, 0);
    receiver.set_recv_timeout(Some(LONG)).expect("timeout");
    let mut got = train.clone();
    let mut all = Vec::new();
    while all.len() < train.bytes.len() {
        receiver.recv(&mut got).expect("all datagrams come");
        assert!(got.stride == 1_000 || got.bytes.len() <= 1_000, "{} in {}", got.bytes.len(), got.stride);
        all.extend_from_slice(&got.bytes);
    }
    assert!(all == train.bytes, "the datagrams came through changed");
}

/// An IPv4 packet of TCP with this many bytes of payload, towards `umbra-lie`, its TCP checksum left open.
fn segment(payload: usize) -> Frame {
    let len = u16::try_from(40 + payload).expect("short");
    let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 9, 192, 0, 2, 1];
    bytes[2..4].copy_from_slice(&len.to_be_bytes());
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).expect("folds once");
    bytes[10..12].copy_from_slice(&(!folded).to_be_bytes());
    bytes.extend([0x1b, 0x59, 0x1b, 0x58, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.resize(40 + payload, 0x55);
    let gso = Gso { kind: GsoKind::TcpV4, header_len: 40, size: 1_000, checksum: Some((20, 16)) };
    Frame { gso, bytes }
}

/// Makes an honest frame another.
type Lie = fn(&mut Frame);

#[test]
fn a_note_that_lies_is_an_error_and_does_no_harm() {
    if !privileged() {
        return;
    }
    let host = Host::new();
    host.run(|| {
        let tun = Tun::open_with("umbra-lie", MTU, Steps::ALL).expect("open");
        if tun.offloads() != (Offloads { vnet: true, tso: true, uso: true }) {
            println!("skipped: this kernel has only {:?}", tun.offloads());
            return;
        }
        ip("addr add 192.0.2.1/24 dev umbra-lie");
        ip("link set umbra-lie up");
        let good = segment(3_000);
        tun.write(&good).expect("an honest one is taken");
        let refused: [(&str, Lie); 6] = [
            ("no size", |frame| frame.gso.size = 0),
            ("headers longer than the packet", |frame| frame.gso.header_len = u16::MAX),
            ("a checksum outside", |frame| frame.gso.checksum = Some((u16::MAX, 16))),
            ("a checksum's place outside", |frame| frame.gso.checksum = Some((20, u16::MAX))),
            ("segments of another family", |frame| frame.gso.kind = GsoKind::TcpV6),
            ("no packet", |frame| frame.bytes.clear()),
        ];
        for (what, lie) in refused {
            let mut frame = good.clone();
            lie(&mut frame);
            let error = tun.write(&frame).expect_err(what);
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{what}: {error}");
        }
        // Whatever the kernel says to these, it goes on.
        let sizes = [1, 2, 20, 39, 40, 41, 2_999, 3_000, 3_040, u16::MAX];
        let kinds = [GsoKind::None, GsoKind::TcpV4, GsoKind::TcpV6, GsoKind::Udp];
        let sums = [None, Some((0, 0)), Some((20, 16)), Some((19, 6)), Some((3_038, 0)), Some((3_039, 0))];
        for (size, header_len) in sizes.into_iter().flat_map(|size| sizes.map(|header_len| (size, header_len))) {
            for (kind, checksum) in kinds.into_iter().flat_map(|kind| sums.map(|sum| (kind, sum))) {
                let _ = tun.write(&Frame { gso: Gso { kind, header_len, size, checksum }, bytes: good.bytes.clone() });
            }
        }
        tun.write(&good).expect("an honest one is taken");
    });
}

#[test]
fn a_device_refuses_what_it_does_not_have() {
    if !privileged() {
        return;
    }
    for (words, offloads) in STEPS {
        // One machine each: a program that another test starts may hold the last device until it runs.
        let host = Host::new();
        host.run(move || {
            let tun = Tun::open_with("umbra-less", MTU, words.parse().expect("words")).expect("open");
            if tun.offloads() != offloads {
                println!("skipped: this kernel has only {:?}", tun.offloads());
                return;
            }
            ip("link set umbra-less up");
            let mut frame = segment(3_000);
            for (kind, open, takes) in [
                (GsoKind::TcpV4, true, offloads.tso),
                (GsoKind::TcpV6, true, offloads.tso),
                (GsoKind::Udp, true, offloads.uso),
                (GsoKind::None, true, offloads.vnet),
                (GsoKind::None, false, true),
            ] {
                frame.gso.kind = kind;
                frame.gso.checksum = open.then_some((20, 16));
                let refused = tun.write(&frame).is_err_and(|error| error.kind() == io::ErrorKind::Unsupported);
                assert_eq!(refused, !takes, "{words}: {kind:?} {open}");
            }
        });
    }
}

#[test]
fn what_is_there_is_read_without_waiting_and_without_memory() {
    if !privileged() {
        return;
    }
    let host = Host::new();
    host.run(|| {
        let _ = crate::sysctl::set(&["net", "ipv6", "conf", "default", "disable_ipv6"], "1");
        for (name, steps) in [("umbra-batch", Steps::ALL), ("umbra-batch1", Steps::ONE_BY_ONE)] {
            let tun = Tun::open_with(name, MTU, steps).expect("open");
            ip(&format!("addr add 192.0.2.1/24 dev {name}"));
            ip(&format!("link set {name} up"));
            let mut frame = Frame::default();
            assert!(!tun.try_read(&mut frame).expect("nothing"));
            let socket = std::net::UdpSocket::bind("192.0.2.1:7000").expect("bind");
            let mut packet = [0; 33];
            let before = allocations();
            for number in 0..50_u8 {
                socket.send_to(&[number; 5], SocketAddr::from(([192, 0, 2, 9], 7_001))).expect("send");
            }
            for number in 0..50 {
                soon("a packet is there", || tun.try_read(&mut frame).expect("no error"));
                assert_eq!((frame.bytes[0], frame.bytes.len(), frame.bytes[32]), (0x45, 33, number));
                packet.copy_from_slice(&frame.bytes);
            }
            assert!(!tun.try_read(&mut frame).expect("nothing"));
            frame.bytes.extend(packet);
            tun.write(&frame).expect("write");
            assert_eq!(allocations(), before);
            ip(&format!("link del {name}"));
        }
    });
}

/// What the kernel sends from one flow, marked with a number each, without waiting.
struct Sender(std::net::UdpSocket);

impl Sender {
    fn new(port: u16) -> Self {
        Self(std::net::UdpSocket::bind(("192.0.2.1", port)).expect("bind"))
    }

    fn send(&self, number: u8) {
        self.0.send_to(&[number; 5], SocketAddr::from(([192, 0, 2, 9], 7_001))).expect("send");
    }
}

/// The flow (by its port) and number of the next packet that waits.
fn next(tun: &Tun, frame: &mut Frame) -> Option<(u16, u8)> {
    tun.try_read(frame)
        .expect("no error")
        .then(|| (u16::from_be_bytes([frame.bytes[20], frame.bytes[21]]), frame.bytes[32]))
}

#[test]
fn a_question_does_not_wait_behind_a_whole_download() {
    if !privileged() {
        return;
    }
    let host = Host::new();
    host.run(|| {
        let _ = crate::sysctl::set(&["net", "ipv6", "conf", "default", "disable_ipv6"], "1");
        for (name, words) in [("umbra-turns", ""), ("umbra-turns1", "one-queue")] {
            let tun = Tun::open_with(name, MTU, words.parse().expect("words")).expect("open");
            ip(&format!("addr add 192.0.2.1/24 dev {name}"));
            ip(&format!("link set {name} up"));
            let mut frame = Frame::default();
            let download = Sender::new(6_000);
            let questions: Vec<Sender> = (6_001..6_009).map(Sender::new).collect();
            (0..200).for_each(|number| download.send(number));
            questions.iter().for_each(|question| question.send(0));
            let read: Vec<_> = std::iter::from_fn(|| next(&tun, &mut frame)).collect();
            assert_eq!(read.len(), 208);
            let of_download: Vec<u8> =
                read.iter().filter(|(port, _)| *port == 6_000).map(|(_, number)| *number).collect();
            assert_eq!(of_download, (0..200).collect::<Vec<_>>(), "a flow keeps its order");
            // One of eight may be in the download's queue; that most are is as good as impossible.
            let early = read.iter().take(100).filter(|(port, _)| *port != 6_000).count();
            if words.is_empty() && tun.queues() > 1 {
                assert!(early >= 4, "{early} of 8 questions were read before half of the download");
            } else {
                assert_eq!(early, 0);
            }
            ip(&format!("link del {name}"));
        }
    });
}

#[test]
fn answers_move_no_flow_out_of_its_order() {
    if !privileged() {
        return;
    }
    let host = Host::new();
    host.run(|| {
        let _ = crate::sysctl::set(&["net", "ipv6", "conf", "default", "disable_ipv6"], "1");
        let tun = Tun::open_with("umbra-order", MTU, Steps::ALL).expect("open");
        ip("addr add 192.0.2.1/24 dev umbra-order");
        ip("link set umbra-order up");
        let mut frame = Frame::default();
        for port in 6_000..6_020 {
            let flow = Sender::new(port);
            flow.send(0);
            soon("the first packet", || next(&tun, &mut frame) == Some((port, 0)));
            // From the first answer on, the kernel keeps the flow where the answers are written.
            let mut answer = frame.clone();
            answer.gso = Gso::NONE;
            answer.bytes.copy_within(12..16, 16);
            answer.bytes[12..16].copy_from_slice(&[192, 0, 2, 9]);
            answer.bytes[20..22].copy_from_slice(&7_001_u16.to_be_bytes());
            answer.bytes[22..24].copy_from_slice(&port.to_be_bytes());
            tun.write(&answer).expect("write");
            for number in 1..=100 {
                flow.send(number);
                tun.write(&answer).expect("write");
            }
            let read: Vec<_> = std::iter::from_fn(|| next(&tun, &mut frame)).map(|(_, number)| number).collect();
            assert_eq!(read, (1..=100).collect::<Vec<_>>());
        }
    });
}

#[test]
fn many_packets_may_wait_in_a_device() {
    if !privileged() {
        return;
    }
    let host = Host::new();
    host.run(|| {
        for (name, steps) in [("umbra-queue", Steps::ALL), ("umbra-queue1", Steps::ONE_BY_ONE)] {
            let _tun = Tun::open_with(name, MTU, steps).expect("open");
            let shown = std::process::Command::new("ip").args(["link", "show", name]).output().expect("ip runs");
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            assert!(shown.contains(&format!("qlen {TUN_QUEUE}")) && shown.contains("mtu 1420"), "{shown}");
        }
    });
}

#[test]
fn a_kernel_that_lacks_a_step_gets_the_next_one() {
    let (sum, tso, uso) = (libc::TUN_F_CSUM, libc::TUN_F_TSO4 | libc::TUN_F_TSO6, libc::TUN_F_USO4 | libc::TUN_F_USO6);
    let reached = |words: &str, known: u32| {
        let mut tried = 0;
        let steps = words.parse().expect("words");
        let reached = device::step_down(steps, |bits| {
            tried += 1;
            bits & !known == 0
        });
        (reached.map(|offloads| (offloads.vnet, offloads.tso, offloads.uso)), tried)
    };
    assert_eq!(reached("", sum | tso | uso), (Some((true, true, true)), 1));
    assert_eq!(reached("", sum | tso), (Some((true, true, false)), 2));
    assert_eq!(reached("", sum), (Some((true, false, false)), 3));
    assert_eq!(reached("", 0), (None, 3));
    assert_eq!(reached("no-tso", sum | tso), (Some((true, false, false)), 2));
    assert_eq!(reached("no-uso", sum | tso | uso), (Some((true, true, false)), 1));
}
