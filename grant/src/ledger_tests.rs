//! The ledger beside plain expectations: joining, extending, bounds, addresses, tombstones, restarts.

use crate::testkit::*;
use crate::*;
use model::ids::GrantId;
use model::limits::*;
use model::pool::NatPool;
use model::revision::Revision;
use model::time::{Instant, WallMs};
use std::time::Duration;

#[test]
fn a_grant_joins_the_tunnel_that_the_client_holds() {
    let mut ledger = ledger();
    let first = give(&mut ledger, at(10), permit(1, 1, 1, 1));
    assert!(first.new_pairing.is_some() && first.pairing_record.is_some());
    let second = give(&mut ledger, at(11), Permit { held: vec![first.pairing], ..permit(1, 2, 1, 2) });
    assert_eq!(second.pairing, first.pairing);
    assert!(second.new_pairing.is_none() && second.pairing_record.is_none());
    // Not to another gateway, not with another device's tunnel, not without holding it.
    let elsewhere = give(&mut ledger, at(11), Permit { held: vec![first.pairing], ..permit(1, 3, 2, 3) });
    let stranger = give(&mut ledger, at(11), Permit { held: vec![first.pairing], ..permit(2, 2, 1, 4) });
    let forgot = give(&mut ledger, at(11), permit(1, 4, 1, 5));
    for other in [elsewhere, stranger, forgot] {
        assert!(other.new_pairing.is_some());
        assert_ne!(other.pairing, first.pairing);
    }
}

#[test]
fn a_tunnel_about_to_go_is_not_joined() {
    let mut ledger = ledger();
    let first = give(&mut ledger, at(10), permit(1, 1, 1, 1));
    // The gateway, which counts from earlier, may have dropped it already; it never makes it again.
    let nearly = |left: Duration| Moment { now: Instant(at(70).now.0 - left.as_nanos() as u64), ..at(70) };
    let held = ledger.grant(
        nearly(PAIRING_JOIN_MIN + Duration::from_nanos(1)),
        Permit { held: vec![first.pairing], ..permit(1, 9, 1, 9) },
    );
    let held = held.unwrap();
    assert!(held.new_pairing.is_none());
    ledger.abandon(held.grant);
    for (n, when) in [(2, nearly(PAIRING_JOIN_MIN)), (3, at(70))] {
        let second = ledger.grant(when, Permit { held: vec![first.pairing], ..permit(1, n, 1, n) }).unwrap();
        assert!(second.new_pairing.is_some());
    }
}

#[test]
fn a_second_request_extends_and_takes_the_rules_of_now() {
    let mut ledger = ledger();
    let first = give(&mut ledger, at(10), permit(1, 1, 1, 1));
    let again = Permit { held: vec![first.pairing], rules: vec![rule(7)], ..permit(1, 1, 1, 2) };
    let second = give(&mut ledger, at(40), again);
    assert_eq!((second.grant, second.ends), (first.grant, at(100).now));
    assert_eq!(ledger.all().len(), 1);
    let delta = ledger.delta(gateway(1), rev(2), at(40).now, at(40).now).unwrap();
    assert_eq!(delta.grants[0].rules, [rule(7)]);
    assert_eq!(delta.ended, []);
}

#[test]
fn a_lost_tunnel_is_replaced_make_before_break() {
    let mut ledger = ledger();
    let old = give(&mut ledger, at(10), permit(1, 1, 1, 1));
    let new = give(&mut ledger, at(20), permit(1, 1, 1, 2));
    assert_eq!(new.replaces, [old.grant]);
    assert!(ledger.live(old.grant).is_some() && ledger.live(new.grant).is_some());
    assert_ne!(ledger.live(old.grant).unwrap().grant.nat_v4, ledger.live(new.grant).unwrap().grant.nat_v4);
    let out = end(&mut ledger, at(21), &Selector::Grant(old.grant));
    assert_eq!(out.pairings, [old.pairing]);
    assert!(ledger.live(new.grant).is_some());
}

#[test]
fn a_grant_never_lives_beyond_what_it_stands_on() {
    let mut ledger = ledger();
    let until = at(30).now;
    let granted = give(&mut ledger, at(10), Permit { until, ..permit(1, 1, 1, 1) });
    assert_eq!(granted.ends, until);
    let snapshot = ledger.snapshot(gateway(1), at(20).now, at(18).now).unwrap();
    assert_eq!(snapshot.grants[0].ends_in, Duration::from_secs(12), "counted from the request, not from the answer");
    let mut table = Table::new(scope(), Revision::default());
    table.apply(at(20).now, at(18).now, Update::Snapshot(snapshot));
    let digest = table.digest();
    let renewal = ledger.renew(at(25), gateway(1), table.revision(), digest, &mut |l| Some(l.until)).unwrap();
    assert_eq!(renewal.lives, [], "no life left to give");
    assert_eq!(ledger.expired(at(29).now), []);
    assert_eq!(ledger.expired(until), [granted.grant]);
    assert!(ledger.grant(at(30), Permit { until, ..permit(2, 1, 1, 2) }).is_err());
}

#[test]
fn renewal_is_for_equal_tables_and_for_what_is_permitted() {
    let mut ledger = ledger();
    let a = give(&mut ledger, at(10), permit(1, 1, 1, 1));
    let b = give(&mut ledger, at(10), permit(2, 1, 1, 2));
    let mut table = Table::new(scope(), Revision::default());
    let snapshot = ledger.snapshot(gateway(1), at(10).now, at(10).now).unwrap();
    table.apply(at(10).now, at(10).now, Update::Snapshot(snapshot));
    let (revision, digest) = (table.revision(), table.digest());
    let early = ledger.renew(at(20), gateway(1), revision, digest, &mut |l| Some(l.until)).unwrap();
    assert_eq!(early.lives, [], "before half of a life nothing is written");
    let only_a = ledger
        .renew(at(50), gateway(1), revision, digest, &mut |l| (l.grant.id == a.grant).then_some(Instant::NEVER))
        .unwrap();
    assert_eq!(only_a.lives, [(a.grant, Duration::from_secs(60))]);
    assert_eq!(only_a.records.len(), 1);
    assert_eq!(table.renewed(at(51).now, at(49).now, &only_a.lives), []);
    assert_eq!(table.ends(a.grant), Some(at(109).now), "counted from the sending");
    assert_eq!(table.ends(b.grant), Some(at(70).now));
    assert_eq!(table.handle_timeout(at(70).now).len(), 1);
    // A lost revoke, with a renewal after it: the tables differ, so nothing is renewed.
    end(&mut ledger, at(71), &Selector::Grant(a.grant));
    let digest = table.digest();
    assert_eq!(ledger.renew(at(72), gateway(1), revision, digest, &mut |_| Some(Instant::NEVER)), None);
    // Of another life of the organisation.
    let foreign = Revision { incarnation: 0, number: 99 };
    assert_eq!(ledger.renew(at(72), gateway(1), foreign, digest, &mut |_| Some(Instant::NEVER)), None);
}

#[test]
fn an_address_rests_until_the_gateway_let_go_of_it() {
    let mut ledger = ledger();
    let a = give(&mut ledger, at(10), permit(1, 1, 1, 1));
    let address = ledger.live(a.grant).unwrap().grant.nat_v4;
    assert_eq!(address.to_string(), "198.18.0.1");
    let out = end(&mut ledger, at(11), &Selector::Grant(a.grant));
    let b = give(&mut ledger, at(12), permit(2, 1, 1, 2));
    assert_eq!(ledger.live(b.grant).unwrap().grant.nat_v4.to_string(), "198.18.0.2");
    // A gateway cannot acknowledge what it was never sent.
    ledger.ack(gateway(1), rev(1_000));
    assert!(!ledger.is_confirmed(gateway(1), out.revision));
    ledger.snapshot(gateway(1), at(12).now, at(12).now);
    // Another gateway's word is nothing here.
    ledger.snapshot(gateway(2), at(12).now, at(12).now);
    ledger.ack(gateway(2), ledger.head());
    let c = give(&mut ledger, at(12), permit(3, 1, 1, 3));
    assert_eq!(ledger.live(c.grant).unwrap().grant.nat_v4.to_string(), "198.18.0.3");
    ledger.ack(gateway(1), out.revision);
    let d = give(&mut ledger, at(13), permit(3, 2, 1, 4));
    assert_eq!(ledger.live(d.grant).unwrap().grant.nat_v4, address);
}

#[test]
fn a_change_told_too_late_is_not_taken_for_confirmed() {
    let mut ledger = ledger();
    let a = give(&mut ledger, at(10), permit(1, 1, 1, 1));
    let b = give(&mut ledger, at(10), permit(2, 1, 1, 2));
    let head = ledger.head();
    let snapshot = ledger.snapshot(gateway(1), at(10).now, at(10).now).unwrap();
    assert_eq!(snapshot.revision, head);
    // An earlier transaction's revoke, told after a later one was published.
    let out = revoke(&mut ledger, at(11), &Selector::Grant(a.grant), Cause::Administrator, rev(2));
    assert_eq!(out.revision, head);
    assert_eq!(ledger.delta(gateway(1), head, at(11).now, at(11).now), None, "only a snapshot helps");
    ledger.ack(gateway(1), head);
    assert_eq!(ledger.pending(out.revision, at(11).now), [(gateway(1), at(70).now)]);
    let again = ledger.snapshot(gateway(1), at(11).now, at(11).now).unwrap();
    assert_eq!(again.grants.len(), 1);
    end(&mut ledger, at(12), &Selector::Grant(b.grant));
    ledger.snapshot(gateway(1), at(12).now, at(12).now);
    ledger.ack(gateway(1), ledger.head());
    assert_eq!(ledger.pending(out.revision, at(12).now), []);
}

#[test]
fn an_ended_id_never_comes_alive_again() {
    let mut ledger = ledger();
    let a = give(&mut ledger, at(10), permit(1, 1, 1, 1));
    let record = ledger.records(at(10)).grants;
    let pairings = ledger.records(at(10)).pairings;
    let out = end(&mut ledger, at(11), &Selector::User(user(0)));
    assert_eq!(out.tombstones.len(), 1);
    assert_eq!(ledger.tombstone(a.grant).unwrap().cause, Cause::Administrator);
    assert!(matches!(ledger.grant(at(12), permit(1, 1, 1, 1)), Err(LedgerError::Id(_))));
    // A store in which the record survived beside the tombstone.
    let mut records = ledger.records(at(12));
    records.grants = record;
    records.pairings = pairings;
    let (mut restored, lost) = Ledger::restore(at(12), ledger.head(), records);
    assert!(lost.contains(&Lost::Ended(a.grant)));
    assert_eq!(restored.all().len(), 0);
    assert!(matches!(restored.grant(at(12), permit(1, 1, 1, 1)), Err(LedgerError::Id(_))));
    // As long as any lease may be, and longer.
    let gone = at(11).now.plus(LEASE_MAX).plus(TOMBSTONE_EXTRA);
    assert_eq!(restored.bury(Instant(gone.0 - 1_000_000)), []);
    assert_eq!(restored.bury(gone), [a.grant]);
}

#[test]
fn a_revoke_ends_what_is_being_committed() {
    let mut ledger = ledger();
    let granted = ledger.grant(at(10), permit(1, 1, 1, 1)).unwrap();
    let out = end(&mut ledger, at(10), &Selector::Device(device(1)));
    assert_eq!(out.ended.len(), 1);
    assert_eq!(ledger.commit(granted.grant, rev(9)), Err(LedgerError::Gone(granted.grant)));
    assert_eq!(ledger.all().len(), 0);
    // A grant that would join a tunnel which goes meanwhile.
    let first = give(&mut ledger, at(11), permit(1, 1, 1, 2));
    let joining = ledger.grant(at(11), Permit { held: vec![first.pairing], ..permit(1, 2, 1, 3) }).unwrap();
    ledger.restart_gateway(at(11), gateway(1));
    assert_eq!(ledger.commit(joining.grant, rev(20)), Err(LedgerError::Gone(joining.grant)));
    assert_eq!(ledger.select(&Selector::All).len(), 1);
}

#[test]
fn a_gateways_restart_ends_tunnels_and_keeps_addresses() {
    let mut ledger = ledger();
    let a = give(&mut ledger, at(10), permit(1, 1, 1, 1));
    let address = ledger.live(a.grant).unwrap().grant.nat_v4;
    let out = ledger.restart_gateway(at(20), gateway(1));
    assert_eq!(out.pairings, [a.pairing]);
    assert_eq!(out.waiting.len(), 1);
    assert_eq!(out.clients[&device(1)], [(a.grant, resource(1))]);
    assert_eq!(ledger.snapshot(gateway(1), at(20).now, at(20).now).unwrap().grants, []);
    assert_eq!(ledger.live(a.grant).unwrap().ends, at(70).now, "a restart extends nothing");
    // The client still names the old tunnel, which is not joined.
    let b = give(&mut ledger, at(21), Permit { held: vec![a.pairing], ..permit(1, 1, 1, 2) });
    assert_eq!(b.grant, a.grant);
    assert!(b.new_pairing.is_some() && b.pairing != a.pairing);
    let snapshot = ledger.snapshot(gateway(1), at(21).now, at(21).now).unwrap();
    assert_eq!((snapshot.grants[0].nat_v4, snapshot.pairings.len()), (address, 1));
}

#[test]
fn a_grant_leaves_a_worn_tunnel_under_its_own_id_and_the_last_one_takes_it_away() {
    let mut ledger = ledger();
    let a = give(&mut ledger, at(10), permit(1, 1, 1, 1));
    let b = give(&mut ledger, at(10), Permit { held: vec![a.pairing], ..permit(1, 2, 1, 2) });
    let address = ledger.live(a.grant).unwrap().grant.nat_v4;
    let before = ledger.head();
    let moved = give(&mut ledger, at(20), Permit { moves: Some(a.grant), ..permit(1, 1, 1, 3) });
    assert_eq!((moved.grant, moved.leaves, moved.replaces), (a.grant, None, vec![]), "another grant is in it still");
    assert!(moved.new_pairing.is_some() && moved.pairing != a.pairing);
    assert_eq!(ledger.live(a.grant).unwrap().grant.nat_v4, address, "its flows are known by it");
    let delta = ledger.delta(gateway(1), before, at(20).now, at(20).now).unwrap();
    assert_eq!((delta.grants[0].id, delta.grants[0].pairing, delta.ended), (a.grant, moved.pairing, vec![]));
    // The answer was lost: the client still knows of the old tunnel alone.
    let again = give(&mut ledger, at(21), Permit { moves: Some(a.grant), ..permit(1, 1, 1, 4) });
    assert_eq!((again.grant, again.leaves), (a.grant, Some(moved.pairing)));
    assert!(ledger.pairing(moved.pairing).is_none() && ledger.pairing(a.pairing).is_some());
    // The other one joins, and while that is being written nobody joins the tunnel that it leaves.
    let last = Permit { held: vec![again.pairing], moves: Some(b.grant), ..permit(1, 2, 1, 5) };
    let last = ledger.grant(at(22), last).unwrap();
    assert_eq!((last.grant, last.pairing, last.leaves), (b.grant, again.pairing, Some(a.pairing)));
    let late = ledger.grant(at(22), Permit { held: vec![a.pairing], ..permit(1, 3, 1, 6) }).unwrap();
    assert!(late.new_pairing.is_some());
    ledger.abandon(late.grant);
    ledger.commit(last.grant, rev(30)).unwrap();
    assert_eq!(ledger.pairing(a.pairing), None);
    let snapshot = ledger.snapshot(gateway(1), at(22).now, at(22).now).unwrap();
    assert_eq!((snapshot.grants.len(), snapshot.pairings.len()), (2, 1));
    // Nobody moves what is another device's, or another resource's.
    for stranger in [permit(2, 1, 1, 7), permit(1, 4, 1, 8)] {
        let given = give(&mut ledger, at(23), Permit { moves: Some(a.grant), ..stranger });
        assert!(given.grant != a.grant && given.leaves.is_none());
    }
    assert_eq!(ledger.live(a.grant).unwrap().grant.pairing, again.pairing);
}

#[test]
fn a_device_with_all_the_tunnels_it_may_have_can_still_change_one_for_another() {
    let mut ledger = ledger();
    let all: Vec<_> =
        (0..DATA_KEYS_MAX as u64).map(|n| give(&mut ledger, at(10), permit(1, n + 1, 1, n + 1)).grant).collect();
    let one_more = permit(1, 100, 1, 100);
    assert_eq!(ledger.grant(at(11), one_more.clone()).unwrap_err(), LedgerError::Pairings(device(1)));
    let moved = give(&mut ledger, at(11), Permit { moves: Some(all[0]), ..permit(1, 1, 1, 101) });
    assert_eq!(moved.grant, all[0]);
    assert_eq!(ledger.grant(at(12), one_more).unwrap_err(), LedgerError::Pairings(device(1)));
}

#[test]
fn every_selector_selects_its_own() {
    let mut ledger = ledger();
    let all: Vec<_> = (0..4).map(|n| give(&mut ledger, at(10), permit(n, n % 2, 1 + n % 2, n + 1)).grant).collect();
    let key = permit(2, 0, 1, 3).data_key;
    let pairing = ledger.live(all[2]).unwrap().grant.pairing;
    let cases: [(Selector, &[usize]); 10] = [
        (Selector::Grant(all[1]), &[1]),
        (Selector::Device(device(3)), &[3]),
        (Selector::Session(session(0)), &[0]),
        (Selector::User(user(1)), &[2, 3]),
        (Selector::Resource(resource(0)), &[0, 2]),
        (Selector::UserResource(user(0), resource(1)), &[1]),
        (Selector::Gateway(gateway(2)), &[1, 3]),
        (Selector::Key(key), &[2]),
        (Selector::Pairing(pairing), &[2]),
        (Selector::Any(vec![Selector::Grant(all[0]), Selector::Device(device(0))]), &[0]),
    ];
    for (which, wanted) in cases {
        let mut copy = ledger.clone();
        let out = end(&mut copy, at(11), &which);
        let ended: Vec<GrantId> = out.ended.iter().map(|l| l.grant.id).collect();
        assert_eq!(ended, wanted.iter().map(|i| all[*i]).collect::<Vec<_>>(), "{which:?}");
        assert_eq!(copy.all().len(), 4 - wanted.len());
        assert_eq!(end(&mut copy, at(12), &which).ended, [], "once only");
        assert_eq!(copy.standing(out.revision).len(), out.gateways.len());
    }
    let out = end(&mut ledger, at(11), &Selector::All);
    assert_eq!((out.ended.len(), out.clients.len(), out.gateways.len()), (4, 4, 2));
    assert_eq!(ledger.all().len(), 0);
    assert!(ledger.records(at(11)).pairings.is_empty());
}

#[test]
fn bounds_of_a_permit_are_checked() {
    let mut ledger = ledger();
    let refuse = |ledger: &mut Ledger, permit: Permit| ledger.grant(at(10), permit).unwrap_err();
    let base = || permit(1, 1, 1, 1);
    let many = vec![rule(1); RULES_PER_GRANT_MAX + 1];
    assert_eq!(refuse(&mut ledger, Permit { rules: vec![], ..base() }), LedgerError::Rules);
    assert_eq!(refuse(&mut ledger, Permit { rules: many, ..base() }), LedgerError::Rules);
    assert_eq!(refuse(&mut ledger, Permit { lease: LEASE_MIN / 2, ..base() }), LedgerError::Lease);
    assert_eq!(refuse(&mut ledger, Permit { lease: LEASE_MAX * 2, ..base() }), LedgerError::Lease);
    assert_eq!(refuse(&mut ledger, Permit { gateway: gateway(9), ..base() }), LedgerError::Gateway(gateway(9)));
    give(&mut ledger, at(10), base());
    let same_key = Permit { data_key: base().data_key, ..permit(2, 1, 1, 2) };
    assert_eq!(refuse(&mut ledger, same_key), LedgerError::Key);
}

#[test]
fn a_device_cannot_fill_the_ledger() {
    let mut ledger = ledger();
    let mut held = Vec::new();
    let mut fresh = 0;
    for n in 0..GRANTS_PER_DEVICE_MAX {
        fresh += 1;
        let mut p = Permit { held: held.clone(), resource: resource(n as u64), ..permit(1, 1, 1, fresh) };
        if n < DATA_KEYS_MAX {
            p.held.clear();
        }
        held.push(give(&mut ledger, at(10), p).pairing);
        if n + 1 == DATA_KEYS_MAX {
            assert_eq!(
                ledger.grant(at(10), permit(1, 999, 1, 999)).unwrap_err(),
                LedgerError::Pairings(device(1)),
                "a client has that many data keys"
            );
        }
    }
    let more = Permit { held, ..permit(1, 9_999, 1, 9_999) };
    assert_eq!(ledger.grant(at(10), more).unwrap_err(), LedgerError::Device(device(1)));
    // Nor by giving back and asking again.
    end(&mut ledger, at(10), &Selector::All);
    let mut refused = None;
    for _ in 0..=TOMBSTONES_PER_DEVICE_MAX {
        fresh += 1;
        match ledger.grant(at(10), permit(1, 1, 1, fresh)) {
            Ok(granted) => {
                let next = rev(ledger.head().number + 1);
                ledger.commit(granted.grant, next).unwrap();
                end(&mut ledger, at(10), &Selector::Grant(granted.grant));
            }
            Err(why) => refused = Some(why),
        }
    }
    assert_eq!(refused, Some(LedgerError::Tombstones(device(1))));
    assert!(ledger.grant(at(10), permit(2, 1, 1, fresh + 1)).is_ok(), "others go on");
}

#[test]
fn an_organisation_has_so_many_tombstones_and_grants_again_when_they_go() {
    let mut ledger = ledger();
    give(&mut ledger, at(10), permit(1, 1, 1, 1));
    end(&mut ledger, at(10), &Selector::All);
    let grave = ledger.graves.values().next().unwrap().clone();
    // Of nobody in particular, to fill it fast.
    for n in 2..=TOMBSTONES_MAX as u64 {
        ledger.graves.insert(grant_id(n << 20), grave.clone());
        if n + 1 == TOMBSTONES_MAX as u64 {
            let last = ledger.grant(at(10), permit(3, 1, 1, 3)).unwrap();
            ledger.abandon(last.grant);
        }
    }
    assert_eq!(ledger.graves.len(), TOMBSTONES_MAX);
    assert_eq!(ledger.grant(at(10), permit(2, 1, 1, 2)).unwrap_err(), LedgerError::Tombstones(device(2)));
    ledger.graves.remove(&grant_id(7 << 20));
    assert!(ledger.grant(at(10), permit(2, 1, 1, 2)).is_ok());
}

#[test]
fn a_small_pool_fills_and_frees() {
    let mut ledger = Ledger::new(rev(1));
    let small = NatPool { v4: "198.18.0.0/30".parse().unwrap(), v6: "fd99::/48".parse().unwrap() };
    ledger.set_gateway(gateway(1), small);
    let a = give(&mut ledger, at(10), permit(1, 1, 1, 1));
    let b = give(&mut ledger, at(10), permit(2, 1, 1, 2));
    assert_eq!(ledger.grant(at(10), permit(3, 1, 1, 3)).unwrap_err(), LedgerError::Full(gateway(1)));
    end(&mut ledger, at(10), &Selector::Grant(a.grant));
    assert!(ledger.grant(at(10), permit(3, 1, 1, 3)).is_err(), "not before the gateway let go");
    ledger.snapshot(gateway(1), at(10).now, at(10).now);
    ledger.ack(gateway(1), ledger.head());
    assert!(ledger.grant(at(10), permit(3, 1, 1, 3)).is_ok());
    // Another pool: what has addresses of the old one is to be ended.
    assert_eq!(ledger.set_gateway(gateway(1), nat()), [], "the small pool is the beginning of the large one");
    let other = NatPool { v4: "198.19.0.0/24".parse().unwrap(), v6: "fd98::/48".parse().unwrap() };
    assert_eq!(ledger.set_gateway(gateway(1), other), [b.grant, grant_id(3)]);
}

#[test]
fn a_gateway_far_behind_gets_a_snapshot() {
    let mut ledger = ledger();
    let a = give(&mut ledger, at(10), permit(1, 1, 1, 1));
    let early = ledger.head();
    for n in 0..=CHANGES_PER_GATEWAY_MAX as u64 {
        let terms =
            Terms { rules: vec![rule(n as u32 % 9)], lease: LEASE_MIN * 60, on_gateway: false, until: Instant::NEVER };
        ledger.amend(at(11), a.grant, terms).unwrap();
        let next = rev(ledger.head().number + 1);
        ledger.commit(a.grant, next).unwrap();
    }
    assert!(matches!(ledger.update(gateway(1), Some(early), at(11).now, at(11).now), Some(Update::Snapshot(_))));
    let late = rev(ledger.head().number - 1);
    assert!(matches!(ledger.update(gateway(1), Some(late), at(11).now, at(11).now), Some(Update::Delta(_))));
    let head = ledger.head();
    assert_eq!(ledger.update(gateway(1), Some(head), at(11).now, at(11).now), None);
    assert!(ledger.is_behind(rev(head.number + 1)) && !ledger.is_behind(head));
}

#[test]
fn restore_gives_the_ledger_back_through_text() {
    let mut ledger = ledger();
    let a = give(&mut ledger, at(10), permit(1, 1, 1, 1));
    give(&mut ledger, at(10), Permit { held: vec![a.pairing], ..permit(1, 2, 1, 2) });
    give(&mut ledger, at(10), permit(2, 1, 2, 3));
    end(&mut ledger, at(12), &Selector::Device(device(2)));
    let records = ledger.records(at(20));
    let text = serde_json::to_string(&(&records.grants, &records.tombstones)).unwrap();
    let (grants, tombstones) = serde_json::from_str(&text).unwrap();
    // Another start: another elapsed time, the same wall clock.
    let later = Moment { now: Instant(5 * SECOND), wall: WallMs(at(20).wall.0 + 3_000) };
    let (mut restored, lost) = Ledger::restore(later, ledger.head(), Records { grants, tombstones, ..records.clone() });
    assert_eq!(lost, []);
    assert_eq!(restored.records(later), records);
    assert_eq!(restored.live(a.grant).unwrap().ends, Instant((5 + 70 - 23) * SECOND));
    for n in [1, 2] {
        assert_eq!(restored.digest(gateway(n), later.now), ledger.digest(gateway(n), at(20).now));
        let old = ledger.snapshot(gateway(n), at(23).now, at(23).now).unwrap();
        let new = restored.snapshot(gateway(n), later.now, later.now).unwrap();
        assert_eq!(old, new);
    }
    assert_eq!(restored.pending(ledger.head(), later.now).len(), 1, "who has not confirmed is still asked for");
}

#[test]
fn a_wall_clock_set_back_lengthens_no_life() {
    let mut ledger = ledger();
    let a = give(&mut ledger, at(10), permit(1, 1, 1, 1));
    let records = ledger.records(at(10));
    for wall in [0, i64::MIN, -1_000_000] {
        let moment = Moment { now: Instant(SECOND), wall: WallMs(wall) };
        let (restored, _) = Ledger::restore(moment, rev(9), records.clone());
        assert_eq!(restored.live(a.grant).unwrap().ends, Instant(61 * SECOND), "at most one lease");
    }
    let forward = Moment { now: Instant(SECOND), wall: WallMs(i64::MAX) };
    let (restored, _) = Ledger::restore(forward, rev(9), records);
    assert_eq!(restored.expired(forward.now), [a.grant]);
}

#[test]
fn records_that_do_not_fit_are_left_out() {
    let mut ledger = ledger();
    let a = give(&mut ledger, at(10), permit(1, 1, 1, 1));
    let b = give(&mut ledger, at(10), permit(2, 1, 1, 2));
    let good = ledger.records(at(10));
    let restore = |change: &dyn Fn(&mut Records)| {
        let mut records = good.clone();
        change(&mut records);
        let (ledger, lost) = Ledger::restore(at(10), rev(9), records);
        (ledger.all().len(), lost)
    };
    assert_eq!(restore(&|_| {}), (2, vec![]));
    assert_eq!(restore(&|r| r.gateways.clear()).0, 0);
    assert_eq!(restore(&|r| r.pairings.clear()).1, [Lost::Pairing(a.grant), Lost::Pairing(b.grant)]);
    let (left, lost) = restore(&|r| r.grants[1].nat_number = r.grants[0].nat_number);
    assert_eq!((left, lost[0]), (1, Lost::Number(b.grant)));
    let (left, lost) = restore(&|r| r.grants[0].rules.clear());
    assert_eq!((left, lost), (1, vec![Lost::Bounds(a.grant), Lost::Tunnel(a.pairing)]));
    let (_, lost) = restore(&|r| r.pairings[1].0.client_key = r.pairings[0].0.client_key);
    assert_eq!(lost, [Lost::Tunnel(b.pairing), Lost::Pairing(b.grant)]);
    let (_, lost) = restore(&|r| r.grants[0].pairing = r.grants[1].pairing);
    assert_eq!(lost[0], Lost::Pairing(a.grant), "no grant in another device's tunnel");
}
