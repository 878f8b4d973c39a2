//! Is the Internet checksum right, and how does it change with a field? RFC 1071, RFC 1624.

use std::net::IpAddr;

/// The 16-bit word at an offset, in network order.
pub fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at.checked_add(2)?)?;
    pair.try_into().ok().map(u16::from_be_bytes)
}

/// Writes a word; nothing happens where there is no room.
pub fn put_word(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(pair) = at.checked_add(2).and_then(|end| bytes.get_mut(at..end)) {
        pair.copy_from_slice(&value.to_be_bytes());
    }
}

const fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The folded one's complement sum of `bytes`, begun at `start`. Over data with a right checksum in it: 0xffff.
///
/// Words are added four bytes at a time in the machine's own order, and the sum is turned round at the end: RFC 1071, section 2,
/// (B) byte order independence and (C) parallel summation.
pub fn sum(bytes: &[u8], start: u64) -> u16 {
    let (longs, rest) = bytes.as_chunks::<4>();
    let mut total: u64 = longs.iter().map(|long| u64::from(u32::from_ne_bytes(*long))).sum();
    let mut tail = [0; 4];
    tail.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    total += u64::from(u32::from_ne_bytes(tail));
    fold(start + u64::from(u16::from_be(fold(total))))
}

/// The sum of an address's words.
pub fn address_sum(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(a) => u64::from(sum(&a.octets(), 0)),
        IpAddr::V6(a) => u64::from(sum(&a.octets(), 0)),
    }
}

/// The sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1).
pub fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> u64 {
    address_sum(source) + address_sum(destination) + u64::from(protocol) + len as u64
}

/// What must be added to a sum when fields change: RFC 1624 equation 3, gathered over all fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    /// A word changes.
    pub fn word(self, old: u16, new: u16) -> Self {
        Self(self.0 + u64::from(!old) + u64::from(new))
    }
    /// An address changes.
    pub fn address(self, old: IpAddr, new: IpAddr) -> Self {
        // The negative of a sum is its complement.
        Self(self.0 + u64::from(!fold(address_sum(old))) + address_sum(new))
    }
    /// The new checksum: HC' = ~(~HC + ~m + m').
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(self.0 + (!checksum) as u64)
    }
    /// Updates the checksum at an offset.
    pub fn fix(self, bytes: &mut [u8], at: usize) {
        if let Some(old) = word(bytes, at) {
            put_word(bytes, at, self.apply(old));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::craft::ip;
    use proptest::prelude::*;

    #[test]
    fn example_of_rfc_1624() {
        // Section 4: HC = 0xdd2f, m = 0x5555, m' = 0x3285, HC' = 0x0000.
        assert_eq!(Delta::default().word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    proptest! {
        #[test]
        fn a_sum_equals_that_of_its_words(data in proptest::collection::vec(any::<u8>(), 0..300), start in 0u64..0x40_0000) {
            let words = data.chunks(2).map(|w| u64::from(w[0]) << 8 | u64::from(*w.get(1).unwrap_or(&0)));
            let mut plain = start + words.sum::<u64>();
            while plain > 0xffff {
                plain = (plain >> 16) + (plain & 0xffff);
            }
            prop_assert_eq!(u64::from(sum(&data, start)), plain);
        }

        #[test]
        fn the_sum_of_a_packet_is_that_of_its_parts(
            head in proptest::collection::vec(any::<u8>(), 0..40), body in proptest::collection::vec(any::<u8>(), 0..70), v6: bool,
        ) {
            // Begun with an even part, whatever the rest: how pseudo header, header and payload are summed.
            let even = &head[..head.len() / 2 * 2];
            prop_assert_eq!(sum(&[even, &body].concat(), 0), sum(&body, sum(even, 0).into()));
            // And the pseudo header is what the RFCs write down, byte by byte.
            let (from, to): (IpAddr, IpAddr) = if v6 { (ip("fd00::ffff"), ip("fe80::1:2")) } else { (ip("10.1.2.3"), ip("255.255.0.1")) };
            let octets = |address: IpAddr| match address {
                IpAddr::V4(a) => a.octets().to_vec(),
                IpAddr::V6(a) => a.octets().to_vec(),
            };
            let len = (body.len() as u32).to_be_bytes();
            let written = [octets(from), octets(to), len.to_vec(), vec![0, 0, 0, 17], body.clone()].concat();
            prop_assert_eq!(sum(&body, pseudo(from, to, 17, body.len())), sum(&written, 0));
        }

        #[test]
        fn another_address_equals_a_new_sum(
            body in proptest::collection::vec(any::<u8>(), 3..50), from in 0..u128::MAX - 9, to: u128, v6: bool, hops in 1usize..5,
        ) {
            let address = |n: u128| if v6 { IpAddr::from(n.to_be_bytes()) } else { IpAddr::from((n as u32).to_be_bytes()) };
            let target = ip(if v6 { "fd00::7" } else { "192.0.2.7" });
            let mut body = [vec![0, 0], body].concat();
            let check = !sum(&body, pseudo(address(from), target, 17, body.len()));
            put_word(&mut body, 0, check);
            let mut delta = Delta::default();
            for hop in 0..hops as u128 {
                delta = delta.address(address(from + hop), address(if hop + 1 == hops as u128 { to } else { from + hop + 1 }));
            }
            delta.fix(&mut body, 0);
            prop_assert_eq!(sum(&body, pseudo(address(to), target, 17, body.len())), 0xffff);
        }

        #[test]
        fn a_change_equals_a_new_sum(mut data in proptest::collection::vec(any::<u8>(), 20..80), at in 0usize..8, new: u16) {
            // A word of zero everywhere has two representations; real headers never sum to zero.
            data[19] |= 1;
            put_word(&mut data, 10, 0);
            let check = !sum(&data, 0);
            put_word(&mut data, 10, check);
            let at = if at == 5 { 4 } else { at } * 2;
            let old = word(&data, at).unwrap();
            put_word(&mut data, at, new);
            Delta::default().word(old, new).fix(&mut data, 10);
            prop_assert_eq!(sum(&data, 0), 0xffff);
        }
    }
}
