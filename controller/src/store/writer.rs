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
