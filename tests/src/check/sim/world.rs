//! Virtual time and a network without manners: what happens when, to whom does a letter come, and what comes of it?

use super::client::{Ask, Client};
use super::controller::{Controller, Down, Mail, News, Up};
use super::evil::Evil;
use super::gateway::Gateway;
use super::parts::{Dice, MS, Role, SECOND, look, marked};
use super::reference::{Kind, Reference, Seen, Sent, Time, Wrong};
use controller::arrange::connect::Reply;
use model::net::{HostName, Protocol};
use model::packet::Train;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tunnel::{Change, Event, Out};

/// Datagrams that the attacker remembers.
const TAPE: usize = 64;
/// Things that may happen between two steps; hundreds do, in a long pause a few thousand.
const SPINS_MAX: u32 = 20_000;
/// Lines of a trace.
const TRACE: usize = 300;

/// Whose link to the controller?
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// A gateway's.
    Gateway(usize),
    /// A client's.
    Client(usize),
}

/// Something under way.
#[derive(Debug)]
enum Letter {
    Datagram { from: SocketAddr, to: SocketAddr, bytes: Vec<u8> },
    Up { gateway: usize, stream: u64, up: Up },
    Down { gateway: usize, stream: u64, down: Down },
    Ask { client: usize, ask: Ask },
    Answer { client: usize, call: u64, reply: Reply },
    News { client: usize, stream: u64, news: News },
    Pong { client: usize, stream: u64 },
    Service { gateway: usize, boot: u64, bytes: Vec<u8> },
    Resolved { gateway: usize, boot: u64, name: HostName, v4: bool },
}

impl Letter {
    /// Over whose link to the controller does it go, and towards the controller?
    const fn link(&self) -> Option<(Node, bool)> {
        match self {
            Self::Up { gateway, .. } => Some((Node::Gateway(*gateway), true)),
            Self::Down { gateway, .. } => Some((Node::Gateway(*gateway), false)),
            Self::Ask { client, .. } => Some((Node::Client(*client), true)),
            Self::Answer { client, .. } | Self::News { client, .. } | Self::Pong { client, .. } => {
                Some((Node::Client(*client), false))
            }
            Self::Datagram { .. } | Self::Service { .. } | Self::Resolved { .. } => None,
        }
    }
}

/// How bad the network is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// Datagrams lost, percent.
    pub loss: u64,
    /// Datagrams doubled, percent.
    pub double: u64,
    /// The least delay, and how much more it may be.
    pub delay: (Time, Time),
    /// Requests that services do not answer, percent.
    pub mute: u64,
}

/// Everything.
pub struct World {
    /// True time.
    pub now: Time,
    /// Chance.
    pub dice: Dice,
    /// What may be.
    pub reference: Reference,
    /// What was broken.
    pub wrong: Vec<Wrong>,
    /// The controller.
    pub controller: Controller,
    /// The gateways.
    pub gateways: Vec<Gateway>,
    /// The clients.
    pub clients: Vec<Client>,
    /// What a hostile gateway does besides.
    pub evil: Option<Evil>,
    /// The network.
    pub weather: Weather,
    /// Links to the controller that are cut, towards it (true) or from it, until when.
    pub cut: BTreeMap<(Node, bool), Time>,
    /// Ways between a gateway and a client that are cut, until when.
    pub cut_data: BTreeMap<(usize, usize), Time>,
    /// Where names lead.
    pub names: BTreeMap<String, Vec<IpAddr>>,
    /// Resolvers lie, percent.
    pub lies: u64,
    /// What the attacker recorded.
    pub tape: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
    queue: BTreeMap<(Time, u64), Letter>,
    serial: u64,
    fifo: BTreeMap<(Node, bool), Time>,
    marks: u64,
    trace: Option<VecDeque<String>>,
}

/// What is judged with, while a part of the world is at work.
macro_rules! scene {
    ($world:expr) => {
        &mut $crate::check::sim::controller::Scene {
            now: $world.now,
            reference: &mut $world.reference,
            wrong: &mut $world.wrong,
            dice: &mut $world.dice,
        }
    };
}
pub(super) use scene;

impl World {
    /// A world without gateways and clients.
    pub fn new(dice: Dice, controller: Controller, reference: Reference, now: Time, traced: bool) -> Self {
        Self {
            now,
            dice,
            reference,
            wrong: Vec::new(),
            controller,
            gateways: Vec::new(),
            clients: Vec::new(),
            evil: None,
            weather: Weather::default(),
            cut: BTreeMap::new(),
            cut_data: BTreeMap::new(),
            names: BTreeMap::new(),
            lies: 0,
            tape: VecDeque::new(),
            queue: BTreeMap::new(),
            serial: 0,
            fifo: BTreeMap::new(),
            marks: 0,
            trace: traced.then(VecDeque::new),
        }
    }

    /// Keeps a line for the trace.
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            if trace.len() >= TRACE {
                trace.pop_front();
            }
            trace.push_back(format!("{:>10.3} s  {}", now as f64 / 1e9, line()));
        }
    }

    /// What everybody thinks, for the trace.
    pub fn describe(&mut self) {
        let mut lines = Vec::new();
        let counted = |drops: Vec<(&'static str, u64)>| {
            let some: Vec<_> = drops.into_iter().filter(|(_, n)| *n > 0).map(|(w, n)| format!("{w} {n}")).collect();
            some.join(", ")
        };
        for (n, client) in self.clients.iter().enumerate() {
            lines.push(format!("client {n}: {}", counted(client.engine.drops())));
            for (resource, held) in client.book.grants() {
                lines.push(format!("client {n}: {resource} by {} in {}", held.id, held.pairing));
            }
            for (id, tunnel) in client.book.tunnels() {
                let status = client.engine.peer(&tunnel::PeerId::Pairing(*id));
                lines.push(format!("client {n}: {id}: {tunnel:?} {status:?}"));
            }
        }
        for (n, gateway) in self.gateways.iter().enumerate() {
            lines.push(format!("gateway {n}: {}", counted(gateway.engine.drops())));
            for pairing in gateway.view.iter().flat_map(|v| v.pairings.values()) {
                let id = tunnel::PeerId::Pairing(pairing.pairing.id);
                let grants: Vec<_> = pairing.grants.iter().map(|g| g.grant().id).collect();
                lines.push(format!("gateway {n}: {id:?}: {grants:?} {:?}", gateway.engine.peer(&id)));
            }
        }
        lines.into_iter().for_each(|line| self.note(|| line));
    }

    /// The last lines.
    pub fn trace(&self) -> impl Iterator<Item = &String> {
        self.trace.iter().flatten()
    }

    // -- letters -----------------------------------------------------------------------------------------------------

    fn post(&mut self, at: Time, letter: Letter) {
        self.serial += 1;
        self.queue.insert((at, self.serial), letter);
    }

    fn delay(&mut self) -> Time {
        self.weather.delay.0 + self.dice.below(self.weather.delay.1.max(1))
    }

    /// On a stream, nothing overtakes.
    fn post_in_order(&mut self, node: Node, up: bool, letter: Letter) {
        let at = self.now + self.delay();
        let free = self.fifo.entry((node, up)).or_default();
        *free = (*free).max(at);
        let at = *free;
        self.post(at, letter);
    }

    /// A datagram goes on its way, if it does.
    pub fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        if self.tape.len() >= TAPE {
            let forgotten = self.dice.index(TAPE);
            self.tape.remove(forgotten);
        }
        self.tape.push_back((from, to, bytes.clone()));
        if self.dice.chance(self.weather.double) {
            let at = self.now + self.delay();
            self.post(at, Letter::Datagram { from, to, bytes: bytes.clone() });
        }
        if !self.dice.chance(self.weather.loss) {
            let at = self.now + self.delay();
            self.post(at, Letter::Datagram { from, to, bytes });
        }
    }

    /// A datagram comes from the attacker, at once.
    pub fn inject(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        self.post(self.now + MS, Letter::Datagram { from, to, bytes });
    }

    fn gateway_at(&self, addr: SocketAddr) -> Option<usize> {
        self.gateways.iter().position(|g| g.place.addr == addr)
    }

    fn client_at(&self, addr: SocketAddr) -> Option<usize> {
        self.clients.iter().position(|c| c.place.addr == addr)
    }

    fn is_cut(&self, way: (Node, bool)) -> Option<Time> {
        self.cut.get(&way).copied().filter(|until| *until > self.now)
    }

    fn sleeps(&self, node: Node) -> Option<Time> {
        let until = match node {
            Node::Gateway(g) => self.gateways.get(g).map(|g| g.asleep),
            Node::Client(c) => self.clients.get(c).map(|c| c.asleep),
        };
        until.filter(|until| *until > self.now)
    }

    // -- time --------------------------------------------------------------------------------------------------------

    /// Lets time pass.
    pub fn run(&mut self, by: Time) {
        let end = self.now.saturating_add(by);
        let mut spins = 0u32;
        while self.wrong.is_empty() {
            spins += 1;
            if spins > SPINS_MAX {
                let what = format!("somebody does not come to rest at {} ms", self.now / MS);
                return self.wrong.push(Wrong { kind: Kind::Lost, what });
            }
            let letter = self.queue.first_key_value().map_or(Time::MAX, |((at, _), _)| *at);
            let gateway = self.gateways.iter().enumerate().map(|(n, g)| (g.wake.max(g.asleep), n)).min();
            let client = self.clients.iter().enumerate().map(|(n, c)| (c.wake.max(c.asleep), n)).min();
            let gateway = gateway.unwrap_or((Time::MAX, 0));
            let client = client.unwrap_or((Time::MAX, 0));
            let next = letter.min(gateway.0).min(client.0).min(self.controller.wake);
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            if letter == next {
                if let Some((_, letter)) = self.queue.pop_first() {
                    self.deliver(letter);
                }
            } else if self.controller.wake == next {
                self.controller.tick(scene!(self));
            } else if gateway.0 == next {
                if let Some(gateway) = self.gateways.get_mut(gateway.1) {
                    gateway.time(scene!(self));
                }
            } else if let Some(client) = self.clients.get_mut(client.1) {
                client.time(scene!(self));
            }
            self.collect();
        }
        self.now = end;
    }

    fn deliver(&mut self, letter: Letter) {
        if let Some(way) = letter.link()
            && let Some(until) = self.is_cut(way).max(self.sleeps(way.0))
        {
            return self.post(until, letter);
        }
        match letter {
            Letter::Datagram { from, to, bytes } => self.datagram(from, to, bytes),
            Letter::Up { gateway, stream, up } => {
                let Some(id) = self.gateways.get(gateway).map(|g| g.place.id) else { return };
                self.note(|| format!("{id} says {}", say(&up)));
                self.controller.hear(scene!(self), id, stream, up);
            }
            Letter::Down { gateway, stream, down } => {
                self.note(|| format!("gateway {gateway} hears {}", hear(&down)));
                if let Some(gateway) = self.gateways.get_mut(gateway) {
                    gateway.hear(scene!(self), stream, down);
                }
            }
            Letter::Ask { client, ask } => self.asked(client, ask),
            Letter::Answer { client, call, reply } => {
                self.note(|| format!("client {client} is answered {}", tell(&reply)));
                if let Some(client) = self.clients.get_mut(client) {
                    client.answer(scene!(self), call, reply);
                }
            }
            Letter::News { client, stream, news } => {
                self.note(|| format!("client {client} hears {}", news_of(&news)));
                if let Some(client) = self.clients.get_mut(client) {
                    client.hear(scene!(self), stream, news);
                }
            }
            Letter::Pong { client, stream } => {
                if let Some(client) = self.clients.get_mut(client) {
                    client.heard(self.now, stream);
                }
            }
            Letter::Service { gateway, boot, bytes } => {
                if let Some(gateway) = self.gateways.get_mut(gateway)
                    && gateway.boot == boot
                    && gateway.asleep <= self.now
                    && look(&bytes).is_some_and(|l| gateway.tracked.contains(&l.seen.to.ip()))
                {
                    gateway.tun(self.now, bytes);
                }
            }
            Letter::Resolved { gateway, boot, name, v4 } => self.resolve(gateway, boot, name, v4),
        }
    }

    fn datagram(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let way = match (self.gateway_at(to), self.client_at(to)) {
            (Some(g), _) => (Some(g), self.client_at(from)),
            (_, Some(c)) => (self.gateway_at(from), Some(c)),
            _ => return,
        };
        if let (Some(g), Some(c)) = way
            && self.cut_data.get(&(g, c)).is_some_and(|until| *until > self.now)
        {
            return;
        }
        let node = self.gateway_at(to).map(Node::Gateway).or_else(|| self.client_at(to).map(Node::Client));
        let Some(node) = node else { return };
        if let Some(until) = self.sleeps(node) {
            // Some wait in the socket until the machine wakes.
            if self.dice.chance(30) {
                self.post(until, Letter::Datagram { from, to, bytes });
            }
            return;
        }
        match node {
            Node::Gateway(g) => {
                if let Some(gateway) = self.gateways.get_mut(g) {
                    if gateway.hostile
                        && let Some(evil) = &mut self.evil
                    {
                        evil.datagram(gateway.clocks.now(self.now), from, bytes.clone());
                    }
                    gateway.datagram(self.now, from, bytes);
                }
            }
            Node::Client(c) => {
                if let Some(client) = self.clients.get_mut(c) {
                    client.datagram(scene!(self), from, bytes);
                }
            }
        }
    }

    fn asked(&mut self, client: usize, ask: Ask) {
        let Some(device) = self.clients.get(client).map(|c| c.place.id) else { return };
        match ask {
            Ask::Watch { stream, seen } => self.controller.watch(self.now, device, stream, seen),
            Ask::Probe { stream } if self.controller.knows(device, stream) => {
                self.post_in_order(Node::Client(client), false, Letter::Pong { client, stream });
            }
            Ask::Probe { stream } => {
                let news = News::Closed;
                self.post_in_order(Node::Client(client), false, Letter::News { client, stream, news });
            }
            Ask::Connect { call, wish } => {
                self.note(|| format!("client {client} asks for {}", wish.resource));
                self.controller.ask(scene!(self), call, wish);
            }
            Ask::Disconnect(grant) => self.controller.give_back(scene!(self), device, grant),
        }
    }

    fn resolve(&mut self, gateway: usize, boot: u64, name: HostName, v4: bool) {
        let lie = self.dice.chance(self.lies);
        let truth = self.names.get(name.as_str()).cloned().unwrap_or_default();
        let mut addresses: Vec<IpAddr> = truth.into_iter().filter(|a| a.is_ipv4() == v4).collect();
        if lie {
            let false_ones = ["127.0.0.1", "169.254.169.254", "10.77.1.1", "8.8.8.8", "::1", "fd12:3456:789a:1::7"];
            let false_ones = false_ones.iter().filter_map(|a| a.parse().ok()).filter(|a: &IpAddr| a.is_ipv4() == v4);
            addresses = false_ones.collect();
        }
        self.reference.resolved(name.as_str(), &addresses);
        if let Some(gateway) = self.gateways.get_mut(gateway)
            && gateway.boot == boot
        {
            gateway.apply(self.now, Change::Resolved { name, v4, addresses, ttl: Duration::from_secs(5) });
        }
    }

    // -- what comes of it --------------------------------------------------------------------------------------------

    /// Takes out what the parts want sent, written and done, until nothing is left.
    pub fn collect(&mut self) {
        for mail in std::mem::take(&mut self.controller.mail) {
            match mail {
                Mail::Gateway(id, stream, down) => {
                    if let Some(gateway) = self.gateways.iter().position(|g| g.place.id == id) {
                        self.post_in_order(Node::Gateway(gateway), false, Letter::Down { gateway, stream, down });
                    }
                }
                Mail::Device(id, stream, news) => {
                    if let Some(client) = self.clients.iter().position(|c| c.place.id == id) {
                        self.post_in_order(Node::Client(client), false, Letter::News { client, stream, news });
                    }
                }
                Mail::Answer(id, call, reply) => {
                    if let Some(client) = self.clients.iter().position(|c| c.place.id == id) {
                        // Each call is a stream of its own.
                        let at = self.now + self.delay();
                        self.post(at, Letter::Answer { client, call, reply });
                    }
                }
            }
        }
        for gateway in 0..self.gateways.len() {
            let Some(one) = self.gateways.get_mut(gateway) else { continue };
            let (mail, out) = (std::mem::take(&mut one.mail), std::mem::take(&mut one.out));
            for (stream, up) in mail {
                self.post_in_order(Node::Gateway(gateway), true, Letter::Up { gateway, stream, up });
            }
            if !out.is_empty() {
                self.out_of_gateway(gateway, out);
            }
        }
        for client in 0..self.clients.len() {
            let Some(one) = self.clients.get_mut(client) else { continue };
            let (mail, out) = (std::mem::take(&mut one.mail), std::mem::take(&mut one.out));
            for ask in mail {
                match ask {
                    // Calls overtake each other and the stream.
                    Ask::Connect { .. } | Ask::Disconnect(_) => {
                        let at = self.now + self.delay();
                        self.post(at, Letter::Ask { client, ask });
                    }
                    _ => self.post_in_order(Node::Client(client), true, Letter::Ask { client, ask }),
                }
            }
            if !out.is_empty() {
                self.out_of_client(client, out);
            }
        }
        self.out_of_evil();
    }

    /// Each datagram has a way of its own through the network.
    fn send_all(&mut self, from: SocketAddr, trains: &[Train]) {
        for train in trains {
            train.datagrams().for_each(|datagram| self.send(from, train.addr, datagram.to_vec()));
        }
    }

    fn out_of_gateway(&mut self, gateway: usize, out: Out) {
        let Some(one) = self.gateways.get(gateway) else { return };
        let (addr, boot, id, hostile) = (one.place.addr, one.boot, one.place.id, one.hostile);
        self.send_all(addr, &out.udp);
        for event in out.events {
            if let Event::Resolve { name, v4 } = event {
                let at = self.now + self.delay();
                self.post(at, Letter::Resolved { gateway, boot, name, v4 });
            }
        }
        for frame in out.tun {
            let Some(looked) = look(&frame.bytes) else {
                self.wrong.push(Wrong { kind: Kind::Leaked, what: format!("{id} forwards what nobody sent") });
                continue;
            };
            let seen = looked.seen;
            self.note(|| format!("gateway {gateway} forwards {} -> {} ({:?})", seen.from, seen.to, seen.mark));
            let may = self.reference.forward(id, self.now, seen);
            if !hostile {
                scene!(self).hold(may);
            }
            self.serve(gateway, boot, seen);
        }
    }

    /// The kernel passes a packet on; the service may answer.
    fn serve(&mut self, gateway: usize, boot: u64, seen: Seen) {
        // A reset begins no connection.
        let Some(mark) = seen.mark else { return };
        if let Some(gateway) = self.gateways.get_mut(gateway) {
            gateway.tracked.insert(seen.from.ip());
        }
        if !self.dice.chance(self.weather.mute) {
            let bytes = marked(seen.to, seen.from, seen.protocol, Role::Answer, mark);
            let at = self.now + self.delay();
            self.post(at, Letter::Service { gateway, boot, bytes });
        }
    }

    /// A service, or somebody in its network, sends a gateway's pool what nobody asked for.
    pub fn strike(&mut self, gateway: usize, bytes: Vec<u8>) {
        if let Some(gateway) = self.gateways.get_mut(gateway) {
            gateway.tun(self.now, bytes);
        }
        self.collect();
    }

    fn out_of_client(&mut self, client: usize, out: Out) {
        let Some(one) = self.clients.get(client) else { return };
        let (addr, device, rogue) = (one.place.addr, one.place.id, one.rogue);
        self.send_all(addr, &out.udp);
        for frame in out.tun.iter().filter(|_| !rogue) {
            let Some(looked) = look(&frame.bytes) else {
                self.wrong.push(Wrong { kind: Kind::Leaked, what: format!("{device} gets what nobody sent") });
                continue;
            };
            let seen = looked.seen;
            self.note(|| format!("client {client} gets {} -> {} ({:?})", seen.from, seen.to, seen.mark));
            let may = match looked.role {
                Some(Role::Answer) => self.reference.arrive(device, seen, seen.mark),
                Some(Role::Evil) => self.reference.intrude(device, seen),
                Some(Role::Request) => {
                    Err(Wrong { kind: Kind::Leaked, what: format!("{device} gets a request of another machine") })
                }
                None => self.reference.arrive(device, seen, None),
            };
            scene!(self).hold(may);
        }
    }

    fn out_of_evil(&mut self) {
        let Some(evil) = &mut self.evil else { return };
        let Some(gateway) = self.gateways.get(evil.gateway) else { return };
        let addr = gateway.place.addr;
        let trains = std::mem::take(&mut evil.out.udp);
        self.send_all(addr, &trains);
        if let Some(evil) = &mut self.evil {
            evil.out.clear();
        }
    }

    // -- traffic -----------------------------------------------------------------------------------------------------

    /// A program on a client sends a packet; answers its mark.
    pub fn speak(&mut self, client: usize, from: SocketAddr, to: SocketAddr, protocol: Protocol) -> u64 {
        self.marks += 1;
        let mark = self.marks;
        let Some(one) = self.clients.get_mut(client) else { return mark };
        if one.asleep > self.now {
            return mark;
        }
        let forged = !one.place.own.contains(&from.ip());
        let device = one.place.id;
        let sent = Sent { device, from, to, protocol, forged, reached: 0, answered: 0 };
        self.reference.ship(mark, sent);
        let bytes = marked(from, to, protocol, Role::Request, mark);
        one.send(scene!(self), bytes);
        self.note(|| format!("client {client} sends {from} -> {to} ({mark})"));
        self.collect();
        mark
    }

    /// Everything is well from now on.
    pub fn heal(&mut self) {
        self.weather = Weather { loss: 0, double: 0, delay: (2 * MS, 3 * MS), mute: 0 };
        self.lies = 0;
        let now = self.now;
        self.cut.clear();
        self.cut_data.clear();
        for gateway in &mut self.gateways {
            (gateway.asleep, gateway.wake) = (gateway.asleep.min(now), gateway.wake.min(now));
            (gateway.kernel_fails, gateway.disk_fails) = (false, false);
            self.reference.disturb(gateway.place.id, now);
        }
        for client in &mut self.clients {
            (client.asleep, client.wake) = (client.asleep.min(now), client.wake.min(now));
        }
        // What waited for a link goes on now.
        let waiting: Vec<_> = std::mem::take(&mut self.queue).into_iter().collect();
        for ((at, serial), letter) in waiting {
            self.queue.insert((at.min(now + SECOND), serial), letter);
        }
    }
}

fn say(up: &Up) -> String {
    match up {
        Up::Hello { seen, boot, .. } => format!("hello, seen {seen}, boot {boot:x}"),
        Up::Renew { seq, revision, .. } => format!("renew {seq} at {revision}"),
        Up::Ack { revision, refused } => format!("acknowledged {revision}, refused {refused:?}"),
    }
}

fn hear(down: &Down) -> String {
    match down {
        Down::Update { as_of, update: grant::Update::Snapshot(s), .. } => {
            let grants: Vec<_> = s.grants.iter().map(|g| g.id).collect();
            format!("snapshot {} of {as_of}: {grants:?}", s.revision)
        }
        Down::Update { as_of, update: grant::Update::Delta(d), .. } => {
            let grants: Vec<_> = d.grants.iter().map(|g| g.id).collect();
            format!("delta {} to {} of {as_of}: {grants:?}, ended {:?}", d.from, d.to, d.ended)
        }
        Down::Renewed { seq, lives } => format!("renewed {seq}: {lives:?}"),
        Down::Closed => "the end of the stream".to_owned(),
    }
}

fn tell(reply: &Reply) -> String {
    match reply {
        Reply::Permit { grant, pairing, ends_in, .. } => format!("{grant} in {pairing} for {ends_in:?}"),
        Reply::Deny { reasons, .. } => format!("no: {reasons:?}"),
    }
}

fn news_of(news: &News) -> String {
    match news {
        News::Snapshot { revision, entries, grants, .. } => {
            format!("snapshot {revision}, {} entries, {grants:?}", entries.len())
        }
        News::Delta { from, to, upserts, removals, .. } => {
            format!("delta {from} to {to}, {} entries, {} gone", upserts.len(), removals.len())
        }
        News::Ended { grant, ending } => format!("{grant} ended: {ending:?}"),
        News::Renewed { grant, ends_in } => format!("{grant} lives on for {ends_in:?}"),
        News::Closed => "the end of the stream".to_owned(),
    }
}
