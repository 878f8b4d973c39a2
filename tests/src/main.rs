//! The program `umbra-lab`, which is also each program of Umbra: the name it is called by decides.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    match Path::new(&called).file_name().and_then(|name| name.to_str()) {
        Some("umbra") => client::main(),
        Some("umbra-controller") => controller::main(),
        Some("umbra-gateway") => gateway::main(),
        _ => umbra_tests::command::main(),
    }
}
