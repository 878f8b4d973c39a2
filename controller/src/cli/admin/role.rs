//! What do the commands about roles ask, and how is the answer shown?

use super::{Client, done};
use crate::cli::args::RoleCommand;
use node::cli::input::secret;
use node::cli::{Failure, Output};
use proto::admin as wire;
use std::path::Path;

pub(super) async fn run(client: &mut Client, command: RoleCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        RoleCommand::Grant { user, role } => {
            let request = wire::GrantRoleRequest { user, role: role.to_string() };
            let reply = client.grant_role(request).await?.into_inner();
            done(&reply, output, &format!("role {role} given to user"))
        }
        RoleCommand::Revoke { user, role } => {
            let request = wire::RevokeRoleRequest { user, role: role.to_string() };
            let reply = client.revoke_role(request).await?.into_inner();
            done(&reply, output, &format!("role {role} taken from user"))
        }
        RoleCommand::List => list(&client.list_roles(wire::ListRolesRequest {}).await?.into_inner(), output),
        RoleCommand::Acknowledge => {
            let request = wire::AcknowledgeBreakGlassRequest {};
            let reply = client.acknowledge_break_glass(request).await?.into_inner();
            done(&reply, output, "acknowledged: the break-glass key was used")
        }
    }
}

fn list(reply: &wire::ListRolesReply, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    let row = |one: &wire::RoleHolder| {
        let state = match (one.disabled, one.factor) {
            (true, _) => "disabled",
            (false, true) => "enabled",
            (false, false) => "enabled, without a second factor",
        };
        [one.user.clone(), one.roles.join(", "), state.to_owned(), one.id.clone()]
    };
    let rows = reply.holders.iter().map(row).collect();
    let empty = "nobody has a role: `umbra-controller admin grant USER ROLE`";
    output.table(["USER", "ROLES", "STATE", "ID"], rows, empty)
}

pub(super) async fn break_glass(
    client: &mut Client,
    key_file: &Path,
    user: String,
    output: &mut Output,
) -> Result<(), Failure> {
    let key = secret("key", Some(key_file))?.expose().clone();
    let reply = client.break_glass(wire::BreakGlassRequest { key, user }).await?.into_inner();
    if output.json(&reply)? {
        return Ok(());
    }
    done(&reply.changed.clone().unwrap_or_default(), output, "account enabled, and an owner now: user")?;
    output.line(format!("next key      {} (on paper, in an envelope; it is not shown again)", reply.key))
}
