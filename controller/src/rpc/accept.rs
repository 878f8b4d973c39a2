//! Who gets a gRPC connection? TLS first, then the proof that certificate and tunnel belong to one node.
//!
//! A connection's overlay source address belongs to one WireGuard peer (the engine drops every other source), so the
//! address that a node's id hashes to is the second, independent proof besides the certificate. Both ports share this
//! loop; every limit of HTTP/2 is set, because the defaults have none.

use crate::administrator::People;
use crate::authz::{Caller, Guard};
use crate::front::Newcomers;
use crate::guise::Guises;
use crate::refused::{Reason, Refused};
use host::clock::SystemClock;
use hyper::body::Incoming;
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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::service::Routes;
use tower::Service;
use tunnel::knock::Knocker;

/// Streams beyond the bound, and other errors of single streams, that are answered before the connection ends.
const STREAMS_REFUSED_MAX: usize = RPC_STREAMS_MAX as usize;

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
    /// Who was turned away.
    pub refused: Arc<Refused>,
}

impl Connections {
    /// None yet; who is turned away is counted there.
    pub fn counting(refused: Arc<Refused>) -> Self {
        Self { open: Mutex::default(), refused }
    }

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
            self.refused.count(Reason::Connections);
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

/// What one newcomer's connection holds while it lives.
struct EnrolmentPlace {
    _room: OwnedSemaphorePermit,
    _machine: Place<Ipv6Addr>,
    _key: Place<Knocker>,
}

/// The places of the enrolment port.
struct EnrolmentPlaces {
    room: Arc<Semaphore>,
    machines: Arc<Places<Ipv6Addr>>,
    keys: Arc<Places<Knocker>>,
    refused: Arc<Refused>,
}

impl EnrolmentPlaces {
    fn new(refused: Arc<Refused>) -> Self {
        let room = Arc::new(Semaphore::new(ENROL_CONNECTIONS_MAX));
        Self { room, machines: Places::new(), keys: Places::new(), refused }
    }

    /// A place for a whole connection, which makes one call; none where this machine, those of its join key, or everybody
    /// has too many.
    fn enter(&self, from: Ipv6Addr, knocker: Knocker) -> Option<EnrolmentPlace> {
        let refuse = |reason| self.refused.count(reason);
        let Some(machine) = self.machines.take(from, TLS_HANDSHAKES_PER_NODE_MAX) else {
            refuse(Reason::Handshakes);
            return None;
        };
        let Some(key) = self.keys.take(knocker, ENROL_CONNECTIONS_PER_KEY_MAX) else {
            refuse(Reason::EnrolmentsOfKey);
            return None;
        };
        let room = Arc::clone(&self.room).try_acquire_owned().inspect_err(|_| refuse(Reason::Enrolments)).ok()?;
        Some(EnrolmentPlace { _room: room, _machine: machine, _key: key })
    }
}

/// Serves the control port for as long as the program runs.
pub async fn serve_control(
    listener: TcpListener,
    guises: Arc<Guises>,
    domain: String,
    pool: Pool,
    connections: Arc<Connections>,
    (routes, people): (Routes, People),
) {
    let handshakes = Places::new();
    loop {
        let Some((stream, from)) = accept(&listener).await else { continue };
        let Some(handshake) = handshakes.take(from.ip(), TLS_HANDSHAKES_PER_NODE_MAX) else {
            connections.refused.count(Reason::Handshakes);
            continue;
        };
        let Some(acceptor) = guises.control(from.ip()).map(TlsAcceptor::from) else { continue };
        let (acceptor, connections, domain) = (acceptor, Arc::clone(&connections), domain.clone());
        let (routes, people) = (routes.clone(), people.clone());
        tokio::spawn(async move {
            let Some(tls) = shake_hands(acceptor, stream, &connections.refused).await else { return };
            drop(handshake);
            let Some((node, late)) = same_node(&tls, &domain, &pool, from) else {
                if connections.refused.is_told(Reason::TwoNodes, &from.ip()) {
                    tracing::warn!(%from, "a connection was refused: its certificate and its tunnel are not of one node");
                }
                return;
            };
            let caller = match node {
                node if late => Caller::Late(node),
                NodeId::Device(id) => Caller::Device(id),
                NodeId::Gateway(id) => Caller::Gateway(id),
                NodeId::Controller => Caller::Nobody,
            };
            let life = late.then_some(LATE_CONNECTION_LIFE);
            let guarded = Guard { inner: routes, refused: Arc::clone(&connections.refused), people: Some(people) };
            let serving = tokio::spawn(serve_one(tls, guarded, caller, None, life));
            connections.add(node, serving.abort_handle());
        });
    }
}

/// Serves the enrolment port. Connections are few, small and short.
pub async fn serve_enrolment(
    listener: TcpListener,
    guises: Arc<Guises>,
    newcomers: Arc<Newcomers>,
    refused: Arc<Refused>,
    routes: Routes,
) {
    let places = EnrolmentPlaces::new(Arc::clone(&refused));
    loop {
        let Some((stream, from)) = accept(&listener).await else { continue };
        let IpAddr::V6(address) = from.ip() else { continue };
        let Some((_, knocker)) = newcomers.find(address) else { continue };
        let Some(place) = places.enter(address, knocker) else { continue };
        let Some(acceptor) = guises.enrolment(from.ip()).map(TlsAcceptor::from) else { continue };
        let (routes, refused) = (routes.clone(), Arc::clone(&refused));
        tokio::spawn(async move {
            let _place = place;
            let Some(tls) = shake_hands(acceptor, stream, &refused).await else { return };
            let mut exporter = [0; 32];
            if tls.get_ref().1.export_keying_material(&mut exporter, EXPORTER_LABEL, None).is_ok() {
                let newcomer = Newcomer { address, exporter };
                let guarded = Guard { inner: routes, refused, people: None };
                serve_one(tls, guarded, Caller::Provisional(address), Some(newcomer), Some(PROVISIONAL_LIFE)).await;
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

async fn shake_hands(acceptor: TlsAcceptor, stream: TcpStream, refused: &Refused) -> Option<TlsStream<TcpStream>> {
    stream.set_nodelay(true).ok()?;
    let made = tokio::time::timeout(TLS_HANDSHAKE_MAX, acceptor.accept(stream)).await.ok().and_then(Result::ok);
    if made.is_none() {
        refused.count(Reason::Tls);
    }
    made
}

/// The node, and whether its certificate has ended.
fn same_node(tls: &TlsStream<TcpStream>, domain: &str, pool: &Pool, from: SocketAddr) -> Option<(NodeId, bool)> {
    let SvidFacts { node, not_after, .. } = proven_leaf(domain, tls.get_ref().1.peer_certificates()).ok()?;
    let late = not_after < SystemClock::new().wall().0.div_euclid(1_000);
    let address = tunnel::address::address_of_node(pool, &node);
    (node != NodeId::Controller && from.ip() == IpAddr::V6(address)).then_some((node, late))
}

async fn serve_one<S>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    guarded: Guard<S>,
    caller: Caller,
    newcomer: Option<Newcomer>,
    life: Option<Duration>,
) where
    S: Service<http::Request<Incoming>, Response = http::Response<tonic::body::Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let refused = Arc::clone(&guarded.refused);
    let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
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
        .max_local_error_reset_streams(STREAMS_REFUSED_MAX)
        .keep_alive_interval(PROBE_EVERY * 2)
        .keep_alive_timeout(SILENCE_MAX * 2);
    if life.is_some() {
        let window = u32::try_from(ENROL_BYTES_MAX).unwrap_or(16 << 10);
        builder.max_concurrent_streams(1).initial_stream_window_size(window).initial_connection_window_size(window * 2);
    }
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    let ended = match life {
        Some(life) => tokio::time::timeout(life, serving).await.unwrap_or(Ok(())),
        None => serving.await,
    };
    if let Err(error) = ended {
        if has_broken_http2(&error) {
            refused.count(Reason::Http2);
        }
        tracing::debug!(%error, "a connection ended");
    }
}

/// Was it ended here, for what the far end did? The library of HTTP/2 ends a connection of which it had to refuse too many streams, and
/// one on which too many were reset.
fn has_broken_http2(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(h2::Error::is_library)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::ids::DeviceId;

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

    fn address(n: usize) -> Ipv6Addr {
        Ipv6Addr::from((0xfd00_u128 << 112) | n as u128)
    }

    fn key(n: usize) -> Knocker {
        Knocker::JoinKey(model::ids::JoinKeyId::from_bytes([n as u8; 10]))
    }

    fn counted(refused: &Refused, name: &str) -> u64 {
        refused.counters().find(|(reason, _)| *reason == name).unwrap().1
    }

    #[test]
    fn so_many_newcomers_are_served_at_once_and_the_next_when_one_goes() {
        let places = EnrolmentPlaces::new(Arc::default());
        // Of as many join keys as it takes: none of them is full itself.
        let enter = |n: usize| places.enter(address(n), key(n / ENROL_CONNECTIONS_PER_KEY_MAX));
        let mut held: Vec<_> = (0..ENROL_CONNECTIONS_MAX).map(|n| enter(n).unwrap()).collect();
        assert!(enter(9_999).is_none());
        assert_eq!(counted(&places.refused, "rpc_enrolments_full"), 1);
        held.pop();
        held.push(enter(9_999).expect("a place that is free again"));
    }

    #[test]
    fn a_newcomer_and_a_join_key_have_places_of_their_own() {
        let places = EnrolmentPlaces::new(Arc::default());
        let mut held: Vec<_> =
            (0..TLS_HANDSHAKES_PER_NODE_MAX).map(|_| places.enter(address(1), key(1)).unwrap()).collect();
        assert!(places.enter(address(1), key(1)).is_none());
        assert_eq!(counted(&places.refused, "rpc_handshakes_full"), 1);
        held.clear();
        held.extend((0..ENROL_CONNECTIONS_PER_KEY_MAX).map(|n| places.enter(address(n), key(1)).unwrap()));
        assert!(places.enter(address(9_999), key(1)).is_none());
        assert_eq!(counted(&places.refused, "rpc_enrolments_crowded"), 1);
        held.push(places.enter(address(9_999), key(2)).expect("another key"));
        held.remove(0);
        held.push(places.enter(address(9_998), key(1)).expect("a place that is free again"));
    }

    #[derive(Debug)]
    struct NoCertificate;
    impl rustls::server::ResolvesServerCert for NoCertificate {
        fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
            None
        }
    }

    #[tokio::test]
    async fn who_says_nothing_in_a_handshake_is_given_up_and_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_no_client_auth().with_cert_resolver(Arc::new(NoCertificate));
        let refused = Refused::default();
        tokio::time::pause();
        let began = tokio::time::Instant::now();
        assert!(shake_hands(TlsAcceptor::from(Arc::new(config)), stream, &refused).await.is_none());
        let lasted = began.elapsed();
        assert!(lasted >= TLS_HANDSHAKE_MAX && lasted < 2 * TLS_HANDSHAKE_MAX, "{lasted:?}");
        assert_eq!(counted(&refused, "rpc_handshake_failed"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_may_only_renew_is_short_whatever_its_caller_does() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (sender, connection) = h2::client::handshake(near).await.unwrap();
        let driver = tokio::spawn(connection);
        let inner = tower::service_fn(async |_: http::Request<Incoming>| {
            std::future::pending::<Result<http::Response<tonic::body::Body>, std::convert::Infallible>>().await
        });
        let guarded = Guard { inner, refused: Arc::default(), people: None };
        let mut sender = sender.ready().await.unwrap();
        let (answer, _) = sender.send_request(call(), true).unwrap();
        let began = tokio::time::Instant::now();
        let late = Caller::Late(NodeId::Device(DeviceId::from_bytes([1; 10])));
        serve_one(far, guarded, late, None, Some(LATE_CONNECTION_LIFE)).await;
        let lasted = began.elapsed();
        assert!(lasted >= LATE_CONNECTION_LIFE && lasted < 2 * LATE_CONNECTION_LIFE, "{lasted:?}");
        assert!(answer.await.is_err());
        drop((sender, driver));
    }

    /// A caller that opens streams before it has heard how many it may, and in the end hears that it may no more.
    struct Eager {
        sender: h2::client::SendRequest<bytes::Bytes>,
        answers: Vec<h2::client::ResponseFuture>,
        /// What the connection ends with.
        driver: tokio::task::JoinHandle<Result<(), h2::Error>>,
        serving: tokio::task::JoinHandle<()>,
    }

    fn call() -> http::Request<()> {
        http::Request::post("http://controller/umbra.v1.Nodes/Probe").body(()).unwrap()
    }

    /// So many calls at once, each of which takes one `go` to be answered.
    async fn call_at_once(count: usize, refused: &Arc<Refused>, go: &Arc<Semaphore>) -> Eager {
        let (near, far) = tokio::io::duplex(1 << 20);
        let mut builder = h2::client::Builder::new();
        let (sender, connection) = builder.initial_max_send_streams(count).handshake(near).await.unwrap();
        let mut sender = sender.ready().await.unwrap();
        let answers = (0..count).map(|_| sender.send_request(call(), true).unwrap().0).collect();
        let driver = tokio::spawn(connection);
        let go = Arc::clone(go);
        let inner = tower::service_fn(move |_: http::Request<Incoming>| {
            let go = Arc::clone(&go);
            async move {
                go.acquire().await.unwrap().forget();
                Ok::<_, std::convert::Infallible>(http::Response::new(tonic::body::Body::default()))
            }
        });
        let caller = Caller::Device(DeviceId::from_bytes([1; 10]));
        let guarded = Guard { inner, refused: Arc::clone(refused), people: None };
        let serving = tokio::spawn(serve_one(far, guarded, caller, None, None));
        Eager { sender, answers, driver, serving }
    }

    #[tokio::test]
    async fn so_many_streams_are_open_at_once_and_more_when_they_are_answered() {
        let (refused, go) = (Arc::new(Refused::default()), Arc::new(Semaphore::new(0)));
        let most = RPC_STREAMS_MAX as usize;
        let mut eager = call_at_once(most + STREAMS_REFUSED_MAX, &refused, &go).await;
        // What is beyond is refused while all others wait.
        for beyond in eager.answers.split_off(most) {
            assert_eq!(beyond.await.unwrap_err().reason(), Some(h2::Reason::REFUSED_STREAM));
        }
        go.add_permits(most + 1);
        for answer in eager.answers {
            assert_eq!(answer.await.unwrap().status(), 200);
        }
        let mut sender = eager.sender.ready().await.unwrap();
        assert_eq!(sender.send_request(call(), true).unwrap().0.await.unwrap().status(), 200, "there is room again");
        assert_eq!(counted(&refused, "rpc_http2_broken"), 0);
        drop(sender);
        eager.driver.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_keeps_asking_for_more_streams_ends_and_is_counted() {
        let (refused, go) = (Arc::new(Refused::default()), Arc::new(Semaphore::new(0)));
        let eager = call_at_once(RPC_STREAMS_MAX as usize + STREAMS_REFUSED_MAX + 1, &refused, &go).await;
        eager.serving.await.unwrap();
        assert!(eager.driver.await.unwrap().is_err());
        assert_eq!(counted(&refused, "rpc_http2_broken"), 1);
        // The next connection is served.
        go.add_permits(1);
        let mut next = call_at_once(1, &refused, &go).await;
        assert_eq!(next.answers.pop().unwrap().await.unwrap().status(), 200);
        assert_eq!(counted(&refused, "rpc_http2_broken"), 1);
    }

    #[tokio::test]
    async fn one_connection_too_many_ends_the_nodes_oldest() {
        let (connections, other) = (Connections::default(), NodeId::Device(DeviceId::from_bytes([2; 10])));
        let node = NodeId::Device(DeviceId::from_bytes([1; 10]));
        let open = |node| {
            let task = tokio::spawn(std::future::pending::<()>());
            connections.add(node, task.abort_handle());
            task
        };
        let of_another = open(other);
        let mut tasks: Vec<_> = (0..RPC_CONNECTIONS_PER_NODE_MAX).map(|_| open(node)).collect();
        assert_eq!(counted(&connections.refused, "rpc_connections_full"), 0);
        tasks.push(open(node));
        assert_eq!(counted(&connections.refused, "rpc_connections_full"), 1);
        assert!(tasks.remove(0).await.unwrap_err().is_cancelled());
        assert!(tasks.iter().all(|task| !task.is_finished()) && !of_another.is_finished());
        // Those that ended by themselves take no place.
        let last = tasks.pop().unwrap();
        last.abort();
        assert!(last.await.is_err());
        tasks.push(open(node));
        assert_eq!(counted(&connections.refused, "rpc_connections_full"), 1);
        connections.close(node);
        for task in tasks {
            assert!(task.await.unwrap_err().is_cancelled());
        }
        assert!(!of_another.is_finished());
    }
}
