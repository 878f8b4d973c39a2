//! What does each call do? One module a service; prost types stay here.

pub mod accept;
pub mod admin;
pub mod devices;
pub mod enroll;
pub mod gateways;
pub mod nodes;
