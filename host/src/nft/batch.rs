//! How do rules reach the kernel all at once? One batch of netlink messages, applied whole or not at all.

use super::NftError;
use crate::checks::{self, CheckError};
use model::net::Prefix;
use nlink::Nftables;
use nlink::netlink::Connection;
use nlink::netlink::nftables::{
    BaseChain, Chain, Family, Field, Match, Object, RawMessage, Rule, RuleSpec, Set, SetElement, SetKeyType, Stmt,
    Transaction, Value, Verdict,
};
use std::net::IpAddr;
use std::time::Duration;

/// `NFT_MSG_NEWTABLE` (linux/netfilter/nf_tables.h).
const NEW_TABLE: u8 = 0;
/// `NFT_MSG_NEWRULE`.
const NEW_RULE: u8 = 6;
/// `NFT_MSG_NEWOBJ`.
const NEW_OBJECT: u8 = 18;
/// `NFTA_TABLE_NAME`.
const TABLE_NAME: u16 = 1;
/// `NLM_F_CREATE`, without `NLM_F_EXCL`.
const CREATE: u16 = 0x400;

/// Changes of tables that take effect together.
pub struct Batch {
    connection: Connection<Nftables>,
    transaction: Transaction,
    /// The table that errors speak of.
    table: String,
    /// The first error of a builder, told by `commit`.
    error: Option<nlink::netlink::Error>,
}

impl Batch {
    /// Opens nftables in the calling thread's network namespace. Needs a tokio runtime.
    pub fn open(table: &str) -> Result<Self, NftError> {
        let connection = Connection::<Nftables>::new().map_err(|source| failed(table, source))?;
        let transaction = connection.transaction();
        Ok(Self { connection, transaction, table: table.to_owned(), error: None })
    }

    /// Removes a table, if it is there.
    pub fn remove(mut self, name: &str, family: Family) -> Self {
        // Made first, so that the removal always finds one: kernels before 6.3 have no "remove if it is there".
        let make = RawMessage::new(NEW_TABLE, family).flags(CREATE).attrs(string_attribute(TABLE_NAME, name));
        self.transaction = self.transaction.raw(make).del_table(name, family);
        self
    }

    /// An empty table in place of what was there.
    pub fn replace(mut self, name: &str, family: Family) -> Self {
        self = self.remove(name, family);
        self.transaction = self.transaction.add_table(name, family);
        self
    }

    /// A named object of a kind that the library does not know, in a table of this batch; its attributes in bytes.
    pub fn object(mut self, family: Family, attributes: Vec<u8>) -> Self {
        self.transaction = self.transaction.raw(RawMessage::new(NEW_OBJECT, family).flags(CREATE).attrs(attributes));
        self
    }

    /// A set of one-byte keys that are gone after that time, in a table of this batch.
    pub fn fading_set(mut self, table: &str, family: Family, name: &str, keys: &[u8], life: Duration) -> Self {
        let set = Set::new(table, name).family(family).key_type(SetKeyType::InetProto).timeout(life);
        let elements: Vec<SetElement> = keys.iter().map(|key| SetElement::inet_proto(*key)).collect();
        self.transaction = self.transaction.add_set(set.clone()).add_set_elements(&set, &elements);
        self
    }

    /// A named counter, in a table of this batch.
    pub fn counter(mut self, table: &str, family: Family, name: &str) -> Self {
        self.transaction = self.transaction.add_object(&Object::counter(table, name).family(family));
        self
    }

    /// A rule in front of those that the chain has, its attributes in bytes: the library only appends.
    pub fn rule_in_front(mut self, family: Family, attributes: Vec<u8>) -> Self {
        self.transaction = self.transaction.raw(RawMessage::new(NEW_RULE, family).flags(CREATE).attrs(attributes));
        self
    }

    /// A chain that hangs on a hook.
    pub fn chain(mut self, table: &str, family: Family, name: &str, base: BaseChain) -> Self {
        match Chain::new(table, name) {
            Ok(chain) => self.transaction = self.transaction.add_chain(chain.family(family).base(base)),
            Err(error) => {
                self.error.get_or_insert(error);
            }
        }
        self
    }

    /// A rule behind those that the chain has.
    pub fn rule(mut self, table: &str, family: Family, chain: &str, rule: RuleSpec) -> Self {
        self.transaction = self.transaction.add_rule(Rule::from_spec(table, chain, rule).family(family));
        self
    }

    /// Applies everything, or nothing.
    pub async fn commit(self) -> Result<(), NftError> {
        let done = match self.error {
            Some(error) => Err(error),
            None => self.transaction.commit(&self.connection).await,
        };
        done.map_err(|source| failed(&self.table, source))
    }
}

/// A rule that counts and drops what matches.
pub fn drop_rule(matches: impl IntoIterator<Item = Match>) -> RuleSpec {
    all(matches).then(Stmt::Counter).then(Verdict::Drop)
}

/// A rule that lets pass what matches; other tables may still drop it.
pub fn accept_rule(matches: impl IntoIterator<Item = Match>) -> RuleSpec {
    all(matches).then(Verdict::Accept)
}

/// A rule of matches alone.
pub fn all(matches: impl IntoIterator<Item = Match>) -> RuleSpec {
    matches.into_iter().fold(RuleSpec::new(), RuleSpec::then)
}

/// The packet's source lies in the prefix.
pub fn source_in(prefix: &Prefix) -> Match {
    match prefix.address() {
        IpAddr::V4(_) => Match::eq(Field::Ip4Saddr, value(prefix)),
        IpAddr::V6(_) => Match::eq(Field::Ip6Saddr, value(prefix)),
    }
}

/// The packet's destination lies in the prefix.
pub fn destination_in(prefix: &Prefix) -> Match {
    match prefix.address() {
        IpAddr::V4(_) => Match::eq(Field::Ip4Daddr, value(prefix)),
        IpAddr::V6(_) => Match::eq(Field::Ip6Daddr, value(prefix)),
    }
}

fn value(prefix: &Prefix) -> Value {
    Value::Prefix(prefix.address(), prefix.bits())
}

/// A netlink attribute with a text and its zero.
pub fn string_attribute(kind: u16, text: &str) -> Vec<u8> {
    attribute(kind, &[text.as_bytes(), &[0]].concat())
}

/// A netlink attribute: length, type, content, padded to four bytes (netlink(7)).
pub fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len().saturating_add(4)).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(usize::from(len).saturating_add(3));
    bytes.extend_from_slice(&len.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The error that it is for a caller.
pub fn failed(table: &str, source: nlink::netlink::Error) -> NftError {
    let table = table.to_owned();
    if source.is_permission_denied() && checks::net_admin().is_err() {
        return NftError::Machine(CheckError::NoNetAdmin);
    }
    // ENOENT here is an expression or chain type that the kernel does not know: every table is made in the batch.
    if source.is_not_supported() || matches!(source.errno(), Some(libc::ENOENT | libc::EPROTONOSUPPORT)) {
        return NftError::Unsupported { table, source };
    }
    NftError::Kernel { table, source }
}
