//! How does the arranger come back after a restart? From the store's records; what does not fit is not alive.

use super::state::{Arrangements, StoredGrant, StoredPairing, StoredReach, StoredTombstone, key};
use crate::audit::DenyAggregator;
use crate::directory::{Directory, NodeState, Reader};
use crate::judge::{Reach, is_name_of_site};
use crate::rpc::accept::Connections;
use crate::seal::Sealer;
use crate::store::{Commit, CommitError, ReadError, Record, Store};
use grant::lease::Moment;
use grant::ledger::Ledger;
use grant::restore::{Lost, Records};
use model::key::Psk;
use model::limits::COMMIT_KEYS_MAX;
use model::time::Clock;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, RwLock};
use tokio::sync::watch;

/// Why the grants cannot be read back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The store.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store, when what is lost is removed.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Arrangements {
    /// Reads the ledger back. Every decision is taken again by the first review.
    pub async fn restore(
        store: Arc<dyn Store>,
        reader: Reader,
        sealer: Arc<Sealer>,
        clock: Arc<dyn Clock>,
        connections: Arc<Connections>,
    ) -> Result<Arc<Self>, RestoreError> {
        let at = Moment { now: clock.now(), wall: clock.wall() };
        let directory = reader.now();
        let grants: Vec<StoredGrant> = read(store.as_ref()).await?;
        let tombstones: Vec<StoredTombstone> = read(store.as_ref()).await?;
        let pairings: Vec<StoredPairing> = read(store.as_ref()).await?;
        let records = Records {
            gateways: directory.gateways_seen.values().map(|s| (s.record.id, s.record.nat)).collect(),
            pairings: pairings.into_iter().filter_map(|p| unseal(&sealer, p)).collect(),
            grants: grants.into_iter().map(|g| g.0).collect(),
            tombstones: tombstones.into_iter().map(|t| t.0).collect(),
        };
        let (ledger, lost) = Ledger::restore(at, store.revision(), records);
        forget(store.as_ref(), &lost).await?;
        let reach = told_before(store.as_ref(), &directory).await?;
        let (acks, _) = watch::channel(0);
        let (reviewed, _) = watch::channel(directory.revision);
        Ok(Arc::new(Self {
            store,
            reader,
            sealer,
            clock,
            connections,
            lines: super::lines::Lines::default(),
            ledger: tokio::sync::Mutex::new(ledger),
            reach: RwLock::new(Arc::new(reach)),
            acks,
            reviewed,
            reviews: Mutex::new(VecDeque::new()),
            denies: Mutex::new(DenyAggregator::default()),
            rates: Mutex::default(),
            head: watch::channel(None).0,
            unwritten: Mutex::default(),
        }))
    }
}

async fn read<R: Record>(store: &dyn Store) -> Result<Vec<R>, ReadError> {
    let scan = store.scan(R::KIND).await?;
    let decode = |(key, item): (crate::store::Key, crate::store::Item)| {
        serde_json::from_slice(&item.value).map_err(|e| ReadError::Decode { key, cause: e.to_string() })
    };
    scan.items.into_iter().map(decode).collect()
}

/// What gateways that still count said of the names that there still are; the rest goes.
async fn told_before(store: &dyn Store, directory: &Directory) -> Result<Reach, RestoreError> {
    let counts = |told: &StoredReach| {
        let gateway = directory.gateways.find(&told.gateway).map(|g| &g.record);
        gateway.is_some_and(|g| g.state == NodeState::Confirmed && g.site == told.site)
            && is_name_of_site(directory, told.site, &told.host)
    };
    let (kept, gone): (Vec<_>, Vec<_>) = read::<StoredReach>(store).await?.into_iter().partition(counts);
    for some in gone.chunks(COMMIT_KEYS_MAX) {
        let delete = |commit: Commit, told: &StoredReach| commit.delete_record::<StoredReach>(&told.id());
        store.commit(some.iter().try_fold(Commit::default(), delete)?).await?;
    }
    let mut reach = Reach::default();
    for told in kept {
        reach.note(told.gateway, told.site, told.host);
    }
    Ok(reach)
}

/// A tunnel whose key does not open is no tunnel; its grants wait for their clients.
fn unseal(sealer: &Sealer, stored: StoredPairing) -> Option<(grant::record::PairingRecord, Psk)> {
    let place = format!("{}/{}", StoredPairing::KIND, stored.record.id);
    let psk = sealer.open(&place, &stored.psk).ok()?;
    let psk: [u8; 32] = psk.expose().as_slice().try_into().ok()?;
    Some((stored.record, Psk::new(psk)))
}

async fn forget(store: &dyn Store, lost: &[Lost]) -> Result<(), RestoreError> {
    let mut commit = Commit::default();
    for one in lost {
        tracing::info!(%one, "left out after the restart");
        commit = match one {
            Lost::Ended(g) | Lost::Gateway(g) | Lost::Pairing(g) | Lost::Number(g) | Lost::Bounds(g) => {
                commit.delete(key::<StoredGrant>(g)?)
            }
            Lost::Tunnel(p) => commit.delete(key::<StoredPairing>(p)?),
            Lost::Tombstone(g) => commit.delete(key::<StoredTombstone>(g)?),
        };
        if commit.deletes.len() >= model::limits::COMMIT_KEYS_MAX {
            store.commit(std::mem::take(&mut commit)).await?;
        }
    }
    if !commit.deletes.is_empty() {
        store.commit(commit).await?;
    }
    Ok(())
}
