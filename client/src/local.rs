//! Who may give this machine's client orders? Root and members of the group `umbra`, over a Unix socket whose other end the
//! kernel names. The socket's mode keeps others out, and each call is checked all the same.

use crate::agent::{FactorOrder, Order, Reply, SignInOrder};
use crate::daemon::{Command, Front};
use crate::relay::Relay;
use host::local::{LocalListener, may_administer};
use model::limits::{ADMIN_CALL_MAX, IDENTITY_TOKEN_MAX, JOIN_BYTES_MAX, RPC_STREAMS_MAX};
use model::secret::Secret;
use node::cli::ADMIN_GROUP;
use proto::local as wire;
use proto::local::local_server::{Local, LocalServer};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::{Request, Response, Status};

/// Bytes of one message from a command: a join file, a token and a little.
const MESSAGE_MAX: usize = JOIN_BYTES_MAX + IDENTITY_TOKEN_MAX + 4_096;

/// Serves commands until `stop` is ready.
pub async fn serve(
    listener: LocalListener,
    desk: Desk,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    let (accepting, incoming) = node::local::accept(listener, |peer| Allowed(may_administer(peer, ADMIN_GROUP)));
    let relay = Relay::new(desk.front.clone(), |extensions| matches!(extensions.get(), Some(Allowed(true))));
    let service = LocalServer::new(desk).max_decoding_message_size(MESSAGE_MAX);
    let service = tonic::service::interceptor::InterceptedService::new(service, check);
    let serving = tonic::transport::Server::builder()
        .max_concurrent_streams(RPC_STREAMS_MAX)
        .concurrency_limit_per_connection(8)
        .http2_max_header_list_size(16 << 10)
        .timeout(ADMIN_CALL_MAX)
        .add_service(service)
        .add_service(relay)
        .serve_with_incoming_shutdown(incoming, stop);
    tokio::select! {
        () = accepting => Ok(()),
        result = serving => result,
    }
}

/// Said to everybody else.
pub fn denied() -> Status {
    Status::permission_denied("this is for root and members of the group `umbra`")
}

/// Is the connection's other end allowed? What does not say so is not.
#[allow(clippy::result_large_err)] // tonic's own shape
fn check(request: Request<()>) -> Result<Request<()>, Status> {
    match request.extensions().get::<Allowed>() {
        Some(Allowed(true)) => Ok(request),
        _ => Err(denied()),
    }
}

/// The port of a page that a command serves.
#[allow(clippy::result_large_err)] // tonic's own shape
fn page_port(port: u32) -> Result<u16, Status> {
    u16::try_from(port).map_err(|_| Status::invalid_argument("`port` is no port"))
}

/// The service.
pub struct Desk {
    /// Where `up` and `down` go.
    pub commands: mpsc::Sender<Command>,
    /// What the daemon is at.
    pub front: watch::Receiver<Front>,
}

fn busy() -> Status {
    Status::unavailable("the client is stopping or starting: try again in a moment")
}

impl Desk {
    async fn command<T>(&self, make: impl FnOnce(Reply<T>) -> Command) -> Result<Response<T>, Status> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(make(reply)).await.map_err(|_| busy())?;
        answer.await.map_err(|_| busy())?.map(Response::new)
    }

    async fn order<T>(&self, make: impl FnOnce(Reply<T>) -> Order) -> Result<Response<T>, Status> {
        let orders = match &*self.front.borrow() {
            Front::Up(orders) => orders.clone(),
            front => return Err(Status::unavailable(front.to_string())),
        };
        let (reply, answer) = oneshot::channel();
        orders.send(make(reply)).await.map_err(|_| busy())?;
        answer.await.map_err(|_| busy())?.map(Response::new)
    }
}

#[tonic::async_trait]
impl Local for Desk {
    async fn up(&self, request: Request<wire::UpRequest>) -> Result<Response<wire::UpReply>, Status> {
        self.command(|reply| Command::Up(request.into_inner(), reply)).await
    }
    async fn down(&self, _: Request<wire::DownRequest>) -> Result<Response<wire::DownReply>, Status> {
        self.command(Command::Down).await
    }
    async fn login(&self, request: Request<wire::LoginRequest>) -> Result<Response<wire::LoginReply>, Status> {
        let wire::LoginRequest { user, password } = request.into_inner();
        self.order(|reply| Order::Login { user, password: Secret::new(password), reply }).await
    }
    async fn list_factors(
        &self,
        _: Request<wire::ListFactorsRequest>,
    ) -> Result<Response<wire::ListFactorsReply>, Status> {
        self.order(|reply| Order::Factor(FactorOrder::List(reply))).await
    }
    async fn begin_totp(
        &self,
        request: Request<wire::BeginTotpRequest>,
    ) -> Result<Response<wire::BeginTotpReply>, Status> {
        self.order(|reply| Order::Factor(FactorOrder::Begin(request.into_inner().name, reply))).await
    }
    async fn confirm_totp(
        &self,
        request: Request<wire::ConfirmTotpRequest>,
    ) -> Result<Response<wire::RecoveryCodes>, Status> {
        let wire::ConfirmTotpRequest { id, code } = request.into_inner();
        self.order(|reply| Order::Factor(FactorOrder::Confirm { id, code: Secret::new(code), reply })).await
    }
    async fn verify_factor(
        &self,
        request: Request<wire::VerifyFactorRequest>,
    ) -> Result<Response<wire::VerifyFactorReply>, Status> {
        let code = Secret::new(request.into_inner().code);
        self.order(|reply| Order::Factor(FactorOrder::Verify(code, reply))).await
    }
    async fn remove_factor(
        &self,
        request: Request<wire::RemoveFactorRequest>,
    ) -> Result<Response<wire::RemoveFactorReply>, Status> {
        self.order(|reply| Order::Factor(FactorOrder::Remove(request.into_inner().factor, reply))).await
    }
    async fn renew_recovery_codes(
        &self,
        _: Request<wire::RenewRecoveryCodesRequest>,
    ) -> Result<Response<wire::RecoveryCodes>, Status> {
        self.order(|reply| Order::Factor(FactorOrder::Renew(reply))).await
    }
    async fn list_providers(
        &self,
        _: Request<wire::ListProvidersRequest>,
    ) -> Result<Response<wire::ListProvidersReply>, Status> {
        self.order(|reply| Order::SignIn(SignInOrder::Providers(reply))).await
    }
    async fn begin_sign_in(
        &self,
        request: Request<wire::BeginSignInRequest>,
    ) -> Result<Response<wire::BeginSignInReply>, Status> {
        self.order(|reply| Order::SignIn(SignInOrder::Begin(request.into_inner(), reply))).await
    }
    async fn finish_sign_in(
        &self,
        request: Request<wire::FinishSignInRequest>,
    ) -> Result<Response<wire::LoginReply>, Status> {
        self.order(|reply| Order::SignIn(SignInOrder::Finish(request.into_inner(), reply))).await
    }
    async fn begin_code_sign_in(
        &self,
        request: Request<wire::BeginCodeSignInRequest>,
    ) -> Result<Response<wire::BeginCodeSignInReply>, Status> {
        self.order(|reply| Order::SignIn(SignInOrder::BeginCode(request.into_inner().provider, reply))).await
    }
    async fn poll_sign_in(
        &self,
        request: Request<wire::PollSignInRequest>,
    ) -> Result<Response<wire::PollSignInReply>, Status> {
        self.order(|reply| Order::SignIn(SignInOrder::Poll(request.into_inner().id, reply))).await
    }
    async fn begin_passkey(
        &self,
        request: Request<wire::BeginPasskeyRequest>,
    ) -> Result<Response<wire::PasskeyQuestion>, Status> {
        let wire::BeginPasskeyRequest { name, port } = request.into_inner();
        let port = page_port(port)?;
        self.order(|reply| Order::Factor(FactorOrder::BeginPasskey { name, port, reply })).await
    }
    async fn confirm_passkey(
        &self,
        request: Request<wire::PasskeyAnswer>,
    ) -> Result<Response<wire::RecoveryCodes>, Status> {
        let answer = request.into_inner().answer;
        self.order(|reply| Order::Factor(FactorOrder::ConfirmPasskey(answer, reply))).await
    }
    async fn ask_passkey(
        &self,
        request: Request<wire::AskPasskeyRequest>,
    ) -> Result<Response<wire::PasskeyQuestion>, Status> {
        let wire::AskPasskeyRequest { resource, port } = request.into_inner();
        let port = page_port(port)?;
        self.order(|reply| Order::Factor(FactorOrder::AskPasskey { resource, port, reply })).await
    }
    async fn verify_passkey(
        &self,
        request: Request<wire::PasskeyAnswer>,
    ) -> Result<Response<wire::VerifyFactorReply>, Status> {
        let answer = request.into_inner().answer;
        self.order(|reply| Order::Factor(FactorOrder::VerifyPasskey(answer, reply))).await
    }
    async fn logout(&self, _: Request<wire::LogoutRequest>) -> Result<Response<wire::LogoutReply>, Status> {
        self.order(Order::Logout).await
    }
    async fn list(&self, _: Request<wire::ListRequest>) -> Result<Response<wire::ListReply>, Status> {
        self.order(Order::List).await
    }
    async fn connect(&self, request: Request<wire::ConnectRequest>) -> Result<Response<wire::ConnectReply>, Status> {
        self.order(|reply| Order::Connect(request.into_inner().resource, reply)).await
    }
    async fn why(&self, request: Request<wire::WhyRequest>) -> Result<Response<wire::WhyReply>, Status> {
        self.order(|reply| Order::Why(request.into_inner().resource, reply)).await
    }
    async fn status(&self, _: Request<wire::StatusRequest>) -> Result<Response<wire::StatusReply>, Status> {
        let idle = match &*self.front.borrow() {
            Front::Up(_) => None,
            front => Some(front.status()),
        };
        match idle {
            Some(status) => Ok(Response::new(status)),
            None => self.order(Order::Status).await,
        }
    }
}

/// May the other end of the connection give orders?
#[derive(Clone, Copy)]
struct Allowed(bool);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_known_may_nothing() {
        assert!(check(Request::new(())).is_err());
        let with = |allowed| {
            let mut request = Request::new(());
            request.extensions_mut().insert(Allowed(allowed));
            check(request)
        };
        assert!(with(false).is_err() && with(true).is_ok());
    }
}
