//! How is a TUN device made? With as many offloads as the kernel has and the caller wants, in steps down to a plain one.
//!
//! Source: linux/if_tun.h, Documentation/networking/tuntap.rst, netdevice(7).
#![allow(unsafe_code)]

use super::header::HEADER_BYTES;
use super::queues::Queues;
use super::{NAME_BYTES_MAX, TunError};
use crate::checks::{self, CheckError};
use crate::offload::Steps;
use model::limits::{TUN_QUEUE, TUN_QUEUES};
use model::packet::Offloads;
use std::ffi::{CStr, CString};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// A device that is there, down and without addresses.
pub struct Device {
    /// Where its packets are read and written; none blocks.
    pub queues: Queues,
    /// What it carries.
    pub offloads: Offloads,
    /// The interface's index.
    pub index: u32,
}

/// Makes the device.
pub fn open(name: &str, mtu: u16, steps: Steps) -> Result<Device, TunError> {
    let label = label(name)?;
    checks::tun_device()?;
    let failed = |source| TunError::Open { name: name.to_owned(), source };
    let (fds, offloads) = attach(&label, name, steps)?;
    let queues = Queues::new(fds).map_err(failed)?;
    // SAFETY: `label` is a zero-terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(label.as_ptr()) };
    if index == 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).map_err(failed)?;
    let mut request = request(&label);
    request.ifr_ifru.ifru_mtu = i32::from(mtu);
    set_link(&socket, libc::SIOCSIFMTU, &request).map_err(|source| TunError::Mtu {
        name: name.to_owned(),
        mtu,
        source,
    })?;
    // ifr_qlen, which `libc` does not name, is an integer in the same place.
    request.ifr_ifru.ifru_metric = i32::try_from(TUN_QUEUE).unwrap_or(i32::MAX);
    if let Err(error) = set_link(&socket, libc::SIOCSIFTXQLEN, &request) {
        tracing::debug!(name, %error, "the TUN device keeps its short queue");
    }
    Ok(Device { queues, offloads, index })
}

/// The name for system calls, or a refusal.
pub fn label(name: &str) -> Result<CString, TunError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let good = !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(plain);
    if !good || matches!(name, "." | ".." | "all" | "default") {
        return Err(TunError::Name(name.to_owned()));
    }
    CString::new(name).map_err(|_| TunError::Name(name.to_owned()))
}

/// The fast device, or the plain one where that is all there is.
fn attach(label: &CStr, name: &str, steps: Steps) -> Result<(Vec<OwnedFd>, Offloads), TunError> {
    let refuse = |source: io::Error| match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => TunError::Machine(CheckError::NoNetAdmin),
        // EINVAL: the name belongs to a device that is no TUN.
        Some(libc::EBUSY | libc::EINVAL | libc::EEXIST) => TunError::NameTaken(name.to_owned()),
        _ => TunError::Open { name: name.to_owned(), source },
    };
    if steps.vnet
        && let Some((fds, offloads)) = attach_vnet(label, steps).map_err(refuse)?
    {
        if (steps.tso, steps.uso) != (offloads.tso, offloads.uso) {
            tracing::info!(name, ?offloads, "this kernel's TUN driver lacks some offloads: the tunnel is slower");
        }
        if steps.queues && fds.len() == 1 {
            tracing::info!(name, "this kernel's TUN driver has one queue: a transfer makes other packets wait");
        }
        return Ok((fds, offloads));
    }
    if steps.vnet {
        tracing::info!(name, "this kernel's TUN driver has no offloads: the tunnel takes one packet a call");
    }
    let plain = tun_tap::Iface::without_packet_info(name, tun_tap::Mode::Tun).map_err(refuse)?;
    // SAFETY: `into_raw_fd` gives up an open descriptor, which nothing else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(plain.into_raw_fd()) };
    // SAFETY: an open descriptor and integers.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_RDWR | libc::O_NONBLOCK) } != 0 {
        return Err(refuse(io::Error::last_os_error()));
    }
    Ok((vec![fd], Offloads::default()))
}

/// A device with packet headers, in several queues where the driver has them; none where the driver has no such thing.
fn attach_vnet(label: &CStr, steps: Steps) -> io::Result<Option<(Vec<OwnedFd>, Offloads)>> {
    let file = open_driver()?;
    let mut features: libc::c_int = 0;
    // SAFETY: TUNGETFEATURES writes one integer, which outlives the call.
    let known = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNGETFEATURES, &raw mut features) };
    // A driver that does not know a flag would take the device without it, and say nothing.
    if known != 0 || features & libc::IFF_VNET_HDR == 0 {
        return Ok(None);
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let queues = if steps.queues { features & libc::IFF_MULTI_QUEUE } else { 0 };
    // With several queues a name that is taken would be no error: we would get some of that device's packets.
    attach_queue(&file, label, flags | queues | libc::IFF_TUN_EXCL)?;
    let size = libc::c_int::try_from(HEADER_BYTES).unwrap_or_default();
    // SAFETY: TUNSETVNETHDRSZ reads one integer, which outlives the call.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) } != 0 {
        return Ok(None);
    }
    let accept = |bits: libc::c_uint| {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(bits)) == 0 }
    };
    let Some(offloads) = step_down(steps, accept) else { return Ok(None) };
    let mut fds = vec![file];
    while queues != 0 && fds.len() < TUN_QUEUES {
        let next = open_driver()?;
        match attach_queue(&next, label, flags | queues) {
            Ok(()) => fds.push(next),
            Err(error) => {
                tracing::debug!(%error, queues = fds.len(), "the TUN device has fewer queues than it might");
                break;
            }
        }
    }
    Ok(Some((fds, offloads)))
}

fn open_driver() -> io::Result<OwnedFd> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(checks::TUN_DEVICE)?;
    Ok(file.into())
}

fn attach_queue(file: &OwnedFd, label: &CStr, flags: libc::c_int) -> io::Result<()> {
    let mut request = request(label);
    request.ifr_ifru.ifru_flags = u16::try_from(flags).unwrap_or_default().cast_signed();
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The most that the kernel accepts of what is wanted, as TUN_F bits.
pub fn step_down(steps: Steps, mut accept: impl FnMut(libc::c_uint) -> bool) -> Option<Offloads> {
    let wanted = Offloads { vnet: true, tso: steps.tso, uso: steps.uso };
    let ladder = [wanted, Offloads { uso: false, ..wanted }, Offloads { uso: false, tso: false, ..wanted }];
    ladder.into_iter().find(|offloads| {
        let mut bits = libc::TUN_F_CSUM;
        if offloads.tso {
            bits |= libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
        }
        if offloads.uso {
            bits |= libc::TUN_F_USO4 | libc::TUN_F_USO6;
        }
        accept(bits)
    })
}

/// A request about this interface.
fn request(label: &CStr) -> libc::ifreq {
    // SAFETY: an ifreq of zeros is valid: integers, and a union of such.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(label.to_bytes()) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request
}

fn set_link(socket: &socket2::Socket, what: libc::Ioctl, request: &libc::ifreq) -> io::Result<()> {
    // SAFETY: the requests that are used here (SIOCSIF...) read one ifreq, which outlives the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw const *request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
