//! Do the checks of `umbra-lab check` hold, in their short form?

use std::process::Command;
use std::time::Duration;
use umbra_tests::lab::run_to_its_end;

/// Much longer than the longest takes on a slow machine.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// Runs `umbra-lab check WORDS`; answers its last line.
fn check(words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_umbra-lab"));
    let finished = run_to_its_end(command.arg("check").args(words), &format!("check {words:?}"), LIMIT).unwrap();
    let said = finished.stdout;
    println!("{said}");
    assert!(finished.status.success(), "{said}{}", finished.stderr);
    said.lines().last().unwrap().to_owned()
}

#[test]
fn no_kill_and_no_power_cut_loses_a_write_or_revives_a_grant() {
    // The power cuts say that they are skipped where this is not root.
    let last = check(&["power", "--kills=8", "--cuts=2", "--records=0"]);
    assert!(last.starts_with("check power: ") && last.ends_with(" 8 kills, 0 lost, 0 alive"), "{last}");
}

#[test]
fn no_kill_leaks_or_leaves_anything_behind() {
    let last = check(&["kill", "--clients=5", "--gateways=5"]);
    // Who is killed while it starts was killed before.
    assert_eq!(last, "check kill: 12 kills, 0 leaked, 0 left behind");
}

#[test]
fn what_is_forwarded_is_what_may_be_whatever_happens() {
    let last = check(&["sim", "--seeds=2000", "--steps=40"]);
    assert!(last.starts_with("check sim: ") && last.ends_with(" 0 lost, 0 alive, 0 leaked, 0 panics"), "{last}");
}

#[test]
fn no_network_that_lies_about_routes_gets_a_packet() {
    let last = check(&["hostile", "--rounds=1", "--noise=200"]);
    assert_eq!(last, "check hostile: 9 tricks, 1200 strangers' datagrams, 0 leaked, 0 lost, 0 answered, 0 panics");
}

#[test]
fn nobody_who_asks_for_too_much_takes_anything_from_others() {
    let last = check(&["limits", "--storm=2"]);
    assert_eq!(last, "check limits: 14 bounds, 0 lost, 0 alive, 0 leaked, 0 panics");
}

#[test]
fn a_flood_of_handshakes_keeps_nobody_from_what_they_do() {
    // How fast things are is not asked for here.
    let last = check(&["flood", "--seconds=2", "--rounds=1", "--rate=20000", "--least=0"]);
    assert!(last.starts_with("check flood: ") && last.ends_with(" 0 slow, 0 grown, 0 late, 0 uncounted"), "{last}");
}

#[test]
fn no_connection_breaks_while_control_keys_certificates_and_tunnels_below_it_are_replaced() {
    // Stalls are for the long form: `umbra-lab check rotate`.
    let last = check(&["rotate", "--every=2s", "--seconds=12", "--flows=2", "--stall=10s"]);
    assert!(last.ends_with(" 0 broken, 0 stalls, 0 without new keys"), "{last}");
}

/// Of the 2 GB, one half goes each way: an eighth for each pair of families and each way, and of that one sixteenth one datagram at
/// a time. A debug build on two cores takes about a minute for it. `umbra-lab check stream --bytes 20G` is the long form, and
/// holds stalls to the second: here, where other tests run beside it, one that nobody would wait for is one.
#[test]
fn a_stream_is_the_same_at_both_ends_over_a_bad_path_and_through_rekeys() {
    let last = check(&["stream", "--bytes=2G", "--loss=1%", "--reorder=1%", "--stall=10s"]);
    assert!(last.ends_with(" rekeys, 0 differing, 0 broken, 0 stalls, 0 without a rekey"), "{last}");
}
