//! What does the controller do with the words of a gateway? Hello, renewal, acknowledgement, report.

use super::state::{Arrangements, StoredBoot, StoredGrant, StoredReach};
use crate::audit::{Entry, Outcome};
use crate::directory::{GatewaySeen, NodeState};
use crate::flows::{FlowRecord, Told};
use crate::judge;
use crate::rate::Act;
use crate::refused::Reason;
use crate::store::{Commit, CommitError};
use grant::record::{Cause, GrantRecord, Live};
use grant::revoke::Selector;
use model::audit::SignedHead;
use model::grant::Ending;
use model::ids::{GatewayId, GrantId, NodeId, SessionId};
use model::key::PublicKey;
use model::limits::COMMIT_KEYS_MAX;
use model::net::HostName;
use model::pool::NatPool;
use model::revision::{Digest, Revision};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

use super::Held;
use super::lines::{DeviceNews, GatewayNews};
use super::review::still_permitted;

/// What a gateway says first.
#[derive(Debug, Clone)]
pub struct Hello {
    /// The highest state that it ever saw.
    pub seen: Revision,
    /// Its NAT pool.
    pub nat: NatPool,
    /// Where it may be reached, best first.
    pub endpoints: Vec<SocketAddr>,
    /// Its release.
    pub version: String,
    /// Random, new at each start.
    pub boot: u64,
    /// Its key in pairings, new at each start.
    pub pairing_key: PublicKey,
    /// Up to where the audit trail went, as far as it was ever told.
    pub witness: Option<SignedHead>,
}

/// Why a gateway is not served.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// Not enrolled, or revoked.
    #[error("this gateway is not enrolled or was revoked; join again with a new join file")]
    Unknown,
    /// This controller is older than what the gateway has seen.
    #[error(
        "this controller's state is older than what the gateway has seen ({0}): an old copy or backup is running; stop it"
    )]
    Behind(Revision),
    /// Its audit trail is shorter than what was witnessed, or another one.
    #[error("this controller's state is older than what the gateway has seen: {0}")]
    Witnessed(String),
    /// Its start, or what it says of itself, was another one each time.
    #[error("this gateway told of too many starts or changes within a minute: wait {0} s")]
    Often(u64),
    /// Its NAT pool is of no use.
    #[error("the gateway's NAT pool overlaps the organisation's pool; choose another with --nat-v4")]
    Nat,
    /// The store.
    #[error(transparent)]
    Store(#[from] CommitError),
}

impl Arrangements {
    /// Whose were these flows? Those of a grant that the gateway does not hold and never held are left out.
    pub async fn attribute(&self, gateway: GatewayId, boot: u64, told: Vec<Told>) -> Vec<FlowRecord> {
        let ledger = self.ledger.lock().await;
        let whose = |grant: GrantId| {
            let live = ledger.live(grant).map(|l| (l.gateway, l.grant.device, l.session, l.grant.resource));
            live.or_else(|| ledger.tombstone(grant).map(|t| (t.gateway, t.device, t.session, t.resource)))
        };
        let attributed = told.into_iter().filter_map(|told| match whose(told.grant) {
            Some((held_by, device, session, resource)) if held_by == gateway => {
                Some(FlowRecord { gateway, boot, device, session, resource, told })
            }
            _ => {
                if self.refused().is_told(Reason::ForeignFlow, &gateway) {
                    tracing::warn!(%gateway, grant = %told.grant, "a gateway tells of a flow of a grant that is not its own");
                }
                None
            }
        });
        attributed.collect()
    }

    /// The live grants of a log-in.
    pub async fn grants_of_session(&self, session: SessionId) -> Vec<Held> {
        let (ledger, at) = (self.ledger.lock().await, self.moment());
        let held = ledger.all().filter(|live| live.session == session);
        let shown =
            |live: &Live| Held { resource: live.grant.resource, gateway: live.gateway, ends: at.to_wall(live.ends) };
        held.map(shown).collect()
    }

    /// A gateway opened its stream.
    pub async fn greet(&self, id: GatewayId, hello: Hello) -> Result<(), HelloError> {
        let directory = self.directory();
        let gateway = directory.gateways.find(&id).filter(|g| g.record.state != NodeState::Revoked);
        let gateway = gateway.ok_or(HelloError::Unknown)?;
        let name = gateway.record.name.as_str().to_owned();
        self.hear_witness(id, &name, hello.witness.as_ref()).await?;
        let pool = directory.org.as_ref().map(|o| o.record.pool).ok_or(HelloError::Unknown)?;
        if hello.nat.v4.overlaps(&pool.v4()) || hello.nat.v6.overlaps(&pool.v6()) {
            return Err(HelloError::Nat);
        }
        let mut ledger = self.ledger.lock().await;
        if ledger.is_behind(hello.seen) && self.store.revision() < hello.seen {
            return Err(HelloError::Behind(hello.seen));
        }
        let boot_key = super::state::key::<StoredBoot>(&id)?;
        let known = self.store.get(&boot_key).await.ok().flatten();
        let known = known.and_then(|i| serde_json::from_slice::<StoredBoot>(&i.value).ok()).map(|b| b.boot);
        let seen = GatewaySeen { id, nat: hello.nat, endpoints: hello.endpoints, version: hello.version };
        let mut commit = Commit::default();
        let is_news = directory.gateways_seen.find(&id).is_none_or(|s| s.record != seen);
        if is_news || known != Some(hello.boot) {
            self.take_start(id)?;
        }
        if is_news {
            commit = commit.put_record(&id, &seen)?;
        }
        let strays = ledger.set_gateway(id, hello.nat);
        if known != Some(hello.boot) {
            commit = commit.put_record(&id, &StoredBoot { boot: hello.boot })?;
            commit = commit.audit(Entry::new(self.clock.wall(), &name, "gateway.start", id.to_string(), Outcome::Done));
            let restarted = ledger.restart_gateway(self.moment(), id);
            for record in &restarted.waiting {
                commit = commit.put_record(&record.id, &StoredGrant(record.clone()))?;
            }
            commit = self.forget_pairings(commit, &restarted.pairings)?;
            for (device, grants) in &restarted.clients {
                for (grant, resource) in grants {
                    let ending = Ending::Restarted;
                    self.lines.tell_device(*device, DeviceNews::Ended { grant: *grant, resource: *resource, ending });
                }
            }
        }
        if !commit.puts.is_empty() {
            self.store.commit(commit).await?;
        }
        if !strays.is_empty() {
            let which = Selector::Any(strays.into_iter().map(Selector::Grant).collect());
            self.end_locked(&mut ledger, &which, Cause::Gateway, &name).await;
        }
        Ok(())
    }

    /// What a hello changes is written to disk: a gateway buys so much of that and no more.
    fn take_start(&self, id: GatewayId) -> Result<(), HelloError> {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = rates.take(self.clock.now(), Act::Start, NodeId::Gateway(id));
        let taken = taken.inspect_err(|_| self.refused().count(Reason::Often));
        taken.map_err(|wait| HelloError::Often(wait.as_millis().div_ceil(1_000).try_into().unwrap_or(u64::MAX)))
    }

    /// "My table is this; may it live on?", received now.
    pub async fn renew(&self, id: GatewayId, seq: u64, revision: Revision, digest: Digest) {
        if self.store.refused().is_some() {
            return;
        }
        let at = self.moment();
        let directory = self.directory();
        let mut ledger = self.ledger.lock().await;
        let first = self.lines.with_gateway(id, |line| line.as_of.replace((seq, at.now)).is_none());
        if first == Some(true) {
            // Ready from now on: whoever waits for a gateway looks again.
            self.acks.send_modify(|n| *n += 1);
        }
        let mut permitted = |live: &Live| still_permitted(&directory, live, at);
        let renewal = ledger.renew(at, id, revision, digest, &mut permitted);
        let Some(renewal) = renewal else {
            // The tables differ: everything anew.
            self.lines.with_gateway(id, |line| line.sent = None);
            self.push(&mut ledger, id);
            return;
        };
        let told: Vec<_> = renewal
            .lives
            .iter()
            .filter_map(|(grant, life)| ledger.live(*grant).map(|l| (l.grant.device, *grant, *life)))
            .collect();
        if !renewal.records.is_empty() && !self.keep_lives(&renewal.records).await {
            return;
        }
        self.lines.with_gateway(id, |line| {
            // Equal tables are as good as a snapshot just sent.
            line.sent = Some(line.sent.unwrap_or(revision).max(revision));
            line.send(GatewayNews::Renewed { seq, lives: renewal.lives })
        });
        self.push(&mut ledger, id);
        drop(ledger);
        for (device, grant, ends_in) in told {
            self.lines.tell_device(device, DeviceNews::Renewed { grant, ends_in });
        }
    }

    /// Longer lives are durable before a gateway hears of them.
    async fn keep_lives(&self, records: &[GrantRecord]) -> bool {
        let mut commit = Commit::default();
        for record in records {
            match commit.clone().put_record(&record.id, &StoredGrant(record.clone())) {
                Ok(next) => commit = next,
                Err(error) => tracing::error!(%error, "a grant's new life could not be written down"),
            }
        }
        match self.store.commit(commit).await {
            Ok(_) => true,
            Err(error) => {
                tracing::error!(%error, "no grant is renewed");
                false
            }
        }
    }

    /// All up to `revision` acts at the gateway, except what its own checks refused. The gateway says so.
    pub async fn acknowledge(&self, id: GatewayId, revision: Revision, refused: Vec<GrantId>) {
        let now = self.clock.now();
        let mut ledger = self.ledger.lock().await;
        ledger.ack(id, revision);
        self.lines.with_gateway(id, |line| {
            if let Some(asked) = line.asked.take() {
                line.rtt = now.since(asked);
            }
        });
        // It can act only on grants that are addressed to it.
        let own: Vec<Selector> = refused
            .into_iter()
            .filter(|g| ledger.live(*g).is_some_and(|l| l.gateway == id))
            .map(Selector::Grant)
            .collect();
        if !own.is_empty() {
            self.end_locked(&mut ledger, &Selector::Any(own), Cause::Refused, &id.to_string()).await;
        }
        drop(ledger);
        self.acks.send_modify(|n| *n += 1);
    }

    /// Names that the gateway reaches over IPv6: it decides only whether a catalogue shows an IPv6 address. What is new is written
    /// down beside the gateway's stream, which waits for no disk.
    pub fn report_v6_names(&self, id: GatewayId, names: impl IntoIterator<Item = HostName>) {
        let directory = self.directory();
        let confirmed = directory.gateways.find(&id).filter(|g| g.record.state == NodeState::Confirmed);
        let Some(site) = confirmed.map(|g| g.record.site) else { return };
        let known = names.into_iter().filter(|name| judge::is_name_of_site(&directory, site, name));
        let news: Vec<_> = known.filter_map(|name| self.set_reach(id, site, name)).collect();
        if news.iter().any(|(_, shows)| *shows) {
            self.lines.tell_all_devices();
        }
        if news.is_empty() {
            return;
        }
        let store = Arc::clone(&self.store);
        tokio::spawn(async move {
            for some in news.chunks(COMMIT_KEYS_MAX) {
                let put = |commit: Commit, (told, _): &(StoredReach, bool)| commit.put_record(&*told.id(), told);
                let kept = match some.iter().try_fold(Commit::default(), put) {
                    Ok(commit) => store.commit(commit).await.map(drop),
                    Err(error) => Err(error),
                };
                if let Err(error) = kept {
                    tracing::warn!(%error, "which names a gateway reaches over IPv6 is not kept; it says so again after the next start");
                }
            }
        });
    }

    /// The gateway's standing, for its snapshot: site prefixes, whether it is confirmed, and, if so, the names to look up.
    pub fn standing_of(&self, id: GatewayId) -> Option<(Vec<model::net::Prefix>, bool, Vec<HostName>)> {
        let directory = self.directory();
        let gateway = &directory.gateways.find(&id)?.record;
        let prefixes = directory.sites.find(&gateway.site).map(|s| s.record.prefixes.clone()).unwrap_or_default();
        let confirmed = gateway.state == NodeState::Confirmed;
        let names = if confirmed { judge::names_of_site(&directory, gateway.site) } else { BTreeSet::new() };
        let names = names.into_iter().take(model::limits::LIST_MAX).collect();
        Some((prefixes, confirmed, names))
    }

    /// Sends every gateway of the list a fresh snapshot, because its standing changed.
    pub(super) async fn refresh_gateways(&self, ids: impl IntoIterator<Item = GatewayId>) {
        let mut ledger = self.ledger.lock().await;
        for id in ids {
            self.lines.with_gateway(id, |line| line.sent = None);
            self.push(&mut ledger, id);
        }
    }
}
