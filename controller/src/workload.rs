//! Which identities do a workload's programs get, and who signs them?
//!
//! A device that joined as a service account asks for the account's registrations, makes the keys, and has each certificate
//! signed here. What signs is apart from the CA of the nodes ([`keys`]): no node believes it. Each call is decided from what is true
//! now, so that a disabled account and a revoked device get nothing from the same moment on.

pub mod handed;
pub mod keys;
pub mod token;

pub use handed::{Handed, Kind};
pub use keys::WorkloadKeys;

use crate::audit::{Entry, Outcome};
use crate::ca::{self, Svid};
use crate::directory::{Account, Directory, Fact, Refusal, Registration, SealedSecret};
use crate::judge::{self, Asker};
use crate::organisation::{LoadError, Organisation, secret};
use crate::rate::Act;
use crate::store::{Commit, Record as _};
use model::ids::{DeviceId, NodeId, RegistrationId};
use model::limits::{WORKLOAD_AUDIENCE_MAX, WORKLOAD_AUDIENCES_MAX, WORKLOAD_SVID_LIFE, WORKLOAD_TOKEN_LIFE};
use model::secret::Secret;
use model::spiffe::SpiffeId;
use model::text::is_hidden;
use std::sync::PoisonError;
use std::time::Duration;

/// What a device is told: whose programs get which id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The registration.
    pub id: RegistrationId,
    /// What its programs are called.
    pub spiffe: SpiffeId,
    /// Of this user.
    pub uid: Option<u32>,
    /// Of this group.
    pub gid: Option<u32>,
}

fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal::Failed(error.to_string())
}

/// The service account that this device joined as, while both take part.
fn account_of(directory: &Directory, organisation: &Organisation, device: DeviceId) -> Result<Account, Refusal> {
    match judge::asker(directory, device, organisation.wall()) {
        Ok(Asker::Workload { account, .. }) => Ok(account.record.clone()),
        Ok(Asker::Person(_)) | Err(judge::Standing::Session) => Err(Refusal::Denied(
            "this machine did not join as a service account: its programs have no identities".to_owned(),
        )),
        Err(standing) => Err(Refusal::Denied(standing.to_string())),
    }
}

/// The registrations of an account, in the order in which a program is shown its identities: the oldest first.
pub fn of_account(directory: &Directory, account: &Account) -> Vec<Registration> {
    let of = |fact: &&Fact<Registration>| fact.record.account == account.id;
    let mut all: Vec<_> = directory.registrations.values().filter(of).map(|fact| fact.record.clone()).collect();
    all.sort_by_key(|one| (one.created, one.id));
    all
}

impl Organisation {
    /// What signs programs' identities; made when it is first needed.
    pub async fn workload_keys(&self) -> Result<&WorkloadKeys, Refusal> {
        self.workload_keys.get_or_try_init(|| self.load_workload_keys()).await
    }

    async fn load_workload_keys(&self) -> Result<WorkloadKeys, Refusal> {
        let domain = self.org()?.trust_domain;
        let read = async |id| match secret(self.store.as_ref(), &self.sealer, id).await {
            Ok(found) => Ok(Some(found)),
            Err(LoadError::Secret(_)) => Ok(None),
            Err(error) => Err(failed(error)),
        };
        let stored = read(SealedSecret::WORKLOAD_CA).await?;
        let key = read(SealedSecret::WORKLOAD_CA_KEY).await?;
        let token = read(SealedSecret::WORKLOAD_TOKEN_KEY).await?;
        if let (Some(ca), Some(key), Some(token)) = (&stored, &key, &token) {
            return WorkloadKeys::load(&domain, ca.expose(), key, token).map_err(failed);
        }
        if stored.is_some() || key.is_some() || token.is_some() {
            return Err(Refusal::Failed(
                "the keys of programs' identities are damaged: restore the last backup".to_owned(),
            ));
        }
        let (keys, parts) = WorkloadKeys::create(&domain, self.wall()).map_err(failed)?;
        let seal = |id: &'static str, plain: &Secret<Vec<u8>>| {
            let sealed = self.sealer.seal(&SealedSecret::place(id), plain.expose()).map_err(failed)?;
            Ok::<_, Refusal>((id, SealedSecret { sealed }))
        };
        let sealed = [
            seal(SealedSecret::WORKLOAD_CA, &parts.ca)?,
            seal(SealedSecret::WORKLOAD_CA_KEY, &parts.ca_key)?,
            seal(SealedSecret::WORKLOAD_TOKEN_KEY, &parts.token_key)?,
        ];
        self.change(|_, draft| {
            for (id, secret) in &sealed {
                draft.create(*id, secret)?;
            }
            Ok(((), Entry::new(self.wall(), "controller", "workload-keys.make", "org/self", Outcome::Done)))
        })
        .await?;
        Ok(keys)
    }

    /// What programs of this device may be called.
    pub fn registrations(&self, device: DeviceId) -> Result<Vec<Told>, Refusal> {
        let directory = self.now();
        let account = account_of(&directory, self, device)?;
        let domain = self.org()?.trust_domain;
        let told = |one: Registration| {
            let spiffe = one.path.id(domain.as_str(), account.name.as_str()).map_err(failed)?;
            Ok(Told { id: one.id, spiffe, uid: one.uid, gid: one.gid })
        };
        of_account(&directory, &account).into_iter().map(told).collect()
    }

    /// What a program of this registration is called, if this device may say so now.
    fn named(&self, device: DeviceId, registration: RegistrationId) -> Result<SpiffeId, Refusal> {
        let told = self.registrations(device)?.into_iter().find(|one| one.id == registration);
        told.map(|one| one.spiffe)
            .ok_or_else(|| Refusal::Denied("there is no such registration for this machine".to_owned()))
    }

    /// Writes into the audit trail who gets what, where that is not said there yet. What cannot be said is not given.
    async fn say_handed(
        &self,
        device: DeviceId,
        registration: RegistrationId,
        kind: Kind,
        spiffe: &SpiffeId,
    ) -> Result<(), Refusal> {
        let key = (device, registration, kind);
        let handed = || self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        if !handed().is_new(self.clock.now(), key) {
            return Ok(());
        }
        let object = format!("{}/{registration}", Registration::KIND);
        let entry = Entry::new(self.wall(), NodeId::Device(device).to_string(), kind.action(), object, Outcome::Done);
        let audit = vec![entry.with("spiffe_id", spiffe.as_str())];
        let done = self.store.commit(Commit { audit, ..Commit::default() }).await;
        done.map(|_| ()).map_err(|error| {
            handed().forget(&key);
            failed(error)
        })
    }

    /// Signs a certificate over a request's key.
    pub async fn sign_identity(
        &self,
        device: DeviceId,
        registration: RegistrationId,
        csr: &[u8],
    ) -> Result<(SpiffeId, Svid), Refusal> {
        self.named(device, registration)?;
        let request = ca::request_key(csr).map_err(|error| Refusal::Invalid(error.to_string()))?;
        self.take_turn(Act::Identity, NodeId::Device(device))?;
        let keys = self.workload_keys().await?;
        let life = self.timing.svid.min(WORKLOAD_SVID_LIFE);
        // Again: the keys may have taken a moment.
        let spiffe = self.named(device, registration)?;
        let svid = keys.issue(&spiffe, &request, self.wall(), life).map_err(failed)?;
        self.say_handed(device, registration, Kind::Certificate, &spiffe).await?;
        tracing::info!(%device, %registration, %spiffe, "a certificate was signed for a program");
        Ok((spiffe, svid))
    }

    /// Signs a token for these audiences; answers it with how long it lives.
    pub async fn sign_token(
        &self,
        device: DeviceId,
        registration: RegistrationId,
        audiences: &[String],
    ) -> Result<(Secret<String>, Duration), Refusal> {
        self.named(device, registration)?;
        check_audiences(audiences)?;
        self.take_turn(Act::Identity, NodeId::Device(device))?;
        let keys = self.workload_keys().await?;
        let spiffe = self.named(device, registration)?;
        let token = keys.token(&spiffe, audiences, self.wall(), WORKLOAD_TOKEN_LIFE).map_err(failed)?;
        self.say_handed(device, registration, Kind::Token, &spiffe).await?;
        tracing::info!(%device, %registration, %spiffe, "a token was signed for a program");
        Ok((token, WORKLOAD_TOKEN_LIFE))
    }
}

/// JWT-SVID, section 3.2: a token is for somebody.
fn check_audiences(audiences: &[String]) -> Result<(), Refusal> {
    let fits = |one: &String| !one.is_empty() && one.len() <= WORKLOAD_AUDIENCE_MAX && !one.chars().any(is_hidden);
    if (1..=WORKLOAD_AUDIENCES_MAX).contains(&audiences.len()) && audiences.iter().all(fits) {
        return Ok(());
    }
    Err(Refusal::Invalid(format!(
        "a token is for 1 to {WORKLOAD_AUDIENCES_MAX} audiences, each of 1 to {WORKLOAD_AUDIENCE_MAX} bytes that can be seen"
    )))
}

#[cfg(test)]
mod tests;
