//! THE place where a call is authorised: who may call which RPC?
//!
//! Every RPC of every service stands in [`TABLE`], by hand, with the roles that may call it; a test reads the services'
//! descriptors, so that an RPC without a row fails the build. What is unknown and what is forbidden is answered alike.
//! Which *object* a caller may touch is decided by the RPC itself: a device only ever speaks for itself, because its id
//! comes from [`Caller`] and never from the message.

use crate::refused::{Reason, Refused};
use model::ids::{DeviceId, GatewayId, NodeId};
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

/// What a caller is, for the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// See [`Caller::Admin`].
    Admin,
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

impl Caller {
    /// Its role.
    pub const fn role(&self) -> Role {
        match self {
            Self::Admin { .. } => Role::Admin,
            Self::Device(_) => Role::Device,
            Self::Gateway(_) => Role::Gateway,
            Self::Provisional(_) => Role::Provisional,
            Self::Late(_) => Role::Late,
            Self::Nobody => Role::Nobody,
        }
    }
}

/// As the audit trail names it.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin { actor } => f.write_str(actor),
            Self::Device(id) => write!(f, "device:{id}"),
            Self::Gateway(id) => write!(f, "gateway:{id}"),
            Self::Provisional(address) => write!(f, "provisional:{address}"),
            Self::Late(node) => write!(f, "late:{node}"),
            Self::Nobody => f.write_str("nobody"),
        }
    }
}

use Role::{Admin, Device, Gateway, Late, Provisional};

/// One row a service: its RPCs, and the roles that may call them. No wildcard: a new RPC needs a new word here.
pub const TABLE: &[(&str, &[&str], &[Role])] = &[
    (
        "umbra.admin.v1.Admin",
        &[
            "Status",
            "ClaimOwner",
            "AddUser",
            "ListUsers",
            "SetPassword",
            "SetUserEnabled",
            "DeleteUser",
            "OffboardUser",
            "ListFactors",
            "ResetFactors",
            "AddIdp",
            "ListIdps",
            "RemoveIdp",
            "SyncIdps",
            "AddAccount",
            "ListAccounts",
            "SetAccountEnabled",
            "SetAccountGroup",
            "RemoveAccount",
            "AddRegistration",
            "ListRegistrations",
            "RemoveRegistration",
            "AddFederation",
            "ListFederation",
            "RemoveFederation",
            "MakeFederationFile",
            "AddGroup",
            "ListGroups",
            "DeleteGroup",
            "SetMember",
            "AddSite",
            "ListSites",
            "DeleteSite",
            "ListGateways",
            "ConfirmGateway",
            "RevokeGateway",
            "AddResource",
            "ListResources",
            "DeleteResource",
            "CheckPolicy",
            "ApplyPolicy",
            "ShowPolicy",
            "ListPolicyRevisions",
            "RollbackPolicy",
            "ListAccess",
            "CreateJoinKey",
            "ListJoinKeys",
            "RevokeJoinKey",
            "ListDevices",
            "ConfirmDevice",
            "RevokeDevice",
            "ListSessions",
            "ShowSession",
            "RevokeSession",
            "ListAudit",
            "VerifyAudit",
            "ExportAudit",
            "ShowKeys",
            "SucceedKeys",
            "Backup",
            "ListRestored",
            "ConfirmRestored",
        ],
        &[Admin],
    ),
    ("umbra.v1.Enrolment", &["Enroll", "Recover"], &[Provisional]),
    ("umbra.v1.Nodes", &["Probe", "RenewSvid"], &[Device, Gateway, Late]),
    ("umbra.v1.Nodes", &["RotateKey"], &[Device, Gateway]),
    ("umbra.v1.Devices", &["Login", "Logout", "Watch", "Connect", "Disconnect", "NameAddress"], &[Device]),
    (
        "umbra.v1.Devices",
        &["ListFactors", "BeginTotp", "ConfirmTotp", "VerifyFactor", "RemoveFactor", "RenewRecoveryCodes"],
        &[Device],
    ),
    ("umbra.v1.Devices", &["ListProviders", "BeginSignIn", "FinishSignIn", "BeginCodeSignIn", "PollSignIn"], &[Device]),
    ("umbra.v1.Devices", &["BeginPasskey", "ConfirmPasskey", "AskPasskey", "VerifyPasskey"], &[Device]),
    ("umbra.v1.Devices", &["ListIdentities", "SignIdentity", "SignToken"], &[Device]),
    ("umbra.v1.Gateways", &["Watch"], &[Gateway]),
];

/// Whether the caller may call this RPC (`/umbra.v1.Devices/Login`). What is not in [`TABLE`] nobody may call.
pub fn authorize(caller: &Caller, method: &str) -> bool {
    let Some((service, rpc)) = method.strip_prefix('/').and_then(|path| path.split_once('/')) else { return false };
    let row = TABLE.iter().find(|(name, rpcs, _)| *name == service && rpcs.contains(&rpc));
    row.is_some_and(|(_, _, roles)| roles.contains(&caller.role()))
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

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let caller = request.extensions().get::<Caller>().unwrap_or(&Caller::Nobody);
        let method = request.uri().path();
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

/// Puts [`Guard`] around a service.
#[derive(Debug, Clone)]
pub struct GuardLayer(pub Arc<Refused>);

impl<S> tower::Layer<S> for GuardLayer {
    type Service = Guard<S>;
    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner, refused: Arc::clone(&self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use std::collections::BTreeSet;

    fn callers() -> Vec<Caller> {
        vec![
            Caller::Admin { actor: "local:root".into() },
            Caller::Device(DeviceId::from_bytes([1; 10])),
            Caller::Gateway(GatewayId::from_bytes([1; 10])),
            Caller::Provisional(Ipv6Addr::LOCALHOST),
            Caller::Late(NodeId::Device(DeviceId::from_bytes([1; 10]))),
            Caller::Nobody,
        ]
    }

    /// Every RPC that the wire has.
    fn methods() -> Vec<String> {
        let set = prost_types::FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
        let mut methods = Vec::new();
        for file in set.file {
            for service in &file.service {
                for method in &service.method {
                    methods.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                }
            }
        }
        methods
    }

    /// The rows written out: what each role may call, apart from [`TABLE`], so that a slip there is seen.
    fn expected(role: Role, method: &str) -> bool {
        match role {
            Role::Admin => method.starts_with("/umbra.admin.v1.Admin/"),
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
            .flat_map(|(service, rpcs, _)| rpcs.iter().map(move |rpc| format!("/{service}/{rpc}")))
            .collect();
        assert!(wire.len() > 30);
        assert_eq!(wire.symmetric_difference(&rows).collect::<Vec<_>>(), Vec::<&String>::new());
    }

    #[test]
    fn every_rpc_for_every_role() {
        for method in methods() {
            for caller in callers() {
                assert_eq!(authorize(&caller, &method), expected(caller.role(), &method), "{caller} {method}");
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
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            for caller in callers() {
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
