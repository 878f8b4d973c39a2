//! Is a token one of this organisation's programs, for this audience, and good now? JWT-SVID, sections 2 to 5.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use model::limits::WORKLOAD_TOKEN_MAX;
use model::spiffe::SpiffeId;
use model::time::WallMs;
use node::svid::fixed_signature_holds;
use proto::spiffe::{Kind, ListValue, Struct, Value as Wire};
use serde_json::{Map, Value};

/// Why a token is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token.
    #[error("it is no signed JSON Web Token in compact form")]
    Form,
    /// Not ours.
    #[error("its algorithm is not ES256")]
    Algorithm,
    /// Not that of a token.
    #[error("its type is neither JWT nor JOSE")]
    Type,
    /// Not signed by this organisation.
    #[error("its key is none of this trust domain's")]
    Key,
    /// Altered.
    #[error("its signature does not hold")]
    Signature,
    /// Over, or it never ends.
    #[error("it has ended, or does not say when it ends")]
    Ended,
    /// Not yet.
    #[error("it is not good yet")]
    Early,
    /// For others.
    #[error("it is not for this audience")]
    Audience,
    /// About nobody of this trust domain.
    #[error("it is about no program of this trust domain")]
    Subject,
}

fn part(text: &str) -> Result<Map<String, Value>, TokenError> {
    let bytes = BASE64.decode(text).map_err(|_| TokenError::Form)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Form)
}

/// The public key of this name in a set of keys, as a point.
fn key(bundle: &str, name: &str) -> Option<Vec<u8>> {
    let set: Value = serde_json::from_str(bundle).ok()?;
    let wanted = [("kid", name), ("use", "jwt-svid"), ("kty", "EC"), ("crv", "P-256")];
    let is = |key: &&Value| wanted.iter().all(|(part, text)| key.get(*part).and_then(Value::as_str) == Some(*text));
    let key = set.get("keys")?.as_array()?.iter().find(is)?;
    let coordinate = |name: &str| BASE64.decode(key.get(name)?.as_str()?).ok().filter(|bytes| bytes.len() == 32);
    Some([vec![4], coordinate("x")?, coordinate("y")?].concat())
}

/// Reads a token: who it is about, and all that it says.
pub fn validate(
    token: &str,
    audience: &str,
    bundle: &str,
    domain: &str,
    now: WallMs,
) -> Result<(SpiffeId, Map<String, Value>), TokenError> {
    if token.len() > WORKLOAD_TOKEN_MAX {
        return Err(TokenError::Form);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Form)?;
    let (header, claims) = signed.split_once('.').ok_or(TokenError::Form)?;
    let header = part(header)?;
    let text = |name: &str| header.get(name).and_then(Value::as_str);
    if text("alg") != Some("ES256") {
        return Err(TokenError::Algorithm);
    }
    if header.contains_key("typ") && !matches!(text("typ"), Some("JWT" | "JOSE")) {
        return Err(TokenError::Type);
    }
    if header.contains_key("crit") {
        return Err(TokenError::Form);
    }
    let key = text("kid").and_then(|name| key(bundle, name)).ok_or(TokenError::Key)?;
    let signature = BASE64.decode(signature).map_err(|_| TokenError::Form)?;
    if !fixed_signature_holds(&key, signed.as_bytes(), &signature) {
        return Err(TokenError::Signature);
    }
    let claims = part(claims)?;
    let seconds = now.0.div_euclid(1_000);
    if claims.get("exp").and_then(Value::as_i64).is_none_or(|end| end <= seconds) {
        return Err(TokenError::Ended);
    }
    if claims.get("nbf").is_some_and(|begin| begin.as_i64().is_none_or(|begin| begin > seconds)) {
        return Err(TokenError::Early);
    }
    let is_for = match claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(audience)),
        _ => false,
    };
    if audience.is_empty() || !is_for {
        return Err(TokenError::Audience);
    }
    let subject = claims.get("sub").and_then(Value::as_str).and_then(|text| text.parse::<SpiffeId>().ok());
    let subject = subject.filter(|id| id.is_workload_of(domain)).ok_or(TokenError::Subject)?;
    Ok((subject, claims))
}

/// Claims as the Workload API gives them.
pub fn claims(map: Map<String, Value>) -> Struct {
    Struct { fields: map.into_iter().map(|(name, value)| (name, wire(value))).collect() }
}

fn wire(value: Value) -> Wire {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(is) => Kind::BoolValue(is),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(all) => Kind::ListValue(ListValue { values: all.into_iter().map(wire).collect() }),
        Value::Object(map) => Kind::StructValue(claims(map)),
    };
    Wire { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::svid::SvidKey;
    use serde_json::json;

    const NOW: WallMs = WallMs(1_700_000_000_000);

    /// `r` and `s` of a signature in ASN.1 form.
    fn fixed(asn1: &[u8]) -> Vec<u8> {
        let mut rest = &asn1[2..];
        let mut out = Vec::new();
        for _ in 0..2 {
            let (number, after) = rest[2..].split_at(usize::from(rest[1]));
            let number = number.strip_prefix(&[0]).unwrap_or(number);
            out.extend(std::iter::repeat_n(0, 32 - number.len()).chain(number.iter().copied()));
            rest = after;
        }
        out
    }

    fn bundle(key: &SvidKey) -> String {
        let info = key.public_key_info();
        let (x, y) = info[info.len() - 64..].split_at(32);
        let (x, y) = (BASE64.encode(x), BASE64.encode(y));
        let key = json!({"kid": "one", "use": "jwt-svid", "kty": "EC", "crv": "P-256", "x": x, "y": y});
        json!({ "keys": [key] }).to_string()
    }

    fn make(key: &SvidKey, header: &Value, claims: &Value) -> String {
        let text = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let signature = fixed(&key.sign(text.as_bytes()).unwrap());
        format!("{text}.{}", BASE64.encode(signature))
    }

    fn good() -> (Value, Value) {
        let claims = json!({"sub": "spiffe://corp.example/workload/deploy/web", "aud": ["billing", "mail"], "exp": 1_700_000_300});
        (json!({"alg": "ES256", "kid": "one", "typ": "JWT"}), claims)
    }

    #[test]
    fn a_token_is_believed_only_as_a_whole() {
        let key = SvidKey::generate().unwrap();
        let bundle = bundle(&key);
        let check = |header: &Value, claims: &Value, audience: &str| {
            validate(&make(&key, header, claims), audience, &bundle, "corp.example", NOW).map(|(id, _)| id.to_string())
        };
        let (header, claims) = good();
        assert_eq!(check(&header, &claims, "mail").unwrap(), "spiffe://corp.example/workload/deploy/web");
        let without = |from: &Value, name: &str| {
            let mut all = from.as_object().unwrap().clone();
            all.remove(name);
            Value::Object(all)
        };
        let with = |from: &Value, name: &str, value: Value| {
            let mut all = from.as_object().unwrap().clone();
            all.insert(name.to_owned(), value);
            Value::Object(all)
        };
        assert!(check(&without(&header, "typ"), &claims, "mail").is_ok());
        assert!(check(&with(&header, "typ", json!("JOSE")), &claims, "mail").is_ok());
        assert!(check(&header, &with(&claims, "aud", json!("mail")), "mail").is_ok());
        for (name, value, why) in [
            ("alg", json!("none"), TokenError::Algorithm),
            ("alg", json!("HS256"), TokenError::Algorithm),
            ("alg", json!("RS256"), TokenError::Algorithm),
            ("alg", Value::Null, TokenError::Algorithm),
            ("typ", json!("at+jwt"), TokenError::Type),
            ("kid", json!("two"), TokenError::Key),
            ("crit", json!(["exp"]), TokenError::Form),
        ] {
            assert_eq!(check(&with(&header, name, value.clone()), &claims, "mail"), Err(why), "{name} {value}");
        }
        assert_eq!(check(&without(&header, "kid"), &claims, "mail"), Err(TokenError::Key));
        assert_eq!(check(&without(&header, "alg"), &claims, "mail"), Err(TokenError::Algorithm));
        for (name, value, why) in [
            ("exp", json!(1_700_000_000), TokenError::Ended),
            ("exp", json!("1800000000"), TokenError::Ended),
            ("nbf", json!(1_700_000_001), TokenError::Early),
            ("aud", json!(["else"]), TokenError::Audience),
            ("aud", json!([]), TokenError::Audience),
            ("sub", json!("spiffe://other.example/workload/deploy/web"), TokenError::Subject),
            ("sub", json!("spiffe://corp.example/controller"), TokenError::Subject),
            ("sub", json!("web"), TokenError::Subject),
        ] {
            assert_eq!(check(&header, &with(&claims, name, value.clone()), "mail"), Err(why), "{name} {value}");
        }
        for (name, why) in [("exp", TokenError::Ended), ("aud", TokenError::Audience), ("sub", TokenError::Subject)] {
            assert_eq!(check(&header, &without(&claims, name), "mail"), Err(why), "{name}");
        }
        assert_eq!(check(&header, &claims, "else"), Err(TokenError::Audience));
        assert_eq!(check(&header, &with(&claims, "aud", json!("")), ""), Err(TokenError::Audience));
    }

    #[test]
    fn altered_cut_and_foreign_tokens_are_not_believed() {
        let key = SvidKey::generate().unwrap();
        let bundle = bundle(&key);
        let check = |token: &str| validate(token, "mail", &bundle, "corp.example", NOW).map(|_| ());
        let (header, claims) = good();
        let token = make(&key, &header, &claims);
        assert_eq!(check(&token), Ok(()));
        for at in 0..token.len() {
            assert!(check(&token[..at]).is_err(), "cut at {at}");
            let mut altered = token.clone().into_bytes();
            altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
            assert!(check(std::str::from_utf8(&altered).unwrap()).is_err(), "byte {at}");
        }
        assert_eq!(check(&make(&SvidKey::generate().unwrap(), &header, &claims)), Err(TokenError::Signature));
        let unsigned = token.rsplit_once('.').unwrap().0;
        assert!(check(&format!("{unsigned}.")).is_err());
        assert_eq!(check(&"a".repeat(WORKLOAD_TOKEN_MAX + 1)), Err(TokenError::Form));
    }

    #[test]
    fn a_key_counts_only_as_one_of_tokens_of_the_one_algorithm() {
        let key = SvidKey::generate().unwrap();
        let (header, claims) = good();
        let token = make(&key, &header, &claims);
        let with = |name: &str, value: Value| {
            let mut set: Value = serde_json::from_str(&bundle(&key)).unwrap();
            set["keys"][0][name] = value;
            validate(&token, "mail", &set.to_string(), "corp.example", NOW).map(|_| ())
        };
        assert_eq!(with("alg", json!("ES256")), Ok(()));
        for (name, value) in [
            ("use", json!("x509-svid")),
            ("use", json!("sig")),
            ("use", Value::Null),
            ("kid", Value::Null),
            ("kty", json!("RSA")),
            ("kty", json!("oct")),
            ("crv", json!("P-384")),
            ("x", json!("AA")),
            ("y", Value::Null),
        ] {
            assert_eq!(with(name, value.clone()), Err(TokenError::Key), "{name} {value}");
        }
        for set in ["", "{}", "[]", r#"{"keys":{}}"#, r#"{"keys":[]}"#] {
            assert_eq!(validate(&token, "mail", set, "corp.example", NOW).map(|_| ()), Err(TokenError::Key), "{set}");
        }
    }

    #[test]
    fn other_serialisations_are_no_tokens() {
        let key = SvidKey::generate().unwrap();
        let (header, claims) = good();
        let token = make(&key, &header, &claims);
        let parts: Vec<&str> = token.split('.').collect();
        let json = json!({"protected": parts[0], "payload": parts[1], "signature": parts[2]}).to_string();
        let encrypted = format!("{token}.{}.{}", parts[1], parts[2]);
        for bad in [
            "",
            ".",
            "..",
            "a.b.c",
            &json,
            &encrypted,
            &format!(" {token}"),
            &format!("{token}="),
            &format!("{token}."),
        ] {
            assert!(validate(bad, "mail", &bundle(&key), "corp.example", NOW).is_err(), "{bad}");
        }
    }

    #[test]
    fn claims_reach_a_program_as_they_are() {
        let map = json!({"n": null, "b": true, "i": 3, "s": "x", "l": [1, {"a": "b"}]}).as_object().unwrap().clone();
        let shown = claims(map);
        assert_eq!(shown.fields["i"].kind, Some(Kind::NumberValue(3.0)));
        assert_eq!(shown.fields["s"].kind, Some(Kind::StringValue("x".into())));
        let Some(Kind::ListValue(list)) = &shown.fields["l"].kind else { panic!("no list") };
        assert_eq!(list.values.len(), 2);
    }
}
