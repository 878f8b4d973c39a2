//! How is the audit trail shown, taken out, and verified?

use super::admin::{Client, wall};
use super::args::{AuditCommand, VerifyArgs};
use crate::audit::{accept, offline};
use crate::config::StatePaths;
use crate::store::Options;
use host::keyfile;
use model::time::WallMs;
use node::cli::{Failure, Output};
use proto::admin as wire;
use std::path::Path;

pub(super) async fn run(client: &mut Client, command: AuditCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        AuditCommand::List { limit, since, actor, action, object } => {
            let since = since.and_then(|since| i64::try_from(since.as_millis()).ok());
            let since_ms = since.map_or(0, |since| wall().saturating_sub(since));
            let request = wire::ListAuditRequest { limit, since_ms, actor, action, object };
            list(&client.list_audit(request).await?.into_inner(), output)
        }
        AuditCommand::Verify(_) => verify(client, output).await,
        // Done without a controller.
        AuditCommand::AcceptLoss { .. } => Ok(()),
        AuditCommand::Export { out } => export(client, &out, output).await,
    }
}

fn list(reply: &wire::ListAuditReply, output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        // As they are chained: programs get the records themselves.
        let parsed =
            reply.records.iter().map(|line| serde_json::from_str(line)).collect::<Result<Vec<serde_json::Value>, _>>();
        let records = parsed.map_err(Failure::failed)?;
        output.json(&serde_json::json!({ "records": records }))?;
        return Ok(());
    }
    if reply.lines.is_empty() {
        return output.line("no audit record matches");
    }
    reply.lines.iter().try_for_each(|line| output.line(line))
}

async fn verify(client: &mut Client, output: &mut Output) -> Result<(), Failure> {
    let reply = client.verify_audit(wire::VerifyAuditRequest {}).await?.into_inner();
    let json = output.json(&reply)?;
    if !reply.whole {
        return Err(Failure::failed(reply.problem));
    }
    if json {
        return Ok(());
    }
    output.line(format!("the audit trail is whole: records {} to {}, head {}", reply.first, reply.last, reply.head))
}

/// Writes the trail, and at its end the head that the controller signed; a file that is not whole does not stay.
async fn export(client: &mut Client, out: &Path, output: &mut Output) -> Result<(), Failure> {
    let mut file = keyfile::Fresh::create(out).map_err(Failure::failed)?;
    let mut line = |text: &str| file.write(text.as_bytes()).and_then(|()| file.write(b"\n")).map_err(Failure::failed);
    let (mut from, mut records, mut witness) = (0, 0_usize, String::new());
    loop {
        let reply = client.export_audit(wire::ExportAuditRequest { from }).await?.into_inner();
        if from == 0 {
            witness = reply.witness;
        }
        if reply.records.is_empty() {
            break;
        }
        reply.records.iter().try_for_each(|record| line(record))?;
        (from, records) = (reply.next, records.saturating_add(reply.records.len()));
    }
    if !witness.is_empty() {
        line(&witness)?;
    }
    file.keep().map_err(Failure::failed)?;
    if output.json(&serde_json::json!({ "file": out.display().to_string(), "records": records }))? {
        return Ok(());
    }
    output.line(format!("{records} records written to {}", out.display()))
}

/// Needs neither controller nor store.
pub(super) fn verify_offline(args: &VerifyArgs, output: &mut Output) -> Result<(), Failure> {
    let found = offline::verify(&args.offline, &args.witness).map_err(Failure::failed)?;
    if let Some(known) = &args.fingerprint
        && let Some(other) = found.fingerprints.iter().find(|other| !found.is_same(known, other))
    {
        return Err(Failure::failed(format!(
            "a head was signed for the organisation with fingerprint {other}, not {known}"
        )));
    }
    let (verified, files) = (found.verified, found.files);
    let succession =
        |one: &offline::Succeeded| serde_json::json!({ "before": one.before, "next": one.next, "record": one.record });
    let successions: Vec<_> = found.successions.iter().map(succession).collect();
    let reply = serde_json::json!({
        "whole": true, "first": verified.first, "last": verified.last, "head": verified.head.to_string(),
        "witnessed": found.witnessed, "fingerprints": found.fingerprints, "successions": successions, "notes": found.notes,
    });
    if output.json(&reply)? {
        return Ok(());
    }
    output.line(format!(
        "the audit trail in {files} {} is whole: records {} to {}, head {}",
        if files == 1 { "file" } else { "files" },
        verified.first,
        verified.last,
        verified.head
    ))?;
    match found.witnessed {
        0 => output.line("no signed head is in it: whether its end was cut off cannot be told (--witness)")?,
        heads => output.line(format!("it holds what {heads} signed heads say"))?,
    }
    for fingerprint in &found.fingerprints {
        output.line(format!("signed for the organisation with fingerprint {fingerprint}; compare it"))?;
    }
    for one in &found.successions {
        output.line(format!("{} named {} as what follows it (record {})", one.before, one.next, one.record))?;
    }
    found.notes.iter().try_for_each(|note| output.line(note))
}

/// Needs a controller that is stopped.
pub(super) async fn accept_loss(state: &Path, reason: &str, output: &mut Output) -> Result<(), Failure> {
    let accepted = accept::accept(&StatePaths::new(state), reason, WallMs(wall()), Options::default()).await;
    let accepted = accepted.map_err(Failure::failed)?;
    let reply = serde_json::json!({
        "kept": accepted.kept, "incarnation": accepted.revision.incarnation, "refused": accepted.refused,
    });
    if output.json(&reply)? {
        return Ok(());
    }
    output.line(format!("accepted: the audit trail goes on after record {}", accepted.kept))?;
    output.line("next      umbra-controller serve, then umbra-controller restored list")
}
