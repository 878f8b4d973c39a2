//! Are second factors given once, by whoever has them, and not guessed?

use super::*;
use crate::judge::Verdict;
use crate::store::{Commit, Expect, Record as _};
use crate::test_support::{APPS, Still, World, device, session, user};
use model::limits::{CODE_FAILURES_MAX, CODE_WAIT, FACTOR_CALLS_PER_MINUTE, FACTOR_PENDING};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A world whose time can be moved, and whose log-ins are of now.
pub(super) struct Moving {
    pub(super) world: World,
    clock: Arc<Still>,
}

pub(super) fn name(text: &str) -> Name {
    text.parse().unwrap()
}
fn secret(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

impl Moving {
    pub(super) async fn new() -> Self {
        let mut world = World::new().await;
        let clock = Arc::new(Still::default());
        world.organisation.clock = Arc::clone(&clock) as Arc<dyn model::time::Clock>;
        let moving = Self { world, clock };
        moving.log_in(1).await;
        moving
    }

    pub(super) fn organisation(&self) -> &Organisation {
        &self.world.organisation
    }

    pub(super) async fn log_in(&self, number: u8) {
        let fact = self.organisation().now().sessions.find(&session(number)).unwrap().clone();
        let fresh = Session { created: self.organisation().wall(), factor: None, ..fact.record.clone() };
        let commit = Commit::default().put_record(&session(number), &fresh).unwrap();
        self.organisation().store.commit(commit).await.unwrap();
        self.organisation().directory.at_least(self.organisation().store.revision()).await;
    }

    pub(super) fn wait(&self, time: Duration) {
        self.clock.0.fetch_add(u64::try_from(time.as_nanos()).unwrap(), Ordering::Relaxed);
    }

    /// The code that the app of this secret shows so many steps from now.
    pub(super) fn code(&self, begun: &Begun, steps: i64) -> Secret<String> {
        let digits = |c: char| "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".find(c).unwrap();
        let bits = begun.secret.expose().chars().flat_map(|c| (0..5).rev().map(move |bit| digits(c) >> bit & 1));
        let bytes = bits
            .collect::<Vec<_>>()
            .chunks_exact(8)
            .map(|byte| byte.iter().fold(0, |all, bit| all << 1 | *bit as u8))
            .collect();
        let step = totp::step_at(self.organisation().wall()) as i64 + steps;
        totp::code_of(&Secret::new(bytes), step as u64)
    }

    /// An app that counts, and the recovery codes.
    pub(super) async fn app(&self) -> (Begun, RecoveryCodes) {
        let begun = self.organisation().begin_totp(device(1), &name("phone")).await.unwrap();
        let codes = self.organisation().confirm_totp(device(1), begun.id, self.code(&begun, 0)).await.unwrap();
        (begun, codes)
    }

    pub(super) async fn verify(&self, code: Secret<String>) -> Result<Method, String> {
        // As if each came from a patient hand: what is tried here is not the rate.
        self.organisation().rates.lock().unwrap().forget_all();
        self.organisation()
            .verify_factor(device(1), code)
            .await
            .map(|(_, proof)| proof.method)
            .map_err(|e| e.to_string())
    }

    /// From now on everything takes a factor of the last five minutes by this method.
    pub(super) async fn demand(&self, method: &str) {
        let organisation = self.organisation();
        let held = organisation.now().policy.clone().unwrap();
        let text = format!(
            "@id(\"fresh\") permit(principal, action, resource) when {{ context.mfa_age_s < 300 && context.mfa_method == \"{method}\" }};"
        );
        let files = vec![crate::directory::PolicyFile { name: "p".into(), text }];
        let policy = crate::directory::PolicyRevision { files, ..held.record.clone() };
        let bytes = serde_json::to_vec(&policy).unwrap();
        organisation.store.commit(Commit::default().put(held.key.clone(), bytes)).await.unwrap();
        organisation.directory.at_least(organisation.store.revision()).await;
    }

    pub(super) fn factors(&self) -> Factors {
        of(&self.organisation().now(), user(1))
    }

    pub(super) fn proof(&self) -> Option<Proof> {
        self.organisation().now().sessions.find(&session(1)).unwrap().record.factor
    }
}

#[tokio::test]
async fn an_app_counts_after_its_first_code_and_each_code_is_taken_once() {
    let world = Moving::new().await;
    let organisation = world.organisation();
    assert!(world.verify(secret("000000")).await.unwrap_err().contains("umbra mfa add"));
    let begun = organisation.begin_totp(device(1), &name("phone")).await.unwrap();
    assert!(begun.uri.expose().contains("corp.example:user1?secret="), "{}", begun.uri.expose());
    assert!(world.factors().methods().is_empty());
    assert!(world.verify(world.code(&begun, 0)).await.unwrap_err().contains("umbra mfa add"), "it does not count yet");
    let codes = organisation.confirm_totp(device(1), begun.id, world.code(&begun, 0)).await.unwrap();
    assert_eq!(codes.len(), RECOVERY_CODES);
    assert_eq!(world.proof().map(|proof| proof.method), Some(Method::Totp), "whoever shows a code has given one");
    assert!(organisation.confirm_totp(device(1), begun.id, world.code(&begun, 1)).await.is_err(), "once");
    // The code of the confirmation, and everything before it, is spent.
    assert_eq!(world.verify(world.code(&begun, 0)).await.unwrap_err(), USED);
    assert_eq!(world.verify(world.code(&begun, -1)).await.unwrap_err(), USED);
    assert_eq!(world.verify(world.code(&begun, 2)).await.unwrap_err(), WRONG);
    world.wait(Duration::from_secs(90));
    let code = world.code(&begun, 0);
    let (organisation, device) = (organisation.clone(), device(1));
    let tries = (0..8).map(|_| {
        let (organisation, code) = (organisation.clone(), Secret::new(code.expose().clone()));
        tokio::spawn(async move { organisation.verify_factor(device, code).await.is_ok() })
    });
    let mut right = 0;
    for tried in tries.collect::<Vec<_>>() {
        right += u32::from(tried.await.unwrap());
    }
    assert_eq!(right, 1, "of equal codes at once, one is taken");
    assert_eq!(world.factors().wrong, 7);
}

#[tokio::test]
async fn ten_wrong_codes_lock_and_a_right_one_is_not_told_apart_then() {
    let world = Moving::new().await;
    let (begun, codes) = world.app().await;
    world.wait(Duration::from_secs(90));
    for n in 0..CODE_FAILURES_MAX {
        assert_eq!(world.verify(secret("x")).await.unwrap_err(), WRONG, "{n}");
    }
    let locked = world.verify(world.code(&begun, 0)).await.unwrap_err();
    assert!(locked.contains("wait 15 min"), "{locked}");
    assert_eq!(world.verify(Secret::new(codes[0].expose().clone())).await.unwrap_err(), locked);
    assert_eq!(world.verify(secret("x")).await.unwrap_err(), locked, "and it is not counted");
    assert_eq!(world.factors().wrong, CODE_FAILURES_MAX);
    // Nor by logging in again, nor by beginning another app.
    world.log_in(1).await;
    assert_eq!(world.verify(world.code(&begun, 0)).await.unwrap_err(), locked);
    world.wait(CODE_WAIT);
    assert_eq!(world.verify(world.code(&begun, 0)).await, Ok(Method::Totp));
    assert_eq!(world.factors().wrong, 0);
    let trail = world.organisation().store.audit_head().1.seq;
    assert!(trail >= u64::from(CODE_FAILURES_MAX), "each wrong code is on record");
}

#[tokio::test]
async fn a_recovery_code_works_once_and_new_ones_end_the_old_ones() {
    let world = Moving::new().await;
    let (_, codes) = world.app().await;
    let typed = |at: usize| Secret::new(codes[at].expose().clone());
    assert_eq!(world.verify(typed(3)).await, Ok(Method::RecoveryCode));
    assert_eq!(world.verify(typed(3)).await.unwrap_err(), WRONG);
    // As people type: without the dashes, in small letters.
    let small = secret(&codes[4].expose().replace('-', " ").to_lowercase());
    assert_eq!(world.verify(small).await, Ok(Method::RecoveryCode));
    assert_eq!(world.factors().recovery.len(), RECOVERY_CODES - 2);
    let fresh = world.organisation().renew_recovery(device(1)).await.unwrap();
    assert_eq!((fresh.len(), world.factors().recovery.len()), (RECOVERY_CODES, RECOVERY_CODES));
    assert_eq!(world.verify(typed(5)).await.unwrap_err(), WRONG);
    assert_eq!(world.verify(Secret::new(fresh[5].expose().clone())).await, Ok(Method::RecoveryCode));
    // What lies in the store cannot be read back.
    let kept = serde_json::to_string(&world.factors()).unwrap();
    assert!(codes.iter().chain(&fresh).all(|code| !kept.contains(&code.expose().replace('-', ""))));
    assert!(!format!("{:?}", world.factors()).contains("argon2id"));
}

#[tokio::test]
async fn who_finds_a_machine_unlocked_does_not_make_it_theirs() {
    let world = Moving::new().await;
    let organisation = world.organisation();
    world.wait(FACTOR_CHANGE_AGE + Duration::from_secs(1));
    let late = organisation.begin_totp(device(1), &name("mine")).await.err().unwrap().to_string();
    assert!(late.contains("log in again"), "{late}");
    world.log_in(1).await;
    let (begun, _) = world.app().await;
    world.wait(FACTOR_CHANGE_AGE + Duration::from_secs(1));
    world.log_in(1).await;
    // The password alone is not enough where there is a second factor.
    for refused in [
        organisation.begin_totp(device(1), &name("mine")).await.err(),
        organisation.remove_factor(device(1), "phone").await.err(),
        organisation.renew_recovery(device(1)).await.err(),
    ] {
        assert!(refused.unwrap().to_string().contains("umbra mfa verify"));
    }
    world.verify(world.code(&begun, 0)).await.unwrap();
    organisation.begin_totp(device(1), &name("spare")).await.unwrap();
    // Another's device and session know nothing of it.
    assert!(organisation.remove_factor(device(2), "phone").await.unwrap_err().to_string().contains("no such"));
    assert!(organisation.verify_factor(device(2), world.code(&begun, 1)).await.is_err());
}

#[tokio::test]
async fn what_is_removed_counts_no_longer_also_where_it_was_given() {
    let world = Moving::new().await;
    let (begun, _) = world.app().await;
    let organisation = world.organisation();
    assert!(world.proof().is_some());
    organisation.remove_factor(device(1), &begun.id.to_string()).await.unwrap();
    assert_eq!((world.proof(), world.factors().methods()), (None, Vec::new()));
    assert!(world.factors().recovery.is_empty());
    assert!(organisation.now().factor_secrets.is_empty(), "its secret is gone");
    assert!(organisation.remove_factor(device(1), "phone").await.unwrap_err().to_string().contains("umbra mfa ls"));
}

#[tokio::test]
async fn so_many_factors_and_so_many_calls_fit() {
    let world = Moving::new().await;
    let organisation = world.organisation();
    for n in 0..FACTORS_PER_USER_MAX {
        organisation.rates.lock().unwrap().forget_all();
        let begun = organisation.begin_totp(device(1), &name(&format!("app{n}"))).await.unwrap();
        organisation.confirm_totp(device(1), begun.id, world.code(&begun, 0)).await.unwrap();
    }
    let full = organisation.begin_totp(device(1), &name("one-more")).await.err().unwrap();
    assert!(full.to_string().contains("as many as one may"), "{full}");
    organisation.remove_factor(device(1), "app3").await.unwrap();
    // What was begun and never finished makes room for the next, and its secret goes.
    world.log_in(1).await;
    world.wait(Duration::from_secs(60));
    organisation.rates.lock().unwrap().forget_all();
    assert!(organisation.begin_totp(device(1), &name("x")).await.err().unwrap().to_string().contains("mfa verify"));
    let secrets = organisation.now().factor_secrets.len();
    assert_eq!(secrets, FACTORS_PER_USER_MAX - 1);
    organisation.rates.lock().unwrap().forget_all();
    let calls = 2 * FACTOR_CALLS_PER_MINUTE;
    let mut often = 0;
    for _ in 0..calls {
        often += u32::from(matches!(organisation.verify_factor(device(1), secret("x")).await, Err(Refusal::Often(_))));
    }
    assert_eq!(often, calls - FACTOR_CALLS_PER_MINUTE);
    let long = Secret::new("1".repeat(CODE_MAX + 1));
    organisation.rates.lock().unwrap().forget_all();
    assert!(matches!(organisation.verify_factor(device(1), long).await, Err(Refusal::Invalid(_))));
}

#[tokio::test]
async fn what_was_begun_is_over_after_a_while() {
    let world = Moving::new().await;
    let organisation = world.organisation();
    let begun = organisation.begin_totp(device(1), &name("phone")).await.unwrap();
    world.wait(FACTOR_PENDING);
    world.log_in(1).await;
    let over = organisation.confirm_totp(device(1), begun.id, world.code(&begun, 0)).await.err().unwrap();
    assert!(over.to_string().contains("begin again"), "{over}");
    organisation.begin_totp(device(1), &name("phone")).await.unwrap();
    assert_eq!(organisation.now().factor_secrets.len(), 1);
}

#[tokio::test]
async fn a_secret_opens_only_for_its_own_factor() {
    let world = Moving::new().await;
    let organisation = world.organisation();
    let (begun, _) = world.app().await;
    let other = organisation.begin_totp(device(1), &name("other")).await.unwrap();
    // Somebody who can write to the store puts the secret of one under the other.
    let sealed = organisation.now().factor_secrets.find(&other.id).unwrap().record.clone();
    let key = crate::store::Key::of(FactorSecret::KIND, begun.id).unwrap();
    let mut commit = Commit::default().put_record(&begun.id, &sealed).unwrap();
    commit.expect.push((key, Expect::Revision(organisation.now().factor_secrets.find(&begun.id).unwrap().revision)));
    organisation.store.commit(commit).await.unwrap();
    organisation.directory.at_least(organisation.store.revision()).await;
    world.wait(Duration::from_secs(60));
    let refused = world.verify(world.code(&other, 0)).await.unwrap_err();
    assert!(refused.contains("does not open"), "{refused}");
}

#[tokio::test]
async fn a_resource_that_wants_a_fresh_factor_says_which_would_do() {
    let world = Moving::new().await;
    let organisation = world.organisation();
    let directory = || organisation.now();
    world.demand("totp").await;
    let judged = || match judge::judge(&directory(), device(1), APPS, organisation.wall()).unwrap() {
        Verdict::Permit(_) => Ok(()),
        Verdict::Deny { reasons, step_up } => Err((reasons, step_up)),
        Verdict::Unknown => panic!("unknown"),
    };
    let (reasons, step_up) = judged().unwrap_err();
    assert!(
        reasons[0].contains("no second factor was given") && reasons[0].contains("umbra mfa verify"),
        "{reasons:?}"
    );
    assert_eq!(step_up, [Method::Totp], "also for who has none yet");
    let (begun, codes) = world.app().await;
    assert_eq!(judged(), Ok(()));
    world.wait(Duration::from_secs(300));
    assert_eq!(judged().unwrap_err().1, [Method::Totp], "a recovery code would not do, and is not named");
    world.verify(Secret::new(codes[0].expose().clone())).await.unwrap();
    assert_eq!(judged().unwrap_err().1, [Method::Totp]);
    world.verify(world.code(&begun, 0)).await.unwrap();
    assert_eq!(judged(), Ok(()));
    // In this session, not in the next.
    world.log_in(1).await;
    assert!(judged().is_err());
    // A clock that was set back makes it unknown, not young.
    world.wait(Duration::from_secs(60));
    world.verify(world.code(&begun, 0)).await.unwrap();
    assert_eq!(judged(), Ok(()));
    world.clock.0.fetch_sub(45_000_000_000, Ordering::Relaxed);
    assert!(judged().is_err());
}
