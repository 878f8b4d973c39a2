//! How does text from outside get into one line that a terminal shows as it is?

use model::text::is_hidden;
pub(super) use model::text::shown_json as escape_json;
use model::time::WallMs;

/// For people: unsafe characters, backslashes and spaces become escapes, so that fields keep their bounds.
pub(super) fn escape(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            ' ' => out.push_str("\\x20"),
            c if is_hidden(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// The longest beginning of `text` whose encoded form has at most `max` bytes.
pub(super) fn clip(text: &str, max: usize) -> String {
    let (mut len, mut out) = (0, String::new());
    for c in text.chars() {
        // An escape of JSON is six bytes for each unit of UTF-16.
        len += if is_hidden(c) || c == '"' || c == '\\' { 6 * c.len_utf16() } else { c.len_utf8() };
        if len > max {
            break;
        }
        out.push(c);
    }
    out
}

/// RFC 3339 in UTC, with milliseconds.
pub fn utc(at: WallMs) -> String {
    let (days, ms) = (at.0.div_euclid(86_400_000), at.0.rem_euclid(86_400_000));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
}

/// The Gregorian date of a day counted from 1970-01-01: years are counted from March, so that the leap day is last.
const fn date(days: i64) -> (i64, i64, i64) {
    let from_march = days.saturating_add(719_468); // 0000-03-01
    let (era, day) = (from_march.div_euclid(146_097), from_march.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    (era * 400 + year + if month <= 2 { 1 } else { 0 }, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(utc(WallMs(ms)), text);
        }
        utc(WallMs(i64::MAX));
        utc(WallMs(i64::MIN));
    }

    #[test]
    fn unsafe_characters_never_get_through() {
        let evil = "a\n\r\u{1b}[2J\u{0}\u{7f}\u{9b}\u{2028}\u{202e}\u{2066}\u{200f}\u{feff}\u{e0041} b\\ä";
        for out in [escape(evil), escape_json(&serde_json::to_string(evil).unwrap())] {
            assert!(!out.chars().any(is_hidden), "{out:?}");
        }
        let json = escape_json(&serde_json::to_string(evil).unwrap());
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), evil);
        assert!(!escape(evil).contains(' '));
    }

    #[test]
    fn clipped_text_keeps_its_bound_when_encoded() {
        for c in ['a', 'ä', '\u{0}', '"', '\\', '\u{202e}', '\u{e0041}', '🦀'] {
            let clipped = clip(&c.to_string().repeat(1_000), 256);
            let encoded = escape_json(&serde_json::to_string(&clipped).unwrap());
            assert!(!clipped.is_empty() && encoded.len() <= 256 + 2, "{c:?} {}", encoded.len());
        }
    }
}
