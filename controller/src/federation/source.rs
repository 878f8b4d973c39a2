//! With which keys does an issuer sign? As an administrator gave them; or as the issuer itself says, asked within bounds.
//!
//! Of the issuer's metadata only its name and the place of its keys are read (OpenID Connect Discovery 1.0, section 4): what signs for
//! workloads has, mostly, no place to log in.

use crate::directory::{KeySource, Trust};
use crate::fetch::{Authorization, FetchError, Fetcher, HttpsUrl, Resolve};
use crate::token::{KeySet, KeySetError, strict};
use model::limits::{PROVIDER_CACHE_LIFE, PROVIDER_FAILED_LIFE, PROVIDER_KEYS_EVERY, PROVIDER_TEXT_CHARS_MAX};
use model::pool::Pool;
use model::text::excerpt;
use model::time::Instant;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Why an issuer's keys are not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The issuer is not one to ask.
    #[error("the issuer `{0}` cannot be asked for its keys: {1}; give them with --jwks-file")]
    Issuer(String, String),
    /// It cannot be asked.
    #[error("the issuer cannot be asked: {0}")]
    Fetch(#[from] FetchError),
    /// It answered with a status that says nothing.
    #[error("the issuer was asked for its {0} and answered with status {1}")]
    Status(&'static str, u16),
    /// It calls itself otherwise.
    #[error("the issuer's metadata is that of `{0}`")]
    Other(String),
    /// No usable metadata.
    #[error("the issuer's metadata has no usable `{0}`")]
    Metadata(&'static str),
    /// Its keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeySetError),
}

impl SourceError {
    /// May the same question be answered otherwise in a moment?
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Fetch(_) | Self::Status(_, 429 | 500..=599))
    }
}

/// What was learnt, and when.
#[derive(Default)]
struct Known {
    keys: Option<(Instant, Arc<KeySet>)>,
    /// When keys were asked for because of one that was not known.
    asked_again: Option<Instant>,
    /// The last failure, which answers whoever waited behind it.
    failed: Option<(Instant, SourceError)>,
}

/// One issuer's keys.
pub enum Source {
    /// They do not change.
    Given(Arc<KeySet>),
    /// They are asked for.
    Asked(Box<Asking>),
}

/// Asks an issuer.
pub struct Asking {
    issuer: HttpsUrl,
    fetcher: Fetcher,
    known: tokio::sync::Mutex<Known>,
}

fn url(issuer: &str) -> Result<HttpsUrl, SourceError> {
    let bad = |why: String| SourceError::Issuer(excerpt(issuer, PROVIDER_TEXT_CHARS_MAX), why);
    let url = HttpsUrl::parse(issuer).map_err(|e| bad(e.to_string()))?;
    if url.has_query() { Err(bad("it has a query (`?`)".to_owned())) } else { Ok(url) }
}

impl Source {
    /// That of a rule. Asks nobody yet.
    pub fn of(trust: &Trust, pool: Pool, resolver: Arc<dyn Resolve>) -> Result<Self, SourceError> {
        match &trust.keys {
            KeySource::Given(text) => Ok(Self::Given(Arc::new(KeySet::parse(text.as_bytes())?))),
            KeySource::Discovery { ca_pem, allow } => {
                let issuer = url(&trust.issuer)?;
                let fetcher = Fetcher::new(pool, ca_pem.as_deref(), allow.clone(), resolver)?;
                Ok(Self::Asked(Box::new(Asking { issuer, fetcher, known: tokio::sync::Mutex::default() })))
            }
        }
    }

    /// The keys. `lacking` are keys among which one was not found: newer ones are asked for, at most every [`PROVIDER_KEYS_EVERY`].
    pub async fn keys(&self, now: Instant, lacking: Option<&Arc<KeySet>>) -> Result<Arc<KeySet>, SourceError> {
        match self {
            Self::Given(keys) => Ok(Arc::clone(keys)),
            Self::Asked(asking) => asking.keys(now, lacking).await,
        }
    }
}

impl Asking {
    async fn keys(&self, now: Instant, lacking: Option<&Arc<KeySet>>) -> Result<Arc<KeySet>, SourceError> {
        let mut known = self.known.lock().await;
        if let Some((_, keys)) = known.keys.as_ref().filter(|(at, _)| now.since(*at) < PROVIDER_CACHE_LIFE) {
            let newer = lacking.is_none_or(|lacking| !Arc::ptr_eq(lacking, keys));
            let lately = known.asked_again.is_some_and(|at| now.since(at) < PROVIDER_KEYS_EVERY);
            if newer || lately {
                return Ok(Arc::clone(keys));
            }
            known.asked_again = Some(now);
        }
        if let Some((at, error)) = &known.failed
            && now.since(*at) < PROVIDER_FAILED_LIFE
        {
            return Err(error.clone());
        }
        match self.fetch().await {
            Ok(keys) => {
                let keys = Arc::new(keys);
                known.keys = Some((now, Arc::clone(&keys)));
                Ok(keys)
            }
            Err(error) => {
                known.failed = Some((now, error.clone()));
                Err(error)
            }
        }
    }

    async fn fetch(&self) -> Result<KeySet, SourceError> {
        let base = self.issuer.as_str().strip_suffix('/').unwrap_or(self.issuer.as_str());
        let place = url(&format!("{base}/.well-known/openid-configuration"))?;
        let metadata = self.get("metadata", &place).await?;
        let metadata = strict::object(&metadata).ok_or(SourceError::Metadata("issuer"))?;
        let keys = place_of_keys(&metadata, self.issuer.as_str())?;
        Ok(KeySet::parse(&self.get("keys", &keys).await?)?)
    }

    async fn get(&self, what: &'static str, url: &HttpsUrl) -> Result<Vec<u8>, SourceError> {
        let answer = self.fetcher.get(url, Authorization::None).await?;
        if answer.status != http::StatusCode::OK {
            return Err(SourceError::Status(what, answer.status.as_u16()));
        }
        Ok(answer.body.expose().clone())
    }
}

/// Where the keys are, by metadata that names this issuer, to the letter.
fn place_of_keys(metadata: &Map<String, Value>, issuer: &str) -> Result<HttpsUrl, SourceError> {
    let text = |name: &'static str| metadata.get(name).and_then(Value::as_str).ok_or(SourceError::Metadata(name));
    let told = text("issuer")?;
    if told != issuer {
        return Err(SourceError::Other(excerpt(told, PROVIDER_TEXT_CHARS_MAX)));
    }
    HttpsUrl::parse(text("jwks_uri")?).map_err(|_| SourceError::Metadata("jwks_uri"))
}
