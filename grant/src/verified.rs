//! When does a gateway accept a grant that came off the wire? The one checked constructor of [`VerifiedGrant`].

use model::grant::Grant;
use model::limits::{LEASE_MAX, LEASE_MIN, RULES_PER_GRANT_MAX};
use model::net::{Prefix, Protocol, Target, never_a_target};
use model::pool::{NatPool, Pool};
use std::net::{IpAddr, Ipv4Addr};

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

fn nat_number(nat: &NatPool, address: Ipv4Addr) -> Option<u32> {
    match nat.v4.address() {
        IpAddr::V4(first) => u32::from(address).checked_sub(u32::from(first)),
        IpAddr::V6(_) => None,
    }
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
        // The same number in both families, so that neither the pool's first nor its last address is ever one.
        let number = nat_number(&scope.nat, grant.nat_v4);
        if number.and_then(|n| scope.nat.pair(n)) != Some((grant.nat_v4, grant.nat_v6)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{device, grant_id, nat, pairing_id, resource, rule, scope};
    use model::net::{PortRange, Rule};
    use std::net::Ipv6Addr;
    use std::time::Duration;

    fn grant() -> Grant {
        let (nat_v4, nat_v6) = nat().pair(1).unwrap();
        Grant {
            id: grant_id(1),
            pairing: pairing_id(1),
            device: device(1),
            resource: resource(1),
            rules: vec![rule(1)],
            nat_v4,
            nat_v6,
            ends_in: Duration::from_secs(60),
            lease: Duration::from_secs(60),
            on_gateway: false,
        }
    }

    fn check(grant: Grant) -> Option<GrantError> {
        VerifiedGrant::verify(grant, &scope()).err()
    }

    fn leads(client: &str, target: &str) -> Option<GrantError> {
        let target = match target.parse() {
            Ok(prefix) => Target::Prefix(prefix),
            Err(_) => Target::Name(target.parse().unwrap()),
        };
        check(Grant { rules: vec![Rule { client: client.parse().unwrap(), target, ..rule(1) }], ..grant() })
    }

    #[test]
    fn absent_and_out_of_bounds_are_refused() {
        assert_eq!(check(grant()), None);
        assert_eq!(check(Grant { rules: vec![], ..grant() }), Some(GrantError::Rules));
        assert_eq!(check(Grant { rules: vec![rule(1); RULES_PER_GRANT_MAX], ..grant() }), None);
        assert_eq!(check(Grant { rules: vec![rule(1); RULES_PER_GRANT_MAX + 1], ..grant() }), Some(GrantError::Rules));
        assert_eq!(check(Grant { ends_in: Duration::ZERO, ..grant() }), Some(GrantError::Ended));
        for lease in [Duration::ZERO, LEASE_MIN / 2, LEASE_MAX * 2] {
            assert_eq!(check(Grant { lease, ..grant() }), Some(GrantError::Lease));
        }
    }

    #[test]
    fn nat_addresses_are_a_pair_of_this_gateways_pool() {
        let (v4, v6) = nat().pair(2).unwrap();
        let first: Ipv4Addr = "198.18.0.0".parse().unwrap();
        let last: Ipv4Addr = "198.19.255.255".parse().unwrap();
        for nat_v4 in [v4, first, last, Ipv4Addr::new(10, 0, 0, 9), Ipv4Addr::UNSPECIFIED] {
            assert_eq!(check(Grant { nat_v4, ..grant() }), Some(GrantError::Nat), "{nat_v4}");
        }
        for nat_v6 in [v6, "fd98::1".parse().unwrap(), Ipv6Addr::LOCALHOST] {
            assert_eq!(check(Grant { nat_v6, ..grant() }), Some(GrantError::Nat), "{nat_v6}");
        }
    }

    #[test]
    fn both_sides_of_a_rule_fit_each_other() {
        // (client's side, service's side, accepted)
        let (v4, v6) = ("10.77.64.1", "fd12:3456:789a:4::1");
        for (client, target) in [
            (v4, "10.0.0.9"),
            (v6, "2001:db8:5::9"),
            (v4, "db.corp.example"),
            (v6, "db.corp.example"),
            ("10.0.0.0/25", "10.0.0.0/25"),
            ("2001:db8:5::/80", "2001:db8:5::/80"),
            ("10.0.0.9", "10.0.0.9"),
        ] {
            assert_eq!(leads(client, target), None, "{client} -> {target}");
        }
        for (client, target) in
            [(v4, "2001:db8:5::9"), (v6, "10.0.0.9"), (v4, "10.0.0.0/25"), ("10.0.0.0/25", "10.0.0.0/26")]
        {
            assert!(matches!(leads(client, target), Some(GrantError::Shape(_))), "{client} -> {target}");
        }
        for (client, target) in [
            ("10.0.0.8", "10.0.0.9"),
            ("8.8.8.8", "10.0.0.9"),
            ("10.77.0.53", "10.0.0.9"),
            ("10.77.1.1", "10.0.0.9"),
            ("10.0.0.9", "db.corp.example"),
            ("10.77.64.0/24", "db.corp.example"),
        ] {
            assert!(matches!(leads(client, target), Some(GrantError::Client(_))), "{client} -> {target}");
        }
    }

    #[test]
    fn a_target_lies_in_the_site_and_is_nothing_of_ours() {
        for target in [
            "10.0.1.9",
            "10.0.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "10.77.1.1",
            "198.18.0.9",
        ] {
            assert!(matches!(leads("10.77.64.1", target), Some(GrantError::Target(_))), "{target}");
        }
        for target in [
            "2001:db8:6::9",
            "2001:db8:5::1",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:10.0.0.9",
            "64:ff9b::a00:9",
            "2002:a00:9::1",
        ] {
            assert!(matches!(leads("fd12:3456:789a:4::1", target), Some(GrantError::Target(_))), "{target}");
        }
        assert!(matches!(leads("10.0.0.0/23", "10.0.0.0/23"), Some(GrantError::Target(_))), "wider than the site");
        let own = Rule { target: Target::Prefix("10.0.0.1".parse().unwrap()), ports: PortRange::ALL, ..rule(1) };
        assert_eq!(check(Grant { rules: vec![own], on_gateway: true, ..grant() }), None);
        // Even a site that is the whole world.
        let world = Scope { site: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()], ..scope() };
        for target in [
            "127.0.0.1",
            "169.254.169.254",
            "10.77.1.1",
            "198.18.0.9",
            "fd12:3456:789a::1",
            "fd99::1",
            "::ffff:8.8.8.8",
        ] {
            assert!(!world.admits(target.parse().unwrap(), true), "{target}");
        }
        assert!(world.admits("8.8.8.8".parse().unwrap(), false));
    }
}
