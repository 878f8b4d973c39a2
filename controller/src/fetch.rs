//! How does the controller ask a web server that an administrator named? One HTTPS request, within bounds, and never of an address
//! that a server must not be made to reach (CWE-918).
//!
//! The name is resolved once; each address is looked at right before it is connected to, and that very address is connected to. So
//! neither an unusual spelling, nor a redirect, nor a name that changes its answer leads elsewhere.

mod resolve;
mod url;

pub use resolve::{Resolve, Resolved, SystemResolver};
pub use url::{HttpsUrl, UrlError};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use model::limits::{
    FETCH_ALLOW_MAX, FETCH_BODY_MAX, FETCH_CA_PEM_MAX, FETCH_HEADERS_MAX, FETCH_TIME_MAX, REASON_CHARS_MAX,
    TARGET_ADDRESSES_MAX,
};
use model::net::{Prefix, never_a_target};
use model::pool::Pool;
use model::secret::Secret;
use model::text::excerpt;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Why a web server gave no answer that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The URL is not one to ask.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The administrator's certificates cannot be used.
    #[error(
        "the CA certificates for this server cannot be used: {0}; give them as PEM text (-----BEGIN CERTIFICATE-----)"
    )]
    CaPem(String),
    /// The operating system trusts nobody.
    #[error(
        "this machine has no root certificates ({0}): install its package ca-certificates, or give the server's CA as PEM"
    )]
    NoRoots(String),
    /// More opened prefixes than [`FETCH_ALLOW_MAX`].
    #[error("more than {FETCH_ALLOW_MAX} prefixes are opened for one server: name fewer, wider ones")]
    AllowMany,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
    /// The name has no address.
    #[error("the name {host} cannot be resolved: {reason}")]
    Resolve {
        /// The URL's host.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// Every address of the name is one that is never asked.
    #[error(
        "{host} is at {address}, which is never asked (loopback, link-local, overlay or the like); if the server really is there, open that address for it"
    )]
    Forbidden {
        /// The URL's host.
        host: String,
        /// The first of its addresses.
        address: IpAddr,
    },
    /// No address answers.
    #[error("{host} cannot be connected to: {reason}")]
    Connect {
        /// The URL's host.
        host: String,
        /// What the system said of the last address.
        reason: String,
    },
    /// The TLS handshake failed: a certificate that is not trusted, for another name, or over.
    #[error("no secure connection to {host}: {reason}; check its certificate, and which CA is trusted for it")]
    Tls {
        /// The URL's host.
        host: String,
        /// What TLS said.
        reason: String,
    },
    /// What came is not HTTP, or ended early.
    #[error("{host} did not answer as HTTP asks: {reason}")]
    Http {
        /// The URL's host.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// It answered with a redirect.
    #[error("{host} answers with a redirect (status {status}), which is not followed: name the URL that it leads to")]
    Redirect {
        /// The URL's host.
        host: String,
        /// 300 to 399.
        status: u16,
    },
    /// A body of more than [`FETCH_BODY_MAX`].
    #[error("the answer of {host} is larger than {FETCH_BODY_MAX} bytes")]
    Large {
        /// The URL's host.
        host: String,
    },
    /// [`FETCH_TIME_MAX`] is over.
    #[error("{host} did not answer within {} s", FETCH_TIME_MAX.as_secs())]
    Time {
        /// The URL's host.
        host: String,
    },
}

/// Who says that we may ask?
#[derive(Debug, Clone, Copy)]
pub enum Authorization<'a> {
    /// Nobody needs to.
    None,
    /// Client id and secret, each encoded as RFC 6749 section 2.3.1 asks (RFC 7617).
    Basic(&'a str, &'a Secret<String>),
    /// An access token (RFC 6750, section 2.1).
    Bearer(&'a Secret<String>),
}

/// An answer whose status is not a redirect.
#[derive(Clone)]
pub struct Answer {
    /// 200 to 299, or 400 to 599.
    pub status: StatusCode,
    /// Its media type in lower case, without parameters; empty if it has none.
    pub media_type: String,
    /// At most [`FETCH_BODY_MAX`] bytes.
    pub body: Secret<Vec<u8>>,
}

/// Asks web servers of one administrator's choice.
#[derive(Clone)]
pub struct Fetcher {
    tls: TlsConnector,
    resolver: Arc<dyn Resolve>,
    pool: Pool,
    allow: Vec<Prefix>,
}

impl Fetcher {
    /// Trusts the certificates of `ca_pem` and nobody else, or whom the operating system trusts; `allow` opens addresses that are
    /// otherwise never asked, but nothing opens `pool`. Reads the system's certificates from disk.
    pub fn new(
        pool: Pool,
        ca_pem: Option<&str>,
        allow: Vec<Prefix>,
        resolver: Arc<dyn Resolve>,
    ) -> Result<Self, FetchError> {
        if allow.len() > FETCH_ALLOW_MAX {
            return Err(FetchError::AllowMany);
        }
        let roots = match ca_pem {
            Some(pem) => given_roots(pem)?,
            None => system_roots()?,
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| FetchError::Setup(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: TlsConnector::from(Arc::new(tls)), resolver, pool, allow })
    }

    /// GET.
    pub async fn get(&self, url: &HttpsUrl, authorization: Authorization<'_>) -> Result<Answer, FetchError> {
        self.ask(url, Method::GET, authorization, None).await
    }

    /// POST of a form (`application/x-www-form-urlencoded`).
    pub async fn post(
        &self,
        url: &HttpsUrl,
        authorization: Authorization<'_>,
        form: &Secret<String>,
    ) -> Result<Answer, FetchError> {
        self.ask(url, Method::POST, authorization, Some(form)).await
    }

    async fn ask(
        &self,
        url: &HttpsUrl,
        method: Method,
        authorization: Authorization<'_>,
        form: Option<&Secret<String>>,
    ) -> Result<Answer, FetchError> {
        let asked = async {
            let stream = self.connect(url).await?;
            exchange(stream, url, request(url, method, authorization, form)?).await
        };
        tokio::time::timeout(FETCH_TIME_MAX, asked)
            .await
            .unwrap_or_else(|_| Err(FetchError::Time { host: url.host().to_owned() }))
    }

    /// May this address be connected to?
    fn may_ask(&self, address: IpAddr) -> bool {
        let ours = self.pool.contains(address) || self.pool.contains(address.to_canonical());
        !ours && (!never_a_target(address) || self.allow.iter().any(|prefix| prefix.contains(address)))
    }

    async fn connect(&self, url: &HttpsUrl) -> Result<TlsStream<TcpStream>, FetchError> {
        let host = || url.host().to_owned();
        let found = self
            .resolver
            .resolve(url.host(), url.port())
            .await
            .map_err(|error| FetchError::Resolve { host: host(), reason: shown(&error) })?;
        let mut last = None;
        for mut address in found.into_iter().take(TARGET_ADDRESSES_MAX) {
            address.set_port(url.port());
            match self.connect_to(address).await {
                Ok(tcp) => {
                    let tls = self.tls.connect(url.server_name().clone(), tcp).await;
                    return tls.map_err(|error| FetchError::Tls { host: host(), reason: shown(&error) });
                }
                Err(None) if last.is_none() => {
                    last = Some(FetchError::Forbidden { host: host(), address: address.ip() });
                }
                Err(None) => {}
                Err(Some(error)) => last = Some(FetchError::Connect { host: host(), reason: shown(&error) }),
            }
        }
        Err(last.unwrap_or_else(|| FetchError::Resolve { host: host(), reason: "it has no address".to_owned() }))
    }

    /// The only place that connects: `None` is an address that is never asked.
    async fn connect_to(&self, address: SocketAddr) -> Result<TcpStream, Option<std::io::Error>> {
        if !self.may_ask(address.ip()) {
            return Err(None);
        }
        TcpStream::connect(address).await.map_err(Some)
    }
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fetcher")
    }
}

fn shown(error: &dyn std::fmt::Display) -> String {
    excerpt(&error.to_string(), REASON_CHARS_MAX)
}

fn given_roots(pem: &str) -> Result<RootCertStore, FetchError> {
    let bad = |reason: String| FetchError::CaPem(excerpt(&reason, REASON_CHARS_MAX));
    if pem.len() > FETCH_CA_PEM_MAX {
        return Err(bad(format!("they have more than {FETCH_CA_PEM_MAX} bytes")));
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() { Err(bad("there is none".to_owned())) } else { Ok(roots) }
}

fn system_roots() -> Result<RootCertStore, FetchError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _ignored) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let reason = found.errors.first().map_or_else(|| "none was found".to_owned(), |error| shown(error));
        return Err(FetchError::NoRoots(reason));
    }
    Ok(roots)
}

fn request(
    url: &HttpsUrl,
    method: Method,
    authorization: Authorization<'_>,
    form: Option<&Secret<String>>,
) -> Result<http::Request<Full<Bytes>>, FetchError> {
    use base64::Engine;
    let bad = |reason: &dyn std::fmt::Display| FetchError::Http { host: url.host().to_owned(), reason: shown(reason) };
    let mut request = http::Request::builder()
        .method(method)
        .uri(url.target())
        .header(HOST, url.authority())
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, "umbra-controller");
    let credentials = match authorization {
        Authorization::None => None,
        Authorization::Bearer(token) => Some(format!("Bearer {}", token.expose())),
        Authorization::Basic(user, password) => {
            let pair = Secret::new(format!("{user}:{}", password.expose()));
            Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair.expose())))
        }
    };
    if let Some(credentials) = credentials.map(Secret::new) {
        let mut value = HeaderValue::from_str(credentials.expose()).map_err(|error| bad(&error))?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    let body = match form {
        Some(form) => {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            Bytes::copy_from_slice(form.expose().as_bytes())
        }
        None => Bytes::new(),
    };
    request.body(Full::new(body)).map_err(|error| bad(&error))
}

async fn exchange(
    stream: TlsStream<TcpStream>,
    url: &HttpsUrl,
    request: http::Request<Full<Bytes>>,
) -> Result<Answer, FetchError> {
    let host = || url.host().to_owned();
    let http = |error: &dyn std::fmt::Display| FetchError::Http { host: host(), reason: shown(error) };
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_header_size(FETCH_HEADERS_MAX)
        .max_buf_size(FETCH_HEADERS_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| http(&error))?;
    // Ends with this function, whatever happens.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| http(&error))?;
    let status = response.status();
    if status.is_redirection() {
        return Err(FetchError::Redirect { host: host(), status: status.as_u16() });
    }
    let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let body = Limited::new(response.into_body(), FETCH_BODY_MAX).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() { FetchError::Large { host: host() } } else { http(&error) }
    })?;
    Ok(Answer { status, media_type, body: Secret::new(body.to_bytes().to_vec()) })
}

#[cfg(test)]
pub(crate) mod test_server;
#[cfg(test)]
mod tests;
