//! Does congestion on the outer path reach the inner one? RFC 6040: the outer packet carries the inner one's ECN bits, and a
//! mark that it got on its way is put on the inner one. The rest of the traffic class stays inside, as WireGuard does it.

use crate::checksum::{Delta, put_word, word};
use crate::counters::Drop;

/// The two bits, as RFC 3168 section 5 numbers them.
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// The ECN bits of an IP packet; 0 of anything else.
pub fn of(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 4 => second & 3,
        [first, second, ..] if first >> 4 == 6 => (second >> 4) & 3,
        _ => 0,
    }
}

/// A packet came out of a datagram with these bits (RFC 6040 section 4.2, figure 4).
pub fn arrive(packet: &mut [u8], outer: u8) -> Result<(), Drop> {
    match (of(packet), outer) {
        // Its sender does not know the mark: a loss is all that it understands.
        (NOT_ECT, CE) => Err(Drop::Ecn),
        (ECT_0, ECT_1) => {
            put(packet, ECT_1);
            Ok(())
        }
        (ECT_0 | ECT_1, CE) => {
            put(packet, CE);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A packet was put together out of fragments with these codepoints, a bit each (RFC 3168 section 5.3): a mark on any of them
/// is a mark on the whole, unless the sender of another would not understand.
pub fn join(packet: &mut [u8], seen: u8) -> Result<(), Drop> {
    if seen & (1 << CE) == 0 {
        return Ok(());
    }
    if seen & (1 << NOT_ECT) != 0 {
        return Err(Drop::Ecn);
    }
    put(packet, CE);
    Ok(())
}

fn put(packet: &mut [u8], ecn: u8) {
    let Some(old) = word(packet, 0) else { return };
    if old >> 12 == 6 {
        put_word(packet, 0, (old & !0x0030) | (u16::from(ecn) << 4));
    } else {
        let new = (old & !0x0003) | u16::from(ecn);
        put_word(packet, 0, new);
        Delta::default().word(old, new).fix(packet, 10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::craft::{assert_sums, ip, udp};
    use crate::headers::Packet;

    #[test]
    fn every_pair_of_marks_is_that_of_rfc_6040() {
        // Inner down, outer across; `None`: dropped. Figure 4 of the RFC.
        let table = [
            [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None],
            [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)],
            [Some(ECT_0), Some(ECT_1), Some(ECT_0), Some(CE)],
            [Some(CE), Some(CE), Some(CE), Some(CE)],
        ];
        for (from, to) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            for (inner, row) in (0u8..).zip(table) {
                for (outer, expected) in (0u8..).zip(row) {
                    let mut packet = udp((ip(from), 9), (ip(to), 9), b"x");
                    put(&mut packet, inner);
                    assert_eq!(of(&packet), inner);
                    let arrived = arrive(&mut packet, outer).ok().map(|()| of(&packet));
                    assert_eq!(arrived, expected, "{inner} in {outer}");
                    assert_sums(&packet);
                    assert!(Packet::parse(&packet).is_ok());
                }
            }
        }
        assert_eq!((of(&[]), of(&[0x45]), arrive(&mut [], CE)), (0, 0, Err(Drop::Ecn)));
    }
}
