//! What can somebody do who holds a join file and never ends an enrolment? Many provisional peers in one process, each with a key,
//! a tunnel and an address of its own, and far too much of everything at the enrolment port.

use super::http2::{HELLO, HUGE, PART, connect, request};
use super::tunnel::End;
use anyhow::Context as _;
use bytes::Bytes;
use host::offload::Steps;
use host::tun::Tun;
use model::key::PrivateKey;
use model::packet::{Frame, Gso};
use model::pool::ENROL_PORT;
use model::time::Clock as _;
use node::channel::Target;
use node::overlay::Overlay;
use node::successor::Authority;
use node::tls::enrolling_config;
use proto::join::JoinFile;
use proto::v1;
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;
use tunnel::PeerKind;

/// The device that the peers share.
const DEVICE: &str = "crowd0";
/// Connections that each peer tries to hold.
const EACH: usize = 8;

/// Too much of what?
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum How {
    /// TLS handshakes of a byte a second
    Drip,
    /// TLS, and then nothing
    Idle,
    /// Requests to enrol whose bodies have no end
    Body,
    /// Requests to enrol that are nonsense, one after the other
    Calls,
}

/// One provisional peer: knocks and shakes hands.
fn open(join: &JoinFile, endpoint: SocketAddr, key: &PrivateKey, number: u32) -> anyhow::Result<End> {
    let public = tunnel::keys::public_key(key);
    let end = End::new(endpoint, key, &join.controller_key, &PeerKind::Control, number)?;
    let clock = host::clock::SystemClock::new();
    end.shake_hands(|socket| {
        let nonce = host::entropy::random()?;
        socket.send(&tunnel::knock::build(&join.secret, &join.controller_key, clock.wall(), &public, nonce))?;
        // The controller makes a peer of it first.
        thread::sleep(Duration::from_millis(50));
        Ok(())
    })?;
    Ok(end)
}

/// Makes the peers, says `the crowd is there`, and goes on for so long; says each second how often it was done.
pub fn gather(join: &JoinFile, how: How, peers: u32, lasts: Duration) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = Arc::new(AtomicU64::new(0));
    runtime.block_on(async {
        let targets = assemble(join, peers).await?;
        writeln!(io::stdout(), "the crowd is there")?;
        let until = Instant::now() + lasts;
        let mut all = JoinSet::new();
        for target in targets {
            for _ in 0..EACH {
                all.spawn(press(target.clone(), how, until, Arc::clone(&done)));
            }
        }
        while Instant::now() < until {
            let _a_while = tokio::time::timeout(Duration::from_secs(1), all.join_next()).await;
            writeln!(io::stdout(), "{}", done.load(Ordering::Relaxed))?;
        }
        anyhow::Ok(())
    })?;
    // The threads that carry packets wait for packets.
    runtime.shutdown_background();
    Ok(())
}

/// Provisional peers whose tunnels are open: where each of them finds the enrolment port. They last until the process ends.
pub async fn assemble(join: &JoinFile, peers: u32) -> anyhow::Result<Vec<Target>> {
    let endpoint = node::link::resolve_endpoints(&join.endpoints).await.first().copied().context("no endpoint")?;
    let (tun, overlay) = Overlay::open(DEVICE, Steps::ONE_BY_ONE).await?;
    let mut ends = BTreeMap::new();
    for number in 1..=peers {
        let key = node::enrol::fresh_key()?;
        let address = tunnel::address::address_of_key(&join.pool, &tunnel::keys::public_key(&key));
        overlay.add_address(IpAddr::V6(address)).await?;
        ends.insert(address, Arc::new(open(join, endpoint, &key, number)?));
    }
    overlay.add_route(model::net::Prefix::host(IpAddr::V6(join.pool.controller())), None).await?;
    carry(Arc::new(tun), &ends);
    ends.keys().map(|address| target(join, *address)).collect()
}

/// Packets between the device and the tunnels: each address has its own.
fn carry(tun: Arc<Tun>, ends: &BTreeMap<Ipv6Addr, Arc<End>>) {
    for end in ends.values() {
        let (tun, end) = (Arc::clone(&tun), Arc::clone(end));
        thread::spawn(move || {
            loop {
                if let Ok(Some(bytes)) = end.receive() {
                    let _down = tun.write(&Frame { gso: Gso::NONE, bytes });
                }
            }
        });
    }
    let ends = ends.clone();
    thread::spawn(move || {
        let mut frame = Frame { gso: Gso::NONE, bytes: Vec::new() };
        while tun.read(&mut frame).is_ok() {
            let source = frame.bytes.get(8..24).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(Ipv6Addr::from);
            if let Some(end) = source.and_then(|source| ends.get(&source)) {
                // A full buffer loses a packet, as networks do.
                let _lost = end.send(&frame.bytes);
            }
        }
    });
}

fn target(join: &JoinFile, source: Ipv6Addr) -> anyhow::Result<Target> {
    Ok(Target {
        device: DEVICE.to_owned(),
        source,
        address: SocketAddr::new(IpAddr::V6(join.pool.controller()), ENROL_PORT),
        domain: join.trust_domain.clone(),
        tls: enrolling_config(&[Authority { key: join.controller_key, ca: join.ca.clone() }])?,
    })
}

/// One connection after the other; each lasts as long as the controller lets it.
async fn press(target: Target, how: How, until: Instant, done: Arc<AtomicU64>) {
    while Instant::now() < until {
        // Ended by the controller: what counts is that it goes on.
        let _ended = match how {
            How::Drip => drip(&target, &done).await,
            How::Idle | How::Body | How::Calls => speak(&target, how, &done).await,
        };
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn drip(target: &Target, done: &AtomicU64) -> anyhow::Result<()> {
    let mut stream = connect(target).await?;
    done.fetch_add(1, Ordering::Relaxed);
    for byte in HELLO.into_iter().chain(std::iter::repeat(0)) {
        stream.write_all(&[byte]).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

async fn speak(target: &Target, how: How, done: &AtomicU64) -> anyhow::Result<()> {
    let stream = target.connect().await?;
    let (mut sender, connection) = h2::client::handshake(stream).await?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    if how == How::Idle {
        done.fetch_add(1, Ordering::Relaxed);
        let _ended = driver.join_next().await;
        return Ok(());
    }
    loop {
        sender = sender.ready().await?;
        let (answer, mut body) = sender.send_request(request("/umbra.v1.Enrolment/Enroll")?, false)?;
        if how == How::Calls {
            let nonsense =
                v1::EnrollRequest { token: vec![7; 32], kind: 1, name: "x".repeat(64), ..Default::default() };
            let message = prost::Message::encode_to_vec(&nonsense);
            let head = [&[0][..], &u32::try_from(message.len())?.to_be_bytes()].concat();
            body.send_data([head, message].concat().into(), true)?;
            answer.await?;
            done.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        done.fetch_add(1, Ordering::Relaxed);
        body.send_data(Bytes::from_static(HUGE), false)?;
        loop {
            body.reserve_capacity(PART);
            let room = std::future::poll_fn(|context| body.poll_capacity(context)).await.context("reset")??;
            body.send_data(Bytes::from(vec![0; room.min(PART)]), false)?;
        }
    }
}
