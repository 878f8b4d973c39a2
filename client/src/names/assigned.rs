//! Which names below a suffix have an address already? The controller gives each one its address, on the first query.
//!
//! A client that asks for IPv4 and IPv6 at once asks the controller once; so does one whose name was refused a moment ago.

use super::zone::{Addresses, Zone};
use model::grant::CatalogueAddress;
use model::ids::ResourceId;
use model::limits::{DNS_ASSIGN_MAX, DNS_ASSIGN_WAIT, DNS_REFUSED_LIFE, SUFFIX_NAMES_MAX};
use model::net::HostName;
use model::pool::Pool;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OnceCell, Semaphore, TryAcquireError};
use tokio::time::Instant;

/// Who gives a name below a suffix its address: the controller, by `NameAddress`.
pub trait Assign: Send + Sync + 'static {
    /// The address of the name, now and for as long as the suffix is in the catalogue; `None`: it gets none. Whoever
    /// implements this sets up the route before it answers. Called at most [`DNS_ASSIGN_MAX`] times at once; the answer
    /// may take [`DNS_ASSIGN_WAIT`].
    fn assign(&self, name: HostName) -> impl Future<Output = Option<CatalogueAddress>> + Send;
}

#[derive(Clone)]
struct Slot {
    resource: ResourceId,
    since: Instant,
    addresses: Arc<OnceCell<Option<Addresses>>>,
}

impl Slot {
    fn known(&self) -> Option<&Addresses> {
        self.addresses.get()?.as_ref()
    }
    fn is_stale(&self, resource: ResourceId) -> bool {
        let refused = self.addresses.get().is_some_and(Option::is_none);
        self.resource != resource || (refused && self.since.elapsed() >= DNS_REFUSED_LIFE)
    }
}

#[derive(Default)]
struct Table {
    slots: BTreeMap<HostName, Slot>,
    /// Names by age: the oldest goes when the table is full. It keeps its address, the controller remembers it.
    order: VecDeque<HostName>,
}

/// The addresses that were given, at most [`SUFFIX_NAMES_MAX`].
pub struct Assigned<A> {
    source: A,
    table: Mutex<Table>,
    asking: Semaphore,
}

impl<A: Assign> Assigned<A> {
    /// Empty.
    pub fn new(source: A) -> Self {
        Self { source, table: Mutex::default(), asking: Semaphore::new(DNS_ASSIGN_MAX) }
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        // Every change of the table is whole before anything could panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known already, without asking.
    pub fn known(&self, name: &HostName, resource: ResourceId) -> Option<Addresses> {
        let table = self.table();
        let slot = table.slots.get(name).filter(|slot| slot.resource == resource)?;
        slot.known().cloned()
    }

    /// The name that was given this address.
    pub fn name_of(&self, address: IpAddr) -> Option<HostName> {
        let table = self.table();
        let has = |slot: &Slot| slot.known().is_some_and(|known| known.iter().any(|ip| ip == address));
        table.slots.iter().find(|(_, slot)| has(slot)).map(|(name, _)| name.clone())
    }

    /// Forgets what is no longer below its resource's suffix.
    pub fn retain(&self, zone: &Zone) {
        let mut table = self.table();
        table.slots.retain(|name, slot| zone.suffix_of(name) == Some(slot.resource));
        let Table { slots, order } = &mut *table;
        order.retain(|name| slots.contains_key(name));
    }

    fn slot(&self, name: &HostName, resource: ResourceId) -> Slot {
        let mut table = self.table();
        if let Some(slot) = table.slots.get(name)
            && !slot.is_stale(resource)
        {
            return slot.clone();
        }
        let slot = Slot { resource, since: Instant::now(), addresses: Arc::new(OnceCell::new()) };
        if table.slots.insert(name.clone(), slot.clone()).is_none() {
            table.order.push_back(name.clone());
        }
        while table.slots.len() > SUFFIX_NAMES_MAX {
            let Some(oldest) = table.order.pop_front() else { break };
            table.slots.remove(&oldest);
        }
        slot
    }

    /// The name's addresses, asking the controller if need be. `None`: refused, not answered, or too many ask at once.
    pub async fn addresses(&self, name: &HostName, resource: ResourceId, pool: &Pool) -> Option<Addresses> {
        let slot = self.slot(name, resource);
        slot.addresses.get_or_try_init(|| self.ask(name, pool)).await.ok().cloned().flatten()
    }

    /// `Err`: not asked.
    async fn ask(&self, name: &HostName, pool: &Pool) -> Result<Option<Addresses>, TryAcquireError> {
        let _permit = self.asking.try_acquire()?;
        let answer = tokio::time::timeout(DNS_ASSIGN_WAIT, self.source.assign(name.clone())).await.ok().flatten();
        let mut addresses = Addresses::default();
        if let Some(address) = answer.filter(|address| address.name.as_ref() == Some(name)) {
            addresses.add(pool, &address);
        }
        Ok(Some(addresses).filter(|addresses| !addresses.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_was_refused_is_asked_for_again_after_a_while() {
        let resource = ResourceId::from_bytes([1; 10]);
        let slot = |age: std::time::Duration, addresses: OnceCell<_>| Slot {
            resource,
            since: Instant::now().checked_sub(age).unwrap(),
            addresses: Arc::new(addresses),
        };
        let refused = || OnceCell::new_with(Some(None));
        assert!(!slot(DNS_REFUSED_LIFE / 2, refused()).is_stale(resource));
        assert!(slot(DNS_REFUSED_LIFE, refused()).is_stale(resource));
        assert!(!slot(DNS_REFUSED_LIFE, OnceCell::new()).is_stale(resource), "it is asked for now");
        assert!(slot(DNS_REFUSED_LIFE / 2, refused()).is_stale(ResourceId::from_bytes([2; 10])));
    }
}
