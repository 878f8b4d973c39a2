//! Which network does the lab build, and out of what?
//!
//! ```text
//!      outside  203.0.113.0/24  2001:db8:0:1::/64          inside  10.20.0.0/24  fd20::/64
//!         |                                                   |
//!         +-- .10   controller                                +-- .10 .11 .12  service
//!         +-- .20   gateway ------------------------- .2 -----+
//!         +-- .21   gateway2 ------------------------ .3 -----+
//!         +-- .101  laptop                                    +-- .66  neighbour
//!         +-- .102  laptop2 (.103 and on: laptop3 and on, in worlds that ask for such)
//!         +-- .66   stranger (also .53: the outside name server's address)
//! ```
//!
//! IPv6 addresses end as the IPv4 ones do (`2001:db8:0:1::10`, `fd20::66`). Nobody has a default route, and nobody on
//! one network has a route to the other.
//!
//! Each host is three namespaces (network, mounts, name) held open by a small process (`holder`). A *fabric* process
//! (`fabric`) owns the holders, the two bridges and the forwarders that spoil links (`forwarder`); for anyone but root
//! it first makes a user namespace. It ends, with everything in the hosts, when whoever started it ends: it notices by
//! the end of its standard input. [`World`] is the handle on all that.

pub mod daemon;
pub mod error;
pub mod fabric;
pub mod forwarder;
pub mod holder;
pub mod host;
pub mod impairment;
pub mod standing;
pub mod topology;
pub mod world;

pub use daemon::Daemon;
pub use error::LabError;
pub use host::{Finished, Host, run_to_its_end};
pub use impairment::Impairment;
pub use topology::Name;
pub use world::{Options, World};
