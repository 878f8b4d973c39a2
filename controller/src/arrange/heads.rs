//! Is this the whole audit trail? Its head goes out to gateways, signed; each shows the newest one that it was ever told when
//! it comes back. A controller whose trail ends before that, or has another record there, is an older copy or was
//! tampered with: it refuses every change from then on.

use super::gateways::HelloError;
use super::lines::GatewayNews;
use super::state::Arrangements;
use crate::audit::{Chain, Entry, Hash, Outcome};
use crate::authority::Keyring;
use crate::backup::Restored;
use crate::ca::{Ca, CaError};
use crate::refused::Reason;
use crate::store::{Commit, Reading, Record};
use model::audit::{AuditHead, SignedHead};
use model::ids::GatewayId;
use model::limits::AUDIT_HEAD_EVERY;
use model::revision::Revision;
use model::time::WallMs;
use node::witness::WitnessError;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a gateway witnessed in an earlier life of the organisation, and is not in this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The head.
    pub head: AuditHead,
    /// How many records up to it are lost; 0 where its record is there and is another one.
    pub records: u64,
}

impl Record for Lost {
    const KIND: &'static str = "lost";
    type Id = GatewayId;
}

/// Signs where a trail ends.
pub fn sign(ca: &Ca, (revision, chain): (Revision, Chain), at: WallMs) -> Result<SignedHead, CaError> {
    let head = AuditHead { revision, seq: chain.seq, hash: chain.hash.0, at };
    Ok(SignedHead { signature: ca.sign_text(&head.text())?, head })
}

impl Arrangements {
    /// Signs the head whenever it has moved, at most once in [`AUDIT_HEAD_EVERY`], and tells every gateway. It is always signed
    /// by the CA in use.
    pub async fn sign_heads_forever(self: Arc<Self>, keyring: Arc<Keyring>) {
        let mut signed = None;
        loop {
            let (revision, chain) = self.store.audit_head();
            if signed != Some((revision.incarnation, chain.seq)) && self.store.refused().is_none() {
                match sign(&keyring.held().used.ca, (revision, chain), self.clock.wall()) {
                    Ok(head) => {
                        self.head.send_replace(Some(head.clone()));
                        self.lines.tell_head(&head, |id| self.is_confirmed(id));
                        signed = Some((revision.incarnation, chain.seq));
                    }
                    Err(error) => tracing::error!(%error, "the head of the audit trail could not be signed"),
                }
            }
            tokio::time::sleep(AUDIT_HEAD_EVERY).await;
        }
    }

    /// Tells a gateway on its new stream.
    pub fn tell_head(&self, gateway: GatewayId, stream: u64) {
        let head = self.head.borrow().clone();
        if let Some(head) = head.filter(|_| self.store.refused().is_none() && self.is_confirmed(gateway)) {
            self.lines.tell_gateway(gateway, stream, GatewayNews::AuditHead(head));
        }
    }

    /// What a gateway witnessed. An error: this controller serves nobody.
    pub(super) async fn hear_witness(
        &self,
        id: GatewayId,
        name: &str,
        witness: Option<&SignedHead>,
    ) -> Result<(), HelloError> {
        if let Some(why) = self.store.refused() {
            return Err(HelloError::Witnessed(why));
        }
        let Some(signed) = witness else { return Ok(()) };
        let directory = self.directory();
        let trusted = directory.org.as_ref().map(|org| org.record.trusted()).ok_or(HelloError::Unknown)?;
        if !trusted.iter().any(|one| node::witness::check(&one.ca, signed).is_ok()) {
            // Its word alone stops nobody.
            let error = WitnessError::Signature;
            if self.refused().is_told(Reason::Witness, &id) {
                tracing::error!(gateway = name, %error, "a gateway's witness of the audit trail is not believed");
            }
            return Ok(());
        }
        let head = signed.head;
        let (now, chain) = self.store.audit_head();
        if head.revision.incarnation < now.incarnation {
            return self.compare_former(id, name, head).await;
        }
        let problem = if head.revision.incarnation > now.incarnation {
            Some(format!(
                "it is of life {}, gateway `{name}` has seen life {}",
                now.incarnation, head.revision.incarnation
            ))
        } else if head.seq > chain.seq {
            Some(format!(
                "its audit trail ends at record {}, gateway `{name}` witnessed record {} on {}",
                chain.seq,
                head.seq,
                crate::audit::utc(head.at)
            ))
        } else if self.differs(head).await {
            Some(format!(
                "its audit trail has another record {} than the one that gateway `{name}` witnessed",
                head.seq
            ))
        } else {
            None
        };
        let Some(problem) = problem else { return Ok(()) };
        let why = format!(
            "{problem}: an old copy or backup is running, or the trail was cut; stop it, and run the newest state or restore \
             the last backup. If it is lost for good: `umbra-controller audit accept-loss`"
        );
        tracing::error!("this controller refuses every change from now on: {why}");
        if let Err(error) = self.store.refuse(&why).await {
            tracing::error!(%error, "that could not be written down: it is known again when the gateway comes back");
        }
        self.lines.close_gateways();
        Err(HelloError::Witnessed(why))
    }

    /// A record that is kept and is not the one of this head.
    async fn differs(&self, head: AuditHead) -> bool {
        let stored = self.store.audit_stored(head.seq, 1).await.unwrap_or_default();
        let found =
            stored.first().filter(|(seq, _)| *seq == head.seq).and_then(|(_, stored)| stored.first_chunk::<32>());
        head.seq > 0 && found.is_some_and(|hash| Hash(*hash) != Hash(head.hash))
    }

    /// What was witnessed before a restore and is lost by it is expected. It is written down, and told to administrators.
    async fn compare_former(&self, id: GatewayId, name: &str, head: AuditHead) -> Result<(), HelloError> {
        let mut reading = Reading::new(self.store.as_ref());
        let restored = reading.get::<Restored>(Restored::ID).await.ok().flatten();
        let Some(end) = restored.map(|held| held.record.audit_seq) else { return Ok(()) };
        let records = head.seq.saturating_sub(end);
        if records == 0 && !self.differs(head).await {
            return Ok(());
        }
        let lost = Lost { head, records };
        let known = reading.get::<Lost>(&id).await.ok().flatten();
        if known.is_some_and(|known| known.record == lost) {
            return Ok(());
        }
        tracing::warn!(
            gateway = name,
            witnessed = head.seq,
            kept = end,
            records,
            "audit records of the former life are lost"
        );
        let entry = Entry::new(self.clock.wall(), name, "audit.lost", id.to_string(), Outcome::Done)
            .with("witnessed", head.seq)
            .with("kept", end)
            .with("records", records);
        self.store.commit(Commit::default().put_record(&id, &lost)?.audit(entry)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrange::gateways::Hello;
    use crate::audit::accept::{AcceptError, accept};
    use crate::config::StatePaths;
    use crate::directory::{Directory, Draft, Gateway, NodeState};
    use crate::init::tests::made;
    use crate::organisation::Organisation;
    use crate::rpc::accept::Connections;
    use crate::store::{CommitError, Options};
    use crate::test_support::Folder;
    use host::clock::SystemClock;
    use model::ids::{JoinKeyId, SiteId};
    use model::key::PublicKey;
    use model::pool::NatPool;

    /// In a runtime of its own: when it ends, so does everything that holds the store.
    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    /// What was signed once and is not so now.
    type Harm<'a> = &'a dyn Fn(&mut AuditHead);

    const GATEWAY: GatewayId = GatewayId::from_bytes([1; 10]);

    fn entry(what: &str) -> Entry {
        Entry::new(WallMs(1), "test", what, "org/self", Outcome::Done)
    }

    async fn add_gateway(organisation: &Organisation) {
        let gateway = Gateway {
            id: GATEWAY,
            name: "dc1-a".parse().unwrap(),
            site: SiteId::from_bytes([2; 10]),
            key: PublicKey([3; 32]),
            next_key: None,
            address: "fd00::1".parse().unwrap(),
            svid_key: [4; 32],
            fingerprint: "0000".to_owned(),
            state: NodeState::Confirmed,
            restored: false,
            copied: None,
            join_key: JoinKeyId::from_bytes([5; 10]),
            created: WallMs(1),
        };
        let add = |_: &Directory, draft: &mut Draft| {
            draft.create(&GATEWAY, &gateway)?;
            Ok(((), entry("gateway")))
        };
        organisation.change(add).await.unwrap();
    }

    async fn arrangements(organisation: &Organisation) -> Arc<Arrangements> {
        Arrangements::restore(
            Arc::clone(&organisation.store),
            organisation.directory.clone(),
            Arc::clone(&organisation.sealer),
            Arc::clone(&organisation.clock),
            Arc::new(Connections::default()),
        )
        .await
        .unwrap()
    }

    fn hello(witness: Option<SignedHead>) -> Hello {
        let nat = NatPool { v4: "198.18.0.0/15".parse().unwrap(), v6: "fd99::/48".parse().unwrap() };
        let (seen, endpoints) = (Revision::default(), Vec::new());
        Hello { seen, nat, endpoints, version: "1".to_owned(), boot: 1, pairing_key: PublicKey([6; 32]), witness }
    }

    fn head_of(organisation: &Organisation) -> SignedHead {
        sign(&organisation.ca(), organisation.store.audit_head(), WallMs(1)).unwrap()
    }

    /// As if the controller had signed it once.
    fn other(organisation: &Organisation, change: impl FnOnce(&mut AuditHead)) -> SignedHead {
        let mut head = head_of(organisation).head;
        change(&mut head);
        SignedHead { signature: organisation.ca().sign_text(&head.text()).unwrap(), head }
    }

    #[tokio::test]
    async fn a_witness_of_the_same_trail_is_heard_and_one_that_nobody_signed_stops_nobody() {
        let folder = Folder::new();
        let (organisation, _) = made(&folder).await;
        add_gateway(&organisation).await;
        let arrangements = arrangements(&organisation).await;
        let before = head_of(&organisation);
        organisation.store.commit(Commit::default().audit(entry("more"))).await.unwrap();
        let forged = SignedHead { head: AuditHead { seq: 99, ..before.head }, ..before.clone() };
        let strange = {
            let (ca, _) = Ca::create(&"corp.example".parse().unwrap(), WallMs(1)).unwrap();
            let head = AuditHead { seq: 99, ..before.head };
            SignedHead { signature: ca.sign_text(&head.text()).unwrap(), head }
        };
        for witness in [None, Some(before), Some(head_of(&organisation)), Some(forged), Some(strange)] {
            arrangements.greet(GATEWAY, hello(witness)).await.unwrap();
            assert_eq!(organisation.store.refused(), None);
        }
    }

    #[test]
    fn whoever_is_behind_a_witness_refuses_everything_also_after_a_restart() {
        let later = |head: &mut AuditHead| head.seq += 1;
        let fork = |head: &mut AuditHead| head.hash[0] ^= 1;
        let life = |head: &mut AuditHead| head.revision.incarnation += 1;
        let behind: [(Harm, &str); 3] =
            [(&later, "ends at record"), (&fork, "another record"), (&life, "has seen life")];
        for (change, part) in behind {
            let folder = Folder::new();
            run(async {
                let (organisation, _) = made(&folder).await;
                add_gateway(&organisation).await;
                let arrangements = arrangements(&organisation).await;
                let witness = other(&organisation, change);
                let said = arrangements.greet(GATEWAY, hello(Some(witness))).await.unwrap_err().to_string();
                assert!(said.contains(part) && said.contains("dc1-a") && said.contains("accept-loss"), "{said}");
                // Nor is a gateway served that saw less, and nothing is changed.
                assert!(matches!(arrangements.greet(GATEWAY, hello(None)).await, Err(HelloError::Witnessed(_))));
                let refused = organisation.store.commit(Commit::default().audit(entry("more"))).await;
                assert!(matches!(refused, Err(CommitError::Refused(_))), "{refused:?}");
            });
            let again = run(open(&folder));
            assert!(again.store.refused().is_some_and(|why| why.contains(part)));
        }
    }

    async fn open(folder: &Folder) -> Organisation {
        let paths = StatePaths::new(folder.path().join("state"));
        Organisation::open(&paths, Options::default(), Arc::new(SystemClock::new())).await.unwrap()
    }

    #[test]
    fn a_loss_is_accepted_as_a_new_life_with_a_reason_and_told_when_the_witness_comes() {
        let folder = Folder::new();
        let paths = StatePaths::new(folder.path().join("state"));
        let (life, kept, witness) = run(async {
            let (organisation, _) = made(&folder).await;
            add_gateway(&organisation).await;
            let (revision, chain) = organisation.store.audit_head();
            let witness = other(&organisation, |head| head.seq += 7);
            let arrangements = arrangements(&organisation).await;
            arrangements.greet(GATEWAY, hello(Some(witness.clone()))).await.unwrap_err();
            let taken = accept(&paths, "lost", WallMs(1), Options::default()).await;
            assert!(
                matches!(&taken, Err(AcceptError::Open(e)) if e.to_string().contains("Stop it first")),
                "{taken:?}"
            );
            (revision.incarnation, chain.seq, witness)
        });
        let accepted = |reason| run(accept(&paths, reason, WallMs(1), Options::default()));
        assert!(matches!(accepted(" "), Err(AcceptError::Reason)));
        let done = accepted("the disk burnt").unwrap();
        assert_eq!(done.kept, kept);
        assert!(done.revision.incarnation > life);
        assert!(matches!(accepted("x"), Err(AcceptError::Nothing)));
        run(after_a_loss(&folder, &witness));
    }

    async fn after_a_loss(folder: &Folder, witness: &SignedHead) {
        let again = open(folder).await;
        let gateway = again.now().gateways.find(&GATEWAY).unwrap().record.clone();
        assert!(gateway.state == NodeState::Pending && gateway.restored, "it waits to be confirmed");
        again.store.verify_audit().await.unwrap();
        let newest = again.store.audit(crate::audit::Query { limit: 1, ..Default::default() }).await.unwrap();
        let said = (newest[0].action.as_str(), newest[0].detail["reason"].as_str());
        assert_eq!(said, ("audit.accept-loss", Some("the disk burnt")));
        // The old witness is expected now, told once, and its gateway is served.
        let arrangements = arrangements(&again).await;
        for _ in 0..2 {
            arrangements.greet(GATEWAY, hello(Some(witness.clone()))).await.unwrap();
        }
        let lost = Reading::new(again.store.as_ref()).get::<Lost>(&GATEWAY).await.unwrap().unwrap().record;
        assert_eq!((lost.records, lost.head), (7, witness.head));
        let told = crate::audit::Query { action: Some("audit.lost".into()), ..Default::default() };
        assert_eq!(again.store.audit(told).await.unwrap().len(), 1);
    }
}
