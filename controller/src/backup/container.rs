//! How is a backup kept from those who find it? Encrypted under a file key, which is wrapped once for each who may open it.
//!
//! | part | what |
//! |---|---|
//! | first line | `umbra-backup 1` |
//! | second line | JSON: the wrapped file keys |
//! | body | chunks of [`CHUNK`] bytes, each sealed with AES-256-GCM; the last one is shorter, and marked |
//!
//! A passphrase becomes a key by Argon2id (RFC 9106, its second recommended option); a recipient is an X25519 key of HPKE
//! (RFC 9180, base mode). The body's key comes by HKDF-SHA256 (RFC 5869) from the file key over both lines, so that neither can
//! be altered. A chunk's nonce is its number and whether it is the last (STREAM: Hoang, Reyhanitabar, Rogaway, Vizár,
//! "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", 2015): a body that is cut, reordered or
//! continued does not open.

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use host::entropy::{self, EntropyError};
use model::limits::{BACKUP_HEADER_MAX, BACKUP_RECIPIENTS_MAX, PASSPHRASE_MIN, PASSWORD_MAX};
use model::secret::Secret;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke as _, HpkePrivateKey, HpkePublicKey};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, BufRead, Read};
use std::str::FromStr;

/// Plain bytes of a chunk.
pub const CHUNK: usize = 64 << 10;
const TAG: usize = 16;
const KEY: usize = 32;
const MAGIC: &str = "umbra-backup 1\n";
const HPKE_INFO: &[u8] = b"umbra backup file key 1";
const BODY_INFO: &[u8] = b"umbra backup body 1";
const RECIPIENT: &str = "umbra-backup-recipient:";
const IDENTITY: &str = "umbra-backup-identity:";

/// The second recommended option of RFC 9106, section 4, with one lane. KiB, passes, lanes.
const ARGON: (u32, u32, u32) = (64 << 10, 3, 1);
/// What a file may ask for: it is not ours until it has been opened.
const ARGON_MAX: (u32, u32, u32) = (1 << 20, 16, 16);

/// Why a backup cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// Somebody else's file.
    #[error("this is no backup of an Umbra controller, or one of a later format: {0}")]
    Shape(String),
    /// Neither passphrase nor identity fits.
    #[error("the backup does not open with this {0}: it was made for another one")]
    Key(&'static str),
    /// Damaged.
    #[error("the backup is damaged, or was cut off in copying: {0}; take another copy of it")]
    Damaged(&'static str),
    /// Nobody could open it.
    #[error("a backup is always encrypted: name a passphrase or a recipient")]
    Nobody,
    /// Too many.
    #[error("a backup may have at most {BACKUP_RECIPIENTS_MAX} recipients")]
    Recipients,
    /// A passphrase that can be guessed.
    #[error("the passphrase must have {PASSPHRASE_MIN} to {PASSWORD_MAX} bytes: whoever has the file can try for ever")]
    Passphrase,
    /// A text that is not what it should be.
    #[error("`{0}...` is not a {1}: `umbra-controller backup keygen` makes one")]
    Text(String, &'static str),
    /// No random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The library failed.
    #[error("the cryptography failed: {0}")]
    Crypto(String),
    /// Reading failed.
    #[error("the backup cannot be read: {0}")]
    Read(#[from] io::Error),
}

impl From<ContainerError> for io::Error {
    fn from(error: ContainerError) -> Self {
        match error {
            ContainerError::Read(error) => error,
            error => Self::other(error),
        }
    }
}

fn crypto(error: impl fmt::Debug) -> ContainerError {
    ContainerError::Crypto(format!("{error:?}"))
}

/// Who may open a backup: the public half of an [`Identity`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient([u8; KEY]);

/// What opens a backup that was made for its [`Recipient`].
pub struct Identity(Secret<Vec<u8>>);

fn keyed<const N: usize>(text: &str, head: &str, what: &'static str) -> Result<[u8; N], ContainerError> {
    let wrong = || ContainerError::Text(text.chars().take(24).flat_map(char::escape_default).collect(), what);
    let body = text.trim().strip_prefix(head).ok_or_else(wrong)?;
    STANDARD.decode(body).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(wrong)
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{RECIPIENT}{}", STANDARD.encode(self.0))
    }
}

impl FromStr for Recipient {
    type Err = ContainerError;
    fn from_str(text: &str) -> Result<Self, ContainerError> {
        keyed(text, RECIPIENT, "recipient").map(Self)
    }
}

impl Identity {
    /// A new one, and its recipient.
    pub fn generate() -> Result<(Self, Recipient), ContainerError> {
        let (public, private) = SUITE.generate_key_pair().map_err(crypto)?;
        let public: [u8; KEY] = public.0.as_slice().try_into().map_err(crypto)?;
        Ok((Self(Secret::new(private.secret_bytes().to_vec())), Recipient(public)))
    }
    /// Its text, secret: one line.
    pub fn to_text(&self) -> Secret<String> {
        Secret::new(format!("{IDENTITY}{}\n", STANDARD.encode(self.0.expose())))
    }
    /// Reads its text. The error quotes nothing of it.
    pub fn parse(text: &Secret<String>) -> Result<Self, ContainerError> {
        keyed::<KEY>(text.expose(), IDENTITY, "identity")
            .map(|key| Self(Secret::new(key.to_vec())))
            .map_err(|_| ContainerError::Text(IDENTITY.to_owned(), "identity"))
    }
}

/// For whom a backup is made.
#[derive(Default)]
pub struct Readers {
    /// Whoever knows this.
    pub passphrase: Option<Secret<String>>,
    /// Whoever has the identity of one of these.
    pub recipients: Vec<Recipient>,
}

/// What a backup is opened with.
pub enum Unlock {
    /// A passphrase.
    Passphrase(Secret<String>),
    /// An identity.
    Identity(Identity),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    keys: Vec<Wrapped>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Wrapped {
    Argon2id { salt: String, kib: u32, passes: u32, lanes: u32, key: String },
    HpkeX25519 { recipient: String, encapsulated: String, key: String },
}

fn stretch(
    passphrase: &str,
    salt: &[u8],
    (kib, passes, lanes): (u32, u32, u32),
) -> Result<LessSafeKey, ContainerError> {
    let params = Params::new(kib, passes, lanes, Some(KEY)).map_err(crypto)?;
    let mut key = [0; KEY];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut key)
        .map_err(crypto)?;
    let key = Secret::new(key);
    cipher(key.expose())
}

fn cipher(key: &[u8]) -> Result<LessSafeKey, ContainerError> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(crypto)
}

fn wrap(readers: &Readers, file_key: &Secret<[u8; KEY]>) -> Result<Vec<Wrapped>, ContainerError> {
    if readers.recipients.len() > BACKUP_RECIPIENTS_MAX {
        return Err(ContainerError::Recipients);
    }
    let mut keys = Vec::new();
    if let Some(passphrase) = &readers.passphrase {
        if !(PASSPHRASE_MIN..=PASSWORD_MAX).contains(&passphrase.expose().len()) {
            return Err(ContainerError::Passphrase);
        }
        let salt: [u8; 16] = entropy::random()?;
        let mut key = file_key.expose().to_vec();
        // The stretched key seals this one value: its nonce may be zero.
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        stretch(passphrase.expose(), &salt, ARGON)?
            .seal_in_place_append_tag(nonce, Aad::from(HPKE_INFO), &mut key)
            .map_err(crypto)?;
        let (kib, passes, lanes) = ARGON;
        keys.push(Wrapped::Argon2id { salt: STANDARD.encode(salt), kib, passes, lanes, key: STANDARD.encode(key) });
    }
    for recipient in &readers.recipients {
        let public = HpkePublicKey(recipient.0.to_vec());
        let (encapsulated, key) = SUITE.seal(HPKE_INFO, b"", file_key.expose(), &public).map_err(crypto)?;
        keys.push(Wrapped::HpkeX25519 {
            recipient: recipient.to_string(),
            encapsulated: STANDARD.encode(encapsulated.0),
            key: STANDARD.encode(key),
        });
    }
    if keys.is_empty() { Err(ContainerError::Nobody) } else { Ok(keys) }
}

fn unwrap(header: &Header, unlock: &Unlock) -> Result<Secret<Vec<u8>>, ContainerError> {
    let bytes = |text: &str| STANDARD.decode(text).map_err(|_| ContainerError::Damaged("a wrapped key is no base 64"));
    for wrapped in &header.keys {
        match (wrapped, unlock) {
            (Wrapped::Argon2id { salt, kib, passes, lanes, key }, Unlock::Passphrase(passphrase)) => {
                if *kib > ARGON_MAX.0 || *passes > ARGON_MAX.1 || *lanes > ARGON_MAX.2 {
                    return Err(ContainerError::Shape(
                        "its passphrase asks for more work than is ever needed".to_owned(),
                    ));
                }
                let mut key = bytes(key)?;
                let cipher = stretch(passphrase.expose(), &bytes(salt)?, (*kib, *passes, *lanes))?;
                let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
                if let Ok(plain) = cipher.open_in_place(nonce, Aad::from(HPKE_INFO), &mut key) {
                    return Ok(Secret::new(plain.to_vec()));
                }
            }
            (Wrapped::HpkeX25519 { encapsulated, key, .. }, Unlock::Identity(identity)) => {
                let private = HpkePrivateKey::from(identity.0.expose().clone());
                let encapsulated = EncapsulatedSecret(bytes(encapsulated)?);
                if let Ok(plain) = SUITE.open(&encapsulated, HPKE_INFO, b"", &bytes(key)?, &private) {
                    return Ok(Secret::new(plain));
                }
            }
            _ => {}
        }
    }
    Err(ContainerError::Key(match unlock {
        Unlock::Passphrase(_) => "passphrase",
        Unlock::Identity(_) => "identity",
    }))
}

/// The key of the body: bound to everything before it.
fn body_key(file_key: &[u8], head: &[u8]) -> Result<LessSafeKey, ContainerError> {
    let info = [BODY_INFO];
    let prk = Salt::new(HKDF_SHA256, head).extract(file_key);
    let okm = prk.expand(&info, &AES_256_GCM).map_err(crypto)?;
    Ok(LessSafeKey::new(UnboundKey::from(okm)))
}

fn nonce(number: u64, last: bool) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes.iter_mut().skip(3).zip(number.to_be_bytes()).for_each(|(to, from)| *to = from);
    if let Some(mark) = bytes.last_mut() {
        *mark = u8::from(last);
    }
    Nonce::assume_unique_for_key(bytes)
}

/// Makes a container, piece by piece.
pub struct Sealing {
    key: LessSafeKey,
    number: u64,
    waiting: Vec<u8>,
    out: Vec<u8>,
}

impl Sealing {
    /// Begins one for these readers.
    pub fn begin(readers: &Readers) -> Result<Self, ContainerError> {
        let file_key = Secret::new(entropy::random::<KEY>()?);
        let header = serde_json::to_string(&Header { keys: wrap(readers, &file_key)? }).map_err(crypto)?;
        let out = format!("{MAGIC}{header}\n").into_bytes();
        let key = body_key(file_key.expose(), &out)?;
        Ok(Self { key, number: 0, waiting: Vec::with_capacity(CHUNK + TAG), out })
    }

    /// Adds plain bytes.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), ContainerError> {
        while !bytes.is_empty() {
            // A full chunk waits for more: only then it is known not to be the last.
            if self.waiting.len() == CHUNK {
                self.seal(false)?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.waiting.len()));
            self.waiting.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// What is ready to be written.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Ends it; answers the rest.
    pub fn finish(mut self) -> Result<Vec<u8>, ContainerError> {
        self.seal(true)?;
        Ok(self.out)
    }

    fn seal(&mut self, last: bool) -> Result<(), ContainerError> {
        let mut chunk = std::mem::replace(&mut self.waiting, Vec::with_capacity(CHUNK + TAG));
        self.key.seal_in_place_append_tag(nonce(self.number, last), Aad::empty(), &mut chunk).map_err(crypto)?;
        self.number = self.number.saturating_add(1);
        self.out.extend_from_slice(&chunk);
        Ok(())
    }
}

/// Reads a container; gives out only bytes whose chunk has proven to be whole.
pub struct Opening<R> {
    from: R,
    key: LessSafeKey,
    number: u64,
    /// The next chunk as it lies in the file: whether it is the last is known when nothing follows.
    next: Vec<u8>,
    plain: Vec<u8>,
    at: usize,
    ended: bool,
}

fn line(from: &mut impl BufRead, what: &str) -> Result<Vec<u8>, ContainerError> {
    let mut line = Vec::new();
    let bound = u64::try_from(BACKUP_HEADER_MAX).unwrap_or(u64::MAX);
    from.take(bound).read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') { Ok(line) } else { Err(ContainerError::Shape(format!("its {what} has no end"))) }
}

fn chunk(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut chunk = Vec::with_capacity(CHUNK + TAG);
    from.take((CHUNK + TAG) as u64).read_to_end(&mut chunk)?;
    Ok(chunk)
}

impl<R: BufRead> Opening<R> {
    /// Begins to read one.
    pub fn begin(mut from: R, unlock: &Unlock) -> Result<Self, ContainerError> {
        let mut head = line(&mut from, "first line")?;
        if head != MAGIC.as_bytes() {
            return Err(ContainerError::Shape("it begins otherwise".to_owned()));
        }
        let second = line(&mut from, "second line")?;
        let header: Header =
            serde_json::from_slice(&second).map_err(|e| ContainerError::Shape(format!("its second line ({e})")))?;
        if header.keys.len() > BACKUP_RECIPIENTS_MAX + 1 {
            return Err(ContainerError::Recipients);
        }
        head.extend_from_slice(&second);
        let key = body_key(unwrap(&header, unlock)?.expose(), &head)?;
        let next = chunk(&mut from)?;
        Ok(Self { from, key, number: 0, next, plain: Vec::new(), at: 0, ended: false })
    }

    fn open_next(&mut self) -> Result<(), ContainerError> {
        let mut sealed = std::mem::take(&mut self.next);
        self.next = if sealed.len() == CHUNK + TAG { chunk(&mut self.from)? } else { Vec::new() };
        let last = self.next.is_empty();
        let opened = self.key.open_in_place(nonce(self.number, last), Aad::empty(), &mut sealed);
        let len = opened.map_err(|_| ContainerError::Damaged("a part of it does not open"))?.len();
        sealed.truncate(len);
        (self.plain, self.at, self.ended) = (sealed, 0, last);
        self.number = self.number.saturating_add(1);
        Ok(())
    }
}

impl<R: BufRead> Read for Opening<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let have = self.fill_buf()?;
        let len = have.len().min(into.len());
        into.iter_mut().zip(have).for_each(|(to, from)| *to = *from);
        self.consume(len);
        Ok(len)
    }
}

impl<R: BufRead> BufRead for Opening<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at >= self.plain.len() && !self.ended {
            self.open_next()?;
        }
        Ok(self.plain.get(self.at..).unwrap_or_default())
    }
    fn consume(&mut self, len: usize) {
        self.at = self.at.saturating_add(len).min(self.plain.len());
    }
}

#[cfg(test)]
mod tests;
