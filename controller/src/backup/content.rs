//! What lies in a backup, and what of it lives on after a restore?
//!
//! Lines of JSON: a header, the newest part of the audit trail, the records, an end that counts them. What is only good for the
//! moment (log-ins, grants, pairings with their PSKs, join keys, the owner's token) is left out when the backup is made, and
//! would be refused when it is read.

use super::Restored;
use crate::arrange::heads::Lost;
use crate::arrange::state::{StoredBoot, StoredGrant, StoredPairing, StoredReach, StoredTombstone};
use crate::directory::{
    Account, BreakGlass, Counter, Device, FactorSecret, Factors, Gateway, GatewaySeen, Group, Idp, IdpSecret,
    IdpSession, JoinKey, NodeState, Org, OwnerToken, PastPolicy, PolicyRevision, Recovery, Registration, Resource,
    SealedSecret, Session, Site, SpentToken, SuffixName, Trust, TrustSecret, Unique, User, Vanished,
};
use crate::front::LastEndpoint;
use crate::seal::{SealError, Sealer};
use crate::store::{Key, Record};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::limits::BACKUP_LINE_MAX;
use model::revision::Revision;
use model::secret::Secret;
use model::time::WallMs;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::BufRead;

/// The format that this program writes and reads.
pub const FORMAT: u32 = 1;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub umbra_backup: u32,
    /// The organisation's trust domain.
    pub trust_domain: String,
    /// When it was made, by the controller's wall clock.
    pub created: WallMs,
    /// The state that it holds.
    pub revision: Revision,
    /// The release that made it.
    pub version: String,
    /// Newest record of the audit trail; 0 when there is none.
    pub audit_seq: u64,
    /// Its hash.
    pub audit_hash: crate::audit::Hash,
}

/// Every other line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A record as it lies in the store.
    Record(String, Value),
    /// A secret of the controller, unsealed, base 64.
    Secret(String, String),
    /// A record of the audit trail: number, hash and line as they are stored, base 64. They come before everything else.
    Audit(u64, String),
    /// The end: how many lines came before.
    End(u64),
}

/// Why a line is refused.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// Reading failed; the container says how.
    #[error("{0}")]
    Read(#[from] std::io::Error),
    /// Not what this program writes.
    #[error("the backup's line {0} is not what this release understands ({1}): restore with the release that made it")]
    Line(u64, String),
    /// It ends too early.
    #[error("the backup has no end, or another count of records than it says: take another copy of it")]
    Cut,
    /// A secret does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// What becomes of a set's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// They are in the backup, and come back as they were.
    Kept,
    /// They are in the backup, and come back only after somebody has confirmed them.
    Confirmed,
    /// In the backup they are plain, in a store they are sealed.
    Sealed,
    /// They are not in the backup: their life ends with this incarnation.
    Ended,
}

/// THE table of what a backup holds; a set that is not in it is in no backup.
pub const FATES: [(&str, Fate); 49] = [
    (Org::KIND, Fate::Kept),
    (Group::KIND, Fate::Kept),
    (Site::KIND, Fate::Kept),
    (Resource::KIND, Fate::Kept),
    (SuffixName::KIND, Fate::Kept),
    (GatewaySeen::KIND, Fate::Kept),
    (Counter::KIND, Fate::Kept),
    (PastPolicy::KIND, Fate::Kept),
    // Of accounts, which have to be confirmed.
    (Factors::KIND, Fate::Kept),
    (LastEndpoint::KIND, Fate::Kept),
    // Of before the backup: none of them lets a second machine in.
    (SpentToken::KIND, Fate::Kept),
    // Of accounts and machines, which have to be confirmed.
    (Registration::KIND, Fate::Kept),
    (Unique::UserName.set(), Fate::Kept),
    (Unique::SiteName.set(), Fate::Kept),
    (Unique::GatewayName.set(), Fate::Kept),
    (Unique::DeviceName.set(), Fate::Kept),
    (Unique::ResourceName.set(), Fate::Kept),
    (Unique::Host.set(), Fate::Kept),
    (Unique::Virtual.set(), Fate::Kept),
    (Unique::DeviceV4.set(), Fate::Kept),
    (Unique::NodeKey.set(), Fate::Kept),
    (Unique::NodeAddress.set(), Fate::Kept),
    (Unique::Identity.set(), Fate::Kept),
    (Idp::KIND, Fate::Kept),
    (Unique::Passkey.set(), Fate::Kept),
    // Who has lost all but the backup may need it.
    (BreakGlass::KIND, Fate::Kept),
    (User::KIND, Fate::Confirmed),
    (Account::KIND, Fate::Confirmed),
    (Trust::KIND, Fate::Confirmed),
    (Gateway::KIND, Fate::Confirmed),
    (Device::KIND, Fate::Confirmed),
    (PolicyRevision::KIND, Fate::Confirmed),
    (SealedSecret::KIND, Fate::Sealed),
    // The same form.
    (Recovery::KIND, Fate::Sealed),
    (FactorSecret::KIND, Fate::Sealed),
    (IdpSecret::KIND, Fate::Sealed),
    (TrustSecret::KIND, Fate::Sealed),
    (Session::KIND, Fate::Ended),
    (IdpSession::KIND, Fate::Ended),
    (JoinKey::KIND, Fate::Ended),
    (StoredGrant::KIND, Fate::Ended),
    (StoredPairing::KIND, Fate::Ended),
    (StoredTombstone::KIND, Fate::Ended),
    (StoredBoot::KIND, Fate::Ended),
    (StoredReach::KIND, Fate::Ended),
    (OwnerToken::KIND, Fate::Ended),
    (Restored::KIND, Fate::Ended),
    (Lost::KIND, Fate::Ended),
    (Vanished::KIND, Fate::Ended),
];

/// What becomes of the records of a set; none for a set that nobody knows.
pub fn fate(set: &str) -> Option<Fate> {
    FATES.iter().find(|(known, _)| *known == set).map(|(_, fate)| *fate)
}

/// A record of the store as a line; none for what is left out.
pub fn line_of(sealer: &Sealer, key: &Key, value: &[u8]) -> Result<Option<Line>, ContentError> {
    let odd = |why: String| ContentError::Line(0, format!("`{key}`: {why}"));
    match fate(key.set()) {
        None | Some(Fate::Ended) => Ok(None),
        Some(Fate::Kept | Fate::Confirmed) => {
            let value = serde_json::from_slice(value).map_err(|e| odd(e.to_string()))?;
            Ok(Some(Line::Record(key.to_string(), value)))
        }
        Some(Fate::Sealed) => {
            let held: SealedSecret = serde_json::from_slice(value).map_err(|e| odd(e.to_string()))?;
            let plain = sealer.open(key.as_str(), &held.sealed)?;
            Ok(Some(Line::Secret(key.to_string(), STANDARD.encode(plain.expose()))))
        }
    }
}

/// What a record is worth in the new life of the organisation.
///
/// Nobody knows what was taken away after the backup was made. So nobody who could do something may do it before an
/// administrator has said so again: accounts are disabled, devices and gateways wait, no policy permits anything.
pub fn humbled(set: &str, value: Value) -> Result<Vec<u8>, String> {
    fn again<R: Record>(value: Value, humble: impl FnOnce(&mut R)) -> Result<Vec<u8>, String> {
        let mut record: R = serde_json::from_value(value).map_err(|e| e.to_string())?;
        humble(&mut record);
        serde_json::to_vec(&record).map_err(|e| e.to_string())
    }
    let wait = |state: &mut NodeState, restored: &mut bool| {
        *restored = *state == NodeState::Confirmed;
        if *restored {
            *state = NodeState::Pending;
        }
    };
    match set {
        User::KIND => again(value, |user: &mut User| {
            user.restored = !user.disabled;
            user.disabled = true;
        }),
        Account::KIND => again(value, |account: &mut Account| {
            account.restored = !account.disabled;
            account.disabled = true;
        }),
        Trust::KIND => again(value, |trust: &mut Trust| trust.restored = true),
        Device::KIND => again(value, |device: &mut Device| wait(&mut device.state, &mut device.restored)),
        Gateway::KIND => again(value, |gateway: &mut Gateway| wait(&mut gateway.state, &mut gateway.restored)),
        PolicyRevision::KIND => again(value, |policy: &mut PolicyRevision| *policy = policy.emptied()),
        _ => serde_json::to_vec(&value).map_err(|e| e.to_string()),
    }
}

/// Reads line after line.
pub struct Lines<R> {
    from: R,
    /// How many were read.
    pub number: u64,
}

impl<R: BufRead> Lines<R> {
    /// From the first one on.
    pub const fn new(from: R) -> Self {
        Self { from, number: 0 }
    }

    fn next_text(&mut self) -> Result<Secret<Vec<u8>>, ContentError> {
        let mut text = Vec::new();
        let bound = u64::try_from(BACKUP_LINE_MAX).unwrap_or(u64::MAX);
        std::io::Read::take(&mut self.from, bound).read_until(b'\n', &mut text)?;
        self.number = self.number.saturating_add(1);
        if text.pop() == Some(b'\n') { Ok(Secret::new(text)) } else { Err(ContentError::Cut) }
    }

    fn read<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, ContentError> {
        let text = self.next_text()?;
        // Not serde's own words: they may quote a secret.
        serde_json::from_slice(text.expose())
            .map_err(|e| ContentError::Line(self.number, format!("{:?} at column {}", e.classify(), e.column())))
    }

    /// The first line.
    pub fn header(&mut self) -> Result<Header, ContentError> {
        let header: Header = self.read()?;
        if header.umbra_backup == FORMAT {
            return Ok(header);
        }
        Err(ContentError::Line(self.number, format!("format {}", header.umbra_backup)))
    }

    /// The next one.
    pub fn next_line(&mut self) -> Result<Line, ContentError> {
        self.read()
    }

    /// After the end nothing comes.
    pub fn finish(mut self) -> Result<(), ContentError> {
        if self.from.fill_buf()?.is_empty() { Ok(()) } else { Err(ContentError::Cut) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_up_to_its_bound() {
        let line = |bytes: usize| {
            let mut text = vec![b'x'; bytes - 1];
            text.push(b'\n');
            Lines::new(std::io::Cursor::new(text)).next_text()
        };
        assert_eq!(line(BACKUP_LINE_MAX).unwrap().expose().len(), BACKUP_LINE_MAX - 1);
        assert!(matches!(line(BACKUP_LINE_MAX + 1), Err(ContentError::Cut)));
    }
}
