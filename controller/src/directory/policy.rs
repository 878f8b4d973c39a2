//! Which policy files are in force?

use super::sha256;
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
    /// [`digest`] of the files.
    #[serde(default)]
    pub digest: String,
    /// How many policies are in them.
    #[serde(default)]
    pub policies: u64,
    /// The older revision whose files these are, after a roll-back.
    #[serde(default)]
    pub restores: Option<u64>,
    /// What it changed, where that is known.
    #[serde(default)]
    pub changes: Option<PolicyChanges>,
}

/// What a revision of the policy changed of the one before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyChanges {
    /// The revision before; 0 for none.
    pub against: u64,
    /// How many policies were added, removed, and changed.
    pub policies: [u64; 3],
    /// The ids of the first of each.
    pub ids: [Vec<String>; 3],
    /// How many pairs of a user and a resource got more, less, and other conditions; none where they were too many.
    pub pairs: Option<[u64; 3]>,
}

impl PolicyRevision {
    /// The id of the revision in force.
    pub const CURRENT: &'static str = "current";

    /// The revision that follows this one after a restore: without files it permits nothing.
    pub fn emptied(&self) -> Self {
        let (number, files) = (self.number.saturating_add(1), Vec::new());
        let (applied_by, digest) = ("local:restore".to_owned(), digest(&files));
        Self { number, files, applied: self.applied, applied_by, digest, policies: 0, restores: None, changes: None }
    }
}

/// SHA-256 of names and texts of files, in hexadecimal. Each is preceded by its length, so that no two revisions share it.
pub fn digest(files: &[PolicyFile]) -> String {
    let mut bytes = Vec::new();
    for part in files.iter().flat_map(|file| [&file.name, &file.text]) {
        bytes.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    sha256(&bytes).iter().map(|byte| format!("{byte:02x}")).collect()
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

/// The same without its files, for lists: up to 30 MiB of text stay unread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastPolicyHead {
    /// See [`PolicyRevision`].
    pub number: u64,
    /// See [`PolicyRevision`].
    pub applied: WallMs,
    /// See [`PolicyRevision`].
    pub applied_by: String,
    /// See [`PolicyRevision`].
    #[serde(default)]
    pub digest: String,
    /// See [`PolicyRevision`].
    #[serde(default)]
    pub policies: u64,
    /// See [`PolicyRevision`].
    #[serde(default)]
    pub restores: Option<u64>,
    /// See [`PolicyRevision`].
    #[serde(default)]
    pub changes: Option<PolicyChanges>,
}

impl Record for PastPolicyHead {
    const KIND: &'static str = PastPolicy::KIND;
    type Id = u64;
}

/// Compiles policy files, and remembers the last set: what an administrator's call has compiled to see whether it may be
/// applied is not compiled again when it comes into force. Clones share what they remember.
#[derive(Debug, Clone)]
pub struct Compiler {
    last: Arc<Mutex<Option<Compiled>>>,
    turns: Arc<Semaphore>,
    surveys: Arc<Semaphore>,
}

impl Default for Compiler {
    fn default() -> Self {
        let places = || Arc::new(Semaphore::new(POLICY_COMPILES_AT_ONCE_MAX));
        Self { last: Arc::default(), turns: places(), surveys: places() }
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

    /// The same for an administrator's call, [`Self::in_turn`], as long as `is_time`.
    pub async fn compile_in_turn(
        &self,
        files: Vec<PolicyFile>,
        is_time: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Option<Result<Arc<PolicySet>, Vec<Problem>>> {
        let compiler = self.clone();
        self.in_turn(move || compiler.compile_while(&files, &is_time)).await
    }

    /// Does work on whole policies off the threads that serve others, a bounded number at once. None when the runtime ends.
    pub async fn in_turn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        one_at_a_time(&self.turns, work).await
    }

    /// The same for what changes nothing and may take long: no change waits behind it.
    pub async fn survey<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        one_at_a_time(&self.surveys, work).await
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

async fn one_at_a_time<T: Send + 'static>(
    places: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    let work = move || {
        // Held by the work itself, and not by the caller, who may go away.
        let _place = place;
        work()
    };
    tokio::task::spawn_blocking(work).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> [PolicyFile; 1] {
        [PolicyFile { name: "a.cedar".to_owned(), text: text.to_owned() }]
    }

    #[test]
    fn digests_tell_apart_what_only_looks_alike() {
        let file = |name: &str, text: &str| PolicyFile { name: name.to_owned(), text: text.to_owned() };
        let all = [
            digest(&[]),
            digest(&[file("a", "b")]),
            digest(&[file("ab", "")]),
            digest(&[file("", "ab")]),
            digest(&[file("a", ""), file("b", "")]),
            digest(&[file("b", ""), file("a", "")]),
        ];
        assert!(all.iter().all(|one| one.len() == 64 && all.iter().filter(|other| one == *other).count() == 1));
    }

    #[test]
    fn a_revision_of_an_earlier_release_is_read() {
        let text = r#"{"number":3,"files":[{"name":"a","text":"b"}],"applied":5,"applied_by":"local:root"}"#;
        let past: PastPolicy = serde_json::from_str(text).unwrap();
        assert_eq!((past.0.number, past.0.restores, past.0.changes), (3, None, None));
        let head: PastPolicyHead = serde_json::from_str(text).unwrap();
        assert_eq!((head.number, head.digest.as_str()), (3, ""));
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
