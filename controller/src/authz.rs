//! THE place where a call is authorised: who may call which RPC?
//!
//! Every RPC of every service stands in [`TABLE`], by hand, with the roles that may call it; a test reads the services'
//! descriptors, so that an RPC without a row fails the build. What is unknown and what is forbidden is answered alike.
//! Which *object* a caller may touch is decided by the RPC itself: a device only ever speaks for itself, because its id
//! comes from [`Caller`] and never from the message.

use crate::administrator::People;
use crate::directory::{AdminRole, Name};
use crate::refused::{Reason, Refused};
use model::ids::{DeviceId, GatewayId, NodeId, UserId};
use model::limits::ADMIN_CALL_MAX;
use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::net::Ipv6Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Who is at the other end of a connection, proven: by peer credentials on the local socket; by WireGuard key and SVID
/// in the control tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// An administrator of this machine.
    Admin {
        /// Its name for the audit trail: `local:root`, `local:uid-1000`.
        actor: String,
    },
    /// A person with a role, logged in on an enrolled device.
    Person(Arc<Person>),
    /// An enrolled device.
    Device(DeviceId),
    /// An enrolled gateway.
    Gateway(GatewayId),
    /// A machine that knocked and may enrol, by its overlay address, which its WireGuard key hashes to.
    Provisional(Ipv6Addr),
    /// An enrolled node whose certificate has ended: it may renew it, and nothing else.
    Late(NodeId),
    /// Nobody who is known.
    Nobody,
}

/// A person who has a role, as found when the call came. It is found anew for each call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Who.
    pub user: UserId,
    /// Its name for the audit trail.
    pub name: Name,
    /// From where.
    pub device: DeviceId,
    /// Its roles.
    pub roles: BTreeSet<AdminRole>,
}

/// What a caller is, for the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// See [`Caller::Admin`].
    Admin,
    /// See [`AdminRole::Owner`].
    Owner,
    /// See [`AdminRole::SecurityAdmin`].
    SecurityAdmin,
    /// See [`AdminRole::Operator`].
    Operator,
    /// See [`AdminRole::Auditor`].
    Auditor,
    /// See [`AdminRole::Approver`].
    Approver,
    /// See [`Caller::Device`].
    Device,
    /// See [`Caller::Gateway`].
    Gateway,
    /// See [`Caller::Provisional`].
    Provisional,
    /// See [`Caller::Late`].
    Late,
    /// See [`Caller::Nobody`].
    Nobody,
}

impl From<AdminRole> for Role {
    fn from(role: AdminRole) -> Self {
        match role {
            AdminRole::Owner => Self::Owner,
            AdminRole::SecurityAdmin => Self::SecurityAdmin,
            AdminRole::Operator => Self::Operator,
            AdminRole::Auditor => Self::Auditor,
            AdminRole::Approver => Self::Approver,
        }
    }
}

impl Caller {
    /// Has it this role?
    pub fn is(&self, role: Role) -> bool {
        match self {
            Self::Admin { .. } => role == Role::Admin,
            Self::Person(person) => person.roles.iter().any(|held| Role::from(*held) == role),
            Self::Device(_) => role == Role::Device,
            Self::Gateway(_) => role == Role::Gateway,
            Self::Provisional(_) => role == Role::Provisional,
            Self::Late(_) => role == Role::Late,
            Self::Nobody => role == Role::Nobody,
        }
    }

    /// May it do what only owners may? Who is at the controller's own socket owns the machine.
    pub fn is_owner(&self) -> bool {
        self.is(Role::Admin) || self.is(Role::Owner)
    }
}

/// As the audit trail names it.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin { actor } => f.write_str(actor),
            Self::Person(person) => write!(f, "remote:{}", person.name),
            Self::Device(id) => write!(f, "device:{id}"),
            Self::Gateway(id) => write!(f, "gateway:{id}"),
            Self::Provisional(address) => write!(f, "provisional:{address}"),
            Self::Late(node) => write!(f, "late:{node}"),
            Self::Nobody => f.write_str("nobody"),
        }
    }
}

use Needs::{Factor, Nothing};
use Role::{Admin, Approver, Auditor, Device, Gateway, Late, Operator, Owner, Provisional, SecurityAdmin};

/// What a person has to show besides a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// The log-in is enough: nothing changes and no secret is given out.
    Nothing,
    /// A second factor of the last minutes.
    Factor,
}

/// The service of administrators: the one that persons may call from their devices.
pub const ADMIN_SERVICE: &str = "umbra.admin.v1.Admin";

/// One row: a service, RPCs of it, the roles that may call them, and what a person has to show besides.
pub type Row = (&'static str, &'static [&'static str], &'static [Role], Needs);

/// No wildcard: a new RPC needs a new word here.
///
/// What stays at the controller's own socket, and why: `ClaimOwner` and `BreakGlass` make an owner of whoever holds a secret,
/// which must not be tried from afar. A `Backup` is the whole organisation, its CA's key included, for whoever made up the
/// passphrase. `ConfirmRestored` gives back what was taken away after the backup, which nobody can know who was restored from
/// it. What else gives secrets out (`CreateJoinKey`, `MakeFederationFile`) gives them to the person that asks, once, inside
/// the control tunnel, and they admit nobody whom that person could not admit otherwise.
pub const TABLE: &[Row] = &[
    (ADMIN_SERVICE, &["ClaimOwner", "Backup", "ConfirmRestored", "BreakGlass"], &[Admin], Factor),
    (ADMIN_SERVICE, &["GrantRole", "RevokeRole", "AcknowledgeBreakGlass", "SucceedKeys"], &[Admin, Owner], Factor),
    (
        ADMIN_SERVICE,
        &[
            "AddUser",
            "SetPassword",
            "SetUserEnabled",
            "DeleteUser",
            "OffboardUser",
            "ResetFactors",
            "AddIdp",
            "RemoveIdp",
            "SyncIdps",
            "AddAccount",
            "SetAccountEnabled",
            "SetAccountGroup",
            "RemoveAccount",
            "AddRegistration",
            "RemoveRegistration",
            "AddFederation",
            "RemoveFederation",
            "MakeFederationFile",
            "AddGroup",
            "DeleteGroup",
            "SetMember",
            "ApplyPolicy",
            "RollbackPolicy",
        ],
        &[Admin, Owner, SecurityAdmin],
        Factor,
    ),
    (
        ADMIN_SERVICE,
        &[
            "AddSite",
            "DeleteSite",
            "ConfirmGateway",
            "RevokeGateway",
            "AddResource",
            "DeleteResource",
            "CreateJoinKey",
            "RevokeJoinKey",
            "ConfirmDevice",
            "RevokeDevice",
            "RevokeSession",
        ],
        &[Admin, Owner, SecurityAdmin, Operator],
        Factor,
    ),
    (ADMIN_SERVICE, &["CheckPolicy"], &[Admin, Owner, SecurityAdmin], Nothing),
    (
        ADMIN_SERVICE,
        &[
            "ListRoles",
            "ListFactors",
            "ListIdps",
            "ListFederation",
            "ListAudit",
            "VerifyAudit",
            "ExportAudit",
            "ShowKeys",
            "ListRestored",
        ],
        &[Admin, Owner, SecurityAdmin, Auditor],
        Nothing,
    ),
    (
        ADMIN_SERVICE,
        &[
            "ListAccounts",
            "ListRegistrations",
            "ListSites",
            "ListGateways",
            "ListJoinKeys",
            "ListDevices",
            "ListSessions",
            "ShowSession",
        ],
        &[Admin, Owner, SecurityAdmin, Operator, Auditor],
        Nothing,
    ),
    (
        ADMIN_SERVICE,
        &["Status", "ListUsers", "ListGroups", "ListResources", "ListAccess", "ShowPolicy", "ListPolicyRevisions"],
        &[Admin, Owner, SecurityAdmin, Operator, Auditor, Approver],
        Nothing,
    ),
    // What gRPC's own tools ask, see `crate::tools`.
    ("grpc.health.v1.Health", &["Check", "Watch"], &[Admin], Nothing),
    ("grpc.reflection.v1.ServerReflection", &["ServerReflectionInfo"], &[Admin], Nothing),
    ("umbra.v1.Enrolment", &["Enroll", "Recover"], &[Provisional], Nothing),
    ("umbra.v1.Nodes", &["Probe", "RenewSvid"], &[Device, Gateway, Late], Nothing),
    ("umbra.v1.Nodes", &["RotateKey"], &[Device, Gateway], Nothing),
    ("umbra.v1.Devices", &["Login", "Logout", "Watch", "Connect", "Disconnect", "NameAddress"], &[Device], Nothing),
    (
        "umbra.v1.Devices",
        &["ListFactors", "BeginTotp", "ConfirmTotp", "VerifyFactor", "RemoveFactor", "RenewRecoveryCodes"],
        &[Device],
        Nothing,
    ),
    (
        "umbra.v1.Devices",
        &["ListProviders", "BeginSignIn", "FinishSignIn", "BeginCodeSignIn", "PollSignIn"],
        &[Device],
        Nothing,
    ),
    ("umbra.v1.Devices", &["BeginPasskey", "ConfirmPasskey", "AskPasskey", "VerifyPasskey"], &[Device], Nothing),
    ("umbra.v1.Devices", &["ListIdentities", "SignIdentity", "SignToken"], &[Device], Nothing),
    ("umbra.v1.Gateways", &["Watch"], &[Gateway], Nothing),
];

/// The row of an RPC (`/umbra.v1.Devices/Login`).
fn row(method: &str) -> Option<&'static Row> {
    let (service, rpc) = method.strip_prefix('/').and_then(|path| path.split_once('/'))?;
    TABLE.iter().find(|(name, rpcs, ..)| *name == service && rpcs.contains(&rpc))
}

/// Whether the caller may call this RPC. What is not in [`TABLE`] nobody may call.
pub fn authorize(caller: &Caller, method: &str) -> bool {
    row(method).is_some_and(|(_, _, roles, _)| roles.iter().any(|role| caller.is(*role)))
}

/// Has a person to show a second factor for it?
pub fn needs_factor(method: &str) -> bool {
    row(method).is_none_or(|(.., needs)| *needs == Factor)
}

/// Is it a call that persons may make from their devices, if they have a role?
fn is_of_administrators(method: &str) -> bool {
    method.strip_prefix('/').and_then(|path| path.strip_prefix(ADMIN_SERVICE)).is_some_and(|rpc| rpc.starts_with('/'))
}

/// The one answer to a call that is unknown or forbidden.
pub fn refusal() -> tonic::Status {
    tonic::Status::permission_denied("not permitted: no such call for this caller")
}

/// A service behind [`authorize`]: nothing of a call is read before its caller may make it. The caller is an extension
/// of the request, put there by the listener that proved it; without one it is [`Caller::Nobody`].
#[derive(Debug, Clone)]
pub struct Guard<S> {
    /// What is guarded.
    pub inner: S,
    /// Where calls are counted that are refused.
    pub refused: Arc<Refused>,
    /// Who finds the person behind a device's call to administer; without, no device makes one.
    pub people: Option<People>,
}

impl<S, B> tower::Service<http::Request<B>> for Guard<S>
where
    S: tower::Service<http::Request<B>, Response = http::Response<tonic::body::Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let caller = request.extensions().get::<Caller>().unwrap_or(&Caller::Nobody);
        let method = request.uri().path();
        if let (Caller::Device(device), Some(people)) = (caller, &self.people)
            && is_of_administrators(method)
            && let Some(admitted) = people.admit(*device, method)
        {
            return match admitted {
                Ok(person) => {
                    request.extensions_mut().insert(person);
                    let answer = tokio::time::timeout(ADMIN_CALL_MAX, self.inner.call(request));
                    Box::pin(async { answer.await.unwrap_or_else(|_| Ok(late().into_http())) })
                }
                Err(status) => Box::pin(async { Ok(status.into_http()) }),
            };
        }
        if authorize(caller, method) {
            return Box::pin(self.inner.call(request));
        }
        if self.refused.is_told(Reason::Call, caller) {
            let shown: String = method.chars().take(80).flat_map(char::escape_default).collect();
            tracing::warn!(%caller, method = shown, "a call was refused");
        }
        Box::pin(async { Ok(refusal().into_http()) })
    }
}

/// Said where a call of a person takes too long.
fn late() -> tonic::Status {
    tonic::Status::deadline_exceeded("the controller did not get it done in time")
}

/// Puts [`Guard`] around a service of this machine.
#[derive(Debug, Clone)]
pub struct GuardLayer(pub Arc<Refused>);

impl<S> tower::Layer<S> for GuardLayer {
    type Service = Guard<S>;
    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner, refused: Arc::clone(&self.0), people: None }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use prost::Message as _;

    fn person(roles: &[AdminRole]) -> Caller {
        let (user, device) = (UserId::from_bytes([1; 10]), DeviceId::from_bytes([1; 10]));
        let roles = roles.iter().copied().collect();
        Caller::Person(Arc::new(Person { user, name: "clerk".parse().unwrap(), device, roles }))
    }

    fn callers() -> Vec<(Role, Caller)> {
        let others = [
            (Role::Admin, Caller::Admin { actor: "local:root".into() }),
            (Role::Device, Caller::Device(DeviceId::from_bytes([1; 10]))),
            (Role::Gateway, Caller::Gateway(GatewayId::from_bytes([1; 10]))),
            (Role::Provisional, Caller::Provisional(Ipv6Addr::LOCALHOST)),
            (Role::Late, Caller::Late(NodeId::Device(DeviceId::from_bytes([1; 10])))),
            (Role::Nobody, Caller::Nobody),
            // A person without a role is nobody here.
            (Role::Nobody, person(&[])),
        ];
        AdminRole::ALL.into_iter().map(|role| (role.into(), person(&[role]))).chain(others).collect()
    }

    /// Every RPC that the wire has.
    pub(crate) fn methods() -> Vec<String> {
        let set = prost_types::FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
        let mut methods = Vec::new();
        for file in set.file {
            for service in &file.service {
                for method in &service.method {
                    methods.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                }
            }
        }
        let of_tools = [
            "/grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/Watch",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ];
        methods.extend(of_tools.map(str::to_owned));
        methods
    }

    /// The rows written out: what each role may call, apart from [`TABLE`], so that a slip there is seen.
    fn expected(role: Role, method: &str) -> bool {
        let may = |who: &str| {
            crate::administrator::tests::ROWS.iter().any(|(rpc, roles, _)| {
                method.strip_prefix("/umbra.admin.v1.Admin/") == Some(rpc) && roles.split(' ').any(|role| role == who)
            })
        };
        match role {
            Role::Admin => method.starts_with("/umbra.admin.v1.Admin/") || method.starts_with("/grpc."),
            Role::Owner => may("owner"),
            Role::SecurityAdmin => may("security-admin"),
            Role::Operator => may("operator"),
            Role::Auditor => may("auditor"),
            Role::Approver => may("approver"),
            Role::Device => method.starts_with("/umbra.v1.Devices/") || method.starts_with("/umbra.v1.Nodes/"),
            Role::Gateway => method.starts_with("/umbra.v1.Gateways/") || method.starts_with("/umbra.v1.Nodes/"),
            Role::Provisional => method.starts_with("/umbra.v1.Enrolment/"),
            Role::Late => method.starts_with("/umbra.v1.Nodes/") && method != "/umbra.v1.Nodes/RotateKey",
            Role::Nobody => false,
        }
    }

    #[test]
    fn every_rpc_has_a_row_and_every_row_an_rpc() {
        let wire: BTreeSet<String> = methods().into_iter().filter(|m| !m.contains(".local.")).collect();
        let rows: BTreeSet<String> = TABLE
            .iter()
            .flat_map(|(service, rpcs, ..)| rpcs.iter().map(move |rpc| format!("/{service}/{rpc}")))
            .collect();
        assert!(wire.len() > 30);
        assert_eq!(wire.symmetric_difference(&rows).collect::<Vec<_>>(), Vec::<&String>::new());
    }

    #[test]
    fn every_rpc_for_every_role() {
        for method in methods() {
            for (role, caller) in callers() {
                assert_eq!(authorize(&caller, &method), expected(role, &method), "{role:?} {method}");
            }
        }
    }

    #[test]
    fn what_is_not_in_the_table_nobody_may_call() {
        for method in [
            "",
            "/",
            "//",
            "/umbra.v1.Devices/",
            "/umbra.v1.Devices/login",
            "umbra.v1.Devices/Login",
            "/umbra.v1.Devices/Login/",
            "/umbra.v1.Devices/Login?x",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ] {
            for (_, caller) in callers() {
                assert!(!authorize(&caller, method), "{caller} {method}");
            }
        }
    }

    #[tokio::test]
    async fn unknown_and_forbidden_are_answered_alike_and_reach_nobody() {
        use tower::{Layer as _, Service as _, ServiceExt as _};
        let inner = tower::service_fn(|_: http::Request<()>| async {
            Ok::<_, std::convert::Infallible>(http::Response::new(tonic::body::Body::default()))
        });
        let refused = Arc::new(Refused::default());
        let mut guard = GuardLayer(Arc::clone(&refused)).layer(inner);
        let mut ask = async |caller: Option<Caller>, path: &str| {
            let mut request = http::Request::builder().uri(path).body(()).unwrap();
            caller.map(|caller| request.extensions_mut().insert(caller));
            let response = guard.ready().await.unwrap().call(request).await.unwrap();
            response.headers().clone()
        };
        let device = || Some(Caller::Device(DeviceId::from_bytes([1; 10])));
        let forbidden = ask(device(), "/umbra.admin.v1.Admin/Status").await;
        let unknown = ask(device(), "/umbra.admin.v1.Admin/Nothing").await;
        let nobody = ask(None, "/umbra.v1.Nodes/Probe").await;
        assert_eq!(forbidden.get("grpc-status").unwrap(), "7");
        assert_eq!(forbidden, unknown);
        assert_eq!(forbidden, nobody);
        assert!(refused.counters().any(|counter| counter == ("rpc_call_refused", 3)));
        assert_eq!(ask(device(), "/umbra.v1.Nodes/Probe").await.get("grpc-status"), None);
    }
}
