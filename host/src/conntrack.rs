//! How do a grant's flows leave the kernel? Its address is the original source of each of their connection tracking
//! entries: all of those are deleted, over ctnetlink, without a program.

mod own_words;

use crate::checks::{self, CheckError};
use model::limits::CONNTRACK_ANSWER_MAX;
use nlink::netlink::netfilter::ConntrackFilter;
use nlink::netlink::{Connection, Netfilter};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

/// Why entries could not be deleted.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// Not allowed.
    #[error(transparent)]
    Machine(#[from] CheckError),
    /// The kernel's refusal.
    #[error("cannot delete the connection tracking entries of {address}: {source}")]
    Kernel {
        /// The original source.
        address: IpAddr,
        /// The answer.
        source: nlink::netlink::Error,
    },
    /// No connection to the kernel.
    #[error("cannot open connection tracking ({0}): load it with `modprobe nf_conntrack_netlink`")]
    Open(#[source] nlink::netlink::Error),
}

/// A connection to the kernel's connection tracking. Kept open: a revoke waits for it.
pub struct Conntrack(Connection<Netfilter>);

impl Conntrack {
    /// Opens it, in the calling thread's network namespace. Needs a tokio runtime.
    pub fn open() -> Result<Self, ConntrackError> {
        Connection::<Netfilter>::new().map(Self).map_err(ConntrackError::Open)
    }

    /// Deletes every entry whose original source is `address`. The caller has stopped the flows first: one that begins
    /// meanwhile may be missed.
    ///
    /// IPv4 is one request where the kernel can filter (6.12). IPv6 is a dump and a request for each entry: the
    /// kernel's own comparison of IPv6 addresses cannot be used.
    pub async fn delete_by_source(&self, address: IpAddr) -> Result<(), ConntrackError> {
        self.delete_by_sources(&BTreeSet::from([address])).await.map_err(|(_, error)| error)
    }

    /// The same for several addresses, with one walk through the table for all of IPv6. Which may be left, and the first
    /// refusal. It takes [`CONNTRACK_ANSWER_MAX`] for each family at most.
    pub async fn delete_by_sources(
        &self,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<(), (BTreeSet<IpAddr>, ConntrackError)> {
        let (v4, v6): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) = addresses.iter().partition(|address| address.is_ipv4());
        let sources = v6.iter().filter_map(|address| if let IpAddr::V6(v6) = address { Some(*v6) } else { None });
        let sources: BTreeSet<Ipv6Addr> = sources.collect();
        let (mut left, mut first) = (BTreeSet::new(), None);
        // Of a family either all is gone, or all may be left: to delete again what is gone does no harm.
        for (family, done) in [
            (v4.clone(), in_time(self.delete_each(&v4)).await),
            (v6, in_time(own_words::delete_by_source(&sources)).await),
        ] {
            if let (Some(one), Err(error)) = (family.first().copied(), done) {
                first = first.or(Some((one, error)));
                left.extend(family);
            }
        }
        match first {
            None => Ok(()),
            Some((_, source)) if source.is_permission_denied() && checks::net_admin().is_err() => {
                Err((left, ConntrackError::Machine(CheckError::NoNetAdmin)))
            }
            Some((address, source)) => Err((left, ConntrackError::Kernel { address, source })),
        }
    }
}

impl Conntrack {
    /// IPv4, one request each. One that cannot be deleted keeps no other alive; the first refusal is told.
    async fn delete_each(&self, addresses: &BTreeSet<IpAddr>) -> nlink::Result<()> {
        let mut refused = Ok(());
        for address in addresses {
            let filter = ConntrackFilter::new().orig_src(*address);
            refused = refused.and(self.0.flush_conntrack_matching(&filter).await.map(drop));
        }
        refused
    }
}

/// A kernel whose answer is lost must not hold up the caller.
async fn in_time(asked: impl Future<Output = nlink::Result<()>>) -> nlink::Result<()> {
    tokio::time::timeout(CONNTRACK_ANSWER_MAX, asked)
        .await
        .unwrap_or_else(|_| Err(nlink::netlink::Error::invalid_message("the kernel did not answer in time")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::Dark;
    use crate::test_support::{Host, ip, privileged};
    use std::net::{SocketAddr, UdpSocket};

    async fn count(conntrack: &Conntrack, source: IpAddr) -> usize {
        let filter = ConntrackFilter::new().orig_src(source);
        conntrack.0.get_conntrack_matching(&filter).await.expect("list").len()
    }

    /// An echo request from an address to itself: a flow without ports.
    fn ping(address: IpAddr) {
        // Nobody may, in a new namespace.
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").expect("allow pings");
        let socket = crate::namespace::open_echo_socket(address.is_ipv6()).expect("ping socket");
        socket.connect(SocketAddr::new(address, 0)).expect("connect");
        socket.send(&[128, 0, 0, 0, 0, 0, 0, 1]).expect("send");
    }

    #[test]
    fn every_entry_of_one_source_goes_and_no_other() {
        if !privileged() {
            return;
        }
        Host::new().block_on(|| async {
            ip("addr add fd00:198::5/128 dev lo nodad");
            ip("addr add fd00:198::6/128 dev lo nodad");
            // A table that asks for connection states switches tracking on.
            let dark = Dark {
                program: "test".to_owned(),
                tun: "umbra-t0".to_owned(),
                udp_port: 1,
                allow_in: Vec::new(),
                sessions: Vec::new(),
                trial: None,
            };
            dark.apply().await.expect("apply");
            let conntrack = Conntrack::open().expect("open");
            for [gone, other] in [["127.0.0.5", "127.0.0.6"], ["fd00:198::5", "fd00:198::6"]] {
                let [gone, other] = [gone, other].map(|text| text.parse::<IpAddr>().expect("address"));
                for (source, flows) in [(gone, 20), (other, 3)] {
                    let socket = UdpSocket::bind(SocketAddr::new(source, 0)).expect("bind");
                    for port in 0..flows {
                        socket.send_to(b"x", SocketAddr::new(source, 9_000 + port)).expect("send");
                    }
                }
                let mut left = (20, 3);
                if gone.is_ipv6() {
                    ping(gone);
                    ping(other);
                    left = (21, 4);
                }
                assert_eq!((count(&conntrack, gone).await, count(&conntrack, other).await), left);
                conntrack.delete_by_source(gone).await.expect("delete");
                assert_eq!((count(&conntrack, gone).await, count(&conntrack, other).await), (0, left.1));
                conntrack.delete_by_source(gone).await.expect("nothing there");
            }
        });
    }
}
