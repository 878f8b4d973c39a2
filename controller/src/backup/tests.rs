//! A backup of an organisation, and what begins again from it.

use super::container::{Identity, Readers, Unlock};
use super::content::{FATES, Fate, fate, humbled};
use super::restore::{Made, RestoreError, Wish, restore};
use super::{Restored, make};
use crate::audit::{Entry, Outcome};
use crate::authority;
use crate::config::StatePaths;
use crate::directory::{
    Device, Directory, Draft, Group, NodeState, PasswordHash, PolicyFile, PolicyRevision, SETS, Session, User,
};
use crate::init::tests::made;
use crate::organisation::Organisation;
use crate::store::{Options, Reading, Record as _};
use crate::test_support::Folder;
use host::clock::SystemClock;
use model::ids::{DeviceId, JoinKeyId, SessionId, UserId};
use model::key::PublicKey;
use model::limits::BACKUP_CHUNKS_WAITING_MAX;
use model::revision::Revision;
use model::time::WallMs;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

fn entry(what: &str) -> Entry {
    Entry::new(WallMs(1), "test", what, "org/self", Outcome::Done)
}

async fn back_up(organisation: &Organisation) -> (Vec<u8>, Unlock) {
    let (identity, recipient) = Identity::generate().unwrap();
    let readers = Readers { passphrase: None, recipients: vec![recipient] };
    let (pieces, mut taken) = mpsc::channel(4);
    let collect = async {
        let mut file = Vec::new();
        while let Some(piece) = taken.recv().await {
            file.extend(piece);
        }
        file
    };
    let making = async {
        let result = make::make(organisation, entry("org.backup"), readers, &pieces).await;
        drop(pieces);
        result
    };
    let (result, file) = tokio::join!(making, collect);
    result.unwrap();
    (file, Unlock::Identity(identity))
}

fn wish(seconds: i64) -> Wish {
    Wish { endpoints: Vec::new(), incarnation: None, wall: WallMs(seconds * 1_000) }
}

async fn begin_again(folder: &Folder, file: &[u8], unlock: &Unlock, wish: &Wish) -> Result<Made, RestoreError> {
    restore(&StatePaths::new(folder.path().join("again")), file, unlock, wish, Options::default()).await
}

async fn open(folder: &Folder) -> Organisation {
    let paths = StatePaths::new(folder.path().join("again"));
    Organisation::open(&paths, Options::default(), Arc::new(SystemClock::new())).await.unwrap()
}

const USER: UserId = UserId::from_bytes([1; 10]);
const OUT: UserId = UserId::from_bytes([2; 10]);
const SESSION: SessionId = SessionId::from_bytes([3; 10]);

/// Two accounts, one of them disabled, a session, a policy.
async fn populate(organisation: &Organisation) {
    let created = organisation.wall();
    let user = |id, name: &str, disabled| User {
        id,
        name: name.parse().unwrap(),
        password: Some(PasswordHash("x".to_owned())),
        identity: None,
        groups: [Group::OWNERS.parse().unwrap()].into(),
        roles: [].into(),
        disabled,
        restored: false,
        created,
    };
    let files = vec![PolicyFile { name: "all.cedar".into(), text: "permit(principal, action, resource);".into() }];
    let policy = PolicyRevision {
        number: 7,
        digest: crate::directory::policy::digest(&files),
        files,
        applied: created,
        applied_by: "test".into(),
        policies: 1,
        restores: None,
        changes: None,
    };
    let session = Session {
        id: SESSION,
        user: USER,
        device: DeviceId::from_bytes([4; 10]),
        created,
        ends: WallMs(i64::MAX),
        ended: false,
        factor: None,
        proved: crate::directory::Proved::AtLogin,
    };
    let fill = |_: &Directory, draft: &mut Draft| {
        draft.create(&USER, &user(USER, "clerk", false))?;
        draft.create(&OUT, &user(OUT, "left", true))?;
        draft.create(&SESSION, &session)?;
        draft.create(PolicyRevision::CURRENT, &policy)?;
        Ok(((), entry("fill")))
    };
    organisation.change(fill).await.unwrap();
}

#[tokio::test]
async fn an_organisation_begins_again_as_a_new_incarnation_in_which_nobody_has_access() {
    let folder = Folder::new();
    let (organisation, _) = made(&folder).await;
    populate(&organisation).await;
    let (before, ca) = (organisation.org().unwrap(), organisation.ca().certificate().to_vec());
    let (file, unlock) = back_up(&organisation).await;
    let at = organisation.store.revision();
    assert!(!file.windows(5).any(|w| w == b"clerk"), "a backup is never plain");

    let made = begin_again(&folder, &file, &unlock, &wish(5_000)).await.unwrap();
    assert_eq!((made.revision.incarnation, made.restored.revision, made.restored.policy), (5_000, at, Some(7)));
    assert_eq!(made.waiting, [1, 0, 0]);
    let again = open(&folder).await;
    assert_eq!((again.org().unwrap(), again.ca().certificate()), (before, ca.as_slice()));
    assert_eq!(
        again.keyring.held().used.key.expose(),
        organisation.keyring.held().used.key.expose(),
        "nodes have pinned this key"
    );
    let now = again.now();
    assert!(now.revision > at, "every node takes this for the newer state");
    let user = |id| now.users.find(&id).unwrap().record.clone();
    assert!(user(USER).disabled && user(USER).restored);
    assert!(user(OUT).disabled && !user(OUT).restored, "who was disabled before does not wait for a confirmation");
    assert!(now.sessions.is_empty() && now.join_keys.is_empty() && now.owner_token.is_none());
    let policy = &now.policy.as_ref().unwrap().record;
    assert!(policy.number == 8 && policy.files.is_empty());
    assert!(now.compiled.is_some(), "an empty policy permits nothing, and is one");
    // The trail goes on where it was.
    let verified = again.store.verify_audit().await.unwrap();
    assert_eq!(verified.last, made.restored.audit_seq + 1);
    let held = Reading::new(again.store.as_ref()).get::<Restored>(Restored::ID).await.unwrap().unwrap();
    assert_eq!(held.record, made.restored);
}

#[tokio::test]
async fn a_backup_from_the_middle_of_a_succession_holds_both_authorities_and_the_succession_goes_on() {
    for switched in [false, true] {
        let folder = Folder::new();
        let (organisation, _) = made(&folder).await;
        authority::announce(
            &organisation,
            &crate::authz::Caller::Admin { actor: "local:test".to_owned() },
            Duration::from_secs(7_200),
        )
        .await
        .unwrap();
        if switched {
            authority::switch(&organisation).await.unwrap();
        }
        let (file, unlock) = back_up(&organisation).await;
        begin_again(&folder, &file, &unlock, &wish(5_000)).await.unwrap();
        let again = open(&folder).await;
        let held = |of: &Organisation| {
            let held = of.keyring.held();
            let all = held.by_age().into_iter().map(|pair| {
                let keys = (pair.key.expose().to_vec(), pair.ca.private_key().expose().to_vec());
                (pair.public.clone(), keys)
            });
            (all.collect::<Vec<_>>(), held.switched)
        };
        let (both, _) = held(&organisation);
        assert_eq!(both.len(), 2);
        assert_eq!(held(&again), (both.clone(), switched));
        assert_eq!(again.org().unwrap().succession, organisation.org().unwrap().succession);
        // Whatever step comes next, it is taken.
        authority::switch(&again).await.unwrap();
        assert_eq!(held(&again), (both.clone(), true));
        authority::retire(&again).await.unwrap();
        assert_eq!(held(&again).0, [both[1].clone()]);
    }
}

#[tokio::test]
async fn of_two_restores_of_one_backup_the_later_one_is_the_newer() {
    let folder = Folder::new();
    let (organisation, _) = made(&folder).await;
    let (file, unlock) = back_up(&organisation).await;
    let mut last = organisation.store.revision();
    for (n, wish) in [wish(10), wish(11), Wish { incarnation: Some(400), ..wish(1) }].iter().enumerate() {
        let other = Folder::new();
        let made = begin_again(&other, &file, &unlock, wish).await.unwrap();
        assert!(made.revision > last, "{n}");
        last = Revision { number: u64::MAX, ..made.revision };
    }
    let low = Wish { incarnation: Some(1), ..wish(1) };
    let other = Folder::new();
    assert!(matches!(begin_again(&other, &file, &unlock, &low).await, Err(RestoreError::Incarnation(1))));
    // A clock of 1970 does not go below the backup.
    assert_eq!(begin_again(&other, &file, &unlock, &wish(0)).await.unwrap().revision.incarnation, 2);
}

#[tokio::test]
async fn a_backup_that_does_not_hold_leaves_nothing_behind() {
    let folder = Folder::new();
    let (organisation, _) = made(&folder).await;
    populate(&organisation).await;
    let (file, unlock) = back_up(&organisation).await;
    let mut cut = file.clone();
    cut.truncate(file.len() - 1);
    let mut altered = file.clone();
    *altered.last_mut().unwrap() ^= 1;
    let target = Folder::new();
    for bad in [cut, altered, Vec::new()] {
        assert!(begin_again(&target, &bad, &unlock, &wish(9)).await.is_err());
        let left = std::fs::read_dir(target.path().join("again")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "nothing is left behind");
    }
    begin_again(&target, &file, &unlock, &wish(9)).await.unwrap();
    let again = begin_again(&target, &file, &unlock, &wish(10)).await.unwrap_err();
    assert!(again.to_string().contains("already"), "{again}");
}

#[tokio::test]
async fn the_secrets_of_the_moment_are_in_no_backup() {
    let folder = Folder::new();
    let (organisation, _) = made(&folder).await;
    populate(&organisation).await;
    let (file, unlock) = back_up(&organisation).await;
    let mut plain = String::new();
    let mut opening = super::container::Opening::begin(file.as_slice(), &unlock).unwrap();
    std::io::Read::read_to_string(&mut opening, &mut plain).unwrap();
    assert!(plain.contains("user/") && plain.contains("secret/ca-key"));
    for ended in FATES.iter().filter(|(_, fate)| *fate == Fate::Ended).map(|(set, _)| *set) {
        assert!(!plain.contains(&format!("\"{ended}/")), "{ended}");
    }
}

#[tokio::test]
async fn identities_of_programs_and_what_signs_them_live_on() {
    use crate::directory::{Account, Registration};
    use model::ids::{AccountId, RegistrationId};
    let folder = Folder::new();
    let (organisation, _) = made(&folder).await;
    let created = organisation.wall();
    let account = AccountId::from_bytes([5; 10]);
    let (name, groups) = ("deploy".parse().unwrap(), [].into());
    let holder =
        Account { id: account, name, description: String::new(), groups, disabled: false, restored: false, created };
    let id = RegistrationId::from_bytes([6; 10]);
    let path = "shop/web".parse().unwrap();
    let registration = Registration { id, account, path, uid: Some(1000), gid: None, created };
    let fill = |_: &Directory, draft: &mut Draft| {
        draft.create(&account, &holder)?;
        draft.create(&id, &registration)?;
        Ok(((), entry("fill")))
    };
    organisation.change(fill).await.unwrap();
    let keys = organisation.workload_keys().await.unwrap();
    let (file, unlock) = back_up(&organisation).await;
    begin_again(&folder, &file, &unlock, &wish(5_000)).await.unwrap();
    let again = open(&folder).await;
    let now = again.now();
    assert_eq!(now.registrations.find(&id).unwrap().record, registration);
    assert!(now.accounts.find(&account).unwrap().record.restored, "its account waits for a confirmation");
    let held = again.workload_keys().await.unwrap();
    assert_eq!(held.bundle(), keys.bundle(), "what programs trust is what it was");
    assert_eq!(held.token_bundle().unwrap(), keys.token_bundle().unwrap());
    let person = "spiffe://corp.example/workload/deploy/shop/web".parse().unwrap();
    let token = held.token(&person, &["billing".to_owned()], created, Duration::from_secs(60)).unwrap();
    assert!(!token.expose().is_empty(), "and the key signs");
}

#[test]
fn every_set_has_a_fate() {
    for set in SETS {
        assert!(fate(set).is_some(), "{set}: say in FATES whether it is in a backup");
    }
    // Those that the directory does not hold: each type that is a record of the store, by its name in the sources.
    let mut kinds = 0;
    let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name != "tests.rs") {
                let text = std::fs::read_to_string(path).unwrap();
                for kind in text.split("const KIND: &'static str = \"").skip(1) {
                    let kind = kind.split('"').next().unwrap();
                    kinds += 1;
                    assert!(fate(kind).is_some(), "{kind}: say in FATES whether it is in a backup");
                }
            }
        }
    }
    assert!(kinds > 20, "{kinds}");
}

#[test]
fn a_confirmed_node_waits_again_and_a_revoked_one_stays_out() {
    let device = |state| Device {
        id: DeviceId::from_bytes([4; 10]),
        name: "laptop".parse().unwrap(),
        user: Some(USER),
        account: None,
        ephemeral: false,
        key: PublicKey([1; 32]),
        next_key: None,
        address: "fd00::1".parse().unwrap(),
        v4: 1,
        svid_key: [2; 32],
        fingerprint: "f".into(),
        state,
        restored: false,
        copied: None,
        join_key: JoinKeyId::from_bytes([5; 10]),
        created: WallMs(1),
    };
    for (before, after, waits) in [
        (NodeState::Confirmed, NodeState::Pending, true),
        (NodeState::Pending, NodeState::Pending, false),
        (NodeState::Revoked, NodeState::Revoked, false),
    ] {
        let bytes = humbled(Device::KIND, serde_json::to_value(device(before)).unwrap()).unwrap();
        let found: Device = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((found.state, found.restored), (after, waits), "{before}");
    }
    assert!(humbled(Device::KIND, serde_json::json!({ "id": 1 })).is_err());
}

#[tokio::test]
async fn whoever_does_not_take_a_backup_makes_it_wait() {
    let folder = Folder::new();
    let (organisation, _) = made(&folder).await;
    let text = "// as long as a policy may be\n".repeat(4_000);
    let files = vec![PolicyFile { name: "long.cedar".to_owned(), text }];
    let fill = |_: &Directory, draft: &mut Draft| {
        let (applied, applied_by) = (organisation.wall(), "test".to_owned());
        let revision = PolicyRevision {
            number: 1,
            files: files.clone(),
            applied,
            applied_by,
            digest: String::new(),
            policies: 0,
            restores: None,
            changes: None,
        };
        draft.put(PolicyRevision::CURRENT, &revision)?;
        (1..40).try_for_each(|n| {
            draft.put(&n, &crate::directory::PastPolicy(PolicyRevision { number: n, ..revision.clone() }))
        })?;
        Ok(((), entry("fill")))
    };
    organisation.change(fill).await.unwrap();
    let (_, recipient) = Identity::generate().unwrap();
    let readers = Readers { passphrase: None, recipients: vec![recipient] };
    let (pieces, mut taken) = mpsc::channel(BACKUP_CHUNKS_WAITING_MAX);
    let watched = pieces.clone();
    let making = tokio::spawn({
        let organisation = organisation.clone();
        async move { make::make(&organisation, entry("org.backup"), readers, &pieces).await }
    });
    while watched.capacity() > 0 {
        assert!(!making.is_finished(), "all of it fitted: the backup is too small for this test");
        tokio::task::yield_now().await;
    }
    drop(watched);
    assert!(!making.is_finished());
    let mut count = 0;
    while taken.recv().await.is_some() {
        count += 1;
    }
    assert!(count > BACKUP_CHUNKS_WAITING_MAX, "{count}");
    making.await.unwrap().unwrap();
}

#[test]
fn a_workload_and_whose_tokens_let_it_in_wait_after_a_restore() {
    use crate::directory::{Account, Trust, TrustSecret};
    let trust = crate::federation::tests::rule(&[]);
    let account = Account {
        id: trust.account,
        name: "build".parse().unwrap(),
        description: String::new(),
        groups: [].into(),
        disabled: false,
        restored: false,
        created: WallMs(1),
    };
    let read = |set, value| humbled(set, value).unwrap();
    let again: Account = serde_json::from_slice(&read(Account::KIND, serde_json::to_value(&account).unwrap())).unwrap();
    assert!(again.disabled && again.restored);
    let out = Account { disabled: true, ..account };
    let again: Account = serde_json::from_slice(&read(Account::KIND, serde_json::to_value(&out).unwrap())).unwrap();
    assert!(again.disabled && !again.restored, "it does not wait for a confirmation");
    let again: Trust = serde_json::from_slice(&read(Trust::KIND, serde_json::to_value(&trust).unwrap())).unwrap();
    assert_eq!(again, Trust { restored: true, ..trust });
    assert_eq!(fate(TrustSecret::KIND), Some(Fate::Sealed));
}
