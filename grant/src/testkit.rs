//! Ids, permits and scopes for the tests of this crate.

use crate::{Cause, Ledger, Moment, Permit, Revocation, Scope, Selector, revoke};
use model::ids::*;
use model::key::PublicKey;
use model::net::{PortRange, Prefix, Protocol, Rule, Target};
use model::pool::{NatPool, Pool};
use model::revision::Revision;
use model::secret::Secret;
use model::time::{Instant, WallMs};
use std::net::IpAddr;
use std::time::Duration;

pub const SECOND: u64 = 1_000_000_000;

macro_rules! maker {
    ($name:ident, $kind:ident) => {
        pub fn $name(n: u64) -> $kind {
            let mut bytes = [0; ID_LEN];
            bytes[2..].copy_from_slice(&n.to_be_bytes());
            $kind::from_bytes(bytes)
        }
    };
}
maker!(device, DeviceId);
maker!(person, UserId);
maker!(workload, AccountId);
maker!(session, SessionId);
maker!(resource, ResourceId);
maker!(gateway, GatewayId);
maker!(grant_id, GrantId);
maker!(pairing_id, PairingId);

/// People and workloads in turns: whose a grant is makes no difference to the ledger.
pub fn user(n: u64) -> SubjectId {
    if n.is_multiple_of(2) { person(n).into() } else { workload(n).into() }
}

pub fn pool() -> Pool {
    Pool::new("10.77.0.0/16".parse().unwrap(), "fd12:3456:789a::/48".parse().unwrap()).unwrap()
}

pub fn nat() -> NatPool {
    NatPool { v4: "198.18.0.0/15".parse().unwrap(), v6: "fd99::/48".parse().unwrap() }
}

pub fn scope() -> Scope {
    Scope {
        pool: pool(),
        nat: nat(),
        site: vec!["10.0.0.0/24".parse().unwrap(), "2001:db8:5::/64".parse().unwrap()],
        own: vec!["10.0.0.1".parse().unwrap(), "2001:db8:5::1".parse().unwrap()],
    }
}

pub fn rule(n: u32) -> Rule {
    Rule {
        client: Prefix::host(IpAddr::V4(pool().virtual_v4(n).unwrap())),
        target: Target::Prefix("10.0.0.9".parse().unwrap()),
        protocol: Protocol::Tcp,
        ports: PortRange { first: 443, last: 443 },
    }
}

pub const fn at(seconds: u64) -> Moment {
    Moment { now: Instant(seconds * SECOND), wall: WallMs(1_700_000_000_000 + seconds as i64 * 1000) }
}

pub const fn rev(number: u64) -> Revision {
    Revision { incarnation: 1, number }
}

/// A permit for device, resource and gateway with these numbers; `fresh` makes ids, key and PSK.
pub fn permit(d: u64, r: u64, g: u64, fresh: u64) -> Permit {
    Permit {
        device: device(d),
        session: session(d),
        user: user(d / 2),
        resource: resource(r),
        gateway: gateway(g),
        rules: vec![rule(r as u32)],
        lease: Duration::from_secs(60),
        on_gateway: false,
        until: Instant::NEVER,
        data_key: PublicKey([(fresh % 251) as u8; 32].map(|b| b ^ (fresh / 251) as u8)),
        device_v4: pool().device_v4(d as u32).unwrap(),
        device_v6: pool().node(d),
        held: Vec::new(),
        moves: None,
        fresh_grant: grant_id(fresh),
        fresh_pairing: pairing_id(fresh),
        fresh_psk: Secret::new([(fresh % 255) as u8 + 1; 32]),
    }
}

/// A ledger with gateways 1 and 2.
pub fn ledger() -> Ledger {
    let mut ledger = Ledger::new(rev(1));
    assert!(ledger.set_gateway(gateway(1), nat()).is_empty());
    assert!(ledger.set_gateway(gateway(2), nat()).is_empty());
    ledger
}

/// Grants and commits.
pub fn give(ledger: &mut Ledger, when: Moment, permit: Permit) -> crate::Granted {
    let granted = ledger.grant(when, permit).unwrap();
    let next = rev(ledger.head().number + 1);
    ledger.commit(granted.grant, next).unwrap();
    granted
}

/// Revokes at the next revision.
pub fn end(ledger: &mut Ledger, when: Moment, which: &Selector) -> Revocation {
    let next = rev(ledger.head().number + 1);
    revoke(ledger, when, which, Cause::Administrator, next)
}
