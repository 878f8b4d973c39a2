//! Which names and addresses of the organisation must not leave this machine in the clear while nobody here can answer for
//! them? What the last plan said, kept on disk: for the guardian of a dead client, and for a client that starts and has not
//! heard the controller yet.

use crate::plan::Plan;
use host::keyfile::{self, KeyFileError};
use model::limits::{HELD_BYTES_MAX, HELD_MAX};
use model::net::{HostName, Prefix};
use model::pool::Pool;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

const FILE: &str = "held.json";
const VERSION: u32 = 1;

/// Names and addresses that are held.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    version: u32,
    /// Exactly these names.
    pub names: Vec<HostName>,
    /// All names below these.
    pub suffixes: Vec<HostName>,
    /// Private zones, and all names below them.
    pub zones: Vec<HostName>,
    /// Real prefixes of resources that keep theirs; those of the pool are held anyway.
    pub prefixes: Vec<Prefix>,
}

impl Held {
    /// What follows from a plan and the accepted private zones. What is more than the bound is left out.
    pub fn of(plan: &Plan, private: &[HostName], pool: &Pool) -> Self {
        // One below its own suffix is held by that.
        let named = plan.names.iter().flat_map(|entry| {
            let names = entry.addresses.iter().filter_map(|address| address.name.clone());
            names.filter(|name| !entry.suffixes.iter().any(|suffix| name != suffix && name.is_in(suffix)))
        });
        let suffixes = plan.names.iter().flat_map(|entry| entry.suffixes.iter().cloned());
        let real = plan.kept.iter().filter(|prefix| !pool.contains(prefix.address())).copied();
        Self {
            version: VERSION,
            names: named.collect::<BTreeSet<_>>().into_iter().take(HELD_MAX).collect(),
            suffixes: suffixes.collect::<BTreeSet<_>>().into_iter().take(HELD_MAX).collect(),
            zones: private.iter().take(HELD_MAX).cloned().collect(),
            prefixes: real.take(HELD_MAX).collect(),
        }
    }

    /// What a client kept. Nothing, where there is no such file or it cannot be read.
    pub fn load(state: &Path) -> Self {
        let bytes = match keyfile::read(&state.join(FILE), HELD_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.is_missing() => return Self::default(),
            Err(error) => {
                tracing::warn!(%error, "which names were this organisation's is not known");
                return Self::default();
            }
        };
        let Some(held) = Self::parse(bytes.expose()) else {
            tracing::warn!(
                "{} is damaged: which names were this organisation's is not known",
                state.join(FILE).display()
            );
            return Self::default();
        };
        held
    }

    /// Reads what [`Held::store`] wrote; what is more than the bound is left out.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut held = serde_json::from_slice::<Self>(text).ok().filter(|held| held.version == VERSION)?;
        held.names.truncate(HELD_MAX);
        held.suffixes.truncate(HELD_MAX);
        held.zones.truncate(HELD_MAX);
        held.prefixes.truncate(HELD_MAX);
        Some(held)
    }

    /// Keeps it, durably.
    pub fn store(&self, state: &Path) -> Result<(), KeyFileError> {
        keyfile::replace(&state.join(FILE), &serde_json::to_vec(self).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{Folder, entry};
    use model::grant::CatalogueEntry;
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    fn pool() -> Pool {
        Pool::new("10.77.0.0/16".parse().unwrap(), "fd12:3456:789a::/48".parse().unwrap()).unwrap()
    }

    fn plan(entries: Vec<CatalogueEntry>) -> Plan {
        let own: IpAddr = "10.77.1.7".parse().unwrap();
        let prefixes = entries.iter().flat_map(|e| &e.addresses).filter_map(|a| a.v4);
        let host: BTreeMap<Prefix, IpAddr> = prefixes.map(|prefix| (prefix, own)).collect();
        Plan { kept: host.keys().copied().collect(), host, names: entries, ..Plan::default() }
    }

    #[test]
    fn what_the_plan_owns_is_kept_and_read_back() {
        let folder = Folder::new();
        assert_eq!(Held::load(folder.path()), Held::default(), "no file");
        let mut apps = entry(1, "apps", "10.77.64.1");
        apps.addresses.extend(entry(9, "wiki.apps", "10.77.64.9").addresses);
        apps.suffixes = vec!["apps.corp.example".parse().unwrap()];
        let plan = plan(vec![apps, entry(2, "lan", "10.20.0.0/24")]);
        let private = ["corp.example".parse().unwrap()];
        let held = Held::of(&plan, &private, &pool());
        let text = |names: &[HostName]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(text(&held.names), ["apps.corp.example", "lan.corp.example"]);
        assert_eq!((text(&held.zones), text(&held.suffixes)), (text(&private), vec!["apps.corp.example".to_owned()]));
        assert_eq!(held.prefixes, ["10.20.0.0/24".parse().unwrap()], "the pool's own are held without that");
        held.store(folder.path()).unwrap();
        assert_eq!(Held::load(folder.path()), held);
        std::fs::write(folder.path().join(FILE), b"{\"version\":7}").unwrap();
        assert_eq!(Held::load(folder.path()), Held::default(), "damaged");
    }

    #[test]
    fn a_file_that_is_too_large_is_none_and_the_next_one_is_read() {
        let folder = Folder::new();
        let held = Held { version: VERSION, zones: vec!["private.example".parse().unwrap()], ..Held::default() };
        let stored = |bytes: usize| {
            let mut text = serde_json::to_vec(&held).unwrap();
            text.resize(bytes, b' ');
            keyfile::replace(&folder.path().join(FILE), &text).unwrap();
            Held::load(folder.path())
        };
        assert_eq!(stored(HELD_BYTES_MAX), held);
        assert_eq!(stored(HELD_BYTES_MAX + 1), Held::default());
        assert_eq!(stored(200), held);
    }

    #[test]
    fn what_is_more_than_the_bound_is_left_out() {
        let folder = Folder::new();
        let mut wide = entry(1, "wide", "10.77.64.1");
        wide.suffixes = (0..=HELD_MAX).map(|n| format!("s{n}.corp.example").parse().unwrap()).collect();
        let held = Held::of(&plan(vec![wide]), &["private.example".parse().unwrap()], &pool());
        assert_eq!((held.suffixes.len(), held.zones.len()), (HELD_MAX, 1));
        held.store(folder.path()).unwrap();
        assert_eq!(Held::load(folder.path()), held);
    }
}
