//! Is a token believed that a rule means, and no other?

use super::*;
use crate::directory::KeySource;
use crate::fetch::test_server::{Asked, Said, Says, Server, here, json, pool, status};
use crate::test_support::Still;
use crate::token::test_keys::{Signer, b64, jwks};
use model::ids::AccountId;
use model::limits::{PROVIDER_CACHE_LIFE, PROVIDER_FAILED_LIFE, PROVIDER_KEYS_EVERY, TOKEN_SKEW};
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub const ISSUER: &str = "https://ci.example";
pub const AUDIENCE: &str = "umbra.corp.example";
pub const SUBJECT: &str = "repo:org/app:ref:refs/heads/main";
/// When [`Still`] stands at nothing, in seconds.
const NOW: i64 = 1_700_000_000;

/// A rule of this issuer, which trusts these keys.
pub fn rule(keys: &[&Signer]) -> Trust {
    Trust {
        id: JoinKeyId::from_bytes([8; 10]),
        name: "ci".parse().unwrap(),
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        subject: SUBJECT.parse().unwrap(),
        claims: BTreeMap::new(),
        account: AccountId::from_bytes([6; 10]),
        keys: KeySource::Given(jwks(keys).to_string()),
        ephemeral: true,
        restored: false,
        enrol_hash: [0; 32],
        created: WallMs(1),
    }
}

/// What a good token says, with this number.
pub fn good(now: WallMs, number: &str) -> Value {
    let now = now.0 / 1_000;
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": SUBJECT, "iat": now, "nbf": now, "exp": now + 300, "jti": number,
           "repository": "org/app", "runner": {"environment": "self-hosted"}, "protected": true, "attempt": 3,
           "kubernetes.io": {"namespace": "prod"}})
}

fn machine(number: u8) -> PublicKey {
    PublicKey([number; 32])
}

struct Bench {
    federation: Federation,
    clock: Still,
    signer: Signer,
    trust: Trust,
    /// The next machine: none has too many tries.
    next: std::sync::atomic::AtomicU8,
}

impl Bench {
    fn new() -> Self {
        let signer = Signer::new("one", "RS256");
        let trust = rule(&[&signer]);
        let federation = Federation::new(Arc::new(Says(vec!["127.0.0.1"])));
        Self { federation, clock: Still::default(), signer, trust, next: 0.into() }
    }
    async fn show(&self, token: &str) -> Result<Believed, NotTrusted> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let shown = Secret::new(token.to_owned());
        self.federation.believe(&self.clock, pool(), &self.trust, machine(number), &shown).await
    }
    /// A good token whose claim is set to this, or left out.
    async fn with(&self, name: &str, value: Option<Value>) -> Result<Believed, NotTrusted> {
        let mut claims = good(self.clock.wall(), "n");
        match value {
            Some(value) => claims[name] = value,
            None => drop(claims.as_object_mut().unwrap().remove(name)),
        }
        self.show(&self.signer.token(&claims)).await
    }
    async fn refused(&self, token: &str) -> NotTrusted {
        self.show(token).await.unwrap_err()
    }
}

#[tokio::test]
async fn a_token_that_the_rule_means_is_believed_under_each_algorithm() {
    let mut bench = Bench::new();
    for algorithm in ["RS256", "PS256", "ES256", "ES384", "EdDSA"] {
        bench.signer = Signer::new("one", algorithm);
        bench.trust = rule(&[&bench.signer]);
        let believed = bench.with("runner", None).await.unwrap_or_else(|e| panic!("{algorithm}: {e}"));
        assert_eq!((believed.subject.as_str(), believed.expires), (SUBJECT, WallMs((NOW + 300) * 1_000)));
    }
}

#[tokio::test]
async fn no_forged_altered_or_misdirected_token_lets_a_workload_in() {
    let bench = Bench::new();
    let plain = good(bench.clock.wall(), "n").to_string();
    let token = |header: &str| bench.signer.token_of(header, &plain);
    // Algorithms: none at all, a shared secret made of the public key, another than the key's.
    for header in [r#"{"alg":"none"}"#, r#"{"alg":"None","kid":"one"}"#, r#"{"alg":"HS256","kid":"one"}"#, "{}"] {
        assert_eq!(bench.refused(&token(header)).await, TokenError::Algorithm.into(), "{header}");
    }
    let message = format!("{}.{}", b64(r#"{"alg":"none"}"#), b64(&plain));
    assert!(matches!(bench.refused(&format!("{message}.")).await, NotTrusted::Token(_)), "no signature");
    let hmac = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, bench.signer.jwk().to_string().as_bytes());
    let message = format!("{}.{}", b64(r#"{"alg":"HS256","kid":"one"}"#), b64(&plain));
    let forged = format!("{message}.{}", b64(aws_lc_rs::hmac::sign(&hmac, message.as_bytes())));
    assert_eq!(bench.refused(&forged).await, TokenError::Algorithm.into());
    assert_eq!(bench.refused(&token(r#"{"alg":"PS256","kid":"one"}"#)).await, TokenError::Key.into());
    // Keys: of nobody, of somebody else under the same id, out of the token itself.
    for header in [r#"{"alg":"RS256","kid":"two"}"#, r#"{"alg":"RS256","kid":1}"#] {
        assert_eq!(bench.refused(&token(header)).await, TokenError::Key.into(), "{header}");
    }
    let stranger = Signer::new("one", "RS256");
    let theirs = stranger.token(&good(bench.clock.wall(), "n"));
    assert_eq!(bench.refused(&theirs).await, TokenError::Signature.into());
    let brought = json!({"alg": "RS256", "kid": "one", "jwk": stranger.jwk()}).to_string();
    assert_eq!(bench.refused(&stranger.token_of(&brought, &plain)).await, TokenError::Header("jwk").into());
    for name in ["jku", "x5u", "x5c", "crit", "b64", "zip"] {
        let header = json!({"alg": "RS256", "kid": "one", name: ["exp"]}).to_string();
        assert_eq!(bench.refused(&token(&header)).await, TokenError::Header(name).into());
    }
    for sort in ["at+jwt", "logout+jwt", "secevent+jwt"] {
        let header = json!({"alg": "RS256", "kid": "one", "typ": sort}).to_string();
        assert_eq!(bench.refused(&token(&header)).await, TokenError::Header("typ").into());
    }
    // Altered, cut, doubled, or nothing of the kind.
    let whole = token(r#"{"alg":"RS256","kid":"one"}"#);
    let mut parts: Vec<&str> = whole.split('.').collect();
    let other = b64(plain.replace("org/app", "org/abc"));
    parts[1] = &other;
    assert_eq!(bench.refused(&parts.join(".")).await, TokenError::Signature.into());
    let doubled = bench.signer.token_of(r#"{"alg":"RS256","kid":"one"}"#, &format!("{{\"sub\":\"x\",{}", &plain[1..]));
    assert_eq!(bench.refused(&doubled).await, TokenError::Json("payload").into());
    for cut in [&whole[..whole.len() - 2], "a.b", "a.b.c", "x", "....", "{}"] {
        assert!(matches!(bench.refused(cut).await, NotTrusted::Token(_)), "{cut}");
    }
    assert_eq!(bench.refused("").await, NotTrusted::None);
    assert_eq!(bench.refused(&"x".repeat(IDENTITY_TOKEN_MAX + 1)).await, NotTrusted::Large);
    assert!(matches!(bench.refused(&"x".repeat(IDENTITY_TOKEN_MAX)).await, NotTrusted::Token(_)));
    assert!(bench.show(&whole).await.is_ok());
}

#[tokio::test]
async fn no_token_of_another_issuer_audience_time_or_subject_lets_a_workload_in() {
    let bench = Bench::new();
    let skew = i64::try_from(TOKEN_SKEW.as_secs()).unwrap();
    let life = i64::try_from(IDENTITY_TOKEN_LIFE_MAX.as_secs()).unwrap();
    let subject = |text: &str| NotTrusted::Subject(text.to_owned());
    let cases: Vec<(&str, Option<Value>, NotTrusted)> = vec![
        ("iss", Some(json!("https://ci.example/")), TokenError::Issuer.into()),
        ("iss", Some(json!("https://evil.example")), TokenError::Issuer.into()),
        ("iss", None, TokenError::Issuer.into()),
        ("aud", Some(json!("sts.example")), TokenError::Audience.into()),
        ("aud", Some(json!([AUDIENCE, "other"])), TokenError::Party.into()),
        ("aud", None, TokenError::Claim("aud").into()),
        ("exp", Some(json!(NOW)), TokenError::Expired.into()),
        ("exp", Some(json!(NOW - 3_600)), TokenError::Expired.into()),
        ("exp", None, TokenError::Claim("exp").into()),
        ("exp", Some(json!(NOW + life + 1)), NotTrusted::Life),
        ("iat", Some(json!(NOW + 300 - life - 1)), NotTrusted::Life),
        ("nbf", Some(json!(NOW + skew + 1)), TokenError::Early.into()),
        ("iat", Some(json!(NOW + skew + 1)), TokenError::Early.into()),
        ("sub", Some(json!("repo:org/app-evil:ref:refs/heads/main")), subject("repo:org/app-evil:ref:refs/heads/main")),
        ("sub", Some(json!("repo:org/app:ref:refs/heads/main2")), subject("repo:org/app:ref:refs/heads/main2")),
        ("sub", Some(json!("repo:org/app:pull_request")), subject("repo:org/app:pull_request")),
        ("sub", Some(json!("")), TokenError::Claim("sub").into()),
        ("sub", None, TokenError::Claim("sub").into()),
    ];
    for (name, value, why) in cases {
        assert_eq!(bench.with(name, value.clone()).await, Err(why), "{name}: {value:?}");
    }
    assert!(bench.with("exp", Some(json!(NOW + life))).await.is_ok());
    assert!(bench.with("aud", Some(json!([AUDIENCE]))).await.is_ok());
    // What a stranger may have written into a subject is shown escaped.
    let odd = bench.with("sub", Some(json!("a\u{202e}b"))).await.unwrap_err().to_string();
    assert!(odd.contains("\\u{202e}") && !odd.contains('\u{202e}'), "{odd}");
}

#[tokio::test]
async fn further_claims_have_to_be_there_with_this_very_value() {
    let mut bench = Bench::new();
    for (path, value, holds) in [
        ("repository", "org/app", true),
        ("repository", "org/ap", false),
        ("repository", "ORG/APP", false),
        ("runner.environment", "self-hosted", true),
        ("/runner/environment", "self-hosted", true),
        ("/kubernetes.io/namespace", "prod", true),
        ("kubernetes.io.namespace", "prod", false),
        ("protected", "true", true),
        ("protected", "1", false),
        ("attempt", "3", true),
        ("attempt", "3.0", false),
        ("runner", "self-hosted", false),
        ("nothing", "", false),
        ("/", "x", false),
    ] {
        bench.trust.claims = [(path.to_owned(), value.to_owned())].into();
        let found = bench.with("runner2", None).await;
        assert_eq!(found.is_ok(), holds, "{path}={value}");
        assert!(holds || found == Err(NotTrusted::Claim(path.to_owned())));
    }
    // A list that has the value among others is another value.
    bench.trust.claims = [("repository".to_owned(), "org/app".to_owned())].into();
    assert!(bench.with("repository", Some(json!(["org/app", "org/evil"]))).await.is_err());
    assert!(bench.with("repository", None).await.is_err());
}

#[tokio::test]
async fn a_token_has_one_number_however_it_is_signed_again() {
    let mut bench = Bench::new();
    bench.signer = Signer::new("one", "ES256");
    bench.trust = rule(&[&bench.signer]);
    let mut claims = good(bench.clock.wall(), "n");
    claims.as_object_mut().unwrap().remove("jti");
    // Signatures of this kind differ each time: what was signed does not.
    let (first, second) = (bench.signer.token(&claims), bench.signer.token(&claims));
    assert_ne!(first, second);
    assert_eq!(bench.show(&first).await.unwrap().number, bench.show(&second).await.unwrap().number);
    let number = async |jti: &str| bench.with("jti", Some(json!(jti))).await.unwrap().number;
    assert_ne!(number("a").await, number("b").await);
    // One number of an issuer's in two tokens is one token.
    let later = bench.show(&bench.signer.token(&json!({"x": 1}))).await;
    assert!(later.is_err());
    let mut again = good(bench.clock.wall(), "a");
    again["attempt"] = json!(4);
    assert_eq!(bench.show(&bench.signer.token(&again)).await.unwrap().number, number("a").await);
    // Two issuers count apart.
    let other = Claims { issuer: "https://other.example".to_owned(), ..claims_of(&again) };
    assert_ne!(super::number(&other, "t"), super::number(&claims_of(&again), "t"));
}

fn claims_of(all: &Value) -> Claims {
    Claims {
        issuer: ISSUER.to_owned(),
        subject: SUBJECT.to_owned(),
        expires: WallMs(0),
        issued: None,
        nonce: None,
        auth_time: None,
        acr: None,
        amr: Vec::new(),
        all: crate::token::ClaimSet(all.as_object().unwrap().clone()),
    }
}

#[tokio::test]
async fn one_machine_guesses_a_few_times_a_minute_and_takes_nobody_elses_turn() {
    let bench = Bench::new();
    let show = async |number: u8, token: &str| {
        let shown = Secret::new(token.to_owned());
        bench.federation.believe(&bench.clock, pool(), &bench.trust, machine(number), &shown).await
    };
    for _ in 0..IDENTITY_TRIES_MAX {
        assert!(matches!(show(1, "guess").await, Err(NotTrusted::Token(_))));
    }
    let right = bench.signer.token(&good(bench.clock.wall(), "n"));
    assert_eq!(show(1, &right).await, Err(NotTrusted::Tries), "a right one is not told apart");
    assert!(show(2, &right).await.is_ok());
    bench.clock.0.store(u64::try_from(PROVISIONAL_LIFE.as_nanos()).unwrap(), Ordering::Relaxed);
    assert!(show(1, &right).await.is_ok());
    for n in 0..2 * PROVISIONAL_MAX {
        let mut key = [7; 32];
        key[..8].copy_from_slice(&(n as u64).to_le_bytes());
        let _ = bench.federation.count(bench.clock.now(), PublicKey(key));
    }
    assert!(lock(&bench.federation.tries).len() <= PROVISIONAL_MAX);
}

/// An issuer that is asked for its keys.
struct Issuer {
    server: Server,
    keys: Arc<Mutex<Vec<Signer>>>,
    metadata: Arc<Mutex<Value>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Issuer {
    async fn start() -> Self {
        let keys: Arc<Mutex<Vec<Signer>>> = Arc::new(Mutex::new(vec![Signer::new("first", "ES256")]));
        let (metadata, asked) = (Arc::new(Mutex::new(Value::Null)), Arc::new(Mutex::new(Vec::new())));
        let (held, told, heard) = (Arc::clone(&keys), Arc::clone(&metadata), Arc::clone(&asked));
        let answer = move |asked: Asked| -> Said {
            heard.lock().unwrap().push(asked.target.clone());
            match asked.target.as_str() {
                "/.well-known/openid-configuration" => json(&told.lock().unwrap()),
                "/keys" => json(&jwks(&held.lock().unwrap().iter().collect::<Vec<_>>())),
                _ => status(404, &Value::Null),
            }
        };
        let server = Server::start(answer).await;
        // As orchestrators do: no place to log in.
        *metadata.lock().unwrap() = json!({"issuer": server.url(""), "jwks_uri": server.url("/keys")});
        Self { server, keys, metadata, asked }
    }
    fn rule(&self) -> Trust {
        let keys = KeySource::Discovery { ca_pem: Some(self.server.pem.clone()), allow: here() };
        Trust { issuer: self.server.url(""), keys, ..rule(&[]) }
    }
    fn token(&self, at: usize, now: WallMs, number: &str) -> String {
        let mut claims = good(now, number);
        claims["iss"] = self.server.url("").into();
        self.keys.lock().unwrap()[at].token(&claims)
    }
    fn times(&self) -> usize {
        self.asked.lock().unwrap().iter().filter(|target| *target == "/keys").count()
    }
}

#[tokio::test]
async fn an_issuer_is_asked_for_its_keys_and_again_for_an_unknown_one_within_bounds() {
    let issuer = Issuer::start().await;
    let bench = Bench { trust: issuer.rule(), ..Bench::new() };
    let later = |by: Duration| bench.clock.0.fetch_add(u64::try_from(by.as_nanos()).unwrap(), Ordering::Relaxed);
    for n in 0..3 {
        bench.show(&issuer.token(0, bench.clock.wall(), &n.to_string())).await.unwrap();
    }
    assert_eq!(issuer.times(), 1, "what is known is not asked again");
    // New keys: the first token with one has them fetched.
    issuer.keys.lock().unwrap().insert(0, Signer::new("second", "ES256"));
    bench.show(&issuer.token(0, bench.clock.wall(), "a")).await.unwrap();
    assert_eq!(issuer.times(), 2);
    // Whoever invents keys has nobody asked without end.
    let stranger = Signer::new("third", "ES256");
    let mut claims = good(bench.clock.wall(), "b");
    claims["iss"] = bench.trust.issuer.clone().into();
    for _ in 0..20 {
        assert_eq!(bench.refused(&stranger.token(&claims)).await, TokenError::Key.into());
    }
    assert_eq!(issuer.times(), 2);
    later(PROVIDER_KEYS_EVERY);
    for _ in 0..20 {
        assert_eq!(bench.refused(&stranger.token(&claims)).await, TokenError::Key.into());
    }
    assert_eq!(issuer.times(), 3);
    // A key that the issuer took back is believed for as long as what was learnt, no longer.
    let old = issuer.keys.lock().unwrap().pop().unwrap();
    later(PROVIDER_CACHE_LIFE);
    let mut claims = good(bench.clock.wall(), "c");
    claims["iss"] = bench.trust.issuer.clone().into();
    assert_eq!(bench.refused(&old.token(&claims)).await, TokenError::Key.into());
}

#[tokio::test]
async fn an_issuer_that_is_silent_or_another_lets_nobody_in_and_is_not_asked_by_everybody() {
    let issuer = Issuer::start().await;
    let bench = Bench { trust: issuer.rule(), ..Bench::new() };
    let token = || issuer.token(0, bench.clock.wall(), "n");
    let right = issuer.metadata.lock().unwrap().clone();
    for (told, why) in [
        (json!({"issuer": "https://other.example", "jwks_uri": issuer.server.url("/keys")}), "is that of"),
        (json!({"issuer": issuer.server.url("/"), "jwks_uri": issuer.server.url("/keys")}), "is that of"),
        (json!({"issuer": issuer.server.url("")}), "`jwks_uri`"),
        (json!({"issuer": issuer.server.url(""), "jwks_uri": "http://idp.example/keys"}), "`jwks_uri`"),
        (json!({"issuer": issuer.server.url(""), "jwks_uri": issuer.server.url("/none")}), "status 404"),
        (json!([]), "`issuer`"),
    ] {
        *issuer.metadata.lock().unwrap() = told.clone();
        let refused = bench.refused(&token()).await;
        assert!(refused.to_string().contains(why), "{told}: {refused}");
        let before = issuer.asked.lock().unwrap().len();
        assert_eq!(bench.refused(&token()).await, refused, "whoever waits behind it has the same answer");
        assert_eq!(issuer.asked.lock().unwrap().len(), before);
        bench.clock.0.fetch_add(u64::try_from(PROVIDER_FAILED_LIFE.as_nanos()).unwrap(), Ordering::Relaxed);
    }
    *issuer.metadata.lock().unwrap() = right;
    assert!(bench.show(&token()).await.is_ok());
    // An address that is never asked, where nobody opened it.
    let mut closed = bench.trust.clone();
    closed.keys = KeySource::Discovery { ca_pem: Some(issuer.server.pem.clone()), allow: Vec::new() };
    let bench = Bench { trust: closed, ..Bench::new() };
    let refused = bench.refused(&token()).await;
    assert!(refused.to_string().contains("never asked"), "{refused}");
    assert!(refused.for_person().contains("try again later") && !refused.for_person().contains("127.0.0.1"));
}

#[tokio::test]
async fn sources_are_kept_for_so_many_rules_and_follow_a_rule_that_is_made_anew() {
    let bench = Bench::new();
    let token = bench.signer.token(&good(bench.clock.wall(), "n"));
    assert!(bench.show(&token).await.is_ok());
    let stranger = Signer::new("one", "RS256");
    let anew = Bench { trust: rule(&[&stranger]), ..bench };
    assert_eq!(anew.refused(&token).await, TokenError::Signature.into(), "of the same id, with other keys");
    for n in 0..=TRUSTS_MAX {
        let mut id = [0; 10];
        id[..8].copy_from_slice(&(n as u64).to_be_bytes());
        anew.federation.source(&Trust { id: JoinKeyId::from_bytes(id), ..anew.trust.clone() }, pool()).unwrap();
    }
    assert_eq!(lock(&anew.federation.sources).len(), TRUSTS_MAX);
}

#[test]
fn people_are_told_one_clear_word_and_nothing_of_the_rule() {
    let cases = [
        (NotTrusted::Token(TokenError::Expired), "fresh one"),
        (NotTrusted::Used, "used already"),
        (NotTrusted::None, "--token-file"),
        (NotTrusted::Subject("repo:org/secret".to_owned()), "audit trail"),
        (NotTrusted::Claim("secret".to_owned()), "audit trail"),
        (NotTrusted::Token(TokenError::Audience), "audit trail"),
        (NotTrusted::Account, "audit trail"),
        (NotTrusted::Restored, "audit trail"),
    ];
    for (why, part) in cases {
        let told = why.for_person();
        assert!(told.contains(part) && !told.contains("secret"), "{told}");
    }
}
