//! Does the memory that a log-in takes go back? Each hash takes 19 MiB, on whichever thread it is made.

#![allow(clippy::unwrap_used)]

use model::secret::Secret;
use std::sync::{Arc, Barrier};
use umbra_controller::authn;

/// What one hash takes, KiB (RFC 9106's argon2id with the parameters that OWASP recommends).
const HASH_KIB: u64 = 19_456;
/// On so many threads at once.
const THREADS: usize = 8;

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn no_thread_keeps_what_a_password_took() {
    host::memory::give_back_large_blocks();
    let (all_there, done) = (Arc::new(Barrier::new(THREADS)), Arc::new(Barrier::new(THREADS + 1)));
    let before = resident();
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (all_there, done) = (Arc::clone(&all_there), Arc::clone(&done));
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                all_there.wait();
                // Twice: what was freed once is what would be kept.
                for _ in 0..2 {
                    runtime.block_on(authn::hash(Secret::new("correct horse".to_owned()))).unwrap();
                }
                done.wait();
                done.wait();
            })
        })
        .collect();
    done.wait();
    let after = resident();
    done.wait();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(after < before + HASH_KIB, "{before} KiB before, {after} KiB while the threads rest");
}
