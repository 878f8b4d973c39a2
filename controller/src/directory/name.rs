//! What may users, groups, sites, gateways, devices, resources and tags be called? Words that a policy can write
//! without quoting trouble and a terminal can show.

use model::limits::NAME_MAX;
use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

/// 1 to [`NAME_MAX`] of `a-z 0-9 - _ .`, the first a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Name(String);

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a name: use 1 to {NAME_MAX} of a-z, 0-9, `-`, `_` and `.`, and begin with a letter or a digit")]
pub struct NameError(String);

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
}

impl Name {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name from whatever a machine calls itself: what does not fit becomes `-`.
    pub fn from_machine(text: &str) -> Self {
        let fitted: String = text
            .chars()
            .take(NAME_MAX / 2)
            .map(|c| c.to_ascii_lowercase())
            .map(|c| if c.is_ascii() && is_word(c as u8) { c } else { '-' })
            .collect();
        let fitted = fitted.trim_matches(['-', '.', '_']);
        Self(if fitted.is_empty() { "unnamed".to_owned() } else { fitted.to_owned() })
    }

    /// This name with `-number` at its end, for a second one of the same name.
    pub fn numbered(&self, number: u32) -> Self {
        let suffix = format!("-{number}");
        let stem: String = self.0.chars().take(NAME_MAX.saturating_sub(suffix.len())).collect();
        Self(stem + &suffix)
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let begins = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if begins && text.len() <= NAME_MAX && text.bytes().all(is_word) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError(text.chars().take(NAME_MAX).flat_map(char::escape_default).collect()))
        }
    }
}
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}
impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_refused_and_shown_escaped() {
        for good in ["clerk", "db-1.corp", "0x", &"a".repeat(NAME_MAX)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        let long = "a".repeat(NAME_MAX + 1);
        let huge = "a".repeat(64 << 10);
        for bad in [
            "",
            "-a",
            ".a",
            "Clerk",
            "a b",
            "a\n",
            "a\0",
            "a\u{1b}[2J",
            "a\u{202e}",
            "../x",
            "$(x)",
            "{{x}}",
            "ä",
            &long,
            &huge,
        ] {
            let error = bad.parse::<Name>().unwrap_err().to_string();
            assert!(error.len() < 1_000 && !error.chars().any(|c| c.is_control() || c == '\u{202e}'), "{error:?}");
        }
    }

    #[test]
    fn any_machine_gets_a_name() {
        for (machine, name) in [
            ("Clerk's Laptop", "clerk-s-laptop"),
            ("", "unnamed"),
            ("\u{202e}\n", "unnamed"),
            ("WS01.corp", "ws01.corp"),
        ] {
            assert_eq!(Name::from_machine(machine).as_str(), name);
        }
        let long = Name::from_machine(&"x".repeat(1_000));
        assert!(long.numbered(u32::MAX).as_str().parse::<Name>().is_ok());
        assert!(Name::from_machine(&"x".repeat(1_000)).as_str().parse::<Name>().is_ok());
    }
}
