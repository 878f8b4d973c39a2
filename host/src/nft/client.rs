//! What may a client forward? Nothing through the tunnel: packets of containers or of neighbours are not the subject's.

use super::batch::{Batch, drop_rule};
use super::{NftError, interface, table};
use nlink::netlink::nftables::{BaseChain, Family, Field, FilterHook, Match, Priority};

/// A client's forwarding: what it forwards for others, it forwards past the TUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Whose table.
    pub program: String,
    /// The TUN's name.
    pub tun: String,
}

impl Client {
    /// Sets the table, in place of the program's earlier forwarding.
    pub async fn apply(&self) -> Result<(), NftError> {
        let name = table(&self.program, "-forward")?;
        let tun = interface(&self.tun)?;
        let base = BaseChain::filter(FilterHook::Forward, Priority::Filter);
        let mut batch = Batch::open(&name)?.replace(&name, Family::Inet).chain(&name, Family::Inet, "forward", base);
        for field in [Field::Iifname, Field::Oifname] {
            batch = batch.rule(&name, Family::Inet, "forward", drop_rule([Match::eq(field, tun)]));
        }
        batch.commit().await
    }
}
