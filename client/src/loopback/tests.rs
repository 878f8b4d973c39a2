//! Who gets through to a page on the loopback? Its own browser, and nobody else.

use super::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

const LONG: Duration = Duration::from_secs(300);

/// A server that shows its page at `/TOKEN`, takes what is sent there, and takes `/callback?...`, too.
struct Served {
    port: u16,
    token: String,
    answer: JoinHandle<Result<String, LoopbackError>>,
}

async fn serve() -> Served {
    let loopback = Loopback::bind().await.unwrap();
    let (port, token) = (loopback.port(), token().unwrap());
    assert_eq!(loopback.origin(), format!("http://localhost:{port}"));
    let path = format!("/{token}");
    let answer = tokio::spawn(loopback.serve(LONG, move |asked| {
        let page = || Page { status: StatusCode::OK, html: "the page".to_owned(), nonce: Some("abc".to_owned()) };
        match (asked.path.as_str(), asked.sends) {
            ("/callback", false) => Turn::Done(page(), asked.query.clone()),
            (asked_for, false) if same(asked_for, &path) => Turn::Show(page()),
            (asked_for, true) if same(asked_for, &path) => {
                Turn::Done(page(), String::from_utf8(asked.body.to_vec()).unwrap())
            }
            _ => Turn::Show(Page::nothing()),
        }
    }));
    Served { port, token, answer }
}

impl Served {
    async fn open(&self) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.unwrap()
    }

    /// What comes back, until the end. Whoever is refused in the middle may see no more than a broken connection.
    async fn raw(&self, request: &str) -> String {
        let mut stream = self.open().await;
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn status(&self, request: &str) -> u16 {
        let answer = self.raw(request).await;
        answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    fn get(&self, path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: localhost:{}\r\n\r\n", self.port)
    }

    /// What the page itself sends.
    fn post(&self, body: &str) -> String {
        format!(
            "POST /{} HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: http://localhost:{port}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.token,
            body.len(),
            port = self.port
        )
    }
}

#[tokio::test]
async fn a_browser_sees_the_page_and_its_one_answer_ends_it() {
    let served = serve().await;
    let page = served.raw(&served.get(&format!("/{}", served.token))).await;
    assert!(page.starts_with("HTTP/1.1 200") && page.ends_with("the page"), "{page}");
    for header in [
        "content-security-policy: default-src 'none'; script-src 'nonce-abc'; style-src 'nonce-abc'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "x-frame-options: DENY",
        "cross-origin-opener-policy: same-origin",
        "cross-origin-resource-policy: same-origin",
        "referrer-policy: same-origin",
        "x-content-type-options: nosniff",
        "cache-control: no-store",
        "connection: close",
    ] {
        assert!(page.contains(&format!("\r\n{header}\r\n")), "{header}: {page}");
    }
    assert!(!page.to_lowercase().contains("access-control-allow"), "no other page may read it");
    // Seeing it ends nothing.
    assert_eq!(served.status(&served.get(&format!("/{}", served.token))).await, 200);
    assert_eq!(served.status(&served.post("{\"a\":1}")).await, 200);
    let port = served.port;
    assert_eq!(served.answer.await.unwrap().unwrap(), "{\"a\":1}");
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err(), "nobody listens any more");
    assert!(TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.is_err());
}

#[tokio::test]
async fn a_redirect_is_an_answer_too() {
    let served = serve().await;
    assert_eq!(served.status(&served.get("/callback?code=abc&state=x%20y")).await, 200);
    assert_eq!(served.answer.await.unwrap().unwrap(), "code=abc&state=x%20y");
}

#[tokio::test]
async fn whoever_is_not_the_page_s_own_browser_is_refused() {
    let served = serve().await;
    let (port, token) = (served.port, served.token.clone());
    let good = served.post("{}");
    let host = format!("Host: localhost:{port}\r\n");
    let origin = format!("Origin: http://localhost:{port}\r\n");
    let kind = "Content-Type: application/json\r\n";
    let with = |old: &str, new: &str| {
        assert!(good.contains(old));
        good.replacen(old, new, 1)
    };
    for (request, status, why) in [
        (with(&host, &format!("Host: evil.example:{port}\r\n")), 421, "a name that was turned to this address"),
        (with(&host, &format!("Host: 127.0.0.1:{port}\r\n")), 421, "the address"),
        (with(&host, &format!("Host: [::1]:{port}\r\n")), 421, "the other address"),
        (with(&host, "Host: localhost\r\n"), 421, "no port"),
        (with(&host, &format!("Host: localhost:{}\r\n", port ^ 1)), 421, "another port"),
        (with(&host, &format!("Host: localhost.:{port}\r\n")), 421, "another spelling"),
        (with(&host, &format!("Host: LOCALHOST:{port}\r\n")), 421, "another spelling"),
        (with(&host, ""), 421, "none"),
        (with(&host, &format!("{host}{host}")), 421, "two"),
        (with("POST /", "POST http://evil.example/"), 421, "another name in the first line"),
        (with(&origin, "Origin: https://evil.example\r\n"), 403, "another site's page"),
        (with(&origin, &format!("Origin: https://localhost:{port}\r\n")), 403, "another scheme"),
        (with(&origin, &format!("Origin: http://localhost:{}\r\n", port ^ 1)), 403, "another program's page"),
        (with(&origin, &format!("Origin: http://127.0.0.1:{port}\r\n")), 403, "another name"),
        (with(&origin, "Origin: null\r\n"), 403, "a page of nowhere"),
        (with(&origin, ""), 403, "a page that does not say"),
        (with(&origin, &format!("{origin}{origin}")), 403, "two"),
        (with(kind, "Content-Type: text/plain\r\n"), 415, "what a form can send without being asked"),
        (with(kind, ""), 415, "what it is not said to be"),
        (with(&token, &token.replace(char::is_alphabetic, "0")), 404, "another token"),
        (with(&token, &token[1..]), 404, "a part of it"),
        (with(&token, ""), 404, "none"),
        (with("POST", "PUT"), 405, "another method"),
        (with("POST", "OPTIONS"), 405, "what a browser asks before it sends for another page"),
        (served.get(&format!("/{}", &token[..63])), 404, "a part of the token"),
        (served.get("/"), 404, "the front door"),
        (served.get("/favicon.ico"), 404, "what browsers ask by themselves"),
        ("GET / HTTP/1.0\r\n\r\n".to_owned(), 421, "no host"),
        ("hello\r\n\r\n".to_owned(), 400, "no HTTP"),
    ] {
        assert_eq!(served.status(&request).await, status, "{why}: {request}");
        assert!(!served.answer.is_finished(), "{why}");
    }
    // And the browser still gets through.
    assert_eq!(served.status(&good).await, 200);
    assert_eq!(served.answer.await.unwrap().unwrap(), "{}");
}

#[tokio::test]
async fn so_much_is_read_and_no_more() {
    let served = serve().await;
    assert_ne!(served.status(&served.post(&" ".repeat(LOOPBACK_BODY_MAX + 1))).await, 200);
    let chunked = served.post("").replacen("Content-Length: 0", "Transfer-Encoding: chunked", 1);
    let long = format!("{chunked}{:x}\r\n{}\r\n0\r\n\r\n", LOOPBACK_BODY_MAX + 1, " ".repeat(LOOPBACK_BODY_MAX + 1));
    assert_ne!(served.status(&long).await, 200, "nor in pieces without a length");
    let callback = served.get("/callback?x");
    let cookie = format!("\r\nCookie: {}\r\n\r\n", "x".repeat(2 * LOOPBACK_HEAD_MAX));
    assert_ne!(served.status(&callback.replacen("\r\n\r\n", &cookie, 1)).await, 200);
    let with_body = callback.replacen("\r\n\r\n", "\r\nContent-Length: 1\r\n\r\nx", 1);
    assert_ne!(served.status(&with_body).await, 200, "who only looks sends nothing");
    assert!(!served.answer.is_finished());
    let most = " ".repeat(LOOPBACK_BODY_MAX);
    assert_eq!(served.status(&served.post(&most)).await, 200);
    assert_eq!(served.answer.await.unwrap().unwrap(), most);
}

#[tokio::test]
async fn the_second_answer_is_none() {
    let served = serve().await;
    // Both are there before either is read to its end.
    let (mut one, mut two) = (served.open().await, served.open().await);
    let request = served.post("{}");
    one.write_all(request.as_bytes()).await.unwrap();
    two.write_all(request.as_bytes()).await.unwrap();
    let mut answers = [String::new(), String::new()];
    let _ = one.read_to_string(&mut answers[0]).await;
    let _ = two.read_to_string(&mut answers[1]).await;
    let taken = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 200")).count();
    assert_eq!(taken, 1, "{answers:?}");
    assert_eq!(served.answer.await.unwrap().unwrap(), "{}");
}

#[tokio::test(start_paused = true)]
async fn who_takes_a_place_and_says_nothing_loses_it() {
    let served = serve().await;
    let mut idle = Vec::new();
    for n in 0..LOOPBACK_CONNECTIONS_MAX {
        let mut stream = served.open().await;
        // Some have begun to speak, some have all but the end, some do not read.
        let request = served.post("{}");
        let said = [0, 10, request.len() - 1][n % 3];
        stream.write_all(&request.as_bytes()[..said]).await.unwrap();
        idle.push(stream);
    }
    let begun = tokio::time::Instant::now();
    // The browser waits for a place, no longer than one of them may last.
    assert_eq!(served.status(&served.post("{\"late\":true}")).await, 200);
    assert!(begun.elapsed() >= LOOPBACK_CONNECTION_LIFE && begun.elapsed() < LOOPBACK_CONNECTION_LIFE * 2);
    assert_eq!(served.answer.await.unwrap().unwrap(), "{\"late\":true}");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_waited_for_longer_than_was_said() {
    let served = serve().await;
    let late = served.answer.await.unwrap().unwrap_err();
    assert!(late.to_string().contains("within 5 min"), "{late}");
}

#[tokio::test]
async fn so_many_ports_are_tried() {
    let mut tried = 0;
    let none = Loopback::first(async || {
        tried += 1;
        Ok(None)
    });
    assert!(matches!(none.await, Err(LoopbackError::Ports)));
    assert_eq!(tried, LOOPBACK_PORTS_MAX);
    // Nobody outside of this machine can reach what is listened to.
    let bound = Loopback::bind().await.unwrap();
    assert!(bound.listeners.iter().all(|listener| listener.local_addr().unwrap().ip().is_loopback()));
    assert!(bound.listeners.iter().all(|listener| listener.local_addr().unwrap().port() == bound.port()));
    let (one, other) = (token().unwrap(), token().unwrap());
    assert!(one.len() == 64 && one != other && same(&one, &one) && !same(&one, &other) && !same(&one, &one[..63]));
}
