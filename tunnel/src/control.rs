//! What may a control tunnel carry? TCP between nodes and the controller's two ports, and nothing else.

use crate::api::{PeerId, Role};
use crate::counters::Drop;
use crate::headers::{Packet, Transport};
use model::pool::{CONTROL_PORT, ENROL_PORT, Pool};
use std::net::IpAddr;

/// May this packet, decrypted from `peer` who owns the addresses `owned`, be written to the TUN?
///
/// The controller takes from enrolled nodes only TCP to the control port, from provisional peers only TCP to the enrolment
/// port. A node takes only answers of the controller's two ports, never the opening of a connection.
pub fn admits_inbound(role: Role, pool: &Pool, peer: &PeerId, owned: &[IpAddr], packet: &Packet) -> Result<(), Drop> {
    if !owned.contains(&packet.source) {
        return Err(Drop::SourceNotOwned);
    }
    let Transport::Tcp(tcp) = packet.transport else { return Err(Drop::ControlPort) };
    let controller = IpAddr::V6(pool.controller());
    let admitted = match (role, peer) {
        (Role::Controller, PeerId::Node(_)) => packet.destination == controller && tcp.destination_port == CONTROL_PORT,
        (Role::Controller, PeerId::Provisional(_)) => {
            packet.destination == controller && tcp.destination_port == ENROL_PORT
        }
        (Role::Gateway | Role::Client, PeerId::Node(_)) => {
            packet.source == controller
                && is_server_port(tcp.source_port)
                && is_node(pool, packet.destination)
                && !tcp.opens()
        }
        _ => false,
    };
    if admitted { Ok(()) } else { Err(Drop::ControlPort) }
}

/// May this packet from the TUN be encrypted for `peer` who owns the addresses `owned`? The mirror of [`admits_inbound`].
pub fn admits_outbound(role: Role, pool: &Pool, peer: &PeerId, owned: &[IpAddr], packet: &Packet) -> Result<(), Drop> {
    if !owned.contains(&packet.destination) {
        return Err(Drop::ControlPort);
    }
    let Transport::Tcp(tcp) = packet.transport else { return Err(Drop::ControlPort) };
    let controller = IpAddr::V6(pool.controller());
    let admitted = match (role, peer) {
        (Role::Controller, PeerId::Node(_)) => {
            packet.source == controller && tcp.source_port == CONTROL_PORT && !tcp.opens()
        }
        (Role::Controller, PeerId::Provisional(_)) => {
            packet.source == controller && tcp.source_port == ENROL_PORT && !tcp.opens()
        }
        (Role::Gateway | Role::Client, PeerId::Node(_)) => {
            packet.destination == controller && is_server_port(tcp.destination_port) && is_node(pool, packet.source)
        }
        _ => false,
    };
    if admitted { Ok(()) } else { Err(Drop::ControlPort) }
}

const fn is_server_port(port: u16) -> bool {
    port == CONTROL_PORT || port == ENROL_PORT
}

fn is_node(pool: &Pool, address: IpAddr) -> bool {
    pool.node_net().contains(address) || pool.provisional_net().contains(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::craft::{echo, ip, tcp, udp};
    use crate::headers::{ACK, SYN};
    use model::ids::{DeviceId, NodeId, PairingId};
    use model::key::PublicKey;

    fn pool() -> Pool {
        Pool::new("10.77.0.0/16".parse().unwrap(), "fd12:3456:789a::/48".parse().unwrap()).unwrap()
    }

    /// Every role, peer, direction, pair of addresses, port and flag: exactly the few combinations of the design pass.
    #[test]
    fn only_the_ports_of_the_controller_pass() {
        let p = pool();
        let controller = IpAddr::V6(p.controller());
        let (node, newcomer) = (IpAddr::V6(p.node(7)), IpAddr::V6(p.provisional(7)));
        let peers = [
            PeerId::Node(NodeId::Device(DeviceId::from_bytes([1; 10]))),
            PeerId::Provisional(PublicKey([1; 32])),
            PeerId::Pairing(PairingId::from_bytes([1; 10])),
        ];
        let addresses = [controller, node, newcomer, ip("fd12:3456:789a:4::1"), ip("fd99::1")];
        let ports = [CONTROL_PORT, ENROL_PORT, 22, 40_000];
        let mut passed = 0;
        for role in [Role::Controller, Role::Gateway, Role::Client] {
            for peer in &peers {
                for (from, to) in addresses.iter().flat_map(|a| addresses.map(|b| (*a, b))) {
                    for (sport, dport) in ports.iter().flat_map(|a| ports.map(|b| (*a, b))) {
                        for flags in [SYN, ACK] {
                            let bytes = tcp((from, sport), (to, dport), flags, (1, 2), b"");
                            let packet = Packet::parse(&bytes).unwrap();
                            let server = if matches!(peer, PeerId::Node(_)) { CONTROL_PORT } else { ENROL_PORT };
                            let nodes = [node, newcomer];
                            let is_peer = !matches!(peer, PeerId::Pairing(_));
                            let to_server = to == controller && [CONTROL_PORT, ENROL_PORT].contains(&dport);
                            let from_server = from == controller && [CONTROL_PORT, ENROL_PORT].contains(&sport);
                            let is_node = matches!(peer, PeerId::Node(_));
                            let (inward, outward) = if role == Role::Controller {
                                (
                                    is_peer && to == controller && dport == server,
                                    is_peer && from == controller && sport == server && flags == ACK,
                                )
                            } else {
                                (
                                    is_node && from_server && nodes.contains(&to) && flags == ACK,
                                    is_node && to_server && nodes.contains(&from),
                                )
                            };
                            assert_eq!(admits_inbound(role, &p, peer, &[from], &packet).is_ok(), inward);
                            assert_eq!(admits_outbound(role, &p, peer, &[to], &packet).is_ok(), outward);
                            passed += usize::from(inward) + usize::from(outward);
                        }
                    }
                }
            }
        }
        assert!(passed > 100);
    }

    #[test]
    fn only_tcp_and_only_the_owner() {
        let p = pool();
        let (controller, node) = (IpAddr::V6(p.controller()), IpAddr::V6(p.node(7)));
        let peer = PeerId::Node(NodeId::Device(DeviceId::from_bytes([1; 10])));
        let inward = |bytes: &[u8], owned: &[IpAddr]| {
            admits_inbound(Role::Controller, &p, &peer, owned, &Packet::parse(bytes).unwrap())
        };
        let good = tcp((node, 9), (controller, CONTROL_PORT), SYN, (1, 0), b"");
        assert_eq!(inward(&good, &[node]), Ok(()));
        assert_eq!(inward(&good, &[]), Err(Drop::SourceNotOwned));
        assert_eq!(inward(&good, &[IpAddr::V6(p.node(8))]), Err(Drop::SourceNotOwned));
        assert_eq!(inward(&udp((node, 9), (controller, CONTROL_PORT), b""), &[node]), Err(Drop::ControlPort));
        assert_eq!(inward(&echo(node, controller, true, 9, b""), &[node]), Err(Drop::ControlPort));
        let answer = Packet::parse(&tcp((controller, CONTROL_PORT), (node, 9), ACK, (1, 2), b"")).unwrap();
        assert_eq!(admits_outbound(Role::Controller, &p, &peer, &[], &answer), Err(Drop::ControlPort));
    }
}
