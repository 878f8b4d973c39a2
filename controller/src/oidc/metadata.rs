//! Where does a provider answer, and what does it know? Its metadata says so (OpenID Connect Discovery 1.0, RFC 8414).

use super::error::{OidcError, shown};
use crate::fetch::HttpsUrl;
use serde_json::{Map, Value};

/// What is used of a provider's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Where browsers log in.
    pub authorization_endpoint: HttpsUrl,
    /// Where codes and refresh tokens are turned into tokens.
    pub token_endpoint: HttpsUrl,
    /// Where its keys are.
    pub jwks_uri: HttpsUrl,
    /// Where it shows more about a person.
    pub userinfo_endpoint: Option<HttpsUrl>,
    /// Where log-in by device code starts (RFC 8628, section 4).
    pub device_authorization_endpoint: Option<HttpsUrl>,
    /// Where it says whether a token is alive (RFC 7662).
    pub introspection_endpoint: Option<HttpsUrl>,
    /// Does it name itself in the answer that a browser brings (`authorization_response_iss_parameter_supported`, RFC 9207)?
    pub names_itself: bool,
    /// How we say who we are when we ask for a token.
    pub(super) authentication: Authentication,
}

/// How a client with a secret says who it is (OpenID Connect Core 1.0, section 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Authentication {
    /// `client_secret_basic`.
    Basic,
    /// `client_secret_post`.
    Post,
    /// Only in ways that we do not know.
    Unknown,
}

impl Metadata {
    /// Where a provider's metadata is (OpenID Connect Discovery 1.0, section 4.1).
    pub(super) fn url(issuer: &HttpsUrl) -> Result<HttpsUrl, OidcError> {
        let base = issuer.as_str().strip_suffix('/').unwrap_or(issuer.as_str());
        let url = format!("{base}/.well-known/openid-configuration");
        HttpsUrl::parse(&url).map_err(|why| OidcError::IssuerUrl(why.to_string()))
    }

    /// Reads the metadata of `issuer`.
    pub(super) fn read(said: &Map<String, Value>, issuer: &str) -> Result<Self, OidcError> {
        let told = said.get("issuer").and_then(Value::as_str).unwrap_or_default();
        if told != issuer {
            return Err(OidcError::OtherIssuer { told: shown(told), expected: issuer.to_owned() });
        }
        // Providers that do not list their methods take S256 nonetheless; one that lists others does not.
        if list(said, "code_challenge_methods_supported").is_some_and(|methods| !methods.contains(&"S256")) {
            return Err(OidcError::Pkce);
        }
        // Left out, it is basic (OpenID Connect Discovery 1.0, section 3).
        let authentication = match list(said, "token_endpoint_auth_methods_supported") {
            None => Authentication::Basic,
            Some(methods) if methods.contains(&"client_secret_basic") => Authentication::Basic,
            Some(methods) if methods.contains(&"client_secret_post") => Authentication::Post,
            Some(_) => Authentication::Unknown,
        };
        let names_itself = said.get("authorization_response_iss_parameter_supported") == Some(&Value::Bool(true));
        Ok(Self {
            authorization_endpoint: needed(said, "authorization_endpoint")?,
            token_endpoint: needed(said, "token_endpoint")?,
            jwks_uri: needed(said, "jwks_uri")?,
            userinfo_endpoint: optional(said, "userinfo_endpoint")?,
            device_authorization_endpoint: optional(said, "device_authorization_endpoint")?,
            introspection_endpoint: optional(said, "introspection_endpoint")?,
            names_itself,
            authentication,
        })
    }
}

fn list<'a>(said: &'a Map<String, Value>, name: &str) -> Option<Vec<&'a str>> {
    Some(said.get(name)?.as_array()?.iter().filter_map(Value::as_str).collect())
}

fn needed(said: &Map<String, Value>, name: &'static str) -> Result<HttpsUrl, OidcError> {
    optional(said, name)?.ok_or_else(|| OidcError::Endpoint(name, "it is missing".to_owned()))
}

fn optional(said: &Map<String, Value>, name: &'static str) -> Result<Option<HttpsUrl>, OidcError> {
    let bad = |why: &dyn std::fmt::Display| OidcError::Endpoint(name, why.to_string());
    match said.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(url)) => HttpsUrl::parse(url).map(Some).map_err(|why| bad(&why)),
        Some(_) => Err(bad(&"it is no text")),
    }
}
