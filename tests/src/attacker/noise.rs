//! What does a stranger send who knows a public key, or who has the same link?

use super::packet::advertisement;
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use host::clock::SystemClock;
use host::entropy;
use host::namespace::PacketSocket;
use model::key::PublicKey;
use model::net::Prefix;
use model::secret::Secret;
use model::time::Clock as _;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;
use tunnel::PeerKind;
use tunnel::wire::{Boring, Doors as _};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(500);
/// The router that is claimed to be.
const ROUTER: [u16; 8] = [0xfe80, 0, 0, 0, 0, 0, 0, 0x66];

/// All of them well-formed: the right size, the right MAC1.
pub fn make(to: SocketAddr, key: &str, knocks: u32, initiations: u32) -> anyhow::Result<()> {
    let key: [u8; 32] = STANDARD.decode(key)?.try_into().ok().context("a key has 32 bytes")?;
    let key = PublicKey(key);
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(to)?;
    let clock = SystemClock::new();
    for _ in 0..knocks {
        let secret = Secret::new(entropy::random()?);
        let knock =
            tunnel::knock::build(&secret, &key, clock.wall(), &PublicKey(entropy::random()?), entropy::random()?);
        send(&socket, &knock)?;
    }
    for _ in 0..initiations {
        let own = node::enrol::fresh_key()?;
        let mut wire = Boring::default().door(&own).open(&key, &PeerKind::Control, 1)?;
        let initiation = wire.initiate(clock.now()).context("no initiation")?;
        send(&socket, &initiation)?;
    }
    let (mut datagrams, mut bytes) = (0_u64, 0_usize);
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; 65_536];
    while let Ok(length) = socket.recv(&mut buffer) {
        datagrams += 1;
        bytes += length;
    }
    Ok(writeln!(io::stdout(), "{datagrams} {bytes}")?)
}

/// A port that is closed, or a full buffer, does not stop an attacker.
fn send(socket: &UdpSocket, datagram: &[u8]) -> io::Result<()> {
    match socket.send(datagram) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// Says it to everybody on the link.
pub fn advertise(link: &str, prefixes: &[Prefix]) -> io::Result<()> {
    let packet = advertisement(IpAddr::from(ROUTER), prefixes);
    let ethernet = [&[0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0x66, 0x86, 0xdd][..], &packet].concat();
    PacketSocket::open(link)?.send(&[&[0; super::NOTE_LEN][..], &ethernet].concat()).map(drop)
}
