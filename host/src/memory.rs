//! When does memory that is freed go back to the kernel? A large block at once, whichever thread had it.
#![allow(unsafe_code)]

/// From so many bytes on a block is large: far above a packet's buffer, far below what a password's hash takes.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: libc::c_int = 1 << 20;

/// Lets large blocks come from the kernel and go back to it when they are freed. Left alone, glibc keeps blocks of a size that it
/// saw freed once, up to 32 MiB, and keeps them for each thread apart (mallopt(3), M_MMAP_THRESHOLD). For the start of a program.
pub fn give_back_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: two integers; the call changes how memory is allotted from now on, and nothing that was allotted before.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
    }
}
