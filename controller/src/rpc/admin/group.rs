//! Groups: add, list, delete, members.

use super::{AdminRpc, changed, name};
use crate::administrator::{may_touch, may_touch_group};
use crate::authz::Caller;
use crate::directory::{Account, Directory, Draft, Group, Refusal, User};
use crate::store::Record as _;
use model::limits::GROUPS_MAX;
use proto::admin as wire;

impl AdminRpc {
    pub(super) async fn add_group(
        &self,
        caller: &Caller,
        message: wire::AddGroupRequest,
    ) -> Result<wire::Changed, Refusal> {
        let name = name(&message.name)?;
        let created = self.organisation.wall();
        let make = |directory: &Directory, draft: &mut Draft| {
            if directory.groups.find(&name).is_some() {
                return Err(Refusal::Taken { what: format!("the group name `{name}`") });
            }
            draft.create(&name, &Group { name: name.clone(), created })?;
            Ok(((), self.organisation.entry(caller, "group.add", format!("group/{name}"))))
        };
        let (revision, ()) = self.change(caller, make).await?;
        Ok(changed(revision, &name, &name))
    }

    pub(super) async fn list_groups(
        &self,
        _: &Caller,
        _: wire::ListGroupsRequest,
    ) -> Result<wire::ListGroupsReply, Refusal> {
        let now = self.organisation.now();
        let groups = now.groups.by_name().map(|fact| {
            let members =
                now.users.by_name().filter(|user| user.record.all_groups().any(|group| *group == fact.record.name));
            let workloads = now.accounts.by_name().filter(|one| one.record.groups.contains(&fact.record.name));
            wire::Group {
                name: fact.record.name.to_string(),
                members: members.map(|user| user.record.name.to_string()).collect(),
                workloads: workloads.map(|account| account.record.name.to_string()).collect(),
            }
        });
        Ok(wire::ListGroupsReply { groups: groups.collect() })
    }

    pub(super) async fn delete_group(
        &self,
        caller: &Caller,
        message: wire::DeleteGroupRequest,
    ) -> Result<wire::Changed, Refusal> {
        let typed = message.group.as_str();
        let make = |directory: &Directory, draft: &mut Draft| {
            let fact = directory.groups.named(typed).ok_or_else(|| Refusal::missing("group", typed))?;
            may_touch_group(caller, &fact.record.name)?;
            draft.stands_on_all(directory, User::KIND)?;
            for user in
                directory.users.values().filter(|user| user.record.all_groups().any(|group| *group == fact.record.name))
            {
                may_touch(caller, &user.record)?;
                let mut next = user.record.clone();
                next.groups.remove(&fact.record.name);
                if let Some(identity) = &mut next.identity {
                    identity.groups.remove(&fact.record.name);
                }
                draft.update(user, &next)?;
            }
            draft.stands_on_all(directory, Account::KIND)?;
            for account in directory.accounts.values().filter(|one| one.record.groups.contains(&fact.record.name)) {
                let mut next = account.record.clone();
                next.groups.remove(&fact.record.name);
                draft.update(account, &next)?;
            }
            if draft.is_full() {
                return Err(Refusal::InUse(format!(
                    "group `{typed}` has too many members for one change: remove some first"
                )));
            }
            draft.remove(fact);
            Ok((fact.record.name.clone(), self.organisation.entry(caller, "group.delete", &fact.key)))
        };
        let (revision, name) = self.change(caller, make).await?;
        Ok(self.settled(revision, changed(revision, &name, &name)).await)
    }

    pub(super) async fn set_member(
        &self,
        caller: &Caller,
        message: wire::SetMemberRequest,
    ) -> Result<wire::Changed, Refusal> {
        let make = |directory: &Directory, draft: &mut Draft| {
            let group =
                directory.groups.named(&message.group).ok_or_else(|| Refusal::missing("group", &message.group))?;
            let user = directory.users.typed(&message.user).ok_or_else(|| Refusal::missing("user", &message.user))?;
            may_touch(caller, &user.record)?;
            may_touch_group(caller, &group.record.name)?;
            let mut next = user.record.clone();
            let differs = if message.member {
                next.groups.insert(group.record.name.clone())
            } else {
                next.groups.remove(&group.record.name)
            };
            if !differs {
                let is = if message.member { "is already" } else { "is not" };
                return Err(Refusal::InUse(format!("user `{}` {is} in group `{}`", next.name, group.record.name)));
            }
            if next.groups.len() > GROUPS_MAX {
                return Err(Refusal::Invalid(format!("a user may be in at most {GROUPS_MAX} groups")));
            }
            draft.stands_on(group);
            draft.update(user, &next)?;
            let action = if message.member { "group.add-member" } else { "group.remove-member" };
            let entry = self.organisation.entry(caller, action, &group.key).with("user", next.name.as_str());
            Ok((group.record.name.clone(), entry))
        };
        let (revision, name) = self.change(caller, make).await?;
        Ok(self.settled(revision, changed(revision, &name, &name)).await)
    }
}
