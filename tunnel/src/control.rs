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
