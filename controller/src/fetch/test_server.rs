//! Which web server do tests ask? One in the test itself, on 127.0.0.1, that answers as the test says.

use super::{Resolve, Resolved};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use model::net::Prefix;
use model::pool::Pool;
use rustls::pki_types::PrivatePkcs8KeyDer;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// What was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: http::Method,
    pub target: String,
    pub headers: http::HeaderMap,
    pub body: String,
}

/// What is answered; `None` is never.
pub type Said = Option<http::Response<String>>;

/// A TLS server whose certificate names `idp.example`, `other.example` and 127.0.0.1. Ends when it is dropped.
pub struct Server {
    pub address: SocketAddr,
    /// The certificate, which is its own CA.
    pub pem: String,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub async fn start(answer: impl Fn(Asked) -> Said + Send + Sync + 'static) -> Self {
        Self::start_for(&["idp.example", "other.example", "127.0.0.1"], answer).await
    }

    pub async fn start_for(names: &[&str], answer: impl Fn(Asked) -> Said + Send + Sync + 'static) -> Self {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key.into())
                .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (answer, counted) = (Arc::new(answer), Arc::clone(&connections));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut conversations = JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
                conversations.spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let service = service_fn(|request| reply(Arc::clone(&answer), request));
                    let _ended =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
                });
            }
        });
        Self { address, pem: made.cert.pem(), connections, _tasks: tasks }
    }

    /// How often somebody connected.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// `https://idp.example:PORT` and what follows.
    pub fn url(&self, path: &str) -> String {
        format!("https://idp.example:{}{path}", self.address.port())
    }
}

async fn reply<A: Fn(Asked) -> Said>(
    answer: Arc<A>,
    request: http::Request<hyper::body::Incoming>,
) -> Result<http::Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let asked = Asked {
        method: head.method,
        target: head.uri.to_string(),
        headers: head.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    };
    match answer(asked) {
        Some(response) => Ok(response.map(|body| Full::new(Bytes::from(body)))),
        None => std::future::pending().await,
    }
}

/// JSON with status 200.
pub fn json(value: &serde_json::Value) -> Said {
    status(200, value)
}

/// JSON with this status.
pub fn status(status: u16, value: &serde_json::Value) -> Said {
    let response = http::Response::builder().status(status).header("content-type", "application/json; charset=utf-8");
    Some(response.body(value.to_string()).unwrap())
}

/// A resolver that says the same of every name.
pub struct Says(pub Vec<&'static str>);
impl Resolve for Says {
    fn resolve<'a>(&'a self, _: &'a str, port: u16) -> Resolved<'a> {
        let found = self.0.iter().map(|address| SocketAddr::new(address.parse().unwrap(), port)).collect();
        Box::pin(async move { Ok(found) })
    }
}

/// A resolver that says one thing first, and from then on another.
pub struct Rebinds(pub &'static str, pub &'static str, pub AtomicUsize);
impl Resolve for Rebinds {
    fn resolve<'a>(&'a self, _: &'a str, port: u16) -> Resolved<'a> {
        let first = self.2.fetch_add(1, Ordering::SeqCst) == 0;
        let address = if first { self.0 } else { self.1 };
        Box::pin(async move { Ok(vec![SocketAddr::new(address.parse().unwrap(), port)]) })
    }
}

/// A resolver that fails.
pub struct Fails;
impl Resolve for Fails {
    fn resolve<'a>(&'a self, _: &'a str, _: u16) -> Resolved<'a> {
        Box::pin(async { Err(io::Error::other("no such name\u{1b}")) })
    }
}

/// The overlay of the tests.
pub fn pool() -> Pool {
    Pool::new("10.77.0.0/16".parse().unwrap(), "fd12:3456:789a::/48".parse().unwrap()).unwrap()
}

/// 127.0.0.1, opened.
pub fn here() -> Vec<Prefix> {
    vec!["127.0.0.1/32".parse().unwrap()]
}
