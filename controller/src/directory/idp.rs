//! Which identity providers may say who somebody is, and what is made of their words?

use super::encode;
use super::group::Group;
use super::name::Name;
use crate::store::Record;
use model::ids::{IdpId, SessionId, UserId};
use model::net::Prefix;
use model::time::WallMs;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// An OpenID Connect provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idp {
    /// Its id.
    pub id: IdpId,
    /// What people and administrators call it; the last part of its users' names.
    pub name: Name,
    /// Its issuer URL, to the letter.
    pub issuer: String,
    /// What it calls us.
    pub client_id: String,
    /// Does it know us by a secret ([`IdpSecret`])?
    pub has_secret: bool,
    /// What is asked for besides `openid`.
    pub scopes: Vec<String>,
    /// Further parameters of the question in the browser, such as `access_type=offline`.
    pub parameters: Vec<(String, String)>,
    /// The claim with a person's groups there.
    pub groups_claim: String,
    /// The claim with a person's e-mail address: shown, and for nothing else.
    pub email_claim: String,
    /// The claim that a person's name here is made of.
    pub name_claim: String,
    /// Who is in none of these groups there may not sign in. `None`: everybody may whom the provider knows.
    pub sign_in: Option<BTreeSet<String>>,
    /// A group there, and the one here that its members are in.
    pub groups: Vec<(String, Name)>,
    /// Are members of a group there in the group here that has the same name, if there is one?
    pub groups_as_named: bool,
    /// Words in `amr` or `acr` that say that the provider took a second factor (RFC 8176).
    pub factor_words: BTreeSet<String>,
    /// PEM of the only CAs that are trusted for it; otherwise the operating system's.
    pub ca_pem: Option<String>,
    /// Addresses that are asked although such are not.
    pub allow: Vec<Prefix>,
    /// Where the browser comes back to: `127.0.0.1` or `localhost`, at which port if it must be a certain one.
    pub redirect: Redirect,
    /// May people sign in with a code that they type in elsewhere (RFC 8628)?
    pub device_code: bool,
    /// May people sign in for whom it gives no refresh token? Nobody asks then whether it still stands by them.
    pub without_recheck: bool,
    /// How often it is asked whether it still stands by a person.
    pub check_every_ms: u64,
    /// How long a sign-in lives on while it cannot be asked.
    pub grace_ms: u64,
    /// When it was made.
    pub created: WallMs,
}

/// Where the browser comes back to, on the person's machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// `127.0.0.1` or `localhost`.
    pub host: String,
    /// A provider that compares the port has to know it; others let any be (RFC 8252, section 7.3).
    pub port: Option<u16>,
}

/// The path of the redirect.
pub const REDIRECT_PATH: &str = "/callback";

impl Redirect {
    /// The URI, for a browser on a machine where this port was free.
    pub fn uri(&self, port: u16) -> String {
        format!("http://{}:{}{REDIRECT_PATH}", self.host, self.port.unwrap_or(port))
    }
}

impl Idp {
    /// How often it is asked whether it still stands by a person.
    pub const fn check_every(&self) -> Duration {
        Duration::from_millis(self.check_every_ms)
    }
    /// How long a sign-in lives on while it cannot be asked.
    pub const fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms)
    }
    /// May somebody with these groups there sign in?
    pub fn admits(&self, theirs: &[String]) -> bool {
        self.sign_in.as_ref().is_none_or(|may| theirs.iter().any(|group| may.contains(group)))
    }
    /// The groups here of somebody with these groups there; `exists` says which there are.
    pub fn mapped(&self, theirs: &[String], exists: impl Fn(&Name) -> bool) -> BTreeSet<Name> {
        let named = self.groups.iter().filter(|(group, _)| theirs.contains(group)).map(|(_, here)| here.clone());
        let same = theirs.iter().filter(|_| self.groups_as_named).filter_map(|group| group.parse::<Name>().ok());
        // Who names groups there must not make owners here by a name.
        let same = same.filter(|group| group.as_str() != Group::OWNERS);
        named.chain(same).filter(exists).collect()
    }
}

impl Record for Idp {
    const KIND: &'static str = "idp";
    type Id = IdpId;
}

/// What a provider knows us by, sealed. It has the form of a `SealedSecret`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdpSecret {
    /// What the sealer made of it for [`IdpSecret::place`].
    #[serde(with = "encode::bytes")]
    pub sealed: Vec<u8>,
}

impl IdpSecret {
    /// The place to which it is sealed: its key in the store.
    pub fn place(idp: IdpId) -> String {
        format!("{}/{idp}", Self::KIND)
    }
}

impl Record for IdpSecret {
    const KIND: &'static str = "idp-secret";
    type Id = IdpId;
}

/// That a provider stands by the person of a log-in, as of when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdpSession {
    /// The log-in.
    pub session: SessionId,
    /// Whose.
    pub user: UserId,
    /// At which provider.
    pub idp: IdpId,
    /// When it last said so. Written down some times within the provider's grace, not each time.
    pub checked: WallMs,
    /// With what it is asked, sealed for [`IdpSession::place`]; none where it gave nothing to ask with.
    pub refresh: Option<Refresh>,
}

/// A sealed refresh token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refresh(#[serde(with = "encode::bytes")] pub Vec<u8>);

impl IdpSession {
    /// The place to which its refresh token is sealed.
    pub fn place(session: SessionId) -> String {
        format!("{}/{session}", Self::KIND)
    }
    /// Does the log-in still stand on the provider's word at `now`? A clock that was set back makes no word newer.
    pub fn stands(&self, idp: &Idp, now: WallMs) -> bool {
        self.refresh.is_none() || now.since(self.checked) < idp.grace()
    }
}

impl Record for IdpSession {
    const KIND: &'static str = "idp-session";
    type Id = SessionId;
}

/// Who a user is at a provider: never by an e-mail address, which may be given to somebody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The provider.
    pub idp: IdpId,
    /// Its issuer URL.
    pub issuer: String,
    /// What it calls the person, for good.
    pub subject: String,
    /// Groups here by its word.
    pub groups: BTreeSet<Name>,
    /// The e-mail address, to show.
    pub email: Option<String>,
}

impl Identity {
    /// The id under which (issuer, subject) is claimed.
    pub fn key(issuer: &str, subject: &str) -> String {
        let both = format!("{issuer}\0{subject}");
        super::sha256(both.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuer_and_subject_are_not_run_together() {
        assert_ne!(Identity::key("https://a", "b"), Identity::key("https://ab", ""));
        assert_eq!(Identity::key("https://a", "b").len(), 64);
    }
}
