//! Whose word lets workloads in? Rules about tokens of issuers: build systems, orchestrators, clouds.

use super::encode;
use super::name::Name;
use crate::federation::Pattern;
use crate::seal::{SealError, Sealer};
use crate::store::Record;
use model::ids::{AccountId, JoinKeyId};
use model::net::Prefix;
use model::secret::Secret;
use model::time::WallMs;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Who shows a token of this issuer, for this audience, about this subject, joins as this service account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Its id, under which its knocks are heard, too: it lets machines in as a join key does.
    pub id: JoinKeyId,
    /// Its name, unique among rules.
    pub name: Name,
    /// `iss`, to the letter.
    pub issuer: String,
    /// One of `aud`, to the letter.
    pub audience: String,
    /// Which `sub`.
    pub subject: Pattern,
    /// Further claims and their values, all of which must be there.
    pub claims: BTreeMap<String, String>,
    /// As what machines join.
    pub account: AccountId,
    /// Where the issuer's keys are.
    pub keys: KeySource,
    /// What joins by it is removed when it is gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
    /// It came out of a backup, and lets nobody in before an administrator has confirmed it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restored: bool,
    /// SHA-256 of the token that [`TrustSecret`] gives.
    #[serde(with = "encode::array")]
    pub enrol_hash: [u8; 32],
    /// When it was made.
    pub created: WallMs,
}

/// Where an issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeySource {
    /// Given by an administrator: a set of keys (RFC 7517).
    Given(String),
    /// At the issuer, by its metadata.
    Discovery {
        /// PEM of the only CAs that are trusted for it; otherwise the operating system's.
        ca_pem: Option<String>,
        /// Addresses that are asked although such are not.
        allow: Vec<Prefix>,
    },
}

impl Record for Trust {
    const KIND: &'static str = "federation";
    type Id = JoinKeyId;
}

/// The secret of a rule's join file, sealed: it makes knocks, so that the controller stays dark, and opens nothing without a token.
/// It has the form of a `SealedSecret`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustSecret {
    /// What the sealer made of it for [`TrustSecret::place`].
    #[serde(with = "encode::bytes")]
    pub sealed: Vec<u8>,
}

impl TrustSecret {
    /// The place to which it is sealed: its key in the store.
    pub fn place(id: JoinKeyId) -> String {
        format!("{}/{id}", Self::KIND)
    }
    /// Opens it.
    pub fn open(&self, sealer: &Sealer, id: JoinKeyId) -> Result<Secret<[u8; 32]>, SealError> {
        let plain = sealer.open(&Self::place(id), &self.sealed)?;
        <[u8; 32]>::try_from(plain.expose().as_slice()).map(Secret::new).map_err(|_| SealError::Form)
    }
}

impl Record for TrustSecret {
    const KIND: &'static str = "federation-secret";
    type Id = JoinKeyId;
}
