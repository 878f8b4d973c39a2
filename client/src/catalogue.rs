//! What may this subject see? The catalogue as the controller told it: a snapshot and the deltas that fit onto it.

use model::grant::{CatalogueAddress, CatalogueEntry};
use model::ids::{ResourceId, SessionId};
use model::limits::{CATALOGUE_MAX, SUFFIX_NAMES_MAX};
use model::net::HostName;
use model::revision::Revision;
use model::time::Instant;
use std::collections::BTreeMap;

/// A log-in of this device's user, or what a workload has in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Whose.
    pub user: String,
    /// When it ends.
    pub ends: Instant,
    /// The newest second factor: its method, and when it was given.
    pub factor: Option<(String, Instant)>,
    /// This machine is a workload, and `user` its service account: it needs no log-in.
    pub workload: bool,
}

/// A change onto one exact state.
#[derive(Debug, Clone)]
pub struct Delta {
    /// The state that it fits.
    pub from: Revision,
    /// The state after it.
    pub to: Revision,
    /// The log-in, as it is then; none: nobody is logged in.
    pub session: Option<Session>,
    /// New or changed entries.
    pub upserts: Vec<CatalogueEntry>,
    /// Entries that are gone.
    pub removals: Vec<ResourceId>,
}

/// Why a change was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// It belongs onto another state.
    #[error("the change fits onto {0}, not onto what is held; everything is asked for anew")]
    Revision(Revision),
    /// More than the bound.
    #[error("the catalogue has more than {CATALOGUE_MAX} resources")]
    Full,
}

/// The catalogue, as it is held.
#[derive(Debug, Default)]
pub struct Catalogue {
    revision: Revision,
    session: Option<Session>,
    pending: bool,
    entries: BTreeMap<ResourceId, CatalogueEntry>,
    /// Addresses of names below a suffix, given on first query.
    looked_up: BTreeMap<HostName, (ResourceId, CatalogueAddress)>,
}

impl Catalogue {
    /// Takes a whole state in place of what was held.
    pub fn snapshot(
        &mut self,
        revision: Revision,
        session: Option<Session>,
        pending: bool,
        entries: Vec<CatalogueEntry>,
    ) -> Result<(), Misfit> {
        if entries.len() > CATALOGUE_MAX {
            return Err(Misfit::Full);
        }
        self.revision = revision;
        self.session = session;
        self.pending = pending;
        self.entries = entries.into_iter().map(|e| (e.id, e)).collect();
        self.prune();
        Ok(())
    }

    /// Takes a change; one that does not fit changes nothing.
    pub fn delta(&mut self, delta: Delta) -> Result<(), Misfit> {
        if delta.from != self.revision {
            return Err(Misfit::Revision(delta.from));
        }
        let mut entries = self.entries.clone();
        for id in &delta.removals {
            entries.remove(id);
        }
        entries.extend(delta.upserts.into_iter().map(|e| (e.id, e)));
        if entries.len() > CATALOGUE_MAX {
            return Err(Misfit::Full);
        }
        self.entries = entries;
        self.revision = delta.to;
        self.session = delta.session;
        self.prune();
        Ok(())
    }

    /// Remembers the address of a name below one of a resource's suffixes; false when it is not that resource's to give.
    pub fn add_name(&mut self, resource: ResourceId, name: HostName, mut address: CatalogueAddress) -> bool {
        let owns = |e: &CatalogueEntry| e.suffixes.iter().any(|s| name.is_in(s) && name != *s);
        let room = self.looked_up.len() < SUFFIX_NAMES_MAX || self.looked_up.contains_key(&name);
        if !room || !self.entries.get(&resource).is_some_and(owns) {
            return false;
        }
        address.name = Some(name.clone());
        self.looked_up.insert(name, (resource, address));
        true
    }

    /// The state.
    pub const fn revision(&self) -> Revision {
        self.revision
    }
    /// The log-in.
    pub const fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }
    /// Does the device wait for an administrator?
    pub const fn pending(&self) -> bool {
        self.pending
    }
    /// One entry.
    pub fn entry(&self, id: &ResourceId) -> Option<&CatalogueEntry> {
        self.entries.get(id)
    }
    /// All entries, ordered by id.
    pub fn entries(&self) -> impl Iterator<Item = &CatalogueEntry> {
        self.entries.values()
    }
    /// How many resources.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    /// Nothing at all?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// An entry's addresses, and those that were given on first query.
    pub fn addresses<'a>(&'a self, entry: &'a CatalogueEntry) -> impl Iterator<Item = &'a CatalogueAddress> {
        let later = self.looked_up.values().filter(|(id, _)| *id == entry.id).map(|(_, a)| a);
        entry.addresses.iter().chain(later)
    }

    /// By its name, its id or one of its host names, as a person would write it.
    pub fn find(&self, text: &str) -> Option<&CatalogueEntry> {
        let by_name = self.entries.values().find(|e| e.name == text);
        let by_id = || text.parse::<ResourceId>().ok().and_then(|id| self.entries.get(&id));
        let by_host = || {
            let host: HostName = text.parse().ok()?;
            self.entries.values().find(|e| {
                self.addresses(e).any(|a| a.name.as_ref() == Some(&host)) || e.suffixes.iter().any(|s| host.is_in(s))
            })
        };
        by_name.or_else(by_id).or_else(by_host)
    }

    fn prune(&mut self) {
        let entries = &self.entries;
        self.looked_up
            .retain(|name, (id, _)| entries.get(id).is_some_and(|e| e.suffixes.iter().any(|s| name.is_in(s))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{entry, resource};

    fn revision(number: u64) -> Revision {
        Revision { incarnation: 1, number }
    }

    fn delta(from: u64, to: u64) -> Delta {
        Delta { from: revision(from), to: revision(to), session: None, upserts: Vec::new(), removals: Vec::new() }
    }

    #[test]
    fn a_change_that_does_not_fit_changes_nothing() {
        let mut catalogue = Catalogue::default();
        catalogue.snapshot(revision(3), None, true, vec![entry(1, "wiki", "10.77.64.1")]).unwrap();
        assert!(catalogue.pending());
        let late = Delta { removals: vec![resource(1)], ..delta(2, 4) };
        assert_eq!(catalogue.delta(late), Err(Misfit::Revision(revision(2))));
        assert!(catalogue.find("wiki").is_some());
        catalogue
            .delta(Delta { removals: vec![resource(1)], upserts: vec![entry(2, "git", "10.77.64.2")], ..delta(3, 4) })
            .unwrap();
        assert!(catalogue.find("wiki").is_none() && catalogue.find("git").is_some());
        assert_eq!(catalogue.revision(), revision(4));
    }

    #[test]
    fn a_resource_is_found_as_people_call_it() {
        let mut catalogue = Catalogue::default();
        let mut wiki = entry(1, "Team wiki", "10.77.64.1");
        wiki.suffixes = vec!["apps.corp.example".parse().unwrap()];
        catalogue.snapshot(revision(1), None, false, vec![wiki]).unwrap();
        for name in ["Team wiki", "team-wiki.corp.example", "x.apps.corp.example", &resource(1).to_string()] {
            assert!(catalogue.find(name).is_some(), "{name}");
        }
        assert!(catalogue.find("wiki").is_none());
    }

    #[test]
    fn only_names_below_its_suffix_get_an_address_from_a_resource() {
        let mut catalogue = Catalogue::default();
        let mut apps = entry(1, "apps", "10.77.64.1");
        apps.suffixes = vec!["apps.corp.example".parse().unwrap()];
        catalogue.snapshot(revision(1), None, false, vec![apps.clone()]).unwrap();
        let address = apps.addresses[0].clone();
        let name = |t: &str| t.parse::<HostName>().unwrap();
        assert!(!catalogue.add_name(resource(1), name("bank.example"), address.clone()));
        assert!(!catalogue.add_name(resource(2), name("a.apps.corp.example"), address.clone()));
        assert!(catalogue.add_name(resource(1), name("a.apps.corp.example"), address.clone()));
        assert_eq!(catalogue.addresses(&apps).count(), 2);
        for i in 0..SUFFIX_NAMES_MAX + 10 {
            catalogue.add_name(resource(1), name(&format!("h{i}.apps.corp.example")), address.clone());
        }
        assert_eq!(catalogue.addresses(&apps).count(), SUFFIX_NAMES_MAX + 1);
        catalogue.delta(Delta { removals: vec![resource(1)], ..delta(1, 2) }).unwrap();
        assert!(catalogue.looked_up.is_empty());
    }

    #[test]
    fn the_bound_holds() {
        let mut catalogue = Catalogue::default();
        let all = (0..=u32::try_from(CATALOGUE_MAX).unwrap()).map(|n| entry(n, "x", "10.77.64.1")).collect();
        assert_eq!(catalogue.snapshot(revision(1), None, false, all), Err(Misfit::Full));
        assert_eq!(catalogue.len(), 0);
    }
}
