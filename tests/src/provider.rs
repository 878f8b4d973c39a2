//! Who says who people are, in the lab's demonstration? A small identity provider on a network of its own: as much of OpenID Connect
//! (authorization code with PKCE, refresh tokens) as a log-in takes, and people who can be switched off. The tests have a real one.

use crate::issuer::Issuer;
use crate::web::{self, Message};
use anyhow::{Context as _, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What it knows the controller by.
pub const CLIENT: (&str, &str) = ("umbra", "a secret of the lab: 0123456789");
/// How long one connection may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long its ID tokens are good.
const TOKEN_SECONDS: u64 = 300;

/// How it is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The address at which it answers, over HTTPS
    address: IpAddr,
    /// The port
    port: u16,
    /// Where its certificate is written, as PEM
    certificate: PathBuf,
    /// Who there is, as JSON, read anew each time: {"ann": {"groups": ["staff"], "disabled": false}}
    people: PathBuf,
}

/// A code that was given to a browser, once.
struct Code {
    who: String,
    redirect: String,
    challenge: String,
    nonce: String,
}

struct Provider {
    issuer: String,
    keys: Issuer,
    people: PathBuf,
    codes: BTreeMap<String, Code>,
    refresh: BTreeMap<String, String>,
}

/// An answer: status, further headers, body.
type Said = (&'static str, Vec<(&'static str, String)>, String);

/// Answers until it is ended.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let made = rcgen::generate_simple_self_signed([arguments.address.to_string()])?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(|why| anyhow::anyhow!(why))?;
    let chain = vec![CertificateDer::from(made.cert.der().to_vec())];
    fs::write(&arguments.certificate, made.cert.pem()).context("its certificate cannot be written")?;
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(crypto).with_safe_default_protocol_versions()?;
    let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key)?);
    let listener = TcpListener::bind((arguments.address, arguments.port))?;
    let issuer = format!("https://{}:{}", arguments.address, arguments.port);
    let keys = Issuer::new(&issuer)?;
    let people = arguments.people.clone();
    let mut provider = Provider { issuer, keys, people, codes: BTreeMap::new(), refresh: BTreeMap::new() };
    writeln!(io::stdout(), "ready")?;
    for stream in listener.incoming() {
        if let Err(error) = stream.map_err(Into::into).and_then(|stream| provider.serve(&config, stream)) {
            writeln!(io::stderr(), "{error:#}")?;
        }
    }
    Ok(())
}

fn random() -> anyhow::Result<String> {
    Ok(URL_SAFE_NO_PAD.encode(host::entropy::random::<24>()?))
}

fn refused(error: &str) -> Said {
    ("400 Bad Request", Vec::new(), json!({"error": error}).to_string())
}

fn fields(text: &str) -> BTreeMap<String, String> {
    form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}

impl Provider {
    fn serve(&mut self, config: &Arc<ServerConfig>, stream: TcpStream) -> anyhow::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(config))?, stream);
        let asked = web::read(&mut stream)?;
        let (status, mut headers, body) = self.answer(&asked)?;
        let kind = if body.starts_with('<') { "text/html; charset=utf-8" } else { "application/json" };
        headers.push(("Content-Type", kind.to_owned()));
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        web::write(&mut stream, &format!("HTTP/1.1 {status}"), &headers, body.as_bytes())?;
        stream.conn.send_close_notify();
        Ok(stream.flush()?)
    }

    fn answer(&mut self, asked: &Message) -> anyhow::Result<Said> {
        let [method, target, _] = &asked.first;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let at = |path: &str| format!("{}{path}", self.issuer);
        match (method.as_str(), path) {
            ("GET", "/.well-known/openid-configuration") => {
                let metadata = json!({
                    "issuer": self.issuer, "authorization_endpoint": at("/authorize"), "token_endpoint": at("/token"),
                    "jwks_uri": at("/keys"), "code_challenge_methods_supported": ["S256"],
                    "authorization_response_iss_parameter_supported": true,
                });
                Ok(("200 OK", Vec::new(), metadata.to_string()))
            }
            ("GET", "/keys") => Ok(("200 OK", Vec::new(), self.keys.keys().to_string())),
            ("GET", "/authorize") => self.authorize(query),
            ("POST", "/token") => self.token(asked),
            _ => Ok(("404 Not Found", Vec::new(), json!({"error": "not_found"}).to_string())),
        }
    }

    /// Who this is here, if it is somebody who stands.
    fn person(&self, who: &str) -> anyhow::Result<Option<Value>> {
        let people: BTreeMap<String, Value> = serde_json::from_slice(&fs::read(&self.people)?)?;
        Ok(people.get(who).filter(|person| person.get("disabled") != Some(&Value::Bool(true))).cloned())
    }

    fn authorize(&mut self, query: &str) -> anyhow::Result<Said> {
        let mut asked = fields(query);
        let mut take = |name: &str| asked.remove(name).unwrap_or_default();
        let who = take("login");
        if who.is_empty() {
            let page = "<!doctype html><title>Provider</title><form><input name=login autofocus></form>".to_owned();
            return Ok(("200 OK", Vec::new(), page));
        }
        if self.person(&who)?.is_none() {
            return Ok(("403 Forbidden", Vec::new(), "<p>Nobody of this name may sign in.".to_owned()));
        }
        if take("client_id") != CLIENT.0 || take("code_challenge_method") != "S256" {
            return Ok(refused("invalid_request"));
        }
        let (redirect, state) = (take("redirect_uri"), take("state"));
        let here = redirect.starts_with("http://127.0.0.1:") || redirect.starts_with("http://localhost:");
        ensure!(here && !state.is_empty(), "a redirect to {redirect}");
        let given = random()?;
        let answer = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("code", &given), ("state", &state), ("iss", &self.issuer)])
            .finish();
        let location = format!("{redirect}?{answer}");
        let code = Code { who, redirect, challenge: take("code_challenge"), nonce: take("nonce") };
        self.codes.insert(given, code);
        Ok(("302 Found", vec![("Location", location)], String::new()))
    }

    fn token(&mut self, asked: &Message) -> anyhow::Result<Said> {
        let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let known = STANDARD.encode(format!("{}:{}", encode(CLIENT.0), encode(CLIENT.1)));
        if asked.header("authorization") != Some(format!("Basic {known}").as_str()) {
            return Ok(refused("invalid_client"));
        }
        let mut form = fields(&asked.text());
        let mut take = |name: &str| form.remove(name).unwrap_or_default();
        let (who, nonce) = match take("grant_type").as_str() {
            "authorization_code" => {
                let Some(code) = self.codes.remove(&take("code")) else { return Ok(refused("invalid_grant")) };
                let shown = URL_SAFE_NO_PAD.encode(digest(&SHA256, take("code_verifier").as_bytes()));
                if shown != code.challenge || take("redirect_uri") != code.redirect {
                    return Ok(refused("invalid_grant"));
                }
                (code.who, Some(code.nonce))
            }
            "refresh_token" => match self.refresh.get(&take("refresh_token")) {
                Some(who) => (who.clone(), None),
                None => return Ok(refused("invalid_grant")),
            },
            _ => return Ok(refused("unsupported_grant_type")),
        };
        let Some(person) = self.person(&who)? else { return Ok(refused("invalid_grant")) };
        let now = SystemTime::UNIX_EPOCH.elapsed()?.as_secs();
        let mut claims = json!({
            "iss": self.issuer, "aud": CLIENT.0, "sub": who, "iat": now, "exp": now + TOKEN_SECONDS, "auth_time": now,
            "preferred_username": who, "groups": person.get("groups").cloned().unwrap_or_default(),
        });
        if let (Some(nonce), Some(claims)) = (nonce, claims.as_object_mut()) {
            claims.insert("nonce".to_owned(), nonce.into());
        }
        let (access, refresh) = (random()?, random()?);
        let tokens = json!({
            "access_token": access, "token_type": "Bearer", "expires_in": TOKEN_SECONDS, "refresh_token": refresh,
            "id_token": self.keys.sign(&claims)?,
        });
        self.refresh.insert(refresh, who);
        Ok(("200 OK", vec![("Cache-Control", "no-store".to_owned())], tokens.to_string()))
    }
}
