//! placeholder
pub mod namespace;
