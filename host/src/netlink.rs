//! How are links, addresses and routes set, listed and watched? Over rtnetlink (rtnetlink(7)), without programs.
//!
//! A value speaks for the network namespace of the thread that opened it.

mod blackhole;
mod watch;

pub use blackhole::{Holder, add_blackholes, hold_blackholes, remove_blackholes};
pub use watch::{Change, Watch};

use crate::checks::CheckError;
use crate::sysctl::{self, SysctlError};
use model::limits::DUMP_TRIES_MAX;
use model::net::Prefix;
use nlink::netlink::messages::RouteMessage;
use nlink::netlink::types::route::RouteType;
use nlink::{Ipv4Address, Ipv4Route, Ipv6Address, Ipv6Route};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The table of the machine's own addresses (`ip route show table local`); nobody adds to it by hand.
const TABLE_LOCAL: u32 = 255;
/// `addr_gen_mode`: no link-local address of the kernel's making.
const ADDR_GEN_NONE: &str = "1";

/// Why a change of links, addresses or routes failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// Not allowed.
    #[error(transparent)]
    Machine(#[from] CheckError),
    /// A switch of the link.
    #[error(transparent)]
    Switch(#[from] SysctlError),
    /// Address and source of different families, or the like.
    #[error("a route to {0} cannot have a source of the other family")]
    Family(Prefix),
    /// No such link.
    #[error("there is no interface '{0}' (`ip link` lists them)")]
    NoLink(String),
    /// The kernel closed the stream of changes.
    #[error("the watch for network changes ended: open it again, and list everything")]
    WatchEnded,
    /// The kernel's refusal.
    #[error("cannot {action}: {source}")]
    Kernel {
        /// What was tried.
        action: String,
        /// The answer.
        source: nlink::netlink::Error,
    },
}

/// A route that a program of ours sets: to a link, with the source address that the machine's own packets take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: Prefix,
    /// Index of the link.
    pub link: u32,
    /// Preferred source; it must be an address of this machine.
    pub source: Option<IpAddr>,
    /// Metric; the kernel's default when `None`.
    pub metric: Option<u32>,
}

/// A route of the machine, of any table but that of its own addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteEntry {
    /// Where to.
    pub destination: Prefix,
    /// Index of the link; none for a blackhole or several next hops.
    pub link: Option<u32>,
    /// The next router; none on an on-link route.
    pub gateway: Option<IpAddr>,
    /// Preferred source.
    pub source: Option<IpAddr>,
    /// Routing table: 254 is main.
    pub table: u32,
    /// Whether it leads somewhere, and is no blackhole, unreachable or prohibit route.
    pub unicast: bool,
}

/// An address of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressEntry {
    /// The address.
    pub address: IpAddr,
    /// The on-link prefix that comes with it.
    pub prefix: Prefix,
    /// Index of its link.
    pub link: u32,
}

/// A connection to rtnetlink.
pub struct Netlink(nlink::Connection<nlink::Route>);

impl Netlink {
    /// Opens it, in the calling thread's network namespace. Needs a tokio runtime.
    pub fn open() -> Result<Self, NetlinkError> {
        nlink::Connection::<nlink::Route>::new().map(Self).map_err(failed("open rtnetlink"))
    }

    /// The index of a link.
    pub async fn index(&self, name: &str) -> Result<u32, NetlinkError> {
        let link = self.0.get_link_by_name(name).await.map_err(failed(format!("look up '{name}'")))?;
        link.map(|link| link.ifindex()).ok_or_else(|| NetlinkError::NoLink(name.to_owned()))
    }

    /// Brings a link up.
    pub async fn set_up(&self, link: u32) -> Result<(), NetlinkError> {
        self.0.set_link_up_by_index(link).await.map_err(failed(format!("bring interface {link} up")))
    }

    /// Sets a link's MTU, bytes.
    pub async fn set_mtu(&self, link: u32, bytes: u32) -> Result<(), NetlinkError> {
        let done = self.0.set_link_mtu_by_index(link, bytes).await;
        done.map_err(failed(format!("set the MTU of interface {link} to {bytes}")))
    }

    /// Sets how many packets may wait in a link's queue.
    pub async fn set_queue_len(&self, link: u32, packets: u32) -> Result<(), NetlinkError> {
        let done = self.0.set_link_txqlen_by_index(link, packets).await;
        done.map_err(failed(format!("set the queue of interface {link} to {packets} packets")))
    }

    /// Adds an address as a host's: no duplicate detection, and no route that the kernel would add for `len`. An
    /// address that is there already stays.
    pub async fn add_address(&self, link: u32, address: IpAddr, len: u8) -> Result<(), NetlinkError> {
        let done = match address {
            IpAddr::V4(v4) => self.0.replace_address(Ipv4Address::with_index(link, v4, len).noprefixroute()).await,
            IpAddr::V6(v6) => {
                self.0.replace_address(Ipv6Address::with_index(link, v6, len).nodad().noprefixroute()).await
            }
        };
        done.map_err(failed(format!("give interface {link} the address {address}/{len}")))
    }

    /// Removes an address; `false` when it was not there.
    pub async fn delete_address(&self, link: u32, address: IpAddr, len: u8) -> Result<bool, NetlinkError> {
        match self.0.del_address_by_index(link, address, len).await {
            Ok(()) => Ok(true),
            Err(error) if gone(&error) => Ok(false),
            Err(error) => Err(failed(format!("remove the address {address}/{len} from interface {link}"))(error)),
        }
    }

    /// Adds a route; an error when there is one with the same destination and metric.
    pub async fn add_route(&self, route: Route) -> Result<(), NetlinkError> {
        let done = match checked(route)? {
            Family::V4(config) => self.0.add_route(config).await,
            Family::V6(config) => self.0.add_route(config).await,
        };
        done.map_err(failed(format!("add a route to {}", route.destination)))
    }

    /// Adds a route, in place of one with the same destination and metric.
    pub async fn replace_route(&self, route: Route) -> Result<(), NetlinkError> {
        let done = match checked(route)? {
            Family::V4(config) => self.0.replace_route(config).await,
            Family::V6(config) => self.0.replace_route(config).await,
        };
        done.map_err(failed(format!("set the route to {}", route.destination)))
    }

    /// Removes a route over this link; `false` when it was not there.
    pub async fn delete_route(&self, route: Route) -> Result<bool, NetlinkError> {
        // The source is no part of what names a route; a wrong one would keep it from being found.
        let done = match checked(Route { source: None, ..route })? {
            Family::V4(config) => self.0.del_route(config).await,
            Family::V6(config) => self.0.del_route(config).await,
        };
        match done {
            Ok(()) => Ok(true),
            Err(error) if gone(&error) => Ok(false),
            Err(error) => Err(failed(format!("remove the route to {}", route.destination))(error)),
        }
    }

    /// Every route, of every table but the local one.
    pub async fn routes(&self) -> Result<Vec<RouteEntry>, NetlinkError> {
        let routes = self.dump_routes().await?;
        Ok(routes.iter().filter(|route| route.table_id() != TABLE_LOCAL).map(route_entry).collect())
    }

    async fn dump_routes(&self) -> Result<Vec<RouteMessage>, NetlinkError> {
        asked_again(|| self.0.get_routes()).await.map_err(failed("list the routes"))
    }

    /// Every address.
    pub async fn addresses(&self) -> Result<Vec<AddressEntry>, NetlinkError> {
        let addresses = asked_again(|| self.0.get_addresses()).await.map_err(failed("list the addresses"))?;
        Ok(addresses.iter().filter_map(address_entry).collect())
    }
}

/// A table of the kernel; once more where it changed while it was read, at most [`DUMP_TRIES_MAX`] times in all.
async fn asked_again<T, F>(mut ask: impl FnMut() -> F) -> Result<T, nlink::netlink::Error>
where
    F: Future<Output = Result<T, nlink::netlink::Error>>,
{
    let mut tries = 1;
    loop {
        match ask().await {
            Err(error) if error.is_dump_interrupted() && tries < DUMP_TRIES_MAX => tries += 1,
            done => return done,
        }
    }
}

/// Prepares a TUN link for IPv6, before it comes up: allowed, no router advertisements heard, no link-local address
/// of the kernel's making. `false` when the machine has no IPv6 at all.
pub fn prepare_ipv6(name: &str) -> Result<bool, NetlinkError> {
    let switch = |key| ["net", "ipv6", "conf", name, key];
    if !sysctl::exists(&["net", "ipv6", "conf", name]) {
        return Ok(false);
    }
    // The mode first: allowing IPv6 on a link that is up makes the address at once.
    for (key, value) in [("addr_gen_mode", ADDR_GEN_NONE), ("accept_ra", "0"), ("disable_ipv6", "0")] {
        sysctl::set(&switch(key), value)?;
    }
    Ok(true)
}

enum Family {
    V4(Ipv4Route),
    V6(Ipv6Route),
}

/// A route as the library wants it.
fn checked(route: Route) -> Result<Family, NetlinkError> {
    let len = route.destination.bits();
    match (route.destination.address(), route.source) {
        (IpAddr::V4(destination), None | Some(IpAddr::V4(_))) => {
            let mut config = Ipv4Route::from_addr(destination, len).dev_index(route.link);
            if let Some(IpAddr::V4(source)) = route.source {
                config = config.prefsrc(source);
            }
            if let Some(metric) = route.metric {
                config = config.metric(metric);
            }
            Ok(Family::V4(config))
        }
        (IpAddr::V6(destination), None | Some(IpAddr::V6(_))) => {
            let mut config = Ipv6Route::from_addr(destination, len).dev_index(route.link);
            if let Some(IpAddr::V6(source)) = route.source {
                config = config.prefsrc(source);
            }
            if let Some(metric) = route.metric {
                config = config.metric(metric);
            }
            Ok(Family::V6(config))
        }
        _ => Err(NetlinkError::Family(route.destination)),
    }
}

fn route_entry(route: &RouteMessage) -> RouteEntry {
    let any: IpAddr = if route.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    RouteEntry {
        destination: Prefix::containing(route.destination().copied().unwrap_or(any), route.dst_len()),
        link: route.oif(),
        gateway: route.gateway().or(route.via()).copied(),
        source: route.prefsrc().copied(),
        table: route.table_id(),
        unicast: route.route_type() == RouteType::Unicast,
    }
}

fn address_entry(message: &nlink::netlink::messages::AddressMessage) -> Option<AddressEntry> {
    let address = *message.primary_address()?;
    // On a point-to-point link the prefix belongs to the other end.
    let on_link = message.address().copied().unwrap_or(address);
    let prefix = Prefix::containing(on_link, message.prefix_len());
    Some(AddressEntry { address, prefix, link: message.ifindex() })
}

/// Whether the thing to remove was not there, or went with its link.
fn gone(error: &nlink::netlink::Error) -> bool {
    error.is_not_found() || matches!(error.errno(), Some(libc::EADDRNOTAVAIL | libc::ESRCH | libc::ENODEV))
}

fn failed(action: impl Into<String>) -> impl FnOnce(nlink::netlink::Error) -> NetlinkError {
    move |source| {
        if source.is_permission_denied() && crate::checks::net_admin().is_err() {
            return NetlinkError::Machine(CheckError::NoNetAdmin);
        }
        NetlinkError::Kernel { action: action.into(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Host, privileged};
    use crate::tun::Tun;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("prefix")
    }

    #[tokio::test]
    async fn a_table_that_changes_while_it_is_read_is_asked_for_so_often_and_no_more() {
        let answered = async |interrupted: usize| {
            let mut asked = 0;
            let answer = asked_again(|| {
                asked += 1;
                let again = asked <= interrupted;
                async move { if again { Err(nlink::netlink::Error::dump_interrupted()) } else { Ok(7) } }
            });
            (answer.await.ok(), asked)
        };
        assert_eq!(answered(DUMP_TRIES_MAX - 1).await, (Some(7), DUMP_TRIES_MAX));
        assert_eq!(answered(DUMP_TRIES_MAX).await, (None, DUMP_TRIES_MAX));
        assert_eq!(answered(0).await, (Some(7), 1));
    }

    #[test]
    fn a_tun_gets_addresses_and_routes_and_loses_them() {
        if !privileged() {
            return;
        }
        Host::new().block_on(|| async {
            let tun = Tun::open("umbra-net", 1420).expect("tun");
            let netlink = Netlink::open().expect("open");
            let link = netlink.index("umbra-net").await.expect("index");
            assert_eq!(link, tun.index());
            assert!(matches!(netlink.index("nothing").await, Err(NetlinkError::NoLink(_))));
            assert!(prepare_ipv6("umbra-net").expect("switches"));
            netlink.set_mtu(link, 1380).await.expect("mtu");
            netlink.set_queue_len(link, 1000).await.expect("queue");
            netlink.set_up(link).await.expect("up");

            let own = [(address("100.70.0.1"), 32), (address("fd00:7::1"), 128)];
            for (address, len) in own {
                netlink.add_address(link, address, len).await.expect("address");
                netlink.add_address(link, address, len).await.expect("again");
            }
            let addresses = netlink.addresses().await.expect("list");
            let mut ours: Vec<IpAddr> =
                addresses.iter().filter(|entry| entry.link == link).map(|entry| entry.address).collect();
            ours.sort();
            assert_eq!(ours, [own[0].0, own[1].0], "and no link-local address");

            for (destination, source) in [("100.70.9.0/24", own[0].0), ("fd00:7:9::/64", own[1].0)] {
                let destination = prefix(destination);
                let route = Route { destination, link, source: Some(source), metric: None };
                netlink.add_route(route).await.expect("add");
                assert!(netlink.add_route(route).await.is_err(), "there is one already");
                netlink.replace_route(route).await.expect("replace");
                let find = || async {
                    let routes = netlink.routes().await.expect("list");
                    routes.into_iter().find(|entry| entry.destination == destination)
                };
                let entry = find().await.expect("the route");
                assert_eq!((entry.link, entry.source, entry.unicast), (Some(link), Some(source), true));
                assert!(netlink.delete_route(route).await.expect("delete"));
                assert!(!netlink.delete_route(route).await.expect("nothing there"));
                assert_eq!(find().await, None);
            }
            for (address, len) in own {
                assert!(netlink.delete_address(link, address, len).await.expect("delete"));
                assert!(!netlink.delete_address(link, address, len).await.expect("nothing there"));
            }
            let mixed = Route { destination: prefix("10.0.0.0/8"), link, source: Some(own[1].0), metric: None };
            assert!(matches!(netlink.add_route(mixed).await, Err(NetlinkError::Family(_))));
        });
    }

    #[test]
    fn no_route_comes_with_an_address() {
        if !privileged() {
            return;
        }
        Host::new().block_on(|| async {
            let tun = Tun::open("umbra-net", 1420).expect("tun");
            let netlink = Netlink::open().expect("open");
            netlink.set_up(tun.index()).await.expect("up");
            let before = netlink.routes().await.expect("list");
            netlink.add_address(tun.index(), address("100.70.0.1"), 16).await.expect("address");
            netlink.add_address(tun.index(), address("fd00:7::1"), 48).await.expect("address");
            let after = netlink.routes().await.expect("list");
            let new: Vec<_> = after.iter().filter(|route| !before.contains(route)).collect();
            assert!(new.iter().all(|route| route.destination.is_host()), "{new:?}");
        });
    }

    #[test]
    fn changes_are_told() {
        if !privileged() {
            return;
        }
        Host::new().block_on(|| async {
            let mut watch = Watch::open().await.expect("watch");
            let tun = Tun::open("umbra-net", 1420).expect("tun");
            assert_eq!(watch.next().await.expect("change"), Change::Link(tun.index()));
            let netlink = Netlink::open().expect("open");
            netlink.add_address(tun.index(), address("100.70.0.1"), 32).await.expect("address");
            while watch.next().await.expect("change") != Change::Address(tun.index()) {}
            netlink.set_up(tun.index()).await.expect("up");
            let destination = prefix("100.70.9.0/24");
            let route = Route { destination, link: tun.index(), source: None, metric: None };
            netlink.add_route(route).await.expect("route");
            while watch.next().await.expect("change") != Change::Route {}
        });
    }
}
