//! How do packets get between the kernel and us? A TUN device: super-packets where the kernel has them, else one packet a
//! call, without packet information.
#![allow(unsafe_code)]

mod device;
pub mod header;
mod queues;
#[cfg(test)]
mod tests;

use crate::checks::CheckError;
use crate::offload::Steps;
use device::Device;
use header::HEADER_BYTES;
use model::limits::DATAGRAM_MAX;
use model::packet::{Frame, Gso, GsoKind, Offloads};
use std::io;

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

/// Room that a read needs: no packet is larger, and one more byte shows one that was cut.
const ROOM_BYTES: usize = DATAGRAM_MAX + 1;

/// A TUN device. It vanishes, with its addresses and routes, when this is dropped or the process ends.
///
/// Shared by reference: any number of threads may read and write, the kernel hands each packet to one of them.
pub struct Tun {
    device: Device,
    name: String,
}

impl Tun {
    /// Makes the device with this MTU (bytes), for one plain packet a call. It has no address and is down: see
    /// [`crate::netlink`].
    pub fn open(name: &str, mtu: u16) -> Result<Self, TunError> {
        Self::open_with(name, mtu, Steps::ONE_BY_ONE)
    }

    /// Makes the device with those of the wanted offloads that the kernel has.
    pub fn open_with(name: &str, mtu: u16, steps: Steps) -> Result<Self, TunError> {
        Ok(Self { device: device::open(name, mtu, steps)?, name: name.to_owned() })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's index.
    pub const fn index(&self) -> u32 {
        self.device.index
    }

    /// What the device carries, in both directions.
    pub const fn offloads(&self) -> Offloads {
        self.device.offloads
    }

    /// In how many queues the kernel keeps packets for us; with several, flows take turns.
    pub const fn queues(&self) -> usize {
        self.device.queues.count()
    }

    /// Waits for one frame that the kernel routed into the device. The frame's buffer is reused.
    ///
    /// InvalidData: this one cannot be used, and is gone; the next read is as good as any.
    pub fn read(&self, frame: &mut Frame) -> io::Result<()> {
        while !self.try_read(frame)? {
            self.wait_readable()?;
        }
        Ok(())
    }

    /// Reads one frame if one is there, and says whether. Else as [`Tun::read`].
    pub fn try_read(&self, frame: &mut Frame) -> io::Result<bool> {
        frame.gso = Gso::NONE;
        frame.bytes.clear();
        frame.bytes.reserve(ROOM_BYTES);
        let mut header = [0; HEADER_BYTES];
        let room = frame.bytes.spare_capacity_mut();
        let parts = [part(header.as_mut_ptr(), header.len()), part(room.as_mut_ptr().cast(), room.len())];
        let (parts, header_len) = self.with_header(&parts);
        let read = self.device.queues.read(|fd| {
            // SAFETY: each part names writable memory of its length, borrowed until after the call.
            retried(|| unsafe { libc::readv(fd, parts.as_ptr(), count(parts)) })
        })?;
        let Some(read) = read else {
            return Ok(false);
        };
        let len = read.checked_sub(header_len).filter(|len| *len > 0).ok_or(io::ErrorKind::UnexpectedEof)?;
        if len > DATAGRAM_MAX {
            let what = format!("the TUN device gave a packet of more than {DATAGRAM_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        frame.gso = header::decode(header)?;
        // SAFETY: the kernel wrote `len` bytes behind the header, at most the room that was given.
        unsafe { frame.bytes.set_len(len) };
        Ok(true)
    }

    /// Hands one frame to the kernel, as if it had come in on this device. EIO while the device is down, EINVAL for what
    /// is no IP packet or disagrees with its note, Unsupported for what [`Tun::offloads`] lacks; the frame is lost then.
    pub fn write(&self, frame: &Frame) -> io::Result<()> {
        if !self.carries(&frame.gso) {
            let what = "this TUN device does not take such a frame: segment it, and complete its checksum";
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        let header = header::encode(&frame.gso);
        let parts =
            [part(header.as_ptr().cast_mut(), header.len()), part(frame.bytes.as_ptr().cast_mut(), frame.bytes.len())];
        let (parts, header_len) = self.with_header(&parts);
        let fd = self.device.queues.writer(&frame.bytes);
        // SAFETY: each part names memory of its length, borrowed until after the call; writev only reads it.
        let written = retried(|| unsafe { libc::writev(fd, parts.as_ptr(), count(parts)) })?;
        match written {
            Some(len) if len == frame.bytes.len().saturating_add(header_len) => Ok(()),
            Some(_) => Err(io::ErrorKind::WriteZero.into()),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    const fn carries(&self, gso: &Gso) -> bool {
        let Offloads { vnet, tso, uso } = self.device.offloads;
        let kind = match gso.kind {
            GsoKind::None => true,
            GsoKind::TcpV4 | GsoKind::TcpV6 => tso,
            GsoKind::Udp => uso,
        };
        kind && (vnet || gso.checksum.is_none())
    }

    /// The parts that this device uses, and how many bytes its header has.
    fn with_header<'p>(&self, parts: &'p [libc::iovec; 2]) -> (&'p [libc::iovec], usize) {
        let [_, packet] = parts;
        if self.device.offloads.vnet { (parts, HEADER_BYTES) } else { (std::slice::from_ref(packet), 0) }
    }

    fn wait_readable(&self) -> io::Result<()> {
        let mut entry = libc::pollfd { fd: self.device.queues.readiness(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, which outlives the call.
        if unsafe { libc::poll(&raw mut entry, 1, -1) } >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
    }
}

/// Makes the call until no signal comes between; none where it would have to wait.
fn retried(call: impl Fn() -> isize) -> io::Result<Option<usize>> {
    loop {
        if let Ok(len) = usize::try_from(call()) {
            return Ok(Some(len));
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => return Ok(None),
            _ => return Err(error),
        }
    }
}

const fn part(start: *mut u8, len: usize) -> libc::iovec {
    libc::iovec { iov_base: start.cast(), iov_len: len }
}

fn count(parts: &[libc::iovec]) -> libc::c_int {
    libc::c_int::try_from(parts.len()).unwrap_or_default()
}
