//! Does anything that was acknowledged get lost, or anything revoked come back, when the controller is killed?

use crate::support::{SOON, within, world};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use umbra_tests::lab::{Name, World};
use umbra_tests::perimeter::{self, Perimeter, Plan, admin, admin_json};

/// How often the controller is killed, unless the environment variable `UMBRA_LAB_KILLS` says otherwise.
const KILLS: u32 = 4;
/// Who writes at the same time.
const WRITERS: u32 = 3;

/// One writer's commands until `stop`; gives the names of those that were acknowledged, and tells of each at once.
fn write_on(world: &World, label: &str, stop: &AtomicBool, tell: &mpsc::Sender<()>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("{label}-{number}");
        let words = ["umbra-controller", "group", "add", &name];
        if world.host(Name::Controller).run(&words, SOON).is_ok_and(|done| done.success()) {
            acknowledged.push(name);
            let _killed_already = tell.send(());
        }
    }
    acknowledged
}

/// A different moment at each call, up to 0.4 s ahead.
fn moment() -> Duration {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Duration::from_micros(u64::from(now.subsec_nanos() / 7 % 400_000))
}

/// Writes from all sides, kills the controller in the middle of it, starts it again. Gives what was acknowledged, and
/// how long it took from the start to the first answer and until the gateway was back.
fn kill_once(world: &World, perimeter: &mut Perimeter, round: u32) -> (Vec<String>, Duration) {
    let stop = AtomicBool::new(false);
    let gateway = &perimeter.gateways[&Name::Gateway];
    let mark = gateway.mark();
    let controller = &mut perimeter.controller;
    let acknowledged = thread::scope(|scope| {
        let stop = &stop;
        let (tell, told) = mpsc::channel();
        let start = |writer: u32| {
            let tell = tell.clone();
            scope.spawn(move || write_on(world, &format!("g{round}-{writer}"), stop, &tell))
        };
        let writers: Vec<_> = (0..WRITERS).map(start).collect();
        told.recv_timeout(SOON).unwrap();
        // Not a wait for anything: the moment of the kill is what is drawn.
        thread::park_timeout(moment());
        controller.kill9().unwrap();
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    let started = Instant::now();
    controller.restart().unwrap();
    controller.wait_for_line("the controller runs", SOON).unwrap();
    let runs = Instant::now();
    gateway.wait_for_line_after(mark, "connected to the controller", SOON).unwrap();
    let took = runs.elapsed();
    assert!(took < within(world, Duration::from_secs(3)), "the gateway was back after {took:?}");
    (acknowledged, started.elapsed())
}

/// The `state` of the record with this id in a list.
fn state_of(list: &serde_json::Value, id: &str) -> String {
    let rows = list.as_object().unwrap().values().find_map(|value| value.as_array()).unwrap();
    let row = rows.iter().find(|row| row["id"] == id || row["name"] == id);
    row.map_or("gone", |row| row["state"].as_str().unwrap_or("none")).to_owned()
}

#[test]
fn no_acknowledged_write_is_lost_and_nothing_revoked_comes_back() {
    let world = world();
    let plan = Plan { gateways: vec![Name::Gateway, Name::Gateway2], laptops: Vec::new(), ..Plan::default() };
    let mut perimeter = Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    let kills = std::env::var("UMBRA_LAB_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    // A join key and a gateway that are taken back before the first kill.
    let made = admin_json(&world, &["join-key", "create", "--device", "--out", "/etc/umbra/taken-back"]).unwrap();
    let key = made["id"].as_str().unwrap().to_owned();
    admin(&world, &["join-key", "revoke", &key]).unwrap();
    let gone = perimeter.gateways.remove(&Name::Gateway2).unwrap();
    admin(&world, &["gateway", "revoke", "gateway2"]).unwrap();
    let revoked = state_of(&admin_json(&world, &["gateway", "list"]).unwrap(), "gateway2");
    let heard = gone.mark();
    let taken_back = state_of(&admin_json(&world, &["join-key", "list"]).unwrap(), &key);
    let identity = state_of(&admin_json(&world, &["gateway", "list"]).unwrap(), "gateway");
    assert_eq!((revoked.as_str(), taken_back.as_str(), identity.as_str()), ("revoked", "revoked", "confirmed"));
    let mut all = Vec::new();
    for round in 0..kills {
        let (acknowledged, back) = kill_once(&world, &mut perimeter, round);
        println!("kill {round}: {} acknowledged; everybody back after {back:?}", acknowledged.len());
        all.extend(acknowledged);
        let groups = admin(&world, &["group", "list", "--json"]).unwrap().stdout;
        let lost: Vec<_> = all.iter().filter(|name| !groups.contains(&format!("\"{name}\""))).collect();
        assert!(lost.is_empty(), "lost after kill {round}: {lost:?}");
        let verified = admin(&world, &["audit", "verify"]).unwrap();
        assert!(verified.stdout.contains("whole"), "{}", verified.stdout);
        let gateways = admin_json(&world, &["gateway", "list"]).unwrap();
        assert_eq!(state_of(&gateways, "gateway2"), revoked);
        assert_eq!(state_of(&gateways, "gateway"), identity);
        assert_eq!(state_of(&admin_json(&world, &["join-key", "list"]).unwrap(), &key), taken_back);
    }
    assert!(!all.is_empty(), "nothing was acknowledged: the test shows nothing");
    // The gateway that was revoked has not been heard again, and the other one never joined anew.
    assert!(!gone.lines().iter().skip(heard).any(|line| line.contains("connected to the controller")));
    let lines = perimeter.gateways[&Name::Gateway].lines();
    assert_eq!(lines.iter().filter(|line| line.contains("joined as")).count(), 1);
    // It may be in the middle of coming back from the last kill: then `status` says so, with exit code 4.
    let deadline = Instant::now() + SOON;
    while let Err(error) = perimeter::done(&world, Name::Gateway, &["umbra-gateway", "status"]) {
        assert!(Instant::now() < deadline, "{error}");
    }
}
