//! Is a trail whose end was cut off told from a whole one, by what gateways witnessed?

use crate::support::{SOON, options};
use crate::talk::until;
use serde_json::Value;
use umbra_tests::lab::{Finished, Name, World};
use umbra_tests::perimeter::{self, Perimeter, Plan, admin, admin_json, write_file};

const STATE: &str = "/var/lib/umbra/controller";

fn on_controller(world: &World, words: &[&str]) -> Finished {
    let finished = world.host(Name::Controller).run(words, SOON).unwrap();
    assert!(finished.success(), "{finished:?}");
    finished
}

/// A command of the controller that is refused; what it says.
fn refused(world: &World, words: &[&str]) -> String {
    let finished = world.host(Name::Controller).run(&[&["umbra-controller"], words].concat(), SOON).unwrap();
    assert!(!finished.success(), "{finished:?}");
    finished.stderr
}

/// The newest record that the gateway was told of.
fn witnessed(world: &World) -> Option<(u64, String)> {
    let finished = world.host(Name::Gateway).run(&["umbra-gateway", "witness"], SOON).unwrap();
    let witness: Value = serde_json::from_str(&finished.stdout).ok()?;
    Some((witness["head"]["seq"].as_u64()?, finished.stdout))
}

fn newest(world: &World) -> u64 {
    admin_json(world, &["audit", "verify"]).unwrap()["last"].as_u64().unwrap()
}

#[test]
fn an_older_copy_of_the_store_is_refused_because_a_gateway_is_its_witness() {
    let world = World::start(&options()).unwrap_or_else(|error| panic!("{error}"));
    let plan = Plan { laptops: Vec::new(), ..Plan::default() };
    let mut perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    perimeter.controller.stop(SOON).unwrap();
    on_controller(&world, &["cp", "-a", STATE, "/var/lib/umbra/copy"]);
    perimeter.controller = perimeter::serve(&world, &plan).unwrap();
    for group in ["one", "two", "three"] {
        admin(&world, &["group", "add", group]).unwrap();
    }
    let whole = newest(&world);
    until("the gateway is a witness", SOON, || witnessed(&world).is_some_and(|(seq, _)| seq >= whole));
    let (seen, witness) = witnessed(&world).unwrap();
    let witness = write_file(&world, Name::Controller, "witness", witness.as_bytes()).unwrap();

    // Away from the controller, with what the gateway says.
    admin(&world, &["audit", "export", "--out", "/etc/umbra/whole.jsonl"]).unwrap();
    let offline =
        |file: &str| vec!["audit".to_owned(), "verify".into(), "--offline".into(), file.into(), "--witness".into()];
    let words = |file: &str| [offline(file), vec![witness.clone()]].concat();
    let fine = words("/etc/umbra/whole.jsonl");
    let fine = admin(&world, &fine.iter().map(String::as_str).collect::<Vec<_>>()).unwrap().stdout;
    let fingerprint = admin_json(&world, &["status"]).unwrap()["fingerprint"].as_str().unwrap().to_owned();
    assert!(fine.contains("is whole") && fine.contains("2 signed heads") && fine.contains(&fingerprint), "{fine}");

    // An older copy of itself, whole, with its note beside it.
    perimeter.controller.stop(SOON).unwrap();
    on_controller(&world, &["mv", STATE, "/var/lib/umbra/newest"]);
    on_controller(&world, &["mv", "/var/lib/umbra/copy", STATE]);
    perimeter.controller = perimeter::serve(&world, &plan).unwrap();
    until("the controller hears its witness", SOON, || {
        admin(&world, &["status"]).is_ok_and(|status| status.stdout.contains("accept-loss"))
    });
    let said = refused(&world, &["group", "add", "more"]);
    assert!(said.contains("refuses every change") && said.contains(&format!("witnessed record {seen}")), "{said}");
    perimeter.controller.stop(SOON).unwrap();
    perimeter.controller = perimeter::serve(&world, &plan).unwrap();
    assert!(refused(&world, &["group", "add", "more"]).contains("refuses every change"), "also after a restart");

    // Its chain is whole as far as it goes; the witness says what is missing.
    let kept = newest(&world);
    admin(&world, &["audit", "export", "--out", "/etc/umbra/cut.jsonl"]).unwrap();
    let cut = words("/etc/umbra/cut.jsonl");
    let said = refused(&world, &cut.iter().map(String::as_str).collect::<Vec<_>>());
    let missing = format!("records {} to {seen} were cut off", kept + 1);
    assert!(said.contains(&missing) && said.contains(&format!("ends at record {kept}")), "{said}");

    // The way out: a new life that says so.
    let accept = ["audit", "accept-loss", "--reason", "the newest state is lost"];
    assert!(refused(&world, &accept).contains("Stop it first"));
    perimeter.controller.stop(SOON).unwrap();
    admin(&world, &accept).unwrap();
    perimeter.controller = perimeter::serve(&world, &plan).unwrap();
    let lost = format!("{} records are lost", seen - kept);
    until("the loss is told", SOON, || {
        admin(&world, &["restored", "list"]).is_ok_and(|list| list.stdout.contains(&lost))
    });
    assert!(admin(&world, &["audit", "verify"]).unwrap().stdout.contains("is whole"));
    admin(&world, &["restored", "confirm", "gateway/gateway"]).unwrap();
    admin(&world, &["audit", "export", "--out", "/etc/umbra/after.jsonl"]).unwrap();
    let after = words("/etc/umbra/after.jsonl");
    let after = admin(&world, &after.iter().map(String::as_str).collect::<Vec<_>>()).unwrap().stdout;
    assert!(after.contains("is whole") && after.contains(&lost), "{after}");
}
