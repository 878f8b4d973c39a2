//! What is each thing called? Opaque, random, typed identifiers and the SPIFFE names of nodes.
//!
//! An id is 80 random bits, written as a two-letter kind and 16 characters of lower-case Crockford base 32
//! (`de-0123456789abcdef`). It carries no meaning, so a gateway that sees one learns no name.

use std::fmt;
use std::str::FromStr;

/// Length of an id in bytes.
pub const ID_LEN: usize = 10;
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Why a text is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an id of this kind: expected `{prefix}-` and 16 characters of 0-9 a-z without i, l, o, u")]
pub struct IdError {
    /// The prefix that was wanted.
    pub prefix: &'static str,
    /// What was given, shortened and made printable.
    pub text: String,
}

fn encode(bytes: &[u8; ID_LEN]) -> String {
    let mut value: u128 = 0;
    for byte in bytes {
        value = (value << 8) | u128::from(*byte);
    }
    (0..16)
        .rev()
        .map(|i| {
            let digit = usize::try_from((value >> (i * 5)) & 31).unwrap_or(0);
            char::from(ALPHABET.get(digit).copied().unwrap_or(b'0'))
        })
        .collect()
}

fn decode(text: &str) -> Option<[u8; ID_LEN]> {
    if text.len() != 16 {
        return None;
    }
    let mut value: u128 = 0;
    for c in text.bytes() {
        let digit = ALPHABET.iter().position(|a| *a == c)?;
        value = (value << 5) | digit as u128;
    }
    let all = value.to_be_bytes();
    all.get(6..16)?.try_into().ok()
}

fn printable(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_default).collect()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; ID_LEN]);

        impl $name {
            /// The two letters in front of the text form.
            pub const PREFIX: &'static str = $prefix;
            /// From its 80 bits (random when new).
            pub const fn from_bytes(bytes: [u8; ID_LEN]) -> Self {
                Self(bytes)
            }
            /// Its 80 bits.
            pub const fn as_bytes(&self) -> &[u8; ID_LEN] {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&format!("{}-{}", $prefix, encode(&self.0)))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix(concat!($prefix, "-"))
                    .and_then(decode)
                    .map(Self)
                    .ok_or_else(|| IdError { prefix: $prefix, text: printable(text) })
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// A person with an account.
    UserId, "us"
);
id!(
    /// An enrolled machine of a user.
    DeviceId, "de"
);
id!(
    /// An enforcement point.
    GatewayId, "gw"
);
id!(
    /// Gateways that reach the same resources.
    SiteId, "si"
);
id!(
    /// One protected thing.
    ResourceId, "re"
);
id!(
    /// A log-in of a user on a device.
    SessionId, "se"
);
id!(
    /// Permission for one device to reach one resource through one gateway, until a deadline.
    GrantId, "gr"
);
id!(
    /// The WireGuard tunnel of one client and one gateway.
    PairingId, "pa"
);
id!(
    /// A secret with which nodes enrol.
    JoinKeyId, "jk"
);
id!(
    /// A second factor of a user.
    FactorId, "fa"
);
id!(
    /// An identity provider, at which people prove who they are.
    IdpId, "ip"
);
id!(
    /// A sign-in that waits for its person to come back from the identity provider.
    SignInId, "sn"
);
id!(
    /// A service account: what a workload is.
    AccountId, "ac"
);
id!(
    /// A registration: which programs on an account's machines get which SPIFFE id.
    RegistrationId, "rg"
);

/// Who asks for access: a person, or a workload under its service account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SubjectId {
    /// A person.
    User(UserId),
    /// A workload.
    Account(AccountId),
}

impl From<UserId> for SubjectId {
    fn from(id: UserId) -> Self {
        Self::User(id)
    }
}
impl From<AccountId> for SubjectId {
    fn from(id: AccountId) -> Self {
        Self::Account(id)
    }
}
impl fmt::Display for SubjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => id.fmt(f),
            Self::Account(id) => id.fmt(f),
        }
    }
}
impl FromStr for SubjectId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        text.parse().map(Self::Account).or_else(|_: IdError| text.parse().map(Self::User))
    }
}
impl serde::Serialize for SubjectId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> serde::Deserialize<'de> for SubjectId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A machine that takes part: who a certificate and a WireGuard key belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeId {
    /// The controller itself.
    Controller,
    /// A client's device.
    Device(DeviceId),
    /// A gateway.
    Gateway(GatewayId),
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller => f.pad("controller"),
            Self::Device(id) => id.fmt(f),
            Self::Gateway(id) => id.fmt(f),
        }
    }
}

/// Why a text is not a SPIFFE id of this organisation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// It names another trust domain, or is not of the form `spiffe://DOMAIN/...`.
    #[error("not a SPIFFE id of trust domain `{0}`")]
    Domain(String),
    /// The path is none of `/controller`, `/device/ID`, `/gateway/ID`.
    #[error("the path of the SPIFFE id names no node")]
    Path,
}

impl NodeId {
    /// The SPIFFE id (`spiffe://DOMAIN/device/ID`; SPIFFE-ID section 2).
    pub fn spiffe(&self, domain: &str) -> String {
        match self {
            Self::Controller => format!("spiffe://{domain}/controller"),
            Self::Device(id) => format!("spiffe://{domain}/device/{id}"),
            Self::Gateway(id) => format!("spiffe://{domain}/gateway/{id}"),
        }
    }

    /// Reads a SPIFFE id; the trust domain must be exactly `domain`.
    pub fn from_spiffe(domain: &str, uri: &str) -> Result<Self, SpiffeError> {
        let path = uri
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.strip_prefix(domain))
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or_else(|| SpiffeError::Domain(domain.to_owned()))?;
        if path == "controller" {
            return Ok(Self::Controller);
        }
        match path.split_once('/') {
            Some(("device", id)) => id.parse().map(Self::Device).map_err(|_| SpiffeError::Path),
            Some(("gateway", id)) => id.parse().map(Self::Gateway).map_err(|_| SpiffeError::Path),
            _ => Err(SpiffeError::Path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_form_round_trips(bytes: [u8; ID_LEN]) {
            let id = DeviceId::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse::<DeviceId>(), Ok(id));
            prop_assert!(id.to_string().parse::<GatewayId>().is_err());
        }

        #[test]
        fn any_text_is_refused_or_round_trips(text in ".{0,40}") {
            if let Ok(id) = text.parse::<GrantId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn a_subject_is_a_person_or_a_workload_and_never_both() {
        let (user, account) = (UserId::from_bytes([7; ID_LEN]), AccountId::from_bytes([7; ID_LEN]));
        assert_eq!(user.to_string().parse(), Ok(SubjectId::User(user)));
        assert_eq!(account.to_string().parse(), Ok(SubjectId::Account(account)));
        assert_ne!(SubjectId::from(user), SubjectId::from(account), "equal bits are no equal subjects");
        let json = serde_json::to_string(&SubjectId::from(user)).unwrap();
        assert_eq!(json, serde_json::to_string(&user).unwrap(), "what was stored as a user's id is read as one");
        assert_eq!(serde_json::from_str::<SubjectId>(&json).unwrap(), user.into());
        for bad in ["", "de-7777777777777777", "us-", "ac-777777777777777i", "AC-7777777777777777"] {
            assert!(bad.parse::<SubjectId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn spiffe_ids_name_exactly_one_node() {
        let node = NodeId::Device(DeviceId::from_bytes([7; ID_LEN]));
        let uri = node.spiffe("corp.example");
        assert_eq!(NodeId::from_spiffe("corp.example", &uri), Ok(node));
        for bad in
            ["spiffe://corp.example.evil/controller", "spiffe://corp.example/", "spiffe://corp.example/device/x/y"]
        {
            assert!(NodeId::from_spiffe("corp.example", bad).is_err(), "{bad}");
        }
        assert!(NodeId::from_spiffe("other", &uri).is_err());
    }
}
