//! The words everyone shares. Which types does the rest of Umbra speak in?
//!
//! No clock, entropy, disk, socket or async runtime is reachable from here: time and randomness are passed in.

pub mod audit;
pub mod grant;
pub mod ids;
pub mod key;
pub mod limits;
pub mod net;
pub mod packet;
pub mod pool;
pub mod revision;
pub mod secret;
pub mod spiffe;
pub mod text;
pub mod time;
