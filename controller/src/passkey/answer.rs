//! What does a browser answer? `RegistrationResponseJSON` and `AuthenticationResponseJSON` (WebAuthn Level 3, section 5.1.8), as far as it
//! is needed.

use crate::token::strict;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use model::limits::PASSKEY_ANSWER_MAX;
use serde_json::{Map, Value};

/// An answer to "make a passkey".
#[derive(Debug)]
pub struct Created {
    /// The credential's id.
    pub id: Vec<u8>,
    /// What the browser says, as it is.
    pub client_data: Vec<u8>,
    /// What the authenticator says.
    pub attestation: Vec<u8>,
}

/// An answer to "show a passkey".
#[derive(Debug)]
pub struct Asserted {
    /// The credential's id.
    pub id: Vec<u8>,
    /// What the browser says, as it is.
    pub client_data: Vec<u8>,
    /// What the authenticator says.
    pub data: Vec<u8>,
    /// Its signature.
    pub signature: Vec<u8>,
    /// Whose it is, where the authenticator knows that.
    pub user: Option<Vec<u8>>,
}

/// The credential's id, and the response in it.
fn parts(bytes: &[u8]) -> Option<(Vec<u8>, Map<String, Value>)> {
    if bytes.len() > PASSKEY_ANSWER_MAX {
        return None;
    }
    let mut object = strict::object(bytes)?;
    let is_key = object.get("type").and_then(Value::as_str) == Some("public-key");
    let id = field(&object, "id").filter(|_| is_key)?;
    match object.remove("response") {
        Some(Value::Object(response)) => Some((id, response)),
        _ => None,
    }
}

fn field(object: &Map<String, Value>, name: &str) -> Option<Vec<u8>> {
    object.get(name).and_then(Value::as_str).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
}

impl Created {
    /// Reads one; none for what is no such answer.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (id, response) = parts(bytes)?;
        let field = |name| field(&response, name);
        Some(Self { id, client_data: field("clientDataJSON")?, attestation: field("attestationObject")? })
    }
}

impl Asserted {
    /// Reads one; none for what is no such answer.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (id, response) = parts(bytes)?;
        let user = match response.get("userHandle") {
            None | Some(Value::Null) => None,
            Some(_) => Some(field(&response, "userHandle")?),
        };
        let field = |name| field(&response, name);
        let (client_data, data) = (field("clientDataJSON")?, field("authenticatorData")?);
        Some(Self { id, client_data, data, signature: field("signature")?, user })
    }
}
