//! When does the network under us change? A stream of link, address and route changes; the caller waits for quiet.

use super::{NetlinkError, failed};
use nlink::netlink::{NetworkEvent, OwnedEventStream, RtnetlinkGroup};
use tokio_stream::StreamExt;

/// What changed. It says where to look, not what is there now: list again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A link came, went, or went up or down.
    Link(u32),
    /// An address came or went.
    Address(u32),
    /// A route came or went.
    Route,
    /// The kernel had more to tell than there was room for: anything may have changed.
    Unknown,
}

/// The stream of changes. It sees those after it was opened: open it, then list.
pub struct Watch(OwnedEventStream<nlink::Route>);

impl Watch {
    /// Subscribes, in the calling thread's network namespace. Needs a tokio runtime.
    pub async fn open() -> Result<Self, NetlinkError> {
        let connection = nlink::Connection::<nlink::Route>::new().map_err(failed("open rtnetlink"))?;
        let groups = [
            RtnetlinkGroup::Link,
            RtnetlinkGroup::Ipv4Addr,
            RtnetlinkGroup::Ipv6Addr,
            RtnetlinkGroup::Ipv4Route,
            RtnetlinkGroup::Ipv6Route,
        ];
        connection.subscribe(&groups).map_err(failed("watch for network changes"))?;
        Ok(Self(connection.into_events().await))
    }

    /// Waits for the next change; an error means that the watch is over. Nothing is lost when this is dropped.
    pub async fn next(&mut self) -> Result<Change, NetlinkError> {
        loop {
            match self.0.next().await {
                Some(Ok(event)) => {
                    if let Some(change) = change(&event) {
                        return Ok(change);
                    }
                }
                Some(Err(error)) if error.is_no_buffer_space() => return Ok(Change::Unknown),
                Some(Err(error)) => return Err(failed("watch for network changes")(error)),
                None => return Err(NetlinkError::WatchEnded),
            }
        }
    }
}

fn change(event: &NetworkEvent) -> Option<Change> {
    match event {
        NetworkEvent::NewLink(link) | NetworkEvent::DelLink(link) => Some(Change::Link(link.ifindex())),
        NetworkEvent::NewAddress(address) | NetworkEvent::DelAddress(address) => {
            Some(Change::Address(address.ifindex()))
        }
        NetworkEvent::NewRoute(_) | NetworkEvent::DelRoute(_) => Some(Change::Route),
        _ => None,
    }
}
