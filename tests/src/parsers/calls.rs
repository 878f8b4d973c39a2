//! What administrators' calls say: each goes to the real service, over a real store, in a process without a socket.

use super::messages;
use controller::arrange::NoGateways;
use controller::authz::Caller;
use controller::config::StatePaths;
use controller::init::{Wish, init};
use controller::organisation::Organisation;
use controller::owner::BothClocks;
use controller::rpc::admin::AdminRpc;
use controller::store::Options;
use host::clock::SystemClock;
use model::time::Clock as _;
use prost::Message as _;
use proto::admin as wire;
use proto::admin::admin_server::Admin as _;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Runtime;
use tonic::{Code, Request};

/// An organisation with nobody in it. Its folder goes with it.
pub struct Calls {
    runtime: Runtime,
    admin: AdminRpc,
    folder: PathBuf,
}

impl Drop for Calls {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What came of all calls.
#[derive(Debug, Default)]
pub struct Called {
    /// Inputs.
    pub tried: u64,
    /// Calls that did what they were asked at least once.
    pub done: BTreeSet<&'static str>,
    /// Calls of the service that nothing here makes.
    pub unknown: Vec<String>,
}

macro_rules! calls {
    ($($rpc:ident($message:ident)),* $(,)?) => {
        /// Every call, by its name in the service, and what it takes.
        const CALLS: &[(&str, &str)] = &[$((stringify!($rpc), stringify!($message))),*];

        impl Calls {
            /// Makes one call; was it done? `None`: it takes no such message.
            pub fn call(&self, rpc: &str, bytes: &[u8]) -> Option<Result<(), tonic::Status>> {
                match rpc {
                    $(stringify!($rpc) => {
                        let mut request = Request::new(wire::$message::decode(bytes).ok()?);
                        request.extensions_mut().insert(Caller::Admin { actor: "local:root".to_owned() });
                        Some(self.runtime.block_on(self.admin.$rpc(request)).map(|_| ()))
                    })*
                    _ => None,
                }
            }
        }
    };
}

// What makes something comes before what takes it away.
calls! {
    status(StatusRequest),
    claim_owner(ClaimOwnerRequest),
    grant_role(GrantRoleRequest),
    revoke_role(RevokeRoleRequest),
    list_roles(ListRolesRequest),
    break_glass(BreakGlassRequest),
    acknowledge_break_glass(AcknowledgeBreakGlassRequest),
    add_group(AddGroupRequest),
    list_groups(ListGroupsRequest),
    add_user(AddUserRequest),
    list_users(ListUsersRequest),
    set_password(SetPasswordRequest),
    set_user_enabled(SetUserEnabledRequest),
    set_member(SetMemberRequest),
    add_idp(AddIdpRequest),
    list_idps(ListIdpsRequest),
    remove_idp(RemoveIdpRequest),
    sync_idps(SyncIdpsRequest),
    list_factors(ListFactorsRequest),
    reset_factors(ResetFactorsRequest),
    add_account(AddAccountRequest),
    list_accounts(ListAccountsRequest),
    set_account_enabled(SetAccountEnabledRequest),
    set_account_group(SetAccountGroupRequest),
    add_registration(AddRegistrationRequest),
    list_registrations(ListRegistrationsRequest),
    remove_registration(RemoveRegistrationRequest),
    add_federation(AddFederationRequest),
    list_federation(ListFederationRequest),
    make_federation_file(MakeFederationFileRequest),
    remove_federation(RemoveFederationRequest),
    add_site(AddSiteRequest),
    list_sites(ListSitesRequest),
    add_resource(AddResourceRequest),
    list_resources(ListResourcesRequest),
    check_policy(PolicyFiles),
    apply_policy(PolicyFiles),
    show_policy(ShowPolicyRequest),
    list_policy_revisions(ListPolicyRevisionsRequest),
    rollback_policy(RollbackPolicyRequest),
    list_access(ListAccessRequest),
    create_join_key(CreateJoinKeyRequest),
    list_join_keys(ListJoinKeysRequest),
    revoke_join_key(RevokeJoinKeyRequest),
    list_gateways(ListGatewaysRequest),
    confirm_gateway(ConfirmGatewayRequest),
    revoke_gateway(RevokeGatewayRequest),
    list_devices(ListDevicesRequest),
    confirm_device(ConfirmDeviceRequest),
    revoke_device(RevokeDeviceRequest),
    list_sessions(ListSessionsRequest),
    show_session(ShowSessionRequest),
    revoke_session(RevokeSessionRequest),
    list_audit(ListAuditRequest),
    verify_audit(VerifyAuditRequest),
    export_audit(ExportAuditRequest),
    backup(BackupRequest),
    list_restored(ListRestoredRequest),
    confirm_restored(ConfirmRestoredRequest),
    show_keys(ShowKeysRequest),
    succeed_keys(SucceedKeysRequest),
    delete_resource(DeleteResourceRequest),
    remove_account(RemoveAccountRequest),
    delete_group(DeleteGroupRequest),
    offboard_user(OffboardUserRequest),
    delete_user(DeleteUserRequest),
    delete_site(DeleteSiteRequest),
}

impl Calls {
    /// A new organisation.
    pub fn new() -> anyhow::Result<Self> {
        let random: [u8; 8] = host::entropy::random()?;
        let folder = std::env::temp_dir().join(format!("umbra-calls-{:016x}", u64::from_le_bytes(random)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let clock = Arc::new(SystemClock::new());
        let opened = runtime.block_on(async {
            let paths = StatePaths::new(&folder);
            let wish = Wish {
                trust_domain: "corp.example".parse()?,
                pool_v4: Some("10.77.0.0/16".parse()?),
                pool_v6: None,
                endpoints: vec!["192.0.2.1:443".to_owned()],
                zones: Vec::new(),
                private_zones: Vec::new(),
                local_networks: Vec::new(),
            };
            init(&paths, wish, Options::default(), &BothClocks::read(clock.wall())).await?;
            anyhow::Ok(Organisation::open(&paths, Options::default(), clock).await?)
        });
        let opened = opened.inspect_err(|_| drop(std::fs::remove_dir_all(&folder)))?;
        Ok(Self { runtime, admin: AdminRpc::new(opened, Arc::new(NoGateways)), folder })
    }

    /// Makes every call, with each of its fields left out or changed. No call may fail inside: what is wrong with a message
    /// is its sender's fault, and is said.
    pub fn make_all(&self) -> anyhow::Result<Called> {
        let mut called = Called { unknown: messages::calls_of("Admin")?, ..Called::default() };
        called.unknown.retain(|name| !CALLS.iter().any(|(rpc, _)| rpc.replace('_', "") == name.to_lowercase()));
        for (rpc, message) in CALLS {
            for bytes in messages::variants_of(&format!("umbra.admin.v1.{message}"))? {
                called.tried += 1;
                match self.call(rpc, &bytes) {
                    Some(Ok(())) => drop(called.done.insert(rpc)),
                    Some(Err(status)) => {
                        let inside = [Code::Internal, Code::Unknown, Code::DataLoss].contains(&status.code());
                        assert!(!inside, "{rpc}: {status:?} for {}", bytes.escape_ascii());
                    }
                    None => {}
                }
            }
        }
        Ok(called)
    }
}
