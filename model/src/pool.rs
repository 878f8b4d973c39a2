//! Which overlay addresses does an organisation have, and what is each part of the pool for?
//!
//! IPv6 is a ULA /48 (RFC 4193), IPv4 a /16. The /48 is cut into /64s:
//!
//! | subnet | who lives there |
//! |---|---|
//! | 0 | the controller (`::1`) and the resolver of each client (`::53`) |
//! | 1 | nodes: devices and gateways, by a hash of their id |
//! | 2 | provisional peers, by a hash of their key |
//! | 4 | virtual addresses of resources, by number |
//!
//! The /16 is cut likewise: its first /24 holds the resolver (`.0.53`), devices lie from `.1.0` to `.63.255`, virtual
//! addresses from `.64.0` to `.255.254`.

use crate::net::Prefix;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// TCP port of the controller's gRPC service inside the overlay.
pub const CONTROL_PORT: u16 = 7443;
/// TCP port of enrolment inside the overlay; the only port that a provisional peer reaches.
pub const ENROL_PORT: u16 = 7444;
/// How many devices have an IPv4 address.
pub const DEVICE_V4_COUNT: u32 = 63 * 256;
/// How many virtual addresses there are.
pub const VIRTUAL_COUNT: u32 = 192 * 256 - 1;

/// Why a pool cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Wrong length or family.
    #[error("the pool needs an IPv4 /16 and an IPv6 /48, not {0} and {1}")]
    Shape(Prefix, Prefix),
    /// Not ours to take.
    #[error(
        "{0} cannot be a pool: choose a private range outside 100.64.0.0/10 (for example 10.77.0.0/16), and a /48 in fd00::/8"
    )]
    Range(Prefix),
}

/// The overlay addresses of one organisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "Written")]
pub struct Pool {
    v4: Prefix,
    v6: Prefix,
}

/// As it is written down, before [`Pool::new`] has looked at it.
#[derive(serde::Deserialize)]
struct Written {
    v4: Prefix,
    v6: Prefix,
}

impl TryFrom<Written> for Pool {
    type Error = PoolError;
    fn try_from(written: Written) -> Result<Self, PoolError> {
        Self::new(written.v4, written.v6)
    }
}

impl Pool {
    /// Checks shape and range: RFC 1918 or 198.18/15-free private IPv4, ULA IPv6.
    pub fn new(v4: Prefix, v6: Prefix) -> Result<Self, PoolError> {
        let (IpAddr::V4(a4), IpAddr::V6(a6)) = (v4.address(), v6.address()) else {
            return Err(PoolError::Shape(v4, v6));
        };
        if v4.bits() != 16 || v6.bits() != 48 {
            return Err(PoolError::Shape(v4, v6));
        }
        if !a4.is_private() {
            return Err(PoolError::Range(v4));
        }
        if a6.octets()[0] != 0xfd {
            return Err(PoolError::Range(v6));
        }
        Ok(Self { v4, v6 })
    }
    /// The IPv4 /16.
    pub const fn v4(&self) -> Prefix {
        self.v4
    }
    /// The IPv6 /48.
    pub const fn v6(&self) -> Prefix {
        self.v6
    }
    /// Is the address one of the pool's?
    pub fn contains(&self, address: IpAddr) -> bool {
        self.v4.contains(address) || self.v6.contains(address)
    }

    fn at6(&self, subnet: u16, host: u64) -> Ipv6Addr {
        let base = match self.v6.address() {
            IpAddr::V6(a) => u128::from(a),
            IpAddr::V4(_) => 0,
        };
        Ipv6Addr::from(base | (u128::from(subnet) << 64) | u128::from(host))
    }
    fn at4(&self, offset: u32) -> Ipv4Addr {
        let base = match self.v4.address() {
            IpAddr::V4(a) => u32::from(a),
            IpAddr::V6(_) => 0,
        };
        Ipv4Addr::from(base | (offset & 0xffff))
    }

    /// The controller's overlay address.
    pub fn controller(&self) -> Ipv6Addr {
        self.at6(0, 1)
    }
    /// The IPv4 address at which each client's own resolver answers.
    pub fn resolver_v4(&self) -> Ipv4Addr {
        self.at4(53)
    }
    /// The IPv6 address at which each client's own resolver answers.
    pub fn resolver_v6(&self) -> Ipv6Addr {
        self.at6(0, 0x53)
    }
    /// A node's address, from 64 bits of a hash of its id.
    pub fn node(&self, hash: u64) -> Ipv6Addr {
        self.at6(1, hash)
    }
    /// A provisional peer's address, from 64 bits of a hash of its WireGuard key.
    pub fn provisional(&self, hash: u64) -> Ipv6Addr {
        self.at6(2, hash)
    }
    /// The /64 of nodes.
    pub fn node_net(&self) -> Prefix {
        Prefix::containing(IpAddr::V6(self.at6(1, 0)), 64)
    }
    /// The /64 of provisional peers.
    pub fn provisional_net(&self) -> Prefix {
        Prefix::containing(IpAddr::V6(self.at6(2, 0)), 64)
    }
    /// The IPv4 address of the device with this number (below [`DEVICE_V4_COUNT`]).
    pub fn device_v4(&self, number: u32) -> Option<Ipv4Addr> {
        (number < DEVICE_V4_COUNT).then(|| self.at4(256 + number))
    }
    /// The IPv4 virtual address with this number (below [`VIRTUAL_COUNT`]).
    pub fn virtual_v4(&self, number: u32) -> Option<Ipv4Addr> {
        (number < VIRTUAL_COUNT).then(|| self.at4(64 * 256 + number))
    }
    /// The IPv6 virtual address with this number.
    pub fn virtual_v6(&self, number: u32) -> Option<Ipv6Addr> {
        (number < VIRTUAL_COUNT).then(|| self.at6(4, u64::from(number) + 1))
    }
    /// Is it a virtual address of a resource?
    pub fn is_virtual(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => self.contains(address) && (u32::from(a) & 0xffff) >= 64 * 256,
            IpAddr::V6(_) => Prefix::containing(IpAddr::V6(self.at6(4, 0)), 64).contains(address),
        }
    }
    /// May a device own this IPv4 address?
    pub fn is_device_v4(&self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address) & 0xffff;
        self.contains(IpAddr::V4(address)) && (256..256 + DEVICE_V4_COUNT).contains(&offset)
    }
}

/// From which addresses does a gateway speak to its services? 198.18.0.0/15 (RFC 2544, never routed) and a ULA /48 of
/// its own; each grant has one of each family, so that a kernel conntrack entry belongs to exactly one grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NatPool {
    /// The IPv4 pool.
    pub v4: Prefix,
    /// The IPv6 pool.
    pub v6: Prefix,
}

impl NatPool {
    /// The addresses with this number (from 1): one for each family; `None` when the pool is used up.
    pub fn pair(&self, number: u32) -> Option<(Ipv4Addr, Ipv6Addr)> {
        let (IpAddr::V4(a4), IpAddr::V6(a6)) = (self.v4.address(), self.v6.address()) else { return None };
        let room = 1u32.checked_shl(32 - u32::from(self.v4.bits()))?.checked_sub(1)?;
        (number > 0 && number < room)
            .then(|| (Ipv4Addr::from(u32::from(a4) | number), Ipv6Addr::from(u128::from(a6) | u128::from(number))))
    }
    /// Is the address one of the pool's?
    pub fn contains(&self, address: IpAddr) -> bool {
        self.v4.contains(address) || self.v6.contains(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        Pool::new("10.77.0.0/16".parse().unwrap(), "fd12:3456:789a::/48".parse().unwrap()).unwrap()
    }

    #[test]
    fn parts_do_not_meet() {
        let p = pool();
        assert_eq!(p.controller().to_string(), "fd12:3456:789a::1");
        assert_eq!(p.resolver_v4().to_string(), "10.77.0.53");
        assert_eq!(p.device_v4(0).unwrap().to_string(), "10.77.1.0");
        assert_eq!(p.device_v4(DEVICE_V4_COUNT - 1).unwrap().to_string(), "10.77.63.255");
        assert_eq!(p.virtual_v4(0).unwrap().to_string(), "10.77.64.0");
        assert_eq!(p.virtual_v4(VIRTUAL_COUNT - 1).unwrap().to_string(), "10.77.255.254");
        assert_eq!(p.device_v4(DEVICE_V4_COUNT), None);
        assert!(
            p.is_virtual(IpAddr::V4(p.virtual_v4(7).unwrap())) && p.is_virtual(IpAddr::V6(p.virtual_v6(7).unwrap()))
        );
        assert!(!p.is_virtual(IpAddr::V6(p.node(7))) && !p.is_virtual(IpAddr::V4(p.resolver_v4())));
        assert!(p.is_device_v4(p.device_v4(9).unwrap()) && !p.is_device_v4(p.virtual_v4(0).unwrap()));
    }

    #[test]
    fn wrong_pools_are_refused() {
        let v6: Prefix = "fd00::/48".parse().unwrap();
        for bad in ["100.64.0.0/16", "8.8.0.0/16", "10.0.0.0/8", "127.0.0.0/16"] {
            assert!(Pool::new(bad.parse().unwrap(), v6).is_err(), "{bad}");
        }
        assert!(Pool::new("10.0.0.0/16".parse().unwrap(), "2001:db8::/48".parse().unwrap()).is_err());
    }

    #[test]
    fn nat_pairs_are_distinct_and_end() {
        let nat = NatPool { v4: "198.18.0.0/15".parse().unwrap(), v6: "fd99::/48".parse().unwrap() };
        assert_eq!(nat.pair(0), None);
        assert_eq!(nat.pair(1).unwrap().0.to_string(), "198.18.0.1");
        assert_eq!(nat.pair((1 << 17) - 2).unwrap().0.to_string(), "198.19.255.254");
        assert_eq!(nat.pair((1 << 17) - 1), None);
    }
}
