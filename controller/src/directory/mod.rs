//! What is true now? All facts of the organisation, in memory, each with the key and the revision under which it lies.
//!
//! A [`Directory`] is immutable; [`Reader`] holds the newest and swaps it whole as the store changes. What a decision
//! reads here it names in its commit by key and revision, so that a stale snapshot can cost a second try and nothing
//! else. One noun a file; [`change`] is the one way in which facts change.

pub mod account;
pub mod break_glass;
pub mod change;
pub mod device;
pub mod encode;
pub mod factor;
pub mod gateway;
pub mod group;
pub mod idp;
pub mod index;
pub mod join_key;
pub mod name;
pub mod org;
pub mod policy;
pub mod reader;
pub mod recovery;
pub mod registration;
pub mod resource;
pub mod role;
pub mod session;
pub mod site;
pub mod spent;
pub mod sweep;
pub mod table;
pub mod trust;
pub mod user;
pub mod vanished;

pub use account::Account;
pub use break_glass::{BreakGlass, BreakGlassUse};
pub use change::{Draft, Refusal};
pub use device::{Device, NodeState};
pub use factor::{Confirmed, FactorSecret, Factors, Method, Passkey, Proof, Totp};
pub use gateway::{Gateway, GatewaySeen};
pub use group::Group;
pub use idp::{Identity, Idp, IdpSecret, IdpSession};
pub use index::{Counted, Counter, Unique};
pub use join_key::{JoinKey, JoinKeyState, Redeemed};
pub use name::{Name, NameError};
pub use org::{Org, OwnerToken, SealedSecret, Succession};
pub use policy::{Compiler, PastPolicy, PastPolicyHead, PolicyChanges, PolicyFile, PolicyRevision};
pub use reader::{Reader, StartError};
pub use recovery::Recovery;
pub use registration::Registration;
pub use resource::{Resource, SuffixName};
pub use role::{AdminRole, NoSuchRole};
pub use session::{Proved, Session};
pub use site::Site;
pub use spent::SpentToken;
pub use sweep::sweep;
pub use table::{Fact, Table};
pub use trust::{KeySource, Trust, TrustSecret};
pub use user::{PasswordHash, User};
pub use vanished::Vanished;

use crate::store::{Change, Item, Key, ReadError, Record};
use model::ids::{
    AccountId, DeviceId, FactorId, GatewayId, IdpId, JoinKeyId, NodeId, RegistrationId, ResourceId, SessionId, SiteId,
    UserId,
};
use model::key::PublicKey;
use model::revision::Revision;
use std::collections::BTreeMap;
use std::sync::Arc;

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.iter_mut()
        .zip(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
        .for_each(|(o, i)| *o = *i);
    out
}

/// All facts at one revision. Cloning is cheap: tables are shared until they change.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    /// The revision.
    pub revision: Revision,
    /// The organisation; absent only before `init` has finished.
    pub org: Option<Fact<Org>>,
    /// People.
    pub users: Table<UserId, User>,
    /// Service accounts.
    pub accounts: Table<AccountId, Account>,
    /// Groups, by name.
    pub groups: Table<Name, Group>,
    /// Sites.
    pub sites: Table<SiteId, Site>,
    /// Gateways.
    pub gateways: Table<GatewayId, Gateway>,
    /// What gateways said of themselves.
    pub gateways_seen: Table<GatewayId, GatewaySeen>,
    /// Devices.
    pub devices: Table<DeviceId, Device>,
    /// Resources.
    pub resources: Table<ResourceId, Resource>,
    /// Names below suffixes, by their id in the store.
    pub suffix_names: Table<String, SuffixName>,
    /// Log-ins.
    pub sessions: Table<SessionId, Session>,
    /// Join keys.
    pub join_keys: Table<JoinKeyId, JoinKey>,
    /// The policy in force; absent: nobody may reach anything.
    pub policy: Option<Fact<PolicyRevision>>,
    /// The same, compiled. `None` with a policy in force: it does not compile with this release, and all is denied.
    pub compiled: Option<Arc<::policy::PolicySet>>,
    /// Compiles policies for it.
    pub compiler: Compiler,
    /// Recovery secrets, by the node's id in text form.
    pub recoveries: Table<String, Recovery>,
    /// Second factors, by user.
    pub factors: Table<UserId, Factors>,
    /// Their secrets.
    pub factor_secrets: Table<FactorId, FactorSecret>,
    /// Identity providers.
    pub idps: Table<IdpId, Idp>,
    /// What they know us by.
    pub idp_secrets: Table<IdpId, IdpSecret>,
    /// By which log-ins they stand.
    pub idp_sessions: Table<SessionId, IdpSession>,
    /// Federation rules.
    pub trusts: Table<JoinKeyId, Trust>,
    /// The secrets of their join files.
    pub trust_secrets: Table<JoinKeyId, TrustSecret>,
    /// Tokens that let machines in.
    pub spent_tokens: Table<String, SpentToken>,
    /// Ephemeral devices that are silent.
    pub vanished: Table<DeviceId, Vanished>,
    /// Which programs get identities.
    pub registrations: Table<RegistrationId, Registration>,
    /// Counters.
    pub counters: Table<String, Counter>,
    /// The token of `init`.
    pub owner_token: Option<Fact<OwnerToken>>,
    /// The key of the last resort.
    pub break_glass: Option<Fact<BreakGlass>>,
    heads: BTreeMap<String, u64>,
    taken: Arc<BTreeMap<Key, u64>>,
}

/// Sets that a directory holds, in the order in which they are read.
pub(crate) const SETS: [&str; 40] = [
    Org::KIND,
    User::KIND,
    Group::KIND,
    Site::KIND,
    Gateway::KIND,
    GatewaySeen::KIND,
    Device::KIND,
    Resource::KIND,
    SuffixName::KIND,
    Session::KIND,
    JoinKey::KIND,
    PolicyRevision::KIND,
    Counter::KIND,
    OwnerToken::KIND,
    Unique::UserName.set(),
    Unique::SiteName.set(),
    Unique::GatewayName.set(),
    Unique::DeviceName.set(),
    Unique::ResourceName.set(),
    Unique::Host.set(),
    Unique::Virtual.set(),
    Unique::DeviceV4.set(),
    Unique::NodeKey.set(),
    Unique::NodeAddress.set(),
    PastPolicy::KIND,
    Recovery::KIND,
    Factors::KIND,
    FactorSecret::KIND,
    Idp::KIND,
    IdpSecret::KIND,
    IdpSession::KIND,
    Unique::Identity.set(),
    Unique::Passkey.set(),
    Account::KIND,
    Vanished::KIND,
    Trust::KIND,
    TrustSecret::KIND,
    SpentToken::KIND,
    Registration::KIND,
    BreakGlass::KIND,
];

impl Directory {
    /// The revision of the last change to any member of a set (`User::KIND`): to be expected by a commit that stands on
    /// the whole set. 0 when there never was one.
    pub fn head(&self, set: &str) -> u64 {
        self.heads.get(set).copied().unwrap_or(0)
    }

    /// Is a unique thing taken?
    pub fn is_taken(&self, key: &Key) -> bool {
        self.taken.contains_key(key)
    }

    /// The node that has this WireGuard key, revoked ones included.
    pub fn node_of_key(&self, key: &PublicKey) -> Option<NodeId> {
        let is = |own: &PublicKey, next: &Option<PublicKey>| own == key || next.as_ref() == Some(key);
        let device = self.devices.values().find(|d| is(&d.record.key, &d.record.next_key));
        let gateway = || self.gateways.values().find(|g| is(&g.record.key, &g.record.next_key));
        device.map(|d| NodeId::Device(d.record.id)).or_else(|| gateway().map(|g| NodeId::Gateway(g.record.id)))
    }

    /// The user with this name.
    pub fn user(&self, name: &str) -> Option<&Fact<User>> {
        self.users.named(name)
    }

    /// Whom an identity provider calls so.
    pub fn identified(&self, issuer: &str, subject: &str) -> Option<&Fact<User>> {
        let is = |user: &&Fact<User>| {
            user.record.identity.as_ref().is_some_and(|who| who.subject == subject && who.issuer == issuer)
        };
        self.users.values().find(is)
    }

    /// The resource that owns a host name: declared exactly, or the one whose suffix is the longest above it.
    pub fn resource_of_host(&self, host: &model::net::HostName) -> Option<&Fact<Resource>> {
        let exact = self.resources.values().find(|r| r.record.hosts.contains_key(host));
        exact.or_else(|| {
            let below = |s: &model::net::HostName| s != host && host.is_in(s);
            let depth =
                |r: &&Fact<Resource>| r.record.suffixes.iter().filter(|s| below(s)).map(|s| s.as_str().len()).max();
            self.resources.values().filter(|r| depth(r).is_some()).max_by_key(depth)
        })
    }

    /// The names below a resource's suffixes that have addresses: as many as fit into a grant, the oldest first to stay.
    pub fn names_below(&self, resource: &Resource) -> Vec<&Fact<SuffixName>> {
        let ids = SuffixName::ids(resource.id);
        let mut names: Vec<_> = self.suffix_names.range(ids).filter(|s| s.record.resource == resource.id).collect();
        let room = resource.names_below_max();
        if names.len() > room {
            names.sort_by_key(|name| name.revision);
            names.truncate(room);
        }
        names
    }

    /// Takes one record in. An older one than is held is ignored.
    pub(crate) fn put(&mut self, key: &Key, item: &Item) -> Result<(), ReadError> {
        let head = self.heads.entry(key.set().to_owned()).or_default();
        *head = (*head).max(item.revision);
        match key.set() {
            Org::KIND => self.org = newer(self.org.take(), key, item)?,
            User::KIND => self.users.put(key, item)?,
            Group::KIND => self.groups.put(key, item)?,
            Site::KIND => self.sites.put(key, item)?,
            Gateway::KIND => self.gateways.put(key, item)?,
            GatewaySeen::KIND => self.gateways_seen.put(key, item)?,
            Device::KIND => self.devices.put(key, item)?,
            Resource::KIND => self.resources.put(key, item)?,
            SuffixName::KIND => self.suffix_names.put(key, item)?,
            Session::KIND => self.sessions.put(key, item)?,
            JoinKey::KIND => self.join_keys.put(key, item)?,
            PolicyRevision::KIND => {
                self.policy = newer(self.policy.take(), key, item)?;
                self.compiled = self.policy.as_ref().and_then(|fact| compile(&self.compiler, &fact.record));
            }
            Counter::KIND => self.counters.put(key, item)?,
            Recovery::KIND => self.recoveries.put(key, item)?,
            Factors::KIND => self.factors.put(key, item)?,
            FactorSecret::KIND => self.factor_secrets.put(key, item)?,
            Idp::KIND => self.idps.put(key, item)?,
            IdpSecret::KIND => self.idp_secrets.put(key, item)?,
            IdpSession::KIND => self.idp_sessions.put(key, item)?,
            Account::KIND => self.accounts.put(key, item)?,
            Vanished::KIND => self.vanished.put(key, item)?,
            Trust::KIND => self.trusts.put(key, item)?,
            TrustSecret::KIND => self.trust_secrets.put(key, item)?,
            SpentToken::KIND => self.spent_tokens.put(key, item)?,
            Registration::KIND => self.registrations.put(key, item)?,
            OwnerToken::KIND => self.owner_token = newer(self.owner_token.take(), key, item)?,
            BreakGlass::KIND => self.break_glass = newer(self.break_glass.take(), key, item)?,
            set if is_unique(set) => {
                Arc::make_mut(&mut self.taken).insert(key.clone(), item.revision);
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes one record out, unless it is newer than `revision`.
    pub(crate) fn delete(&mut self, key: &Key, revision: u64) {
        let head = self.heads.entry(key.set().to_owned()).or_default();
        *head = (*head).max(revision);
        match key.set() {
            User::KIND => self.users.delete(key, revision),
            Group::KIND => self.groups.delete(key, revision),
            Site::KIND => self.sites.delete(key, revision),
            Gateway::KIND => self.gateways.delete(key, revision),
            GatewaySeen::KIND => self.gateways_seen.delete(key, revision),
            Device::KIND => self.devices.delete(key, revision),
            Resource::KIND => self.resources.delete(key, revision),
            SuffixName::KIND => self.suffix_names.delete(key, revision),
            Session::KIND => self.sessions.delete(key, revision),
            JoinKey::KIND => self.join_keys.delete(key, revision),
            Recovery::KIND => self.recoveries.delete(key, revision),
            Factors::KIND => self.factors.delete(key, revision),
            FactorSecret::KIND => self.factor_secrets.delete(key, revision),
            Idp::KIND => self.idps.delete(key, revision),
            IdpSecret::KIND => self.idp_secrets.delete(key, revision),
            IdpSession::KIND => self.idp_sessions.delete(key, revision),
            Account::KIND => self.accounts.delete(key, revision),
            Vanished::KIND => self.vanished.delete(key, revision),
            Trust::KIND => self.trusts.delete(key, revision),
            TrustSecret::KIND => self.trust_secrets.delete(key, revision),
            SpentToken::KIND => self.spent_tokens.delete(key, revision),
            Registration::KIND => self.registrations.delete(key, revision),
            PolicyRevision::KIND => {
                self.policy = self.policy.take().filter(|fact| fact.revision > revision);
                self.compiled = self.policy.as_ref().and_then(|fact| compile(&self.compiler, &fact.record));
            }
            OwnerToken::KIND => self.owner_token = self.owner_token.take().filter(|fact| fact.revision > revision),
            BreakGlass::KIND => self.break_glass = self.break_glass.take().filter(|fact| fact.revision > revision),
            set if is_unique(set) && self.taken.get(key).is_some_and(|held| *held <= revision) => {
                Arc::make_mut(&mut self.taken).remove(key);
            }
            _ => {}
        }
    }

    /// Takes a whole commit in. A record that does not decode is taken out: absent means denied.
    pub fn apply(&mut self, change: &Change) {
        let number = change.revision.number;
        for (key, value) in &change.puts {
            if let Err(error) = self.put(key, &Item { revision: number, value: value.clone() }) {
                tracing::error!(%key, %error, "a record is left out of every decision");
                self.delete(key, number);
            }
        }
        for key in &change.deletes {
            self.delete(key, number);
        }
        self.revision = self.revision.max(change.revision);
    }

    /// Sets the head of a set as a scan told it.
    pub(crate) fn set_head(&mut self, set: &str, revision: u64) {
        let head = self.heads.entry(set.to_owned()).or_default();
        *head = (*head).max(revision);
    }
}

fn is_unique(set: &str) -> bool {
    let at = SETS.iter().position(|known| *known == set);
    at.is_some_and(|at| (14..24).contains(&at)) || [Unique::Identity.set(), Unique::Passkey.set()].contains(&set)
}

fn newer<R: Record>(held: Option<Fact<R>>, key: &Key, item: &Item) -> Result<Option<Fact<R>>, ReadError> {
    match held {
        Some(held) if held.revision >= item.revision => Ok(Some(held)),
        _ => table::decode(key, item).map(Some),
    }
}

fn compile(compiler: &Compiler, revision: &PolicyRevision) -> Option<Arc<::policy::PolicySet>> {
    match compiler.compile(&revision.files) {
        Ok(set) => Some(set),
        Err(problems) => {
            let first = problems.first().map(ToString::to_string).unwrap_or_default();
            tracing::error!(first, "the policy in force does not compile with this release: everything is denied");
            None
        }
    }
}

#[cfg(test)]
mod tests;
