//! Registrations: add, list, remove. One says which programs on an account's machines get which SPIFFE id.

use super::device::account_name;
use super::{AdminRpc, changed, parse, random};
use crate::authz::Caller;
use crate::directory::{Directory, Draft, Refusal, Registration};
use crate::store::Record as _;
use crate::workload::of_account;
use model::ids::RegistrationId;
use model::limits::{REGISTRATIONS_MAX, REGISTRATIONS_PER_ACCOUNT_MAX};
use model::spiffe::SpiffePath;
use proto::admin as wire;

fn find_account<'d>(
    directory: &'d Directory,
    typed: &str,
) -> Result<&'d crate::directory::Fact<crate::directory::Account>, Refusal> {
    directory.accounts.typed(typed).ok_or_else(|| Refusal::missing("account", typed))
}

/// A registration without a selector would mean every program.
fn selectors(uid: Option<u32>, gid: Option<u32>) -> Result<(), Refusal> {
    if uid.is_none() && gid.is_none() {
        return Err(Refusal::Invalid("say which programs are meant: --uid, --gid, or both".to_owned()));
    }
    Ok(())
}

fn has_room(all: usize, of_account: usize) -> Result<(), Refusal> {
    if all >= REGISTRATIONS_MAX || of_account >= REGISTRATIONS_PER_ACCOUNT_MAX {
        return Err(Refusal::InUse(format!(
            "a service account has at most {REGISTRATIONS_PER_ACCOUNT_MAX} identities, and all have at most {REGISTRATIONS_MAX}: \
             remove some"
        )));
    }
    Ok(())
}

impl AdminRpc {
    pub(super) async fn add_registration(
        &self,
        caller: &Caller,
        message: wire::AddRegistrationRequest,
    ) -> Result<wire::Changed, Refusal> {
        let path: SpiffePath = parse(&message.path)?;
        let wire::AddRegistrationRequest { account: typed, uid, gid, .. } = message;
        selectors(uid, gid)?;
        let id = RegistrationId::from_bytes(random()?);
        let (created, domain) = (self.organisation.wall(), self.organisation.org()?.trust_domain);
        let make = |directory: &Directory, draft: &mut Draft| {
            let account = find_account(directory, &typed)?;
            let held = of_account(directory, &account.record);
            let spiffe = path.id(domain.as_str(), account.record.name.as_str());
            let spiffe = spiffe.map_err(|error| Refusal::Invalid(error.to_string()))?;
            if held.iter().any(|one| one.path == path) {
                return Err(Refusal::Taken { what: format!("`{spiffe}`") });
            }
            has_room(directory.registrations.len(), held.len())?;
            draft.stands_on(account);
            draft.stands_on_all(directory, Registration::KIND)?;
            let made = Registration { id, account: account.record.id, path: path.clone(), uid, gid, created };
            draft.create(&id, &made)?;
            let entry = self.organisation.entry(caller, "registration.add", format!("{}/{id}", Registration::KIND));
            let entry = entry.with("spiffe_id", spiffe.as_str()).with("account", account.record.name.as_str());
            let shown = |part: Option<u32>| part.map_or_else(|| "any".to_owned(), |number| number.to_string());
            Ok((spiffe, entry.with("uid", shown(uid)).with("gid", shown(gid))))
        };
        let (revision, spiffe) = self.change(caller, make).await?;
        Ok(changed(revision, id, spiffe))
    }

    pub(super) async fn list_registrations(
        &self,
        _: &Caller,
        _: wire::ListRegistrationsRequest,
    ) -> Result<wire::ListRegistrationsReply, Refusal> {
        let (now, domain) = (self.organisation.now(), self.organisation.org()?.trust_domain);
        let told = |one: &Registration| {
            let account = account_name(&now, one.account);
            let spiffe_id = one.path.id(domain.as_str(), &account).map(|id| id.to_string()).unwrap_or_default();
            wire::Registration {
                id: one.id.to_string(),
                spiffe_id,
                account,
                uid: one.uid,
                gid: one.gid,
                created_ms: one.created.0,
            }
        };
        let mut registrations: Vec<_> = now.registrations.values().map(|fact| told(&fact.record)).collect();
        registrations.sort_by(|a, b| a.spiffe_id.cmp(&b.spiffe_id));
        Ok(wire::ListRegistrationsReply { registrations })
    }

    pub(super) async fn remove_registration(
        &self,
        caller: &Caller,
        message: wire::RemoveRegistrationRequest,
    ) -> Result<wire::Changed, Refusal> {
        let domain = self.organisation.org()?.trust_domain;
        let make = |directory: &Directory, draft: &mut Draft| {
            let typed = message.registration.as_str();
            let called = |one: &Registration| {
                let account = account_name(directory, one.account);
                one.path.id(domain.as_str(), &account).map(|id| id.to_string()).unwrap_or_default()
            };
            let mut all = directory.registrations.values();
            let fact = all.find(|fact| fact.record.id.to_string() == typed || called(&fact.record) == typed);
            let fact = fact.ok_or_else(|| Refusal::missing("account identity", typed))?;
            let spiffe = called(&fact.record);
            draft.remove(fact);
            let entry = self.organisation.entry(caller, "registration.remove", &fact.key);
            Ok(((fact.record.id, spiffe.clone()), entry.with("spiffe_id", spiffe)))
        };
        let (revision, (id, spiffe)) = self.change(caller, make).await?;
        Ok(changed(revision, id, spiffe))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_means_somebody_and_there_are_so_many() {
        assert!(selectors(None, None).is_err());
        assert!(selectors(Some(0), None).is_ok() && selectors(None, Some(5)).is_ok());
        assert!(has_room(REGISTRATIONS_MAX - 1, REGISTRATIONS_PER_ACCOUNT_MAX - 1).is_ok());
        assert!(has_room(REGISTRATIONS_MAX, 0).is_err() && has_room(0, REGISTRATIONS_PER_ACCOUNT_MAX).is_err());
    }
}
