//! What keeps a resource's real addresses on the tunnel, whatever routes the network hands out? A route that is more specific
//! than ours, or has a better metric (DHCP option 121, a router advertisement), would win over it (CVE-2024-3661): what it
//! would lead elsewhere is dropped.

use super::batch::{Batch, destination_in, drop_rule};
use super::{NftError, interface, prefixes, table};
use model::net::Prefix;
use nlink::netlink::nftables::{BaseChain, Family, Field, FilterHook, Match, Priority};

/// Real addresses that leave this machine through the TUN or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Whose table.
    pub program: String,
    /// The TUN's name.
    pub tun: String,
    /// The addresses, at most `GUARDED_PREFIXES_MAX`.
    pub prefixes: Vec<Prefix>,
}

impl Held {
    /// Sets the table, in place of the program's earlier one. It stays when the program is killed.
    pub async fn apply(&self) -> Result<(), NftError> {
        let name = table(&self.program, super::HELD)?;
        let tun = interface(&self.tun)?;
        prefixes(&self.prefixes)?;
        let base = BaseChain::filter(FilterHook::Postrouting, Priority::Raw);
        let mut batch =
            Batch::open(&name)?.replace(&name, Family::Inet).chain(&name, Family::Inet, "postrouting", base);
        for prefix in &self.prefixes {
            let elsewhere = [Match::ne(Field::Oifname, tun), Match::ne(Field::Oifname, "lo"), destination_in(prefix)];
            batch = batch.rule(&name, Family::Inet, "postrouting", drop_rule(elsewhere));
        }
        batch.commit().await
    }
}
