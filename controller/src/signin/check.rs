//! Does the provider still stand by those who are logged in? Each of them is asked about every few minutes, and all at once when an
//! administrator says so. Its no ends the log-in; its silence does so only when it lasts longer than the provider's grace.

use super::admit::Said;
use super::locked;
use crate::arrange::Arranger;
use crate::audit::{Entry, Outcome};
use crate::directory::{Directory, Fact, Idp, IdpSession, Refusal, Session, User};
use crate::oidc::{RefreshError, Refreshed};
use crate::organisation::Organisation;
use host::entropy;
use model::ids::{IdpId, SessionId};
use model::limits::{IDP_CHECKS_AT_ONCE, NAME_MAX};
use model::secret::Secret;
use model::text::excerpt;
use model::time::WallMs;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;

/// How often it is looked whose turn it is.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What came of asking about people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// The provider stands by them as before.
    pub same: u64,
    /// It does, with other groups.
    pub changed: u64,
    /// It does not any more: the log-in has ended.
    pub ended: u64,
    /// Nothing was decided: it cannot be asked, or is not believed.
    pub unknown: u64,
}

/// What came of asking about one.
enum Word {
    Same,
    Changed,
    Ended,
    Unknown,
}

/// Checks for as long as the program runs.
pub async fn check_forever(organisation: Organisation, arranger: Arc<dyn Arranger>) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let checked = organisation.check_sign_ins(None, false).await;
        if checked.ended + checked.changed > 0 {
            // What it took away is gone before the next look.
            arranger.settled(organisation.now().revision).await;
        }
    }
}

/// An earlier turn by up to a tenth, so that those who came together are not asked about together for ever.
fn jittered(every: Duration) -> Duration {
    let random: [u8; 1] = entropy::random().unwrap_or_default();
    every.saturating_sub(every.mul_f64(f64::from(random[0]) / 2_560.0))
}

impl Organisation {
    /// Asks about those whose turn it is, or (`all`) about everybody, of this provider or of every one.
    pub async fn check_sign_ins(&self, idp: Option<IdpId>, all: bool) -> Checked {
        let _looking = self.sign_ins.looking.lock().await;
        let directory = self.now();
        let wall = self.wall();
        let live = |word: &IdpSession| {
            let session = directory.sessions.find(&word.session);
            session.is_some_and(|session| session.record.is_live(wall)) && word.refresh.is_some()
        };
        let mut turn = Vec::new();
        for word in directory.idp_sessions.values().filter(|word| idp.is_none_or(|idp| word.record.idp == idp)) {
            if live(&word.record) && self.is_due(&directory, &word.record, all) {
                turn.push(Fact::clone(word));
            }
        }
        // Who cannot be asked about one person is not asked about a thousand more.
        let silent = Arc::new(Mutex::new(BTreeSet::new()));
        let (mut checked, mut asking, mut turn) = (Checked::default(), JoinSet::new(), turn.into_iter());
        loop {
            while asking.len() < IDP_CHECKS_AT_ONCE
                && let Some(word) = turn.next()
            {
                asking.spawn(self.clone().ask_about(Arc::clone(&directory), word, Arc::clone(&silent)));
            }
            match asking.join_next().await {
                None => break,
                Some(Ok(Word::Same)) => checked.same += 1,
                Some(Ok(Word::Changed)) => checked.changed += 1,
                Some(Ok(Word::Ended)) => checked.ended += 1,
                Some(Ok(Word::Unknown) | Err(_)) => checked.unknown += 1,
            }
        }
        locked(&self.sign_ins.due).retain(|session, _| directory.idp_sessions.find(session).is_some());
        checked
    }

    async fn ask_about(
        self,
        directory: Arc<Directory>,
        word: Fact<IdpSession>,
        silent: Arc<Mutex<BTreeSet<IdpId>>>,
    ) -> Word {
        if locked(&silent).contains(&word.record.idp) {
            return Word::Unknown;
        }
        let said = self.check_one(&directory, &word).await;
        if matches!(said, Err(RefreshError::Unreachable(_))) {
            locked(&silent).insert(word.record.idp);
        }
        self.act_on(&word, said).await
    }

    /// Is it this one's turn? Then the next is set.
    fn is_due(&self, directory: &Directory, word: &IdpSession, all: bool) -> bool {
        let Some(idp) = directory.idps.find(&word.idp) else { return false };
        let now = self.clock.now();
        let mut due = locked(&self.sign_ins.due);
        let every = jittered(idp.record.check_every());
        // After a start: what was written down counts, so that not everybody is asked about at once.
        let first = || now.plus(every.saturating_sub(self.wall().since(word.checked)));
        let at = *due.entry(word.session).or_insert_with(first);
        if all || at <= now {
            due.insert(word.session, now.plus(every));
            return true;
        }
        false
    }

    async fn check_one(&self, directory: &Directory, word: &Fact<IdpSession>) -> Result<Refreshed, RefreshError> {
        let failed = |why: String| RefreshError::Failed(crate::oidc::OidcError::Form(crate::oidc::Asked::Token, why));
        let record = &word.record;
        let idp = directory.idps.find(&record.idp).ok_or_else(|| failed("the provider is gone".to_owned()))?;
        let user = directory.users.find(&record.user).and_then(|user| user.record.identity.as_ref());
        let subject = user.map(|identity| identity.subject.clone()).ok_or_else(|| failed("nobody's".to_owned()))?;
        let sealed = record.refresh.as_ref().map(|refresh| refresh.0.as_slice()).unwrap_or_default();
        let opened = self.sealer.open(&IdpSession::place(record.session), sealed);
        let opened = opened.map_err(|e| failed(e.to_string()))?;
        let token = String::from_utf8(opened.expose().clone()).map_err(|_| failed("damaged".to_owned()))?;
        let client = self.client_of(directory, idp).map_err(|not| failed(not.detail))?;
        client.refresh(&Secret::new(token), &subject, &idp.record.groups_claim).await
    }

    /// Writes down what came of it. A store that fails leaves the log-in as it was: its grace goes on.
    async fn act_on(&self, word: &Fact<IdpSession>, said: Result<Refreshed, RefreshError>) -> Word {
        let session = word.record.session;
        let written = match said {
            Ok(refreshed) => self.still_stands(session, &refreshed).await,
            Err(RefreshError::Revoked(why)) => self.end_session(session, &why.to_string()).await,
            Err(RefreshError::Unreachable(why) | RefreshError::Failed(why)) => {
                tracing::warn!(%session, %why, "the identity provider does not say whether it stands by a log-in");
                Ok(Word::Unknown)
            }
        };
        written.unwrap_or_else(|error| {
            tracing::warn!(%session, %error, "what the identity provider said could not be written down");
            Word::Unknown
        })
    }

    async fn still_stands(&self, session: SessionId, refreshed: &Refreshed) -> Result<Word, Refusal> {
        let rotated = refreshed.refresh.as_ref().map(|token| self.seal_refresh(session, token)).transpose()?;
        let directory = self.now();
        let looked = look(&directory, session, refreshed, self.wall());
        let Some(Looked { admits, differs, old, .. }) = looked else { return Ok(Word::Unknown) };
        if !admits {
            return self.end_session(session, "the person is in no group any more that may sign in").await;
        }
        if rotated.is_none() && !differs && !old {
            return Ok(Word::Same);
        }
        let changed = self.change(|directory, draft| {
            let wall = self.wall();
            let gone = || Refusal::Failed("the log-in is gone".to_owned());
            let Looked { word, user, identity, differs, .. } =
                look(directory, session, refreshed, wall).ok_or_else(gone)?;
            let mut next = word.record.clone();
            next.checked = wall;
            next.refresh = rotated.clone().or(next.refresh);
            draft.update(word, &next)?;
            if differs {
                draft.update(user, &User { identity: Some(identity), ..user.record.clone() })?;
            }
            let action = if differs { "idp.groups" } else { "idp.check" };
            let entry = Entry::new(wall, "controller", action, format!("session/{session}"), Outcome::Done);
            Ok((differs, entry.with("user", user.record.name.as_str())))
        });
        let (_, differs) = changed.await?;
        Ok(if differs { Word::Changed } else { Word::Same })
    }

    async fn end_session(&self, session: SessionId, why: &str) -> Result<Word, Refusal> {
        let ended = self.change(|directory, draft| {
            let fact = directory.sessions.find(&session).ok_or_else(|| Refusal::Failed("gone".to_owned()))?;
            draft.update(fact, &Session { ended: true, ..fact.record.clone() })?;
            if let Some(word) = directory.idp_sessions.find(&session) {
                draft.remove(word);
            }
            let user = directory.users.find(&fact.record.user).map(|user| user.record.name.to_string());
            let entry = Entry::new(
                self.wall(),
                "controller",
                "session.taken-back",
                format!("session/{session}"),
                Outcome::Done,
            );
            Ok(((), entry.with("user", user.unwrap_or_default()).with("why", why)))
        });
        ended.await.map(|_| Word::Ended)
    }
}

/// What a word means for what is held.
struct Looked<'a> {
    word: &'a Fact<IdpSession>,
    user: &'a Fact<User>,
    identity: crate::directory::Identity,
    /// May they still sign in?
    admits: bool,
    /// Are their groups others?
    differs: bool,
    /// Is it long ago that it was written down?
    old: bool,
}

fn look<'a>(directory: &'a Directory, session: SessionId, refreshed: &Refreshed, now: WallMs) -> Option<Looked<'a>> {
    let word = directory.idp_sessions.find(&session)?;
    let idp: &Idp = &directory.idps.find(&word.record.idp)?.record;
    let user = directory.users.find(&word.record.user)?;
    let held = user.record.identity.as_ref()?;
    let old = now.since(word.record.checked) >= idp.check_every().max(idp.grace() / 16);
    // A provider that says nothing of groups now leaves them as they are.
    let Some(theirs) = refreshed.list(&idp.groups_claim) else {
        return Some(Looked { word, user, identity: held.clone(), admits: true, differs: false, old });
    };
    let email = refreshed.string(&idp.email_claim).map(|text| excerpt(text, NAME_MAX)).or_else(|| held.email.clone());
    let said = Said { subject: held.subject.clone(), theirs, email: email.clone(), called: None };
    let mut identity = held.clone();
    identity.groups = said.groups(directory, idp);
    let differs = identity.groups != held.groups;
    Some(Looked { word, user, admits: idp.admits(&said.theirs), identity, differs, old })
}
