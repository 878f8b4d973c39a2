//! How does a browser bring back what an identity provider said? To a page of this machine (RFC 8252, section 7.3), which takes one
//! answer: the one with the state that was sent.

use crate::loopback::{self, Asked, Page, Turn};
use http::StatusCode;
use model::limits::{SIGN_IN_ERROR_CHARS_MAX, SIGN_IN_TEXT_MAX};
use model::text::excerpt;

/// The path that the provider was told.
const PATH: &str = "/callback";

/// What it brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Brought {
    /// A code.
    Code { code: String, state: String, iss: Option<String> },
    /// The provider's no (RFC 6749, section 4.1.2.1).
    Error(String),
}

/// Takes the answer with this state; whatever else comes is told that it is none.
pub(super) fn turn(asked: &Asked, state: &str) -> Turn<Brought> {
    let Some(brought) = read(asked, state) else {
        return Turn::Show(Page::plain(StatusCode::BAD_REQUEST, "This is no answer to a sign-in that waits here."));
    };
    let text = match &brought {
        Brought::Code { .. } => "Done: you can close this page, the rest is told in the terminal.",
        Brought::Error(_) => "You were not let in: the terminal tells why. You can close this page.",
    };
    Turn::Done(Page::plain(StatusCode::OK, text), brought)
}

fn read(asked: &Asked, state: &str) -> Option<Brought> {
    if asked.sends || asked.path != PATH {
        return None;
    }
    let (mut code, mut said, mut iss, mut error, mut why) = (None, None, None, None, None);
    for (name, value) in form_urlencoded::parse(asked.query.as_bytes()) {
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
    let said = said.filter(|said| loopback::same(said, state))?;
    match (error, code) {
        (Some(error), _) => {
            let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
            Some(Brought::Error(excerpt(&format!("{error}{why}"), SIGN_IN_ERROR_CHARS_MAX)))
        }
        (None, Some(code)) if !code.is_empty() => Some(Brought::Code { code, state: said, iss }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loopback::Loopback;
    use bytes::Bytes;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    fn asked(target: &str) -> Option<Brought> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        read(&Asked { sends: false, path: path.to_owned(), query: query.to_owned(), body: Bytes::new() }, "right")
    }

    #[test]
    fn only_the_answer_that_is_waited_for_is_taken() {
        let code = |iss: Option<&str>| {
            let (code, state) = ("a b".to_owned(), "right".to_owned());
            Some(Brought::Code { code, state, iss: iss.map(str::to_owned) })
        };
        assert_eq!(asked("/callback?code=a+b&state=right"), code(None));
        let with_issuer = "/callback?session_state=x&state=right&iss=https%3A%2F%2Fidp.example&code=a%20b";
        assert_eq!(asked(with_issuer), code(Some("https://idp.example")));
        for target in [
            "/callback?code=a&state=wrong",
            "/callback?code=a",
            "/callback?code=&state=right",
            "/callback?state=right",
            "/callback?code=a&code=b&state=right",
            "/callback?code=a&state=right&state=wrong",
            "/callback",
            "/callback/?code=a&state=right",
            "/other?code=a&state=right",
            "/callback?error=access_denied&state=wrong",
        ] {
            assert_eq!(asked(target), None, "{target}");
        }
        let long = "x".repeat(SIGN_IN_TEXT_MAX + 1);
        assert_eq!(asked(&format!("/callback?state=right&code={long}")), None);
        let no = asked("/callback?error=access_denied&error_description=no%1b%5b2J&state=right");
        let Some(Brought::Error(text)) = no else { panic!("{no:?}") };
        assert!(text.contains("access_denied") && !text.contains('\u{1b}'), "{text}");
        let endless = asked(&format!("/callback?error={}&state=right", "x".repeat(SIGN_IN_TEXT_MAX)));
        let Some(Brought::Error(text)) = endless else { panic!("{endless:?}") };
        assert!(text.chars().count() <= SIGN_IN_ERROR_CHARS_MAX + 4, "{text}");
        let sent =
            Asked { sends: true, path: PATH.to_owned(), query: "code=a&state=right".to_owned(), body: Bytes::new() };
        assert_eq!(read(&sent, "right"), None);
    }

    #[tokio::test]
    async fn what_is_not_the_answer_does_not_end_the_wait() {
        let loopback = Loopback::bind_for("127.0.0.1", 0).await.unwrap();
        let port = loopback.port();
        let ask = |target: &str, host: &str| {
            let text = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            async move {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let _ = stream.write_all(text.as_bytes()).await;
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer).await;
                String::from_utf8(answer).unwrap()
            }
        };
        let here = format!("127.0.0.1:{port}");
        let waiting = tokio::spawn(loopback.serve(Duration::from_secs(60), |asked| turn(asked, "right")));
        let answer = "/callback?code=a&state=right";
        assert!(ask("/callback?code=a&state=guessed", &here).await.starts_with("HTTP/1.1 400"));
        // A name that leads here is not us (DNS rebinding).
        for host in [format!("localhost:{port}"), "127.0.0.1".to_owned(), format!("evil.example:{port}")] {
            assert!(ask(answer, &host).await.starts_with("HTTP/1.1 421"), "{host}");
        }
        let long = format!("/callback?state=right&code={}", "x".repeat(SIGN_IN_TEXT_MAX - 100));
        // As long as a code may be.
        assert!(ask(&long, &here).await.starts_with("HTTP/1.1 200"));
        assert!(matches!(waiting.await.unwrap().unwrap(), Brought::Code { .. }));
    }
}
