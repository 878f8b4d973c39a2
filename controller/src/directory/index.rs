//! What must be unique? Each such thing has a key of its own, claimed in the transaction that makes its owner.

use crate::store::Record;
use model::pool::{DEVICE_V4_COUNT, VIRTUAL_COUNT};
use serde::{Deserialize, Serialize};

/// Says whose a unique thing is. The id is the thing, behind its set: `user-name/clerk`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The owner's key in the store.
    pub key: String,
}

/// Sets of unique things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unique {
    /// Names of users and service accounts: who is who must be clear in a policy and in the trail.
    UserName,
    /// Names of sites.
    SiteName,
    /// Names of gateways.
    GatewayName,
    /// Names of devices.
    DeviceName,
    /// Names of resources.
    ResourceName,
    /// Declared host names and suffixes (`*.` in front) of resources, by [`host_id`]: a name leads to one resource.
    Host,
    /// Numbers of virtual addresses.
    Virtual,
    /// Numbers of devices' IPv4 addresses.
    DeviceV4,
    /// WireGuard keys of nodes, in hexadecimal: a revoked node's key stays taken.
    NodeKey,
    /// Overlay addresses of nodes.
    NodeAddress,
    /// People at identity providers, by [`super::Identity::key`].
    Identity,
    /// Credentials of passkeys, hashed: each is one user's.
    Passkey,
}

impl Unique {
    /// The set of its keys.
    pub const fn set(self) -> &'static str {
        match self {
            Self::UserName => "user-name",
            Self::SiteName => "site-name",
            Self::GatewayName => "gateway-name",
            Self::DeviceName => "device-name",
            Self::ResourceName => "resource-name",
            Self::Host => "host",
            Self::Virtual => "virtual",
            Self::DeviceV4 => "device-v4",
            Self::NodeKey => "node-key",
            Self::NodeAddress => "node-address",
            Self::Identity => "identity",
            Self::Passkey => "passkey",
        }
    }
}

/// The id under which a host name or `*.suffix` is claimed: a name may be longer than a key.
pub fn host_id(text: &str) -> String {
    super::sha256(text.as_bytes()).iter().take(16).map(|b| format!("{b:02x}")).collect()
}

/// The id under which a node's WireGuard key is claimed: in hexadecimal.
pub fn key_id(key: &model::key::PublicKey) -> String {
    key.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The id under which a node's overlay address is claimed: in hexadecimal.
pub fn address_id(address: std::net::Ipv6Addr) -> String {
    address.octets().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The next number to try. Numbers go round, so that one that was just given back is not given to somebody else at once:
/// a client may still hold the old name's address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// The next number.
    pub next: u32,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Virtual addresses.
    Virtual,
    /// IPv4 addresses of devices.
    DeviceV4,
}

impl Counted {
    /// The counter's id.
    pub const fn id(self) -> &'static str {
        match self {
            Self::Virtual => "virtual",
            Self::DeviceV4 => "device-v4",
        }
    }
    /// How many numbers there are.
    pub const fn count(self) -> u32 {
        match self {
            Self::Virtual => VIRTUAL_COUNT,
            Self::DeviceV4 => DEVICE_V4_COUNT,
        }
    }
    /// Where they are claimed.
    pub const fn unique(self) -> Unique {
        match self {
            Self::Virtual => Unique::Virtual,
            Self::DeviceV4 => Unique::DeviceV4,
        }
    }
}

impl Record for Counter {
    const KIND: &'static str = "counter";
    type Id = str;
}
