//! What is the newest state that this node ever saw? It never accepts an older one, whoever shows it (design, 3.11).

use host::slots::{Slots, SlotsError};
use model::revision::Revision;
use std::path::{Path, PathBuf};

const FILE: &str = "seen";

/// Why the newest revision cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum SeenError {
    /// The file.
    #[error(transparent)]
    File(#[from] SlotsError),
    /// It holds something else.
    #[error("{path} is damaged ({why}); move it away, and restart: the controller's next state is taken as the newest")]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// The highest (incarnation, revision) that this node ever saw.
#[derive(Debug)]
pub struct Seen {
    path: PathBuf,
    /// None before the first one.
    slots: Option<Slots>,
    floor: Revision,
}

impl Seen {
    /// Reads it from the state folder; a node that has seen nothing starts at zero.
    pub fn load(folder: &Path) -> Result<Self, SeenError> {
        let path = folder.join(FILE);
        let damaged = |why: String| SeenError::Damaged { path: path.clone(), why };
        let (slots, floor) = match Slots::open(&path) {
            Ok((slots, value)) => {
                (Some(slots), serde_json::from_slice(&value).map_err(|error| damaged(error.to_string()))?)
            }
            Err(SlotsError::File(error)) if error.is_missing() => (None, Revision::default()),
            Err(SlotsError::Damaged(_)) => return Err(damaged("neither of its two slots is whole".to_owned())),
            Err(error) => return Err(error.into()),
        };
        Ok(Self { path, slots, floor })
    }

    /// What was seen.
    pub const fn floor(&self) -> Revision {
        self.floor
    }

    /// Accepts a revision that is not lower, and keeps it on disk; `false` means that it is to be refused.
    pub fn accept(&mut self, revision: Revision) -> Result<bool, SeenError> {
        if revision < self.floor {
            return Ok(false);
        }
        if revision > self.floor {
            let text = serde_json::to_vec(&revision)
                .map_err(|error| SeenError::Damaged { path: self.path.clone(), why: error.to_string() })?;
            match &mut self.slots {
                Some(slots) => slots.write(&text)?,
                None => self.slots = Some(Slots::create(&self.path, &text)?),
            }
            self.floor = revision;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_state_is_refused_now_and_after_a_restart() {
        let folder = std::env::temp_dir().join(format!("umbra-seen-{}", std::process::id()));
        host::keyfile::create_folder(&folder).unwrap();
        let at = |incarnation, number| Revision { incarnation, number };
        let mut seen = Seen::load(&folder).unwrap();
        assert_eq!(seen.floor(), Revision::default());
        for revision in [at(1, 5), at(1, 5), at(1, 9), at(2, 1)] {
            assert!(seen.accept(revision).unwrap());
        }
        assert!(!seen.accept(at(1, 10)).unwrap());
        let mut again = Seen::load(&folder).unwrap();
        assert_eq!(again.floor(), at(2, 1));
        assert!(!again.accept(at(2, 0)).unwrap() && again.accept(at(2, 2)).unwrap());
        std::fs::write(folder.join(FILE), "{}").unwrap();
        assert!(Seen::load(&folder).unwrap_err().to_string().contains("move it away"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
