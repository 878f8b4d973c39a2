//! Which one-time code does an authenticator app show now? TOTP (RFC 6238) as all of them speak it: HMAC-SHA-1, 6 digits, 30 s.

use aws_lc_rs::hmac;
use model::secret::Secret;
use model::time::WallMs;
use subtle::ConstantTimeEq as _;

/// Bytes of a shared secret: those of an HMAC-SHA-1 key (RFC 4226, section 4, R6 recommends 160 bits).
pub const SECRET_LEN: usize = 20;
/// Milliseconds of a time step (RFC 6238, section 5.2).
const STEP_MS: i64 = 30_000;
/// Digits of a code.
pub const DIGITS: usize = 6;
/// Steps before and after the present one whose codes are taken, for clocks that differ and people who type.
const SKEW: u64 = 1;
/// RFC 4648, section 6.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The number of the time step; before 1970 it is the first one.
pub fn step_at(now: WallMs) -> u64 {
    u64::try_from(now.0 / STEP_MS).unwrap_or(0)
}

/// The code of a step (RFC 4226, section 5.3).
fn code(key: &hmac::Key, step: u64) -> Secret<String> {
    let tag = hmac::sign(key, &step.to_be_bytes());
    let bytes = tag.as_ref();
    let offset = usize::from(bytes.last().copied().unwrap_or(0) & 0xf);
    let word = bytes.get(offset..).and_then(|rest| rest.first_chunk::<4>()).map_or(0, |four| u32::from_be_bytes(*four));
    Secret::new(format!("{:06}", (word & 0x7fff_ffff) % 1_000_000))
}

/// Which of the steps around now, and after `used`, has this code? A code that was taken is taken once: the step that is
/// answered is the next `used`.
pub fn find(secret: &Secret<Vec<u8>>, typed: &str, now: WallMs, used: u64) -> Found {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.expose());
    let present = step_at(now);
    let mut found = Found::None;
    for step in present.saturating_sub(SKEW)..=present.saturating_add(SKEW) {
        if bool::from(code(&key, step).expose().as_bytes().ct_eq(typed.as_bytes())) {
            found = if step > used { Found::Step(step) } else { Found::Used };
        }
    }
    found
}

/// The code of a step, for tests that hold a phone.
#[cfg(test)]
pub fn code_of(secret: &Secret<Vec<u8>>, step: u64) -> Secret<String> {
    code(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.expose()), step)
}

/// What [`find`] finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The code of this step.
    Step(u64),
    /// The code of a step that was used, or that is before one.
    Used,
    /// No code of these steps.
    None,
}

/// In base 32 without padding (RFC 4648, section 6), as people type it into an app.
pub fn base32(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(5) * 8);
    for chunk in bytes.chunks(5) {
        let mut block = [0; 8];
        block.iter_mut().skip(3).zip(chunk).for_each(|(to, from)| *to = *from);
        let value = u64::from_be_bytes(block);
        let digits = (chunk.len() * 8).div_ceil(5);
        for place in 0..digits {
            let index = usize::try_from((value >> (35 - 5 * place)) & 31).unwrap_or(0);
            out.push(char::from(BASE32.get(index).copied().unwrap_or(b'A')));
        }
    }
    out
}

/// What a QR code for an app holds (the "Key Uri Format" that all apps read). Both texts are words: they need no escapes but
/// that of a `:`.
pub fn uri(organisation: &str, user: &str, secret: &Secret<Vec<u8>>) -> Secret<String> {
    let secret = base32(secret.expose());
    Secret::new(format!(
        "otpauth://totp/{organisation}:{user}?secret={secret}&issuer={organisation}&algorithm=SHA1&digits={DIGITS}&period=30"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Secret<Vec<u8>> {
        Secret::new(b"12345678901234567890".to_vec())
    }

    #[test]
    fn the_codes_are_those_of_rfc_6238() {
        // Appendix B, SHA-1: eight digits there, the last six here.
        for (second, eight) in [
            (59, "94287082"),
            (1_111_111_109, "07081804"),
            (1_111_111_111, "14050471"),
            (1_234_567_890, "89005924"),
            (2_000_000_000, "69279037"),
            (20_000_000_000, "65353130"),
        ] {
            let now = WallMs(second * 1_000);
            assert_eq!(find(&secret(), &eight[2..], now, 0), Found::Step(step_at(now)), "{second}");
            assert_eq!(find(&secret(), eight, now, 0), Found::None);
        }
    }

    #[test]
    fn one_step_of_skew_and_each_code_once() {
        let (now, key) =
            (WallMs(1_111_111_111_000), hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"12345678901234567890"));
        let present = step_at(now);
        for (step, found) in [
            (present - 2, Found::None),
            (present - 1, Found::Step(present - 1)),
            (present, Found::Step(present)),
            (present + 1, Found::Step(present + 1)),
            (present + 2, Found::None),
        ] {
            assert_eq!(find(&secret(), code(&key, step).expose(), now, 0), found, "{step}");
        }
        assert_eq!(find(&secret(), code(&key, present).expose(), now, present), Found::Used);
        assert_eq!(
            find(&secret(), code(&key, present - 1).expose(), now, present),
            Found::Used,
            "not out of order either"
        );
        assert_eq!(find(&secret(), code(&key, present + 1).expose(), now, present), Found::Step(present + 1));
        for odd in ["", "0", "00000", "0000000", "００００００", "-12345", " 50471"] {
            assert_eq!(find(&secret(), odd, now, 0), Found::None);
        }
        assert_eq!(find(&secret(), "755224", WallMs(-5), 0), Found::Used, "step 0 is never after another");
    }

    #[test]
    fn base32_is_that_of_rfc_4648() {
        for (plain, text) in [
            ("", ""),
            ("f", "MY"),
            ("fo", "MZXQ"),
            ("foo", "MZXW6"),
            ("foob", "MZXW6YQ"),
            ("fooba", "MZXW6YTB"),
            ("foobar", "MZXW6YTBOI"),
        ] {
            assert_eq!(base32(plain.as_bytes()), text);
        }
    }

    #[test]
    fn an_app_reads_the_uri() {
        let uri = uri("corp.example", "clerk", &secret());
        assert_eq!(
            uri.expose(),
            "otpauth://totp/corp.example:clerk?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=corp.example\
             &algorithm=SHA1&digits=6&period=30"
        );
    }
}
