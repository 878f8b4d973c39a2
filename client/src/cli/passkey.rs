//! How does a browser make or show a passkey? On a page that this command serves for it, for this one answer. What is asked comes
//! from the controller, and goes back there: the page and this command only carry it.

use super::browser::Browser;
use crate::loopback::{self, Asked, Loopback, Page, Turn};
use http::StatusCode;
use model::limits::PASSKEY_LIFE;
use node::cli::{Failure, Output};
use proto::local as wire;

/// The page, with places for what it is about.
const PAGE: &str = include_str!("passkey/page.html");

/// What the browser is to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum What<'a> {
    /// Make a passkey.
    Create,
    /// Show one, for this resource; empty: for none in particular.
    Get {
        /// Its name.
        resource: &'a str,
    },
}

/// What stands in the page's text, or in JSON within it: nothing that HTML would take for its own.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn page(what: What<'_>, options: &str, nonce: &str) -> String {
    let (kind, about) = match what {
        What::Create => ("create", "Make a passkey: a second factor for this organisation.".to_owned()),
        What::Get { resource: "" } => ("get", "Show your passkey.".to_owned()),
        What::Get { resource } => ("get", format!("Show your passkey, to reach {}.", model::text::shown(resource))),
    };
    // One after the other, and what others wrote last: a place that is named in it is none.
    let (head, tail) = PAGE.split_once("{options}").unwrap_or((PAGE, ""));
    let fill = |text: &str| text.replace("{nonce}", nonce).replace("{kind}", kind).replace("{about}", &escaped(&about));
    // Within a script, JSON ends where this stands, whatever quotes are around it; in a text it may be written so.
    let options = options.replace('<', "\\u003c");
    format!("{}{options}{}", fill(head), fill(tail))
}

/// Has the browser answer what `question` asks of the page at this port.
pub(super) async fn ask(
    what: What<'_>,
    question: impl AsyncFnOnce(u16) -> Result<wire::PasskeyQuestion, Failure>,
    browser: Browser,
    output: &Output,
) -> Result<Vec<u8>, Failure> {
    let loopback = Loopback::bind().await.map_err(Failure::failed)?;
    let options = question(loopback.port()).await?.options;
    let options = std::str::from_utf8(&options).map_err(|_| Failure::failed("what the controller asks is no text"))?;
    let (token, nonce) = (loopback::token().map_err(Failure::failed)?, loopback::token().map_err(Failure::failed)?);
    let (html, path) = (page(what, options, &nonce), format!("/{token}"));
    let url = format!("{}{path}", loopback.origin());
    output.note(format!("your passkey is asked for in a browser on this machine: {url}"));
    browser.show(&url, output);
    let answer = move |asked: &Asked| turn(asked, &path, &html, &nonce);
    loopback.serve(PASSKEY_LIFE, answer).await.map_err(Failure::failed)
}

fn turn(asked: &Asked, path: &str, html: &str, nonce: &str) -> Turn<Vec<u8>> {
    if !loopback::same(&asked.path, path) {
        return Turn::Show(Page::nothing());
    }
    if asked.sends {
        let told = Page::plain(StatusCode::OK, "The terminal says what came of it.");
        return Turn::Done(told, asked.body.to_vec());
    }
    Turn::Show(Page { status: StatusCode::OK, html: html.to_owned(), nonce: Some(nonce.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const OPTIONS: &str =
        r#"{"publicKey":{"challenge":"AAAA","user":{"name":"</script><script>alert(1)</script>{nonce}"}}}"#;

    #[test]
    fn a_page_asks_what_it_was_told_and_nothing_in_it_becomes_part_of_the_page() {
        let nonce = "5ca1ab1e";
        for (what, kind, about) in [
            (What::Create, "create", "Make a passkey"),
            (What::Get { resource: "" }, "get", "Show your passkey."),
            (What::Get { resource: "wiki" }, "get", "to reach wiki."),
            (
                What::Get { resource: "<b onload=\"x\">{options}\u{202e}" },
                "get",
                "&lt;b onload=&quot;x&quot;&gt;{options}\\u{202e}",
            ),
        ] {
            let html = page(what, OPTIONS, nonce);
            assert!(html.contains(about) && html.contains(&format!("data-kind=\"{kind}\"")), "{html}");
            // Its own two scripts and its style, each closed once; no place was left empty.
            assert_eq!((html.matches("<script").count(), html.matches("</script>").count()), (2, 2), "{html}");
            assert_eq!(html.matches(&format!("nonce=\"{nonce}\"")).count(), 2, "a style and a script");
            assert!(!html.contains("\"{nonce}\"") && !html.contains("{kind}") && !html.contains("{about}"));
            let (_, rest) = html.split_once("type=\"application/json\">").unwrap();
            let (json, _) = rest.split_once("</script>").unwrap();
            let read = |text| serde_json::from_str::<serde_json::Value>(text).unwrap();
            assert_eq!(read(json), read(OPTIONS), "what the browser reads is what was asked");
            for id in ["id=\"start\"", "id=\"state\"", "id=\"options\""] {
                assert_eq!(html.matches(id).count(), 1, "{id}");
            }
            assert!(
                !html.contains("http:") && !html.contains("https:") && !html.contains("src="),
                "nothing from elsewhere"
            );
        }
    }

    #[test]
    fn the_page_and_its_answer_are_at_one_secret_address() {
        let asked = |path: &str, sends| Asked {
            sends,
            path: path.to_owned(),
            query: String::new(),
            body: Bytes::from_static(b"{}"),
        };
        let status = |asked: &Asked| match turn(asked, "/secret", "html", "nonce") {
            Turn::Show(page) => (page.status.as_u16(), None),
            Turn::Done(page, answer) => (page.status.as_u16(), Some(answer)),
        };
        assert_eq!(status(&asked("/secret", false)), (200, None));
        assert_eq!(status(&asked("/secret", true)), (200, Some(b"{}".to_vec())));
        for path in ["/", "/secre", "/secrets", "/secret/", "/SECRET", ""] {
            assert_eq!(status(&asked(path, false)), (404, None), "{path}");
            assert_eq!(status(&asked(path, true)), (404, None), "{path}");
        }
    }
}
