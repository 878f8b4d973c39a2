//! Join keys: create, list, revoke. The secret goes into the join file and nowhere else.

use super::device::account_name;
use super::{AdminRpc, changed, parse, random};
use crate::authz::{Caller, Role};
use crate::directory::{Directory, Draft, JoinKey, JoinKeyState, Refusal, sha256, sweep};
use model::ids::{AccountId, JoinKeyId, SiteId};
use model::limits::{JOIN_BYTES_MAX, JOIN_KEY_LIFE, JOIN_KEY_LIFE_MAX, JOIN_KEY_USES_MAX, JOIN_KEYS_MAX};
use model::net::Prefix;
use model::secret::Secret;
use model::time::WallMs;
use proto::admin as wire;
use proto::join::{JoinFile, JoinKind};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a key may live, of what was asked for (0: the default).
fn life(ms: u64) -> Result<Duration, Refusal> {
    let life = if ms == 0 { JOIN_KEY_LIFE } else { Duration::from_millis(ms) };
    if life < Duration::from_secs(1) || life > JOIN_KEY_LIFE_MAX {
        let days = JOIN_KEY_LIFE_MAX.as_secs() / 86_400;
        return Err(Refusal::Invalid(format!("a join key may live from 1 second to {days} days")));
    }
    Ok(life)
}

/// How often a key may be used, of what was asked for (0: once). A gateway's key is for one gateway.
fn uses(kind: JoinKind, asked: u32) -> Result<u32, Refusal> {
    match (kind, asked.max(1)) {
        (JoinKind::Gateway, 2..) => {
            Err(Refusal::Invalid("a gateway's join key has one use: create one for each gateway".to_owned()))
        }
        (_, uses) if uses > JOIN_KEY_USES_MAX => {
            Err(Refusal::Invalid(format!("a join key may have at most {JOIN_KEY_USES_MAX} uses")))
        }
        (_, uses) => Ok(uses),
    }
}

/// The site that a gateway's key is bound to; a device's has none.
fn site(directory: &Directory, draft: &mut Draft, kind: JoinKind, typed: &str) -> Result<Option<SiteId>, Refusal> {
    match (kind, typed) {
        (JoinKind::Gateway, "") => {
            Err(Refusal::Invalid("a gateway's join key needs the site at which it will stand: --site".to_owned()))
        }
        (JoinKind::Device, "") => Ok(None),
        (JoinKind::Device, _) => Err(Refusal::Invalid("a device belongs to no site: leave --site out".to_owned())),
        (JoinKind::Gateway, typed) => {
            let site = directory.sites.typed(typed).ok_or_else(|| Refusal::missing("site", typed))?;
            draft.stands_on(site);
            Ok(Some(site.record.id))
        }
    }
}

/// The service account as which devices join; it takes part.
fn account(
    directory: &Directory,
    draft: &mut Draft,
    kind: JoinKind,
    typed: &str,
) -> Result<Option<AccountId>, Refusal> {
    if typed.is_empty() {
        return Ok(None);
    }
    if kind == JoinKind::Gateway {
        return Err(Refusal::Invalid("a gateway asks for no access: leave --account out".to_owned()));
    }
    let account = directory.accounts.typed(typed).ok_or_else(|| Refusal::missing("account", typed))?;
    if account.record.disabled {
        let why = format!("service account `{}` is disabled: nothing joins as it", account.record.name);
        return Err(Refusal::InUse(why));
    }
    draft.stands_on(account);
    Ok(Some(account.record.id))
}

/// What joins as a service account needs no person: whoever may make such a key has what the account has. An operator has not.
fn may_join_as(caller: &Caller, account: Option<AccountId>) -> Result<(), Refusal> {
    if account.is_none() || caller.is_owner() || caller.is(Role::SecurityAdmin) {
        return Ok(());
    }
    Err(Refusal::Denied("only a security-admin or an owner makes join keys of service accounts".to_owned()))
}

/// Knocks of one key more would not be heard; those of federation rules are heard beside them.
pub(super) fn has_room(directory: &Directory, now: WallMs) -> Result<(), Refusal> {
    let alive = |key: &&JoinKey| matches!(key.state(now), JoinKeyState::Usable | JoinKeyState::Used);
    let keys = directory.join_keys.values().map(|fact| &fact.record).filter(alive).count();
    if keys.saturating_add(directory.trusts.len()) < JOIN_KEYS_MAX {
        return Ok(());
    }
    let why = format!(
        "{JOIN_KEYS_MAX} join keys are alive, federation rules among them, and no more are heard: revoke some, or wait for their end"
    );
    Err(Refusal::InUse(why))
}

/// What the machine that joins is given, and the fingerprint that people compare. A file that no machine would read is refused.
pub(super) fn file(
    directory: &Directory,
    (kind, expires, needs_token): (JoinKind, WallMs, bool),
    secret: &Secret<[u8; 32]>,
) -> Result<(String, String), Refusal> {
    let org = directory.org.as_ref().ok_or_else(|| Refusal::Failed("there is no organisation".to_owned()))?;
    let org = org.record.clone();
    let fingerprint = org.fingerprint();
    let prefixes: BTreeSet<Prefix> = directory.sites.values().flat_map(|s| s.record.prefixes.iter().copied()).collect();
    let file = JoinFile {
        trust_domain: org.trust_domain.to_string(),
        controller_key: org.key,
        endpoints: org.endpoints,
        ca: org.ca,
        pool: org.pool,
        zones: org.zones,
        prefixes: prefixes.into_iter().collect(),
        kind,
        expires,
        secret: Secret::new(*secret.expose()),
        needs_token,
    };
    let text = file.to_text().map_err(|e| Refusal::Failed(e.to_string()))?;
    if text.len() > JOIN_BYTES_MAX {
        let why = format!("the join file would have {} bytes, and nodes read {JOIN_BYTES_MAX}", text.len());
        return Err(Refusal::InUse(format!("{why}: let sites have fewer prefixes")));
    }
    Ok((text, fingerprint))
}

impl AdminRpc {
    /// A join file holds the controller's key and CA in use: it must not promise more than they can hold.
    fn outlives_nothing(&self, expires: WallMs) -> Result<(), Refusal> {
        let org = self.organisation.org()?;
        let Some(succession) = org.succession.filter(|succession| !succession.switched) else { return Ok(()) };
        let (switches, ends) = (succession.announcement.switches, succession.announcement.ends);
        if expires <= ends {
            return Ok(());
        }
        Err(Refusal::Invalid(format!(
            "the join file would name the controller's key that ends on {}: choose a shorter --life, or make it after {}, when \
             the next key is used",
            crate::audit::utc(ends),
            crate::audit::utc(switches)
        )))
    }

    pub(super) async fn create_join_key(
        &self,
        caller: &Caller,
        message: wire::CreateJoinKeyRequest,
    ) -> Result<wire::CreateJoinKeyReply, Refusal> {
        let kind = match message.kind.as_str() {
            "device" => JoinKind::Device,
            "gateway" => JoinKind::Gateway,
            _ => return Err(Refusal::Invalid("say for what the key is: --device or --gateway".to_owned())),
        };
        let (uses, life) = (uses(kind, message.uses)?, life(message.life_ms)?);
        let ephemeral = message.ephemeral;
        if ephemeral && kind == JoinKind::Gateway {
            return Err(Refusal::Invalid("a gateway stays until it is revoked: leave --ephemeral out".to_owned()));
        }
        let id = JoinKeyId::from_bytes(random()?);
        let secret = Secret::new(random::<32>()?);
        let knock_key = tunnel::knock::knock_key(&secret);
        let enrol_token = tunnel::knock::enrol_token(&secret);
        let knock = self
            .organisation
            .sealer
            .seal(&JoinKey::place(id), knock_key.expose())
            .map_err(|e| Refusal::Failed(e.to_string()))?;
        let created = self.organisation.wall();
        self.outlives_nothing(created.plus(life))?;
        let make = |directory: &Directory, draft: &mut Draft| {
            has_room(directory, created)?;
            let site = site(directory, draft, kind, &message.site)?;
            let account = account(directory, draft, kind, &message.account)?;
            may_join_as(caller, account)?;
            let key = JoinKey {
                id,
                kind,
                site,
                account,
                ephemeral,
                uses,
                uses_left: uses,
                created,
                expires: created.plus(life),
                revoked: false,
                knock: knock.clone(),
                enrol_hash: sha256(enrol_token.expose()),
                redeemed: Vec::new(),
            };
            let made = file(directory, (kind, key.expires, false), &secret)?;
            draft.create(&id, &key)?;
            sweep(directory, draft, created)?;
            let entry = self.organisation.entry(caller, "join-key.create", format!("join-key/{id}"));
            let mut entry = entry.with("kind", kind.to_string()).with("uses", uses);
            if let Some(account) = account {
                entry = entry.with("account", account_name(directory, account));
            }
            Ok((made, if ephemeral { entry.with("ephemeral", true) } else { entry }))
        };
        let (revision, (text, fingerprint)) = self.change(caller, make).await?;
        Ok(wire::CreateJoinKeyReply {
            changed: Some(changed(revision, id, "")),
            join_file: text.into_bytes(),
            fingerprint,
        })
    }

    pub(super) async fn list_join_keys(
        &self,
        _: &Caller,
        _: wire::ListJoinKeysRequest,
    ) -> Result<wire::ListJoinKeysReply, Refusal> {
        let (now, wall) = (self.organisation.now(), self.organisation.wall());
        let keys = now.join_keys.values().map(|fact| {
            let key = &fact.record;
            let site =
                key.site.map(|id| now.sites.find(&id).map_or_else(|| id.to_string(), |s| s.record.name.to_string()));
            wire::JoinKey {
                id: key.id.to_string(),
                kind: key.kind.to_string(),
                site: site.unwrap_or_default(),
                uses: key.uses,
                uses_left: key.uses_left,
                expires_ms: key.expires.0,
                state: key.state(wall).to_string(),
                created_ms: key.created.0,
                account: key.account.map(|id| account_name(&now, id)).unwrap_or_default(),
                ephemeral: key.ephemeral,
            }
        });
        let mut join_keys: Vec<_> = keys.collect();
        join_keys.sort_by_key(|key| key.created_ms);
        Ok(wire::ListJoinKeysReply { join_keys })
    }

    pub(super) async fn revoke_join_key(
        &self,
        caller: &Caller,
        message: wire::RevokeJoinKeyRequest,
    ) -> Result<wire::Changed, Refusal> {
        let id: JoinKeyId = parse(&message.join_key)?;
        let make = |directory: &Directory, draft: &mut Draft| {
            let fact = directory.join_keys.find(&id).ok_or_else(|| Refusal::missing("join-key", &message.join_key))?;
            if fact.record.revoked {
                return Err(Refusal::InUse(format!("join key `{id}` is revoked already")));
            }
            draft.update(fact, &JoinKey { revoked: true, ..fact.record.clone() })?;
            Ok(((), self.organisation.entry(caller, "join-key.revoke", &fact.key)))
        };
        let (revision, ()) = self.change(caller, make).await?;
        Ok(changed(revision, id, ""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_short_lived_and_few_by_default() {
        assert_eq!(life(0).unwrap(), JOIN_KEY_LIFE);
        let longest = JOIN_KEY_LIFE_MAX.as_millis() as u64;
        assert_eq!(life(longest).unwrap(), JOIN_KEY_LIFE_MAX);
        assert!(life(longest + 1).is_err());
        assert!(life(999).is_err() && life(u64::MAX).is_err());
        assert_eq!(uses(JoinKind::Device, 0).unwrap(), 1);
        assert_eq!(uses(JoinKind::Device, JOIN_KEY_USES_MAX).unwrap(), JOIN_KEY_USES_MAX);
        assert!(uses(JoinKind::Device, JOIN_KEY_USES_MAX + 1).is_err());
        assert_eq!(uses(JoinKind::Gateway, 1).unwrap(), 1);
        assert!(uses(JoinKind::Gateway, 2).is_err());
    }
}
