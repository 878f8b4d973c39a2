//! Commands about identity providers.

use super::super::args::{IdpArgs, IdpCommand};
use super::show::list;
use super::{Client, done, wall};
use model::limits::FETCH_CA_PEM_MAX;
use node::cli::input::secret;
use node::cli::output::{moment, span};
use node::cli::{Failure, Output};
use proto::admin as wire;
use proto::convert::millis;
use std::io::Read as _;
use std::path::Path;

pub(super) async fn run(client: &mut Client, command: IdpCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        IdpCommand::Add(args) => {
            let reply = client.add_idp(request(*args)?).await?.into_inner();
            done(&reply, output, "identity provider added:")
        }
        IdpCommand::List => show(&client.list_idps(wire::ListIdpsRequest {}).await?.into_inner(), output),
        IdpCommand::Remove { idp } => {
            let reply = client.remove_idp(wire::RemoveIdpRequest { idp }).await?.into_inner();
            done(&reply, output, "identity provider removed, its people logged out:")
        }
        IdpCommand::Sync { idp } => {
            let request = wire::SyncIdpsRequest { idp: idp.unwrap_or_default() };
            synced(&client.sync_idps(request).await?.into_inner(), output)
        }
    }
}

fn request(args: IdpArgs) -> Result<wire::AddIdpRequest, Failure> {
    let client_secret = match &args.client_secret_file {
        Some(file) => secret("client secret", Some(file))?.expose().clone(),
        None => String::new(),
    };
    Ok(wire::AddIdpRequest {
        name: args.name,
        issuer: args.issuer,
        client_id: args.client_id,
        client_secret,
        scopes: args.scopes,
        parameters: args.parameters,
        groups_claim: args.groups_claim,
        email_claim: args.email_claim,
        name_claim: args.name_claim,
        sign_in_groups: args.sign_in_groups,
        anyone: args.anyone,
        groups: args.groups,
        groups_as_named: args.groups_as_named,
        factor_words: args.factor_words,
        ca_pem: args.ca_file.as_deref().map(pem).transpose()?.unwrap_or_default(),
        allow: args.allow.iter().map(ToString::to_string).collect(),
        redirect_host: args.redirect_host,
        redirect_port: args.redirect_port.unwrap_or_default().into(),
        device_code: args.device_code,
        without_recheck: args.without_recheck,
        check_every_ms: millis(args.check_every),
        grace_ms: millis(args.grace),
    })
}

/// Certificates from a file, no more than the controller takes.
fn pem(path: &Path) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("{}: {error}", path.display()));
    let mut text = String::new();
    let most = u64::try_from(FETCH_CA_PEM_MAX).unwrap_or(u64::MAX);
    std::fs::File::open(path).map_err(failed)?.take(most + 1).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

fn show(reply: &wire::ListIdpsReply, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    let row = |idp: &wire::Idp| {
        let who = if idp.anyone { "anyone".to_owned() } else { list(&idp.sign_in_groups) };
        let (checked, sessions) = (span(idp.check_every_ms), idp.sessions.to_string());
        [
            idp.name.clone(),
            idp.issuer.clone(),
            who,
            list(&idp.groups),
            checked,
            sessions,
            moment(wall(), idp.created_ms),
        ]
    };
    let rows = reply.idps.iter().map(row).collect();
    output.table(
        ["NAME", "ISSUER", "WHO MAY SIGN IN", "GROUPS", "ASKED EACH", "SESSIONS", "ADDED"],
        rows,
        "no identity providers yet: `umbra-controller idp add NAME`",
    )
}

fn synced(reply: &wire::SyncIdpsReply, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    output.line(format!(
        "log-ins: {} as before, {} with other groups, {} ended",
        reply.same, reply.changed, reply.ended
    ))?;
    if let Some(changed) = reply.settled.as_ref().filter(|_| reply.changed + reply.ended > 0) {
        done(changed, output, "what stood on them ends")?;
    }
    match reply.unknown {
        0 => Ok(()),
        unknown => Err(Failure::failed(format!(
            "of {unknown} log-ins the provider does not say whether it stands by them: the log tells why; they end when its \
             grace is over"
        ))),
    }
}
