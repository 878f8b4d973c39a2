//! Prefixes, ports, protocols, and the rules of a grant. Which addresses may a packet never be sent to?

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Why a text is no prefix, port range or protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// Not `ADDRESS` or `ADDRESS/LENGTH`.
    #[error("`{0}` is not an address or a prefix (expected forms: 10.0.0.1, 10.0.0.0/24, fd00::/64)")]
    Prefix(String),
    /// Address bits beyond the prefix length are set.
    #[error("`{0}` has address bits set beyond its prefix length; did you mean `{1}`?")]
    HostBits(String, String),
    /// Not `PORT` or `FIRST-LAST`.
    #[error("`{0}` is not a port or a range of ports (expected forms: 443, 8000-8099)")]
    Ports(String),
    /// Not tcp, udp or icmp.
    #[error("`{0}` is not a protocol (expected tcp, udp or icmp)")]
    Protocol(String),
    /// Not a host name (RFC 1123 section 2.1).
    #[error("`{0}` is not a host name (letters, digits and hyphens, at most 63 a label and 253 in all)")]
    Name(String),
}

/// An IP prefix; address bits beyond the length are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

fn mask(address: IpAddr, len: u8) -> IpAddr {
    match address {
        IpAddr::V4(a) => {
            let keep = u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(a) & keep))
        }
        IpAddr::V6(a) => {
            let keep = u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(a) & keep))
        }
    }
}

impl Prefix {
    /// Checks that the length fits the family and that no host bit is set.
    pub fn new(address: IpAddr, len: u8) -> Result<Self, NetError> {
        let max = if address.is_ipv4() { 32 } else { 128 };
        if len > max {
            return Err(NetError::Prefix(format!("{address}/{len}")));
        }
        let masked = mask(address, len);
        if masked != address {
            return Err(NetError::HostBits(format!("{address}/{len}"), format!("{masked}/{len}")));
        }
        Ok(Self { address, len })
    }
    /// The prefix of `len` bits (cut to the family's length) that `address` lies in.
    pub fn containing(address: IpAddr, len: u8) -> Self {
        let len = len.min(if address.is_ipv4() { 32 } else { 128 });
        Self { address: mask(address, len), len }
    }
    /// One address: /32 or /128.
    pub const fn host(address: IpAddr) -> Self {
        let len = if address.is_ipv4() { 32 } else { 128 };
        Self { address, len }
    }
    /// The first address.
    pub const fn address(&self) -> IpAddr {
        self.address
    }
    /// The length in bits.
    pub const fn bits(&self) -> u8 {
        self.len
    }
    /// Is it one address?
    pub const fn is_host(&self) -> bool {
        self.len == if self.address.is_ipv4() { 32 } else { 128 }
    }
    /// Does it contain the address? Families never mix.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && mask(address, self.len) == self.address
    }
    /// Does it contain all of `other`?
    pub fn covers(&self, other: &Self) -> bool {
        self.len <= other.len && self.contains(other.address)
    }
    /// Do the two share an address?
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_host() { f.pad(&self.address.to_string()) } else { f.pad(&format!("{}/{}", self.address, self.len)) }
    }
}
impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
impl FromStr for Prefix {
    type Err = NetError;
    fn from_str(text: &str) -> Result<Self, NetError> {
        let bad = || NetError::Prefix(text.chars().take(60).flat_map(char::escape_default).collect());
        match text.split_once('/') {
            None => text.parse().map(Self::host).map_err(|_| bad()),
            Some((address, len)) => {
                let address = address.parse().map_err(|_| bad())?;
                if len.is_empty() || len.len() > 3 || !len.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(bad());
                }
                Self::new(address, len.parse().map_err(|_| bad())?)
            }
        }
    }
}
impl serde::Serialize for Prefix {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> serde::Deserialize<'de> for Prefix {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The protocols that a resource can name. ICMP means ICMPv4 on IPv4 and ICMPv6 on IPv6 (echo only).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// IP protocol 6.
    Tcp,
    /// IP protocol 17.
    Udp,
    /// IP protocol 1 or 58.
    Icmp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        })
    }
}
impl FromStr for Protocol {
    type Err = NetError;
    fn from_str(text: &str) -> Result<Self, NetError> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "icmp" => Ok(Self::Icmp),
            other => Err(NetError::Protocol(other.chars().take(20).flat_map(char::escape_default).collect())),
        }
    }
}

/// An inclusive range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port, not below the first.
    pub last: u16,
}

impl PortRange {
    /// All ports; also what an ICMP rule carries.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };
    /// Checks the order.
    pub fn new(first: u16, last: u16) -> Result<Self, NetError> {
        if first > last {
            return Err(NetError::Ports(format!("{first}-{last}")));
        }
        Ok(Self { first, last })
    }
    /// Is the port in the range?
    pub const fn contains(&self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}
impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}
impl FromStr for PortRange {
    type Err = NetError;
    fn from_str(text: &str) -> Result<Self, NetError> {
        let bad = || NetError::Ports(text.chars().take(20).flat_map(char::escape_default).collect());
        let number = |t: &str| {
            if t.is_empty() || !t.bytes().all(|b| b.is_ascii_digit()) {
                return Err(bad());
            }
            t.parse::<u16>().map_err(|_| bad())
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = Self::new(number(first)?, number(last)?)?;
        if range.first == 0 { Err(bad()) } else { Ok(range) }
    }
}

/// A host name in lower case without a trailing dot, checked by RFC 1123 section 2.1 (underscores allowed, as DNS does).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(String);

impl HostName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Is it `zone` itself or below it?
    pub fn is_in(&self, zone: &Self) -> bool {
        self.0 == zone.0 || self.0.strip_suffix(zone.as_str()).is_some_and(|rest| rest.ends_with('.'))
    }
}
impl FromStr for HostName {
    type Err = NetError;
    fn from_str(text: &str) -> Result<Self, NetError> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let label_ok = |l: &str| {
            !l.is_empty()
                && l.len() <= 63
                && !l.starts_with('-')
                && !l.ends_with('-')
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        // A name whose last label is a number would be read as an IPv4 address by inet_aton.
        let numeric_end = name.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
        if name.len() <= 253 && !numeric_end && name.split('.').all(label_ok) {
            Ok(Self(name))
        } else {
            Err(NetError::Name(text.chars().take(80).flat_map(char::escape_default).collect()))
        }
    }
}
impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl serde::Serialize for HostName {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}
impl<'de> serde::Deserialize<'de> for HostName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where a rule leads on the service's side.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Real addresses, of the same length and family as the client's prefix (bits are carried over).
    Prefix(Prefix),
    /// A host name that the gateway resolves for each new flow; the client's prefix is one address.
    Name(HostName),
}

/// One line of a grant: packets of `protocol` to `client`:`ports` go to `target`, on the same port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Rule {
    /// Destination as the client sees it: a virtual address, or the real addresses of a CIDR resource.
    pub client: Prefix,
    /// Destination as the service's network sees it.
    pub target: Target,
    /// Which protocol.
    pub protocol: Protocol,
    /// Which destination ports; [`PortRange::ALL`] for ICMP.
    pub ports: PortRange,
}

impl Rule {
    /// Does the rule speak of such a packet? `port` is the destination port, and is not looked at for ICMP.
    pub fn matches(&self, destination: IpAddr, protocol: Protocol, port: u16) -> bool {
        self.protocol == protocol
            && self.client.contains(destination)
            && (protocol == Protocol::Icmp || self.ports.contains(port))
    }
}

/// Is the address one to which no packet may ever be forwarded, whatever a resource says?
///
/// Unspecified, loopback, link-local (cloud metadata), multicast, broadcast, reserved (240/4), and the IPv6 forms that
/// carry an IPv4 address: mapped and compatible (RFC 4291 section 2.5.5), NAT64 (RFC 6052, RFC 8215), 6to4 (RFC 3056)
/// and Teredo (RFC 4380). Pool, overlay and a gateway's own addresses are for the caller, who knows them.
pub fn never_a_target(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            let [first, ..] = a.octets();
            first == 0 || first >= 240 || a.is_loopback() || a.is_link_local() || a.is_multicast() || a.is_broadcast()
        }
        IpAddr::V6(a) => {
            let s = a.segments();
            a.is_unspecified()
                || a.is_loopback()
                || a.is_multicast()
                || a.is_unicast_link_local()
                || (s[0] & 0xffc0) == 0xfec0 // site-local, deprecated by RFC 3879
                || s[..6] == [0, 0, 0, 0, 0, 0xffff] // IPv4-mapped
                || s[..6] == [0, 0, 0, 0, 0xffff, 0] // IPv4-translated
                || s[..6] == [0; 6] // IPv4-compatible
                || (s[0] == 0x64 && s[1] == 0xff9b) // NAT64, both the well-known and the local-use prefix
                || s[0] == 0x2002 // 6to4
                || (s[0] == 0x2001 && s[1] == 0) // Teredo
                || ((s[4] | 0x0200) == 0x0200 && s[5] == 0x5efe) // ISATAP (RFC 5214)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_say_what_is_wrong() {
        assert_eq!(prefix("10.0.0.0/8").bits(), 8);
        assert!(prefix("0.0.0.0/0").contains("200.1.2.3".parse().unwrap()));
        assert!("10.0.0.1/8".parse::<Prefix>().unwrap_err().to_string().contains("10.0.0.0/8"));
        for bad in ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "::/129", "x/8", "10.0.0/8"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn spellings_of_dangerous_addresses_are_known() {
        for bad in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "::ffff:169.254.169.254",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
            "2002:7f00:1::",
            "2001::1",
            "::ffff:0:127.0.0.1",
            "fec0::1",
            "2001:db8::5efe:7f00:1",
        ] {
            assert!(never_a_target(bad.parse().unwrap()), "{bad}");
        }
        for good in ["10.0.0.1", "192.168.1.1", "100.64.0.1", "198.51.100.1", "fd00::1", "2001:db8::1", "2001:4860::1"]
        {
            assert!(!never_a_target(good.parse().unwrap()), "{good}");
        }
    }

    #[test]
    fn host_names() {
        let name: HostName = "DB.Corp.Example.".parse().unwrap();
        assert_eq!(name.as_str(), "db.corp.example");
        assert!(name.is_in(&"corp.example".parse().unwrap()));
        assert!(!name.is_in(&"orp.example".parse().unwrap()));
        for bad in ["", ".", "a..b", "-a", "a b", "a\nb", "1.2.3.4", "é", &"a".repeat(64)] {
            assert!(bad.parse::<HostName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn port_ranges() {
        assert_eq!("80".parse::<PortRange>().unwrap(), PortRange { first: 80, last: 80 });
        for bad in ["", "0", "-", "80-", "9-8", "65536", "+80", "80-90-95"] {
            assert!(bad.parse::<PortRange>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn containing_contains(a: u128, len in 0u8..=128) {
            let address = IpAddr::from(Ipv6Addr::from(a));
            let p = Prefix::containing(address, len);
            prop_assert!(p.contains(address));
            prop_assert_eq!(p.to_string().parse::<Prefix>().unwrap(), p);
        }
        #[test]
        fn covers_means_every_address(a: u32, la in 0u8..=32, b: u32, lb in 0u8..=32, probe: u32) {
            let (p, q) = (Prefix::containing(IpAddr::from(Ipv4Addr::from(a)), la), Prefix::containing(IpAddr::from(Ipv4Addr::from(b)), lb));
            let probe = IpAddr::from(Ipv4Addr::from(probe));
            if p.covers(&q) && q.contains(probe) { prop_assert!(p.contains(probe)); }
            if p.contains(probe) && q.contains(probe) { prop_assert!(p.overlaps(&q)); }
        }
    }
}
