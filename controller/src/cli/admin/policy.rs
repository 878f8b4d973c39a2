//! What do the policy commands ask, and how is the answer shown?

use super::{Client, done, wall};
use crate::cli::args::PolicyCommand;
use crate::cli::input;
use node::cli::output::moment;
use node::cli::{Failure, Output};
use proto::admin as wire;

pub(super) async fn run(client: &mut Client, command: PolicyCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        PolicyCommand::Show { revision } => {
            let request = wire::ShowPolicyRequest { policy_revision: revision.unwrap_or_default() };
            text(&client.show_policy(request).await?.into_inner(), output)
        }
        PolicyCommand::History => {
            history(&client.list_policy_revisions(wire::ListPolicyRevisionsRequest {}).await?.into_inner(), output)
        }
        PolicyCommand::Access { user, account, resource, all } => {
            let [user, account, resource] = [user, account, resource].map(Option::unwrap_or_default);
            let request = wire::ListAccessRequest { user, resource, all, account };
            access(&client.list_access(request).await?.into_inner(), output)
        }
        PolicyCommand::Check { files } => {
            let files = wire::PolicyFiles { files: input::policy_files(&files)? };
            verdict(&client.check_policy(files).await?.into_inner(), false, output)
        }
        PolicyCommand::Apply { files } => {
            let files = wire::PolicyFiles { files: input::policy_files(&files)? };
            verdict(&client.apply_policy(files).await?.into_inner(), true, output)
        }
        PolicyCommand::Rollback { revision } => {
            let request = wire::RollbackPolicyRequest { policy_revision: revision };
            verdict(&client.rollback_policy(request).await?.into_inner(), true, output)
        }
    }
}

/// What is wrong with files, or what they change.
fn verdict(verdict: &wire::PolicyVerdict, apply: bool, output: &mut Output) -> Result<(), Failure> {
    let json = output.json(verdict)?;
    let told = |finding: &wire::PolicyFinding, kind: &str| {
        format!("{}:{}: {kind}{}", finding.file, finding.line, finding.reason)
    };
    if !json {
        verdict.warnings.iter().for_each(|finding| output.note(told(finding, "warning: ")));
        verdict.problems.iter().for_each(|finding| output.note(told(finding, "")));
    }
    if !verdict.problems.is_empty() {
        let count = verdict.problems.len();
        let kept = if apply { "; the policy in force stays as it was" } else { "" };
        return Err(Failure::failed(format!("the policy has {count} problem(s){kept}")));
    }
    if json {
        return Ok(());
    }
    let Some(changed) = verdict.changed.as_ref().filter(|_| apply) else {
        output.line(format!("the policy is valid: {} policies", verdict.policies))?;
        return verdict.changes.as_ref().map_or(Ok(()), |changes| change(changes, output));
    };
    output.line(format!("policy revision {} is in force: {} policies", verdict.policy_revision, verdict.policies))?;
    if let Some(changes) = &verdict.changes {
        change(changes, output)?;
    }
    let named = wire::Changed { id: changed.id.clone(), name: String::new(), ..changed.clone() };
    if named.confirmations.is_empty() { Ok(()) } else { done(&named, output, "policy applied:") }
}

fn ids(count: u64, word: &str, ids: &[String]) -> String {
    let more = if ids.len() as u64 == count { "" } else { ", ..." };
    if count == 0 { format!("0 {word}") } else { format!("{count} {word} ({}{more})", ids.join(", ")) }
}

/// What a revision changes of the one before.
fn change(changes: &wire::PolicyChanges, output: &mut Output) -> Result<(), Failure> {
    let against = match changes.against {
        0 => "against no policy".to_owned(),
        number => format!("against revision {number}"),
    };
    let parts = [
        ids(changes.added, "added", &changes.added_ids),
        ids(changes.removed, "removed", &changes.removed_ids),
        ids(changes.changed, "changed", &changes.changed_ids),
    ];
    output.line(format!("  policies {against}: {}", parts.join(", ")))?;
    if !changes.not_compared.is_empty() {
        return output.line(format!("  access was not compared: {}", changes.not_compared));
    }
    let (wider, narrower, other) = (changes.widened, changes.narrowed, changes.altered);
    output.line(format!(
        "  access of users to resources: {wider} wider, {narrower} narrower, {other} with other conditions"
    ))?;
    for one in &changes.examples {
        let now =
            if one.after == "always" { one.after.clone() } else { format!("{}: {}", one.after, one.after_because) };
        output.line(format!("    {} -> {}: was {}, now {now}", one.user, one.resource, one.before))?;
    }
    let shown = changes.examples.len() as u64;
    if shown > 0 && shown < wider.saturating_add(narrower).saturating_add(other) {
        output.line("    ... and others like these")?;
    }
    Ok(())
}

fn text(reply: &wire::ShowPolicyReply, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    if reply.policy_revision == 0 {
        return output.line("no policy was applied yet: nobody may reach anything");
    }
    let applied = moment(wall(), reply.applied_ms);
    let standing = if reply.in_force { "in force" } else { "not in force" };
    let again = if reply.restores == 0 { String::new() } else { format!(", the files of revision {}", reply.restores) };
    let by = &reply.applied_by;
    output.note(format!("revision {}, {standing}, applied {applied} by {by}{again}", reply.policy_revision));
    for file in &reply.files {
        output.line(format!("// {}", file.name))?;
        file.text.lines().try_for_each(|line| output.line(line))?;
    }
    Ok(())
}

fn history(reply: &wire::ListPolicyRevisionsReply, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    let now = wall();
    let row = |one: &wire::PolicyRevision| {
        let revision =
            if one.in_force { format!("{} in force", one.policy_revision) } else { one.policy_revision.to_string() };
        let mut what = one.changes.as_ref().map_or_else(String::new, summary);
        if one.restores != 0 {
            what = format!("back to {}: {what}", one.restores);
        }
        let digest: String = one.digest.chars().take(16).collect();
        [revision, moment(now, one.applied_ms), one.applied_by.clone(), one.policies.to_string(), what, digest]
    };
    let rows = reply.revisions.iter().map(row).collect();
    let empty = "no policy was applied yet: nobody may reach anything";
    output.table(["REVISION", "APPLIED", "BY", "POLICIES", "CHANGE", "DIGEST"], rows, empty)
}

/// In one cell.
fn summary(changes: &wire::PolicyChanges) -> String {
    let policies = format!("+{} -{} ~{}", changes.added, changes.removed, changes.changed);
    if !changes.not_compared.is_empty() {
        return policies;
    }
    format!("{policies}, access {} wider, {} narrower, {} other", changes.widened, changes.narrowed, changes.altered)
}

fn access(reply: &wire::ListAccessReply, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    let row = |one: &wire::AccessRow| [one.user.clone(), one.resource.clone(), one.access.clone(), one.because.clone()];
    let empty = match reply.policy_revision {
        0 => "no policy was applied yet: nobody may reach anything",
        _ => "nobody may reach anything: --all says why not",
    };
    output.table(["USER", "RESOURCE", "ACCESS", "BECAUSE"], reply.rows.iter().map(row).collect(), empty)?;
    if reply.omitted > 0 {
        output.line(format!("{} more rows did not fit: name a user or a resource", reply.omitted))?;
    }
    output.note(format!(
        "{} always, {} if, {} never; from a confirmed device, people logged in",
        reply.always, reply.sometimes, reply.never
    ));
    Ok(())
}
