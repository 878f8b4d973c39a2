//! Who is this program, and with what does it prove it? The SPIFFE Workload API on a Unix socket: programs on a workload's
//! machine get the identities that an administrator registered for their user and group.
//!
//! | file | question |
//! |---|---|
//! | `authority` | how is this socket called? |
//! | `callers` | who asks, and how many connections may one user have? |
//! | `keeper` | when is the controller asked, and when are certificates made anew? |
//! | `shelf` | which certificates are held, and which are to be made? |
//! | `token` | is a token one of this organisation's, and good now? |
//! | `turns` | how many tokens may the programs of one user have signed? |
//!
//! The socket is there only while this machine is up and a workload. Nobody proves anything to it: the kernel names the
//! program's user and group. Private keys are in memory alone.

mod authority;
mod callers;
mod keeper;
mod shelf;
pub mod token;
mod turns;

pub use keeper::{Parts, run};

use crate::rpc::{self, Named};
use callers::Caller;
use model::limits::{ADMIN_CALL_MAX, RPC_STREAMS_MAX, WORKLOAD_TOKEN_MAX};
use model::time::Clock;
use node::Link;
use proto::spiffe as wire;
use proto::spiffe::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use shelf::Shown;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use turns::Turns;

/// What every call carries, so that no browser or proxy makes one by mistake (SPIFFE Workload Endpoint, section 4).
const HEADER: &str = "workload.spiffe.io";
/// Bytes of a message from a program: a token and a little.
const MESSAGE_MAX: usize = WORKLOAD_TOKEN_MAX + 4_096;

/// What programs can be given.
#[derive(Debug, Clone)]
pub enum Word {
    /// The controller has not said yet.
    NotYet,
    /// Nothing: it takes no part any more.
    Nothing,
    /// This.
    Shown(Arc<Shown>),
}

/// The service.
pub struct Api {
    words: watch::Receiver<Word>,
    link: Arc<Link>,
    clock: Arc<dyn Clock>,
    turns: Mutex<Turns>,
}

/// Refuses calls that lack the header.
#[allow(clippy::result_large_err)] // tonic's own shape
fn check(request: Request<()>) -> Result<Request<()>, Status> {
    match request.metadata().get_all(HEADER).iter().collect::<Vec<_>>().as_slice() {
        [one] if *one == "true" => Ok(request),
        _ => Err(Status::invalid_argument(format!("security header missing: send `{HEADER}: true`"))),
    }
}

fn nobody() -> Status {
    Status::permission_denied("no identity issued: no registration means this program's user and group")
}

#[allow(clippy::result_large_err)] // tonic's own shape
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().cloned().ok_or_else(nobody)
}

/// What is there for this program: its names, at least one.
#[allow(clippy::result_large_err)] // tonic's own shape
fn meant(word: &Word, caller: &Caller) -> Result<(Arc<Shown>, Vec<Named>), Status> {
    let shown = match word {
        Word::NotYet => return Err(Status::unavailable("the client has not heard from the controller yet: try again")),
        Word::Nothing => return Err(nobody()),
        Word::Shown(shown) => Arc::clone(shown),
    };
    let of = |one: &&Named| one.means(caller.uid, caller.gid);
    let named: Vec<Named> = shown.told.named.iter().filter(of).cloned().collect();
    if named.is_empty() { Err(nobody()) } else { Ok((shown, named)) }
}

#[allow(clippy::result_large_err)] // tonic's own shape
fn x509_svids(word: &Word, caller: &Caller) -> Result<wire::X509svidResponse, Status> {
    let (shown, named) = meant(word, caller)?;
    let svid = |one: Named| {
        let held = shown.svids.get(&one.registration)?;
        Some(wire::X509svid {
            spiffe_id: one.spiffe.to_string(),
            x509_svid: held.chain.clone(),
            x509_svid_key: held.key.expose().clone(),
            bundle: shown.told.bundle.clone(),
            hint: String::new(),
        })
    };
    let svids: Vec<_> = named.into_iter().filter_map(svid).collect();
    if svids.is_empty() {
        return Err(Status::unavailable("the certificate is not there yet, or has ended: try again"));
    }
    Ok(wire::X509svidResponse { svids, ..Default::default() })
}

/// The name under which a trust domain's bundle is given.
fn domain_id(shown: &Shown) -> String {
    format!("spiffe://{}", shown.told.trust_domain)
}

#[allow(clippy::result_large_err)] // tonic's own shape
fn x509_bundles(word: &Word, caller: &Caller) -> Result<wire::X509BundlesResponse, Status> {
    let (shown, _) = meant(word, caller)?;
    let bundles = HashMap::from([(domain_id(&shown), shown.told.bundle.clone())]);
    Ok(wire::X509BundlesResponse { crl: Vec::new(), bundles })
}

#[allow(clippy::result_large_err)] // tonic's own shape
fn jwt_bundles(word: &Word, caller: &Caller) -> Result<wire::JwtBundlesResponse, Status> {
    let (shown, _) = meant(word, caller)?;
    let bundles = HashMap::from([(domain_id(&shown), shown.told.token_bundle.clone().into_bytes())]);
    Ok(wire::JwtBundlesResponse { bundles })
}

type Answers<T> = ReceiverStream<Result<T, Status>>;

/// What a program watches: the state at once, each other state as it comes, and a refusal as the end.
fn stream<T: PartialEq + Clone + Send + Sync + 'static>(
    mut words: watch::Receiver<Word>,
    caller: Caller,
    make: fn(&Word, &Caller) -> Result<T, Status>,
) -> Answers<T> {
    let (answers, stream) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut last = None;
        loop {
            let next = make(&words.borrow_and_update(), &caller);
            let ended = next.is_err();
            if let Ok(state) = &next {
                if last.as_ref() == Some(state) {
                    tokio::select! {
                        changed = words.changed() => if changed.is_err() { return },
                        () = answers.closed() => return,
                    }
                    continue;
                }
                last = Some(state.clone());
            }
            if answers.send(next).await.is_err() || ended {
                return;
            }
        }
    });
    ReceiverStream::new(stream)
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Api {
    type FetchX509SVIDStream = Answers<wire::X509svidResponse>;
    type FetchX509BundlesStream = Answers<wire::X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<wire::JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<wire::X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        Ok(Response::new(stream(self.words.clone(), caller(&request)?, x509_svids)))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<wire::X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Ok(Response::new(stream(self.words.clone(), caller(&request)?, x509_bundles)))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<wire::JwtsvidRequest>,
    ) -> Result<Response<wire::JwtsvidResponse>, Status> {
        let caller = caller(&request)?;
        let wire::JwtsvidRequest { audience, spiffe_id } = request.into_inner();
        if audience.is_empty() || audience.iter().any(String::is_empty) {
            return Err(Status::invalid_argument("a token is for somebody: name at least one audience"));
        }
        let (_, mut named) = meant(&self.words.borrow(), &caller)?;
        if !spiffe_id.is_empty() {
            named.retain(|one| one.spiffe.as_str() == spiffe_id);
            if named.is_empty() {
                return Err(nobody());
            }
        }
        let now = self.clock.now();
        if !self.turns.lock().unwrap_or_else(PoisonError::into_inner).take(now, caller.uid, named.len()) {
            return Err(Status::resource_exhausted("too many tokens were asked for: try again in a minute"));
        }
        let channel = self.link.channel().map_err(Status::unavailable)?;
        let mut svids = Vec::with_capacity(named.len());
        for one in named {
            let token = rpc::sign_token(channel.clone(), one.registration, audience.clone()).await?;
            let svid = token.expose().clone();
            svids.push(wire::Jwtsvid { spiffe_id: one.spiffe.to_string(), svid, hint: String::new() });
        }
        Ok(Response::new(wire::JwtsvidResponse { svids }))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<wire::JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Ok(Response::new(stream(self.words.clone(), caller(&request)?, jwt_bundles)))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<wire::ValidateJwtsvidRequest>,
    ) -> Result<Response<wire::ValidateJwtsvidResponse>, Status> {
        let (shown, _) = meant(&self.words.borrow(), &caller(&request)?)?;
        let wire::ValidateJwtsvidRequest { audience, svid } = request.into_inner();
        let told = &shown.told;
        let valid = token::validate(&svid, &audience, &told.token_bundle, &told.trust_domain, self.clock.wall());
        let (id, claims) =
            valid.map_err(|error| Status::invalid_argument(format!("the token is not valid: {error}")))?;
        let claims = Some(token::claims(claims));
        Ok(Response::new(wire::ValidateJwtsvidResponse { spiffe_id: id.to_string(), claims }))
    }
}

/// Serves programs for as long as the future lives.
async fn serve(listener: host::local::LocalListener, api: Api) -> Result<(), tonic::transport::Error> {
    let callers = Arc::new(callers::Callers::default());
    let places = model::limits::WORKLOAD_CONNECTIONS_MAX;
    let (accepting, incoming) = node::local::accept_some(listener, places, move |peer| callers.admit(peer));
    let incoming = incoming.map(|one| one.map(authority::Called::new));
    let service = SpiffeWorkloadApiServer::new(api).max_decoding_message_size(MESSAGE_MAX);
    let service = tonic::service::interceptor::InterceptedService::new(service, check);
    let serving = tonic::transport::Server::builder()
        .max_concurrent_streams(RPC_STREAMS_MAX)
        .http2_max_header_list_size(16 << 10)
        .timeout(ADMIN_CALL_MAX)
        .add_service(service)
        .serve_with_incoming(incoming);
    tokio::select! {
        () = accepting => Ok(()),
        result = serving => result,
    }
}

#[cfg(test)]
mod tests;
