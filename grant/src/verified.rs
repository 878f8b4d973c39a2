//! When does a gateway accept a grant that came off the wire? The one checked constructor of [`VerifiedGrant`].

use model::grant::Grant;
use model::limits::{LEASE_MAX, LEASE_MIN, RULES_PER_GRANT_MAX};
use model::net::{Prefix, Protocol, Target, never_a_target};
use model::pool::{NatPool, Pool};
use std::net::IpAddr;

/// What a gateway knows about itself, against which grants and final destinations are checked (design, 3.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The organisation's overlay addresses.
    pub pool: Pool,
    /// This gateway's NAT pool.
    pub nat: NatPool,
    /// In which prefixes the site's services lie.
    pub site: Vec<Prefix>,
    /// The gateway's own addresses, on every interface.
    pub own: Vec<IpAddr>,
}

impl Scope {
    /// May a packet's final destination be this address?
    pub fn admits(&self, target: IpAddr, on_gateway: bool) -> bool {
        !never_a_target(target)
            && !self.pool.contains(target)
            && !self.nat.contains(target)
            && self.site.iter().any(|p| p.contains(target))
            && (on_gateway || !self.own.contains(&target))
    }
}

/// Why a grant is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// No rules, or too many.
    #[error("a grant needs 1 to {RULES_PER_GRANT_MAX} rules")]
    Rules,
    /// The lease is out of bounds.
    #[error("the lease must lie between 1 s and 24 h")]
    Lease,
    /// It has ended already.
    #[error("the grant has no life left")]
    Ended,
    /// Its NAT addresses are not from this gateway's pool.
    #[error("the NAT addresses are not of this gateway's pool")]
    Nat,
    /// A rule's client side is neither a virtual address nor equal to its target.
    #[error("the client's prefix {0} is neither a virtual address nor the target itself")]
    Client(Prefix),
    /// Families or lengths of a rule's two sides differ.
    #[error("the two sides of the rule for {0} do not match in family and length")]
    Shape(Prefix),
    /// The target lies outside the site's prefixes, or is never a target.
    #[error("the target {0} lies outside the prefixes of this site, or may never be reached")]
    Target(Prefix),
    /// Its life, counted from the request that the message names, is over: the request was too long ago.
    #[error("its life was counted from a request too long ago")]
    Stale,
    /// Its tunnel is not in the message, nor in the table.
    #[error("its tunnel is not known")]
    Pairing,
    /// Its tunnel is of another device.
    #[error("its tunnel belongs to another device")]
    Device,
    /// The tunnel's addresses cannot be a device's.
    #[error("the addresses of its tunnel are not those of a device")]
    DeviceAddress,
    /// Its tunnel was dropped here, or had another key: it may not be made again.
    #[error("its tunnel was dropped or changed; the client has to make a new one")]
    PairingGone,
    /// Another tunnel has the same data key.
    #[error("the data key of its tunnel is that of another tunnel")]
    Key,
    /// Another grant has the same NAT address.
    #[error("its NAT address belongs to another grant")]
    NatTaken,
    /// The table is full.
    #[error("this gateway holds as many grants as it can")]
    Full,
}

/// A grant that passed this gateway's own checks. There is no other way to make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedGrant {
    grant: Grant,
}

impl VerifiedGrant {
    /// Checks a grant against what this gateway is.
    pub fn verify(grant: Grant, scope: &Scope) -> Result<Self, GrantError> {
        if grant.rules.is_empty() || grant.rules.len() > RULES_PER_GRANT_MAX {
            return Err(GrantError::Rules);
        }
        if grant.lease < LEASE_MIN || grant.lease > LEASE_MAX {
            return Err(GrantError::Lease);
        }
        if grant.ends_in.is_zero() {
            return Err(GrantError::Ended);
        }
        if !scope.nat.v4.contains(IpAddr::V4(grant.nat_v4)) || !scope.nat.v6.contains(IpAddr::V6(grant.nat_v6)) {
            return Err(GrantError::Nat);
        }
        for rule in &grant.rules {
            let is_virtual = rule.client.is_host() && scope.pool.is_virtual(rule.client.address());
            match &rule.target {
                Target::Name(_) if is_virtual => {}
                Target::Name(_) => return Err(GrantError::Client(rule.client)),
                Target::Prefix(target) => {
                    if target.bits() != rule.client.bits()
                        || target.address().is_ipv4() != rule.client.address().is_ipv4()
                    {
                        return Err(GrantError::Shape(rule.client));
                    }
                    if !is_virtual && *target != rule.client {
                        return Err(GrantError::Client(rule.client));
                    }
                    if !scope.site.iter().any(|p| p.covers(target))
                        || (target.is_host() && !scope.admits(target.address(), grant.on_gateway))
                    {
                        return Err(GrantError::Target(*target));
                    }
                }
            }
        }
        Ok(Self { grant })
    }

    /// The plain data.
    pub const fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Does any rule speak of such a packet? Answers the first that does.
    pub fn rule(&self, destination: IpAddr, protocol: Protocol, port: u16) -> Option<&model::net::Rule> {
        self.grant.rules.iter().find(|r| r.matches(destination, protocol, port))
    }
}
