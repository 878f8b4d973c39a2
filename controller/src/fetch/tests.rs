//! Is only that server asked which may be asked, and is what it answers bounded?

use super::test_server::{Fails, Rebinds, Said, Says, Server, here, json, pool};
use super::*;
use std::sync::atomic::AtomicUsize;

fn fetcher(server: &Server, allow: Vec<Prefix>, resolver: impl Resolve + 'static) -> Fetcher {
    Fetcher::new(pool(), Some(&server.pem), allow, Arc::new(resolver)).unwrap()
}
fn to_server(server: &Server) -> Fetcher {
    fetcher(server, here(), Says(vec!["127.0.0.1"]))
}
fn url(server: &Server) -> HttpsUrl {
    HttpsUrl::parse(&server.url("/a?b=c")).unwrap()
}
async fn asked(fetcher: &Fetcher, url: &HttpsUrl) -> Result<Answer, FetchError> {
    fetcher.get(url, Authorization::None).await
}
async fn server() -> Server {
    Server::start(|_| json(&serde_json::json!({}))).await
}

#[tokio::test]
async fn a_request_arrives_as_it_was_made() {
    let server = Server::start(|asked| {
        let header = |name: &str| asked.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        json(&serde_json::json!([
            asked.method.as_str(),
            asked.target,
            asked.body,
            header("host"),
            header("authorization"),
            header("content-type")
        ]))
    })
    .await;
    let (fetcher, url) = (to_server(&server), url(&server));
    let host = format!("idp.example:{}", server.address.port());
    let token = Secret::new("token".to_owned());
    let answer = fetcher.get(&url, Authorization::Bearer(&token)).await.unwrap();
    assert_eq!((answer.status, answer.media_type.as_str()), (StatusCode::OK, "application/json"));
    let said: serde_json::Value = serde_json::from_slice(answer.body.expose()).unwrap();
    assert_eq!(said, serde_json::json!(["GET", "/a?b=c", "", host, "Bearer token", null]));
    let form = Secret::new("x=y".to_owned());
    let answer = fetcher.post(&url, Authorization::Basic("umbra", &token), &form).await.unwrap();
    let said: serde_json::Value = serde_json::from_slice(answer.body.expose()).unwrap();
    let form_type = "application/x-www-form-urlencoded";
    assert_eq!(said, serde_json::json!(["POST", "/a?b=c", "x=y", host, "Basic dW1icmE6dG9rZW4=", form_type]));
    let bad = Secret::new("a\r\nb".to_owned());
    assert!(matches!(fetcher.get(&url, Authorization::Bearer(&bad)).await, Err(FetchError::Http { .. })));
}

/// Where nobody is asked who was not opened.
const FORBIDDEN: [&str; 32] = [
    "127.0.0.1",
    "127.0.0.53",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "169.254.169.254",
    "169.254.0.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "10.77.0.53",
    "10.77.64.1",
    "10.77.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:10.77.0.53",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::7f00:1",
    "2002:7f00:1::1",
    "2002:a9fe:a9fe::1",
    "2001:0:7f00:1::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "fd12:3456:789a::1",
    "fd12:3456:789a:4::1",
];

#[tokio::test]
async fn no_dangerous_address_is_connected_to_however_the_name_leads_there() {
    let server = server().await;
    for address in FORBIDDEN {
        let fetcher = fetcher(&server, vec![], Says(vec![address]));
        let why = asked(&fetcher, &url(&server)).await.err().unwrap();
        assert_eq!(why, FetchError::Forbidden { host: "idp.example".to_owned(), address: address.parse().unwrap() });
    }
    // What an address's spelling means is the system's matter; what it leads to is looked at.
    let here = Fetcher::new(pool(), Some(&server.pem), vec![], Arc::new(SystemResolver)).unwrap();
    let port = server.address.port();
    for host in [
        "localhost",
        "LOCALHOST",
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0x7F.0x0.0x0.0x1",
        "0177.0.0.1",
        "017700000001",
        "00000177.1",
        "127.0.0.1.",
        "0",
        "0.0.0.0",
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::FFFF:7F00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[fe80::1]",
        "10.77.0.53",
        "[fd12:3456:789a::1]",
        "%31%32%37.0.0.1",
        "127。0。0。1",
        "[::1%25lo]",
        "user@127.0.0.1",
    ] {
        let refused = match HttpsUrl::parse(&format!("https://{host}:{port}/")) {
            Err(_) => continue,
            Ok(url) => asked(&here, &url).await.err().unwrap(),
        };
        assert!(matches!(refused, FetchError::Forbidden { .. } | FetchError::Resolve { .. }), "{host}: {refused}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn only_what_is_opened_is_asked_and_nothing_opens_the_overlay() {
    let server = server().await;
    let url = url(&server);
    assert!(asked(&to_server(&server), &url).await.is_ok());
    // One address of several that may be asked is.
    assert!(asked(&fetcher(&server, here(), Says(vec!["::1", "169.254.169.254", "127.0.0.1"])), &url).await.is_ok());
    assert_eq!(server.connections(), 2);
    let everything: Vec<Prefix> = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    for address in ["10.77.0.53", "fd12:3456:789a::1", "::ffff:10.77.0.53"] {
        let why = asked(&fetcher(&server, everything.clone(), Says(vec![address])), &url).await.err().unwrap();
        assert!(matches!(why, FetchError::Forbidden { .. }), "{why}");
    }
    let open = fetcher(&server, vec![], Says(vec![]));
    for private in ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd00::1", "192.0.2.1", "2001:db8::1"] {
        assert!(open.may_ask(private.parse().unwrap()), "{private}");
    }
    // Every answer of the resolver is looked at anew, and the one that was looked at is connected to.
    let rebinds = fetcher(&server, here(), Rebinds("127.0.0.1", "127.0.0.2", AtomicUsize::new(0)));
    assert!(asked(&rebinds, &url).await.is_ok());
    let why = asked(&rebinds, &url).await.err().unwrap();
    assert_eq!(why, FetchError::Forbidden { host: "idp.example".to_owned(), address: "127.0.0.2".parse().unwrap() });
    // No more addresses are tried than are bounded.
    let mut many = vec!["169.254.169.254"; TARGET_ADDRESSES_MAX];
    many.push("127.0.0.1");
    assert!(asked(&fetcher(&server, here(), Says(many)), &url).await.is_err());
}

#[tokio::test]
async fn the_certificate_must_be_trusted_and_name_the_host() {
    let (server, stranger) = (server().await, server().await);
    let why = asked(&fetcher(&stranger, here(), Says(vec!["127.0.0.1"])), &url(&server)).await.err().unwrap();
    assert!(matches!(why, FetchError::Tls { .. }), "{why}");
    let elsewhere = HttpsUrl::parse(&format!("https://evil.example:{}/", server.address.port())).unwrap();
    let why = asked(&to_server(&server), &elsewhere).await.err().unwrap();
    assert!(matches!(&why, FetchError::Tls { host, .. } if host == "evil.example"), "{why}");
    let by_address = HttpsUrl::parse(&format!("https://127.0.0.1:{}/", server.address.port())).unwrap();
    assert!(asked(&to_server(&server), &by_address).await.is_ok());
    for pem in
        ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &"x".repeat(FETCH_CA_PEM_MAX + 1)]
    {
        let why = Fetcher::new(pool(), Some(pem), vec![], Arc::new(Fails)).err().unwrap();
        assert!(matches!(why, FetchError::CaPem(_)), "{why}");
    }
    let allow = vec![here()[0]; FETCH_ALLOW_MAX + 1];
    assert_eq!(Fetcher::new(pool(), Some(&server.pem), allow, Arc::new(Fails)).err(), Some(FetchError::AllowMany));
}

#[tokio::test]
async fn redirects_are_not_followed_and_other_statuses_are_told() {
    let server = Server::start(|asked| -> Said {
        let status: u16 = asked.target.trim_start_matches('/').parse().unwrap();
        let secret = "https://idp.example/next?secret=s3cret";
        Some(http::Response::builder().status(status).header("location", secret).body("{}".to_owned()).unwrap())
    })
    .await;
    let fetcher = to_server(&server);
    for status in [300, 301, 302, 303, 307, 308] {
        let why = asked(&fetcher, &HttpsUrl::parse(&server.url(&format!("/{status}"))).unwrap()).await.err().unwrap();
        assert_eq!(why, FetchError::Redirect { host: "idp.example".to_owned(), status });
        assert!(!why.to_string().contains("s3cret"), "{why}");
    }
    for status in [200, 400, 401, 503] {
        let answer = asked(&fetcher, &HttpsUrl::parse(&server.url(&format!("/{status}"))).unwrap()).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.media_type.as_str()), (status, ""));
    }
}

#[tokio::test]
async fn what_is_answered_is_bounded() {
    let server = Server::start(|asked| -> Said {
        let (body, header) = match asked.target.as_str() {
            "/fits" => (FETCH_BODY_MAX, 0),
            "/body" => (FETCH_BODY_MAX + 1, 0),
            _ => (0, FETCH_HEADERS_MAX),
        };
        let response = http::Response::builder().header("x-long", "x".repeat(header));
        Some(response.body("x".repeat(body)).unwrap())
    })
    .await;
    let fetcher = to_server(&server);
    let at = |path: &str| HttpsUrl::parse(&server.url(path)).unwrap();
    assert_eq!(asked(&fetcher, &at("/fits")).await.unwrap().body.expose().len(), FETCH_BODY_MAX);
    let why = asked(&fetcher, &at("/body")).await.err().unwrap();
    assert_eq!(why, FetchError::Large { host: "idp.example".to_owned() });
    let why = asked(&fetcher, &at("/headers")).await.err().unwrap();
    assert!(matches!(why, FetchError::Http { .. }), "{why}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_and_one_that_is_not_there_is_told() {
    let (told, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(move |_| {
        told.send(()).unwrap();
        None
    })
    .await;
    let (fetcher, url) = (to_server(&server), url(&server));
    let under_way = tokio::spawn({
        let (fetcher, url) = (fetcher.clone(), url.clone());
        async move { fetcher.get(&url, Authorization::None).await }
    });
    arrived.recv().await.unwrap();
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    let why = under_way.await.unwrap().err().unwrap();
    assert_eq!(why, FetchError::Time { host: "idp.example".to_owned() });
    assert!(start.elapsed() <= FETCH_TIME_MAX);
    tokio::time::resume();
    drop(server);
    let why = asked(&fetcher, &url).await.err().unwrap();
    assert!(matches!(why, FetchError::Connect { .. } | FetchError::Tls { .. }), "{why}");
}

#[tokio::test]
async fn a_name_without_an_address_is_told() {
    let server = server().await;
    let why = asked(&fetcher(&server, here(), Fails), &url(&server)).await.err().unwrap();
    assert!(why.to_string().contains("no such name\\u{1b}"), "{why}");
    let why = asked(&fetcher(&server, here(), Says(vec![])), &url(&server)).await.err().unwrap();
    assert_eq!(why, FetchError::Resolve { host: "idp.example".to_owned(), reason: "it has no address".to_owned() });
}
