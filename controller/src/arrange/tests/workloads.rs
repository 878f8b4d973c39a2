//! What does a machine reach that joined as a service account, and what ends it?

use super::*;
use crate::arrange::Arranger;
use crate::directory::{Account, Device, PolicyFile, PolicyRevision, Resource};
use crate::judge::{Asker, Standing, Verdict};
use crate::rpc::admin::AdminRpc;
use model::ids::{AccountId, ResourceId};
use model::time::WallMs;
use proto::admin as wire;
use proto::admin::admin_server::Admin as _;
use std::sync::Arc;
use tonic::Request;

const BUILD: AccountId = AccountId::from_bytes([3; 10]);
const OTHER: AccountId = AccountId::from_bytes([4; 10]);
const VAULT: ResourceId = ResourceId::from_bytes([2; 10]);
const POLICY: &str = r#"
    permit(principal in Group::"robots", action, resource == Resource::"apps1");
    permit(principal == User::"user1", action, resource);
    permit(principal is User, action, resource);
    permit(principal == Workload::"other", action, resource == Resource::"vault");
"#;

async fn put(world: &World, commit: Commit) {
    world.organisation.store.commit(commit).await.unwrap();
    world.organisation.directory.at_least(world.organisation.store.revision()).await;
}

/// Of the world, and beside it: the service accounts `build`, in the group `robots`, on device 3, and `other` on device 4; and a vault.
async fn world() -> World {
    let world = World::new().await;
    let now = world.organisation.now();
    let mut commit = Commit::default();
    let robots = || [("robots").parse().unwrap()].into();
    for (id, name, number, groups) in [(BUILD, "build", 3, robots()), (OTHER, "other", 4, [].into())] {
        let (name, description, created) = (name.parse().unwrap(), String::new(), WallMs(1));
        let account = Account { id, name, description, groups, disabled: false, restored: false, created };
        commit = commit.put_record(&id, &account).unwrap();
        let of = now.devices.find(&device(1)).unwrap().record.clone();
        let (v4, key) = (u32::from(number), PublicKey([number; 32]));
        let name = format!("runner{number}").parse().unwrap();
        let made = Device { id: device(number), name, user: None, account: Some(id), v4, key, ..of };
        commit = commit.put_record(&device(number), &made).unwrap();
    }
    let apps = now.resources.find(&APPS).unwrap().record.clone();
    let suffixes = ["vault.corp.example".parse().unwrap()].into();
    let vault = Resource { id: VAULT, name: "vault".parse().unwrap(), suffixes, ..apps };
    let file = PolicyFile { name: "p.cedar".to_owned(), text: POLICY.to_owned() };
    let policy = PolicyRevision { number: 2, files: vec![file], ..now.policy.as_ref().unwrap().record.clone() };
    let commit = commit.put_record(&VAULT, &vault).unwrap().put_record(PolicyRevision::CURRENT, &policy).unwrap();
    put(&world, commit).await;
    world.name(0..1, None).await;
    world
}

/// What a device may reach, by the number of the resource.
fn reach(world: &World, number: u8) -> Result<Vec<ResourceId>, Standing> {
    let (now, wall) = (world.organisation.now(), world.organisation.wall());
    let may = |resource| judge::judge(&now, device(number), resource, wall).map(|v| matches!(v, Verdict::Permit(_)));
    let mut found = Vec::new();
    for resource in [APPS, VAULT] {
        if may(resource)? {
            found.push(resource);
        }
    }
    Ok(found)
}

#[tokio::test]
async fn a_workload_needs_no_log_in_and_reaches_what_its_own_account_was_granted() {
    let world = world().await;
    assert_eq!(reach(&world, 3), Ok(vec![APPS]));
    assert_eq!(reach(&world, 4), Ok(vec![VAULT]), "what another's account may is another's");
    assert_eq!(reach(&world, 1), Ok(vec![APPS, VAULT]));
    let (now, wall) = (world.organisation.now(), world.organisation.wall());
    // What it may not reach is not there for it.
    assert!(matches!(judge::judge(&now, device(3), VAULT, wall), Ok(Verdict::Unknown)));
    let asker = judge::asker(&now, device(3), wall).unwrap();
    assert!(matches!(asker, Asker::Workload { .. }) && asker.id() == BUILD.into());
    assert_eq!(asker.session(), Account::standing(device(3)));
    assert!(matches!(judge::subject(&now, device(3), wall), Err(Standing::Workload)), "nobody is logged in on it");
    let seen = judge::catalogue(&now, &asker, &world.arrangements.reach(), wall);
    assert_eq!(seen.iter().map(|entry| entry.id).collect::<Vec<_>>(), [APPS]);
    // A person's session on the machine, should there be one, changes nothing.
    let session = now.sessions.find(&session(1)).unwrap().record.clone();
    let session = crate::directory::Session { device: device(3), created: WallMs(2), ..session };
    put(&world, Commit::default().put_record(&session.id, &session).unwrap()).await;
    assert_eq!(reach(&world, 3), Ok(vec![APPS]));
    // It outlives every session by time.
    let late = WallMs(wall.0 + 100 * 365 * 86_400_000);
    assert!(judge::asker(&world.organisation.now(), device(3), late).is_ok());
}

/// How a workload's access ends.
enum Kill {
    Disable,
    Remove,
    Revoke,
    LeaveGroup,
    Offboard,
}

#[tokio::test]
async fn whatever_takes_a_workload_away_ends_its_live_access_and_nobody_elses() {
    use Kill::{Disable, LeaveGroup, Offboard, Remove, Revoke};
    for kill in [Disable, Remove, Revoke, LeaveGroup, Offboard] {
        let world = world().await;
        let arrangements = Arc::clone(&world.arrangements);
        let his = grant_to(&arrangements, 1, session(1), user(1).into()).await;
        let its = grant_to(&arrangements, 3, Account::standing(device(3)), BUILD.into()).await;
        let review = tokio::spawn(Arc::clone(&arrangements).review_forever(Duration::from_secs(3_600)));
        let admin = AdminRpc::new(world.organisation.clone(), Arc::clone(&arrangements) as Arc<dyn Arranger>);
        let account = || "build".to_owned();
        match kill {
            Disable => {
                let request = wire::SetAccountEnabledRequest { account: account(), enabled: false };
                admin.set_account_enabled(Request::new(request)).await.unwrap();
            }
            Remove => {
                let request = wire::RemoveAccountRequest { account: account() };
                let reply = admin.remove_account(Request::new(request)).await.unwrap().into_inner();
                assert_eq!((reply.devices, reply.groups), (vec!["runner3".to_owned()], vec!["robots".to_owned()]));
            }
            Revoke => {
                let request = wire::RevokeDeviceRequest { device: "runner3".to_owned() };
                admin.revoke_device(Request::new(request)).await.unwrap();
            }
            LeaveGroup => {
                let group = crate::directory::Group { name: "robots".parse().unwrap(), created: WallMs(1) };
                put(&world, Commit::default().put_record(&group.name, &group).unwrap()).await;
                let group = "robots".to_owned();
                let request = wire::SetAccountGroupRequest { account: account(), group, member: false };
                admin.set_account_group(Request::new(request)).await.unwrap();
            }
            Offboard => {
                let request = wire::OffboardUserRequest { user: "user1".to_owned() };
                admin.offboard_user(Request::new(request)).await.unwrap();
            }
        }
        let ledger = arrangements.ledger.lock().await;
        let (person, workload) = (ledger.live(his).is_some(), ledger.live(its).is_some());
        drop(ledger);
        match kill {
            Offboard => assert!(!person && workload, "who leaves takes no program along"),
            _ => assert!(person && !workload),
        }
        review.abort();
        match kill {
            Disable => {
                assert_eq!(reach(&world, 3), Err(Standing::Account));
                let request = wire::SetAccountEnabledRequest { account: account(), enabled: true };
                admin.set_account_enabled(Request::new(request)).await.unwrap();
                assert_eq!(reach(&world, 3), Ok(vec![APPS]), "and back, without anybody logging in");
            }
            Remove | Revoke => assert_eq!(reach(&world, 3), Err(Standing::Device)),
            LeaveGroup => assert_eq!(reach(&world, 3), Ok(Vec::new())),
            Offboard => assert_eq!(reach(&world, 3), Ok(vec![APPS])),
        }
    }
}

#[tokio::test]
async fn a_grant_of_a_workload_is_written_on_the_condition_that_its_account_is_as_it_was() {
    let world = world().await;
    let (now, wall) = (world.organisation.now(), world.organisation.wall());
    let Ok(Verdict::Permit(ground)) = judge::judge(&now, device(3), APPS, wall) else { panic!("it may") };
    let keys: Vec<String> = ground.expectations(&now).iter().map(|(key, _)| key.to_string()).collect();
    for expected in [format!("account/{BUILD}"), format!("device/{}", device(3)), format!("resource/{APPS}")] {
        assert!(keys.contains(&expected), "{keys:?}");
    }
    assert!(!keys.iter().any(|key| key.starts_with("session/") || key.starts_with("user/")), "{keys:?}");
}

#[tokio::test]
async fn a_grant_in_another_s_name_is_ended() {
    let world = world().await;
    // The very session, for another account.
    let grant = grant_to(&world.arrangements, 3, Account::standing(device(3)), OTHER.into()).await;
    let ledger = world.arrangements.ledger.lock().await;
    let (live, at) = (ledger.live(grant).unwrap(), world.arrangements.moment());
    let found = crate::arrange::review::find(&world.organisation.now(), live, at);
    assert!(matches!(found, crate::arrange::review::Finding::End(_)), "{found:?}");
    assert_eq!(crate::arrange::review::still_permitted(&world.organisation.now(), live, at), None);
}
