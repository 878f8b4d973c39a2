//! The wire. What do nodes and the controller say to each other, and how does it become checked words of `model`?
//!
//! `v1` is generated from the files under `proto/`; every message that comes from outside passes exactly one
//! conversion of [`convert`] before anybody acts on it.

pub mod convert;
pub mod join;
mod redact;

/// Generated messages and services of `umbra.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::indexing_slicing, clippy::unwrap_used)]
pub mod v1 {
    tonic::include_proto!("umbra.v1");
}

/// Generated messages and service of `umbra.admin.v1`: the controller's local socket, and the `--json` of its commands.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::indexing_slicing, clippy::unwrap_used)]
pub mod admin {
    tonic::include_proto!("umbra.admin.v1");
}

/// Generated messages and service of `umbra.local.v1`: the client's local socket, and the `--json` of its commands.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::indexing_slicing, clippy::unwrap_used)]
pub mod local {
    tonic::include_proto!("umbra.local.v1");
}

/// Generated messages and service of the SPIFFE Workload API: what a workload's programs ask the client on their machine.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::indexing_slicing, clippy::unwrap_used)]
pub mod spiffe {
    tonic::include_proto!("_");
    pub use prost_types::{ListValue, Struct, Value, value::Kind};
}

/// All services and messages as an encoded `google.protobuf.FileDescriptorSet`, so that a test can ask for every RPC.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/umbra.bin"));

/// How many bytes a message has on the wire.
pub fn encoded_len(message: &impl prost::Message) -> usize {
    message.encoded_len()
}
