//! Whole-system tests: real programs on networks of their own.
//!
//! Each test starts its own world, so they run side by side. Where the system does not allow that, they fail and say
//! what to do.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs
)]

mod audit;
mod browser;
mod callers;
mod causes;
mod check;
mod copies;
mod crash;
mod demo;
mod enrolment;
mod factors;
mod failover;
mod families;
mod files;
mod firewalls;
mod floods;
mod flows;
mod full;
mod hostile;
mod interop;
mod kills;
mod lives;
mod measure;
mod mtu;
mod names;
mod network;
mod offload;
mod passkeys;
mod perimeter;
mod privilege;
mod resolved;
mod restore;
mod roaming;
mod roles;
mod service;
mod sign_in;
mod silence;
mod spiffe;
mod support;
mod talk;
mod turnover;
mod workloads;
