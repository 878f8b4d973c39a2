//! May this device reach that resource now? Gathers the facts from the directory, asks the policy, and says on which
//! facts the answer stands.

use crate::directory::Fact;
use crate::directory::{
    Account, Device, Directory, Gateway, Method, Name, NodeState, PolicyRevision, Resource, Session, Site, SuffixName,
    User,
};
use crate::store::{Expect, Key, Record as _};
use ::policy::{Decision, Facts};
use model::grant::{CatalogueAddress, CatalogueEntry};
use model::ids::{DeviceId, GatewayId, ResourceId, SessionId, SiteId, SubjectId};
use model::limits::{CATALOGUE_BYTES_MAX, CATALOGUE_MAX, RULES_PER_GRANT_MAX};
use model::net::{HostName, Prefix, Rule, Target};
use model::pool::Pool;
use model::time::WallMs;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Which gateways reach a site's host name over IPv6, by their own words.
#[derive(Debug, Clone, Default)]
pub struct Reach(BTreeMap<(SiteId, HostName), BTreeSet<GatewayId>>);

impl Reach {
    /// Does some gateway reach it?
    pub fn has_v6(&self, site: SiteId, host: &HostName) -> bool {
        self.0.contains_key(&(site, host.clone()))
    }
    /// Did this gateway say so?
    pub fn has_v6_by(&self, gateway: GatewayId, site: SiteId, host: &HostName) -> bool {
        self.0.get(&(site, host.clone())).is_some_and(|told| told.contains(&gateway))
    }
    /// Notes that this gateway reaches it.
    pub fn note(&mut self, gateway: GatewayId, site: SiteId, host: HostName) {
        self.0.entry((site, host)).or_default().insert(gateway);
    }
    /// Who said something.
    pub fn gateways(&self) -> impl Iterator<Item = GatewayId> {
        self.0.values().flatten().copied()
    }
    /// Forgets what all others said.
    pub fn retain(&mut self, may: impl Fn(GatewayId) -> bool) {
        self.0.retain(|_, told| {
            told.retain(|gateway| may(*gateway));
            !told.is_empty()
        });
    }
}

/// Why nothing at all may be reached by a device, for its user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Standing {
    /// Not enrolled, or revoked.
    #[error("this device is not enrolled or was revoked; join again with a new join file")]
    Device,
    /// Not confirmed yet.
    #[error("this device waits for an administrator to confirm it")]
    Pending,
    /// Nobody is logged in.
    #[error("you are not logged in; run `umbra login`")]
    Session,
    /// The account is gone or disabled.
    #[error("your account is disabled; ask an administrator")]
    User,
    /// The identity provider is gone, or has not been heard for too long.
    #[error("your identity provider has not stood by your sign-in for too long; run `umbra login` again")]
    Provider,
    /// The device's service account is gone or disabled.
    #[error("this machine's service account is disabled or was removed; ask an administrator")]
    Account,
    /// Asked for a person, at a device that is a workload's.
    #[error("this machine joined as a service account: nobody logs in on it")]
    Workload,
}

/// The answer.
#[derive(Debug)]
pub enum Verdict<'a> {
    /// Yes.
    Permit(Box<Ground<'a>>),
    /// No.
    Deny {
        /// Why, for the person.
        reasons: Vec<String>,
        /// The methods by which a second factor, given now, would make it a yes.
        step_up: Vec<Method>,
    },
    /// There is no such resource, or it is none of this subject's business. The two are not told apart.
    Unknown,
}

/// The facts that a permit stands on.
#[derive(Debug)]
pub struct Ground<'a> {
    /// Who.
    pub asker: Asker<'a>,
    /// The resource.
    pub resource: &'a Fact<Resource>,
    /// Its site.
    pub site: &'a Fact<Site>,
    /// The policies that permit it.
    pub policies: Vec<String>,
}

/// Who sits at a device: a person.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The device.
    pub device: &'a Fact<Device>,
    /// The log-in.
    pub session: &'a Fact<Session>,
    /// The user.
    pub user: &'a Fact<User>,
}

/// Who asks from a device: a person who is logged in there, or the workload that it is.
#[derive(Debug, Clone, Copy)]
pub enum Asker<'a> {
    /// A person.
    Person(Subject<'a>),
    /// A workload, which needs no log-in.
    Workload {
        /// The device.
        device: &'a Fact<Device>,
        /// As what it joined.
        account: &'a Fact<Account>,
    },
}

impl<'a> Asker<'a> {
    /// The device.
    pub const fn device(&self) -> &'a Fact<Device> {
        match self {
            Self::Person(Subject { device, .. }) | Self::Workload { device, .. } => device,
        }
    }
    /// The user or the service account.
    pub fn id(&self) -> SubjectId {
        match self {
            Self::Person(Subject { user, .. }) => user.record.id.into(),
            Self::Workload { account, .. } => account.record.id.into(),
        }
    }
    /// Its name.
    pub fn name(&self) -> &'a Name {
        match self {
            Self::Person(Subject { user, .. }) => &user.record.name,
            Self::Workload { account, .. } => &account.record.name,
        }
    }
    /// Groups that it is in.
    pub fn groups(&self) -> impl Iterator<Item = &'a Name> {
        let (person, workload) = match self {
            Self::Person(Subject { user, .. }) => (Some(user.record.all_groups()), None),
            Self::Workload { account, .. } => (None, Some(account.record.groups.iter())),
        };
        person.into_iter().flatten().chain(workload.into_iter().flatten())
    }
    /// The log-in, or what a workload has in its place.
    pub fn session(&self) -> SessionId {
        match self {
            Self::Person(Subject { session, .. }) => session.record.id,
            Self::Workload { device, .. } => Account::standing(device.record.id),
        }
    }
    /// When that ends by itself.
    pub fn ends(&self) -> WallMs {
        match self {
            Self::Person(Subject { session, .. }) => session.record.ends,
            Self::Workload { .. } => Account::STANDING_ENDS,
        }
    }
    /// Is it a workload?
    pub const fn is_workload(&self) -> bool {
        matches!(self, Self::Workload { .. })
    }
    /// The facts that it stands on, by key and revision.
    fn expectations(&self, directory: &Directory) -> Vec<(Key, Expect)> {
        let device = self.device();
        let mut list = vec![(device.key.clone(), Expect::Revision(device.revision))];
        match self {
            Self::Person(Subject { session, user, .. }) => {
                list.push((session.key.clone(), Expect::Revision(session.revision)));
                list.push((user.key.clone(), Expect::Revision(user.revision)));
                let identity = user.record.identity.as_ref();
                if let Some(idp) = identity.and_then(|identity| directory.idps.find(&identity.idp)) {
                    list.push((idp.key.clone(), Expect::Revision(idp.revision)));
                }
            }
            Self::Workload { account, .. } => {
                list.push((account.key.clone(), Expect::Revision(account.revision)));
            }
        }
        list
    }
}

/// The device's live log-in: the newest.
pub fn session_of(directory: &Directory, device: DeviceId, now: WallMs) -> Option<&Fact<Session>> {
    directory
        .sessions
        .values()
        .filter(|s| s.record.device == device && s.record.is_live(now))
        .max_by_key(|s| (s.record.created, s.record.id))
}

/// The device, if it takes part.
fn taking_part(directory: &Directory, device: DeviceId) -> Result<&Fact<Device>, Standing> {
    let fact = directory.devices.find(&device).ok_or(Standing::Device)?;
    match fact.record.state {
        NodeState::Confirmed => Ok(fact),
        NodeState::Pending => Err(Standing::Pending),
        NodeState::Revoked => Err(Standing::Device),
    }
}

/// Who may ask anything from this device?
pub fn asker(directory: &Directory, device: DeviceId, now: WallMs) -> Result<Asker<'_>, Standing> {
    let fact = taking_part(directory, device)?;
    let Some(account) = fact.record.account else { return subject(directory, device, now).map(Asker::Person) };
    let account = directory.accounts.find(&account).filter(|a| !a.record.disabled).ok_or(Standing::Account)?;
    Ok(Asker::Workload { device: fact, account })
}

/// Which person is logged in on this device?
pub fn subject(directory: &Directory, device: DeviceId, now: WallMs) -> Result<Subject<'_>, Standing> {
    let device_fact = taking_part(directory, device)?;
    if device_fact.record.account.is_some() {
        return Err(Standing::Workload);
    }
    let session = session_of(directory, device, now).ok_or(Standing::Session)?;
    let user = directory.users.find(&session.record.user).filter(|u| !u.record.disabled).ok_or(Standing::User)?;
    if user.record.identity.is_some() && !provider_stands(directory, session, now) {
        return Err(Standing::Provider);
    }
    Ok(Subject { device: device_fact, session, user })
}

/// Does the provider of the person who logged in stand by them?
fn provider_stands(directory: &Directory, session: &Fact<Session>, now: WallMs) -> bool {
    let word = directory.idp_sessions.find(&session.record.id).filter(|w| w.record.user == session.record.user);
    word.and_then(|word| Some((word, directory.idps.find(&word.record.idp)?)))
        .is_some_and(|(word, idp)| word.record.stands(&idp.record, now))
}

fn facts(asker: &Asker<'_>, resource: &Resource, now: WallMs) -> Facts {
    let known = Facts {
        groups: Some(asker.groups().map(|g| g.as_str().to_owned()).collect()),
        device: Some(asker.device().record.name.as_str().to_owned()),
        tags: Some(resource.tags.iter().map(|t| t.as_str().to_owned()).collect()),
        ..Facts::of(asker.name().as_str(), resource.name.as_str())
    };
    let Asker::Person(Subject { session, .. }) = asker else { return known.of_workload() };
    // A wall clock that was set back makes an age unknown, not young.
    let age = |since: WallMs| (now >= since).then(|| now.since(since));
    let proof = session.record.factor.filter(|proof| age(proof.at).is_some());
    Facts {
        login_age: session.record.proved_at().and_then(age),
        mfa_age: proof.and_then(|proof| age(proof.at)),
        mfa_method: proof.map(|proof| proof.method.to_string()),
        ..known
    }
}

/// Decides.
pub fn judge<'a>(
    directory: &'a Directory,
    device: DeviceId,
    resource: ResourceId,
    now: WallMs,
) -> Result<Verdict<'a>, Standing> {
    let asker = asker(directory, device, now)?;
    let Some(resource) = directory.resources.find(&resource) else { return Ok(Verdict::Unknown) };
    let Some(set) = directory.compiled.as_deref() else { return Ok(Verdict::Unknown) };
    let facts = facts(&asker, &resource.record, now);
    if !::policy::sees(set, &facts) {
        return Ok(Verdict::Unknown);
    }
    let Some(site) = directory.sites.find(&resource.record.site) else {
        let reasons = vec!["its site does not exist any more; ask an administrator".to_owned()];
        return Ok(Verdict::Deny { reasons, step_up: Vec::new() });
    };
    match ::policy::decide(set, &facts) {
        Decision::Permit { policies } => Ok(Verdict::Permit(Box::new(Ground { asker, resource, site, policies }))),
        Decision::Deny { reasons } => {
            let step_up = match &asker {
                Asker::Person(subject) => crate::factors::step_up(directory, set, subject, &facts),
                Asker::Workload { .. } => Vec::new(),
            };
            Ok(Verdict::Deny { reasons: reasons.iter().map(ToString::to_string).collect(), step_up })
        }
    }
}

impl Ground<'_> {
    /// What the grant's transaction asserts: every fact as it was read, and the whole set of policies.
    pub fn expectations(&self, directory: &Directory) -> Vec<(Key, Expect)> {
        let mut list = self.asker.expectations(directory);
        list.push((self.resource.key.clone(), Expect::Revision(self.resource.revision)));
        list.push((self.site.key.clone(), Expect::Revision(self.site.revision)));
        // A set's head changes with every member: a forbid that nobody could expect by its own key.
        if let Ok(head) = Key::new(PolicyRevision::KIND) {
            list.push((head, Expect::Revision(directory.head(PolicyRevision::KIND))));
        }
        if let Ok(head) = Key::new(SuffixName::KIND)
            && !self.resource.record.suffixes.is_empty()
        {
            list.push((head, Expect::Revision(directory.head(SuffixName::KIND))));
        }
        list
    }

    /// The rules of a grant: every address of the resource, for every service.
    pub fn rules(&self, directory: &Directory, pool: &Pool) -> Result<Vec<Rule>, String> {
        let resource = &self.resource.record;
        let mut rules = Vec::new();
        for (protocol, ports) in resource.services() {
            for (host, number) in hosts(directory, resource) {
                let target = Target::Name(host);
                let v4 = pool.virtual_v4(number).map(IpAddr::V4);
                let v6 = pool.virtual_v6(number).map(IpAddr::V6);
                for client in [v4, v6].into_iter().flatten().map(Prefix::host) {
                    rules.push(Rule { client, target: target.clone(), protocol, ports });
                }
            }
            for prefix in &resource.prefixes {
                rules.push(Rule { client: *prefix, target: Target::Prefix(*prefix), protocol, ports });
            }
        }
        if rules.is_empty() || rules.len() > RULES_PER_GRANT_MAX {
            return Err(format!(
                "resource `{}` has {} combinations of addresses and ports; 1 to {RULES_PER_GRANT_MAX} are possible",
                resource.name.as_str(),
                rules.len()
            ));
        }
        Ok(rules)
    }
}

/// Every host name of a resource with the number of its virtual addresses, those below suffixes included.
fn hosts(directory: &Directory, resource: &Resource) -> Vec<(HostName, u32)> {
    let below = directory.names_below(resource).into_iter();
    let declared = resource.hosts.iter().map(|(host, number)| (host.clone(), *number));
    declared.chain(below.map(|s| (s.record.name.clone(), s.record.number))).collect()
}

/// A host's addresses as a client sees them. IPv6 only where a gateway of the site reaches the target over it.
pub fn host_address(pool: &Pool, site: SiteId, host: &HostName, number: u32, reach: &Reach) -> CatalogueAddress {
    CatalogueAddress {
        name: Some(host.clone()),
        v4: pool.virtual_v4(number).map(|a| Prefix::host(IpAddr::V4(a))),
        v6: pool.virtual_v6(number).filter(|_| reach.has_v6(site, host)).map(|a| Prefix::host(IpAddr::V6(a))),
    }
}

/// What the asker at this device may see (design, "catalogue"): named by some permit's scope, conditions aside.
pub fn catalogue(directory: &Directory, asker: &Asker<'_>, reach: &Reach, now: WallMs) -> Vec<CatalogueEntry> {
    let (Some(set), Some(org)) = (directory.compiled.as_deref(), &directory.org) else { return Vec::new() };
    let visible = directory.resources.values().filter(|r| ::policy::sees(set, &facts(asker, &r.record, now)));
    let mut visible: Vec<&Resource> = visible.map(|r| &r.record).collect();
    // Where there are too many, the newest wait: what somebody works with stays.
    visible.sort_by_key(|resource| (resource.created, resource.id));
    let all = visible.len();
    let entries = visible.into_iter().map(|resource| entry(directory, &org.record.pool, resource, reach));
    let fitting = fit(entries);
    if fitting.len() < all {
        let (user, left_out) = (asker.name(), all - fitting.len());
        tracing::warn!(%user, left_out, "more resources are visible than a catalogue holds: the newest are not shown");
    }
    fitting
}

/// As many of them as one catalogue, and one message, may hold.
fn fit(entries: impl Iterator<Item = CatalogueEntry>) -> Vec<CatalogueEntry> {
    let mut bytes = 0_usize;
    let fits = |entry: &CatalogueEntry| {
        bytes = bytes.saturating_add(wire_bytes(entry));
        bytes <= CATALOGUE_BYTES_MAX
    };
    entries.take(CATALOGUE_MAX).take_while(fits).collect()
}

/// Not less than what an entry takes on the wire.
fn wire_bytes(entry: &CatalogueEntry) -> usize {
    let name = |name: &HostName| name.as_str().len();
    let addresses = entry.addresses.iter().map(|address| address.name.as_ref().map_or(0, name) + 64);
    let suffixes = entry.suffixes.iter().map(|suffix| name(suffix) + 8);
    64 + entry.name.len() + addresses.sum::<usize>() + suffixes.sum::<usize>() + 24 * entry.ports.len()
}

/// May the asker at this device see this resource?
pub fn sees(directory: &Directory, asker: &Asker<'_>, resource: &Resource, now: WallMs) -> bool {
    directory.compiled.as_deref().is_some_and(|set| ::policy::sees(set, &facts(asker, resource, now)))
}

fn entry(directory: &Directory, pool: &Pool, resource: &Resource, reach: &Reach) -> CatalogueEntry {
    let named = hosts(directory, resource);
    let named = named.iter().map(|(host, number)| host_address(pool, resource.site, host, *number, reach));
    let real = resource.prefixes.iter().map(|p| CatalogueAddress {
        name: None,
        v4: p.address().is_ipv4().then_some(*p),
        v6: p.address().is_ipv6().then_some(*p),
    });
    CatalogueEntry {
        id: resource.id,
        name: resource.name.as_str().to_owned(),
        addresses: named.chain(real).collect(),
        suffixes: resource.suffixes.iter().cloned().collect(),
        ports: resource.services(),
    }
}

/// Host names of a site, which its gateways are asked to look up.
pub fn names_of_site(directory: &Directory, site: SiteId) -> BTreeSet<HostName> {
    let resources = directory.resources.values().filter(|r| r.record.site == site);
    resources.flat_map(|r| hosts(directory, &r.record).into_iter().map(|(host, _)| host)).collect()
}

/// Is this a host name of the site, declared or below a suffix?
pub fn is_name_of_site(directory: &Directory, site: SiteId, name: &HostName) -> bool {
    let has = |resource: &Resource| {
        resource.hosts.contains_key(name)
            || resource.suffixes.iter().any(|suffix| name.is_in(suffix))
                && directory.suffix_names.find(&SuffixName::id(resource.id, name)).is_some()
    };
    directory.resources.values().any(|r| r.record.site == site && has(&r.record))
}

/// The sites that have names below suffixes which were written after this state.
pub fn sites_with_names_after(directory: &Directory, number: u64) -> BTreeSet<SiteId> {
    let fresh = directory.suffix_names.values().filter(|name| name.revision > number);
    let resources = fresh.filter_map(|name| directory.resources.find(&name.record.resource));
    resources.map(|resource| resource.record.site).collect()
}

/// The gateways of a site that may serve.
pub fn gateways_of(directory: &Directory, site: SiteId) -> impl Iterator<Item = &Fact<Gateway>> {
    directory.gateways.values().filter(move |g| g.record.site == site && g.record.state == NodeState::Confirmed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::limits::RPC_MESSAGE_MAX;
    use model::net::{PortRange, Protocol};
    use proto::v1;

    fn entry(number: usize, addresses: usize) -> CatalogueEntry {
        let host = |n: usize| format!("{}{n}.{}.corp.example", "h".repeat(50), "x".repeat(60)).parse::<HostName>();
        let address = |n: usize| CatalogueAddress {
            name: host(n).ok(),
            v4: "10.77.64.1/32".parse().ok(),
            v6: "fd12:3456:789a:4::1/128".parse().ok(),
        };
        let mut id = [0; 10];
        id[..8].copy_from_slice(&(number as u64).to_be_bytes());
        CatalogueEntry {
            id: ResourceId::from_bytes(id),
            name: format!("resource-{number}"),
            addresses: (0..addresses).map(address).collect(),
            suffixes: vec!["corp.example".parse().unwrap()],
            ports: vec![(Protocol::Tcp, PortRange { first: 1, last: 65_535 }); 4],
        }
    }

    #[test]
    fn a_catalogue_holds_as_many_as_its_reader_takes_and_fits_into_one_message() {
        let made = |count: usize, addresses| fit((0..count).map(|n| entry(n, addresses)));
        assert_eq!(made(CATALOGUE_MAX, 1).len(), CATALOGUE_MAX);
        assert_eq!(made(CATALOGUE_MAX + 1, 1), made(CATALOGUE_MAX, 1), "the last one is left out");
        let large = made(CATALOGUE_MAX, 32);
        assert!(large.len() > 100 && large.len() < CATALOGUE_MAX, "{}", large.len());
        let bytes = |entry: &CatalogueEntry| prost_len(&v1::Resource::from(entry.clone()));
        let whole: usize = large.iter().map(bytes).sum();
        assert!(whole <= CATALOGUE_BYTES_MAX && CATALOGUE_BYTES_MAX < RPC_MESSAGE_MAX, "{whole}");
        assert!(large.iter().all(|entry| bytes(entry) <= wire_bytes(entry)));
    }

    /// Bytes of one member of a list on the wire, with its tag and length.
    fn prost_len(resource: &v1::Resource) -> usize {
        proto::encoded_len(resource) + 8
    }
}
