//! Which call does each command make, and how is its answer shown?

mod account;
mod federation;
mod idp;
mod policy;
mod role;
mod show;

use super::args::{
    AdminCommand, DeviceCommand, GatewayCommand, GroupCommand, JoinKeyArgs, JoinKeyCommand, KeysCommand, ResourceArgs,
    ResourceCommand, SessionCommand, SiteCommand, UserCommand,
};
use super::{audit, backup};
use host::clock::SystemClock;
use host::keyfile;
use model::limits::RPC_MESSAGE_MAX;
use model::time::Clock as _;
use node::cli::input::secret;
use node::cli::output::span;
use node::cli::{Exit, Failure, Output};
use node::local::Program;
use proto::admin as wire;
use proto::admin::admin_client::AdminClient;
use proto::convert::millis;
use std::path::Path;
use tonic::transport::Channel;

/// A connection to the controller.
pub(super) type Client = AdminClient<Channel>;

/// The controller, for the errors of those who cannot reach it.
const CONTROLLER: Program = Program { name: "controller", start: "umbra-controller serve" };

/// The client, for those who administer from a laptop.
const CLIENT: Program = Program { name: "client", start: "umbra daemon" };

/// Connects, or says what to do.
pub(super) async fn connect(path: &Path) -> Result<Client, Failure> {
    let channel = node::local::connect(path, CONTROLLER).await?;
    Ok(AdminClient::new(channel).max_decoding_message_size(RPC_MESSAGE_MAX).max_encoding_message_size(RPC_MESSAGE_MAX))
}

/// Connects to the client of this machine, which hands calls on to the controller.
pub(super) async fn connect_remote(path: &Path) -> Result<Client, Failure> {
    let channel = node::local::connect(path, CLIENT).await?;
    Ok(AdminClient::new(channel).max_decoding_message_size(RPC_MESSAGE_MAX).max_encoding_message_size(RPC_MESSAGE_MAX))
}

/// What only somebody at the controller's machine may do, and why, if this is such a command.
pub(super) const fn local_only(command: &AdminCommand) -> Option<&'static str> {
    match command {
        AdminCommand::ClaimOwner { .. } => Some("the token of `init` is for the controller's own machine"),
        AdminCommand::BreakGlass { .. } => Some("the break-glass key is for the controller's own machine"),
        AdminCommand::Backup(_) => Some("a backup is the whole organisation, and does not leave its machine this way"),
        AdminCommand::Audit(super::args::AuditCommand::AcceptLoss { .. }) => Some("a stopped controller hears nobody"),
        AdminCommand::Restored(super::args::RestoredCommand::Confirm { .. }) => {
            Some("what a restore brought back is confirmed at the controller's own machine")
        }
        _ => None,
    }
}

/// The wall clock, for telling moments to people.
pub(super) fn wall() -> i64 {
    SystemClock::new().wall().0
}

/// Makes the call of a command and shows its answer.
pub(super) async fn run(client: &mut Client, command: AdminCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        AdminCommand::Status => {
            let reply = client.status(wire::StatusRequest {}).await?.into_inner();
            show::status(&reply, output)
        }
        AdminCommand::ClaimOwner { name, token_file, password_file } => {
            let token = secret("token", Some(&token_file))?.expose().clone();
            let password = secret("password", Some(&password_file))?.expose().clone();
            let reply = client.claim_owner(wire::ClaimOwnerRequest { token, name, password }).await?.into_inner();
            done(&reply, output, "owner made: user")
        }
        AdminCommand::Admin(command) => role::run(client, command, output).await,
        AdminCommand::BreakGlass { key_file, user } => role::break_glass(client, &key_file, user, output).await,
        AdminCommand::User(command) => user(client, command, output).await,
        AdminCommand::Idp(command) => idp::run(client, command, output).await,
        AdminCommand::Account(command) => account::run(client, command, output).await,
        AdminCommand::Federation(command) => federation::run(client, command, output).await,
        AdminCommand::Group(command) => group(client, command, output).await,
        AdminCommand::Site(command) => site(client, command, output).await,
        AdminCommand::Gateway(command) => gateway(client, command, output).await,
        AdminCommand::Resource(command) => resource(client, command, output).await,
        AdminCommand::Policy(command) => policy::run(client, command, output).await,
        AdminCommand::JoinKey(command) => join_key(client, command, output).await,
        AdminCommand::Device(command) => device(client, command, output).await,
        AdminCommand::Session(command) => session(client, command, output).await,
        AdminCommand::Audit(command) => audit::run(client, command, output).await,
        AdminCommand::Keys(KeysCommand::List) => {
            show::keys(&client.show_keys(wire::ShowKeysRequest {}).await?.into_inner(), wall(), output)
        }
        AdminCommand::Keys(KeysCommand::Succeed { overlap }) => {
            let request = wire::SucceedKeysRequest { overlap_ms: overlap.map_or(0, millis) };
            show::keys(&client.succeed_keys(request).await?.into_inner(), wall(), output)
        }
        AdminCommand::Backup(command) => backup::create(client, command, output).await,
        AdminCommand::Restored(command) => backup::restored(client, command, output).await,
    }
}

/// Tells a change that is durable, and for a revoke who has confirmed it and when the rest ends.
fn done(reply: &wire::Changed, output: &mut Output, what: &str) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    let name =
        if reply.name.is_empty() || reply.name == reply.id { String::new() } else { format!(" `{}`", reply.name) };
    let id = if reply.id.is_empty() { String::new() } else { format!(" ({})", reply.id) };
    output.line(format!("{what}{name}{id}"))?;
    for one in &reply.confirmations {
        output.line(if one.confirmed {
            format!("  gateway `{}` confirms: nothing passes any more", one.gateway)
        } else {
            format!(
                "  gateway `{}` has not confirmed: ends there by itself in {} at the latest",
                one.gateway,
                span(one.ends_in_ms)
            )
        })?;
    }
    Ok(())
}

fn offboarded(reply: &wire::OffboardUserReply, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    if let Some(changed) = &reply.changed {
        done(changed, output, "offboarded: user")?;
    }
    let list = |what: &[String]| if what.is_empty() { "none".to_owned() } else { what.join(", ") };
    output.line(format!("  sessions ended: {}", reply.sessions))?;
    output.line(format!("  devices revoked: {}", list(&reply.devices)))?;
    output.line(format!("  groups left: {}", list(&reply.groups)))?;
    output.line(format!("  second factors removed: {}", reply.factors))
}

async fn user(client: &mut Client, command: UserCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        UserCommand::Add { name, groups, password_file } => {
            let password = secret("password", password_file.as_deref())?.expose().clone();
            let reply = client.add_user(wire::AddUserRequest { name, password, groups }).await?.into_inner();
            done(&reply, output, "user made")
        }
        UserCommand::List => show::users(&client.list_users(wire::ListUsersRequest {}).await?.into_inner(), output),
        UserCommand::Passwd { user, password_file } => {
            let password = secret("password", password_file.as_deref())?.expose().clone();
            let reply = client.set_password(wire::SetPasswordRequest { user, password }).await?.into_inner();
            done(&reply, output, "password set, sessions ended: user")
        }
        UserCommand::Disable { user } => {
            let reply =
                client.set_user_enabled(wire::SetUserEnabledRequest { user, enabled: false }).await?.into_inner();
            done(&reply, output, "user disabled, sessions ended:")
        }
        UserCommand::Enable { user } => {
            let reply =
                client.set_user_enabled(wire::SetUserEnabledRequest { user, enabled: true }).await?.into_inner();
            done(&reply, output, "user enabled:")
        }
        UserCommand::Delete { user } => {
            let reply = client.delete_user(wire::DeleteUserRequest { user }).await?.into_inner();
            done(&reply, output, "user deleted, sessions ended, devices revoked:")
        }
        UserCommand::Offboard { user } => {
            let reply = client.offboard_user(wire::OffboardUserRequest { user }).await?.into_inner();
            offboarded(&reply, output)
        }
        UserCommand::Factors { user } => {
            show::factors(&client.list_factors(wire::ListFactorsRequest { user }).await?.into_inner(), wall(), output)
        }
        UserCommand::ResetFactors { user } => {
            let reply = client.reset_factors(wire::ResetFactorsRequest { user }).await?.into_inner();
            done(&reply, output, "second factors removed, sessions ended: user")
        }
    }
}

async fn group(client: &mut Client, command: GroupCommand, output: &mut Output) -> Result<(), Failure> {
    let (member, group, user) = match command {
        GroupCommand::Add { name } => {
            let reply = client.add_group(wire::AddGroupRequest { name }).await?.into_inner();
            return done(&reply, output, "group made:");
        }
        GroupCommand::List => {
            return show::groups(&client.list_groups(wire::ListGroupsRequest {}).await?.into_inner(), output);
        }
        GroupCommand::Delete { group } => {
            let reply = client.delete_group(wire::DeleteGroupRequest { group }).await?.into_inner();
            return done(&reply, output, "group deleted:");
        }
        GroupCommand::AddMember { group, user } => (true, group, user),
        GroupCommand::RemoveMember { group, user } => (false, group, user),
    };
    let what =
        if member { format!("user `{user}` added to group") } else { format!("user `{user}` removed from group") };
    let reply = client.set_member(wire::SetMemberRequest { group, user, member }).await?.into_inner();
    done(&reply, output, &what)
}

async fn site(client: &mut Client, command: SiteCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        SiteCommand::Add { name, prefixes } => {
            let prefixes = prefixes.iter().map(ToString::to_string).collect();
            let reply = client.add_site(wire::AddSiteRequest { name, prefixes }).await?.into_inner();
            done(&reply, output, "site made:")
        }
        SiteCommand::List => show::sites(&client.list_sites(wire::ListSitesRequest {}).await?.into_inner(), output),
        SiteCommand::Delete { site } => {
            let reply = client.delete_site(wire::DeleteSiteRequest { site }).await?.into_inner();
            done(&reply, output, "site deleted:")
        }
    }
}

async fn gateway(client: &mut Client, command: GatewayCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        GatewayCommand::List => {
            show::gateways(&client.list_gateways(wire::ListGatewaysRequest {}).await?.into_inner(), wall(), output)
        }
        GatewayCommand::Confirm { gateway, fingerprint } => {
            let fingerprint = fingerprint.unwrap_or_default();
            let reply =
                client.confirm_gateway(wire::ConfirmGatewayRequest { gateway, fingerprint }).await?.into_inner();
            done(&reply, output, "gateway confirmed:")
        }
        GatewayCommand::Revoke { gateway } => {
            let reply = client.revoke_gateway(wire::RevokeGatewayRequest { gateway }).await?.into_inner();
            done(&reply, output, "gateway revoked:")
        }
    }
}

async fn resource(client: &mut Client, command: ResourceCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        ResourceCommand::Add(args) => {
            let reply = client.add_resource(resource_request(args)).await?.into_inner();
            done(&reply, output, "resource made:")
        }
        ResourceCommand::List => {
            show::resources(&client.list_resources(wire::ListResourcesRequest {}).await?.into_inner(), output)
        }
        ResourceCommand::Show { resource } => {
            let all = client.list_resources(wire::ListResourcesRequest {}).await?.into_inner().resources;
            let found = all.into_iter().find(|one| one.name == resource || one.id == resource);
            show::resource(&found.ok_or_else(|| no_such_resource(&resource))?, output)
        }
        ResourceCommand::Delete { resource } => {
            let reply = client.delete_resource(wire::DeleteResourceRequest { resource }).await?.into_inner();
            done(&reply, output, "resource deleted:")
        }
    }
}

fn no_such_resource(name: &str) -> Failure {
    Failure::failed(format!("there is no resource `{name}`: `umbra-controller resource list` shows what there is"))
}

fn resource_request(args: ResourceArgs) -> wire::AddResourceRequest {
    let addresses = args.addresses.iter().map(ToString::to_string);
    wire::AddResourceRequest {
        name: args.name,
        site: args.site,
        hosts: args.hosts,
        addresses: addresses.chain(args.cidrs.iter().map(ToString::to_string)).collect(),
        tcp: args.tcp,
        udp: args.udp,
        icmp: args.icmp,
        lease_ms: args.lease.map_or(0, millis),
        on_gateway: args.on_gateway,
        tags: args.tags,
    }
}

async fn join_key(client: &mut Client, command: JoinKeyCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        JoinKeyCommand::Create(args) => create_join_key(client, args, output).await,
        JoinKeyCommand::List => {
            show::join_keys(&client.list_join_keys(wire::ListJoinKeysRequest {}).await?.into_inner(), wall(), output)
        }
        JoinKeyCommand::Revoke { join_key } => {
            let reply = client.revoke_join_key(wire::RevokeJoinKeyRequest { join_key }).await?.into_inner();
            done(&reply, output, "join key revoked:")
        }
    }
}

async fn create_join_key(client: &mut Client, args: JoinKeyArgs, output: &mut Output) -> Result<(), Failure> {
    if let Some(path) = args.out.as_deref().filter(|path| path.exists()) {
        // Before the key is made: a key without its file is only litter.
        return Err(Failure::failed(format!(
            "{} exists already: nothing was changed; name another file",
            path.display()
        )));
    }
    let kind = if args.device { "device" } else { "gateway" };
    let request = wire::CreateJoinKeyRequest {
        kind: kind.to_owned(),
        site: args.site.unwrap_or_default(),
        uses: args.uses,
        life_ms: millis(args.life),
        account: args.account.clone().unwrap_or_default(),
        ephemeral: args.ephemeral,
    };
    let reply = client.create_join_key(request).await?.into_inner();
    let (changed, fingerprint) = (reply.changed.unwrap_or_default(), reply.fingerprint);
    let file = model::secret::Secret::new(reply.join_file);
    let Some(path) = args.out else {
        let text = std::str::from_utf8(file.expose()).map_err(Failure::failed)?;
        output.note("the join file follows: whoever reads it can join until it is used up or expires");
        return output.raw(text);
    };
    if let Err(error) = keyfile::create(&path, file.expose()) {
        let id = changed.id.clone();
        let taken_back = client.revoke_join_key(wire::RevokeJoinKeyRequest { join_key: id }).await.is_ok();
        let word = if taken_back { "the new join key was revoked" } else { "revoke the new join key" };
        return Err(Failure::new(Exit::Failed, format!("{error}; {word} ({})", changed.id)));
    }
    let uses = if args.uses == 1 { "once".to_owned() } else { format!("{} times", args.uses) };
    let kind = match &args.account {
        Some(account) => format!("workload of `{account}`"),
        None => kind.to_owned(),
    };
    let what = format!(
        "join file for a {kind} written to {}, usable {uses} for {}: key",
        path.display(),
        span(millis(args.life))
    );
    done(&changed, output, &what)?;
    output.line(format!("whoever joins with it is asked about the fingerprint {fingerprint}"))
}

async fn device(client: &mut Client, command: DeviceCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        DeviceCommand::List => {
            show::devices(&client.list_devices(wire::ListDevicesRequest {}).await?.into_inner(), wall(), output)
        }
        DeviceCommand::Confirm { device, fingerprint } => {
            let fingerprint = fingerprint.unwrap_or_default();
            let reply = client.confirm_device(wire::ConfirmDeviceRequest { device, fingerprint }).await?.into_inner();
            done(&reply, output, "device confirmed:")
        }
        DeviceCommand::Revoke { device } => {
            let reply = client.revoke_device(wire::RevokeDeviceRequest { device }).await?.into_inner();
            done(&reply, output, "device revoked:")
        }
    }
}

async fn session(client: &mut Client, command: SessionCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        SessionCommand::List { all } => {
            show::sessions(&client.list_sessions(wire::ListSessionsRequest { all }).await?.into_inner(), wall(), output)
        }
        SessionCommand::Show { session, limit } => {
            let reply = client.show_session(wire::ShowSessionRequest { session, limit }).await?.into_inner();
            show::session(&reply, wall(), output)
        }
        SessionCommand::Revoke { session } => {
            let reply = client.revoke_session(wire::RevokeSessionRequest { session }).await?.into_inner();
            done(&reply, output, "session ended:")
        }
    }
}
