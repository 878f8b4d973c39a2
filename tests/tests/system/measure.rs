//! Do the measurements measure, and does nothing pass after a revoke was confirmed?

use crate::support::options;
use umbra_tests::measure::{Cause, measure_first_byte, measure_revoke};

#[test]
fn nothing_passes_after_a_confirmed_revoke() {
    let revoke = measure_revoke(&options(), Cause::Session, 2, 2).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(revoke.rounds.len(), 2);
    assert!(revoke.rounds.iter().all(|round| !round.late), "{:?}", revoke.rounds);
    assert!(revoke.rounds.iter().all(|round| round.others_lost == 0), "{:?}", revoke.rounds);
}

#[test]
fn the_first_packet_brings_the_first_byte_each_time() {
    let first = measure_first_byte(&options(), 2).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!((first.new_tunnel.len(), first.same_tunnel.len()), (2, 2));
}
