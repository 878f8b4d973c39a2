//! Which code does the app on a person's phone show? Written from RFC 6238 alone: it shares nothing with what checks it.

use aws_lc_rs::hmac::{HMAC_SHA1_FOR_LEGACY_USE_ONLY, Key, sign};
use std::time::{Duration, SystemTime};

/// One time step.
pub const STEP: Duration = Duration::from_secs(30);

/// An app that holds a key.
pub struct Authenticator(Vec<u8>);

impl Authenticator {
    /// With the key in base 32, as it is typed into it. None for what is no such key.
    pub fn new(key: &str) -> Option<Self> {
        let mut bytes = Vec::new();
        let (mut held, mut bits) = (0_u32, 0);
        for letter in key.chars() {
            let digit = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".find(letter)?;
            held = (held << 5) | u32::try_from(digit).ok()?;
            bits += 5;
            if bits >= 8 {
                bits -= 8;
                bytes.push(u8::try_from((held >> bits) & 0xff).ok()?);
            }
        }
        Some(Self(bytes))
    }

    /// The code of a moment, some steps from now.
    pub fn code(&self, steps: i64) -> String {
        let seconds = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs());
        self.at((seconds / STEP.as_secs()).saturating_add_signed(steps))
    }

    fn at(&self, step: u64) -> String {
        let tag = sign(&Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.0), &step.to_be_bytes());
        let byte = |at: usize| tag.as_ref().get(at).copied().unwrap_or(0);
        let offset = usize::from(byte(19) % 16);
        let number = (0..4).fold(0_u32, |number, at| (number << 8) | u32::from(byte(offset + at)));
        format!("{:06}", (number & 0x7fff_ffff) % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shows_what_rfc_6238_says() {
        let app = Authenticator::new("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ").unwrap();
        assert_eq!([1, 0x23523ec, 0x273ef07].map(|step| app.at(step)), ["287082", "081804", "005924"]);
        assert!(Authenticator::new("lower").is_none());
    }
}
