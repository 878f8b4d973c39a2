//! placeholder

/// The program `umbra-controller`.
pub fn main() -> std::process::ExitCode {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "umbra-controller: not built yet");
    std::process::ExitCode::FAILURE
}
