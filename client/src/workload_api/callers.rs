//! Who asks, and how many connections may one user have?

use host::local::Peer;
use model::limits::{WORKLOAD_CONNECTIONS_MAX, WORKLOAD_CONNECTIONS_PER_UID_MAX};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A program, as the kernel names it at the moment of its connecting.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    _place: Arc<Place>,
}

/// Connections by user.
#[derive(Debug, Default)]
pub struct Callers(Arc<Mutex<BTreeMap<u32, usize>>>);

/// One of a user's places, given back when its connection is gone.
#[derive(Debug)]
struct Place {
    uid: u32,
    counts: Arc<Mutex<BTreeMap<u32, usize>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let left = counts.get(&self.uid).copied().unwrap_or_default().saturating_sub(1);
        if left == 0 {
            counts.remove(&self.uid);
        } else {
            counts.insert(self.uid, left);
        }
    }
}

impl Callers {
    /// Takes one more connection, unless this user, or all, have as many as they may have.
    pub fn admit(&self, peer: &Peer) -> Option<Caller> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, own) = (counts.values().sum::<usize>(), counts.get(&peer.uid).copied().unwrap_or_default());
        if all >= WORKLOAD_CONNECTIONS_MAX || own >= WORKLOAD_CONNECTIONS_PER_UID_MAX {
            tracing::debug!(uid = peer.uid, all, own, "a program's connection was closed: there are too many");
            return None;
        }
        counts.insert(peer.uid, own.saturating_add(1));
        let place = Place { uid: peer.uid, counts: Arc::clone(&self.0) };
        Some(Caller { uid: peer.uid, gid: peer.gid, _place: Arc::new(place) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_has_so_many_connections_and_takes_no_others_place() {
        let peer = |uid| Peer { uid, gid: 7, pid: None, groups: vec![7] };
        let callers = Callers::default();
        let mut held: Vec<_> =
            (0..WORKLOAD_CONNECTIONS_PER_UID_MAX).map(|_| callers.admit(&peer(1)).unwrap()).collect();
        assert!(callers.admit(&peer(1)).is_none());
        assert!(callers.admit(&peer(2)).is_some_and(|caller| (caller.uid, caller.gid) == (2, 7)));
        let copy = held[0].clone();
        held.clear();
        assert_eq!(callers.0.lock().unwrap().get(&1), Some(&1), "a call that is under way keeps its place");
        drop(copy);
        assert!(callers.0.lock().unwrap().is_empty());
        assert!(callers.admit(&peer(1)).is_some());
    }

    #[test]
    fn all_users_together_have_so_many() {
        let callers = Callers::default();
        let peer = |uid| Peer { uid, gid: 7, pid: None, groups: Vec::new() };
        let uids = 0..u32::try_from(WORKLOAD_CONNECTIONS_MAX).unwrap();
        let mut held: Vec<_> = uids.map(|uid| callers.admit(&peer(uid)).unwrap()).collect();
        assert!(callers.admit(&peer(70_000)).is_none());
        held.pop();
        assert!(callers.admit(&peer(70_000)).is_some());
    }
}
