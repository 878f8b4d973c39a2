//! What crosses the wire between controller, gateways and clients, as plain data: pairings, grants, catalogue entries.
//!
//! Nothing here is trusted yet: a gateway accepts a [`Grant`] only as `grant::VerifiedGrant`.

use crate::ids::{DeviceId, GatewayId, GrantId, PairingId, ResourceId};
use crate::key::{Psk, PublicKey};
use crate::net::{HostName, PortRange, Prefix, Protocol, Rule};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// The WireGuard tunnel of one client and one gateway, as the gateway needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairing {
    /// Its id.
    pub id: PairingId,
    /// Whose it is.
    pub device: DeviceId,
    /// The client's data key, made for this pairing alone.
    pub client_key: PublicKey,
    /// The pre-shared key, for the pairing's whole life.
    pub psk: Psk,
    /// The device's IPv4 address, the only IPv4 source that the pairing may use.
    pub device_v4: Ipv4Addr,
    /// The device's IPv6 address, the only IPv6 source that the pairing may use.
    pub device_v6: Ipv6Addr,
}

/// Permission for one device to reach one resource through one gateway, until a deadline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// The tunnel in which its packets come.
    pub pairing: PairingId,
    /// The device.
    pub device: DeviceId,
    /// The resource, as an opaque id.
    pub resource: ResourceId,
    /// What may go where; never empty.
    pub rules: Vec<Rule>,
    /// The source of its IPv4 packets on the service's side, this grant's alone.
    pub nat_v4: Ipv4Addr,
    /// The source of its IPv6 packets on the service's side, this grant's alone.
    pub nat_v6: Ipv6Addr,
    /// How long it lives, counted from the moment that the message names (the sending of the gateway's request).
    pub ends_in: Duration,
    /// How long the gateway may honour it without the controller's renewal.
    pub lease: Duration,
    /// May the packets end at the gateway's own addresses?
    pub on_gateway: bool,
}

/// One address of a resource as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogueAddress {
    /// The host name that leads here; none for resources of bare addresses.
    pub name: Option<HostName>,
    /// The virtual address or the CIDR's real prefix, IPv4.
    pub v4: Option<Prefix>,
    /// The same for IPv6; present only where the gateway reaches the target over IPv6.
    pub v6: Option<Prefix>,
}

/// A resource that a subject may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// Its id.
    pub id: ResourceId,
    /// Its name, for people.
    pub name: String,
    /// Where it is.
    pub addresses: Vec<CatalogueAddress>,
    /// Suffixes (`corp.example` for `*.corp.example`) whose names get an address on first query.
    pub suffixes: Vec<HostName>,
    /// What it speaks.
    pub ports: Vec<(Protocol, PortRange)>,
}

/// Why a grant ended, as a client is told. Its text for people is the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It ended; nothing more is known.
    Ended,
    /// Its life ran out.
    Expired,
    /// The client gave it back.
    Returned,
    /// A new grant took its place.
    Replaced,
    /// The session ended.
    Session,
    /// The user was disabled or deleted.
    User,
    /// The device was revoked.
    Device,
    /// It is not permitted any more.
    Policy,
    /// The resource was changed or deleted.
    Resource,
    /// The gateway was removed, or has other addresses now.
    Gateway,
    /// The gateway started anew: the grant lives on, its tunnel does not.
    Restarted,
    /// The gateway did not answer the controller.
    Unreached,
    /// The gateway's own checks refused it.
    Refused,
    /// An administrator ended it.
    Administrator,
    /// The organisation's state was restored from a backup.
    Restored,
}

/// The far end of a new pairing, as the client needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairingOffer {
    /// Its id.
    pub id: PairingId,
    /// Which gateway.
    pub gateway: GatewayId,
    /// The gateway's control key, which is also its end of every pairing.
    pub gateway_key: PublicKey,
    /// Where to send, best first.
    pub endpoints: Vec<SocketAddr>,
    /// The pre-shared key.
    pub psk: Psk,
}
