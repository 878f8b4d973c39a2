//! Service accounts: add, list, enable, disable, groups, remove. What ends one ends all that joined as it.

use super::user::stand_on_groups;
use super::{AdminRpc, changed, name, parse_all, random};
use crate::administrator::may_touch_group;
use crate::authz::Caller;
use crate::directory::{
    Account, Device, Directory, Draft, Fact, JoinKey, JoinKeyState, Name, NodeState, Refusal, Registration, Trust,
    Unique,
};
use crate::store::Record as _;
use model::ids::AccountId;
use model::limits::{ACCOUNT_DESCRIPTION_MAX, GROUPS_MAX};
use model::text::is_hidden;
use model::time::WallMs;
use proto::admin as wire;
use std::collections::BTreeSet;

/// What an administrator says that it is for.
fn description(text: &str) -> Result<String, Refusal> {
    if text.chars().count() > ACCOUNT_DESCRIPTION_MAX || text.chars().any(is_hidden) {
        return Err(Refusal::Invalid(format!(
            "a description has at most {ACCOUNT_DESCRIPTION_MAX} characters, all of which can be seen"
        )));
    }
    Ok(text.to_owned())
}

fn find<'a>(directory: &'a Directory, typed: &str) -> Result<&'a Fact<Account>, Refusal> {
    directory.accounts.typed(typed).ok_or_else(|| Refusal::missing("account", typed))
}

/// The machines that joined as it and are not revoked.
fn devices(directory: &Directory, account: AccountId) -> impl Iterator<Item = &Fact<Device>> {
    let lives = move |d: &&Fact<Device>| d.record.account == Some(account) && d.record.state != NodeState::Revoked;
    directory.devices.values().filter(lives)
}

/// The rules by which machines join as it.
fn trusts(directory: &Directory, account: AccountId) -> impl Iterator<Item = &Fact<Trust>> {
    directory.trusts.by_name().filter(move |t| t.record.account == account)
}

fn told(now: &Directory, wall: WallMs, account: &Account) -> wire::Account {
    let usable =
        |k: &&Fact<JoinKey>| k.record.account == Some(account.id) && k.record.state(wall) == JoinKeyState::Usable;
    wire::Account {
        id: account.id.to_string(),
        name: account.name.to_string(),
        description: account.description.clone(),
        groups: account.groups.iter().map(ToString::to_string).collect(),
        disabled: account.disabled,
        created_ms: account.created.0,
        devices: devices(now, account.id).map(|d| d.record.name.to_string()).collect(),
        join_keys: now.join_keys.values().filter(usable).map(|k| k.record.id.to_string()).collect(),
        federation: trusts(now, account.id).map(|t| t.record.name.to_string()).collect(),
    }
}

impl AdminRpc {
    pub(super) async fn add_account(
        &self,
        caller: &Caller,
        message: wire::AddAccountRequest,
    ) -> Result<wire::AddAccountReply, Refusal> {
        let (name, description) = (name(&message.name)?, description(&message.description)?);
        let groups: BTreeSet<Name> = parse_all(&message.groups)?.into_iter().collect();
        if groups.len() > GROUPS_MAX {
            return Err(Refusal::Invalid(format!("a service account may be in at most {GROUPS_MAX} groups")));
        }
        let id = AccountId::from_bytes(random()?);
        let created = self.organisation.wall();
        let make = |directory: &Directory, draft: &mut Draft| {
            groups.iter().try_for_each(|group| may_touch_group(caller, group))?;
            stand_on_groups(directory, draft, &groups)?;
            let taken = || format!("the name `{name}` (users and service accounts share names)");
            draft.claim(directory, Unique::UserName, &name, id, taken)?;
            let entry =
                self.organisation.entry(caller, "account.add", format!("account/{id}")).with("name", name.as_str());
            let (name, description, groups) = (name.clone(), description.clone(), groups.clone());
            let account = Account { id, name, description, groups, disabled: false, restored: false, created };
            draft.create(&id, &account)?;
            Ok(((), entry))
        };
        let (revision, ()) = self.change(caller, make).await?;
        let set = self.organisation.now().compiled.clone();
        let open = set.map(|set| policy::open_to_all(&set)).unwrap_or_default();
        let open_to = open.into_iter().map(|warning| warning.policy).collect();
        Ok(wire::AddAccountReply { changed: Some(changed(revision, id, name)), open_to })
    }

    pub(super) async fn list_accounts(
        &self,
        _: &Caller,
        _: wire::ListAccountsRequest,
    ) -> Result<wire::ListAccountsReply, Refusal> {
        let (now, wall) = (self.organisation.now(), self.organisation.wall());
        let accounts = now.accounts.by_name().map(|fact| told(&now, wall, &fact.record));
        Ok(wire::ListAccountsReply { accounts: accounts.collect() })
    }

    pub(super) async fn set_account_enabled(
        &self,
        caller: &Caller,
        message: wire::SetAccountEnabledRequest,
    ) -> Result<wire::Changed, Refusal> {
        let action = if message.enabled { "account.enable" } else { "account.disable" };
        let make = |directory: &Directory, draft: &mut Draft| {
            let fact = find(directory, &message.account)?;
            // Somebody has looked: it is no longer what a restore made of it.
            let next = Account { disabled: !message.enabled, restored: false, ..fact.record.clone() };
            draft.update(fact, &next)?;
            let entry = self.organisation.entry(caller, action, &fact.key).with("name", next.name.as_str());
            Ok((next, entry))
        };
        let (revision, account) = self.change(caller, make).await?;
        Ok(self.settled(revision, changed(revision, account.id, account.name)).await)
    }

    pub(super) async fn set_account_group(
        &self,
        caller: &Caller,
        message: wire::SetAccountGroupRequest,
    ) -> Result<wire::Changed, Refusal> {
        let make = |directory: &Directory, draft: &mut Draft| {
            let group =
                directory.groups.named(&message.group).ok_or_else(|| Refusal::missing("group", &message.group))?;
            may_touch_group(caller, &group.record.name)?;
            let fact = find(directory, &message.account)?;
            let (mut next, group_name) = (fact.record.clone(), &group.record.name);
            let differs = match message.member {
                true => next.groups.insert(group_name.clone()),
                false => next.groups.remove(group_name),
            };
            if !differs {
                let is = if message.member { "is already" } else { "is not" };
                return Err(Refusal::InUse(format!("service account `{}` {is} in group `{group_name}`", next.name)));
            }
            if next.groups.len() > GROUPS_MAX {
                return Err(Refusal::Invalid(format!("a service account may be in at most {GROUPS_MAX} groups")));
            }
            draft.stands_on(group);
            draft.update(fact, &next)?;
            let action = if message.member { "group.add-member" } else { "group.remove-member" };
            let entry = self.organisation.entry(caller, action, &group.key).with("account", next.name.as_str());
            Ok((group_name.clone(), entry))
        };
        let (revision, name) = self.change(caller, make).await?;
        Ok(self.settled(revision, changed(revision, &name, &name)).await)
    }

    /// Removes one: its machines are revoked, and so is whatever more could join as it.
    pub(super) async fn remove_account(
        &self,
        caller: &Caller,
        message: wire::RemoveAccountRequest,
    ) -> Result<wire::RemoveAccountReply, Refusal> {
        let make = |directory: &Directory, draft: &mut Draft| {
            let fact = find(directory, &message.account)?;
            let account = fact.record.clone();
            for set in [Device::KIND, JoinKey::KIND, Trust::KIND, Registration::KIND] {
                draft.stands_on_all(directory, set)?;
            }
            let mut ended = Ended::default();
            for device in devices(directory, account.id) {
                draft.update(device, &Device { state: NodeState::Revoked, ..device.record.clone() })?;
                ended.devices.push(device.record.name.to_string());
            }
            for key in directory.join_keys.values().filter(|k| k.record.account == Some(account.id)) {
                if !key.record.revoked {
                    draft.update(key, &JoinKey { revoked: true, ..key.record.clone() })?;
                    ended.join_keys.push(key.record.id.to_string());
                }
            }
            for trust in trusts(directory, account.id) {
                super::federation::remove(draft, trust)?;
                ended.federation.push(trust.record.name.to_string());
            }
            for one in directory.registrations.values().filter(|one| one.record.account == account.id) {
                draft.remove(one);
            }
            if draft.is_full() {
                return Err(Refusal::InUse(format!(
                    "service account `{}` has too many machines for one change: disable it, which ends what they reach at \
                     once, and revoke some of them",
                    account.name
                )));
            }
            draft.remove(fact);
            draft.release(Unique::UserName, &account.name)?;
            let entry =
                self.organisation.entry(caller, "account.remove", &fact.key).with("name", account.name.as_str());
            let entry = entry.with("devices_revoked", ended.devices.join(", "));
            let entry = entry.with("federation_removed", ended.federation.join(", "));
            Ok(((account, ended.clone()), entry.with("join_keys_revoked", ended.join_keys.join(", "))))
        };
        let (revision, (account, ended)) = self.change(caller, make).await?;
        let changed = self.settled(revision, changed(revision, account.id, &account.name)).await;
        let groups = account.groups.iter().map(ToString::to_string).collect();
        let Ended { devices, join_keys, federation } = ended;
        Ok(wire::RemoveAccountReply { changed: Some(changed), devices, join_keys, groups, federation })
    }
}

/// What ended with an account.
#[derive(Debug, Clone, Default)]
struct Ended {
    devices: Vec<String>,
    join_keys: Vec<String>,
    federation: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_as_long_as_the_limit_says_and_can_be_seen() {
        assert!(description(&"ä".repeat(ACCOUNT_DESCRIPTION_MAX)).is_ok() && description("").is_ok());
        for bad in ["x".repeat(ACCOUNT_DESCRIPTION_MAX + 1), "a\nb".to_owned(), "\u{202e}".to_owned()] {
            assert!(matches!(description(&bad), Err(Refusal::Invalid(_))), "{bad:?}");
        }
    }
}
