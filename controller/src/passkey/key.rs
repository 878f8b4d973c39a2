//! With which key does a passkey sign? Public keys in the form of COSE (RFC 9052, RFC 9053; WebAuthn Level 3, section 6.5.1.1).

use super::Fault;
use super::cbor::Item;
use crate::directory::encode;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};

/// Algorithms by their numbers in COSE, as they are offered: the first is what every authenticator has.
pub const ALGORITHMS: [i64; 3] = [ES256, EDDSA, RS256];
const ES256: i64 = -7;
const EDDSA: i64 = -8;
const RS256: i64 = -257;

/// Bytes of an RSA modulus: 2,048 to 8,192 bits.
const MODULUS: std::ops::RangeInclusive<usize> = 256..=1_024;
/// Bytes of its exponent, 65,537 nearly everywhere.
const EXPONENT: std::ops::RangeInclusive<usize> = 1..=8;

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Key {
    /// ECDSA with P-256 and SHA-256: the point, uncompressed.
    Es256(#[serde(with = "encode::bytes")] Vec<u8>),
    /// Ed25519.
    EdDsa(#[serde(with = "encode::bytes")] Vec<u8>),
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256 {
        /// The modulus.
        #[serde(with = "encode::bytes")]
        n: Vec<u8>,
        /// The exponent.
        #[serde(with = "encode::bytes")]
        e: Vec<u8>,
    },
}

impl Key {
    /// Reads a COSE key: of an algorithm that was offered, with the parameters of its kind and no others.
    pub fn read(cose: &Item<'_>) -> Result<Self, Fault> {
        let number = |name| cose.at(name).and_then(Item::number);
        let bytes = |name| cose.at(name).and_then(Item::bytes);
        let part = |name, len: usize| bytes(name).filter(|part| part.len() == len).ok_or(Fault::Key);
        // 1 is the kind, 3 the algorithm, -1 the curve.
        let key = match (number(3).ok_or(Fault::Algorithm)?, number(1), number(-1), cose.names()) {
            (ES256, Some(2), Some(1), 5) => Self::Es256([&[4], part(-2, 32)?, part(-3, 32)?].concat()),
            (EDDSA, Some(1), Some(6), 4) => Self::EdDsa(part(-2, 32)?.to_vec()),
            (RS256, Some(3), None, 4) => {
                let part = |name, len: &std::ops::RangeInclusive<usize>| {
                    let fits = |part: &&[u8]| len.contains(&part.len()) && part.first().is_some_and(|byte| *byte != 0);
                    bytes(name).filter(fits).map(<[u8]>::to_vec).ok_or(Fault::Key)
                };
                Self::Rs256 { n: part(-1, &MODULUS)?, e: part(-2, &EXPONENT)? }
            }
            (algorithm, ..) if ALGORITHMS.contains(&algorithm) => return Err(Fault::Key),
            _ => return Err(Fault::Algorithm),
        };
        // A point that is on no curve would be found out only when it is needed.
        let sound = match &key {
            Self::Es256(point) => ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).is_ok(),
            Self::EdDsa(point) => ParsedPublicKey::new(&ED25519, point).is_ok(),
            Self::Rs256 { .. } => true,
        };
        if sound { Ok(key) } else { Err(Fault::Key) }
    }

    /// Its algorithm's number.
    pub const fn algorithm(&self) -> i64 {
        match self {
            Self::Es256(_) => ES256,
            Self::EdDsa(_) => EDDSA,
            Self::Rs256 { .. } => RS256,
        }
    }

    /// Is this its signature?
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match self {
            Self::Es256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(message, signature),
            Self::EdDsa(point) => UnparsedPublicKey::new(&ED25519, point).verify(message, signature),
            Self::Rs256 { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
        };
        verified.is_ok()
    }
}
