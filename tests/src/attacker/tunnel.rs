//! Our own end of a WireGuard tunnel, opened by hand, beside any program that would keep to its rules.

use anyhow::{Context as _, bail};
use host::clock::SystemClock;
use model::key::{PrivateKey, PublicKey};
use model::time::{Clock as _, Instant};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tunnel::PeerKind;
use tunnel::wire::{Boring, Doors as _, Opened, Wire};

/// An initiation is sent again after this.
const RETRY: Duration = Duration::from_secs(1);
/// Then there is no tunnel.
const TRIES_MAX: u32 = 10;

/// The end.
pub struct End {
    socket: UdpSocket,
    wire: Mutex<Box<dyn Wire>>,
    clock: SystemClock,
}

impl End {
    /// Without a session yet.
    pub fn new(
        to: SocketAddr,
        key: &PrivateKey,
        far: &PublicKey,
        kind: &PeerKind,
        number: u32,
    ) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.connect(to)?;
        let wire = Mutex::new(Boring::default().door(key).open(far, kind, number)?);
        Ok(Self { socket, wire, clock: SystemClock::new() })
    }

    /// Initiates until the far end answers; each time after this.
    pub fn shake_hands(&self, first: impl Fn(&UdpSocket) -> anyhow::Result<()>) -> anyhow::Result<()> {
        self.socket.set_read_timeout(Some(RETRY))?;
        for _ in 0..TRIES_MAX {
            first(&self.socket)?;
            let initiation = self.with(|wire, now| wire.initiate(now)).context("no initiation")?;
            self.socket.send(&initiation)?;
            if self.receive().is_ok() && self.with(|wire, _| wire.has_session()) {
                return Ok(self.socket.set_read_timeout(None)?);
            }
        }
        bail!("the far end does not answer")
    }

    fn with<T>(&self, work: impl FnOnce(&mut dyn Wire, Instant) -> T) -> T {
        let mut wire = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let _by_hand = wire.tick(now);
        work(wire.as_mut(), now)
    }

    /// The packet in the next datagram, if there is one in it.
    pub fn receive(&self) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; 65_536];
        let length = self.socket.recv(&mut buffer)?;
        let mut packet = Vec::new();
        let opened =
            self.with(|wire, now| wire.decapsulate(now, buffer.get(..length).unwrap_or_default(), &mut packet));
        Ok(match opened {
            Ok(Opened::Packet(length)) => {
                packet.truncate(length);
                Some(packet)
            }
            Ok(Opened::Answer(answer, _) | Opened::Established(answer, _)) => {
                self.socket.send(&answer)?;
                None
            }
            _ => None,
        })
    }

    /// Sends a packet inside.
    pub fn send(&self, packet: &[u8]) -> anyhow::Result<()> {
        let mut sealed = Vec::new();
        self.with(|wire, now| wire.encapsulate(now, packet, &mut sealed))?;
        self.socket.send(&sealed)?;
        Ok(())
    }
}
