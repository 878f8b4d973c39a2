//! placeholder

pub mod names;

/// The program `umbra`.
pub fn main() -> std::process::ExitCode {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "umbra: not built yet");
    std::process::ExitCode::FAILURE
}
