//! What may pass through this gateway now? The gateway's table of grants: what the controller said, checked, with an end.
//!
//! A grant leaves it when a snapshot does not name it, when a delta ends it, or when its time is over
//! ([`Table::handle_timeout`]): with or without traffic, with or without the controller.

use model::grant::{Grant, Pairing};
use model::ids::{GrantId, PairingId};
use model::key::PublicKey;
use model::limits::{GONE_PAIRINGS_MAX, GRANTS_PER_GATEWAY_MAX};
use model::revision::{Digest, Revision};
use model::time::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use crate::lease;
use crate::sync::{self, Fit, Update};
use crate::verified::{GrantError, Scope, VerifiedGrant};
use crate::view::{PairingView, View};

/// A grant in the table.
#[derive(Debug, Clone)]
struct Held {
    grant: Arc<VerifiedGrant>,
    /// From which request its life is counted.
    base: Instant,
    ends: Instant,
    /// When to ask for renewal; none once the controller has answered that this is its last life.
    due: Option<Instant>,
}

/// A grant that left the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub grant: GrantId,
    /// In which tunnel it was.
    pub pairing: PairingId,
    /// Its NAT addresses.
    pub nat: (Ipv4Addr, Ipv6Addr),
}

/// What an update did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The table stands at the update's state now. False: it was refused as old, or a snapshot is needed.
    pub applied: bool,
    /// The view changed: hand [`Table::view`] to the engine, and acknowledge only when that has returned.
    pub changed: bool,
    /// The update leads from another state: send a `Renew`, which will be answered by a snapshot.
    pub need_snapshot: bool,
    /// Some grants are counted from a request too long ago to be alive: send a `Renew` at once, and acknowledge after
    /// the snapshot that answers it.
    pub renew_now: bool,
    /// Grants that did not pass this gateway's own checks; they are named in the acknowledgement.
    pub refused: Vec<(GrantId, GrantError)>,
    /// Grants that left the table.
    pub ended: Vec<Ended>,
}

/// The gateway's grants.
#[derive(Debug)]
pub struct Table {
    scope: Arc<Scope>,
    /// The highest state ever seen.
    seen: Revision,
    /// The state that the table shows; none until the first snapshot.
    at: Option<Revision>,
    held: BTreeMap<GrantId, Held>,
    pairings: BTreeMap<PairingId, Arc<Pairing>>,
    members: BTreeMap<PairingId, BTreeSet<GrantId>>,
    keys: BTreeMap<PublicKey, PairingId>,
    nat: BTreeMap<IpAddr, GrantId>,
    ends: BTreeSet<(Instant, GrantId)>,
    due: BTreeSet<(Instant, GrantId)>,
    gone: BTreeSet<PairingId>,
    gone_order: VecDeque<PairingId>,
    digest: Option<Digest>,
    view: Option<Arc<View>>,
}

impl Table {
    /// An empty table, which admits nothing. `floor` is the highest state that this gateway ever saw.
    pub fn new(scope: Scope, floor: Revision) -> Self {
        Self {
            scope: Arc::new(scope),
            seen: floor,
            at: None,
            held: BTreeMap::new(),
            pairings: BTreeMap::new(),
            members: BTreeMap::new(),
            keys: BTreeMap::new(),
            nat: BTreeMap::new(),
            ends: BTreeSet::new(),
            due: BTreeSet::new(),
            gone: BTreeSet::new(),
            gone_order: VecDeque::new(),
            digest: None,
            view: None,
        }
    }

    /// The highest state ever seen: to be persisted before it is acknowledged.
    pub const fn seen(&self) -> Revision {
        self.seen
    }

    /// The state that the table shows, for `Renew`; zero until the first snapshot.
    pub fn revision(&self) -> Revision {
        self.at.unwrap_or_default()
    }

    /// What this gateway is.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// How many grants are held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Is none held?
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// When does a grant end? None when it is not held.
    pub fn ends(&self, grant: GrantId) -> Option<Instant> {
        self.held.get(&grant).map(|h| h.ends)
    }

    /// The gateway's addresses or its site's prefixes changed: what does not pass the checks any more ends.
    pub fn set_scope(&mut self, now: Instant, scope: Scope) -> Applied {
        let mut out = Applied { applied: true, ..Applied::default() };
        if *self.scope == scope {
            return out;
        }
        self.scope = Arc::new(scope);
        self.view = None;
        out.changed = true;
        for id in self.held.keys().copied().collect::<Vec<_>>() {
            let Some(held) = self.held.get(&id) else { continue };
            let checked = VerifiedGrant::verify(held.grant.grant().clone(), &self.scope);
            if let Err(why) = checked {
                out.refused.push((id, why));
                out.ended.extend(self.remove(id));
            }
        }
        self.expire(now, &mut out.ended);
        out
    }

    /// Takes an update from the controller. `base` is when this gateway sent the request that the update names
    /// (`as_of`): every life is counted from there.
    pub fn apply(&mut self, now: Instant, base: Instant, update: Update) -> Applied {
        let mut out = Applied::default();
        self.expire(now, &mut out.ended);
        match (sync::fit(&update, self.at, self.seen), update) {
            (Fit::Old, _) => {}
            (Fit::Gap, Update::Delta(delta)) => {
                // What ended never comes alive again: it goes at once, whatever was missed in between.
                self.remove_all(delta.ended, &mut out);
                out.need_snapshot = true;
            }
            (Fit::Gap, Update::Snapshot(_)) => out.need_snapshot = true,
            (Fit::Fits, Update::Snapshot(snapshot)) => {
                let named: BTreeSet<GrantId> = snapshot.grants.iter().map(|g| g.id).collect();
                let missing: Vec<GrantId> = self.held.keys().copied().filter(|id| !named.contains(id)).collect();
                self.remove_all(missing, &mut out);
                self.advance(snapshot.revision, &mut out);
                self.take_all(now, base, snapshot.pairings, snapshot.grants, &mut out);
            }
            (Fit::Fits, Update::Delta(delta)) => {
                self.remove_all(delta.ended, &mut out);
                self.advance(delta.to, &mut out);
                self.take_all(now, base, delta.pairings, delta.grants, &mut out);
            }
        }
        out.changed |= !out.ended.is_empty();
        out
    }

    fn advance(&mut self, to: Revision, out: &mut Applied) {
        self.seen = self.seen.max(to);
        self.at = Some(to);
        out.applied = true;
    }

    fn remove_all(&mut self, grants: Vec<GrantId>, out: &mut Applied) {
        for id in grants {
            out.ended.extend(self.remove(id));
        }
    }

    fn take_all(&mut self, now: Instant, base: Instant, pairings: Vec<Pairing>, grants: Vec<Grant>, out: &mut Applied) {
        let offered: BTreeMap<PairingId, Pairing> = pairings.into_iter().map(|p| (p.id, p)).collect();
        for grant in grants {
            let id = grant.id;
            match self.take(now, base.min(now), grant, &offered, out) {
                Ok(()) => {}
                // Nothing is wrong with it but the age of the request: no refusal, or the controller would end it.
                Err(GrantError::Stale) => {
                    out.renew_now = true;
                    out.ended.extend(self.remove(id));
                }
                Err(why) => {
                    out.refused.push((id, why));
                    out.ended.extend(self.remove(id));
                }
            }
        }
    }

    fn take(
        &mut self,
        now: Instant,
        base: Instant,
        grant: Grant,
        offered: &BTreeMap<PairingId, Pairing>,
        out: &mut Applied,
    ) -> Result<(), GrantError> {
        let (id, lease, ends_in) = (grant.id, grant.lease, grant.ends_in);
        let verified = VerifiedGrant::verify(grant, &self.scope)?;
        let mut ends = lease::end_on_gateway(base, ends_in, lease);
        let mut base = base;
        if let Some(old) = self.held.get(&id)
            && old.base > base
        {
            // An older word about its life, overtaken by a renewal.
            (base, ends) = (old.base, old.ends.min(lease::end_on_gateway(old.base, lease, lease)));
        }
        // A life that is cut because the request is older than the grant, and due at its arrival, would end before a
        // renewal could come; its tunnel with it, which is never made again.
        let is_cut = ends_in > lease && !self.held.contains_key(&id);
        if ends <= now || (is_cut && lease::due(base, ends) <= now) {
            return Err(GrantError::Stale);
        }
        self.check_place(verified.grant(), offered)?;
        let same = self.held.get(&id).filter(|h| is_same(h.grant.grant(), verified.grant())).map(|h| h.grant.clone());
        let is_same = same.is_some();
        let held = Held { grant: same.unwrap_or_else(|| Arc::new(verified)), base, ends, due: None };
        if !is_same {
            // A changed grant counts as ended and made anew only where its addresses or its tunnel changed.
            if let Some(old) = self.held.get(&id)
                && !shares_place(old.grant.grant(), held.grant.grant())
            {
                out.ended.extend(self.remove(id));
            }
            out.changed = true;
            self.digest = None;
            self.view = None;
        }
        self.insert(held, offered);
        Ok(())
    }

    /// Tunnel, data key and NAT addresses: each belongs to one only.
    fn check_place(&self, grant: &Grant, offered: &BTreeMap<PairingId, Pairing>) -> Result<(), GrantError> {
        let pairing = offered
            .get(&grant.pairing)
            .or_else(|| self.pairings.get(&grant.pairing).map(Arc::as_ref))
            .ok_or(GrantError::Pairing)?;
        if pairing.device != grant.device {
            return Err(GrantError::Device);
        }
        if !self.scope.pool.is_device_v4(pairing.device_v4)
            || !self.scope.pool.node_net().contains(IpAddr::V6(pairing.device_v6))
        {
            return Err(GrantError::DeviceAddress);
        }
        if self.gone.contains(&pairing.id) || self.pairings.get(&pairing.id).is_some_and(|p| **p != *pairing) {
            return Err(GrantError::PairingGone);
        }
        if self.keys.get(&pairing.client_key).is_some_and(|owner| *owner != pairing.id) {
            return Err(GrantError::Key);
        }
        let is_taken = |address: IpAddr| self.nat.get(&address).is_some_and(|owner| *owner != grant.id);
        if is_taken(IpAddr::V4(grant.nat_v4)) || is_taken(IpAddr::V6(grant.nat_v6)) {
            return Err(GrantError::NatTaken);
        }
        if self.held.len() >= GRANTS_PER_GATEWAY_MAX && !self.held.contains_key(&grant.id) {
            return Err(GrantError::Full);
        }
        Ok(())
    }

    fn insert(&mut self, mut held: Held, offered: &BTreeMap<PairingId, Pairing>) {
        let grant = held.grant.clone();
        let grant = grant.grant();
        let id = grant.id;
        if let Some(old) = self.held.get(&id) {
            self.ends.remove(&(old.ends, id));
            if let Some(due) = old.due {
                self.due.remove(&(due, id));
            }
        }
        let due = lease::due(held.base, held.ends);
        held.due = Some(due);
        self.due.insert((due, id));
        self.ends.insert((held.ends, id));
        self.nat.insert(IpAddr::V4(grant.nat_v4), id);
        self.nat.insert(IpAddr::V6(grant.nat_v6), id);
        if let Some(pairing) = offered.get(&grant.pairing)
            && !self.pairings.contains_key(&grant.pairing)
        {
            self.keys.insert(pairing.client_key, pairing.id);
            self.pairings.insert(pairing.id, Arc::new(pairing.clone()));
        }
        self.members.entry(grant.pairing).or_default().insert(id);
        self.held.insert(id, held);
    }

    fn remove(&mut self, id: GrantId) -> Option<Ended> {
        let held = self.held.remove(&id)?;
        let grant = held.grant.grant();
        self.ends.remove(&(held.ends, id));
        if let Some(due) = held.due {
            self.due.remove(&(due, id));
        }
        self.nat.remove(&IpAddr::V4(grant.nat_v4));
        self.nat.remove(&IpAddr::V6(grant.nat_v6));
        let is_last = self.members.get_mut(&grant.pairing).is_none_or(|m| {
            m.remove(&id);
            m.is_empty()
        });
        if is_last {
            self.members.remove(&grant.pairing);
            self.drop_pairing(grant.pairing);
        }
        self.digest = None;
        self.view = None;
        Some(Ended { grant: id, pairing: grant.pairing, nat: (grant.nat_v4, grant.nat_v6) })
    }

    /// A tunnel without grants goes, and never comes back: a re-made one would answer a recorded handshake.
    fn drop_pairing(&mut self, id: PairingId) {
        if let Some(pairing) = self.pairings.remove(&id) {
            self.keys.remove(&pairing.client_key);
            self.gone.insert(id);
            self.gone_order.push_back(id);
            if self.gone_order.len() > GONE_PAIRINGS_MAX
                && let Some(oldest) = self.gone_order.pop_front()
            {
                self.gone.remove(&oldest);
            }
        }
    }

    /// Ends every grant whose time is over. **This is where a grant ends on a gateway** when nobody says so.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Ended> {
        let mut ended = Vec::new();
        self.expire(now, &mut ended);
        ended
    }

    fn expire(&mut self, now: Instant, ended: &mut Vec<Ended>) {
        while let Some((ends, id)) = self.ends.first().copied()
            && ends <= now
        {
            self.ends.remove(&(ends, id));
            ended.extend(self.remove(id));
        }
    }

    /// When the next grant ends.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.ends.first().map(|(ends, _)| *ends)
    }

    /// When to ask for renewal: at two thirds of the shortest life. The caller asks each few seconds in any case.
    pub fn renewal_at(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Is it time to ask for renewal?
    pub fn renewal_due(&self, now: Instant) -> bool {
        self.renewal_at().is_some_and(|due| due <= now)
    }

    /// The controller's answer to the request sent at `sent_at`: new lives for grants that are held. Lives get longer or
    /// shorter, as the controller says, and never longer than the lease; what has ended stays ended.
    ///
    /// Grants that were due and got no new life are not asked for again: this one is their last.
    pub fn renewed(&mut self, now: Instant, sent_at: Instant, lives: &[(GrantId, Duration)]) -> Vec<Ended> {
        let mut ended = Vec::new();
        self.expire(now, &mut ended);
        if sent_at > now {
            return ended;
        }
        for (id, life) in lives {
            let Some(held) = self.held.get(id).filter(|h| h.base <= sent_at) else { continue };
            let ends = lease::end_on_gateway(sent_at, *life, held.grant.grant().lease);
            let held = Held { grant: held.grant.clone(), base: sent_at, ends, due: None };
            self.insert(held, &BTreeMap::new());
        }
        while let Some((due, id)) = self.due.first().copied()
            && due <= sent_at
        {
            self.due.remove(&(due, id));
            if let Some(held) = self.held.get_mut(&id) {
                held.due = None;
            }
        }
        self.expire(now, &mut ended);
        ended
    }

    /// What the engine admits. The same `Arc` until something changes.
    pub fn view(&mut self) -> Arc<View> {
        if let Some(view) = &self.view {
            return view.clone();
        }
        let mut pairings = BTreeMap::new();
        for (id, members) in &self.members {
            let Some(pairing) = self.pairings.get(id) else { continue };
            let grants: Vec<_> = members.iter().filter_map(|g| self.held.get(g)).map(|h| h.grant.clone()).collect();
            if !grants.is_empty() {
                pairings.insert(*id, PairingView { pairing: pairing.clone(), grants });
            }
        }
        let view = Arc::new(View { scope: self.scope.clone(), pairings });
        self.view = Some(view.clone());
        view
    }

    /// The digest over what is held, for `Renew`.
    pub fn digest(&mut self) -> Digest {
        if let Some(digest) = self.digest {
            return digest;
        }
        let pairings: Vec<&Pairing> = self.pairings.values().map(Arc::as_ref).collect();
        let grants: Vec<&Grant> = self.held.values().map(|h| h.grant.grant()).collect();
        let digest = sync::digest(pairings.into_iter(), grants.into_iter());
        self.digest = Some(digest);
        digest
    }
}

/// Equal in all but the life, which the first message gave and renewals overtook?
fn is_same(a: &Grant, b: &Grant) -> bool {
    Grant { ends_in: Duration::ZERO, ..a.clone() } == Grant { ends_in: Duration::ZERO, ..b.clone() }
}

/// Are addresses and tunnel the same?
fn shares_place(a: &Grant, b: &Grant) -> bool {
    a.pairing == b.pairing && a.nat_v4 == b.nat_v4 && a.nat_v6 == b.nat_v6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Snapshot;
    use crate::testkit::*;

    #[test]
    fn as_many_dropped_tunnels_are_remembered_as_the_limit_says() {
        let mut ledger = ledger();
        give(&mut ledger, at(10), permit(1, 1, 1, 1));
        let mut told = ledger.snapshot(gateway(1), at(10).now, at(10).now).unwrap();
        let (pairing, grant) = (told.pairings.remove(0), told.grants.remove(0));
        let mut table = Table::new(scope(), Revision::default());
        let tell = |table: &mut Table, number: u64, there: bool| {
            let all = Snapshot { revision: rev(number), pairings: vec![pairing.clone()], grants: vec![grant.clone()] };
            let none = Snapshot { revision: rev(number), pairings: Vec::new(), grants: Vec::new() };
            let now = at(10).now;
            table.apply(now, now, Update::Snapshot(if there { all } else { none }))
        };
        let drop_one = |table: &mut Table, n: u64| {
            let id = pairing_id(1_000 + n);
            table.pairings.insert(id, Arc::new(Pairing { id, ..pairing.clone() }));
            table.drop_pairing(id);
        };
        tell(&mut table, 5, true);
        tell(&mut table, 6, false);
        (1..GONE_PAIRINGS_MAX as u64).for_each(|n| drop_one(&mut table, n));
        let again = tell(&mut table, 7, true);
        assert_eq!(again.refused[0].1, GrantError::PairingGone, "at the limit the oldest is still known");
        drop_one(&mut table, 0);
        assert_eq!(tell(&mut table, 8, true).refused, [], "one beyond, it is forgotten");
        assert_eq!((table.gone.len(), table.gone_order.len()), (GONE_PAIRINGS_MAX, GONE_PAIRINGS_MAX));
    }
}
