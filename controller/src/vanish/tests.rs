//! When does an ephemeral node go, in virtual time, and who stays?

use super::*;
use crate::audit::Query;
use crate::directory::Reader;
use crate::init::tests::made;
use crate::rpc::enroll::tests::enrol;
use crate::runs::SharedRuns;
use crate::test_support::{Folder, Still};
use model::time::Clock as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A controller in virtual time, which goes on when it is restarted.
struct Stage {
    _folder: Folder,
    clock: Arc<Still>,
    watch: Watch,
}

impl Stage {
    async fn new() -> Self {
        let folder = Folder::new();
        let (mut organisation, _) = made(&folder).await;
        let clock = Arc::new(Still::default());
        organisation.clock = Arc::clone(&clock) as Arc<_>;
        Self { _folder: folder, clock, watch: Watch::new(organisation) }
    }
    fn organisation(&self) -> &Organisation {
        &self.watch.organisation
    }
    fn set(&self, second: u64) {
        self.clock.0.store(second * 1_000_000_000, Ordering::Relaxed);
    }
    /// Sets the time, in seconds, and looks.
    async fn at(&self, second: u64) {
        self.set(second);
        self.watch.look().await;
        let organisation = self.organisation();
        organisation.directory.at_least(organisation.store.revision()).await;
    }
    fn hear(&self, device: DeviceId) {
        let mut runs = self.organisation().runs.lock().unwrap();
        runs.hear(self.clock.as_ref().now(), NodeId::Device(device), [1; model::limits::RUN_ID_LEN]);
    }
    fn is_there(&self, device: DeviceId) -> bool {
        self.organisation().now().devices.find(&device).is_some()
    }
    fn is_marked(&self, device: DeviceId) -> bool {
        self.organisation().now().vanished.find(&device).is_some()
    }
    /// The controller is gone, and another run of it comes at that second: it knows what the store holds.
    async fn restart(&mut self, second: u64) {
        self.set(second);
        let before = self.organisation().clone();
        let directory = Reader::start(Arc::clone(&before.store)).await.unwrap();
        self.watch = Watch::new(Organisation { directory, runs: SharedRuns::default(), ..before });
    }
}

#[tokio::test]
async fn an_ephemeral_node_goes_ten_minutes_after_it_was_last_heard_and_leaves_nothing() {
    let stage = Stage::new().await;
    let organisation = stage.organisation();
    let (gone, alive, stays) =
        (enrol(organisation, 1, true).await, enrol(organisation, 2, true).await, enrol(organisation, 3, false).await);
    let (silent, over) = (EPHEMERAL_SILENT.as_secs(), EPHEMERAL_GONE.as_secs());
    assert_eq!(over, 600);
    let record = organisation.now().devices.find(&gone).unwrap().record.clone();
    stage.set(100);
    stage.hear(gone);
    for second in (100..100 + over).step_by(10) {
        stage.set(second);
        stage.hear(alive);
        stage.at(second).await;
        assert!(stage.is_there(gone), "{second} s");
        assert_eq!(stage.is_marked(gone), second >= 100 + silent, "{second} s");
    }
    stage.at(100 + over).await;
    assert!(!stage.is_there(gone));
    assert!(stage.is_there(alive) && stage.is_there(stays), "one that is heard, and one that is not ephemeral");
    let now = organisation.now();
    assert!(now.vanished.is_empty() && now.recoveries.find(&NodeId::Device(gone).to_string()).is_none());
    for taken in [
        crate::store::Key::of(Unique::DeviceName.set(), &record.name),
        crate::store::Key::of(Unique::NodeAddress.set(), address_id(record.address)),
        crate::store::Key::of(Unique::DeviceV4.set(), record.v4),
        crate::store::Key::of(Unique::NodeKey.set(), key_id(&record.key)),
    ] {
        assert!(!now.is_taken(&taken.unwrap()));
    }
    let trail = organisation.store.audit(Query { limit: 5, ..Query::default() }).await.unwrap();
    let removed = trail.iter().find(|r| r.action == "device.remove").unwrap();
    assert!(removed.object.contains(&gone.to_string()) && removed.actor == "controller", "{removed:?}");
    // Whoever comes under its name gets it.
    let next = enrol(organisation, 4, true).await;
    assert_eq!(organisation.now().devices.find(&next).unwrap().record.name, record.name);
}

#[tokio::test]
async fn one_that_comes_back_in_time_stays() {
    let stage = Stage::new().await;
    let node = enrol(stage.organisation(), 1, true).await;
    for round in 0..5 {
        let start = round * 700;
        stage.set(start);
        stage.hear(node);
        stage.at(start + 599).await;
        assert!(stage.is_marked(node) && stage.is_there(node), "round {round}");
    }
    stage.set(5 * 700);
    stage.hear(node);
    stage.at(5 * 700).await;
    assert!(!stage.is_marked(node), "it was heard: nothing is held against it");
}

#[tokio::test]
async fn a_restart_neither_begins_to_count_nor_takes_anybody_for_gone_who_could_not_be_heard() {
    let mut stage = Stage::new().await;
    let organisation = stage.organisation();
    let (gone, alive) = (enrol(organisation, 1, true).await, enrol(organisation, 2, true).await);
    stage.hear(gone);
    stage.hear(alive);
    for second in (0..=400).step_by(20) {
        stage.set(second);
        stage.hear(alive);
        stage.at(second).await;
    }
    assert!(stage.is_marked(gone) && !stage.is_marked(alive));
    stage.restart(400).await;
    for second in [400, 450, 599] {
        stage.at(second).await;
        assert!(stage.is_there(gone) && stage.is_there(alive), "{second} s");
    }
    stage.at(600).await;
    assert!(!stage.is_there(gone), "it counts from when it was last heard, before the restart");
    assert!(stage.is_there(alive), "this run did not miss it for long enough");
    // The controller is down for an hour: nobody who is there now was missed by it.
    stage.hear(alive);
    stage.at(601).await;
    assert!(!stage.is_marked(alive));
    let late = enrol(stage.organisation(), 5, true).await;
    stage.restart(4_200).await;
    stage.at(4_200).await;
    stage.at(4_200 + EPHEMERAL_SILENT.as_secs() - 1).await;
    assert!(stage.is_there(alive) && stage.is_there(late));
    stage.at(4_200 + EPHEMERAL_GONE.as_secs()).await;
    assert!(!stage.is_there(alive) && !stage.is_there(late));
}

#[tokio::test]
async fn many_go_a_bounded_number_at_a_time_and_a_copied_one_stays_for_the_alarm() {
    let stage = Stage::new().await;
    let organisation = stage.organisation();
    let copied = enrol(organisation, 200, true).await;
    let held = organisation.now().devices.find(&copied).unwrap().record.clone();
    let alarmed = Device { copied: Some(organisation.wall()), ..held };
    organisation.store.commit(Commit::default().put_record(&copied, &alarmed).unwrap()).await.unwrap();
    let many = u8::try_from(SWEEP_MAX).unwrap() + 6;
    for n in 1..=many {
        enrol(organisation, n, true).await;
    }
    stage.at(EPHEMERAL_GONE.as_secs() + 1).await;
    assert_eq!(stage.organisation().now().devices.len(), 7);
    stage.at(EPHEMERAL_GONE.as_secs() + 2).await;
    assert_eq!(stage.organisation().now().devices.len(), 1);
    assert!(stage.is_there(copied));
}
