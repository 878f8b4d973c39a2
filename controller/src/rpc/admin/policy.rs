//! Policy: check, apply, show. All files or none.

use super::{AdminRpc, changed};
use crate::authz::Caller;
use crate::directory::{Directory, Draft, PastPolicy, PolicyFile, PolicyRevision, Refusal};
use model::limits::{POLICY_COMPILE_MAX, POLICY_HISTORY_MAX, POLICY_PROBLEMS_MAX};
use policy::{Names, Warning};
use proto::admin as wire;
use std::sync::Arc;

/// The names that policies can mean.
fn names(directory: &Directory) -> Names {
    let text = |name: &crate::directory::Name| name.to_string();
    Names {
        users: directory.users.values().map(|f| text(&f.record.name)).collect(),
        groups: directory.groups.values().map(|f| text(&f.record.name)).collect(),
        resources: directory.resources.values().map(|f| text(&f.record.name)).collect(),
        tags: directory.resources.values().flat_map(|f| f.record.tags.iter().map(text)).collect(),
        devices: directory.devices.values().map(|f| text(&f.record.name)).collect(),
    }
}

fn line(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn finding(warning: &Warning) -> wire::PolicyFinding {
    wire::PolicyFinding { file: warning.file.clone(), line: line(warning.line), reason: warning.text.clone() }
}

/// The first of these warnings, and how many more there are.
fn findings<'a>(warnings: impl Iterator<Item = &'a Warning>) -> Vec<wire::PolicyFinding> {
    let mut warnings = warnings.fuse();
    let mut found: Vec<_> = warnings.by_ref().take(POLICY_PROBLEMS_MAX).map(finding).collect();
    match warnings.count() {
        0 => {}
        more => {
            let reason = format!("{more} more warnings are not listed");
            found.push(wire::PolicyFinding { file: "(all files)".to_owned(), line: 0, reason });
        }
    }
    found
}

fn files(message: wire::PolicyFiles) -> Vec<PolicyFile> {
    message.files.into_iter().map(|f| PolicyFile { name: f.name, text: f.text }).collect()
}

impl AdminRpc {
    async fn examine(&self, files: Vec<PolicyFile>) -> Result<wire::PolicyVerdict, Refusal> {
        let clock = Arc::clone(&self.organisation.clock);
        let until = clock.now().plus(POLICY_COMPILE_MAX);
        let compiled = self.organisation.now().compiler.compile_in_turn(files, move || clock.now() < until).await;
        let set = match compiled.ok_or_else(|| Refusal::Failed("the policy compiler stopped; try again".to_owned()))? {
            Ok(set) => set,
            Err(problems) => {
                let finding = |p: &policy::Problem| wire::PolicyFinding {
                    file: p.file.clone(),
                    line: line(p.line),
                    reason: p.reason.clone(),
                };
                let problems = problems.iter().map(finding).collect();
                return Ok(wire::PolicyVerdict { problems, ..Default::default() });
            }
        };
        let unknown = policy::unknown_names(&set, &names(&self.organisation.now()));
        Ok(wire::PolicyVerdict {
            warnings: findings(set.warnings().iter().chain(&unknown)),
            policies: line(set.rules().len()),
            ..Default::default()
        })
    }

    pub(super) async fn check_policy(
        &self,
        _: &Caller,
        message: wire::PolicyFiles,
    ) -> Result<wire::PolicyVerdict, Refusal> {
        self.examine(files(message)).await
    }

    pub(super) async fn apply_policy(
        &self,
        caller: &Caller,
        message: wire::PolicyFiles,
    ) -> Result<wire::PolicyVerdict, Refusal> {
        let files = files(message);
        let mut verdict = self.examine(files.clone()).await?;
        if !verdict.problems.is_empty() {
            return Ok(verdict);
        }
        let applied = self.organisation.wall();
        let make = |directory: &Directory, draft: &mut Draft| {
            let held = directory.policy.as_ref();
            let number = held.map_or(0, |fact| fact.record.number).saturating_add(1);
            let next = PolicyRevision { number, files: files.clone(), applied, applied_by: caller.to_string() };
            match held {
                Some(fact) => draft.update(fact, &next)?,
                None => draft.create(PolicyRevision::CURRENT, &next)?,
            }
            draft.put(&number, &PastPolicy(next))?;
            if let Some(old) = number.checked_sub(POLICY_HISTORY_MAX).filter(|old| *old > 0) {
                draft.remove_key::<PastPolicy>(&old)?;
            }
            let entry =
                self.organisation.entry(caller, "policy.apply", "policy/current").with("policy_revision", number);
            Ok((number, entry.with("policies", verdict.policies)))
        };
        let (revision, number) = self.organisation.change(make).await?;
        verdict.policy_revision = number;
        verdict.changed = Some(self.settled(revision, changed(revision, number, "")).await);
        Ok(verdict)
    }

    pub(super) async fn show_policy(
        &self,
        _: &Caller,
        _: wire::ShowPolicyRequest,
    ) -> Result<wire::ShowPolicyReply, Refusal> {
        let now = self.organisation.now();
        let Some(fact) = now.policy.as_ref() else { return Ok(wire::ShowPolicyReply::default()) };
        let policy = &fact.record;
        let file = |f: &PolicyFile| wire::PolicyFile { name: f.name.clone(), text: f.text.clone() };
        Ok(wire::ShowPolicyReply {
            policy_revision: policy.number,
            files: policy.files.iter().map(file).collect(),
            applied_ms: policy.applied.0,
            applied_by: policy.applied_by.clone(),
        })
    }
}
