//! WireGuard without cryptography and without a clock of its own: sessions by counters, keys in plain sight.

use crate::api::PeerKind;
use crate::wire::*;
use model::key::{PrivateKey, PublicKey};
use model::time::Instant;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

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

/// In the double, the public key is the private one.
pub fn double_public(n: u8) -> PublicKey {
    PublicKey([n; 32])
}

impl Doors for VirtualDoors {
    fn door(&self, key: &PrivateKey) -> Arc<dyn Door> {
        Arc::new(VirtualDoor(PublicKey(*key.expose())))
    }
}

impl Door for VirtualDoor {
    fn public(&self) -> PublicKey {
        self.0
    }
    fn judge(&self, _from: IpAddr, datagram: &[u8]) -> Verdict {
        let ours = datagram[0] == 2 || datagram[40..72] == self.0.0;
        if ours { Verdict::Admitted } else { Verdict::NotOurs }
    }
    fn sender(&self, initiation: &[u8]) -> Option<PublicKey> {
        Some(PublicKey(initiation[8..40].try_into().unwrap()))
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

impl VirtualWire {
    fn index(&mut self) -> u32 {
        let count = (self.next_index as u8).wrapping_add(1);
        self.next_index = self.next_index & !0xff | u32::from(count);
        self.next_index
    }
    fn seal(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let current = self.current?;
        let session = self.sessions.iter_mut().find(|s| s.local == current)?;
        let mut bytes = vec![4, 0, 0, 0];
        bytes.extend(session.peer.to_le_bytes());
        bytes.extend(session.next.to_le_bytes());
        bytes.extend(packet);
        bytes.extend([0; 16]);
        session.next += 1;
        Some(bytes)
    }
}

impl Wire for VirtualWire {
    fn tick(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.sessions.retain(|s| now.since(s.born) < Duration::from_secs(180));
        let current = self.current?;
        let Some(session) = self.sessions.iter().find(|s| s.local == current) else {
            self.current = None;
            return None;
        };
        let rekey = session.ours && session.next > 1 && now.since(session.born) >= Duration::from_secs(120);
        if rekey && self.pending.is_empty() { self.initiate(now) } else { None }
    }
    fn has_session(&self) -> bool {
        self.current.is_some()
    }
    fn encapsulate(&mut self, _now: Instant, packet: &[u8]) -> Result<Vec<u8>, WireError> {
        self.seal(packet).ok_or(WireError::Session)
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
        bytes.resize(INITIATION_LEN, 0);
        Some(bytes)
    }
    fn decapsulate(&mut self, now: Instant, datagram: &[u8]) -> Result<Opened, WireError> {
        let word = |at: usize| u32::from_le_bytes(datagram[at..at + 4].try_into().unwrap());
        match Message::read(datagram).ok_or(WireError::Malformed)? {
            Message::Initiation => {
                let stamp = u64::from_le_bytes(datagram[72..80].try_into().unwrap());
                if stamp <= self.newest_stamp {
                    return Err(WireError::Replay);
                }
                self.newest_stamp = stamp;
                let (local, peer) = (self.index(), word(4));
                self.sessions.push(Session { local, peer, born: now, ..Session::default() });
                let mut bytes = vec![2, 0, 0, 0];
                bytes.extend(local.to_le_bytes());
                bytes.extend(peer.to_le_bytes());
                bytes.extend(self.psk);
                bytes.resize(RESPONSE_LEN, 0);
                Ok(Opened::Answer(bytes, local))
            }
            Message::Response(local) => {
                if !self.pending.contains(&local) {
                    return Err(WireError::Session);
                }
                if datagram[12..44] != self.psk {
                    return Err(WireError::Forged);
                }
                self.pending.clear();
                self.sessions.push(Session { local, peer: word(4), born: now, ours: true, ..Session::default() });
                self.current = Some(local);
                Ok(Opened::Established(self.seal(&[]).unwrap(), local))
            }
            Message::Cookie(_) => Ok(Opened::Cookie),
            Message::Data(local, counter) => {
                let session = self.sessions.iter_mut().find(|s| s.local == local).ok_or(WireError::Session)?;
                if !session.seen.insert(counter) {
                    return Err(WireError::Replay);
                }
                self.current = Some(local);
                let packet = &datagram[16..datagram.len() - 16];
                Ok(if packet.is_empty() { Opened::Keepalive } else { Opened::Packet(packet.to_vec()) })
            }
        }
    }
}
