//! What do all parts of arranging share? The ledger, the lines to gateways and devices, what is kept in the store.
//!
//! All changes of the ledger happen under one lock that is held over the commit, so that gateways hear of them in the
//! order of their revisions. A gateway hears of a change only when it is durable.

use crate::audit::DenyAggregator;
use crate::directory::index::host_id;
use crate::directory::{Directory, NodeState, Reader};
use crate::judge::Reach;
use crate::rate::Rates;
use crate::refused::Refused;
use crate::rpc::accept::Connections;
use crate::seal::Sealer;
use crate::store::{Key, Record, Store};
use grant::lease::Moment;
use grant::ledger::Ledger;
use grant::record::{GrantRecord, PairingRecord, Tombstone};
use model::audit::SignedHead;
use model::ids::{GatewayId, GrantId, PairingId, SiteId};
use model::net::HostName;
use model::revision::Revision;
use model::time::Clock;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::watch;

use super::end::Unwritten;
use super::lines::{GatewayNews, Lines};

/// A live grant in the store.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoredGrant(pub GrantRecord);
impl Record for StoredGrant {
    const KIND: &'static str = "grant";
    type Id = GrantId;
}

/// A pairing in the store; its PSK is sealed for the pairing's own place.
#[derive(Debug, Serialize, Deserialize)]
pub struct StoredPairing {
    /// The pairing.
    pub record: PairingRecord,
    /// The PSK, sealed.
    pub psk: Vec<u8>,
}
impl Record for StoredPairing {
    const KIND: &'static str = "pairing";
    type Id = PairingId;
}

/// An ended grant in the store.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoredTombstone(pub Tombstone);
impl Record for StoredTombstone {
    const KIND: &'static str = "tombstone";
    type Id = GrantId;
}

/// The start of a gateway's program that the controller last spoke to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredBoot {
    /// Random, new at each start.
    pub boot: u64,
}
impl Record for StoredBoot {
    const KIND: &'static str = "gateway-boot";
    type Id = GatewayId;
}

/// A gateway said that it reaches this name over IPv6. Kept, for a catalogue without IPv6 addresses after each start of the
/// controller would reset what is open over them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredReach {
    /// Who said so.
    pub gateway: GatewayId,
    /// The site of both.
    pub site: SiteId,
    /// The name.
    pub host: HostName,
}
impl Record for StoredReach {
    const KIND: &'static str = "reach";
    type Id = str;
}
impl StoredReach {
    /// Its id in the store: a name may be longer than a key.
    pub fn id(&self) -> String {
        format!("{}.{}", self.gateway, host_id(self.host.as_str()))
    }
}

/// One review of the live grants after a change of the facts.
#[derive(Debug, Clone)]
pub(super) struct Review {
    /// The directory that it saw.
    pub(super) saw: Revision,
    /// The states at which grants ended.
    pub(super) ended_at: Vec<Revision>,
}

/// Grants, gateways and clients of the organisation.
pub struct Arrangements {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) reader: Reader,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) lines: Lines,
    pub(super) ledger: tokio::sync::Mutex<Ledger>,
    pub(super) reach: RwLock<Arc<Reach>>,
    pub(super) acks: watch::Sender<u64>,
    pub(super) reviewed: watch::Sender<Revision>,
    pub(super) reviews: Mutex<VecDeque<Review>>,
    pub(super) denies: Mutex<DenyAggregator>,
    /// How often gateways change what is kept of them.
    pub(super) rates: Mutex<Rates>,
    /// The newest signed head of the audit trail.
    pub(super) head: watch::Sender<Option<SignedHead>>,
    /// Ends that act and could not be written down yet.
    pub(super) unwritten: Mutex<Unwritten>,
}

impl Arrangements {
    pub(crate) fn moment(&self) -> Moment {
        Moment { now: self.clock.now(), wall: self.clock.wall() }
    }

    /// Where it is counted who was turned away.
    pub(crate) fn refused(&self) -> &Arc<Refused> {
        &self.connections.refused
    }

    pub(crate) fn directory(&self) -> Arc<Directory> {
        self.reader.now()
    }

    pub(crate) fn reach(&self) -> Arc<Reach> {
        Arc::clone(&self.reach.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A gateway says that it reaches this name over IPv6; answers, if that is news, what to keep and whether a catalogue changes.
    pub(super) fn set_reach(&self, gateway: GatewayId, site: SiteId, host: HostName) -> Option<(StoredReach, bool)> {
        let mut reach = self.reach.write().unwrap_or_else(PoisonError::into_inner);
        if reach.has_v6_by(gateway, site, &host) {
            return None;
        }
        let shows = !reach.has_v6(site, &host);
        Arc::make_mut(&mut reach).note(gateway, site, host.clone());
        Some((StoredReach { gateway, site, host }, shows))
    }

    /// What gateways said that may not speak any more.
    pub(super) fn forget_reach(&self, directory: &Directory) {
        let may = |id: GatewayId| directory.gateways.find(&id).is_some_and(|g| g.record.state == NodeState::Confirmed);
        let mut reach = self.reach.write().unwrap_or_else(PoisonError::into_inner);
        if reach.gateways().any(|id| !may(id)) {
            Arc::make_mut(&mut reach).retain(may);
        }
    }

    /// Is this gateway confirmed? Others learn nothing of names or of the audit trail, and their words do not count.
    pub(super) fn is_confirmed(&self, gateway: GatewayId) -> bool {
        self.directory().gateways.find(&gateway).is_some_and(|g| g.record.state == NodeState::Confirmed)
    }

    /// The next state of the ledger: above every durable one, and not above the commit that follows.
    pub(super) fn next_revision(&self, ledger: &Ledger) -> Revision {
        let head = ledger.head().max(self.store.revision());
        Revision { incarnation: head.incarnation, number: head.number.saturating_add(1) }
    }

    /// Tells a gateway what is new for it. The ledger's lock is held, so updates leave in order.
    pub(super) fn push(&self, ledger: &mut Ledger, gateway: GatewayId) {
        let now = self.clock.now();
        self.lines.with_gateway(gateway, |line| {
            let Some((seq, as_of)) = line.as_of else { return };
            let Some(update) = ledger.update(gateway, line.sent, now, as_of) else { return };
            let to = match &update {
                grant::sync::Update::Snapshot(s) => s.revision,
                grant::sync::Update::Delta(d) => d.to,
            };
            if line.send(GatewayNews::Update { as_of: seq, update }) {
                line.sent = Some(to);
            }
        });
    }
}

pub(super) fn key<R: Record>(id: &R::Id) -> Result<Key, crate::store::CommitError> {
    Key::of(R::KIND, id).map_err(|e| crate::store::CommitError::Invalid(e.to_string()))
}
