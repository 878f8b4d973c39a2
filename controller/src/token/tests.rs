//! Does anything but a token of this issuer, for us, and of now pass?

use super::*;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
};
use model::limits::{KEY_SET_MAX, KEYS_MAX};
use serde_json::json;
use std::sync::LazyLock;

const ISSUER: &str = "https://id.corp.example/realm";
const CLIENT: &str = "umbra";
const NOW: WallMs = WallMs(1_800_000_000_000);

static RSA: LazyLock<[RsaKeyPair; 2]> =
    LazyLock::new(|| [(); 2].map(|()| RsaKeyPair::generate(KeySize::Rsa2048).unwrap()));
static P256: LazyLock<[EcdsaKeyPair; 2]> = LazyLock::new(|| [(); 2].map(|()| curve(&ECDSA_P256_SHA256_FIXED_SIGNING)));
static P384: LazyLock<EcdsaKeyPair> = LazyLock::new(|| curve(&ECDSA_P384_SHA384_FIXED_SIGNING));
static ED: LazyLock<Ed25519KeyPair> = LazyLock::new(|| Ed25519KeyPair::generate().unwrap());

fn curve(algorithm: &'static EcdsaSigningAlgorithm) -> EcdsaKeyPair {
    EcdsaKeyPair::generate(algorithm).unwrap()
}
fn part(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
fn rsa_jwk(key: &RsaKeyPair, id: &str) -> Value {
    let public = key.public_key();
    let (n, e) = (public.modulus(), public.exponent());
    json!({"kty": "RSA", "kid": id, "use": "sig", "n": part(n.big_endian_without_leading_zero()),
           "e": part(e.big_endian_without_leading_zero())})
}
fn curve_jwk(key: &EcdsaKeyPair, curve: &str, id: &str) -> Value {
    let point = &key.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    json!({"kty": "EC", "crv": curve, "kid": id, "x": part(x), "y": part(y)})
}
fn keys(list: &[Value]) -> KeySet {
    KeySet::parse(json!({"keys": list}).to_string().as_bytes()).unwrap()
}
/// All kinds, each by its own id.
fn all_keys() -> KeySet {
    let ed = json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "alg": "EdDSA", "x": part(ED.public_key())});
    let rsa = rsa_jwk(&RSA[0], "rsa");
    keys(&[rsa, curve_jwk(&P256[0], "P-256", "p256"), curve_jwk(&P384, "P-384", "p384"), ed])
}

fn sign_rsa(key: &RsaKeyPair, pss: bool, message: &[u8]) -> Vec<u8> {
    let mut signature = vec![0; key.public_modulus_len()];
    let padding: &dyn aws_lc_rs::signature::RsaEncoding = if pss { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
    key.sign(padding, &SystemRandom::new(), message, &mut signature).unwrap();
    signature
}
fn sign(algorithm: &str, message: &[u8]) -> Vec<u8> {
    match algorithm {
        "RS256" => sign_rsa(&RSA[0], false, message),
        "PS256" => sign_rsa(&RSA[0], true, message),
        "ES256" => P256[0].sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
        "ES384" => P384.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
        "EdDSA" => ED.sign(message).as_ref().to_vec(),
        other => panic!("{other}"),
    }
}

fn good() -> Value {
    let now = NOW.0 / 1_000;
    json!({"iss": ISSUER, "aud": CLIENT, "sub": "248289761001", "exp": now + 300, "iat": now, "nonce": "n-0S6_WzA2Mj",
           "groups": ["staff"], "realm_access": {"roles": ["admin", "dev"]}, "email_verified": true})
}
/// Signed by the RSA key, with this header and payload as they are written.
fn signed(header: &str, payload: &str) -> String {
    let message = format!("{}.{}", part(header), part(payload));
    let signature = part(sign("RS256", message.as_bytes()));
    format!("{message}.{signature}")
}
fn token(claims: &Value) -> String {
    signed(r#"{"alg":"RS256","kid":"rsa"}"#, &claims.to_string())
}
fn check(token: &str) -> Result<Claims, TokenError> {
    verify(token, &all_keys(), &Expect { issuer: ISSUER, audience: CLIENT, now: NOW })
}
/// A good payload, changed.
fn with(change: impl FnOnce(&mut Map<String, Value>)) -> Result<Claims, TokenError> {
    let mut claims = good();
    change(claims.as_object_mut().unwrap());
    check(&token(&claims))
}
fn set(name: &str, value: Value) -> Result<Claims, TokenError> {
    with(|claims| drop(claims.insert(name.to_owned(), value)))
}

#[test]
fn a_good_token_passes_under_each_algorithm_and_says_what_it_says() {
    for (algorithm, id) in [("RS256", "rsa"), ("PS256", "rsa"), ("ES256", "p256"), ("ES384", "p384"), ("EdDSA", "ed")] {
        let header = json!({"alg": algorithm, "kid": id, "typ": "JWT"}).to_string();
        let message = format!("{}.{}", part(header), part(good().to_string()));
        let token = format!("{message}.{}", part(sign(algorithm, message.as_bytes())));
        let claims = check(&token).unwrap_or_else(|error| panic!("{algorithm}: {error}"));
        assert_eq!((claims.issuer.as_str(), claims.subject.as_str()), (ISSUER, "248289761001"));
    }
    let claims = check(&token(&good())).unwrap();
    let all = &claims.all;
    assert_eq!(all.list("groups"), Some(vec!["staff".to_owned()]));
    assert_eq!(all.list("realm_access.roles"), Some(vec!["admin".to_owned(), "dev".to_owned()]));
    assert_eq!((claims.nonce.as_deref(), all.flag("email_verified")), (Some("n-0S6_WzA2Mj"), Some(true)));
    assert_eq!((claims.issued, claims.auth_time, claims.amr.len()), (Some(NOW), None, 0));
    assert_eq!((all.string("realm_access.none"), all.string("x.y.z"), all.list("exp")), (None, None, None));
    assert_eq!(
        set("many", json!(vec!["g"; CLAIM_LIST_MAX + 1])).unwrap().all.list("many"),
        None,
        "half of it is no answer"
    );
    assert!(set("many", json!(vec!["g"; CLAIM_LIST_MAX])).unwrap().all.list("many").is_some());
    // A name with dots, as some providers have, comes before a path.
    let claims = set("https://corp.example/groups", json!(["a"])).unwrap();
    assert_eq!(claims.all.list("https://corp.example/groups"), Some(vec!["a".to_owned()]));
}

#[test]
fn a_token_for_another_time_place_or_client_is_refused() {
    let (now, skew) = (NOW.0 / 1_000, i64::try_from(TOKEN_SKEW.as_secs()).unwrap());
    let refused: &[(&str, Value, TokenError)] = &[
        ("iss", json!("https://id.corp.example/realm/"), TokenError::Issuer),
        ("iss", json!("https://evil.example"), TokenError::Issuer),
        ("iss", json!([ISSUER]), TokenError::Claim("iss")),
        ("aud", json!("other"), TokenError::Audience),
        ("aud", json!(["other", "umbra2"]), TokenError::Audience),
        ("aud", json!([]), TokenError::Audience),
        ("aud", json!([1]), TokenError::Claim("aud")),
        ("aud", json!(vec![CLIENT; AUDIENCES_MAX + 1]), TokenError::Claim("aud")),
        ("aud", json!([CLIENT, "other"]), TokenError::Party),
        ("azp", json!("other"), TokenError::Party),
        ("azp", json!(1), TokenError::Claim("azp")),
        ("exp", json!(now), TokenError::Expired),
        ("exp", json!(now - 600), TokenError::Expired),
        ("exp", json!("never"), TokenError::Claim("exp")),
        ("exp", json!(-1), TokenError::Claim("exp")),
        ("exp", json!(1e300), TokenError::Claim("exp")),
        ("nbf", json!(now + skew + 1), TokenError::Early),
        ("iat", json!(now + skew + 1), TokenError::Early),
        ("iat", json!(null), TokenError::Claim("iat")),
        ("sub", json!(""), TokenError::Claim("sub")),
        ("sub", json!("x".repeat(SUBJECT_MAX + 1)), TokenError::Claim("sub")),
        ("sub", json!("a\nb"), TokenError::Claim("sub")),
        ("sub", json!(7), TokenError::Claim("sub")),
        ("nonce", json!(7), TokenError::Claim("nonce")),
        ("acr", json!([]), TokenError::Claim("acr")),
        ("amr", json!([7]), TokenError::Claim("amr")),
        ("auth_time", json!("now"), TokenError::Claim("auth_time")),
    ];
    for (name, value, error) in refused {
        assert_eq!(set(name, value.clone()).err(), Some(*error), "{name}: {value}");
    }
    for (name, error) in [
        ("iss", TokenError::Issuer),
        ("aud", TokenError::Claim("aud")),
        ("exp", TokenError::Claim("exp")),
        ("sub", TokenError::Claim("sub")),
    ] {
        assert_eq!(with(|claims| drop(claims.remove(name))).err(), Some(error), "without {name}");
    }
    for (name, value) in [
        ("aud", json!([CLIENT])),
        ("azp", json!(CLIENT)),
        ("iat", json!(now + skew)),
        ("nbf", json!(now + skew)),
        ("exp", json!(now as f64 + 0.5)),
        ("sub", json!("x".repeat(SUBJECT_MAX))),
        ("other", json!({"deep": [1, {"a": null}]})),
    ] {
        assert!(set(name, value.clone()).is_ok(), "{name}: {value}");
    }
    let both = with(|claims| {
        claims.insert("aud".into(), json!([CLIENT, "other"]));
        claims.insert("azp".into(), json!(CLIENT));
    });
    assert!(both.is_ok());
}

#[test]
fn what_is_said_twice_is_refused_wherever_the_other_reading_leads() {
    let plain = good().to_string();
    for name in ["iss", "aud", "sub", "exp", "nonce"] {
        let value = &good()[name];
        let doubled = format!("{{\"{name}\":{value},{}", &plain[1..]);
        assert_eq!(
            check(&signed(r#"{"alg":"RS256","kid":"rsa"}"#, &doubled)),
            Err(TokenError::Json("payload")),
            "{name}"
        );
    }
    let header = r#"{"alg":"none","alg":"RS256","kid":"rsa"}"#;
    assert_eq!(check(&signed(header, &plain)), Err(TokenError::Json("header")));
    assert_eq!(check(&signed("[]", &plain)), Err(TokenError::Json("header")));
    assert_eq!(check(&signed(r#"{"alg":"RS256","kid":"rsa"}"#, "7")), Err(TokenError::Json("payload")));
}

#[test]
fn no_other_algorithm_key_or_header_passes() {
    let plain = good().to_string();
    let error = |header: &str| check(&signed(header, &plain)).err();
    for name in ["none", "None", "NONE", "", "HS256", "HS512", "rs256", "RS1", "ES256K", "dir"] {
        assert_eq!(error(&json!({"alg": name, "kid": "rsa"}).to_string()), Some(TokenError::Algorithm), "{name}");
    }
    assert_eq!(error(r#"{"kid":"rsa"}"#), Some(TokenError::Algorithm));
    // The public key as a shared secret.
    let message = format!("{}.{}", part(r#"{"alg":"HS256","kid":"rsa"}"#), part(&plain));
    let jwk = rsa_jwk(&RSA[0], "rsa").to_string();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, jwk.as_bytes());
    let forged = format!("{message}.{}", part(aws_lc_rs::hmac::sign(&key, message.as_bytes())));
    assert_eq!(check(&forged), Err(TokenError::Algorithm));
    for name in ["crit", "jwk", "jku", "x5u", "x5c", "b64", "zip"] {
        let header = json!({"alg": "RS256", "kid": "rsa", name: ["exp"]}).to_string();
        assert_eq!(error(&header), Some(TokenError::Header(name)));
    }
    for sort in ["logout+jwt", "at+jwt", "dpop+jwt", "secevent+jwt", "JWE", "", "JWT "] {
        let header = json!({"alg": "RS256", "kid": "rsa", "typ": sort}).to_string();
        assert_eq!(error(&header), Some(TokenError::Header("typ")), "{sort}");
    }
    assert_eq!(error(r#"{"alg":"RS256","kid":"rsa","typ":7}"#), Some(TokenError::Header("typ")));
    assert_eq!(error(r#"{"alg":"RS256","kid":"rsa","typ":"jwt"}"#), None);
    for id in [json!("nobody"), json!(""), json!(1), json!(null)] {
        assert_eq!(error(&json!({"alg": "RS256", "kid": id}).to_string()), Some(TokenError::Key), "{id}");
    }
    // The key of this id is of another kind; or it is for one algorithm alone.
    assert_eq!(error(r#"{"alg":"RS256","kid":"p256"}"#), Some(TokenError::Key));
    assert_eq!(error(r#"{"alg":"ES256","kid":"rsa"}"#), Some(TokenError::Key));
    let mut only = rsa_jwk(&RSA[0], "rsa");
    only["alg"] = json!("PS256");
    let expect = Expect { issuer: ISSUER, audience: CLIENT, now: NOW };
    assert_eq!(verify(&token(&good()), &keys(&[only]), &expect), Err(TokenError::Key));
    // Without an id, only where there is no choice.
    let nameless = signed(r#"{"alg":"RS256"}"#, &plain);
    assert!(verify(&nameless, &keys(&[rsa_jwk(&RSA[0], "a")]), &expect).is_ok());
    let two = keys(&[rsa_jwk(&RSA[0], "a"), rsa_jwk(&RSA[1], "b")]);
    assert_eq!(verify(&nameless, &two, &expect), Err(TokenError::Key));
    let doubled = keys(&[rsa_jwk(&RSA[1], "rsa"), rsa_jwk(&RSA[0], "rsa")]);
    assert_eq!(verify(&token(&good()), &doubled, &expect), Err(TokenError::Key), "two keys of one id");
}

#[test]
fn no_other_signature_passes() {
    let good = token(&good());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        assert_eq!(check(&format!("{message}.{}", part(flipped))), Err(TokenError::Signature), "{at}");
    }
    for wrong in [
        sign_rsa(&RSA[1], false, message.as_bytes()),
        sign_rsa(&RSA[0], true, message.as_bytes()),
        vec![0; 256],
        vec![0],
    ] {
        assert_eq!(check(&format!("{message}.{}", part(wrong))), Err(TokenError::Signature));
    }
    // ECDSA in DER, and with zeros for r and s (CVE-2022-21449).
    let es = format!("{}.{}", part(r#"{"alg":"ES256","kid":"p256"}"#), part(self::good().to_string()));
    let pkcs8 = P256[0].to_pkcs8v1().unwrap();
    let der = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref()).unwrap();
    let der = der.sign(&SystemRandom::new(), es.as_bytes()).unwrap();
    for wrong in [
        der.as_ref().to_vec(),
        vec![0; 64],
        P256[1].sign(&SystemRandom::new(), es.as_bytes()).unwrap().as_ref().to_vec(),
    ] {
        assert_eq!(check(&format!("{es}.{}", part(wrong))), Err(TokenError::Signature));
    }
    // Another payload under the same signature.
    let (header, _) = message.split_once('.').unwrap();
    let other = part(json!({"sub": "root"}).to_string());
    assert_eq!(check(&format!("{header}.{other}.{signature}")), Err(TokenError::Signature));
}

#[test]
fn whatever_is_no_token_is_refused() {
    let good = token(&good());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = message.split_once('.').unwrap();
    let padded = format!("{message}.{signature}==");
    for form in [
        "",
        ".",
        "..",
        "a.b",
        &format!("{message}."),
        message,
        &format!("{good}.{signature}"),
        &format!(".{payload}.{signature}"),
        &format!("{header}..{signature}"),
        &padded,
        &format!(" {good}"),
        &format!("{good}\n"),
        &good.replace('.', "\u{2024}"),
        &format!("{header}.{payload}!.{signature}"),
    ] {
        assert_eq!(check(form), Err(TokenError::Form), "{form:?}");
    }
    assert_eq!(check(&"x".repeat(1 << 20)), Err(TokenError::Large));
    assert_eq!(check(&"x".repeat(TOKEN_MAX)), Err(TokenError::Form));
    for (text, error) in [
        ("", KeySetError::Form),
        ("{}", KeySetError::Form),
        ("{\"keys\":1}", KeySetError::Form),
        ("{\"keys\":[]}", KeySetError::Empty),
    ] {
        assert_eq!(KeySet::parse(text.as_bytes()), Err(error), "{text}");
    }
}

#[test]
fn keys_that_must_not_verify_are_left_out() {
    let rsa = || rsa_jwk(&RSA[0], "rsa");
    let parse = |list: Vec<Value>| KeySet::parse(json!({"keys": list}).to_string().as_bytes());
    let changed = |name: &str, value: Value| {
        let mut key = rsa();
        key[name] = value;
        parse(vec![key])
    };
    for (name, value) in [
        ("use", json!("enc")),
        ("use", json!(1)),
        ("key_ops", json!(["encrypt"])),
        ("key_ops", json!("verify")),
        ("alg", json!("RSA-OAEP")),
        ("alg", json!("HS256")),
        ("kty", json!("oct")),
        ("kid", json!(1)),
        ("n", json!(part([0xff; RSA_SHORT]))),
        ("n", json!(part([[0; 64].as_slice(), &[0xff; RSA_SHORT]].concat()))),
        ("n", json!("!")),
        ("e", json!(null)),
    ] {
        assert_eq!(changed(name, value.clone()), Err(KeySetError::Empty), "{name}: {value}");
    }
    let mut short = curve_jwk(&P256[0], "P-256", "p256");
    short["x"] = json!(part([1; 31]));
    let mut outside = curve_jwk(&P256[0], "P-256", "p256");
    outside["crv"] = json!("P-521");
    assert_eq!(parse(vec![short, outside]), Err(KeySetError::Empty));
    assert!(changed("key_ops", json!(["verify"])).is_ok());
    // One that cannot be used does not harm the others.
    assert!(parse(vec![json!({"kty": "oct", "k": "AA"}), rsa()]).is_ok());
    assert_eq!(parse(vec![rsa(); KEYS_MAX + 1]), Err(KeySetError::Large));
    assert!(parse(vec![rsa(); KEYS_MAX]).is_ok());
    assert_eq!(KeySet::parse(&vec![b' '; KEY_SET_MAX + 1]), Err(KeySetError::Large));
    // A point that is not on the curve verifies nothing.
    let off = json!({"kty": "EC", "crv": "P-256", "kid": "p256", "x": part([1; 32]), "y": part([1; 32])});
    let message = format!("{}.{}", part(r#"{"alg":"ES256","kid":"p256"}"#), part(good().to_string()));
    let token = format!("{message}.{}", part(sign("ES256", message.as_bytes())));
    let expect = Expect { issuer: ISSUER, audience: CLIENT, now: NOW };
    assert_eq!(verify(&token, &keys(&[off]), &expect), Err(TokenError::Signature));
}

/// Bytes of a modulus that is too short.
const RSA_SHORT: usize = 255;
