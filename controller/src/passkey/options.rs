//! What is a browser asked? `PublicKeyCredentialCreationOptionsJSON` and `PublicKeyCredentialRequestOptionsJSON` (WebAuthn Level 3, sections
//! 5.1.9 and 5.1.10).

use super::{ALGORITHMS, PARTY, Passkey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use model::ids::UserId;
use model::limits::PASSKEY_LIFE;
use serde_json::{Value, json};

fn part(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn named(passkeys: &[Passkey]) -> Vec<Value> {
    passkeys.iter().map(|passkey| json!({"type": "public-key", "id": part(&passkey.credential)})).collect()
}

/// Make a passkey for this user, on none of the authenticators that hold one already.
pub fn create(organisation: &str, (id, name): (UserId, &str), held: &[Passkey], challenge: &[u8]) -> Value {
    let algorithms = ALGORITHMS.map(|algorithm| json!({"type": "public-key", "alg": algorithm}));
    json!({"publicKey": {
        "rp": {"id": PARTY, "name": organisation},
        "user": {"id": part(id.as_bytes()), "name": name, "displayName": name},
        "challenge": part(challenge),
        "pubKeyCredParams": algorithms,
        "timeout": PASSKEY_LIFE.as_millis(),
        "excludeCredentials": named(held),
        // The controller names the passkeys of a user: a key's few places for ones that are found without a name stay free.
        "authenticatorSelection":
            {"residentKey": "discouraged", "requireResidentKey": false, "userVerification": "required"},
        "attestation": "none",
    }})
}

/// Show one of these passkeys.
pub fn get(held: &[Passkey], challenge: &[u8]) -> Value {
    json!({"publicKey": {
        "rpId": PARTY,
        "challenge": part(challenge),
        "timeout": PASSKEY_LIFE.as_millis(),
        "allowCredentials": named(held),
        "userVerification": "required",
    }})
}
