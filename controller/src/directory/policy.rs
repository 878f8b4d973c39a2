//! Which policy files are in force?

use crate::store::Record;
use ::policy::{PolicySet, Problem};
use model::limits::POLICY_COMPILES_AT_ONCE_MAX;
use model::time::WallMs;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyFile {
    /// As the administrator called it.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// One revision of the policy: all files or none. The one in force has the id [`PolicyRevision::CURRENT`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRevision {
    /// Counts from 1.
    pub number: u64,
    /// Its files.
    pub files: Vec<PolicyFile>,
    /// When it was applied.
    pub applied: WallMs,
    /// By whom.
    pub applied_by: String,
}

impl PolicyRevision {
    /// The id of the revision in force.
    pub const CURRENT: &'static str = "current";
}

impl Record for PolicyRevision {
    const KIND: &'static str = "policy";
    type Id = str;
}

/// A revision that was in force once, by its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PastPolicy(pub PolicyRevision);

impl Record for PastPolicy {
    const KIND: &'static str = "policy-history";
    type Id = u64;
}

/// Compiles policy files, and remembers the last set: what an administrator's call has compiled to see whether it may be
/// applied is not compiled again when it comes into force. Clones share what they remember.
#[derive(Debug, Clone)]
pub struct Compiler {
    last: Arc<Mutex<Option<Compiled>>>,
    turns: Arc<Semaphore>,
}

impl Default for Compiler {
    fn default() -> Self {
        Self { last: Arc::default(), turns: Arc::new(Semaphore::new(POLICY_COMPILES_AT_ONCE_MAX)) }
    }
}

#[derive(Debug)]
struct Compiled {
    files: Vec<PolicyFile>,
    set: Arc<PolicySet>,
}

impl Compiler {
    /// The set that these files are, or what is wrong with them. Work, unless the last call had the same files.
    pub fn compile(&self, files: &[PolicyFile]) -> Result<Arc<PolicySet>, Vec<Problem>> {
        self.compile_while(files, &|| true)
    }

    /// The same for an administrator's call, off the threads that serve others: a bounded number at once, as long as
    /// `is_time`. None when the runtime ends.
    pub async fn compile_in_turn(
        &self,
        files: Vec<PolicyFile>,
        is_time: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Option<Result<Arc<PolicySet>, Vec<Problem>>> {
        let turn = Arc::clone(&self.turns).acquire_owned().await.ok()?;
        let compiler = self.clone();
        let work = move || {
            // Held by the work itself, and not by the caller, who may go away.
            let _turn = turn;
            compiler.compile_while(&files, &is_time)
        };
        tokio::task::spawn_blocking(work).await.ok()
    }

    fn compile_while(
        &self,
        files: &[PolicyFile],
        is_time: &(dyn Fn() -> bool + Sync),
    ) -> Result<Arc<PolicySet>, Vec<Problem>> {
        let known = |compiled: &Compiled| (compiled.files == files).then(|| Arc::clone(&compiled.set));
        if let Some(set) = self.last.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(known) {
            return Ok(set);
        }
        // Not under the lock: others may need what it holds.
        let pairs: Vec<_> = files.iter().map(|f| (f.name.as_str(), f.text.as_str())).collect();
        let set = Arc::new(::policy::compile_while(&pairs, is_time)?);
        let compiled = Compiled { files: files.to_vec(), set: Arc::clone(&set) };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(compiled);
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> [PolicyFile; 1] {
        [PolicyFile { name: "a.cedar".to_owned(), text: text.to_owned() }]
    }

    #[test]
    fn the_same_files_are_compiled_once_and_others_are_never_mistaken_for_them() {
        let compiler = Compiler::default();
        let permit = file("permit (principal, action == Action::\"connect\", resource);");
        let first = compiler.compile(&permit).unwrap();
        assert!(Arc::ptr_eq(&first, &compiler.clone().compile(&permit).unwrap()));
        assert!(compiler.compile(&file("permit (")).is_err());
        assert!(compiler.compile(&file("permit (")).is_err(), "what is wrong stays wrong");
        assert!(Arc::ptr_eq(&first, &compiler.compile(&permit).unwrap()));
        assert_eq!(compiler.compile(&[]).unwrap().rules().len(), 0);
        assert_eq!(compiler.compile(&permit).unwrap().rules().len(), 1);
    }

    #[tokio::test]
    async fn who_goes_away_while_compiling_keeps_the_turn_until_it_is_done() {
        use std::sync::mpsc;
        let compiler = Compiler::default();
        let (begun, has_begun) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let released = Mutex::new(released);
        let stuck = move || {
            let _ = begun.send(());
            let _ = released.lock().unwrap().recv();
            true
        };
        let first = tokio::spawn({
            let compiler = compiler.clone();
            async move { compiler.compile_in_turn(file("").to_vec(), stuck).await }
        });
        tokio::task::spawn_blocking(move || has_begun.recv()).await.unwrap().unwrap();
        first.abort();
        let _ = first.await;
        assert_eq!(compiler.turns.available_permits(), POLICY_COMPILES_AT_ONCE_MAX - 1);
        drop(release);
        let text = "permit (principal, action, resource);";
        let late = compiler.compile_in_turn(file(text).to_vec(), || false).await.unwrap();
        assert!(late.unwrap_err()[0].reason.contains("longer than is allowed"));
        let set = compiler.compile_in_turn(file(text).to_vec(), || true).await.unwrap().unwrap();
        assert_eq!(set.rules().len(), 1);
    }
}
