//! Gateways: list, confirm, revoke. They come by enrolment alone.

use super::{AdminRpc, changed};
use crate::authz::Caller;
use crate::directory::{Directory, Draft, Gateway, NodeState, Refusal};
use proto::admin as wire;

/// May `what`, which is in this state, be confirmed, by an administrator who typed the fingerprint `given`? An empty one is not
/// compared; `command` shows the right one on the machine itself.
pub(super) fn check_confirm(
    what: &str,
    state: NodeState,
    command: &str,
    [given, own]: [&str; 2],
) -> Result<(), Refusal> {
    if state != NodeState::Pending {
        return Err(Refusal::InUse(format!("{what} is {state} already")));
    }
    if given.is_empty() || same_fingerprint(given, own) {
        return Ok(());
    }
    Err(Refusal::Denied(format!(
        "the fingerprint of {what} is {own}, not the one given: somebody else may have used its join file; compare with \
         what `{command}` shows on that machine, and revoke this one if they differ"
    )))
}

/// Two fingerprints as a person may type them: case, blanks and hyphens do not matter.
fn same_fingerprint(one: &str, other: &str) -> bool {
    let plain =
        |text: &str| text.chars().filter(char::is_ascii_hexdigit).map(|c| c.to_ascii_lowercase()).collect::<String>();
    !plain(one).is_empty() && plain(one) == plain(other)
}

impl AdminRpc {
    pub(super) async fn list_gateways(
        &self,
        _: &Caller,
        _: wire::ListGatewaysRequest,
    ) -> Result<wire::ListGatewaysReply, Refusal> {
        let now = self.organisation.now();
        let gateways = now.gateways.values().map(|fact| {
            let gateway = &fact.record;
            let site = now.sites.find(&gateway.site);
            wire::Gateway {
                id: gateway.id.to_string(),
                name: gateway.name.to_string(),
                site: site.map_or_else(|| gateway.site.to_string(), |site| site.record.name.to_string()),
                state: gateway.state.to_string(),
                fingerprint: gateway.fingerprint.clone(),
                address: gateway.address.to_string(),
                key: gateway.key.to_string(),
                created_ms: gateway.created.0,
            }
        });
        let mut gateways: Vec<_> = gateways.collect();
        gateways.sort_by(|a, b| (&a.name, a.created_ms).cmp(&(&b.name, b.created_ms)));
        Ok(wire::ListGatewaysReply { gateways })
    }

    /// Confirms a gateway whose fingerprint the administrator has read on its own screen.
    pub(super) async fn confirm_gateway(
        &self,
        caller: &Caller,
        message: wire::ConfirmGatewayRequest,
    ) -> Result<wire::Changed, Refusal> {
        let typed = message.gateway.as_str();
        let make = |directory: &Directory, draft: &mut Draft| {
            let fact = directory.gateways.typed(typed).ok_or_else(|| Refusal::missing("gateway", typed))?;
            let gateway = &fact.record;
            let fingerprints = [message.fingerprint.as_str(), gateway.fingerprint.as_str()];
            check_confirm(&format!("gateway `{typed}`"), gateway.state, "umbra-gateway status", fingerprints)?;
            let site = directory
                .sites
                .find(&gateway.site)
                .ok_or_else(|| Refusal::InUse("its site is gone: revoke it".to_owned()))?;
            draft.stands_on(site);
            draft.update(fact, &Gateway { state: NodeState::Confirmed, restored: false, ..gateway.clone() })?;
            let entry =
                self.organisation.entry(caller, "gateway.confirm", &fact.key).with("name", gateway.name.as_str());
            Ok(((gateway.id, gateway.name.clone()), entry.with("fingerprint", gateway.fingerprint.as_str())))
        };
        let (revision, (id, name)) = self.change(caller, make).await?;
        Ok(changed(revision, id, name))
    }

    /// Revokes a gateway: never again, by id and by key.
    pub(super) async fn revoke_gateway(
        &self,
        caller: &Caller,
        message: wire::RevokeGatewayRequest,
    ) -> Result<wire::Changed, Refusal> {
        let typed = message.gateway.as_str();
        let make = |directory: &Directory, draft: &mut Draft| {
            let fact = directory.gateways.typed(typed).ok_or_else(|| Refusal::missing("gateway", typed))?;
            let gateway = &fact.record;
            if gateway.state == NodeState::Revoked {
                return Err(Refusal::InUse(format!("gateway `{typed}` is revoked already")));
            }
            draft.update(fact, &Gateway { state: NodeState::Revoked, ..gateway.clone() })?;
            let entry =
                self.organisation.entry(caller, "gateway.revoke", &fact.key).with("name", gateway.name.as_str());
            Ok(((gateway.id, gateway.name.clone()), entry))
        };
        let (revision, (id, name)) = self.change(caller, make).await?;
        Ok(self.settled(revision, changed(revision, id, name)).await)
    }
}

#[cfg(test)]
mod tests {
    use super::same_fingerprint;

    #[test]
    fn fingerprints_are_compared_as_people_type_them() {
        assert!(same_fingerprint("01AB-cd23", "01ab cd23"));
        assert!(!same_fingerprint("01ab-cd24", "01ab-cd23"));
        assert!(!same_fingerprint("", "") && !same_fingerprint("zz", "zz"));
        assert!(!same_fingerprint("01ab", "01ab-cd23"), "a part of it is not it");
    }
}
