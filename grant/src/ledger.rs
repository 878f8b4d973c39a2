//! Which permissions live in this organisation? The controller's book of all grants and pairings.
//!
//! **Only this module makes a grant.** The order for the controller, so that nothing is acknowledged before it is durable:
//! [`Ledger::grant`] proposes and reserves, the controller commits the records, then [`Ledger::commit`] publishes (or
//! [`Ledger::abandon`] gives the reservation back). A revoke ends proposals too. Changes are told in the order of their
//! revisions, and all that one transaction ends in one call of [`crate::revoke::revoke`].

use model::grant::{Grant, Pairing};
use model::ids::{DeviceId, GatewayId, GrantId, PairingId, ResourceId, SessionId, SubjectId};
use model::key::{Psk, PublicKey};
use model::limits::{
    DATA_KEYS_MAX, GRANTS_PER_DEVICE_MAX, GRANTS_PER_GATEWAY_MAX, LEASE_MAX, LEASE_MIN, PAIRING_JOIN_MIN,
    RULES_PER_GRANT_MAX, TOMBSTONES_MAX, TOMBSTONES_PER_DEVICE_MAX,
};
use model::net::Rule;
use model::pool::NatPool;
use model::revision::Revision;
use model::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::book::Book;
use crate::index::Index;
use crate::lease::{self, Moment};
use crate::record::{GrantRecord, Live, PairingRecord, Tombstone};

/// A decision that permits, with all that a grant needs. Ids and PSK are random, made by the caller.
#[derive(Debug, Clone)]
pub struct Permit {
    /// For which device.
    pub device: DeviceId,
    /// In which log-in.
    pub session: SessionId,
    /// For whom.
    pub user: SubjectId,
    /// To what.
    pub resource: ResourceId,
    /// Through which gateway.
    pub gateway: GatewayId,
    /// What may go where.
    pub rules: Vec<Rule>,
    /// How long the gateway may honour it unrenewed.
    pub lease: Duration,
    /// May packets end at the gateway's own addresses?
    pub on_gateway: bool,
    /// Beyond which it is never renewed: the end of the session, of an approval, of a time window.
    pub until: Instant,
    /// The client's fresh data key, used if a new pairing is made.
    pub data_key: PublicKey,
    /// The device's IPv4 address.
    pub device_v4: Ipv4Addr,
    /// The device's IPv6 address.
    pub device_v6: Ipv6Addr,
    /// The pairings that the client says it holds.
    pub held: Vec<PairingId>,
    /// A live grant that the client wants in another pairing, because the keys of its own are old.
    pub moves: Option<GrantId>,
    /// The id, if a new grant is made.
    pub fresh_grant: GrantId,
    /// The id, if a new pairing is made.
    pub fresh_pairing: PairingId,
    /// The pre-shared key, if a new pairing is made.
    pub fresh_psk: Psk,
}

/// What [`Ledger::grant`] proposes.
#[derive(Debug, Clone)]
pub struct Granted {
    /// Its id: the fresh one, or that of the live grant that is extended.
    pub grant: GrantId,
    /// Its tunnel.
    pub pairing: PairingId,
    /// The tunnel's key, if the tunnel is new; else the client has it.
    pub new_pairing: Option<Psk>,
    /// When it ends unless renewed.
    pub ends: Instant,
    /// To be committed.
    pub record: GrantRecord,
    /// To be committed (the PSK sealed beside it), if the tunnel is new.
    pub pairing_record: Option<PairingRecord>,
    /// A tunnel that nobody is in any more: its record and PSK are to be deleted in the same transaction.
    pub leaves: Option<PairingId>,
    /// Live grants of the same device, resource and gateway in pairings that the client does not hold any more: end
    /// them ([`crate::Cause::Replaced`]) once the gateway has acknowledged the new one.
    pub replaces: Vec<GrantId>,
}

/// Why no grant was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Not known, or it has not reported its NAT pool yet.
    #[error("gateway {0} is not known to the ledger; it has to connect first")]
    Gateway(GatewayId),
    /// No rules, or too many.
    #[error("a grant needs 1 to {RULES_PER_GRANT_MAX} rules")]
    Rules,
    /// Out of bounds.
    #[error("the lease must lie between 1 s and 24 h")]
    Lease,
    /// What it would stand on is over.
    #[error("what the grant stands on has ended already")]
    Ended,
    /// An id that is or was in use.
    #[error("the id {0} is or was in use; make a fresh one")]
    Id(String),
    /// Two pairings cannot share a data key: it selects the pre-shared key.
    #[error("the data key is in use by another pairing; the client has to make a fresh one")]
    Key,
    /// Too many grants of the device.
    #[error("device {0} has {GRANTS_PER_DEVICE_MAX} grants already; give some back")]
    Device(DeviceId),
    /// Too many ended grants.
    #[error("device {0} has ended too many grants within a day; it has to wait")]
    Tombstones(DeviceId),
    /// Too many pairings of the device.
    #[error("device {0} has {DATA_KEYS_MAX} tunnels already; give some back")]
    Pairings(DeviceId),
    /// Too many grants on the gateway, or its NAT pool is used up.
    #[error("gateway {0} has no room for another grant")]
    Full(GatewayId),
    /// Another request for the same grant is being committed.
    #[error("another request for the same grant is being committed; ask again")]
    Busy,
    /// It was ended between proposal and commit, or was never proposed.
    #[error("grant {0} was ended before it was committed; decide again")]
    Gone(GrantId),
}

/// A proposal between [`Ledger::grant`] and [`Ledger::commit`].
#[derive(Debug, Clone)]
pub(crate) struct Proposal {
    pub(crate) live: Live,
    pairing: Option<Pairing>,
    /// The tunnel that goes with its publication.
    leaves: Option<PairingId>,
    /// The number was reserved for it.
    pub(crate) is_new: bool,
}

/// A tombstone and until when it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grave {
    pub(crate) tombstone: Tombstone,
    pub(crate) lapses: Instant,
    pub(crate) kept_until: Instant,
}

/// All live grants and pairings of an organisation.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    pub(crate) head: Revision,
    pub(crate) grants: BTreeMap<GrantId, Live>,
    pub(crate) proposals: BTreeMap<GrantId, Proposal>,
    pub(crate) pairings: BTreeMap<PairingId, (GatewayId, Pairing)>,
    keys: BTreeMap<PublicKey, PairingId>,
    pub(crate) gateways: BTreeMap<GatewayId, Book>,
    pub(crate) graves: BTreeMap<GrantId, Grave>,
    pub(crate) graves_by_end: BTreeSet<(Instant, GrantId)>,
    pub(crate) graves_by_revision: BTreeSet<(Revision, GrantId)>,
    pub(crate) graves_by_device: Index<DeviceId>,
    pub(crate) by_device: Index<DeviceId>,
    pub(crate) by_session: Index<SessionId>,
    pub(crate) by_user: Index<SubjectId>,
    pub(crate) by_resource: Index<ResourceId>,
    pub(crate) by_gateway: Index<GatewayId>,
    pub(crate) by_pairing: Index<PairingId>,
}

/// What may change about a live grant.
#[derive(Debug, Clone)]
pub struct Terms {
    /// What may go where.
    pub rules: Vec<Rule>,
    /// How long the gateway may honour it unrenewed.
    pub lease: Duration,
    /// May packets end at the gateway's own addresses?
    pub on_gateway: bool,
    /// Beyond which it is never renewed.
    pub until: Instant,
}

fn check_terms(now: Instant, rules: &[Rule], lease: Duration, until: Instant) -> Result<(), LedgerError> {
    if rules.is_empty() || rules.len() > RULES_PER_GRANT_MAX {
        return Err(LedgerError::Rules);
    }
    if lease < LEASE_MIN || lease > LEASE_MAX {
        return Err(LedgerError::Lease);
    }
    if until <= now {
        return Err(LedgerError::Ended);
    }
    Ok(())
}

impl Ledger {
    /// An empty ledger at a state.
    pub fn new(head: Revision) -> Self {
        Self { head, ..Self::default() }
    }

    /// The state that it stands at.
    pub const fn head(&self) -> Revision {
        self.head
    }

    /// Makes a gateway known, or notes its new NAT pool. Answers the grants whose addresses the new pool does not have;
    /// the caller ends them ([`crate::Cause::Gateway`]) before it asks for a snapshot.
    pub fn set_gateway(&mut self, gateway: GatewayId, nat: NatPool) -> Vec<GrantId> {
        match self.gateways.get_mut(&gateway) {
            Some(book) if book.nat == nat => Vec::new(),
            Some(book) => {
                book.nat = nat;
                let has = |l: &Live| nat.pair(l.number) == Some((l.grant.nat_v4, l.grant.nat_v6));
                self.by_gateway
                    .of(&gateway)
                    .filter(|id| {
                        let live = self.grants.get(id).or_else(|| self.proposals.get(id).map(|p| &p.live));
                        !live.is_some_and(has)
                    })
                    .collect()
            }
            None => {
                self.gateways.insert(gateway, Book::new(nat, self.head));
                Vec::new()
            }
        }
    }

    /// A live grant.
    pub fn live(&self, grant: GrantId) -> Option<&Live> {
        self.grants.get(&grant)
    }

    /// All live grants, by id.
    pub fn all(&self) -> impl ExactSizeIterator<Item = &Live> {
        self.grants.values()
    }

    /// A live pairing and its gateway.
    pub fn pairing(&self, pairing: PairingId) -> Option<(GatewayId, &Pairing)> {
        self.pairings.get(&pairing).map(|(gateway, p)| (*gateway, p))
    }

    /// Was the grant ended, and why?
    pub fn tombstone(&self, grant: GrantId) -> Option<&Tombstone> {
        self.graves.get(&grant).map(|g| &g.tombstone)
    }

    /// Grants that no decision has to end: their time is over. The caller ends them ([`crate::Cause::Expired`]).
    pub fn expired(&self, now: Instant) -> Vec<GrantId> {
        self.grants.values().filter(|l| l.ends <= now).map(|l| l.grant.id).collect()
    }

    /// Proposes a grant. Nothing is published until [`Self::commit`].
    ///
    /// A second request for the same device, session, resource and gateway extends the live grant, with the rules of
    /// now; unless the client does not hold its pairing any more: then a new one is made, and both live until the
    /// caller ends the old one. A grant that the client wants in another pairing keeps id and addresses, so that its flows
    /// go on.
    pub fn grant(&mut self, at: Moment, permit: Permit) -> Result<Granted, LedgerError> {
        self.check(at.now, &permit)?;
        let pairing = self.joinable(at.now, &permit);
        let is_same = |l: &&Live| {
            l.ends > at.now
                && l.gateway == permit.gateway
                && l.grant.resource == permit.resource
                && l.session == permit.session
                && l.user == permit.user
        };
        let same: Vec<&Live> =
            self.by_device.of(&permit.device).filter_map(|id| self.grants.get(&id)).filter(is_same).collect();
        let is_meant = |l: &&&Live| l.waiting || permit.moves == Some(l.grant.id);
        let is_there = |l: &&&Live| Some(l.grant.pairing) == pairing;
        let extended = same.iter().find(is_meant).or_else(|| same.iter().find(is_there)).map(|l| (*l).clone());
        let replaces = if extended.is_some() { Vec::new() } else { same.iter().map(|l| l.grant.id).collect() };
        if extended.as_ref().is_some_and(|l| self.proposals.contains_key(&l.grant.id)) {
            return Err(LedgerError::Busy);
        }
        let left = extended.as_ref().filter(|l| !l.waiting).map(|l| l.grant.pairing);
        let leaves = left.filter(|left| pairing != Some(*left) && self.by_pairing.count(left) == 1);
        if pairing.is_none() {
            self.check_key(&permit, leaves)?;
        }
        let is_new = extended.is_none();
        let mut live = match extended {
            Some(live) => live,
            None => self.number(&permit)?,
        };
        live.until = permit.until;
        live.ends = lease::end(at.now, permit.lease, permit.until);
        live.waiting = false;
        live.grant.rules = permit.rules;
        live.grant.lease = permit.lease;
        live.grant.on_gateway = permit.on_gateway;
        live.grant.pairing = pairing.unwrap_or(permit.fresh_pairing);
        let fresh = pairing.is_none().then_some(Pairing {
            id: permit.fresh_pairing,
            device: permit.device,
            client_key: permit.data_key,
            psk: permit.fresh_psk,
            device_v4: permit.device_v4,
            device_v6: permit.device_v6,
        });
        let granted = Granted {
            grant: live.grant.id,
            pairing: live.grant.pairing,
            new_pairing: fresh.as_ref().map(|p| p.psk.clone()),
            ends: live.ends,
            record: live.record(at),
            pairing_record: fresh.as_ref().map(|p| PairingRecord::of(p, permit.gateway)),
            leaves,
            replaces,
        };
        if is_new {
            self.enlist(&live);
        }
        if let Some(pairing) = &fresh {
            self.keys.insert(pairing.client_key, pairing.id);
        }
        self.proposals.insert(live.grant.id, Proposal { live, pairing: fresh, leaves, is_new });
        Ok(granted)
    }

    /// Proposes other terms for a live grant: what it leads to or stands on has changed, and it is still permitted.
    pub fn amend(&mut self, at: Moment, grant: GrantId, terms: Terms) -> Result<GrantRecord, LedgerError> {
        check_terms(at.now, &terms.rules, terms.lease, terms.until)?;
        if self.proposals.contains_key(&grant) {
            return Err(LedgerError::Busy);
        }
        let mut live = self.grants.get(&grant).filter(|l| l.ends > at.now).ok_or(LedgerError::Gone(grant))?.clone();
        live.until = terms.until;
        live.ends = lease::end(at.now, terms.lease, terms.until);
        live.grant.rules = terms.rules;
        live.grant.lease = terms.lease;
        live.grant.on_gateway = terms.on_gateway;
        let record = live.record(at);
        self.proposals.insert(grant, Proposal { live, pairing: None, leaves: None, is_new: false });
        Ok(record)
    }

    /// The proposal is durable at `revision`: publish it. An error means that it was ended meanwhile; its record has to
    /// be deleted again (a tombstone of it wins at a restore in any case).
    pub fn commit(&mut self, grant: GrantId, revision: Revision) -> Result<(), LedgerError> {
        let proposal = self.proposals.remove(&grant).ok_or(LedgerError::Gone(grant))?;
        let has_tunnel = proposal.pairing.is_some()
            || proposal.live.waiting
            || self.pairings.contains_key(&proposal.live.grant.pairing);
        if !has_tunnel {
            self.give_back(&proposal);
            return Err(LedgerError::Gone(grant));
        }
        let Proposal { live, pairing, leaves, .. } = proposal;
        let gateway = live.gateway;
        if let Some(pairing) = pairing {
            self.pairings.insert(pairing.id, (gateway, pairing));
        }
        if let Some(old) = self.grants.remove(&grant) {
            self.delist(&old);
        }
        self.enlist(&live);
        self.grants.insert(grant, live);
        if let Some(left) = leaves {
            self.drop_pairing(left);
        }
        self.note(gateway, revision, grant);
        Ok(())
    }

    /// The proposal did not become durable: its addresses are free again.
    pub fn abandon(&mut self, grant: GrantId) {
        if let Some(proposal) = self.proposals.remove(&grant) {
            self.give_back(&proposal);
        }
    }

    fn give_back(&mut self, proposal: &Proposal) {
        self.release_key(proposal);
        if proposal.is_new {
            self.delist(&proposal.live);
            if let Some(book) = self.gateways.get_mut(&proposal.live.gateway) {
                // No gateway ever heard of it.
                book.free_number(proposal.live.number);
            }
        }
    }

    pub(crate) fn release_key(&mut self, proposal: &Proposal) {
        if let Some(pairing) = &proposal.pairing {
            self.keys.remove(&pairing.client_key);
        }
    }

    pub(crate) fn drop_pairing(&mut self, pairing: PairingId) {
        if let Some((_, pairing)) = self.pairings.remove(&pairing) {
            self.keys.remove(&pairing.client_key);
        }
    }

    /// False when the id or the key is taken.
    pub(crate) fn adopt_pairing(&mut self, gateway: GatewayId, pairing: Pairing) -> bool {
        if self.pairings.contains_key(&pairing.id) || self.keys.contains_key(&pairing.client_key) {
            return false;
        }
        self.keys.insert(pairing.client_key, pairing.id);
        self.pairings.insert(pairing.id, (gateway, pairing));
        true
    }

    /// Which pairing has this data key?
    pub(crate) fn key_owner(&self, key: &PublicKey) -> Option<PairingId> {
        self.keys.get(key).copied()
    }

    pub(crate) fn note(&mut self, gateway: GatewayId, revision: Revision, grant: GrantId) {
        self.head = self.head.max(revision);
        if let Some(book) = self.gateways.get_mut(&gateway) {
            book.note(self.head, grant);
        }
    }

    pub(crate) fn enlist(&mut self, live: &Live) {
        let id = live.grant.id;
        self.by_device.insert(live.grant.device, id);
        self.by_session.insert(live.session, id);
        self.by_user.insert(live.user, id);
        self.by_resource.insert(live.grant.resource, id);
        self.by_gateway.insert(live.gateway, id);
        if !live.waiting {
            self.by_pairing.insert(live.grant.pairing, id);
        }
    }

    pub(crate) fn delist(&mut self, live: &Live) {
        let id = live.grant.id;
        self.by_device.remove(&live.grant.device, id);
        self.by_session.remove(&live.session, id);
        self.by_user.remove(&live.user, id);
        self.by_resource.remove(&live.grant.resource, id);
        self.by_gateway.remove(&live.gateway, id);
        self.by_pairing.remove(&live.grant.pairing, id);
    }

    fn check_key(&self, permit: &Permit, leaves: Option<PairingId>) -> Result<(), LedgerError> {
        if self.keys.contains_key(&permit.data_key) {
            return Err(LedgerError::Key);
        }
        let tunnels: BTreeSet<PairingId> = self
            .by_device
            .of(&permit.device)
            .filter_map(|id| self.grants.get(&id).or_else(|| self.proposals.get(&id).map(|p| &p.live)))
            .filter(|l| !l.waiting)
            .map(|l| l.grant.pairing)
            .filter(|pairing| leaves != Some(*pairing))
            .collect();
        if tunnels.len() >= DATA_KEYS_MAX { Err(LedgerError::Pairings(permit.device)) } else { Ok(()) }
    }

    fn check(&self, now: Instant, permit: &Permit) -> Result<(), LedgerError> {
        check_terms(now, &permit.rules, permit.lease, permit.until)?;
        if !self.gateways.contains_key(&permit.gateway) {
            return Err(LedgerError::Gateway(permit.gateway));
        }
        let id = permit.fresh_grant;
        if self.grants.contains_key(&id) || self.proposals.contains_key(&id) || self.graves.contains_key(&id) {
            return Err(LedgerError::Id(id.to_string()));
        }
        let is_pairing_used = self.pairings.contains_key(&permit.fresh_pairing)
            || self.proposals.values().any(|p| p.live.grant.pairing == permit.fresh_pairing);
        if is_pairing_used {
            return Err(LedgerError::Id(permit.fresh_pairing.to_string()));
        }
        Ok(())
    }

    /// A pairing that the client holds and the gateway will hold for long enough.
    fn joinable(&self, now: Instant, permit: &Permit) -> Option<PairingId> {
        let lives_on = |id: &PairingId| {
            self.by_pairing
                .of(id)
                .filter_map(|g| self.grants.get(&g))
                .any(|l| l.ends > now.plus(PAIRING_JOIN_MIN) && l.grant.pairing == *id)
        };
        permit.held.iter().copied().find(|id| {
            self.pairings.get(id).is_some_and(|(gateway, p)| {
                *gateway == permit.gateway
                    && p.device == permit.device
                    && p.device_v4 == permit.device_v4
                    && p.device_v6 == permit.device_v6
            }) && lives_on(id)
                && !self.proposals.values().any(|p| p.leaves == Some(*id))
        })
    }

    /// A new grant with addresses of its own, within every bound.
    fn number(&mut self, permit: &Permit) -> Result<Live, LedgerError> {
        let device = permit.device;
        if self.by_device.count(&device) >= GRANTS_PER_DEVICE_MAX {
            return Err(LedgerError::Device(device));
        }
        if self.graves_by_device.count(&device) >= TOMBSTONES_PER_DEVICE_MAX || self.graves.len() >= TOMBSTONES_MAX {
            return Err(LedgerError::Tombstones(device));
        }
        if self.by_gateway.count(&permit.gateway) >= GRANTS_PER_GATEWAY_MAX {
            return Err(LedgerError::Full(permit.gateway));
        }
        let book = self.gateways.get_mut(&permit.gateway).ok_or(LedgerError::Gateway(permit.gateway))?;
        let (number, nat_v4, nat_v6) = book.take_number().ok_or(LedgerError::Full(permit.gateway))?;
        Ok(Live {
            grant: Grant {
                id: permit.fresh_grant,
                pairing: permit.fresh_pairing,
                device,
                resource: permit.resource,
                rules: Vec::new(),
                nat_v4,
                nat_v6,
                ends_in: Duration::ZERO,
                lease: permit.lease,
                on_gateway: permit.on_gateway,
            },
            gateway: permit.gateway,
            session: permit.session,
            user: permit.user,
            ends: Instant(0),
            until: permit.until,
            waiting: false,
            number,
        })
    }
}
