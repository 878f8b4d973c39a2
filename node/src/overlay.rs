//! The TUN device on the host: which addresses and routes does a program set, and how are they undone?
//!
//! They live on our own device, so they go with it when the process ends, however it ends.

use host::netlink::{Netlink, NetlinkError, Route};
use host::offload::Steps;
use host::tun::{Tun, TunError};
use model::limits::TUN_MTU;
use model::net::Prefix;
use std::net::IpAddr;

/// Why the device could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// The device itself.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// Its addresses or routes.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Our device's place in the host's network.
pub struct Overlay {
    netlink: Netlink,
    link: u32,
    name: String,
}

impl Overlay {
    /// Makes the device, up, without addresses.
    pub async fn open(name: &str, steps: Steps) -> Result<(Tun, Self), OverlayError> {
        let tun = Tun::open_with(name, u16::try_from(TUN_MTU).unwrap_or(1420), steps)?;
        let netlink = Netlink::open()?;
        // Before it is up, so that the kernel makes no link-local address of its own.
        host::netlink::prepare_ipv6(tun.name())?;
        let link = netlink.index(tun.name()).await?;
        netlink.set_queue_len(link, 1_000).await?;
        netlink.set_up(link).await?;
        let name = tun.name().to_owned();
        Ok((tun, Self { netlink, link, name }))
    }

    /// A second hand on the same device, for another task. The device is the program's all the same.
    pub fn again(&self) -> Result<Self, OverlayError> {
        Ok(Self { netlink: Netlink::open()?, link: self.link, name: self.name.clone() })
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The device's index.
    pub const fn link(&self) -> u32 {
        self.link
    }

    /// The host's network, for questions.
    pub const fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// Gives the device an address, alone (/32, /128).
    pub async fn add_address(&self, address: IpAddr) -> Result<(), OverlayError> {
        Ok(self.netlink.add_address(self.link, address, Prefix::host(address).bits()).await?)
    }

    /// Takes an address away again; one that is not there is fine.
    pub async fn delete_address(&self, address: IpAddr) -> Result<(), OverlayError> {
        self.netlink.delete_address(self.link, address, Prefix::host(address).bits()).await?;
        Ok(())
    }

    /// Routes a prefix into the device, with the address that its packets shall have as source.
    pub async fn add_route(&self, destination: Prefix, source: Option<IpAddr>) -> Result<(), OverlayError> {
        Ok(self.netlink.replace_route(self.route(destination, source)).await?)
    }

    /// Takes a route away again; one that is not there is fine.
    pub async fn delete_route(&self, destination: Prefix) -> Result<(), OverlayError> {
        self.netlink.delete_route(self.route(destination, None)).await?;
        Ok(())
    }

    /// Addresses and connected routes of the host that overlap one of `ours`, other than on our own device.
    pub async fn collisions(&self, ours: &[Prefix]) -> Result<Vec<Prefix>, OverlayError> {
        let mut found: Vec<Prefix> = Vec::new();
        for address in self.netlink.addresses().await? {
            if address.link != self.link && ours.iter().any(|p| p.overlaps(&address.prefix)) {
                found.push(address.prefix);
            }
        }
        for route in self.netlink.routes().await? {
            let foreign = route.link != Some(self.link) && route.unicast && route.destination.bits() > 0;
            if foreign && ours.iter().any(|p| p.overlaps(&route.destination)) && !found.contains(&route.destination) {
                found.push(route.destination);
            }
        }
        Ok(found)
    }

    const fn route(&self, destination: Prefix, source: Option<IpAddr>) -> Route {
        Route { destination, link: self.link, source, metric: None }
    }
}
