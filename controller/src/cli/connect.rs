//! How does a command reach the controller? Over its local socket.

use super::{Exit, Failure};
use hyper_util::rt::TokioIo;
use model::limits::{ADMIN_CALL_MAX, RPC_MESSAGE_MAX};
use proto::admin::admin_client::AdminClient;
use std::io;
use std::path::Path;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// A connection to the controller.
pub(super) type Client = AdminClient<Channel>;

/// Connects, or says what to do.
pub(super) async fn connect(path: &Path) -> Result<Client, Failure> {
    let stream = UnixStream::connect(path).await.map_err(|error| refused(path, &error))?;
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_: http::Uri| {
        // One connection for one command: there is no second.
        let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        async move { stream.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost").timeout(ADMIN_CALL_MAX);
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| {
        Failure::new(Exit::NotConnected, format!("{} is not the controller's socket: {error}", path.display()))
    })?;
    Ok(AdminClient::new(channel).max_decoding_message_size(RPC_MESSAGE_MAX).max_encoding_message_size(RPC_MESSAGE_MAX))
}

fn refused(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Failure::new(Exit::Denied, format!("you may not open {path}: be root or in group `umbra`"))
        }
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::new(
            Exit::NotConnected,
            format!(
                "no controller answers at {path}: start it with `umbra-controller serve`, or name its socket with --socket"
            ),
        ),
        _ => Failure::new(Exit::NotConnected, format!("cannot connect to {path}: {error}")),
    }
}
