//! Accounts: add, list, password, enable, disable, delete. What ends a log-in ends it in the same transaction.

use super::{AdminRpc, changed, name, parse_all, random};
use crate::administrator::{leaves_an_owner, may_touch, may_touch_group};
use crate::authn;
use crate::authz::Caller;
use crate::directory::{Device, Directory, Draft, Fact, Identity, Name, NodeState, Refusal, Session, Unique, User};
use crate::factors;
use crate::store::Record as _;
use model::ids::UserId;
use model::limits::GROUPS_MAX;
use model::secret::Secret;
use proto::admin as wire;
use std::collections::BTreeSet;

/// Ends all sessions of a user, and stands on there being no other.
pub(super) fn end_sessions(directory: &Directory, draft: &mut Draft, user: UserId) -> Result<u64, Refusal> {
    draft.stands_on_all(directory, Session::KIND)?;
    let mut ended = 0;
    for session in directory.sessions.values().filter(|s| s.record.user == user && !s.record.ended) {
        draft.update(session, &Session { ended: true, ..session.record.clone() })?;
        ended += 1;
    }
    Ok(ended)
}

/// The groups must exist, also when this commits.
pub(super) fn stand_on_groups(
    directory: &Directory,
    draft: &mut Draft,
    groups: &BTreeSet<Name>,
) -> Result<(), Refusal> {
    for group in groups {
        draft.stands_on(directory.groups.find(group).ok_or_else(|| Refusal::missing("group", group.as_str()))?);
    }
    Ok(())
}

impl AdminRpc {
    pub(super) async fn add_user(
        &self,
        caller: &Caller,
        message: wire::AddUserRequest,
    ) -> Result<wire::Changed, Refusal> {
        let name = name(&message.name)?;
        let groups: BTreeSet<Name> = parse_all(&message.groups)?.into_iter().collect();
        if groups.len() > GROUPS_MAX {
            return Err(Refusal::Invalid(format!("a user may be in at most {GROUPS_MAX} groups")));
        }
        let password = authn::hash(Secret::new(message.password)).await.map_err(|e| Refusal::Invalid(e.to_string()))?;
        let id = UserId::from_bytes(random()?);
        let created = self.organisation.wall();
        let make = |directory: &Directory, draft: &mut Draft| {
            groups.iter().try_for_each(|group| may_touch_group(caller, group))?;
            stand_on_groups(directory, draft, &groups)?;
            draft.claim(directory, Unique::UserName, &name, id, || {
                format!("the name `{name}` (users and service accounts share names)")
            })?;
            let (name, groups, password) = (name.clone(), groups.clone(), Some(password.clone()));
            let entry = self.organisation.entry(caller, "user.add", format!("user/{id}")).with("name", name.as_str());
            draft.create(
                &id,
                &User {
                    id,
                    name,
                    password,
                    identity: None,
                    groups,
                    roles: BTreeSet::new(),
                    disabled: false,
                    restored: false,
                    created,
                },
            )?;
            Ok(((), entry))
        };
        let (revision, ()) = self.change(caller, make).await?;
        Ok(changed(revision, id, name))
    }

    pub(super) async fn list_users(
        &self,
        _: &Caller,
        _: wire::ListUsersRequest,
    ) -> Result<wire::ListUsersReply, Refusal> {
        let (now, wall) = (self.organisation.now(), self.organisation.wall());
        let users = now.users.by_name().map(|fact| {
            let user = &fact.record;
            let live = now.sessions.values().filter(|s| s.record.user == user.id && s.record.is_live(wall)).count();
            wire::User {
                id: user.id.to_string(),
                name: user.name.to_string(),
                groups: user.all_groups().map(ToString::to_string).collect(),
                disabled: user.disabled,
                created_ms: user.created.0,
                sessions: u64::try_from(live).unwrap_or(u64::MAX),
            }
        });
        Ok(wire::ListUsersReply { users: users.collect() })
    }

    pub(super) async fn set_password(
        &self,
        caller: &Caller,
        message: wire::SetPasswordRequest,
    ) -> Result<wire::Changed, Refusal> {
        let password = authn::hash(Secret::new(message.password)).await.map_err(|e| Refusal::Invalid(e.to_string()))?;
        let typed = message.user.as_str();
        if self.organisation.now().users.typed(typed).is_some_and(|user| user.record.identity.is_some()) {
            return Err(Refusal::InUse(format!("user `{typed}` signs in at an identity provider and has no password")));
        }
        let change = self.change_user(caller, typed, "user.passwd", |user| {
            user.password = Some(password.clone());
            true
        });
        change.await
    }

    pub(super) async fn set_user_enabled(
        &self,
        caller: &Caller,
        message: wire::SetUserEnabledRequest,
    ) -> Result<wire::Changed, Refusal> {
        let action = if message.enabled { "user.enable" } else { "user.disable" };
        let change = self.change_user(caller, &message.user, action, |user| {
            user.disabled = !message.enabled;
            // Somebody has looked: it is no longer what a restore made of it.
            user.restored = false;
            user.disabled
        });
        change.await
    }

    /// Changes one user; `edit` tells whether that ends the user's sessions.
    async fn change_user(
        &self,
        caller: &Caller,
        typed: &str,
        action: &str,
        edit: impl Fn(&mut User) -> bool + Send + Sync,
    ) -> Result<wire::Changed, Refusal> {
        let make = |directory: &Directory, draft: &mut Draft| {
            let fact = directory.users.typed(typed).ok_or_else(|| Refusal::missing("user", typed))?;
            may_touch(caller, &fact.record)?;
            let mut user = fact.record.clone();
            let ended = if edit(&mut user) { end_sessions(directory, draft, user.id)? } else { 0 };
            if user.disabled {
                leaves_an_owner(caller, directory, draft, &fact.record)?;
            }
            draft.update(fact, &user)?;
            let entry = self.organisation.entry(caller, action, &fact.key).with("name", user.name.as_str());
            Ok((user, entry.with("sessions_ended", ended)))
        };
        let (revision, user) = self.change(caller, make).await?;
        Ok(self.settled(revision, changed(revision, user.id, user.name)).await)
    }

    /// Deletes an account. Its sessions end; its devices are revoked: nobody else was to have them.
    pub(super) async fn delete_user(
        &self,
        caller: &Caller,
        message: wire::DeleteUserRequest,
    ) -> Result<wire::Changed, Refusal> {
        let typed = message.user.as_str();
        let make = |directory: &Directory, draft: &mut Draft| {
            let fact = directory.users.typed(typed).ok_or_else(|| Refusal::missing("user", typed))?;
            let user = fact.record.clone();
            may_touch(caller, &user)?;
            leaves_an_owner(caller, directory, draft, &user)?;
            let ended = end_sessions(directory, draft, user.id)?;
            draft.stands_on_all(directory, Device::KIND)?;
            for device in directory.devices.values().filter(|d| d.record.user == Some(user.id)) {
                draft.update(device, &Device { state: NodeState::Revoked, ..device.record.clone() })?;
            }
            factors::remove_all(directory, draft, user.id)?;
            draft.remove(fact);
            draft.release(Unique::UserName, &user.name)?;
            if let Some(who) = &user.identity {
                draft.release(Unique::Identity, Identity::key(&who.issuer, &who.subject))?;
            }
            let entry = self.organisation.entry(caller, "user.delete", &fact.key).with("name", user.name.as_str());
            Ok((user, entry.with("sessions_ended", ended)))
        };
        let (revision, user) = self.change(caller, make).await?;
        Ok(self.settled(revision, changed(revision, user.id, user.name)).await)
    }

    /// Somebody leaves: all that they have ends in one change. The account stays, disabled, without groups and roles.
    pub(super) async fn offboard_user(
        &self,
        caller: &Caller,
        message: wire::OffboardUserRequest,
    ) -> Result<wire::OffboardUserReply, Refusal> {
        let typed = message.user.as_str();
        let make = |directory: &Directory, draft: &mut Draft| {
            let fact = directory.users.typed(typed).ok_or_else(|| Refusal::missing("user", typed))?;
            let user = fact.record.clone();
            may_touch(caller, &user)?;
            leaves_an_owner(caller, directory, draft, &user)?;
            let sessions = end_sessions(directory, draft, user.id)?;
            draft.stands_on_all(directory, Device::KIND)?;
            let mut devices = Vec::new();
            let lives = |d: &&Fact<Device>| d.record.user == Some(user.id) && d.record.state != NodeState::Revoked;
            for device in directory.devices.values().filter(lives) {
                draft.update(device, &Device { state: NodeState::Revoked, ..device.record.clone() })?;
                devices.push(device.record.name.to_string());
            }
            let factors = u64::try_from(factors::remove_all(directory, draft, user.id)?).unwrap_or(u64::MAX);
            let mut left = User { disabled: true, restored: false, ..user.clone() };
            left.groups.clear();
            left.roles.clear();
            if let Some(identity) = &mut left.identity {
                identity.groups.clear();
            }
            draft.update(fact, &left)?;
            let entry = self.organisation.entry(caller, "user.offboard", &fact.key).with("name", user.name.as_str());
            let entry = entry.with("sessions_ended", sessions).with("devices_revoked", devices.join(", "));
            let roles: Vec<_> = user.roles.iter().map(|role| role.name()).collect();
            let entry = entry.with("roles_removed", roles.join(", "));
            Ok(((user, sessions, devices, factors), entry.with("factors_removed", factors)))
        };
        let (revision, (user, sessions, devices, factors)) = self.change(caller, make).await?;
        let changed = self.settled(revision, changed(revision, user.id, &user.name)).await;
        let groups = user.all_groups().map(ToString::to_string).collect();
        Ok(wire::OffboardUserReply { changed: Some(changed), sessions, devices, factors, groups })
    }

    pub(super) async fn list_factors(
        &self,
        _: &Caller,
        message: wire::ListFactorsRequest,
    ) -> Result<wire::ListFactorsReply, Refusal> {
        let (directory, now) = (self.organisation.now(), self.organisation.wall());
        let user = directory.users.typed(&message.user).ok_or_else(|| Refusal::missing("user", &message.user))?;
        let held = factors::of(&directory, user.record.id);
        let factors = held.confirmed().map(|factor| wire::Factor {
            id: factor.id.to_string(),
            name: factor.name.to_string(),
            method: factor.method.to_string(),
            created_ms: factor.created.0,
            used_ms: factor.used.map_or(0, |at| at.0),
        });
        Ok(wire::ListFactorsReply {
            factors: factors.collect(),
            recovery_codes: u32::try_from(held.recovery.len()).unwrap_or(u32::MAX),
            wrong_codes: held.wrong,
            locked_ms: held.wait(now).map_or(0, proto::convert::millis),
        })
    }

    /// Removes all second factors of a user: whoever lost them adds new ones. Sessions end: who had them may not be who lost them.
    pub(super) async fn reset_factors(
        &self,
        caller: &Caller,
        message: wire::ResetFactorsRequest,
    ) -> Result<wire::Changed, Refusal> {
        let typed = message.user.as_str();
        let make = |directory: &Directory, draft: &mut Draft| {
            let fact = directory.users.typed(typed).ok_or_else(|| Refusal::missing("user", typed))?;
            let user = fact.record.clone();
            may_touch(caller, &user)?;
            let removed = factors::remove_all(directory, draft, user.id)?;
            let ended = end_sessions(directory, draft, user.id)?;
            draft.stands_on(fact);
            let entry =
                self.organisation.entry(caller, "user.reset-factors", &fact.key).with("name", user.name.as_str());
            let removed = u64::try_from(removed).unwrap_or(u64::MAX);
            Ok((user, entry.with("factors_removed", removed).with("sessions_ended", ended)))
        };
        let (revision, user) = self.change(caller, make).await?;
        Ok(self.settled(revision, changed(revision, user.id, user.name)).await)
    }
}
