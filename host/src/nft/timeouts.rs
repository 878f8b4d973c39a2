//! How long does the kernel keep a quiet flow that we forward? As long as we do: `ct timeout` objects of our table, given to
//! each flow by its first packet (linux/netfilter/nf_tables.h, nfnetlink_cttimeout.h).

use super::batch::{attribute, string_attribute};
use model::limits::{ICMP_IDLE, TCP_IDLE, UDP_IDLE};
use nlink::netlink::nftables::{Expr, Field, Match, RawExpr};
use std::time::Duration;

/// `NFT_OBJECT_CT_TIMEOUT`.
const CT_TIMEOUT: u32 = 7;
/// `NFTA_OBJ_TABLE`, `NFTA_OBJ_NAME`, `NFTA_OBJ_TYPE`, `NFTA_OBJ_DATA`.
const OBJECT_TABLE: u16 = 1;
const OBJECT_NAME: u16 = 2;
const OBJECT_TYPE: u16 = 3;
const OBJECT_DATA: u16 = 4;
/// `NFTA_CT_TIMEOUT_L4PROTO`, `NFTA_CT_TIMEOUT_DATA`.
const PROTOCOL: u16 = 2;
const VALUES: u16 = 3;
/// `NFTA_OBJREF_IMM_TYPE`, `NFTA_OBJREF_IMM_NAME`.
const REFERENCE_TYPE: u16 = 1;
const REFERENCE_NAME: u16 = 2;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

/// `CTA_TIMEOUT_TCP_` ESTABLISHED, FIN_WAIT, CLOSE_WAIT, RETRANS, UNACK: the states in which neither side was reset nor
/// both have ended. The others keep the kernel's own.
const TCP_OPEN: &[u16] = &[3, 4, 5, 10, 11];
/// `CTA_TIMEOUT_UDP_` UNREPLIED, REPLIED.
const UDP: &[u16] = &[1, 2];
/// `CTA_TIMEOUT_ICMP_TIMEOUT`, and ICMPv6's.
const ICMP: &[u16] = &[1];

/// The timeouts of one protocol's flows.
pub struct Timeout {
    name: &'static str,
    /// IP protocol number.
    protocol: u8,
    /// The states whose timeout is `idle`.
    states: &'static [u16],
    idle: Duration,
}

impl Timeout {
    /// Those of every protocol that is forwarded.
    pub const fn all() -> [Self; 4] {
        [
            Self { name: "tcp", protocol: 6, states: TCP_OPEN, idle: TCP_IDLE },
            Self { name: "udp", protocol: 17, states: UDP, idle: UDP_IDLE },
            Self { name: "icmp", protocol: 1, states: ICMP, idle: ICMP_IDLE },
            Self { name: "icmpv6", protocol: 58, states: ICMP, idle: ICMP_IDLE },
        ]
    }

    /// The object, as a message's attributes.
    pub fn attributes(&self, table: &str) -> Vec<u8> {
        let seconds = u32::try_from(self.idle.as_secs()).unwrap_or(u32::MAX).to_be_bytes();
        let values: Vec<u8> = self.states.iter().flat_map(|state| attribute(*state, &seconds)).collect();
        let data = [attribute(PROTOCOL, &[self.protocol]), attribute(VALUES | NESTED, &values)].concat();
        [
            string_attribute(OBJECT_TABLE, table),
            string_attribute(OBJECT_NAME, self.name),
            attribute(OBJECT_TYPE, &CT_TIMEOUT.to_be_bytes()),
            attribute(OBJECT_DATA | NESTED, &data),
        ]
        .concat()
    }

    /// The packet is of this protocol.
    pub fn protocol(&self) -> Match {
        Match::eq(Field::L4Proto, self.protocol)
    }

    /// `ct timeout set`: it counts on the first packet of a flow only.
    pub fn assignment(&self) -> Expr {
        let kind = attribute(REFERENCE_TYPE, &CT_TIMEOUT.to_be_bytes());
        let reference = [kind, string_attribute(REFERENCE_NAME, self.name)].concat();
        RawExpr::new("objref", reference).into()
    }
}
