//! How is a provider's endpoint asked, and what does its answer say? Forms go there, and JSON objects come back, or errors
//! (RFC 6749, sections 2.3.1, 5.1 and 5.2).

use super::Client;
use super::error::{Asked, OidcError, shown};
use super::metadata::Authentication;
use crate::fetch::{Answer, Authorization, HttpsUrl};
use crate::token::strict;
use model::secret::Secret;
use serde_json::{Map, Value};

/// What a token endpoint gave. Nothing of it is believed yet.
pub(super) struct Given {
    pub id_token: Option<Secret<String>>,
    pub access: Option<Secret<String>>,
    pub refresh: Option<Secret<String>>,
}

/// Reads a JSON object, or the error that is told in its place.
pub(super) fn read(asked: Asked, answer: &Answer) -> Result<Map<String, Value>, OidcError> {
    let said = strict::object(answer.body.expose()).ok_or("it is no JSON object that says each thing once");
    if answer.status == http::StatusCode::OK {
        return match said {
            // A signed answer, which nobody asked for, for one.
            Err(_) if answer.media_type != "application/json" => {
                Err(OidcError::Form(asked, format!("it is `{}`, not JSON", shown(&answer.media_type))))
            }
            said => said.map_err(|why| OidcError::Form(asked, why.to_owned())),
        };
    }
    let status = OidcError::Status(asked, answer.status.as_u16());
    if status.is_unreachable() {
        return Err(status);
    }
    let Ok(said) = said else { return Err(status) };
    let text = |name: &str| said.get(name).and_then(Value::as_str).map(shown);
    match text("error") {
        Some(error) => {
            let description = text("error_description").map(|words| format!(" ({words})")).unwrap_or_default();
            Err(OidcError::Refused { asked, error, description })
        }
        None => Err(status),
    }
}

/// One text as `application/x-www-form-urlencoded` (RFC 6749, appendix B).
fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// Client id and secret, encoded.
type Basic = Option<(String, Secret<String>)>;

impl Client {
    /// Asks an endpoint with a form, as the client that we are.
    pub(super) async fn ask_form(
        &self,
        asked: Asked,
        url: &HttpsUrl,
        form: &[(&str, &str)],
    ) -> Result<Map<String, Value>, OidcError> {
        let metadata = self.metadata().await?;
        let (body, basic) = self.signed(form, metadata.authentication)?;
        let authorization = match &basic {
            Some((us, secret)) => Authorization::Basic(us, secret),
            None => Authorization::None,
        };
        read(asked, &self.fetcher.post(url, authorization, &body).await?)
    }

    /// The form with who we are in it, or id and secret for its header.
    fn signed(&self, form: &[(&str, &str)], how: Authentication) -> Result<(Secret<String>, Basic), OidcError> {
        let us = &self.provider.client_id;
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(form);
        let basic = match (&self.provider.client_secret, how) {
            (Some(secret), Authentication::Basic) => Some((encoded(us), Secret::new(encoded(secret.expose())))),
            (Some(secret), Authentication::Post) => {
                body.append_pair("client_id", us).append_pair("client_secret", secret.expose());
                None
            }
            (Some(_), Authentication::Unknown) => return Err(OidcError::ClientAuthentication),
            (None, _) => {
                body.append_pair("client_id", us);
                None
            }
        };
        Ok((Secret::new(body.finish()), basic))
    }

    /// Asks the token endpoint.
    pub(super) async fn ask_token(&self, form: &[(&str, &str)]) -> Result<Given, OidcError> {
        let url = self.metadata().await?.token_endpoint.clone();
        let mut said = self.ask_form(Asked::Token, &url, form).await?;
        let mut take = |name: &'static str| match said.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(Secret::new(text))),
            Some(_) => Err(OidcError::Form(Asked::Token, format!("its `{name}` is no text"))),
        };
        let given =
            Given { id_token: take("id_token")?, access: take("access_token")?, refresh: take("refresh_token")? };
        match take("token_type")? {
            Some(sort) if given.access.is_some() && !sort.expose().eq_ignore_ascii_case("Bearer") => {
                Err(OidcError::Form(Asked::Token, "its access token is of another type than Bearer".to_owned()))
            }
            _ => Ok(given),
        }
    }
}
