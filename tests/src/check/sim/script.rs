//! What happens? So many steps of chance, then quiet, and then whatever is permitted must pass.

use super::parts::{MS, Role, SECOND, marked};
use super::reference::{Kind, Leads, Time, Wrong};
use super::stage::{self, Facts};
use super::world::{Node, World, scene};
use controller::directory::NodeState;
use model::net::{Prefix, Protocol};
use std::net::{IpAddr, SocketAddr};

/// How long everything is quiet before what is permitted must pass: what a client and a gateway need to find back to their
/// controller. A deny may hold for longer; a person asks, then it does not.
const QUIET: Time = 26 * SECOND;
/// How often it is tried, once a second.
const TRIES: u64 = 25;
/// A year, nanoseconds.
const YEAR: i64 = 365 * 24 * 3_600 * 1_000_000_000;

/// Runs one seed; `to_the_end`: with the quiet after it.
pub fn play(world: &mut World, facts: &mut Facts, steps: u64, to_the_end: bool) {
    for client in 0..world.clients.len() {
        stage::log_in(world, client, 3_600_000);
    }
    world.controller.changed(scene!(world), true);
    world.collect();
    world.run(SECOND);
    for step in 0..steps {
        world.note(|| format!("-- step {step}"));
        act(world, facts);
        world.collect();
        let pause = match world.dice.below(10) {
            0..=6 => world.dice.below(150) * MS,
            7 | 8 => world.dice.below(1_500) * MS,
            _ => world.dice.below(8_000) * MS,
        };
        world.run(pause);
        check(world);
        if !world.wrong.is_empty() {
            world.note(|| format!("-- broken at step {step}"));
            return;
        }
    }
    if to_the_end {
        settle(world, facts);
    }
}

fn check(world: &mut World) {
    let overdue = world.reference.overdue(world.now);
    scene!(world).hold(overdue);
}

fn act(world: &mut World, facts: &mut Facts) -> Option<()> {
    match world.dice.below(100) {
        0..=39 => talk(world, facts),
        40..=57 => change(world, facts),
        58..=71 => disturb(world),
        72..=77 => fail(world),
        _ => attack(world, facts),
    }
}

// -- traffic ---------------------------------------------------------------------------------------------------------

fn address(world: &mut World, facts: &Facts, resource: usize) -> Option<(SocketAddr, Protocol)> {
    let (_, plain) = facts.resources.get(resource)?;
    let plain = plain.as_ref()?;
    let client = *world.dice.pick(&plain.clients)?;
    let spread = if client.is_host() { 0 } else { world.dice.below(8) };
    let ip = match client.address() {
        IpAddr::V4(a) => IpAddr::from((u32::from(a) + u32::try_from(spread).ok()?).to_be_bytes()),
        v6 => v6,
    };
    // Mostly a port that it speaks.
    let first = plain.ports.0 + u16::try_from(world.dice.below(3)).ok()?;
    let port = if world.dice.chance(80) { first } else { 80 + u16::try_from(world.dice.below(17)).ok()? };
    Some((SocketAddr::new(ip, port), plain.protocol))
}

fn own(world: &World, client: usize, to: IpAddr) -> Option<IpAddr> {
    let own = &world.clients.get(client)?.place.own;
    own.iter().find(|a| a.is_ipv4() == to.is_ipv4()).copied()
}

/// Who speaks with what: mostly somebody who may.
fn pair(world: &mut World, facts: &Facts) -> (usize, usize) {
    let mut found = (0, 0);
    for _ in 0..6 {
        found = (world.dice.index(world.clients.len()), world.dice.index(facts.resources.len()));
        let device = world.clients.get(found.0).map(|c| c.place.id);
        let resource = facts.resources.get(found.1).map(|r| r.0);
        let wall = world.controller.clocks.wall(world.now).0;
        let may = device.zip(resource).is_some_and(|(d, r)| world.reference.permits(d, r, wall));
        if may || world.dice.chance(10) {
            break;
        }
    }
    found
}

fn talk(world: &mut World, facts: &Facts) -> Option<()> {
    let (client, resource) = pair(world, facts);
    if world.dice.chance(30) {
        // A person asks: a deny does not hold.
        let (one, id) = (world.clients.get_mut(client)?, facts.resources.get(resource)?.0);
        one.book.ask(one.clocks.now(world.now), id);
    }
    for _ in 0..=world.dice.below(3) {
        let (to, protocol) = address(world, facts, resource)?;
        let port = 40_000 + u16::try_from(world.dice.below(12)).ok()?;
        let from = SocketAddr::new(own(world, client, to.ip())?, port);
        world.speak(client, from, to, protocol);
        if world.dice.chance(40) {
            world.run(world.weather.delay.1 + 20 * MS);
        }
    }
    Some(())
}

// -- an administrator's day ------------------------------------------------------------------------------------------

fn change(world: &mut World, facts: &mut Facts) -> Option<()> {
    let mut gateways = false;
    match world.dice.below(12) {
        0 | 1 => {
            let n = world.dice.index(facts.users.len());
            let (_, user) = facts.users.get_mut(n)?;
            user.disabled = !user.disabled;
            world.note(|| format!("user {n}: disabled or enabled"));
            stage::put_user(world, facts, n)?;
        }
        2 | 3 => {
            let n = world.dice.index(facts.users.len());
            let group = u8::try_from(world.dice.below(u64::from(stage::GROUPS))).ok()?;
            let (_, user) = facts.users.get_mut(n)?;
            if !user.groups.remove(&group) {
                user.groups.insert(group);
            }
            world.note(|| format!("user {n}: group {group} changed"));
            stage::put_user(world, facts, n)?;
        }
        4 => {
            let n = world.dice.index(world.clients.len());
            world.note(|| format!("client {n}: the log-in ends"));
            stage::log_out(world, n)?;
        }
        5 | 6 => {
            let n = world.dice.index(world.clients.len());
            let life = 1_000 * i64::try_from(5 + world.dice.below(300)).ok()?;
            world.note(|| format!("client {n}: a log-in for {life} ms"));
            stage::log_in(world, n, life)?;
        }
        7 | 8 => {
            let n = world.dice.index(facts.resources.len());
            let made = stage::resource(u8::try_from(n).ok()?, &mut world.dice, &facts.sites);
            let made = made.filter(|_| !world.dice.chance(25)).map(|made| spoil(world, made));
            world.note(|| format!("resource {n}: {made:?}"));
            facts.resources.get_mut(n)?.1 = made;
            stage::put_resource(world, facts, n)?;
            gateways = true;
        }
        9 | 10 => {
            let n = world.dice.index(stage::policies().len());
            world.note(|| format!("policy {n} applied"));
            stage::apply_policy(world, n);
        }
        _ => return revoke(world, facts),
    }
    world.controller.changed(scene!(world), gateways);
    Some(())
}

/// A resource that leads where no packet may go, as a store that somebody wrote into might hold it.
fn spoil(world: &mut World, mut made: super::reference::Resource) -> super::reference::Resource {
    let bad = ["10.1.255.1", "10.2.255.3", "169.254.169.254", "127.0.0.1", "10.9.0.1", "198.18.0.7"];
    if made.leads == Leads::Same && world.dice.chance(15) {
        let bad: Vec<Prefix> = bad.iter().filter_map(|p| p.parse().ok()).collect();
        made.clients = world.dice.pick(&bad).copied().into_iter().collect();
    }
    made
}

fn revoke(world: &mut World, facts: &mut Facts) -> Option<()> {
    if world.dice.chance(50) {
        let n = world.dice.index(world.clients.len());
        // Two are left, so that something can pass.
        if facts.revoked.is_empty() && world.dice.chance(50) {
            facts.revoked.insert(n);
            world.note(|| format!("device {n} revoked"));
            let device = world.clients.get(n)?.place.id;
            world.reference.revoke_device(device);
            stage::put_device(world, n, device, NodeState::Revoked, stage::pool()?)?;
            world.controller.changed(scene!(world), false);
        }
    } else if facts.removed.is_empty() && world.dice.chance(30) {
        facts.removed.insert(1);
        world.note(|| "gateway 1 revoked".to_owned());
        stage::remove_gateway(world, 1)?;
        world.controller.changed(scene!(world), true);
    }
    Some(())
}

// -- a bad day -------------------------------------------------------------------------------------------------------

fn node(world: &mut World) -> Node {
    if world.dice.chance(60) {
        Node::Gateway(world.dice.index(world.gateways.len()))
    } else {
        Node::Client(world.dice.index(world.clients.len()))
    }
}

fn hush(world: &mut World, node: Node, until: Time) {
    if let Node::Gateway(n) = node
        && let Some(gateway) = world.gateways.get(n)
    {
        world.reference.disturb(gateway.place.id, until);
    }
}

fn disturb(world: &mut World) -> Option<()> {
    let now = world.now;
    match world.dice.below(8) {
        0 | 1 => {
            let node = node(world);
            let longest = if world.dice.chance(30) { 90 } else { 12 };
            let until = now + world.dice.below(longest * 1_000) * MS;
            // Perhaps one way comes back long before the other.
            let back = if world.dice.chance(50) { until } else { now + world.dice.below(8_000) * MS };
            world.note(|| {
                format!("{node:?} is cut off until {} s, from there until {} s", until / SECOND, back / SECOND)
            });
            world.cut.insert((node, true), until);
            world.cut.insert((node, false), back);
            hush(world, node, until.max(back));
        }
        2 => {
            let way = (world.dice.index(world.gateways.len()), world.dice.index(world.clients.len()));
            let until = now + world.dice.below(20_000) * MS;
            world.note(|| format!("gateway {} and client {} are cut off", way.0, way.1));
            world.cut_data.insert(way, until);
        }
        3 => {
            let node = node(world);
            let here = world.dice.chance(50);
            world.note(|| format!("the stream of {node:?} breaks"));
            hush(world, node, now);
            match node {
                Node::Gateway(n) if here => world.gateways.get_mut(n)?.hang_up(now),
                Node::Gateway(n) => {
                    let id = world.gateways.get(n)?.place.id;
                    world.controller.hang_up(id);
                }
                Node::Client(n) => world.clients.get_mut(n)?.hang_up(now),
            }
        }
        4 => {
            let n = world.dice.index(world.gateways.len());
            world.note(|| format!("gateway {n} starts anew"));
            world.gateways.get_mut(n)?.restart(scene!(world));
        }
        5 => {
            let n = world.dice.index(world.clients.len());
            world.note(|| format!("client {n} starts anew"));
            world.clients.get_mut(n)?.restart(scene!(world));
        }
        6 => {
            world.note(|| "the controller starts anew".to_owned());
            hush_all(world);
            world.controller.restart(scene!(world));
            world.controller.changed(scene!(world), false);
        }
        _ => {
            let client = world.dice.index(world.clients.len());
            let one = world.clients.get_mut(client)?;
            let resource = one.book.grants().next().map(|(r, _)| *r)?;
            let now = one.clocks.now(world.now);
            // Half of the time it names no tunnel: then a new one is made, and takes over from the old one.
            one.rotates = world.dice.chance(50);
            one.book.ask(now, resource);
            one.time(scene!(world));
        }
    }
    Some(())
}

fn hush_all(world: &mut World) {
    for gateway in &world.gateways {
        world.reference.disturb(gateway.place.id, world.now);
    }
}

fn fail(world: &mut World) -> Option<()> {
    let now = world.now;
    match world.dice.below(6) {
        0 | 1 => {
            let node = node(world);
            let sleep = world.dice.below(40_000) * MS;
            // Its boot clock may stand still meanwhile; then its wall clock tells.
            let stands = world.dice.chance(50);
            let late = world.dice.below(500) * MS;
            let asleep = match node {
                Node::Gateway(n) => world.gateways.get(n)?.asleep,
                Node::Client(n) => world.clients.get(n)?.asleep,
            };
            // Nobody falls asleep twice.
            if asleep > now {
                return None;
            }
            world.note(|| format!("{node:?} sleeps for {} ms", sleep / MS));
            match node {
                Node::Gateway(n) => {
                    let gateway = world.gateways.get_mut(n)?;
                    gateway.asleep = now + sleep;
                    // Its timers run on from where they stood.
                    gateway.wake = gateway.wake.max(now + sleep + late);
                    if stands {
                        gateway.clocks.stop_boot(sleep);
                    }
                    world.reference.wake(gateway.place.id, now + sleep);
                }
                Node::Client(n) => {
                    let client = world.clients.get_mut(n)?;
                    client.asleep = now + sleep;
                    if stands {
                        client.clocks.stop_boot(sleep);
                    }
                }
            }
        }
        2 => {
            let years = i64::try_from(1 + world.dice.below(10)).ok()?;
            let by = if world.dice.chance(50) { years * YEAR } else { -years * YEAR };
            let who = world.dice.below(3);
            world.note(|| format!("a wall clock is set by {} years", by / YEAR));
            match who {
                0 => {
                    // Whoever sets it also moves every end that is known by the wall clock.
                    world.reference.clocks_true = false;
                    world.controller.clocks.set_wall(by);
                    hush_all(world);
                    world.controller.wake = now;
                }
                1 => {
                    let n = world.dice.index(world.gateways.len());
                    let gateway = world.gateways.get_mut(n)?;
                    gateway.clocks.set_wall(by);
                    gateway.wake = now;
                    world.reference.disturb(gateway.place.id, now);
                }
                _ => {
                    let n = world.dice.index(world.clients.len());
                    world.clients.get_mut(n)?.clocks.set_wall(by);
                }
            }
        }
        3 | 4 => {
            let n = world.dice.index(world.gateways.len());
            let gateway = world.gateways.get_mut(n)?;
            gateway.kernel_fails = !gateway.kernel_fails;
            // As long as it fails, nothing can be confirmed.
            let until = if gateway.kernel_fails || gateway.disk_fails { Time::MAX / 2 } else { now };
            let (id, fails) = (gateway.place.id, gateway.kernel_fails);
            world.reference.trouble(id, until, now);
            world.note(|| format!("the kernel of gateway {n} fails: {fails}"));
        }
        _ => {
            let n = world.dice.index(world.gateways.len());
            let gateway = world.gateways.get_mut(n)?;
            gateway.disk_fails = !gateway.disk_fails;
            let until = if gateway.kernel_fails || gateway.disk_fails { Time::MAX / 2 } else { now };
            let (id, fails) = (gateway.place.id, gateway.disk_fails);
            world.reference.trouble(id, until, now);
            world.note(|| format!("the disk of gateway {n} fails: {fails}"));
        }
    }
    Some(())
}

// -- the attacker ----------------------------------------------------------------------------------------------------

fn attack(world: &mut World, facts: &Facts) -> Option<()> {
    let anywhere = SocketAddr::new(IpAddr::from([203, 0, 113, u8::try_from(world.dice.below(250)).ok()?]), 443);
    match world.dice.below(8) {
        // What was recorded comes again, perhaps changed, perhaps from elsewhere, perhaps to somebody else.
        0..=3 => {
            let at = world.dice.index(world.tape.len());
            let (mut from, mut to, mut bytes) = world.tape.get(at)?.clone();
            if world.dice.chance(50) {
                from = anywhere;
            }
            if world.dice.chance(20) {
                to = world.gateways.get(world.dice.index(world.gateways.len()))?.place.addr;
            }
            if world.dice.chance(40) {
                let spot = world.dice.index(bytes.len());
                *bytes.get_mut(spot)? ^= 1 << world.dice.below(8);
            }
            if world.dice.chance(10) {
                bytes.truncate(world.dice.index(bytes.len()));
            }
            world.inject(from, to, bytes);
        }
        4 => {
            let to = world.gateways.get(world.dice.index(world.gateways.len()))?.place.addr;
            let mut bytes = vec![4, 0, 0, 0];
            for _ in 0..6 + world.dice.below(8) {
                bytes.extend(world.dice.roll().to_le_bytes());
            }
            world.inject(anywhere, to, bytes);
        }
        // Somebody in the services' network speaks to addresses of the pool.
        5 => {
            let n = world.dice.index(world.gateways.len());
            let gateway = world.gateways.get(n)?;
            let tracked: Vec<IpAddr> = gateway.tracked.iter().copied().collect();
            let any = IpAddr::from([198, 18, 0, u8::try_from(1 + world.dice.below(9)).ok()?]);
            let nat = world.dice.pick(&tracked).copied().unwrap_or(any);
            let from: IpAddr = if nat.is_ipv4() { "10.1.9.99".parse().ok()? } else { "2001:db8:1::99".parse().ok()? };
            let port = 40_000 + u16::try_from(world.dice.below(12)).ok()?;
            let mark = u64::MAX - world.dice.below(1_000);
            let protocol = if world.dice.chance(50) { Protocol::Udp } else { Protocol::Tcp };
            let to = SocketAddr::new(nat, port);
            let bytes = marked(SocketAddr::new(from, 85), to, protocol, Role::Answer, mark);
            world.strike(n, bytes);
        }
        6 => return betray(world, facts),
        _ => {
            let n = world.clients.iter().position(|c| c.rogue)?;
            let resource = world.dice.index(facts.resources.len());
            let (to, protocol) = address(world, facts, resource)?;
            let everything = world.clients.get(n)?.place.everything.clone();
            let from: Vec<IpAddr> = everything.into_iter().filter(|a| a.is_ipv4() == to.is_ipv4()).collect();
            let from = SocketAddr::new(*world.dice.pick(&from)?, 41_000);
            world.speak(n, from, to, protocol);
        }
    }
    Some(())
}

/// A hostile gateway speaks into its tunnels, or lies to the controller.
fn betray(world: &mut World, facts: &Facts) -> Option<()> {
    let n = world.evil.as_ref()?.gateway;
    if world.dice.chance(70) {
        let resource = world.dice.index(facts.resources.len());
        let (from, _) = address(world, facts, resource)?;
        let at: Vec<SocketAddr> = world.clients.iter().map(|c| c.place.addr).collect();
        let gateway = world.gateways.get_mut(n)?;
        let view = gateway.view.clone()?;
        let now = gateway.clocks.now(world.now);
        let key = gateway.pairing_key.clone();
        world.evil.as_mut()?.speak(now, &key, &view, &mut world.dice, &at, from);
        return Some(());
    }
    let stream = world.gateways.get(n)?.stream()?;
    let head = world.controller.ledger.head();
    let others: Vec<_> = world.controller.lives().map(|l| l.grant.id).collect();
    let refused = world.dice.pick(&others).copied().into_iter().collect();
    let ahead = world.dice.below(3) * 1_000_000;
    let revision = model::revision::Revision { number: head.number + ahead, ..head };
    let up = super::controller::Up::Ack { revision, refused };
    world.gateways.get_mut(n)?.mail.push((stream, up));
    Some(())
}

// -- quiet -----------------------------------------------------------------------------------------------------------

/// Everything is healed and quiet: what is permitted must pass, and nothing else is left.
fn settle(world: &mut World, facts: &Facts) -> Option<()> {
    world.note(|| "-- quiet".to_owned());
    world.heal();
    for gateway in 0..world.gateways.len() {
        let id = world.gateways.get(gateway)?.place.id;
        world.reference.trouble(id, world.now, world.now);
    }
    for client in 0..world.clients.len() {
        stage::log_in(world, client, 10_000_000);
    }
    world.controller.changed(scene!(world), false);
    world.collect();
    world.run(QUIET);
    check(world);
    agree(world);
    let mut wanted = Vec::new();
    for client in 0..world.clients.len() {
        for resource in 0..facts.resources.len() {
            wanted.push(Wanted { client, resource, marks: Vec::new(), permitted: true, passed: false });
        }
    }
    for _ in 0..TRIES {
        if !world.wrong.is_empty() {
            return None;
        }
        for one in &mut wanted {
            one.attempt(world, facts);
        }
        if wanted.iter().all(|w| w.passed || !w.permitted) {
            break;
        }
        world.run(SECOND);
    }
    for one in wanted.iter().filter(|w| w.permitted && !w.passed) {
        let what = format!("client {} does not reach resource {}, which it may", one.client, one.resource);
        world.wrong.push(Wrong { kind: Kind::Lost, what });
    }
    if !world.wrong.is_empty() {
        world.describe();
    }
    check(world);
    Some(())
}

struct Wanted {
    client: usize,
    resource: usize,
    marks: Vec<u64>,
    /// All the time until now.
    permitted: bool,
    passed: bool,
}

impl Wanted {
    fn attempt(&mut self, world: &mut World, facts: &Facts) -> Option<()> {
        let came = |m: &u64| world.reference.shipped(*m).is_some_and(|s| s.reached > 0 && s.answered > 0);
        self.passed |= self.marks.iter().any(came);
        self.permitted &= self.may(world, facts).unwrap_or(false);
        // What may not pass is tried once.
        if self.passed || (!self.permitted && !self.marks.is_empty()) {
            return None;
        }
        let plain = facts.resources.get(self.resource)?.1.as_ref()?;
        let to = SocketAddr::new(plain.clients.first()?.address(), plain.ports.0);
        let from = SocketAddr::new(own(world, self.client, to.ip())?, 42_000);
        if self.permitted && self.marks.is_empty() {
            let (client, id) = (world.clients.get_mut(self.client)?, facts.resources.get(self.resource)?.0);
            client.book.ask(client.clocks.now(world.now), id);
        }
        let mark = world.speak(self.client, from, to, plain.protocol);
        self.marks.push(mark);
        Some(())
    }

    fn may(&self, world: &World, facts: &Facts) -> Option<bool> {
        let (id, plain) = facts.resources.get(self.resource)?;
        let plain = plain.as_ref()?;
        let client = world.clients.get(self.client)?;
        let wall = world.controller.clocks.wall(world.now).0;
        let first = plain.clients.first()?.address();
        let sound = matches!(plain.leads, Leads::Name(_))
            || [stage::prefixes(0), stage::prefixes(1)].concat().iter().any(|p| p.contains(first))
                && !world.gateways.iter().any(|g| g.place.own.contains(&first))
                && world.reference.is_within(plain.site, first);
        // Of two resources at one place, the longer prefix decides, and may speak something else: only whole ones count.
        let alone = facts
            .resources
            .iter()
            .filter_map(|(_, other)| other.as_ref())
            .all(|other| other.name == plain.name || !other.clients.iter().any(|c| c.contains(first)));
        Some(
            sound
                && alone
                && !client.rogue
                && world.reference.permits(client.place.id, *id, wall)
                && world.reference.has_gateway(*id),
        )
    }
}

/// Do the controller and its gateways hold the same, now that nothing disturbs them?
fn agree(world: &mut World) {
    let live: Vec<_> = world.controller.lives().filter(|l| !l.waiting).map(|l| (l.gateway, l.grant.id)).collect();
    for gateway in world.gateways.iter().filter(|g| !g.hostile && world.reference.is_confirmed(g.place.id)) {
        let id = gateway.place.id;
        let theirs: Vec<_> = live.iter().filter(|(g, _)| *g == id).map(|(_, grant)| *grant).collect();
        let ours: Vec<_> = gateway.admitted().iter().copied().collect();
        if theirs != ours {
            let what = format!("{id} admits {ours:?}, and its controller thinks {theirs:?}");
            world.wrong.push(Wrong { kind: Kind::Alive, what });
        }
    }
}
