//! How does a log-in begin, whatever it was that proved who somebody is?

use crate::directory::{Directory, Draft, NodeState, Proved, Refusal, Session, sweep};
use crate::judge::Standing;
use crate::organisation::Organisation;
use model::ids::{DeviceId, SessionId, UserId};

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

/// Begins a log-in of the user on the device, which is theirs from now on; the one before it there ends. The caller stands on the
/// user.
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
    for old in directory.sessions.values().filter(|s| s.record.device == device && !s.record.ended) {
        let mut ended = old.record.clone();
        ended.ended = true;
        draft.update(old, &ended)?;
    }
    let session = Session {
        id: fresh,
        user,
        device,
        created: wall,
        ends: wall.plus(organisation.timing.session),
        ended: false,
        factor: None,
        proved: Proved::AtLogin,
    };
    draft.create(&fresh, &session)?;
    Ok(session)
}
