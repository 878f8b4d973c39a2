//! What a browser and the authenticator behind it answer, of whoever sits at a device.

use super::{Parser, Seeds, parser, seed};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use controller::directory::Passkey;
use controller::passkey::{Asked, Asserted, Attestation, AuthenticatorData, ClientData, Created, cbor};
use model::ids::{FactorId, UserId};
use model::limits::CREDENTIAL_ID_MAX;
use model::time::WallMs;
use serde_json::json;

pub const PARSERS: &[Parser] = &[
    parser("passkey-answer", "a browser's whole answer, made or shown", answer, answer_seeds, 30),
    parser("client-data", "what a browser says about its page", client_data, client_data_seeds, 1),
    parser("attestation", "what an authenticator says of a new credential", attestation, attestation_seeds, 10),
    parser("authenticator-data", "what an authenticator signs", data, data_seeds, 10),
    parser("cbor", "CBOR as authenticators write it", item, item_seeds, 1),
];

const PORT: u16 = 40_123;
const CHALLENGE: [u8; 32] = [7; 32];
const ID: [u8; 16] = [9; 16];
const USER: UserId = UserId::from_bytes([5; 10]);
const PLAIN: u8 = 0b101;
const ATTESTED: u8 = 0b100_0000;
const EXTENSIONS: u8 = 0b1000_0000;

/// The same in every run: what is kept as an input stays an answer.
fn key() -> anyhow::Result<Ed25519KeyPair> {
    Ed25519KeyPair::from_seed_unchecked(&[7; 32]).map_err(|_| anyhow::anyhow!("no key of this seed"))
}

/// An Ed25519 key in COSE: a map of four.
fn cose() -> anyhow::Result<Vec<u8>> {
    let public = key()?;
    let public = public.public_key().as_ref();
    Ok([&[0xa4, 0x01, 0x01, 0x03, 0x27, 0x20, 0x06, 0x21, 0x58, 0x20], public].concat())
}

/// Authenticator data, with a credential or without.
fn data_of(flags: u8, attested: &[u8], extensions: &[u8]) -> Vec<u8> {
    [digest(&SHA256, b"localhost").as_ref(), &[flags, 0, 0, 0, 2], attested, extensions].concat()
}

fn made() -> anyhow::Result<Vec<u8>> {
    let attested = [&[0; 16][..], &[0, 16], &ID, &cose()?].concat();
    Ok(data_of(PLAIN | ATTESTED, &attested, &[]))
}

fn attestation_of(data: &[u8]) -> anyhow::Result<Vec<u8>> {
    let length = u8::try_from(data.len())?;
    Ok([b"\xa3\x63fmt\x64none\x67attStmt\xa0\x68authData\x58", &[length][..], data].concat())
}

fn client(kind: &str) -> String {
    let challenge = URL_SAFE_NO_PAD.encode(CHALLENGE);
    format!(r#"{{"type":"{kind}","challenge":"{challenge}","origin":"http://localhost:{PORT}","crossOrigin":false}}"#)
}

fn written(response: serde_json::Value) -> String {
    json!({"id": URL_SAFE_NO_PAD.encode(ID), "type": "public-key", "response": response}).to_string()
}

/// An answer to "make a passkey".
pub fn created() -> anyhow::Result<String> {
    let attestation = URL_SAFE_NO_PAD.encode(attestation_of(&made()?)?);
    let client = URL_SAFE_NO_PAD.encode(client("webauthn.create"));
    Ok(written(json!({"clientDataJSON": client, "attestationObject": attestation})))
}

fn asserted() -> anyhow::Result<String> {
    let (client, data) = (client("webauthn.get"), data_of(PLAIN, &[], &[]));
    let signature = key()?.sign(&[&data, digest(&SHA256, client.as_bytes()).as_ref()].concat());
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    Ok(written(json!({"clientDataJSON": part(client.as_bytes()), "authenticatorData": part(&data),
                      "signature": part(signature.as_ref()), "userHandle": part(USER.as_bytes())})))
}

/// Made, then shown: with the key that any of both brings along or that is held, only its own signature passes.
fn answer(bytes: &[u8]) -> bool {
    let asked = Asked { challenge: &CHALLENGE, port: PORT };
    if let Some(made) = Created::read(bytes).and_then(|answer| asked.created(&answer).ok()) {
        assert!((1..=CREDENTIAL_ID_MAX).contains(&made.credential.len()));
        return true;
    }
    let own = || cose().ok().and_then(|cose| controller::passkey::Key::read(&cbor::only(&cose)?).ok());
    let (Some(answer), Some(key)) = (Asserted::read(bytes), own()) else { return false };
    let Ok(name) = "key".parse() else { return false };
    let passkey = Passkey {
        id: FactorId::from_bytes([1; 10]),
        name,
        created: WallMs(1),
        used: None,
        credential: ID.to_vec(),
        key,
        count: 1,
        backup_eligible: false,
    };
    match asked.asserted(&answer, USER, &[passkey]) {
        Ok((at, count)) => {
            assert!(at == 0 && count > 1 && answer.id == ID && answer.user.is_none_or(|user| user == USER.as_bytes()));
            true
        }
        Err(_) => false,
    }
}

fn answer_seeds() -> Seeds {
    let (created, asserted) = (created()?, asserted()?);
    let twice = asserted.replacen('{', "{\"id\":\"AA\",", 1);
    Ok(vec![
        seed("made", created),
        seed("shown", asserted.clone()),
        seed("without-user", asserted.replace(&URL_SAFE_NO_PAD.encode(USER.as_bytes()), "")),
        seed("twice", twice),
        seed("empty", written(json!({}))),
    ])
}

fn client_data(bytes: &[u8]) -> bool {
    ClientData::read(bytes).is_ok()
}

fn client_data_seeds() -> Seeds {
    let get = client("webauthn.get");
    Ok(vec![
        seed("get", get.clone()),
        seed("create", client("webauthn.create")),
        seed("framed", get.replace("false}", "true,\"topOrigin\":\"https://evil.example\"}")),
        seed("twice", get.replacen('{', "{\"type\":\"webauthn.create\",", 1)),
    ])
}

fn attestation(bytes: &[u8]) -> bool {
    Attestation::read(bytes).is_ok_and(|attestation| AuthenticatorData::read(attestation.data).is_ok())
}

fn attestation_seeds() -> Seeds {
    let own = [
        b"\xa3\x63fmt\x66packed\x67attStmt\xa2\x63alg\x27\x63sig\x42\x01\x02\x68authData\x58".as_slice(),
        &[u8::try_from(made()?.len())?],
        &made()?,
    ];
    Ok(vec![
        seed("none", attestation_of(&made()?)?),
        seed("packed", own.concat()),
        seed("nothing-made", attestation_of(&data_of(PLAIN, &[], &[]))?),
    ])
}

fn data(bytes: &[u8]) -> bool {
    match AuthenticatorData::read(bytes) {
        Ok(data) => {
            assert!(data.party.len() == 32 && data.attested.is_none_or(|(id, _)| id.len() <= CREDENTIAL_ID_MAX));
            true
        }
        Err(_) => false,
    }
}

fn data_seeds() -> Seeds {
    let extensions = b"\xa1\x6bcredProtect\x03";
    let attested = [&[0; 16][..], &[0, 16], &ID, &cose()?].concat();
    Ok(vec![
        seed("plain", data_of(PLAIN, &[], &[])),
        seed("made", made()?),
        seed("extended", data_of(PLAIN | EXTENSIONS, &[], extensions)),
        seed("both", data_of(PLAIN | ATTESTED | EXTENSIONS, &attested, extensions)),
    ])
}

fn item(bytes: &[u8]) -> bool {
    match cbor::first(bytes) {
        Some((first, rest)) => {
            let read = bytes.len() - rest.len();
            assert_eq!(bytes.get(..read).and_then(cbor::only), Some(first), "what is read is what was there");
            rest.is_empty()
        }
        None => false,
    }
}

fn item_seeds() -> Seeds {
    Ok(vec![
        seed("key", cose()?),
        seed("all", b"\x87\x19\x01\x00\x39\x01\x00\x42ab\x62cd\x80\xa1\x61a\xf5\xf6".as_slice()),
        seed("deep", b"\x81\x81\x81\x81\x81\x00".as_slice()),
        seed("lies", b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff\x00".as_slice()),
    ])
}
