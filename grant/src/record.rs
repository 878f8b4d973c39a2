//! What of the ledger is kept in the store? Pairings, grants and tombstones as plain records, times by the wall clock.
//!
//! A pairing's PSK is no part of its record: the controller seals it and hands it back at [`crate::Ledger::restore`].

use model::grant::{Ending, Grant, Pairing};
use model::ids::{DeviceId, GatewayId, GrantId, PairingId, ResourceId, SessionId, SubjectId};
use model::key::{Psk, PublicKey};
use model::net::Rule;
use model::revision::Revision;
use model::time::{Instant, WallMs};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::lease::{self, Moment};

/// A grant as the controller knows it. Only [`crate::Ledger`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// What the gateway gets; `ends_in` is set only when it is sent.
    pub grant: Grant,
    /// Through which gateway.
    pub gateway: GatewayId,
    /// The log-in that it stands on.
    pub session: SessionId,
    /// Whose it is.
    pub user: SubjectId,
    /// When it ends unless renewed.
    pub ends: Instant,
    /// Beyond which it is never renewed: the end of what it stands on.
    pub until: Instant,
    /// Its pairing ended (the gateway started anew): it goes to no gateway until the client connects again, and only
    /// keeps its addresses.
    pub waiting: bool,
    pub(crate) number: u32,
}

impl Live {
    /// As it is stored.
    pub fn record(&self, at: Moment) -> GrantRecord {
        GrantRecord {
            id: self.grant.id,
            pairing: (!self.waiting).then_some(self.grant.pairing),
            device: self.grant.device,
            resource: self.grant.resource,
            gateway: self.gateway,
            session: self.session,
            user: self.user,
            rules: self.grant.rules.clone(),
            nat_number: self.number,
            lease_ms: millis(self.grant.lease),
            on_gateway: self.grant.on_gateway,
            ends: at.to_wall(self.ends),
            until: at.to_wall(self.until),
        }
    }

    /// From a record. The life is never longer than one lease from now, whatever the wall clock did in between.
    pub(crate) fn from_record(r: GrantRecord, at: Moment, nat: (Ipv4Addr, Ipv6Addr)) -> Self {
        let lease = Duration::from_millis(r.lease_ms);
        let until = at.to_instant(r.until);
        Self {
            gateway: r.gateway,
            session: r.session,
            user: r.user,
            ends: at.to_instant(r.ends).min(lease::end(at.now, lease, until)),
            until,
            waiting: r.pairing.is_none(),
            number: r.nat_number,
            grant: Grant {
                id: r.id,
                pairing: r.pairing.unwrap_or(PairingId::from_bytes([0; model::ids::ID_LEN])),
                device: r.device,
                resource: r.resource,
                rules: r.rules,
                nat_v4: nat.0,
                nat_v6: nat.1,
                ends_in: Duration::ZERO,
                lease,
                on_gateway: r.on_gateway,
            },
        }
    }

    /// As a gateway gets it: its life counted from `as_of`, when the request that the message names was received.
    pub(crate) fn to_wire(&self, as_of: Instant) -> Grant {
        Grant { ends_in: self.ends.since(as_of), ..self.grant.clone() }
    }
}

/// A grant in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRecord {
    /// Its id.
    pub id: GrantId,
    /// Its tunnel; none while it waits for the client after a restart of the gateway.
    pub pairing: Option<PairingId>,
    /// The device.
    pub device: DeviceId,
    /// The resource.
    pub resource: ResourceId,
    /// The gateway.
    pub gateway: GatewayId,
    /// The log-in that it stands on.
    pub session: SessionId,
    /// Whose it is.
    pub user: SubjectId,
    /// What may go where.
    pub rules: Vec<Rule>,
    /// Which addresses of the gateway's NAT pool it has.
    pub nat_number: u32,
    /// Its lease, milliseconds.
    pub lease_ms: u64,
    /// May packets end at the gateway's own addresses?
    pub on_gateway: bool,
    /// When it ends unless renewed.
    pub ends: WallMs,
    /// Beyond which it is never renewed.
    pub until: WallMs,
}

/// A pairing in the store, without its PSK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairingRecord {
    /// Its id.
    pub id: PairingId,
    /// The device.
    pub device: DeviceId,
    /// The gateway.
    pub gateway: GatewayId,
    /// The client's data key.
    pub client_key: [u8; 32],
    /// The device's IPv4 address.
    pub device_v4: Ipv4Addr,
    /// The device's IPv6 address.
    pub device_v6: Ipv6Addr,
}

impl PairingRecord {
    pub(crate) fn of(pairing: &Pairing, gateway: GatewayId) -> Self {
        Self {
            id: pairing.id,
            device: pairing.device,
            gateway,
            client_key: pairing.client_key.0,
            device_v4: pairing.device_v4,
            device_v6: pairing.device_v6,
        }
    }

    pub(crate) fn into_pairing(self, psk: Psk) -> Pairing {
        Pairing {
            id: self.id,
            device: self.device,
            client_key: PublicKey(self.client_key),
            psk,
            device_v4: self.device_v4,
            device_v6: self.device_v6,
        }
    }
}

/// What is left of an ended grant: its id never comes alive again, and its NAT addresses rest until the gateway said
/// that it is gone. Kept for the longest lease and [`model::limits::TOMBSTONE_EXTRA`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The grant.
    pub grant: GrantId,
    /// Its device.
    pub device: DeviceId,
    /// Its gateway.
    pub gateway: GatewayId,
    /// What it led to.
    pub resource: ResourceId,
    /// The log-in that it stood on.
    pub session: SessionId,
    /// Its NAT number.
    pub nat_number: u32,
    /// Why it ended.
    pub cause: Cause,
    /// The state in which it was gone.
    pub revision: Revision,
    /// When it was ended.
    pub ended: WallMs,
    /// When it would have ended by itself at the latest: until then a gateway that was not reached may honour it.
    pub lapses: WallMs,
}

/// Why did a grant end? Its text is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Its life ran out, or what it stood on did.
    #[error("its time is over")]
    Expired,
    /// The client gave it back.
    #[error("given back by the device")]
    Returned,
    /// A new grant took its place.
    #[error("replaced by a newer grant")]
    Replaced,
    /// The person logged out, or the session was ended.
    #[error("the session ended")]
    Session,
    /// The user was disabled or deleted.
    #[error("the user was disabled")]
    User,
    /// The device was revoked.
    #[error("the device was revoked")]
    Device,
    /// The decision, taken again, is a deny.
    #[error("no longer permitted")]
    Policy,
    /// The resource was changed or deleted.
    #[error("the resource was changed or deleted")]
    Resource,
    /// The gateway was removed, or has other addresses now.
    #[error("the gateway was removed or changed")]
    Gateway,
    /// The gateway did not answer in time, and another took its place.
    #[error("the gateway did not answer")]
    Unreached,
    /// The gateway's own checks refused it.
    #[error("refused by the gateway's own checks")]
    Refused,
    /// An administrator ended it.
    #[error("ended by an administrator")]
    Administrator,
    /// The organisation's state was restored from a backup.
    #[error("the controller was restored from a backup")]
    Restored,
}

impl From<Cause> for Ending {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Expired => Self::Expired,
            Cause::Returned => Self::Returned,
            Cause::Replaced => Self::Replaced,
            Cause::Session => Self::Session,
            Cause::User => Self::User,
            Cause::Device => Self::Device,
            Cause::Policy => Self::Policy,
            Cause::Resource => Self::Resource,
            Cause::Gateway => Self::Gateway,
            Cause::Unreached => Self::Unreached,
            Cause::Refused => Self::Refused,
            Cause::Administrator => Self::Administrator,
            Cause::Restored => Self::Restored,
        }
    }
}

/// Whole milliseconds, saturating.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
