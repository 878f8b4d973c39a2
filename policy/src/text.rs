//! How is text from outside shown to a person? Without characters that could move a terminal's cursor or its meaning.

use model::limits::POLICY_PROBLEM_CHARS_MAX;

/// Whether a character may not stand in a policy: control characters, and those that hide or reorder text (Unicode TR 36).
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(u32::from(c), 0x061c | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xe0000..=0xe007f)
}

/// The text with such characters escaped, no longer than a person reads.
pub(crate) fn brief(text: &str) -> String {
    let mut chars = text.chars();
    let mut out = printable(&chars.by_ref().take(POLICY_PROBLEM_CHARS_MAX).collect::<String>());
    if chars.next().is_some() {
        out.push_str(" ...");
    }
    out
}

/// The text with such characters escaped.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}
