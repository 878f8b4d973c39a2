use super::*;
use crate::craft::ip;
use crate::headers::{ACK, SYN};
use proptest::prelude::*;

const NOW: Instant = Instant(1_000);
const SEED: [u8; 32] = [3; 32];

fn device(n: u8) -> DeviceId {
    DeviceId::from_bytes([n; 10])
}
fn grant(n: u8) -> GrantId {
    GrantId::from_bytes([n; 10])
}
fn opening(d: u8, g: u8, client_port: u16, host: u16) -> Opening {
    let [a, b] = host.to_be_bytes();
    let client = ClientKey {
        device: device(d),
        protocol: Protocol::Udp,
        client: ip("10.77.1.1"),
        client_port,
        target: IpAddr::from([10, 77, a, b]),
        port: 80,
    };
    let pairing = PairingId::from_bytes([d; 10]);
    Opening { client, real: IpAddr::from([10, 5, a, b]), nat: IpAddr::from([198, 18, 0, g]), grant: grant(g), pairing }
}
const fn one(bytes: u64) -> Load {
    Load { packets: 1, bytes }
}

fn segment(flags: u8, seq: u32, ack: u32, length: u32) -> Tcp {
    Tcp { source_port: 1, destination_port: 2, seq, ack, flags, length }
}
fn of(protocol: Protocol) -> Opening {
    let mut o = opening(1, 1, 5000, 1);
    o.client.protocol = protocol;
    o
}

#[test]
fn the_bounds_are_those_of_the_limits() {
    let caps = Caps::default();
    assert_eq!((caps.total, caps.peer, caps.grant, caps.target), (262_144, 8_192, 4_096, 32_768));
    assert_eq!((caps.total, caps.peer), (FLOWS_MAX, FLOWS_PER_PEER_MAX));
    assert_eq!((caps.grant, caps.target), (FLOWS_PER_GRANT_MAX, FLOWS_PER_TARGET_MAX));
}

#[test]
fn the_search_for_the_longest_idle_flow_ends() {
    let mut table = Table::new(Caps { grant: 2 * EVICT_LOOK_MAX, ..Caps::default() }, &SEED);
    let ids: Vec<FlowId> = (0..2 * EVICT_LOOK_MAX as u16)
        .map(|n| table.open(Instant(u64::from(n)), &opening(1, 1, 1000 + n, 1)).unwrap().0)
        .collect();
    // All but the last of those that may be looked at have spoken since.
    for (n, id) in (0u64..).zip(&ids[..EVICT_LOOK_MAX - 1]) {
        table.touch(Instant(10_000 + n), *id, true, one(10), None);
    }
    let (first, evicted) = table.open(Instant(20_000), &opening(1, 1, 1, 1)).unwrap();
    assert_eq!(evicted[0].client.client_port, 1000 + EVICT_LOOK_MAX as u16 - 1, "the true one, within the bound");
    // Now every one of them: a flow goes all the same, and one that was not looked at.
    for (n, id) in (0u64..).zip(ids.iter().chain([&first])) {
        table.touch(Instant(30_000 + n), *id, true, one(10), None);
    }
    let (_, evicted) = table.open(Instant(40_000), &opening(1, 1, 2, 1)).unwrap();
    assert_eq!(evicted.len(), 1);
    assert_eq!(table.len(), 2 * EVICT_LOOK_MAX);
}

#[test]
fn a_full_grant_gives_up_its_longest_idle_flow() {
    let mut table = Table::new(Caps::default(), &SEED);
    let ids: Vec<FlowId> = (0..FLOWS_PER_GRANT_MAX as u16)
        .map(|n| table.open(Instant(u64::from(n)), &opening(1, 1, 1000 + n, 1)).unwrap().0)
        .collect();
    // The first two spoke again, so the third has been idle longest.
    table.touch(Instant(90_000), ids[0], true, one(10), None);
    table.touch(Instant(90_001), ids[1], false, one(10), None);
    let (_, evicted) = table.open(Instant(90_002), &opening(1, 1, 999, 1)).unwrap();
    assert_eq!(evicted.iter().map(|f| f.client.client_port).collect::<Vec<_>>(), [1002]);
    assert_eq!(table.len(), FLOWS_PER_GRANT_MAX);
    // Another grant of the device is not touched by that.
    assert!(table.open(Instant(90_003), &opening(1, 2, 1, 1)).unwrap().1.is_empty());
}

#[test]
fn a_full_device_gives_up_its_own_flow_and_nobody_elses() {
    let mut table = Table::new(Caps::default(), &SEED);
    table.open(NOW, &opening(2, 9, 1, 1)).unwrap();
    for n in 0..FLOWS_PER_PEER_MAX as u16 {
        table.open(NOW, &opening(1, (n / 4_000) as u8, 1 + n, 2)).unwrap();
    }
    let (_, evicted) = table.open(NOW, &opening(1, 3, 9, 3)).unwrap();
    assert_eq!(evicted.len(), 1);
    assert_eq!(evicted[0].client.device, device(1));
    assert_eq!(table.len(), FLOWS_PER_PEER_MAX + 1);
}

#[test]
fn a_full_table_refuses_who_has_nothing_to_give_up() {
    let mut table = Table::new(Caps { total: 3, ..Caps::default() }, &SEED);
    for n in 0..3 {
        table.open(NOW, &opening(1, 1, 1 + n, 1)).unwrap();
    }
    assert_eq!(table.open(NOW, &opening(2, 2, 1, 1)).unwrap_err(), Drop::FlowsFull);
    assert_eq!(table.open(NOW, &opening(1, 1, 9, 1)).unwrap().1.len(), 1);
    assert_eq!(table.len(), 3);
}

#[test]
fn a_full_target_takes_no_more() {
    let mut table = Table::new(Caps::default(), &SEED);
    for n in 0..FLOWS_PER_TARGET_MAX {
        let (d, port) = ((n / 4_000) as u8, (n % 4_000) as u16 + 1);
        table.open(NOW, &opening(d, d, port, 1)).unwrap();
    }
    assert_eq!(table.open(NOW, &opening(99, 99, 1, 1)).unwrap_err(), Drop::TargetFull);
    assert!(table.open(NOW, &opening(99, 99, 1, 2)).is_ok());
}

#[test]
fn taken_source_ports_are_replaced_until_none_is_left() {
    let mut table = Table::new(Caps { total: 1 << 20, peer: 1 << 20, grant: 1 << 20, target: 1 << 20 }, &SEED);
    // Many virtual addresses that lead to one real one, always from the same source port.
    let same = |n: u32| {
        let mut o = opening(1, 1, 7_777, 1);
        o.client.target = IpAddr::from((0x0a4d_4000 + n).to_be_bytes());
        o
    };
    let mut ports = BTreeSet::new();
    let refused = (0..).find(|n| match table.open(NOW, &same(*n)) {
        Ok((id, _)) => {
            assert!(ports.insert(table.flow(id).unwrap().service.nat_port), "a port was given twice");
            false
        }
        Err(reason) => {
            assert_eq!(reason, Drop::NatPortsUsed);
            true
        }
    });
    assert!(ports.contains(&7_777) && ports.iter().all(|p| *p >= 1024));
    assert!(refused.unwrap() > 10_000, "gave up after {refused:?}");
    // As often as it may be tried, and the client's own port before.
    let taken = |n: u32| same(n).client;
    assert_eq!(table.nat_port(&taken(9_999_999), opening(1, 1, 1, 1).real, opening(1, 1, 1, 1).nat), None);
    let first = table.by_client(&taken(0)).unwrap();
    table.close(first);
    assert!(table.open(NOW, &same(9_999_999)).is_ok(), "a port that is free again");
}

#[test]
fn a_free_port_is_found_among_those_that_are_tried() {
    let mut table = Table::new(Caps::default(), &SEED);
    let same = |n: u16| {
        let mut o = opening(1, 1, 7_777, 1);
        o.client.target = IpAddr::from([10, 78, (n >> 8) as u8, n as u8]);
        o
    };
    table.open(NOW, &same(0)).unwrap();
    // Where the search begins moves with each flow; all that it tries but the last is taken.
    let begin = table.last.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let tried = |i: u16| (1024 + (begin + u64::from(i) * 4_099) % 64_512) as u16;
    let Opening { client, real, nat, .. } = same(1);
    let id = FlowId(1);
    let key = |nat_port| ServiceKey { protocol: client.protocol, real, port: client.port, nat, nat_port };
    (0..NAT_PORTS_TRIED_MAX - 1).for_each(|i| table.by_service.put(key(tried(i)), id));
    assert_eq!(table.nat_port(&client, real, nat), Some(tried(NAT_PORTS_TRIED_MAX - 1)));
    table.by_service.put(key(tried(NAT_PORTS_TRIED_MAX - 1)), id);
    assert_eq!(table.nat_port(&client, real, nat), None, "and no more are tried");
}

#[test]
fn each_protocol_has_its_idle_time() {
    let idle = [(Protocol::Tcp, TCP_IDLE), (Protocol::Udp, UDP_IDLE), (Protocol::Icmp, ICMP_IDLE)];
    for (protocol, idle) in idle {
        let mut table = Table::new(Caps::default(), &SEED);
        let (id, _) = table.open(NOW, &of(protocol)).unwrap();
        let again = NOW.plus(idle / 2);
        table.touch(again, id, false, one(5), None);
        assert!(table.expire(NOW.plus(idle)).is_empty(), "{protocol} spoke since");
        assert_eq!(table.next_deadline(), again.plus(idle));
        let ended = table.expire(again.plus(idle));
        assert_eq!(ended[0].end, FlowEnd::Idle);
        assert_eq!((ended[0].down, ended[0].lasted), ((1, 5), idle / 2));
        assert!(table.is_empty() && table.next_deadline() == Instant::NEVER);
    }
}

#[test]
fn a_closed_connection_goes_soon_and_a_half_closed_one_stays() {
    for reset in [false, true] {
        let mut table = Table::new(Caps::default(), &SEED);
        let (id, _) = table.open(NOW, &of(Protocol::Tcp)).unwrap();
        table.touch(NOW, id, true, one(40), Some(&segment(SYN, 10, 0, 1)));
        table.touch(NOW, id, false, one(40), Some(&segment(SYN | ACK, 70, 11, 1)));
        // An RST whose number nobody would believe changes nothing.
        table.touch(NOW, id, false, one(40), Some(&segment(RST, 5_000, 0, 0)));
        table.touch(NOW, id, true, one(40), Some(&segment(FIN | ACK, 11, 71, 1)));
        assert!(table.expire(NOW.plus(TCP_CLOSED_IDLE * 2)).is_empty());
        let last = if reset { segment(RST, 71, 0, 0) } else { segment(FIN | ACK, 71, 12, 1) };
        table.touch(NOW, id, false, one(40), Some(&last));
        assert_eq!(table.next_deadline(), NOW.plus(TCP_CLOSED_IDLE));
        assert_eq!(table.expire(NOW.plus(TCP_CLOSED_IDLE))[0].end, FlowEnd::Closed);
    }
}

#[test]
fn reset_numbers_are_those_that_are_expected() {
    let mut table = Table::new(Caps::default(), &SEED);
    let (id, _) = table.open(NOW, &of(Protocol::Tcp)).unwrap();
    table.touch(NOW, id, true, one(40), Some(&segment(SYN, u32::MAX, 0, 1)));
    // Only SYN so far: the client waits for an acknowledgement of it.
    assert_eq!(table.flow(id).unwrap().reset_client(), (vec![0], Some(0)));
    table.touch(NOW, id, false, one(40), Some(&segment(SYN | ACK, 70, 0, 1)));
    table.touch(NOW, id, true, one(40), Some(&segment(ACK, 0, 71, 500)));
    table.touch(NOW, id, false, one(40), Some(&segment(ACK, 171, 300, 100)));
    // A retransmission does not move the number back.
    table.touch(NOW, id, false, one(40), Some(&segment(ACK, 71, 300, 100)));
    let flow = table.flow(id).unwrap();
    assert_eq!(flow.reset_client(), (vec![271, 71], Some(500)));
    assert_eq!(flow.reset_service(), (vec![500, 300], Some(271)));
}

#[test]
fn expiry_is_cut_into_batches() {
    let mut table = Table::new(Caps::default(), &SEED);
    for n in 0..EXPIRE_BATCH_MAX as u16 + 7 {
        table.open(NOW, &opening(1, 1, 1 + n, 1)).unwrap();
    }
    let late = NOW.plus(UDP_IDLE);
    assert_eq!(table.expire(late).len(), EXPIRE_BATCH_MAX);
    assert!(table.next_deadline() <= late);
    assert_eq!(table.expire(late).len(), 7);
}

#[derive(Debug, Clone)]
enum Step {
    Open(u8, u8, u16, u16),
    Touch(usize, bool),
    Close(usize),
    Adopt(usize, u8),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..3, 0u8..4, 1u16..6, 0u16..3).prop_map(|(d, g, p, h)| Step::Open(d, g, p, h)),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(n, up)| Step::Touch(n, up)),
        1 => any::<usize>().prop_map(Step::Close),
        1 => (any::<usize>(), 0u8..4).prop_map(|(n, g)| Step::Adopt(n, g)),
        1 => (1u64..200).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Against a list of flows: the same live ones, every index in step, no bound passed, none outlives its idle time.
    #[test]
    fn equals_a_plain_list(steps in proptest::collection::vec(step(), 1..120)) {
        let caps = Caps { total: 14, peer: 8, grant: 5, target: 9 };
        let mut table = Table::new(caps, &SEED);
        let mut now = Instant(0);
        let mut list: BTreeMap<FlowId, (ClientKey, GrantId, Instant)> = BTreeMap::new();
        for s in steps {
            let nth = |list: &BTreeMap<FlowId, _>, n: usize| list.keys().nth(n % list.len().max(1)).copied();
            match s {
                Step::Open(d, g, p, h) => {
                    let o = opening(d, g, p, h);
                    if table.by_client(&o.client).is_some() { continue }
                    if let Ok((id, evicted)) = table.open(now, &o) {
                        for gone in evicted {
                            let (gone_id, (_, _, last)) = list.iter().find(|(_, f)| f.0 == gone.client).map(|(i, f)| (*i, *f)).unwrap();
                            list.remove(&gone_id);
                            prop_assert!(gone.client.device == o.client.device || gone.grant == o.grant);
                            let rivals = list.values().filter(|f| if gone.grant == o.grant { f.1 == o.grant || f.0.device == o.client.device } else { f.0.device == o.client.device });
                            // Nobody of the same kind was idle longer.
                            let same_grant_older = rivals.clone().filter(|f| f.1 == gone.grant && f.0.device == gone.client.device).any(|f| f.2 < last);
                            prop_assert!(!same_grant_older);
                        }
                        list.insert(id, (o.client, o.grant, now));
                    }
                }
                Step::Touch(n, up) => if let Some(id) = nth(&list, n) {
                    table.touch(now, id, up, one(1), None);
                    list.get_mut(&id).unwrap().2 = now;
                },
                Step::Close(n) => if let Some(id) = nth(&list, n) {
                    prop_assert!(table.close(id).is_some());
                    list.remove(&id);
                },
                Step::Adopt(n, g) => if let Some(id) = nth(&list, n) && table.of_grant(grant(g)).len() < caps.grant {
                    table.adopt(id, grant(g));
                    list.get_mut(&id).unwrap().1 = grant(g);
                },
                Step::Pass(seconds) => {
                    now = now.plus(Duration::from_secs(seconds));
                    let ended = table.expire(now).len();
                    let before = list.len();
                    list.retain(|_, f| now.since(f.2) < UDP_IDLE);
                    prop_assert_eq!(ended, before - list.len());
                }
            }
            prop_assert_eq!(table.all(), list.keys().copied().collect::<Vec<_>>());
            prop_assert!(table.len() <= caps.total);
            for (id, (client, g, _)) in &list {
                let flow = table.flow(*id).unwrap();
                prop_assert_eq!((table.by_client(client), table.by_service(&flow.service)), (Some(*id), Some(*id)));
                prop_assert!(table.of_grant(*g).contains(id) && table.of_grant(*g).len() <= caps.grant);
            }
            prop_assert_eq!(table.by_client.len(), list.len());
            prop_assert_eq!(table.by_service.len(), list.len());
            prop_assert_eq!(table.deadlines.len(), list.len());
            for ranking in [table.by_device.values().map(BTreeSet::len).sum::<usize>(), table.by_grant.values().map(BTreeSet::len).sum(), table.by_target.values().sum()] {
                prop_assert_eq!(ranking, list.len());
            }
            prop_assert!(table.by_device.values().all(|s| s.len() <= caps.peer));
        }
    }
}
