//! What do the commands about service accounts ask, and how is the answer shown?

use super::{Client, done, wall};
use crate::cli::args::{AccountCommand, AccountGroupCommand, AccountIdentityCommand};
use node::cli::output::moment;
use node::cli::{Failure, Output};
use proto::admin as wire;

pub(super) async fn run(client: &mut Client, command: AccountCommand, output: &mut Output) -> Result<(), Failure> {
    let (account, group, member) = match command {
        AccountCommand::Add { name, description, groups } => {
            let request = wire::AddAccountRequest { name, description, groups };
            return added(&client.add_account(request).await?.into_inner(), output);
        }
        AccountCommand::List => {
            return list(&client.list_accounts(wire::ListAccountsRequest {}).await?.into_inner(), output);
        }
        AccountCommand::Show { account } => {
            let all = client.list_accounts(wire::ListAccountsRequest {}).await?.into_inner().accounts;
            let found = all.into_iter().find(|one| one.name == account || one.id == account);
            let missing = || {
                let what = format!("there is no account `{account}`");
                Failure::failed(format!("{what}: `umbra-controller account list` shows what there is"))
            };
            return show(&found.ok_or_else(missing)?, output);
        }
        AccountCommand::Disable { account } => {
            let request = wire::SetAccountEnabledRequest { account, enabled: false };
            let reply = client.set_account_enabled(request).await?.into_inner();
            return done(&reply, output, "service account disabled:");
        }
        AccountCommand::Enable { account } => {
            let request = wire::SetAccountEnabledRequest { account, enabled: true };
            let reply = client.set_account_enabled(request).await?.into_inner();
            return done(&reply, output, "service account enabled:");
        }
        AccountCommand::Remove { account } => {
            let reply = client.remove_account(wire::RemoveAccountRequest { account }).await?.into_inner();
            return removed(&reply, output);
        }
        AccountCommand::Identity(command) => return identity(client, command, output).await,
        AccountCommand::Group(AccountGroupCommand::Add { account, group }) => (account, group, true),
        AccountCommand::Group(AccountGroupCommand::Remove { account, group }) => (account, group, false),
    };
    let way = if member { "added to" } else { "removed from" };
    let what = format!("service account `{account}` {way} group");
    let reply = client.set_account_group(wire::SetAccountGroupRequest { account, group, member }).await?.into_inner();
    done(&reply, output, &what)
}

async fn identity(client: &mut Client, command: AccountIdentityCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        AccountIdentityCommand::Add { account, path, uid, gid } => {
            let request = wire::AddRegistrationRequest { account, path, uid, gid };
            done(&client.add_registration(request).await?.into_inner(), output, "identity made:")
        }
        AccountIdentityCommand::List => {
            identities(&client.list_registrations(wire::ListRegistrationsRequest {}).await?.into_inner(), output)
        }
        AccountIdentityCommand::Remove { identity } => {
            let request = wire::RemoveRegistrationRequest { registration: identity };
            done(&client.remove_registration(request).await?.into_inner(), output, "identity removed:")?;
            output.note("what programs hold of it ends by itself, within the hour; they get no other");
            Ok(())
        }
    }
}

fn identities(reply: &wire::ListRegistrationsReply, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    let shown = |part: Option<u32>| part.map_or_else(|| "any".to_owned(), |number| number.to_string());
    let row = |one: &wire::Registration| {
        [one.spiffe_id.clone(), one.account.clone(), shown(one.uid), shown(one.gid), one.id.clone()]
    };
    let rows = reply.registrations.iter().map(row).collect();
    let empty = "no identities of programs yet: `umbra-controller account identity add ACCOUNT PATH --uid NUMBER`";
    output.table(["SPIFFE ID", "ACCOUNT", "UID", "GID", "ID"], rows, empty)
}

fn listed(items: &[String]) -> String {
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

fn added(reply: &wire::AddAccountReply, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    done(&reply.changed.clone().unwrap_or_default(), output, "service account made")?;
    if reply.open_to.is_empty() {
        return Ok(());
    }
    output.line(format!(
        "  these policies name everyone, and so this workload, too: {}; `principal is User` means people alone",
        listed(&reply.open_to)
    ))
}

fn removed(reply: &wire::RemoveAccountReply, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    done(&reply.changed.clone().unwrap_or_default(), output, "service account removed:")?;
    output.line(format!("  machines revoked: {}", listed(&reply.devices)))?;
    output.line(format!("  join keys revoked: {}", listed(&reply.join_keys)))?;
    output.line(format!("  federation rules removed: {}", listed(&reply.federation)))?;
    output.line(format!("  groups left: {}", listed(&reply.groups)))
}

const fn state(account: &wire::Account) -> &'static str {
    if account.disabled { "disabled" } else { "enabled" }
}

fn list(reply: &wire::ListAccountsReply, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    let row = |one: &wire::Account| {
        let (groups, machines) = (one.groups.join(", "), one.devices.len().to_string());
        [one.name.clone(), state(one).to_owned(), groups, machines, one.description.clone(), one.id.clone()]
    };
    let rows = reply.accounts.iter().map(row).collect();
    let empty = "no service accounts yet: `umbra-controller account add NAME`";
    output.table(["NAME", "STATE", "GROUPS", "MACHINES", "FOR", "ID"], rows, empty)
}

fn show(one: &wire::Account, output: &mut Output) -> Result<(), Failure> {
    if output.json(one)? {
        return Ok(());
    }
    let rows = [
        ("name", one.name.clone()),
        ("id", one.id.clone()),
        ("for", one.description.clone()),
        ("state", state(one).to_owned()),
        ("made", moment(wall(), one.created_ms)),
        ("groups", listed(&one.groups)),
        ("machines", listed(&one.devices)),
        ("join keys", listed(&one.join_keys)),
        ("federation", listed(&one.federation)),
    ];
    rows.iter().try_for_each(|(what, value)| output.line(format!("{what:11} {value}")))
}
