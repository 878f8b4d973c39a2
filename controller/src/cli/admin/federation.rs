//! What do the commands about federation rules ask, and how is the answer shown?

use super::{Client, done, wall};
use crate::cli::args::{FederationArgs, FederationCommand};
use crate::cli::input;
use host::keyfile;
use model::limits::{FETCH_CA_PEM_MAX, KEY_SET_MAX};
use model::secret::Secret;
use node::cli::output::moment;
use node::cli::{Failure, Output};
use proto::admin as wire;
use std::path::Path;

pub(super) async fn run(client: &mut Client, command: FederationCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        FederationCommand::Add(args) => {
            let reply = client.add_federation(request(*args)?).await?.into_inner();
            done(&reply, output, "federation rule made:")
        }
        FederationCommand::List => {
            list(&client.list_federation(wire::ListFederationRequest {}).await?.into_inner(), output)
        }
        FederationCommand::Remove { federation } => {
            let reply = client.remove_federation(wire::RemoveFederationRequest { federation }).await?.into_inner();
            done(&reply, output, "federation rule removed:")?;
            output.note("machines that joined by it stay: `device list`; `account disable` ends what they reach");
            Ok(())
        }
        FederationCommand::JoinFile { federation, out } => {
            let request = wire::MakeFederationFileRequest { federation };
            let reply = client.make_federation_file(request).await?.into_inner();
            join_file(reply, out.as_deref(), output)
        }
    }
}

fn request(args: FederationArgs) -> Result<wire::AddFederationRequest, Failure> {
    let read = |path: Option<&Path>, max| path.map_or(Ok(String::new()), |path| input::text_file(path, max));
    Ok(wire::AddFederationRequest {
        name: args.name,
        issuer: args.issuer,
        audience: args.audience,
        subject: args.subject,
        claims: args.claims,
        account: args.account,
        jwks: read(args.jwks_file.as_deref(), KEY_SET_MAX)?,
        ca_pem: read(args.ca_file.as_deref(), FETCH_CA_PEM_MAX)?,
        allow: args.allow.iter().map(ToString::to_string).collect(),
        ephemeral: args.ephemeral,
    })
}

fn list(reply: &wire::ListFederationReply, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    let row = |rule: &wire::Federation| {
        let mut keys = rule.keys.clone();
        for (is, word) in [(rule.ephemeral, ", ephemeral"), (rule.restored, ", WAITS SINCE A RESTORE")] {
            keys.push_str(if is { word } else { "" });
        }
        let subject = std::iter::once(rule.subject.clone()).chain(rule.claims.clone()).collect::<Vec<_>>().join(", ");
        [rule.name.clone(), rule.account.clone(), rule.issuer.clone(), rule.audience.clone(), subject, keys]
    };
    let rows = reply.rules.iter().map(row).collect();
    let empty = "no federation rules yet: `umbra-controller federation add NAME`";
    output.table(["NAME", "ACCOUNT", "ISSUER", "AUDIENCE", "SUBJECT AND CLAIMS", "KEYS"], rows, empty)
}

fn join_file(reply: wire::MakeFederationFileReply, out: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    let file = Secret::new(reply.join_file);
    let Some(path) = out else {
        output.note("the join file follows: nobody joins with it without a token that the rule means");
        return output.raw(std::str::from_utf8(file.expose()).map_err(Failure::failed)?);
    };
    keyfile::create(path, file.expose()).map_err(Failure::failed)?;
    let until = moment(wall(), reply.expires_ms);
    output.line(format!("join file written to {}, good {until} at the latest", path.display()))?;
    output.line(format!("whoever joins with it is asked about the fingerprint {}", reply.fingerprint))
}
