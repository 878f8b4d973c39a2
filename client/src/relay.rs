//! How does an administrator's command on this machine reach the controller? Through the daemon, which hands calls of the one
//! service of administrators on over its control connection, their bytes untouched. Who may call what, the controller says:
//! here it is only looked at who may give this daemon orders, how large a message is, and how many there are at once.

use crate::agent::Order;
use crate::daemon::Front;
use crate::local::denied;
use bytes::Bytes;
use http::{Extensions, HeaderMap, Request, Response, header};
use http_body_util::{BodyExt as _, Collected, LengthLimitError, Limited};
use model::limits::{ADMIN_CALL_MAX, ADMIN_RELAYS_MAX, RPC_MESSAGE_MAX};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{Semaphore, oneshot, watch};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::Channel;
use tower::{Service, ServiceExt as _};

/// The service whose calls are handed on.
const SERVICE: &str = "umbra.admin.v1.Admin";
/// Bytes in front of a gRPC message.
const GRPC_PREFIX: usize = 5;
/// Largest name of a call, bytes.
const METHOD_MAX: usize = 64;

/// Hands calls on.
#[derive(Clone)]
pub struct Relay {
    front: watch::Receiver<Front>,
    /// May the other end of the connection give orders?
    is_allowed: fn(&Extensions) -> bool,
    places: Arc<Semaphore>,
}

impl NamedService for Relay {
    const NAME: &'static str = SERVICE;
}

impl Relay {
    /// For the daemon that is at `front`.
    pub fn new(front: watch::Receiver<Front>, is_allowed: fn(&Extensions) -> bool) -> Self {
        Self { front, is_allowed, places: Arc::new(Semaphore::new(ADMIN_RELAYS_MAX)) }
    }

    async fn hand_on(self, request: Request<Body>) -> Result<Response<Body>, Status> {
        if !(self.is_allowed)(request.extensions()) {
            return Err(denied());
        }
        let Some(path) = path(request.uri().path()) else {
            return Err(Status::unimplemented("this is no call of administrators"));
        };
        let many = || Status::resource_exhausted(format!("{ADMIN_RELAYS_MAX} such commands run here already"));
        let _place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| many())?;
        let channel = self.channel().await?;
        let passed = pass(channel, &path, request.into_body());
        let late = || Status::deadline_exceeded("the controller did not answer in time");
        tokio::time::timeout(ADMIN_CALL_MAX, passed).await.unwrap_or_else(|_| Err(late()))
    }

    async fn channel(&self) -> Result<Channel, Status> {
        let orders = match &*self.front.borrow() {
            Front::Up(orders) => orders.clone(),
            front => return Err(Status::unavailable(front.to_string())),
        };
        let stopping = || Status::unavailable("the client is stopping: try again in a moment");
        let (reply, answer) = oneshot::channel();
        orders.send(Order::Channel(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}

/// The path of a call of administrators, made anew of what it may consist of.
fn path(asked: &str) -> Option<String> {
    let method = asked.strip_prefix('/')?.strip_prefix(SERVICE)?.strip_prefix('/')?;
    let fits = !method.is_empty() && method.len() <= METHOD_MAX && method.bytes().all(|b| b.is_ascii_alphanumeric());
    fits.then(|| format!("/{SERVICE}/{method}"))
}

/// Whole, or refused: nobody waits for the rest of a message that does not come.
async fn whole<B>(body: B, whose: &str) -> Result<Collected<Bytes>, Status>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let most = RPC_MESSAGE_MAX + GRPC_PREFIX;
    Limited::new(body, most).collect().await.map_err(|error| match error.is::<LengthLimitError>() {
        true => Status::resource_exhausted(format!("the {whose} has more than {RPC_MESSAGE_MAX} bytes")),
        false => Status::unavailable(format!("the {whose} did not arrive whole: {error}")),
    })
}

/// Nothing of the caller's goes along but the message: no header says anything to the controller.
async fn pass<S>(service: S, path: &str, body: Body) -> Result<Response<Body>, Status>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Error: std::fmt::Display,
{
    let message = whole(body, "request").await?;
    let request = Request::post(path).header(header::CONTENT_TYPE, "application/grpc").header(header::TE, "trailers");
    let request = request.body(Body::new(message)).map_err(|error| Status::internal(error.to_string()))?;
    let answer = service.oneshot(request).await.map_err(|error| {
        Status::unavailable(format!("the connection to the controller broke off ({error}): try again in a moment"))
    })?;
    let (parts, body) = answer.into_parts();
    let mut response = Response::new(Body::new(whole(body, "answer").await?));
    *response.headers_mut() = grpc_headers(&parts.headers);
    Ok(response)
}

/// What of the controller's headers a gRPC caller reads.
fn grpc_headers(told: &HeaderMap) -> HeaderMap {
    let names = ["content-type", "grpc-status", "grpc-message"];
    let kept = told.iter().filter(|(name, _)| names.contains(&name.as_str()));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

impl Service<Request<Body>> for Relay {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let relay = self.clone();
        Box::pin(async move { Ok(relay.hand_on(request).await.unwrap_or_else(|status| status.into_http())) })
    }
}

#[cfg(test)]
mod tests;
