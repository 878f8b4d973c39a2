//! `umbra-lab`: whole networks of Umbra's programs on one machine, for demonstrations and tests.
//!
//! [`lab::World`] makes the network and runs programs in it; [`service`] holds the services that it protects;
//! [`probe`] asks them, so that a test needs no other program; [`command`] is the command line.

pub mod command;
pub mod lab;
pub mod perimeter;
pub mod probe;
pub mod service;
