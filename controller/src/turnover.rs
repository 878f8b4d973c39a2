//! How does a node's control key change? It announces the next one; the first use of that ends the old one. Where none of its
//! keys is answered, its recovery secret proves who it is. And what becomes of it where two programs have its keys?

use crate::audit::{Entry, Outcome};
use crate::directory::index::key_id;
use crate::directory::{Device, Directory, Draft, Fact, Gateway, NodeState, Refusal, Session, Unique};
use crate::organisation::Organisation;
use crate::rate::Act;
use crate::store::Record as _;
use model::ids::NodeId;
use model::key::PublicKey;

/// A node's record, whichever kind it is.
pub(crate) enum Held<'d> {
    /// A device's.
    Device(&'d Fact<Device>),
    /// A gateway's.
    Gateway(&'d Fact<Gateway>),
}

impl<'d> Held<'d> {
    /// The record of a node that was not revoked.
    pub(crate) fn find(directory: &'d Directory, node: NodeId) -> Option<Self> {
        let lives = |state: NodeState| state != NodeState::Revoked;
        match node {
            NodeId::Device(id) => directory.devices.find(&id).filter(|d| lives(d.record.state)).map(Self::Device),
            NodeId::Gateway(id) => directory.gateways.find(&id).filter(|g| lives(g.record.state)).map(Self::Gateway),
            NodeId::Controller => None,
        }
    }

    /// Its key, and the one that follows it.
    pub(crate) fn keys(&self) -> (PublicKey, Option<PublicKey>) {
        match self {
            Self::Device(d) => (d.record.key, d.record.next_key),
            Self::Gateway(g) => (g.record.key, g.record.next_key),
        }
    }

    /// The same record with other keys, and, where that is given, with the hash of another certificate's key.
    pub(crate) fn rekeyed(
        &self,
        draft: &mut Draft,
        key: PublicKey,
        next_key: Option<PublicKey>,
        svid_key: Option<[u8; 32]>,
    ) -> Result<(), Refusal> {
        match self {
            Self::Device(d) => {
                let svid_key = svid_key.unwrap_or(d.record.svid_key);
                draft.update(d, &Device { key, next_key, svid_key, ..d.record.clone() })
            }
            Self::Gateway(g) => {
                let svid_key = svid_key.unwrap_or(g.record.svid_key);
                draft.update(g, &Gateway { key, next_key, svid_key, ..g.record.clone() })
            }
        }
    }
}

/// Claims a key for a node: nobody else has it or had it when they were revoked.
pub(crate) fn claim(directory: &Directory, draft: &mut Draft, node: NodeId, key: &PublicKey) -> Result<(), Refusal> {
    draft.claim(directory, Unique::NodeKey, key_id(key), node, || "this key".to_owned())
}

fn entry(organisation: &Organisation, node: NodeId, action: &str, key: &PublicKey) -> Entry {
    Entry::new(organisation.wall(), node.to_string(), action, node.to_string(), Outcome::Done).with("key", key.short())
}

/// The node will use this key from some moment on. The same again changes nothing.
pub async fn announce(organisation: &Organisation, node: NodeId, next: PublicKey) -> Result<(), Refusal> {
    let denied = || Refusal::Denied("this node is not enrolled".to_owned());
    if tunnel::wire::is_low_order(&next) {
        return Err(Refusal::Invalid("field `key`: is no usable key".to_owned()));
    }
    let (key, known) = Held::find(&organisation.now(), node).ok_or_else(denied)?.keys();
    if known == Some(next) || key == next {
        return Ok(());
    }
    organisation.take_turn(Act::Key, node)?;
    let make = |directory: &Directory, draft: &mut Draft| {
        let held = Held::find(directory, node).ok_or_else(denied)?;
        let (key, before) = held.keys();
        claim(directory, draft, node, &next)?;
        if let Some(before) = before {
            draft.release(Unique::NodeKey, key_id(&before))?;
        }
        held.rekeyed(draft, key, Some(next), None)?;
        Ok(((), entry(organisation, node, "node.next-key", &next)))
    };
    organisation.change(make).await.map(|_| ())
}

/// The node has used its next key: the one before is nobody's any more. False where it was not the next one.
pub async fn used(organisation: &Organisation, node: NodeId, key: PublicKey) -> Result<bool, Refusal> {
    let is_next = |directory: &Directory| Held::find(directory, node).is_some_and(|held| held.keys().1 == Some(key));
    if !is_next(&organisation.now()) {
        return Ok(false);
    }
    let make = |directory: &Directory, draft: &mut Draft| {
        let held = Held::find(directory, node).filter(|held| held.keys().1 == Some(key));
        let held = held.ok_or_else(|| Refusal::Denied("another key follows by now".to_owned()))?;
        draft.release(Unique::NodeKey, key_id(&held.keys().0))?;
        held.rekeyed(draft, key, None, None)?;
        Ok(((), entry(organisation, node, "node.new-key", &key)))
    };
    organisation.change(make).await.map(|_| true)
}

/// Two programs use the keys of a node: nobody knows which of them is the node. Both are cut off, for good: it is revoked, and
/// joins again with a new join file.
pub async fn cut_copied(organisation: &Organisation, node: NodeId) -> Result<(), Refusal> {
    let changed = organisation.change(|directory, draft| {
        let held =
            Held::find(directory, node).ok_or_else(|| Refusal::Denied("this node is not enrolled".to_owned()))?;
        let wall = organisation.wall();
        let (state, copied) = (NodeState::Revoked, Some(wall));
        let name = match held {
            Held::Device(fact) => {
                draft.update(fact, &Device { state, copied, ..fact.record.clone() })?;
                draft.stands_on_all(directory, Session::KIND)?;
                let of =
                    |session: &&Fact<Session>| Some(session.record.device) == device_of(node) && !session.record.ended;
                for session in directory.sessions.values().filter(of) {
                    draft.update(session, &Session { ended: true, ..session.record.clone() })?;
                }
                fact.record.name.clone()
            }
            Held::Gateway(fact) => {
                draft.update(fact, &Gateway { state, copied, ..fact.record.clone() })?;
                fact.record.name.clone()
            }
        };
        let entry = Entry::new(wall, "controller", "node.copied", node.to_string(), Outcome::Deny);
        Ok((name.clone(), entry.with("name", name.as_str())))
    });
    let (_, name) = changed.await?;
    tracing::error!(%node, %name, "two programs use the keys of this node at once: it is revoked, and both are cut off");
    Ok(())
}

fn device_of(node: NodeId) -> Option<model::ids::DeviceId> {
    match node {
        NodeId::Device(id) => Some(id),
        NodeId::Gateway(_) | NodeId::Controller => None,
    }
}

#[cfg(test)]
mod tests;
