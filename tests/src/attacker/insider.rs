//! What can a machine do that has joined, was granted something, and then breaks every rule that its own client holds?
//!
//! It takes a stopped client's identity, asks the controller for a resource as a client does, and opens the WireGuard
//! tunnel itself: whatever IP packet comes on the standard input, in hexadecimal, one a line, goes to the gateway inside
//! it; what the gateway sends inside is printed in the same form.

use super::{hex_bytes, hex_text};
use anyhow::{Context as _, anyhow, bail};
use host::offload::Steps;
use model::key::{PrivateKey, Psk, PublicKey};
use model::limits::{KEY_LIFE, PROBE_EVERY};
use model::time::Clock as _;
use node::boot::{self, Setup};
use proto::convert::array;
use proto::v1;
use proto::v1::connect_reply::Result as Outcome;
use proto::v1::devices_client::DevicesClient;
use std::io::{self, BufRead as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use tunnel::wire::{Boring, Doors as _, Opened, Wire};
use tunnel::{PeerKind, Role};

/// An initiation is sent again after this.
const RETRY: Duration = Duration::from_secs(1);
/// Then there is no tunnel.
const TRIES_MAX: u32 = 10;

/// The far end of a tunnel, as the controller told it.
struct Offer {
    gateway: PublicKey,
    endpoint: SocketAddr,
    psk: Psk,
}

/// Our end of the tunnel.
#[derive(Clone)]
struct End {
    socket: Arc<UdpSocket>,
    wire: Arc<Mutex<Box<dyn Wire>>>,
    clock: Arc<host::clock::SystemClock>,
}

/// Opens the tunnel and says `the tunnel is open`; goes on until its standard input ends.
pub fn hold(state: &Path, resource: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let key = node::enrol::fresh_key()?;
    let (_node, offer) = runtime.block_on(ask(state, resource, &tunnel::keys::public_key(&key)))?;
    let end = End::open(&key, offer)?;
    end.shake_hands()?;
    writeln!(io::stdout(), "the tunnel is open")?;
    let listening = end.clone();
    thread::spawn(move || listening.listen());
    for line in io::stdin().lock().lines() {
        end.send(&hex_bytes(&line?).context("no hexadecimal")?)?;
    }
    Ok(())
}

/// As a client does it: the control tunnel, then one question.
async fn ask(state: &Path, resource: &str, key: &PublicKey) -> anyhow::Result<(boot::Node, Offer)> {
    let setup = Setup {
        role: Role::Client,
        device: "umbra0".to_owned(),
        port: 0,
        state: state.to_owned(),
        probe_every: PROBE_EVERY,
        key_life: KEY_LIFE,
        steps: Steps::ALL,
    };
    let node = boot::resume(&setup).await?;
    tokio::spawn(Arc::clone(&node.link).run());
    let mut link = node.link.watch();
    let channel = link.wait_for(|state| state.channel.is_some()).await?.channel.clone().context("no channel")?;
    let question = v1::ConnectRequest {
        resource: resource.to_owned(),
        data_key: key.0.to_vec(),
        pairings: Vec::new(),
        avoid_gateways: Vec::new(),
    };
    let reply = DevicesClient::new(channel).connect(question).await?.into_inner();
    let offer = match reply.result.context("an empty answer")? {
        Outcome::Permit(permit) => permit.offer.context("no tunnel was offered")?,
        Outcome::Deny(deny) => bail!("denied: {}", deny.reasons.join("; ")),
    };
    let endpoint = offer.endpoints.into_iter().next().context("no endpoint")?;
    let offer = Offer {
        gateway: PublicKey(array("gateway_key", &offer.gateway_key)?),
        endpoint: endpoint.try_into()?,
        psk: Psk::new(array("psk", &offer.psk)?),
    };
    Ok((node, offer))
}

impl End {
    fn open(key: &PrivateKey, offer: Offer) -> anyhow::Result<Self> {
        let any = if offer.endpoint.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.connect(offer.endpoint)?;
        let wire = Boring::default().door(key).open(&offer.gateway, &PeerKind::Pairing(offer.psk), 1)?;
        let clock = Arc::new(host::clock::SystemClock::new());
        Ok(Self { socket: Arc::new(socket), wire: Arc::new(Mutex::new(wire)), clock })
    }

    fn with<T>(&self, work: impl FnOnce(&mut dyn Wire, model::time::Instant) -> T) -> T {
        let mut wire = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let _by_hand = wire.tick(now);
        work(wire.as_mut(), now)
    }

    fn shake_hands(&self) -> anyhow::Result<()> {
        self.socket.set_read_timeout(Some(RETRY))?;
        for _ in 0..TRIES_MAX {
            let initiation = self.with(|wire, now| wire.initiate(now)).context("no initiation")?;
            self.socket.send(&initiation)?;
            if self.receive().is_ok() && self.with(|wire, _| wire.has_session()) {
                self.socket.set_read_timeout(None)?;
                return Ok(());
            }
        }
        Err(anyhow!("the gateway does not answer"))
    }

    /// The packet in the next datagram, if there is one in it.
    fn receive(&self) -> io::Result<Option<Vec<u8>>> {
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

    fn listen(&self) {
        loop {
            // Errors are about what was sent before; what comes next may be good again.
            if let Ok(Some(packet)) = self.receive() {
                let _nobody_reads = writeln!(io::stdout(), "{}", hex_text(&packet));
            }
        }
    }

    fn send(&self, packet: &[u8]) -> anyhow::Result<()> {
        let mut sealed = Vec::new();
        self.with(|wire, now| wire.encapsulate(now, packet, &mut sealed))?;
        self.socket.send(&sealed)?;
        Ok(())
    }
}
