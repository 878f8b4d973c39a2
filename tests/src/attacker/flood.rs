//! What does somebody send who wants a gateway to be busy, and what does somebody notice who downloads meanwhile?
//!
//! Initiations from forged addresses, made once and sent again and again, several with one call: what they cost the sender is
//! small beside what they cost whoever receives them.

use super::packet::udp;
use crate::bench::answers::read_ticks;
use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use host::clock::SystemClock;
use host::entropy;
use host::namespace::PacketSocket;
use model::key::PublicKey;
use model::time::Clock as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use tunnel::PeerKind;
use tunnel::wire::{Boring, Doors as _, INITIATION_LEN};

/// Different datagrams, each from another address and port.
const SHAPES: u32 = 2_048;
/// Frames of one call.
const AT_ONCE: u64 = 64;
/// The pause when nothing is due.
const PAUSE: Duration = Duration::from_micros(300);
/// A download's first moments do not count.
const WARM_UP: Duration = Duration::from_millis(500);
/// Ticks of /proc a second (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// Where it goes to.
pub struct Target<'a> {
    /// Our link.
    pub link: &'a str,
    /// The hardware address behind it, hexadecimal.
    pub mac: &'a str,
    /// Address and port, IPv4.
    pub to: SocketAddr,
    /// The far end's key, base 64: MAC1 holds. Without it, it does not.
    pub key: Option<&'a str>,
}

/// The public key of the node whose state this is, base 64.
pub fn show_key(state: &Path) -> anyhow::Result<()> {
    let identity = node::identity::Identity::load(state)?;
    let public = Boring::default().door(&identity.control_key).public();
    Ok(writeln!(io::stdout(), "{}", STANDARD.encode(public.0))?)
}

/// Sends so many a second for so long; prints how many went, and the processor time in seconds that it took.
pub fn pour(target: &Target<'_>, rate: u64, lasts: Duration) -> anyhow::Result<()> {
    let frames = frames(target)?;
    let socket = PacketSocket::open(target.link)?;
    let before = own_ticks()?;
    let (started, mut sent, mut tried) = (Instant::now(), 0_u64, 0_u64);
    let mut turn = frames.iter().map(Vec::as_slice).cycle();
    let mut batch = Vec::new();
    while started.elapsed() < lasts {
        let due = rate.saturating_mul(u64::try_from(started.elapsed().as_micros())?) / 1_000_000;
        let count = due.saturating_sub(tried).min(AT_ONCE);
        if count < AT_ONCE.min(rate / 1_000) {
            thread::sleep(PAUSE);
            continue;
        }
        batch.clear();
        batch.extend(turn.by_ref().take(usize::try_from(count)?));
        sent += u64::try_from(socket.send_all(&batch).unwrap_or(0))?;
        tried += count;
    }
    let cost = own_ticks()?.saturating_sub(before) as f64 / TICKS_PER_SECOND;
    Ok(writeln!(io::stdout(), "{sent} {cost}")?)
}

fn own_ticks() -> anyhow::Result<u64> {
    read_ticks(&fs::read_to_string("/proc/self/stat")?).context("/proc/self/stat is not as it should be")
}

/// Frames as a packet socket takes them.
fn frames(target: &Target<'_>) -> anyhow::Result<Vec<Vec<u8>>> {
    let mac: Vec<u8> = super::hex_bytes(target.mac).context("a hardware address is hexadecimal")?;
    ensure!(mac.len() == 6, "a hardware address has 6 bytes");
    let key: Option<[u8; 32]> =
        target.key.map(|key| STANDARD.decode(key)?.try_into().ok().context("a key has 32 bytes")).transpose()?;
    let clock = SystemClock::new();
    let frame = |number: u32| {
        let payload = match key {
            Some(key) => {
                let own = node::enrol::fresh_key()?;
                let mut wire = Boring::default().door(&own).open(&PublicKey(key), &PeerKind::Control, number)?;
                wire.initiate(clock.now()).context("no initiation")?
            }
            None => {
                let noise: [u8; INITIATION_LEN] = entropy::random()?;
                [&[1, 0, 0, 0], noise.get(4..).unwrap_or_default()].concat()
            }
        };
        let [.., high, low] = number.to_be_bytes();
        // As a /16 of its own, which the lab's gateway answers by way of the sender.
        let from = SocketAddr::from((Ipv4Addr::new(172, 16, high.wrapping_mul(31), low), 1_024 + number as u16));
        let note = [0; super::NOTE_LEN];
        let ethernet = [&mac[..], &[2, 0, 0, 0, 0, 0x66], &[0x08, 0]].concat();
        Ok([&note[..], &ethernet, &udp(from, target.to, &payload)].concat())
    };
    (0..SHAPES).map(frame).collect()
}

/// Downloads for so long; prints bytes a second.
pub fn download(from: &str, lasts: Duration) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(from).with_context(|| format!("connect to {from}"))?;
    stream.set_read_timeout(Some(lasts))?;
    write!(stream, "GET /bytes/1000000000000 HTTP/1.1\r\nHost: {from}\r\nConnection: close\r\n\r\n")?;
    let (began, mut buffer) = (Instant::now(), vec![0; 1 << 18]);
    let mut counted = (0_usize, None);
    while began.elapsed() < WARM_UP + lasts {
        let count = stream.read(&mut buffer)?;
        ensure!(count > 0, "the download ended");
        if began.elapsed() >= WARM_UP {
            counted = (counted.0 + count, counted.1.or_else(|| Some(Instant::now())));
        }
    }
    let since = counted.1.context("nothing arrived")?;
    Ok(writeln!(io::stdout(), "{:.0}", counted.0 as f64 / since.elapsed().as_secs_f64())?)
}
