//! How does a user get a passkey, and how is one shown? The controller asks; the answer comes from a page that `umbra` serves on the
//! user's own machine. What is wrong with an answer counts as a wrong code does.

use super::{RecoveryCodes, Tried, locked, make_recovery, may_add, may_change, of, subject, told};
use crate::directory::{Method, Name, Passkey, Proof, Refusal, Unique};
use crate::judge::Subject;
use crate::organisation::Organisation;
use crate::passkey::ceremony::{Ceremony, Party, Purpose};
use crate::passkey::{Asked, Asserted, Created, Fault, options};
use crate::rate::Act;
use host::entropy;
use model::ids::{DeviceId, FactorId, NodeId, ResourceId};
use model::revision::Revision;
use model::secret::Secret;
use serde_json::Value;

/// Said where nothing was asked, or it was asked somewhere else, or too long ago, or was answered already.
const NOTHING: &str = "no answer of a passkey is waited for here: begin again";

fn party(subject: &Subject<'_>, device: DeviceId) -> Party {
    Party { device, session: subject.session.record.id, user: subject.user.record.id }
}

/// What is no answer at all is neither counted nor kept; it ends nothing either.
fn no_answer() -> Refusal {
    Refusal::Invalid("this is no answer of a passkey".to_owned())
}

impl Organisation {
    /// Asks for a new passkey of this name, on a page at this port of the device's loopback. Answers what the browser is asked.
    pub fn begin_passkey(&self, device: DeviceId, name: &Name, port: u16) -> Result<Value, Refusal> {
        self.take_turn(Act::Factor, NodeId::Device(device))?;
        let (directory, now) = (self.now(), self.wall());
        let subject = subject(&directory, device, now)?;
        let (user, factors) = (&subject.user.record, of(&directory, subject.user.record.id));
        may_change(&subject.session.record, &factors, now)?;
        if let Some(wait) = factors.wait(now) {
            return Err(locked(wait));
        }
        may_add(&factors, name, now)?;
        let challenge = self.ask(&subject, device, port, Purpose::Add(name.clone()))?;
        let organisation = self.org()?.trust_domain;
        Ok(options::create(organisation.as_str(), (user.id, user.name.as_str()), &factors.passkeys, &challenge))
    }

    /// Asks for a passkey as a second factor, because this resource takes one, if any. Answers what the browser is asked.
    pub fn ask_passkey(&self, device: DeviceId, resource: Option<ResourceId>, port: u16) -> Result<Value, Refusal> {
        self.take_turn(Act::Factor, NodeId::Device(device))?;
        let (directory, now) = (self.now(), self.wall());
        let subject = subject(&directory, device, now)?;
        let factors = of(&directory, subject.user.record.id);
        if factors.passkeys.is_empty() {
            return Err(Refusal::Denied("you have no passkey: add one with `umbra mfa add --passkey`".to_owned()));
        }
        if let Some(wait) = factors.wait(now) {
            return Err(locked(wait));
        }
        let challenge = self.ask(&subject, device, port, Purpose::Verify(resource))?;
        Ok(options::get(&factors.passkeys, &challenge))
    }

    /// Begins a ceremony; answers its challenge.
    fn ask(&self, subject: &Subject<'_>, device: DeviceId, port: u16, purpose: Purpose) -> Result<[u8; 32], Refusal> {
        let random = Secret::new(entropy::random().map_err(|e| Refusal::Failed(e.to_string()))?);
        let (party, key) = (party(subject, device), subject.device.record.key);
        let ceremony = Ceremony { purpose, port, key, random };
        let challenge = ceremony.challenge(party);
        self.ceremonies.lock().open(self.clock.now(), party, ceremony);
        Ok(challenge)
    }

    /// The ceremony that waits for an answer from this device's log-in; it waits no longer.
    fn answered(&self, device: DeviceId) -> Result<(Party, Ceremony), Refusal> {
        let directory = self.now();
        let party = party(&subject(&directory, device, self.wall())?, device);
        let ceremony = self.ceremonies.lock().take(self.clock.now(), party);
        Ok((party, ceremony.ok_or_else(|| Refusal::Denied(NOTHING.to_owned()))?))
    }

    /// The answer to [`Self::begin_passkey`]: the passkey counts from now on. With the first factor come recovery codes.
    pub async fn confirm_passkey(&self, device: DeviceId, answer: &[u8]) -> Result<RecoveryCodes, Refusal> {
        let answer = Created::read(answer).ok_or_else(no_answer)?;
        self.take_turn(Act::Factor, NodeId::Device(device))?;
        let (party, ceremony) = self.answered(device)?;
        let Purpose::Add(name) = &ceremony.purpose else { return Err(Refusal::Denied(NOTHING.to_owned())) };
        let asked = Asked { challenge: &ceremony.challenge(party), port: ceremony.port };
        let made = asked.created(&answer);
        let first = made.is_ok() && of(&self.now(), party.user).recovery.is_empty();
        let (shown, kept) = if first { make_recovery().await? } else { Default::default() };
        let id = FactorId::from_bytes(entropy::random().map_err(|e| Refusal::Failed(e.to_string()))?);
        let changed = self.change(|directory, draft| {
            let now = self.wall();
            let subject = subject(directory, device, now)?;
            let mut factors = of(directory, party.user);
            if self::party(&subject, device) != party {
                return Err(Refusal::Denied(NOTHING.to_owned()));
            }
            may_change(&subject.session.record, &factors, now)?;
            if let Some(wait) = factors.wait(now) {
                return Err(locked(wait));
            }
            let tried = match &made {
                Ok(made) => {
                    may_add(&factors, name, now)?;
                    let claim = Passkey::claim(&made.credential);
                    draft.claim(directory, Unique::Passkey, claim, id, || "this passkey".to_owned())?;
                    factors.passkeys.push(Passkey {
                        id,
                        name: name.clone(),
                        created: now,
                        used: Some(now),
                        credential: made.credential.clone(),
                        key: made.key.clone(),
                        count: made.count,
                        backup_eligible: made.backup_eligible,
                    });
                    factors.count_right();
                    if factors.recovery.is_empty() {
                        factors.recovery.clone_from(&kept);
                    }
                    Tried::Right(Proof { method: Method::PasskeyLocal, at: now })
                }
                Err(fault) => Tried::Wrong(fault.reason()),
            };
            self.settle(directory, draft, (&subject, device), factors, tried, ("mfa.add", id))
        });
        told(changed.await?.1)?;
        Ok(shown)
    }

    /// The answer to [`Self::ask_passkey`]: a second factor is given.
    pub async fn verify_passkey(&self, device: DeviceId, answer: &[u8]) -> Result<(Revision, Proof), Refusal> {
        let answer = Asserted::read(answer).ok_or_else(no_answer)?;
        self.take_turn(Act::Factor, NodeId::Device(device))?;
        let (party, ceremony) = self.answered(device)?;
        let Purpose::Verify(resource) = ceremony.purpose else { return Err(Refusal::Denied(NOTHING.to_owned())) };
        let asked = Asked { challenge: &ceremony.challenge(party), port: ceremony.port };
        let changed = self.change(|directory, draft| {
            let now = self.wall();
            let subject = subject(directory, device, now)?;
            let mut factors = of(directory, party.user);
            if self::party(&subject, device) != party {
                return Err(Refusal::Denied(NOTHING.to_owned()));
            }
            if let Some(wait) = factors.wait(now) {
                return Err(locked(wait));
            }
            let shown = asked.asserted(&answer, party.user, &factors.passkeys);
            let (tried, cloned) = match shown {
                Ok((at, count)) => {
                    if let Some(passkey) = factors.passkeys.get_mut(at) {
                        (passkey.count, passkey.used) = (count, Some(now));
                    }
                    factors.count_right();
                    (Tried::Right(Proof { method: Method::PasskeyLocal, at: now }), None)
                }
                Err(fault) => {
                    let its = |passkey: &&Passkey| passkey.credential == answer.id;
                    let cloned = factors.passkeys.iter().find(its).filter(|_| fault == Fault::Cloned);
                    (Tried::Wrong(fault.reason()), cloned.map(|passkey| passkey.id))
                }
            };
            let about = ("mfa.verify", party.session);
            let (tried, mut entry) = self.settle(directory, draft, (&subject, device), factors, tried, about)?;
            if let Some(resource) = resource {
                entry = entry.with("for", resource.to_string());
            }
            if let Some(cloned) = cloned {
                entry = entry.with("cloned_authenticator", cloned.to_string());
            }
            Ok((tried, entry))
        });
        let (revision, tried) = changed.await?;
        Ok((revision, told(tried)?))
    }
}

#[cfg(test)]
mod tests;
