//! Does the provider still stand by a person? A refresh token tells (RFC 6749 section 6, OpenID Connect Core 1.0 section 12).

use super::Client;
use super::error::{Asked, OidcError, shown};
use crate::token::{ClaimSet, Claims};
use model::secret::Secret;

/// What a provider said of a person whom it still stands by.
#[derive(Debug)]
pub struct Refreshed {
    /// A new ID token's claims, about the same person.
    pub claims: Option<Claims>,
    /// What userinfo says of them, if the ID token did not say all.
    pub userinfo: Option<ClaimSet>,
    /// From now on instead of the one that was used, if the provider gave another.
    pub refresh: Option<Secret<String>>,
}

impl Refreshed {
    /// The text at this claim: of the ID token, or of userinfo.
    pub fn string(&self, path: &str) -> Option<&str> {
        let said = self.claims.as_ref().and_then(|claims| claims.all.string(path));
        said.or_else(|| self.userinfo.as_ref()?.string(path))
    }
    /// The list at this claim, likewise.
    pub fn list(&self, path: &str) -> Option<Vec<String>> {
        let said = self.claims.as_ref().and_then(|claims| claims.all.list(path));
        said.or_else(|| self.userinfo.as_ref()?.list(path))
    }
}

/// Why a refresh gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefreshError {
    /// The provider does not stand by the person any more: the session ends.
    #[error("the identity provider took the log-in back: {0}")]
    Revoked(OidcError),
    /// Nothing was decided: try again later.
    #[error(transparent)]
    Unreachable(OidcError),
    /// What came is not believed, or we are refused ourselves: nobody said that the person is gone.
    #[error(transparent)]
    Failed(OidcError),
}

impl From<OidcError> for RefreshError {
    fn from(error: OidcError) -> Self {
        match &error {
            OidcError::Refused { error: code, asked: Asked::Token, .. } if code == "invalid_grant" => {
                Self::Revoked(error)
            }
            unreachable if unreachable.is_unreachable() => Self::Unreachable(error),
            _ => Self::Failed(error),
        }
    }
}

impl Client {
    /// Uses a refresh token of the person with this `subject`. A new ID token must be about them (section 12.2); without one, or
    /// where it does not have the claim that is `wanted`, userinfo is asked, too.
    pub async fn refresh(
        &self,
        token: &Secret<String>,
        subject: &str,
        wanted: &str,
    ) -> Result<Refreshed, RefreshError> {
        let form = [("grant_type", "refresh_token"), ("refresh_token", token.expose().as_str())];
        let given = self.ask_token(&form).await?;
        let (mut claims, mut userinfo) = (None, None);
        if let Some(id_token) = &given.id_token {
            let said = self.verify(id_token).await?;
            if said.subject != subject {
                return Err(OidcError::Subject(Asked::Token, shown(&said.subject)).into());
            }
            claims = Some(said);
        }
        let told = claims.as_ref().is_some_and(|said| said.all.at(wanted).is_some());
        if let Some(access) = given.access.as_ref().filter(|_| !told) {
            userinfo = self.userinfo(access, subject).await?;
        }
        if claims.is_none() && userinfo.is_none() {
            return Err(OidcError::NoIdToken.into());
        }
        Ok(Refreshed { claims, userinfo, refresh: given.refresh })
    }
}
