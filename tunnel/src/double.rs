//! What stands in for WireGuard in a simulation? Sessions by counters, without curves and without a clock of its own.
//!
//! Not for traffic: a public key is the private one, and a tag is 64 bits of an ordinary hash. What the rest of the engine
//! relies on is there all the same: an initiation or a datagram that came before is refused, a response needs the pre-shared
//! key, data opens only under the session's key and counter, and sessions end after three minutes (WireGuard paper, section 6.1).

use crate::api::PeerKind;
use crate::wire::{Door, Doors, INITIATION_LEN, Message, Opened, RESPONSE_LEN, Verdict, Wire, WireError};
use model::key::{PrivateKey, PublicKey};
use model::time::Instant;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const REKEY_AFTER: Duration = Duration::from_secs(120);
const REJECT_AFTER: Duration = Duration::from_secs(180);
/// Bytes of header and of tag around a packet.
const HEAD: usize = 16;
const TAG: usize = 16;

/// Makes doors without cryptography.
#[derive(Debug, Clone, Copy, Default)]
pub struct VirtualDoors;

struct VirtualDoor(PublicKey);

#[derive(Default)]
struct Session {
    local: u32,
    peer: u32,
    born: Instant,
    ours: bool,
    next: u64,
    seen: BTreeSet<u64>,
}

struct VirtualWire {
    public: PublicKey,
    remote: PublicKey,
    psk: [u8; 32],
    next_index: u32,
    pending: Vec<u32>,
    sessions: Vec<Session>,
    current: Option<u32>,
    newest_stamp: u64,
    stamp: u64,
}

/// The public key of a private one, in the double.
pub const fn public_of(key: &PrivateKey) -> PublicKey {
    PublicKey(*key.expose())
}

impl Doors for VirtualDoors {
    fn door(&self, key: &PrivateKey) -> Arc<dyn Door> {
        Arc::new(VirtualDoor(public_of(key)))
    }
}

impl Door for VirtualDoor {
    fn public(&self) -> PublicKey {
        self.0
    }
    fn judge(&self, _from: SocketAddr, datagram: &[u8]) -> Verdict {
        let ours = datagram.first() == Some(&2) || datagram.get(40..72) == Some(self.0.0.as_slice());
        if ours { Verdict::Admitted } else { Verdict::NotOurs }
    }
    fn sender(&self, initiation: &[u8]) -> Option<PublicKey> {
        initiation.get(8..40)?.try_into().ok().map(PublicKey)
    }
    fn open(&self, remote: &PublicKey, kind: &PeerKind, index: u32) -> Result<Box<dyn Wire>, WireError> {
        let psk = if let PeerKind::Pairing(psk) = kind { *psk.expose() } else { [0; 32] };
        Ok(Box::new(VirtualWire {
            public: self.0,
            remote: *remote,
            psk,
            next_index: index << 8,
            pending: Vec::new(),
            sessions: Vec::new(),
            current: None,
            newest_stamp: 0,
            stamp: 0,
        }))
    }
    fn second(&self) {}
}

/// The tag of a message from one static key to another.
fn tag(from: &PublicKey, to: &PublicKey, psk: &[u8; 32], text: &[u8]) -> [u8; TAG] {
    let mut hasher = DefaultHasher::new();
    for part in [&from.0[..], &to.0, psk, text] {
        hasher.write(part);
    }
    let mut tag = [0; TAG];
    tag.iter_mut().zip(hasher.finish().to_le_bytes()).for_each(|(t, byte)| *t = byte);
    tag
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

impl VirtualWire {
    fn index(&mut self) -> u32 {
        let count = self.next_index.wrapping_add(1) & 0xff;
        self.next_index = self.next_index & !0xff | count;
        self.next_index
    }

    fn seal(&mut self, packet: &[u8], to: &mut Vec<u8>) -> Option<()> {
        let current = self.current?;
        let session = self.sessions.iter_mut().find(|s| s.local == current)?;
        let start = to.len();
        to.extend([4, 0, 0, 0]);
        to.extend(session.peer.to_le_bytes());
        to.extend(session.next.to_le_bytes());
        to.extend(packet);
        session.next += 1;
        let tag = tag(&self.public, &self.remote, &self.psk, to.get(start..)?);
        to.extend(tag);
        Some(())
    }

    /// The text of a message that the far end made with the agreed keys.
    fn opened<'a>(&self, datagram: &'a [u8], psk: &[u8; 32]) -> Result<&'a [u8], WireError> {
        let (text, theirs) = datagram.split_at_checked(datagram.len().wrapping_sub(TAG)).ok_or(WireError::Malformed)?;
        if theirs == tag(&self.remote, &self.public, psk, text) { Ok(text) } else { Err(WireError::Forged) }
    }

    /// A handshake message of this length, with its tag at the end. An initiation does not prove the pre-shared key.
    fn handshake(&self, mut bytes: Vec<u8>, len: usize, psk: &[u8; 32]) -> Vec<u8> {
        bytes.resize(len - TAG, 0);
        let tag = tag(&self.public, &self.remote, psk, &bytes);
        bytes.extend(tag);
        bytes
    }

    fn answer(&mut self, now: Instant, datagram: &[u8]) -> Result<Opened, WireError> {
        let text = self.opened(datagram, &[0; 32])?;
        let (peer, stamp) = (word(text, 4), long(text, 72));
        if stamp <= self.newest_stamp {
            return Err(WireError::Replay);
        }
        self.newest_stamp = stamp;
        let local = self.index();
        self.sessions.push(Session { local, peer, born: now, ..Session::default() });
        let mut bytes = vec![2, 0, 0, 0];
        bytes.extend(local.to_le_bytes());
        bytes.extend(peer.to_le_bytes());
        Ok(Opened::Answer(self.handshake(bytes, RESPONSE_LEN, &self.psk), local))
    }

    fn establish(&mut self, now: Instant, datagram: &[u8], local: u32) -> Result<Opened, WireError> {
        if !self.pending.contains(&local) {
            return Err(WireError::Session);
        }
        let peer = word(self.opened(datagram, &self.psk)?, 4);
        self.pending.clear();
        self.sessions.push(Session { local, peer, born: now, ours: true, ..Session::default() });
        self.current = Some(local);
        let mut bytes = Vec::new();
        self.seal(&[], &mut bytes).map(|()| Opened::Established(bytes, local)).ok_or(WireError::Session)
    }

    fn open_data(&mut self, datagram: &[u8], local: u32, counter: u64, to: &mut Vec<u8>) -> Result<Opened, WireError> {
        let text = self.opened(datagram, &self.psk)?;
        let session = self.sessions.iter_mut().find(|s| s.local == local).ok_or(WireError::Session)?;
        if !session.seen.insert(counter) {
            return Err(WireError::Replay);
        }
        self.current = Some(local);
        match text.get(HEAD..) {
            Some(packet) if !packet.is_empty() => {
                to.clear();
                to.extend_from_slice(packet);
                Ok(Opened::Packet(packet.len()))
            }
            _ => Ok(Opened::Keepalive),
        }
    }
}

impl Wire for VirtualWire {
    fn tick(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.sessions.retain(|s| now.since(s.born) < REJECT_AFTER);
        let current = self.current?;
        let Some(session) = self.sessions.iter().find(|s| s.local == current) else {
            self.current = None;
            return None;
        };
        let rekey = session.ours && session.next > 1 && now.since(session.born) >= REKEY_AFTER;
        if rekey && self.pending.is_empty() { self.initiate(now) } else { None }
    }

    fn has_session(&self) -> bool {
        self.current.is_some()
    }

    fn encapsulate(&mut self, _now: Instant, packet: &[u8], to: &mut Vec<u8>) -> Result<(), WireError> {
        self.seal(packet, to).ok_or(WireError::Session)
    }

    fn initiate(&mut self, now: Instant) -> Option<Vec<u8>> {
        let index = self.index();
        self.pending.insert(0, index);
        self.pending.truncate(2);
        self.stamp = (self.stamp + 1).max(now.0);
        let mut bytes = vec![1, 0, 0, 0];
        bytes.extend(index.to_le_bytes());
        bytes.extend(self.public.0);
        bytes.extend(self.remote.0);
        bytes.extend(self.stamp.to_le_bytes());
        Some(self.handshake(bytes, INITIATION_LEN, &[0; 32]))
    }

    fn decapsulate(&mut self, now: Instant, datagram: &[u8], to: &mut Vec<u8>) -> Result<Opened, WireError> {
        match Message::read(datagram).ok_or(WireError::Malformed)? {
            Message::Initiation => self.answer(now, datagram),
            Message::Response(local) => self.establish(now, datagram, local),
            Message::Cookie(_) => Ok(Opened::Cookie),
            Message::Data(local, counter) => self.open_data(datagram, local, counter, to),
        }
    }
}
