//! The program `umbra-gateway`: enforces, beside the protected services. It decides nothing.

mod cli;
mod firewalls;
mod flows;
pub mod follow;
mod gate;
mod leftovers;
mod reach;
pub mod resolve;
pub mod rpc;
mod service;
mod witness;

pub use cli::main;
