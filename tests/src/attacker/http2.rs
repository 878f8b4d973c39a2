//! What do those need who speak HTTP/2 as no client does, through a tunnel?

use node::channel::Target;
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::net::{TcpSocket, TcpStream};

/// The beginning of a TLS record: a handshake of 512 bytes.
pub const HELLO: [u8; 5] = [22, 3, 1, 2, 0];
/// Bytes of a part of an endless body.
pub const PART: usize = 16 << 10;
/// The head of a gRPC message of 1 GB.
pub const HUGE: &[u8] = &[0, 0x40, 0, 0, 0];

/// TCP alone.
pub async fn connect(target: &Target) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v6()?;
    socket.bind_device(Some(target.device.as_bytes()))?;
    socket.bind(SocketAddr::new(IpAddr::V6(target.source), 0))?;
    socket.connect(target.address).await
}

/// The head of a gRPC call.
pub fn request(path: &str) -> Result<http::Request<()>, http::Error> {
    http::Request::post(format!("http://controller.umbra.internal{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
}
