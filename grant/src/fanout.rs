//! What does each gateway hear, and what has it confirmed? The controller's end of [`crate::sync`].
//!
//! Lives are counted from `as_of`: when the controller *received* the request that the message names. The gateway counts
//! from when it sent it, which is earlier.

use model::grant::{Grant, Pairing};
use model::ids::{DeviceId, GatewayId, GrantId, PairingId, ResourceId};
use model::revision::{Digest, Revision};
use model::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::lease::{self, Moment};
use crate::ledger::Ledger;
use crate::record::{GrantRecord, Live};
use crate::sync::{self, Delta, Snapshot, Update};

/// The answer to a gateway whose table equals the ledger's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// How long each extended grant lives, counted from the request.
    pub lives: Vec<(GrantId, Duration)>,
    /// To be committed before the answer is sent.
    pub records: Vec<GrantRecord>,
}

/// What one gateway has to do with a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub gateway: GatewayId,
    /// It says that the ended grants are gone: published, reset, connection tracking deleted.
    pub confirmed: bool,
    /// When the last of them has ended there by itself, reached or not.
    pub lapses: Instant,
}

/// What a gateway's restart ended.
#[derive(Debug, Clone, Default)]
pub struct Restarted {
    /// The grants, waiting for their clients now; to be committed.
    pub waiting: Vec<GrantRecord>,
    /// Tunnels that are gone; their records and PSKs are to be deleted.
    pub pairings: Vec<PairingId>,
    /// Whom to tell, so that they connect again.
    pub clients: BTreeMap<DeviceId, Vec<(GrantId, ResourceId)>>,
}

impl Ledger {
    /// Does the gateway know a later state than this controller? Then this is an old replica or an old backup, and must
    /// not serve.
    pub fn is_behind(&self, seen: Revision) -> bool {
        seen > self.head
    }

    fn present(&self, gateway: GatewayId, now: Instant) -> impl Iterator<Item = &Live> {
        self.by_gateway
            .of(&gateway)
            .filter_map(|id| self.grants.get(&id))
            .filter(move |l| !l.waiting && l.ends > now && self.pairings.contains_key(&l.grant.pairing))
    }

    fn tunnels<'a>(&self, grants: impl Iterator<Item = &'a Live>) -> Vec<Pairing> {
        let ids: BTreeSet<PairingId> = grants.map(|l| l.grant.pairing).collect();
        ids.iter().filter_map(|id| self.pairings.get(id)).map(|(_, p)| p.clone()).collect()
    }

    /// All that the gateway may hold. None for a gateway that is not known.
    pub fn snapshot(&mut self, gateway: GatewayId, now: Instant, as_of: Instant) -> Option<Snapshot> {
        let revision = self.head;
        self.gateways.get_mut(&gateway)?.issue(revision);
        let grants: Vec<Grant> = self.present(gateway, now).map(|l| l.to_wire(as_of)).collect();
        let pairings = self.tunnels(self.present(gateway, now));
        Some(Snapshot { revision, pairings, grants })
    }

    /// What changed for the gateway after `from`. None when only a snapshot helps.
    pub fn delta(&mut self, gateway: GatewayId, from: Revision, now: Instant, as_of: Instant) -> Option<Delta> {
        let to = self.head;
        if from > to || from.incarnation != to.incarnation {
            return None;
        }
        let book = self.gateways.get_mut(&gateway)?;
        let changed = book.changes(from)?;
        book.issue(to);
        let (mut present, mut ended) = (Vec::new(), Vec::new());
        for id in changed {
            match self.grants.get(&id) {
                Some(l) if !l.waiting && l.ends > now && self.pairings.contains_key(&l.grant.pairing) => {
                    present.push(l);
                }
                _ => ended.push(id),
            }
        }
        let pairings = self.tunnels(present.iter().copied());
        let grants = present.into_iter().map(|l| l.to_wire(as_of)).collect();
        Some(Delta { from, to, pairings, grants, ended })
    }

    /// What to send to a gateway that was last sent `sent` (none after it connected). None when there is nothing new, or
    /// the gateway is not known.
    pub fn update(
        &mut self,
        gateway: GatewayId,
        sent: Option<Revision>,
        now: Instant,
        as_of: Instant,
    ) -> Option<Update> {
        if let Some(from) = sent {
            let book = self.gateways.get(&gateway)?;
            if book.changes(from).is_some_and(|c| c.is_empty()) && from.incarnation == self.head.incarnation {
                return None;
            }
            if let Some(delta) = self.delta(gateway, from, now, as_of) {
                return Some(Update::Delta(delta));
            }
        }
        self.snapshot(gateway, now, as_of).map(Update::Snapshot)
    }

    /// The digest over what the gateway should hold now. None for a gateway that is not known.
    pub fn digest(&mut self, gateway: GatewayId, now: Instant) -> Option<Digest> {
        if let Some((digest, good_until)) = self.gateways.get(&gateway)?.digest
            && now < good_until
        {
            return Some(digest);
        }
        let present: Vec<&Live> = self.present(gateway, now).collect();
        let good_until = present.iter().map(|l| l.ends).min().unwrap_or(Instant::NEVER);
        let ids: BTreeSet<PairingId> = present.iter().map(|l| l.grant.pairing).collect();
        let tunnels: Vec<&Pairing> = ids.iter().filter_map(|id| self.pairings.get(id)).map(|(_, p)| p).collect();
        let digest = sync::digest(tunnels.into_iter(), present.iter().map(|l| &l.grant));
        if let Some(book) = self.gateways.get_mut(&gateway) {
            book.digest = Some((digest, good_until));
        }
        Some(digest)
    }

    /// Answers "my table is this; may it live on?", received `at`. None when the tables differ: send a snapshot.
    ///
    /// Grants with half of their lease left or less are extended, as far as `permitted` says how long what they stand on still holds
    /// (none: not extended; the caller ends what is denied).
    pub fn renew(
        &mut self,
        at: Moment,
        gateway: GatewayId,
        revision: Revision,
        digest: Digest,
        permitted: &mut dyn FnMut(&Live) -> Option<Instant>,
    ) -> Option<Renewal> {
        if self.digest(gateway, at.now)? != digest || !self.gateways.get(&gateway)?.is_current(revision, self.head) {
            return None;
        }
        let extended: Vec<(GrantId, Instant, Instant)> = self
            .present(gateway, at.now)
            .filter(|l| lease::is_renewable(at.now, l.ends, l.grant.lease))
            .filter_map(|l| permitted(l).map(|until| (l, until)))
            .map(|(l, until)| (l.grant.id, until, lease::end(at.now, l.grant.lease, until)))
            .filter(|(id, _, ends)| self.grants.get(id).is_some_and(|l| l.ends != *ends))
            .collect();
        let mut renewal = Renewal { lives: Vec::new(), records: Vec::new() };
        for (id, until, ends) in extended {
            if let Some(live) = self.grants.get_mut(&id) {
                live.until = until;
                live.ends = ends;
                renewal.lives.push((id, ends.since(at.now)));
                renewal.records.push(live.record(at));
            }
        }
        if let Some(book) = self.gateways.get_mut(&gateway) {
            book.digest = None;
        }
        Some(renewal)
    }

    /// The gateway says that everything up to `revision` acts. States that were never sent to it are ignored.
    pub fn ack(&mut self, gateway: GatewayId, revision: Revision) {
        if let Some(book) = self.gateways.get_mut(&gateway) {
            book.ack(revision);
        }
    }

    /// Has the gateway confirmed this state?
    pub fn is_confirmed(&self, gateway: GatewayId, revision: Revision) -> bool {
        self.gateways.get(&gateway).is_some_and(|b| b.acked >= revision)
    }

    /// The gateways that a revocation concerns: who confirmed, and when the rest ends by itself.
    pub fn standing(&self, revision: Revision) -> Vec<Standing> {
        let first = (revision, GrantId::from_bytes([0; model::ids::ID_LEN]));
        let last = (revision, GrantId::from_bytes([0xff; model::ids::ID_LEN]));
        let mut lapses: BTreeMap<GatewayId, Instant> = BTreeMap::new();
        for (_, id) in self.graves_by_revision.range(first..=last) {
            if let Some(grave) = self.graves.get(id) {
                let entry = lapses.entry(grave.tombstone.gateway).or_insert(Instant(0));
                *entry = (*entry).max(grave.lapses);
            }
        }
        lapses
            .into_iter()
            .map(|(gateway, lapses)| Standing { gateway, confirmed: self.is_confirmed(gateway, revision), lapses })
            .collect()
    }

    /// The gateways that have not confirmed a revocation and may still honour what it ended, and until when.
    pub fn pending(&self, revision: Revision, now: Instant) -> Vec<(GatewayId, Instant)> {
        self.standing(revision)
            .into_iter()
            .filter(|s| !s.confirmed && s.lapses > now)
            .map(|s| (s.gateway, s.lapses))
            .collect()
    }

    /// The gateway started anew: its tunnels are gone, and none of them may be made again (a recorded handshake would be
    /// answered). Its grants keep their addresses and wait, for the rest of their lives, until the clients connect again.
    pub fn restart_gateway(&mut self, at: Moment, gateway: GatewayId) -> Restarted {
        let mut out = Restarted::default();
        let ids: Vec<GrantId> = self.by_gateway.of(&gateway).collect();
        for id in ids {
            let Some(live) = self.grants.get_mut(&id) else { continue };
            if std::mem::replace(&mut live.waiting, true) {
                continue;
            }
            self.by_pairing.remove(&live.grant.pairing, id);
            out.waiting.push(live.record(at));
            out.clients.entry(live.grant.device).or_default().push((id, live.grant.resource));
        }
        out.pairings = self.pairings.iter().filter(|(_, (g, _))| *g == gateway).map(|(id, _)| *id).collect();
        for pairing in out.pairings.clone() {
            self.drop_pairing(pairing);
        }
        if let Some(book) = self.gateways.get_mut(&gateway) {
            book.restart();
        }
        out
    }

    /// Lets tombstones go that have outlived every lease. Their records are to be deleted.
    pub fn bury(&mut self, now: Instant) -> Vec<GrantId> {
        let mut buried = Vec::new();
        while let Some((end, id)) = self.graves_by_end.first().copied()
            && end <= now
        {
            self.graves_by_end.remove(&(end, id));
            if let Some(grave) = self.graves.remove(&id) {
                let t = grave.tombstone;
                self.graves_by_device.remove(&t.device, id);
                self.graves_by_revision.remove(&(t.revision, id));
                if let Some(book) = self.gateways.get_mut(&t.gateway) {
                    book.wake_number(t.revision, id);
                }
            }
            buried.push(id);
        }
        buried
    }
}
