//! What does an administrator learn of the flows of a log-in?

use crate::support::{SOON, probe, world};
use crate::talk::{Talk, until};
use serde_json::Value;
use umbra_tests::lab::{Name, World};
use umbra_tests::perimeter::{Perimeter, Plan, admin, admin_json};
use umbra_tests::service::Services;

/// The only log-in.
fn session(world: &World) -> String {
    admin_json(world, &["session", "list"]).unwrap()["sessions"][0]["id"].as_str().unwrap().to_owned()
}

/// Its flows to a port that ended in this way.
fn flows(world: &World, session: &str, port: u64, end: &str) -> Vec<Value> {
    let shown = admin_json(world, &["session", "show", session]).unwrap();
    let flows = shown["flows"].as_array().unwrap().iter();
    flows.filter(|flow| flow["port"] == port && flow["end"] == end).cloned().collect()
}

#[test]
fn every_flow_of_a_log_in_is_shown_whatever_breaks_meanwhile() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    let plan = Plan { laptops: vec![Name::Laptop], ..Plan::default() };
    let mut perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    let session = session(&world);
    let page = probe(&world, Name::Laptop, &["http", "http://web.corp.example/"]);
    assert!(page.success(), "{page:?}");
    let shown = admin_json(&world, &["session", "show", &session]).unwrap();
    assert_eq!((&shown["session"]["user"], &shown["session"]["ended"]), (&"engineer".into(), &false.into()), "{shown}");
    assert_eq!((&shown["grants"][0]["resource"], &shown["grants"][0]["gateway"]), (&"web".into(), &"gateway".into()));
    // A closed TCP flow stays a moment for what is still on its way.
    until("the record of the page", SOON, || !flows(&world, &session, 80, "closed").is_empty());
    let [flow] = &flows(&world, &session, 80, "closed")[..] else { panic!("one page, several flows") };
    assert_eq!(
        (&flow["resource"], &flow["gateway"], &flow["protocol"]),
        (&"web".into(), &"gateway".into(), &"tcp".into())
    );
    let number = |key: &str| flow[key].as_i64().unwrap();
    assert!(number("bytes_down") as usize > page.stdout.len() && number("bytes_up") > 100, "{flow}");
    assert!(number("started_ms") <= number("ended_ms") && number("packets_up") > 3, "{flow}");
    let text = admin(&world, &["session", "show", &session]).unwrap().stdout;
    assert!(text.contains("engineer on") && text.contains("closed"), "{text}");

    // A flow ends while there is no controller: it is told when there is one again.
    let mut talk = Talk::open(&world, Name::Laptop, "web.corp.example:7");
    assert!(talk.answers());
    perimeter.controller.kill9().unwrap();
    drop(talk);
    perimeter.controller.restart().unwrap();
    perimeter.controller.wait_for_line("the controller runs", SOON).unwrap();
    until("the record of the line", SOON, || !flows(&world, &session, 7, "closed").is_empty());
    assert_eq!(flows(&world, &session, 80, "closed").len(), 1, "told twice, shown once");

    // A gateway that is stopped hands over what it knows of the flows that live.
    let mut talk = Talk::open(&world, Name::Laptop, "web.corp.example:7");
    assert!(talk.answers());
    let ended = perimeter.gateways.get_mut(&Name::Gateway).unwrap().stop(SOON).unwrap();
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    assert_eq!(flows(&world, &session, 7, "stopped").len(), 1);
}
