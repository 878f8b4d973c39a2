//! Which policy files are in force?

use crate::store::Record;
use ::policy::{PolicySet, Problem};
use model::time::WallMs;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};

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
#[derive(Debug, Clone, Default)]
pub struct Compiler(Arc<Mutex<Option<Compiled>>>);

#[derive(Debug)]
struct Compiled {
    files: Vec<PolicyFile>,
    set: Arc<PolicySet>,
}

impl Compiler {
    /// The set that these files are, or what is wrong with them. Work, unless the last call had the same files.
    pub fn compile(&self, files: &[PolicyFile]) -> Result<Arc<PolicySet>, Vec<Problem>> {
        let known = |compiled: &Compiled| (compiled.files == files).then(|| Arc::clone(&compiled.set));
        if let Some(set) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(known) {
            return Ok(set);
        }
        // Not under the lock: others may need what it holds.
        let pairs: Vec<_> = files.iter().map(|f| (f.name.as_str(), f.text.as_str())).collect();
        let set = Arc::new(::policy::compile(&pairs)?);
        let compiled = Compiled { files: files.to_vec(), set: Arc::clone(&set) };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(compiled);
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
}
