//! Passkeys as people use them: in a browser, for a resource that takes nothing else.

use crate::browser::{self, Browser, Sends};
use crate::support::{SOON, probe, world};
use crate::talk::{json, until};
use umbra_tests::lab::{Name, World};
use umbra_tests::perimeter::{Perimeter, Plan, admin, log_in, umbra, write_file};
use umbra_tests::service::Services;

const POLICY: &str = r#"
@id("web-with-a-passkey")
permit (principal in Group::"engineers", action == Action::"connect", resource == Resource::"web")
when { context.mfa_method == "passkey-local" };
"#;

fn page(world: &World) -> bool {
    probe(world, Name::Laptop, &["--patience=1000", "http", "http://web.corp.example/"]).success()
}

#[test]
fn a_passkey_is_made_and_shown_in_a_browser_and_opens_what_takes_nothing_else() {
    let Some(()) = browser::needs() else { return };
    let world = world();
    let _services = Services::start(&world).unwrap();
    let plan = Plan { laptops: vec![Name::Laptop], ..Plan::default() };
    let _perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    let policy = write_file(&world, Name::Controller, "passkeys.cedar", POLICY.as_bytes()).unwrap();
    admin(&world, &["policy", "apply", &policy]).unwrap();
    let mut person = Browser::start(&world, Name::Laptop, "engineer");

    let mut adding = Sends::start(&world, Name::Laptop, "mfa add --passkey key");
    let told = person.visit(&adding.address());
    assert!(told.contains("Make a passkey") && told.contains("Done."), "{told}");
    let said = adding.rest();
    assert!(said.contains("`key` is a second factor of yours now"), "{said}");
    let is_code = |word: &&str| word.len() == 19 && word.matches('-').count() == 3;
    let codes: Vec<&str> = said.lines().map(str::trim).filter(is_code).collect();
    assert_eq!(codes.len(), 10, "{said}");

    // In the next log-in: nothing but the passkey will do, and the refusal says so.
    umbra(&world, Name::Laptop, &["logout"]).unwrap();
    log_in(&world, Name::Laptop).unwrap();
    let file = write_file(&world, Name::Laptop, "code", codes[0].as_bytes()).unwrap();
    umbra(&world, Name::Laptop, &["mfa", "verify", "--code-file", &file]).unwrap();
    let denied = world.host(Name::Laptop).run(&["umbra", "connect", "web", "--json"], SOON).unwrap();
    let told: serde_json::Value = serde_json::from_str(&denied.stdout).unwrap();
    assert_eq!((denied.status.code(), &told["step_up"]), (Some(3), &serde_json::json!(["passkey-local"])), "{told}");
    assert!(!page(&world));

    // Without a finger the authenticator shows nothing; with one, there and then, `connect` goes on.
    let mut connecting = Sends::start(&world, Name::Laptop, "connect web --passkey");
    let address = connecting.address();
    person.finger(false);
    let told = person.visit(&address);
    assert!(told.contains("to reach web") && told.contains("not confirmed"), "{told}");
    person.finger(true);
    let told = person.visit(&address);
    assert!(told.contains("to reach web") && told.contains("Done."), "{told}");
    let said = connecting.rest();
    assert!(said.contains("web: connected"), "{said}");
    until("the page of web", SOON, || page(&world));
    let status = json(&world, Name::Laptop, &["umbra", "status", "--json"]);
    assert_eq!(status["session"]["factor"], "passkey-local", "{status}");
    // The page stood for that one answer.
    assert!(person.visit(&address).contains("ERR_CONNECTION_REFUSED"));

    // What is removed counts no longer, also where it was given.
    umbra(&world, Name::Laptop, &["mfa", "rm", "key"]).unwrap();
    until("the end of the access", SOON, || !page(&world));
    let trail = admin(&world, &["audit", "list", "--action", "mfa.verify"]).unwrap();
    assert!(trail.stdout.contains("engineer"), "{trail:?}");
}
