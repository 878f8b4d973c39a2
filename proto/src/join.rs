//! What does a join file say, and is it one? The paper on which a new node trusts an organisation.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use blake2::{Blake2s256, Digest as _};
use model::key::PublicKey;
use model::limits::{ENDPOINTS_MAX, JOIN_FILE_BYTES_MAX, LIST_MAX};
use model::net::{HostName, Prefix};
use model::pool::Pool;
use model::secret::Secret;
use model::time::WallMs;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The only version that exists.
pub const VERSION: u32 = 1;

/// Which kind of node may join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JoinKind {
    /// A client's device.
    Device,
    /// A gateway.
    Gateway,
}

impl fmt::Display for JoinKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Device => "device",
            Self::Gateway => "gateway",
        })
    }
}
impl FromStr for JoinKind {
    type Err = JoinError;
    fn from_str(text: &str) -> Result<Self, JoinError> {
        match text {
            "device" => Ok(Self::Device),
            "gateway" => Ok(Self::Gateway),
            _ => Err(JoinError::Field("kind", "must be device or gateway".into())),
        }
    }
}

/// Where the controller may be reached: a name, resolved again on each failure, or an address; and a UDP port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Name or address.
    pub host: EndpointHost,
    /// UDP port.
    pub port: u16,
}

/// See [`Endpoint::host`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointHost {
    /// To be resolved.
    Name(HostName),
    /// As it is.
    Address(IpAddr),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            EndpointHost::Name(name) => write!(f, "{name}:{}", self.port),
            EndpointHost::Address(address) => write!(f, "{}", std::net::SocketAddr::new(*address, self.port)),
        }
    }
}
impl FromStr for Endpoint {
    type Err = JoinError;
    fn from_str(text: &str) -> Result<Self, JoinError> {
        let shown: String = text.chars().take(80).flat_map(char::escape_default).collect();
        let bad = || {
            JoinError::Field(
                "endpoint",
                format!(
                    "`{shown}` is not HOST:PORT (expected forms: vpn.corp.example:443, 192.0.2.1:443, [2001:db8::1]:443)"
                ),
            )
        };
        if let Ok(address) = text.parse::<std::net::SocketAddr>() {
            let usable = address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast();
            let host = EndpointHost::Address(address.ip());
            return if usable { Ok(Self { host, port: address.port() }) } else { Err(bad()) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse::<u16>().ok().filter(|p| digits && *p > 0).ok_or_else(bad)?;
        Ok(Self { host: EndpointHost::Name(host.parse().map_err(|_| bad())?), port })
    }
}
impl Serialize for Endpoint {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A join file, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct JoinFile {
    /// The organisation.
    pub trust_domain: HostName,
    /// The controller's WireGuard key: pinned.
    pub controller_key: PublicKey,
    /// Where it may be reached, best first; never empty.
    pub endpoints: Vec<Endpoint>,
    /// The only root that is trusted, DER.
    pub ca: Vec<u8>,
    /// The organisation's overlay addresses.
    pub pool: Pool,
    /// The zones in which this organisation may claim names on the joining machine.
    pub zones: Vec<HostName>,
    /// The prefixes in which this organisation may claim real addresses on the joining machine.
    pub route_prefixes: Vec<Prefix>,
    /// Which kind of node may join.
    pub kind: JoinKind,
    /// Until when.
    pub expires: WallMs,
    /// The join key's 256 random bits.
    pub secret: Secret<[u8; 32]>,
}

/// Why a file is no usable join file. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Longer than any join file.
    #[error("this is not a join file: it has more than {JOIN_FILE_BYTES_MAX} bytes")]
    TooLarge,
    /// It ends in the middle.
    #[error("the join file is cut off: copy it again, whole")]
    Truncated,
    /// Not JSON, or fields are missing.
    #[error("this is not a join file ({0}): ask your administrator for one (`umbra-controller join-key create`)")]
    Syntax(String),
    /// Of another version.
    #[error(
        "the join file is of version {0}, this program reads version {VERSION}: use the program of the same release as the controller"
    )]
    Version(u64),
    /// A field does not hold what it should.
    #[error("the join file's field `{0}` {1}")]
    Field(&'static str, String),
    /// Its time is over.
    #[error("the join file expired {0} ago: ask your administrator for a new one (`umbra-controller join-key create`)")]
    Expired(String),
}

#[derive(Serialize, Deserialize)]
struct Wire {
    version: u64,
    trust_domain: HostName,
    controller_key: String,
    endpoints: Vec<Endpoint>,
    ca: String,
    pool: WirePool,
    zones: Vec<HostName>,
    route_prefixes: Vec<Prefix>,
    kind: JoinKind,
    expires_ms: i64,
    secret: String,
}

#[derive(Serialize, Deserialize)]
struct WirePool {
    v4: Prefix,
    v6: Prefix,
}

#[derive(Deserialize)]
struct WireVersion {
    version: u64,
}

impl JoinFile {
    /// Reads a file. `now` is the wall clock: an expired file is refused, with words.
    pub fn parse(bytes: &[u8], now: WallMs) -> Result<Self, JoinError> {
        if bytes.len() > JOIN_FILE_BYTES_MAX {
            return Err(JoinError::TooLarge);
        }
        let syntax = |e: serde_json::Error| match e.classify() {
            serde_json::error::Category::Eof => JoinError::Truncated,
            // serde_json's own words may quote the file's content, the secret included: only the place is told.
            _ => JoinError::Syntax(format!("line {}, column {}", e.line(), e.column())),
        };
        let version = serde_json::from_slice::<WireVersion>(bytes).map_err(syntax)?.version;
        if version != u64::from(VERSION) {
            return Err(JoinError::Version(version));
        }
        let file = Self::check(serde_json::from_slice(bytes).map_err(syntax)?)?;
        if file.expires <= now {
            return Err(JoinError::Expired(ago(now.since(file.expires).as_secs())));
        }
        Ok(file)
    }

    fn check(wire: Wire) -> Result<Self, JoinError> {
        let field = JoinError::Field;
        let pool = Pool::new(wire.pool.v4, wire.pool.v6).map_err(|e| field("pool", e.to_string()))?;
        if wire.endpoints.is_empty() || wire.endpoints.len() > ENDPOINTS_MAX {
            return Err(field("endpoints", format!("must have 1 to {ENDPOINTS_MAX} members")));
        }
        if wire.zones.len() > LIST_MAX || wire.route_prefixes.len() > LIST_MAX {
            return Err(field("zones", format!("and `route_prefixes` may have at most {LIST_MAX} members")));
        }
        if wire.route_prefixes.iter().any(|p| p.bits() == 0) {
            return Err(field("route_prefixes", "claims a default route".into()));
        }
        let ca = BASE64.decode(&wire.ca).map_err(|_| field("ca", "is not base 64".into()))?;
        if ca.is_empty() {
            return Err(field("ca", "is empty".into()));
        }
        Ok(Self {
            trust_domain: wire.trust_domain,
            controller_key: PublicKey(bytes32("controller_key", &wire.controller_key)?),
            endpoints: wire.endpoints,
            ca,
            pool,
            zones: wire.zones,
            route_prefixes: wire.route_prefixes,
            kind: wire.kind,
            expires: WallMs(wire.expires_ms),
            secret: Secret::new(bytes32("secret", &wire.secret)?),
        })
    }

    /// Writes the file: JSON, one field a line. It holds the secret.
    pub fn to_json(&self) -> Secret<Vec<u8>> {
        let wire = Wire {
            version: u64::from(VERSION),
            trust_domain: self.trust_domain.clone(),
            controller_key: BASE64.encode(self.controller_key.0),
            endpoints: self.endpoints.clone(),
            ca: BASE64.encode(&self.ca),
            pool: WirePool { v4: self.pool.v4(), v6: self.pool.v6() },
            zones: self.zones.clone(),
            route_prefixes: self.route_prefixes.clone(),
            kind: self.kind,
            expires_ms: self.expires.0,
            secret: BASE64.encode(self.secret.expose()),
        };
        let mut text = serde_json::to_vec_pretty(&wire).unwrap_or_default();
        text.push(b'\n');
        Secret::new(text)
    }

    /// What two people compare before a machine joins: 64 bits over domain, controller key and CA, in groups.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.trust_domain, &self.controller_key, &self.ca)
    }
}

/// See [`JoinFile::fingerprint`].
pub fn fingerprint(trust_domain: &HostName, controller_key: &PublicKey, ca: &[u8]) -> String {
    let mut hash = Blake2s256::new();
    hash.update(b"umbra organisation v1\0");
    hash.update(trust_domain.as_str());
    hash.update([0]);
    hash.update(controller_key.0);
    hash.update(ca);
    groups(&hash.finalize())
}

/// What an administrator compares before confirming a node: 64 bits over its WireGuard key and its certificate's
/// public key (SubjectPublicKeyInfo, DER), in groups of four digits.
pub fn node_fingerprint(key: &PublicKey, public_key_info: &[u8]) -> String {
    let mut hash = Blake2s256::new();
    hash.update(b"umbra node v1\0");
    hash.update(key.0);
    hash.update(public_key_info);
    groups(&hash.finalize())
}

fn groups(hash: &[u8]) -> String {
    let words: Vec<String> =
        hash.chunks(2).take(4).map(|pair| pair.iter().map(|b| format!("{b:02x}")).collect()).collect();
    words.join("-")
}

fn bytes32(field: &'static str, text: &str) -> Result<[u8; 32], JoinError> {
    let bytes = Secret::new(BASE64.decode(text).map_err(|_| JoinError::Field(field, "is not base 64".into()))?);
    let bytes: [u8; 32] =
        bytes.expose().as_slice().try_into().map_err(|_| JoinError::Field(field, "must be 32 bytes".into()))?;
    if bytes == [0; 32] { Err(JoinError::Field(field, "is all zeros".into())) } else { Ok(bytes) }
}

fn ago(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallMs = WallMs(1_000_000);

    fn file() -> JoinFile {
        JoinFile {
            trust_domain: "corp.example".parse().unwrap(),
            controller_key: PublicKey([7; 32]),
            endpoints: vec!["vpn.corp.example:443".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap()],
            ca: vec![0x30, 1, 2],
            pool: Pool::new("10.77.0.0/16".parse().unwrap(), "fd12:3456:789a::/48".parse().unwrap()).unwrap(),
            zones: vec!["corp.example".parse().unwrap()],
            route_prefixes: vec!["10.1.0.0/16".parse().unwrap()],
            kind: JoinKind::Gateway,
            expires: WallMs(NOW.0 + 1),
            secret: Secret::new([9; 32]),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let json = file().to_json();
        assert_eq!(JoinFile::parse(json.expose(), NOW), Ok(file()));
        assert_eq!(file().fingerprint().len(), 19);
        let other = JoinFile { controller_key: PublicKey([8; 32]), ..file() };
        assert_ne!(file().fingerprint(), other.fingerprint());
    }

    #[test]
    fn every_cut_is_told_as_a_cut_and_shows_no_secret() {
        let json = file().to_json();
        let end = json.expose().len() - 2;
        for len in 0..end {
            let error = JoinFile::parse(&json.expose()[..len], NOW).unwrap_err();
            assert_eq!(error, JoinError::Truncated, "{len}");
        }
    }

    #[test]
    fn wrong_files_say_what_is_wrong() {
        let change = |from: &str, to: &str| {
            let json = String::from_utf8(file().to_json().expose().clone()).unwrap();
            assert!(json.contains(from), "{from}");
            JoinFile::parse(json.replace(from, to).as_bytes(), NOW).unwrap_err().to_string()
        };
        assert!(change("\"version\": 1", "\"version\": 2").contains("version 2"));
        assert!(change("10.77.0.0/16", "8.8.0.0/16").contains("`pool`"));
        assert!(change("10.1.0.0/16", "0.0.0.0/0").contains("default route"));
        assert!(change("CQkJ", "!!!!").contains("`secret` is not base 64"));
        assert!(change("\"gateway\"", "\"router\"").contains("not a join file"));
        assert!(change("\"zones\"", "\"Zones\"").contains("not a join file"));
        let late = JoinFile::parse(file().to_json().expose(), WallMs(NOW.0 + 3_600_000)).unwrap_err();
        assert_eq!(late.to_string().split(':').next(), Some("the join file expired 59 min ago"));
        assert!(JoinFile::parse(b"PK\x03\x04", NOW).unwrap_err().to_string().contains("not a join file"));
        assert_eq!(JoinFile::parse(&vec![b' '; JOIN_FILE_BYTES_MAX + 1], NOW), Err(JoinError::TooLarge));
    }

    #[test]
    fn endpoints_are_hosts_and_ports() {
        for good in ["a.example:1", "192.0.2.1:443", "[2001:db8::1]:65535"] {
            assert_eq!(good.parse::<Endpoint>().unwrap().to_string(), good);
        }
        for bad in
            ["", "a", "a:", "a:0", "a:65536", "a:+1", "0.0.0.0:1", "a b:1", "2001:db8::1:443x", "[::]:1", "1.2.3:4"]
        {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }
}
