//! The gateway's path: what happens to a packet between a pairing and the service's network?
//!
//! For the engine: nothing here calls back, so these may be called with a peer's lock held; packets for clients come out
//! as [`Replies`], to be encrypted afterwards with no other peer's lock held. [`Site::swap`] is called after every thread
//! has left the old view and before pairings are dropped, or a packet judged by the old view could open a flow after the
//! revoke, and the RST for the client would find no tunnel.

use crate::api::{Event, FlowEnd, FlowSummary, Out};
use crate::counters::{Counters, Drop};
use crate::filter::{Filter, Pass};
use crate::flow::{Caps, ClientKey, Flow, FlowId, Load, Opening, ServiceKey, Table};
use crate::fragments::cut;
use crate::fragments::identification::Identifications;
use crate::headers::{Error, Packet, RST, Tcp, Transport};
use crate::icmp::{self, Limiter, Reason};
use crate::names::Names;
use crate::reset;
use crate::rewrite::{Ends, decrement_hops, rewrite, rewrite_quote};
use crate::segment::each_packet;
use grant::{VerifiedGrant, View};
use model::ids::{DeviceId, GrantId, PairingId};
use model::limits::{REFUSED_MEMORY_MAX, REFUSED_REPORT_EVERY, TUN_MTU, V6_MTU_MIN};
use model::net::{HostName, Prefix, Protocol, Rule, Target};
use model::packet::Frame;
use model::time::Instant;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Packets for clients: through which pairing, and the IP packet. The caller encrypts and empties it.
pub type Replies = Vec<(PairingId, Vec<u8>)>;

/// The gateway's flows, resolved names and waiting packets.
#[derive(Debug)]
pub struct Site {
    counters: Arc<Counters>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    table: Table,
    names: Names,
    refused: BTreeMap<(GrantId, IpAddr), Instant>,
    /// Of large datagrams that leave for services.
    identifications: Identifications,
    errors: Limiter,
}

/// Where packets and events go during one call.
struct Io<'a> {
    counters: &'a Counters,
    out: &'a mut Out,
    replies: &'a mut Replies,
}

/// One packet of a client on its way, with what admitted it.
struct Admitted<'a> {
    packet: &'a Packet,
    pairing: PairingId,
    device: DeviceId,
    grant: &'a VerifiedGrant,
    rule: &'a Rule,
}

impl Site {
    /// No flows yet. `seed` is random.
    pub fn new(counters: Arc<Counters>, seed: [u8; 32]) -> Self {
        Self::with_caps(counters, seed, Caps::default())
    }
    /// With other bounds on flows.
    pub fn with_caps(counters: Arc<Counters>, seed: [u8; 32], caps: Caps) -> Self {
        let state = State {
            table: Table::new(caps, &seed),
            names: Names::default(),
            refused: BTreeMap::new(),
            identifications: Identifications::new(seed),
            errors: Limiter::default(),
        };
        Self { counters, state: Mutex::new(state) }
    }

    /// A packet that came out of a pairing's tunnel, or several joined. Filtered, rewritten and put into `out.tun`, or dropped
    /// and counted. ICMP errors and RST for the client go to `replies`.
    pub fn from_client(
        &self,
        now: Instant,
        view: &View,
        pairing: PairingId,
        frame: Frame,
        out: &mut Out,
        replies: &mut Replies,
    ) {
        let mut io = Io { counters: &self.counters, out, replies };
        self.state().client(now, view, pairing, frame, &mut io);
    }

    /// A packet, or super-packet, that the kernel routed into the TUN, destined for the NAT pool. It belongs to a live flow, gets
    /// virtual addresses and is to be sent through this pairing, or is dropped and counted.
    pub fn from_service(&self, now: Instant, frame: &mut Frame) -> Option<PairingId> {
        let judged = self.state().service(now, frame);
        judged.map_err(|reason| self.counters.count(reason)).ok()
    }

    /// Does a packet off the TUN belong to a live flow, as far as its headers tell? For the first fragment of one.
    pub fn expects(&self, packet: &Packet) -> Result<(), Drop> {
        let state = self.state();
        match packet.transport {
            // Judged by what it quotes, when it is whole.
            Transport::Error(_) => Ok(()),
            Transport::Echo { request: true, .. } => Err(Drop::NoFlow),
            _ => state.table.by_service(&service_key(packet)).map(|_| ()).ok_or(Drop::NoFlow),
        }
    }

    /// Ends what the new view does not admit any more: RST to both sides, `FlowEnded`, and one `GrantClosed` for each
    /// grant that is gone.
    pub fn swap(&self, now: Instant, old: &View, new: &View, out: &mut Out, replies: &mut Replies) {
        let _ = now;
        let mut io = Io { counters: &self.counters, out, replies };
        self.state().swap(old, new, &mut io);
    }

    /// The answer to `Event::Resolve`: packets that waited go on.
    #[allow(clippy::too_many_arguments)] // the parts of one answer, then where things go
    pub fn resolved(
        &self,
        now: Instant,
        view: &View,
        name: &HostName,
        v4: bool,
        addresses: Vec<IpAddr>,
        ttl: Duration,
        out: &mut Out,
        replies: &mut Replies,
    ) {
        let mut io = Io { counters: &self.counters, out, replies };
        let mut state = self.state();
        let waiters = state.names.resolved(now, (name.clone(), v4), addresses, ttl);
        for (pairing, bytes) in waiters {
            // Judged again: its grant may have ended while it waited.
            state.client(now, view, pairing, Frame::packet(bytes), &mut io);
        }
    }

    /// Ends idle flows and answers packets that waited too long. Returns when it wants to be called next.
    pub fn expire(&self, now: Instant, out: &mut Out, replies: &mut Replies) -> Instant {
        let mut io = Io { counters: &self.counters, out, replies };
        let mut state = self.state();
        let ended = state.table.expire(now);
        io.out.events.extend(ended.into_iter().map(Event::FlowEnded));
        for (pairing, bytes) in state.names.expire(now) {
            if let Ok(packet) = Packet::parse(&bytes) {
                state.give_up(now, pairing, &bytes, &packet, Drop::WaitingExpired, &mut io);
            }
        }
        state.table.next_deadline().min(state.names.next_deadline())
    }

    /// How many flows live.
    pub fn flows(&self) -> usize {
        self.state().table.len()
    }

    /// What is known of the flows that live, should nobody ask later.
    pub fn summaries(&self, end: FlowEnd) -> Vec<FlowSummary> {
        self.state().table.summaries(end)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn client(&mut self, now: Instant, view: &View, pairing: PairingId, mut frame: Frame, io: &mut Io<'_>) {
        let bytes = &mut frame.bytes;
        let judged = Packet::parse(bytes).and_then(|packet| Ok((packet, Filter::check(view, pairing, &packet)?)));
        let (packet, pass) = match judged {
            Ok(judged) => judged,
            Err(reason) => return io.counters.count(reason),
        };
        bytes.truncate(packet.len);
        match pass {
            Pass::Error { pairing: view, error } => {
                match self.client_error(pairing, view.pairing.device, bytes, &packet, &error) {
                    Ok(translated) => io.out.tun.push(Frame::packet(translated)),
                    Err(reason) => io.counters.count(reason),
                }
            }
            Pass::Flow { pairing: whose, grant, rule } => {
                let admitted = Admitted { packet: &packet, pairing, device: whose.pairing.device, grant, rule };
                self.forward(now, view, &admitted, frame, io);
            }
        }
    }

    /// An admitted packet: its flow is found or opened, and it leaves for the service.
    fn forward(&mut self, now: Instant, view: &View, admitted: &Admitted<'_>, mut frame: Frame, io: &mut Io<'_>) {
        let Admitted { packet, pairing, .. } = *admitted;
        if packet.hops <= 1 {
            io.counters.count(Drop::HopsExhausted);
            return self.answer(now, pairing, &frame.bytes, packet, Reason::TimeExceeded, io);
        }
        let id = match self.live(view, admitted, io) {
            Some(id) => id,
            None => match self.open(now, view, admitted, &frame, io) {
                Ok(Some(id)) => id,
                Ok(None) => return,
                // Its sender tries again soon, and those in front of it are about to be answered.
                Err(reason @ Drop::WaitingFull) => return io.counters.count(reason),
                Err(reason) => return self.give_up(now, pairing, &frame.bytes, packet, reason, io),
            },
        };
        let tcp = segment(packet);
        self.table.touch(now, id, true, Load::of(packet, &frame.gso), tcp);
        if let Some(ends) = self.table.flow(id).map(Flow::to_service) {
            rewrite(&mut frame.bytes, packet, &ends);
            decrement_hops(&mut frame.bytes, packet);
            self.leave(frame, io);
        }
    }

    /// Out to the kernel. What was put together out of fragments is cut again: with IPv4 by the kernel, as the next network
    /// needs it; with IPv6, which no router cuts, by us, to what every path takes (the kernel's connection tracking puts
    /// them together and forwards them in the same sizes).
    ///
    /// All clients are one address behind masquerade, so their own identifications may meet; ours do not repeat.
    fn leave(&mut self, mut frame: Frame, io: &mut Io<'_>) {
        if !cut::is_too_large(&frame, TUN_MTU) {
            return io.out.write(frame);
        }
        if frame.bytes.first().is_some_and(|b| b >> 4 == 4) {
            cut::renumber_v4(&mut frame.bytes, self.identifications.v4());
            return io.out.write(frame);
        }
        let id = self.identifications.v6();
        let done = cut::cut(&frame.bytes, V6_MTU_MIN, id, |piece| io.out.tun.push(Frame::packet(piece.to_vec())));
        done.unwrap_or_else(|reason| io.counters.count(reason));
    }

    /// The live flow that the packet continues, now carried by this pairing.
    fn live(&mut self, view: &View, admitted: &Admitted<'_>, io: &mut Io<'_>) -> Option<FlowId> {
        let id = self.table.by_client(&client_key(admitted.device, admitted.packet))?;
        let flow = self.table.flow(id)?;
        let own = flow.grant == admitted.grant.grant().id;
        let reopened = flow.closed() && segment(admitted.packet).is_some_and(Tcp::opens);
        if !reopened && (own || view.holds(flow.home, flow.grant)) {
            self.table.carried_by(id, admitted.pairing, own);
            return Some(id);
        }
        let end = if reopened { FlowEnd::Closed } else { FlowEnd::Grant };
        io.out.events.extend(self.table.close(id).map(|flow| Event::FlowEnded(flow.summary(end))));
        None
    }

    /// Opens a flow. `Ok(None)`: the packet waits for its name.
    fn open(
        &mut self,
        now: Instant,
        view: &View,
        admitted: &Admitted<'_>,
        frame: &Frame,
        io: &mut Io<'_>,
    ) -> Result<Option<FlowId>, Drop> {
        let Admitted { packet, pairing, device, grant, rule } = *admitted;
        if segment(packet).is_some_and(|t| t.has(RST)) {
            return Err(Drop::NoFlow);
        }
        let candidates = match &rule.target {
            Target::Prefix(target) => vec![carry(packet.destination, target)],
            Target::Name(name) => {
                let question = (name.clone(), packet.source.is_ipv4());
                match self.names.look(now, &question) {
                    Some(addresses) => addresses.to_vec(),
                    None => {
                        each_packet(frame, packet, |bytes| {
                            let waits = (pairing, bytes.to_vec());
                            let ask = self.names.wait(now, question.clone(), device, waits)?;
                            if ask {
                                io.out.events.push(Event::Resolve { name: name.clone(), v4: packet.source.is_ipv4() });
                            }
                            Ok(())
                        })?;
                        return Ok(None);
                    }
                }
            }
        };
        let grant = grant.grant();
        let real = self.admitted_target(now, view, grant.id, grant.on_gateway, &candidates, io)?;
        let nat = if real.is_ipv4() { IpAddr::V4(grant.nat_v4) } else { IpAddr::V6(grant.nat_v6) };
        let client = client_key(device, packet);
        let (id, evicted) = self.table.open(now, &Opening { client, real, nat, grant: grant.id, pairing })?;
        io.out.events.extend(evicted.iter().map(|flow| Event::FlowEnded(flow.summary(FlowEnd::Evicted))));
        Ok(Some(id))
    }

    /// The first of the addresses that may be a final destination (design, 3.6); the refused ones are reported.
    fn admitted_target(
        &mut self,
        now: Instant,
        view: &View,
        grant: GrantId,
        on_gateway: bool,
        candidates: &[IpAddr],
        io: &mut Io<'_>,
    ) -> Result<IpAddr, Drop> {
        for target in candidates {
            if view.scope.admits(*target, on_gateway) {
                return Ok(*target);
            }
            if self.report_refused(now, (grant, *target)) {
                io.out.events.push(Event::TargetRefused { grant, target: *target });
            }
        }
        Err(if candidates.is_empty() { Drop::NameUnresolved } else { Drop::TargetRefused })
    }

    /// Is this refusal news? Each packet is counted, but the administrator is told once in a while.
    fn report_refused(&mut self, now: Instant, what: (GrantId, IpAddr)) -> bool {
        if self.refused.get(&what).is_some_and(|at| now.since(*at) < REFUSED_REPORT_EVERY) {
            return false;
        }
        if self.refused.len() >= REFUSED_MEMORY_MAX {
            self.refused.retain(|_, at| now.since(*at) < REFUSED_REPORT_EVERY);
        }
        let room = self.refused.len() < REFUSED_MEMORY_MAX;
        if room {
            self.refused.insert(what, now);
        }
        room
    }

    /// The gateway cannot carry this admitted packet on: a connection is reset, everything else gets an ICMP error.
    fn give_up(
        &mut self,
        now: Instant,
        pairing: PairingId,
        bytes: &[u8],
        packet: &Packet,
        reason: Drop,
        io: &mut Io<'_>,
    ) {
        io.counters.count(reason);
        let goes_on = segment(packet).is_some_and(|t| !t.opens());
        if goes_on {
            io.replies.extend(reset::answer(packet).map(|rst| (pairing, rst)));
        } else {
            let answer = if packet.source.is_ipv6() { Reason::NoRoute } else { Reason::HostUnreachable };
            self.answer(now, pairing, bytes, packet, answer, io);
        }
    }

    fn answer(
        &mut self,
        now: Instant,
        pairing: PairingId,
        bytes: &[u8],
        packet: &Packet,
        reason: Reason,
        io: &mut Io<'_>,
    ) {
        let Some(error) = icmp::about(bytes, packet, reason) else { return };
        if self.errors.take(now) {
            io.replies.push((pairing, error));
        } else {
            io.counters.count(Drop::IcmpRate);
        }
    }

    /// An ICMP error from a client, about a packet that a service sent it through this very pairing.
    fn client_error(
        &self,
        pairing: PairingId,
        device: DeviceId,
        bytes: &[u8],
        packet: &Packet,
        error: &Error,
    ) -> Result<Vec<u8>, Drop> {
        let quote = &error.quote;
        let echo = quote.protocol == Protocol::Icmp;
        let key = ClientKey {
            device,
            protocol: quote.protocol,
            client: quote.destination,
            client_port: if echo { quote.source_port } else { quote.destination_port },
            target: quote.source,
            port: if echo { 0 } else { quote.source_port },
        };
        let flow = self.table.by_client(&key).and_then(|id| self.table.flow(id)).ok_or(Drop::IcmpNoFlow)?;
        let fits = flow.pairing == pairing
            && packet.source == quote.destination
            && packet.destination == quote.source
            && !(echo && quote.request);
        if !fits {
            return Err(Drop::IcmpNoFlow);
        }
        let ends = flow.to_service();
        let quoted = rewrite_quote(bytes, quote, &reversed(&ends));
        let rest = icmp::kept(packet.source.is_ipv6(), error);
        Ok(icmp::build((ends.source, ends.destination), (error.kind, error.code), rest, &quoted))
    }

    /// A packet from the services' side.
    fn service(&mut self, now: Instant, frame: &mut Frame) -> Result<PairingId, Drop> {
        let packet = Packet::parse(&frame.bytes)?;
        frame.bytes.truncate(packet.len);
        match packet.transport {
            Transport::Error(error) => {
                let (pairing, translated) = self.service_error(&frame.bytes, &packet, &error)?;
                *frame = Frame::packet(translated);
                return Ok(pairing);
            }
            Transport::Echo { request: true, .. } => return Err(Drop::NoFlow),
            _ => {}
        }
        let id = self.table.by_service(&service_key(&packet)).ok_or(Drop::NoFlow)?;
        self.table.touch(now, id, false, Load::of(&packet, &frame.gso), segment(&packet));
        let flow = self.table.flow(id).ok_or(Drop::NoFlow)?;
        rewrite(&mut frame.bytes, &packet, &flow.to_client());
        Ok(flow.pairing)
    }

    /// An ICMP error about a packet that the gateway sent to a service. Whichever router sent it, the client sees it come
    /// from the virtual address.
    fn service_error(&self, bytes: &[u8], packet: &Packet, error: &Error) -> Result<(PairingId, Vec<u8>), Drop> {
        let quote = &error.quote;
        let key = ServiceKey {
            protocol: quote.protocol,
            real: quote.destination,
            port: quote.destination_port,
            nat: quote.source,
            nat_port: quote.source_port,
        };
        let flow = self.table.by_service(&key).and_then(|id| self.table.flow(id)).ok_or(Drop::IcmpNoFlow)?;
        if packet.destination != quote.source || (quote.protocol == Protocol::Icmp && !quote.request) {
            return Err(Drop::IcmpNoFlow);
        }
        let ends = flow.to_client();
        let quoted = rewrite_quote(bytes, quote, &reversed(&ends));
        let rest = icmp::kept(packet.source.is_ipv6(), error);
        let translated = icmp::build((ends.source, ends.destination), (error.kind, error.code), rest, &quoted);
        Ok((flow.pairing, translated))
    }

    fn swap(&mut self, old: &View, new: &View, io: &mut Io<'_>) {
        let same_scope = Arc::ptr_eq(&old.scope, &new.scope) || old.scope == new.scope;
        let mut kept: BTreeMap<GrantId, (PairingId, &Arc<VerifiedGrant>)> = BTreeMap::new();
        let mut before: BTreeMap<GrantId, &Arc<VerifiedGrant>> = BTreeMap::new();
        for (view, other, is_new) in [(old, new, false), (new, old, true)] {
            for (id, pairing) in &view.pairings {
                let twin = other.pairings.get(id).map(|p| p.grants.as_slice()).unwrap_or_default();
                let unchanged = same_scope
                    && twin.len() == pairing.grants.len()
                    && twin.iter().zip(&pairing.grants).all(|(a, b)| Arc::ptr_eq(a, b));
                for grant in pairing.grants.iter().filter(|_| !unchanged) {
                    if is_new {
                        kept.insert(grant.grant().id, (*id, grant));
                    } else {
                        before.insert(grant.grant().id, grant);
                    }
                }
            }
        }
        for (id, was) in before {
            let now = kept.get(&id).copied();
            for flow in self.table.of_grant(id) {
                self.settle(flow, new, now, io);
            }
            if now.is_none() {
                let was = was.grant();
                let nat = [IpAddr::V4(was.nat_v4), IpAddr::V6(was.nat_v6)];
                io.out.events.push(Event::GrantClosed { grant: id, nat });
            }
        }
    }

    /// A flow of a grant that changed (`now`: what it is and in which pairing) goes on, or ends with RST to both sides.
    fn settle(&mut self, id: FlowId, view: &View, now: Option<(PairingId, &Arc<VerifiedGrant>)>, io: &mut Io<'_>) {
        let Some(flow) = self.table.flow(id) else { return };
        if let Some((home, _)) = now.filter(|(_, grant)| still_admits(view, grant, flow)) {
            // A pairing that went away carries nothing any more; the grant's own takes over.
            let carrier = if view.pairings.contains_key(&flow.pairing) { flow.pairing } else { home };
            self.table.carried_by(id, home, true);
            self.table.carried_by(id, carrier, false);
            return;
        }
        let Some(flow) = self.table.close(id) else { return };
        if flow.client.protocol == Protocol::Tcp {
            let (numbers, ack) = flow.reset_client();
            let ends = flow.to_client();
            io.replies.extend(numbers.iter().map(|seq| (flow.pairing, reset::build(&ends, *seq, ack))));
            let (numbers, ack) = flow.reset_service();
            let ends = flow.to_service();
            io.out.tun.extend(numbers.iter().map(|seq| Frame::packet(reset::build(&ends, *seq, ack))));
        }
        io.out.events.push(Event::FlowEnded(flow.summary(FlowEnd::Grant)));
    }
}

/// Does any rule of the grant, as it is now, still lead this flow to where it goes, from the same address?
fn still_admits(view: &View, grant: &VerifiedGrant, flow: &Flow) -> bool {
    let plain = grant.grant();
    let nat = [IpAddr::V4(plain.nat_v4), IpAddr::V6(plain.nat_v6)];
    let ClientKey { device, protocol, target, port, .. } = flow.client;
    let leads = |rule: &Rule| match &rule.target {
        Target::Prefix(to) => carry(target, to) == flow.service.real,
        // A flow keeps the address that the name had when it began.
        Target::Name(_) => true,
    };
    plain.device == device
        && nat.contains(&flow.service.nat)
        && view.scope.admits(flow.service.real, plain.on_gateway)
        && plain.rules.iter().any(|rule| rule.matches(target, protocol, port) && leads(rule))
}

/// The flow of a packet that the service's side sends.
const fn service_key(packet: &Packet) -> ServiceKey {
    ServiceKey {
        protocol: packet.protocol(),
        real: packet.source,
        port: packet.source_port(),
        nat: packet.destination,
        nat_port: packet.destination_port(),
    }
}

fn client_key(device: DeviceId, packet: &Packet) -> ClientKey {
    ClientKey {
        device,
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

/// The other direction.
const fn reversed(ends: &Ends) -> Ends {
    Ends {
        source: ends.destination,
        source_port: ends.destination_port,
        destination: ends.source,
        destination_port: ends.source_port,
    }
}

/// The address in `target` at the same place as `address` in the client's prefix: the bits behind the prefix are carried
/// over. A checked rule has both sides of one family and length.
fn carry(address: IpAddr, target: &Prefix) -> IpAddr {
    match (address, target.address()) {
        (IpAddr::V4(a), IpAddr::V4(t)) => {
            let host = u32::MAX.checked_shr(u32::from(target.bits())).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(t) | (u32::from(a) & host)))
        }
        (IpAddr::V6(a), IpAddr::V6(t)) => {
            let host = u128::MAX.checked_shr(u32::from(target.bits())).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(t) | (u128::from(a) & host)))
        }
        _ => target.address(),
    }
}

#[cfg(test)]
mod tests;
