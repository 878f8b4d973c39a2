//! Every system call, and all `unsafe`, of Umbra. How does the rest of it reach the kernel?
//!
//! Nothing here decides anything: modules carry out what they are told, and their errors say what a person can do.

pub mod accounts;
pub mod checks;
pub mod clock;
mod cmsg;
pub mod conntrack;
pub mod disk;
pub mod entropy;
pub mod forwarding;
pub mod keyfile;
pub mod local;
pub mod memory;
pub mod namespace;
pub mod netlink;
pub mod nft;
pub mod notify;
pub mod offload;
pub mod privilege;
pub mod resolv;
pub mod resolved;
pub mod slots;
pub mod ssh;
pub mod sysctl;
pub mod terminal;
pub mod tun;
pub mod turn;
pub mod udp;

#[cfg(test)]
mod test_support;
