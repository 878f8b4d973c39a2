//! Sessions: list, revoke.

use super::{AdminRpc, changed, parse};
use crate::authz::Caller;
use crate::directory::{Directory, Draft, Refusal, Session};
use model::ids::SessionId;
use proto::admin as wire;

impl AdminRpc {
    pub(super) async fn list_sessions(
        &self,
        _: &Caller,
        message: wire::ListSessionsRequest,
    ) -> Result<wire::ListSessionsReply, Refusal> {
        let (now, wall) = (self.organisation.now(), self.organisation.wall());
        let wanted = now.sessions.values().filter(|s| message.all || s.record.is_live(wall));
        let sessions = wanted.map(|fact| {
            let session = &fact.record;
            let user = now.users.find(&session.user);
            let device = now.devices.find(&session.device);
            wire::Session {
                id: session.id.to_string(),
                user: user.map_or_else(|| session.user.to_string(), |u| u.record.name.to_string()),
                device: device.map_or_else(|| session.device.to_string(), |d| d.record.name.to_string()),
                created_ms: session.created.0,
                ends_ms: session.ends.0,
                ended: !session.is_live(wall),
            }
        });
        let mut sessions: Vec<_> = sessions.collect();
        sessions.sort_by_key(|session| session.created_ms);
        Ok(wire::ListSessionsReply { sessions })
    }

    pub(super) async fn revoke_session(
        &self,
        caller: &Caller,
        message: wire::RevokeSessionRequest,
    ) -> Result<wire::Changed, Refusal> {
        let id: SessionId = parse(&message.session)?;
        let make = |directory: &Directory, draft: &mut Draft| {
            let fact = directory.sessions.find(&id).ok_or_else(|| Refusal::missing("session", &message.session))?;
            if !fact.record.is_live(self.organisation.wall()) {
                return Err(Refusal::InUse(format!("session `{id}` has ended already")));
            }
            draft.update(fact, &Session { ended: true, ..fact.record.clone() })?;
            let entry = self.organisation.entry(caller, "session.revoke", &fact.key);
            Ok(((), entry.with("user", fact.record.user.to_string()).with("device", fact.record.device.to_string())))
        };
        let (revision, ()) = self.organisation.change(make).await?;
        Ok(self.settled(revision, changed(revision, id, "")).await)
    }
}
