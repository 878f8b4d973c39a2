//! How does a user get a second factor, and how is one given? Apps with one-time codes, and recovery codes; passkeys in a file of
//! their own.
//!
//! All that counts happens in the change itself: a code is looked at, counted as wrong, or marked as used in one transaction,
//! so that tries in parallel are no more than tries in sequence, and of two equal codes one is taken.

mod passkeys;

use crate::audit::{Entry, Outcome};
use crate::authn;
use crate::directory::{
    Directory, Draft, FactorSecret, Factors, Method, Name, Passkey, PasswordHash, Proof, Refusal, Session, Totp, Unique,
};
use crate::judge::{self, Subject};
use crate::organisation::Organisation;
use crate::rate::Act;
use crate::totp::{self, Found};
use host::entropy;
use model::ids::{DeviceId, FactorId, NodeId, UserId};
use model::limits::{CODE_MAX, FACTOR_CHANGE_AGE, FACTORS_PER_USER_MAX, RECOVERY_CODES};
use model::revision::Revision;
use model::secret::Secret;
use model::time::WallMs;
use std::time::Duration;

/// Said to whoever types a wrong code, whatever is wrong with it.
const WRONG: &str =
    "that is not a code that counts now: type the one that your app shows, or a recovery code that was not used";
/// Said where a right code comes a second time.
const USED: &str = "this code was used already: wait for the next one";
/// Characters of a recovery code: 80 bits in base 32.
const RECOVERY_CHARS: usize = 16;

/// An app that waits for its first code.
pub struct Begun {
    /// Its id.
    pub id: FactorId,
    /// What the app and the controller share, in base 32.
    pub secret: Secret<String>,
    /// The same for a QR code.
    pub uri: Secret<String>,
}

/// Recovery codes as they are shown, once.
pub type RecoveryCodes = Vec<Secret<String>>;

/// What came of a code.
enum Tried {
    Right(Proof),
    Wrong(&'static str),
}

/// Too many wrong codes; so long to wait.
fn locked(wait: Duration) -> Refusal {
    let minutes = wait.as_secs().div_ceil(60);
    Refusal::Denied(format!(
        "too many wrong codes: wait {minutes} min, or ask an administrator to reset your second factors"
    ))
}

/// What a person typed, without what people put between.
fn typed(code: &Secret<String>) -> Result<Secret<String>, Refusal> {
    let kept = code.expose().chars().filter(|c| !matches!(c, ' ' | '-'));
    let kept = Secret::new(kept.map(|c| c.to_ascii_uppercase()).collect::<String>());
    if code.expose().len() > CODE_MAX || !kept.expose().bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Refusal::Invalid("a code has six digits, a recovery code 16 letters and digits".to_owned()));
    }
    Ok(kept)
}

/// The second factors of a user, none where there is no record.
pub fn of(directory: &Directory, user: UserId) -> Factors {
    directory.factors.find(&user).map_or_else(|| Factors::none(user), |fact| fact.record.clone())
}

/// Writes the factors of a user, on the condition that they are as they were read.
fn write(directory: &Directory, draft: &mut Draft, factors: &Factors) -> Result<(), Refusal> {
    match directory.factors.find(&factors.user) {
        Some(fact) => draft.update(fact, factors),
        None => draft.create(&factors.user, factors),
    }
}

/// Who asks, at a device where somebody is logged in.
fn subject(directory: &Directory, device: DeviceId, now: WallMs) -> Result<Subject<'_>, Refusal> {
    judge::subject(directory, device, now).map_err(|standing| Refusal::Denied(standing.to_string()))
}

/// May second factors be changed in this session? Whoever finds a machine unlocked must not make it theirs.
fn may_change(session: &Session, factors: &Factors, now: WallMs) -> Result<(), Refusal> {
    let fresh = |at: WallMs| now >= at && now.since(at) <= FACTOR_CHANGE_AGE;
    let minutes = FACTOR_CHANGE_AGE.as_secs() / 60;
    if factors.confirmed().next().is_none() {
        let why = || {
            format!(
                "your log-in is older than {minutes} min: log in again with `umbra login`, then add a second factor"
            )
        };
        return if session.proved_at().is_some_and(fresh) { Ok(()) } else { Err(Refusal::Denied(why())) };
    }
    let why = || format!("changes of second factors need one of the last {minutes} min: `umbra mfa verify`");
    if session.factor.is_some_and(|proof| fresh(proof.at)) { Ok(()) } else { Err(Refusal::Denied(why())) }
}

/// Is there room for one more, of this name?
fn may_add(factors: &Factors, name: &Name, now: WallMs) -> Result<(), Refusal> {
    if factors.places(now) >= FACTORS_PER_USER_MAX {
        return Err(Refusal::InUse(format!(
            "you have {FACTORS_PER_USER_MAX} second factors, as many as one may: remove one with `umbra mfa rm`"
        )));
    }
    if factors.is_named(name, now) { Err(Refusal::Taken { what: format!("the name `{name}`") }) } else { Ok(()) }
}

/// Whatever stood on a second factor in this user's sessions no longer does.
fn forget_proofs(directory: &Directory, draft: &mut Draft, user: UserId) -> Result<(), Refusal> {
    for session in directory.sessions.values().filter(|s| s.record.user == user && s.record.factor.is_some()) {
        draft.update(session, &Session { factor: None, ..session.record.clone() })?;
    }
    Ok(())
}

/// Removes every second factor of a user. Whoever does that ends the user's sessions, too.
pub fn remove_all(directory: &Directory, draft: &mut Draft, user: UserId) -> Result<usize, Refusal> {
    let Some(fact) = directory.factors.find(&user) else { return Ok(0) };
    for totp in &fact.record.totp {
        draft.remove_key::<FactorSecret>(&totp.id)?;
    }
    for passkey in &fact.record.passkeys {
        draft.release(Unique::Passkey, Passkey::claim(&passkey.credential))?;
    }
    draft.remove(fact);
    Ok(fact.record.confirmed().count())
}

/// Ten codes as they are shown, and their hashes as they are kept (argon2id: NIST SP 800-63B, 3.1.2.2 for fewer than 112 bits).
async fn make_recovery() -> Result<(RecoveryCodes, Vec<PasswordHash>), Refusal> {
    let (mut shown, mut kept) = (Vec::new(), Vec::new());
    for _ in 0..RECOVERY_CODES {
        let random: [u8; 10] = entropy::random().map_err(|e| Refusal::Failed(e.to_string()))?;
        let code = totp::base32(&random);
        let hash = authn::hash(Secret::new(code.clone())).await.map_err(|e| Refusal::Failed(e.to_string()))?;
        kept.push(hash);
        let groups: Vec<&str> = [0..4, 4..8, 8..12, 12..16].into_iter().filter_map(|group| code.get(group)).collect();
        shown.push(Secret::new(groups.join("-")));
    }
    Ok((shown, kept))
}

impl Organisation {
    /// Begins an app: it counts once it has shown a right code. One that was begun before and never showed one is replaced.
    pub async fn begin_totp(&self, device: DeviceId, name: &Name) -> Result<Begun, Refusal> {
        self.take_turn(Act::Factor, NodeId::Device(device))?;
        let failed = |e: &dyn std::fmt::Display| Refusal::Failed(e.to_string());
        let id = FactorId::from_bytes(entropy::random().map_err(|e| failed(&e))?);
        let secret: [u8; totp::SECRET_LEN] = entropy::random().map_err(|e| failed(&e))?;
        let secret = Secret::new(secret.to_vec());
        let sealed = self.sealer.seal(&FactorSecret::place(id), secret.expose()).map_err(|e| failed(&e))?;
        let sealed = FactorSecret { sealed };
        let changed = self.change(|directory, draft| {
            let now = self.wall();
            let subject = subject(directory, device, now)?;
            let user = subject.user.record.id;
            let mut factors = of(directory, user);
            may_change(&subject.session.record, &factors, now)?;
            for old in factors.totp.extract_if(.., |totp| !totp.confirmed) {
                draft.remove_key::<FactorSecret>(&old.id)?;
            }
            may_add(&factors, name, now)?;
            draft.stands_on(subject.session);
            draft.stands_on(subject.user);
            let (name, created) = (name.clone(), now);
            factors.totp.push(Totp { id, name, created, confirmed: false, step: 0, used: None });
            write(directory, draft, &factors)?;
            draft.create(&id, &sealed)?;
            let who = subject.user.record.name.as_str();
            let entry = Entry::new(now, who, "mfa.begin", format!("factor/{id}"), Outcome::Done);
            Ok((who.to_owned(), entry.with("device", device.to_string())))
        });
        let (_, user) = changed.await?;
        let uri = totp::uri(self.org()?.trust_domain.as_str(), &user, &secret);
        Ok(Begun { id, secret: Secret::new(totp::base32(secret.expose())), uri })
    }

    /// The first right code of an app: from now on it counts. With the first app come recovery codes.
    pub async fn confirm_totp(
        &self,
        device: DeviceId,
        id: FactorId,
        code: Secret<String>,
    ) -> Result<RecoveryCodes, Refusal> {
        // What nobody's app shows is neither counted nor kept.
        let code = typed(&code)?;
        self.take_turn(Act::Factor, NodeId::Device(device))?;
        let held = {
            let directory = self.now();
            let subject = subject(&directory, device, self.wall())?;
            of(&directory, subject.user.record.id)
        };
        let (shown, kept) = if held.recovery.is_empty() { make_recovery().await? } else { Default::default() };
        let changed = self.change(|directory, draft| {
            let now = self.wall();
            let subject = subject(directory, device, now)?;
            let mut factors = of(directory, subject.user.record.id);
            may_change(&subject.session.record, &factors, now)?;
            if let Some(wait) = factors.wait(now) {
                return Err(locked(wait));
            }
            let Some(totp) = factors.totp.iter_mut().find(|totp| totp.id == id && totp.is_pending(now)) else {
                return Err(Refusal::Denied(
                    "nothing waits for this code: begin again with `umbra mfa add`".to_owned(),
                ));
            };
            let tried = match self.find_step(directory, totp, &code, now)? {
                Found::Step(step) => {
                    (totp.confirmed, totp.step, totp.used) = (true, step, Some(now));
                    factors.count_right();
                    if factors.recovery.is_empty() {
                        factors.recovery.clone_from(&kept);
                    }
                    Tried::Right(Proof { method: Method::Totp, at: now })
                }
                Found::Used | Found::None => Tried::Wrong(WRONG),
            };
            self.settle(directory, draft, (&subject, device), factors, tried, ("mfa.add", id))
        });
        told(changed.await?.1)?;
        Ok(shown)
    }

    /// A second factor is given: the code of an app, or a recovery code, which is gone then.
    pub async fn verify_factor(&self, device: DeviceId, code: Secret<String>) -> Result<(Revision, Proof), Refusal> {
        // What nobody's app shows is neither counted nor kept.
        let code = typed(&code)?;
        self.take_turn(Act::Factor, NodeId::Device(device))?;
        let recovery =
            if code.expose().len() == RECOVERY_CHARS { self.find_recovery(device, &code).await? } else { None };
        let changed = self.change(|directory, draft| {
            let now = self.wall();
            let subject = subject(directory, device, now)?;
            let mut factors = of(directory, subject.user.record.id);
            if factors.methods().is_empty() {
                return Err(Refusal::Denied("you have no second factor: add one with `umbra mfa add`".to_owned()));
            }
            if let Some(wait) = factors.wait(now) {
                return Err(locked(wait));
            }
            let mut tried = Tried::Wrong(WRONG);
            for at in 0..factors.totp.len() {
                let Some(totp) = factors.totp.get_mut(at).filter(|totp| totp.confirmed) else { continue };
                match self.find_step(directory, totp, &code, now)? {
                    Found::Step(step) => {
                        (totp.step, totp.used) = (step, Some(now));
                        tried = Tried::Right(Proof { method: Method::Totp, at: now });
                        break;
                    }
                    Found::Used => tried = Tried::Wrong(USED),
                    Found::None => {}
                }
            }
            if let Some(at) = recovery.as_ref().and_then(|hash| factors.recovery.iter().position(|held| held == hash)) {
                factors.recovery.remove(at);
                tried = Tried::Right(Proof { method: Method::RecoveryCode, at: now });
            }
            if matches!(tried, Tried::Right(_)) {
                factors.count_right();
            }
            let session = subject.session.record.id;
            self.settle(directory, draft, (&subject, device), factors, tried, ("mfa.verify", session))
        });
        let (revision, tried) = changed.await?;
        Ok((revision, told(tried)?))
    }

    /// The user gives one up, by its name or id. Sessions forget the factors given in them; with the last app go the recovery codes.
    pub async fn remove_factor(&self, device: DeviceId, which: &str) -> Result<Revision, Refusal> {
        let none = || Refusal::Denied("you have no such second factor: `umbra mfa ls`".to_owned());
        if which.parse::<Name>().is_err() && which.parse::<FactorId>().is_err() {
            return Err(none());
        }
        self.take_turn(Act::Factor, NodeId::Device(device))?;
        let changed = self.change(|directory, draft| {
            let now = self.wall();
            let subject = subject(directory, device, now)?;
            let user = subject.user.record.id;
            let mut factors = of(directory, user);
            let is = |name: &Name, id: FactorId| name.as_str() == which || id.to_string() == which;
            let app = factors.totp.iter().position(|totp| is(&totp.name, totp.id));
            let passkey = factors.passkeys.iter().position(|passkey| is(&passkey.name, passkey.id));
            // Whether it exists is the user's own business.
            if app.or(passkey).is_none() {
                return Err(none());
            }
            may_change(&subject.session.record, &factors, now)?;
            // An app that was begun and is over may have left its name to a passkey.
            let (gone, counted) = if let Some(at) = passkey {
                let gone = factors.passkeys.remove(at);
                draft.release(Unique::Passkey, Passkey::claim(&gone.credential))?;
                (gone.id, true)
            } else {
                let gone = factors.totp.remove(app.ok_or_else(none)?);
                draft.remove_key::<FactorSecret>(&gone.id)?;
                (gone.id, gone.confirmed)
            };
            if counted {
                forget_proofs(directory, draft, user)?;
            }
            if factors.confirmed().next().is_none() {
                factors.recovery.clear();
            }
            write(directory, draft, &factors)?;
            draft.stands_on(subject.session);
            let who = subject.user.record.name.as_str();
            let entry = Entry::new(now, who, "mfa.remove", format!("factor/{gone}"), Outcome::Done);
            Ok(((), entry.with("device", device.to_string())))
        });
        Ok(changed.await?.0)
    }

    /// New recovery codes; the old ones are good for nothing.
    pub async fn renew_recovery(&self, device: DeviceId) -> Result<RecoveryCodes, Refusal> {
        self.take_turn(Act::Factor, NodeId::Device(device))?;
        let may = |directory: &Directory| {
            let now = self.wall();
            let subject = subject(directory, device, now)?;
            let factors = of(directory, subject.user.record.id);
            if factors.confirmed().next().is_none() {
                return Err(Refusal::Denied("you have no second factor: add one with `umbra mfa add`".to_owned()));
            }
            may_change(&subject.session.record, &factors, now).map(|()| factors)
        };
        may(&self.now())?;
        let (shown, kept) = make_recovery().await?;
        let changed = self.change(|directory, draft| {
            let mut factors = may(directory)?;
            let subject = subject(directory, device, self.wall())?;
            draft.stands_on(subject.session);
            factors.recovery.clone_from(&kept);
            write(directory, draft, &factors)?;
            let who = subject.user.record.name.as_str();
            let entry =
                Entry::new(self.wall(), who, "mfa.recovery-codes", format!("user/{}", factors.user), Outcome::Done);
            Ok(((), entry.with("device", device.to_string())))
        });
        changed.await?;
        Ok(shown)
    }

    /// Which time step of an app has this code?
    fn find_step(
        &self,
        directory: &Directory,
        totp: &Totp,
        code: &Secret<String>,
        now: WallMs,
    ) -> Result<Found, Refusal> {
        let missing =
            || Refusal::Failed("the secret of a second factor is missing: ask an administrator to reset it".to_owned());
        let held = directory.factor_secrets.find(&totp.id).ok_or_else(missing)?;
        let opened = self.sealer.open(&FactorSecret::place(totp.id), &held.record.sealed);
        let secret = opened.map_err(|e| Refusal::Failed(e.to_string()))?;
        Ok(totp::find(&secret, code.expose(), now, totp.step))
    }

    /// The hash of the recovery code that was typed. Hashing is slow on purpose: not within a change, and not while locked.
    async fn find_recovery(&self, device: DeviceId, code: &Secret<String>) -> Result<Option<PasswordHash>, Refusal> {
        let held = {
            let (directory, now) = (self.now(), self.wall());
            let factors = of(&directory, subject(&directory, device, now)?.user.record.id);
            if let Some(wait) = factors.wait(now) {
                return Err(locked(wait));
            }
            factors.recovery
        };
        for hash in held {
            if authn::verify(Secret::new(code.expose().clone()), Some(&hash)).await {
                return Ok(Some(hash));
            }
        }
        Ok(None)
    }

    /// Writes down what came of a code: a right one is a proof in the session, a wrong one is counted.
    fn settle(
        &self,
        directory: &Directory,
        draft: &mut Draft,
        (subject, device): (&Subject<'_>, DeviceId),
        mut factors: Factors,
        tried: Tried,
        (action, object): (&str, impl std::fmt::Display),
    ) -> Result<(Tried, Entry), Refusal> {
        let (now, who) = (self.wall(), subject.user.record.name.as_str());
        draft.stands_on(subject.user);
        let entry = match &tried {
            Tried::Right(proof) => {
                let session = Session { factor: Some(*proof), ..subject.session.record.clone() };
                draft.update(subject.session, &session)?;
                let entry = Entry::new(now, who, action, object.to_string(), Outcome::Done);
                entry.with("method", proof.method.to_string())
            }
            Tried::Wrong(why) => {
                // What was changed on the way to a wrong code is not kept.
                factors = Factors { wrong: factors.wrong, ..of(directory, factors.user) };
                factors.count_wrong(now);
                draft.stands_on(subject.session);
                let entry = Entry::new(now, who, action, object.to_string(), Outcome::Deny);
                let entry = entry.with("reason", (*why).to_owned()).with("wrong_in_a_row", u64::from(factors.wrong));
                match factors.wait(now) {
                    Some(wait) => entry.with("locked_s", wait.as_secs()),
                    None => entry,
                }
            }
        };
        write(directory, draft, &factors)?;
        Ok((tried, entry.with("device", device.to_string())))
    }
}

fn told(tried: Tried) -> Result<Proof, Refusal> {
    match tried {
        Tried::Right(proof) => Ok(proof),
        Tried::Wrong(why) => Err(Refusal::Denied(why.to_owned())),
    }
}

/// The methods by which a fresh second factor would turn this deny into a permit.
pub fn step_up(
    directory: &Directory,
    set: &::policy::PolicySet,
    subject: &Subject<'_>,
    facts: &::policy::Facts,
) -> Vec<Method> {
    let held = of(directory, subject.user.record.id).methods();
    // Who has none yet is told of those that can be added.
    let methods = if held.is_empty() { vec![Method::Totp, Method::PasskeyLocal] } else { held };
    let helps = |method: &Method| ::policy::decide(set, &facts.clone().with_factor(&method.to_string())).is_permit();
    methods.into_iter().filter(helps).collect()
}

#[cfg(test)]
mod tests;
