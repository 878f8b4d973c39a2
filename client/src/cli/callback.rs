//! How does a browser bring back what an identity provider said? To a port of this machine (RFC 8252, section 7.3), which is open
//! for that moment, and takes one answer: the one with the state that was sent.

use model::limits::SIGN_IN_TEXT_MAX;
use model::text::excerpt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Bytes of a request's head.
const HEAD_MAX: usize = 4 * SIGN_IN_TEXT_MAX;
/// How long one browser's connection may take.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// Characters of an error that a person reads.
const ERROR_CHARS_MAX: usize = 200;
/// The path that the provider was told.
const PATH: &str = "/callback";

/// Waits for the browser.
pub(super) struct Callback {
    host: String,
    v4: TcpListener,
    v6: Option<TcpListener>,
    port: u16,
}

/// What it brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Brought {
    /// A code.
    Code { code: String, state: String, iss: Option<String> },
    /// The provider's no (RFC 6749, section 4.1.2.1).
    Error(String),
}

impl Callback {
    /// Opens the port; 0: any that is free. `localhost` is both loopback addresses: which of them a browser takes is its business.
    pub(super) async fn listen(host: &str, port: u16) -> io::Result<Self> {
        let v4 = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
        let port = v4.local_addr()?.port();
        let v6 = match host {
            "localhost" => TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await.ok(),
            _ => None,
        };
        Ok(Self { host: host.to_owned(), v4, v6, port })
    }

    /// Where it listens.
    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// Waits for the answer with this state; whatever else comes is told that it is none.
    pub(super) async fn wait(&self, state: &str) -> Brought {
        loop {
            let Some(stream) = self.accept().await else { continue };
            // One after another, each for a short time: nobody but this machine's own programs can be here.
            let heard = tokio::time::timeout(REQUEST_MAX, self.hear(stream, state)).await;
            if let Ok(Some(brought)) = heard {
                return brought;
            }
        }
    }

    async fn accept(&self) -> Option<TcpStream> {
        let v6 = async {
            match &self.v6 {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        let accepted = tokio::select! {
            accepted = self.v4.accept() => accepted,
            accepted = v6 => accepted,
        };
        match accepted {
            Ok((stream, _)) => Some(stream),
            Err(_) => {
                // No file descriptors, mostly: for a moment.
                tokio::time::sleep(Duration::from_millis(100)).await;
                None
            }
        }
    }

    async fn hear(&self, mut stream: TcpStream, state: &str) -> Option<Brought> {
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            let mut piece = [0; 1_024];
            let len = stream.read(&mut piece).await.ok().filter(|len| *len > 0)?;
            head.extend_from_slice(piece.get(..len)?);
            if head.len() > HEAD_MAX {
                return None;
            }
        }
        let brought = std::str::from_utf8(&head).ok().and_then(|head| read(head, &self.host, self.port, state));
        let (status, text) = match &brought {
            Some(Brought::Code { .. }) => {
                ("200 OK", "Done: you can close this page, the rest is told in the terminal.")
            }
            Some(Brought::Error(_)) => {
                ("200 OK", "You were not let in: the terminal tells why. You can close this page.")
            }
            None => ("400 Bad Request", "This is no answer to a sign-in that waits here."),
        };
        let page = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
             referrer-policy: no-referrer\r\nx-content-type-options: nosniff\r\ncontent-security-policy: default-src 'none'\r\n\
             connection: close\r\n\r\n{text}",
            text.len()
        );
        let _ = stream.write_all(page.as_bytes()).await;
        let _ = stream.shutdown().await;
        brought
    }
}

/// Reads a request: is it the answer with this state, asked of this host and no other (DNS rebinding)?
fn read(head: &str, host: &str, port: u16, state: &str) -> Option<Brought> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (Some("GET"), Some(target), Some("HTTP/1.1"), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return None;
    };
    let expected = format!("{host}:{port}");
    let mut hosts = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("host").then(|| value.trim())
    });
    if hosts.next() != Some(expected.as_str()) || hosts.next().is_some() {
        return None;
    }
    let (path, query) = target.split_once('?')?;
    if path != PATH {
        return None;
    }
    let (mut code, mut said, mut iss, mut error, mut why) = (None, None, None, None, None);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let field = match name.as_ref() {
            "code" => &mut code,
            "state" => &mut said,
            "iss" => &mut iss,
            "error" => &mut error,
            "error_description" => &mut why,
            _ => continue,
        };
        // Each once (RFC 6749, section 3.1), and no longer than the controller takes.
        if value.len() > SIGN_IN_TEXT_MAX || field.replace(value.into_owned()).is_some() {
            return None;
        }
    }
    let said = said.filter(|said| said == state)?;
    match (error, code) {
        (Some(error), _) => {
            let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
            Some(Brought::Error(excerpt(&format!("{error}{why}"), ERROR_CHARS_MAX)))
        }
        (None, Some(code)) if !code.is_empty() => Some(Brought::Code { code, state: said, iss }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(target: &str, host: &str) -> Option<Brought> {
        read(&format!("GET {target} HTTP/1.1\r\nAccept: */*\r\nHost: {host}\r\n\r\n"), "127.0.0.1", 7_777, "right")
    }

    #[test]
    fn only_the_answer_that_is_waited_for_is_taken() {
        let host = "127.0.0.1:7777";
        let code = |iss: Option<&str>| {
            let (code, state) = ("a b".to_owned(), "right".to_owned());
            Some(Brought::Code { code, state, iss: iss.map(str::to_owned) })
        };
        assert_eq!(asked("/callback?code=a+b&state=right", host), code(None));
        let with_issuer = "/callback?session_state=x&state=right&iss=https%3A%2F%2Fidp.example&code=a%20b";
        assert_eq!(asked(with_issuer, host), code(Some("https://idp.example")));
        for target in [
            "/callback?code=a&state=wrong",
            "/callback?code=a",
            "/callback?code=&state=right",
            "/callback?state=right",
            "/callback?code=a&code=b&state=right",
            "/callback?code=a&state=right&state=wrong",
            "/callback",
            "/other?code=a&state=right",
            "http://127.0.0.1:7777/callback?code=a&state=right",
            "/callback?error=access_denied&state=wrong",
        ] {
            assert_eq!(asked(target, host), None, "{target}");
        }
        // A name that leads here is not us (DNS rebinding).
        for host in ["localhost:7777", "127.0.0.1", "127.0.0.1:7778", "evil.example:7777", "127.0.0.1:7777\r\nHost: x"]
        {
            assert_eq!(asked("/callback?code=a&state=right", host), None, "{host}");
        }
        let long = "x".repeat(SIGN_IN_TEXT_MAX + 1);
        assert_eq!(asked(&format!("/callback?state=right&code={long}"), host), None);
        let no = asked("/callback?error=access_denied&error_description=no%1b%5b2J&state=right", host);
        let Some(Brought::Error(text)) = no else { panic!("{no:?}") };
        assert!(text.contains("access_denied") && !text.contains('\u{1b}'), "{text}");
        assert_eq!(
            read("POST /callback?code=a&state=right HTTP/1.1\r\nHost: 127.0.0.1:7777\r\n", "127.0.0.1", 7_777, "right"),
            None
        );
    }

    #[tokio::test]
    async fn what_is_not_the_answer_does_not_end_the_wait() {
        let callback = Callback::listen("127.0.0.1", 0).await.unwrap();
        let port = callback.port();
        let ask = |text: String| async move {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer).await;
            answer
        };
        let head = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n");
        let asking = async {
            let huge = format!("GET /{} HTTP/1.1\r\n", "x".repeat(2 * HEAD_MAX));
            assert_eq!(ask(huge).await, "");
            assert!(ask(head("/callback?code=a&state=guessed")).await.starts_with("HTTP/1.1 400"));
            ask(head("/callback?code=a&state=right")).await
        };
        let (brought, page) = tokio::join!(callback.wait("right"), asking);
        assert!(matches!(brought, Brought::Code { .. }), "{brought:?}");
        assert!(page.starts_with("HTTP/1.1 200") && !page.contains("code=a"), "{page}");
    }
}
