//! From a wish to a grant: decide with what is true now, commit on exactly those facts, arrange it at a gateway, answer
//! when the gateway enforces it.

use super::state::{Arrangements, StoredGrant, StoredPairing};
use crate::audit::{Denied, Entry, Outcome};
use crate::directory::{Directory, Method};
use crate::judge::{self, Ground, Verdict};
use crate::store::{Commit, CommitError};
use grant::ledger::{Granted, LedgerError, Permit};
use grant::record::Cause;
use grant::revoke::Selector;
use host::entropy;
use model::grant::PairingOffer;
use model::ids::{DeviceId, GatewayId, GrantId, PairingId, ResourceId};
use model::key::{Psk, PublicKey};
use model::limits::{CHANGE_TRIES_MAX, DENY_HOLD};
use model::net::Rule;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// The shortest wait for a gateway's acknowledgement.
const ACK_MIN: Duration = Duration::from_millis(300);
/// The wait for the last gateway that is left: nothing is gained by giving up sooner.
const LAST_ACK_MAX: Duration = Duration::from_secs(3);
/// The wait for a gateway where none has a stream.
pub(super) const GATEWAY_WAIT_MAX: Duration = Duration::from_secs(3);
/// What a client that was refused for a passing reason waits: a gateway that starts is ready in less.
const SOON: Duration = Duration::from_secs(1);

/// What a client is told while the disk is full or fails; the administrator is told more.
const NOT_WRITTEN: &str = "the controller cannot write to its store";

/// What a client is told where no gateway of the site is confirmed.
const NO_GATEWAY: &str = "its site has no gateway; tell your administrator";

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Which device asks.
    pub device: DeviceId,
    /// For what.
    pub resource: ResourceId,
    /// Its fresh data key.
    pub data_key: PublicKey,
    /// The tunnels that it holds.
    pub held: Vec<PairingId>,
    /// Gateways that did not answer it.
    pub avoid: Vec<GatewayId>,
    /// A grant that it holds in a tunnel with old keys: to be moved into another, with its flows.
    pub moves: Option<GrantId>,
}

/// What it gets.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Access.
    Permit {
        /// The grant.
        grant: GrantId,
        /// Its tunnel.
        pairing: PairingId,
        /// The tunnel's far end, if it is new.
        offer: Option<PairingOffer>,
        /// What may be sent.
        rules: Vec<Rule>,
        /// How long.
        ends_in: Duration,
    },
    /// None, for these reasons.
    Deny {
        /// For the person.
        reasons: Vec<String>,
        /// When to ask again.
        retry_after: Duration,
        /// Nobody's will: the same question may be answered otherwise in a moment.
        passing: bool,
        /// The methods by which a second factor, given now, would make it a yes.
        step_up: Vec<Method>,
    },
}

/// What came of one attempt at one gateway.
enum Attempt {
    Done(Reply),
    /// The gateway did not answer: the next one.
    Unreached,
    /// A fact changed: decide again.
    Again,
}

impl Arrangements {
    /// Decides and arranges.
    pub async fn connect(&self, wish: &Wish) -> Reply {
        for _ in 0..CHANGE_TRIES_MAX {
            let directory = self.reader.at_least(self.store.revision()).await;
            let wall = self.clock.wall();
            let ground = match judge::judge(&directory, wish.device, wish.resource, wall) {
                Ok(Verdict::Permit(ground)) => ground,
                Ok(Verdict::Deny { reasons, step_up }) => return self.deny(wish, reasons, step_up).await,
                Ok(Verdict::Unknown) => {
                    return self.deny(wish, vec!["there is no such resource".to_owned()], Vec::new()).await;
                }
                Err(standing) => return self.deny(wish, vec![standing.to_string()], Vec::new()).await,
            };
            match self.arrange(&directory, wish, &ground).await {
                Attempt::Done(reply) => return reply,
                Attempt::Unreached => return passing("no gateway of its site is reachable at the moment"),
                Attempt::Again => {}
            }
        }
        passing("too much is being changed at the moment")
    }

    /// Records a deny, aggregated, and answers it.
    async fn deny(&self, wish: &Wish, reasons: Vec<String>, step_up: Vec<Method>) -> Reply {
        let denied = Denied {
            actor: wish.device.to_string(),
            action: "connect".to_owned(),
            object: wish.resource.to_string(),
            reason: reasons.join("; "),
        };
        self.record_deny(denied).await;
        Reply::Deny { reasons, retry_after: DENY_HOLD, passing: false, step_up }
    }

    async fn arrange(&self, directory: &Directory, wish: &Wish, ground: &Ground<'_>) -> Attempt {
        let Some(org) = &directory.org else { return Attempt::Unreached };
        let rules = match ground.rules(directory, &org.record.pool) {
            Ok(rules) => rules,
            Err(why) => {
                return Attempt::Done(refusal(vec![why]));
            }
        };
        // None that could come: only an administrator can help.
        if judge::gateways_of(directory, ground.site.record.id).next().is_none() {
            return Attempt::Done(refusal(vec![NO_GATEWAY.to_owned()]));
        }
        let mut candidates = self.awaited_candidates(directory, wish, ground).await.into_iter().peekable();
        while let Some(gateway) = candidates.next() {
            let patience = if candidates.peek().is_some() { self.patience(gateway) } else { LAST_ACK_MAX };
            match self.arrange_at(directory, wish, ground, &rules, (gateway, patience)).await {
                Attempt::Unreached => tracing::warn!(%gateway, "no acknowledgement in time; the next gateway is asked"),
                done => return done,
            }
        }
        Attempt::Unreached
    }

    /// The healthy gateways; when there is none, the first to come within [`GATEWAY_WAIT_MAX`]: after a restart of the
    /// controller, clients are often back before the gateway is.
    async fn awaited_candidates(&self, directory: &Directory, wish: &Wish, ground: &Ground<'_>) -> Vec<GatewayId> {
        let mut heard = self.acks.subscribe();
        let wait = async {
            loop {
                let found = self.candidates(directory, wish, ground).await;
                if !found.is_empty() || heard.changed().await.is_err() {
                    return found;
                }
            }
        };
        tokio::time::timeout(GATEWAY_WAIT_MAX, wait).await.unwrap_or_default()
    }

    /// How long a gateway may take to acknowledge while there is another: three round trips, at least 300 ms.
    fn patience(&self, gateway: GatewayId) -> Duration {
        let rtt = self.lines.ready_gateways().get(&gateway).copied().unwrap_or_default();
        ACK_MIN.max(rtt * 3)
    }

    /// Healthy gateways of the site: first where the device has a tunnel already, then by round-trip time.
    async fn candidates(&self, directory: &Directory, wish: &Wish, ground: &Ground<'_>) -> Vec<GatewayId> {
        let ready = self.lines.ready_gateways();
        let held: Vec<GatewayId> = {
            let ledger = self.ledger.lock().await;
            let tunnels = wish.held.iter().filter_map(|p| ledger.pairing(*p)).map(|(gateway, _)| gateway);
            match wish.moves.and_then(|id| ledger.live(id)).filter(|live| live.grant.device == wish.device) {
                // Its flows live there alone.
                Some(live) => vec![live.gateway],
                None => tunnels.collect(),
            }
        };
        let site = ground.site.record.id;
        let mut list: Vec<_> = judge::gateways_of(directory, site)
            .map(|g| g.record.id)
            .filter(|id| !wish.avoid.contains(id))
            .filter_map(|id| ready.get(&id).map(|rtt| (!held.contains(&id), *rtt, id)))
            .collect();
        list.sort();
        list.into_iter().map(|(_, _, id)| id).collect()
    }

    async fn arrange_at(
        &self,
        directory: &Directory,
        wish: &Wish,
        ground: &Ground<'_>,
        rules: &[Rule],
        (gateway, patience): (GatewayId, Duration),
    ) -> Attempt {
        let permit = match self.permit(directory, wish, ground, rules, gateway) {
            Ok(permit) => permit,
            Err(why) => return Attempt::Done(passing(&why)),
        };
        let mut ledger = self.ledger.lock().await;
        if let Err(error) = self.write_ends(&ledger).await {
            tracing::error!(%error, "a grant could not be written down");
            return Attempt::Done(passing(NOT_WRITTEN));
        }
        let granted = match ledger.grant(self.moment(), permit) {
            Ok(granted) => granted,
            Err(LedgerError::Busy) => return Attempt::Again,
            Err(LedgerError::Gateway(_) | LedgerError::Full(_)) => return Attempt::Unreached,
            // Only giving something back, or time, helps: asking each second does not.
            Err(full @ (LedgerError::Device(_) | LedgerError::Tombstones(_) | LedgerError::Pairings(_))) => {
                drop(ledger);
                return Attempt::Done(self.deny(wish, vec![full.to_string()], Vec::new()).await);
            }
            Err(other) => return Attempt::Done(passing(&other.to_string())),
        };
        let revision = match self.write(directory, ground, &granted).await {
            Ok(revision) => revision,
            Err(error) => {
                ledger.abandon(granted.grant);
                return match error {
                    CommitError::Conflict { .. } => Attempt::Again,
                    other => {
                        tracing::error!(error = %other, "a grant could not be written down");
                        Attempt::Done(passing(NOT_WRITTEN))
                    }
                };
            }
        };
        if ledger.commit(granted.grant, revision).is_err() {
            return Attempt::Again;
        }
        let sent = self.clock.now();
        self.lines.with_gateway(gateway, |line| line.asked = Some(sent));
        self.push(&mut ledger, gateway);
        drop(ledger);
        if !self.acknowledged(gateway, revision, patience).await {
            self.end(BTreeMap::from([(Cause::Unreached, vec![granted.grant])]), "controller").await;
            return Attempt::Unreached;
        }
        {
            let ledger = self.ledger.lock().await;
            if ledger.live(granted.grant).is_none() {
                // A fact changed meanwhile and a review ended it; or the gateway refused it, and would again.
                let cause = ledger.tombstone(granted.grant).map(|t| t.cause);
                return if cause == Some(Cause::Refused) { Attempt::Done(refused()) } else { Attempt::Again };
            }
        }
        self.end(BTreeMap::from([(Cause::Replaced, granted.replaces.clone())]), "controller").await;
        Attempt::Done(self.permitted(directory, gateway, rules, granted))
    }

    fn permit(
        &self,
        directory: &Directory,
        wish: &Wish,
        ground: &Ground<'_>,
        rules: &[Rule],
        gateway: GatewayId,
    ) -> Result<Permit, String> {
        let pool = directory.org.as_ref().map(|o| o.record.pool).ok_or("the store holds no organisation")?;
        let random = |e: entropy::EntropyError| e.to_string();
        let device = &ground.asker.device().record;
        Ok(Permit {
            device: wish.device,
            session: ground.asker.session(),
            user: ground.asker.id(),
            resource: wish.resource,
            gateway,
            rules: rules.to_vec(),
            lease: ground.resource.record.lease(),
            on_gateway: ground.resource.record.on_gateway,
            until: self.moment().to_instant(ground.asker.ends()),
            data_key: wish.data_key,
            device_v4: pool.device_v4(device.v4).ok_or("the device has no IPv4 address")?,
            device_v6: device.address,
            held: wish.held.clone(),
            moves: wish.moves,
            fresh_grant: GrantId::from_bytes(entropy::random().map_err(random)?),
            fresh_pairing: PairingId::from_bytes(entropy::random().map_err(random)?),
            fresh_psk: Psk::new(entropy::random().map_err(random)?),
        })
    }

    /// The grant and its audit record in one transaction that asserts the revision of every fact of the decision.
    async fn write(
        &self,
        directory: &Directory,
        ground: &Ground<'_>,
        granted: &Granted,
    ) -> Result<model::revision::Revision, CommitError> {
        let device = ground.asker.device().record.id;
        let entry = Entry::new(
            self.clock.wall(),
            ground.asker.name().as_str(),
            "connect",
            ground.resource.record.name.as_str(),
            Outcome::Permit,
        )
        .with("grant", granted.grant.to_string())
        .with("device", device.to_string())
        .with("gateway", granted.record.gateway.to_string())
        .with("policies", ground.policies.clone());
        let mut commit = Commit { expect: ground.expectations(directory), audit: vec![entry], ..Commit::default() };
        commit = commit.put_record(&granted.grant, &StoredGrant(granted.record.clone()))?;
        if let (Some(record), Some(psk)) = (&granted.pairing_record, &granted.new_pairing) {
            let place = format!("{}/{}", <StoredPairing as crate::store::Record>::KIND, record.id);
            let sealed = self.sealer.seal(&place, psk.expose()).map_err(|e| CommitError::Invalid(e.to_string()))?;
            commit = commit.put_record(&record.id, &StoredPairing { record: record.clone(), psk: sealed })?;
        }
        if let Some(left) = &granted.leaves {
            commit = commit.delete_record::<StoredPairing>(left)?;
        }
        self.store.commit(commit).await
    }

    /// Waits for a gateway's acknowledgement.
    async fn acknowledged(&self, gateway: GatewayId, revision: model::revision::Revision, patience: Duration) -> bool {
        let mut acks = self.acks.subscribe();
        let wait = async {
            while !self.ledger.lock().await.is_confirmed(gateway, revision) {
                if acks.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(patience, wait).await.unwrap_or(false)
    }

    fn permitted(&self, directory: &Directory, gateway: GatewayId, rules: &[Rule], granted: Granted) -> Reply {
        let offer = granted.new_pairing.and_then(|psk| {
            Some(PairingOffer {
                id: granted.pairing,
                gateway,
                gateway_key: self.lines.pairing_key(gateway)?,
                endpoints: self.endpoints(directory, gateway),
                psk,
            })
        });
        Reply::Permit {
            grant: granted.grant,
            pairing: granted.pairing,
            offer,
            rules: rules.to_vec(),
            ends_in: granted.ends.since(self.clock.now()),
        }
    }

    fn endpoints(&self, directory: &Directory, gateway: GatewayId) -> Vec<SocketAddr> {
        directory.gateways_seen.find(&gateway).map(|s| s.record.endpoints.clone()).unwrap_or_default()
    }

    /// The client gives a grant back.
    pub async fn give_back(&self, device: DeviceId, grant: GrantId) {
        let mut ledger = self.ledger.lock().await;
        if ledger.live(grant).is_some_and(|l| l.grant.device == device) {
            self.end_locked(&mut ledger, &Selector::Grant(grant), Cause::Returned, &device.to_string()).await;
        }
    }
}

/// Only an administrator can help: asking each second does not.
fn refused() -> Reply {
    let why = "the gateway refuses it by its own checks; tell your administrator that its log says why";
    refusal(vec![why.to_owned()])
}

/// No second factor would help.
fn refusal(reasons: Vec<String>) -> Reply {
    Reply::Deny { reasons, retry_after: DENY_HOLD, passing: false, step_up: Vec::new() }
}

fn passing(why: &str) -> Reply {
    Reply::Deny {
        reasons: vec![format!("{why}; try again in a moment")],
        retry_after: SOON,
        passing: true,
        step_up: Vec::new(),
    }
}
