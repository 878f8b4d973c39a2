//! With which key and CA does the controller prove who it is, and how do others follow them?
//!
//! Both are one *authority* and turn over together, in three steps, each one transaction: *announced* (the next one is made,
//! nodes are told, knocks and handshakes are heard under both), *switched* (the next one is the one in use: certificates, heads of
//! the audit trail and join files are its from now on, and nodes move on to it), *retired* (the one before is destroyed). A step
//! that was missed is made up for: whatever is due follows from what is stored and the clock.

use crate::administrator;
use crate::audit::offline::ANNOUNCED;
use crate::audit::{Entry, Outcome};
use crate::authz::Caller;
use crate::ca::Ca;
use crate::directory::{Directory, Draft, Fact, NodeState, Org, Refusal, SealedSecret, Succession};
use crate::organisation::{LoadError, Organisation, secret};
use crate::seal::Sealer;
use crate::store::Store;
use host::entropy;
use model::ids::NodeId;
use model::key::PrivateKey;
use model::limits::{AUTHORITY_EVERY, AUTHORITY_LIFE};
use model::secret::Secret;
use model::time::WallMs;
use node::successor::{Announcement, Authority};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// An authority with its private keys.
#[derive(Debug, Clone)]
pub struct Pair {
    /// What everybody may know of it.
    pub public: Authority,
    /// The WireGuard key.
    pub key: Arc<PrivateKey>,
    /// The CA.
    pub ca: Arc<Ca>,
}

/// The authorities that are good now.
#[derive(Debug, Clone)]
pub struct Holding {
    /// The one in use.
    pub used: Pair,
    /// The next one, or the former.
    pub other: Option<Pair>,
    /// `other` is the former.
    pub switched: bool,
}

impl Holding {
    /// All, the older first.
    pub fn by_age(&self) -> Vec<&Pair> {
        match &self.other {
            Some(former) if self.switched => vec![former, &self.used],
            other => std::iter::once(&self.used).chain(other).collect(),
        }
    }
    /// What is to be trusted, the one in use first.
    pub fn trusted(&self) -> Vec<Authority> {
        std::iter::once(&self.used).chain(&self.other).map(|pair| pair.public.clone()).collect()
    }
}

/// The authorities of a running controller, and which nodes know the next one.
#[derive(Debug)]
pub struct Keyring {
    held: watch::Sender<Arc<Holding>>,
    /// Held through a step, so that two of them do not mix.
    turning: tokio::sync::Mutex<()>,
    /// Which announcement a node keeps, as it says. Nodes that are enrolled alone: that is its bound.
    told: Mutex<BTreeMap<NodeId, [u8; 32]>>,
}

async fn load(
    store: &dyn Store,
    sealer: &Sealer,
    org: &Org,
    public: Authority,
    [ca, key]: [&'static str; 2],
) -> Result<Pair, LoadError> {
    let ca = Ca::load(&org.trust_domain, &public.ca, &secret(store, sealer, ca).await?)?;
    let bytes = secret(store, sealer, key).await?;
    let bytes: [u8; 32] = bytes.expose().as_slice().try_into().map_err(|_| LoadError::Secret(key))?;
    Ok(Pair { public, key: Arc::new(Secret::new(bytes)), ca: Arc::new(ca) })
}

impl Keyring {
    /// What is stored.
    pub async fn load(store: &dyn Store, sealer: &Sealer, org: &Org) -> Result<Self, LoadError> {
        let used = load(store, sealer, org, org.authority(), [SealedSecret::CA_KEY, SealedSecret::CONTROL_KEY]).await?;
        let places = [SealedSecret::OTHER_CA_KEY, SealedSecret::OTHER_CONTROL_KEY];
        let other = match org.other() {
            Some(public) => Some(load(store, sealer, org, public, places).await?),
            None => None,
        };
        let switched = org.succession.as_ref().is_some_and(|succession| succession.switched);
        let held = watch::Sender::new(Arc::new(Holding { used, other, switched }));
        Ok(Self { held, turning: tokio::sync::Mutex::default(), told: Mutex::default() })
    }

    /// What is good now.
    pub fn held(&self) -> Arc<Holding> {
        Arc::clone(&self.held.borrow())
    }

    /// Follows that.
    pub fn watch(&self) -> watch::Receiver<Arc<Holding>> {
        self.held.subscribe()
    }

    /// A node says which announcement it keeps.
    pub fn hear(&self, node: NodeId, keeps: [u8; 32]) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(node, keeps);
    }

    /// Has this node said that it keeps this announcement, since the controller started?
    pub fn knows(&self, node: NodeId, digest: &[u8; 32]) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).get(&node) == Some(digest)
    }
}

/// The nodes that are not revoked: their names, and whether they know what was announced.
pub fn audience(organisation: &Organisation, announcement: &Announcement) -> Vec<(String, bool)> {
    let (now, digest) = (organisation.now(), announcement.digest());
    let knows = |node| organisation.keyring.knows(node, &digest);
    let gateways = now.gateways.values().map(|g| &g.record).filter(|g| g.state != NodeState::Revoked);
    let gateways = gateways.map(|g| (format!("gateway/{}", g.name), knows(NodeId::Gateway(g.id))));
    let devices = now.devices.values().map(|d| &d.record).filter(|d| d.state != NodeState::Revoked);
    let devices = devices.map(|d| (format!("device/{}", d.name), knows(NodeId::Device(d.id))));
    gateways.chain(devices).collect()
}

fn org(directory: &Directory) -> Result<&Fact<Org>, Refusal> {
    directory.org.as_ref().ok_or_else(|| Refusal::Failed("the store holds no organisation".to_owned()))
}

fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal::Failed(error.to_string())
}

/// Puts the secrets of a pair into their places, or takes what is there away.
fn place(organisation: &Organisation, draft: &mut Draft, at: [&'static str; 2], keys: Keys<'_>) -> Result<(), Refusal> {
    for (id, secret) in at.into_iter().zip([keys.0, keys.1]) {
        let sealed = organisation.sealer.seal(&SealedSecret::place(id), secret).map_err(failed)?;
        draft.put(id, &SealedSecret { sealed })?;
    }
    Ok(())
}

/// The private keys of a CA and of the controller.
type Keys<'a> = (&'a [u8], &'a [u8]);
const USED: [&str; 2] = [SealedSecret::CA_KEY, SealedSecret::CONTROL_KEY];
const OTHER: [&str; 2] = [SealedSecret::OTHER_CA_KEY, SealedSecret::OTHER_CONTROL_KEY];

/// Is this overlap possible?
fn check_overlap(organisation: &Organisation, overlap: Duration) -> Result<(), Refusal> {
    let least = organisation.timing.svid * 2;
    // What the old CA signed a moment before the switch must end before it is retired.
    if overlap < least {
        let why = format!("an overlap must be at least twice the life of certificates, which is {} s", least.as_secs());
        return Err(Refusal::Invalid(why));
    }
    if overlap > AUTHORITY_LIFE {
        return Err(Refusal::Invalid(format!("an overlap is at most {} days", AUTHORITY_LIFE.as_secs() / 86_400)));
    }
    Ok(())
}

/// Do the life of an authority and its overlap with the next one fit together, and to the life of certificates?
pub fn check_timing(organisation: &Organisation) -> Result<(), Refusal> {
    let timing = organisation.timing;
    check_overlap(organisation, timing.overlap)?;
    if timing.authority <= timing.overlap {
        return Err(Refusal::Invalid("the life must be longer than the overlap".to_owned()));
    }
    Ok(())
}

/// Makes the next authority and announces it: both are good for `overlap`, and in the middle of it they change places.
pub async fn announce(
    organisation: &Organisation,
    caller: &Caller,
    overlap: Duration,
) -> Result<Announcement, Refusal> {
    check_overlap(organisation, overlap)?;
    let keyring = &organisation.keyring;
    let _one = keyring.turning.lock().await;
    let (held, domain) = (keyring.held(), organisation.org()?.trust_domain);
    let announced = organisation.wall();
    let (ca, ca_key) = Ca::create(&domain, announced).map_err(failed)?;
    let key: PrivateKey = entropy::random::<32>().map(Secret::new).map_err(failed)?;
    let next = Authority { key: crate::init::public_key(&key), ca: ca.certificate().to_vec() };
    let (switches, ends) = (announced.plus(overlap / 2), announced.plus(overlap));
    let mut announcement = Announcement { next: next.clone(), announced, switches, ends, signature: Vec::new() };
    let text = announcement.text(domain.as_str(), &held.used.public);
    announcement.signature = held.used.ca.sign_text(&text).map_err(failed)?;
    let make = |directory: &Directory, draft: &mut Draft| {
        administrator::stand(organisation, directory, draft, caller)?;
        let fact = org(directory)?;
        if let Some(under_way) = &fact.record.succession {
            let until = crate::audit::utc(under_way.retires(fact.record.since()).max(under_way.announcement.ends));
            let why = format!("one authority is being followed by another already: wait until that is over ({until})");
            return Err(Refusal::InUse(why));
        }
        let before = fact.record.authority();
        let succession = Some(Succession { before, announcement: announcement.clone(), switched: false });
        draft.update(fact, &Org { succession, ..fact.record.clone() })?;
        place(organisation, draft, OTHER, (ca_key.expose(), key.expose()))?;
        let entry = Entry { at: announced, ..organisation.entry(caller, ANNOUNCED, "org/self") };
        Ok(((), told(entry, fact, &announcement)))
    };
    organisation.change(make).await?;
    let other = Some(Pair { public: next, key: Arc::new(key), ca: Arc::new(ca) });
    keyring.held.send_replace(Arc::new(Holding { used: held.used.clone(), other, switched: false }));
    tracing::info!(key = announcement.next.key.short(), "the controller's next key and CA are announced");
    Ok(announcement)
}

/// All that is needed to prove later, from the trail alone, that the one authority named the other.
fn told(entry: Entry, before: &Fact<Org>, announcement: &Announcement) -> Entry {
    let value = |value: serde_json::Result<serde_json::Value>| value.unwrap_or_default();
    entry
        .with("before", value(serde_json::to_value(before.record.authority())))
        .with("announcement", value(serde_json::to_value(announcement)))
}

/// The next authority is the one in use from now on.
pub async fn switch(organisation: &Organisation) -> Result<(), Refusal> {
    let keyring = &organisation.keyring;
    let _one = keyring.turning.lock().await;
    let held = keyring.held();
    let Some(next) = held.other.clone().filter(|_| !held.switched) else { return Ok(()) };
    let (former, wall) = (held.used.clone(), organisation.wall());
    let (next_ca, former_ca) = (next.ca.private_key(), former.ca.private_key());
    let make = |directory: &Directory, draft: &mut Draft| {
        let fact = org(directory)?;
        let missing = || Refusal::Failed("no successor is announced".to_owned());
        let succession = fact.record.succession.clone().filter(|s| !s.switched).ok_or_else(missing)?;
        let Authority { key, ca } = next.public.clone();
        let succession = Some(Succession { switched: true, ..succession });
        draft.update(fact, &Org { key, ca, since: Some(wall), succession, ..fact.record.clone() })?;
        place(organisation, draft, USED, (next_ca.expose(), next.key.expose()))?;
        place(organisation, draft, OTHER, (former_ca.expose(), former.key.expose()))?;
        let entry = Entry::new(wall, "controller", "authority.switch", "org/self", Outcome::Done);
        Ok((
            (),
            entry
                .with("key", key.short())
                .with("fingerprint", next.public.fingerprint(fact.record.trust_domain.as_str())),
        ))
    };
    organisation.change(make).await?;
    keyring.held.send_replace(Arc::new(Holding { used: next.clone(), other: Some(former.clone()), switched: true }));
    tracing::info!(key = next.public.key.short(), "the controller uses its next key and CA from now on");
    Ok(())
}

/// The authority before is destroyed.
pub async fn retire(organisation: &Organisation) -> Result<(), Refusal> {
    let keyring = &organisation.keyring;
    let _one = keyring.turning.lock().await;
    let held = keyring.held();
    let Some(former) = held.other.clone().filter(|_| held.switched) else { return Ok(()) };
    let make = |directory: &Directory, draft: &mut Draft| {
        let fact = org(directory)?;
        draft.update(fact, &Org { succession: None, ..fact.record.clone() })?;
        for id in OTHER {
            draft.remove_key::<SealedSecret>(id)?;
        }
        let entry = Entry::new(organisation.wall(), "controller", "authority.retire", "org/self", Outcome::Done);
        Ok(((), entry.with("key", former.public.key.short())))
    };
    organisation.change(make).await?;
    keyring.held.send_replace(Arc::new(Holding { used: held.used.clone(), other: None, switched: false }));
    tracing::info!(key = former.public.key.short(), "the controller's former key and CA are destroyed");
    Ok(())
}

/// What the organisation's record says that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Announce,
    Switch,
    Retire,
}

/// When what is next is due.
fn next_step(org: &Org, life: Duration, overlap: Duration) -> (WallMs, Due) {
    match &org.succession {
        None => (org.since().plus(life.saturating_sub(overlap)), Due::Announce),
        Some(succession) if succession.switched => (succession.retires(org.since()), Due::Retire),
        Some(succession) => (succession.announcement.switches, Due::Switch),
    }
}

/// Does what is due; whether anything was.
pub async fn step(organisation: &Organisation) -> Result<bool, Refusal> {
    let timing = organisation.timing;
    let (at, due) = next_step(&organisation.org()?, timing.authority, timing.overlap);
    if organisation.wall() < at {
        return Ok(false);
    }
    match due {
        Due::Announce => {
            // Nobody asked: the trail names the program.
            let itself = Caller::Admin { actor: "controller".to_owned() };
            announce(organisation, &itself, timing.overlap).await.map(drop)?;
        }
        Due::Switch => switch(organisation).await?,
        Due::Retire => retire(organisation).await?,
    }
    Ok(true)
}

/// When the authority in use is announced to be followed, without anybody asking for it.
pub fn announces(organisation: &Organisation, org: &Org) -> WallMs {
    org.since().plus(organisation.timing.authority.saturating_sub(organisation.timing.overlap))
}

/// Does what is due, for as long as the program runs.
pub async fn keep_forever(organisation: Organisation) {
    let mut said = None;
    loop {
        tokio::time::sleep(AUTHORITY_EVERY).await;
        match step(&organisation).await {
            Ok(_) => said = None,
            Err(error) => {
                // Once, not twice a second: a full disk lasts.
                let text = error.to_string();
                if said.as_ref() != Some(&text) {
                    tracing::error!(error = text, "the controller's key and CA could not be turned over yet");
                    said = Some(text);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
