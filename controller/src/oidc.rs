//! What does an OpenID Connect provider say about a person? It is asked for a code's, a refresh token's or a device code's tokens,
//! and believed only what [`crate::token`] verifies.
//!
//! Sources: OpenID Connect Core 1.0 and Discovery 1.0, RFC 6749 (OAuth 2.0), RFC 7636 (PKCE), RFC 8628 (device code), RFC 9207
//! (issuer in the answer), RFC 9700 (best practice).

mod device;
mod endpoint;
mod error;
mod known;
mod metadata;
pub mod pkce;
mod renew;
pub use device::{DeviceCode, DevicePoll};
pub use error::{Asked, OidcError};
pub use metadata::Metadata;
pub use renew::{RefreshError, Refreshed};

use crate::fetch::{Authorization, Fetcher, HttpsUrl, Resolve};
use crate::token::{self, ClaimSet, Claims, Expect, TokenError};
use model::limits::PROVIDER_SCOPES_MAX;
use model::net::Prefix;
use model::pool::Pool;
use model::secret::Secret;
use model::time::Clock;
use std::sync::Arc;

/// A provider, as an administrator names it.
#[derive(Debug, Clone)]
pub struct Provider {
    /// The issuer's URL, to the letter: `https`, without query and fragment.
    pub issuer: String,
    /// What the provider calls us.
    pub client_id: String,
    /// What it knows us by; a public client has none.
    pub client_secret: Option<Secret<String>>,
    /// What is asked for besides `openid`, at most [`PROVIDER_SCOPES_MAX`].
    pub scopes: Vec<String>,
    /// PEM of the only CAs that are trusted for it; otherwise the operating system's.
    pub ca_pem: Option<String>,
    /// Addresses that are asked although such are not, see [`Fetcher::new`].
    pub allow: Vec<Prefix>,
}

/// What a log-in asks for (OpenID Connect Core 1.0, section 3.1.2.1).
#[derive(Debug, Clone, Copy, Default)]
pub struct AuthorizeRequest<'a> {
    /// [`pkce::random_text`], kept to compare with the answer's.
    pub state: &'a str,
    /// [`pkce::random_text`], kept for [`Client::exchange`].
    pub nonce: &'a str,
    /// [`pkce::challenge`] of the verifier that is kept for [`Client::exchange`].
    pub code_challenge: &'a str,
    /// Where the browser brings the code.
    pub redirect_uri: &'a str,
    /// `login`, `consent`, `select_account` or `none`.
    pub prompt: Option<&'a str>,
    /// Seconds since the person last proved who they are, at most.
    pub max_age: Option<u64>,
    /// Ways to log in of which one is asked for, spaces between them.
    pub acr_values: Option<&'a str>,
}

/// What a provider gave for a code.
#[derive(Debug)]
pub struct Tokens {
    /// The ID token's claims.
    pub claims: Claims,
    /// For [`Client::refresh`], if the provider gives one (scope `offline_access`, mostly).
    pub refresh: Option<Secret<String>>,
    /// What the provider shows to whoever holds the access token; see [`Client::complete`].
    pub userinfo: Option<ClaimSet>,
    access: Option<Secret<String>>,
}

impl Tokens {
    /// The text at this claim: of the ID token, or of what [`Client::complete`] found.
    pub fn string(&self, path: &str) -> Option<&str> {
        self.claims.all.string(path).or_else(|| self.userinfo.as_ref()?.string(path))
    }
    /// The list at this claim, likewise.
    pub fn list(&self, path: &str) -> Option<Vec<String>> {
        self.claims.all.list(path).or_else(|| self.userinfo.as_ref()?.list(path))
    }
}

/// Speaks with one provider.
pub struct Client {
    provider: Provider,
    issuer: HttpsUrl,
    fetcher: Fetcher,
    clock: Arc<dyn Clock>,
    known: tokio::sync::Mutex<known::Known>,
}

impl Client {
    /// Asks nobody yet. Reads the system's certificates from disk, if the provider has none of its own.
    pub fn new(
        provider: Provider,
        pool: Pool,
        resolver: Arc<dyn Resolve>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OidcError> {
        let issuer = HttpsUrl::parse(&provider.issuer).map_err(|why| OidcError::IssuerUrl(why.to_string()))?;
        if issuer.has_query() {
            return Err(OidcError::IssuerUrl("it has a query (`?`)".to_owned()));
        }
        let scope_fits = |scope: &String| {
            // RFC 6749, section 3.3.
            !scope.is_empty() && scope.bytes().all(|b| b == 0x21 || matches!(b, 0x23..=0x5b | 0x5d..=0x7e))
        };
        if provider.scopes.len() > PROVIDER_SCOPES_MAX || !provider.scopes.iter().all(scope_fits) {
            return Err(OidcError::Scopes);
        }
        let fetcher = Fetcher::new(pool, provider.ca_pem.as_deref(), provider.allow.clone(), resolver)?;
        Ok(Self { provider, issuer, fetcher, clock, known: tokio::sync::Mutex::default() })
    }

    /// The provider, as it was named.
    pub const fn provider(&self) -> &Provider {
        &self.provider
    }

    /// Where the person's browser is sent.
    pub async fn authorize_url(&self, request: AuthorizeRequest<'_>) -> Result<String, OidcError> {
        let metadata = self.metadata().await?;
        let mut query = form_urlencoded::Serializer::new(String::new());
        query
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.provider.client_id)
            .append_pair("redirect_uri", request.redirect_uri)
            .append_pair("scope", &self.scope())
            .append_pair("state", request.state)
            .append_pair("nonce", request.nonce)
            .append_pair("code_challenge", request.code_challenge)
            .append_pair("code_challenge_method", "S256");
        if let Some(prompt) = request.prompt {
            query.append_pair("prompt", prompt);
        }
        if let Some(seconds) = request.max_age {
            query.append_pair("max_age", &seconds.to_string());
        }
        if let Some(values) = request.acr_values {
            query.append_pair("acr_values", values);
        }
        let endpoint = &metadata.authorization_endpoint;
        let join = if endpoint.has_query() { '&' } else { '?' };
        Ok(format!("{endpoint}{join}{}", query.finish()))
    }

    /// Is the answer that a browser brought from this provider? `iss` is the answer's parameter (RFC 9207, section 2.4).
    pub async fn check_answer(&self, iss: Option<&str>) -> Result<(), OidcError> {
        match iss {
            Some(iss) if iss == self.provider.issuer => Ok(()),
            None if !self.metadata().await?.names_itself => Ok(()),
            _ => Err(OidcError::AnswerIssuer(error::shown(iss.unwrap_or("nobody")))),
        }
    }

    /// Turns a code into tokens. `verifier`, `redirect_uri` and `nonce` are those of the request that the code answers.
    pub async fn exchange(
        &self,
        code: &Secret<String>,
        verifier: &Secret<String>,
        redirect_uri: &str,
        nonce: &str,
    ) -> Result<Tokens, OidcError> {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code.expose()),
            ("redirect_uri", redirect_uri),
            ("code_verifier", verifier.expose()),
        ];
        let given = self.ask_token(&form).await?;
        let tokens = self.believe(given).await?;
        use subtle::ConstantTimeEq;
        let said = tokens.claims.nonce.as_deref().unwrap_or_default();
        if nonce.is_empty() || !bool::from(said.as_bytes().ct_eq(nonce.as_bytes())) {
            return Err(OidcError::Nonce);
        }
        Ok(tokens)
    }

    /// Asks the provider for what the ID token does not say, if one of these claims is missing and the provider has a userinfo
    /// endpoint.
    pub async fn complete(&self, tokens: &mut Tokens, wanted: &[&str]) -> Result<(), OidcError> {
        if wanted.iter().all(|path| tokens.claims.all.at(path).is_some()) {
            return Ok(());
        }
        let Some(access) = &tokens.access else { return Ok(()) };
        tokens.userinfo = self.userinfo(access, &tokens.claims.subject).await?;
        Ok(())
    }

    /// What the provider shows about the person (OpenID Connect Core 1.0, section 5.3), if it shows anything.
    async fn userinfo(&self, access: &Secret<String>, subject: &str) -> Result<Option<ClaimSet>, OidcError> {
        let metadata = self.metadata().await?;
        let Some(endpoint) = &metadata.userinfo_endpoint else { return Ok(None) };
        let answer = self.fetcher.get(endpoint, Authorization::Bearer(access)).await?;
        let said = endpoint::read(Asked::Userinfo, &answer)?;
        // Section 5.3.2: tokens and answers of two people must not be mixed.
        match said.get("sub").and_then(serde_json::Value::as_str) {
            Some(said) if said == subject => {}
            said => return Err(OidcError::Subject(Asked::Userinfo, error::shown(said.unwrap_or("nobody")))),
        }
        Ok(Some(ClaimSet(said)))
    }

    /// Verifies the ID token of an answer. Whoever sent a nonce compares it.
    async fn believe(&self, given: endpoint::Given) -> Result<Tokens, OidcError> {
        let id_token = given.id_token.ok_or(OidcError::NoIdToken)?;
        let claims = self.verify(&id_token).await?;
        Ok(Tokens { claims, refresh: given.refresh, userinfo: None, access: given.access })
    }

    async fn verify(&self, id_token: &Secret<String>) -> Result<Claims, OidcError> {
        let issuer = &self.provider.issuer;
        let expected = || Expect { issuer, audience: &self.provider.client_id, now: self.clock.wall() };
        let keys = self.keys(None).await?;
        match token::verify(id_token.expose(), &keys, &expected()) {
            // The provider has new keys, or somebody invents one: asked again, but not by everybody.
            Err(TokenError::Key) => {
                let keys = self.keys(Some(&keys)).await?;
                Ok(token::verify(id_token.expose(), &keys, &expected())?)
            }
            verified => Ok(verified?),
        }
    }

    /// `openid` and what else is asked for.
    fn scope(&self) -> String {
        let others = self.provider.scopes.iter().map(String::as_str).filter(|scope| *scope != "openid");
        std::iter::once("openid").chain(others).collect::<Vec<_>>().join(" ")
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Client").field(&self.provider.issuer).finish()
    }
}

#[cfg(test)]
pub(crate) mod tests;
