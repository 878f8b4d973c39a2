//! What does a program's token say, and with which key is it checked? JWT-SVID, sections 2 and 3; RFC 7515 and 7518.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use model::spiffe::SpiffeId;
use model::time::WallMs;
use serde_json::json;
use std::time::Duration;

/// Characters of a key's name: as many bits of its hash as nobody finds twice.
const KEY_ID_LEN: usize = 22;

/// The name of a key: from its hash, so that another key has another name.
pub fn key_id(public: &[u8]) -> String {
    BASE64.encode(crate::directory::sha256(public)).chars().take(KEY_ID_LEN).collect()
}

/// An uncompressed P-256 point (SEC 1, section 2.3.3) as a set of one key.
pub fn key_set(public: &[u8], key_id: &str) -> Option<String> {
    let (x, y) = public.strip_prefix(&[4]).filter(|point| point.len() == 64)?.split_at_checked(32)?;
    let key = json!({
        "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "jwt-svid", "kid": key_id,
        "x": BASE64.encode(x), "y": BASE64.encode(y),
    });
    Some(json!({ "keys": [key] }).to_string())
}

/// Header and claims, as they are signed.
pub fn unsigned(id: &SpiffeId, audiences: &[String], key_id: &str, now: WallMs, life: Duration) -> String {
    let seconds = |at: WallMs| at.0.div_euclid(1_000);
    let header = json!({ "alg": "ES256", "kid": key_id, "typ": "JWT" });
    let claims = json!({
        "sub": id.as_str(), "aud": audiences, "iat": seconds(now), "exp": seconds(now.plus(life)),
    });
    format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()))
}

/// The compact form (RFC 7515, section 7.1).
pub fn signed(text: &str, signature: &[u8]) -> String {
    format!("{text}.{}", BASE64.encode(signature))
}
