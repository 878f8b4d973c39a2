//! When does the client ask for access, and what came of it? Requests, grants, denials and tunnels, in virtual time.
//!
//! One request per resource at a time. A deny holds for at least 30 s, one for a passing reason for 1 s; a person may ask at
//! once. A tunnel that does not shake hands, that fell silent under traffic, or whose keys are as old as they may be, is replaced:
//! make before break.

mod tunnel;

#[cfg(test)]
mod tests;

pub use tunnel::{Seen, Tunnel};

use model::grant::Ending;
use model::ids::{GatewayId, GrantId, PairingId, ResourceId};
use model::limits::{CONNECTS_AT_ONCE_MAX, DENY_HOLD, ENDED_GRANTS_MAX, KEY_LIFE};
use model::net::Prefix;
use model::time::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// How long a request may be repeated because the controller was not reachable: as long as a packet waits.
const RETRY_FOR: Duration = model::limits::WAITING_MAX;
/// The pause between such repetitions.
const RETRY_EVERY: Duration = Duration::from_millis(300);
/// The shortest pause before a question that was refused for a passing reason is asked again.
const PASSING_MIN: Duration = Duration::from_secs(1);
/// How long flows of a grant that ended without anybody's will wait for the next grant.
const MOVE_MAX: Duration = Duration::from_secs(30);

/// What is to be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// For which resource.
    pub resource: ResourceId,
    /// Tunnels that the new grant may join.
    pub held: Vec<PairingId>,
    /// Gateways that did not answer.
    pub avoid: Vec<GatewayId>,
    /// The grant that is held, if it is to be moved out of a tunnel whose keys are old.
    pub moves: Option<GrantId>,
}

/// What the end of a grant says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Somebody willed it: packets are refused, with the reason.
    Willed,
    /// Nobody willed it, and it says nothing of the tunnel: only this grant moves.
    Grant,
    /// The gateway knows nothing any more: all that goes through the tunnel moves.
    Gateway,
    /// The gateway may not be used any more: nothing goes there from now on, and another one is asked for.
    Removed,
}

impl Loss {
    /// Did a grant end without anybody's will, so that its flows may wait for the next one, and does its end say that the
    /// gateway is gone? What is not known was willed. What a gateway refuses and is held here, it has held, too, and let go.
    pub const fn of(ending: Ending) -> Self {
        match ending {
            Ending::Gateway => Self::Removed,
            Ending::Restarted => Self::Gateway,
            Ending::Expired | Ending::Replaced | Ending::Unreached | Ending::Refused | Ending::Restored => Self::Grant,
            _ => Self::Willed,
        }
    }
}

/// A refusal.
#[derive(Debug, Clone)]
pub struct Denial {
    /// For a person to act on.
    pub reasons: Vec<String>,
    /// When to ask again.
    pub retry_after: Duration,
    /// Nobody's will: no gateway is there right now.
    pub passing: bool,
    /// Methods by which a second factor, given now, would make it a permit.
    pub step_up: Vec<String>,
}

/// A permit, as the book needs it.
#[derive(Debug, Clone)]
pub struct Permit {
    /// The grant.
    pub grant: GrantId,
    /// Its tunnel.
    pub pairing: PairingId,
    /// The gateway of a new tunnel; none: the grant joined a tunnel that is held.
    pub gateway: Option<GatewayId>,
    /// To what it leads.
    pub prefixes: Vec<Prefix>,
    /// When it ends without a renewal.
    pub until: Instant,
}

/// A grant that is held.
#[derive(Debug, Clone)]
pub struct Held {
    /// Its id.
    pub id: GrantId,
    /// Its tunnel.
    pub pairing: PairingId,
    /// To what it leads.
    pub prefixes: Vec<Prefix>,
    /// When it ends without a renewal.
    pub until: Instant,
    /// When it was received.
    since: Instant,
    /// It is over at the gateway; its flows wait for the next one until then.
    moving: Option<Instant>,
}

/// The last word on a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Permitted.
    Permitted,
    /// Denied, for these reasons.
    Denied(Vec<String>),
    /// The grant ended, for this reason.
    Ended(String),
    /// The question could not be asked.
    Failed(String),
}

/// How a resource stands, for people and for the routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is held; the first packet asks.
    Ready,
    /// Asked, or the tunnel is being made.
    Connecting,
    /// Granted, through a tunnel that lives.
    Connected,
    /// Denied until then.
    Denied(Instant),
}

#[derive(Debug)]
struct Entry {
    grant: Option<Held>,
    asking: Option<Asking>,
    denied: Option<Instant>,
    word: Option<(Instant, Word)>,
    /// Of the newest refusal: methods of a second factor that would do.
    step_up: Vec<String>,
    /// When to ask; NEVER: not.
    due: Instant,
    /// Since when something waits for an answer.
    wanted: Option<Instant>,
    asked: Option<Instant>,
    avoid: BTreeSet<GatewayId>,
    /// How often it was asked for because its tunnel gave no answer, without a new one.
    moves: u32,
}

#[derive(Debug)]
struct Asking {
    held: Vec<PairingId>,
    /// Only because the tunnel gave no answer: nothing else waits for it.
    moves: bool,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            grant: None,
            asking: None,
            denied: None,
            word: None,
            step_up: Vec::new(),
            due: Instant::NEVER,
            wanted: None,
            asked: None,
            avoid: BTreeSet::new(),
            moves: 0,
        }
    }
}

impl Entry {
    /// Does somebody wait for an answer, or a packet?
    fn is_wanted(&self, now: Instant) -> bool {
        self.wanted.is_some_and(|at| now.since(at) < RETRY_FOR)
    }

    /// Its tunnel answers again: there is no need for another one.
    fn stay(&mut self, now: Instant) {
        self.avoid.clear();
        self.moves = 0;
        if !self.is_wanted(now) {
            self.due = Instant::NEVER;
        }
    }

    /// When to ask for another tunnel: at once, then ever more rarely, for perhaps there is no other.
    fn next_move(&mut self, now: Instant) -> Instant {
        let pause = if self.moves == 0 { Duration::ZERO } else { PASSING_MIN * 2_u32.saturating_pow(self.moves - 1) };
        self.moves = self.moves.saturating_add(1);
        now.plus(pause.min(MOVE_MAX))
    }
}

/// Everything that the client holds and asks for.
#[derive(Debug)]
pub struct Book {
    /// How long a tunnel's keys are used.
    life: Duration,
    entries: BTreeMap<ResourceId, Entry>,
    tunnels: BTreeMap<PairingId, Tunnel>,
    ended: VecDeque<GrantId>,
    /// Another grant took their place: they are to be given back.
    left: VecDeque<GrantId>,
    changed: bool,
    /// Of [`Self::handle_timeout`]'s last call.
    seen: Instant,
}

impl Default for Book {
    fn default() -> Self {
        Self::new(KEY_LIFE)
    }
}

impl Book {
    /// Nothing yet; each tunnel is replaced when it is so old.
    pub const fn new(life: Duration) -> Self {
        Self {
            life,
            entries: BTreeMap::new(),
            tunnels: BTreeMap::new(),
            ended: VecDeque::new(),
            left: VecDeque::new(),
            changed: false,
            seen: Instant(0),
        }
    }

    // -- wishes ------------------------------------------------------------------------------------------------------

    /// Packets wait for this resource.
    pub fn want(&mut self, now: Instant, resource: ResourceId) {
        let entry = self.entries.entry(resource).or_default();
        let held = entry.grant.is_some() && entry.asked.is_some_and(|at| now.since(at) < DENY_HOLD);
        if entry.denied.is_some_and(|until| until > now) || held {
            return;
        }
        entry.wanted = Some(now);
        entry.due = entry.due.min(now);
    }

    /// A person asks: a deny does not hold.
    pub fn ask(&mut self, now: Instant, resource: ResourceId) {
        let entry = self.entries.entry(resource).or_default();
        entry.wanted = Some(now);
        entry.due = now;
    }

    /// The next request that is to be sent now.
    pub fn request(&mut self, now: Instant) -> Option<Request> {
        if self.entries.values().filter(|e| e.asking.is_some()).count() >= CONNECTS_AT_ONCE_MAX {
            return None;
        }
        let (resource, entry) = self.entries.iter_mut().find(|(_, e)| e.asking.is_none() && e.due <= now)?;
        let joinable = |(_, t): &(&PairingId, &Tunnel)| {
            t.is_alive() && !t.is_worn(now, self.life) && !entry.avoid.contains(&t.gateway)
        };
        let held: Vec<PairingId> = self.tunnels.iter().filter(joinable).map(|(id, _)| *id).collect();
        let kept = entry.grant.as_ref().filter(|g| g.moving.is_none());
        let worn = kept.filter(|g| {
            self.tunnels.get(&g.pairing).is_some_and(|t| t.is_alive() && !t.is_doubtful() && t.is_worn(now, self.life))
        });
        let worn = worn.map(|g| g.id);
        let moves = kept.is_some() && !entry.is_wanted(now);
        entry.asking = Some(Asking { held: held.clone(), moves });
        entry.asked = Some(now);
        entry.due = Instant::NEVER;
        Some(Request { resource: *resource, held, avoid: entry.avoid.iter().copied().collect(), moves: worn })
    }

    // -- answers -----------------------------------------------------------------------------------------------------

    /// Permitted. False: the permit is of no use, and is to be given back. It ended already or names a tunnel that is not
    /// there, then it is asked for again; or the tunnel that it was to replace answers again: its flows stay there.
    pub fn permitted(&mut self, now: Instant, resource: ResourceId, permit: Permit) -> bool {
        let asking = self.entry(resource).asking.take();
        if asking.is_some_and(|a| a.moves) && self.is_well(resource, &permit) {
            let worn = self.is_worn(now, resource);
            let entry = self.entry(resource);
            if worn {
                // Flows live on this gateway alone: it is asked for again, in a while.
                entry.due = entry.next_move(now);
            } else {
                entry.stay(now);
            }
            return false;
        }
        let entry = self.entries.entry(resource).or_default();
        let known = permit.gateway.is_some() || self.tunnels.contains_key(&permit.pairing);
        if self.ended.contains(&permit.grant) || !known {
            entry.due = now.plus(RETRY_EVERY);
            return false;
        }
        if let Some(gateway) = permit.gateway {
            self.tunnels.insert(permit.pairing, Tunnel::new(now, gateway));
        }
        let id = permit.grant;
        let old = entry.grant.replace(Held {
            id: permit.grant,
            pairing: permit.pairing,
            prefixes: permit.prefixes,
            until: permit.until,
            since: now,
            moving: None,
        });
        entry.denied = None;
        entry.wanted = None;
        entry.avoid.clear();
        entry.moves = 0;
        entry.word = Some((now, Word::Permitted));
        // The controller replaces only what lies on the same gateway.
        if let Some(old) = old.filter(|old| old.id != id) {
            if self.left.len() >= ENDED_GRANTS_MAX {
                self.left.pop_front();
            }
            self.left.push_back(old.id);
        }
        self.changed = true;
        true
    }

    /// Denied. A live grant is not harmed: it was only to be replaced. What is refused for a passing reason is asked for
    /// again as long as a packet waits.
    pub fn denied(&mut self, now: Instant, resource: ResourceId, denial: Denial) {
        let entry = self.entries.entry(resource).or_default();
        entry.asking = None;
        entry.avoid.clear();
        let passing = denial.passing;
        let again = now.plus(denial.retry_after.max(PASSING_MIN));
        entry.word = Some((now, Word::Denied(denial.reasons)));
        entry.step_up = denial.step_up;
        match &entry.grant {
            None if passing && entry.wanted.is_some_and(|at| now.since(at) < RETRY_FOR) => entry.due = again,
            Some(held) if passing || held.moving.is_none() => {
                let moving = held.moving;
                entry.due = again;
                if moving.is_none_or(|end| end <= again) && self.tunnel_is_well(resource) {
                    self.entry(resource).due = Instant::NEVER;
                } else if moving.is_none() {
                    let entry = self.entry(resource);
                    entry.due = entry.next_move(now).max(again);
                }
            }
            _ => {
                entry.grant = None;
                entry.wanted = None;
                let hold = if passing { PASSING_MIN } else { DENY_HOLD };
                entry.denied = Some(now.plus(denial.retry_after.max(hold)));
            }
        }
        self.changed = true;
    }

    /// The question could not be asked; it is repeated as long as a packet waits.
    pub fn failed(&mut self, now: Instant, resource: ResourceId, why: String) {
        let entry = self.entries.entry(resource).or_default();
        entry.asking = None;
        entry.word = Some((now, Word::Failed(why)));
        let moving = entry.grant.as_ref().is_some_and(|g| g.moving.is_some());
        if moving || entry.wanted.is_some_and(|at| now.since(at) < RETRY_FOR) {
            entry.due = now.plus(RETRY_EVERY);
        } else {
            entry.wanted = None;
        }
        self.changed = true;
    }

    // -- news of the controller --------------------------------------------------------------------------------------

    /// A grant ended. By somebody's will: packets are refused with the reason; else its flows wait a little for the next
    /// grant.
    pub fn ended(&mut self, now: Instant, grant: GrantId, reason: &str, loss: Loss) {
        // One that only moves comes back under its own id.
        if loss == Loss::Willed {
            self.remember(grant);
        }
        let Some(resource) = self.resource_of(grant) else { return };
        let asks = self.entry(resource).asking.is_some();
        let entry = self.entry(resource);
        if loss == Loss::Willed {
            entry.grant = None;
            entry.denied = Some(now.plus(DENY_HOLD));
            entry.due = Instant::NEVER;
            entry.wanted = None;
            entry.word = Some((now, Word::Ended(reason.to_owned())));
        } else if loss == Loss::Removed {
            entry.grant = None;
            if !asks {
                (entry.due, entry.wanted) = (now, Some(now));
            }
            entry.word = Some((now, Word::Ended(reason.to_owned())));
        } else if let Some(held) = &mut entry.grant {
            held.moving = Some(held.moving.unwrap_or(now.plus(MOVE_MAX)));
            let pairing = held.pairing;
            if !asks {
                entry.due = now;
            }
            entry.word = Some((now, Word::Ended(reason.to_owned())));
            if loss == Loss::Gateway
                && let Some(tunnel) = self.tunnels.get_mut(&pairing)
            {
                tunnel.give_up(now);
            }
        }
        self.changed = true;
    }

    /// A grant lives on.
    pub fn renewed(&mut self, grant: GrantId, until: Instant) {
        if let Some(resource) = self.resource_of(grant)
            && let Some(held) = &mut self.entry(resource).grant
            && held.moving.is_none()
        {
            held.until = until;
            self.changed = true;
        }
    }

    /// The grants that live, as of a question asked at `asked`: others that were held then have ended.
    pub fn only(&mut self, now: Instant, asked: Instant, live: &BTreeSet<GrantId>) {
        let gone: Vec<GrantId> = self
            .entries
            .values()
            .filter_map(|e| e.grant.as_ref())
            .filter(|g| g.since < asked && g.moving.is_none() && !live.contains(&g.id))
            .map(|g| g.id)
            .collect();
        for grant in gone {
            self.ended(now, grant, "ended while the controller was not reachable", Loss::Grant);
        }
    }

    /// These resources are visible, no others; what `fresh` names was changed, so that an old deny says nothing of it.
    pub fn visible(&mut self, all: &BTreeSet<ResourceId>, fresh: &BTreeSet<ResourceId>) -> Vec<(ResourceId, Word)> {
        let gone: Vec<ResourceId> = self.entries.keys().filter(|r| !all.contains(r)).copied().collect();
        let mut words = Vec::new();
        for resource in gone {
            if let Some(entry) = self.entries.remove(&resource) {
                words.extend(entry.word.map(|(_, word)| (resource, word)));
                if let Some(held) = entry.grant {
                    self.remember(held.id);
                }
            }
        }
        for entry in self.entries.iter_mut().filter(|(r, _)| fresh.contains(r)).map(|(_, e)| e) {
            entry.denied = None;
        }
        self.changed = true;
        words
    }

    /// Another person, or a fresh log-in: old denials say nothing any more.
    pub fn forget_denials(&mut self) {
        for entry in self.entries.values_mut() {
            entry.denied = None;
        }
        self.changed = true;
    }

    // -- time and tunnels --------------------------------------------------------------------------------------------

    /// What the engine says of a tunnel; true: a handshake should be forced, to see whether the far end is there.
    pub fn observe(&mut self, now: Instant, pairing: PairingId, seen: Seen) -> bool {
        let Some(tunnel) = self.tunnels.get_mut(&pairing) else { return false };
        let before = (tunnel.is_alive(), tunnel.is_doubtful());
        let probe = tunnel.observe(now, seen);
        let after = (tunnel.is_alive(), tunnel.is_doubtful());
        self.changed |= before != after;
        if before != after && after == (true, false) {
            let stays = |e: &&mut Entry| e.grant.as_ref().is_some_and(|g| g.pairing == pairing && g.moving.is_none());
            self.entries.values_mut().filter(stays).for_each(|entry| entry.stay(now));
        }
        probe
    }

    /// Ends what is over, and asks anew where a tunnel gave no answer.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.seen = now;
        for tunnel in self.tunnels.values_mut() {
            if tunnel.is_late(now) {
                tunnel.give_up(now);
                self.changed = true;
            }
        }
        for entry in self.entries.values_mut() {
            if entry.denied.is_some_and(|until| until <= now) {
                entry.denied = None;
                self.changed = true;
            }
            let Some(held) = &entry.grant else { continue };
            if held.until <= now || held.moving.is_some_and(|end| end <= now) {
                entry.grant = None;
                self.changed = true;
                continue;
            }
            // A tunnel that was given up: the next gateway, as long as this grant is worth it.
            if let Some(tunnel) = self.tunnels.get(&held.pairing)
                && tunnel.is_given_up()
                && entry.asking.is_none()
                && entry.due == Instant::NEVER
                && held.moving.is_none()
            {
                entry.avoid.insert(tunnel.gateway);
                entry.due = entry.next_move(now);
            }
        }
        self.replace_worn(now);
    }

    /// Asks anew for what goes through a tunnel whose keys are as old as they may be: the gateway has nothing to do with it.
    fn replace_worn(&mut self, now: Instant) {
        for entry in self.entries.values_mut() {
            let Some(held) = entry.grant.as_ref().filter(|held| held.moving.is_none()) else { continue };
            let worn = self.tunnels.get(&held.pairing).is_some_and(|t| t.is_alive() && t.is_worn(now, self.life));
            if worn && entry.asking.is_none() && entry.due == Instant::NEVER {
                entry.due = entry.next_move(now);
            }
        }
    }

    /// When [`Self::handle_timeout`] or [`Self::request`] has something to do next.
    pub fn next_deadline(&self) -> Instant {
        let entries = self.entries.values().flat_map(|e| {
            let due = if e.asking.is_none() { e.due } else { Instant::NEVER };
            let grant = e.grant.as_ref().map_or(Instant::NEVER, |g| g.until.min(g.moving.unwrap_or(Instant::NEVER)));
            [due, grant, e.denied.unwrap_or(Instant::NEVER)]
        });
        // One that is worn already waits for an answer, or for the time of the next question.
        let wears = |tunnel: &Tunnel| {
            if tunnel.is_worn(self.seen, self.life) { Instant::NEVER } else { tunnel.made().plus(self.life) }
        };
        let tunnels = self.tunnels.values().map(|tunnel| tunnel.deadline().min(wears(tunnel)));
        entries.chain(tunnels).min().unwrap_or(Instant::NEVER)
    }

    /// Tunnels that no grant uses and no request names; they are forgotten.
    pub fn unused(&mut self) -> Vec<PairingId> {
        let used: BTreeSet<PairingId> =
            self.entries.values().filter_map(|e| e.grant.as_ref()).map(|g| g.pairing).collect();
        let named: BTreeSet<PairingId> =
            self.entries.values().filter_map(|e| e.asking.as_ref()).flat_map(|a| a.held.iter().copied()).collect();
        let gone: Vec<PairingId> =
            self.tunnels.keys().filter(|p| !used.contains(p) && !named.contains(p)).copied().collect();
        for pairing in &gone {
            self.tunnels.remove(pairing);
        }
        gone
    }

    /// The next grant that another one took the place of: it is to be given back, or it would be renewed as long as the
    /// session lasts.
    pub fn next_left(&mut self) -> Option<GrantId> {
        self.left.pop_front()
    }

    /// Did anything change since the last call?
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    // -- for the routes and for people -------------------------------------------------------------------------------

    /// The grant, as long as it is to carry packets.
    pub fn grant(&self, resource: &ResourceId) -> Option<&Held> {
        self.entries.get(resource)?.grant.as_ref()
    }

    /// By which methods a second factor, given now, would make the newest refusal a permit.
    pub fn step_up(&self, resource: &ResourceId) -> &[String] {
        self.entries.get(resource).map_or(&[], |entry| entry.step_up.as_slice())
    }

    /// Denied until then.
    pub fn deny(&self, resource: &ResourceId) -> Option<Instant> {
        self.entries.get(resource)?.denied
    }

    /// How it stands.
    pub fn standing(&self, resource: &ResourceId) -> Standing {
        let Some(entry) = self.entries.get(resource) else { return Standing::Ready };
        let alive =
            |held: &Held| held.moving.is_none() && self.tunnels.get(&held.pairing).is_some_and(Tunnel::is_alive);
        match (&entry.grant, entry.denied) {
            (Some(held), _) if alive(held) => Standing::Connected,
            (Some(_), _) => Standing::Connecting,
            (None, _) if entry.asking.is_some() || entry.due != Instant::NEVER => Standing::Connecting,
            (None, Some(until)) => Standing::Denied(until),
            (None, None) => Standing::Ready,
        }
    }

    /// The last word on it, and when it came.
    pub fn word(&self, resource: &ResourceId) -> Option<&(Instant, Word)> {
        self.entries.get(resource)?.word.as_ref()
    }

    /// All grants, by resource.
    pub fn grants(&self) -> impl Iterator<Item = (&ResourceId, &Held)> {
        self.entries.iter().filter_map(|(r, e)| e.grant.as_ref().map(|g| (r, g)))
    }

    /// Tunnels whose far end may be gone, or does not honour a grant any more that was to lead through it.
    pub fn doubtful(&self) -> BTreeSet<PairingId> {
        let tunnels = self.tunnels.iter().filter(|(_, t)| t.is_doubtful()).map(|(id, _)| *id);
        tunnels.chain(self.grants().filter(|(_, g)| g.moving.is_some()).map(|(_, g)| g.pairing)).collect()
    }

    /// All tunnels.
    pub fn tunnels(&self) -> impl Iterator<Item = (&PairingId, &Tunnel)> {
        self.tunnels.iter()
    }

    fn entry(&mut self, resource: ResourceId) -> &mut Entry {
        self.entries.entry(resource).or_default()
    }

    fn is_worn(&self, now: Instant, resource: ResourceId) -> bool {
        let tunnel = self.grant(&resource).and_then(|held| self.tunnels.get(&held.pairing));
        tunnel.is_some_and(|tunnel| tunnel.is_worn(now, self.life))
    }

    fn tunnel_is_well(&self, resource: ResourceId) -> bool {
        self.grant(&resource).and_then(|held| self.tunnels.get(&held.pairing)).is_some_and(Tunnel::is_alive)
    }

    /// Is the grant that is held as good as ever, at another gateway than the permit's? On the same one, the controller moves
    /// it, or ends it for the new one.
    fn is_well(&self, resource: ResourceId, permit: &Permit) -> bool {
        let Some(held) = self.grant(&resource).filter(|held| held.moving.is_none()) else { return false };
        let Some(tunnel) = self.tunnels.get(&held.pairing) else { return false };
        let next = permit.gateway.or_else(|| self.tunnels.get(&permit.pairing).map(|t| t.gateway));
        tunnel.is_alive() && !tunnel.is_doubtful() && next != Some(tunnel.gateway)
    }

    fn resource_of(&self, grant: GrantId) -> Option<ResourceId> {
        self.grants().find(|(_, g)| g.id == grant).map(|(r, _)| *r)
    }

    fn remember(&mut self, grant: GrantId) {
        if self.ended.len() >= ENDED_GRANTS_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(grant);
    }
}
