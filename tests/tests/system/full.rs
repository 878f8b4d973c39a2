//! What happens when the controller's disk is full? Changes are refused, what is open goes on, what is taken away ends.

use crate::support::{SOON, probe, world};
use crate::talk::{Talk, json, until};
use umbra_tests::lab::{Name, World};
use umbra_tests::perimeter::{Perimeter, Plan, admin};
use umbra_tests::service::Services;

/// The controller's state.
const STATE: &str = "/var/lib/umbra";

fn on_controller(world: &World, words: &[&str]) {
    let finished = world.host(Name::Controller).run(words, SOON).unwrap();
    assert!(finished.success(), "{finished:?}");
}

/// Somebody else's file takes the disk until only so many MiB are left.
fn leave_mib(world: &World, free: u64) {
    let script = format!(
        "rm -f {STATE}/other; fallocate -l $(( $(df --output=avail -B1 {STATE} | tail -n1) - {} )) {STATE}/other",
        free << 20
    );
    on_controller(world, &["sh", "-c", &script]);
}

fn page(world: &World) -> bool {
    probe(world, Name::Laptop, &["--patience=2000", "http", "http://web.corp.example/"]).success()
}

#[test]
fn a_full_disk_stops_changes_and_nothing_that_is_open() {
    let world = world();
    on_controller(&world, &["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", STATE]);
    let services = Services::start(&world).unwrap();
    let plan = Plan { laptops: vec![Name::Laptop], ..Plan::default() };
    let perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    let mut talk = Talk::open(&world, Name::Laptop, "web.corp.example:7");

    // Nearly full: nothing new, and the error says what to do. What is open goes on.
    leave_mib(&world, 16);
    let refused = admin(&world, &["group", "add", "more"]).unwrap_err().to_string();
    assert!(refused.contains("the disk of the store is full") && refused.contains("free space"), "{refused}");
    assert!(talk.answers(), "{}", talk.last_words());
    // Full: nothing at all.
    leave_mib(&world, 4);
    let refused = admin(&world, &["user", "disable", "engineer"]).unwrap_err().to_string();
    assert!(refused.contains("the disk of the store is full"), "{refused}");
    assert!(talk.answers(), "{}", talk.last_words());

    // Nearly full again: access can still be taken away, and the connection ends.
    leave_mib(&world, 16);
    admin(&world, &["user", "disable", "engineer"]).unwrap();
    until("the connection ends", SOON, || !talk.answers());
    // Room again: everything goes on by itself.
    on_controller(&world, &["rm", &format!("{STATE}/other")]);
    admin(&world, &["group", "add", "more"]).unwrap();
    admin(&world, &["user", "enable", "engineer"]).unwrap();
    assert!(perimeter.controller.is_running());
    drop(services);
}

#[test]
fn what_ended_while_nothing_could_be_written_is_made_good() {
    let world = world();
    on_controller(&world, &["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", STATE]);
    let _services = Services::start(&world).unwrap();
    let options = ["--lease", "2s"].map(str::to_owned).to_vec();
    let plan = Plan { laptops: vec![Name::Laptop], resource_options: options, ..Plan::default() };
    let _perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    assert!(page(&world));
    // No lease is renewed now, and the end of each grant cannot be written down.
    leave_mib(&world, 4);
    until("its lease ends", SOON, || !page(&world));
    let ends = || {
        let trail = json(&world, Name::Controller, &["umbra-controller", "audit", "list", "--json"]).to_string();
        trail.matches("grant.end").count()
    };
    let before = ends();
    on_controller(&world, &["rm", &format!("{STATE}/other")]);
    // A grant that is made now reaches the gateway, and the trail names the end.
    until("the page again", SOON, || page(&world));
    until("the end in the trail", SOON, || ends() > before);
}
