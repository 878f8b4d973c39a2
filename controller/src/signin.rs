//! How does somebody log in whom an identity provider knows? The browser brings a code, the controller asks the provider what it
//! means, and a person is whom the provider means by (issuer, subject).
//!
//! - `begin`: what a device asks for, and the answers that finish it. What is under way is in memory, bound to the device.
//! - `admit`: whose word counts for what: the account, its groups, the log-in.
//! - `check`: does the provider still stand by those who are logged in?

mod admit;
mod begin;
mod check;
#[cfg(test)]
mod tests;

pub use begin::{Begun, BegunCode, Polled};
pub use check::{Checked, check_forever};

use crate::directory::{Directory, Fact, Idp, IdpSecret, Refusal};
use crate::fetch::{Resolve, SystemResolver};
use crate::oidc::{Client, OidcError, Provider};
use crate::organisation::Organisation;
use model::ids::{DeviceId, IdpId, SessionId};
use model::secret::Secret;
use model::time::Instant;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a running controller knows of providers and sign-ins, in memory.
pub struct SignIns {
    resolver: Arc<dyn Resolve>,
    clients: Mutex<BTreeMap<IdpId, Known>>,
    pending: Mutex<BTreeMap<DeviceId, begin::Pending>>,
    /// When a log-in is to be checked next.
    due: Mutex<BTreeMap<SessionId, Instant>>,
    /// One look at all at a time: two uses of one refresh token look like a theft to many providers.
    looking: tokio::sync::Mutex<()>,
}

impl Default for SignIns {
    fn default() -> Self {
        Self::resolving(Arc::new(SystemResolver))
    }
}

impl SignIns {
    /// With names resolved by this.
    pub fn resolving(resolver: Arc<dyn Resolve>) -> Self {
        Self {
            resolver,
            clients: Mutex::default(),
            pending: Mutex::default(),
            due: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
        }
    }
}

/// Who speaks with a provider, with the revisions of the records that it was made of: its own, and its secret's.
type Known = ((u64, u64), Arc<Client>);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why somebody is not logged in: for the person, and for the audit trail.
#[derive(Debug)]
pub struct NotIn {
    /// For the person: one clear reason.
    pub refusal: Refusal,
    /// For the audit trail, in detail.
    pub detail: String,
}

impl NotIn {
    fn denied(person: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { refusal: Refusal::Denied(person.into()), detail: detail.into() }
    }
}

impl From<OidcError> for NotIn {
    fn from(error: OidcError) -> Self {
        Self::denied(error.for_person(), error.to_string())
    }
}

impl From<Refusal> for NotIn {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        Self { refusal, detail }
    }
}

/// The provider of this name.
pub fn named<'a>(directory: &'a Directory, name: &str) -> Result<&'a Fact<Idp>, Refusal> {
    directory.idps.typed(name).ok_or_else(|| Refusal::missing("idp", name))
}

impl Organisation {
    /// Who speaks with this provider. Kept for as long as its records stay as they are: what it said is remembered there.
    pub(crate) fn client_of(&self, directory: &Directory, idp: &Fact<Idp>) -> Result<Arc<Client>, NotIn> {
        let record = &idp.record;
        let secret = directory.idp_secrets.find(&record.id);
        let revisions = (idp.revision, secret.map_or(0, |fact| fact.revision));
        if let Some((of, client)) = locked(&self.sign_ins.clients).get(&record.id)
            && *of == revisions
        {
            return Ok(Arc::clone(client));
        }
        let secret = match (record.has_secret, secret) {
            (false, _) => None,
            (true, None) => {
                return Err(NotIn::from(Refusal::Failed("the provider's client secret is lost".to_owned())));
            }
            (true, Some(fact)) => {
                let opened = self.sealer.open(&IdpSecret::place(record.id), &fact.record.sealed);
                let opened = opened.map_err(|e| Refusal::Failed(e.to_string()))?;
                let text = String::from_utf8(opened.expose().clone());
                Some(Secret::new(text.map_err(|_| Refusal::Failed("the client secret is damaged".to_owned()))?))
            }
        };
        let client = Arc::new(self.make_client(record, secret)?);
        let mut clients = locked(&self.sign_ins.clients);
        clients.retain(|id, _| directory.idps.find(id).is_some());
        clients.insert(record.id, (revisions, Arc::clone(&client)));
        Ok(client)
    }

    /// Who speaks with a provider of this description. Asks nobody yet.
    pub(crate) fn make_client(&self, idp: &Idp, secret: Option<Secret<String>>) -> Result<Client, NotIn> {
        let provider = Provider {
            issuer: idp.issuer.clone(),
            client_id: idp.client_id.clone(),
            client_secret: secret,
            scopes: idp.scopes.clone(),
            ca_pem: idp.ca_pem.clone(),
            allow: idp.allow.clone(),
        };
        let resolver = Arc::clone(&self.sign_ins.resolver);
        Ok(Client::new(provider, self.org()?.pool, resolver, Arc::clone(&self.clock))?)
    }
}
