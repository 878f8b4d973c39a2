//! The engine without what makes it a perimeter: TUN, segments, one WireGuard tunnel, UDP. No filter, no flows, no rewriting, no
//! fragments, no routes, no controller. What Umbra costs more than this is what its checks cost.

use anyhow::Context as _;
use host::clock::SystemClock;
use host::entropy::random;
use host::offload::Steps;
use host::tun::Tun;
use host::udp::Udp;
use model::ids::PairingId;
use model::key::{PrivateKey, Psk, PublicKey};
use model::limits::{BATCH_BYTES_MAX, BATCH_FRAMES_MAX};
use model::packet::{Frame, Gso, GsoKind, Local, Spare, Train};
use model::time::Clock as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tunnel::coalesce::Coalescer;
use tunnel::headers::Packet;
use tunnel::peer::Peer;
use tunnel::segment::{Cut, leave_checksum, prepare};
use tunnel::wire::{Boring, Doors as _};
use tunnel::{Out, PeerId, PeerKind};

/// How often the timers run.
const TICK: Duration = Duration::from_millis(250);
/// The end that begins keeps the tunnel alive.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// How it is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The TUN device
    device: String,
    /// Our private key, in hexadecimal
    #[arg(long)]
    key: String,
    /// The far end's public key, in hexadecimal
    #[arg(long)]
    far: String,
    #[arg(long, default_value_t = 0)]
    listen: u16,
    /// Where the far end is, on the end that begins
    #[arg(long)]
    endpoint: Option<SocketAddr>,
}

struct Bare {
    tun: Tun,
    udp: Udp,
    peer: Peer,
    clock: SystemClock,
}

/// Runs one end, says `the bare engine runs`, and stays.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let key = |text: &str| {
        let bytes = crate::attacker::hex_bytes(text).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        bytes.context("a key has 32 bytes")
    };
    let door = Boring::default().door(&PrivateKey::new(key(&arguments.key)?));
    let (id, psk) = (PairingId::from_bytes(random()?), Psk::new([0; 32]));
    let (id, kind, far) = (PeerId::Pairing(id), PeerKind::Pairing(psk), PublicKey(key(&arguments.far)?));
    let peer = Peer::new(id, kind, door, far, 1, Arc::default());
    let endpoints: Vec<_> = arguments.endpoint.into_iter().collect();
    peer.settings().configure(&endpoints, arguments.endpoint.map(|_| KEEPALIVE));
    let bare = Arc::new(Bare {
        tun: Tun::open_with(&arguments.device, super::stage::MTU, Steps::ALL)?,
        udp: Udp::bind_with(arguments.listen, Steps::ALL)?,
        peer,
        clock: SystemClock::new(),
    });
    let (up, down) = (Arc::clone(&bare), Arc::clone(&bare));
    thread::Builder::new().name("tun-to-udp".to_owned()).spawn(move || up.pump_tun())?;
    thread::Builder::new().name("udp-to-tun".to_owned()).spawn(move || down.pump_udp())?;
    writeln!(io::stdout(), "the bare engine runs")?;
    let mut out = Out::with(bare.tun.offloads());
    loop {
        bare.peer.tick(bare.clock.now(), &mut out);
        bare.leave(&mut out);
        thread::sleep(TICK);
    }
}

impl Bare {
    fn leave(&self, out: &mut Out) {
        self.udp.send(&out.udp);
        out.clear();
    }

    fn pump_tun(&self) {
        // As in the real path, here and there; without it only the wait under load is longer.
        let _same_as_ours = host::turn::SENDING.take();
        let (mut frame, mut segment, mut out) = (Frame::default(), Vec::new(), Out::with(self.tun.offloads()));
        while self.tun.read(&mut frame).is_ok() {
            let mut frames = 0;
            loop {
                self.seal(&mut frame, &mut segment, &mut out);
                frames += 1;
                let collected: usize = out.udp.iter().map(|train| train.bytes.len()).sum();
                if frames >= BATCH_FRAMES_MAX
                    || collected >= BATCH_BYTES_MAX
                    || !self.tun.try_read(&mut frame).unwrap_or(false)
                {
                    break;
                }
            }
            self.leave(&mut out);
        }
    }

    fn seal(&self, frame: &mut Frame, segment: &mut Vec<u8>, out: &mut Out) {
        let now = self.clock.now();
        let (Ok(()), Ok(mut tunnel)) = (prepare(frame), self.peer.lock(now)) else { return };
        if frame.gso.kind == GsoKind::None {
            tunnel.send(now, &frame.bytes, out);
            return;
        }
        let cut = Packet::parse(&frame.bytes).and_then(|packet| Cut::check(&frame.bytes, &packet, &frame.gso));
        let Ok(cut) = cut else { return };
        for number in 0..cut.count() {
            cut.segment(&frame.bytes, number, segment);
            tunnel.send(now, segment, out);
        }
    }

    fn pump_udp(&self) {
        let _same_as_ours = host::turn::RECEIVING.take();
        let mut train = Train::datagram(([0, 0, 0, 0], 0).into(), Local::default(), Vec::new());
        let (mut out, mut opened, mut frames) = (Out::default(), Vec::new(), Vec::new());
        let mut spare = Spare::default();
        while self.udp.recv(&mut train).is_ok() {
            let now = self.clock.now();
            let mut coalescer = Coalescer::new(self.tun.offloads());
            if let Ok(mut tunnel) = self.peer.lock(now) {
                for datagram in train.datagrams() {
                    let received = tunnel.receive(now, (train.addr, train.local), datagram, &mut opened, &mut out);
                    let packet = received.ok().and_then(|received| opened.get(..received.packet?));
                    if let Some(packet) = packet {
                        coalescer.push(packet, &mut frames, &mut spare);
                    }
                }
            }
            coalescer.close(&mut frames);
            for mut frame in frames.drain(..) {
                if frame.gso != Gso::NONE
                    && let Ok(packet) = Packet::parse(&frame.bytes)
                {
                    leave_checksum(&mut frame, &packet);
                }
                // While the device is down, nothing can be delivered.
                let _lost = self.tun.write(&frame);
                spare.give(frame.bytes);
            }
            self.leave(&mut out);
        }
    }
}
