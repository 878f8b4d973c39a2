//! How do secrets lie in the store? Sealed under a key that is kept outside it, each bound to its place.
//!
//! AES-256-GCM with a random nonce (NIST SP 800-38D, section 8.2.2: at most 2^32 seals under one key). The key of the
//! store is the associated data, so a sealed value that is moved to another place does not open there.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use model::secret::Secret;

/// First byte of a sealed value: the form that follows is nonce, ciphertext, tag.
const FORM: u8 = 1;

/// Seals and opens values.
pub struct Sealer(RandomizedNonceKey);

/// Why a value could not be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Another key, another place, or an altered value: they are not told apart.
    #[error(
        "a sealed value does not open: the key file is not the one that sealed it, or the value was altered or moved"
    )]
    Open,
    /// It was not sealed by this program.
    #[error("a value that should be sealed is not: it is damaged or was written by another version")]
    Form,
    /// The cryptographic library refused.
    #[error("the cryptographic library could not seal a value")]
    Seal,
}

impl Sealer {
    /// With the 32-byte key of the key file.
    pub fn new(key: &Secret<[u8; 32]>) -> Result<Self, SealError> {
        RandomizedNonceKey::new(&AES_256_GCM, key.expose()).map(Self).map_err(|_| SealError::Seal)
    }

    /// Seals `plain`, to be stored under `place`.
    pub fn seal(&self, place: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut text = plain.to_vec();
        let nonce = self.0.seal_in_place_append_tag(Aad::from(place), &mut text).map_err(|_| SealError::Seal)?;
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + text.len());
        sealed.push(FORM);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&text);
        Ok(sealed)
    }

    /// Opens what was sealed for `place`.
    pub fn open(&self, place: &str, sealed: &[u8]) -> Result<Secret<Vec<u8>>, SealError> {
        let body = sealed.strip_prefix(&[FORM]).ok_or(SealError::Form)?;
        let (nonce, text) = body.split_first_chunk::<NONCE_LEN>().ok_or(SealError::Form)?;
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let len =
            self.0.open_in_place(nonce, Aad::from(place), &mut text).map_err(|_| SealError::Open).map(|p| p.len())?;
        text.truncate(len);
        Ok(Secret::new(text))
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(byte: u8) -> Sealer {
        Sealer::new(&Secret::new([byte; 32])).unwrap()
    }

    #[test]
    fn opens_only_unaltered_in_its_place_and_under_its_key() {
        let sealer_a = sealer(1);
        for plain in [&b""[..], b"knock secret", &[9; 5_000]] {
            let sealed = sealer_a.seal("joinkey/jk-1", plain).unwrap();
            assert!(plain.is_empty() || !sealed.windows(plain.len()).any(|w| w == plain));
            assert_eq!(sealer_a.open("joinkey/jk-1", &sealed).unwrap().expose(), plain);
            assert_eq!(sealer_a.open("joinkey/jk-2", &sealed).unwrap_err(), SealError::Open);
            assert_eq!(sealer(2).open("joinkey/jk-1", &sealed).unwrap_err(), SealError::Open);
            for at in 0..sealed.len().min(64) {
                let mut altered = sealed.clone();
                altered[at] ^= 1;
                assert!(sealer_a.open("joinkey/jk-1", &altered).is_err(), "{at}");
            }
            for len in 0..sealed.len().min(64) {
                assert!(sealer_a.open("joinkey/jk-1", &sealed[..len]).is_err());
            }
        }
    }

    #[test]
    fn the_same_value_never_looks_the_same() {
        let sealer = sealer(1);
        assert_ne!(sealer.seal("a/b", b"x").unwrap(), sealer.seal("a/b", b"x").unwrap());
    }
}
