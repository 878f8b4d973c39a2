//! WireGuard keys as values: public key, private key, pre-shared key. No curve arithmetic happens here.

use crate::secret::Secret;
use std::fmt;

/// An X25519 public key: 32 bytes, written in standard base 64 as WireGuard's tools write it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// An X25519 private key: 32 bytes.
pub type PrivateKey = Secret<[u8; 32]>;

/// A pre-shared key: 32 bytes. A pairing cannot be built without one (WireGuard paper, section 5.2).
pub type Psk = Secret<[u8; 32]>;

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// 2^255 - 19, the least significant byte first: the field of Curve25519 (RFC 7748, section 4.1).
const FIELD: [u8; 32] = {
    let mut bytes = [0xff; 32];
    bytes[0] = 0xed;
    bytes[31] = 0x7f;
    bytes
};

impl PublicKey {
    /// Is this how its point is written? X25519 takes other numbers for the same point: with the highest bit set, and up to 18 beyond the
    /// field (RFC 7748, section 5). A key that has two forms could be revoked in one and come back in the other.
    pub fn is_canonical(&self) -> bool {
        self.0.iter().rev().lt(FIELD.iter().rev())
    }

    /// A short form for people to compare: the first eight hexadecimal digits.
    pub fn short(&self) -> String {
        self.0.iter().take(4).map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(44);
        for chunk in self.0.chunks(3) {
            let mut word = 0u32;
            for (i, byte) in chunk.iter().enumerate() {
                word |= u32::from(*byte) << (16 - 8 * i);
            }
            for i in 0..4 {
                if i <= chunk.len() {
                    let digit = usize::try_from((word >> (18 - 6 * i)) & 63).unwrap_or(0);
                    text.push(char::from(BASE64.get(digit).copied().unwrap_or(b'A')));
                } else {
                    text.push('=');
                }
            }
        }
        f.pad(&text)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_like_wireguard_writes_it() {
        assert_eq!(PublicKey([0; 32]).to_string(), "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        assert_eq!(PublicKey([255; 32]).to_string(), "//////////////////////////////////////////8=");
    }

    #[test]
    fn a_point_has_one_form() {
        let edge = |first: u8| {
            let mut bytes = FIELD;
            bytes[0] = first;
            PublicKey(bytes)
        };
        let mut high = [9; 32];
        assert!(PublicKey(high).is_canonical() && PublicKey([0; 32]).is_canonical() && edge(0xec).is_canonical());
        high[31] |= 0x80;
        for other in [PublicKey(high), edge(0xed), edge(0xee), edge(0xff), PublicKey([0xff; 32])] {
            assert!(!other.is_canonical(), "{other}");
        }
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", PrivateKey::new([9; 32])), "[secret]");
    }
}
