//! Who becomes owner when all owners are lost? Whoever holds the key that `init` made for an envelope, at the controller's
//! own socket.
//!
//! A key is used once: its use makes the next one. It is loud, and so is a wrong key: the trail says `break-glass`, and `status` shows an alarm
//! until somebody acknowledges it.

use crate::audit::{Entry, Outcome};
use crate::authz::Caller;
use crate::directory::{AdminRole, BreakGlass, BreakGlassUse, Directory, Draft, Refusal, User, sha256};
use crate::organisation::Organisation;
use crate::rate::Act;
use crate::store::Record as _;
use host::entropy::{self, EntropyError};
use model::ids::NodeId;
use model::revision::Revision;
use model::secret::Secret;
use model::time::WallMs;
use subtle::ConstantTimeEq as _;

/// Makes a key and what is stored of it.
pub fn make(now: WallMs) -> Result<(Secret<String>, BreakGlass), EntropyError> {
    let bytes: [u8; 32] = entropy::random()?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let record = BreakGlass { hash: sha256(text.as_bytes()), created: now, used: None };
    Ok((Secret::new(text), record))
}

fn fits(held: &BreakGlass, given: &Secret<String>) -> bool {
    sha256(given.expose().trim().as_bytes()).ct_eq(&held.hash).into()
}

/// Spends the key: the account is enabled and its user an owner. Answers the next key.
pub async fn use_key(
    organisation: &Organisation,
    caller: &Caller,
    key: Secret<String>,
    typed: &str,
) -> Result<(Revision, User, Secret<String>), Refusal> {
    organisation.take_turn(Act::BreakGlass, NodeId::Controller)?;
    let (next, fresh) = make(organisation.wall()).map_err(|e| Refusal::Failed(e.to_string()))?;
    let make = |directory: &Directory, draft: &mut Draft| {
        let wrong = || {
            Refusal::Denied(
                "this is not the break-glass key: each is good for one use, which shows the next one".to_owned(),
            )
        };
        let held = directory.break_glass.as_ref().filter(|fact| fits(&fact.record, &key)).ok_or_else(wrong)?;
        let fact = directory.users.typed(typed).ok_or_else(|| Refusal::missing("user", typed))?;
        let mut user = User { disabled: false, restored: false, ..fact.record.clone() };
        user.roles.insert(AdminRole::Owner);
        let times = held.record.used.as_ref().map_or(0, |before| before.times).saturating_add(1);
        let used = Some(BreakGlassUse { at: organisation.wall(), user: user.name.clone(), times });
        draft.update(held, &BreakGlass { used, ..fresh.clone() })?;
        draft.update(fact, &user)?;
        let entry = organisation.entry(caller, "break-glass", &fact.key).with("name", user.name.as_str());
        Ok((user, entry.with("was_disabled", fact.record.disabled)))
    };
    let changed = organisation.change(make).await;
    if let Err(Refusal::Denied(_)) = &changed {
        tracing::warn!(%caller, "somebody tried a wrong break-glass key");
        let wrong = |_: &Directory, _: &mut Draft| {
            let object = format!("{}/{}", BreakGlass::KIND, BreakGlass::ID);
            Ok(((), Entry { outcome: Outcome::Deny, ..organisation.entry(caller, "break-glass", object) }))
        };
        organisation.change(wrong).await?;
    }
    let (revision, user) = changed?;
    tracing::warn!(%caller, user = %user.name, "the break-glass key was used: this user is an owner now");
    Ok((revision, user, next))
}

/// What `status` says until somebody has acknowledged it.
pub fn alarm(directory: &Directory) -> Option<String> {
    let BreakGlassUse { at, user, times } = directory.break_glass.as_ref()?.record.used.as_ref()?;
    let before = if *times > 1 { format!(" (the newest of {times} uses)") } else { String::new() };
    Some(format!(
        "the break-glass key was used on {}{before}: `{user}` was made an owner; if that was meant, put the new key into its \
         envelope, then `umbra-controller admin acknowledge`",
        crate::audit::utc(*at)
    ))
}

#[cfg(test)]
mod tests;
