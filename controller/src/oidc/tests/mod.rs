//! Is a provider believed that keeps to its word, and no other?

pub mod fake;
mod flows;

use super::*;
use crate::fetch::FetchError;
use crate::fetch::test_server::{Says, json, status};
use crate::token::test_keys::Signer;
use base64::Engine;
use fake::{Fake, NOW, REDIRECT, VERIFIER, field};
use model::limits::{
    FETCH_BODY_MAX, PROVIDER_CACHE_LIFE, PROVIDER_FAILED_LIFE, PROVIDER_KEYS_EVERY, PROVIDER_TEXT_CHARS_MAX,
};
use serde_json::{Value, json};
use std::time::Duration;

fn secret(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

async fn exchanged(client: &Client) -> Result<Tokens, OidcError> {
    client.exchange(&secret("code"), &secret(VERIFIER), REDIRECT, "n").await
}

/// Why a provider that was changed like this gives nothing.
async fn wrong(change: impl FnOnce(&Fake)) -> OidcError {
    let fake = Fake::start().await;
    change(&fake);
    exchanged(&fake.client()).await.err().unwrap()
}

#[tokio::test]
async fn a_log_in_asks_for_what_it_needs_and_believes_the_answer() {
    let fake = Fake::start().await;
    let client = fake.client();
    let verifier = secret(VERIFIER);
    let challenge = pkce::challenge(&verifier);
    let request = AuthorizeRequest {
        state: "st&te",
        nonce: "n",
        code_challenge: &challenge,
        redirect_uri: REDIRECT,
        prompt: Some("login"),
        max_age: Some(300),
        acr_values: Some("mfa otp"),
    };
    let url = client.authorize_url(request).await.unwrap();
    let (endpoint, query) = url.split_once("?tenant=a&").unwrap();
    assert_eq!(endpoint, fake.server.url("/authorize"));
    let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect();
    assert_eq!(
        pairs,
        [
            ("response_type", "code"),
            ("client_id", "um bra"),
            ("redirect_uri", REDIRECT),
            ("scope", "openid profile"),
            ("state", "st&te"),
            ("nonce", "n"),
            ("code_challenge", challenge.as_str()),
            ("code_challenge_method", "S256"),
            ("prompt", "login"),
            ("max_age", "300"),
            ("acr_values", "mfa otp"),
        ]
    );
    let tokens = exchanged(&client).await.unwrap();
    assert_eq!(
        (tokens.claims.subject.as_str(), tokens.refresh.as_ref().unwrap().expose().as_str()),
        ("ann", "refresh")
    );
    let asked = fake.last("/token");
    for (name, value) in [
        ("grant_type", Some("authorization_code")),
        ("code", Some("code")),
        ("redirect_uri", Some(REDIRECT)),
        ("code_verifier", Some(VERIFIER)),
        ("client_id", None),
        ("client_secret", None),
    ] {
        assert_eq!(field(&asked, name).as_deref(), value, "{name}");
    }
    // RFC 6749, section 2.3.1: both are encoded as in a form before they are joined.
    let pair = base64::engine::general_purpose::STANDARD.encode("um+bra:s%3A%C3%A4");
    assert_eq!(asked.headers["authorization"].to_str().unwrap(), format!("Basic {pair}"));
    let text = format!("{client:?} {tokens:?} {:?}", client.provider());
    assert!(!text.contains("s:ä") && !text.contains("refresh\"") && !text.contains("access\""), "{text}");
    assert_eq!((fake.times("/jwks"), fake.times("/realm/.well-known/openid-configuration")), (1, 1));
}

#[tokio::test]
async fn we_say_who_we_are_in_a_way_that_the_provider_knows() {
    let methods = "token_endpoint_auth_methods_supported";
    let fake = Fake::start().await;
    fake.state().metadata[methods] = json!(["private_key_jwt", "client_secret_post"]);
    exchanged(&fake.client()).await.unwrap();
    let asked = fake.last("/token");
    assert_eq!(field(&asked, "client_id").as_deref(), Some("um bra"));
    assert_eq!(field(&asked, "client_secret").as_deref(), Some("s:ä"));
    assert!(!asked.headers.contains_key("authorization"));

    fake.state().codes.push("code".to_owned());
    fake.state().metadata[methods] = json!(["private_key_jwt"]);
    assert_eq!(exchanged(&fake.client()).await.err(), Some(OidcError::ClientAuthentication));
    let public = Provider { client_secret: None, ..fake.provider() };
    exchanged(&fake.client_of(public)).await.unwrap();
    let asked = fake.last("/token");
    assert_eq!(field(&asked, "client_id").as_deref(), Some("um bra"));
    assert!(field(&asked, "client_secret").is_none() && !asked.headers.contains_key("authorization"));
}

#[tokio::test]
async fn metadata_is_believed_only_of_the_issuer_itself_and_with_secure_endpoints() {
    let metadata = |name: &'static str, value: Value| wrong(move |fake| fake.state().metadata[name] = value);
    for told in ["https://evil.example", "", "\u{202e}"] {
        let why = metadata("issuer", json!(told)).await;
        assert!(matches!(&why, OidcError::OtherIssuer { .. }) && !why.to_string().contains('\u{202e}'), "{why}");
    }
    let why = wrong(|fake| {
        let slash = format!("{}/", fake.state().issuer);
        fake.state().metadata["issuer"] = slash.into();
    });
    assert!(matches!(why.await, OidcError::OtherIssuer { .. }));
    for name in
        ["authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint", "device_authorization_endpoint"]
    {
        for url in ["http://idp.example/x", "https://user@idp.example/", "ftp://x", ""] {
            let why = metadata(name, json!(url)).await;
            assert!(matches!(why, OidcError::Endpoint(held, _) if held == name), "{name} {url}: {why}");
        }
    }
    assert!(matches!(metadata("token_endpoint", Value::Null).await, OidcError::Endpoint("token_endpoint", _)));
    assert!(matches!(metadata("jwks_uri", json!(7)).await, OidcError::Endpoint("jwks_uri", _)));
    assert_eq!(metadata("code_challenge_methods_supported", json!(["plain"])).await, OidcError::Pkce);
    let fake = Fake::start().await;
    fake.state().metadata.as_object_mut().unwrap().remove("code_challenge_methods_supported");
    assert!(exchanged(&fake.client()).await.is_ok(), "some do not list them");
    // An endpoint in the metadata is no way around the check of addresses.
    let why = wrong(|fake| {
        let provider = format!("https://169.254.169.254:{}/", fake.server.address.port());
        fake.state().metadata["jwks_uri"] = provider.into();
    });
    // The tests' resolver says 127.0.0.1 of everything, whose certificate names no such host.
    assert!(matches!(why.await, OidcError::Fetch(FetchError::Tls { .. })));
}

const METADATA: &str = "/realm/.well-known/openid-configuration";

#[tokio::test]
async fn a_server_that_misbehaves_is_told_apart() {
    for path in [METADATA, "/jwks", "/token"] {
        let redirect = wrong(|fake| {
            fake.instead(path, |_| {
                let moved = http::Response::builder().status(302).header("location", "https://idp.example/?s=s3cret");
                Some(moved.body(String::new()).unwrap())
            });
        });
        let why = redirect.await;
        assert!(matches!(why, OidcError::Fetch(FetchError::Redirect { status: 302, .. })), "{path}: {why}");
        assert!(!why.to_string().contains("s3cret"));
        let huge = wrong(|fake| fake.instead(path, |_| json(&json!({"x": "x".repeat(FETCH_BODY_MAX)})))).await;
        assert!(matches!(huge, OidcError::Fetch(FetchError::Large { .. })), "{path}: {huge}");
        let down = wrong(|fake| fake.instead(path, |_| status(503, &json!({"error": "invalid_grant"})))).await;
        assert!(matches!(down, OidcError::Status(_, 503)) && down.is_unreachable(), "{path}: {down}");
        let page = wrong(|fake| {
            fake.instead(path, |_| Some(http::Response::new("<html>\u{1b}".to_owned())));
        });
        let why = page.await;
        assert!(matches!(why, OidcError::Form(..) | OidcError::Keys(_)), "{path}: {why}");
        let twice = r#"{"issuer":"a","issuer":"b","keys":[],"keys":[]}"#;
        let twice = wrong(|fake| fake.instead(path, move |_| Some(http::Response::new(twice.to_owned())))).await;
        assert!(matches!(twice, OidcError::Form(..) | OidcError::Keys(_)), "{path}: {twice}");
        let person = [redirect_for_person(), huge.for_person(), down.for_person()];
        assert!(person.iter().all(|text| text.contains("cannot be reached")));
    }
}

fn redirect_for_person() -> &'static str {
    OidcError::Fetch(FetchError::Redirect { host: String::new(), status: 302 }).for_person()
}

#[tokio::test]
async fn a_provider_that_never_answers_is_given_up() {
    let fake = Fake::start().await;
    let (told, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    fake.instead("/token", move |_| {
        told.send(()).unwrap();
        None
    });
    let client = Arc::new(fake.client());
    let under_way = tokio::spawn({
        let client = Arc::clone(&client);
        async move { exchanged(&client).await }
    });
    arrived.recv().await.unwrap();
    tokio::time::pause();
    let why = under_way.await.unwrap().err().unwrap();
    assert!(matches!(why, OidcError::Fetch(FetchError::Time { .. })), "{why}");
}

#[tokio::test]
async fn an_id_token_must_be_signed_by_the_provider_and_answer_this_log_in() {
    let claim = |name: &'static str, value: Value| {
        wrong(move |fake| match value {
            Value::Null => _ = fake.state().claims.as_object_mut().unwrap().remove(name),
            value => fake.state().claims[name] = value,
        })
    };
    assert_eq!(claim("nonce", json!("other")).await, OidcError::Nonce);
    assert_eq!(claim("nonce", Value::Null).await, OidcError::Nonce);
    assert_eq!(claim("exp", Value::Null).await, OidcError::Token(TokenError::Claim("exp")));
    assert_eq!(claim("exp", json!(NOW - 1)).await, OidcError::Token(TokenError::Expired));
    assert_eq!(claim("aud", json!("other")).await, OidcError::Token(TokenError::Audience));
    let why = claim("iss", json!("https://evil.example")).await;
    assert!(matches!(why, OidcError::Token(TokenError::Issuer)), "{why}");
    let why = wrong(|fake| {
        let forged = Signer::new("first", "ES256").token(&fake.state().claims);
        fake.state().tokens["id_token"] = forged.into();
    });
    assert_eq!(why.await, OidcError::Token(TokenError::Signature));
    let why =
        wrong(|fake| fake.instead("/token", |_| json(&json!({"access_token": "a", "token_type": "Bearer"})))).await;
    assert_eq!(why, OidcError::NoIdToken);
    let why = wrong(|fake| fake.state().tokens["token_type"] = json!("mac")).await;
    assert!(matches!(why, OidcError::Form(Asked::Token, _)), "{why}");
    let why = wrong(|fake| fake.state().tokens["refresh_token"] = json!(7)).await;
    assert!(matches!(why, OidcError::Form(Asked::Token, _)), "{why}");
    // No nonce of ours is not a nonce that fits.
    let fake = Fake::start().await;
    fake.state().claims["nonce"] = json!("");
    let none = fake.client().exchange(&secret("code"), &secret(VERIFIER), REDIRECT, "").await;
    assert_eq!(none.err(), Some(OidcError::Nonce));
}

#[tokio::test]
async fn a_code_works_once_and_with_its_own_provider() {
    let (one, other) = (Fake::start().await, Fake::start().await);
    one.state().codes = vec!["of-one".to_owned()];
    other.state().codes = vec!["of-other".to_owned()];
    let (at_one, at_other) = (one.client(), other.client());
    let exchange = async |client: &Client, code| client.exchange(&secret(code), &secret(VERIFIER), REDIRECT, "n").await;
    for (client, code) in [(&at_one, "of-other"), (&at_other, "of-one")] {
        let why = exchange(client, code).await.err().unwrap();
        assert!(matches!(&why, OidcError::Refused { error, .. } if error == "invalid_grant"), "{why}");
    }
    assert!(exchange(&at_one, "of-one").await.is_ok());
    let why = exchange(&at_one, "of-one").await.err().unwrap();
    assert!(why.to_string().ends_with("refuses: invalid_grant (Code not valid\\u{1b}[2J)"), "{why}");
    assert!(why.for_person().contains("refused the log-in"));
    // A provider that gives out another's token.
    let foreign = {
        let held = other.state();
        held.keys[0].token(&held.claims)
    };
    one.state().tokens["id_token"] = foreign.into();
    one.state().codes.push("again".to_owned());
    let why = exchange(&at_one, "again").await.err().unwrap();
    assert_eq!(why, OidcError::Token(TokenError::Signature), "its key has the same id");
    // The answer that the browser brings says from whom it is.
    let (one, other) = (one.state().issuer.clone(), other.state().issuer.clone());
    assert_eq!(at_one.check_answer(Some(&one)).await, Ok(()));
    assert_eq!(at_one.check_answer(Some(&other)).await, Err(OidcError::AnswerIssuer(other)));
    assert_eq!(at_one.check_answer(None).await, Err(OidcError::AnswerIssuer("nobody".to_owned())));
}

#[tokio::test]
async fn a_provider_that_does_not_name_itself_in_answers_need_not() {
    let fake = Fake::start().await;
    fake.state().metadata.as_object_mut().unwrap().remove("authorization_response_iss_parameter_supported");
    let client = fake.client();
    assert_eq!(client.check_answer(None).await, Ok(()));
    assert!(client.check_answer(Some("https://evil.example")).await.is_err());
}

#[tokio::test]
async fn new_keys_are_asked_for_when_one_is_not_known_and_not_by_everybody() {
    let fake = Fake::start().await;
    let client = fake.client();
    let log_in = async || {
        fake.state().codes.push("code".to_owned());
        exchanged(&client).await
    };
    log_in().await.unwrap();
    let rotate = |id: &str| fake.state().keys = vec![Arc::new(Signer::new(id, "EdDSA"))];
    rotate("second");
    log_in().await.unwrap();
    assert_eq!(fake.times("/jwks"), 2);
    // Again within the minute: somebody could invent one key after the other.
    rotate("third");
    for _ in 0..3 {
        assert_eq!(log_in().await.err(), Some(OidcError::Token(TokenError::Key)));
    }
    assert_eq!(fake.times("/jwks"), 2);
    fake.clock.forward(PROVIDER_KEYS_EVERY);
    log_in().await.unwrap();
    assert_eq!(fake.times("/jwks"), 3);
    fake.clock.forward(PROVIDER_CACHE_LIFE - Duration::from_secs(1) - PROVIDER_KEYS_EVERY);
    log_in().await.unwrap();
    assert_eq!((fake.times("/jwks"), fake.times(METADATA)), (3, 1));
    fake.clock.forward(PROVIDER_KEYS_EVERY + Duration::from_secs(1));
    log_in().await.unwrap();
    assert_eq!((fake.times("/jwks"), fake.times(METADATA)), (4, 2));
}

#[tokio::test]
async fn a_provider_that_failed_is_left_alone_for_a_moment() {
    let fake = Fake::start().await;
    let client = fake.client();
    fake.instead(METADATA, |_| status(500, &Value::Null));
    let down = OidcError::Status(Asked::Metadata, 500);
    for _ in 0..5 {
        assert_eq!(client.metadata().await.err(), Some(down.clone()));
    }
    assert_eq!(fake.times(METADATA), 1);
    fake.state().instead = None;
    fake.clock.forward(PROVIDER_FAILED_LIFE);
    assert!(client.metadata().await.is_ok());
}

#[tokio::test]
async fn a_provider_that_cannot_be_one_is_refused() {
    let fake = Fake::start().await;
    let made = |change: &dyn Fn(&mut Provider)| {
        let mut provider = fake.provider();
        change(&mut provider);
        let clock: Arc<dyn Clock> = Arc::<fake::Hands>::clone(&fake.clock);
        Client::new(provider, crate::fetch::test_server::pool(), Arc::new(Says(vec![])), clock).map(|_| ())
    };
    for issuer in
        ["", "http://idp.example", "https://a@idp.example", "https://idp.example/?a", "https://idp.example/#a"]
    {
        let why = made(&|provider| provider.issuer = issuer.to_owned()).unwrap_err();
        assert!(matches!(why, OidcError::IssuerUrl(_)), "{issuer}: {why}");
    }
    for scope in ["", "a b", "a\"", "a\\", "ä", "a\n"] {
        assert_eq!(made(&|provider| provider.scopes.push(scope.to_owned())), Err(OidcError::Scopes), "{scope}");
    }
    let scopes = |count: usize| made(&move |provider| provider.scopes = vec!["a".to_owned(); count]);
    assert_eq!((scopes(PROVIDER_SCOPES_MAX), scopes(PROVIDER_SCOPES_MAX + 1)), (Ok(()), Err(OidcError::Scopes)));
    let why = made(&|provider| provider.ca_pem = Some("none".to_owned())).unwrap_err();
    assert!(matches!(why, OidcError::Fetch(FetchError::CaPem(_))), "{why}");
}

#[tokio::test]
async fn what_a_provider_writes_is_cut_and_escaped() {
    let long = "x".repeat(PROVIDER_TEXT_CHARS_MAX + 1);
    let said = json!({"error": "invalid_client\u{1b}", "error_description": long});
    let why = wrong(|fake| fake.instead("/token", move |_| status(401, &said))).await.to_string();
    assert!(why.contains("invalid_client\\u{1b}") && why.ends_with(&format!("{} ...)", &long[1..])), "{why}");
}
