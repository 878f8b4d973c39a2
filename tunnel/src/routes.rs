//! The client's path: may this packet go out, through which pairing, and may that packet come in?
//!
//! For the engine: the resolver's and the controller's packets are taken out before these are called. Nothing here calls
//! back; packets to be encrypted come out as a [`Verdict`] or as [`Replies`], everything for the kernel in `out.tun`.

use crate::api::{Event, FlowEnd, Out, RouteEntry, RouteState};
use crate::counters::{Counters, Drop};
use crate::flow::{Caps, ClientKey, Flow, FlowId, Load, Opening, Table};
use crate::headers::{Error, Packet, RST, Tcp, Transport};
use crate::icmp::{self, Limiter, Reason};
use crate::reset;
use crate::segment::each_packet;
use crate::site::Replies;
use model::ids::{DeviceId, GrantId, ID_LEN, PairingId, ResourceId};
use model::limits::{WAITING_BYTES_MAX, WAITING_MAX, WAITING_PACKETS_MAX, WAITING_QUEUES_MAX};
use model::net::Protocol;
use model::packet::Frame;
use model::time::Instant;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

mod table;
pub use table::RouteTable;

/// What the engine does with a packet from the TUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Encrypt the packet for this pairing.
    Send(PairingId),
    /// Nothing: it waits, was answered (in `out.tun`), or was dropped and counted.
    Consumed,
}

/// The client's flows and waiting packets.
#[derive(Debug)]
pub struct ClientPath {
    counters: Arc<Counters>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    table: Table,
    waiting: BTreeMap<ResourceId, Queue>,
    wanted: BTreeMap<ResourceId, Instant>,
    /// What was sent through tunnels in doubt.
    kept: BTreeMap<PairingId, Queue>,
    errors: Limiter,
}

#[derive(Debug)]
struct Queue {
    since: Instant,
    packets: Vec<Vec<u8>>,
}

/// What the routes say of a destination now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Through this pairing, by this grant.
    Open(PairingId, GrantId),
    /// It must be asked for.
    Ask(ResourceId),
    /// No.
    Shut(Drop),
}

impl RouteTable {
    /// May a packet with these ends come from a gateway at all? What more it must be, only a whole packet tells.
    pub fn may_answer(&self, now: Instant, source: IpAddr, destination: IpAddr) -> Result<(), Drop> {
        let granted = |entry: &RouteEntry| matches!(way(entry, now), Way::Open(..));
        let answers = self.own.contains(&destination) && self.towards(source).flatten().any(granted);
        answers.then_some(()).ok_or(Drop::Unasked)
    }
}

/// How often one resource is asked for at most, as long as packets for it come.
const WANT_EVERY: Duration = Duration::from_secs(1);
/// A client has one device, itself.
const SELF: DeviceId = DeviceId::from_bytes([0; ID_LEN]);

impl ClientPath {
    /// No flows yet; `seed` is random.
    pub fn new(counters: Arc<Counters>, seed: &[u8; 32]) -> Self {
        let state = State {
            table: Table::new(Caps::default(), seed),
            waiting: BTreeMap::new(),
            wanted: BTreeMap::new(),
            kept: BTreeMap::new(),
            errors: Limiter::default(),
        };
        Self { counters, state: Mutex::new(state) }
    }

    /// A packet that the kernel routed into the TUN (not for the resolver, not for the controller: the engine takes those
    /// first). On [`Verdict::Consumed`] the packet may have been taken; on [`Verdict::Send`] it is cut to its length.
    pub fn from_tun(&self, now: Instant, routes: &RouteTable, frame: &mut Frame, out: &mut Out) -> Verdict {
        let parsed = Packet::parse(&frame.bytes)
            .and_then(|parsed| if routes.own.contains(&parsed.source) { Ok(parsed) } else { Err(Drop::SourceNotOwn) });
        match parsed {
            Ok(parsed) => {
                frame.bytes.truncate(parsed.len);
                self.state().send(now, routes, frame, &parsed, &self.counters, out)
            }
            Err(reason) => {
                self.counters.count(reason);
                Verdict::Consumed
            }
        }
    }

    /// A packet that came out of a pairing's tunnel: true when it may be written to the TUN (it is cut to its own
    /// length). Only answers to flows that this client opened pass.
    pub fn from_gateway(&self, now: Instant, routes: &RouteTable, pairing: PairingId, frame: &mut Frame) -> bool {
        match self.state().receive(now, routes, pairing, frame) {
            Ok(()) => true,
            Err(reason) => {
                self.counters.count(reason);
                false
            }
        }
    }

    /// New routes are in force: packets that waited leave (`replies`: through which pairing) or are answered in
    /// `out.tun`; local sockets of flows without a grant get RST.
    pub fn swap(&self, now: Instant, new: &RouteTable, out: &mut Out, replies: &mut Replies) {
        let mut state = self.state();
        state.end_flows(now, new, out);
        let still: BTreeSet<ResourceId> = new.all().filter(|e| asks(e.state, now)).map(|e| e.resource).collect();
        state.wanted.retain(|resource, _| still.contains(resource));
        let answered: Vec<ResourceId> = state.waiting.keys().filter(|r| !still.contains(r)).copied().collect();
        for queue in answered.iter().filter_map(|r| state.waiting.remove(r)).collect::<Vec<_>>() {
            for bytes in queue.packets {
                let Ok(packet) = Packet::parse(&bytes) else { continue };
                let frame = Frame::packet(bytes);
                if let Verdict::Send(pairing) = state.send(now, new, &frame, &packet, &self.counters, out) {
                    replies.push((pairing, frame.bytes));
                }
            }
        }
        state.send_kept(now, new, &self.counters, out, replies);
    }

    /// Ends idle flows, answers packets that waited too long. Returns when it wants to be called next.
    pub fn expire(&self, now: Instant, out: &mut Out) -> Instant {
        let mut state = self.state();
        let ended = state.table.expire(now);
        out.events.extend(ended.into_iter().map(Event::FlowEnded));
        state.kept.retain(|_, q| now.since(q.since) < WAITING_MAX);
        let late: Vec<ResourceId> =
            state.waiting.iter().filter(|(_, q)| now.since(q.since) >= WAITING_MAX).map(|(r, _)| *r).collect();
        for queue in late.iter().filter_map(|r| state.waiting.remove(r)).collect::<Vec<_>>() {
            for bytes in queue.packets {
                self.counters.count(Drop::WaitingExpired);
                if let Ok(packet) = Packet::parse(&bytes) {
                    state.answer(now, &bytes, &packet, Reason::HostUnreachable, &self.counters, out);
                }
            }
        }
        let oldest = state.waiting.values().map(|q| q.since.plus(WAITING_MAX)).min().unwrap_or(Instant::NEVER);
        state.table.next_deadline().min(oldest)
    }

    /// Would a packet of this gateway pass, as far as its headers tell? For the first fragment of one.
    pub fn expects(&self, now: Instant, routes: &RouteTable, pairing: PairingId, packet: &Packet) -> Result<(), Drop> {
        // An error is judged by what it quotes, when it is whole.
        let is_error = matches!(packet.transport, Transport::Error(_));
        if is_error { Ok(()) } else { self.state().expected(now, routes, pairing, packet).map(|_| ()) }
    }

    /// How many flows live.
    pub fn flows(&self) -> usize {
        self.state().table.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn send(
        &mut self,
        now: Instant,
        routes: &RouteTable,
        frame: &Frame,
        packet: &Packet,
        counters: &Counters,
        out: &mut Out,
    ) -> Verdict {
        match self.judge(now, routes, frame, packet, out) {
            Ok(Some(pairing)) => return Verdict::Send(pairing),
            Ok(None) => {}
            Err(reason) => {
                counters.count(reason);
                if matches!(reason, Drop::NoRoute | Drop::NotSpoken | Drop::Denied | Drop::WaitingQueues) {
                    self.answer(now, &frame.bytes, packet, Reason::Prohibited, counters, out);
                }
            }
        }
        Verdict::Consumed
    }

    /// `Ok(None)`: it waits.
    fn judge(
        &mut self,
        now: Instant,
        routes: &RouteTable,
        frame: &Frame,
        packet: &Packet,
        out: &mut Out,
    ) -> Result<Option<PairingId>, Drop> {
        match packet.transport {
            Transport::Error(error) => return self.judge_error(now, routes, packet, &error).map(Some),
            Transport::Echo { request: false, .. } => return Err(Drop::IcmpKind),
            _ => {}
        }
        let key = sent_by_us(packet);
        let known = self.table.by_client(&key);
        // The end of a connection that we do not know asks for nothing.
        if known.is_none() && segment(packet).is_some_and(|t| t.has(RST)) {
            return Err(Drop::NoFlow);
        }
        match look(routes, now, packet.destination, packet.protocol(), packet.destination_port()) {
            Way::Open(pairing, grant) => {
                self.carry(now, known, &key, (pairing, grant), (packet, Load::of(packet, &frame.gso)), out)?;
                if routes.doubtful.contains(&pairing) && self.opens(known, packet) {
                    each_packet(frame, packet, |bytes| {
                        self.keep(now, pairing, bytes.to_vec());
                        Ok::<_, Drop>(())
                    })?;
                }
                Ok(Some(pairing))
            }
            Way::Ask(resource) => {
                each_packet(frame, packet, |bytes| self.wait(now, resource, bytes, out)).map(|()| None)
            }
            Way::Shut(reason) => Err(reason),
        }
    }

    /// Opens the packet's flow, or counts it to the one it belongs to.
    fn carry(
        &mut self,
        now: Instant,
        known: Option<FlowId>,
        key: &ClientKey,
        (pairing, grant): (PairingId, GrantId),
        (packet, load): (&Packet, Load),
        out: &mut Out,
    ) -> Result<(), Drop> {
        let id = match known {
            Some(id) => id,
            None => {
                let opening = Opening { client: *key, real: key.target, nat: key.client, grant, pairing };
                let (id, evicted) = self.table.open(now, &opening)?;
                out.events.extend(evicted.iter().map(|flow| Event::FlowEnded(flow.summary(FlowEnd::Evicted))));
                id
            }
        };
        if self.table.flow(id).is_some_and(|flow| flow.grant != grant) {
            self.table.adopt(id, grant);
        }
        self.table.carried_by(id, pairing, true);
        self.table.touch(now, id, true, load, segment(packet));
        Ok(())
    }

    /// An ICMP error of the local kernel, about a packet that came through a flow's pairing.
    fn judge_error(
        &self,
        now: Instant,
        routes: &RouteTable,
        packet: &Packet,
        error: &Error,
    ) -> Result<PairingId, Drop> {
        let quote = &error.quote;
        let echo = quote.protocol == Protocol::Icmp;
        let key = ClientKey {
            device: SELF,
            protocol: quote.protocol,
            client: quote.destination,
            client_port: if echo { quote.source_port } else { quote.destination_port },
            target: quote.source,
            port: if echo { 0 } else { quote.source_port },
        };
        let flow = self.table.by_client(&key).and_then(|id| self.table.flow(id)).ok_or(Drop::IcmpNoFlow)?;
        let fits = packet.source == quote.destination
            && packet.destination == quote.source
            && !(echo && quote.request)
            && matches!(look(routes, now, key.target, key.protocol, key.port), Way::Open(..));
        if fits { Ok(flow.pairing) } else { Err(Drop::IcmpNoFlow) }
    }

    fn wait(&mut self, now: Instant, resource: ResourceId, bytes: &[u8], out: &mut Out) -> Result<(), Drop> {
        if !self.waiting.contains_key(&resource) && self.waiting.len() >= WAITING_QUEUES_MAX {
            return Err(Drop::WaitingQueues);
        }
        // Once until the state changes; again after a while, should the question have been lost or nobody have answered.
        if self.wanted.get(&resource).is_none_or(|at| now.since(*at) >= WANT_EVERY) {
            if self.wanted.len() >= WAITING_QUEUES_MAX {
                self.wanted.retain(|_, at| now.since(*at) < WANT_EVERY);
            }
            if self.wanted.len() < WAITING_QUEUES_MAX {
                self.wanted.insert(resource, now);
                out.events.push(Event::Want(resource));
            }
        }
        let queue = self.waiting.entry(resource).or_insert_with(|| Queue { since: now, packets: Vec::new() });
        if !has_room(&queue.packets, bytes) {
            return Err(Drop::WaitingFull);
        }
        queue.packets.push(bytes.to_vec());
        Ok(())
    }

    /// Does a packet open its flow? The first one does, and a SYN as long as nothing answers it. Later ones do not: another
    /// gateway cannot continue a connection, and a datagram that goes twice may act twice.
    fn opens(&self, known: Option<FlowId>, packet: &Packet) -> bool {
        let answered = known.and_then(|id| self.table.flow(id)).is_some_and(Flow::answered);
        segment(packet).map_or(known.is_none(), |t| t.opens() && !answered)
    }

    /// Keeps what opens a flow, because the tunnel that it goes through is in doubt.
    fn keep(&mut self, now: Instant, pairing: PairingId, bytes: Vec<u8>) {
        if !self.kept.contains_key(&pairing) && self.kept.len() >= WAITING_QUEUES_MAX {
            return;
        }
        let queue = self.kept.entry(pairing).or_insert_with(|| Queue { since: now, packets: Vec::new() });
        if has_room(&queue.packets, &bytes) && !queue.packets.contains(&bytes) {
            queue.packets.push(bytes);
        }
    }

    /// Sends what was kept where another tunnel leads now; forgets it where the doubt is over, or an answer came after all.
    fn send_kept(&mut self, now: Instant, new: &RouteTable, counters: &Counters, out: &mut Out, replies: &mut Replies) {
        for (old, queue) in std::mem::take(&mut self.kept) {
            let mut rest = Vec::new();
            for bytes in queue.packets {
                let Ok(packet) = Packet::parse(&bytes) else { continue };
                let flow = self.table.by_client(&sent_by_us(&packet)).and_then(|id| self.table.flow(id));
                if flow.is_some_and(Flow::answered) {
                    continue;
                }
                match look(new, now, packet.destination, packet.protocol(), packet.destination_port()) {
                    Way::Open(pairing, _) if pairing == old => rest.push(bytes),
                    Way::Open(..) => {
                        let frame = Frame::packet(bytes);
                        if let Verdict::Send(pairing) = self.send(now, new, &frame, &packet, counters, out) {
                            replies.push((pairing, frame.bytes));
                        }
                    }
                    Way::Ask(_) | Way::Shut(_) => {}
                }
            }
            if new.doubtful.contains(&old) && !rest.is_empty() {
                // Something may have been kept for it just now.
                let fresh = self.kept.remove(&old).map(|q| q.packets).unwrap_or_default();
                let packets = rest.into_iter().chain(fresh).take(WAITING_PACKETS_MAX).collect();
                self.kept.insert(old, Queue { since: queue.since, packets });
            }
        }
    }

    /// Tells the local sender in the destination's name. A connection that was established does not end by an ICMP error,
    /// and Linux does not let one end a connection attempt whose `connect` is just returning from sending the SYN (the
    /// next one leaves a second later): so TCP gets RST, too.
    fn answer(
        &mut self,
        now: Instant,
        bytes: &[u8],
        packet: &Packet,
        reason: Reason,
        counters: &Counters,
        out: &mut Out,
    ) {
        let Some(error) = icmp::about(bytes, packet, reason) else { return };
        if !self.errors.take(now) {
            return counters.count(Drop::IcmpRate);
        }
        out.tun.push(Frame::packet(error));
        if segment(packet).is_some() {
            out.tun.extend(reset::answer(packet).map(Frame::packet));
        }
    }

    /// The flow of ours that a packet of a gateway belongs to.
    fn expected(&self, now: Instant, routes: &RouteTable, pairing: PairingId, packet: &Packet) -> Result<FlowId, Drop> {
        let (protocol, from, to) = (packet.protocol(), packet.source, packet.destination);
        let key = match packet.transport {
            // About a packet of ours: its quote is a flow as we sent it, and the error comes in its target's name.
            Transport::Error(Error { quote, .. }) => {
                let request = quote.protocol != Protocol::Icmp || quote.request;
                if quote.source != to || quote.destination != from || !request {
                    return Err(Drop::IcmpNoFlow);
                }
                let (client_port, port) = (quote.source_port, quote.destination_port);
                ClientKey { device: SELF, protocol: quote.protocol, client: to, client_port, target: from, port }
            }
            Transport::Echo { request: true, .. } => return Err(Drop::Unasked),
            Transport::Tcp(tcp) if tcp.opens() => return Err(Drop::Unasked),
            _ => {
                let (client_port, port) = (packet.destination_port(), packet.source_port());
                ClientKey { device: SELF, protocol, client: to, client_port, target: from, port }
            }
        };
        let id = self.table.by_client(&key).filter(|_| routes.own.contains(&to)).ok_or(Drop::Unasked)?;
        let carrier = self.table.flow(id).map(|flow| flow.pairing);
        // While a flow moves to a new pairing, answers still come through the old one, until our next packet.
        let granted = match look(routes, now, key.target, key.protocol, key.port) {
            Way::Open(current, _) => current == pairing || carrier == Some(pairing),
            Way::Ask(_) | Way::Shut(_) => false,
        };
        if granted { Ok(id) } else { Err(Drop::Unasked) }
    }

    fn receive(
        &mut self,
        now: Instant,
        routes: &RouteTable,
        pairing: PairingId,
        frame: &mut Frame,
    ) -> Result<(), Drop> {
        let packet = Packet::parse(&frame.bytes)?;
        let id = self.expected(now, routes, pairing, &packet)?;
        frame.bytes.truncate(packet.len);
        if !matches!(packet.transport, Transport::Error(_)) {
            self.table.touch(now, id, false, Load::of(&packet, &frame.gso), segment(&packet));
        }
        Ok(())
    }

    /// Ends flows that no grant carries any more.
    fn end_flows(&mut self, now: Instant, routes: &RouteTable, out: &mut Out) {
        for id in self.table.all() {
            let Some(flow) = self.table.flow(id) else { continue };
            let ClientKey { client, protocol, target, port, .. } = flow.client;
            let open = matches!(look(routes, now, target, protocol, port), Way::Open(..));
            if open && routes.own.contains(&client) {
                continue;
            }
            let Some(flow) = self.table.close(id) else { continue };
            if protocol == Protocol::Tcp {
                let (numbers, ack) = flow.reset_client();
                let ends = flow.to_client();
                out.tun.extend(numbers.iter().map(|seq| Frame::packet(reset::build(&ends, *seq, ack))));
            }
            out.events.push(Event::FlowEnded(flow.summary(FlowEnd::Grant)));
        }
    }
}

/// May one more packet wait with these?
fn has_room(packets: &[Vec<u8>], more: &[u8]) -> bool {
    let bytes = packets.iter().map(Vec::len).sum::<usize>() + more.len();
    packets.len() < WAITING_PACKETS_MAX && bytes <= WAITING_BYTES_MAX
}

/// The flow of a packet that this machine sends.
const fn sent_by_us(packet: &Packet) -> ClientKey {
    ClientKey {
        device: SELF,
        protocol: packet.protocol(),
        client: packet.source,
        client_port: packet.source_port(),
        target: packet.destination,
        port: packet.destination_port(),
    }
}

const fn segment(packet: &Packet) -> Option<&Tcp> {
    match &packet.transport {
        Transport::Tcp(tcp) => Some(tcp),
        _ => None,
    }
}

/// Is the resource to be asked for? A deny holds until its time, a grant too.
fn asks(state: RouteState, now: Instant) -> bool {
    match state {
        RouteState::Ask => true,
        RouteState::Denied(until) | RouteState::Granted { until, .. } => until <= now,
    }
}

/// The longest prefix whose resource speaks of such a packet decides. Where several do, one that is granted goes before
/// one that can be asked for, and that before one that was denied.
fn look(routes: &RouteTable, now: Instant, to: IpAddr, protocol: Protocol, port: u16) -> Way {
    let mut shut = Drop::NoRoute;
    for entries in routes.towards(to) {
        let way = entries.iter().filter(|e| speaks(e, protocol, port)).map(|e| way(e, now)).min_by_key(preference);
        if let Some(way) = way {
            return way;
        }
        shut = Drop::NotSpoken;
    }
    Way::Shut(shut)
}

fn speaks(entry: &RouteEntry, protocol: Protocol, port: u16) -> bool {
    entry.ports.iter().any(|(p, range)| *p == protocol && (protocol == Protocol::Icmp || range.contains(port)))
}

fn way(entry: &RouteEntry, now: Instant) -> Way {
    match entry.state {
        RouteState::Granted { pairing, grant, until } if until > now => Way::Open(pairing, grant),
        RouteState::Denied(until) if until > now => Way::Shut(Drop::Denied),
        _ => Way::Ask(entry.resource),
    }
}

const fn preference(way: &Way) -> u8 {
    match way {
        Way::Open(..) => 0,
        Way::Ask(_) => 1,
        Way::Shut(_) => 2,
    }
}

#[cfg(test)]
mod tests;
