//! Fragments: what comes out of the table is what was sent, or nothing. Held against one place for each byte.

use super::offload::{data, plain_sum, righted};
use super::{Parser, Seeds, parser, seed};
use model::ids::PairingId;
use model::limits::{DATAGRAM_MAX, FRAGMENT_LIFE, FRAGMENTS_MAX, V6_MTU_MIN};
use model::packet::Frame;
use model::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tunnel::checksum::put_word;
use tunnel::counters::{Counters, Drop};
use tunnel::fragments::cut::cut;
use tunnel::fragments::{Fragments, Origin};
use tunnel::headers::{Packet, Transport};

pub const PARSERS: &[Parser] = &[parser(
    "fragments",
    "fragments of a far end or of a service, in any order, contradicting each other, late",
    fragments,
    fragments_seeds,
    4,
)];

/// Pieces of one input at most: so many of the largest fit into one source's part of the table.
const PIECES_MAX: usize = 200;

/// Which datagram: the source's number, the family, the identification.
type Key = (u8, bool, u8);

/// A datagram, as slowly and plainly as possible.
#[derive(Default)]
struct Model {
    since: Instant,
    bytes: BTreeMap<usize, u8>,
    seen: Vec<(usize, bool, Vec<u8>)>,
    end: Option<usize>,
    marks: BTreeSet<u8>,
    first: Option<u8>,
    poisoned: bool,
}

/// What the plain model says of a piece.
#[derive(Debug, PartialEq, Eq)]
enum Comes {
    Nothing,
    /// The payload, with the congestion bits of the first one's header, and how many pieces it was.
    Whole(Vec<u8>, u8, usize),
    /// It would, if one of its senders had not understood the mark of another.
    Unmarkable(usize),
}

impl Model {
    fn push(&mut self, offset: usize, more: bool, mark: u8, body: &[u8]) -> Comes {
        let piece = (offset, more, body.to_vec());
        if self.poisoned || self.seen.contains(&piece) {
            return Comes::Nothing;
        }
        let end = offset + body.len();
        let taken = (offset..end).any(|at| self.bytes.contains_key(&at));
        let ended = self.end.is_some_and(|last| end > last || !more);
        let early = !more && self.bytes.keys().any(|at| *at >= end);
        if taken || ended || early || self.seen.len() >= FRAGMENTS_MAX {
            self.poisoned = true;
            self.seen.clear();
            return Comes::Nothing;
        }
        self.seen.push(piece);
        self.bytes.extend((offset..end).zip(body.iter().copied()));
        self.end = self.end.or((!more).then_some(end));
        self.marks.insert(mark);
        if offset == 0 {
            self.first = Some(mark);
        }
        if self.end != Some(self.bytes.len()) {
            return Comes::Nothing;
        }
        let (body, count) = (self.bytes.values().copied().collect(), self.seen.len());
        match (self.marks.contains(&3), self.marks.contains(&0)) {
            (true, true) => Comes::Unmarkable(count),
            (true, false) => Comes::Whole(body, 3, count),
            _ => Comes::Whole(body, self.first.unwrap_or(0), count),
        }
    }
}

/// A packet with this payload, whole or a fragment: where, and whether more follow.
fn made(v6: bool, id: u8, mark: u8, place: Option<(usize, bool)>, body: &[u8]) -> Vec<u8> {
    let short = |value: usize| u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes();
    let (offset, more) = place.unwrap_or((0, false));
    if v6 {
        let field = [&[17, 0][..], &short(offset | usize::from(more)), &[0, 0, 0, id]].concat();
        let (next, field) = if place.is_some() { (44, &field[..]) } else { (17, &[][..]) };
        let head = [&[0x60, mark << 4, 0, 0][..], &short(field.len() + body.len()), &[next, 64]].concat();
        let host = |last: u8| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        return [&head[..], &host(1), &host(2), field, body].concat();
    }
    let place = short((offset / 8) | if more { 0x2000 } else { 0 });
    let mut head = [&[0x45, mark][..], &short(20 + body.len()), &[0, id], &place, &[64, 17, 0, 0]].concat();
    head.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    let check = !plain_sum(&[&head]);
    put_word(&mut head, 10, check);
    [&head[..], body].concat()
}

/// Two tables: one for what the model follows, one for packets of any kind.
struct Bench {
    now: Instant,
    counters: Arc<Counters>,
    table: Fragments,
    models: BTreeMap<Key, Model>,
    pushed: usize,
    done: usize,
    any: Fragments,
    judged: BTreeSet<(IpAddr, IpAddr, u16, u16)>,
}

impl Bench {
    fn new() -> Self {
        let counters = Arc::new(Counters::default());
        Self {
            now: Instant(1_000_000_000),
            table: Fragments::new(counters.clone()),
            counters,
            models: BTreeMap::new(),
            pushed: 0,
            done: 0,
            any: Fragments::new(Arc::default()),
            judged: BTreeSet::new(),
        }
    }

    /// A piece that the model understands; answers whether something came out.
    fn piece(&mut self, (source, v6, id): Key, mark: u8, (offset, more): (usize, bool), body: &[u8]) -> bool {
        self.now = self.now.plus(Duration::from_millis(1));
        let now = self.now;
        let late = |model: &Model| model.since.plus(FRAGMENT_LIFE) <= now;
        self.models.retain(|_, model| !late(model));
        self.table.expire(now);
        let mut frame = Frame::packet(made(v6, id, mark, Some((offset, more)), body));
        let origin = |_, _| Ok(Origin::Pairing(PairingId::from_bytes([source; 10])));
        // An IPv4 packet that says of itself that it is whole is no fragment.
        let came = self.table.complete(now, &mut frame, origin, |_| Ok(()));
        let comes = if offset == 0 && !more && v6 && body.len() < 8 {
            // Less than a header, and says that it is all.
            self.pushed += 1;
            Comes::Nothing
        } else if offset == 0 && !more {
            Comes::Whole(body.to_vec(), mark, 0)
        } else {
            self.pushed += 1;
            let model = self.models.entry((source, v6, id)).or_insert_with(|| Model { since: now, ..Model::default() });
            model.push(offset, more, mark, body)
        };
        match &comes {
            Comes::Nothing => assert!(!came, "out of nothing came {:?}", frame.bytes),
            Comes::Whole(body, mark, count) => {
                assert!(came, "a whole one did not come");
                assert_eq!(frame, Frame::packet(made(v6, id, *mark, None, body)), "what came is not what was sent");
                if *count > 0 {
                    self.done += count;
                    self.models.remove(&(source, v6, id));
                }
            }
            Comes::Unmarkable(count) => {
                assert!(!came, "a mark was lost");
                // The whole is lost, which is one packet.
                self.done += count - 1;
                self.models.remove(&(source, v6, id));
            }
        }
        let kept: usize = self.models.values().map(|model| model.seen.len()).sum();
        let lost: u64 = self.counters.all().iter().map(|(_, count)| count).sum();
        assert_eq!(
            usize::try_from(lost),
            Ok(self.pushed - self.done - kept),
            "each lost piece is counted once: {comes:?}"
        );
        came
    }

    /// A packet of any kind.
    fn packet(&mut self, bytes: &[u8]) -> bool {
        let mut frame = Frame::packet(bytes.to_vec());
        let judged = &mut self.judged;
        let came = self.any.complete(
            self.now,
            &mut frame,
            |source, _| Ok(Origin::Tun(source)),
            |packet| {
                judged.insert((packet.source, packet.destination, packet.source_port(), packet.destination_port()));
                Ok(())
            },
        );
        if !came || frame.bytes == bytes {
            again(&frame.bytes);
            return came && Packet::parse(bytes).is_ok();
        }
        assert!(frame.bytes.len() <= DATAGRAM_MAX, "{} bytes came out", frame.bytes.len());
        let whole = Packet::parse(&frame.bytes);
        assert_ne!(whole, Err(Drop::Fragment), "{:?}", frame.bytes);
        if let Ok(packet) = whole
            && !matches!(packet.transport, Transport::Error(_))
        {
            assert_eq!(packet.len, frame.bytes.len());
            let ends = (packet.source, packet.destination, packet.source_port(), packet.destination_port());
            let atomic = frame.bytes.len() < bytes.len();
            assert!(atomic || self.judged.contains(&ends), "{ends:?} was not judged");
        }
        true
    }
}

/// A whole packet that is cut comes together again.
fn again(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    let Ok(packet) = Packet::parse(&bytes) else { return };
    bytes.truncate(packet.len);
    if packet.source.is_ipv4() {
        put_word(&mut bytes, 6, 0);
        put_word(&mut bytes, 4, 0x1234);
        bytes = righted(&bytes);
    }
    let (table, mut came) = (Fragments::new(Arc::default()), Vec::new());
    let done = cut(&bytes, V6_MTU_MIN, 0x1234, |piece| {
        assert!(piece.len() <= V6_MTU_MIN, "a piece of {} bytes", piece.len());
        let mut frame = Frame::packet(piece.to_vec());
        if table.complete(Instant(1), &mut frame, |source, _| Ok(Origin::Tun(source)), |_| Ok(())) {
            came.push(frame.bytes);
        }
    });
    assert!(done.is_err() || came == [bytes], "cut and put together");
}

fn fragments(mut rest: &[u8]) -> bool {
    let (mut bench, mut came) = (Bench::new(), false);
    for _ in 0..PIECES_MAX {
        let Some(([kind, a, b, c], after)) = rest.split_first_chunk::<4>() else { break };
        rest = after;
        if kind & 0x40 != 0 {
            bench.now = bench.now.plus(Duration::from_secs(8));
        }
        if kind & 0x80 == 0 {
            let more = kind & 4 != 0;
            // No byte is zero: ports are not, nor is a checksum.
            let odd = if more { 0 } else { usize::from(c >> 5) };
            let len = (usize::from(*b & 0x1f) * 8 + 8).saturating_sub(odd);
            let key = ((kind >> 3) & 1, kind & 1 != 0, (kind >> 1) & 1);
            came |= bench.piece(key, (kind >> 4) & 3, (usize::from(*a) * 8, more), &vec![c | 1; len]);
        } else {
            let len = usize::from(u16::from_be_bytes([*a, *b])).min(rest.len());
            let (packet, after) = rest.split_at_checked(len).unwrap_or((rest, &[]));
            rest = after;
            came |= bench.packet(&if c & 1 == 0 { header_righted(packet) } else { packet.to_vec() });
        }
    }
    came
}

/// A fragment has no sum of its own but that of its header.
fn header_righted(packet: &[u8]) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    let header = usize::from(bytes.first().copied().unwrap_or(0) & 15) * 4;
    if bytes.first().is_some_and(|first| first >> 4 == 4) {
        put_word(&mut bytes, 10, 0);
        let check = !plain_sum(&[bytes.get(..header).unwrap_or_default()]);
        put_word(&mut bytes, 10, check);
    }
    bytes
}

fn fragments_seeds() -> Seeds {
    let mut seeds = Vec::new();
    for (name, v6) in [("v4", 0), ("v6", 1)] {
        seeds.push(seed(&format!("{name}-in-order"), [4 | v6, 0, 2, 9, 4 | v6, 3, 0, 9, v6, 4, 1, 0xe9]));
        seeds.push(seed(&format!("{name}-backwards"), [v6, 4, 1, 9, 4 | v6, 3, 0, 9, 4 | v6, 0, 2, 9]));
        seeds.push(seed(&format!("{name}-overlap"), [4 | v6, 0, 2, 9, 4 | v6, 2, 1, 7, v6, 4, 1, 9]));
        seeds.push(seed(&format!("{name}-marked"), [0x24 | v6, 0, 2, 9, 0x30 | v6, 3, 1, 9]));
        seeds.push(seed(&format!("{name}-late"), [4 | v6, 0, 2, 9, 0x40 | v6, 3, 1, 9, 0x44 | v6, 0, 2, 9]));
        let mut raw = Vec::new();
        let mut packet = data(v6 == 1, false, &[7; 2_000]);
        if v6 == 0 {
            packet.iter_mut().skip(6).take(1).for_each(|flags| *flags = 0);
        }
        cut(&righted(&packet), V6_MTU_MIN, 7, |piece| {
            let [high, low] = u16::try_from(piece.len()).unwrap_or(0).to_be_bytes();
            raw.extend([0x80, high, low, 0]);
            raw.extend(piece);
        })
        .map_err(|reason| anyhow::anyhow!("cannot cut: {reason:?}"))?;
        seeds.push(seed(&format!("{name}-packets"), raw));
    }
    Ok(seeds)
}
