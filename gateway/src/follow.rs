//! What does a gateway do with each word of the controller, and in which order? Pure: what it decides is done by [`Hands`].
//!
//! Order of every change (design, 3.9): the table, then the engine (new view, resets), then the kernel's connection
//! tracking, then the persisted revision, and only then the acknowledgement.

use grant::sync::Update;
use grant::table::{Applied, Table};
use grant::verified::Scope;
use grant::view::View;
use model::ids::GrantId;
use model::limits::{PROBE_EVERY, RENEWALS_REMEMBERED_MAX};
use model::revision::{Digest, Revision};
use model::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Two requests are at least this far apart.
pub const RENEW_MIN: Duration = Duration::from_millis(100);
/// No wait is longer: the timer's clock stops in suspend, the lease clock does not.
pub const WAIT_MAX: Duration = Duration::from_millis(500);
/// The pause after the kernel refused to delete an entry, or the disk to keep a revision.
const SETTLE_RETRY: Duration = Duration::from_secs(1);

/// What a gateway can do.
pub trait Hands: Send {
    /// Hands the view to the engine; when this returns, nothing that it does not hold is forwarded any more. Answers the
    /// NAT addresses of the grants that are gone.
    fn publish(&mut self, view: Arc<View>) -> Vec<IpAddr>;
    /// Deletes the kernel's connection tracking entries of these addresses; answers those that it could not.
    fn forget(&mut self, addresses: BTreeSet<IpAddr>) -> impl Future<Output = BTreeSet<IpAddr>> + Send;
    /// Keeps the newest state on disk. None: the disk failed. False: an older state, which must not be acknowledged.
    fn keep(&mut self, revision: Revision) -> Option<bool>;
    /// "My table is this; may it live on?"
    fn renew(&mut self, seq: u64, revision: Revision, digest: Digest);
    /// All up to `revision` acts; was it sent?
    fn acknowledge(&mut self, revision: Revision, refused: &[GrantId]) -> bool;
}

/// The table, and what has been said about it.
pub struct Follower {
    table: Table,
    renew_every: Duration,
    /// When each request of this stream was sent.
    sent: BTreeMap<u64, Instant>,
    seq: u64,
    last_renew: Instant,
    renew_soon: bool,
    ending: Ending,
}

/// What has to happen before the newest state is acknowledged.
#[derive(Default)]
struct Ending {
    /// NAT addresses of ended grants that the kernel may still track.
    lingering: BTreeSet<IpAddr>,
    /// When what failed is tried again.
    again: Option<Instant>,
    /// The newest state of which everything acts here.
    acting: Option<Revision>,
    /// The controller has not been told of it on this stream.
    owed: bool,
    /// A grant could not be taken, because its life was counted from too old a request: nothing is acknowledged until the
    /// table is whole again, by the answer to a request after this one.
    behind: Option<u64>,
    /// Grants that this gateway's own checks refused, to be told with it.
    refused: BTreeSet<GrantId>,
}

impl Follower {
    /// Admits nothing yet. `floor` is the highest state that this gateway ever saw.
    pub fn new(scope: Scope, floor: Revision, renew_every: Duration) -> Self {
        Self {
            table: Table::new(scope, floor),
            renew_every: renew_every.min(PROBE_EVERY),
            sent: BTreeMap::new(),
            seq: 0,
            last_renew: Instant(0),
            renew_soon: false,
            ending: Ending::default(),
        }
    }

    /// The grants.
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// When [`Self::on_time`] has something to do next.
    pub fn deadline(&self, connected: bool) -> Instant {
        let due = if self.renew_soon { Some(Instant(0)) } else { self.table.renewal_at() };
        let soon = due.unwrap_or(Instant::NEVER).max(self.last_renew.plus(RENEW_MIN));
        let renewal = if connected { soon.min(self.last_renew.plus(self.renew_every)) } else { Instant::NEVER };
        [self.table.next_deadline(), self.ending.again].into_iter().flatten().fold(renewal, Instant::min)
    }

    /// How long a program that cannot be woken otherwise may wait for a message.
    pub fn wait(&self, now: Instant, connected: bool) -> Duration {
        self.deadline(connected).since(now).clamp(Duration::from_millis(1), WAIT_MAX)
    }

    /// A stream was opened: what is asked and acknowledged now is asked and acknowledged on it.
    pub fn on_opened(&mut self, now: Instant, hands: &mut impl Hands) {
        self.sent.clear();
        self.renew(now, hands);
        // What was acknowledged on an earlier stream may not have arrived.
        self.ending.owed = self.ending.acting.is_some();
        self.settle(now, hands);
    }

    /// Time passed: grants end, whatever the controller does; what failed is tried again; a request may be due.
    pub async fn on_time(&mut self, now: Instant, connected: bool, hands: &mut impl Hands) {
        if !self.table.handle_timeout(now).is_empty() {
            self.publish(now, hands).await;
        }
        if self.ending.again.is_none_or(|at| now >= at) {
            self.clear_lingering(now, hands).await;
            self.settle(now, hands);
        }
        let since = now.since(self.last_renew);
        let due = self.renew_soon || self.table.renewal_due(now);
        if connected && (since >= self.renew_every || (due && since >= RENEW_MIN)) {
            self.renew(now, hands);
        }
    }

    fn renew(&mut self, now: Instant, hands: &mut impl Hands) {
        self.renew_soon = false;
        self.seq += 1;
        self.last_renew = now;
        self.sent.insert(self.seq, now);
        while self.sent.len() > RENEWALS_REMEMBERED_MAX {
            self.sent.pop_first();
        }
        let (revision, digest) = (self.table.revision(), self.table.digest());
        hands.renew(self.seq, revision, digest);
    }

    /// Was this request sent on this stream? A life that cannot be counted from one is no life: it is asked for again.
    pub fn base(&mut self, as_of: u64) -> Option<Instant> {
        let base = self.sent.get(&as_of).copied();
        self.renew_soon |= base.is_none();
        base
    }

    /// A table or a change of it, counted from request `as_of`. Answers what was refused.
    pub async fn on_update(&mut self, now: Instant, as_of: u64, update: Update, hands: &mut impl Hands) -> Applied {
        let Some(base) = self.base(as_of) else { return Applied::default() };
        let is_whole = matches!(update, Update::Snapshot(_));
        let applied = self.table.apply(now, base, update);
        if applied.changed {
            self.publish(now, hands).await;
        }
        self.renew_soon |= applied.need_snapshot || applied.renew_now;
        self.ending.refused.extend(applied.refused.iter().map(|(id, _)| *id));
        if applied.renew_now {
            self.ending.behind = Some(self.seq);
        } else if is_whole && applied.applied {
            self.catch_up(as_of);
        }
        if applied.applied {
            self.acts(now, hands);
        }
        applied
    }

    fn catch_up(&mut self, answered: u64) {
        self.ending.behind = self.ending.behind.filter(|behind| answered <= *behind);
    }

    /// The table's state acts, unless a grant of it is missing.
    fn acts(&mut self, now: Instant, hands: &mut impl Hands) {
        if self.ending.behind.is_none() {
            (self.ending.acting, self.ending.owed) = (Some(self.table.revision()), true);
            self.settle(now, hands);
        }
    }

    /// The answer to request `seq`: these lives are extended.
    pub async fn on_renewed(&mut self, now: Instant, seq: u64, lives: &[(GrantId, Duration)], hands: &mut impl Hands) {
        let Some(sent) = self.sent.get(&seq).copied() else { return };
        if !self.table.renewed(now, sent, lives).is_empty() {
            self.publish(now, hands).await;
        }
        if self.ending.behind.is_some() {
            // The tables were equal after all: what was missing has ended.
            self.catch_up(seq);
            self.acts(now, hands);
        }
    }

    /// This gateway's own addresses or its site changed.
    pub async fn set_scope(&mut self, now: Instant, scope: Scope, hands: &mut impl Hands) {
        if self.table.set_scope(now, scope).changed {
            self.publish(now, hands).await;
        }
    }

    async fn publish(&mut self, now: Instant, hands: &mut impl Hands) {
        let closed = hands.publish(self.table.view());
        self.ending.lingering.extend(closed);
        self.clear_lingering(now, hands).await;
    }

    /// What the kernel cannot delete now, it is asked again later.
    async fn clear_lingering(&mut self, now: Instant, hands: &mut impl Hands) {
        self.ending.again = None;
        let addresses = std::mem::take(&mut self.ending.lingering);
        if addresses.is_empty() {
            return;
        }
        self.ending.lingering = hands.forget(addresses).await;
        if !self.ending.lingering.is_empty() {
            self.ending.again = Some(now.plus(SETTLE_RETRY));
        }
    }

    /// Acknowledges what it owes, once nothing of an ended grant is left on this host. What cannot be sent stays owed.
    fn settle(&mut self, now: Instant, hands: &mut impl Hands) {
        let Ending { lingering, acting: Some(revision), owed: true, refused, .. } = &self.ending else { return };
        if !lingering.is_empty() {
            return;
        }
        let refused: Vec<GrantId> = refused.iter().copied().collect();
        match hands.keep(*revision) {
            Some(true) => {
                if hands.acknowledge(*revision, &refused) {
                    (self.ending.owed, self.ending.refused) = (false, BTreeSet::new());
                }
            }
            Some(false) => {}
            None => self.ending.again = Some(now.plus(SETTLE_RETRY)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use grant::sync::{Delta, Snapshot};
    use model::grant::{Grant, Pairing};
    use model::ids::{DeviceId, PairingId, ResourceId};
    use model::key::{Psk, PublicKey};
    use model::net::{PortRange, Protocol, Rule, Target};
    use model::pool::{NatPool, Pool};

    /// What was done, in order; the kernel and the disk do as they are told.
    #[derive(Default)]
    struct Log {
        done: Vec<String>,
        kernel_fails: bool,
        disk_fails: bool,
        requests: Vec<u64>,
    }

    impl Hands for Log {
        fn publish(&mut self, view: Arc<View>) -> Vec<IpAddr> {
            let grants: usize = view.pairings.values().map(|p| p.grants.len()).sum();
            self.done.push(format!("admit {grants}"));
            if grants == 0 { vec![IpAddr::from([198, 18, 0, 1])] } else { Vec::new() }
        }
        async fn forget(&mut self, addresses: BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
            if self.kernel_fails {
                return addresses;
            }
            self.done.push("forget".to_owned());
            BTreeSet::new()
        }
        fn keep(&mut self, revision: Revision) -> Option<bool> {
            (!self.disk_fails).then(|| {
                self.done.push(format!("keep {revision}"));
                true
            })
        }
        fn renew(&mut self, seq: u64, _revision: Revision, _digest: Digest) {
            self.requests.push(seq);
        }
        fn acknowledge(&mut self, revision: Revision, refused: &[GrantId]) -> bool {
            self.done.push(format!("acknowledge {revision}, refused {}", refused.len()));
            true
        }
    }

    const fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    const fn state(number: u64) -> Revision {
        Revision { incarnation: 1, number }
    }

    fn scope() -> Scope {
        Scope {
            pool: Pool::new("10.77.0.0/16".parse().unwrap(), "fd12:3456:789a::/48".parse().unwrap()).unwrap(),
            nat: NatPool { v4: "198.18.0.0/15".parse().unwrap(), v6: "fd99::/48".parse().unwrap() },
            site: vec!["10.1.0.0/16".parse().unwrap()],
            own: Vec::new(),
        }
    }

    /// A grant of two seconds that was given `after` milliseconds after the request from which it is counted.
    fn pair(n: u8, after: u64) -> (Pairing, Grant) {
        let device = DeviceId::from_bytes([n; 10]);
        let pairing = Pairing {
            id: PairingId::from_bytes([n; 10]),
            device,
            client_key: PublicKey([n; 32]),
            psk: Psk::new([n; 32]),
            device_v4: scope().pool.device_v4(u32::from(n)).unwrap(),
            device_v6: scope().pool.node(u64::from(n)),
        };
        let (nat_v4, nat_v6) = scope().nat.pair(u32::from(n)).unwrap();
        let prefix = "10.1.0.9".parse().unwrap();
        let rule =
            Rule { client: prefix, target: Target::Prefix(prefix), protocol: Protocol::Tcp, ports: PortRange::ALL };
        let grant = Grant {
            id: GrantId::from_bytes([n; 10]),
            pairing: pairing.id,
            device,
            resource: ResourceId::from_bytes([n; 10]),
            rules: vec![rule],
            nat_v4,
            nat_v6,
            ends_in: Duration::from_millis(2_000 + after),
            lease: Duration::from_secs(2),
            on_gateway: false,
        };
        (pairing, grant)
    }

    fn snapshot(number: u64, all: &[(Pairing, Grant)]) -> Update {
        let (pairings, grants) = all.iter().cloned().unzip();
        Update::Snapshot(Snapshot { revision: state(number), pairings, grants })
    }

    fn delta(from: u64, to: u64, new: &[(Pairing, Grant)], ended: &[u8]) -> Update {
        let (pairings, grants) = new.iter().cloned().unzip();
        let ended = ended.iter().map(|n| GrantId::from_bytes([*n; 10])).collect();
        Update::Delta(Delta { from: state(from), to: state(to), pairings, grants, ended })
    }

    async fn opened() -> (Follower, Log) {
        let (mut follower, mut log) = (Follower::new(scope(), state(0), PROBE_EVERY), Log::default());
        follower.on_opened(at(10_000), &mut log);
        follower.on_update(at(10_010), 1, snapshot(1, &[pair(1, 0)]), &mut log).await;
        assert_eq!(std::mem::take(&mut log.done), ["admit 1", "keep 1.1", "acknowledge 1.1, refused 0"]);
        (follower, log)
    }

    #[tokio::test]
    async fn an_end_is_acknowledged_last_and_not_before_the_kernel_and_the_disk_have_it() {
        let (mut follower, mut log) = opened().await;
        log.kernel_fails = true;
        follower.on_update(at(10_020), 1, delta(1, 2, &[], &[1]), &mut log).await;
        assert_eq!(log.done, ["admit 0"]);
        (log.kernel_fails, log.disk_fails) = (false, true);
        follower.on_time(at(11_020), true, &mut log).await;
        assert_eq!(log.done, ["admit 0", "forget"]);
        log.disk_fails = false;
        assert_eq!(follower.deadline(true), at(12_020));
        follower.on_time(at(12_020), true, &mut log).await;
        assert_eq!(log.done[2..], ["keep 1.2", "acknowledge 1.2, refused 0"]);
    }

    #[tokio::test]
    async fn so_many_requests_are_remembered_and_an_older_one_counts_for_nothing() {
        let (mut follower, mut log) = opened().await;
        assert_eq!(log.requests, [1]);
        for n in 1..RENEWALS_REMEMBERED_MAX as u64 {
            follower.renew(at(11_000 + n), &mut log);
        }
        assert_eq!(follower.base(1), Some(at(10_000)), "at the limit the first one is known");
        follower.renew(at(12_000), &mut log);
        assert_eq!(follower.sent.len(), RENEWALS_REMEMBERED_MAX);
        assert_eq!(follower.base(1), None, "and asked for again");
        assert!(follower.renew_soon);
        assert_eq!(follower.base(2), Some(at(11_001)));
    }

    #[tokio::test]
    async fn what_could_not_be_taken_is_acknowledged_by_no_later_change() {
        let (mut follower, mut log) = opened().await;
        // Given 1.9 s after the only request: nearly over here.
        follower.on_update(at(11_900), 1, delta(1, 2, &[pair(2, 1_900)], &[]), &mut log).await;
        follower.on_update(at(11_910), 1, delta(2, 3, &[], &[1]), &mut log).await;
        assert_eq!(log.done, ["admit 0", "forget"]);
        follower.on_time(at(11_950), true, &mut log).await;
        assert_eq!(log.requests, [1, 2]);
        follower.on_update(at(11_960), 2, snapshot(3, &[pair(2, 0)]), &mut log).await;
        assert_eq!(log.done[2..], ["admit 1", "keep 1.3", "acknowledge 1.3, refused 0"]);
    }

    #[tokio::test]
    async fn what_could_not_be_taken_and_ended_holds_nothing_up() {
        let (mut follower, mut log) = opened().await;
        follower.on_update(at(11_900), 1, delta(1, 2, &[pair(2, 1_900)], &[]), &mut log).await;
        follower.on_time(at(11_950), true, &mut log).await;
        follower.on_update(at(11_955), 1, delta(2, 3, &[], &[2]), &mut log).await;
        assert!(log.done.is_empty());
        follower.on_renewed(at(11_960), 2, &[], &mut log).await;
        assert_eq!(log.done, ["keep 1.3", "acknowledge 1.3, refused 0"]);
    }
}
