//! Which URL may be asked? An absolute `https` one without user, password and fragment, whose host is a DNS name or an address.

use model::limits::FETCH_URL_MAX;
use rustls::pki_types::ServerName;
use std::fmt;

/// Why a text is no URL to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Longer than [`FETCH_URL_MAX`].
    #[error("the URL is longer than {FETCH_URL_MAX} bytes")]
    Long,
    /// Not a URL at all.
    #[error(
        "the URL is not well-formed: write it as https://HOST/PATH, with other characters than ASCII percent-encoded"
    )]
    Form,
    /// Another scheme than https.
    #[error("the URL does not start with https:// - nothing is asked in the clear")]
    Scheme,
    /// User or password in front of the host.
    #[error("the URL has a user name or password in front of the host: leave them out")]
    User,
    /// What follows a `#`.
    #[error("the URL has a fragment (`#`): leave it out")]
    Fragment,
    /// A host that no certificate can name.
    #[error("the URL's host is neither a DNS name nor an IP address")]
    Host,
    /// Port 0, or no number.
    #[error("the URL's port is not a number from 1 to 65535")]
    Port,
}

/// An `https` URL (RFC 3986, RFC 9110 section 4.2.2). Shown as it was written.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpsUrl {
    text: String,
    uri: http::Uri,
    host: String,
    port: u16,
    name: ServerName<'static>,
}

impl HttpsUrl {
    /// Reads `text`.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.len() > FETCH_URL_MAX {
            return Err(UrlError::Long);
        }
        // Read before the parser sees them: it is lenient about each of these.
        if text.bytes().any(|b| b <= b' ' || b >= 0x7f || b == b'\\') {
            return Err(UrlError::Form);
        }
        if text.contains('#') {
            return Err(UrlError::Fragment);
        }
        let uri: http::Uri = text.parse().map_err(|_| UrlError::Form)?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else { return Err(UrlError::Form) };
        if *scheme != http::uri::Scheme::HTTPS {
            return Err(UrlError::Scheme);
        }
        if authority.as_str().contains('@') {
            return Err(UrlError::User);
        }
        let written = authority.host();
        let port = match authority.as_str().strip_prefix(written) {
            Some("") => 443,
            Some(rest) => rest.strip_prefix(':').and_then(|port| port.parse().ok()).unwrap_or(0),
            None => 0,
        };
        if port == 0 {
            return Err(UrlError::Port);
        }
        let host = match written.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inside) => inside.parse::<std::net::Ipv6Addr>().map_err(|_| UrlError::Host)?.to_string(),
            None => written.to_ascii_lowercase(),
        };
        let name = ServerName::try_from(host.clone()).map_err(|_| UrlError::Host)?;
        Ok(Self { text: text.to_owned(), uri, host, port, name })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
    /// DNS name in lower case, or address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }
    /// TCP port.
    pub const fn port(&self) -> u16 {
        self.port
    }
    /// Has it a query (`?`)?
    pub fn has_query(&self) -> bool {
        self.text.contains('?')
    }
    /// Whom the server's certificate must name.
    pub(super) const fn server_name(&self) -> &ServerName<'static> {
        &self.name
    }
    /// The `Host` header (RFC 9112, section 3.2).
    pub(super) fn authority(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }
    /// The request's target in origin form (RFC 9112, section 3.2.1).
    pub(super) fn target(&self) -> &str {
        match self.uri.path_and_query().map(|target| target.as_str()) {
            None | Some("") => "/",
            Some(target) => target,
        }
    }
}

impl fmt::Display for HttpsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}
impl fmt::Debug for HttpsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_https_urls_are_read() {
        let long = format!("https://a.example/{}", "x".repeat(FETCH_URL_MAX));
        for (text, why) in [
            ("", UrlError::Form),
            ("https://", UrlError::Form),
            ("/path", UrlError::Form),
            ("idp.example", UrlError::Form),
            ("https://idp.example/a b", UrlError::Form),
            ("https://idp.example/a\r\nHost: x", UrlError::Form),
            ("https:\\\\idp.example", UrlError::Form),
            ("https://idp.example\\@other.example/", UrlError::Form),
            ("https://bücher.example/", UrlError::Form),
            ("http://idp.example/", UrlError::Scheme),
            ("ftp://idp.example/", UrlError::Scheme),
            ("https://user@idp.example/", UrlError::User),
            ("https://user:word@idp.example/", UrlError::User),
            ("https://idp.example/#part", UrlError::Fragment),
            ("https://idp.example:0/", UrlError::Port),
            ("https://idp.example:/", UrlError::Port),
            ("https://idp_.-/", UrlError::Host),
            ("https://a..b/", UrlError::Host),
            ("https://%6c/", UrlError::Form),
            (&long, UrlError::Long),
        ] {
            assert_eq!(HttpsUrl::parse(text).map(|url| url.text), Err(why), "{text:.80}");
        }
        for text in ["https://idp.example:70000/", "https://[::1%25lo]/", "https://[127.0.0.1]/", "https://[::1/"] {
            assert!(HttpsUrl::parse(text).is_err(), "{text}");
        }
        let fits = format!("https://a.example/{}", "x".repeat(FETCH_URL_MAX - 18));
        assert!(HttpsUrl::parse(&fits).is_ok());
    }

    #[test]
    fn its_parts() {
        let url = HttpsUrl::parse("https://IdP.Example:8443/realms/a?b=c").unwrap();
        assert_eq!((url.host(), url.port(), url.target()), ("idp.example", 8443, "/realms/a?b=c"));
        assert_eq!((url.authority(), url.has_query()), ("IdP.Example:8443", true));
        let url = HttpsUrl::parse("https://[FD00::1]").unwrap();
        assert_eq!((url.host(), url.port(), url.target()), ("fd00::1", 443, "/"));
        assert_eq!(url.authority(), "[FD00::1]");
    }
}
