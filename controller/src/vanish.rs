//! When does an ephemeral node go? [`EPHEMERAL_GONE`] after it was last heard; then nothing is left of it but the audit trail.
//!
//! A node's probes are its signs of life. That one is silent is written down after [`EPHEMERAL_SILENT`], so that a controller that
//! was restarted goes on counting; what it never wrote down counts from its own start. Nobody is removed whom this run of the
//! controller did not miss for that long itself: while it was down, nobody could be heard.

use crate::audit::{Entry, Outcome};
use crate::directory::index::{address_id, key_id};
use crate::directory::{Device, Directory, Draft, Fact, Recovery, Refusal, Session, Unique, Vanished};
use crate::front::LastEndpoint;
use crate::organisation::Organisation;
use crate::store::{Commit, CommitError, Record as _};
use model::ids::{DeviceId, NodeId};
use model::limits::{EPHEMERAL_GONE, EPHEMERAL_SILENT, SWEEP_MAX};
use model::time::{Instant, WallMs};
use std::sync::PoisonError;
use std::time::Duration;

/// How often it is looked who is silent.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What is due of one ephemeral device.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    /// It was heard, or not long ago.
    Nothing,
    /// It is silent since then, and that is to be written down.
    Mark(WallMs),
    /// It was written down as silent, and was heard.
    Unmark,
    /// It is gone.
    Remove(WallMs),
}

/// One controller's looks, from its start on.
pub struct Watch {
    organisation: Organisation,
    started: Instant,
}

impl Watch {
    /// From now on.
    pub fn new(organisation: Organisation) -> Self {
        let started = organisation.clock.now();
        Self { organisation, started }
    }

    /// Looks for as long as the program runs.
    pub async fn keep_forever(self) {
        let mut every = tokio::time::interval(LOOK_EVERY);
        loop {
            every.tick().await;
            self.look().await;
        }
    }

    /// For how long this run of the controller has not heard it, and whether it ever did.
    fn silent(&self, device: &Device) -> (Duration, bool) {
        let now = self.organisation.clock.now();
        let heard = {
            let runs = self.organisation.runs.lock().unwrap_or_else(PoisonError::into_inner);
            runs.heard(NodeId::Device(device.id))
        };
        match heard {
            Some(at) => (now.since(at), true),
            // It may have joined a moment ago.
            None => (now.since(self.started).min(self.organisation.wall().since(device.created)), false),
        }
    }

    fn due(&self, directory: &Directory, device: &Device) -> Due {
        let ((silent, heard), wall) = (self.silent(device), self.organisation.wall());
        let marked = directory.vanished.find(&device.id).map(|fact| fact.record.since);
        if silent < EPHEMERAL_SILENT {
            return if heard && marked.is_some() { Due::Unmark } else { Due::Nothing };
        }
        let ago = i64::try_from(silent.as_millis()).unwrap_or(i64::MAX);
        // What an earlier run wrote down counts until this one has heard it.
        let since = marked.filter(|_| !heard).unwrap_or(WallMs(wall.0.saturating_sub(ago)));
        if silent >= EPHEMERAL_GONE || wall.since(since) >= EPHEMERAL_GONE {
            return Due::Remove(since);
        }
        if marked.is_none() { Due::Mark(since) } else { Due::Nothing }
    }

    /// Some of what is due; the rest comes with the next look.
    async fn look(&self) {
        let directory = self.organisation.now();
        // What two programs used stays, so that somebody sees the alarm.
        let ephemeral = |fact: &&Fact<Device>| fact.record.ephemeral && fact.record.copied.is_none();
        let (mut marks, mut gone) = (Commit::default(), Vec::new());
        for fact in directory.devices.values().filter(ephemeral) {
            let id = fact.record.id;
            let marked = match self.due(&directory, &fact.record) {
                Due::Nothing => Ok(marks),
                Due::Mark(since) => marks.put_record(&id, &Vanished { device: id, since }),
                Due::Unmark => key(id).map(|key| marks.delete(key)),
                Due::Remove(since) => {
                    gone.push((id, since));
                    Ok(marks)
                }
            };
            marks = match marked {
                Ok(marks) => marks,
                Err(error) => return tracing::error!(%error, "that a node is silent cannot be written down"),
            };
            if gone.len() >= SWEEP_MAX || marks.puts.len().max(marks.deletes.len()) >= SWEEP_MAX {
                break;
            }
        }
        if !(marks.puts.is_empty() && marks.deletes.is_empty())
            && let Err(error) = self.organisation.store.commit(marks).await
        {
            tracing::debug!(%error, "which nodes are silent could not be written down; it is tried again");
        }
        for (id, since) in gone {
            match self.remove(id, since).await {
                Ok(()) => tracing::info!(device = %id, "an ephemeral node that was gone is removed"),
                Err(error) => tracing::warn!(device = %id, %error, "an ephemeral node that is gone stays for now"),
            }
        }
    }

    async fn remove(&self, id: DeviceId, since: WallMs) -> Result<(), Refusal> {
        let change = |directory: &Directory, draft: &mut Draft| {
            let fact = directory.devices.find(&id).filter(|fact| fact.record.ephemeral);
            let fact = fact.ok_or_else(|| Refusal::missing("device", &id.to_string()))?;
            let entry =
                Entry::new(self.organisation.wall(), "controller", "device.remove", fact.key.as_str(), Outcome::Done)
                    .with("name", fact.record.name.as_str())
                    .with("gone_since", crate::audit::utc(since));
            let account = fact.record.account.and_then(|id| directory.accounts.find(&id));
            let entry = match account {
                Some(account) => entry.with("account", account.record.name.as_str()),
                None => entry,
            };
            remove(directory, draft, fact)?;
            Ok(((), entry))
        };
        self.organisation.change(change).await.map(|_| ())
    }
}

fn key(id: DeviceId) -> Result<crate::store::Key, CommitError> {
    crate::store::Key::of(Vanished::KIND, id).map_err(|e| CommitError::Invalid(e.to_string()))
}

/// Removes a device and all that is its own. What it was given is free again, its key too: without a record there is no tunnel.
fn remove(directory: &Directory, draft: &mut Draft, fact: &Fact<Device>) -> Result<(), Refusal> {
    let device = &fact.record;
    let node = NodeId::Device(device.id).to_string();
    draft.remove(fact);
    draft.release(Unique::DeviceName, &device.name)?;
    draft.release(Unique::NodeAddress, address_id(device.address))?;
    draft.release(Unique::DeviceV4, device.v4)?;
    for key in std::iter::once(device.key).chain(device.next_key) {
        draft.release(Unique::NodeKey, key_id(&key))?;
    }
    draft.remove_key::<Recovery>(&node)?;
    draft.remove_key::<LastEndpoint>(&node)?;
    draft.remove_key::<Vanished>(&device.id)?;
    draft.stands_on_all(directory, Session::KIND)?;
    for session in directory.sessions.values().filter(|s| s.record.device == device.id) {
        draft.remove(session);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
