//! Devices: list, confirm, revoke. They come by enrolment alone.

use super::gateway::check_confirm;
use super::{AdminRpc, changed};
use crate::administrator::may_touch_user;
use crate::authz::Caller;
use crate::directory::{Device, Directory, Draft, NodeState, Refusal, Session};
use crate::store::Record as _;
use model::ids::AccountId;
use proto::admin as wire;

/// What an administrator calls a service account; one that is gone has its id only.
pub(super) fn account_name(now: &Directory, id: AccountId) -> String {
    now.accounts.find(&id).map_or_else(|| id.to_string(), |account| account.record.name.to_string())
}

impl AdminRpc {
    pub(super) async fn list_devices(
        &self,
        _: &Caller,
        _: wire::ListDevicesRequest,
    ) -> Result<wire::ListDevicesReply, Refusal> {
        let (now, org) = (self.organisation.now(), self.organisation.org()?);
        let devices = now.devices.values().map(|fact| {
            let device = &fact.record;
            let user =
                device.user.map(|id| now.users.find(&id).map_or_else(|| id.to_string(), |u| u.record.name.to_string()));
            let account = device.account.map(|id| account_name(&now, id));
            wire::Device {
                id: device.id.to_string(),
                name: device.name.to_string(),
                user: user.unwrap_or_default(),
                state: device.state.to_string(),
                address_v4: org.pool.device_v4(device.v4).map(|a| a.to_string()).unwrap_or_default(),
                address_v6: device.address.to_string(),
                fingerprint: device.fingerprint.clone(),
                join_key: device.join_key.to_string(),
                created_ms: device.created.0,
                account: account.unwrap_or_default(),
                ephemeral: device.ephemeral,
            }
        });
        let mut devices: Vec<_> = devices.collect();
        devices.sort_by(|a, b| (&a.name, a.created_ms).cmp(&(&b.name, b.created_ms)));
        Ok(wire::ListDevicesReply { devices })
    }

    pub(super) async fn confirm_device(
        &self,
        caller: &Caller,
        message: wire::ConfirmDeviceRequest,
    ) -> Result<wire::Changed, Refusal> {
        let typed = message.device.as_str();
        let make = |directory: &Directory, draft: &mut Draft| {
            let fact = directory.devices.typed(typed).ok_or_else(|| Refusal::missing("device", typed))?;
            let device = &fact.record;
            let fingerprints = [message.fingerprint.as_str(), device.fingerprint.as_str()];
            check_confirm(&format!("device `{typed}`"), device.state, "umbra status", fingerprints)?;
            draft.update(fact, &Device { state: NodeState::Confirmed, restored: false, ..device.clone() })?;
            let entry = self.organisation.entry(caller, "device.confirm", &fact.key).with("name", device.name.as_str());
            Ok(((device.id, device.name.clone()), entry.with("fingerprint", device.fingerprint.as_str())))
        };
        let (revision, (id, name)) = self.change(caller, make).await?;
        Ok(changed(revision, id, name))
    }

    /// Revokes a device: never again, by id and by key. Its sessions end with it.
    pub(super) async fn revoke_device(
        &self,
        caller: &Caller,
        message: wire::RevokeDeviceRequest,
    ) -> Result<wire::Changed, Refusal> {
        let typed = message.device.as_str();
        let make = |directory: &Directory, draft: &mut Draft| {
            let fact = directory.devices.typed(typed).ok_or_else(|| Refusal::missing("device", typed))?;
            let device = &fact.record;
            if device.state == NodeState::Revoked {
                return Err(Refusal::InUse(format!("device `{typed}` is revoked already")));
            }
            if let Some(user) = device.user {
                may_touch_user(caller, directory, user)?;
            }
            draft.update(fact, &Device { state: NodeState::Revoked, ..device.clone() })?;
            draft.stands_on_all(directory, Session::KIND)?;
            for session in directory.sessions.values().filter(|s| s.record.device == device.id && !s.record.ended) {
                may_touch_user(caller, directory, session.record.user)?;
                draft.update(session, &Session { ended: true, ..session.record.clone() })?;
            }
            let entry = self.organisation.entry(caller, "device.revoke", &fact.key).with("name", device.name.as_str());
            Ok(((device.id, device.name.clone()), entry))
        };
        let (revision, (id, name)) = self.change(caller, make).await?;
        Ok(self.settled(revision, changed(revision, id, name)).await)
    }
}
