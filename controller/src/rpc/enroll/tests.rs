//! Who gets in with which key, and as what?

use super::*;
use crate::init::tests::made;
use crate::test_support::Folder;
use std::collections::BTreeSet;
use std::time::Duration;

const TOKEN: [u8; 32] = [7; 32];

/// Machine number `n` of a round, with a key of its own and the token that they all have.
fn wish(round: u8, n: u8, join_key: JoinKeyId) -> Wish {
    let mut key = [n; 32];
    key[0] = round;
    Wish {
        key: PublicKey(key),
        join_key,
        token_hash: sha256(&TOKEN),
        kind: JoinKind::Device,
        name: Name::from_machine("laptop"),
        request: RequestKey { spki: key.to_vec(), hash: key },
        recovery: Secret::new(key),
        identity: Secret::new(String::new()),
    }
}

async fn join_key(organisation: &Organisation, uses: u32) -> JoinKeyId {
    let id = JoinKeyId::from_bytes(host::entropy::random().unwrap());
    let created = organisation.wall();
    let key = JoinKey {
        id,
        kind: JoinKind::Device,
        site: None,
        account: None,
        ephemeral: false,
        uses,
        uses_left: uses,
        created,
        expires: created.plus(Duration::from_secs(3_600)),
        revoked: false,
        knock: Vec::new(),
        enrol_hash: sha256(&TOKEN),
        redeemed: Vec::new(),
    };
    let make = |_: &Directory, draft: &mut Draft| {
        draft.create(&id, &key)?;
        Ok(((), Entry::new(created, "test".to_owned(), "join-key.create", id.to_string(), Outcome::Done)))
    };
    organisation.change(make).await.unwrap();
    id
}

/// 100 machines at once; a machine that the store was too busy for asks again, as a real one does.
async fn storm(organisation: &Organisation, round: u8, join_key: JoinKeyId) -> Vec<NodeId> {
    let enrol = |n: u8| {
        let organisation = organisation.clone();
        tokio::spawn(async move {
            loop {
                match redeem(&organisation, &wish(round, n, join_key)).await {
                    Ok(enrolled) => return Some(enrolled.node),
                    Err(Refusal::Busy(_)) => {}
                    Err(refusal) => {
                        assert!(matches!(refusal, Refusal::Denied(_)), "{refusal}");
                        return None;
                    }
                }
            }
        })
    };
    let tries: Vec<_> = (1..=100).map(enrol).collect();
    let mut nodes = Vec::new();
    for one in tries {
        nodes.extend(one.await.unwrap());
    }
    nodes
}

#[tokio::test]
async fn as_many_machines_of_one_name_get_a_name_as_the_limit_says() {
    let folder = Folder::new();
    let (organisation, _) = made(&folder).await;
    let wanted = Name::from_machine("laptop");
    let fill = |directory: &Directory, draft: &mut Draft| {
        for number in 1..LIKE_NAMES_MAX {
            let name = claim_name(directory, draft, Unique::DeviceName, &wanted, "devices/x")?;
            assert!(number > 1 || name == wanted);
        }
        Ok(((), Entry::new(organisation.wall(), "test", "fill", "devices", Outcome::Done)))
    };
    organisation.change(fill).await.unwrap();
    let (mut draft, now) = (Draft::default(), organisation.now());
    let last = claim_name(&now, &mut draft, Unique::DeviceName, &wanted, "devices/y").unwrap();
    assert_eq!(last.as_str(), format!("laptop-{LIKE_NAMES_MAX}"));
    let refused = claim_name(&now, &mut draft, Unique::DeviceName, &wanted, "devices/z").unwrap_err();
    assert!(matches!(&refused, Refusal::Taken { what } if what.contains("every name like `laptop`")), "{refused}");
    assert!(claim_name(&now, &mut draft, Unique::DeviceName, &Name::from_machine("desk"), "devices/z").is_ok());
    let release = |_: &Directory, draft: &mut Draft| {
        draft.release(Unique::DeviceName, "laptop-7")?;
        Ok(((), Entry::new(organisation.wall(), "test", "release", "devices", Outcome::Done)))
    };
    organisation.change(release).await.unwrap();
    let again = claim_name(&organisation.now(), &mut Draft::default(), Unique::DeviceName, &wanted, "devices/z");
    assert_eq!(again.unwrap().as_str(), "laptop-7");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_hundred_machines_at_once_as_many_get_in_as_the_key_has_uses() {
    let folder = Folder::new();
    let (organisation, _) = made(&folder).await;
    for (round, uses) in (0..).zip([1, 1, 1, 3]) {
        let before = organisation.now().devices.len();
        let id = join_key(&organisation, uses).await;
        let nodes = storm(&organisation, round, id).await;
        assert_eq!(nodes.len(), uses as usize);
        let now = organisation.now();
        assert_eq!(now.devices.len(), before + uses as usize);
        let key = &now.join_keys.find(&id).unwrap().record;
        assert_eq!((key.uses_left, key.redeemed.len()), (0, uses as usize));
        // Who got in asks again and is the same node; who did not still does not.
        let again: BTreeSet<String> = storm(&organisation, round, id).await.iter().map(ToString::to_string).collect();
        assert_eq!(again, nodes.iter().map(ToString::to_string).collect());
        assert_eq!(organisation.now().devices.len(), before + uses as usize);
    }
}

/// Changes a join key, and the account that it is for.
async fn edit(organisation: &Organisation, id: JoinKeyId, edit: impl Fn(&mut JoinKey) + Send + Sync) {
    let change = |directory: &Directory, draft: &mut Draft| {
        let fact = directory.join_keys.find(&id).unwrap();
        let mut key = fact.record.clone();
        edit(&mut key);
        draft.update(fact, &key)?;
        Ok(((), Entry::new(organisation.wall(), "test", "edit", "key", Outcome::Done)))
    };
    organisation.change(change).await.unwrap();
}

async fn put_account(organisation: &Organisation, disabled: bool) -> AccountId {
    let id = AccountId::from_bytes([6; 10]);
    let (name, created) = ("build".parse().unwrap(), organisation.wall());
    let account = crate::directory::Account {
        id,
        name,
        description: String::new(),
        groups: BTreeSet::new(),
        disabled,
        restored: false,
        created,
    };
    let put = |_: &Directory, draft: &mut Draft| {
        draft.put(&id, &account)?;
        Ok(((), Entry::new(created, "test", "put", "account", Outcome::Done)))
    };
    organisation.change(put).await.unwrap();
    id
}

#[tokio::test]
async fn a_key_with_an_account_makes_workloads_and_only_while_that_takes_part() {
    let folder = Folder::new();
    let (organisation, _) = made(&folder).await;
    let account = put_account(&organisation, false).await;
    let key = join_key(&organisation, 1).await;
    edit(&organisation, key, |key| (key.account, key.ephemeral) = (Some(account), true)).await;
    put_account(&organisation, true).await;
    let refused = redeem(&organisation, &wish(1, 1, key)).await.err().unwrap();
    assert!(matches!(&refused, Refusal::Denied(why) if why.contains("disabled")), "{refused}");
    put_account(&organisation, false).await;
    let enrolled = redeem(&organisation, &wish(1, 1, key)).await.unwrap();
    assert_eq!((enrolled.account.clone().unwrap().as_str(), enrolled.pending), ("build", false));
    let NodeId::Device(id) = enrolled.node else { panic!("{:?}", enrolled.node) };
    let device = organisation.now().devices.find(&id).unwrap().record.clone();
    assert_eq!((device.account, device.user, device.ephemeral), (Some(account), None, true));
    let again = redeem(&organisation, &wish(1, 1, key)).await.unwrap();
    assert_eq!(again.account, enrolled.account, "a repeated request has the same answer");
    // Of a key that many may have copied, each waits for an administrator, as a person's machine does.
    let many = join_key(&organisation, 5).await;
    edit(&organisation, many, |key| key.account = Some(account)).await;
    let waits = redeem(&organisation, &wish(2, 1, many)).await.unwrap();
    assert!(waits.pending);
    let trail = organisation.store.audit(crate::audit::Query { limit: 5, ..Default::default() }).await.unwrap();
    assert!(trail.iter().any(|r| r.action == "enrol" && r.detail.get("account") == Some(&"build".into())), "{trail:?}");
}

/// Machine number `n`, enrolled with a key of its own.
pub(crate) async fn enrol(organisation: &Organisation, n: u8, ephemeral: bool) -> DeviceId {
    let key = join_key(organisation, 1).await;
    edit(organisation, key, |key| key.ephemeral = ephemeral).await;
    match redeem(organisation, &wish(9, n, key)).await.unwrap().node {
        NodeId::Device(id) => id,
        other => panic!("{other:?}"),
    }
}

mod federated {
    use super::super::federated::{NotAdmitted, redeem};
    use super::*;
    use crate::directory::{Fact, SpentToken, Trust};
    use crate::federation::tests::{good, rule};
    use crate::federation::{Federation, NotTrusted};
    use crate::fetch::test_server::Says;
    use crate::token::test_keys::Signer;
    use model::limits::{CLOCK_BACK_MAX, SPENT_TOKENS_MAX, SPENT_TOKENS_PER_TRUST_MAX};

    struct Stage {
        _folder: Folder,
        organisation: Organisation,
        federation: Arc<Federation>,
        signer: Signer,
        account: AccountId,
    }

    impl Stage {
        async fn new() -> Self {
            let folder = Folder::new();
            let (organisation, _) = made(&folder).await;
            let account = put_account(&organisation, false).await;
            let signer = Signer::new("one", "ES256");
            let federation = Arc::new(Federation::new(Arc::new(Says(vec!["127.0.0.1"]))));
            let stage = Self { _folder: folder, organisation, federation, signer, account };
            stage.put_rule(|_| {}).await;
            stage
        }
        async fn put_rule(&self, edit: impl Fn(&mut Trust) + Send + Sync) {
            let put = |_: &Directory, draft: &mut Draft| {
                let mut trust = rule(&[&self.signer]);
                (trust.account, trust.enrol_hash) = (self.account, sha256(&TOKEN));
                edit(&mut trust);
                draft.put(&trust.id, &trust)?;
                Ok(((), Entry::new(WallMs(1), "test", "put", "rule", Outcome::Done)))
            };
            self.organisation.change(put).await.unwrap();
        }
        fn rule(&self) -> Fact<Trust> {
            self.organisation.now().trusts.values().next().unwrap().clone()
        }
        fn token(&self, number: &str) -> String {
            self.signer.token(&good(self.organisation.wall(), number))
        }
        fn wish(&self, n: u8, token: &str) -> Wish {
            Wish { identity: Secret::new(token.to_owned()), ..wish(1, n, self.rule().record.id) }
        }
        async fn join(&self, n: u8, token: &str) -> Result<Enrolled, NotAdmitted> {
            redeem(&self.organisation, &self.federation, &self.rule(), &self.wish(n, token)).await
        }
        async fn refused(&self, n: u8, token: &str) -> NotTrusted {
            match self.join(n, token).await {
                Err(NotAdmitted::Token(why)) => why,
                other => panic!("{:?}", other.map(|e| e.node)),
            }
        }
    }

    #[tokio::test]
    async fn a_token_makes_a_workload_of_its_account_once() {
        let stage = Stage::new().await;
        let token = stage.token("first");
        let joined = stage.join(1, &token).await.unwrap();
        assert_eq!((joined.account.as_ref().unwrap().as_str(), joined.pending), ("build", false));
        let NodeId::Device(id) = joined.node else { panic!("{:?}", joined.node) };
        let now = stage.organisation.now();
        let device = &now.devices.find(&id).unwrap().record;
        assert_eq!((device.account, device.ephemeral, device.user), (Some(stage.account), true, None));
        // Stolen on its way, it lets nobody else in; the machine itself may ask again, also when the token has ended.
        assert_eq!(stage.refused(2, &token).await, NotTrusted::Used);
        assert_eq!(stage.join(1, &token).await.unwrap().node, joined.node);
        assert_eq!(stage.join(1, "ended").await.unwrap().node, joined.node);
        assert_eq!(stage.organisation.now().devices.len(), 1);
        let other = stage.join(3, &stage.token("second")).await.unwrap();
        assert_ne!(other.node, joined.node);
        let trail =
            stage.organisation.store.audit(crate::audit::Query { limit: 5, ..Default::default() }).await.unwrap();
        let enrolled = trail.iter().find(|r| r.action == "enrol").unwrap();
        for (name, value) in
            [("federation", "ci"), ("account", "build"), ("subject", crate::federation::tests::SUBJECT)]
        {
            assert_eq!(enrolled.detail.get(name), Some(&value.into()), "{enrolled:?}");
        }
        let all = format!("{trail:?}");
        assert!(token.split('.').all(|part| !all.contains(part)), "no token is written down");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_fifty_machines_with_one_token_at_once_one_gets_in() {
        let stage = Arc::new(Stage::new().await);
        let token = stage.token("first");
        let tries: Vec<_> = (1..=50)
            .map(|n| {
                let (stage, token) = (Arc::clone(&stage), token.clone());
                tokio::spawn(async move {
                    loop {
                        match stage.join(n, &token).await {
                            Ok(_) => return true,
                            Err(NotAdmitted::Refused(Refusal::Busy(_))) => {}
                            // Tried again too often while others changed the same.
                            Err(NotAdmitted::Token(NotTrusted::Used | NotTrusted::Tries)) => return false,
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                })
            })
            .collect();
        let mut entered = 0;
        for one in tries {
            entered += usize::from(one.await.unwrap());
        }
        assert_eq!((entered, stage.organisation.now().devices.len()), (1, 1));
    }

    #[tokio::test]
    async fn nobody_joins_by_a_rule_or_an_account_that_takes_no_part() {
        let stage = Stage::new().await;
        put_account(&stage.organisation, true).await;
        assert_eq!(stage.refused(1, &stage.token("a")).await, NotTrusted::Account);
        put_account(&stage.organisation, false).await;
        stage.put_rule(|trust| trust.restored = true).await;
        assert_eq!(stage.refused(1, &stage.token("a")).await, NotTrusted::Restored);
        // The join file's own secret is another.
        stage.put_rule(|trust| trust.enrol_hash = [9; 32]).await;
        let refused = stage.join(1, &stage.token("a")).await.err().unwrap();
        assert!(matches!(refused, NotAdmitted::Refused(Refusal::Denied(_))), "{refused:?}");
        stage.put_rule(|_| {}).await;
        let gateway = Wish { kind: JoinKind::Gateway, ..stage.wish(1, &stage.token("a")) };
        let refused = redeem(&stage.organisation, &stage.federation, &stage.rule(), &gateway).await.err().unwrap();
        assert!(matches!(refused, NotAdmitted::Refused(Refusal::Denied(_))), "no gateway joins by a token");
        // The rule goes, or is made anew, while the token is looked at.
        let held = stage.rule();
        stage.put_rule(|trust| trust.audience = "other".to_owned()).await;
        let wish = stage.wish(1, &stage.token("a"));
        let refused = redeem(&stage.organisation, &stage.federation, &held, &wish).await.err().unwrap();
        assert!(matches!(refused, NotAdmitted::Refused(Refusal::Denied(_))), "{refused:?}");
        assert!(stage.organisation.now().devices.is_empty());
        // A machine that was revoked does not come back with the token that it had.
        stage.put_rule(|_| {}).await;
        let token = stage.token("b");
        let NodeId::Device(id) = stage.join(4, &token).await.unwrap().node else { panic!() };
        let revoke = |directory: &Directory, draft: &mut Draft| {
            let fact = directory.devices.find(&id).unwrap();
            draft.update(fact, &Device { state: NodeState::Revoked, ..fact.record.clone() })?;
            Ok(((), Entry::new(WallMs(1), "test", "revoke", "device", Outcome::Done)))
        };
        stage.organisation.change(revoke).await.unwrap();
        for token in [token, stage.token("c")] {
            assert!(matches!(stage.join(4, &token).await, Err(NotAdmitted::Refused(Refusal::Denied(_)))));
        }
        // What is told to the trail names the rule and the reason.
        let denied = super::super::federated::record(&stage.rule().record, &NotTrusted::Used);
        assert_eq!((denied.object.as_str(), denied.action.as_str()), ("federation/ci", "enrol"));
        assert!(denied.reason.contains("already") && denied.actor.starts_with("jk-"));
    }

    /// A directory in which so many tokens of these rules are remembered.
    fn remembering(of: &[(JoinKeyId, usize)]) -> Directory {
        let mut directory = Directory::default();
        let mut number = 0_u64;
        for (id, count) in of {
            let spent = SpentToken { trust: *id, key: PublicKey([1; 32]), expires: WallMs(1_000) };
            let value: bytes::Bytes = serde_json::to_vec(&spent).unwrap().into();
            for _ in 0..*count {
                number += 1;
                let key = crate::store::Key::of(<SpentToken as crate::store::Record>::KIND, number).unwrap();
                directory.put(&key, &crate::store::Item { revision: number, value: value.clone() }).unwrap();
            }
        }
        directory
    }

    #[test]
    fn so_many_tokens_are_remembered_of_one_rule_and_of_all_and_ended_ones_go() {
        use super::super::federated::{forget, has_room};
        let [own, other] = [8, 1].map(|n| JoinKeyId::from_bytes([n; 10]));
        let room = |of: &[(JoinKeyId, usize)], wall| has_room(&remembering(of), own, wall);
        let now = WallMs(1);
        assert_eq!(room(&[(own, SPENT_TOKENS_PER_TRUST_MAX - 1)], now), Ok(()));
        assert_eq!(room(&[(own, SPENT_TOKENS_PER_TRUST_MAX)], now), Err(NotTrusted::Full));
        assert_eq!(room(&[(other, SPENT_TOKENS_PER_TRUST_MAX)], now), Ok(()), "another's places are another's");
        assert_eq!(room(&[(other, SPENT_TOKENS_MAX - 1)], now), Ok(()));
        assert_eq!(room(&[(other, SPENT_TOKENS_MAX)], now), Err(NotTrusted::Full));
        // A clock may be corrected: only then an ended one is over.
        let kept = WallMs(1_000).plus(CLOCK_BACK_MAX);
        let over = WallMs(kept.0 + 1);
        assert_eq!(room(&[(own, SPENT_TOKENS_PER_TRUST_MAX)], kept), Err(NotTrusted::Full));
        assert_eq!(room(&[(own, SPENT_TOKENS_PER_TRUST_MAX)], over), Ok(()));
        let directory = remembering(&[(own, 3)]);
        let gone = |wall| forget(&directory, &mut Draft::default(), wall);
        assert_eq!((gone(WallMs(2_000)), gone(kept), gone(over)), (0, 0, 3));
    }

    #[tokio::test]
    async fn an_account_that_is_removed_takes_its_rules_along() {
        let stage = Stage::new().await;
        let arranger = Arc::new(crate::arrange::NoGateways);
        let admin = crate::rpc::admin::AdminRpc::new(stage.organisation.clone(), arranger);
        let request = proto::admin::RemoveAccountRequest { account: "build".to_owned() };
        use proto::admin::admin_server::Admin as _;
        let reply = admin.remove_account(Request::new(request)).await.unwrap().into_inner();
        assert_eq!(reply.federation, ["ci"]);
        assert!(stage.organisation.now().trusts.is_empty());
        assert!(stage.organisation.now().accounts.is_empty());
    }
}
