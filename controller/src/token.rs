//! Is this JSON Web Token (RFC 7519) from whom it says, for us, and now? THE one place where one is verified, as RFC 8725 asks for:
//! the algorithm must fit the key that is used, nothing in the token says which key or algorithm is trusted, and whatever is
//! there twice, or not understood, is refused.

mod keys;
pub(crate) mod strict;

pub use keys::{Algorithm, KeySet, KeySetError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use model::limits::{AUDIENCES_MAX, CLAIM_LIST_MAX, SUBJECT_MAX, TOKEN_MAX, TOKEN_SKEW};
use model::time::WallMs;
use serde_json::{Map, Value};

/// What a token has to be.
#[derive(Debug, Clone, Copy)]
pub struct Expect<'a> {
    /// Who made it: `iss` equals this, byte by byte.
    pub issuer: &'a str,
    /// For whom: `aud` has this among others; then `azp` is this, too.
    pub audience: &'a str,
    /// The wall clock.
    pub now: WallMs,
}

/// Why a token is refused. The text quotes nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Too long.
    #[error("the token is longer than {TOKEN_MAX} bytes")]
    Large,
    /// Not three parts in base64url without padding.
    #[error("this is no signed token of three parts")]
    Form,
    /// A part is no JSON object, or says something twice.
    #[error("the token's {0} is no JSON object that says each thing once")]
    Json(&'static str),
    /// An algorithm that nobody here takes.
    #[error("the token's algorithm is none of RS256, PS256, ES256, ES384, EdDSA")]
    Algorithm,
    /// A header that asks for what must not be believed, or is not understood.
    #[error("the token's header has `{0}`, which is not taken from a token")]
    Header(&'static str),
    /// No key of the issuer fits.
    #[error("no key of the issuer fits this token")]
    Key,
    /// The signature is not that key's.
    #[error("the token's signature is not by the issuer")]
    Signature,
    /// Of somebody else.
    #[error("the token is of another issuer")]
    Issuer,
    /// For somebody else.
    #[error("the token is for somebody else")]
    Audience,
    /// Given to somebody else.
    #[error("the token was given to another client (`azp`)")]
    Party,
    /// Over.
    #[error("the token has ended")]
    Expired,
    /// Of the future.
    #[error("the token is from the future: compare the clocks of issuer and controller")]
    Early,
    /// A claim is missing or is not what it has to be.
    #[error("the token's `{0}` is missing or is not of its form")]
    Claim(&'static str),
}

/// What a verified token says.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims {
    /// `iss`.
    pub issuer: String,
    /// `sub`: with the issuer, whom it is about.
    pub subject: String,
    /// `exp`.
    pub expires: WallMs,
    /// `iat`.
    pub issued: Option<WallMs>,
    /// `nonce`; who sent one compares it.
    pub nonce: Option<String>,
    /// `auth_time`: when the person logged in at the issuer.
    pub auth_time: Option<WallMs>,
    /// `acr`: how well the issuer knows the person.
    pub acr: Option<String>,
    /// `amr`: by which means (RFC 8176).
    pub amr: Vec<String>,
    /// All of them, also those above.
    pub all: ClaimSet,
}

/// Claims by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ClaimSet(pub Map<String, Value>);

impl ClaimSet {
    /// The claim of this name, or at a path of names with dots between them (`realm_access.roles`). A name that has dots itself
    /// (`https://corp.example/groups`) goes before a path.
    pub fn at(&self, path: &str) -> Option<&Value> {
        self.0.get(path).or_else(|| {
            let mut steps = path.split('.');
            let first = self.0.get(steps.next()?)?;
            steps.try_fold(first, |value, step| value.get(step))
        })
    }

    /// A text.
    pub fn string(&self, path: &str) -> Option<&str> {
        self.at(path).and_then(Value::as_str)
    }

    /// A list of texts, at most [`CLAIM_LIST_MAX`]; one text is a list of one. None where it is not there, or holds anything else.
    pub fn list(&self, path: &str) -> Option<Vec<String>> {
        match self.at(path)? {
            Value::String(one) => Some(vec![one.clone()]),
            Value::Array(many) if many.len() <= CLAIM_LIST_MAX => {
                many.iter().map(|one| one.as_str().map(str::to_owned)).collect()
            }
            _ => None,
        }
    }

    /// A yes or no.
    pub fn flag(&self, path: &str) -> Option<bool> {
        self.at(path).and_then(Value::as_bool)
    }
}

/// Seconds since 1970, also with a fraction (RFC 7519, section 2), as far as a person lives to see.
fn numeric_date(value: &Value) -> Option<WallMs> {
    const LAST: f64 = 32_503_680_000.0; // the year 3000
    let seconds = value.as_f64().filter(|seconds| (0.0..=LAST).contains(seconds))?;
    #[allow(clippy::cast_possible_truncation)] // at most 3.3e13
    Some(WallMs((seconds * 1_000.0) as i64))
}

/// Verifies a token.
pub fn verify(token: &str, keys: &KeySet, expect: &Expect<'_>) -> Result<Claims, TokenError> {
    if token.len() > TOKEN_MAX {
        return Err(TokenError::Large);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Form)?;
    let (header, payload) =
        signed.split_once('.').filter(|(_, payload)| !payload.contains('.')).ok_or(TokenError::Form)?;
    let bytes = |part: &str| match URL_SAFE_NO_PAD.decode(part) {
        Ok(bytes) if !bytes.is_empty() => Ok(bytes),
        _ => Err(TokenError::Form),
    };
    let (header, payload, signature) = (bytes(header)?, bytes(payload)?, bytes(signature)?);
    let header = strict::object(&header).ok_or(TokenError::Json("header"))?;
    let (algorithm, id) = read_header(&header)?;
    if !keys.verify(algorithm, id, signed.as_bytes(), &signature)? {
        return Err(TokenError::Signature);
    }
    // Nothing of it was believed before this line.
    read_claims(strict::object(&payload).ok_or(TokenError::Json("payload"))?, expect)
}

/// The algorithm, and which key signed. Keys and addresses of keys are never taken from a token (RFC 8725, section 3.10), nor
/// extensions that would have to be understood (RFC 7515, section 4.1.11).
fn read_header(header: &Map<String, Value>) -> Result<(Algorithm, Option<&str>), TokenError> {
    for name in ["crit", "jwk", "jku", "x5u", "x5c", "b64", "zip"] {
        if header.contains_key(name) {
            return Err(TokenError::Header(name));
        }
    }
    // Of tokens for other purposes that say so (RFC 8725, section 3.11), none is taken.
    match header.get("typ") {
        None => {}
        Some(Value::String(sort)) if sort.eq_ignore_ascii_case("JWT") => {}
        Some(_) => return Err(TokenError::Header("typ")),
    }
    let algorithm = header.get("alg").and_then(Value::as_str).and_then(Algorithm::read).ok_or(TokenError::Algorithm)?;
    match header.get("kid") {
        None => Ok((algorithm, None)),
        Some(Value::String(id)) => Ok((algorithm, Some(id))),
        Some(_) => Err(TokenError::Key),
    }
}

fn read_claims(all: Map<String, Value>, expect: &Expect<'_>) -> Result<Claims, TokenError> {
    let text = |name: &'static str| match all.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(TokenError::Claim(name)),
    };
    let moment = |name: &'static str| match all.get(name) {
        None => Ok(None),
        Some(value) => numeric_date(value).map(Some).ok_or(TokenError::Claim(name)),
    };
    if text("iss")? != Some(expect.issuer) {
        return Err(TokenError::Issuer);
    }
    let audiences: Vec<&str> = match all.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) if many.len() <= AUDIENCES_MAX => {
            many.iter().map(Value::as_str).collect::<Option<_>>().ok_or(TokenError::Claim("aud"))?
        }
        _ => return Err(TokenError::Claim("aud")),
    };
    if !audiences.contains(&expect.audience) {
        return Err(TokenError::Audience);
    }
    // OpenID Connect Core 1.0, section 3.1.3.7, 4 and 5.
    match text("azp")? {
        Some(party) if party != expect.audience => return Err(TokenError::Party),
        None if audiences.len() > 1 => return Err(TokenError::Party),
        _ => {}
    }
    let expires = moment("exp")?.ok_or(TokenError::Claim("exp"))?;
    if expires <= expect.now {
        return Err(TokenError::Expired);
    }
    let issued = moment("iat")?;
    if [issued, moment("nbf")?].into_iter().flatten().any(|from| from > expect.now.plus(TOKEN_SKEW)) {
        return Err(TokenError::Early);
    }
    let fits =
        |subject: &&str| (1..=SUBJECT_MAX).contains(&subject.chars().count()) && !subject.chars().any(char::is_control);
    let subject = text("sub")?.filter(fits).ok_or(TokenError::Claim("sub"))?.to_owned();
    let owned = |name| Ok::<_, TokenError>(text(name)?.map(str::to_owned));
    let (nonce, acr, auth_time) = (owned("nonce")?, owned("acr")?, moment("auth_time")?);
    let issuer = expect.issuer.to_owned();
    let all = ClaimSet(all);
    let amr = match all.at("amr") {
        None => Vec::new(),
        Some(_) => all.list("amr").ok_or(TokenError::Claim("amr"))?,
    };
    Ok(Claims { issuer, subject, expires, issued, nonce, auth_time, acr, amr, all })
}

#[cfg(test)]
pub(crate) mod test_keys;
#[cfg(test)]
mod tests;
