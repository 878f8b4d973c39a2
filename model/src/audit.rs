//! Up to where did the audit trail go at some moment? Its head, which the controller signs and gateways keep as witnesses, so
//! that a trail whose end was cut off can be told from a whole one.

use crate::revision::Revision;
use crate::time::WallMs;
use serde::{Deserialize, Serialize};

/// The end of the trail at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// The state of the store; its incarnation says in which life of the organisation.
    pub revision: Revision,
    /// The newest record.
    pub seq: u64,
    /// SHA-256 of its line.
    #[serde(with = "hex")]
    pub hash: [u8; 32],
    /// When it was signed, by the controller's wall clock.
    pub at: WallMs,
}

impl AuditHead {
    /// What is signed. It begins with words that begin nothing else that this key signs (certificates begin with 0x30).
    pub fn text(&self) -> String {
        let hash: String = self.hash.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("umbra audit head v1\n{} {} {} {hash}\n", self.revision, self.seq, self.at.0)
    }

    /// How does a head that comes later fit to this one?
    pub fn then(&self, later: &Self) -> Then {
        let place = |head: &Self| (head.revision.incarnation, head.seq);
        match place(later).cmp(&place(self)) {
            std::cmp::Ordering::Greater => Then::Newer,
            std::cmp::Ordering::Less => Then::Back,
            std::cmp::Ordering::Equal if later.hash == self.hash => Then::Same,
            std::cmp::Ordering::Equal => Then::Fork,
        }
    }
}

/// How a head fits to one that was seen before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The trail went on, or the organisation began a new life.
    Newer,
    /// Nothing happened.
    Same,
    /// It ends earlier: its end was cut off, or this is an older copy.
    Back,
    /// It has another record at the same place: it was rewritten, or there are two of it.
    Fork,
}

/// A head with its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedHead {
    /// The head.
    #[serde(flatten)]
    pub head: AuditHead,
    /// Over [`AuditHead::text`], ECDSA P-256 with SHA-256 in DER, by the organisation's CA.
    #[serde(with = "hex")]
    pub signature: Vec<u8>,
}

/// Bytes as hexadecimal digits.
mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: impl AsRef<[u8]>, s: S) -> Result<S::Ok, S::Error> {
        let text: String = bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        s.serialize_str(&text)
    }
    pub fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<Vec<u8>>>(d: D) -> Result<T, D::Error> {
        let text = String::deserialize(d)?;
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let digits = text.len() % 2 == 0 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
        let bytes = bytes.filter(|_| digits).ok_or_else(|| D::Error::custom("expected hexadecimal digits"))?;
        T::try_from(bytes).map_err(|_| D::Error::custom("the wrong number of hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(incarnation: u64, seq: u64, byte: u8) -> AuditHead {
        AuditHead { revision: Revision { incarnation, number: 7 }, seq, hash: [byte; 32], at: WallMs(-1) }
    }

    #[test]
    fn a_trail_goes_on_and_never_back() {
        let kept = head(2, 10, 1);
        for (later, then) in [
            (head(2, 11, 9), Then::Newer),
            (head(3, 1, 9), Then::Newer),
            (head(2, 10, 1), Then::Same),
            (head(2, 10, 2), Then::Fork),
            (head(2, 9, 1), Then::Back),
            (head(1, 99, 1), Then::Back),
        ] {
            assert_eq!(kept.then(&later), then, "{later:?}");
        }
    }

    #[test]
    fn every_field_is_signed() {
        let text = head(2, 10, 1).text();
        assert_eq!(text, format!("umbra audit head v1\n2.7 10 -1 {}\n", "01".repeat(32)));
        let other = AuditHead { at: WallMs(0), ..head(2, 10, 1) };
        assert!([head(3, 10, 1), head(2, 11, 1), head(2, 10, 2), other].iter().all(|head| head.text() != text));
    }

    #[test]
    fn what_is_kept_comes_back_and_fits_into_a_slot() {
        let most =
            AuditHead { revision: Revision { incarnation: u64::MAX, number: u64::MAX }, ..head(1, u64::MAX, 0xff) };
        let signed = SignedHead { head: AuditHead { at: WallMs(i64::MIN), ..most }, signature: vec![0xab; 72] };
        let text = serde_json::to_string(&signed).unwrap();
        assert!(text.len() <= 490, "{}", text.len());
        assert_eq!(serde_json::from_str::<SignedHead>(&text).unwrap(), signed);
        for broken in [text.replace("abab", "abag"), text.replacen("ff", "", 1), text.replacen("ab", "b", 1)] {
            assert!(serde_json::from_str::<SignedHead>(&broken).is_err(), "{broken}");
        }
    }
}
