//! May this packet of a client go on? THE place where a gateway filters: first the sender, then the grant.
//!
//! Flow state is never looked at before the sender is verified, and nothing passes that no live grant speaks of.

use crate::counters::Drop;
use crate::headers::{Error, Packet, Transport};
use grant::{PairingView, VerifiedGrant, View};
use model::ids::PairingId;
use model::net::Rule;
use std::net::IpAddr;
use std::sync::Arc;

/// What the filter lets pass, and by which permission.
#[derive(Debug)]
pub enum Pass<'v> {
    /// A packet of, or for, a flow of this grant.
    Flow {
        /// Whose it is.
        pairing: &'v PairingView,
        /// By which grant.
        grant: &'v Arc<VerifiedGrant>,
        /// By which of its rules.
        rule: &'v Rule,
    },
    /// An ICMP error of a verified sender; it passes only if its quote is a live flow of this pairing.
    Error {
        /// Whose it is.
        pairing: &'v PairingView,
        /// What it says.
        error: Error,
    },
}

/// See [`Filter::check`].
pub struct Filter;

impl Filter {
    /// Whose pairing is it, and does it own this source address? Also fragments are judged by that, before they are kept.
    pub fn sender(view: &View, pairing: PairingId, source: IpAddr) -> Result<&PairingView, Drop> {
        let pairing = view.pairings.get(&pairing).ok_or(Drop::UnknownPairing)?;
        if pairing.owns(source) { Ok(pairing) } else { Err(Drop::SourceNotOwned) }
    }

    /// Judges a packet that came out of the tunnel of `pairing`. Everything that is not admitted leaves by one of the
    /// counted reasons: unknown pairing, foreign source, a kind of ICMP that opens no flow, no grant.
    pub fn check<'v>(view: &'v View, pairing: PairingId, packet: &Packet) -> Result<Pass<'v>, Drop> {
        let pairing = Self::sender(view, pairing, packet.source)?;
        match packet.transport {
            Transport::Error(error) => return Ok(Pass::Error { pairing, error }),
            Transport::Echo { request: false, .. } => return Err(Drop::IcmpKind),
            Transport::Echo { request: true, .. } | Transport::Tcp(_) | Transport::Udp { .. } => {}
        }
        pairing
            .find(packet.destination, packet.protocol(), packet.destination_port())
            .map(|(grant, rule)| Pass::Flow { pairing, grant, rule })
            .ok_or(Drop::NoGrant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::craft::{echo, port_unreachable, tcp, udp};
    use crate::headers::SYN;
    use grant::Scope;
    use model::grant::{Grant, Pairing};
    use model::ids::{DeviceId, GrantId, ResourceId};
    use model::key::{Psk, PublicKey};
    use model::net::{PortRange, Prefix, Protocol, Target};
    use model::pool::{NatPool, Pool};
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    /// One rule as numbers: which of four nested prefixes, which protocol, ports from and to.
    type Line = (usize, usize, u16, u16);

    const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Icmp];

    fn prefix(n: usize) -> Prefix {
        ["10.5.0.0/30", "10.5.0.0/31", "10.5.0.1", "10.5.0.2/31"][n].parse().unwrap()
    }
    fn device(n: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 1, n)
    }

    fn view(pairings: &[Vec<Vec<Line>>]) -> View {
        let scope = Arc::new(Scope {
            pool: Pool::new("10.77.0.0/16".parse().unwrap(), "fd12:3456:789a::/48".parse().unwrap()).unwrap(),
            nat: NatPool { v4: "198.18.0.0/15".parse().unwrap(), v6: "fd99::/48".parse().unwrap() },
            site: vec!["10.5.0.0/16".parse().unwrap()],
            own: vec![],
        });
        let mut view = View::empty(scope.clone());
        for (n, grants) in pairings.iter().enumerate() {
            let n = n as u8;
            let id = PairingId::from_bytes([n; 10]);
            let made = grants.iter().enumerate().map(|(g, lines)| {
                let rule = |(p, protocol, first, last): &Line| Rule {
                    client: prefix(*p),
                    target: Target::Prefix(prefix(*p)),
                    protocol: PROTOCOLS[*protocol],
                    ports: PortRange { first: *first.min(last), last: *first.max(last) },
                };
                let number = u32::from(n) * 10 + g as u32 + 1;
                let (nat_v4, nat_v6) = scope.nat.pair(number).unwrap();
                let grant = Grant {
                    id: GrantId::from_bytes([number as u8; 10]),
                    pairing: id,
                    device: DeviceId::from_bytes([n; 10]),
                    resource: ResourceId::from_bytes([1; 10]),
                    rules: lines.iter().map(rule).collect(),
                    nat_v4,
                    nat_v6,
                    ends_in: Duration::from_secs(9),
                    lease: Duration::from_secs(9),
                    on_gateway: false,
                };
                Arc::new(VerifiedGrant::verify(grant, &scope).unwrap())
            });
            let grants = made.collect();
            let pairing = Pairing {
                id,
                device: DeviceId::from_bytes([n; 10]),
                client_key: PublicKey([n; 32]),
                psk: Psk::new([n; 32]),
                device_v4: device(n),
                device_v6: format!("fd12:3456:789a:1::{n}").parse().unwrap(),
            };
            view.pairings.insert(id, PairingView { pairing: Arc::new(pairing), grants });
        }
        view
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        /// Against the plainest reading of the words: the sender owns the source, and some rule names the packet.
        #[test]
        fn equals_a_slow_reading(
            pairings in proptest::collection::vec(proptest::collection::vec(proptest::collection::vec((0usize..4, 0usize..3, 0u16..6, 0u16..6), 1..3), 0..3), 0..4),
            sender in 0u8..5, source in 0u8..5, host in 0u8..5, kind in 0usize..5, port in 1u16..6,
        ) {
            let view = view(&pairings);
            let (from, to) = (IpAddr::V4(device(source)), IpAddr::from([10, 5, 0, host]));
            let bytes = match kind {
                0 => tcp((from, 9), (to, port), SYN, (0, 0), b""),
                1 => udp((from, 9), (to, port), b""),
                2 => echo(from, to, true, port, b""),
                3 => echo(from, to, false, port, b""),
                _ => port_unreachable(from, to, &udp((to, port), (from, 9), b"")),
            };
            let packet = Packet::parse(&bytes).unwrap();
            let mut best: Option<u8> = None;
            for lines in pairings.get(usize::from(sender)).into_iter().flatten() {
                for (p, protocol, a, b) in lines {
                    let lo = (*a).min(*b);
                    let hi = (*a).max(*b);
                    let ports = *protocol == 2 || (lo <= port && port <= hi);
                    if kind == *protocol && prefix(*p).contains(to) && ports {
                        best = best.max(Some(prefix(*p).bits()));
                    }
                }
            }
            let wanted = if usize::from(sender) >= pairings.len() {
                Err(Drop::UnknownPairing)
            } else if source != sender {
                Err(Drop::SourceNotOwned)
            } else if kind == 3 {
                Err(Drop::IcmpKind)
            } else if kind == 4 {
                Ok(None)
            } else {
                best.map(Some).ok_or(Drop::NoGrant)
            };
            let got = Filter::check(&view, PairingId::from_bytes([sender; 10]), &packet).map(|pass| match pass {
                Pass::Flow { pairing, grant, rule } => {
                    assert_eq!(pairing.pairing.device_v4, device(sender));
                    assert_eq!(grant.grant().pairing, PairingId::from_bytes([sender; 10]));
                    // One of the grant's own rules, of the longest prefix there is.
                    assert!(grant.grant().rules.contains(rule));
                    assert!(rule.matches(to, packet.protocol(), packet.destination_port()));
                    Some(rule.client.bits())
                }
                Pass::Error { .. } => None,
            });
            prop_assert_eq!(got, wanted);
        }
    }
}
