//! How does a change come into force? In an order that leaves no packet judged by what is gone.

use super::{Engine, Generation, State};
use crate::address::address_of_key;
use crate::api::{self, Change, Out, PeerId, PeerKind, Role, RouteState, Routes};
use crate::counters::Drop;
use crate::peer::Peer;
use crate::routes::RouteTable;
use crate::silence::Silence;
use crate::site::Replies;
use crate::wire::Door;
use grant::View;
use model::ids::{GrantId, PairingId};
use model::key::{PrivateKey, PublicKey};
use model::time::Instant;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

impl Engine {
    /// Applies a change; returns when no thread uses the state from before it any more. What cannot be done is counted.
    pub fn apply(&self, now: Instant, change: Change, out: &mut Out) -> Generation {
        let _one = self.changing.lock();
        let done = match change {
            Change::AddPeer(peer) => self.add(now, &peer),
            Change::RemovePeer(id) => self.state.write().peers.remove(&id).map(|_| ()).ok_or(Silence::PeerUnknown),
            Change::Promote { key, node, address } => {
                let mut state = self.state.write();
                state.peers.promote(&key, PeerId::Node(node), IpAddr::V6(address)).map(|_| ())
            }
            Change::Succeed { id, local, remote } => self.succeed(now, id, &[(local, remote)], out),
            Change::Successors { id, keys } => self.succeed(now, id, &keys, out),
            Change::ControlKeys(keys) => {
                let doors = keys.iter().map(|key| self.door(key)).collect();
                self.state.write().peers.set_controls(doors);
                *self.control_keys.lock() = keys;
                Ok(())
            }
            Change::AbandonSuccessor(id) => {
                self.state.write().peers.abandon_successor(&id);
                Ok(())
            }
            Change::Endpoints(id, endpoints) => self.with_peer(&id, |peer| {
                peer.settings().set_candidates(&endpoints);
                Ok(())
            }),
            Change::ForceHandshake(id) => self.with_peer(&id, |peer| {
                peer.lock(now)?.force(now, out);
                Ok(())
            }),
            Change::NextEndpoint(id) => self.with_peer(&id, |peer| {
                let mut tunnel = peer.lock(now)?;
                tunnel.next_candidate();
                tunnel.force(now, out);
                Ok(())
            }),
            Change::Grants(view) => {
                self.grants(now, view, out);
                Ok(())
            }
            Change::Resolved { name, v4, addresses, ttl } => {
                let state = self.state.read();
                let mut replies = Replies::new();
                if let Some(view) = &state.view {
                    self.site.resolved(now, view, &name, v4, addresses, ttl, out, &mut replies);
                }
                self.send_replies(&state, now, &mut replies, out);
                Ok(())
            }
            Change::Routes(routes) => {
                self.routes(now, routes, out);
                Ok(())
            }
        };
        if let Err(reason) = done {
            self.silences.count(reason);
        }
        let mut state = self.state.write();
        state.generation += 1;
        Generation(state.generation)
    }

    fn with_peer(&self, id: &PeerId, what: impl FnOnce(&Peer) -> Result<(), Silence>) -> Result<(), Silence> {
        let peer = self.state.read().peers.by_id(id).cloned();
        peer.ok_or(Silence::PeerUnknown).and_then(|peer| what(&peer))
    }

    fn door(&self, key: &Arc<PrivateKey>) -> Arc<dyn Door> {
        // To make one costs a scalar multiplication, and a controller's peers share a few.
        let known = self.control_keys.lock().iter().position(|held| held == key);
        let door = known.and_then(|at| self.state.read().peers.controls().get(at).cloned());
        door.unwrap_or_else(|| self.doors.door(key))
    }

    fn add(&self, now: Instant, peer: &api::Peer) -> Result<(), Silence> {
        let door = self.door(&peer.local);
        let mut peer = std::borrow::Cow::Borrowed(peer);
        if matches!(peer.kind, PeerKind::Provisional) {
            // The address is the key's, whatever the caller says.
            let address = address_of_key(&self.config.pool, &peer.remote);
            peer.to_mut().addresses = vec![IpAddr::V6(address)];
        }
        self.state.write().peers.admit(now, door, &peer).map(|_| ())
    }

    fn succeed(
        &self,
        now: Instant,
        id: PeerId,
        keys: &[(Arc<PrivateKey>, PublicKey)],
        out: &mut Out,
    ) -> Result<(), Silence> {
        let doors = keys.iter().map(|(local, remote)| (self.door(local), *remote)).collect();
        let successors = self.state.write().peers.succeed(doors, id)?;
        if self.config.role != Role::Controller {
            for successor in successors {
                successor.lock(now)?.force(now, out);
            }
        }
        Ok(())
    }

    /// New tunnels first, then the view, then RST through the old tunnels, and only then do these go.
    fn grants(&self, now: Instant, new: Arc<View>, out: &mut Out) {
        for (id, pairing) in &new.pairings {
            let known = self.state.read().peers.by_id(&PeerId::Pairing(*id)).is_some_and(|p| {
                p.remote == pairing.pairing.client_key
                    && matches!(&p.kind, PeerKind::Pairing(psk) if *psk == pairing.pairing.psk)
            });
            if !known && let Err(reason) = self.add(now, &self.pairing_peer(&pairing.pairing)) {
                self.silences.count(reason);
            }
        }
        let old = self.state.write().view.replace(new.clone());
        let old = old.unwrap_or_else(|| Arc::new(View::empty(new.scope.clone())));
        let state = self.state.read();
        for (id, pairing) in &old.pairings {
            if pairing.grants.iter().any(|g| !new.holds(*id, g.grant().id)) {
                self.drop_waiting(&state, id);
            }
        }
        let mut replies = Replies::new();
        self.site.swap(now, &old, &new, out, &mut replies);
        self.send_replies(&state, now, &mut replies, out);
        drop(state);
        let mut state = self.state.write();
        let gone: Vec<PeerId> = state
            .peers
            .all()
            .map(|p| p.id)
            .filter(|id| matches!(id, PeerId::Pairing(pairing) if !new.pairings.contains_key(pairing)))
            .collect();
        for id in gone {
            state.peers.remove(&id);
        }
    }

    fn pairing_peer(&self, pairing: &model::grant::Pairing) -> api::Peer {
        api::Peer {
            id: PeerId::Pairing(pairing.id),
            kind: PeerKind::Pairing(pairing.psk.clone()),
            local: self.config.pairing_key.clone(),
            remote: pairing.client_key,
            addresses: vec![IpAddr::V4(pairing.device_v4), IpAddr::V6(pairing.device_v6)],
            endpoints: Vec::new(),
            keepalive: None,
        }
    }

    fn routes(&self, now: Instant, routes: Arc<Routes>, out: &mut Out) {
        let new = Arc::new(RouteTable::new(Arc::unwrap_or_clone(routes), &self.config.seed));
        let old = std::mem::replace(&mut self.state.write().routes, new.clone());
        let state = self.state.read();
        let kept = granted(&new);
        let ended: BTreeSet<PairingId> =
            granted(&old).into_iter().filter(|g| !kept.contains(g)).map(|(pairing, _)| pairing).collect();
        for pairing in &ended {
            self.drop_waiting(&state, pairing);
        }
        let mut replies = Replies::new();
        self.client.swap(now, &new, out, &mut replies);
        self.send_replies(&state, now, &mut replies, out);
    }

    /// A grant of the pairing ended: what waits for its session may have been that grant's.
    fn drop_waiting(&self, state: &State, pairing: &PairingId) {
        if let Some(peer) = state.peers.by_id(&PeerId::Pairing(*pairing)) {
            for _ in 0..peer.settings().drop_waiting() {
                self.drops.count(Drop::NoGrant);
            }
        }
    }
}

fn granted(routes: &RouteTable) -> BTreeSet<(PairingId, GrantId)> {
    routes
        .all()
        .filter_map(|entry| match entry.state {
            RouteState::Granted { pairing, grant, .. } => Some((pairing, grant)),
            RouteState::Ask | RouteState::Denied(_) => None,
        })
        .collect()
}
