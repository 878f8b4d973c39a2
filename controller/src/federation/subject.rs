//! Whom does a rule mean? A token's subject, to the letter; or all subjects below a part of it, which ends where the issuer's
//! own parts end.

use model::limits::SUBJECT_MAX;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A subject, or `what/comes/before:*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct Pattern {
    text: String,
    /// It ends in a star, which is not in the text.
    open: bool,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Empty, too long, or with characters that nobody sees.
    #[error("a subject has 1 to {SUBJECT_MAX} characters, all of which can be seen")]
    Form,
    /// A star that is not the last character.
    #[error("a `*` stands at the end of a subject only")]
    Inside,
    /// `repo:org/app*`.
    #[error(
        "`*` must follow `:` or `/`: after anything else it would mean others, too (`repo:org/app*` means `repo:org/app-evil`). Write \
         the whole subject, or `{0}/*` or `{0}:*`"
    )]
    Within(String),
    /// `repo:*`.
    #[error(
        "`{0}*` means whoever has a token of this issuer, or nearly: let at least two parts stand in front of the `*`, as in `repo:org/*`"
    )]
    Wide(String),
}

/// Where parts of a subject end.
const fn parts(c: char) -> bool {
    matches!(c, ':' | '/')
}

impl Pattern {
    /// Does it mean this subject?
    pub fn matches(&self, subject: &str) -> bool {
        match self.open {
            false => subject == self.text,
            // Something has to follow.
            true => subject.strip_prefix(&self.text).is_some_and(|rest| !rest.is_empty()),
        }
    }
}

impl FromStr for Pattern {
    type Err = PatternError;
    fn from_str(text: &str) -> Result<Self, PatternError> {
        let count = text.chars().count();
        if !(1..=SUBJECT_MAX).contains(&count) || text.chars().any(model::text::is_hidden) || text.trim() != text {
            return Err(PatternError::Form);
        }
        let (before, open) = text.strip_suffix('*').map_or((text, false), |before| (before, true));
        if before.contains('*') {
            return Err(PatternError::Inside);
        }
        if open && !before.ends_with(parts) {
            return Err(if before.is_empty() {
                PatternError::Wide(String::new())
            } else {
                PatternError::Within(before.to_owned())
            });
        }
        if open && before.split(parts).filter(|part| !part.is_empty()).count() < 2 {
            return Err(PatternError::Wide(before.to_owned()));
        }
        Ok(Self { text: before.to_owned(), open })
    }
}
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        f.write_str(if self.open { "*" } else { "" })
    }
}
impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.to_string()
    }
}
impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_subject_is_meant_to_the_letter() {
        let exact = pattern("repo:org/app:ref:refs/heads/main");
        assert!(exact.matches("repo:org/app:ref:refs/heads/main"));
        for other in [
            "repo:org/app:ref:refs/heads/main2",
            "repo:org/app:ref:refs/heads/mai",
            "Repo:org/app:ref:refs/heads/main",
            "repo:org/app:ref:refs/heads/main ",
            "repo:org/app:ref:refs/heads/main\0",
            "repo:org/аpp:ref:refs/heads/main",
            "xrepo:org/app:ref:refs/heads/main",
            "",
        ] {
            assert!(!exact.matches(other), "{other:?}");
        }
    }

    #[test]
    fn a_star_means_what_lies_below_and_no_neighbour() {
        let below = pattern("repo:org/app:*");
        assert!(below.matches("repo:org/app:ref:refs/heads/main") && below.matches("repo:org/app:x"));
        for other in ["repo:org/app-evil:ref:x", "repo:org/app", "repo:org/app:", "repo:org/ap", "repo:orgx/app:x"] {
            assert!(!below.matches(other), "{other}");
        }
        let organisation = pattern("repo:org/*");
        assert!(organisation.matches("repo:org/app:x") && !organisation.matches("repo:org-evil/app:x"));
        assert!(pattern("system:serviceaccount:prod:*").matches("system:serviceaccount:prod:web"));
        assert!(!pattern("system:serviceaccount:prod:*").matches("system:serviceaccount:prod2:web"));
        assert!(!pattern("spiffe://corp.example/ns/*").matches("spiffe://corp.example.evil/ns/x"));
    }

    #[test]
    fn what_would_mean_more_than_it_says_is_refused_with_what_to_write() {
        let refused = |text: &str| text.parse::<Pattern>().unwrap_err().to_string();
        let why = refused("repo:org/app*");
        assert!(why.contains("app-evil") && why.contains("`repo:org/app/*` or `repo:org/app:*`"), "{why}");
        for wide in ["*", "repo:*", "/*", "::*", "repo:/*"] {
            assert!(refused(wide).contains("whoever has a token"), "{wide}");
        }
        for inside in ["repo:*/app", "*:x", "repo:org/**", "a*b*"] {
            assert!(refused(inside).contains("at the end"), "{inside}");
        }
        let long = "x".repeat(SUBJECT_MAX + 1);
        for bad in ["", " ", "a ", "a\n", "a\u{202e}", &long] {
            assert!(refused(bad).contains("can be seen"), "{bad:?}");
        }
        assert!("x".repeat(SUBJECT_MAX).parse::<Pattern>().is_ok());
    }

    #[test]
    fn it_is_kept_as_it_is_written() {
        for text in ["repo:org/*", "a", "system:serviceaccount:ns:name"] {
            assert_eq!(pattern(text).to_string(), text);
            let json = serde_json::to_string(&pattern(text)).unwrap();
            assert_eq!(serde_json::from_str::<Pattern>(&json).unwrap(), pattern(text));
        }
        assert!(serde_json::from_str::<Pattern>("\"repo:org/app*\"").is_err());
    }
}
