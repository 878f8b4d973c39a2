//! Second factors as people use them: an app and recovery codes, a resource that wants a fresh one, and whoever guesses.

use crate::support::{SOON, probe, world};
use crate::talk::{Talk, json, until};
use umbra_tests::authenticator::Authenticator;
use umbra_tests::lab::{Finished, Name, World};
use umbra_tests::perimeter::{Perimeter, Plan, admin, admin_json, log_in, umbra, write_file};
use umbra_tests::service::Services;

const POLICY: &str = r#"
@id("web-with-a-second-factor") @condition("a second factor of the last quarter of an hour")
permit (principal in Group::"engineers", action == Action::"connect", resource == Resource::"web")
when { context.mfa_age_s < 900 };

@id("wiki")
permit (principal in Group::"engineers", action == Action::"connect", resource == Resource::"wiki");
"#;

fn start(world: &World) -> (Services, Perimeter) {
    let services = Services::start(world).unwrap();
    let perimeter = Perimeter::start(world, &Plan { laptops: vec![Name::Laptop], ..Plan::default() });
    let perimeter = perimeter.unwrap_or_else(|error| panic!("{error}"));
    let policy = write_file(world, Name::Controller, "factors.cedar", POLICY.as_bytes()).unwrap();
    admin(world, &["policy", "apply", &policy]).unwrap();
    (services, perimeter)
}

fn asked(world: &World, words: &[&str]) -> Finished {
    world.host(Name::Laptop).run(words, SOON).unwrap()
}

/// `umbra WORDS --code-file` with this code.
fn with_code(world: &World, words: &[&str], code: &str) -> Finished {
    let file = write_file(world, Name::Laptop, "code", code.as_bytes()).unwrap();
    asked(world, &[&["umbra"], words, &["--code-file", &file]].concat())
}

fn page(world: &World) -> bool {
    probe(world, Name::Laptop, &["--patience=1000", "http", "http://web.corp.example/"]).success()
}

/// Adds an app as a person does: reads its key off the screen, types the code. Answers the recovery codes, too.
pub fn add(world: &World) -> (Authenticator, Vec<String>) {
    let mut talk = Talk::with(world, Name::Laptop, "umbra", &["mfa", "add", "phone"]);
    let mut lines = Vec::new();
    let key = loop {
        let line = talk.hear(SOON).unwrap_or_else(|| panic!("{lines:?} {}", talk.last_words()));
        if let Some((_, key)) = line.split_once("type its key: ") {
            break key.trim().to_owned();
        }
        lines.push(line);
    };
    assert!(lines.len() > 15 && lines.iter().any(|line| line.contains('\u{2588}')), "a QR code: {lines:?}");
    let app = Authenticator::new(&key).unwrap();
    // An earlier step's, so that the present one's is still unused.
    talk.say(&app.code(-1));
    talk.close();
    let mut codes = Vec::new();
    while let Some(line) = talk.hear(SOON) {
        let word = line.trim();
        if word.len() == 19 && word.matches('-').count() == 3 {
            codes.push(word.to_owned());
        }
    }
    assert_eq!(codes.len(), 10, "{}", talk.last_words());
    (app, codes)
}

#[test]
fn a_resource_that_wants_a_fresh_factor_gets_one_there_and_then() {
    let world = world();
    let (_services, _perimeter) = start(&world);
    umbra(&world, Name::Laptop, &["connect", "wiki"]).unwrap();
    let denied = asked(&world, &["umbra", "connect", "web"]);
    assert_eq!(denied.status.code(), Some(3), "{denied:?}");
    assert!(
        denied.stderr.contains("no second factor was given") && denied.stderr.contains("umbra mfa verify"),
        "{denied:?}"
    );
    let none = with_code(&world, &["mfa", "verify"], "000000");
    assert!(!none.success() && none.stderr.contains("umbra mfa add"), "{none:?}");

    let (app, codes) = add(&world);
    // Whoever has just shown a code need not show another.
    umbra(&world, Name::Laptop, &["connect", "web"]).unwrap();
    until("the page of web", SOON, || page(&world));
    let status = json(&world, Name::Laptop, &["umbra", "status", "--json"]);
    assert_eq!(status["session"]["factor"], "totp", "{status}");

    // A factor belongs to its session. In the next one, connect asks.
    umbra(&world, Name::Laptop, &["logout"]).unwrap();
    log_in(&world, Name::Laptop).unwrap();
    let denied = asked(&world, &["umbra", "connect", "web", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&denied.stdout).unwrap();
    assert_eq!((denied.status.code(), &told["step_up"]), (Some(3), &serde_json::json!(["totp", "recovery-code"])));
    let code = app.code(0);
    let connected = with_code(&world, &["connect", "web"], &code);
    assert!(connected.success() && connected.stdout.contains("web: connected"), "{connected:?}");
    until("the page of web", SOON, || page(&world));

    // The same code again, by whoever looked over the shoulder.
    let replayed = with_code(&world, &["mfa", "verify"], &code);
    assert!(!replayed.success() && replayed.stderr.contains("used already"), "{replayed:?}");
    // Each recovery code once.
    assert!(with_code(&world, &["mfa", "verify"], &codes[0]).success());
    assert!(!with_code(&world, &["mfa", "verify"], &codes[0]).success());
    let list = umbra(&world, Name::Laptop, &["mfa", "ls"]).unwrap();
    assert!(list.stdout.contains("phone") && list.stdout.contains("recovery codes left: 9"), "{list:?}");
}

#[test]
fn whoever_guesses_is_locked_out_and_a_reset_ends_what_was_open() {
    let world = world();
    let (_services, _perimeter) = start(&world);
    let (app, codes) = add(&world);
    umbra(&world, Name::Laptop, &["connect", "web"]).unwrap();
    until("the page of web", SOON, || page(&world));
    for n in 0..10 {
        let wrong = with_code(&world, &["mfa", "verify"], "12345");
        assert!(!wrong.success() && wrong.stderr.contains("not a code that counts"), "{n}: {wrong:?}");
    }
    // The eleventh is not looked at, whatever it is.
    for code in [app.code(0), "12345".to_owned(), codes[0].clone()] {
        let locked = with_code(&world, &["mfa", "verify"], &code);
        assert!(!locked.success() && locked.stderr.contains("wait 15 min"), "{locked:?}");
    }
    let shown = admin(&world, &["user", "factors", "engineer"]).unwrap();
    assert!(shown.stdout.contains("phone") && shown.stdout.contains("wrong codes in a row: 10"), "{shown:?}");
    let trail = admin(&world, &["audit", "list", "--action", "mfa.verify"]).unwrap();
    assert!(trail.stdout.matches("engineer").count() >= 10, "{trail:?}");
    assert!(!trail.stdout.contains(&codes[0]) && !trail.stdout.contains("12345"), "no code is written down: {trail:?}");

    // Somebody else may know the factor: with it goes what was opened by it, and the log-in.
    let mut open = Talk::open(&world, Name::Laptop, "web.corp.example:7");
    assert!(open.answers());
    admin(&world, &["user", "reset-factors", "engineer"]).unwrap();
    assert!(!page(&world) && !open.answers(), "a connection outlived the reset");
    let status = json(&world, Name::Laptop, &["umbra", "status", "--json"]);
    assert!(status["session"].is_null(), "{status}");
    let left = admin_json(&world, &["user", "factors", "engineer"]).unwrap();
    assert_eq!(left["factors"].as_array().map_or(0, Vec::len), 0, "{left}");
    log_in(&world, Name::Laptop).unwrap();
    let (app, _) = add(&world);
    assert!(with_code(&world, &["connect", "web"], &app.code(0)).success());
    until("the page of web", SOON, || page(&world));
}

#[test]
fn who_leaves_keeps_nothing() {
    let world = world();
    let (_services, _perimeter) = start(&world);
    add(&world);
    umbra(&world, Name::Laptop, &["connect", "web"]).unwrap();
    let mut open = Talk::open(&world, Name::Laptop, "web.corp.example:7");
    assert!(open.answers());
    let told = admin(&world, &["user", "offboard", "engineer"]).unwrap();
    for part in ["sessions ended: 1", "devices revoked: laptop", "groups left: engineers", "second factors removed: 1"]
    {
        assert!(told.stdout.contains(part), "{part}: {told:?}");
    }
    assert!(!open.answers(), "a connection outlived its owner's leaving");
    assert!(log_in(&world, Name::Laptop).is_err(), "whoever left logs in");
    let devices = admin_json(&world, &["device", "list"]).unwrap();
    assert_eq!(devices["devices"][0]["state"], "revoked", "{devices}");
    let users = admin_json(&world, &["user", "list"]).unwrap();
    let row = users["users"].as_array().unwrap().iter().find(|user| user["name"] == "engineer").unwrap();
    assert!(row["disabled"] == true && row["groups"].as_array().is_none_or(Vec::is_empty), "{row}");
    // Doing it again harms nobody.
    admin(&world, &["user", "offboard", "engineer"]).unwrap();
}
