//! Who is there? A small organisation: two sites, three gateways, three devices, five resources, and policies for them.

use super::client::{Client, Place as ClientPlace};
use super::controller::Controller;
use super::evil::Evil;
use super::gateway::{Gateway, Place as GatewayPlace};
use super::parts::{Dice, MS, SECOND};
use super::reference::{Leads, Line, Reference, Resource as Plain, Session as PlainSession, User as PlainUser, Who};
use super::world::{Weather, World, scene};
use controller::directory::{
    Device, Gateway as GatewayRecord, Name, NodeState, Org, PasswordHash, Resource, Session, Site, User,
};
use controller::judge::Reach;
use model::ids::{DeviceId, GatewayId, JoinKeyId, NodeId, ResourceId, SessionId, SiteId, UserId};
use model::key::PrivateKey;
use model::net::{HostName, PortRange, Prefix, Protocol};
use model::pool::{NatPool, Pool};
use model::time::WallMs;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use tunnel::double::public_of;

/// How many there are of each.
pub const USERS: u8 = 3;
/// See [`USERS`].
pub const GROUPS: u8 = 3;
/// See [`USERS`].
pub const DEVICES: u8 = 3;
/// See [`USERS`].
pub const RESOURCES: u8 = 5;
/// See [`USERS`].
pub const TAGS: u8 = 3;
const GATEWAY_SITES: [u8; 3] = [0, 0, 1];
/// Policies that may come into force.
const POLICIES: usize = 24;
/// When the simulation begins.
pub const START: u64 = 100 * SECOND;

/// The facts, as an administrator would know them.
pub struct Facts {
    /// Accounts.
    pub users: Vec<(UserId, PlainUser)>,
    /// Resources; none: deleted.
    pub resources: Vec<(ResourceId, Option<Plain>)>,
    /// Sites.
    pub sites: Vec<SiteId>,
    /// Devices that were revoked.
    pub revoked: BTreeSet<usize>,
    /// Gateways that were revoked.
    pub removed: BTreeSet<usize>,
}

fn id(kind: u8, number: u8) -> [u8; 10] {
    let mut id = [0; 10];
    id.iter_mut().zip([kind, number, 1]).for_each(|(to, from)| *to = from);
    id
}

/// The organisation's addresses.
pub fn pool() -> Option<Pool> {
    Pool::new("10.77.0.0/16".parse().ok()?, "fd12:3456:789a::/48".parse().ok()?).ok()
}

fn name(kind: &str, number: u8) -> Option<Name> {
    format!("{kind}{number}").parse().ok()
}

/// What a site's services may have as addresses.
pub fn prefixes(site: u8) -> Vec<Prefix> {
    let all = [format!("10.{}.0.0/16", site + 1), format!("2001:db8:{}::/48", site + 1)];
    all.iter().filter_map(|p| p.parse().ok()).collect()
}

/// The name of a resource's host.
pub fn host(resource: u8) -> String {
    format!("r{resource}.corp.example")
}

/// One of the resources, as it may be: its first form, or another.
pub fn resource(number: u8, dice: &mut Dice, sites: &[SiteId]) -> Option<Plain> {
    let site = if number == 2 || number == 3 { 1 } else { 0 };
    let pool = pool()?;
    let named = number == 0 || number == 2;
    let clients = if named {
        let number = u32::from(number);
        [pool.virtual_v4(number).map(IpAddr::V4), pool.virtual_v6(number).map(IpAddr::V6)]
            .into_iter()
            .flatten()
            .map(Prefix::host)
            .collect()
    } else {
        let text = match number {
            // Overlaps the one that follows.
            1 => "10.1.4.0/28",
            4 => "10.1.4.8/29",
            _ => "10.2.4.9",
        };
        vec![text.parse().ok()?]
    };
    let ports = if dice.chance(50) { (80, 90) } else { (85, 95) };
    let protocol = if dice.chance(50) { Protocol::Udp } else { Protocol::Tcp };
    Some(Plain {
        name: number,
        tags: (0..TAGS).filter(|_| dice.chance(50)).collect(),
        site: *sites.get(usize::from(site as u8))?,
        clients,
        leads: if named { Leads::Name(host(number)) } else { Leads::Same },
        protocol,
        ports,
        lease: (1 + dice.below(40)) * SECOND,
    })
}

// -- policies --------------------------------------------------------------------------------------------------------

fn line(dice: &mut Dice) -> Line {
    let who = |dice: &mut Dice, ones: u8, groups: u8| match dice.below(4) {
        0 => Who::Any,
        1 => Who::One(u8::try_from(dice.below(u64::from(ones))).unwrap_or(0)),
        _ => Who::Members(u8::try_from(dice.below(u64::from(groups))).unwrap_or(0)),
    };
    Line {
        forbids: dice.chance(20),
        who: who(dice, USERS, GROUPS),
        what: who(dice, RESOURCES, TAGS),
        younger: dice.chance(30).then(|| 10 + dice.below(100)),
        device: dice.chance(15).then(|| u8::try_from(dice.below(u64::from(DEVICES))).unwrap_or(0)),
    }
}

fn cedar(lines: &[Line]) -> String {
    let mut text = String::new();
    let head = |word: &str, one: (&str, &str), many: (&str, &str), who: Who| match who {
        Who::Any => word.to_owned(),
        Who::One(n) => format!("{word} == {}::\"{}{n}\"", one.0, one.1),
        Who::Members(n) => format!("{word} in {}::\"{}{n}\"", many.0, many.1),
    };
    for line in lines {
        let effect = if line.forbids { "forbid" } else { "permit" };
        let who = head("principal", ("User", "u"), ("Group", "g"), line.who);
        let what = head("resource", ("Resource", "r"), ("Tag", "t"), line.what);
        let _ = write!(text, "{effect}({who}, action == Action::\"connect\", {what})");
        if let Some(limit) = line.younger {
            let _ = write!(text, " when {{ context.login_age_s < {limit} }}");
        }
        if let Some(device) = line.device {
            let _ = write!(text, " when {{ context.device == Device::\"d{device}\" }}");
        }
        text.push_str(";\n");
    }
    text
}

/// Policies in both languages: compiled once for all seeds, because compiling is slow and no part of what is simulated.
pub fn policies() -> &'static [(Vec<Line>, Arc<policy::PolicySet>)] {
    static ALL: OnceLock<Vec<(Vec<Line>, Arc<policy::PolicySet>)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut dice = Dice(0x51_3d);
        let mut all = Vec::new();
        while all.len() < POLICIES {
            let mut lines: Vec<Line> = (0..2 + dice.below(5)).map(|_| line(&mut dice)).collect();
            if all.len() % 3 == 0 {
                // Some under which much is possible.
                lines.push(Line { forbids: false, who: Who::Any, what: Who::Any, younger: None, device: None });
            }
            if let Ok(set) = policy::compile(&[("p", cedar(&lines))]) {
                all.push((lines, Arc::new(set)));
            }
        }
        all
    })
}

// -- setting it up ---------------------------------------------------------------------------------------------------

/// A world in which everybody is enrolled and nobody is logged in.
pub fn set(seed: u64, traced: bool) -> Option<(World, Facts)> {
    let mut dice = Dice(seed);
    let pool = pool()?;
    let sites: Vec<SiteId> = (0..2).map(|n| SiteId::from_bytes(id(1, n))).collect();
    let hosts: Vec<HostName> = [0, 2].into_iter().filter_map(|n| host(n).parse().ok()).collect();
    let mut reach = Reach::default();
    for (site, host) in sites.iter().flat_map(|site| hosts.iter().map(|host| (*site, host.clone()))) {
        reach.note(GatewayId::from_bytes(id(4, 0)), site, host);
    }
    let mut reference = Reference::default();
    reference.clocks_true = true;
    let mut world = World::new(dice.clone(), Controller::new(START, reach), reference, START, traced);
    let org = Org {
        trust_domain: "corp.example".parse().ok()?,
        pool,
        created: WallMs(0),
        endpoints: Vec::new(),
        zones: Vec::new(),
        private_zones: Vec::new(),
        key: public_of(&PrivateKey::new([1; 32])),
        ca: Vec::new(),
        since: None,
        succession: None,
    };
    world.controller.put(Org::ID, &org);
    let mut facts = Facts {
        users: Vec::new(),
        resources: Vec::new(),
        sites: sites.clone(),
        revoked: BTreeSet::new(),
        removed: BTreeSet::new(),
    };
    for (n, site) in (0u8..).zip(&sites) {
        let record = Site { id: *site, name: name("s", n)?, prefixes: prefixes(n), created: WallMs(0) };
        world.controller.put(site, &record);
        world.reference.site(*site, prefixes(n));
    }
    for n in 0..USERS {
        let user = PlainUser { name: n, groups: (0..GROUPS).filter(|_| dice.chance(60)).collect(), disabled: false };
        facts.users.push((UserId::from_bytes(id(2, n)), user));
    }
    for n in 0..RESOURCES {
        facts.resources.push((ResourceId::from_bytes(id(3, n)), resource(n, &mut dice, &sites)));
    }
    gateways(&mut world, &sites, pool)?;
    clients(&mut world, pool)?;
    for n in 0..facts.users.len() {
        put_user(&mut world, &facts, n);
    }
    for n in 0..facts.resources.len() {
        put_resource(&mut world, &facts, n);
    }
    let names = [(0, "10.1.9.10"), (0, "2001:db8:1::10"), (2, "10.2.9.12"), (2, "2001:db8:2::12")];
    for (n, address) in names {
        world.names.entry(host(n)).or_default().push(address.parse().ok()?);
    }
    apply_policy(&mut world, 0);
    world.weather = Weather {
        loss: [0, 2, 10, 30].get(dice.index(4)).copied()?,
        double: [0, 2, 10].get(dice.index(3)).copied()?,
        delay: (MS, [2 * MS, 20 * MS, 150 * MS].get(dice.index(3)).copied()?),
        mute: [0, 10, 50].get(dice.index(3)).copied()?,
    };
    world.lies = [0, 0, 20].get(dice.index(3)).copied()?;
    if dice.chance(30)
        && let Some(last) = world.clients.last_mut()
    {
        last.rogue = true;
    }
    if dice.chance(25)
        && let Some(gateway) = world.gateways.get_mut(1)
    {
        gateway.hostile = true;
        world.reference.hostile(gateway.place.id);
        world.evil = Some(Evil::new(1, gateway.place.key.clone(), pool, dice.key()));
    }
    world.dice = dice;
    Some((world, facts))
}

fn gateways(world: &mut World, sites: &[SiteId], pool: Pool) -> Option<()> {
    for (n, site) in (0u8..).zip(GATEWAY_SITES) {
        let gateway = GatewayId::from_bytes(id(4, n));
        let key = Arc::new(PrivateKey::new([0x40 + n; 32]));
        let addr = SocketAddr::new(IpAddr::from([192, 0, 2, 10 + n]), 443);
        let own: Vec<IpAddr> =
            [format!("10.{}.255.{}", site + 1, n + 1), format!("2001:db8:{}::{:x}", site + 1, 0xff00 + u16::from(n))]
                .iter()
                .filter_map(|a| a.parse().ok())
                .collect();
        let record = GatewayRecord {
            id: gateway,
            name: name("gw", n)?,
            site: *sites.get(usize::from(site))?,
            key: public_of(&key),
            next_key: None,
            restored: false,
            copied: None,
            address: tunnel::address_of_node(&pool, &NodeId::Gateway(gateway)),
            svid_key: [0; 32],
            fingerprint: String::new(),
            state: NodeState::Confirmed,
            join_key: JoinKeyId::from_bytes([0; 10]),
            created: WallMs(0),
        };
        world.controller.put(&gateway, &record);
        world.controller.endpoints.insert(gateway, vec![addr]);
        world.reference.gateway(gateway, record.site, own.clone(), true);
        let nat = NatPool { v4: "198.18.0.0/15".parse().ok()?, v6: format!("fd99:{n}::/48").parse().ok()? };
        let place = GatewayPlace { id: gateway, site: record.site, addr, key, own, nat, pool };
        let made = Gateway::new(place, scene!(world));
        world.gateways.push(made);
    }
    Some(())
}

fn clients(world: &mut World, pool: Pool) -> Option<()> {
    let mut everything: Vec<IpAddr> = Vec::new();
    let devices: Vec<DeviceId> = (0..DEVICES).map(|n| DeviceId::from_bytes(id(5, n))).collect();
    let own_of = |n: u8, device: DeviceId| {
        let v6 = tunnel::address_of_node(&pool, &NodeId::Device(device));
        pool.device_v4(u32::from(n)).map(|v4| vec![IpAddr::V4(v4), IpAddr::V6(v6)])
    };
    for (n, device) in (0u8..).zip(&devices) {
        everything.extend(own_of(n, *device)?);
    }
    everything.extend(["10.1.9.10", "10.77.64.0", "198.18.0.1"].iter().filter_map(|a| a.parse::<IpAddr>().ok()));
    for (n, device) in (0u8..).zip(&devices) {
        let key = Arc::new(PrivateKey::new([0x50 + n; 32]));
        put_device(world, usize::from(n), *device, NodeState::Confirmed, pool)?;
        world.reference.device(*device, n, own_of(n, *device)?);
        let place = ClientPlace {
            id: *device,
            addr: SocketAddr::new(IpAddr::from([198, 51, 100, 10 + n]), 443),
            key,
            own: own_of(n, *device)?,
            pool,
            prefixes: [prefixes(0), prefixes(1)].concat(),
            everything: everything.clone(),
        };
        let made = Client::new(place, scene!(world));
        world.clients.push(made);
    }
    Some(())
}

/// Writes a device down.
pub fn put_device(world: &mut World, n: usize, device: DeviceId, state: NodeState, pool: Pool) -> Option<()> {
    let number = u8::try_from(n).ok()?;
    let record = Device {
        id: device,
        name: name("d", number)?,
        user: Some(UserId::from_bytes(id(2, number))),
        account: None,
        ephemeral: false,
        key: public_of(&PrivateKey::new([0x50 + number; 32])),
        next_key: None,
        restored: false,
        copied: None,
        address: tunnel::address_of_node(&pool, &NodeId::Device(device)),
        v4: u32::from(number),
        svid_key: [0; 32],
        fingerprint: String::new(),
        state,
        join_key: JoinKeyId::from_bytes([0; 10]),
        created: WallMs(0),
    };
    world.controller.put(&device, &record);
    Some(())
}

/// Writes an account down as the facts say.
pub fn put_user(world: &mut World, facts: &Facts, n: usize) -> Option<()> {
    let (id, user) = facts.users.get(n)?;
    let record = User {
        id: *id,
        name: name("u", user.name)?,
        password: Some(PasswordHash(String::new())),
        identity: None,
        groups: user.groups.iter().filter_map(|g| name("g", *g)).collect(),
        roles: [].into(),
        disabled: user.disabled,
        restored: false,
        created: WallMs(0),
    };
    world.controller.put(id, &record);
    world.reference.user(*id, user.clone());
    Some(())
}

/// Writes a resource down as the facts say.
pub fn put_resource(world: &mut World, facts: &Facts, n: usize) -> Option<()> {
    let (id, resource) = facts.resources.get(n)?;
    world.reference.resource(*id, resource.clone());
    let Some(plain) = resource else {
        world.controller.remove::<Resource>(id);
        return Some(());
    };
    let number = u32::from(plain.name);
    let (hosts, prefixes) = match &plain.leads {
        Leads::Name(name) => (BTreeMap::from([(name.parse().ok()?, number)]), BTreeSet::new()),
        Leads::Same => (BTreeMap::new(), plain.clients.iter().copied().collect()),
    };
    let ports = vec![PortRange::new(plain.ports.0, plain.ports.1).ok()?];
    let (tcp, udp) = if plain.protocol == Protocol::Tcp { (ports, Vec::new()) } else { (Vec::new(), ports) };
    let record = Resource {
        id: *id,
        name: name("r", plain.name)?,
        site: plain.site,
        hosts,
        suffixes: BTreeSet::new(),
        prefixes,
        tcp,
        udp,
        icmp: false,
        lease_ms: Some(plain.lease / MS),
        on_gateway: false,
        tags: plain.tags.iter().filter_map(|t| name("t", *t)).collect(),
        created: WallMs(0),
    };
    world.controller.put(id, &record);
    Some(())
}

/// Brings one of the policies into force.
pub fn apply_policy(world: &mut World, n: usize) {
    if let Some((lines, set)) = policies().get(n) {
        world.controller.apply_policy(set.clone());
        world.reference.policy(lines.clone());
    }
}

/// Takes a gateway out.
pub fn remove_gateway(world: &mut World, n: usize) -> Option<()> {
    let place = world.gateways.get(n)?.place.clone();
    let fact = world.controller.directory.gateways.find(&place.id)?.clone();
    let record = GatewayRecord { state: NodeState::Revoked, ..fact.record.clone() };
    world.controller.put(&place.id, &record);
    world.reference.gateway(place.id, place.site, place.own, false);
    Some(())
}

/// Somebody logs in on a device.
pub fn log_in(world: &mut World, client: usize, life: i64) -> Option<()> {
    let device = world.clients.get(client)?.place.id;
    let wall = world.controller.clocks.wall(world.now);
    let number = u8::try_from(client).ok()?;
    let user = UserId::from_bytes(id(2, number));
    let session = SessionId::from_bytes(world.dice.id());
    let record = Session {
        id: session,
        user,
        device,
        created: wall,
        ends: WallMs(wall.0.saturating_add(life)),
        ended: false,
        factor: None,
        proved: controller::directory::Proved::AtLogin,
    };
    world.controller.put(&session, &record);
    let plain = PlainSession { device, user, created: wall.0, ends: record.ends.0, ended: false };
    world.reference.session(session, plain);
    Some(())
}

/// A device's log-in ends.
pub fn log_out(world: &mut World, client: usize) -> Option<()> {
    let device = world.clients.get(client)?.place.id;
    let wall = world.controller.clocks.wall(world.now);
    let session = world.reference.session_of(device, wall.0)?;
    let fact = world.controller.directory.sessions.find(&session)?.clone();
    let record = Session { ended: true, ..fact.record.clone() };
    world.controller.put(&session, &record);
    let plain = PlainSession { device, user: record.user, created: record.created.0, ends: record.ends.0, ended: true };
    world.reference.session(session, plain);
    Some(())
}
