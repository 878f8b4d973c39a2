//! The service of devices: log-in, catalogue, access.

mod identities;

pub use identities::{identity_wish, token_wish};

use crate::arrange::connect::{Reply, Wish};
use crate::arrange::lines::DeviceNews;
use crate::arrange::{Arrangements, Arranger as _};
use crate::audit::{Denied, Entry, Outcome};
use crate::authn;
use crate::authz::{Caller, refusal};
use crate::directory::{
    Counted, Directory, Fact, Idp, Name, NameError, NodeState, PasswordHash, Proof, Refusal, Resource, Session,
    SuffixName,
};
use crate::judge;
use crate::login::{self, OTHERS_DEVICE};
use crate::organisation::Organisation;
use crate::rate::Act;
use crate::rpc::nodes::caller_of;
use crate::signin::{NotIn, Polled};
use model::grant::CatalogueEntry;
use model::ids::{DeviceId, NodeId, ResourceId, SessionId};
use model::limits::{DATA_KEYS_MAX, LIST_MAX, NAME_MAX, STREAM_QUEUE_MAX, SUFFIX_NAMES_PER_DEVICE_MAX};
use model::net::HostName;
use model::revision::Revision;
use model::secret::Secret;
use model::text::excerpt;
use model::time::WallMs;
use proto::convert::{WireError, bounded, id, millis, public_key, wrong};
use proto::v1;
use proto::v1::connect_reply::Result as Outcomes;
use proto::v1::device_update::What;
use proto::v1::devices_server::Devices;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone)]
pub struct DevicesRpc {
    organisation: Organisation,
    arrangements: Arc<Arrangements>,
}

fn malformed(error: WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn refused(error: Refusal) -> Status {
    match error {
        Refusal::Denied(why) => Status::permission_denied(why),
        Refusal::Often(_) => Status::resource_exhausted(error.to_string()),
        Refusal::Store(_) | Refusal::Busy(_) => Status::unavailable(error.to_string()),
        other => Status::failed_precondition(other.to_string()),
    }
}

fn device_of<T>(request: &Request<T>) -> Result<DeviceId, Status> {
    match caller_of(request)? {
        Caller::Device(id) => Ok(id),
        _ => Err(refusal()),
    }
}

impl DevicesRpc {
    /// Over this organisation.
    pub const fn new(organisation: Organisation, arrangements: Arc<Arrangements>) -> Self {
        Self { organisation, arrangements }
    }

    /// Checks a password, limited, and answers alike for whatever is wrong with it. Answers the hash that it matched.
    async fn check_password(&self, device: DeviceId, name: &str, password: String) -> Result<PasswordHash, Status> {
        let now = self.organisation.clock.now();
        let failures = || self.organisation.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let directory = self.organisation.now();
        let user = directory.user(name);
        let record = directory.devices.find(&device).map(|d| &d.record);
        let (owner, workload) = (record.and_then(|d| d.user), record.is_some_and(|d| d.account.is_some()));
        let elsewhere = workload || owner.is_some_and(|owner| user.is_none_or(|user| user.record.id != owner));
        let allowed =
            if elsewhere { failures().attempt_elsewhere(now, device) } else { failures().attempt(now, name, device) };
        if let Err(wait) = allowed {
            self.deny_login(device, name, "too many failed log-ins").await;
            let minutes = wait.as_secs().div_ceil(60);
            return Err(Status::resource_exhausted(format!("too many failed log-ins; wait {minutes} min")));
        }
        if elsewhere {
            // Whatever the password is: so nobody learns there whether it is right.
            let (reason, told) = match workload {
                true => ("the device is a workload's", judge::Standing::Workload.to_string()),
                false => ("the device belongs to another user", OTHERS_DEVICE.to_owned()),
            };
            self.deny_login(device, name, reason).await;
            return Err(Status::permission_denied(told));
        }
        let stored = user.filter(|u| !u.record.disabled).and_then(|u| u.record.password.clone());
        let matches = authn::verify(Secret::new(password), stored.as_ref()).await;
        if let Some(hash) = stored.filter(|_| matches) {
            failures().passed(name, device);
            return Ok(hash);
        }
        self.deny_login(device, name, "wrong user or password").await;
        Err(Status::unauthenticated("wrong user name or password"))
    }

    /// Counts a refused log-in; equal ones become one record.
    async fn deny_login(&self, device: DeviceId, name: &str, reason: &str) {
        let object = name.to_owned();
        let (actor, action, reason) = (device.to_string(), "login".to_owned(), reason.to_owned());
        self.arrangements.record_deny(Denied { actor, action, object, reason }).await;
    }

    async fn open_session(&self, device: DeviceId, name: &str, hash: &PasswordHash) -> Result<Session, Status> {
        let fresh = SessionId::from_bytes(host::entropy::random().map_err(|e| Status::internal(e.to_string()))?);
        let changed = self.organisation.change(|directory, draft| {
            let wall = self.organisation.wall();
            // The very password that was checked: a change of it in between is not overlooked.
            let user = directory.user(name).filter(|u| !u.record.disabled && u.record.password.as_ref() == Some(hash));
            let user = user.ok_or_else(|| Refusal::Denied("wrong user name or password".to_owned()))?;
            draft.stands_on(user);
            let session = login::open(directory, draft, &self.organisation, fresh, user.record.id, device)?;
            let entry =
                Entry::new(wall, name, "login", device.to_string(), Outcome::Done).with("session", fresh.to_string());
            Ok((session, entry))
        });
        changed.await.map(|(_, session)| session).map_err(refused)
    }

    fn signed_in(&self, session: &Session, user: String) -> v1::SignInReply {
        let ends_in_ms = millis(session.ends.since(self.organisation.wall()));
        v1::SignInReply { session: session.id.to_string(), user, ends_in_ms, wait_ms: 0 }
    }

    /// Writes the details of a sign-in that came to nothing into the trail; its person gets the reason.
    async fn told<T>(&self, device: DeviceId, about: &str, done: Result<T, NotIn>) -> Result<T, Status> {
        match done {
            Ok(done) => Ok(done),
            Err(NotIn { refusal, detail }) => {
                let about = excerpt(about, NAME_MAX);
                self.deny_login(device, &about, &detail).await;
                Err(refused(refusal))
            }
        }
    }

    /// An address for a name below a suffix, kept from its first query on. What is held already costs nothing.
    async fn assign(&self, device: DeviceId, name: &HostName) -> Result<(ResourceId, u32), Refusal> {
        let held = |directory: &Directory| named(directory, device, name, self.organisation.wall());
        if let (resource, Some(number)) = held(&self.organisation.now())? {
            return Ok((resource, number));
        }
        self.organisation.take_turn(Act::Name, NodeId::Device(device))?;
        let changed = self.organisation.change(|directory, draft| {
            let (id, number) = held(directory)?;
            let entry = Entry::new(
                self.organisation.wall(),
                device.to_string(),
                "name.assign",
                name.to_string(),
                Outcome::Done,
            );
            if let Some(number) = number {
                return Ok(((id, number), entry));
            }
            let resource = directory.resources.find(&id).ok_or_else(no_such_name)?;
            check_room(directory, &resource.record, device)?;
            draft.stands_on(resource);
            let number = draft.number(directory, Counted::Virtual, resource.key.as_str())?;
            let made = SuffixName { resource: id, name: name.clone(), number, by: Some(device) };
            draft.create(&*SuffixName::id(id, name), &made)?;
            Ok(((id, number), entry))
        });
        changed.await.map(|(_, assigned)| assigned)
    }
}

fn no_such_name() -> Refusal {
    Refusal::Denied("there is no such name".to_owned())
}

/// The resource of a name that the asker at this device may see, and the number of the name's addresses, if it has any.
fn named(
    directory: &Directory,
    device: DeviceId,
    name: &HostName,
    now: WallMs,
) -> Result<(ResourceId, Option<u32>), Refusal> {
    let asker = judge::asker(directory, device, now).map_err(|e| Refusal::Denied(e.to_string()))?;
    let resource = &directory.resource_of_host(name).ok_or_else(no_such_name)?.record;
    if !judge::sees(directory, &asker, resource, now) {
        return Err(no_such_name());
    }
    let below = || directory.names_below(resource).into_iter().find(|held| held.record.name == *name);
    let number = resource.hosts.get(name).copied().or_else(|| below().map(|held| held.record.number));
    Ok((resource.id, number))
}

/// One more name than a grant of the resource takes would end the grants of everybody; and one device must not use up what
/// is there for all.
fn check_room(directory: &Directory, resource: &Resource, device: DeviceId) -> Result<(), Refusal> {
    let (names, room) = (directory.names_below(resource), resource.names_below_max());
    if names.len() >= room {
        return Err(Refusal::InUse(format!(
            "{room} names below the suffixes of `{}` have addresses, and no more fit into a grant of it: ask an \
             administrator to split it, or to delete it and add it again",
            resource.name
        )));
    }
    let its = |name: &&Fact<SuffixName>| name.record.by == Some(device);
    let most = room.div_ceil(2);
    if names.into_iter().filter(its).count() >= most {
        return Err(Refusal::InUse(format!(
            "this device has made {most} names below the suffixes of `{}`, half of all: the rest is for others",
            resource.name
        )));
    }
    if directory.suffix_names.values().filter(its).count() >= SUFFIX_NAMES_PER_DEVICE_MAX {
        return Err(Refusal::InUse(format!(
            "this device has made {SUFFIX_NAMES_PER_DEVICE_MAX} names below suffixes, as many as one may"
        )));
    }
    Ok(())
}

/// What one device was last told.
#[derive(Default)]
struct Told {
    revision: Revision,
    session: Option<Standing>,
    pending: bool,
    entries: BTreeMap<ResourceId, CatalogueEntry>,
}

/// A log-in, as far as a device is told when it changes.
type Standing = (SessionId, Option<Proof>);

/// What it is to know now.
struct Outlook {
    session: Option<v1::SessionState>,
    standing: Option<Standing>,
    pending: bool,
    entries: BTreeMap<ResourceId, CatalogueEntry>,
}

impl DevicesRpc {
    fn outlook(&self, directory: &Directory, device: DeviceId) -> Outlook {
        let wall = self.organisation.wall();
        let pending = directory.devices.find(&device).is_some_and(|d| d.record.state == NodeState::Pending);
        let Ok(asker) = judge::asker(directory, device, wall) else {
            return Outlook { session: None, standing: None, pending, entries: BTreeMap::new() };
        };
        let factor = match &asker {
            judge::Asker::Person(subject) => subject.session.record.factor,
            judge::Asker::Workload { .. } => None,
        };
        let state = v1::SessionState {
            id: asker.session().to_string(),
            user: asker.name().as_str().to_owned(),
            ends_in_ms: millis(asker.ends().since(wall)),
            factor: factor.map(|proof| v1::FactorProof {
                method: proof.method.to_string(),
                age_ms: millis(wall.since(proof.at)),
            }),
            workload: asker.is_workload(),
        };
        let entries = judge::catalogue(directory, &asker, &self.arrangements.reach(), wall);
        let entries = entries.into_iter().map(|e| (e.id, e)).collect();
        Outlook { session: Some(state), standing: Some((asker.session(), factor)), pending, entries }
    }

    async fn snapshot(&self, directory: &Directory, device: DeviceId, told: &mut Told) -> v1::DeviceUpdate {
        let outlook = self.outlook(directory, device);
        let grants = self.arrangements.grants_of(device).await;
        *told = Told {
            revision: directory.revision,
            session: outlook.standing,
            pending: outlook.pending,
            entries: outlook.entries.clone(),
        };
        let snapshot = v1::DeviceSnapshot {
            session: outlook.session,
            resources: outlook.entries.into_values().map(Into::into).collect(),
            grants: grants.iter().map(ToString::to_string).collect(),
            pending: outlook.pending,
            private_zones: directory
                .org
                .iter()
                .flat_map(|o| &o.record.private_zones)
                .map(ToString::to_string)
                .collect(),
        };
        v1::DeviceUpdate { revision: Some(directory.revision.into()), what: Some(What::Snapshot(snapshot)) }
    }

    /// What changed since the device was last told; none when nothing did.
    async fn delta(&self, directory: &Directory, device: DeviceId, told: &mut Told) -> Option<v1::DeviceUpdate> {
        let outlook = self.outlook(directory, device);
        if outlook.standing != told.session || outlook.pending != told.pending {
            return Some(self.snapshot(directory, device, told).await);
        }
        if outlook.entries == told.entries {
            return None;
        }
        let upserts = outlook.entries.iter().filter(|(id, e)| told.entries.get(id) != Some(e));
        let removals = told.entries.keys().filter(|id| !outlook.entries.contains_key(id));
        let delta = v1::DeviceDelta {
            from: Some(told.revision.into()),
            session: outlook.session,
            upserts: upserts.map(|(_, e)| e.clone().into()).collect(),
            removals: removals.map(ToString::to_string).collect(),
        };
        told.revision = directory.revision;
        told.entries = outlook.entries;
        Some(v1::DeviceUpdate { revision: Some(directory.revision.into()), what: Some(What::Delta(delta)) })
    }

    async fn tell(
        self,
        device: DeviceId,
        mut news: mpsc::Receiver<DeviceNews>,
        updates: mpsc::Sender<Result<v1::DeviceUpdate, Status>>,
    ) {
        let mut told = Told::default();
        let first = self.snapshot(&self.organisation.now(), device, &mut told).await;
        if updates.send(Ok(first)).await.is_err() {
            return;
        }
        while let Some(news) = news.recv().await {
            let directory = self.organisation.now();
            let update = match news {
                DeviceNews::Look => self.delta(&directory, device, &mut told).await,
                DeviceNews::Ended { grant, resource, ending } => {
                    let ended = v1::GrantEnded {
                        grant: grant.to_string(),
                        resource: resource.to_string(),
                        ending: v1::GrantEnding::from(ending).into(),
                    };
                    Some(v1::DeviceUpdate { revision: Some(told.revision.into()), what: Some(What::GrantEnded(ended)) })
                }
                DeviceNews::Renewed { grant, ends_in } => {
                    let renewed = v1::GrantRenewed { grant: grant.to_string(), ends_in_ms: millis(ends_in) };
                    Some(v1::DeviceUpdate {
                        revision: Some(told.revision.into()),
                        what: Some(What::GrantRenewed(renewed)),
                    })
                }
            };
            if let Some(update) = update
                && updates.send(Ok(update)).await.is_err()
            {
                return;
            }
        }
    }
}

type Updates = Pin<Box<dyn Stream<Item = Result<v1::DeviceUpdate, Status>> + Send>>;

#[tonic::async_trait]
impl Devices for DevicesRpc {
    type WatchStream = Updates;

    async fn login(&self, request: Request<v1::LoginRequest>) -> Result<Response<v1::LoginReply>, Status> {
        let device = device_of(&request)?;
        let v1::LoginRequest { user, password } = request.into_inner();
        // What can be nobody's name is neither counted nor kept.
        let user: Name = user.parse().map_err(|e: NameError| Status::invalid_argument(e.to_string()))?;
        let user = user.as_str();
        let hash = self.check_password(device, user, password).await?;
        let session = self.open_session(device, user, &hash).await?;
        let ends_in_ms = millis(session.ends.since(self.organisation.wall()));
        Ok(Response::new(v1::LoginReply { session: session.id.to_string(), ends_in_ms }))
    }

    async fn list_providers(
        &self,
        request: Request<v1::ListProvidersRequest>,
    ) -> Result<Response<v1::ListProvidersReply>, Status> {
        device_of(&request)?;
        let directory = self.organisation.now();
        let provider = |idp: &Fact<Idp>| v1::Provider {
            name: idp.record.name.to_string(),
            redirect_host: idp.record.redirect.host.clone(),
            redirect_port: idp.record.redirect.port.unwrap_or_default().into(),
            device_code: idp.record.device_code,
        };
        Ok(Response::new(v1::ListProvidersReply { providers: directory.idps.values().map(provider).collect() }))
    }

    async fn begin_sign_in(
        &self,
        request: Request<v1::BeginSignInRequest>,
    ) -> Result<Response<v1::BeginSignInReply>, Status> {
        let device = device_of(&request)?;
        let v1::BeginSignInRequest { provider, port } = request.into_inner();
        let port = u16::try_from(port).map_err(|_| Status::invalid_argument("a port is 1 to 65535"))?;
        let begun = self.organisation.begin_sign_in(device, &provider, port).await;
        let begun = self.told(device, &provider, begun).await?;
        let state = begun.state.expose().clone();
        Ok(Response::new(v1::BeginSignInReply { id: begun.id.to_string(), url: begun.url, state }))
    }

    async fn finish_sign_in(
        &self,
        request: Request<v1::FinishSignInRequest>,
    ) -> Result<Response<v1::SignInReply>, Status> {
        let device = device_of(&request)?;
        let v1::FinishSignInRequest { id: begun, code, state, iss } = request.into_inner();
        let begun = id("id", &begun).map_err(malformed)?;
        let done = self.organisation.finish_sign_in(device, begun, Secret::new(code), &state, iss.as_deref()).await;
        let (session, user) = self.told(device, "sign-in", done).await?;
        Ok(Response::new(self.signed_in(&session, user)))
    }

    async fn begin_code_sign_in(
        &self,
        request: Request<v1::BeginCodeSignInRequest>,
    ) -> Result<Response<v1::BeginCodeSignInReply>, Status> {
        let device = device_of(&request)?;
        let provider = request.into_inner().provider;
        let begun = self.organisation.begin_code_sign_in(device, &provider).await;
        let begun = self.told(device, &provider, begun).await?;
        Ok(Response::new(v1::BeginCodeSignInReply {
            id: begun.id.to_string(),
            user_code: begun.user_code,
            uri: begun.uri,
            complete_uri: begun.complete_uri.unwrap_or_default(),
            interval_ms: millis(begun.interval),
            ends_in_ms: millis(begun.ends_in),
        }))
    }

    async fn poll_sign_in(&self, request: Request<v1::PollSignInRequest>) -> Result<Response<v1::SignInReply>, Status> {
        let device = device_of(&request)?;
        let begun = id("id", &request.into_inner().id).map_err(malformed)?;
        let polled = self.organisation.poll_sign_in(device, begun).await;
        Ok(Response::new(match self.told(device, "sign-in", polled).await? {
            Polled::Pending(wait) => v1::SignInReply { wait_ms: millis(wait), ..Default::default() },
            Polled::Done(session, user) => self.signed_in(&session, user),
        }))
    }

    async fn logout(&self, request: Request<v1::LogoutRequest>) -> Result<Response<v1::LogoutReply>, Status> {
        let device = device_of(&request)?;
        let wall = self.organisation.wall();
        let known = self.organisation.now();
        if known.devices.find(&device).is_some_and(|d| d.record.account.is_some()) {
            return Err(Status::failed_precondition(
                "this machine joined as a service account and has no log-in: `umbra down` disconnects it",
            ));
        }
        if judge::session_of(&self.organisation.now(), device, wall).is_some() {
            let changed = self.organisation.change(|directory, draft| {
                for session in directory.sessions.values().filter(|s| s.record.device == device && !s.record.ended) {
                    let mut ended = session.record.clone();
                    ended.ended = true;
                    draft.update(session, &ended)?;
                }
                Ok(((), Entry::new(wall, device.to_string(), "logout", device.to_string(), Outcome::Done)))
            });
            let (revision, ()) = changed.await.map_err(refused)?;
            // Whoever logs out and leaves the machine wants access to be over, not soon to be.
            self.arrangements.settled(revision).await;
        }
        Ok(Response::new(v1::LogoutReply {}))
    }

    async fn watch(&self, request: Request<v1::DeviceWatchRequest>) -> Result<Response<Updates>, Status> {
        let device = device_of(&request)?;
        let seen: Revision = request.get_ref().seen.map(Into::into).unwrap_or_default();
        if seen > self.organisation.store.revision() {
            let why =
                "this controller's state is older than what the device has seen: an old copy or backup is running";
            return Err(Status::failed_precondition(why));
        }
        let known = self.organisation.now();
        if known.devices.find(&device).is_none_or(|d| d.record.state == NodeState::Revoked) {
            return Err(Status::permission_denied(judge::Standing::Device.to_string()));
        }
        let (news, news_in) = mpsc::channel(STREAM_QUEUE_MAX);
        let (updates, updates_in) = mpsc::channel(4);
        let stream = self.arrangements.lines.open_device(device, news);
        let (service, arrangements) = (self.clone(), Arc::clone(&self.arrangements));
        tokio::spawn(async move {
            service.tell(device, news_in, updates).await;
            arrangements.lines.close_device(device, stream);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(updates_in))))
    }

    async fn connect(&self, request: Request<v1::ConnectRequest>) -> Result<Response<v1::ConnectReply>, Status> {
        let device = device_of(&request)?;
        let wish = wish(device, request.into_inner()).map_err(malformed)?;
        let reply = self.arrangements.connect(&wish).await;
        Ok(Response::new(v1::ConnectReply { result: Some(write(reply)) }))
    }

    async fn disconnect(
        &self,
        request: Request<v1::DisconnectRequest>,
    ) -> Result<Response<v1::DisconnectReply>, Status> {
        let device = device_of(&request)?;
        let grant = id("grant", &request.into_inner().grant).map_err(malformed)?;
        self.arrangements.give_back(device, grant).await;
        Ok(Response::new(v1::DisconnectReply {}))
    }

    async fn name_address(
        &self,
        request: Request<v1::NameAddressRequest>,
    ) -> Result<Response<v1::NameAddressReply>, Status> {
        let device = device_of(&request)?;
        let name: HostName = request.into_inner().name.parse().map_err(|e| Status::invalid_argument(format!("{e}")))?;
        let (resource, number) = self.assign(device, &name).await.map_err(refused)?;
        let directory = self.organisation.now();
        let fact = directory.resources.find(&resource).ok_or_else(|| Status::not_found("there is no such name"))?;
        let org = self.organisation.org().map_err(refused)?;
        let address = judge::host_address(&org.pool, fact.record.site, &name, number, &self.arrangements.reach());
        let reply = v1::NameAddressReply { resource: resource.to_string(), address: Some(address.into()) };
        Ok(Response::new(reply))
    }

    async fn list_factors(
        &self,
        request: Request<v1::ListFactorsRequest>,
    ) -> Result<Response<v1::ListFactorsReply>, Status> {
        self.factors(device_of(&request)?).map(Response::new)
    }

    async fn begin_totp(&self, request: Request<v1::BeginTotpRequest>) -> Result<Response<v1::BeginTotpReply>, Status> {
        let device = device_of(&request)?;
        let name: Name =
            request.into_inner().name.parse().map_err(|e: NameError| Status::invalid_argument(e.to_string()))?;
        let begun = self.organisation.begin_totp(device, &name).await.map_err(refused)?;
        let (secret, uri) = (begun.secret.expose().clone(), begun.uri.expose().clone());
        Ok(Response::new(v1::BeginTotpReply { id: begun.id.to_string(), secret, uri }))
    }

    async fn confirm_totp(
        &self,
        request: Request<v1::ConfirmTotpRequest>,
    ) -> Result<Response<v1::RecoveryCodes>, Status> {
        let device = device_of(&request)?;
        let v1::ConfirmTotpRequest { id: factor, code } = request.into_inner();
        let (factor, code) = (id("id", &factor).map_err(malformed)?, Secret::new(code));
        let codes = self.organisation.confirm_totp(device, factor, code).await.map_err(refused)?;
        Ok(Response::new(shown(&codes)))
    }

    async fn verify_factor(
        &self,
        request: Request<v1::VerifyFactorRequest>,
    ) -> Result<Response<v1::VerifyFactorReply>, Status> {
        let device = device_of(&request)?;
        let code = Secret::new(request.into_inner().code);
        let (_, proof) = self.organisation.verify_factor(device, code).await.map_err(refused)?;
        Ok(Response::new(v1::VerifyFactorReply { method: proof.method.to_string() }))
    }

    async fn remove_factor(
        &self,
        request: Request<v1::RemoveFactorRequest>,
    ) -> Result<Response<v1::RemoveFactorReply>, Status> {
        let device = device_of(&request)?;
        let revision = self.organisation.remove_factor(device, &request.into_inner().factor).await.map_err(refused)?;
        self.arrangements.settled(revision).await;
        Ok(Response::new(v1::RemoveFactorReply {}))
    }

    async fn renew_recovery_codes(
        &self,
        request: Request<v1::RenewRecoveryCodesRequest>,
    ) -> Result<Response<v1::RecoveryCodes>, Status> {
        let device = device_of(&request)?;
        let codes = self.organisation.renew_recovery(device).await.map_err(refused)?;
        Ok(Response::new(shown(&codes)))
    }

    async fn begin_passkey(
        &self,
        request: Request<v1::BeginPasskeyRequest>,
    ) -> Result<Response<v1::PasskeyQuestion>, Status> {
        let device = device_of(&request)?;
        let v1::BeginPasskeyRequest { name, port } = request.into_inner();
        let name: Name = name.parse().map_err(|e: NameError| Status::invalid_argument(e.to_string()))?;
        let port = page_port(port).map_err(malformed)?;
        let options = self.organisation.begin_passkey(device, &name, port).map_err(refused)?;
        Ok(Response::new(v1::PasskeyQuestion { options: options.to_string().into_bytes() }))
    }

    async fn confirm_passkey(
        &self,
        request: Request<v1::PasskeyAnswer>,
    ) -> Result<Response<v1::RecoveryCodes>, Status> {
        let device = device_of(&request)?;
        let answer = request.into_inner().answer;
        let codes = self.organisation.confirm_passkey(device, &answer).await.map_err(refused)?;
        Ok(Response::new(shown(&codes)))
    }

    async fn ask_passkey(
        &self,
        request: Request<v1::AskPasskeyRequest>,
    ) -> Result<Response<v1::PasskeyQuestion>, Status> {
        let device = device_of(&request)?;
        let (resource, port) = passkey_wish(&request.into_inner()).map_err(malformed)?;
        let options = self.organisation.ask_passkey(device, resource, port).map_err(refused)?;
        Ok(Response::new(v1::PasskeyQuestion { options: options.to_string().into_bytes() }))
    }

    async fn verify_passkey(
        &self,
        request: Request<v1::PasskeyAnswer>,
    ) -> Result<Response<v1::VerifyFactorReply>, Status> {
        let device = device_of(&request)?;
        let answer = request.into_inner().answer;
        let (_, proof) = self.organisation.verify_passkey(device, &answer).await.map_err(refused)?;
        Ok(Response::new(v1::VerifyFactorReply { method: proof.method.to_string() }))
    }

    async fn list_identities(
        &self,
        request: Request<v1::ListIdentitiesRequest>,
    ) -> Result<Response<v1::ListIdentitiesReply>, Status> {
        self.tell_identities(device_of(&request)?).await.map(Response::new)
    }

    async fn sign_identity(
        &self,
        request: Request<v1::SignIdentityRequest>,
    ) -> Result<Response<v1::SignIdentityReply>, Status> {
        let device = device_of(&request)?;
        self.make_identity(device, request.into_inner()).await.map(Response::new)
    }

    async fn sign_token(&self, request: Request<v1::SignTokenRequest>) -> Result<Response<v1::SignTokenReply>, Status> {
        let device = device_of(&request)?;
        self.make_token(device, request.into_inner()).await.map(Response::new)
    }
}

/// The port of a page on a device's loopback.
pub fn page_port(port: u32) -> Result<u16, WireError> {
    u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| wrong("port", "is no port"))
}

/// Checks a question for a passkey: for which resource, and where its page is.
pub fn passkey_wish(request: &v1::AskPasskeyRequest) -> Result<(Option<ResourceId>, u16), WireError> {
    let resource = (!request.resource.is_empty()).then(|| id("resource", &request.resource)).transpose()?;
    Ok((resource, page_port(request.port)?))
}

fn shown(codes: &[Secret<String>]) -> v1::RecoveryCodes {
    v1::RecoveryCodes { codes: codes.iter().map(|code| code.expose().clone()).collect() }
}

impl DevicesRpc {
    /// What the user at this device has.
    fn factors(&self, device: DeviceId) -> Result<v1::ListFactorsReply, Status> {
        let (directory, now) = (self.organisation.now(), self.organisation.wall());
        let subject = judge::subject(&directory, device, now).map_err(|e| Status::permission_denied(e.to_string()))?;
        let held = crate::factors::of(&directory, subject.user.record.id);
        let factors = held.confirmed().map(|factor| v1::Factor {
            id: factor.id.to_string(),
            name: factor.name.to_string(),
            method: factor.method.to_string(),
            age_ms: millis(now.since(factor.created)),
            used_ms_ago: factor.used.map(|at| millis(now.since(at))),
        });
        Ok(v1::ListFactorsReply {
            factors: factors.collect(),
            recovery_codes: u32::try_from(held.recovery.len()).unwrap_or(u32::MAX),
            locked_ms: held.wait(now).map_or(0, millis),
        })
    }
}

/// Checks a request for access.
pub fn wish(device: DeviceId, request: v1::ConnectRequest) -> Result<Wish, WireError> {
    let held = bounded("pairings", request.pairings, DATA_KEYS_MAX)?;
    let avoid = bounded("avoid_gateways", request.avoid_gateways, LIST_MAX)?;
    Ok(Wish {
        device,
        resource: id("resource", &request.resource)?,
        data_key: public_key("data_key", &request.data_key)?,
        held: held.iter().map(|p| id("pairings", p)).collect::<Result<_, _>>()?,
        avoid: avoid.iter().map(|g| id("avoid_gateways", g)).collect::<Result<_, _>>()?,
        moves: Some(request.moves).filter(|grant| !grant.is_empty()).map(|grant| id("moves", &grant)).transpose()?,
    })
}

fn write(reply: Reply) -> Outcomes {
    match reply {
        Reply::Permit { grant, pairing, offer, rules, ends_in } => Outcomes::Permit(v1::Permit {
            grant: grant.to_string(),
            pairing: pairing.to_string(),
            offer: offer.map(|o| v1::Offer {
                gateway: o.gateway.to_string(),
                gateway_key: o.gateway_key.0.to_vec(),
                endpoints: o.endpoints.into_iter().map(Into::into).collect(),
                psk: o.psk.expose().to_vec(),
            }),
            rules: rules
                .into_iter()
                .map(|r| v1::ClientRule {
                    client: Some(r.client.into()),
                    protocol: v1::Protocol::from(r.protocol).into(),
                    ports: Some(r.ports.into()),
                })
                .collect(),
            ends_in_ms: millis(ends_in),
        }),
        Reply::Deny { reasons, retry_after, passing, step_up } => Outcomes::Deny(v1::Deny {
            reasons,
            retry_after_ms: millis(retry_after),
            passing,
            step_up: step_up.iter().map(ToString::to_string).collect(),
        }),
    }
}

#[cfg(test)]
mod tests;
