//! What does an error of the socket mean? Something earlier, an address that went, or a message of too many parts.

use std::io;

/// Errors that tell of an earlier datagram, or of nothing.
pub fn is_pending(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EINTR
                | libc::ECONNREFUSED
                | libc::ECONNRESET
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::ENETDOWN
                | libc::EHOSTDOWN
                | libc::ENOPROTOOPT
                | libc::EPROTO
                | libc::EMSGSIZE
                | libc::EACCES
                | libc::EPERM
        )
    )
}

/// The local address or interface is not there any more.
pub fn is_stale_local(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EINVAL
                | libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::EADDRNOTAVAIL
                | libc::ENODEV
                | libc::ENXIO
                | libc::ENETDOWN
        )
    )
}

/// Why a message of several datagrams did not go as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    /// The path takes only smaller datagrams in such a message; one by one they go, in fragments.
    TooNarrow,
    /// This machine cannot do it: a device without checksums, IPsec, a socket option.
    Impossible,
}

/// A datagram that every path takes unfragmented: IPv6's least MTU (RFC 8200, section 5) without headers.
const EVERY_PATH_BYTES: usize = 1_280 - 40 - 8;

/// What refusing a message of segments of this size means; `proven`: an earlier one was taken. None: it has another cause.
pub fn of_segments(error: &io::Error, segment: usize, proven: bool) -> Option<Whole> {
    match error.raw_os_error()? {
        libc::EIO | libc::EOPNOTSUPP => Some(Whole::Impossible),
        libc::EMSGSIZE => Some(Whole::TooNarrow),
        // Kernels before 6.11 say this of a narrow path, too.
        libc::EINVAL if !proven && segment <= EVERY_PATH_BYTES => Some(Whole::Impossible),
        libc::EINVAL => Some(Whole::TooNarrow),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_path_is_told_from_a_machine_that_cannot() {
        let of = |code, segment, proven| of_segments(&io::Error::from_raw_os_error(code), segment, proven);
        for proven in [false, true] {
            assert_eq!(of(libc::EIO, 1_452, proven), Some(Whole::Impossible));
            assert_eq!(of(libc::EOPNOTSUPP, 1_452, proven), Some(Whole::Impossible));
            assert_eq!(of(libc::EMSGSIZE, 100, proven), Some(Whole::TooNarrow));
            assert_eq!(of(libc::EINVAL, 1_452, proven), Some(Whole::TooNarrow));
            assert_eq!(of(libc::ENETUNREACH, 1_452, proven), None);
            assert_eq!(of(libc::ENOBUFS, 100, proven), None);
        }
        assert_eq!(of(libc::EINVAL, 1_232, false), Some(Whole::Impossible));
        assert_eq!(of(libc::EINVAL, 1_232, true), Some(Whole::TooNarrow));
        assert_eq!(of_segments(&io::ErrorKind::WriteZero.into(), 1, false), None);
    }
}
