//! What does an authenticator say, and what the browser in front of it? Authenticator data (WebAuthn Level 3, section 6.1), the
//! attestation object (6.5), client data (5.8.1).

use super::cbor::{self, Item};
use super::{Fault, Key};
use crate::token::strict;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use model::limits::CREDENTIAL_ID_MAX;
use serde_json::Value;

/// What an authenticator signs.
#[derive(Debug, PartialEq, Eq)]
pub struct AuthenticatorData<'a> {
    /// SHA-256 of the relying party's id.
    pub party: &'a [u8],
    /// Bits of [`flag`].
    pub flags: u8,
    /// How often it has signed; 0 where it does not count.
    pub count: u32,
    /// A new credential's id and key.
    pub attested: Option<(&'a [u8], Key)>,
}

/// What [`AuthenticatorData::flags`] means.
pub mod flag {
    /// Somebody was there.
    pub const PRESENT: u8 = 1;
    /// And was known, by a PIN or a finger.
    pub const VERIFIED: u8 = 1 << 2;
    /// The key may be kept elsewhere, too.
    pub const BACKUP_ELIGIBLE: u8 = 1 << 3;
    /// It is.
    pub const BACKED_UP: u8 = 1 << 4;
    /// A credential follows.
    pub const ATTESTED: u8 = 1 << 6;
    /// Extensions follow.
    pub const EXTENSIONS: u8 = 1 << 7;
}

impl<'a> AuthenticatorData<'a> {
    /// Reads all of it; nothing may be left.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Fault> {
        let (party, rest) = bytes.split_at_checked(32).ok_or(Fault::Data)?;
        let (&[flags], rest) = rest.split_first_chunk::<1>().ok_or(Fault::Data)?;
        let (count, mut rest) = rest.split_first_chunk::<4>().ok_or(Fault::Data)?;
        let mut attested = None;
        if flags & flag::ATTESTED != 0 {
            // 16 bytes name the authenticator's model, which nobody here asks for.
            let (_, after) = rest.split_at_checked(16).ok_or(Fault::Data)?;
            let (length, after) = after.split_first_chunk::<2>().ok_or(Fault::Data)?;
            let length = usize::from(u16::from_be_bytes(*length));
            let (id, after) = after.split_at_checked(length).ok_or(Fault::Data)?;
            if !(1..=CREDENTIAL_ID_MAX).contains(&id.len()) {
                return Err(Fault::Data);
            }
            let (key, after) = cbor::first(after).ok_or(Fault::Data)?;
            attested = Some((id, Key::read(&key)?));
            rest = after;
        }
        if flags & flag::EXTENSIONS != 0 {
            // None was asked for: what an authenticator adds of its own is not looked at.
            let (extensions, after) = cbor::first(rest).ok_or(Fault::Data)?;
            if !matches!(extensions, Item::Map(_)) {
                return Err(Fault::Data);
            }
            rest = after;
        }
        if !rest.is_empty() {
            return Err(Fault::Data);
        }
        Ok(Self { party, flags, count: u32::from_be_bytes(*count), attested })
    }
}

/// What an authenticator says of a credential that it has made.
pub struct Attestation<'a> {
    /// What it signs, as it is.
    pub data: &'a [u8],
    /// Its own signature with the new key, and the algorithm that it names; absent where it gives no statement at all.
    pub own: Option<(i64, &'a [u8])>,
}

impl<'a> Attestation<'a> {
    /// Reads an attestation object. None is asked for: what comes is no statement, or one by the new key itself ("packed" without
    /// certificates, section 8.2), which browsers leave in place because it says nothing about whose it is.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Fault> {
        let object = cbor::only(bytes).ok_or(Fault::Data)?;
        let data = object.named("authData").and_then(Item::bytes).ok_or(Fault::Data)?;
        let statement = object.named("attStmt").filter(|item| matches!(item, Item::Map(_))).ok_or(Fault::Data)?;
        let format = object.named("fmt").and_then(Item::text).ok_or(Fault::Data)?;
        match (format, statement.names()) {
            _ if object.names() != 3 => Err(Fault::Data),
            ("none", 0) => Ok(Self { data, own: None }),
            ("packed", 2) => {
                let algorithm = statement.named("alg").and_then(Item::number).ok_or(Fault::Attestation)?;
                let signature = statement.named("sig").and_then(Item::bytes).ok_or(Fault::Attestation)?;
                Ok(Self { data, own: Some((algorithm, signature)) })
            }
            _ => Err(Fault::Attestation),
        }
    }
}

/// What a browser says about who asked for an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientData {
    /// `webauthn.create` or `webauthn.get`.
    pub kind: String,
    /// The challenge that was answered.
    pub challenge: Vec<u8>,
    /// The page that asked.
    pub origin: String,
    /// It was embedded in one of another origin.
    pub embedded: bool,
}

impl ClientData {
    /// Reads it. What a browser may add is not looked at.
    pub fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let object = strict::object(bytes).ok_or(Fault::ClientData)?;
        let text = |name: &str| object.get(name).and_then(Value::as_str).ok_or(Fault::ClientData);
        let embedded = match object.get("crossOrigin") {
            None => false,
            Some(value) => value.as_bool().ok_or(Fault::ClientData)?,
        };
        Ok(Self {
            kind: text("type")?.to_owned(),
            challenge: URL_SAFE_NO_PAD.decode(text("challenge")?).map_err(|_| Fault::ClientData)?,
            origin: text("origin")?.to_owned(),
            embedded: embedded || object.contains_key("topOrigin"),
        })
    }
}
