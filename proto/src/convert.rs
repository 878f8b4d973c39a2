//! How does a message off the wire become a checked word of `model`, and back?

use crate::v1;
use model::audit::{AuditHead, SignedHead};
use model::grant::{CatalogueAddress, CatalogueEntry, Ending, Grant, Pairing};
use model::key::{Psk, PublicKey};
use model::limits::{AUDIT_SIGNATURE_MAX, LIST_MAX, NAME_MAX, RULES_PER_GRANT_MAX};
use model::net::{HostName, PortRange, Prefix, Protocol, Rule, Target};
use model::revision::Revision;
use model::text::is_hidden;
use model::time::WallMs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// What is wrong with a message, and in which field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}`: {why}")]
pub struct WireError {
    /// The field's name.
    pub field: &'static str,
    /// What was expected.
    pub why: String,
}

/// An error in `field`.
pub fn wrong(field: &'static str, why: impl ToString) -> WireError {
    WireError { field, why: why.to_string() }
}

/// A field that must be there.
pub fn required<T>(field: &'static str, value: Option<T>) -> Result<T, WireError> {
    value.ok_or_else(|| wrong(field, "is missing"))
}

/// An id in text form.
pub fn id<T: std::str::FromStr>(field: &'static str, text: &str) -> Result<T, WireError>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| wrong(field, e))
}

/// Exactly `N` bytes.
pub fn array<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], WireError> {
    bytes.try_into().map_err(|_| wrong(field, format!("must be {N} bytes, is {}", bytes.len())))
}

/// An X25519 public key in its one form ([`PublicKey::is_canonical`]).
pub fn public_key(field: &'static str, bytes: &[u8]) -> Result<PublicKey, WireError> {
    let key = PublicKey(array(field, bytes)?);
    if key.is_canonical() {
        Ok(key)
    } else {
        Err(wrong(field, "is another form of a key; send the key as it was made"))
    }
}

/// A list that is not longer than `max`.
pub fn bounded<T>(field: &'static str, list: Vec<T>, max: usize) -> Result<Vec<T>, WireError> {
    if list.len() > max {
        Err(wrong(field, format!("has {} members, at most {max} are allowed", list.len())))
    } else {
        Ok(list)
    }
}

/// A name for people: 1 to 64 bytes, no control, bidirectional or invisible characters ([`is_hidden`]), no blanks at the ends.
pub fn display_name(field: &'static str, text: &str) -> Result<String, WireError> {
    if text.is_empty() || text.len() > NAME_MAX || text.trim() != text || text.chars().any(is_hidden) {
        return Err(wrong(
            field,
            format!("must be 1 to {NAME_MAX} bytes of printable text without invisible characters"),
        ));
    }
    Ok(text.to_owned())
}

/// 4 or 16 bytes of an address.
pub fn address(field: &'static str, bytes: &[u8]) -> Result<IpAddr, WireError> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Ok(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(bytes).map(IpAddr::from).map_err(|_| wrong(field, "must be 4 or 16 bytes"))
}

/// The bytes of an address.
pub fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

impl From<Revision> for v1::Revision {
    fn from(r: Revision) -> Self {
        Self { incarnation: r.incarnation, number: r.number }
    }
}
impl From<v1::Revision> for Revision {
    fn from(r: v1::Revision) -> Self {
        Self { incarnation: r.incarnation, number: r.number }
    }
}

impl From<SignedHead> for v1::AuditHead {
    fn from(signed: SignedHead) -> Self {
        let head = signed.head;
        Self {
            revision: Some(head.revision.into()),
            seq: head.seq,
            hash: head.hash.to_vec(),
            at_ms: head.at.0,
            signature: signed.signature,
        }
    }
}
impl TryFrom<v1::AuditHead> for SignedHead {
    type Error = WireError;
    fn try_from(head: v1::AuditHead) -> Result<Self, WireError> {
        let signature = bounded("signature", head.signature, AUDIT_SIGNATURE_MAX)?;
        let revision = required("revision", head.revision)?.into();
        let head = AuditHead { revision, seq: head.seq, hash: array("hash", &head.hash)?, at: WallMs(head.at_ms) };
        Ok(Self { head, signature })
    }
}

impl From<Prefix> for v1::Prefix {
    fn from(p: Prefix) -> Self {
        Self { address: address_bytes(p.address()), length: u32::from(p.bits()) }
    }
}
impl TryFrom<v1::Prefix> for Prefix {
    type Error = WireError;
    fn try_from(p: v1::Prefix) -> Result<Self, WireError> {
        let length = u8::try_from(p.length).map_err(|_| wrong("prefix.length", "is too large"))?;
        Self::new(address("prefix.address", &p.address)?, length).map_err(|e| wrong("prefix", e))
    }
}

impl From<Ending> for v1::GrantEnding {
    fn from(e: Ending) -> Self {
        match e {
            Ending::Ended => Self::Unspecified,
            Ending::Expired => Self::Expired,
            Ending::Returned => Self::Returned,
            Ending::Replaced => Self::Replaced,
            Ending::Session => Self::Session,
            Ending::User => Self::User,
            Ending::Device => Self::Device,
            Ending::Policy => Self::Policy,
            Ending::Resource => Self::Resource,
            Ending::Gateway => Self::Gateway,
            Ending::Restarted => Self::Restarted,
            Ending::Unreached => Self::Unreached,
            Ending::Refused => Self::Refused,
            Ending::Administrator => Self::Administrator,
            Ending::Restored => Self::Restored,
        }
    }
}
impl From<v1::GrantEnding> for Ending {
    fn from(e: v1::GrantEnding) -> Self {
        match e {
            v1::GrantEnding::Unspecified => Self::Ended,
            v1::GrantEnding::Expired => Self::Expired,
            v1::GrantEnding::Returned => Self::Returned,
            v1::GrantEnding::Replaced => Self::Replaced,
            v1::GrantEnding::Session => Self::Session,
            v1::GrantEnding::User => Self::User,
            v1::GrantEnding::Device => Self::Device,
            v1::GrantEnding::Policy => Self::Policy,
            v1::GrantEnding::Resource => Self::Resource,
            v1::GrantEnding::Gateway => Self::Gateway,
            v1::GrantEnding::Restarted => Self::Restarted,
            v1::GrantEnding::Unreached => Self::Unreached,
            v1::GrantEnding::Refused => Self::Refused,
            v1::GrantEnding::Administrator => Self::Administrator,
            v1::GrantEnding::Restored => Self::Restored,
        }
    }
}

/// Why a grant ended. Of what a later release may say, one thing is certain: it ended.
pub fn ending(wire: i32) -> Ending {
    v1::GrantEnding::try_from(wire).map_or(Ending::Ended, Into::into)
}

impl From<SocketAddr> for v1::Endpoint {
    fn from(e: SocketAddr) -> Self {
        Self { address: address_bytes(e.ip()), port: u32::from(e.port()) }
    }
}
impl TryFrom<v1::Endpoint> for SocketAddr {
    type Error = WireError;
    fn try_from(e: v1::Endpoint) -> Result<Self, WireError> {
        let port = u16::try_from(e.port)
            .ok()
            .filter(|p| *p > 0)
            .ok_or_else(|| wrong("endpoint.port", "must be 1 to 65535"))?;
        Ok(Self::new(address("endpoint.address", &e.address)?, port))
    }
}

impl From<Protocol> for v1::Protocol {
    fn from(p: Protocol) -> Self {
        match p {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
            Protocol::Icmp => Self::Icmp,
        }
    }
}

/// A protocol number of the wire's enumeration; the unspecified and unknown ones are refused.
pub fn protocol(value: i32) -> Result<Protocol, WireError> {
    match v1::Protocol::try_from(value) {
        Ok(v1::Protocol::Tcp) => Ok(Protocol::Tcp),
        Ok(v1::Protocol::Udp) => Ok(Protocol::Udp),
        Ok(v1::Protocol::Icmp) => Ok(Protocol::Icmp),
        Ok(v1::Protocol::Unspecified) | Err(_) => Err(wrong("protocol", "must be tcp, udp or icmp")),
    }
}

impl From<PortRange> for v1::Ports {
    fn from(p: PortRange) -> Self {
        Self { first: u32::from(p.first), last: u32::from(p.last) }
    }
}
impl TryFrom<v1::Ports> for PortRange {
    type Error = WireError;
    fn try_from(p: v1::Ports) -> Result<Self, WireError> {
        let port = |n: u32| u16::try_from(n).map_err(|_| wrong("ports", "must be at most 65535"));
        Self::new(port(p.first)?, port(p.last)?).map_err(|e| wrong("ports", e))
    }
}

impl From<Rule> for v1::Rule {
    fn from(r: Rule) -> Self {
        Self {
            client: Some(r.client.into()),
            protocol: v1::Protocol::from(r.protocol).into(),
            ports: Some(r.ports.into()),
            target: Some(match r.target {
                Target::Prefix(p) => v1::rule::Target::Prefix(p.into()),
                Target::Name(n) => v1::rule::Target::Name(n.as_str().to_owned()),
            }),
        }
    }
}
impl TryFrom<v1::Rule> for Rule {
    type Error = WireError;
    fn try_from(r: v1::Rule) -> Result<Self, WireError> {
        Ok(Self {
            client: required("rule.client", r.client)?.try_into()?,
            target: match required("rule.target", r.target)? {
                v1::rule::Target::Prefix(p) => Target::Prefix(p.try_into()?),
                v1::rule::Target::Name(n) => Target::Name(n.parse::<HostName>().map_err(|e| wrong("rule.name", e))?),
            },
            protocol: protocol(r.protocol)?,
            ports: required("rule.ports", r.ports)?.try_into()?,
        })
    }
}

impl From<Pairing> for v1::Pairing {
    fn from(p: Pairing) -> Self {
        Self {
            id: p.id.to_string(),
            device: p.device.to_string(),
            client_key: p.client_key.0.to_vec(),
            psk: p.psk.expose().to_vec(),
            device_v4: p.device_v4.octets().to_vec(),
            device_v6: p.device_v6.octets().to_vec(),
        }
    }
}
impl TryFrom<v1::Pairing> for Pairing {
    type Error = WireError;
    fn try_from(p: v1::Pairing) -> Result<Self, WireError> {
        let psk = array::<32>("pairing.psk", &p.psk)?;
        if psk == [0; 32] {
            return Err(wrong("pairing.psk", "is all zeros"));
        }
        Ok(Self {
            id: id("pairing.id", &p.id)?,
            device: id("pairing.device", &p.device)?,
            client_key: public_key("pairing.client_key", &p.client_key)?,
            psk: Psk::new(psk),
            device_v4: Ipv4Addr::from(array::<4>("pairing.device_v4", &p.device_v4)?),
            device_v6: Ipv6Addr::from(array::<16>("pairing.device_v6", &p.device_v6)?),
        })
    }
}

impl From<Grant> for v1::Grant {
    fn from(g: Grant) -> Self {
        Self {
            id: g.id.to_string(),
            pairing: g.pairing.to_string(),
            device: g.device.to_string(),
            resource: g.resource.to_string(),
            rules: g.rules.into_iter().map(Into::into).collect(),
            nat_v4: g.nat_v4.octets().to_vec(),
            nat_v6: g.nat_v6.octets().to_vec(),
            ends_in_ms: Some(millis(g.ends_in)),
            lease_ms: Some(millis(g.lease)),
            on_gateway: g.on_gateway,
        }
    }
}
impl TryFrom<v1::Grant> for Grant {
    type Error = WireError;
    fn try_from(g: v1::Grant) -> Result<Self, WireError> {
        let rules = bounded("grant.rules", g.rules, RULES_PER_GRANT_MAX)?;
        Ok(Self {
            id: id("grant.id", &g.id)?,
            pairing: id("grant.pairing", &g.pairing)?,
            device: id("grant.device", &g.device)?,
            resource: id("grant.resource", &g.resource)?,
            rules: rules.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            nat_v4: Ipv4Addr::from(array::<4>("grant.nat_v4", &g.nat_v4)?),
            nat_v6: Ipv6Addr::from(array::<16>("grant.nat_v6", &g.nat_v6)?),
            ends_in: Duration::from_millis(required("grant.ends_in_ms", g.ends_in_ms)?),
            lease: Duration::from_millis(required("grant.lease_ms", g.lease_ms)?),
            on_gateway: g.on_gateway,
        })
    }
}

impl From<CatalogueEntry> for v1::Resource {
    fn from(e: CatalogueEntry) -> Self {
        Self {
            id: e.id.to_string(),
            name: e.name,
            addresses: e.addresses.into_iter().map(Into::into).collect(),
            suffixes: e.suffixes.iter().map(|s| s.as_str().to_owned()).collect(),
            services: e
                .ports
                .into_iter()
                .map(|(p, ports)| v1::Service { protocol: v1::Protocol::from(p).into(), ports: Some(ports.into()) })
                .collect(),
        }
    }
}
impl TryFrom<v1::Resource> for CatalogueEntry {
    type Error = WireError;
    fn try_from(r: v1::Resource) -> Result<Self, WireError> {
        Ok(Self {
            id: id("resource.id", &r.id)?,
            name: display_name("resource.name", &r.name)?,
            addresses: bounded("resource.addresses", r.addresses, LIST_MAX)?
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            suffixes: bounded("resource.suffixes", r.suffixes, LIST_MAX)?
                .iter()
                .map(|s| s.parse().map_err(|e| wrong("resource.suffixes", e)))
                .collect::<Result<_, _>>()?,
            ports: bounded("resource.services", r.services, RULES_PER_GRANT_MAX)?
                .into_iter()
                .map(|s| Ok((protocol(s.protocol)?, required("service.ports", s.ports)?.try_into()?)))
                .collect::<Result<_, WireError>>()?,
        })
    }
}

impl From<CatalogueAddress> for v1::ResourceAddress {
    fn from(a: CatalogueAddress) -> Self {
        Self {
            name: a.name.map(|n| n.as_str().to_owned()).unwrap_or_default(),
            v4: a.v4.map(Into::into),
            v6: a.v6.map(Into::into),
        }
    }
}
impl TryFrom<v1::ResourceAddress> for CatalogueAddress {
    type Error = WireError;
    fn try_from(a: v1::ResourceAddress) -> Result<Self, WireError> {
        let family = |field, prefix: Option<v1::Prefix>, v4: bool| {
            let prefix = prefix.map(Prefix::try_from).transpose()?;
            match prefix {
                Some(p) if p.address().is_ipv4() != v4 => Err(wrong(field, "is of the other address family")),
                other => Ok(other),
            }
        };
        Ok(Self {
            name: if a.name.is_empty() { None } else { Some(a.name.parse().map_err(|e| wrong("address.name", e))?) },
            v4: family("address.v4", a.v4, true)?,
            v6: family("address.v6", a.v6, false)?,
        })
    }
}

/// Milliseconds, saturating.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_in_its_one_form() {
        assert_eq!(public_key("key", &[9; 32]), Ok(PublicKey([9; 32])));
        for (bytes, why) in
            [(vec![0x89; 32], "another form"), (vec![0xff; 32], "another form"), (vec![9; 31], "32 bytes")]
        {
            let refused = public_key("key", &bytes).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn a_list_and_a_signature_are_taken_up_to_their_bounds() {
        let signed = |bytes: usize| v1::AuditHead {
            revision: Some(v1::Revision { incarnation: 1, number: 1 }),
            seq: 1,
            hash: vec![1; 32],
            at_ms: 1,
            signature: vec![1; bytes],
        };
        assert!(SignedHead::try_from(signed(AUDIT_SIGNATURE_MAX)).is_ok());
        let refused = SignedHead::try_from(signed(AUDIT_SIGNATURE_MAX + 1)).unwrap_err();
        assert_eq!((refused.field, refused.why.as_str()), ("signature", "has 73 members, at most 72 are allowed"));
        let resource = |count: usize| v1::Resource {
            id: model::ids::ResourceId::from_bytes([1; 10]).to_string(),
            name: "web".to_owned(),
            suffixes: vec!["corp.example".to_owned(); count],
            ..v1::Resource::default()
        };
        assert_eq!(CatalogueEntry::try_from(resource(LIST_MAX)).unwrap().suffixes.len(), LIST_MAX);
        let refused = CatalogueEntry::try_from(resource(LIST_MAX + 1)).unwrap_err();
        assert_eq!(refused.field, "resource.suffixes");
    }

    #[test]
    fn an_ending_comes_through_and_what_is_not_known_is_an_ending_still() {
        let known: Vec<Ending> = (1..100).map(ending).take_while(|e| *e != Ending::Ended).collect();
        assert_eq!((known.len(), known.last()), (14, Some(&Ending::Restored)));
        for (number, of) in (1..).zip(known) {
            assert_eq!(i32::from(v1::GrantEnding::from(of)), number);
        }
        for unknown in [0, 15, -1, i32::MAX] {
            assert_eq!(ending(unknown), Ending::Ended);
        }
    }
}
