//! Is this answer by this user's passkey, and to this question? WebAuthn Level 3, sections 7.1 and 7.2, for a page that `umbra` itself serves on
//! its machine's own loopback. Pure: what is asked and what is held are passed in.

mod answer;
pub mod cbor;
pub mod ceremony;
mod data;
mod key;
pub mod options;

pub use answer::{Asserted, Created};
pub use data::{Attestation, AuthenticatorData, ClientData};
pub use key::{ALGORITHMS, Key};

use crate::directory::{Passkey, sha256};
use data::flag;
use model::ids::UserId;
use std::fmt;

/// The relying party: the only one that a page on `http://localhost` may speak for. Every such page may.
pub const PARTY: &str = "localhost";

/// Why an answer is refused. The text quotes nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The browser's part cannot be read.
    ClientData,
    /// It is an answer to another kind of question.
    Kind,
    /// It is an answer to another question.
    Challenge,
    /// Another page asked.
    Origin,
    /// The page was shown within another one.
    Embedded,
    /// The authenticator's part cannot be read.
    Data,
    /// It is for another relying party.
    Party,
    /// Nobody was there.
    Presence,
    /// It was not made sure who was there.
    Verification,
    /// What it says of copies of its key does not fit together.
    Backup,
    /// Its key is of an algorithm that was not asked for.
    Algorithm,
    /// Its key is none.
    Key,
    /// It makes a statement about itself that was not asked for.
    Attestation,
    /// The signature is not by the passkey.
    Signature,
    /// The passkey is none of this user's.
    Credential,
    /// The passkey says that it is somebody else's.
    User,
    /// It has signed less often than it says it had: there are two of it.
    Cloned,
}

impl Fault {
    /// For the person who sees it, and for the audit trail.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::ClientData => "what the browser says about its page cannot be read",
            Self::Kind => "the answer is to another kind of question",
            Self::Challenge => "the answer is to another question than the one that was asked here",
            Self::Origin => "the answer was given to another page",
            Self::Embedded => "the page that asked was shown within another page",
            Self::Data => "what the authenticator says cannot be read",
            Self::Party => "the answer is for another site",
            Self::Presence => "the authenticator saw nobody",
            Self::Verification => "the authenticator did not ask for a PIN or a finger: set one up for it",
            Self::Backup => "what the authenticator says about copies of the passkey has changed, or makes no sense",
            Self::Algorithm => "the passkey's algorithm is none of ES256, EdDSA, RS256",
            Self::Key => "the passkey's public key makes no sense",
            Self::Attestation => "the authenticator attests itself in a way that was not asked for",
            Self::Signature => "the signature is not by this passkey",
            Self::Credential => "this is no passkey of yours that is registered here",
            Self::User => "this passkey is another user's",
            Self::Cloned => {
                "this passkey counted backwards: there may be a copy of it; remove it with `umbra mfa rm`, and tell an administrator"
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for Fault {}

/// What was asked.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The challenge.
    pub challenge: &'a [u8; 32],
    /// At which port of the device's loopback the page is.
    pub port: u16,
}

/// A credential that was made.
#[derive(Debug, PartialEq, Eq)]
pub struct Made {
    /// Its id.
    pub credential: Vec<u8>,
    /// Its key.
    pub key: Key,
    /// How often it has signed.
    pub count: u32,
    /// Its key may be kept elsewhere, too.
    pub backup_eligible: bool,
}

impl Asked<'_> {
    /// Steps 7 to 11 of section 7.1, 10 to 14 of 7.2: what the browser says. Answers what of it is signed.
    fn client_data(&self, bytes: &[u8], kind: &str) -> Result<[u8; 32], Fault> {
        let data = ClientData::read(bytes)?;
        if data.kind != kind {
            return Err(Fault::Kind);
        }
        if data.challenge != self.challenge {
            return Err(Fault::Challenge);
        }
        if data.origin != format!("http://{PARTY}:{}", self.port) {
            return Err(Fault::Origin);
        }
        if data.embedded {
            return Err(Fault::Embedded);
        }
        Ok(sha256(bytes))
    }

    /// Is this a new passkey? Section 7.1.
    pub fn created(&self, answer: &Created) -> Result<Made, Fault> {
        let signed = self.client_data(&answer.client_data, "webauthn.create")?;
        let attestation = Attestation::read(&answer.attestation)?;
        let data = AuthenticatorData::read(attestation.data)?;
        let backup_eligible = flags(&data)?;
        let (credential, key) = data.attested.ok_or(Fault::Data)?;
        if credential != answer.id {
            return Err(Fault::Data);
        }
        if let Some((algorithm, signature)) = attestation.own {
            let message = [attestation.data, &signed].concat();
            if algorithm != key.algorithm() || !key.verifies(&message, signature) {
                return Err(Fault::Attestation);
            }
        }
        Ok(Made { credential: credential.to_vec(), key, count: data.count, backup_eligible })
    }

    /// Was one of these passkeys shown? Section 7.2. Answers which, and how often it has signed now.
    pub fn asserted(&self, answer: &Asserted, user: UserId, held: &[Passkey]) -> Result<(usize, u32), Fault> {
        let at = held.iter().position(|passkey| passkey.credential == answer.id).ok_or(Fault::Credential)?;
        let passkey = held.get(at).ok_or(Fault::Credential)?;
        if answer.user.as_ref().is_some_and(|whose| whose != user.as_bytes()) {
            return Err(Fault::User);
        }
        let signed = self.client_data(&answer.client_data, "webauthn.get")?;
        let data = AuthenticatorData::read(&answer.data)?;
        let backup_eligible = flags(&data)?;
        if data.attested.is_some() {
            return Err(Fault::Data);
        }
        if !passkey.key.verifies(&[answer.data.as_slice(), &signed].concat(), &answer.signature) {
            return Err(Fault::Signature);
        }
        // What was not signed is not believed: these two come after it.
        if backup_eligible != passkey.backup_eligible {
            return Err(Fault::Backup);
        }
        if (data.count, passkey.count) != (0, 0) && data.count <= passkey.count {
            return Err(Fault::Cloned);
        }
        Ok((at, data.count))
    }
}

/// Steps 14 to 17 of section 7.1, 16 to 19 of 7.2: for whom it is, and who was there. Answers whether the key may be kept elsewhere.
fn flags(data: &AuthenticatorData<'_>) -> Result<bool, Fault> {
    let has = |flag: u8| data.flags & flag != 0;
    if data.party != sha256(PARTY.as_bytes()) {
        return Err(Fault::Party);
    }
    if !has(flag::PRESENT) {
        return Err(Fault::Presence);
    }
    if !has(flag::VERIFIED) {
        return Err(Fault::Verification);
    }
    if has(flag::BACKED_UP) && !has(flag::BACKUP_ELIGIBLE) {
        return Err(Fault::Backup);
    }
    Ok(has(flag::BACKUP_ELIGIBLE))
}

#[cfg(test)]
pub(crate) mod test_authenticator;
#[cfg(test)]
mod tests;
