//! What do administrators' calls do? Each checks its message, makes one change, and answers when it is durable.
//!
//! The modules below hold one noun each. A call only commits facts: who is cut off by them, and when gateways have
//! acknowledged it, is the business of [`Arranger`].

mod access;
mod account;
mod audit;
mod backup;
mod device;
mod federation;
mod gateway;
mod group;
pub mod idp;
mod join_key;
mod keys;
mod policy;
mod registration;
pub mod resource;
mod role;
mod session;
mod site;
mod status;
mod user;

use crate::administrator;
use crate::arrange::Arranger;
use crate::audit::Entry;
use crate::authz::Caller;
use crate::directory::{Directory, Draft, Name, Refusal};
use crate::organisation::Organisation;
use model::limits::{LIST_MAX, REVOKE_WAIT_MAX};
use model::revision::Revision;
use proto::admin as wire;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Code, Request, Response, Status};

/// Answers administrators.
#[derive(Clone)]
pub struct AdminRpc {
    organisation: Organisation,
    arranger: Arc<dyn Arranger>,
    counters: Arc<Counters>,
}

/// Names and counts of what was dropped or refused since the start.
type Counters = dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync;

type Answer<T> = Result<Response<T>, Status>;

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Invalid(_) => Code::InvalidArgument,
            Refusal::Missing { .. } => Code::NotFound,
            Refusal::Taken { .. } => Code::AlreadyExists,
            Refusal::InUse(_) => Code::FailedPrecondition,
            Refusal::Denied(_) => Code::PermissionDenied,
            Refusal::Often(_) => Code::ResourceExhausted,
            Refusal::Busy(_) => Code::Aborted,
            Refusal::Store(_) | Refusal::Failed(_) => Code::Internal,
        };
        Self::new(code, refusal.to_string())
    }
}

/// A text that should parse; the error says why not.
fn parse<T: std::str::FromStr>(text: &str) -> Result<T, Refusal>
where
    T::Err: Display,
{
    text.parse().map_err(|e: T::Err| Refusal::Invalid(e.to_string()))
}

/// A list of texts that should parse.
fn parse_all<T: std::str::FromStr>(texts: &[String]) -> Result<Vec<T>, Refusal>
where
    T::Err: Display,
{
    if texts.len() > LIST_MAX {
        return Err(Refusal::Invalid(format!("a list has {} members, at most {LIST_MAX} are possible", texts.len())));
    }
    texts.iter().map(|text| parse(text)).collect()
}

/// Random bits for an id.
fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    host::entropy::random().map_err(|e| Refusal::Failed(e.to_string()))
}

fn changed(revision: Revision, id: impl Display, name: impl Display) -> wire::Changed {
    wire::Changed {
        id: id.to_string(),
        name: name.to_string(),
        incarnation: revision.incarnation,
        revision: revision.number,
        confirmations: Vec::new(),
    }
}

impl AdminRpc {
    /// For an organisation whose grants `arranger` arranges.
    pub fn new(organisation: Organisation, arranger: Arc<dyn Arranger>) -> Self {
        Self { organisation, arranger, counters: Arc::new(Vec::new) }
    }

    /// With what `status` shows of the packet path and of the ports.
    pub fn counting(self, counters: Arc<Counters>) -> Self {
        Self { counters, ..self }
    }

    /// Makes a change, on the condition that whoever asked may still do so when it is made.
    async fn change<T>(
        &self,
        caller: &Caller,
        mut decide: impl FnMut(&Directory, &mut Draft) -> Result<(T, Entry), Refusal> + Send,
    ) -> Result<(Revision, T), Refusal> {
        let organisation = &self.organisation;
        let made = organisation.change(|directory, draft| {
            administrator::stand(organisation, directory, draft, caller)?;
            decide(directory, draft)
        });
        made.await
    }

    /// What is told about a change that takes access away: who has confirmed, and when the rest ends.
    async fn settled(&self, revision: Revision, mut changed: wire::Changed) -> wire::Changed {
        let wait = REVOKE_WAIT_MAX + Duration::from_secs(1);
        let confirmations = tokio::time::timeout(wait, self.arranger.settled(revision)).await.unwrap_or_default();
        let now = self.organisation.now();
        changed.confirmations = confirmations
            .into_iter()
            .map(|one| wire::Confirmation {
                gateway: now
                    .gateways
                    .find(&one.gateway)
                    .map_or_else(|| one.gateway.to_string(), |fact| fact.record.name.to_string()),
                confirmed: one.confirmed,
                ends_in_ms: proto::convert::millis(one.ends_in),
            })
            .collect();
        changed
    }
}

/// Who asks: put there by the listener. [`crate::authz::Guard`] let only administrators through.
fn caller<T>(request: &Request<T>) -> Caller {
    request.extensions().get::<Caller>().cloned().unwrap_or(Caller::Nobody)
}

macro_rules! calls {
    ($($rpc:ident($message:ident) -> $reply:ident),* $(,)?) => {
        #[tonic::async_trait]
        impl wire::admin_server::Admin for AdminRpc {
            $(async fn $rpc(&self, request: Request<wire::$message>) -> Answer<wire::$reply> {
                let caller = caller(&request);
                Ok(Response::new(AdminRpc::$rpc(self, &caller, request.into_inner()).await?))
            })*

            type BackupStream = backup::Pieces;
            async fn backup(&self, request: Request<wire::BackupRequest>) -> Answer<Self::BackupStream> {
                let caller = caller(&request);
                Ok(Response::new(self.make_backup(&caller, request.into_inner())?))
            }
        }
    };
}

calls! {
    status(StatusRequest) -> StatusReply,
    claim_owner(ClaimOwnerRequest) -> Changed,
    grant_role(GrantRoleRequest) -> Changed,
    revoke_role(RevokeRoleRequest) -> Changed,
    list_roles(ListRolesRequest) -> ListRolesReply,
    break_glass(BreakGlassRequest) -> BreakGlassReply,
    acknowledge_break_glass(AcknowledgeBreakGlassRequest) -> Changed,
    add_user(AddUserRequest) -> Changed,
    list_users(ListUsersRequest) -> ListUsersReply,
    set_password(SetPasswordRequest) -> Changed,
    set_user_enabled(SetUserEnabledRequest) -> Changed,
    delete_user(DeleteUserRequest) -> Changed,
    offboard_user(OffboardUserRequest) -> OffboardUserReply,
    list_factors(ListFactorsRequest) -> ListFactorsReply,
    reset_factors(ResetFactorsRequest) -> Changed,
    add_idp(AddIdpRequest) -> Changed,
    list_idps(ListIdpsRequest) -> ListIdpsReply,
    remove_idp(RemoveIdpRequest) -> Changed,
    sync_idps(SyncIdpsRequest) -> SyncIdpsReply,
    add_account(AddAccountRequest) -> AddAccountReply,
    list_accounts(ListAccountsRequest) -> ListAccountsReply,
    set_account_enabled(SetAccountEnabledRequest) -> Changed,
    set_account_group(SetAccountGroupRequest) -> Changed,
    remove_account(RemoveAccountRequest) -> RemoveAccountReply,
    add_registration(AddRegistrationRequest) -> Changed,
    list_registrations(ListRegistrationsRequest) -> ListRegistrationsReply,
    remove_registration(RemoveRegistrationRequest) -> Changed,
    add_federation(AddFederationRequest) -> Changed,
    list_federation(ListFederationRequest) -> ListFederationReply,
    remove_federation(RemoveFederationRequest) -> Changed,
    make_federation_file(MakeFederationFileRequest) -> MakeFederationFileReply,
    add_group(AddGroupRequest) -> Changed,
    list_groups(ListGroupsRequest) -> ListGroupsReply,
    delete_group(DeleteGroupRequest) -> Changed,
    set_member(SetMemberRequest) -> Changed,
    add_site(AddSiteRequest) -> Changed,
    list_sites(ListSitesRequest) -> ListSitesReply,
    delete_site(DeleteSiteRequest) -> Changed,
    list_gateways(ListGatewaysRequest) -> ListGatewaysReply,
    confirm_gateway(ConfirmGatewayRequest) -> Changed,
    revoke_gateway(RevokeGatewayRequest) -> Changed,
    add_resource(AddResourceRequest) -> Changed,
    list_resources(ListResourcesRequest) -> ListResourcesReply,
    delete_resource(DeleteResourceRequest) -> Changed,
    check_policy(PolicyFiles) -> PolicyVerdict,
    apply_policy(PolicyFiles) -> PolicyVerdict,
    show_policy(ShowPolicyRequest) -> ShowPolicyReply,
    list_policy_revisions(ListPolicyRevisionsRequest) -> ListPolicyRevisionsReply,
    rollback_policy(RollbackPolicyRequest) -> PolicyVerdict,
    list_access(ListAccessRequest) -> ListAccessReply,
    create_join_key(CreateJoinKeyRequest) -> CreateJoinKeyReply,
    list_join_keys(ListJoinKeysRequest) -> ListJoinKeysReply,
    revoke_join_key(RevokeJoinKeyRequest) -> Changed,
    list_devices(ListDevicesRequest) -> ListDevicesReply,
    confirm_device(ConfirmDeviceRequest) -> Changed,
    revoke_device(RevokeDeviceRequest) -> Changed,
    list_sessions(ListSessionsRequest) -> ListSessionsReply,
    show_session(ShowSessionRequest) -> ShowSessionReply,
    revoke_session(RevokeSessionRequest) -> Changed,
    list_audit(ListAuditRequest) -> ListAuditReply,
    verify_audit(VerifyAuditRequest) -> VerifyAuditReply,
    export_audit(ExportAuditRequest) -> ExportAuditReply,
    show_keys(ShowKeysRequest) -> ShowKeysReply,
    succeed_keys(SucceedKeysRequest) -> ShowKeysReply,
    list_restored(ListRestoredRequest) -> ListRestoredReply,
    confirm_restored(ConfirmRestoredRequest) -> ConfirmRestoredReply,
}

/// A name that an administrator gave.
fn name(text: &str) -> Result<Name, Refusal> {
    parse(text)
}
