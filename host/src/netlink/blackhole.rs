//! What keeps packets for addresses of ours from following the default route while there is no TUN? Blackhole routes
//! that stand beneath the TUN's: a metric that loses against every other route to the same prefix.
//!
//! They belong to no device, so they outlive a program that is killed; its successor finds them by their metric.

use super::{Netlink, NetlinkError, failed, gone};
use model::net::Prefix;
use nlink::netlink::types::route::RouteType;
use nlink::{Ipv4Route, Ipv6Route};
use std::net::IpAddr;

/// Routing table `main`.
const TABLE_MAIN: u32 = 254;

/// Whose blackhole routes these are: each program knows its own by their metric, also beside another on one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// A gateway: its NAT pools and the organisation's pool.
    Gateway,
    /// A client: the organisation's pool, and the real prefixes of what its user may see.
    Client,
}

impl Holder {
    /// "umbr" as in the connection mark, and the next number: worse than what anybody sets.
    const fn metric(self) -> u32 {
        match self {
            Self::Gateway => crate::nft::MARK,
            Self::Client => crate::nft::MARK.wrapping_add(1),
        }
    }
}

impl Netlink {
    /// Makes these prefixes, and no others, the holder's blackholes. New ones are there before old ones go.
    pub async fn hold_blackholes(&self, holder: Holder, prefixes: &[Prefix]) -> Result<(), NetlinkError> {
        self.add_blackholes(holder, prefixes).await?;
        for held in self.blackholes(holder).await? {
            if prefixes.contains(&held) {
                continue;
            }
            let done = match held.address() {
                IpAddr::V4(v4) => self.0.del_route(blackhole_v4(v4, held.bits(), holder)).await,
                IpAddr::V6(v6) => self.0.del_route(blackhole_v6(v6, held.bits(), holder)).await,
            };
            match done {
                Err(error) if !gone(&error) => {
                    return Err(failed(format!("remove the blackhole route to {held}"))(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes these prefixes the holder's blackholes, beside those that it has.
    pub async fn add_blackholes(&self, holder: Holder, prefixes: &[Prefix]) -> Result<(), NetlinkError> {
        for prefix in prefixes {
            let done = match prefix.address() {
                IpAddr::V4(v4) => self.0.replace_route(blackhole_v4(v4, prefix.bits(), holder)).await,
                IpAddr::V6(v6) => self.0.replace_route(blackhole_v6(v6, prefix.bits(), holder)).await,
            };
            done.map_err(failed(format!("set the blackhole route to {prefix}")))?;
        }
        Ok(())
    }

    /// The prefixes that the holder's blackholes cover, whoever of its predecessors set them.
    pub async fn blackholes(&self, holder: Holder) -> Result<Vec<Prefix>, NetlinkError> {
        let routes = self.dump_routes().await?;
        let ours = routes.iter().filter(|route| {
            route.table_id() == TABLE_MAIN
                && route.route_type() == RouteType::Blackhole
                && route.priority() == Some(holder.metric())
        });
        Ok(ours.map(|route| super::route_entry(route).destination).collect())
    }
}

/// [`Netlink::hold_blackholes`] over a connection of its own: a program does this at its start and its end alone.
pub async fn hold_blackholes(holder: Holder, prefixes: &[Prefix]) -> Result<(), NetlinkError> {
    Netlink::open()?.hold_blackholes(holder, prefixes).await
}

/// [`Netlink::add_blackholes`] over a connection of its own.
pub async fn add_blackholes(holder: Holder, prefixes: &[Prefix]) -> Result<(), NetlinkError> {
    Netlink::open()?.add_blackholes(holder, prefixes).await
}

/// Removes all of the holder's blackholes, and answers which there were. What is not there is no error.
pub async fn remove_blackholes(holder: Holder) -> Result<Vec<Prefix>, NetlinkError> {
    let netlink = Netlink::open()?;
    let held = netlink.blackholes(holder).await?;
    netlink.hold_blackholes(holder, &[]).await?;
    Ok(held)
}

fn blackhole_v4(address: std::net::Ipv4Addr, len: u8, holder: Holder) -> Ipv4Route {
    Ipv4Route::from_addr(address, len).route_type(RouteType::Blackhole).metric(holder.metric())
}

fn blackhole_v6(address: std::net::Ipv6Addr, len: u8, holder: Holder) -> Ipv6Route {
    Ipv6Route::from_addr(address, len).route_type(RouteType::Blackhole).metric(holder.metric())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Route;
    use crate::test_support::{Host, ip, privileged};
    use crate::tun::Tun;
    use std::net::UdpSocket;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("prefix")
    }

    fn sorted(mut prefixes: Vec<Prefix>) -> Vec<Prefix> {
        prefixes.sort();
        prefixes
    }

    /// Where the kernel sends a packet to this address: the name of a link, or why nowhere.
    fn way(address: &str) -> String {
        let output = std::process::Command::new("ip").args(["-o", "route", "get", address]).output().expect("ip runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match text.split_once(" dev ") {
            Some((_, rest)) => rest.split_whitespace().next().expect("a name").to_owned(),
            None => "nowhere".to_owned(),
        }
    }

    #[test]
    fn what_is_ours_never_follows_the_default_route_while_there_is_no_tun() {
        if !privileged() {
            return;
        }
        let (node, other) = (Host::new(), Host::new());
        node.cable("eth0", "10.1.0.1/24 fd01::1/64", &other, ("eth0", "10.1.0.2/24 fd01::2/64"));
        node.block_on(|| async {
            ip("route add default via 10.1.0.2");
            ip("route add default via fd01::2");
            let pools = [prefix("100.70.0.0/16"), prefix("fd00:7::/48")];
            let [v4, v6] = ["100.70.9.1", "fd00:7:0:9::1"];
            assert_eq!([way(v4), way(v6)], ["eth0", "eth0"], "Linux alone asks the default route");

            let netlink = Netlink::open().expect("open");
            netlink.hold_blackholes(Holder::Client, &pools).await.expect("hold");
            netlink.hold_blackholes(Holder::Client, &pools).await.expect("again");
            assert_eq!([way(v4), way(v6)], ["nowhere", "nowhere"]);
            for (own, address) in [("0.0.0.0:0", v4), ("[::]:0", v6)] {
                let socket = UdpSocket::bind(own).expect("bind");
                socket.send_to(b"out", (address, 9)).expect_err("told at once");
            }

            // The TUN's routes win, to one host and to the same prefix.
            let tun = Tun::open("umbra-net", 1420).expect("tun");
            crate::netlink::prepare_ipv6("umbra-net").expect("switches");
            netlink.set_up(tun.index()).await.expect("up");
            for destination in [prefix("100.70.9.1/32"), pools[1]] {
                let route = Route { destination, link: tun.index(), source: None, metric: None };
                netlink.add_route(route).await.expect("route");
            }
            assert_eq!([way(v4), way(v6)], ["umbra-net", "umbra-net"]);
            assert_eq!(way("100.70.9.2"), "nowhere", "what has no route of its own");
            // A killed program's TUN goes; what it held stays.
            drop(tun);
            assert_eq!([way(v4), way(v6)], ["nowhere", "nowhere"]);

            netlink.hold_blackholes(Holder::Client, &[]).await.expect("remove");
            netlink.hold_blackholes(Holder::Client, &[]).await.expect("nothing there");
            assert_eq!([way(v4), way(v6)], ["eth0", "eth0"]);
        });
    }

    #[test]
    fn a_successor_replaces_what_was_left_and_touches_nobody_elses() {
        if !privileged() {
            return;
        }
        Host::new().block_on(|| async {
            ip("route add blackhole 10.9.0.0/16");
            ip("route add blackhole 100.70.0.0/16 metric 7");
            ip("route add blackhole fd09::/48");
            let listing = || {
                let show = |family| {
                    let output = std::process::Command::new("ip").args([family, "route"]).output().expect("ip runs");
                    String::from_utf8(output.stdout).expect("text")
                };
                [show("-4"), show("-6")]
            };
            let before = listing();
            let left = [prefix("198.18.0.0/16"), prefix("100.70.0.0/16"), prefix("fd00:198::/48")];
            let wanted = [prefix("198.18.0.0/15"), prefix("100.70.0.0/16"), prefix("fd00:199::/48")];
            hold_blackholes(Holder::Gateway, &left).await.expect("a predecessor");
            hold_blackholes(Holder::Client, &[prefix("100.70.0.0/16")]).await.expect("another program");
            hold_blackholes(Holder::Gateway, &wanted).await.expect("a successor");
            let netlink = Netlink::open().expect("open");
            assert_eq!(sorted(netlink.blackholes(Holder::Gateway).await.expect("list")), sorted(wanted.to_vec()));
            add_blackholes(Holder::Gateway, &[left[0], wanted[0]]).await.expect("beside");
            let both = [&wanted[..], &left[..1]].concat();
            assert_eq!(sorted(netlink.blackholes(Holder::Gateway).await.expect("list")), sorted(both));
            remove_blackholes(Holder::Gateway).await.expect("remove");
            assert_eq!(netlink.blackholes(Holder::Client).await.expect("list"), [prefix("100.70.0.0/16")]);
            remove_blackholes(Holder::Client).await.expect("remove");
            assert_eq!(listing(), before);
        });
    }
}
