//! Which fragments belong together? They are put together before anything is judged or rewritten, so that what follows sees
//! whole packets only: a fragment without an allowed first one goes nowhere.
//!
//! Sources: RFC 791 section 3.2, RFC 8200 section 4.5, RFC 5722 (overlap poisons), RFC 6946 (atomic fragments), RFC 1858 and
//! RFC 3128 (tiny ones), RFC 3168 section 5.3 (ECN).
//!
//! Memory is taken for bytes that came, never for bytes that are announced. Each source has a part of it: who fills it
//! pushes out its own oldest datagrams, and where all of it is full, whoever has most loses one.

pub mod cut;
pub mod identification;
mod piece;

use crate::counters::{Counters, Drop};
use crate::ecn;
use crate::headers::{Packet, V6_HEADER};
use cut::seal_v4;
use model::ids::PairingId;
use model::limits::{
    DATAGRAM_MAX, FRAGMENT_BYTES_MAX, FRAGMENT_BYTES_PER_SOURCE_MAX, FRAGMENT_COST, FRAGMENT_LIFE, FRAGMENTED_MAX,
    FRAGMENTED_PER_SOURCE_MAX, FRAGMENTS_MAX,
};
use model::packet::Frame;
use model::time::Instant;
use parking_lot::Mutex;
use piece::Piece;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Whose room a fragment takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// It came out of this pairing's tunnel.
    Pairing(PairingId),
    /// It came out of the TUN, from this address.
    Tun(IpAddr),
}

/// Datagrams that are not whole yet.
#[derive(Debug)]
pub struct Fragments {
    counters: Arc<Counters>,
    table: Mutex<Table>,
}

impl Fragments {
    /// None yet.
    pub fn new(counters: Arc<Counters>) -> Self {
        Self { counters, table: Mutex::default() }
    }

    /// Is the frame a whole packet, by itself or because it completes one (which it then is)? `may` says of a fragment's source
    /// and destination whose it is, or why it is not even kept; `judge`, of the headers of a first one, why no packet that
    /// begins so will pass: then nothing of its datagram is kept. What is no fragment is not looked at further.
    pub fn complete(
        &self,
        now: Instant,
        frame: &mut Frame,
        may: impl FnOnce(IpAddr, IpAddr) -> Result<Origin, Drop>,
        judge: impl FnOnce(&Packet) -> Result<(), Drop>,
    ) -> bool {
        let whole = match Piece::read(&frame.bytes) {
            Ok(None) => return true,
            Ok(Some(piece)) => may(piece.source, piece.destination).and_then(|origin| {
                let first = piece.offset == 0 && piece.more;
                let opening = if first { piece.opening() } else { Ok(None) };
                let refused = opening.and_then(|packet| packet.as_ref().map_or(Ok(()), judge)).err();
                self.table.lock().add(now, origin, &piece, refused, &self.counters)
            }),
            Err(reason) => Err(reason),
        };
        match whole {
            Ok(Some(bytes)) => {
                *frame = Frame::packet(bytes);
                true
            }
            Ok(None) => false,
            Err(reason) => {
                self.counters.count(reason);
                false
            }
        }
    }

    /// Gives up datagrams whose rest did not come. Returns when it wants to be called next.
    pub fn expire(&self, now: Instant) -> Instant {
        self.table.lock().expire(now, &self.counters)
    }
}

/// Which datagram a fragment belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    origin: Origin,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    id: u32,
}

#[derive(Debug)]
struct Datagram {
    number: u64,
    since: Instant,
    /// The headers of the first fragment, and what [`Piece::next`] says.
    head: Vec<u8>,
    next: Option<(usize, u8)>,
    /// Parts by offset. They never touch the same byte.
    parts: BTreeMap<usize, Vec<u8>>,
    /// Bytes of all parts.
    held: usize,
    /// Where the last part ends.
    end: Option<usize>,
    /// Which ECN codepoints were seen, a bit each.
    ecn: u8,
    /// Nothing that comes can complete it any more; it stays until its time, so that later parts do not begin it anew, and
    /// this is why they are dropped.
    poisoned: Option<Drop>,
    /// What it takes of the room.
    cost: usize,
}

/// What one source takes.
#[derive(Debug, Default)]
struct Share {
    bytes: usize,
    ages: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct Table {
    datagrams: BTreeMap<Key, Datagram>,
    /// By the order in which they began.
    ages: BTreeMap<u64, Key>,
    shares: BTreeMap<Origin, Share>,
    bytes: usize,
    begun: u64,
}

/// How a part lies to those that are there.
enum Fit {
    New,
    Same,
    Overlaps,
}

impl Datagram {
    fn fit(&self, piece: &Piece<'_>) -> Fit {
        let (start, end) = (piece.offset, piece.end());
        let is_end = self.end == Some(end);
        if let Some(part) = self.parts.get(&start)
            && part.as_slice() == piece.body
            && is_end != piece.more
        {
            return Fit::Same;
        }
        let before = self.parts.range(..end).next_back().map_or(0, |(at, part)| at + part.len());
        // Also what contradicts the end: a second one, or bytes beyond it.
        let furthest = self.parts.last_key_value().map_or(0, |(at, part)| at + part.len());
        let beyond = self.end.is_some_and(|last| end > last || !piece.more);
        if before > start || beyond || (!piece.more && furthest > end) { Fit::Overlaps } else { Fit::New }
    }

    fn is_whole(&self) -> bool {
        self.end == Some(self.held)
    }

    fn assemble(&self) -> Result<Vec<u8>, Drop> {
        let len = self.head.len() + self.held;
        if len > DATAGRAM_MAX {
            return Err(Drop::FragmentBad);
        }
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&self.head);
        self.parts.values().for_each(|part| bytes.extend_from_slice(part));
        ecn::join(&mut bytes, self.ecn)?;
        finish(&mut bytes, self.head.len(), self.next);
        Ok(bytes)
    }
}

/// Makes the headers of a first fragment those of the whole packet.
fn finish(bytes: &mut [u8], head: usize, next: Option<(usize, u8)>) {
    let len = bytes.len();
    match next {
        Some((field, next)) => {
            crate::checksum::put_word(bytes, 4, u16::try_from(len - V6_HEADER).unwrap_or(u16::MAX));
            if let Some(field) = bytes.get_mut(field) {
                *field = next;
            }
        }
        None => {
            crate::checksum::put_word(bytes, 2, u16::try_from(len).unwrap_or(u16::MAX));
            // Without "may not be fragmented": it was.
            crate::checksum::put_word(bytes, 6, 0);
            seal_v4(bytes, head);
        }
    }
}

impl Table {
    fn add(
        &mut self,
        now: Instant,
        origin: Origin,
        piece: &Piece<'_>,
        refused: Option<Drop>,
        counters: &Counters,
    ) -> Result<Option<Vec<u8>>, Drop> {
        if piece.offset == 0 && !piece.more {
            // Whole by itself, and nobody else's business (RFC 6946): translators between IPv4 and IPv6 send such ones.
            let mut bytes = [piece.head, piece.body].concat();
            finish(&mut bytes, piece.head.len(), piece.next);
            return Ok(Some(bytes));
        }
        self.expire(now, counters);
        let Piece { source, destination, protocol, id, .. } = *piece;
        let key = Key { origin, source, destination, protocol, id };
        let first = piece.offset == 0;
        let head = if first { piece.head.len() } else { 0 };
        let cost = FRAGMENT_COST + piece.body.len() + head;
        if let Some(reason) = refused {
            return Err(self.refuse(now, key, reason, counters));
        }
        match self.datagrams.get(&key) {
            Some(Datagram { poisoned: Some(reason), .. }) => return Err(*reason),
            Some(known) => match known.fit(piece) {
                Fit::Same => return Err(Drop::FragmentRepeated),
                Fit::Overlaps => return Err(self.poison(&key, Drop::FragmentOverlap, counters)),
                Fit::New if known.parts.len() >= FRAGMENTS_MAX => {
                    return Err(self.poison(&key, Drop::FragmentsFull, counters));
                }
                Fit::New => self.make_room(origin, 0, cost, counters),
            },
            None => {
                self.make_room(origin, 1, FRAGMENT_COST + cost, counters);
                self.begin(now, key);
            }
        }
        // The oldest went, and that may have been this one.
        let Some(datagram) = self.datagrams.get_mut(&key) else { return Err(Drop::FragmentsFull) };
        datagram.parts.insert(piece.offset, piece.body.to_vec());
        datagram.held += piece.body.len();
        datagram.ecn |= 1 << ecn::of(piece.head);
        if first {
            datagram.head = piece.head.to_vec();
            datagram.next = piece.next;
        }
        if !piece.more {
            datagram.end = Some(piece.end());
        }
        datagram.cost += cost;
        self.bytes += cost;
        self.shares.entry(origin).or_default().bytes += cost;
        if !self.datagrams.get(&key).is_some_and(Datagram::is_whole) {
            return Ok(None);
        }
        self.remove(&key).map(|whole| whole.assemble()).transpose()
    }

    fn begin(&mut self, now: Instant, key: Key) {
        let number = self.begun;
        self.begun += 1;
        self.ages.insert(number, key);
        self.bytes += FRAGMENT_COST;
        let share = self.shares.entry(key.origin).or_default();
        share.bytes += FRAGMENT_COST;
        share.ages.insert(number);
        let datagram = Datagram {
            number,
            since: now,
            head: Vec::new(),
            next: None,
            parts: BTreeMap::new(),
            held: 0,
            end: None,
            ecn: 0,
            poisoned: None,
            cost: FRAGMENT_COST,
        };
        self.datagrams.insert(key, datagram);
    }

    /// A first fragment that may not pass: the datagram is given up, whatever is there of it and whatever comes.
    fn refuse(&mut self, now: Instant, key: Key, reason: Drop, counters: &Counters) -> Drop {
        match self.datagrams.get(&key).map(|known| known.poisoned) {
            Some(Some(before)) => return before,
            Some(None) => {}
            None => {
                self.make_room(key.origin, 1, FRAGMENT_COST, counters);
                self.begin(now, key);
            }
        }
        self.poison(&key, reason, counters)
    }

    /// Pushes out the oldest until there is room for so many more datagrams and bytes: first of the same source, while that
    /// has more than its part; then of the source that has most.
    fn make_room(&mut self, origin: Origin, datagrams: usize, bytes: usize, counters: &Counters) {
        while let Some(share) = self.shares.get(&origin)
            && (share.ages.len() + datagrams > FRAGMENTED_PER_SOURCE_MAX
                || share.bytes + bytes > FRAGMENT_BYTES_PER_SOURCE_MAX)
            && self.push_out(origin, counters)
        {}
        while self.datagrams.len() + datagrams > FRAGMENTED_MAX
            && let Some(most) = self.most(|share| share.ages.len())
            && self.push_out(most, counters)
        {}
        while self.bytes + bytes > FRAGMENT_BYTES_MAX
            && let Some(most) = self.most(|share| share.bytes)
            && self.push_out(most, counters)
        {}
    }

    fn most(&self, of: impl Fn(&Share) -> usize) -> Option<Origin> {
        self.shares.iter().max_by_key(|(_, share)| of(share)).map(|(origin, _)| *origin)
    }

    fn push_out(&mut self, origin: Origin, counters: &Counters) -> bool {
        let oldest = self.shares.get(&origin).and_then(|share| share.ages.first());
        let gone = oldest.and_then(|number| self.ages.get(number).copied()).and_then(|key| self.remove(&key));
        gone.map(|gone| gone.parts.values().for_each(|_| counters.count(Drop::FragmentsFull))).is_some()
    }

    /// What is there is given up, counted; the caller counts the part that came.
    fn poison(&mut self, key: &Key, reason: Drop, counters: &Counters) -> Drop {
        if let Some(datagram) = self.datagrams.get_mut(key) {
            datagram.parts.values().for_each(|_| counters.count(reason));
            datagram.parts.clear();
            datagram.head = Vec::new();
            datagram.poisoned = Some(reason);
            let freed = datagram.cost.saturating_sub(FRAGMENT_COST);
            datagram.cost -= freed;
            self.bytes = self.bytes.saturating_sub(freed);
            if let Some(share) = self.shares.get_mut(&key.origin) {
                share.bytes = share.bytes.saturating_sub(freed);
            }
        }
        reason
    }

    fn remove(&mut self, key: &Key) -> Option<Datagram> {
        let datagram = self.datagrams.remove(key)?;
        self.ages.remove(&datagram.number);
        self.bytes = self.bytes.saturating_sub(datagram.cost);
        if let Some(share) = self.shares.get_mut(&key.origin) {
            share.bytes = share.bytes.saturating_sub(datagram.cost);
            share.ages.remove(&datagram.number);
            if share.ages.is_empty() {
                self.shares.remove(&key.origin);
            }
        }
        Some(datagram)
    }

    fn expire(&mut self, now: Instant, counters: &Counters) -> Instant {
        while let Some(key) = self.ages.values().next().copied() {
            let until = self.datagrams.get(&key).map_or(now, |datagram| datagram.since.plus(FRAGMENT_LIFE));
            if until > now {
                return until;
            }
            if let Some(late) = self.remove(&key) {
                late.parts.values().for_each(|_| counters.count(Drop::FragmentExpired));
            }
        }
        Instant::NEVER
    }
}

#[cfg(test)]
mod tests;
