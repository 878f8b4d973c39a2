//! How much room has a disk, and what does it really hold?
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Bytes that everybody may still write to the file system of `path`; what it keeps for root is not counted. See statvfs(3).
pub fn room(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a struct of integers, for which zeros are a value.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends with a zero byte and `stat` is writable; both outlive the call.
    if unsafe { libc::statvfs(path.as_ptr(), &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Makes what is read of a file from now on come from its disk. After a sync that failed, memory may hold as clean what
/// the disk never took. See posix_fadvise(2), POSIX_FADV_DONTNEED; what is dirty stays, so sync first.
pub fn forget_cached(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `file`; no memory is touched.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_of_a_file_system_is_told_and_what_is_not_there_is_an_error() {
        assert!(room(Path::new("/dev/shm")).is_ok() || room(Path::new("/")).is_ok());
        assert_eq!(room(Path::new("/proc")).unwrap(), 0, "nothing can be written there");
        assert_eq!(room(Path::new("/nothing/here")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_is_read_after_forgetting_is_what_was_written() {
        let path = std::env::temp_dir().join(format!("umbra-disk-{}", std::process::id()));
        std::fs::write(&path, "as before").unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        forget_cached(&file).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "as before");
        std::fs::remove_file(path).unwrap();
    }
}
