//! Sign-in at an identity provider as people use it: in a browser, with a code, and until the provider takes it back.

use crate::browser::{self, Browser, Sends, folder};
use crate::support::{SOON, probe, world};
use crate::talk::{Talk, json, until};
use std::process::Command;
use umbra_tests::bench::peers::on_path;
use umbra_tests::lab::{Daemon, Finished, Name, World};
use umbra_tests::perimeter::{Perimeter, Plan, admin, admin_json, join_laptop, start_client, umbra, write_file};
use umbra_tests::service::Services;

/// Where the provider is: a machine on the outside network, as any on the Internet.
const ISSUER: &str = "https://203.0.113.66:8443";
/// What the provider knows the controller by.
const SECRET: &str = "a secret of the tests: 0123456789";

const POLICY: &str = r#"
@id("web")
permit (principal in Group::"engineers", action == Action::"connect", resource == Resource::"web");
"#;

struct Scene {
    world: World,
    _services: Services,
    _perimeter: Perimeter,
    _provider: Daemon,
    _clients: Vec<Daemon>,
    certificate: String,
}

/// What these tests need beyond what all do; `None` where it is not there, said once.
fn needs() -> Option<()> {
    let there = ["node", "curl", "openssl"].iter().all(|program| on_path(program).is_some());
    if there && folder().join("node_modules/oidc-provider").exists() {
        return Some(());
    }
    println!(
        "skipped: it needs node, curl and openssl, and the provider: on Debian `apt-get install nodejs npm curl openssl`, then \
         `npm ci --prefix tests/provider`"
    );
    None
}

impl Scene {
    /// The provider knows `ann`, a laptop each joins and nobody is logged in on them.
    fn start() -> Self {
        let world = world();
        let services = Services::start(&world).unwrap();
        let plan = Plan { laptops: Vec::new(), ..Plan::default() };
        let perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
        let (certificate, key) = (world.folder().join("idp.pem"), world.folder().join("idp.key"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=idp", "-addext", "subjectAltName=IP:203.0.113.66"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let people = world.folder().join("people.json");
        std::fs::write(&people, r#"{"ann": {"groups": ["staff", "dev"]}}"#).unwrap();
        let mut command = world.host(Name::Stranger).command("node");
        command.arg(folder().join("provider.mjs")).arg(ISSUER).args([&certificate, &key, &people]);
        let provider = world.host(Name::Stranger).start("provider", command).unwrap();
        provider.wait_for_line("ready", SOON).unwrap();

        let clients = [Name::Laptop, Name::Laptop2].map(|host| {
            let client = start_client(&world, host).unwrap();
            join_laptop(&world, host).unwrap();
            client
        });
        let scene = Self {
            _services: services,
            _perimeter: perimeter,
            _provider: provider,
            _clients: clients.into(),
            certificate: std::fs::read_to_string(&certificate).unwrap(),
            world,
        };
        let policy = write_file(&scene.world, Name::Controller, "web.cedar", POLICY.as_bytes()).unwrap();
        admin(&scene.world, &["policy", "apply", &policy]).unwrap();
        scene
    }

    fn add_provider(&self, options: &[&str]) {
        let ca = write_file(&self.world, Name::Controller, "idp-ca.pem", self.certificate.as_bytes()).unwrap();
        let secret = write_file(&self.world, Name::Controller, "idp-secret", SECRET.as_bytes()).unwrap();
        let named = ["idp", "add", "corp", "--issuer", ISSUER, "--client-id", "umbra", "--client-secret-file", &secret];
        let trusted = ["--ca-file", &ca, "--allow-address", "203.0.113.66/32"];
        let scopes = ["--scope", "groups", "--scope", "profile", "--scope", "email", "--scope", "offline_access"];
        let groups = ["--sign-in-group", "staff", "--group", "dev=engineers"];
        let words: [&[&str]; 5] = [&named, &trusted, &scopes, &groups, options];
        admin(&self.world, &words.concat()).unwrap();
    }

    /// What the provider knows from now on.
    fn people(&self, text: &str) {
        std::fs::write(self.world.folder().join("people.json"), text).unwrap();
    }

    /// `umbra login` with a browser in which this person sits.
    fn sign_in(&self, host: Name, who: &str) -> Finished {
        let mut command = self.world.host(host).command("umbra");
        command.arg("login").env("BROWSER", folder().join("browser.sh"));
        command.env("WHO", who).env("CA", self.world.folder().join("idp.pem"));
        self.world.host(host).run_command(&mut command, 2 * SOON).unwrap()
    }

    fn reaches(&self, host: Name) -> bool {
        probe(&self.world, host, &["--patience=1000", "http", "http://web.corp.example/"]).success()
    }

    /// A connection to the resource that stays open.
    fn open(&self, host: Name) -> Talk {
        until("the page of web", SOON, || self.reaches(host));
        Talk::open(&self.world, host, "web.corp.example:7")
    }
}

#[test]
fn people_sign_in_in_a_browser_and_with_a_code_and_lose_access_when_their_provider_says_so() {
    let (Some(()), Some(())) = (needs(), browser::needs()) else { return };
    let scene = Scene::start();
    let world = &scene.world;
    scene.add_provider(&["--check-every", "5s", "--device-code"]);

    // In a browser.
    let mut person = Browser::start(world, Name::Laptop, "ann");
    let mut sends = Sends::start(world, Name::Laptop, "login");
    let told = person.visit(&sends.address());
    let said = sends.rest();
    assert!(told.contains("Done") && said.contains("logged in as ann.corp"), "{told}: {said}");
    umbra(world, Name::Laptop, &["connect", "web"]).unwrap();
    until("the page of web", SOON, || scene.reaches(Name::Laptop));
    let users = admin_json(world, &["user", "list"]).unwrap();
    let ann = users["users"].as_array().unwrap().iter().find(|user| user["name"] == "ann.corp").unwrap();
    assert_eq!(ann["groups"], serde_json::json!(["engineers"]), "{users}");

    // With a code that is typed in elsewhere.
    let mut talk = Talk::with(world, Name::Laptop2, "sh", &["-c", "umbra login --device-code 2>&1"]);
    let (mut uri, mut code) = (String::new(), String::new());
    while code.is_empty() {
        let line = talk.hear(SOON).unwrap_or_else(|| panic!("no code: {}", talk.last_words()));
        if let Some(address) = line.split_whitespace().find(|word| word.starts_with("https://")) {
            uri = address.to_owned();
        } else if !uri.is_empty() {
            code = line.trim().to_owned();
        }
    }
    let mut elsewhere = world.host(Name::Stranger).command(folder().join("browser.sh"));
    elsewhere.arg(format!("{uri}?user_code={code}")).env("WHO", "ann").env("CA", world.folder().join("idp.pem"));
    let typed = world.host(Name::Stranger).run_command(&mut elsewhere, SOON).unwrap();
    assert!(typed.stdout.contains("Sign-in Success"), "{typed:?}");
    let mut said = String::new();
    while !said.contains("logged in as ann.corp") {
        said = talk.hear(2 * SOON).unwrap_or_else(|| panic!("not in: {said} {}", talk.last_words()));
    }
    umbra(world, Name::Laptop2, &["connect", "web"]).unwrap();

    // The provider disables the account: an open connection ends by itself, within the time that was set.
    let mut open = scene.open(Name::Laptop);
    assert!(open.lives_for(std::time::Duration::from_millis(500)), "{}", open.last_words());
    scene.people(r#"{"ann": {"groups": ["staff", "dev"], "disabled": true}}"#);
    until("the end of what was open", SOON, || !open.lives_for(std::time::Duration::from_millis(500)));
    until("the end of the log-in", SOON, || {
        json(world, Name::Laptop, &["umbra", "status", "--json"])["session"].is_null()
    });
    assert!(!scene.reaches(Name::Laptop));
    let audit = admin(world, &["audit", "list"]).unwrap().stdout;
    assert!(audit.contains("session.taken-back"), "{audit}");
}

#[test]
fn an_administrator_has_the_provider_asked_at_once_and_who_may_not_sign_in_does_not() {
    let Some(()) = needs() else { return };
    let scene = Scene::start();
    let world = &scene.world;
    scene.add_provider(&["--check-every", "1h"]);
    scene.people(r#"{"ann": {"groups": ["staff", "dev"]}, "guest": {"groups": ["visitors", "dev"]}}"#);
    let guest = scene.sign_in(Name::Laptop2, "guest");
    assert!(!guest.success() && guest.stderr.contains("no group that may sign in"), "{guest:?}");
    let denied = admin(world, &["audit", "list"]).unwrap().stdout;
    assert!(denied.contains("`guest` of `corp`"), "{denied}");
    let codes = world.host(Name::Laptop2).run(&["umbra", "login", "--device-code"], SOON).unwrap();
    assert!(!codes.success() && codes.stderr.contains("sign in with a browser"), "{codes:?}");

    assert!(scene.sign_in(Name::Laptop, "ann").success());
    umbra(world, Name::Laptop, &["connect", "web"]).unwrap();
    let mut open = scene.open(Name::Laptop);
    // Who signs in again goes on with what they have.
    assert!(scene.sign_in(Name::Laptop, "ann").success() && open.answers());
    // Out of the group that may reach it, still logged in.
    scene.people(r#"{"ann": {"groups": ["staff"]}}"#);
    let said = admin(world, &["idp", "sync"]).unwrap().stdout;
    assert!(said.contains("1 with other groups"), "{said}");
    assert!(!open.lives_for(std::time::Duration::from_millis(500)) && !scene.reaches(Name::Laptop));
    assert_eq!(json(world, Name::Laptop, &["umbra", "status", "--json"])["session"]["user"], "ann.corp");
    // Gone.
    scene.people("{}");
    let said = admin(world, &["idp", "sync", "corp"]).unwrap().stdout;
    assert!(said.contains("1 ended"), "{said}");
    until("the end of the log-in", SOON, || {
        json(world, Name::Laptop, &["umbra", "status", "--json"])["session"].is_null()
    });
}
