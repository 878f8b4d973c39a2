//! The key of the last resort: once, loud, bounded.

use super::*;
use crate::store::Commit;
use crate::test_support::{World, user};
use model::limits::BREAK_GLASS_PER_MINUTE;

fn root() -> Caller {
    Caller::Admin { actor: "local:root".to_owned() }
}

async fn with_a_key() -> (World, Secret<String>) {
    let world = World::new().await;
    let (key, record) = make(world.organisation.wall()).unwrap();
    let commit = Commit::default().put_record(BreakGlass::ID, &record).unwrap();
    world.organisation.store.commit(commit).await.unwrap();
    world.organisation.directory.at_least(world.organisation.store.revision()).await;
    (world, key)
}

#[tokio::test]
async fn a_key_makes_one_owner_and_the_next_key() {
    let (world, first) = with_a_key().await;
    let organisation = &world.organisation;
    let record = organisation.now().break_glass.as_ref().unwrap().record.clone();
    assert!(!serde_json::to_string(&record).unwrap().contains(first.expose()), "it is kept as a hash");
    assert_eq!(alarm(&organisation.now()), None);
    let (_, _, second) = use_key(organisation, &root(), first.clone(), "user1").await.unwrap();
    let owner = organisation.now().users.find(&user(1)).unwrap().record.clone();
    assert!(owner.roles.contains(&AdminRole::Owner) && !owner.disabled);
    let told = alarm(&organisation.now()).unwrap();
    assert!(told.contains("`user1`") && told.contains("acknowledge"), "{told}");
    // The old one is spent; a line end of a file is none of the key's.
    assert!(use_key(organisation, &root(), first, "user2").await.is_err());
    let typed = Secret::new(format!("{}\n", second.expose()));
    let (_, _, third) = use_key(organisation, &root(), typed, "user2").await.unwrap();
    assert!(alarm(&organisation.now()).unwrap().contains("2 uses"));
    assert_ne!(third.expose(), second.expose());
}

#[tokio::test]
async fn wrong_keys_are_written_down_and_soon_not_looked_at() {
    let (world, key) = with_a_key().await;
    let organisation = &world.organisation;
    let before = world.audited();
    for n in 0..u64::from(BREAK_GLASS_PER_MINUTE) {
        let told = use_key(organisation, &root(), Secret::new("0".repeat(64)), "user1").await.unwrap_err();
        assert!(matches!(told, Refusal::Denied(_)), "{told}");
        assert_eq!(world.audited(), before + n + 1);
    }
    // Not the right one either, for a while, and nothing more is written.
    assert!(matches!(use_key(organisation, &root(), key, "user1").await, Err(Refusal::Often(_))));
    assert_eq!(world.audited(), before + u64::from(BREAK_GLASS_PER_MINUTE));
    assert!(organisation.now().users.find(&user(1)).unwrap().record.roles.is_empty());
}
