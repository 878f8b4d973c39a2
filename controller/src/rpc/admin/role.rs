//! Roles of administrators: grant, revoke, list; and the key of the last resort.

use super::{AdminRpc, changed, parse};
use crate::administrator::leaves_an_owner;
use crate::authz::Caller;
use crate::break_glass;
use crate::directory::{AdminRole, BreakGlass, Directory, Draft, Refusal};
use crate::factors;
use model::secret::Secret;
use proto::admin as wire;

impl AdminRpc {
    pub(super) async fn grant_role(
        &self,
        caller: &Caller,
        message: wire::GrantRoleRequest,
    ) -> Result<wire::Changed, Refusal> {
        self.set_role(caller, &message.user, &message.role, true).await
    }

    /// The next call of whoever had it is refused, also while a connection is open.
    pub(super) async fn revoke_role(
        &self,
        caller: &Caller,
        message: wire::RevokeRoleRequest,
    ) -> Result<wire::Changed, Refusal> {
        self.set_role(caller, &message.user, &message.role, false).await
    }

    async fn set_role(&self, caller: &Caller, typed: &str, role: &str, has: bool) -> Result<wire::Changed, Refusal> {
        let role: AdminRole = parse(role)?;
        let make = |directory: &Directory, draft: &mut Draft| {
            let fact = directory.users.typed(typed).ok_or_else(|| Refusal::missing("user", typed))?;
            let mut user = fact.record.clone();
            if has && user.disabled {
                let why = format!("user `{}` is disabled: `umbra-controller user enable` comes first", user.name);
                return Err(Refusal::InUse(why));
            }
            if !has && role == AdminRole::Owner {
                leaves_an_owner(caller, directory, draft, &user)?;
            }
            let differs = if has { user.roles.insert(role) } else { user.roles.remove(&role) };
            if !differs {
                let holds = if has { "has the role" } else { "has not the role" };
                let end = if has { " already" } else { "" };
                return Err(Refusal::InUse(format!("user `{}` {holds} {role}{end}", user.name)));
            }
            draft.update(fact, &user)?;
            let action = if has { "role.grant" } else { "role.revoke" };
            let entry = self.organisation.entry(caller, action, &fact.key).with("name", user.name.as_str());
            Ok((user, entry.with("role", role.name())))
        };
        let (revision, user) = self.change(caller, make).await?;
        Ok(changed(revision, user.id, user.name))
    }

    pub(super) async fn list_roles(
        &self,
        _: &Caller,
        _: wire::ListRolesRequest,
    ) -> Result<wire::ListRolesReply, Refusal> {
        let now = self.organisation.now();
        let holders = now.users.by_name().filter(|fact| !fact.record.roles.is_empty()).map(|fact| {
            let user = &fact.record;
            wire::RoleHolder {
                id: user.id.to_string(),
                user: user.name.to_string(),
                roles: user.roles.iter().map(ToString::to_string).collect(),
                disabled: user.disabled,
                factor: factors::of(&now, user.id).confirmed().next().is_some(),
            }
        });
        Ok(wire::ListRolesReply { holders: holders.collect() })
    }

    pub(super) async fn break_glass(
        &self,
        caller: &Caller,
        message: wire::BreakGlassRequest,
    ) -> Result<wire::BreakGlassReply, Refusal> {
        let key = Secret::new(message.key);
        let used = break_glass::use_key(&self.organisation, caller, key, &message.user).await;
        let (revision, user, next) = used?;
        let changed = Some(changed(revision, user.id, user.name));
        Ok(wire::BreakGlassReply { changed, key: next.expose().clone() })
    }

    pub(super) async fn acknowledge_break_glass(
        &self,
        caller: &Caller,
        _: wire::AcknowledgeBreakGlassRequest,
    ) -> Result<wire::Changed, Refusal> {
        let make = |directory: &Directory, draft: &mut Draft| {
            let fact = directory.break_glass.as_ref().filter(|fact| fact.record.used.is_some());
            let fact = fact
                .ok_or_else(|| Refusal::InUse("no use of the break-glass key waits to be acknowledged".to_owned()))?;
            draft.update(fact, &BreakGlass { used: None, ..fact.record.clone() })?;
            Ok(((), self.organisation.entry(caller, "break-glass.acknowledge", &fact.key)))
        };
        let (revision, ()) = self.change(caller, make).await?;
        Ok(changed(revision, "", ""))
    }
}
