//! What can an enrolled machine do to the controller's port, whose tunnel and certificate are good? More of everything than any
//! client would: connections that say nothing, handshakes of a byte a second, streams that are reset at once, bodies without end.

use anyhow::Context as _;
use bytes::Bytes;
use h2::client::SendRequest;
use model::pool::CONTROL_PORT;
use node::Identity;
use node::channel::Target;
use node::tls::node_config;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// Connections that are held at once.
const CROWD: usize = 400;
/// The beginning of a TLS record: a handshake of 512 bytes.
pub(super) const HELLO: [u8; 5] = [22, 3, 1, 2, 0];
/// Bytes of a part of an endless body.
pub(super) const PART: usize = 16 << 10;

/// Too much of what?
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum How {
    /// Connections that say nothing
    Silence,
    /// TLS handshakes of a byte a second
    Drip,
    /// Streams that are reset as soon as they are open (CVE-2023-44487)
    Reset,
    /// Bodies without an end
    Body,
    /// Connections that are whole, more than one node may have
    Whole,
}

/// Goes on for so long; says how often it was done.
pub fn rage(state: &Path, how: How, lasts: Duration) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let until = Instant::now() + lasts;
    let target = node_target(state)?;
    let done = runtime.block_on(async {
        match how {
            How::Silence | How::Drip => crowd(&target, how, until).await,
            How::Reset | How::Body => streams(&target, how, until).await,
            How::Whole => whole(&target, until).await,
        }
    })?;
    Ok(writeln!(io::stdout(), "{done}")?)
}

/// The controller's control port, through the tunnel of the program that runs with this identity.
pub(super) fn node_target(state: &Path) -> anyhow::Result<Target> {
    let identity = Identity::load(state)?;
    Ok(Target {
        device: "umbra0".to_owned(),
        source: identity.v6,
        address: SocketAddr::new(IpAddr::V6(identity.pool.controller()), CONTROL_PORT),
        domain: identity.trust_domain.clone(),
        tls: node_config(&[identity.authority()], Arc::new(identity.svid_slot()?))?,
    })
}

async fn connect(target: &Target) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v6()?;
    socket.bind_device(Some(target.device.as_bytes()))?;
    socket.bind(SocketAddr::new(IpAddr::V6(target.source), 0))?;
    socket.connect(target.address).await
}

/// Connections that last as long as the controller lets them; each that ends is followed by another.
async fn crowd(target: &Target, how: How, until: Instant) -> anyhow::Result<u64> {
    let one = |target: Target| async move {
        let Ok(mut stream) = connect(&target).await else { return };
        for byte in HELLO.into_iter().chain(std::iter::repeat(0)) {
            if how == How::Silence {
                let _closed = stream.readable().await;
                return;
            }
            if stream.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let mut held = JoinSet::new();
    let mut made = 0;
    while Instant::now() < until {
        while held.len() < CROWD {
            held.spawn(one(target.clone()));
            made += 1;
        }
        let _a_while = tokio::time::timeout(Duration::from_millis(100), held.join_next()).await;
    }
    Ok(made)
}

/// Connections that are whole and say nothing more; each takes the place of an older one.
async fn whole(target: &Target, until: Instant) -> anyhow::Result<u64> {
    let (mut held, mut made) = (Vec::new(), 0);
    while Instant::now() < until || made == 0 {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        let Ok(Ok(stream)) = tokio::time::timeout(left, target.connect()).await else { continue };
        let (sender, connection) = h2::client::handshake(stream).await.context("no HTTP/2")?;
        held.push((sender, tokio::spawn(connection)));
        made += 1;
        if held.len() > CROWD {
            held.remove(0).1.abort();
        }
    }
    held.iter().for_each(|(_, driver)| driver.abort());
    Ok(made)
}

/// Streams on connections that are whole; one that the controller ends is followed by another.
async fn streams(target: &Target, how: How, until: Instant) -> anyhow::Result<u64> {
    let mut made = 0;
    while Instant::now() < until {
        let Ok(stream) = target.connect().await else { continue };
        let (sender, connection) = h2::client::handshake(stream).await.context("no HTTP/2")?;
        let driver = tokio::spawn(connection);
        let left = until.saturating_duration_since(Instant::now());
        // Ended by the controller or by time: what counts is how many there were.
        let _ended = tokio::time::timeout(left, open(sender, how, &mut made)).await;
        driver.abort();
    }
    Ok(made)
}

async fn open(sender: SendRequest<Bytes>, how: How, made: &mut u64) -> anyhow::Result<()> {
    let mut sender = sender;
    let mut bodies = JoinSet::new();
    loop {
        sender = sender.ready().await?;
        let request = http::Request::post("http://controller.umbra.internal/umbra.v1.Nodes/Probe")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let (answer, mut body) = sender.send_request(request, false)?;
        *made += 1;
        if how == How::Reset {
            body.send_reset(h2::Reason::CANCEL);
            // Others get a turn.
            tokio::task::yield_now().await;
            continue;
        }
        bodies.spawn(async move {
            let _answer = answer;
            // A message of 1 GB, as its head says.
            let mut part = Bytes::from_static(&[0, 0x40, 0, 0, 0]);
            while body.send_data(part, false).is_ok() {
                part = Bytes::from(vec![0; PART]);
                body.reserve_capacity(PART);
                if std::future::poll_fn(|context| body.poll_capacity(context)).await.is_none() {
                    return;
                }
            }
        });
    }
}
