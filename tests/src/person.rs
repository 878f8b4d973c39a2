//! Who sits at a browser in the lab's demonstration? Somebody who types a name where a page asks for one, and has an authenticator
//! (WebAuthn Level 3) for the pages that ask for a passkey. The tests have a real browser.

use crate::web::{self, Message};
use anyhow::{Context as _, bail};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Uri;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Pages that are gone through before it is too much.
const PAGES_MAX: usize = 8;
/// How long one page may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Somebody was there, and was recognised.
const PRESENT_AND_VERIFIED: u8 = 0b101;
/// A credential follows.
const ATTESTED: u8 = 0b100_0000;

/// How it is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The name that is typed in
    name: String,
    /// Whom the browser trusts, as PEM
    ca: PathBuf,
    /// Where the authenticator keeps its credential
    authenticator: PathBuf,
    /// Where to go
    url: Uri,
}

/// Goes there, and through all that comes; prints the last page.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut url = arguments.url.clone();
    for _ in 0..PAGES_MAX {
        let page = ask(arguments, &url, None)?;
        let body = page.text();
        if let Some(location) = page.header("location") {
            url = location.parse()?;
        } else if body.contains("name=login") {
            let name: String = form_urlencoded::byte_serialize(arguments.name.as_bytes()).collect();
            url = format!("{url}&login={name}").parse()?;
        } else {
            let last = match between(&body, "type=\"application/json\">", "</script>") {
                Some(options) => ask(arguments, &url, Some(&arguments.show(&url, options)?))?.text(),
                None => body,
            };
            writeln!(io::stdout(), "{last}")?;
            return Ok(());
        }
    }
    bail!("more than {PAGES_MAX} pages")
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.split_once(before).and_then(|(_, rest)| rest.split_once(after)).map(|(inside, _)| inside)
}

/// One page; what is sent is JSON of the page itself.
fn ask(arguments: &Arguments, url: &Uri, sent: Option<&str>) -> anyhow::Result<Message> {
    let authority = url.authority().context("an address without a host")?;
    let secure = url.scheme_str() == Some("https");
    let host = authority.host();
    // This machine, whatever its list of names says.
    let address = if host == "localhost" { "127.0.0.1" } else { host };
    let stream = TcpStream::connect((address, authority.port_u16().unwrap_or(if secure { 443 } else { 80 })))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let origin = format!("http://{authority}");
    let mut headers = vec![("Host", authority.as_str())];
    if sent.is_some() {
        headers.extend([("Origin", origin.as_str()), ("Content-Type", "application/json")]);
    }
    let first = format!("{} {target} HTTP/1.1", if sent.is_some() { "POST" } else { "GET" });
    let body = sent.unwrap_or_default().as_bytes();
    if !secure {
        web::write(&stream, &first, &headers, body)?;
        return web::read(&stream);
    }
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&arguments.ca).map_err(|why| anyhow::anyhow!("{why}"))?)?;
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(crypto).with_safe_default_protocol_versions()?;
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let connection = ClientConnection::new(config, ServerName::try_from(host.to_owned())?)?;
    let mut stream = StreamOwned::new(connection, stream);
    web::write(&mut stream, &first, &headers, body)?;
    web::read(&mut stream)
}

/// What an authenticator keeps.
struct Credential {
    seed: [u8; 32],
    id: [u8; 16],
    count: u32,
}

impl Credential {
    fn fresh() -> anyhow::Result<Self> {
        Ok(Self { seed: host::entropy::random()?, id: host::entropy::random()?, count: 0 })
    }

    fn read(bytes: &[u8]) -> anyhow::Result<Self> {
        let wrong = || anyhow::anyhow!("no authenticator's file");
        let (seed, rest) = bytes.split_first_chunk().ok_or_else(wrong)?;
        let (id, rest) = rest.split_first_chunk().ok_or_else(wrong)?;
        let count = u32::from_be_bytes(rest.try_into().map_err(|_| wrong())?);
        Ok(Self { seed: *seed, id: *id, count })
    }

    fn written(&self) -> Vec<u8> {
        [&self.seed[..], &self.id, &self.count.to_be_bytes()].concat()
    }

    fn key(&self) -> anyhow::Result<Ed25519KeyPair> {
        Ed25519KeyPair::from_seed_unchecked(&self.seed).map_err(|_| anyhow::anyhow!("no key of this seed"))
    }

    /// The public key in COSE: a map of four (RFC 9053, section 7.2).
    fn cose(&self) -> anyhow::Result<Vec<u8>> {
        let key = self.key()?;
        Ok([&[0xa4, 0x01, 0x01, 0x03, 0x27, 0x20, 0x06, 0x21, 0x58, 0x20], key.public_key().as_ref()].concat())
    }

    /// What is signed, but for the hash of the client's data (WebAuthn Level 3, section 6.1).
    fn data(&self, flags: u8, attested: &[u8]) -> Vec<u8> {
        [digest(&SHA256, b"localhost").as_ref(), &[flags], &self.count.to_be_bytes(), attested].concat()
    }
}

impl Arguments {
    /// Makes a passkey, or shows it, as the page's options ask.
    fn show(&self, url: &Uri, options: &str) -> anyhow::Result<String> {
        let options: Value = serde_json::from_str(options)?;
        let options = options.get("publicKey").context("options of another kind")?;
        let creates = options.get("pubKeyCredParams").is_some();
        let held = match fs::read(&self.authenticator) {
            Ok(bytes) => Some(Credential::read(&bytes)?),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let mut credential = match held.filter(|_| !creates) {
            Some(credential) => credential,
            None if creates => Credential::fresh()?,
            None => bail!("there is no passkey on this authenticator"),
        };
        credential.count += 1;
        fs::write(&self.authenticator, credential.written())?;
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let client = json!({
            "type": if creates { "webauthn.create" } else { "webauthn.get" },
            "challenge": options.get("challenge"),
            "origin": format!("http://{}", url.authority().context("a page without a host")?),
            "crossOrigin": false,
        });
        let client = client.to_string();
        let response = if creates {
            let attested = [&[0; 16][..], &[0, 16], &credential.id, &credential.cose()?].concat();
            let data = credential.data(PRESENT_AND_VERIFIED | ATTESTED, &attested);
            let head = b"\xa3\x63fmt\x64none\x67attStmt\xa0\x68authData\x58";
            let attestation = [&head[..], &[u8::try_from(data.len())?], &data].concat();
            json!({"clientDataJSON": part(client.as_bytes()), "attestationObject": part(&attestation)})
        } else {
            let data = credential.data(PRESENT_AND_VERIFIED, &[]);
            let signed = [&data, digest(&SHA256, client.as_bytes()).as_ref()].concat();
            json!({"clientDataJSON": part(client.as_bytes()), "authenticatorData": part(&data),
                   "signature": part(credential.key()?.sign(&signed).as_ref())})
        };
        Ok(json!({"id": part(&credential.id), "type": "public-key", "response": response}).to_string())
    }
}
