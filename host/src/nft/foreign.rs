//! Do other firewalls of this host (Docker, ufw, firewalld ...) stand in a gateway's way? What they drop is found by counting: what
//! goes into the forward hook before all of them, and what comes out behind.

use super::batch::{Batch, attribute, failed, string_attribute};
use super::{NftError, interface, table};
use model::limits::FOREIGN_CHAINS_MAX;
use nlink::Nftables;
use nlink::netlink::Connection;
use nlink::netlink::nftables::{Family, ObjectState};
use std::fmt;

/// `NF_INET_FORWARD` (linux/netfilter.h).
const FORWARD: u32 = 2;
/// `NF_DROP`, as a chain's policy.
const DROP: u32 = 0;
/// The counters in a gateway's forward table.
pub(super) const ENTERED: &str = "entered";
pub(super) const LEFT: &str = "left";
pub(super) const REDIRECTED: &str = "redirected";
/// By this comment our exceptions are known again in a chain that is not ours.
const COMMENT: &str = "umbra-gateway";
/// The chains that are there for exceptions: Docker's (docs.docker.com, "Docker with iptables") and those of `ufw route` (ufw(8)).
const OPEN_CHAINS: [(Family, &str); 4] = [
    (Family::Ip, "DOCKER-USER"),
    (Family::Ip6, "DOCKER-USER"),
    (Family::Ip, "ufw-user-forward"),
    (Family::Ip6, "ufw6-user-forward"),
];
/// `NFT_META_IIFNAME`, `NFT_META_OIFNAME`.
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
/// `NFT_REG_1`.
const REGISTER: u32 = 1;
const NF_ACCEPT: u32 = 1;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
/// `NFTA_RULE_EXPRESSIONS`, `NFTA_RULE_USERDATA`, `NFTA_LIST_ELEM`, `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`, `NFTA_DATA_VALUE`,
/// `NFTA_DATA_VERDICT`.
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
/// In which table iptables keeps them.
const OPEN_TABLE: &str = "filter";

/// Packets of grants in the kernel's forward path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Passage {
    /// Came to it.
    pub entered: u64,
    /// Came through all firewalls.
    pub left: u64,
    /// Had another destination than we gave them, and were dropped: somebody's `dnat` or `redirect`.
    pub redirected: u64,
}

impl Passage {
    /// How many that had entered by the first look were dropped by the second: at least so many, for the rest may have
    /// come in between.
    pub const fn lost_until(&self, later: &Self) -> u64 {
        self.entered.saturating_sub(later.left)
    }
}

/// A chain of somebody else's that all forwarded packets pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignChain {
    /// "ip filter".
    pub table: String,
    /// Its name.
    pub chain: String,
    /// What no rule speaks of is dropped.
    pub drops: bool,
}

impl fmt::Display for ForeignChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = if self.drops { ", which drops by default" } else { "" };
        write!(f, "chain {} of table {}{policy}", self.chain, self.table)
    }
}

/// What a program's forward table has counted. Needs the table.
pub async fn passage(program: &str) -> Result<Passage, NftError> {
    let name = table(program, "-forward")?;
    let failed = |source| failed(&name, source);
    let connection = Connection::<Nftables>::new().map_err(failed)?;
    let mut passage = Passage::default();
    for object in connection.list_objects_in(&name, Family::Inet).await.map_err(failed)? {
        let ObjectState::Counter { packets, .. } = object.state else { continue };
        match object.name.as_str() {
            ENTERED => passage.entered = packets,
            LEFT => passage.left = packets,
            REDIRECTED => passage.redirected = packets,
            _ => {}
        }
    }
    Ok(passage)
}

/// Chains of others on the forward hook, those that drop by default first; at most [`FOREIGN_CHAINS_MAX`].
pub async fn forward_chains() -> Result<Vec<ForeignChain>, NftError> {
    let failed = |source| failed("of another firewall", source);
    let connection = Connection::<Nftables>::new().map_err(failed)?;
    let mut found: Vec<ForeignChain> = Vec::new();
    for chain in connection.list_chains().await.map_err(failed)? {
        let label = match chain.family {
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
            Family::Inet => "inet",
            _ => continue,
        };
        if chain.hook == Some(FORWARD) && !chain.table.starts_with("umbra-") {
            let table = format!("{label} {}", chain.table);
            found.push(ForeignChain { table, chain: chain.name, drops: chain.policy == Some(DROP) });
        }
    }
    found.sort_by_key(|chain| !chain.drops);
    found.truncate(FOREIGN_CHAINS_MAX);
    Ok(found)
}

/// Sees to it that the chains which Docker and ufw keep for exceptions let the TUN's packets and the answers to them through.
/// Answers the chains that were changed: none, when all is as it should be.
pub async fn except(tun: &str) -> Result<Vec<String>, NftError> {
    let tun = interface(tun)?;
    let connection = Connection::<Nftables>::new().map_err(|source| failed(OPEN_TABLE, source))?;
    let mut changed = Vec::new();
    for (family, chain) in there(&connection).await? {
        let rules = connection.list_rules(OPEN_TABLE, family).await.map_err(|source| failed(OPEN_TABLE, source))?;
        if rules.iter().any(|rule| rule.chain == chain && rule.comment_text.as_deref() == Some(COMMENT)) {
            continue;
        }
        // What leaves the TUN, and what goes into it; our own table judges all of it, whatever these let through.
        let mut batch = Batch::open(OPEN_TABLE)?;
        for side in [META_IIFNAME, META_OIFNAME] {
            batch = batch.rule_in_front(family, exception(chain, side, tun));
        }
        batch.commit().await?;
        changed.push(chain.to_owned());
    }
    Ok(changed)
}

/// Takes the exceptions away again, and answers from which chains.
pub async fn forget_exceptions() -> Result<Vec<String>, NftError> {
    let connection = Connection::<Nftables>::new().map_err(|source| failed(OPEN_TABLE, source))?;
    let mut changed = Vec::new();
    for (family, chain) in there(&connection).await? {
        let rules = connection.list_rules(OPEN_TABLE, family).await.map_err(|source| failed(OPEN_TABLE, source))?;
        for rule in rules.iter().filter(|rule| rule.chain == chain && rule.comment_text.as_deref() == Some(COMMENT)) {
            let gone = connection.del_rule_if_exists(OPEN_TABLE, chain, family, rule.handle).await;
            gone.map_err(|source| failed(OPEN_TABLE, source))?;
            changed.push(chain.to_owned());
        }
    }
    // Two rules in each.
    changed.dedup();
    Ok(changed)
}

async fn there(connection: &Connection<Nftables>) -> Result<Vec<(Family, &'static str)>, NftError> {
    let chains = connection.list_chains().await.map_err(|source| failed(OPEN_TABLE, source))?;
    let is_there = |(family, name): &(Family, &str)| {
        chains.iter().any(|chain| chain.family == *family && chain.table == OPEN_TABLE && chain.name == *name)
    };
    Ok(OPEN_CHAINS.into_iter().filter(is_there).collect())
}

/// `meta iifname|oifname TUN accept comment COMMENT`, in the form in which iptables knows its own (linux/netfilter/nf_tables.h).
fn exception(chain: &str, side: u32, tun: &str) -> Vec<u8> {
    let number = |kind: u16, value: u32| attribute(kind, &value.to_be_bytes());
    let nested = |kind: u16, content: Vec<u8>| attribute(kind | NESTED, &content);
    let expression = |name: &str, data: Vec<u8>| {
        nested(LIST_ELEMENT, [string_attribute(EXPRESSION_NAME, name), nested(EXPRESSION_DATA, data)].concat())
    };
    let name = [tun.as_bytes(), &[0]].concat();
    let value = nested(3, attribute(DATA_VALUE, &name));
    let accept = nested(DATA_VERDICT, number(1, NF_ACCEPT));
    let expressions = [
        expression("meta", [number(1, REGISTER), number(2, side)].concat()),
        expression("cmp", [number(1, REGISTER), number(2, 0), value].concat()),
        expression("immediate", [number(1, 0), nested(2, accept)].concat()),
    ];
    // libnftnl's form of a comment: type 0, length, text with its zero.
    let length = u8::try_from(COMMENT.len() + 1).unwrap_or(u8::MAX);
    let comment = [&[0, length], COMMENT.as_bytes(), &[0]].concat();
    [
        string_attribute(1, OPEN_TABLE),
        string_attribute(2, chain),
        nested(RULE_EXPRESSIONS, expressions.concat()),
        attribute(RULE_USERDATA, &comment),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_not_lost() {
        let look = |entered, left| Passage { entered, left, redirected: 0 };
        assert_eq!(look(10, 8).lost_until(&look(12, 10)), 0, "two were between the hooks");
        assert_eq!(look(10, 0).lost_until(&look(12, 0)), 10);
        assert_eq!(look(10, 8).lost_until(&look(50, 48)), 0);
    }
}
