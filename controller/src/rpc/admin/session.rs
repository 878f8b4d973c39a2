//! Sessions: list, revoke; and what workloads have in their place, which is listed with them.

use super::{AdminRpc, changed, parse};
use crate::administrator::may_touch_user;
use crate::authz::Caller;
use crate::directory::{Account, Device, Directory, Draft, Fact, NodeState, Refusal, Session};
use model::ids::{DeviceId, SessionId};
use model::time::WallMs;
use proto::admin as wire;
use std::sync::Arc;

/// Flows that are shown when nobody says how many.
const FLOWS_SHOWN: usize = 50;

fn shown(now: &Directory, session: &Session, wall: WallMs) -> wire::Session {
    let user = now.users.find(&session.user);
    let device = now.devices.find(&session.device);
    wire::Session {
        id: session.id.to_string(),
        user: user.map_or_else(|| session.user.to_string(), |u| u.record.name.to_string()),
        device: device.map_or_else(|| session.device.to_string(), |d| d.record.name.to_string()),
        created_ms: session.created.0,
        ends_ms: session.ends.0,
        ended: !session.is_live(wall),
        workload: false,
    }
}

/// What a workload has in place of a log-in.
fn standing(now: &Directory, device: &Device) -> Option<wire::Session> {
    let account = now.accounts.find(&device.account?);
    let lives = device.state == NodeState::Confirmed && account.is_some_and(|a| !a.record.disabled);
    Some(wire::Session {
        id: Account::standing(device.id).to_string(),
        user: account.map(|a| a.record.name.to_string()).unwrap_or_default(),
        device: device.name.to_string(),
        created_ms: device.created.0,
        ends_ms: 0,
        ended: !lives,
        workload: true,
    })
}

/// The workload whose standing session has this id.
fn workload(now: &Directory, id: SessionId) -> Option<&Fact<Device>> {
    now.devices.find(&DeviceId::from_bytes(*id.as_bytes())).filter(|device| device.record.account.is_some())
}

impl AdminRpc {
    pub(super) async fn list_sessions(
        &self,
        _: &Caller,
        message: wire::ListSessionsRequest,
    ) -> Result<wire::ListSessionsReply, Refusal> {
        let (now, wall) = (self.organisation.now(), self.organisation.wall());
        let wanted = now.sessions.values().filter(|s| message.all || s.record.is_live(wall));
        let sessions = wanted.map(|fact| shown(&now, &fact.record, wall));
        let workloads = now.devices.values().filter_map(|device| standing(&now, &device.record));
        let mut sessions: Vec<_> = sessions.chain(workloads.filter(|one| message.all || !one.ended)).collect();
        sessions.sort_by_key(|session| session.created_ms);
        Ok(wire::ListSessionsReply { sessions })
    }

    pub(super) async fn show_session(
        &self,
        _: &Caller,
        message: wire::ShowSessionRequest,
    ) -> Result<wire::ShowSessionReply, Refusal> {
        let id: SessionId = parse(&message.session)?;
        let (now, wall) = (self.organisation.now(), self.organisation.wall());
        let standing = || workload(&now, id).and_then(|device| standing(&now, &device.record));
        let about = now.sessions.find(&id).map(|fact| shown(&now, &fact.record, wall)).or_else(standing);
        let about = about.ok_or_else(|| Refusal::missing("session", &message.session))?;
        let limit = if message.limit == 0 { FLOWS_SHOWN } else { message.limit as usize };
        let log = Arc::clone(&self.organisation.flows);
        let read = move || log.newest(&id.to_string(), limit, |record| record.session == id);
        let flows = tokio::task::spawn_blocking(read).await.map_err(|e| Refusal::Failed(e.to_string()))?;
        let flows = flows.map_err(|e| Refusal::Failed(format!("the flow records cannot be read: {e}")))?;
        let resource = |id| now.resources.find(&id).map_or_else(|| id.to_string(), |r| r.record.name.to_string());
        let gateway = |id| now.gateways.find(&id).map_or_else(|| id.to_string(), |g| g.record.name.to_string());
        let grants = self.arranger.grants_of(id).await.into_iter().map(|held| wire::SessionGrant {
            resource: resource(held.resource),
            gateway: gateway(held.gateway),
            ends_ms: held.ends.0,
        });
        let flows = flows.into_iter().map(|record| wire::SessionFlow {
            resource: resource(record.resource),
            gateway: gateway(record.gateway),
            protocol: record.told.protocol.to_string(),
            target: record.told.target.to_string(),
            port: u32::from(record.told.port),
            started_ms: record.told.started.0,
            ended_ms: record.told.ended.0,
            packets_up: record.told.packets_up,
            bytes_up: record.told.bytes_up,
            packets_down: record.told.packets_down,
            bytes_down: record.told.bytes_down,
            end: record.told.end.to_string(),
        });
        Ok(wire::ShowSessionReply { session: Some(about), grants: grants.collect(), flows: flows.collect() })
    }

    pub(super) async fn revoke_session(
        &self,
        caller: &Caller,
        message: wire::RevokeSessionRequest,
    ) -> Result<wire::Changed, Refusal> {
        let id: SessionId = parse(&message.session)?;
        let make = |directory: &Directory, draft: &mut Draft| {
            if let Some(device) = workload(directory, id) {
                let device = &device.record.name;
                return Err(Refusal::InUse(format!(
                    "`{id}` is no log-in but a workload's standing session: `umbra-controller device revoke {device}`, or \
                     disable its service account"
                )));
            }
            let fact = directory.sessions.find(&id).ok_or_else(|| Refusal::missing("session", &message.session))?;
            if fact.record.ended || fact.record.ends <= self.organisation.wall() {
                return Err(Refusal::InUse(format!("session `{id}` has ended already")));
            }
            may_touch_user(caller, directory, fact.record.user)?;
            draft.update(fact, &Session { ended: true, ..fact.record.clone() })?;
            let entry = self.organisation.entry(caller, "session.revoke", &fact.key);
            Ok(((), entry.with("user", fact.record.user.to_string()).with("device", fact.record.device.to_string())))
        };
        let (revision, ()) = self.change(caller, make).await?;
        Ok(self.settled(revision, changed(revision, id, "")).await)
    }
}
