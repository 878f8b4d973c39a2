//! The store as its users see it: conflicts, sets, watches, restarts, bounds.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use bytes::Bytes;
use model::limits::{COMMIT_AUDIT_MAX, COMMIT_BYTES_MAX, COMMIT_KEYS_MAX};
use model::time::WallMs;

use super::super::layout::{self, AUDIT, number_name};
use super::super::{Expect, WatchError};
use super::disk::{NOTE_LEN, note_text};
use super::*;
use crate::audit::{Entry, Outcome, Query};

/// A folder that goes with the test.
struct Folder(PathBuf);
impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("umbra-store-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}
impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}
fn entry(object: &str) -> Entry {
    Entry::new(WallMs(1_000), "local:root", "test.put", object, Outcome::Done)
}
fn put(name: &str, value: impl Into<Bytes>) -> Commit {
    Commit::default().put(key(name), value).audit(entry(name))
}

#[tokio::test]
async fn a_commit_is_refused_when_anything_it_stood_on_changed() {
    let folder = Folder::new("conflict");
    let store = SledStore::create(&folder.0, Options::default()).unwrap();
    let first = store.commit(put("user/a", "1").expect(key("user/a"), 0)).await.unwrap();
    assert_eq!(first, Revision { incarnation: 1, number: 1 });
    let again = store.commit(put("user/a", "2").expect(key("user/a"), 0)).await;
    assert_eq!(again, Err(CommitError::Conflict { key: key("user/a") }));
    let absent = Commit { expect: vec![(key("user/a"), Expect::Absent)], ..put("user/b", "") };
    assert!(matches!(store.commit(absent).await, Err(CommitError::Conflict { .. })));
    assert_eq!(store.get(&key("user/b")).await.unwrap(), None, "a refused commit leaves nothing");
    store.commit(put("user/a", "2").expect(key("user/a"), 1)).await.unwrap();
    assert_eq!(store.get(&key("user/a")).await.unwrap(), Some(Item { revision: 2, value: "2".into() }));
    store.commit(Commit::default().delete(key("user/a")).expect(key("user/a"), 2)).await.unwrap();
    let stale = store.commit(put("user/a", "3").expect(key("user/a"), 2)).await;
    assert_eq!(stale, Err(CommitError::Conflict { key: key("user/a") }));
    assert_eq!(store.revision().number, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_commits_that_race_on_one_key_exactly_one_wins() {
    let folder = Folder::new("race");
    let store = Arc::new(SledStore::create(&folder.0, Options::default()).unwrap());
    for round in 0..20_u64 {
        let before = store.get(&key("user/a")).await.unwrap().map_or(0, |item| item.revision);
        let racers: Vec<_> = (0..16)
            .map(|n| {
                let store = Arc::clone(&store);
                let commit = put("user/a", format!("{round} {n}")).expect(key("user/a"), before);
                tokio::spawn(async move { store.commit(commit).await })
            })
            .collect();
        let mut won = 0;
        for racer in racers {
            won += u32::from(racer.await.unwrap().is_ok());
        }
        assert_eq!(won, 1, "round {round}");
    }
    assert_eq!(store.verify_audit().await.unwrap().last, 20, "only what happened is on the trail");
}

#[tokio::test]
async fn the_head_key_tells_of_every_change_of_a_set() {
    let folder = Folder::new("head");
    let store = SledStore::create(&folder.0, Options::default()).unwrap();
    assert_eq!(store.head("policy").await.unwrap(), 0);
    store.commit(put("policy/permit", "a")).await.unwrap();
    store.commit(put("policyx/other", "a")).await.unwrap();
    let mut seen = store.scan("policy").await.unwrap();
    assert_eq!(seen.items.len(), 1);
    let changes =
        [put("policy/forbid", "b"), put("policy/forbid", "c"), Commit::default().delete(key("policy/forbid"))];
    for change in changes {
        store.commit(change).await.unwrap();
        let decided = put("grant/g", "x").expect(seen.head.clone(), seen.head_revision);
        assert_eq!(store.commit(decided).await, Err(CommitError::Conflict { key: key("policy") }));
        seen = store.scan("policy/").await.unwrap();
    }
    store.commit(put("user/u", "a")).await.unwrap();
    store.commit(Commit::default().delete(key("policy/none"))).await.unwrap();
    store.commit(put("grant/g", "x").expect(seen.head, seen.head_revision)).await.unwrap();
    assert!(matches!(store.commit(put("policy", "x")).await, Err(CommitError::Invalid(_))));
}

#[tokio::test]
async fn a_store_that_is_opened_again_shows_everything() {
    let folder = Folder::new("reopen");
    let big: Vec<u8> = (0..1_000_000).map(|i| (i % 251) as u8).collect();
    let store = SledStore::create(&folder.0, Options::default()).unwrap();
    for n in 0..200 {
        store.commit(put(&format!("user/{n}"), format!("value {n}"))).await.unwrap();
    }
    store.commit(put("policy/big", big.clone())).await.unwrap();
    store.commit(Commit::default().delete(key("user/7")).audit(entry("user/7"))).await.unwrap();
    let revision = store.revision();
    drop(store);

    assert!(matches!(SledStore::create(&folder.0, Options::default()), Err(OpenError::Exists(_))));
    let store = SledStore::open(&folder.0, Options::default()).unwrap();
    assert_eq!(store.revision(), revision);
    assert_eq!(store.scan("user").await.unwrap().items.len(), 199);
    assert_eq!(store.get(&key("policy/big")).await.unwrap().unwrap().value, big);
    assert_eq!(store.verify_audit().await.unwrap().last, 202);
    let mut watcher = store.watch(Revision { incarnation: 1, number: 200 });
    assert_eq!(watcher.next().await.unwrap().puts, [(key("policy/big"), Bytes::from(big))]);
    assert_eq!(watcher.next().await.unwrap().deletes, [key("user/7")]);
    assert_eq!(watcher.poll(), Ok(None));
    assert_eq!(store.commit(put("user/x", "")).await.unwrap().number, 203);
}

#[tokio::test]
async fn large_values_make_no_blob_files() {
    let folder = Folder::new("blobs");
    let store = SledStore::create(&folder.0, Options::default()).unwrap();
    for n in 0..6_u8 {
        let commit = (0..3).fold(Commit::default(), |c, k| c.put(key(&format!("policy/{k}")), vec![n; 1 << 20]));
        store.commit(commit).await.unwrap();
        assert_eq!(fs::read_dir(folder.0.join("sled/blobs")).unwrap().count(), 0);
    }
    let many =
        (0..3_000).fold(Commit::default(), |c, n| c.put(key(&format!("user/{n}{}", "k".repeat(100))), vec![1; 600]));
    store.commit(many).await.unwrap();
    drop(store);
    let store = SledStore::open(&folder.0, Options::default()).unwrap();
    assert_eq!(store.scan("user").await.unwrap().items.len(), 3_000);
    assert_eq!(fs::read_dir(folder.0.join("sled/blobs")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_second_opener_is_told_that_the_store_is_in_use() {
    let folder = Folder::new("lock");
    assert!(matches!(SledStore::open(&folder.0, Options::default()), Err(OpenError::Missing(_))));
    let store = SledStore::create(&folder.0, Options::default()).unwrap();
    assert!(matches!(SledStore::open(&folder.0, Options::default()), Err(OpenError::Locked(_))));
    store.commit(put("user/a", "")).await.unwrap();
}

/// One that finds it locked shows what sled's threads still hold; hence the crowd and the many rounds.
#[test]
fn a_store_that_was_dropped_can_be_opened_at_once() {
    let rounds = |name: usize| {
        for n in 0..25 {
            let folder = Folder::new(&format!("drop-{name}-{n}"));
            drop(SledStore::create(&folder.0, Options::default()).unwrap());
            SledStore::open(&folder.0, Options::default()).unwrap();
        }
    };
    std::thread::scope(|scope| (0..8).for_each(|n| drop(scope.spawn(move || rounds(n)))));
}

#[tokio::test]
async fn a_watcher_sees_each_change_once_in_order_and_a_slow_one_is_told() {
    let folder = Folder::new("watch");
    let options = Options { log_max: 10, ..Options::default() };
    let store = Arc::new(SledStore::create(&folder.0, options.clone()).unwrap());
    let (mut prompt, mut slow) = (store.watch(store.revision()), store.watch(store.revision()));
    for n in 0..30_u64 {
        let waiting = tokio::spawn(async move { (prompt.next().await, prompt) });
        store.commit(put("user/a", n.to_string())).await.unwrap();
        let (change, back) = waiting.await.unwrap();
        prompt = back;
        assert_eq!(change.unwrap().puts, [(key("user/a"), Bytes::from(n.to_string()))]);
    }
    assert!(matches!(slow.next().await, Err(WatchError::Lagged(_))));
    assert_eq!(store.shared.read().log.len(), 10);
    let scan = store.scan("user").await.unwrap();
    assert_eq!(store.watch(scan.revision).poll(), Ok(None));
    let ahead = Revision { number: 99, ..scan.revision };
    let other_life = Revision { incarnation: 0, number: 29 };
    for strange in [ahead, other_life] {
        assert!(matches!(store.watch(strange).poll(), Err(WatchError::Lagged(_))), "{strange}");
    }
    assert!(store.watch(Revision { number: 20, ..scan.revision }).poll().is_ok());
    assert!(store.watch(Revision { number: 19, ..scan.revision }).poll().is_err());
    drop(store);
    assert_eq!(prompt.next().await, Err(WatchError::Closed));
    let store = SledStore::open(&folder.0, options).unwrap();
    assert_eq!(store.shared.read().log.len(), 10, "the list is trimmed on the disk, too");
}

#[tokio::test]
async fn full_bounds_refuse_and_leave_the_store_usable() {
    let folder = Folder::new("full");
    let options = Options { items_max: 11, bytes_max: 1_000, log_bytes_max: 2_000, ..Options::default() };
    let store = SledStore::create(&folder.0, options.clone()).unwrap();
    for n in 0..10 {
        store.commit(put(&format!("user/{n}"), vec![0; 90])).await.unwrap();
    }
    let full = |result, part: &str| match result {
        Err(CommitError::Full { what, .. }) => assert!(what.contains(part), "{what}"),
        other => panic!("{other:?}"),
    };
    full(store.commit(put("user/x", "")).await, "keys");
    full(store.commit(put("user/1", vec![0; 191])).await, "bytes");
    store.commit(put("user/1", vec![0; 190])).await.unwrap();
    store.commit(put("user/1", "").expect(key("user/1"), 11)).await.unwrap();
    store.commit(put("user/x", "").delete_key("user/2")).await.unwrap();
    assert!(store.shared.read().log_bytes <= 2_000);
    drop(store);
    let store = SledStore::open(&folder.0, options).unwrap();
    assert_eq!(store.verify_audit().await.unwrap().last, 13);

    let too_many = (0..9_000).fold(Commit::default(), |c, n| c.put(key(&format!("user/{n}")), ""));
    let twice = put("user/1", "").put(key("user/1"), "");
    for bad in [too_many, twice, put("user/1", vec![0; 9 << 20])] {
        assert!(matches!(store.commit(bad).await, Err(CommitError::Invalid(_))));
    }
}

#[tokio::test]
async fn a_commit_is_taken_up_to_its_bounds_and_one_more_is_refused_whole() {
    let folder = Folder::new("commit-bounds");
    let store = SledStore::create(&folder.0, Options::default()).unwrap();
    let invalid = |made: Result<Revision, CommitError>, part: &str| match made {
        Err(CommitError::Invalid(why)) => assert!(why.contains(part), "{why}"),
        other => panic!("{other:?}"),
    };
    let keys = |count: usize| (0..count).fold(Commit::default(), |c, n| c.put(key(&format!("user/{n}")), ""));
    invalid(store.commit(keys(COMMIT_KEYS_MAX + 1)).await, "keys");
    assert!(store.shared.read().items.is_empty(), "nothing of it is there");
    store.commit(keys(COMMIT_KEYS_MAX)).await.unwrap();
    let name = "policy/a";
    let bytes = |total: usize| Commit::default().put(key(name), vec![b'x'; total - name.len()]);
    invalid(store.commit(bytes(COMMIT_BYTES_MAX + 1)).await, "bytes");
    store.commit(bytes(COMMIT_BYTES_MAX)).await.unwrap();
    let audited = |count: usize| (0..count).fold(Commit::default(), |c, _| c.audit(entry("user/1")));
    invalid(store.commit(audited(COMMIT_AUDIT_MAX + 1)).await, "audit");
    store.commit(audited(COMMIT_AUDIT_MAX)).await.unwrap();
    store.commit(put("user/1", "again")).await.unwrap();
    assert_eq!(store.verify_audit().await.unwrap().last, COMMIT_AUDIT_MAX as u64 + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_commits_than_the_queue_has_places_wait_and_are_all_made() {
    let folder = Folder::new("queue");
    let store = Arc::new(SledStore::create(&folder.0, Options::default()).unwrap());
    assert_eq!(store.requests.as_ref().unwrap().max_capacity(), COMMIT_QUEUE_MAX);
    let count = COMMIT_QUEUE_MAX + COMMIT_QUEUE_MAX / 2;
    let commits: Vec<_> = (0..count)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.commit(put(&format!("user/{n}"), "")).await })
        })
        .collect();
    for commit in commits {
        commit.await.unwrap().unwrap();
    }
    assert_eq!(store.revision().number, count as u64);
}

#[tokio::test]
async fn a_file_of_audit_records_ends_before_it_has_too_many_bytes() {
    let folder = Folder::new("segment-bytes");
    let options = Options { segment_records: 8, segment_bytes: 2_048, segments_max: 100, ..Options::default() };
    let store = SledStore::create(&folder.0, options.clone()).unwrap();
    for n in 0..40 {
        store.commit(put(&format!("user/{}{n}", "x".repeat(100)), "")).await.unwrap();
    }
    settled(&store, &options).await;
    let files = store.segments.list().unwrap();
    assert!(files.len() > 2 && files.iter().all(|file| fs::metadata(&file.path).unwrap().len() <= 2_048));
    assert!(files.iter().all(|file| file.last - file.first + 1 < 8), "bytes, not records, ended them");
    assert_eq!(store.verify_audit().await.unwrap().last, 40);
}

impl Commit {
    fn delete_key(self, name: &str) -> Self {
        self.delete(key(name))
    }
}

#[tokio::test]
async fn the_trail_lists_newest_first_and_filters() {
    let folder = Folder::new("trail");
    let store = SledStore::create(&folder.0, Options::default()).unwrap();
    for n in 0..30 {
        store.commit(put(&format!("user/{n}"), "")).await.unwrap();
    }
    let seqs = |records: Vec<audit::Record>| records.iter().map(|r| r.seq).collect::<Vec<_>>();
    assert_eq!(seqs(store.audit(Query { limit: 3, ..Query::default() }).await.unwrap()), [30, 29, 28]);
    let page = Query { limit: 2, before: Some(28), ..Query::default() };
    assert_eq!(seqs(store.audit(page).await.unwrap()), [27, 26]);
    let one = Query { object: Some("user/17".into()), ..Query::default() };
    assert_eq!(seqs(store.audit(one).await.unwrap()), [18]);
}

#[tokio::test]
async fn an_altered_or_missing_record_of_the_trail_is_named() {
    let folder = Folder::new("tamper");
    let store = SledStore::create(&folder.0, Options::default()).unwrap();
    for n in 0..9 {
        store.commit(put(&format!("user/{n}"), "")).await.unwrap();
    }
    let place = layout::disk_key(AUDIT, &number_name(5), 0);
    let mut stored = store.handle.db().unwrap().remove(&place).unwrap().unwrap().to_vec();
    let broken = |result| match result {
        Err(audit::VerifyError::Broken { seq, .. }) => seq,
        other => panic!("{other:?}"),
    };
    assert_eq!(broken(store.verify_audit().await), 5);
    *stored.last_mut().unwrap() ^= 1;
    store.handle.db().unwrap().insert(&place, stored).unwrap();
    assert_eq!(broken(store.verify_audit().await), 5);
}

#[tokio::test]
async fn records_that_a_reading_saw_are_expected() {
    use super::super::{Reading, Record};
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct User {
        name: String,
        enabled: bool,
    }
    impl Record for User {
        const KIND: &'static str = "user";
        type Id = str;
    }
    let user = |enabled| User { name: "ä\n".into(), enabled };
    let folder = Folder::new("record");
    let store = SledStore::create(&folder.0, Options::default()).unwrap();
    store.commit(Commit::default().put_record("a", &user(true)).unwrap()).await.unwrap();

    let mut reading = Reading::new(&store);
    assert_eq!(reading.get::<User>("a").await.unwrap().unwrap().record, user(true));
    assert!(reading.get::<User>("b").await.unwrap().is_none());
    let decided = reading.commit().put(key("grant/1"), "");
    store.commit(Commit::default().put_record("a", &user(false)).unwrap()).await.unwrap();
    assert_eq!(store.commit(decided).await, Err(CommitError::Conflict { key: key("user/a") }));

    let mut reading = Reading::new(&store);
    assert_eq!(reading.list::<User>().await.unwrap().len(), 1);
    let decided = reading.commit().put(key("grant/1"), "");
    store.commit(Commit::default().put_record("b", &user(true)).unwrap()).await.unwrap();
    assert_eq!(store.commit(decided).await, Err(CommitError::Conflict { key: key("user") }));

    store.commit(put("user/c", "not json")).await.unwrap();
    assert!(matches!(Reading::new(&store).get::<User>("c").await, Err(ReadError::Decode { .. })));
    assert!(matches!(Reading::new(&store).get::<User>("\n").await, Err(ReadError::Key(_))));
}

#[tokio::test]
async fn a_database_older_than_the_note_beside_it_is_refused() {
    let folder = Folder::new("older");
    let store = SledStore::create(&folder.0, Options::default()).unwrap();
    store.commit(put("user/a", "")).await.unwrap();
    drop(store);
    let note = folder.0.join("head");
    assert_eq!(fs::read_to_string(&note).unwrap().len(), NOTE_LEN);
    fs::write(&note, note_text(Revision { incarnation: 1, number: 2 })).unwrap();
    let refused = SledStore::open(&folder.0, Options::default());
    assert!(matches!(refused, Err(OpenError::Damaged { .. })));
    for torn in ["", "garbage", "00000000000000000001 00000000000000000009 0000000000000000\n"] {
        fs::write(&note, torn).unwrap();
        let store = SledStore::open(&folder.0, Options::default()).unwrap();
        assert_eq!(store.revision().number, 1);
    }
}

#[tokio::test]
async fn waiting_commits_are_made_when_the_store_is_dropped() {
    let folder = Folder::new("drain");
    let store = SledStore::create(&folder.0, Options::default()).unwrap();
    for n in 0..100 {
        // Polled once: handed to the writer, answer not awaited.
        let commit = store.commit(put(&format!("user/{n}"), ""));
        let _ = tokio::time::timeout(Duration::ZERO, commit).await;
    }
    drop(store);
    let store = SledStore::open(&folder.0, Options::default()).unwrap();
    assert_eq!(store.scan("user").await.unwrap().items.len(), 100);
}

/// Small files: 4 records each, at most 3 of them.
fn small() -> Options {
    Options { segment_records: 4, segments_max: 3, ..Options::default() }
}

/// Waits until the archivist has no more to do.
async fn settled(store: &SledStore, options: &Options) {
    let more = || {
        let chain = store.shared.read().meta.audit;
        let files = store.segments.list().unwrap();
        chain.seq + 1 - chain.first >= 2 * options.segment_records
            || files.last().is_some_and(|file| file.last >= chain.first)
            || files.len() > options.segments_max
    };
    while more() {
        tokio::task::yield_now().await;
    }
}

/// One that takes its steps when it is told to.
fn archivist(store: &SledStore) -> Archivist {
    Archivist {
        handle: store.handle.clone(),
        shared: Arc::clone(&store.shared),
        segments: store.segments.clone(),
        path: store.path.clone(),
        options: small(),
        requests: store.requests.clone().unwrap(),
        stop: Arc::clone(&store.stop),
    }
}

fn ranges(store: &SledStore) -> Vec<(u64, u64)> {
    store.segments.list().unwrap().iter().map(|file| (file.first, file.last)).collect()
}

#[tokio::test]
async fn old_records_leave_for_files_and_are_listed_and_verified_as_before() {
    let folder = Folder::new("segments");
    let options = Options { segments_max: 100, ..small() };
    let store = SledStore::create(&folder.0, options.clone()).unwrap();
    for n in 0..30 {
        store.commit(put(&format!("user/{n}"), "")).await.unwrap();
    }
    settled(&store, &options).await;
    assert_eq!(ranges(&store), [(1, 4), (5, 8), (9, 12), (13, 16), (17, 20), (21, 24)]);
    assert_eq!(store.shared.read().meta.audit.first, 25);
    assert_eq!(store.revision().number, 30, "leaving is no change");
    for file in store.segments.list().unwrap() {
        assert_eq!(fs::metadata(&file.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(file.path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    }
    let seqs = |records: Vec<audit::Record>| records.iter().map(|r| r.seq).collect::<Vec<_>>();
    let all: Vec<u64> = (1..=30).rev().collect();
    let one = Query { object: Some("user/2".into()), before: Some(20), ..Query::default() };
    let page = Query { limit: 5, before: Some(27), ..Query::default() };
    drop(store);
    let store = SledStore::open(&folder.0, options).unwrap();
    assert_eq!(seqs(store.audit(Query::default()).await.unwrap()), all);
    assert_eq!(seqs(store.audit(one).await.unwrap()), [3]);
    assert_eq!(seqs(store.audit(page).await.unwrap()), [26, 25, 24, 23, 22]);
    let stored = store.audit_stored(7, 20).await.unwrap();
    assert_eq!(stored.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), (7..27).collect::<Vec<_>>());
    assert!(stored.iter().all(|(seq, stored)| audit::decode(stored).unwrap().seq == *seq));
    let verified = store.verify_audit().await.unwrap();
    assert_eq!((verified.first, verified.last), (1, 30));
}

#[tokio::test]
async fn files_beyond_their_bound_go_with_a_record_that_says_so() {
    let folder = Folder::new("bounded");
    let store = SledStore::create(&folder.0, small()).unwrap();
    for n in 0..40 {
        store.commit(put(&format!("user/{n}"), "")).await.unwrap();
        settled(&store, &small()).await;
        let files = ranges(&store);
        assert!(files.len() <= 3 && files.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "{files:?}");
        store.verify_audit().await.unwrap();
    }
    let drops = Query { action: Some("audit.drop".into()), ..Query::default() };
    let drops = store.audit(drops).await.unwrap();
    let verified = store.verify_audit().await.unwrap();
    assert_eq!(verified.first, drops[0].detail["last"].as_u64().unwrap() + 1);
    assert!(verified.first > 8 && drops[0].detail["hash"].as_str().unwrap().len() == 64);
    // One more that went without a word is named.
    let oldest = store.segments.list().unwrap().remove(0);
    store.segments.remove(&oldest).unwrap();
    let without = store.verify_audit().await;
    assert_eq!(without, Err(audit::VerifyError::Beginning { first: oldest.last + 1 }));
}

#[tokio::test]
async fn wherever_it_is_killed_a_record_is_in_the_store_or_in_a_file() {
    let folder = Folder::new("steps");
    // Nothing leaves by itself: each state that a kill can leave is made by hand.
    let still = Options { segment_records: 1_000, ..Options::default() };
    let store = SledStore::create(&folder.0, still.clone()).unwrap();
    for n in 0..20 {
        store.commit(put(&format!("user/{n}"), "")).await.unwrap();
    }
    let lines = |store: Vec<StoredAudit>| -> Vec<u8> {
        store.iter().flat_map(|(_, stored)| [audit::line_of(stored).unwrap(), b"\n"].concat()).collect()
    };
    let whole = |files: &[(u64, u64)]| {
        let (files, path) = (files.to_vec(), folder.0.clone());
        async move {
            let store = SledStore::open(&path, small()).unwrap();
            settled(&store, &small()).await;
            assert!(files.iter().all(|file| ranges(&store).contains(file)), "{:?}", ranges(&store));
            let verified = store.verify_audit().await.unwrap();
            assert_eq!(store.audit_stored(1, 1_000).await.unwrap().len() as u64, verified.last + 1 - verified.first);
            (store.shared.read().meta.audit.first, verified)
        }
    };
    // Killed while the file was written: it has no name yet.
    let (stored, segments) = (store.audit_stored(1, 6).await.unwrap(), store.segments.clone());
    drop(store);
    fs::create_dir(folder.0.join("audit")).unwrap();
    fs::write(folder.0.join("audit/.000000000001-000000000006.jsonl.tmp"), "half").unwrap();
    let store = SledStore::open(&folder.0, still.clone()).unwrap();
    assert_eq!(store.verify_audit().await.unwrap().last, 20);
    drop(store);
    // Killed after the file was whole, before the store let go of anything: both have them.
    segments.write(1, 6, &lines(stored)).unwrap();
    let (first, verified) = whole(&[(1, 6)]).await;
    assert!(first > 6 && verified.first == 1 && verified.last == 20, "{first} {verified:?}");
    // A file that says something else than the store: neither is removed, and it is told.
    let store = SledStore::open(&folder.0, still.clone()).unwrap();
    let (next, chain) = (store.shared.read().meta.audit.first, store.shared.read().meta.audit);
    let mut other = lines(store.audit_stored(next, 2).await.unwrap());
    other.truncate(other.len() - 3);
    drop(store);
    let lying = segments.write(next, next + 1, &other).unwrap();
    let store = SledStore::open(&folder.0, small()).unwrap();
    let refused = archivist(&store).step().unwrap_err();
    assert!(refused.contains("differ in record"), "{refused}");
    assert!(matches!(store.verify_audit().await, Ok(found) if found.last == 20), "the store still has them");
    assert_eq!(store.shared.read().meta.audit, chain, "and keeps them");
    drop(store);
    segments.remove(&lying).unwrap();
    // An older copy of the store beside newer files is no store.
    segments.write(next, 21, b"{}").unwrap();
    let older = SledStore::open(&folder.0, small());
    assert!(matches!(&older, Err(OpenError::Damaged { cause, .. }) if cause.contains("older copy")));
}

#[tokio::test]
async fn records_that_cannot_leave_stay_and_then_refuse_what_is_new() {
    let folder = Folder::new("stuck");
    let options = Options { audit_max: 16, ..small() };
    let store = SledStore::create(&folder.0, options.clone()).unwrap();
    // A folder that everybody can write to is not used.
    let open = fs::Permissions::from_mode(0o777);
    fs::create_dir(folder.0.join("audit")).unwrap();
    fs::set_permissions(folder.0.join("audit"), open).unwrap();
    let mut made = 0;
    let refused = loop {
        match store.commit(put(&format!("user/{made}"), "")).await {
            Ok(_) => made += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, CommitError::Full { what, max: 16 } if what.contains("audit")), "{refused:?}");
    assert_eq!(made, 16);
    // What is taken away finds a little more room.
    store.commit(Commit::default().delete(key("user/1")).audit(entry("user/1"))).await.unwrap();
    assert_eq!(store.verify_audit().await.unwrap().last, 17);
    drop(store);
    fs::remove_dir(folder.0.join("audit")).unwrap();
    let store = SledStore::open(&folder.0, options.clone()).unwrap();
    settled(&store, &options).await;
    store.commit(put("user/more", "")).await.unwrap();
    assert_eq!(store.verify_audit().await.unwrap().last, 18);
}
