//! How does a node reach the controller's gRPC port? TCP through the TUN, TLS 1.3, HTTP/2, every limit set.

use crate::tls::{CONTROLLER_NAME, proven_peer};
use hyper_util::rt::TokioIo;
use model::ids::NodeId;
use model::limits::{RPC_MESSAGE_MAX, SILENCE_MAX, TLS_HANDSHAKE_MAX};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

/// Largest gRPC message, for both directions of every generated client.
pub const MESSAGE_MAX: usize = RPC_MESSAGE_MAX;

/// Why the controller could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// Nothing answered inside the tunnel.
    #[error("the controller does not answer inside the tunnel: {0}")]
    Connect(std::io::Error),
    /// It answered too slowly.
    #[error("the controller did not answer within {0:?}")]
    Timeout(Duration),
    /// It is not the controller of this organisation.
    #[error(
        "the controller's certificate is not accepted: {0}; if the organisation was made anew, this machine must join again"
    )]
    Identity(String),
    /// HTTP/2 failed.
    #[error("the control connection failed: {0}")]
    Http(#[from] tonic::transport::Error),
}

/// Where and how to connect.
#[derive(Clone)]
pub struct Target {
    /// The TUN device that the connection is bound to.
    pub device: String,
    /// Our overlay address.
    pub source: Ipv6Addr,
    /// The controller's overlay address and port.
    pub address: SocketAddr,
    /// The trust domain that the controller must prove.
    pub domain: String,
    /// TLS.
    pub tls: Arc<ClientConfig>,
}

impl Target {
    /// One TLS connection whose far end proved to be the controller.
    pub async fn connect(&self) -> Result<TlsStream<TcpStream>, ChannelError> {
        let limit = TLS_HANDSHAKE_MAX;
        tokio::time::timeout(limit, self.connect_unbounded()).await.map_err(|_| ChannelError::Timeout(limit))?
    }

    async fn connect_unbounded(&self) -> Result<TlsStream<TcpStream>, ChannelError> {
        let socket = TcpSocket::new_v6().map_err(ChannelError::Connect)?;
        socket.bind_device(Some(self.device.as_bytes())).map_err(ChannelError::Connect)?;
        socket.bind(SocketAddr::new(IpAddr::V6(self.source), 0)).map_err(ChannelError::Connect)?;
        let stream = socket.connect(self.address).await.map_err(ChannelError::Connect)?;
        stream.set_nodelay(true).map_err(ChannelError::Connect)?;
        let name = ServerName::try_from(CONTROLLER_NAME).map_err(|e| ChannelError::Identity(e.to_string()))?;
        let tls =
            TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await.map_err(|e| match e.kind() {
                std::io::ErrorKind::InvalidData => ChannelError::Identity(e.to_string()),
                _ => ChannelError::Connect(e),
            })?;
        match proven_peer(&self.domain, tls.get_ref().1.peer_certificates()) {
            Ok(NodeId::Controller) => Ok(tls),
            Ok(other) => Err(ChannelError::Identity(format!("it belongs to {other}"))),
            Err(error) => Err(ChannelError::Identity(error.to_string())),
        }
    }
}

/// Turns one proven connection into a gRPC channel. It does not reconnect: whoever holds it learns that it ended.
pub async fn channel_over(stream: TlsStream<TcpStream>) -> Result<Channel, ChannelError> {
    let slot = Arc::new(std::sync::Mutex::new(Some(stream)));
    let connector = tower::service_fn(move |_: http::Uri| {
        let taken = slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        async move {
            taken
                .map(TokioIo::new)
                .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::NotConnected, "the control connection ended"))
        }
    });
    let channel = Endpoint::from_static("http://controller.umbra.internal")
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .http2_keep_alive_interval(model::limits::PROBE_EVERY)
        .keep_alive_timeout(SILENCE_MAX)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await?;
    Ok(channel)
}
