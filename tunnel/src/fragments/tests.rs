use super::cut::{cut, is_too_large, renumber_v4};
use super::*;
use crate::checksum::word;
use crate::craft::{assert_sums, echo, extend, ip, raw, seal_v4 as seal, tcp, udp};
use crate::headers::{ACK, Packet, TCP, UDP};
use model::limits::{TUN_MTU, V6_MTU_MIN};
use proptest::prelude::*;
use std::time::Duration;

const NOW: Instant = Instant(1_000_000_000);

fn ends(v6: bool) -> (IpAddr, IpAddr) {
    if v6 { (ip("fd12::1"), ip("fd12::2")) } else { (ip("10.77.1.1"), ip("10.77.64.9")) }
}

fn pairing(n: usize) -> Origin {
    let mut id = [0; 10];
    id[..8].copy_from_slice(&(n as u64).to_be_bytes());
    Origin::Pairing(PairingId::from_bytes(id))
}

/// One part of a datagram as a packet, whatever it says. `protocol` is that of the datagram.
fn part(v6: bool, protocol: u8, id: u32, offset: usize, more: bool, body: &[u8]) -> Vec<u8> {
    let (from, to) = ends(v6);
    if v6 {
        let place = (offset as u16 & 0xfff8) | u16::from(more);
        let mut rest = vec![0];
        rest.extend(place.to_be_bytes());
        rest.extend(id.to_be_bytes());
        return extend(&raw(from, to, protocol, body), 44, &rest);
    }
    let mut bytes = raw(from, to, protocol, body);
    bytes[4..6].copy_from_slice(&(id as u16).to_be_bytes());
    let flags = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
    bytes[6..8].copy_from_slice(&flags.to_be_bytes());
    seal(&mut bytes);
    bytes
}

/// The whole packet that parts of `body` make.
fn whole(v6: bool, protocol: u8, id: u32, body: &[u8]) -> Vec<u8> {
    let (from, to) = ends(v6);
    let mut bytes = raw(from, to, protocol, body);
    if !v6 {
        bytes[4..6].copy_from_slice(&(id as u16).to_be_bytes());
        bytes[6..8].fill(0);
        seal(&mut bytes);
    }
    bytes
}

struct Bench {
    fragments: Fragments,
    counters: Arc<Counters>,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let counters = Arc::new(Counters::default());
        Self { fragments: Fragments::new(counters.clone()), counters, now: NOW }
    }
    fn push_as(&self, origin: Origin, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut frame = Frame::packet(bytes.to_vec());
        let out = self.fragments.complete(self.now, &mut frame, |_, _| Ok(origin), |_| Ok(())).then_some(frame.bytes);
        self.holds();
        out
    }
    fn push(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.push_as(pairing(1), bytes)
    }
    /// Nothing, for this reason alone.
    #[track_caller]
    fn refused(&self, bytes: &[u8]) -> Drop {
        let before: Vec<u64> = Drop::ALL.iter().map(|r| self.counters.of(*r)).collect();
        assert_eq!(self.push(bytes), None);
        let changed: Vec<Drop> =
            Drop::ALL.iter().zip(before).filter(|(r, n)| self.counters.of(**r) != *n).map(|(r, _)| *r).collect();
        assert_eq!(changed.len(), 1, "{changed:?}");
        changed[0]
    }
    fn kept(&self) -> (usize, usize) {
        let table = self.fragments.table.lock();
        (table.datagrams.len(), table.bytes)
    }
    /// The bounds, and that the books agree.
    fn holds(&self) {
        let table = self.fragments.table.lock();
        assert!(table.datagrams.len() <= FRAGMENTED_MAX && table.bytes <= FRAGMENT_BYTES_MAX);
        assert_eq!(
            (table.ages.len(), table.shares.values().map(|s| s.ages.len()).sum()),
            (table.datagrams.len(), table.ages.len())
        );
        for share in table.shares.values() {
            assert!(share.ages.len() <= FRAGMENTED_PER_SOURCE_MAX && share.bytes <= FRAGMENT_BYTES_PER_SOURCE_MAX);
            assert!(!share.ages.is_empty());
        }
        // Sums over all would make the tests that fill it slow.
        if table.datagrams.len() < 16 {
            let really = |d: &Datagram| d.head.len() + d.parts.values().map(Vec::len).sum::<usize>();
            assert!(table.datagrams.values().all(|d| d.parts.len() <= FRAGMENTS_MAX && really(d) <= d.cost));
            assert_eq!(table.datagrams.values().map(|d| d.cost).sum::<usize>(), table.bytes);
            assert_eq!(table.shares.values().map(|s| s.bytes).sum::<usize>(), table.bytes);
        }
    }
}

/// What a datagram does, written down as slowly and plainly as possible: one place for each byte.
#[derive(Default)]
struct Model {
    bytes: BTreeMap<usize, u8>,
    seen: Vec<Part>,
    end: Option<usize>,
    poisoned: bool,
}

impl Model {
    fn push(&mut self, offset: usize, more: bool, body: &[u8]) -> Option<Vec<u8>> {
        let piece = (offset, more, body.to_vec());
        if self.poisoned || self.seen.contains(&piece) {
            return None;
        }
        let end = offset + body.len();
        let taken = (offset..end).any(|at| self.bytes.contains_key(&at));
        let ended = self.end.is_some_and(|last| end > last || !more);
        let early = !more && self.bytes.keys().any(|at| *at >= end);
        if taken || ended || early {
            self.poisoned = true;
            return None;
        }
        self.seen.push(piece);
        self.bytes.extend((offset..end).zip(body.iter().copied()));
        self.end = self.end.or((!more).then_some(end));
        let done = self.end.is_some_and(|last| (0..last).all(|at| self.bytes.contains_key(&at)));
        done.then(|| std::mem::take(self).bytes.into_values().collect())
    }
}

/// Offset, whether more follow, and bytes.
type Part = (usize, bool, Vec<u8>);

/// Parts of `body`, cut at these multiples of 8.
fn cut_at(body: &[u8], cuts: &[usize]) -> Vec<Part> {
    let mut at: Vec<usize> = cuts.iter().map(|c| c * 8).filter(|c| *c >= 24 && *c < body.len()).collect();
    at.extend([0, body.len()]);
    at.sort_unstable();
    at.dedup();
    at.windows(2).map(|w| (w[0], w[1] < body.len(), body[w[0]..w[1]].to_vec())).collect()
}

/// Family, payload, parts.
type Fragmentation = (bool, Vec<u8>, Vec<Part>);

fn fragmentation() -> impl Strategy<Value = Fragmentation> {
    let body = proptest::collection::vec(any::<u8>(), 40..600);
    let cuts = proptest::collection::vec(3usize..70, 1..20);
    (any::<bool>(), body, cuts).prop_map(|(v6, mut body, cuts)| {
        // Ports and a checksum: without them the first one is refused.
        [0, 2, 6].into_iter().for_each(|at| body[at] |= 1);
        let parts = cut_at(&body, &cuts);
        (v6, body, parts)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn in_any_order_and_with_repetitions_the_packet_comes_back(
        ((v6, body, parts), order) in fragmentation().prop_flat_map(|f| {
            let count = f.2.len();
            let twice: Vec<usize> = (0..count).chain(0..count / 2).collect();
            (Just(f), Just(twice).prop_shuffle())
        }),
        id: u32,
    ) {
        prop_assume!(parts.len() > 1);
        let bench = Bench::new();
        let mut seen = BTreeSet::new();
        for at in order {
            let (offset, more, part_of) = &parts[at];
            seen.insert(at);
            let got = bench.push(&part(v6, UDP, id, *offset, *more, part_of));
            if seen.len() == parts.len() {
                prop_assert_eq!(got, Some(whole(v6, UDP, id, &body)));
                prop_assert_eq!(bench.kept(), (0, 0));
                return Ok(());
            }
            prop_assert_eq!(got, None);
        }
    }

    #[test]
    fn an_overlap_never_gives_a_packet(
        ((v6, _, parts), order, bad, grow, fill) in fragmentation().prop_flat_map(|f| {
            let order: Vec<usize> = (0..f.2.len()).collect();
            let count = f.2.len();
            (Just(f), Just(order).prop_shuffle(), 0..count, 1usize..4, 1u8..)
        }),
        at in 0usize..8,
    ) {
        prop_assume!(parts.len() > 1);
        let bench = Bench::new();
        // One that reaches into a part that is there, before the last of them comes.
        let (offset, _, body) = &parts[order[0]];
        let offset = if bad % 2 == 0 { offset + body.len().saturating_sub(1) / 8 * 8 } else { *offset };
        let overlap = part(v6, UDP, 7, offset, true, &vec![fill; 24 + grow * 8]);
        let same = parts.contains(&(offset, true, vec![fill; 24 + grow * 8]));
        prop_assume!(!same);
        let place = 1 + at % (parts.len() - 1);
        for (number, index) in order.iter().enumerate() {
            if number == place {
                prop_assert_eq!(bench.push(&overlap), None);
            }
            let (offset, more, body) = &parts[*index];
            prop_assert_eq!(bench.push(&part(v6, UDP, 7, *offset, *more, body)), None);
        }
        prop_assert!(bench.counters.of(Drop::FragmentOverlap) as usize == parts.len() + 1);
        prop_assert_eq!(bench.kept(), (1, FRAGMENT_COST), "nothing but that it is poisoned");
    }

    #[test]
    fn whatever_comes_it_does_what_the_plain_model_does(
        v6: bool,
        pieces in proptest::collection::vec((0usize..6, 1usize..4, any::<bool>(), 1u8..3, 0u32..2), 1..40),
    ) {
        let bench = Bench::new();
        let mut models = [Model::default(), Model::default()];
        for (offset, units, more, fill, id) in pieces {
            // Units of 24 bytes, so that no first one is tiny.
            let body = vec![fill; units * 24];
            if offset == 0 && !more {
                // Whole by itself.
                continue;
            }
            let expected = models[id as usize].push(offset * 24, more, &body);
            let got = bench.push(&part(v6, UDP, id, offset * 24, more, &body));
            prop_assert_eq!(got, expected.map(|body| whole(v6, UDP, id, &body)));
        }
    }

    #[test]
    fn what_is_cut_comes_together_again(
        v6: bool,
        len in 1usize..9_000,
        size in 576usize..1_500,
        id: u32,
        headers in proptest::collection::vec(prop_oneof![Just(60u8), Just(43)], 0..3),
        backwards: bool,
    ) {
        let (from, to) = ends(v6);
        let mut packet = udp((from, 5), (to, 6), &vec![0xa5; len]);
        if v6 {
            // Padding options; a routing header without segments left.
            let kinds = headers.iter();
            packet = kinds.fold(packet, |bytes, kind| extend(&bytes, *kind, &[0, 1, if *kind == 43 { 0 } else { 4 }, 0, 0, 0, 0]));
            packet = headers.first().map_or(packet.clone(), |_| extend(&packet, 0, &[0, 1, 4, 0, 0, 0, 0]));
        } else {
            packet[6] = 0;
            renumber_v4(&mut packet, id as u16);
        }
        prop_assume!(Packet::parse(&packet).is_ok());
        let mut pieces = Vec::new();
        cut(&packet, size, id, |piece| pieces.push(piece.to_vec())).unwrap();
        prop_assert!(pieces.iter().all(|piece| piece.len() <= size));
        let room = size - (Packet::parse(&packet).unwrap().offset + 8);
        prop_assert!(pieces.len() <= len.div_ceil(room & !7) + 1, "no more of them than there must be");
        if backwards {
            pieces.reverse();
        }
        let bench = Bench::new();
        let mut came: Vec<_> = pieces.iter().filter_map(|piece| bench.push(piece)).collect();
        prop_assert_eq!(came.len(), 1);
        prop_assert_eq!(came.remove(0), packet);
    }

    #[test]
    fn no_bytes_whatever_bring_it_down(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        version in prop_oneof![Just(0x45u8), Just(0x4f), Just(0x60)],
        next in prop_oneof![Just(44u8), Just(0), Just(43), Just(60), Just(17)],
    ) {
        if let [first, _, _, _, _, _, field, ..] = bytes.as_mut_slice() {
            (*first, *field) = (version, next);
        }
        if version != 0x60 && bytes.len() >= 20 {
            let len = bytes.len() as u16;
            bytes[2..4].copy_from_slice(&len.to_be_bytes());
            if usize::from(version & 15) * 4 <= bytes.len() {
                seal(&mut bytes);
            }
        }
        let _ = Bench::new().push(&bytes);
        let _ = cut(&bytes, 576, 1, |_| {});
    }
}

#[test]
fn what_is_no_fragment_is_left_alone() {
    let bench = Bench::new();
    for v6 in [false, true] {
        let (from, to) = ends(v6);
        for packet in
            [udp((from, 1), (to, 2), b"x"), tcp((from, 1), (to, 2), ACK, (1, 2), b"x"), echo(from, to, true, 1, b"x")]
        {
            let never = |_: IpAddr, _: IpAddr| -> Result<Origin, Drop> { panic!("nobody asks") };
            let mut frame = Frame::packet(packet.clone());
            assert!(bench.fragments.complete(NOW, &mut frame, never, |_| Ok(())));
            assert_eq!(frame.bytes, packet);
        }
    }
    assert_eq!(bench.kept(), (0, 0));
}

#[test]
fn who_may_not_send_is_not_kept() {
    let bench = Bench::new();
    for v6 in [false, true] {
        let mut frame = Frame::packet(part(v6, UDP, 1, 0, true, &[0; 24]));
        assert!(!bench.fragments.complete(
            NOW,
            &mut frame,
            |source, destination| {
                assert_eq!((source, destination), ends(v6));
                Err(Drop::SourceNotOwned)
            },
            |_| Ok(())
        ));
    }
    assert_eq!((bench.counters.of(Drop::SourceNotOwned), bench.kept()), (2, (0, 0)));
}

#[test]
fn each_defect_of_a_fragment_has_its_reason() {
    let bench = Bench::new();
    for v6 in [false, true] {
        let is = |offset, more, body: &[u8]| bench.refused(&part(v6, UDP, 1, offset, more, body));
        assert_eq!(is(0, true, &[0; 23]), Drop::FragmentBad, "not a multiple of 8");
        assert_eq!(is(64, false, &[]), Drop::FragmentBad, "empty");
        assert_eq!(is(65_528, false, &[0; 8]), Drop::FragmentBad, "beyond the largest packet");
        assert_eq!(is(65_496, false, &[0; 40]), Drop::FragmentBad, "beyond the largest packet with its header");
        for (protocol, body) in [(TCP, 16), (TCP, 8)] {
            assert_eq!(bench.refused(&part(v6, protocol, 1, 0, true, &vec![0; body])), Drop::FragmentTiny);
        }
        assert_eq!(bench.refused(&part(v6, 47, 1, 0, true, &[0; 64])), Drop::Protocol);
        assert_eq!(bench.refused(&part(v6, 44, 1, 0, true, &[0; 64])), Drop::Fragment, "of a fragment");
        let mut cut_off = part(v6, UDP, 1, 0, true, &[0; 24]);
        cut_off.pop();
        assert_eq!(bench.refused(&cut_off), Drop::Truncated);
    }
    let mut damaged = part(false, UDP, 1, 0, true, &[0; 24]);
    damaged[8] ^= 1;
    assert_eq!(bench.refused(&damaged), Drop::BadChecksum);
    let mut short = part(false, UDP, 1, 0, true, &[0; 24]);
    short[0] = 0x44;
    assert_eq!(bench.refused(&short), Drop::BadLength);
    // Headers behind the fragment header must be whole in the first one, too (RFC 7112).
    let options = |length: u8| [&[UDP, length, 1, 4, 0, 0, 0, 0], &[1; 16][..]].concat();
    assert_eq!(bench.refused(&part(true, 60, 1, 0, true, &options(9))), Drop::FragmentTiny);
    assert_eq!(bench.refused(&part(true, 60, 1, 0, true, &[60, 0, 1, 4, 0, 0, 0, 0].repeat(9))), Drop::ExtensionHeader);
    assert_eq!(bench.kept(), (0, 0));
    assert_eq!(bench.push(&part(true, 60, 1, 0, true, &options(0))), None);
    assert!(bench.kept() > (1, FRAGMENT_COST + 24), "an honest one is kept");
}

#[test]
fn who_comes_later_cannot_complete_what_was_poisoned() {
    let mut bench = Bench::new();
    for v6 in [false, true] {
        let first = part(v6, UDP, 1, 0, true, &[1; 24]);
        let last = part(v6, UDP, 1, 24, false, &[2; 8]);
        assert_eq!(bench.push(&first), None);
        assert_eq!(bench.refused(&first), Drop::FragmentRepeated);
        assert_eq!(bench.refused(&part(v6, UDP, 1, 0, true, &[9; 24])), Drop::FragmentOverlap);
        for again in [&first, &last, &first] {
            assert_eq!(bench.refused(again), Drop::FragmentOverlap);
        }
        // Another identification is another datagram.
        assert_eq!(bench.push(&part(v6, UDP, 2, 24, false, &[2; 8])), None);
        assert!(bench.push(&part(v6, UDP, 2, 0, true, &[1; 24])).is_some());
        bench.now = bench.now.plus(FRAGMENT_LIFE);
        assert_eq!(bench.push(&last), None);
        assert!(bench.push(&first).is_some(), "its time is over");
    }
}

#[test]
fn ends_that_contradict_each_other_poison() {
    for v6 in [false, true] {
        // A second end; bytes beyond the end; an end before bytes that came; the last one that says that it is not.
        let cases: [[(usize, bool, usize); 2]; 4] = [
            [(48, false, 8), (24, false, 8)],
            [(24, false, 8), (48, true, 8)],
            [(48, true, 8), (24, false, 8)],
            [(48, false, 8), (48, true, 8)],
        ];
        for [one, two] in cases {
            let bench = Bench::new();
            assert_eq!(bench.push(&part(v6, UDP, 1, one.0, one.1, &vec![0; one.2])), None);
            assert_eq!(bench.refused(&part(v6, UDP, 1, two.0, two.1, &vec![0; two.2])), Drop::FragmentOverlap);
        }
    }
}

#[test]
fn the_same_numbers_of_somebody_else_are_another_datagram() {
    let bench = Bench::new();
    let (first, last) = (part(false, UDP, 1, 0, true, &[1; 24]), part(false, UDP, 1, 24, false, &[2; 8]));
    let tun = Origin::Tun(ends(false).0);
    assert_eq!(bench.push_as(pairing(1), &first), None);
    assert_eq!(bench.push_as(pairing(2), &last), None);
    assert_eq!(bench.push_as(tun, &last), None);
    assert!(bench.push_as(pairing(1), &last).is_some());
    assert!(bench.push_as(pairing(2), &first).is_some());
    assert!(bench.push_as(tun, &first).is_some());
}

#[test]
fn the_rest_must_come_in_time() {
    let mut bench = Bench::new();
    assert_eq!(bench.fragments.expire(NOW), Instant::NEVER);
    bench.push(&part(false, UDP, 1, 0, true, &[1; 24]));
    bench.push(&part(false, UDP, 1, 48, true, &[1; 24]));
    assert_eq!(bench.fragments.expire(NOW), NOW.plus(FRAGMENT_LIFE));
    bench.now = NOW.plus(FRAGMENT_LIFE - Duration::from_nanos(1));
    assert_eq!(bench.push(&part(false, UDP, 1, 72, false, &[1; 8])), None);
    assert_eq!(bench.kept().0, 1);
    // Without a tick too: the part that is late finds nothing.
    bench.now = NOW.plus(FRAGMENT_LIFE);
    assert_eq!(bench.push(&part(false, UDP, 1, 24, true, &[1; 24])), None);
    assert_eq!((bench.counters.of(Drop::FragmentExpired), bench.kept().0), (3, 1));
    assert_eq!(bench.fragments.expire(bench.now.plus(FRAGMENT_LIFE)), Instant::NEVER);
    assert_eq!(bench.kept(), (0, 0));
}

#[test]
fn one_datagram_has_as_many_fragments_as_the_limit_says() {
    for beyond in [0, 1] {
        let bench = Bench::new();
        let count = FRAGMENTS_MAX + beyond;
        let last = |n: usize| n + 1 == count;
        let got: Vec<_> =
            (0..count).filter_map(|n| bench.push(&part(false, UDP, 1, n * 8, !last(n), &[1; 8]))).collect();
        assert_eq!(got.len(), 1 - beyond);
        assert_eq!(bench.counters.of(Drop::FragmentsFull) as usize, count * beyond);
    }
}

#[test]
fn one_source_pushes_out_its_own_and_nobody_elses() {
    let bench = Bench::new();
    let (first, last) = (|id| part(false, UDP, id, 0, true, &[1; 24]), |id| part(false, UDP, id, 24, false, &[2; 8]));
    assert_eq!(bench.push_as(pairing(2), &first(1)), None);
    for id in 0..=FRAGMENTED_PER_SOURCE_MAX as u32 {
        assert_eq!(bench.push_as(pairing(1), &first(id)), None);
    }
    assert_eq!(bench.counters.of(Drop::FragmentsFull), 1);
    assert_eq!(bench.push_as(pairing(1), &last(0)), None, "the oldest went");
    assert!(bench.push_as(pairing(1), &last(FRAGMENTED_PER_SOURCE_MAX as u32)).is_some());
    assert!(bench.push_as(pairing(2), &last(1)).is_some());
    // By bytes, too.
    let large = |id| part(true, UDP, id, 0, true, &[1; 65_000]);
    let fit = FRAGMENT_BYTES_PER_SOURCE_MAX / (65_000 + 40 + 2 * FRAGMENT_COST);
    let bench = Bench::new();
    assert_eq!(bench.push_as(pairing(2), &first(1)), None);
    (0..fit as u32).for_each(|id| assert_eq!(bench.push(&large(id)), None));
    assert_eq!((bench.counters.of(Drop::FragmentsFull), bench.kept().0), (0, fit + 1));
    assert_eq!(bench.push(&large(99)), None);
    assert_eq!((bench.counters.of(Drop::FragmentsFull), bench.kept().0), (1, fit + 1));
    assert!(bench.push_as(pairing(2), &last(1)).is_some());
}

#[test]
fn where_all_is_full_whoever_has_most_loses() {
    let (first, last) = (|id| part(false, UDP, id, 0, true, &[1; 24]), |id| part(false, UDP, id, 24, false, &[2; 8]));
    let bench = Bench::new();
    let sources = FRAGMENTED_MAX / FRAGMENTED_PER_SOURCE_MAX;
    for source in 0..sources {
        (0..FRAGMENTED_PER_SOURCE_MAX as u32)
            .for_each(|id| assert_eq!(bench.push_as(pairing(source), &first(id)), None));
    }
    assert_eq!((bench.kept().0, bench.counters.of(Drop::FragmentsFull)), (FRAGMENTED_MAX, 0));
    // A newcomer finds room, and keeps it whatever the others do.
    assert_eq!(bench.push_as(pairing(99), &first(1)), None);
    for source in 0..sources {
        (100..200).for_each(|id| assert_eq!(bench.push_as(pairing(source), &first(id)), None));
    }
    assert_eq!(bench.kept().0, FRAGMENTED_MAX);
    assert!(bench.push_as(pairing(99), &last(1)).is_some());

    let bench = Bench::new();
    let large = |id| part(true, UDP, id, 0, true, &[1; 65_000]);
    assert_eq!(bench.push_as(pairing(99), &first(1)), None);
    for source in 0..2 * FRAGMENT_BYTES_MAX / FRAGMENT_BYTES_PER_SOURCE_MAX {
        (0..9).for_each(|id| assert_eq!(bench.push_as(pairing(source), &large(id)), None));
    }
    assert!(bench.kept().1 > FRAGMENT_BYTES_MAX / 10 * 9);
    assert!(bench.push_as(pairing(99), &last(1)).is_some());
}

#[test]
fn an_atomic_fragment_is_whole_and_touches_no_other() {
    let bench = Bench::new();
    let (from, to) = ends(true);
    let packet = udp((from, 5), (to, 6), b"whole");
    bench.push(&part(true, UDP, 9, 0, true, &[1; 24]));
    let kept = bench.kept();
    let atomic = extend(&packet, 44, &[0, 0, 0, 0, 0, 0, 9]);
    assert_eq!(bench.push(&atomic), Some(packet));
    assert_eq!(bench.kept(), kept);
}

#[test]
fn a_mark_on_one_is_a_mark_on_the_whole() {
    for v6 in [false, true] {
        let marked = |mut bytes: Vec<u8>, ecn: u8| {
            if v6 {
                bytes[1] |= ecn << 4;
            } else {
                bytes[1] |= ecn;
                seal(&mut bytes);
            }
            bytes
        };
        let join = |one, two| {
            let bench = Bench::new();
            assert_eq!(bench.push(&marked(part(v6, UDP, 1, 0, true, &[1; 24]), one)), None);
            let got = bench.push(&marked(part(v6, UDP, 1, 24, false, &[1; 8]), two));
            (got.map(|bytes| ecn::of(&bytes)), bench.counters.of(Drop::Ecn))
        };
        assert_eq!(join(2, 3), (Some(3), 0));
        assert_eq!(join(3, 2), (Some(3), 0));
        assert_eq!(join(2, 2), (Some(2), 0));
        assert_eq!(join(0, 3), (None, 1), "its sender would not understand");
        assert_eq!(join(0, 0), (Some(0), 0));
    }
}

#[test]
fn cut_is_what_is_too_large_and_may_be() {
    for v6 in [false, true] {
        let (from, to) = ends(v6);
        let mut frame = Frame::packet(udp((from, 5), (to, 6), &[7; 3_000]));
        assert_eq!(is_too_large(&frame, TUN_MTU), v6, "IPv4 says that it may not be cut");
        if !v6 {
            frame.bytes[6] = 0;
            renumber_v4(&mut frame.bytes, 0x1234);
            assert_eq!(word(&frame.bytes, 4), Some(0x1234));
            assert_sums(&frame.bytes);
        }
        assert!(is_too_large(&frame, TUN_MTU) && !is_too_large(&frame, 4_000));
        let mut sizes = Vec::new();
        cut(&frame.bytes, V6_MTU_MIN, 1, |piece| sizes.push(piece.len())).unwrap();
        assert_eq!(sizes, if v6 { [1_280, 1_280, 592] } else { [1_276, 1_276, 516] });
    }
    // Headers that leave no room for anything.
    let (from, to) = ends(true);
    let padding = |size: u8| [&[size], &[1, 0].repeat(usize::from(size) * 4 + 3)[..]].concat();
    let deep = extend(&udp((from, 5), (to, 6), &[7; 3_000]), 60, &padding(155));
    assert_eq!(cut(&deep, V6_MTU_MIN, 1, |_| panic!("a piece")), Err(Drop::ExtensionHeader));
}

#[test]
fn a_first_one_that_may_not_pass_takes_its_datagram_with_it() {
    for v6 in [false, true] {
        let datagram = udp((ends(v6).0, 4_000), (ends(v6).1, 53), &[7; 64]);
        let body = &datagram[if v6 { 40 } else { 20 }..];
        let first = part(v6, UDP, 1, 0, true, &body[..24]);
        let rest = [part(v6, UDP, 1, 24, true, &body[24..48]), part(v6, UDP, 1, 48, false, &body[48..])];
        let judged = |bench: &Bench, bytes: &[u8], verdict: Result<(), Drop>| {
            let mut frame = Frame::packet(bytes.to_vec());
            let mut asked = None;
            let whole = bench.fragments.complete(
                bench.now,
                &mut frame,
                |_, _| Ok(pairing(1)),
                |packet| {
                    asked = Some((packet.source, packet.source_port(), packet.destination, packet.destination_port()));
                    verdict
                },
            );
            bench.holds();
            (whole.then_some(frame.bytes), asked)
        };
        let seen = Some((ends(v6).0, 4_000, ends(v6).1, 53));
        // It passes: all come together, and only the first is asked for.
        let bench = Bench::new();
        assert_eq!(judged(&bench, &rest[0], Err(Drop::NoGrant)), (None, None));
        assert_eq!(judged(&bench, &first, Ok(())), (None, seen));
        assert_eq!(judged(&bench, &rest[1], Err(Drop::NoGrant)), (Some(whole(v6, UDP, 1, body)), None));
        // It does not: neither what was there nor what comes is kept, and all of it has that reason.
        for before in 0..=2 {
            let mut bench = Bench::new();
            rest[..before].iter().for_each(|piece| assert_eq!(judged(&bench, piece, Ok(())), (None, None)));
            assert_eq!(judged(&bench, &first, Err(Drop::NoGrant)), (None, seen));
            rest[before..].iter().for_each(|piece| assert_eq!(judged(&bench, piece, Ok(())), (None, None)));
            assert_eq!((bench.counters.of(Drop::NoGrant), bench.kept()), (3, (1, FRAGMENT_COST)));
            // Asked again, it stays so until its time.
            assert_eq!(judged(&bench, &first, Ok(())), (None, seen));
            assert_eq!(bench.counters.of(Drop::NoGrant), 4);
            bench.now = bench.now.plus(FRAGMENT_LIFE);
            assert_eq!(judged(&bench, &first, Ok(())), (None, seen));
            assert_eq!(bench.counters.of(Drop::NoGrant), 4);
        }
    }
}

#[test]
fn a_first_one_shows_what_its_datagram_will_say() {
    let asked = |bytes: &[u8]| {
        let (bench, mut asked) = (Bench::new(), None);
        let judge = |packet: &Packet| {
            asked = Some(*packet);
            Ok(())
        };
        bench.fragments.complete(NOW, &mut Frame::packet(bytes.to_vec()), |_, _| Ok(pairing(1)), judge);
        let reason = Drop::ALL.iter().find(|reason| bench.counters.of(**reason) > 0).copied();
        (asked.map(|packet| (packet.protocol(), packet.source_port(), packet.destination_port())), reason)
    };
    for v6 in [false, true] {
        let (from, to) = ends(v6);
        let opening = |packet: &[u8], cut: usize| {
            let (protocol, head) = if v6 { (packet[6], 40) } else { (packet[9], 20) };
            asked(&part(v6, protocol, 5, 0, true, &packet[head..head + cut]))
        };
        use model::net::Protocol as P;
        assert_eq!(opening(&udp((from, 5), (to, 6), &[1; 900]), 8), (Some((P::Udp, 5, 6)), None));
        assert_eq!(opening(&tcp((from, 5), (to, 6), ACK, (1, 2), &[1; 900]), 24), (Some((P::Tcp, 5, 6)), None));
        assert_eq!(opening(&echo(from, to, true, 9, &[1; 900]), 8), (Some((P::Icmp, 9, 0)), None));
        assert_eq!(opening(&udp((from, 5), (to, 0), &[1; 900]), 8), (None, Some(Drop::PortZero)));
        // A TCP header whose options end in the next fragment (RFC 7112).
        let mut long = tcp((from, 5), (to, 6), ACK, (1, 2), &[1; 900]);
        long[if v6 { 52 } else { 32 }] = 0xf0;
        assert_eq!(opening(&long, 56), (None, Some(Drop::FragmentTiny)));
        assert_eq!(opening(&long, 64), (Some((P::Tcp, 5, 6)), None));
        // An error's sum is over all of it: it is judged whole.
        let error = crate::craft::port_unreachable(from, to, &udp((to, 5), (from, 6), &[1; 500]));
        assert_eq!(opening(&error, 200), (None, None));
    }
    let (from, to) = ends(true);
    let mut unsummed = udp((from, 5), (to, 6), &[1; 900]);
    unsummed[46..48].fill(0);
    assert_eq!(asked(&part(true, UDP, 5, 0, true, &unsummed[40..64])), (None, Some(Drop::UdpNoChecksum)));
}
