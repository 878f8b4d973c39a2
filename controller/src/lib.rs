//! The controller: authenticates people, devices and workloads, decides, and arranges.

pub mod administrator;
pub mod arrange;
pub mod audit;
pub mod authn;
pub mod authority;
pub mod authz;
pub mod backup;
pub mod break_glass;
pub mod ca;
mod cli;
pub mod config;
pub mod directory;
pub mod factors;
pub mod federation;
pub mod fetch;
pub mod flows;
pub mod front;
pub mod guise;
pub mod init;
pub mod judge;
pub mod local;
pub mod login;
pub mod oidc;
pub mod organisation;
pub mod owner;
pub mod passkey;
pub mod rate;
pub mod refused;
pub mod rpc;
pub mod runs;
pub mod seal;
pub mod serve;
pub mod signin;
pub mod store;
pub mod token;
pub mod tools;
pub mod totp;
pub mod turnover;
pub mod vanish;
pub mod workload;

#[cfg(test)]
mod test_support;

/// The program `umbra-controller`.
pub fn main() -> std::process::ExitCode {
    main_with(std::env::args_os())
}

/// The same with arguments of the caller's choice, the program's name first.
pub fn main_with(args: impl IntoIterator<Item = std::ffi::OsString>) -> std::process::ExitCode {
    cli::main(args)
}
