//! What does each call do? One module a service; prost types stay here.

pub mod admin;
