//! What can an enrolled machine do to the controller's port, whose tunnel and certificate are good? More of everything than any
//! client would: connections that say nothing, handshakes of a byte a second, streams that are reset at once, bodies without end.

use super::http2::{HELLO, HUGE, PART, connect, request};
use anyhow::Context as _;
use bytes::Bytes;
use h2::client::SendRequest;
use model::limits::RPC_STREAMS_MAX;
use model::pool::CONTROL_PORT;
use node::Identity;
use node::channel::Target;
use node::tls::node_config;
use std::future::poll_fn;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::task::JoinSet;

/// What every enrolled node may call.
const PROBE: &str = "/umbra.v1.Nodes/Probe";
/// Connections that are held at once.
const CROWD: usize = 400;
/// Streams that are opened on one connection before it is heard how many there may be.
const AT_ONCE: usize = 4 * RPC_STREAMS_MAX as usize;

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
    /// Streams whose requests do not end, more than one connection may have
    Streams,
}

/// Goes on for so long; says how often it was done.
pub fn rage(state: &Path, how: How, lasts: Duration) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let until = Instant::now() + lasts;
    let target = node_target(state)?;
    let done = runtime.block_on(async {
        match how {
            How::Silence | How::Drip => crowd(&target, how, until).await,
            How::Reset | How::Body | How::Streams => streams(&target, how, until).await,
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
        let left = until.saturating_duration_since(Instant::now());
        if how == How::Streams {
            let _ended = tokio::time::timeout(left, open_at_once(stream, &mut made)).await;
            continue;
        }
        let (sender, connection) = h2::client::handshake(stream).await.context("no HTTP/2")?;
        let driver = tokio::spawn(connection);
        // Ended by the controller or by time: what counts is how many there were.
        let _ended = tokio::time::timeout(left, open(sender, how, &mut made)).await;
        driver.abort();
    }
    Ok(made)
}

/// All of them are on their way before it is heard how many there may be; then until the connection ends.
async fn open_at_once(mut stream: impl AsyncRead + AsyncWrite + Unpin, made: &mut u64) -> anyhow::Result<()> {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let mut builder = h2::client::Builder::new();
    let opened = builder.initial_max_send_streams(AT_ONCE).handshake::<_, Bytes>(near);
    let (sender, connection) = opened.await.context("no HTTP/2")?;
    let (mut sender, mut connection, mut held) = (sender.ready().await?, pin!(connection), Vec::new());
    for _ in 0..AT_ONCE {
        held.push(sender.send_request(request(PROBE)?, false)?);
        *made += 1;
    }
    // Writes all of it, and has nothing to read yet.
    poll_fn(|context| Poll::Ready(connection.as_mut().poll(context).is_ready())).await;
    tokio::select! {
        ended = connection => Ok(ended?),
        carried = copy_bidirectional(&mut far, &mut stream) => Ok(carried.map(drop)?),
    }
}

async fn open(sender: SendRequest<Bytes>, how: How, made: &mut u64) -> anyhow::Result<()> {
    let mut sender = sender;
    let mut bodies = JoinSet::new();
    loop {
        sender = sender.ready().await?;
        let (answer, mut body) = sender.send_request(request(PROBE)?, false)?;
        *made += 1;
        if how == How::Reset {
            body.send_reset(h2::Reason::CANCEL);
            // Others get a turn.
            tokio::task::yield_now().await;
            continue;
        }
        bodies.spawn(async move {
            let _answer = answer;
            let mut part = Bytes::from_static(HUGE);
            while body.send_data(part, false).is_ok() {
                part = Bytes::from(vec![0; PART]);
                body.reserve_capacity(PART);
                if poll_fn(|context| body.poll_capacity(context)).await.is_none() {
                    return;
                }
            }
        });
    }
}
