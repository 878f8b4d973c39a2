//! How may text that came from outside be shown? Without any character that moves a cursor, starts another line, or hides or
//! reorders what stands around it: each becomes an escape that a reader sees.

/// Does a terminal or a reader not see this character as itself? Control characters, ends of lines, what reorders text
/// (UAX 9), and what is not shown at all (`Default_Ignorable_Code_Point` of UAX 44, and fillers that look like nothing).
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            u32::from(c),
            0x00ad
                | 0x034f
                | 0x061c
                | 0x115f..=0x1160
                | 0x17b4..=0x17b5
                | 0x180b..=0x180f
                | 0x200b..=0x200f
                | 0x2028..=0x202e
                | 0x2060..=0x206f
                | 0x2800
                | 0x3164
                | 0xfe00..=0xfe0f
                | 0xfeff
                | 0xffa0
                | 0xfff0..=0xfffb
                | 0x1_bca0..=0x1_bca3
                | 0x1_d173..=0x1_d17a
                | 0xe_0000..=0xe_0fff
        )
}

/// The text with every hidden character as `\u{...}`.
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

/// The first `chars_max` characters as [`shown`], and ` ...` where there are more: for errors that repeat what was given.
pub fn excerpt(text: &str, chars_max: usize) -> String {
    let mut chars = text.chars();
    let mut out = shown(&chars.by_ref().take(chars_max).collect::<String>());
    if chars.next().is_some() {
        out.push_str(" ...");
    }
    out
}

/// Encoded JSON with every hidden character as `\uXXXX`: they stand only inside strings there, and mean the same. Line ends and
/// tabs between values stay.
pub fn shown_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_hidden(c) && !matches!(c, '\n' | '\t') {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDDEN: &str = "\n\r\t\0\u{1b}\u{7f}\u{85}\u{9b}\u{ad}\u{34f}\u{61c}\u{115f}\u{17b4}\u{180e}\u{200b}\u{200d}\u{200f}\u{2028}\
                          \u{2029}\u{202a}\u{202e}\u{2060}\u{2066}\u{2069}\u{206f}\u{2800}\u{3164}\u{fe0f}\u{feff}\u{ffa0}\u{fffb}\
                          \u{1d173}\u{e0001}\u{e0041}\u{e01ef}";

    #[test]
    fn what_is_hidden_is_seen_as_an_escape_and_the_rest_as_it_is() {
        assert!(HIDDEN.chars().all(is_hidden));
        assert!(!"aZ9 ~\"'\\\u{a0}äжあ🦀".chars().any(is_hidden));
        let text = shown(HIDDEN);
        assert!(text.is_ascii() && text.starts_with("\\u{a}\\u{d}\\u{9}\\u{0}\\u{1b}") && !text.chars().any(is_hidden));
        assert_eq!(shown("clerk ä"), "clerk ä");
    }

    #[test]
    fn an_excerpt_says_that_there_is_more() {
        assert_eq!(excerpt("abc", 3), "abc");
        assert_eq!(excerpt("ab\u{202e}d", 3), "ab\\u{202e} ...");
        assert!(excerpt(&"\u{e0041}".repeat(70_000), 80).len() < 1_000);
    }

    #[test]
    fn json_means_the_same() {
        // Within a string of encoded JSON a line end is an escape already.
        let inside = HIDDEN.replace(['\n', '\t', '\r', '\0', '\u{1b}'], "");
        let json = shown_json(&format!("{{\n\t\"a\": \"{inside}\"\n}}"));
        assert!(json.starts_with("{\n\t\"a\": \"\\u007f\\u0085") && json.contains("\\udb40\\udc41"), "{json}");
        assert!(json.is_ascii());
    }
}
