//! Who may make which call of the running controller, and can a hostile device or gateway touch with it what is another's?

use crate::names::{Answer, GATEWAY_DOOR, call, template};
use crate::support::{SOON, world};
use crate::talk::{Talk, json, until};
use prost::Message;
use proto::v1;
use serde_json::Value;
use std::fs;
use umbra_tests::lab::{Daemon, Name, World};
use umbra_tests::perimeter::{Perimeter, Plan, admin, admin_json, carry_join_file, confirm_gateway};
use umbra_tests::service::Services;
use umbra_tests::wire::Wire;

/// Who there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// At the controller's own socket.
    Administrator,
    Device,
    Gateway,
    /// A machine that has knocked with a join file.
    Newcomer,
    /// A person with this role, at the client of their laptop.
    Owner,
    SecurityAdmin,
    Operator,
    Auditor,
    Approver,
}

use Who::{Administrator, Approver, Auditor, Device, Gateway, Newcomer, Operator, Owner, SecurityAdmin};

/// Each role as it is typed.
const PERSONS: [(Who, &str); 5] = [
    (Owner, "owner"),
    (SecurityAdmin, "security-admin"),
    (Operator, "operator"),
    (Auditor, "auditor"),
    (Approver, "approver"),
];

/// Every call but the client's own local ones: who may make it. A new one needs a row.
const ROWS: &[(&str, &str, &[Who])] = &[
    ("/umbra.admin.v1.Admin/", "ClaimOwner Backup ConfirmRestored BreakGlass", &[Administrator]),
    ("/umbra.admin.v1.Admin/", "GrantRole RevokeRole AcknowledgeBreakGlass SucceedKeys", &[Administrator, Owner]),
    (
        "/umbra.admin.v1.Admin/",
        "AddUser SetPassword SetUserEnabled DeleteUser OffboardUser ResetFactors AddIdp RemoveIdp SyncIdps AddAccount \
         SetAccountEnabled SetAccountGroup RemoveAccount AddRegistration RemoveRegistration AddFederation RemoveFederation MakeFederationFile AddGroup \
         DeleteGroup SetMember ApplyPolicy RollbackPolicy CheckPolicy",
        &[Administrator, Owner, SecurityAdmin],
    ),
    (
        "/umbra.admin.v1.Admin/",
        "AddSite DeleteSite ConfirmGateway RevokeGateway AddResource DeleteResource CreateJoinKey RevokeJoinKey \
         ConfirmDevice RevokeDevice RevokeSession",
        &[Administrator, Owner, SecurityAdmin, Operator],
    ),
    (
        "/umbra.admin.v1.Admin/",
        "ListRoles ListFactors ListIdps ListFederation ListAudit VerifyAudit ExportAudit ShowKeys ListRestored",
        &[Administrator, Owner, SecurityAdmin, Auditor],
    ),
    (
        "/umbra.admin.v1.Admin/",
        "ListAccounts ListRegistrations ListSites ListGateways ListJoinKeys ListDevices ListSessions ShowSession",
        &[Administrator, Owner, SecurityAdmin, Operator, Auditor],
    ),
    (
        "/umbra.admin.v1.Admin/",
        "Status ListUsers ListGroups ListResources ListAccess ShowPolicy ListPolicyRevisions",
        &[Administrator, Owner, SecurityAdmin, Operator, Auditor, Approver],
    ),
    ("/umbra.v1.Enrolment/", "Enroll Recover", &[Newcomer]),
    ("/umbra.v1.Nodes/", "Probe RenewSvid RotateKey", &[Device, Gateway]),
    (
        "/umbra.v1.Devices/",
        "Login Logout Watch Connect Disconnect NameAddress ListFactors BeginTotp ConfirmTotp VerifyFactor RemoveFactor \
         RenewRecoveryCodes ListProviders BeginSignIn FinishSignIn BeginCodeSignIn PollSignIn",
        &[Device],
    ),
    ("/umbra.v1.Devices/", "BeginPasskey ConfirmPasskey AskPasskey VerifyPasskey", &[Device]),
    ("/umbra.v1.Devices/", "ListIdentities SignIdentity SignToken", &[Device]),
    ("/umbra.v1.Gateways/", "Watch", &[Gateway]),
];

/// What everybody else is told, whether there is such a call or not.
const REFUSAL: &str = "not permitted: no such call for this caller";
/// Of calls that are served nowhere.
const UNKNOWN: [&str; 2] = ["/umbra.v1.Nodes/Reboot", "/umbra.admin.v1.Admin/Reboot"];

fn may(path: &str) -> &'static [Who] {
    let row = |(service, names, _): &&(&str, &str, &[Who])| {
        path.strip_prefix(service).is_some_and(|name| names.split_whitespace().any(|one| one == name))
    };
    ROWS.iter().find(row).map_or(&[], |(_, _, who)| who)
}

/// Every call of the wire, and some that it has not.
fn paths() -> Vec<String> {
    let calls = Wire::read().unwrap().calls.into_iter().map(|call| call.path).filter(|path| !path.contains(".local."));
    let paths: Vec<String> = calls.collect();
    let without: Vec<_> = paths.iter().filter(|path| may(path).is_empty()).collect();
    assert!(without.is_empty(), "say in ROWS who may call {without:?}");
    assert_eq!(paths.len(), ROWS.iter().map(|(_, names, _)| names.split_whitespace().count()).sum::<usize>());
    paths.into_iter().chain(UNKNOWN.map(str::to_owned)).collect()
}

/// Makes every call as somebody; `Logout` is left to later, because it works.
fn all_calls(world: &World, who: Who, host: Name, door: &[&str]) {
    let paths: Vec<String> = paths().into_iter().filter(|path| !(who == Device && path.ends_with("/Logout"))).collect();
    let calls: Vec<_> = paths.iter().map(|path| (path.clone(), vec![template(path, "")])).collect();
    for (path, answer) in paths.iter().zip(call(world, host, door, &calls)) {
        let refused = answer.code == 7 && answer.message == REFUSAL;
        // What is served at another door is not known at this one.
        let unknown = refused || answer.code == 12;
        let Answer { code, message, .. } = answer;
        // For machines that knocked with a recovery secret: this one has a join file.
        if may(path).contains(&who) && !path.ends_with("/Recover") {
            assert!(!refused && code != 12 && code != 13, "{who:?} may not call {path}: {code} {message}");
        } else {
            assert!(unknown, "{who:?} called {path}: {code} {message}");
        }
    }
}

/// One person in every role, through the client's own daemon, with a fresh second factor; and without any role.
fn as_persons(world: &World) {
    let socket = ["--socket=/run/umbra/client.sock"];
    let calls: Vec<_> =
        paths().into_iter().filter(|path| path.contains(".admin.")).map(|path| (path, vec![Vec::new()])).collect();
    // Without a role all of it is one answer, the unknown call's.
    for ((path, _), answer) in calls.iter().zip(call(world, Name::Laptop, &socket, &calls)) {
        assert_eq!((answer.code, &*answer.message), (7, REFUSAL), "{path}");
    }
    crate::factors::add(world);
    for (who, role) in PERSONS {
        admin(world, &["admin", "grant", "engineer", role]).unwrap();
        all_calls(world, who, Name::Laptop, &socket);
        admin(world, &["admin", "revoke", "engineer", role]).unwrap();
    }
    let answer = &call(world, Name::Laptop, &socket, &calls[..1])[0];
    assert_eq!((answer.code, &*answer.message), (7, REFUSAL), "the role was taken away");
}

/// The gateway of a site where nothing is.
fn branch(world: &World) -> Daemon {
    admin(world, &["site", "add", "branch", "--prefix", "10.30.0.0/24"]).unwrap();
    let join = carry_join_file(world, Name::Gateway2, &["--gateway", "--site", "branch"]).unwrap();
    let mut command = world.host(Name::Gateway2).command("umbra-gateway");
    command.args(["up", "--join", &join, "--yes", "--name", "gateway2"]);
    let gateway = world.host(Name::Gateway2).start("gateway2", command).unwrap();
    gateway.wait_for_line("joined as", SOON).unwrap();
    confirm_gateway(world, Name::Gateway2).unwrap();
    gateway.wait_for_line("confirmed=true", SOON).unwrap();
    gateway
}

/// The first grant and tunnel of a client.
fn held(world: &World, host: Name) -> (String, String) {
    let status = json(world, host, &["umbra", "status", "--json"]);
    let id = |value: &Value| value["id"].as_str().unwrap_or_else(|| panic!("{status}")).to_owned();
    (id(&status["grants"][0]), id(&status["pairings"][0]))
}

/// With another's ids in every call that takes one.
fn as_a_hostile_device(world: &World, victim: &mut Talk) {
    let (grant, pairing) = held(world, Name::Laptop2);
    let sessions = admin_json(world, &["session", "list"]).unwrap()["sessions"].as_array().unwrap().len();
    let resources = admin_json(world, &["resource", "list"]).unwrap();
    let web = resources["resources"].as_array().unwrap().iter().find(|row| row["name"] == "web").unwrap()["id"].clone();
    let disconnect = v1::DisconnectRequest { grant: grant.clone() }.encode_to_vec();
    let connect = v1::ConnectRequest {
        resource: web.as_str().unwrap().to_owned(),
        data_key: vec![9; 32],
        pairings: vec![pairing.clone()],
        avoid_gateways: Vec::new(),
        moves: String::new(),
    };
    let calls = [
        ("/umbra.v1.Devices/Disconnect".to_owned(), vec![disconnect]),
        ("/umbra.v1.Devices/Connect".to_owned(), vec![connect.encode_to_vec()]),
        ("/umbra.v1.Devices/Logout".to_owned(), vec![Vec::new()]),
    ];
    let answers = call(world, Name::Laptop, &[], &calls);
    assert!(
        answers.iter().all(|answer| answer.code == 0),
        "{:?}",
        answers.iter().map(|a| &a.message).collect::<Vec<_>>()
    );
    let reply = v1::ConnectReply::decode(&answers[1].bytes[..]).unwrap();
    match reply.result.unwrap() {
        v1::connect_reply::Result::Permit(permit) => {
            assert!(permit.pairing != pairing && permit.offer.is_some(), "it joined another's tunnel");
        }
        v1::connect_reply::Result::Deny(deny) => panic!("engineers may: {:?}", deny.reasons),
    }
    assert_eq!(held(world, Name::Laptop2), (grant, pairing), "another's grant is not there any more");
    assert!(victim.answers(), "another's connection ended");
    let left = admin_json(world, &["session", "list"]).unwrap();
    let left = left["sessions"].as_array().unwrap().clone();
    assert_eq!(left.len(), sessions - 1, "{left:?}");
    assert!(left.iter().any(|session| session["user"] == "guest"), "{left:?}");
}

/// With words about grants, names and witnesses that are not its own.
fn as_a_hostile_gateway(world: &World, controller: &Daemon, victim: &mut Talk) {
    let (grant, _) = held(world, Name::Laptop2);
    let prefix = |address: &[u8], length| Some(v1::Prefix { address: address.to_vec(), length });
    let far = Some(v1::Revision { incarnation: u64::MAX, number: u64::MAX });
    let near = Some(v1::Revision { incarnation: 1, number: 1 });
    let hello = |witness| v1::GatewayHello {
        nat_v4: prefix(&[198, 19, 0, 0], 16),
        nat_v6: prefix(&[0xfd, 1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 48),
        boot: 7,
        pairing_key: vec![7; 32],
        witness,
        ..Default::default()
    };
    let forged =
        v1::AuditHead { revision: far, seq: u64::MAX, hash: vec![1; 32], at_ms: i64::MAX, signature: vec![1; 70] };
    use v1::gateway_up::What;
    let up = |what| v1::GatewayUp { what: Some(what) }.encode_to_vec();
    let flow = v1::FlowRecord {
        grant: grant.clone(),
        protocol: 1,
        target: vec![10, 20, 0, 10],
        port: 22,
        ..Default::default()
    };
    let name = v1::NameReport { name: "web.corp.example".to_owned(), ..Default::default() };
    let said = vec![
        up(What::Hello(hello(Some(forged)))),
        up(What::Report(v1::Report { flows: vec![flow], first_flow: 1, ..Default::default() })),
        up(What::Report(v1::Report { names: vec![name], ..Default::default() })),
        up(What::Ack(v1::Ack { revision: far, refused: vec![grant.clone()] })),
        up(What::Renew(v1::Renew { seq: u64::MAX, revision: near, digest: vec![0; 32] })),
    ];
    let mark = controller.mark();
    let door = GATEWAY_DOOR;
    let answer = &call(world, Name::Gateway2, &door, &[("/umbra.v1.Gateways/Watch".to_owned(), said)])[0];
    assert!([-1, 0].contains(&answer.code), "{} {}", answer.code, answer.message);
    let first = v1::GatewayDown::decode(&answer.bytes[..]).unwrap();
    let about = format!("{first:?}");
    assert!(!about.contains(&grant) && !about.contains("web.corp.example"), "{about}");
    controller.wait_for_line_after(mark, "is not believed", SOON).unwrap();
    controller.wait_for_line_after(mark, "a flow of a grant that is not its own", SOON).unwrap();
    assert_eq!(held(world, Name::Laptop2).0, grant, "another gateway's word ended a grant");
    assert!(victim.answers(), "another's connection ended");
    let sessions = admin_json(world, &["session", "list"]).unwrap();
    let session = sessions["sessions"].as_array().unwrap().iter().find(|s| s["user"] == "guest").unwrap()["id"].clone();
    let shown = admin_json(world, &["session", "show", session.as_str().unwrap()]).unwrap();
    assert_eq!(shown["grants"][0]["gateway"], "gateway", "{shown}");
    assert!(shown["flows"].as_array().unwrap().iter().all(|flow| flow["gateway"] == "gateway"), "{shown}");
    let status = admin_json(world, &["status"]).unwrap();
    assert_eq!(status["refuses"], "", "a head that nobody signed stopped the controller");
}

/// The certificate of one machine in the tunnel of another.
fn with_anothers_certificate(world: &World, controller: &Daemon) {
    for (number, (host, state)) in [(Name::Laptop2, "client"), (Name::Gateway, "gateway")].into_iter().enumerate() {
        let identity = world.host(host).outside_path(&format!("/var/lib/umbra/{state}/identity.json")).unwrap();
        let stolen = format!("/etc/umbra/stolen-{number}");
        let folder = world.host(Name::Laptop).outside_path(&stolen).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::copy(identity, folder.join("identity.json")).unwrap();
        let before = of_two_nodes(world);
        let file = umbra_tests::perimeter::write_file(world, Name::Laptop, "calls", b"/umbra.v1.Nodes/Probe ").unwrap();
        let words = ["umbra-lab", "__attack", "calls", "--identity", &stolen, &file];
        let done = world.host(Name::Laptop).run(&words, SOON).unwrap();
        assert!(!done.success() && done.stdout.is_empty(), "{host}: {}", done.stdout);
        until("the refusal is counted", SOON, || of_two_nodes(world) > before);
    }
    // One line for all of them: who goes on is told with a number.
    controller.wait_for_line("its certificate and its tunnel are not of one node", SOON).unwrap();
}

/// How many connections were refused whose certificate and tunnel are of two nodes.
fn of_two_nodes(world: &World) -> u64 {
    let status = admin_json(world, &["status"]).unwrap();
    let drops = status["drops"].as_array().unwrap();
    drops.iter().find(|drop| drop["reason"] == "rpc_two_nodes").map_or(0, |drop| drop["count"].as_u64().unwrap())
}

#[test]
fn nobody_calls_what_is_not_theirs_and_nobodys_word_touches_anothers() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    let perimeter = Perimeter::start(&world, &Plan::default()).unwrap_or_else(|error| panic!("{error}"));
    let _branch = branch(&world);
    let mut victim = Talk::open(&world, Name::Laptop2, "web.corp.example:7");
    let join = carry_join_file(&world, Name::Stranger, &["--device"]).unwrap();

    all_calls(&world, Device, Name::Laptop, &[]);
    all_calls(&world, Gateway, Name::Gateway2, &GATEWAY_DOOR);
    all_calls(&world, Newcomer, Name::Stranger, &["--join", &join]);
    all_calls(&world, Administrator, Name::Controller, &["--socket=/run/umbra/controller.sock"]);
    as_persons(&world);
    assert!(victim.answers(), "a connection ended");

    with_anothers_certificate(&world, &perimeter.controller);
    as_a_hostile_gateway(&world, &perimeter.controller, &mut victim);
    as_a_hostile_device(&world, &mut victim);

    // Who is revoked is nobody: soon its tunnel does not even answer.
    let devices = admin_json(&world, &["device", "list"]).unwrap();
    let revoked = devices["devices"].as_array().unwrap().iter().find(|d| d["user"] == "guest").unwrap()["id"].clone();
    admin(&world, &["device", "revoke", revoked.as_str().unwrap()]).unwrap();
    let file = umbra_tests::perimeter::write_file(&world, Name::Laptop2, "calls", b"/umbra.v1.Nodes/Probe ").unwrap();
    // For the moment in which it is still heard, it hears that it is refused.
    until("silence towards who is revoked", SOON * 4, || {
        // Longer than the caller itself waits for an answer: silence ends it.
        let done = world.host(Name::Laptop2).run(&["umbra-lab", "__attack", "calls", &file], SOON * 3).unwrap();
        assert!(done.stdout.is_empty() || done.stdout.starts_with("7 "), "{}", done.stdout);
        !done.success() && done.stdout.is_empty()
    });
    let listed = admin_json(&world, &["session", "list"]).unwrap();
    assert_eq!(listed["sessions"].as_array().unwrap().len(), 0, "{listed}");
}
