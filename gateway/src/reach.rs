//! Where do clients reach this gateway? Where its administrator says; else at the addresses, one of each family, from which it
//! would speak to its controller.
//!
//! The controller sees one of these on its own. A client that has the other family, or goes from the one to the other, needs both.

use node::link::resolve_endpoints;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;
use tokio::sync::watch;

/// How often this is looked up again.
const EVERY: Duration = Duration::from_secs(60);
/// How long the first look may delay the start.
const FIRST_MAX: Duration = Duration::from_secs(3);

/// What is known of it at the start.
#[derive(Debug, Clone)]
pub struct Reach {
    /// `HOST:PORT` as the administrator says; mostly none.
    pub named: Vec<String>,
    /// `HOST:PORT` of the controller.
    pub controllers: Vec<String>,
    /// Our port.
    pub port: u16,
}

impl Reach {
    async fn look(&self) -> Vec<SocketAddr> {
        if !self.named.is_empty() {
            return resolve_endpoints(&self.named).await;
        }
        let controllers = resolve_endpoints(&self.controllers).await;
        let first = |v4: bool| controllers.iter().find(|controller| controller.is_ipv4() == v4);
        let own =
            [first(false), first(true)].into_iter().flatten().filter_map(|controller| source_towards(*controller));
        own.filter(|own| is_for_everybody(*own)).map(|own| SocketAddr::new(own, self.port)).collect()
    }

    /// Follows it for as long as somebody listens. What cannot be found out in a moment comes later.
    pub async fn follow(self) -> watch::Receiver<Vec<SocketAddr>> {
        let first = tokio::time::timeout(FIRST_MAX, self.look()).await.unwrap_or_default();
        let (found, endpoints) = watch::channel(first);
        tokio::spawn(async move {
            let mut pause = if found.borrow().is_empty() { FIRST_MAX } else { EVERY };
            loop {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = found.closed() => return,
                }
                pause = EVERY;
                let now = self.look().await;
                let new = |old: &mut Vec<SocketAddr>| {
                    !now.is_empty() && *old != now && {
                        old.clone_from(&now);
                        true
                    }
                };
                found.send_if_modified(new);
            }
        });
        endpoints
    }
}

/// From which of our addresses the kernel would send there; nothing is sent.
fn source_towards(to: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Others may know it, and it means the same to them: no private address leaves its network for having been guessed.
fn is_for_everybody(address: IpAddr) -> bool {
    if model::net::never_a_target(address) {
        return false;
    }
    match address {
        // RFC 1918, and RFC 6598: behind a provider's NAT.
        IpAddr::V4(v4) => !v4.is_private() && !matches!(v4.octets(), [100, 64..=127, ..]),
        IpAddr::V6(v6) => !v6.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_private_address_is_told() {
        let told = |text: &str| is_for_everybody(text.parse().unwrap());
        for text in ["203.0.113.20", "2001:db8:0:1::20", "100.63.0.1", "100.128.0.1"] {
            assert!(told(text), "{text}");
        }
        for text in [
            "10.0.0.1",
            "172.16.9.1",
            "192.168.1.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.1.1",
            "::1",
            "fe80::1",
            "fd00::1",
        ] {
            assert!(!told(text), "{text}");
        }
    }

    #[tokio::test]
    async fn what_the_administrator_says_is_all() {
        let reach = |named: &[&str], controllers: &[&str]| Reach {
            named: named.iter().map(|name| (*name).to_owned()).collect(),
            controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
            port: 443,
        };
        let named = reach(&["192.0.2.1:4443", "[2001:db8::1]:443"], &["127.0.0.1:443"]).follow().await;
        let expected: Vec<SocketAddr> = ["192.0.2.1:4443", "[2001:db8::1]:443"].map(|a| a.parse().unwrap()).into();
        assert_eq!(*named.borrow(), expected);
        // Towards this very machine one speaks from an address that means nothing to others.
        assert_eq!(source_towards(([127, 0, 0, 1], 443).into()), Some(IpAddr::from([127, 0, 0, 1])));
        assert!(reach(&[], &["127.0.0.1:443"]).follow().await.borrow().is_empty());
    }
}
