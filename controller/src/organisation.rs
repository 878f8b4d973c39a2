//! What does every part of a running controller share? Store, directory, secrets, clock.

use crate::audit::{Entry, Outcome};
use crate::authn::SharedFailures;
use crate::authority::Keyring;
use crate::authz::Caller;
use crate::ca::{Ca, CaError};
use crate::config::{StatePaths, Timing};
use crate::directory::change::{self, Draft, Refusal};
use crate::directory::{Directory, Org, Reader, SealedSecret, StartError};
use crate::flows::FlowLog;
use crate::passkey::ceremony::SharedCeremonies;
use crate::rate::{Act, SharedRates};
use crate::refused::{Reason, Refused};
use crate::runs::SharedRuns;
use crate::seal::{SealError, Sealer};
use crate::signin::SignIns;
use crate::store::{OpenError, Options, ReadError, Reading, SledStore, Store};
use host::keyfile::{self, KeyFileError};
use model::ids::NodeId;
use model::limits::SEAL_KEY_LEN;
use model::revision::Revision;
use model::secret::Secret;
use model::time::{Clock, WallMs};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An organisation whose store is open. Cheap to clone.
#[derive(Clone)]
pub struct Organisation {
    /// The durable state.
    pub store: Arc<dyn Store>,
    /// The same in memory.
    pub directory: Reader,
    /// Seals and opens secrets of the store.
    pub sealer: Arc<Sealer>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// With which keys the controller speaks for it.
    pub keyring: Arc<Keyring>,
    /// Failed log-ins.
    pub failures: SharedFailures,
    /// How often nodes change what is kept on disk.
    pub rates: SharedRates,
    /// Which runs of nodes' programs spoke.
    pub runs: SharedRuns,
    /// Sign-ins at identity providers.
    pub sign_ins: Arc<SignIns>,
    /// Which passkeys' answers are waited for.
    pub ceremonies: SharedCeremonies,
    /// Who was turned away.
    pub refused: Arc<Refused>,
    /// How long things last.
    pub timing: Timing,
    /// What became of flows.
    pub flows: Arc<FlowLog>,
    /// What signs programs' identities, once it is needed.
    pub workload_keys: Arc<tokio::sync::OnceCell<crate::workload::WorkloadKeys>>,
    /// Which of them the audit trail names already.
    pub handed: Arc<std::sync::Mutex<crate::workload::Handed>>,
}

/// Why an organisation cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is none.
    #[error("there is no organisation in {0}: make one with `umbra-controller init`, or name its folder with --state")]
    Missing(PathBuf),
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store holds no whole organisation.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The sealing key cannot be read.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// There is none.
    #[error(
        "{0} is missing, and the service manager handed no credential `seal.key`: put the key back from where it is kept"
    )]
    NoKey(PathBuf),
    /// A file and a credential that differ.
    #[error("{0} and {1} are two different sealing keys: only one opens the store; move the other away")]
    TwoKeys(PathBuf, PathBuf),
    /// A secret does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A secret is missing or of the wrong size.
    #[error("the store's secret `{0}` is missing or damaged: restore the last backup")]
    Secret(&'static str),
    /// The CA does not load.
    #[error(transparent)]
    Ca(#[from] CaError),
}

/// The folder of what the service manager hands to this program alone (systemd.exec(5), `LoadCredential=`).
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
/// The sealing key there.
const SEAL_CREDENTIAL: &str = "seal.key";

/// Reads the sealing key: from the file, or the credential of the same name, or both, if they are the same.
pub fn read_sealer(path: &Path, credentials: Option<&Path>) -> Result<Sealer, LoadError> {
    let credential = credentials.map(|folder| folder.join(SEAL_CREDENTIAL));
    let handed = match &credential {
        Some(path) => there(keyfile::read_credential(path, SEAL_KEY_LEN))?,
        None => None,
    };
    let bytes = match (handed, there(keyfile::read(path, SEAL_KEY_LEN))?) {
        (Some(handed), Some(file)) if handed.expose() != file.expose() => {
            return Err(LoadError::TwoKeys(path.to_owned(), credential.unwrap_or_default()));
        }
        (Some(bytes), _) | (None, Some(bytes)) => bytes,
        (None, None) => return Err(LoadError::NoKey(path.to_owned())),
    };
    let key: [u8; SEAL_KEY_LEN] = bytes.expose().as_slice().try_into().map_err(|_| LoadError::Secret("seal.key"))?;
    Ok(Sealer::new(&Secret::new(key))?)
}

fn there(read: Result<Secret<Vec<u8>>, KeyFileError>) -> Result<Option<Secret<Vec<u8>>>, KeyFileError> {
    match read {
        Err(error) if error.is_missing() => Ok(None),
        read => read.map(Some),
    }
}

pub(crate) async fn secret(store: &dyn Store, sealer: &Sealer, id: &'static str) -> Result<Secret<Vec<u8>>, LoadError> {
    let held = Reading::new(store).get::<SealedSecret>(id).await?.ok_or(LoadError::Secret(id))?;
    Ok(sealer.open(&SealedSecret::place(id), &held.record.sealed)?)
}

impl Organisation {
    /// Opens what `init` made.
    pub async fn open(paths: &StatePaths, options: Options, clock: Arc<dyn Clock>) -> Result<Self, LoadError> {
        if !paths.org().exists() {
            return Err(LoadError::Missing(paths.root().to_owned()));
        }
        // The store opens its files by name: nobody else may have put any there.
        for folder in [paths.root(), &paths.org(), &paths.store()] {
            keyfile::create_folder(folder)?;
        }
        let credentials = std::env::var_os(CREDENTIALS).map(PathBuf::from);
        let sealer = read_sealer(&paths.seal_key(), credentials.as_deref())?;
        let store: Arc<dyn Store> = Arc::new(SledStore::open(&paths.store(), options)?);
        let flows = Arc::new(FlowLog::new(paths.flows()));
        let directory = Reader::start(Arc::clone(&store)).await?;
        let now = directory.now();
        let org = now.org.as_ref().ok_or(StartError::NoOrganisation)?;
        let keyring = Keyring::load(store.as_ref(), &sealer, &org.record).await?;
        Ok(Self {
            store,
            directory,
            sealer: Arc::new(sealer),
            clock,
            keyring: Arc::new(keyring),
            failures: SharedFailures::default(),
            rates: SharedRates::default(),
            runs: SharedRuns::default(),
            sign_ins: Arc::default(),
            ceremonies: SharedCeremonies::default(),
            refused: Arc::default(),
            timing: Timing::default(),
            flows,
            workload_keys: Arc::default(),
            handed: Arc::default(),
        })
    }

    /// The newest facts.
    pub fn now(&self) -> Arc<Directory> {
        self.directory.now()
    }
    /// The CA in use.
    pub fn ca(&self) -> Arc<Ca> {
        Arc::clone(&self.keyring.held().used.ca)
    }
    /// The wall clock.
    pub fn wall(&self) -> WallMs {
        self.clock.wall()
    }
    /// The organisation's own record.
    pub fn org(&self) -> Result<Org, Refusal> {
        let now = self.now();
        now.org
            .as_ref()
            .map(|fact| fact.record.clone())
            .ok_or_else(|| Refusal::Failed(StartError::NoOrganisation.to_string()))
    }
    /// An audit entry for a change by this caller.
    pub fn entry(&self, caller: &Caller, action: &str, object: impl std::fmt::Display) -> Entry {
        let entry = Entry::new(self.wall(), caller.to_string(), action, object.to_string(), Outcome::Done);
        match caller {
            Caller::Person(person) => entry.with("from", person.device.to_string()),
            _ => entry,
        }
    }
    /// Takes one of the changes of this kind that a node may make within a minute.
    pub fn take_turn(&self, act: Act, node: NodeId) -> Result<(), Refusal> {
        let mut rates = self.rates.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        rates
            .take(self.clock.now(), act, node)
            .inspect_err(|_| self.refused.count(Reason::Often))
            .map_err(Refusal::often)
    }
    /// Makes a change, see [`change::change`].
    pub async fn change<T>(
        &self,
        decide: impl FnMut(&Directory, &mut Draft) -> Result<(T, Entry), Refusal> + Send,
    ) -> Result<(Revision, T), Refusal> {
        change::change(self.store.as_ref(), &self.directory, decide).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Folder;

    #[test]
    fn the_sealing_key_is_a_file_or_a_credential_and_never_two() {
        let folder = Folder::new();
        let (file, credentials) = (folder.path().join("file"), folder.path().join("credentials"));
        keyfile::create_folder(&credentials).unwrap();
        let credential = credentials.join(SEAL_CREDENTIAL);
        let read = || read_sealer(&file, Some(&credentials));
        assert!(matches!(read(), Err(LoadError::NoKey(_))));
        keyfile::create(&credential, &[7; SEAL_KEY_LEN]).unwrap();
        let sealed = read().unwrap().seal("place", b"plain").unwrap();
        assert!(matches!(read_sealer(&file, None), Err(LoadError::NoKey(_))));
        keyfile::create(&file, &[8; SEAL_KEY_LEN]).unwrap();
        let error = read().err().unwrap();
        assert!(
            matches!(error, LoadError::TwoKeys(..)) && error.to_string().contains("credentials/seal.key"),
            "{error}"
        );
        keyfile::replace(&file, &[7; SEAL_KEY_LEN]).unwrap();
        assert_eq!(read().unwrap().open("place", &sealed).unwrap().expose(), b"plain");
        keyfile::replace(&credential, b"short").unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(read(), Err(LoadError::Secret(_))));
    }
}
