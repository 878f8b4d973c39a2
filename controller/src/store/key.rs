//! What is a key of the store? A short ASCII path like `user/us-0123456789abcdef`.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use model::limits::STORE_KEY_MAX;

/// A checked key: 1 to [`STORE_KEY_MAX`] printable ASCII characters without space.
///
/// `policy/p1` is a record of the set `policy`. The bare name of a set, `policy`, is its *head key*: the store itself
/// moves its revision with each change of a member, so that a commit can expect that no member came, changed or went.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// Why a text is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a key: 1 to {STORE_KEY_MAX} printable ASCII characters, as in `set/name`")]
pub struct KeyError(String);

impl Key {
    /// Checks a text.
    pub fn new(text: &str) -> Result<Self, KeyError> {
        let halves = text.split_once('/').is_none_or(|(set, name)| !set.is_empty() && !name.is_empty());
        if text.is_empty() || text.len() > STORE_KEY_MAX || !text.bytes().all(|b| b.is_ascii_graphic()) || !halves {
            return Err(KeyError(text.chars().take(40).flat_map(char::escape_default).collect()));
        }
        Ok(Self(text.into()))
    }
    /// The key of the record `name` in `set`.
    pub fn of(set: &str, name: impl fmt::Display) -> Result<Self, KeyError> {
        Self::new(&format!("{set}/{name}"))
    }
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The set: everything before the first `/`.
    pub fn set(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(set, _)| set)
    }
    /// Whether this is a head key, which only the store writes.
    pub fn is_head(&self) -> bool {
        !self.0.contains('/')
    }
    /// The head key of its set.
    pub fn head(&self) -> Self {
        Self(self.set().into())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_short_printable_paths_are_keys() {
        let longest = format!("a/{}", "x".repeat(STORE_KEY_MAX - 2));
        for good in ["user/us-1", "policy", "site/a/b", &longest] {
            assert_eq!(Key::new(good).unwrap().as_str(), good);
        }
        let long = format!("{longest}x");
        for bad in ["", "/", "/a", "a/", "a b/c", "a/\n", "a/\u{0}", "a/ä", &long] {
            assert!(Key::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Key::new("site/a/b").unwrap().head(), Key::new("site").unwrap());
    }
}
