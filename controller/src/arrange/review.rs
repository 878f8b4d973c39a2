//! Which live grants does a change end? Every grant that the change may concern is decided again at once; all of them
//! each 5 s, because time and ages change by themselves.

use super::state::{Arrangements, Review};
use crate::audit::Denied;
use crate::directory::{
    Account, Device, Directory, Fact, Gateway, Idp, NodeState, PolicyRevision, Resource, Session, Site, SuffixName,
    User,
};
use crate::judge::{self, Verdict};
use crate::store::{Commit, Record as _};
use grant::lease::Moment;
use grant::ledger::Terms;
use grant::record::{Cause, Live};
use model::ids::{GatewayId, GrantId, NodeId, SiteId};
use model::limits::{COMMIT_AUDIT_MAX, LAST_WORDS, REVIEWS_MAX};
use model::net::Rule;
use model::revision::Revision;
use model::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// How often ends by time are looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);

/// New names below suffixes reach gateways together, this often at most: each is a whole snapshot.
const NAMES_TOLD_EVERY: Duration = Duration::from_millis(100);

/// What a review found about one grant.
#[derive(Debug)]
pub enum Finding {
    /// It is permitted as it is.
    Fine,
    /// It is not permitted any more.
    End(Cause),
    /// Still permitted, but it leads elsewhere or lives otherwise now.
    Amend(Box<Terms>),
}

/// Decides a live grant again.
pub fn find(directory: &Directory, live: &Live, at: Moment) -> Finding {
    let gateway = directory.gateways.find(&live.gateway);
    if gateway.is_none_or(|g| g.record.state != NodeState::Confirmed) {
        return Finding::End(Cause::Gateway);
    }
    let ground = match judge::judge(directory, live.grant.device, live.grant.resource, at.wall) {
        Ok(Verdict::Permit(ground)) => ground,
        Ok(Verdict::Unknown) if directory.resources.find(&live.grant.resource).is_none() => {
            return Finding::End(Cause::Resource);
        }
        Ok(Verdict::Deny { .. } | Verdict::Unknown) => return Finding::End(Cause::Policy),
        Err(judge::Standing::Device | judge::Standing::Pending) => return Finding::End(Cause::Device),
        Err(judge::Standing::Session | judge::Standing::Provider) => return Finding::End(Cause::Session),
        // The second never is: nobody asks for a person here.
        Err(judge::Standing::User | judge::Standing::Workload | judge::Standing::Account) => {
            return Finding::End(Cause::User);
        }
    };
    if ground.asker.session() != live.session || ground.asker.id() != live.user {
        return Finding::End(Cause::Session);
    }
    if gateway.is_some_and(|g| g.record.site != ground.resource.record.site) {
        return Finding::End(Cause::Resource);
    }
    let Some(org) = &directory.org else { return Finding::End(Cause::Policy) };
    let Ok(rules) = ground.rules(directory, &org.record.pool) else { return Finding::End(Cause::Resource) };
    let resource = &ground.resource.record;
    let same: fn(&[Rule]) -> BTreeSet<&Rule> = |rules| rules.iter().collect();
    if same(&rules) == same(&live.grant.rules)
        && resource.lease() == live.grant.lease
        && resource.on_gateway == live.grant.on_gateway
    {
        return Finding::Fine;
    }
    let until = at.to_instant(ground.asker.ends());
    Finding::Amend(Box::new(Terms { rules, lease: resource.lease(), on_gateway: resource.on_gateway, until }))
}

/// Is a live grant still permitted, and until when may it be renewed?
pub fn still_permitted(directory: &Directory, live: &Live, at: Moment) -> Option<Instant> {
    match judge::judge(directory, live.grant.device, live.grant.resource, at.wall) {
        Ok(Verdict::Permit(ground)) if ground.asker.session() == live.session && ground.asker.id() == live.user => {
            Some(at.to_instant(ground.asker.ends()))
        }
        _ => None,
    }
}

/// Heads of the sets of [`heads`], in its order.
type Heads = [u64; 10];

/// The parts of the directory on which decisions stand.
fn heads(directory: &Directory) -> Heads {
    [
        Idp::KIND,
        Account::KIND,
        User::KIND,
        Device::KIND,
        Session::KIND,
        Resource::KIND,
        Site::KIND,
        Gateway::KIND,
        PolicyRevision::KIND,
        SuffixName::KIND,
    ]
    .map(|set| directory.head(set))
}

/// Which gateways have to be told more than the review tells them?
#[derive(Debug, PartialEq, Eq)]
enum Changed {
    /// All: resources, sites or gateways changed.
    Standing,
    /// Those of these sites: there are new names below suffixes.
    Names(BTreeSet<SiteId>),
    /// None.
    Other,
}

impl Changed {
    fn between(directory: &Directory, before: &Heads, now: &Heads) -> Self {
        let [.., resources, sites, gateways, _, names] = before;
        let [.., resources_now, sites_now, gateways_now, _, names_now] = now;
        if [resources_now, sites_now, gateways_now] != [resources, sites, gateways] {
            return Self::Standing;
        }
        if names_now == names {
            return Self::Other;
        }
        // None of them goes without its resource.
        let sites = judge::sites_with_names_after(directory, *names);
        if sites.is_empty() { Self::Other } else { Self::Names(sites) }
    }
}

impl Arrangements {
    /// Reviews for as long as the program runs: what changed at once, and all of it each `every`.
    pub async fn review_forever(self: Arc<Self>, every: Duration) {
        let mut reader = self.reader.clone();
        let mut seen = heads(&self.directory());
        let mut expire = tokio::time::interval(EXPIRE_EVERY);
        let mut every = tokio::time::interval(every);
        let mut names = tokio::time::interval(NAMES_TOLD_EVERY);
        names.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut renamed = BTreeSet::new();
        let mut looked = self.clock.wall();
        self.review(&self.directory()).await;
        loop {
            tokio::select! {
                fresh = reader.next() => {
                    let Some(directory) = fresh else { return };
                    let now = heads(&directory);
                    if now == seen {
                        self.mark(directory.revision, Vec::new());
                        continue;
                    }
                    let changed = Changed::between(&directory, &seen, &now);
                    seen = now;
                    self.review(&directory).await;
                    self.close_revoked(&directory);
                    self.forget_reach(&directory);
                    match changed {
                        Changed::Standing => {
                            renamed.clear();
                            self.refresh_gateways(directory.gateways.values().map(|g| g.record.id)).await;
                        }
                        Changed::Names(sites) => renamed.extend(sites),
                        Changed::Other => {}
                    }
                    self.lines.tell_all_devices();
                }
                _ = names.tick(), if !renamed.is_empty() => {
                    let (sites, directory) = (std::mem::take(&mut renamed), self.directory());
                    let of = |g: &&Fact<Gateway>| sites.contains(&g.record.site);
                    self.refresh_gateways(directory.gateways.values().filter(of).map(|g| g.record.id)).await;
                }
                _ = expire.tick() => {
                    self.expire().await;
                    let wall = self.clock.wall();
                    let directory = self.directory();
                    // A session that ends by time changes no record, but what its device may see.
                    let over = |s: &Fact<Session>| s.record.ends > looked && s.record.ends <= wall;
                    if directory.sessions.values().any(over) {
                        self.review(&directory).await;
                        self.lines.tell_all_devices();
                    }
                    looked = wall;
                    self.end_what_is_over(wall).await;
                }
                _ = every.tick() => {
                    let directory = self.directory();
                    self.review(&directory).await;
                    if let Err(error) = self.write_ends(&*self.ledger.lock().await).await {
                        tracing::warn!(%error, "ends of grants still wait to be written down");
                    }
                    self.write_denies().await;
                }
            }
        }
    }

    /// Decides every live grant again.
    async fn review(&self, directory: &Directory) {
        let lives: Vec<Live> = self.ledger.lock().await.all().cloned().collect();
        let at = self.moment();
        let mut ends: BTreeMap<Cause, Vec<GrantId>> = BTreeMap::new();
        let mut amends: Vec<(GrantId, Terms)> = Vec::new();
        for live in &lives {
            match find(directory, live, at) {
                Finding::Fine => {}
                Finding::End(cause) => ends.entry(cause).or_default().push(live.grant.id),
                Finding::Amend(terms) => amends.push((live.grant.id, *terms)),
            }
        }
        let ended_at = self.end(ends, "controller").await;
        for (grant, terms) in amends {
            self.amend(grant, terms).await;
        }
        self.mark(directory.revision, ended_at);
    }

    fn mark(&self, saw: Revision, ended_at: Vec<Revision>) {
        if !ended_at.is_empty() {
            let mut reviews = self.reviews.lock().unwrap_or_else(PoisonError::into_inner);
            reviews.push_back(Review { saw, ended_at });
            if reviews.len() > REVIEWS_MAX {
                reviews.pop_front();
            }
        }
        self.reviewed.send_modify(|r| *r = (*r).max(saw));
    }

    /// Other terms for a live grant, durable before the gateway hears of them.
    async fn amend(&self, grant: GrantId, terms: Terms) {
        let mut ledger = self.ledger.lock().await;
        let Ok(record) = ledger.amend(self.moment(), grant, terms) else { return };
        let gateway = record.gateway;
        let commit = Commit::default().put_record(&grant, &super::state::StoredGrant(record));
        let revision = match (self.write_ends(&ledger).await, commit) {
            (Ok(()), Ok(commit)) => self.store.commit(commit).await,
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        match revision {
            Ok(revision) => {
                if ledger.commit(grant, revision).is_ok() {
                    self.push(&mut ledger, gateway);
                }
            }
            Err(error) => {
                tracing::error!(%error, "a changed grant could not be written down; it ends");
                ledger.abandon(grant);
                let which = grant::revoke::Selector::Grant(grant);
                self.end_locked(&mut ledger, &which, Cause::Resource, "controller").await;
            }
        }
    }

    /// Ends by time, and tombstones that have done their duty.
    async fn expire(&self) {
        let mut ledger = self.ledger.lock().await;
        let now = self.clock.now();
        let over = ledger.expired(now);
        if !over.is_empty() {
            let which = grant::revoke::Selector::Any(over.into_iter().map(grant::revoke::Selector::Grant).collect());
            self.end_locked(&mut ledger, &which, Cause::Expired, "controller").await;
        }
        let buried = ledger.bury(now);
        drop(ledger);
        let keys = buried.iter().filter_map(|id| super::state::key::<super::state::StoredTombstone>(id).ok());
        let commit = keys.fold(Commit::default(), Commit::delete);
        if !commit.deletes.is_empty()
            && let Err(error) = self.store.commit(commit).await
        {
            tracing::warn!(%error, "old tombstones stay for now");
        }
    }

    /// A revoked node's connections end as soon as it can have heard what that ends, so that an honest one stops; its certificate
    /// would let them live.
    fn close_revoked(self: &Arc<Self>, directory: &Directory) {
        let revoked = |state: NodeState| state == NodeState::Revoked;
        let devices =
            directory.devices.values().filter(|d| revoked(d.record.state)).map(|d| NodeId::Device(d.record.id));
        let gateways = directory.gateways.values().filter(|g| revoked(g.record.state));
        let nodes: Vec<NodeId> = devices.chain(gateways.map(|g| NodeId::Gateway(g.record.id))).collect();
        if nodes.is_empty() {
            return;
        }
        let arrangements = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(LAST_WORDS).await;
            for node in nodes {
                arrangements.connections.close(node);
            }
        });
    }

    /// Counts a deny; the first of its kind is written at once, repeats together later.
    pub async fn record_deny(&self, denied: Denied) {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        let entry = self.denies.lock().unwrap_or_else(PoisonError::into_inner).record(now, wall, denied);
        if let Some(entry) = entry {
            self.write_entries(vec![entry]).await;
        }
    }

    async fn write_denies(&self) {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        let due = self.denies.lock().unwrap_or_else(PoisonError::into_inner).due(now, wall);
        if !due.is_empty() {
            self.write_entries(due).await;
        }
    }

    /// Writes what was counted so far: the controller stops.
    pub async fn flush_denies(&self) {
        let wall = self.clock.wall();
        let counted = self.denies.lock().unwrap_or_else(PoisonError::into_inner).flush(wall);
        self.write_entries(counted).await;
    }

    /// The grants of a device that live.
    pub async fn grants_of(&self, device: model::ids::DeviceId) -> Vec<GrantId> {
        let ledger = self.ledger.lock().await;
        ledger.all().filter(|l| l.grant.device == device && !l.waiting).map(|l| l.grant.id).collect()
    }

    async fn write_entries(&self, entries: Vec<crate::audit::Entry>) {
        // A commit takes fewer than can be due at once.
        for some in entries.chunks(COMMIT_AUDIT_MAX) {
            if let Err(error) = self.store.commit(Commit { audit: some.to_vec(), ..Commit::default() }).await {
                tracing::error!(%error, "denies could not be written to the audit trail");
            }
        }
    }

    /// Who holds grants through which gateway: for `session list` and `device list`.
    pub async fn live_grants(&self) -> Vec<(GatewayId, Live)> {
        self.ledger.lock().await.all().map(|l| (l.gateway, l.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::arrange::Arrangements;
    use crate::audit::{Denied, Query, Record};
    use crate::init::tests::made;
    use crate::rpc::accept::Connections;
    use crate::test_support::{Folder, Still};
    use model::limits::{COMMIT_AUDIT_MAX, DENY_KEYS_PER_ACTOR_MAX, DENY_WINDOW, REVIEWS_MAX};
    use model::revision::Revision;
    use model::time::Clock;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    /// How many refusals a trail tells of.
    fn told(records: &[Record]) -> u64 {
        records.iter().map(|r| r.detail.get("repeated").and_then(serde_json::Value::as_u64).unwrap_or(1)).sum()
    }

    #[tokio::test]
    async fn as_many_reviews_are_remembered_as_the_limit_says() {
        let folder = Folder::new();
        let (organisation, _) = made(&folder).await;
        let arrangements = Arrangements::restore(
            Arc::clone(&organisation.store),
            organisation.directory.clone(),
            Arc::clone(&organisation.sealer),
            Arc::new(Still::default()),
            Arc::new(Connections::default()),
        )
        .await
        .unwrap();
        let at = |number: usize| Revision { incarnation: 1, number: number as u64 };
        let seen = || arrangements.reviews.lock().unwrap().iter().map(|r| r.saw).collect::<Vec<_>>();
        (1..=REVIEWS_MAX).for_each(|n| arrangements.mark(at(n), vec![at(n)]));
        assert_eq!((seen().len(), seen()[0]), (REVIEWS_MAX, at(1)));
        arrangements.mark(at(REVIEWS_MAX + 1), vec![at(REVIEWS_MAX + 1)]);
        assert_eq!((seen().len(), seen()[0]), (REVIEWS_MAX, at(2)), "the oldest goes");
        arrangements.mark(at(REVIEWS_MAX + 2), Vec::new());
        assert_eq!(seen().len(), REVIEWS_MAX, "one that ended nothing takes no place");
        assert_eq!(*arrangements.reviewed.borrow(), at(REVIEWS_MAX + 2));
    }

    #[tokio::test]
    async fn ten_thousand_refused_requests_cost_few_records_and_each_is_counted() {
        const ACTORS: usize = 40;
        const REQUESTS: usize = 10_000;
        let folder = Folder::new();
        let (organisation, _) = made(&folder).await;
        let clock = Arc::new(Still::default());
        let arrangements = Arrangements::restore(
            Arc::clone(&organisation.store),
            organisation.directory.clone(),
            Arc::clone(&organisation.sealer),
            Arc::clone(&clock) as Arc<dyn Clock>,
            Arc::new(Connections::default()),
        )
        .await
        .unwrap();
        let before = organisation.store.audit_head().1.seq;
        for n in 0..REQUESTS {
            let denied = Denied {
                actor: format!("device:{}", n % ACTORS),
                action: "connect".into(),
                object: format!("re-{}", n / ACTORS % 125),
                reason: "no policy permits it".into(),
            };
            arrangements.record_deny(denied).await;
        }
        let at_once = organisation.store.audit_head().1.seq - before;
        assert_eq!(at_once, (ACTORS * (DENY_KEYS_PER_ACTOR_MAX + 1)) as u64);
        // More counts than one commit takes are due together, and none is lost.
        assert!(at_once > COMMIT_AUDIT_MAX as u64);
        clock.0.store(u64::try_from(DENY_WINDOW.as_nanos()).unwrap(), Ordering::Relaxed);
        arrangements.write_denies().await;
        arrangements.write_denies().await;
        let written = organisation.store.audit_head().1.seq - before;
        assert_eq!(written, 2 * at_once);
        let denies =
            Query { limit: REQUESTS, action: None, outcome: Some(crate::audit::Outcome::Deny), ..Query::default() };
        let records = organisation.store.audit(denies.clone()).await.unwrap();
        assert_eq!(told(&records), REQUESTS as u64);
        // What is counted when the controller stops is written, too.
        for _ in 0..10 {
            let [actor, action] = ["device:x", "login"].map(str::to_owned);
            arrangements.record_deny(Denied { actor, action, object: "u".into(), reason: "r".into() }).await;
        }
        arrangements.flush_denies().await;
        let records = organisation.store.audit(denies).await.unwrap();
        assert_eq!(told(&records), REQUESTS as u64 + 10);
    }
}
