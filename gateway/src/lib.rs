//! placeholder

/// The program `umbra-gateway`.
pub fn main() -> std::process::ExitCode {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "umbra-gateway: not built yet");
    std::process::ExitCode::FAILURE
}
