//! Which key is a node's, at every step of a change.

use super::*;
use crate::directory::Name;
use crate::init::tests::made;
use crate::test_support::Folder;
use model::ids::{DeviceId, JoinKeyId};
use model::time::WallMs;

fn id(number: u8) -> DeviceId {
    DeviceId::from_bytes([number; 10])
}

fn node(number: u8) -> NodeId {
    NodeId::Device(id(number))
}

fn key(number: u8) -> PublicKey {
    PublicKey([number; 32])
}

fn test_entry() -> Entry {
    Entry::new(WallMs(1), "test", "test", "test", Outcome::Done)
}

/// An organisation with devices 1 and 2, whose keys are 11 and 12.
async fn organisation(folder: &Folder) -> Organisation {
    let (organisation, _) = made(folder).await;
    for number in [1, 2] {
        let make = |directory: &Directory, draft: &mut Draft| {
            claim(directory, draft, node(number), &key(10 + number))?;
            let name: Name = format!("laptop{number}").parse().unwrap();
            let device = Device {
                id: id(number),
                name,
                user: None,
                account: None,
                ephemeral: false,
                key: key(10 + number),
                next_key: None,
                address: "fd00::1".parse().unwrap(),
                v4: u32::from(number),
                svid_key: [0; 32],
                fingerprint: String::new(),
                state: NodeState::Confirmed,
                restored: false,
                copied: None,
                join_key: JoinKeyId::from_bytes([9; 10]),
                created: WallMs(1),
            };
            draft.create(&id(number), &device)?;
            Ok(((), test_entry()))
        };
        organisation.change(make).await.unwrap();
    }
    organisation
}

fn keys(organisation: &Organisation, number: u8) -> (PublicKey, Option<PublicKey>) {
    Held::find(&organisation.now(), node(number)).unwrap().keys()
}

#[tokio::test]
async fn a_key_is_announced_and_its_first_use_ends_the_one_before() {
    let folder = Folder::new();
    let organisation = organisation(&folder).await;
    announce(&organisation, node(1), key(21)).await.unwrap();
    assert_eq!(keys(&organisation, 1), (key(11), Some(key(21))));
    assert_eq!(organisation.now().node_of_key(&key(21)), Some(node(1)));
    let before = organisation.store.revision();
    announce(&organisation, node(1), key(21)).await.unwrap();
    assert_eq!(organisation.store.revision(), before, "the same again changes nothing");
    assert!(!used(&organisation, node(1), key(99)).await.unwrap());
    assert!(used(&organisation, node(1), key(21)).await.unwrap());
    assert_eq!(keys(&organisation, 1), (key(21), None));
    assert_eq!(organisation.now().node_of_key(&key(11)), None, "the old key is nobody's");
    assert!(!used(&organisation, node(1), key(21)).await.unwrap(), "it is in use already");
}

#[tokio::test]
async fn a_second_announcement_takes_the_place_of_the_first() {
    let folder = Folder::new();
    let organisation = organisation(&folder).await;
    announce(&organisation, node(1), key(21)).await.unwrap();
    announce(&organisation, node(1), key(22)).await.unwrap();
    assert_eq!(keys(&organisation, 1), (key(11), Some(key(22))));
    assert!(!used(&organisation, node(1), key(21)).await.unwrap());
    // The first one is free again.
    announce(&organisation, node(2), key(21)).await.unwrap();
}

#[tokio::test]
async fn nobody_takes_a_key_of_somebody_else_or_one_without_meaning() {
    let folder = Folder::new();
    let organisation = organisation(&folder).await;
    announce(&organisation, node(2), key(22)).await.unwrap();
    for foreign in [key(12), key(22)] {
        let refusal = announce(&organisation, node(1), foreign).await.unwrap_err();
        assert!(matches!(refusal, Refusal::Taken { .. }), "{refusal}");
    }
    assert!(matches!(announce(&organisation, node(1), PublicKey([0; 32])).await, Err(Refusal::Invalid(_))));
    assert!(matches!(announce(&organisation, node(3), key(31)).await, Err(Refusal::Denied(_))));
    assert_eq!(keys(&organisation, 1), (key(11), None));
}

#[tokio::test]
async fn a_revoked_node_changes_nothing_and_keeps_its_keys_from_others() {
    let folder = Folder::new();
    let organisation = organisation(&folder).await;
    announce(&organisation, node(1), key(21)).await.unwrap();
    let revoke = |directory: &Directory, draft: &mut Draft| {
        let fact = directory.devices.find(&id(1)).unwrap();
        draft.update(fact, &Device { state: NodeState::Revoked, ..fact.record.clone() })?;
        Ok(((), test_entry()))
    };
    organisation.change(revoke).await.unwrap();
    assert!(matches!(announce(&organisation, node(1), key(23)).await, Err(Refusal::Denied(_))));
    assert!(!used(&organisation, node(1), key(21)).await.unwrap());
    for old in [key(11), key(21)] {
        assert!(matches!(announce(&organisation, node(2), old).await, Err(Refusal::Taken { .. })));
    }
}

#[tokio::test]
async fn announcing_keys_has_a_rate_for_each_node() {
    use model::limits::KEY_CHANGES_PER_MINUTE;
    let folder = Folder::new();
    let mut organisation = organisation(&folder).await;
    organisation.clock = std::sync::Arc::new(crate::test_support::Still::default());
    let fresh = |n: u32| {
        let mut key = [77; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        PublicKey(key)
    };
    for n in 0..KEY_CHANGES_PER_MINUTE {
        announce(&organisation, node(1), fresh(n)).await.unwrap();
    }
    let revision = organisation.store.revision();
    for n in 1_000..1_100 {
        assert_eq!(announce(&organisation, node(1), fresh(n)).await, Err(Refusal::Often(1)));
    }
    assert_eq!(announce(&organisation, node(1), fresh(KEY_CHANGES_PER_MINUTE - 1)).await, Ok(()), "the same again");
    assert_eq!(organisation.store.revision(), revision);
    announce(&organisation, node(2), fresh(5_000)).await.unwrap();
}
