//! How does a browser on this machine answer a command? By a web server that stands for that moment only: on the loopback, at a port of
//! the kernel's choice, until it has its one answer or the time is over.
//!
//! Any page of any site can have its browser send requests here, and so can any program of this machine. What makes a request ours:
//! - it names the host that the page was given (`localhost`, or the address) and this port, so that no other name was turned to this
//!   address (DNS rebinding);
//! - its path holds a [`token`] that nobody can guess; what asks the server compares it ([`same`]);
//! - what changes something (POST) comes from a page of this very origin, and says so.

use bytes::Bytes;
use host::entropy::EntropyError;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use model::limits::{
    LOOPBACK_BODY_MAX, LOOPBACK_CONNECTION_LIFE, LOOPBACK_CONNECTIONS_MAX, LOOPBACK_HEAD_MAX, LOOPBACK_PORTS_MAX,
};
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum LoopbackError {
    /// There is no place to listen.
    #[error("nothing can listen on this machine's loopback: {0}")]
    Listen(#[from] io::Error),
    /// Others have it in one of both families, each time.
    #[error("no port of this machine's loopback is free for both 127.0.0.1 and ::1: try again")]
    Ports,
    /// The kernel gave no random bytes.
    #[error(transparent)]
    Random(#[from] EntropyError),
    /// Nobody came.
    #[error("the browser did not answer within {} min: try again", .0.as_secs() / 60)]
    Late(Duration),
}

/// What a browser asks.
#[derive(Debug)]
pub struct Asked {
    /// It sends something (POST); else it wants to see something (GET).
    pub sends: bool,
    /// The path, as it was sent.
    pub path: String,
    /// What stands behind its question mark; empty: nothing.
    pub query: String,
    /// What it sends.
    pub body: Bytes,
}

/// What a browser is shown.
#[derive(Debug)]
pub struct Page {
    /// With this status.
    pub status: StatusCode,
    /// HTML.
    pub html: String,
    /// The scripts and styles in it that may run are those with this nonce; none: there are none.
    pub nonce: Option<String>,
}

impl Page {
    /// A line of text, which holds nothing that HTML could take for its own.
    pub fn plain(status: StatusCode, text: &'static str) -> Self {
        let html = format!("<!doctype html><html lang=en><meta charset=utf-8><title>Umbra</title><p id=state>{text}\n");
        Self { status, html, nonce: None }
    }
    /// Nothing is here.
    pub fn nothing() -> Self {
        Self::plain(StatusCode::NOT_FOUND, "There is nothing here.")
    }
}

/// What follows from a request.
pub enum Turn<T> {
    /// Nothing but this page.
    Show(Page),
    /// It is the answer. Nothing is asked after it.
    Done(Page, T),
}

/// The name that browsers take for this machine alone.
const LOCALHOST: &str = "localhost";

/// A secret part of a path: 256 random bits in hexadecimal.
pub fn token() -> Result<String, LoopbackError> {
    let random: [u8; 32] = host::entropy::random()?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Are both texts the same? It takes as long wherever they differ.
pub fn same(one: &str, other: &str) -> bool {
    let differs = one.bytes().zip(other.bytes()).fold(0, |all, (one, other)| all | (one ^ other));
    one.len() == other.len() && differs == 0
}

/// A place on the loopback.
pub struct Loopback {
    listeners: Vec<TcpListener>,
    host: String,
    port: u16,
}

impl Loopback {
    /// A port that nobody else has, in both families: a browser tries either for `localhost`.
    pub async fn bind() -> Result<Self, LoopbackError> {
        Self::first(pair).await
    }

    /// The place that an identity provider was told (RFC 8252, sections 7.3 and 8.3); port 0: any that is free. `localhost` is both
    /// families; which of them a browser takes is its business. Any other host is that of IPv4.
    pub async fn bind_for(host: &str, port: u16) -> Result<Self, LoopbackError> {
        if port == 0 && host == LOCALHOST {
            return Self::bind().await;
        }
        let four = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let port = four.local_addr()?.port();
        let mut listeners = vec![four];
        if host == LOCALHOST {
            // Whoever has the other one would be answered in our place by half of the browsers.
            listeners.extend(six(port).await?);
        }
        Ok(Self { listeners, host: host.to_owned(), port })
    }

    async fn first(mut pair: impl AsyncFnMut() -> io::Result<Option<Self>>) -> Result<Self, LoopbackError> {
        for _ in 0..LOOPBACK_PORTS_MAX {
            if let Some(bound) = pair().await? {
                return Ok(bound);
            }
        }
        Err(LoopbackError::Ports)
    }

    /// Which port it is.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The origin of its pages.
    pub fn origin(&self) -> String {
        format!("http://{}", authority(&self.host, self.port))
    }

    /// Answers requests until one of them is [`Turn::Done`], or so much time has passed. Then nobody listens any more.
    pub async fn serve<T: Send + 'static>(
        self,
        within: Duration,
        answer: impl Fn(&Asked) -> Turn<T> + Send + Sync + 'static,
    ) -> Result<T, LoopbackError> {
        let authority = authority(&self.host, self.port);
        let desk = Arc::new(Desk { authority, done: Mutex::new(false), answer });
        let mut connections: JoinSet<Option<T>> = JoinSet::new();
        let late = tokio::time::sleep(within);
        tokio::pin!(late);
        loop {
            tokio::select! {
                () = &mut late => return Err(LoopbackError::Late(within)),
                Some(ended) = connections.join_next() => {
                    if let Ok(Some(answer)) = ended {
                        return Ok(answer);
                    }
                }
                accepted = accept(&self.listeners), if connections.len() < LOOPBACK_CONNECTIONS_MAX => {
                    connections.spawn(Arc::clone(&desk).connection(accepted?));
                }
            }
        }
    }
}

/// A port in both families; none where somebody has it in one of them. Where there is no IPv6, nobody else can have it there.
async fn pair() -> io::Result<Option<Loopback>> {
    let four = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = four.local_addr()?.port();
    match six(port).await {
        Ok(six) => {
            let listeners = [four].into_iter().chain(six).collect();
            Ok(Some(Loopback { listeners, host: LOCALHOST.to_owned(), port }))
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error),
    }
}

/// That port over IPv6; none where there is no IPv6.
async fn six(port: u16) -> io::Result<Option<TcpListener>> {
    const NO_FAMILY: i32 = 97; // EAFNOSUPPORT
    match TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await {
        Ok(six) => Ok(Some(six)),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(NO_FAMILY) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn accept(listeners: &[TcpListener]) -> io::Result<TcpStream> {
    std::future::poll_fn(|context| {
        for listener in listeners {
            if let Poll::Ready(accepted) = listener.poll_accept(context) {
                return Poll::Ready(accepted.map(|(stream, _)| stream));
            }
        }
        Poll::Pending
    })
    .await
}

fn authority(host: &str, port: u16) -> String {
    format!("{host}:{port}")
}

/// What all connections share.
struct Desk<A> {
    /// The host and port that every request names.
    authority: String,
    /// There was an answer.
    done: Mutex<bool>,
    answer: A,
}

impl<A: Send + Sync + 'static> Desk<A> {
    /// One request, and the answer if it was that. The page is sent before this ends, if its reader takes it.
    async fn connection<T: Send + 'static>(self: Arc<Self>, stream: TcpStream) -> Option<T>
    where
        A: Fn(&Asked) -> Turn<T>,
    {
        let answer = Arc::new(Mutex::new(None));
        let held = Arc::clone(&answer);
        let service = service_fn(move |request| {
            let (desk, held) = (Arc::clone(&self), Arc::clone(&held));
            async move { Ok::<_, Infallible>(desk.respond(request, &held).await) }
        });
        let connection = http1::Builder::new()
            .keep_alive(false)
            .max_buf_size(LOOPBACK_HEAD_MAX)
            .timer(TokioTimer::new())
            .header_read_timeout(LOOPBACK_CONNECTION_LIFE)
            .serve_connection(TokioIo::new(stream), service);
        // A browser that breaks off, or takes its time, has answered all the same.
        match tokio::time::timeout(LOOPBACK_CONNECTION_LIFE, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a browser's connection broke"),
            Err(_) => tracing::debug!("a browser's connection took too long"),
        }
        answer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn respond<T>(&self, request: Request<Incoming>, held: &Mutex<Option<T>>) -> Response<Full<Bytes>>
    where
        A: Fn(&Asked) -> Turn<T>,
    {
        let asked = match self.read(request).await {
            Ok(asked) => asked,
            Err((status, why)) => return written(Page::plain(status, why)),
        };
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if *done {
            return written(Page::plain(StatusCode::GONE, "There was an answer already."));
        }
        match (self.answer)(&asked) {
            Turn::Show(page) => written(page),
            Turn::Done(page, answer) => {
                *done = true;
                *held.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
                written(page)
            }
        }
    }

    /// The request, if it is one of ours.
    async fn read(&self, request: Request<Incoming>) -> Result<Asked, (StatusCode, &'static str)> {
        let (head, body) = request.into_parts();
        let authority = &self.authority;
        // An address in the request's first line would stand above the header.
        if only(&head.headers, header::HOST) != Some(authority.as_bytes()) || head.uri.authority().is_some() {
            return Err((StatusCode::MISDIRECTED_REQUEST, "This is no page of that name."));
        }
        let sends = match head.method {
            Method::GET => false,
            Method::POST => true,
            _ => return Err((StatusCode::METHOD_NOT_ALLOWED, "That cannot be done here.")),
        };
        let origin = format!("http://{authority}");
        if sends && only(&head.headers, header::ORIGIN) != Some(origin.as_bytes()) {
            return Err((StatusCode::FORBIDDEN, "That was sent by another page."));
        }
        let kind = only(&head.headers, header::CONTENT_TYPE);
        if sends && kind != Some(b"application/json") {
            return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "Only JSON can be sent here."));
        }
        let large = (StatusCode::PAYLOAD_TOO_LARGE, "That is too long.");
        let room = if sends { LOOPBACK_BODY_MAX } else { 0 };
        if body.size_hint().lower() > u64::try_from(room).unwrap_or(u64::MAX) {
            return Err(large);
        }
        let body = Limited::new(body, room).collect().await.map_err(|_| large)?.to_bytes();
        let (path, query) = (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
        Ok(Asked { sends, path, query, body })
    }
}

/// The one value of a header; none where there are two.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&[u8]> {
    let mut all = headers.get_all(name).iter();
    match (all.next(), all.next()) {
        (Some(value), None) => Some(value.as_bytes()),
        _ => None,
    }
}

/// A page with all that browsers are to forbid it: to be framed, to be opened by others, to load or to send anything elsewhere, to be
/// kept, and to tell its address.
fn written(page: Page) -> Response<Full<Bytes>> {
    let own = page.nonce.map_or_else(String::new, |nonce| {
        format!(" script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self';")
    });
    let policy = format!("default-src 'none';{own} base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
    let mut response = Response::new(Full::new(Bytes::from(page.html)));
    *response.status_mut() = page.status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (
            HeaderName::from_static("permissions-policy"),
            "publickey-credentials-create=(self), publickey-credentials-get=(self)",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // What cannot be a header is no nonce of ours; without this header nothing may be shown.
    match HeaderValue::try_from(policy) {
        Ok(policy) => drop(headers.insert(header::CONTENT_SECURITY_POLICY, policy)),
        Err(_) => *response.body_mut() = Full::default(),
    }
    response
}

#[cfg(test)]
mod tests;
