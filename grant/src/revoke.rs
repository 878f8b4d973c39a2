//! Where is a grant revoked? Here, for every cause: what ends, which gateways and clients have to hear of it.

use model::ids::{DeviceId, GatewayId, GrantId, PairingId, ResourceId, SessionId, SubjectId};
use model::key::PublicKey;
use model::limits::{LEASE_MAX, TOMBSTONE_EXTRA};
use model::revision::Revision;
use std::collections::{BTreeMap, BTreeSet};

use crate::lease::Moment;
use crate::ledger::{Grave, Ledger};
use crate::record::{Cause, Live, Tombstone};

/// Which grants?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// One.
    Grant(GrantId),
    /// All of a device.
    Device(DeviceId),
    /// All of a log-in.
    Session(SessionId),
    /// All of a person or workload.
    User(SubjectId),
    /// All to a resource.
    Resource(ResourceId),
    /// All of a person or workload to a resource.
    UserResource(SubjectId, ResourceId),
    /// All through a gateway.
    Gateway(GatewayId),
    /// All in a tunnel.
    Pairing(PairingId),
    /// All in the tunnel of this data key.
    Key(PublicKey),
    /// Whatever any of these selects.
    Any(Vec<Selector>),
    /// All of the organisation.
    All,
}

/// What a revoke did.
#[derive(Debug, Clone, Default)]
pub struct Revocation {
    /// The state in which it holds; ask [`Ledger::standing`] with it who has confirmed.
    pub revision: Revision,
    /// The grants that ended, as they were.
    pub ended: Vec<Live>,
    /// To be committed; with them go the grants' records.
    pub tombstones: Vec<Tombstone>,
    /// Tunnels that have no grant any more; their records and PSKs are to be deleted.
    pub pairings: Vec<PairingId>,
    /// Gateways that have to hear of it: ask [`Ledger::update`] for each.
    pub gateways: BTreeSet<GatewayId>,
    /// Clients to tell.
    pub clients: BTreeMap<DeviceId, Vec<(GrantId, ResourceId)>>,
}

impl Ledger {
    /// The grants that a selector means, proposals among them, by id.
    pub fn select(&self, which: &Selector) -> BTreeSet<GrantId> {
        match which {
            Selector::Grant(id) => {
                [*id].into_iter().filter(|i| self.grants.contains_key(i) || self.proposals.contains_key(i)).collect()
            }
            Selector::Device(id) => self.by_device.of(id).collect(),
            Selector::Session(id) => self.by_session.of(id).collect(),
            Selector::User(id) => self.by_user.of(id).collect(),
            Selector::Resource(id) => self.by_resource.of(id).collect(),
            Selector::UserResource(user, resource) => {
                let all: BTreeSet<_> = self.by_user.of(user).collect();
                self.by_resource.of(resource).filter(|id| all.contains(id)).collect()
            }
            Selector::Gateway(id) => self.by_gateway.of(id).collect(),
            Selector::Pairing(id) => self.by_pairing.of(id).collect(),
            Selector::Key(key) => self.key_owner(key).into_iter().flat_map(|p| self.by_pairing.of(&p)).collect(),
            Selector::Any(all) => all.iter().flat_map(|s| self.select(s)).collect(),
            Selector::All => self.grants.keys().chain(self.proposals.keys()).copied().collect(),
        }
    }

    /// Ends one grant or proposal.
    fn end(&mut self, id: GrantId, cause: Cause, at: Moment, out: &mut Revocation) {
        let proposal = self.proposals.remove(&id);
        if let Some(proposal) = &proposal {
            self.release_key(proposal);
        }
        let live = match (self.grants.remove(&id), proposal) {
            (Some(live), _) => live,
            (None, Some(proposal)) if proposal.is_new => proposal.live,
            _ => return,
        };
        self.delist(&live);
        let pairing = live.grant.pairing;
        if !live.waiting && self.by_pairing.count(&pairing) == 0 {
            self.drop_pairing(pairing);
            out.pairings.push(pairing);
        }
        self.note(live.gateway, out.revision, id);
        let tombstone = Tombstone {
            grant: id,
            device: live.grant.device,
            gateway: live.gateway,
            resource: live.grant.resource,
            session: live.session,
            nat_number: live.number,
            cause,
            revision: out.revision,
            ended: at.wall,
            lapses: at.to_wall(live.ends),
        };
        if let Some(book) = self.gateways.get_mut(&live.gateway) {
            book.rest_number(out.revision, id, live.number);
        }
        self.dig(Grave {
            lapses: live.ends,
            kept_until: at.now.plus(LEASE_MAX).plus(TOMBSTONE_EXTRA),
            tombstone: tombstone.clone(),
        });
        out.tombstones.push(tombstone);
        out.gateways.insert(live.gateway);
        out.clients.entry(live.grant.device).or_default().push((id, live.grant.resource));
        out.ended.push(live);
    }

    /// Enters a tombstone into every index.
    pub(crate) fn dig(&mut self, grave: Grave) {
        let id = grave.tombstone.grant;
        self.graves_by_end.insert((grave.kept_until, id));
        self.graves_by_revision.insert((grave.tombstone.revision, id));
        self.graves_by_device.insert(grave.tombstone.device, id);
        self.graves.insert(id, grave);
    }
}

/// Ends grants, for whatever cause, at the state `revision`.
///
/// They are gone from the ledger when this returns, and their ids never come alive again. Everything that one transaction
/// ends belongs into one call ([`Selector::Any`]), so that a gateway's acknowledgement of `revision` covers all of it.
pub fn revoke(ledger: &mut Ledger, at: Moment, which: &Selector, cause: Cause, revision: Revision) -> Revocation {
    let mut out = Revocation { revision: ledger.head.max(revision), ..Revocation::default() };
    for id in ledger.select(which) {
        ledger.end(id, cause, at, &mut out);
    }
    out
}
