//! What does one gateway's word count, and what does an answer say when nobody has looked yet?

mod workloads;

use super::Arrangements;
use super::connect::{GATEWAY_WAIT_MAX, Reply, Wish};
use super::gateways::{Hello, HelloError};
use super::lines::GatewayNews;
use super::state::{StoredPairing, StoredReach};
use crate::directory::{Gateway, NodeState, SuffixName};
use crate::judge;
use crate::store::{Commit, Record as _};
use crate::test_support::{APPS, HQ, World, app, device, gateway, session, user};
use grant::ledger::Permit;
use model::ids::{GrantId, PairingId, SessionId, SiteId, SubjectId};
use model::key::{Psk, PublicKey};
use model::limits::{GATEWAY_STARTS_PER_MINUTE, LEASE_DEFAULT, REVOKE_WAIT_MAX};
use model::net::{PortRange, Protocol, Rule, Target};
use model::pool::NatPool;
use model::revision::Revision;
use std::sync::Arc;
use std::time::Duration;

fn nat() -> NatPool {
    NatPool { v4: "198.18.0.0/15".parse().unwrap(), v6: "fd99::/48".parse().unwrap() }
}

fn hello(boot: u64) -> Hello {
    let (seen, endpoints, version) = (Revision::default(), Vec::new(), "1".to_owned());
    Hello { seen, nat: nat(), endpoints, version, boot, pairing_key: PublicKey([6; 32]), witness: None }
}

/// A live grant of APPS for device 1 at gateway 1.
async fn grant(arrangements: &Arrangements) {
    grant_to(arrangements, 1, session(1), user(1).into()).await;
}

/// A live grant of APPS at gateway 1; its id has the number of the device.
async fn grant_to(arrangements: &Arrangements, number: u8, session: SessionId, subject: SubjectId) -> GrantId {
    let rule = Rule {
        client: "10.99.0.1/32".parse().unwrap(),
        target: Target::Prefix("10.20.0.1/32".parse().unwrap()),
        protocol: Protocol::Tcp,
        ports: PortRange::ALL,
    };
    let mut ledger = arrangements.ledger.lock().await;
    ledger.set_gateway(gateway(1), nat());
    let at = arrangements.moment();
    let permit = Permit {
        device: device(number),
        session,
        user: subject,
        resource: APPS,
        gateway: gateway(1),
        rules: vec![rule],
        lease: LEASE_DEFAULT,
        on_gateway: false,
        until: at.now.plus(2 * LEASE_DEFAULT),
        data_key: PublicKey([number; 32]),
        device_v4: "10.99.0.2".parse().unwrap(),
        device_v6: "fd00::1".parse().unwrap(),
        held: Vec::new(),
        moves: None,
        fresh_grant: GrantId::from_bytes([number; 10]),
        fresh_pairing: PairingId::from_bytes([number; 10]),
        fresh_psk: Psk::new([8; 32]),
    };
    let granted = ledger.grant(at, permit).unwrap();
    let revision = arrangements.next_revision(&ledger);
    ledger.commit(granted.grant, revision).unwrap();
    granted.grant
}

async fn set_state(world: &World, number: u8, state: NodeState) {
    let now = world.organisation.now();
    let held = &now.gateways.find(&gateway(number)).unwrap().record;
    let commit = Commit::default().put_record(&gateway(number), &Gateway { state, ..held.clone() }).unwrap();
    world.organisation.store.commit(commit).await.unwrap();
    world.organisation.directory.at_least(world.organisation.store.revision()).await;
}

#[tokio::test]
async fn which_names_have_ipv6_addresses_is_known_after_a_restart_too() {
    let world = World::new().await;
    world.name(0..2, None).await;
    let before = world.organisation.store.revision();
    world.arrangements.report_v6_names(gateway(1), [app(0)]);
    // It is written beside the stream.
    world.organisation.directory.at_least(Revision { number: before.number + 1, ..before }).await;
    let again = world.again().await;
    let has_v6 = |all: &Arrangements, n: usize| all.reach().has_v6(HQ, &app(n));
    assert!(has_v6(&again, 0) && !has_v6(&again, 1));
    // The same again is not written again.
    let revision = world.organisation.store.revision();
    again.report_v6_names(gateway(1), [app(0)]);
    // What nobody says any more is not known, nor kept.
    set_state(&world, 1, NodeState::Revoked).await;
    assert_eq!(world.organisation.store.revision().number, revision.number + 1);
    assert!(!has_v6(&*world.again().await, 0));
    assert!(world.organisation.store.scan(StoredReach::KIND).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn an_answer_before_the_review_names_every_gateway_with_live_grants() {
    let world = World::new().await;
    let arrangements = &world.arrangements;
    grant(arrangements).await;
    // Nobody reviews: as if the review were still busy with something else.
    let revision =
        Revision { number: world.organisation.store.revision().number + 1, ..world.organisation.store.revision() };
    let said = tokio::time::timeout(20 * REVOKE_WAIT_MAX, arrangements.settle(revision)).await.unwrap();
    assert_eq!(said, [(gateway(1), false, LEASE_DEFAULT)]);
}

#[tokio::test]
async fn a_gateway_that_may_come_is_waited_for_and_one_that_was_revoked_is_not() {
    let world = World::new().await;
    let wish = Wish {
        device: device(1),
        resource: APPS,
        data_key: PublicKey([7; 32]),
        held: Vec::new(),
        avoid: Vec::new(),
        moves: None,
    };
    world.name(0..1, None).await;
    let ask = async || {
        let began = std::time::Instant::now();
        match world.arrangements.connect(&wish).await {
            Reply::Deny { reasons, passing, .. } => (reasons.concat(), passing, began.elapsed()),
            permitted => panic!("{permitted:?}"),
        }
    };
    let (why, passing, waited) = ask().await;
    assert!(passing && why.contains("no gateway of its site is reachable"), "{why}");
    assert!(waited >= GATEWAY_WAIT_MAX, "{waited:?}");
    set_state(&world, 1, NodeState::Revoked).await;
    let (why, passing, waited) = ask().await;
    assert!(!passing && why.contains("its site has no gateway"), "{why}");
    assert!(waited < GATEWAY_WAIT_MAX, "{waited:?}: one that waits to be confirmed serves nobody");
}

/// Gateway 1 is there, and takes whatever it is told.
async fn obedient(world: &World) -> tokio::task::JoinHandle<()> {
    let arrangements = Arc::clone(&world.arrangements);
    let (news, mut told) = tokio::sync::mpsc::channel(64);
    arrangements.greet(gateway(1), hello(1)).await.unwrap();
    arrangements.lines.open_gateway(gateway(1), PublicKey([6; 32]), news);
    arrangements.renew(gateway(1), 1, Revision::default(), model::revision::Digest([0; 32])).await;
    tokio::spawn(async move {
        while let Some(news) = told.recv().await {
            let GatewayNews::Update { update, .. } = news else { continue };
            let at = match update {
                grant::sync::Update::Snapshot(whole) => whole.revision,
                grant::sync::Update::Delta(change) => change.to,
            };
            arrangements.acknowledge(gateway(1), at, Vec::new()).await;
        }
    })
}

#[tokio::test]
async fn a_grant_moves_into_a_fresh_tunnel_and_nothing_of_the_old_one_is_kept() {
    let world = World::new().await;
    world.name(0..1, None).await;
    let gateway_task = obedient(&world).await;
    let connect = async |key: u8, moves: Option<GrantId>| {
        let data_key = PublicKey([key; 32]);
        let wish = Wish { device: device(1), resource: APPS, data_key, held: Vec::new(), avoid: Vec::new(), moves };
        match world.arrangements.connect(&wish).await {
            Reply::Permit { grant, pairing, offer, .. } => (grant, pairing, offer.is_some()),
            denied @ Reply::Deny { .. } => panic!("{denied:?}"),
        }
    };
    let kept = async || {
        let scan = world.organisation.store.scan(<StoredPairing as crate::store::Record>::KIND).await.unwrap();
        let read = |(_, item): &(_, crate::store::Item)| serde_json::from_slice::<StoredPairing>(&item.value).unwrap();
        scan.items.iter().map(|found| read(found).record.id).collect::<Vec<_>>()
    };
    let (grant, first, _) = connect(7, None).await;
    assert_eq!(kept().await, [first]);
    let (same, second, offered) = connect(8, Some(grant)).await;
    assert!(same == grant && second != first && offered);
    assert_eq!(kept().await, [second]);
    // Who does not say so gets a grant of its own, and the one whose tunnel it does not know any more ends.
    let (other, third, _) = connect(9, None).await;
    assert!(other != grant && third != second);
    assert_eq!(kept().await, [third]);
    gateway_task.abort();
}

#[tokio::test]
async fn a_gateway_that_nobody_confirmed_learns_no_name_and_its_word_on_one_counts_nothing() {
    let world = World::new().await;
    let arrangements = &world.arrangements;
    world.name(0..3, None).await;
    assert_eq!(
        arrangements.standing_of(gateway(2)).map(|(_, confirmed, names)| (confirmed, names.len())),
        Some((false, 0))
    );
    assert_eq!(
        arrangements.standing_of(gateway(1)).map(|(_, confirmed, names)| (confirmed, names.len())),
        Some((true, 3))
    );
    assert!(arrangements.is_confirmed(gateway(1)) && !arrangements.is_confirmed(gateway(2)));
    let has_v6 = |n: usize| arrangements.reach().has_v6(HQ, &app(n));
    arrangements.report_v6_names(gateway(2), [app(0)]);
    assert!(!has_v6(0));
    arrangements.report_v6_names(gateway(1), [app(0)]);
    arrangements.report_v6_names(gateway(1), [app(7)]);
    assert!(has_v6(0) && !has_v6(7), "and on a name that there is not, nobody's");
    // What it said goes with it, and what another says stays.
    set_state(&world, 2, NodeState::Confirmed).await;
    arrangements.report_v6_names(gateway(2), [app(0)]);
    arrangements.report_v6_names(gateway(2), [app(1)]);
    set_state(&world, 2, NodeState::Revoked).await;
    arrangements.forget_reach(&world.organisation.now());
    assert!(has_v6(0) && !has_v6(1));
}

#[tokio::test]
async fn starts_of_a_gateway_have_a_rate_and_a_stream_that_breaks_costs_none() {
    let world = World::new().await;
    let arrangements = &world.arrangements;
    for boot in 1..=u64::from(GATEWAY_STARTS_PER_MINUTE) {
        arrangements.greet(gateway(2), hello(boot)).await.unwrap();
    }
    let audited = world.audited();
    for boot in 100..200 {
        let refused = arrangements.greet(gateway(2), hello(boot)).await;
        assert!(matches!(refused, Err(HelloError::Often(2))), "{refused:?}");
    }
    assert_eq!(world.audited(), audited);
    world.organisation.directory.at_least(world.organisation.store.revision()).await;
    for _ in 0..100 {
        arrangements.greet(gateway(2), hello(u64::from(GATEWAY_STARTS_PER_MINUTE))).await.unwrap();
    }
    assert_eq!(world.audited(), audited);
    arrangements.greet(gateway(1), hello(1)).await.unwrap();
}

#[tokio::test]
async fn names_of_one_site_are_not_anothers_and_new_ones_are_told_to_theirs_alone() {
    let world = World::new().await;
    let before = world.organisation.now();
    world.name(0..2, None).await;
    let now = world.organisation.now();
    let elsewhere = SiteId::from_bytes([9; 10]);
    assert!(judge::is_name_of_site(&now, HQ, &app(1)));
    assert!(!judge::is_name_of_site(&now, elsewhere, &app(1)) && !judge::is_name_of_site(&now, HQ, &app(2)));
    let head = |directory: &crate::directory::Directory| directory.head(<SuffixName as crate::store::Record>::KIND);
    assert_eq!(judge::sites_with_names_after(&now, head(&before)), [HQ].into());
    assert!(judge::sites_with_names_after(&now, head(&now)).is_empty());
}

#[tokio::test]
async fn new_names_reach_the_gateways_of_their_site() {
    let world = World::new().await;
    let arrangements = std::sync::Arc::clone(&world.arrangements);
    let (news, mut told) = tokio::sync::mpsc::channel(64);
    arrangements.greet(gateway(1), hello(1)).await.unwrap();
    arrangements.lines.open_gateway(gateway(1), PublicKey([6; 32]), news);
    let review = tokio::spawn(std::sync::Arc::clone(&arrangements).review_forever(Duration::from_secs(3_600)));
    // It looks what is there before anything is new.
    tokio::task::yield_now().await;
    arrangements.renew(gateway(1), 1, Revision::default(), model::revision::Digest([0; 32])).await;
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, told.recv()).await.expect("the first snapshot").unwrap();
    world.name(0..2, None).await;
    tokio::time::timeout(limit, told.recv()).await.expect("a snapshot with new names").unwrap();
    review.abort();
}
