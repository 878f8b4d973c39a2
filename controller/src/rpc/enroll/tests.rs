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
