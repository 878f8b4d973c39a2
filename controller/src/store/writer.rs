//! In which order do commits become durable, and what when the disk is full or fails?
//!
//! One thread takes all commits that wait, writes them as one batch, syncs once, and only then answers and publishes.
//!
//! - A disk that is nearly full is noticed before anything is written: such commits are refused one by one, those that
//!   make something new first, so that access can still be taken away.
//! - A failure in the middle halts the store, for a later commit must not stand on one that may be lost. What the disk
//!   holds then is not known, so it is opened anew and read; the store goes on with what is there, once that is
//!   everything that was answered as durable, with or without the commits that failed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use model::limits::{COMMIT_GROUP_BYTES_MAX, COMMIT_GROUP_MAX, STORE_ROOM_FACTOR};
use model::revision::Revision;
use tokio::sync::{mpsc, oneshot};

use super::layout::Write;
use super::plan::{Plan, size};
use super::state::{Shared, State};
use super::{Commit, CommitError, Options};

/// What the writer needs of a disk. Errors are texts for the operator.
pub(super) trait Disk: Send {
    /// Bytes that can still be written.
    fn room(&self) -> Result<u64, String>;
    /// Writes a batch: after a crash all of it is there, or nothing.
    fn apply(&mut self, writes: Vec<Write>) -> Result<(), String>;
    /// Makes everything that was applied durable.
    fn sync(&mut self) -> Result<(), String>;
    /// Remembers, cheaply, that this revision is durable.
    fn note(&mut self, revision: Revision);
    /// After a failure: lets go of everything, reads what the disk really holds, and is ready to write again.
    fn reopen(&mut self) -> Result<State, String>;
}

/// A commit that waits, and where its answer goes.
pub(super) struct Request {
    pub commit: Commit,
    /// Audit records up to this one are in files and leave the store; there is no new revision for that.
    pub archived: Option<u64>,
    pub answer: oneshot::Sender<Result<Revision, CommitError>>,
}

/// Since a failure: what it was, and when the disk was looked at last.
#[derive(Debug)]
pub(super) struct Halt {
    cause: String,
    looked: Instant,
}

/// The thread's state.
pub(super) struct Writer<D> {
    pub disk: D,
    pub shared: Arc<Shared>,
    pub options: Options,
    pub requests: mpsc::Receiver<Request>,
    pub halted: Option<Halt>,
}

impl<D: Disk> Writer<D> {
    /// Runs until the store is dropped; commits that were accepted before are still made.
    pub(super) fn run(mut self) {
        while let Some(first) = self.requests.blocking_recv() {
            let mut bytes = size(&first.commit);
            let mut group = vec![first];
            while group.len() < COMMIT_GROUP_MAX && bytes < COMMIT_GROUP_BYTES_MAX {
                let Ok(next) = self.requests.try_recv() else { break };
                bytes = bytes.saturating_add(size(&next.commit));
                group.push(next);
            }
            self.commit(group);
        }
        self.shared.close();
    }

    fn commit(&mut self, group: Vec<Request>) {
        if let Some(cause) = self.still_halted() {
            let answer = CommitError::Halted(cause);
            group.into_iter().for_each(|request| drop(request.answer.send(Err(answer.clone()))));
            return;
        }
        // Where it cannot be told, a write will show it.
        let mut room = self.disk.room().unwrap_or(u64::MAX);
        let mut accepted = Vec::with_capacity(group.len());
        let planned = {
            let state = self.shared.read();
            let mut plan = Plan::new(&state, &self.options);
            for request in group {
                let fits = self.fit(&state, &request.commit, room);
                let added = fits.and_then(|cost| match request.archived {
                    Some(to) => Ok((cost, plan.archive(to))),
                    None => plan.add(&request.commit).map(|revision| (cost, revision)),
                });
                match added {
                    Ok((cost, revision)) => {
                        room = room.saturating_sub(cost);
                        accepted.push((request.answer, revision));
                    }
                    Err(refusal) => drop(request.answer.send(Err(refusal))),
                }
            }
            plan.finish()
        };
        if accepted.is_empty() {
            return;
        }
        let durable = planned.and_then(|(writes, effect)| {
            self.write(writes).map_err(CommitError::Io)?;
            self.disk.note(effect.meta.revision());
            self.shared.publish(effect);
            Ok(())
        });
        if let Err(failure) = &durable {
            tracing::error!(error = %failure, "the store is halted");
            self.halted = Some(Halt { cause: failure.to_string(), looked: Instant::now() });
        }
        for (answer, revision) in accepted {
            // Who asked may be gone; the change stands all the same.
            let _ = answer.send(durable.clone().map(|()| revision));
        }
    }

    /// What of the disk a commit may take, if there is so much. What makes nothing new may use the last of it.
    fn fit(&self, state: &State, commit: &Commit, room: u64) -> Result<u64, CommitError> {
        let cost = STORE_ROOM_FACTOR.saturating_mul(size(commit) as u64);
        let takes_away = !commit.deletes.is_empty() || commit.puts.iter().all(|(key, _)| state.items.contains_key(key));
        let kept = if takes_away { self.options.room_last } else { self.options.room_min };
        let kept = kept.saturating_add(cost);
        if room < kept {
            return Err(CommitError::NoRoom { free_kib: room >> 10, kept_kib: kept >> 10 });
        }
        Ok(cost)
    }

    /// Why nothing can be written, after another look at the disk if the last one is long enough ago.
    fn still_halted(&mut self) -> Option<String> {
        let halt = self.halted.as_mut()?;
        if halt.looked.elapsed() < self.options.retry_every {
            return Some(halt.cause.clone());
        }
        let read = catch_unwind(AssertUnwindSafe(|| self.disk.reopen()));
        let read = read.unwrap_or_else(|_| Err("the database failed inside".to_owned()));
        let durable = self.shared.read().meta.revision();
        let found = match read {
            Ok(state) if state.meta.revision() >= durable => state,
            Ok(state) => {
                let found = state.meta.revision();
                return self.halt_on(format!("the disk holds revision {found}, but {durable} was made durable"));
            }
            Err(cause) => return self.halt_on(cause),
        };
        tracing::warn!(revision = %found.meta.revision(), %durable, "the store was read again and takes changes");
        self.disk.note(found.meta.revision());
        if found.meta.revision() > durable {
            self.shared.replace(found);
        }
        self.halted = None;
        None
    }

    fn halt_on(&mut self, cause: String) -> Option<String> {
        tracing::error!(%cause, "the store stays halted");
        self.halted = Some(Halt { cause: cause.clone(), looked: Instant::now() });
        Some(cause)
    }

    fn write(&mut self, writes: Vec<Write>) -> Result<(), String> {
        let disk = &mut self.disk;
        catch_unwind(AssertUnwindSafe(|| disk.apply(writes).and_then(|()| disk.sync())))
            .unwrap_or_else(|_| Err("the database failed inside".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Key;
    use super::super::state::{Meta, State};
    use super::*;

    /// What the disk does wrong, and in which step.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Fault {
        None,
        ApplyFails,
        ApplyPanics,
        SyncFails,
        SyncPanics,
    }

    /// What is found when it is opened again.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Found {
        Nothing,
        AsPublished,
        Older,
        WithWhatFailed,
    }

    struct Faulty {
        fault: Fault,
        good: u32,
        applied: u32,
        room: u64,
        shared: Arc<Shared>,
        found: Found,
        flushes: Arc<std::sync::atomic::AtomicUsize>,
    }
    impl Disk for Faulty {
        fn room(&self) -> Result<u64, String> {
            Ok(self.room)
        }
        fn apply(&mut self, _: Vec<Write>) -> Result<(), String> {
            self.applied += 1;
            match self.fault {
                Fault::ApplyFails if self.applied > self.good => Err("no space left".to_owned()),
                Fault::ApplyPanics if self.applied > self.good => panic!("inside"),
                _ => Ok(()),
            }
        }
        fn sync(&mut self) -> Result<(), String> {
            self.flushes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            match self.fault {
                Fault::SyncFails if self.applied > self.good => Err("input/output error".to_owned()),
                Fault::SyncPanics if self.applied > self.good => panic!("inside"),
                _ => Ok(()),
            }
        }
        fn note(&mut self, _: Revision) {}
        fn reopen(&mut self) -> Result<State, String> {
            let meta = self.shared.read().meta.clone();
            let number = match self.found {
                Found::Nothing => return Err("still full".to_owned()),
                Found::AsPublished => meta.number,
                Found::Older => meta.number - 1,
                Found::WithWhatFailed => meta.number + 1,
            };
            (self.fault, self.good) = (Fault::None, 0);
            Ok(State::new(Meta { number, log_first: number + 1, ..meta }))
        }
    }

    fn put(n: u32) -> Commit {
        Commit::default().put(Key::of("user", n).unwrap(), "x")
    }

    fn writer(fault: Fault, good: u32) -> Writer<Faulty> {
        let shared = Shared::new(State::new(Meta::new(1)));
        let found = Found::AsPublished;
        let flushes = Arc::default();
        let disk = Faulty { fault, good, applied: 0, room: u64::MAX, shared: Arc::clone(&shared), found, flushes };
        let options = Options { retry_every: Duration::from_secs(3_600), ..Options::default() };
        Writer { disk, shared, options, requests: mpsc::channel(1).1, halted: None }
    }

    fn answer(writer: &mut Writer<Faulty>, commit: Commit) -> Result<u64, CommitError> {
        let (answer, mut answered) = oneshot::channel();
        writer.commit(vec![Request { commit, archived: None, answer }]);
        answered.try_recv().unwrap().map(|revision| revision.number)
    }

    #[test]
    fn a_fault_in_any_step_halts_and_shows_nothing_that_may_be_lost() {
        for fault in [Fault::ApplyFails, Fault::ApplyPanics, Fault::SyncFails, Fault::SyncPanics] {
            let mut writer = writer(fault, 2);
            let shared = Arc::clone(&writer.shared);
            let mut watcher = shared.watch(Revision { incarnation: 1, number: 0 });
            let answers: Vec<_> = (0..5).map(|n| answer(&mut writer, put(n))).collect();
            assert!(answers[0].is_ok() && answers[1].is_ok(), "{fault:?}");
            assert!(matches!(answers[2], Err(CommitError::Io(_))), "{fault:?} {:?}", answers[2]);
            assert!(answers[3..].iter().all(|a| matches!(a, Err(CommitError::Halted(_)))), "{fault:?}");
            assert_eq!(writer.disk.applied, 3, "nothing is written after the fault");
            assert_eq!(shared.read().meta.number, 2);
            assert!(shared.read().items.contains_key("user/1") && !shared.read().items.contains_key("user/2"));
            assert!(watcher.poll().unwrap().is_some() && watcher.poll().unwrap().is_some());
            assert_eq!(watcher.poll(), Ok(None), "a watcher is not told either");
        }
    }

    #[test]
    fn a_halted_store_goes_on_only_with_a_disk_that_holds_all_that_was_answered() {
        for (found, next) in [
            (Found::Nothing, None),
            (Found::Older, None),
            (Found::AsPublished, Some(3)),
            // What failed turned out to be there: it keeps its number.
            (Found::WithWhatFailed, Some(4)),
        ] {
            let mut writer = writer(Fault::SyncFails, 2);
            writer.disk.found = found;
            for n in 0..3 {
                let _ = answer(&mut writer, put(n));
            }
            assert!(matches!(answer(&mut writer, put(3)), Err(CommitError::Halted(_))), "too soon to look again");
            writer.options.retry_every = Duration::ZERO;
            match next {
                None => assert!(matches!(answer(&mut writer, put(3)), Err(CommitError::Halted(_))), "{found:?}"),
                Some(number) => assert_eq!(answer(&mut writer, put(3)), Ok(number), "{found:?}"),
            }
        }
    }

    #[test]
    fn a_full_disk_refuses_what_is_new_first_and_is_left_alone() {
        let mut writer = writer(Fault::None, 0);
        let (min, last) = (writer.options.room_min, writer.options.room_last);
        let cost = |commit: &Commit| STORE_ROOM_FACTOR * size(commit) as u64;
        assert_eq!(answer(&mut writer, put(1)), Ok(1));
        let change = put(1);
        let end = put(3).delete(Key::of("user", 1).unwrap());
        // Below the first mark nothing new, below the second nothing at all; and it goes on when there is room.
        writer.disk.room = min + cost(&put(2)) - 1;
        assert!(matches!(answer(&mut writer, put(2)), Err(CommitError::NoRoom { .. })));
        assert_eq!(answer(&mut writer, change.clone()), Ok(2));
        writer.disk.room = last + cost(&end);
        assert_eq!(answer(&mut writer, end.clone()), Ok(3));
        writer.disk.room -= 1;
        let applied = writer.disk.applied;
        assert!(matches!(answer(&mut writer, end.clone()), Err(CommitError::NoRoom { .. })));
        assert_eq!(writer.disk.applied, applied, "nothing is written");
        writer.disk.room = min + cost(&put(2));
        assert_eq!(answer(&mut writer, put(2)), Ok(4));
        // A large one is refused where a small one still fits; a group is counted together.
        let large = Commit::default().put(Key::of("user", 9).unwrap(), vec![0; 1 << 20]);
        assert!(matches!(answer(&mut writer, large), Err(CommitError::NoRoom { .. })));
        let (one, first) = oneshot::channel();
        let (other, second) = oneshot::channel();
        writer.commit(vec![
            Request { commit: put(5), archived: None, answer: one },
            Request { commit: put(6), archived: None, answer: other },
        ]);
        let (mut first, mut second) = (first, second);
        assert!(first.try_recv().unwrap().is_ok());
        assert!(matches!(second.try_recv().unwrap(), Err(CommitError::NoRoom { .. })));
    }

    /// How many flushes these commits take that wait together, all of which are made.
    fn flushes_of(commits: Vec<Commit>) -> usize {
        let mut writer = writer(Fault::None, 0);
        let (requests, waiting) = mpsc::channel(commits.len());
        writer.requests = waiting;
        let (flushes, shared) = (Arc::clone(&writer.disk.flushes), Arc::clone(&writer.shared));
        let count = commits.len() as u64;
        for commit in commits {
            let (answer, _) = oneshot::channel();
            requests.try_send(Request { commit, archived: None, answer }).unwrap_or_else(|_| panic!("there is room"));
        }
        drop(requests);
        writer.run();
        assert_eq!(shared.read().meta.number, count);
        flushes.load(std::sync::atomic::Ordering::Relaxed)
    }

    #[test]
    fn so_many_commits_or_bytes_share_one_flush_and_no_more() {
        let max = COMMIT_GROUP_MAX as u32;
        assert_eq!(flushes_of((0..max).map(put).collect()), 1);
        assert_eq!(flushes_of((0..=max).map(put).collect()), 2);
        let large = |n: u32, bytes: usize| Commit::default().put(Key::of("user", n).unwrap(), vec![0; bytes]);
        // The one that passes the bound is the last of its group.
        let half = COMMIT_GROUP_BYTES_MAX / 2;
        assert_eq!(flushes_of(vec![large(1, half), large(2, half), large(3, 1)]), 2);
        assert_eq!(flushes_of(vec![large(1, half - 100), large(2, half - 100), large(3, 1)]), 1);
    }

    #[test]
    fn commits_of_one_group_see_each_other_and_are_judged_alone() {
        let mut writer = writer(Fault::SyncFails, 100);
        let key = || Key::of("user", 1).unwrap();
        let commits = [put(1).expect(key(), 0), put(1).expect(key(), 0), put(1).expect(key(), 1), put(2)];
        let (group, answers): (Vec<_>, Vec<_>) = commits
            .into_iter()
            .map(|commit| {
                let (answer, answered) = oneshot::channel();
                (Request { commit, archived: None, answer }, answered)
            })
            .unzip();
        writer.commit(group);
        let numbers: Vec<_> = answers.into_iter().map(|mut a| a.try_recv().unwrap().map(|r| r.number).ok()).collect();
        assert_eq!(numbers, [Some(1), None, Some(2), Some(3)]);
        assert_eq!(writer.disk.applied, 1, "one flush for all");
    }
}
