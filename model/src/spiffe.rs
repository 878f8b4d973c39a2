//! What is a program called? SPIFFE ids (SPIFFE-ID specification, section 2) of the programs on workloads' machines.
//!
//! `spiffe://TRUST_DOMAIN/workload/ACCOUNT/PATH`: the first segment is no node's, so that no id of a program can be read as
//! that of a node.

use crate::limits::{SPIFFE_ID_MAX, SPIFFE_PATH_MAX};
use std::fmt;
use std::str::FromStr;

/// The first segment of every program's path.
const WORKLOAD: &str = "workload";
/// Bytes of a trust domain (section 2.1: as long as a host's name).
const DOMAIN_MAX: usize = 255;

/// Why a text is no SPIFFE id, or no path of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// Another scheme.
    #[error("a SPIFFE id begins with `spiffe://`")]
    Scheme,
    /// The trust domain.
    #[error("a trust domain has 1 to 255 of a-z, 0-9, `.`, `-` and `_`, and nothing else: no user, no port")]
    Domain,
    /// The path.
    #[error(
        "a path has segments of A-Z, a-z, 0-9, `.`, `-` and `_` with `/` between them; none is empty, `.` or `..`, and no `/` \
         stands at either end"
    )]
    Path,
    /// Too long.
    #[error("a SPIFFE id has at most {SPIFFE_ID_MAX} bytes, and a registered path at most {SPIFFE_PATH_MAX}")]
    Long,
}

/// Are these segments of a path (section 2.2)?
fn check_path(path: &str) -> Result<(), SpiffeIdError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let segment = |text: &str| !matches!(text, "" | "." | "..") && text.bytes().all(fits);
    if path.split('/').all(segment) { Ok(()) } else { Err(SpiffeIdError::Path) }
}

/// The part of a program's SPIFFE id that its administrator chose: `web`, `shop/worker`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpiffePath(String);

impl SpiffePath {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The whole id of a program of this account.
    pub fn id(&self, domain: &str, account: &str) -> Result<SpiffeId, SpiffeIdError> {
        format!("spiffe://{domain}/{WORKLOAD}/{account}/{}", self.0).parse()
    }
}

impl FromStr for SpiffePath {
    type Err = SpiffeIdError;
    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > SPIFFE_PATH_MAX {
            return Err(SpiffeIdError::Long);
        }
        check_path(text)?;
        Ok(Self(text.to_owned()))
    }
}
impl fmt::Display for SpiffePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
impl serde::Serialize for SpiffePath {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}
impl<'de> serde::Deserialize<'de> for SpiffePath {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A whole SPIFFE id with a path, in the one form that this program writes: lower-case scheme and trust domain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpiffeId {
    text: String,
    domain: usize,
}

impl SpiffeId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
    /// The trust domain.
    pub fn domain(&self) -> &str {
        self.text.get(SCHEME.len()..self.domain).unwrap_or_default()
    }
    /// Is it the id of a program of this trust domain, and so of no node?
    pub fn is_workload_of(&self, domain: &str) -> bool {
        let path = self.text.get(self.domain..).and_then(|rest| rest.strip_prefix('/'));
        self.domain() == domain
            && path.is_some_and(|path| path.split('/').next() == Some(WORKLOAD) && path.contains('/'))
    }
}

const SCHEME: &str = "spiffe://";

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;
    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > SPIFFE_ID_MAX {
            return Err(SpiffeIdError::Long);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (domain, path) = rest.split_once('/').ok_or(SpiffeIdError::Path)?;
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
        if domain.is_empty() || domain.len() > DOMAIN_MAX || !domain.bytes().all(fits) {
            return Err(SpiffeIdError::Domain);
        }
        check_path(path)?;
        Ok(Self { text: text.to_owned(), domain: SCHEME.len().saturating_add(domain.len()) })
    }
}
impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;

    #[test]
    fn an_id_is_what_the_specification_says_and_nothing_else() {
        for good in ["spiffe://corp.example/a", "spiffe://a_b-c.1/A/b.c/..d/_/-", "spiffe://x/..."] {
            assert_eq!(good.parse::<SpiffeId>().unwrap().as_str(), good);
        }
        for (bad, why) in [
            ("", SpiffeIdError::Scheme),
            ("https://corp.example/a", SpiffeIdError::Scheme),
            ("SPIFFE://corp.example/a", SpiffeIdError::Scheme),
            ("spiffe:/corp.example/a", SpiffeIdError::Scheme),
            ("spiffe://corp.example", SpiffeIdError::Path),
            ("spiffe:///a", SpiffeIdError::Domain),
            ("spiffe://Corp.example/a", SpiffeIdError::Domain),
            ("spiffe://corp.example:443/a", SpiffeIdError::Domain),
            ("spiffe://user@corp.example/a", SpiffeIdError::Domain),
            ("spiffe://corp%2eexample/a", SpiffeIdError::Domain),
            ("spiffe://corp.example/", SpiffeIdError::Path),
            ("spiffe://corp.example/a/", SpiffeIdError::Path),
            ("spiffe://corp.example//a", SpiffeIdError::Path),
            ("spiffe://corp.example/a//b", SpiffeIdError::Path),
            ("spiffe://corp.example/./a", SpiffeIdError::Path),
            ("spiffe://corp.example/a/..", SpiffeIdError::Path),
            ("spiffe://corp.example/a?b", SpiffeIdError::Path),
            ("spiffe://corp.example/a#b", SpiffeIdError::Path),
            ("spiffe://corp.example/a%20b", SpiffeIdError::Path),
            ("spiffe://corp.example/a b", SpiffeIdError::Path),
            ("spiffe://corp.example/ä", SpiffeIdError::Path),
            ("spiffe://corp.example/a\0", SpiffeIdError::Path),
        ] {
            assert_eq!(bad.parse::<SpiffeId>(), Err(why), "{bad:?}");
        }
        let long = |n: usize| format!("spiffe://{}/a", "d".repeat(n));
        assert!(long(DOMAIN_MAX).parse::<SpiffeId>().is_ok());
        assert_eq!(long(DOMAIN_MAX + 1).parse::<SpiffeId>(), Err(SpiffeIdError::Domain));
    }

    #[test]
    fn an_id_and_a_path_are_as_long_as_the_limits_say() {
        let id = |n: usize| format!("spiffe://x/{}", "a".repeat(n - "spiffe://x/".len()));
        assert!(id(SPIFFE_ID_MAX).parse::<SpiffeId>().is_ok());
        assert_eq!(id(SPIFFE_ID_MAX + 1).parse::<SpiffeId>(), Err(SpiffeIdError::Long));
        assert!("a".repeat(SPIFFE_PATH_MAX).parse::<SpiffePath>().is_ok());
        assert_eq!("a".repeat(SPIFFE_PATH_MAX + 1).parse::<SpiffePath>(), Err(SpiffeIdError::Long));
    }

    #[test]
    fn a_program_is_never_called_as_a_node_is() {
        for path in ["web", "controller", "device/de-0123456789abcdef", "gateway/gw-0123456789abcdef"] {
            let id = path.parse::<SpiffePath>().unwrap().id("corp.example", "deploy").unwrap();
            assert!(NodeId::from_spiffe("corp.example", id.as_str()).is_err(), "{id}");
            assert!(id.is_workload_of("corp.example") && !id.is_workload_of("other.example"));
            assert_eq!(id.domain(), "corp.example");
        }
        let node = NodeId::Controller.spiffe("corp.example").parse::<SpiffeId>().unwrap();
        assert!(!node.is_workload_of("corp.example"));
        let longest = "a".repeat(SPIFFE_PATH_MAX).parse::<SpiffePath>().unwrap();
        assert!(
            longest.id(&"d".repeat(DOMAIN_MAX), &"n".repeat(crate::limits::NAME_MAX)).is_ok(),
            "any may be registered"
        );
        for bad in ["", "/a", "a/", "../device", "a b"] {
            assert_eq!(bad.parse::<SpiffePath>(), Err(SpiffeIdError::Path), "{bad:?}");
        }
    }
}
