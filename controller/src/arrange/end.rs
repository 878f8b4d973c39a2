//! How does a grant end, from the controller's side? Ledger, store, gateways, clients, in this order.

use super::state::{Arrangements, StoredGrant, StoredPairing, StoredTombstone, key};
use crate::audit::{Entry, Outcome};
use crate::store::{Commit, CommitError};
use grant::ledger::Ledger;
use grant::record::Cause;
use grant::revoke::{Revocation, Selector, revoke};
use model::ids::{GatewayId, GrantId, PairingId, SessionId};
use model::limits::{COMMIT_KEYS_MAX, REVOKE_WAIT_MAX, UNWRITTEN_ENDS_MAX};
use model::revision::Revision;
use std::collections::{BTreeMap, VecDeque};
use std::sync::PoisonError;
use std::time::Duration;

use super::lines::DeviceNews;
use super::{Arranger, Confirmation, Fut, Held};

/// Grants that one transaction ends: each needs two keys and perhaps a tunnel's.
const ENDS_PER_COMMIT: usize = COMMIT_KEYS_MAX / 4;

/// Transactions that wait for a disk that takes them. Who writes them holds the ledger's lock.
#[derive(Debug, Default)]
pub(super) struct Unwritten(VecDeque<Commit>);

impl Unwritten {
    /// Adds one; where too many wait, the oldest goes: a restart decides those grants again.
    fn push(&mut self, commit: Commit) {
        if self.0.len() >= UNWRITTEN_ENDS_MAX {
            self.0.pop_front();
            tracing::error!(
                "too many ends of grants wait to be written down; the oldest is left out of the audit trail"
            );
        }
        self.0.push_back(commit);
    }
}

impl Arrangements {
    /// Ends grants by cause; answers the states in which they are gone. `by` is who or what did it, for the audit trail.
    pub async fn end(&self, causes: BTreeMap<Cause, Vec<GrantId>>, by: &str) -> Vec<Revision> {
        let mut revisions = Vec::new();
        if causes.values().all(Vec::is_empty) {
            return revisions;
        }
        let mut ledger = self.ledger.lock().await;
        for (cause, grants) in causes {
            for chunk in grants.chunks(ENDS_PER_COMMIT) {
                let which = Selector::Any(chunk.iter().copied().map(Selector::Grant).collect());
                revisions.extend(self.end_locked(&mut ledger, &which, cause, by).await);
            }
        }
        revisions
    }

    /// Ends what a selector means, with the ledger's lock held.
    pub(super) async fn end_locked(
        &self,
        ledger: &mut Ledger,
        which: &Selector,
        cause: Cause,
        by: &str,
    ) -> Option<Revision> {
        if ledger.select(which).is_empty() {
            return None;
        }
        let revision = self.next_revision(ledger);
        let revocation = revoke(ledger, self.moment(), which, cause, revision);
        let commit = match self.end_commit(&revocation, cause, by) {
            Ok(commit) => commit,
            Err(error) => {
                tracing::error!(%error, "the end of grants could not be written down");
                Commit::default()
            }
        };
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).push(commit);
        if let Err(error) = self.write_ends(ledger).await {
            // The disk is full or fails; access still ends, and is written down when the disk takes it.
            tracing::error!(%error, "the end of grants is not durable; it is enforced all the same");
        }
        for gateway in &revocation.gateways {
            self.push(ledger, *gateway);
        }
        for (device, grants) in &revocation.clients {
            for (grant, resource) in grants {
                let news = DeviceNews::Ended { grant: *grant, resource: *resource, ending: cause.into() };
                self.lines.tell_device(*device, news);
            }
        }
        Some(revocation.revision)
    }

    /// Writes down the ends that act already, in their order. Afterwards the store is as far as the ledger: until then no
    /// grant may be made, or its state would be one that a gateway knows already.
    pub(super) async fn write_ends(&self, ledger: &Ledger) -> Result<(), CommitError> {
        let unwritten = || self.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let waiting = unwritten().0.front().cloned();
            let next = match &waiting {
                Some(commit) => commit.clone(),
                None if self.store.revision() < ledger.head() => Commit::default(),
                None => return Ok(()),
            };
            match self.store.commit(next).await {
                Ok(_) => {}
                Err(error @ CommitError::Invalid(_)) => tracing::error!(%error, "an end could not be written down"),
                Err(error) => return Err(error),
            }
            if waiting.is_some() {
                unwritten().0.pop_front();
            }
        }
    }

    fn end_commit(&self, revocation: &Revocation, cause: Cause, by: &str) -> Result<Commit, CommitError> {
        let mut commit = Commit::default();
        for live in &revocation.ended {
            commit = commit.delete(key::<StoredGrant>(&live.grant.id)?);
            let entry = Entry::new(self.clock.wall(), by, "grant.end", live.grant.id.to_string(), Outcome::Done)
                .with("cause", cause.to_string())
                .with("device", live.grant.device.to_string())
                .with("user", live.user.to_string())
                .with("resource", live.grant.resource.to_string())
                .with("gateway", live.gateway.to_string());
            commit = commit.audit(entry);
        }
        for tombstone in &revocation.tombstones {
            commit = commit.put_record(&tombstone.grant, &StoredTombstone(tombstone.clone()))?;
        }
        self.forget_pairings(commit, &revocation.pairings)
    }

    pub(super) fn forget_pairings(&self, mut commit: Commit, pairings: &[PairingId]) -> Result<Commit, CommitError> {
        for pairing in pairings {
            commit = commit.delete(key::<StoredPairing>(pairing)?);
        }
        Ok(commit)
    }

    /// Waits until the change of facts at `revision` was reviewed and the gateways confirmed what it ended, or
    /// [`REVOKE_WAIT_MAX`]. Answers each gateway that it concerned: confirmed or not, and how long the rest may still live. Where
    /// the review did not come so far in time, that is every gateway with live grants.
    pub async fn settle(&self, revision: Revision) -> Vec<(GatewayId, bool, Duration)> {
        let mut reviewed = self.reviewed.subscribe();
        let mut acks = self.acks.subscribe();
        let settled = async {
            let _ = reviewed.wait_for(|r| *r >= revision).await;
            let ended_at = self.ended_since(revision);
            loop {
                let standing = self.standing(&ended_at).await;
                if standing.iter().all(|(_, confirmed, _)| *confirmed) || acks.changed().await.is_err() {
                    return standing;
                }
            }
        };
        match tokio::time::timeout(REVOKE_WAIT_MAX, settled).await {
            Ok(standing) => standing,
            // Nobody has looked yet what the change ends: any gateway may still honour something of it.
            Err(_) if *self.reviewed.borrow() < revision => self.unreviewed().await,
            Err(_) => self.standing(&self.ended_since(revision)).await,
        }
    }

    /// Every gateway that holds live grants, none confirmed, and when the last of them lapses unless renewed.
    async fn unreviewed(&self) -> Vec<(GatewayId, bool, Duration)> {
        let now = self.clock.now();
        let ledger = self.ledger.lock().await;
        let mut all: BTreeMap<GatewayId, Duration> = BTreeMap::new();
        for live in ledger.all().filter(|live| !live.waiting) {
            let left = all.entry(live.gateway).or_default();
            *left = (*left).max(live.ends.since(now));
        }
        all.into_iter().map(|(gateway, left)| (gateway, false, left)).collect()
    }

    fn ended_since(&self, revision: Revision) -> Vec<Revision> {
        let reviews = self.reviews.lock().unwrap_or_else(PoisonError::into_inner);
        // The first review that saw the change ended what it had to.
        reviews.iter().find(|r| r.saw >= revision).map(|r| r.ended_at.clone()).unwrap_or_default()
    }

    async fn standing(&self, ended_at: &[Revision]) -> Vec<(GatewayId, bool, Duration)> {
        let now = self.clock.now();
        let ledger = self.ledger.lock().await;
        let mut all: BTreeMap<GatewayId, (bool, Duration)> = BTreeMap::new();
        for revision in ended_at {
            for standing in ledger.standing(*revision) {
                let entry = all.entry(standing.gateway).or_insert((true, Duration::ZERO));
                entry.0 &= standing.confirmed;
                entry.1 = entry.1.max(standing.lapses.since(now));
            }
        }
        all.into_iter().map(|(gateway, (confirmed, left))| (gateway, confirmed, left)).collect()
    }
}

impl Arranger for Arrangements {
    fn settled(&self, revision: Revision) -> Fut<'_, Vec<Confirmation>> {
        Box::pin(async move {
            let standing = self.settle(revision).await;
            let confirmation = |(gateway, confirmed, ends_in)| Confirmation { gateway, confirmed, ends_in };
            standing.into_iter().map(confirmation).collect()
        })
    }
    fn ending(&self) -> Fut<'_, ()> {
        Box::pin(self.flush_denies())
    }
    fn grants_of(&self, session: SessionId) -> Fut<'_, Vec<Held>> {
        Box::pin(self.grants_of_session(session))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_unwritten_ends_the_oldest_goes() {
        let mut unwritten = Unwritten::default();
        for n in 0..=UNWRITTEN_ENDS_MAX {
            unwritten.push(Commit::default().delete(crate::store::Key::of("grant", n).unwrap()));
        }
        assert_eq!(unwritten.0.len(), UNWRITTEN_ENDS_MAX);
        assert_eq!(unwritten.0.front().unwrap().deletes[0].as_str(), "grant/1");
    }
}
