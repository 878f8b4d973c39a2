//! How does somebody log in on a machine without a browser? With a code that they type in elsewhere (RFC 8628).

use super::error::{Asked, OidcError, shown};
use super::{Client, Tokens};
use crate::fetch::HttpsUrl;
use model::limits::{DEVICE_CODE_LIFE_MAX, DEVICE_POLL_MAX};
use model::secret::Secret;
use serde_json::{Map, Value};
use std::time::Duration;

/// A log-in that waits for its person (RFC 8628, section 3.2).
#[derive(Debug)]
pub struct DeviceCode {
    /// For [`Client::device_token`].
    pub device_code: Secret<String>,
    /// What the person types in.
    pub user_code: String,
    /// Where.
    pub verification_uri: HttpsUrl,
    /// The same with the code in it.
    pub verification_uri_complete: Option<HttpsUrl>,
    /// Pause between two polls, 1 s to [`DEVICE_POLL_MAX`].
    pub interval: Duration,
    /// How long the code lives, at most [`DEVICE_CODE_LIFE_MAX`].
    pub expires_in: Duration,
}

/// How far such a log-in is (RFC 8628, section 3.5).
#[derive(Debug)]
pub enum DevicePoll {
    /// The person has not answered yet.
    Pending,
    /// Nor yet, and the pause has to be 5 s longer from now on.
    SlowDown,
    /// The person, or the provider, said no.
    Denied,
    /// The code is over.
    Expired,
    /// They logged in.
    Done(Box<Tokens>),
}

/// Where a provider says nothing else (RFC 8628, section 3.2).
const INTERVAL: Duration = Duration::from_secs(5);

impl Client {
    /// Starts a log-in.
    pub async fn device_authorization(&self) -> Result<DeviceCode, OidcError> {
        let url = self.metadata().await?.device_authorization_endpoint.clone().ok_or(OidcError::NoDeviceFlow)?;
        let said = self.ask_form(Asked::Device, &url, &[("scope", &self.scope())]).await?;
        read(&said)
    }

    /// Asks how far it is. There is no nonce in this flow: who holds the device code asked for it.
    pub async fn device_token(&self, device_code: &Secret<String>) -> Result<DevicePoll, OidcError> {
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("device_code", device_code.expose().as_str()),
        ];
        match self.ask_token(&form).await {
            Ok(given) => Ok(DevicePoll::Done(Box::new(self.believe(given).await?))),
            Err(OidcError::Refused { asked, error, description }) => match error.as_str() {
                "authorization_pending" => Ok(DevicePoll::Pending),
                "slow_down" => Ok(DevicePoll::SlowDown),
                "access_denied" => Ok(DevicePoll::Denied),
                "expired_token" => Ok(DevicePoll::Expired),
                _ => Err(OidcError::Refused { asked, error, description }),
            },
            Err(error) => Err(error),
        }
    }
}

fn read(said: &Map<String, Value>) -> Result<DeviceCode, OidcError> {
    let bad = |why: String| OidcError::Form(Asked::Device, why);
    let text = |name: &str| said.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let needed = |name: &str| text(name).ok_or_else(|| bad(format!("it has no `{name}`")));
    let url = |text: &str| HttpsUrl::parse(text).map_err(|why| bad(format!("its address for the person: {why}")));
    let seconds = |name: &str| said.get(name).and_then(Value::as_u64).map(Duration::from_secs);
    let user_code = needed("user_code")?;
    if shown(user_code) != user_code {
        return Err(bad("its `user_code` cannot be shown".to_owned()));
    }
    // Some call it `verification_url`, as a draft did.
    let verification_uri = url(text("verification_uri").map_or_else(|| needed("verification_url"), Ok)?)?;
    Ok(DeviceCode {
        device_code: Secret::new(needed("device_code")?.to_owned()),
        user_code: user_code.to_owned(),
        verification_uri,
        verification_uri_complete: text("verification_uri_complete").map(url).transpose()?,
        interval: seconds("interval").unwrap_or(INTERVAL).clamp(Duration::from_secs(1), DEVICE_POLL_MAX),
        expires_in: seconds("expires_in")
            .ok_or_else(|| bad("it has no `expires_in`".to_owned()))?
            .min(DEVICE_CODE_LIFE_MAX),
    })
}
