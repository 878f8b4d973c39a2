//! How is a password typed without being seen?

#![allow(unsafe_code)]

use std::io::{self, BufRead as _};
use std::os::fd::{AsRawFd as _, RawFd};

/// Standard input without echo; put back as it was when this is dropped.
struct Silence {
    fd: RawFd,
    before: libc::termios,
}

impl Silence {
    fn begin(fd: RawFd) -> io::Result<Self> {
        // SAFETY: termios is plain data, for which zeros are a valid value.
        let mut before: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live termios of ours.
        if unsafe { libc::tcgetattr(fd, &raw mut before) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut silent = before;
        silent.c_lflag &= !libc::ECHO;
        silent.c_lflag |= libc::ECHONL;
        // SAFETY: the pointer is to a live termios of ours.
        if unsafe { libc::tcsetattr(fd, libc::TCSAFLUSH, &raw const silent) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd, before })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // SAFETY: the pointer is to a live termios of ours. A failure leaves the terminal silent: nothing can be done.
        unsafe { libc::tcsetattr(self.fd, libc::TCSAFLUSH, &raw const self.before) };
    }
}

/// Reads one line from the terminal on standard input without showing it. Fails where that is no terminal.
pub fn read_unseen(line: &mut String) -> io::Result<usize> {
    let stdin = io::stdin();
    let _silence = Silence::begin(stdin.as_raw_fd())?;
    stdin.lock().read_line(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(fd: RawFd) -> bool {
        // SAFETY: termios is plain data, for which zeros are a valid value.
        let mut now: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live termios of ours.
        assert_eq!(unsafe { libc::tcgetattr(fd, &raw mut now) }, 0);
        now.c_lflag & libc::ECHO != 0
    }

    #[test]
    fn a_terminal_is_silent_only_for_a_while() {
        let (mut main, mut side) = (0, 0);
        let none = std::ptr::null_mut();
        // SAFETY: the first two pointers are to live integers of ours; null is allowed for the rest.
        let made = unsafe { libc::openpty(&raw mut main, &raw mut side, none, none.cast(), none.cast()) };
        assert_eq!(made, 0);
        assert!(echo(side));
        let silence = Silence::begin(side).expect("a terminal");
        assert!(!echo(side));
        drop(silence);
        assert!(echo(side));
        for fd in [main, side] {
            // SAFETY: both were opened above and are not used any more.
            unsafe { libc::close(fd) };
        }
        assert!(Silence::begin(side).is_err(), "what is no terminal is told");
    }
}
