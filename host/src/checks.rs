//! May this process change networks, and does the machine have what it needs? Asked before anything is touched.

use crate::privilege::own_capabilities;
use std::io;
use std::path::Path;

/// Where Linux keeps the TUN driver's door.
pub const TUN_DEVICE: &str = "/dev/net/tun";
/// Bit number of CAP_NET_ADMIN (linux/capability.h).
const CAP_NET_ADMIN: u32 = 12;

/// What is missing, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The capability is not in the effective set.
    #[error(
        "this process may not change networks (no CAP_NET_ADMIN): run it as root, let systemd grant it \
         (AmbientCapabilities=CAP_NET_ADMIN), or start the container with --cap-add NET_ADMIN"
    )]
    NoNetAdmin,
    /// No TUN driver, or none in this container.
    #[error(
        "{TUN_DEVICE} is missing: load the driver with `modprobe tun`, or start the container with \
         --device {TUN_DEVICE}"
    )]
    NoTunDevice,
    /// The driver is there and may not be opened.
    #[error(
        "{TUN_DEVICE} cannot be opened: {0}; run as root, `chmod 0666 {TUN_DEVICE}`, or start the container with \
         --device {TUN_DEVICE}"
    )]
    TunDeviceClosed(#[source] io::Error),
    /// The kernel would not tell.
    #[error("cannot read this process's capabilities: {0}")]
    Unreadable(#[source] io::Error),
}

/// Whether CAP_NET_ADMIN is in the calling thread's effective set.
pub fn net_admin() -> Result<(), CheckError> {
    let sets = own_capabilities().map_err(CheckError::Unreadable)?;
    let [low, _] = sets;
    if low.effective & (1 << CAP_NET_ADMIN) == 0 { Err(CheckError::NoNetAdmin) } else { Ok(()) }
}

/// Whether the TUN driver can be opened.
pub fn tun_device() -> Result<(), CheckError> {
    openable(Path::new(TUN_DEVICE))
}

fn openable(device: &Path) -> Result<(), CheckError> {
    match std::fs::OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => Ok(()),
        // ENXIO and ENODEV: the node is there, the driver is not.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV)) =>
        {
            Err(CheckError::NoTunDevice)
        }
        Err(error) => Err(CheckError::TunDeviceClosed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_says_what_to_do() {
        let error = openable(Path::new("/dev/net/no-such-device")).expect_err("missing");
        assert!(matches!(error, CheckError::NoTunDevice));
        assert!(error.to_string().contains("modprobe tun"));
    }

    #[test]
    fn the_capability_agrees_with_proc() {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("proc");
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("CapEff");
        let effective = u64::from_str_radix(line.trim(), 16).expect("hex");
        assert_eq!(net_admin().is_ok(), effective & (1 << CAP_NET_ADMIN) != 0);
    }
}
