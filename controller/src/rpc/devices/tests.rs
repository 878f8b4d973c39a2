//! What may one laptop do to what others share: names below suffixes, and accounts?

use super::*;
use crate::judge::Verdict;
use crate::store::Commit;
use crate::test_support::{APPS, World, app, device};
use model::limits::{LOGIN_FAILURES_MAX, RULES_PER_GRANT_MAX, SUFFIX_NAMES_PER_MINUTE};
use model::net::{Rule, Target};
use tonic::Code;

/// As many as fit into a grant of APPS: one port, two addresses a name.
const ROOM: usize = RULES_PER_GRANT_MAX / 2;

fn service(world: &World) -> DevicesRpc {
    DevicesRpc::new(world.organisation.clone(), Arc::clone(&world.arrangements))
}

/// The rules of a grant of APPS now.
fn rules(world: &World) -> Vec<Rule> {
    let directory = world.organisation.now();
    let pool = directory.org.as_ref().unwrap().record.pool;
    match judge::judge(&directory, device(2), APPS, world.organisation.wall()).unwrap() {
        Verdict::Permit(ground) => ground.rules(&directory, &pool).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_name_too_many_is_refused_to_who_asks_and_no_grant_suffers() {
    let world = World::new().await;
    let service = service(&world);
    world.name(0..ROOM - 1, None).await;
    service.assign(device(1), &app(ROOM - 1)).await.unwrap();
    world.organisation.directory.at_least(world.organisation.store.revision()).await;
    assert_eq!(rules(&world).len(), RULES_PER_GRANT_MAX);
    let refused = service.assign(device(1), &app(ROOM)).await.unwrap_err();
    assert!(matches!(&refused, Refusal::InUse(why) if why.contains("fit into a grant")), "{refused}");
    assert_eq!(rules(&world).len(), RULES_PER_GRANT_MAX);
    // A store that holds more already, from before there was such a bound: what was there first stays reachable.
    world.name(ROOM..ROOM + 50, None).await;
    let rules = rules(&world);
    assert_eq!(rules.len(), RULES_PER_GRANT_MAX);
    assert!((0..ROOM).all(|n| rules.iter().any(|rule| rule.target == Target::Name(app(n)))));
    assert!(service.assign(device(1), &app(ROOM + 1)).await.is_err(), "an address that no grant leads to");
}

#[tokio::test]
async fn one_device_leaves_names_for_others() {
    let world = World::new().await;
    let service = service(&world);
    world.name(0..ROOM / 2, Some(device(1))).await;
    let refused = service.assign(device(1), &app(ROOM)).await.unwrap_err();
    assert!(matches!(&refused, Refusal::InUse(why) if why.contains("half of all")), "{refused}");
    service.assign(device(2), &app(ROOM)).await.unwrap();
}

#[tokio::test]
async fn one_device_makes_only_so_many_names_in_all() {
    let world = World::new().await;
    let service = service(&world);
    let elsewhere = ResourceId::from_bytes([9; 10]);
    let name = |n: usize| format!("n{n}.elsewhere.example").parse::<HostName>().unwrap();
    for n in 1..=SUFFIX_NAMES_PER_DEVICE_MAX {
        let number = u32::try_from(50_000 + n).unwrap();
        let made = SuffixName { resource: elsewhere, name: name(n), number, by: Some(device(1)) };
        let commit = Commit::default().put_record(&*SuffixName::id(elsewhere, &name(n)), &made).unwrap();
        if n == SUFFIX_NAMES_PER_DEVICE_MAX {
            world.organisation.directory.at_least(world.organisation.store.revision()).await;
            service.assign(device(1), &app(0)).await.unwrap();
            continue;
        }
        world.organisation.store.commit(commit).await.unwrap();
    }
    world.organisation.directory.at_least(world.organisation.store.revision()).await;
    let refused = service.assign(device(1), &app(1)).await.unwrap_err();
    assert!(matches!(&refused, Refusal::InUse(why) if why.contains("as many as one may")), "{refused}");
    service.assign(device(2), &app(1)).await.unwrap();
}

#[tokio::test]
async fn new_names_of_a_device_have_a_rate_and_held_ones_cost_nothing() {
    let world = World::new().await;
    let service = service(&world);
    for n in 0..SUFFIX_NAMES_PER_MINUTE as usize {
        service.assign(device(1), &app(n)).await.unwrap();
    }
    let refused = service.assign(device(1), &app(900)).await.unwrap_err();
    assert_eq!(refused, Refusal::Often(2));
    assert_eq!(super::refused(refused).code(), Code::ResourceExhausted);
    assert!(world.organisation.refused.counters().any(|counter| counter == ("node_too_often", 1)));
    world.organisation.directory.at_least(world.organisation.store.revision()).await;
    let (revision, audited) = (world.organisation.store.revision(), world.audited());
    let first = service.assign(device(1), &app(0)).await.unwrap();
    for _ in 0..1_000 {
        assert_eq!(service.assign(device(1), &app(0)).await.unwrap(), first);
        assert_eq!(service.assign(device(2), &app(0)).await.unwrap(), first);
    }
    assert_eq!((world.organisation.store.revision(), world.audited()), (revision, audited));
    service.assign(device(2), &app(900)).await.unwrap();
}

#[tokio::test]
async fn nobody_is_locked_out_from_a_device_that_is_not_theirs() {
    let world = World::new().await;
    let service = service(&world);
    let now = world.organisation.clock.now();
    let wait = |user: &str, number: u8| world.organisation.failures.lock().unwrap().wait(now, user, device(number));
    for n in 0..2 * LOGIN_FAILURES_MAX {
        let refused = service.check_password(device(1), "user2", format!("wrong {n}")).await.unwrap_err();
        let code = if n < LOGIN_FAILURES_MAX { Code::PermissionDenied } else { Code::ResourceExhausted };
        assert_eq!(refused.code(), code, "{refused}");
    }
    assert_eq!(wait("user2", 2), None, "user 2 can log in on their own device");
    assert!(wait("user1", 1).is_some(), "the device waits");
    // On their own device, and on one that is nobody's, failures count for them.
    for n in 0..LOGIN_FAILURES_MAX {
        service.check_password(device(2), "user2", format!("wrong {n}")).await.unwrap_err();
    }
    assert!(wait("user2", 3).is_some());
}

#[tokio::test]
async fn who_proves_again_who_they_are_goes_on_with_the_log_in_they_have() {
    let world = World::new().await;
    let service = service(&world);
    let directory = world.organisation.now();
    let hash = directory.user("user1").unwrap().record.password.clone().unwrap();
    let first = service.open_session(device(1), "user1", &hash).await.unwrap();
    let mut given = first.clone();
    given.factor = Some(Proof { method: crate::directory::Method::Totp, at: first.created });
    let commit = Commit::default().put_record(&first.id, &given).unwrap();
    world.organisation.store.commit(commit).await.unwrap();
    world.organisation.directory.at_least(world.organisation.store.revision()).await;
    let again = service.open_session(device(1), "user1", &hash).await.unwrap();
    assert_eq!(
        (again.id, again.created, again.factor),
        (first.id, first.created, given.factor),
        "all that is open stays"
    );
    let wall = world.organisation.wall();
    assert!(again.ends == wall.plus(world.organisation.timing.session) && again.proved_at() == Some(wall));
    // One that was ended does not come back.
    let mut ended = again.clone();
    ended.ended = true;
    let commit = Commit::default().put_record(&ended.id, &ended).unwrap();
    world.organisation.store.commit(commit).await.unwrap();
    world.organisation.directory.at_least(world.organisation.store.revision()).await;
    let fresh = service.open_session(device(1), "user1", &hash).await.unwrap();
    assert!(fresh.id != first.id && fresh.factor.is_none());
}
