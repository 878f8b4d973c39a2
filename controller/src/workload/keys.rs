//! What signs programs' certificates and tokens? A CA and a key of their own: nodes pin the other CA, so that no program's
//! certificate can be taken for a node's.

use super::token;
use crate::ca::{Ca, CaError, RequestKey, Svid};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use model::net::HostName;
use model::secret::Secret;
use model::spiffe::SpiffeId;
use model::time::WallMs;
use std::time::Duration;

/// Why something is not signed.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The CA.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// What is stored is no key for tokens.
    #[error("the stored key of programs' tokens cannot be used: restore the last backup")]
    Stored,
    /// The library failed.
    #[error("a token could not be signed")]
    Sign,
}

/// The CA of programs' certificates, and the key of their tokens.
pub struct WorkloadKeys {
    ca: Ca,
    token: EcdsaKeyPair,
    key_id: String,
}

/// What is kept of them, to be sealed.
pub struct Parts {
    /// The CA's certificate, DER.
    pub ca: Secret<Vec<u8>>,
    /// Its key (PKCS #8, DER).
    pub ca_key: Secret<Vec<u8>>,
    /// The key of tokens (PKCS #8, DER).
    pub token_key: Secret<Vec<u8>>,
}

impl WorkloadKeys {
    /// Makes new ones.
    pub fn create(domain: &HostName, now: WallMs) -> Result<(Self, Parts), KeysError> {
        let (ca, ca_key) = Ca::create_for_programs(domain, now)?;
        let token = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(CaError::Make)?;
        let token_key = Secret::new(token.serialize_der());
        let certificate = Secret::new(ca.certificate().to_vec());
        Ok((Self::of(ca, &token_key)?, Parts { ca: certificate, ca_key, token_key }))
    }

    /// From what is stored.
    pub fn load(
        domain: &HostName,
        certificate: &[u8],
        ca_key: &Secret<Vec<u8>>,
        token_key: &Secret<Vec<u8>>,
    ) -> Result<Self, KeysError> {
        Self::of(Ca::load(domain, certificate, ca_key)?, token_key)
    }

    fn of(ca: Ca, token_key: &Secret<Vec<u8>>) -> Result<Self, KeysError> {
        let token = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, token_key.expose());
        let token = token.map_err(|_| KeysError::Stored)?;
        let key_id = token::key_id(token.public_key().as_ref());
        Ok(Self { ca, token, key_id })
    }

    /// The CA's certificate, DER: the bundle of this trust domain's programs.
    pub fn bundle(&self) -> &[u8] {
        self.ca.certificate()
    }

    /// The public key of tokens as a set of keys (RFC 7517; SPIFFE Trust Domain and Bundle, section 4).
    pub fn token_bundle(&self) -> Result<String, KeysError> {
        token::key_set(self.token.public_key().as_ref(), &self.key_id).ok_or(KeysError::Stored)
    }

    /// A certificate of this life over the request's key.
    pub fn issue(&self, id: &SpiffeId, request: &RequestKey, now: WallMs, life: Duration) -> Result<Svid, KeysError> {
        Ok(self.ca.issue_to_program(id, request, now, life)?)
    }

    /// A token of this life.
    pub fn token(
        &self,
        id: &SpiffeId,
        audiences: &[String],
        now: WallMs,
        life: Duration,
    ) -> Result<Secret<String>, KeysError> {
        let text = token::unsigned(id, audiences, &self.key_id, now, life);
        let random = aws_lc_rs::rand::SystemRandom::new();
        let signature = self.token.sign(&random, text.as_bytes()).map_err(|_| KeysError::Sign)?;
        Ok(Secret::new(token::signed(&text, signature.as_ref())))
    }
}

impl std::fmt::Debug for WorkloadKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WorkloadKeys({})", self.key_id)
    }
}
