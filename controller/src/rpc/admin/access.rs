//! Who can reach what: always, if something holds, or never? The policy in force, asked for everybody.

use super::AdminRpc;
use super::policy::population;
use crate::authz::Caller;
use crate::directory::{Directory, Refusal};
use model::limits::{ACCESS_BYTES_MAX, ACCESS_ROWS_MAX};
use policy::survey::TooMany;
use policy::{Access, Need, PolicySet, Population, Survey};
use prost::Message as _;
use proto::admin as wire;
use std::sync::Arc;

fn needs(needs: &[Need]) -> Vec<wire::AccessNeed> {
    let need = |need: &Need| wire::AccessNeed { policy: need.policy.clone(), conditions: need.conditions.clone() };
    needs.iter().map(need).collect()
}

fn row(user: &str, resource: &str, access: &Access) -> wire::AccessRow {
    let (permits, forbids) = match access {
        Access::If { permits, forbids } => (needs(permits), needs(forbids)),
        Access::Always { .. } | Access::Never { .. } => (Vec::new(), Vec::new()),
    };
    let because = access.to_string();
    let (user, resource, access) = (user.to_owned(), resource.to_owned(), access.word().to_owned());
    wire::AccessRow { user, resource, access, because, permits, forbids }
}

/// As many rows as fit; without `never`, only those of access.
fn list(set: &PolicySet, population: &Population, never: bool) -> Result<wire::ListAccessReply, TooMany> {
    let survey = Survey::new(set, population)?;
    let [always, sometimes, without] = survey.counts();
    let wanted = always.saturating_add(sometimes).saturating_add(if never { without } else { 0 });
    let mut reply = wire::ListAccessReply { always, sometimes, never: without, ..Default::default() };
    let mut bytes = 0;
    for (user, resource, access) in survey.rows() {
        if !never && matches!(access, Access::Never { .. }) {
            continue;
        }
        let row = row(user, resource, access);
        // With its tag and length.
        bytes += row.encoded_len() + 8;
        if reply.rows.len() >= ACCESS_ROWS_MAX || bytes > ACCESS_BYTES_MAX {
            break;
        }
        reply.rows.push(row);
    }
    reply.omitted = wanted.saturating_sub(u64::try_from(reply.rows.len()).unwrap_or(u64::MAX));
    Ok(reply)
}

/// Everybody, or only whom and what was asked for. A user who may not log in is in no population.
fn asked(directory: &Directory, message: &wire::ListAccessRequest) -> Result<(Population, Option<String>), Refusal> {
    let mut all = population(directory);
    let mut disabled = None;
    if !message.account.is_empty() {
        if !message.user.is_empty() {
            return Err(Refusal::Invalid("ask for a user or for a service account, not for both".to_owned()));
        }
        let missing = || Refusal::missing("account", &message.account);
        let account = &directory.accounts.typed(&message.account).ok_or_else(missing)?.record;
        all.users.clear();
        all.workloads.retain(|name, _| name == account.name.as_str());
        disabled = account.disabled.then(|| account.name.to_string());
    }
    if !message.user.is_empty() {
        all.workloads.clear();
        let missing = || Refusal::missing("user", &message.user);
        let user = &directory.users.typed(&message.user).ok_or_else(missing)?.record;
        all.users.retain(|name, _| name == user.name.as_str());
        disabled = user.disabled.then(|| user.name.to_string());
    }
    if !message.resource.is_empty() {
        let missing = || Refusal::missing("resource", &message.resource);
        let resource = &directory.resources.typed(&message.resource).ok_or_else(missing)?.record;
        all.resources.retain(|name, _| name == resource.name.as_str());
    }
    Ok((all, disabled))
}

/// A disabled account reaches nothing, whatever the policies say.
fn nothing(user: &str, command: &str, population: &Population) -> wire::ListAccessReply {
    let row = |resource: &String| wire::AccessRow {
        user: user.to_owned(),
        resource: resource.clone(),
        access: "never".to_owned(),
        because: format!("the account is disabled: `umbra-controller {command} enable` lets it in again"),
        ..Default::default()
    };
    let count = population.resources.len();
    let rows: Vec<_> = population.resources.keys().take(ACCESS_ROWS_MAX).map(row).collect();
    let omitted = u64::try_from(count - rows.len()).unwrap_or(u64::MAX);
    wire::ListAccessReply { rows, never: u64::try_from(count).unwrap_or(u64::MAX), omitted, ..Default::default() }
}

impl AdminRpc {
    pub(super) async fn list_access(
        &self,
        _: &Caller,
        message: wire::ListAccessRequest,
    ) -> Result<wire::ListAccessReply, Refusal> {
        let directory = self.organisation.now();
        let (population, disabled) = asked(&directory, &message)?;
        let named = !message.user.is_empty() || !message.account.is_empty();
        let never = message.all || named || !message.resource.is_empty();
        let reply = match (disabled, &directory.compiled) {
            (Some(name), _) => {
                let command = if message.account.is_empty() { "user" } else { "account" };
                nothing(&name, command, &population)
            }
            (None, Some(set)) => {
                let set = Arc::clone(set);
                let listed = directory.compiler.survey(move || list(&set, &population, never)).await;
                let listed =
                    listed.ok_or_else(|| Refusal::Failed("the controller is being stopped; try again".to_owned()))?;
                listed.map_err(|many| Refusal::Invalid(many.to_string()))?
            }
            (None, None) => {
                // No policy in force, or none that this release understands: all is denied.
                let subjects = population.users.len().saturating_add(population.workloads.len());
                let pairs = subjects.saturating_mul(population.resources.len());
                wire::ListAccessReply { never: u64::try_from(pairs).unwrap_or(u64::MAX), ..Default::default() }
            }
        };
        let policy_revision = directory.policy.as_ref().map_or(0, |fact| fact.record.number);
        Ok(wire::ListAccessReply { policy_revision, ..reply })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn population(users: usize, resources: usize) -> Population {
        let names = |kind: &str, n: usize| -> BTreeMap<String, BTreeSet<String>> {
            (0..n).map(|i| (format!("{kind}{i:05}"), BTreeSet::new())).collect()
        };
        Population { users: names("u", users), resources: names("r", resources), ..Population::default() }
    }

    #[test]
    fn rows_are_bounded_in_number_and_bytes_and_the_rest_is_counted() {
        let set = policy::compile(&[("p", "permit(principal, action, resource);")]).unwrap();
        let reply = list(&set, &population(ACCESS_ROWS_MAX / 100, 101), false).unwrap();
        assert_eq!((reply.rows.len(), reply.omitted), (ACCESS_ROWS_MAX, (ACCESS_ROWS_MAX / 100) as u64));
        let long = |n: usize| {
            let (id, name) = (format!("{n:02}{}", "i".repeat(60)), "n".repeat(60));
            format!(
                "@id(\"{id}\") @condition(\"{name}\") permit(principal, action, resource) when {{ context.login_age_s < {n} }};"
            )
        };
        let set = policy::compile(&[("p", (0..20).map(long).collect::<String>())]).unwrap();
        let reply = list(&set, &population(100, 100), false).unwrap();
        assert!(reply.rows.len() < 2_000 && reply.encoded_len() <= ACCESS_BYTES_MAX);
        assert_eq!(reply.rows.len() as u64 + reply.omitted, 10_000);
        let none = policy::compile(&[("p", "")]).unwrap();
        let (without, with) = (list(&none, &population(2, 2), false), list(&none, &population(2, 2), true));
        assert_eq!((without.unwrap().rows.len(), with.unwrap().rows.len()), (0, 4));
    }
}
