//! May these commits happen, and what do they write? Pure: a group of commits against the durable state.
//!
//! Commits of one group see each other in order, as if each had been alone: what an earlier one of the group changed
//! lies in an overlay over the state. One that is refused leaves no trace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use model::limits::{COMMIT_AUDIT_MAX, COMMIT_BYTES_MAX, COMMIT_KEYS_MAX};
use model::revision::Revision;

use super::layout::{self, AUDIT, DATA, LOG, META, Write, number_name, pieces};
use super::state::{Change, Effect, Logged, Meta, State, fingerprint};
use super::{Commit, CommitError, Expect, Item, Key, Options};

/// Bytes in front of a value on the disk: its revision.
pub(super) const HEADER: usize = 8;

/// A group of commits that will become durable together.
pub(super) struct Plan<'a> {
    base: &'a State,
    options: &'a Options,
    meta: Meta,
    overlay: BTreeMap<Key, Option<Item>>,
    writes: Vec<Write>,
    log: Vec<Logged>,
    log_bytes: usize,
    trimmed: usize,
}

impl<'a> Plan<'a> {
    pub(super) fn new(base: &'a State, options: &'a Options) -> Self {
        let (meta, log_bytes) = (base.meta.clone(), base.log_bytes);
        Self { base, options, meta, overlay: BTreeMap::new(), writes: vec![], log: vec![], log_bytes, trimmed: 0 }
    }

    /// Adds a commit, or refuses it and stays as it was.
    pub(super) fn add(&mut self, commit: &Commit) -> Result<Revision, CommitError> {
        check_form(commit)?;
        for (key, expect) in &commit.expect {
            let want = if let Expect::Revision(number) = expect { *number } else { 0 };
            if self.item(key).map_or(0, |item| item.revision) != want {
                return Err(CommitError::Conflict { key: key.clone() });
            }
        }
        let deletes: Vec<Key> = commit.deletes.iter().filter(|key| self.item(key).is_some()).cloned().collect();
        let touched = commit.puts.iter().map(|(key, _)| key).chain(&deletes);
        let heads: BTreeSet<Key> = touched.map(Key::head).collect();
        self.check_room(commit, &deletes, &heads)?;

        self.meta.number = self.meta.number.saturating_add(1);
        for (key, value) in &commit.puts {
            self.put(key.clone(), value.clone());
        }
        deletes.iter().for_each(|key| self.remove(key));
        heads.into_iter().for_each(|head| self.put(head, Bytes::new()));
        self.append_change(Change { revision: self.meta.revision(), puts: commit.puts.clone(), deletes });
        commit.audit.iter().for_each(|entry| self.append_audit(entry));
        Ok(self.meta.revision())
    }

    /// What to write, and what it does to the state once it is durable.
    pub(super) fn finish(mut self) -> Result<(Vec<Write>, Effect), CommitError> {
        let meta = serde_json::to_vec(&self.meta).map_err(|e| CommitError::Invalid(e.to_string()))?;
        layout::put(&mut self.writes, META, "meta", &meta, 0);
        let effect = Effect { meta: self.meta, items: self.overlay, log: self.log, trimmed: self.trimmed };
        Ok((self.writes, effect))
    }

    fn item(&self, key: &Key) -> Option<&Item> {
        self.overlay.get(key).map_or_else(|| self.base.items.get(key), Option::as_ref)
    }

    /// Deletes always have room, so that a full store can be emptied.
    fn check_room(&self, commit: &Commit, deletes: &[Key], heads: &BTreeSet<Key>) -> Result<(), CommitError> {
        let len = |key: &Key| self.item(key).map_or(0, |item| item.value.len());
        let absent = |key: &&Key| self.item(key).is_none();
        let added = commit.puts.iter().map(|(key, _)| key).chain(heads).filter(absent).count();
        let put: usize = commit.puts.iter().map(|(_, value)| value.len()).sum();
        let replaced: usize = commit.puts.iter().map(|(key, _)| key).chain(deletes).map(len).sum();
        let items = (self.meta.items + added as u64).saturating_sub(deletes.len() as u64);
        let bytes = (self.meta.bytes + put as u64).saturating_sub(replaced as u64);
        if items > self.options.items_max && items > self.meta.items {
            return Err(CommitError::Full { what: "the number of keys", max: self.options.items_max });
        }
        if bytes > self.options.bytes_max && bytes > self.meta.bytes {
            return Err(CommitError::Full { what: "the bytes of all values", max: self.options.bytes_max });
        }
        // What makes nothing new may use a little more, so that access can still be taken away.
        let takes_away = added == 0 || !deletes.is_empty();
        let max = self.options.audit_max;
        let records = self.meta.audit.held().saturating_add(commit.audit.len() as u64);
        if !commit.audit.is_empty() && records > if takes_away { max.saturating_add(max / 8) } else { max } {
            return Err(CommitError::Full {
                what: "audit records that cannot leave the store for files beside it",
                max,
            });
        }
        Ok(())
    }

    /// Takes a key out of the sums; answers how many pieces it has on the disk.
    fn forget(&mut self, key: &Key) -> u32 {
        let Some((revision, len)) = self.item(key).map(|item| (item.revision, item.value.len())) else { return 0 };
        self.meta.items = self.meta.items.saturating_sub(1);
        self.meta.bytes = self.meta.bytes.saturating_sub(len as u64);
        self.meta.digest = self.meta.digest.wrapping_sub(fingerprint(key, revision));
        pieces(HEADER + len)
    }

    fn put(&mut self, key: Key, value: Bytes) {
        let before = self.forget(&key);
        let revision = self.meta.number;
        self.meta.items += 1;
        self.meta.bytes += value.len() as u64;
        self.meta.digest = self.meta.digest.wrapping_add(fingerprint(&key, revision));
        let payload = [&revision.to_be_bytes()[..], &value].concat();
        layout::put(&mut self.writes, DATA, key.as_str(), &payload, before);
        self.overlay.insert(key, Some(Item { revision, value }));
    }

    fn remove(&mut self, key: &Key) {
        let before = self.forget(key);
        layout::remove(&mut self.writes, DATA, key.as_str(), before);
        self.overlay.insert(key.clone(), None);
    }

    fn append_change(&mut self, change: Change) {
        let payload = encode_names(&change);
        let name = number_name(change.revision.number);
        layout::put(&mut self.writes, LOG, &name, payload.as_bytes(), 0);
        let logged = Logged { change: Arc::new(change), pieces: pieces(payload.len()) };
        self.log_bytes += logged.bytes();
        self.log.push(logged);
        self.trim_log();
    }

    fn trim_log(&mut self) {
        loop {
            let kept = self.base.log.len() + self.log.len() - self.trimmed;
            if kept <= self.options.log_max && self.log_bytes <= self.options.log_bytes_max {
                return;
            }
            let oldest = self.base.log.iter().chain(&self.log).nth(self.trimmed);
            let Some((pieces, bytes)) = oldest.map(|logged| (logged.pieces, logged.bytes())) else { return };
            layout::remove(&mut self.writes, LOG, &number_name(self.meta.log_first), pieces);
            self.log_bytes = self.log_bytes.saturating_sub(bytes);
            self.meta.log_first += 1;
            self.trimmed += 1;
        }
    }

    fn append_audit(&mut self, entry: &crate::audit::Entry) {
        let (seq, stored) = self.meta.audit.append(entry);
        layout::put(&mut self.writes, AUDIT, &number_name(seq), &stored, 0);
    }

    /// Lets go of the audit records up to `to`, which are in files; at most [`COMMIT_AUDIT_MAX`], and never the newest, by
    /// which a store is known to be whole when it is opened.
    pub(super) fn archive(&mut self, to: u64) -> Revision {
        let most = self.meta.audit.first.saturating_add(COMMIT_AUDIT_MAX as u64 - 1);
        let to = to.min(most).min(self.meta.audit.seq.saturating_sub(1));
        while self.meta.audit.first <= to {
            // A record is one piece: its bounds see to that.
            layout::remove(&mut self.writes, AUDIT, &number_name(self.meta.audit.first), 1);
            self.meta.audit.first = self.meta.audit.first.saturating_add(1);
        }
        self.meta.revision()
    }
}

/// What does not depend on the state: sizes, no key twice, no head key written.
fn check_form(commit: &Commit) -> Result<(), CommitError> {
    let invalid = |text: String| Err(CommitError::Invalid(text));
    let counts = [commit.expect.len(), commit.puts.len(), commit.deletes.len()];
    if counts.iter().any(|n| *n > COMMIT_KEYS_MAX) {
        return invalid(format!("more than {COMMIT_KEYS_MAX} keys"));
    }
    if commit.audit.len() > COMMIT_AUDIT_MAX {
        return invalid(format!("more than {COMMIT_AUDIT_MAX} audit entries"));
    }
    if size(commit) > COMMIT_BYTES_MAX {
        return invalid(format!("more than {COMMIT_BYTES_MAX} bytes"));
    }
    let mut seen = BTreeSet::new();
    for key in commit.puts.iter().map(|(key, _)| key).chain(&commit.deletes) {
        if key.is_head() {
            return invalid(format!("`{key}` is a head key, which only the store writes"));
        }
        if !seen.insert(key) {
            return invalid(format!("`{key}` is changed twice"));
        }
    }
    Ok(())
}

/// Bytes of a commit's keys and values.
pub(super) fn size(commit: &Commit) -> usize {
    let puts = commit.puts.iter().map(|(key, value)| key.as_str().len() + value.len());
    puts.chain(commit.deletes.iter().map(|key| key.as_str().len())).sum()
}

/// The keys of a change, one a line: `+` for a put, `-` for a delete.
fn encode_names(change: &Change) -> String {
    let puts = change.puts.iter().map(|(key, _)| format!("+{key}\n"));
    puts.chain(change.deletes.iter().map(|key| format!("-{key}\n"))).collect()
}

/// Reads such lines; the values are those of `items` that still are of this change.
pub(super) fn decode_names(
    revision: Revision,
    text: &str,
    items: &BTreeMap<Key, Item>,
) -> Result<Logged, super::KeyError> {
    let mut change = Change { revision, puts: Vec::new(), deletes: Vec::new() };
    for line in text.lines() {
        let (sign, name) = line.split_at_checked(1).unwrap_or(("", line));
        let key = Key::new(name)?;
        match items.get(&key) {
            _ if sign == "-" => change.deletes.push(key),
            Some(item) if item.revision == revision.number => change.puts.push((key, item.value.clone())),
            _ => {}
        }
    }
    Ok(Logged { change: Arc::new(change), pieces: pieces(text.len()) })
}
