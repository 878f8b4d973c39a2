//! How does one input become another? By the tricks of a fuzzer, with dice that come again with their seed.

use crate::check::sim::parts::Dice;

/// No input grows beyond this, bytes: more than any datagram, less than what would only take time.
const INPUT_MAX: usize = 16 << 10;
/// Steps of one mutation at most.
const STEPS_MAX: u64 = 4;

/// Numbers at which arithmetic goes wrong.
const NUMBERS: [u64; 12] =
    [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, 1 << 63, u64::MAX - 1, u64::MAX];

/// Words at which texts go wrong.
const WORDS: [&str; 28] = [
    "0",
    "-1",
    "+1",
    "255",
    "256",
    "65535",
    "65536",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e999",
    "null",
    "\"\"",
    "[]",
    "{}",
    "\u{202e}",
    "\u{e4}",
    "\0",
    "\r\n",
    "::ffff:1.2.3.4",
    "fe80::1%lo",
    "%",
    "/",
    "=",
];

/// Makes inputs out of others.
#[derive(Debug)]
pub struct Mutator {
    dice: Dice,
}

impl Mutator {
    /// The same seed makes the same inputs.
    pub const fn new(seed: u64) -> Self {
        Self { dice: Dice(seed) }
    }

    /// Another input, from one of `all`; where `headed`, its first line stays.
    pub fn next(&mut self, all: &[Vec<u8>], headed: bool) -> Vec<u8> {
        let Some(origin) = self.dice.pick(all) else { return Vec::new() };
        let head = if headed { origin.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1) } else { 0 };
        let (head, body) = origin.split_at_checked(head).unwrap_or((origin, &[]));
        let mut body = body.to_vec();
        for _ in 0..=self.dice.below(STEPS_MAX) {
            self.step(&mut body, all);
        }
        body.truncate(INPUT_MAX);
        [head, &body].concat()
    }

    fn step(&mut self, bytes: &mut Vec<u8>, all: &[Vec<u8>]) {
        let at = self.dice.index(bytes.len() + 1);
        let most = if self.dice.chance(80) { 8 } else { 512 };
        let len = self.dice.index(most) + 1;
        let end = (at + len).min(bytes.len());
        match self.dice.below(12) {
            0 | 1 => self.flip(bytes, at),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at.min(end)..end)),
            4 => {
                let fresh: Vec<u8> = (0..len).map(|_| self.dice.roll().to_le_bytes()[0]).collect();
                bytes.splice(at..at, fresh);
            }
            5 => {
                let again = bytes.get(at..end).unwrap_or_default().repeat(1 + self.dice.index(8));
                bytes.splice(at..at, again);
            }
            6 | 7 => self.number(bytes, at),
            8 | 9 => {
                let word = self.dice.pick(&WORDS).copied().unwrap_or_default();
                // In place of something, or between.
                let end = if self.dice.chance(50) { end } else { at };
                bytes.splice(at..end, word.bytes());
            }
            10 => {
                let other = self.dice.pick(all).map(Vec::as_slice).unwrap_or_default();
                let from = self.dice.index(other.len() + 1);
                bytes.splice(at.., other.iter().skip(from).copied());
            }
            _ => {
                let byte = bytes.get(at).copied().unwrap_or(b'[');
                bytes.splice(at..at, std::iter::repeat_n(byte, len * 8));
            }
        }
    }

    fn flip(&mut self, bytes: &mut [u8], at: usize) {
        if let Some(byte) = bytes.get_mut(at) {
            *byte = if self.dice.chance(50) {
                *byte ^ (1 << self.dice.below(8))
            } else {
                self.dice.roll().to_le_bytes()[0]
            };
        }
    }

    /// A number of one to eight bytes, in either order of bytes.
    fn number(&mut self, bytes: &mut [u8], at: usize) {
        let number = self.dice.pick(&NUMBERS).copied().unwrap_or(0);
        let width = 1_usize << self.dice.below(4);
        let digits = number.to_le_bytes();
        let digits = digits.get(..width).unwrap_or_default();
        let place = bytes.iter_mut().skip(at);
        if self.dice.chance(50) {
            place.zip(digits).for_each(|(to, from)| *to = *from);
        } else {
            place.zip(digits.iter().rev()).for_each(|(to, from)| *to = *from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_inputs_again_and_a_head_stays() {
        let all = [b"kind\nbody of it".to_vec(), b"other\n".to_vec()];
        let made = |seed: u64| {
            let mut mutator = Mutator::new(seed);
            (0..500).map(|_| mutator.next(&all, true)).collect::<Vec<_>>()
        };
        assert_eq!(made(7), made(7));
        assert_ne!(made(7), made(8));
        assert!(made(7).iter().all(|input| input.starts_with(b"kind\n") || input.starts_with(b"other\n")));
        assert!(made(7).iter().all(|input| input.len() <= INPUT_MAX + 5));
        let different: std::collections::BTreeSet<_> = made(7).into_iter().collect();
        assert!(different.len() > 300, "{}", different.len());
        assert!(Mutator::new(1).next(&[], false).is_empty());
    }
}
