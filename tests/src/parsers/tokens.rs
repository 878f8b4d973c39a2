//! What an issuer of tokens gives out, and what whoever shows one of them wrote.

use super::{Parser, Seeds, parser, seed};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use controller::token::{Expect, KeySet, verify};
use model::time::WallMs;
use serde_json::json;

pub const PARSERS: &[Parser] = &[
    parser("token", "a JSON Web Token, of whoever shows one", token, token_seeds, 60),
    parser("key-set", "an issuer's public keys", key_set, key_set_seeds, 2),
];

const ISSUER: &str = "https://id.corp.example";
const NOW: WallMs = WallMs(1_800_000_000_000);

/// The same in every run: what is kept as an input stays a token.
fn key() -> anyhow::Result<Ed25519KeyPair> {
    Ed25519KeyPair::from_seed_unchecked(&[7; 32]).map_err(|_| anyhow::anyhow!("no key of this seed"))
}

fn public() -> anyhow::Result<String> {
    let x = URL_SAFE_NO_PAD.encode(key()?.public_key());
    Ok(json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a", "x": x}]}).to_string())
}

fn token(bytes: &[u8]) -> bool {
    let keys = public().ok().and_then(|text| KeySet::parse(text.as_bytes()).ok());
    let text = String::from_utf8_lossy(bytes);
    let claims =
        keys.and_then(|keys| verify(&text, &keys, &Expect { issuer: ISSUER, audience: "umbra", now: NOW }).ok());
    let Some(claims) = claims else { return false };
    assert!(claims.issuer == ISSUER && claims.expires > NOW && !claims.subject.is_empty());
    let _ = (claims.all.list("groups"), claims.all.string("a.b"));
    true
}

fn token_seeds() -> Seeds {
    let key = key()?;
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = |header: serde_json::Value, claims: serde_json::Value| {
        let message = format!("{}.{}", part(&header), part(&claims));
        let signature = URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes()));
        format!("{message}.{signature}")
    };
    let now = NOW.0 / 1_000;
    let claims = json!({"iss": ISSUER, "aud": ["umbra"], "sub": "248289761001", "exp": now + 300, "iat": now, "nonce": "n",
                        "auth_time": now, "amr": ["otp"], "groups": ["staff"], "realm_access": {"roles": ["admin"]}});
    let header = json!({"alg": "EdDSA", "kid": "a", "typ": "JWT"});
    Ok(vec![
        seed("good", signed(header.clone(), claims.clone())),
        seed("without-id", signed(json!({"alg": "EdDSA"}), claims.clone())),
        seed("over", signed(header, json!({"iss": ISSUER, "aud": "umbra", "sub": "x", "exp": 1}))),
        seed("none", signed(json!({"alg": "none"}), claims.clone())),
        seed("embedded-key", signed(json!({"alg": "EdDSA", "jwk": {}}), claims)),
        seed("two-parts", "e30.e30"),
    ])
}

fn key_set(bytes: &[u8]) -> bool {
    KeySet::parse(bytes).is_ok()
}

fn key_set_seeds() -> Seeds {
    let coordinate = |len: usize| URL_SAFE_NO_PAD.encode(vec![1; len]);
    let rsa = json!({"kty": "RSA", "kid": "r", "use": "sig", "alg": "RS256", "n": coordinate(256), "e": "AQAB"});
    let curves = json!({"keys": [
        {"kty": "EC", "crv": "P-256", "x": coordinate(32), "y": coordinate(32), "key_ops": ["verify"]},
        {"kty": "EC", "crv": "P-384", "x": coordinate(48), "y": coordinate(48)},
        {"kty": "oct", "k": "AA"}, rsa.clone()]});
    Ok(vec![
        seed("edwards", public()?),
        seed("rsa", json!({ "keys": [rsa] }).to_string()),
        seed("curves", curves.to_string()),
        seed("none", "{\"keys\":[]}"),
        seed("twice", "{\"keys\":[],\"keys\":[]}"),
    ])
}
