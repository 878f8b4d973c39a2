//! How is the organisation? And: who becomes its first owner?

use super::{AdminRpc, changed};
use crate::authz::Caller;
use crate::break_glass;
use crate::directory::{Directory, JoinKeyState, NodeState, Refusal};
use crate::owner;
use model::limits::{ALARM_KEEP, ALARMS_MAX};
use model::secret::Secret;
use model::time::WallMs;
use proto::admin as wire;

fn count<T>(items: impl Iterator<Item = T>) -> u64 {
    u64::try_from(items.count()).unwrap_or(u64::MAX)
}

/// What an administrator has to look at.
fn alarms(now: &Directory, wall: WallMs) -> Vec<String> {
    let devices = now.devices.values().map(|d| ("device", &d.record.name, d.record.copied));
    let gateways = now.gateways.values().map(|g| ("gateway", &g.record.name, g.record.copied));
    let copies = copies(devices.chain(gateways).filter_map(|(kind, name, at)| Some((at?, kind, name.as_str()))), wall);
    break_glass::alarm(now).into_iter().chain(copies).collect()
}

/// The newest alarms about copied nodes.
fn copies<'n>(seen: impl Iterator<Item = (WallMs, &'static str, &'n str)>, wall: WallMs) -> Vec<String> {
    let mut copied: Vec<_> = seen.filter(|(at, ..)| wall.since(*at) <= ALARM_KEEP).collect();
    copied.sort_unstable();
    let tell = |(_, kind, name)| {
        format!(
            "two programs used the keys of {kind} `{name}` at once: both are cut off; find out who copied its state, then \
             let it join again"
        )
    };
    copied.into_iter().rev().take(ALARMS_MAX).map(tell).collect()
}

impl AdminRpc {
    pub(super) async fn status(&self, _: &Caller, _: wire::StatusRequest) -> Result<wire::StatusReply, Refusal> {
        let (now, wall, org) = (self.organisation.now(), self.organisation.wall(), self.organisation.org()?);
        let devices = |state| count(now.devices.values().filter(|d| d.record.state == state));
        let gateways = |state| count(now.gateways.values().filter(|g| g.record.state == state));
        Ok(wire::StatusReply {
            alarms: alarms(&now, wall),
            keys_warning: self.keys_warning(&org),
            fingerprint: org.fingerprint(),
            trust_domain: org.trust_domain.to_string(),
            incarnation: now.revision.incarnation,
            revision: now.revision.number,
            pool_v4: org.pool.v4().to_string(),
            pool_v6: org.pool.v6().to_string(),
            controller_key: org.key.to_string(),
            endpoints: org.endpoints,
            zones: org.zones.iter().map(ToString::to_string).collect(),
            private_zones: org.private_zones.iter().map(ToString::to_string).collect(),
            users: count(now.users.values()),
            accounts: count(now.accounts.values()),
            devices: devices(NodeState::Confirmed),
            devices_pending: devices(NodeState::Pending),
            sites: count(now.sites.values()),
            gateways: gateways(NodeState::Confirmed),
            gateways_pending: gateways(NodeState::Pending),
            resources: count(now.resources.values()),
            sessions: count(now.sessions.values().filter(|s| s.record.is_live(wall))),
            policy_revision: now.policy.as_ref().map_or(0, |fact| fact.record.number),
            join_keys: count(now.join_keys.values().filter(|k| k.record.state(wall) == JoinKeyState::Usable)),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            created_ms: org.created.0,
            refuses: self.organisation.store.refused().unwrap_or_default(),
            drops: (self.counters)()
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(reason, count)| wire::Count { reason: reason.to_owned(), count })
                .collect(),
        })
    }

    pub(super) async fn claim_owner(
        &self,
        caller: &Caller,
        message: wire::ClaimOwnerRequest,
    ) -> Result<wire::Changed, Refusal> {
        let (token, password) = (Secret::new(message.token), Secret::new(message.password));
        let (revision, user) = owner::claim(&self.organisation, caller, token, &message.name, password).await?;
        Ok(changed(revision, user.id, user.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_copies_are_told_for_a_while() {
        let wall = WallMs(1_800_000_000_000);
        let names: Vec<String> = (0..2 * ALARMS_MAX).map(|n| format!("laptop-{n:04}")).collect();
        let at = |n: usize| WallMs(wall.0 - 1_000_000 + i64::try_from(n).unwrap());
        let told = copies(names.iter().enumerate().map(|(n, name)| (at(n), "device", name.as_str())), wall);
        assert_eq!(told.len(), ALARMS_MAX);
        assert!(told[0].contains(&names[2 * ALARMS_MAX - 1]) && told[0].contains("both are cut off"), "{told:?}");
        let seen = |at| copies([(at, "gateway", "gw")].into_iter(), wall).len();
        let kept = i64::try_from(ALARM_KEEP.as_millis()).unwrap();
        assert_eq!((seen(WallMs(wall.0 - kept)), seen(WallMs(wall.0 - kept - 1))), (1, 0));
    }
}
