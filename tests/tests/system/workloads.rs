//! Programs without a person: a machine joins with a token of its platform, reaches what its own account was granted, and nothing else.

use crate::support::{SOON, probe, world};
use crate::talk::{Talk, json, until};
use std::fs;
use umbra_tests::issuer::Issuer;
use umbra_tests::lab::{Finished, Name, World};
use umbra_tests::perimeter::{POLICY, Perimeter, Plan, admin, admin_json, start_client, umbra, write_file};
use umbra_tests::service::Services;

const AUDIENCE: &str = "umbra.corp.example";
const SUBJECT: &str = "repo:org/shop:ref:refs/heads/main";
const MORE: &str = r#"
@id("builds-see-the-web")
permit (principal == Workload::"build", action == Action::"connect", resource == Resource::"web");

@id("people-see-the-wiki")
permit (principal is User, action == Action::"connect", resource == Resource::"wiki");
"#;

/// Copies a file below `/etc/umbra` from the controller to another host.
fn carry(world: &World, host: Name, name: &str) -> String {
    let text = fs::read(world.host(Name::Controller).outside_path(&format!("/etc/umbra/{name}")).unwrap()).unwrap();
    write_file(world, host, name, &text).unwrap()
}

/// `umbra up` with the rule's join file and a token.
fn join(world: &World, host: Name, file: &str, token: &str) -> Finished {
    let token = write_file(world, host, "token", token.as_bytes()).unwrap();
    // A daemon that was refused starts anew.
    until("a daemon", SOON, || {
        world.host(host).run(&["umbra", "status", "--json"], SOON).unwrap().stdout.contains("idle")
    });
    world.host(host).run(&["umbra", "up", "--join", file, "--token-file", &token, "--yes"], SOON * 3).unwrap()
}

fn page(world: &World, host: Name, name: &str) -> bool {
    probe(world, host, &["--patience=1000", "http", &format!("http://{name}.corp.example/")]).success()
}

#[test]
fn a_workload_joins_with_a_token_of_its_platform_once_and_reaches_its_one_resource() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    let plan = Plan { laptops: Vec::new(), ..Plan::default() };
    let _perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    let issuer = Issuer::new("https://ci.example").unwrap();
    let keys = write_file(&world, Name::Controller, "keys.json", issuer.keys().to_string().as_bytes()).unwrap();
    admin(&world, &["account", "add", "build"]).unwrap();
    let policy = write_file(&world, Name::Controller, "more.cedar", format!("{POLICY}{MORE}").as_bytes()).unwrap();
    admin(&world, &["policy", "apply", &policy]).unwrap();
    let rule = ["federation", "add", "ci", "--issuer", "https://ci.example", "--audience", AUDIENCE, "--ephemeral"];
    let about = ["--subject", "repo:org/shop:*", "--account", "build", "--jwks-file", &keys];
    admin(&world, &[&rule[..], &about].concat()).unwrap();
    admin(&world, &["federation", "join-file", "ci", "--out", "/etc/umbra/ci.join"]).unwrap();
    let _clients = [Name::Laptop, Name::Laptop2].map(|host| start_client(&world, host).unwrap());
    let [file, other] = [Name::Laptop, Name::Laptop2].map(|host| carry(&world, host, "ci.join"));

    // The file alone opens nothing, nor does it with a token that the rule does not mean.
    let alone = world.host(Name::Laptop).run(&["umbra", "up", "--join", &file, "--yes"], SOON).unwrap();
    assert!(alone.status.code() == Some(2) && alone.stderr.contains("--token-file"), "{alone:?}");
    let stranger = Issuer::new("https://ci.example").unwrap();
    for (token, told) in [
        (issuer.token(AUDIENCE, "repo:org/shop-evil:ref:refs/heads/main", 300), "audit trail"),
        (issuer.token("others.example", SUBJECT, 300), "audit trail"),
        (stranger.token(AUDIENCE, SUBJECT, 300), "audit trail"),
        (issuer.token(AUDIENCE, SUBJECT, 0), "get a fresh one"),
        (Ok("no.token.atall".to_owned()), "audit trail"),
    ] {
        let refused = join(&world, Name::Laptop, &file, &token.unwrap());
        assert!(!refused.success() && refused.stderr.contains(told), "{refused:?}");
        assert!(!refused.stderr.contains("repo:org/shop:*"), "what the rule means is the administrator's: {refused:?}");
    }
    let denied = admin(&world, &["audit", "list", "--action", "enrol", "--object", "federation/", "--json"]).unwrap();
    assert!(denied.stdout.contains("shop-evil") && denied.stdout.contains("not by the issuer"), "{denied:?}");
    assert_eq!(admin_json(&world, &["device", "list"]).unwrap()["devices"].as_array().unwrap().len(), 0);

    // The right one: no log-in, one resource.
    let token = issuer.token(AUDIENCE, SUBJECT, 300).unwrap();
    let joined = join(&world, Name::Laptop, &file, &token);
    assert!(joined.success() && joined.stdout.contains("service account `build`"), "{joined:?}");
    until("the page of web", SOON, || page(&world, Name::Laptop, "web"));
    for name in ["wiki", "vault"] {
        assert!(!page(&world, Name::Laptop, name), "{name} is for people");
    }
    let listed = json(&world, Name::Laptop, &["umbra", "ls", "--json"]);
    let seen: Vec<_> = listed["resources"].as_array().unwrap().iter().map(|row| row["name"].clone()).collect();
    assert_eq!(seen, ["web"], "{listed}");
    let status = json(&world, Name::Laptop, &["umbra", "status", "--json"]);
    assert!(status["session"]["workload"] == true && status["session"]["user"] == "build", "{status}");
    let password = write_file(&world, Name::Laptop, "password", b"correct horse battery staple").unwrap();
    let login = ["umbra", "login", "--user", "engineer", "--password-file", &password];
    let login = world.host(Name::Laptop).run(&login, SOON).unwrap();
    assert!(!login.success() && login.stderr.contains("nobody logs in on it"), "{login:?}");
    // The token again, from another machine.
    let again = join(&world, Name::Laptop2, &other, &token);
    assert!(!again.success() && again.stderr.contains("used already"), "{again:?}");

    // Whatever is open ends with the account, and comes back with it.
    let mut talk = Talk::open(&world, Name::Laptop, "web.corp.example:7");
    let said = admin(&world, &["account", "disable", "build"]).unwrap();
    assert!(said.stdout.contains("confirms: nothing passes any more"), "{said:?}");
    assert!(!talk.answers(), "a connection outlived its account");
    let silent = join(&world, Name::Laptop2, &other, &issuer.token(AUDIENCE, SUBJECT, 300).unwrap());
    assert!(!silent.success() && silent.stderr.contains("never answers strangers"), "{silent:?}");
    admin(&world, &["account", "enable", "build"]).unwrap();
    until("the page of web again", SOON, || page(&world, Name::Laptop, "web"));
    // A daemon that starts anew needs no token.
    umbra(&world, Name::Laptop, &["down"]).unwrap();
    umbra(&world, Name::Laptop, &["up"]).unwrap();
    until("the page of web after a restart", SOON, || page(&world, Name::Laptop, "web"));
    let removed = admin(&world, &["account", "remove", "build"]).unwrap();
    assert!(removed.stdout.contains("federation rules removed: ci"), "{removed:?}");
    until("nothing of it is left", SOON, || !page(&world, Name::Laptop, "web"));
    let devices = admin_json(&world, &["device", "list"]).unwrap();
    assert_eq!(devices["devices"][0]["state"], "revoked", "{devices}");
}
