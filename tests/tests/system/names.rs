//! Does anything that somebody wrote into a field reach a terminal, a log, the audit trail or a file as it was written?

use crate::support::{SOON, world};
use model::text::is_hidden;
use prost::Message;
use proto::{admin as wire, v1};
use std::fs;
use umbra_tests::lab::{Name, World};
use umbra_tests::perimeter::{PASSWORD, POLICY, Perimeter, Plan, admin, admin_json, carry_join_file, write_file};
pub use umbra_tests::wire::calls::Answer;
use umbra_tests::wire::texts::{Fate, fate};
use umbra_tests::wire::{Wire, with_text};

/// All at once: another line of a log, the cursor, what is not seen, what reorders, another folder.
const WORST: &str = "a\r\n2030-01-01T00:00:00.000000Z  INFO umbra: forged\u{1b}[2J\u{9b}2J\0\u{7f}\u{202e}\u{2066}\u{200b}\u{ad}\u{feff}\u{e0041}../x";
/// One at a time, so that what is refused is refused for each of them.
const EVIL: [&str; 24] = [
    "a\nb",
    "a\rb",
    "\u{1b}[2J",
    "a\0b",
    "a\u{7f}",
    "\u{9b}2J",
    "a\u{202e}b",
    "\u{2066}a",
    "a\u{200b}b",
    "\u{feff}a",
    "a\u{e0041}",
    "../../../etc/passwd",
    "/etc/passwd",
    "-rf",
    "--help",
    // Cyrillic and full-width letters that look like `clerk`.
    "\u{441}lerk",
    "\u{ff43}lerk",
    "$(id)",
    "`id`",
    "{{7*7}}",
    "' OR ''='",
    "a b",
    ".",
    WORST,
];
/// The control port, for a gateway.
pub const GATEWAY_DOOR: [&str; 2] = ["--state=/var/lib/umbra/gateway", "--device=umbra-gw"];
/// Codes of gRPC that say that a request was wrong, and not that a program is.
const REFUSALS: [i32; 7] = [3, 5, 6, 7, 9, 11, 16];

fn clean(what: &str, text: &str) {
    let bad = text.char_indices().find(|(_, c)| is_hidden(*c) && *c != '\n');
    let near = |at: usize| text.get(at.saturating_sub(60)..).unwrap_or(text).chars().take(120).collect::<String>();
    assert!(bad.is_none(), "{what} shows {bad:?}: {:?}", near(bad.unwrap().0));
    assert!(!text.lines().any(|line| line.starts_with("2030-01-01")), "{what} has a line that was forged");
}

/// Makes calls on a host, one after the other.
pub fn call(world: &World, host: Name, door: &[&str], calls: &[(String, Vec<Vec<u8>>)]) -> Vec<Answer> {
    umbra_tests::wire::calls::call(world, host, door, calls).unwrap()
}

/// A request that would be good, so that what is refused is the field.
pub fn template(path: &str, resource: &str) -> Vec<u8> {
    let text = str::to_owned;
    match path.rsplit('/').next().unwrap() {
        "AddUser" => {
            wire::AddUserRequest { name: text("ok"), password: text(PASSWORD), ..Default::default() }.encode_to_vec()
        }
        "SetMember" => {
            wire::SetMemberRequest { group: text("guests"), user: text("guest"), member: true }.encode_to_vec()
        }
        "AddSite" => wire::AddSiteRequest { name: text("ok"), prefixes: vec![text("10.99.0.0/24")] }.encode_to_vec(),
        "AddResource" => wire::AddResourceRequest {
            name: text("ok"),
            site: text("hq"),
            hosts: vec![text("ok.corp.example")],
            tcp: vec![text("443")],
            ..Default::default()
        }
        .encode_to_vec(),
        "CreateJoinKey" => {
            wire::CreateJoinKeyRequest { kind: text("gateway"), site: text("hq"), ..Default::default() }.encode_to_vec()
        }
        "ConfirmGateway" => {
            wire::ConfirmGatewayRequest { gateway: text("gateway2"), ..Default::default() }.encode_to_vec()
        }
        "ConfirmDevice" => wire::ConfirmDeviceRequest { device: text("laptop"), ..Default::default() }.encode_to_vec(),
        "ApplyPolicy" | "CheckPolicy" => {
            let file = wire::PolicyFile { name: text("policy.cedar"), text: text(POLICY) };
            wire::PolicyFiles { files: vec![file] }.encode_to_vec()
        }
        "Connect" if path.starts_with("/umbra.v1.") => {
            v1::ConnectRequest { resource: text(resource), data_key: vec![9; 32], ..Default::default() }.encode_to_vec()
        }
        _ => Vec::new(),
    }
}

/// Every text of every call of a service, with everything evil in it, and what came of it.
fn try_all(world: &World, host: Name, door: &[&str], service: &str, resource: &str) -> usize {
    let described = Wire::read().unwrap();
    let long = ["x".repeat(64 << 10), "\u{202e}".repeat(20_000), String::new()];
    let (mut calls, mut of) = (Vec::new(), Vec::new());
    for one in described.calls.iter().filter(|call| call.path.starts_with(service) && !call.path.ends_with("/Watch")) {
        for place in described.places(&one.request) {
            let fate = fate(&place.field).unwrap();
            // A password is hashed, which takes its time, and a backup is one whatever its passphrase.
            let few = fate == Fate::Secret;
            for text in
                EVIL.iter().rev().take(if few { 1 } else { usize::MAX }).copied().chain(long.iter().map(String::as_str))
            {
                let message = with_text(&template(&one.path, resource), &place.numbers, text);
                calls.push((one.path.clone(), vec![message]));
                of.push((place.field.clone(), fate, text.to_owned()));
            }
        }
    }
    let answers = call(world, host, door, &calls);
    for ((field, fate, text), answer) in of.iter().zip(&answers) {
        let what = format!("{field} with {:?}", text.chars().take(40).collect::<String>());
        clean(&what, &answer.message);
        assert!(answer.message.len() < 2_000, "{what}: {} bytes", answer.message.len());
        // A key of the last resort is looked at a few times a minute.
        let often = field.starts_with("umbra.admin.v1.BreakGlassRequest.") && answer.code == 8;
        let refused = often || REFUSALS.contains(&answer.code);
        assert!(answer.code == 0 || refused, "{what}: {} {}", answer.code, answer.message);
        if matches!(fate, Fate::Word | Fate::Known) && !text.is_empty() {
            assert!(answer.code != 0, "{what} was taken");
            assert!(answer.message.len() > 15, "{what}: {:?} does not say what to do", answer.message);
        }
        if *fate == Fate::Policy && text.contains(is_hidden) {
            let verdict = wire::PolicyVerdict::decode(&answer.bytes[..]).unwrap();
            assert!(!verdict.problems.is_empty(), "{what} was taken");
        }
    }
    answers.len()
}

/// A gateway's word, one stream each.
fn try_gateway(world: &World) {
    let prefix = |address: &[u8], length| Some(v1::Prefix { address: address.to_vec(), length });
    let hello = v1::GatewayHello {
        nat_v4: prefix(&[198, 19, 0, 0], 16),
        nat_v6: prefix(&[0xfd, 1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 48),
        boot: 7,
        pairing_key: vec![7; 32],
        ..Default::default()
    };
    let hello = v1::GatewayUp { what: Some(v1::gateway_up::What::Hello(hello)) }.encode_to_vec();
    let mut calls = Vec::new();
    for place in Wire::read().unwrap().places("umbra.v1.GatewayUp") {
        for text in [WORST.to_owned(), "\u{202e}".repeat(20_000)] {
            let message = with_text(&[], &place.numbers, &text);
            let in_hello = place.field.contains("GatewayHello");
            let messages = if in_hello {
                vec![with_text(&hello, &place.numbers, &text), Vec::new()]
            } else {
                vec![hello.clone(), message]
            };
            calls.push(("/umbra.v1.Gateways/Watch".to_owned(), messages));
        }
    }
    assert!(calls.len() >= 12);
    for answer in call(world, Name::Gateway, &GATEWAY_DOOR, &calls) {
        clean("a gateway's stream", &answer.message);
        assert!([-1, 0].contains(&answer.code), "{} {}", answer.code, answer.message);
    }
}

/// What a person types: arguments hold everything but NUL.
fn try_commands(world: &World) {
    let evil = WORST.replace('\0', "");
    let file = write_file(
        world,
        Name::Controller,
        "evil.cedar",
        format!("permit(principal, action, resource); // {WORST}").as_bytes(),
    );
    let file = file.unwrap();
    let missing = format!("/etc/umbra/{evil}");
    for words in [
        &["umbra-controller", "group", "add", &evil][..],
        &["umbra-controller", "user", "delete", &evil],
        &["umbra-controller", "site", "add", "x", "--prefix", &evil],
        &["umbra-controller", "resource", "add", "x", "--site", &evil, "--host", &evil, "--tcp", "1"],
        &["umbra-controller", "policy", "check", &file],
        &["umbra-controller", "policy", "check", &missing],
        &["umbra-controller", "audit", "list", "--actor", &evil],
        &["umbra-controller", "session", "show", &evil],
        &["umbra-controller", &evil],
        &["umbra-controller", "--state", &missing, "init", "--trust-domain", &evil, "--endpoint", &evil],
    ] {
        let done = world.host(Name::Controller).run(words, SOON).unwrap();
        clean(&format!("{words:?}"), &(done.stdout + &done.stderr));
        assert_eq!(done.status.success(), words.contains(&"list"), "{words:?}: {}", done.stderr.len());
    }
    for words in [
        &["umbra", "connect", &evil][..],
        &["umbra", "why", &evil],
        &["umbra", "login", "--user", &evil, "--password-file", &missing],
    ] {
        let done = world.host(Name::Laptop).run(words, SOON).unwrap();
        clean(&format!("{words:?}"), &(done.stdout + &done.stderr));
        assert!(!done.status.success(), "{words:?}");
    }
}

/// A machine that calls itself so.
fn join_badly(world: &World) {
    let join = carry_join_file(world, Name::Gateway2, &["--gateway", "--site", "hq"]).unwrap();
    let mut command = world.host(Name::Gateway2).command("umbra-gateway");
    command.args(["up", "--join", &join, "--yes", "--name", &WORST.replace('\0', "")]);
    let gateway = world.host(Name::Gateway2).start("badly-named", command).unwrap();
    gateway.wait_for_line("joined as", SOON).unwrap();
    let gateways = admin_json(world, &["gateway", "list"]).unwrap();
    let names: Vec<&str> =
        gateways["gateways"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_graphic())), "{names:?}");
}

/// Everything that shows or keeps something.
fn look(world: &World) {
    let shows = [
        "status",
        "user list",
        "group list",
        "site list",
        "resource list",
        "gateway list",
        "device list",
        "join-key list",
    ];
    let more = [
        "session list --all",
        "policy show",
        "policy history",
        "policy access",
        "restored list",
        "audit list --limit 1000",
    ];
    for words in shows.iter().chain(&more) {
        let words: Vec<&str> = words.split(' ').collect();
        for json in [&[][..], &["--json"]] {
            let done = admin(world, &[&words[..], json].concat()).unwrap();
            clean(&format!("{words:?} {json:?}"), &(done.stdout + &done.stderr));
        }
    }
    admin(world, &["audit", "export", "--out", "/etc/umbra/audit"]).unwrap();
    let export = world.host(Name::Controller).outside_path("/etc/umbra/audit").unwrap();
    clean("the export of the audit trail", &fs::read_to_string(export).unwrap());
    for (host, words) in [
        (Name::Laptop, &["umbra", "ls", "--json"][..]),
        (Name::Laptop, &["umbra", "status"]),
        (Name::Laptop, &["umbra", "status", "--json"]),
        (Name::Laptop, &["cat", "/etc/resolv.conf"]),
        (Name::Laptop, &["find", "/var/lib/umbra", "/etc/umbra", "/run/umbra"]),
        (Name::Gateway, &["umbra-gateway", "status"]),
        (Name::Gateway, &["find", "/var/lib/umbra", "/run/umbra"]),
        (Name::Controller, &["find", "/var/lib/umbra", "/run/umbra"]),
    ] {
        let done = world.host(host).run(words, SOON).unwrap();
        assert!(done.success(), "{words:?}: {}", done.stderr);
        clean(&format!("{words:?} on {host}"), &done.stdout);
    }
    let mut logs = 0;
    for log in fs::read_dir(world.folder().join("logs")).unwrap().flatten() {
        clean(&format!("{}", log.path().display()), &fs::read_to_string(log.path()).unwrap().replace('\t', " "));
        logs += 1;
    }
    assert!(logs >= 4, "the logs are elsewhere");
}

#[test]
fn what_is_written_into_any_field_is_refused_or_shown_escaped() {
    let world = world();
    let perimeter = Perimeter::start(&world, &Plan { laptops: vec![Name::Laptop], ..Plan::default() });
    let perimeter = perimeter.unwrap_or_else(|error| panic!("{error}"));
    let resources = admin_json(&world, &["resource", "list"]).unwrap();
    let resource = resources["resources"][0]["id"].as_str().unwrap().to_owned();
    join_badly(&world);
    try_commands(&world);
    let socket = "--socket=/run/umbra/controller.sock";
    assert!(try_all(&world, Name::Controller, &[socket], "/umbra.admin.v1.Admin/", &resource) > 1_000);
    assert!(try_all(&world, Name::Laptop, &[], "/umbra.v1.Devices/", &resource) > 100);
    assert!(
        try_all(&world, Name::Laptop, &["--socket=/run/umbra/client.sock"], "/umbra.local.v1.Local/", &resource) > 100
    );
    try_gateway(&world);
    look(&world);
    drop(perimeter);
}
