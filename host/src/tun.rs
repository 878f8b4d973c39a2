//! How do packets get between the kernel and us? A TUN device, one packet a call, without packet information.
#![allow(unsafe_code)]

use crate::checks::{self, CheckError};
use model::limits::DATAGRAM_MAX;
use model::packet::{Frame, Gso};
use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;

/// Bytes of an interface name, without the final zero (IFNAMSIZ - 1).
pub const NAME_BYTES_MAX: usize = libc::IFNAMSIZ - 1;

/// Why there is no TUN device.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The name cannot be an interface's; the driver would cut a longer one short.
    #[error("'{0}' cannot be an interface name: take 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' or '.'")]
    Name(String),
    /// No driver, or no permission to open it.
    #[error(transparent)]
    Machine(#[from] CheckError),
    /// Another program, or another kind of device, has this name.
    #[error(
        "the interface '{0}' is taken: another program holds it (`ip -d link show {0}`); stop that program or \
         choose another name"
    )]
    NameTaken(String),
    /// The kernel refused this MTU.
    #[error("the interface '{name}' does not accept an MTU of {mtu} bytes: {source}; take 1280 to 65535")]
    Mtu {
        /// The interface.
        name: String,
        /// What was asked for, bytes.
        mtu: u16,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot open the TUN device '{name}': {source}")]
    Open {
        /// The interface.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A TUN device. It vanishes, with its addresses and routes, when this is dropped or the process ends.
///
/// Shared by reference: any number of threads may read and write, the kernel hands each packet to one of them.
pub struct Tun {
    device: tun_tap::Iface,
    index: u32,
}

impl Tun {
    /// Makes the device with this MTU (bytes). It has no address and is down: see [`crate::netlink`].
    pub fn open(name: &str, mtu: u16) -> Result<Self, TunError> {
        let label = label(name)?;
        checks::tun_device()?;
        let device = tun_tap::Iface::without_packet_info(name, tun_tap::Mode::Tun).map_err(|source| {
            match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => TunError::Machine(CheckError::NoNetAdmin),
                // EINVAL: the name belongs to a device that is no TUN.
                Some(libc::EBUSY | libc::EINVAL | libc::EEXIST) => TunError::NameTaken(name.to_owned()),
                _ => TunError::Open { name: name.to_owned(), source },
            }
        })?;
        // SAFETY: `label` is a zero-terminated string that outlives the call.
        let index = unsafe { libc::if_nametoindex(label.as_ptr()) };
        if index == 0 {
            return Err(TunError::Open { name: name.to_owned(), source: io::Error::last_os_error() });
        }
        set_mtu(&label, mtu).map_err(|source| TunError::Mtu { name: name.to_owned(), mtu, source })?;
        Ok(Self { device, index })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        self.device.name()
    }

    /// The interface's index.
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Waits for one packet that the kernel routed into the device. The frame's buffer is reused.
    pub fn read(&self, frame: &mut Frame) -> io::Result<()> {
        frame.gso = Gso::NONE;
        frame.bytes.clear();
        frame.bytes.reserve(DATAGRAM_MAX);
        let room = frame.bytes.spare_capacity_mut();
        loop {
            // SAFETY: `room` is writable memory of that many bytes, borrowed for the call.
            let read = unsafe { libc::read(self.device.as_raw_fd(), room.as_mut_ptr().cast(), room.len()) };
            match usize::try_from(read) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    // SAFETY: the kernel wrote `len` bytes, and `len` is at most the room that was reserved.
                    unsafe { frame.bytes.set_len(len) };
                    return Ok(());
                }
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Hands one packet to the kernel, as if it had come in on this device. EIO while the device is down, EINVAL for
    /// what is no IP packet.
    pub fn write(&self, frame: &Frame) -> io::Result<()> {
        if frame.gso != Gso::NONE {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this TUN device takes one plain packet a call"));
        }
        loop {
            match self.device.send(&frame.bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(len) if len == frame.bytes.len() => return Ok(()),
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
            }
        }
    }
}

/// The name for system calls, or a refusal.
fn label(name: &str) -> Result<CString, TunError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let good = !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(plain);
    if !good || matches!(name, "." | ".." | "all" | "default") {
        return Err(TunError::Name(name.to_owned()));
    }
    CString::new(name).map_err(|_| TunError::Name(name.to_owned()))
}

/// SIOCSIFMTU (netdevice(7)).
fn set_mtu(label: &CString, mtu: u16) -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    // SAFETY: an ifreq of zeros is valid: integers, and a union of such.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(label.as_bytes()) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_mtu = i32::from(mtu);
    // SAFETY: SIOCSIFMTU reads one ifreq, which outlives the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{enter_fresh_namespace, ip, privileged};
    use std::sync::Arc;

    #[test]
    fn bad_names_are_refused_before_the_driver_cuts_them() {
        for name in ["", "a-name-of-16-xxx", "a b", "a/b", "..", "tun%d", "all"] {
            assert!(matches!(Tun::open(name, 1420), Err(TunError::Name(_))), "{name}");
        }
        assert!(label("a-name-of-15-xx").is_ok());
    }

    #[test]
    fn packets_cross_in_both_directions_from_several_threads() {
        if !privileged() {
            return;
        }
        std::thread::spawn(|| {
            enter_fresh_namespace();
            let tun = Arc::new(Tun::open("umbra-test0", 1380).expect("open"));
            assert_eq!(tun.name(), "umbra-test0");
            assert!(tun.index() > 0);
            ip("addr add 192.0.2.1/24 dev umbra-test0");
            ip("link set umbra-test0 up");
            let mtu = std::fs::read_to_string("/proc/thread-self/net/dev").expect("dev");
            assert!(mtu.contains("umbra-test0"));

            // Two readers; each datagram reaches exactly one of them.
            let (found, all) = std::sync::mpsc::channel();
            for _ in 0..2 {
                let (tun, found) = (Arc::clone(&tun), found.clone());
                std::thread::spawn(move || {
                    let mut frame = Frame::default();
                    while tun.read(&mut frame).is_ok() {
                        // IPv4 and UDP; the kernel's own IPv6 multicasts pass by.
                        if frame.bytes.first() == Some(&0x45) && frame.bytes.get(9) == Some(&17) {
                            let _ = found.send(frame.bytes.clone());
                        }
                    }
                });
            }
            let socket = std::net::UdpSocket::bind("192.0.2.1:7000").expect("bind");
            for number in 0..20u8 {
                socket.send_to(&[number; 5], "192.0.2.9:7001").expect("send");
            }
            let mut numbers: Vec<u8> = (0..20).map(|_| *all.recv().expect("a packet").last().expect("byte")).collect();
            numbers.sort_unstable();
            assert_eq!(numbers, (0..20).collect::<Vec<_>>());

            // And back: the same packet with its ends swapped reaches the socket.
            socket.send_to(b"hello", "192.0.2.9:7001").expect("send");
            let mut packet = all.recv().expect("a packet");
            let source: Vec<u8> = packet.drain(12..16).collect();
            packet.splice(16..16, source);
            let port: Vec<u8> = packet.drain(20..22).collect();
            packet.splice(22..22, port);
            tun.write(&Frame::packet(packet)).expect("write");
            let mut bytes = [0; 16];
            let (len, from) = socket.recv_from(&mut bytes).expect("receive");
            assert_eq!((&bytes[..len], from.to_string().as_str()), (&b"hello"[..], "192.0.2.9:7001"));
        })
        .join()
        .expect("test thread");
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
}
