//! What keeps overlay addresses off the outside? Linux answers for any of its addresses on any interface (RFC 1122,
//! section 3.3.4.2, weak model): these rules drop them, and ARP for them, everywhere but on the TUN and loopback.
//! What keeps strangers from filling the table of connections? Our own port is left out of it.

use super::batch::{Batch, all, destination_in, drop_rule, source_in};
use super::{NftError, interface, prefixes, table};
use model::net::Prefix;
use nlink::netlink::nftables::{
    BaseChain, CmpOp, Expr, Family, FibFlags, FibResult, Field, FilterHook, Match, PayloadBase, Priority, Register,
    RuleSpec, Stmt, Verdict,
};
use nlink::netlink::types::route::RouteType;
use std::net::IpAddr;

/// Offset of the sender's IPv4 address in ARP over Ethernet, bytes (RFC 826: 8 + 6).
const ARP_SENDER: u32 = 14;
/// Offset of the address that is asked for (RFC 826: 8 + 6 + 4 + 6).
const ARP_TARGET: u32 = 24;

/// Which addresses may be seen on the TUN and loopback only, and which port has no connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Whose tables: `controller`, `gateway`, `client`.
    pub program: String,
    /// The TUN's name.
    pub tun: String,
    /// The organisation's pool.
    pub overlay: Vec<Prefix>,
    /// Our own UDP port, where anybody may send: its packets make no entries in connection tracking, so that a flood
    /// leaves room for what is forwarded. `None` tracks them: for a client, where other firewalls let answers in by
    /// their connection, and as long as the port is not known.
    pub untracked_port: Option<u16>,
}

impl Guard {
    /// Sets the tables, in place of the program's earlier ones. They may be set before there is a TUN.
    pub async fn apply(&self) -> Result<(), NftError> {
        let name = table(&self.program, "")?;
        let tun = interface(&self.tun)?;
        prefixes(&self.overlay)?;
        let mut batch = Batch::open(&name)?.replace(&name, Family::Inet).replace(&name, Family::Arp);
        // Before connection tracking, and before any other table's rules: nothing is spent on these packets.
        let (inward, outward) = (FilterHook::Prerouting, FilterHook::Postrouting);
        for (chain, hook, field) in [("prerouting", inward, Field::Iifname), ("postrouting", outward, Field::Oifname)] {
            batch = batch.chain(&name, Family::Inet, chain, BaseChain::filter(hook, Priority::Raw));
            for prefix in &self.overlay {
                for address in [source_in(prefix), destination_in(prefix)] {
                    // The address first: four bytes of every packet, where a name is sixteen.
                    let outside = [address, Match::ne(field.clone(), tun), Match::ne(field.clone(), "lo")];
                    batch = batch.rule(&name, Family::Inet, chain, drop_rule(outside));
                }
            }
        }
        if let Some(port) = self.untracked_port {
            batch = untrack(batch, &name, tun, port);
        }
        for (chain, hook) in [("input", FilterHook::Input), ("output", FilterHook::Output)] {
            batch = batch.chain(&name, Family::Arp, chain, BaseChain::filter(hook, Priority::Filter));
            for prefix in &self.overlay {
                for offset in [ARP_SENDER, ARP_TARGET] {
                    if let Some(rule) = arp_rule(prefix, offset) {
                        batch = batch.rule(&name, Family::Arp, chain, rule);
                    }
                }
            }
        }
        batch.commit().await
    }
}

/// What is sent to our port on this machine, and what it sends. A packet that is only passing keeps its connection: it may
/// go to the same port of somebody else, out of the TUN or through the machine.
fn untrack(batch: Batch, table: &str, tun: &str, port: u16) -> Batch {
    let passing = Field::Fib { flags: FibFlags::DADDR, result: FibResult::AddrType };
    let inward =
        [Match::eq(Field::UdpDport, port), Match::ne(Field::Iifname, tun), Match::ne(passing, RouteType::Unicast)];
    let base = BaseChain::filter(FilterHook::Output, Priority::Raw);
    batch
        .rule(table, Family::Inet, "prerouting", all(inward).then(Stmt::Notrack))
        .chain(table, Family::Inet, "output", base)
        .rule(table, Family::Inet, "output", all([Match::eq(Field::UdpSport, port)]).then(Stmt::Notrack))
}

/// Drops ARP with an address of the prefix at this offset. A TUN has no ARP: no interface is excepted.
fn arp_rule(prefix: &Prefix, offset: u32) -> Option<RuleSpec> {
    let IpAddr::V4(address) = prefix.address() else {
        return None;
    };
    let mask = u32::MAX.checked_shl(u32::from(32_u8.saturating_sub(prefix.bits()))).unwrap_or(0);
    let (sreg, dreg) = (Register::R0, Register::R0);
    let rule = RuleSpec::new()
        .then(Expr::Payload { dreg, base: PayloadBase::Network, offset, len: 4 })
        .then(Expr::Bitwise { sreg, dreg, len: 4, mask: mask.to_be_bytes().to_vec(), xor: vec![0; 4] })
        .then(Expr::Cmp { sreg, op: CmpOp::Eq, data: address.octets().to_vec() })
        .then(Stmt::Counter)
        .then(Verdict::Drop);
    Some(rule)
}
