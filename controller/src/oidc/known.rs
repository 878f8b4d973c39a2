//! What is known of a provider already, and when is it asked again?

use super::Client;
use super::endpoint;
use super::error::{Asked, OidcError};
use super::metadata::Metadata;
use crate::fetch::Authorization;
use crate::token::KeySet;
use model::limits::{PROVIDER_CACHE_LIFE, PROVIDER_FAILED_LIFE, PROVIDER_KEYS_EVERY};
use model::time::Instant;
use std::sync::Arc;

/// What was learnt, and when.
#[derive(Debug, Default)]
pub(super) struct Known {
    metadata: Option<(Instant, Arc<Metadata>)>,
    keys: Option<(Instant, Arc<KeySet>)>,
    /// When keys were asked for because of one that was not known.
    asked_again: Option<Instant>,
    /// The last failure, which answers whoever waited behind it.
    failed: Option<(Instant, OidcError)>,
}

impl Known {
    fn failed_just_now(&self, now: Instant) -> Result<(), OidcError> {
        match &self.failed {
            Some((at, error)) if now.since(*at) < PROVIDER_FAILED_LIFE => Err(error.clone()),
            _ => Ok(()),
        }
    }
}

/// Not older than [`PROVIDER_CACHE_LIFE`].
fn fresh<T>(held: Option<&(Instant, Arc<T>)>, now: Instant) -> Option<Arc<T>> {
    held.filter(|(at, _)| now.since(*at) < PROVIDER_CACHE_LIFE).map(|(_, value)| Arc::clone(value))
}

impl Client {
    /// The provider's metadata, at most [`PROVIDER_CACHE_LIFE`] old.
    pub async fn metadata(&self) -> Result<Arc<Metadata>, OidcError> {
        self.metadata_in(&mut *self.known.lock().await).await
    }

    async fn metadata_in(&self, known: &mut Known) -> Result<Arc<Metadata>, OidcError> {
        let now = self.clock.now();
        if let Some(metadata) = fresh(known.metadata.as_ref(), now) {
            return Ok(metadata);
        }
        known.failed_just_now(now)?;
        match self.fetch_metadata().await {
            Ok(metadata) => {
                let metadata = Arc::new(metadata);
                known.metadata = Some((now, Arc::clone(&metadata)));
                Ok(metadata)
            }
            Err(error) => {
                known.failed = Some((self.clock.now(), error.clone()));
                Err(error)
            }
        }
    }

    /// The provider's keys, at most [`PROVIDER_CACHE_LIFE`] old. `lacking` are keys among which one was not found: newer ones
    /// than these are asked for, at most every [`PROVIDER_KEYS_EVERY`].
    pub(super) async fn keys(&self, lacking: Option<&Arc<KeySet>>) -> Result<Arc<KeySet>, OidcError> {
        let mut known = self.known.lock().await;
        let now = self.clock.now();
        if let Some(keys) = fresh(known.keys.as_ref(), now) {
            let newer = lacking.is_none_or(|lacking| !Arc::ptr_eq(lacking, &keys));
            let lately = known.asked_again.is_some_and(|at| now.since(at) < PROVIDER_KEYS_EVERY);
            if newer || lately {
                return Ok(keys);
            }
            known.asked_again = Some(now);
        }
        let metadata = self.metadata_in(&mut known).await?;
        known.failed_just_now(now)?;
        match self.fetch_keys(&metadata).await {
            Ok(keys) => {
                let keys = Arc::new(keys);
                known.keys = Some((now, Arc::clone(&keys)));
                Ok(keys)
            }
            Err(error) => {
                known.failed = Some((self.clock.now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn fetch_metadata(&self) -> Result<Metadata, OidcError> {
        let answer = self.fetcher.get(&Metadata::url(&self.issuer)?, Authorization::None).await?;
        Metadata::read(&endpoint::read(Asked::Metadata, &answer)?, &self.provider.issuer)
    }

    async fn fetch_keys(&self, metadata: &Metadata) -> Result<KeySet, OidcError> {
        let answer = self.fetcher.get(&metadata.jwks_uri, Authorization::None).await?;
        if answer.status != http::StatusCode::OK {
            return Err(OidcError::Status(Asked::Keys, answer.status.as_u16()));
        }
        Ok(KeySet::parse(answer.body.expose())?)
    }
}
