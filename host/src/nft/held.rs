//! What keeps a resource's real addresses on the tunnel, whatever routes the network hands out? A route that is more specific
//! than ours, or has a better metric (DHCP option 121, a router advertisement), would win over it (CVE-2024-3661): what it
//! would lead elsewhere is dropped. A network that this machine is attached to keeps what is its own, for cutting a machine off from
//! its own network takes its ways to everything.

use super::batch::{Batch, accept_rule, destination_in, drop_rule};
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
    /// Networks inside them that this machine is attached to, at most `GUARDED_PREFIXES_MAX`: they stay reached, but for what is
    /// held inside of them.
    pub local: Vec<Prefix>,
}

impl Held {
    /// Sets the table, in place of the program's earlier one. It stays when the program is killed.
    pub async fn apply(&self) -> Result<(), NftError> {
        let name = table(&self.program, super::HELD)?;
        let tun = interface(&self.tun)?;
        prefixes(&self.prefixes)?;
        prefixes(&self.local)?;
        let base = BaseChain::filter(FilterHook::Postrouting, Priority::Raw);
        let mut batch =
            Batch::open(&name)?.replace(&name, Family::Inet).chain(&name, Family::Inet, "postrouting", base);
        for (prefix, local) in self.order() {
            let rule = if local {
                accept_rule([destination_in(&prefix)])
            } else {
                let elsewhere =
                    [destination_in(&prefix), Match::ne(Field::Oifname, tun), Match::ne(Field::Oifname, "lo")];
                drop_rule(elsewhere)
            };
            batch = batch.rule(&name, Family::Inet, "postrouting", rule);
        }
        batch.commit().await
    }

    /// The narrowest first, as routes have it; of two that are the same, the local one.
    fn order(&self) -> Vec<(Prefix, bool)> {
        let held = self.prefixes.iter().map(|prefix| (*prefix, false));
        let mut all: Vec<_> = self.local.iter().map(|prefix| (*prefix, true)).chain(held).collect();
        all.sort_by_key(|(prefix, local)| (std::cmp::Reverse(prefix.bits()), !local));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_decides() {
        let prefixes = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("prefix")).collect::<Vec<Prefix>>();
        let held = Held {
            program: "client".to_owned(),
            tun: "umbra0".to_owned(),
            prefixes: prefixes(&["10.0.0.0/8", "10.20.0.10", "10.30.0.0/24"]),
            local: prefixes(&["10.20.0.0/24", "10.30.0.0/24"]),
        };
        let order: Vec<String> = held.order().iter().map(|(prefix, local)| format!("{prefix} {local}")).collect();
        let expected =
            ["10.20.0.10 false", "10.20.0.0/24 true", "10.30.0.0/24 true", "10.30.0.0/24 false", "10.0.0.0/8 false"];
        assert_eq!(order, expected);
    }
}
