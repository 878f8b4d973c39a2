//! When is this machine on another network? Watches links, addresses and routes, waits for quiet, and compares.

use crate::plan::LocalNet;
use host::netlink::{AddressEntry, Change, Netlink, NetlinkError, RouteEntry, Watch};
use std::time::Duration;
use tokio::sync::mpsc;

/// Changes come in bursts: quiet for this long ends one.
const QUIET: Duration = Duration::from_millis(300);
/// A network that never rests is looked at all the same.
const BURST_MAX: Duration = Duration::from_secs(2);
/// The pause before a watch that ended is opened again.
const REOPEN: Duration = Duration::from_secs(1);

/// The networks around this machine, other than our own device's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Surroundings {
    addresses: Vec<AddressEntry>,
    routes: Vec<RouteEntry>,
}

impl Surroundings {
    /// Reads them; `own` is our device.
    pub async fn read(netlink: &Netlink, own: u32) -> Result<Self, NetlinkError> {
        Ok(Self::of(own, netlink.addresses().await?, netlink.routes().await?))
    }

    fn of(own: u32, mut addresses: Vec<AddressEntry>, mut routes: Vec<RouteEntry>) -> Self {
        addresses.retain(|a| a.link != own);
        // By what is no unicast route nobody is reached: our own blackholes are such, and must not look like another network.
        routes.retain(|r| r.unicast && r.link != Some(own));
        addresses.sort_by_key(|a| (a.link, a.address));
        routes.sort_by_key(|r| (r.table, r.destination, r.link, r.gateway));
        Self { addresses, routes }
    }

    /// The networks around: attached are those that this machine has an address in, whatever a route says of itself, for routes
    /// are what a lying network hands out. Default routes are everybody's.
    pub fn local_nets(&self) -> Vec<LocalNet> {
        let attached = self.addresses.iter().map(|a| LocalNet { prefix: a.prefix, attached: true });
        let routed = self.routes.iter().filter(|r| r.destination.bits() > 0);
        let routed = routed.map(|r| LocalNet { prefix: r.destination, attached: false });
        let mut nets: Vec<LocalNet> = Vec::new();
        for net in attached.chain(routed) {
            if !nets.iter().any(|known| known.prefix == net.prefix) {
                nets.push(net);
            }
        }
        nets
    }
}

/// Says each time that the network is another one. Ends when the receiver goes.
pub fn follow(own: u32) -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while !sender.is_closed() {
            if let Err(error) = watch(own, &sender).await {
                tracing::warn!(%error, "network changes are not seen for a moment");
                tokio::time::sleep(REOPEN).await;
            }
        }
    });
    receiver
}

async fn watch(own: u32, changed: &mpsc::Sender<()>) -> Result<(), NetlinkError> {
    let mut watch = Watch::open().await?;
    let netlink = Netlink::open()?;
    let mut known = Surroundings::read(&netlink, own).await?;
    loop {
        tokio::select! {
            change = watch.next() => if is_own(change?, own) { continue },
            () = changed.closed() => return Ok(()),
        }
        let calm = async {
            while let Ok(change) = tokio::time::timeout(QUIET, watch.next()).await {
                change?;
            }
            Ok::<(), NetlinkError>(())
        };
        if let Ok(ended) = tokio::time::timeout(BURST_MAX, calm).await {
            ended?;
        }
        let now = Surroundings::read(&netlink, own).await?;
        if now != known {
            known = now;
            if changed.send(()).await.is_err() {
                return Ok(());
            }
        }
    }
}

const fn is_own(change: Change, own: u32) -> bool {
    matches!(change, Change::Link(link) | Change::Address(link) if link == own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::net::Prefix;

    fn route(to: &str, link: Option<u32>, gateway: Option<&str>) -> RouteEntry {
        let gateway = gateway.map(|g| g.parse().unwrap());
        RouteEntry { destination: to.parse().unwrap(), link, gateway, source: None, table: 254, unicast: true }
    }

    #[test]
    fn what_we_set_ourselves_is_no_other_network() {
        let before = vec![route("0.0.0.0/0", Some(2), Some("192.168.1.1"))];
        let ours =
            [RouteEntry { unicast: false, ..route("10.77.0.0/16", None, None) }, route("10.77.64.1/32", Some(7), None)];
        let after = before.iter().copied().chain(ours).collect();
        assert_eq!(Surroundings::of(7, Vec::new(), after), Surroundings::of(7, Vec::new(), before.clone()));
        let other = vec![route("0.0.0.0/0", Some(2), Some("192.168.1.254"))];
        assert_ne!(Surroundings::of(7, Vec::new(), other), Surroundings::of(7, Vec::new(), before));
    }

    #[test]
    fn a_default_route_is_nobodys_network() {
        let addresses = vec![AddressEntry {
            address: "192.168.1.7".parse().unwrap(),
            prefix: "192.168.1.0/24".parse().unwrap(),
            link: 2,
        }];
        let routes = vec![
            route("0.0.0.0/0", Some(2), Some("192.168.1.1")),
            route("192.168.1.0/24", Some(2), None),
            route("172.16.0.0/12", Some(2), Some("192.168.1.9")),
            route("10.20.0.8/29", Some(2), None),
            RouteEntry { unicast: false, ..route("10.9.0.0/16", Some(2), None) },
        ];
        let around = Surroundings::of(7, addresses, routes);
        let net = |prefix: &str, attached| LocalNet { prefix: prefix.parse::<Prefix>().unwrap(), attached };
        let nets = [net("192.168.1.0/24", true), net("10.20.0.8/29", false), net("172.16.0.0/12", false)];
        assert_eq!(around.local_nets(), nets);
        assert!(is_own(Change::Link(7), 7) && !is_own(Change::Address(6), 7) && !is_own(Change::Route, 7));
    }
}
