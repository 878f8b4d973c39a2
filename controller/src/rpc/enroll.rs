//! Where is a device enrolled? Here: one call, from a machine that knocked with a live join key; another one brings a node
//! back that knocked with its recovery secret.
//!
//! The WireGuard key is the one that the connection's overlay address hashes to, never one from the message. The call is
//! idempotent for that key, and it alone spends a use of the join key, in the transaction that makes the node.

mod federated;

use crate::arrange::Arrangements;
use crate::audit::{Entry, Outcome};
use crate::authz::refusal;
use crate::ca::{self, RequestKey};
use crate::directory::index::{address_id, key_id};
use crate::directory::{
    Counted, Device, Directory, Draft, Gateway, JoinKey, JoinKeyState, Name, NodeState, Recovery, Redeemed, Refusal,
    Unique, sha256,
};
use crate::federation::Federation;
use crate::front::Newcomers;
use crate::organisation::Organisation;
use crate::rpc::accept::Newcomer;
use crate::turnover::{Held, claim};
use federated::NotAdmitted;
use model::ids::{AccountId, DeviceId, GatewayId, JoinKeyId, NodeId, SiteId};
use model::key::PublicKey;
use model::limits::{LIKE_NAMES_MAX, NAME_MAX};
use model::secret::Secret;
use model::time::WallMs;
use node::svid::signature_holds;
use proto::convert::{WireError, array, wrong};
use proto::join::{JoinKind, node_fingerprint};
use proto::v1;
use proto::v1::enrolment_server::Enrolment;
use std::net::Ipv6Addr;
use std::sync::Arc;
use tonic::{Request, Response, Status};
use tunnel::knock::Knocker;

/// An uncompressed P-256 point at the end of its SubjectPublicKeyInfo (RFC 5480 section 2.2).
const POINT_LEN: usize = 65;

/// The service.
pub struct EnrolmentRpc {
    organisation: Organisation,
    newcomers: Arc<Newcomers>,
    arrangements: Arc<Arrangements>,
    federation: Federation,
}

/// What a machine asks for, checked.
struct Wish {
    key: PublicKey,
    join_key: JoinKeyId,
    token_hash: [u8; 32],
    kind: JoinKind,
    name: Name,
    request: RequestKey,
    recovery: Secret<[u8; 32]>,
    /// A token of its own platform, where it joins by one; or nothing.
    identity: Secret<String>,
}

/// What a node asks for whose keys are not answered any more, checked.
struct Return {
    key: PublicKey,
    node: NodeId,
    token_hash: [u8; 32],
    request: RequestKey,
}

/// What it gets.
#[derive(Clone)]
struct Enrolled {
    node: NodeId,
    address: Ipv6Addr,
    v4: Option<u32>,
    pending: bool,
    fingerprint: String,
    /// The name of the service account as which it joined.
    account: Option<Name>,
}

impl EnrolmentRpc {
    /// For machines that knocked.
    pub const fn new(
        organisation: Organisation,
        newcomers: Arc<Newcomers>,
        arrangements: Arc<Arrangements>,
        federation: Federation,
    ) -> Self {
        Self { organisation, newcomers, arrangements, federation }
    }

    /// By a federation rule, or by a join key; both have their knocks heard under the same kind of id.
    async fn admit(&self, wish: &Wish) -> Result<Enrolled, Status> {
        let trust = self.organisation.now().trusts.find(&wish.join_key).cloned();
        let Some(trust) = trust else { return redeem(&self.organisation, wish).await.map_err(refused) };
        match federated::redeem(&self.organisation, &self.federation, &trust, wish).await {
            Ok(enrolled) => Ok(enrolled),
            Err(NotAdmitted::Refused(why)) => Err(refused(why)),
            Err(NotAdmitted::Token(why)) => {
                self.arrangements.record_deny(federated::record(&trust.record, &why)).await;
                Err(Status::permission_denied(why.for_person()))
            }
        }
    }

    fn read(&self, newcomer: &Newcomer, message: v1::EnrollRequest) -> Result<Wish, Status> {
        let malformed = |e: &dyn std::fmt::Display| Status::invalid_argument(e.to_string());
        let Some((key, Knocker::JoinKey(join_key))) = self.newcomers.find(newcomer.address) else {
            return Err(refusal());
        };
        let token: [u8; 32] = array("token", &message.token).map_err(|e| malformed(&e))?;
        let kind = kind(message.kind).map_err(|e| malformed(&e))?;
        if message.name.len() > NAME_MAX * 4 {
            return Err(malformed(&"field `name`: is too long"));
        }
        let request = proven(newcomer, &message.csr, &message.proof)?;
        let recovery = Secret::new(array("recovery", &message.recovery).map_err(|e| malformed(&e))?);
        let (token_hash, name) = (sha256(&token), Name::from_machine(&message.name));
        let identity = Secret::new(message.identity_token);
        Ok(Wish { key, join_key, token_hash, kind, name, request, recovery, identity })
    }

    fn read_return(&self, newcomer: &Newcomer, message: v1::RecoverRequest) -> Result<Return, Status> {
        let Some((key, Knocker::Node(node))) = self.newcomers.find(newcomer.address) else { return Err(refusal()) };
        let token: [u8; 32] = array("token", &message.token).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let request = proven(newcomer, &message.csr, &message.proof)?;
        Ok(Return { key, node, token_hash: sha256(&token), request })
    }

    /// What a machine is told that was let in, and its tunnel as the node's from now on.
    async fn welcome(
        &self,
        key: PublicKey,
        request: &RequestKey,
        enrolled: Enrolled,
    ) -> Result<v1::EnrollReply, Status> {
        let organisation = &self.organisation;
        let svid = organisation.ca().issue(enrolled.node, request, organisation.wall(), organisation.timing.svid);
        let svid = svid.map_err(|e| Status::internal(e.to_string()))?;
        let pool = organisation.org().map_err(|e| Status::internal(e.to_string()))?.pool;
        self.newcomers.promote(organisation, &key, enrolled.node, enrolled.address).await;
        let v4 = enrolled.v4.and_then(|n| pool.device_v4(n)).map(|a| a.octets().to_vec()).unwrap_or_default();
        Ok(v1::EnrollReply {
            node_id: enrolled.node.to_string(),
            chain: svid.chain,
            address: enrolled.address.octets().to_vec(),
            address_v4: v4,
            pool_v4: Some(pool.v4().into()),
            pool_v6: Some(pool.v6().into()),
            pending: enrolled.pending,
            fingerprint: enrolled.fingerprint,
            account: enrolled.account.map(|name| name.to_string()).unwrap_or_default(),
        })
    }
}

fn refused(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Denied(why) => Status::permission_denied(why),
        Refusal::Store(_) | Refusal::Busy(_) => Status::unavailable(refusal.to_string()),
        other => Status::failed_precondition(other.to_string()),
    }
}

/// What a machine wants to be.
pub fn kind(wire: i32) -> Result<JoinKind, WireError> {
    match v1::NodeKind::try_from(wire) {
        Ok(v1::NodeKind::Device) => Ok(JoinKind::Device),
        Ok(v1::NodeKind::Gateway) => Ok(JoinKind::Gateway),
        Ok(v1::NodeKind::Unspecified) | Err(_) => Err(wrong("kind", "must be a device or a gateway")),
    }
}

/// The key of a certificate request, with the proof that whoever holds this connection holds it: it cannot be relayed.
fn proven(newcomer: &Newcomer, csr: &[u8], proof: &[u8]) -> Result<RequestKey, Status> {
    let request = ca::request_key(csr).map_err(|e| Status::invalid_argument(e.to_string()))?;
    let point = request.spki.len().checked_sub(POINT_LEN).and_then(|at| request.spki.get(at..)).unwrap_or_default();
    if signature_holds(point, &newcomer.exporter, proof) {
        return Ok(request);
    }
    Err(Status::invalid_argument("field `proof`: does not sign this connection with the request's key"))
}

/// The same node, under the key with which it knocked.
fn decide_return(
    organisation: &Organisation,
    directory: &Directory,
    draft: &mut Draft,
    wish: &Return,
) -> Result<(Enrolled, Entry), Refusal> {
    let denied = || Refusal::Denied("this node cannot be admitted again; join with a new join file".to_owned());
    let held = Held::find(directory, wish.node).ok_or_else(denied)?;
    let secret = directory.recoveries.find(&wish.node.to_string()).ok_or_else(denied)?;
    let opened = secret.record.open(&organisation.sealer, wish.node).map_err(|e| Refusal::Failed(e.to_string()))?;
    if opened.token_hash != wish.token_hash {
        return Err(denied());
    }
    draft.stands_on(secret);
    let (key, next) = held.keys();
    if key != wish.key {
        for old in std::iter::once(key).chain(next).filter(|old| *old != wish.key) {
            draft.release(Unique::NodeKey, key_id(&old))?;
        }
        if next != Some(wish.key) {
            claim(directory, draft, wish.node, &wish.key)?;
        }
    }
    held.rekeyed(draft, wish.key, None, Some(wish.request.hash))?;
    let enrolled = known(directory, wish.node).ok_or_else(denied)?;
    let node = wish.node.to_string();
    let entry = Entry::new(organisation.wall(), node.clone(), "node.recover", node, Outcome::Done);
    Ok((enrolled, entry.with("key", wish.key.short())))
}

/// Makes the node and spends the use, or does neither.
async fn redeem(organisation: &Organisation, wish: &Wish) -> Result<Enrolled, Refusal> {
    let fresh: [u8; model::ids::ID_LEN] = host::entropy::random().map_err(|e| Refusal::Failed(e.to_string()))?;
    let change = |directory: &Directory, draft: &mut Draft| decide(organisation, directory, draft, wish, fresh);
    organisation.change(change).await.map(|(_, enrolled)| enrolled)
}

fn decide(
    organisation: &Organisation,
    directory: &Directory,
    draft: &mut Draft,
    wish: &Wish,
    fresh: [u8; model::ids::ID_LEN],
) -> Result<(Enrolled, Entry), Refusal> {
    let wall = organisation.wall();
    let denied =
        || Refusal::Denied("the join key is not valid any more; ask an administrator for a new join file".to_owned());
    let fact = directory.join_keys.find(&wish.join_key).ok_or_else(denied)?;
    let key = &fact.record;
    if key.enrol_hash != wish.token_hash || key.kind != wish.kind {
        return Err(denied());
    }
    draft.stands_on(fact);
    if key.redeemed.iter().any(|r| r.key == wish.key) {
        let enrolled = again(directory, &wish.key).ok_or_else(denied)?;
        let entry = Entry::new(wall, enrolled.node.to_string(), "enrol.repeat", key.id.to_string(), Outcome::Done);
        return Ok((enrolled, entry));
    }
    if key.state(wall) != JoinKeyState::Usable || directory.node_of_key(&wish.key).is_some() {
        return Err(denied());
    }
    let terms = Terms::of(directory, draft, key)?;
    let enrolled = create(organisation, directory, draft, wish, &terms, fresh)?;
    let mut spent = key.clone();
    spent.uses_left = spent.uses_left.saturating_sub(1);
    spent.redeemed.push(Redeemed { key: wish.key, node: enrolled.node.to_string() });
    draft.update(fact, &spent)?;
    Ok((enrolled.clone(), admitted(wall, &enrolled, wish, key.id, &terms)))
}

/// What the trail says of a new node.
fn admitted(wall: WallMs, enrolled: &Enrolled, wish: &Wish, join_key: JoinKeyId, terms: &Terms) -> Entry {
    let mut entry = Entry::new(wall, enrolled.node.to_string(), "enrol", join_key.to_string(), Outcome::Done)
        .with("name", wish.name.as_str())
        .with("fingerprint", enrolled.fingerprint.clone())
        .with("pending", enrolled.pending);
    if let Some(account) = &enrolled.account {
        entry = entry.with("account", account.as_str());
    }
    if terms.ephemeral { entry.with("ephemeral", true) } else { entry }
}

/// On which terms a machine becomes a node.
struct Terms {
    join_key: JoinKeyId,
    site: Option<SiteId>,
    account: Option<(AccountId, Name)>,
    ephemeral: bool,
    /// It waits for an administrator.
    pending: bool,
}

impl Terms {
    /// Those of a join key. Its service account takes part, also when this commits.
    fn of(directory: &Directory, draft: &mut Draft, key: &JoinKey) -> Result<Self, Refusal> {
        let account = match key.account {
            None => None,
            Some(id) => {
                let account = directory.accounts.find(&id).filter(|account| !account.record.disabled);
                let gone = || Refusal::Denied("its service account is disabled; ask an administrator".to_owned());
                let account = account.ok_or_else(gone)?;
                draft.stands_on(account);
                Some((id, account.record.name.clone()))
            }
        };
        // A gateway always waits; so does a device whose key was made for many, because anybody may have copied it.
        let pending = key.kind == JoinKind::Gateway || key.uses > 1;
        Ok(Self { join_key: key.id, site: key.site, account, ephemeral: key.ephemeral, pending })
    }
}

/// Key, address and name are one machine's; answers the name, made unique.
fn become_one(
    directory: &Directory,
    draft: &mut Draft,
    wish: &Wish,
    address: Ipv6Addr,
    owner: &str,
) -> Result<Name, Refusal> {
    draft.claim(directory, Unique::NodeKey, key_id(&wish.key), owner, || "this machine's key".to_owned())?;
    draft.claim(directory, Unique::NodeAddress, address_id(address), owner, || "this machine's address".to_owned())?;
    let unique = if wish.kind == JoinKind::Device { Unique::DeviceName } else { Unique::GatewayName };
    claim_name(directory, draft, unique, &wish.name, owner)
}

fn create(
    organisation: &Organisation,
    directory: &Directory,
    draft: &mut Draft,
    wish: &Wish,
    terms: &Terms,
    fresh: [u8; model::ids::ID_LEN],
) -> Result<Enrolled, Refusal> {
    let pool = organisation.org()?.pool;
    let node = match wish.kind {
        JoinKind::Device => NodeId::Device(DeviceId::from_bytes(fresh)),
        JoinKind::Gateway => NodeId::Gateway(GatewayId::from_bytes(fresh)),
    };
    let address = tunnel::address::address_of_node(&pool, &node);
    let fingerprint = node_fingerprint(&wish.key, &wish.request.spki);
    let owner = format!("{}/{node}", wish.kind);
    let name = become_one(directory, draft, wish, address, &owner)?;
    let created = organisation.wall();
    let pending = terms.pending;
    let state = if pending { NodeState::Pending } else { NodeState::Confirmed };
    let (svid_key, join_key) = (wish.request.hash, terms.join_key);
    let mut v4 = None;
    match node {
        NodeId::Device(id) => {
            let number = draft.number(directory, Counted::DeviceV4, &owner)?;
            v4 = Some(number);
            let device = Device {
                id,
                name,
                user: None,
                account: terms.account.as_ref().map(|(id, _)| *id),
                ephemeral: terms.ephemeral,
                key: wish.key,
                next_key: None,
                address,
                v4: number,
                svid_key,
                fingerprint: fingerprint.clone(),
                state,
                restored: false,
                copied: None,
                join_key,
                created,
            };
            draft.create(&id, &device)?;
        }
        NodeId::Gateway(id) => {
            let site = terms.site.ok_or_else(|| Refusal::Failed("the gateway's join key names no site".to_owned()))?;
            let gateway = Gateway {
                id,
                name,
                site,
                key: wish.key,
                next_key: None,
                address,
                svid_key,
                fingerprint: fingerprint.clone(),
                state,
                restored: false,
                copied: None,
                join_key,
                created,
            };
            draft.create(&id, &gateway)?;
        }
        NodeId::Controller => return Err(Refusal::Failed("a controller does not enrol".to_owned())),
    }
    let secret =
        Recovery::of(&organisation.sealer, node, &wish.recovery).map_err(|e| Refusal::Failed(e.to_string()))?;
    draft.create(node.to_string().as_str(), &secret)?;
    let account = terms.account.as_ref().map(|(_, name)| name.clone());
    Ok(Enrolled { node, address, v4, pending, fingerprint, account })
}

/// The name that a machine wishes, or the first free one like it.
fn claim_name(
    directory: &Directory,
    draft: &mut Draft,
    unique: Unique,
    wanted: &Name,
    owner: &str,
) -> Result<Name, Refusal> {
    for number in 1..=LIKE_NAMES_MAX {
        let name = if number == 1 { wanted.clone() } else { wanted.numbered(number) };
        match draft.claim(directory, unique, &name, owner, || format!("the name `{name}`")) {
            Err(Refusal::Taken { .. }) => {}
            other => return other.map(|()| name),
        }
    }
    Err(Refusal::Taken { what: format!("every name like `{wanted}`") })
}

/// The node that a repeated request made before; none if it was revoked since.
fn again(directory: &Directory, key: &PublicKey) -> Option<Enrolled> {
    known(directory, directory.node_of_key(key)?)
}

/// What a node is told that is there already; none if it was revoked.
fn known(directory: &Directory, node: NodeId) -> Option<Enrolled> {
    match node {
        NodeId::Device(id) => {
            let d = &directory.devices.find(&id).filter(|d| d.record.state != NodeState::Revoked)?.record;
            Some(Enrolled {
                node: NodeId::Device(id),
                address: d.address,
                v4: Some(d.v4),
                pending: d.state == NodeState::Pending,
                fingerprint: d.fingerprint.clone(),
                account: d.account.and_then(|id| directory.accounts.find(&id)).map(|a| a.record.name.clone()),
            })
        }
        NodeId::Gateway(id) => {
            let g = &directory.gateways.find(&id).filter(|g| g.record.state != NodeState::Revoked)?.record;
            Some(Enrolled {
                node: NodeId::Gateway(id),
                address: g.address,
                v4: None,
                pending: g.state == NodeState::Pending,
                fingerprint: g.fingerprint.clone(),
                account: None,
            })
        }
        NodeId::Controller => None,
    }
}

#[tonic::async_trait]
impl Enrolment for EnrolmentRpc {
    async fn enroll(&self, request: Request<v1::EnrollRequest>) -> Result<Response<v1::EnrollReply>, Status> {
        let newcomer = request.extensions().get::<Newcomer>().copied().ok_or_else(refusal)?;
        let wish = self.read(&newcomer, request.into_inner())?;
        let enrolled = self.admit(&wish).await?;
        Ok(Response::new(self.welcome(wish.key, &wish.request, enrolled).await?))
    }

    async fn recover(&self, request: Request<v1::RecoverRequest>) -> Result<Response<v1::EnrollReply>, Status> {
        let newcomer = request.extensions().get::<Newcomer>().copied().ok_or_else(refusal)?;
        let wish = self.read_return(&newcomer, request.into_inner())?;
        let change =
            |directory: &Directory, draft: &mut Draft| decide_return(&self.organisation, directory, draft, &wish);
        let (_, enrolled) = self.organisation.change(change).await.map_err(refused)?;
        Ok(Response::new(self.welcome(wish.key, &wish.request, enrolled).await?))
    }
}

#[cfg(test)]
pub(crate) mod tests;
