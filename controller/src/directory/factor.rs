//! Which second factors does a user have, and what was tried with them?

use super::encode;
use super::name::Name;
use super::user::PasswordHash;
use crate::passkey::Key;
use crate::store::Record;
use model::ids::{FactorId, UserId};
use model::limits::{CODE_FAILURES_MAX, CODE_WAIT, CODE_WAIT_MAX, FACTOR_PENDING};
use model::time::WallMs;
use serde::{Deserialize, Serialize};
use std::fmt;

/// By which method a second factor was given, as policies call it (`policy::MFA_METHODS`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// A code of an authenticator app (RFC 6238).
    Totp,
    /// One of the codes for the day when nothing else is at hand.
    RecoveryCode,
    /// What the identity provider took at the sign-in, whatever that was.
    Provider,
    /// A passkey of this machine's own page: every page that the machine serves to itself shares its relying party, so policies can
    /// tell it from one of an identity provider.
    PasskeyLocal,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Totp => "totp",
            Self::RecoveryCode => "recovery-code",
            Self::Provider => "provider",
            Self::PasskeyLocal => "passkey-local",
        })
    }
}

/// That a second factor was given in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// How.
    pub method: Method,
    /// When.
    pub at: WallMs,
}

/// An authenticator app that shares a secret with the controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totp {
    /// Its id; its secret lies under it ([`FactorSecret`]).
    pub id: FactorId,
    /// What its user calls it.
    pub name: Name,
    /// When it was begun.
    pub created: WallMs,
    /// It has shown a right code: it counts.
    pub confirmed: bool,
    /// The time step of the newest code that was taken: none up to it is taken again.
    pub step: u64,
    /// When that was.
    pub used: Option<WallMs>,
}

impl Totp {
    /// Does it still wait for its first code?
    pub fn is_pending(&self, now: WallMs) -> bool {
        !self.confirmed && now.since(self.created) < FACTOR_PENDING
    }
}

/// A passkey (WebAuthn): an authenticator that signs with a key of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passkey {
    /// Its id.
    pub id: FactorId,
    /// What its user calls it.
    pub name: Name,
    /// When it was added.
    pub created: WallMs,
    /// When it was used last.
    pub used: Option<WallMs>,
    /// What its authenticator calls it; nobody else's is called so ([`Unique::Passkey`](super::Unique::Passkey)).
    #[serde(with = "encode::bytes")]
    pub credential: Vec<u8>,
    /// Its public key.
    pub key: Key,
    /// How often it had signed then; 0 where it does not count.
    pub count: u32,
    /// Its key may be kept elsewhere, too.
    pub backup_eligible: bool,
}

impl Passkey {
    /// The id under which a credential is claimed: it may be longer than a key of the store.
    pub fn claim(credential: &[u8]) -> String {
        super::sha256(credential).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A second factor that counts, as it is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmed<'a> {
    /// Its id.
    pub id: FactorId,
    /// What its user calls it.
    pub name: &'a Name,
    /// How it is given.
    pub method: Method,
    /// Since when there is one.
    pub created: WallMs,
    /// When it was used last.
    pub used: Option<WallMs>,
}

/// The second factors of one user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Factors {
    /// Whose.
    pub user: UserId,
    /// Apps.
    pub totp: Vec<Totp>,
    /// Hashes of the recovery codes that are left.
    pub recovery: Vec<PasswordHash>,
    /// Wrong codes in a row.
    pub wrong: u32,
    /// Until when no code is looked at.
    pub locked_until: Option<WallMs>,
    /// Passkeys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passkeys: Vec<Passkey>,
}

impl Factors {
    /// None yet.
    pub const fn none(user: UserId) -> Self {
        Self { user, totp: Vec::new(), recovery: Vec::new(), wrong: 0, locked_until: None, passkeys: Vec::new() }
    }

    /// Those that count, recovery codes aside.
    pub fn confirmed(&self) -> impl Iterator<Item = Confirmed<'_>> {
        let apps = self.totp.iter().filter(|totp| totp.confirmed).map(|totp| Confirmed {
            id: totp.id,
            name: &totp.name,
            method: Method::Totp,
            created: totp.created,
            used: totp.used,
        });
        let passkeys = self.passkeys.iter().map(|passkey| Confirmed {
            id: passkey.id,
            name: &passkey.name,
            method: Method::PasskeyLocal,
            created: passkey.created,
            used: passkey.used,
        });
        apps.chain(passkeys)
    }

    /// By which methods the user could give a second factor.
    pub fn methods(&self) -> Vec<Method> {
        let has = |method| self.confirmed().any(|factor| factor.method == method).then_some(method);
        let recovery = (!self.recovery.is_empty()).then_some(Method::RecoveryCode);
        [has(Method::Totp), has(Method::PasskeyLocal), recovery].into_iter().flatten().collect()
    }

    /// How many there are, with an app that still waits for its first code.
    pub fn places(&self, now: WallMs) -> usize {
        self.confirmed().count() + self.totp.iter().filter(|totp| totp.is_pending(now)).count()
    }

    /// Is this name taken?
    pub fn is_named(&self, name: &Name, now: WallMs) -> bool {
        let pending = self.totp.iter().filter(|totp| totp.is_pending(now)).map(|totp| &totp.name);
        self.confirmed().map(|factor| factor.name).chain(pending).any(|held| held == name)
    }

    /// How long no code is looked at; none: it is now. A clock that was set back makes nobody wait longer than the longest wait.
    pub fn wait(&self, now: WallMs) -> Option<std::time::Duration> {
        let left = self.locked_until?.since(now);
        (!left.is_zero()).then(|| left.min(CODE_WAIT_MAX))
    }

    /// Counts a wrong code; each [`CODE_FAILURES_MAX`] in a row make the user wait, each time twice as long.
    pub fn count_wrong(&mut self, now: WallMs) {
        self.wrong = self.wrong.saturating_add(1);
        if self.wrong.is_multiple_of(CODE_FAILURES_MAX) {
            let times = (self.wrong / CODE_FAILURES_MAX).saturating_sub(1).min(16);
            self.locked_until = Some(now.plus(CODE_WAIT.saturating_mul(1 << times).min(CODE_WAIT_MAX)));
        }
    }

    /// A right code ends the row.
    pub const fn count_right(&mut self) {
        self.wrong = 0;
        self.locked_until = None;
    }
}

impl Record for Factors {
    const KIND: &'static str = "factors";
    type Id = UserId;
}

/// What an app shares with the controller, sealed. It has the form of a `SealedSecret`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactorSecret {
    /// What the sealer made of it for [`FactorSecret::place`].
    #[serde(with = "encode::bytes")]
    pub sealed: Vec<u8>,
}

impl FactorSecret {
    /// The place to which it is sealed: its key in the store.
    pub fn place(factor: FactorId) -> String {
        format!("{}/{factor}", Self::KIND)
    }
}

impl Record for FactorSecret {
    const KIND: &'static str = "factor-secret";
    type Id = FactorId;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn policies_know_every_method() {
        let methods = [Method::Totp, Method::RecoveryCode, Method::Provider, Method::PasskeyLocal];
        assert_eq!(methods.map(|method| method.to_string()), ::policy::MFA_METHODS);
        let stored = methods.map(|method| serde_json::to_value(method).unwrap());
        assert_eq!(
            stored,
            ::policy::MFA_METHODS.map(serde_json::Value::from),
            "and a session keeps them by the same words"
        );
    }

    #[test]
    fn ten_wrong_codes_in_a_row_make_the_user_wait_and_each_ten_more_twice_as_long() {
        let mut factors = Factors::none(UserId::from_bytes([1; 10]));
        let now = WallMs(1_000_000);
        let mut waits = Vec::new();
        for _ in 0..9 {
            for n in 0..CODE_FAILURES_MAX {
                assert!(n == 0 || factors.locked_until.is_none() || !waits.is_empty());
                factors.count_wrong(now);
            }
            waits.push(factors.wait(now).unwrap());
        }
        assert_eq!(waits[..4], [CODE_WAIT, CODE_WAIT * 2, CODE_WAIT * 4, CODE_WAIT * 8]);
        assert!(waits[7..].iter().all(|wait| *wait == CODE_WAIT_MAX), "{waits:?}");
        assert_eq!(factors.wait(now.plus(CODE_WAIT_MAX)), None, "it is over by itself");
        assert_eq!(factors.wait(WallMs(-1_000_000_000_000)), Some(CODE_WAIT_MAX));
        factors.count_right();
        assert_eq!((factors.wait(now), factors.wrong), (None, 0));
        // One guess in 333,333 is right (three steps are taken): a day of the longest wait has ten.
        assert!(Duration::from_secs(86_400) <= CODE_WAIT_MAX);
    }

    #[test]
    fn what_was_begun_waits_for_a_while_and_counts_only_once_confirmed() {
        let (id, name) = (FactorId::from_bytes([1; 10]), "phone".parse().unwrap());
        let mut totp = Totp { id, name, created: WallMs(0), confirmed: false, step: 0, used: None };
        assert!(totp.is_pending(WallMs(0)) && !totp.is_pending(WallMs(0).plus(FACTOR_PENDING)));
        let mut factors = Factors::none(UserId::from_bytes([1; 10]));
        factors.totp.push(totp.clone());
        assert!(factors.methods().is_empty());
        totp.confirmed = true;
        factors.totp = vec![totp];
        assert_eq!(factors.methods(), [Method::Totp]);
    }

    #[test]
    fn factors_that_were_written_before_there_were_passkeys_are_read() {
        let old = r#"{"user":"us-0000000000000000","totp":[],"recovery":[],"wrong":3,"locked_until":null}"#;
        let read: Factors = serde_json::from_str(old).unwrap();
        assert_eq!(read, Factors { wrong: 3, ..Factors::none(UserId::from_bytes([0; 10])) });
        assert_eq!(serde_json::to_string(&read).unwrap(), old, "and written so that a release before reads them");
    }
}
