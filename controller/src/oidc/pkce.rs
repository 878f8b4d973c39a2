//! How does a code stay with whoever asked for it? Only they know its verifier (PKCE, RFC 7636), and a state and nonce of 256 bits
//! tie answer and token to their request.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use host::entropy::{self, EntropyError};
use model::secret::Secret;

/// 256 random bits in base64url, 43 characters: a verifier (RFC 7636, section 4.1), a state, or a nonce.
pub fn random_text() -> Result<Secret<String>, EntropyError> {
    let bytes = Secret::new(entropy::random::<32>()?);
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes.expose())))
}

/// The verifier's challenge by the method S256 (RFC 7636, section 4.2).
pub fn challenge(verifier: &Secret<String>) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.expose().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_in_appendix_b_of_the_rfc() {
        let verifier = Secret::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".to_owned());
        assert_eq!(challenge(&verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn random_texts_are_long_and_differ() {
        let (one, other) = (random_text().unwrap(), random_text().unwrap());
        assert_eq!(one.expose().len(), 43);
        assert_ne!(one.expose(), other.expose());
    }
}
