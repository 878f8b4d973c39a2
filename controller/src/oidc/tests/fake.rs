//! A provider that says what a test wants it to.

use crate::fetch::test_server::{Asked, Said, Says, Server, here, json, pool, status};
use crate::oidc::{Client, Provider};
use crate::token::test_keys::{Signer, jwks};
use model::secret::Secret;
use model::time::{Clock, Instant, WallMs};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

pub const NOW: i64 = 1_700_000_000;
pub const REDIRECT: &str = "http://127.0.0.1:7777/done";
pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

/// A clock that goes as far as it is set.
#[derive(Debug, Default)]
pub struct Hands(AtomicU64);
impl Hands {
    pub fn forward(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_nanos()).unwrap(), Ordering::SeqCst);
    }
}
impl Clock for Hands {
    fn now(&self) -> Instant {
        Instant(self.0.load(Ordering::SeqCst))
    }
    fn wall(&self) -> WallMs {
        WallMs(NOW * 1_000)
    }
}

/// Answers in place of an endpoint's own.
pub type Instead = Box<dyn Fn(&Asked) -> Said + Send>;

/// What the provider is like. A test changes it as it goes.
pub struct State {
    pub issuer: String,
    pub metadata: Value,
    /// The keys that it publishes; the first of them signs.
    pub keys: Vec<Arc<Signer>>,
    /// What a token says.
    pub claims: Value,
    /// What the token endpoint says, where the ID token is put in.
    pub tokens: Value,
    pub userinfo: Value,
    /// Path and answer.
    pub instead: Option<(&'static str, Instead)>,
    /// Codes that it gave and that are unused.
    pub codes: Vec<String>,
    /// All that was asked.
    pub asked: Vec<Asked>,
}

pub struct Fake {
    pub server: Server,
    pub state: Arc<Mutex<State>>,
    pub clock: Arc<Hands>,
}

impl Fake {
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(State {
            issuer: String::new(),
            metadata: Value::Null,
            keys: vec![Arc::new(Signer::new("first", "ES256"))],
            claims: Value::Null,
            tokens: json!({"access_token": "access", "token_type": "Bearer", "refresh_token": "refresh"}),
            userinfo: json!({"sub": "ann", "groups": ["from-userinfo"], "email": "ann@corp.example"}),
            instead: None,
            codes: vec!["code".to_owned()],
            asked: Vec::new(),
        }));
        let heard = Arc::clone(&state);
        let server = Server::start(move |asked| answer(&mut heard.lock().unwrap(), asked)).await;
        let issuer = server.url("/realm");
        {
            let mut held = state.lock().unwrap();
            held.metadata = json!({
                "issuer": issuer,
                "authorization_endpoint": server.url("/authorize?tenant=a"),
                "token_endpoint": server.url("/token"),
                "jwks_uri": server.url("/jwks"),
                "userinfo_endpoint": server.url("/userinfo"),
                "device_authorization_endpoint": server.url("/device"),
                "code_challenge_methods_supported": ["plain", "S256"],
                "authorization_response_iss_parameter_supported": true,
            });
            held.claims =
                json!({"iss": issuer, "aud": "um bra", "sub": "ann", "exp": NOW + 300, "iat": NOW, "nonce": "n"});
            held.issuer = issuer;
        }
        Self { server, state, clock: Arc::default() }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn provider(&self) -> Provider {
        Provider {
            issuer: self.state().issuer.clone(),
            client_id: "um bra".to_owned(),
            client_secret: Some(Secret::new("s:ä".to_owned())),
            scopes: vec!["openid".to_owned(), "profile".to_owned()],
            ca_pem: Some(self.server.pem.clone()),
            allow: here(),
        }
    }

    pub fn client(&self) -> Client {
        self.client_of(self.provider())
    }

    pub fn client_of(&self, provider: Provider) -> Client {
        let clock: Arc<dyn Clock> = Arc::<Hands>::clone(&self.clock);
        Client::new(provider, pool(), Arc::new(Says(vec!["127.0.0.1"])), clock).unwrap()
    }

    /// How often this path was asked.
    pub fn times(&self, path: &str) -> usize {
        self.state().asked.iter().filter(|asked| asked.target == path).count()
    }
    /// The last request of this path.
    pub fn last(&self, path: &str) -> Asked {
        self.state().asked.iter().rfind(|asked| asked.target == path).unwrap().clone()
    }
    /// From now on this path answers so.
    pub fn instead(&self, path: &'static str, answer: impl Fn(&Asked) -> Said + Send + 'static) {
        self.state().instead = Some((path, Box::new(answer)));
    }
}

/// The form's value of this name.
pub fn field(asked: &Asked, name: &str) -> Option<String> {
    form_urlencoded::parse(asked.body.as_bytes()).find(|(held, _)| held == name).map(|(_, value)| value.into_owned())
}

fn answer(state: &mut State, asked: Asked) -> Said {
    state.asked.push(asked.clone());
    if let Some((_, instead)) = state.instead.as_ref().filter(|(path, _)| *path == asked.target) {
        return instead(&asked);
    }
    match asked.target.as_str() {
        "/realm/.well-known/openid-configuration" => json(&state.metadata),
        "/jwks" => json(&jwks(&state.keys.iter().map(Arc::as_ref).collect::<Vec<_>>())),
        "/userinfo" => json(&state.userinfo),
        "/token" => token(state, &asked),
        "/device" => json(&json!({
            "device_code": "device", "user_code": "ABCD-EFGH", "verification_uri": "https://idp.example/device",
            "verification_uri_complete": "https://idp.example/device?user_code=ABCD-EFGH", "expires_in": 600,
        })),
        _ => status(404, &Value::Null),
    }
}

fn token(state: &mut State, asked: &Asked) -> Said {
    if field(asked, "grant_type").as_deref() == Some("authorization_code") {
        let code = field(asked, "code").unwrap();
        let Some(at) = state.codes.iter().position(|held| *held == code) else {
            return status(400, &json!({"error": "invalid_grant", "error_description": "Code not valid\u{1b}[2J"}));
        };
        state.codes.remove(at);
    }
    let mut tokens = state.tokens.clone();
    if tokens.get("id_token").is_none() {
        tokens["id_token"] = state.keys[0].token(&state.claims).into();
    }
    json(&tokens)
}
