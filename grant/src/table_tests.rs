//! The table beside plain expectations: what is refused, what ends when, what an old message may do.

use crate::testkit::*;
use crate::*;
use model::grant::{Grant, Pairing};
use model::ids::GrantId;
use model::limits::*;
use model::revision::Revision;
use model::secret::Secret;
use model::time::Instant;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

fn table() -> Table {
    Table::new(scope(), Revision::default())
}

/// Takes what the ledger has for gateway 1, at the given second.
fn sync(ledger: &mut Ledger, table: &mut Table, seconds: u64) -> Applied {
    let now = at(seconds).now;
    let sent = (table.revision() != Revision::default()).then(|| table.revision());
    let update = ledger.update(gateway(1), sent, now, now).unwrap();
    table.apply(now, now, update)
}

/// Pairing and grant as the ledger makes them.
fn pair() -> (Pairing, Grant) {
    let mut ledger = ledger();
    give(&mut ledger, at(10), permit(1, 1, 1, 1));
    let mut s = ledger.snapshot(gateway(1), at(10).now, at(10).now).unwrap();
    (s.pairings.remove(0), s.grants.remove(0))
}

fn snapshot(number: u64, pairings: Vec<Pairing>, grants: Vec<Grant>) -> Update {
    Update::Snapshot(Snapshot { revision: rev(number), pairings, grants })
}

fn refusal(pairings: Vec<Pairing>, grants: Vec<Grant>) -> Vec<GrantError> {
    let now = at(10).now;
    let applied = table().apply(now, now, snapshot(5, pairings, grants));
    applied.refused.into_iter().map(|(_, why)| why).collect()
}

#[test]
fn a_grant_arrives_acts_and_ends_without_traffic() {
    let (mut ledger, mut table) = (ledger(), table());
    let granted = give(&mut ledger, at(10), permit(1, 1, 1, 1));
    let applied = sync(&mut ledger, &mut table, 10);
    assert!(applied.applied && applied.changed && applied.refused.is_empty(), "{applied:?}");
    assert!(table.view().holds(granted.pairing, granted.grant));
    assert_eq!(table.next_deadline(), Some(at(70).now));
    assert!(!table.renewal_due(at(49).now) && table.renewal_due(at(50).now));
    assert_eq!(table.handle_timeout(Instant(at(70).now.0 - 1)), []);
    let ended = table.handle_timeout(at(70).now);
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].grant, granted.grant);
    assert!(table.view().pairings.is_empty(), "a tunnel without grants goes, too");
}

#[test]
fn a_delta_ends_a_grant_and_its_tunnel() {
    let (mut ledger, mut table) = (ledger(), table());
    let a = give(&mut ledger, at(10), permit(1, 1, 1, 1));
    let b = give(&mut ledger, at(10), permit(2, 1, 1, 2));
    sync(&mut ledger, &mut table, 10);
    let revocation = end(&mut ledger, at(11), &Selector::Device(device(1)));
    assert_eq!(revocation.pairings, [a.pairing]);
    let applied = sync(&mut ledger, &mut table, 11);
    assert_eq!(applied.ended.len(), 1);
    assert!(!table.view().pairings.contains_key(&a.pairing) && table.view().holds(b.pairing, b.grant));
    assert_eq!(ledger.digest(gateway(1), at(11).now).unwrap(), table.digest());
    assert_eq!(ledger.pending(revocation.revision, at(11).now), [(gateway(1), at(70).now)]);
    ledger.ack(gateway(1), table.revision());
    assert_eq!(ledger.pending(revocation.revision, at(11).now), []);
}

#[test]
fn what_a_snapshot_does_not_name_ends() {
    let (p, g) = pair();
    let mut table = table();
    let now = at(10).now;
    table.apply(now, now, snapshot(5, vec![p.clone()], vec![g.clone()]));
    let applied = table.apply(now, now, snapshot(6, vec![], vec![]));
    assert_eq!(applied.ended.len(), 1);
    assert!(applied.changed && table.is_empty() && table.view().pairings.is_empty());
    // A tunnel that was dropped is not made again: its recorded handshakes would be answered.
    let again = table.apply(now, now, snapshot(7, vec![p], vec![g]));
    assert_eq!(again.refused[0].1, GrantError::PairingGone);
}

#[test]
fn a_late_snapshot_renewal_or_delta_brings_nothing_back() {
    let (p, g) = pair();
    let mut table = table();
    let now = at(10).now;
    let first = snapshot(5, vec![p.clone()], vec![g.clone()]);
    table.apply(now, now, first.clone());
    table.apply(now, now, snapshot(6, vec![], vec![]));
    let applied = table.apply(now, now, first);
    assert_eq!(applied, Applied::default(), "older than what was seen");
    assert_eq!(table.renewed(now, now, &[(g.id, Duration::from_secs(60))]), []);
    assert!(table.is_empty());
    let delta = |from: u64, to: u64| Delta {
        from: rev(from),
        to: rev(to),
        pairings: vec![p.clone()],
        grants: vec![g.clone()],
        ended: vec![],
    };
    assert!(!table.apply(now, now, Update::Delta(delta(4, 6))).applied, "late");
    let gap = table.apply(now, now, Update::Delta(delta(7, 8)));
    assert!(gap.need_snapshot && !gap.applied && table.is_empty());
    // A start later: the floor is remembered.
    let mut restarted = Table::new(scope(), table.seen());
    let applied = restarted.apply(now, now, snapshot(5, vec![p.clone()], vec![g.clone()]));
    assert!(!applied.applied && restarted.is_empty());
    let other_life = Delta { from: Revision { incarnation: 0, number: 6 }, ..delta(6, 7) };
    assert!(table.apply(now, now, Update::Delta(other_life)).need_snapshot);
}

#[test]
fn an_end_in_a_delta_that_does_not_fit_is_heeded() {
    let (p, g) = pair();
    let mut table = table();
    let now = at(10).now;
    table.apply(now, now, snapshot(5, vec![p], vec![g.clone()]));
    let delta = Delta { from: rev(7), to: rev(8), pairings: vec![], grants: vec![], ended: vec![g.id] };
    let applied = table.apply(now, now, Update::Delta(delta));
    assert!(applied.need_snapshot && applied.changed && table.is_empty());
    assert_eq!(table.revision(), rev(5));
}

#[test]
fn a_life_is_counted_from_the_request_and_never_beyond_the_lease() {
    let (p, g) = pair();
    let long = Grant { ends_in: Duration::MAX, ..g.clone() };
    let mut late = table();
    late.apply(at(10).now, at(8).now, snapshot(5, vec![p.clone()], vec![long]));
    assert_eq!(late.ends(g.id), Some(at(68).now));
    // Counted from a request before the lease: over already, and no fault of the grant.
    let mut old = table();
    let applied = old.apply(at(80).now, at(10).now, snapshot(5, vec![p.clone()], vec![g.clone()]));
    assert!(applied.renew_now && applied.refused.is_empty() && old.is_empty());
    // Nearly over for the same reason: it would end before a renewal could come, and its tunnel for ever.
    let cut = Grant { ends_in: Duration::from_secs(105), ..g.clone() };
    let applied = old.apply(at(55).now, at(10).now, snapshot(6, vec![p.clone()], vec![cut.clone()]));
    assert!(applied.renew_now && applied.refused.is_empty() && old.is_empty());
    let applied = old.apply(at(56).now, at(55).now, snapshot(6, vec![p.clone()], vec![g.clone()]));
    assert!(!applied.renew_now && applied.changed && old.ends(g.id) == Some(at(115).now));
    old.apply(at(100).now, at(55).now, snapshot(7, vec![p.clone()], vec![cut]));
    assert_eq!(old.ends(g.id), Some(at(115).now), "what is held stays held");
    // A base in the future, as no honest caller gives it, gains nothing.
    let mut ahead = table();
    ahead.apply(at(10).now, at(500).now, snapshot(5, vec![p], vec![g.clone()]));
    assert_eq!(ahead.ends(g.id), Some(at(70).now));
}

#[test]
fn renewal_lengthens_shortens_and_ends_and_the_newest_word_counts() {
    let (p, g) = pair();
    let mut table = table();
    let first = snapshot(5, vec![p], vec![g.clone()]);
    table.apply(at(10).now, at(10).now, first.clone());
    let life = |s| [(g.id, Duration::from_secs(s))];
    table.renewed(at(51).now, at(50).now, &life(60));
    assert_eq!(table.ends(g.id), Some(at(110).now));
    // Overtaken: the answer to an earlier request, a duplicate of the snapshot.
    table.renewed(at(52).now, at(40).now, &life(60));
    table.apply(at(52).now, at(10).now, first);
    assert_eq!(table.ends(g.id), Some(at(110).now));
    assert!(table.renewed(at(53).now, at(99).now, &life(60)).is_empty(), "no request was sent then");
    assert_eq!(table.ends(g.id), Some(at(110).now));
    table.renewed(at(61).now, at(60).now, &life(9_999));
    assert_eq!(table.ends(g.id), Some(at(120).now), "never beyond the lease");
    table.renewed(at(62).now, at(61).now, &life(5));
    assert_eq!(table.ends(g.id), Some(at(66).now), "as the controller says");
    assert_eq!(table.renewed(at(63).now, at(62).now, &life(0)).len(), 1);
}

#[test]
fn a_last_life_is_asked_for_once() {
    let (p, g) = pair();
    let mut table = table();
    table.apply(at(10).now, at(10).now, snapshot(5, vec![p], vec![g]));
    assert!(table.renewal_due(at(50).now));
    table.renewed(at(50).now, at(50).now, &[]);
    assert_eq!(table.renewal_at(), None);
    assert_eq!(table.next_deadline(), Some(at(70).now));
}

#[test]
fn a_clock_that_jumps_ends_everything_at_once() {
    let (p, g) = pair();
    let mut table = table();
    table.apply(at(10).now, at(10).now, snapshot(5, vec![p], vec![g.clone()]));
    let jump = at(8 * 3600).now;
    // Whatever is called first after a suspend: nothing is served from before it.
    table.renewed(jump, at(60).now, &[(g.id, Duration::from_secs(60))]);
    assert!(table.is_empty() && table.view().pairings.is_empty());
}

#[test]
fn renewals_keep_the_view_and_new_rules_change_it() {
    let (p, g) = pair();
    let mut table = table();
    table.apply(at(10).now, at(10).now, snapshot(5, vec![p.clone()], vec![g.clone()]));
    let view = table.view();
    let same = table.apply(at(20).now, at(20).now, snapshot(6, vec![p.clone()], vec![g.clone()]));
    assert!(same.applied && !same.changed);
    assert!(std::sync::Arc::ptr_eq(&view, &table.view()));
    let wider = Grant { rules: vec![rule(3)], ..g };
    let applied = table.apply(at(20).now, at(20).now, snapshot(7, vec![p], vec![wider]));
    assert!(applied.changed && applied.ended.is_empty());
    assert_eq!(table.view().pairings.values().next().unwrap().grants[0].grant().rules, [rule(3)]);
}

#[test]
fn a_tunnel_is_one_devices_with_one_key() {
    let (p, g) = pair();
    assert_eq!(refusal(vec![p.clone()], vec![g.clone()]), []);
    assert_eq!(refusal(vec![], vec![g.clone()]), [GrantError::Pairing]);
    let foreign = Pairing { device: device(2), ..p.clone() };
    assert_eq!(refusal(vec![foreign], vec![g.clone()]), [GrantError::Device]);
    for v4 in [pool().resolver_v4(), pool().virtual_v4(1).unwrap(), Ipv4Addr::new(10, 0, 0, 9)] {
        assert_eq!(refusal(vec![Pairing { device_v4: v4, ..p.clone() }], vec![g.clone()]), [GrantError::DeviceAddress]);
    }
    for v6 in [pool().controller(), pool().virtual_v6(1).unwrap(), Ipv6Addr::LOCALHOST] {
        assert_eq!(refusal(vec![Pairing { device_v6: v6, ..p.clone() }], vec![g.clone()]), [GrantError::DeviceAddress]);
    }
    let (nat_v4, nat_v6) = nat().pair(9).unwrap();
    let second = Grant { id: grant_id(9), pairing: pairing_id(9), nat_v4, nat_v6, ..g.clone() };
    let twin = Pairing { id: pairing_id(9), ..p.clone() };
    assert_eq!(refusal(vec![p.clone(), twin.clone()], vec![g.clone(), second.clone()]), [GrantError::Key]);
    let twin = Pairing { client_key: permit(1, 1, 1, 9).data_key, ..twin };
    assert_eq!(refusal(vec![p.clone(), twin.clone()], vec![g.clone(), second.clone()]), []);
    let thief = Grant { nat_v4: g.nat_v4, nat_v6: g.nat_v6, ..second };
    assert_eq!(refusal(vec![p.clone(), twin], vec![g.clone(), thief]), [GrantError::NatTaken]);
    // The pre-shared key is for a tunnel's whole life.
    let mut table = table();
    let now = at(10).now;
    table.apply(now, now, snapshot(5, vec![p.clone()], vec![g.clone()]));
    let other = Pairing { psk: Secret::new([99; 32]), ..p };
    let applied = table.apply(now, now, snapshot(6, vec![other], vec![g]));
    assert_eq!(applied.refused[0].1, GrantError::PairingGone);
    assert!(table.is_empty());
}

#[test]
fn a_narrower_scope_ends_what_no_longer_fits() {
    let (p, g) = pair();
    let mut table = table();
    let now = at(10).now;
    table.apply(now, now, snapshot(5, vec![p], vec![g.clone()]));
    assert!(!table.set_scope(now, scope()).changed);
    let applied = table.set_scope(now, Scope { own: vec!["10.0.0.9".parse::<IpAddr>().unwrap()], ..scope() });
    assert!(applied.changed && applied.ended.len() == 1 && table.is_empty());
    assert_eq!(applied.refused[0].0, g.id);
}

#[test]
fn the_table_fills_and_says_so() {
    let (p, g) = pair();
    let pool = nat();
    let grants: Vec<Grant> = (1..=GRANTS_PER_GATEWAY_MAX as u32 + 2)
        .map(|n| {
            let (nat_v4, nat_v6) = pool.pair(n).unwrap();
            Grant { id: grant_id(u64::from(n)), nat_v4, nat_v6, ..g.clone() }
        })
        .collect();
    let mut table = table();
    let now = at(10).now;
    let applied = table.apply(now, now, snapshot(5, vec![p], grants));
    assert_eq!(table.len(), GRANTS_PER_GATEWAY_MAX);
    assert_eq!(applied.refused.iter().map(|(_, why)| why.clone()).collect::<Vec<_>>(), vec![GrantError::Full; 2]);
}

#[test]
fn the_digest_sees_every_field_but_the_life() {
    let (p, g) = pair();
    let of = |p: &Pairing, g: &Grant| crate::sync::digest([p].into_iter(), [g].into_iter());
    let first = of(&p, &g);
    assert_eq!(of(&p, &Grant { ends_in: Duration::ZERO, ..g.clone() }), first);
    let grants: [Grant; 9] = [
        Grant { id: grant_id(2), ..g.clone() },
        Grant { pairing: pairing_id(2), ..g.clone() },
        Grant { device: device(2), ..g.clone() },
        Grant { resource: resource(2), ..g.clone() },
        Grant { rules: vec![rule(2)], ..g.clone() },
        Grant { nat_v4: Ipv4Addr::LOCALHOST, ..g.clone() },
        Grant { nat_v6: Ipv6Addr::LOCALHOST, ..g.clone() },
        Grant { lease: LEASE_MAX, ..g.clone() },
        Grant { on_gateway: true, ..g.clone() },
    ];
    let pairings: [Pairing; 5] = [
        Pairing { device: device(2), ..p.clone() },
        Pairing { client_key: permit(1, 1, 1, 9).data_key, ..p.clone() },
        Pairing { psk: Secret::new([7; 32]), ..p.clone() },
        Pairing { device_v4: Ipv4Addr::LOCALHOST, ..p.clone() },
        Pairing { device_v6: Ipv6Addr::LOCALHOST, ..p.clone() },
    ];
    for other in grants {
        assert_ne!(of(&p, &other), first, "{other:?}");
    }
    for other in pairings {
        assert_ne!(of(&other, &g), first, "{other:?}");
    }
    let none: [&Pairing; 0] = [];
    assert_ne!(crate::sync::digest(none.into_iter(), [&g].into_iter()), first);
}

#[test]
fn the_view_admits_by_the_longest_prefix_and_by_nothing_else() {
    let (p, g) = pair();
    let wide = model::net::Rule {
        client: "10.0.0.0/24".parse().unwrap(),
        target: model::net::Target::Prefix("10.0.0.0/24".parse().unwrap()),
        ..rule(1)
    };
    let narrow = model::net::Rule {
        client: "10.0.0.9".parse().unwrap(),
        target: model::net::Target::Prefix("10.0.0.9".parse().unwrap()),
        ..rule(1)
    };
    let (nat_v4, nat_v6) = nat().pair(9).unwrap();
    let other = Grant { id: GrantId::from_bytes([9; 10]), rules: vec![narrow.clone()], nat_v4, nat_v6, ..g.clone() };
    let mut table = table();
    let now = at(10).now;
    let applied =
        table.apply(now, now, snapshot(5, vec![p.clone()], vec![Grant { rules: vec![wide.clone()], ..g }, other]));
    assert_eq!(applied.refused, []);
    let view = table.view();
    let tunnel = &view.pairings[&p.id];
    let find = |to: &str, protocol, port| tunnel.find(to.parse().unwrap(), protocol, port).map(|(_, r)| r.clone());
    use model::net::Protocol::{Icmp, Tcp, Udp};
    assert_eq!(find("10.0.0.9", Tcp, 443), Some(narrow));
    assert_eq!(find("10.0.0.8", Tcp, 443), Some(wide));
    for (to, protocol, port) in
        [("10.0.0.8", Tcp, 444), ("10.0.0.8", Udp, 443), ("10.0.0.8", Icmp, 443), ("10.0.1.8", Tcp, 443)]
    {
        assert_eq!(find(to, protocol, port), None);
    }
    assert!(tunnel.owns(IpAddr::V4(p.device_v4)) && tunnel.owns(IpAddr::V6(p.device_v6)));
    assert!(
        !tunnel.owns(IpAddr::V4(pool().device_v4(2).unwrap()))
            && !tunnel.owns(IpAddr::V6(p.device_v4.to_ipv6_mapped()))
    );
}
