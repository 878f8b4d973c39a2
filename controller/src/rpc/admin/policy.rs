//! Policy: check, apply, show, history, roll-back. All files or none; every revision that was in force is kept for a while.

use super::{AdminRpc, changed};
use crate::authz::Caller;
use crate::directory::policy::digest;
use crate::directory::{
    Directory, Draft, PastPolicy, PastPolicyHead, PolicyChanges, PolicyFile, PolicyRevision, Refusal,
};
use crate::store::{ReadError, Reading};
use model::limits::{
    ACCESS_DECISIONS_MAX, APPLY_DECISIONS_MAX, CHANGE_TRIES_MAX, POLICY_COMPILE_MAX, POLICY_DIFF_IDS_MAX,
    POLICY_HISTORY_MAX, POLICY_PROBLEMS_MAX,
};
use policy::survey::TooMany;
use policy::{Names, PolicySet, Population, Shifts, Warning};
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
        workloads: directory.accounts.values().map(|f| text(&f.record.name)).collect(),
    }
}

/// Everybody who may log in, every workload that may take part, and every resource.
pub(super) fn population(directory: &Directory) -> Population {
    let text = |name: &crate::directory::Name| name.to_string();
    let users = directory.users.values().map(|fact| &fact.record).filter(|user| !user.disabled);
    let accounts = directory.accounts.values().map(|fact| &fact.record).filter(|account| !account.disabled);
    let resources = directory.resources.values().map(|fact| &fact.record);
    Population {
        workloads: accounts.map(|one| (text(&one.name), one.groups.iter().map(text).collect())).collect(),
        users: users.map(|user| (text(&user.name), user.all_groups().map(text).collect())).collect(),
        resources: resources.map(|one| (text(&one.name), one.tags.iter().map(text).collect())).collect(),
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

/// What was found out about files: what is told of them, and what is kept if they come into force.
struct Examined {
    verdict: wire::PolicyVerdict,
    changes: PolicyChanges,
}

/// Compares a set with the one in force. A policy in force that does not compile with this release permits nothing.
fn compare(directory: &Directory, set: &PolicySet, decisions_max: usize) -> (PolicyChanges, wire::PolicyChanges) {
    let nothing: [(&str, &str); 0] = [];
    let held = directory.compiled.clone().or_else(|| policy::compile(&nothing).ok().map(Arc::new));
    let Some(held) = held else { return Default::default() };
    let ids = policy::diff(&held, set);
    let ids = [ids.added, ids.removed, ids.changed];
    let (shifts, not_compared) = match policy::compare(&held, set, &population(directory), decisions_max) {
        Ok(shifts) => (Some(shifts), String::new()),
        Err(TooMany(pairs)) => (None, format!("there are too many pairs of users and resources ({pairs})")),
    };
    let changes = PolicyChanges {
        against: directory.policy.as_ref().map_or(0, |fact| fact.record.number),
        policies: ids.each_ref().map(|ids| line(ids.len())),
        ids: ids.map(|ids| ids.into_iter().take(POLICY_DIFF_IDS_MAX).collect()),
        pairs: shifts.as_ref().map(|shifts| [shifts.widened, shifts.narrowed, shifts.changed]),
    };
    let examples = shifts.map_or_else(Vec::new, examples);
    let told = wire::PolicyChanges { examples, not_compared, ..told(&changes) };
    (changes, told)
}

fn examples(shifts: Shifts) -> Vec<wire::AccessShift> {
    let example = |shift: policy::Shift| wire::AccessShift {
        user: shift.user,
        resource: shift.resource,
        before: shift.before.word().to_owned(),
        before_because: shift.before.to_string(),
        after: shift.after.word().to_owned(),
        after_because: shift.after.to_string(),
    };
    shifts.examples.into_iter().map(example).collect()
}

/// What the history tells.
fn told(changes: &PolicyChanges) -> wire::PolicyChanges {
    let ([added, removed, changed], [added_ids, removed_ids, changed_ids]) = (changes.policies, changes.ids.clone());
    let [widened, narrowed, altered] = changes.pairs.unwrap_or_default();
    let not_compared = if changes.pairs.is_some() { "" } else { "there were too many" };
    wire::PolicyChanges {
        against: changes.against,
        added,
        removed,
        changed,
        added_ids,
        removed_ids,
        changed_ids,
        widened,
        narrowed,
        altered,
        examples: Vec::new(),
        not_compared: not_compared.to_owned(),
    }
}

fn files(message: wire::PolicyFiles) -> Vec<PolicyFile> {
    message.files.into_iter().map(|f| PolicyFile { name: f.name, text: f.text }).collect()
}

fn unreadable(error: ReadError) -> Refusal {
    Refusal::Failed(error.to_string())
}

fn stopped() -> Refusal {
    Refusal::Failed("the controller is being stopped; try again".to_owned())
}

impl AdminRpc {
    /// Compiles, and says what it would change.
    async fn examine(
        &self,
        directory: &Arc<Directory>,
        files: Vec<PolicyFile>,
        decisions_max: usize,
    ) -> Result<Examined, Refusal> {
        let clock = Arc::clone(&self.organisation.clock);
        let until = clock.now().plus(POLICY_COMPILE_MAX);
        let compiled = directory.compiler.compile_in_turn(files, move || clock.now() < until).await;
        let set = match compiled.ok_or_else(stopped)? {
            Ok(set) => set,
            Err(problems) => {
                let finding = |p: &policy::Problem| wire::PolicyFinding {
                    file: p.file.clone(),
                    line: line(p.line),
                    reason: p.reason.clone(),
                };
                let problems = problems.iter().map(finding).collect();
                let verdict = wire::PolicyVerdict { problems, ..Default::default() };
                return Ok(Examined { verdict, changes: PolicyChanges::default() });
            }
        };
        let unknown = policy::unknown_names(&set, &names(directory));
        // Where there are no workloads, everyone is people.
        let open = if directory.accounts.is_empty() { Vec::new() } else { policy::open_to_all(&set) };
        let warnings = findings(set.warnings().iter().chain(&open).chain(&unknown));
        let policies = line(set.rules().len());
        let held = Arc::clone(directory);
        let compared = directory.compiler.in_turn(move || compare(&held, &set, decisions_max)).await;
        let (changes, told) = compared.ok_or_else(stopped)?;
        Ok(Examined {
            verdict: wire::PolicyVerdict { warnings, policies, changes: Some(told), ..Default::default() },
            changes,
        })
    }

    pub(super) async fn check_policy(
        &self,
        _: &Caller,
        message: wire::PolicyFiles,
    ) -> Result<wire::PolicyVerdict, Refusal> {
        Ok(self.examine(&self.organisation.now(), files(message), ACCESS_DECISIONS_MAX).await?.verdict)
    }

    pub(super) async fn apply_policy(
        &self,
        caller: &Caller,
        message: wire::PolicyFiles,
    ) -> Result<wire::PolicyVerdict, Refusal> {
        self.put_in_force(caller, files(message), None).await
    }

    pub(super) async fn rollback_policy(
        &self,
        caller: &Caller,
        message: wire::RollbackPolicyRequest,
    ) -> Result<wire::PolicyVerdict, Refusal> {
        let number = message.policy_revision;
        if self.organisation.now().policy.as_ref().is_some_and(|fact| fact.record.number == number) {
            return Err(Refusal::Invalid(format!("policy revision {number} is in force already: nothing was changed")));
        }
        let past = self.past_policy(number).await?;
        self.put_in_force(caller, past.files, Some(number)).await
    }

    async fn past_policy(&self, number: u64) -> Result<PolicyRevision, Refusal> {
        let mut reading = Reading::new(self.organisation.store.as_ref());
        let past = reading.get::<PastPolicy>(&number).await.map_err(unreadable)?;
        past.map(|past| past.record.0).ok_or_else(|| {
            let kept = format!("the last {POLICY_HISTORY_MAX} are kept, `umbra-controller policy history` lists them");
            Refusal::Invalid(format!("there is no policy revision {number}: {kept}"))
        })
    }

    /// Makes these files the next revision, unless something is wrong with them.
    async fn put_in_force(
        &self,
        caller: &Caller,
        files: Vec<PolicyFile>,
        restores: Option<u64>,
    ) -> Result<wire::PolicyVerdict, Refusal> {
        for _ in 0..CHANGE_TRIES_MAX {
            let examined = self.examine(&self.organisation.now(), files.clone(), APPLY_DECISIONS_MAX).await?;
            if !examined.verdict.problems.is_empty() {
                return Ok(examined.verdict);
            }
            let (against, policies) = (examined.changes.against, examined.verdict.policies);
            let revision = PolicyRevision {
                number: against.saturating_add(1),
                files: files.clone(),
                applied: self.organisation.wall(),
                applied_by: caller.to_string(),
                digest: digest(&files),
                policies,
                restores,
                changes: Some(examined.changes),
            };
            // What is told and kept about the change is true only of the revision that it was compared with.
            let mut overtaken = false;
            let made = self.change(caller, |directory, draft| {
                overtaken = directory.policy.as_ref().map_or(0, |fact| fact.record.number) != against;
                if overtaken {
                    return Err(Refusal::Busy(1));
                }
                write(directory, draft, &revision)?;
                Ok(((), self.entry_of(caller, &revision)))
            });
            match made.await {
                Err(_) if overtaken => {}
                Err(refusal) => return Err(refusal),
                Ok((revision_of_store, ())) => {
                    let (number, mut verdict) = (revision.number, examined.verdict);
                    verdict.policy_revision = number;
                    let told = changed(revision_of_store, number, "");
                    verdict.changed = Some(self.settled(revision_of_store, told).await);
                    return Ok(verdict);
                }
            }
        }
        Err(Refusal::Busy(CHANGE_TRIES_MAX))
    }

    fn entry_of(&self, caller: &Caller, revision: &PolicyRevision) -> crate::audit::Entry {
        let action = if revision.restores.is_some() { "policy.rollback" } else { "policy.apply" };
        let mut entry = self.organisation.entry(caller, action, "policy/current");
        entry = entry.with("policy_revision", revision.number).with("policies", revision.policies);
        entry = entry.with("digest", revision.digest.clone());
        if let Some(older) = revision.restores {
            entry = entry.with("restores", older);
        }
        let changes = revision.changes.clone().unwrap_or_default();
        for (name, count) in ["added", "removed", "changed"].into_iter().zip(changes.policies) {
            entry = entry.with(name, count);
        }
        for (name, count) in ["widened", "narrowed", "altered"].into_iter().zip(changes.pairs.into_iter().flatten()) {
            entry = entry.with(name, count);
        }
        entry
    }

    pub(super) async fn show_policy(
        &self,
        _: &Caller,
        message: wire::ShowPolicyRequest,
    ) -> Result<wire::ShowPolicyReply, Refusal> {
        let now = self.organisation.now();
        let held = now.policy.as_ref().map(|fact| &fact.record);
        let past;
        let (revision, in_force) = match (message.policy_revision, held) {
            (0, None) => return Ok(wire::ShowPolicyReply::default()),
            (0, Some(held)) => (held, true),
            (number, Some(held)) if held.number == number => (held, true),
            (number, _) => {
                past = self.past_policy(number).await?;
                (&past, false)
            }
        };
        let file = |f: &PolicyFile| wire::PolicyFile { name: f.name.clone(), text: f.text.clone() };
        Ok(wire::ShowPolicyReply {
            policy_revision: revision.number,
            files: revision.files.iter().map(file).collect(),
            applied_ms: revision.applied.0,
            applied_by: revision.applied_by.clone(),
            digest: revision.digest.clone(),
            restores: revision.restores.unwrap_or_default(),
            in_force,
        })
    }

    pub(super) async fn list_policy_revisions(
        &self,
        _: &Caller,
        _: wire::ListPolicyRevisionsRequest,
    ) -> Result<wire::ListPolicyRevisionsReply, Refusal> {
        let held = self.organisation.now().policy.as_ref().map_or(0, |fact| fact.record.number);
        let mut reading = Reading::new(self.organisation.store.as_ref());
        let mut heads: Vec<PastPolicyHead> =
            reading.list().await.map_err(unreadable)?.into_iter().map(|past| past.record).collect();
        heads.sort_by_key(|head| std::cmp::Reverse(head.number));
        let row = |head: PastPolicyHead| wire::PolicyRevision {
            policy_revision: head.number,
            applied_ms: head.applied.0,
            applied_by: head.applied_by,
            digest: head.digest,
            policies: head.policies,
            restores: head.restores.unwrap_or_default(),
            in_force: head.number == held,
            changes: head.changes.as_ref().map(told),
        };
        Ok(wire::ListPolicyRevisionsReply { revisions: heads.into_iter().map(row).collect() })
    }
}

/// The revision in force and its place in the history, which loses its oldest.
fn write(directory: &Directory, draft: &mut Draft, next: &PolicyRevision) -> Result<(), Refusal> {
    match &directory.policy {
        Some(fact) => draft.update(fact, next)?,
        None => draft.create(PolicyRevision::CURRENT, next)?,
    }
    draft.put(&next.number, &PastPolicy(next.clone()))?;
    if let Some(old) = next.number.checked_sub(POLICY_HISTORY_MAX).filter(|old| *old > 0) {
        draft.remove_key::<PastPolicy>(&old)?;
    }
    Ok(())
}
