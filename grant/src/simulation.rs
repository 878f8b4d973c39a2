//! Ledger and table over a bad network, in virtual time: under any order, loss, duplication and restart, does the table end
//! up as the ledger says, and never hold what it must not?

use crate::sync::Update;
use crate::testkit::*;
use crate::{Cause, GrantError, Ledger, Moment, Selector, Table, revoke};
use model::ids::{GrantId, PairingId};
use model::revision::{Digest, Revision};
use model::time::Instant;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

#[derive(Debug, Clone)]
enum Step {
    Connect { device: u64, resource: u64, lease: u64, until: Option<u64>, join: bool },
    Amend { pick: usize, lease: u64 },
    Abandon { device: u64, resource: u64 },
    End { selector: u8, key: u64 },
    Send,
    Renew,
    Deliver { pick: usize, keep: bool },
    Lose { pick: usize },
    Hear { pick: usize, keep: bool },
    Wait { millis: u64 },
    RestartGateway,
    RestartController,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u64..4, 0u64..3, 1u64..90, proptest::option::of(1u64..200), any::<bool>())
            .prop_map(|(device, resource, lease, until, join)| Step::Connect { device, resource, lease, until, join }),
        2 => (any::<usize>(), 1u64..90).prop_map(|(pick, lease)| Step::Amend { pick, lease }),
        1 => (0u64..4, 0u64..3).prop_map(|(device, resource)| Step::Abandon { device, resource }),
        3 => (0u8..5, 0u64..4).prop_map(|(selector, key)| Step::End { selector, key }),
        6 => Just(Step::Send),
        4 => Just(Step::Renew),
        9 => (any::<usize>(), any::<bool>()).prop_map(|(pick, keep)| Step::Deliver { pick, keep }),
        2 => any::<usize>().prop_map(|pick| Step::Lose { pick }),
        5 => (any::<usize>(), any::<bool>()).prop_map(|(pick, keep)| Step::Hear { pick, keep }),
        4 => (0u64..30_000).prop_map(|millis| Step::Wait { millis }),
        1 => (0u64..100_000_000).prop_map(|millis| Step::Wait { millis }),
        1 => Just(Step::RestartGateway),
        1 => Just(Step::RestartController),
    ]
}

#[derive(Debug, Clone)]
enum Down {
    Update(Instant, Update),
    Renewed(Instant, Vec<(GrantId, Duration)>),
}

#[derive(Debug, Clone)]
enum Up {
    Renew(Instant, Revision, Digest),
    Ack(Revision, Vec<GrantId>),
}

struct World {
    now: Instant,
    ledger: Ledger,
    table: Table,
    down: Vec<Down>,
    up: Vec<Up>,
    /// What the controller sent last, and the latest request that it received: when sent, when received.
    sent: Option<Revision>,
    as_of: (Instant, Instant),
    fresh: u64,
    /// The longest life that the ledger ever gave each grant.
    limit: BTreeMap<GrantId, Instant>,
    ended: BTreeMap<GrantId, Revision>,
    tunnels: BTreeMap<u64, Vec<PairingId>>,
}

impl World {
    fn new() -> Self {
        let now = at(100).now;
        Self {
            now,
            ledger: ledger(),
            table: Table::new(scope(), Revision::default()),
            down: Vec::new(),
            up: Vec::new(),
            sent: None,
            as_of: (now, now),
            fresh: 0,
            limit: BTreeMap::new(),
            ended: BTreeMap::new(),
            tunnels: BTreeMap::new(),
        }
    }

    fn moment(&self) -> Moment {
        Moment { now: self.now, wall: model::time::WallMs(1_700_000_000_000 + (self.now.0 / 1_000_000) as i64) }
    }

    fn next(&self) -> Revision {
        rev(self.ledger.head().number + 1)
    }

    fn end(&mut self, which: &Selector, cause: Cause) {
        let (at, next) = (self.moment(), self.next());
        let out = revoke(&mut self.ledger, at, which, cause, next);
        for live in &out.ended {
            assert_eq!(self.ended.insert(live.grant.id, out.revision), None, "ended twice");
        }
    }

    fn connect(&mut self, device: u64, resource: u64, lease: u64, until: Option<u64>, join: bool) {
        self.fresh += 1;
        let mut permit = permit(device, resource, 1, self.fresh);
        permit.lease = Duration::from_secs(lease);
        permit.until = until.map_or(Instant::NEVER, |s| self.now.plus(Duration::from_secs(s)));
        if join {
            permit.held = self.tunnels.get(&device).cloned().unwrap_or_default();
        }
        if lease.is_multiple_of(2) {
            let held = |l: &&crate::Live| l.grant.device == permit.device && l.grant.resource == permit.resource;
            permit.moves = self.ledger.all().find(held).map(|l| l.grant.id);
        }
        let granted = self.ledger.grant(self.moment(), permit).unwrap();
        assert!(!self.ended.contains_key(&granted.grant), "an ended id came back");
        self.ledger.commit(granted.grant, self.next()).unwrap();
        self.tunnels.entry(device).or_default().push(granted.pairing);
        if !granted.replaces.is_empty() && !join {
            let old = granted.replaces.into_iter().map(Selector::Grant).collect();
            self.end(&Selector::Any(old), Cause::Replaced);
        }
    }

    fn amend(&mut self, pick: usize, lease: u64) {
        let Some(live) = self.ledger.all().nth(pick % self.ledger.all().len().max(1)).cloned() else { return };
        let terms = crate::Terms {
            rules: vec![rule(lease as u32)],
            lease: Duration::from_secs(lease),
            on_gateway: false,
            until: self.now.plus(Duration::from_secs(500)),
        };
        if self.ledger.amend(self.moment(), live.grant.id, terms).is_ok() {
            self.ledger.commit(live.grant.id, self.next()).unwrap();
        }
    }

    fn send(&mut self) {
        if let Some(update) = self.ledger.update(gateway(1), self.sent, self.now, self.as_of.1) {
            self.sent = Some(self.ledger.head());
            self.down.push(Down::Update(self.as_of.0, update));
        }
    }

    fn snapshot(&mut self) {
        let snapshot = self.ledger.snapshot(gateway(1), self.now, self.as_of.1).unwrap();
        self.sent = Some(snapshot.revision);
        self.down.push(Down::Update(self.as_of.0, Update::Snapshot(snapshot)));
    }

    fn renew(&mut self) {
        self.table.handle_timeout(self.now);
        self.up.push(Up::Renew(self.now, self.table.revision(), self.table.digest()));
    }

    /// The gateway gets a message.
    fn deliver(&mut self, message: Down) {
        match message {
            Down::Update(base, update) => {
                let applied = self.table.apply(self.now, base, update);
                for (id, why) in &applied.refused {
                    assert!(matches!(why, GrantError::PairingGone), "{id} refused: {why}");
                }
                if applied.applied && !applied.renew_now {
                    let refused = applied.refused.iter().map(|(id, _)| *id).collect();
                    self.up.push(Up::Ack(self.table.revision(), refused));
                }
                if applied.need_snapshot || applied.renew_now {
                    self.renew();
                }
            }
            Down::Renewed(sent_at, lives) => {
                self.table.renewed(self.now, sent_at, &lives);
            }
        }
    }

    /// The controller gets a message.
    fn hear(&mut self, message: Up) {
        match message {
            Up::Ack(revision, refused) => {
                self.ledger.ack(gateway(1), revision);
                let refused = refused.into_iter().map(Selector::Grant).collect();
                self.end(&Selector::Any(refused), Cause::Refused);
            }
            Up::Renew(sent_at, revision, digest) => {
                if sent_at >= self.as_of.0 {
                    self.as_of = (sent_at, self.now);
                }
                let at = self.moment();
                let renewal = self.ledger.renew(at, gateway(1), revision, digest, &mut |l| Some(l.until));
                match renewal {
                    // Counted from this very request.
                    Some(renewal) if self.as_of.0 == sent_at => {
                        self.note_limits();
                        self.down.push(Down::Renewed(sent_at, renewal.lives));
                    }
                    Some(_) => self.note_limits(),
                    None => self.snapshot(),
                }
            }
        }
    }

    fn note_limits(&mut self) {
        for live in self.ledger.all() {
            let limit = self.limit.entry(live.grant.id).or_insert(Instant(0));
            *limit = (*limit).max(live.ends);
        }
    }

    fn restart_controller(&mut self) {
        let at = self.moment();
        let records = self.ledger.records(at);
        let head = self.ledger.head();
        let (ledger, lost) = Ledger::restore(at, head, records.clone());
        for why in lost {
            assert!(matches!(why, crate::Lost::Tombstone(_)), "{why}");
        }
        self.ledger = ledger;
        self.ledger.bury(self.now);
        let again = self.ledger.records(at);
        assert_eq!((again.grants, again.pairings), (records.grants, records.pairings));
        self.cut();
    }

    /// The stream ends, and with it everything under way.
    fn cut(&mut self) {
        self.down.clear();
        self.up.clear();
        self.sent = None;
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Connect { device, resource, lease, until, join } => {
                self.connect(device, resource, lease, until, join);
            }
            Step::Amend { pick, lease } => self.amend(pick, lease),
            Step::Abandon { device, resource } => {
                self.fresh += 1;
                let granted = self.ledger.grant(self.moment(), permit(device, resource, 1, self.fresh)).unwrap();
                self.ledger.abandon(granted.grant);
            }
            Step::End { selector, key } => {
                let which = match selector {
                    0 => Selector::Device(device(key)),
                    1 => Selector::Session(session(key)),
                    2 => Selector::User(user(key)),
                    3 => Selector::Resource(resource(key)),
                    _ => Selector::Grant(grant_id(key * self.fresh / 4)),
                };
                self.end(&which, Cause::Administrator);
            }
            Step::Send => self.send(),
            Step::Renew => self.renew(),
            Step::Deliver { pick, keep } if !self.down.is_empty() => {
                let pick = pick % self.down.len();
                let message = if keep { self.down[pick].clone() } else { self.down.remove(pick) };
                self.deliver(message);
            }
            Step::Lose { pick } if !self.down.is_empty() => {
                let pick = pick % self.down.len();
                self.down.remove(pick);
            }
            Step::Hear { pick, keep } if !self.up.is_empty() => {
                let pick = pick % self.up.len();
                let message = if keep { self.up[pick].clone() } else { self.up.remove(pick) };
                self.hear(message);
            }
            Step::Deliver { .. } | Step::Lose { .. } | Step::Hear { .. } => {}
            Step::Wait { millis } => self.wait(Duration::from_millis(millis)),
            Step::RestartGateway => {
                self.table = Table::new(scope(), self.table.seen());
                self.ledger.restart_gateway(self.moment(), gateway(1));
                self.cut();
            }
            Step::RestartController => self.restart_controller(),
        }
        self.note_limits();
        self.check();
    }

    fn wait(&mut self, by: Duration) {
        self.now = self.now.plus(by);
        self.table.handle_timeout(self.now);
        let expired = self.ledger.expired(self.now).into_iter().map(Selector::Grant).collect();
        self.end(&Selector::Any(expired), Cause::Expired);
        self.ledger.bury(self.now);
    }

    fn check(&mut self) {
        let mut addresses = BTreeSet::new();
        for live in self.ledger.all() {
            assert!(addresses.insert(IpAddr::V4(live.grant.nat_v4)), "an address twice");
            assert!(addresses.insert(IpAddr::V6(live.grant.nat_v6)), "an address twice");
        }
        let revision = self.table.revision();
        let view = self.table.view();
        let mut seen = BTreeMap::new();
        for pairing in view.pairings.values() {
            assert!(!pairing.grants.is_empty());
            for grant in &pairing.grants {
                let grant = grant.grant();
                let ends = self.table.ends(grant.id).unwrap();
                assert!(ends > self.now, "an ended grant is in the view");
                assert!(ends <= self.limit[&grant.id], "{} outlives what the ledger gave", grant.id);
                if let Some(ended) = self.ended.get(&grant.id) {
                    assert!(*ended > revision, "{} was ended at {ended}, the table is at {revision}", grant.id);
                }
                assert_eq!(seen.insert(grant.nat_v4, grant.id), None);
                // Who else has this address now? Nobody, before the gateway said that this one is gone.
                for live in self.ledger.all().filter(|l| l.grant.nat_v4 == grant.nat_v4) {
                    assert_eq!(live.grant.id, grant.id, "an address was given away too early");
                }
            }
        }
    }

    /// A new stream, on which nothing is lost or overtaken: do both sides agree soon?
    fn settle(&mut self) {
        self.cut();
        self.wait(Duration::ZERO);
        self.snapshot();
        for _ in 0..6 {
            self.renew();
            while !(self.up.is_empty() && self.down.is_empty()) {
                for message in std::mem::take(&mut self.up) {
                    self.hear(message);
                }
                for message in std::mem::take(&mut self.down) {
                    self.deliver(message);
                }
                self.note_limits();
                self.check();
            }
        }
        assert_eq!(self.ledger.digest(gateway(1), self.now), Some(self.table.digest()));
        let held: Vec<GrantId> = self.ledger.all().filter(|l| !l.waiting).map(|l| l.grant.id).collect();
        assert_eq!(self.table.len(), held.len());
        assert!(held.iter().all(|id| self.table.ends(*id).is_some()));
        for (id, revision) in &self.ended {
            assert!(self.table.ends(*id).is_none());
            assert_eq!(self.ledger.pending(*revision, self.now), []);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
    #[test]
    fn the_table_becomes_what_the_ledger_says(steps in proptest::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in steps {
            world.run(step);
        }
        world.settle();
    }
}
