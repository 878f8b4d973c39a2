//! How do keys and bytes look in a record? As base 64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize as _, Serializer};

/// `#[serde(with = "encode::bytes")]` for `Vec<u8>`.
pub mod bytes {
    use super::*;

    /// Writes base 64.
    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(bytes))
    }
    /// Reads base 64.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(d)?).map_err(|_| serde::de::Error::custom("not base 64"))
    }
}

/// `#[serde(with = "encode::array")]` for `[u8; 32]`.
pub mod array {
    use super::*;

    /// Writes base 64.
    pub fn serialize<S: Serializer>(bytes: &[u8; 32], s: S) -> Result<S::Ok, S::Error> {
        super::bytes::serialize(bytes, s)
    }
    /// Reads base 64 of 32 bytes.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; 32], D::Error> {
        super::bytes::deserialize(d)?.try_into().map_err(|_| serde::de::Error::custom("not 32 bytes"))
    }
}

/// `#[serde(with = "encode::key")]` for [`PublicKey`](model::key::PublicKey).
pub mod key {
    use super::*;
    use model::key::PublicKey;

    /// Writes base 64.
    pub fn serialize<S: Serializer>(key: &PublicKey, s: S) -> Result<S::Ok, S::Error> {
        super::bytes::serialize(&key.0, s)
    }
    /// Reads base 64 of 32 bytes.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<PublicKey, D::Error> {
        super::array::deserialize(d).map(PublicKey)
    }
}

/// `#[serde(with = "encode::next_key")]` for `Option<PublicKey>`.
pub mod next_key {
    use super::*;
    use model::key::PublicKey;

    /// Writes base 64, or nothing.
    pub fn serialize<S: Serializer>(key: &Option<PublicKey>, s: S) -> Result<S::Ok, S::Error> {
        key.map(|key| STANDARD.encode(key.0)).serialize(s)
    }
    /// Reads base 64 of 32 bytes, or nothing.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<PublicKey>, D::Error> {
        let wrong = || serde::de::Error::custom("not base 64 of 32 bytes");
        let key =
            |text: String| STANDARD.decode(text).ok().and_then(|b| b.try_into().ok()).map(PublicKey).ok_or_else(wrong);
        Option::<String>::deserialize(d)?.map(key).transpose()
    }
}
