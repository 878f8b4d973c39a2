//! Which flows live? Found by either side's 5-tuple, bounded per grant, device, target and in all, ended by idle time.
//!
//! A client keeps its own flows in the same table, with both sides equal.

use crate::api::{FlowEnd, FlowSummary};
use crate::counters::Drop;
use crate::headers::{FIN, Packet, RST, Tcp};
use crate::lookup::Lookup;
use crate::rewrite::Ends;
use model::ids::{DeviceId, GrantId, PairingId};
use model::limits::{
    EVICT_LOOK_MAX, EXPIRE_BATCH_MAX, FLOWS_MAX, FLOWS_PER_GRANT_MAX, FLOWS_PER_PEER_MAX, FLOWS_PER_TARGET_MAX,
    ICMP_IDLE, NAT_PORTS_TRIED_MAX, TCP_CLOSED_IDLE, TCP_IDLE, UDP_IDLE,
};
use model::net::Protocol;
use model::packet::{Gso, GsoKind};
use model::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::time::Duration;

/// A flow as the client sees it. The device is part of it: equal addresses of two devices are two flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientKey {
    /// Whose.
    pub device: DeviceId,
    /// Protocol.
    pub protocol: Protocol,
    /// The device's address.
    pub client: IpAddr,
    /// The device's port, or echo identifier.
    pub client_port: u16,
    /// The destination: a virtual address, or a real one of a CIDR resource.
    pub target: IpAddr,
    /// The destination port; 0 for ICMP.
    pub port: u16,
}

/// A flow as the service sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Protocol.
    pub protocol: Protocol,
    /// The service's real address.
    pub real: IpAddr,
    /// The service's port; 0 for ICMP.
    pub port: u16,
    /// The grant's address.
    pub nat: IpAddr,
    /// The source port towards the service, or echo identifier.
    pub nat_port: u16,
}

/// Both ends and the protocol, eight or sixteen bytes at a time: a hash that reads them one by one takes twice as long.
fn hash_ends(protocol: Protocol, ends: [(IpAddr, u16); 2], hasher: &mut impl Hasher) {
    let [(a, a_port), (b, b_port)] = ends;
    let rest = [u32::from(a_port) << 16 | u32::from(b_port), protocol as u32];
    hasher.write(&address(a));
    hasher.write(&address(b));
    hasher.write(rest.map(u32::to_ne_bytes).as_flattened());
}

/// An IPv4 address in the middle of those that stand for one (RFC 4291, section 2.5.5.2).
fn address(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

impl Hash for ClientKey {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write(self.device.as_bytes());
        hash_ends(self.protocol, [(self.client, self.client_port), (self.target, self.port)], hasher);
    }
}

impl Hash for ServiceKey {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hash_ends(self.protocol, [(self.real, self.port), (self.nat, self.nat_port)], hasher);
    }
}

/// What one side of a TCP connection has sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Side {
    /// The sequence number after the highest that it sent.
    pub next: Option<u32>,
    /// What it last acknowledged: the sequence number that it expects.
    pub acked: Option<u32>,
    /// It sent FIN.
    pub fin: bool,
}

/// One live flow.
#[derive(Debug, Clone)]
pub struct Flow {
    /// The client's side.
    pub client: ClientKey,
    /// The service's side; the real address is kept for the flow's life.
    pub service: ServiceKey,
    /// The grant it lives by.
    pub grant: GrantId,
    /// The pairing that the grant was found in.
    pub home: PairingId,
    /// The pairing of the latest packet from the client: answers go there.
    pub pairing: PairingId,
    /// What the client sent.
    pub up_side: Side,
    /// What the service sent.
    pub down_side: Side,
    reset: bool,
    up: (u64, u64),
    down: (u64, u64),
    first: Instant,
    last: Instant,
    /// As it stands in the deadline queue; never later than the true deadline unless traffic moved that on.
    queued: Instant,
    /// As it stands in the rankings by idleness; may lag behind `last`.
    ranked: Instant,
}

impl Flow {
    /// Did the far side ever send anything?
    pub const fn answered(&self) -> bool {
        self.down.0 > 0
    }
    /// Was it reset, or closed from both sides?
    pub const fn closed(&self) -> bool {
        self.reset || (self.up_side.fin && self.down_side.fin)
    }
    fn idle(&self) -> Duration {
        match self.client.protocol {
            Protocol::Tcp if self.closed() => TCP_CLOSED_IDLE,
            Protocol::Tcp => TCP_IDLE,
            Protocol::Udp => UDP_IDLE,
            Protocol::Icmp => ICMP_IDLE,
        }
    }
    fn deadline(&self) -> Instant {
        self.last.plus(self.idle())
    }
    /// The ends of a packet to the service.
    pub const fn to_service(&self) -> Ends {
        Ends {
            source: self.service.nat,
            source_port: self.service.nat_port,
            destination: self.service.real,
            destination_port: self.service.port,
        }
    }
    /// The ends of a packet to the client.
    pub const fn to_client(&self) -> Ends {
        Ends {
            source: self.client.target,
            source_port: self.client.port,
            destination: self.client.client,
            destination_port: self.client.client_port,
        }
    }
    /// What is reported when it ends.
    pub fn summary(&self, end: FlowEnd) -> FlowSummary {
        FlowSummary {
            grant: self.grant,
            protocol: self.client.protocol,
            target: self.service.real,
            port: self.service.port,
            up: self.up,
            down: self.down,
            lasted: self.last.since(self.first),
            last: self.last,
            end,
        }
    }
    /// Sequence numbers for RST segments to the client, and what they acknowledge. The number after the highest that
    /// was passed on is the one expected when all of it arrived; the one last acknowledged, when some was lost.
    pub fn reset_client(&self) -> (Vec<u32>, Option<u32>) {
        reset_numbers(&self.down_side, &self.up_side)
    }
    /// The same for the service.
    pub fn reset_service(&self) -> (Vec<u32>, Option<u32>) {
        reset_numbers(&self.up_side, &self.down_side)
    }
    fn note(&mut self, up: bool, tcp: &Tcp) {
        let (own, other) = if up { (&mut self.up_side, &self.down_side) } else { (&mut self.down_side, &self.up_side) };
        if tcp.has(RST) {
            // Only one that its receiver would believe, or a forged one would shorten the flow's life.
            let expected = [own.next, other.acked];
            self.reset |= expected.iter().all(Option::is_none) || expected.contains(&Some(tcp.seq));
            return;
        }
        let end = tcp.seq.wrapping_add(tcp.length);
        // Serial arithmetic (RFC 9293 section 3.4): later if less than half the space ahead.
        if own.next.is_none_or(|next| end.wrapping_sub(next) < 1 << 31) {
            own.next = Some(end);
        }
        if tcp.has(crate::headers::ACK) {
            own.acked = Some(tcp.ack);
        }
        own.fin |= tcp.has(FIN);
    }
}

fn reset_numbers(sender: &Side, receiver: &Side) -> (Vec<u32>, Option<u32>) {
    let mut numbers: Vec<u32> = sender.next.into_iter().chain(receiver.acked).collect();
    numbers.dedup();
    if numbers.is_empty() {
        // The receiver waits for SYN-ACK: only the acknowledgement counts.
        numbers.push(0);
    }
    (numbers, receiver.next)
}

/// What passed: so many packets, and their bytes of IP in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Load {
    /// Of a packet, or of all that a super-packet stands for.
    pub fn of(packet: &Packet, gso: &Gso) -> Self {
        let (len, header) = (packet.len as u64, u64::from(gso.header_len));
        if gso.kind == GsoKind::None {
            return Self { packets: 1, bytes: len };
        }
        let packets = len.saturating_sub(header).div_ceil(u64::from(gso.size).max(1)).max(1);
        Self { packets, bytes: len.saturating_add((packets - 1).saturating_mul(header)) }
    }
}

/// Names one live flow; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(u64);

/// How many flows may live.
#[derive(Debug, Clone, Copy)]
pub struct Caps {
    /// In all.
    pub total: usize,
    /// Of one device.
    pub peer: usize,
    /// Of one grant.
    pub grant: usize,
    /// To one real address.
    pub target: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self { total: FLOWS_MAX, peer: FLOWS_PER_PEER_MAX, grant: FLOWS_PER_GRANT_MAX, target: FLOWS_PER_TARGET_MAX }
    }
}

/// A flow to be opened.
#[derive(Debug, Clone, Copy)]
pub struct Opening {
    /// The client's side.
    pub client: ClientKey,
    /// The service's real address.
    pub real: IpAddr,
    /// The grant's address of that family.
    pub nat: IpAddr,
    /// The grant.
    pub grant: GrantId,
    /// The pairing that the packet came through.
    pub pairing: PairingId,
}

type Ranking<K> = BTreeMap<K, BTreeSet<(Instant, FlowId)>>;

/// All live flows.
#[derive(Debug)]
pub struct Table {
    caps: Caps,
    last: u64,
    flows: Lookup<FlowId, Box<Flow>>,
    by_client: Lookup<ClientKey, FlowId>,
    by_service: Lookup<ServiceKey, FlowId>,
    by_device: Ranking<DeviceId>,
    by_grant: Ranking<GrantId>,
    by_target: BTreeMap<IpAddr, usize>,
    /// Each flow once.
    deadlines: BTreeSet<(Instant, FlowId)>,
}

impl Table {
    /// With these bounds; `seed` is random.
    pub fn new(caps: Caps, seed: &[u8; 32]) -> Self {
        Self {
            caps,
            last: 0,
            flows: Lookup::new(seed),
            by_client: Lookup::new(seed),
            by_service: Lookup::new(seed),
            by_device: Ranking::new(),
            by_grant: Ranking::new(),
            by_target: BTreeMap::new(),
            deadlines: BTreeSet::new(),
        }
    }
    /// How many live.
    pub fn len(&self) -> usize {
        self.flows.len()
    }
    /// None lives?
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }
    /// By the client's side.
    pub fn by_client(&self, key: &ClientKey) -> Option<FlowId> {
        self.by_client.find(key).copied()
    }
    /// By the service's side.
    pub fn by_service(&self, key: &ServiceKey) -> Option<FlowId> {
        self.by_service.find(key).copied()
    }
    /// One flow.
    pub fn flow(&self, id: FlowId) -> Option<&Flow> {
        self.flows.find(&id).map(Box::as_ref)
    }
    /// All flows of a grant.
    pub fn of_grant(&self, grant: GrantId) -> Vec<FlowId> {
        self.by_grant.get(&grant).map(|set| set.iter().map(|(_, id)| *id).collect()).unwrap_or_default()
    }
    /// All flows, the oldest first.
    pub fn all(&self) -> Vec<FlowId> {
        let mut all: Vec<FlowId> = self.deadlines.iter().map(|(_, id)| *id).collect();
        all.sort_unstable();
        all
    }

    /// Opens a flow. Where its grant, its device or the table is full, the longest idle flow of that grant or device
    /// makes room and is handed back.
    pub fn open(&mut self, now: Instant, opening: &Opening) -> Result<(FlowId, Vec<Flow>), Drop> {
        let Opening { client, real, nat, grant, pairing } = *opening;
        if self.by_target.get(&real).is_some_and(|n| *n >= self.caps.target) {
            return Err(Drop::TargetFull);
        }
        let nat_port = self.nat_port(&client, real, nat).ok_or(Drop::NatPortsUsed)?;
        let evicted = self.make_room(client.device, grant)?;
        self.last += 1;
        let id = FlowId(self.last);
        let service = ServiceKey { protocol: client.protocol, real, port: client.port, nat, nat_port };
        let mut flow = Flow {
            client,
            service,
            grant,
            home: pairing,
            pairing,
            up_side: Side::default(),
            down_side: Side::default(),
            reset: false,
            up: (0, 0),
            down: (0, 0),
            first: now,
            last: now,
            queued: now,
            ranked: now,
        };
        flow.queued = flow.deadline();
        self.by_client.put(client, id);
        self.by_service.put(service, id);
        self.by_device.entry(client.device).or_default().insert((now, id));
        self.by_grant.entry(grant).or_default().insert((now, id));
        *self.by_target.entry(real).or_default() += 1;
        self.deadlines.insert((flow.queued, id));
        self.flows.put(id, Box::new(flow));
        Ok((id, evicted))
    }

    /// The client's own port where it is free towards that service, else another one.
    fn nat_port(&self, client: &ClientKey, real: IpAddr, nat: IpAddr) -> Option<u16> {
        let (protocol, port) = (client.protocol, client.port);
        let free =
            |nat_port: &u16| !self.by_service.has(&ServiceKey { protocol, real, port, nat, nat_port: *nat_port });
        if free(&client.client_port) {
            return Some(client.client_port);
        }
        // Ports from 1024 up, in steps that are coprime to their number, from a place that moves with each flow.
        let begin = self.last.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        (0..u64::from(NAT_PORTS_TRIED_MAX))
            .filter_map(|i| u16::try_from(1024 + (begin + i * 4_099) % 64_512).ok())
            .find(free)
    }

    fn make_room(&mut self, device: DeviceId, grant: GrantId) -> Result<Vec<Flow>, Drop> {
        let mut evicted = Vec::new();
        if self.by_grant.get(&grant).is_some_and(|set| set.len() >= self.caps.grant) {
            let longest = self.longest_idle(|t| t.by_grant.get(&grant));
            evicted.extend(longest.and_then(|id| self.close(id)));
        }
        let device_full = self.by_device.get(&device).is_some_and(|set| set.len() >= self.caps.peer);
        if device_full || self.flows.len() >= self.caps.total {
            let longest = self.longest_idle(|t| t.by_device.get(&device));
            evicted.extend(longest.and_then(|id| self.close(id)));
        }
        if self.flows.len() >= self.caps.total {
            return Err(Drop::FlowsFull);
        }
        Ok(evicted)
    }

    /// The longest idle flow of a ranking. Rankings lag behind the traffic, so the front is brought up to date until it
    /// is true, for at most [`EVICT_LOOK_MAX`] flows.
    fn longest_idle(
        &mut self,
        ranking: impl for<'t> Fn(&'t Self) -> Option<&'t BTreeSet<(Instant, FlowId)>>,
    ) -> Option<FlowId> {
        for _ in 0..EVICT_LOOK_MAX {
            let (ranked, id) = ranking(self).and_then(|set| set.first().copied())?;
            match self.flows.find(&id) {
                Some(flow) if flow.last > ranked => self.rank(id),
                _ => return Some(id),
            }
        }
        ranking(self).and_then(|set| set.first()).map(|(_, id)| *id)
    }

    fn rank(&mut self, id: FlowId) {
        let Some(flow) = self.flows.find_mut(&id) else { return };
        let (old, new) = ((flow.ranked, id), (flow.last, id));
        flow.ranked = flow.last;
        for set in
            [self.by_device.get_mut(&flow.client.device), self.by_grant.get_mut(&flow.grant)].into_iter().flatten()
        {
            set.remove(&old);
            set.insert(new);
        }
    }

    /// The client sent a packet of this flow through this pairing; `home` when the flow's own grant was found there.
    pub fn carried_by(&mut self, id: FlowId, pairing: PairingId, home: bool) {
        if let Some(flow) = self.flows.find_mut(&id) {
            flow.pairing = pairing;
            if home {
                flow.home = pairing;
            }
        }
    }

    /// Puts a flow under another grant.
    pub fn adopt(&mut self, id: FlowId, grant: GrantId) {
        let Some(flow) = self.flows.find_mut(&id) else { return };
        let (old, ranked) = (std::mem::replace(&mut flow.grant, grant), flow.ranked);
        remove_ranked(&mut self.by_grant, &old, (ranked, id));
        self.by_grant.entry(grant).or_default().insert((ranked, id));
    }

    /// Counts a packet that passed: up is from the client.
    pub fn touch(&mut self, now: Instant, id: FlowId, up: bool, load: Load, tcp: Option<&Tcp>) {
        let Some(flow) = self.flows.find_mut(&id) else { return };
        let sum = if up { &mut flow.up } else { &mut flow.down };
        sum.0 = sum.0.saturating_add(load.packets);
        sum.1 = sum.1.saturating_add(load.bytes);
        flow.last = flow.last.max(now);
        if let Some(tcp) = tcp {
            flow.note(up, tcp);
        }
        // The queue may lag, but only to the safe side: a deadline that came nearer is queued at once.
        let deadline = flow.deadline();
        if deadline < flow.queued {
            self.deadlines.remove(&(flow.queued, id));
            flow.queued = deadline;
            self.deadlines.insert((deadline, id));
        }
    }

    /// Forgets a flow and hands it back.
    pub fn close(&mut self, id: FlowId) -> Option<Flow> {
        let flow = *self.flows.take(&id)?;
        self.by_client.take(&flow.client);
        self.by_service.take(&flow.service);
        self.deadlines.remove(&(flow.queued, id));
        remove_ranked(&mut self.by_device, &flow.client.device, (flow.ranked, id));
        remove_ranked(&mut self.by_grant, &flow.grant, (flow.ranked, id));
        if let Some(n) = self.by_target.get_mut(&flow.service.real) {
            *n = n.saturating_sub(1);
            if *n == 0 {
                self.by_target.remove(&flow.service.real);
            }
        }
        Some(flow)
    }

    /// Ends flows whose idle time is over, at most [`EXPIRE_BATCH_MAX`] a call.
    pub fn expire(&mut self, now: Instant) -> Vec<FlowSummary> {
        let mut ended = Vec::new();
        for _ in 0..EXPIRE_BATCH_MAX {
            let Some((queued, id)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) else { break };
            match self.flows.find_mut(&id) {
                Some(flow) if flow.deadline() > now => {
                    self.deadlines.remove(&(queued, id));
                    flow.queued = flow.deadline();
                    self.deadlines.insert((flow.queued, id));
                }
                _ => {
                    self.deadlines.remove(&(queued, id));
                    let end = |flow: &Flow| if flow.closed() { FlowEnd::Closed } else { FlowEnd::Idle };
                    ended.extend(self.close(id).map(|flow| flow.summary(end(&flow))));
                }
            }
        }
        ended
    }

    /// What is known of the flows that live.
    pub fn summaries(&self, end: FlowEnd) -> Vec<FlowSummary> {
        self.all().into_iter().filter_map(|id| self.flow(id)).map(|flow| flow.summary(end)).collect()
    }

    /// When [`Self::expire`] has something to do next.
    pub fn next_deadline(&self) -> Instant {
        self.deadlines.first().map_or(Instant::NEVER, |(at, _)| *at)
    }
}

fn remove_ranked<K: Ord>(ranking: &mut Ranking<K>, key: &K, entry: (Instant, FlowId)) {
    if let Some(set) = ranking.get_mut(key) {
        set.remove(&entry);
        if set.is_empty() {
            ranking.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
