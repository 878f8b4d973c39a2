//! Programs on workloads' machines get identities by their user through libraries that know nothing of Umbra, see them renewed,
//! prove to one another who they are through a gateway, and lose them with the account.

use crate::privilege::is_real_root;
use crate::support::{SOON, world};
use crate::talk::until;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use serde_json::Value;
use std::path::PathBuf;
use umbra_tests::lab::{Daemon, Finished, Name, World};
use umbra_tests::perimeter::{
    POLICY, Perimeter, Plan, admin, carry_join_file, read_file, start_client, umbra, write_file,
};
use umbra_tests::service::{Services, ZONE_FILE};

const UID: &str = "4711";
const OTHER: &str = "4712";
const SOCKET: &str = "/run/umbra/workload.sock";
const LEDGER: &str = "spiffe://corp.example/workload/shop/ledger";
const WEB: &str = "spiffe://corp.example/workload/deploy/web";

/// Whose library speaks.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// The crate `spiffe`, in `umbra-lab program`.
    Rust,
    /// PyPI's `spiffe`.
    Python,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("spiffe")
}

/// The libraries that are there; says which one is not.
fn kinds() -> Vec<Kind> {
    let python = folder().join("venv/bin/python").exists();
    if !python {
        println!(
            "skipped: the program in Python needs `python3 -m venv tests/spiffe/venv`, then \
             `tests/spiffe/venv/bin/pip install -r tests/spiffe/requirements.txt`"
        );
    }
    [Kind::Rust].into_iter().chain(python.then_some(Kind::Python)).collect()
}

/// The words that start a program of this user.
fn start_words(kind: Kind, uid: &str, words: &[&str]) -> Vec<String> {
    let python = folder();
    let start = match kind {
        Kind::Rust => {
            let start = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "umbra-lab", "program"];
            start.map(str::to_owned).to_vec()
        }
        // It becomes the user itself: what it imports may lie where others do not get to.
        Kind::Python => {
            let files = ["venv/bin/python", "program.py"].map(|file| python.join(file).to_str().unwrap().to_owned());
            files.into_iter().chain([SOCKET, uid].map(str::to_owned)).collect()
        }
    };
    start.into_iter().chain(words.iter().map(|word| (*word).to_owned())).collect()
}

/// A program of this user on the laptop.
fn program(world: &World, kind: Kind, uid: &str, words: &[&str]) -> Finished {
    let words = start_words(kind, uid, words);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    world.host(Name::Laptop).run(&words, SOON * 3).unwrap()
}

fn lines(finished: &Finished) -> Vec<Value> {
    finished.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Each library calls the code PermissionDenied by a name of its own.
fn is_denied(finished: &Finished) -> bool {
    let names = ["PermissionDenied", "PERMISSION_DENIED", "no identity issued"];
    !finished.success() && finished.stdout.is_empty() && names.iter().any(|name| finished.stderr.contains(name))
}

fn join_as(world: &World, host: Name, account: &str) -> Daemon {
    let join = carry_join_file(world, host, &["--device", "--account", account]).unwrap();
    let client = start_client(world, host).unwrap();
    umbra(world, host, &["up", "--join", &join, "--yes"]).unwrap();
    client
}

#[test]
fn programs_get_identities_by_their_user_and_lose_them_with_the_account() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    let serve_options = vec!["--svid-life".to_owned(), "20s".to_owned()];
    let plan = Plan { laptops: Vec::new(), serve_options, ..Plan::default() };
    let perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    if !is_real_root(&perimeter.controller) {
        return;
    }
    admin(&world, &["account", "add", "deploy"]).unwrap();
    let made = admin(&world, &["account", "identity", "add", "deploy", "shop/web", "--uid", UID]).unwrap();
    let id = "spiffe://corp.example/workload/deploy/shop/web";
    assert!(made.stdout.contains(id), "{made:?}");
    let _client = join_as(&world, Name::Laptop, "deploy");

    until("a certificate", SOON * 2, || program(&world, Kind::Rust, UID, &["x509", "1"]).success());
    for kind in kinds() {
        // Two states of the stream: the certificate, and the one that follows it at half of its life.
        let two = program(&world, kind, UID, &["x509", "2"]);
        let states = lines(&two);
        assert!(two.success() && states.len() == 2, "{kind:?}: {two:?}");
        assert!(states.iter().all(|state| state["id"] == id), "{kind:?}: {two:?}");
        assert_ne!(states[0]["serial"], states[1]["serial"], "another certificate");
        assert!(states[0]["ends"].as_i64() < states[1]["ends"].as_i64(), "{kind:?}: {two:?}");
        assert_eq!(states[0]["bundle"], states[1]["bundle"], "of the same CA");
        let got = program(&world, kind, UID, &["token", "billing"]);
        assert!(got.success() && lines(&got)[0]["id"] == id, "{kind:?}: {got:?}");
        let token = lines(&got)[0]["token"].as_str().unwrap().to_owned();
        let valid = program(&world, kind, UID, &["validate", "billing", &token]);
        assert!(valid.success() && lines(&valid)[0]["id"] == id, "{kind:?}: {valid:?}");
        let other = program(&world, kind, UID, &["validate", "mail", &token]);
        assert!(!other.success() && other.stderr.contains("not for this audience"), "{kind:?}: {other:?}");
        for words in [&["x509", "1"][..], &["token", "billing"], &["validate", "billing", &token]] {
            for uid in [OTHER, "0"] {
                let stranger = program(&world, kind, uid, words);
                assert!(is_denied(&stranger), "{kind:?} of {uid}: {stranger:?}");
            }
        }
    }
    let bare = program(&world, Kind::Rust, UID, &["bare"]);
    assert!(!bare.success() && bare.stderr.contains("security header missing"), "{bare:?}");

    admin(&world, &["account", "disable", "deploy"]).unwrap();
    until("nothing more for its programs", SOON * 2, || !program(&world, Kind::Rust, UID, &["x509", "1"]).success());
    admin(&world, &["account", "enable", "deploy"]).unwrap();
    until("a certificate again", SOON * 2, || program(&world, Kind::Rust, UID, &["x509", "1"]).success());
    umbra(&world, Name::Laptop, &["down"]).unwrap();
    assert!(!program(&world, Kind::Rust, UID, &["x509", "1"]).success(), "a machine that is down gives nothing");
}

/// Somebody else's CA says that its key is this program's; writes certificate and key to the host.
fn forge(world: &World, host: Name, id: &str) -> [String; 2] {
    let (authority_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let mut leaf = CertificateParams::default();
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    let certificate = leaf.signed_by(&key, &Issuer::new(authority, authority_key)).unwrap();
    let write = |name: &str, text: String| write_file(world, host, name, text.as_bytes()).unwrap();
    [write("forged.pem", certificate.pem()), write("forged.key", key.serialize_pem())]
}

/// The service's machine reaches the controller through a router between the two networks.
fn lay_router(world: &World) {
    let route = |host, words: &[&str]| {
        let done = world.host(host).run(words, SOON).unwrap();
        assert!(done.success(), "{done:?}");
    };
    route(Name::Gateway2, &["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
    route(Name::Service, &["ip", "route", "add", "203.0.113.0/24", "via", "10.20.0.3"]);
    route(Name::Controller, &["ip", "route", "add", "10.20.0.0/24", "via", "203.0.113.21"]);
}

#[test]
fn two_services_prove_to_each_other_who_they_are_through_a_gateway() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    let perimeter = Perimeter::start(&world, &Plan { laptops: Vec::new(), ..Plan::default() });
    let perimeter = perimeter.unwrap_or_else(|error| panic!("{error}"));
    if !is_real_root(&perimeter.controller) {
        return;
    }
    lay_router(&world);
    let zone = String::from_utf8(read_file(&world, Name::Service, ZONE_FILE).unwrap()).unwrap();
    let zone = format!("{zone}\nledger.corp.example 60 10.20.0.10\n");
    write_file(&world, Name::Service, "zone", zone.as_bytes()).unwrap();
    let resource = ["resource", "add", "ledger", "--site", "hq", "--host", "ledger.corp.example", "--tcp", "8443,8444"];
    admin(&world, &resource).unwrap();
    for (account, path, uid) in [("shop", "ledger", UID), ("deploy", "web", UID), ("deploy", "other", OTHER)] {
        // The second time the account is there.
        let _ = admin(&world, &["account", "add", account]);
        admin(&world, &["account", "identity", "add", account, path, "--uid", uid]).unwrap();
    }
    let permit =
        "permit (principal == Workload::\"deploy\", action == Action::\"connect\", resource == Resource::\"ledger\");";
    let policy = format!("{POLICY}\n@id(\"deploy-sees-the-ledger\")\n{permit}\n");
    let policy = write_file(&world, Name::Controller, "ledger.cedar", policy.as_bytes()).unwrap();
    admin(&world, &["policy", "apply", &policy]).unwrap();
    let _clients = [(Name::Service, "shop"), (Name::Laptop, "deploy")].map(|(host, name)| join_as(&world, host, name));

    let mut command = world.host(Name::Service).command("setpriv");
    let words = start_words(Kind::Rust, UID, &["serve", "10.20.0.10:8443", WEB]);
    command.args(&words[1..]);
    let ledger = world.host(Name::Service).start("ledger", command).unwrap();
    ledger.wait_for_line("listening", SOON * 3).unwrap();
    let call = |kind, uid, port: &str, peer| {
        program(&world, kind, uid, &["call", &format!("ledger.corp.example:{port}"), peer])
    };
    until("the ledger's greeting", SOON * 3, || call(Kind::Rust, UID, "8443", LEDGER).success());
    for kind in kinds() {
        let greeted = call(kind, UID, "8443", LEDGER);
        assert!(greeted.success() && lines(&greeted)[0]["answer"] == format!("hello {WEB}"), "{kind:?}: {greeted:?}");
        // Its certificate is good, and names another program than was asked for; and the other way about.
        let wrong = call(kind, UID, "8443", WEB);
        assert!(!wrong.success() && wrong.stdout.is_empty(), "{kind:?}: {wrong:?}");
        let mark = ledger.mark();
        let other = call(kind, OTHER, "8443", LEDGER);
        assert!(!other.success() && other.stdout.is_empty(), "{kind:?}: {other:?}");
        ledger.wait_for_line_after(mark, "refused", SOON).unwrap();
    }

    // Certificates with the right name, of a CA that is in no bundle.
    let [certificate, key] = forge(&world, Name::Laptop, WEB);
    let mark = ledger.mark();
    let forger = [
        "openssl",
        "s_client",
        "-connect",
        "ledger.corp.example:8443",
        "-ign_eof",
        "-cert",
        &certificate,
        "-key",
        &key,
    ];
    let forger = world.host(Name::Laptop).run(&forger, SOON * 2).unwrap();
    assert!(!forger.stdout.contains("hello"), "{forger:?}");
    ledger.wait_for_line_after(mark, "refused", SOON).unwrap();
    let [certificate, key] = forge(&world, Name::Service, LEDGER);
    let mut command = world.host(Name::Service).command("openssl");
    command.args(["s_server", "-accept", "10.20.0.10:8444", "-www", "-cert", &certificate, "-key", &key]);
    let forger = world.host(Name::Service).start("forger", command).unwrap();
    forger.wait_for_line("ACCEPT", SOON).unwrap();
    for kind in kinds() {
        let cheated = call(kind, UID, "8444", LEDGER);
        assert!(!cheated.success() && cheated.stdout.is_empty(), "{kind:?}: {cheated:?}");
        assert!(cheated.stderr.to_lowercase().contains("certificate"), "{kind:?}: {cheated:?}");
    }
    until("the ledger's greeting, still", SOON, || call(Kind::Rust, UID, "8443", LEDGER).success());
}
