//! Every call of administrators as every role, through the guard, by persons who are logged in; and what no role reaches.

use super::*;
use crate::arrange::NoGateways;
use crate::authz::{Guard, refusal};
use crate::directory::{Method, Proof, Session};
use crate::rpc::admin::AdminRpc;
use crate::store::Commit;
use crate::test_support::{World, device, session, user};
use proto::admin as wire;
use proto::admin::admin_server::Admin as _;
use std::collections::BTreeSet;
use tonic::Request;
use tower::{Service as _, ServiceExt as _};

const OWNER: &str = "owner";
const SECURITY: &str = "owner security-admin";
const OPERATORS: &str = "owner security-admin operator";
const TRAIL: &str = "owner security-admin auditor";
const READERS: &str = "owner security-admin operator auditor";
const ALL: &str = "owner security-admin operator auditor approver";
const FRESH: bool = true;
const LOG_IN: bool = false;

/// Each call of administrators: the roles that may make it from afar, and whether it takes a fresh second factor. Written apart
/// from `authz::TABLE`, so that a slip there is seen. A new call needs a row here as well.
pub(crate) const ROWS: &[(&str, &str, bool)] = &[
    ("ClaimOwner", "", FRESH),
    ("Backup", "", FRESH),
    ("ConfirmRestored", "", FRESH),
    ("BreakGlass", "", FRESH),
    ("GrantRole", OWNER, FRESH),
    ("RevokeRole", OWNER, FRESH),
    ("AcknowledgeBreakGlass", OWNER, FRESH),
    ("SucceedKeys", OWNER, FRESH),
    ("AddUser", SECURITY, FRESH),
    ("SetPassword", SECURITY, FRESH),
    ("SetUserEnabled", SECURITY, FRESH),
    ("DeleteUser", SECURITY, FRESH),
    ("OffboardUser", SECURITY, FRESH),
    ("ResetFactors", SECURITY, FRESH),
    ("AddIdp", SECURITY, FRESH),
    ("RemoveIdp", SECURITY, FRESH),
    ("SyncIdps", SECURITY, FRESH),
    ("AddAccount", SECURITY, FRESH),
    ("SetAccountEnabled", SECURITY, FRESH),
    ("SetAccountGroup", SECURITY, FRESH),
    ("RemoveAccount", SECURITY, FRESH),
    ("AddRegistration", SECURITY, FRESH),
    ("RemoveRegistration", SECURITY, FRESH),
    ("AddFederation", SECURITY, FRESH),
    ("RemoveFederation", SECURITY, FRESH),
    ("MakeFederationFile", SECURITY, FRESH),
    ("AddGroup", SECURITY, FRESH),
    ("DeleteGroup", SECURITY, FRESH),
    ("SetMember", SECURITY, FRESH),
    ("ApplyPolicy", SECURITY, FRESH),
    ("RollbackPolicy", SECURITY, FRESH),
    ("AddSite", OPERATORS, FRESH),
    ("DeleteSite", OPERATORS, FRESH),
    ("ConfirmGateway", OPERATORS, FRESH),
    ("RevokeGateway", OPERATORS, FRESH),
    ("AddResource", OPERATORS, FRESH),
    ("DeleteResource", OPERATORS, FRESH),
    ("CreateJoinKey", OPERATORS, FRESH),
    ("RevokeJoinKey", OPERATORS, FRESH),
    ("ConfirmDevice", OPERATORS, FRESH),
    ("RevokeDevice", OPERATORS, FRESH),
    ("RevokeSession", OPERATORS, FRESH),
    ("CheckPolicy", SECURITY, LOG_IN),
    ("ListRoles", TRAIL, LOG_IN),
    ("ListFactors", TRAIL, LOG_IN),
    ("ListIdps", TRAIL, LOG_IN),
    ("ListFederation", TRAIL, LOG_IN),
    ("ListAudit", TRAIL, LOG_IN),
    ("VerifyAudit", TRAIL, LOG_IN),
    ("ExportAudit", TRAIL, LOG_IN),
    ("ShowKeys", TRAIL, LOG_IN),
    ("ListRestored", TRAIL, LOG_IN),
    ("ListAccounts", READERS, LOG_IN),
    ("ListRegistrations", READERS, LOG_IN),
    ("ListSites", READERS, LOG_IN),
    ("ListGateways", READERS, LOG_IN),
    ("ListJoinKeys", READERS, LOG_IN),
    ("ListDevices", READERS, LOG_IN),
    ("ListSessions", READERS, LOG_IN),
    ("ShowSession", READERS, LOG_IN),
    ("Status", ALL, LOG_IN),
    ("ListUsers", ALL, LOG_IN),
    ("ListGroups", ALL, LOG_IN),
    ("ListResources", ALL, LOG_IN),
    ("ListAccess", ALL, LOG_IN),
    ("ShowPolicy", ALL, LOG_IN),
    ("ListPolicyRevisions", ALL, LOG_IN),
];

/// What the guard did with a call.
#[derive(Debug, PartialEq)]
enum Met {
    /// It came through, as this caller.
    Served(String),
    /// It was answered with this code and these words.
    Told(Code, String),
}

/// Those of [`World`], of whom each number is a user, a device and a log-in.
struct Office {
    world: World,
    rpc: AdminRpc,
}

impl Office {
    async fn new() -> Self {
        let world = World::new().await;
        let rpc = AdminRpc::new(world.organisation.clone(), Arc::new(NoGateways));
        Self { world, rpc }
    }

    async fn write(&self, commit: Commit) {
        self.world.organisation.store.commit(commit).await.unwrap();
        self.world.organisation.directory.at_least(self.world.organisation.store.revision()).await;
    }

    async fn edit_user(&self, n: u8, edit: impl FnOnce(&mut User)) {
        let mut record = self.world.organisation.now().users.find(&user(n)).unwrap().record.clone();
        edit(&mut record);
        self.write(Commit::default().put_record(&user(n), &record).unwrap()).await;
    }

    async fn give(&self, n: u8, roles: &[AdminRole]) {
        self.edit_user(n, |user| user.roles = roles.iter().copied().collect()).await;
    }

    async fn prove(&self, n: u8, at: Option<WallMs>) {
        let held = self.world.organisation.now().sessions.find(&session(n)).unwrap().record.clone();
        let made = Session { factor: at.map(|at| Proof { method: Method::Totp, at }), ..held };
        self.write(Commit::default().put_record(&session(n), &made).unwrap()).await;
    }

    fn wall(&self) -> WallMs {
        self.world.organisation.wall()
    }

    /// One call at the door of devices.
    async fn knock(&self, n: u8, method: &str) -> Met {
        self.world.organisation.rates.lock().unwrap().forget_all();
        let inner = tower::service_fn(|request: http::Request<()>| async move {
            let caller = request.extensions().get::<Caller>().unwrap().to_string();
            let response = http::Response::builder().header("served-as", caller);
            Ok::<_, std::convert::Infallible>(response.body(tonic::body::Body::default()).unwrap())
        });
        let people = Some(People::new(self.world.organisation.clone()));
        let mut guard = Guard { inner, refused: Arc::default(), people };
        let mut request = http::Request::builder().uri(method).body(()).unwrap();
        request.extensions_mut().insert(Caller::Device(device(n)));
        let response = guard.ready().await.unwrap().call(request).await.unwrap();
        match response.headers().get("served-as") {
            Some(caller) => Met::Served(caller.to_str().unwrap().to_owned()),
            None => {
                let status = Status::from_header_map(response.headers()).unwrap();
                Met::Told(status.code(), status.message().to_owned())
            }
        }
    }

    /// A request as this person, whoever it was when the call came.
    fn by<T>(&self, n: u8, message: T) -> Request<T> {
        let now = self.world.organisation.now();
        let subject = judge::subject(&now, device(n), self.wall()).unwrap();
        let mut request = Request::new(message);
        request.extensions_mut().insert(Caller::Person(Arc::new(person(&subject))));
        request
    }
}

fn none() -> Met {
    Met::Told(refusal().code(), refusal().message().to_owned())
}

fn path(rpc: &str) -> String {
    format!("/{}/{rpc}", authz::ADMIN_SERVICE)
}

#[test]
fn every_call_of_administrators_has_a_row() {
    let rows: BTreeSet<String> = ROWS.iter().map(|(rpc, ..)| path(rpc)).collect();
    let wire = authz::tests::methods().into_iter().filter(|method| method.contains(authz::ADMIN_SERVICE)).collect();
    assert_eq!(rows.len(), ROWS.len());
    assert_eq!(rows.symmetric_difference(&wire).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// The matrix: each row has calls that pass and calls that do not.
#[tokio::test]
async fn every_call_as_every_role_with_and_without_a_fresh_factor() {
    let office = Office::new().await;
    let served = Met::Served("remote:user1".to_owned());
    let unknown = office.knock(1, &path("Reboot")).await;
    assert_eq!(unknown, none());
    for role in AdminRole::ALL.map(Some).into_iter().chain([None]) {
        office.give(1, role.as_slice()).await;
        for is_fresh in [true, false] {
            office.prove(1, is_fresh.then(|| office.wall())).await;
            for (rpc, roles, needs_factor) in ROWS {
                let met = office.knock(1, &path(rpc)).await;
                let may = role.is_some_and(|role| roles.split(' ').any(|one| one == role.name()));
                match (may, *needs_factor && !is_fresh) {
                    (true, false) => assert_eq!(met, served, "{role:?} {rpc}"),
                    (true, true) => {
                        let Met::Told(Code::PermissionDenied, why) = &met else { panic!("{role:?} {rpc}: {met:?}") };
                        assert!(why.contains("umbra mfa add") && why.contains("umbra mfa verify"), "{rpc}: {why}");
                    }
                    // Forbidden and unknown are one, factor or not.
                    (false, _) => assert_eq!(met, unknown, "{role:?} {rpc}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn a_factor_is_fresh_for_ten_minutes_and_not_from_the_future() {
    let office = Office::new().await;
    office.give(1, &[AdminRole::Operator]).await;
    let age = i64::try_from(ADMIN_FACTOR_AGE.as_millis()).unwrap();
    for (at, good) in [(0, true), (-age, true), (-age - 1, false), (1, false)] {
        office.prove(1, Some(WallMs(office.wall().0 + at))).await;
        let met = office.knock(1, &path("AddSite")).await;
        assert_eq!(matches!(met, Met::Served(_)), good, "{at}: {met:?}");
        assert!(matches!(office.knock(1, &path("ListSites")).await, Met::Served(_)));
    }
}

#[tokio::test]
async fn a_role_that_is_lost_ends_with_the_next_call_and_with_the_change_under_way() {
    let office = Office::new().await;
    office.prove(1, Some(office.wall())).await;
    let ways: [fn(&mut User); 2] = [|user| user.roles.clear(), |user| user.disabled = true];
    for lose in ways {
        office.edit_user(1, |user| (user.roles, user.disabled) = ([AdminRole::Operator].into(), false)).await;
        assert!(matches!(office.knock(1, &path("ListSites")).await, Met::Served(_)));
        let wish = wire::AddSiteRequest { name: "branch".to_owned(), prefixes: vec!["10.99.0.0/24".to_owned()] };
        // Let in while the role was there; decided when it was not.
        let late = office.by(1, wish);
        office.edit_user(1, lose).await;
        assert_eq!(office.knock(1, &path("ListSites")).await, none());
        let told = office.rpc.add_site(late).await.unwrap_err();
        assert!(told.code() == Code::PermissionDenied && told.message().contains("changed meanwhile"), "{told:?}");
        assert!(office.world.organisation.now().sites.named("branch").is_none());
    }
}

#[tokio::test]
async fn nobody_but_an_owner_reaches_what_is_an_owners() {
    let office = Office::new().await;
    office.give(1, &[AdminRole::SecurityAdmin, AdminRole::Operator]).await;
    office.give(2, &[AdminRole::Owner]).await;
    office.prove(1, Some(office.wall())).await;
    let owner = || "user2".to_owned();
    let password = || "correct horse battery staple".to_owned();
    let rpc = &office.rpc;
    let owners = || vec![Group::OWNERS.to_owned()];
    let told = [
        rpc.set_password(office.by(1, wire::SetPasswordRequest { user: owner(), password: password() })).await.err(),
        rpc.set_user_enabled(office.by(1, wire::SetUserEnabledRequest { user: owner(), enabled: false })).await.err(),
        rpc.delete_user(office.by(1, wire::DeleteUserRequest { user: owner() })).await.err(),
        rpc.offboard_user(office.by(1, wire::OffboardUserRequest { user: owner() })).await.err(),
        rpc.reset_factors(office.by(1, wire::ResetFactorsRequest { user: owner() })).await.err(),
        rpc.revoke_session(office.by(1, wire::RevokeSessionRequest { session: session(2).to_string() })).await.err(),
        rpc.revoke_device(office.by(1, wire::RevokeDeviceRequest { device: "laptop2".to_owned() })).await.err(),
        rpc.add_user(
            office.by(1, wire::AddUserRequest { name: "clerk".to_owned(), password: password(), groups: owners() }),
        )
        .await
        .err(),
        rpc.set_member(
            office.by(
                1,
                wire::SetMemberRequest { group: Group::OWNERS.to_owned(), user: "user1".to_owned(), member: true },
            ),
        )
        .await
        .err(),
        rpc.delete_group(office.by(1, wire::DeleteGroupRequest { group: Group::OWNERS.to_owned() })).await.err(),
    ];
    for (n, told) in told.into_iter().enumerate() {
        let told = told.unwrap_or_else(|| panic!("{n} was done"));
        assert!(told.code() == Code::PermissionDenied && told.message().contains("only an owner"), "{n}: {told:?}");
    }
    let now = office.world.organisation.now();
    assert!(
        !now.users.find(&user(2)).unwrap().record.disabled && !now.sessions.find(&session(2)).unwrap().record.ended
    );
    assert_eq!(now.users.find(&user(1)).unwrap().record.roles.len(), 2);
}

#[tokio::test]
async fn the_last_owner_stays_and_a_disabled_one_is_none() {
    let office = Office::new().await;
    office.give(1, &[AdminRole::Owner]).await;
    office.prove(1, Some(office.wall())).await;
    let me = || "user1".to_owned();
    let give = |to: &str| wire::GrantRoleRequest { user: to.to_owned(), role: "owner".to_owned() };
    let take = || office.by(1, wire::RevokeRoleRequest { user: me(), role: "owner".to_owned() });
    office.edit_user(2, |user| (user.roles, user.disabled) = ([AdminRole::Owner].into(), true)).await;
    for told in [
        office.rpc.revoke_role(take()).await.unwrap_err(),
        office.rpc.delete_user(office.by(1, wire::DeleteUserRequest { user: me() })).await.unwrap_err(),
        office.rpc.offboard_user(office.by(1, wire::OffboardUserRequest { user: me() })).await.unwrap_err(),
        office
            .rpc
            .set_user_enabled(office.by(1, wire::SetUserEnabledRequest { user: me(), enabled: false }))
            .await
            .unwrap_err(),
    ] {
        assert!(told.message().contains("the last owner"), "{told:?}");
    }
    office.edit_user(2, |user| (user.roles, user.disabled) = ([].into(), false)).await;
    office.rpc.grant_role(office.by(1, give("user2"))).await.unwrap();
    let again = office.rpc.grant_role(office.by(1, give("user2"))).await.unwrap_err();
    assert!(again.message().contains("already"), "{again:?}");
    office.rpc.revoke_role(take()).await.unwrap();
    assert_eq!(office.knock(1, &path("Status")).await, none());
    let bad = Request::new(wire::GrantRoleRequest { user: me(), role: "root".to_owned() });
    assert_eq!(office.rpc.grant_role(bad).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_trail_names_the_person_and_the_device() {
    let office = Office::new().await;
    office.give(1, &[AdminRole::Operator]).await;
    office.prove(1, Some(office.wall())).await;
    let wish = wire::AddSiteRequest { name: "branch".to_owned(), prefixes: vec!["10.99.0.0/24".to_owned()] };
    office.rpc.add_site(office.by(1, wish)).await.unwrap();
    let caller = Caller::Person(Arc::new(person(
        &judge::subject(&office.world.organisation.now(), device(1), office.wall()).unwrap(),
    )));
    let entry = office.world.organisation.entry(&caller, "site.add", "site/x");
    assert_eq!((&*entry.actor, &entry.detail["from"]), ("remote:user1", &device(1).to_string().into()));
}

#[tokio::test]
async fn administrators_from_afar_take_turns() {
    let office = Office::new().await;
    office.give(1, &[AdminRole::Auditor]).await;
    let people = People::new(office.world.organisation.clone());
    let many = model::limits::ADMIN_READS_PER_MINUTE;
    for n in 0..many {
        assert!(people.admit(device(1), &path("Status")).unwrap().is_ok(), "{n}");
    }
    assert_eq!(people.admit(device(1), &path("Status")).unwrap().unwrap_err().code(), Code::ResourceExhausted);
    office.give(1, &[AdminRole::Operator]).await;
    office.prove(1, Some(office.wall())).await;
    let taken = (0..1_000).filter(|_| people.admit(device(1), &path("AddSite")).unwrap().is_ok()).count();
    assert_eq!(taken, model::limits::ADMIN_CHANGES_PER_MINUTE as usize);
}

#[tokio::test]
async fn an_older_organisations_owners_have_the_role_once() {
    let office = Office::new().await;
    let organisation = &office.world.organisation;
    let good = |_: &Secret<String>| Ok::<_, String>(());
    assert_eq!(upgrade(organisation, good).await.unwrap(), None, "`init` made the key");
    office.write(Commit::default().delete_record::<BreakGlass>(BreakGlass::ID).unwrap()).await;
    office.edit_user(2, |user| user.groups = [Group::OWNERS.parse().unwrap()].into()).await;
    // Where the key cannot be kept, nothing is changed.
    assert!(upgrade(organisation, |_| Err("disk full")).await.is_err());
    assert!(organisation.now().users.find(&user(2)).unwrap().record.roles.is_empty());
    let mut kept = None;
    let keep = |key: &Secret<String>| {
        kept = Some(key.clone());
        Ok::<_, String>(())
    };
    assert_eq!(upgrade(organisation, keep).await.unwrap(), Some(vec!["user2".parse().unwrap()]));
    let roles = |n| organisation.now().users.find(&user(n)).unwrap().record.roles.clone();
    assert_eq!((roles(1), roles(2)), ([].into(), [AdminRole::Owner].into()));
    office.give(2, &[]).await;
    assert_eq!(upgrade(organisation, good).await.unwrap(), None);
    assert!(roles(2).is_empty(), "what was taken away stays away");
    let root = Caller::Admin { actor: "local:root".to_owned() };
    break_glass::use_key(organisation, &root, kept.unwrap(), "user1").await.unwrap();
    assert_eq!(roles(1), [AdminRole::Owner].into());
}
