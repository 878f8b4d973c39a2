//! How do commands reach a program on this machine? Over a Unix socket whose other end the kernel names: the socket's mode
//! keeps others out, and who connects is looked at all the same.

use crate::cli::{ADMIN_GROUP, Exit, Failure};
use host::accounts;
use host::local::{LocalError, LocalListener, Peer};
use hyper_util::rt::TokioIo;
use model::limits::{ADMIN_CALL_MAX, ADMIN_CONNECTIONS_MAX};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};

/// Listens at `path`. The socket belongs to the group, where there is one.
pub fn bind(path: &Path) -> Result<LocalListener, LocalError> {
    let group = accounts::group_id(ADMIN_GROUP);
    LocalListener::bind(path, if group.is_some() { 0o660 } else { 0o600 }, group)
}

/// A connection with what was found of its other end; and its place among those that there may be.
pub struct Connection<Who> {
    stream: UnixStream,
    who: Who,
    _place: OwnedSemaphorePermit,
}

/// Accepts connections for as long as the future runs; `identify` looks at who each comes from.
pub fn accept<Who: Send>(
    listener: LocalListener,
    identify: impl Fn(&Peer) -> Who + Send,
) -> (impl Future<Output = ()> + Send, ReceiverStream<io::Result<Connection<Who>>>) {
    accept_some(listener, ADMIN_CONNECTIONS_MAX, move |peer| Some(identify(peer)))
}

/// The same with so many places; whom `identify` does not take, the connection is closed.
pub fn accept_some<Who: Send>(
    listener: LocalListener,
    places: usize,
    identify: impl Fn(&Peer) -> Option<Who> + Send,
) -> (impl Future<Output = ()> + Send, ReceiverStream<io::Result<Connection<Who>>>) {
    let places = Arc::new(Semaphore::new(places));
    let (sender, incoming) = mpsc::channel(1);
    let accepting = async move {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let Some(who) = identify(&peer) else { continue };
                    if sender.send(Ok(Connection { stream, who, _place: place })).await.is_err() {
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
    (accepting, ReceiverStream::new(incoming))
}

/// What a command says of the program that it talks to.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// "controller".
    pub name: &'static str,
    /// The command that starts it.
    pub start: &'static str,
}

/// Connects to a program, or says what to do.
pub async fn connect(path: &Path, program: Program) -> Result<Channel, Failure> {
    let stream = UnixStream::connect(path).await.map_err(|error| refused(path, program, &error))?;
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_: http::Uri| {
        // One connection for one command: there is no second.
        let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        async move { stream.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost").timeout(ADMIN_CALL_MAX);
    endpoint.connect_with_connector(connector).await.map_err(|error| {
        Failure::new(Exit::NotConnected, format!("{} is not the {}'s socket: {error}", path.display(), program.name))
    })
}

/// What to do where no connection comes about.
pub fn refused(path: &Path, program: Program, error: &io::Error) -> Failure {
    let path = path.display();
    let Program { name, start } = program;
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Failure::new(Exit::Denied, format!("you may not open {path}: be root or in group `{ADMIN_GROUP}`"))
        }
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::new(
            Exit::NotConnected,
            format!(
                "no {name} answers at {path}: start it with `{start}` (or its service), or name its socket with --socket"
            ),
        ),
        _ => Failure::new(Exit::NotConnected, format!("cannot connect to {path}: {error}")),
    }
}

impl<Who: Clone + Send + Sync + 'static> Connected for Connection<Who> {
    type ConnectInfo = Who;
    fn connect_info(&self) -> Who {
        self.who.clone()
    }
}
impl<Who: Unpin> AsyncRead for Connection<Who> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}
impl<Who: Unpin> AsyncWrite for Connection<Who> {
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
    use std::os::unix::net::UnixStream as Caller;
    use tokio_stream::StreamExt as _;

    #[tokio::test]
    async fn so_many_local_connections_are_served_and_the_next_when_one_goes() {
        let random: [u8; 8] = host::entropy::random().expect("random");
        let folder = std::env::temp_dir().join(format!("umbra-local-{:016x}", u64::from_le_bytes(random)));
        std::fs::create_dir(&folder).expect("folder");
        let path = folder.join("test.sock");
        let (accepting, mut incoming) = accept(bind(&path).expect("bind"), |peer| peer.uid);
        let accepting = tokio::spawn(accepting);
        let _callers: Vec<_> = (0..=ADMIN_CONNECTIONS_MAX).map(|_| Caller::connect(&path).expect("connect")).collect();
        let mut held = Vec::new();
        for _ in 0..ADMIN_CONNECTIONS_MAX {
            held.push(incoming.next().await.expect("one more").expect("accepted"));
        }
        // All that could be done without a place is done when nothing else runs.
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        tokio::select! {
            biased;
            _ = incoming.next() => panic!("one too many"),
            () = std::future::ready(()) => {}
        }
        held.pop();
        held.push(incoming.next().await.expect("the one that waited").expect("accepted"));
        assert_eq!(held.len(), ADMIN_CONNECTIONS_MAX);
        accepting.abort();
        std::fs::remove_dir_all(&folder).expect("remove");
    }
}
