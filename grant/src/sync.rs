//! How do controller and gateway know that they hold the same? The messages between ledger and table, the digest over a
//! table, and the order of revisions.
//!
//! The rules, for both sides: a snapshot replaces everything; a delta fits exactly one state; nothing lower than the
//! highest (incarnation, revision) ever seen is taken; renewal is for equal tables only.

use blake2::{Blake2s256, Digest as _};
use model::grant::{Grant, Pairing};
use model::ids::GrantId;
use model::net::{Prefix, Protocol, Rule, Target};
use model::revision::{Digest, Revision};
use std::net::IpAddr;

/// Everything that one gateway may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The state that it shows.
    pub revision: Revision,
    /// The tunnels, by id.
    pub pairings: Vec<Pairing>,
    /// The grants, by id; each one's `ends_in` is counted from the request that the message names.
    pub grants: Vec<Grant>,
}

/// What changed for one gateway between two states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// The only state that it applies to.
    pub from: Revision,
    /// The state that it leads to.
    pub to: Revision,
    /// The tunnels of the grants below.
    pub pairings: Vec<Pairing>,
    /// New grants, or the same id with new rules.
    pub grants: Vec<Grant>,
    /// Grants that are over.
    pub ended: Vec<GrantId>,
}

/// One message to a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// All of it.
    Snapshot(Snapshot),
    /// A change.
    Delta(Delta),
}

/// How an update relates to the state of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It is older than what was seen: an old replica, a restored backup, a late duplicate. Refused.
    Old,
    /// It applies.
    Fits,
    /// It is newer, but leads from another state: ask for a snapshot.
    Gap,
}

/// Does the update fit a table that stands at `at` (none after a start) and has seen `seen`?
pub fn fit(update: &Update, at: Option<Revision>, seen: Revision) -> Fit {
    match update {
        Update::Snapshot(s) if s.revision < seen => Fit::Old,
        Update::Snapshot(_) => Fit::Fits,
        Update::Delta(d) if d.to <= d.from || d.to < seen || at.is_some_and(|at| d.to <= at) => Fit::Old,
        Update::Delta(d) if at == Some(d.from) && d.from.incarnation == d.to.incarnation => Fit::Fits,
        Update::Delta(_) => Fit::Gap,
    }
}

/// The digest over a table: pairings and grants ordered by id, without lifetimes. Both sides compute it here.
///
/// Every field is written with a fixed length or behind its length, so that no two tables have the same text.
pub fn digest<'a>(
    pairings: impl ExactSizeIterator<Item = &'a Pairing>,
    grants: impl ExactSizeIterator<Item = &'a Grant>,
) -> Digest {
    let mut hash = Blake2s256::new();
    hash.update(b"umbra table 1");
    count(&mut hash, pairings.len());
    for p in pairings {
        hash.update(p.id.as_bytes());
        hash.update(p.device.as_bytes());
        hash.update(p.client_key.0);
        hash.update(p.psk.expose());
        hash.update(p.device_v4.octets());
        hash.update(p.device_v6.octets());
    }
    count(&mut hash, grants.len());
    for g in grants {
        hash.update(g.id.as_bytes());
        hash.update(g.pairing.as_bytes());
        hash.update(g.device.as_bytes());
        hash.update(g.resource.as_bytes());
        hash.update(g.nat_v4.octets());
        hash.update(g.nat_v6.octets());
        hash.update(g.lease.as_millis().to_be_bytes());
        hash.update([u8::from(g.on_gateway)]);
        count(&mut hash, g.rules.len());
        g.rules.iter().for_each(|r| rule(&mut hash, r));
    }
    Digest(hash.finalize().into())
}

fn count(hash: &mut Blake2s256, n: usize) {
    hash.update((n as u64).to_be_bytes());
}

fn rule(hash: &mut Blake2s256, rule: &Rule) {
    prefix(hash, rule.client);
    match &rule.target {
        Target::Prefix(target) => {
            hash.update([0]);
            prefix(hash, *target);
        }
        Target::Name(name) => {
            hash.update([1]);
            count(hash, name.as_str().len());
            hash.update(name.as_str());
        }
    }
    hash.update([match rule.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Icmp => 1,
    }]);
    hash.update(rule.ports.first.to_be_bytes());
    hash.update(rule.ports.last.to_be_bytes());
}

fn prefix(hash: &mut Blake2s256, prefix: Prefix) {
    match prefix.address() {
        IpAddr::V4(a) => {
            hash.update([4]);
            hash.update(a.octets());
        }
        IpAddr::V6(a) => {
            hash.update([6]);
            hash.update(a.octets());
        }
    }
    hash.update([prefix.bits()]);
}
