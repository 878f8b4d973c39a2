use super::*;
use crate::testkit::{gateway, grant, pairing, resource};

const fn at(ms: u64) -> Instant {
    Instant(ms * 1_000_000)
}

fn permit(number: u32, new: bool, until: Instant) -> Permit {
    Permit {
        grant: grant(number),
        pairing: pairing(if new { number } else { 1 }),
        gateway: new.then(|| gateway(number)),
        prefixes: Vec::new(),
        until,
    }
}

const LONG: Instant = at(3_600_000);

/// Resource 1 granted at 0 by grant 1 through tunnel 1, alive.
fn connected() -> Book {
    let mut book = Book::default();
    book.want(at(0), resource(1));
    book.request(at(0)).unwrap();
    assert!(book.permitted(at(0), resource(1), permit(1, true, LONG)));
    book.observe(at(50), pairing(1), shaken(50));
    assert_eq!(book.standing(&resource(1)), Standing::Connected);
    book
}

fn shaken(ms: u64) -> Seen {
    Seen { handshake: Some(at(ms)), received: Some(at(ms)), sent: 0 }
}

#[test]
fn one_request_at_a_time() {
    let mut book = Book::default();
    book.want(at(0), resource(1));
    book.want(at(1), resource(1));
    assert_eq!(book.request(at(1)), Some(Request { resource: resource(1), held: vec![], avoid: vec![] }));
    book.want(at(2), resource(1));
    book.ask(at(2), resource(1));
    assert_eq!(book.request(at(2)), None);
    assert_eq!(book.standing(&resource(1)), Standing::Connecting);
}

#[test]
fn requests_under_way_are_bounded() {
    let mut book = Book::default();
    for number in 0..40 {
        book.want(at(0), resource(number));
    }
    assert_eq!(std::iter::from_fn(|| book.request(at(0))).count(), CONNECTS_AT_ONCE_MAX);
    book.failed(at(1), resource(0), "no".to_owned());
    assert!(book.request(at(1)).is_some());
    assert_eq!(book.request(at(1)), None);
}

#[test]
fn a_deny_holds_for_packets_and_not_for_a_person() {
    let mut book = Book::default();
    book.want(at(0), resource(1));
    book.request(at(0)).unwrap();
    book.denied(at(10), resource(1), vec!["log in again".to_owned()], Duration::from_secs(1));
    assert_eq!(book.standing(&resource(1)), Standing::Denied(at(30_010)));
    book.want(at(20_000), resource(1));
    assert_eq!(book.request(at(20_000)), None);
    book.ask(at(20_000), resource(1));
    assert!(book.request(at(20_000)).is_some());
    book.denied(at(20_000), resource(1), vec!["log in again".to_owned()], Duration::from_secs(90));
    book.handle_timeout(at(60_000));
    book.want(at(60_000), resource(1));
    assert_eq!(book.request(at(60_000)), None, "the controller's own time counts when it is longer");
    book.handle_timeout(at(110_000));
    book.want(at(110_000), resource(1));
    assert!(book.request(at(110_000)).is_some());
}

#[test]
fn a_later_grant_joins_the_tunnel_that_lives() {
    let mut book = connected();
    book.want(at(100), resource(2));
    assert_eq!(book.request(at(100)).unwrap().held, [pairing(1)]);
    assert!(book.permitted(at(110), resource(2), permit(2, false, LONG)));
    assert_eq!(book.standing(&resource(2)), Standing::Connected);
    book.ended(at(120), grant(1), "over", true);
    assert_eq!(book.unused(), vec![], "resource 2 still uses it");
    book.ended(at(130), grant(2), "over", true);
    assert_eq!(book.unused(), [pairing(1)]);
}

#[test]
fn a_tunnel_that_a_request_names_stays_until_the_answer() {
    let mut book = connected();
    book.want(at(100), resource(2));
    book.request(at(100)).unwrap();
    book.ended(at(110), grant(1), "over", true);
    assert_eq!(book.unused(), vec![]);
    assert!(book.permitted(at(120), resource(2), permit(2, false, LONG)));
    assert_eq!(book.unused(), vec![]);
}

#[test]
fn a_revoke_denies_with_its_reason() {
    let mut book = connected();
    book.ended(at(100), grant(1), "ended by an administrator", true);
    assert!(book.take_changed());
    assert_eq!(book.standing(&resource(1)), Standing::Denied(at(30_100)));
    assert_eq!(book.word(&resource(1)).unwrap().1, Word::Ended("ended by an administrator".to_owned()));
    book.want(at(200), resource(1));
    assert_eq!(book.request(at(200)), None);
    book.forget_denials();
    book.want(at(300), resource(1));
    assert!(book.request(at(300)).is_some(), "a fresh log-in may ask at once");
}

#[test]
fn a_permit_that_its_end_overtook_opens_nothing() {
    let mut book = Book::default();
    book.want(at(0), resource(1));
    book.request(at(0)).unwrap();
    book.ended(at(5), grant(1), "no longer permitted", true);
    assert!(!book.permitted(at(6), resource(1), permit(1, true, LONG)));
    assert!(book.grant(&resource(1)).is_none());
    for number in 0..u32::try_from(ENDED_GRANTS_MAX).unwrap() + 9 {
        book.ended(at(7), grant(1_000 + number), "x", true);
    }
    assert_eq!(book.ended.len(), ENDED_GRANTS_MAX);
}

#[test]
fn a_tunnel_that_does_not_shake_hands_is_replaced_and_its_gateway_avoided() {
    let mut book = Book::default();
    book.want(at(0), resource(1));
    book.request(at(0)).unwrap();
    book.permitted(at(0), resource(1), permit(1, true, LONG));
    assert_eq!(book.next_deadline(), at(3_000));
    book.handle_timeout(at(2_999));
    assert_eq!(book.request(at(2_999)), None);
    book.handle_timeout(at(3_000));
    let request = book.request(at(3_000)).unwrap();
    assert_eq!((request.avoid, request.held), (vec![gateway(1)], vec![]));
    assert_eq!(book.grant(&resource(1)).unwrap().id, grant(1), "make before break");
    assert_eq!(book.unused(), vec![]);
    book.permitted(at(3_100), resource(1), permit(2, true, LONG));
    assert_eq!(book.unused(), [pairing(1)]);
    book.observe(at(3_200), pairing(2), shaken(3_200));
    assert_eq!(book.standing(&resource(1)), Standing::Connected);
}

#[test]
fn with_no_other_gateway_the_late_one_is_still_welcome_and_asked_again() {
    let mut book = Book::default();
    book.want(at(0), resource(1));
    book.request(at(0)).unwrap();
    book.permitted(at(0), resource(1), permit(1, true, LONG));
    book.handle_timeout(at(3_000));
    book.request(at(3_000)).unwrap();
    book.denied(at(3_100), resource(1), vec!["no gateway".to_owned()], Duration::from_secs(5));
    assert!(book.grant(&resource(1)).is_some());
    let again = book.request(at(8_100)).unwrap();
    assert_eq!(again.avoid, vec![], "the same gateway with a fresh tunnel");
    book.observe(at(8_200), pairing(1), shaken(8_150));
    assert_eq!(book.standing(&resource(1)), Standing::Connected);
}

#[test]
fn silence_under_traffic_is_probed_and_then_the_gateway_is_left() {
    let mut book = connected();
    let talk = |sent, received| Seen { handshake: Some(at(50)), received: Some(at(received)), sent };
    assert!(!book.observe(at(1_000), pairing(1), talk(100, 50)));
    assert!(!book.observe(at(2_000), pairing(1), talk(200, 1_500)), "answered");
    assert!(!book.observe(at(3_000), pairing(1), talk(300, 1_500)));
    assert!(!book.observe(at(4_900), pairing(1), talk(400, 1_500)));
    assert!(book.observe(at(5_000), pairing(1), talk(400, 1_500)), "2 s of silence: probe");
    assert_eq!(book.standing(&resource(1)), Standing::Connected, "not lost yet");
    book.handle_timeout(at(8_000));
    assert_eq!(book.standing(&resource(1)), Standing::Connecting);
    assert_eq!(book.request(at(8_000)).unwrap().avoid, [gateway(1)]);
}

#[test]
fn one_way_traffic_that_answers_the_probe_is_left_alone() {
    let mut book = connected();
    let mut probes = 0;
    let mut handshake = 50;
    for second in 1..60 {
        let seen = Seen { handshake: Some(at(handshake)), received: Some(at(handshake)), sent: second * 100 };
        if book.observe(at(second * 1_000), pairing(1), seen) {
            probes += 1;
            handshake = second * 1_000 + 20;
        }
        book.handle_timeout(at(second * 1_000));
        assert_eq!(book.standing(&resource(1)), Standing::Connected);
    }
    assert!((2..=6).contains(&probes), "{probes}");
}

#[test]
fn a_gateway_restart_moves_the_flows_to_the_next_grant() {
    let mut book = connected();
    book.ended(at(1_000), grant(1), "the gateway started anew", false);
    assert!(book.grant(&resource(1)).is_some(), "flows wait for the next grant");
    assert_eq!(book.standing(&resource(1)), Standing::Connecting);
    let request = book.request(at(1_000)).unwrap();
    assert_eq!((request.held, request.avoid), (vec![], vec![]));
    book.denied(at(1_100), resource(1), vec!["no gateway".to_owned()], Duration::from_secs(5));
    assert!(book.grant(&resource(1)).is_some());
    assert!(book.request(at(6_100)).is_some());
    book.permitted(at(6_200), resource(1), permit(2, true, LONG));
    assert_eq!(book.grant(&resource(1)).unwrap().id, grant(2));
    assert_eq!(book.unused(), [pairing(1)]);
}

#[test]
fn a_grant_that_moved_comes_back_under_its_own_id() {
    let mut book = connected();
    book.ended(at(1_000), grant(1), "the gateway started anew", false);
    book.request(at(1_000)).unwrap();
    let again = Permit { pairing: pairing(2), gateway: Some(gateway(1)), ..permit(1, true, LONG) };
    assert!(book.permitted(at(1_100), resource(1), again));
    book.observe(at(1_200), pairing(2), shaken(1_200));
    assert_eq!(book.standing(&resource(1)), Standing::Connected);
    assert_eq!(book.unused(), [pairing(1)]);
}

#[test]
fn moving_ends() {
    let mut book = connected();
    book.ended(at(1_000), grant(1), "the gateway started anew", false);
    book.request(at(1_000)).unwrap();
    book.failed(at(1_100), resource(1), "no link".to_owned());
    assert!(book.request(at(1_400)).is_some(), "repeated while flows wait");
    book.handle_timeout(at(31_000));
    assert!(book.grant(&resource(1)).is_none());
    assert_eq!(book.unused(), [pairing(1)]);
}

#[test]
fn a_real_deny_ends_the_moving() {
    let mut book = connected();
    book.ended(at(1_000), grant(1), "the gateway started anew", false);
    book.request(at(1_000)).unwrap();
    book.denied(at(1_100), resource(1), vec!["outside office hours".to_owned()], DENY_HOLD);
    assert!(book.grant(&resource(1)).is_none());
    assert_eq!(book.standing(&resource(1)), Standing::Denied(at(31_100)));
}

#[test]
fn a_renewal_extends_and_an_end_without_one_closes() {
    let mut book = connected();
    book.renewed(grant(1), at(7_200_000));
    book.handle_timeout(at(3_600_000));
    assert!(book.grant(&resource(1)).is_some());
    book.take_changed();
    book.handle_timeout(at(7_200_000));
    assert!(book.grant(&resource(1)).is_none() && book.take_changed());
    assert_eq!(book.standing(&resource(1)), Standing::Ready);
}

#[test]
fn a_question_without_a_controller_is_repeated_as_long_as_a_packet_waits() {
    let mut book = Book::default();
    book.want(at(0), resource(1));
    book.request(at(0)).unwrap();
    book.failed(at(10), resource(1), "no link".to_owned());
    assert!(book.request(at(310)).is_some());
    book.failed(at(10_100), resource(1), "no link".to_owned());
    assert_eq!(book.request(at(60_000)), None);
    assert_eq!(book.standing(&resource(1)), Standing::Ready);
}

#[test]
fn a_snapshot_ends_what_it_does_not_name_but_not_what_is_newer() {
    let mut book = connected();
    book.want(at(100), resource(2));
    book.request(at(100)).unwrap();
    book.permitted(at(500), resource(2), permit(2, false, LONG));
    book.only(at(600), at(400), &BTreeSet::new());
    assert_eq!(book.standing(&resource(1)), Standing::Connecting);
    assert!(book.grant(&resource(2)).unwrap().moving.is_none());
}

#[test]
fn what_is_not_visible_any_more_is_forgotten_with_its_last_word() {
    let mut book = connected();
    book.ended(at(100), grant(1), "no longer permitted", true);
    let words = book.visible(&BTreeSet::new(), &BTreeSet::new());
    assert_eq!(words, [(resource(1), Word::Ended("no longer permitted".to_owned()))]);
    assert_eq!(book.standing(&resource(1)), Standing::Ready);
    let mut book = connected();
    book.ended(at(100), grant(1), "no longer permitted", true);
    book.visible(&BTreeSet::from([resource(1)]), &BTreeSet::from([resource(1)]));
    assert_eq!(book.standing(&resource(1)), Standing::Ready, "what changed may be asked for at once");
}
