//! How does a log-in begin, or go on, whatever it was that proved who somebody is?

use crate::directory::{Device, Directory, Draft, Fact, NodeState, Proved, Refusal, Session, sweep};
use crate::judge::{Standing, session_of};
use crate::organisation::Organisation;
use crate::store::Record as _;
use model::ids::{DeviceId, SessionId, UserId};
use model::time::WallMs;

/// So many of a person's devices are named where there is no room for another one.
const DEVICES_SHOWN: usize = 12;

/// Said on a device to whoever is not its user.
pub const OTHERS_DEVICE: &str = "this device belongs to another user; an administrator can revoke it";

/// May this user log in on this device?
pub fn may(directory: &Directory, user: Option<UserId>, device: DeviceId) -> Result<(), Refusal> {
    let fact = directory.devices.find(&device).filter(|d| d.record.state != NodeState::Revoked);
    let fact = fact.ok_or_else(|| Refusal::Denied(Standing::Device.to_string()))?;
    if fact.record.state == NodeState::Pending {
        return Err(Refusal::Denied(Standing::Pending.to_string()));
    }
    if fact.record.account.is_some() {
        return Err(Refusal::Denied(Standing::Workload.to_string()));
    }
    if fact.record.user.is_some_and(|owner| user != Some(owner)) {
        return Err(Refusal::Denied(OTHERS_DEVICE.to_owned()));
    }
    Ok(())
}

/// The log-in of this user that lives on this device: who proves anew who they are goes on with it.
pub fn held(directory: &Directory, user: UserId, device: DeviceId, now: WallMs) -> Option<&Fact<Session>> {
    session_of(directory, device, now).filter(|session| session.record.user == user)
}

/// May this person have one device more?
fn has_room(directory: &Directory, user: UserId, most: u32) -> Result<(), Refusal> {
    let devices = directory.devices.values().map(|fact| &fact.record);
    let theirs = devices.filter(|device| device.user == Some(user) && device.state != NodeState::Revoked);
    let names: Vec<&str> = theirs.map(|device| device.name.as_str()).collect();
    if names.len() < usize::try_from(most).unwrap_or(usize::MAX) {
        return Ok(());
    }
    let (shown, more) = names.split_at(names.len().min(DEVICES_SHOWN));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    let shown = shown.join(", ");
    Err(Refusal::Denied(format!(
        "you may use {most} devices, and have {} ({shown}{more}): ask an administrator to revoke one that you do not use any more",
        names.len()
    )))
}

/// Begins a log-in of the user on the device, which is theirs from now on; another's there ends. One of their own that lives there
/// goes on for as long as a fresh one would, and so does all that is open. The caller stands on the user.
pub fn open(
    directory: &Directory,
    draft: &mut Draft,
    organisation: &Organisation,
    fresh: SessionId,
    user: UserId,
    device: DeviceId,
) -> Result<Session, Refusal> {
    may(directory, Some(user), device)?;
    let wall = organisation.wall();
    if let Some(fact) = directory.devices.find(&device) {
        draft.stands_on(fact);
        if fact.record.user.is_none() {
            has_room(directory, user, organisation.timing.devices)?;
            draft.stands_on_all(directory, Device::KIND)?;
            let mut owned = fact.record.clone();
            owned.user = Some(user);
            draft.update(fact, &owned)?;
        }
    }
    sweep(directory, draft, wall)?;
    let held = held(directory, user, device, wall);
    let goes_on = held.map(|held| held.record.id);
    let of_device = directory.sessions.values().filter(|s| s.record.device == device && !s.record.ended);
    for old in of_device.filter(|old| Some(old.record.id) != goes_on) {
        let mut ended = old.record.clone();
        ended.ended = true;
        draft.update(old, &ended)?;
    }
    let ends = wall.plus(organisation.timing.session);
    if let Some(held) = held {
        let mut longer = held.record.clone();
        (longer.ends, longer.proved) = (ends, Proved::At(wall));
        draft.update(held, &longer)?;
        return Ok(longer);
    }
    let session =
        Session { id: fresh, user, device, created: wall, ends, ended: false, factor: None, proved: Proved::AtLogin };
    draft.create(&fresh, &session)?;
    Ok(session)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Entry, Outcome};
    use crate::store::Commit;
    use crate::test_support::{World, device, user};
    use model::limits::DEVICES_PER_USER;

    /// Machines that have joined, and on which nobody has logged in.
    async fn machines(world: &World, numbers: std::ops::RangeInclusive<u8>) {
        let plain = world.organisation.now().devices.find(&device(1)).unwrap().record.clone();
        for n in numbers {
            let name = format!("spare{n}").parse().unwrap();
            let made = Device { id: device(n), name, user: None, ..plain.clone() };
            let commit = Commit::default().put_record(&device(n), &made).unwrap();
            world.organisation.store.commit(commit).await.unwrap();
        }
        world.organisation.directory.at_least(world.organisation.store.revision()).await;
    }

    async fn log_in(world: &World, number: u8) -> Result<(), String> {
        let organisation = &world.organisation;
        let fresh = SessionId::from_bytes([100 + number; 10]);
        let change = organisation.change(|directory, draft| {
            let session = open(directory, draft, organisation, fresh, user(1), device(number))?;
            Ok((session, Entry::new(organisation.wall(), "test", "login", "session", Outcome::Done)))
        });
        let made = change.await.map(drop).map_err(|refusal| refusal.to_string());
        organisation.directory.at_least(organisation.store.revision()).await;
        made
    }

    #[tokio::test]
    async fn a_person_has_so_many_devices_and_is_told_which() {
        let world = World::new().await;
        let last = 10 + u8::try_from(DEVICES_PER_USER).unwrap();
        machines(&world, 11..=last).await;
        // One is theirs from the start.
        for number in 11..last {
            log_in(&world, number).await.unwrap();
        }
        let why = log_in(&world, last).await.unwrap_err();
        assert!(why.contains("may use 10 devices") && why.contains("laptop1, spare11"), "{why}");
        log_in(&world, 11).await.unwrap();
        let mut gone = world.organisation.now().devices.find(&device(12)).unwrap().record.clone();
        gone.state = NodeState::Revoked;
        let commit = Commit::default().put_record(&device(12), &gone).unwrap();
        world.organisation.store.commit(commit).await.unwrap();
        world.organisation.directory.at_least(world.organisation.store.revision()).await;
        log_in(&world, last).await.unwrap();
    }
}
