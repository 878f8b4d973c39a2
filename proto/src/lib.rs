//! The wire. What do nodes and the controller say to each other, and how does it become checked words of `model`?
//!
//! `v1` is generated from the files under `proto/`; every message that comes from outside passes exactly one
//! conversion of [`convert`] before anybody acts on it.

pub mod convert;
pub mod join;

/// Generated messages and services of `umbra.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::indexing_slicing, clippy::unwrap_used)]
pub mod v1 {
    tonic::include_proto!("umbra.v1");
}
