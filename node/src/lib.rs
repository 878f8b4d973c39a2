//! What do all three programs share? The packet threads, the control link with its mutual TLS, first contact.

pub mod boot;
pub mod channel;
pub mod cli;
pub mod dark;
pub mod enrol;
pub mod identity;
pub mod keep;
pub mod leftovers;
pub mod link;
pub mod local;
pub mod manager;
pub mod overlay;
mod privilege;
pub mod pulse;
pub mod rpc;
pub mod runtime;
pub mod seen;
pub mod settings;
pub mod successor;
pub mod svid;
pub mod tls;
pub mod witness;

pub use identity::Identity;
pub use link::Link;
pub use manager::Manager;
pub use privilege::{become_user, confine};
pub use runtime::Runtime;
