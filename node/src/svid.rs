//! X.509 SVIDs: how is a key made, a certificate asked for, and a node's name read from one?
//!
//! SPIFFE X.509-SVID, sections 2 and 5: one URI SAN, a leaf that is no CA.

pub mod program;

use model::ids::NodeId;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What is wrong with a certificate or a key.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    /// It does not parse, or is no leaf with exactly one SPIFFE id of this trust domain.
    #[error("the certificate is no SVID of trust domain `{domain}`: {why}")]
    NotAnSvid {
        /// The domain that was expected.
        domain: String,
        /// What is wrong.
        why: String,
    },
    /// The key cannot be made or used.
    #[error("the SVID key cannot be used: {0}")]
    Key(String),
}

/// A P-256 key for SVIDs.
pub struct SvidKey {
    pair: rcgen::KeyPair,
}

impl SvidKey {
    /// A fresh key.
    pub fn generate() -> Result<Self, SvidError> {
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .map(|pair| Self { pair })
            .map_err(|e| SvidError::Key(e.to_string()))
    }

    /// From PKCS #8 DER, as [`SvidKey::pkcs8`] gave it.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, SvidError> {
        let key = PrivatePkcs8KeyDer::from(der.to_vec());
        rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map(|pair| Self { pair })
            .map_err(|e| SvidError::Key(e.to_string()))
    }

    /// PKCS #8 DER; secret.
    pub fn pkcs8(&self) -> Vec<u8> {
        self.pair.serialize_der()
    }

    /// The form that rustls takes.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8()))
    }

    /// The public key as certificates carry it: SubjectPublicKeyInfo, DER (RFC 5280, section 4.1.2.7).
    pub fn public_key_info(&self) -> Vec<u8> {
        use rcgen::PublicKeyData as _;
        self.pair.subject_public_key_info()
    }

    /// A PKCS #10 request (RFC 2986) that says nothing but the key: the controller alone decides on names.
    pub fn csr(&self) -> Result<Vec<u8>, SvidError> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.serialize_request(&self.pair).map(|csr| csr.der().to_vec()).map_err(|e| SvidError::Key(e.to_string()))
    }

    /// An ECDSA P-256 SHA-256 signature, ASN.1 form.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SvidError> {
        use aws_lc_rs::rand::SystemRandom;
        use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &self.pkcs8())
            .map_err(|e| SvidError::Key(e.to_string()))?;
        key.sign(&SystemRandom::new(), message).map(|s| s.as_ref().to_vec()).map_err(|e| SvidError::Key(e.to_string()))
    }
}

/// Does `signature` by the uncompressed P-256 point `public_key` hold over `message`?
pub fn signature_holds(public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public_key).verify(message, signature).is_ok()
}

/// The same for a signature in the form of JSON Web Signatures: `r` and `s`, 32 bytes each (RFC 7518, section 3.4).
pub fn fixed_signature_holds(public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public_key).verify(message, signature).is_ok()
}

/// What an SVID says, after its chain was verified elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SvidFacts {
    /// Whose it is.
    pub node: NodeId,
    /// Not before, seconds since the epoch.
    pub not_before: i64,
    /// Not after, seconds since the epoch.
    pub not_after: i64,
}

/// When a certificate ends, seconds since the epoch; none if it does not parse or ended before 1970.
pub fn end_of(leaf: &CertificateDer<'_>) -> Option<u64> {
    let (_, cert) = X509Certificate::from_der(leaf.as_ref()).ok()?;
    u64::try_from(cert.validity().not_after.timestamp()).ok()
}

/// Reads the leaf. Exactly one URI SAN, no CA; anything else is refused.
pub fn read_leaf(domain: &str, leaf: &CertificateDer<'_>) -> Result<SvidFacts, SvidError> {
    let bad = |why: &str| SvidError::NotAnSvid { domain: domain.to_owned(), why: why.to_owned() };
    let (rest, cert) = X509Certificate::from_der(leaf.as_ref()).map_err(|_| bad("it does not parse"))?;
    if !rest.is_empty() {
        return Err(bad("bytes follow it"));
    }
    if cert.is_ca() {
        return Err(bad("it is a CA certificate"));
    }
    let san = cert.subject_alternative_name().map_err(|_| bad("its names do not parse"))?;
    let san = san.ok_or_else(|| bad("it has no name"))?;
    let uris: Vec<&str> = san
        .value
        .general_names
        .iter()
        .filter_map(|n| if let GeneralName::URI(uri) = n { Some(*uri) } else { None })
        .collect();
    let [uri] = uris.as_slice() else { return Err(bad("it must have exactly one URI name")) };
    let node = NodeId::from_spiffe(domain, uri).map_err(|e| bad(&e.to_string()))?;
    let validity = cert.validity();
    Ok(SvidFacts { node, not_before: validity.not_before.timestamp(), not_after: validity.not_after.timestamp() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_and_sign() {
        let key = SvidKey::generate().unwrap();
        let again = SvidKey::from_pkcs8(&key.pkcs8()).unwrap();
        let signature = again.sign(b"exporter").unwrap();
        assert!(signature_holds(key.pair.public_key_raw(), b"exporter", &signature));
        assert!(!signature_holds(key.pair.public_key_raw(), b"other", &signature));
        assert!(!key.csr().unwrap().is_empty());
    }

    #[test]
    fn only_leaves_with_one_spiffe_name_are_read() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let node = NodeId::Controller;
        let make = |uris: &[&str], ca: bool| {
            let mut params = rcgen::CertificateParams::default();
            params.is_ca =
                if ca { rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained) } else { rcgen::IsCa::ExplicitNoCa };
            params.subject_alt_names = uris.iter().map(|u| rcgen::SanType::URI((*u).try_into().unwrap())).collect();
            params.self_signed(&key).unwrap().der().clone()
        };
        let own = node.spiffe("corp.example");
        assert_eq!(read_leaf("corp.example", &make(&[&own], false)).unwrap().node, node);
        assert!(read_leaf("corp.example", &make(&[&own], true)).is_err());
        assert!(read_leaf("corp.example", &make(&[], false)).is_err());
        assert!(read_leaf("corp.example", &make(&[&own, "spiffe://corp.example/device/x"], false)).is_err());
        assert!(read_leaf("other.example", &make(&[&own], false)).is_err());
        assert!(read_leaf("corp.example", &CertificateDer::from(vec![1, 2, 3])).is_err());
    }
}
