//! Who is the first owner? Whoever holds the one-time token of `init`, once, within 15 minutes by both clocks.

use crate::authn;
use crate::authz::Caller;
use crate::directory::{AdminRole, Group, OwnerToken, Refusal, Unique, User, sha256};
use crate::organisation::Organisation;
use host::entropy::{self, EntropyError};
use model::ids::UserId;
use model::limits::OWNER_TOKEN_LIFE;
use model::revision::Revision;
use model::secret::Secret;
use model::time::WallMs;
use subtle::ConstantTimeEq as _;

/// What the machine's clocks say: the wall clock can be set, the boot clock cannot, and starts anew with each boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BothClocks {
    /// The wall clock.
    pub wall: WallMs,
    /// Milliseconds since the machine started, suspend included.
    pub boot_ms: u64,
    /// Which start that was.
    pub boot_id: String,
}

impl BothClocks {
    /// Reads both. Without a readable boot clock the token cannot be redeemed: the id is empty, which never fits.
    pub fn read(wall: WallMs) -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        let seconds = uptime.split_whitespace().next().and_then(|s| s.parse::<f64>().ok());
        // Seconds with two digits behind the point, since the machine started: far below 2^53 ms.
        let boot_ms = seconds.map_or(u64::MAX, |s| (s * 1_000.0) as u64);
        Self { wall, boot_ms, boot_id: boot_id.trim().to_owned() }
    }
}

/// Makes a token and what is stored of it.
pub fn make(now: &BothClocks) -> Result<(Secret<String>, OwnerToken), EntropyError> {
    let bytes: [u8; 20] = entropy::random()?;
    let text: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let life_ms = u64::try_from(OWNER_TOKEN_LIFE.as_millis()).unwrap_or(0);
    let record = OwnerToken {
        hash: sha256(text.as_bytes()),
        expires: now.wall.plus(OWNER_TOKEN_LIFE),
        expires_boot_ms: now.boot_ms.saturating_add(life_ms),
        boot_id: now.boot_id.clone(),
    };
    Ok((Secret::new(text), record))
}

fn is_good(token: &OwnerToken, given: &Secret<String>, now: &BothClocks) -> bool {
    let issued_by_now = now.wall.plus(OWNER_TOKEN_LIFE) >= token.expires;
    let in_time = now.wall < token.expires
        && issued_by_now
        && !now.boot_id.is_empty()
        && token.boot_id == now.boot_id
        && now.boot_ms < token.expires_boot_ms;
    let fits: bool = sha256(given.expose().trim().as_bytes()).ct_eq(&token.hash).into();
    in_time && fits
}

/// Spends the token: makes a user with the role of an owner, in the group of owners. One of any number of parallel calls succeeds.
pub async fn claim(
    organisation: &Organisation,
    caller: &Caller,
    token: Secret<String>,
    name: &str,
    password: Secret<String>,
) -> Result<(Revision, User), Refusal> {
    let now = BothClocks::read(organisation.wall());
    claim_at(organisation, caller, token, name, password, &now).await
}

async fn claim_at(
    organisation: &Organisation,
    caller: &Caller,
    token: Secret<String>,
    name: &str,
    password: Secret<String>,
    now: &BothClocks,
) -> Result<(Revision, User), Refusal> {
    let name: crate::directory::Name =
        name.parse().map_err(|e: crate::directory::NameError| Refusal::Invalid(e.to_string()))?;
    let good = |directory: &crate::directory::Directory| {
        let fact = directory.owner_token.as_ref().filter(|fact| is_good(&fact.record, &token, now));
        fact.cloned().ok_or_else(|| {
            Refusal::Denied(
                "the owner token is wrong, spent or older than 15 minutes: as root on the controller's machine, \
                 `umbra-controller user add` needs none"
                    .to_owned(),
            )
        })
    };
    good(&organisation.now())?;
    let password = authn::hash(password).await.map_err(|e| Refusal::Invalid(e.to_string()))?;
    let id = UserId::from_bytes(entropy::random().map_err(|e| Refusal::Failed(e.to_string()))?);
    let owners: crate::directory::Name = Group::OWNERS.parse().map_err(|_| Refusal::Failed("owners".to_owned()))?;
    organisation
        .change(|directory, draft| {
            draft.remove(&*good(directory)?);
            let user = User {
                id,
                name: name.clone(),
                password: Some(password.clone()),
                identity: None,
                groups: [owners.clone()].into(),
                roles: [AdminRole::Owner].into(),
                disabled: false,
                restored: false,
                created: now.wall,
            };
            draft.claim(directory, Unique::UserName, &name, id, || format!("the user name `{name}`"))?;
            draft.create(&id, &user)?;
            if let Some(group) = directory.groups.find(&owners) {
                draft.stands_on(group);
            } else {
                draft.create(&owners, &Group { name: owners.clone(), created: now.wall })?;
            }
            let entry = organisation.entry(caller, "owner.claim", format!("user/{id}")).with("name", name.as_str());
            Ok((user, entry))
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::tests::made;
    use crate::test_support::Folder;

    fn clocks(wall: i64, boot_ms: u64) -> BothClocks {
        BothClocks { wall: WallMs(wall), boot_ms, boot_id: "boot".into() }
    }

    #[test]
    fn a_token_ends_by_whichever_clock_is_first() {
        let (token, record) = make(&clocks(1_000_000, 5_000)).unwrap();
        assert!(!format!("{record:?}").contains(token.expose()));
        let good = |now: BothClocks| is_good(&record, &token, &now);
        let life = OWNER_TOKEN_LIFE.as_millis() as u64;
        let (wall_end, boot_end) = (1_000_000 + life as i64, 5_000 + life);
        assert!(good(clocks(1_000_000, 5_000)) && good(clocks(wall_end - 1, boot_end - 1)));
        assert!(!good(clocks(wall_end, 6_000)), "wall clock");
        assert!(!good(clocks(1_000_001, boot_end)), "boot clock, though somebody holds the wall clock back");
        assert!(!good(clocks(999_999, 5_001)), "a wall clock before the token's making");
        assert!(!good(BothClocks { boot_id: "other".into(), ..clocks(1_000_000, 5_000) }), "another boot");
        assert!(!good(BothClocks { boot_id: String::new(), ..clocks(1_000_000, 5_000) }));
        assert!(!is_good(&record, &Secret::new("x".into()), &clocks(1_000_000, 5_000)));
    }

    #[test]
    fn the_machines_clocks_can_be_read() {
        let now = BothClocks::read(WallMs(1));
        assert!(now.boot_id.len() > 30 && now.boot_ms > 0 && now.boot_ms < u64::MAX / 2, "{now:?}");
    }

    #[tokio::test]
    async fn of_many_who_hold_the_token_one_becomes_owner() {
        let folder = Folder::new();
        let (organisation, token) = made(&folder).await;
        let caller = Caller::Admin { actor: "local:root".into() };
        let claim = |n: usize| {
            let (organisation, token, caller) = (organisation.clone(), token.clone(), caller.clone());
            tokio::spawn(async move {
                claim(&organisation, &caller, token, &format!("owner-{n}"), Secret::new("long enough".into())).await
            })
        };
        let tries: Vec<_> = (0..12).map(claim).collect();
        let mut owners = Vec::new();
        for one in tries {
            match one.await.unwrap() {
                Ok((_, user)) => owners.push(user.name),
                Err(refusal) => assert!(matches!(refusal, Refusal::Denied(_)), "{refusal}"),
            }
        }
        assert_eq!(owners.len(), 1);
        let now = organisation.now();
        assert_eq!(now.users.len(), 1);
        assert!(now.owner_token.is_none());
        let owner = &now.user(owners[0].as_str()).unwrap().record;
        assert!(owner.groups.contains(Group::OWNERS) && owner.roles.contains(&AdminRole::Owner));
    }
}
