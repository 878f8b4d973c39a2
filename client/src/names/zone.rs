//! Which names are ours, and what is the answer?
//!
//! Ours are `umbra.internal`, each declared name exactly, names below a declared suffix, the zones that an administrator
//! declared private, and the reverse names of the pool. What is ours never leaves the machine; but that a name does *not*
//! exist is ours to say only where nobody else could have it: in `umbra.internal` and in private zones.

use crate::held::Held;
use hickory_proto::rr::rdata::{A, AAAA, HINFO, PTR};
use hickory_proto::rr::{Name, RData, RecordType};
use model::grant::{CatalogueAddress, CatalogueEntry};
use model::ids::ResourceId;
use model::net::HostName;
use model::pool::Pool;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The zone that is always ours (`.internal` is set aside for private use by ICANN, 2024).
pub const OWN_ZONE: &str = "umbra.internal";
/// The controller's name.
pub const CONTROLLER: &str = "controller.umbra.internal";
/// Browsers that get NXDOMAIN here leave name resolution to the system (Mozilla's canary domain).
pub const CANARY: &str = "use-application-dns.net";

/// A name in wire form without the root label, in lower case: labels compare exactly, whatever bytes they hold.
type Key = Vec<u8>;

fn key_of_text(name: &str) -> Key {
    let labels = name.split('.').filter(|label| !label.is_empty());
    labels.fold(Key::new(), |key, label| push_label(key, label.as_bytes()))
}

fn key_of(name: &Name) -> Key {
    name.iter().fold(Key::new(), push_label)
}

fn push_label(mut key: Key, label: &[u8]) -> Key {
    // Labels have at most 63 bytes (RFC 1035, section 2.3.4); host names and parsed names are checked for it.
    key.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
    key.extend(label.iter().map(u8::to_ascii_lowercase));
    key
}

/// The name itself, its parent, and so on, without the root.
fn upwards(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(key), |key| parent(key)).take_while(|key| !key.is_empty())
}

fn parent(key: &[u8]) -> Option<&[u8]> {
    key.get(1 + usize::from(*key.first()?)..)
}

fn labels(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    upwards(key).filter_map(|rest| rest.get(1..1 + usize::from(*rest.first()?)))
}

/// What is to be done about a question.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The name is there: these records, or none (NODATA). `apex` is whose SOA goes with none.
    Exists {
        /// The name of the zone.
        apex: Name,
        /// The records' data.
        data: Vec<RData>,
    },
    /// There is no such name, and that is ours to say.
    Missing {
        /// The name of the zone.
        apex: Name,
    },
    /// A name below a suffix: the controller gives it an address.
    Assign {
        /// The name.
        name: HostName,
        /// The resource whose suffix it is.
        resource: ResourceId,
        /// The name of the zone.
        apex: Name,
    },
    /// Ours, but nothing that could have an address, or nobody here can tell it now.
    Impossible,
    /// Somebody else's.
    Forward,
}

/// All that is ours at one moment. Made whole from the catalogue, and replaced whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Zone {
    pool: Pool,
    names: BTreeMap<Key, Addresses>,
    suffixes: BTreeMap<Key, ResourceId>,
    private: BTreeSet<Key>,
    /// Names in our zones that have nothing but names below them.
    inner: BTreeSet<Key>,
    held: HeldKeys,
    /// Names that are never ours: where controllers are reached from outside.
    outside: BTreeSet<Key>,
    reverse: [Key; 2],
    pointers: BTreeMap<IpAddr, HostName>,
}

/// Names that are ours while nobody here can answer for them.
#[derive(Debug, Clone, Default, PartialEq)]
struct HeldKeys {
    /// Exactly these.
    names: BTreeSet<Key>,
    /// All below these.
    suffixes: BTreeSet<Key>,
    /// These, and all below them.
    zones: BTreeSet<Key>,
}

impl HeldKeys {
    fn holds(&self, key: &[u8]) -> bool {
        self.names.contains(key)
            || upwards(key).skip(1).any(|above| self.suffixes.contains(above))
            || upwards(key).any(|above| self.zones.contains(above))
    }
}

/// The addresses of a name, each once and in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Addresses {
    v4: BTreeSet<Ipv4Addr>,
    v6: BTreeSet<Ipv6Addr>,
}

impl Addresses {
    /// Takes what is one virtual address of the pool; a name leads nowhere else.
    pub fn add(&mut self, pool: &Pool, address: &CatalogueAddress) {
        for prefix in [address.v4, address.v6].into_iter().flatten() {
            match prefix.address() {
                ip if !prefix.is_host() || !pool.is_virtual(ip) => {}
                IpAddr::V4(ip) => _ = self.v4.insert(ip),
                IpAddr::V6(ip) => _ = self.v6.insert(ip),
            }
        }
    }
    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
    /// Both families.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.iter().copied().map(IpAddr::V4).chain(self.v6.iter().copied().map(IpAddr::V6))
    }
    /// The records of this type.
    pub fn data(&self, kind: RecordType) -> Vec<RData> {
        match kind {
            RecordType::A => self.v4.iter().map(|ip| RData::A(A(*ip))).collect(),
            RecordType::AAAA => self.v6.iter().map(|ip| RData::AAAA(AAAA(*ip))).collect(),
            RecordType::ANY => vec![minimal_any()],
            _ => Vec::new(),
        }
    }
}

/// RFC 8482, section 4.2: a question for everything gets a word about this document.
fn minimal_any() -> RData {
    RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new()))
}

impl Zone {
    /// From a catalogue whose names were checked against the zones that this organisation may claim, and the private
    /// zones, checked likewise.
    pub fn new(pool: Pool, private_zones: &[HostName], catalogue: &[CatalogueEntry]) -> Self {
        let mut zone = Self {
            pool,
            names: BTreeMap::new(),
            suffixes: BTreeMap::new(),
            private: private_zones.iter().map(|name| key_of_text(name.as_str())).collect(),
            inner: BTreeSet::new(),
            held: HeldKeys::default(),
            outside: BTreeSet::new(),
            reverse: reverse_zones(&pool),
            pointers: BTreeMap::new(),
        };
        zone.private.insert(key_of_text(OWN_ZONE));
        for entry in catalogue {
            for address in &entry.addresses {
                zone.declare(address);
            }
            for suffix in &entry.suffixes {
                zone.suffixes.entry(key_of_text(suffix.as_str())).or_insert(entry.id);
            }
        }
        let controller = Addresses { v4: BTreeSet::new(), v6: BTreeSet::from([pool.controller()]) };
        zone.names.insert(key_of_text(CONTROLLER), controller);
        if let Ok(name) = CONTROLLER.parse() {
            zone.pointers.insert(IpAddr::V6(pool.controller()), name);
        }
        zone.find_inner();
        zone
    }

    /// While the controller has not told what there is, or the client is dead: what was ours is not answered, and leaves
    /// the machine as little as ever.
    pub(crate) fn held(pool: Pool, held: &Held) -> Self {
        let keys = |names: &[HostName]| names.iter().map(|name| key_of_text(name.as_str())).collect();
        let mut zone = Self::new(pool, &[], &[]);
        zone.held = HeldKeys { names: keys(&held.names), suffixes: keys(&held.suffixes), zones: keys(&held.zones) };
        zone.held.zones.insert(key_of_text(OWN_ZONE));
        zone
    }

    /// The same without the names of these endpoints, `HOST:PORT`: in a private zone they would be ours, and the controller
    /// that has to be found by them never be.
    pub(crate) fn without(mut self, endpoints: &[String]) -> Self {
        let hosts = endpoints.iter().filter_map(|endpoint| Some(endpoint.rsplit_once(':')?.0));
        self.outside = hosts.map(|host| key_of_text(&host.to_ascii_lowercase())).collect();
        self
    }

    fn declare(&mut self, address: &CatalogueAddress) {
        let Some(name) = &address.name else { return };
        let addresses = self.names.entry(key_of_text(name.as_str())).or_default();
        addresses.add(&self.pool, address);
        for ip in addresses.iter() {
            self.pointers.entry(ip).or_insert_with(|| name.clone());
        }
    }

    /// RFC 8020: a name with names below it exists, though it has no records.
    fn find_inner(&mut self) {
        for key in self.names.keys().chain(self.suffixes.keys()) {
            let in_zone = |ancestor: &&[u8]| upwards(ancestor).any(|zone| self.private.contains(zone));
            self.inner.extend(upwards(key).take_while(in_zone).map(<[u8]>::to_vec));
        }
    }

    /// The pool.
    pub const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Whose suffix is the name below?
    pub fn suffix_of(&self, name: &HostName) -> Option<ResourceId> {
        let key = key_of_text(name.as_str());
        if self.names.contains_key(&key) { None } else { self.suffix(&key).map(|(_, id)| id) }
    }

    fn suffix<'k>(&self, key: &'k [u8]) -> Option<(&'k [u8], ResourceId)> {
        upwards(key).skip(1).find_map(|above| Some((above, *self.suffixes.get(above)?)))
    }

    /// Answers a question of class IN. `assigned` tells the name of an address that was given on an earlier query.
    pub fn look_up(&self, name: &Name, kind: RecordType, assigned: impl Fn(IpAddr) -> Option<HostName>) -> Verdict {
        let key = key_of(name);
        let apex = |zone: &[u8]| name.trim_to(labels(zone).count());
        let canary = key_of_text(CANARY);
        if upwards(&key).any(|above| above == canary) {
            return Verdict::Missing { apex: apex(&canary) };
        }
        if self.outside.contains(&key) {
            return Verdict::Forward;
        }
        if let Some(addresses) = self.names.get(&key) {
            let zone = upwards(&key).find(|above| self.private.contains(*above)).unwrap_or(&key);
            return Verdict::Exists { apex: apex(zone), data: addresses.data(kind) };
        }
        if self.held.holds(&key) {
            return Verdict::Impossible;
        }
        if let Some(zone) = upwards(&key).find(|above| self.reverse.iter().any(|reverse| reverse == above)) {
            return Verdict::Exists { apex: apex(zone), data: self.pointer(&key, kind, assigned) };
        }
        if let Some((suffix, resource)) = self.suffix(&key) {
            return Self::below_suffix(name, kind, resource, apex(suffix));
        }
        match upwards(&key).find(|above| self.private.contains(*above)) {
            Some(zone) if zone == key || self.inner.contains(&key) => {
                Verdict::Exists { apex: apex(zone), data: Addresses::default().data(kind) }
            }
            Some(zone) => Verdict::Missing { apex: apex(zone) },
            None => Verdict::Forward,
        }
    }

    fn below_suffix(name: &Name, kind: RecordType, resource: ResourceId, apex: Name) -> Verdict {
        // Other types have no records wherever the name leads; no address is spent on them.
        if !matches!(kind, RecordType::A | RecordType::AAAA) {
            return Verdict::Exists { apex, data: Addresses::default().data(kind) };
        }
        match name.to_ascii().parse() {
            Ok(name) => Verdict::Assign { name, resource, apex },
            Err(_) => Verdict::Impossible,
        }
    }

    fn pointer(&self, key: &[u8], kind: RecordType, assigned: impl Fn(IpAddr) -> Option<HostName>) -> Vec<RData> {
        let found = reversed(key).and_then(|ip| self.pointers.get(&ip).cloned().or_else(|| assigned(ip)));
        let name = found.and_then(|name| Name::from_ascii(format!("{name}.")).ok());
        match (name, kind) {
            (Some(name), RecordType::PTR) => vec![RData::PTR(PTR(name))],
            (_, RecordType::ANY) => vec![minimal_any()],
            _ => Vec::new(),
        }
    }
}

/// The names under which the pool's addresses are reversed (RFC 1035 section 3.5, RFC 3596 section 2.5).
fn reverse_zones(pool: &Pool) -> [Key; 2] {
    let text = |prefix: model::net::Prefix| match prefix.address() {
        IpAddr::V4(ip) => {
            let octets = ip.octets();
            let kept = octets.iter().take(usize::from(prefix.bits()) / 8).rev();
            kept.map(|octet| format!("{octet}.")).collect::<String>() + "in-addr.arpa"
        }
        IpAddr::V6(ip) => {
            let nibbles = ip.octets().into_iter().flat_map(|octet| [octet >> 4, octet & 15]);
            let kept: Vec<u8> = nibbles.take(usize::from(prefix.bits()) / 4).collect();
            kept.iter().rev().map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
        }
    };
    [key_of_text(&text(pool.v4())), key_of_text(&text(pool.v6()))]
}

/// The address that a whole reverse name stands for.
fn reversed(key: &[u8]) -> Option<IpAddr> {
    let labels: Vec<&str> = labels(key).map(std::str::from_utf8).collect::<Result<_, _>>().ok()?;
    match labels.as_slice() {
        [d, c, b, a, "in-addr", "arpa"] => format!("{a}.{b}.{c}.{d}").parse().ok().map(IpAddr::V4),
        [nibbles @ .., "ip6", "arpa"] if nibbles.len() == 32 => {
            let digit = |label: &&str| (label.len() == 1).then(|| u128::from_str_radix(label, 16).ok()).flatten();
            let number = nibbles.iter().rev().try_fold(0u128, |sum, label| Some((sum << 4) | digit(label)?))?;
            Some(IpAddr::V6(Ipv6Addr::from(number)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
