//! Which identification does a datagram get that leaves in fragments? One that did not come lately, and that nobody outside can
//! guess: who guesses it can put a fragment of his own between, or have the receiver give the datagram up (RFC 7739 section 1,
//! RFC 6274 section 3.5.2).
//!
//! A count, so that none repeats before all were used (RFC 6864 section 4.3, RFC 8200 section 4.5), through a permutation that
//! a secret chooses: four rounds of a Feistel network, whose round function is BLAKE2s.

use blake2::{Blake2s256, Digest as _};

/// Rounds of the network; with four of them it cannot be told from a random permutation (Luby and Rackoff, 1988).
const ROUNDS: u8 = 4;

/// The identifications of one source: the gateway, in front of all its clients.
#[derive(Debug)]
pub struct Identifications {
    secret: [u8; 32],
    v4: u16,
    v6: u32,
}

impl Identifications {
    /// `seed` is random, and used for more than this.
    pub fn new(seed: [u8; 32]) -> Self {
        let secret = Blake2s256::new().chain_update("umbra identification").chain_update(seed).finalize().into();
        Self { secret, v4: 0, v6: 0 }
    }

    /// The next one of IPv4.
    pub fn v4(&mut self) -> u16 {
        self.v4 = self.v4.wrapping_add(1);
        u16::try_from(self.permute(u32::from(self.v4), 8)).unwrap_or_default()
    }

    /// The next one of IPv6.
    pub fn v6(&mut self) -> u32 {
        self.v6 = self.v6.wrapping_add(1);
        self.permute(self.v6, 16)
    }

    /// The place of `value` among all numbers of two halves of so many bits.
    fn permute(&self, value: u32, half: u8) -> u32 {
        let mask = (1u32 << half) - 1;
        let (mut left, mut right) = (value >> half, value & mask);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ (self.round(half, round, right) & mask));
        }
        left << half | right
    }

    fn round(&self, half: u8, round: u8, value: u32) -> u32 {
        let digest = Blake2s256::new()
            .chain_update(self.secret)
            .chain_update([half, round])
            .chain_update(value.to_le_bytes())
            .finalize();
        digest.iter().take(4).fold(0, |word, byte| word << 8 | u32::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn none_comes_twice_before_all_came() {
        let mut ids = Identifications::new([7; 32]);
        let all: BTreeSet<u16> = (0..=u16::MAX).map(|_| ids.v4()).collect();
        assert_eq!(all.len(), 1 << 16);
        let some: BTreeSet<u32> = (0..1 << 13).map(|_| ids.v6()).collect();
        assert_eq!(some.len(), 1 << 13);
    }

    #[test]
    fn nobody_reads_the_next_one_off_the_last_ones() {
        let made = |seed: u8| {
            let mut ids = Identifications::new([seed; 32]);
            (0..2_000).map(|_| (u32::from(ids.v4()), ids.v6())).collect::<Vec<_>>()
        };
        let (one, other) = (made(1), made(2));
        assert_eq!(one, made(1), "the seed alone decides");
        assert!(
            one.iter().zip(&other).filter(|(a, b)| a.0 == b.0 || a.1 == b.1).count() < 5,
            "another seed, other numbers"
        );
        // No step from one to the next is seen often, as it would be if they counted or were one multiple.
        for of in [|pair: &(u32, u32)| pair.0, |pair: &(u32, u32)| pair.1] {
            let steps: BTreeSet<u32> = one.windows(2).map(|w| of(&w[1]).wrapping_sub(of(&w[0]))).collect();
            assert!(steps.len() > 1_900, "{} different steps", steps.len());
        }
    }
}
