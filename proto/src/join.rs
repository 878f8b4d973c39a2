//! The join file: what does a machine need before it has ever spoken to its controller?

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blake2::{Blake2s256, Digest as _};
use model::key::PublicKey;
use model::limits::LIST_MAX;
use model::net::{HostName, Prefix};
use model::pool::Pool;
use model::secret::Secret;
use model::time::WallMs;
use serde::{Deserialize, Serialize};

/// The format that this program writes and reads.
pub const JOIN_VERSION: u32 = 1;

/// What a join file admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JoinKind {
    /// A client's device.
    Device,
    /// A gateway.
    Gateway,
}

impl std::fmt::Display for JoinKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Device => "device",
            Self::Gateway => "gateway",
        })
    }
}

/// Why a join file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Not JSON of the expected shape: cut off, or something else.
    #[error("this is no join file, or it was cut off in copying ({0}); ask your administrator for a new one")]
    Shape(String),
    /// Of a later or earlier format.
    #[error("the join file has format {0}, this program reads format {JOIN_VERSION}; install the matching version")]
    Version(u32),
    /// Its time is over.
    #[error("the join file has expired; ask your administrator for a new one (or check this machine's clock)")]
    Expired,
    /// For the other program.
    #[error("the join file is for a {found}, not for a {wanted}")]
    Kind {
        /// What the file is for.
        found: JoinKind,
        /// What this program is.
        wanted: JoinKind,
    },
    /// A field is not what it should be.
    #[error("the join file's field `{0}` is not valid; ask your administrator for a new one")]
    Field(&'static str),
}

/// A join file, checked.
#[derive(Debug, Clone)]
pub struct JoinFile {
    /// The organisation.
    pub trust_domain: String,
    /// The controller's WireGuard key.
    pub controller_key: PublicKey,
    /// `HOST:PORT` or `[ADDRESS]:PORT`, re-resolved on each failure.
    pub endpoints: Vec<String>,
    /// The CA's certificate, DER: the pin.
    pub ca: Vec<u8>,
    /// The organisation's overlay addresses.
    pub pool: Pool,
    /// DNS zones that the organisation may claim on this machine.
    pub zones: Vec<HostName>,
    /// Real prefixes for which the organisation may set routes on this machine.
    pub prefixes: Vec<Prefix>,
    /// What it admits.
    pub kind: JoinKind,
    /// When it ends.
    pub expires: WallMs,
    /// The secret s of the knock.
    pub secret: Secret<[u8; 32]>,
    /// It admits nobody by itself: a token of the machine's own platform goes with it.
    pub needs_token: bool,
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    umbra_join: u32,
    trust_domain: String,
    controller_key: String,
    endpoints: Vec<String>,
    ca: String,
    pool: Pool,
    zones: Vec<HostName>,
    prefixes: Vec<Prefix>,
    kind: JoinKind,
    expires: WallMs,
    secret: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    needs_token: bool,
}

/// Where serde stopped; its own words may quote the file's content, the secret included.
fn place(error: &serde_json::Error) -> String {
    match error.line() {
        0 => "a field is missing or of the wrong type".to_owned(),
        line => format!("line {line}, column {}", error.column()),
    }
}

impl JoinFile {
    /// What two people compare before a machine joins: 64 bits over domain, controller key and CA, in groups.
    pub fn fingerprint(&self) -> String {
        organisation_fingerprint(&self.trust_domain, &self.controller_key, &self.ca)
    }

    /// The text form (JSON); secret.
    pub fn to_text(&self) -> Result<String, JoinError> {
        let disk = OnDisk {
            umbra_join: JOIN_VERSION,
            trust_domain: self.trust_domain.clone(),
            controller_key: STANDARD.encode(self.controller_key.0),
            endpoints: self.endpoints.clone(),
            ca: STANDARD.encode(&self.ca),
            pool: self.pool,
            zones: self.zones.clone(),
            prefixes: self.prefixes.clone(),
            kind: self.kind,
            expires: self.expires,
            secret: STANDARD.encode(self.secret.expose()),
            needs_token: self.needs_token,
        };
        serde_json::to_string_pretty(&disk).map(|t| t + "\n").map_err(|e| JoinError::Shape(place(&e)))
    }

    /// Reads the text form; `wanted` is what this program is.
    pub fn parse(text: &str, wanted: JoinKind, now: WallMs) -> Result<Self, JoinError> {
        let value: serde_json::Value = serde_json::from_str(text).map_err(|e| JoinError::Shape(place(&e)))?;
        match value.get("umbra_join").and_then(serde_json::Value::as_u64) {
            Some(v) if v == u64::from(JOIN_VERSION) => {}
            Some(v) => return Err(JoinError::Version(u32::try_from(v).unwrap_or(u32::MAX))),
            None => return Err(JoinError::Shape("it names no format".to_owned())),
        }
        if value.get("pool").is_some_and(|pool| Pool::deserialize(pool).is_err()) {
            return Err(JoinError::Field("pool"));
        }
        let disk: OnDisk = serde_json::from_value(value).map_err(|e| JoinError::Shape(place(&e)))?;
        let key = |field, text: &str| -> Result<[u8; 32], JoinError> {
            STANDARD.decode(text).ok().and_then(|b| b.try_into().ok()).ok_or(JoinError::Field(field))
        };
        if disk.trust_domain.parse::<HostName>().is_err() {
            return Err(JoinError::Field("trust_domain"));
        }
        if disk.endpoints.is_empty()
            || disk.endpoints.len() > model::limits::ENDPOINTS_MAX
            || disk.endpoints.iter().any(|e| !endpoint_is_sound(e))
        {
            return Err(JoinError::Field("endpoints"));
        }
        if disk.zones.len() > LIST_MAX || disk.prefixes.len() > LIST_MAX || disk.prefixes.iter().any(|p| p.bits() == 0)
        {
            return Err(JoinError::Field("zones"));
        }
        let file = Self {
            controller_key: PublicKey(key("controller_key", &disk.controller_key)?),
            ca: STANDARD.decode(&disk.ca).map_err(|_| JoinError::Field("ca"))?,
            secret: Secret::new(key("secret", &disk.secret)?),
            trust_domain: disk.trust_domain,
            endpoints: disk.endpoints,
            pool: disk.pool,
            zones: disk.zones,
            prefixes: disk.prefixes,
            kind: disk.kind,
            expires: disk.expires,
            needs_token: disk.needs_token,
        };
        if file.kind != wanted {
            return Err(JoinError::Kind { found: file.kind, wanted });
        }
        if file.expires <= now {
            return Err(JoinError::Expired);
        }
        Ok(file)
    }
}

/// See [`JoinFile::fingerprint`]; `ca` is the certificate, DER.
pub fn organisation_fingerprint(trust_domain: &str, controller_key: &PublicKey, ca: &[u8]) -> String {
    let mut hash = Blake2s256::new();
    hash.update(b"umbra organisation v1\0");
    hash.update(trust_domain);
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
    let word = |pair: &[u8]| pair.iter().map(|b| format!("{b:02x}")).collect::<String>();
    hash.chunks(2).take(4).map(word).collect::<Vec<_>>().join("-")
}

/// `HOST:PORT`, `1.2.3.4:PORT` or `[ADDRESS]:PORT`, with a port that is not 0.
pub fn endpoint_is_sound(text: &str) -> bool {
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        return address.port() != 0;
    }
    text.rsplit_once(':')
        .is_some_and(|(host, port)| host.parse::<HostName>().is_ok() && port.parse::<u16>().is_ok_and(|p| p != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> JoinFile {
        JoinFile {
            trust_domain: "corp.example".into(),
            controller_key: PublicKey([1; 32]),
            endpoints: vec![
                "controller.corp.example:443".into(),
                "203.0.113.10:443".into(),
                "[2001:db8::1]:443".into(),
            ],
            ca: vec![1, 2, 3],
            pool: Pool::new("10.77.0.0/16".parse().unwrap(), "fd00::/48".parse().unwrap()).unwrap(),
            zones: vec!["corp.example".parse().unwrap()],
            prefixes: vec!["10.20.0.0/24".parse().unwrap()],
            kind: JoinKind::Device,
            expires: WallMs(1_000),
            secret: Secret::new([7; 32]),
            needs_token: false,
        }
    }

    #[test]
    fn round_trips() {
        let text = file().to_text().unwrap();
        let back = JoinFile::parse(&text, JoinKind::Device, WallMs(999)).unwrap();
        assert_eq!(
            (back.controller_key, back.endpoints, back.secret),
            (file().controller_key, file().endpoints, file().secret)
        );
        assert!(!back.needs_token && !text.contains("needs_token"), "a file of an earlier release");
        let text = JoinFile { needs_token: true, ..file() }.to_text().unwrap();
        assert!(JoinFile::parse(&text, JoinKind::Device, WallMs(999)).unwrap().needs_token);
    }

    #[test]
    fn wrong_files_say_what_is_wrong() {
        let text = file().to_text().unwrap();
        let parse = |t: &str| JoinFile::parse(t, JoinKind::Device, WallMs(0)).unwrap_err();
        assert_eq!(JoinFile::parse(&text, JoinKind::Device, WallMs(1_000)).unwrap_err(), JoinError::Expired);
        assert!(JoinFile::parse(&text, JoinKind::Gateway, WallMs(0)).unwrap_err().to_string().contains("for a device"));
        assert!(matches!(parse(&text[..text.len() / 2]), JoinError::Shape(_)));
        assert!(matches!(parse("{}"), JoinError::Shape(_)));
        assert_eq!(parse(&text.replace("\"umbra_join\": 1", "\"umbra_join\": 9")), JoinError::Version(9));
        assert_eq!(parse(&text.replace(":443", ":0")), JoinError::Field("endpoints"));
        assert_eq!(parse(&text.replace("fd00::/48", "2001:db8::/48")), JoinError::Field("pool"));
        assert!(matches!(parse(&text.replace("10.20.0.0/24", "0.0.0.0/0")), JoinError::Field(_)));
    }

    #[test]
    fn errors_do_not_quote_the_file() {
        let text = file().to_text().unwrap();
        for wrong in
            [text.replace("\"secret\": ", "\"kind\": "), text.replace("\"kind\": \"device\"", "\"kind\": \"BwcHB\"")]
        {
            let error = JoinFile::parse(&wrong, JoinKind::Device, WallMs(0)).unwrap_err().to_string();
            assert!(!error.contains("BwcHB"), "{error}");
        }
    }

    #[test]
    fn fingerprints_name_one_organisation_and_one_node() {
        let other = JoinFile { controller_key: PublicKey([2; 32]), ..file() };
        assert_eq!(file().fingerprint().len(), 19);
        assert_ne!(file().fingerprint(), other.fingerprint());
        assert_ne!(node_fingerprint(&PublicKey([1; 32]), b"k"), node_fingerprint(&PublicKey([1; 32]), b"l"));
    }

    #[test]
    fn its_secret_does_not_print() {
        assert!(format!("{:?}", file()).contains("[secret]"));
    }
}
