//! What the far end of an RPC says. Each message that any RPC takes or answers is decoded as it comes off the wire, shown as it
//! would be in a log, and goes through the conversion that the program makes of it.
//!
//! An input is the message's name in a line, then its encoding.

use super::tree::{Types, Words};
use super::{Parser, Seeds, head_of, seed};
use client::catalogue::Catalogue;
use client::connect::Book;
use client::plan::{LocalNet, Place, plan};
use client::rpc::{Answer, Update};
use controller::passkey::{Asserted, Created};
use controller::rpc::{admin::idp, admin::resource, devices, enroll, gateways};
use controller::{ca, directory::Name};
use grant::sync;
use grant::table::Table;
use grant::verified::Scope;
use model::ids::{
    DeviceId, FactorId, GatewayId, GrantId, IdpId, JoinKeyId, PairingId, RegistrationId, ResourceId, SessionId,
    SignInId,
};
use model::net::{HostName, Prefix};
use model::pool::{NatPool, Pool};
use model::revision::Revision;
use model::spiffe::SpiffePath;
use model::time::{Instant, WallMs};
use node::svid::{SvidKey, read_leaf};
use prost::Message;
use proto::convert::array;
use proto::{admin, local, v1};
use rustls::pki_types::CertificateDer;
use std::fmt::Debug;
use std::sync::OnceLock;

/// One for all messages.
pub const PARSERS: &[Parser] = &[Parser {
    name: "message",
    reads: "a message of an RPC, with the conversion that the program makes of it",
    run,
    seeds,
    headed: true,
    cost: 3,
}];

/// A message, what is made of it, and whether that is more than reading it.
type Row = (&'static str, fn(&[u8]) -> bool, bool);

/// Decodes, and checks what holds of every message.
fn decoded<M: Message + Default + PartialEq + Debug>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let _ = format!("{message:?}");
    assert_eq!(M::decode(message.encode_to_vec().as_slice()).as_ref(), Ok(&message), "a message is what was encoded");
    Some(message)
}

macro_rules! table {
    ($package:literal, $module:ident: $($message:ident $(=> $convert:expr)?),* $(,)?) => {
        &[$((concat!($package, ".", stringify!($message)), row!($module::$message $(, $convert)?), table!(@has $($convert)?))),*]
    };
    (@has) => { false };
    (@has $convert:expr) => { true };
}
macro_rules! row {
    ($message:ty) => {
        |bytes| decoded::<$message>(bytes).is_some()
    };
    ($message:ty, $convert:expr) => {
        |bytes| {
            let convert: fn($message) -> bool = $convert;
            decoded::<$message>(bytes).is_some_and(convert)
        }
    };
}

const CONTROL: &[Row] = table!("umbra.v1", v1:
    ProbeRequest => |m| array::<16>("run", &m.run).is_ok(),
    ProbeReply,
    RenewSvidRequest => |m| ca::request_key(&m.csr).is_ok(),
    RenewSvidReply => |m| m.chain.first().is_some_and(|leaf| read_leaf("corp.example", &CertificateDer::from(leaf.as_slice())).is_ok()),
    RotateKeyRequest => |m| array::<32>("key", &m.key).is_ok(),
    RotateKeyReply,
    LoginRequest => |m| m.user.parse::<Name>().is_ok(),
    LoginReply,
    LogoutRequest,
    LogoutReply,
    ListProvidersRequest,
    ListProvidersReply => |m| client::rpc::read_providers(m).is_ok(),
    BeginSignInRequest,
    BeginSignInReply => |m| client::rpc::read_sign_in(m).is_ok(),
    FinishSignInRequest => |m| m.id.parse::<SignInId>().is_ok(),
    BeginCodeSignInRequest,
    BeginCodeSignInReply => |m| client::rpc::read_code_sign_in(m).is_ok(),
    PollSignInRequest => |m| m.id.parse::<SignInId>().is_ok(),
    SignInReply => |m| client::rpc::read_signed_in(m).is_ok(),
    DeviceWatchRequest => |m| m.seen.map(Revision::from).is_some(),
    DeviceUpdate => update,
    ConnectRequest => |m| devices::wish(DeviceId::from_bytes([1; 10]), m).is_ok(),
    ConnectReply => |m| match client::rpc::read_answer(m) {
        Ok(Answer::Permit { ends_in, .. }) => Instant(1).plus(ends_in) >= Instant(1),
        Ok(Answer::Deny { retry_after, reasons, .. }) => Instant(1).plus(retry_after) >= Instant(1) && reasons.len() < 100,
        Err(_) => false,
    },
    DisconnectRequest => |m| m.grant.parse::<GrantId>().is_ok(),
    DisconnectReply,
    NameAddressRequest => |m| m.name.parse::<HostName>().is_ok(),
    NameAddressReply => |m| client::rpc::read_name_address(m).is_ok(),
    ListFactorsRequest,
    ListFactorsReply => |m| client::rpc::read_factors(m).is_ok(),
    BeginTotpRequest => |m| m.name.parse::<Name>().is_ok(),
    BeginTotpReply => |m| client::rpc::read_begun(m).is_ok(),
    ConfirmTotpRequest => |m| m.id.parse::<FactorId>().is_ok(),
    RecoveryCodes => |m| client::rpc::read_codes(m).is_ok(),
    VerifyFactorRequest,
    VerifyFactorReply,
    RemoveFactorRequest,
    RemoveFactorReply,
    RenewRecoveryCodesRequest,
    BeginPasskeyRequest => |m| m.name.parse::<Name>().is_ok() && devices::page_port(m.port).is_ok(),
    AskPasskeyRequest => |m| devices::passkey_wish(&m).is_ok(),
    PasskeyQuestion => |m| client::rpc::read_question(m).is_ok(),
    PasskeyAnswer => |m| Created::read(&m.answer).is_some() | Asserted::read(&m.answer).is_some(),
    ListIdentitiesRequest,
    ListIdentitiesReply => |m| client::rpc::read_identities(m).is_ok(),
    SignIdentityRequest => |m| devices::identity_wish(m).is_ok_and(|(_, csr)| ca::request_key(&csr).is_ok()),
    SignIdentityReply => |m| client::rpc::read_chain(m).is_ok(),
    SignTokenRequest => |m| devices::token_wish(m).is_ok(),
    SignTokenReply => |m| client::rpc::read_token(m).is_ok(),
    GatewayUp => up,
    GatewayDown => down,
    EnrollRequest => |m| {
        let _ = Name::from_machine(&m.name).numbered(7);
        enroll::kind(m.kind).is_ok() && ca::request_key(&m.csr).is_ok() && array::<32>("token", &m.token).is_ok()
    },
    RecoverRequest => |m| ca::request_key(&m.csr).is_ok() && array::<32>("token", &m.token).is_ok(),
    EnrollReply => |m| node::rpc::read(m).is_ok(),
);

// Texts: what the commands do with each is in `admin_call` and in `texts`.
const ADMIN: &[Row] = table!("umbra.admin.v1", admin:
    StatusRequest, StatusReply, ClaimOwnerRequest, GrantRoleRequest, RevokeRoleRequest, ListRolesRequest, ListRolesReply,
    RoleHolder, BreakGlassRequest, BreakGlassReply, AcknowledgeBreakGlassRequest, Changed, AddUserRequest, ListUsersRequest, ListUsersReply,
    SetPasswordRequest, SetUserEnabledRequest, DeleteUserRequest, OffboardUserRequest, OffboardUserReply, ListFactorsRequest, ListFactorsReply,
    ResetFactorsRequest,
    AddIdpRequest => |m| idp::check(&m, IdpId::from_bytes([1; 10]), WallMs(0)).is_ok(),
    ListIdpsRequest, ListIdpsReply, RemoveIdpRequest, SyncIdpsRequest, SyncIdpsReply,
    AddAccountRequest, AddAccountReply, ListAccountsRequest, ListAccountsReply, SetAccountEnabledRequest,
    SetAccountGroupRequest, RemoveAccountRequest, RemoveAccountReply,
    AddRegistrationRequest => |m| m.path.parse::<SpiffePath>().is_ok(),
    ListRegistrationsRequest, ListRegistrationsReply, RemoveRegistrationRequest,
    AddFederationRequest, ListFederationRequest, ListFederationReply, RemoveFederationRequest, MakeFederationFileRequest,
    MakeFederationFileReply, AddGroupRequest, ListGroupsRequest, ListGroupsReply,
    DeleteGroupRequest, SetMemberRequest, AddSiteRequest, ListSitesRequest, ListSitesReply, DeleteSiteRequest,
    ListGatewaysRequest, ListGatewaysReply, ConfirmGatewayRequest, RevokeGatewayRequest,
    AddResourceRequest => |m| resource::check(&m).is_ok(),
    ListResourcesRequest, ListResourcesReply, DeleteResourceRequest,
    PolicyFiles, PolicyVerdict, ShowPolicyRequest, ShowPolicyReply, ListPolicyRevisionsRequest, ListPolicyRevisionsReply,
    RollbackPolicyRequest, ListAccessRequest, ListAccessReply, CreateJoinKeyRequest, CreateJoinKeyReply,
    ListJoinKeysRequest, ListJoinKeysReply,
    RevokeJoinKeyRequest => |m| m.join_key.parse::<JoinKeyId>().is_ok(),
    ListDevicesRequest, ListDevicesReply, ConfirmDeviceRequest, RevokeDeviceRequest, ListSessionsRequest,
    ListSessionsReply,
    ShowSessionRequest => |m| m.session.parse::<SessionId>().is_ok(),
    ShowSessionReply,
    RevokeSessionRequest => |m| m.session.parse::<SessionId>().is_ok(),
    ListAuditRequest, ListAuditReply, VerifyAuditRequest, VerifyAuditReply, ExportAuditRequest, ExportAuditReply,
    BackupRequest, BackupPiece, ListRestoredRequest, ListRestoredReply, ConfirmRestoredRequest, ConfirmRestoredReply,
    ShowKeysRequest, SucceedKeysRequest, ShowKeysReply,
);

const LOCAL: &[Row] = table!("umbra.local.v1", local:
    UpRequest, UpReply, DownRequest, DownReply, LoginRequest, LoginReply, LogoutRequest, LogoutReply, ListRequest,
    ListReply, ConnectRequest, ConnectReply, WhyRequest, WhyReply, StatusRequest, StatusReply, ListFactorsRequest, ListFactorsReply, BeginTotpRequest,
    BeginTotpReply, ConfirmTotpRequest, RecoveryCodes, VerifyFactorRequest, VerifyFactorReply, RemoveFactorRequest,
    RemoveFactorReply, RenewRecoveryCodesRequest, ListProvidersRequest, ListProvidersReply, BeginSignInRequest,
    BeginSignInReply, FinishSignInRequest, BeginCodeSignInRequest, BeginCodeSignInReply, PollSignInRequest,
    PollSignInReply, BeginPasskeyRequest, AskPasskeyRequest, PasskeyQuestion, PasskeyAnswer,
);

fn rows() -> impl Iterator<Item = &'static Row> {
    CONTROL.iter().chain(ADMIN).chain(LOCAL)
}

fn run(input: &[u8]) -> bool {
    let Some((name, bytes)) = head_of(input) else { return false };
    rows().find(|(known, ..)| *known == name).is_some_and(|(_, read, _)| read(bytes))
}

fn prefix(text: &str) -> Option<Prefix> {
    text.parse().ok()
}

fn pool() -> Option<Pool> {
    Pool::new(prefix("10.77.0.0/16")?, prefix("fd12:3456:789a::/48")?).ok()
}

/// What the client makes of it: its catalogue, and the plan that follows from that.
fn update(message: v1::DeviceUpdate) -> bool {
    let Ok(update) = client::rpc::read_update(message, Instant(1)) else { return false };
    let mut catalogue = Catalogue::default();
    match update {
        Update::Snapshot { revision, session, pending, entries, .. } => {
            let _ = catalogue.snapshot(revision, session, pending, entries);
        }
        Update::Delta(mut delta) => {
            delta.from = Revision::default();
            let _ = catalogue.delta(delta);
        }
        Update::Ended { .. } => {}
        Update::Renewed { until, .. } => assert!(until >= Instant(1), "a life ends before it begins"),
    }
    if let (Some(pool), Some(local)) = (pool(), prefix("192.168.1.0/24")) {
        let place = Place {
            pool,
            own: [pool.device_v4(1).map(Into::into), Some(pool.node(1).into())].into_iter().flatten().collect(),
            prefixes: prefix("10.20.0.0/16").into_iter().collect(),
            zones: "corp.example".parse().ok().into_iter().collect(),
            local: vec![LocalNet { prefix: local, attached: true }],
            outside: Vec::new(),
        };
        let plan = plan(&place, &catalogue, &Book::default(), Instant(2));
        assert!(plan.host.keys().all(|prefix| prefix.bits() > 0), "a default route");
    }
    true
}

/// What the controller makes of a gateway's message.
fn up(message: v1::GatewayUp) -> bool {
    if let Some(v1::gateway_up::What::Hello(hello)) = message.what.clone() {
        return gateways::read_hello(hello, None).is_ok();
    }
    match gateways::read(message) {
        Ok(gateways::Up::Flows { first, records, .. }) => match gateways::flows_of(first, WallMs(1), &records) {
            Ok(told) => told.iter().all(|flow| flow.started <= flow.ended),
            Err(_) => false,
        },
        read => read.is_ok(),
    }
}

/// What a gateway makes of it: its table, through its own checks.
fn down(message: v1::GatewayDown) -> bool {
    let Ok(down) = gateway::rpc::read(message) else { return false };
    let scope = || {
        let nat = NatPool { v4: prefix("198.18.0.0/16")?, v6: prefix("fd00:1::/64")? };
        Some(Scope { pool: pool()?, nat, site: vec![prefix("10.77.0.0/16")?], own: Vec::new() })
    };
    let Some(scope) = scope() else { return false };
    let mut table = Table::new(scope, Revision::default());
    match down {
        gateway::rpc::Down::Update { update, .. } => {
            if let sync::Update::Delta(delta) = &update {
                let (revision, whole) = (delta.from, (delta.pairings.clone(), Vec::new()));
                let (pairings, grants) = whole;
                table.apply(
                    Instant(1),
                    Instant(1),
                    sync::Update::Snapshot(sync::Snapshot { revision, pairings, grants }),
                );
            }
            table.apply(Instant(2), Instant(1), update);
            let _ = (table.digest(), table.next_deadline(), table.renewal_at());
            table.handle_timeout(Instant::NEVER);
        }
        gateway::rpc::Down::Renewed { lives, .. } => {
            table.renewed(Instant(2), Instant(1), &lives);
        }
        gateway::rpc::Down::FlowsKept { .. } | gateway::rpc::Down::AuditHead(_) => {}
    }
    true
}

/// What fields hold in a message that is taken.
fn word(message: &str, field: &str, family: u8) -> Vec<u8> {
    let text = |text: String| text.into_bytes();
    let address = |v4: [u8; 4]| {
        if family == 6 { [&[0xfd, 0x12, 0x34, 0x56, 0x78, 0x9a], [0; 10].as_slice()].concat() } else { v4.to_vec() }
    };
    let (_, message) = message.rsplit_once('.').unwrap_or_default();
    match (message, field) {
        ("Grant", "id") | (_, "grant" | "grants" | "ended" | "refused") => {
            text(GrantId::from_bytes([1; 10]).to_string())
        }
        ("Pairing", "id") | (_, "pairing" | "pairings") => text(PairingId::from_bytes([2; 10]).to_string()),
        ("Resource", "id") | (_, "removals") => text(ResourceId::from_bytes([3; 10]).to_string()),
        ("SessionState", "id") | ("ShowSessionRequest" | "RevokeSessionRequest", "session") => {
            text(SessionId::from_bytes([4; 10]).to_string())
        }
        ("Factor" | "BeginTotpReply" | "ConfirmTotpRequest", "id") => text(FactorId::from_bytes([9; 10]).to_string()),
        (m, "id") if m.contains("SignIn") => text(SignInId::from_bytes([8; 10]).to_string()),
        (_, "redirect_host") => b"127.0.0.1".to_vec(),
        (_, "url" | "uri" | "complete_uri" | "issuer") => b"https://idp.corp.example/a".to_vec(),
        ("AddIdpRequest", "groups") => b"staff=ada".to_vec(),
        ("AddIdpRequest", "parameters") => b"prompt=login".to_vec(),
        ("AddIdpRequest", "allow") => b"10.20.0.0/24".to_vec(),
        ("PasskeyQuestion", "options") => b"{\"publicKey\":{\"challenge\":\"AAAA\"}}".to_vec(),
        ("PasskeyAnswer", "answer") => super::passkeys::created().unwrap_or_default().into_bytes(),
        ("ProbeRequest", "run") => vec![7; 16],
        ("DeleteResourceRequest", "resource") => b"ada".to_vec(),
        (_, "text") => b"permit(principal, action, resource);".to_vec(),
        (_, "kind") => b"device".to_vec(),
        // People and workloads share names.
        ("AddAccountRequest", "name") | (_, "account") => b"build".to_vec(),
        (_, "name") if message.starts_with("Add") => b"ada".to_vec(),
        (_, "resource") => text(ResourceId::from_bytes([3; 10]).to_string()),
        (_, "device") => text(DeviceId::from_bytes([5; 10]).to_string()),
        ("ConnectRequest", "moves") => text(GrantId::from_bytes([1; 10]).to_string()),
        (_, "gateway" | "avoid_gateways") => text(GatewayId::from_bytes([6; 10]).to_string()),
        (_, "registration") => text(RegistrationId::from_bytes([8; 10]).to_string()),
        (_, "spiffe_id") => b"spiffe://corp.example/workload/build/web".to_vec(),
        (_, "trust_domain") => b"corp.example".to_vec(),
        (_, "join_key") => text(JoinKeyId::from_bytes([7; 10]).to_string()),
        ("Prefix", "address") => address([10, 77, 0, 0]),
        ("EnrollReply", "address") => vec![0xfd; 16],
        (_, "address" | "target" | "device_v4" | "address_v4") => vec![10, 77, 0, 9],
        (_, "nat_v4") => vec![198, 18, 0, 9],
        (_, "device_v6" | "nat_v6") => vec![0xfd; 16],
        (_, "csr") => made().0.clone(),
        (_, "chain") => made().1.clone(),
        (_, "name" | "names" | "suffixes" | "private_zones" | "hosts") => b"wiki.corp.example".to_vec(),
        (_, "addresses" | "prefixes") => b"10.20.0.0/24".to_vec(),
        (_, "tcp" | "udp") => b"443".to_vec(),
        (_, "user" | "site" | "tags" | "group" | "groups") => b"ada".to_vec(),
        (_, "reason" | "reasons" | "error" | "version" | "fingerprint" | "node_id") => b"denied".to_vec(),
        (_, "signature") => vec![8; 70],
        _ => vec![7; 32].into_iter().map(|byte: u8| byte + b'a').collect(),
    }
}

fn number(message: &str, field: &str, family: u8) -> u64 {
    match (message, field) {
        (_, "length") => {
            if family == 6 {
                64
            } else {
                24
            }
        }
        (_, "port" | "first" | "last") => 443,
        (_, "from" | "to" | "revision" | "number" | "incarnation") => 3,
        (_, "lease_ms" | "ends_in_ms" | "life_ms" | "check_every_ms" | "grace_ms") => 60_000,
        _ => 1,
    }
}

/// A certificate request and a certificate; made once, for they are random.
fn made() -> &'static (Vec<u8>, Vec<u8>) {
    static MADE: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    MADE.get_or_init(|| {
        let csr = SvidKey::generate().and_then(|key| key.csr()).unwrap_or_default();
        let chain = super::certificates::issued(&csr).unwrap_or_default();
        (csr, chain)
    })
}

fn words() -> Words<'static> {
    Words { bytes: &word, number: &number }
}

fn headed(name: &str, bytes: &[u8]) -> Vec<u8> {
    [name.as_bytes(), b"\n", bytes].concat()
}

/// The alternatives of the longest `oneof`.
const CHOICES: usize = 5;

fn seeds() -> Seeds {
    let types = Types::new()?;
    let mut seeds = Vec::new();
    for (name, ..) in rows() {
        let mut known: Vec<Vec<u8>> = Vec::new();
        for choice in 0..CHOICES {
            let bytes = types.filled(name, choice, &words());
            if !known.contains(&bytes) {
                seeds.push(seed(&format!("{name}-{choice}"), headed(name, &bytes)));
                known.push(bytes);
            }
        }
    }
    Ok(seeds)
}

/// A message in which all is there, and all of its variants.
pub fn variants_of(name: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    let types = Types::new()?;
    let whole = types.filled(name, 0, &words());
    let variants = types.variants(name, &whole);
    Ok([vec![whole], variants].concat())
}

/// The calls of a service.
pub fn calls_of(service: &str) -> anyhow::Result<Vec<String>> {
    Ok(Types::new()?.calls_of(service))
}

/// What came of leaving out and changing each field of each message.
#[derive(Debug, Default)]
pub struct Varied {
    /// Inputs.
    pub tried: u64,
    /// Messages that are taken when all is there, among those of which something is made.
    pub taken: Vec<&'static str>,
    /// Those that are not.
    pub refused: Vec<&'static str>,
    /// Messages of RPCs of which the table knows nothing.
    pub unknown: Vec<String>,
}

/// Tries every absent field, every unknown enumeration and every edge of a number, one at a time, over all messages.
/// `each` is called with every input.
pub fn vary(mut each: impl FnMut(&[u8])) -> anyhow::Result<Varied> {
    let types = Types::new()?;
    let known = |name: &String| !rows().any(|(row, ..)| row == name);
    let mut varied = Varied { unknown: types.spoken().into_iter().filter(known).collect(), ..Varied::default() };
    for (name, read, converted) in rows() {
        let mut taken = false;
        for choice in 0..CHOICES {
            let whole = types.filled(name, choice, &words());
            taken |= read(&whole);
            for bytes in types.variants(name, &whole) {
                varied.tried += 1;
                each(&headed(name, &bytes));
            }
        }
        match (converted, taken) {
            (false, _) => {}
            (true, true) => varied.taken.push(name),
            (true, false) => varied.refused.push(name),
        }
    }
    Ok(varied)
}
