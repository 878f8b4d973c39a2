//! What may pass? A plain list of facts and of what was promised, and for each packet an answer: by which grant, or why not.
//!
//! Written from the design, not from the code: it knows nothing of the crates that decide, arrange and enforce (a test looks
//! after that), keeps no index, and works with one true time. What it is told are facts as an administrator knows them, ids
//! and lives that the controller gave, and the moments at which gateways acknowledged.

use model::ids::{DeviceId, GatewayId, GrantId, PairingId, ResourceId, SessionId, SiteId, UserId};
use model::net::{Prefix, Protocol};
use model::revision::Revision;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// True time, nanoseconds.
pub type Time = u64;

/// A gateway's program looks at its table at least this often, whatever its timers do: half a second, and a little for the
/// looking. So much longer than its life may a grant be honoured, and not one packet later.
pub const MARGIN: Time = 600_000_000;

/// What kind of promise was broken?
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// What had to pass did not.
    Lost,
    /// What had ended was honoured.
    Alive,
    /// Something reached where it never belonged.
    Leaked,
}

/// A broken promise.
#[derive(Debug, Clone)]
pub struct Wrong {
    /// Of which kind.
    pub kind: Kind,
    /// What happened.
    pub what: String,
}

fn wrong(kind: Kind, what: impl Into<String>) -> Wrong {
    Wrong { kind, what: what.into() }
}

/// Whom a line of the policy means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Everybody, or everything.
    Any,
    /// One user, or one resource.
    One(u8),
    /// The members of a group, or what has a tag.
    Members(u8),
}

/// One line of the policy.
#[derive(Debug, Clone)]
pub struct Line {
    /// It forbids; else it permits.
    pub forbids: bool,
    /// Which users.
    pub who: Who,
    /// Which resources.
    pub what: Who,
    /// Only for log-ins younger than so many seconds.
    pub younger: Option<u64>,
    /// Only on this device.
    pub device: Option<u8>,
}

/// An account.
#[derive(Debug, Clone)]
pub struct User {
    /// What policies call it.
    pub name: u8,
    /// Its groups.
    pub groups: BTreeSet<u8>,
    /// It may do nothing.
    pub disabled: bool,
}

/// A log-in.
#[derive(Debug, Clone)]
pub struct Session {
    /// On which device.
    pub device: DeviceId,
    /// Whose.
    pub user: UserId,
    /// When it began, by the controller's wall clock, milliseconds.
    pub created: i64,
    /// When it ends, likewise.
    pub ends: i64,
    /// It was ended.
    pub ended: bool,
}

/// Where a resource leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leads {
    /// To the very address that the client sees.
    Same,
    /// To whatever this name means.
    Name(String),
}

/// A resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// What policies call it.
    pub name: u8,
    /// Its tags.
    pub tags: BTreeSet<u8>,
    /// Where it stands.
    pub site: SiteId,
    /// Under which addresses clients see it.
    pub clients: Vec<Prefix>,
    /// Where these lead.
    pub leads: Leads,
    /// What it speaks.
    pub protocol: Protocol,
    /// On which ports.
    pub ports: (u16, u16),
    /// How long a gateway may honour a grant unrenewed.
    pub lease: Time,
}

impl Resource {
    /// The same place and services? Then a grant of the one speaks of the other's packets, too.
    fn leads_like(&self, other: &Self) -> bool {
        (&self.clients, &self.leads, self.protocol, self.ports)
            == (&other.clients, &other.leads, other.protocol, other.ports)
    }

    fn speaks_of(&self, to: SocketAddr, protocol: Protocol) -> bool {
        let ports = protocol == Protocol::Icmp || (self.ports.0 <= to.port() && to.port() <= self.ports.1);
        self.clients.iter().any(|c| c.contains(to.ip())) && self.protocol == protocol && ports
    }
}

/// A packet that some machine sent into the overlay, by the mark in its payload.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Which machine, truly.
    pub device: DeviceId,
    /// What it says of its source.
    pub from: SocketAddr,
    /// Where to, as the client sees it.
    pub to: SocketAddr,
    /// In which protocol.
    pub protocol: Protocol,
    /// It asks for what it may not have: it may come out nowhere.
    pub forged: bool,
    /// How often it reached a service.
    pub reached: u32,
    /// How often an answer came back.
    pub answered: u32,
}

/// A packet as it is seen somewhere.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Its source.
    pub from: SocketAddr,
    /// Its destination.
    pub to: SocketAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// The mark in its payload; none for resets and ICMP errors.
    pub mark: Option<u64>,
}

/// What the controller gave.
#[derive(Debug, Clone)]
pub struct Given {
    /// To whom.
    pub device: DeviceId,
    /// In which log-in.
    pub session: SessionId,
    /// To what.
    pub resource: ResourceId,
    /// Through which gateway.
    pub gateway: GatewayId,
    /// Its own source addresses on the service's side.
    pub nat: [IpAddr; 2],
}

#[derive(Debug, Clone)]
struct Grant {
    given: Given,
    /// What it leads to: the newest, and older ones that the gateway has not replaced yet, until which state.
    leads: Vec<(Resource, Option<Revision>)>,
    /// When its life is over, whoever is reached.
    deadline: Time,
    /// Ended at which state, and when.
    ended: Option<(Revision, Time)>,
    /// Since then the gateway says that it is gone.
    confirmed: Option<Time>,
    /// The gateway was sent it since it started.
    sent: bool,
    /// Real destinations that it reached.
    reached: BTreeSet<IpAddr>,
}

#[derive(Debug, Clone, Default)]
struct Gateway {
    site: Option<SiteId>,
    /// Its own addresses, at which no packet may end.
    own: Vec<IpAddr>,
    confirmed: bool,
    /// It lies: what it acknowledges and forwards says nothing.
    hostile: bool,
    /// Since when nothing disturbs it or its link.
    calm_since: Time,
    /// Until when a part of its machine fails.
    troubled: Time,
    /// Until when it slept.
    woke: Time,
    /// Tunnels that it has, and those that it had.
    tunnels: BTreeSet<PairingId>,
    gone: BTreeSet<PairingId>,
}

/// All that is known.
#[derive(Debug, Clone, Default)]
pub struct Reference {
    users: BTreeMap<UserId, User>,
    /// Devices that take part, and what policies call them.
    devices: BTreeMap<DeviceId, u8>,
    /// Whose addresses are whose.
    addresses: BTreeMap<DeviceId, Vec<IpAddr>>,
    sessions: BTreeMap<SessionId, Session>,
    resources: BTreeMap<ResourceId, Resource>,
    sites: BTreeMap<SiteId, Vec<Prefix>>,
    policy: Vec<Line>,
    gateways: BTreeMap<GatewayId, Gateway>,
    grants: BTreeMap<GrantId, Grant>,
    sent: BTreeMap<u64, Sent>,
    /// What a resolver ever answered for a name.
    names: BTreeMap<String, BTreeSet<IpAddr>>,
    /// The controller's clocks were never set: its words about ends are exact.
    pub clocks_true: bool,
}

/// How soon an end is confirmed by a gateway that nothing disturbs, and how long a disturbance lingers.
const CONFIRMED_WITHIN: Time = 5_000_000_000;
const RECOVERED_WITHIN: Time = 20_000_000_000;
/// How long the addresses of an ended grant rest where no gateway confirms: the longest lease and an hour.
const TOMBSTONE: Time = 25 * 3_600_000_000_000;

impl Reference {
    // -- facts -------------------------------------------------------------------------------------------------------

    /// An account as it is now.
    pub fn user(&mut self, id: UserId, user: User) {
        self.users.insert(id, user);
    }
    /// A device takes part from now on, under these addresses.
    pub fn device(&mut self, id: DeviceId, name: u8, addresses: Vec<IpAddr>) {
        self.devices.insert(id, name);
        self.addresses.insert(id, addresses);
    }
    /// A device was revoked.
    pub fn revoke_device(&mut self, id: DeviceId) {
        self.devices.remove(&id);
    }
    /// A log-in as it is now.
    pub fn session(&mut self, id: SessionId, session: Session) {
        self.sessions.insert(id, session);
    }
    /// Where a site's services may lie.
    pub fn site(&mut self, id: SiteId, prefixes: Vec<Prefix>) {
        self.sites.insert(id, prefixes);
    }
    /// A resource as it is now; none: it is gone.
    pub fn resource(&mut self, id: ResourceId, resource: Option<Resource>) {
        match resource {
            Some(resource) => self.resources.insert(id, resource),
            None => self.resources.remove(&id),
        };
    }
    /// The policy in force.
    pub fn policy(&mut self, lines: Vec<Line>) {
        self.policy = lines;
    }
    /// A gateway as it is now.
    pub fn gateway(&mut self, id: GatewayId, site: SiteId, own: Vec<IpAddr>, confirmed: bool) {
        let gateway = self.gateways.entry(id).or_default();
        (gateway.site, gateway.own, gateway.confirmed) = (Some(site), own, confirmed);
    }
    /// From now on a gateway lies.
    pub fn hostile(&mut self, id: GatewayId) {
        self.gateways.entry(id).or_default().hostile = true;
    }
    /// A resolver answered.
    pub fn resolved(&mut self, name: &str, addresses: &[IpAddr]) {
        self.names.entry(name.to_owned()).or_default().extend(addresses);
    }

    // -- what is permitted -------------------------------------------------------------------------------------------

    /// The log-in that counts on a device: the newest that lives.
    pub fn session_of(&self, device: DeviceId, wall: i64) -> Option<SessionId> {
        // A log-in that is still to be made counts for no longer than a clock is corrected by: ten minutes.
        let begun = |s: &Session| s.created.saturating_sub(wall) <= 600_000;
        let lives = |s: &Session| s.device == device && !s.ended && wall < s.ends && begun(s);
        let newest = self.sessions.iter().filter(|(_, s)| lives(s)).max_by_key(|(id, s)| (s.created, **id));
        newest.map(|(id, _)| *id)
    }

    /// May this device reach that resource, for whoever is logged in on it, at this reading of the controller's wall clock?
    pub fn permits(&self, device: DeviceId, resource: ResourceId, wall: i64) -> bool {
        let Some(name) = self.devices.get(&device) else { return false };
        let Some(session) = self.session_of(device, wall).and_then(|id| self.sessions.get(&id)) else { return false };
        let Some(user) = self.users.get(&session.user).filter(|u| !u.disabled) else { return false };
        let Some(resource) = self.resources.get(&resource) else { return false };
        let age = (wall >= session.created).then(|| (wall - session.created) / 1_000);
        let means = |who: Who, name: u8, memberships: &BTreeSet<u8>| match who {
            Who::Any => true,
            Who::One(one) => one == name,
            Who::Members(of) => memberships.contains(&of),
        };
        // None: it cannot be known, which forbids and permits nothing.
        let holds = |line: &Line| -> Option<bool> {
            let device = line.device.is_none_or(|d| d == *name);
            let young = match line.younger {
                None => Some(true),
                Some(limit) => age.map(|age| i64::try_from(limit).is_ok_and(|limit| age < limit)),
            };
            // Conditions are read in this order.
            if young? { Some(device) } else { Some(false) }
        };
        let named =
            |line: &&Line| means(line.who, user.name, &user.groups) && means(line.what, resource.name, &resource.tags);
        let lines: Vec<&Line> = self.policy.iter().filter(named).collect();
        let forbidden = lines.iter().any(|l| l.forbids && holds(l) != Some(false));
        !forbidden && lines.iter().any(|l| !l.forbids && holds(l) == Some(true))
    }

    /// Is there a gateway that may lead to it?
    pub fn has_gateway(&self, resource: ResourceId) -> bool {
        let site = self.resources.get(&resource).map(|r| r.site);
        self.gateways.values().any(|g| g.confirmed && !g.hostile && g.site == site)
    }

    // -- promises ----------------------------------------------------------------------------------------------------

    fn life(&self, resource: &Resource, session: SessionId, now: Time, wall: i64) -> Time {
        let lease = now.saturating_add(resource.lease);
        let Some(session) = self.sessions.get(&session).filter(|_| self.clocks_true) else { return lease };
        let left = u64::try_from(session.ends.saturating_sub(wall)).unwrap_or(0);
        lease.min(now.saturating_add(left.saturating_mul(1_000_000)))
    }

    /// The controller gave a grant, or gave it anew: at a state, which it tells the gateway.
    pub fn give(&mut self, id: GrantId, given: Given, now: Time, wall: i64, revision: Revision) -> Result<(), Wrong> {
        if !self.permits(given.device, given.resource, wall) {
            return Err(wrong(Kind::Leaked, format!("{id} was given to {} against the policy", given.device)));
        }
        if self.session_of(given.device, wall) != Some(given.session) {
            return Err(wrong(Kind::Leaked, format!("{id} stands on a log-in that does not count")));
        }
        let rests = |g: &Grant| match g.ended {
            None => true,
            Some((_, at)) => g.confirmed.is_none() && now <= at.saturating_add(TOMBSTONE),
        };
        let shares = |g: &Grant| g.given.gateway == given.gateway && g.given.nat == given.nat && rests(g);
        let exact = self.clocks_true && !self.is_hostile(given.gateway);
        if let Some((other, _)) = self.grants.iter().find(|(other, g)| exact && **other != id && shares(g)) {
            return Err(wrong(Kind::Leaked, format!("{id} has the address of {other}, which may be in use")));
        }
        let Some(resource) = self.resources.get(&given.resource).cloned() else {
            return Err(wrong(Kind::Leaked, format!("{id} leads to nothing")));
        };
        let deadline = self.life(&resource, given.session, now, wall);
        match self.grants.get_mut(&id) {
            Some(old) if old.ended.is_some() => Err(wrong(Kind::Alive, format!("{id} had ended and was given again"))),
            Some(old) if old.given.device != given.device || old.given.gateway != given.gateway => {
                Err(wrong(Kind::Leaked, format!("{id} changed hands")))
            }
            Some(old) => {
                old.given = given;
                old.deadline = old.deadline.max(deadline);
                lead(&mut old.leads, resource, revision);
                Ok(())
            }
            None => {
                let grant = Grant {
                    given,
                    leads: vec![(resource, None)],
                    deadline,
                    ended: None,
                    confirmed: None,
                    sent: false,
                    reached: BTreeSet::new(),
                };
                self.grants.insert(id, grant);
                Ok(())
            }
        }
    }

    /// The controller changed what a grant leads to: what its resource says now.
    pub fn amend(&mut self, id: GrantId, now: Time, wall: i64, revision: Revision) -> Result<(), Wrong> {
        let Some(given) = self.grants.get(&id).map(|g| g.given.clone()) else {
            return Err(wrong(Kind::Leaked, format!("{id} was changed and never given")));
        };
        self.give(id, given, now, wall, revision)
    }

    /// The controller let a grant live on.
    pub fn renew(&mut self, id: GrantId, now: Time, wall: i64) -> Result<(), Wrong> {
        let Some(grant) = self.grants.get(&id) else {
            return Err(wrong(Kind::Leaked, format!("{id} was renewed and never given")));
        };
        if grant.ended.is_some() {
            return Err(wrong(Kind::Alive, format!("{id} had ended and was renewed")));
        }
        let given = &grant.given;
        if !self.permits(given.device, given.resource, wall) {
            return Err(wrong(Kind::Alive, format!("{id} was renewed against the policy")));
        }
        let lease = grant.leads.iter().map(|(r, _)| r.lease).max().unwrap_or(0);
        let Some((newest, _)) = grant.leads.last() else { return Ok(()) };
        let life = self.life(&Resource { lease, ..newest.clone() }, given.session, now, wall);
        if let Some(grant) = self.grants.get_mut(&id) {
            grant.deadline = grant.deadline.max(life);
        }
        Ok(())
    }

    /// The controller started anew, with clocks that may have been set meanwhile: what lives, lives at most one lease more.
    pub fn restore(&mut self, now: Time) {
        if !self.clocks_true {
            for grant in self.grants.values_mut().filter(|g| g.ended.is_none()) {
                let lease = grant.leads.iter().map(|(r, _)| r.lease).max().unwrap_or(0);
                grant.deadline = grant.deadline.max(now.saturating_add(lease));
            }
        }
    }

    /// A message with this grant left for its gateway, which has started since it had it last, or never had it.
    pub fn send(&mut self, id: GrantId) {
        if let Some(grant) = self.grants.get_mut(&id) {
            grant.sent = true;
        }
    }

    /// The controller ended a grant.
    pub fn end(&mut self, id: GrantId, revision: Revision, now: Time) -> Result<(), Wrong> {
        match self.grants.get_mut(&id) {
            Some(grant) if grant.ended.is_none() => {
                grant.ended = Some((revision, now));
                Ok(())
            }
            Some(_) => Err(wrong(Kind::Alive, format!("{id} ended twice"))),
            None => Err(wrong(Kind::Leaked, format!("{id} ended and was never given"))),
        }
    }

    /// A gateway may end only what it holds.
    pub fn refuse(&self, id: GrantId, gateway: GatewayId) -> Result<(), Wrong> {
        match self.grants.get(&id) {
            Some(grant) if grant.given.gateway != gateway => {
                Err(wrong(Kind::Lost, format!("{gateway} ended {id}, which is another's")))
            }
            _ => Ok(()),
        }
    }

    /// Is every grant that lives permitted? `live` are those of the controller's book.
    pub fn review(&self, live: &BTreeSet<GrantId>, wall: i64) -> Result<(), Wrong> {
        for (id, grant) in &self.grants {
            let given = &grant.given;
            if grant.ended.is_some() == live.contains(id) {
                return Err(wrong(Kind::Alive, format!("{id} lives and has ended")));
            }
            if grant.ended.is_none() && !self.permits(given.device, given.resource, wall) {
                return Err(wrong(Kind::Alive, format!("{id} of {} is not permitted any more", given.device)));
            }
        }
        Ok(())
    }

    // -- gateways ----------------------------------------------------------------------------------------------------

    /// A gateway's program started: it has nothing, and its tunnels never come back.
    pub fn start(&mut self, gateway: GatewayId) {
        let tunnels = self.gateways.get_mut(&gateway).map(|g| std::mem::take(&mut g.tunnels)).unwrap_or_default();
        if let Some(gateway) = self.gateways.get_mut(&gateway) {
            gateway.gone.extend(tunnels);
        }
        for grant in self.grants.values_mut().filter(|g| g.given.gateway == gateway) {
            grant.sent = false;
        }
    }

    /// A gateway, or its link, was disturbed until now.
    pub fn disturb(&mut self, gateway: GatewayId, now: Time) {
        let gateway = self.gateways.entry(gateway).or_default();
        gateway.calm_since = gateway.calm_since.max(now);
    }

    /// A part of a gateway's machine fails until then.
    pub fn trouble(&mut self, gateway: GatewayId, until: Time, now: Time) {
        let gateway = self.gateways.entry(gateway).or_default();
        gateway.troubled = until;
        gateway.calm_since = gateway.calm_since.max(now);
    }

    /// Does an administrator's confirmation of a gateway stand?
    pub fn is_confirmed(&self, gateway: GatewayId) -> bool {
        self.gateways.get(&gateway).is_some_and(|g| g.confirmed)
    }

    /// Does an address lie where a site's services may?
    pub fn is_within(&self, site: SiteId, address: IpAddr) -> bool {
        !never(address) && self.sites.get(&site).is_some_and(|all| all.iter().any(|p| p.contains(address)))
    }

    /// A gateway slept until now.
    pub fn wake(&mut self, gateway: GatewayId, now: Time) {
        self.disturb(gateway, now);
        self.gateways.entry(gateway).or_default().woke = now;
    }

    /// What a gateway admits from now on.
    pub fn publish(
        &mut self,
        gateway: GatewayId,
        tunnels: BTreeSet<PairingId>,
        grants: &[GrantId],
    ) -> Result<(), Wrong> {
        let Some(known) = self.gateways.get_mut(&gateway) else { return Ok(()) };
        if let Some(back) = tunnels.iter().find(|t| known.gone.contains(t)) {
            return Err(wrong(
                Kind::Alive,
                format!("tunnel {back} is back at {gateway}: a recorded handshake opens it"),
            ));
        }
        known.gone.extend(known.tunnels.difference(&tunnels));
        known.tunnels = tunnels;
        for id in grants {
            let Some(grant) = self.grants.get(id) else {
                return Err(wrong(Kind::Leaked, format!("{gateway} admits {id}, which nobody gave")));
            };
            if grant.given.gateway != gateway {
                return Err(wrong(Kind::Leaked, format!("{gateway} admits {id} of {}", grant.given.gateway)));
            }
            if grant.confirmed.is_some() {
                return Err(wrong(Kind::Alive, format!("{gateway} admits {id} again")));
            }
        }
        Ok(())
    }

    /// A gateway acknowledged: everything up to this state acts there. `admitted` is what it admits at this moment, and
    /// `tracked` are the sources of connections that its kernel still knows.
    pub fn acknowledge(
        &mut self,
        gateway: GatewayId,
        revision: Revision,
        now: Time,
        admitted: &BTreeSet<GrantId>,
        tracked: &BTreeSet<IpAddr>,
    ) -> Result<(), Wrong> {
        for (id, grant) in self.grants.iter_mut().filter(|(_, g)| g.given.gateway == gateway) {
            for (_, until) in &mut grant.leads {
                if until.is_some_and(|r| r <= revision) {
                    *until = Some(Revision::default());
                }
            }
            grant.leads.retain(|(_, until)| *until != Some(Revision::default()));
            if grant.confirmed.is_some() || grant.ended.is_none_or(|(at, _)| at > revision) {
                continue;
            }
            if admitted.contains(id) {
                return Err(wrong(Kind::Alive, format!("{gateway} acknowledged the end of {id} and still admits it")));
            }
            if grant.given.nat.iter().any(|a| tracked.contains(a)) {
                let what = format!("{gateway} acknowledged the end of {id} and its kernel still tracks it");
                return Err(wrong(Kind::Alive, what));
            }
            grant.confirmed = Some(now);
        }
        Ok(())
    }

    /// The controller believes that the end of a grant is confirmed. Is it?
    pub fn believe(&self, id: GrantId) -> Result<(), Wrong> {
        match self.grants.get(&id) {
            Some(grant) if grant.confirmed.is_none() && !self.is_hostile(grant.given.gateway) => {
                Err(wrong(Kind::Alive, format!("the end of {id} counts as confirmed, and nobody confirmed it")))
            }
            _ => Ok(()),
        }
    }

    /// Grants that ended at this gateway and that it has not confirmed, with the states of their ends.
    pub fn unconfirmed(&self) -> impl Iterator<Item = (GrantId, GatewayId, Revision)> {
        let open = |(id, g): (&GrantId, &Grant)| {
            g.ended.filter(|_| g.confirmed.is_none()).map(|(revision, _)| (*id, g.given.gateway, revision))
        };
        self.grants.iter().filter_map(open)
    }

    /// Was everything that ended confirmed in time, where nothing disturbs?
    pub fn overdue(&self, now: Time) -> Result<(), Wrong> {
        for (id, grant) in self.grants.iter().filter(|(_, g)| g.confirmed.is_none()) {
            let Some((_, ended)) = grant.ended else { continue };
            let Some(gateway) = self.gateways.get(&grant.given.gateway) else { continue };
            let since = ended.max(gateway.calm_since.max(gateway.troubled).saturating_add(RECOVERED_WITHIN));
            if gateway.confirmed && !gateway.hostile && now > since.saturating_add(CONFIRMED_WITHIN) {
                let what = format!("the end of {id} at {} is not confirmed in time", grant.given.gateway);
                return Err(wrong(Kind::Alive, what));
            }
        }
        Ok(())
    }

    fn is_hostile(&self, gateway: GatewayId) -> bool {
        self.gateways.get(&gateway).is_some_and(|g| g.hostile)
    }

    // -- packets -----------------------------------------------------------------------------------------------------

    /// A machine sends a packet with this mark.
    pub fn ship(&mut self, mark: u64, sent: Sent) {
        self.sent.insert(mark, sent);
    }

    /// How many packets reached a service, and how many grants ended.
    pub fn tally(&self) -> (u64, u64) {
        let reached = self.sent.values().map(|s| u64::from(s.reached)).sum();
        (reached, self.grants.values().filter(|g| g.ended.is_some()).count() as u64)
    }

    /// What became of a packet.
    pub fn shipped(&self, mark: u64) -> Option<&Sent> {
        self.sent.get(&mark)
    }

    /// A gateway wrote a packet towards its services. May it?
    pub fn forward(&mut self, gateway: GatewayId, now: Time, seen: Seen) -> Result<(), Wrong> {
        let Some(mark) = seen.mark else { return self.reset_service(gateway, seen) };
        let leak = |what: &str| Err(wrong(Kind::Leaked, format!("{gateway} forwards {mark} ({seen:?}): {what}")));
        let Some(sent) = self.sent.get(&mark).cloned() else { return leak("nobody sent it") };
        if sent.forged {
            return leak("it was forged");
        }
        let Some(known) = self.gateways.get(&gateway) else { return leak("it is no gateway") };
        let site = known.site.and_then(|s| self.sites.get(&s));
        let inside = site.is_some_and(|all| all.iter().any(|p| p.contains(seen.to.ip())));
        if never(seen.to.ip()) || !inside || known.own.contains(&seen.to.ip()) {
            return leak("no packet may go there");
        }
        let owner = |g: &&mut Grant| g.given.gateway == gateway && g.given.nat.contains(&seen.from.ip());
        let mut why =
            wrong(Kind::Leaked, format!("{gateway} forwards {mark} ({seen:?}) by no grant of {}", sent.device));
        let (names, woke) = (&self.names, known.woke);
        for grant in self.grants.values_mut().filter(owner) {
            let given = &grant.given;
            let leads = grant.leads.iter().any(|(resource, _)| {
                let to = match &resource.leads {
                    Leads::Same => seen.to.ip() == sent.to.ip(),
                    Leads::Name(name) => names.get(name).is_some_and(|all| all.contains(&seen.to.ip())),
                };
                resource.speaks_of(sent.to, sent.protocol) && to && seen.to.port() == sent.to.port()
            });
            if given.device != sent.device || !leads || seen.protocol != sent.protocol {
                continue;
            }
            if grant.confirmed.is_some() || !grant.sent {
                why = wrong(Kind::Alive, format!("{gateway} forwards {mark} by a grant that is gone there"));
            } else if now > grant.deadline.max(woke).saturating_add(MARGIN) {
                let late = (now - grant.deadline) / 1_000_000;
                why = wrong(Kind::Alive, format!("{gateway} forwards {mark} {late} ms after its grant's life"));
            } else {
                grant.reached.insert(seen.to.ip());
                if let Some(sent) = self.sent.get_mut(&mark) {
                    sent.reached += 1;
                    // Once more for each tunnel that took over while nobody answered.
                    if sent.reached > 4 {
                        return Err(wrong(Kind::Leaked, format!("{mark} came out {} times", sent.reached)));
                    }
                }
                return Ok(());
            }
        }
        Err(why)
    }

    /// A reset may go where a grant went, from its address.
    fn reset_service(&self, gateway: GatewayId, seen: Seen) -> Result<(), Wrong> {
        let whose = |g: &Grant| {
            g.given.gateway == gateway && g.given.nat.contains(&seen.from.ip()) && g.reached.contains(&seen.to.ip())
        };
        if self.grants.values().any(whose) {
            return Ok(());
        }
        Err(wrong(Kind::Leaked, format!("{gateway} sends {seen:?} for nobody")))
    }

    /// A machine's TUN got a packet. Did it ask for it?
    pub fn arrive(&mut self, device: DeviceId, seen: Seen, answers: Option<u64>) -> Result<(), Wrong> {
        let leak = |what: &str| Err(wrong(Kind::Leaked, format!("{device} gets {seen:?}: {what}")));
        if !self.addresses.get(&device).is_some_and(|own| own.contains(&seen.to.ip())) {
            return leak("it is for somebody else");
        }
        let mine = |s: &Sent| s.device == device && !s.forged && s.to.ip() == seen.from.ip();
        let Some(mark) = answers else {
            if self.sent.values().any(mine) {
                return Ok(());
            }
            return leak("it never spoke with that");
        };
        match self.sent.get_mut(&mark) {
            Some(sent)
                if mine(sent) && sent.from == seen.to && sent.to == seen.from && sent.protocol == seen.protocol =>
            {
                sent.answered += 1;
                Ok(())
            }
            Some(sent) if sent.device != device => leak("the answer is for another machine"),
            _ => leak("it did not ask for that"),
        }
    }

    /// A hostile gateway sent something to a machine, and it passed: only where the machine speaks with that address.
    pub fn intrude(&self, device: DeviceId, seen: Seen) -> Result<(), Wrong> {
        let mine = |s: &Sent| {
            s.device == device && s.from == seen.to && s.to == seen.from && s.protocol == seen.protocol && !s.forged
        };
        if self.sent.values().any(mine) {
            return Ok(());
        }
        Err(wrong(Kind::Leaked, format!("{device} gets {seen:?} of a hostile gateway unasked")))
    }
}

/// The newest version of what a grant leads to; the one before counts until the gateway has it.
fn lead(leads: &mut Vec<(Resource, Option<Revision>)>, resource: Resource, revision: Revision) {
    if let Some((newest, until)) = leads.last_mut() {
        if newest.leads_like(&resource) {
            *newest = resource;
            return;
        }
        *until = Some(revision);
    }
    leads.push((resource, None));
}

/// Where no packet may ever go, whatever anybody says: this host, this link, nowhere, everybody, and our own overlay.
fn never(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            let [first, second, ..] = a.octets();
            first == 0
                || first == 127
                || first >= 224
                || (first == 169 && second == 254)
                || (first == 198 && second & !1 == 18)
        }
        IpAddr::V6(a) => {
            a.is_loopback() || a.is_unspecified() || a.is_multicast() || a.segments()[0] & 0xffc0 == 0xfe80
        }
    }
}
