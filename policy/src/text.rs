//! How is text from outside shown to a person? Without characters that could move a terminal's cursor or its meaning.

use model::limits::POLICY_PROBLEM_CHARS_MAX;
use model::text::excerpt;
// Whatever a reader does not see may not stand in a policy either.
pub(crate) use model::text::{is_hidden, shown as printable};

/// The text with such characters escaped, no longer than a person reads.
pub(crate) fn brief(text: &str) -> String {
    excerpt(text, POLICY_PROBLEM_CHARS_MAX)
}
