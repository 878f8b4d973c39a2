//! Whatever ends an access: does everything that stood on it end, by the time that the answer is there?

use crate::support::{SOON, options, probe};
use crate::talk::{Talk, json, until};
use model::net::Prefix;
use std::time::Duration;
use umbra_tests::lab::topology::INSIDE_LINK;
use umbra_tests::lab::{Name, Options, World};
use umbra_tests::leaks::{Protected, Watch};
use umbra_tests::perimeter::{self, DOMAIN, POLICY, Perimeter, Plan, admin, admin_json, log_in, umbra, write_file};
use umbra_tests::service::Services;

/// What the laptop's datagrams carry.
const TEXT: &str = "a datagram of somebody's access";
const MARKER: &str = "marker.test";
/// Longer is as if it hung; some hundredths of a second are usual.
const TOLD_MAX: Duration = Duration::from_secs(8);

/// Why an access ends, and how it comes back where it can.
struct Cause {
    name: &'static str,
    laptop: Name,
    /// Grants that the gateway still holds afterwards.
    left: u64,
    /// The resource is not even seen afterwards.
    hidden: bool,
    take: fn(&World),
    give: Option<fn(&World)>,
}

impl Cause {
    fn of_engineer(name: &'static str, take: fn(&World), give: fn(&World)) -> Self {
        Self { name, laptop: Name::Laptop, left: 0, hidden: false, take, give: Some(give) }
    }
}

fn order(world: &World, words: &[&str]) {
    admin(world, words).unwrap();
}

fn is_back_after_log_in(world: &World) {
    log_in(world, Name::Laptop).unwrap();
}

fn add_web(world: &World) {
    let host = format!("web.{DOMAIN}");
    order(world, &["resource", "add", "web", "--site", "hq", "--host", &host, "--tcp", "7,80", "--udp", "9000"]);
}

fn apply(world: &World, policy: &str) {
    let file = write_file(world, Name::Controller, "policy.cedar", policy.as_bytes()).unwrap();
    order(world, &["policy", "apply", &file]);
}

/// All causes that there are, those that nothing brings back last.
fn causes() -> Vec<Cause> {
    let revoke_session = |world: &World| {
        let list = admin_json(world, &["session", "list"]).unwrap();
        let rows = list["sessions"].as_array().unwrap();
        let row = rows.iter().find(|row| row["user"] == "engineer").unwrap_or_else(|| panic!("{list}"));
        order(world, &["session", "revoke", row["id"].as_str().unwrap()]);
    };
    let enable = |world: &World| {
        order(world, &["user", "enable", "engineer"]);
        is_back_after_log_in(world);
    };
    let regroup = |world: &World| {
        order(world, &["group", "add", "engineers"]);
        order(world, &["group", "add-member", "engineers", "engineer"]);
    };
    let seen = [
        Cause::of_engineer("the session is revoked", revoke_session, is_back_after_log_in),
        Cause::of_engineer("a log-out", |w| drop(umbra(w, Name::Laptop, &["logout"]).unwrap()), is_back_after_log_in),
        Cause::of_engineer("the user is disabled", |w| order(w, &["user", "disable", "engineer"]), enable),
    ];
    let hidden = [
        Cause::of_engineer(
            "the group is left",
            |w| order(w, &["group", "remove-member", "engineers", "engineer"]),
            |w| order(w, &["group", "add-member", "engineers", "engineer"]),
        ),
        Cause::of_engineer("the group is deleted", |w| order(w, &["group", "delete", "engineers"]), regroup),
        Cause::of_engineer(
            "the policy does not permit it any more",
            |w| apply(w, &POLICY.replace("Group::\"engineers\"", "Group::\"guests\"")),
            |w| apply(w, &perimeter::policy_of(&plan().laptops)),
        ),
        Cause {
            // That on the other resource stays.
            left: 1,
            ..Cause::of_engineer("the resource is deleted", |w| order(w, &["resource", "delete", "web"]), add_web)
        },
    ];
    let hidden = hidden.map(|cause| Cause { hidden: true, ..cause });
    let for_ever = [
        ("the device is revoked", Name::Laptop, (|w| order(w, &["device", "revoke", "laptop"])) as fn(&World)),
        ("the user is deleted", Name::Laptop2, |w| order(w, &["user", "delete", "guest"])),
        ("the gateway is revoked", plan().laptops[2], |w| order(w, &["gateway", "revoke", "gateway"])),
    ];
    let for_ever =
        for_ever.map(|(name, laptop, take)| Cause { name, laptop, left: 0, hidden: false, take, give: None });
    seen.into_iter().chain(hidden).chain(for_ever).collect()
}

fn plan() -> Plan {
    let laptops = [Name::Laptop, Name::Laptop2].into_iter().chain(Name::further(1)).collect();
    Plan { laptops, ..Plan::default() }
}

fn watch(world: &World) -> Watch {
    let protected = Protected {
        prefixes: Vec::<Prefix>::new(),
        zones: Vec::new(),
        text: Some(TEXT.to_owned()),
        marker: MARKER.to_owned(),
    };
    Watch::start(world, Name::Service, INSIDE_LINK, protected).unwrap()
}

/// All that the gateway forwarded before is seen by the watch when this returns.
fn catch_up(world: &World, watch: &Watch) {
    let since = watch.markers();
    let mark = "066d61726b6572047465737400";
    let sent = world.host(Name::Gateway).run(&["umbra-lab", "__attack", "send", "10.20.0.10:9", mark], SOON).unwrap();
    assert!(sent.success(), "{sent:?}");
    watch.wait_for_marker(since, SOON).unwrap();
}

/// A cause, and everything that stands on the access: a TCP connection that is open, a flow of datagrams, a grant that nobody uses, a new
/// question, and what the laptop sees.
fn ends(world: &World, cause: &Cause) {
    let (name, host) = (cause.name, world.host(cause.laptop));
    let connects = |to: &str| host.run(&["umbra", "connect", to], SOON).unwrap();
    until(name, SOON, || connects("web").success());
    if cause.laptop == Name::Laptop {
        assert!(connects("wiki").success(), "{name}: no idle grant");
    }
    let mut talk = Talk::open(world, cause.laptop, &format!("web.{DOMAIN}:7"));
    let address = probe(world, cause.laptop, &["name", &format!("web.{DOMAIN}")]).stdout;
    let to = address.lines().find(|line| !line.contains(':')).unwrap_or_else(|| panic!("{name}: {address:?}"));
    let mut nag = host.command("umbra-lab");
    nag.args(["__nag", "--text", TEXT, &format!("--to={to}:9000")]);
    let _nag = host.start("nag", nag).unwrap();
    let before = watch(world);
    until(name, SOON, || {
        catch_up(world, &before);
        !before.leaks().is_empty()
    });
    drop(before);
    assert!(talk.answers(), "{name}: the connection ended by itself");

    (cause.take)(world);
    let after = watch(world);
    assert!(!talk.answers(), "{name}: the connection goes on");
    // The laptop is told, too, but nobody waits for it: what it says of itself opens nothing.
    let told = until(name, SOON, || !connects("web").success());
    println!("{name}: the laptop says so after {told:?}");
    assert!(told < TOLD_MAX, "{name}: somebody who asks waits for {told:?}");
    let status = json(world, Name::Gateway, &["umbra-gateway", "status", "--json"]);
    assert_eq!(status["grants"], cause.left, "{name}: {status}");
    let list = host.run(&["umbra", "ls"], SOON).unwrap();
    assert!(!cause.hidden || !list.stdout.contains(&format!("web.{DOMAIN}")), "{name}: it is still seen: {list:?}");
    catch_up(world, &after);
    assert_eq!(after.leaks(), Vec::<String>::new(), "{name}: datagrams went on");
    if let Some(give) = cause.give {
        give(world);
    }
}

#[test]
fn whatever_ends_an_access_ends_all_that_stands_on_it() {
    let world = World::start(&Options { further: 1, ..options() }).unwrap();
    let _services = Services::start(&world).unwrap();
    let _perimeter = Perimeter::start(&world, &plan()).unwrap_or_else(|error| panic!("{error}"));
    for cause in causes() {
        ends(&world, &cause);
    }
}
