//! Who may give orders on this machine? Root and members of the group `umbra`, over a Unix socket whose other end the
//! kernel names.

use crate::authz::{Caller, GuardLayer};
use crate::config::ADMIN_GROUP;
use crate::rpc::admin::AdminRpc;
use host::accounts;
use host::local::{LocalError, LocalListener, Peer, may_administer};
use model::limits::{ADMIN_CALL_MAX, ADMIN_CONNECTIONS_MAX, RPC_MESSAGE_MAX, RPC_STREAMS_MAX};
use proto::admin::admin_server::AdminServer;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::Connected;
use tower::Layer as _;

/// A connection with who is at its other end; one place of [`ADMIN_CONNECTIONS_MAX`].
struct Connection {
    stream: UnixStream,
    caller: Caller,
    _place: OwnedSemaphorePermit,
}

/// Who a peer of the local socket is.
pub fn caller(peer: &Peer) -> Caller {
    if !may_administer(peer, ADMIN_GROUP) {
        return Caller::Nobody;
    }
    let actor = if peer.uid == 0 { "local:root".to_owned() } else { format!("local:uid-{}", peer.uid) };
    Caller::Admin { actor }
}

/// Listens at `path`. The socket belongs to the group, where there is one; who connects is looked at all the same.
pub fn bind(path: &Path) -> Result<LocalListener, LocalError> {
    let group = accounts::group_id(ADMIN_GROUP);
    LocalListener::bind(path, if group.is_some() { 0o660 } else { 0o600 }, group)
}

/// Serves administrators until `stop` is ready.
pub async fn serve(
    listener: LocalListener,
    admin: AdminRpc,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    let (sender, incoming) = tokio::sync::mpsc::channel::<io::Result<Connection>>(1);
    let accepting = async move {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let caller = caller(&peer);
                    if sender.send(Ok(Connection { stream, caller, _place: place })).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    // Out of descriptors, most likely: the loop must neither end nor spin.
                    tracing::warn!(%error, "a local connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    };
    let service =
        AdminServer::new(admin).max_decoding_message_size(RPC_MESSAGE_MAX).max_encoding_message_size(RPC_MESSAGE_MAX);
    let serving = tonic::transport::Server::builder()
        .max_concurrent_streams(RPC_STREAMS_MAX)
        .concurrency_limit_per_connection(8)
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_max_header_list_size(16 << 10)
        .http2_max_pending_accept_reset_streams(Some(16))
        .timeout(ADMIN_CALL_MAX)
        .layer(tower::layer::layer_fn(|inner| FromConnection(GuardLayer.layer(inner))))
        .add_service(service)
        .serve_with_incoming_shutdown(tokio_stream::wrappers::ReceiverStream::new(incoming), stop);
    tokio::select! {
        () = accepting => Ok(()),
        result = serving => result,
    }
}

/// Takes the caller that the connection proved to where [`crate::authz::Guard`] looks for it.
#[derive(Debug, Clone)]
struct FromConnection<S>(S);

impl<S, B> tower::Service<http::Request<B>> for FromConnection<S>
where
    S: tower::Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }
    fn call(&mut self, mut request: http::Request<B>) -> S::Future {
        let proven = request.extensions().get::<Proven>().map(|proven| proven.0.clone());
        request.extensions_mut().insert(proven.unwrap_or(Caller::Nobody));
        self.0.call(request)
    }
}

#[derive(Clone)]
struct Proven(Caller);

impl Connected for Connection {
    type ConnectInfo = Proven;
    fn connect_info(&self) -> Proven {
        Proven(self.caller.clone())
    }
}
impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}
impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_group_are_administrators() {
        let peer = |uid, groups: &[u32]| Peer { uid, gid: 7, pid: None, groups: groups.to_vec() };
        assert_eq!(caller(&peer(0, &[])), Caller::Admin { actor: "local:root".into() });
        assert_eq!(caller(&peer(1000, &[7])), Caller::Nobody);
        if let Some(group) = accounts::group_id(ADMIN_GROUP) {
            assert_eq!(caller(&peer(1000, &[group])), Caller::Admin { actor: "local:uid-1000".into() });
        }
    }
}
