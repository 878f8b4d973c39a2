//! The directory follows the store, and changes are decided on what is true.

use super::*;
use crate::audit::{Entry, Outcome};
use crate::store::{Options, SledStore, Store};
use crate::test_support::Folder;
use model::ids::UserId;
use model::time::WallMs;
use std::collections::BTreeSet;

fn user(number: u8, name: &str) -> User {
    User {
        id: UserId::from_bytes([number; 10]),
        name: name.parse().unwrap(),
        password: Some(PasswordHash("x".to_owned())),
        identity: None,
        groups: BTreeSet::new(),
        roles: [].into(),
        disabled: false,
        restored: false,
        created: WallMs(0),
    }
}

fn entry() -> Entry {
    Entry::new(WallMs(0), "test", "test", "test", Outcome::Done)
}

fn org() -> Org {
    Org {
        trust_domain: "corp.example".parse().unwrap(),
        pool: model::pool::Pool::new("10.77.0.0/16".parse().unwrap(), "fd00::/48".parse().unwrap()).unwrap(),
        created: WallMs(0),
        endpoints: vec!["192.0.2.1:443".into()],
        zones: Vec::new(),
        private_zones: Vec::new(),
        key: model::key::PublicKey([1; 32]),
        ca: vec![1],
        since: None,
        succession: None,
    }
}

async fn open(folder: &Folder) -> (Arc<dyn Store>, Reader) {
    let store: Arc<dyn Store> = Arc::new(SledStore::create(&folder.path().join("store"), Options::default()).unwrap());
    let mut draft = Draft::default();
    draft.create(Org::ID, &org()).unwrap();
    store.commit(draft.into_commit(entry())).await.unwrap();
    let reader = Reader::start(Arc::clone(&store)).await.unwrap();
    (store, reader)
}

async fn add(store: &dyn Store, reader: &Reader, user: User) -> Result<(), Refusal> {
    let make = |directory: &Directory, draft: &mut Draft| {
        draft.claim(directory, Unique::UserName, &user.name, user.id, || format!("`{}`", user.name))?;
        draft.create(&user.id, &user)?;
        Ok(((), entry()))
    };
    change::change(store, reader, make).await.map(|_| ())
}

#[tokio::test]
async fn of_fifty_who_claim_one_name_at_once_one_gets_it() {
    let folder = Folder::new();
    let (store, reader) = open(&folder).await;
    let tries: Vec<_> = (0..50)
        .map(|n| {
            let (store, reader) = (Arc::clone(&store), reader.clone());
            tokio::spawn(async move { add(store.as_ref(), &reader, user(n, "clerk")).await })
        })
        .collect();
    let mut won = 0;
    for one in tries {
        match one.await.unwrap() {
            Ok(()) => won += 1,
            Err(refusal) => assert!(matches!(refusal, Refusal::Taken { .. }), "{refusal}"),
        }
    }
    assert_eq!(won, 1);
    let now = reader.now();
    assert_eq!(now.users.len(), 1);
    assert_eq!(now.user("clerk").unwrap().record.name.as_str(), "clerk");
}

#[tokio::test]
async fn parallel_changes_of_one_fact_all_count() {
    let folder = Folder::new();
    let (store, reader) = open(&folder).await;
    add(store.as_ref(), &reader, user(1, "clerk")).await.unwrap();
    let id = UserId::from_bytes([1; 10]);
    let tries: Vec<_> = (0..8)
        .map(|n| {
            let (store, reader) = (Arc::clone(&store), reader.clone());
            tokio::spawn(async move {
                let join = |directory: &Directory, draft: &mut Draft| {
                    let fact = directory.users.find(&id).unwrap();
                    let mut next = fact.record.clone();
                    next.groups.insert(format!("group-{n}").parse().unwrap());
                    draft.update(fact, &next)?;
                    Ok(((), entry()))
                };
                change::change(store.as_ref(), &reader, join).await.unwrap();
            })
        })
        .collect();
    for one in tries {
        one.await.unwrap();
    }
    assert_eq!(reader.now().user("clerk").unwrap().record.groups.len(), 8);
}

#[tokio::test]
async fn what_was_read_must_still_be_true() {
    let folder = Folder::new();
    let (store, reader) = open(&folder).await;
    add(store.as_ref(), &reader, user(1, "clerk")).await.unwrap();
    let stale = reader.now();
    let mut draft = Draft::default();
    draft.remove(stale.user("clerk").unwrap());
    draft.release(Unique::UserName, "clerk").unwrap();
    store.commit(draft.into_commit(entry())).await.unwrap();
    // Somebody who still believes in her cannot commit on it, nor on the whole set.
    let mut late = Draft::default();
    late.stands_on(stale.user("clerk").unwrap());
    assert!(store.commit(late.into_commit(entry())).await.is_err());
    let mut late = Draft::default();
    late.stands_on_all(&stale, User::KIND).unwrap();
    assert!(store.commit(late.into_commit(entry())).await.is_err());
    let now = reader.at_least(store.revision()).await;
    assert!(now.user("clerk").is_none() && now.users.is_empty());
    add(store.as_ref(), &reader, user(2, "clerk")).await.unwrap();
}

#[tokio::test]
async fn a_fresh_reader_sees_what_the_old_one_saw() {
    let folder = Folder::new();
    let (store, reader) = open(&folder).await;
    for n in 0..9 {
        add(store.as_ref(), &reader, user(n, &format!("user-{n}"))).await.unwrap();
    }
    let (old, fresh) = (reader.now(), Reader::start(Arc::clone(&store)).await.unwrap().now());
    assert_eq!(old.revision, fresh.revision);
    assert_eq!(old.head(User::KIND), fresh.head(User::KIND));
    assert_eq!(old.users.values().collect::<Vec<_>>(), fresh.users.values().collect::<Vec<_>>());
    assert!(fresh.is_taken(&Key::of("user-name", "user-3").unwrap()));
}

#[test]
fn numbers_go_round_and_end() {
    let mut directory = Directory::default();
    let mut draft = Draft::default();
    let numbers: Vec<u32> = (0..3).map(|_| draft.number(&directory, Counted::DeviceV4, "d").unwrap()).collect();
    assert_eq!(numbers, [0, 1, 2]);
    let revision = |number| Revision { incarnation: 1, number };
    let puts: Vec<_> =
        (0..Counted::DeviceV4.count()).map(|n| (Key::of("device-v4", n).unwrap(), "{}".into())).collect();
    directory.apply(&Change { revision: revision(1), puts, deletes: Vec::new() });
    let full = Draft::default().number(&directory, Counted::DeviceV4, "d").unwrap_err();
    assert!(matches!(full, Refusal::InUse(_)), "{full}");
    directory.apply(&Change {
        revision: revision(2),
        puts: Vec::new(),
        deletes: vec![Key::of("device-v4", 7).unwrap()],
    });
    assert_eq!(Draft::default().number(&directory, Counted::DeviceV4, "d").unwrap(), 7);
}

#[test]
fn a_record_that_does_not_decode_is_no_longer_there() {
    let mut directory = Directory::default();
    let key = Key::of("user", UserId::from_bytes([1; 10])).unwrap();
    let put = |number, value: Vec<u8>| Change {
        revision: Revision { incarnation: 1, number },
        puts: vec![(key.clone(), value.into())],
        deletes: Vec::new(),
    };
    directory.apply(&put(1, serde_json::to_vec(&user(1, "clerk")).unwrap()));
    assert!(directory.user("clerk").is_some());
    directory.apply(&put(2, b"{}".to_vec()));
    assert!(directory.user("clerk").is_none() && directory.users.is_empty());
}

#[test]
fn hosts_lead_to_the_most_exact_resource() {
    use model::ids::{ResourceId, SiteId};
    let mut directory = Directory::default();
    let resource = |n: u8, name: &str, host: Option<&str>, suffix: Option<&str>| Resource {
        id: ResourceId::from_bytes([n; 10]),
        name: name.parse().unwrap(),
        site: SiteId::from_bytes([0; 10]),
        hosts: host.iter().map(|h| (h.parse().unwrap(), 0)).collect(),
        suffixes: suffix.iter().map(|s| s.parse().unwrap()).collect(),
        prefixes: BTreeSet::new(),
        tcp: Vec::new(),
        udp: Vec::new(),
        icmp: true,
        lease_ms: None,
        on_gateway: false,
        tags: BTreeSet::new(),
        created: WallMs(0),
    };
    let all = [
        resource(1, "wide", None, Some("corp.example")),
        resource(2, "narrow", None, Some("dev.corp.example")),
        resource(3, "exact", Some("a.dev.corp.example"), None),
    ];
    let puts =
        all.iter().map(|r| (Key::of("resource", r.id).unwrap(), serde_json::to_vec(r).unwrap().into())).collect();
    directory.apply(&Change { revision: Revision { incarnation: 1, number: 1 }, puts, deletes: Vec::new() });
    let found = |host: &str| directory.resource_of_host(&host.parse().unwrap()).map(|r| r.record.name.to_string());
    assert_eq!(found("a.dev.corp.example").as_deref(), Some("exact"));
    assert_eq!(found("b.dev.corp.example").as_deref(), Some("narrow"));
    assert_eq!(found("x.corp.example").as_deref(), Some("wide"));
    assert_eq!(found("corp.example"), None);
    assert_eq!(found("corp.exampl"), None);
}

#[test]
fn what_is_long_over_goes_with_later_changes_and_the_rest_stays() {
    use model::ids::{DeviceId, SessionId};
    use model::limits::{ENDED_KEEP, SWEEP_MAX};
    let now = WallMs(2 * i64::try_from(ENDED_KEEP.as_millis()).unwrap());
    let mut directory = Directory::default();
    let session = |n: usize, ends: WallMs| {
        let mut id = [0; 10];
        id[..8].copy_from_slice(&n.to_be_bytes());
        let (user, device) = (UserId::from_bytes([1; 10]), DeviceId::from_bytes([1; 10]));
        let session = Session {
            id: SessionId::from_bytes(id),
            user,
            device,
            created: WallMs(0),
            ends,
            ended: false,
            factor: None,
            proved: crate::directory::Proved::AtLogin,
        };
        (Key::of("session", session.id).unwrap(), serde_json::to_vec(&session).unwrap().into())
    };
    let old = (0..SWEEP_MAX + 6).map(|n| session(n, WallMs(1)));
    let puts = old.chain([session(9_999, WallMs(now.0 - 1)), session(9_998, now)]).collect();
    directory.apply(&Change { revision: Revision { incarnation: 1, number: 1 }, puts, deletes: Vec::new() });
    for left in [8, 2, 2] {
        let mut draft = Draft::default();
        sweep(&directory, &mut draft, now).unwrap();
        let commit = draft.into_commit(entry());
        assert!(commit.deletes.len() <= SWEEP_MAX);
        let revision = Revision { incarnation: 1, number: directory.revision.number + 1 };
        directory.apply(&Change { revision, puts: Vec::new(), deletes: commit.deletes });
        assert_eq!(directory.sessions.len(), left);
    }
}
