//! What was decided and changed, by whom, and can the trail be trusted?
//!
//! Each change and each decision is one [`Entry`], committed in the transaction of the change itself. The store turns it
//! into a [`Record`] of a hash chain: a record holds the hash of the one before. The canonical encoding of a record is
//! the line that is stored: JSON without spaces, fields in a fixed order, detail sorted, control and bidirectional
//! characters escaped. The hash is SHA-256 over that very line, so nothing is ever encoded again to be verified.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use model::limits::{AUDIT_DETAIL_MAX, AUDIT_FIELD_MAX, AUDIT_LIST_MAX};
use model::time::WallMs;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use deny::{Denied, DenyAggregator};
pub use text::utc;
pub use verify::{DROPPED, Verified, Verifier, VerifyError};

pub mod accept;
mod deny;
pub mod offline;
pub mod segment;
mod text;
mod verify;

/// SHA-256 of a record's line.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Hash(pub [u8; 32]);

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A change was made.
    Done,
    /// A decision permitted.
    Permit,
    /// A decision or an authorisation denied.
    Deny,
    /// It was tried and failed.
    Failed,
}

/// What the trail shall say about one change or decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// When, by the controller's wall clock.
    pub at: WallMs,
    /// Who: `user:us-...`, `local:root`, `gateway:gw-...`.
    pub actor: String,
    /// What was done or asked: `user.create`, `connect`.
    pub action: String,
    /// To what: a key of the store, or a name as it was asked for.
    pub object: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Reasons and values. No secrets.
    pub detail: Map<String, Value>,
}

impl Entry {
    /// An entry without detail.
    pub fn new(
        at: WallMs,
        actor: impl Into<String>,
        action: impl Into<String>,
        object: impl Into<String>,
        outcome: Outcome,
    ) -> Self {
        let (actor, action, object) = (actor.into(), action.into(), object.into());
        Self { at, actor, action, object, outcome, detail: Map::new() }
    }
    /// Adds one value to the detail.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.detail.insert(name.to_owned(), value.into());
        self
    }
}

/// One record of the chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its place, from 1.
    pub seq: u64,
    /// When, by the controller's wall clock.
    pub at: WallMs,
    /// Who.
    pub actor: String,
    /// What was done or asked.
    pub action: String,
    /// To what.
    pub object: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Reasons and values.
    pub detail: Map<String, Value>,
    /// Hash of the record before; zeros in the first.
    pub prev: Hash,
}

impl Record {
    /// The canonical line, without a line end. Also the form for programs.
    pub fn line(&self) -> String {
        text::escape_json(&serde_json::to_string(self).unwrap_or_default())
    }
}

/// For people: one line, whatever the fields hold.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            Outcome::Done => "done",
            Outcome::Permit => "permit",
            Outcome::Deny => "deny",
            Outcome::Failed => "failed",
        };
        let [actor, action, object] = [&self.actor, &self.action, &self.object].map(|s| text::escape(s));
        write!(f, "{} {} {actor} {action} {object} {outcome}", self.seq, text::utc(self.at))?;
        if !self.detail.is_empty() {
            let detail = serde_json::to_string(&self.detail).unwrap_or_default();
            write!(f, " {}", text::escape_json(&detail))?;
        }
        Ok(())
    }
}

/// The end of the chain, kept in the store's own record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Chain {
    /// Oldest record in the store; older ones are in files beside it.
    pub first: u64,
    /// Newest record; 0 when there is none.
    pub seq: u64,
    /// Hash of the newest record.
    pub hash: Hash,
}

impl Chain {
    /// How many records are in the store.
    pub const fn held(&self) -> u64 {
        let first = if self.first == 0 { 1 } else { self.first };
        self.seq.saturating_add(1).saturating_sub(first)
    }
    /// Puts an entry at the end: its sequence number, and hash and line as they are stored.
    pub fn append(&mut self, entry: &Entry) -> (u64, Vec<u8>) {
        self.seq = self.seq.saturating_add(1);
        self.first = self.first.max(1);
        let record = Record {
            seq: self.seq,
            at: entry.at,
            actor: text::clip(&entry.actor, AUDIT_FIELD_MAX),
            action: text::clip(&entry.action, AUDIT_FIELD_MAX),
            object: text::clip(&entry.object, AUDIT_FIELD_MAX),
            outcome: entry.outcome,
            detail: clip_detail(&entry.detail),
            prev: self.hash,
        };
        let line = record.line();
        self.hash = hash(line.as_bytes());
        let mut stored = self.hash.0.to_vec();
        stored.extend_from_slice(line.as_bytes());
        (self.seq, stored)
    }
}

/// Sorts the detail's names and keeps it within its bound; an oversized one is replaced by its size.
fn clip_detail(detail: &Map<String, Value>) -> Map<String, Value> {
    let len = serde_json::to_string(detail).map(|s| text::escape_json(&s).len()).unwrap_or(usize::MAX);
    if len > AUDIT_DETAIL_MAX {
        return Map::from_iter([("omitted_bytes".to_owned(), Value::from(len))]);
    }
    let mut names: Vec<_> = detail.iter().collect();
    names.sort_by_key(|(name, _)| *name);
    names.into_iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Of a record's line.
pub fn hash(line: &[u8]) -> Hash {
    let mut out = Hash::default();
    out.0.iter_mut().zip(digest(&SHA256, line).as_ref()).for_each(|(to, from)| *to = *from);
    out
}

/// The line of what is stored: all but the hash in front of it.
pub fn line_of(stored: &[u8]) -> Result<&[u8], String> {
    stored.split_first_chunk::<32>().map(|(_, line)| line).ok_or_else(|| "it is cut".to_owned())
}

/// Splits what is stored into hash and line, and decodes the line.
pub fn decode(stored: &[u8]) -> Result<Record, String> {
    serde_json::from_slice(line_of(stored)?).map_err(|e| e.to_string())
}

/// Which records to list. `Query::default()` is the newest [`AUDIT_LIST_MAX`].
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// At most this many; 0 and more than [`AUDIT_LIST_MAX`] mean that bound.
    pub limit: usize,
    /// Only records before this one: for the next page.
    pub before: Option<u64>,
    /// Not before this time.
    pub since: Option<WallMs>,
    /// The actor contains this.
    pub actor: Option<String>,
    /// The action begins with this.
    pub action: Option<String>,
    /// The object contains this.
    pub object: Option<String>,
    /// The outcome is this.
    pub outcome: Option<Outcome>,
}

impl Query {
    /// Whether a record is wanted.
    pub fn matches(&self, record: &Record) -> bool {
        let contains = |want: &Option<String>, text: &str| want.as_ref().is_none_or(|w| text.contains(w.as_str()));
        self.before.is_none_or(|before| record.seq < before)
            && self.since.is_none_or(|since| record.at >= since)
            && contains(&self.actor, &record.actor)
            && self.action.as_ref().is_none_or(|a| record.action.starts_with(a.as_str()))
            && contains(&self.object, &record.object)
            && self.outcome.is_none_or(|o| o == record.outcome)
    }
    /// How many records to answer.
    pub fn limit(&self) -> usize {
        if self.limit == 0 { AUDIT_LIST_MAX } else { self.limit.min(AUDIT_LIST_MAX) }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let hex = String::deserialize(d)?;
        let wrong = || serde::de::Error::custom("a hash has 64 hexadecimal digits");
        let mut out = Self::default();
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        for (byte, pair) in out.0.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(pair).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
