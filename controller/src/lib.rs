//! The controller: authenticates people, devices and workloads, decides, and arranges.

pub mod audit;
pub mod seal;
pub mod store;

/// The program `umbra-controller`.
pub fn main() -> std::process::ExitCode {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "umbra-controller: not built yet");
    std::process::ExitCode::FAILURE
}
