//! Refreshing, userinfo, and device codes.

use super::*;
use model::limits::{DEVICE_CODE_LIFE_MAX, DEVICE_POLL_MAX};

/// A refresh with a provider that was changed like this.
async fn refreshed(change: impl FnOnce(&Fake)) -> (Fake, Result<Refreshed, RefreshError>) {
    let fake = Fake::start().await;
    change(&fake);
    let answer = fake.client().refresh(&secret("refresh"), "ann", "sub").await;
    (fake, answer)
}

#[tokio::test]
async fn a_refresh_is_about_the_same_person_or_nothing() {
    let (fake, answer) = refreshed(|_| {}).await;
    let said = answer.unwrap();
    assert_eq!(said.claims.unwrap().subject, "ann");
    assert_eq!((said.refresh.unwrap().expose().as_str(), said.userinfo), ("refresh", None));
    let asked = fake.last("/token");
    assert_eq!(field(&asked, "grant_type").as_deref(), Some("refresh_token"));
    assert_eq!(field(&asked, "refresh_token").as_deref(), Some("refresh"));
    assert!(asked.headers.contains_key("authorization"));

    let (_, other) = refreshed(|fake| fake.state().claims["sub"] = json!("bob")).await;
    assert_eq!(other.err(), Some(RefreshError::Failed(OidcError::Subject(Asked::Token, "bob".to_owned()))));
    let (_, late) = refreshed(|fake| fake.state().claims["exp"] = json!(NOW)).await;
    assert_eq!(late.err(), Some(RefreshError::Failed(OidcError::Token(TokenError::Expired))));
}

#[tokio::test]
async fn without_a_new_id_token_userinfo_tells_of_whom_it_is() {
    fn bare(fake: &Fake) {
        fake.instead("/token", |_| json(&json!({"access_token": "access", "token_type": "bearer"})));
    }
    let (fake, answer) = refreshed(bare).await;
    let said = answer.unwrap();
    assert!(said.claims.is_none() && said.refresh.is_none());
    assert_eq!(said.userinfo.unwrap().list("groups").unwrap(), ["from-userinfo"]);
    assert_eq!(fake.last("/userinfo").headers["authorization"], "Bearer access");
    let (_, other) = refreshed(|fake| {
        bare(fake);
        fake.state().userinfo["sub"] = json!("bob");
    })
    .await;
    assert_eq!(other.err(), Some(RefreshError::Failed(OidcError::Subject(Asked::Userinfo, "bob".to_owned()))));
    let (_, nothing) = refreshed(|fake| {
        bare(fake);
        fake.state().metadata.as_object_mut().unwrap().remove("userinfo_endpoint");
    })
    .await;
    assert_eq!(nothing.err(), Some(RefreshError::Failed(OidcError::NoIdToken)));
}

#[tokio::test]
async fn only_the_providers_own_word_ends_a_log_in() {
    let says = async |code: u16, error: &'static str| {
        let (_, answer) =
            refreshed(|fake| fake.instead("/token", move |_| status(code, &json!({"error": error})))).await;
        answer.err().unwrap()
    };
    assert!(matches!(says(400, "invalid_grant").await, RefreshError::Revoked(_)));
    for (code, error) in [(401, "invalid_client"), (400, "invalid_request"), (400, "unauthorized_client")] {
        assert!(matches!(says(code, error).await, RefreshError::Failed(_)), "{error}");
    }
    for code in [429, 500, 502, 503, 504] {
        assert!(matches!(says(code, "invalid_grant").await, RefreshError::Unreachable(_)), "{code}");
    }
    let fake = Fake::start().await;
    let client = fake.client();
    client.metadata().await.unwrap();
    drop(fake);
    let gone = client.refresh(&secret("refresh"), "ann", "sub").await.err().unwrap();
    assert!(matches!(gone, RefreshError::Unreachable(_)), "{gone}");
}

#[tokio::test]
async fn what_the_id_token_does_not_say_userinfo_does() {
    let fake = Fake::start().await;
    let client = fake.client();
    let mut tokens = exchanged(&client).await.unwrap();
    client.complete(&mut tokens, &["sub"]).await.unwrap();
    assert_eq!(fake.times("/userinfo"), 0);
    client.complete(&mut tokens, &["sub", "groups"]).await.unwrap();
    assert_eq!(
        (tokens.list("groups").unwrap(), tokens.string("email")),
        (vec!["from-userinfo".to_owned()], Some("ann@corp.example"))
    );
    // What the token says itself goes before.
    tokens.claims.all.0.insert("groups".to_owned(), json!(["signed"]));
    assert_eq!(tokens.list("groups").unwrap(), ["signed"]);

    for userinfo in [json!({"sub": "bob", "groups": ["admins"]}), json!({"groups": ["admins"]}), json!({"sub": 7})] {
        let mut tokens = Tokens { userinfo: None, ..tokens_again(&fake, &client).await };
        fake.state().userinfo = userinfo;
        let why = client.complete(&mut tokens, &["groups"]).await.err().unwrap();
        assert!(matches!(why, OidcError::Subject(Asked::Userinfo, _)) && tokens.list("groups").is_none(), "{why}");
    }
    let mut tokens = tokens_again(&fake, &client).await;
    fake.instead("/userinfo", |_| {
        let jwt = http::Response::builder().header("content-type", "application/jwt");
        Some(jwt.body("a.b.c".to_owned()).unwrap())
    });
    let why = client.complete(&mut tokens, &["groups"]).await.err().unwrap();
    assert!(why.to_string().contains("`application/jwt`, not JSON"), "{why}");
}

async fn tokens_again(fake: &Fake, client: &Client) -> Tokens {
    fake.state().codes.push("code".to_owned());
    exchanged(client).await.unwrap()
}

#[tokio::test]
async fn a_device_code_is_polled_until_its_person_answers() {
    let fake = Fake::start().await;
    let client = fake.client();
    let code = client.device_authorization().await.unwrap();
    assert_eq!(field(&fake.last("/device"), "scope").as_deref(), Some("openid profile"));
    assert_eq!((code.user_code.as_str(), code.verification_uri.as_str()), ("ABCD-EFGH", "https://idp.example/device"));
    assert!(code.verification_uri_complete.unwrap().as_str().ends_with("?user_code=ABCD-EFGH"));
    assert_eq!((code.interval, code.expires_in), (Duration::from_secs(5), Duration::from_secs(600)));
    let poll = async |error: &'static str| {
        fake.instead("/token", move |_| status(400, &json!({"error": error})));
        client.device_token(&code.device_code).await
    };
    assert!(matches!(poll("authorization_pending").await, Ok(DevicePoll::Pending)));
    assert!(matches!(poll("slow_down").await, Ok(DevicePoll::SlowDown)));
    assert!(matches!(poll("access_denied").await, Ok(DevicePoll::Denied)));
    assert!(matches!(poll("expired_token").await, Ok(DevicePoll::Expired)));
    assert!(matches!(poll("invalid_grant").await, Err(OidcError::Refused { .. })));
    fake.state().instead = None;
    fake.state().claims.as_object_mut().unwrap().remove("nonce");
    let Ok(DevicePoll::Done(tokens)) = client.device_token(&code.device_code).await else { panic!() };
    assert_eq!(tokens.claims.subject, "ann");
    let asked = fake.last("/token");
    assert_eq!(field(&asked, "grant_type").as_deref(), Some("urn:ietf:params:oauth:grant-type:device_code"));
    assert_eq!(field(&asked, "device_code").as_deref(), Some("device"));
    fake.state().claims["aud"] = json!("other");
    let why = client.device_token(&code.device_code).await.err();
    assert_eq!(why, Some(OidcError::Token(TokenError::Audience)));
}

#[tokio::test]
async fn a_device_code_that_makes_no_sense_is_refused_and_its_times_are_bounded() {
    let fake = Fake::start().await;
    let client = fake.client();
    let good =
        json!({"device_code": "d", "user_code": "U", "verification_uri": "https://idp.example/d", "expires_in": 60});
    let with = async |name: &str, value: Value| {
        let mut said = good.clone();
        said[name] = value;
        fake.instead("/device", move |_| json(&said));
        client.device_authorization().await
    };
    for (name, value) in [
        ("device_code", Value::Null),
        ("device_code", json!("")),
        ("user_code", json!(7)),
        ("user_code", json!("A\u{1b}[2J")),
        ("user_code", json!("A".repeat(PROVIDER_TEXT_CHARS_MAX + 1))),
        ("verification_uri", Value::Null),
        ("verification_uri", json!("http://idp.example/d")),
        ("verification_uri", json!("javascript:alert(1)")),
        ("verification_uri_complete", json!("https://idp.example/\u{202e}")),
        ("expires_in", Value::Null),
        ("expires_in", json!(-1)),
    ] {
        let why = with(name, value).await.err().unwrap();
        assert!(matches!(why, OidcError::Form(Asked::Device, _)), "{name}: {why}");
    }
    let long = with("expires_in", json!(u64::MAX)).await.unwrap();
    assert_eq!(long.expires_in, DEVICE_CODE_LIFE_MAX);
    assert_eq!(with("interval", json!(u64::MAX)).await.unwrap().interval, DEVICE_POLL_MAX);
    assert_eq!(with("interval", json!(0)).await.unwrap().interval, Duration::from_secs(1));
    fake.state().metadata.as_object_mut().unwrap().remove("device_authorization_endpoint");
    let why = fake.client().device_authorization().await.err();
    assert_eq!(why, Some(OidcError::NoDeviceFlow));
}
