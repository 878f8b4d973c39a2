//! How does a log-in begin, or go on, whatever it was that proved who somebody is?

use crate::directory::{Directory, Draft, Fact, NodeState, Proved, Refusal, Session, sweep};
use crate::judge::{Standing, session_of};
use crate::organisation::Organisation;
use model::ids::{DeviceId, SessionId, UserId};
use model::time::WallMs;

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
