//! With which secret may a node be admitted again, when none of its keys is answered?

use super::encode;
use crate::seal::{SealError, Sealer};
use crate::store::Record;
use model::ids::NodeId;
use model::secret::Secret;
use serde::{Deserialize, Serialize};

/// What the controller keeps of a node's recovery secret: as of a join file's, K_knock and the hash of the token, sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// K_knock, then the hash, sealed for [`Recovery::place`].
    #[serde(with = "encode::bytes")]
    pub sealed: Vec<u8>,
}

/// The same, open.
pub struct Opened {
    /// Recognises its knocks.
    pub knock: Secret<[u8; 32]>,
    /// SHA-256 of its token.
    pub token_hash: [u8; 32],
}

impl Recovery {
    /// The place to which it is sealed: its key in the store.
    pub fn place(node: NodeId) -> String {
        format!("{}/{node}", Self::KIND)
    }

    /// Of this secret.
    pub fn of(sealer: &Sealer, node: NodeId, secret: &Secret<[u8; 32]>) -> Result<Self, SealError> {
        let (knock, token) = (tunnel::knock::knock_key(secret), tunnel::knock::enrol_token(secret));
        let both = Secret::new([&knock.expose()[..], &super::sha256(token.expose())].concat());
        Ok(Self { sealed: sealer.seal(&Self::place(node), both.expose())? })
    }

    /// Opens it.
    pub fn open(&self, sealer: &Sealer, node: NodeId) -> Result<Opened, SealError> {
        let both = sealer.open(&Self::place(node), &self.sealed)?;
        let (knock, rest) = both.expose().split_first_chunk::<32>().ok_or(SealError::Form)?;
        let token_hash = <[u8; 32]>::try_from(rest).map_err(|_| SealError::Form)?;
        Ok(Opened { knock: Secret::new(*knock), token_hash })
    }
}

impl Record for Recovery {
    const KIND: &'static str = "recovery";
    type Id = str;
}
