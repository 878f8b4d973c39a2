//! What is kept of what is over? Ended sessions and join keys for a while, so that an administrator can look at them;
//! then they go, a bounded number with each change that asks for it. The audit trail keeps what happened.

use super::{Directory, Draft, JoinKeyState, Refusal};
use model::limits::{ENDED_KEEP, SWEEP_MAX};
use model::time::WallMs;

/// Removes some of the sessions and join keys that have been over for [`ENDED_KEEP`], with the change at hand. To be
/// called where such things are made, so that they cannot be made faster than they go.
pub fn sweep(directory: &Directory, draft: &mut Draft, now: WallMs) -> Result<usize, Refusal> {
    let over = |ends: WallMs| now.since(ends) > ENDED_KEEP;
    let mut swept = 0;
    for session in directory.sessions.values().filter(|s| over(s.record.ends)).take(SWEEP_MAX) {
        draft.remove(session);
        if let Some(word) = directory.idp_sessions.find(&session.record.id) {
            draft.remove(word);
        }
        swept += 1;
    }
    let dead = |state| matches!(state, JoinKeyState::Expired | JoinKeyState::Revoked);
    for key in
        directory.join_keys.values().filter(|k| over(k.record.expires) && dead(k.record.state(now))).take(SWEEP_MAX)
    {
        draft.remove(key);
        swept += 1;
    }
    Ok(swept)
}
