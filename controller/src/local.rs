//! Who may give orders on this machine? Root and members of the group `umbra`, over a Unix socket whose other end the
//! kernel names.

use crate::authz::{Caller, GuardLayer};
use crate::refused::Refused;
use crate::rpc::admin::AdminRpc;
use crate::tools::{self, Alive};
use host::local::{LocalListener, Peer, may_administer};
use model::limits::{ADMIN_CALL_MAX, RPC_MESSAGE_MAX, RPC_STREAMS_MAX};
use node::cli::ADMIN_GROUP;
use proto::admin::admin_server::AdminServer;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::Layer as _;

/// Who a peer of the local socket is.
pub fn caller(peer: &Peer) -> Caller {
    if !may_administer(peer, ADMIN_GROUP) {
        return Caller::Nobody;
    }
    let actor = if peer.uid == 0 { "local:root".to_owned() } else { format!("local:uid-{}", peer.uid) };
    Caller::Admin { actor }
}

/// Serves administrators until `stop` is ready.
pub async fn serve(
    listener: LocalListener,
    admin: AdminRpc,
    alive: Alive,
    refused: Arc<Refused>,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    let (accepting, incoming) = node::local::accept(listener, |peer| Proven(caller(peer)));
    let service =
        AdminServer::new(admin).max_decoding_message_size(RPC_MESSAGE_MAX).max_encoding_message_size(RPC_MESSAGE_MAX);
    let guard = GuardLayer(refused);
    let serving = tonic::transport::Server::builder()
        .max_concurrent_streams(RPC_STREAMS_MAX)
        .concurrency_limit_per_connection(8)
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_max_header_list_size(16 << 10)
        .http2_max_pending_accept_reset_streams(Some(16))
        .timeout(ADMIN_CALL_MAX)
        .layer(tower::layer::layer_fn(move |inner| FromConnection(guard.layer(inner))))
        .add_service(service)
        .add_service(tools::health(alive))
        .add_optional_service(tools::reflection())
        .serve_with_incoming_shutdown(incoming, stop);
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

/// Who is at the other end of the connection.
#[derive(Clone)]
struct Proven(Caller);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_group_are_administrators() {
        let peer = |uid, groups: &[u32]| Peer { uid, gid: 7, pid: None, groups: groups.to_vec() };
        assert_eq!(caller(&peer(0, &[])), Caller::Admin { actor: "local:root".into() });
        assert_eq!(caller(&peer(1000, &[7])), Caller::Nobody);
        if let Some(group) = host::accounts::group_id(ADMIN_GROUP) {
            assert_eq!(caller(&peer(1000, &[group])), Caller::Admin { actor: "local:uid-1000".into() });
        }
    }
}
