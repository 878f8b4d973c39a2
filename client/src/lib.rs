//! The program `umbra`: opens tunnels to what its user may reach. It decides nothing.

mod agent;
pub mod catalogue;
mod cli;
pub mod connect;
mod daemon;
mod dns;
mod guardian;
pub mod held;
mod leftovers;
mod local;
pub mod loopback;
pub mod names;
mod network;
pub mod plan;
mod relay;
pub mod rpc;
pub mod workload_api;

#[cfg(test)]
mod testkit;

pub use cli::main;
