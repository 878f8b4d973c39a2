//! Who gives programs tokens that say what they are? A platform of the tests': it signs as build systems and orchestrators do (RFC
//! 7515, RFC 7518), and shares nothing with what verifies.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// A platform with one key.
pub struct Issuer {
    name: String,
    key: EcdsaKeyPair,
    made: AtomicU64,
}

impl Issuer {
    /// One that calls itself so, with a fresh key.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        Ok(Self { name: name.to_owned(), key, made: AtomicU64::new(0) })
    }

    /// The keys that it publishes.
    pub fn keys(&self) -> Value {
        let point = self.key.public_key().as_ref().get(1..).unwrap_or_default();
        let (x, y) = point.split_at(point.len() / 2);
        let [x, y] = [x, y].map(|half| URL_SAFE_NO_PAD.encode(half));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "one", "use": "sig", "x": x, "y": y}]})
    }

    /// A token about this subject for this audience, good for so many seconds from now.
    pub fn token(&self, audience: &str, subject: &str, seconds: i64) -> anyhow::Result<String> {
        let now = i64::try_from(SystemTime::UNIX_EPOCH.elapsed()?.as_secs())?;
        let number = self.made.fetch_add(1, Ordering::Relaxed).to_string();
        self.sign(&json!({"iss": self.name, "aud": audience, "sub": subject, "iat": now - 1, "exp": now + seconds, "jti": number}))
    }

    /// A token that says this.
    pub fn sign(&self, claims: &Value) -> anyhow::Result<String> {
        let header = json!({"alg": "ES256", "kid": "one", "typ": "JWT"});
        let message = [&header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes())?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}
