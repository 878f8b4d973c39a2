//! Why does a provider's word not count? In full for the audit trail and the log, and in short for the person who logs in.

use crate::fetch::FetchError;
use crate::token::{KeySetError, TokenError};
use model::limits::PROVIDER_TEXT_CHARS_MAX;
use model::text::excerpt;
use std::fmt;

/// What was asked of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Its metadata.
    Metadata,
    /// Its keys.
    Keys,
    /// A token.
    Token,
    /// What it shows about a person.
    Userinfo,
    /// A device code.
    Device,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Metadata => "metadata",
            Self::Keys => "keys",
            Self::Token => "a token",
            Self::Userinfo => "userinfo",
            Self::Device => "a device code",
        })
    }
}

/// Why a provider's word does not count. What it wrote itself is cut and escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OidcError {
    /// The issuer cannot be one.
    #[error("the issuer's URL cannot be used: {0}")]
    IssuerUrl(String),
    /// Too many scopes, or one that cannot be.
    #[error("the scopes cannot be used: at most {max}, each of printable ASCII without spaces, quotes and backslashes", max = model::limits::PROVIDER_SCOPES_MAX)]
    Scopes,
    /// It cannot be asked.
    #[error("the identity provider cannot be asked: {0}")]
    Fetch(#[from] FetchError),
    /// It answered with a status that says nothing.
    #[error("the identity provider was asked for {0} and answered with status {1}")]
    Status(Asked, u16),
    /// What it answered makes no sense.
    #[error("the identity provider was asked for {0}, and its answer makes no sense: {1}")]
    Form(Asked, String),
    /// It refused (RFC 6749, section 5.2).
    #[error("the identity provider was asked for {asked} and refuses: {error}{description}")]
    Refused {
        /// What it refuses.
        asked: Asked,
        /// The error's code, such as `invalid_grant`.
        error: String,
        /// ` (...)` with its own words, or nothing.
        description: String,
    },
    /// Metadata of somebody else (OpenID Connect Discovery 1.0, section 4.3).
    #[error("the identity provider calls itself `{told}`, not `{expected}`: name it as it names itself")]
    OtherIssuer {
        /// What it says.
        told: String,
        /// What was named.
        expected: String,
    },
    /// An endpoint that is missing, or not one to ask.
    #[error("the identity provider's metadata has no usable `{0}`: {1}")]
    Endpoint(&'static str, String),
    /// It knows PKCE, but not S256.
    #[error("the identity provider does not know PKCE with S256, without which a code can be stolen")]
    Pkce,
    /// It takes our secret in no way that we know.
    #[error("the identity provider takes a client's secret neither as client_secret_basic nor as client_secret_post")]
    ClientAuthentication,
    /// Its keys cannot be used.
    #[error("the identity provider's keys cannot be used: {0}")]
    Keys(#[from] KeySetError),
    /// Its ID token is not believed.
    #[error("the identity provider's ID token is not believed: {0}")]
    Token(#[from] TokenError),
    /// None came.
    #[error("the identity provider gave no ID token: is the scope `openid` allowed to this client?")]
    NoIdToken,
    /// The ID token answers another request.
    #[error("the ID token answers another log-in than this one (its nonce differs)")]
    Nonce,
    /// An answer about another person.
    #[error("the identity provider was asked for {0}, and answers about another person: `{1}`")]
    Subject(Asked, String),
    /// The browser's answer is from another provider (RFC 9207).
    #[error("the answer that the browser brought is from `{0}`, not from the identity provider that was asked")]
    AnswerIssuer(String),
    /// It has no device authorization endpoint.
    #[error(
        "the identity provider does not know log-in by device code (RFC 8628): log in with a browser on this machine"
    )]
    NoDeviceFlow,
}

impl OidcError {
    /// Is it that nobody could be asked, or that who was asked is not able to answer now? Then nothing was decided.
    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Fetch(_) | Self::Status(_, 429 | 500..=599))
    }

    /// For the person who logs in: short, and without what only an administrator may know.
    pub const fn for_person(&self) -> &'static str {
        match self {
            _ if self.is_unreachable() => "the identity provider cannot be reached; try again later",
            Self::Refused { .. } => "the identity provider refused the log-in; start it again",
            Self::Nonce | Self::AnswerIssuer(_) => {
                "the identity provider's answer is not one to this log-in; start it again"
            }
            Self::Subject(..) => "the identity provider's answer is about somebody else",
            Self::NoDeviceFlow => "the identity provider does not know log-in by device code; log in with a browser",
            Self::Token(TokenError::Expired | TokenError::Early) => {
                "the identity provider's answer is not of now; ask an administrator to look at the clocks"
            }
            Self::Token(_) | Self::Keys(_) => "the identity provider's answer is not believed; ask an administrator",
            _ => "log-in with the identity provider is not set up as it should be; ask an administrator",
        }
    }
}

/// A provider's text, as it may be shown.
pub(super) fn shown(text: &str) -> String {
    excerpt(text, PROVIDER_TEXT_CHARS_MAX)
}
