//! Where is WireGuard itself? Behind two traits, so that everything above runs in virtual time in a test.
//!
//! [`Wire`] is the state of one tunnel, [`Door`] is one static key of ours at the socket: it judges handshake messages
//! before any tunnel is touched. [`Boring`] and its parts are the real ones, over boringtun's `noise::Tunn`; they alone
//! read a clock and entropy of their own.

use crate::api::PeerKind;
use blake2::digest::consts::U16;
use blake2::digest::{KeyInit, Mac};
use blake2::{Blake2s256, Blake2sMac, Digest};
use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519;
use model::key::{PrivateKey, PublicKey};
use model::limits::{COOKIES_PER_SECOND, DATAGRAM_MAX, HANDSHAKES_PER_SECOND, WIREGUARD_OVERHEAD};
use model::time::Instant;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a handshake initiation (WireGuard paper, section 5.4.2).
pub const INITIATION_LEN: usize = 148;
/// Bytes of a handshake response (section 5.4.3).
pub const RESPONSE_LEN: usize = 92;
/// Bytes of a cookie reply (section 5.4.7).
pub const COOKIE_LEN: usize = 64;
/// Bytes of MAC1 and of MAC2, the last two fields of a handshake message (section 5.4.4).
const MAC_LEN: usize = 16;
/// A data message whose counter is not below this is refused (section 6.1: Reject-After-Messages, 2^64 - 2^13 - 1).
pub const COUNTER_MAX: u64 = u64::MAX - (1 << 13);

/// What a datagram claims to be, by its type and size alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Type 1.
    Initiation,
    /// Type 2, with our index.
    Response(u32),
    /// Type 3, with our index.
    Cookie(u32),
    /// Type 4, with our index and the counter.
    Data(u32, u64),
}

impl Message {
    /// Reads type, size and index; the one place where a stranger's datagram is looked at first.
    pub fn read(datagram: &[u8]) -> Option<Self> {
        let word =
            |at: usize| datagram.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(u32::from_le_bytes);
        match (word(0)?, datagram.len()) {
            (1, INITIATION_LEN) => Some(Self::Initiation),
            (2, RESPONSE_LEN) => word(8).map(Self::Response),
            (3, COOKIE_LEN) => word(4).map(Self::Cookie),
            (4, WIREGUARD_OVERHEAD..=DATAGRAM_MAX) => {
                let counter = u64::from(word(8)?) | u64::from(word(12)?) << 32;
                word(4).map(|index| Self::Data(index, counter))
            }
            _ => None,
        }
    }
}

/// Why a datagram or packet did not pass; always answered with silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// No live session, or not the one that the datagram names.
    #[error("no session")]
    Session,
    /// It does not open under the session's key, or was not made with the agreed keys.
    #[error("not authentic")]
    Forged,
    /// Its counter or time stamp was seen before, or is too old.
    #[error("seen before")]
    Replay,
    /// What came out is no IP packet.
    #[error("no IP packet")]
    Inner,
    /// Too large to be sealed, or malformed.
    #[error("malformed")]
    Malformed,
    /// The far end's public key lies in a small subgroup: anybody knows the shared secret.
    #[error("low-order public key")]
    LowOrder,
}

/// The x coordinates below 2^255 whose points have an order that divides 8 (RFC 7748, section 6.1), little endian.
const LOW_ORDER: [[u8; 32]; 7] = {
    const fn edge(first: u8) -> [u8; 32] {
        let mut key = [0xff; 32];
        key[0] = first;
        key[31] = 0x7f;
        key
    }
    let mut one = [0; 32];
    one[0] = 1;
    [
        [0; 32],
        one,
        [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
            0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
        ],
        [
            0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
            0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
        ],
        edge(0xec),
        edge(0xed),
        edge(0xee),
    ]
};

/// Would every private key share the same secret with it? Such a key is nobody's.
pub fn is_low_order(key: &PublicKey) -> bool {
    let mut canonical = key.0;
    canonical[31] &= 0x7f;
    LOW_ORDER.contains(&canonical)
}

/// What an authentic datagram was.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// An IP packet of so many bytes, at the front of the buffer.
    Packet(usize),
    /// An empty packet.
    Keepalive,
    /// An initiation; the answer is to be sent to its source. The new session has this index of ours, and counts only
    /// when data comes under it.
    Answer(Vec<u8>, u32),
    /// A response to our initiation: a session with this index of ours; the datagram confirms it to the far end.
    Established(Vec<u8>, u32),
    /// A cookie for the next initiation.
    Cookie,
}

/// The state of one tunnel. Nothing here queues a packet or chooses an endpoint.
pub trait Wire: Send {
    /// Runs the timers; to be called before each use. Answers a datagram to be sent.
    fn tick(&mut self, now: Instant) -> Option<Vec<u8>>;
    /// Is there a session under which a packet can leave?
    fn has_session(&self) -> bool;
    /// Seals a packet (empty: a keepalive) behind what `to` holds, which stays as it was on an error;
    /// [`WireError::Session`] without a session.
    fn encapsulate(&mut self, now: Instant, packet: &[u8], to: &mut Vec<u8>) -> Result<(), WireError>;
    /// Opens a datagram that [`Message::read`] accepted. A packet is written to the front of `to`, which grows where it must;
    /// what lies behind the packet means nothing.
    fn decapsulate(&mut self, now: Instant, datagram: &[u8], to: &mut Vec<u8>) -> Result<Opened, WireError>;
    /// A fresh initiation, also when one is under way.
    fn initiate(&mut self, now: Instant) -> Option<Vec<u8>>;
}

/// What a door says of a handshake message.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// MAC1 does not hold: not made for this key.
    NotOurs,
    /// Go on.
    Admitted,
    /// Under load: answer with this cookie reply, and nothing else.
    Cookie(Vec<u8>),
    /// Under load, and it asks without a cookie when no more of them are given in this second.
    Crowded,
}

/// One static key of ours at the socket.
pub trait Door: Send + Sync {
    /// The public half.
    fn public(&self) -> PublicKey;
    /// Checks MAC1, counts, and under load MAC2, whose cookie proves address and port (WireGuard paper, sections 5.3 and 5.4.7).
    /// Types 1 and 2 only.
    fn judge(&self, from: SocketAddr, datagram: &[u8]) -> Verdict;
    /// Whose initiation is it? One Diffie-Hellman.
    fn sender(&self, initiation: &[u8]) -> Option<PublicKey>;
    /// The state of a tunnel. `index` has 24 bits.
    fn open(&self, remote: &PublicKey, kind: &PeerKind, index: u32) -> Result<Box<dyn Wire>, WireError>;
    /// To be called each second: load is counted by the second.
    fn second(&self);
}

/// Makes doors.
pub trait Doors: Send + Sync {
    /// The door of this private key.
    fn door(&self, key: &PrivateKey) -> Arc<dyn Door>;
}

/// Real WireGuard.
#[derive(Debug, Clone, Copy)]
pub struct Boring {
    /// Handshakes a second for each key, beyond which cookies are asked for.
    pub handshakes_per_second: u64,
}

impl Default for Boring {
    fn default() -> Self {
        Self { handshakes_per_second: HANDSHAKES_PER_SECOND }
    }
}

impl Doors for Boring {
    fn door(&self, key: &PrivateKey) -> Arc<dyn Door> {
        let secret = x25519::StaticSecret::from(*key.expose());
        let public = x25519::PublicKey::from(&secret);
        Arc::new(BoringDoor {
            limiter: RateLimiter::new(&public, self.handshakes_per_second),
            unlimited: Arc::new(RateLimiter::new(&public, u64::MAX)),
            limit: self.handshakes_per_second,
            genuine: AtomicU64::new(0),
            cookies: AtomicU64::new(0),
            mac1_key: Blake2s256::new().chain_update("mac1----").chain_update(public.as_bytes()).finalize().into(),
            secret,
            public,
        })
    }
}

struct BoringDoor {
    secret: x25519::StaticSecret,
    public: x25519::PublicKey,
    /// The one that counts; it sees every handshake message once.
    limiter: RateLimiter,
    /// What each `Tunn` gets, or every handshake would count twice.
    unlimited: Arc<RateLimiter>,
    limit: u64,
    /// Handshake messages in this second whose MAC1 held.
    genuine: AtomicU64,
    /// Cookies that were given in this second.
    cookies: AtomicU64,
    /// What MAC1 is made with (WireGuard paper, section 5.4.4).
    mac1_key: [u8; 32],
}

impl BoringDoor {
    /// Does it ask without a cookie? Its MAC2 is zero then (WireGuard paper, section 5.4.4).
    fn has_no_cookie(datagram: &[u8]) -> bool {
        datagram.last_chunk::<MAC_LEN>().is_some_and(|mac2| mac2.iter().all(|byte| *byte == 0))
    }

    fn mac1_holds(&self, datagram: &[u8]) -> bool {
        let Some((rest, _)) = datagram.split_last_chunk::<MAC_LEN>() else { return false };
        let Some((message, mac1)) = rest.split_last_chunk::<MAC_LEN>() else { return false };
        let mac = <Blake2sMac<U16> as KeyInit>::new(&self.mac1_key.into());
        mac.chain_update(message).verify(mac1.into()).is_ok()
    }
}

/// What a cookie is bound to: boringtun binds it to an address only, so address and port become one address. IPv4 with its port
/// fits; what does not fit is hashed, which nobody can make meet another on purpose.
fn bound_to(from: SocketAddr) -> IpAddr {
    let port = from.port().to_be_bytes();
    let mut bytes = [0; 16];
    match from.ip() {
        IpAddr::V4(address) => {
            let both = address.octets().into_iter().chain(port);
            bytes.iter_mut().zip(both).for_each(|(to, byte)| *to = byte);
        }
        IpAddr::V6(address) => {
            let hash = Blake2s256::new().chain_update(address.octets()).chain_update(port).finalize();
            bytes.iter_mut().zip(hash).for_each(|(to, byte)| *to = byte);
        }
    }
    IpAddr::V6(Ipv6Addr::from(bytes))
}

impl Door for BoringDoor {
    fn public(&self) -> PublicKey {
        PublicKey(self.public.to_bytes())
    }

    fn judge(&self, from: SocketAddr, datagram: &[u8]) -> Verdict {
        // Making a cookie takes as long as ten looks at MAC1: a flood gets so many and no more.
        if self.cookies.load(Ordering::Relaxed) >= COOKIES_PER_SECOND && Self::has_no_cookie(datagram) {
            if !self.mac1_holds(datagram) {
                return Verdict::NotOurs;
            }
            self.genuine.fetch_add(1, Ordering::Relaxed);
            return Verdict::Crowded;
        }
        let mut cookie = [0; COOKIE_LEN];
        let verdict = match self.limiter.verify_packet(Some(bound_to(from)), datagram, &mut cookie) {
            Ok(_) => Verdict::Admitted,
            Err(TunnResult::WriteToNetwork(reply)) => {
                self.cookies.fetch_add(1, Ordering::Relaxed);
                Verdict::Cookie(reply.to_vec())
            }
            Err(_) => return Verdict::NotOurs,
        };
        self.genuine.fetch_add(1, Ordering::Relaxed);
        verdict
    }

    fn sender(&self, initiation: &[u8]) -> Option<PublicKey> {
        let Ok(Packet::HandshakeInit(packet)) = Tunn::parse_incoming_packet(initiation) else { return None };
        let half = parse_handshake_anon(&self.secret, &self.public, &packet).ok()?;
        Some(PublicKey(half.peer_static_public))
    }

    fn open(&self, remote: &PublicKey, kind: &PeerKind, index: u32) -> Result<Box<dyn Wire>, WireError> {
        if is_low_order(remote) {
            return Err(WireError::LowOrder);
        }
        let psk = match kind {
            PeerKind::Pairing(psk) => Some(*psk.expose()),
            PeerKind::Provisional | PeerKind::Control => None,
        };
        let tunn = Tunn::new(
            self.secret.clone(),
            x25519::PublicKey::from(remote.0),
            psk,
            None,
            index,
            Some(self.unlimited.clone()),
        );
        Ok(Box::new(TunnWire { tunn }))
    }

    fn second(&self) {
        self.cookies.store(0, Ordering::Relaxed);
        // A flood that goes on is under load from the first message of each second: it is not given its first thousand
        // Diffie-Hellmans every second anew.
        if self.genuine.swap(0, Ordering::Relaxed) <= self.limit {
            self.limiter.reset_count();
        }
    }
}

/// boringtun's tunnel. Its persistent keepalive stays off, and its packet queue stays empty.
struct TunnWire {
    tunn: Tunn,
}

/// Room for the largest message that a `Tunn` writes of itself.
const SMALL: usize = INITIATION_LEN;

fn reason(error: &WireGuardError) -> WireError {
    match error {
        WireGuardError::NoCurrentSession
        | WireGuardError::WrongIndex
        | WireGuardError::UnexpectedPacket
        | WireGuardError::ConnectionExpired => WireError::Session,
        WireGuardError::WrongTai64nTimestamp
        | WireGuardError::InvalidTai64nTimestamp
        | WireGuardError::InvalidCounter
        | WireGuardError::DuplicateCounter => WireError::Replay,
        WireGuardError::InvalidAeadTag | WireGuardError::InvalidMac | WireGuardError::WrongKey => WireError::Forged,
        WireGuardError::InvalidPacket => WireError::Inner,
        _ => WireError::Malformed,
    }
}

fn written(result: &TunnResult<'_>) -> Option<Vec<u8>> {
    match result {
        TunnResult::WriteToNetwork(bytes) => Some(bytes.to_vec()),
        _ => None,
    }
}

impl Wire for TunnWire {
    fn tick(&mut self, _now: Instant) -> Option<Vec<u8>> {
        written(&self.tunn.update_timers(&mut [0; SMALL]))
    }

    fn has_session(&self) -> bool {
        self.tunn.time_since_last_handshake().is_some()
    }

    fn encapsulate(&mut self, _now: Instant, packet: &[u8], to: &mut Vec<u8>) -> Result<(), WireError> {
        if !self.has_session() {
            return Err(WireError::Session);
        }
        let len = packet.len() + WIREGUARD_OVERHEAD;
        if len > DATAGRAM_MAX {
            return Err(WireError::Malformed);
        }
        let start = to.len();
        to.resize(start + len.max(SMALL), 0);
        let written = match self.tunn.encapsulate(packet, to.get_mut(start..).unwrap_or_default()) {
            TunnResult::WriteToNetwork(bytes) => Ok(bytes.len()),
            TunnResult::Err(error) => Err(reason(&error)),
            _ => Err(WireError::Session),
        };
        to.truncate(start + written.unwrap_or(0));
        written.map(|_| ())
    }

    fn decapsulate(&mut self, _now: Instant, datagram: &[u8], to: &mut Vec<u8>) -> Result<Opened, WireError> {
        let message = Message::read(datagram).ok_or(WireError::Malformed)?;
        if matches!(message, Message::Data(_, counter) if counter >= COUNTER_MAX) {
            return Err(WireError::Replay);
        }
        let room = datagram.len().max(SMALL);
        if to.len() < room {
            to.resize(room, 0);
        }
        match (message, self.tunn.decapsulate(None, datagram, to)) {
            (_, TunnResult::Err(error)) => Err(reason(&error)),
            (Message::Initiation, TunnResult::WriteToNetwork(bytes)) => {
                let index = bytes.get(4..8).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
                Ok(Opened::Answer(bytes.to_vec(), index))
            }
            (Message::Response(index), TunnResult::WriteToNetwork(bytes)) => {
                Ok(Opened::Established(bytes.to_vec(), index))
            }
            (Message::Cookie(_), TunnResult::Done) => Ok(Opened::Cookie),
            (Message::Data(..), TunnResult::Done) => Ok(Opened::Keepalive),
            // boringtun opens at the front of the buffer.
            (Message::Data(..), TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _)) => {
                Ok(Opened::Packet(packet.len()))
            }
            _ => Err(WireError::Malformed),
        }
    }

    fn initiate(&mut self, _now: Instant) -> Option<Vec<u8>> {
        written(&self.tunn.format_handshake_initiation(&mut [0; SMALL], true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_order_keys_are_exactly_those_that_share_nothing() {
        let secret = x25519::StaticSecret::from([0x42; 32]);
        for mut key in LOW_ORDER {
            for top in [0, 0x80] {
                key[31] |= top;
                assert!(is_low_order(&PublicKey(key)));
                assert!(!secret.diffie_hellman(&x25519::PublicKey::from(key)).was_contributory());
                let door = Boring::default().door(&PrivateKey::new([7; 32]));
                assert_eq!(door.open(&PublicKey(key), &PeerKind::Control, 1).err(), Some(WireError::LowOrder));
            }
        }
        assert!(!is_low_order(&PublicKey(x25519::PublicKey::from(&secret).to_bytes())));
    }

    #[test]
    fn only_the_four_messages_of_wireguard_are_read() {
        let of = |kind: u8, len: usize| {
            let mut bytes = vec![0; len];
            bytes.iter_mut().take(1).for_each(|b| *b = kind);
            Message::read(&bytes)
        };
        assert_eq!(of(1, INITIATION_LEN), Some(Message::Initiation));
        assert_eq!(of(2, RESPONSE_LEN), Some(Message::Response(0)));
        assert_eq!(of(3, COOKIE_LEN), Some(Message::Cookie(0)));
        assert_eq!(of(4, WIREGUARD_OVERHEAD), Some(Message::Data(0, 0)));
        for len in 0..=2_000 {
            for kind in 0..=6 {
                let fits = [(1, INITIATION_LEN), (2, RESPONSE_LEN), (3, COOKIE_LEN)].contains(&(kind, len));
                assert_eq!(of(kind, len).is_some(), fits || (kind == 4 && len >= WIREGUARD_OVERHEAD), "{kind} {len}");
            }
        }
        assert_eq!(Message::read(&[4, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(Message::read(&[1]), None);
    }

    #[test]
    fn a_cookie_is_good_for_the_address_and_port_that_it_was_sent_to() {
        let now = Instant(1);
        let (ours, theirs) = (PrivateKey::new([7; 32]), PrivateKey::new([8; 32]));
        let door = Boring { handshakes_per_second: 0 }.door(&ours);
        for [own, other] in [["192.0.2.1", "192.0.2.2"], ["2001:db8::1", "2001:db8::2"]] {
            let at = |address: &str, port: u16| SocketAddr::new(address.parse().unwrap(), port);
            let mut wire = Boring::default().door(&theirs).open(&door.public(), &PeerKind::Control, 1).unwrap();
            let first = wire.initiate(now).unwrap();
            let Verdict::Cookie(cookie) = door.judge(at(own, 1_000), &first) else { panic!("no cookie under load") };
            assert_eq!(wire.decapsulate(now, &cookie, &mut Vec::new()), Ok(Opened::Cookie));
            let second = wire.initiate(now).unwrap();
            for elsewhere in [at(own, 1_001), at(own, 0), at(other, 1_000), at(own, 59_395), at(own, 2_000)] {
                assert!(matches!(door.judge(elsewhere, &second), Verdict::Cookie(_)), "{elsewhere}");
            }
            assert_eq!(door.judge(at(own, 1_000), &second), Verdict::Admitted);
        }
    }

    #[test]
    fn a_flood_gets_so_many_cookies_in_a_second_and_who_has_one_still_comes_in() {
        let (ours, theirs, others) = (PrivateKey::new([7; 32]), PrivateKey::new([8; 32]), PrivateKey::new([9; 32]));
        let door = Boring { handshakes_per_second: 0 }.door(&ours);
        let (now, from) = (Instant(1), SocketAddr::from(([192, 0, 2, 1], 1_000)));
        let mut wire = Boring::default().door(&theirs).open(&door.public(), &PeerKind::Control, 1).unwrap();
        let bare = wire.initiate(now).unwrap();
        let Verdict::Cookie(cookie) = door.judge(from, &bare) else { panic!("no cookie under load") };
        assert_eq!(wire.decapsulate(now, &cookie, &mut Vec::new()), Ok(Opened::Cookie));
        let given = (1..2 * COOKIES_PER_SECOND).filter(|_| matches!(door.judge(from, &bare), Verdict::Cookie(_)));
        assert_eq!(given.count() as u64, COOKIES_PER_SECOND - 1);
        assert_eq!(door.judge(from, &bare), Verdict::Crowded);
        assert_eq!(door.judge(from, &wire.initiate(now).unwrap()), Verdict::Admitted);
        // What is made for another key of ours is for that to judge.
        let other = Boring::default().door(&others);
        let mut wire = Boring::default().door(&theirs).open(&other.public(), &PeerKind::Control, 1).unwrap();
        assert_eq!(door.judge(from, &wire.initiate(now).unwrap()), Verdict::NotOurs);
        door.second();
        assert!(matches!(door.judge(from, &bare), Verdict::Cookie(_)), "the next second");
    }

    #[test]
    fn no_two_sources_are_bound_to_the_same() {
        let addresses = ["0.0.0.0", "1.2.3.4", "4.3.2.1", "::", "::1", "102:304::", "::ffff:1.2.3.4"];
        let all =
            addresses.iter().flat_map(|a| [0, 1, 256, 65_535].map(|port| SocketAddr::new(a.parse().unwrap(), port)));
        let bound: std::collections::BTreeSet<IpAddr> = all.map(bound_to).collect();
        assert_eq!(bound.len(), addresses.len() * 4);
    }
}
