//! Is somebody logged in whom a provider stands by, and nobody else?

use super::*;
use crate::arrange::NoGateways;
use crate::authz::Caller;
use crate::directory::{Group, IdpSession, Method, Name, Proved, Session};
use crate::fetch::test_server::{Says, json, status};
use crate::judge::{self, Standing};
use crate::oidc::tests::fake::{Fake, NOW, field};
use crate::rpc::admin::AdminRpc;
use crate::rpc::admin::idp::check;
use crate::store::{Commit, Record};
use crate::test_support::{Still, World, device, user};
use model::limits::{
    IDP_CHECK_EVERY, IDP_CHECK_EVERY_MIN, IDP_CHECKS_AT_ONCE, IDP_GRACE, IDP_GRACE_MAX, IDP_GROUPS_MAX, IDPS_MAX,
    REFRESH_TOKEN_MAX, SIGN_IN_CODE_LIFE, SIGN_IN_LIFE, SIGN_IN_TEXT_MAX, SIGN_INS_MAX, SIGN_INS_PER_MINUTE,
};
use model::time::{Clock, WallMs};
use proto::admin as wire;
use proto::admin::admin_server::Admin as _;
use proto::convert::millis;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Devices 3 and 4 are nobody's yet; the provider `corp` admits its group `staff`, which is `crew` here.
struct Scene {
    world: World,
    clock: Arc<Still>,
    fake: Fake,
}

fn secret(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}
fn word(text: &str) -> Name {
    text.parse().unwrap()
}
fn message() -> wire::AddIdpRequest {
    wire::AddIdpRequest {
        name: "corp".to_owned(),
        client_id: "um bra".to_owned(),
        sign_in_groups: vec!["staff".to_owned()],
        groups: vec!["staff=crew".to_owned()],
        groups_as_named: true,
        device_code: true,
        ..Default::default()
    }
}

impl Scene {
    async fn new() -> Self {
        Self::with(message()).await
    }

    async fn with(message: wire::AddIdpRequest) -> Self {
        let (mut world, fake, clock) = (World::new().await, Fake::start().await, Arc::new(Still::default()));
        world.organisation.clock = Arc::clone(&clock) as Arc<dyn Clock>;
        world.organisation.sign_ins = Arc::new(SignIns::resolving(Arc::new(Says(vec!["127.0.0.1"]))));
        {
            let mut state = fake.state();
            for (name, value) in [
                ("groups", json!(["staff", "pilots", "owners"])),
                ("preferred_username", json!("Ann")),
                ("email", json!("ann@corp.example")),
                ("auth_time", json!(NOW - 60)),
                ("exp", json!(NOW + 1_000_000)),
            ] {
                state.claims[name] = value;
            }
        }
        let scene = Self { world, clock, fake };
        let number = fake_number();
        let provider = scene.fake.provider();
        let mut idp = check(&message, IdpId::from_bytes([number; 10]), WallMs(1)).unwrap();
        (idp.issuer, idp.ca_pem, idp.allow) = (provider.issuer, provider.ca_pem, provider.allow);
        scene.put(&idp.id, &idp).await;
        for name in ["crew", "pilots", "owners"] {
            scene.put(&word(name), &Group { name: word(name), created: WallMs(1) }).await;
        }
        for number in [3, 4] {
            let mut other = scene.now().devices.find(&device(1)).unwrap().record.clone();
            (other.id, other.name, other.user) = (device(number), word(&format!("laptop{number}")), None);
            scene.put(&other.id, &other).await;
        }
        scene
    }

    fn organisation(&self) -> &Organisation {
        &self.world.organisation
    }
    fn now(&self) -> Arc<Directory> {
        self.organisation().now()
    }
    fn wait(&self, time: Duration) {
        self.clock.0.fetch_add(u64::try_from(time.as_nanos()).unwrap(), Ordering::Relaxed);
    }
    fn says(&self, claim: &str, value: Value) {
        self.fake.state().claims[claim] = value;
    }

    async fn put<R: Record>(&self, id: &R::Id, record: &R) {
        let commit = Commit::default().put_record(id, record).unwrap();
        self.organisation().store.commit(commit).await.unwrap();
        self.organisation().directory.at_least(self.organisation().store.revision()).await;
    }

    /// Begins on a device; the provider will answer what was asked.
    async fn begin(&self, number: u8) -> Result<Begun, NotIn> {
        let begun = self.organisation().begin_sign_in(device(number), "corp", 7_777).await?;
        let nonce = form_urlencoded::parse(begun.url.split_once('?').unwrap().1.as_bytes())
            .find(|(name, _)| name == "nonce")
            .unwrap()
            .1
            .into_owned();
        let mut state = self.fake.state();
        state.claims["nonce"] = nonce.into();
        state.codes = vec!["code".to_owned()];
        Ok(begun)
    }

    async fn finish(&self, number: u8, begun: &Begun, state: &str) -> Result<(Session, String), NotIn> {
        let issuer = self.fake.state().issuer.clone();
        self.organisation().finish_sign_in(device(number), begun.id, secret("code"), state, Some(&issuer)).await
    }

    async fn sign_in(&self, number: u8) -> Result<(Session, String), NotIn> {
        let begun = self.begin(number).await?;
        let state = begun.state.expose().clone();
        self.finish(number, &begun, &state).await
    }

    /// Why nobody is in, for the person and for the trail.
    async fn not_in(&self, number: u8) -> (String, String) {
        let not = self.sign_in(number).await.err().unwrap();
        (not.refusal.to_string(), not.detail)
    }

    fn groups(&self, name: &str) -> Vec<String> {
        self.now().user(name).unwrap().record.all_groups().map(ToString::to_string).collect()
    }
    fn standing(&self, number: u8) -> Option<Standing> {
        judge::subject(&self.now(), device(number), self.organisation().wall()).err()
    }
    async fn ask_all(&self) -> Checked {
        self.organisation().check_sign_ins(None, true).await
    }
}

const fn fake_number() -> u8 {
    9
}

#[tokio::test]
async fn a_person_is_whom_the_provider_means_and_not_who_has_the_same_name() {
    let scene = Scene::new().await;
    scene.says("amr", json!(["pwd", "mfa"]));
    let (session, name) = scene.sign_in(3).await.unwrap();
    assert_eq!(name, "ann.corp");
    assert_eq!(scene.groups("ann.corp"), ["crew", "pilots"], "nobody becomes an owner by a name");
    assert_eq!(session.proved, Proved::At(WallMs((NOW - 60) * 1_000)));
    assert_eq!(session.factor.map(|proof| proof.method), Some(Method::Provider));
    assert_eq!(scene.standing(3), None);
    let made = scene.now().user("ann.corp").unwrap().record.clone();
    assert!(made.password.is_none() && made.identity.is_some_and(|who| who.subject == "ann"));

    // The same person, renamed there, and no second factor this time.
    scene.says("preferred_username", json!("boss"));
    scene.says("email", json!("boss@corp.example"));
    scene.says("amr", json!(["pwd"]));
    let (session, name) = scene.sign_in(4).await.unwrap();
    assert_eq!((name.as_str(), session.factor), ("ann.corp", None));
    // Somebody else, who now has the name and the address that were the first one's.
    for (claim, value) in [("sub", "other"), ("preferred_username", "ann"), ("email", "ann@corp.example")] {
        scene.says(claim, json!(value));
    }
    scene.fake.state().userinfo["sub"] = json!("other");
    let (person, _) = scene.not_in(3).await;
    assert!(person.contains("belongs to another user"), "{person}");
    let mut third = scene.now().devices.find(&device(3)).unwrap().record.clone();
    third.user = None;
    scene.put(&device(3), &third).await;
    assert_eq!(scene.sign_in(3).await.unwrap().1, "ann-2.corp");
}

#[tokio::test]
async fn who_signs_in_again_goes_on_with_the_log_in_they_have() {
    let scene = Scene::new().await;
    scene.says("amr", json!(["pwd", "mfa"]));
    let (first, _) = scene.sign_in(3).await.unwrap();
    scene.wait(Duration::from_secs(600));
    scene.says("amr", json!(["pwd"]));
    scene.says("auth_time", json!(NOW + 600));
    scene.fake.state().tokens["refresh_token"] = json!("newer");
    let (again, _) = scene.sign_in(3).await.unwrap();
    assert_eq!((again.id, again.factor), (first.id, first.factor));
    assert!(again.ends == first.ends.plus(Duration::from_secs(600)), "as long as a fresh one");
    assert_eq!(again.proved, Proved::At(WallMs((NOW + 600) * 1_000)));
    assert_eq!((scene.now().idp_sessions.len(), scene.standing(3)), (1, None));
    assert_eq!(scene.ask_all().await.same, 1);
    assert_eq!(field(&scene.fake.last("/token"), "refresh_token").as_deref(), Some("newer"));
}

#[tokio::test]
async fn an_answer_is_taken_once_where_it_was_asked_for_and_in_time() {
    let scene = Scene::new().await;
    let begun = scene.begin(3).await.unwrap();
    let state = begun.state.expose().clone();
    // On another machine, which has one of its own under way.
    let other = scene.organisation().begin_sign_in(device(4), "corp", 7_777).await.unwrap();
    assert!(scene.finish(4, &begun, &state).await.is_err());
    assert_ne!(other.state.expose(), &state);
    scene.finish(3, &begun, &state).await.unwrap();
    let again = scene.finish(3, &begun, &state).await.err().unwrap();
    assert!(again.refusal.to_string().contains("not under way any more"), "{:?}", again.refusal);

    // A state that was not sent ends what it was tried on.
    let begun = scene.begin(3).await.unwrap();
    let wrong = scene.finish(3, &begun, "guessed").await.err().unwrap();
    assert!(wrong.detail.contains("state") && scene.finish(3, &begun, begun.state.expose()).await.is_err());
    // So does the word of another provider (RFC 9207).
    let begun = scene.begin(3).await.unwrap();
    let other = Some("https://other.example");
    let done =
        scene.organisation().finish_sign_in(device(3), begun.id, secret("code"), begun.state.expose(), other).await;
    assert!(done.err().unwrap().detail.contains("https://other.example"));
    // A nonce of another sign-in.
    let begun = scene.begin(3).await.unwrap();
    scene.says("nonce", json!("another"));
    assert!(scene.finish(3, &begun, begun.state.expose()).await.err().unwrap().detail.contains("nonce"));
    // Too late, and too long.
    let begun = scene.begin(3).await.unwrap();
    let long = "x".repeat(SIGN_IN_TEXT_MAX + 1);
    assert!(scene.finish(3, &begun, &long).await.err().unwrap().detail.contains("4096"));
    scene.wait(SIGN_IN_LIFE);
    assert!(scene.finish(3, &begun, begun.state.expose()).await.is_err());
    // A provider that was asked for a fresh proof and did not ask.
    let begun = scene.begin(3).await.unwrap();
    assert!(begun.url.contains("prompt=login") && begun.url.contains("max_age=0"), "somebody is logged in here");
    let not = scene.finish(3, &begun, begun.state.expose()).await.err().unwrap();
    assert!(not.detail.contains("auth_time"), "{}", not.detail);
}

#[tokio::test]
async fn who_is_not_admitted_is_told_one_reason_and_the_trail_the_details() {
    let scene = Scene::new().await;
    scene.says("groups", json!(["visitors"]));
    let (person, trail) = scene.not_in(3).await;
    assert!(person.contains("no group that may sign in") && trail.contains("`ann` of `corp`"), "{person} {trail}");
    scene.says("groups", json!(["staff"]));
    scene.fake.state().tokens = json!({"access_token": "access", "token_type": "Bearer"});
    let (person, trail) = scene.not_in(3).await;
    assert!(person.contains("ask an administrator") && trail.contains("offline_access"), "{person} {trail}");
    let long = "x".repeat(REFRESH_TOKEN_MAX + 1);
    scene.fake.state().tokens = json!({"access_token": "a", "token_type": "Bearer", "refresh_token": long});
    assert!(scene.not_in(3).await.1.contains("offline_access"), "one that nobody would keep is none");
    assert!(scene.now().user("ann.corp").is_none(), "nobody was made");
    scene.fake.state().tokens = json!({"access_token": "a", "token_type": "Bearer", "refresh_token": "refresh"});
    scene.sign_in(3).await.unwrap();
    let mut off = scene.now().user("ann.corp").unwrap().record.clone();
    off.disabled = true;
    scene.put(&off.id.clone(), &off).await;
    assert!(scene.not_in(3).await.0.contains("account is disabled"));
    // A device that is a local user's.
    assert!(scene.not_in(1).await.0.contains("belongs to another user") || scene.standing(1).is_none());
    assert!(scene.now().users.find(&user(1)).unwrap().record.identity.is_none());
}

#[tokio::test]
async fn a_provider_that_takes_somebody_back_ends_their_log_in_and_one_that_is_silent_does_so_in_time() {
    let scene = Scene::new().await;
    scene.sign_in(3).await.unwrap();
    assert_eq!(scene.ask_all().await, Checked { same: 1, ..Checked::default() });
    assert_eq!(field(&scene.fake.last("/token"), "refresh_token").as_deref(), Some("refresh"));
    // The turn comes by itself, and not before.
    assert_eq!(scene.organisation().check_sign_ins(None, false).await, Checked::default());
    scene.wait(IDP_CHECK_EVERY);
    assert_eq!(scene.organisation().check_sign_ins(None, false).await.same, 1);
    // A new refresh token replaces the old one.
    scene.fake.state().tokens["refresh_token"] = json!("second");
    scene.ask_all().await;
    scene.ask_all().await;
    assert_eq!(field(&scene.fake.last("/token"), "refresh_token").as_deref(), Some("second"));
    // Other groups.
    scene.says("groups", json!(["staff"]));
    assert_eq!(scene.ask_all().await.changed, 1);
    assert_eq!(scene.groups("ann.corp"), ["crew"]);
    // It does not answer: nothing ends before its grace is over, and then all does.
    scene.fake.instead("/token", |_| status(503, &Value::Null));
    assert_eq!(scene.ask_all().await.unknown, 1);
    scene.wait(IDP_GRACE - IDP_GRACE / 16);
    assert_eq!(scene.standing(3), None);
    scene.wait(IDP_GRACE / 16);
    assert_eq!(scene.standing(3), Some(Standing::Provider));
    // What it says that is not believed does not end it sooner.
    scene.fake.instead("/token", |_| json(&json!({"access_token": "a", "id_token": "x"})));
    assert_eq!(scene.ask_all().await.unknown, 1);
    // It says no.
    scene.fake.instead("/token", |_| status(400, &json!({"error": "invalid_grant"})));
    assert_eq!(scene.ask_all().await.ended, 1);
    assert_eq!(scene.standing(3), Some(Standing::Session));
    assert_eq!(scene.ask_all().await, Checked::default(), "nobody is asked about who is out");
}

#[tokio::test]
async fn who_leaves_the_groups_that_may_sign_in_is_out_and_so_are_all_when_the_provider_goes() {
    let scene = Scene::new().await;
    scene.sign_in(3).await.unwrap();
    scene.says("groups", json!(["visitors"]));
    assert_eq!(scene.ask_all().await.ended, 1);
    assert_eq!(scene.standing(3), Some(Standing::Session));
    scene.says("groups", json!(["staff"]));
    scene.says("auth_time", json!(NOW));
    scene.sign_in(3).await.unwrap();
    assert_eq!(scene.standing(3), None);
    let idp = scene.now().idps.values().next().unwrap().clone();
    let gone = Commit { deletes: vec![idp.key.clone()], ..Commit::default() };
    scene.organisation().store.commit(gone).await.unwrap();
    scene.organisation().directory.at_least(scene.organisation().store.revision()).await;
    assert_eq!(scene.standing(3), Some(Standing::Provider));
}

#[tokio::test]
async fn a_code_that_is_typed_in_elsewhere_logs_in_the_device_that_asked_for_it() {
    let scene = Scene::new().await;
    let organisation = scene.organisation();
    let begun = organisation.begin_code_sign_in(device(3), "corp").await.unwrap();
    assert_eq!((begun.user_code.as_str(), begun.ends_in), ("ABCD-EFGH", SIGN_IN_CODE_LIFE));
    let asked = || scene.fake.times("/token");
    // Too early: the provider is not asked.
    assert!(matches!(organisation.poll_sign_in(device(3), begun.id).await, Ok(Polled::Pending(_))));
    assert_eq!(asked(), 0);
    scene.fake.instead("/token", |_| status(400, &json!({"error": "slow_down"})));
    scene.wait(begun.interval);
    let Ok(Polled::Pending(wait)) = organisation.poll_sign_in(device(3), begun.id).await else { panic!("not pending") };
    assert_eq!(wait, begun.interval + Duration::from_secs(5));
    assert!(organisation.poll_sign_in(device(4), begun.id).await.is_err(), "it is the other device's");
    scene.fake.state().instead = None;
    scene.wait(wait);
    let Ok(Polled::Done(session, name)) = organisation.poll_sign_in(device(3), begun.id).await else {
        panic!("not in")
    };
    assert_eq!((session.device, name.as_str()), (device(3), "ann.corp"));
    assert!(organisation.poll_sign_in(device(3), begun.id).await.is_err());

    let begun = organisation.begin_code_sign_in(device(3), "corp").await.unwrap();
    scene.wait(SIGN_IN_CODE_LIFE);
    assert!(organisation.poll_sign_in(device(3), begun.id).await.err().unwrap().detail.contains("has ended"));
    let scene = Scene::with(wire::AddIdpRequest { device_code: false, ..message() }).await;
    let not = scene.organisation().begin_code_sign_in(device(3), "corp").await.err().unwrap();
    assert!(not.refusal.to_string().contains("sign in with a browser"));
}

#[tokio::test]
async fn what_is_under_way_is_bounded() {
    let scene = Scene::new().await;
    for _ in 0..SIGN_INS_PER_MINUTE {
        scene.begin(3).await.unwrap();
    }
    assert!(matches!(scene.begin(3).await.err().unwrap().refusal, Refusal::Often(_)));
    let held = || locked(&scene.organisation().sign_ins.pending).len();
    assert_eq!(held(), 1, "a device has one");
    let template = || scene.begin(4);
    template().await.unwrap();
    let organisation = scene.organisation();
    for number in 0..SIGN_INS_MAX as u64 {
        let mut id = [7; 10];
        id[..8].copy_from_slice(&number.to_be_bytes());
        organisation.hold_for_test(DeviceId::from_bytes(id));
    }
    assert_eq!(held(), SIGN_INS_MAX);
}

#[tokio::test]
async fn about_so_many_people_is_asked_at_one_time_and_not_one_more() {
    let scene = Scene::new().await;
    let (session, _) = scene.sign_in(3).await.unwrap();
    let word = scene.now().idp_sessions.find(&session.id).unwrap().record.clone();
    for number in 0..3 * IDP_CHECKS_AT_ONCE {
        let id = SessionId::from_bytes([100 + u8::try_from(number).unwrap(); 10]);
        let refresh = scene.organisation().seal_refresh(id, &secret("refresh")).unwrap();
        scene.put(&id, &Session { id, ..session.clone() }).await;
        scene.put(&id, &IdpSession { session: id, refresh: Some(refresh), ..word.clone() }).await;
    }
    let before = scene.fake.times("/token");
    scene.fake.instead("/token", |_| None);
    let organisation = scene.organisation().clone();
    let looking = tokio::spawn(async move { organisation.check_sign_ins(None, true).await });
    while scene.fake.times("/token") < before + IDP_CHECKS_AT_ONCE {
        tokio::task::yield_now().await;
    }
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(scene.fake.times("/token"), before + IDP_CHECKS_AT_ONCE);
    looking.abort();
}

#[tokio::test]
async fn there_are_so_many_providers_and_no_two_of_one_issuer() {
    let scene = Scene::new().await;
    let admin = AdminRpc::new(scene.organisation().clone(), Arc::new(NoGateways));
    let add = async |name: &str, issuer: String| {
        let provider = scene.fake.provider();
        let allow = provider.allow.iter().map(ToString::to_string).collect();
        let ca_pem = provider.ca_pem.unwrap();
        let message = wire::AddIdpRequest { name: name.to_owned(), issuer, ca_pem, allow, ..message() };
        let mut request = tonic::Request::new(message);
        request.extensions_mut().insert(Caller::Admin { actor: "local:root".to_owned() });
        admin.add_idp(request).await.map(|_| ()).map_err(|status| status.message().to_owned())
    };
    let issuer = scene.fake.state().issuer.clone();
    assert!(add("second", issuer.clone()).await.unwrap_err().contains("the issuer (by `corp`) is taken"));
    // One that is not what it is called.
    let wrong = add("second", issuer.replace("/realm", "/other")).await.unwrap_err();
    assert!(wrong.contains("status 404") || wrong.contains("calls itself"), "{wrong}");
    let corp = scene.now().idps.values().next().unwrap().record.clone();
    for number in 1..IDPS_MAX {
        let id = IdpId::from_bytes([100 + u8::try_from(number).unwrap(); 10]);
        let name = word(&format!("idp{number}"));
        scene.put(&id, &Idp { id, name, issuer: format!("https://{number}.example"), ..corp.clone() }).await;
    }
    assert!(add("one-more", issuer).await.unwrap_err().contains(&IDPS_MAX.to_string()));
}

#[test]
fn a_provider_that_cannot_be_is_refused_with_what_to_do() {
    let with = |change: &dyn Fn(&mut wire::AddIdpRequest)| {
        let mut message = message();
        change(&mut message);
        check(&message, IdpId::from_bytes([1; 10]), WallMs(1)).map_err(|refusal| refusal.to_string())
    };
    assert!(with(&|_| {}).is_ok());
    type Change = &'static dyn Fn(&mut wire::AddIdpRequest);
    let cases: [(Change, &str); 10] = [
        (&|m| m.name = "a.b".into(), "no `.`"),
        (&|m| m.name = "x".repeat(25), "24 characters"),
        (&|m| m.client_id.clear(), "client id is missing"),
        (&|m| m.sign_in_groups.clear(), "--anyone"),
        (&|m| m.groups = vec!["staff".into()], "NAME=VALUE"),
        (&|m| m.groups = vec!["a=b".into(); IDP_GROUPS_MAX + 1], "256"),
        (&|m| m.parameters = vec!["redirect_uri=https://evil.example".into()], "set by the controller"),
        (&|m| m.redirect_host = "evil.example".into(), "nowhere else"),
        (&|m| m.check_every_ms = millis(IDP_CHECK_EVERY_MIN) - 1, "every 5 s at most"),
        (&|m| m.grace_ms = millis(IDP_GRACE_MAX) + 1, "at most 7 d"),
    ];
    for (change, why) in cases {
        let said = with(change).err().unwrap();
        assert!(said.contains(why), "{said}");
    }
}
