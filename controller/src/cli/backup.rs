//! How do backups go out, and come back?

use super::admin::{Client, wall};
use super::args::{BackupCommand, RestoreArgs, RestoredCommand};
use crate::backup::container::{Identity, Unlock};
use crate::backup::restore::{self, RestoreError, Wish};
use crate::config::StatePaths;
use crate::init::InitError;
use crate::store::Options;
use host::keyfile;
use model::time::WallMs;
use node::cli::input::secret;
use node::cli::output::moment;
use node::cli::{Exit, Failure, Output};
use proto::admin as wire;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// Makes an identity.
pub(super) fn keygen(out: &Path, output: &mut Output) -> Result<(), Failure> {
    let (identity, recipient) = Identity::generate().map_err(Failure::failed)?;
    keyfile::create(out, identity.to_text().expose().as_bytes()).map_err(Failure::failed)?;
    let recipient = recipient.to_string();
    if output.json(&serde_json::json!({ "recipient": recipient, "identity_file": out.display().to_string() }))? {
        return Ok(());
    }
    output.line(format!(
        "identity    in {}: keep it where a backup is to be restored, not on the controller",
        out.display()
    ))?;
    output.line(format!("recipient   {recipient}"))
}

/// Makes a backup; a file that is not whole does not stay.
pub(super) async fn create(client: &mut Client, command: BackupCommand, output: &mut Output) -> Result<(), Failure> {
    let BackupCommand::Create { out, passphrase_file, recipients } = command else { return Ok(()) };
    let passphrase = match (&passphrase_file, recipients.is_empty()) {
        (None, false) => String::new(),
        (file, _) => secret("passphrase", file.as_deref())?.expose().clone(),
    };
    let mut file = keyfile::Fresh::create(&out).map_err(Failure::failed)?;
    let request = wire::BackupRequest { passphrase, recipients };
    let mut pieces = client.backup(request).await?.into_inner();
    let mut bytes = 0_u64;
    while let Some(piece) = pieces.message().await? {
        bytes = bytes.saturating_add(u64::try_from(piece.data.len()).unwrap_or(u64::MAX));
        file.write(&piece.data).map_err(Failure::failed)?;
    }
    file.keep().map_err(Failure::failed)?;
    if output.json(&serde_json::json!({ "file": out.display().to_string(), "bytes": bytes }))? {
        return Ok(());
    }
    output.line(format!("backup of {bytes} bytes written to {}", out.display()))
}

fn unlock(args: &RestoreArgs) -> Result<Unlock, Failure> {
    match &args.identity_file {
        Some(path) => {
            let text = secret("identity", Some(path))?;
            Identity::parse(&text).map(Unlock::Identity).map_err(Failure::failed)
        }
        None => secret("passphrase", args.passphrase_file.as_deref()).map(Unlock::Passphrase),
    }
}

/// Makes an organisation again.
pub(super) async fn restore(state: &Path, args: RestoreArgs, output: &mut Output) -> Result<(), Failure> {
    let open = |e| Failure::failed(format!("cannot read {}: {e}", args.backup.display()));
    let file = BufReader::new(File::open(&args.backup).map_err(open)?);
    let unlock = unlock(&args)?;
    let wish = Wish { endpoints: args.endpoints, incarnation: args.incarnation, wall: WallMs(wall()) };
    let paths = StatePaths::new(state);
    let made = restore::restore(&paths, file, &unlock, &wish, Options::default()).await;
    let made = made.map_err(|error| match error {
        RestoreError::Init(InitError::Endpoint(_) | InitError::Count(_)) | RestoreError::Incarnation(_) => {
            Failure::new(Exit::Usage, error)
        }
        error => Failure::failed(error),
    })?;
    let [users, devices, gateways] = made.waiting;
    let reply = serde_json::json!({
        "trust_domain": made.org.trust_domain, "fingerprint": made.org.fingerprint(),
        "state": state.display().to_string(), "incarnation": made.revision.incarnation,
        "backup_ms": made.restored.created.0, "backup_revision": made.restored.revision.number,
        "policy_revision": made.restored.policy.unwrap_or(0),
        "waiting": { "users": users, "devices": devices, "gateways": gateways },
    });
    if output.json(&reply)? {
        return Ok(());
    }
    output.line(format!("organisation `{}` restored in {}", made.org.trust_domain, state.display()))?;
    output.line(format!("fingerprint   {}", made.org.fingerprint()))?;
    output.line(format!("as of         {}; what changed later is lost", moment(wall(), made.restored.created.0)))?;
    let policy = if made.restored.policy.is_some() { ", and the policy" } else { "" };
    output.line(format!("waiting       {users} users, {devices} devices, {gateways} gateways{policy}"))?;
    output.line("next          umbra-controller serve, then umbra-controller restored list")
}

/// What waits, and its confirmation.
pub(super) async fn restored(
    client: &mut Client,
    command: RestoredCommand,
    output: &mut Output,
) -> Result<(), Failure> {
    match command {
        RestoredCommand::List => {
            let reply = client.list_restored(wire::ListRestoredRequest {}).await?.into_inner();
            list(&reply, output)
        }
        RestoredCommand::Confirm { items, all } => {
            let mut total = wire::ConfirmRestoredReply::default();
            loop {
                let request = wire::ConfirmRestoredRequest { items: items.clone(), all };
                let reply = client.confirm_restored(request).await?.into_inner();
                let stuck = reply.confirmed.is_empty();
                total.confirmed.extend(reply.confirmed);
                total.left = reply.left;
                if !all || total.left == 0 || stuck {
                    break;
                }
            }
            if output.json(&total)? {
                return Ok(());
            }
            for one in &total.confirmed {
                output.line(format!("{} confirmed: `{}` ({})", one.kind, one.name, one.id))?;
            }
            output.line(format!("{} still wait", total.left))
        }
    }
}

fn list(reply: &wire::ListRestoredReply, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    if !reply.restored {
        return output.line("this organisation does not come from a backup: nothing waits");
    }
    let now = wall();
    output.line(format!(
        "restored {} from a backup made {} (revision {}.{}, audit record {}): what changed after that is lost",
        moment(now, reply.restored_ms),
        moment(now, reply.backup_ms),
        reply.backup_incarnation,
        reply.backup_revision,
        reply.audit_seq
    ))?;
    if reply.policy_revision > 0 {
        output.line(format!(
            "no policy is in force: apply yours (`policy apply`), or that of the backup (`policy rollback {}`)",
            reply.policy_revision
        ))?;
    }
    for lost in &reply.lost {
        output.line(match lost.records {
            0 => format!("gateway `{}` witnessed another audit record {} than there is", lost.gateway, lost.witnessed),
            records => format!(
                "gateway `{}` witnessed audit record {} of the former life, the backup ends at {}: {records} records are lost",
                lost.gateway, lost.witnessed, reply.audit_seq
            ),
        })?;
    }
    let rows = reply
        .waiting
        .iter()
        .map(|one| [format!("{}/{}", one.kind, one.name), one.about.clone(), one.fingerprint.clone(), one.id.clone()]);
    output.table(["WAITS", "OF", "FINGERPRINT", "ID"], rows.collect(), "nothing waits any more")
}
