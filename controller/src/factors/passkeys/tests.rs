//! Are passkeys added and shown by whom they belong to, once for each question, and counted where they are not?

use super::NOTHING;
use crate::audit::{Outcome, Query, Record};
use crate::directory::{Method, Refusal, Session};
use crate::factors::of;
use crate::factors::tests::{Moving, name};
use crate::judge::{self, Verdict};
use crate::passkey::Fault;
use crate::passkey::test_authenticator::Authenticator;
use crate::store::Commit;
use crate::test_support::{APPS, device, session as session_id, user};
use model::ids::DeviceId;
use model::limits::{
    CODE_FAILURES_MAX, CODE_WAIT, FACTOR_CHANGE_AGE, FACTOR_PENDING, FACTORS_PER_USER_MAX, PASSKEY_ANSWER_MAX,
    PASSKEY_LIFE, RECOVERY_CODES,
};
use model::secret::Secret;
use serde_json::Value;
use std::time::Duration;

const PORT: u16 = 40_123;
const SECOND: Duration = Duration::from_secs(1);

impl Moving {
    fn patient(&self) -> &crate::organisation::Organisation {
        // As if each came from a patient hand: what is tried here is not the rate.
        self.organisation().rates.lock().unwrap().forget_all();
        self.organisation()
    }

    /// A passkey of this name, on a fresh authenticator.
    async fn passkey(&self, text: &str) -> Authenticator {
        let mut authenticator = Authenticator::new("ES256");
        self.add(device(1), &mut authenticator, text).await.unwrap();
        authenticator
    }

    async fn add(&self, device: DeviceId, with: &mut Authenticator, text: &str) -> Result<usize, String> {
        let question = self.patient().begin_passkey(device, &name(text), PORT).map_err(|e| e.to_string())?;
        let answer = with.create(&question, PORT);
        self.organisation().confirm_passkey(device, &answer).await.map(|codes| codes.len()).map_err(|e| e.to_string())
    }

    fn ask(&self, device: DeviceId) -> Result<Value, String> {
        self.patient().ask_passkey(device, Some(APPS), PORT).map_err(|e| e.to_string())
    }

    async fn answer(&self, device: DeviceId, answer: &[u8]) -> Result<Method, String> {
        let shown = self.patient().verify_passkey(device, answer).await;
        shown.map(|(_, proof)| proof.method).map_err(|e| e.to_string())
    }

    async fn show(&self, with: &mut Authenticator) -> Result<Method, String> {
        let question = self.ask(device(1))?;
        self.answer(device(1), &with.get(&question, PORT)).await
    }

    /// Another log-in at a device, which ends those before.
    async fn log_in_anew(&self, number: u8, session: u8) {
        self.end_sessions().await;
        let held = self.organisation().now().sessions.find(&session_id(number)).unwrap().record.clone();
        let id = session_id(session);
        let fresh = Session { id, created: self.organisation().wall(), ended: false, factor: None, ..held };
        self.write(Commit::default().put_record(&id, &fresh).unwrap()).await;
    }

    async fn end_sessions(&self) {
        let mut commit = Commit::default();
        for fact in self.organisation().now().sessions.values() {
            let ended = Session { ended: true, ..fact.record.clone() };
            commit = commit.put_record(&ended.id, &ended).unwrap();
        }
        self.write(commit).await;
    }

    async fn write(&self, commit: Commit) {
        self.organisation().store.commit(commit).await.unwrap();
        self.organisation().directory.at_least(self.organisation().store.revision()).await;
    }

    async fn audited(&self, action: &str) -> Record {
        let query = Query { action: Some(action.to_owned()), limit: 1, ..Query::default() };
        self.organisation().store.audit(query).await.unwrap().remove(0)
    }
}

fn refused(fault: Fault) -> Result<Method, String> {
    Err(fault.reason().to_owned())
}

#[tokio::test]
async fn a_passkey_counts_once_it_was_made_and_each_answer_is_taken_once() {
    let world = Moving::new().await;
    assert!(world.ask(device(1)).unwrap_err().contains("umbra mfa add --passkey"));
    let mut key = Authenticator::new("EdDSA");
    let question = world.patient().begin_passkey(device(1), &name("key"), PORT).unwrap();
    assert_eq!(question["publicKey"]["rp"]["name"], "corp.example");
    assert!(world.factors().methods().is_empty(), "it does not count yet");
    let answer = key.create(&question, PORT);
    let codes = world.organisation().confirm_passkey(device(1), &answer).await.unwrap();
    assert_eq!(codes.len(), RECOVERY_CODES);
    assert_eq!(world.proof().map(|proof| proof.method), Some(Method::PasskeyLocal), "who made it has shown it");
    assert_eq!(world.factors().methods(), [Method::PasskeyLocal, Method::RecoveryCode]);
    let again = world.patient().confirm_passkey(device(1), &answer).await.err().unwrap();
    assert_eq!(again.to_string(), NOTHING);

    let question = world.ask(device(1)).unwrap();
    let answer = key.get(&question, PORT);
    assert_eq!(world.answer(device(1), &answer).await, Ok(Method::PasskeyLocal));
    let entry = world.audited("mfa.verify").await;
    assert_eq!((entry.outcome, &entry.detail["method"]), (Outcome::Done, &"passkey-local".into()));
    assert_eq!(entry.detail["for"], APPS.to_string());
    // The same answer again, with no question open, and with the next one.
    assert_eq!(world.answer(device(1), &answer).await, Err(NOTHING.to_owned()));
    assert_eq!(world.factors().wrong, 0, "nobody guesses there");
    world.ask(device(1)).unwrap();
    assert_eq!(world.answer(device(1), &answer).await, refused(Fault::Challenge));
    assert_eq!(world.factors().wrong, 1);
    assert_eq!(world.show(&mut key).await, Ok(Method::PasskeyLocal));
    assert_eq!(world.factors().wrong, 0, "a right answer ends the row");
    // Of equal answers at once, one is taken.
    let question = world.ask(device(1)).unwrap();
    let answer = key.get(&question, PORT);
    let tries = (0..8).map(|_| {
        let (organisation, answer) = (world.organisation().clone(), answer.clone());
        tokio::spawn(async move { organisation.verify_passkey(device(1), &answer).await.is_ok() })
    });
    let mut right = 0;
    for tried in tries.collect::<Vec<_>>() {
        right += u32::from(tried.await.unwrap());
    }
    assert_eq!(right, 1);
}

#[tokio::test]
async fn an_answer_is_for_one_device_one_log_in_one_kind_of_question_and_a_few_minutes() {
    let world = Moving::new().await;
    let mut key = world.passkey("key").await;
    world.log_in(2).await;
    let mut other = Authenticator::new("ES256");
    world.add(device(2), &mut other, "key").await.unwrap();

    // Another device: with a question of its own, and with none.
    let question = world.ask(device(1)).unwrap();
    let answer = key.get(&question, PORT);
    assert_eq!(world.answer(device(2), &answer).await, Err(NOTHING.to_owned()));
    world.ask(device(2)).unwrap();
    assert_eq!(world.answer(device(2), &answer).await, refused(Fault::Credential));
    world.ask(device(2)).unwrap();
    assert_eq!(world.answer(device(2), &other.get(&question, PORT)).await, refused(Fault::Challenge));
    assert_eq!(world.answer(device(1), &answer).await, Ok(Method::PasskeyLocal), "it waited for its own");

    // Another log-in on the same device.
    let question = world.ask(device(1)).unwrap();
    world.log_in_anew(1, 7).await;
    assert_eq!(world.answer(device(1), &key.get(&question, PORT)).await, Err(NOTHING.to_owned()));
    assert_eq!(world.organisation().now().sessions.find(&session_id(7)).unwrap().record.factor, None);
    assert_eq!(world.show(&mut key).await, Ok(Method::PasskeyLocal));

    // The other kind of question.
    world.patient().begin_passkey(device(1), &name("more"), PORT).unwrap();
    let question = world.ask(device(1)).unwrap();
    let made = Authenticator::new("ES256").create(&question, PORT);
    let error = world.patient().confirm_passkey(device(1), &made).await.err().unwrap();
    assert_eq!(error.to_string(), NOTHING, "the newest question is another one");
    let question = world.patient().begin_passkey(device(1), &name("more"), PORT).unwrap();
    assert_eq!(world.answer(device(1), &key.get(&question, PORT)).await, Err(NOTHING.to_owned()));
    world.ask(device(1)).unwrap();
    let answer = world.patient().verify_passkey(device(1), &made).await.err().unwrap();
    assert!(matches!(answer, Refusal::Invalid(_)), "what was made is not shown: {answer}");

    // In time, and not.
    let question = world.ask(device(1)).unwrap();
    world.wait(PASSKEY_LIFE - SECOND);
    assert_eq!(world.answer(device(1), &key.get(&question, PORT)).await, Ok(Method::PasskeyLocal));
    let question = world.ask(device(1)).unwrap();
    world.wait(PASSKEY_LIFE);
    assert_eq!(world.answer(device(1), &key.get(&question, PORT)).await, Err(NOTHING.to_owned()));
    // Another port is another page.
    let question = world.ask(device(1)).unwrap();
    assert_eq!(world.answer(device(1), &key.get(&question, PORT + 1)).await, refused(Fault::Origin));
    // Who is logged out has no question.
    let question = world.ask(device(1)).unwrap();
    world.end_sessions().await;
    assert!(world.answer(device(1), &key.get(&question, PORT)).await.unwrap_err().contains("umbra login"));
    assert!(world.ask(device(1)).unwrap_err().contains("umbra login"));
}

#[tokio::test]
async fn ten_wrong_answers_lock_as_ten_wrong_codes_do() {
    let world = Moving::new().await;
    let mut key = world.passkey("key").await;
    world.app().await;
    for n in 0..CODE_FAILURES_MAX - 1 {
        let question = world.ask(device(1)).unwrap();
        let wrong = if n % 2 == 0 { Authenticator::new("ES256").get(&question, PORT) } else { key.get(&question, 1) };
        let fault = if n % 2 == 0 { Fault::Credential } else { Fault::Origin };
        assert_eq!(world.answer(device(1), &wrong).await, refused(fault), "{n}");
        let entry = world.audited("mfa.verify").await;
        assert_eq!((entry.outcome, &entry.detail["wrong_in_a_row"]), (Outcome::Deny, &(n + 1).into()));
        assert_eq!(entry.detail["reason"], fault.reason());
    }
    // What can be no answer is not counted, and does not end the question.
    let question = world.ask(device(1)).unwrap();
    for none in [&b""[..], b"{}", &vec![b' '; PASSKEY_ANSWER_MAX + 1]] {
        assert!(world.answer(device(1), none).await.unwrap_err().contains("no answer of a passkey"));
    }
    assert_eq!(world.factors().wrong, CODE_FAILURES_MAX - 1);
    // A wrong code is the tenth: both have one limit.
    assert!(world.verify(Secret::new("x".to_owned())).await.is_err());
    let locked = world.answer(device(1), &key.get(&question, PORT)).await.unwrap_err();
    assert!(locked.contains("wait 15 min"), "{locked}");
    assert_eq!(world.ask(device(1)).unwrap_err(), locked);
    world.log_in(1).await;
    assert_eq!(world.ask(device(1)).unwrap_err(), locked, "nor by logging in again");
    world.wait(CODE_WAIT);
    assert_eq!(world.show(&mut key).await, Ok(Method::PasskeyLocal));
    assert_eq!(world.factors().wrong, 0);
    // Neither does a wrong answer to the other question go uncounted.
    let question = world.patient().begin_passkey(device(1), &name("more"), PORT).unwrap();
    let answer = Authenticator::new("ES256").create(&question, PORT + 1);
    let error = world.patient().confirm_passkey(device(1), &answer).await.err().unwrap();
    assert_eq!((error.to_string(), world.factors().wrong), (Fault::Origin.reason().to_owned(), 1));
    assert!(world.factors().passkeys.iter().all(|passkey| passkey.name != name("more")));
}

#[tokio::test]
async fn a_passkey_that_counts_backwards_is_refused_and_on_record() {
    let world = Moving::new().await;
    let mut key = world.passkey("key").await;
    let before = key.count;
    for _ in 0..3 {
        assert_eq!(world.show(&mut key).await, Ok(Method::PasskeyLocal));
    }
    let held = world.factors().passkeys[0].clone();
    assert_eq!((held.count, key.count), (4, Some(4)));
    world.log_in(1).await;
    // A copy that was made after its first signature.
    key.count = before;
    assert_eq!(world.show(&mut key).await, refused(Fault::Cloned));
    let entry = world.audited("mfa.verify").await;
    assert_eq!((entry.outcome, &entry.detail["cloned_authenticator"]), (Outcome::Deny, &held.id.to_string().into()));
    assert_eq!((world.factors().passkeys[0].count, world.factors().wrong, world.proof()), (4, 1, None));
    key.count = Some(4);
    assert_eq!(world.show(&mut key).await, Ok(Method::PasskeyLocal));
    assert!(!world.audited("mfa.verify").await.detail.contains_key("cloned_authenticator"));
}

#[tokio::test]
async fn a_credential_is_one_user_s() {
    let world = Moving::new().await;
    let mut key = world.passkey("key").await;
    world.log_in(2).await;
    let taken = world.add(device(2), &mut key, "mine").await.unwrap_err();
    assert!(taken.contains("taken already"), "{taken}");
    assert!(of(&world.organisation().now(), user(2)).passkeys.is_empty());
    // Nor twice by the same: the browser is told which there are.
    let question = world.patient().begin_passkey(device(1), &name("again"), PORT).unwrap();
    let named = &question["publicKey"]["excludeCredentials"];
    assert_eq!(named.as_array().unwrap().len(), 1);
    assert_eq!(named[0]["id"], crate::token::test_keys::b64(&key.id));
    assert!(world.add(device(1), &mut key, "again").await.unwrap_err().contains("taken already"));
    // Who gives it up gives it free.
    world.patient().remove_factor(device(1), "key").await.unwrap();
    world.add(device(2), &mut key, "mine").await.unwrap();
    // And so does a reset.
    let organisation = world.organisation();
    let reset = organisation.change(|directory, draft| {
        let removed = crate::factors::remove_all(directory, draft, user(2))?;
        let entry = crate::audit::Entry::new(organisation.wall(), "test", "reset", "user", Outcome::Done);
        Ok((removed, entry))
    });
    assert_eq!(reset.await.unwrap().1, 1);
    world.log_in(1).await;
    world.add(device(1), &mut key, "key").await.unwrap();
}

#[tokio::test]
async fn passkeys_are_changed_as_other_factors_are() {
    let world = Moving::new().await;
    world.wait(FACTOR_CHANGE_AGE + SECOND);
    let late = world.patient().begin_passkey(device(1), &name("mine"), PORT).err().unwrap().to_string();
    assert!(late.contains("log in again"), "{late}");
    world.log_in(1).await;
    let mut key = world.passkey("key").await;
    world.wait(FACTOR_CHANGE_AGE + SECOND);
    world.log_in(1).await;
    // The password alone is not enough where there is a second factor.
    for refused in [
        world.patient().begin_passkey(device(1), &name("mine"), PORT).err(),
        world.patient().begin_totp(device(1), &name("mine")).await.err(),
        world.patient().remove_factor(device(1), "key").await.err(),
        world.patient().renew_recovery(device(1)).await.err(),
    ] {
        assert!(refused.unwrap().to_string().contains("umbra mfa verify"));
    }
    world.show(&mut key).await.unwrap();
    // What was begun while it was fresh is not finished when it no longer is.
    let question = world.patient().begin_passkey(device(1), &name("late"), PORT).unwrap();
    world.log_in(1).await;
    let answer = Authenticator::new("ES256").create(&question, PORT);
    let late = world.patient().confirm_passkey(device(1), &answer).await.err().unwrap().to_string();
    assert!(late.contains("umbra mfa verify"), "{late}");

    // One name is one factor's, whatever its kind; a name is free when what was begun under it is over.
    world.show(&mut key).await.unwrap();
    world.patient().begin_totp(device(1), &name("phone")).await.unwrap();
    for taken in ["key", "phone"] {
        let error = world.patient().begin_passkey(device(1), &name(taken), PORT).err().unwrap();
        assert!(matches!(error, Refusal::Taken { .. }), "{error}");
    }
    assert!(matches!(world.patient().begin_totp(device(1), &name("key")).await, Err(Refusal::Taken { .. })));
    world.wait(FACTOR_PENDING);
    world.show(&mut key).await.unwrap();
    let mut phone = Authenticator::new("RS256");
    world.add(device(1), &mut phone, "phone").await.unwrap();

    // With the last one go the recovery codes, and what stood on it.
    assert!(world.proof().is_some());
    let id = world.factors().passkeys[0].id.to_string();
    world.patient().remove_factor(device(1), &id).await.unwrap();
    assert_eq!((world.proof(), world.factors().recovery.len()), (None, RECOVERY_CODES));
    assert_eq!(world.show(&mut key).await, refused(Fault::Credential));
    world.show(&mut phone).await.unwrap();
    world.patient().remove_factor(device(1), "phone").await.unwrap();
    assert!(world.factors().recovery.is_empty() && world.factors().methods().is_empty());
}

#[tokio::test]
async fn so_many_factors_of_both_kinds_fit() {
    let world = Moving::new().await;
    for n in 0..FACTORS_PER_USER_MAX - 1 {
        world.passkey(&format!("key{n}")).await;
    }
    world.app().await;
    let full = world.patient().begin_passkey(device(1), &name("more"), PORT).err().unwrap().to_string();
    assert!(full.contains("as many as one may"), "{full}");
    let full = world.patient().begin_totp(device(1), &name("more")).await.err().unwrap().to_string();
    assert!(full.contains("as many as one may"), "{full}");
    let listed: Vec<String> = world.factors().confirmed().map(|factor| factor.name.to_string()).collect();
    assert_eq!((listed.len(), listed[0].as_str()), (FACTORS_PER_USER_MAX, "phone"));
    // One that was begun takes the last place, too, as long as it can be finished.
    world.patient().remove_factor(device(1), "key3").await.unwrap();
    world.log_in(1).await;
    assert_eq!(world.factors().places(world.organisation().wall()), FACTORS_PER_USER_MAX - 1);
}

#[tokio::test]
async fn a_resource_that_takes_a_passkey_says_so() {
    let world = Moving::new().await;
    let organisation = world.organisation();
    world.demand("passkey-local").await;
    let judged = || match judge::judge(&organisation.now(), device(1), APPS, organisation.wall()).unwrap() {
        Verdict::Permit(_) => Ok(()),
        Verdict::Deny { step_up, .. } => Err(step_up),
        Verdict::Unknown => panic!("unknown"),
    };
    assert_eq!(judged(), Err(vec![Method::PasskeyLocal]), "also for who has none yet");
    world.app().await;
    assert_eq!(judged(), Err(vec![]), "an app would not do");
    let mut key = world.passkey("key").await;
    assert_eq!(judged(), Ok(()));
    world.log_in(1).await;
    assert_eq!(judged(), Err(vec![Method::PasskeyLocal]), "a recovery code would not do, and is not named");
    world.show(&mut key).await.unwrap();
    assert_eq!(judged(), Ok(()));
    world.wait(Duration::from_secs(300));
    assert_eq!(judged(), Err(vec![Method::PasskeyLocal]));
}
