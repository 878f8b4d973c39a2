//! The controller's key and CA: show them, have them followed by others.

use super::AdminRpc;
use crate::authority::{self, audience};
use crate::authz::Caller;
use crate::directory::{Org, Refusal};
use model::limits::{AUTHORITY_WARN, FINDINGS_MAX};
use model::time::WallMs;
use node::successor::Authority;
use proto::admin as wire;
use std::time::Duration;

fn shown(org: &Org, one: &Authority) -> wire::ControllerKeys {
    let fingerprint = one.fingerprint(org.trust_domain.as_str());
    wire::ControllerKeys { key: one.key.to_string(), fingerprint }
}

/// What an administrator should do about nodes that do not know what follows, while there is time.
fn warning(unaware: usize, ends: WallMs, now: WallMs) -> String {
    let left = Duration::from_millis(u64::try_from(ends.0.saturating_sub(now.0)).unwrap_or(0));
    if unaware == 0 || left > AUTHORITY_WARN {
        return String::new();
    }
    format!(
        "{unaware} nodes have not said that they know the controller's next key and CA, and the former ones end on {}: bring \
         them online before, or they have to join anew (`umbra-controller keys list` names them)",
        crate::audit::utc(ends)
    )
}

impl AdminRpc {
    pub(super) async fn show_keys(&self, _: &Caller, _: wire::ShowKeysRequest) -> Result<wire::ShowKeysReply, Refusal> {
        let (organisation, org) = (&self.organisation, self.organisation.org()?);
        let mut reply = wire::ShowKeysReply {
            state: "in use".to_owned(),
            used: Some(shown(&org, &org.authority())),
            since_ms: org.since().0,
            other: org.other().map(|other| shown(&org, &other)),
            ..Default::default()
        };
        let Some(succession) = &org.succession else {
            reply.announces_ms = authority::announces(organisation, &org).0;
            return Ok(reply);
        };
        let said = &succession.announcement;
        let nodes = audience(organisation, said);
        if succession.switched { "switched" } else { "announced" }.clone_into(&mut reply.state);
        (reply.announced_ms, reply.switches_ms) = (said.announced.0, said.switches.0);
        reply.ends_ms = if succession.switched { succession.retires(org.since()) } else { said.ends }.0;
        let unaware = nodes.iter().filter(|(_, knows)| !knows).map(|(name, _)| name.clone());
        reply.unaware = unaware.take(FINDINGS_MAX).collect();
        let know = nodes.iter().filter(|(_, knows)| *knows).count();
        (reply.nodes, reply.nodes_that_know) = (nodes.len() as u64, know as u64);
        Ok(reply)
    }

    pub(super) async fn succeed_keys(
        &self,
        caller: &Caller,
        message: wire::SucceedKeysRequest,
    ) -> Result<wire::ShowKeysReply, Refusal> {
        let overlap = match message.overlap_ms {
            0 => self.organisation.timing.overlap,
            ms => Duration::from_millis(ms),
        };
        authority::announce(&self.organisation, caller, overlap).await?;
        self.show_keys(caller, wire::ShowKeysRequest {}).await
    }

    /// For `status`; empty where all is well.
    pub(super) fn keys_warning(&self, org: &Org) -> String {
        let Some(succession) = &org.succession else { return String::new() };
        let nodes = audience(&self.organisation, &succession.announcement);
        let unaware = nodes.iter().filter(|(_, knows)| !knows).count();
        warning(unaware, succession.retires(org.since()).max(succession.announcement.ends), self.organisation.wall())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_comes_where_nodes_are_left_and_time_is_short() {
        let (now, day) = (WallMs(1_700_000_000_000), 86_400_000);
        let at = |days: i64| WallMs(now.0 + days * day);
        assert_eq!(warning(0, at(1), now), "");
        assert_eq!(warning(3, at(60), now), "");
        let said = warning(3, at(13), now);
        assert!(said.contains("3 nodes") && said.contains("join anew") && said.contains("2023-11-27"), "{said}");
        assert!(!warning(1, at(-1), now).is_empty());
        let ends = now.plus(AUTHORITY_WARN);
        assert_eq!(warning(1, WallMs(ends.0 + 1), now), "");
        assert_ne!(warning(1, ends, now), "");
    }
}
