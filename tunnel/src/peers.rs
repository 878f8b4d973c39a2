//! Which peer is meant? Look-up by index, by keys, by id and by overlay address, and the bounds of all four.

use crate::api::{self, PeerId, PeerKind};
use crate::lookup::Lookup;
use crate::peer::Peer;
use crate::silence::Silence;
use crate::timers::Timers;
use crate::wire::{Door, is_low_order};
use blake2::{Blake2s256, Digest};
use model::key::PublicKey;
use model::limits::{DATA_KEYS_MAX, PEERS_MAX, PROVISIONAL_LIFE, PROVISIONAL_MAX, SUCCEEDED_KEEP, SUCCESSORS_MAX};
use model::time::Instant;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Bits of an index that demultiplex; the eight below count a tunnel's sessions.
const INDEX_BITS: u32 = 24;

/// How many of each thing there may be; [`Bounds::default`] is what `model::limits` says.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Peers in all.
    pub peers: usize,
    /// Provisional ones among them.
    pub provisional: usize,
    /// Keys of ours besides the control key.
    pub data_keys: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { peers: PEERS_MAX, provisional: PROVISIONAL_MAX, data_keys: DATA_KEYS_MAX }
    }
}

/// All peers of one engine.
pub struct Peers {
    bounds: Bounds,
    by_id: BTreeMap<PeerId, Arc<Peer>>,
    by_index: Lookup<u32, Arc<Peer>>,
    by_keys: Lookup<(PublicKey, PublicKey), Arc<Peer>>,
    by_address: BTreeMap<IpAddr, Arc<Peer>>,
    /// Tunnels of peers that are to change their keys, until they have proven themselves.
    successors: BTreeMap<(PeerId, u32), Arc<Peer>>,
    /// Tunnels whose successor has taken over: what is still under way to them is taken until then.
    succeeded: BTreeMap<PeerId, (Arc<Peer>, Instant)>,
    provisional: usize,
    /// No provisional time ends before this.
    expires: Instant,
    doors: BTreeMap<PublicKey, (Arc<dyn Door>, usize)>,
    controls: Vec<Arc<dyn Door>>,
    timers: Arc<Timers>,
    seed: [u8; 32],
    drawn: u64,
}

impl Peers {
    /// None yet. `control` is the door of the control key, `seed` is random.
    pub fn new(bounds: Bounds, control: Arc<dyn Door>, seed: [u8; 32]) -> Self {
        Self {
            bounds,
            by_id: BTreeMap::new(),
            by_index: Lookup::new(&seed),
            by_keys: Lookup::new(&seed),
            by_address: BTreeMap::new(),
            successors: BTreeMap::new(),
            succeeded: BTreeMap::new(),
            provisional: 0,
            expires: Instant::NEVER,
            doors: BTreeMap::from([(control.public(), (control.clone(), 1))]),
            controls: vec![control],
            timers: Arc::default(),
            seed,
            drawn: 0,
        }
    }

    /// By id.
    pub fn by_id(&self, id: &PeerId) -> Option<&Arc<Peer>> {
        self.by_id.get(id)
    }
    /// By the receiver index of a message: its upper 24 bits.
    pub fn by_receiver(&self, receiver: u32) -> Option<&Arc<Peer>> {
        self.by_index.find(&(receiver >> (u32::BITS - INDEX_BITS)))
    }
    /// By our public key and the far end's.
    pub fn by_keys(&self, local: PublicKey, remote: PublicKey) -> Option<&Arc<Peer>> {
        self.by_keys.find(&(local, remote))
    }
    /// By an overlay address; pairings are not found so.
    pub fn by_address(&self, address: IpAddr) -> Option<&Arc<Peer>> {
        self.by_address.get(&address)
    }
    /// All, ordered by id.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.by_id.values()
    }
    /// Is it one of them?
    pub fn is_successor(&self, peer: &Peer) -> bool {
        self.successors.contains_key(&(peer.id, peer.index))
    }
    /// What follows one peer and has not taken over yet. Each successor is that of a peer that is there.
    pub fn successors_of(&self, id: &PeerId) -> impl Iterator<Item = &Arc<Peer>> {
        self.successors.range((*id, 0)..=(*id, u32::MAX)).map(|(_, peer)| peer)
    }
    /// The queue in which their tunnels wait for their turns.
    pub const fn timers(&self) -> &Arc<Timers> {
        &self.timers
    }
    /// Whose turn is it? By the index in the queue. One that was succeeded begins nothing any more.
    pub fn by_turn(&self, index: u32) -> Option<&Arc<Peer>> {
        let succeeded = |peer: &Peer| self.succeeded.get(&peer.id).is_some_and(|(old, _)| old.index == peer.index);
        self.by_index.find(&index).filter(|peer| !succeeded(peer))
    }
    /// Our keys at the socket, at most [`DATA_KEYS_MAX`] and the control key.
    pub fn doors(&self) -> impl Iterator<Item = &Arc<dyn Door>> {
        self.doors.values().map(|(door, _)| door)
    }
    /// Those under which strangers may knock.
    pub fn controls(&self) -> &[Arc<dyn Door>] {
        &self.controls
    }
    /// From now on these are. One that has tunnels stays until the last of them is gone.
    pub fn set_controls(&mut self, doors: Vec<Arc<dyn Door>>) {
        let known = |door: Arc<dyn Door>| self.doors.get(&door.public()).map_or(door, |(known, _)| known.clone());
        let wanted: Vec<Arc<dyn Door>> = doors.into_iter().map(known).collect();
        for door in &wanted {
            self.doors.entry(door.public()).or_insert_with(|| (door.clone(), 0)).1 += 1;
        }
        for door in std::mem::replace(&mut self.controls, wanted) {
            self.leave(&door.public());
        }
    }
    /// One user less.
    fn leave(&mut self, local: &PublicKey) {
        if let Some((_, users)) = self.doors.get_mut(local) {
            *users = users.saturating_sub(1);
            if *users == 0 {
                self.doors.remove(local);
            }
        }
    }
    /// How many.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }
    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Admits a tunnel. One with the same id and keys keeps its tunnel; so does a provisional peer whose key becomes a
    /// node's; a node that knocks again may enrol again, and stays the node.
    ///
    /// `door` is that of the peer's local key; one that is known already is used instead.
    pub fn admit(&mut self, now: Instant, door: Arc<dyn Door>, peer: &api::Peer) -> Result<Arc<Peer>, Silence> {
        if is_low_order(&peer.remote) {
            return Err(Silence::PeerLowOrder);
        }
        let door = self.doors.get(&door.public()).map_or(door, |(known, _)| known.clone());
        let provisional = match peer.kind {
            PeerKind::Provisional => {
                let address = *peer.addresses.first().ok_or(Silence::PeerUnknown)?;
                Some((address, now.plus(PROVISIONAL_LIFE)))
            }
            PeerKind::Control | PeerKind::Pairing(_) => None,
        };
        let same_keys = self.by_keys(door.public(), peer.remote).cloned();
        let old = match same_keys {
            Some(old) if old.id == peer.id && same_psk(&old.kind, &peer.kind) => Some(old),
            Some(old) => match (&old.kind, &peer.kind) {
                (PeerKind::Control, PeerKind::Provisional) => return Ok(self.may_enrol(&old, provisional)),
                (PeerKind::Provisional, PeerKind::Control) => Some(old),
                (PeerKind::Pairing(_), PeerKind::Pairing(_)) if old.id == peer.id => {
                    self.remove(&peer.id);
                    None
                }
                _ => return Err(Silence::PeerKeyTaken),
            },
            None => None,
        };
        let (addresses, grace) = match provisional {
            Some(_) => (Vec::new(), provisional),
            None => (peer.addresses.clone(), old.as_ref().and_then(|o| o.provisional)),
        };
        self.check(&old, peer, &door, &addresses, grace)?;
        // The same id under other keys: an old tunnel of a node that changed its key.
        self.remove(&peer.id);
        let new = match old {
            Some(old) => {
                self.remove(&old.id);
                old.described(peer.id, peer.kind.clone(), addresses, grace)
            }
            None => {
                let index = self.unused_index();
                let mut new = Peer::new(peer.id, peer.kind.clone(), door, peer.remote, index, self.timers.clone());
                new.addresses = addresses;
                new.provisional = grace;
                new
            }
        };
        new.settings().configure(&peer.endpoints, peer.keepalive);
        Ok(self.insert(new))
    }

    fn check(
        &self,
        old: &Option<Arc<Peer>>,
        peer: &api::Peer,
        door: &Arc<dyn Door>,
        addresses: &[IpAddr],
        grace: Option<(IpAddr, Instant)>,
    ) -> Result<(), Silence> {
        let mine = |found: &Arc<Peer>| found.id == peer.id || old.as_ref().is_some_and(|o| o.id == found.id);
        if !matches!(peer.kind, PeerKind::Pairing(_)) {
            let wanted = addresses.iter().copied().chain(grace.map(|g| g.0));
            if wanted.into_iter().any(|a| self.by_address(a).is_some_and(|found| !mine(found))) {
                return Err(Silence::PeerAddressTaken);
            }
        }
        if old.is_some() {
            return Ok(());
        }
        if self.by_id.len() >= self.bounds.peers {
            return Err(Silence::PeersFull);
        }
        if matches!(peer.kind, PeerKind::Provisional) && self.provisional >= self.bounds.provisional {
            return Err(Silence::ProvisionalFull);
        }
        if !self.doors.contains_key(&door.public()) && self.doors.len() > self.bounds.data_keys {
            return Err(Silence::DataKeysFull);
        }
        Ok(())
    }

    /// A control tunnel shall change its keys: all are known until one of the new pairs has proven itself. Exactly these
    /// follow; the same again changes nothing. Nor does anything change where one of them is not acceptable.
    pub fn succeed(&mut self, keys: Vec<(Arc<dyn Door>, PublicKey)>, id: PeerId) -> Result<Vec<Arc<Peer>>, Silence> {
        let current = self.by_id(&id).cloned().ok_or(Silence::PeerUnknown)?;
        if !matches!(current.kind, PeerKind::Control) || keys.len() > SUCCESSORS_MAX {
            return Err(Silence::PeerUnknown);
        }
        for (door, remote) in &keys {
            if is_low_order(remote) {
                return Err(Silence::PeerLowOrder);
            }
            if self.by_keys(door.public(), *remote).is_some_and(|k| k.index != current.index && !self.follows(k, &id)) {
                return Err(Silence::PeerKeyTaken);
            }
        }
        let wanted = |peer: &Peer| keys.iter().any(|(door, remote)| is_of(peer, door, remote));
        let gone: Vec<Arc<Peer>> = self.successors_of(&id).filter(|peer| !wanted(peer)).cloned().collect();
        for gone in &gone {
            self.successors.remove(&(id, gone.index));
            self.forget(gone);
        }
        let fresh = keys.iter().filter(|(door, remote)| !is_of(&current, door, remote));
        fresh.map(|(door, remote)| self.follow_with(&current, door, *remote)).collect()
    }

    /// Is it a successor of this peer?
    fn follows(&self, peer: &Peer, id: &PeerId) -> bool {
        peer.id == *id && self.is_successor(peer)
    }

    fn follow_with(&mut self, current: &Peer, door: &Arc<dyn Door>, remote: PublicKey) -> Result<Arc<Peer>, Silence> {
        if let Some(known) = self.by_keys(door.public(), remote).cloned() {
            // The one in use may have found another way meanwhile.
            known.follow(current);
            return Ok(known);
        }
        if !self.doors.contains_key(&door.public()) && self.doors.len() > self.bounds.data_keys {
            return Err(Silence::DataKeysFull);
        }
        let door = self.doors.get(&door.public()).map_or(door, |(known, _)| known).clone();
        let index = self.unused_index();
        let mut new = Peer::new(current.id, PeerKind::Control, door, remote, index, self.timers.clone());
        new.addresses.clone_from(&current.addresses);
        new.follow(current);
        let new = Arc::new(new);
        self.know(&new);
        self.successors.insert((new.id, new.index), new.clone());
        Ok(new)
    }

    /// A successor has proven itself; false if it is none, or not any more. Others that followed end with it.
    pub fn take_over(&mut self, now: Instant, new: &Arc<Peer>) -> bool {
        if self.successors.remove(&(new.id, new.index)).is_none() {
            return false;
        }
        self.abandon_successor(&new.id);
        self.end_succeeded(&new.id);
        if let Some(old) = self.by_id.get(&new.id).cloned() {
            // No handshake under the old keys any more; data of its sessions for a moment.
            self.by_keys.take(&(old.door.public(), old.remote));
            let until = now.plus(SUCCEEDED_KEEP);
            self.expires = self.expires.min(until);
            self.succeeded.insert(old.id, (old, until));
        }
        for address in addresses(new) {
            self.by_address.insert(address, new.clone());
        }
        self.by_id.insert(new.id, new.clone());
        true
    }

    /// What has not taken over ends.
    pub fn abandon_successor(&mut self, id: &PeerId) {
        let abandoned: Vec<Arc<Peer>> = self.successors_of(id).cloned().collect();
        for peer in abandoned {
            self.successors.remove(&(*id, peer.index));
            self.forget(&peer);
        }
    }

    fn end_succeeded(&mut self, id: &PeerId) {
        if let Some((peer, _)) = self.succeeded.remove(id) {
            self.forget(&peer);
        }
    }

    fn may_enrol(&mut self, peer: &Arc<Peer>, provisional: Option<(IpAddr, Instant)>) -> Arc<Peer> {
        self.remove_current(&peer.id);
        let new = peer.described(peer.id, peer.kind.clone(), peer.addresses.clone(), provisional);
        self.insert(new)
    }

    /// Ends what is provisional and over; answers how many.
    pub fn expire(&mut self, now: Instant) -> usize {
        let over = |p: &&Arc<Peer>| p.provisional.is_some_and(|(_, until)| until <= now);
        let gone: Vec<Arc<Peer>> = self.by_id.values().filter(over).cloned().collect();
        for peer in &gone {
            match peer.kind {
                PeerKind::Provisional => {
                    self.remove(&peer.id);
                }
                PeerKind::Control | PeerKind::Pairing(_) => {
                    self.may_enrol(peer, None);
                }
            }
        }
        let ended: Vec<PeerId> = self.succeeded.iter().filter(|(_, held)| held.1 <= now).map(|(id, _)| *id).collect();
        ended.iter().for_each(|id| self.end_succeeded(id));
        let provisional = self.by_id.values().filter_map(|p| p.provisional).map(|p| p.1);
        self.expires = provisional.chain(self.succeeded.values().map(|held| held.1)).min().unwrap_or(Instant::NEVER);
        gone.len()
    }

    /// May anything provisional be over?
    pub fn has_expired(&self, now: Instant) -> bool {
        self.expires <= now
    }

    /// A provisional peer becomes a node's control tunnel; it may go on with its enrolment until its time ends.
    pub fn promote(&mut self, key: &PublicKey, node: PeerId, address: IpAddr) -> Result<Arc<Peer>, Silence> {
        let known = |door: &Arc<dyn Door>| self.by_keys(door.public(), *key).cloned();
        // Of two tunnels of one machine, under two keys of ours, the one that it came through.
        let found: Vec<Arc<Peer>> = self.controls.iter().filter_map(known).collect();
        let newest = found.iter().max_by_key(|peer| peer.status().last_handshake);
        let old = newest.cloned().ok_or(Silence::PeerUnknown)?;
        if !matches!(old.id, PeerId::Provisional(_)) && old.id != node {
            return Err(Silence::PeerKeyTaken);
        }
        if self.by_address(address).is_some_and(|p| p.id != node && p.id != old.id) {
            return Err(Silence::PeerAddressTaken);
        }
        self.remove(&node);
        self.remove(&old.id);
        let new = old.described(node, PeerKind::Control, vec![address], old.provisional);
        Ok(self.insert(new))
    }

    /// Forgets a peer, with its successor and the one that it succeeded; a tunnel ends with the last user of it.
    pub fn remove(&mut self, id: &PeerId) -> Option<Arc<Peer>> {
        self.abandon_successor(id);
        self.end_succeeded(id);
        self.remove_current(id)
    }

    fn remove_current(&mut self, id: &PeerId) -> Option<Arc<Peer>> {
        let peer = self.by_id.remove(id)?;
        self.forget(&peer);
        for address in addresses(&peer) {
            self.by_address.remove(&address);
        }
        if matches!(peer.kind, PeerKind::Provisional) {
            self.provisional = self.provisional.saturating_sub(1);
        }
        Some(peer)
    }

    /// No datagram leads to this tunnel any more.
    fn forget(&mut self, peer: &Peer) {
        self.by_index.take(&peer.index);
        peer.no_turn();
        let local = peer.door.public();
        if self.by_keys.find(&(local, peer.remote)).is_some_and(|held| held.index == peer.index) {
            self.by_keys.take(&(local, peer.remote));
        }
        self.leave(&local);
    }

    /// Datagrams lead to this tunnel from now on.
    fn know(&mut self, peer: &Arc<Peer>) {
        let local = peer.door.public();
        self.doors.entry(local).or_insert_with(|| (peer.door.clone(), 0)).1 += 1;
        self.by_index.put(peer.index, peer.clone());
        self.by_keys.put((local, peer.remote), peer.clone());
        peer.turn_at(Instant(0));
    }

    fn insert(&mut self, peer: Peer) -> Arc<Peer> {
        let peer = Arc::new(peer);
        self.know(&peer);
        for address in addresses(&peer) {
            self.by_address.insert(address, peer.clone());
        }
        if let Some((_, until)) = peer.provisional {
            self.expires = self.expires.min(until);
        }
        if matches!(peer.kind, PeerKind::Provisional) {
            self.provisional += 1;
        }
        self.by_id.insert(peer.id, peer.clone());
        peer
    }

    /// Random, so that a stranger cannot guess it; the bound on peers is 1/160 of the space, so the loop is short.
    fn unused_index(&mut self) -> u32 {
        loop {
            self.drawn = self.drawn.wrapping_add(1);
            let digest = Blake2s256::new()
                .chain_update("umbra index")
                .chain_update(self.seed)
                .chain_update(self.drawn.to_le_bytes())
                .finalize();
            let index = digest.iter().take(3).fold(0, |word, byte| word << 8 | u32::from(*byte));
            if !self.by_index.has(&index) {
                return index;
            }
        }
    }
}

fn is_of(peer: &Peer, door: &Arc<dyn Door>, remote: &PublicKey) -> bool {
    peer.remote == *remote && peer.door.public() == door.public()
}

fn same_psk(old: &PeerKind, new: &PeerKind) -> bool {
    match (old, new) {
        (PeerKind::Pairing(a), PeerKind::Pairing(b)) => a == b,
        (PeerKind::Provisional, PeerKind::Provisional) | (PeerKind::Control, PeerKind::Control) => true,
        _ => false,
    }
}

/// What the look-up by address knows of a peer.
fn addresses(peer: &Peer) -> Vec<IpAddr> {
    match peer.kind {
        PeerKind::Pairing(_) => Vec::new(),
        PeerKind::Provisional | PeerKind::Control => {
            peer.addresses.iter().copied().chain(peer.provisional.map(|p| p.0)).collect()
        }
    }
}
