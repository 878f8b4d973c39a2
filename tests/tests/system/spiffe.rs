//! Programs on a workload's machine get identities by their user, see them renewed, and lose them with the account.

use crate::support::{SOON, world};
use crate::talk::until;
use serde_json::Value;
use umbra_tests::lab::{Finished, Name, World};
use umbra_tests::perimeter::{Perimeter, Plan, admin, carry_join_file, start_client, umbra};
use umbra_tests::service::Services;

const UID: &str = "4711";

/// A program of this user on the laptop.
fn program(world: &World, uid: &str, words: &[&str]) -> Finished {
    let become_user = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "umbra-lab", "program"];
    world.host(Name::Laptop).run(&[&become_user[..], words].concat(), SOON * 3).unwrap()
}

fn lines(finished: &Finished) -> Vec<Value> {
    finished.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn programs_get_identities_by_their_user_and_lose_them_with_the_account() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    let serve_options = vec!["--svid-life".to_owned(), "20s".to_owned()];
    let plan = Plan { laptops: Vec::new(), serve_options, ..Plan::default() };
    let _perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    admin(&world, &["account", "add", "deploy"]).unwrap();
    let made = admin(&world, &["account", "identity", "add", "deploy", "shop/web", "--uid", UID]).unwrap();
    let id = "spiffe://corp.example/workload/deploy/shop/web";
    assert!(made.stdout.contains(id), "{made:?}");
    let join = carry_join_file(&world, Name::Laptop, &["--device", "--account", "deploy"]).unwrap();
    let _client = start_client(&world, Name::Laptop).unwrap();
    umbra(&world, Name::Laptop, &["up", "--join", &join, "--yes"]).unwrap();

    until("a certificate", SOON * 2, || program(&world, UID, &["x509", "1"]).success());
    // Two states of the stream: the certificate, and the one that follows it at half of its life.
    let two = program(&world, UID, &["x509", "2"]);
    let states = lines(&two);
    assert!(two.success() && states.len() == 2, "{two:?}");
    assert!(states.iter().all(|state| state["svids"][0]["id"] == id), "{two:?}");
    assert_ne!(states[0]["svids"][0]["chain"], states[1]["svids"][0]["chain"], "another certificate");
    assert_eq!(states[0]["svids"][0]["bundle"], states[1]["svids"][0]["bundle"], "of the same CA");
    let token = program(&world, UID, &["token", "billing"]);
    let token = lines(&token)[0]["svids"][0]["token"].as_str().unwrap().to_owned();
    let valid = program(&world, UID, &["validate", "billing", &token]);
    assert!(valid.success() && lines(&valid)[0]["id"] == id, "{valid:?}");
    let other = program(&world, UID, &["validate", "mail", &token]);
    assert!(!other.success() && other.stderr.contains("InvalidArgument"), "{other:?}");

    for words in [&["x509", "1"][..], &["token", "billing"], &["validate", "billing", &token]] {
        let stranger = program(&world, "4712", words);
        assert!(!stranger.success() && stranger.stderr.contains("PermissionDenied"), "{stranger:?}");
    }
    let bare = program(&world, UID, &["bare"]);
    assert!(!bare.success() && bare.stderr.contains("InvalidArgument"), "{bare:?}");

    admin(&world, &["account", "disable", "deploy"]).unwrap();
    until("nothing more for its programs", SOON * 2, || !program(&world, UID, &["x509", "1"]).success());
    admin(&world, &["account", "enable", "deploy"]).unwrap();
    until("a certificate again", SOON * 2, || program(&world, UID, &["x509", "1"]).success());
    umbra(&world, Name::Laptop, &["down"]).unwrap();
    assert!(!program(&world, UID, &["x509", "1"]).success(), "a machine that is down gives nothing");
}
