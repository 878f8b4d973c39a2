//! In which order do commits become durable? One thread takes all commits that wait, writes them as one batch, syncs
//! once, and only then answers and publishes. A failure of the disk halts it: a later commit must not stand on one that
//! may be lost.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use model::limits::{COMMIT_GROUP_BYTES_MAX, COMMIT_GROUP_MAX};
use model::revision::Revision;
use tokio::sync::{mpsc, oneshot};

use super::layout::Write;
use super::plan::{Plan, size};
use super::state::Shared;
use super::{Commit, CommitError, Options};

/// What the writer needs of a disk. Errors are texts for the operator.
pub(super) trait Disk: Send {
    /// Writes a batch: after a crash all of it is there, or nothing.
    fn apply(&mut self, writes: Vec<Write>) -> Result<(), String>;
    /// Makes everything that was applied durable.
    fn sync(&mut self) -> Result<(), String>;
    /// Remembers, cheaply, that this revision is durable.
    fn note(&mut self, revision: Revision);
}

/// A commit that waits, and where its answer goes.
pub(super) struct Request {
    pub commit: Commit,
    pub answer: oneshot::Sender<Result<Revision, CommitError>>,
}

/// The thread's state.
pub(super) struct Writer<D> {
    pub disk: D,
    pub shared: Arc<Shared>,
    pub options: Options,
    pub requests: mpsc::Receiver<Request>,
    pub halted: Option<String>,
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
        if let Some(cause) = &self.halted {
            let answer = CommitError::Halted(cause.clone());
            group.into_iter().for_each(|request| drop(request.answer.send(Err(answer.clone()))));
            return;
        }
        let mut accepted = Vec::with_capacity(group.len());
        let planned = {
            let state = self.shared.read();
            let mut plan = Plan::new(&state, &self.options);
            for request in group {
                match plan.add(&request.commit) {
                    Ok(revision) => accepted.push((request.answer, revision)),
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
            self.halted = Some(failure.to_string());
        }
        for (answer, revision) in accepted {
            // Who asked may be gone; the change stands all the same.
            let _ = answer.send(durable.clone().map(|()| revision));
        }
    }

    fn write(&mut self, writes: Vec<Write>) -> Result<(), String> {
        let disk = &mut self.disk;
        catch_unwind(AssertUnwindSafe(|| disk.apply(writes).and_then(|()| disk.sync())))
            .unwrap_or_else(|_| Err("the database failed inside".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Key;
    use super::super::state::{Meta, State};
    use super::*;

    /// What the disk does wrong, and in which step.
    #[derive(Debug, Clone, Copy)]
    enum Fault {
        ApplyFails,
        ApplyPanics,
        SyncFails,
        SyncPanics,
    }

    struct Faulty {
        fault: Fault,
        good: u32,
        applied: u32,
    }
    impl Disk for Faulty {
        fn apply(&mut self, _: Vec<Write>) -> Result<(), String> {
            self.applied += 1;
            match self.fault {
                Fault::ApplyFails if self.applied > self.good => Err("no space left".to_owned()),
                Fault::ApplyPanics if self.applied > self.good => panic!("inside"),
                _ => Ok(()),
            }
        }
        fn sync(&mut self) -> Result<(), String> {
            match self.fault {
                Fault::SyncFails if self.applied > self.good => Err("input/output error".to_owned()),
                Fault::SyncPanics if self.applied > self.good => panic!("inside"),
                _ => Ok(()),
            }
        }
        fn note(&mut self, _: Revision) {}
    }

    fn put(n: u32) -> Commit {
        Commit::default().put(Key::of("user", n).unwrap(), "x")
    }

    #[test]
    fn a_fault_in_any_step_halts_and_shows_nothing_that_may_be_lost() {
        for fault in [Fault::ApplyFails, Fault::ApplyPanics, Fault::SyncFails, Fault::SyncPanics] {
            let shared = Shared::new(State::new(Meta::new(1)));
            let mut watcher = shared.watch(Revision { incarnation: 1, number: 0 });
            let (sender, requests) = mpsc::channel(8);
            let disk = Faulty { fault, good: 2, applied: 0 };
            let mut writer =
                Writer { disk, shared: Arc::clone(&shared), options: Options::default(), requests, halted: None };
            let mut answers = Vec::new();
            for n in 0..5 {
                let (answer, mut answered) = oneshot::channel();
                writer.commit(vec![Request { commit: put(n), answer }]);
                answers.push(answered.try_recv().unwrap());
            }
            drop(sender);
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
    fn commits_of_one_group_see_each_other_and_are_judged_alone() {
        let shared = Shared::new(State::new(Meta::new(1)));
        let (_sender, requests) = mpsc::channel(8);
        let disk = Faulty { fault: Fault::SyncFails, good: 100, applied: 0 };
        let mut writer = Writer { disk, shared, options: Options::default(), requests, halted: None };
        let key = || Key::of("user", 1).unwrap();
        let commits = [put(1).expect(key(), 0), put(1).expect(key(), 0), put(1).expect(key(), 1), put(2)];
        let (group, answers): (Vec<_>, Vec<_>) = commits
            .into_iter()
            .map(|commit| {
                let (answer, answered) = oneshot::channel();
                (Request { commit, answer }, answered)
            })
            .unzip();
        writer.commit(group);
        let numbers: Vec<_> = answers.into_iter().map(|mut a| a.try_recv().unwrap().map(|r| r.number).ok()).collect();
        assert_eq!(numbers, [Some(1), None, Some(2), Some(3)]);
        assert_eq!(writer.disk.applied, 1, "one flush for all");
    }
}
