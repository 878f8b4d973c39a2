//! Who says up to where the audit trail went, and is that so? A head that the controller signed, with all that is needed to
//! check it on another machine years later.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::audit::SignedHead;
use model::key::PublicKey;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Why a head is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WitnessError {
    /// Not a certificate with the key of a CA of ours.
    #[error("its CA certificate cannot be read")]
    Ca,
    /// Somebody else signed it, or it was altered.
    #[error("its signature is not that of the organisation's CA: it was altered, or is of another organisation")]
    Signature,
}

/// Checks a head against a CA certificate (DER) that is trusted.
pub fn check(ca: &[u8], signed: &SignedHead) -> Result<(), WitnessError> {
    let (_, certificate) = X509Certificate::from_der(ca).map_err(|_| WitnessError::Ca)?;
    let key = certificate.public_key().subject_public_key.data.as_ref();
    let verified = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key);
    verified.verify(signed.head.text().as_bytes(), &signed.signature).map_err(|_| WitnessError::Signature)
}

/// A head as it is given out, to be kept or carried to where a trail is verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// Who kept it: a gateway's id, or `controller` at the end of an export.
    pub witness: String,
    /// The organisation's trust domain.
    pub trust_domain: String,
    /// The controller's WireGuard key, base 64.
    pub controller_key: String,
    /// The certificate of the CA that signed it, DER, base 64. By itself it proves nothing: compare the fingerprint.
    pub ca: String,
    /// What was signed.
    pub head: SignedHead,
}

impl Witness {
    /// Of these parts.
    pub fn new(witness: String, trust_domain: String, key: &PublicKey, ca: &[u8], head: SignedHead) -> Self {
        let (controller_key, ca) = (STANDARD.encode(key.0), STANDARD.encode(ca));
        Self { witness, trust_domain, controller_key, ca, head }
    }

    /// Checks the signature against the certificate that came with it, and answers the fingerprint of the organisation to
    /// which that belongs: the one that people compare before they join.
    pub fn check(&self) -> Result<String, WitnessError> {
        let ca = STANDARD.decode(&self.ca).map_err(|_| WitnessError::Ca)?;
        let key = STANDARD.decode(&self.controller_key).map_err(|_| WitnessError::Ca)?;
        let key = PublicKey(key.try_into().map_err(|_| WitnessError::Ca)?);
        check(&ca, &self.head)?;
        Ok(proto::join::organisation_fingerprint(&self.trust_domain, &key, &ca))
    }
}
