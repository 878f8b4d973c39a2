//! Who gets a gRPC connection? TLS first, then the proof that certificate and tunnel belong to one node.
//!
//! A connection's overlay source address belongs to one WireGuard peer (the engine drops every other source), so the
//! address that a node's id hashes to is the second, independent proof besides the certificate. Both ports share this
//! loop; every limit of HTTP/2 is set, because the defaults have none.

use crate::authz::{Caller, Guard};
use crate::front::Newcomers;
use host::clock::SystemClock;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use model::ids::NodeId;
use model::limits::{
    ENROL_BYTES_MAX, ENROL_CONNECTIONS_MAX, ENROL_CONNECTIONS_PER_KEY_MAX, LATE_CONNECTION_LIFE, PROBE_EVERY,
    PROVISIONAL_LIFE, RPC_CONNECTIONS_PER_NODE_MAX, RPC_STREAMS_MAX, SILENCE_MAX, TLS_HANDSHAKE_MAX,
    TLS_HANDSHAKES_PER_NODE_MAX,
};
use model::pool::Pool;
use model::time::Clock as _;
use node::svid::SvidFacts;
use node::tls::{EXPORTER_LABEL, proven_leaf};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::service::Routes;
use tower::Service as _;

/// The machine behind a call on the enrolment port: known by its tunnel's address alone.
#[derive(Debug, Clone, Copy)]
pub struct Newcomer {
    /// Its provisional overlay address, which its WireGuard key hashes to.
    pub address: Ipv6Addr,
    /// The TLS exporter that its CSR's key must have signed.
    pub exporter: [u8; 32],
}

/// Live connections by node, so that a revoke closes them: a certificate that was revoked does not end them by itself.
#[derive(Debug, Default)]
pub struct Connections {
    open: Mutex<BTreeMap<NodeId, Vec<AbortHandle>>>,
}

impl Connections {
    /// Ends every connection of a node.
    pub fn close(&self, node: NodeId) {
        let handles = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
        for handle in handles.unwrap_or_default() {
            handle.abort();
        }
    }

    /// Remembers a connection; one more than a node may have ends its oldest.
    fn add(&self, node: NodeId, handle: AbortHandle) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let list = open.entry(node).or_default();
        list.retain(|h| !h.is_finished());
        if list.len() >= RPC_CONNECTIONS_PER_NODE_MAX {
            list.remove(0).abort();
        }
        list.push(handle);
    }
}

/// Places that are taken, by whose they are: whoever stalls in its own takes nobody else's.
#[derive(Debug)]
struct Places<K: Ord>(Mutex<BTreeMap<K, usize>>);

/// One of them.
struct Place<K: Ord> {
    of: Arc<Places<K>>,
    whose: K,
}

impl<K: Ord + Copy> Places<K> {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(BTreeMap::new())))
    }

    /// None where it has `max` already.
    fn take(self: &Arc<Self>, whose: K, max: usize) -> Option<Place<K>> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(whose).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Place { of: Arc::clone(self), whose })
    }
}

impl<K: Ord> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.whose) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.whose);
            }
        }
    }
}

/// Serves the control port for as long as the program runs.
pub async fn serve_control(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    domain: String,
    pool: Pool,
    connections: Arc<Connections>,
    routes: Routes,
) {
    let acceptor = TlsAcceptor::from(tls);
    let handshakes = Places::new();
    loop {
        let Some((stream, from)) = accept(&listener).await else { continue };
        let Some(handshake) = handshakes.take(from.ip(), TLS_HANDSHAKES_PER_NODE_MAX) else { continue };
        let (acceptor, connections, routes, domain) =
            (acceptor.clone(), Arc::clone(&connections), routes.clone(), domain.clone());
        tokio::spawn(async move {
            let Some(tls) = shake_hands(acceptor, stream).await else { return };
            drop(handshake);
            let Some((node, late)) = same_node(&tls, &domain, &pool, from) else {
                tracing::warn!(%from, "a connection was refused: its certificate and its tunnel are not of one node");
                return;
            };
            let caller = match node {
                node if late => Caller::Late(node),
                NodeId::Device(id) => Caller::Device(id),
                NodeId::Gateway(id) => Caller::Gateway(id),
                NodeId::Controller => Caller::Nobody,
            };
            let serving = tokio::spawn(serve_one(tls, routes, caller, None, late.then_some(LATE_CONNECTION_LIFE)));
            connections.add(node, serving.abort_handle());
        });
    }
}

/// Serves the enrolment port. Connections are few, small and short.
pub async fn serve_enrolment(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    newcomers: Arc<Newcomers>,
    routes: Routes,
) {
    let acceptor = TlsAcceptor::from(tls);
    let room = Arc::new(tokio::sync::Semaphore::new(ENROL_CONNECTIONS_MAX));
    let (machines, keys) = (Places::new(), Places::new());
    loop {
        let Some((stream, from)) = accept(&listener).await else { continue };
        let IpAddr::V6(address) = from.ip() else { continue };
        let Some((_, knocker)) = newcomers.find(address) else { continue };
        // For a whole connection: it makes one call.
        let Some(machine) = machines.take(address, TLS_HANDSHAKES_PER_NODE_MAX) else { continue };
        let Some(key) = keys.take(knocker, ENROL_CONNECTIONS_PER_KEY_MAX) else { continue };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let (acceptor, routes) = (acceptor.clone(), routes.clone());
        tokio::spawn(async move {
            let _places = (permit, machine, key);
            let Some(tls) = shake_hands(acceptor, stream).await else { return };
            let mut exporter = [0; 32];
            if tls.get_ref().1.export_keying_material(&mut exporter, EXPORTER_LABEL, None).is_ok() {
                let newcomer = Newcomer { address, exporter };
                serve_one(tls, routes, Caller::Provisional(address), Some(newcomer), Some(PROVISIONAL_LIFE)).await;
            }
        });
    }
}

async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            // Out of descriptors, most likely: the loop must neither end nor spin.
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

async fn shake_hands(acceptor: TlsAcceptor, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
    stream.set_nodelay(true).ok()?;
    tokio::time::timeout(TLS_HANDSHAKE_MAX, acceptor.accept(stream)).await.ok()?.ok()
}

/// The node, and whether its certificate has ended.
fn same_node(tls: &TlsStream<TcpStream>, domain: &str, pool: &Pool, from: SocketAddr) -> Option<(NodeId, bool)> {
    let SvidFacts { node, not_after, .. } = proven_leaf(domain, tls.get_ref().1.peer_certificates()).ok()?;
    let late = not_after < SystemClock::new().wall().0.div_euclid(1_000);
    let address = tunnel::address::address_of_node(pool, &node);
    (node != NodeId::Controller && from.ip() == IpAddr::V6(address)).then_some((node, late))
}

async fn serve_one(
    tls: TlsStream<TcpStream>,
    routes: Routes,
    caller: Caller,
    newcomer: Option<Newcomer>,
    life: Option<Duration>,
) {
    let guarded = Guard(routes);
    let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(caller.clone());
        if let Some(newcomer) = newcomer {
            request.extensions_mut().insert(newcomer);
        }
        guarded.clone().call(request)
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(RPC_STREAMS_MAX)
        .max_header_list_size(16 << 10)
        .max_frame_size(16 << 10)
        .max_send_buf_size(1 << 20)
        .max_pending_accept_reset_streams(16)
        .max_local_error_reset_streams(64)
        .keep_alive_interval(PROBE_EVERY * 2)
        .keep_alive_timeout(SILENCE_MAX * 2);
    if life.is_some() {
        let window = u32::try_from(ENROL_BYTES_MAX).unwrap_or(16 << 10);
        builder.max_concurrent_streams(1).initial_stream_window_size(window).initial_connection_window_size(window * 2);
    }
    let serving = builder.serve_connection(TokioIo::new(tls), service);
    let ended = match life {
        Some(life) => tokio::time::timeout(life, serving).await.unwrap_or(Ok(())),
        None => serving.await,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_each_ones_own_and_come_back() {
        let places = Places::new();
        let mut held: Vec<_> = (0..ENROL_CONNECTIONS_PER_KEY_MAX)
            .map(|_| places.take(1, ENROL_CONNECTIONS_PER_KEY_MAX).unwrap())
            .collect();
        assert!(places.take(1, ENROL_CONNECTIONS_PER_KEY_MAX).is_none());
        let other = places.take(2, ENROL_CONNECTIONS_PER_KEY_MAX);
        assert!(other.is_some());
        held.pop();
        assert!(places.take(1, ENROL_CONNECTIONS_PER_KEY_MAX).is_some());
        drop((held, other));
        assert!(places.0.lock().unwrap().is_empty(), "nobody is remembered");
    }
}
