//! Whose word counts for what? A provider's makes an account, says in which groups it is, and begins a log-in.

use super::NotIn;
use crate::audit::{Entry, Outcome};
use crate::directory::idp::Refresh;
use crate::directory::{
    Directory, Draft, Fact, Identity, Idp, IdpSession, Method, Name, Proof, Proved, Refusal, Session, Unique, User,
};
use crate::login;
use crate::oidc::Tokens;
use crate::organisation::Organisation;
use crate::token::Claims;
use host::entropy;
use model::ids::{DeviceId, SessionId, UserId};
use model::limits::{GROUPS_MAX, NAME_MAX, REFRESH_TOKEN_MAX, SUBJECT_MAX};
use model::secret::Secret;
use model::text::excerpt;
use model::time::WallMs;
use std::collections::BTreeSet;

/// What a provider said of a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub subject: String,
    /// Their groups there.
    pub theirs: Vec<String>,
    pub email: Option<String>,
    /// What they are called there, by which their name here is made.
    pub called: Option<String>,
}

impl Said {
    fn of(idp: &Idp, tokens: &Tokens) -> Self {
        let text = |claim: &str| tokens.string(claim).map(|text| excerpt(text, NAME_MAX));
        Self {
            subject: tokens.claims.subject.clone(),
            theirs: tokens.list(&idp.groups_claim).unwrap_or_default(),
            email: text(&idp.email_claim),
            called: text(&idp.name_claim),
        }
    }

    /// The groups here.
    pub(super) fn groups(&self, directory: &Directory, idp: &Idp) -> BTreeSet<Name> {
        let mapped = idp.mapped(&self.theirs, |group| directory.groups.find(group).is_some());
        mapped.into_iter().take(GROUPS_MAX).collect()
    }
}

/// A second factor that the provider took, if it says so and when.
fn proof(idp: &Idp, claims: &Claims, now: WallMs) -> Option<Proof> {
    let said = claims.amr.iter().chain(&claims.acr).any(|word| idp.factor_words.contains(word));
    let at = claims.auth_time.filter(|at| *at <= now)?;
    said.then_some(Proof { method: Method::Provider, at })
}

/// A free name: what they are called there, with the provider's name behind it, so that nobody is taken for a local account.
fn free_name(directory: &Directory, idp: &Idp, said: &Said) -> Result<Name, Refusal> {
    let called = said.called.as_deref().or(said.email.as_deref()).unwrap_or("user");
    let stem = Name::from_machine(called.split('@').next().unwrap_or(called));
    let free = |name: &Name| directory.user(name.as_str()).is_none();
    let at_provider = |stem: Name| format!("{stem}.{}", idp.name).parse::<Name>();
    let numbered = (2..10_000).map(|number| at_provider(stem.numbered(number)));
    let mut names = std::iter::once(at_provider(stem.clone())).chain(numbered).filter_map(Result::ok);
    names.find(free).ok_or_else(|| Refusal::Failed(format!("no name is free for a person of `{}`", idp.name)))
}

/// Said to whoever is not in a group that may sign in.
const NOT_ADMITTED: &str = "you are in no group that may sign in here; ask an administrator";

impl Organisation {
    /// Logs in whom the provider's tokens are about.
    pub(super) async fn admit(
        &self,
        device: DeviceId,
        idp: &Fact<Idp>,
        tokens: &Tokens,
    ) -> Result<(Session, String), NotIn> {
        let (named, said) = (&idp.record.name, Said::of(&idp.record, tokens));
        let whom = excerpt(&said.subject, NAME_MAX);
        if said.subject.is_empty() || said.subject.len() > SUBJECT_MAX {
            let detail = format!("`{named}` calls the person `{whom}`, which is not of 1 to {SUBJECT_MAX} bytes");
            return Err(NotIn::denied("the identity provider's answer cannot be used; ask an administrator", detail));
        }
        if !idp.record.admits(&said.theirs) {
            let detail = format!("`{whom}` of `{named}` is in none of the groups that may sign in");
            return Err(NotIn::denied(NOT_ADMITTED, detail));
        }
        let usable = |token: &&Secret<String>| token.expose().len() <= REFRESH_TOKEN_MAX;
        let refresh = tokens.refresh.as_ref().filter(usable);
        if refresh.is_none() && !idp.record.without_recheck {
            let detail = format!(
                "`{named}` gives no refresh token, so nobody could ask whether it still stands by `{whom}`: allow the scope \
                 offline_access to this client there, or add the provider with --without-recheck"
            );
            return Err(NotIn::denied(
                "sign-in with the identity provider is not set up as it should be; ask an administrator",
                detail,
            ));
        }
        let random = || entropy::random().map_err(|e| Refusal::Failed(e.to_string()));
        let (id, fresh_user) = (SessionId::from_bytes(random()?), UserId::from_bytes(random()?));
        // One that goes on keeps its id, to which the token is sealed.
        let now = self.now();
        let known = now.identified(&idp.record.issuer, &said.subject);
        let held = known.and_then(|user| login::held(&now, user.record.id, device, self.wall()));
        let id = held.map_or(id, |held| held.record.id);
        let refresh = refresh.map(|token| self.seal_refresh(id, token)).transpose()?;
        let made = self.change(|directory, draft| {
            // The very provider that was asked: what was changed in between is not overlooked.
            let now_idp = directory.idps.find(&idp.record.id).filter(|now| now.revision == idp.revision);
            draft
                .stands_on(now_idp.ok_or_else(|| Refusal::Denied("the provider was changed; start again".to_owned()))?);
            let user = self.account(directory, draft, &idp.record, &said, fresh_user)?;
            let mut session = login::open(directory, draft, self, id, user.id, device)?;
            if session.id != id {
                return Err(Refusal::Denied("you were logged in or out meanwhile; start again".to_owned()));
            }
            let wall = self.wall();
            session.proved = tokens.claims.auth_time.filter(|at| *at <= wall).map_or(Proved::Untold, Proved::At);
            session.factor = proof(&idp.record, &tokens.claims, wall).or(session.factor);
            draft.put(&id, &session)?;
            let word =
                IdpSession { session: id, user: user.id, idp: idp.record.id, checked: wall, refresh: refresh.clone() };
            draft.put(&id, &word)?;
            let entry = Entry::new(wall, user.name.as_str(), "login", device.to_string(), Outcome::Done);
            let entry =
                entry.with("session", id.to_string()).with("idp", named.as_str()).with("subject", whom.as_str());
            Ok(((session, user.name.to_string()), entry))
        });
        let (_, done) = made.await?;
        Ok(done)
    }

    pub(super) fn seal_refresh(&self, session: SessionId, token: &Secret<String>) -> Result<Refresh, Refusal> {
        let sealed = self.sealer.seal(&IdpSession::place(session), token.expose().as_bytes());
        sealed.map(Refresh).map_err(|e| Refusal::Failed(e.to_string()))
    }

    /// The account of whom the provider means, made where there is none, with the groups that it says now.
    fn account(
        &self,
        directory: &Directory,
        draft: &mut Draft,
        idp: &Idp,
        said: &Said,
        fresh: UserId,
    ) -> Result<User, Refusal> {
        let groups = said.groups(directory, idp);
        let identity = Identity {
            idp: idp.id,
            issuer: idp.issuer.clone(),
            subject: said.subject.clone(),
            groups,
            email: said.email.clone(),
        };
        if let Some(fact) = directory.identified(&idp.issuer, &said.subject) {
            if fact.record.disabled {
                return Err(Refusal::Denied("your account is disabled; ask an administrator".to_owned()));
            }
            let mut user = fact.record.clone();
            user.identity = Some(identity);
            draft.update(fact, &user)?;
            return Ok(user);
        }
        let name = free_name(directory, idp, said)?;
        let key = Identity::key(&idp.issuer, &said.subject);
        draft.claim(directory, Unique::Identity, key, fresh, || "that person".to_owned())?;
        draft.claim(directory, Unique::UserName, &name, fresh, || format!("the user name `{name}`"))?;
        let user = User {
            id: fresh,
            name,
            password: None,
            identity: Some(identity),
            groups: BTreeSet::new(),
            roles: [].into(),
            disabled: false,
            restored: false,
            created: self.wall(),
        };
        draft.create(&fresh, &user)?;
        Ok(user)
    }
}
