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

/// As the controller answers: what is to be asked again before 30 s is refused for a passing reason.
fn denial(reasons: Vec<String>, retry_after: Duration) -> Denial {
    Denial { reasons, retry_after, passing: retry_after == PASSING, step_up: Vec::new() }
}

const PASSING: Duration = Duration::from_secs(5);
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
    Seen { handshake: Some(at(ms)), received: Some(at(ms)), unanswered: None }
}

#[test]
fn one_request_at_a_time() {
    let mut book = Book::default();
    book.want(at(0), resource(1));
    book.want(at(1), resource(1));
    assert_eq!(book.request(at(1)), Some(Request { resource: resource(1), held: vec![], avoid: vec![], moves: None }));
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
    book.denied(at(10), resource(1), denial(vec!["log in again".to_owned()], Duration::from_secs(1)));
    assert_eq!(book.standing(&resource(1)), Standing::Denied(at(30_010)));
    book.want(at(20_000), resource(1));
    assert_eq!(book.request(at(20_000)), None);
    book.ask(at(20_000), resource(1));
    assert!(book.request(at(20_000)).is_some());
    book.denied(at(20_000), resource(1), denial(vec!["log in again".to_owned()], Duration::from_secs(90)));
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
    book.ended(at(120), grant(1), "over", Loss::Willed);
    assert_eq!(book.unused(), vec![], "resource 2 still uses it");
    book.ended(at(130), grant(2), "over", Loss::Willed);
    assert_eq!(book.unused(), [pairing(1)]);
}

#[test]
fn a_tunnel_that_a_request_names_stays_until_the_answer() {
    let mut book = connected();
    book.want(at(100), resource(2));
    book.request(at(100)).unwrap();
    book.ended(at(110), grant(1), "over", Loss::Willed);
    assert_eq!(book.unused(), vec![]);
    assert!(book.permitted(at(120), resource(2), permit(2, false, LONG)));
    assert_eq!(book.unused(), vec![]);
}

#[test]
fn a_revoke_denies_with_its_reason() {
    let mut book = connected();
    book.ended(at(100), grant(1), "ended by an administrator", Loss::Willed);
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
    book.ended(at(5), grant(1), "no longer permitted", Loss::Willed);
    assert!(!book.permitted(at(6), resource(1), permit(1, true, LONG)));
    assert!(book.grant(&resource(1)).is_none());
    for number in 0..u32::try_from(ENDED_GRANTS_MAX).unwrap() + 9 {
        book.ended(at(7), grant(1_000 + number), "x", Loss::Willed);
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
    assert_eq!(book.next_left(), None);
    book.permitted(at(3_100), resource(1), permit(2, true, LONG));
    assert_eq!(book.unused(), [pairing(1)]);
    assert_eq!((book.next_left(), book.next_left()), (Some(grant(1)), None), "the old grant is given back, once");
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
    book.denied(at(3_100), resource(1), denial(vec!["no gateway".to_owned()], Duration::from_secs(5)));
    assert!(book.grant(&resource(1)).is_some());
    let again = book.request(at(8_100)).unwrap();
    assert_eq!(again.avoid, vec![], "the same gateway with a fresh tunnel");
    book.observe(at(8_200), pairing(1), shaken(8_150));
    assert_eq!(book.standing(&resource(1)), Standing::Connected);
}

/// Lets the tunnel of [`connected`] be asked, without an answer, until it is given up; says when that is.
fn silenced(book: &mut Book) -> u64 {
    let silent = Seen { handshake: Some(at(50)), received: Some(at(60)), unanswered: Some(at(1_000)) };
    let given_up = (1_000..5_000).step_by(10).find(|ms| {
        book.observe(at(*ms), pairing(1), silent);
        book.handle_timeout(at(*ms));
        book.standing(&resource(1)) != Standing::Connected
    });
    given_up.unwrap()
}

#[test]
fn silence_under_traffic_is_probed_and_then_the_gateway_is_left() {
    let mut book = connected();
    let talk =
        |sent, received| Seen { handshake: Some(at(50)), received: Some(at(received)), unanswered: Some(at(sent)) };
    assert!(!book.observe(at(1_000), pairing(1), talk(900, 60)));
    assert!(!book.observe(at(1_600), pairing(1), talk(1_550, 1_500)), "answered");
    assert!(book.take_changed() && book.doubtful().is_empty());
    assert_eq!(book.next_deadline(), at(2_050));
    assert!(book.observe(at(2_050), pairing(1), talk(1_550, 1_500)), "half a second of silence: probe");
    assert_eq!(book.standing(&resource(1)), Standing::Connected, "not lost yet");
    assert!(book.take_changed());
    assert_eq!(book.doubtful(), BTreeSet::from([pairing(1)]));
    book.handle_timeout(at(3_100));
    assert_eq!(book.standing(&resource(1)), Standing::Connecting);
    assert_eq!(book.request(at(3_100)).unwrap().avoid, [gateway(1)]);
}

#[test]
fn everything_that_went_through_a_lost_tunnel_moves() {
    let mut book = connected();
    for number in [2, 3] {
        book.want(at(100), resource(number));
        book.request(at(100)).unwrap();
        book.permitted(at(110), resource(number), permit(number, false, LONG));
    }
    // One is just being asked for, and its answer will join the tunnel that is lost by then.
    book.ask(at(900), resource(3));
    assert_eq!(book.request(at(900)).unwrap().held, [pairing(1)]);
    let now = silenced(&mut book);
    let asked: Vec<ResourceId> = std::iter::from_fn(|| book.request(at(now))).map(|r| r.resource).collect();
    assert_eq!(asked, [resource(1), resource(2)]);
    book.permitted(at(now + 10), resource(3), permit(4, false, LONG));
    book.handle_timeout(at(now + 10));
    let last = book.request(at(now + 10)).unwrap();
    assert_eq!((last.resource, last.avoid), (resource(3), vec![gateway(1)]));
}

#[test]
fn a_lost_tunnel_is_asked_about_ever_more_rarely_as_long_as_there_is_no_other() {
    let mut book = connected();
    let lost = silenced(&mut book);
    let mut asked = Vec::new();
    for ms in (lost..lost + 120_000).step_by(100) {
        book.handle_timeout(at(ms));
        if book.request(at(ms)).is_some() {
            // Whole seconds: the pause begins with the next look.
            asked.push((ms - lost) / 1_000);
            book.failed(at(ms), resource(1), "no link".to_owned());
        }
    }
    assert_eq!(asked, [0, 1, 3, 7, 15, 31, 61, 91]);
}

#[test]
fn a_tunnel_that_answers_again_keeps_its_flows() {
    // Before the next question, which is seconds away.
    let mut book = connected();
    let lost = silenced(&mut book);
    assert_eq!(book.request(at(lost)).unwrap().avoid, [gateway(1)]);
    book.failed(at(lost + 10), resource(1), "no link".to_owned());
    book.handle_timeout(at(lost + 20));
    book.observe(at(lost + 500), pairing(1), shaken(lost + 500));
    assert_eq!(book.standing(&resource(1)), Standing::Connected);
    for ms in (lost + 500..lost + 60_000).step_by(100) {
        book.handle_timeout(at(ms));
        assert_eq!(book.request(at(ms)), None, "nothing moves");
    }
    // With the question on its way: the answer comes too late, and is given back.
    let mut book = connected();
    let lost = silenced(&mut book);
    book.request(at(lost)).unwrap();
    book.observe(at(lost + 500), pairing(1), shaken(lost + 500));
    assert!(!book.permitted(at(lost + 600), resource(1), permit(2, true, LONG)));
    assert_eq!(book.grant(&resource(1)).unwrap().id, grant(1));
    assert_eq!((book.standing(&resource(1)), book.unused()), (Standing::Connected, vec![]));
    assert_eq!(book.tunnels().count(), 1);
    assert_eq!(book.request(at(lost + 60_000)), None);
    // At the same gateway, the new grant has ended the old one already.
    let mut book = connected();
    let lost = silenced(&mut book);
    book.request(at(lost)).unwrap();
    book.observe(at(lost + 500), pairing(1), shaken(lost + 500));
    assert!(book.permitted(at(lost + 600), resource(1), Permit { gateway: Some(gateway(1)), ..permit(2, true, LONG) }));
    // What a person asks for counts all the same.
    let mut book = connected();
    let lost = silenced(&mut book);
    book.ask(at(lost), resource(1));
    book.request(at(lost)).unwrap();
    book.observe(at(lost + 500), pairing(1), shaken(lost + 500));
    assert!(book.permitted(at(lost + 600), resource(1), permit(2, true, LONG)));
}

#[test]
fn a_passing_refusal_is_asked_again_while_a_packet_waits_and_holds_a_second_after() {
    let mut book = Book::default();
    let none = || Denial {
        reasons: vec!["no gateway".to_owned()],
        retry_after: Duration::from_secs(1),
        passing: true,
        step_up: Vec::new(),
    };
    book.want(at(0), resource(1));
    for second in 0..10 {
        assert!(book.request(at(second * 1_000)).is_some(), "{second}");
        book.denied(at(second * 1_000), resource(1), none());
        assert_eq!(book.standing(&resource(1)), Standing::Connecting);
    }
    assert!(book.request(at(10_000)).is_some());
    book.denied(at(10_000), resource(1), none());
    assert_eq!(book.standing(&resource(1)), Standing::Denied(at(11_000)));
    book.handle_timeout(at(11_000));
    book.want(at(11_000), resource(1));
    assert!(book.request(at(11_000)).is_some());
    // A refusal that somebody willed holds, however soon the controller would be asked again.
    book.denied(at(11_100), resource(1), Denial { passing: false, ..none() });
    assert_eq!(book.standing(&resource(1)), Standing::Denied(at(41_100)));
}

#[test]
fn a_gateway_restart_moves_the_flows_to_the_next_grant() {
    let mut book = connected();
    book.ended(at(1_000), grant(1), "the gateway started anew", Loss::Gateway);
    assert!(book.grant(&resource(1)).is_some(), "flows wait for the next grant");
    assert_eq!(book.standing(&resource(1)), Standing::Connecting);
    let request = book.request(at(1_000)).unwrap();
    assert_eq!((request.held, request.avoid), (vec![], vec![]));
    book.denied(at(1_100), resource(1), denial(vec!["no gateway".to_owned()], Duration::from_secs(5)));
    assert!(book.grant(&resource(1)).is_some());
    assert!(book.request(at(6_100)).is_some());
    book.permitted(at(6_200), resource(1), permit(2, true, LONG));
    assert_eq!(book.grant(&resource(1)).unwrap().id, grant(2));
    assert_eq!(book.unused(), [pairing(1)]);
}

#[test]
fn nothing_goes_to_a_gateway_that_was_removed_and_another_one_is_asked_for() {
    let mut book = connected();
    book.ended(at(1_000), grant(1), "the gateway was removed or changed", Loss::Removed);
    assert!(book.grant(&resource(1)).is_none(), "no packet more");
    assert_eq!(book.unused(), [pairing(1)], "its tunnel goes");
    assert_eq!(
        book.request(at(1_000)),
        Some(Request { resource: resource(1), held: vec![], avoid: vec![], moves: None })
    );
    book.permitted(at(1_100), resource(1), permit(2, true, LONG));
    assert_eq!(book.grant(&resource(1)).unwrap().id, grant(2));
}

#[test]
fn the_end_of_one_grant_says_nothing_of_its_tunnel() {
    let mut book = connected();
    book.want(at(100), resource(2));
    book.request(at(100)).unwrap();
    book.permitted(at(110), resource(2), permit(2, false, LONG));
    book.ended(at(1_000), grant(2), "its time is over", Loss::Grant);
    book.handle_timeout(at(1_000));
    assert_eq!(book.standing(&resource(1)), Standing::Connected, "the other one's live connections are not touched");
    assert_eq!(book.standing(&resource(2)), Standing::Connecting);
    assert_eq!(book.doubtful(), BTreeSet::from([pairing(1)]), "what opens a flow meanwhile is kept");
    let request = book.request(at(1_000)).unwrap();
    assert_eq!(request, Request { resource: resource(2), held: vec![pairing(1)], avoid: vec![], moves: None });
    assert_eq!(book.request(at(1_000)), None);
    assert!(book.permitted(at(1_100), resource(2), permit(3, false, LONG)));
    assert_eq!(book.standing(&resource(2)), Standing::Connected);
    assert!(book.doubtful().is_empty());
}

#[test]
fn a_grant_that_moved_comes_back_under_its_own_id() {
    let mut book = connected();
    book.ended(at(1_000), grant(1), "the gateway started anew", Loss::Gateway);
    book.request(at(1_000)).unwrap();
    let again = Permit { pairing: pairing(2), gateway: Some(gateway(1)), ..permit(1, true, LONG) };
    assert!(book.permitted(at(1_100), resource(1), again));
    assert_eq!(book.next_left(), None, "the same grant is not given back");
    book.observe(at(1_200), pairing(2), shaken(1_200));
    assert_eq!(book.standing(&resource(1)), Standing::Connected);
    assert_eq!(book.unused(), [pairing(1)]);
}

#[test]
fn what_is_to_be_given_back_is_bounded() {
    let mut book = connected();
    for number in 0..u32::try_from(ENDED_GRANTS_MAX).unwrap() + 9 {
        assert!(book.permitted(at(7), resource(1), permit(1_000 + number, true, LONG)));
    }
    assert_eq!(book.left.len(), ENDED_GRANTS_MAX);
}

#[test]
fn moving_ends() {
    let mut book = connected();
    book.ended(at(1_000), grant(1), "the gateway started anew", Loss::Gateway);
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
    book.ended(at(1_000), grant(1), "the gateway started anew", Loss::Gateway);
    book.request(at(1_000)).unwrap();
    book.denied(at(1_100), resource(1), denial(vec!["outside office hours".to_owned()], DENY_HOLD));
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
    book.ended(at(100), grant(1), "no longer permitted", Loss::Willed);
    let words = book.visible(&BTreeSet::new(), &BTreeSet::new());
    assert_eq!(words, [(resource(1), Word::Ended("no longer permitted".to_owned()))]);
    assert_eq!(book.standing(&resource(1)), Standing::Ready);
    let mut book = connected();
    book.ended(at(100), grant(1), "no longer permitted", Loss::Willed);
    book.visible(&BTreeSet::from([resource(1)]), &BTreeSet::from([resource(1)]));
    assert_eq!(book.standing(&resource(1)), Standing::Ready, "what changed may be asked for at once");
}

#[test]
fn a_tunnel_is_replaced_when_its_keys_are_old_and_its_flows_stay_on_their_gateway() {
    let life = Duration::from_secs(10);
    let mut book = Book::new(life);
    for n in [1, 2] {
        book.want(at(0), resource(n));
        book.request(at(0)).unwrap();
        assert!(book.permitted(at(0), resource(n), permit(n, n == 1, LONG)));
    }
    book.observe(at(50), pairing(1), shaken(50));
    book.handle_timeout(at(9_999));
    assert_eq!((book.request(at(9_999)), book.next_deadline()), (None, at(10_000)));
    book.handle_timeout(at(10_000));
    // The old one is named to no request, and no gateway is avoided.
    let asked = book.request(at(10_000)).unwrap();
    assert_eq!(asked, Request { resource: resource(1), held: vec![], avoid: vec![], moves: Some(grant(1)) });
    // Another gateway's would break what is open: given back, and asked for again later, not at once.
    assert!(!book.permitted(
        at(10_001),
        resource(1),
        Permit { grant: grant(9), pairing: pairing(9), ..permit(9, true, LONG) }
    ));
    assert_eq!(book.grant(&resource(1)).unwrap().id, grant(1), "it lives on through the old one");
    book.handle_timeout(at(10_002));
    assert_eq!(book.request(at(10_002)).unwrap().moves, Some(grant(2)));
    let same = Permit { grant: grant(2), pairing: pairing(12), gateway: Some(gateway(1)), ..permit(1, true, LONG) };
    assert!(book.permitted(at(10_003), resource(2), same));
    book.observe(at(10_050), pairing(12), shaken(10_050));
    assert_eq!(
        (book.next_left(), book.unused()),
        (None, vec![]),
        "it is the same grant; resource 1 is in the old tunnel still"
    );
    // The new one is joined.
    book.handle_timeout(at(11_500));
    let asked = book.request(at(11_500)).unwrap();
    assert_eq!((asked.held, asked.moves), (vec![pairing(12)], Some(grant(1))));
    let joined = Permit { pairing: pairing(12), gateway: None, ..permit(1, true, LONG) };
    assert!(book.permitted(at(11_501), resource(1), joined));
    assert_eq!(book.unused(), [pairing(1)]);
    book.handle_timeout(at(11_502));
    assert!(book.request(at(11_502)).is_none() && book.next_deadline() >= at(20_003), "nothing until that is old");
}
