//! Which authenticator do tests hold? One in software, with the browser in front of it, that says whatever the test has it say. It is written
//! from WebAuthn Level 3 and RFC 8949, and shares nothing with what reads it.

use super::data::flag;
use crate::directory::sha256;
use crate::token::test_keys::{Signer, b64};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// A head of CBOR in its shortest form.
fn head(major: u8, argument: u64) -> Vec<u8> {
    let (short, bytes) = match argument {
        0..=23 => (u8::try_from(argument).unwrap(), 0),
        24..=0xff => (24, 1),
        0x100..=0xffff => (25, 2),
        0x1_0000..=0xffff_ffff => (26, 4),
        _ => (27, 8),
    };
    [&[major << 5 | short], &argument.to_be_bytes()[8 - bytes..]].concat()
}
pub fn number(number: i64) -> Vec<u8> {
    match u64::try_from(number) {
        Ok(number) => head(0, number),
        Err(_) => head(1, u64::try_from(-1 - number).unwrap()),
    }
}
pub fn bytes(bytes: &[u8]) -> Vec<u8> {
    [head(2, bytes.len() as u64), bytes.to_vec()].concat()
}
pub fn text(text: &str) -> Vec<u8> {
    [head(3, text.len() as u64), text.as_bytes().to_vec()].concat()
}
pub fn map(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let all: Vec<u8> = pairs.iter().flat_map(|(name, value)| [name.as_slice(), value].concat()).collect();
    [head(5, pairs.len() as u64), all].concat()
}

/// One credential on an authenticator.
pub struct Authenticator {
    pub id: Vec<u8>,
    /// What it says of whoever is there, and of copies of its key.
    pub flags: u8,
    /// How often it has signed; none: it does not count.
    pub count: Option<u32>,
    signer: Signer,
}

impl Authenticator {
    /// With a fresh key for `ES256`, `EdDSA` or `RS256`.
    pub fn new(algorithm: &str) -> Self {
        // Authenticators sign ECDSA in the form of X.509.
        let signer = Signer::new("", if algorithm == "ES256" { "ES256-DER" } else { known(algorithm) });
        let id = host::entropy::random::<32>().unwrap().to_vec();
        Self { id, flags: flag::PRESENT | flag::VERIFIED, count: Some(0), signer }
    }

    /// The public key as COSE writes it, with this number for its algorithm.
    pub fn cose_as(&self, algorithm: i64) -> Vec<(Vec<u8>, Vec<u8>)> {
        let jwk = self.signer.jwk();
        let part = |name: &str| bytes(&URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap());
        let entry = |name, value| (number(name), value);
        let algorithm = entry(3, number(algorithm));
        match jwk["kty"].as_str().unwrap() {
            "EC" => {
                let curve = entry(-1, number(1));
                vec![entry(1, number(2)), algorithm, curve, entry(-2, part("x")), entry(-3, part("y"))]
            }
            "OKP" => vec![entry(1, number(1)), algorithm, entry(-1, number(6)), entry(-2, part("x"))],
            "RSA" => vec![entry(1, number(3)), algorithm, entry(-1, part("n")), entry(-2, part("e"))],
            other => panic!("{other}"),
        }
    }

    /// The public key as COSE writes it.
    pub fn cose(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.cose_as(self.algorithm())
    }

    /// Its algorithm's number.
    pub fn algorithm(&self) -> i64 {
        match self.signer.algorithm {
            "ES256" => -7,
            "EdDSA" => -8,
            "RS256" => -257,
            other => panic!("{other}"),
        }
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.signer.sign(message)
    }

    /// Authenticator data without a credential. It counts.
    pub fn data(&mut self, party: &str) -> Vec<u8> {
        self.count = self.count.map(|count| count + 1);
        let count = self.count.unwrap_or(0).to_be_bytes();
        [sha256(party.as_bytes()).as_slice(), &[self.flags], &count].concat()
    }

    /// The same with its credential, whose key is written so.
    pub fn data_with(&mut self, party: &str, cose: &[u8]) -> Vec<u8> {
        let mut data = self.data(party);
        data[32] |= flag::ATTESTED;
        let length = u16::try_from(self.id.len()).unwrap().to_be_bytes();
        [data.as_slice(), &[0; 16], &length, &self.id, cose].concat()
    }

    /// What the browser answers to this question to make a passkey.
    pub fn create(&mut self, options: &Value, port: u16) -> Vec<u8> {
        let data = self.data_with("localhost", &map(&self.cose()));
        let client = client("webauthn.create", options, port);
        self.created(&client.to_string(), &object(&data, "none", &map(&[])))
    }

    /// The same of these parts.
    pub fn created(&self, client: &str, attestation: &[u8]) -> Vec<u8> {
        let response = json!({"clientDataJSON": b64(client), "attestationObject": b64(attestation)});
        json!({"id": b64(&self.id), "type": "public-key", "response": response}).to_string().into_bytes()
    }

    /// What the browser answers to this question to show a passkey.
    pub fn get(&mut self, options: &Value, port: u16) -> Vec<u8> {
        let data = self.data("localhost");
        self.asserted(&client("webauthn.get", options, port).to_string(), &data, None)
    }

    /// The same of these parts, signed.
    pub fn asserted(&self, client: &str, data: &[u8], user: Option<&[u8]>) -> Vec<u8> {
        let signature = self.sign(&[data, &sha256(client.as_bytes())].concat());
        self.asserted_with(client, data, &signature, user)
    }

    /// The same with this signature.
    pub fn asserted_with(&self, client: &str, data: &[u8], signature: &[u8], user: Option<&[u8]>) -> Vec<u8> {
        let response = json!({"clientDataJSON": b64(client), "authenticatorData": b64(data),
                              "signature": b64(signature), "userHandle": user.map(b64)});
        json!({"id": b64(&self.id), "type": "public-key", "response": response}).to_string().into_bytes()
    }
}

fn known(algorithm: &str) -> &'static str {
    ["EdDSA", "RS256"].into_iter().find(|known| *known == algorithm).unwrap()
}

/// What the browser says of a page at this port that was asked this.
pub fn client(kind: &str, options: &Value, port: u16) -> Value {
    let challenge = &options["publicKey"]["challenge"];
    json!({"type": kind, "challenge": challenge, "origin": format!("http://localhost:{port}"), "crossOrigin": false})
}

/// An attestation object.
pub fn object(data: &[u8], format: &str, statement: &[u8]) -> Vec<u8> {
    let (format, statement) = ((text("fmt"), text(format)), (text("attStmt"), statement.to_vec()));
    map(&[format, statement, (text("authData"), bytes(data))])
}
