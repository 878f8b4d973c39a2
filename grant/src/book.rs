//! What does the controller keep about one gateway? Its NAT numbers, the changes it has to learn of, and what it has
//! acknowledged.

use model::ids::GrantId;
use model::limits::CHANGES_PER_GATEWAY_MAX;
use model::pool::NatPool;
use model::revision::{Digest, Revision};
use model::time::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Numbers from 1, the lowest free one first.
#[derive(Debug, Clone)]
struct Numbers {
    /// Below `next`, and not in use.
    free: BTreeSet<u32>,
    /// Never used so far.
    next: u32,
}

/// The controller's page for one gateway.
#[derive(Debug, Clone)]
pub(crate) struct Book {
    pub(crate) nat: NatPool,
    numbers: Numbers,
    /// Numbers of ended grants, by the state in which the gateway has to be to have forgotten them.
    resting: BTreeMap<(Revision, GrantId), u32>,
    /// Changes, oldest first.
    log: VecDeque<(Revision, GrantId)>,
    /// A delta may start here or later.
    floor: Revision,
    /// The last change that concerned this gateway.
    changed: Revision,
    /// The highest state that was handed out.
    issued: Revision,
    /// The highest state that was acknowledged.
    pub(crate) acked: Revision,
    /// Acknowledgements below this prove nothing.
    ack_floor: Revision,
    /// The digest, and how long it holds (until the next grant ends).
    pub(crate) digest: Option<(Digest, Instant)>,
}

const fn after(revision: Revision) -> Revision {
    Revision { incarnation: revision.incarnation, number: revision.number.saturating_add(1) }
}

impl Book {
    /// A page that begins at `head`; a gateway that holds an older state needs a snapshot.
    pub(crate) fn new(nat: NatPool, head: Revision) -> Self {
        Self {
            nat,
            numbers: Numbers { free: BTreeSet::new(), next: 1 },
            resting: BTreeMap::new(),
            log: VecDeque::new(),
            floor: head,
            changed: head,
            issued: Revision::default(),
            acked: Revision::default(),
            ack_floor: Revision::default(),
            digest: None,
        }
    }

    /// The lowest free number and its addresses; none when the pool is used up.
    pub(crate) fn take_number(&mut self) -> Option<(u32, Ipv4Addr, Ipv6Addr)> {
        let number = self.numbers.free.first().copied().unwrap_or(self.numbers.next);
        let (v4, v6) = self.nat.pair(number)?;
        if !self.numbers.free.remove(&number) {
            self.numbers.next = self.numbers.next.saturating_add(1);
        }
        Some((number, v4, v6))
    }

    /// This very number, if it is free.
    pub(crate) fn claim_number(&mut self, number: u32) -> Option<(Ipv4Addr, Ipv6Addr)> {
        let pair = self.nat.pair(number)?;
        if number >= self.numbers.next {
            self.numbers.free.extend(self.numbers.next..number);
            self.numbers.next = number.saturating_add(1);
            return Some(pair);
        }
        self.numbers.free.remove(&number).then_some(pair)
    }

    /// A number that no gateway ever heard of is free at once.
    pub(crate) fn free_number(&mut self, number: u32) {
        if number < self.numbers.next {
            self.numbers.free.insert(number);
        }
    }

    /// The number of an ended grant rests until the gateway is at `revision`.
    pub(crate) fn rest_number(&mut self, revision: Revision, grant: GrantId, number: u32) {
        self.resting.insert((revision, grant), number);
    }

    /// The tombstone is gone: whatever the gateway said, it has let the grant go.
    pub(crate) fn wake_number(&mut self, revision: Revision, grant: GrantId) {
        if let Some(number) = self.resting.remove(&(revision, grant)) {
            self.free_number(number);
        }
    }

    /// Notes that the grant changed.
    ///
    /// A change at a state that the gateway may have already (several changes of one transaction, told too late) cannot
    /// be sent as a delta, and an acknowledgement of that state would not prove it: both then wait for a later state.
    pub(crate) fn note(&mut self, revision: Revision, grant: GrantId) {
        self.digest = None;
        self.changed = self.changed.max(revision);
        if revision <= self.issued {
            self.log.clear();
            self.floor = self.floor.max(after(self.issued));
            self.ack_floor = self.ack_floor.max(after(self.issued));
            return;
        }
        self.log.push_back((revision, grant));
        if self.log.len() > CHANGES_PER_GATEWAY_MAX
            && let Some((dropped, _)) = self.log.pop_front()
        {
            // What happened at `dropped` is not whole any more: only who is past it can go on from here.
            self.floor = self.floor.max(dropped);
        }
    }

    /// The grants that changed after `from`; none when a snapshot is needed.
    pub(crate) fn changes(&self, from: Revision) -> Option<BTreeSet<GrantId>> {
        if from < self.floor {
            return None;
        }
        let start = self.log.partition_point(|(revision, _)| *revision <= from);
        Some(self.log.range(start..).map(|(_, grant)| *grant).collect())
    }

    /// A message that leads to `revision` was handed out.
    pub(crate) fn issue(&mut self, revision: Revision) {
        self.issued = self.issued.max(revision);
    }

    /// Notes an acknowledgement. One of a state that was never sent, or that proves nothing, is ignored.
    pub(crate) fn ack(&mut self, revision: Revision) {
        if revision > self.issued || revision < self.ack_floor || revision <= self.acked {
            return;
        }
        self.acked = revision;
        let later = self.resting.split_off(&(after(revision), GrantId::from_bytes([0; model::ids::ID_LEN])));
        for number in std::mem::replace(&mut self.resting, later).into_values() {
            self.free_number(number);
        }
    }

    /// The gateway started anew: it has acknowledged nothing, and no delta leads on from what it had.
    pub(crate) fn restart(&mut self) {
        self.acked = Revision::default();
        self.digest = None;
        self.log.clear();
        self.floor = self.floor.max(self.changed);
    }

    /// May a gateway in this state hold what the ledger holds at `head`? The digest has the last word.
    pub(crate) fn is_current(&self, revision: Revision, head: Revision) -> bool {
        revision.incarnation == head.incarnation && self.changed <= revision && revision <= head
    }
}
