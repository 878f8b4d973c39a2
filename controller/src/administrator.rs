//! Which person administers from a device, and what of others may that person touch?
//!
//! `crate::authz` says which role may call which RPC. Here is who has a role: whoever is logged in on the device, by the
//! newest directory, at each call; and once more in the change itself, which stands on that very user and log-in. And here
//! is what no role reaches: who is no owner changes nothing that is an owner's, and gives nobody a role.

use crate::authz::{self, Caller, Person};
use crate::break_glass;
use crate::directory::{AdminRole, BreakGlass, Directory, Draft, Group, Name, Refusal, User};
use crate::factors;
use crate::judge::{self, Subject};
use crate::organisation::Organisation;
use crate::rate::Act;
use crate::store::Record as _;
use model::ids::{DeviceId, NodeId, UserId};
use model::limits::ADMIN_FACTOR_AGE;
use model::secret::Secret;
use model::time::WallMs;
use std::fmt;
use std::sync::Arc;
use tonic::{Code, Status};

/// How many new owners the trail names; the rest it counts.
const NAMES_TOLD: usize = 20;

/// Finds the person behind a device's call.
#[derive(Clone)]
pub struct People(Organisation);

impl fmt::Debug for People {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("People")
    }
}

impl People {
    /// Those of this organisation.
    pub const fn new(organisation: Organisation) -> Self {
        Self(organisation)
    }

    /// Who makes this call; none: nobody who may, whatever the reason. The error is for somebody who may.
    pub fn admit(&self, device: DeviceId, method: &str) -> Option<Result<Caller, Status>> {
        let (directory, now) = (self.0.now(), self.0.wall());
        let subject = judge::subject(&directory, device, now).ok()?;
        let caller = Caller::Person(Arc::new(person(&subject)));
        if !authz::authorize(&caller, method) {
            return None;
        }
        let needs_factor = authz::needs_factor(method);
        let act = if needs_factor { Act::AdminChange } else { Act::AdminRead };
        let admitted = self.0.take_turn(act, NodeId::Device(device)).and_then(|()| match needs_factor {
            true => has_proof(&directory, &subject, now),
            false => Ok(()),
        });
        Some(admitted.map(|()| caller).map_err(|refusal| match refusal {
            Refusal::Often(_) => Status::new(Code::ResourceExhausted, refusal.to_string()),
            other => Status::permission_denied(other.to_string()),
        }))
    }
}

fn person(subject: &Subject<'_>) -> Person {
    let user = &subject.user.record;
    let (name, roles) = (user.name.clone(), user.roles.clone());
    Person { user: user.id, name, device: subject.device.record.id, roles }
}

/// Was a second factor given lately? Whoever finds a machine unlocked must not administer with it.
fn has_proof(directory: &Directory, subject: &Subject<'_>, now: WallMs) -> Result<(), Refusal> {
    let fresh = |at: WallMs| now >= at && now.since(at) <= ADMIN_FACTOR_AGE;
    if subject.session.record.factor.is_some_and(|proof| fresh(proof.at)) {
        return Ok(());
    }
    let minutes = ADMIN_FACTOR_AGE.as_secs() / 60;
    let none = factors::of(directory, subject.user.record.id).confirmed().next().is_none();
    let first = if none { "you have none: add one with `umbra mfa add`, then run" } else { "run" };
    Err(Refusal::Denied(format!(
        "this needs a second factor of the last {minutes} min: {first} `umbra mfa verify`, and try again"
    )))
}

/// An organisation that is older than roles: whoever is in the group of owners, whose first member spent the token of `init`,
/// has the role of one now, and there is a break-glass key. Done once: what marks it is that key. Answers the new owners and
/// the key, which `keep` has kept before anything was changed.
pub async fn upgrade<E: fmt::Display>(
    organisation: &Organisation,
    keep: impl FnOnce(&Secret<String>) -> Result<(), E>,
) -> Result<Option<Vec<Name>>, Refusal> {
    if organisation.now().break_glass.is_some() {
        return Ok(None);
    }
    let failed = |error: &dyn fmt::Display| Refusal::Failed(error.to_string());
    let (key, record) = break_glass::make(organisation.wall()).map_err(|e| failed(&e))?;
    keep(&key).map_err(|e| failed(&e))?;
    let make = |directory: &Directory, draft: &mut Draft| {
        draft.create(BreakGlass::ID, &record)?;
        draft.stands_on_all(directory, User::KIND)?;
        let mut names = Vec::new();
        let old = |user: &User| user.groups.iter().any(|group| group.as_str() == Group::OWNERS);
        for fact in directory.users.values().filter(|fact| old(&fact.record)) {
            let mut user = fact.record.clone();
            user.roles.insert(AdminRole::Owner);
            names.push(user.name.clone());
            draft.update(fact, &user)?;
        }
        let told: Vec<_> = names.iter().map(Name::as_str).take(NAMES_TOLD).collect();
        let itself = Caller::Admin { actor: "controller".to_owned() };
        let entry = organisation.entry(&itself, "role.upgrade", "org/self");
        let entry = entry.with("owners", u64::try_from(names.len()).unwrap_or(u64::MAX));
        Ok((names.clone(), entry.with("first", told.join(", "))))
    };
    organisation.change(make).await.map(|(_, names)| Some(names))
}

/// What a change of a person stands on: the log-in, the user and the roles as they are when it is made. Revoking any of
/// them is a conflict with a change that is under way.
pub fn stand(
    organisation: &Organisation,
    directory: &Directory,
    draft: &mut Draft,
    caller: &Caller,
) -> Result<(), Refusal> {
    let Caller::Person(person) = caller else { return Ok(()) };
    let now = organisation.wall();
    let gone = || Refusal::Denied("your log-in or your roles changed meanwhile: nothing was changed".to_owned());
    let subject = judge::subject(directory, person.device, now).map_err(|_| gone())?;
    if self::person(&subject) != **person {
        return Err(gone());
    }
    has_proof(directory, &subject, now)?;
    draft.stands_on(subject.user);
    draft.stands_on(subject.session);
    draft.stands_on(subject.device);
    Ok(())
}

/// What only owners change: whoever has, or had before being disabled, a role that must not fall to anybody else.
pub fn may_touch(caller: &Caller, user: &User) -> Result<(), Refusal> {
    let theirs = |role: &AdminRole| matches!(role, AdminRole::Owner | AdminRole::Approver);
    match user.roles.iter().find(|role| theirs(role)) {
        Some(role) if !caller.is_owner() => Err(Refusal::Denied(format!(
            "user `{}` has the role {role}: only an owner changes what is theirs",
            user.name
        ))),
        _ => Ok(()),
    }
}

/// The same, by id.
pub fn may_touch_user(caller: &Caller, directory: &Directory, user: UserId) -> Result<(), Refusal> {
    directory.users.find(&user).map_or(Ok(()), |fact| may_touch(caller, &fact.record))
}

/// Who is in the owners' group is for owners to say.
pub fn may_touch_group(caller: &Caller, group: &Name) -> Result<(), Refusal> {
    if group.as_str() != Group::OWNERS || caller.is_owner() {
        return Ok(());
    }
    Err(Refusal::Denied(format!("only an owner changes who is in group `{group}`")))
}

/// The provider at which an owner signs in is for owners to add and to remove: it says who they are.
pub fn may_touch_issuer(caller: &Caller, directory: &Directory, issuer: &str) -> Result<(), Refusal> {
    let there = |user: &User| user.identity.as_ref().is_some_and(|who| who.issuer == issuer);
    let mut users = directory.users.values().map(|fact| &fact.record).filter(|user| there(user));
    users.try_for_each(|user| may_touch(caller, user))
}

/// From afar nobody takes the last owner away: then nobody could give it back from afar.
pub fn leaves_an_owner(
    caller: &Caller,
    directory: &Directory,
    draft: &mut Draft,
    leaving: &User,
) -> Result<(), Refusal> {
    let owns = |user: &User| user.roles.contains(&AdminRole::Owner) && !user.disabled;
    if !matches!(caller, Caller::Person(_)) || !owns(leaving) {
        return Ok(());
    }
    draft.stands_on_all(directory, User::KIND)?;
    if directory.users.values().any(|fact| fact.record.id != leaving.id && owns(&fact.record)) {
        return Ok(());
    }
    Err(Refusal::InUse(format!(
        "`{}` is the last owner: make another one first, or do it at the controller's own machine",
        leaving.name
    )))
}

#[cfg(test)]
pub(crate) mod tests;
